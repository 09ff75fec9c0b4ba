//! The cache: what answers again, for whom, and what becomes of it when the application changes, is busy or fails.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tidegate_testkit::{Answer, Gate, Origin, Visit, ask, ask_on, connect, until};

use crate::upstreams::timeline;
use crate::{app, gate};

/// An application that answers each request with what this says, a head and a body.
pub(crate) fn origin(
    reply: impl Fn(&mut Visit, usize) -> (String, String) + Send + Sync + 'static,
) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::scripted(move |visit| {
        visit.read_body()?;
        let (head, body) = reply(visit, count.fetch_add(1, SeqCst));
        let line = if head.starts_with("HTTP") { "" } else { "HTTP/1.1 200 OK\r\n" };
        let quiet = visit.head.starts_with("HEAD") || head.starts_with("HTTP/1.1 304");
        let body_sent = if quiet { "" } else { &*body };
        visit.say(format!("{line}{head}Content-Length: {}\r\n\r\n{body_sent}", body.len()))
    })
}

/// One that tells how often it was asked, under these fields.
fn counting(fields: &'static str) -> Origin {
    origin(move |_, count| (fields.to_owned(), format!("answer {count}")))
}

pub(crate) fn cached(name: &str, origin: &Origin, cache: &str) -> Gate {
    gate(name, &app(&[origin.address], "", &format!("cache = {cache}")))
}

/// One whose tenants are named by a header.
fn tenanted(name: &str, origin: &Origin, cache: &str) -> Gate {
    let config = app(&[origin.address], "", &format!("cache = {cache}"));
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let tenants = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n";
    Gate::start_listening(crate::BINARY, name, listen, &format!("{config}{tenants}"))
}

pub(crate) fn status(answer: &Answer) -> &str {
    answer.header("cache-status")
}

/// Asks, and expects this body and that `Cache-Status` begins so.
pub(crate) fn check(gate: &Gate, line: &str, fields: &str, body: &str, begins: &str) -> Answer {
    let answer = ask(gate.address, line, fields);
    assert!(status(&answer).starts_with(begins), "{line}: {}", answer.head);
    assert_eq!(answer.body, body, "{line} {fields}: {}", answer.head);
    answer
}

pub(crate) const MISS: &str = "tidegate; fwd=uri-miss; fwd-status=200; stored";
pub(crate) const HIT: &str = "tidegate; hit; ttl=";

#[test]
fn what_was_answered_once_is_answered_again_without_the_application() {
    let origin = counting("Cache-Control: max-age=60\r\nX-Own: kept\r\n");
    let gate = cached("cache-hit", &origin, "{}");
    let missed = check(&gate, "GET /a?x=1", "", "answer 0", MISS);
    until("it is kept", || status(&ask(gate.address, "GET /a?x=1", "")).starts_with(HIT));
    let hit = check(&gate, "GET /a?x=1", "", "answer 0", HIT);
    assert_eq!((hit.header("x-own"), hit.header("age").parse::<u64>().is_ok()), ("kept", true));
    assert_ne!(hit.header("x-request-id"), missed.header("x-request-id"));
    assert_eq!(origin.recorded().len(), 1);
    check(&gate, "GET /a?x=2", "", "answer 1", MISS);
    assert!(timeline(&gate, &missed).contains("cache: miss, because of stored"));
    assert!(timeline(&gate, &hit).contains("cache: hit"));
    assert!(!timeline(&gate, &hit).contains("gate"), "it was at no gate");
}

#[test]
fn the_order_of_parameters_makes_no_other_answer_and_their_values_do() {
    let origin = counting("Cache-Control: max-age=60\r\n");
    let gate = cached("cache-query", &origin, "{ query_ignore = [\"utm_*\"] }");
    check(&gate, "GET /a?b=1&a=2&utm_source=x", "", "answer 0", MISS);
    check(&gate, "GET /a?a=2&b=1", "", "answer 0", "tidegate; ");
    check(&gate, "GET /a?a=2&b=2", "", "answer 1", MISS);
}

