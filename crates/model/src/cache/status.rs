//! `Cache-Status`: what the cache did with a request (RFC 9211).

use http::{HeaderName, HeaderValue, StatusCode};

use crate::fields::{FieldValue, Fields};

/// The field.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why a request went on to the upstream (section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fwd {
    /// The route is not cached for such a request.
    Bypass,
    /// The method's answers are not kept.
    Method,
    /// Nothing is stored of this target.
    UriMiss,
    /// Something is stored, for requests that differ in what it varies with.
    VaryMiss,
    /// Nothing is stored that would do.
    Miss,
    /// What is stored would do, but the request wants a newer one.
    Request,
    /// What is stored is stale.
    Stale,
    /// A part of what is asked for is stored.
    Partial,
}

impl Fwd {
    /// Its name in the field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fwd::Bypass => "bypass",
            Fwd::Method => "method",
            Fwd::UriMiss => "uri-miss",
            Fwd::VaryMiss => "vary-miss",
            Fwd::Miss => "miss",
            Fwd::Request => "request",
            Fwd::Stale => "stale",
            Fwd::Partial => "partial",
        }
    }
}

/// What the cache did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Why it went on; `None`: it was answered from what is stored.
    pub fwd: Option<Fwd>,
    /// What the upstream said.
    pub fwd_status: Option<StatusCode>,
    /// How long what was served is fresh, in seconds; below zero: it is stale.
    pub ttl: Option<i64>,
    /// Whether the answer was kept.
    pub stored: bool,
    /// Whether it was one of several that one request to the upstream answered.
    pub collapsed: bool,
    /// What else there is to say: a word of ours.
    pub detail: Option<&'static str>,
}

impl FieldValue for Status {
    fn say(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(b"tidegate");
        match self.fwd {
            None => text.extend_from_slice(b"; hit"),
            Some(fwd) => {
                text.extend_from_slice(b"; fwd=");
                text.extend_from_slice(fwd.name().as_bytes());
            }
        }
        if let Some(status) = self.fwd_status {
            text.extend_from_slice(b"; fwd-status=");
            text.extend_from_slice(status.as_str().as_bytes());
        }
        if let Some(ttl) = self.ttl {
            text.extend_from_slice(b"; ttl=");
            text.extend_from_slice(itoa::Buffer::new().format(ttl).as_bytes());
        }
        if self.stored {
            text.extend_from_slice(b"; stored");
        }
        if self.collapsed {
            text.extend_from_slice(b"; collapsed");
        }
        if let Some(detail) = self.detail {
            text.extend_from_slice(b"; detail=");
            text.extend_from_slice(detail.as_bytes());
        }
    }
}

impl Status {
    /// Says it in these fields, after what caches before us have said (section 2: the one nearest to the origin comes first).
    pub fn tell(&self, fields: &mut Fields) {
        if fields.contains_key(CACHE_STATUS) {
            let both = self.value(fields.get_all(CACHE_STATUS));
            fields.insert(CACHE_STATUS, both);
        } else {
            fields.append(CACHE_STATUS, self);
        }
    }

    /// The field's value, after what caches before us have said.
    #[must_use]
    pub fn value(&self, before: impl IntoIterator<Item = impl AsRef<[u8]>>) -> HeaderValue {
        let mut text = Vec::new();
        for before in before {
            if before.as_ref().is_ascii() {
                text.extend_from_slice(before.as_ref());
                text.extend_from_slice(b", ");
            }
        }
        self.say(&mut text);
        HeaderValue::try_from(text).expect("tokens, numbers and what was a value before make one")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Status, expected: &str) {
        let mut fields = Fields::default();
        status.tell(&mut fields);
        assert_eq!(fields.get(CACHE_STATUS).unwrap(), expected);
        let read = sfv::Parser::new(expected).parse::<sfv::List>();
        assert!(read.is_ok(), "a structured field: {expected}");
    }

    #[test]
    fn rfc_9211_section_2_tells_hits_and_why_a_request_went_on() {
        check(Status { ttl: Some(30), ..Status::default() }, "tidegate; hit; ttl=30");
        check(
            Status { ttl: Some(-5), detail: Some("stale-if-error"), ..Status::default() },
            "tidegate; hit; ttl=-5; detail=stale-if-error",
        );
        let fwd = Status {
            fwd: Some(Fwd::UriMiss),
            fwd_status: Some(StatusCode::OK),
            stored: true,
            collapsed: true,
            ..Status::default()
        };
        check(fwd, "tidegate; fwd=uri-miss; fwd-status=200; stored; collapsed");
        let reasons =
            [Fwd::Bypass, Fwd::Method, Fwd::VaryMiss, Fwd::Miss, Fwd::Request, Fwd::Stale, Fwd::Partial];
        for fwd in reasons {
            check(Status { fwd: Some(fwd), ..Status::default() }, &format!("tidegate; fwd={}", fwd.name()));
        }
    }

    #[test]
    fn rfc_9211_section_2_comes_after_those_nearer_to_the_origin() {
        let before = ["origin-cache; hit", "mid; fwd=stale, near; hit"].map(HeaderValue::from_static);
        let mut fields = Fields::from_iter(before.map(|before| (CACHE_STATUS, before)));
        Status::default().tell(&mut fields);
        let said: Vec<_> = fields.get_all(CACHE_STATUS).collect();
        assert_eq!(said, ["origin-cache; hit, mid; fwd=stale, near; hit, tidegate; hit"]);
    }
}
