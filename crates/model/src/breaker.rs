//! A circuit breaker of two words, exact over all cores.
//!
//! ```text
//! closed --- `consecutive` failures in a row ---> open --- cooldown over ---> half-open: one probe
//!   ^                                              ^                            |
//!   +------------------- success ------------------|------- success ------------+
//!                                                  +------- failure: cooldown doubles, up to sixteenfold
//! ```
//!
//! Half-open is no state of its own: whoever moves the end of the open time first is the probe, and while it is away
//! the breaker is open to the others.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::tick::Tick;

/// Doublings of the cooldown while probes fail.
const DOUBLINGS_MAX: u32 = 4;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Failures in a row.
    pub consecutive: u32,
    /// The first cooldown.
    pub cooldown: Duration,
}

/// A circuit breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: AtomicU32,
    /// 0: closed; else open until this tick.
    open_until: AtomicU64,
    /// Times it opened since it last closed.
    openings: AtomicU32,
    /// Times it opened ever.
    opened: AtomicU64,
}

/// What a breaker says to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go.
    Closed,
    /// Go, and tell how it went: the breaker waits for it.
    Probe,
    /// Do not.
    Open {
        /// Until the next probe.
        wait: Duration,
    },
}

impl Breaker {
    /// Whether a call may go.
    pub fn ask(&self, terms: &Terms, now: Tick) -> Verdict {
        let until = self.open_until.load(Relaxed);
        if until == 0 {
            return Verdict::Closed;
        }
        let lease = now.after(terms.cooldown).0;
        if until <= now.0 && self.open_until.compare_exchange(until, lease, Relaxed, Relaxed).is_ok() {
            return Verdict::Probe;
        }
        Verdict::Open { wait: Tick(until).since(now) }
    }

    /// Whether a call would be turned away now. Changes nothing.
    #[must_use]
    pub fn is_open(&self, now: Tick) -> bool {
        self.open_until.load(Relaxed) > now.0
    }

    /// How much longer calls are turned away; `None`: they are not.
    #[must_use]
    pub fn open_for(&self, now: Tick) -> Option<Duration> {
        self.is_open(now).then(|| Tick(self.open_until.load(Relaxed)).since(now))
    }

    /// Whether it has opened and not closed since.
    #[must_use]
    pub fn is_tripped(&self) -> bool {
        self.open_until.load(Relaxed) != 0
    }

    /// Times it opened, ever.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// A call went well.
    pub fn succeeded(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.open_until.load(Relaxed) != 0 {
            self.open_until.store(0, Relaxed);
            self.openings.store(0, Relaxed);
        }
    }

    /// A call failed. `true`: it opened by this. While it is open, only the probe's failure counts: calls that were
    /// under way when it opened do not prolong it.
    pub fn failed(&self, terms: &Terms, probe: bool, now: Tick) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed) + 1;
        let opens = if self.is_tripped() { probe } else { failures >= terms.consecutive };
        if terms.consecutive == 0 || !opens {
            return false;
        }
        let openings = self.openings.fetch_add(1, Relaxed).min(DOUBLINGS_MAX);
        self.opened.fetch_add(1, Relaxed);
        self.open_until.store(now.after(terms.cooldown.saturating_mul(1 << openings)).0.max(1), Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { consecutive: 3, cooldown: Duration::from_secs(1) };

    fn at(seconds: f64) -> Tick {
        Tick(1).after(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn opens_after_failures_in_a_row_and_lets_one_probe_through() {
        let breaker = Breaker::default();
        breaker.failed(&TERMS, false, at(0.0));
        breaker.failed(&TERMS, false, at(0.0));
        breaker.succeeded();
        assert!(!breaker.failed(&TERMS, false, at(0.0)) && !breaker.failed(&TERMS, false, at(0.0)));
        assert_eq!(breaker.ask(&TERMS, at(0.0)), Verdict::Closed);
        assert!(breaker.failed(&TERMS, false, at(0.0)));
        assert_eq!(breaker.ask(&TERMS, at(0.5)), Verdict::Open { wait: Duration::from_millis(500) });
        assert_eq!(breaker.ask(&TERMS, at(1.0)), Verdict::Probe);
        assert!(matches!(breaker.ask(&TERMS, at(1.0)), Verdict::Open { .. }), "one probe alone");
        breaker.succeeded();
        assert_eq!(breaker.ask(&TERMS, at(1.1)), Verdict::Closed);
    }

    #[test]
    fn cools_down_twice_as_long_after_each_failed_probe_up_to_sixteenfold() {
        let breaker = Breaker::default();
        (0..3).for_each(|_| {
            breaker.failed(&TERMS, false, at(0.0));
        });
        let mut now = at(1.0);
        for expected in [2, 4, 8, 16, 16, 16] {
            assert_eq!(breaker.ask(&TERMS, now), Verdict::Probe);
            assert!(breaker.failed(&TERMS, true, now));
            assert!(!breaker.failed(&TERMS, false, now), "a call from before");
            assert_eq!(breaker.ask(&TERMS, now), Verdict::Open { wait: Duration::from_secs(expected) });
            now = now.after(Duration::from_secs(expected));
        }
    }

    #[test]
    fn a_lost_probe_does_not_keep_it_open_for_ever() {
        let breaker = Breaker::default();
        (0..3).for_each(|_| {
            breaker.failed(&TERMS, false, at(0.0));
        });
        assert_eq!(breaker.ask(&TERMS, at(1.0)), Verdict::Probe);
        assert_eq!(breaker.ask(&TERMS, at(2.0)), Verdict::Probe);
    }
}
