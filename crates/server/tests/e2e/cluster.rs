//! Several nodes and one Redis: what is purged on one is purged on all, whatever becomes of the Redis meanwhile.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;
use serde_json::Value;
use tidegate_testkit::{Gate, Origin, Redis, ask, until};

use crate::{app, control};

/// What a write orders where nothing is public: its target, of its tenant.
const ORDERS: u64 = 1;

/// An application that numbers its answers, and lets them be kept.
fn origin() -> Origin {
    let count = AtomicUsize::new(0);
    Origin::scripted(move |visit| {
        visit.read_body()?;
        let body = format!("answer {}", count.fetch_add(1, SeqCst));
        let length = body.len();
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    })
}

/// A node whose tenants are named by a header. `redis` is what stands in its table.
fn node(name: &str, origin: &Origin, redis: &str) -> Gate {
    let config = app(&[origin.address], "", "cache = {}");
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let tenants = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n";
    let config = format!("{config}{tenants}[redis]\n{redis}\n");
    Gate::start_listening(crate::BINARY, name, listen, &config)
}

/// The same with the tier that all nodes share, for which a request waits so long at most.
fn sharing(name: &str, origin: &Origin, redis: &str, wait: &str) -> Gate {
    let gate = node(name, origin, &format!("{redis}\n[cache]\nredis = {{ wait = \"{wait}\" }}"));
    up(&gate);
    gate
}

fn url(address: SocketAddr) -> String {
    format!("url = \"redis://{address}\"\nconnect_timeout = \"10s\"\ntimeout = \"10s\"")
}

/// The same for one that hangs: that is noticed soon.
fn hurried(address: SocketAddr) -> String {
    url(address).replace("10s", "500ms")
}

/// Two nodes on one Redis, both with a place in the log.
fn pair(name: &str, origin: &Origin, first: SocketAddr, second: SocketAddr) -> [Gate; 2] {
    let nodes = [("a", first), ("b", second)]
        .map(|(node, address)| self::node(&format!("{name}-{node}"), origin, &url(address)));
    nodes.iter().for_each(up);
    nodes
}

fn redis_status(gate: &Gate) -> Value {
    let answer = control(gate, "/status");
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    serde_json::from_str::<Value>(body).expect("the status is JSON")["redis"].clone()
}

fn up(gate: &Gate) {
    until("Redis is up", || redis_status(gate)["state"] == "up");
}

fn away(gate: &Gate) {
    until("Redis is away", || redis_status(gate)["state"] == "away");
}

fn get(gate: &Gate, path: &str, tenant: &str) -> (String, String) {
    let answer = ask(gate.address, &format!("GET {path}"), &format!("X-Tenant: {tenant}\r\n"));
    assert_eq!(answer.status, 200, "{}", answer.head);
    (answer.body.clone(), answer.header("cache-status").to_owned())
}

/// Which tiers of a node have `/x` of this tenant.
fn tiers(gate: &Gate, tenant: &str) -> Vec<(String, bool)> {
    let answer = control(gate, &format!("/cache/inspect?url=http%3A%2F%2Ftest%2Fx&tenant={tenant}"));
    let told: Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap_or_default()).expect("JSON");
    let one = |tier: &Value| (tier["tier"].as_str().unwrap_or_default().to_owned(), tier["stored"] == true);
    told["tiers"].as_array().expect("tiers").iter().map(one).collect()
}

/// Keeps it on this node.
fn warm(gate: &Gate, path: &str, tenant: &str) -> String {
    until("it is kept", || get(gate, path, tenant).1.starts_with("tidegate; hit"));
    get(gate, path, tenant).0
}

/// A write, which takes away what is kept of its target for its tenant.
fn write(gate: &Gate, path: &str, tenant: &str) {
    let fields = format!("X-Tenant: {tenant}\r\nContent-Length: 0\r\n");
    assert_eq!(ask(gate.address, &format!("POST {path}"), &fields).status, 200);
}

fn is_hit(gate: &Gate, path: &str, tenant: &str) -> bool {
    get(gate, path, tenant).1.starts_with("tidegate; hit")
}