#[test]
fn no_tenant_gets_what_another_one_was_answered_unless_the_content_is_public() {
    let origin = origin(|visit, _| {
        let tenant = visit.field("tidegate-tenant").unwrap_or_default();
        ("Cache-Control: public, max-age=60\r\n".to_owned(), format!("for {tenant}"))
    });
    let own = tenanted("cache-tenants", &origin, "{}");
    for tenant in ["acme", "umbrella", "acme"] {
        check(&own, "GET /a", &format!("X-Tenant: {tenant}\r\n"), &format!("for {tenant}"), "tidegate; ");
    }
    assert_eq!(origin.recorded().len(), 2);
    let public = tenanted("cache-public", &origin, "{ public = true }");
    check(&public, "GET /a", "X-Tenant: acme\r\n", "for acme", MISS);
    check(&public, "GET /a", "X-Tenant: umbrella\r\n", "for acme", "tidegate; ");
    assert_eq!(origin.recorded().len(), 3);
}

#[test]
fn many_who_ask_at_once_make_one_request_and_read_its_answer_as_it_comes() {
    const MANY: usize = 40;
    let (reading, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let seen = Arc::clone(&go_on);
    let origin = Origin::scripted(move |visit| {
        visit.say("HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 10\r\n\r\nfirst")?;
        until("all have the first piece", || seen.load(SeqCst));
        visit.say("-last")
    });
    let gate = cached("cache-collapse", &origin, "{}");
    let clients: Vec<_> = (0..MANY)
        .map(|_| {
            let (address, reading) = (gate.address, Arc::clone(&reading));
            std::thread::spawn(move || {
                let mut stream = connect(address);
                stream.write_all(b"GET /big HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
                let mut got = Vec::new();
                while !got.ends_with(b"first") {
                    let mut byte = [0];
                    assert_eq!(stream.read(&mut byte).unwrap(), 1);
                    got.push(byte[0]);
                }
                reading.fetch_add(1, SeqCst);
                stream.read_to_end(&mut got).unwrap();
                String::from_utf8(got).unwrap()
            })
        })
        .collect();
    until("each reads what has come", || reading.load(SeqCst) == MANY);
    go_on.store(true, SeqCst);
    let answers: Vec<String> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.ends_with("\r\n\r\nfirst-last")));
    let collapsed = answers.iter().filter(|answer| answer.contains("tidegate; fwd=uri-miss; collapsed"));
    assert_eq!((collapsed.count(), origin.recorded().len()), (MANY - 1, 1));
}

#[test]
fn who_waits_for_an_answer_that_nobody_else_may_have_asks_alone() {
    let origin = origin(|_, count| {
        (format!("Set-Cookie: session={count}\r\nCache-Control: max-age=60\r\n"), String::new())
    });
    let gate = cached("cache-alone", &origin, "{}");
    let asking: Vec<_> = (0..10)
        .map(|_| {
            let address = gate.address;
            std::thread::spawn(move || ask(address, "GET /login", "").header("set-cookie").to_owned())
        })
        .collect();
    let cookies: std::collections::HashSet<String> =
        asking.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!((cookies.len(), origin.recorded().len()), (10, 10));
}

#[test]
fn what_is_stale_is_validated_and_stays_when_nothing_has_changed() {
    let origin = origin(|visit, count| match visit.field("if-none-match").as_deref() {
        Some("\"one\"") => (
            "HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nX-New: yes\r\n".to_owned(),
            String::new(),
        ),
        // It is as old as it may be when it comes.
        _ => {
            ("ETag: \"one\"\r\nAge: 9\r\nCache-Control: max-age=9\r\n".to_owned(), format!("answer {count}"))
        }
    });
    let gate = cached("cache-validate", &origin, "{}");
    check(&gate, "GET /a", "", "answer 0", MISS);
    until("it is validated", || ask(gate.address, "GET /a", "").header("x-new") == "yes");
    let hit = check(&gate, "GET /a", "", "answer 0", HIT);
    let age: u64 = hit.header("age").parse().unwrap();
    assert!(age < 9 && origin.recorded().len() == 2, "it counts from the second answer on: {age}");
    let has_it = ask(gate.address, "GET /a", "If-None-Match: \"one\"\r\n");
    assert_eq!((has_it.status, &*has_it.body, has_it.header("etag")), (304, "", "\"one\""));
    assert_eq!(origin.recorded().len(), 2);
}

#[test]
fn answers_that_vary_are_kept_apart() {
    let origin = origin(|visit, _| {
        let language = visit.field("accept-language").unwrap_or_default();
        ("Vary: Accept-Language\r\nCache-Control: max-age=60\r\n".to_owned(), language)
    });
    let gate = cached("cache-vary", &origin, "{}");
    for language in ["de", "en", "de", "en"] {
        check(&gate, "GET /a", &format!("Accept-Language: {language}\r\n"), language, "tidegate; ");
    }
    assert_eq!(origin.recorded().len(), 2);
}

