//! RFC 9111 sections 4, 4.1 and 4.2: what is reused, for which requests, how long.

use super::*;
use proptest::prelude::*;

const FRESH: &str = "200\ncache-control: max-age=10";

fn varied(names: &str, first: &str, second: &str, expected: Did) {
    let ask = |fields: &str| format!("GET /\n{fields}");
    let answered = format!("{FRESH}\nvary: {names}");
    play(&ask(first), &answered, 1, &ask(second), expected);
}

#[test]
fn s4_the_target_is_the_same() {
    play("GET /a?b=1", FRESH, 1, "GET /a?b=1", Did::Reused);
    for other in ["GET /b?b=1", "GET /a?b=2", "GET /a", "GET /A?b=1"] {
        play("GET /a?b=1", FRESH, 1, other, Did::Missed);
    }
}

#[test]
fn s4_the_method_allows_it() {
    play("GET /", FRESH, 1, "HEAD /", Did::Reused);
    play("HEAD /", FRESH, 1, "GET /", Did::Missed);
    play("QUERY /", FRESH, 1, "GET /", Did::Missed);
}

#[test]
fn s4_the_fields_that_vary_match() {
    varied("foo", "foo: 1", "foo: 1\nbar: 2", Did::Reused);
    varied("foo", "foo: 1", "foo: 2", Did::Missed);
}

#[test]
fn s4_no_cache_is_validated_first() {
    check("200\ncache-control: no-cache, max-age=10\nexpires: @99", 0, Did::Validated);
    check("200\ncache-control: max-age=10\ncache-control: No-Cache", 0, Did::Validated);
}

#[test]
fn s4_it_is_fresh_or_may_be_stale_or_is_validated() {
    check(FRESH, 9, Did::Reused);
    check(FRESH, 10, Did::Validated);
    play("GET /", FRESH, 12, "GET /\ncache-control: max-stale=5", Did::Stale);
}

#[test]
fn s4_the_age_that_is_served_is_the_current_one() {
    let stored = kept("200\ncache-control: max-age=100\nage: 30\ndate: @-40");
    assert_eq!((stored.age(0), stored.age(7)), (40, 47));
    assert_eq!(kept("200\nexpires: @3600").age(5), 5);
}

#[test]
fn s4_1_every_field_that_vary_names_matches() {
    let both = "foo: 1\nbar: abc";
    varied("Foo, Bar", both, both, Did::Reused);
    varied("foo, bar, baz", both, both, Did::Reused);
    for other in ["foo: 2\nbar: abc", "foo: 1", "bar: abc", "", "foo: abc\nbar: 1"] {
        varied("foo, bar", both, other, Did::Missed);
    }
    varied("foo\nvary: bar", both, "foo: 1\nbar: x", Did::Missed);
}

#[test]
fn s4_1_white_space_does_not_count() {
    varied("foo", "foo: 1,2", "foo: 1 ,\t2", Did::Reused);
    varied("foo", "foo: a b", "foo: ab", Did::Missed);
}

#[test]
fn s4_1_lines_of_one_field_are_combined() {
    varied("foo", "foo: 1, 2", "foo: 1\nfoo: 2", Did::Reused);
    varied("foo", "foo: 1, 2", "foo: 2\nfoo: 1", Did::Missed);
}

#[test]
fn s4_1_what_means_the_same_is_the_same() {
    varied("accept-language", "accept-language: en, de", "accept-language: DE,  en", Did::Reused);
    varied(
        "accept-language",
        "accept-language: en;q=1.0, de;q=0.5",
        "accept-language: de;q=0.5, en",
        Did::Reused,
    );
    varied("accept-encoding", "accept-encoding: gzip, br", "accept-encoding: br;q=1, x-gzip", Did::Reused);
    varied("accept-language", "accept-language: en", "accept-language: en-gb", Did::Missed);
}

