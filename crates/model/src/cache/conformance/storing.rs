//! RFC 9111 section 3: what is stored, of what is it stored.

use super::*;

const FRESH: &str = "cache-control: max-age=9";

fn answer(status: u16, lines: &[&str]) -> String {
    format!("{status}\n{}", lines.join("\n"))
}

fn refused(asked: &str, status: u16, lines: &[&str], why: Why) {
    assert_eq!(keep(asked, &answer(status, lines)).err(), Some(why), "{asked} {status} {lines:?}");
}

fn taken(asked: &str, status: u16, lines: &[&str]) {
    assert_eq!(keep(asked, &answer(status, lines)).err(), None, "{asked} {status} {lines:?}");
}

#[test]
fn s3_the_method_is_understood() {
    for method in ["GET", "HEAD", "QUERY"] {
        taken(&format!("{method} /"), 200, &[FRESH]);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "M-NEW"] {
        refused(&format!("{method} /"), 200, &[FRESH], Why::Method);
    }
}

#[test]
fn s3_the_status_is_final() {
    for status in [100, 101, 102, 103, 199] {
        refused("GET /", status, &[FRESH], Why::Status);
    }
    for status in [200, 299, 301, 400, 499, 500, 599] {
        taken("GET /", status, &[FRESH]);
    }
}

#[test]
fn s3_a_304_is_no_answer_of_its_own_and_a_206_is_understood() {
    refused("GET /", 304, &[FRESH], Why::Status);
    refused("GET /", 206, &[FRESH], Why::Part);
    taken("GET /", 206, &[FRESH, "content-range: bytes 0-1/2"]);
}

#[test]
fn s3_must_understand_needs_a_status_that_is_understood() {
    for status in [200, 203, 204, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501] {
        taken("GET /", status, &["cache-control: must-understand, max-age=9"]);
    }
    for status in [299, 402, 499, 599] {
        refused("GET /", status, &["cache-control: must-understand, public, max-age=9"], Why::Status);
    }
}

#[test]
fn s3_no_store_is_not_there() {
    refused("GET /", 200, &["cache-control: no-store"], Why::NoStore);
    refused("GET /", 200, &["cache-control: public, NO-STORE, max-age=9, s-maxage=9"], Why::NoStore);
    refused("GET /", 200, &[FRESH, "cache-control: no-store", "expires: @99"], Why::NoStore);
}

#[test]
fn s3_private_is_not_there_or_only_for_some_fields() {
    refused("GET /", 200, &["cache-control: private, max-age=9"], Why::Private);
    refused("GET /", 200, &["cache-control: private, public, s-maxage=9"], Why::Private);
    taken("GET /", 200, &["cache-control: private=\"x-user\", max-age=9"]);
}

#[test]
fn s3_credentials_are_not_there_or_something_allows_it() {
    let asked = "GET /\nauthorization: Basic YTpi";
    refused(asked, 200, &[FRESH], Why::Authorization);
    refused(asked, 200, &["expires: @99"], Why::Authorization);
    taken(asked, 200, &["cache-control: public"]);
}

#[test]
fn s3_something_says_that_it_may_be_stored() {
    refused("GET /", 302, &[], Why::Silent);
    refused("GET /", 500, &["last-modified: @-99"], Why::Silent);
    for line in ["cache-control: public", "expires: @9", "expires: 0", FRESH, "cache-control: s-maxage=9"] {
        taken("GET /", 302, &[line]);
    }
}

#[test]
fn s3_some_statuses_say_it_themselves() {
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        taken("GET /", status, &[]);
    }
    for status in [201, 202, 205, 302, 303, 307, 400, 401, 403, 500, 502, 503, 504, 599] {
        refused("GET /", status, &[], Why::Silent);
    }
}

#[test]
fn s3_what_has_neither_validator_nor_lifetime_may_be_stored_and_is_stale() {
    check("200", 0, Did::Validated);
}

#[test]
fn s3_1_all_fields_are_kept_the_unknown_ones_included() {
    let stored =
        kept("200\ncache-control: max-age=9\nx-new: 1\nx-new: 2\ncontent-foo: 3\nclear-site-data: \"cache\"");
    assert_eq!(stored.fields.get_all("x-new").iter().count(), 2);
    assert_eq!(stored.field("content-foo"), Some("3"));
    assert_eq!(stored.field("clear-site-data"), Some("\"cache\""));
    assert_eq!(stored.field("cache-control"), Some("max-age=9"));
}

#[test]
fn s3_1_fields_of_a_proxy_are_not_kept() {
    let stored = kept(
        "200\ncache-control: max-age=9\nproxy-authenticate: Basic\nproxy-authentication-info: x\nproxy-authorization: y",
    );
    assert_eq!(stored.fields.len(), 1);
}

