//! `RateLimit` and `RateLimit-Policy`, draft-ietf-httpapi-ratelimit-headers-11: lists of Structured Fields
//! strings (RFC 9651) with parameters.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::seconds_up;

/// What is left of the tightest limits.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The limits themselves.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The largest integer of Structured Fields.
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// A limit: so many requests in a window.
#[derive(Clone, Copy, Debug)]
pub struct Quota<'a> {
    /// The limit's name.
    pub name: &'a str,
    /// Requests per window.
    pub limit: u64,
    /// The window.
    pub window: Duration,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a> {
    /// The limit's name.
    pub name: &'a str,
    /// Requests that may come at once now.
    pub remaining: u64,
    /// Until the limit is full again.
    pub reset: Duration,
}

/// The value of `RateLimit-Policy`: `"default";q=100;w=10`.
///
/// The window is told in whole seconds, as the draft wants it; one that has a fraction is rounded up and its
/// quota raised in proportion, rounded down: the same rate, never a higher one.
#[must_use]
pub fn rate_limit_policy<'a>(quotas: impl IntoIterator<Item = Quota<'a>>) -> HeaderValue {
    let mut list = List::default();
    for quota in quotas {
        let window = seconds_up(quota.window).max(1);
        let scaled =
            u128::from(quota.limit) * u128::from(window) * 1_000_000_000 / quota.window.as_nanos().max(1);
        list.item(quota.name, [("q", u64::try_from(scaled).unwrap_or(u64::MAX)), ("w", window)]);
    }
    list.value()
}

/// The value of `RateLimit`: `"default";r=50;t=30`, the time in whole seconds, rounded up.
#[must_use]
pub fn rate_limit<'a>(left: impl IntoIterator<Item = Left<'a>>) -> HeaderValue {
    let mut list = List::default();
    for left in left {
        list.item(left.name, [("r", left.remaining), ("t", seconds_up(left.reset))]);
    }
    list.value()
}

#[derive(Default)]
struct List {
    out: Vec<u8>,
}

impl List {
    fn item(&mut self, name: &str, parameters: [(&str, u64); 2]) {
        if self.out.is_empty() {
            self.out.reserve(64);
        } else {
            self.out.extend_from_slice(b", ");
        }
        self.out.push(b'"');
        for character in name.chars() {
            match character {
                '"' | '\\' => self.out.extend([b'\\', character as u8]),
                ' '..='~' => self.out.push(character as u8),
                // A string holds printable ASCII alone.
                _ => self.out.push(b'?'),
            }
        }
        self.out.push(b'"');
        for (key, number) in parameters {
            self.out.push(b';');
            self.out.extend_from_slice(key.as_bytes());
            self.out.push(b'=');
            self.out.extend_from_slice(itoa::Buffer::new().format(number.min(INTEGER_MAX)).as_bytes());
        }
    }

    fn value(self) -> HeaderValue {
        HeaderValue::from_maybe_shared(Bytes::from(self.out)).expect("printable ASCII is a header value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, limit: u64, window_ms: u64, expected: &str) {
        assert_eq!(
            rate_limit_policy([Quota { name, limit, window: Duration::from_millis(window_ms) }]),
            expected
        );
    }

    #[test]
    fn a_policy_is_told_in_whole_seconds_at_the_same_rate() {
        check("default", 100, 10_000, "\"default\";q=100;w=10");
        check("fast", 50, 200, "\"fast\";q=250;w=1");
        check("odd", 10, 1_500, "\"odd\";q=13;w=2");
        check("huge", u64::MAX, 1_000, "\"huge\";q=999999999999999;w=1");
        check("a\"b\\c\u{e9}\n", 1, 1_000, "\"a\\\"b\\\\c??\";q=1;w=1");
    }

    #[test]
    fn lists_every_limit() {
        let left = |name, remaining, ms| Left { name, remaining, reset: Duration::from_millis(ms) };
        assert_eq!(rate_limit([left("a", 50, 29_001), left("b", 0, 0)]), "\"a\";r=50;t=30, \"b\";r=0;t=0");
        assert_eq!(rate_limit([]), "");
    }
}
