//! RFC 9111 section 5.2: `Cache-Control`, of requests and of responses.

use super::*;

const FRESH: &str = "200\ncache-control: max-age=100";

/// What becomes of a request with these directives when what is stored lives for 100 seconds and is so old.
fn wishes(control: &str, after_s: u64, expected: Did) {
    play("GET /", FRESH, after_s, &format!("GET /\ncache-control: {control}"), expected);
}

/// What becomes of a request when what is stored has these directives.
fn says(control: &str, after_s: u64, expected: Did) {
    check(&format!("200\ncache-control: {control}"), after_s, expected);
}

#[test]
fn s5_2_directives_pass_through_as_they_came() {
    let stored = kept("200\ncache-control: max-age=9, New=\"x\", NO-TRANSFORM");
    assert_eq!(stored.field("cache-control"), Some("max-age=9, New=\"x\", NO-TRANSFORM"));
    let mut request = head("-\ncache-control: max-age=9, new").1;
    validate::ask(&mut request, &stored.fields);
    assert_eq!(request.get("cache-control").unwrap(), "max-age=9, new");
}

#[test]
fn s5_2_names_are_read_in_any_case() {
    says("MaX-aGe=9", 1, Did::Reused);
    says("nO-StOrE, max-age=9", 1, Did::NotKept(Why::NoStore));
    says("No-CaChE, max-age=9", 1, Did::Validated);
}

#[test]
fn s5_2_arguments_are_read_as_tokens_and_as_strings() {
    says("max-age=\"9\"", 1, Did::Reused);
    says("no-cache=x, max-age=9", 1, Did::Reused);
    says("extension=\"max-age=3600\", max-age=1", 2, Did::Validated);
    says("max-age=1, extension=\"max-age=3600\"", 2, Did::Validated);
    says("max-age=003600", 1, Did::Reused);
}

#[test]
fn s5_2_1_a_route_may_let_clients_have_no_say() {
    let deaf = reuse::Terms { request_directives: false, while_revalidate: 0, if_error: 0 };
    let stored = kept(FRESH);
    for control in ["no-cache", "max-age=0", "min-fresh=200", "only-if-cached", "max-stale"] {
        let wish = Request::of(&head(&format!("-\ncache-control: {control}")).1);
        assert_eq!(reuse::decide(&stored.rules, &wish, Wall(NOW.0 + 5), &deaf), Use::Serve);
        let stale = reuse::decide(&stored.rules, &wish, Wall(NOW.0 + 500), &deaf);
        assert_eq!(stale, Use::Validate(Because::Stale));
    }
}

#[test]
fn s5_2_1_1_max_age_of_a_request_bounds_the_age() {
    wishes("max-age=5", 5, Did::Reused);
    wishes("max-age=5", 6, Did::Validated);
    wishes("max-age=0", 0, Did::Validated);
    wishes("max-age=x", 0, Did::Validated);
    wishes("max-age=500", 101, Did::Validated);
}

#[test]
fn s5_2_1_2_max_stale_of_a_request_takes_it_stale() {
    wishes("max-stale", 5000, Did::Stale);
    wishes("max-stale=10", 110, Did::Stale);
    wishes("max-stale=10", 111, Did::Validated);
    wishes("max-stale=soon", 101, Did::Validated);
    play(
        "GET /",
        "200\nage: 200\ncache-control: max-age=100",
        0,
        "GET /\ncache-control: max-stale=100",
        Did::Stale,
    );
}

#[test]
fn s5_2_1_3_min_fresh_of_a_request_asks_for_what_stays_fresh() {
    wishes("min-fresh=90", 10, Did::Reused);
    wishes("min-fresh=90", 11, Did::Validated);
    wishes("min-fresh=x", 0, Did::Validated);
}

#[test]
fn s5_2_1_4_no_cache_of_a_request_asks_for_validation() {
    wishes("no-cache", 0, Did::Validated);
    wishes("max-stale, no-cache", 200, Did::Validated);
}

#[test]
fn s5_2_1_5_no_store_of_a_request_keeps_its_answer_out() {
    play("GET /\ncache-control: no-store", FRESH, 1, "GET /", Did::NotKept(Why::RequestNoStore));
}

#[test]
fn s5_2_1_5_no_store_of_a_request_says_nothing_of_what_is_stored_already() {
    wishes("no-store", 1, Did::Reused);
}

#[test]
fn s5_2_1_7_only_if_cached_is_answered_from_the_cache_or_with_504() {
    wishes("only-if-cached", 1, Did::Reused);
    wishes("only-if-cached", 100, Did::Refused);
    wishes("only-if-cached, max-stale", 100, Did::Stale);
    wishes("only-if-cached, no-cache", 1, Did::Refused);
}

