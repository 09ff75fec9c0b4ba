//! A mix of requests in which some objects are asked for much more often than others, as in the world.
//!
//! The object of rank `r` is asked for in proportion to `1 / r^SKEW`. The order of requests is made of a seed: each cache
//! gets the same. Ranks are scattered over the numbers of objects, so that no cache gains by their order.

/// Web traces are between 0.6 and 1.0.
pub const SKEW: f64 = 0.9;

/// The popularity of objects.
pub struct Zipf {
    /// What share of requests is for the first, the first two, and so on.
    shares: Vec<f64>,
}

impl Zipf {
    pub fn new(objects: usize) -> Zipf {
        let mut sum = 0.0;
        let mut shares: Vec<f64> = (1..=objects)
            .map(|rank| {
                sum += (rank as f64).powf(-SKEW);
                sum
            })
            .collect();
        for share in &mut shares {
            *share /= sum;
        }
        Zipf { shares }
    }

    /// The hit ratio of a cache that knows the popularity and always holds so many of the most popular.
    pub fn known(&self, held: usize) -> f64 {
        held.checked_sub(1).and_then(|last| self.shares.get(last)).copied().unwrap_or_default()
    }

    /// The objects that are asked for, one after the other.
    pub fn requests(&self, seed: u64, count: usize) -> Vec<u32> {
        let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..count).map(|_| self.number(chance.next())).collect()
    }

    fn number(&self, chance: f64) -> u32 {
        let rank = self.shares.partition_point(|share| *share <= chance).min(self.shares.len() - 1);
        // Prime, and so a permutation of the objects unless their count is a multiple of it.
        ((rank as u64 * 7_368_787) % self.shares.len() as u64) as u32
    }
}

/// Xorshift, in the range from zero to one: good enough to draw objects, and the same everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_popular_are_asked_for_as_often_as_they_should_be() {
        let zipf = Zipf::new(1000);
        let requests = zipf.requests(1, 100_000);
        let first = requests.iter().filter(|number| **number == 0).count() as f64 / 100_000.0;
        assert!((first - zipf.known(1)).abs() < 0.01, "{first}");
        assert!(requests.iter().all(|number| *number < 1000));
        assert_eq!(requests[..100], zipf.requests(1, 100)[..], "the same seed makes the same");
        assert_ne!(requests[..100], zipf.requests(2, 100)[..]);
    }

    #[test]
    fn each_rank_has_an_object_of_its_own() {
        let zipf = Zipf::new(1000);
        let mut numbers: Vec<u32> =
            zipf.shares.iter().map(|share| zipf.number(share.next_down().max(0.0))).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 1000);
    }

    #[test]
    fn who_knows_the_popularity_has_the_best_ratio() {
        let zipf = Zipf::new(10);
        assert!((zipf.known(10) - 1.0).abs() < 1e-9);
        assert!(zipf.known(1) > 0.1 && zipf.known(0) == 0.0);
    }
}