/// A way to somewhere that can be cut and mended.
struct Way {
    address: SocketAddr,
    state: Arc<Mutex<WayState>>,
}

#[derive(Default)]
struct WayState {
    cut: bool,
    streams: Vec<TcpStream>,
}

impl Way {
    fn to(target: SocketAddr) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<WayState>>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut state = shared.lock();
                let (false, Ok(far)) = (state.cut, TcpStream::connect(target)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                state.streams.extend([near, far]);
            }
        });
        Way { address, state }
    }

    fn cut(&self) {
        let mut state = self.state.lock();
        state.cut = true;
        for stream in state.streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.state.lock().cut = false;
    }
}

#[test]
fn what_is_written_on_one_node_is_not_served_as_it_was_by_another() {
    let (redis, origin) = (Redis::start("written"), origin());
    let [a, b] = pair("written", &origin, redis.address, redis.address);
    for path in ["/x", "/y"] {
        warm(&b, path, "acme");
    }
    let kept = warm(&b, "/x", "umbrella");
    write(&a, "/x", "acme");
    until("the other node has read it", || !is_hit(&b, "/x", "acme"));
    assert!(is_hit(&b, "/y", "acme"), "another path is untouched");
    let (body, status) = get(&b, "/x", "umbrella");
    assert!(status.starts_with("tidegate; hit") && body == kept, "another tenant is untouched: {status}");
    assert_eq!(b.metric("tidegate_purges_total{direction=\"read\"}"), Some(ORDERS as f64));
    assert_eq!(a.metric("tidegate_purges_total{direction=\"sent\"}"), Some(ORDERS as f64));
}

/// Orders a purge through the control API of a node.
fn purge(gate: &Gate, order: &str) {
    let (status, told) = crate::cache::say(gate, "purge", "POST /purge", order);
    assert_eq!(status, 200, "{order}: {told}");
}

