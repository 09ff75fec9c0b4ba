//! Deliveries over several nodes that share a store in PostgreSQL: accepted at any, made by the one that has their shard, and by
//! another when that is gone, whatever becomes of the nodes and of PostgreSQL.

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};
use tidegate_model::credential::Digest;
use tidegate_testkit::{
    Answer, Ends, Gate, Origin, Postgres, Reply, connect, read_answer_or_end, send, until,
};

use crate::BINARY;

/// The token of the tests' own.
pub const TOKEN: &str = "write";

/// The token's digest, as a configuration has it.
pub fn digest() -> String {
    Digest::of(TOKEN.as_bytes()).0.map(|byte| format!("{byte:02x}")).concat()
}

/// A node that is called so, with these further lines of its store. Whatever is asked for under `/` is made later.
fn node(name: &str, url: &str, origin: &Origin, store: &str) -> Gate {
    node_with(name, url, origin, &format!("node = \"{name}\"\n{store}"))
}

/// The same, called as these further lines say.
pub fn node_with(name: &str, url: &str, origin: &Origin, store: &str) -> Gate {
    let digest = digest();
    let config = format!(
        r#"
workers = 1
[listen]
http = ["127.0.0.1:0"]
trusted_proxies = ["127.0.0.1/32"]
[control]
listen = ["127.0.0.1:0"]
tokens = [{{ name = "test", sha256 = "{digest}", scopes = ["write"] }}]
[store]
url = "{url}{}"
{store}
[tenants]
from = [{{ header = "x-tenant" }}]
[defaults.route]
deadline = "20s"
[upstream.app]
endpoints = ["{}"]
breaker = false
outlier = {{ consecutive = 0 }}
[queue.jobs]
upstream = "app"
concurrency = 4
attempts = 1000
backoff = {{ first = "1ms", max = "1ms" }}
[queue.pulled]
pull = true
[[route]]
name = "jobs"
path = "/"
upstream = "app"
defer = "always"
"#,
        if url.contains('?') { "" } else { "?sslmode=disable" },
        origin.address,
    );
    Gate::start_whole(BINARY, name, &[], &config)
}

fn ask(gate: &Gate, line: &str, tenant: &str) -> Option<Answer> {
    let mut stream = connect(gate.address);
    let text = format!("{line} HTTP/1.1\r\nHost: test\r\nX-Tenant: {tenant}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).ok()?;
    let got = read_answer_or_end(&mut stream);
    let text = String::from_utf8_lossy(&got).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

/// Where a request is told of that was put off.
fn put_off(gate: &Gate, target: &str, tenant: &str) -> String {
    let answer = ask(gate, &format!("POST {target}"), tenant).expect("it answers");
    assert_eq!(answer.status, 202, "{} {}", answer.head, answer.body);
    answer.header("location").to_owned()
}

fn state(gate: &Gate, place: &str, tenant: &str) -> String {
    let told = ask(gate, &format!("GET {place}"), tenant).map(|answer| answer.body).unwrap_or_default();
    let told: Value = serde_json::from_str(&told).unwrap_or_default();
    told["state"].as_str().unwrap_or_default().to_owned()
}

fn delivered(gate: &Gate, place: &str, tenant: &str) {
    until("it is delivered", || state(gate, place, tenant) == "delivered");
}

/// Whether a node makes the deliveries of this shard.
pub fn leads(gate: &Gate, shard: u16) -> bool {
    gate.metric(&format!("tidegate_shard_leads{{shard=\"{shard}\"}}")) == Some(1.0)
}

/// How often each delivery was made.
pub fn made(origin: &Origin) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for one in origin.recorded() {
        let found = one.head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("tidegate-delivery-id").then(|| value.to_owned())
        });
        *counts.entry(found.unwrap_or_default()).or_default() += 1;
    }
    counts
}

/// Status and body of a request to the control API.
pub fn say(gate: &Gate, line: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = send(gate.control, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, serde_json::from_str(body).unwrap_or_default())
}

pub fn ok() -> Reply {
    Reply::Status(200, String::new())
}

