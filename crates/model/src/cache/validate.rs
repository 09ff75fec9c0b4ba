//! Validation: a client's conditions answered from what is stored, our own put to the upstream, and what its answer makes
//! of what is stored (RFC 9111 sections 4.3 and 4.4).

use crate::fields::{Fields, Value};
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    LAST_MODIFIED,
};
use http::{HeaderName, Method, StatusCode, Uri};

use crate::cache::Wall;
use crate::cache::directives::element;
use crate::cache::store::NEVER_KEPT;
use crate::method::is_safe;

/// Whether a client that sends these conditions has what is stored already, so that 304 answers it (section 4.3.2).
#[must_use]
pub fn has_it(request: &Fields, stored: &Fields, answered: Wall) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        return lists(request, stored.get(ETAG).map(|tag| tag.as_bytes()));
    }
    let Some(since) = request.get(IF_MODIFIED_SINCE).and_then(|date| Wall::of_date(date.as_bytes())) else {
        return false;
    };
    let date = |name| stored.get(name).and_then(|date: Value<'_>| Wall::of_date(date.as_bytes()));
    date(LAST_MODIFIED).or_else(|| date(DATE)).unwrap_or(answered) <= since
}

/// Whether `If-None-Match` names this tag. The comparison is weak (RFC 9110 section 13.1.2).
fn lists(request: &Fields, tag: Option<&[u8]>) -> bool {
    request.get_all(IF_NONE_MATCH).iter().any(|line| {
        let mut rest = line.as_bytes();
        loop {
            let (one, after) = element(rest);
            if one == b"*" || tag.is_some_and(|tag| !one.is_empty() && opaque(one) == opaque(tag)) {
                return true;
            }
            if after.is_empty() {
                return false;
            }
            rest = after;
        }
    })
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Whether a tag tells that content is the same to the byte.
#[must_use]
pub fn is_strong(tag: &[u8]) -> bool {
    tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"")
}

/// Puts our own conditions into the request that validates what is stored; the client's go, since its answer is made
/// from what we then have (section 4.3.1). Tells whether there is anything to ask with.
pub fn ask(request: &mut Fields, stored: &Fields) -> bool {
    for name in CONDITIONS {
        request.remove(name);
    }
    for (told, asked) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
        if let Some(value) = stored.get(told) {
            request.insert(asked, value);
        }
    }
    request.contains_key(IF_NONE_MATCH) || request.contains_key(IF_MODIFIED_SINCE)
}

/// The conditions that a client may set, and the range it may ask for: none of them goes along with a request whose whole
/// answer is to be stored.
pub const CONDITIONS: [HeaderName; 6] = [
    http::header::IF_MATCH,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    http::header::IF_UNMODIFIED_SINCE,
    http::header::IF_RANGE,
    http::header::RANGE,
];

/// Whether a 304 speaks of what is stored (section 4.3.4).
#[must_use]
pub fn confirms(not_modified: &Fields, stored: &Fields) -> bool {
    if let Some(tag) = not_modified.get(ETAG).map(|tag| tag.as_bytes()) {
        let kept = stored.get(ETAG).map(|tag| tag.as_bytes());
        return kept
            .is_some_and(|kept| if is_strong(tag) { kept == tag } else { opaque(kept) == opaque(tag) });
    }
    match not_modified.get(LAST_MODIFIED) {
        Some(modified) => is_same_date(stored.get(LAST_MODIFIED), modified),
        // It answers the one question that was asked.
        None => true,
    }
}

/// Whether a date is the same moment, in whichever format.
fn is_same_date(kept: Option<Value<'_>>, told: Value<'_>) -> bool {
    kept.is_some_and(|kept| {
        let moment = Wall::of_date(told.as_bytes());
        kept == told || moment.is_some() && Wall::of_date(kept.as_bytes()) == moment
    })
}

/// What a response to HEAD tells of what is stored of GET (section 4.3.5).
#[must_use]
pub fn head_confirms(head: &Fields, stored: &Fields) -> bool {
    let agrees = |name| match (head.get(&name), stored.get(&name)) {
        (Some(told), kept) => kept == Some(told),
        (None, _) => true,
    };
    let validated = head.contains_key(ETAG) || head.contains_key(LAST_MODIFIED);
    validated && agrees(ETAG) && agrees(LAST_MODIFIED) && agrees(CONTENT_LENGTH)
}

