//! A circuit breaker, exact over all cores: its state is one word.
//!
//! ```text
//! closed --- `consecutive` failures in a row ---> open --- cooldown over ---> half-open: one probe
//!   ^                                              ^                            |
//!   +------------------ its success ---------------|---- its success -----------+
//!                                                  +---- its failure: the cooldown doubles, up to its maximum
//! ```
//!
//! While it is not closed, only the probe's outcome counts: calls that were under way when it opened neither close nor
//! prolong it, and once it has closed again they do not count towards the next opening. A [`Probe`] is proof of being the
//! one: whoever holds it tells how it went, or hands it back ([`Breaker::abandoned`]). One that is lost all the same
//! is replaced when its lease ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::tick::Tick;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Failures in a row; 0: it never opens.
    pub consecutive: u32,
    /// The first cooldown; doubled while probes fail.
    pub cooldown: Duration,
    /// No cooldown is longer.
    pub cooldown_max: Duration,
}

impl Terms {
    /// The cooldown of the opening that comes after so many in a row.
    fn cooldown_after(&self, openings: u32) -> Duration {
        self.cooldown.saturating_mul(1 << openings.min(16)).min(self.cooldown_max.max(self.cooldown))
    }
}

/// A circuit breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Failures in a row while it is closed.
    failures: AtomicU32,
    /// 0: closed. Even: open until this tick, then a probe is due. Odd: a probe is under way, its lease ends then.
    state: AtomicU64,
    /// Times it opened since it last closed.
    openings: AtomicU32,
    /// Times it opened ever.
    opened: AtomicU64,
    /// When it last opened or closed: what began before says nothing of the time since.
    changed_at: AtomicU64,
}

/// The right, and the duty, to find out whether an open breaker may close.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a breaker waits for what its probe finds"]
pub struct Probe {
    lease: u64,
}

/// What a breaker says to a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go.
    Closed,
    /// Go, and tell how it went: the breaker waits for it.
    Probe(Probe),
    /// Do not.
    Open {
        /// Until the next probe.
        wait: Duration,
    },
}

/// What a breaker looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Calls go.
    Closed,
    /// Calls are turned away.
    Open,
    /// A probe is due or under way; other calls are turned away.
    HalfOpen,
}

impl State {
    /// The name used in status and log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half-open",
        }
    }
}

impl Breaker {
    /// Whether a call may go that will have ended by `by`.
    pub fn ask(&self, terms: &Terms, by: Tick, now: Tick) -> Verdict {
        let held = self.state.load(Relaxed);
        if held == 0 {
            return Verdict::Closed;
        }
        if held <= now.0 {
            let lease = by.max(now.after(terms.cooldown)).0 | 1;
            if self.state.compare_exchange(held, lease, Relaxed, Relaxed).is_ok() {
                return Verdict::Probe(Probe { lease });
            }
        }
        // While a probe is away nobody knows how long it takes: a cooldown at most is a fair guess.
        Verdict::Open { wait: Tick(held).since(now).clamp(Duration::from_millis(1), self.longest(terms)) }
    }

    fn longest(&self, terms: &Terms) -> Duration {
        terms.cooldown_after(self.openings.load(Relaxed).saturating_sub(1)).max(Duration::from_millis(1))
    }

    /// Whether a call would be turned away now. Changes nothing.
    #[must_use]
    pub fn is_open(&self, now: Tick) -> bool {
        self.state.load(Relaxed) > now.0
    }

    /// How much longer calls are turned away; `None`: they are not.
    #[must_use]
    pub fn open_for(&self, now: Tick) -> Option<Duration> {
        let held = self.state.load(Relaxed);
        (held > now.0).then(|| Tick(held).since(now))
    }

    /// Whether it has opened and not closed since.
    #[must_use]
    pub fn is_tripped(&self) -> bool {
        self.state.load(Relaxed) != 0
    }

    /// What it looks like.
    #[must_use]
    pub fn state(&self, now: Tick) -> State {
        match self.state.load(Relaxed) {
            0 => State::Closed,
            held if held & 1 == 0 && held > now.0 => State::Open,
            _ => State::HalfOpen,
        }
    }

    /// Whether one more failure would open it.
    #[must_use]
    pub fn is_at_the_brink(&self, terms: &Terms) -> bool {
        terms.consecutive != 0
            && !self.is_tripped()
            && self.failures.load(Relaxed).saturating_add(1) >= terms.consecutive
    }

