//! Webhooks with a real store and real sockets; who is next is the engine's affair, and not asked here.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_model::address::Network;
use tidegate_model::delivery::outcome::Outcome as Verdict;
use tidegate_model::webhook::destination::{State, Wanted};
use tidegate_model::webhook::signing::{Kind, Verifier, verify};
use tidegate_store::StoreSettings;
use tidegate_upstream::settings::BreakerSettings;
use tidegate_wire::settings::ClientTlsSettings;
use tidegate_wire::task;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A receiver that records requests and answers each as it was last told.
struct Receiver {
    url: String,
    answer: Arc<Mutex<String>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    async fn start(answer: &str) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?a=b", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(answer.to_owned()));
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let told = (Arc::clone(&answer), Arc::clone(&seen));
        task::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !is_whole(&request) {
                    let Ok(byte) = stream.read_u8().await else { break };
                    request.push(byte);
                }
                told.1.lock().push(String::from_utf8(request).unwrap());
                let answer = told.0.lock().clone();
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Receiver { url, answer, seen }
    }

    fn says(&self, answer: &str) {
        *self.answer.lock() = answer.to_owned();
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().clone()
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    field(head, "content-length").parse().unwrap_or(0) <= body.len()
}

fn field(request: &str, name: &str) -> String {
    let line = request.lines().find_map(|line| {
        let (said, value) = line.split_once(':')?;
        said.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    });
    line.unwrap_or_default()
}

const OK: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

fn answer(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
}

struct Bench {
    _directory: TempDir,
    webhooks: Arc<Webhooks>,
    sender: Sender,
    tenant: Arc<str>,
}

fn settings() -> WebhookSettings {
    WebhookSettings {
        source: "https://gate.example".to_owned(),
        origin: "gate.example".to_owned(),
        callback: None,
        schedule: vec![10, 20],
        retention: Duration::from_secs(86_400),
        disable_after: Duration::from_secs(86_400),
        overlap: Duration::from_secs(3600),
        destinations_max: 10,
        events_bytes_max: 1 << 20,
        strict: false,
        per_destination: 5,
        dial: DialSettings {
            reach: Reach {
                allow: ["127.0.0.0/8".parse::<Network>().unwrap()].into_iter().collect(),
                plaintext: true,
                ..Reach::default()
            },
            resolver: None,
            tls: ClientTlsSettings { insecure: true, ..ClientTlsSettings::default() },
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(20),
            answer_bytes_max: 4096,
            calls_max: 10,
            breaker: BreakerSettings { consecutive: 5, cooldown: Duration::from_secs(60) },
        },
    }
}

fn bench(settings: WebhookSettings) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(StoreSettings {
        location: tidegate_store::Location::Directory(directory.path().join("data")),
        bytes_max: 64 << 20,
        tenant_bytes_max: 16 << 20,
    });
    let webhooks = Arc::new(Webhooks::new(Arc::new(store.unwrap()), settings));
    let sender = Sender::new(Arc::clone(&webhooks));
    Bench { _directory: directory, webhooks, sender, tenant: "acme".into() }
}

impl Bench {
    async fn destination(&self, wanted: Value) -> Stored<Destination> {
        let wanted: Wanted = serde_json::from_value(wanted).unwrap();
        self.webhooks.create(&self.tenant, wanted, Rotation::default(), None).await.unwrap()
    }

    async fn publish(&self, id: &str, kind: &str, payload: Value) -> Result<Published, WebhookError> {
        let event = NewEvent {
            id: Some(id.to_owned()),
            kind: kind.to_owned(),
            payload: payload.to_string().into(),
            ..NewEvent::default()
        };
        self.webhooks.publish(&self.tenant, vec![event]).await.map(|mut all| all.remove(0))
    }

    async fn attempt(&self, destination: &Stored<Destination>, event: &str, number: u32) -> Made {
        let reference = Reference {
            destination: destination.name.to_string(),
            events: vec![event.to_owned()],
            batch: None,
        };
        self.sender.attempt(&self.tenant, &reference.written(), number, 0).await
    }

    async fn now(&self, destination: &Stored<Destination>) -> Stored<Destination> {
        self.webhooks.destination(&self.tenant, &destination.name).await.unwrap()
    }
}