#[test]
fn what_any_node_accepts_is_made_once_by_the_one_that_has_its_shard() {
    let (url, origin) = (Postgres::shared().database(), Origin::start(|_| ok()));
    let one = node("shards-one", &url, &origin, "shards = 4");
    until("it has all of them", || (0..4).all(|shard| leads(&one, shard)));
    let other = node("shards-other", &url, &origin, "shards = 4");
    // Each comes to have half of them, and who has which both say.
    until("each has its part", || {
        let count = |gate| (0..4).filter(|shard| leads(gate, *shard)).count();
        (count(&one), count(&other)) == (2, 2)
            && (0..4).all(|shard| leads(&one, shard) != leads(&other, shard))
    });
    let (_, status) = say(&other, "GET /status", &Value::Null);
    let nodes: BTreeSet<&str> = status["store"]["shards"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|shard| if shard["here"] == true { "here" } else { shard["node"].as_str().unwrap_or("nobody") })
        .collect();
    assert_eq!(nodes, BTreeSet::from(["here", "shards-one"]), "{status}");
    let nodes = [&one, &other];
    let all: Vec<(String, String)> = (0..24)
        .map(|number| {
            let tenant = format!("tenant-{}", number % 12);
            (put_off(nodes[number % 2], &format!("/{number}"), &tenant), tenant)
        })
        .collect();
    for (number, (place, tenant)) in all.iter().enumerate() {
        delivered(nodes[(number + 1) % 2], place, tenant);
    }
    let made = made(&origin);
    assert_eq!((made.len(), made.values().max()), (24, Some(&1)), "{made:?}");
}

#[test]
fn the_deliveries_of_a_node_that_was_killed_are_made_by_another() {
    let hangs = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&hangs);
    let origin = Origin::start(move |_| if told.load(SeqCst) { Reply::Never } else { ok() });
    let url = Postgres::shared().database();
    let mut killed = node("shards-killed", &url, &origin, "lease = \"1s\"");
    until("it has the shard", || leads(&killed, 0));
    let other = node("shards-survives", &url, &origin, "lease = \"1s\"");
    let all: Vec<String> =
        (0..12).map(|number| put_off([&killed, &other][number % 2], &format!("/{number}"), "a")).collect();
    until("as many are under way as may be", || origin.recorded().len() == 4);
    killed.signal("-KILL");
    killed.wait();
    hangs.store(false, SeqCst);
    all.iter().for_each(|place| delivered(&other, place, "a"));
    let made = made(&origin);
    let mut counts: Vec<usize> = made.values().copied().collect();
    counts.sort_unstable();
    // What was in flight comes twice, and nothing else.
    assert_eq!(counts, [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2]);
    assert!(leads(&other, 0));
}

#[test]
fn a_node_that_stood_still_beyond_its_lease_is_fenced_and_goes_on_behind() {
    let open = Arc::new(AtomicUsize::new(0));
    let gate = Arc::clone(&open);
    let origin =
        Origin::start(
            move |path| {
                if path == "/slow" && gate.fetch_add(1, SeqCst) == 0 { Reply::Never } else { ok() }
            },
        );
    let url = Postgres::shared().database();
    let still = node("shards-still", &url, &origin, "lease = \"1s\"");
    until("it has the shard", || leads(&still, 0));
    let other = node("shards-goes-on", &url, &origin, "lease = \"1s\"");
    let slow = put_off(&other, "/slow", "a");
    until("it is under way", || origin.recorded().len() == 1);
    still.signal("-STOP");
    let place = put_off(&other, "/more", "a");
    delivered(&other, &place, "a");
    delivered(&other, &slow, "a");
    assert!(leads(&other, 0));
    still.signal("-CONT");
    until("its attempt is broken off", || origin.left() == 1);
    until("it knows that it has lost it", || !leads(&still, 0));
    // What was made meanwhile stays as it is, and it accepts as before.
    assert_eq!(state(&still, &slow, "a"), "delivered");
    let later = put_off(&still, "/later", "a");
    delivered(&other, &later, "a");
    let made = made(&origin);
    assert_eq!(made.values().sum::<usize>(), 4, "the one in flight came twice: {made:?}");
}

#[test]
fn a_node_that_ends_in_order_hands_over_at_once() {
    let (url, origin) = (Postgres::shared().database(), Origin::start(|_| ok()));
    // Whoever had to wait for the lease would wait for an hour.
    let mut ends = node("shards-ends", &url, &origin, "lease = \"1h\"");
    until("it has the shard", || leads(&ends, 0));
    let other = node("shards-heir", &url, &origin, "lease = \"1h\"");
    let first = put_off(&other, "/first", "a");
    delivered(&other, &first, "a");
    assert!(!leads(&other, 0));
    ends.signal("-TERM");
    let second = put_off(&other, "/second", "a");
    delivered(&other, &second, "a");
    until("it has the shard", || leads(&other, 0));
    assert_eq!(ends.wait(), Some(0));
    assert_eq!(made(&origin).values().sum::<usize>(), 2);
}