    /// Times it opened, ever.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// A call went well. `true`: it closed by this.
    pub fn succeeded(&self, probe: Option<Probe>, now: Tick) -> bool {
        let Some(probe) = probe else {
            if self.failures.load(Relaxed) != 0 && !self.is_tripped() {
                self.failures.store(0, Relaxed);
            }
            return false;
        };
        if self.state.load(Relaxed) != probe.lease {
            return false;
        }
        // Before the word that lets calls through: they must find the count at its beginning.
        self.failures.store(0, Relaxed);
        self.openings.store(0, Relaxed);
        self.changed_at.store(now.0, Relaxed);
        self.state.compare_exchange(probe.lease, 0, Relaxed, Relaxed).is_ok()
    }

    /// A call that had begun at `began` failed. `true`: it opened by this.
    pub fn failed(&self, terms: &Terms, probe: Option<Probe>, began: Tick, now: Tick) -> bool {
        let held = match probe {
            // The rule was switched off meanwhile.
            Some(probe) if terms.consecutive == 0 => {
                let _ = self.succeeded(Some(probe), now);
                return false;
            }
            Some(probe) => probe.lease,
            None if terms.consecutive == 0 || self.is_tripped() => return false,
            None if began.0 < self.changed_at.load(Relaxed) => return false,
            None if self.failures.fetch_add(1, Relaxed).saturating_add(1) < terms.consecutive => {
                return false;
            }
            None => 0,
        };
        let openings = self.openings.load(Relaxed);
        let until = now.after(terms.cooldown_after(openings)).0 & !1;
        if self.state.compare_exchange(held, until.max(2), Relaxed, Relaxed).is_err() {
            return false;
        }
        self.openings.store(openings.saturating_add(1), Relaxed);
        self.changed_at.store(now.0, Relaxed);
        self.opened.fetch_add(1, Relaxed);
        true
    }

    /// The probe found nothing out: the next call may be another.
    pub fn abandoned(&self, probe: Probe, now: Tick) {
        let _ = self.state.compare_exchange(probe.lease, (now.0 & !1).max(2), Relaxed, Relaxed);
    }

