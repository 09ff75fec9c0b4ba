//! What a home answers, before the content: an answer's status and fields and what is known of it, or that there is none.
//!
//! Until it knows, it says again and again that it is still asking: so a home that hangs is told from one whose upstream
//! takes its time. What is known of an answer goes with it, since what the application said to caches of our kind alone is
//! not among its fields any more.
//!
//! Times are told as durations: no clock of one node is compared with that of another.

use bytes::{Buf as _, BufMut as _, BytesMut};
use http::StatusCode;

use super::bytes::{Texts as _, put_fields, put_text};
use super::seal::{Secret, TAG_BYTES, Tag};
use crate::cache::Wall;
use crate::cache::reuse::Rules;
use crate::cache::tags::{TAGS_MAX, Tag as CacheTag};
use crate::credential::Digest;
use crate::fields::Fields;
use crate::numbers::Take;

/// It is still asking.
pub const STILL: &[u8] = &[0];
/// The most bytes of what is told before the content.
pub const TOLD_BYTES_MAX: usize = 2 << 20;
/// What begins what is told.
const TOLD: u8 = 1;
/// Bytes before it: the kind and the length.
const BEFORE: usize = 5;

/// What is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// There is no answer, for this reason. The first node asks the upstream itself.
    Refused(String),
    /// An answer; its content follows.
    Answer(Box<Answer>),
    /// What was passed on is answered; this content follows.
    Passed(Passed),
}

/// The content that answers what was passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// So many bytes.
    pub length: u64,
    /// Of which this is the digest: unlike an answer of an application it is all known when it is told, and sealed.
    pub digest: Digest,
}

impl Passed {
    /// Of this content.
    #[must_use]
    pub fn of(content: &[u8]) -> Passed {
        Passed { length: content.len() as u64, digest: Digest::of(content) }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, as they are kept.
    pub fields: Fields,
    /// What is known of it. `None`: it is for this request alone.
    pub known: Option<Known>,
}

/// What is known of an answer that may be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// When it may be used. Its age is `freshness.initial_age`, now.
    pub rules: Rules,
    /// By what names it can be purged.
    pub tags: Vec<CacheTag>,
    /// How long the upstream took for its head, in milliseconds.
    pub took_ms: u32,
    /// How long ago it was asked for at most, in seconds.
    pub asked_ago: u32,
    /// Whether it is worth its room even when it is not fresh.
    pub keep: bool,
    /// Whether all who ask for it right now may have it.
    pub share: bool,
    /// Fields beside those that are kept: they are for this request alone.
    pub own: Fields,
}

impl Told {
    /// As it is said to whom asked with this seal.
    #[must_use]
    pub fn bytes(&self, secret: &Secret, asked: &Tag) -> Vec<u8> {
        let mut said = Vec::with_capacity(1_024);
        match self {
            Told::Refused(why) => {
                said.put_u8(0);
                put_text(&mut said, why.as_bytes());
            }
            Told::Answer(answer) => {
                said.put_u8(1);
                said.put_u16_le(answer.status.as_u16());
                put_fields(&mut said, &answer.fields);
                said.put_u8(answer.known.is_some().into());
                if let Some(known) = &answer.known {
                    known.put(&mut said);
                }
            }
            Told::Passed(Passed { length, digest }) => {
                said.put_u8(2);
                said.put_u64_le(*length);
                said.put_slice(&digest.0);
            }
        }
        let mut out = Vec::with_capacity(BEFORE + said.len() + TAG_BYTES);
        out.put_u8(TOLD);
        out.put_u32_le(u32::try_from(said.len()).unwrap_or(u32::MAX));
        out.put_slice(&said);
        out.put_slice(&secret.tag(&[asked, &said]));
        out
    }

    fn read(said: &[u8]) -> Option<Told> {
        let mut take = Take(said);
        let told = match take.u8()? {
            0 => Told::Refused(take.text()?.to_owned()),
            1 => {
                let status = StatusCode::from_u16(take.u16()?).ok()?;
                let fields = take.fields()?;
                let known = if take.flag()? { Some(Known::take(&mut take)?) } else { None };
                Told::Answer(Box::new(Answer { status, fields, known }))
            }
            2 => {
                let (length, digest) = (take.u64()?, take.bytes(32)?);
                Told::Passed(Passed { length, digest: Digest(digest.try_into().ok()?) })
            }
            _ => return None,
        };
        take.end().map(|()| told)
    }
}

impl Known {
    fn put(&self, out: &mut Vec<u8>) {
        self.rules.pack(out);
        out.put_u32_le(self.took_ms);
        out.put_u32_le(self.asked_ago);
        out.put_u8(self.keep.into());
        out.put_u8(self.share.into());
        out.put_u16_le(u16::try_from(self.tags.len()).unwrap_or(u16::MAX));
        self.tags.iter().for_each(|tag| out.put_u128_le(tag.0));
        put_fields(out, &self.own);
    }

