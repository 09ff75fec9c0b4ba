//! Parts of one representation, put together (RFC 9110 sections 14.4 and 15.3.7.3; RFC 9111 sections 3.3 and 3.4).
//!
//! What is stored of a representation that has not come whole is one *run* of its bytes. It grows by every further part of the
//! very same representation that touches it, and is the whole when nothing is missing on either side. Parts that lie apart
//! are not both kept: clients that come back for the rest go on where they stopped, and one run is all they need.
//!
//! What always holds: no two bytes of different representations stand in one run, since only a strong validator that both
//! have tells that they are the same; and a run answers only what lies wholly within it.

use crate::fields::Fields;
use http::header::{DATE, ETAG, LAST_MODIFIED};

use crate::cache::Wall;
use crate::cache::range::{self, Asked, Part};
use crate::cache::validate::is_strong;

/// One run of the bytes of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which bytes.
    pub part: Part,
    /// How many the representation has.
    pub whole: u64,
}

/// Two runs as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// What both are together.
    pub run: Run,
    /// So many bytes from the beginning of what was stored stand before those that came.
    pub before: u64,
    /// So many from its end stand behind them.
    pub after: u64,
}

impl Run {
    /// What a 206 brings, if it can be put together with more: one part of a whole of known length, with a validator that
    /// tells its representation from every other.
    #[must_use]
    pub fn of(response: &Fields) -> Option<Run> {
        let (part, whole) = range::brought(response)?;
        validator(response)?;
        Some(Run { part, whole: whole? })
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.part.from == 0 && self.part.to == self.whole
    }

    /// Whether what is asked for lies within it.
    #[must_use]
    pub fn holds(&self, asked: &Asked) -> bool {
        match asked {
            Asked::Whole => self.is_whole(),
            Asked::Parts(parts) => {
                parts.iter().all(|part| self.part.from <= part.from && part.to <= self.part.to)
            }
            // What lies beyond the end is known from its length alone.
            Asked::Nothing => true,
        }
    }

    /// What is to be asked for so that it holds this part as well, or the whole. `None`: it lies on both sides of what is
    /// stored, or apart from it, and is asked for as the client did.
    #[must_use]
    pub fn missing(&self, wanted: &Asked) -> Option<Part> {
        let wanted = match wanted {
            Asked::Whole => Part { from: 0, to: self.whole },
            Asked::Parts(parts) => match parts.as_slice() {
                [part] => *part,
                _ => return None,
            },
            Asked::Nothing => return None,
        };
        let (before, behind) = (wanted.from < self.part.from, wanted.to > self.part.to);
        match (before, behind) {
            (true, false) if wanted.to >= self.part.from => {
                Some(Part { from: wanted.from, to: self.part.from })
            }
            (false, true) if wanted.from <= self.part.to => Some(Part { from: self.part.to, to: wanted.to }),
            _ => None,
        }
    }

    /// It and what came, as one run. Where both have a byte, the newer counts. `None`: they are not of the same
    /// representation, or lie apart.
    #[must_use]
    pub fn join(&self, stored: &Fields, came: &Run, newer: &Fields) -> Option<Joined> {
        let same = validator(stored)? == validator(newer)? && self.whole == came.whole;
        if !same || came.part.from > self.part.to || self.part.from > came.part.to {
            return None;
        }
        let part = Part { from: self.part.from.min(came.part.from), to: self.part.to.max(came.part.to) };
        Some(Joined {
            run: Run { part, whole: self.whole },
            before: came.part.from.saturating_sub(self.part.from),
            after: self.part.to.saturating_sub(came.part.to),
        })
    }
}

/// What tells a representation from every other one of its target (RFC 9110 section 8.8).
#[derive(Debug, PartialEq, Eq)]
enum Validator<'h> {
    Tag(&'h [u8]),
    Modified(Wall),
}

