//! How endpoints are spoken to, and on how many connections.

use std::time::Duration;

use bytes::Bytes;
use tidegate_testkit::{
    Answer, Gate, H2Call, H2Origin, Origin, Reply, TlsOrigin, ask, ask_on, connect, tls, until,
};

use super::{Switch, ask_in_turn, begin, endpoint, holding, named, one_core, upstream};
use crate::gate;

async fn h2_ok(mut call: H2Call) {
    let response = http::Response::builder().header("content-length", "2").body(()).unwrap();
    if let Ok(mut body) = call.respond.send_response(response, false) {
        let _ = body.send_data(Bytes::from_static(b"ok"), true);
    }
}

/// Answers when the switch is on.
fn h2_held(streams: u32, released: &Switch) -> H2Origin {
    let released = released.clone();
    H2Origin::taking(streams, move |call| {
        let released = released.clone();
        async move {
            while !released.is_on() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            h2_ok(call).await;
        }
    })
}

#[test]
fn http2_carries_many_requests_on_one_connection() {
    let released = Switch::default();
    let origin = h2_held(100, &released);
    let gate = gate("h2", &one_core(&[origin.address], "protocol = \"h2\"", ""));
    let held: Vec<_> = (0..12).map(|_| begin(&gate, "GET /path?q")).collect();
    until("all arrive", || origin.recorded().len() == 12);
    let seen = endpoint(&gate, origin.address);
    assert_eq!(
        (&seen["connections"], &seen["connects"], &seen["active"]),
        (&1.into(), &1.into(), &12.into())
    );
    released.set(true);
    for one in held {
        let answer = one.join().unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    }
    let head = &origin.recorded()[0];
    assert!(head.contains("uri: http://test/path?q") && !head.contains("\"host\""), "{head}");
}

#[test]
fn another_http2_connection_is_made_when_the_server_takes_no_more_streams() {
    let released = Switch::default();
    let origin = h2_held(4, &released);
    let gate = gate("h2-full", &one_core(&[origin.address], "protocol = \"h2\"\nconnections = 2", ""));
    let held: Vec<_> = (0..8).map(|_| begin(&gate, "GET /")).collect();
    until("all arrive", || origin.recorded().len() == 8);
    assert_eq!(endpoint(&gate, origin.address)["connections"], 2);
    // Beyond what the limit of connections allows, a request waits for a stream.
    let ninth = begin(&gate, "GET /");
    until("it is under way", || endpoint(&gate, origin.address)["active"] == 9);
    assert_eq!(origin.recorded().len(), 8);
    released.set(true);
    assert!(held.into_iter().chain([ninth]).all(|one| one.join().unwrap().status == 200));
}

#[test]
fn a_server_that_takes_no_stream_gets_no_further_connections() {
    let origin = H2Origin::taking(0, h2_ok);
    let route = "retry = { tries = 1 }\ndeadline = \"500ms\"";
    let gate = gate("h2-none", &one_core(&[origin.address], "protocol = \"h2\"", route));
    for _ in 0..2 {
        assert_eq!(ask(gate.address, "GET /", "").status, 504);
    }
    assert_eq!(endpoint(&gate, origin.address)["connects"], 1);
}

#[test]
fn a_busy_http2_connection_outlives_the_idle_timeout() {
    let origin = H2Origin::start(h2_ok);
    let gate =
        gate("h2-busy", &one_core(&[origin.address], "protocol = \"h2\"\nidle_timeout = \"400ms\"", ""));
    let mut stream = connect(gate.address);
    // Idle connections are looked at each second. Where the machine stalls for so long that it was idle, once more.
    until("it outlives them while it is busy", || {
        let connects = || endpoint(&gate, origin.address)["connects"].as_u64().unwrap();
        let mut pause = Duration::ZERO;
        assert_eq!(ask_on(&mut stream, "GET /", "").status, 200);
        let (before, began) = (connects(), now());
        let mut last = began;
        while began.elapsed() < Duration::from_millis(1500) {
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(ask_on(&mut stream, "GET /", "").status, 200);
            pause = pause.max(last.elapsed());
            last = now();
        }
        let outlived = connects() == before;
        assert!(
            outlived || pause > Duration::from_millis(300),
            "it was never idle for longer than {pause:?}"
        );
        outlived
    });
}

fn now() -> std::time::Instant {
    #[expect(clippy::disallowed_methods, reason = "the time that a connection is busy is what is tested")]
    std::time::Instant::now()
}

#[test]
fn an_answer_of_grpc_that_tells_a_failure_counts_as_one() {
    let origin = H2Origin::start(async |mut call: H2Call| {
        let status = if call.head.uri.path() == "/missing" { "5" } else { "14" };
        let response = http::Response::builder().header("grpc-status", status).body(()).unwrap();
        drop(call.respond.send_response(response, true));
    });
    let gate = gate("grpc-status", &one_core(&[origin.address], "protocol = \"h2\"", ""));
    for (line, failures) in [("GET /missing", 0), ("GET /", 1)] {
        assert_eq!(ask(gate.address, line, "").status, 200);
        assert_eq!(endpoint(&gate, origin.address)["failures"], failures, "{line}");
    }
}

