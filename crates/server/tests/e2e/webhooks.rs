//! Webhooks: what tenants' servers are told, how it is signed, and where it never goes; what others' servers send.
//!
//! Signatures are verified and made here by code of the test's own.

mod incoming;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::{hmac, signature};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidegate_testkit::{
    Gate, NameServer, Origin, Record, Reply, TlsOrigin, connect, read_answer, tls, until,
};

use crate::BINARY;
use crate::cache::say;

/// A message as a receiver has it.
#[derive(Clone, Debug)]
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn field(&self, name: &str) -> String {
        let line = self.head.lines().find_map(|line| {
            let (said, value) = line.split_once(": ")?;
            said.eq_ignore_ascii_case(name).then(|| value.to_owned())
        });
        line.unwrap_or_default()
    }

    /// Whether it is signed by this key, as Standard Webhooks has it.
    fn is_signed_by(&self, key: &str) -> bool {
        let (id, at) = (self.field("webhook-id"), self.field("webhook-timestamp"));
        let signed = [format!("{id}.{at}.").as_bytes(), &self.body].concat();
        let (kind, encoded) = key.split_once('_').unwrap();
        let bytes = STANDARD.decode(encoded).unwrap();
        self.field("webhook-signature").split(' ').any(|one| {
            let (version, signature) = one.split_once(',').unwrap();
            let signature = STANDARD.decode(signature).unwrap();
            match (kind, version) {
                ("whsec", "v1") => {
                    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), &signed, &signature).is_ok()
                }
                ("whpk", "v1a") => signature::UnparsedPublicKey::new(&signature::ED25519, &bytes)
                    .verify(&signed, &signature)
                    .is_ok(),
                _ => false,
            }
        })
    }
}

/// A receiver: what it has got, and what it answers.
struct Receiver {
    origin: Origin,
    got: Arc<parking_lot::Mutex<Vec<Message>>>,
}

impl Receiver {
    /// One that answers each message by its number, the first being 0.
    fn answering(answer: impl Fn(usize) -> &'static str + Send + Sync + 'static) -> Receiver {
        let got = Arc::<parking_lot::Mutex<Vec<Message>>>::default();
        let told = Arc::clone(&got);
        let origin = Origin::scripted(move |visit| {
            let body = visit.read_content()?;
            let number = {
                let mut told = told.lock();
                told.push(Message { head: visit.head.clone(), body });
                told.len() - 1
            };
            visit.say(format!("HTTP/1.1 {}\r\nContent-Length: 2\r\n\r\nok", answer(number)))
        });
        Receiver { origin, got }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.origin.address)
    }

    fn got(&self) -> Vec<Message> {
        self.got.lock().clone()
    }

    fn wait(&self, count: usize) -> Vec<Message> {
        until(&format!("{count} messages"), || self.got.lock().len() >= count);
        self.got()
    }
}

/// A gate with webhooks; `webhook` are further lines of `[webhook]`, `rest` is what else stands in the file.
fn hooked(name: &str, webhook: &str, rest: &str) -> Gate {
    let data = Gate::folder(name).join("data");
    Gate::start_whole(BINARY, name, &[], &config(&data.display().to_string(), webhook, rest))
}

fn config(data: &str, webhook: &str, rest: &str) -> String {
    let tokens = ["write", "deliver", "read"].map(|scope| {
        let digest = tidegate_model::credential::Digest::of(scope.as_bytes()).0;
        let digest = digest.map(|byte| format!("{byte:02x}")).concat();
        format!("{{ name = \"the-{scope}-token\", sha256 = \"{digest}\", scopes = [\"{scope}\"] }}")
    });
    format!(
        "workers = 1\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[control]\nlisten = [\"127.0.0.1:0\"]\ntokens = [{}]\n\
         [store]\nurl = \"sqlite:{data}\"\n[webhook]\nsource = \"https://gate.example\"\nplaintext = true\n{webhook}\n\
         [[route]]\npath = \"= /none\"\nrespond = {{ status = 204 }}\n{rest}\n",
        tokens.join(", ")
    )
}

/// Asks the control API, and expects this status.
#[track_caller]
fn asked(gate: &Gate, token: &str, line: &str, body: &Value, status: u16) -> Value {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (found, told) = say(gate, token, line, &body);
    assert_eq!(found, status, "{line}: {told}");
    let told = serde_json::from_str(&told).unwrap_or_default();
    let line = line.split(" HTTP/").next().unwrap_or(line);
    crate::described::fits(line, status, &told);
    told
}

