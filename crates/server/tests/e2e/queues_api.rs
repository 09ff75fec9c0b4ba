//! Queues, deliveries and schedules through the control API, and by command.

use serde_json::{Value, json};
use tidegate_model::credential::Digest;
use tidegate_testkit::{Gate, send, until};

use crate::BINARY;
use crate::deferred::Data;

/// A gate with a queue that is pulled, and a token called as its scope for each.
fn start(name: &str, data: &Data, more: &str) -> Gate {
    let tokens = ["deliver", "write", "read"].map(|scope| {
        let digest = Digest::of(scope.as_bytes()).0.map(|byte| format!("{byte:02x}")).concat();
        format!("{{ name = \"the-{scope}-token\", sha256 = \"{digest}\", scopes = [\"{scope}\"] }}")
    });
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
        tokens.join(", "),
        data.0.display()
    );
    Gate::start_whole(BINARY, name, &[], &config)
}

/// Status and body of a request to the control API with this token.
fn say(gate: &Gate, token: &str, line: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let answer = send(gate.control, request.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, serde_json::from_str(body).unwrap_or_default())
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
