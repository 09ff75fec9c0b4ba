//! A stored answer: small, shared by all cores, never changed but for its marks.
//!
//! What it is made of lies in one block, as the allocator gives it: what is known of it, and its content where that is not
//! larger than a piece. Beside the block it has what changes: how it stands to purges, how much it is asked for, and what its
//! content is compressed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use http::StatusCode;
use once_cell::race::OnceBox;
use tidegate_model::cache::Wall;
use tidegate_model::cache::assemble::TIDEGATE_SLICES;
use tidegate_model::cache::evict::Place;
use tidegate_model::cache::key::Key;
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::tags::Tag;
use tidegate_model::cache::vary::Vary;
use tidegate_model::coding::Coding;
use tidegate_model::fields::Fields;

use super::coded::{Claim, Coded, Codeds};
use super::known::{self, Known};

/// What an entry takes beside what it is made of: the entry, its places in the map and in the order of eviction, as the
/// allocator rounds them. A test of the memory tier counts it.
pub const OVERHEAD_BYTES: u64 = 176;
/// Content lies in pieces of so many bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// What a piece takes beside its bytes.
const PIECE_OVERHEAD_BYTES: u64 = 64;
/// How often an entry may have been asked for until that counts no more.
const USED_MAX: u8 = 3;
/// No purge has made it stale.
const NEVER: u32 = u32::MAX;
/// It stands nowhere in the order of eviction.
const NOWHERE: u32 = u32::MAX;

/// A stored answer.
#[derive(Debug)]
pub struct Kept {
    /// What is known of it, and after that its content, if it has no pieces.
    block: Box<[u8]>,
    pieces: Option<Box<Pieces>>,
    /// Its content in codings, for as long as it is kept.
    coded: OnceBox<Codeds>,
    /// What memory finds it by, and where it stands in the order of eviction: set once, before anybody finds it.
    key: [AtomicU64; 2],
    place: AtomicU32,
    /// How much of the block is what is known.
    known: u32,
    /// The newest purge when it was asked for.
    pub made: u64,
    /// The newest purge that it was compared with.
    checked: AtomicU64,
    /// How old it was, in seconds, when a purge made it stale.
    stale_at: AtomicU32,
    used: AtomicU8,
    /// Its content is kept elsewhere: see [`super::slices`].
    is_sliced: bool,
}

/// Content beside a block.
#[derive(Debug)]
struct Pieces {
    bytes: Box<[Bytes]>,
    length: u64,
}

/// What is known of an answer when its head has come.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        let body = if length(body) > PIECE_BYTES as u64 { packed(body) } else { Box::from(body) };
        Kept::with(head, body)
    }

    /// An answer with this content, which is kept as it is if it is larger than a piece.
    #[must_use]
    pub fn with(head: &Head, body: Box<[Bytes]>) -> Kept {
        let mut block = Vec::new();
        known::write(&mut block, head);
        Kept::of(block, body, head.made)
    }

    /// An answer that was kept before; `made`: the number that the newest purge had then in this process.
    #[must_use]
    pub fn again(known: Known<'_>, body: Box<[Bytes]>, made: u64) -> Kept {
        Kept::of(known.bytes().to_vec(), body, made)
    }

    /// The same content under another head, with what it is in codings.
    #[must_use]
    pub fn under(self: &Arc<Self>, head: &Head) -> Kept {
        let under = Kept::with(head, self.pieces().collect());
        if let Some(coded) = self.coded.get() {
            // Nobody else has it yet.
            let _ = under.coded.set(Box::new(coded.again()));
        }
        under
    }

    fn of(mut block: Vec<u8>, body: Box<[Bytes]>, made: u64) -> Kept {
        let known = u32::try_from(block.len()).expect("a head has less than 4 GiB");
        let length = length(&body);
        let in_block = length <= PIECE_BYTES as u64;
        let is_sliced = length == 0 && Known::of(&block).fields().contains_key(TIDEGATE_SLICES);
        if in_block {
            block.reserve_exact(length as usize);
            body.iter().for_each(|piece| block.extend_from_slice(piece));
        }
        Kept {
            block: block.into_boxed_slice(),
            pieces: (!in_block).then(|| Box::new(Pieces { bytes: body, length })),
            coded: OnceBox::new(),
            key: [AtomicU64::new(0), AtomicU64::new(0)],
            place: AtomicU32::new(NOWHERE),
            known,
            made,
            checked: AtomicU64::new(made),
            stale_at: AtomicU32::new(NEVER),
            used: AtomicU8::new(0),
            is_sliced,
        }
    }

    /// The bytes that it takes, without what its content is in codings: always the same.
    #[must_use]
    pub fn size(&self) -> u64 {
        let taken = |pieces: &Pieces| pieces.length + pieces.bytes.len() as u64 * PIECE_OVERHEAD_BYTES;
        let elsewhere = self.pieces.as_deref().map_or(0, taken);
        OVERHEAD_BYTES + allocated(self.block.len()) as u64 + elsewhere
    }

    /// The bytes that it takes with all that is kept beside it.
    #[must_use]
    pub fn whole_size(&self) -> u64 {
        self.size() + self.coded.get().map_or(0, Codeds::size)
    }

    /// How long its content is.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.pieces.as_deref().map_or(self.in_block().len() as u64, |pieces| pieces.length)
    }

    /// What its content is in a coding, if that was found out.
    #[must_use]
    pub fn coded(&self, coding: Coding) -> Option<&Coded> {
        self.coded.get()?.of(coding)
    }

    /// The right to find that out; `None`: somebody does, or has.
    #[must_use]
    pub fn claim(self: &Arc<Self>, coding: Coding) -> Option<Claim> {
        Claim::of(Arc::clone(self), self.codeds(), coding)
    }

    /// What its content is in codings.
    pub(super) fn codeds(&self) -> &Codeds {
        self.coded.get_or_init(Box::default)
    }

    /// What is known of it.
    #[must_use]
    pub fn known(&self) -> Known<'_> {
        Known::of(&self.block[..self.known as usize])
    }

    /// Whether its content is kept elsewhere, and a manifest stands in its place.
    #[must_use]
    pub fn is_sliced(&self) -> bool {
        self.is_sliced
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.known().status()
    }

    /// Its fields.
    #[must_use]
    pub fn fields(&self) -> Fields {
        self.known().fields()
    }

    /// Its rules, as they were when it came.
    #[must_use]
    pub fn own_rules(&self) -> Rules {
        self.known().rules()
    }

    /// Its rules, as purges have left them.
    #[must_use]
    pub fn rules(&self) -> Rules {
        let mut rules = self.own_rules();
        rules.freshness.lifetime = rules.freshness.lifetime.min(self.stale_at.load(Relaxed));
        rules
    }

    /// Its content, piece by piece.
    pub fn content(&self) -> impl Iterator<Item = &[u8]> {
        let pieces = self.beside();
        let block = self.in_block();
        (!block.is_empty()).then_some(block).into_iter().chain(pieces.iter().map(|piece| &piece[..]))
    }

    /// The same to be handed on; none of it is copied.
    pub fn pieces(self: &Arc<Self>) -> impl Iterator<Item = Bytes> {
        let pieces = self.beside();
        let block = (!self.in_block().is_empty()).then(|| Bytes::from_owner(InBlock(Arc::clone(self))));
        block.into_iter().chain(pieces.iter().cloned())
    }

    fn beside(&self) -> &[Bytes] {
        self.pieces.as_deref().map_or(&[], |pieces| &pieces.bytes)
    }

    /// Its content, if it has no pieces.
    fn in_block(&self) -> &[u8] {
        &self.block[self.known as usize..]
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
        self.stale_at.fetch_min(self.own_rules().freshness.age(now), Relaxed);
    }

    pub(super) fn checked(&self) -> u64 {
        self.checked.load(Relaxed)
    }

    pub(super) fn good_until(&self, purge: u64, stale_since: Option<Wall>) {
        if let Some(since) = stale_since {
            self.is_stale_from(since);
        }
        self.checked.store(purge, Relaxed);
    }

    /// Memory keeps it under this key, in this place.
    pub(super) fn stand(&self, key: Key, place: Place) {
        self.key[0].store(key.0 as u64, Relaxed);
        self.key[1].store((key.0 >> 64) as u64, Relaxed);
        self.place.store(place.number(), Relaxed);
    }

    /// What memory finds it by.
    pub(super) fn key(&self) -> Key {
        let [low, high] = &self.key;
        Key(u128::from(high.load(Relaxed)) << 64 | u128::from(low.load(Relaxed)))
    }

    /// Where it stands, if memory keeps it.
    pub(super) fn place(&self) -> Option<Place> {
        let number = self.place.load(Relaxed);
        (number != NOWHERE).then(|| Place::numbered(number))
    }
}

