//! Everybody comes back at once: after a cut, all clients connect and log in again in the same second.

use std::time::Duration;

use super::{TENANTS, apps, one_route};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::run::{RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "thundering-reconnect",
    summary: "800 clients come back within a second, on new connections, and try again when they wait too long. \
              The upstream does 400 requests a second.",
    rule: "Protected, those who were there all along are answered well at least 95 % of the time from the herd's arrival \
           on, and at least 90 % of the herd gets in before the end. Unprotected, fewer of those who were there are.",
    seconds: 12.0,
    fault: Window { from: 2.0, to: 3.0 },
    fault_name: "the herd",
    about: About::Exchanges,
    victims: "regulars",
    side,
    has_baseline: false,
    judge,
};

/// Clients that come back.
const HERD: f64 = 800.0;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(20));
    let apps = apps(setting, 1, &Behaviour { slots: 8, service, ..Behaviour::default() })?;
    let gate = match kind {
        Kind::Off => "",
        Kind::On | Kind::Baseline => "concurrency = 8\nwaiting = { limit = 200, wait = \"500ms\" }\n",
    };
    let config = format!("{TENANTS}{}", one_route(&apps, gate, ""));
    let herd = DRILL.fault.at(setting.scale);
    let rate = HERD * setting.scale / (herd.end - herd.start);
    let patience = Duration::from_secs(1);
    let back = Source {
        rates: vec![(herd.start, rate), (herd.end, 0.0)],
        timeout: patience,
        tries: 20,
        pause: Duration::from_millis(500),
        heeds: true,
        fresh: true,
        ..Source::steady("herd", 0.0).of("herd")
    };
    let regulars = Source { timeout: patience, ..Source::steady("regulars", 100.0).of("regulars") };
    Ok(DRILL.undisturbed(setting, apps, config, vec![regulars, back]))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    /// A run's last requests may still be under way.
    const TAIL: f64 = 1.0;
    let from = DRILL.fault.at(setting.scale).start;
    let span = from..DRILL.seconds * setting.scale - TAIL;
    let (off, on) = (&runs.off.driven, &runs.on.driven);
    let (lost, held) = (off.success("regulars", span.clone()), on.success("regulars", span.clone()));
    let (late, inside) = (off.success("herd", span.clone()), on.success("herd", span.clone()));
    Judged {
        passed: held >= 0.95 && inside >= 0.9 && lost < held,
        reason: format!(
            "{} of the regulars' requests were answered well with the protection, {} without; {} and {} of the herd got in",
            share(held),
            share(lost),
            share(inside),
            share(late)
        ),
        told: vec![
            format!(
                "Unprotected, the herd stood in one line within the application, up to {} long: whoever came later waited \
                 longer than it had patience, left and came again, while the application worked through requests of those \
                 who had left. {} of its work was for nobody.",
                runs.off.line_most(),
                share(runs.off.wasted())
            ),
            format!(
                "Protected, no more than 8 were with the application, the line stood at the gate, bounded, and took turns \
                 by tenant: the herd, which is one, did not stand before the regulars (p99 of what they were answered: {}). What could not be served \
                 in time was told when to come again, each at another moment: {} of the work was for nobody.",
                time(on.answered_quantile("regulars", span, 0.99)),
                share(runs.on.wasted())
            ),
        ],
    }
}
