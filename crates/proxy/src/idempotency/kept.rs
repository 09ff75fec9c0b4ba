//! What is kept of an answer, and an answer made of that.
//!
//! Fields are kept as they were told, each with its length before it. What a later client is told is the same to the byte,
//! with one exception: `Set-Cookie` is for who was told it first. A tenant may have many users, and a session must not be
//! handed to the next one who guesses a key.

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use http::{HeaderName, HeaderValue, StatusCode};
use tidegate_model::fields::Fields;
use tidegate_model::idempotency::{Answer, Fingerprint, digest};
use tidegate_model::message::Response;

use crate::settle::Content;

/// Tells that an answer is one that was told before.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What stands for whoever asks: the credentials that the request brings to the application.
#[must_use]
pub fn asker(fields: &Fields) -> Fingerprint {
    let all = [AUTHORIZATION, COOKIE].map(|name| {
        let values = fields.get_all(name).iter().map(|value| value.as_bytes().to_vec());
        values.collect::<Vec<_>>()
    });
    let parts = all.iter().flat_map(|values| {
        let count: &[u8] = if values.is_empty() { b"none" } else { b"some" };
        std::iter::once(count).chain(values.iter().map(Vec::as_slice))
    });
    digest(parts)
}

/// Fields as they are kept.
#[must_use]
pub fn written(fields: &Fields) -> Bytes {
    let mut out = Vec::with_capacity(fields.bytes());
    for (name, value) in fields.iter() {
        for part in [name.as_bytes(), value.as_bytes()] {
            // A head has less than 4 GiB.
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(part);
        }
    }
    out.into()
}

/// The fields that were kept so. `None`: they were not.
fn read(mut bytes: &[u8]) -> Option<Fields> {
    let mut fields = Fields::default();
    while !bytes.is_empty() {
        let (name, rest) = part(bytes)?;
        let (value, rest) = part(rest)?;
        fields.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        bytes = rest;
    }
    Some(fields)
}

fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// The answer as it is told again to this one. `None`: it is not what was kept.
#[must_use]
pub fn replayed(answer: &Answer, asker: &Fingerprint) -> Option<Response<Content>> {
    let mut fields = read(&answer.fields)?;
    if answer.told_to != *asker {
        fields.remove(SET_COOKIE);
    }
    fields.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    let content = if answer.body.is_empty() { Content::Empty } else { Content::Full(answer.body.clone()) };
    let mut response = Response::new(content);
    *response.status_mut() = StatusCode::from_u16(answer.status).ok()?;
    *response.headers_mut() = fields;
    Some(response)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> Fields {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    /// The fields that this asker is told again, of what the first one was told.
    fn check(
        first: &[(&'static str, &'static str)],
        asker: Fingerprint,
        expected: &[(&'static str, &'static str)],
    ) {
        let kept = written(&fields(first));
        let answer = Answer { status: 201, fields: kept, body: Bytes::from_static(b"x"), told_to: [1; 32] };
        let response = replayed(&answer, &asker).unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(*response.headers(), fields(expected));
    }

    #[test]
    fn a_cookie_is_for_who_was_told_it_first() {
        let told = [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("location", "/x")];
        let replayed = ("idempotency-replayed", "true");
        check(&told, [1; 32], &[told[0], told[1], told[2], replayed]);
        check(&told, [2; 32], &[told[2], replayed]);
    }

    #[test]
    fn askers_differ_by_their_credentials() {
        let all = [
            fields(&[]),
            fields(&[("authorization", "a")]),
            fields(&[("cookie", "a")]),
            fields(&[("authorization", "a"), ("cookie", "a")]),
            fields(&[("cookie", "some"), ("cookie", "a")]),
        ];
        let askers: std::collections::HashSet<_> = all.iter().map(asker).collect();
        assert_eq!(askers.len(), all.len());
        assert_eq!(asker(&fields(&[("authorization", "a"), ("x", "y")])), asker(&all[1]));
    }

    #[test]
    fn what_is_cut_is_no_answer() {
        let kept = written(&fields(&[("a", "b"), ("c", "d")]));
        for cut in 1..kept.len() {
            assert!(cut == kept.len() / 2 || read(&kept[..cut]).is_none(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn fields_are_read_as_they_were_written(values in proptest::collection::vec("[ -~]{0,20}", 0..8)) {
            let all: Fields = values
                .iter()
                .map(|value| (HeaderName::from_static("x-a"), HeaderValue::from_str(value).unwrap()))
                .collect();
            prop_assert_eq!(read(&written(&all)), Some(all));
        }

        #[test]
        fn any_bytes_are_fields_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
        }
    }
}
