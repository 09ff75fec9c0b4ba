use std::time::Duration;

use tidegate_testkit::{Origin, Reply, ask, nobody, until};

use crate::{app, gate};

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, "hello".into()))
}

#[test]
fn the_upstream_sees_one_clean_request() {
    let origin = ok();
    let gate = gate("clean", &app(&[origin.address], "", ""));
    let answer = ask(
        gate.address,
        "GET /a/./b/../c?q=1",
        "Connection: keep-alive, Hop\r\nHop: gone\r\nTidegate-Tenant: forged\r\nX-Forwarded-For: 9.9.9.9\r\n",
    );
    assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    let head = origin.recorded()[0].head.to_ascii_lowercase();
    assert!(head.starts_with("get /a/c?q=1 http/1.1\r\n"), "{head}");
    for there in [
        "x-forwarded-for: 127.0.0.1\r\n",
        "tidegate-tenant: anonymous\r\n",
        "traceparent: 00-",
        "tidegate-deadline-ms: ",
    ] {
        assert!(head.contains(there), "{there} in {head}");
    }
    for gone in ["hop: gone", "forged", "9.9.9.9"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    assert!(head.contains(&format!("x-request-id: {}\r\n", answer.header("x-request-id"))), "{head}");
}

#[test]
fn refusals_are_problems_or_pages() {
    let origin = ok();
    let gate = gate("refusals", &app(&[origin.address], "", "path = \"/only/\"\nmethods = [\"GET\"]"));
    let missing = ask(gate.address, "GET /else", "");
    assert_eq!((missing.status, missing.header("content-type")), (404, "application/problem+json"));
    assert!(missing.body.contains("\"route.not-found\""), "{}", missing.body);
    let method = ask(gate.address, "POST /only/x", "Content-Length: 0\r\n");
    assert_eq!((method.status, method.header("allow")), (405, "get, head"));
    let page = ask(gate.address, "GET /else", "Accept: text/html\r\n");
    assert!(page.header("content-type").starts_with("text/html"), "{}", page.head);
    assert!(origin.recorded().is_empty());
}

#[test]
fn a_greedy_tenant_is_refused_and_others_are_untouched() {
    let origin = ok();
    let key = |name: &str| {
        tidegate_model::credential::Digest::of(name.as_bytes()).0.map(|byte| format!("{byte:02x}")).concat()
    };
    let tenants = format!(
        "[tenants]\nfrom = [{{ api_key = \"bearer\" }}]\nunknown = \"refuse\"\n[plan.small]\nrate = \"3/h\"\n\
         [tenant.greedy]\nplan = \"small\"\nkeys = [{{ id = \"k\", sha256 = \"{}\" }}]\n\
         [tenant.calm]\nplan = \"small\"\nkeys = [{{ id = \"k\", sha256 = \"{}\" }}, {{ id = \"old\", sha256 = \"{}\", expires = \"2020-01-01\" }}]\n",
        key("greedy-key"),
        key("calm-key"),
        key("old-key")
    );
    let gate = gate("greedy", &format!("{}{tenants}", app(&[origin.address], "", "")));
    let with = |key: &str| ask(gate.address, "GET /", &format!("Authorization: Bearer {key}\r\n"));
    let statuses: Vec<u16> = (0..10).map(|_| with("greedy-key").status).collect();
    // Both cores share the one word: never more than the burst, whichever core each connection came to.
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 3, "{statuses:?}");
    let refused = with("greedy-key");
    assert_eq!(refused.status, 429);
    assert!(
        refused.header("retry-after").parse::<u64>().is_ok_and(|wait| (1..=1400).contains(&wait)),
        "{}",
        refused.head
    );
    let calm = with("calm-key");
    assert_eq!((calm.status, calm.header("ratelimit-policy")), (200, "\"default\";q=3;w=3600"));
    assert!(
        !origin.recorded().iter().any(|request| request.head.contains("calm-key")),
        "our key is not the application's"
    );
    for (key, code) in [("wrong", "credential.invalid"), ("old-key", "credential.expired")] {
        let answer = with(key);
        assert_eq!((answer.status, answer.body.contains(code)), (401, true), "{}", answer.body);
    }
    assert!(ask(gate.address, "GET /", "").body.contains("credential.missing"));
}

#[test]
fn another_endpoint_is_tried_when_one_refuses_connections() {
    let origin = ok();
    let gate = gate("retry", &app(&[nobody(), origin.address], "balance = \"round-robin\"", ""));
    for _ in 0..8 {
        assert_eq!(
            ask(gate.address, "POST /", "Content-Length: 0\r\n").status,
            200,
            "nothing was sent to the first"
        );
    }
}

#[test]
fn an_unsafe_request_that_was_sent_is_not_repeated_and_a_safe_one_is() {
    let origin = Origin::start(|_| Reply::Close);
    let gate = gate("unsafe", &app(&[origin.address], "", "retry = { tries = 3 }"));
    let answer = ask(gate.address, "POST /", "Content-Length: 0\r\n");
    assert_eq!((answer.status, origin.recorded().len()), (502, 1), "{}", answer.body);
    assert_eq!(ask(gate.address, "GET /", "").status, 502);
    assert_eq!(origin.recorded().len(), 4, "three tries of the safe one");
}

#[test]
fn the_breaker_opens_and_the_ladder_has_an_answer() {
    let origin = Origin::start(|path| Reply::Status(if path == "/ok" { 200 } else { 500 }, String::new()));
    let breaker = "breaker = { consecutive = 3, cooldown = \"60s\" }\noutlier = { consecutive = 0 }";
    let plain = gate("breaker", &app(&[origin.address], breaker, ""));
    let statuses: Vec<u16> = (0..5).map(|_| ask(plain.address, "GET /", "").status).collect();
    assert_eq!(statuses, [500, 500, 500, 503, 503]);
    assert!(ask(plain.address, "GET /", "").body.contains("upstream.breaker-open"));
    let ladder = "fallback = [{ respond = { status = 203, body = \"a break\" } }]";
    let gate = gate("ladder", &app(&[nobody()], "", ladder));
    let answer = ask(gate.address, "GET /", "");
    assert_eq!((answer.status, answer.body.as_str()), (203, "a break"));
}

#[test]
fn a_deadline_ends_a_slow_exchange_and_the_clients_own_counts() {
    let origin = Origin::start(|_| Reply::After(Duration::from_secs(5)));
    let gate = gate("deadline", &app(&[origin.address], "", "deadline = \"100ms\""));
    let answer = ask(gate.address, "GET /", "");
    assert_eq!(answer.status, 504);
    assert!(answer.body.contains("deadline.exceeded"), "{}", answer.body);
    assert!(answer.header("proxy-status").starts_with("tidegate; error="), "{}", answer.head);
}

#[test]
fn a_client_that_goes_away_cancels_the_upstream_call() {
    let origin = Origin::start(|_| Reply::Never);
    let gate = gate("gone", &app(&[origin.address], "", "deadline = \"60s\""));
    let mut stream = tidegate_testkit::connect(gate.address);
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the request arrives", || origin.recorded().len() == 1);
    // A reset, as of a process that was killed.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    until("the upstream's call is cancelled", || origin.left() == 1);
}
