//! What a stored answer's content is in each coding, kept beside it: made once, by whoever asks for it first.
//!
//! It belongs to the answer: counted with it by the memory tier ([`super::memory::Memory::keep_coded`]), gone with it, and in
//! memory alone. That a coding makes the content no smaller is worth remembering, too. A long answer is compressed while it goes
//! to the one who has the [`Claim`]; others do not wait for that, and have it compressed for themselves.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tidegate_model::coding::Coding;

use super::kept::{Kept, packed};

/// What is counted of each for its place.
const PLACE_BYTES: u64 = size_of::<Codeds>() as u64;
/// What a piece takes beside its bytes.
const PIECE_OVERHEAD_BYTES: u64 = 64;

/// Content in a coding.
#[derive(Clone, Debug)]
pub struct Coded {
    /// None: it is no smaller so.
    pieces: Arc<[Bytes]>,
    length: u64,
}

impl Coded {
    /// Content that is compressed to this.
    #[must_use]
    pub fn of(pieces: impl IntoIterator<Item = Bytes>) -> Coded {
        let pieces: Vec<Bytes> = pieces.into_iter().collect();
        Coded { length: pieces.iter().map(|piece| piece.len() as u64).sum(), pieces: packed(&pieces).into() }
    }

    /// Content that the coding makes no smaller.
    #[must_use]
    pub fn no_smaller() -> Coded {
        Coded { pieces: Arc::default(), length: 0 }
    }

    /// Whether the coding is worth it.
    #[must_use]
    pub fn is_smaller(&self) -> bool {
        self.length > 0
    }

    /// Its bytes.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// How many.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The bytes that it takes.
    #[must_use]
    pub fn size(&self) -> u64 {
        PLACE_BYTES + self.length + self.pieces.len() as u64 * PIECE_OVERHEAD_BYTES
    }
}

/// What an answer's content is in all codings.
#[derive(Debug, Default)]
pub struct Codeds([Slot; Coding::ALL.len()]);

/// One of them.
#[derive(Debug, Default)]
struct Slot {
    coded: OnceLock<Coded>,
    /// Somebody finds it out.
    claimed: AtomicBool,
}

impl Codeds {
    fn slot(&self, coding: Coding) -> &Slot {
        let place = Coding::ALL.iter().position(|one| *one == coding);
        &self.0[place.expect("all codings are among all")]
    }

    pub(super) fn of(&self, coding: Coding) -> Option<&Coded> {
        self.slot(coding).coded.get()
    }

    /// Under the lock of the memory tier, which counts it.
    pub(super) fn put(&self, coding: Coding, coded: Coded) {
        // Whoever was first has the same.
        let _ = self.slot(coding).coded.set(coded);
    }

    pub(super) fn size(&self) -> u64 {
        self.0.iter().filter_map(|slot| slot.coded.get()).map(Coded::size).sum()
    }

    /// The same for an answer with the same content.
    pub(super) fn again(&self) -> Codeds {
        let again = |slot: &Slot| Slot { coded: slot.coded.clone(), claimed: AtomicBool::new(false) };
        Codeds(self.0.each_ref().map(again))
    }
}

/// The right to find out what an answer's content is in a coding, given back when it is dropped.
#[derive(Debug)]
pub struct Claim {
    /// The answer.
    pub kept: Arc<Kept>,
    /// The coding.
    pub coding: Coding,
}

impl Claim {
    pub(super) fn of(kept: Arc<Kept>, codeds: &Codeds, coding: Coding) -> Option<Claim> {
        let slot = codeds.slot(coding);
        let is_mine = slot.coded.get().is_none() && !slot.claimed.swap(true, Relaxed);
        is_mine.then_some(Claim { kept, coding })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.kept.codeds().slot(self.coding).claimed.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::tests::head;
    use super::*;

    #[test]
    fn one_at_a_time_finds_out_what_nobody_has() {
        let kept = Arc::new(Kept::new(&head(""), &[Bytes::from_static(b"content")]));
        let claim = kept.claim(Coding::Gzip).expect("nobody has it");
        assert!(kept.claim(Coding::Gzip).is_none() && kept.claim(Coding::Zstd).is_some());
        drop(claim);
        let claim = kept.claim(Coding::Gzip).expect("it was given back");
        kept.codeds().put(Coding::Gzip, Coded::of([Bytes::from_static(b"co"), Bytes::from_static(b"ded")]));
        drop(claim);
        assert!(kept.claim(Coding::Gzip).is_none(), "it is there");
        let coded = kept.coded(Coding::Gzip).unwrap();
        assert_eq!((coded.pieces().concat(), coded.length()), (b"coded".to_vec(), 5));
        assert_eq!(kept.whole_size(), kept.size() + coded.size());
        assert!(!Coded::no_smaller().is_smaller() && Coded::no_smaller().size() > 0);
    }
}
