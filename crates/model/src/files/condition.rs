//! What a request's conditions make of a file (RFC 9110 section 13.2.2).

use crate::fields::Fields;
use http::header::{ETAG, IF_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED};

use crate::cache::Wall;
use crate::cache::directives::element;
use crate::cache::validate::{has_it, is_strong};

/// What answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The file, or the part of it that is asked for.
    Content,
    /// 304: the client has it.
    NotModified,
    /// 412: it is not the one that the client means.
    Failed,
}

/// Asks the conditions in the order of the RFC. `file` holds the tag and date that would be told.
#[must_use]
pub fn verdict(request: &Fields, file: &Fields, now: Wall) -> Verdict {
    if request.contains_key(IF_MATCH) {
        if !is_meant(request, file.get(ETAG).map(|tag| tag.as_bytes())) {
            return Verdict::Failed;
        }
    } else if let (Some(since), Some(modified)) =
        (date(request, &IF_UNMODIFIED_SINCE), date(file, &LAST_MODIFIED))
        && modified > since
    {
        return Verdict::Failed;
    }
    if has_it(request, file, now) { Verdict::NotModified } else { Verdict::Content }
}

/// Whether `If-Match` names this tag. The comparison is strong (RFC 9110 section 13.1.1).
fn is_meant(request: &Fields, tag: Option<&[u8]>) -> bool {
    request.get_all(IF_MATCH).iter().any(|line| {
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            let (one, after) = element(rest);
            if one == b"*" || tag.is_some_and(|tag| is_strong(tag) && one == tag) {
                return true;
            }
            rest = after;
        }
        false
    })
}

fn date(fields: &Fields, name: &http::HeaderName) -> Option<Wall> {
    Wall::of_date(fields.get(name)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    const OLD: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const NEW: &str = "Tue, 14 Nov 2023 22:13:21 GMT";

    fn map(lines: &[(&'static str, &'static str)]) -> Fields {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    fn check(request: &[(&'static str, &'static str)], expected: Verdict) {
        let file = map(&[("etag", "\"a\""), ("last-modified", OLD)]);
        assert_eq!(verdict(&map(request), &file, Wall(1_800_000_000)), expected, "{request:?}");
    }

    #[test]
    fn section_13_2_2_conditions_are_asked_in_their_order() {
        check(&[], Verdict::Content);
        check(&[("if-none-match", "\"a\"")], Verdict::NotModified);
        check(&[("if-none-match", "\"b\""), ("if-modified-since", NEW)], Verdict::Content);
        check(&[("if-modified-since", OLD)], Verdict::NotModified);
        check(&[("if-match", "\"b\""), ("if-none-match", "\"a\"")], Verdict::Failed);
        check(&[("if-match", "\"a\""), ("if-none-match", "\"a\"")], Verdict::NotModified);
        check(
            &[("if-match", "\"a\""), ("if-unmodified-since", "Tue, 14 Nov 2023 22:13:19 GMT")],
            Verdict::Content,
        );
    }

    #[test]
    fn section_13_1_1_if_match_is_compared_strongly() {
        check(&[("if-match", "*")], Verdict::Content);
        check(&[("if-match", "\"x\", \"a\"")], Verdict::Content);
        check(&[("if-match", "W/\"a\"")], Verdict::Failed);
        check(&[("if-match", "")], Verdict::Failed);
        let weak = map(&[("etag", "W/\"a\"")]);
        assert_eq!(verdict(&map(&[("if-match", "W/\"a\"")]), &weak, Wall(0)), Verdict::Failed);
    }

    #[test]
    fn section_13_1_4_what_is_no_date_is_no_condition() {
        check(&[("if-unmodified-since", OLD)], Verdict::Content);
        check(&[("if-unmodified-since", "Tue, 14 Nov 2023 22:13:19 GMT")], Verdict::Failed);
        check(&[("if-unmodified-since", "lately")], Verdict::Content);
    }
}
