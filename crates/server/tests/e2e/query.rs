//! QUERY (RFC 10008): safe, and answered from the cache by what its content asks for.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tidegate_testkit::{Answer, Gate, Origin, Visit, ask, connect, read_answer, until};

use crate::cache::{HIT, MISS, status};
use crate::upstreams::timeline;
use crate::{app, gate};

/// A request's content: a line, or chunks without any line's end in them.
fn content(visit: &mut Visit) -> Option<String> {
    let mut chunked = || {
        visit.field("transfer-encoding")?;
        let mut content = String::new();
        while visit.line()? != "0" {
            content += &visit.line()?;
        }
        visit.line()?;
        Some(content)
    };
    match chunked() {
        Some(content) => Some(content),
        None if visit.field("content-length").is_some_and(|length| length != "0") => visit.line(),
        None => Some(String::new()),
    }
}

/// An application that tells how often it was asked, and what for.
fn telling(fields: &'static str) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::scripted(move |visit| {
        let asked = content(visit)?;
        let of = visit.field("content-type").unwrap_or_default();
        let method = visit.head.split(' ').next()?.to_owned();
        let body = format!("{} {method} {of} {asked}", count.fetch_add(1, SeqCst));
        visit.say(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()))
    })
}

fn caching(name: &str, origin: &Origin, cache: &str, route: &str) -> Gate {
    gate(name, &app(&[origin.address], "", &format!("cache = {cache}\n{route}")))
}

/// What follows the request line: these fields, and this content, which ends with a line's end.
fn rest(fields: &str, content: &str) -> String {
    format!("{fields}Content-Length: {}\r\n\r\n{content}", content.len() + 2)
}

/// Asks, and expects this body and that `Cache-Status` begins so.
fn check(gate: &Gate, fields: &str, content: &str, body: &str, begins: &str) -> Answer {
    let answer = ask(gate.address, "QUERY /a", &rest(fields, content));
    assert!(status(&answer).starts_with(begins), "{content}: {}", answer.head);
    assert_eq!(answer.body, body, "{fields}{content}: {}", answer.head);
    answer
}

/// Asks until the answer comes from the cache.
fn hit(gate: &Gate, fields: &str, content: &str) -> Answer {
    let mut answer = None;
    until("it comes from the cache", || {
        let got = ask(gate.address, "QUERY /a", &rest(fields, content));
        let is = status(&got).starts_with(HIT);
        answer = Some(got);
        is
    });
    answer.expect("it was asked for")
}

/// Sends exactly this.
fn send(gate: &Gate, request: &str) -> Answer {
    let mut stream = connect(gate.address);
    stream.write_all(request.as_bytes()).expect("it can be sent");
    read_answer(&mut stream)
}

const JSON: &str = "Content-Type: json\r\n";

#[test]
fn what_was_asked_for_once_is_answered_again_and_nothing_else_is() {
    let origin = telling("Cache-Control: max-age=60\r\n");
    let gate = caching("query-hit", &origin, "{}", "");
    check(&gate, JSON, "one", "0 QUERY json one", MISS);
    assert_eq!(hit(&gate, JSON, "one").body, "0 QUERY json one");
    check(&gate, JSON, "two", "1 QUERY json two", MISS);
    check(&gate, "Content-Type: text\r\n", "one", "2 QUERY text one", MISS);
    check(&gate, &format!("{JSON}Content-Encoding: gzip\r\n"), "one", "3 QUERY json one", MISS);
    let got = ask(gate.address, "GET /a", "");
    assert_eq!((&*got.body, status(&got)), ("4 GET  ", MISS));
    let empty = ask(gate.address, "QUERY /a", "");
    assert_eq!((&*empty.body, status(&empty)), ("5 QUERY  ", MISS), "no content is not no QUERY");
    assert_eq!(hit(&gate, JSON, "one").body, "0 QUERY json one");
    assert_eq!(origin.recorded().len(), 6);
}

