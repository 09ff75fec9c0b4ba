//! Which of several stored answers fits a request: the fields that `Vary` names, made comparable (RFC 9111 section 4.1).
//!
//! Two requests have the same variant exactly if every named field means the same in both: white space, the split into
//! lines and, where order says nothing, order do not count. A field that is absent is like no value.
//!
//! `Accept-Encoding` is brought to one form, [`codings`], in which the codings that answers come in stand by rank and nothing
//! else does. The stage sends that form on, so that what is stored was asked for with the very words that it is found by: a
//! target has one entry for each choice of codings that clients really make, however they spell it.

use crate::fields::Fields;
use http::HeaderName;
use http::header::{ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY};
use smallvec::SmallVec;

/// More fields than any answer varies with. One that names more is not kept.
pub const NAMES_MAX: usize = 16;

/// The fields that an answer varies with: sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vary(SmallVec<[HeaderName; 2]>);

impl Vary {
    /// Reads the fields of a response. `None`: it varies with what a request does not tell, or with too much to keep.
    #[must_use]
    pub fn of(response: &Fields) -> Option<Vary> {
        let mut names = SmallVec::<[HeaderName; 2]>::new();
        for line in response.get_all(VARY) {
            for name in line.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                if name.is_empty() {
                    continue;
                }
                // A star is a token, too, and would be taken for a name.
                let name = HeaderName::from_bytes(name).ok().filter(|name| name.as_str() != "*")?;
                if !names.contains(&name) {
                    names.push(name);
                }
                if names.len() > NAMES_MAX {
                    return None;
                }
            }
        }
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        Some(Vary(names))
    }

    /// The fields of both. An answer that names fewer than those before it was, more often than not, made without looking at
    /// the others (section 4.1): it is kept for requests like its own. `None`: that is more than answers vary with.
    #[must_use]
    pub fn and(&self, other: &Vary) -> Option<Vary> {
        let mut names = self.0.clone();
        names.extend(other.0.iter().filter(|name| !self.0.contains(name)).cloned());
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        (names.len() <= NAMES_MAX).then_some(Vary(names))
    }

    /// Whether the answer is the same for every request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter()
    }

    /// What a request has in these fields, such that two requests have the same bytes only if they may share an answer.
    #[must_use]
    pub fn variant(&self, request: &Fields) -> Vec<u8> {
        let mut bytes = Vec::new();
        for name in &self.0 {
            match value(name, request) {
                None => bytes.push(0),
                Some(value) => {
                    bytes.push(1);
                    bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
                    bytes.extend_from_slice(&value);
                }
            }
        }
        bytes
    }
}

/// The codings that content comes in. Any other that a client names is none that answers were made in.
const CODINGS: [&str; 8] = ["*", "br", "dcb", "dcz", "deflate", "gzip", "identity", "zstd"];

/// What a request accepts of codings, in one form: by rank, those of one rank in the order of the alphabet, each rank with
/// a weight that tells it from the next. `None`: it does not say.
///
/// `gzip, br`, `br, gzip` and `br;q=1.0, x-gzip, brotli-of-tomorrow` are all `br, gzip`.
#[must_use]
pub fn codings(request: &Fields) -> Option<String> {
    let mut lines = request.get_all(ACCEPT_ENCODING).iter().peekable();
    lines.peek()?;
    // In thousandths; of a coding that is named twice the last word counts.
    let mut weights = [None; CODINGS.len()];
    for line in lines {
        for element in line.as_bytes().split(|&byte| byte == b',') {
            let mut parts = element.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let is = |known: &str| {
                name.eq_ignore_ascii_case(known.as_bytes())
                    || known == "gzip" && name.eq_ignore_ascii_case(b"x-gzip")
            };
            if let Some(at) = CODINGS.iter().position(|known| is(known)) {
                weights[at] = Some(parts.next().map_or(1000, weight));
            }
        }
    }
    let mut ranks: Vec<u16> = weights.iter().flatten().copied().filter(|weight| *weight > 0).collect();
    ranks.sort_unstable_by(|one, other| other.cmp(one));
    ranks.dedup();
    let mut told: Vec<(usize, &str)> = Vec::new();
    for (name, weight) in CODINGS.iter().zip(weights) {
        match weight {
            // Said of these two alone it means something: what is not named is not wanted anyway.
            Some(0) if matches!(*name, "*" | "identity") => told.push((10, name)),
            Some(weight @ 1..) => {
                told.extend(ranks.iter().position(|rank| *rank == weight).map(|rank| (rank, *name)))
            }
            _ => {}
        }
    }
    told.sort_unstable();
    let words = told.iter().map(|(rank, name)| match rank {
        0 => (*name).to_owned(),
        10 => format!("{name};q=0"),
        rank => format!("{name};q=0.{}", 10 - rank),
    });
    Some(words.collect::<Vec<_>>().join(", "))
}

