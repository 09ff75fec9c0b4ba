//! What amends RFC 9111: RFC 5861 (stale content), 8246 (immutable), 9213 (targeted fields), 9211 (`Cache-Status`), 9875
//! (groups) and 10008 (QUERY).

use super::super::status::{Fwd, Status};
use super::super::tags;
use super::*;

fn stale(control: &str) -> Stored {
    kept(&format!("200\ncache-control: max-age=100, {control}"))
}

#[test]
fn rfc5861_3_it_is_served_stale_in_its_window_while_it_is_validated() {
    let stored = stale("stale-while-revalidate=10");
    assert_eq!(
        [99, 100, 109, 110].map(|at| stored.meets(at, "GET /")),
        [Did::Reused, Did::Refreshing, Did::Refreshing, Did::Validated]
    );
}

#[test]
fn rfc5861_3_a_window_that_cannot_be_read_is_none() {
    for window in ["x", "-5", "", "5, stale-while-revalidate=6"] {
        assert_eq!(stale(&format!("stale-while-revalidate={window}")).meets(100, "GET /"), Did::Validated);
    }
}

#[test]
fn rfc5861_4_it_is_served_stale_in_its_window_when_there_is_an_error() {
    let terms = reuse::Terms { request_directives: true, while_revalidate: 0, if_error: 0 };
    let may = |control: &str, wish: &str, at: u64| {
        let wish = Request::of(&head(&format!("-\ncache-control: {wish}")).1);
        reuse::may_serve_on_error(&stale(control).rules, &wish, Wall(NOW.0 + at), &terms)
    };
    assert!(may("stale-if-error=10", "x", 109) && !may("stale-if-error=10", "x", 110));
    assert!(may("x", "stale-if-error=10", 109) && !may("x", "x", 101));
    assert!(!may("stale-if-error=x", "x", 101));
}

#[test]
fn rfc5861_4_it_does_not_overrule_what_forbids_to_be_stale() {
    for control in ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=50"] {
        assert!(!stale(&format!("stale-if-error=99, {control}")).stands_in(101));
    }
}

#[test]
fn rfc8246_2_what_is_immutable_is_not_asked_for_again_while_it_is_fresh() {
    let stored = stale("immutable");
    assert_eq!(stored.meets(5, "GET /\ncache-control: no-cache"), Did::Reused);
    assert_eq!(stored.meets(5, "GET /\ncache-control: max-age=0"), Did::Reused);
    assert_eq!(stored.meets(100, "GET /"), Did::Validated);
}

#[test]
fn rfc8246_2_1_an_argument_changes_nothing_of_it() {
    assert_eq!(stale("immutable=\"x\"").meets(5, "GET /\ncache-control: no-cache"), Did::Reused);
}

fn targeted(lines: &str, after_s: u64, expected: Did) {
    check(&format!("200\n{lines}"), after_s, expected);
}

#[test]
fn rfc9213_2_1_a_value_of_the_wrong_type_is_not_made_one_of_the_right() {
    for value in ["\"100\"", "10.5", "-10", "?1", "?0", "abc", "(100)", ":aGk=:"] {
        targeted(&format!("last-modified: @-10000\ncdn-cache-control: max-age={value}"), 1, Did::Validated);
    }
    targeted("cdn-cache-control: public=\"x\"\ncache-control: no-store", 1, Did::Validated);
    targeted("cdn-cache-control: private=x, max-age=100", 1, Did::NotKept(Why::Private));
}

#[test]
fn rfc9213_2_1_parameters_are_ignored() {
    targeted("cdn-cache-control: max-age=100;x=1;y", 1, Did::Reused);
}

#[test]
fn rfc9213_2_1_what_is_empty_or_malformed_is_as_good_as_absent() {
    for value in
        ["", "max-age=", "MAX-AGE=100", "max-age=100, &&&&&", "max-age =100", "max-age= 100", "max-age=100,"]
    {
        targeted(
            &format!("cdn-cache-control: {value}\ncache-control: no-store"),
            1,
            Did::NotKept(Why::NoStore),
        );
        targeted(&format!("cdn-cache-control: {value}\ncache-control: max-age=100"), 1, Did::Reused);
    }
}

#[test]
fn rfc9213_2_2_the_first_field_of_the_list_that_says_something_decides() {
    targeted("cdn-cache-control: max-age=1\ntidegate-cache-control: max-age=100", 50, Did::Reused);
    targeted("cdn-cache-control: max-age=100\ntidegate-cache-control: max-age=1", 50, Did::Validated);
    targeted("cdn-cache-control: max-age=100\ntidegate-cache-control: &", 50, Did::Reused);
}

#[test]
fn rfc9213_2_2_cache_control_and_expires_say_nothing_beside_it() {
    targeted("cdn-cache-control: max-age=100\ncache-control: no-store\nexpires: 0", 50, Did::Reused);
    targeted("cdn-cache-control: max-age=1\ncache-control: max-age=100\nexpires: @100", 50, Did::Validated);
    targeted("cdn-cache-control: none\ncache-control: max-age=100\nexpires: @100", 50, Did::Validated);
    check("302\ncdn-cache-control: none\nexpires: @100", 0, Did::NotKept(Why::Silent));
}

