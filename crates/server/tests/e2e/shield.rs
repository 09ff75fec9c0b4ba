//! The origin shield: nodes of a cluster ask a target's home node before the upstream, and get along without it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;
use serde_json::Value;
use tidegate_testkit::tls::certificate;
use tidegate_testkit::{Answer, Gate, Origin, Visit, ask, connect, read_answer, until};

use crate::{app, control};

/// So many targets that each node is the home of some.
const MANY: usize = 40;
pub const SECRET: &str = "secret = \"0123456789abcdef0123456789abcdef\"";
/// Nobody is late here, however slow the machine is.
pub const PATIENT: &str = "wait = \"20s\"\nconnect_timeout = \"20s\"";

/// An address of this machine that nobody else has: nodes must know each other's before the first of them listens. Of the
/// loopback network, each process of tests has a part of its own.
pub fn address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, SeqCst));
    let [.., high, low] = process.to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | high & 63, low, u8::try_from(2 + number % 250).expect("a byte"));
    SocketAddr::from((ip, u16::try_from(7_400 + number / 250 + (process >> 14) % 1_000).expect("a port")))
}

/// An application that numbers its answers, which may be kept for longer than any test lasts.
fn origin() -> Origin {
    saying("Cache-Control: max-age=6000")
}

fn saying(fields: &'static str) -> Origin {
    let count = AtomicUsize::new(0);
    Origin::scripted(move |visit| {
        visit.read_body()?;
        answer(visit, fields, &format!("answer {}", count.fetch_add(1, SeqCst)))
    })
}

fn answer(visit: &mut Visit, fields: &str, body: &str) -> Option<()> {
    let length = body.len();
    visit.say(format!("HTTP/1.1 200 OK\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{body}"))
}

/// `[cluster]` of the node that is at this place among them.
pub fn cluster(nodes: &[SocketAddr], me: usize, more: &str) -> String {
    let names: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
    format!("[cluster]\nlisten = \"{}\"\nnodes = [{}]\n{more}\n", nodes[me], names.join(", "))
}

/// A node whose tenants are named by a header, with this for its cluster.
fn node(name: &str, origin: &Origin, cluster: &str) -> Gate {
    Gate::start_listening(crate::BINARY, name, LISTEN, &config(origin, cluster))
}

const LISTEN: &str = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";

fn config(origin: &Origin, cluster: &str) -> String {
    let config = app(&[origin.address], "", "cache = {}\ndeadline = \"60s\"");
    format!("{config}[tenants]\nfrom = [{{ header = \"x-tenant\" }}]\n{cluster}")
}

/// So many nodes of one cluster.
fn nodes<const N: usize>(name: &str, origin: &Origin) -> [Gate; N] {
    let addresses: [SocketAddr; N] = std::array::from_fn(|_| address());
    let more = format!("{SECRET}\n{PATIENT}");
    std::array::from_fn(|me| node(&format!("{name}-{me}"), origin, &cluster(&addresses, me, &more)))
}

fn get(gate: &Gate, path: &str) -> Answer {
    let answer = ask(gate.address, &format!("GET {path}"), "X-Tenant: acme\r\n");
    assert_eq!(answer.status, 200, "{}", answer.head);
    answer
}

/// How many caches an answer has passed.
fn caches(answer: &Answer) -> usize {
    answer.header("cache-status").matches("tidegate").count()
}

/// A path, not asked for before, whose home is the other one of two nodes; it is asked for now. Paths begin with this.
fn foreign(gate: &Gate, begin: &str) -> (String, Answer) {
    let mut paths = (0..).map(|number| format!("{begin}{number}"));
    paths
        .find_map(|path| {
            let answer = get(gate, &path);
            (caches(&answer) == 2).then_some((path, answer))
        })
        .expect("each node is the home of some")
}

/// What the node has counted of this.
pub fn count(gate: &Gate, metric: &str) -> f64 {
    gate.metric(metric).unwrap_or_else(|| panic!("no {metric}"))
}

fn asked(gate: &Gate, outcome: &str) -> f64 {
    count(gate, &format!("tidegate_cluster_asked_total{{outcome=\"{outcome}\"}}"))
}

fn strangers(gate: &Gate) -> f64 {
    count(gate, "tidegate_cluster_strangers_total")
}

