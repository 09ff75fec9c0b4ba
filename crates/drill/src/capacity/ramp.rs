//! Which load is tried next, and what the loads that were tried say: pure decisions.
//!
//! The load grows by a fixed factor until the service no longer keeps up, then the edge is searched for between the last
//! load that it kept up with and the first that it did not. What always holds: never more than [`STEPS_MAX`] loads, never
//! a rate above the one allowed, and never a higher load than one that broke the service.

use std::time::Duration;

/// Loads that are tried at most.
pub const STEPS_MAX: usize = 24;
/// Each load is so many times the one before, until one is too much.
const FACTOR: f64 = 1.5;
/// Loads between the last that was kept up with and the first that was not.
const SEARCHED: usize = 3;

/// What came of one load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Requests per second that were sent.
    pub offered: f64,
    /// Good answers per second.
    pub good: f64,
    /// How much longer the line of those under way has grown meanwhile, as a share of all.
    pub behind: f64,
    /// Requests answered 429 or 503, as a share of all.
    pub refused: f64,
    /// Requests that failed in any other way, as a share of all.
    pub failed: f64,
    /// Half of the answers took longer.
    pub p50: Duration,
    /// One in a hundred took longer.
    pub p99: Duration,
    /// Requests under way, on average.
    pub concurrency: f64,
    /// Requests that this side sent too late, as a share of all.
    pub late: f64,
    /// The status of an answer that was not good, if there was one.
    pub status: Option<u16>,
    /// Whether it was ended before its time, because the service was breaking.
    pub cut: bool,
}

/// Why a service does not keep up with a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strain {
    /// More than one request in a hundred failed.
    Errors,
    /// It refused more than one in a hundred: 429 or 503.
    Refusals,
    /// It answered less than it was asked.
    Behind,
    /// It answers all, far too late.
    Latency,
}

impl Step {
    /// Whether the service did not keep up, seen beside what it does at next to no load.
    #[must_use]
    pub fn strain(&self, base: &Step) -> Option<Strain> {
        /// A line that grows by more than this share of what comes grows for ever.
        const BEHIND: f64 = 0.05;
        /// Errors that any service makes.
        const ERRORS: f64 = 0.01;
        /// The tail may grow by so much before it counts.
        const SLOWER: u32 = 5;
        /// Below this nobody waits, whatever the factor.
        const UNFELT: Duration = Duration::from_millis(25);
        if self.failed > ERRORS.max(base.failed * 2.0) {
            Some(Strain::Errors)
        } else if self.refused > ERRORS.max(base.refused * 2.0) {
            Some(Strain::Refusals)
        } else if self.behind > BEHIND {
            Some(Strain::Behind)
        } else if self.p99 > (base.p99 * SLOWER).max(base.p99 + UNFELT) {
            Some(Strain::Latency)
        } else {
            None
        }
    }

    /// Whether the service does what it is there for, most of the time.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.failed + self.refused < 0.5 && self.good > 0.0
    }

    /// Throughput for its latency (Kleinrock's power). By Little's law the latency is concurrency over throughput.
    fn power(&self) -> f64 {
        if self.concurrency > 0.0 { self.good * self.good / self.concurrency } else { 0.0 }
    }
}

/// How the load grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// Requests per second at first.
    pub first: f64,
    /// Requests per second at most.
    pub most: f64,
}

impl Ramp {
    /// The next load, in requests per second. `None`: enough is known.
    #[must_use]
    pub fn next(&self, steps: &[Step]) -> Option<f64> {
        let Some(base) = steps.first() else { return Some(self.first.min(self.most)) };
        if steps.len() >= STEPS_MAX || !base.is_alive() {
            return None;
        }
        let is_strained = |step: &&Step| step.cut || step.strain(base).is_some();
        let broken = steps.iter().filter(is_strained).map(|step| step.offered).min_by(f64::total_cmp);
        let kept = steps.iter().filter(|step| !is_strained(step)).map(|step| step.offered);
        let Some(broken) = broken else {
            let highest = kept.max_by(f64::total_cmp)?;
            // What was offered is what the dice gave; a ramp that ends a little below the limit has reached it.
            return (highest < self.most * 0.95).then(|| (highest * FACTOR).min(self.most));
        };
        let kept = kept.filter(|kept| *kept < broken).max_by(f64::total_cmp)?;
        let first = steps.iter().position(|step| is_strained(&step))?;
        let searched = steps.len() - first - 1;
        (searched < SEARCHED && broken > kept * 1.05).then(|| (kept * broken).sqrt())
    }
}

