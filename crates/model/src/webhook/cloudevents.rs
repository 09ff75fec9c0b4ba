//! The form that an event has on the wire: plain, or one of CloudEvents 1.0 (HTTP binding 1.0.2).
//!
//! *Plain* is what Standard Webhooks recommends: `{"type":…,"timestamp":…,"data":…}`. *Structured* is the whole event as one JSON
//! object, *binary* the payload with attributes in `ce-…` fields, *batch* a list of structured ones. The payload stands in
//! all of them to the byte as it was published.
//!
//! A receiver of CloudEvents may be asked first whether it wants them: an OPTIONS request that says who will send
//! ([`ask`]), and an answer that allows it ([`answered`]). Who does not allow it is not sent anything: nobody can be
//! flooded by giving their address here.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::event::Event;
use crate::fields::Fields;
use crate::tick::rfc3339;

/// Events of one batch.
pub const BATCH_MAX: usize = 100;
/// Requests a minute that a receiver may allow, at most: what is more is as good as any number.
const RATE_MAX: u64 = 1_000_000;

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// As Standard Webhooks recommends.
    #[default]
    Plain,
    /// CloudEvents, structured.
    CloudeventsStructured,
    /// CloudEvents, binary.
    CloudeventsBinary,
    /// CloudEvents, several at once.
    CloudeventsBatch,
}

/// A request's content and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The attributes that are fields.
    pub fields: Vec<(&'static str, String)>,
    /// The content.
    pub body: Bytes,
}

/// One event in this form. `source` says who publishes: a URI reference.
#[must_use]
pub fn render(form: Form, event: &Event, source: &str) -> Rendered {
    match form {
        Form::Plain => {
            Rendered { content_type: "application/json", fields: Vec::new(), body: plain(event).into() }
        }
        Form::CloudeventsStructured => Rendered {
            content_type: "application/cloudevents+json; charset=utf-8",
            fields: Vec::new(),
            body: structured(event, source).into(),
        },
        Form::CloudeventsBinary => binary(event, source),
        Form::CloudeventsBatch => batch(std::slice::from_ref(event), source),
    }
}

/// Several events as one batch.
#[must_use]
pub fn batch(events: &[Event], source: &str) -> Rendered {
    let mut body = vec![b'['];
    for (index, event) in events.iter().take(BATCH_MAX).enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&structured(event, source));
    }
    body.push(b']');
    let content_type = "application/cloudevents-batch+json; charset=utf-8";
    Rendered { content_type, fields: Vec::new(), body: body.into() }
}

/// A text as JSON has it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn plain(event: &Event) -> Vec<u8> {
    let head = format!(r#"{{"type":{},"timestamp":"{}Z","data":"#, quoted(&event.kind), rfc3339(event.at));
    [head.as_bytes(), &event.payload, b"}"].concat()
}

