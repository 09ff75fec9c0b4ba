//! How overloaded the house is, in four levels, for what is switched off by level and for `Tidegate-Load`.
//!
//! | level | means |
//! | --- | --- |
//! | 0 | nothing |
//! | 1 | requests wait: save what costs and is not asked for |
//! | 2 | requests wait long, or some are refused: leave out what may be left out |
//! | 3 | many are refused: keep what must be kept |
//!
//! It is raised when the pressure has been high for [`RAISE_AFTER`], straight to the level that it calls for, and lowered
//! by one when it has been low for as long as is asked, [`LOWER_AFTER`] if nothing else is. Between the height at which a level is raised and that at which it is
//! lowered nothing changes. So it cannot flap: a level that was raised lasts that long at least.

use std::time::Duration;

use crate::tick::Tick;

/// How long the pressure must have been high.
pub const RAISE_AFTER: Duration = Duration::from_millis(100);
/// How long it must have been low, for each step down, unless the operator says otherwise.
pub const LOWER_AFTER: Duration = Duration::from_secs(5);
/// The highest level.
pub const LEVEL_MAX: u8 = 3;

/// At this pressure or above, levels 1, 2 and 3 are called for.
const RAISE_AT: [f64; 3] = [0.3, 0.6, 0.9];
/// Below this, they are not needed any more.
const LOWER_AT: [f64; 3] = [0.15, 0.4, 0.7];
/// A share of refusals that is no accident.
const REFUSED_SOME: f64 = 0.01;
/// So few are an accident, whatever their share.
const REFUSED_FEW: f64 = 3.0;
/// Of fewer than so many, each counts as one of so many.
const ASKED_FEW: f64 = 20.0;
/// In how long what was counted loses half of its weight.
const SHARE_HALF_LIFE: Duration = Duration::from_secs(1);
/// A share of refusals that calls for level 3.
const REFUSED_MANY: f64 = 0.2;

/// What tells of overload, each from 0 to 1 where 1 is as bad as it gets. What is not measured is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signals {
    /// The wait for a slot, over the longest wait there is.
    pub wait: f64,
    /// Refused for want of slots, room or time, over all that asked, of late.
    pub refused: f64,
    /// Bytes held, over the most that may be.
    pub memory: f64,
    /// How late an event loop is, over what is too late.
    pub lag: f64,
}

impl Signals {
    /// All in one: the worst of them, so that none can be outvoted. Waiting alone calls for level 2 at most: a
    /// list that is long and refuses nobody does what it is for.
    #[must_use]
    pub fn pressure(&self) -> f64 {
        let refused = match self.refused {
            few if few < REFUSED_SOME => few / REFUSED_SOME * RAISE_AT[0],
            some => RAISE_AT[1] + (some / REFUSED_MANY).min(1.0) * (1.0 - RAISE_AT[1]),
        };
        let worst = [self.wait * 0.8, refused, self.memory, self.lag];
        worst.into_iter().filter(|signal| signal.is_finite()).fold(0.0, f64::max).min(1.0)
    }
}

/// The share of refusals of late, from counters that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RefusedShare {
    refused: f64,
    served: f64,
    before: (u64, u64),
    at: Tick,
}

impl RefusedShare {
    /// So many were refused and served, ever. The share of the refused, of late. A few refusals are an accident,
    /// whatever their share.
    pub fn observe(&mut self, refused: u64, served: u64, now: Tick) -> f64 {
        let half_lives = now.since(self.at).as_secs_f64() / SHARE_HALF_LIFE.as_secs_f64();
        let kept = 0.5f64.powf(half_lives);
        self.refused = self.refused * kept + refused.saturating_sub(self.before.0) as f64;
        self.served = self.served * kept + served.saturating_sub(self.before.1) as f64;
        (self.before, self.at) = ((refused, served), now);
        if self.refused < REFUSED_FEW {
            0.0
        } else {
            self.refused / (self.refused + self.served).max(ASKED_FEW)
        }
    }
}

/// From which level on a route does without what it could do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degrade {
    /// A second try beside a slow first one.
    pub hedge: u8,
    /// Another try after a failed one.
    pub retry: u8,
    /// Its upstream, where it has a fallback: that answers at once.
    pub upstream: u8,
    /// All of it: its requests are refused.
    pub route: u8,
    /// The lines of the access log, but for some, of requests that went well.
    pub log: u8,
    /// The compression of its answers, where it has any.
    pub compress: u8,
}

/// At no level.
pub const NEVER: u8 = LEVEL_MAX + 1;

impl Default for Degrade {
    fn default() -> Degrade {
        Degrade { hedge: 1, retry: 2, upstream: NEVER, route: NEVER, log: NEVER, compress: 2 }
    }
}

/// A level with its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Level {
    level: u8,
    /// The level that was called for at least, and since when.
    rising: Option<(u8, Tick)>,
    /// Since when the present one is not needed.
    falling: Option<Tick>,
}

impl Level {
    /// The level, 0 to [`LEVEL_MAX`].
    #[must_use]
    pub fn get(&self) -> u8 {
        self.level
    }

