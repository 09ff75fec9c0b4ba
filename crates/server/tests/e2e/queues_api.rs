//! Queues, deliveries and schedules through the control API, and by command.

use serde_json::{Value, json};
use tidegate_model::credential::Digest;
use tidegate_testkit::{Gate, send, until};

use crate::deferred::Data;
use crate::{BINARY, described};

/// The tokens of a control API: one called as its scope for each.
pub fn tokens() -> String {
    let tokens = ["deliver", "write", "read"].map(|scope| {
        let digest = Digest::of(scope.as_bytes()).0.map(|byte| format!("{byte:02x}")).concat();
        format!("{{ name = \"the-{scope}-token\", sha256 = \"{digest}\", scopes = [\"{scope}\"] }}")
    });
    tokens.join(", ")
}

/// A gate with a queue that is pulled, and a token called as its scope for each.
fn start(name: &str, data: &Data, more: &str) -> Gate {
    let config = format!(
        r#"
workers = 1
[listen]
http = ["127.0.0.1:0"]
[control]
listen = ["127.0.0.1:0"]
tokens = [{}]
[store]
url = "sqlite:{}"
[queue.kept]
pull = true
waiting = {{ deliveries = 3 }}
[[route]]
path = "/"
respond = {{ status = 200 }}
{more}
"#,
        tokens(),
        data.0.display()
    );
    Gate::start_whole(BINARY, name, &[], &config)
}

/// Status and body of a request to the control API with this token.
pub fn say(gate: &Gate, token: &str, line: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = send(gate.control, request.as_bytes());
    let (head, answered) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    let told = serde_json::from_str(answered).unwrap_or_default();
    described::takes(line, status, &body);
    described::fits(line, status, &told);
    (status, told)
}