#[test]
fn s3_1_fields_that_no_cache_or_private_name_are_not_kept() {
    let stored =
        kept("200\ncache-control: max-age=9, no-cache=\"a, b\", private=\"C\"\na: 1\nb: 2\nc: 3\nd: 4");
    assert_eq!(stored.fields.len(), 2);
    assert_eq!(stored.field("d"), Some("4"));
}

/// Freshens an answer that has `before` by a 304 that has `newer`.
fn updated(before: &str, newer: &str) -> Stored {
    let mut stored = kept(before);
    validate::freshen(&mut stored.fields, &head(newer).1);
    stored
}

#[test]
fn s3_2_each_field_of_the_newer_answer_replaces_those_of_its_name() {
    let stored = updated(
        "200\ncache-control: max-age=1\nx: 1\nx: 2\ny: 3\ncontent-type: a/b",
        "304\ncache-control: max-age=2\nx: 4\nz: 5\nz: 6\ncontent-type: c/d\ncontent-foo: 7",
    );
    assert_eq!(stored.fields.get_all("x").iter().collect::<Vec<_>>(), ["4"]);
    assert_eq!(stored.fields.get_all("z").iter().collect::<Vec<_>>(), ["5", "6"]);
    let told = ["y", "cache-control", "content-type", "content-foo"].map(|name| stored.field(name).unwrap());
    assert_eq!(told, ["3", "max-age=2", "c/d", "7"]);
}

#[test]
fn s3_2_what_is_not_stored_is_not_brought_by_an_update_either() {
    let stored = updated("200\netag: \"a\"", "304\nset-cookie: a=b\nproxy-authenticate: Basic");
    assert_eq!(stored.fields.len(), 1);
}

#[test]
fn s3_2_the_length_and_what_else_the_stored_bytes_depend_on_stay() {
    let stored = updated(
        "200\ncontent-length: 5\ncontent-encoding: gzip",
        "304\ncontent-length: 0\ncontent-encoding: br\ncontent-range: bytes 0-1/2",
    );
    assert_eq!((stored.field("content-length"), stored.field("content-encoding")), (Some("5"), Some("gzip")));
    assert_eq!(stored.field("content-range"), None);
}

#[test]
fn s3_2_an_age_of_before_says_nothing_after_an_update() {
    assert_eq!(updated("200\nage: 9", "304\nx: 1").field("age"), None);
    assert_eq!(updated("200\nage: 9", "304\nage: 2").field("age"), Some("2"));
}

#[test]
fn s3_3_parts_are_stored_only_of_units_that_are_understood() {
    for place in ["lines 0-1/2", "bytes 0-1", "bytes 2-1/9", "bytes */9", "bytes 0-9/5", "bytes"] {
        refused("GET /", 206, &[FRESH, &format!("content-range: {place}")], Why::Part);
    }
    taken("GET /", 206, &[FRESH, "content-range: Bytes 0-1/*"]);
}

#[test]
fn s3_5_authorization_needs_public_must_revalidate_or_s_maxage() {
    let asked = "GET /\nauthorization: Bearer x";
    for control in ["public, max-age=9", "must-revalidate, max-age=9", "s-maxage=9"] {
        play(asked, &format!("200\ncache-control: {control}"), 1, "GET /", Did::Reused);
    }
    for control in [
        "max-age=9",
        "proxy-revalidate, max-age=9",
        "immutable, max-age=9",
        "s-maxage=x",
        "must-revalidate;, max-age=9",
    ] {
        refused(asked, 200, &[&format!("cache-control: {control}")], Why::Authorization);
    }
}

#[test]
fn s3_5_what_allows_it_is_obeyed() {
    let asked = "GET /\nauthorization: Bearer x";
    for control in ["must-revalidate, max-age=9", "s-maxage=9"] {
        let stored = keep(asked, &format!("200\ncache-control: {control}")).unwrap();
        assert_eq!(stored.meets(9, "GET /\ncache-control: max-stale"), Did::Validated);
        assert!(!stored.stands_in(9));
    }
}

#[test]
fn what_sets_a_cookie_is_not_stored_but_without_it() {
    refused("GET /", 200, &["cache-control: public, max-age=9", "set-cookie: a=b"], Why::SetCookie);
    let stored = kept("200\ncache-control: max-age=9, private=\"set-cookie\"\nset-cookie: a=b\nx: 1");
    assert_eq!((stored.field("set-cookie"), stored.field("x")), (None, Some("1")));
}