#[test]
fn a_stale_answer_is_served_at_once_and_refreshed_behind() {
    let origin = origin(|_, count| {
        let age = if count == 0 { 9 } else { 0 };
        let fields = format!("Age: {age}\r\nCache-Control: max-age=9, stale-while-revalidate=60\r\n");
        (fields, format!("answer {count}"))
    });
    let gate = cached("cache-behind", &origin, "{}");
    check(&gate, "GET /a", "", "answer 0", MISS);
    until("the stale one is served", || {
        status(&ask(gate.address, "GET /a", "")).starts_with("tidegate; hit")
    });
    until("it is refreshed", || ask(gate.address, "GET /a", "").body == "answer 1");
    check(&gate, "GET /a", "", "answer 1", HIT);
    assert_eq!(origin.recorded().len(), 2);
}

#[test]
fn a_stale_answer_stands_in_while_the_application_is_down_and_no_longer_than_it_may() {
    let origin = origin(|visit, _| {
        let bound = if visit.path() == "/bounded" { ", stale-if-error=0" } else { "" };
        (format!("ETag: \"a\"\r\nAge: 9\r\nCache-Control: max-age=9{bound}\r\n"), "old".to_owned())
    });
    let gate = cached("cache-down", &origin, "{ stale_if_error = \"10m\" }");
    for path in ["/a", "/bounded"] {
        check(&gate, &format!("GET {path}"), "", "old", MISS);
    }
    origin.stop();
    let stale = check(&gate, "GET /a", "", "old", "tidegate; hit; ttl=");
    assert!(status(&stale).ends_with("; detail=stale-if-error"), "{}", stale.head);
    assert!(timeline(&gate, &stale).contains("cache: stale, because of error"));
    assert_eq!(ask(gate.address, "GET /bounded", "").status, 502);
}

#[test]
fn a_stale_answer_stands_in_for_one_that_failed() {
    let origin = origin(|_, count| match count {
        0 => ("Age: 9\r\nCache-Control: max-age=9\r\n".to_owned(), "old".to_owned()),
        _ => ("HTTP/1.1 500 Oops\r\n".to_owned(), "trace".to_owned()),
    });
    let gate = cached("cache-500", &origin, "{}");
    check(&gate, "GET /a", "", "old", MISS);
    check(&gate, "GET /a", "", "old", "tidegate; hit; ttl=");
    assert_eq!(origin.recorded().len(), 2);
}