    fn take(take: &mut Take<'_>) -> Option<Known> {
        let mut rules = Rules::unpack(take)?;
        // By its clock. Whoever asked counts back by its own.
        rules.freshness.answered = Wall(0);
        let (took_ms, asked_ago, keep, share) = (take.u32()?, take.u32()?, take.flag()?, take.flag()?);
        let count = take.u16().filter(|count| usize::from(*count) <= TAGS_MAX)?;
        let tags = (0..count).map(|_| Some(CacheTag(take.u128()?))).collect::<Option<_>>()?;
        Some(Known { rules, tags, took_ms, asked_ago, keep, share, own: take.fields()? })
    }
}

/// What comes is not what a home says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strange;

/// Takes what is told out of what has come; what is left of it is content. `None`: there is more to come first.
///
/// # Errors
/// [`Strange`], also for what was not sealed for this question.
pub fn take(came: &mut BytesMut, secret: &Secret, asked: &Tag) -> Result<Option<Told>, Strange> {
    while came.first() == STILL.first() {
        came.advance(STILL.len());
    }
    let Some(before) = came.first_chunk::<BEFORE>() else {
        return if came.first().is_none_or(|kind| *kind == TOLD) { Ok(None) } else { Err(Strange) };
    };
    let [kind, length @ ..] = *before;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if kind != TOLD || length > TOLD_BYTES_MAX {
        return Err(Strange);
    }
    if came.len() < BEFORE + length + TAG_BYTES {
        return Ok(None);
    }
    came.advance(BEFORE);
    let (said, tag) = (came.split_to(length), came.split_to(TAG_BYTES));
    if !secret.is_tag(&tag, &[asked, &said]) {
        return Err(Strange);
    }
    Told::read(&said).map(Some).ok_or(Strange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::freshness::Freshness;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    const ASKED: Tag = [5; TAG_BYTES];

    fn fields(name: &'static str) -> Fields {
        Fields::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("one"))])
    }

    fn answer(known: bool) -> Told {
        let freshness = Freshness { initial_age: 3, lifetime: 100, answered: Wall(0), heuristic: true };
        let rules = Rules {
            freshness,
            validate_always: false,
            never_stale: true,
            while_revalidate: 5,
            if_error: Some(0),
            immutable: true,
        };
        let known = known.then(|| Known {
            rules,
            tags: vec![CacheTag::named(b"a")],
            took_ms: 9,
            asked_ago: 4,
            keep: true,
            share: false,
            own: fields("x-own"),
        });
        Told::Answer(Box::new(Answer { status: StatusCode::NOT_FOUND, fields: fields("x-a"), known }))
    }

    fn secret() -> Secret {
        Secret::new(&[1; 32])
    }

    /// It is read as it was told, however it is cut, and the content stays.
    fn check(told: &Told) {
        let mut bytes = [STILL, STILL].concat();
        bytes.extend(told.bytes(&secret(), &ASKED));
        let length = bytes.len();
        bytes.extend(b"content");
        for cut in 0..bytes.len() {
            let mut came = BytesMut::from(&bytes[..cut]);
            let first = take(&mut came, &secret(), &ASKED).expect("it is no strange thing");
            assert_eq!(first.is_some(), cut >= length, "{cut} of {length}");
            came.extend_from_slice(&bytes[cut..]);
            let read = first.or_else(|| take(&mut came, &secret(), &ASKED).expect("it is told"));
            assert_eq!((read.as_ref(), &came[..]), (Some(told), &b"content"[..]));
        }
    }

    #[test]
    fn reads_as_it_was_told_however_it_is_cut() {
        check(&answer(true));
        check(&answer(false));
        check(&Told::Refused("route".to_owned()));
        check(&Told::Passed(Passed::of(b"content")));
    }

    #[test]
    fn what_answers_another_question_or_has_another_secret_is_strange() {
        let bytes = answer(true).bytes(&secret(), &ASKED);
        let other = Secret::new(&[2; 32]);
        for (secret, asked) in [(&secret(), &[6; TAG_BYTES]), (&other, &ASKED)] {
            assert_eq!(take(&mut BytesMut::from(&bytes[..]), secret, asked), Err(Strange));
        }
        assert_eq!(take(&mut BytesMut::from("HTTP"), &secret(), &ASKED), Err(Strange));
    }

    proptest! {
        #[test]
        fn foreign_bytes_break_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200), from in 0usize..300) {
            let mut told = answer(true).bytes(&secret(), &ASKED);
            let _ = take(&mut BytesMut::from(&bytes[..]), &secret(), &ASKED);
            told.splice(from.min(told.len()).., bytes);
            let _ = (take(&mut BytesMut::from(&told[..]), &secret(), &ASKED), Told::read(&told));
        }
    }
}
