//! RFC 9111 sections 5.1, 5.3 and 5.4: `Age`, `Expires` and `Pragma`.

use super::*;

fn aged(lines: &str, expected: u32) {
    assert_eq!(kept(&format!("200\ncache-control: max-age=3600\n{lines}")).age(0), expected, "{lines}");
}

#[test]
fn s5_1_the_first_of_several_ages_counts() {
    aged("age: 7200, 0", 7200);
    aged("age: 0, 7200", 0);
    aged("age: 7200\nage: 0", 7200);
    aged("age: 0\nage: 7200", 0);
    aged("age: 3600\nage: 3600", 3600);
}

#[test]
fn s5_1_an_age_that_is_no_number_is_ignored() {
    for age in ["abc", "-7200", "7200.0", "7200;a=b", "", "1 2", "0x10"] {
        aged(&format!("age: {age}"), 0);
    }
}

#[test]
fn s5_1_an_age_too_large_to_count_is_old() {
    for age in ["2147483647", "2147483648", "99999999999999999999"] {
        check(&format!("200\ncache-control: max-age=3600\nage: {age}"), 0, Did::Validated);
    }
}

#[test]
fn s5_3_what_is_no_date_has_expired() {
    for expires in [
        "0",
        "-1",
        "",
        "never",
        "Thu, 18 Aug 2050 02:01:18 UTC",
        "Thu, 18 Aug 2050 02:01:18 AEST",
        "Thu, 18 Aug 50 02:01:18 GMT",
        "Thu 18 Aug 2050 02:01:18 GMT",
        "Thu, 18  Aug 2050 02:01:18 GMT",
        "Thu, 18-Aug-2050 02:01:18 GMT",
        "Thu, 18 Aug 2050 02.01.18 GMT",
        "Thu, 18 Aug 2050 2:01:18 GMT",
    ] {
        check(&format!("200\nexpires: {expires}\nlast-modified: @-100000"), 0, Did::Validated);
    }
}

#[test]
fn s5_3_all_formats_of_a_date_are_read_and_far_ones_too() {
    for expires in [
        "Thu, 18 Aug 2050 02:01:18 GMT",
        "Thursday, 18-Aug-50 02:01:18 GMT",
        "Thu Aug  8 02:01:18 2050",
        "THU, 18 aug 2050 02:01:18 gmt",
        "Tue, 19 Jan 2038 14:14:08 GMT",
        "Sun, 21 Nov 9999 04:46:42 GMT",
    ] {
        check(&format!("200\nexpires: {expires}"), 1000, Did::Reused);
    }
}

#[test]
fn s5_3_expires_says_nothing_beside_max_age_or_s_maxage() {
    for control in ["max-age=10", "s-maxage=10"] {
        check(&format!("200\nexpires: 0\ncache-control: {control}"), 9, Did::Reused);
        check(&format!("200\nexpires: @3600\ncache-control: {control}"), 10, Did::Validated);
    }
}

#[test]
fn s5_4_pragma_of_a_request_counts_only_without_cache_control() {
    let fresh = "200\ncache-control: max-age=100";
    play("GET /", fresh, 1, "GET /\npragma: no-cache", Did::Validated);
    play("GET /", fresh, 1, "GET /\npragma: foo", Did::Reused);
    play("GET /", fresh, 1, "GET /\npragma: no-cache\ncache-control: max-age=50", Did::Reused);
}

#[test]
fn s5_4_pragma_of_a_response_says_nothing() {
    check("200\ncache-control: max-age=100\npragma: no-cache", 1, Did::Reused);
}