/// Makes a destination of the tenant `acme`: its id, and what it verifies by.
#[track_caller]
fn destination(gate: &Gate, body: &Value) -> (String, String) {
    let made = asked(gate, "write", "POST /webhooks/destinations/acme", body, 201);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made["id"]), text(&made["secrets"][0]["key"]))
}

#[track_caller]
fn publish(gate: &Gate, event: &Value) -> Value {
    asked(gate, "deliver", "POST /webhooks/events/acme", event, 202)
}

fn outcome(gate: &Gate, id: &str) -> Value {
    let told =
        asked(gate, "read", &format!("GET /webhooks/destinations/acme/{id}/outcomes"), &Value::Null, 200);
    told["items"][0].clone()
}

const OPEN: &str = "allow = [\"127.0.0.0/8\"]\nschedule = [\"1s\", \"1s\"]";

#[test]
fn an_event_is_told_signed_to_each_who_wants_it_and_again_until_it_is_taken() {
    let receiver = Receiver::answering(|number| if number == 0 { "500 No" } else { "200 Yes" });
    let other = Receiver::answering(|_| "204 Yes");
    let gate = hooked("webhooks-told", OPEN, "");
    let orders = json!({ "destination": { "url": receiver.url(), "filter": { "types": ["order.*"] } } });
    let (id, key) = destination(&gate, &orders);
    let (_, public) =
        destination(&gate, &json!({ "destination": { "url": other.url() }, "signature": "v1a" }));
    let event = json!({ "id": "e1", "type": "order.created", "payload": { "total": 12 } });
    assert_eq!(publish(&gate, &event), json!({ "id": "e1", "repeated": false, "destinations": 2 }));
    assert_eq!(publish(&gate, &event)["repeated"], true);
    publish(&gate, &json!({ "id": "e2", "type": "user.created", "payload": 1 }));
    let got = receiver.wait(2);
    assert!(got.iter().all(|message| message.is_signed_by(&key) && message.field("webhook-id") == "e1"));
    assert!(got[0].head.starts_with("POST /hook HTTP/1.1"), "{}", got[0].head);
    let body: Value = serde_json::from_slice(&got[0].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["total"]), (&json!("order.created"), &json!(12)));
    let others = other.wait(2);
    assert!(others.iter().all(|message| message.is_signed_by(&public)));
    until("it is delivered", || outcome(&gate, &id)["state"] == "delivered");
    let attempts = outcome(&gate, &id)["attempts"].clone();
    assert_eq!((&attempts[0]["status"], &attempts[1]["status"]), (&json!(500), &json!(200)), "{attempts}");
    assert_eq!(
        receiver.got().len(),
        2,
        "what it does not want to hear of is not told, nor what was told again"
    );
}