#[test]
fn s4_1_what_is_absent_matches_only_what_is_absent() {
    varied("foo", "", "", Did::Reused);
    varied("foo", "", "foo: 1", Did::Missed);
    varied("foo", "foo: 1", "", Did::Missed);
    varied("foo", "", "foo:", Did::Missed);
}

#[test]
fn s4_1_a_star_never_matches() {
    for names in ["*", "*, *", ", *", "*, foo", "foo, *", "foo\nvary: *"] {
        varied(names, "", "", Did::NotKept(Why::VaryAny));
    }
}

#[test]
fn s4_1_an_answer_that_omits_vary_does_not_end_the_choice() {
    let named = |text: &str| Vary::of(&head(text).1).unwrap();
    let (default, chosen) = (named("200"), named("200\nvary: accept-language"));
    assert_eq!(default.and(&chosen), Some(chosen));
}

fn lifetime(lines: &str, expected: u32) {
    assert_eq!(kept(&format!("200\ndate: @0\n{lines}")).rules.freshness.lifetime, expected, "{lines}");
}

#[test]
fn s4_2_dates_are_read_in_any_case() {
    for text in
        ["tUE, 14 nOV 2023 22:13:50 gmt", "Tuesday, 14-NOV-23 22:13:50 GMT", "tue Nov 14 22:13:50 2023"]
    {
        lifetime(&format!("expires: {text}"), 30);
    }
}

#[test]
fn s4_2_a_moment_between_two_seconds_is_the_earlier_one() {
    lifetime("expires: Tue, 14 Nov 2023 22:13:60 GMT", 39);
}

#[test]
fn s4_2_a_zone_other_than_gmt_is_no_date() {
    for zone in ["UTC", "CET", "+0000", "EST", "Z", ""] {
        lifetime(&format!("expires: Tue, 14 Nov 2024 22:13:50 {zone}"), 0);
    }
}

#[test]
fn s4_2_1_s_maxage_then_max_age_then_expires_then_a_guess() {
    lifetime("expires: @30\ncache-control: max-age=20, s-maxage=10", 10);
    lifetime("expires: @30\ncache-control: s-maxage=20\ncache-control: max-age=10", 20);
    lifetime("expires: @30\ncache-control: max-age=20", 20);
    lifetime("expires: @30\nlast-modified: @-1000", 30);
    lifetime("last-modified: @-1000", 100);
    lifetime("", 0);
}

#[test]
fn s4_2_1_expires_counts_from_the_date_or_from_when_the_answer_came() {
    assert_eq!(kept("200\ndate: @-100\nexpires: @-40").rules.freshness.lifetime, 60);
    assert_eq!(kept("200\ndate: @100\nexpires: @130").rules.freshness.lifetime, 30);
    assert_eq!(kept("200\nexpires: @30").rules.freshness.lifetime, 30);
    assert_eq!(kept("200\ndate: soon\nexpires: @30").rules.freshness.lifetime, 30);
}

#[test]
fn s4_2_1_two_values_for_one_directive_make_it_stale() {
    for lines in ["max-age=1800, max-age=1", "max-age=1, max-age=1800", "s-maxage=5, s-maxage=6, max-age=9"] {
        lifetime(&format!("cache-control: {lines}"), 0);
    }
    lifetime("cache-control: max-age=5\ncache-control: max-age=6", 0);
    lifetime("expires: @30\nexpires: @40", 0);
    lifetime("cache-control: max-age=5, max-age=5", 5);
}

#[test]
fn s4_2_1_of_directives_that_contradict_each_other_the_strictest_counts() {
    check("200\ncache-control: max-age=100, no-cache", 1, Did::Validated);
    check("200\ncache-control: max-age=100, no-store", 1, Did::NotKept(Why::NoStore));
    check("200\ncache-control: public, private, max-age=100", 1, Did::NotKept(Why::Private));
    check("200\ncache-control: immutable, max-age=0", 1, Did::Validated);
}