/// The content that lies in an answer's block.
struct InBlock(Arc<Kept>);

impl AsRef<[u8]> for InBlock {
    fn as_ref(&self) -> &[u8] {
        self.0.in_block()
    }
}

/// What the allocator gives for so many bytes: steps of eight, later of a quarter of the power of two below.
pub(super) fn allocated(bytes: usize) -> usize {
    let step = if bytes <= 64 { 8 } else { bytes.next_power_of_two() / 8 };
    bytes.next_multiple_of(step)
}

fn length(body: &[Bytes]) -> u64 {
    body.iter().map(|piece| piece.len() as u64).sum()
}

/// Content in pieces of one size, the last one excepted.
pub(super) fn packed(body: &[Bytes]) -> Box<[Bytes]> {
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
    use super::known::tests::head;
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

        #[test]
        fn content_is_what_it_was_in_the_block_and_beside_it(sizes in proptest::collection::vec(0usize..50_000, 0..4)) {
            let body: Vec<Bytes> =
                sizes.iter().enumerate().map(|(place, size)| Bytes::from(vec![place as u8; *size])).collect();
            let whole = body.concat();
            let kept = Arc::new(Kept::new(&head(""), &body));
            let newer = Head { status: StatusCode::OK, ..head("") };
            let under = Arc::new(kept.under(&newer));
            let again = Arc::new(Kept::again(kept.known(), body.clone().into_boxed_slice(), 7));
            for (one, status) in [(&kept, 404), (&under, 200), (&again, 404)] {
                prop_assert_eq!(one.content().collect::<Vec<_>>().concat(), &whole[..]);
                prop_assert_eq!(one.pieces().collect::<Vec<_>>().concat(), &whole[..]);
                prop_assert_eq!((one.length(), one.status().as_u16()), (whole.len() as u64, status));
                prop_assert_eq!(one.fields(), head("").fields);
                prop_assert!(one.size() >= whole.len() as u64 + OVERHEAD_BYTES);
            }
        }
    }

    #[test]
    fn the_first_purge_that_made_it_stale_is_the_one_that_counts() {
        let kept = Kept::new(&head(""), &[]);
        let lifetime = |kept: &Kept| kept.rules().freshness.lifetime;
        assert_eq!(lifetime(&kept), 100);
        kept.good_until(2, Some(Wall(1_050)));
        kept.good_until(3, Some(Wall(1_060)));
        assert_eq!(
            (lifetime(&kept), kept.own_rules().freshness.lifetime),
            (53, 100),
            "it was 3 s old at 1,000"
        );
        kept.is_stale_from(Wall(1_010));
        assert_eq!(lifetime(&kept), 13);
    }
}
