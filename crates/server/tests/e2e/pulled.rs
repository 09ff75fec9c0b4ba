//! Workers that pull at any node of a cluster: what they ask for is found, and what they tell is heard, wherever its shard is.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tidegate_testkit::{Gate, Origin, Postgres, connect, until};

use crate::shards::{TOKEN, leads, node_with, ok, say};
use crate::shield::{PATIENT, SECRET, address, cluster, count};

/// Questions that are under way to other nodes.
const PASSING: &str = "tidegate_cluster_passing";

/// Two nodes that know each other, with these further lines of their store; the first had it before the other came.
fn pair(name: &str, origin: &Origin, store: &str) -> [Gate; 2] {
    let (url, addresses) = (Postgres::shared().database(), [address(), address()]);
    let first = member(name, &url, origin, store, &addresses, 0);
    until("it makes deliveries", || leads(&first, 0));
    let second = member(name, &url, origin, store, &addresses, 1);
    [first, second]
}

fn member(name: &str, url: &str, origin: &Origin, store: &str, addresses: &[SocketAddr], me: usize) -> Gate {
    let cluster = cluster(addresses, me, &format!("{SECRET}\n{PATIENT}"));
    node_with(&format!("pulled-{name}-{me}"), url, origin, &format!("{store}\n{cluster}"))
}

fn hand_in(gate: &Gate, tenant: &str, body: &str) {
    let (status, told) =
        say(gate, "POST /queues/pulled/deliveries", &json!({"tenant": tenant, "body": body}));
    assert_eq!(status, 202, "{told}");
}

/// What a claim is given. A node may not know yet who makes deliveries.
fn claim(gate: &Gate, asked: &Value) -> Vec<Value> {
    let mut got = Vec::new();
    until("a node is asked that makes them", || {
        let (status, told) = say(gate, "POST /queues/pulled/claim", asked);
        got = told["deliveries"].as_array().cloned().unwrap_or_default();
        assert!(status == 200 || told["code"] == "delivery.elsewhere", "{status} {told}");
        status == 200
    });
    got
}

fn tell(gate: &Gate, what: &str, body: &Value) -> Value {
    let (status, told) = say(gate, &format!("POST /queues/pulled/{what}"), body);
    assert_eq!(status, 200, "{told}");
    told["outcomes"].clone()
}

fn bodies(all: &[Value]) -> BTreeSet<&str> {
    all.iter().filter_map(|one| one["body"].as_str()).collect()
}

#[test]
fn who_pulls_at_a_node_without_the_shard_is_served_by_the_one_that_has_it() {
    let origin = Origin::start(|_| ok());
    let [has, asked] = pair("served", &origin, "lease = \"1h\"");
    let waits = json!({"wait": "20s"});
    // It waits there for what comes.
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| claim(&asked, &waits));
        until("its question is with the other node", || count(&asked, PASSING) == 1.0);
        assert_eq!(count(&has, PASSING), 0.0);
        hand_in(&asked, "a", "one");
        let got = worker.join().expect("a worker");
        assert_eq!(bodies(&got), ["one"].into());
        let grip = json!({"grip": got[0]["grip"]});
        let longer =
            json!({"deliveries": [{"grip": got[0]["grip"], "lease": "60s", "progress": {"done": 1}}]});
        assert_eq!(tell(&asked, "extend", &longer), json!(["done"]));
        let why = json!({"deliveries": [{"grip": got[0]["grip"], "why": "not now", "delay": "1ms"}]});
        assert_eq!(tell(&asked, "nack", &why), json!(["done"]));
        assert_eq!(tell(&asked, "ack", &json!({"deliveries": [grip]})), json!(["lost"]));
    });
    let got = claim(&asked, &waits);
    assert_eq!((bodies(&got), &got[0]["attempt"]), (["one"].into(), &json!(2)));
    let done = json!({"deliveries": [{"grip": got[0]["grip"], "result": "well"}, {"grip": "1-1"}]});
    assert_eq!(tell(&asked, "ack", &done), json!(["done", "lost"]));
    let (_, told) = say(&has, &format!("GET /deliveries/{}", got[0]["id"].as_str().unwrap()), &Value::Null);
    assert_eq!(told["state"], "delivered", "{told}");
    // Two claims, a longer lease, a refusal, an end that is too late, and one in time.
    let answered =
        |gate, what| count(gate, &format!("tidegate_cluster_{what}_total{{outcome=\"answered\"}}"));
    assert_eq!((answered(&asked, "passed"), answered(&has, "heard")), (6.0, 6.0));
    assert_eq!(
        (count(&asked, PASSING), answered(&has, "passed"), answered(&asked, "heard")),
        (0.0, 0.0, 0.0)
    );
    // What is wrong with a request is told by the node that was asked, as ever.
    let (status, told) = say(&asked, "POST /queues/jobs/claim", &Value::Null);
    assert_eq!((status, &told["code"]), (404, &json!("control.no-queue")), "{told}");
    let (status, _) = say(&asked, "POST /queues/pulled/ack", &json!({"deliveries": [{"grip": "7"}]}));
    assert_eq!(status, 400);
}