/// A weight in thousandths (RFC 9110 section 12.4.2). One that cannot be read is the least.
fn weight(parameter: &[u8]) -> u16 {
    let read = || {
        let [b'q' | b'Q', b'=', digits @ ..] = parameter else { return None };
        let (whole, part) = match digits {
            [whole] => (whole, &[][..]),
            [whole, b'.', part @ ..] if part.len() <= 3 => (whole, part),
            _ => return None,
        };
        let part = part.iter().try_fold((0u16, 100), |(sum, place), digit| {
            digit.is_ascii_digit().then(|| (sum + u16::from(digit - b'0') * place, place / 10))
        });
        match (whole, part?.0) {
            (b'0', part) => Some(part),
            (b'1', 0) => Some(1000),
            _ => None,
        }
    };
    read().unwrap_or(1)
}

/// A field's value without what means nothing.
fn value(name: &HeaderName, request: &Fields) -> Option<Vec<u8>> {
    if *name == ACCEPT_ENCODING {
        return codings(request).map(String::into_bytes);
    }
    let mut lines = request.get_all(name).iter().peekable();
    lines.peek()?;
    let mut elements: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        let mut rest = line.as_bytes();
        loop {
            let (element, after) = super::directives::element(rest);
            if !element.is_empty() {
                elements.push(element.to_vec());
            }
            if after.is_empty() {
                break;
            }
            rest = after;
        }
    }
    if [ACCEPT, ACCEPT_CHARSET, ACCEPT_LANGUAGE].contains(name) {
        for element in &mut elements {
            preference(element, *name != ACCEPT);
        }
        // What is preferred is told by weights, not by order (RFC 9110 section 12.4.2).
        elements.sort_unstable();
        elements.dedup();
    }
    Some(elements.join(&b','))
}

