//! Authorizers: what a service says of a request that it is asked about, which requests are the same question, and for how
//! long its word counts.
//!
//! What always holds: all that an authorizer is told of the client's fields is in the key of its answer, and the tenant and the
//! route always are; an answer that varies with anything else, or sets a cookie, counts once.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, CACHE_CONTROL, CONTENT_LENGTH, DATE, SET_COOKIE, VARY};
use http::{HeaderName, HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::cache::directives::{Response as Directives, Scope};
use crate::cache::vary::Vary;
use crate::fields::Fields;

/// What a status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The request may go on.
    Yes,
    /// It may not: its client is told what the authorizer says.
    No,
    /// It says nothing: the authorizer failed.
    Nothing,
}

impl Word {
    /// Of an answer with this status. Yes is 2xx. No is 401 and 403, and a redirect to where one may become somebody who may.
    #[must_use]
    pub fn of(status: StatusCode) -> Word {
        match status.as_u16() {
            200..=299 => Word::Yes,
            401 | 403 | 301 | 302 | 303 | 307 | 308 => Word::No,
            _ => Word::Nothing,
        }
    }
}

/// What an authorizer has said of a request.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It may go on.
    Allowed {
        /// What the upstream is told besides.
        upstream: Fields,
        /// What the client is told besides.
        client: Fields,
    },
    /// It may not.
    Denied {
        /// The status that the client gets.
        status: StatusCode,
        /// The fields.
        fields: Fields,
        /// The content.
        body: Bytes,
    },
}

impl Verdict {
    /// It may go on: what of the authorizer's fields goes where.
    #[must_use]
    pub fn allowed(fields: &Fields, to_upstream: &[HeaderName], to_client: &[HeaderName]) -> Verdict {
        Verdict::Allowed { upstream: chosen(fields, to_upstream), client: chosen(fields, to_client) }
    }

    /// It may not. Nobody keeps that for another, unless the authorizer says so.
    #[must_use]
    pub fn denied(status: StatusCode, mut fields: Fields, body: Bytes) -> Verdict {
        fields.remove(CONTENT_LENGTH);
        fields.remove(DATE);
        if !fields.contains_key(CACHE_CONTROL) {
            fields.append(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        Verdict::Denied { status, fields, body }
    }

    /// The bytes that it takes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Verdict::Allowed { upstream, client } => upstream.bytes() + client.bytes(),
            Verdict::Denied { fields, body, .. } => fields.bytes() + body.len(),
        }
    }
}

/// The fields of these names, in the order of the names.
#[must_use]
pub fn chosen(fields: &Fields, names: &[HeaderName]) -> Fields {
    let mut of = Fields::default();
    for name in names {
        for value in fields.get_all(name) {
            of.append(name, value);
        }
    }
    of
}

/// For how long an answer counts: as long as its `Cache-Control` says, and never longer than `most`. `told` is what the
/// authorizer was told of the client's fields.
#[must_use]
pub fn lifetime(answer: &Fields, told: &[HeaderName], most: Duration) -> Duration {
    let directives = Directives::of(answer, &[]);
    if directives.no_store || directives.no_cache != Scope::Nothing || answer.contains_key(SET_COOKIE) {
        return Duration::ZERO;
    }
    let varies = match Vary::of(answer) {
        None => true,
        Some(vary) => vary.names().any(|name| !told.contains(name)),
    };
    if answer.contains_key(VARY) && varies {
        return Duration::ZERO;
    }
    let told = directives.s_maxage.or(0).or_else(|| directives.max_age.or(0)).unwrap_or(0);
    let age = answer.get(AGE).and_then(|age| age.to_str().ok()?.parse::<u32>().ok()).unwrap_or(0);
    Duration::from_secs(told.saturating_sub(age).into()).min(most)
}

/// What makes two requests the same question, besides the tenant and the route. What is not in it is `None`.
#[derive(Clone, Debug, Default)]
pub struct Question<'a> {
    /// What the authorizer is, as it is configured: another one is asked anew.
    pub settings: &'a [u8],
    /// The tenant.
    pub tenant: &'a str,
    /// The method.
    pub method: Option<&'a str>,
    /// The host.
    pub host: Option<&'a str>,
    /// The path.
    pub path: Option<&'a str>,
    /// The query.
    pub query: Option<&'a str>,
    /// The client's address.
    pub client: Option<IpAddr>,
}

