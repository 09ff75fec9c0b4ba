//! Chance on the engine's thread: for backoffs, spans and request ids. Not for secrets.

use std::cell::Cell;

use tidegate_model::balance::mix;

/// A stream of random words.
#[derive(Debug)]
pub struct Chance(Cell<u64>);

impl Chance {
    /// One that begins at this seed.
    pub fn seeded(seed: u64) -> Chance {
        Chance(Cell::new(seed))
    }

    /// The next word.
    pub fn word(&self) -> u64 {
        let next = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(next);
        mix(next)
    }

    /// The next two words, never zero.
    pub fn wide(&self) -> u128 {
        (u128::from(self.word()) << 64 | u128::from(self.word())).max(1)
    }
}
