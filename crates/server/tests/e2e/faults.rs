//! Injected faults: what each does to whom, who may inject them, and how they end.

use serde_json::{Value, json};
use tidegate_model::credential::Digest;
use tidegate_testkit::{
    Answer, Gate, Origin, Reply, ask, ask_on, block_on, connect, h2_connect, read_answer_or_end, send, until,
};

use crate::upstreams::{timeline, told};
use crate::{BINARY, control};

/// The configuration of a gate whose tenants are named by a header. The token of each scope is called as it is.
fn config(origin: &Origin, faults: bool, upstream: &str, route: &str) -> String {
    let tokens = ["faults", "write", "read"].map(|scope| {
        let digest = Digest::of(scope.as_bytes()).0.map(|byte| format!("{byte:02x}")).concat();
        format!("{{ name = \"the-{scope}-token\", sha256 = \"{digest}\", scopes = [\"{scope}\"] }}")
    });
    format!(
        r#"
workers = 1
[listen]
http = ["127.0.0.1:0"]
trusted_proxies = ["127.0.0.1"]
[control]
listen = ["127.0.0.1:0"]
faults = {faults}
tokens = [{}]
[log]
access = "access.log"
level = "warn"
[tenants]
from = [{{ header = "x-tenant" }}]
[upstream.app]
endpoints = ["{}"]
{upstream}
[[route]]
name = "all"
upstream = "app"
{route}
[[route]]
name = "fixed"
path = "/fixed"
respond = {{ status = 200, body = "fixed" }}
"#,
        tokens.join(", "),
        origin.address
    )
}

fn start(name: &str, origin: &Origin, upstream: &str, route: &str) -> Gate {
    Gate::start_whole(BINARY, name, &[], &config(origin, true, upstream, route))
}

fn well() -> Origin {
    Origin::start(|_| Reply::Status(200, "0123456789".repeat(10)))
}

