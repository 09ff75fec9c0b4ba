//! The process saves itself: it refuses before memory ends, those who hold most first, and can be looked at all the while.

use std::io::Write as _;
use std::net::TcpStream;

use tidegate_testkit::{Gate, Origin, Reply, ask, connect, read_answer, read_answer_or_end, until};

use crate::{BINARY, app, control, gate};

/// What a body of these tests may make the gate hold: 64 KiB read ahead, 128 KiB kept for another try.
const RETRY: &str = "retry = { tries = 2, idempotent = true, body = \"128KiB\" }";

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, "here".to_owned()))
}

/// An upload that does not go on, and holds what it may until it is dropped.
fn upload(gate: &Gate, path: &str, tenant: &str) -> TcpStream {
    let mut stream = connect(gate.address);
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: a\r\nX-Tenant: {tenant}\r\nContent-Length: 1000000\r\n\r\nx");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

fn held(gate: &Gate) -> f64 {
    gate.metric("tidegate_held_bytes").unwrap_or_default() / 1024.0
}

#[test]
fn close_to_its_memory_it_refuses_while_health_answers_and_then_serves_again() {
    let origin = ok();
    let config = app(&[origin.address], "", "");
    let gate = gate("memory", &config);
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    // Less than it takes.
    gate.rewrite(&format!("{config}\n[protect]\nmemory = \"{}B\"\n", gate.memory() / 2));
    until("it refuses", || read_answer_or_end(&mut asked(&gate)).starts_with(b"HTTP/1.1 503"));
    // New connections are turned away unread.
    let answer = read_answer(&mut connect(gate.address));
    assert!(answer.body.contains("server.memory"), "{}", answer.body);
    assert!(control(&gate, "/healthz").starts_with("HTTP/1.0 200"));
    assert_eq!(gate.metric("tidegate_shedding{cause=\"memory\"}"), Some(4.0));
    until("the level is the highest", || gate.metric("tidegate_load_level") == Some(3.0));
    gate.rewrite(&format!("{config}\n[protect]\nmemory = \"0B\"\n"));
    until("it serves again", || read_answer_or_end(&mut asked(&gate)).starts_with(b"HTTP/1.1 200"));
    assert!(gate.metric("tidegate_refusals_total{code=\"server.memory\"}") > Some(1.0));
}

/// A connection on which something was asked, if it could be.
fn asked(gate: &Gate) -> TcpStream {
    let mut stream = connect(gate.address);
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    stream
}

#[test]
fn bodies_that_would_hold_too_much_are_refused_unread_and_other_requests_are_not() {
    let origin = ok();
    let pay = format!(
        "{RETRY}\n[[route]]\nname = \"pay\"\npath = \"/pay\"\nupstream = \"app\"\npriority = \"critical\"\n{RETRY}"
    );
    let config = app(&[origin.address], "", &pay);
    let gate = gate("bodies", &format!("{config}\n[protect]\nbuffers = \"420KiB\"\n"));
    let holding = [upload(&gate, "/", "a"), upload(&gate, "/", "a")];
    until("both hold what they may", || held(&gate) == 384.0);
    let mut refused = upload(&gate, "/", "a");
    let answer = read_answer(&mut refused);
    assert_eq!((answer.status, answer.header("connection")), (503, "close"));
    assert!(answer.body.contains("server.memory"), "{}", answer.body);
    assert!((1..=4).contains(&answer.header("retry-after").parse().unwrap()), "{}", answer.head);
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    assert_eq!(ask(gate.address, "PUT /", "Content-Length: 0\r\n").status, 200);
    let critical = upload(&gate, "/pay", "a");
    until("what is critical is let in", || held(&gate) == 576.0);
    drop((holding, refused, critical));
    until("nothing is held", || held(&gate) == 0.0);
    let mut whole = upload(&gate, "/", "a");
    whole.write_all(&vec![b'x'; 999_999]).unwrap();
    assert_eq!(read_answer(&mut whole).status, 200);
}

#[test]
fn a_tenant_that_holds_more_than_its_share_is_refused_first() {
    let origin = ok();
    let tenants = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n[protect]\nbuffers = \"936KiB\"\n";
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let config = app(&[origin.address], "", RETRY) + tenants;
    let gate = Gate::start_listening(BINARY, "greedy", listen, &config);
    // 82 % of what bodies may hold, three quarters of that by one of two.
    let _holding = [
        upload(&gate, "/", "small"),
        upload(&gate, "/", "greedy"),
        upload(&gate, "/", "greedy"),
        upload(&gate, "/", "greedy"),
    ];
    until("all hold what they may", || held(&gate) == 768.0);
    until("the greedy one is refused", || {
        let mut stream = upload(&gate, "/", "greedy");
        stream.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
        read_answer_or_end(&mut stream).starts_with(b"HTTP/1.1 503")
    });
    until("what was let in meanwhile has gone", || held(&gate) == 768.0);
    let _small = upload(&gate, "/", "small");
    until("the other one is let in", || held(&gate) == 960.0);
}

#[test]
fn what_the_process_takes_is_told_to_the_operator() {
    let origin = ok();
    let gate = gate("readings", &app(&[origin.address], "", ""));
    until("it has looked", || gate.metric("tidegate_memory_bytes") > Some(0.0));
    let body = control(&gate, "/status");
    let state: serde_json::Value = serde_json::from_str(body.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let load = &state["load"];
    assert!(load["memory_limit"].as_u64() > load["memory_bytes"].as_u64(), "{load}");
    assert!(load["open_files_limit"].as_u64() > load["open_files"].as_u64(), "{load}");
    assert_eq!((&load["level"], &load["shedding"]), (&0.into(), &"calm".into()));
    assert_eq!(load["cores"].as_array().map(Vec::len), Some(2));
}
