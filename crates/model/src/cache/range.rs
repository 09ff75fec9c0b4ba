//! Parts of what is stored (RFC 9110 section 14; RFC 9111 section 3.3).

use crate::fields::{Fields, Value};
use http::Method;
use http::header::{CONTENT_RANGE, DATE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE};
use smallvec::SmallVec;

use crate::cache::Wall;
use crate::cache::validate::is_strong;
use crate::method::QUERY;

/// More parts than any client needs at once; who asks for more gets the whole (RFC 9110 section 14.2 allows it, and many
/// small or overlapping parts are an attack).
pub const PARTS_MAX: usize = 16;

/// The bytes `from..to` of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first.
    pub from: u64,
    /// The first that is not of it.
    pub to: u64,
}

impl Part {
    /// How many bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        self.to - self.from
    }

    /// Whether it has none. A part that was asked for never is.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.to <= self.from
    }

    /// The value of `Content-Range`.
    #[must_use]
    pub fn content_range(self, whole: u64) -> String {
        format!("bytes {}-{}/{whole}", self.from, self.to - 1)
    }
}

/// What a request asks for of a representation of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of it.
    Whole,
    /// These parts, in the order asked for.
    Parts(SmallVec<[Part; 1]>),
    /// Only what lies beyond its end: 416.
    Nothing,
}

/// What a request asks for.
#[must_use]
pub fn asked(method: &Method, request: &Fields, stored: &Fields, length: u64) -> Asked {
    let mut lines = request.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Asked::Whole };
    // RFC 10008 section 2.8: of a QUERY as of a GET.
    if !(method == Method::GET || method.as_str() == QUERY) || !holds(request, stored) {
        return Asked::Whole;
    }
    parts(line.as_bytes(), length).unwrap_or(Asked::Whole)
}

/// Whether `If-Range` holds: the same strong tag, or the very date of a change that lies back far enough to be told from
/// another (RFC 9110 section 13.1.5).
fn holds(request: &Fields, stored: &Fields) -> bool {
    let Some(condition) = request.get(IF_RANGE).map(|value| value.as_bytes()) else { return true };
    if condition.starts_with(b"\"") || condition.starts_with(b"W/") {
        return is_strong(condition) && stored.get(ETAG).is_some_and(|tag| tag.as_bytes() == condition);
    }
    let date = |name| stored.get(name).and_then(|date: Value<'_>| Wall::of_date(date.as_bytes()));
    let (Some(modified), Some(date)) = (date(LAST_MODIFIED), date(DATE)) else { return false };
    Wall::of_date(condition) == Some(modified) && date.since(modified) >= 1
}

/// Reads a `Range`. `None`: it is malformed, of another unit, or asks for too many parts: the whole answers it.
fn parts(line: &[u8], length: u64) -> Option<Asked> {
    let unit = line.get(..6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let (mut parts, mut count, mut overlaps) = (SmallVec::<[Part; 1]>::new(), 0, 0);
    for spec in line[6..].split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|spec| !spec.is_empty())
    {
        count += 1;
        if count > PARTS_MAX {
            return None;
        }
        let dash = spec.iter().position(|&byte| byte == b'-')?;
        let (from, to) = (&spec[..dash], &spec[dash + 1..]);
        let part = match (number(from), number(to)) {
            (Some(Some(from)), Some(Some(to))) if from > to => return None,
            (Some(Some(from)), Some(to)) => {
                Part { from, to: to.map_or(length, |to| to.saturating_add(1).min(length)) }
            }
            (Some(None), Some(Some(last))) => Part { from: length.saturating_sub(last), to: length },
            _ => return None,
        };
        if part.is_empty() {
            continue;
        }
        overlaps += usize::from(parts.iter().any(|other| part.from < other.to && other.from < part.to));
        parts.push(part);
    }
    // More than two parts that overlap are no honest question (RFC 9110 section 14.2).
    match parts.len() {
        _ if count == 0 || overlaps > 1 => None,
        0 => Some(Asked::Nothing),
        _ => Some(Asked::Parts(parts)),
    }
}

/// `None`: no number. `Some(None)`: nothing is there.
fn number(digits: &[u8]) -> Option<Option<u64>> {
    if digits.is_empty() {
        return Some(None);
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Some(
        digits.iter().fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))),
    ))
}