#[test]
fn what_was_acknowledged_is_told_after_a_crash() {
    let receiver = Receiver::answering(|_| "200 Yes");
    let folder = std::env::temp_dir().join(format!("tidegate-hooks-{}", std::process::id()));
    let text = config(&folder.display().to_string(), OPEN, "");
    let mut gate = Gate::start_whole(BINARY, "webhooks-crash", &[], &text);
    destination(&gate, &json!({ "destination": { "url": receiver.url() } }));
    for number in 0..20 {
        publish(&gate, &json!({ "id": format!("e{number}"), "type": "a", "payload": number }));
    }
    gate.signal("-KILL");
    gate.wait();
    let _gate = Gate::start_whole(BINARY, "webhooks-crash", &[], &text);
    let ids = || {
        receiver.got().iter().map(|one| one.field("webhook-id")).collect::<std::collections::BTreeSet<_>>()
    };
    until("all are told", || ids().len() == 20);
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn a_receiver_that_is_gone_is_sent_nothing_more() {
    let receiver = Receiver::answering(|_| "410 Gone");
    let gate = hooked("webhooks-gone", OPEN, "");
    let (id, _) = destination(&gate, &json!({ "destination": { "url": receiver.url() } }));
    publish(&gate, &json!({ "type": "a", "payload": 1 }));
    let state = || {
        asked(&gate, "read", &format!("GET /webhooks/destinations/acme/{id}"), &Value::Null, 200)["state"]
            .clone()
    };
    until("it is disabled", || state() == "gone");
    assert_eq!(publish(&gate, &json!({ "type": "a", "payload": 2 }))["destinations"], 0);
    assert_eq!(receiver.got().len(), 1);
}

#[test]
fn both_secrets_sign_while_one_replaces_the_other() {
    let receiver = Receiver::answering(|_| "200 Yes");
    let gate = hooked("webhooks-rotated", OPEN, "");
    let (id, old) = destination(&gate, &json!({ "destination": { "url": receiver.url() } }));
    let line = format!("POST /webhooks/destinations/acme/{id}/secret");
    let told = asked(&gate, "write", &line, &json!({ "overlap": "1h" }), 200);
    let new = told["secrets"][0]["key"].as_str().unwrap().to_owned();
    publish(&gate, &json!({ "type": "a", "payload": 1 }));
    let got = receiver.wait(1);
    assert!(new != old && got[0].is_signed_by(&new) && got[0].is_signed_by(&old), "{}", got[0].head);
}

#[test]
fn what_leads_inside_is_not_called_whatever_its_name_says_and_when() {
    let receiver = Receiver::answering(|_| "200 Yes");
    let names = NameServer::start();
    let resolver = format!("resolver = \"{}\"\nschedule = [\"1s\", \"1s\", \"1s\", \"1s\"]", names.address);
    let gate = hooked("webhooks-inside", &resolver, "");
    let refused = |url: &str| {
        let told = asked(
            &gate,
            "write",
            "POST /webhooks/destinations/acme",
            &json!({ "destination": { "url": url } }),
            422,
        );
        assert_eq!(told["code"], "control.webhook", "{told}");
    };
    for url in [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://2130706433/",
        "http://user:secret@a.example/",
        "http://[::ffff:10.0.0.1]/",
        "ftp://a.example/",
        "http://a.example:22/",
    ] {
        refused(url);
    }
    // A name is looked at when it is called; one of its addresses inside is enough.
    let port = receiver.origin.address.port();
    names.set("inside.example.", vec![Record::A(Ipv4Addr::LOCALHOST)]);
    names.set("both.example.", vec![Record::A(Ipv4Addr::new(192, 0, 2, 1)), Record::A(Ipv4Addr::LOCALHOST)]);
    for host in ["inside.example", "both.example"] {
        let (id, _) =
            destination(&gate, &json!({ "destination": { "url": format!("http://{host}:{port}/") } }));
        asked(&gate, "deliver", &format!("POST /webhooks/destinations/acme/{id}/test"), &Value::Null, 202);
        until("it is refused", || outcome(&gate, &id)["attempts"][0]["why"].is_string());
        let why = outcome(&gate, &id)["attempts"][0]["why"].clone();
        // The tenant learns nothing of what names inside lead to; the log tells.
        assert_eq!(why, "its name leads to nothing that may be called");
        until("the log tells why", || {
            gate.said()
                .lines()
                .any(|line| line.contains(&format!("`{host}`")) && line.contains("is not public"))
        });
    }
    assert!(receiver.got().is_empty());
}

#[test]
fn a_name_is_called_at_the_address_that_was_looked_at() {
    let receiver = Receiver::answering(|_| "302 Found");
    let names = NameServer::start();
    let SocketAddr::V4(address) = receiver.origin.address else { panic!("IPv4") };
    names.set("hooks.example.", vec![Record::A(*address.ip())]);
    let open = format!("{OPEN}\nresolver = \"{}\"", names.address);
    let gate = hooked("webhooks-named", &open, "");
    let url = format!("http://hooks.example:{}/", address.port());
    let (id, _) = destination(&gate, &json!({ "destination": { "url": url } }));
    publish(&gate, &json!({ "type": "a", "payload": 1 }));
    let got = receiver.wait(1);
    assert_eq!(got[0].field("host"), format!("hooks.example:{}", address.port()));
    until("it is told", || outcome(&gate, &id)["attempts"][0]["status"] == 302);
}

#[test]
fn destinations_are_changed_by_version_and_hide_what_is_secret() {
    let gate = hooked("webhooks-managed", OPEN, "");
    let body =
        json!({ "destination": { "url": "http://a.example/", "headers": [["X-Key", "hidden-value"]] } });
    let (id, _) = destination(&gate, &body);
    let line = |method: &str| format!("{method} /webhooks/destinations/acme/{id}");
    let shown = asked(&gate, "read", &line("GET"), &Value::Null, 200);
    assert_eq!(shown["destination"]["headers"], json!([["X-Key", "(hidden)"]]));
    asked(&gate, "read", &format!("{}/secret", line("GET")), &Value::Null, 403);
    let mut wanted = shown["destination"].clone();
    wanted["description"] = json!("ours");
    let with = |version: u64| {
        format!("PUT /webhooks/destinations/acme/{id} HTTP/1.0\r\nIf-Match: \"{version}\"\r\nX-Rest:")
    };
    let version = shown["version"].as_u64().unwrap();
    let stale = asked(&gate, "write", &with(version + 1), &wanted, 412);
    assert_eq!(stale["code"], "control.webhook-changed");
    assert_eq!(asked(&gate, "write", &with(version), &wanted, 200)["destination"]["description"], "ours");
    asked(&gate, "write", &line("DELETE"), &Value::Null, 200);
    assert_eq!(asked(&gate, "read", &line("GET"), &Value::Null, 404)["code"], "control.webhook-missing");
    asked(&gate, "deliver", "POST /webhooks/destinations/acme", &body, 403);
}

#[test]
fn what_waits_for_a_batch_goes_as_one_request_when_enough_wait_or_the_time_is_over() {
    let (many, soon) = (Receiver::answering(|_| "200 Yes"), Receiver::answering(|_| "200 Yes"));
    let gate = hooked("webhooks-batched", OPEN, "");
    let batched = |url: String, batch: Value| json!({ "destination": { "url": url, "form": "cloudevents-batch", "batch": batch } });
    let (id, key) = destination(&gate, &batched(many.url(), json!({ "events": 3, "wait_ms": 3_600_000 })));
    destination(&gate, &batched(soon.url(), json!({ "wait_ms": 50 })));
    for number in 0..3 {
        publish(&gate, &json!({ "id": format!("e{number}"), "type": "a", "payload": number }));
    }
    let got = many.wait(1).remove(0);
    assert!(
        got.is_signed_by(&key) && got.field("content-type").starts_with("application/cloudevents-batch+json")
    );
    let events: Vec<Value> = serde_json::from_slice(&got.body).unwrap();
    let ids: Vec<&str> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["e0", "e1", "e2"]);
    until("it is delivered", || outcome(&gate, &id)["state"] == "delivered");
    // However many batches it takes there: none is lost, and none comes twice.
    let told = || {
        let bodies =
            soon.got().into_iter().map(|one| serde_json::from_slice::<Vec<Value>>(&one.body).unwrap());
        bodies.flatten().map(|event| event["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("all are told", || told().len() >= 3);
    let mut all = told();
    all.sort_unstable();
    assert_eq!(all, ["e0", "e1", "e2"]);
    assert_eq!(many.got().len(), 1);
}

#[test]
fn a_receiver_is_shown_the_certificate_that_it_wants_and_another_one_is_refused() {
    let folder = Gate::folder("webhooks-shown");
    let file = |name: &str| folder.join(name);
    for (name, of) in [("server", "hooks.test"), ("ours", "ours.test"), ("others", "others.test")] {
        let _ = tls::certificate(&[of], &file(&format!("{name}.pem")), &file(&format!("{name}.key")));
    }
    let receiver = TlsOrigin::demanding(&file("server.pem"), &file("server.key"), &file("ours.pem"), "taken");
    let names = NameServer::start();
    names.set("hooks.test.", vec![Record::A(Ipv4Addr::LOCALHOST)]);
    let webhook =
        format!("{OPEN}\nresolver = \"{}\"\nca = \"{}\"", names.address, file("server.pem").display());
    let gate = hooked("webhooks-certificates", &webhook, "");
    let pem = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    let url = format!("https://hooks.test:{}/in", receiver.address.port());
    let last = |certificate: Value| {
        let body = json!({ "destination": { "url": url, "schedule": [] }, "certificate": certificate });
        let (id, _) = destination(&gate, &body);
        asked(&gate, "deliver", &format!("POST /webhooks/destinations/acme/{id}/test"), &Value::Null, 202);
        until("it was tried", || outcome(&gate, &id)["attempts"][0].is_object());
        let shown = asked(&gate, "read", &format!("GET /webhooks/destinations/acme/{id}"), &Value::Null, 200);
        assert_eq!(shown["certificate"], !certificate.is_null());
        assert!(!shown.to_string().contains("PRIVATE"), "{shown}");
        outcome(&gate, &id)
    };
    let shows =
        |name: &str| json!({ "chain": pem(&format!("{name}.pem")), "key": pem(&format!("{name}.key")) });
    let well = last(shows("ours"));
    assert_eq!(
        (&well["state"], &well["attempts"][0]["answer"]),
        (&json!("delivered"), &json!("taken")),
        "{well}"
    );
    for certificate in [shows("others"), Value::Null] {
        let refused = last(certificate);
        assert_eq!(
            (&refused["state"], &refused["attempts"][0]["status"]),
            (&json!("failed"), &Value::Null),
            "{refused}"
        );
    }
    let mixed = json!({ "chain": pem("ours.pem"), "key": pem("others.key") });
    let body = json!({ "destination": { "url": url }, "certificate": mixed });
    assert_eq!(
        asked(&gate, "write", "POST /webhooks/destinations/acme", &body, 422)["code"],
        "control.webhook"
    );
}

#[test]
fn a_receiver_that_consents_later_is_sent_what_waited() {
    let receiver = Receiver::answering(|_| "200 Yes");
    let gate = hooked("webhooks-consent", &format!("{OPEN}\ncallback = \"https://gate.example\""), "");
    let wanted = json!({ "url": receiver.url(), "handshake": true, "schedule": vec![1; 25] });
    destination(&gate, &json!({ "destination": wanted }));
    publish(&gate, &json!({ "id": "e1", "type": "a", "payload": 1 }));
    let asked = receiver.wait(1).remove(0);
    assert!(asked.head.starts_with("OPTIONS /hook"), "{}", asked.head);
    let callback = asked.field("webhook-request-callback");
    let path = callback.strip_prefix("https://gate.example/").unwrap_or_else(|| panic!("{callback}"));
    let call = |line: &str| {
        let mut stream = connect(gate.address);
        let text = format!("{line} HTTP/1.1\r\nHost: gate.example\r\nWebHook-Allowed-Rate: 600\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        read_answer(&mut stream)
    };
    let forged = format!("{}0000", &path[..path.len() - 4]);
    assert_eq!(call(&format!("GET /{forged}")).status, 404);
    assert_eq!(call(&format!("DELETE /{path}")).status, 405);
    let answer = call(&format!("GET /{path}"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"allowed\":true}"));
    let told = || receiver.got().into_iter().find(|one| one.head.starts_with("POST "));
    until("it is told", || told().is_some());
    let told = told().unwrap();
    assert_eq!(
        (told.field("webhook-id"), told.field("origin")),
        ("e1".to_owned(), "gate.example".to_owned())
    );
}

#[test]
fn deliveries_are_not_handed_in_where_events_wait() {
    let gate = hooked("webhooks-queue", OPEN, "");
    let body = json!({ "tenant": "acme", "json": { "destination": "dst_x", "events": [] } });
    let told = asked(&gate, "deliver", "POST /queues/webhooks/deliveries", &body, 409);
    assert_eq!(told["code"], "control.queue-of-webhooks");
}

#[test]
fn the_command_line_does_what_the_api_does() {
    let receiver = Receiver::answering(|_| "200 Yes");
    let gate = hooked("webhooks-commands", OPEN, "");
    let run = |words: &[&str]| {
        let control = gate.control.to_string();
        let mut command = std::process::Command::new(BINARY);
        command.arg("webhook").args(words).args(["--control", &control, "--token", "write"]);
        let done = command.output().expect("the binary runs");
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("UTF-8")
    };
    let made: Value =
        serde_json::from_str(&run(&["add", "acme", &receiver.url(), "--type", "order.*"])).unwrap();
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(run(&["list", "acme"]).contains(&id));
    let published = run(&["publish", "acme", "order.created", r#"{"n": 1}"#, "--id", "e1"]);
    assert!(published.contains("\"destinations\": 1"), "{published}");
    receiver.wait(1);
    until("it is told", || run(&["outcomes", "acme", &id]).contains("delivered"));
    run(&["resend", "acme", &id, "e1"]);
    assert_eq!(receiver.wait(2)[1].field("webhook-id"), "e1");
    assert!(run(&["recover", "acme", &id, "--since", "1h"]).contains("\"sent\": 0"));
    run(&["remove", "acme", &id]);
    assert!(!run(&["list", "acme"]).contains(&id));
}

#[test]
fn destinations_that_hang_hold_up_no_other_tenants() {
    let (hangs, receiver) = (Origin::start(|_| Reply::Never), Receiver::answering(|_| "200 Yes"));
    let gate = hooked("webhooks-hanging", &format!("{OPEN}\ntimeout = \"10m\"\nconcurrency = 10"), "");
    let made = |tenant: &str, url: &str| {
        let body = json!({ "destination": { "url": url } });
        asked(&gate, "write", &format!("POST /webhooks/destinations/{tenant}"), &body, 201);
    };
    // As many as would take all attempts that may be under way.
    for number in 0..4 {
        made("slow", &format!("http://{}/{number}", hangs.address));
    }
    made("quick", &receiver.url());
    let publish = |tenant: &str| {
        let event = |number: i32| json!({ "type": "a", "payload": number });
        let events: Vec<Value> = (0..20).map(event).collect();
        let line = format!("POST /webhooks/events/{tenant}");
        asked(&gate, "deliver", &line, &json!({ "events": events }), 202);
    };
    publish("slow");
    until("as many hang as may", || hangs.recorded().len() == 5);
    publish("quick");
    receiver.wait(20);
    assert_eq!((hangs.recorded().len(), hangs.left()), (5, 0), "they hang still");
}
