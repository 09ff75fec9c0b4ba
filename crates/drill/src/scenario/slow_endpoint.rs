//! A gray failure: one endpoint of four is ten times slower, and well by its health checks.

use std::sync::Arc;
use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Driven, Source};
use crate::run::{RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "slow-endpoint",
    summary: "One endpoint of four becomes ten times slower. It fails nothing, and its health checks pass.",
    rule: "Protected, from 3 s after it became slow, the p99 is at most 1.5 times that of the healthy cluster.",
    seconds: 9.0,
    fault: Window { from: 2.0, to: 9.0 },
    fault_name: "one of four is slow",
    about: About::Exchanges,
    victims: "clients",
    side,
    has_baseline: true,
    judge,
};

/// How much slower.
const SLOWER: f64 = 10.0;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(20));
    let apps = apps(setting, 4, &Behaviour { slots: 8, service, ..Behaviour::default() })?;
    let balance = match kind {
        Kind::Off => "round-robin",
        Kind::On | Kind::Baseline => "peak-ewma",
    };
    let config = format!(
        "[upstream.app]\nendpoints = {}\nbalance = \"{balance}\"\nhealth = {{ path = \"/healthz\", interval = \"1s\" }}\n\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\nretry = {{ tries = 1 }}\n",
        endpoints(&apps)
    );
    let from = Duration::from_secs_f64(DRILL.fault.at(setting.scale).start);
    let ill = Arc::clone(&apps[0]);
    let mut side = DRILL.undisturbed(setting, apps, config, vec![Source::steady("clients", 500.0)]);
    if kind != Kind::Baseline {
        side.acts.push((from, Box::new(move || ill.change(|behaviour| behaviour.slowdown = SLOWER))));
    }
    Ok(side)
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    /// Until then a route has to be found around it.
    const FOUND: f64 = 3.0;
    /// A run's last requests may still be under way.
    const TAIL: f64 = 1.0;
    let fault = DRILL.fault.at(setting.scale);
    let found = fault.start + FOUND * setting.scale..fault.end - TAIL;
    let slow = |run: &Driven| run.quantile("clients", found.clone(), 0.99);
    let (off, on) = (&runs.off.driven, &runs.on.driven);
    let healthy = slow(runs.baseline.as_ref().map_or(on, |run| &run.driven));
    let part = |run: &crate::run::Run| {
        let ill = run.apps.first().map_or(0, |counts| counts.requests);
        ill as f64 / run.sum(|counts| counts.requests).max(1) as f64
    };
    Judged {
        passed: slow(on) <= 1.5 * healthy,
        reason: format!(
            "from 3 s after it became slow the p99 is {} with the protection and {} without; of the healthy cluster {}",
            time(slow(on)),
            time(slow(off)),
            time(healthy)
        ),
        told: vec![
            format!(
                "Unprotected, endpoints take turns, and every fourth request went to the slow one ({} over the run): it was \
                 asked for three times what it could do, and up to {} waited there while the other three were bored. Its \
                 health checks passed, and nothing failed that could have opened a breaker. {} of all were answered well \
                 in time.",
                share(part(&runs.off)),
                runs.off.line_most(),
                share(off.success("clients", found.clone()))
            ),
            format!(
                "Protected, each request goes to the one of two endpoints, drawn by chance, with the lower latency times \
                 calls under way, and a peak counts at once (peak-ewma): the slow endpoint got {} of the run's requests, \
                 most of them before it was slow. {} were answered well.",
                share(part(&runs.on)),
                share(on.success("clients", found))
            ),
        ],
    }
}