#[test]
fn misses_on_all_nodes_at_once_make_one_request() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let origin = Origin::scripted(move |visit| {
        until("the origin may answer", || gate.load(SeqCst));
        answer(visit, "Cache-Control: max-age=60", "one")
    });
    let nodes: [Gate; 3] = nodes("stampede", &origin);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|number| {
                let node = &nodes[number % 3];
                scope.spawn(move || get(node, "/x").body)
            })
            .collect();
        until("all nodes ask", || nodes.iter().all(|node| count(node, "tidegate_cache_awaited") >= 1.0));
        open.store(true, SeqCst);
        for client in clients {
            assert_eq!(client.join().expect("it is answered"), "one");
        }
    });
    assert_eq!(origin.recorded().len(), 1);
    for node in &nodes {
        assert_eq!(get(node, "/x").body, "one");
    }
    assert_eq!(origin.recorded().len(), 1, "each keeps it");
}

#[test]
fn what_a_home_has_the_others_get_from_it_with_its_age_and_both_say_so() {
    let origin = saying("Cache-Control: max-age=60\r\nAge: 7");
    let [a, b]: [Gate; 2] = nodes("age", &origin);
    let (path, first) = foreign(&a, "/x");
    let said = first.header("cache-status");
    assert_eq!(said.matches("stored").count(), 2, "{said}");
    let before = origin.recorded().len();
    assert_eq!(get(&b, &path).body, first.body, "the home has kept it, too");
    let again = get(&a, &path);
    assert_eq!((again.body, origin.recorded().len()), (first.body, before));
    let age: u32 =
        ask(a.address, &format!("GET {path}"), "X-Tenant: acme\r\n").header("age").parse().expect("an age");
    assert!(age >= 7, "{age}");
    until("the log tells", || a.access_log().contains("\"home\":\"answered\""));
}

#[test]
fn tenants_are_kept_apart_whatever_nodes_they_come_by() {
    let origin = origin();
    let nodes: [Gate; 2] = nodes("tenants", &origin);
    let mut bodies = std::collections::HashMap::new();
    for path in 0..8 {
        for tenant in ["acme", "umbrella"] {
            for node in &nodes {
                let answer = ask(node.address, &format!("GET /{path}"), &format!("X-Tenant: {tenant}\r\n"));
                bodies.entry((path, tenant)).or_insert_with(Vec::new).push(answer.body);
            }
        }
    }
    assert_eq!(origin.recorded().len(), 16, "one for each path and tenant");
    let mut seen = std::collections::HashSet::new();
    for (whose, bodies) in bodies {
        assert_eq!(bodies[0], bodies[1], "{whose:?}");
        assert!(seen.insert(bodies[0].clone()), "nobody gets what another one was answered");
    }
    for request in origin.recorded() {
        assert_eq!(
            request.head.to_ascii_lowercase().matches("tidegate-tenant: ").count(),
            1,
            "{}",
            request.head
        );
    }
}

#[test]
fn a_home_that_is_killed_is_done_without() {
    let origin = origin();
    let [a, b]: [Gate; 2] = nodes("killed", &origin);
    foreign(&a, "/before");
    drop(b);
    for path in 0..MANY {
        assert_eq!(caches(&get(&a, &format!("/after{path}"))), 1);
    }
    assert!(asked(&a, "away") >= 1.0);
    let away = |gate: &Gate| control(gate, "/status").contains("\"state\":\"away\"");
    until("it is left alone", || {
        let _ = foreign_try(&a);
        away(&a)
    });
}

/// Asks for something new.
fn foreign_try(gate: &Gate) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    caches(&get(gate, &format!("/try{}", NEXT.fetch_add(1, SeqCst))))
}

#[test]
fn a_home_that_is_killed_while_it_asks_is_done_without() {
    let (held, origin) = held();
    let [a, b]: [Gate; 2] = nodes("midway", &origin);
    let (path, _) = foreign(&a, "/free");
    assert!(caches(&get(&a, &path)) > 0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..MANY)
            .map(|number| {
                scope.spawn({
                    let a = &a;
                    move || get(a, &format!("/held{number}"))
                })
            })
            .collect();
        let asked = |origin: &Origin| {
            origin.recorded().iter().filter(|request| request.head.contains("/held")).count()
        };
        until("all are asked for", || asked(&origin) == MANY);
        drop(b);
        held.store(false, SeqCst);
        for client in clients {
            assert_eq!(client.join().expect("it is answered").status, 200);
        }
    });
    assert!(asked(&a, "away") >= 1.0);
}

