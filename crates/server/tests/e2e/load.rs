//! The level of load: the application is told, and routes do without what they can do without.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use tidegate_testkit::{Gate, Origin, Reply, ask, connect, read_answer, until};

use crate::{app, gate};

/// One slot, and a short list of who waits for it; calm comes back soon.
const NARROW: &str = "concurrency = 1\nwaiting = { limit = 2, wait = \"300ms\" }";
const SOON: &str = "[protect]\ncalm = \"150ms\"\n";

/// Answers at once, but for `/slow`.
fn slow_on_demand() -> Origin {
    Origin::start(|path| match path {
        "/slow" => Reply::After(Duration::from_millis(250)),
        _ => Reply::Status(200, "here".to_owned()),
    })
}

/// What the application was told with its last request for this path.
fn told(origin: &Origin, path: &str) -> Option<String> {
    let recorded = origin.recorded();
    let last = recorded.iter().rev().find(|one| one.head.starts_with(&format!("GET {path} ")))?;
    let field = last
        .head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("tidegate-load: ").map(str::to_owned));
    Some(field.expect("every request tells it"))
}

/// More than the upstream can do, kept up until it holds, and a little longer if what comes back is kept.
fn saturate(gate: &Gate, what: &str, mut holds: impl FnMut() -> bool) -> Vec<TcpStream> {
    let mut streams: Vec<TcpStream> = Vec::new();
    until(what, || {
        let mut stream = connect(gate.address);
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        streams.push(stream);
        holds()
    });
    streams
}

fn level(gate: &Gate) -> f64 {
    gate.metric("tidegate_upstream_load_level{upstream=\"app\"}").unwrap_or_default()
}

#[test]
fn the_application_is_told_of_the_load_as_it_rises_and_as_it_falls() {
    let origin = slow_on_demand();
    let gate = gate("load-told", &(app(&[origin.address], NARROW, "") + SOON));
    assert_eq!(ask(gate.address, "GET /quick", "Tidegate-Load: 9\r\n").status, 200);
    assert_eq!(told(&origin, "/quick").as_deref(), Some("0"));
    drop(saturate(&gate, "the application is told", || {
        told(&origin, "/slow").is_some_and(|level| level != "0")
    }));
    until("the log tells, too", || gate.access_log().contains("\"load\":"));
    until("it falls again", || {
        // As long as it is saturated, it may be refused.
        let _ = ask(gate.address, "GET /after", "");
        told(&origin, "/after").as_deref() == Some("0")
    });
    assert_eq!(level(&gate), 0.0);
}

#[test]
fn a_route_does_without_its_upstream_and_another_without_all_as_it_is_told() {
    let origin = slow_on_demand();
    let routes = "fallback = [{ respond = { status = 200, body = \"short\" } }]\nfallback_on = []\ndegrade = { upstream = 2 }
[[route]]\nname = \"slow\"\npath = \"/slow\"\nupstream = \"app\"
[[route]]\nname = \"reports\"\npath = \"/reports\"\nupstream = \"app\"\ndegrade = { route = 1 }\n";
    let gate =
        gate("load-without", &(app(&[origin.address], NARROW, routes) + "[protect]\ncalm = \"400ms\"\n"));
    assert_eq!(ask(gate.address, "GET /quick", "").body, "here");
    assert_eq!(ask(gate.address, "GET /reports", "").status, 200);
    let pressure = saturate(&gate, "the level is high", || level(&gate) >= 2.0);
    let before = origin.recorded().len();
    let refused = ask(gate.address, "GET /reports", "");
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("route.shed"), "{}", refused.body);
    assert!((1..=4).contains(&refused.header("retry-after").parse().unwrap()), "{}", refused.head);
    assert_eq!(ask(gate.address, "GET /quick", "").body, "short");
    let since = origin.recorded().split_off(before);
    assert!(since.iter().all(|one| one.head.starts_with("GET /slow ")), "{since:?}");
    drop(pressure);
    until("all is as it was", || ask(gate.address, "GET /reports", "").status == 200);
    assert_eq!(ask(gate.address, "GET /quick", "").body, "here");
}

#[test]
fn under_load_no_try_follows_another() {
    let origin = Origin::start(|path| match path {
        "/slow" => Reply::After(Duration::from_millis(250)),
        _ => Reply::Status(503, String::new()),
    });
    let routes = "retry = { tries = 2, backoff = \"1ms\" }\n[[route]]\nname = \"slow\"\npath = \"/slow\"\nupstream = \"app\"\n";
    let narrow = format!("{NARROW}\nretry_budget = \"100%\"");
    let gate = gate("load-tries", &(app(&[origin.address], &narrow, routes) + "[protect]\ncalm = \"60s\"\n"));
    let tries = |gate: &Gate| {
        let before = origin.recorded().iter().filter(|one| one.head.starts_with("GET /bad ")).count();
        assert_eq!(ask(gate.address, "GET /bad", "").status, 503);
        origin.recorded().iter().filter(|one| one.head.starts_with("GET /bad ")).count() - before
    };
    assert_eq!(tries(&gate), 2);
    drop(saturate(&gate, "the level is high", || level(&gate) >= 2.0));
    until("who waits has gone", || gate.metric("tidegate_upstream_waiting{upstream=\"app\"}") == Some(0.0));
    until("one try reaches it", || tries(&gate) == 1);
}

#[test]
fn the_log_leaves_out_lines_of_what_went_well_under_load_and_counts_them() {
    let origin = slow_on_demand();
    let gate = gate(
        "load-log",
        &(app(&[origin.address], NARROW, "degrade = { log = 1 }") + "[protect]\ncalm = \"60s\"\n"),
    );
    drop(saturate(&gate, "the level is high", || level(&gate) >= 1.0));
    until("who waits has gone", || gate.metric("tidegate_upstream_waiting{upstream=\"app\"}") == Some(0.0));
    until("the slot is free", || gate.metric("tidegate_upstream_slots_used{upstream=\"app\"}") == Some(0.0));
    let mut stream = connect(gate.address);
    for _ in 0..60 {
        stream.write_all(b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
    }
    let left_out = || gate.metric("tidegate_access_log_left_out_total").unwrap_or_default();
    assert!((20.0..=60.0).contains(&left_out()), "{}", left_out());
    until("the others are written", || {
        gate.access_log().matches("\"path\":\"/quick\"").count() as f64 >= 60.0 - left_out()
    });
}
