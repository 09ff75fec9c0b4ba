//! All servers of an upstream are restarted, one after another: a deployment.

use std::sync::Arc;
use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Act, Source};
use crate::report::svg::number;
use crate::run::{RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "rolling-restart",
    summary: "Four servers are restarted one after another, two in good order and two by kill. Nobody should notice.",
    rule: "Protected, at least 99.9 % are answered well over the whole run. Unprotected, more are lost.",
    seconds: 10.0,
    fault: Window { from: 2.0, to: 8.0 },
    fault_name: "restarts",
    about: About::Exchanges,
    victims: "",
    side,
    has_baseline: false,
    judge,
};

/// Servers.
const SERVERS: u32 = 4;
/// Of the time between two restarts, a server is away for so much.
const AWAY: f64 = 0.7;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(20));
    let all = apps(setting, SERVERS.into(), &Behaviour { slots: 16, service, ..Behaviour::default() })?;
    let list = endpoints(&all);
    let config = match kind {
        Kind::Off => format!(
            "[upstream.app]\nendpoints = {list}\nbalance = \"round-robin\"\noutlier = {{ consecutive = 0 }}\n\n\
             [[route]]\nname = \"app\"\nupstream = \"app\"\nretry = {{ tries = 1 }}\n"
        ),
        Kind::On | Kind::Baseline => format!(
            "[upstream.app]\nendpoints = {list}\n\
             health = {{ path = \"/healthz\", interval = \"100ms\", timeout = \"100ms\", healthy = 1, unhealthy = 1 }}\n\n\
             [[route]]\nname = \"app\"\nupstream = \"app\"\nretry = {{ tries = 3 }}\n"
        ),
    };
    let fault = DRILL.fault.at(setting.scale);
    let each = (fault.end - fault.start) / f64::from(SERVERS);
    let mut acts: Vec<Act> = Vec::new();
    for (number, app) in (0..SERVERS).zip(&all) {
        let begin = fault.start + each * f64::from(number);
        let (ends, comes) = (Arc::clone(app), Arc::clone(app));
        let act: Box<dyn FnOnce()> = match number % 2 {
            0 => Box::new(move || ends.stop()),
            _ => Box::new(move || ends.crash()),
        };
        acts.push((Duration::from_secs_f64(begin), act));
        let back = Duration::from_secs_f64(begin + each * AWAY);
        acts.push((back, Box::new(move || comes.restart())));
    }
    let sources = vec![Source::steady("clients", 300.0)];
    Ok(Side { acts, ..DRILL.undisturbed(setting, all, config, sources) })
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    /// A run's last requests may still be under way.
    const TAIL: f64 = 0.5;
    let whole = 0.0..DRILL.seconds * setting.scale - TAIL;
    let (off, on) = (&runs.off.driven, &runs.on.driven);
    let (lost, held) = (off.success("", whole.clone()), on.success("", whole.clone()));
    let asked = runs.on.driven.asked.len();
    let tries = runs.on.tries();
    Judged {
        passed: held >= 0.999 && lost < held,
        reason: format!("{} were answered well with the protection, {} without", share(held), share(lost)),
        told: vec![
            format!(
                "Unprotected, every fourth request still went to the server that was away, and what the killed ones \
                 had begun was lost: {} of all were answered well.",
                share(lost)
            ),
            format!(
                "Protected, a try that found nobody, or was cut, was made again at another server ({asked} \
                 requests, {} tries), within the retry budget; health checks took the server out of balancing until it \
                 was back. The p99 was {} over the whole run.",
                number(tries),
                time(on.quantile("", whole, 0.99))
            ),
        ],
    }
}
