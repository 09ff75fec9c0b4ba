//! Several nodes that share a store in PostgreSQL: one effect, whichever of them is asked, and whatever becomes of them and of
//! it.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use parking_lot::Mutex;
use tidegate_testkit::{
    Answer, Ends, Gate, Origin, Postgres, connect, read_answer, read_answer_or_end, until,
};

use crate::{BINARY, control};

use super::{Gated, check, gate, payments, post, receipt, request};

/// One route under keys to this address, recorded in this database, with these further lines of the store and of the route.
fn config(url: &str, endpoint: SocketAddr, store: &str, route: &str) -> String {
    format!(
        "workers = 1\n[store]\nurl = \"{url}?sslmode=disable\"\n{store}\n[tenants]\nfrom = [{{ header = \"x-tenant\" }}, {{ address = \"client\" }}]\n\
         [upstream.app]\nendpoints = [\"{endpoint}\"]\nbreaker = false\noutlier = {{ consecutive = 0 }}\n\
         [[route]]\nname = \"pay\"\nupstream = \"app\"\n{route}\n"
    )
}

fn key(key: &str) -> String {
    format!("Idempotency-Key: {key}\r\n")
}

/// The code of a refusal, or the status.
fn told(answer: &Answer) -> String {
    let code = answer.body.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
    code.map_or_else(|| answer.status.to_string(), str::to_owned)
}

#[test]
fn repeats_at_any_node_have_one_effect_and_are_told_the_same() {
    let (url, origin) = (Postgres::shared().database(), payments());
    let config = config(&url, origin.address, "", "idempotency = { wait = \"20s\" }\ndeadline = \"30s\"");
    let nodes = [gate("nodes-same-1", &config), gate("nodes-same-2", &config)];
    for number in 0..4 {
        let key = key(&format!("k{number}"));
        // All at once, at both.
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let asks = |client: usize| {
                let (node, key) = (&nodes[client % 2], &key);
                scope.spawn(move || post(node, key, "ten"))
            };
            let asked: Vec<_> = (0..6).map(asks).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        for answer in &answers {
            assert_eq!((answer.status, &answer.body), (201, &answers[0].body), "{}", answer.body);
        }
        assert_eq!(origin.recorded().len(), number + 1);
        check(&post(&nodes[number % 2], &key, "eleven"), 422, "idempotency.mismatch");
    }
}

#[test]
fn what_a_node_works_on_is_in_progress_until_it_was_killed_and_its_lease_has_ended() {
    let (url, origin) = (Postgres::shared().database(), Gated::new());
    let route = "deadline = \"20s\"\nidempotency = { wait = \"50ms\" }";
    let config = config(&url, origin.address(), "lease = \"1h\"", route);
    let (mut killed, other) = (gate("nodes-killed-1", &config), gate("nodes-killed-2", &config));
    let mut first = connect(killed.address);
    first.write_all(request("POST /pay", &key("k"), "ten").as_bytes()).unwrap();
    until("it is with the origin", || origin.entered() == 1);
    check(&post(&other, &key("k"), "ten"), 409, "idempotency.in-progress");
    killed.signal("-KILL");
    killed.wait();
    check(&post(&other, &key("k"), "ten"), 409, "idempotency.in-progress");
    // The hour is over.
    let _ = Postgres::shared()
        .say_in(&url, "UPDATE tidegate.nodes SET until = clock_timestamp() WHERE epoch = 1");
    check(&post(&other, &key("k"), "ten"), 409, "idempotency.unknown");
    assert_eq!(origin.entered(), 1);
    origin.let_go();
    assert_eq!(post(&other, &key("k2"), "ten").body, "effect 2");
}

#[test]
fn a_node_that_stood_still_beyond_its_lease_records_nothing_of_what_it_had_begun() {
    let (url, origin) = (Postgres::shared().database(), Gated::new());
    let route = "deadline = \"20s\"\nidempotency = { wait = \"50ms\" }";
    let config = config(&url, origin.address(), "lease = \"1s\"", route);
    let (still, other) = (gate("nodes-still-1", &config), gate("nodes-still-2", &config));
    let mut first = connect(still.address);
    first.write_all(request("POST /pay", &key("k"), "ten").as_bytes()).unwrap();
    until("it is with the origin", || origin.entered() == 1);
    still.signal("-STOP");
    until("its lease has ended", || told(&post(&other, &key("k"), "ten")) == "idempotency.unknown");
    origin.let_go();
    still.signal("-CONT");
    // Its client is told what has happened; to all others it stays what they were told it is.
    assert_eq!(read_answer(&mut first).body, "effect 1");
    let unrecorded = "tidegate_idempotency_total{route=\"pay\",outcome=\"unrecorded\"}";
    until("it is counted", || still.metric(unrecorded) == Some(1.0));
    for node in [&still, &other] {
        check(&post(node, &key("k"), "ten"), 409, "idempotency.unknown");
    }
    // And it goes on, under another epoch.
    assert_eq!(post(&still, &key("k2"), "ten").body, "effect 2");
    assert_eq!(post(&other, &key("k2"), "ten").header("idempotency-replayed"), "true");
}

