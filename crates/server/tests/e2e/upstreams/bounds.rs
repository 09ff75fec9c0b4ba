//! What is held for a call is given back, whatever becomes of the call.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use tidegate_testkit::{Gate, H2Call, H2Origin, Origin, Reply, ask, connect, until};

use super::{Switch, endpoint, one_core, upstream};
use crate::gate;

/// Everything that there is to hold, and little of it.
const TIGHT: &str = "balance = \"least-request\"\nconcurrency = 6\nwaiting = { limit = 6, wait = \"50ms\" }\n\
    connections = 5\nidle_connections = 3\nidle_timeout = \"100ms\"\nlifetime = \"300ms\"\n\
    breaker = { consecutive = 4, cooldown = \"10ms\" }\noutlier = { consecutive = 3, base = \"10ms\", max = \"20ms\" }";
const BUSY: &str = "deadline = \"300ms\"\nretry = { tries = 3, try_timeout = \"60ms\", backoff = \"2ms\", idempotent = true }\n\
    hedge = { quantile = \"50%\", min = \"2ms\" }";

/// Clients of every kind, most of them bad: what they ask for and when they leave depends on their number alone.
fn unruly(gate: &Gate, clients: std::ops::Range<u32>) {
    for number in clients {
        let mut stream = connect(gate.address);
        let path = ["/", "/slow", "/bad", "/close", "/never"][number as usize % 5];
        let body = ["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"][number as usize / 5 % 3];
        let method = if body.is_empty() { "GET" } else { "POST" };
        let sent = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\n{body}\r\n{}",
            ["", "12345", "3\r\nabc\r\n"][number as usize / 5 % 3]
        );
        stream.write_all(sent.as_bytes()).unwrap();
        match number / 15 % 4 {
            0 => drop(tidegate_testkit::read_answer_or_end(&mut stream)),
            // Gone at once, gone in the middle, and a reset.
            1 => {}
            2 => std::thread::sleep(Duration::from_millis(u64::from(number % 7))),
            _ => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
        }
    }
}

/// Lets them all come, and checks that nothing is left of them.
fn check(name: &str, lines: &str, addresses: [SocketAddr; 2], well: &Switch) {
    let gate = gate(name, &one_core(&addresses, &format!("{TIGHT}\n{lines}"), BUSY));
    std::thread::scope(|scope| {
        for part in 0..8 {
            let gate = &gate;
            scope.spawn(move || unruly(gate, part * 60..part * 60 + 60));
        }
    });
    well.set(true);
    until("nothing is under way", || {
        let upstream = upstream(&gate);
        let active = addresses.iter().any(|address| endpoint(&gate, *address)["active"] != 0);
        upstream["in_use"] == 0 && upstream["waiting"] == 0 && !active
    });
    until("all connections are closed", || {
        addresses.iter().all(|address| endpoint(&gate, *address)["connections"] == 0)
    });
    until("everybody is served again", || ask(gate.address, "GET /", "").status == 200);
    until("breakers and ejections end", || {
        let _ = ask(gate.address, "GET /", "");
        let up = |address: &SocketAddr| endpoint(&gate, *address)["state"] == "up";
        upstream(&gate)["breaker"] == "closed" && addresses.iter().all(up)
    });
}

#[test]
fn nothing_is_left_of_calls_that_went_wrong_over_http1() {
    let well = Switch::default();
    let origins = [0, 1].map(|_| {
        let well = well.clone();
        Origin::start(move |path| match path {
            _ if well.is_on() => Reply::Status(200, String::new()),
            "/slow" => Reply::After(Duration::from_millis(20)),
            "/bad" => Reply::Status(503, "bad".into()),
            "/close" => Reply::Close,
            "/never" => Reply::Never,
            _ => Reply::Status(200, "ok".into()),
        })
    });
    check("bounds-http1", "", origins.each_ref().map(|origin| origin.address), &well);
}

async fn h2_answer(mut call: H2Call, well: bool) {
    let status = match call.head.uri.path() {
        _ if well => 200,
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            200
        }
        "/bad" => 503,
        "/close" => return call.respond.send_reset(tidegate_testkit::h2::Reason::REFUSED_STREAM),
        "/never" => return std::future::poll_fn(|context| call.respond.poll_reset(context).map(drop)).await,
        _ => 200,
    };
    let response = http::Response::builder().status(status).body(()).unwrap();
    drop(call.respond.send_response(response, true));
}

#[test]
fn nothing_is_left_of_calls_that_went_wrong_over_http2() {
    let well = Switch::default();
    let origins = [0, 1].map(|_| {
        let well = well.clone();
        H2Origin::taking(3, move |call| h2_answer(call, well.is_on()))
    });
    check("bounds-h2", "protocol = \"h2\"", origins.each_ref().map(|origin| origin.address), &well);
}
