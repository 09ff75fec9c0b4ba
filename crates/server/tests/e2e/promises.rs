//! What deliveries promise, by the real binary: over disks that are full or fail, power that goes, clocks that jump, and
//! tenants that have much.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};
use tidegate_testkit::{Answer, Gate, Origin, Reply, connect, read_answer, read_answer_or_end, until};

use crate::control;
use crate::deferred::Data;
use crate::queues_api::{say, tokens};
use crate::shim::Faults;

/// Requests are made later, four at once; what fails comes again at once.
fn config(data: &Data, origin: &Origin, more: &str) -> String {
    format!(
        r#"workers = 1
[control]
listen = ["127.0.0.1:0"]
tokens = [{}]
[store]
url = "sqlite:{}"
[tenants]
from = [{{ header = "x-tenant" }}]
[upstream.app]
endpoints = ["{}"]
breaker = false
outlier = {{ consecutive = 0 }}
[queue.jobs]
upstream = "app"
concurrency = 4
backoff = {{ first = "1ms", max = "1ms" }}
attempts = 1000
{more}
[[route]]
name = "jobs"
path = "/"
upstream = "app"
defer = "always"
"#,
        tokens(),
        data.0.join("store").display(),
        origin.address
    )
}

fn start(name: &str, faults: &Faults, config: &str) -> Gate {
    faults.gate(&format!("promises-{name}"), config)
}

fn request(line: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: test\r\nX-Tenant: acme\r\nContent-Length: 0\r\n\r\n")
}

fn ask(gate: &Gate, line: &str) -> Answer {
    let mut stream = connect(gate.address);
    stream.write_all(request(line).as_bytes()).unwrap();
    read_answer(&mut stream)
}

/// Where a request is told of that was put off; `None`: nobody has said that it was.
fn try_put_off(address: SocketAddr, target: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(request(&format!("POST {target}")).as_bytes()).ok()?;
    let answer = String::from_utf8(read_answer_or_end(&mut stream)).ok()?;
    let place = answer.strip_prefix("HTTP/1.1 202 ")?.lines().find_map(|line| line.split_once(": "));
    let mut fields = answer.lines().filter_map(|line| line.split_once(": "));
    place.and(
        fields.find(|(name, _)| name.eq_ignore_ascii_case("location")).map(|(_, value)| value.to_owned()),
    )
}

fn put_off(gate: &Gate, target: &str) -> String {
    try_put_off(gate.address, target).expect("it is accepted")
}

fn state(gate: &Gate, place: &str) -> String {
    let told: Value = serde_json::from_str(&ask(gate, &format!("GET {place}")).body).unwrap_or_default();
    told["state"].as_str().unwrap_or_default().to_owned()
}

fn delivered(gate: &Gate, place: &str) {
    until("it is delivered", || state(gate, place) == "delivered");
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, answer.body.contains(&format!("\"{code}\""))),
        (status, true),
        "{}",
        answer.body
    );
}

/// The paths that an origin was asked for, in their order.
fn paths(origin: &Origin) -> Vec<String> {
    let path = |head: &str| head.split(' ').nth(1).unwrap_or_default().to_owned();
    origin.recorded().iter().map(|one| path(&one.head)).collect()
}

fn field(head: &str, name: &str) -> String {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.to_owned()).unwrap_or_default()
}

/// An origin that lets so many through as it is told to.
fn gated(let_through: &Arc<AtomicUsize>) -> Origin {
    let left = Arc::clone(let_through);
    Origin::start(move |_| {
        until("it is let through", || left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok());
        Reply::Status(200, String::new())
    })
}