/// Status and body of a request to the control API with this token.
fn say(gate: &Gate, token: &str, line: &str, body: &str) -> (u16, Value) {
    let authorization =
        if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let request = format!(
        "{line} HTTP/1.0\r\nHost: localhost\r\n{authorization}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = send(gate.control, request.as_bytes());
    let (head, answered) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    let told = serde_json::from_str(answered).unwrap_or_default();
    crate::described::takes(line, status, body);
    crate::described::fits(line, status, &told);
    (status, told)
}

/// Injects a fault for a minute, unless it says otherwise.
fn inject(gate: &Gate, name: &str, mut fault: Value) {
    fault["name"] = json!(name);
    if fault["duration"].is_null() {
        fault["duration"] = json!("1m");
    }
    let (status, told) = say(gate, "faults", "POST /faults", &fault.to_string());
    assert_eq!(
        (status, &told["name"], &told["by"]),
        (201, &json!(name), &json!("the-faults-token")),
        "{told}"
    );
}

fn faults(gate: &Gate) -> Vec<Value> {
    let list: Value = serde_json::from_str(&told(gate, "/faults")).unwrap();
    list["faults"].as_array().cloned().unwrap_or_default()
}

fn ask_as(gate: &Gate, tenant: &str, path: &str) -> Answer {
    ask_on(&mut connect(gate.address), &format!("GET {path}"), &format!("X-Tenant: {tenant}\r\n"))
}

/// The timeline's data.
fn explained(gate: &Gate, answer: &Answer) -> Value {
    serde_json::from_str(&told(gate, &format!("/explain/{}", answer.header("x-request-id")))).unwrap()
}

/// The line of the access log that holds this, once it has been written.
fn logged(gate: &Gate, part: &str) -> Value {
    let find = || gate.access_log().lines().find(|line| line.contains(part)).map(str::to_owned);
    until(part, || find().is_some());
    serde_json::from_str(&find().unwrap_or_default()).unwrap()
}

#[test]
fn a_delay_strikes_its_tenant_alone_and_is_seen_everywhere() {
    let origin = well();
    let gate = start("fault-delay", &origin, "", "");
    inject(&gate, "slow", json!({"delay": "30ms", "tenant": "acme"}));
    let struck = ask_as(&gate, "acme", "/");
    assert_eq!((struck.status, struck.header("tidegate-fault")), (200, "slow"));
    let told = explained(&gate, &struck);
    assert_eq!(told["fault"], "slow");
    assert!(told["duration_ms"].as_f64().unwrap() >= 30.0, "{told}");
    assert!(timeline(&gate, &struck).contains("the injected fault `slow` struck: a delay of 30.000 ms\n"));
    assert_eq!(logged(&gate, "\"fault\":\"slow\"")["tenant"], "acme");
    let other = ask_as(&gate, "other", "/");
    assert_eq!((other.status, other.header("tidegate-fault")), (200, ""));
    let mut stream = connect(gate.address);
    let post = b"POST /up HTTP/1.1\r\nHost: a\r\nX-Tenant: acme\r\nContent-Length: 3\r\n\r\nabc";
    std::io::Write::write_all(&mut stream, post).unwrap();
    assert_eq!(tidegate_testkit::read_answer(&mut stream).status, 200);
    assert_eq!(origin.recorded().last().map(|last| last.length), Some(3), "a body waits with its request");
    assert_eq!(gate.metric("tidegate_faults"), Some(1.0));
    assert_eq!(gate.metric("tidegate_faults_struck_total{kind=\"delay\"}"), Some(2.0));
    assert_eq!(faults(&gate)[0]["struck"], 2);
    let out = std::process::Command::new(BINARY)
        .args(["status", "--control", &gate.control.to_string()])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(shown.contains("INJECTED FAULT") && shown.contains("delay 30ms"), "{shown}");
}

#[test]
fn a_delayed_request_holds_no_slot_and_ends_with_its_client() {
    let origin = well();
    let gate = start("fault-slot", &origin, "concurrency = 1\nwaiting = { limit = 0 }", "deadline = \"2m\"");
    inject(&gate, "slow", json!({"delay": "1m", "tenant": "acme"}));
    let mut delayed = connect(gate.address);
    std::io::Write::write_all(&mut delayed, b"GET /delayed HTTP/1.1\r\nHost: a\r\nX-Tenant: acme\r\n\r\n")
        .unwrap();
    until("it is struck", || faults(&gate)[0]["struck"] == 1);
    for _ in 0..3 {
        assert_eq!(ask_as(&gate, "other", "/").status, 200);
    }
    drop(delayed);
    assert_eq!(logged(&gate, "/delayed")["end"], "client-gone");
    assert!(origin.recorded().iter().all(|one| !one.head.contains("/delayed")));
}

#[test]
fn a_delay_counts_to_the_deadline() {
    let origin = well();
    let gate = start("fault-deadline", &origin, "", "deadline = \"50ms\"");
    inject(&gate, "slow", json!({"delay": "1m"}));
    let late = ask_as(&gate, "acme", "/");
    assert_eq!((late.status, late.header("tidegate-fault")), (504, "slow"));
    assert!(late.body.contains("deadline.exceeded"), "{}", late.body);
    assert!(origin.recorded().is_empty());
}

#[test]
fn an_abort_answers_in_the_upstreams_place_and_speaks_against_no_endpoint() {
    let origin = well();
    let gate = start("fault-abort", &origin, "", "");
    inject(&gate, "down", json!({"abort": 503, "route": "all"}));
    for _ in 0..10 {
        let answer = ask_as(&gate, "acme", "/");
        assert_eq!((answer.status, answer.header("tidegate-fault")), (503, "down"));
        assert!(answer.body.contains("an injected fault"), "{}", answer.body);
    }
    assert_eq!(ask_as(&gate, "acme", "/fixed").body, "fixed", "another route");
    let head = ask_on(&mut connect(gate.address), "HEAD /", "X-Tenant: acme\r\n");
    assert_eq!((head.status, &*head.body), (503, ""));
    assert!(origin.recorded().is_empty());
    let endpoint = crate::upstreams::endpoint(&gate, origin.address);
    assert_eq!((&endpoint["failures"], &endpoint["state"]), (&json!(0), &json!("up")));
    inject(&gate, "fixed-down", json!({"abort": 418, "route": "fixed"}));
    assert_eq!(ask_as(&gate, "acme", "/fixed").status, 418);
}

/// An application whose answers are kept, and as old as they may be if it says so.
fn kept(fields: &'static str) -> Origin {
    crate::cache::origin(move |_, count| (fields.to_owned(), format!("answer {count}")))
}

/// Waits until it comes from the cache.
fn until_hit(gate: &Gate, tenant: &str) {
    until("it is kept", || ask_as(gate, tenant, "/a").header("cache-status").starts_with("tidegate; hit"));
}

#[test]
fn an_abort_strikes_what_is_stored_too_and_leaves_it_as_it_was() {
    let origin = kept("Cache-Control: max-age=60\r\n");
    let gate = start("fault-hit", &origin, "", "cache = {}");
    for tenant in ["acme", "other"] {
        until_hit(&gate, tenant);
    }
    for (name, fault, status) in [
        ("abort", json!({"abort": 503, "tenant": "acme"}), 503),
        ("fine", json!({"abort": 200, "tenant": "acme"}), 200),
        ("unchanged", json!({"abort": 304, "tenant": "acme"}), 304),
    ] {
        inject(&gate, name, fault);
        for method in ["GET", "HEAD"] {
            let line = format!("{method} /a");
            let struck = ask_on(&mut connect(gate.address), &line, "X-Tenant: acme\r\n");
            assert_eq!((struck.status, struck.header("tidegate-fault")), (status, name), "{}", struck.head);
            assert!(!struck.header("cache-status").contains("hit"), "{}", struck.head);
        }
        assert_eq!(ask_as(&gate, "other", "/a").body, "answer 1", "another tenant is not struck");
        assert_eq!(say(&gate, "faults", &format!("DELETE /faults/{name}"), "").0, 200);
        let after = ask_as(&gate, "acme", "/a");
        assert_eq!(after.body, "answer 0", "{name}: {}", after.head);
        assert!(after.header("cache-status").starts_with("tidegate; hit; ttl="), "{name}: {}", after.head);
    }
    inject(&gate, "reset", json!({"reset": true}));
    let mut stream = connect(gate.address);
    std::io::Write::write_all(&mut stream, b"GET /a HTTP/1.1\r\nHost: test\r\nX-Tenant: acme\r\n\r\n")
        .unwrap();
    assert_eq!(read_answer_or_end(&mut stream), b"", "no answer, though one is stored");
    assert_eq!(origin.recorded().len(), 2);
}

#[test]
fn a_compressed_answer_that_comes_slowly_is_logged_with_what_it_was() {
    let origin = Origin::scripted(|visit| {
        let body = "so be it; ".repeat(20_000);
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ))?;
        visit.say(body)
    });
    let gate = start("fault-coded", &origin, "", "compress = {}");
    inject(&gate, "slow", json!({"throttle": "10MiB"}));
    let fields = "X-Tenant: acme\r\nAccept-Encoding: gzip\r\nConnection: close\r\n";
    let answer = send(gate.address, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
    assert!(answer.to_ascii_lowercase().contains("tidegate-fault: slow\r\n"), "{answer}");
    let line = logged(&gate, "\"fault\":\"slow\"");
    assert_eq!((&line["coding"], &line["plain_bytes"]), (&json!("gzip"), &json!(200_000)));
}