/// One preference without white space around its parameters; in lower case, where case says nothing.
fn preference(element: &mut Vec<u8>, any_case: bool) {
    if element.contains(&b'"') {
        return;
    }
    element.retain(|byte| !byte.is_ascii_whitespace());
    if any_case {
        element.make_ascii_lowercase();
    }
    for whole in [&b";q=1"[..], b";q=1.0", b";q=1.00", b";q=1.000"] {
        if element.ends_with(whole) {
            element.truncate(element.len() - whole.len());
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn map(lines: &[(&'static str, &'static str)]) -> Fields {
        let mut map = Fields::default();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    type Lines = [(&'static str, &'static str)];

    fn same(vary: &'static str, one: &Lines, other: &Lines, expected: bool) {
        let vary = Vary::of(&map(&[("vary", vary)])).unwrap();
        assert_eq!(vary.variant(&map(one)) == vary.variant(&map(other)), expected, "{one:?} {other:?}");
    }

    #[test]
    fn section_4_1_all_named_fields_match() {
        same("foo", &[("foo", "1")], &[("foo", "1"), ("bar", "2")], true);
        same("foo", &[("foo", "1")], &[("foo", "2")], false);
        same("Foo, bar", &[("foo", "1"), ("bar", "1")], &[("foo", "1"), ("bar", "2")], false);
    }

    #[test]
    fn section_4_1_an_absent_field_matches_only_an_absent_one() {
        same("foo", &[], &[], true);
        same("foo", &[], &[("foo", "")], false);
        same("a, b", &[("a", "1")], &[("b", "1")], false);
    }

    #[test]
    fn section_4_1_white_space_and_lines_do_not_count() {
        same("foo", &[("foo", "1, 2")], &[("foo", "1,2")], true);
        same("foo", &[("foo", "1"), ("foo", "2")], &[("foo", "1 ,  2")], true);
        same("foo", &[("foo", "1, 2")], &[("foo", "2, 1")], false);
        same("foo", &[("foo", "a b")], &[("foo", "ab")], false);
        same("foo", &[("foo", "\"a, b\"")], &[("foo", "\"a,b\"")], false);
    }

    #[test]
    fn section_4_1_order_and_case_of_preferences_do_not_count() {
        same(
            "accept-language",
            &[("accept-language", "en, de;q=0.5")],
            &[("accept-language", "DE; q=0.5,en;q=1.0")],
            true,
        );
        same("accept-encoding", &[("accept-encoding", "gzip, br")], &[("accept-encoding", "br,gzip")], true);
        same("accept", &[("accept", "text/a;v=A")], &[("accept", "text/a;v=a")], false);
    }

    fn asks(told: &'static str, expected: &str) {
        assert_eq!(codings(&map(&[("accept-encoding", told)])).as_deref(), Some(expected), "{told:?}");
    }

    #[test]
    fn codings_have_one_form_however_they_are_spelled() {
        for told in [
            "br, gzip",
            "gzip,br",
            "GZIP , Br",
            "x-gzip;q=1.0, br;q=1",
            "gzip;q=0.5, br;q=0.500",
            "new, br, gzip",
        ] {
            asks(told, "br, gzip");
        }
        asks("gzip, deflate, br, zstd", "br, deflate, gzip, zstd");
        asks("gzip;q=0.3, br", "br, gzip;q=0.9");
        asks("gzip, br;q=0.2, zstd;q=0.1", "gzip, br;q=0.9, zstd;q=0.8");
        asks("br;q=0, gzip", "gzip");
        asks("gzip, identity;q=0, *;q=0", "gzip, *;q=0, identity;q=0");
        asks("*", "*");
        asks("", "");
        asks("gzip;q=2, br;q=x, zstd", "zstd, br;q=0.9, gzip;q=0.9");
        assert_eq!(codings(&Fields::default()), None);
    }

    #[test]
    fn section_4_1_a_coding_that_is_not_accepted_is_not_served() {
        same("accept-encoding", &[("accept-encoding", "gzip")], &[], false);
        same("accept-encoding", &[("accept-encoding", "gzip")], &[("accept-encoding", "")], false);
        same("accept-encoding", &[("accept-encoding", "gzip")], &[("accept-encoding", "gzip;q=0")], false);
        same("accept-encoding", &[("accept-encoding", "gzip")], &[("accept-encoding", "br, gzip")], false);
        same(
            "accept-encoding",
            &[("accept-encoding", "gzip")],
            &[("accept-encoding", "gzip;q=0.5, x;q=1")],
            true,
        );
    }

    #[test]
    fn section_4_1_who_varies_less_than_before_is_kept_for_its_like() {
        let of = |names: &'static str| Vary::of(&map(&[("vary", names)])).unwrap();
        assert_eq!(of("b").and(&of("a, b")), Some(of("a, b")));
        assert_eq!(Vary::default().and(&of("a")), Some(of("a")));
        let many: Vec<String> = (0..NAMES_MAX).map(|n| format!("x-{n}")).collect();
        let full = Fields::from_iter([(VARY, HeaderValue::try_from(many.join(",")).unwrap())]);
        assert_eq!(Vary::of(&full).unwrap().and(&of("a")), None);
    }

    #[test]
    fn two_values_never_run_into_each_other() {
        same("a, b", &[("a", "1"), ("b", "23")], &[("a", "12"), ("b", "3")], false);
    }

    #[test]
    fn what_varies_with_anything_or_too_much_cannot_be_kept() {
        assert_eq!(Vary::of(&map(&[("vary", "a, *")])), None);
        assert_eq!(Vary::of(&map(&[("vary", "a b")])), None);
        let many: String = (0..=NAMES_MAX).map(|n| format!("x-{n},")).collect();
        let headers = Fields::from_iter([(VARY, HeaderValue::try_from(many).unwrap())]);
        assert_eq!(Vary::of(&headers), None);
        assert!(Vary::of(&Fields::default()).unwrap().is_empty());
        let names = Vary::of(&map(&[("vary", "b, A"), ("vary", "a,, b")])).unwrap();
        assert_eq!(names.names().map(HeaderName::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }
    proptest! {
        #[test]
        fn the_form_of_codings_is_its_own(told in "[ -~]{0,60}") {
            let map = |told: &str| Fields::from_iter([(ACCEPT_ENCODING, HeaderValue::from_str(told).unwrap())]);
            let once = codings(&map(&told)).unwrap();
            prop_assert_eq!(codings(&map(&once)), Some(once.clone()));
        }

        #[test]
        fn order_lines_and_unknown_codings_make_no_entries(
            mut named in proptest::collection::vec(prop_oneof![Just("gzip"), Just("br"), Just("zstd"), Just("deflate")], 0..5),
            by in 0usize..5,
            noise in "new[a-z]{1,6}",
        ) {
            let vary = Vary::of(&map(&[("vary", "accept-encoding")])).unwrap();
            let of = |lines: &[String]| {
                let mut map = Fields::default();
                for line in lines {
                    map.append(ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap());
                }
                vary.variant(&map)
            };
            let whole = of(&[named.join(", ")]);
            let by = by.min(named.len());
            named.rotate_left(by);
            let split: Vec<String> = named.iter().map(|name| (*name).to_owned()).chain([noise]).collect();
            prop_assert_eq!(of(&split), whole);
        }
    }
}