#[test]
fn whenever_the_power_goes_nothing_acknowledged_is_lost_and_no_attempt_is_made_twice() {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let data = Data::new("promises-power");
    let faults = Faults::new(&data.0);
    let config = config(&data, &origin, "");
    let mut places = BTreeMap::new();
    // Later on a transaction has more in it, and the log was written back meanwhile.
    let early = [("before", 1), ("after", 1), ("before", 2), ("after", 2), ("after", 3), ("before", 9)];
    let later = [("before", 30), ("after", 31), ("before", 62), ("before", 93), ("after", 124)];
    let moments: Vec<_> = early.iter().chain(&later).collect();
    for (round, (fault, number)) in moments.iter().enumerate() {
        let mut gate = start(&format!("power-{round}"), &faults, &config);
        faults.strike_at(fault, *number);
        let address = gate.address;
        let clients: Vec<_> = (0..12)
            .map(|client| {
                std::thread::spawn(move || {
                    let target = |number: usize| format!("/{round}-{client}-{number}");
                    let each = (0..).map(|number| (target(number), try_put_off(address, &target(number))));
                    each.map_while(|(target, place)| Some((target, place?))).collect::<Vec<_>>()
                })
            })
            .collect();
        places.extend(clients.into_iter().flat_map(|client| client.join().expect("no client panics")));
        assert_eq!(gate.wait(), Some(137), "{}", gate.said());
        faults.strike(fault, false);
    }
    let gate = start("power-last", &faults, &config);
    places.values().for_each(|place| delivered(&gate, place));
    let made: BTreeSet<String> = paths(&origin).into_iter().collect();
    assert!(places.keys().all(|target| made.contains(target)), "each was made");
    let mut attempts = BTreeSet::new();
    for one in origin.recorded() {
        let attempt = (field(&one.head, "tidegate-delivery-id"), field(&one.head, "tidegate-attempt"));
        assert!(attempts.insert(attempt.clone()), "{attempt:?} was made twice");
    }
    // Twice was made what was under way, four at a time.
    assert!(
        attempts.len() - made.len() <= moments.len() * 4,
        "{} attempts of {}",
        attempts.len(),
        made.len()
    );
}

#[test]
fn a_full_disk_refuses_what_is_new_and_what_was_made_is_told_once_there_is_room() {
    let let_through = Arc::<AtomicUsize>::default();
    let origin = gated(&let_through);
    let data = Data::new("promises-full");
    let faults = Faults::new(&data.0);
    let gate = start("full", &faults, &config(&data, &origin, ""));
    let first = put_off(&gate, "/first");
    until("it is under way", || origin.recorded().len() == 1);
    // A quota that is used up is the same.
    for number in [28 /* ENOSPC */, 122 /* EDQUOT */] {
        faults.strike_at("full", number);
        let answer = ask(&gate, "POST /refused");
        refused(&answer, 503, "store.unavailable");
        assert!(answer.body.contains("the store has no room left"), "{}", answer.body);
        assert_eq!(gate.metric("tidegate_store_up"), Some(0.0));
    }
    let_through.store(usize::MAX / 2, SeqCst);
    until("it is over", || gate.metric("tidegate_queue_under_way{queue=\"jobs\"}") == Some(0.0));
    faults.strike("full", false);
    delivered(&gate, &first);
    delivered(&gate, &put_off(&gate, "/second"));
    assert_eq!(paths(&origin), ["/first", "/second"]);
    assert_eq!(gate.metric("tidegate_store_up"), Some(1.0));
}

#[test]
fn what_was_accepted_on_a_full_disk_is_told_of_and_made_once_there_is_room_whoever_was_killed_meanwhile() {
    let let_through = Arc::<AtomicUsize>::default();
    let origin = gated(&let_through);
    let data = Data::new("promises-filled");
    let faults = Faults::new(&data.0);
    let config = config(&data, &origin, "");
    let mut gate = start("filled-1", &faults, &config);
    let mut places: Vec<_> = (0..12).map(|number| put_off(&gate, &format!("/filled-{number}"))).collect();
    until("some are under way", || origin.recorded().len() == 4);
    // No file may grow any more. That which lies ahead of the tables has its length already, the database's log has not.
    faults.strike("filled", true);
    let before = places.len();
    while let Some(place) = try_put_off(gate.address, &format!("/filled-{}", places.len())) {
        places.push(place);
        assert!(places.len() < 2_000, "there is no end of it");
    }
    let ahead = std::fs::read(data.0.join("store/tidegate.db-ahead")).unwrap();
    let first = format!("/filled-{before}");
    assert!(ahead.windows(first.len()).any(|some| some == first.as_bytes()), "some are ahead of the tables");
    let (told, config) = (|gate: &Gate| places.iter().all(|place| !state(gate, place).is_empty()), &config);
    assert!(told(&gate));
    refused(&ask(&gate, "POST /refused"), 503, "store.unavailable");
    assert_eq!(gate.metric("tidegate_store_up"), Some(0.0));
    gate.signal("-KILL");
    gate.wait();
    let mut gate = start("filled-2", &faults, config);
    assert!(told(&gate));
    refused(&ask(&gate, "POST /refused"), 503, "store.unavailable");
    gate.signal("-KILL");
    gate.wait();
    let gate = start("filled-3", &faults, config);
    let_through.store(usize::MAX / 2, SeqCst);
    faults.strike("filled", false);
    places.iter().for_each(|place| delivered(&gate, place));
    let made: BTreeSet<String> = paths(&origin).into_iter().collect();
    assert_eq!(made, (0..places.len()).map(|number| format!("/filled-{number}")).collect());
    until("it is told", || gate.metric("tidegate_store_up") == Some(1.0));
}

