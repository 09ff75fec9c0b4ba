//! What RFC 9111 asks of a cache beyond its rules: that they are kept on the way of a whole exchange.

use std::sync::Mutex;

use tidegate_testkit::{Answer, Gate, Origin, ask, until};

use crate::cache::{HIT, MISS, cached, check, origin, status};

fn body(text: &str) -> String {
    text.to_owned()
}

/// Asks until the answer comes from the cache.
fn hit(gate: &Gate, line: &str, fields: &str) -> Answer {
    let mut answer = None;
    until("it comes from the cache", || {
        let got = ask(gate.address, line, fields);
        let is = status(&got).starts_with(HIT);
        answer = Some(got);
        is
    });
    answer.expect("it was asked for")
}

#[test]
fn fields_that_are_not_kept_reach_whoever_asked_and_nobody_else() {
    let origin = origin(|_, _| {
        let control = "Cache-Control: max-age=60, no-cache=\"set-cookie, x-hint\", private=\"x-user\"\r\n";
        (format!("{control}Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Hint: 3\r\nX-User: 4\r\n"), body("whole"))
    });
    let gate = cached("rules-own-fields", &origin, "{}");
    let first = check(&gate, "GET /a", "", "whole", MISS);
    let own = ["set-cookie", "x-hint", "x-user"];
    assert_eq!(own.map(|name| first.header(name)), ["a=1", "3", "4"], "{}", first.head);
    assert!(first.head.contains("b=2"), "{}", first.head);
    let other = hit(&gate, "GET /a", "");
    assert_eq!(own.map(|name| other.header(name)), [""; 3], "{}", other.head);
}

/// One whose answers are as old as they may be, and which says this when it is asked whether they are still good.
fn validated_by(newer: &'static str) -> Origin {
    origin(move |visit, count| match visit.field("if-none-match") {
        Some(_) => (format!("HTTP/1.1 304 Not Modified\r\n{newer}"), String::new()),
        None => (body("ETag: \"a\"\r\nAge: 9\r\nCache-Control: max-age=9\r\n"), format!("answer {count}")),
    })
}

/// Asks until the upstream has confirmed what is stored.
fn confirmed(gate: &Gate) -> Answer {
    let mut answer = None;
    until("it is confirmed", || {
        let got = ask(gate.address, "GET /a", "");
        let is = status(&got).contains("fwd-status=304");
        answer = Some(got);
        is
    });
    answer.expect("it was asked for")
}

#[test]
fn a_cookie_that_comes_with_a_304_is_of_one_client() {
    let origin = validated_by("Set-Cookie: session=1\r\nCache-Control: max-age=60\r\nX-New: yes\r\n");
    let gate = cached("rules-304-cookie", &origin, "{}");
    check(&gate, "GET /a", "", "answer 0", MISS);
    let first = confirmed(&gate);
    assert_eq!(
        (first.header("set-cookie"), first.header("x-new"), &*first.body),
        ("session=1", "yes", "answer 0")
    );
    let other = hit(&gate, "GET /a", "");
    assert_eq!((other.header("set-cookie"), other.header("x-new")), ("", "yes"), "{}", other.head);
}

#[test]
fn what_a_304_makes_private_is_served_to_nobody_else() {
    let origin = validated_by("Cache-Control: private, max-age=60\r\n");
    let gate = cached("rules-304-private", &origin, "{}");
    check(&gate, "GET /a", "", "answer 0", MISS);
    assert_eq!(confirmed(&gate).body, "answer 0");
    check(&gate, "GET /a", "", "answer 2", MISS);
}

#[test]
fn a_304_of_something_else_updates_nothing() {
    let origin = validated_by("ETag: \"b\"\r\nCache-Control: max-age=60\r\nX-New: yes\r\n");
    let gate = cached("rules-304-other", &origin, "{}");
    check(&gate, "GET /a", "", "answer 0", MISS);
    assert_eq!(confirmed(&gate).header("x-new"), "");
    check(&gate, "GET /a", "", "answer 2", MISS);
}

#[test]
fn head_brings_what_is_stored_up_to_date() {
    let origin = origin(|visit, count| {
        let age = if visit.head.starts_with("HEAD") { "X-New: yes\r\n" } else { "Age: 9\r\n" };
        (format!("ETag: \"a\"\r\nCache-Control: max-age=9\r\n{age}"), format!("answer {count}"))
    });
    let gate = cached("rules-head", &origin, "{}");
    check(&gate, "GET /a", "", "answer 0", MISS);
    until("HEAD is asked", || {
        let head = tidegate_testkit::send(
            gate.address,
            b"HEAD /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        );
        head.to_ascii_lowercase().contains("x-new: yes")
    });
    let stored = check(&gate, "GET /a", "", "answer 0", HIT);
    assert_eq!(stored.header("x-new"), "yes", "{}", stored.head);
}

#[test]
fn head_of_something_else_makes_what_is_stored_stale() {
    let origin = origin(|visit, count| {
        let tag = if visit.head.starts_with("HEAD") { "b" } else { "a" };
        (format!("ETag: \"{tag}\"\r\nCache-Control: max-age=60\r\n"), format!("answer {count}"))
    });
    let gate = cached("rules-head-other", &origin, "{ client_directives = true }");
    check(&gate, "GET /a", "", "answer 0", MISS);
    hit(&gate, "GET /a", "");
    let asks = b"HEAD /a HTTP/1.1\r\nHost: test\r\nCache-Control: no-cache\r\nConnection: close\r\n\r\n";
    let head = tidegate_testkit::send(gate.address, asks);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    check(&gate, "GET /a", "", "answer 2", "tidegate; fwd=stale; fwd-status=200; stored");
}

#[test]
fn codings_are_asked_for_in_one_form_and_kept_once_each() {
    let asked = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&asked);
    let origin = origin(move |visit, _| {
        let codings = visit.field("accept-encoding").unwrap_or_default();
        seen.lock().unwrap().push(codings.clone());
        (body("Vary: Accept-Encoding\r\nCache-Control: max-age=60\r\n"), codings)
    });
    let gate = cached("rules-codings", &origin, "{}");
    for (told, form) in [
        ("gzip, br", "br, gzip"),
        ("br,gzip", "br, gzip"),
        ("BR;q=1.0, x-gzip, new", "br, gzip"),
        ("gzip", "gzip"),
        ("gzip;q=0.3", "gzip"),
    ] {
        check(&gate, "GET /a", &format!("Accept-Encoding: {told}\r\n"), form, "tidegate; ");
    }
    assert_eq!(*asked.lock().unwrap(), ["br, gzip", "gzip"]);
}

