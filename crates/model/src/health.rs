//! What active checks make of an endpoint. Pure: an answer goes in, a transition comes out.
//!
//! ```text
//!             first answer good                 `unhealthy` bad in a row
//! unknown ------------------------> healthy --------------------------> unhealthy
//!    |                                 ^                                    |  ^
//!    |                                 +------- `healthy` good in a row ----+  |
//!    +------------------------ first answer bad -------------------------------+
//! ```
//!
//! An endpoint that was never checked is used: a restart must not refuse traffic until the first round of checks is
//! over. In return its very first answer decides, whatever the thresholds say (as HAProxy's `init-state up`).

use std::time::Duration;

use crate::tick::Tick;

/// What it takes to change what is thought of an endpoint. A zero counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Good answers in a row that make an unhealthy endpoint healthy.
    pub healthy: u32,
    /// Bad answers in a row that make a healthy endpoint unhealthy.
    pub unhealthy: u32,
}

/// What is thought of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Never checked: used.
    #[default]
    Unknown,
    /// Used.
    Healthy,
    /// Not used.
    Unhealthy,
}

impl State {
    /// The name used in status and log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::Unknown => "unknown",
            State::Healthy => "healthy",
            State::Unhealthy => "unhealthy",
        }
    }
}

/// The record of one endpoint's checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    state: State,
    since: Tick,
    /// Answers in a row that speak against the state.
    against: u32,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What was thought before.
    pub from: State,
    /// What is thought now.
    pub to: State,
    /// How long the state before had lasted.
    pub after: Duration,
}

impl Health {
    /// An endpoint that is known from now on and was never checked.
    #[must_use]
    pub fn unknown(now: Tick) -> Health {
        Health { state: State::Unknown, since: now, against: 0 }
    }

    /// What is thought of it.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when.
    #[must_use]
    pub fn since(&self) -> Tick {
        self.since
    }

    /// A check was answered. The transition, if this made one.
    pub fn answered(&mut self, good: bool, terms: Terms, now: Tick) -> Option<Transition> {
        let (needed, to) = match (self.state, good) {
            (State::Unknown, true) => (1, State::Healthy),
            (State::Unknown, false) => (1, State::Unhealthy),
            (State::Unhealthy, true) => (terms.healthy.max(1), State::Healthy),
            (State::Healthy, false) => (terms.unhealthy.max(1), State::Unhealthy),
            (State::Healthy, true) | (State::Unhealthy, false) => {
                self.against = 0;
                return None;
            }
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        let transition = Transition { from: self.state, to, after: now.since(self.since) };
        *self = Health { state: to, since: now, against: 0 };
        Some(transition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { healthy: 2, unhealthy: 3 };

    /// Feeds answers (`g`ood, `b`ad); tells the state after each (`H`ealthy, `U`nhealthy, `?`).
    fn check(answers: &str, expected: &str) {
        let mut health = Health::default();
        let told: String = answers
            .chars()
            .enumerate()
            .map(|(at, answer)| {
                let before = health.state();
                let transition = health.answered(answer == 'g', TERMS, Tick(at as u64));
                assert_eq!(transition.is_some(), before != health.state());
                match health.state() {
                    State::Unknown => '?',
                    State::Healthy => 'H',
                    State::Unhealthy => 'U',
                }
            })
            .collect();
        assert_eq!(told, expected, "of {answers}");
    }

    #[test]
    fn the_first_answer_decides() {
        assert_eq!(Health::unknown(Tick(7)).state(), State::Unknown);
        check("g", "H");
        check("b", "U");
    }

    #[test]
    fn it_takes_a_run_to_change_what_is_thought() {
        check("gbbgbbb", "HHHHHHU");
        check("bgbgg", "UUUUH");
        check("gbbbbbg", "HHHUUUU");
    }

    #[test]
    fn a_transition_tells_how_long_the_state_before_had_lasted() {
        let mut health = Health::unknown(Tick(0));
        let told = health.answered(false, TERMS, Tick(5)).unwrap();
        assert_eq!(
            told,
            Transition { from: State::Unknown, to: State::Unhealthy, after: Duration::from_nanos(5) }
        );
        assert_eq!(health.since(), Tick(5));
    }

    proptest! {
        #[test]
        fn flapping_faster_than_the_thresholds_changes_nothing(
            rounds in 1usize..50, healthy in 2u32..10, unhealthy in 2u32..10, start in any::<bool>()
        ) {
            let terms = Terms { healthy, unhealthy };
            let mut health = Health::default();
            health.answered(start, terms, Tick(0));
            let against = if start { unhealthy } else { healthy };
            for round in 0..rounds {
                for _ in 1..against {
                    prop_assert_eq!(health.answered(!start, terms, Tick(round as u64)), None);
                }
                prop_assert_eq!(health.answered(start, terms, Tick(round as u64)), None);
            }
        }

        #[test]
        fn a_long_enough_run_always_wins(answers in proptest::collection::vec(any::<bool>(), 0..40), last in any::<bool>()) {
            let mut health = Health::default();
            for good in answers {
                health.answered(good, TERMS, Tick(1));
            }
            for _ in 0..3 {
                health.answered(last, TERMS, Tick(2));
            }
            prop_assert_eq!(health.state(), if last { State::Healthy } else { State::Unhealthy });
        }
    }
}
