//! Upstreams: who is chosen, who is left alone, where endpoints come from, and how they are spoken to.

mod balancing;
mod bounds;
mod connections;
mod discovery;
mod endpoints;
mod shards;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::Value;
use tidegate_testkit::{Answer, Gate, Origin, Reply, ask_on, connect, send, until};

use crate::app;

/// A server that answers with its own name.
pub fn named(name: &'static str) -> Origin {
    Origin::start(move |_| Reply::Status(200, name.into()))
}

/// A switch that a test and its servers share.
#[derive(Clone, Default)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    pub fn set(&self, on: bool) {
        self.0.store(on, Relaxed);
    }

    pub fn is_on(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Waits until it is on.
    pub fn wait(&self) {
        until("the switch is on", || self.is_on());
    }
}

/// A server that keeps each request to `/held` waiting until the switch is on.
pub fn holding(name: &'static str, released: &Switch) -> Origin {
    let released = released.clone();
    Origin::start(move |path| {
        if path == "/held" {
            released.wait();
        }
        Reply::Status(200, name.into())
    })
}

/// A server that fails for as long as the switch is off.
pub fn ailing(name: &'static str, well: &Switch) -> Origin {
    let well = well.clone();
    Origin::start(move |_| Reply::Status(if well.is_on() { 200 } else { 500 }, name.into()))
}

/// As [`app`], on one core: what a core keeps by itself is seen whole.
pub fn one_core(endpoints: &[SocketAddr], upstream: &str, route: &str) -> String {
    app(endpoints, upstream, route).replacen("workers = 2", "workers = 1", 1)
}

/// One upstream with these lines alone, and one route to it; on one core.
pub fn found_by(lines: &str) -> String {
    format!("workers = 1\n[upstream.app]\n{lines}\n[[route]]\nname = \"all\"\nupstream = \"app\"\n")
}

/// So many requests on one connection, one after another: what they got.
pub fn ask_in_turn(gate: &Gate, count: usize, line: &str, headers: &str) -> Vec<Answer> {
    let mut stream = connect(gate.address);
    (0..count).map(|_| ask_on(&mut stream, line, headers)).collect()
}

/// Who answered how many of so many requests that came one after another.
pub fn shares<const N: usize>(gate: &Gate, count: usize, names: [&str; N]) -> [usize; N] {
    let answers = ask_in_turn(gate, count, "GET /", "");
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    names.map(|name| answers.iter().filter(|answer| answer.body == name).count())
}

/// A request that is under way when this returns; its answer comes to whoever joins.
pub fn begin(gate: &Gate, line: &'static str) -> std::thread::JoinHandle<Answer> {
    let address = gate.address;
    std::thread::spawn(move || tidegate_testkit::ask(address, line, ""))
}

/// What the control API says.
pub fn told(gate: &Gate, path: &str) -> String {
    let answer = send(gate.control, format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes());
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

/// What an operator sees of the upstream `app`.
pub fn upstream(gate: &Gate) -> Value {
    let status: Value = serde_json::from_str(&told(gate, "/status")).expect("a status is JSON");
    let mut all = status["upstreams"].as_array().cloned().unwrap_or_default();
    all.retain(|one| one["name"] == "app");
    all.pop().expect("there is the upstream")
}

/// What an operator sees of one of its endpoints; null: there is no such one.
pub fn endpoint(gate: &Gate, address: SocketAddr) -> Value {
    let all = upstream(gate)["endpoints"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["address"] == address.to_string()).unwrap_or_default()
}

/// The timeline of an exchange.
pub fn timeline(gate: &Gate, answer: &Answer) -> String {
    told(gate, &format!("/explain/{}?format=text", answer.header("x-request-id")))
}
