//! One tenant puts more into a queue than the queue can make, for seconds.
//!
//! Protected, the deliveries are their tenants': the queue takes from them in turns, and each has a bound of its own. Unprotected, they
//! are all one tenant's, and first come is first made, as in a queue that knows no tenants.

use std::time::Duration;

use super::{TENANTS, apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::report::svg::number;
use crate::run::{Run, RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "queue-flood",
    summary: "A queue makes 400 deliveries a second. One tenant puts 1500 a second into it, four others ten each.",
    rule: "Protected, from promise to first attempt the others' p99 is at most 1.5 times what it is without the flood plus two service \
           times (40 ms), none of them is refused, and each of their promises is kept; the flooding tenant is refused by its \
           own bound alone (`delivery.full`), and the gate takes at most 64 MiB more than without the flood. Unprotected, the \
           others wait ten times as long.",
    seconds: 8.0,
    fault: Window { from: 1.0, to: 6.0 },
    fault_name: "flood",
    about: About::Deliveries,
    victims: "other",
    side,
    has_baseline: true,
    judge,
};

/// What one delivery takes, and how many are made at once: 400 a second.
const SERVICE: Duration = Duration::from_millis(20);
const AT_ONCE: usize = 8;
/// What is put in per second: by the flooding tenant, and by each of so many others.
const FLOOD: f64 = 1500.0;
const OTHERS: usize = 4;
const OTHER: f64 = 10.0;
/// What one tenant may have waiting.
const BOUND: f64 = 3000.0;
/// Bytes of one.
const BYTES: usize = 1024;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Constant(SERVICE);
    // With room for what the gate has cut off and begun anew: the queue's own concurrency is what bounds.
    let apps = apps(setting, 1, &Behaviour { slots: 4 * AT_ONCE, service, ..Behaviour::default() })?;
    let (tenants, waiting) = match kind {
        Kind::Off => ("", String::new()),
        Kind::On | Kind::Baseline => {
            (TENANTS, format!("waiting = {{ deliveries = {} }}\n", (BOUND * setting.scale).ceil()))
        }
    };
    let config = format!(
        "{tenants}[store]\nurl = \"sqlite:{}\"\n\n[upstream.app]\nendpoints = {}\n\n\
         [queue.jobs]\nupstream = \"app\"\nconcurrency = {AT_ONCE}\n{waiting}\n\
         [[route]]\nname = \"jobs\"\nupstream = \"app\"\ndefer = \"always\"\n",
        crate::gate::STORE,
        endpoints(&apps)
    );
    let fault = DRILL.fault.at(setting.scale);
    let of = |tenant: &str, rates| {
        let steady = Source::steady(tenant, 0.0).of(tenant);
        Source { writes: true, bytes: BYTES, rates, ..steady }
    };
    let other = |number| of(&format!("other-{number}"), vec![(0.0, OTHER), (fault.end, 0.0)]);
    let mut sources: Vec<Source> = (1..=OTHERS).map(other).collect();
    let flood = if kind == Kind::Baseline { 0.0 } else { FLOOD };
    sources.push(of("flood", vec![(fault.start, flood), (fault.end, 0.0)]));
    Ok(DRILL.undisturbed(setting, apps, config, sources))
}

/// What the rule looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    /// From promise to first attempt, the others' p99 in seconds: without the flood, with it, and unprotected.
    alone: f64,
    held: f64,
    lost: f64,
    /// Shares of what the others asked for that was promised, and of the promises that were kept.
    promised: f64,
    kept: f64,
    /// Of the refusals, those by the flooding tenant's bound, and others.
    bounded: f64,
    otherwise: f64,
    /// MiB that the gate took more than without the flood.
    memory: f64,
}

impl Seen {
    fn of(setting: &Setting<'_>, runs: &Runs) -> Seen {
        let fault = DRILL.fault.at(setting.scale);
        let baseline = runs.baseline.as_ref().unwrap_or(&runs.on);
        let wait = |run: &Run| run.waited(DRILL.victims, fault.clone(), 0.99);
        let (bounded, otherwise) = refusals(&runs.on);
        Seen {
            alone: wait(baseline),
            held: wait(&runs.on),
            lost: wait(&runs.off),
            promised: runs.on.driven.success(DRILL.victims, fault.clone()),
            kept: runs.on.kept(DRILL.victims, fault.clone()).share(),
            bounded,
            otherwise,
            memory: runs.on.memory_most() - baseline.memory_most(),
        }
    }

