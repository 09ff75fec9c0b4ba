//! Retries: whether another try may be made, when, and what it costs.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::Method;

use crate::method::is_safe;
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
    sent == Sent::Nothing || idempotent || is_safe(method)
}

/// The pause before try `number` (the second is 1): exponential, with full jitter.
#[must_use]
pub fn backoff(first: Duration, max: Duration, number: u32, chance: u64) -> Duration {
    let ceiling = first.saturating_mul(1 << number.saturating_sub(1).min(16)).min(max);
    Duration::from_nanos(((u128::from(nanos(ceiling)) * u128::from(chance)) >> 64) as u64)
}

/// How far apart those come back who were refused together.
const APART: Duration = Duration::from_secs(2);

/// A wait that is told to a client, longer by chance. By seconds, since a wait is told in whole ones: of a shorter one that
/// makes 1, 2 or 3.
#[must_use]
pub fn apart(wait: Duration, chance: u64) -> Duration {
    let more = (u128::from(nanos(APART)) * u128::from(chance)) >> 64;
    wait.saturating_add(Duration::from_nanos(more as u64))
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
/// What was earned is forgotten, a tenth a second: some ten seconds' worth is kept, so that a quiet hour does not pay for
/// a storm, and the reserve of a busy upstream is larger than that of a quiet one. One word, in hundredths of a try.
#[derive(Debug, Default)]
pub struct Budget {
    balance: AtomicU64,
    /// When the balance was last topped up and a part of it forgotten.
    turned_at: AtomicU64,
}

impl Budget {
    const TRY: u64 = 100;
    const SECOND: u64 = 1_000_000_000;
    /// How many seconds' worth is kept.
    const KEPT: u64 = 10;

    /// A first try is made: it earns its share.
    pub fn earn(&self, percent: u32, min_per_second: u32, now: Tick) {
        self.turn(min_per_second, now);
        self.balance.fetch_add(u64::from(percent), Relaxed);
    }

    /// Spends one retry, if there is one.
    pub fn spend(&self, min_per_second: u32, now: Tick) -> bool {
        self.turn(min_per_second, now);
        self.balance.fetch_update(Relaxed, Relaxed, |balance| balance.checked_sub(Budget::TRY)).is_ok()
    }

    /// Once in a tenth of a second, and by one core: adds what the time has earned, and forgets what is old.
    fn turn(&self, min_per_second: u32, now: Tick) {
        let before = self.turned_at.load(Relaxed);
        let since = now.0.saturating_sub(before);
        if since < Budget::SECOND / 10
            || self.turned_at.compare_exchange(before, now.0, Relaxed, Relaxed).is_err()
        {
            return;
        }
        let window = Budget::KEPT * Budget::SECOND;
        let since = since.min(window);
        let earned = u128::from(since) * u128::from(u64::from(min_per_second) * Budget::TRY)
            / u128::from(Budget::SECOND);
        let _ = self.balance.fetch_update(Relaxed, Relaxed, |balance| {
            let kept = u128::from(balance) * u128::from(window - since) / u128::from(window);
            Some((kept + earned) as u64)
        });
    }
}

/// A latency histogram for quantiles: four buckets an octave, halved as it fills, so that it follows the present.
#[derive(Debug)]
pub struct Latencies {
    buckets: [AtomicU64; Latencies::BUCKETS],
    count: AtomicU64,
    /// The hundredth part is faster than this, in nanoseconds; 0: unknown. Kept, because each call asks for it.
    fastest: AtomicU64,
    /// When the last sample came, to a tenth of a second.
    heard_at: AtomicU64,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies {
            buckets: [const { AtomicU64::new(0) }; Latencies::BUCKETS],
            count: AtomicU64::new(0),
            fastest: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
        }
    }
}

impl Latencies {
    const BUCKETS: usize = 128;
    const HALVE_AT: u64 = 2_000;
    /// Fewer samples tell nothing.
    const SAMPLES_MIN: u64 = 20;
    /// The fastest is looked for again after so many samples.
    const LOOK_EVERY: u64 = 32;
    /// How long the fastest is believed without a further sample: were it for ever, an upstream that has become faster
    /// could be refused for good by what it once was.
    const BELIEVED: Duration = Duration::from_secs(5);

