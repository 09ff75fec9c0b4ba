//! An answer as it lies where all nodes see it. It is read as foreign bytes: a checksum says that it is whole, and each
//! length is looked at before it is believed.
//!
//! ```text
//! checksum, form, then   varying: the names of fields that answers vary with
//!                        answer:  key, place of the log, names of varying fields, what is known (`cache::known`), content
//! ```

use bytes::{BufMut as _, Bytes};
use tidegate_model::cache::assemble::TIDEGATE_SLICES;
use tidegate_model::cache::key::Key;
use tidegate_model::cache::orders::Place;
use tidegate_model::cache::vary::Vary;
use tidegate_model::credential::Digest;

use crate::cache::kept::Kept;
use crate::cache::known::{self, Known};
use tidegate_model::numbers::Take;

/// The forms. Another version of Tidegate that writes others takes these for nothing, and the other way round.
const VARYING: u8 = 3;
const ANSWER: u8 = 4;
/// Bytes of the checksum, the beginning of a SHA-256.
const SUM_BYTES: usize = 8;

/// What lies under a key.
pub enum Record {
    /// The answers to this target vary with these fields, and lie under keys of their own.
    Varying(Vary),
    /// An answer.
    Answer(Box<Answer>),
}

/// An answer that was read.
pub struct Answer {
    /// What it lies under.
    pub key: Key,
    /// How far whoever asked for it had read the log of purges.
    pub place: Place,
    /// What it varies with.
    pub vary: Vary,
    /// What is known of it: [`Known`] has found it sound.
    pub known: Bytes,
    /// Its content.
    pub content: Bytes,
}

/// The record of a target whose answers vary. `None`: with more than a record can have.
#[must_use]
pub fn varying(vary: &Vary) -> Option<Vec<u8>> {
    let mut out = begin(VARYING);
    known::write_vary(&mut out, vary)?;
    Some(end(out))
}

/// The record of an answer. `None`: it is more than a record can have.
#[must_use]
pub fn answer(key: Key, place: Place, vary: &Vary, kept: &Kept) -> Option<Vec<u8>> {
    let mut out = begin(ANSWER);
    out.put_u128_le(key.0);
    out.put_u64_le(place.millis);
    out.put_u64_le(place.number);
    known::write_vary(&mut out, vary)?;
    let known = kept.known().bytes();
    out.put_u32_le(u32::try_from(known.len()).ok()?);
    out.put_slice(known);
    kept.content().for_each(|piece| out.put_slice(piece));
    Some(end(out))
}

/// Reads a record. `None`: it is none of this version's, or not as it was written.
#[must_use]
pub fn read(bytes: Bytes) -> Option<Record> {
    let sum = sum(bytes.get(SUM_BYTES..)?);
    if bytes[..SUM_BYTES] != sum {
        return None;
    }
    let mut take = Take(&bytes[SUM_BYTES..]);
    match take.u8()? {
        VARYING => {
            let vary = known::read_vary(&mut take)?;
            take.0.is_empty().then_some(Record::Varying(vary))
        }
        ANSWER => {
            let key = Key(take.u128()?);
            let place = Place { millis: take.u64()?, number: take.u64()? };
            let vary = known::read_vary(&mut take)?;
            let length = take.u32()? as usize;
            let known = Known::read(take.bytes(length)?)?;
            // Slices are on the node that made them alone: what speaks of some was written by nobody of ours.
            if known.fields().contains_key(TIDEGATE_SLICES) {
                return None;
            }
            let known = bytes.slice_ref(known.bytes());
            let content = bytes.slice_ref(take.0);
            Some(Record::Answer(Box::new(Answer { key, place, vary, known, content })))
        }
        _ => None,
    }
}

fn begin(form: u8) -> Vec<u8> {
    let mut out = vec![0; SUM_BYTES];
    out.push(form);
    out
}

fn end(mut out: Vec<u8>) -> Vec<u8> {
    let sum = sum(&out[SUM_BYTES..]);
    out[..SUM_BYTES].copy_from_slice(&sum);
    out
}

fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let mut sum = [0; SUM_BYTES];
    sum.copy_from_slice(&Digest::of(bytes).0[..SUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::known::tests::{head, vary};
    use proptest::prelude::*;

    fn written() -> Vec<u8> {
        let head = head("accept,cookie");
        let body = [Bytes::from_static(b"hel"), Bytes::from_static(b"lo")];
        let kept = Kept::with(&head, Box::new(body));
        answer(Key(7), Place { millis: 8, number: 9 }, &head.vary, &kept).unwrap()
    }

    #[test]
    fn an_answer_reads_as_it_was_written() {
        let Some(Record::Answer(read)) = read(Bytes::from(written())) else { panic!("it is an answer") };
        assert_eq!((read.key, read.place), (Key(7), Place { millis: 8, number: 9 }));
        let mut known = Vec::new();
        known::write(&mut known, &head(""));
        assert_eq!((read.vary, &read.known[..]), (vary("accept,cookie"), &known[..]));
        assert_eq!(&read.content[..], b"hello");
        let names = vary("accept");
        let Some(Record::Varying(read)) = super::read(Bytes::from(varying(&names).unwrap())) else {
            panic!("it says with what its answers vary")
        };
        assert_eq!(read, names);
    }

    #[test]
    fn what_speaks_of_slices_is_none_of_ours() {
        let mut head = head("");
        head.fields.append(TIDEGATE_SLICES, http::HeaderValue::from_static("1-ffffffffffffffff-1"));
        let kept = Kept::with(&head, Box::default());
        let written = answer(Key(7), Place { millis: 8, number: 9 }, &head.vary, &kept).unwrap();
        assert!(read(Bytes::from(written)).is_none());
    }

    proptest! {
        #[test]
        fn a_record_with_another_bit_is_none(at in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = written();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(read(Bytes::from(bytes)).is_none());
        }

        /// Whoever can write there can make the checksum, too.
        #[test]
        fn foreign_bytes_break_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200), from in 0usize..200) {
            let mut written = written();
            let at = SUM_BYTES + from % (written.len() - SUM_BYTES);
            written.splice(at.., bytes);
            let _ = read(Bytes::from(end(written)));
        }
    }
}
