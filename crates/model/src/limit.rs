//! Rates by GCRA (the generic cell rate algorithm, ITU-T I.371): one atomic word a limit, exact over all cores.
//!
//! The word is the *theoretical arrival time*: the tick at which the limit will be full again. It says nothing of
//! the rate, so a changed plan keeps what was spent. A request is let through while the word lies at most a burst
//! ahead of now, and moves it ahead by one request's share of the window. N cores never let N times the rate pass:
//! all of them compare and exchange the same word.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::plan::Rate;
use crate::tick::{Tick, nanos};

/// The state of one limit.
#[derive(Debug, Default)]
pub struct Word {
    /// The tick at which it is full again.
    at: AtomicU64,
    /// How far ahead the rate that it was last used with lets that lie, in nanoseconds. Written when a rate changes, never
    /// by a request.
    burst: AtomicU64,
}

/// What a limit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let through.
    Passed {
        /// Requests left that may come at once.
        remaining: u64,
        /// Until the limit is full again.
        reset: Duration,
    },
    /// Refused: nothing was spent.
    Refused {
        /// Until one request may pass.
        retry_after: Duration,
    },
}

impl Word {
    /// Spends one request of `rate`.
    pub fn take(&self, rate: &Rate, now: Tick) -> Verdict {
        let share = share_nanos(rate);
        let burst = share.saturating_mul(rate.burst);
        let mut full_at = self.full_at(burst, now);
        loop {
            let after = full_at.max(now.0).saturating_add(share);
            let ahead = after - now.0;
            if ahead > burst {
                return Verdict::Refused { retry_after: Duration::from_nanos(ahead - burst) };
            }
            match self.at.compare_exchange_weak(full_at, after, Relaxed, Relaxed) {
                Ok(_) => {
                    return Verdict::Passed {
                        remaining: (burst - ahead) / share,
                        reset: Duration::from_nanos(ahead),
                    };
                }
                Err(seen) => full_at = seen,
            }
        }
    }

    /// Gives back what [`Word::take`] spent just now, when another limit refused the same request.
    ///
    /// Until then a concurrent request may see it as spent. Ask [`Word::wait`] of all limits first: then this is
    /// only for the request that lost a race between the asking and the taking.
    pub fn give_back(&self, rate: &Rate) {
        self.lower(share_nanos(rate));
    }

    /// The tick at which it is full again, in nanoseconds.
    pub(crate) fn full_again(&self) -> u64 {
        self.at.load(Relaxed)
    }

    /// Spends what another process has let pass, whatever is left.
    pub(crate) fn spend(&self, nanos: u64, now: Tick) {
        let after = |at: u64| Some(at.max(now.0).saturating_add(nanos));
        let _ = self.at.fetch_update(Relaxed, Relaxed, after);
    }

    /// Forgets what was spent: it is for another limit now.
    pub fn forget(&self) {
        self.at.store(0, Relaxed);
        self.burst.store(0, Relaxed);
    }

    /// Whether nothing is spent any more.
    #[must_use]
    pub fn is_full(&self, now: Tick) -> bool {
        self.at.load(Relaxed) <= now.0
    }

    /// Requests left that may come at once, and until the limit is full again. Spends nothing.
    #[must_use]
    pub fn left(&self, rate: &Rate, now: Tick) -> (u64, Duration) {
        let share = share_nanos(rate);
        let burst = share.saturating_mul(rate.burst);
        let ahead = self.full_at(burst, now).saturating_sub(now.0);
        (burst.saturating_sub(ahead) / share, Duration::from_nanos(ahead))
    }

    /// Until one request may pass; zero if one may now. Spends nothing.
    #[must_use]
    pub fn wait(&self, rate: &Rate, now: Tick) -> Duration {
        let share = share_nanos(rate);
        let burst = share.saturating_mul(rate.burst);
        let ahead = self.full_at(burst, now).max(now.0).saturating_add(share) - now.0;
        Duration::from_nanos(ahead.saturating_sub(burst))
    }