#[test]
fn what_an_operator_purges_on_one_node_is_purged_on_all_of_them() {
    let (redis, origin) = (Redis::start("ordered"), origin());
    let [a, b] = ["ordered-a", "ordered-b"].map(|name| {
        let gate = crate::cache::steered_with(name, &origin, &format!("[redis]\n{}", url(redis.address)));
        up(&gate);
        gate
    });
    for (number, order) in [
        r#"{"url": "http://test/v1/x"}"#,
        r#"{"prefix": "http://test/v1", "tenant": "acme"}"#,
        r#"{"host": "test", "tenant": "acme"}"#,
        r#"{"tenant": "acme"}"#,
    ]
    .into_iter()
    .enumerate()
    {
        let before = warm(&b, "/v1/x", "acme");
        let umbrella = warm(&b, "/v1/y", "umbrella");
        purge(&a, order);
        until("the other node has read it", || get(&b, "/v1/x", "acme").0 != before);
        let (body, status) = get(&b, "/v1/y", "umbrella");
        assert!(status.starts_with("tidegate; hit") && body == umbrella, "{order} is not of that: {status}");
        until("it is counted", || redis_status(&b)["purges"]["read"] == number as u64 + 1);
    }
    let before = warm(&b, "/v1/x", "acme");
    purge(&a, r#"{"everything": true, "soft": true}"#);
    until("the other node has read it", || redis_status(&b)["purges"]["read"] == 5);
    let (after, status) = get(&b, "/v1/x", "acme");
    assert!(after != before && status.starts_with("tidegate; fwd=stale"), "{status}");
}

#[test]
fn a_node_that_was_away_catches_up() {
    let (redis, origin) = (Redis::start("away"), origin());
    let way = Way::to(redis.address);
    let [a, b] = pair("away", &origin, redis.address, way.address);
    for path in ["/x", "/y"] {
        warm(&b, path, "acme");
    }
    way.cut();
    away(&b);
    write(&a, "/x", "acme");
    until("it is in the log", || redis_status(&a)["purges"]["sent"] == ORDERS);
    assert!(is_hit(&b, "/x", "acme"), "traffic goes on with what it has");
    assert_eq!(b.metric("tidegate_redis_up"), Some(0.0));
    way.mend();
    up(&b);
    assert!(!is_hit(&b, "/x", "acme"));
    assert!(is_hit(&b, "/y", "acme"), "nothing else was touched");
    assert_eq!(redis_status(&b)["purges"]["lost"], 1, "only the beginning");
}

#[test]
fn a_node_that_was_away_until_the_log_was_trimmed_takes_all_it_has_for_stale() {
    let (redis, origin) = (Redis::start("trimmed"), origin());
    let way = Way::to(redis.address);
    let [a, b] = pair("trimmed", &origin, redis.address, way.address);
    warm(&b, "/x", "acme");
    way.cut();
    away(&b);
    for path in ["/1", "/2"] {
        write(&a, path, "acme");
    }
    until("both are in the log", || redis_status(&a)["purges"]["sent"] == 2 * ORDERS);
    let _ = redis.ask(&["XTRIM", "tidegate:purges", "MAXLEN", "1"]);
    way.mend();
    up(&b);
    let (_, status) = get(&b, "/x", "acme");
    assert!(status.starts_with("tidegate; fwd=stale"), "stale, and still there: {status}");
    assert_eq!(redis_status(&b)["purges"]["lost"], 2);
    assert_eq!(b.metric("tidegate_purges_lost_total"), Some(2.0));
}

#[test]
fn what_is_purged_while_redis_is_away_is_sent_when_it_is_back() {
    let (mut redis, origin) = (Redis::start("stopped"), origin());
    let [a, b] = pair("stopped", &origin, redis.address, redis.address);
    warm(&a, "/x", "acme");
    warm(&b, "/x", "acme");
    redis.stop();
    away(&a);
    away(&b);
    write(&a, "/x", "acme");
    assert!(!is_hit(&a, "/x", "acme"), "here it is seen at once");
    assert!(is_hit(&b, "/x", "acme"), "traffic goes on");
    assert_eq!(redis_status(&a)["purges"]["waiting"], ORDERS);
    redis.start_again();
    up(&a);
    up(&b);
    until("the other node has read it", || redis_status(&b)["purges"]["read"] == ORDERS);
    assert!(!is_hit(&b, "/x", "acme"));
    assert_eq!(redis_status(&b)["purges"]["lost"], 1, "the log was kept");
}

#[test]
fn a_redis_that_has_lost_its_data_makes_stale_what_nodes_have_and_is_told_the_last_purges_again() {
    let (redis, origin) = (Redis::start("flushed"), origin());
    let way = Way::to(redis.address);
    let [a, b] = pair("flushed", &origin, redis.address, way.address);
    warm(&b, "/x", "acme");
    warm(&b, "/y", "acme");
    way.cut();
    away(&b);
    write(&a, "/x", "acme");
    until("it was read back", || redis_status(&a)["purges"]["place"] != redis_status(&b)["purges"]["place"]);
    let _ = redis.ask(&["FLUSHALL"]);
    until("the first node sees it", || redis_status(&a)["purges"]["lost"] == 2);
    until("what it ordered is in the log again", || redis_status(&a)["purges"]["sent"] == 2 * ORDERS);
    way.mend();
    up(&b);
    until("the other node has read it", || redis_status(&b)["purges"]["read"] == ORDERS);
    assert!(get(&b, "/x", "acme").1.starts_with("tidegate; fwd=uri-miss"), "purged for good");
    assert!(get(&b, "/y", "acme").1.starts_with("tidegate; fwd=stale"), "stale");
}

/// A node that keeps its answers in this directory, too.
fn on_disk(name: &str, origin: &Origin, address: SocketAddr, path: &std::path::Path) -> Gate {
    let disk = format!("[cache]\ndisk = {{ path = \"{}\", size = \"64MiB\" }}", path.display());
    let gate = node(name, origin, &format!("{}\n{disk}", url(address)));
    until("the disk tier serves", || gate.metric("tidegate_cache_disk_up") == Some(1.0));
    gate
}

#[test]
fn a_node_that_starts_again_goes_on_from_its_place_in_the_log_with_what_is_on_its_disk() {
    let (mut redis, origin) = (Redis::start("restart"), origin());
    let folder = Gate::folder("restart-disk");
    let a = node("restart-a", &origin, &url(redis.address));
    up(&a);
    let mut b = on_disk("restart-b", &origin, redis.address, &folder);
    up(&b);
    write(&a, "/w", "acme");
    until("it has a place in the log", || redis_status(&b)["purges"]["read"] == ORDERS);
    let [x, y] = ["/x", "/y"].map(|path| warm(&b, path, "acme"));
    until("both are on disk", || {
        b.metric("tidegate_cache_disk_writes_total{outcome=\"written\"}") == Some(2.0)
    });
    b.signal("-TERM");
    b.wait();
    write(&a, "/x", "acme");
    until("it is in the log", || redis_status(&a)["purges"]["sent"] == 2 * ORDERS);
    let mut b = on_disk("restart-b2", &origin, redis.address, &folder);
    up(&b);
    let (body, status) = get(&b, "/y", "acme");
    assert!(body == y && status.starts_with("tidegate; hit"), "nothing has purged it: {status}");
    assert_ne!(get(&b, "/x", "acme").0, x, "it was purged while the node was away");
    assert_eq!(redis_status(&b)["purges"]["lost"], 0, "it knows what it has missed");
    b.signal("-TERM");
    b.wait();
    redis.stop();
    let b = on_disk("restart-b3", &origin, redis.address, &folder);
    away(&b);
    let (_, status) = get(&b, "/y", "acme");
    assert!(status.starts_with("tidegate; fwd=stale"), "nobody can know whether it was purged: {status}");
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn an_entry_of_the_log_that_cannot_be_read_makes_everything_stale() {
    let (redis, origin) = (Redis::start("foreign"), origin());
    let [a, _b] = pair("foreign", &origin, redis.address, redis.address);
    warm(&a, "/x", "acme");
    let _ = redis.ask(&["XADD", "tidegate:purges", "*", "order", "9 of a later version"]);
    until("it is stale", || get(&a, "/x", "acme").1.starts_with("tidegate; fwd=stale"));
    up(&a);
}

#[test]
fn a_wrong_password_costs_the_purges_of_others_alone_until_it_is_mended() {
    // The rights that docs/cluster.md asks for, and no others.
    let user = ["--user", "gate", "on", ">right", "~tidegate:*", "+xadd", "+xrange", "+xread"];
    let (redis, origin) = (Redis::start_with("password", &user), origin());
    let at = |password: &str| format!("url = \"redis://gate:{password}@{}\"", redis.address);
    let gate = node("password", &origin, &at("wrong-one"));
    away(&gate);
    let told = redis_status(&gate);
    assert!(told["error"].as_str().is_some_and(|error| error.contains("authentication failed")), "{told}");
    warm(&gate, "/x", "acme");
    let said = gate.said() + &control(&gate, "/status") + &control(&gate, "/config");
    assert!(!said.contains("wrong-one"), "the password is told nowhere: {said}");
    let config = std::fs::read_to_string(&gate.file).unwrap();
    std::fs::write(&gate.file, config.replace("wrong-one", "right")).unwrap();
    up(&gate);
}

#[test]
fn what_is_no_redis_is_away_and_traffic_goes_on() {
    let garbage: [&[u8]; 4] =
        [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*1000000000\r\n$-7\r\n", b"\xff\xfe\0", b""];
    for (number, bytes) in garbage.into_iter().enumerate() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let _ = std::io::Write::write_all(&mut stream, bytes);
                open.push(stream);
            }
        });
        let origin = origin();
        let gate = node(&format!("garbage-{number}"), &origin, &hurried(address));
        away(&gate);
        warm(&gate, "/x", "acme");
        write(&gate, "/x", "acme");
        assert!(!is_hit(&gate, "/x", "acme"));
    }
}

