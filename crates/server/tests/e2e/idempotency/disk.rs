//! Disks that are full, disks that fail, and power that goes.

use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_testkit::{Origin, connect, read_answer, read_answer_or_end, until};

use super::{Data, Gated, check, config, payments, post, receipt, request};
use crate::control;
use crate::shim::Faults;

fn config_beside(data: &Data, address: std::net::SocketAddr, route: &str) -> String {
    config(data, address, "", route).replace(
        &format!("sqlite:{}", data.path().display()),
        &format!("sqlite:{}", data.path().join("store").display()),
    )
}

#[test]
fn a_full_disk_refuses_what_is_new_and_is_got_over_without_a_restart() {
    let (data, origin) = (Data::new("full"), payments());
    let faults = Faults::new(data.path());
    let gate = faults.gate("idem-full", &config_beside(&data, origin.address, "idempotency = {}"));
    let ask = |key: &str| post(&gate, &format!("Idempotency-Key: {key}\r\n"), "ten");
    assert_eq!(ask("a").body, "effect 1");
    faults.strike("full", true);
    check(&ask("b"), 503, "store.unavailable");
    assert_eq!(origin.recorded().len(), 1, "nothing was sent");
    assert_eq!((ask("a").body.as_str(), gate.metric("tidegate_store_up")), ("effect 1", Some(0.0)));
    faults.strike("full", false);
    assert_eq!(ask("b").body, "effect 2");
    assert_eq!(gate.metric("tidegate_store_up"), Some(1.0));
}

#[test]
fn an_answer_that_could_not_be_recorded_is_told_and_its_repeats_have_no_effect() {
    let (data, origin) = (Data::new("unrecorded"), Gated::new());
    let faults = Faults::new(data.path());
    let route = "deadline = \"20s\"\nidempotency = {}";
    let gate = faults.gate("idem-unrecorded", &config_beside(&data, origin.address(), route));
    let mut first = connect(gate.address);
    std::io::Write::write_all(&mut first, request("POST /pay", "Idempotency-Key: k\r\n", "ten").as_bytes())
        .unwrap();
    until("it is with the origin", || origin.entered() == 1);
    faults.strike("full", true);
    origin.let_go();
    assert_eq!(read_answer(&mut first).body, "effect 1");
    faults.strike("full", false);
    check(&post(&gate, "Idempotency-Key: k\r\n", "ten"), 409, "idempotency.unknown");
    assert_eq!(origin.entered(), 1);
}

#[test]
fn a_failed_fsync_stops_writing_until_a_new_process_and_says_so() {
    let (data, origin) = (Data::new("fsync"), payments());
    let faults = Faults::new(data.path());
    let config = config_beside(&data, origin.address, "idempotency = {}");
    let mut gate = faults.gate("idem-fsync-1", &config);
    assert_eq!(post(&gate, "Idempotency-Key: a\r\n", "ten").body, "effect 1");
    faults.strike("broken", true);
    check(&post(&gate, "Idempotency-Key: b\r\n", "ten"), 503, "store.unavailable");
    faults.strike("broken", false);
    check(&post(&gate, "Idempotency-Key: c\r\n", "ten"), 503, "store.unavailable");
    assert!(control(&gate, "/status").contains("\"state\":\"stopped\""));
    assert_eq!(gate.metric("tidegate_store_up"), Some(0.0));
    until("the log says so", || gate.said().contains("the store stops writing"));
    assert_eq!(origin.recorded().len(), 1, "nothing was sent");
    gate.signal("-TERM");
    assert_eq!(gate.wait(), Some(0));
    let gate = faults.gate("idem-fsync-2", &config);
    assert_eq!(post(&gate, "Idempotency-Key: a\r\n", "ten").header("idempotency-replayed"), "true");
    assert_eq!(post(&gate, "Idempotency-Key: c\r\n", "ten").body, "effect 2");
}

/// A request has two fsyncs: that of its claim, and that of its answer. At each of them the power goes, before and after.
#[test]
fn whenever_the_power_goes_nothing_was_sent_without_a_claim_or_told_without_a_record() {
    let data = Data::new("power");
    let effects: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&effects);
    let origin = Origin::scripted(move |visit| {
        visit.read_body()?;
        let key = visit.field("idempotency-key")?;
        noted.lock().push(key.clone());
        receipt(visit, "201 Created", &key)
    });
    let faults = Faults::new(data.path());
    let config = config_beside(&data, origin.address, "idempotency = {}");
    let had_effect = |key: &str| effects.lock().iter().filter(|one| *one == key).count();
    for (fault, number, sent, repeat) in [
        ("before", 1, 0, "made"),
        ("after", 1, 0, "unknown"),
        ("before", 2, 1, "unknown"),
        ("after", 2, 1, "replayed"),
    ] {
        let key = format!("{fault}-{number}");
        let mut gate = faults.gate(&format!("idem-power-{key}"), &config);
        assert_eq!(post(&gate, &format!("Idempotency-Key: well-{key}\r\n"), "ten").status, 201);
        faults.strike_at(fault, number);
        let mut stream = connect(gate.address);
        let asked = request("POST /pay", &format!("Idempotency-Key: {key}\r\n"), "ten");
        std::io::Write::write_all(&mut stream, asked.as_bytes()).unwrap();
        assert_eq!(read_answer_or_end(&mut stream), b"", "{key}: it was told nothing");
        assert_eq!(gate.wait(), Some(137), "{}", gate.said());
        assert_eq!(had_effect(&key), sent, "{key}");
        faults.strike(fault, false);
        let gate = faults.gate(&format!("idem-power-{key}-again"), &config);
        let well = post(&gate, &format!("Idempotency-Key: well-{key}\r\n"), "ten");
        assert_eq!(well.header("idempotency-replayed"), "true", "what was told before is there");
        let again = post(&gate, &format!("Idempotency-Key: {key}\r\n"), "ten");
        match repeat {
            "unknown" => check(&again, 409, "idempotency.unknown"),
            _ => assert_eq!((again.status, &again.body), (201, &key)),
        }
        assert_eq!(again.header("idempotency-replayed") == "true", repeat == "replayed", "{key}");
        assert_eq!(had_effect(&key), if repeat == "made" { 1 } else { sent }, "{key}");
    }
}
