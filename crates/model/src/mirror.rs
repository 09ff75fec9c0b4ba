//! Mirroring: whether a request is copied to another upstream, and what the two answers have in common.
//!
//! ```text
//! two answers -> compare: status, headers, body (JSON by its meaning) -> differences -> tally: classes, samples, latencies -> ready to move?
//! ```
//!
//! What always holds: a comparison, its differences, the classes and the samples that are kept have named maxima, and no
//! sample holds a credential.

pub mod compare;
mod json;
mod pattern;
pub mod tally;

pub use json::DIFFERENCES_MAX;
pub use pattern::{PATTERNS_MAX, Pattern, PatternError};

/// All of a whole: shares are told in millionths.
pub const WHOLE: u32 = 1_000_000;

/// Whether this chance falls into a share.
#[must_use]
pub fn is_drawn(share: u32, chance: u64) -> bool {
    (chance >> 32) * u64::from(WHOLE) < u64::from(share) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_drawn_as_the_share_says() {
        let drawn =
            |share| (0..10_000u64).filter(|n| is_drawn(share, n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).count();
        assert_eq!((drawn(0), drawn(WHOLE)), (0, 10_000));
        assert!((950..1050).contains(&drawn(WHOLE / 10)), "{}", drawn(WHOLE / 10));
        assert!(!is_drawn(0, 0) && is_drawn(WHOLE, u64::MAX) && !is_drawn(WHOLE - 1, u64::MAX));
    }
}
