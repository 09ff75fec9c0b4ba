//! Retries: whether another try may be made, when, and what it costs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::Method;

use crate::tick::{Tick, nanos};

/// How far a failed try had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The endpoint has seen nothing of it, or said that it did nothing with it.
    Nothing,
    /// It may have seen and done it.
    Perhaps,
}

/// Whether a failed try may be repeated: a safe method may, an unsafe one only if nothing was sent or the route says that
/// the upstream is idempotent (RFC 9110 section 9.2.2; DESIGN decision 9).
#[must_use]
pub fn may_repeat(method: &Method, sent: Sent, idempotent: bool) -> bool {
    sent == Sent::Nothing || idempotent || method.is_safe()
}

/// The pause before try `number` (the second is 1): exponential, with full jitter.
#[must_use]
pub fn backoff(first: Duration, max: Duration, number: u32, chance: u64) -> Duration {
    let ceiling = first.saturating_mul(1 << number.saturating_sub(1).min(16)).min(max);
    Duration::from_nanos(((u128::from(nanos(ceiling)) * u128::from(chance)) >> 64) as u64)
}

/// A `Retry-After` in seconds or as a date, as a wait from now.
#[must_use]
pub fn retry_after(value: &str, wall: std::time::SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(wall).unwrap_or_default())
}

/// What retries and hedges may be spent of: so many a hundred first tries, and a few a second at any rate.
///
/// A reserve of ten seconds' worth at most is kept, so that a quiet hour does not pay for a storm. One word, in
/// hundredths of a try.
#[derive(Debug, Default)]
pub struct Budget {
    balance: AtomicU64,
    /// When the balance was last topped up.
    topped_at: AtomicU64,
}

impl Budget {
    const TRY: u64 = 100;
    /// The most that is kept, in tries.
    const RESERVE: u64 = 1_000;

    /// A first try is made: it earns its share.
    pub fn earn(&self, percent: u32) {
        let _ = self.balance.fetch_update(Relaxed, Relaxed, |balance| {
            Some((balance + u64::from(percent)).min(Budget::RESERVE * Budget::TRY))
        });
    }

    /// Spends one retry, if there is one.
    pub fn spend(&self, min_per_second: u32, now: Tick) -> bool {
        let before = self.topped_at.load(Relaxed);
        let since = Duration::from_nanos(now.0.saturating_sub(before)).min(Duration::from_secs(10));
        let earned = since.as_millis() as u64 * u64::from(min_per_second) * Budget::TRY / 1000;
        if earned > 0 && self.topped_at.compare_exchange(before, now.0, Relaxed, Relaxed).is_ok() {
            let _ = self.balance.fetch_update(Relaxed, Relaxed, |balance| {
                Some((balance + earned).min(Budget::RESERVE * Budget::TRY))
            });
        }
        self.balance.fetch_update(Relaxed, Relaxed, |balance| balance.checked_sub(Budget::TRY)).is_ok()
    }
}

/// A latency histogram for quantiles: four buckets an octave, halved as it fills, so that it follows the present.
#[derive(Debug)]
pub struct Latencies {
    buckets: [AtomicU64; Latencies::BUCKETS],
    count: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { buckets: [const { AtomicU64::new(0) }; Latencies::BUCKETS], count: AtomicU64::new(0) }
    }
}

impl Latencies {
    const BUCKETS: usize = 128;
    const HALVE_AT: u64 = 2_000;
    /// Fewer samples tell nothing.
    const SAMPLES_MIN: u64 = 20;

    /// Adds a sample.
    pub fn add(&self, latency: Duration) {
        self.buckets[Latencies::bucket(nanos(latency) / 1000)].fetch_add(1, Relaxed);
        if self.count.fetch_add(1, Relaxed) + 1 == Latencies::HALVE_AT {
            let mut left = 0;
            for bucket in &self.buckets {
                let half = bucket.load(Relaxed) / 2;
                bucket.store(half, Relaxed);
                left += half;
            }
            self.count.store(left, Relaxed);
        }
    }

    /// The latency under which this share of the samples lies, `0.0..1.0`, to a fifth; `None` while there are too few.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count: u64 = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum();
        if count < Latencies::SAMPLES_MIN {
            return None;
        }
        let mut left = (count as f64 * share).ceil() as u64;
        for (index, bucket) in self.buckets.iter().enumerate() {
            let here = bucket.load(Relaxed);
            if here >= left {
                return Some(Duration::from_micros(Latencies::upper(index)));
            }
            left -= here;
        }
        None
    }

    fn bucket(micros: u64) -> usize {
        let micros = micros.max(4);
        let octave = micros.ilog2();
        let quarter = (micros >> (octave - 2)) & 3;
        ((octave as usize - 2) * 4 + quarter as usize).min(Latencies::BUCKETS - 1)
    }

    /// The upper end of a bucket, in microseconds.
    fn upper(index: usize) -> u64 {
        let (octave, quarter) = (index / 4, index % 4);
        ((5 + quarter as u64) << octave).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_unsafe_method_is_repeated_only_if_nothing_was_sent_or_the_upstream_is_idempotent() {
        for (method, sent, idempotent, expected) in [
            (Method::GET, Sent::Perhaps, false, true),
            (Method::POST, Sent::Perhaps, false, false),
            (Method::PUT, Sent::Perhaps, false, false),
            (Method::POST, Sent::Nothing, false, true),
            (Method::POST, Sent::Perhaps, true, true),
        ] {
            assert_eq!(may_repeat(&method, sent, idempotent), expected, "{method} {sent:?} {idempotent}");
        }
    }

    #[test]
    fn a_budget_is_a_share_of_the_first_tries_and_a_few_a_second() {
        let budget = Budget::default();
        let now = Tick(10_000_000_000);
        (0..20).filter(|_| budget.spend(2, now)).count();
        (0..100).for_each(|_| budget.earn(20));
        assert_eq!((0..100).filter(|_| budget.spend(0, now)).count(), 20);
        assert_eq!((0..100).filter(|_| budget.spend(5, now.after(Duration::from_secs(1)))).count(), 5);
    }

    #[test]
    fn reads_retry_after_in_both_forms() {
        let wall = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(retry_after(" 7 ", wall), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:40 GMT", wall), Some(Duration::from_secs(3)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", wall), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", wall), None);
    }

    proptest! {
        #[test]
        fn pauses_stay_under_their_ceiling(number in 1u32..40, chance in any::<u64>()) {
            let (first, max) = (Duration::from_millis(25), Duration::from_secs(1));
            prop_assert!(backoff(first, max, number, chance) <= first.saturating_mul(1 << (number - 1).min(16)).min(max));
        }

        #[test]
        fn a_quantile_is_right_to_a_fifth(micros in proptest::collection::vec(10u64..10_000_000, 50..200)) {
            let latencies = Latencies::default();
            micros.iter().for_each(|&sample| latencies.add(Duration::from_micros(sample)));
            let mut sorted = micros.clone();
            sorted.sort_unstable();
            let exact = sorted[(sorted.len() as f64 * 0.9).ceil() as usize - 1] as f64;
            let told = latencies.quantile(0.9).unwrap().as_micros() as f64;
            prop_assert!(told >= exact * 0.99 && told <= exact * 1.26, "{} {}", told, exact);
        }
    }
}
