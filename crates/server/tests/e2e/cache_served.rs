//! What is served of what is stored: as the route says now, to each client its own.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tidegate_testkit::{Answer, Gate, Origin, ask, connect, until};

use crate::cache::{HIT, MISS, cached, check, origin, status};
use crate::{app, gate};

/// Asks until the answer comes from the cache and is like this.
fn hit(gate: &Gate, line: &str, is: impl Fn(&Answer) -> bool) -> Answer {
    let mut answer = None;
    until("it comes from the cache, as it should", || {
        let got = ask(gate.address, line, "");
        let right = status(&got).starts_with(HIT) && is(&got);
        answer = Some(got);
        right
    });
    answer.expect("it was asked for")
}

/// Fields of an answer by this name, one line each.
fn lines(answer: &Answer, name: &str) -> Vec<String> {
    let begins = format!("{name}: ");
    answer.head.lines().filter_map(|line| line.strip_prefix(&*begins)).map(str::to_owned).collect()
}

#[test]
fn what_the_route_changes_is_changed_as_it_says_now_and_once() {
    let origin = origin(|_, _| {
        ("Cache-Control: max-age=60\r\nServer: app\r\nX-Own: app\r\n".to_owned(), "whole".to_owned())
    });
    let config = app(&[origin.address], "", "cache = {}");
    let changing = |value: &str| {
        format!(
            "{config}\nresponse_headers = {{ remove = [\"server\"], set = {{ x-own = \"{value}\" }}, add = {{ x-added = \"{value}\" }} }}\n"
        )
    };
    let gate = gate("served-changed", &changing("one"));
    let missed = check(&gate, "GET /a", "", "whole", MISS);
    for answer in [missed, hit(&gate, "GET /a", |_| true)] {
        let of = ["x-own", "x-added", "server"].map(|name| lines(&answer, name));
        assert_eq!(of, [vec!["one".to_owned()], vec!["one".to_owned()], Vec::new()], "{}", answer.head);
    }
    gate.rewrite(&changing("two"));
    let after = hit(&gate, "GET /a", |answer| answer.header("x-own") == "two");
    assert_eq!(lines(&after, "x-added"), ["two"], "{}", after.head);
    gate.rewrite(&config);
    hit(&gate, "GET /a", |answer| answer.header("x-own") == "app" && answer.header("server") == "app");
    assert_eq!(origin.recorded().len(), 1, "all of it came from what was stored");
}

#[test]
fn what_is_validated_is_changed_once_more_and_asked_about_by_its_own_tag() {
    let origin = origin(|visit, _| match visit.field("if-none-match").as_deref() {
        Some("\"app\"") => {
            let line = "HTTP/1.1 304 Not Modified\r\n";
            (format!("{line}Cache-Control: max-age=60\r\nX-Own: newer\r\n"), String::new())
        }
        asked => {
            assert_eq!(asked, None, "it is asked about by the application's own tag");
            let fields = "ETag: \"app\"\r\nAge: 9\r\nCache-Control: max-age=9\r\nX-Own: app\r\n";
            (fields.to_owned(), "whole".to_owned())
        }
    });
    let changes = "response_headers = { set = { etag = '\"route\"' }, add = { x-own = \"route\" } }";
    let gate = gate("served-validated", &app(&[origin.address], "", &format!("cache = {{}}\n{changes}")));
    check(&gate, "GET /a", "", "whole", MISS);
    let validated = hit(&gate, "GET /a", |answer| lines(answer, "x-own") == ["newer", "route"]);
    assert_eq!(lines(&validated, "etag"), ["\"route\""], "{}", validated.head);
    let has_it = ask(gate.address, "GET /a", "If-None-Match: \"route\"\r\n");
    assert_eq!(has_it.status, 304, "a client knows it by the tag that it was told: {}", has_it.head);
}

#[test]
fn a_cookie_that_the_route_takes_out_keeps_nothing_out_of_the_cache_and_reaches_nobody() {
    let origin = origin(|_, count| {
        let fields = format!("Set-Cookie: app={count}\r\nCache-Control: max-age=60\r\n");
        (fields, format!("answer {count}"))
    });
    let taking = "cache = {}\nresponse_headers = { remove = [\"set-cookie\"], add = { x-a = \"b\" } }";
    let gate = gate("served-cookie", &app(&[origin.address], "", taking));
    let missed = check(&gate, "GET /a", "", "answer 0", MISS);
    let hit = hit(&gate, "GET /a", |_| true);
    assert_eq!((lines(&missed, "set-cookie").len(), lines(&hit, "set-cookie").len()), (0, 0));
    assert_eq!(hit.body, "answer 0");
}

#[test]
fn a_cookie_that_ties_a_client_to_an_endpoint_is_that_clients_alone() {
    let origin = origin(|_, count| ("Cache-Control: max-age=60\r\n".to_owned(), format!("answer {count}")));
    let upstream = "balance = \"ring-hash\"\nhash_on = \"cookie:node\"";
    let gate = gate("served-sticky", &app(&[origin.address], upstream, "cache = {}"));
    let missed = check(&gate, "GET /a", "", "answer 0", MISS);
    assert!(missed.header("set-cookie").starts_with("node="), "{}", missed.head);
    let hit = hit(&gate, "GET /a", |_| true);
    assert_eq!((hit.header("set-cookie"), &*hit.body), ("", "answer 0"));
}

#[test]
fn who_asks_after_a_write_does_not_get_what_was_on_its_way_before() {
    let (open, count) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    let shared = Arc::clone(&open);
    let origin = Origin::scripted(move |visit| {
        visit.read_body()?;
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 6\r\n\r\n";
        if count.fetch_add(1, SeqCst) > 0 {
            return visit.say(format!("{head}newest"));
        }
        visit.say(format!("{head}old"))?;
        until("the rest may come", || shared.load(SeqCst));
        visit.say("old")
    });
    let gate = cached("outdated", &origin, "{}");
    let mut early = connect(gate.address);
    early.write_all(b"GET /x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut came = Vec::new();
    while !came.ends_with(b"\r\n\r\nold") {
        let mut byte = [0];
        early.read_exact(&mut byte).unwrap();
        came.push(byte[0]);
    }
    assert_eq!(ask(gate.address, "POST /x", "Content-Length: 0\r\n").status, 200);
    assert_eq!(ask(gate.address, "GET /x", "").body, "newest");
    open.store(true, SeqCst);
    early.read_to_end(&mut came).unwrap();
    assert!(came.ends_with(b"\r\n\r\noldold"), "who asked before gets what it asked for");
    assert_eq!(ask(gate.address, "GET /x", "").body, "newest");
}
