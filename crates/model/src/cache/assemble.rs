//! One representation put together from its parts (RFC 9110 sections 14.4 and 15.3.7.3; RFC 9111 sections 3.3 and 3.4).
//!
//! ```text
//! Grid      how a representation is cut: whole length, size of a slice
//! Manifest  which version of it the slices are of: what stands in the place of its content
//! Cutter    what comes of it, from wherever on ---> the slices that lie wholly in it
//! ```
//!
//! Parts are kept as *slices* of one size: each is there or missing, in whatever order they came. What a client asks for is
//! read slice by slice, and the runs of those that are missing are asked for in their whole: so that what one client had to
//! ask for serves every other, whatever part each of them wants.
//!
//! What always holds: no two bytes of different representations stand in one answer. A slice is found by the number of its
//! version alone, which is drawn for each one anew; and what is asked for later is put to it only if a strong validator that
//! both have tells that it is the same ([`is_same`]).

use std::ops::Range;

use bytes::Bytes;
use http::HeaderName;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, LAST_MODIFIED};

use crate::cache::Wall;
use crate::cache::key::Key;
use crate::cache::range::{self, Part};
use crate::cache::validate::is_strong;
use crate::fields::{Fields, Value};

/// Where a manifest stands among the fields that are kept. No client and no upstream has a say in it.
pub const TIDEGATE_SLICES: HeaderName = HeaderName::from_static("tidegate-slices");

/// What takes one slice's key to the next one's: odd, so that none of a version is met twice, and spread over all bits, as
/// keys are digests whose bits are used as they are.
const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// How a representation is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// The bytes that it has.
    pub whole: u64,
    /// The bytes of a slice; the last one may have fewer.
    pub slice: u64,
}

impl Grid {
    /// How many slices it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.whole.div_ceil(self.slice)
    }

    /// The slice that this byte is in.
    #[must_use]
    pub fn slice_at(&self, at: u64) -> u64 {
        at / self.slice
    }

    /// The bytes of these slices.
    #[must_use]
    pub fn part(&self, slices: Range<u64>) -> Part {
        let at = |number: u64| number.saturating_mul(self.slice).min(self.whole);
        Part { from: at(slices.start), to: at(slices.end) }
    }

    /// The bytes of this slice.
    #[must_use]
    pub fn part_of(&self, slice: u64) -> Part {
        self.part(slice..slice.saturating_add(1))
    }

    /// The slices that a part has bytes of.
    #[must_use]
    pub fn touched(&self, part: Part) -> Range<u64> {
        if part.is_empty() {
            return 0..0;
        }
        self.slice_at(part.from)..part.to.div_ceil(self.slice)
    }

    /// The first run of slices of this part that are missing.
    #[must_use]
    pub fn missing(&self, part: Part, mut is_there: impl FnMut(u64) -> bool) -> Option<Range<u64>> {
        let mut touched = self.touched(part);
        let begin = touched.find(|&slice| !is_there(slice))?;
        let end = touched.find(|&slice| is_there(slice)).unwrap_or(touched.end);
        Some(begin..end)
    }
}

/// What stands in the place of a content that is kept in slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The number that its slices are found by, drawn by chance.
    pub version: u128,
    /// How it is cut.
    pub grid: Grid,
}

impl Manifest {
    /// The manifest among these fields.
    #[must_use]
    pub fn of(fields: &Fields) -> Option<Manifest> {
        let text = fields.get(TIDEGATE_SLICES)?.to_str().ok()?;
        let mut parts = text.split('-');
        let version = u128::from_str_radix(parts.next()?, 16).ok()?;
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let grid = Grid { whole: number()?, slice: number().filter(|slice| *slice > 0)? };
        Some(Manifest { version, grid })
    }

    /// Puts it among these fields, in the place of any other.
    pub fn put(&self, fields: &mut Fields) {
        let Manifest { version, grid: Grid { whole, slice } } = self;
        fields.remove(TIDEGATE_SLICES);
        let text = format!("{version:x}-{whole:x}-{slice:x}");
        fields.append(TIDEGATE_SLICES, http::HeaderValue::try_from(text).expect("digits and dashes"));
    }