#[test]
fn s4_2_1_a_lifetime_that_cannot_be_read_is_none() {
    for control in [
        "max-age=a",
        "max-age=1a",
        "max-age=3600.0",
        "max-age=-3600",
        "max-age='3600'",
        "max-age",
        "max-age= 9",
        "max-age =9",
    ] {
        lifetime(&format!("expires: @30\nlast-modified: @-1000\ncache-control: {control}"), 0);
    }
}

#[test]
fn s4_2_2_a_lifetime_may_be_guessed_from_the_last_change() {
    check("200\nlast-modified: @-1000", 99, Did::Reused);
    check("200\nlast-modified: @-1000", 100, Did::Validated);
}

#[test]
fn s4_2_2_there_is_no_guess_where_a_lifetime_is_told() {
    for lines in [
        "cache-control: max-age=0",
        "cache-control: s-maxage=0",
        "expires: 0",
        "expires: @-1",
        "cache-control: max-age=x",
    ] {
        lifetime(&format!("last-modified: @-100000\n{lines}"), 0);
    }
}

#[test]
fn s4_2_2_a_guess_needs_a_status_that_allows_it_or_public() {
    for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
        check(&format!("{status}\nlast-modified: @-1000"), 1, Did::Reused);
    }
    for status in [201, 202, 403, 502, 503, 504, 599] {
        check(&format!("{status}\nlast-modified: @-1000"), 1, Did::NotKept(Why::Silent));
    }
    check("599\nlast-modified: @-1000\ncache-control: public", 1, Did::Reused);
}

#[test]
fn s4_2_3_the_age_that_is_told_and_the_date_both_count() {
    assert_eq!(kept("200\nage: 30").age(1), 31);
    assert_eq!(kept("200\ndate: @-50").age(1), 51);
    assert_eq!(kept("200\nage: 30\ndate: @-50").age(1), 51);
    assert_eq!(kept("200\nage: 60\ndate: @-50").age(1), 61);
    assert_eq!(kept("200\ndate: @50").age(1), 1);
}

#[test]
fn s4_2_3_an_age_counts_from_when_the_request_was_sent() {
    let stored = keep_after(4, "GET /", "200\nage: 30\ncache-control: max-age=36").unwrap();
    assert_eq!(
        (stored.age(0), stored.meets(1, "GET /"), stored.meets(2, "GET /")),
        (34, Did::Reused, Did::Validated)
    );
}

#[test]
fn s4_2_3_what_was_old_when_it_came_is_stale() {
    check("200\nage: 7200\ncache-control: max-age=3600", 0, Did::Validated);
    check("200\nage: 7200\ndate: @0\nexpires: @3600", 0, Did::Validated);
    check("200\nage: 7200\ndate: @100\nexpires: @3700", 0, Did::Validated);
    check("200\ndate: @-7200\ncache-control: max-age=3600", 0, Did::Validated);
}

#[test]
fn s4_2_4_what_forbids_to_be_stale_never_is() {
    for control in ["no-cache", "must-revalidate, max-age=1", "proxy-revalidate, max-age=1", "s-maxage=1"] {
        let stored =
            kept(&format!("200\ncache-control: {control}, stale-while-revalidate=99, stale-if-error=99"));
        assert_eq!(stored.meets(2, "GET /\ncache-control: max-stale"), Did::Validated, "{control}");
        assert!(!stored.stands_in(2), "{control}");
    }
}

#[test]
fn s4_2_4_what_is_stale_is_served_only_where_somebody_permits_it() {
    let stored = kept(FRESH);
    assert_eq!(stored.meets(11, "GET /"), Did::Validated);
    assert_eq!(stored.meets(11, "GET /\ncache-control: max-stale=1"), Did::Stale);
    assert_eq!(
        kept("200\ncache-control: max-age=10, stale-while-revalidate=5").meets(11, "GET /"),
        Did::Refreshing
    );
    assert!(stored.stands_in(11), "the route permits it");
    let terms = reuse::Terms { request_directives: true, while_revalidate: 0, if_error: 0 };
    assert!(!reuse::may_serve_on_error(&stored.rules, &Request::default(), Wall(NOW.0 + 11), &terms));
}