#[test]
fn content_is_the_same_however_it_is_framed_and_sent_on_unchanged() {
    let origin = telling("Cache-Control: max-age=60\r\n");
    let gate = caching("query-framed", &origin, "{}", "");
    let chunked = format!("QUERY /a HTTP/1.1\r\nHost: test\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n");
    let first = send(&gate, &format!("{chunked}2\r\non\r\n3\r\ne\r\n\r\n0\r\n\r\n"));
    assert_eq!((&*first.body, status(&first)), ("0 QUERY json one", MISS));
    assert_eq!(hit(&gate, JSON, "one").body, "0 QUERY json one");
    let mut stream = connect(gate.address);
    let waiting = format!("{JSON}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    stream.write_all(format!("QUERY /a HTTP/1.1\r\nHost: test\r\n{waiting}").as_bytes()).unwrap();
    let interim = read_answer(&mut stream);
    assert_eq!(interim.status, 100, "the content is wanted: {}", interim.head);
    stream.write_all(b"two\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).body, "1 QUERY json two");
    assert!(!origin.recorded()[1].head.to_ascii_lowercase().contains("expect:"), "it is there already");
}

#[test]
fn content_that_is_too_long_for_a_key_goes_past_the_cache_unchanged() {
    let origin = telling("Cache-Control: max-age=60\r\n");
    let gate = caching("query-long", &origin, "{ query_content = \"16B\" }", "");
    let long = "x".repeat(40);
    let past = "tidegate; fwd=bypass; fwd-status=200; detail=content";
    for count in 0..2 {
        let answer = check(&gate, JSON, &long, &format!("{count} QUERY json {long}"), past);
        assert!(timeline(&gate, &answer).contains("cache: bypass, because of content"));
    }
    let chunked = format!("QUERY /a HTTP/1.1\r\nHost: test\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n");
    let answer = send(&gate, &format!("{chunked}a\r\n0123456789\r\n8\r\nabcdefgh\r\n0\r\n\r\n"));
    assert_eq!((&*answer.body, status(&answer)), ("2 QUERY json 0123456789abcdefgh", past));
    let off = caching("query-off", &origin, "{ query_content = \"0B\" }", "");
    check(&off, JSON, "one", "3 QUERY json one", "tidegate; fwd=method");
}

#[test]
fn many_who_ask_for_the_same_make_one_request() {
    const MANY: usize = 10;
    let (go_on, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (may, asked) = (Arc::clone(&go_on), Arc::clone(&count));
    let origin = Origin::scripted(move |visit| {
        let content = content(visit)?;
        asked.fetch_add(1, SeqCst);
        until("it may answer", || may.load(SeqCst));
        let length = content.len();
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {length}\r\n\r\n{content}"
        ))
    });
    let gate = caching("query-collapse", &origin, "{}", "");
    let clients: Vec<_> = (0..MANY)
        .map(|number| {
            let (address, content) = (gate.address, if number == 0 { "other" } else { "same" });
            std::thread::spawn(move || ask(address, "QUERY /a", &rest(JSON, content)).body)
        })
        .collect();
    until("both questions are asked", || count.load(SeqCst) == 2);
    go_on.store(true, SeqCst);
    let mut bodies: Vec<String> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    bodies.sort_unstable();
    assert_eq!((&*bodies[0], bodies[1..].iter().all(|body| body == "same")), ("other", true));
    assert_eq!(count.load(SeqCst), 2);
}

#[test]
fn conditions_and_ranges_are_answered_as_of_a_get() {
    let origin = telling("ETag: \"a\"\r\nCache-Control: max-age=60\r\n");
    let gate = caching("query-conditions", &origin, "{}", "");
    check(&gate, JSON, "one", "0 QUERY json one", MISS);
    hit(&gate, JSON, "one");
    let has_it = ask(gate.address, "QUERY /a", &rest(&format!("{JSON}If-None-Match: \"a\"\r\n"), "one"));
    assert_eq!((has_it.status, &*has_it.body), (304, ""), "{}", has_it.head);
    let part = ask(gate.address, "QUERY /a", &rest(&format!("{JSON}Range: bytes=2-6\r\n"), "one"));
    assert_eq!((part.status, &*part.body), (206, "QUERY"), "{}", part.head);
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn a_try_that_breaks_off_is_made_again_with_the_same_content() {
    let broken = AtomicBool::new(false);
    let origin = Origin::scripted(move |visit| {
        let content = content(visit)?;
        if !broken.swap(true, SeqCst) {
            return None;
        }
        let length = content.len();
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {length}\r\n\r\n{content}"
        ))
    });
    for (name, route) in [("query-retry", "cache = {}"), ("query-retry-plain", "")] {
        let config = app(&[origin.address], "", &format!("{route}\nretry = {{ tries = 2 }}"));
        let gate = gate(name, &config);
        let answer = ask(gate.address, "QUERY /a", &rest(JSON, "one"));
        assert_eq!((answer.status, &*answer.body), (200, "one"), "{}", answer.head);
    }
    assert_eq!(origin.recorded().len(), 3, "the first try of all broke off");
}

#[test]
fn a_write_takes_away_what_its_path_was_queried_for_and_a_query_takes_nothing() {
    let origin = telling("Cache-Control: max-age=60\r\n");
    let gate = caching("query-write", &origin, "{}", "");
    check(&gate, JSON, "one", "0 QUERY json one", MISS);
    hit(&gate, JSON, "one");
    check(&gate, JSON, "two", "1 QUERY json two", MISS);
    hit(&gate, JSON, "one");
    assert_eq!(ask(gate.address, "POST /a", &rest("", "x")).body, "2 POST  x");
    check(&gate, JSON, "one", "3 QUERY json one", MISS);
}

#[test]
fn what_is_stale_is_refreshed_behind_with_the_same_content() {
    let count = AtomicUsize::new(0);
    let origin = Origin::scripted(move |visit| {
        let content = content(visit)?;
        let number = count.fetch_add(1, SeqCst);
        let age = if number == 0 { 9 } else { 0 };
        let body = format!("{number} {content}");
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nAge: {age}\r\nCache-Control: max-age=9, stale-while-revalidate=60\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    });
    let gate = caching("query-behind", &origin, "{}", "");
    check(&gate, JSON, "one", "0 one", MISS);
    until("it is refreshed", || hit(&gate, JSON, "one").body == "1 one");
}

#[test]
fn content_that_does_not_come_is_the_clients_fault() {
    let origin = telling("Cache-Control: max-age=60\r\n");
    let gate = caching("query-late", &origin, "{}", "deadline = \"300ms\"");
    let late = send(&gate, "QUERY /a HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\none");
    assert_eq!(late.status, 408, "{}", late.head);
    assert!(origin.recorded().is_empty(), "nobody was asked");
}