#[test]
fn rfc9213_2_2_other_targets_do_not_matter_and_pass_through() {
    let stored = kept(
        "200\ncache-control: max-age=100\nother-cache-control: no-store\ncdn-cache-control: max-age=200",
    );
    assert_eq!(
        (stored.meets(150, "GET /"), stored.field("other-cache-control")),
        (Did::Reused, Some("no-store"))
    );
    assert_eq!(stored.field("cdn-cache-control"), Some("max-age=200"));
}

#[test]
fn rfc9213_2_2_directives_mean_there_what_they_mean_elsewhere() {
    targeted("cdn-cache-control: no-store\ncache-control: max-age=100", 1, Did::NotKept(Why::NoStore));
    targeted("cdn-cache-control: private\ncache-control: max-age=100", 1, Did::NotKept(Why::Private));
    targeted("cdn-cache-control: no-cache, max-age=100", 1, Did::Validated);
    targeted("cdn-cache-control: max-age=1, stale-while-revalidate=9", 2, Did::Refreshing);
    let stored = kept("200\ncdn-cache-control: max-age=1, must-revalidate");
    assert!(!stored.stands_in(2));
    targeted("age: 7200\ncdn-cache-control: max-age=3600", 0, Did::Validated);
}

#[test]
fn rfc9211_2_each_cache_adds_itself_after_those_nearer_to_the_origin() {
    let before = ["a; hit", "b; fwd=miss"].map(HeaderValue::from_static);
    assert_eq!(Status::default().value(&before), "a; hit, b; fwd=miss, tidegate; hit");
}

/// What a status says where no cache before has said anything.
fn said(status: Status) -> String {
    status.value([] as [&[u8]; 0]).to_str().unwrap().to_owned()
}

#[test]
fn rfc9211_2_1_and_2_2_hit_and_fwd_exclude_each_other() {
    let all = [
        Fwd::Bypass,
        Fwd::Method,
        Fwd::UriMiss,
        Fwd::VaryMiss,
        Fwd::Miss,
        Fwd::Request,
        Fwd::Stale,
        Fwd::Partial,
    ];
    for fwd in all {
        let text = said(Status { fwd: Some(fwd), ..Status::default() });
        assert!(text.contains("fwd=") && !text.contains("hit"), "{text}");
    }
    assert!(!said(Status::default()).contains("fwd"));
}

#[test]
fn rfc9211_2_4_ttl_is_below_zero_for_what_is_stale() {
    let text = said(Status { ttl: Some(-7), ..Status::default() });
    assert_eq!(text, "tidegate; hit; ttl=-7");
}

#[test]
fn rfc9875_2_1_a_group_is_of_its_origin_and_minds_case() {
    let of = |origin: &str, group: &str| {
        tags::of(&head(&format!("-\ncache-groups: {group}")).1, origin.as_bytes()).unwrap()
    };
    assert_eq!(of("https://a", "\"x\";p=1, \"y\""), of("https://a", "\"y\", \"x\""));
    assert_ne!(of("https://a", "\"x\""), of("https://b", "\"x\""));
    assert_ne!(of("https://a", "\"x\""), of("https://a", "\"X\""));
}

#[test]
fn rfc9875_2_a_field_holds_32_groups_of_32_characters_at_least() {
    let groups: Vec<String> = (0..32).map(|n| format!("\"{n:032}\"")).collect();
    for name in ["cache-groups", "cache-group-invalidation"] {
        let fields = head(&format!("-\n{name}: {}", groups.join(", "))).1;
        let count = tags::of(&fields, b"o").unwrap().len() + tags::invalidated(&fields, b"o").len();
        assert_eq!(count, 32, "{name}");
    }
}

#[test]
fn rfc9875_3_a_write_names_the_groups_that_it_changed() {
    let stored = tags::of(&head("-\ncache-groups: \"x\", \"y\"").1, b"o").unwrap();
    let gone = tags::invalidated(&head("-\ncache-group-invalidation: \"y\"").1, b"o");
    assert_eq!(stored.iter().filter(|tag| gone.contains(tag)).count(), 1);
    assert!(tags::invalidated(&head("-\ncache-group-invalidation: y, \"").1, b"o").is_empty());
}

#[test]
fn rfc9875_3_on_an_answer_to_a_safe_method_it_is_ignored() {
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "QUERY"] {
        assert!(!validate::invalidates(&method.parse().unwrap(), StatusCode::OK));
    }
}

#[test]
fn rfc10008_2_a_query_is_safe() {
    let query = "QUERY".parse().unwrap();
    assert!(!validate::invalidates(&query, StatusCode::OK));
    assert!(crate::retry::may_repeat(&query, crate::retry::Sent::Perhaps, false));
}

#[test]
fn rfc10008_2_7_the_content_of_a_query_is_in_its_key() {
    let of = |content: Option<&[u8]>| {
        let target = Target {
            tenant: Some("acme"),
            route: "r",
            https: true,
            host: "h",
            port: None,
            path: "/",
            query: None,
            content,
            steering: None,
        };
        Key::of(&target, &Fields::default(), &KeyRules::default())
    };
    assert_eq!(of(Some(b"a")), of(Some(b"a")));
    assert_ne!(of(Some(b"a")), of(Some(b"b")));
    assert_ne!(of(Some(b"")), of(None));
}