/// The largest number that stands anywhere in a text, as far as seconds are counted.
fn largest_number(text: &str) -> u64 {
    let runs = text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    runs.map(|run| run.parse::<u64>().unwrap_or(u64::MAX).min(1 << 31)).max().unwrap_or(0)
}

/// Pieces of which a field with directives is made when nobody minds its grammar.
fn mangled() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("max-age"),
        Just("s-maxage"),
        Just("no-store"),
        Just("private"),
        Just("no-cache"),
        Just("public"),
        Just("must-revalidate"),
        Just("must-understand"),
        Just("immutable"),
        Just("="),
        Just(","),
        Just(" "),
        Just(";"),
        Just("\""),
        Just("\\"),
        Just("7"),
        Just("60"),
        Just("-1"),
        Just("x"),
        Just("\t"),
        Just("'"),
    ];
    proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

fn judged(lines: &[(&str, &str)]) -> (Result<(), Why>, Freshness, Response) {
    let mut fields = Fields::default();
    for (name, value) in lines {
        fields
            .append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let told = Response::of(&fields, &[HeaderName::from_static("cdn-cache-control")]);
    let may =
        store::may(&Method::GET, &Fields::default(), StatusCode::OK, &fields, &told, store::Terms::default());
    let times = Times { asked: NOW, answered: NOW };
    (may, Freshness::of(StatusCode::OK, &fields, &told, times, &Heuristic::default()), told)
}

proptest! {
    #[test]
    fn no_field_is_fresher_than_a_number_in_it(control in mangled(), other in mangled()) {
        let (_, freshness, _) = judged(&[("cache-control", &control), ("cache-control", &other)]);
        let most = largest_number(&control).max(largest_number(&other));
        prop_assert!(u64::from(freshness.lifetime) <= most, "{} {}", control, other);
    }

    #[test]
    fn a_restriction_beside_any_rubbish_counts(control in mangled()) {
        let is = |line: &str| judged(&[("cache-control", &control), ("cache-control", line)]);
        let knows = is("x").2.must_understand;
        prop_assert!(knows || is("no-store, max-age=60").0.is_err());
        prop_assert!(is("private, max-age=60").0.is_err());
        prop_assert!(is("no-cache, max-age=60").2.no_cache == super::super::directives::Scope::All);
        let (_, freshness, told) = is("max-age=0");
        prop_assert!(freshness.lifetime == 0 || told.s_maxage != super::super::directives::Told::No);
    }

    #[test]
    fn rubbish_that_holds_a_restriction_is_not_fresher_than_it(before in mangled(), after in mangled()) {
        // A quote may hide what follows it in a well-formed extension; without quotes nothing can.
        let clear = |text: &str| text.replace(['"', '\\'], "");
        let control = format!("{} no-cache {}", clear(&before), clear(&after));
        let (may, freshness, told) = judged(&[("cache-control", &control)]);
        let restricted = may.is_err() || told.no_cache == super::super::directives::Scope::All || freshness.lifetime == 0;
        let is_argument = before.trim_end().ends_with('=');
        prop_assert!(restricted || is_argument, "{}", control);
    }

    #[test]
    fn ages_and_dates_of_any_bytes_make_nothing_younger(
        age in "[ -~]{0,12}", date in "[ -~]{0,32}", expires in "[ -~]{0,32}", passed in 0u64..1000,
    ) {
        let lines = [("cache-control", "max-age=60"), ("age", &*age), ("date", &*date), ("expires", &*expires)];
        let (_, freshness, _) = judged(&lines);
        let at = Wall(NOW.0 + passed);
        prop_assert!(u64::from(freshness.age(at)) >= passed);
        prop_assert!(freshness.stale_for(at).is_some() || passed < 60);
        let (_, freshness, _) = judged(&lines[1..]);
        let is_date = Wall::of_date(expires.as_bytes()).is_some();
        prop_assert!(freshness.lifetime == 0 || is_date, "{}", expires);
    }
}
