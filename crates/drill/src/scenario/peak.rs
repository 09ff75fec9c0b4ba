//! Ten times the load from one moment to the next: a sale, a push message, a mention on television.

use std::time::Duration;

use super::{apps, one_route, recovery};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::run::{RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "peak",
    summary: "Load becomes tenfold from one moment to the next, two and a half times what an upstream can do, and falls \
              again after three seconds.",
    rule: "Protected, at least 0.85 of the application's slots do work that somebody waits for in the peak, those answered wait no longer than \
           500 ms (p99), and 1 s after it at the latest at least 90 % of requests are answered well in each half second. \
           Unprotected, fewer than half of the requests after it are.",
    seconds: 11.0,
    fault: Window { from: 3.0, to: 6.0 },
    fault_name: "peak",
    about: About::Exchanges,
    victims: "clients",
    side,
    has_baseline: false,
    judge,
};

/// Requests per second before and after.
const CALM: f64 = 100.0;
/// Requests that the application works on at the same time.
const SLOTS: usize = 8;
/// What the upstream can do.
const CAPACITY: f64 = 400.0;
/// How long clients wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(20));
    let apps = apps(setting, 1, &Behaviour { slots: SLOTS, service, ..Behaviour::default() })?;
    let (gate, deadline) = match kind {
        Kind::Off => ("", "60s"),
        Kind::On | Kind::Baseline => ("concurrency = \"adaptive\"\nwaiting = { wait = \"300ms\" }\n", "1s"),
    };
    let config = one_route(&apps, gate, &format!("deadline = \"{deadline}\"\n"));
    let fault = DRILL.fault.at(setting.scale);
    let clients = Source {
        rates: vec![(0.0, CALM), (fault.start, 10.0 * CALM), (fault.end, CALM)],
        timeout: PATIENCE,
        ..Source::steady("clients", 0.0)
    };
    Ok(DRILL.undisturbed(setting, apps, config, vec![clients]))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let fault = DRILL.fault.at(setting.scale);
    let settled = DRILL.seconds * setting.scale - PATIENCE.as_secs_f64();
    let (off, on) = (&runs.off.driven, &runs.on.driven);
    let (broken, done) = (off.goodput("", fault.clone()), on.goodput("", fault.clone()));
    let left = off.success("clients", fault.end..settled);
    let useful = runs.on.useful(&fault) / SLOTS as f64;
    let slow = on.answered_quantile("clients", fault.clone(), 0.99);
    let back = recovery(on, "clients", fault.end..settled, 0.9);
    let said = match back {
        Some(seconds) => format!("all was well again {seconds:.1} s after it"),
        None => "it was not well again before the run's end".to_owned(),
    };
    Judged {
        passed: useful >= 0.85 && slow <= 0.5 && back.is_some_and(|seconds| seconds <= 1.0) && left < 0.5,
        reason: format!(
            "in the peak {done:.0} requests a second were answered well with the protection and {broken:.0} without, of \
             {CAPACITY:.0} that the upstream can do ({} and {} of its slots did useful work); the p99 of those answered was {}, and {said}",
            share(useful),
            share(runs.off.useful(&fault) / SLOTS as f64),
            time(slow)
        ),
        told: vec![
            format!(
                "Unprotected, the application took in all of it, up to {} in its line. After a second the line was longer \
                 than its clients' patience; the application worked at its limit for clients that had left ({} of its work \
                 was for nobody), and still did when the peak was over: then {} were answered well, at a quarter of what it \
                 can do.",
                runs.off.line_most(),
                share(runs.off.wasted()),
                share(left)
            ),
            format!(
                "Protected, the gate let in what the application can do, found by itself from its answers, and told the \
                 rest at once to come later: {} of the peak's requests were answered well, the others refused while \
                 their clients still listened. {} of the work was for nobody, and nothing was left over when the peak ended.",
                share(on.success("clients", fault)),
                share(runs.on.wasted())
            ),
        ],
    }
}
