//! Which of several stored answers fits a request: the fields that `Vary` names, made comparable (RFC 9111 section 4.1).
//!
//! Two requests have the same variant exactly if every named field means the same in both: white space, the split into
//! lines and, where order says nothing, order do not count. A field that is absent is like no value.

use http::header::{ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY};
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

/// More fields than any answer varies with. One that names more is not kept.
pub const NAMES_MAX: usize = 16;

/// The fields that an answer varies with: sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vary(SmallVec<[HeaderName; 2]>);

impl Vary {
    /// Reads the fields of a response. `None`: it varies with what a request does not tell, or with too much to keep.
    #[must_use]
    pub fn of(response: &HeaderMap) -> Option<Vary> {
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
    pub fn variant(&self, request: &HeaderMap) -> Vec<u8> {
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

/// A field's value without what means nothing.
fn value(name: &HeaderName, request: &HeaderMap) -> Option<Vec<u8>> {
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
    if [ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE].contains(name) {
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

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
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
        same("accept-encoding", &[("accept-encoding", "gzip")], &[("accept-encoding", "gzip;q=0.5")], false);
        same("accept", &[("accept", "text/a;v=A")], &[("accept", "text/a;v=a")], false);
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
        let headers = HeaderMap::from_iter([(VARY, HeaderValue::try_from(many).unwrap())]);
        assert_eq!(Vary::of(&headers), None);
        assert!(Vary::of(&HeaderMap::new()).unwrap().is_empty());
        let names = Vary::of(&map(&[("vary", "b, A"), ("vary", "a,, b")])).unwrap();
        assert_eq!(names.names().map(HeaderName::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }
}