    /// Adds a sample.
    pub fn add(&self, latency: Duration, now: Tick) {
        self.buckets[Latencies::bucket(nanos(latency) / 1000)].fetch_add(1, Relaxed);
        if now.0.saturating_sub(self.heard_at.load(Relaxed)) > 100_000_000 {
            self.heard_at.store(now.0, Relaxed);
        }
        let count = self.count.fetch_add(1, Relaxed) + 1;
        if count == Latencies::HALVE_AT {
            let mut left = 0;
            for bucket in &self.buckets {
                let half = bucket.load(Relaxed) / 2;
                bucket.store(half, Relaxed);
                left += half;
            }
            self.count.store(left, Relaxed);
        }
        if count.is_multiple_of(Latencies::LOOK_EVERY) || count == Latencies::SAMPLES_MIN {
            self.fastest.store(self.quantile(0.01).map_or(0, nanos), Relaxed);
        }
    }

    /// What all but a hundredth of the recent answers took at least; `None`: nothing is known, or not lately.
    #[must_use]
    pub fn fastest(&self, now: Tick) -> Option<Duration> {
        let fastest = Duration::from_nanos(self.fastest.load(Relaxed));
        let heard_at = Tick(self.heard_at.load(Relaxed));
        (!fastest.is_zero() && now.since(heard_at) <= Latencies::BELIEVED).then_some(fastest)
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

    fn spendable(budget: &Budget, min: u32, now: Tick) -> usize {
        (0..10_000).take_while(|_| budget.spend(min, now)).count()
    }

    #[test]
    fn a_budget_is_a_share_of_the_first_tries_and_a_few_a_second() {
        let budget = Budget::default();
        let now = Tick(3_600_000_000_000);
        assert_eq!(spendable(&budget, 2, now), 20, "ten seconds' worth to begin with");
        (0..100).for_each(|_| budget.earn(20, 0, now));
        assert_eq!(spendable(&budget, 0, now), 20);
        assert_eq!(spendable(&budget, 5, now.after(Duration::from_secs(1))), 5);
        assert_eq!(spendable(&budget, 0, now.after(Duration::from_secs(9))), 0);
    }

    #[test]
    fn a_quiet_hour_does_not_pay_for_a_storm() {
        let budget = Budget::default();
        let mut now = Tick(3_600_000_000_000);
        for _ in 0..3_600 {
            // Ten first tries a second: two retries a second.
            (0..10).for_each(|_| budget.earn(20, 0, now));
            now = now.after(Duration::from_secs(1));
        }
        assert!((15..=20).contains(&spendable(&budget, 0, now)));
    }

    #[test]
    fn the_fastest_is_believed_only_while_there_are_answers() {
        let latencies = Latencies::default();
        let now = Tick(3_600_000_000_000);
        assert_eq!(latencies.fastest(now), None);
        (0..20).for_each(|_| latencies.add(Duration::from_millis(100), now));
        let fastest = latencies.fastest(now).expect("twenty are enough");
        assert!(fastest >= Duration::from_millis(100) && fastest < Duration::from_millis(130), "{fastest:?}");
        assert_eq!(latencies.fastest(now.after(Duration::from_secs(6))), None);
        (0..64).for_each(|_| latencies.add(Duration::from_millis(1), now));
        assert!(latencies.fastest(now).is_some_and(|fastest| fastest < Duration::from_millis(2)));
    }

    #[test]
    fn who_was_refused_together_comes_back_in_different_seconds() {
        let told = |chance| apart(Duration::from_millis(300), chance).as_secs_f64().ceil();
        assert_eq!([told(0), told(u64::MAX / 2), told(u64::MAX)], [1.0, 2.0, 3.0]);
        assert_eq!(apart(Duration::MAX, u64::MAX), Duration::MAX);
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
            micros.iter().for_each(|&sample| latencies.add(Duration::from_micros(sample), Tick(1)));
            let mut sorted = micros.clone();
            sorted.sort_unstable();
            let exact = sorted[(sorted.len() as f64 * 0.9).ceil() as usize - 1] as f64;
            let told = latencies.quantile(0.9).unwrap().as_micros() as f64;
            prop_assert!(told >= exact * 0.99 && told <= exact * 1.26, "{} {}", told, exact);
        }
    }
}