/// An application that keeps those waiting who ask for what begins with `/held`, as long as this is true.
fn held() -> (Arc<AtomicBool>, Origin) {
    let held = Arc::new(AtomicBool::new(true));
    let shared = Arc::clone(&held);
    let origin = Origin::scripted(move |visit| {
        visit.read_body()?;
        if visit.path().starts_with("/held") {
            until("it may answer", || !shared.load(SeqCst));
        }
        answer(visit, "Cache-Control: max-age=60", "free")
    });
    (held, origin)
}

#[test]
fn a_home_whose_upstream_takes_its_time_is_waited_for() {
    let (held, origin) = held();
    let addresses = [address(), address()];
    let more = format!("{SECRET}\n{PATIENT}");
    let [a, b] = [0, 1].map(|me| node(&format!("slow-{me}"), &origin, &cluster(&addresses, me, &more)));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..MANY)
            .map(|number| {
                scope.spawn({
                    let a = &a;
                    move || get(a, &format!("/held{number}"))
                })
            })
            .collect();
        until("the home asks for some of them", || count(&b, "tidegate_cache_awaited") >= 1.0);
        held.store(false, SeqCst);
        clients.into_iter().for_each(|client| drop(client.join().expect("it is answered")));
    });
    assert!(asked(&a, "answered") >= 1.0);
    assert_eq!(origin.recorded().len(), MANY, "none is asked for twice");
}

#[test]
fn a_home_that_hangs_is_not_waited_for() {
    let origin = origin();
    let addresses = [address(), address()];
    let more = format!("{SECRET}\nwait = \"100ms\"");
    let [a, b] = [0, 1].map(|me| node(&format!("hung-{me}"), &origin, &cluster(&addresses, me, &more)));
    b.signal("-STOP");
    let mut number = 0;
    until("a home is late or away", || {
        number += 1;
        assert_eq!(caches(&get(&a, &format!("/x{number}"))), 1);
        asked(&a, "late") + asked(&a, "away") >= 1.0
    });
    b.signal("-CONT");
    // Now it has all the time that it needs.
    a.rewrite(&config(&origin, &cluster(&addresses, 0, &format!("{SECRET}\n{PATIENT}"))));
    until("it is asked again", || foreign_try(&a) == 2);
}

#[test]
fn nodes_with_different_secrets_do_not_believe_each_other() {
    let origin = origin();
    let addresses = [address(), address()];
    let other = "secret = \"another one: 0123456789abcdef01234567\"";
    let [a, b] = [(0, SECRET), (1, other)].map(|(me, secret)| {
        node(&format!("secrets-{me}"), &origin, &cluster(&addresses, me, &format!("{secret}\n{PATIENT}")))
    });
    for path in 0..MANY {
        assert_eq!(caches(&get(&a, &format!("/{path}"))), 1);
    }
    assert!(asked(&a, "refused") >= 1.0 && asked(&a, "answered") == 0.0);
    assert!(strangers(&b) >= 1.0);
}

#[test]
fn a_stranger_gets_nothing_at_the_nodes_listener_nor_a_peer_at_the_clients() {
    let (origin, address) = (origin(), address());
    let gate = node("stranger", &origin, &cluster(&[address], 0, SECRET));
    let requests = [
        "GET /x HTTP/1.1\r\nHost: a\r\nX-Tenant: acme\r\n\r\n",
        "POST /_tidegate/peer HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /_tidegate/peer HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "not HTTP at all\r\n\r\n",
    ];
    for request in requests {
        let told = tidegate_testkit::send(address, request.as_bytes());
        assert!(told.starts_with("HTTP/1.1 403 "), "{told}");
    }
    assert_eq!(strangers(&gate), 4.0);
    assert!(origin.recorded().is_empty());
    // There it is a request like any other.
    let told = ask(gate.address, "POST /_tidegate/peer", "X-Tenant: acme\r\nContent-Length: 0\r\n");
    assert_eq!((told.body.as_str(), origin.recorded().len()), ("answer 0", 1));
}

