//! What was found out at some cost (a verified token, an authorizer's word), remembered until others crowd it out.
//!
//! Two halves: what is new or asked for goes into the one, and when that is full, the other is forgotten and takes its
//! place. So a bounded memory keeps what is in use, and costs no order among it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// By a digest of what was asked.
#[derive(Debug)]
pub struct Remembered<T> {
    halves: [papaya::HashMap<[u8; 32], T>; 2],
    current: AtomicUsize,
    /// The most in one half.
    half: usize,
}

impl<T: Clone> Remembered<T> {
    /// With room for so many in each half.
    #[must_use]
    pub fn new(half: usize) -> Remembered<T> {
        Remembered { halves: Default::default(), current: AtomicUsize::new(0), half }
    }

    /// What was found out.
    pub fn find(&self, digest: &[u8; 32]) -> Option<T> {
        let current = self.current.load(Relaxed);
        if let Some(held) = self.halves[current].pin().get(digest) {
            return Some(held.clone());
        }
        let held = self.halves[1 - current].pin().get(digest).cloned()?;
        self.keep(*digest, held.clone());
        Some(held)
    }

    /// Remembers it.
    pub fn keep(&self, digest: [u8; 32], held: T) {
        let current = self.current.load(Relaxed);
        let next = 1 - current;
        let full = self.halves[current].len() >= self.half;
        let turned = full && self.current.compare_exchange(current, next, Relaxed, Relaxed).is_ok();
        if turned {
            self.halves[next].pin().clear();
        }
        self.halves[self.current.load(Relaxed)].pin().insert(digest, held);
    }

    /// Forgets the half that was not asked for of late, or where there is none, the other. How many that were.
    pub fn forget_half(&self) -> usize {
        let current = self.current.load(Relaxed);
        let older = &self.halves[1 - current];
        let half = if older.is_empty() { &self.halves[current] } else { older };
        let length = half.len();
        half.pin().clear();
        length
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.halves.iter().map(papaya::HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: usize = 1024;

    fn digest(n: usize) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_le_bytes());
        digest
    }

    #[test]
    fn keeps_what_is_in_use_and_never_more_than_its_bound() {
        let remembered = Remembered::new(HALF);
        remembered.keep(digest(usize::MAX), 7);
        for n in 0..5 * HALF {
            remembered.keep(digest(n), 1);
            if n % 100 == 0 {
                assert_eq!(remembered.find(&digest(usize::MAX)), Some(7), "{n}");
                assert!(remembered.len() <= 2 * HALF + 1);
            }
        }
        assert_eq!(remembered.find(&digest(0)), None);
        assert!(remembered.find(&digest(5 * HALF - 1)).is_some());
    }
}