#[test]
fn a_failed_fsync_stops_deliveries_and_says_so_and_the_next_process_goes_on() {
    let let_through = Arc::<AtomicUsize>::default();
    let origin = gated(&let_through);
    let data = Data::new("promises-fsync");
    let faults = Faults::new(&data.0);
    let config = config(&data, &origin, "");
    let mut gate = start("fsync-1", &faults, &config);
    let first = put_off(&gate, "/first");
    until("it is under way", || origin.recorded().len() == 1);
    faults.strike("broken", true);
    refused(&ask(&gate, "POST /doubtful"), 503, "store.unavailable");
    faults.strike("broken", false);
    refused(&ask(&gate, "POST /refused"), 503, "store.unavailable");
    assert!(control(&gate, "/status").contains("\"state\":\"stopped\""));
    assert_eq!(gate.metric("tidegate_store_up"), Some(0.0));
    until("the log says so", || gate.said().contains("the store stops writing"));
    let_through.store(usize::MAX / 2, SeqCst);
    gate.signal("-KILL");
    gate.wait();
    let gate = start("fsync-2", &faults, &config);
    delivered(&gate, &first);
    delivered(&gate, &put_off(&gate, "/second"));
    // Of the first nobody knew that it had gone well; of the doubtful one nobody knows whether it is on disk.
    let mut made = paths(&origin);
    made.retain(|path| path != "/doubtful");
    assert_eq!(made, ["/first", "/first", "/second"]);
}

/// Hands in one that is due after so long.
fn hand_in(gate: &Gate, queue: &str, path: &str, delay: &str) -> String {
    let new = json!({"tenant": "acme", "path": path, "delay": delay});
    let (status, told) = say(gate, "deliver", &format!("POST /queues/{queue}/deliveries"), &new);
    assert_eq!(status, 202, "{told}");
    told["id"].as_str().unwrap().to_owned()
}

fn made(gate: &Gate, id: &str) {
    until("it is made", || {
        say(gate, "read", &format!("GET /deliveries/{id}"), &Value::Null).1["state"] == "delivered"
    });
}