/// Which part of how much a 206 brings. `None`: it does not tell, or more than one part.
#[must_use]
pub fn brought(response: &Fields) -> Option<(Part, Option<u64>)> {
    let value = response.get(CONTENT_RANGE)?.as_bytes();
    let rest = value.get(..6).filter(|unit| unit.eq_ignore_ascii_case(b"bytes ")).map(|_| &value[6..])?;
    let slash = rest.iter().position(|&byte| byte == b'/')?;
    let (range, whole) = (&rest[..slash], &rest[slash + 1..]);
    let dash = range.iter().position(|&byte| byte == b'-')?;
    let (from, last) = (number(&range[..dash])??, number(&range[dash + 1..])??);
    let whole = if whole == b"*" { None } else { Some(number(whole)??) };
    let part = Part { from, to: last.checked_add(1)? };
    (!part.is_empty() && whole.is_none_or(|whole| part.to <= whole)).then_some((part, whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn map(lines: &[(&'static str, &str)]) -> Fields {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        Fields::from_iter(lines.iter().map(line))
    }

    fn check(range: &str, length: u64, expected: &[(u64, u64)]) {
        let got = asked(&Method::GET, &map(&[("range", range)]), &Fields::default(), length);
        let parts = expected.iter().map(|&(from, to)| Part { from, to }).collect();
        assert_eq!(got, Asked::Parts(parts), "{range}");
    }

    fn whole(range: &str) {
        assert_eq!(
            asked(&Method::GET, &map(&[("range", range)]), &Fields::default(), 100),
            Asked::Whole,
            "{range}"
        );
    }

    #[test]
    fn section_14_1_2_ranges_are_inclusive_open_and_from_the_end() {
        check("bytes=0-9", 100, &[(0, 10)]);
        check("Bytes=90-", 100, &[(90, 100)]);
        check("bytes=-10", 100, &[(90, 100)]);
        check("bytes=-1000", 100, &[(0, 100)]);
        check("bytes=50-1000", 100, &[(50, 100)]);
        check("bytes=0-0, ,5-6,-1", 100, &[(0, 1), (5, 7), (99, 100)]);
        check("bytes=200-300,0-1", 100, &[(0, 2)]);
    }

    #[test]
    fn section_14_2_what_is_malformed_or_of_another_unit_asks_for_the_whole() {
        for range in [
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=a-b",
            "bytes 0-1",
            "lines=0-1",
            "bytes=0-1;2-3",
            "bytes=0-1,x",
            "b",
        ] {
            whole(range);
        }
        let head = asked(&Method::HEAD, &map(&[("range", "bytes=0-1")]), &Fields::default(), 100);
        assert_eq!(head, Asked::Whole);
    }

    #[test]
    fn section_14_2_many_or_overlapping_parts_ask_for_the_whole() {
        whole(&format!(
            "bytes={}",
            (0..=PARTS_MAX).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(",")
        ));
        whole("bytes=0-50,10-60,20-70");
        check("bytes=0-50,10-60", 100, &[(0, 51), (10, 61)]);
    }

    #[test]
    fn section_15_5_17_nothing_lies_beyond_the_end() {
        for range in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            let got = asked(&Method::GET, &map(&[("range", range)]), &Fields::default(), 100);
            assert_eq!(got, Asked::Nothing, "{range}");
        }
    }

    #[test]
    fn section_13_1_5_if_range_holds_for_the_same_strong_tag_or_an_old_date() {
        let (old, new) = ("Tue, 14 Nov 2023 22:13:20 GMT", "Tue, 14 Nov 2023 22:13:21 GMT");
        for (condition, stored, holds) in [
            ("\"a\"", &[("etag", "\"a\"")][..], true),
            ("\"a\"", &[("etag", "\"b\"")], false),
            ("W/\"a\"", &[("etag", "W/\"a\"")], false),
            (old, &[("last-modified", old), ("date", new)], true),
            (old, &[("last-modified", old), ("date", old)], false),
            (new, &[("last-modified", old), ("date", new)], false),
            ("x", &[], false),
        ] {
            let request = map(&[("range", "bytes=0-1"), ("if-range", condition)]);
            let got = asked(&Method::GET, &request, &map(stored), 100);
            assert_eq!(got != Asked::Whole, holds, "{condition}");
        }
    }

    #[test]
    fn section_14_4_a_206_tells_its_place() {
        let told = |value| brought(&map(&[("content-range", value)]));
        assert_eq!(told("bytes 0-9/100"), Some((Part { from: 0, to: 10 }, Some(100))));
        assert_eq!(told("bytes 5-5/*"), Some((Part { from: 5, to: 6 }, None)));
        for value in [
            "bytes */100",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "lines 0-1/2",
            "bytes 0-1",
            "bytes -/5",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(told(value), None, "{value}");
        }
        assert_eq!(Part { from: 5, to: 10 }.content_range(20), "bytes 5-9/20");
    }

    proptest! {
        #[test]
        fn parts_lie_within_what_there_is(range in "bytes=[0-9,-]{0,40}", length in 0u64..60) {
            if let Asked::Parts(parts) = asked(&Method::GET, &map(&[("range", &range)]), &Fields::default(), length) {
                prop_assert!(!parts.is_empty() && parts.len() <= PARTS_MAX);
                prop_assert!(parts.iter().all(|part| part.from < part.to && part.to <= length));
            }
        }
    }
}
