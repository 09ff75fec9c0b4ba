//! One answer on disk: what it is found by, what is known of it, its content.
//!
//! ```text
//! head: magic, checksum, generation, key, target, room, made, length of what is known, length of the content
//! known: names of varying fields, a checksum for each piece of the content, what is known (`cache::known`)
//! content
//! ```
//!
//! The checksum of the head covers what stands before the content, too; each piece of the content has its own. The generation is that of the
//! segment: what is left of a segment's earlier use is not taken for its present one. All of it is read as foreign bytes.

use bytes::{BufMut as _, Bytes};
use tidegate_model::cache::key::Key;
use tidegate_model::cache::vary::Vary;

use crate::cache::kept::Kept;
use crate::cache::known::{self, Known};
use tidegate_model::numbers::Take;

/// The bytes of a record's head.
pub const HEAD_BYTES: usize = 80;
/// Records begin at multiples of this.
pub const ALIGN: usize = 64;
/// Content is summed in pieces of this size.
pub const PIECE_BYTES: usize = 256 * 1024;
const MAGIC: u32 = u32::from_le_bytes(*b"TGa2");
/// What is known of an answer is never more: a head has at most some hundred KiB.
const KNOWN_BYTES_MAX: u32 = 4 << 20;

/// What a record begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The generation of its segment.
    pub generation: u64,
    /// What it is found by.
    pub key: Key,
    /// What was asked for; the same as `key` for an answer that does not vary.
    pub target: Key,
    /// Whose room it takes.
    pub room: u64,
    /// The newest purge when it was asked for, with its session: see [`super::journal`].
    pub made: u64,
    known: u32,
    content: u32,
}

/// An answer to be written.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is found by.
    pub key: Key,
    /// What was asked for.
    pub target: Key,
    /// Whose room it takes.
    pub room: u64,
    /// What it varies with.
    pub vary: Vary,
    /// The answer.
    pub kept: std::sync::Arc<Kept>,
}

/// An answer that was read.
#[derive(Debug)]
pub struct Restored {
    /// What it is found by, and the rest of its head.
    pub head: Head,
    /// What it varies with.
    pub vary: Vary,
    /// What is known of it: [`Known`] has found it sound.
    pub known: Bytes,
    /// Its content.
    pub body: Box<[Bytes]>,
}

impl Head {
    /// Reads a head. Whether it is sound is known with what follows: [`is_sound`].
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Head> {
        let mut take = Take(bytes);
        if take.u32()? != MAGIC {
            return None;
        }
        take.u32()?;
        let head = Head {
            generation: take.u64()?,
            key: Key(take.u128()?),
            target: Key(take.u128()?),
            room: take.u64()?,
            made: take.u64()?,
            known: take.u32()?,
            content: take.u32()?,
        };
        (head.known <= KNOWN_BYTES_MAX && bytes.len() >= HEAD_BYTES).then_some(head)
    }

    /// The bytes of its head and of what is known of it.
    #[must_use]
    pub fn known_length(&self) -> usize {
        HEAD_BYTES + self.known as usize
    }

    /// All bytes of the record, with those that fill it up.
    #[must_use]
    pub fn length(&self) -> u64 {
        (self.known_length() as u64 + u64::from(self.content)).next_multiple_of(ALIGN as u64)
    }
}

/// Whether head and what is known are as they were written: `bytes` are [`Head::known_length`] of the record's first.
#[must_use]
pub fn is_sound(bytes: &[u8]) -> bool {
    let mut take = Take(bytes);
    take.u32() == Some(MAGIC) && take.u32() == Some(crc32fast::hash(&bytes[8..]))
}

/// Appends an answer as a record. `None`: it is larger than a record can be.
#[must_use]
pub fn write(out: &mut Vec<u8>, item: &Item, generation: u64, made: u64) -> Option<()> {
    let begin = out.len();
    let content = u32::try_from(item.kept.length()).ok()?;
    out.resize(begin + HEAD_BYTES, 0);
    known::write_vary(out, &item.vary)?;
    for sum in sums(item.kept.content()) {
        out.put_u32_le(sum);
    }
    out.put_slice(item.kept.known().bytes());
    let known = out.len() - begin - HEAD_BYTES;
    if known > KNOWN_BYTES_MAX as usize {
        return None;
    }
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.put_u32_le(MAGIC);
    head.put_u32_le(0);
    head.put_u64_le(generation);
    head.put_u128_le(item.key.0);
    head.put_u128_le(item.target.0);
    head.put_u64_le(item.room);
    head.put_u64_le(made);
    head.put_u32_le(known as u32);
    head.put_u32_le(content);
    out[begin..begin + head.len()].copy_from_slice(&head);
    let sum = crc32fast::hash(&out[begin + 8..]);
    out[begin + 4..begin + 8].copy_from_slice(&sum.to_le_bytes());
    for piece in item.kept.content() {
        out.put_slice(piece);
    }
    out.resize(begin + (out.len() - begin).next_multiple_of(ALIGN), 0);
    Some(())
}

