//! Durations counted in buckets, eight for each doubling: any quantile is known to an eighth, whatever its size, in a
//! table that never grows.

use std::time::Duration;

/// Buckets for each doubling, as a power of two.
const FINE: u32 = 3;
/// The longest that is told from what is longer: 2^27 µs, some two minutes.
const DOUBLINGS: u32 = 27;
/// How many buckets there are.
pub const BUCKETS: usize = ((DOUBLINGS - FINE + 1) << FINE) as usize;

/// How often which duration was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
    micros: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: Box::new([0; BUCKETS]), total: 0, micros: 0 }
    }
}

/// The bucket of a duration.
#[must_use]
pub fn bucket(time: Duration) -> usize {
    let micros =
        u64::try_from(time.as_micros()).unwrap_or(u64::MAX).clamp(1 << FINE, (1 << (DOUBLINGS + 1)) - 1);
    let doubling = micros.ilog2();
    let within = (micros >> (doubling - FINE)) as usize & ((1 << FINE) - 1);
    ((doubling - FINE) << FINE) as usize + within
}

/// What no duration in a bucket is longer than.
fn upper(bucket: usize) -> Duration {
    let (doubling, within) = (bucket >> FINE, bucket & ((1 << FINE) - 1));
    Duration::from_micros(((1 << FINE) as u64 + within as u64 + 1) << doubling)
}

impl Histogram {
    /// Of counts by bucket, and the sum of all durations in microseconds.
    #[must_use]
    pub fn of(counts: [u64; BUCKETS], micros: u64) -> Histogram {
        let total = counts.iter().sum();
        Histogram { counts: Box::new(counts), total, micros }
    }

    /// One more.
    pub fn note(&mut self, time: Duration) {
        self.counts[bucket(time)] += 1;
        self.total += 1;
        self.micros = self.micros.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// The sum of all durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.micros)
    }

    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Those that were seen since an earlier look at the same.
    #[must_use]
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let counts = std::array::from_fn(|bucket| self.counts[bucket].saturating_sub(earlier.counts[bucket]));
        Histogram::of(counts, self.micros.saturating_sub(earlier.micros))
    }

    /// What so many are at most as long as; `None`: there are not as many.
    #[must_use]
    pub fn at_rank(&self, rank: u64) -> Option<Duration> {
        let mut sum = 0;
        let found = self.counts.iter().position(|count| {
            sum += count;
            sum >= rank.max(1)
        });
        found.map(upper)
    }

    /// What this share of them is at most as long as; `None`: there are none.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        self.at_rank((share * self.total as f64).ceil() as u64)
    }

    /// How many took less than 2^`power` µs: exact, as buckets end there.
    #[must_use]
    pub fn below(&self, power: u32) -> u64 {
        let end = (power.saturating_sub(FINE) << FINE) as usize;
        self.counts[..end.min(BUCKETS)].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(micros: &[u64], share: f64, expected: Option<u64>) {
        let mut histogram = Histogram::default();
        micros.iter().for_each(|&micros| histogram.note(Duration::from_micros(micros)));
        assert_eq!(histogram.total(), micros.len() as u64);
        assert_eq!(histogram.quantile(share), expected.map(Duration::from_micros), "{micros:?} {share}");
    }

    #[test]
    fn a_quantile_is_known_to_an_eighth() {
        check(&[], 0.5, None);
        check(&[1000], 0.5, Some(1024));
        check(&[1024], 0.5, Some(1152));
        check(&[100, 200, 300, 40_000], 0.5, Some(208));
        check(&[100, 200, 300, 40_000], 0.99, Some(40_960));
        check(&[0, 3, u64::MAX], 0.1, Some(9));
        for micros in (8..100_000_000).step_by(99_991) {
            let most = upper(bucket(Duration::from_micros(micros))).as_micros() as u64;
            assert!(most > micros && most - micros <= micros / 8 + 1, "{micros} {most}");
        }
    }

    #[test]
    fn what_is_below_a_power_of_two_is_counted_exactly() {
        let mut histogram = Histogram::default();
        [1023, 1024, 1025, 2047, 2048]
            .iter()
            .for_each(|&micros| histogram.note(Duration::from_micros(micros)));
        assert_eq!((histogram.below(10), histogram.below(11), histogram.below(12)), (1, 4, 5));
        assert_eq!(histogram.below(60), 5);
    }

    #[test]
    fn what_was_seen_since_is_told() {
        let mut histogram = Histogram::default();
        histogram.note(Duration::from_millis(1));
        let earlier = histogram.clone();
        histogram.note(Duration::from_millis(30));
        let since = histogram.since(&earlier);
        assert_eq!((since.total(), since.quantile(0.5)), (1, histogram.quantile(1.0)));
        assert_eq!((since.sum(), histogram.sum()), (Duration::from_millis(30), Duration::from_millis(31)));
    }
}
