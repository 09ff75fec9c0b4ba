//! Self-protection: whom the process refuses when it runs short of memory or of time, and when it stops doing so.
//!
//! A signal is brought to a *height*, from 0 (nothing) to 1 (the kernel would end us, or nobody would be answered in
//! time), and a [`Brake`] makes a [`Stage`] of it. Each stage refuses all that the one below refuses, and more:
//!
//! | stage | from height | refused |
//! | --- | --- | --- |
//! | calm | | nobody |
//! | greedy | 0.80 | tenants that hold more than their share of the bytes held |
//! | sheddable | 0.85 | sheddable requests, too |
//! | default | 0.90 | all but critical requests |
//! | all | 0.95 | all requests and new connections |
//!
//! Memory is not waited for: a stage is reached with the first sample that calls for it. It is left when the height has
//! lain [`LOWER_BY`] below it for [`LOWER_AFTER`], one stage at a time: what was let in meanwhile has shown what it takes.
//!
//! It measures nothing. Who does is in the binary; the stages of an exchange ask.

use std::time::Duration;

use crate::gate::Priority;
use crate::tick::{Tick, nanos};

/// The heights from which the stages above calm are reached.
pub const RAISE_AT: [f64; 4] = [0.80, 0.85, 0.90, 0.95];
/// How far below that a stage is left.
pub const LOWER_BY: f64 = 0.05;
/// How long the height must have been low, for each stage down.
pub const LOWER_AFTER: Duration = Duration::from_millis(250);
/// From this height of memory on, level 1, 2 and 3 are called for (see [`crate::gate::level`]): what costs and was not
/// asked for is saved before anybody is refused.
const LEVEL_FROM: f64 = 0.65;
/// What a value must have been at least for so long, to count as standing.
const STANDS_AFTER: Duration = Duration::from_millis(500);
/// What a request without a body counts for, among the bytes that its tenant holds: about what its connection's
/// buffers, its head and its record take.
pub const EXCHANGE_BYTES: u64 = 8 << 10;

/// Who is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nobody.
    #[default]
    Calm,
    /// Tenants that hold more than their share.
    Greedy,
    /// Sheddable requests, too.
    Sheddable,
    /// All but critical ones.
    Default,
    /// Everybody.
    All,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Stage; 5] = [Stage::Calm, Stage::Greedy, Stage::Sheddable, Stage::Default, Stage::All];

    /// What this height calls for by itself.
    #[must_use]
    pub fn at(height: f64) -> Stage {
        Stage::ALL[RAISE_AT.iter().take_while(|&&at| height >= at).count()]
    }

    /// The stage of this number; the highest, if there is none.
    #[must_use]
    pub fn numbered(number: u8) -> Stage {
        Stage::ALL.get(usize::from(number)).copied().unwrap_or(Stage::All)
    }

    /// Whether a request of this importance is refused, whoever's it is.
    #[must_use]
    pub fn refuses(self, priority: Priority) -> bool {
        self >= match priority {
            Priority::Sheddable => Stage::Sheddable,
            Priority::Default => Stage::Default,
            Priority::Critical => Stage::All,
        }
    }

    /// Its name in metrics and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Calm => "calm",
            Stage::Greedy => "greedy",
            Stage::Sheddable => "sheddable",
            Stage::Default => "default",
            Stage::All => "all",
        }
    }
}

/// A stage with its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Brake {
    stage: Stage,
    low_since: Option<Tick>,
}

impl Brake {
    /// The signal is so high now. The stage after that. A height that is no number counts as none.
    pub fn observe(&mut self, height: f64, now: Tick) -> Stage {
        let called = Stage::at(height);
        if called > self.stage {
            *self = Brake { stage: called, low_since: None };
            return called;
        }
        let stage = self.stage as usize;
        let Some(below) = stage.checked_sub(1) else { return self.stage };
        if height >= RAISE_AT[below] - LOWER_BY {
            self.low_since = None;
            return self.stage;
        }
        let since = *self.low_since.get_or_insert(now);
        if now.since(since) >= LOWER_AFTER {
            *self = Brake { stage: Stage::ALL[below], low_since: Some(now) };
        }
        self.stage
    }
}

/// How high memory stands: the share of `limit` that is used. Without a limit it has no height.
#[must_use]
pub fn height(used: u64, limit: u64) -> f64 {
    if limit == 0 { 0.0 } else { used as f64 / limit as f64 }
}

