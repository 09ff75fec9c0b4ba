//! An answer as it lies where all nodes see it. It is read as foreign bytes: a checksum says that it is whole, and each
//! length is looked at before it is believed.
//!
//! ```text
//! checksum, form, then   varying: the names of fields that answers vary with
//!                        answer:  key, place of the log, status, time taken, rules, tags, names, fields, content
//! ```
//!
//! Numbers are little-endian; what has a length tells it before.

use bytes::Bytes;
use http::header::VARY;
use http::{HeaderName, HeaderValue, StatusCode};
use tidegate_model::cache::Wall;
use tidegate_model::cache::freshness::Freshness;
use tidegate_model::cache::key::Key;
use tidegate_model::cache::orders::Place;
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::tags::Tag;
use tidegate_model::cache::vary::Vary;
use tidegate_model::credential::Digest;
use tidegate_model::fields::Fields;

use crate::cache::kept::{Head, Kept};

/// The forms. Another version of Tidegate that writes others takes these for nothing, and the other way round.
const VARYING: u8 = 1;
const ANSWER: u8 = 2;
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
    /// What is known of it. `made` is not.
    pub head: Head,
    /// Its content.
    pub content: Bytes,
}

/// The record of a target whose answers vary.
#[must_use]
pub fn varying(vary: &Vary) -> Vec<u8> {
    let mut out = begin(VARYING);
    put_text(&mut out, names(vary).as_bytes());
    end(out)
}

/// The record of an answer.
#[must_use]
pub fn answer(key: Key, place: Place, vary: &Vary, kept: &Kept) -> Vec<u8> {
    let mut out = begin(ANSWER);
    out.extend_from_slice(&key.0.to_le_bytes());
    put_u64(&mut out, place.millis);
    put_u64(&mut out, place.number);
    put_u32(&mut out, u32::from(kept.status.as_u16()));
    put_u32(&mut out, kept.took_ms);
    put_rules(&mut out, &kept.rules);
    put_u32(&mut out, kept.tags.len() as u32);
    for tag in &kept.tags {
        out.extend_from_slice(&tag.0.to_le_bytes());
    }
    put_text(&mut out, names(vary).as_bytes());
    let fields = kept.fields();
    put_u32(&mut out, fields.len() as u32);
    for (name, value) in &fields {
        put_text(&mut out, name.as_str().as_bytes());
        put_text(&mut out, value.as_bytes());
    }
    put_u32(&mut out, kept.length as u32);
    kept.body.iter().for_each(|piece| out.extend_from_slice(piece));
    end(out)
}

/// Reads a record. `None`: it is none of this version's, or not as it was written.
#[must_use]
pub fn read(bytes: Bytes) -> Option<Record> {
    let sum = sum(bytes.get(SUM_BYTES..)?);
    if bytes[..SUM_BYTES] != sum {
        return None;
    }
    let mut take = Take(&bytes[SUM_BYTES..]);
    match take.array::<1>()? {
        [VARYING] => {
            let vary = vary(take.text()?)?;
            take.0.is_empty().then_some(Record::Varying(vary))
        }
        [ANSWER] => read_answer(&bytes, take).map(|answer| Record::Answer(Box::new(answer))),
        _ => None,
    }
}

fn read_answer(bytes: &Bytes, mut take: Take<'_>) -> Option<Answer> {
    let key = Key(u128::from_le_bytes(take.array()?));
    let place = Place { millis: take.u64()?, number: take.u64()? };
    let status = StatusCode::from_u16(u16::try_from(take.u32()?).ok()?).ok()?;
    let took_ms = take.u32()?;
    let rules = take_rules(&mut take)?;
    // As each takes bytes, there are never more of them than bytes.
    let tags =
        (0..take.u32()?).map(|_| Some(Tag(u128::from_le_bytes(take.array()?)))).collect::<Option<_>>()?;
    let vary = vary(take.text()?)?;
    let mut fields = Fields::default();
    for _ in 0..take.u32()? {
        let name = HeaderName::from_bytes(take.text()?).ok()?;
        fields.append(name, HeaderValue::from_bytes(take.text()?).ok()?);
    }
    let content = bytes.slice_ref(take.text()?);
    let head = Head { status, fields, rules, tags, made: 0, took_ms, vary, variant: Vec::new() };
    take.0.is_empty().then_some(Answer { key, place, head, content })
}