#[test]
fn purges_go_over_tls_where_the_url_says_so() {
    let folder = Gate::folder("redis-tls");
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let _ = tidegate_testkit::tls::certificate(&["127.0.0.1", "localhost"], &cert, &key);
    let port = tidegate_testkit::Port::take();
    let tls_port = port.address.port().to_string();
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let arguments = [
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ];
    let (_redis, origin) = (Redis::start_with("tls", &arguments), origin());
    let gate =
        node("redis-tls", &origin, &format!("url = \"rediss://127.0.0.1:{tls_port}\"\nca = \"{cert}\""));
    up(&gate);
    let untrusting =
        node("redis-tls-untrusting", &origin, &format!("url = \"rediss://127.0.0.1:{tls_port}\""));
    away(&untrusting);
}

#[test]
fn what_one_node_was_answered_another_one_need_not_ask_for() {
    let (redis, origin) = (Redis::start("shared"), origin());
    let [a, b] = ["shared-a", "shared-b"].map(|name| sharing(name, &origin, &url(redis.address), "10s"));
    let kept = get(&a, "/x", "acme").0;
    until("it is shared", || redis.ask(&["DBSIZE"]).starts_with(":2"));
    let looked = [("memory".to_owned(), false), ("shared".to_owned(), true)];
    until("whoever looks sees where it is", || tiers(&b, "acme") == looked);
    let (body, status) = get(&b, "/x", "acme");
    assert!(body == kept && status.starts_with("tidegate; hit"), "{status}");
    assert!(status.ends_with("; detail=shared"), "{status}");
    assert_eq!(tiers(&b, "acme")[0], ("memory".to_owned(), true));
    let (other, status) = get(&b, "/x", "umbrella");
    assert!(other != kept && status.contains("uri-miss"), "another tenant's is another answer: {status}");
    assert_eq!(origin.recorded().len(), 2);
    let told = redis_status(&b)["shared"].clone();
    assert!(told["hits"].as_u64() >= Some(2) && told["misses"] == 1, "{told}");
    let late = sharing("shared-late", &origin, &url(redis.address), "10s");
    assert_eq!(get(&late, "/x", "acme").0, kept, "one that has just begun finds it, too");
}