#[test]
fn what_is_stale_stands_in_for_an_abort_as_for_an_upstream_that_fails() {
    let origin = kept("Age: 9\r\nCache-Control: max-age=9\r\n");
    let gate = start("fault-stale", &origin, "", "cache = { stale_if_error = \"10m\" }");
    let first = ask_as(&gate, "acme", "/a");
    assert!(first.header("cache-status").ends_with("; stored"), "{}", first.head);
    until("it is kept", || gate.metric("tidegate_cache_answers") == Some(1.0));
    inject(&gate, "abort", json!({"abort": 503}));
    let struck = ask_as(&gate, "acme", "/a");
    assert_eq!((struck.status, &*struck.body, struck.header("tidegate-fault")), (200, "answer 0", "abort"));
    assert!(struck.header("cache-status").ends_with("; detail=stale-if-error"), "{}", struck.head);
    assert_eq!(ask_as(&gate, "other", "/a").status, 503, "where nothing is stored nothing stands in");
}

#[test]
fn an_abort_takes_the_ladder_as_the_upstreams_answer_would() {
    let origin = well();
    let ladder = "fallback = [{ respond = { status = 200, body = \"kept\" } }]\nfallback_on = [503]";
    let gate = start("fault-ladder", &origin, "", ladder);
    inject(&gate, "down", json!({"abort": 503}));
    let answer = ask_as(&gate, "acme", "/");
    assert_eq!((answer.status, &*answer.body, answer.header("tidegate-fault")), (200, "kept", "down"));
    assert!(origin.recorded().is_empty());
}