    /// The pressure is so high now; low for `lower_after`, it lowers the level by one. The level after that.
    pub fn observe(&mut self, pressure: f64, lower_after: Duration, now: Tick) -> u8 {
        let called = RAISE_AT.iter().take_while(|&&at| pressure >= at).count() as u8;
        self.rise(called, now);
        self.fall(pressure, lower_after, now);
        self.level
    }

    fn rise(&mut self, called: u8, now: Tick) {
        if called <= self.level {
            self.rising = None;
            return;
        }
        let (least, since) = self.rising.map_or((called, now), |(least, since)| (least.min(called), since));
        self.rising = Some((least, since));
        if now.since(since) >= RAISE_AFTER {
            // What calls for more than that has yet to last.
            self.level = least;
            self.rising = (called > least).then_some((called, now));
            self.falling = None;
        }
    }

    fn fall(&mut self, pressure: f64, lower_after: Duration, now: Tick) {
        let needed = match self.level.checked_sub(1) {
            Some(below) => pressure >= LOWER_AT[usize::from(below)],
            None => true,
        };
        if needed {
            self.falling = None;
            return;
        }
        let since = *self.falling.get_or_insert(now);
        if now.since(since) >= lower_after {
            self.level -= 1;
            self.falling = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Observes `(milliseconds, pressure)`, then expects this level.
    fn check(observed: &[(u64, f64)], expected: u8) {
        let mut level = Level::default();
        for &(at, pressure) in observed {
            level.observe(pressure, LOWER_AFTER, Tick(at * 1_000_000));
        }
        assert_eq!(level.get(), expected, "{observed:?}");
    }

    #[test]
    fn a_peak_is_no_overload() {
        check(&[(0, 1.0), (99, 1.0), (100, 0.1), (150, 1.0)], 0);
    }

    #[test]
    fn is_raised_straight_to_what_was_called_for_all_the_time() {
        check(&[(0, 1.0), (50, 0.95), (100, 1.0)], 3);
        check(&[(0, 1.0), (50, 0.65), (100, 1.0)], 2);
        check(&[(0, 1.0), (50, 0.65), (100, 1.0), (200, 1.0)], 3);
    }

    #[test]
    fn is_lowered_step_by_step() {
        let fallen = |at| [(0, 1.0), (100, 1.0), (200, 0.0), (at, 0.0)];
        check(&fallen(5_199), 3);
        check(&fallen(5_200), 2);
        check(&[(0, 1.0), (100, 1.0), (200, 0.0), (5_200, 0.0), (10_200, 0.0), (15_200, 0.0)], 0);
    }

    #[test]
    fn lasts_while_the_pressure_is_between_the_heights() {
        check(&[(0, 1.0), (100, 1.0), (200, 0.75), (60_000, 0.75)], 3);
        check(&[(0, 1.0), (100, 1.0), (200, 0.0), (5_000, 0.75), (5_200, 0.0), (10_000, 0.0)], 3);
    }

    #[test]
    fn waiting_alone_calls_for_two_and_refusing_many_for_three() {
        let level = |signals: Signals| RAISE_AT.iter().filter(|&&at| signals.pressure() >= at).count();
        assert_eq!(level(Signals { wait: 1.0, ..Signals::default() }), 2);
        assert_eq!(level(Signals { wait: 0.2, refused: 0.005, ..Signals::default() }), 0);
        assert_eq!(level(Signals { refused: 0.02, ..Signals::default() }), 2);
        assert_eq!(level(Signals { refused: 0.2, ..Signals::default() }), 3);
        assert_eq!(level(Signals { memory: 0.95, lag: f64::NAN, ..Signals::default() }), 3);
    }

    #[test]
    fn a_few_refusals_are_an_accident_and_what_is_long_past_is_forgotten() {
        let mut share = RefusedShare::default();
        let mut observe =
            |millis: u64, refused, served| share.observe(refused, served, Tick(millis * 1_000_000));
        assert_eq!(observe(60_000, 2, 0), 0.0);
        assert_eq!(observe(60_000, 4, 6), 0.2, "four of twenty, as there were ten only");
        assert_eq!(observe(60_000, 50, 50), 0.5);
        assert!((observe(61_000, 50, 100) - 0.25).abs() < 1e-9, "25 of 25 and 25 + 50");
        assert_eq!(observe(120_000, 50, 200), 0.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn a_level_that_was_raised_lasts(steps in proptest::collection::vec((1u64..400, 0.0f64..1.0), 1..300)) {
            let (mut level, mut now, mut raised_at) = (Level::default(), Tick(0), Tick(0));
            for (step, pressure) in steps {
                now = now.after(Duration::from_millis(step));
                let before = level.get();
                let after = level.observe(pressure, LOWER_AFTER, now);
                prop_assert!(after <= LEVEL_MAX);
                if after > before {
                    prop_assert!(pressure >= RAISE_AT[usize::from(after - 1)]);
                    raised_at = now;
                }
                if after < before {
                    prop_assert!(before - after == 1 && now.since(raised_at) >= LOWER_AFTER);
                }
            }
        }
    }
}
