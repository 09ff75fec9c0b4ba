//! Who is left alone: health checks, ejection, and what the operator says.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::Value;
use tidegate_model::credential::Digest;
use tidegate_testkit::{Gate, Origin, Port, Reply, ask, ask_on, connect, send, until};

use super::{
    Switch, ailing, ask_in_turn, begin, endpoint, holding, named, one_core, shares, timeline, upstream,
};
use crate::{BINARY, app, gate};

/// A token that may change things.
pub fn tokens() -> String {
    let digest = Digest::of(b"operator").0.map(|byte| format!("{byte:02x}")).concat();
    format!("[[control.tokens]]\nname = \"ops\"\nsha256 = \"{digest}\"\nscopes = [\"write\"]\n")
}

/// Says what the operator wants of an endpoint: what is seen of it then.
pub fn set(gate: &Gate, address: SocketAddr, state: &str) -> Value {
    let body = format!("{{\"state\": \"{state}\"}}");
    let request = format!(
        "POST /upstreams/app/endpoints/{address} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer operator\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = send(gate.control, request.as_bytes());
    let line = request.lines().next().unwrap();
    crate::described::takes(line, 200, &body);
    crate::described::holds(line, &answer);
    let told = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let status: Value = serde_json::from_str(told).unwrap_or_else(|_| panic!("not a status: {answer}"));
    let all = status["endpoints"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["address"] == address.to_string()).expect("there is the endpoint")
}

const CHECKED: &str = "interval = \"20ms\", timeout = \"2s\", healthy = 2, unhealthy = 2 }";

#[test]
fn an_endpoint_that_fails_its_http_checks_is_left_alone_until_it_is_well() {
    let well = Switch::default();
    well.set(true);
    let (a, b) = (ailing("a", &well), named("b"));
    let health = format!("balance = \"round-robin\"\nhealth = {{ path = \"/healthz\", {CHECKED}");
    let gate = gate("health-http", &one_core(&[a.address, b.address], &health, ""));
    let is = |health: &str| until(health, || endpoint(&gate, a.address)["health"] == health);
    is("healthy");
    assert_eq!(shares(&gate, 10, ["a", "b"]), [5, 5]);
    well.set(false);
    is("unhealthy");
    assert_eq!(endpoint(&gate, a.address)["health_error"], "status 500");
    assert_eq!(shares(&gate, 10, ["a", "b"]), [0, 10]);
    well.set(true);
    is("healthy");
    assert_eq!(shares(&gate, 10, ["a", "b"]), [5, 5]);
}

#[test]
fn an_endpoint_that_takes_no_connection_is_left_alone_until_it_does() {
    let port = Port::take();
    let (a, b) = (port.address, named("b"));
    let health = format!("balance = \"round-robin\"\nhealth = {{ {CHECKED}");
    let gate = gate("health-tcp", &one_core(&[a, b.address], &health, "retry = { tries = 1 }"));
    until("unhealthy", || endpoint(&gate, a)["health"] == "unhealthy");
    assert_eq!(shares(&gate, 10, ["a", "b"]), [0, 10]);
    let _a = Origin::start_at(a, |_| Reply::Status(200, "a".into()));
    until("healthy", || endpoint(&gate, a)["health"] == "healthy");
    assert_eq!(shares(&gate, 10, ["a", "b"]), [5, 5]);
}

#[test]
fn with_too_few_healthy_ones_all_are_used() {
    let sick = |path: &str| Reply::Status(if path == "/healthz" { 500 } else { 200 }, "ok".into());
    let (a, b) = (Origin::start(sick), Origin::start(sick));
    let health = format!("health = {{ path = \"/healthz\", {CHECKED}");
    let gate = gate("panic", &one_core(&[a.address, b.address], &health, ""));
    for address in [a.address, b.address] {
        until("unhealthy", || endpoint(&gate, address)["health"] == "unhealthy");
    }
    let answer = ask(gate.address, "GET /", "");
    assert_eq!(answer.status, 200);
    assert!(timeline(&gate, &answer).contains("chosen by panic"));
}

#[test]
fn an_endpoint_that_keeps_failing_is_ejected_until_it_is_well() {
    let well = Switch::default();
    let (a, b, c) = (ailing("a", &well), named("b"), named("c"));
    let upstream = "balance = \"round-robin\"\noutlier = { consecutive = 3, base = \"100ms\" }";
    let config = one_core(&[a.address, b.address, c.address], upstream, "retry = { tries = 1 }");
    let gate = gate("ejected", &config);
    let failed = ask_in_turn(&gate, 9, "GET /", "").iter().filter(|answer| answer.status == 500).count();
    assert_eq!(failed, 3, "each third request");
    assert_eq!(endpoint(&gate, a.address)["ejections"], 1);
    well.set(true);
    let mut stream = connect(gate.address);
    until("it is used again", || ask_on(&mut stream, "GET /", "").body == "a");
    assert_eq!(endpoint(&gate, a.address)["state"], "up");
    assert_eq!(shares(&gate, 12, ["a", "b", "c"]), [4, 4, 4]);
}

#[test]
fn no_more_endpoints_are_ejected_than_may_be() {
    let origins: Vec<Origin> = (0..4).map(|_| Origin::start(|_| Reply::Status(500, String::new()))).collect();
    let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
    let upstream =
        "balance = \"random\"\noutlier = { consecutive = 2, base = \"60s\", max_ejected = \"50%\" }";
    let gate = gate("max-ejected", &app(&addresses, upstream, "retry = { tries = 1 }"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| ask_in_turn(&gate, 30, "GET /", ""));
        }
    });
    let ejected = |address: &&SocketAddr| endpoint(&gate, **address)["state"] == "ejected";
    assert_eq!(addresses.iter().filter(ejected).count(), 2);
}

