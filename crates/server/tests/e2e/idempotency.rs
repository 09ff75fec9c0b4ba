//! Requests with the same `Idempotency-Key` have one effect, and are told the same: over clients that leave, processes
//! that are killed, and stores that are full.

mod crashes;
mod disk;
mod nodes;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use bytes::Bytes;
use tidegate_testkit::{
    Answer, Gate, Origin, Visit, block_on, connect, h2, h2_connect, h2_read, read_answer, send, until,
};

use crate::{BINARY, control};

/// A directory for a store that outlives its process. It is removed with the test.
struct Data(PathBuf);

impl Data {
    fn new(name: &str) -> Data {
        let path = std::env::temp_dir().join(format!("tidegate-store-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Data(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One route under keys to this address, with these further lines, and one more route.
fn config(data: &Data, endpoint: SocketAddr, store: &str, route: &str) -> String {
    format!(
        "workers = 2\n[store]\nurl = \"sqlite:{}\"\n{store}\n[tenants]\nfrom = [{{ header = \"x-tenant\" }}, {{ address = \"client\" }}]\n\
         [upstream.app]\nendpoints = [\"{endpoint}\"]\nbreaker = false\noutlier = {{ consecutive = 0 }}\n\
         [[route]]\nname = \"pay\"\nupstream = \"app\"\n{route}\n\
         [[route]]\nname = \"other\"\npath = \"/other\"\nupstream = \"app\"\nidempotency = {{}}\n",
        data.path().display()
    )
}

fn gate(name: &str, config: &str) -> Gate {
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1/32\"]";
    Gate::start_listening(BINARY, name, listen, config)
}

/// A request with a body.
fn request(line: &str, headers: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: test\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn post(gate: &Gate, headers: &str, body: &str) -> Answer {
    ask(gate, "POST /pay", headers, body)
}

fn ask(gate: &Gate, line: &str, headers: &str, body: &str) -> Answer {
    let mut stream = connect(gate.address);
    stream.write_all(request(line, headers, body).as_bytes()).unwrap();
    read_answer(&mut stream)
}

/// A payment server: each request that reaches it is an effect, and is answered with its number.
fn payments() -> Origin {
    let effects = AtomicU64::new(0);
    Origin::scripted(move |visit| {
        visit.read_body()?;
        let number = effects.fetch_add(1, SeqCst) + 1;
        receipt(visit, "201 Created", &format!("effect {number}"))
    })
}

fn receipt(visit: &mut Visit, status: &str, body: &str) -> Option<()> {
    visit.say(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLocation: /payments/1\r\nSet-Cookie: session=a\r\n\
         Set-Cookie: theme=b\r\nX-Odd: a,  b\r\n\r\n{body}",
        body.len()
    ))
}

/// What the status says is under way under keys, and how many wait for it.
fn under_way(gate: &Gate) -> (String, String) {
    let status = control(gate, "/status");
    let told = status.split("\"keys\":{").nth(1).unwrap_or_default();
    let number = |name: &str| {
        let rest = told.split(&format!("\"{name}\":")).nth(1).unwrap_or_default();
        rest.chars().take_while(char::is_ascii_digit).collect::<String>()
    };
    (number("under_way"), number("awaited_by"))
}

/// A header's lines, in their order.
fn lines(answer: &Answer, names: &[&str]) -> Vec<String> {
    let named = |line: &&str| names.iter().any(|name| line.starts_with(&format!("{name}: ")));
    answer.head.lines().filter(named).map(str::to_owned).collect()
}

/// What is told of a code, and with which status.
fn check(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{} {}", answer.head, answer.body);
    assert!(answer.body.contains(&format!("\"{code}\"")), "{code}: {}", answer.body);
}

#[test]
fn repeats_have_one_effect_and_are_told_the_same_to_the_byte() {
    let (data, origin) = (Data::new("same"), payments());
    let gate = gate("idem-same", &config(&data, origin.address, "", "idempotency = {}"));
    let names = ["location", "set-cookie", "x-odd", "content-length"];
    let first = post(&gate, "Idempotency-Key: \"k 1\"\r\n", "ten");
    assert_eq!((first.status, &*first.body, first.header("idempotency-replayed")), (201, "effect 1", ""));
    let commits = gate.metric("tidegate_store_commits_total").unwrap();
    assert_eq!(commits, 2.0, "one for the claim, one for the answer");
    for _ in 0..3 {
        let again = post(&gate, "Idempotency-Key: \"k 1\"\r\n", "ten");
        assert_eq!((again.status, &again.body), (201, &first.body));
        assert_eq!(lines(&again, &names), lines(&first, &names));
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"));
    }
    assert_eq!(gate.metric("tidegate_store_commits_total"), Some(commits), "a repeat writes nothing");
    assert_eq!(post(&gate, "Idempotency-Key: k2\r\n", "ten").body, "effect 2");
    assert_eq!(post(&gate, "Idempotency-Key: \"k2\"\r\n", "ten").body, "effect 2", "with quotes or without");
    // Without a key each has its own effect; what is safe has none to repeat.
    assert_eq!([post(&gate, "", "ten").body, post(&gate, "", "ten").body], ["effect 3", "effect 4"]);
    let safe = || ask(&gate, "GET /pay", "Idempotency-Key: k2\r\n", "").body;
    assert_eq!([safe(), safe()], ["effect 5", "effect 6"]);
    let outcome =
        |name: &str| gate.metric(&format!("tidegate_idempotency_total{{route=\"pay\",outcome=\"{name}\"}}"));
    assert_eq!((outcome("first"), outcome("replayed")), (Some(2.0), Some(4.0)));
    until("the log tells it", || gate.access_log().contains("\"idempotency\":\"replayed\""));
    let explained = control(&gate, &format!("/explain/{}", first.header("x-request-id")));
    assert!(explained.contains("claimed, on disk"), "{explained}");
    assert!(origin.recorded()[0].head.to_ascii_lowercase().contains("idempotency-key: \"k 1\""));
}

#[test]
fn a_key_is_for_one_request_and_it_must_be_one() {
    let (data, origin) = (Data::new("one"), payments());
    let gate = gate("idem-one", &config(&data, origin.address, "", "idempotency = { required = true }"));
    let key = "Idempotency-Key: k\r\n";
    assert_eq!(post(&gate, key, "ten").status, 201);
    check(&post(&gate, key, "eleven"), 422, "idempotency.mismatch");
    check(&ask(&gate, "POST /pay?fast", key, "ten"), 422, "idempotency.mismatch");
    check(&ask(&gate, "PUT /pay", key, "ten"), 422, "idempotency.mismatch");
    check(&post(&gate, "", "ten"), 400, "idempotency.key-missing");
    check(&ask(&gate, "PATCH /pay", "", "ten"), 400, "idempotency.key-missing");
    check(&post(&gate, "Idempotency-Key: a b\r\n", ""), 400, "idempotency.key-invalid");
    check(&post(&gate, "Idempotency-Key: a\r\nIdempotency-Key: a\r\n", ""), 400, "idempotency.key-invalid");
    let grpc = "Idempotency-Key: s\r\nContent-Type: application/grpc\r\nAccept: application/json\r\n";
    assert_ne!(post(&gate, grpc, "").header("grpc-status"), "");
    let upgrade = "Idempotency-Key: s\r\nConnection: upgrade\r\nUpgrade: echo\r\n";
    check(&post(&gate, upgrade, ""), 400, "idempotency.stream");
    assert_eq!(origin.recorded().len(), 1);
    // What is idempotent by itself needs no key.
    assert_eq!(ask(&gate, "DELETE /pay", "", "").status, 201);
}

#[test]
fn a_record_is_found_by_its_tenant_and_its_route_alone() {
    let (data, origin) = (Data::new("whose"), payments());
    let gate = gate("idem-whose", &config(&data, origin.address, "", "idempotency = { keys = 2 }"));
    let of = |tenant: &str, line: &str, key: &str| {
        ask(&gate, line, &format!("X-Tenant: {tenant}\r\nIdempotency-Key: {key}\r\n"), "ten")
    };
    assert_eq!(of("a", "POST /pay", "k").body, "effect 1");
    assert_eq!(of("b", "POST /pay", "k").body, "effect 2");
    assert_eq!(of("a", "POST /other", "k").body, "effect 3");
    assert_eq!(post(&gate, "Idempotency-Key: k\r\n", "ten").body, "effect 4", "who is its address alone");
    assert_eq!(of("a", "POST /pay", "k").body, "effect 1");
    // As many as it may at a time, and nobody else's room.
    check(&of("a", "POST /pay", "l"), 429, "idempotency.full");
    assert_eq!(of("b", "POST /pay", "l").body, "effect 5");
    assert_eq!(origin.recorded().len(), 5);
}

#[test]
fn a_cookie_is_replayed_to_the_same_credential_alone() {
    let (data, origin) = (Data::new("cookie"), payments());
    let gate = gate("idem-cookie", &config(&data, origin.address, "", "idempotency = {}"));
    let of = |user: &str| {
        let told = post(&gate, &format!("Authorization: Basic {user}\r\nIdempotency-Key: k\r\n"), "ten");
        (told.body.clone(), lines(&told, &["set-cookie"]).len())
    };
    assert_eq!([of("ann"), of("ann"), of("bob")].map(|(_, cookies)| cookies), [2, 2, 0]);
    assert_eq!(of("bob").0, "effect 1");
}

#[test]
fn who_comes_while_the_first_is_under_way_waits_for_it_or_is_told_to_come_again() {
    let (data, origin) = (Data::new("wait"), Gated::new());
    let gate = gate(
        "idem-wait",
        &config(&data, origin.address(), "", "deadline = \"20s\"\nidempotency = { wait = \"20s\" }"),
    );
    let begin = |line: &str| {
        let mut stream = connect(gate.address);
        stream.write_all(request(line, "Idempotency-Key: k\r\n", "ten").as_bytes()).unwrap();
        stream
    };
    let mut streams = vec![begin("POST /pay")];
    until("the first is with the origin", || origin.entered() == 1);
    streams.extend([begin("POST /pay"), begin("POST /pay")]);
    until("two wait for it", || under_way(&gate) == ("1".to_owned(), "2".to_owned()));
    // Another request with the key is told at once that it is another.
    check(&post(&gate, "Idempotency-Key: k\r\n", "eleven"), 422, "idempotency.mismatch");
    origin.let_go();
    let told: Vec<Answer> = streams.iter_mut().map(read_answer).collect();
    assert!(told.iter().all(|one| one.status == 201 && one.body == "effect 1"), "{told:?}");
    let replayed: Vec<&str> = told.iter().map(|one| one.header("idempotency-replayed")).collect();
    assert_eq!(replayed, ["", "true", "true"]);
    assert_eq!(origin.entered(), 1);
}

#[test]
fn who_has_waited_long_enough_is_told_to_come_again() {
    let (data, origin) = (Data::new("patience"), Gated::new());
    let route = "deadline = \"20s\"\nidempotency = { wait = \"10ms\" }";
    let gate = gate("idem-patience", &config(&data, origin.address(), "", route));
    let mut first = connect(gate.address);
    first.write_all(request("POST /pay", "Idempotency-Key: k\r\n", "ten").as_bytes()).unwrap();
    until("the first is with the origin", || origin.entered() == 1);
    let second = post(&gate, "Idempotency-Key: k\r\n", "ten");
    check(&second, 409, "idempotency.in-progress");
    assert_ne!(second.header("retry-after"), "");
    origin.let_go();
    assert_eq!(read_answer(&mut first).body, "effect 1");
}

#[test]
fn what_was_begun_is_finished_when_its_client_leaves() {
    let (data, origin) = (Data::new("leaves"), Gated::new());
    let gate =
        gate("idem-leaves", &config(&data, origin.address(), "", "deadline = \"20s\"\nidempotency = {}"));
    let mut first = connect(gate.address);
    first.write_all(request("POST /pay", "Idempotency-Key: k\r\n", "ten").as_bytes()).unwrap();
    until("the first is with the origin", || origin.entered() == 1);
    // A reset, so that nobody has to ask whether it is still there.
    socket2::SockRef::from(&first).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(first);
    until("it is known to have left", || gate.metric("tidegate_connections") == Some(0.0));
    assert_eq!(under_way(&gate).0, "1");
    origin.let_go();
    until("it has ended", || under_way(&gate).0 == "0");
    let again = post(&gate, "Idempotency-Key: k\r\n", "ten");
    assert_eq!((&*again.body, again.header("idempotency-replayed")), ("effect 1", "true"));
    assert_eq!(origin.entered(), 1);
    until("the log tells of one who left", || gate.access_log().contains("\"end\":\"client-gone\""));
}

#[test]
fn a_stream_of_http_2_that_is_reset_does_not_stop_what_it_began() {
    let (data, origin) = (Data::new("h2"), Gated::new());
    let gate = gate("idem-h2", &config(&data, origin.address(), "", "deadline = \"20s\"\nidempotency = {}"));
    let request =
        |key: &str| http::Request::post("http://test/pay").header("idempotency-key", key).body(()).unwrap();
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let (answer, mut body) = client.send_request(request("\"k\""), false).unwrap();
        body.send_data(Bytes::from_static(b"ten"), true).unwrap();
        while origin.entered() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        body.send_reset(h2::Reason::CANCEL);
        drop((answer, body));
        // What comes behind the reset is answered: it has been heard by then.
        let refused = client.send_request(request("a b"), true).unwrap().0.await.unwrap();
        assert_eq!(refused.status(), 400);
        origin.let_go();
        let (answer, mut body) = client.send_request(request("k"), false).unwrap();
        body.send_data(Bytes::from_static(b"ten"), true).unwrap();
        let mut answer = answer.await.unwrap();
        let replayed = answer.headers()["idempotency-replayed"].to_str().unwrap();
        assert_eq!((answer.status().as_u16(), replayed), (201, "true"));
        assert_eq!(h2_read(answer.body_mut()).await.0, b"effect 1");
    });
    assert_eq!(origin.entered(), 1);
}

#[test]
fn what_had_no_effect_frees_the_key_and_an_error_is_an_answer() {
    let data = Data::new("free");
    let visits = AtomicU64::new(0);
    let origin = Origin::scripted(move |visit| {
        visit.read_body()?;
        let number = visits.fetch_add(1, SeqCst);
        let busy = visit.path() == "/busy" && number == 0;
        receipt(visit, if busy { "429 Busy" } else { "500 Failed" }, &format!("visit {number}"))
    });
    let route = "retry = { tries = 1 }\nidempotency = {}";
    let gate = gate("idem-free", &config(&data, origin.address, "", route));
    let ask = |line: &str, key: &str| {
        let told = ask(&gate, line, &format!("Idempotency-Key: {key}\r\n"), "ten");
        (told.status, told.body)
    };
    assert_eq!(ask("POST /busy", "a"), (429, "visit 0".to_owned()));
    assert_eq!(ask("POST /busy", "a"), (500, "visit 1".to_owned()), "it was free again");
    assert_eq!(
        ask("POST /busy", "a"),
        (500, "visit 1".to_owned()),
        "the application may have done something"
    );
    let address = origin.address;
    origin.stop();
    let (status, body) = ask("POST /pay", "b");
    assert!(status >= 502 && body.contains("\"upstream."), "{status} {body}");
    let origin = Origin::start_at(address, |_| tidegate_testkit::Reply::Status(201, "now".to_owned()));
    assert_eq!(ask("POST /pay", "b"), (201, "now".to_owned()), "nothing had been sent");
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn what_was_sent_and_not_answered_is_unknown_unless_the_upstream_is_idempotent() {
    for (upstream, expected) in [(false, 409), (true, 201)] {
        let data = Data::new(if upstream { "again" } else { "unknown" });
        let visits = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&visits);
        let origin = Origin::scripted(move |visit| {
            visit.read_body()?;
            match counted.fetch_add(1, SeqCst) {
                0 => None,
                _ => receipt(visit, "201 Created", "done"),
            }
        });
        let route = format!("retry = {{ tries = 1 }}\nidempotency = {{ upstream = {upstream} }}");
        let gate = gate(&format!("idem-lost-{upstream}"), &config(&data, origin.address, "", &route));
        check(&post(&gate, "Idempotency-Key: k\r\n", "ten"), 502, "upstream.reset");
        let again = post(&gate, "Idempotency-Key: k\r\n", "ten");
        assert_eq!(again.status, expected, "{}", again.body);
        if upstream {
            assert_eq!(post(&gate, "Idempotency-Key: k\r\n", "ten").header("idempotency-replayed"), "true");
            assert_eq!(visits.load(SeqCst), 2);
        } else {
            check(&again, 409, "idempotency.unknown");
            check(&post(&gate, "Idempotency-Key: k\r\n", "eleven"), 422, "idempotency.mismatch");
            assert_eq!(visits.load(SeqCst), 1);
        }
    }
}

#[test]
fn a_body_has_a_bound_and_an_answer_beyond_its_bound_is_told_once() {
    let data = Data::new("bounds");
    let origin = Origin::scripted(|visit| {
        visit.read_body()?;
        let size = if visit.path() == "/large" { 5000 } else { 10 };
        visit.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for _ in 0..5 {
            visit.say(format!("{:x}\r\n{}\r\n", size, "Z".repeat(size)))?;
        }
        visit.say("0\r\n\r\n")
    });
    let route = "idempotency = { body_max = \"1000B\", response_max = \"1000B\" }";
    let gate = gate("idem-bounds", &config(&data, origin.address, "", route));
    let key = |key: &str| format!("Idempotency-Key: {key}\r\n");
    check(&post(&gate, &key("a"), &"x".repeat(1001)), 413, "idempotency.body-too-large");
    let chunked = format!(
        "POST /pay HTTP/1.1\r\nHost: test\r\nIdempotency-Key: a\r\nConnection: close\r\n\
         Transfer-Encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1001)
    );
    assert!(send(gate.address, chunked.as_bytes()).contains("idempotency.body-too-large"));
    assert_eq!(origin.recorded().len(), 0, "nothing of it was sent");
    // What fits is told again, whatever its framing was.
    assert_eq!(send(gate.address, close("/small", "b").as_bytes()).matches('Z').count(), 50);
    let again = post_to(&gate, "/small", "b");
    assert_eq!((again.body.len(), again.header("idempotency-replayed")), (50, "true"));
    let large = send(gate.address, close("/large", "c").as_bytes());
    assert!(large.starts_with("HTTP/1.1 200 ") && large.matches('Z').count() == 25_000, "passed on whole");
    check(&post_to(&gate, "/large", "c"), 409, "idempotency.not-kept");
    assert_eq!(origin.recorded().len(), 2);
}

fn post_to(gate: &Gate, path: &str, key: &str) -> Answer {
    ask(gate, &format!("POST {path}"), &format!("Idempotency-Key: {key}\r\n"), "ten")
}

/// A request whose connection ends with its answer.
fn close(path: &str, key: &str) -> String {
    request(&format!("POST {path}"), &format!("Idempotency-Key: {key}\r\nConnection: close\r\n"), "ten")
}

#[test]
fn a_store_that_has_no_room_refuses_before_anything_is_sent() {
    let (data, origin) = (Data::new("room"), payments());
    let gate = gate("idem-room", &config(&data, origin.address, "size = \"1MiB\"", "idempotency = {}"));
    let padding = "k".repeat(240);
    let mut made = 0;
    let refused = loop {
        let told = post(&gate, &format!("Idempotency-Key: {made}-{padding}\r\n"), "ten");
        if told.status != 201 {
            break told;
        }
        made += 1;
        assert!(made < 5000, "it never is full");
    };
    check(&refused, 503, "store.unavailable");
    assert_eq!(origin.recorded().len(), made, "who was refused had no effect");
    assert_eq!(gate.metric("tidegate_store_up"), Some(0.0));
    assert!(control(&gate, "/status").contains("\"state\":\"full\""));
    let first = post(&gate, &format!("Idempotency-Key: 0-{padding}\r\n"), "ten");
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, "true"), "what it knows it tells");
}