/// A gate before a server with a certificate for `app.test`, and what it answers.
fn over_tls(name: &str, protocols: &[&str], lines: &str) -> Answer {
    let folder = Gate::folder(name);
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let _ = tls::certificate(&["app.test"], &cert, &key);
    let origin = TlsOrigin::start(&cert, &key, protocols);
    let lines = lines.replace("CA", &cert.display().to_string());
    let gate = gate(name, &one_core(&[origin.address], &lines, "retry = { tries = 1 }"));
    ask(gate.address, "GET /", "")
}

#[test]
fn tls_to_an_endpoint_verifies_its_name() {
    let right = over_tls("tls-right", &["http/1.1"], "tls = { server_name = \"app.test\", ca = \"CA\" }");
    assert_eq!((right.status, right.body.as_str()), (200, "http/1.1"));
    for (name, tls) in
        [("tls-wrong", "{ server_name = \"other.test\", ca = \"CA\" }"), ("tls-address", "{ ca = \"CA\" }")]
    {
        let wrong = over_tls(name, &["http/1.1"], &format!("tls = {tls}"));
        assert_eq!((wrong.status, wrong.body.contains("upstream.tls")), (502, true), "{tls}: {}", wrong.body);
    }
}

#[test]
fn health_checks_speak_as_the_traffic_does() {
    let folder = Gate::folder("health-tls");
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let _ = tls::certificate(&["app.test"], &cert, &key);
    let health = "health = { path = \"/healthz\", interval = \"20ms\", timeout = \"2s\" }";
    for (name, server_name, protocols, expected) in [
        ("health-tls-h2", "app.test", &["h2"][..], "healthy"),
        ("health-tls-http1", "app.test", &["http/1.1"], "healthy"),
        ("health-tls-wrong", "other.test", &["h2"], "unhealthy"),
    ] {
        let origin = TlsOrigin::start(&cert, &key, protocols);
        let tls = format!("tls = {{ server_name = \"{server_name}\", ca = \"{}\" }}", cert.display());
        let gate =
            gate(name, &one_core(&[origin.address], &format!("protocol = \"auto\"\n{tls}\n{health}"), ""));
        until(name, || endpoint(&gate, origin.address)["health"] == expected);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn tls_to_an_endpoint_trusts_only_whom_it_should() {
    let other = Gate::folder("tls-other");
    let ca = other.join("ca.pem");
    let _ = tls::certificate(&["app.test"], &ca, &other.join("ca-key.pem"));
    let lines = format!("tls = {{ server_name = \"app.test\", ca = \"{}\" }}", ca.display());
    let stranger = over_tls("tls-stranger", &["http/1.1"], &lines);
    assert!(stranger.body.contains("upstream.tls"), "{}", stranger.body);
    std::fs::remove_dir_all(&other).unwrap();
    let any = over_tls("tls-any", &["http/1.1"], "tls = { insecure = true }");
    assert_eq!(any.status, 200, "{}", any.body);
}

#[test]
fn tls_negotiates_the_protocol() {
    let tls = "tls = { server_name = \"app.test\", ca = \"CA\" }";
    for (name, protocols, protocol, expected) in [
        ("alpn-auto-h2", &["h2", "http/1.1"][..], "auto", "h2"),
        ("alpn-auto-http1", &["http/1.1"], "auto", "http/1.1"),
        ("alpn-http1", &["h2", "http/1.1"], "http1", "http/1.1"),
        ("alpn-h2", &["h2", "http/1.1"], "h2", "h2"),
    ] {
        let answer = over_tls(name, protocols, &format!("protocol = \"{protocol}\"\n{tls}"));
        assert_eq!((answer.status, answer.body.as_str()), (200, expected), "{name}");
    }
    let none = over_tls("alpn-none", &["http/1.1"], &format!("protocol = \"h2\"\n{tls}"));
    assert_eq!(none.status, 502, "{}", none.body);
}

#[test]
fn a_connection_is_used_again() {
    let origin = named("a");
    let gate = gate("keep-alive", &one_core(&[origin.address], "", ""));
    ask_in_turn(&gate, 50, "GET /", "");
    let seen = endpoint(&gate, origin.address);
    assert_eq!((&seen["connects"], &seen["requests"]), (&1.into(), &50.into()));
}

#[test]
fn idle_connections_are_closed_and_old_ones_are_not_used() {
    let origin = named("a");
    let gate = gate("idle", &one_core(&[origin.address], "idle_timeout = \"50ms\"\nlifetime = \"20ms\"", ""));
    let mut stream = connect(gate.address);
    assert_eq!(ask_on(&mut stream, "GET /", "").status, 200);
    until("another connection", || {
        let _ = ask_on(&mut stream, "GET /", "");
        endpoint(&gate, origin.address)["connects"] == 2
    });
    until("none is left", || endpoint(&gate, origin.address)["connections"] == 0);
}

#[test]
fn no_more_connections_are_made_than_may_be() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let upstream = "connections = 2\nwaiting = { wait = \"60s\", limit = 1 }";
    // Two cores: an idle connection of one is given up for the other.
    let gate = gate("connections", &crate::app(&[origin.address], upstream, "retry = { tries = 1 }"));
    for _ in 0..20 {
        assert_eq!(ask(gate.address, "GET /", "").status, 200);
    }
    let mut held = Vec::new();
    for number in 1..=2 {
        held.push(begin(&gate, "GET /held"));
        let arrived = || origin.recorded().iter().filter(|one| one.head.contains("/held")).count();
        until("it arrives", || arrived() == number);
    }
    held.push(begin(&gate, "GET /held"));
    until("the third waits", || endpoint(&gate, origin.address)["active"] == 3);
    assert_eq!(endpoint(&gate, origin.address)["connections"], 2);
    let over = ask(gate.address, "GET /", "");
    assert_eq!((over.status, over.body.contains("upstream.saturated")), (503, true), "{}", over.body);
    assert_eq!(endpoint(&gate, origin.address)["failures"], 0, "our limit is not its fault");
    released.set(true);
    assert!(held.into_iter().all(|one| one.join().unwrap().status == 200));
}

#[test]
fn concurrency_is_bounded_and_so_is_its_waiting_list() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let upstream_lines = "concurrency = 1\nwaiting = { limit = 1, wait = \"60s\" }";
    let gate = gate("gate", &crate::app(&[origin.address], upstream_lines, ""));
    let first = begin(&gate, "GET /held");
    until("it arrives", || origin.recorded().len() == 1);
    let second = begin(&gate, "GET /held");
    until("it waits", || upstream(&gate)["waiting"] == 1);
    assert_eq!(upstream(&gate)["in_use"], 1);
    let third = ask(gate.address, "GET /", "");
    assert_eq!((third.status, third.body.contains("upstream.saturated")), (503, true), "{}", third.body);
    assert!(third.header("retry-after").parse::<u64>().is_ok_and(|wait| wait > 0), "{}", third.head);
    released.set(true);
    assert_eq!([first, second].map(|one| one.join().unwrap().status), [200, 200]);
    until("all slots are back", || upstream(&gate)["in_use"] == 0);
}

