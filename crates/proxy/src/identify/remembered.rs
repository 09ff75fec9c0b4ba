//! Verified tokens, remembered until they expire or others crowd them out.
//!
//! Two halves: what is new or asked for goes into the one, and when that is full, the other is forgotten and takes its
//! place. So a bounded memory keeps the tokens that are in use, and costs no order among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Tokens in one half.
const HALF: usize = 8 * 1024;

/// A token's tenant, and until when the token holds.
type Held = (Arc<str>, u64);

/// By SHA-256 of a token.
#[derive(Debug, Default)]
pub struct Remembered {
    halves: [papaya::HashMap<[u8; 32], Held>; 2],
    current: AtomicUsize,
}

impl Remembered {
    /// The tenant of a token that was verified, and until when.
    pub fn find(&self, digest: &[u8; 32]) -> Option<Held> {
        let current = self.current.load(Relaxed);
        if let Some((tenant, until)) = self.halves[current].pin().get(digest) {
            return Some((Arc::clone(tenant), *until));
        }
        let (tenant, until) = self.halves[1 - current].pin().get(digest).cloned()?;
        self.keep(*digest, Arc::clone(&tenant), until);
        Some((tenant, until))
    }

    /// Remembers a token.
    pub fn keep(&self, digest: [u8; 32], tenant: Arc<str>, until: u64) {
        let current = self.current.load(Relaxed);
        let next = 1 - current;
        let full = self.halves[current].len() >= HALF;
        let turned = full && self.current.compare_exchange(current, next, Relaxed, Relaxed).is_ok();
        if turned {
            self.halves[next].pin().clear();
        }
        self.halves[self.current.load(Relaxed)].pin().insert(digest, (tenant, until));
    }

    /// How many.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.halves.iter().map(papaya::HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: usize) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_le_bytes());
        digest
    }

    #[test]
    fn keeps_what_is_in_use_and_never_more_than_its_bound() {
        let remembered = Remembered::default();
        let tenant: Arc<str> = Arc::from("t");
        remembered.keep(digest(usize::MAX), Arc::clone(&tenant), 7);
        for n in 0..5 * HALF {
            remembered.keep(digest(n), Arc::clone(&tenant), 1);
            if n % 1_000 == 0 {
                assert_eq!(remembered.find(&digest(usize::MAX)), Some((Arc::clone(&tenant), 7)), "{n}");
                assert!(remembered.len() <= 2 * HALF + 1);
            }
        }
        assert_eq!(remembered.find(&digest(0)), None);
        assert!(remembered.find(&digest(5 * HALF - 1)).is_some());
    }
}
