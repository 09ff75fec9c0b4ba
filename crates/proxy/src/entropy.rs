//! Chance for request ids, trace ids and balancing: fast, per core, seeded from the operating system.
//!
//! Not for secrets: whoever sees enough ids can predict the next.

use std::cell::Cell;

/// A stream of random words of one core (SplitMix64, Steele et al. 2014).
#[derive(Debug)]
pub struct Entropy(Cell<u64>);

impl Entropy {
    /// A stream that begins at this seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Entropy {
        Entropy(Cell::new(seed))
    }

    /// The next word.
    pub fn word(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next two words, as an id that is never zero.
    pub fn id(&self) -> u128 {
        (u128::from(self.word()) << 64 | u128::from(self.word())).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_same_stream_for_the_same_seed_and_no_early_repeats() {
        let (first, second) = (Entropy::seeded(7), Entropy::seeded(7));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let word = first.word();
            assert_eq!(word, second.word());
            assert!(seen.insert(word));
        }
    }
}