    fn most(&self) -> f64 {
        1.5 * self.alone + 2.0 * SERVICE.as_secs_f64()
    }

    fn holds(&self) -> bool {
        const MEMORY: f64 = 64.0;
        self.held <= self.most()
            && self.lost >= 10.0 * self.held
            && self.promised == 1.0
            && self.kept == 1.0
            && self.bounded > 0.0
            && self.otherwise == 0.0
            && self.memory <= MEMORY
    }
}

/// Refusals by a tenant's bound, and for anything else.
fn refusals(run: &Run) -> (f64, f64) {
    let (bound, other): (Vec<_>, Vec<_>) = run
        .metrics
        .samples("tidegate_refusals_total")
        .partition(|(labels, _)| labels.contains("code=\"delivery.full\""));
    let sum = |samples: Vec<(&str, f64)>| samples.iter().map(|(_, count)| count).sum();
    (sum(bound), sum(other))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let seen = Seen::of(setting, runs);
    let fault = DRILL.fault.at(setting.scale);
    let of_flood = |run: &Run| run.kept("flood", fault.clone()).promised;
    Judged {
        passed: seen.holds(),
        reason: format!(
            "from promise to first attempt the others' p99 was {} (without the flood {}, at most {}; unprotected {}); {} of \
             their requests were promised and {} of the promises kept; the flooding tenant was refused {} times by its own bound, \
             and nobody {} otherwise; {} MiB more memory",
            time(seen.held),
            time(seen.alone),
            time(seen.most()),
            waited(seen.lost),
            share(seen.promised),
            share(seen.kept),
            number(seen.bounded),
            if seen.otherwise == 0.0 { "was refused" } else { "should have been refused" },
            number(seen.memory.round())
        ),
        told: vec![
            format!(
                "Unprotected, the queue was one line, and up to {} stood in it: whoever came later stood at its end, whoever it \
                 was. Nothing failed, and nothing was refused; work that was promised came ever later, and the line would have \
                 grown for as long as there is room for it. {} of the flood were promised.",
                number(runs.off.waiting_most()),
                of_flood(&runs.off)
            ),
            format!(
                "Protected, each tenant has a line of its own, and the queue takes from them in turns, by the time that their \
                 deliveries take. The others hardly waited longer than for one of the {AT_ONCE} that were under way; what they left was \
                 the flooding tenant's. It had {BOUND} waiting, and was told so (429, `delivery.full`) with each one more: \
                 {} were promised, and what waits is on disk, so that memory does not follow it.",
                of_flood(&runs.on)
            ),
        ],
    }
}

/// A wait, which may not have ended when the run did.
fn waited(seconds: f64) -> String {
    if seconds.is_infinite() { "not within the run".to_owned() } else { time(seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Seen = Seen {
        alone: 0.02,
        held: 0.06,
        lost: f64::INFINITY,
        promised: 1.0,
        kept: 1.0,
        bounded: 2000.0,
        otherwise: 0.0,
        memory: 10.0,
    };

    fn check(change: impl Fn(&mut Seen), expected: bool) {
        let mut seen = WELL;
        change(&mut seen);
        assert_eq!(seen.holds(), expected, "{seen:?}");
    }

    #[test]
    fn holds_only_if_the_others_feel_nothing_and_the_flood_is_bounded() {
        check(|_| (), true);
        check(|seen| seen.held = 0.08, false);
        check(|seen| seen.held = f64::NAN, false);
        check(|seen| seen.lost = 0.5, false);
        check(|seen| seen.promised = 0.99, false);
        check(|seen| seen.kept = 0.99, false);
        check(|seen| seen.bounded = 0.0, false);
        check(|seen| seen.otherwise = 1.0, false);
        check(|seen| seen.memory = 100.0, false);
        check(|seen| seen.memory = f64::NAN, false);
    }
}
