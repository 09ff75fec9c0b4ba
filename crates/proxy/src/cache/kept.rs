//! A stored answer: small, shared by all cores, never changed but for its marks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use http::StatusCode;
use tidegate_model::cache::Wall;
use tidegate_model::cache::evict::Place;
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::tags::Tag;
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;

/// What an entry takes beside its own bytes: the entry, its places in the map and in the order of eviction, as the allocator
/// rounds them. A test of the memory tier counts it.
pub const OVERHEAD_BYTES: u64 = 400;
/// Content lies in pieces of so many bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// How often an entry may have been asked for until that counts no more.
const USED_MAX: u8 = 3;

/// A stored answer.
#[derive(Debug)]
pub struct Kept {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, and nothing beside them.
    fields: Fields,
    /// Its content, as it came.
    pub body: Box<[Bytes]>,
    /// How long its content is.
    pub length: u64,
    /// When it may be used.
    pub rules: Rules,
    /// By what names it can be purged.
    pub tags: Box<[Tag]>,
    /// The newest purge when it was asked for.
    pub made: u64,
    /// How long the upstream took for its head, in milliseconds.
    pub took_ms: u32,
    /// The newest purge that it was compared with.
    checked: AtomicU64,
    /// Since when a purge has made it stale, in seconds of the civil clock; zero: none has.
    stale_since: AtomicU64,
    used: AtomicU8,
    /// Where it stands in the order of eviction.
    pub(super) place: OnceLock<Place>,
}

/// An answer that was kept before, by this process or by one before it.
#[derive(Clone, Debug)]
pub struct Before {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub fields: Fields,
    /// Its content.
    pub body: Box<[Bytes]>,
    /// When it may be used.
    pub rules: Rules,
    /// By what names it can be purged.
    pub tags: Box<[Tag]>,
    /// The newest purge when it was asked for.
    pub made: u64,
    /// How long the upstream took for its head, in milliseconds.
    pub took_ms: u32,
}

/// What is known of an answer when its head has come.
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Its fields: those that are kept.
    pub fields: Fields,
    /// When it may be used.
    pub rules: Rules,
    /// By what names it can be purged.
    pub tags: Box<[Tag]>,
    /// The newest purge when it was asked for.
    pub made: u64,
    /// How long the upstream took for its head, in milliseconds.
    pub took_ms: u32,
    /// With which fields of a request it varies.
    pub vary: Vary,
    /// What the request had in these that it answers.
    pub variant: Vec<u8>,
}

impl Kept {
    /// An answer with this content, which is copied: what comes from a socket lies in buffers that are larger than it is.
    #[must_use]
    pub fn new(head: &Head, body: &[Bytes]) -> Kept {
        Kept::with(head, packed(body))
    }

    /// An answer with this content, which is kept as it is.
    #[must_use]
    pub fn with(head: &Head, body: Box<[Bytes]>) -> Kept {
        Kept::again(Before {
            status: head.status,
            fields: head.fields.compact(),
            body,
            rules: head.rules,
            tags: head.tags.clone(),
            made: head.made,
            took_ms: head.took_ms,
        })
    }

    /// An answer that was kept before.
    #[must_use]
    pub fn again(before: Before) -> Kept {
        let Before { status, fields, body, rules, tags, made, took_ms } = before;
        Kept {
            status,
            fields,
            length: body.iter().map(|piece| piece.len() as u64).sum(),
            body,
            rules,
            tags,
            made,
            took_ms,
            checked: AtomicU64::new(made),
            stale_since: AtomicU64::new(0),
            used: AtomicU8::new(0),
            place: OnceLock::new(),
        }
    }

    /// The bytes that it takes.
    #[must_use]
    pub fn size(&self) -> u64 {
        OVERHEAD_BYTES + self.fields.bytes() as u64 + self.length
    }

    /// Its fields.
    #[must_use]
    pub fn fields(&self) -> Fields {
        self.fields.clone()
    }

    /// Its rules, as a purge has left them.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let mut rules = self.rules;
        if let since @ 1.. = self.stale_since.load(Relaxed) {
            let freshness = &mut rules.freshness;
            freshness.lifetime = freshness.lifetime.min(freshness.age(Wall(since)));
        }
        rules
    }

    /// It has been asked for. All but the first few times this reads only: what is hot is not written to by every core.
    pub fn ask(&self) {
        let used = self.used.load(Relaxed);
        if used < USED_MAX {
            self.used.store(used + 1, Relaxed);
        }
    }

    /// Whether it has been asked for often.
    #[must_use]
    pub fn is_hot(&self) -> bool {
        self.used.load(Relaxed) == USED_MAX
    }

    /// Whether it was asked for since; takes a mark from it.
    pub fn take_mark(&self) -> bool {
        self.used.fetch_update(Relaxed, Relaxed, |used| used.checked_sub(1)).is_ok()
    }

    /// It is stale from now on, if it was not before.
    pub(super) fn is_stale_from(&self, now: Wall) {
        let _ = self.stale_since.compare_exchange(0, now.0.max(1), Relaxed, Relaxed);
    }

    pub(super) fn checked(&self) -> u64 {
        self.checked.load(Relaxed)
    }

    pub(super) fn good_until(&self, purge: u64, stale_since: Option<Wall>) {
        if let Some(Wall(since)) = stale_since {
            self.stale_since.store(since.max(1), Relaxed);
        }
        self.checked.store(purge, Relaxed);
    }
}

/// Content in pieces of one size, the last one excepted.
fn packed(body: &[Bytes]) -> Box<[Bytes]> {
    let mut left: usize = body.iter().map(Bytes::len).sum();
    let (mut pieces, mut piece) = (Vec::with_capacity(left.div_ceil(PIECE_BYTES)), Vec::new());
    for mut rest in body.iter().map(|bytes| &bytes[..]) {
        while !rest.is_empty() {
            if piece.is_empty() {
                piece = Vec::with_capacity(left.min(PIECE_BYTES));
            }
            let (taken, after) = rest.split_at(rest.len().min(piece.capacity() - piece.len()));
            piece.extend_from_slice(taken);
            (rest, left) = (after, left - taken.len());
            if piece.len() == piece.capacity() {
                pieces.push(Bytes::from(std::mem::take(&mut piece)));
            }
        }
    }
    pieces.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn content_is_packed_into_pieces_of_one_size(sizes in proptest::collection::vec(0usize..100_000, 0..6)) {
            let body: Vec<Bytes> =
                sizes.iter().enumerate().map(|(place, size)| Bytes::from(vec![place as u8; *size])).collect();
            let pieces = packed(&body);
            prop_assert_eq!(pieces.concat(), body.concat());
            let last = pieces.len().saturating_sub(1);
            prop_assert!(pieces[..last].iter().all(|piece| piece.len() == PIECE_BYTES));
        }
    }
}