/// What the loads say of the service.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The load with the most throughput for its latency: where to run.
    pub knee: Step,
    /// The highest load that was kept up with.
    pub limit: Step,
    /// The lowest load that was not, and why. `None`: all loads were kept up with.
    pub broke: Option<(Step, Strain)>,
}

/// Reads what the loads say. `None`: nothing was kept up with.
#[must_use]
pub fn read(steps: &[Step]) -> Option<Found> {
    let base = steps.first().filter(|base| base.is_alive())?;
    let strain = |step: &Step| step.strain(base).or(step.cut.then_some(Strain::Behind));
    let broke = steps
        .iter()
        .filter_map(|step| Some((step.clone(), strain(step)?)))
        .min_by(|one, other| one.0.offered.total_cmp(&other.0.offered));
    let bound = broke.as_ref().map_or(f64::INFINITY, |(step, _)| step.offered);
    let kept = || steps.iter().filter(|step| step.offered < bound && strain(step).is_none());
    let knee = kept().max_by(|one, other| one.power().total_cmp(&other.power()))?.clone();
    let limit = kept().max_by(|one, other| one.offered.total_cmp(&other.offered))?.clone();
    Some(Found { knee, limit, broke })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A server of so many slots of 20 ms each, with the waiting of an open queue (M/M/c, roughly).
    fn served(slots: f64, offered: f64) -> Step {
        let (service, most) = (0.02, slots / 0.02);
        let load = offered / most;
        let wait = if load < 1.0 { service * load.powf(slots.sqrt()) / (1.0 - load) / slots } else { 5.0 };
        let (good, latency) = (offered.min(most), service + wait);
        Step {
            offered,
            good,
            behind: (1.0 - good / offered).max(0.0),
            p50: Duration::from_secs_f64(latency),
            p99: Duration::from_secs_f64(service * 4.0 + wait * 4.0),
            concurrency: good * latency,
            ..Step::default()
        }
    }

    fn check(slots: f64, ramp: Ramp) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some(rate) = ramp.next(&steps) {
            assert!(rate <= ramp.most && steps.len() < STEPS_MAX, "{rate} after {}", steps.len());
            steps.push(served(slots, rate));
        }
        steps
    }

    #[test]
    fn finds_where_a_server_breaks_and_where_to_run_it() {
        let found = read(&check(8.0, Ramp { first: 10.0, most: 5000.0 })).unwrap();
        let (broke, strain) = found.broke.unwrap();
        assert!((350.0..430.0).contains(&broke.offered), "{broke:?}");
        assert_eq!(strain, Strain::Latency);
        assert!((250.0..=found.limit.offered).contains(&found.knee.offered), "{:?}", found.knee);
        assert!(found.limit.offered < broke.offered && found.limit.offered > 300.0);
    }

    #[test]
    fn a_server_that_takes_all_that_is_allowed_never_broke() {
        let found = read(&check(1000.0, Ramp { first: 10.0, most: 500.0 })).unwrap();
        assert_eq!(found.broke, None);
        assert_eq!(found.limit.offered, 500.0);
    }

    #[test]
    fn one_that_fails_refuses_or_falls_behind_is_strained() {
        let base = served(8.0, 10.0);
        for (change, wanted) in [
            (Step { failed: 0.02, ..served(8.0, 100.0) }, Some(Strain::Errors)),
            (Step { refused: 0.02, ..served(8.0, 100.0) }, Some(Strain::Refusals)),
            (Step { behind: 0.1, ..served(8.0, 100.0) }, Some(Strain::Behind)),
            (Step { p99: Duration::from_secs(3), ..served(8.0, 100.0) }, Some(Strain::Latency)),
            (served(8.0, 100.0), None),
        ] {
            assert_eq!(change.strain(&base), wanted, "{change:?}");
        }
    }

    #[test]
    fn a_service_that_answers_with_errors_from_the_start_is_asked_once() {
        let dead = Step { failed: 1.0, status: Some(404), ..served(8.0, 10.0) };
        assert_eq!(Ramp { first: 10.0, most: 100.0 }.next(std::slice::from_ref(&dead)), None);
        assert_eq!(read(&[dead]), None);
    }

    proptest! {
        #[test]
        fn the_ramp_ends_and_never_goes_above_what_broke(
            slots in 1.0f64..500.0, first in 1.0f64..50.0, most in 50.0f64..20_000.0,
        ) {
            let steps = check(slots, Ramp { first, most });
            let base = steps[0].clone();
            let mut bound = f64::INFINITY;
            for step in steps {
                prop_assert!(step.offered < bound);
                if step.strain(&base).is_some() {
                    bound = step.offered;
                }
            }
        }
    }
}
