//! Deliveries that are made: again when they fail, after the process was killed, and to their end when it drains.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use serde_json::Value;
use tidegate_testkit::{Answer, Gate, Origin, Reply, connect, read_answer, until};

use crate::BINARY;
use crate::deferred::Data;

/// All requests are made later, four at once; what fails comes again at once.
fn start(name: &str, data: &Data, origin: &Origin, more: &str) -> Gate {
    let config = format!(
        r#"workers = 1
[store]
url = "sqlite:{}"
[tenants]
from = [{{ header = "x-tenant" }}]
[upstream.app]
endpoints = ["{}"]
[queue.jobs]
upstream = "app"
concurrency = 4
backoff = {{ first = "1ms", max = "1ms" }}
results = "1KiB"
{more}
[[route]]
name = "jobs"
path = "/"
upstream = "app"
defer = "always"
"#,
        data.0.display(),
        origin.address
    );
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1/32\"]";
    Gate::start_listening(BINARY, name, listen, &config)
}

fn ask(gate: &Gate, line: &str) -> Answer {
    let mut stream = connect(gate.address);
    let text = format!("{line} HTTP/1.1\r\nHost: test\r\nX-Tenant: acme\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    read_answer(&mut stream)
}

/// Where a request is told of that was put off.
fn put_off(gate: &Gate, target: &str) -> String {
    let answer = ask(gate, &format!("POST {target}"));
    assert_eq!(answer.status, 202, "{} {}", answer.head, answer.body);
    answer.header("location").to_owned()
}

fn told(gate: &Gate, place: &str) -> Value {
    serde_json::from_str(&ask(gate, &format!("GET {place}")).body).unwrap()
}

fn delivered(gate: &Gate, place: &str) {
    until("it is delivered", || told(gate, place)["state"] == "delivered");
}

fn field(head: &str, name: &str) -> String {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(field, _)| field.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.to_owned()).unwrap_or_default()
}

#[test]
fn a_request_that_was_put_off_is_made_until_it_went_well_and_its_answer_is_kept() {
    let calls = AtomicUsize::new(0);
    let origin = Origin::start(move |_| match calls.fetch_add(1, SeqCst) {
        0 => Reply::Status(503, "not now".to_owned()),
        _ => Reply::Status(201, "made".to_owned()),
    });
    let data = Data::new("made");
    let gate = start("delivered-made", &data, &origin, "");
    let place = put_off(&gate, "/report?year=2026");
    delivered(&gate, &place);
    let result = ask(&gate, &format!("GET {place}/result"));
    assert_eq!((result.status, result.body.as_str()), (201, "made"));
    let heads: Vec<String> = origin.recorded().into_iter().map(|one| one.head).collect();
    assert!(heads.iter().all(|head| head.starts_with("POST /report?year=2026 ")), "{heads:?}");
    let each = |name| heads.iter().map(|head| field(head, name)).collect::<Vec<_>>();
    let id = place.rsplit('/').next().unwrap();
    assert_eq!(each("tidegate-attempt"), ["1", "2"]);
    assert_eq!(each("tidegate-delivery-id"), [id, id]);
    assert_eq!(each("idempotency-key"), [id, id]);
    assert_eq!(each("tidegate-tenant"), ["acme", "acme"]);
    // One trace, a span for each attempt.
    let traces = each("traceparent");
    assert_eq!(traces[0][..36], traces[1][..36]);
    assert_ne!(traces[0][36..52], traces[1][36..52]);
    until("both are in the access log", || {
        let log = gate.access_log();
        (1..=2).all(|attempt| log.contains(&format!("\"delivery\":\"{id}\",\"attempt\":{attempt}")))
    });
}

#[test]
fn what_is_under_way_when_the_process_is_killed_is_made_again_and_nothing_is_lost() {
    let hangs = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&hangs);
    let origin = Origin::start(move |_| match told.load(SeqCst) {
        true => Reply::Never,
        false => Reply::Status(200, String::new()),
    });
    let data = Data::new("killed");
    let gate = start("delivered-killed", &data, &origin, "");
    let places: Vec<String> = (0..20).map(|number| put_off(&gate, &format!("/{number}"))).collect();
    until("four are under way", || origin.recorded().len() == 4);
    gate.signal("-KILL");
    drop(gate);
    hangs.store(false, SeqCst);
    let gate = start("delivered-killed", &data, &origin, "");
    places.iter().for_each(|place| delivered(&gate, place));
    let mut attempts: HashMap<String, Vec<String>> = HashMap::new();
    for one in origin.recorded() {
        let id = field(&one.head, "tidegate-delivery-id");
        attempts.entry(id).or_default().push(field(&one.head, "tidegate-attempt"));
    }
    let mut seen: Vec<Vec<String>> = attempts.into_values().collect();
    seen.sort();
    let (once, twice) = (vec!["1".to_owned()], vec!["1".to_owned(), "2".to_owned()]);
    assert_eq!(seen, [vec![once; 16], vec![twice; 4]].concat());
}

#[test]
fn what_kills_the_process_each_time_is_given_up() {
    let origin = Origin::start(|path| match path {
        "/poison" => Reply::Never,
        _ => Reply::Status(200, String::new()),
    });
    let data = Data::new("poison");
    let mut place = String::new();
    for attempt in 1..=3 {
        let gate = start("delivered-poison", &data, &origin, "attempts = 3");
        if attempt == 1 {
            place = put_off(&gate, "/poison");
        }
        until("it is under way", || origin.recorded().len() == attempt);
        gate.signal("-KILL");
    }
    let gate = start("delivered-poison", &data, &origin, "attempts = 3");
    until("it is dead", || told(&gate, &place)["state"] == "dead");
    delivered(&gate, &put_off(&gate, "/other"));
    assert_eq!(origin.recorded().len(), 3 + 1);
}

#[test]
fn a_process_that_drains_finishes_its_attempts_and_begins_no_other() {
    let released = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&released);
    let origin = Origin::start(move |_| {
        until("it is released", || told.load(SeqCst));
        Reply::Status(200, String::new())
    });
    let data = Data::new("drained");
    let mut gate = start("delivered-drained", &data, &origin, "");
    let places: Vec<String> = (0..6).map(|number| put_off(&gate, &format!("/{number}"))).collect();
    until("four are under way", || origin.recorded().len() == 4);
    gate.signal("-TERM");
    until("it accepts nobody", || std::net::TcpStream::connect(gate.address).is_err());
    released.store(true, SeqCst);
    assert_eq!(gate.wait(), Some(0), "{}", gate.said());
    let made = origin.recorded().len();
    drop(gate);
    let gate = start("delivered-drained", &data, &origin, "");
    places.iter().for_each(|place| delivered(&gate, place));
    let attempts: Vec<String> =
        origin.recorded().iter().map(|one| field(&one.head, "tidegate-attempt")).collect();
    assert_eq!(attempts, ["1"; 6], "{made} before");
}