#[test]
fn s5_2_2_1_max_age_ends_it() {
    says("max-age=0", 0, Did::Validated);
    says("max-age=10", 9, Did::Reused);
    says("max-age=10", 10, Did::Validated);
    for seconds in ["2147483647", "2147483648", "2147483649", "99999999999"] {
        says(&format!("max-age={seconds}"), 1 << 30, Did::Reused);
    }
}

#[test]
fn s5_2_2_2_must_revalidate_is_never_used_stale() {
    let stored = kept("200\ncache-control: max-age=10, must-revalidate");
    assert_eq!(stored.meets(9, "GET /"), Did::Reused);
    assert_eq!(stored.meets(10, "GET /\ncache-control: max-stale"), Did::Validated);
}

#[test]
fn s5_2_2_2_must_revalidate_is_an_error_when_the_upstream_is_away() {
    let stored = kept("200\ncache-control: max-age=10, must-revalidate, stale-if-error=99");
    assert!(stored.stands_in(9) && !stored.stands_in(10));
}

#[test]
fn s5_2_2_3_must_understand_overrules_no_store_where_the_status_is_understood() {
    says("must-understand, no-store, max-age=9", 1, Did::Reused);
    check("599\ncache-control: must-understand, no-store, max-age=9", 1, Did::NotKept(Why::Status));
}

#[test]
fn s5_2_2_4_no_cache_is_validated_each_time_even_where_stale_is_allowed() {
    let stored = kept("200\ncache-control: no-cache, max-age=9, stale-while-revalidate=9, stale-if-error=9");
    assert_eq!(stored.meets(0, "GET /\ncache-control: max-stale"), Did::Validated);
    assert!(!stored.stands_in(0) && !stored.stands_in(10));
}

#[test]
fn s5_2_2_4_fields_that_no_cache_names_are_left_out_and_the_rest_is_used() {
    let stored = kept("200\ncache-control: max-age=9, no-cache=\"A, b\"\na: 1\nb: 2\nc: 3");
    assert_eq!((stored.meets(1, "GET /"), stored.fields.len()), (Did::Reused, 2));
}

#[test]
fn s5_2_2_5_no_store_is_not_stored() {
    says("no-store", 0, Did::NotKept(Why::NoStore));
    check("200\ncache-control: no-store, max-age=9\nexpires: @99", 0, Did::NotKept(Why::NoStore));
}

#[test]
fn s5_2_2_7_private_is_not_stored() {
    says("private, max-age=9", 0, Did::NotKept(Why::Private));
    says("Private=\"\", max-age=9", 0, Did::NotKept(Why::Private));
}

#[test]
fn s5_2_2_7_fields_that_private_names_are_not_stored_and_the_rest_is() {
    let stored = kept("200\ncache-control: max-age=9, private=\"x-user\"\nX-User: 1\nx: 2");
    assert_eq!((stored.field("x-user"), stored.field("x")), (None, Some("2")));
}

#[test]
fn s5_2_2_8_proxy_revalidate_is_never_used_stale_and_makes_nothing_storable() {
    let stored = kept("200\ncache-control: max-age=10, proxy-revalidate");
    assert_eq!(stored.meets(10, "GET /\ncache-control: max-stale"), Did::Validated);
    assert!(!stored.stands_in(10));
    check("500\ncache-control: proxy-revalidate", 0, Did::NotKept(Why::Silent));
}

#[test]
fn s5_2_2_9_public_may_be_stored_where_it_would_not_be() {
    check("302\ncache-control: public\nlast-modified: @-1000", 1, Did::Reused);
    play("GET /\nauthorization: x", "200\ncache-control: public, max-age=9", 1, "GET /", Did::Reused);
    says("public, no-store", 0, Did::NotKept(Why::NoStore));
}

#[test]
fn s5_2_2_10_s_maxage_overrules_max_age_and_expires() {
    says("s-maxage=10, max-age=1", 9, Did::Reused);
    says("max-age=100, s-maxage=1", 1, Did::Validated);
    check("200\nexpires: @-10\ncache-control: max-age=0, s-maxage=10", 9, Did::Reused);
}

#[test]
fn s5_2_2_10_s_maxage_is_never_used_stale() {
    let stored = kept("200\ncache-control: s-maxage=10, stale-if-error=99");
    assert_eq!(stored.meets(10, "GET /\ncache-control: max-stale"), Did::Validated);
    assert!(!stored.stands_in(10));
}

#[test]
fn s5_2_3_what_is_not_known_is_ignored() {
    says("foobar, max-age=9, community=\"UCI\", x-no-store", 1, Did::Reused);
    wishes("foobar=1, max-age=50", 1, Did::Reused);
}