    /// What a slice is found by.
    #[must_use]
    pub fn key(&self, slice: u64) -> Key {
        Key(self.version.wrapping_add(u128::from(slice).wrapping_mul(STEP)))
    }
}

/// Cuts what comes of a representation into slices.
#[derive(Debug)]
pub struct Cutter {
    grid: Grid,
    at: u64,
    /// What has come of the slice at `at`, if it has come from its beginning.
    pieces: Option<Vec<Bytes>>,
}

/// A slice that has come whole.
pub type Cut = (u64, Vec<Bytes>);

impl Cutter {
    /// What comes next is this byte.
    #[must_use]
    pub fn new(grid: Grid, at: u64) -> Cutter {
        Cutter { grid, at, pieces: None }
    }

    /// The byte that comes next.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Takes what has come, and gives the slices that are whole with it. What goes beyond the end is left out.
    pub fn take(&mut self, mut piece: Bytes) -> Vec<Cut> {
        let mut cuts = Vec::new();
        while !piece.is_empty() && self.at < self.grid.whole {
            let slice = self.grid.slice_at(self.at);
            let part = self.grid.part_of(slice);
            if self.at == part.from {
                self.pieces = Some(Vec::new());
            }
            let taken = usize::try_from(part.to - self.at).unwrap_or(usize::MAX).min(piece.len());
            let taken = piece.split_to(taken);
            self.at += taken.len() as u64;
            if let Some(pieces) = &mut self.pieces {
                pieces.push(taken);
            }
            if self.at == part.to
                && let Some(pieces) = self.pieces.take()
            {
                cuts.push((slice, pieces));
            }
        }
        cuts
    }

    /// That was all: of a representation whose length nobody knew, the last slice.
    pub fn end(&mut self) -> Option<Cut> {
        let pieces = self.pieces.take().filter(|pieces| !pieces.is_empty())?;
        Some((self.grid.slice_at(self.at), pieces))
    }
}

/// What a 206 brings, if it can be put together with more: one part of a whole of known length, with a validator that
/// tells its representation from every other.
#[must_use]
pub fn brought(response: &Fields) -> Option<(Part, u64)> {
    let (part, whole) = range::brought(response)?;
    validator(response)?;
    Some((part, whole?))
}

/// Makes of the fields of a part those of the whole.
pub fn of_whole(fields: &mut Fields, whole: u64) {
    fields.remove(CONTENT_RANGE);
    fields.insert(CONTENT_LENGTH, whole);
}

/// Whether both are of the very same representation.
#[must_use]
pub fn is_same(stored: &Fields, newer: &Fields) -> bool {
    validator(stored).is_some_and(|kept| validator(newer) == Some(kept))
}

