//! A short overload, clients that try again, and a system that stays down when the overload is long over.
//!
//! This is the metastable failure of Bronson et al., "Metastable Failures in Distributed Systems" (HotOS 2021): the trigger
//! goes, and what it set off sustains itself.

use std::time::Duration;

use super::{apps, one_route, recovery};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::run::{RunError, Setting, Side};
use crate::told::share;

/// The drill.
pub const DRILL: Drill = Drill {
    name: "retry-storm",
    summary: "For two seconds twice as much is asked as an upstream can do. Then the load falls to what it always bore, but \
              every client that waits in vain tries again, four times.",
    rule: "Protected, from 5 s after the trigger's end at the latest, at least 90 % of requests are answered well in each \
           half second. Unprotected, it stays down: fewer than half are, to the end.",
    seconds: 13.0,
    fault: Window { from: 2.0, to: 4.0 },
    fault_name: "trigger",
    about: About::Exchanges,
    victims: "clients",
    side,
    has_baseline: false,
    judge,
};

/// Requests per second, before and after. The upstream does 200.
const CALM: f64 = 140.0;
/// While the trigger lasts.
const TRIGGER: f64 = 450.0;
/// How long clients wait for an answer to one try.
const PATIENCE: Duration = Duration::from_millis(400);
/// How often they try in all, and what they wait in between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);
/// Requests that wait within the application. Most have no bound at all; then it is only worse.
const LINE: usize = 250;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(20));
    let apps = apps(setting, 1, &Behaviour { slots: 4, waiting_max: LINE, service, ..Behaviour::default() })?;
    let (gate, deadline) = match kind {
        Kind::Off => ("", "60s"),
        Kind::On | Kind::Baseline => {
            ("concurrency = 5\nwaiting = { limit = 200, wait = \"200ms\" }\n", "400ms")
        }
    };
    let config = one_route(&apps, gate, &format!("deadline = \"{deadline}\"\n"));
    let fault = DRILL.fault.at(setting.scale);
    let clients = Source {
        rates: vec![(0.0, CALM), (fault.start, TRIGGER), (fault.end, CALM)],
        timeout: PATIENCE,
        tries: TRIES,
        pause: PAUSE,
        ..Source::steady("clients", 0.0)
    };
    Ok(DRILL.undisturbed(setting, apps, config, vec![clients]))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let fault = DRILL.fault.at(setting.scale);
    // Whoever comes later may still be trying when the run ends.
    let settled = DRILL.seconds * setting.scale - ((PATIENCE + PAUSE) * TRIES).as_secs_f64();
    let last = fault.end + 5.0 * setting.scale..settled;
    let (off, on) = (&runs.off, &runs.on);
    let back = recovery(&on.driven, "clients", fault.end..settled, 0.9);
    let (down, up) =
        (off.driven.success("clients", last.clone()), on.driven.success("clients", last.clone()));
    let tries = off.driven.tries(last.clone()) / off.driven.offered("clients", last).max(1.0);
    let said = match back {
        Some(seconds) => format!("with the protection it was back {seconds:.1} s after the trigger's end"),
        None => "with the protection it did not come back".to_owned(),
    };
    Judged {
        passed: back.is_some_and(|seconds| seconds <= 5.0) && down < 0.5,
        reason: format!(
            "{said}; from 5 s after it on, {} were answered well with the protection and {} without",
            share(up),
            share(down)
        ),
        told: vec![
            format!(
                "Unprotected, the trigger left a line of up to {} within the application: more than a second of work, for \
                 clients that wait {} ms. Each of them had left when its turn came, and stood at the end again: {tries:.1} \
                 tries for each request, when the load had long fallen to {CALM:.0} a second of the 200 that the application \
                 can do. {} of its work over the run was for nobody. The bottleneck was not the load but the line.",
                off.line_most(),
                PATIENCE.as_millis(),
                share(off.wasted())
            ),
            format!(
                "Protected, the line stood at the gate, and nobody in it for longer than 200 ms: who could not be served \
                 in time was told so at once, and under overload the newest went first, for whom somebody still waited. \
                 What reached the application was work for somebody ({} was not), so that its whole capacity went into \
                 answers, and the storm had nothing to live on.",
                share(on.wasted())
            ),
        ],
    }
}