#[test]
fn what_was_purged_is_not_read_back_from_where_all_nodes_share_it() {
    let (redis, origin) = (Redis::start("unshared"), origin());
    let [a, b] = ["unshared-a", "unshared-b"].map(|name| sharing(name, &origin, &url(redis.address), "10s"));
    let kept = get(&a, "/x", "acme").0;
    until("it is shared", || redis.ask(&["DBSIZE"]).starts_with(":2"));
    write(&b, "/x", "acme");
    assert_ne!(get(&b, "/x", "acme").0, kept, "on the node that purged it");
    until("the other one has read it", || get(&a, "/x", "acme").0 != kept);
    let late = sharing("unshared-late", &origin, &url(redis.address), "10s");
    assert_ne!(get(&late, "/x", "acme").0, kept, "on one that has just begun");
    let _ = redis.ask(&["FLUSHALL"]);
    until("nodes see it", || [&a, &b].iter().all(|gate| redis_status(gate)["purges"]["lost"] == 2));
    get(&b, "/y", "acme");
}

#[test]
fn a_shared_tier_that_is_broken_hangs_or_is_away_costs_no_answer() {
    let (mut redis, origin) = (Redis::start("hangs"), origin());
    let [a, b] = ["hangs-a", "hangs-b"].map(|name| sharing(name, &origin, &hurried(redis.address), "300ms"));
    get(&a, "/x", "acme");
    until("it is shared", || redis.ask(&["DBSIZE"]).starts_with(":2"));
    let keys = redis.ask(&["KEYS", "tidegate:answer:*"]);
    let key = keys.lines().last().unwrap_or_default().to_owned();
    let _ = redis.ask(&["SETRANGE", &key, "20", "?"]);
    assert!(get(&b, "/x", "acme").1.contains("uri-miss"), "what is broken is not there");
    assert_eq!(redis_status(&b)["shared"]["unusable"], 1);
    redis.hang(true);
    get(&b, "/y", "acme");
    away(&b);
    get(&b, "/z", "acme");
    redis.hang(false);
    up(&b);
    redis.stop();
    away(&b);
    assert_eq!(get(&b, "/late", "acme").1, "tidegate; fwd=uri-miss; fwd-status=200; stored");
}
