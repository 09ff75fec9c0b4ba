//! RFC 9111 sections 4.3 and 4.4: what is validated, by whom, and what a write makes invalid.

use super::*;
use crate::fields::Value;
use validate::{ask, confirms, freshen, has_it, head_confirms, invalidates, same_origin};

fn fields(lines: &str) -> Fields {
    head(&format!("\n-\n{lines}")).1
}

/// What we ask the upstream with, for an answer that has these fields, where the client asked with those.
fn asked(stored: &str, client: &str) -> Fields {
    let mut request = fields(client);
    ask(&mut request, &fields(stored));
    request
}

/// Whether a client that asks so is told that it has what is stored.
fn knows(client: &str, stored: &str, expected: bool) {
    assert_eq!(has_it(&fields(client), &fields(stored), NOW), expected, "{client:?} {stored:?}");
}

#[test]
fn s4_3_1_our_conditions_stand_in_the_place_of_the_clients() {
    let request = asked(
        "etag: \"a\"",
        "if-none-match: \"c\"\nif-match: \"c\"\nif-range: \"c\"\nrange: bytes=0-1\nx: 1",
    );
    assert_eq!(request, fields("x: 1\nif-none-match: \"a\""));
}

#[test]
fn s4_3_1_the_tag_that_is_stored_is_sent() {
    for tag in ["\"a\"", "W/\"a\"", "unquoted"] {
        let request = asked(&format!("etag: {tag}"), "");
        assert_eq!(request.get("if-none-match").unwrap(), tag);
    }
}

#[test]
fn s4_3_1_the_last_change_is_sent_beside_the_tag() {
    let request = asked("etag: \"a\"\nlast-modified: @-100", "");
    assert_eq!(
        (request.get("if-none-match").unwrap(), request.get("if-modified-since").unwrap().to_str().unwrap()),
        (Value::from(&HeaderValue::from_static("\"a\"")), &*date(-100))
    );
    assert!(asked("x: 1", "if-modified-since: @-1").is_empty(), "there is nothing to ask with");
}

#[test]
fn s4_3_2_conditions_are_answered_from_what_is_stored() {
    knows("if-none-match: \"a\"", "etag: \"a\"", true);
    knows("if-none-match: \"b\", W/\"a\"", "etag: \"a\"", true);
    knows("if-none-match: \"b\"\nif-none-match: \"a\"", "etag: W/\"a\"", true);
    knows("if-none-match: \"b\"", "etag: \"a\"", false);
    knows("if-modified-since: @-100", "last-modified: @-100", true);
    knows("if-modified-since: @-50", "last-modified: @-100", true);
    knows("if-modified-since: @-150", "last-modified: @-100", false);
}

#[test]
fn s4_3_2_conditions_for_an_origin_alone_are_not_ours_to_judge() {
    for client in ["if-match: \"a\"", "if-unmodified-since: @-100", "if-match: *"] {
        knows(client, "etag: \"a\"\nlast-modified: @-100", false);
    }
}

#[test]
fn s4_3_2_if_none_match_goes_before_if_modified_since() {
    knows("if-none-match: \"b\"\nif-modified-since: @0", "etag: \"a\"\nlast-modified: @-100", false);
    knows("if-none-match: \"a\"\nif-modified-since: @-200", "etag: \"a\"\nlast-modified: @-100", true);
}

#[test]
fn s4_3_2_the_date_stands_for_a_last_change_that_is_not_told() {
    knows("if-modified-since: @-10", "date: @-10", true);
    knows("if-modified-since: @-11", "date: @-10", false);
    knows("if-modified-since: @0", "x: 1", true);
    knows("if-modified-since: @-1", "x: 1", false);
}

#[test]
fn s4_3_2_if_range_is_judged_by_what_is_stored() {
    let parts = |condition: &str, stored: &str| {
        let request = fields(&format!("range: bytes=0-1\nif-range: {condition}"));
        super::super::range::asked(&Method::GET, &request, &fields(stored), 10)
    };
    let whole = super::super::range::Asked::Whole;
    assert_ne!(parts("\"a\"", "etag: \"a\""), whole);
    assert_eq!(parts("\"b\"", "etag: \"a\""), whole);
    assert_eq!(parts("W/\"a\"", "etag: W/\"a\""), whole);
    assert_ne!(parts("@-100", "date: @0\nlast-modified: @-100"), whole);
}

#[test]
fn s4_3_2_a_client_gets_the_whole_when_our_tag_is_confirmed_and_not_its_own() {
    // What it has is compared with what is stored after the update, not with what the upstream said.
    let mut stored = fields("etag: \"ours\"");
    freshen(&mut stored, &fields("etag: \"ours\""));
    assert!(!has_it(&fields("if-none-match: \"theirs\""), &stored, NOW));
    assert!(has_it(&fields("if-none-match: \"ours\""), &stored, NOW));
}