/// Brings the stored fields up to date with those of a 304, of HEAD or of a further part (section 3.2). What the stored bytes
/// depend on stays as it is: their number, their coding, their place. What is never kept does not come by this way either;
/// what the newer fields say themselves of being kept ([`super::store::may`], [`super::store::strip`]) is to be asked after.
pub fn freshen(stored: &mut Fields, newer: &Fields) {
    const DEPENDED_ON: [HeaderName; 3] = [CONTENT_ENCODING, CONTENT_RANGE, CONTENT_LENGTH];
    for name in newer.keys().filter(|name| !DEPENDED_ON.iter().chain(&NEVER_KEPT).any(|kept| name == kept)) {
        stored.remove(name);
        for value in newer.get_all(name) {
            stored.append(name, value);
        }
    }
    // An age that somebody told then says nothing now; the newer answer tells its own.
    if !newer.contains_key(http::header::AGE) {
        stored.remove(http::header::AGE);
    }
}

/// Whether an exchange that was answered so makes what is stored of its target invalid (section 4.4).
#[must_use]
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !is_safe(method) && (status.is_success() || status.is_redirection())
}

/// The path and query of a `Location` or `Content-Location`, if it is of the same origin as the target: only then may it be
/// invalidated, too (section 4.4).
#[must_use]
pub fn same_origin(location: &[u8], scheme: &str, authority: &str) -> Option<String> {
    let text = std::str::from_utf8(location).ok()?.trim();
    if text.starts_with('/') && !text.starts_with("//") {
        return Some(text.split('#').next()?.to_owned());
    }
    let uri: Uri = text.split('#').next()?.parse().ok()?;
    let same = uri.scheme_str()?.eq_ignore_ascii_case(scheme)
        && uri.authority()?.as_str().eq_ignore_ascii_case(authority);
    same.then(|| uri.path_and_query().map_or_else(|| "/".to_owned(), |path| path.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const OLD: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const NEW: &str = "Tue, 14 Nov 2023 22:13:21 GMT";

    type Lines = [(&'static str, &'static str)];

    fn map(lines: &Lines) -> Fields {
        let mut map = Fields::default();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn check(request: &Lines, stored: &Lines, expected: bool) {
        let answered = Wall::of_date(NEW.as_bytes()).unwrap();
        assert_eq!(has_it(&map(request), &map(stored), answered), expected, "{request:?} {stored:?}");
    }

    #[test]
    fn section_4_3_2_if_none_match_is_compared_weakly_and_in_lists() {
        for tag in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "*", "\"x,y\" ,W/\"a\""] {
            check(&[("if-none-match", tag)], &[("etag", "\"a\"")], true);
            check(&[("if-none-match", tag)], &[("etag", "W/\"a\"")], true);
        }
        for tag in ["\"b\"", "a", "", "\"a", "\"a\"x", "\"b, \"a\"\""] {
            check(&[("if-none-match", tag)], &[("etag", "\"a\"")], false);
        }
        check(&[("if-none-match", "\"a\"")], &[], false);
        check(&[("if-none-match", "*")], &[], true);
    }

    #[test]
    fn section_4_3_2_if_modified_since_counts_only_without_if_none_match() {
        check(&[("if-modified-since", OLD)], &[("last-modified", OLD)], true);
        check(&[("if-modified-since", NEW)], &[("last-modified", OLD)], true);
        check(&[("if-modified-since", OLD)], &[("last-modified", NEW)], false);
        check(
            &[("if-modified-since", NEW), ("if-none-match", "\"b\"")],
            &[("last-modified", OLD), ("etag", "\"a\"")],
            false,
        );
        check(&[("if-modified-since", "lately")], &[("last-modified", OLD)], false);
    }

    #[test]
    fn section_4_3_2_what_has_no_last_modified_is_as_old_as_its_date_or_its_coming() {
        check(&[("if-modified-since", OLD)], &[("date", OLD)], true);
        check(&[("if-modified-since", OLD)], &[], false);
        check(&[("if-modified-since", NEW)], &[], true);
    }

    #[test]
    fn section_4_3_1_our_conditions_take_the_place_of_the_clients() {
        let mut request = map(&[
            ("if-none-match", "\"c\""),
            ("if-match", "\"c\""),
            ("range", "bytes=0-1"),
            ("accept", "x"),
        ]);
        assert!(ask(&mut request, &map(&[("etag", "\"a\""), ("last-modified", OLD)])));
        assert_eq!(request, map(&[("accept", "x"), ("if-none-match", "\"a\""), ("if-modified-since", OLD)]));
        assert!(!ask(&mut map(&[("if-none-match", "\"c\"")]), &map(&[])));
    }

    #[test]
    fn section_4_3_4_a_304_confirms_what_has_its_validator() {
        let stored = map(&[("etag", "\"a\""), ("last-modified", OLD)]);
        for (told, expected) in [
            (&[("etag", "\"a\"")][..], true),
            (&[("etag", "W/\"a\"")], true),
            (&[("etag", "\"b\"")], false),
            (&[("last-modified", OLD)], true),
            (&[("last-modified", "Tuesday, 14-Nov-23 22:13:20 GMT")], true),
            (&[("last-modified", NEW)], false),
            (&[], true),
        ] {
            assert_eq!(confirms(&map(told), &stored), expected, "{told:?}");
        }
        assert!(
            !confirms(&map(&[("etag", "\"a\"")]), &map(&[("etag", "W/\"a\"")])),
            "strong confirms strong alone"
        );
    }

    #[test]
    fn section_3_2_a_304_updates_all_but_what_the_stored_bytes_depend_on() {
        let mut stored = map(&[
            ("content-type", "a"),
            ("content-length", "5"),
            ("age", "9"),
            ("x", "1"),
            ("x", "2"),
            ("y", "3"),
        ]);
        let newer = [
            ("content-type", "b"),
            ("content-length", "0"),
            ("x", "4"),
            ("content-encoding", "gzip"),
            ("content-range", "bytes 0-1/2"),
            ("set-cookie", "a=b"),
            ("proxy-authenticate", "Basic"),
            ("z", "5"),
        ];
        freshen(&mut stored, &map(&newer));
        assert_eq!(
            stored,
            map(&[("content-length", "5"), ("y", "3"), ("content-type", "b"), ("x", "4"), ("z", "5")])
        );
    }

    #[test]
    fn section_4_3_5_head_confirms_by_validators_and_length() {
        let stored = map(&[("etag", "\"a\""), ("content-length", "5")]);
        for (told, expected) in [
            (&[("etag", "\"a\""), ("content-length", "5")][..], true),
            (&[("etag", "\"a\"")], true),
            (&[("etag", "\"b\""), ("content-length", "5")], false),
            (&[("etag", "\"a\""), ("content-length", "6")], false),
            (&[("content-length", "5")], false),
        ] {
            assert_eq!(head_confirms(&map(told), &stored), expected, "{told:?}");
        }
    }

    #[test]
    fn section_4_4_a_write_that_succeeded_invalidates() {
        for (method, status, expected) in [
            ("POST", 200, true),
            ("PUT", 204, true),
            ("DELETE", 303, true),
            ("PATCH", 500, false),
            ("POST", 404, false),
            ("GET", 200, false),
            ("OPTIONS", 200, false),
            ("QUERY", 200, false),
            ("M-NEW", 200, true),
        ] {
            let (method, status) = (method.parse().unwrap(), StatusCode::from_u16(status).unwrap());
            assert_eq!(invalidates(&method, status), expected, "{method} {status}");
        }
    }

    #[test]
    fn section_4_4_only_what_is_of_the_same_origin() {
        let of = |location: &str| same_origin(location.as_bytes(), "https", "a.example");
        assert_eq!(of("/x?y#z").as_deref(), Some("/x?y"));
        assert_eq!(of("https://A.example/x").as_deref(), Some("/x"));
        for other in [
            "https://b.example/x",
            "http://a.example/x",
            "//b.example/x",
            "https://a.example:8443/x",
            "x",
            "\u{1}",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
