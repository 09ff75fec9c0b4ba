//! Webhooks of others: verified, kept once, answered, and delivered to the application.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tidegate_testkit::{Answer, Gate, connect, read_answer, until};

use super::{Receiver, hooked};

const STANDARD_KEY: &[u8; 24] = b"twenty-four bytes of key";

/// A gate that takes webhooks of each scheme for this application.
fn taking(name: &str, app: &Receiver) -> Gate {
    let routes = ["standard", "stripe", "github", "slack"].map(|scheme| {
        let secret = match scheme {
            "standard" => format!("\"whsec_{}\"", STANDARD.encode(STANDARD_KEY)),
            _ => "[\"the old one\", \"the secret\"]".to_owned(),
        };
        format!(
            "[[route]]\nname = \"{scheme}\"\npath = \"/hooks/{scheme}\"\nincoming = {{ scheme = \"{scheme}\", secret = {secret}, queue = \"jobs\" }}\n"
        )
    });
    let rest = format!(
        "[upstream.app]\nendpoints = [\"{}\"]\n[queue.jobs]\nupstream = \"app\"\n{}",
        app.origin.address,
        routes.concat()
    );
    hooked(name, "", &rest)
}

fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test has no clock of the product's")]
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn tag(key: &[u8], parts: &[&str]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), parts.concat().as_bytes()).as_ref().to_vec()
}

fn hex(key: &[u8], parts: &[&str]) -> String {
    tag(key, parts).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The fields by which a scheme signs this body.
fn signed(scheme: &str, id: &str, at: u64, body: &str) -> String {
    let key = b"the secret";
    let at = at.to_string();
    match scheme {
        "standard" => {
            let signature = STANDARD.encode(tag(STANDARD_KEY, &[id, ".", &at, ".", body]));
            format!("webhook-id: {id}\r\nwebhook-timestamp: {at}\r\nwebhook-signature: v1,{signature}\r\n")
        }
        "stripe" => format!("Stripe-Signature: t={at},v1={}\r\n", hex(key, &[&at, ".", body])),
        "github" => {
            format!("X-GitHub-Delivery: {id}\r\nX-Hub-Signature-256: sha256={}\r\n", hex(key, &[body]))
        }
        _ => {
            let signature = hex(key, &["v0:", &at, ":", body]);
            format!("X-Slack-Request-Timestamp: {at}\r\nX-Slack-Signature: v0={signature}\r\n")
        }
    }
}

fn send(gate: &Gate, scheme: &str, fields: &str, body: &str) -> Answer {
    let mut stream = connect(gate.address);
    let head = format!("POST /hooks/{scheme}?x=y HTTP/1.1\r\nHost: test\r\nX-Own: kept\r\n{fields}");
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    read_answer(&mut stream)
}

/// What its sender says it is.
fn body_of(scheme: &str, id: &str) -> String {
    match scheme {
        "slack" => format!(r#"{{"type":"event_callback","event_id":"{id}"}}"#),
        _ => format!(r#"{{"id":"{id}","n":1}}"#),
    }
}

#[test]
fn what_each_sender_signs_is_answered_at_once_and_delivered_once() {
    let app = Receiver::answering(|_| "200 Yes");
    let gate = taking("webhooks-taken", &app);
    let schemes = ["standard", "stripe", "github", "slack"];
    for scheme in schemes {
        let (id, at) = (format!("of-{scheme}"), now());
        let body = body_of(scheme, &id);
        for repeated in [false, true] {
            let answer = send(&gate, scheme, &signed(scheme, &id, at, &body), &body);
            assert_eq!(answer.status, 200, "{scheme}: {} {}", answer.head, answer.body);
            assert!(answer.body.contains(&format!("\"repeated\":{repeated}")), "{scheme}: {}", answer.body);
        }
    }
    let got = app.wait(schemes.len());
    for scheme in schemes {
        let id = format!("of-{scheme}");
        let of: Vec<_> = got.iter().filter(|one| one.field("tidegate-webhook-id") == id).collect();
        let [one] = &of[..] else { panic!("{scheme}: {of:?}") };
        assert!(one.head.starts_with(&format!("POST /hooks/{scheme}?x=y ")), "{}", one.head);
        assert_eq!((one.field("x-own"), &one.body[..]), ("kept".to_owned(), body_of(scheme, &id).as_bytes()));
    }
}

#[test]
fn what_is_not_genuine_is_refused_and_the_application_sees_nothing() {
    let app = Receiver::answering(|_| "200 Yes");
    let gate = taking("webhooks-forged", &app);
    for scheme in ["standard", "stripe", "github", "slack"] {
        let body = body_of(scheme, "x");
        let check = |fields: &str, body: &str, status: u16, code: &str| {
            let answer = send(&gate, scheme, fields, body);
            assert_eq!(answer.status, status, "{scheme}: {} {}", answer.head, answer.body);
            assert!(answer.body.contains(code), "{scheme}: {}", answer.body);
        };
        let fields = signed(scheme, "x", now(), &body);
        check("", &body, 401, "webhook.signature");
        check(&fields, &body.replace("x", "y"), 401, "webhook.signature");
        check(&format!("{fields}{fields}"), &body, 401, "webhook.signature");
        if scheme != "github" {
            check(&signed(scheme, "x", now() - 1000, &body), &body, 400, "webhook.timestamp");
        }
    }
    let asked = r#"{"type":"url_verification","challenge":"3eZbrw1aBm"}"#;
    let answer = send(&gate, "slack", &signed("slack", "", now(), asked), asked);
    assert_eq!((answer.status, &*answer.body), (200, "3eZbrw1aBm"));
    // Whatever was kept before it is delivered before it.
    let body = body_of("github", "last");
    send(&gate, "github", &signed("github", "last", now(), &body), &body);
    until("the last is there", || !app.got().is_empty());
    assert_eq!(app.got().len(), 1);
}

#[test]
fn what_belongs_to_its_senders_connection_stays_behind() {
    let app = Receiver::answering(|_| "200 Yes");
    let gate = taking("incoming-chunked", &app);
    let body = body_of("github", "g1");
    let mut stream = connect(gate.address);
    write!(
        stream,
        "POST /hooks/github HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, hop\r\nHop: 1\r\n\
         Tidegate-Deadline-Ms: 1\r\nTidegate-Delivery-Id: mine\r\n{}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        signed("github", "g1", now(), &body),
        body.len(),
    )
    .unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
    let got = app.wait(1).remove(0);
    assert_eq!(String::from_utf8_lossy(&got.body), body);
    assert_eq!(got.field("content-length"), body.len().to_string(), "{}", got.head);
    for name in ["transfer-encoding", "hop"] {
        assert_eq!(got.field(name), "", "{}", got.head);
    }
    assert_ne!(got.field("tidegate-deadline-ms"), "1", "{}", got.head);
    assert_ne!(got.field("tidegate-delivery-id"), "mine", "{}", got.head);
}