#[test]
fn a_reset_ends_the_connection_without_an_answer() {
    let origin = well();
    let gate = start("fault-reset", &origin, "", "");
    inject(&gate, "cut", json!({"reset": true, "tenant": "acme"}));
    let mut stream = connect(gate.address);
    std::io::Write::write_all(&mut stream, b"GET /cut HTTP/1.1\r\nHost: a\r\nX-Tenant: acme\r\n\r\n")
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&read_answer_or_end(&mut stream)), "");
    let line = logged(&gate, "/cut");
    assert_eq!(
        (&line["end"], &line["status"], &line["fault"]),
        (&json!("injected"), &json!(0), &json!("cut"))
    );
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let of = |tenant| {
            http::Request::get("http://a/")
                .header("x-tenant", tenant)
                .body(())
                .expect("a request can be made")
        };
        let struck = client.send_request(of("acme"), true).unwrap().0.await;
        assert!(struck.is_err_and(|error| error.is_reset()), "its stream is reset");
        let other = client.send_request(of("other"), true).unwrap().0.await.expect("the connection goes on");
        assert_eq!(other.status(), 200);
    });
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn a_throttled_body_comes_slowly_and_whole() {
    let origin = well();
    let gate = start("fault-throttle", &origin, "", "");
    inject(&gate, "drip", json!({"throttle": 1000}));
    let answer = ask_as(&gate, "acme", "/");
    assert_eq!((answer.body.len(), answer.header("tidegate-fault")), (100, "drip"));
    let told = explained(&gate, &answer);
    assert_eq!(told["end"], "complete");
    assert!(told["duration_ms"].as_f64().unwrap() >= 99.0, "a hundred bytes at a thousand a second: {told}");
    assert_eq!(ask_as(&gate, "acme", "/fixed").body, "fixed");
}

#[test]
fn a_truncated_body_breaks_off_after_so_many_bytes() {
    let origin = well();
    let gate = start("fault-truncate", &origin, "", "");
    inject(&gate, "torn", json!({"truncate": 30}));
    let read = send(gate.address, b"GET /torn HTTP/1.1\r\nHost: a\r\nX-Tenant: acme\r\n\r\n");
    let (head, body) = read.split_once("\r\n\r\n").expect("the head comes");
    assert!(head.to_lowercase().contains("content-length: 100"), "it promises more: {head}");
    assert!(head.to_lowercase().contains("tidegate-fault: torn"), "{head}");
    assert_eq!(body, "0123456789".repeat(3));
    let line = logged(&gate, "/torn");
    assert_eq!((&line["end"], &line["bytes_out"]), (&json!("injected"), &json!(30)));
    assert_eq!(ask_as(&gate, "acme", "/fixed").body, "fixed", "what is shorter stays whole");
}

#[test]
fn several_faults_strike_together() {
    let origin = well();
    let gate = start("fault-several", &origin, "", "");
    inject(&gate, "slow", json!({"delay": "5ms"}));
    inject(&gate, "down", json!({"abort": 500}));
    inject(&gate, "hardly", json!({"abort": 501, "share": 1e-18}));
    let answer = ask_as(&gate, "acme", "/");
    assert_eq!((answer.status, answer.header("tidegate-fault")), (500, "slow, down"));
}

#[test]
fn a_fault_strikes_its_share() {
    let origin = well();
    let gate = start("fault-share", &origin, "", "");
    inject(&gate, "some", json!({"abort": 503, "share": 0.5}));
    let mut stream = connect(gate.address);
    let answers = (0..200).map(|_| ask_on(&mut stream, "GET /", "X-Tenant: acme\r\n"));
    let struck = answers.filter(|answer| answer.status == 503).count();
    // Seven standard deviations.
    assert!((50..150).contains(&struck), "{struck} of 200");
}

#[test]
fn a_fault_ends_by_itself_and_its_beginning_and_end_are_logged() {
    let origin = well();
    let gate = start("fault-expiry", &origin, "", "");
    inject(&gate, "short", json!({"abort": 503, "duration": "150ms"}));
    inject(&gate, "long", json!({"delay": "1ms", "tenant": "nobody"}));
    until("it has ended", || faults(&gate).len() == 1);
    let after = ask_as(&gate, "acme", "/");
    assert_eq!((after.status, after.header("tidegate-fault")), (200, ""));
    until("its end is logged", || gate.said().contains("its time is over"));
    assert_eq!(say(&gate, "faults", "DELETE /faults/long", "").0, 200);
    assert_eq!(say(&gate, "faults", "DELETE /faults/long", "").0, 404);
    assert!(faults(&gate).is_empty());
    let said = gate.said();
    let lines = |part: &str| said.lines().filter(|line| line.contains(part)).collect::<Vec<_>>();
    let (begun, ended) = (lines("fault injected"), lines("fault ended"));
    assert_eq!((begun.len(), ended.len()), (2, 2), "{said}");
    assert!(
        begun[0].contains("short") && begun[0].contains("the-faults-token") && begun[0].contains("until")
    );
    assert!(ended[0].contains("short") && ended[0].contains("its time is over"), "{}", ended[0]);
    assert!(ended[1].contains("long") && ended[1].contains("ended_by=\"the-faults-token\""), "{}", ended[1]);
}