    /// Closes it, whatever was found: nobody asks it any more.
    pub fn reset(&self, now: Tick) {
        self.failures.store(0, Relaxed);
        self.openings.store(0, Relaxed);
        self.changed_at.store(now.0, Relaxed);
        self.state.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms =
        Terms { consecutive: 3, cooldown: Duration::from_secs(1), cooldown_max: Duration::from_secs(10) };

    fn at(seconds: f64) -> Tick {
        Tick(2).after(Duration::from_secs_f64(seconds))
    }

    /// One that opened just now.
    fn open(now: Tick) -> Breaker {
        let breaker = Breaker::default();
        let opened: Vec<bool> = (0..3).map(|_| breaker.failed(&TERMS, None, now, now)).collect();
        assert_eq!(opened, [false, false, true]);
        breaker
    }

    fn probe(breaker: &Breaker, now: Tick) -> Probe {
        match breaker.ask(&TERMS, now, now) {
            Verdict::Probe(probe) => probe,
            other => panic!("{other:?}"),
        }
    }

    fn turns_away(breaker: &Breaker, now: Tick) -> bool {
        matches!(breaker.ask(&TERMS, now, now), Verdict::Open { .. })
    }

    #[test]
    fn opens_after_failures_in_a_row_and_lets_one_probe_through() {
        let breaker = Breaker::default();
        breaker.failed(&TERMS, None, at(0.0), at(0.0));
        assert!(!breaker.is_at_the_brink(&TERMS));
        breaker.failed(&TERMS, None, at(0.0), at(0.0));
        assert!(breaker.is_at_the_brink(&TERMS));
        breaker.succeeded(None, at(0.0));
        assert!(!breaker.failed(&TERMS, None, at(0.0), at(0.0)), "the row was broken");
        let breaker = open(at(0.0));
        assert_eq!(breaker.ask(&TERMS, at(0.5), at(0.5)), Verdict::Open { wait: Duration::from_millis(500) });
        assert_eq!(breaker.state(at(0.5)), State::Open);
        assert_eq!(breaker.state(at(1.0)), State::HalfOpen);
        let probe = probe(&breaker, at(1.0));
        assert_eq!(breaker.state(at(1.0)), State::HalfOpen);
        assert!(turns_away(&breaker, at(1.0)), "one probe alone");
        assert!(breaker.succeeded(Some(probe), at(1.1)));
        assert_eq!(breaker.ask(&TERMS, at(1.1), at(1.1)), Verdict::Closed);
    }

    #[test]
    fn cools_down_twice_as_long_after_each_failed_probe_up_to_the_maximum() {
        let breaker = open(at(0.0));
        let mut now = at(1.0);
        for expected in [2, 4, 8, 10, 10] {
            let probe = probe(&breaker, now);
            assert!(breaker.failed(&TERMS, Some(probe), now, now));
            assert_eq!(breaker.ask(&TERMS, now, now), Verdict::Open { wait: Duration::from_secs(expected) });
            now = now.after(Duration::from_secs(expected));
        }
        assert_eq!(breaker.opened(), 6);
    }

    #[test]
    fn a_call_from_before_neither_closes_nor_prolongs_it() {
        let breaker = open(at(0.0));
        assert!(!breaker.succeeded(None, at(0.5)), "a call that was under way");
        assert!(turns_away(&breaker, at(0.5)));
        let probe = probe(&breaker, at(1.0));
        for _ in 0..5 {
            assert!(!breaker.failed(&TERMS, None, at(0.0), at(1.1)));
        }
        assert!(breaker.succeeded(Some(probe), at(1.2)));
        // Those that time out only now began before it opened.
        for _ in 0..5 {
            assert!(!breaker.failed(&TERMS, None, at(0.0), at(1.3)));
        }
        assert_eq!(breaker.state(at(1.3)), State::Closed);
    }

    #[test]
    fn a_probe_that_is_handed_back_is_followed_by_another_at_once_and_a_lost_one_when_its_lease_ends() {
        let breaker = open(at(0.0));
        let first = probe(&breaker, at(1.0));
        breaker.abandoned(first, at(1.1));
        let lost = match breaker.ask(&TERMS, at(5.0), at(1.1)) {
            Verdict::Probe(probe) => probe,
            other => panic!("{other:?}"),
        };
        assert!(turns_away(&breaker, at(4.9)), "as long as the call may take");
        let next = probe(&breaker, at(5.1));
        assert!(!breaker.succeeded(Some(lost), at(5.2)), "it came too late to count");
        assert!(breaker.succeeded(Some(next), at(5.2)));
    }

    #[test]
    fn a_rule_that_is_switched_off_opens_nothing() {
        let off = Terms { consecutive: 0, ..TERMS };
        let breaker = open(at(0.0));
        let probe = probe(&breaker, at(1.0));
        assert!(!breaker.failed(&off, Some(probe), at(1.0), at(1.0)));
        assert!((0..9).all(|_| !breaker.failed(&off, None, at(2.0), at(2.0))));
        assert_eq!(breaker.state(at(2.0)), State::Closed);
    }

    proptest! {
        #[test]
        fn there_is_never_more_than_one_probe_and_it_never_stays_open_for_ever(
            steps in proptest::collection::vec((0u8..5, 0u64..2_000), 1..60)
        ) {
            let breaker = Breaker::default();
            let mut held: Option<Probe> = None;
            let mut now = at(0.0);
            for (step, millis) in steps {
                now = now.after(Duration::from_millis(millis));
                match step {
                    // A lease without end: only what is told or handed back ends it.
                    0 => if let Verdict::Probe(probe) = breaker.ask(&TERMS, Tick::MAX, now) {
                        prop_assert!(held.is_none());
                        held = Some(probe);
                    },
                    1 => { let _ = breaker.failed(&TERMS, None, now, now); },
                    2 => { let _ = breaker.succeeded(None, now); },
                    3 => if let Some(probe) = held.take() { breaker.abandoned(probe, now) },
                    _ => if let Some(probe) = held.take() { let _ = breaker.failed(&TERMS, Some(probe), now, now); },
                }
                prop_assert_eq!(breaker.state(now) == State::Closed, !breaker.is_tripped());
            }
            if let Some(probe) = held { breaker.abandoned(probe, now) }
            let later = now.after(TERMS.cooldown_max);
            prop_assert!(!turns_away(&breaker, later));
        }
    }
}