/// How high the lateness of an event loop stands, where `most` is what clients may be made to wait by it: sheddable
/// requests are refused from a half of that on, all but critical ones from there on, and everybody from twice as much
/// on. Without `most` it has no height.
#[must_use]
pub fn height_of_lag(standing: Duration, most: Duration) -> f64 {
    if most.is_zero() {
        return 0.0;
    }
    let ratio = standing.as_secs_f64() / most.as_secs_f64();
    let [_, sheddable, default, all] = RAISE_AT;
    match ratio {
        low if low < 0.5 => low * 2.0 * sheddable,
        low if low < 1.0 => sheddable + (low - 0.5) * 2.0 * (default - sheddable),
        high => (default + (high - 1.0) * (all - default)).min(1.0),
    }
}

/// What a height says to the level: the three levels lie between `LEVEL_FROM` and the end, evenly.
#[must_use]
pub fn signal(height: f64) -> f64 {
    ((height - LEVEL_FROM) / (1.0 - LEVEL_FROM)).clamp(0.0, 1.0)
}

/// Whether a tenant that holds so much holds more than its share: the bytes for each unit of weight, of all tenants that
/// hold any.
#[must_use]
pub fn is_greedy(held: u64, weight: u32, per_weight: u64) -> bool {
    held > per_weight.saturating_mul(weight.max(1).into())
}

/// The bytes for each unit of weight, of tenants with these bytes and weights: who holds nothing has no part in it.
#[must_use]
pub fn per_weight(tenants: impl Iterator<Item = (u64, u32)>) -> u64 {
    let holding = tenants.filter(|(held, _)| *held > 0);
    let (held, weights) = holding.fold((0u64, 0u64), |(held, weights), (bytes, weight)| {
        (held.saturating_add(bytes), weights.saturating_add(weight.max(1).into()))
    });
    held.checked_div(weights).unwrap_or(u64::MAX)
}

/// The least of a value over a while: a burst has an end soon, and does not count; what stands does. (As CoDel tells a
/// good queue from a bad one: Nichols and Jacobson 2012.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    since: Tick,
    least: u64,
    /// The least of the while before; `None`: it is too long ago to say anything.
    before: Option<u64>,
}

impl Standing {
    /// The value is this now. The least over the last half to whole second.
    pub fn observe(&mut self, value: u64, now: Tick) -> u64 {
        if now.since(self.since) < STANDS_AFTER {
            self.least = self.least.min(value);
        } else {
            *self = Standing { since: now, least: value, before: Some(self.least) };
        }
        self.least.min(self.before.unwrap_or(0))
    }