#[test]
fn nobody_waits_for_a_slot_for_longer_than_is_configured() {
    let released = Switch::default();
    let origin = holding("a", &released);
    let lines = "concurrency = 1\nwaiting = { limit = 10, wait = \"50ms\" }";
    let gate = gate("gate-time", &one_core(&[origin.address], lines, "retry = { tries = 1 }"));
    let first = begin(&gate, "GET /held");
    until("it arrives", || origin.recorded().len() == 1);
    let second = ask(gate.address, "GET /", "");
    assert!(second.body.contains("upstream.saturated"), "{}", second.body);
    // A client that leaves while it waits leaves no trace.
    let mut stream = connect(gate.address);
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    drop(stream);
    released.set(true);
    assert_eq!(first.join().unwrap().status, 200);
    until("nothing is held", || upstream(&gate)["in_use"] == 0 && upstream(&gate)["waiting"] == 0);
}

#[test]
fn a_connection_whose_request_is_still_being_sent_is_not_waited_for() {
    let origin = Origin::scripted(|visit| {
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        visit.read_body().map(drop)
    });
    let gate = gate("early", &one_core(&[origin.address], "", "retry = { tries = 1 }"));
    let mut upload = connect(gate.address);
    std::io::Write::write_all(&mut upload, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        .unwrap();
    assert_eq!(tidegate_testkit::read_answer(&mut upload).status, 200);
    // The other half never comes; the next request goes elsewhere.
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    assert_eq!(origin.recorded().len(), 2);
}

#[test]
fn a_slow_reader_does_not_make_the_upstream_look_stalled() {
    const BYTES: usize = 48 << 20;
    let origin = Origin::start(|_| Reply::Status(200, "x".repeat(BYTES)));
    let gate = gate("slow-reader", &one_core(&[origin.address], "body_idle = \"700ms\"", ""));
    let mut stream = connect(gate.address);
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    // Longer than the upstream may be silent.
    std::thread::sleep(Duration::from_millis(1200));
    let answer = tidegate_testkit::read_answer(&mut stream);
    assert_eq!((answer.status, answer.body.len()), (200, BYTES));
}