    /// When the limit is full again, as this rate could have brought it.
    ///
    /// A word that lies further ahead was written under a slower rate, before a reload: a tenant that was held to one
    /// request a day and is now entitled to a thousand a second shall not wait for the rest of the day. It counts as
    /// all spent. That is looked at when the rate has changed, and only then: a core whose clock reading is old sees
    /// every word far ahead, and would give back what was spent since.
    fn full_at(&self, burst: u64, now: Tick) -> u64 {
        if self.burst.load(Relaxed) != burst && self.burst.swap(burst, Relaxed) != burst {
            let spent = now.0.saturating_add(burst);
            let _ = self.at.fetch_update(Relaxed, Relaxed, |at| (at > spent).then_some(spent));
        }
        self.at.load(Relaxed)
    }

    /// Reserves the time that these bytes take at this pace, after all that was reserved before. Bytes are delayed,
    /// never refused.
    ///
    /// A tenth of a second may be reserved ahead without waiting, so that small bodies are not chopped up. Reserve
    /// at most [`piece`] bytes at a time: then what a tenant can owe is bounded by its exchanges.
    #[must_use]
    pub fn reserve(&self, bytes: u64, per_second: NonZeroU64, now: Tick) -> Reserved {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(per_second.get());
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let mut full_at = self.at.load(Relaxed);
        loop {
            let before = full_at.max(now.0);
            match self.at.compare_exchange_weak(full_at, before.saturating_add(nanos), Relaxed, Relaxed) {
                Ok(_) => {
                    let wait = (before - now.0).saturating_sub(AHEAD);
                    return Reserved { wait: Duration::from_nanos(wait), nanos };
                }
                Err(seen) => full_at = seen,
            }
        }
    }

    /// Gives back what was reserved for bytes that were not sent after all.
    pub fn release(&self, reserved: &Reserved) {
        self.lower(reserved.nanos);
    }

    fn lower(&self, nanos: u64) {
        let mut full_at = self.at.load(Relaxed);
        while let Err(seen) =
            self.at.compare_exchange_weak(full_at, full_at.saturating_sub(nanos), Relaxed, Relaxed)
        {
            full_at = seen;
        }
    }
}

/// The time of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// How long they have to wait.
    pub wait: Duration,
    nanos: u64,
}

/// Nanoseconds of a pace that may be reserved without waiting.
const AHEAD: u64 = 100_000_000;

/// The most bytes to reserve at once: a tenth of a second's worth.
#[must_use]
pub fn piece(per_second: NonZeroU64) -> usize {
    usize::try_from(per_second.get() / 10).unwrap_or(usize::MAX).max(1)
}

/// How a tenant stands with a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit's name.
    pub name: Arc<str>,
    /// Requests per window.
    pub limit: u64,
    /// The window.
    pub window: Duration,
    /// Requests that may come at once.
    pub remaining: u64,
    /// Until it is full again; of a limit that refused: until one request may pass.
    pub reset: Duration,
}

impl Standing {
    /// How it stands with this rate.
    #[must_use]
    pub fn of(rate: &Rate, remaining: u64, reset: Duration) -> Standing {
        let Rate { name, limit, window, .. } = rate;
        Standing { name: Arc::clone(name), limit: *limit, window: *window, remaining, reset }
    }

    /// For how long what remains must last: the time that `RateLimit` tells beside it.
    ///
    /// Not only until the limit is full again: of a full one that is no time at all, and "100 left for 0 seconds"
    /// would invite a burst, and another one right after it. Told is also how long the rate takes to earn what
    /// remains, so that the pair never promises more than the rate.
    #[must_use]
    pub fn horizon(&self) -> Duration {
        let share = nanos(self.window) / self.limit.max(1);
        self.reset.max(Duration::from_nanos(share.saturating_mul(self.remaining)))
    }
}

/// A wait told to a client, somewhat longer than it must be: clients that were refused together shall not come back
/// together. Up to a tenth, and up to half a second, is added.
#[must_use]
pub fn spread(wait: Duration, chance: u64) -> Duration {
    let most = wait / 10 + Duration::from_millis(500);
    // The upper half of the product: uniform from zero to `most`.
    let extra = (u128::from(nanos(most)) * u128::from(chance)) >> 64;
    wait.saturating_add(Duration::from_nanos(u64::try_from(extra).unwrap_or(0)))
}