    /// The same for a duration.
    pub fn observe_time(&mut self, value: Duration, now: Tick) -> Duration {
        Duration::from_nanos(self.observe(nanos(value), now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Tick {
        Tick(millis * 1_000_000)
    }

    /// Observes `(milliseconds, height)`, then expects this stage.
    fn check(observed: &[(u64, f64)], expected: Stage) {
        let mut brake = Brake::default();
        for &(millis, height) in observed {
            brake.observe(height, at(millis));
        }
        assert_eq!(brake.stage, expected, "{observed:?}");
    }

    #[test]
    fn is_reached_with_the_first_sample_that_calls_for_it() {
        for (height, stage) in [(0.79, Stage::Calm), (0.80, Stage::Greedy), (0.86, Stage::Sheddable)] {
            check(&[(0, height)], stage);
        }
        check(&[(0, 0.90)], Stage::Default);
        check(&[(0, 7.0)], Stage::All);
        check(&[(0, f64::NAN)], Stage::Calm);
    }

    #[test]
    fn is_left_stage_by_stage_after_a_while() {
        check(&[(0, 1.0), (100, 0.0), (349, 0.0)], Stage::All);
        check(&[(0, 1.0), (100, 0.0), (350, 0.0)], Stage::Default);
        let all_the_way: Vec<(u64, f64)> =
            std::iter::once((0, 1.0)).chain((1..=11).map(|n| (n * 100, 0.0))).collect();
        check(&all_the_way[..11], Stage::Greedy);
        check(&[(0, 1.0), (100, 0.0), (350, 0.0), (600, 0.0), (850, 0.0), (1_100, 0.0)], Stage::Calm);
    }

    #[test]
    fn lasts_while_the_height_is_just_below() {
        check(&[(0, 0.92), (100, 0.86), (10_000, 0.86)], Stage::Default);
        check(&[(0, 0.92), (100, 0.80), (300, 0.86), (340, 0.80), (500, 0.80)], Stage::Default);
    }

    #[test]
    fn requests_are_shed_in_the_order_of_their_importance() {
        for stage in Stage::ALL {
            let refused = Priority::ALL.map(|priority| stage.refuses(priority));
            assert!(refused.is_sorted_by(|less, more| less >= more), "{stage:?}");
        }
        assert!(!Stage::Greedy.refuses(Priority::Sheddable));
        assert!(!Stage::Default.refuses(Priority::Critical) && Stage::All.refuses(Priority::Critical));
    }

    #[test]
    fn lateness_sheds_from_a_half_of_what_may_be_on() {
        let most = Duration::from_millis(400);
        let stage = |millis| Stage::at(height_of_lag(Duration::from_millis(millis), most));
        assert_eq!([0, 150].map(stage), [Stage::Calm; 2]);
        assert_eq!(stage(200), Stage::Sheddable);
        assert_eq!(stage(400), Stage::Default);
        assert_eq!([801, 60_000].map(stage), [Stage::All; 2]);
        assert!(height_of_lag(Duration::from_secs(9), Duration::ZERO) == 0.0);
    }

    #[test]
    fn a_level_is_called_for_before_anybody_is_refused() {
        assert_eq!(signal(0.5), 0.0);
        assert!(signal(0.79) > 0.3, "hedges and retries are saved first");
        assert_eq!([signal(1.0), signal(3.0)], [1.0; 2]);
    }

    #[test]
    fn who_holds_more_than_its_share_by_weight_is_greedy() {
        let share = per_weight([(900, 1), (100, 1), (0, 50), (500, 3)].into_iter());
        assert_eq!(share, 300);
        assert!(is_greedy(900, 1, share));
        assert!(!is_greedy(100, 1, share) && !is_greedy(500, 3, share));
        assert!(!is_greedy(u64::MAX, 1, per_weight(std::iter::empty())));
    }

    #[test]
    fn a_burst_does_not_stand() {
        let mut standing = Standing::default();
        let mut least = |millis, value| standing.observe(value, at(millis));
        assert_eq!([least(5_000, 0), least(5_100, 900), least(5_500, 900), least(5_900, 900)], [0; 4]);
        assert_eq!(least(6_000, 900), 900, "half a second of nothing else");
        assert_eq!(least(6_100, 3), 3);
        // A single stop of the world is over with the next look.
        let mut standing = Standing::default();
        assert_eq!(standing.observe(1, at(5_000)), 0);
        assert_eq!(standing.observe(3_000, at(8_000)), 1);
        assert_eq!(standing.observe(0, at(8_100)), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn no_stage_flaps(steps in proptest::collection::vec((1u64..200, 0.0f64..1.2), 1..200)) {
            let (mut brake, mut now, mut changed) = (Brake::default(), Tick(0), Tick(0));
            for (step, height) in steps {
                now = now.after(Duration::from_millis(step));
                let before = brake.stage;
                let after = brake.observe(height, now);
                prop_assert!(after >= Stage::at(height));
                if after < before {
                    prop_assert_eq!(before as u8 - after as u8, 1);
                    prop_assert!(height < RAISE_AT[after as usize] - LOWER_BY);
                    prop_assert!(now.since(changed) >= LOWER_AFTER);
                }
                if after != before {
                    changed = now;
                }
            }
        }

        #[test]
        fn more_height_never_refuses_fewer(low in 0.0f64..1.2, more in 0.0f64..1.0) {
            for priority in Priority::ALL {
                prop_assert!(!Stage::at(low).refuses(priority) || Stage::at(low + more).refuses(priority));
            }
        }

        #[test]
        fn somebody_is_within_its_share(held in proptest::collection::vec((0u64..1 << 40, 1u32..1000), 1..50)) {
            let share = per_weight(held.iter().copied());
            let holding: Vec<_> = held.iter().filter(|(bytes, _)| *bytes > 0).collect();
            // Whole bytes: all may lie less than one byte for each unit of weight above it.
            let within = |(bytes, weight): &&(u64, u32)| !is_greedy(*bytes, *weight, share + 1);
            prop_assert!(holding.is_empty() || holding.iter().any(within));
        }
    }
}