/// A way to a node that remembers what it is asked.
fn recording(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let said = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let shared = Arc::clone(&said);
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(to) else { continue };
            let (mut down, mut up) =
                (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
            std::thread::spawn(move || std::io::copy(&mut up, &mut down));
            let (said, mut near, mut far) = (Arc::clone(&shared), near, far);
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(length @ 1..) = near.read(&mut buffer) {
                    said.lock().push(buffer[..length].to_vec());
                    if far.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (at, said)
}

#[test]
fn what_a_node_has_said_is_of_no_use_to_who_has_heard_it() {
    let origin = origin();
    let [first, second] = [address(), address()];
    let (way, said) = recording(second);
    let more = format!("{SECRET}\n{PATIENT}");
    let a = node("heard-a", &origin, &cluster(&[first, way], 0, &more));
    let b = cluster(&[second, first], 0, &format!("self = \"{way}\"\n{more}"));
    let b = node("heard-b", &origin, &b.replace(&format!("[\"{second}\""), &format!("[\"{way}\"")));
    foreign(&a, "/x");
    let heard = said.lock().concat();
    let answered = |gate: &Gate| count(gate, "tidegate_cluster_answered_total{outcome=\"answered\"}");
    let (before, requests) = (answered(&b), origin.recorded().len());
    assert!(before >= 1.0);
    let mut stream = connect(second);
    stream.write_all(&heard).expect("bytes can be sent");
    assert_eq!(read_answer(&mut stream).status, 403);
    until("it is counted", || strangers(&b) == 1.0);
    assert_eq!((answered(&b), origin.recorded().len()), (before, requests));
}

#[test]
fn what_a_node_has_written_does_not_come_back_from_a_home() {
    let origin = origin();
    let [a, b]: [Gate; 2] = nodes("written", &origin);
    let (path, old) = foreign(&a, "/x");
    assert_eq!(get(&b, &path).body, old.body);
    assert_eq!(
        ask(a.address, &format!("POST {path}"), "X-Tenant: acme\r\nContent-Length: 0\r\n").status,
        200
    );
    assert_ne!(get(&a, &path).body, old.body);
}

#[test]
fn what_is_for_one_request_alone_goes_straight_to_the_upstream_the_next_time() {
    let origin = saying("Cache-Control: no-store\r\nSet-Cookie: a=b");
    let [a, _b]: [Gate; 2] = nodes("alone", &origin);
    let (path, first) = foreign(&a, "/x");
    assert_eq!(first.header("set-cookie"), "a=b");
    until("it goes straight", || caches(&get(&a, &path)) == 1);
}

#[test]
fn what_is_said_to_caches_of_our_kind_alone_counts_on_all_nodes() {
    let origin = saying(
        "Cache-Control: no-store\r\nTidegate-Cache-Control: max-age=60, private=\"x-own\"\r\nX-Own: mine",
    );
    let [a, _b]: [Gate; 2] = nodes("ours", &origin);
    let (path, first) = foreign(&a, "/x");
    assert_eq!((first.header("x-own"), first.header("tidegate-cache-control")), ("mine", ""));
    let mut second = None;
    until("it is kept", || {
        second = Some(get(&a, &path)).filter(|answer| !answer.header("age").is_empty());
        second.is_some()
    });
    let second = second.expect("it is kept");
    assert_eq!((second.body.as_str(), second.header("x-own")), (first.body.as_str(), ""));
}

#[test]
fn what_is_large_streams_through_a_home() {
    let large = "0123456789abcdef".repeat(3 << 16);
    let content = large.clone();
    let origin = Origin::scripted(move |visit| answer(visit, "Cache-Control: max-age=60", &content));
    let [a, _b]: [Gate; 2] = {
        let addresses = [address(), address()];
        let more = format!("{SECRET}\n{PATIENT}\n[cache]\nobject = \"64KiB\"");
        [0, 1].map(|me| node(&format!("large-{me}"), &origin, &cluster(&addresses, me, &more)))
    };
    let (_, answer) = foreign(&a, "/x");
    assert_eq!(answer.body.len(), large.len());
    assert!(answer.body == large);
}

#[test]
fn no_question_goes_on_to_a_third_node_whatever_lists_the_nodes_have() {
    let origin = origin();
    let [first, second] = [address(), address()];
    let third = TcpListener::bind("127.0.0.1:0").expect("a free port");
    third.set_nonblocking(true).expect("a socket can be told");
    let more = format!("{SECRET}\n{PATIENT}");
    let a = node("loop-a", &origin, &cluster(&[first, second], 0, &more));
    // By its own list the second is the home of next to nothing.
    let others = [second, first, third.local_addr().expect("it is bound")];
    let b = node("loop-b", &origin, &cluster(&others, 0, &more));
    for path in 0..MANY {
        get(&a, &format!("/{path}"));
    }
    assert!(count(&b, "tidegate_cluster_answered_total{outcome=\"answered\"}") >= 1.0);
    assert_eq!(count(&a, "tidegate_cluster_answered_total{outcome=\"answered\"}"), 0.0);
    assert!(third.accept().is_err(), "nobody asked it");
    assert_eq!(origin.recorded().len(), MANY);
}

#[test]
fn a_reload_takes_a_node_out_and_in() {
    let origin = origin();
    let addresses = [address(), address()];
    let more = format!("{SECRET}\n{PATIENT}");
    let both = |me| config(&origin, &cluster(&addresses, me, &more));
    let [a, _b] = [0, 1].map(|me| node(&format!("reload-{me}"), &origin, &cluster(&addresses, me, &more)));
    let nodes = |gate: &Gate| {
        let told = control(gate, "/status");
        let body = told.split("\r\n\r\n").nth(1).unwrap_or_default();
        let status: Value = serde_json::from_str(body).expect("the status is JSON");
        status["cluster"]["nodes"].as_array().map_or(0, Vec::len)
    };
    a.rewrite(&config(&origin, &cluster(&addresses[..1], 0, &more)));
    a.reload();
    assert_eq!(nodes(&a), 1);
    for path in 0..12 {
        assert_eq!(caches(&get(&a, &format!("/one{path}"))), 1);
    }
    a.rewrite(&both(0));
    a.reload();
    assert_eq!(nodes(&a), 2);
    foreign(&a, "/two");
    a.rewrite(&config(&origin, ""));
    a.reload();
    assert_eq!(nodes(&a), 0);
    until("nobody listens for nodes", || TcpStream::connect(addresses[0]).is_err());
    assert_eq!(caches(&get(&a, "/three")), 1);
}

#[test]
fn nodes_speak_tls_to_each_other() {
    let origin = origin();
    let addresses = [address(), address()];
    let folder = Gate::folder("nodes-tls-0");
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let _ = certificate(&["gates.internal"], &cert, &key);
    let tls = format!(
        "tls = {{ cert = \"{0}\", key = \"{1}\", ca = \"{0}\", server_name = \"gates.internal\" }}",
        cert.display(),
        key.display()
    );
    let more = format!("{SECRET}\n{PATIENT}\n{tls}");
    let [a, b] = [0, 1].map(|me| node(&format!("nodes-tls-{me}"), &origin, &cluster(&addresses, me, &more)));
    let (path, first) = foreign(&a, "/x");
    assert_eq!(get(&b, &path).body, first.body);
}

fn write(gate: &Gate, path: &str) {
    let fields = "X-Tenant: acme\r\nContent-Length: 0\r\n";
    assert_eq!(ask(gate.address, &format!("POST {path}"), fields).status, 200);
}

#[test]
fn what_is_written_on_one_node_is_gone_on_all_of_them_without_a_redis() {
    let origin = origin();
    let [a, b, c]: [Gate; 3] = nodes("told", &origin);
    let old = get(&a, "/x").body;
    for node in [&b, &c] {
        assert_eq!(get(node, "/x").body, old);
    }
    write(&a, "/x");
    for node in [&a, &b, &c] {
        until("it is gone", || get(node, "/x").body != old);
    }
    assert!(count(&a, "tidegate_cluster_purges_total{direction=\"told\"}") >= 2.0);
}

#[test]
fn a_node_that_was_away_is_told_when_it_is_back() {
    let origin = origin();
    let addresses = [address(), address()];
    let more = format!("{SECRET}\n{PATIENT}");
    let both = |me: usize| cluster(&addresses, me, &more);
    let [a, b] = [0, 1].map(|me| node(&format!("back-{me}"), &origin, &both(me)));
    let old = get(&b, "/x").body;
    // It goes on serving its own clients, and hears nothing.
    b.rewrite(&config(&origin, ""));
    until("nobody listens for nodes", || TcpStream::connect(addresses[1]).is_err());
    write(&a, "/x");
    until("it waits", || count(&a, "tidegate_cluster_purges_waiting") >= 1.0);
    assert_eq!(get(&b, "/x").body, old);
    b.rewrite(&config(&origin, &both(1)));
    until("it is told", || get(&b, "/x").body != old);
    until("nothing waits", || count(&a, "tidegate_cluster_purges_waiting") == 0.0);
}