/// Another segment's record becomes one of this generation; all else stays as it is.
pub fn renew(record: &mut [u8], head: &Head, generation: u64) {
    record[8..16].copy_from_slice(&generation.to_le_bytes());
    let sum = crc32fast::hash(&record[8..head.known_length()]);
    record[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// Reads a whole record. `None`: it is not one, or not as it was written.
#[must_use]
pub fn read(record: &Bytes) -> Option<Restored> {
    let head = Head::read(record)?;
    if !is_sound(record.get(..head.known_length())?) {
        return None;
    }
    let content = record.slice_ref(record.get(head.known_length()..)?.get(..head.content as usize)?);
    let (vary, expected, known) = read_known(record, &head)?;
    let known = record.slice_ref(Known::read(known)?.bytes());
    let body: Box<[Bytes]> = (0..content.len())
        .step_by(PIECE_BYTES)
        .map(|at| content.slice(at..content.len().min(at + PIECE_BYTES)))
        .collect();
    let same = body.iter().map(|piece| crc32fast::hash(piece)).eq(expected);
    same.then_some(Restored { head, vary, known, body })
}

/// What a record has between its head and its content: what it varies with, checksums, and what is known.
fn read_known<'r>(record: &'r [u8], head: &Head) -> Option<(Vary, Vec<u32>, &'r [u8])> {
    let mut take = Take(record.get(HEAD_BYTES..head.known_length())?);
    let vary = known::read_vary(&mut take)?;
    let pieces = (head.content as usize).div_ceil(PIECE_BYTES);
    let sums = (0..pieces).map(|_| take.u32()).collect::<Option<Vec<u32>>>()?;
    Some((vary, sums, take.0))
}

/// What a sound record varies with: `bytes` begin with its head and what is known of it.
#[must_use]
pub fn vary_of(bytes: &[u8], head: &Head) -> Option<Vary> {
    read_known(bytes, head).map(|(vary, ..)| vary)
}

/// The checksums of the content in pieces of [`PIECE_BYTES`], however it came.
fn sums<'c>(content: impl Iterator<Item = &'c [u8]>) -> Vec<u32> {
    let (mut sums, mut sum, mut left) = (Vec::new(), crc32fast::Hasher::new(), PIECE_BYTES);
    for mut bytes in content {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(left));
            sum.update(now);
            left -= now.len();
            bytes = rest;
            if left == 0 {
                sums.push(std::mem::take(&mut sum).finalize());
                left = PIECE_BYTES;
            }
        }
    }
    if left < PIECE_BYTES {
        sums.push(sum.finalize());
    }
    sums
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    /// An answer with this content that varies with these fields.
    pub fn item(key: u128, body: &[&[u8]], names: &str) -> Item {
        let head = known::tests::head(names);
        let body = body.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect();
        let kept = Arc::new(Kept::with(&head, body));
        Item { key: Key(key), target: Key(key), room: 7, vary: head.vary, kept }
    }

    fn written(item: &Item) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, item, 4, 5).unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_answer_comes_back_as_it_was(cuts in proptest::collection::vec(0usize..300_000, 0..4)) {
            let bodies: Vec<Vec<u8>> = cuts.iter().map(|&length| vec![length as u8; length]).collect();
            let item = item(3, &bodies.iter().map(|body| &body[..]).collect::<Vec<_>>(), "accept,cookie");
            let record = written(&item);
            prop_assert_eq!(record.len() % ALIGN, 0);
            let restored = read(&Bytes::from(record.clone())).unwrap();
            prop_assert_eq!(restored.head.length(), record.len() as u64);
            prop_assert_eq!((restored.head.generation, restored.head.made, restored.head.key), (4, 5, Key(3)));
            prop_assert_eq!(restored.body.concat(), bodies.concat());
            prop_assert_eq!(&restored.vary, &item.vary);
            prop_assert_eq!(&restored.known[..], item.kept.known().bytes());
        }

        #[test]
        fn any_byte_that_changed_is_seen(at in 0usize..2_000, by in 1u8..) {
            let item = item(3, &[&[1; 900], &[2; 900]], "accept");
            let mut record = written(&item);
            let counts = HEAD_BYTES + 1_800;
            let at = at % counts.min(record.len());
            record[at] ^= by;
            prop_assert!(read(&Bytes::from(record)).is_none());
        }

        #[test]
        fn foreign_bytes_are_refused_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..400) {
            prop_assert!(read(&Bytes::from(bytes)).is_none());
            let record = written(&item(3, &[b"abc"], ""));
            let counts = Head::read(&record).unwrap().known_length() + 3;
            let cut = cut.min(record.len());
            prop_assert_eq!(read(&Bytes::copy_from_slice(&record[..cut])).is_some(), cut >= counts);
        }
    }

    #[test]
    fn a_record_of_another_generation_is_as_sound() {
        let item = item(3, &[b"abc"], "");
        let mut record = written(&item);
        let head = Head::read(&record).unwrap();
        renew(&mut record, &head, 77);
        assert_eq!(read(&Bytes::from(record)).unwrap().head.generation, 77);
    }
}