/// The strong validator of a response. A date of change is one only if the answer was made a second later at least: until then
/// there may be another change within the same second.
fn validator(response: &Fields) -> Option<Validator<'_>> {
    if let Some(tag) = response.get(ETAG).map(|tag| tag.as_bytes()) {
        return is_strong(tag).then_some(Validator::Tag(tag));
    }
    let date =
        |name| response.get(name).and_then(|date: crate::fields::Value<'_>| Wall::of_date(date.as_bytes()));
    let (modified, made) = (date(LAST_MODIFIED)?, date(DATE)?);
    (made.since(modified) >= 1).then_some(Validator::Modified(modified))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue, Method};
    use proptest::prelude::*;

    const OLD: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const NEW: &str = "Tue, 14 Nov 2023 22:13:21 GMT";

    fn map(lines: &[(&'static str, &str)]) -> Fields {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        Fields::from_iter(lines.iter().map(line))
    }

    fn run(from: u64, to: u64) -> Run {
        Run { part: Part { from, to }, whole: 10 }
    }

    fn tagged(tag: &str) -> Fields {
        map(&[("etag", tag)])
    }

    /// Joins two runs of one representation.
    fn check(stored: (u64, u64), came: (u64, u64), expected: Option<(u64, u64, u64, u64)>) {
        let fields = tagged("\"a\"");
        let joined = run(stored.0, stored.1).join(&fields, &run(came.0, came.1), &fields);
        let joined =
            joined.map(|joined| (joined.run.part.from, joined.run.part.to, joined.before, joined.after));
        assert_eq!(joined, expected, "{stored:?} {came:?}");
    }

    #[test]
    fn s3_3_a_part_is_kept_as_one_only_if_more_can_be_put_to_it() {
        let of = |lines: &[(&'static str, &str)]| Run::of(&map(lines)).is_some();
        assert!(of(&[("content-range", "bytes 0-4/10"), ("etag", "\"a\"")]));
        assert!(of(&[("content-range", "bytes 0-4/10"), ("last-modified", OLD), ("date", NEW)]));
        assert!(!of(&[("content-range", "bytes 0-4/*"), ("etag", "\"a\"")]));
        assert!(!of(&[("content-range", "bytes 0-4/10"), ("etag", "W/\"a\"")]));
        assert!(!of(&[("content-range", "bytes 0-4/10"), ("last-modified", OLD), ("date", OLD)]));
        assert!(!of(&[("content-range", "lines 0-4/10"), ("etag", "\"a\"")]));
        assert!(!of(&[("content-range", "bytes 0-4/10")]));
    }

    #[test]
    fn s3_4_parts_that_touch_or_overlap_are_one_and_the_newer_bytes_count() {
        check((0, 5), (5, 10), Some((0, 10, 5, 0)));
        check((5, 10), (0, 5), Some((0, 10, 0, 5)));
        check((0, 6), (4, 8), Some((0, 8, 4, 0)));
        check((0, 10), (4, 8), Some((0, 10, 4, 2)));
        check((4, 6), (2, 8), Some((2, 8, 0, 0)));
        check((0, 4), (5, 10), None);
        check((6, 10), (0, 5), None);
    }

    #[test]
    fn s3_4_only_parts_with_the_same_strong_validator_are_put_together() {
        let (one, other) = (run(0, 5), run(5, 10));
        let join = |stored: &Fields, newer: &Fields| one.join(stored, &other, newer).is_some();
        assert!(join(&tagged("\"a\""), &tagged("\"a\"")));
        assert!(!join(&tagged("\"a\""), &tagged("\"b\"")));
        assert!(!join(&tagged("W/\"a\""), &tagged("W/\"a\"")));
        assert!(!join(&tagged("\"a\""), &map(&[("last-modified", OLD), ("date", NEW)])));
        let dated = map(&[("last-modified", OLD), ("date", NEW)]);
        assert!(join(&dated, &dated));
        assert!(!join(&map(&[]), &map(&[])));
        let longer = Run { whole: 11, ..other };
        assert_eq!(
            one.join(&tagged("\"a\""), &longer, &tagged("\"a\"")),
            None,
            "it is not of the same length"
        );
    }

    #[test]
    fn s3_3_a_part_answers_only_what_lies_within_it() {
        let asked =
            |range: &str| range::asked(&Method::GET, &map(&[("range", range)]), &Fields::default(), 10);
        let stored = run(2, 8);
        for (range, holds) in [
            ("bytes=2-7", true),
            ("bytes=3-4", true),
            ("bytes=2-2,7-7", true),
            ("bytes=1-7", false),
            ("bytes=2-8", false),
            ("bytes=-2", false),
            ("bytes=3-", false),
            ("bytes=2-3,9-9", false),
            ("bytes=10-", true),
            ("lines=0-1", false),
        ] {
            assert_eq!(stored.holds(&asked(range)), holds, "{range}");
        }
        assert!(run(0, 10).holds(&Asked::Whole) && !stored.holds(&Asked::Whole));
    }

    #[test]
    fn s3_3_what_is_missing_is_asked_for_and_nothing_else() {
        let part = |from, to| Asked::Parts(smallvec::smallvec![Part { from, to }]);
        let of = |stored: Run, wanted| stored.missing(&wanted).map(|part| (part.from, part.to));
        assert_eq!(of(run(0, 5), Asked::Whole), Some((5, 10)));
        assert_eq!(of(run(5, 10), Asked::Whole), Some((0, 5)));
        assert_eq!(of(run(2, 8), Asked::Whole), None);
        assert_eq!(of(run(2, 5), part(4, 9)), Some((5, 9)));
        assert_eq!(of(run(2, 5), part(0, 3)), Some((0, 2)));
        assert_eq!(of(run(2, 5), part(3, 4)), None);
        assert_eq!(of(run(2, 5), part(7, 9)), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_in_whatever_order_the_bytes_are_those_of_the_whole(
            parts in proptest::collection::vec((0u64..40, 1u64..20), 1..12),
        ) {
            let bytes: Vec<u8> = (0..40).collect();
            let fields = tagged("\"a\"");
            let cut = |part: Part| bytes[part.from as usize..part.to as usize].to_vec();
            let mut stored: Option<(Run, Vec<u8>)> = None;
            for (from, length) in parts {
                let came = Run { part: Part { from, to: (from + length).min(40) }, whole: 40 };
                let content = cut(came.part);
                stored = Some(match stored.as_ref().and_then(|(run, kept)| Some((run.join(&fields, &came, &fields)?, kept))) {
                    Some((joined, kept)) => {
                        let mut both = kept[..joined.before as usize].to_vec();
                        both.extend(content);
                        both.extend(&kept[kept.len() - joined.after as usize..]);
                        (joined.run, both)
                    }
                    None => (came, content),
                });
                if let Some((run, kept)) = &stored {
                    prop_assert_eq!(kept, &cut(run.part));
                    prop_assert_eq!(run.is_whole(), kept.len() == 40);
                }
            }
        }
    }
}