#[test]
fn a_clock_that_jumps_an_hour_either_way_loses_strands_and_repeats_nothing() {
    let fails = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&fails);
    let origin =
        Origin::start(move |_| Reply::Status(if told.load(SeqCst) { 503 } else { 200 }, String::new()));
    let data = Data::new("promises-clock");
    let faults = Faults::new(&data.0);
    faults.set_clock(0);
    let more = "[queue.kept]\npull = true\n[schedule.hourly]\ncron = \"0 * * * *\"\nmissed = \"all\"\nqueue = \"jobs\"\npath = \"/run\"";
    let config = config(&data, &origin, more);
    let gate = start("clock-1", &faults, &config);
    let claim = json!({"wait": "20s", "lease": "10m"});
    hand_in(&gate, "kept", "/kept", "0s");
    let (_, claimed) = say(&gate, "deliver", "POST /queues/kept/claim", &claim);
    let half = hand_in(&gate, "jobs", "/half-an-hour", "30m");
    faults.set_clock(3_600);
    made(&gate, &half);
    // Whoever has a lease has it for as long as was said, whatever the clock says.
    let ack = json!({"deliveries": [{"grip": claimed["deliveries"][0]["grip"]}]});
    let (_, told) = say(&gate, "deliver", "POST /queues/kept/ack", &ack);
    assert_eq!(told["outcomes"], json!(["done"]));
    faults.set_clock(0);
    made(&gate, &hand_in(&gate, "jobs", "/soon", "50ms"));
    // What failed is made again soon, also by a process that begins after the clock was set back.
    fails.store(true, SeqCst);
    let again = hand_in(&gate, "jobs", "/again", "0s");
    until("it has failed", || paths(&origin).iter().any(|path| path == "/again"));
    gate.signal("-KILL");
    drop(gate);
    fails.store(false, SeqCst);
    let gate = start("clock-2", &faults, &config);
    made(&gate, &again);
    made(&gate, &hand_in(&gate, "jobs", "/soon-again", "50ms"));
    let mut seen = paths(&origin);
    // The hour that was skipped has one run; one more, where an hour ends just now.
    assert!(seen.iter().filter(|path| *path == "/run").count() <= 2, "{seen:?}");
    seen.retain(|path| path != "/run" && path != "/again");
    assert_eq!(seen, ["/half-an-hour", "/soon", "/soon-again"]);
}

/// Hands in so many of a tenant's, at once.
fn hand_in_many(gate: &Gate, tenant: &str, count: usize, more: &Value) {
    let one = |number: usize| {
        let mut one = more.clone();
        one["tenant"] = tenant.into();
        one["path"] = format!("/{tenant}/{number}").into();
        one
    };
    for from in (0..count).step_by(1_000) {
        let all: Vec<Value> = (from..count.min(from + 1_000)).map(one).collect();
        let (status, told) = say(gate, "deliver", "POST /queues/jobs/deliveries", &json!(all));
        assert!(matches!(status, 200 | 202), "{told}");
    }
}

fn started(name: &str, data: &Data, origin: &Origin, more: &str) -> Gate {
    start(name, &Faults::new(&data.0), &config(data, origin, more))
}

#[test]
fn who_sends_one_is_next_however_many_another_has_waiting() {
    let let_through = Arc::<AtomicUsize>::default();
    let origin = gated(&let_through);
    let data = Data::new("promises-fair");
    let gate = started("fair", &data, &origin, "");
    hand_in_many(&gate, "many", 4_000, &json!({}));
    until("as many are under way as may be", || origin.recorded().len() == 4);
    hand_in_many(&gate, "few", 1, &json!({}));
    let_through.store(1, SeqCst);
    until("another is under way", || origin.recorded().len() == 5);
    assert_eq!(paths(&origin)[4], "/few/0");
    let_through.store(usize::MAX / 2, SeqCst);
}

#[test]
fn what_is_paused_waits_and_costs_others_nothing() {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let data = Data::new("promises-paused");
    let gate = started("paused", &data, &origin, "");
    let paused = |what: &Value, how: &str| {
        let (status, told) = say(&gate, "write", &format!("POST /queues/jobs/{how}"), what);
        assert_eq!(status, 200, "{told}");
    };
    let key = json!({"tenant": "keyed", "key": "k"});
    paused(&json!({"tenant": "held"}), "pause");
    paused(&key, "pause");
    hand_in_many(&gate, "held", 500, &json!({}));
    hand_in_many(&gate, "keyed", 3, &json!({"key": "k"}));
    hand_in_many(&gate, "keyed-too", 3, &json!({"key": "k"}));
    until("others are made", || origin.recorded().len() == 3);
    let all = paths(&origin);
    assert!(all.iter().all(|path| path.starts_with("/keyed-too/")), "{all:?}");
    paused(&key, "resume");
    until("the key goes on", || origin.recorded().len() == 6);
    paused(&Value::Null, "pause");
    paused(&json!({"tenant": "held"}), "resume");
    hand_in_many(&gate, "other", 1, &json!({}));
    let (_, told) = say(&gate, "read", "GET /queues/jobs", &Value::Null);
    assert_eq!((&told["counts"]["ready"], origin.recorded().len()), (&501.into(), 6), "{told}");
    paused(&Value::Null, "resume");
    until("all go on", || origin.recorded().len() == 6 + 501);
}