#[test]
fn a_default_answer_without_vary_is_not_served_to_those_who_choose() {
    let origin = origin(|visit, _| match visit.field("accept-language") {
        Some(language) => (body("Vary: Accept-Language\r\nCache-Control: max-age=60\r\n"), language),
        None => (body("Cache-Control: max-age=60\r\n"), body("default")),
    });
    let gate = cached("rules-default", &origin, "{}");
    check(&gate, "GET /a", "Accept-Language: de\r\n", "de", MISS);
    check(&gate, "GET /a", "", "default", "tidegate; ");
    assert_eq!(hit(&gate, "GET /a", "Accept-Language: de\r\n").body, "de");
    check(&gate, "GET /a", "Accept-Language: en\r\n", "en", "tidegate; fwd=vary-miss");
    assert_eq!(hit(&gate, "GET /a", "").body, "default");
}

#[test]
fn a_part_that_nobody_asked_for_is_not_taken_for_the_whole() {
    let origin = origin(|_, count| {
        let head =
            "HTTP/1.1 206 Partial Content\r\nCache-Control: max-age=60\r\nContent-Range: bytes 0-7/100\r\n";
        (body(head), format!("answer {count}"))
    });
    let gate = cached("rules-part", &origin, "{}");
    for count in 0..2 {
        let part = check(&gate, "GET /a", "", &format!("answer {count}"), "tidegate; fwd=uri-miss");
        assert_eq!(part.status, 206);
        assert!(status(&part).ends_with("; detail=part"), "{}", part.head);
    }
}

#[test]
fn what_caches_before_said_stays_in_front() {
    let origin = origin(|_, _| {
        (
            body("Cache-Status: far; hit\r\nCache-Status: near; fwd=miss\r\nCache-Control: max-age=60\r\n"),
            body("x"),
        )
    });
    let gate = cached("rules-status", &origin, "{}");
    let before = "far; hit, near; fwd=miss, tidegate; ";
    check(&gate, "GET /a", "", "x", before);
    until("it is kept", || {
        status(&ask(gate.address, "GET /a", "")).starts_with(&format!("{before}hit; ttl="))
    });
}

#[test]
fn must_revalidate_is_an_error_while_the_upstream_is_away() {
    let origin = origin(|_, _| {
        (body("ETag: \"a\"\r\nAge: 9\r\nCache-Control: max-age=9, must-revalidate\r\n"), body("old"))
    });
    let gate = cached(
        "rules-must-revalidate",
        &origin,
        "{ stale_if_error = \"10m\", stale_while_revalidate = \"10m\" }",
    );
    check(&gate, "GET /a", "", "old", MISS);
    origin.stop();
    assert_eq!(ask(gate.address, "GET /a", "").status, 502);
}

#[test]
fn a_write_takes_away_what_other_headers_in_the_key_have_too() {
    let origin = origin(|visit, count| match visit.head.split(' ').next() {
        Some("PUT") => (String::new(), String::new()),
        _ => (body("Cache-Control: max-age=60\r\n"), format!("answer {count}")),
    });
    let gate = cached("rules-write", &origin, "{ headers = [\"x-class\"] }");
    check(&gate, "GET /a", "X-Class: phone\r\n", "answer 0", MISS);
    hit(&gate, "GET /a", "X-Class: phone\r\n");
    assert_eq!(ask(gate.address, "PUT /a", "X-Class: desk\r\nContent-Length: 0\r\n").status, 200);
    check(&gate, "GET /a", "X-Class: phone\r\n", "answer 2", MISS);
}

#[test]
fn directives_pass_through_to_the_client_and_to_the_upstream() {
    let origin = origin(|visit, _| {
        let asked = visit.field("cache-control").unwrap_or_default();
        (body("Cache-Control: max-age=60, new=\"x\"\r\nCDN-Cache-Control: max-age=70\r\n"), asked)
    });
    let gate = cached("rules-directives", &origin, "{}");
    check(&gate, "GET /a", "Cache-Control: max-age=5, new\r\n", "max-age=5, new", MISS);
    let stored = hit(&gate, "GET /a", "");
    assert_eq!(stored.header("cache-control"), "max-age=60, new=\"x\"");
    assert_eq!(stored.header("cdn-cache-control"), "max-age=70");
}

#[test]
fn an_answer_that_breaks_off_is_not_kept() {
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        visit.say("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nhalf")?;
        None
    });
    let gate = cached("rules-broken", &origin, "{}");
    for _ in 0..2 {
        let got = tidegate_testkit::send(
            gate.address,
            b"GET /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        );
        assert!(!got.contains("tidegate; hit"), "{got}");
    }
    assert_eq!(origin.recorded().len(), 2);
}
