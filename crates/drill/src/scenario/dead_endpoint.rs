//! One of two receivers is gone for a while, and what is meant for it has a few attempts only.
//!
//! Protected, its breaker opens and its queue is parked: nothing is begun, and no attempt is spent, until one probe gets through.
//! Unprotected, each delivery spends its attempts on a closed door and is given up.

use std::sync::Arc;
use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Act, Source};
use crate::report::svg::number;
use crate::run::{Run, RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "dead-endpoint",
    summary: "Two receivers have a queue each, with five attempts for each delivery. One of them is gone for five seconds.",
    rule: "Protected, nothing that was promised to either is given up, the receiver that is gone costs no more than twenty attempts \
           in all, what waits for it is made once it is back, no more than eight at once, and the other's p95 from promise \
           to made is at most 1.5 times what it was before plus two service times (40 ms). Unprotected, at least a quarter of what \
           was promised to it meanwhile is given up.",
    seconds: 9.0,
    fault: Window { from: 2.0, to: 7.0 },
    fault_name: "one receiver is gone",
    about: About::Deliveries,
    victims: "gone",
    side,
    has_baseline: false,
    judge,
};

/// What is put in for each, per second.
const RATE: f64 = 40.0;
/// What one delivery takes.
const SERVICE: Duration = Duration::from_millis(20);
/// Attempts at once, for each.
const AT_ONCE: usize = 8;
/// Attempts that may fail while the receiver is gone: those that open the breaker, and those that are under way then.
const ATTEMPTS_MAX: f64 = 20.0;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Constant(SERVICE);
    let all = apps(setting, 2, &Behaviour { slots: 4 * AT_ONCE, service, ..Behaviour::default() })?;
    let breaker = match kind {
        Kind::Off => "false",
        Kind::On | Kind::Baseline => "{ consecutive = 5, cooldown = \"250ms\" }",
    };
    let queue = |name: &str, apps: &[Arc<_>]| {
        format!(
            "\n[upstream.{name}]\nendpoints = {}\noutlier = {{ consecutive = 0 }}\nbreaker = {breaker}\n\n\
             [queue.{name}]\nupstream = \"{name}\"\nconcurrency = {AT_ONCE}\nattempts = 5\n\
             backoff = {{ first = \"100ms\", max = \"1s\" }}\n\n\
             [[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\ndefer = \"always\"\n",
            endpoints(apps)
        )
    };
    let (gone, well) = (queue("gone", &all[..1]), queue("well", &all[1..]));
    let config = format!("[store]\nurl = \"sqlite:{}\"\n{gone}{well}", crate::gate::STORE);
    let fault = DRILL.fault.at(setting.scale);
    let at = Duration::from_secs_f64;
    let source = |name: &str| Source {
        writes: true,
        path: format!("/{name}"),
        rates: vec![(0.0, RATE), (fault.end, 0.0)],
        ..Source::steady(name, 0.0)
    };
    let (goes, comes) = (Arc::clone(&all[0]), Arc::clone(&all[0]));
    let acts: Vec<Act> = vec![
        (at(fault.start), Box::new(move || goes.crash())),
        (at(fault.end), Box::new(move || comes.restart())),
    ];
    let side = DRILL.undisturbed(setting, all, config, vec![source("gone"), source("well")]);
    Ok(Side { acts, drain: Duration::from_secs(20), ..side })
}

/// What the rule looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    /// Promises that were broken: to the one that was gone, and to the other.
    broken: [u64; 2],
    /// Attempts that failed.
    failed: f64,
    /// Deliveries that the one that was gone had at once, at most.
    at_once: usize,
    /// The other's p95 from promise to made, in seconds: before, and while the one was gone.
    before: f64,
    meanwhile: f64,
    /// Unprotected: the share of what was promised meanwhile that was given up.
    lost: f64,
}

impl Seen {
    fn of(setting: &Setting<'_>, runs: &Runs) -> Seen {
        let fault = DRILL.fault.at(setting.scale);
        let other = |seconds| runs.on.took("well", seconds, 0.95);
        Seen {
            broken: ["gone", "well"].map(|name| runs.on.kept(name, 0.0..fault.end).lost()),
            failed: failed(&runs.on),
            at_once: runs.on.apps.first().map_or(0, |app| app.busy_most),
            before: other(0.0..fault.start),
            meanwhile: other(fault.clone()),
            lost: 1.0 - runs.off.kept("gone", fault).share(),
        }
    }

    fn holds(&self) -> bool {
        self.broken == [0, 0]
            && self.failed > 0.0
            && self.failed <= ATTEMPTS_MAX
            && self.at_once <= AT_ONCE
            && self.meanwhile <= 1.5 * self.before + 2.0 * SERVICE.as_secs_f64()
            && self.lost >= 0.25
    }
}

/// Attempts to the one that was gone that were made in vain.
fn failed(run: &Run) -> f64 {
    let attempts = run.metrics.samples("tidegate_queue_attempts_total");
    let in_vain = attempts.filter(|(labels, _)| {
        labels.contains("queue=\"gone\"")
            && ["again", "dead"].iter().any(|outcome| labels.contains(&format!("outcome=\"{outcome}\"")))
    });
    in_vain.map(|(_, count)| count).sum()
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let seen = Seen::of(setting, runs);
    let fault = DRILL.fault.at(setting.scale);
    let last = runs.on.took("gone", fault.clone(), 1.0);
    Judged {
        passed: seen.holds(),
        reason: format!(
            "{} promises were broken, and {} of the other's; {} attempts were made in vain, and at most {} deliveries at once when it was \
             back; the other's p95 from promise to made was {} (before {}); unprotected, {} of what was promised meanwhile was given up",
            seen.broken[0],
            seen.broken[1],
            number(seen.failed),
            seen.at_once,
            time(seen.meanwhile),
            time(seen.before),
            share(seen.lost)
        ),
        told: vec![
            format!(
                "Unprotected, {} attempts were made at a closed door. Each delivery has five, with pauses that double, and had spent \
                 them within two seconds: an outage of that length is enough to give up what was promised, however patient the \
                 schedule looks on paper. {} deliveries were dead at the end.",
                number(failed(&runs.off)),
                number(runs.off.metrics.deliveries(&["dead"]))
            ),
            format!(
                "Protected, the breaker opened after five failures in a row and parked the queue: nothing of it was begun but one \
                 probe now and then, ever more seldom, and one that finds nobody costs no attempt ({} were spent in all). Once a probe got through, \
                 the line was made as always, {AT_ONCE} at once, and the longest wait was {}. The other receiver has a queue of its own, \
                 with slots of its own, and noticed nothing.",
                number(seen.failed),
                time(last)
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Seen =
        Seen { broken: [0, 0], failed: 14.0, at_once: 8, before: 0.03, meanwhile: 0.05, lost: 0.5 };

    fn check(change: impl Fn(&mut Seen), expected: bool) {
        let mut seen = WELL;
        change(&mut seen);
        assert_eq!(seen.holds(), expected, "{seen:?}");
    }

    #[test]
    fn holds_only_if_nothing_is_given_up_and_nobody_else_waits() {
        check(|_| (), true);
        check(|seen| seen.broken = [1, 0], false);
        check(|seen| seen.broken = [0, 1], false);
        check(|seen| seen.failed = 21.0, false);
        check(|seen| seen.failed = 0.0, false);
        check(|seen| seen.at_once = 9, false);
        check(|seen| seen.meanwhile = 0.09, false);
        check(|seen| seen.before = f64::NAN, false);
        check(|seen| seen.lost = 0.2, false);
    }
}