#[test]
fn what_was_not_answered_is_unknown_to_the_other_node_at_once() {
    let url = Postgres::shared().database();
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        // It hangs up: whether it has done anything nobody knows.
        None
    });
    let config = config(&url, origin.address, "", "idempotency = {}");
    let nodes = [gate("nodes-broken-1", &config), gate("nodes-broken-2", &config)];
    assert_eq!(post(&nodes[0], &key("k"), "ten").status, 502);
    // However long the first node's lease is.
    until("it is known", || told(&post(&nodes[1], &key("k"), "ten")) == "idempotency.unknown");
    assert_eq!(origin.recorded().len(), 1);
}

/// PostgreSQL is killed, and its connections are, while clients pay at two nodes: each key has one effect, who was told
/// what its request came to is told so again, and service comes back by itself.
#[test]
fn postgresql_is_killed_and_comes_back_and_nothing_that_was_told_is_lost() {
    const CLIENTS: usize = 4;
    let mut server = Postgres::start("e2e-killed");
    let url = server.database();
    let effects: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let counted = Arc::clone(&effects);
    let origin = Origin::scripted(move |visit| {
        visit.read_body()?;
        let key = visit.field("idempotency-key")?;
        *counted.lock().entry(key.clone()).or_default() += 1;
        receipt(visit, "201 Created", &key)
    });
    let config = config(&url, origin.address, "", "idempotency = {}\ndeadline = \"20s\"");
    let nodes = [gate("nodes-pg-1", &config), gate("nodes-pg-2", &config)];
    let (ended, paid) = (AtomicBool::new(false), AtomicU64::new(0));
    let told: Vec<String> = std::thread::scope(|scope| {
        let (ended, paid, nodes) = (&ended, &paid, &nodes);
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| scope.spawn(move || pay(nodes, client, ended, paid))).collect();
        let more = |what: &str| {
            let before = paid.load(SeqCst);
            until(what, || paid.load(SeqCst) >= before + 2 * CLIENTS as u64);
        };
        more("they pay");
        for ends in [Ends::Killed, Ends::InOrder] {
            server.stop(ends);
            server.start_again();
            more("they pay again");
            server.end_connections();
            more("they pay yet again");
        }
        ended.store(true, SeqCst);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(effects.lock().values().all(|count| *count == 1), "{:?}", effects.lock());
    for (number, paid) in told.iter().enumerate() {
        let again = post(&nodes[number % 2], &key(paid), "ten");
        let replayed = again.header("idempotency-replayed");
        assert_eq!((again.status, &again.body, replayed), (201, paid, "true"));
    }
    assert!(effects.lock().values().all(|count| *count == 1), "{:?}", effects.lock());
}

/// Pays under one key after another, at one node and then at the other, until it is told so. Which were.
fn pay(nodes: &[Gate; 2], client: usize, ended: &AtomicBool, paid: &AtomicU64) -> Vec<String> {
    let mut told = Vec::new();
    for number in 0.. {
        if ended.load(SeqCst) {
            break;
        }
        let name = format!("{client}-{number}");
        let request = request("POST /pay", &key(&name), "ten");
        // What came to nothing is asked for again at the other node. What is unknown stays so.
        for node in nodes.iter().cycle().skip(client).take(20) {
            let mut stream = connect(node.address);
            let sent = stream.write_all(request.as_bytes());
            let got = read_answer_or_end(&mut stream);
            if sent.is_ok() && got.starts_with(b"HTTP/1.1 201 ") {
                told.push(name);
                paid.fetch_add(1, SeqCst);
                break;
            }
            if String::from_utf8_lossy(&got).contains("idempotency.unknown") {
                break;
            }
        }
    }
    told
}

#[test]
fn check_connects_and_warns_and_shows_no_secret() {
    let url = Postgres::shared().database().replace("postgres@", "postgres:hunter2@");
    let gate = gate("nodes-check", &config(&url, tidegate_testkit::nobody(), "", "idempotency = {}"));
    let mut check = Command::new(BINARY);
    let out = check.args(["check", "-c"]).arg(&gate.file).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("it runs with fsync = off"), "{said}");
    let mut print = Command::new(BINARY);
    let out = print.args(["check", "--print", "-c"]).arg(&gate.file).output().unwrap();
    let printed = String::from_utf8_lossy(&out.stdout);
    let shown = format!("{printed}{said}{}{}", control(&gate, "/config"), gate.said());
    assert!(shown.contains("postgres://hidden@127.0.0.1"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(control(&gate, "/status").contains("\"state\":\"serving\""));
}
