//! Mirroring: who gets a copy, what is compared, what the report says; and that no client waits for any of it.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};
use tidegate_testkit::{Gate, Origin, Reply, ask, block_on, connect, h2_connect, nobody, read_answer, until};

use crate::{BINARY, command, control, gate};

/// A server that answers each request with what is made of its path, after these header lines.
fn answering(fields: &'static str, body: impl Fn(&str) -> String + Send + Sync + 'static) -> Origin {
    Origin::scripted(move |visit| {
        visit.read_body()?;
        let body = body(visit.path());
        let length = body.len();
        let body = if visit.head.starts_with("HEAD ") { String::new() } else { body };
        visit.say(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n{body}"))
    })
}

const JSON: &str = "Content-Type: application/json\r\n";

/// The configuration of a route `all` to the one, whose mirror is the other.
fn config(app: &Origin, next: std::net::SocketAddr, mirror: &str) -> String {
    format!(
        r#"
workers = 1
[defaults.route]
deadline = "20s"
[upstream.app]
endpoints = ["{}"]
[upstream.next]
endpoints = ["{next}"]
outlier = {{ consecutive = 0 }}
[[route]]
name = "all"
path = "/v1"
upstream = "app"
{}
"#,
        app.address,
        format_args!("mirror = {{ upstream = \"next\", timeout = \"20s\"{mirror} }}")
    )
}

/// The report of the route.
fn report(gate: &Gate) -> Value {
    let answer = control(gate, "/mirrors/all");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let status = head[9..12].parse().expect("a status");
    let told = serde_json::from_str(body).expect("JSON");
    crate::described::fits("GET /mirrors/all", status, &told);
    told
}

/// Waits until the report says this, and returns it.
fn until_told(gate: &Gate, key: &str, value: &Value) -> Value {
    until(&format!("{key} is {value}"), || report(gate).pointer(key) == Some(value));
    report(gate)
}

fn field(head: &str, name: &str) -> Option<String> {
    let lower = head.to_ascii_lowercase();
    lower.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
}

#[test]
fn the_same_answers_are_equal_and_the_copy_says_what_it_is() {
    let app = answering(JSON, |path| format!(r#"{{"path": "{path}", "id": 1, "list": [1, 2]}}"#));
    let next = answering(JSON, |path| format!(r#"{{"list":[2,1.0],"id":2,"path":"{path}"}}"#));
    let compare = r#", compare = { headers = ["content-type"], ignore = ["/id"], unordered = ["/list"], ready = { compared = 20, over = "0s", differing = "20%" } }"#;
    let gate = gate("mirror-equal", &config(&app, next.address, compare));
    let sent = "Tidegate-Mirror: 1\r\nAccept-Encoding: br\r\nX-Kept: yes\r\n";
    let id = ask(gate.address, "GET /v1/x?secret=1", sent).header("x-request-id").to_owned();
    let told = until_told(&gate, "/equal", &json!(1));
    assert_eq!(
        (&told["compared"], &told["different"], &told["verdict"]["ready"]),
        (&json!(1), &json!(0), &json!(false))
    );
    assert!(told["mirror_latency"]["p99_ms"].is_number() && told["upstream_latency"]["p50_ms"].is_number());
    let (first, copy) = (app.recorded()[0].head.clone(), next.recorded()[0].head.clone());
    assert!(copy.starts_with("GET /v1/x?secret=1 HTTP/1.1\r\n"), "{copy}");
    assert_eq!(field(&first, "tidegate-mirror"), None, "a client cannot say so");
    for (name, value) in [
        ("tidegate-mirror", "1"),
        ("x-request-id", &id),
        ("x-kept", "yes"),
        ("accept-encoding", "identity"),
        ("tidegate-tenant", "anonymous"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(field(&copy, name).as_deref(), Some(value), "{name} in {copy}");
    }
    assert_eq!(field(&first, "accept-encoding").as_deref(), Some("br"));
    (0..19).for_each(|_| assert_eq!(ask(gate.address, "GET /v1", "").status, 200));
    let told = until_told(&gate, "/compared", &json!(20));
    assert_eq!((&told["equal"], &told["verdict"]["ready"]), (&json!(20), &json!(true)), "{told}");
    assert!(command(&gate, &["mirror", "all"]).1.contains("ready to move: 20 compared since "));
    assert_eq!(gate.metric("tidegate_mirror_requests_total{route=\"all\",outcome=\"equal\"}"), Some(20.0));
    assert_eq!(gate.metric("tidegate_mirror_seconds_count{route=\"all\",side=\"mirror\"}"), Some(20.0));
    // No exchange of its own: neither log nor metrics count the copies.
    assert_eq!(gate.metric("tidegate_requests_total{route=\"all\",class=\"2xx\"}"), Some(20.0));
}

#[test]
fn what_differs_is_told_with_samples_that_hold_no_credentials() {
    let app = answering(JSON, |_| r#"{"items": [{"price": 1}], "token": "s3cret"}"#.to_owned());
    let next = Origin::scripted(|visit| {
        visit.read_body()?;
        let body = r#"{"items": [{"price": 2}], "token": "0ther"}"#;
        visit.say(format!(
            "HTTP/1.1 203 X\r\nContent-Type: application/json\r\nX-Own: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    });
    let compare = r#", compare = { headers = ["x-own"], samples = 2 }"#;
    let gate = gate("mirror-differ", &config(&app, next.address, compare));
    (0..3).for_each(|_| assert_eq!(ask(gate.address, "GET /v1/x?key=s3cret", "").status, 200));
    let told = until_told(&gate, "/different", &json!(3));
    let classes: Vec<(&str, &str, u64)> = told["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (one["kind"].as_str().unwrap(), one["place"].as_str().unwrap(), one["count"].as_u64().unwrap())
        })
        .collect();
    let expected = [
        ("status", "200 -> 203", 3),
        ("header", "x-own", 3),
        ("body", "/items/*/price", 3),
        ("body", "/token", 3),
    ];
    assert_eq!(classes, expected);
    let samples = told["samples"].as_array().unwrap();
    assert_eq!((samples.len(), &samples[0]["path"]), (2, &json!("/v1/x")));
    assert_eq!(
        samples[0]["differences"][2],
        json!({"kind": "body", "place": "/items/*/price", "upstream": "1", "mirror": "2"})
    );
    assert!(!told.to_string().contains("s3cret") && !told.to_string().contains("0ther"), "{told}");
    let (_, said) = command(&gate, &["mirror", "all"]);
    assert!(said.contains("not ready") && said.contains("body /items/*/price: 1 | 2"), "{said}");
    assert_eq!(gate.metric("tidegate_mirror_differences_total{route=\"all\",kind=\"body\"}"), Some(3.0));
    // A report begins anew by command; what was counted for metrics stays.
    let anew: Value =
        serde_json::from_str(&command(&gate, &["mirror", "all", "--reset", "--json"]).1).unwrap();
    assert_eq!((&anew["compared"], anew["samples"].as_array().unwrap().len()), (&json!(0), 0));
    assert_eq!(gate.metric("tidegate_mirror_requests_total{route=\"all\",outcome=\"different\"}"), Some(3.0));
}

#[test]
fn no_client_waits_for_a_mirror_and_neither_does_the_end() {
    let app = answering("", |_| "hello".to_owned());
    let next = Origin::start(|_| Reply::Never);
    let config = config(&app, next.address, ", concurrency = 2, compare = true");
    let mut gate = gate("mirror-hangs", &config.replace("timeout = \"20s\"", "timeout = \"10m\""));
    let mut stream = connect(gate.address);
    for _ in 0..10 {
        stream.write_all(b"GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).body, "hello");
    }
    let told = until_told(&gate, "/skipped/busy", &json!(8));
    assert_eq!((&told["under_way"], &told["compared"]), (&json!(2), &json!(0)));
    assert_eq!(gate.metric("tidegate_mirror_active{route=\"all\"}"), Some(2.0));
    drop(stream);
    gate.signal("-TERM");
    assert_eq!(gate.wait(), Some(0), "{}", gate.said());
}

#[test]
fn a_mirror_that_is_gone_is_told_and_felt_by_nobody() {
    let app = answering("", |_| "hello".to_owned());
    let gate = gate("mirror-gone", &config(&app, nobody(), ", compare = {}"));
    (0..5).for_each(|_| assert_eq!(ask(gate.address, "GET /v1", "").body, "hello"));
    let told = until_told(&gate, "/failed", &json!(5));
    assert_eq!(told["classes"][0], json!({"kind": "failed", "place": "upstream.connect", "count": 5}));
    assert_eq!(
        (&told["samples"][0]["failed"], &told["verdict"]["differing"]),
        (&json!("upstream.connect"), &json!(1.0))
    );
}

#[test]
fn a_request_that_its_upstream_does_not_answer_is_not_copied() {
    let app = Origin::start(|_| Reply::Close);
    let next = answering("", |_| "hello".to_owned());
    let gate = gate("mirror-unanswered", &config(&app, next.address, ", compare = {}"));
    assert_eq!(ask(gate.address, "GET /v1", "").status, 502);
    until_told(&gate, "/skipped/unanswered", &json!(1));
    assert!(next.recorded().is_empty());
    // Nor is one whose client leaves before there is an answer.
    let never = Origin::start(|_| Reply::Never);
    gate.rewrite(&config(&never, next.address, ", compare = {}"));
    gate.reload();
    let mut stream = connect(gate.address);
    stream.write_all(b"GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("its upstream is asked", || !never.recorded().is_empty());
    assert_eq!(report(&gate)["under_way"], 1);
    drop(stream);
    let told = until_told(&gate, "/skipped/left", &json!(1));
    assert_eq!((&told["skipped"]["unanswered"], &told["under_way"]), (&json!(1), &json!(0)));
    assert_eq!(gate.metric("tidegate_mirror_skipped_total{route=\"all\",reason=\"left\"}"), Some(1.0));
    assert!(next.recorded().is_empty());
}

#[test]
fn bodies_are_copied_within_their_bound_over_both_versions() {
    let app = answering("", |_| "hello".to_owned());
    let next = answering("", |_| "hello".to_owned());
    let mirror = ", methods = [\"POST\"], body_max = \"1000B\", compare = {}";
    let gate = gate("mirror-bodies", &config(&app, next.address, mirror));
    let post = |length: usize| {
        let mut stream = connect(gate.address);
        let head = format!("POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![b'x'; length]).unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
    };
    post(1000);
    until_told(&gate, "/equal", &json!(1));
    post(1001);
    until_told(&gate, "/skipped/body", &json!(1));
    // Of a body of unknown length nobody knows before it has passed.
    for (chunks, equal, skipped) in [(2, 2, 1), (300, 2, 2)] {
        let mut stream = connect(gate.address);
        stream.write_all(b"POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        (0..chunks).for_each(|_| stream.write_all(b"4\r\nabcd\r\n").unwrap());
        stream.write_all(b"0\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).status, 200);
        let told = until_told(&gate, "/equal", &json!(equal));
        assert_eq!(until_told(&gate, "/skipped/body", &json!(skipped))["different"], told["different"]);
    }
    let address = gate.address;
    block_on(async move {
        let mut client = h2_connect(address).await;
        let request = http::Request::post("http://a/v1").body(()).unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        body.send_data(bytes::Bytes::from_static(b"over HTTP/2"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
    until_told(&gate, "/equal", &json!(3));
    let lengths: Vec<String> =
        next.recorded().iter().filter_map(|one| field(&one.head, "content-length")).collect();
    assert_eq!(lengths, ["1000", "8", "11"]);
    // Methods that are not said are not copied.
    assert_eq!(ask(gate.address, "GET /v1", "").status, 200);
    assert_eq!(next.recorded().len(), 3);
}

#[test]
fn tenants_share_and_rewrite_say_what_is_copied() {
    let app = answering("", |_| "hello".to_owned());
    let next = answering("", |_| "hello".to_owned());
    let tenants = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n";
    let mirror = ", tenants = [\"acme\"], rewrite = \"/v2\", request_headers = { remove = [\"authorization\"], set = { x-for = \"mirror\" } }";
    let config = format!("{}{tenants}", config(&app, next.address, mirror));
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let gate = Gate::start_listening(BINARY, "mirror-tenants", listen, &config);
    let sent = |tenant: &str| format!("X-Tenant: {tenant}\r\nAuthorization: Basic eDp5\r\n");
    assert_eq!(ask(gate.address, "GET /v1/a?q=1", &sent("other")).status, 200);
    assert_eq!(ask(gate.address, "GET /v1/a?q=1", &sent("acme")).status, 200);
    // Nothing is compared: the mirror answers for its own sake.
    let told = until_told(&gate, "/uncompared/unasked", &json!(1));
    assert_eq!((&told["verdict"], &told["compared"]), (&Value::Null, &json!(0)));
    let copy = next.recorded()[0].head.clone();
    assert!(copy.starts_with("GET /v2/a?q=1 HTTP/1.1\r\n"), "{copy}");
    assert_eq!((field(&copy, "authorization"), field(&copy, "x-for").as_deref()), (None, Some("mirror")));
    assert_eq!(next.recorded().len(), 1);
    let all = control(&gate, "/mirrors");
    assert!(all.contains("\"route\":\"all\"") && !all.contains("samples"), "{all}");
}

#[test]
fn answers_that_cannot_be_compared_are_not_said_to_be_the_same() {
    let app = answering("", |path| "x".repeat(if path == "/v1/large" { 5000 } else { 5 }));
    let next = answering("Content-Encoding: zigzag\r\n", |_| "y".repeat(5));
    let gate = gate("mirror-unknown", &config(&app, next.address, ", compare = { body_max = \"1000B\" }"));
    assert_eq!(ask(gate.address, "GET /v1/large", "").body.len(), 5000);
    until_told(&gate, "/uncompared/coded", &json!(1));
    // A client that goes away in the middle leaves an answer that nobody knows.
    let slow = Origin::scripted(|visit| {
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbeginning")?;
        visit.until_left()
    });
    gate.rewrite(&config(&slow, next.address, ", compare = { body_max = \"1000B\" }"));
    gate.reload();
    let mut stream = connect(gate.address);
    stream.write_all(b"GET /v1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("its upstream was asked", || !slow.recorded().is_empty() && next.recorded().len() == 2);
    drop(stream);
    until_told(&gate, "/skipped/cut", &json!(1));
}

#[test]
fn a_compressed_answer_is_compared_by_what_it_holds() {
    let app = Origin::scripted(|visit| {
        visit.read_body()?;
        let coding = visit.path().rsplit('/').next().unwrap_or_default().to_owned();
        let coded = crate::bodies::packed(&coding, br#"{"a": 1}"#);
        let head = format!(
            "HTTP/1.1 200 OK\r\n{JSON}Content-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
            coded.len()
        );
        visit.say([head.as_bytes(), &coded].concat())
    });
    let next = answering(JSON, |_| r#"{"a":1.0}"#.to_owned());
    let gate = gate("mirror-coded", &config(&app, next.address, ", compare = {}"));
    for (place, coding) in ["gzip", "deflate", "br", "zstd"].into_iter().enumerate() {
        let fields = format!("Accept-Encoding: {coding}\r\n");
        let mut stream = connect(gate.address);
        write!(stream, "GET /v1/{coding} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{coding}");
        let told = until_told(&gate, "/equal", &json!(place + 1));
        assert_eq!((&told["different"], &told["uncompared"]), (&json!(0), &json!({})), "{coding}");
    }
}

#[test]
fn a_reload_keeps_what_was_found_unless_it_changes_what_is_compared() {
    let app = answering("", |_| "hello".to_owned());
    let next = answering("", |_| "hello".to_owned());
    let gate = gate("mirror-reload", &config(&app, next.address, ", compare = {}"));
    assert_eq!(ask(gate.address, "GET /v1", "").status, 200);
    until_told(&gate, "/equal", &json!(1));
    gate.rewrite(&config(&app, next.address, ", share = \"50%\", compare = { samples = 3 }"));
    gate.reload();
    let told = report(&gate);
    assert_eq!((&told["equal"], &told["share"]), (&json!(1), &json!(0.5)));
    gate.rewrite(&config(&app, next.address, ", compare = { headers = [\"etag\"] }"));
    gate.reload();
    assert_eq!(report(&gate)["equal"], 0);
    gate.rewrite(&format!(
        "[upstream.app]\nendpoints = [\"{}\"]\n[[route]]\nname = \"all\"\nupstream = \"app\"\n",
        app.address
    ));
    gate.reload();
    assert!(control(&gate, "/mirrors/all").contains("control.no-mirror"));
    assert_eq!(gate.metric("tidegate_mirror_active{route=\"all\"}"), None);
}