/// What a request for more of it says in `If-Range`. `None`: nothing tells it from another one.
#[must_use]
pub fn if_range(stored: &Fields) -> Option<Value<'_>> {
    validator(stored)?;
    stored.get(ETAG).or_else(|| stored.get(LAST_MODIFIED))
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
    let date = |name| response.get(name).and_then(|date: Value<'_>| Wall::of_date(date.as_bytes()));
    let (modified, made) = (date(LAST_MODIFIED)?, date(DATE)?);
    (made.since(modified) >= 1).then_some(Validator::Modified(modified))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const OLD: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const NEW: &str = "Tue, 14 Nov 2023 22:13:21 GMT";

    fn map(lines: &[(&'static str, &str)]) -> Fields {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        Fields::from_iter(lines.iter().map(line))
    }

    /// Cuts ten bytes into slices of four.
    const TEN: Grid = Grid { whole: 10, slice: 4 };

    fn check(part: (u64, u64), there: &[u64], expected: Option<Range<u64>>) {
        let part = Part { from: part.0, to: part.1 };
        assert_eq!(TEN.missing(part, |slice| there.contains(&slice)), expected, "{part:?} {there:?}");
    }

    #[test]
    fn s3_3_what_is_missing_is_asked_for_in_whole_slices_and_nothing_else() {
        check((0, 10), &[], Some(0..3));
        check((0, 10), &[0], Some(1..3));
        check((0, 10), &[1], Some(0..1));
        check((0, 10), &[0, 2], Some(1..2));
        check((0, 10), &[0, 1, 2], None);
        check((5, 6), &[0, 2], Some(1..2));
        check((5, 6), &[1], None);
        check((3, 5), &[1], Some(0..1));
        check((9, 10), &[], Some(2..3));
        check((4, 4), &[], None);
        assert_eq!(TEN.part(1..3), Part { from: 4, to: 10 });
        assert_eq!((TEN.count(), TEN.part_of(2)), (3, Part { from: 8, to: 10 }));
    }

    #[test]
    fn s3_3_a_part_is_kept_as_one_only_if_more_can_be_put_to_it() {
        let of = |lines: &[(&'static str, &str)]| brought(&map(lines)).is_some();
        assert!(of(&[("content-range", "bytes 0-4/10"), ("etag", "\"a\"")]));
        assert!(of(&[("content-range", "bytes 0-4/10"), ("last-modified", OLD), ("date", NEW)]));
        assert!(!of(&[("content-range", "bytes 0-4/*"), ("etag", "\"a\"")]));
        assert!(!of(&[("content-range", "bytes 0-4/10"), ("etag", "W/\"a\"")]));
        assert!(!of(&[("content-range", "bytes 0-4/10"), ("last-modified", OLD), ("date", OLD)]));
        assert!(!of(&[("content-range", "lines 0-4/10"), ("etag", "\"a\"")]));
        assert!(!of(&[("content-range", "bytes 0-4/10")]));
    }

    #[test]
    fn s3_4_only_parts_with_the_same_strong_validator_are_put_together() {
        let tagged = |tag: &str| map(&[("etag", tag)]);
        let dated = map(&[("last-modified", OLD), ("date", NEW)]);
        assert!(is_same(&tagged("\"a\""), &tagged("\"a\"")));
        assert!(!is_same(&tagged("\"a\""), &tagged("\"b\"")));
        assert!(!is_same(&tagged("W/\"a\""), &tagged("W/\"a\"")));
        assert!(!is_same(&tagged("\"a\""), &dated));
        assert!(is_same(&dated, &dated));
        assert!(!is_same(&map(&[]), &map(&[])));
        let asks = |fields: &Fields| if_range(fields).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(asks(&tagged("\"a\"")).as_deref(), Some("\"a\""));
        assert_eq!(asks(&dated).as_deref(), Some(OLD));
        assert_eq!(asks(&tagged("W/\"a\"")), None);
    }

    #[test]
    fn the_fields_of_a_part_become_those_of_the_whole() {
        let mut fields =
            map(&[("content-range", "bytes 0-4/10"), ("content-length", "5"), ("etag", "\"a\"")]);
        of_whole(&mut fields, 10);
        assert_eq!(fields, map(&[("etag", "\"a\""), ("content-length", "10")]));
    }

    #[test]
    fn a_manifest_comes_back_from_the_fields_and_a_spoilt_one_does_not() {
        let manifest = Manifest { version: u128::MAX - 7, grid: Grid { whole: 1 << 40, slice: 1 << 18 } };
        let mut fields = map(&[("tidegate-slices", "0-0-0")]);
        manifest.put(&mut fields);
        assert_eq!((Manifest::of(&fields), fields.len()), (Some(manifest), 1));
        for text in ["", "-", "1-2", "1-2-0", "x-2-1", "1-2-g"] {
            assert_eq!(Manifest::of(&map(&[("tidegate-slices", text)])), None, "{text}");
        }
        assert_ne!(manifest.key(0), manifest.key(1));
    }

    fn cut(grid: Grid, from: u64, pieces: &[Bytes]) -> BTreeMap<u64, Vec<u8>> {
        let mut cutter = Cutter::new(grid, from);
        let cuts = pieces.iter().flat_map(|piece| cutter.take(piece.clone())).collect::<Vec<_>>();
        cuts.into_iter().map(|(slice, pieces)| (slice, pieces.concat())).collect()
    }

    proptest! {
        #[test]
        fn whatever_way_a_part_comes_its_slices_are_those_that_lie_wholly_in_it(
            whole in 1u64..60,
            slice in 1u64..20,
            (from, to) in (0u64..60, 0u64..60),
            sizes in proptest::collection::vec(1usize..20, 1..12),
        ) {
            let (grid, bytes) = (Grid { whole, slice }, (0..whole as u8).collect::<Vec<_>>());
            let (from, to) = (from.min(to).min(whole), from.max(to).min(whole));
            let mut rest = Bytes::from(bytes[from as usize..to as usize].to_vec());
            let mut pieces = Vec::new();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                pieces.push(rest.split_to((*size).min(rest.len())));
            }
            let expected: BTreeMap<u64, Vec<u8>> = (0..grid.count())
                .map(|slice| (slice, grid.part_of(slice)))
                .filter(|(_, part)| from <= part.from && part.to <= to)
                .map(|(slice, part)| (slice, bytes[part.from as usize..part.to as usize].to_vec()))
                .collect();
            prop_assert_eq!(cut(grid, from, &pieces), expected);
        }

        #[test]
        fn what_has_no_known_length_is_cut_to_its_last_byte(length in 0usize..60, slice in 1u64..20) {
            let bytes: Vec<u8> = (0..length as u8).collect();
            let mut cutter = Cutter::new(Grid { whole: u64::MAX, slice }, 0);
            let mut cuts = cutter.take(Bytes::from(bytes.clone()));
            cuts.extend(cutter.end());
            prop_assert!(cuts.iter().enumerate().all(|(at, (slice, _))| *slice == at as u64));
            let all: Vec<u8> = cuts.into_iter().flat_map(|(_, pieces)| pieces.concat()).collect();
            prop_assert_eq!(all, bytes);
        }

        #[test]
        fn whatever_is_stored_any_part_reads_as_it_does_from_the_whole(
            whole in 1u64..80,
            slice in 1u64..20,
            asked in proptest::collection::vec((0u64..80, 1u64..80), 1..8),
            gone in proptest::collection::vec(0u64..80, 0..8),
        ) {
            let (grid, bytes) = (Grid { whole, slice }, (0..whole as u8).collect::<Vec<_>>());
            let mut stored = BTreeMap::<u64, Vec<u8>>::new();
            for (turn, (from, length)) in asked.into_iter().enumerate() {
                let part = Part { from: from.min(whole - 1), to: (from + length).min(whole).max(from.min(whole - 1) + 1) };
                let mut asks = 0;
                while let Some(run) = grid.missing(part, |slice| stored.contains_key(&slice)) {
                    let run = grid.part(run);
                    let came = Bytes::copy_from_slice(&bytes[run.from as usize..run.to as usize]);
                    stored.extend(cut(grid, run.from, &[came]));
                    asks += 1;
                    prop_assert!(asks <= grid.count());
                }
                let read: Vec<u8> = grid
                    .touched(part)
                    .flat_map(|slice| {
                        let at = grid.part_of(slice);
                        let (from, to) = (part.from.max(at.from), part.to.min(at.to));
                        stored[&slice][(from - at.from) as usize..(to - at.from) as usize].to_vec()
                    })
                    .collect();
                prop_assert_eq!(read, &bytes[part.from as usize..part.to as usize]);
                // Some of it goes, in whatever way.
                if let Some(slice) = gone.get(turn) {
                    stored.remove(&(slice % grid.count()));
                }
            }
        }

        #[test]
        fn no_two_slices_of_a_version_have_one_key(version: u128, one in 0u64..1 << 40, other in 0u64..1 << 40) {
            let manifest = Manifest { version, grid: TEN };
            prop_assert_eq!(manifest.key(one) == manifest.key(other), one == other);
        }
    }
}