#[test]
fn a_claim_finds_what_is_in_any_nodes_shards_and_takes_no_more_than_asked_for() {
    let origin = Origin::start(|_| ok());
    let nodes = pair("all", &origin, "shards = 4");
    until("each has its part", || {
        nodes.iter().all(|node| (0..4).filter(|shard| leads(node, *shard)).count() == 2)
    });
    let all: BTreeSet<String> = (0..24).map(|number| format!("{number}{}", "x".repeat(1_000))).collect();
    for (number, body) in all.iter().enumerate() {
        hand_in(&nodes[number % 2], &format!("tenant-{number}"), body);
    }
    let mut found = BTreeSet::new();
    let mut turn = 0;
    while found.len() < all.len() {
        turn += 1;
        let got = claim(&nodes[turn % 2], &json!({"most": 5, "bytes_max": "3KiB", "wait": "20s"}));
        assert!((1..=3).contains(&got.len()), "{} of a thousand bytes each", got.len());
        let grips: Vec<Value> = got.iter().map(|one| json!({"grip": one["grip"]})).collect();
        let told = tell(&nodes[turn % 2], "ack", &json!({"deliveries": grips}));
        assert_eq!(told, Value::from(vec!["done"; got.len()]));
        found.extend(bodies(&got).into_iter().map(str::to_owned));
    }
    assert_eq!(found, all);
    assert_eq!(claim(&nodes[0], &json!({"most": 5})), Vec::<Value>::new());
}

#[test]
fn a_worker_that_left_takes_nothing_with_it() {
    let origin = Origin::start(|_| ok());
    let [_has, asked] = pair("left", &origin, "lease = \"1h\"");
    // Whoever makes deliveries is known from here on.
    assert_eq!(claim(&asked, &Value::Null), Vec::<Value>::new());
    let body = json!({"wait": "60s", "lease": "12h"}).to_string();
    let mut gone = connect(asked.control);
    let head = format!(
        "POST /queues/pulled/claim HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    gone.write_all(format!("{head}{body}").as_bytes()).expect("it takes it");
    drop(gone);
    hand_in(&asked, "a", "one");
    // Perhaps it was given to the one that left, and given back.
    let got = claim(&asked, &json!({"wait": "20s"}));
    assert_eq!((bodies(&got), &got[0]["attempt"]), (["one"].into(), &json!(1)));
}

#[test]
fn a_worker_goes_on_at_its_node_when_the_one_that_had_the_shard_is_killed() {
    let origin = Origin::start(|_| ok());
    let [mut has, asked] = pair("killed", &origin, "lease = \"1s\"");
    hand_in(&asked, "a", "one");
    let got = claim(&asked, &json!({"wait": "20s", "lease": "60s"}));
    assert_eq!(bodies(&got), ["one"].into());
    hand_in(&asked, "a", "two");
    has.signal("-KILL");
    has.wait();
    let ack = json!({"deliveries": [{"grip": got[0]["grip"]}]});
    until("what it had is heard", || {
        say(&asked, "POST /queues/pulled/ack", &ack).1 == json!({"outcomes": ["done"]})
    });
    let got = claim(&asked, &json!({"wait": "20s"}));
    assert_eq!(bodies(&got), ["two"].into());
}
