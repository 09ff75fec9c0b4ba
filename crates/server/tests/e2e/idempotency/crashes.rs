//! Processes that end: as they are told to, or by `kill -9`.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_testkit::{Origin, connect, read_answer, read_answer_or_end, until};

use super::{Data, Gated, check, config, gate, payments, post, receipt, request, under_way};

#[test]
fn what_was_answered_is_told_again_by_the_next_process() {
    let (data, origin) = (Data::new("next"), payments());
    let config = config(&data, origin.address, "", "idempotency = {}");
    for (round, signal) in ["-TERM", "-KILL", "-TERM"].into_iter().enumerate() {
        let mut gate = gate(&format!("idem-next-{round}"), &config);
        let told = post(&gate, "Idempotency-Key: k\r\n", "ten");
        assert_eq!((told.status, &*told.body), (201, "effect 1"));
        assert_eq!(told.header("idempotency-replayed") == "true", round > 0);
        gate.signal(signal);
        gate.wait();
    }
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn what_was_under_way_when_the_process_was_killed_is_unknown() {
    let (data, origin) = (Data::new("killed"), Gated::new());
    let config = config(&data, origin.address(), "", "deadline = \"20s\"\nidempotency = {}");
    let mut killed = gate("idem-killed-1", &config);
    let mut first = connect(killed.address);
    first.write_all(request("POST /pay", "Idempotency-Key: k\r\n", "ten").as_bytes()).unwrap();
    until("it is with the origin", || origin.entered() == 1);
    killed.signal("-KILL");
    killed.wait();
    let next = gate("idem-killed-2", &config);
    check(&post(&next, "Idempotency-Key: k\r\n", "ten"), 409, "idempotency.unknown");
    check(&post(&next, "Idempotency-Key: k\r\n", "eleven"), 422, "idempotency.mismatch");
    assert_eq!(origin.entered(), 1);
    origin.let_go();
}

#[test]
fn what_was_under_way_when_the_process_was_told_to_end_is_finished() {
    let (data, origin) = (Data::new("drained"), Gated::new());
    let config = config(&data, origin.address(), "", "deadline = \"20s\"\nidempotency = {}");
    let mut ended = gate("idem-drained-1", &config);
    let mut first = connect(ended.address);
    first.write_all(request("POST /pay", "Idempotency-Key: k\r\n", "ten").as_bytes()).unwrap();
    until("it is with the origin", || origin.entered() == 1);
    // Its client leaves: nobody but the record waits for it.
    socket2::SockRef::from(&first).set_linger(Some(Duration::ZERO)).unwrap();
    drop(first);
    ended.signal("-TERM");
    until("it listens no more", || std::net::TcpStream::connect(ended.address).is_err());
    assert_eq!(under_way(&ended).0, "1");
    origin.let_go();
    assert_eq!(ended.wait(), Some(0), "{}", ended.said());
    let next = gate("idem-drained-2", &config);
    let again = post(&next, "Idempotency-Key: k\r\n", "ten");
    assert_eq!((&*again.body, again.header("idempotency-replayed")), ("effect 1", "true"));
}

/// Killed at any moment, over and over, with many requests under way: no key has two effects, and whoever was told what
/// its request came to is told the same by every process that comes after.
#[test]
fn killed_over_and_over_no_key_has_two_effects() {
    const ROUNDS: usize = 4;
    const CLIENTS: usize = 8;
    let data = Data::new("loop");
    let effects: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let counted = Arc::clone(&effects);
    let origin = Origin::scripted(move |visit| {
        visit.read_body()?;
        let key = visit.field("idempotency-key")?;
        *counted.lock().entry(key.clone()).or_default() += 1;
        receipt(visit, "201 Created", &key)
    });
    let config = config(&data, origin.address, "", "idempotency = {}");
    let key = |round: usize, client: usize, number: usize| format!("{round}-{client}-{number}");
    let mut told: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let mut gate = gate(&format!("idem-loop-{round}"), &config);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let address = gate.address;
                std::thread::spawn(move || {
                    let mut told = Vec::new();
                    for number in 0.. {
                        let Ok(mut stream) = std::net::TcpStream::connect(address) else { return told };
                        let key = key(round, client, number);
                        let request = request("POST /pay", &format!("Idempotency-Key: {key}\r\n"), "ten");
                        let sent = stream.write_all(request.as_bytes());
                        let got = read_answer_or_end(&mut stream);
                        if sent.is_err() || !got.starts_with(b"HTTP/1.1 201 ") {
                            return told;
                        }
                        told.push(key);
                    }
                    told
                })
            })
            .collect();
        // Whenever that is: some have been answered, and others are under way.
        until("some were answered", || effects.lock().len() > (round + 1) * 3 * CLIENTS);
        gate.signal("-KILL");
        gate.wait();
        told.extend(clients.into_iter().flat_map(|client| client.join().expect("no client panics")));
    }
    let gate = gate("idem-loop-last", &config);
    let before = effects.lock().clone();
    assert!(before.values().all(|count| *count == 1), "{before:?}");
    for key in &told {
        let again = post(&gate, &format!("Idempotency-Key: {key}\r\n"), "ten");
        assert_eq!((again.status, &again.body, again.header("idempotency-replayed")), (201, key, "true"));
    }
    // Whoever was told nothing is told what happened, or that nobody knows.
    for key in before.keys().filter(|key| !told.contains(key)) {
        let mut stream = connect(gate.address);
        let request = request("POST /pay", &format!("Idempotency-Key: {key}\r\n"), "ten");
        stream.write_all(request.as_bytes()).unwrap();
        let again = read_answer(&mut stream);
        assert!(matches!(again.status, 201 | 409), "{key}: {} {}", again.status, again.body);
    }
    // One may have come late, of a process that was killed just then; none came twice.
    assert!(effects.lock().values().all(|count| *count == 1), "{:?}", effects.lock());
}