#[test]
fn a_fault_outlives_a_reload_and_ends_with_the_process() {
    let origin = well();
    let mut gate = start("fault-reload", &origin, "", "");
    inject(&gate, "down", json!({"abort": 503}));
    assert_eq!(say(&gate, "write", "POST /reload", "").0, 200);
    assert_eq!(ask_as(&gate, "acme", "/").status, 503);
    gate.signal("-TERM");
    assert_eq!(gate.wait(), Some(0));
    assert!(gate.said().contains("the process ends"), "{}", gate.said());
}

#[test]
fn no_fault_is_injected_where_the_configuration_does_not_allow_it() {
    let origin = well();
    let gate = Gate::start_whole(BINARY, "fault-off", &[], &config(&origin, false, "", ""));
    let (status, told) =
        say(&gate, "faults", "POST /faults", r#"{"name": "f", "reset": true, "duration": "1m"}"#);
    assert_eq!((status, &told["code"]), (403, &json!("control.faults-off")));
    assert!(control(&gate, "/faults").contains(r#"{"enabled":false,"faults":[]}"#));
    assert_eq!(ask(gate.address, "GET /", "X-Tenant: acme\r\n").status, 200);
}

#[test]
fn a_fault_takes_a_token_that_may_inject_faults_and_that_token_may_nothing_else() {
    let origin = well();
    let gate = start("fault-scopes", &origin, "", "");
    let fault = r#"{"name": "f", "reset": true, "duration": "1m"}"#;
    for (token, status) in [("", 401), ("wrong", 401), ("read", 403), ("write", 403)] {
        assert_eq!(say(&gate, token, "POST /faults", fault).0, status, "{token}");
        assert_eq!(say(&gate, token, "DELETE /faults/f", "").0, status, "{token}");
    }
    assert!(faults(&gate).is_empty());
    assert_eq!(say(&gate, "faults", "POST /reload", "").0, 403);
    assert_eq!(say(&gate, "faults", "GET /faults", "").0, 200);
    assert_eq!(say(&gate, "faults", "POST /faults", fault).0, 201);
}

#[test]
fn a_body_that_is_no_fault_is_refused_with_all_that_is_wrong() {
    let origin = well();
    let gate = start("fault-wrong", &origin, "", "");
    let wrong = r#"{"name": "a b", "route": "none", "share": 0, "duration": "1d", "until": 5}"#;
    let (status, told) = say(&gate, "faults", "POST /faults", wrong);
    assert_eq!((status, &told["code"]), (400, &json!("control.fault")));
    let problems: Vec<&str> = told["problems"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for (place, part) in
        ["`until`", "`name`", "`route`", "`share`", "`duration`", "one thing"].iter().enumerate()
    {
        assert!(problems[place].contains(part), "{part}: {problems:?}");
    }
    for nonsense in ["", "[]", "\u{0}", "{\"name\": {\"name\": []}}", &"[".repeat(60_000)] {
        let (status, told) = say(&gate, "faults", "POST /faults", nonsense);
        assert_eq!((status, &told["code"]), (400, &json!("control.fault")));
    }
    // One byte too many: it is the last one, so that nothing is unread when the connection is closed.
    let (status, told) = say(&gate, "faults", "POST /faults", &"x".repeat(64 * 1024 + 1));
    assert_eq!((status, &told["code"]), (413, &json!("control.too-large")));
    assert!(faults(&gate).is_empty());
}

#[test]
fn there_are_only_so_many_faults_and_one_of_a_name() {
    let origin = well();
    let gate = start("fault-many", &origin, "", "");
    for number in 0..32 {
        inject(&gate, &format!("f{number}"), json!({"delay": "1ms"}));
    }
    let more = |name: &str| {
        let fault = json!({"name": name, "delay": "1ms", "duration": "1m"}).to_string();
        let (status, told) = say(&gate, "faults", "POST /faults", &fault);
        (status, told["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(more("one-more"), (409, "control.faults-full".to_owned()));
    assert_eq!(more("f7"), (409, "control.fault-taken".to_owned()));
    assert_eq!(ask_as(&gate, "acme", "/").header("tidegate-fault").split(", ").count(), 32);
    assert_eq!(say(&gate, "faults", "DELETE /faults/f7", "").0, 200);
    inject(&gate, "one-more", json!({"delay": "1ms"}));
}