/// What a command says, and whether it went well.
fn command(gate: &Gate, arguments: &[&str]) -> (bool, String) {
    let out = std::process::Command::new(BINARY)
        .args(arguments)
        .args(["--token", "write", "--control", &gate.control.to_string()])
        .output()
        .unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn a_delivery_is_handed_in_looked_at_cancelled_and_made_again() {
    let data = Data::new("api");
    let gate = start("queues-api", &data, "");
    let new = json!({
        "tenant": "acme", "path": "/jobs?a=1", "json": {"to": "x"}, "delay": "1h",
        "headers": {"Authorization": "Bearer hush"},
    });
    let hand_in = "POST /queues/kept/deliveries";
    assert_eq!(say(&gate, "read", hand_in, &new).0, 403);
    let (status, told) = say(&gate, "deliver", hand_in, &new);
    assert_eq!((status, &told["outcome"]), (202, &"accepted".into()), "{told}");
    let id = told["id"].as_str().unwrap();
    let (status, told) = say(&gate, "read", &format!("GET /deliveries/{id}"), &Value::Null);
    assert_eq!((status, &told["state"], &told["tenant"]), (200, &"scheduled".into(), &"acme".into()));
    assert_eq!(told["request"]["body"], "{\"to\":\"x\"}");
    assert!(!told.to_string().contains("hush"), "{told}");
    assert_eq!(say(&gate, "deliver", &format!("DELETE /deliveries/{id}"), &Value::Null).0, 403);
    let (status, told) = say(&gate, "write", &format!("DELETE /deliveries/{id}"), &Value::Null);
    assert_eq!((status, &told["state"]), (200, &"cancelled".into()));
    let again = say(&gate, "write", &format!("DELETE /deliveries/{id}"), &Value::Null);
    assert_eq!((again.0, &again.1["code"]), (409, &"control.delivery-state".into()));
    let (status, told) = say(&gate, "write", &format!("POST /deliveries/{id}/redrive"), &Value::Null);
    assert_eq!((status, &told["state"]), (200, &"ready".into()));
    assert!(gate.said().contains("the-write-token"), "{}", gate.said());
    for (line, code) in [
        ("GET /deliveries/none", "control.no-delivery"),
        ("POST /queues/none/deliveries", "control.no-queue"),
        ("POST /schedules/none/run", "control.no-schedule"),
    ] {
        let (status, told) = say(&gate, "write", line, &json!({"tenant": "a"}));
        assert_eq!((status, &told["code"]), (404, &code.into()), "{told}");
    }
}

#[test]
fn each_of_several_is_accepted_for_itself() {
    let data = Data::new("batch");
    let gate = start("queues-batch", &data, "");
    let unique = json!({"tenant": "acme", "body": "1", "unique": {"key": "k", "window": "1h"}});
    let all = json!([
        unique, unique, {"tenant": "acme", "attempts": 0}, {"tenant": "acme"},
        {"tenant": "acme", "after": ["0123456789abcdef0123456789abcdef"]},
        {"tenant": "acme"}, {"tenant": "acme"}, {"tenant": "other"},
    ]);
    let (status, told) = say(&gate, "deliver", "POST /queues/kept/deliveries", &all);
    let outcomes: Vec<&str> =
        told["deliveries"].as_array().unwrap().iter().map(|one| one["outcome"].as_str().unwrap()).collect();
    let expected = ["accepted", "already", "invalid", "accepted", "after", "accepted", "full", "accepted"];
    assert_eq!((status, outcomes.as_slice()), (200, &expected[..]));
    assert_eq!(told["deliveries"][0]["id"], told["deliveries"][1]["id"]);
    let (status, told) = say(&gate, "deliver", "POST /queues/kept/deliveries", &json!({"tenant": "acme"}));
    assert_eq!((status, &told["code"]), (429, &"control.full".into()));
    let wrong = say(&gate, "deliver", "POST /queues/kept/deliveries", &json!({"tenant": "a", "prio": 1}));
    assert_eq!((wrong.0, &wrong.1["code"]), (400, &"control.delivery".into()));
}

#[test]
fn a_queue_is_paused_and_goes_on_by_command() {
    let data = Data::new("pause");
    let gate = start("queues-pause", &data, "");
    assert_eq!(command(&gate, &["queue", "pause", "kept"]), (true, "kept is paused\n".to_owned()));
    let (went, said) =
        command(&gate, &["queue", "pause", "kept", "--tenant", "acme", "--key", "k", "--json"]);
    assert!(went && said.contains("\"key\":\"k\""), "{said}");
    assert_eq!(command(&gate, &["queue", "resume", "kept"]), (true, "kept is going on\n".to_owned()));
    assert!(!command(&gate, &["queue", "pause", "none"]).0);
    let (went, said) = command(&gate, &["delivery", "add", "kept", "--tenant", "acme", "--body", "hello"]);
    assert!(went && said.ends_with(" accepted\n"), "{said}");
    let id = said.split(' ').next().unwrap();
    let (went, said) = command(&gate, &["delivery", "show", id]);
    assert!(went && said.contains("\"hello\""), "{said}");
    let cancelled = format!("{id} is cancelled\n");
    assert_eq!(command(&gate, &["delivery", "cancel", id]), (true, cancelled));
    assert_eq!(command(&gate, &["delivery", "redrive", id]), (true, format!("{id} is ready\n")));
}

#[test]
fn a_schedule_makes_its_runs_once_and_by_hand_when_asked() {
    let data = Data::new("schedule");
    let more = r#"
[schedule.often]
cron = "* * * * * *"
queue = "kept"
tenant = "clock"
body = "tick"
[schedule.never]
cron = "0 0 1 1 *"
zone = "Europe/Berlin"
queue = "kept"
[schedule.resting]
cron = "* * * * *"
queue = "kept"
paused = true
"#;
    let gate = start("queues-schedule", &data, more);
    until("a run was made", || gate.said().contains("a run was made"));
    let said = gate.said();
    let id = said.split("delivery=").nth(1).unwrap().split_whitespace().next().unwrap();
    let (status, told) = say(&gate, "read", &format!("GET /deliveries/{id}"), &Value::Null);
    assert_eq!((status, &told["tenant"], &told["request"]["body"]), (200, &"clock".into(), &"tick".into()));
    let (_, told) = say(&gate, "read", "GET /schedules", &Value::Null);
    let never = told["schedules"].as_array().unwrap().iter().find(|one| one["name"] == "never").unwrap();
    assert!(never["next"].as_str().unwrap().ends_with("-12-31T23:00:00Z"), "{never}");
    let (went, said) = command(&gate, &["schedule", "run", "never"]);
    assert!(went && said.ends_with(" accepted\n"), "{said}");
    let (went, said) = command(&gate, &["schedule", "list"]);
    assert!(went && said.contains("Europe/Berlin") && said.starts_with("SCHEDULE"), "{said}");
}

#[test]
fn the_api_tells_what_it_is() {
    let data = Data::new("openapi");
    let gate = start("queues-openapi", &data, "");
    let (status, told) = say(&gate, "read", "GET /openapi.json", &Value::Null);
    assert_eq!((status, &told["openapi"]), (200, &"3.1.0".into()));
    assert!(told["paths"]["/queues/{name}/deliveries"]["post"]["requestBody"].is_object(), "{told}");
}

#[test]
fn deliveries_are_listed_in_pages_and_changed_by_filter() {
    let data = Data::new("list");
    let gate = start("queues-list", &data, "");
    let hand_in = |tenant: &str, key: &str| {
        let (status, told) =
            say(&gate, "deliver", "POST /queues/kept/deliveries", &json!({"tenant": tenant, "key": key}));
        assert_eq!(status, 202, "{told}");
    };
    for (tenant, key) in [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3"), ("b", "2")] {
        hand_in(tenant, key);
    }
    let mut keys = Vec::new();
    let mut path = "GET /deliveries?queue=kept&tenant=a&limit=2".to_owned();
    loop {
        let (status, told) = say(&gate, "read", &path, &Value::Null);
        assert_eq!(status, 200, "{told}");
        let page = told["deliveries"].as_array().unwrap();
        assert!(page.len() <= 2);
        keys.extend(page.iter().map(|one| one["key"].as_str().unwrap().to_owned()));
        let Some(next) = told["next"].as_str() else { break };
        path = format!("GET /deliveries?queue=kept&tenant=a&limit=2&cursor={next}");
    }
    assert_eq!(keys, ["3", "2", "1"]);
    let (_, told) = say(&gate, "read", "GET /queues/kept", &Value::Null);
    assert_eq!(told["counts"]["ready"], 5, "{told}");
    assert_eq!(told["lines"].as_array().unwrap().len(), 2);
    let filter = json!({"filter": {"queue": "kept", "tenant": "a"}, "most": 2});
    let (status, told) = say(&gate, "write", "POST /deliveries/cancel", &filter);
    assert_eq!((status, &told["changed"]), (200, &2.into()), "{told}");
    let (went, said) =
        command(&gate, &["delivery", "cancel", "--queue", "kept", "--tenant", "a", "--state", "ready"]);
    assert_eq!((went, said.as_str()), (true, "1 changed\n"));
    let again = json!({
        "filter": {"queue": "kept", "state": "cancelled"}, "per_second": 1, "delay": "1h",
    });
    let (status, told) = say(&gate, "write", "POST /deliveries/redrive", &again);
    assert_eq!((status, &told["changed"]), (200, &3.into()), "{told}");
    // One a second, from an hour on.
    assert_eq!(told["last_in_ms"].as_u64().map(|last| last / 1000), Some(3602));
    let (_, told) = say(&gate, "read", "GET /queues/kept", &Value::Null);
    assert_eq!((&told["counts"]["ready"], &told["counts"]["scheduled"]), (&2.into(), &3.into()), "{told}");
    for body in
        [json!({}), json!({"filter": {"state": "gone"}}), json!({"filter": {"queue": "kept"}, "delay": "1s"})]
    {
        let (status, told) = say(&gate, "write", "POST /deliveries/cancel", &body);
        assert_eq!((status, &told["code"]), (400, &"control.filter".into()), "{told}");
    }
    let (went, said) = command(&gate, &["delivery", "list", "--queue", "kept", "--tenant", "b"]);
    assert!(went && said.starts_with("ID") && said.lines().count() == 3, "{said}");
    let (went, said) = command(&gate, &["queue", "list"]);
    assert!(went && said.contains("kept"), "{said}");
}

#[test]
fn a_request_is_edited_by_who_knows_it_as_it_is() {
    let data = Data::new("edit");
    let gate = start("queues-edit", &data, "");
    let new = json!({"tenant": "a", "body": "first", "delay": "1h"});
    let (_, told) = say(&gate, "deliver", "POST /queues/kept/deliveries", &new);
    let id = told["id"].as_str().unwrap();
    let edit = |tag: &str, body: &str| {
        let body = json!({ "body": body }).to_string();
        let request = format!(
            "PATCH /deliveries/{id} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer write\r\n\
             If-Match: {tag}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        send(gate.control, request.as_bytes())
    };
    let looked = format!("GET /deliveries/{id} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let looked = send(gate.control, looked.as_bytes());
    let tag = looked.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    assert!(edit(&tag, "second").starts_with("HTTP/1.0 200 "));
    let stale = edit(&tag, "third");
    assert!(stale.starts_with("HTTP/1.0 412 ") && stale.contains("control.changed"), "{stale}");
    assert!(edit("*", "third").contains("\"body\":\"third\""));
}

#[test]
fn who_comes_for_deliveries_holds_them_until_they_are_told_of() {
    let data = Data::new("pull");
    let gate = start("queues-pull", &data, "");
    let claim = |body: Value| {
        let (status, told) = say(&gate, "deliver", "POST /queues/kept/claim", &body);
        assert_eq!(status, 200, "{told}");
        told["deliveries"].as_array().unwrap().clone()
    };
    let new = json!([{"tenant": "a", "body": "1"}, {"tenant": "b", "body": "2"}]);
    say(&gate, "deliver", "POST /queues/kept/deliveries", &new);
    let first = claim(json!({"tenants": ["a"], "wait": "20s", "most": 5}));
    let bodies: Vec<_> = first.iter().map(|one| one["body"].as_str().unwrap()).collect();
    assert_eq!((bodies.as_slice(), &first[0]["attempt"]), (&["1"][..], &1.into()));
    let second = claim(json!({"wait": "20s"}));
    assert_eq!(second[0]["tenant"], "b");
    let grip = |one: &Value| one["grip"].clone();
    let extend = json!({"deliveries": [{"grip": grip(&first[0]), "progress": {"percent": 50}}]});
    let (_, told) = say(&gate, "deliver", "POST /queues/kept/extend", &extend);
    assert_eq!(told["outcomes"], json!(["done"]));
    let id = first[0]["id"].as_str().unwrap();
    let (_, told) = say(&gate, "read", &format!("GET /deliveries/{id}"), &Value::Null);
    assert_eq!((&told["state"], &told["progress"]["percent"]), (&"leased".into(), &50.into()));
    let ack = json!({"deliveries": [{"grip": grip(&first[0])}]});
    for expected in ["done", "lost"] {
        let (_, told) = say(&gate, "deliver", "POST /queues/kept/ack", &ack);
        assert_eq!(told["outcomes"], json!([expected]));
    }
    let nack = json!({"deliveries": [{"grip": grip(&second[0]), "why": "no such thing", "never": true}]});
    let (_, told) = say(&gate, "deliver", "POST /queues/kept/nack", &nack);
    assert_eq!(told["outcomes"], json!(["done"]));
    let dead = second[0]["id"].as_str().unwrap();
    let (_, told) = say(&gate, "read", &format!("GET /deliveries/{dead}"), &Value::Null);
    assert_eq!((&told["state"], &told["why"]), (&"dead".into(), &"no such thing".into()));
    assert!(claim(json!({})).is_empty());
    let (status, told) =
        say(&gate, "deliver", "POST /queues/kept/ack", &json!({"deliveries": [{"grip": "x"}]}));
    assert_eq!((status, &told["code"]), (400, &"control.claim".into()));
    assert_eq!(gate.metric("tidegate_queue_deliveries{queue=\"kept\",state=\"dead\"}"), Some(1.0));
    assert_eq!(gate.metric("tidegate_queue_attempts_total{queue=\"kept\",outcome=\"delivered\"}"), Some(1.0));
}

#[test]
fn what_is_purged_is_gone_and_what_waits_only_if_that_is_said() {
    let data = Data::new("purge");
    let gate = start("queues-purge", &data, "");
    let hand_in = |tenant: &str| {
        let new = json!({"tenant": tenant, "unique": {"key": "k", "window": "1h"}});
        say(&gate, "deliver", "POST /queues/kept/deliveries", &new).1
    };
    let (ended, waiting) = (hand_in("a")["id"].clone(), hand_in("b")["id"].clone());
    assert_eq!(hand_in("a")["outcome"], "already");
    say(&gate, "write", &format!("DELETE /deliveries/{}", ended.as_str().unwrap()), &Value::Null);
    let counts = || {
        let (_, told) = say(&gate, "read", "GET /queues/kept", &Value::Null);
        (told["counts"]["ready"].as_u64().unwrap(), told["counts"]["cancelled"].as_u64().unwrap())
    };
    assert_eq!(counts(), (1, 1));
    let purge = json!({"filter": {"queue": "kept"}});
    assert_eq!(say(&gate, "deliver", "POST /deliveries/purge", &purge).0, 403);
    let (status, told) = say(&gate, "write", "POST /deliveries/purge", &purge);
    assert_eq!((status, &told["purged"], &told["next"]), (200, &1.into(), &Value::Null), "{told}");
    until("what has ended is forgotten", || counts() == (1, 0));
    assert_eq!(hand_in("a")["outcome"], "accepted", "so is what made it one of a kind");
    let purged = command(&gate, &["delivery", "purge", "--queue", "kept", "--tenant", "b", "--waiting"]);
    assert_eq!(purged, (true, "1 purged\n".to_owned()));
    until("what waited is forgotten", || counts() == (1, 0));
    let gone = say(&gate, "read", &format!("GET /deliveries/{}", waiting.as_str().unwrap()), &Value::Null);
    assert_eq!(gone.0, 404, "{}", gone.1);
    let (status, told) = say(&gate, "write", "POST /deliveries/purge", &json!({}));
    assert_eq!((status, &told["code"]), (400, &"control.filter".into()));
}

#[test]
fn a_tenant_is_paused_in_all_queues() {
    let data = Data::new("tenants");
    let gate = start("queues-tenants", &data, "[queue.other]\npull = true\n");
    assert_eq!(command(&gate, &["queue", "pause", "--tenant", "a"]), (true, "a is paused\n".to_owned()));
    let (_, told) = say(&gate, "read", "GET /queues", &Value::Null);
    assert_eq!(told["paused_tenants"], json!(["a"]), "{told}");
    for queue in ["kept", "other"] {
        let all = json!([{"tenant": "a"}, {"tenant": "b"}]);
        say(&gate, "deliver", &format!("POST /queues/{queue}/deliveries"), &all);
        let claim = json!({"most": 5, "wait": "20s"});
        let (_, told) = say(&gate, "deliver", &format!("POST /queues/{queue}/claim"), &claim);
        let tenants: Vec<_> =
            told["deliveries"].as_array().unwrap().iter().map(|one| &one["tenant"]).collect();
        assert_eq!(tenants, ["b"]);
    }
    let (status, told) = say(&gate, "write", "POST /tenants/a/resume", &Value::Null);
    assert_eq!((status, &told["paused"]), (200, &false.into()));
    let (_, told) = say(&gate, "deliver", "POST /queues/other/claim", &json!({"wait": "20s"}));
    assert_eq!(told["deliveries"][0]["tenant"], "a", "{told}");
    assert_eq!(say(&gate, "deliver", "POST /tenants/a/pause", &Value::Null).0, 403);
}

#[test]
fn a_payload_of_ten_mebibytes_comes_whole_and_no_byte_more_is_taken() {
    use base64::Engine as _;
    let data = Data::new("large");
    let gate = start("queues-large", &data, "");
    let hand_in = |bytes: usize| {
        let body: Vec<u8> = (0..bytes).map(|place| (place * 7 % 251) as u8).collect();
        let new = json!({"tenant": "a", "base64": base64::prelude::BASE64_STANDARD.encode(&body)});
        (say(&gate, "deliver", "POST /queues/kept/deliveries", &new), body)
    };
    let ((status, told), sent) = hand_in(10 << 20);
    assert_eq!(status, 202, "{told}");
    let (status, told) = say(&gate, "deliver", "POST /queues/kept/claim", &json!({"wait": "20s"}));
    let got =
        told["deliveries"][0]["base64"].as_str().map(|text| base64::prelude::BASE64_STANDARD.decode(text));
    assert_eq!(status, 200);
    assert!(got.is_some_and(|got| got.is_ok_and(|got| got == sent)), "it comes as it was sent");
    let ((status, told), _) = hand_in((10 << 20) + 1);
    assert_eq!((status, &told["code"]), (400, &"control.delivery".into()));
}