#[test]
fn who_pulls_at_a_node_without_the_shard_is_told_which_has_it() {
    let (url, origin) = (Postgres::shared().database(), Origin::start(|_| ok()));
    let one = node("shards-pulled", &url, &origin, "");
    until("it has the shard", || leads(&one, 0));
    let other = node("shards-asked", &url, &origin, "");
    let (status, told) = say(&other, "POST /queues/pulled/deliveries", &json!({"tenant": "a", "body": "x"}));
    assert_eq!(status, 202, "{told}");
    let claim = json!({"wait": "20s"});
    let (status, told) = say(&one, "POST /queues/pulled/claim", &claim);
    let grip = told["deliveries"][0]["grip"].clone();
    assert_eq!(status, 200, "{told}");
    assert!(grip.is_string(), "{told}");
    until("the other one knows who has it", || {
        let (status, told) = say(&other, "POST /queues/pulled/claim", &claim);
        (status, &told["code"]) == (503, &"delivery.elsewhere".into())
            && told["detail"].as_str().is_some_and(|detail| detail.contains("`shards-pulled`"))
    });
    let ack = json!({"deliveries": [{"grip": grip}]});
    let (status, told) = say(&other, "POST /queues/pulled/ack", &ack);
    assert_eq!((status, &told["code"]), (503, &"delivery.elsewhere".into()));
    let (_, told) = say(&one, "POST /queues/pulled/ack", &ack);
    assert_eq!(told, json!({"outcomes": ["done"]}));
}

/// Puts off one after the other, at the nodes in turn, until it is told so. Where each is told of.
fn put_off_until(nodes: &[Gate; 2], ended: &AtomicBool, done: &AtomicUsize) -> Vec<String> {
    let mut places = Vec::new();
    let mut turn = 0;
    while !ended.load(SeqCst) {
        turn += 1;
        let Some(answer) = ask(&nodes[turn % 2], &format!("POST /{turn}"), "a") else { continue };
        if answer.status == 202 {
            places.push(answer.header("location").to_owned());
            done.fetch_add(1, SeqCst);
        }
    }
    places
}

/// Lets PostgreSQL fail while deliveries are accepted and made. All that were accepted are made in the end.
fn over(url: &str, name: &str, fails: impl FnOnce(&dyn Fn(&str))) {
    let origin = Origin::start(|_| ok());
    let [one, other] =
        ["a", "b"].map(|which| node(&format!("shards-{name}-{which}"), url, &origin, "shards = 2"));
    let nodes = [one, other];
    let (ended, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let places = std::thread::scope(|scope| {
        let client = scope.spawn(|| put_off_until(&nodes, &ended, &done));
        let more = |what: &str| {
            let (accepted, made) = (done.load(SeqCst), origin.recorded().len());
            until(what, || done.load(SeqCst) >= accepted + 5 && origin.recorded().len() >= made + 5);
        };
        more("they are made");
        fails(&more);
        ended.store(true, SeqCst);
        client.join().unwrap()
    });
    places.iter().for_each(|place| delivered(&nodes[0], place, "a"));
    let made = made(&origin);
    let missing = places.iter().filter(|place| !made.contains_key(place.rsplit('/').next().unwrap())).count();
    assert_eq!(missing, 0);
}

#[test]
fn postgresql_is_restarted_and_killed_and_what_was_accepted_is_made() {
    let mut server = Postgres::start("e2e-shards");
    let url = server.database();
    over(&url, "restarted", |more| {
        for ends in [Ends::InOrder, Ends::Killed] {
            server.stop(ends);
            server.start_again();
            more("they are made again");
        }
        server.end_connections();
        more("they are made yet again");
    });
}

#[test]
fn a_standby_takes_over_and_what_was_accepted_is_made() {
    let mut primary = Postgres::start("e2e-shards-primary");
    let own = primary.database();
    let standby = primary.standby("e2e-shards-standby");
    let database = own.rsplit_once('/').unwrap().1;
    let url = format!("postgres://postgres@{},{}/{database}", primary.address, standby.address);
    until("the standby is there", || {
        primary.say("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
    });
    let _ = primary.say("ALTER SYSTEM SET synchronous_standby_names = '*'");
    let _ = primary.say("SELECT pg_reload_conf()");
    until("the standby confirms", || primary.say("SELECT sync_state FROM pg_stat_replication") == "sync");
    over(&url, "failover", |more| {
        primary.stop(Ends::Killed);
        standby.promote();
        // Nobody has to confirm what the only one that is left commits.
        let _ = standby.say("ALTER SYSTEM SET synchronous_standby_names = ''");
        let _ = standby.say("SELECT pg_reload_conf()");
        more("they are made again");
    });
}
