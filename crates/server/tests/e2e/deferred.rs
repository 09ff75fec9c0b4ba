//! Requests that are accepted now and made later: what their clients are told, whose they are, and that they are there after
//! the process was killed.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use serde_json::Value;
use tidegate_testkit::{Answer, Gate, Origin, Reply, connect, read_answer, until};

use crate::BINARY;

/// A directory for a store that outlives its process. It is removed with the test.
pub struct Data(pub PathBuf);

impl Data {
    pub fn new(name: &str) -> Data {
        let path = std::env::temp_dir().join(format!("tidegate-later-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Data(path)
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Tenants are named by a header. What is put off stays where it is: its queue is pulled, and nobody comes.
fn config(data: &Data, origin: &Origin) -> String {
    format!(
        r#"workers = 2
[store]
url = "sqlite:{}"
[tenants]
from = [{{ header = "x-tenant" }}]
[defaults.route]
deadline = "20s"
[upstream.app]
endpoints = ["{}"]
[queue.kept]
pull = true
waiting = {{ deliveries = 3 }}
[[route]]
name = "later"
path = "/later"
upstream = "app"
defer = "always"
queue = "kept"
rewrite = "/jobs"
request_headers = {{ set = {{ x-from = "tidegate" }} }}
[[route]]
name = "asked"
path = "/"
upstream = "app"
defer = "on-request"
queue = "kept"
"#,
        data.0.display(),
        origin.address
    )
}

fn start(name: &str, data: &Data, origin: &Origin) -> Gate {
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1/32\"]";
    Gate::start_listening(BINARY, name, listen, &config(data, origin))
}

fn well() -> Origin {
    Origin::start(|_| Reply::Status(200, "now".to_owned()))
}

/// An answer to a request of this tenant's.
fn ask(gate: &Gate, tenant: &str, line: &str, headers: &str, body: &str) -> Answer {
    let mut stream = connect(gate.address);
    let length = body.len();
    let text = format!(
        "{line} HTTP/1.1\r\nHost: test\r\nX-Tenant: {tenant}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).unwrap();
    read_answer(&mut stream)
}

/// Where a deferred request is told of.
fn accepted(answer: &Answer) -> String {
    assert_eq!(answer.status, 202, "{} {}", answer.head, answer.body);
    let place = answer.header("location").to_owned();
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(told["status"], place.as_str());
    assert!(place.ends_with(told["id"].as_str().unwrap()) && place.starts_with("/_tidegate/deliveries/"));
    place
}

fn state(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{} {}", answer.head, answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// What is told of a code, and with which status.
fn check(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{} {}", answer.head, answer.body);
    assert!(answer.body.contains(&format!("\"{code}\"")), "{code}: {}", answer.body);
}

#[test]
fn what_is_deferred_is_told_to_its_own_tenant_alone_and_outlives_the_process() {
    let (data, origin) = (Data::new("outlives"), well());
    let gate = start("deferred", &data, &origin);
    let place = accepted(&ask(&gate, "acme", "POST /later/x?y=1", "", "body"));
    let told = state(&ask(&gate, "acme", &format!("GET {place}"), "", ""));
    assert_eq!((&told["state"], &told["queue"]), (&"ready".into(), &"kept".into()));
    check(&ask(&gate, "other", &format!("GET {place}"), "", ""), 404, "delivery.not-found");
    check(&ask(&gate, "other", &format!("DELETE {place}"), "", ""), 404, "delivery.not-found");
    check(&ask(&gate, "acme", "GET /_tidegate/deliveries/1", "", ""), 404, "delivery.not-found");
    let post = ask(&gate, "acme", &format!("POST {place}"), "", "");
    check(&post, 405, "route.method-not-allowed");
    assert_eq!(post.header("allow"), "get, head, delete");
    check(&ask(&gate, "acme", &format!("GET {place}/result"), "", ""), 409, "delivery.pending");
    gate.signal("-KILL");
    drop(gate);
    let gate = start("deferred", &data, &origin);
    let told = state(&ask(&gate, "acme", &format!("GET {place}"), "", ""));
    assert_eq!(told["state"], "ready");
    let told = state(&ask(&gate, "acme", &format!("DELETE {place}"), "", ""));
    assert_eq!(told["state"], "cancelled");
    check(&ask(&gate, "acme", &format!("DELETE {place}"), "", ""), 409, "delivery.ended");
    check(&ask(&gate, "acme", &format!("GET {place}/result"), "", ""), 404, "delivery.no-result");
    assert!(origin.recorded().is_empty(), "nobody comes for what is pulled");
}

#[test]
fn who_asks_for_it_is_answered_later_and_who_does_not_now() {
    let (data, origin) = (Data::new("asked"), well());
    let gate = start("deferred-asked", &data, &origin);
    let now = ask(&gate, "acme", "POST /a", "Prefer: wait=5\r\n", "x");
    assert_eq!((now.status, now.body.as_str()), (200, "now"));
    let later = ask(&gate, "acme", "POST /a", "Prefer: return=minimal, respond-async\r\n", "x");
    accepted(&later);
    assert_eq!(later.header("preference-applied"), "respond-async");
    // What cannot be made later is made now.
    let stream = "Prefer: respond-async\r\nContent-Type: application/grpc\r\n";
    assert_eq!(ask(&gate, "acme", "POST /a", stream, "x").body, "now");
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    check(&ask(&gate, "acme", "GET /later", upgrade, ""), 400, "delivery.stream");
    assert_eq!(origin.recorded().len(), 2);
}

#[test]
fn a_key_makes_one_delivery_of_repeats_and_another_request_is_a_mismatch() {
    let (data, origin) = (Data::new("key"), well());
    let gate = start("deferred-key", &data, &origin);
    let key = "Idempotency-Key: k1\r\n";
    let first = accepted(&ask(&gate, "acme", "POST /later", key, "pay"));
    assert_eq!(accepted(&ask(&gate, "acme", "POST /later", key, "pay")), first);
    check(&ask(&gate, "acme", "POST /later", key, "pay more"), 422, "idempotency.mismatch");
    assert_ne!(accepted(&ask(&gate, "other", "POST /later", key, "pay")), first);
    check(&ask(&gate, "acme", "POST /later", "Idempotency-Key: a b\r\n", ""), 400, "idempotency.key-invalid");
}

#[test]
fn a_tenant_has_no_more_waiting_than_it_may() {
    let (data, origin) = (Data::new("full"), well());
    let gate = start("deferred-full", &data, &origin);
    let mut places = Vec::new();
    for _ in 0..3 {
        places.push(accepted(&ask(&gate, "acme", "POST /later", "", "")));
    }
    let full = ask(&gate, "acme", "POST /later", "", "");
    check(&full, 429, "delivery.full");
    assert!(!full.header("retry-after").is_empty(), "{}", full.head);
    accepted(&ask(&gate, "other", "POST /later", "", ""));
    state(&ask(&gate, "acme", &format!("DELETE {}", places[0]), "", ""));
    accepted(&ask(&gate, "acme", "POST /later", "", ""));
}

#[test]
fn what_is_too_long_to_be_kept_is_refused_unread() {
    let (data, origin) = (Data::new("long"), well());
    let gate = start("deferred-long", &data, &origin);
    let mut stream = connect(gate.address);
    let head = "POST /later HTTP/1.1\r\nHost: test\r\nX-Tenant: acme\r\nContent-Length: 10485761\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    check(&read_answer(&mut stream), 413, "delivery.body-too-large");
}

#[test]
fn who_follows_a_delivery_hears_of_its_end() {
    let (data, origin) = (Data::new("events"), well());
    let gate = start("deferred-events", &data, &origin);
    let place = accepted(&ask(&gate, "acme", "POST /later", "", ""));
    let mut stream = connect(gate.address);
    let request = format!(
        "GET {place} HTTP/1.1\r\nHost: test\r\nX-Tenant: acme\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut heard = String::new();
    let mut piece = [0; 4096];
    while !heard.contains("event: state\n") {
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "{heard}");
        heard += &String::from_utf8_lossy(&piece[..length]);
    }
    assert!(heard.contains("text/event-stream") && heard.contains("\"state\":\"ready\""), "{heard}");
    state(&ask(&gate, "acme", &format!("DELETE {place}"), "", ""));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.contains("event: end\n") && rest.contains("\"state\":\"cancelled\""), "{rest}");
}

#[test]
fn a_process_that_ends_does_not_wait_for_those_who_follow() {
    let (data, origin) = (Data::new("drain"), well());
    let mut gate = start("deferred-drain", &data, &origin);
    let place = accepted(&ask(&gate, "acme", "POST /later", "", ""));
    let mut stream = connect(gate.address);
    let request =
        format!("GET {place} HTTP/1.1\r\nHost: test\r\nX-Tenant: acme\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut piece = [0; 4096];
    assert!(stream.read(&mut piece).unwrap() > 0);
    gate.signal("-TERM");
    assert_eq!(gate.wait(), Some(0), "{}", gate.said());
    assert!(!gate.said().contains("did not end in time"), "{}", gate.said());
}

/// One route that defers to a queue that is pushed, with these further lines.
fn pushed(data: &Data, origin: &Origin, queue: &str) -> String {
    format!(
        r#"workers = 2
[store]
url = "sqlite:{}"
[tenants]
from = [{{ header = "x-tenant" }}]
[defaults.route]
deadline = "20s"
[upstream.app]
endpoints = ["{}"]
breaker = false
outlier = {{ consecutive = 0 }}
[queue.work]
upstream = "app"
results = "1KiB"
{queue}
[[route]]
name = "work"
path = "/work"
upstream = "app"
defer = "always"
rewrite = "/jobs"
request_headers = {{ set = {{ x-from = "tidegate" }} }}
"#,
        data.0.display(),
        origin.address
    )
}

fn push(name: &str, data: &Data, origin: &Origin, queue: &str) -> Gate {
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1/32\"]";
    Gate::start_listening(BINARY, name, listen, &pushed(data, origin, queue))
}

/// A report server: it tells what it was asked for.
fn reports() -> Origin {
    Origin::scripted(|visit| {
        let fields: Vec<String> = ["x-from", "tidegate-tenant", "tidegate-attempt", "idempotency-key"]
            .iter()
            .map(|name| visit.field(name).unwrap_or_default())
            .collect();
        let path = visit.path().to_owned();
        let (length, _) = visit.read_body()?;
        let body = format!("{path} {length} {}", fields[..3].join(" "));
        visit.say(format!(
            "HTTP/1.1 201 Created\r\nContent-Length: {}\r\nX-Odd: a,  b\r\nLocation: /reports/1\r\n\r\n{body}",
            body.len()
        ))
    })
}

#[test]
fn who_waits_is_told_the_answer_itself_and_finds_it_again() {
    let (data, origin) = (Data::new("wait"), reports());
    let gate = push("deferred-wait", &data, &origin, "");
    let key = "Prefer: respond-async, wait=15\r\nIdempotency-Key: k\r\n";
    let answer = ask(&gate, "acme", "POST /work/1?x=2", key, "four");
    assert_eq!(answer.status, 201, "{} {}", answer.head, answer.body);
    assert_eq!(answer.body, "/jobs/1?x=2 4 tidegate acme 1");
    assert_eq!((answer.header("x-odd"), answer.header("location")), ("a,  b", "/reports/1"));
    // The same again is the same delivery, and has been made.
    let again = ask(&gate, "acme", "POST /work/1?x=2", "Idempotency-Key: k\r\n", "four");
    let place = accepted(&again);
    let told = state(&ask(&gate, "acme", &format!("GET {place}"), "", ""));
    assert_eq!((&told["state"], &told["result_status"]), (&"delivered".into(), &201.into()), "{told}");
    let result = ask(&gate, "acme", &format!("GET {place}/result"), "", "");
    assert_eq!((result.status, result.body), (201, answer.body));
    check(&ask(&gate, "other", &format!("GET {place}/result"), "", ""), 404, "delivery.not-found");
    let mut stream = connect(gate.address);
    let head =
        format!("HEAD {place}/result HTTP/1.1\r\nHost: test\r\nX-Tenant: acme\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 201 ") && told.ends_with("\r\n\r\n"), "{told}");
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn who_does_not_wait_long_enough_is_told_where_to_look() {
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        visit.until_left()
    });
    let data = Data::new("impatient");
    let gate = push("deferred-impatient", &data, &origin, "");
    let place = accepted(&ask(&gate, "acme", "POST /work", "Prefer: respond-async, wait=1\r\n", ""));
    let told = state(&ask(&gate, "acme", &format!("GET {place}"), "", ""));
    assert_eq!(told["state"], "leased", "{told}");
    // What is being made is cancelled: its upstream sees it leave.
    state(&ask(&gate, "acme", &format!("DELETE {place}"), "", ""));
    until("the attempt was broken off", || origin.left() == 1);
}

#[test]
fn a_result_that_is_too_long_to_be_kept_is_not_told_in_part() {
    let origin = Origin::start(|_| Reply::Status(200, "x".repeat(2048)));
    let data = Data::new("cut");
    let gate = push("deferred-cut", &data, &origin, "");
    let place = accepted(&ask(&gate, "acme", "POST /work", "", ""));
    let now = || state(&ask(&gate, "acme", &format!("GET {place}"), "", ""));
    until("it was made", || now()["state"] == "delivered");
    assert!(now()["result"].is_null());
    check(&ask(&gate, "acme", &format!("GET {place}/result"), "", ""), 404, "delivery.no-result");
}