#[test]
fn s4_3_4_a_strong_validator_selects_by_the_same_one() {
    assert!(confirms(&fields("etag: \"a\""), &fields("etag: \"a\"")));
    assert!(confirms(&fields("last-modified: @-100"), &fields("last-modified: @-100")));
}

#[test]
fn s4_3_4_a_strong_validator_of_something_else_updates_nothing() {
    assert!(!confirms(&fields("etag: \"b\""), &fields("etag: \"a\"")));
    assert!(!confirms(&fields("etag: \"a\""), &fields("etag: W/\"a\"")));
    assert!(!confirms(&fields("etag: \"a\""), &fields("last-modified: @-100")));
    assert!(!confirms(&fields("last-modified: @-50"), &fields("last-modified: @-100")));
}

#[test]
fn s4_3_4_a_weak_validator_selects_by_what_it_is_of() {
    assert!(confirms(&fields("etag: W/\"a\""), &fields("etag: \"a\"")));
    assert!(confirms(&fields("etag: W/\"a\""), &fields("etag: W/\"a\"")));
    assert!(!confirms(&fields("etag: W/\"b\""), &fields("etag: \"a\"")));
}

#[test]
fn s4_3_4_no_validator_at_all_selects_what_was_asked_about() {
    assert!(confirms(&fields("x: 1"), &fields("x: 2")));
    assert!(confirms(&fields("x: 1"), &fields("etag: \"a\"")));
}

#[test]
fn s4_3_4_what_is_confirmed_has_the_lifetime_that_the_304_tells() {
    let mut stored = kept("200\ncache-control: max-age=1\netag: \"a\"\nage: 9").fields;
    freshen(&mut stored, &fields("cache-control: max-age=60\ndate: @0"));
    let times = Times { asked: NOW, answered: NOW };
    let told = Response::of(&stored, &[]);
    let freshness = Freshness::of(StatusCode::OK, &stored, &told, times, &Heuristic::default());
    assert_eq!((freshness.lifetime, freshness.initial_age), (60, 0));
}

#[test]
fn s4_3_4_what_a_304_forbids_to_store_is_not_kept_any_longer() {
    let after = |newer: &str| {
        let mut stored = fields("cache-control: max-age=60\netag: \"a\"");
        freshen(&mut stored, &fields(newer));
        let told = Response::of(&stored, &[]);
        store::may(&Method::GET, &Fields::default(), StatusCode::OK, &stored, &told, store::Terms::default())
    };
    assert_eq!(after("cache-control: private"), Err(Why::Private));
    assert_eq!(after("cache-control: no-store"), Err(Why::NoStore));
    assert_eq!(after("vary: *"), Err(Why::VaryAny));
    assert_eq!(after("set-cookie: a=b"), Ok(()), "it is not brought by a 304");
}

#[test]
fn s4_3_5_head_updates_what_has_its_validators_and_its_length() {
    let stored = fields("etag: \"a\"\nlast-modified: @-100\ncontent-length: 5");
    assert!(head_confirms(&fields("etag: \"a\"\ncontent-length: 5"), &stored));
    assert!(head_confirms(&fields("etag: \"a\"\nlast-modified: @-100"), &stored));
}

#[test]
fn s4_3_5_head_makes_stale_what_it_does_not_match() {
    let stored = fields("etag: \"a\"\nlast-modified: @-100\ncontent-length: 5");
    for told in [
        "etag: \"b\"",
        "etag: \"a\"\nlast-modified: @-99",
        "etag: \"a\"\ncontent-length: 6",
        "content-length: 5",
        "x: 1",
    ] {
        assert!(!head_confirms(&fields(told), &stored), "{told}");
    }
}

fn writes(method: &str, status: u16, expected: bool) {
    let (parsed, status) = (method.parse().unwrap(), StatusCode::from_u16(status).unwrap());
    assert_eq!(invalidates(&parsed, status), expected, "{method} {status}");
}

#[test]
fn s4_4_a_write_that_did_not_fail_invalidates_its_target() {
    for method in ["POST", "PUT", "DELETE", "PATCH", "M-SEARCH", "LOCK", "CONNECT"] {
        for status in [200, 201, 204, 301, 303, 304] {
            writes(method, status, true);
        }
    }
}

#[test]
fn s4_4_one_that_failed_or_is_safe_does_not() {
    for status in [100, 400, 404, 409, 500, 503] {
        writes("POST", status, false);
    }
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY"] {
        writes(method, 200, false);
    }
}

#[test]
fn s4_4_other_targets_that_a_write_names_are_invalidated_within_its_origin() {
    let of = |location: &str| same_origin(location.as_bytes(), "https", "a.example");
    assert_eq!(of("/x?y").as_deref(), Some("/x?y"));
    assert_eq!(of("https://a.example/x#z").as_deref(), Some("/x"));
    for other in
        ["https://b.example/x", "http://a.example/x", "https://a.example:444/", "//b.example/", "\u{0}"]
    {
        assert_eq!(of(other), None, "{other}");
    }
}
