//! Metrics of queues: each family says what is known to have happened.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_testkit::{Gate, Origin, Reply, until};

use crate::deferred::Data;
use crate::queues_api::{say, tokens};
use crate::{BINARY, control};

/// A gate with a queue that is pulled, called `kept`, and this.
fn start(name: &str, data: &Data, more: &str) -> Gate {
    let config = format!(
        "workers = 1\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[control]\nlisten = [\"127.0.0.1:0\"]\ntokens = [{}]\n\
         [store]\nurl = \"sqlite:{}\"\n[queue.kept]\npull = true\n{more}\n\
         [[route]]\npath = \"/\"\nrespond = {{ status = 200 }}\n",
        tokens(),
        data.0.display()
    );
    Gate::start_whole(BINARY, name, &[], &config)
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a clock that is not the product's")]
    Instant::now()
}

/// The samples of one scrape whose name begins so, by the rest of it.
fn samples(gate: &Gate, prefix: &str) -> HashMap<String, f64> {
    let text = control(gate, "/metrics");
    let rest = text.lines().filter_map(|line| line.strip_prefix(prefix)?.rsplit_once(' '));
    rest.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// One sample of a family with the label `queue`.
fn of_queue(gate: &Gate, family: &str, queue: &str, more: &str) -> Option<f64> {
    gate.metric(&format!("tidegate_queue_{family}{{queue=\"{queue}\"{more}}}"))
}

fn hand_in(gate: &Gate, queue: &str, new: &Value) -> Value {
    let (status, told) = say(gate, "deliver", &format!("POST /queues/{queue}/deliveries"), new);
    assert!(status == 200 || status == 202, "{told}");
    told
}

fn claim(gate: &Gate, body: &Value) -> Vec<Value> {
    let (status, told) = say(gate, "deliver", "POST /queues/kept/claim", body);
    assert_eq!(status, 200, "{told}");
    told["deliveries"].as_array().unwrap().clone()
}

#[test]
fn attempts_are_counted_by_what_they_came_to_and_by_how_long_they_took() {
    const SLOW: Duration = Duration::from_millis(60);
    let calls = AtomicUsize::new(0);
    let origin = Origin::start(move |path| match path {
        "/slow" => Reply::After(SLOW),
        "/twice" if calls.fetch_add(1, SeqCst) > 0 => Reply::Status(200, String::new()),
        "/cancelled" => Reply::Never,
        _ => Reply::Status(503, String::new()),
    });
    let data = Data::new("queue-attempts");
    let more = format!(
        "[upstream.app]\nendpoints = [\"{}\"]\nbreaker = false\noutlier = {{ consecutive = 0 }}\n\
         [queue.jobs]\nupstream = \"app\"\nconcurrency = 1\nattempts = 2\nbackoff = {{ first = \"1ms\", max = \"1ms\" }}",
        origin.address
    );
    let gate = start("queue-attempts", &data, &more);
    let outcome = |name: &str| of_queue(&gate, "attempts_total", "jobs", &format!(",outcome=\"{name}\""));
    let began = now();
    for path in ["/slow", "/twice", "/dead"] {
        hand_in(&gate, "jobs", &json!({"tenant": "a", "path": path}));
    }
    until("all have ended", || outcome("delivered") == Some(2.0) && outcome("dead") == Some(1.0));
    let id = hand_in(&gate, "jobs", &json!({"tenant": "a", "path": "/cancelled"}))["id"].clone();
    until("it is under way", || of_queue(&gate, "under_way", "jobs", "") == Some(1.0));
    until("it has come", || origin.recorded().len() == 6);
    say(&gate, "write", &format!("DELETE /deliveries/{}", id.as_str().unwrap()), &Value::Null);
    until("it is broken off", || outcome("cancelled") == Some(1.0));
    let passed = began.elapsed().as_secs_f64();
    assert_eq!(["again", "unsent", "lapsed"].map(outcome), [Some(2.0), Some(0.0), Some(0.0)]);
    // One at a time: all of them together took no longer than has passed, and the slow one took what it took.
    let seconds = samples(&gate, "tidegate_queue_attempt_seconds");
    let sum = seconds["_sum{queue=\"jobs\"}"];
    assert!(sum >= SLOW.as_secs_f64() - 0.002 && sum <= passed + 0.006, "{sum} of {passed}");
    assert_eq!(seconds["_count{queue=\"jobs\"}"], 6.0);
    let bucket = |bound: &str| seconds[&format!("_bucket{{queue=\"jobs\",le=\"{bound}\"}}")];
    assert!(bucket("0.05") <= 5.0, "the slow one is not in it");
    let bounds =
        ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "+Inf"];
    assert!(bounds.map(bucket).is_sorted());
    assert_eq!(bucket("+Inf"), 6.0);
    assert_eq!(seconds.keys().filter(|name| name.contains("jobs")).count(), bounds.len() + 2);
}