#[test]
fn a_server_that_asks_for_a_pause_gets_it() {
    let asks = Origin::scripted(|visit| {
        visit.say("HTTP/1.1 503 No\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n")
    });
    let b = named("b");
    let config = one_core(&[asks.address, b.address], "balance = \"round-robin\"", "retry = { tries = 1 }");
    let gate = gate("paused", &config);
    let statuses: Vec<u16> = ask_in_turn(&gate, 10, "GET /", "").iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 1, "{statuses:?}");
    assert_eq!(endpoint(&gate, asks.address)["state"], "paused");
}

#[test]
fn an_operator_drains_disables_and_enables() {
    let released = Switch::default();
    let (a, b) = (holding("a", &released), named("b"));
    let config = one_core(&[a.address, b.address], "balance = \"round-robin\"", "");
    let gate = gate("operator", &format!("{config}{}", tokens()));
    until("the held one goes to the first", || {
        if a.recorded().is_empty() {
            drop(begin(&gate, "GET /held"));
        }
        !a.recorded().is_empty()
    });
    assert_eq!(set(&gate, a.address, "draining")["admin"], "draining");
    assert_eq!(shares(&gate, 10, ["a", "b"]), [0, 10]);
    assert!(endpoint(&gate, a.address)["active"].as_u64().unwrap() > 0, "what it has goes on");
    released.set(true);
    until("it is idle", || endpoint(&gate, a.address)["active"] == 0);
    until("its connections are closed", || endpoint(&gate, a.address)["connections"] == 0);
    set(&gate, b.address, "disabled");
    let none = ask(gate.address, "GET /", "");
    assert_eq!((none.status, none.body.contains("upstream.unavailable")), (503, true), "{}", none.body);
    // And by the command line.
    let run = |change: &str, address: SocketAddr| {
        let control = gate.control.to_string();
        let out = Command::new(BINARY)
            .args(["status", "--control", &control, "--token", "operator", change, "app"])
            .arg(address.to_string())
            .output()
            .unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    assert_eq!(run("enable", a.address), (true, format!("{} of app is enabled\n", a.address)));
    assert!(run("enable", b.address).0 && run("drain", a.address).0);
    assert_eq!(shares(&gate, 4, ["a", "b"]), [0, 4]);
    assert!(!run("drain", "127.0.0.1:1".parse().unwrap()).0, "there is no such one");
    assert!(run("disable", b.address).0 && run("enable", a.address).0);
    assert_eq!(shares(&gate, 4, ["a", "b"]), [4, 0]);
}

#[test]
fn an_endpoint_with_an_ipv6_address_is_served_checked_and_drained() {
    let a = Origin::start_at("[::1]:0".parse().unwrap(), |_| Reply::Status(200, "a".into()));
    let b = named("b");
    let health = format!("balance = \"round-robin\"\nhealth = {{ path = \"/\", {CHECKED}");
    let config = one_core(&[a.address, b.address], &health, "");
    let gate = gate("ipv6-endpoint", &format!("{config}{}", tokens()));
    until("healthy", || endpoint(&gate, a.address)["health"] == "healthy");
    assert_eq!(shares(&gate, 4, ["a", "b"]), [2, 2]);
    let out = Command::new(BINARY)
        .args(["status", "--control", &gate.control.to_string(), "--token", "operator", "drain", "app"])
        .arg(a.address.to_string())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(shares(&gate, 4, ["a", "b"]), [0, 4]);
}

#[test]
fn what_the_operator_said_outlives_a_reload() {
    let (a, b) = (named("a"), named("b"));
    let config = format!("{}{}", one_core(&[a.address, b.address], "", ""), tokens());
    let gate = gate("operator-reload", &config);
    set(&gate, a.address, "draining");
    gate.rewrite(&format!("{config}[plan.more]\nrate = \"1/s\"\n"));
    gate.reload();
    assert_eq!(endpoint(&gate, a.address)["admin"], "draining");
    assert_eq!(shares(&gate, 10, ["a", "b"]), [0, 10]);
}

#[test]
fn an_open_tunnel_counts_as_a_call_under_way() {
    let a = Origin::start(|_| Reply::Echo);
    let gate = gate("tunnel-active", &one_core(&[a.address], "concurrency = 1", ""));
    let mut stream = connect(gate.address);
    let upgrade = "Connection: upgrade\r\nUpgrade: echo\r\n";
    assert_eq!(ask_on(&mut stream, "GET /", upgrade).status, 101);
    assert_eq!(endpoint(&gate, a.address)["active"], 1);
    assert_eq!(upstream(&gate)["in_use"], 0, "it has no slot: those are for requests");
    drop(stream);
    until("it has ended", || endpoint(&gate, a.address)["active"] == 0);
    until("its connection is closed", || endpoint(&gate, a.address)["connections"] == 0);
}

/// Asks over and over, with and without a body, until the switch is on; every answer must be good. How many there were.
pub fn load(gate: &Gate, stop: &Switch, served: &AtomicUsize) {
    let mut stream = connect(gate.address);
    while !stop.is_on() {
        let answer = ask_on(&mut stream, "GET /", "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        std::io::Write::write_all(&mut stream, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            .unwrap();
        let answer = tidegate_testkit::read_answer(&mut stream);
        assert_eq!(answer.status, 200, "{}", answer.body);
        served.fetch_add(2, Relaxed);
    }
}

#[test]
fn a_rolling_restart_of_draining_endpoints_under_load_fails_no_request() {
    let serve = |_: &str| Reply::After(std::time::Duration::from_millis(2));
    let mut origins: Vec<Origin> = (0..3).map(|_| Origin::start(serve)).collect();
    let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
    // Nothing is retried: every request must go well by itself.
    let config = app(&addresses, "", "retry = { tries = 1 }");
    let gate = gate("rolling", &format!("{config}{}", tokens()));
    let (stop, served) = (Switch::default(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(|| load(&gate, &stop, &served))).collect();
        for origin in &mut origins {
            let address = origin.address;
            set(&gate, address, "draining");
            until("it is idle", || endpoint(&gate, address)["active"] == 0);
            origin.stop();
            let before = served.load(Relaxed);
            until("the others serve", || served.load(Relaxed) > before + 20);
            *origin = Origin::start_at(address, serve);
            set(&gate, address, "enabled");
            until("it serves again", || !origin.recorded().is_empty());
        }
        stop.set(true);
        workers.into_iter().for_each(|worker| worker.join().expect("no request failed"));
    });
    assert_eq!(gate.metric("tidegate_requests_total{route=\"all\",class=\"5xx\"}").unwrap_or(0.0), 0.0);
}