#[test]
fn a_store_that_comes_with_a_reload_is_opened_and_one_that_cannot_be_changes_nothing() {
    let (data, origin) = (Data::new("reload"), payments());
    let with = config(&data, origin.address, "", "idempotency = {}");
    let store = format!("[store]\nurl = \"sqlite:{}\"\n", data.path().display());
    let without = with.replace(&store, "").replace("idempotency = {}", "");
    let gate = gate("idem-reload", &without);
    let reloads =
        |outcome: &str| gate.metric(&format!("tidegate_config_reloads_total{{outcome=\"{outcome}\"}}"));
    let twice = || [0, 1].map(|_| post(&gate, "Idempotency-Key: k\r\n", "ten").body);
    assert_eq!(twice(), ["effect 1", "effect 2"]);
    gate.rewrite(&with.replace(&store, "[store]\nurl = \"sqlite:/dev/null/data\"\n"));
    until("it is refused", || reloads("refused") == Some(1.0));
    assert_eq!(twice(), ["effect 3", "effect 4"]);
    gate.rewrite(&with);
    until("it is applied", || reloads("applied") == Some(1.0));
    assert_eq!(twice(), ["effect 5", "effect 5"]);
}

/// A payment server that answers when it is told to.
struct Gated {
    origin: Origin,
    entered: Arc<AtomicU64>,
    gate: Arc<(std::sync::Mutex<bool>, std::sync::Condvar)>,
}

impl Gated {
    fn new() -> Gated {
        let (entered, gate) = (Arc::<AtomicU64>::default(), Arc::<(std::sync::Mutex<bool>, _)>::default());
        let (counted, shut) = (Arc::clone(&entered), Arc::clone(&gate));
        let origin = Origin::scripted(move |visit| {
            visit.read_body()?;
            let number = counted.fetch_add(1, SeqCst) + 1;
            let (open, changed): &(std::sync::Mutex<bool>, std::sync::Condvar) = &shut;
            let mut open = open.lock().ok()?;
            while !*open {
                open = changed.wait(open).ok()?;
            }
            drop(open);
            receipt(visit, "201 Created", &format!("effect {number}"))
        });
        Gated { origin, entered, gate }
    }

    fn address(&self) -> SocketAddr {
        self.origin.address
    }

    /// Requests that have reached it.
    fn entered(&self) -> u64 {
        self.entered.load(SeqCst)
    }

    /// Answers all of them, and those that come.
    fn let_go(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}
