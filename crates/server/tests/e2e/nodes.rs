//! What is made of deliveries over two nodes on one PostgreSQL: schedules and webhooks, also when the node that makes them is
//! killed; and how long what has ended is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};
use tidegate_testkit::{Gate, Origin, Postgres, Reply, until};

use crate::shards::{leads, made, node_with, ok, say};

/// Two nodes with these further tables; the first makes all deliveries.
fn pair(name: &str, origin: &Origin, tables: &str) -> [Gate; 2] {
    let url = Postgres::shared().database();
    let node = |which: &str| {
        let name = format!("nodes-{name}-{which}");
        node_with(&name, &url, origin, &format!("node = \"{name}\"\nlease = \"1s\"\n{tables}"))
    };
    let first = node("a");
    until("it makes deliveries", || leads(&first, 0));
    [first, node("b")]
}

fn kill(gate: &mut Gate) {
    gate.signal("-KILL");
    gate.wait();
}

/// The ids of the deliveries that each run was logged with, by both nodes.
fn runs(nodes: &[Gate; 2]) -> BTreeMap<String, BTreeSet<String>> {
    let mut runs = BTreeMap::<String, BTreeSet<String>>::new();
    for line in nodes.iter().flat_map(|node| node.said().lines().map(str::to_owned).collect::<Vec<_>>()) {
        let field = |name: &str| Some(line.split_once(name)?.1.split_whitespace().next()?.to_owned());
        if let (true, Some(run), Some(id)) =
            (line.contains("a run was made"), field("run="), field("delivery="))
        {
            runs.entry(run).or_default().insert(id);
        }
    }
    runs
}

#[test]
fn each_time_of_a_schedule_is_one_delivery_over_nodes_and_a_kill() {
    let origin = Origin::start(|_| ok());
    let tables = "[schedule.often]\ncron = \"* * * * * *\"\nqueue = \"jobs\"\ntenant = \"clock\"";
    let mut nodes = pair("schedule", &origin, tables);
    let more = |count: usize| until("it is made again and again", || made(&origin).len() >= count);
    more(3);
    kill(&mut nodes[0]);
    more(made(&origin).len() + 3);
    let (status, told) = say(&nodes[1], "GET /deliveries?queue=jobs&tenant=clock&limit=500", &Value::Null);
    assert_eq!(status, 200, "{told}");
    let listed: BTreeSet<String> = told["deliveries"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| one["id"].as_str().expect("an id").to_owned())
        .collect();
    // Of one that a killed node has accepted and not told of the other one tells.
    until("each delivery is some run's", || {
        let known: BTreeSet<String> = runs(&nodes).into_values().flatten().collect();
        listed.is_subset(&known)
    });
    let runs = runs(&nodes);
    assert!(runs.len() >= 6 && runs.values().all(|ids| ids.len() == 1), "{runs:?}");
    let ids: BTreeSet<&String> = runs.values().flatten().collect();
    assert_eq!(ids.len(), runs.len(), "no delivery is of two times: {runs:?}");
}

/// How often each event came.
fn events(origin: &Origin) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for one in origin.recorded() {
        let id = one.head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("webhook-id").then(|| value.to_owned())
        });
        *counts.entry(id.unwrap_or_default()).or_default() += 1;
    }
    counts
}

#[test]
fn an_event_that_any_node_takes_is_told_once_and_by_another_when_one_is_killed() {
    let origin = Origin::start(|_| ok());
    let tables =
        "[webhook]\nplaintext = true\nallow = [\"127.0.0.0/8\"]\nschedule = [\"1s\", \"1s\", \"1s\"]";
    let mut nodes = pair("webhooks", &origin, tables);
    let wanted = json!({"destination": {"url": format!("http://{}/hook", origin.address)}});
    let (status, told) = say(&nodes[1], "POST /webhooks/destinations/acme", &wanted);
    assert_eq!(status, 201, "{told}");
    let place = format!("/webhooks/destinations/acme/{}", told["id"].as_str().expect("an id"));
    let publish = |gate: &Gate, number: usize| {
        let event = json!({"id": format!("event-{number}"), "type": "made", "payload": number});
        let (status, told) = say(gate, "POST /webhooks/events/acme", &event);
        assert_eq!(status, 202, "{told}");
    };
    let delivered = |gate: &Gate, count: usize| {
        until("all are delivered", || {
            let (_, told) = say(gate, &format!("GET {place}/outcomes?limit=100"), &Value::Null);
            let items = told["items"].as_array().cloned().unwrap_or_default();
            items.iter().filter(|item| item["state"] == "delivered").count() == count
        });
    };
    (0..10).for_each(|number| publish(&nodes[number % 2], number));
    delivered(&nodes[0], 10);
    delivered(&nodes[1], 10);
    assert!(events(&origin).values().all(|count| *count == 1), "{:?}", events(&origin));
    kill(&mut nodes[0]);
    (10..15).for_each(|number| publish(&nodes[1], number));
    delivered(&nodes[1], 15);
    let told = events(&origin);
    assert_eq!((told.len(), told.values().max()), (15, Some(&1)), "{told:?}");
}

#[test]
fn what_has_ended_is_kept_as_long_as_its_queue_says_of_each_state() {
    let origin = Origin::start(|path| match path {
        "/bad" => Reply::Status(400, String::new()),
        _ => ok(),
    });
    let queue = |name: &str, kept: &str| {
        format!(
            "[queue.{name}]\nupstream = \"app\"\nkeep = {{ delivered = \"{kept}\", dead = \"{kept}\", cancelled = \"{kept}\" }}\n"
        )
    };
    let nodes = pair("kept", &origin, &format!("{}{}", queue("short", "1s"), queue("long", "1h")));
    let hand_in = |queue: &str, body: Value| {
        let (status, told) = say(&nodes[1], &format!("POST /queues/{queue}/deliveries"), &body);
        assert_eq!(status, 202, "{told}");
        told["id"].as_str().expect("an id").to_owned()
    };
    let ended = |queue: &str| {
        let well = hand_in(queue, json!({"tenant": "a", "path": "/good"}));
        let badly = hand_in(queue, json!({"tenant": "a", "path": "/bad"}));
        let unwanted = hand_in(queue, json!({"tenant": "a", "delay": "1h"}));
        let (status, told) = say(&nodes[1], &format!("DELETE /deliveries/{unwanted}"), &Value::Null);
        assert_eq!(status, 200, "{told}");
        [(well, "delivered"), (badly, "dead"), (unwanted, "cancelled")]
    };
    let look = |id: &str| say(&nodes[1], &format!("GET /deliveries/{id}"), &Value::Null);
    let (long, short) = (ended("long"), ended("short"));
    for (id, state) in &long {
        until("it has ended", || look(id).1["state"] == *state);
    }
    for (id, _) in &short {
        until("it is forgotten", || look(id).0 == 404);
    }
    for (id, state) in &long {
        assert_eq!(look(id).1["state"], *state);
    }
}