/// Whether a request is signed by this key.
fn genuine(request: &str, key: &str) -> bool {
    let [id, timestamp, signature] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| field(request, name));
    let body = request.split_once("\r\n\r\n").unwrap().1;
    let now = timestamp.parse().unwrap();
    let key = [Verifier::read(key).unwrap()];
    verify(&key, (&id, &timestamp, &signature), body.as_bytes(), 300, now).is_ok()
}

#[tokio::test(flavor = "local")]
async fn an_event_is_told_signed_to_who_wants_to_hear_of_it() {
    let (bench, receiver) = (bench(settings()), Receiver::start(OK).await);
    let orders = json!({
        "url": receiver.url, "filter": { "types": ["order.*"], "payload": [{ "at": "/plan", "equals": "pro" }] },
        "headers": [["X-Key", "secret"]],
    });
    let orders = bench.destination(orders).await;
    bench.destination(json!({ "url": receiver.url, "filter": { "types": ["user.*"] } })).await;
    let published = bench.publish("e1", "order.created", json!({ "plan": "pro" })).await.unwrap();
    assert_eq!((published.destinations, published.repeated), (1, false));
    assert_eq!(
        bench.publish("e2", "order.created", json!({ "plan": "free" })).await.unwrap().destinations,
        0
    );
    let made = bench.attempt(&orders, "e1", 1).await;
    assert_eq!(made.outcome, Verdict::Answered(http::StatusCode::NO_CONTENT, None));
    let request = receiver.seen().remove(0);
    assert!(request.starts_with("POST /hook?a=b HTTP/1.1\r\n") && field(&request, "x-key") == "secret");
    assert!(genuine(&request, &orders.record.shown()[0].key) && field(&request, "webhook-id") == "e1");
    assert!(request.ends_with(r#""data":{"plan":"pro"}}"#), "{request}");
    let outcomes = bench.webhooks.outcomes(&bench.tenant, &orders.name, None, 10).await.unwrap().items;
    let [outcome] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!((&*outcome.name, outcome.record.state), ("e1", OutcomeState::Delivered));
    assert_eq!(outcome.record.attempts[0].status, Some(204));
    assert!(!format!("{outcome:?}").contains("\"secret\""), "credentials are not kept");
}

#[tokio::test(flavor = "local")]
async fn the_same_id_is_one_event_and_another_payload_is_refused() {
    let bench = bench(settings());
    bench.publish("e1", "a", json!(1)).await.unwrap();
    assert!(bench.publish("e1", "a", json!(1)).await.unwrap().repeated);
    assert!(matches!(bench.publish("e1", "a", json!(2)).await, Err(WebhookError::Mismatch)));
    for (kind, id) in [("tidegate.test", "e"), ("a..b", "e"), ("a", "x.y"), ("a", "")] {
        assert!(
            matches!(bench.publish(id, kind, json!(1)).await, Err(WebhookError::Invalid(_))),
            "{kind} {id}"
        );
    }
}

#[tokio::test(flavor = "local")]
async fn both_secrets_sign_while_one_replaces_the_other() {
    let (bench, receiver) = (bench(settings()), Receiver::start(OK).await);
    let destination = bench.destination(json!({ "url": receiver.url })).await;
    let old = destination.record.shown()[0].key.clone();
    let rotation = Rotation { kind: Kind::V1a, ..Rotation::default() };
    let rotated = bench.webhooks.rotate(&bench.tenant, &destination.name, None, rotation).await.unwrap();
    bench.publish("e1", "a", json!(1)).await.unwrap();
    bench.attempt(&destination, "e1", 1).await;
    let new = rotated.record.shown()[0].key.clone();
    let request = receiver.seen().remove(0);
    assert!(new.starts_with("whpk_") && genuine(&request, &new) && genuine(&request, &old), "{request}");
}

#[tokio::test(flavor = "local")]
async fn a_failure_is_tried_again_as_the_schedule_says_and_then_given_up() {
    let (bench, receiver) = (bench(settings()), Receiver::start(&answer("500 No")).await);
    let destination = bench.destination(json!({ "url": receiver.url })).await;
    bench.publish("e1", "a", json!(1)).await.unwrap();
    for (number, expected) in [
        (1, Verdict::Refused(Some(Duration::from_secs(10)))),
        (2, Verdict::Refused(Some(Duration::from_secs(20)))),
        (3, Verdict::Never),
    ] {
        let made = bench.attempt(&destination, "e1", number).await;
        assert_eq!((made.outcome, made.status), (expected, Some(500)), "{number}");
    }
    let ids: Vec<String> = receiver.seen().iter().map(|request| field(request, "webhook-id")).collect();
    assert_eq!(ids, ["e1"; 3]);
    assert!(bench.now(&destination).await.record.health.failing_since.is_some());
    let missing = Recovery { since: 0, failed: false, missing: true, after: None };
    assert_eq!(bench.webhooks.recover(&bench.tenant, &destination.name, missing).await.unwrap().sent, 0);
    let failed = Recovery { since: 0, failed: true, missing: false, after: None };
    assert_eq!(
        bench.webhooks.recover(&bench.tenant, &destination.name, failed.clone()).await.unwrap().sent,
        1
    );
    receiver.says(OK);
    bench.attempt(&destination, "e1", 1).await;
    assert_eq!(bench.now(&destination).await.record.health, Default::default());
    assert_eq!(bench.webhooks.recover(&bench.tenant, &destination.name, failed).await.unwrap().sent, 0);
}

#[tokio::test(flavor = "local")]
async fn who_has_too_much_is_left_alone_and_nobody_else() {
    let bench = bench(settings());
    let throttled = Receiver::start(
        "HTTP/1.1 429 No\r\nRetry-After: 30\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )
    .await;
    let well = Receiver::start(OK).await;
    let one = bench.destination(json!({ "url": throttled.url })).await;
    let other = bench.destination(json!({ "url": well.url })).await;
    bench.publish("e1", "a", json!(1)).await.unwrap();
    assert_eq!(bench.attempt(&one, "e1", 1).await.outcome, Verdict::Refused(Some(Duration::from_secs(30))));
    assert!(matches!(bench.attempt(&one, "e1", 1).await.outcome, Verdict::Unsent(Some(_))));
    assert_eq!(throttled.seen().len(), 1);
    assert!(matches!(bench.attempt(&other, "e1", 1).await.outcome, Verdict::Answered(..)));
}

#[tokio::test(flavor = "local")]
async fn who_is_gone_is_disabled_and_its_tenant_is_told() {
    let (bench, receiver) = (bench(settings()), Receiver::start(&answer("410 Gone")).await);
    let gone = bench.destination(json!({ "url": receiver.url })).await;
    let watching =
        bench.destination(json!({ "url": receiver.url, "filter": { "types": ["tidegate.*"] } })).await;
    bench.publish("e1", "a", json!(1)).await.unwrap();
    assert_eq!(bench.attempt(&gone, "e1", 1).await.outcome, Verdict::Never);
    assert_eq!(bench.now(&gone).await.record.health.state, State::Gone);
    assert_eq!(bench.attempt(&gone, "e1", 1).await.why.as_deref(), Some("the destination is disabled"));
    assert_eq!(receiver.seen().len(), 1);
    assert_eq!(bench.publish("e2", "a", json!(1)).await.unwrap().destinations, 0);
    let events = bench.webhooks.events(&bench.tenant, 0, None, 10).await.unwrap().items;
    let notice = events.iter().find(|event| event.record.kind == "tidegate.destination.disabled").unwrap();
    receiver.says(OK);
    bench.attempt(&watching, &notice.name, 1).await;
    assert!(receiver.seen()[1].contains(&*gone.name) && receiver.seen()[1].contains("gone"));
    bench.webhooks.enable(&bench.tenant, &gone.name, None, true).await.unwrap();
    let missing = Recovery { since: 0, failed: true, missing: true, after: None };
    let recovered = bench.webhooks.recover(&bench.tenant, &gone.name, missing).await.unwrap();
    assert_eq!(
        recovered,
        Recovered { sent: 2, next: None },
        "what failed, and what came while it was disabled"
    );
}

#[tokio::test(flavor = "local")]
async fn what_leads_inside_is_neither_taken_nor_called() {
    let mut closed = settings();
    let bench = bench(settings());
    let receiver = Receiver::start(OK).await;
    let by_name = receiver.url.replace("127.0.0.1", "localhost");
    let destination = bench.destination(json!({ "url": by_name })).await;
    bench.publish("e1", "a", json!(1)).await.unwrap();
    closed.dial.reach = Reach { plaintext: true, ..Reach::default() };
    bench.webhooks.set(closed.clone());
    let made = bench.attempt(&destination, "e1", 1).await;
    assert_eq!(made.why.as_deref(), Some("its name leads to nothing that may be called"));
    let wanted: Wanted = serde_json::from_value(json!({ "url": "http://169.254.169.254/latest" })).unwrap();
    let refused = bench.webhooks.create(&bench.tenant, wanted, Rotation::default(), None).await;
    assert!(matches!(refused, Err(WebhookError::Invalid(_))), "{refused:?}");
    assert!(receiver.seen().is_empty());
}

#[tokio::test(flavor = "local")]
async fn who_changes_another_version_than_there_is_changes_nothing() {
    let bench = bench(settings());
    let made = bench.destination(json!({ "url": "https://a.example/" })).await;
    let wanted = Wanted { description: "changed".to_owned(), ..made.record.wanted.clone() };
    let stale =
        bench.webhooks.change(&bench.tenant, &made.name, Some(made.version + 9), wanted.clone()).await;
    assert!(matches!(stale, Err(WebhookError::Changed(Some(version))) if version == made.version));
    let changed = bench.webhooks.change(&bench.tenant, &made.name, Some(made.version), wanted).await.unwrap();
    assert!(changed.version > made.version && changed.record.secrets == made.record.secrets);
    let others = bench.webhooks.destination(&"other".into(), &made.name).await;
    assert!(matches!(others, Err(WebhookError::NotFound(_))), "another tenant's");
    bench.webhooks.delete(&bench.tenant, &made.name, Some(changed.version)).await.unwrap();
    assert!(matches!(
        bench.webhooks.delete(&bench.tenant, &made.name, None).await,
        Err(WebhookError::NotFound(_))
    ));
}

#[tokio::test(flavor = "local")]
async fn a_payload_is_what_its_type_says() {
    let bench = bench(WebhookSettings { strict: true, ..settings() });
    assert!(matches!(bench.publish("e1", "order.created", json!({})).await, Err(WebhookError::Invalid(_))));
    let wanted = json!({
        "name": "order.created",
        "schema": { "type": "object", "required": ["id"], "properties": { "id": { "type": "string" } } },
    });
    let made = bench.webhooks.put_type(serde_json::from_value(wanted.clone()).unwrap(), None).await.unwrap();
    let wrong = bench.publish("e1", "order.created", json!({ "id": 1 })).await.unwrap_err();
    assert!(wrong.to_string().contains("/id"), "{wrong}");
    assert_eq!(bench.publish("e1", "order.created", json!({ "id": "1" })).await.unwrap().id, "e1");
    let mut archived: tidegate_model::webhook::event::EventType = serde_json::from_value(wanted).unwrap();
    archived.archived = true;
    bench.webhooks.put_type(archived, Some(made.version)).await.unwrap();
    assert!(matches!(
        bench.publish("e2", "order.created", json!({ "id": "1" })).await,
        Err(WebhookError::Invalid(_))
    ));
    for schema in [json!({ "type": "nonsense" }), json!({ "$ref": "https://a.example/schema.json" })] {
        let wanted = serde_json::from_value(json!({ "name": "x", "schema": schema })).unwrap();
        assert!(
            matches!(bench.webhooks.put_type(wanted, None).await, Err(WebhookError::Invalid(_))),
            "{schema}"
        );
    }
}

#[tokio::test(flavor = "local")]
async fn a_receiver_of_cloudevents_is_asked_first() {
    let (bench, receiver) = (bench(settings()), Receiver::start(OK).await);
    let wanted = json!({ "url": receiver.url, "form": "cloudevents-structured", "handshake": true });
    let destination = bench.destination(wanted.clone()).await;
    bench.publish("e1", "a", json!(1)).await.unwrap();
    let made = bench.attempt(&destination, "e1", 1).await;
    assert!(matches!(made.outcome, Verdict::Refused(_)), "{made:?}");
    let willing = Receiver::start(
        "HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: gate.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )
    .await;
    let wanted = json!({ "url": willing.url, "form": "cloudevents-structured", "handshake": true });
    let destination = bench.destination(wanted).await;
    let made = bench.attempt(&destination, "e1", 1).await;
    assert!(matches!(made.outcome, Verdict::Answered(..)), "{made:?}");
    assert!(willing.seen()[0].starts_with("OPTIONS /hook"));
    assert_eq!(field(&willing.seen()[0], "webhook-request-origin"), "gate.example");
    assert_eq!(field(&willing.seen()[1], "origin"), "gate.example");
    assert!(willing.seen()[1].contains(r#""specversion":"1.0","id":"e1""#));
    assert_eq!(receiver.seen().len(), 1, "asked, and sent nothing");
}

#[tokio::test(flavor = "local")]
async fn whoever_is_called_by_another_url_is_asked_anew() {
    let willing =
        "HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let (bench, first, victim) =
        (bench(settings()), Receiver::start(willing).await, Receiver::start(OK).await);
    let wanted = json!({ "url": first.url, "handshake": true });
    let destination = bench.destination(wanted).await;
    bench.publish("e1", "a", json!(1)).await.unwrap();
    assert!(matches!(bench.attempt(&destination, "e1", 1).await.outcome, Verdict::Answered(..)));
    let other = serde_json::from_value(json!({ "url": victim.url, "handshake": true })).unwrap();
    bench.webhooks.change(&bench.tenant, &destination.name, None, other).await.unwrap();
    assert!(matches!(bench.attempt(&destination, "e1", 1).await.outcome, Verdict::Refused(_)));
    let seen = victim.seen();
    assert!(seen.len() == 1 && seen[0].starts_with("OPTIONS "), "{seen:?}");
}

#[tokio::test(flavor = "local")]
async fn what_the_receiver_allows_is_kept_where_more_is_wanted() {
    let willing = "HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nWebHook-Allowed-Rate: 1\r\n\
                   Content-Length: 0\r\nConnection: close\r\n\r\n";
    let (bench, receiver) = (bench(settings()), Receiver::start(willing).await);
    let wanted = json!({ "url": receiver.url, "handshake": true, "rate": 1_000_000 });
    let destination = bench.destination(wanted).await;
    bench.publish("e1", "a", json!(1)).await.unwrap();
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        outcomes.push(bench.attempt(&destination, "e1", 1).await.outcome);
    }
    assert_eq!(field(&receiver.seen()[0], "webhook-request-rate"), "60000000");
    // The first one found out what is allowed.
    assert!(
        matches!(outcomes[..], [Verdict::Answered(..), Verdict::Answered(..), Verdict::Unsent(Some(_))]),
        "{outcomes:?}"
    );
}

#[tokio::test(flavor = "local")]
async fn what_is_recovered_twice_is_sent_once() {
    let (bench, receiver) = (bench(settings()), Receiver::start(&answer("500 No")).await);
    let quiet = bench.destination(json!({ "url": receiver.url, "filter": { "types": ["none"] } })).await;
    let destination = bench.destination(json!({ "url": receiver.url, "schedule": [] })).await;
    for id in ["e1", "e2"] {
        bench.publish(id, "a", json!(1)).await.unwrap();
    }
    bench.attempt(&destination, "e1", 1).await;
    let wanted = json!({ "url": receiver.url });
    bench
        .webhooks
        .change(&bench.tenant, &quiet.name, None, serde_json::from_value(wanted).unwrap())
        .await
        .unwrap();
    let recovery = Recovery { since: 0, failed: true, missing: true, after: None };
    for (name, expected) in [(&destination.name, [1, 0]), (&quiet.name, [2, 0])] {
        for sent in expected {
            let recovered = bench.webhooks.recover(&bench.tenant, name, recovery.clone()).await.unwrap();
            assert_eq!(recovered.sent, sent, "{name}");
        }
    }
}

#[tokio::test(flavor = "local")]
async fn a_batch_goes_as_one_request() {
    let (bench, receiver) = (bench(settings()), Receiver::start(OK).await);
    let destination = bench.destination(json!({ "url": receiver.url, "form": "cloudevents-batch" })).await;
    for id in ["e1", "e2"] {
        bench.publish(id, "a", json!(id)).await.unwrap();
    }
    let reference = Reference {
        destination: destination.name.to_string(),
        events: vec!["e1".to_owned(), "e2".to_owned()],
        batch: None,
    };
    bench.sender.attempt(&bench.tenant, &reference.written(), 1, 0).await;
    let request = receiver.seen().remove(0);
    let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&body[0]["id"], &body[1]["data"]), (&json!("e1"), &json!("e2")));
    assert!(field(&request, "webhook-id").starts_with("batch_"));
}

/// The ids of the events in the batches that a receiver has seen.
fn batches(receiver: &Receiver) -> Vec<Vec<String>> {
    let ids = |request: &String| {
        let body: Vec<Value> = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
        body.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    };
    receiver.seen().iter().map(ids).collect()
}

#[tokio::test(flavor = "local")]
async fn what_waits_goes_in_batches_that_stay_the_same_when_they_fail() {
    let (bench, receiver) = (bench(settings()), Receiver::start(&answer("500 No")).await);
    let wanted = json!({ "url": receiver.url, "form": "cloudevents-batch", "batch": { "events": 2, "wait_ms": 60_000 } });
    let destination = bench.destination(wanted).await;
    for id in ["e3", "e1", "e2"] {
        bench.publish(id, "a", json!(id)).await.unwrap();
    }
    let attempt = async |batch: &str, number| {
        let reference = Reference {
            destination: destination.name.to_string(),
            events: Vec::new(),
            batch: Some(batch.to_owned()),
        };
        bench.sender.attempt(&bench.tenant, &reference.written(), number, 0).await.outcome
    };
    assert!(matches!(attempt("b1", 1).await, Verdict::Refused(_)));
    bench.publish("e4", "b", json!(4)).await.unwrap();
    assert!(bench.publish("e3", "a", json!("e3")).await.unwrap().repeated);
    receiver.says(OK);
    assert!(matches!(attempt("b1", 2).await, Verdict::Answered(..)));
    assert!(matches!(attempt("b2", 1).await, Verdict::Answered(..)));
    assert!(matches!(attempt("b3", 1).await, Verdict::Answered(..)), "nothing is left to do");
    assert_eq!(batches(&receiver), [["e3", "e1"], ["e3", "e1"], ["e2", "e4"]]);
    let ids: Vec<String> = receiver.seen().iter().map(|request| field(request, "webhook-id")).collect();
    assert_eq!(ids[0], ids[1], "the same in all attempts");
    let outcomes = bench.webhooks.outcomes(&bench.tenant, &destination.name, None, 10).await.unwrap().items;
    let kinds: Vec<(&str, &str, usize)> =
        outcomes.iter().map(|one| (&*one.name, &*one.record.kind, one.record.attempts.len())).collect();
    for expected in [("e3", "a", 2), ("e2", "a", 1), ("e4", "b", 1)] {
        assert!(kinds.contains(&expected), "{kinds:?}");
    }
    assert!(outcomes.iter().all(|one| one.record.state == OutcomeState::Delivered));
}

#[tokio::test(flavor = "local")]
async fn the_same_id_twice_at_once_is_refused() {
    let bench = bench(settings());
    let event = NewEvent {
        id: Some("e1".to_owned()),
        kind: "a".to_owned(),
        payload: "1".into(),
        ..NewEvent::default()
    };
    let refused = bench.webhooks.publish(&bench.tenant, vec![event.clone(), event]).await;
    assert!(matches!(refused, Err(WebhookError::Invalid(_))), "{refused:?}");
}

#[tokio::test(flavor = "local")]
async fn a_delivery_that_names_nothing_that_there_is_is_given_up() {
    let bench = bench(settings());
    let destination = bench.destination(json!({ "url": "https://a.example/" })).await;
    for content in [&b"nonsense"[..], br#"{"destination":"dst_x","events":["e1"]}"#] {
        assert_eq!(bench.sender.attempt(&bench.tenant, content, 1, 0).await.outcome, Verdict::Never);
    }
    assert_eq!(bench.attempt(&destination, "gone", 1).await.outcome, Verdict::Never);
}