/// One request's share of the window, at least a nanosecond.
fn share_nanos(rate: &Rate) -> u64 {
    (nanos(rate.window) / rate.limit.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(limit: u64, window_ms: u64, burst: u64) -> Rate {
        Rate { name: Arc::from("r"), limit, window: Duration::from_millis(window_ms), burst }
    }

    fn passed(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Passed { .. })
    }

    #[test]
    fn lets_a_burst_pass_then_one_a_share() {
        let (word, rate) = (Word::default(), rate(10, 1000, 3));
        let start = Tick(5_000_000_000);
        let left: Vec<Verdict> = (0..3).map(|_| word.take(&rate, start)).collect();
        assert_eq!(left[0], Verdict::Passed { remaining: 2, reset: Duration::from_millis(100) });
        assert_eq!(word.left(&rate, start), (0, Duration::from_millis(300)));
        assert_eq!(word.left(&rate, start.after(Duration::from_millis(250))).0, 2);
        assert_eq!(left[2], Verdict::Passed { remaining: 0, reset: Duration::from_millis(300) });
        assert_eq!(word.take(&rate, start), Verdict::Refused { retry_after: Duration::from_millis(100) });
        assert!(passed(word.take(&rate, start.after(Duration::from_millis(100)))));
        assert!(!word.is_full(start.after(Duration::from_millis(399))));
        assert!(word.is_full(start.after(Duration::from_millis(400))));
    }

    #[test]
    fn what_was_given_back_may_be_spent_again() {
        let (word, rate) = (Word::default(), rate(1, 1000, 1));
        let now = Tick(1);
        assert!(passed(word.take(&rate, now)));
        assert!(!passed(word.take(&rate, now)));
        word.give_back(&rate);
        assert!(passed(word.take(&rate, now)));
    }

    #[test]
    fn a_core_whose_clock_reading_is_old_gives_nothing_back() {
        let (word, rate) = (Word::default(), rate(10, 1000, 3));
        let now = Tick(60_000_000_000);
        assert_eq!((0..5).filter(|_| passed(word.take(&rate, now))).count(), 3);
        for seconds in [1, 2, 30, 59] {
            let old = Tick(now.0 - seconds * 1_000_000_000);
            assert!(!passed(word.take(&rate, old)) && !word.wait(&rate, old).is_zero());
            assert_eq!(word.left(&rate, old).0, 0);
        }
        assert!(!passed(word.take(&rate, now)), "what was spent is spent");
    }

    #[test]
    fn threads_share_one_rate_exactly() {
        let (word, rate) = (Word::default(), rate(1_000, 1000, 50));
        let ticks = AtomicU64::new(1);
        let total: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        // Each step of simulated time is 100 microseconds: 20,000 of them are two seconds.
                        (0..5_000)
                            .filter(|_| passed(word.take(&rate, Tick(ticks.fetch_add(100_000, Relaxed)))))
                            .count()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        // burst + rate * 2 s, and of it at least what one thread alone would get.
        assert!((2_000..=2_050).contains(&total), "{total}");
    }

    #[test]
    fn bytes_are_delayed_to_their_pace() {
        let (word, pace) = (Word::default(), NonZeroU64::new(1_000).expect("not zero"));
        let reserve = |bytes| word.reserve(bytes, pace, Tick(5));
        assert_eq!(piece(pace), 100);
        assert_eq!(reserve(100).wait, Duration::ZERO);
        assert_eq!(reserve(1_000).wait, Duration::ZERO, "a tenth of a second is ahead");
        let third = reserve(500);
        assert_eq!(third.wait, Duration::from_secs(1));
        word.release(&third);
        assert_eq!(reserve(1).wait, Duration::from_secs(1), "what was not sent takes no time");
        word.release(&Reserved { wait: Duration::ZERO, nanos: u64::MAX });
        assert!(word.is_full(Tick(5)));
    }

    #[test]
    fn what_is_told_never_promises_more_than_the_rate() {
        let rate = rate(100, 10_000, 100);
        let check = |spent: u64, horizon_ms: u64| {
            let word = Word::default();
            for _ in 0..spent {
                assert!(passed(word.take(&rate, Tick(7))));
            }
            let (remaining, reset) = word.left(&rate, Tick(7));
            let standing = Standing::of(&rate, remaining, reset);
            assert_eq!(standing.horizon(), Duration::from_millis(horizon_ms));
            assert!(remaining as u128 * 10_000 <= standing.horizon().as_millis() * 100);
        };
        check(0, 10_000);
        check(1, 9_900);
        check(50, 5_000);
        check(90, 9_000);
        check(100, 10_000);
    }

    #[test]
    fn a_wait_is_spread_upwards_and_by_little() {
        let wait = Duration::from_secs(20);
        assert_eq!(spread(wait, 0), wait);
        assert_eq!(spread(wait, 1 << 63), wait + Duration::from_millis(1_250));
        assert!(spread(wait, u64::MAX) < wait + Duration::from_millis(2_500));
        assert_eq!(spread(Duration::MAX, u64::MAX), Duration::MAX);
    }

    #[test]
    fn a_word_of_a_slower_rate_is_all_spent_and_no_more() {
        let (word, slow, fast) = (Word::default(), rate(1, 86_400_000, 1), rate(10, 1000, 5));
        let now = Tick(1_000);
        assert!(passed(word.take(&slow, now)));
        assert!(!passed(word.take(&slow, now)));
        assert_eq!(word.wait(&fast, now), Duration::from_millis(100));
        assert!(!passed(word.take(&fast, now)), "what was spent stays spent");
        assert_eq!(word.left(&fast, now), (0, Duration::from_millis(500)));
        let soon = now.after(Duration::from_millis(100));
        assert!(passed(word.take(&fast, soon)));
        assert!(!passed(word.take(&fast, soon)));
    }

    proptest! {
        #[test]
        fn never_lets_more_pass_than_burst_and_rate(
            limit in 1u64..1000, window_ms in 1u64..5000, burst in 1u64..50,
            steps in proptest::collection::vec(0u64..50_000_000, 1..200),
        ) {
            let (word, rate) = (Word::default(), rate(limit, window_ms, burst));
            let mut now = Tick(1);
            let mut count = 0u64;
            let start = now;
            for step in steps {
                now = Tick(now.0 + step);
                let wait = word.wait(&rate, now);
                let verdict = word.take(&rate, now);
                prop_assert_eq!(passed(verdict), wait.is_zero());
                if let Verdict::Refused { retry_after } = verdict {
                    prop_assert_eq!(wait, retry_after);
                } else {
                    count += 1;
                }
                let earned = nanos(now.since(start)) / share_nanos(&rate);
                prop_assert!(count <= burst + earned, "{} > {} + {}", count, burst, earned);
            }
        }

        /// Pieces of several bodies at once, some given up while they wait: what is sent never runs ahead of the pace.
        #[test]
        fn no_more_bytes_are_sent_than_the_pace_allows(
            per_second in 10u64..1_000_000,
            pieces in proptest::collection::vec((1u64..100, 0u64..50_000_000, 0u8..4), 1..200),
        ) {
            let pace = NonZeroU64::new(per_second).expect("not zero");
            let (word, most) = (Word::default(), piece(pace) as u64);
            let start = Tick(1);
            let (mut now, mut sent) = (start, Vec::new());
            for (part, pause, fate) in pieces {
                now = Tick(now.0 + pause);
                let bytes = (most * part / 100).max(1);
                let reserved = word.reserve(bytes, pace, now);
                if fate == 0 && !reserved.wait.is_zero() {
                    word.release(&reserved);
                } else {
                    sent.push((now.after(reserved.wait), bytes));
                }
            }
            sent.sort();
            let mut total = 0;
            for (at, bytes) in sent {
                total += bytes;
                // A tenth of a second is ahead, and the last piece is allowed to begin.
                let allowed = u128::from(per_second) * u128::from(nanos(at.since(start))) / 1_000_000_000;
                prop_assert!(u128::from(total) <= allowed + u128::from(most) * 2 + 10);
            }
        }
    }
}