impl Question<'_> {
    /// Its key, with the fields that the authorizer is told. Each part is written with its length, so that none runs into the
    /// next.
    #[must_use]
    pub fn key(&self, told: &Fields) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut say = |part: Option<&[u8]>| {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hash.update(length.to_le_bytes());
            hash.update(part.unwrap_or_default());
        };
        let client = self.client.map(|address| address.to_string());
        for part in [
            Some(self.settings),
            Some(self.tenant.as_bytes()),
            self.method.map(str::as_bytes),
            self.host.map(str::as_bytes),
            self.path.map(str::as_bytes),
            self.query.map(str::as_bytes),
            client.as_deref().map(str::as_bytes),
        ] {
            say(part);
        }
        for (name, value) in told {
            say(Some(name.as_bytes()));
            say(Some(value.as_bytes()));
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: [HeaderName; 2] =
        [HeaderName::from_static("authorization"), HeaderName::from_static("cookie")];

    fn fields(lines: &[(&'static str, &'static str)]) -> Fields {
        let named = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(named).collect()
    }

    /// For how many seconds an answer with these fields counts.
    fn check(lines: &[(&'static str, &'static str)], seconds: u64) {
        let lives = lifetime(&fields(lines), &TOLD, Duration::from_secs(300));
        assert_eq!(lives, Duration::from_secs(seconds), "{lines:?}");
    }

    #[test]
    fn an_answer_counts_as_long_as_it_says_and_no_longer_than_it_may() {
        check(&[], 0);
        check(&[("cache-control", "max-age=60")], 60);
        check(&[("cache-control", "private, max-age=60"), ("age", "20")], 40);
        check(&[("cache-control", "max-age=60, s-maxage=5")], 5);
        check(&[("cache-control", "max-age=100000")], 300);
        check(&[("cache-control", "max-age=x")], 0);
        for not in ["no-store, max-age=60", "no-cache, max-age=60"] {
            check(&[("cache-control", not)], 0);
        }
        check(&[("cache-control", "max-age=60"), ("set-cookie", "a=b")], 0);
    }

    #[test]
    fn an_answer_that_varies_with_what_the_authorizer_was_not_told_counts_once() {
        check(&[("cache-control", "max-age=60"), ("vary", "Authorization")], 60);
        check(&[("cache-control", "max-age=60"), ("vary", "Authorization, Accept")], 0);
        check(&[("cache-control", "max-age=60"), ("vary", "*")], 0);
    }

    #[test]
    fn yes_is_2xx_no_is_what_a_client_can_act_on_and_all_else_is_nothing() {
        for (status, word) in [
            (200, Word::Yes),
            (204, Word::Yes),
            (302, Word::No),
            (401, Word::No),
            (403, Word::No),
            (304, Word::Nothing),
            (404, Word::Nothing),
            (429, Word::Nothing),
            (500, Word::Nothing),
        ] {
            assert_eq!(Word::of(StatusCode::from_u16(status).unwrap()), word, "{status}");
        }
    }

    #[test]
    fn each_part_of_a_question_makes_another_one() {
        let told = fields(&[("authorization", "a")]);
        let base = Question { settings: b"s", tenant: "t", method: Some("GET"), ..Question::default() };
        let keys = [
            base.key(&told),
            base.key(&Fields::default()),
            base.key(&fields(&[("cookie", "a")])),
            base.key(&fields(&[("authorization", "b")])),
            Question { settings: b"", ..base.clone() }.key(&told),
            Question { tenant: "u", ..base.clone() }.key(&told),
            Question { method: None, ..base.clone() }.key(&told),
            Question { method: Some("PUT"), ..base.clone() }.key(&told),
            Question { host: Some("h"), ..base.clone() }.key(&told),
            Question { path: Some("h"), ..base.clone() }.key(&told),
            Question { query: Some("h"), ..base.clone() }.key(&told),
            Question { query: Some(""), ..base.clone() }.key(&told),
            Question { client: Some([127, 0, 0, 1].into()), ..base.clone() }.key(&told),
            // What ends one part begins no other.
            Question { settings: b"st", tenant: "", ..base.clone() }.key(&told),
        ];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
        assert_eq!(base.key(&told), base.clone().key(&told.clone()));
    }

    #[test]
    fn of_the_authorizers_fields_only_those_that_are_named_go_on() {
        let said = fields(&[("x-user", "me"), ("x-other", "no"), ("set-cookie", "a"), ("set-cookie", "b")]);
        let (up, down) = ([HeaderName::from_static("x-user")], [SET_COOKIE]);
        let Verdict::Allowed { upstream, client } = Verdict::allowed(&said, &up, &down) else { panic!() };
        assert_eq!(
            (upstream, client),
            (fields(&[("x-user", "me")]), fields(&[("set-cookie", "a"), ("set-cookie", "b")]))
        );
        let Verdict::Denied { fields, .. } = Verdict::denied(StatusCode::FORBIDDEN, said, Bytes::new())
        else {
            panic!()
        };
        assert_eq!(fields.get("cache-control").unwrap(), "no-store");
    }
}