#[test]
fn head_and_parts_are_answered_from_what_get_has_stored() {
    let origin = counting("ETag: \"a\"\r\nCache-Control: max-age=60\r\n");
    let gate = cached("cache-parts", &origin, "{}");
    check(&gate, "GET /a", "", "answer 0", MISS);
    let mut stream = connect(gate.address);
    stream.write_all(b"HEAD /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut head = String::new();
    stream.read_to_string(&mut head).unwrap();
    let head = head.to_ascii_lowercase();
    assert!(
        head.contains("content-length: 8\r\n") && head.contains(HIT) && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let part = check(&gate, "GET /a", "Range: bytes=2-4\r\n", "swe", HIT);
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 2-4/8"));
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn a_write_takes_away_what_it_has_changed() {
    let origin = origin(|visit, count| match visit.head.split(' ').next() {
        Some("POST") => ("Content-Location: /other\r\n".to_owned(), String::new()),
        Some("DELETE") => ("HTTP/1.1 404 Not Found\r\n".to_owned(), String::new()),
        _ => ("Cache-Control: max-age=60\r\n".to_owned(), format!("answer {count}")),
    });
    let gate = cached("cache-write", &origin, "{}");
    for (place, path) in ["/a", "/other", "/third"].iter().enumerate() {
        check(&gate, &format!("GET {path}"), "", &format!("answer {place}"), MISS);
    }
    let written = ask(gate.address, "POST /a", "Content-Length: 0\r\n");
    assert_eq!(status(&written), "tidegate; fwd=method; fwd-status=200");
    check(&gate, "GET /a", "", "answer 4", MISS);
    check(&gate, "GET /other", "", "answer 5", MISS);
    let failed = ask(gate.address, "DELETE /third", "Content-Length: 0\r\n");
    assert_eq!(failed.status, 404);
    check(&gate, "GET /third", "", "answer 2", HIT);
}

#[test]
fn what_is_made_for_one_client_is_never_kept() {
    for (name, fields, why) in [
        ("cookie", "Set-Cookie: a=b\r\nCache-Control: max-age=60\r\n", "set-cookie"),
        ("private", "Cache-Control: private, max-age=60\r\n", "private"),
        ("no-store", "Cache-Control: no-store\r\n", "no-store"),
        ("any", "Vary: *\r\nCache-Control: max-age=60\r\n", "vary-any"),
    ] {
        let origin = counting(fields);
        let gate = cached(&format!("cache-{name}"), &origin, "{}");
        for count in 0..3 {
            let answer = check(&gate, "GET /a", "", &format!("answer {count}"), "tidegate; fwd=");
            assert!(status(&answer).ends_with(&format!("; detail={why}")), "{}", answer.head);
        }
    }
    let origin = counting("Cache-Control: max-age=60\r\n");
    let gate = cached("cache-credentials", &origin, "{}");
    for count in 0..2 {
        check(&gate, "GET /a", "Authorization: Basic eDp5\r\n", &format!("answer {count}"), "tidegate; fwd=");
    }
}

#[test]
fn what_is_kept_outlives_a_reload() {
    let origin = counting("Cache-Control: max-age=60\r\n");
    let config = app(&[origin.address], "", "cache = {}");
    let gate = gate("cache-reload", &config);
    check(&gate, "GET /a", "", "answer 0", MISS);
    gate.rewrite(&format!("{config}\nresponse_headers = {{ set = {{ x-new = \"yes\" }} }}\n"));
    let mut number = 0;
    until("the other configuration is in force", || {
        number += 1;
        ask(gate.address, &format!("GET /{number}"), "").header("x-new") == "yes"
    });
    check(&gate, "GET /a", "", "answer 0", HIT);
}

#[test]
fn a_connection_goes_on_after_hits_and_misses_alike() {
    let origin = counting("Cache-Control: max-age=60\r\n");
    let gate = cached("cache-alive", &origin, "{}");
    let mut stream = connect(gate.address);
    for path in ["/a", "/b", "/a", "/b", "/a"] {
        assert_eq!(ask_on(&mut stream, &format!("GET {path}"), "").status, 200);
    }
    assert_eq!(origin.recorded().len(), 2);
}

#[test]
fn what_is_stale_stands_in_when_load_leaves_out_the_route_or_the_gate_is_full() {
    let (hold, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (holding, waiting) = (Arc::clone(&hold), Arc::clone(&held));
    let origin = origin(move |visit, _| {
        if visit.path() == "/slow" {
            waiting.fetch_add(1, SeqCst);
            until("it may go on", || holding.load(SeqCst));
        }
        ("Age: 9\r\nCache-Control: max-age=9\r\n".to_owned(), "old".to_owned())
    });
    let upstream = "concurrency = 1\nwaiting = { limit = 0 }";
    let gate = gate("cache-full", &app(&[origin.address], upstream, "cache = { stale_if_error = \"10m\" }"));
    check(&gate, "GET /a", "", "old", MISS);
    let address = gate.address;
    let slow = std::thread::spawn(move || ask(address, "GET /slow", ""));
    until("the only slot is taken", || held.load(SeqCst) == 1);
    let stale = check(&gate, "GET /a", "", "old", "tidegate; hit; ttl=");
    assert!(status(&stale).ends_with("; detail=stale-if-error"));
    assert_eq!(ask(gate.address, "GET /b", "").status, 503, "nothing is stored of it");
    hold.store(true, SeqCst);
    assert_eq!(slow.join().unwrap().status, 200);
}

#[test]
fn what_comes_from_a_further_rung_is_not_kept() {
    let spare = counting("Cache-Control: max-age=60\r\n");
    let config = format!(
        "[upstream.app]\nendpoints = [\"{}\"]\n[upstream.spare]\nendpoints = [\"{}\"]\n\
         [[route]]\nname = \"all\"\nupstream = \"app\"\nfallback = [{{ upstream = \"spare\" }}]\ncache = {{}}\n",
        tidegate_testkit::nobody(),
        spare.address
    );
    let gate = gate("cache-rung", &config);
    for count in 0..2 {
        let answer = check(&gate, "GET /a", "", &format!("answer {count}"), "tidegate; fwd=uri-miss");
        assert!(status(&answer).ends_with("; detail=part"), "{}", answer.head);
    }
}

#[test]
fn a_failure_is_shared_by_those_who_ask_meanwhile_and_kept_only_as_long_as_the_route_says() {
    let origin = origin(|_, count| ("HTTP/1.1 404 Not Found\r\n".to_owned(), format!("answer {count}")));
    let gate = cached("cache-negative", &origin, "{ error_ttl = \"1m\" }");
    check(&gate, "GET /a", "", "answer 0", "tidegate; fwd=uri-miss; fwd-status=404; stored");
    check(&gate, "GET /a", "", "answer 0", HIT);
    let plain = cached("cache-positive", &origin, "{}");
    for count in 1..3 {
        check(&plain, "GET /a", "", &format!("answer {count}"), "tidegate; fwd=");
    }
}

#[test]
fn an_application_purges_by_the_answer_to_a_write() {
    let origin = origin(|visit, count| match visit.head.split(' ').next() {
        Some("POST") => ("Tidegate-Purge: \"tag:items\", \"path:/soft\";soft\r\n".to_owned(), String::new()),
        _ => ("Cache-Tag: Items\r\nCache-Control: max-age=60\r\n".to_owned(), format!("answer {count}")),
    });
    let gate = tenanted("cache-header-purge", &origin, "{}");
    let (acme, other) = ("X-Tenant: acme\r\n", "X-Tenant: other\r\n");
    check(&gate, "GET /list", acme, "answer 0", MISS);
    check(&gate, "GET /list", other, "answer 1", MISS);
    let written = ask(gate.address, "POST /items", &format!("{acme}Content-Length: 0\r\n"));
    assert_eq!((written.status, written.header("tidegate-purge")), (200, ""), "{}", written.head);
    check(&gate, "GET /list", acme, "answer 3", MISS);
    check(&gate, "GET /list", other, "answer 1", HIT);
}

#[test]
fn a_write_on_a_route_that_is_not_cached_counts_for_one_that_is() {
    let origin = counting("Cache-Control: max-age=60\r\n");
    let config = format!(
        "[upstream.app]\nendpoints = [\"{}\"]\n[[route]]\nname = \"read\"\nmethods = [\"GET\"]\nupstream = \"app\"\n\
         cache = {{}}\n[[route]]\nname = \"write\"\nmethods = [\"PUT\"]\nupstream = \"app\"\n",
        origin.address
    );
    let gate = gate("cache-two-routes", &config);
    check(&gate, "GET /a?x", "", "answer 0", MISS);
    assert_eq!(ask(gate.address, "PUT /a", "Content-Length: 0\r\n").status, 200);
    check(&gate, "GET /a?x", "", "answer 2", MISS);
}

/// A request to the control API with this token: status and body.
pub(crate) fn say(gate: &Gate, token: &str, line: &str, body: &str) -> (u16, String) {
    let request = format!(
        "{line} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = tidegate_testkit::send(gate.control, request.as_bytes());
    crate::described::holds(line, &answer);
    let (head, answered) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    crate::described::takes(line, status, body);
    (status, answered.to_owned())
}

/// One whose tenants are named by a header and whose tokens are called as their scopes are.
pub(crate) fn steered(name: &str, origin: &Origin) -> Gate {
    steered_with(name, origin, "")
}

/// The same with these lines of `[cache]`.
pub(crate) fn steered_with(name: &str, origin: &Origin, cache: &str) -> Gate {
    let tokens = ["purge", "write"].map(|scope| {
        let digest = tidegate_model::credential::Digest::of(scope.as_bytes()).0;
        let digest = digest.map(|byte| format!("{byte:02x}")).concat();
        format!("{{ name = \"the-{scope}-token\", sha256 = \"{digest}\", scopes = [\"{scope}\"] }}")
    });
    let config = format!(
        "workers = 2\n[listen]\nhttp = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]\n[control]\n\
         listen = [\"127.0.0.1:0\"]\ntokens = [{}]\n[tenants]\nfrom = [{{ header = \"x-tenant\" }}]\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[[route]]\nname = \"all\"\nupstream = \"app\"\n\
         cache = {{ stale_if_error = \"10m\" }}\n[cache]\n{cache}\n",
        tokens.join(", "),
        origin.address
    );
    Gate::start_whole(crate::BINARY, name, &[], &config)
}

#[test]
fn what_is_purged_by_each_of_its_names_is_not_served_again() {
    let origin = counting("Cache-Tag: t\r\nCache-Control: max-age=60\r\n");
    let gate = steered("cache-purge", &origin);
    let acme = "X-Tenant: acme\r\n";
    let (mut count, orders) = (
        0,
        [
            r#"{"url": "http://test/v1/x?whatever"}"#,
            r#"{"url": "http://test/v1/x", "tenant": "acme"}"#,
            r#"{"prefix": "http://test/v1/"}"#,
            r#"{"host": "TEST"}"#,
            r#"{"prefix": "http://test/v1", "tenant": "acme"}"#,
            r#"{"host": "test", "tenant": "acme"}"#,
            r#"{"tag": "T"}"#,
            r#"{"tag": "t", "tenant": "acme"}"#,
            r#"{"tenant": "acme"}"#,
            r#"{"everything": true}"#,
        ],
    );
    for order in orders {
        check(&gate, "GET /v1/x", acme, &format!("answer {count}"), "tidegate; ");
        until("it is kept", || status(&ask(gate.address, "GET /v1/x", acme)).starts_with(HIT));
        assert_eq!(say(&gate, "purge", "POST /purge", order).0, 200, "{order}");
        count += 1;
        check(&gate, "GET /v1/x", acme, &format!("answer {count}"), MISS);
    }
    for other in [
        r#"{"tenant": "other"}"#,
        r#"{"prefix": "http://test/v"}"#,
        r#"{"tag": "u"}"#,
        r#"{"prefix": "http://test/v1", "tenant": "other"}"#,
        r#"{"host": "test", "tenant": "other"}"#,
    ] {
        assert_eq!(say(&gate, "purge", "POST /purge", other).0, 200, "{other}");
        check(&gate, "GET /v1/x", acme, &format!("answer {count}"), HIT);
    }
    assert_eq!(say(&gate, "write", "POST /purge", r#"{"everything": true}"#).0, 403);
    assert_eq!(say(&gate, "purge", "POST /purge", "{}").0, 400);
    assert!(
        gate.said().contains("cache purged") && gate.said().contains("the-purge-token"),
        "{}",
        gate.said()
    );
    assert_eq!(gate.metric("tidegate_cache_purged_total"), Some(15.0));
}

#[test]
fn what_is_purged_softly_still_stands_in() {
    let origin = counting("Cache-Control: max-age=60\r\n");
    let gate = steered("cache-soft", &origin);
    let acme = "X-Tenant: acme\r\n";
    check(&gate, "GET /a", acme, "answer 0", MISS);
    until("it is kept", || status(&ask(gate.address, "GET /a", acme)).starts_with(HIT));
    let out = std::process::Command::new(crate::BINARY)
        .args([
            "purge",
            "--tenant",
            "acme",
            "--soft",
            "--token",
            "purge",
            "--control",
            &gate.control.to_string(),
        ])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    origin.stop();
    let stale = check(&gate, "GET /a", acme, "answer 0", "tidegate; hit; ttl=");
    assert!(status(&stale).ends_with("; detail=stale-if-error"), "{}", stale.head);
}

#[test]
fn what_is_stored_can_be_looked_at_and_is_counted() {
    let origin = counting("Cache-Control: max-age=60\r\nX-Own: yes\r\n");
    let gate = steered("cache-inspect", &origin);
    let acme = "X-Tenant: acme\r\n";
    check(&gate, "GET /a?x=1", acme, "answer 0", MISS);
    until("it is kept", || status(&ask(gate.address, "GET /a?x=1", acme)).starts_with(HIT));
    let inspect = |arguments: &[&str]| {
        let control = gate.control.to_string();
        let out = std::process::Command::new(crate::BINARY)
            .args(["cache", "inspect", "--control", &control])
            .args(arguments)
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap_or_default()
    };
    let told = inspect(&["http://test/a?x=1", "--tenant", "acme"]);
    assert_eq!(
        (&told["stored"], &told["content_bytes"], &told["fresh"]),
        (&true.into(), &8.into(), &true.into())
    );
    assert_eq!(inspect(&["http://test/a?x=1", "--tenant", "other"])["stored"], false);
    assert!(inspect(&["http://test/a?x=1"]).is_null(), "a tenant is needed");
    assert_eq!(gate.metric("tidegate_cache_requests_total{route=\"all\",outcome=\"miss\"}"), Some(1.0));
    assert!(gate.metric("tidegate_cache_requests_total{route=\"all\",outcome=\"hit\"}") >= Some(1.0));
    assert_eq!(gate.metric("tidegate_cache_answers"), Some(1.0));
    let content = 8.0;
    assert!(gate.metric("tidegate_cache_bytes") > Some(content), "what is beside it counts, too");
    let state: serde_json::Value = serde_json::from_str(&crate::upstreams::told(&gate, "/status")).unwrap();
    assert_eq!(state["cache"]["answers"], 1);
}