fn put_rules(out: &mut Vec<u8>, rules: &Rules) {
    let Rules { freshness, validate_always, never_stale, while_revalidate, if_error, immutable } = *rules;
    let Freshness { initial_age, lifetime, answered, heuristic } = freshness;
    put_u64(out, answered.0);
    for number in [initial_age, lifetime, while_revalidate, if_error.unwrap_or(0)] {
        put_u32(out, number);
    }
    let flags = [heuristic, validate_always, never_stale, immutable, if_error.is_some()];
    out.extend(flags.map(u8::from));
}

fn take_rules(take: &mut Take<'_>) -> Option<Rules> {
    let answered = Wall(take.u64()?);
    let (initial_age, lifetime) = (take.u32()?, take.u32()?);
    let (while_revalidate, if_error) = (take.u32()?, take.u32()?);
    let [heuristic, validate_always, never_stale, immutable, says] = take.array::<5>()?.map(|flag| flag == 1);
    Some(Rules {
        freshness: Freshness { initial_age, lifetime, answered, heuristic },
        validate_always,
        never_stale,
        while_revalidate,
        if_error: says.then_some(if_error),
        immutable,
    })
}

/// The names of varying fields, as the field says them.
pub(super) fn names(vary: &Vary) -> String {
    vary.names().map(HeaderName::as_str).collect::<Vec<_>>().join(",")
}

fn vary(names: &[u8]) -> Option<Vary> {
    Vary::of(&Fields::from_iter([(VARY, HeaderValue::from_bytes(names).ok()?)]))
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

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, bytes.len() as u32);
    out.extend_from_slice(bytes);
}

/// What has not been read yet.
struct Take<'a>(&'a [u8]);

impl<'a> Take<'a> {
    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.bytes(length)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is known of an answer that varies with these fields.
    pub fn head(names: &str) -> Head {
        let freshness = Freshness { initial_age: 3, lifetime: 100, answered: Wall(1_000), heuristic: true };
        let rules = Rules {
            freshness,
            validate_always: false,
            never_stale: true,
            while_revalidate: 5,
            if_error: Some(0),
            immutable: true,
        };
        let fields = Fields::from_iter([
            (HeaderName::from_static("x-a"), HeaderValue::from_static("one")),
            (HeaderName::from_static("x-a"), HeaderValue::from_bytes(b"tw\xff").unwrap()),
        ]);
        Head {
            status: StatusCode::NOT_FOUND,
            fields,
            rules,
            tags: Box::new([Tag::named(b"a"), Tag::named(b"b")]),
            made: 1,
            took_ms: 9,
            vary: vary(names.as_bytes()).unwrap(),
            variant: Vec::new(),
        }
    }

    fn written() -> Vec<u8> {
        let head = head("accept,cookie");
        let body = [Bytes::from_static(b"hel"), Bytes::from_static(b"lo")];
        let kept = Kept::with(&head, Box::new(body));
        answer(Key(7), Place { millis: 8, number: 9 }, &head.vary, &kept)
    }

    #[test]
    fn an_answer_reads_as_it_was_written() {
        let Some(Record::Answer(read)) = read(Bytes::from(written())) else { panic!("it is an answer") };
        let head = head("accept,cookie");
        assert_eq!((read.key, read.place), (Key(7), Place { millis: 8, number: 9 }));
        assert_eq!((read.head.status, read.head.rules), (head.status, head.rules));
        assert_eq!((read.head.tags, read.head.took_ms, read.head.vary), (head.tags, 9, head.vary));
        assert_eq!((read.head.fields, &read.content[..]), (head.fields, &b"hello"[..]));
        let Some(Record::Varying(names)) = super::read(Bytes::from(varying(&vary(b"accept").unwrap())))
        else {
            panic!("it says with what its answers vary")
        };
        assert_eq!(names, vary(b"accept").unwrap());
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