fn structured(event: &Event, source: &str) -> Vec<u8> {
    let mut head = format!(
        r#"{{"specversion":"1.0","id":{},"source":{},"type":{},"time":"{}Z","tenant":{}"#,
        quoted(&event.id),
        quoted(source),
        quoted(&event.kind),
        rfc3339(event.at),
        quoted(&event.tenant),
    );
    if let Some(subject) = &event.subject {
        let _ = write!(head, r#","subject":{}"#, quoted(subject));
    }
    head.push_str(r#","datacontenttype":"application/json","data":"#);
    [head.as_bytes(), &event.payload, b"}"].concat()
}

fn binary(event: &Event, source: &str) -> Rendered {
    let mut fields = vec![
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", escaped(&event.id)),
        ("ce-source", escaped(source)),
        ("ce-type", escaped(&event.kind)),
        ("ce-time", format!("{}Z", rfc3339(event.at))),
        ("ce-tenant", escaped(&event.tenant)),
    ];
    fields.extend(event.subject.as_deref().map(|subject| ("ce-subject", escaped(subject))));
    Rendered { content_type: "application/json", fields, body: event.payload.clone() }
}

/// A value as the HTTP binding has it (section 3.1.3.2): percent-encoded are all but printable ASCII, and space, `"`, `%`.
fn escaped(value: &str) -> String {
    value.bytes().fold(String::with_capacity(value.len()), |mut text, byte| {
        match byte {
            b'"' | b'%' => drop(write!(text, "%{byte:02X}")),
            byte if byte.is_ascii_graphic() => text.push(char::from(byte)),
            byte => drop(write!(text, "%{byte:02X}")),
        }
        text
    })
}

/// The field that says who will send.
pub const REQUEST_ORIGIN: &str = "webhook-request-origin";
/// The field by which each request to a receiver that consented says who sends.
pub const ORIGIN: &str = "origin";
/// The field that asks for so many requests a minute.
pub const REQUEST_RATE: &str = "webhook-request-rate";
/// The field that says where it may be allowed later.
pub const REQUEST_CALLBACK: &str = "webhook-request-callback";
/// The field that allows a sender, or `*`.
pub const ALLOWED_ORIGIN: &str = "webhook-allowed-origin";
/// The field that allows so many requests a minute, or `*`.
pub const ALLOWED_RATE: &str = "webhook-allowed-rate";

/// The fields of the OPTIONS request that asks whether events may be sent.
#[must_use]
pub fn ask(origin: &str, rate: Option<u64>, callback: Option<&str>) -> Vec<(&'static str, String)> {
    let mut fields = vec![(REQUEST_ORIGIN, origin.to_owned())];
    fields.extend(rate.map(|rate| (REQUEST_RATE, rate.to_string())));
    fields.extend(callback.map(|callback| (REQUEST_CALLBACK, callback.to_owned())));
    fields
}

/// What a receiver said to being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Events may be sent, so many a minute at most; `None`: as many as there are.
    Given(Option<u64>),
    /// It does not allow it, or not yet: it may do so by the callback.
    Withheld,
}

/// What an answer to [`ask`] says to `origin`. Whoever does not name a rate although one was asked for allows no more than
/// that.
#[must_use]
pub fn answered(status: u16, fields: &Fields, origin: &str, asked: Option<u64>) -> Consent {
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let named = |said: &str| said == "*" || said.eq_ignore_ascii_case(origin);
    if !(200..300).contains(&status) || !text(ALLOWED_ORIGIN).is_some_and(named) {
        return Consent::Withheld;
    }
    allowed(fields, asked).map_or(Consent::Withheld, Consent::Given)
}

/// The rate that a consent allows, where so many requests a minute were asked for: `Some(None)`, as many as there are; `None`: it
/// names a rate that is none.
#[must_use]
pub fn allowed(fields: &Fields, asked: Option<u64>) -> Option<Option<u64>> {
    match fields.get(ALLOWED_RATE).map(|value| value.to_str().unwrap_or_default().trim()) {
        None => Some(asked),
        Some("*") => Some(None),
        Some(rate) => match rate.parse::<u64>() {
            Ok(0) | Err(_) => None,
            Ok(rate) => Some(Some(rate.min(RATE_MAX))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn event(subject: Option<&str>) -> Event {
        Event {
            id: "msg_1".to_owned(),
            tenant: "acme".into(),
            kind: "order.created".to_owned(),
            channels: Vec::new(),
            subject: subject.map(str::to_owned),
            at: 1_667_507_170,
            payload: Bytes::from_static(br#"{"total": 1.10, "n": 12345678901234567890}"#),
        }
    }

    fn json_of(rendered: &Rendered) -> Value {
        serde_json::from_slice(&rendered.body).expect("JSON")
    }

    fn check(form: Form, content_type: &str, expected: Value) {
        let rendered = render(form, &event(Some("or\"der")), "https://api.example.com");
        assert_eq!(rendered.content_type, content_type);
        assert_eq!(json_of(&rendered), expected);
        let payload = &event(None).payload;
        assert!(rendered.body.windows(payload.len()).any(|part| part == payload), "to the byte");
    }

    #[test]
    fn an_event_has_each_form() {
        let data = json!({ "total": 1.10, "n": 12_345_678_901_234_567_890_u64 });
        let whole = json!({
            "specversion": "1.0", "id": "msg_1", "source": "https://api.example.com", "type": "order.created",
            "time": "2022-11-03T20:26:10Z", "tenant": "acme", "subject": "or\"der",
            "datacontenttype": "application/json", "data": data,
        });
        let plain = json!({ "type": "order.created", "timestamp": "2022-11-03T20:26:10Z", "data": data });
        check(Form::Plain, "application/json", plain);
        check(Form::CloudeventsStructured, "application/cloudevents+json; charset=utf-8", whole.clone());
        check(Form::CloudeventsBatch, "application/cloudevents-batch+json; charset=utf-8", json!([whole]));
        check(Form::CloudeventsBinary, "application/json", data);
    }

    #[test]
    fn attributes_of_the_binary_form_are_fields() {
        let rendered = render(Form::CloudeventsBinary, &event(Some("Euro € \"50%\"")), "https://a");
        assert_eq!(
            rendered.fields,
            [
                ("ce-specversion", "1.0".to_owned()),
                ("ce-id", "msg_1".to_owned()),
                ("ce-source", "https://a".to_owned()),
                ("ce-type", "order.created".to_owned()),
                ("ce-time", "2022-11-03T20:26:10Z".to_owned()),
                ("ce-tenant", "acme".to_owned()),
                // The example of the binding, with more that has to be encoded.
                ("ce-subject", "Euro%20%E2%82%AC%20%2250%25%22".to_owned()),
            ]
        );
    }

    #[test]
    fn a_batch_is_a_list_of_whole_events() {
        let events = vec![event(None); BATCH_MAX + 1];
        assert_eq!(json_of(&batch(&events[..2], "s")).as_array().map(Vec::len), Some(2));
        assert_eq!(json_of(&batch(&events, "s")).as_array().map(Vec::len), Some(BATCH_MAX));
        assert_eq!(json_of(&batch(&[], "s")), json!([]));
    }

    fn consent(status: u16, lines: &[(&str, &str)], expected: Consent) {
        let mut fields = Fields::default();
        for (name, value) in lines {
            let name = HeaderName::try_from(*name).expect("a name");
            fields.append(&name, HeaderValue::from_str(value).expect("a value"));
        }
        assert_eq!(answered(status, &fields, "gate.example.com", Some(120)), expected, "{lines:?}");
    }

    #[test]
    fn only_who_allows_it_is_sent_events() {
        assert_eq!(
            ask("gate.example.com", Some(120), Some("https://gate/x")),
            [
                (REQUEST_ORIGIN, "gate.example.com".to_owned()),
                (REQUEST_RATE, "120".to_owned()),
                (REQUEST_CALLBACK, "https://gate/x".to_owned()),
            ]
        );
        let allowed = ("WebHook-Allowed-Origin", "gate.example.com");
        consent(200, &[allowed], Consent::Given(Some(120)));
        consent(204, &[("WebHook-Allowed-Origin", "*"), ("WebHook-Allowed-Rate", "*")], Consent::Given(None));
        consent(200, &[allowed, ("WebHook-Allowed-Rate", "60")], Consent::Given(Some(60)));
        consent(200, &[], Consent::Withheld);
        consent(200, &[("WebHook-Allowed-Origin", "other.example.com")], Consent::Withheld);
        consent(405, &[allowed], Consent::Withheld);
        consent(200, &[allowed, ("WebHook-Allowed-Rate", "0")], Consent::Withheld);
        consent(200, &[allowed, ("WebHook-Allowed-Rate", "many")], Consent::Withheld);
    }

    proptest! {
        #[test]
        fn whatever_is_said_makes_json_and_fields(subject in ".{0,40}", id in ".{0,20}", source in ".{0,20}") {
            let event = Event { id: id.clone(), ..event(Some(&subject)) };
            let whole = json_of(&render(Form::CloudeventsStructured, &event, &source));
            prop_assert_eq!(&whole["subject"], &json!(subject));
            prop_assert_eq!(&whole["source"], &json!(source));
            for (_, value) in render(Form::CloudeventsBinary, &event, &source).fields {
                prop_assert!(HeaderValue::from_str(&value).is_ok());
            }
        }
    }
}
