//! Maps by numbers that the store gives away itself, one after the other or by chance. Nobody else chooses them, so that what is made of one
//! for finding it need not be hard to foresee, and costs a multiplication.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by the places of deliveries, or by the numbers of lines.
pub type ByNumber<N, T> = HashMap<N, T, BuildHasherDefault<Spread>>;

/// Spreads numbers that lie together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // What is odd and has its ones all over: the golden ratio's digits.
        let product = u128::from(self.0 ^ number) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn write_i64(&mut self, number: i64) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn numbers_that_lie_together_are_spread_over_all_bits() {
        let hash = |number: u64| BuildHasherDefault::<Spread>::default().hash_one(number);
        // A map looks at the lowest bits first, and then at the highest seven.
        for (shift, bits) in [(0, 10), (57, 7)] {
            let found: HashSet<u64> =
                (0..1 << bits).map(|number| hash(number) >> shift & ((1 << bits) - 1)).collect();
            assert!(found.len() > 1 << (bits - 1), "{} of {}", found.len(), 1 << bits);
        }
        let all: HashSet<u64> = (0..100_000).map(hash).collect();
        assert_eq!(all.len(), 100_000);
    }
}
