//! What an attempt's outcome means: whether it was the last one, and when the next is made.

use std::time::Duration;

use http::StatusCode;

use super::Ms;
use super::step::Becomes;
use crate::tick::nanos;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered; the answer may say when to come again.
    Answered(StatusCode, Option<Duration>),
    /// It was not answered, and the upstream may have seen it.
    Unanswered,
    /// Whoever held it by a lease said that it failed; perhaps when to come again.
    Refused(Option<Duration>),
    /// Whoever held it by a lease said that it never will succeed.
    Never,
    /// Whoever held it was not heard of until its lease ended.
    Lapsed,
    /// Nothing has left this process: a breaker is open, or there was no slot. Perhaps when to come again.
    Unsent(Option<Duration>),
}

/// How a queue judges attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Attempts of one delivery.
    pub attempts_max: u32,
    /// When the next is made.
    pub backoff: Backoff,
    /// Statuses after which no further attempt is made, beside those that no repeat helps.
    pub never: Vec<StatusCode>,
    /// How long deliveries are kept that ended well, were given up, were cancelled.
    pub keep: Keep,
}

/// How long what has ended is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// What was delivered.
    pub delivered: Duration,
    /// What is dead.
    pub dead: Duration,
    /// What was cancelled.
    pub cancelled: Duration,
}

impl Default for Keep {
    fn default() -> Keep {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Keep { delivered: days(1), dead: days(14), cancelled: days(1) }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { attempts_max: 10, backoff: Backoff::default(), never: Vec::new(), keep: Keep::default() }
    }
}

/// When a failed attempt is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// The pause doubles from the first on until it is the longest.
    Exponential {
        /// The first.
        first: Duration,
        /// The longest.
        max: Duration,
    },
    /// These pauses, one after the other; the last one stays.
    Schedule(Vec<Duration>),
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff::Exponential { first: Duration::from_secs(1), max: Duration::from_secs(3600) }
    }
}

impl Backoff {
    /// The pause after so many attempts (1: the first has failed), between half of it and all of it by chance: so what
    /// failed together does not come again together, and none comes at once.
    #[must_use]
    pub fn pause(&self, attempts: u32, chance: u64) -> Duration {
        let number = attempts.saturating_sub(1);
        let whole = match self {
            Backoff::Exponential { first, max } => first.saturating_mul(1 << number.min(30)).min(*max),
            Backoff::Schedule(pauses) => {
                pauses.get(number as usize).or(pauses.last()).copied().unwrap_or_default()
            }
        };
        let half = nanos(whole) / 2;
        let by_chance = (u128::from(half) * u128::from(chance)) >> 64;
        whole
            .saturating_sub(Duration::from_nanos(half))
            .saturating_add(Duration::from_nanos(by_chance as u64))
    }
}

/// The longest that an answer may put off the next attempt.
const LATER_MAX: Duration = Duration::from_secs(86_400);

/// Whether an attempt that was answered so is made again: the server's errors, and what says "not now".
#[must_use]
pub fn may_come_again(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 409 | 423 | 425 | 429) || status.is_server_error() && status != 501
}

/// What becomes of a delivery whose attempt number `attempts` has ended so.
#[must_use]
pub fn judge(
    outcome: Outcome,
    policy: &Policy,
    attempts: u32,
    attempts_max: Option<u32>,
    now: Ms,
    chance: u64,
) -> Becomes {
    let dead = Becomes::Dead { forgotten: later(now, policy.keep.dead) };
    let again = |told: Option<Duration>| {
        if attempts >= attempts_max.unwrap_or(policy.attempts_max) {
            return dead;
        }
        let pause = policy.backoff.pause(attempts, chance);
        Becomes::Again { due: later(now, pause.max(told.unwrap_or_default().min(LATER_MAX))) }
    };
    match outcome {
        Outcome::Answered(status, _) if status.is_success() => {
            Becomes::Delivered { forgotten: later(now, policy.keep.delivered) }
        }
        Outcome::Answered(status, _) if policy.never.contains(&status) || !may_come_again(status) => dead,
        Outcome::Answered(_, told) | Outcome::Refused(told) => again(told),
        Outcome::Unanswered | Outcome::Lapsed => again(None),
        Outcome::Never => dead,
        Outcome::Unsent(told) => {
            let wait = told.unwrap_or(Duration::from_secs(1)).min(LATER_MAX);
            Becomes::Unsent { due: later(now, wait) }
        }
    }
}

/// So much later.
#[must_use]
pub fn later(now: Ms, wait: Duration) -> Ms {
    now.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: Outcome, attempts: u32, expected: Becomes) {
        let policy = Policy {
            attempts_max: 3,
            backoff: Backoff::Exponential { first: Duration::from_secs(2), max: Duration::from_secs(5) },
            never: vec![StatusCode::SERVICE_UNAVAILABLE],
            keep: Keep {
                delivered: Duration::from_secs(1),
                dead: Duration::from_secs(2),
                cancelled: Duration::ZERO,
            },
        };
        assert_eq!(judge(outcome, &policy, attempts, None, 1_000, u64::MAX), expected);
    }

    #[test]
    fn an_answer_is_judged_by_its_status() {
        let answered = |status, told| Outcome::Answered(StatusCode::from_u16(status).unwrap(), told);
        check(answered(204, None), 1, Becomes::Delivered { forgotten: 2_000 });
        check(answered(302, None), 1, Becomes::Dead { forgotten: 3_000 });
        check(answered(400, None), 1, Becomes::Dead { forgotten: 3_000 });
        check(answered(501, None), 1, Becomes::Dead { forgotten: 3_000 });
        check(answered(503, None), 1, Becomes::Dead { forgotten: 3_000 });
        check(answered(500, None), 1, Becomes::Again { due: 2_999 });
        check(answered(429, Some(Duration::from_secs(30))), 1, Becomes::Again { due: 31_000 });
        check(answered(429, Some(Duration::MAX)), 1, Becomes::Again { due: 86_401_000 });
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        check(Outcome::Unanswered, 2, Becomes::Again { due: 4_999 });
        check(Outcome::Unanswered, 3, Becomes::Dead { forgotten: 3_000 });
        check(Outcome::Lapsed, 3, Becomes::Dead { forgotten: 3_000 });
        check(Outcome::Never, 1, Becomes::Dead { forgotten: 3_000 });
        check(Outcome::Unsent(None), 3, Becomes::Unsent { due: 2_000 });
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_never_less_than_half() {
        let backoff = Backoff::Exponential { first: Duration::from_secs(2), max: Duration::from_secs(60) };
        for (attempts, seconds) in [(1, 2), (2, 4), (3, 8), (6, 60), (u32::MAX, 60)] {
            let whole = Duration::from_secs(seconds);
            assert_eq!(backoff.pause(attempts, 0), whole / 2);
            assert!(backoff.pause(attempts, u64::MAX) <= whole);
        }
        let pauses = Backoff::Schedule(vec![Duration::from_secs(5), Duration::from_secs(9)]);
        assert!(pauses.pause(1, 0) < pauses.pause(2, 0));
        assert_eq!(pauses.pause(2, 7), pauses.pause(99, 7));
        assert_eq!(Backoff::Schedule(Vec::new()).pause(1, 7), Duration::ZERO);
    }
}