#[test]
fn a_queue_whose_breaker_is_open_is_said_to_be_parked() {
    let origin = Origin::start(|_| Reply::Status(503, String::new()));
    let data = Data::new("queue-parked");
    let more = format!(
        "[upstream.app]\nendpoints = [\"{}\"]\noutlier = {{ consecutive = 0 }}\n\
         breaker = {{ consecutive = 1, cooldown = \"60s\" }}\n\
         [queue.jobs]\nupstream = \"app\"\nbackoff = {{ first = \"1ms\", max = \"1ms\" }}",
        origin.address
    );
    let gate = start("queue-parked", &data, &more);
    hand_in(&gate, "jobs", &json!({"tenant": "a"}));
    until("it is parked", || of_queue(&gate, "parked", "jobs", "") == Some(1.0));
    assert_eq!(of_queue(&gate, "parked", "kept", ""), Some(0.0));
    let again = || of_queue(&gate, "attempts_total", "jobs", ",outcome=\"again\"");
    until("its only attempt is counted", || again() == Some(1.0));
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn the_oldest_is_as_old_as_an_independent_clock_says() {
    let data = Data::new("queue-oldest");
    let gate = start("queue-oldest", &data, "");
    let oldest = || of_queue(&gate, "oldest_seconds", "kept", "");
    assert_eq!(oldest(), Some(0.0), "nothing waits");
    until("it leads", || gate.metric("tidegate_shard_leads{shard=\"0\"}") == Some(1.0));
    let before = now();
    hand_in(&gate, "kept", &json!({"tenant": "a"}));
    let accepted = now();
    hand_in(&gate, "kept", &json!([{"tenant": "a"}, {"tenant": "b"}, {"tenant": "b", "delay": "1h"}]));
    until("it has waited for a while", || accepted.elapsed() > Duration::from_millis(50));
    let least = accepted.elapsed().as_secs_f64();
    let age = oldest().unwrap();
    let most = before.elapsed().as_secs_f64();
    // What is told is told in milliseconds.
    assert!((least - 0.002..=most + 0.002).contains(&age), "{age} is not within {least} and {most}");
    let state = |name: &str| of_queue(&gate, "deliveries", "kept", &format!(",state=\"{name}\""));
    assert_eq!(["ready", "scheduled", "leased"].map(state), [Some(3.0), Some(1.0), Some(0.0)]);
    let held = claim(&gate, &json!({"most": 3, "wait": "20s"}));
    assert_eq!(held.len(), 3);
    assert_eq!((oldest(), state("leased")), (Some(0.0), Some(3.0)), "what is put off does not wait");
    until("they are under way", || of_queue(&gate, "under_way", "kept", "") == Some(3.0));
    let all: Vec<Value> = held.iter().map(|one| json!({"grip": one["grip"]})).collect();
    say(&gate, "deliver", "POST /queues/kept/ack", &json!({"deliveries": all}));
    assert_eq!((state("leased"), state("delivered")), (Some(0.0), Some(3.0)));
    until("none is under way", || of_queue(&gate, "under_way", "kept", "") == Some(0.0));
    let paused = || of_queue(&gate, "paused", "kept", "");
    assert_eq!(paused(), Some(0.0));
    say(&gate, "write", "POST /queues/kept/pause", &json!({}));
    assert_eq!(paused(), Some(1.0));
}

#[test]
fn who_is_not_heard_of_again_is_counted_as_lapsed() {
    let data = Data::new("queue-lapsed");
    let gate = start("queue-lapsed", &data, "");
    hand_in(&gate, "kept", &json!({"tenant": "a"}));
    assert_eq!(claim(&gate, &json!({"wait": "20s", "lease": "1s"})).len(), 1);
    let lapsed = || of_queue(&gate, "attempts_total", "kept", ",outcome=\"lapsed\"");
    until("its lease has ended", || lapsed() == Some(1.0));
    // How long it took nobody knows.
    assert_eq!(of_queue(&gate, "attempt_seconds_count", "kept", ""), Some(0.0));
}

#[test]
fn twenty_tenants_have_a_line_and_all_others_one() {
    let data = Data::new("queue-tenants");
    let gate = start("queue-tenants", &data, "[queue.other]\npull = true");
    let name = |tenant: usize| format!("t{tenant:02}");
    // Of the 24 tenants the third has three, one of them in another queue, and so on.
    let of = |queue: &str, each: &dyn Fn(usize) -> usize| {
        let new = (1..=24).flat_map(|tenant| vec![json!({"tenant": name(tenant)}); each(tenant)]);
        hand_in(&gate, queue, &new.collect());
    };
    of("other", &|_| 1);
    of("kept", &|tenant| tenant - 1);
    let waiting = samples(&gate, "tidegate_tenant_deliveries_waiting");
    let mut expected: HashMap<String, f64> =
        (5..=24).map(|tenant| (format!("{{tenant=\"{}\"}}", name(tenant)), tenant as f64)).collect();
    expected.insert("{tenant=\"other\",sum=\"true\"}".to_owned(), 10.0);
    assert_eq!(waiting, expected);
}
