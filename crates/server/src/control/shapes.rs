//! What is read and told of deliveries, queues and schedules: the types that bodies are read into, and OpenAPI is made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_dispatch::{Offer, QueueSettings, Way};
use tidegate_model::delivery::{Id, Ms, Record, parse_time, shown};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tidegate_store::deliveries::{Attempt, Callback, Kept, Otherwise, Unique, Whole};

use crate::config::{parse_duration, show_duration};

/// The furthest that a delivery may be put off.
const LATER_MAX: Duration = Duration::from_secs(366 * 86_400);

/// A delivery that is handed in. What it does not say, its queue does.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDelivery {
    /// Whose it is.
    pub tenant: String,
    /// What it has in common with others of its tenant: their order, or how many of them are made at once.
    pub key: Option<String>,
    /// Who of a tenant's goes first.
    pub priority: Option<Importance>,
    /// Not begun before this time (RFC 3339).
    pub at: Option<String>,
    /// Not begun for so long: `"5m"`.
    pub delay: Option<String>,
    /// Not begun from this time on (RFC 3339), or after so long: it is dead then.
    pub expires: Option<String>,
    /// Attempts that it may have.
    pub attempts: Option<u32>,
    /// What makes it one of a kind.
    pub unique: Option<UniqueBy>,
    /// Deliveries of the same tenant that it comes after: it is made once each of them was answered well.
    #[serde(default)]
    pub after: Vec<String>,
    /// A delivery that is made once this one has ended, whatever way.
    pub callback: Option<CallbackTo>,
    /// The request's method.
    pub method: Option<String>,
    /// Its path and query.
    pub path: Option<String>,
    /// Its headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Its body, as text. One of `body`, `base64` and `json` at most.
    pub body: Option<String>,
    /// Its body, as bytes in Base64.
    pub base64: Option<String>,
    /// Its body, as JSON; its type is `application/json` unless `headers` say another.
    pub json: Option<Value>,
}

/// Who goes first.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Importance {
    /// First.
    Critical,
    /// Then.
    Default,
    /// Last.
    Sheddable,
}

impl From<Importance> for Priority {
    fn from(importance: Importance) -> Priority {
        match importance {
            Importance::Critical => Priority::Critical,
            Importance::Default => Priority::Default,
            Importance::Sheddable => Priority::Sheddable,
        }
    }
}

/// What makes a delivery one of a kind within its queue and tenant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UniqueBy {
    /// What they share.
    pub key: String,
    /// For how long another one is the same, even if the first has ended: `"1h"`. Without it: until it has begun.
    pub window: Option<String>,
    /// What becomes of another one: `keep` (the first stands), `replace` (it takes the first one's place while that has not
    /// begun), `debounce` (the same, and the first one's time is put off to its own).
    #[serde(default)]
    pub otherwise: OtherwiseName,
    /// With `debounce`: never put off beyond so long after the first was accepted.
    pub at_most: Option<String>,
}

/// What becomes of another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OtherwiseName {
    /// The first stands, and is told.
    #[default]
    Keep,
    /// It takes the first one's place.
    Replace,
    /// It takes the first one's place, and time.
    Debounce,
}

/// Where to say that a delivery has ended.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallbackTo {
    /// The queue.
    pub queue: String,
    /// The path and query.
    pub path: String,
}

/// One delivery, or several.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// Several, each for itself.
    Many(Vec<NewDelivery>),
    /// One.
    One(Box<NewDelivery>),
}

/// What became of a delivery that was handed in.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Accepted {
    /// What it is found by; of one that was not accepted: the one that stood in its way, if any.
    pub id: Option<String>,
    /// `accepted`, `already` (there is one of its kind: that is told), `replaced` (it took that one's place); or why it was not
    /// accepted: `mismatch`, `full`, `after`, `invalid`.
    pub outcome: &'static str,
    /// Why it was not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What became of several.
#[derive(Debug, JsonSchema, Serialize)]
pub struct AcceptedAll {
    /// Each, in their order.
    pub deliveries: Vec<Accepted>,
}

impl NewDelivery {
    /// What it offers its queue.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn offer(self, now: Ms, fresh: impl FnOnce() -> Option<Id>) -> Result<Offer, String> {
        let due = match (&self.at, &self.delay) {
            (Some(_), Some(_)) => return Err("`at` or `delay`, not both".to_owned()),
            (Some(at), None) => Some(moment("at", at, now)?),
            (None, Some(delay)) => Some(now + ms(time("delay", delay)?)),
            (None, None) => None,
        };
        if due.is_some_and(|due| due > now + ms(LATER_MAX)) {
            return Err(format!("a delivery is put off by {} at most", show_duration(&LATER_MAX)));
        }
        let expires = self.expires.as_deref().map(|expires| moment("expires", expires, now)).transpose()?;
        let after =
            self.after.iter().map(|id| Id::parse(id).ok_or_else(|| format!("`after`: `{id}` is no id")));
        let callback = match self.callback {
            Some(to) => {
                let id = fresh().ok_or("the system has no chance to give")?;
                Some(Callback { id, queue: to.queue.into(), target: to.path.into() })
            }
            None => None,
        };
        let mut fields = fields(&self.headers)?;
        let body = match (self.body, self.base64, self.json) {
            (body, None, None) => body.unwrap_or_default().into(),
            (None, Some(text), None) => {
                BASE64_STANDARD.decode(text).map_err(|_| "`base64` is no Base64")?.into()
            }
            (None, None, Some(json)) => {
                if !fields.contains_key(CONTENT_TYPE) {
                    fields.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                }
                Bytes::from(json.to_string())
            }
            _ => return Err("one of `body`, `base64` and `json` at most".to_owned()),
        };
        let method = self.method.map(|method| {
            http::Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))
        });
        Ok(Offer {
            tenant: self.tenant.into(),
            key: self.key.map(Arc::from),
            priority: self.priority.map(Priority::from),
            due,
            expires,
            attempts_max: self.attempts,
            unique: self.unique.map(|unique| unique.meant(now)).transpose()?,
            after: after.collect::<Result<_, _>>()?,
            callback,
            method: method.transpose()?,
            target: self.path.map(Arc::from),
            fields,
            body,
        })
    }
}

impl UniqueBy {
    fn meant(self, now: Ms) -> Result<Unique, String> {
        let window = self.window.as_deref().map(|window| time("window", window)).transpose()?;
        let at_most = self.at_most.as_deref().map(|most| time("at_most", most)).transpose()?;
        let otherwise = match (self.otherwise, at_most) {
            (OtherwiseName::Debounce, most) => Otherwise::Debounce { at_most: most.map_or(Ms::MAX, ms) },
            (_, Some(_)) => return Err("`at_most` belongs to `debounce`".to_owned()),
            (OtherwiseName::Keep, None) => Otherwise::Keep,
            (OtherwiseName::Replace, None) => Otherwise::Replace,
        };
        let until = now + window.map_or(0, ms);
        Ok(Unique { key: self.key.into(), until, otherwise, fingerprint: None })
    }
}

fn ms(time: Duration) -> Ms {
    Ms::try_from(time.as_millis()).unwrap_or(Ms::MAX)
}

fn time(key: &str, text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|why| format!("`{key}`: {why}"))
}

/// A point in time, or so long from now.
fn moment(key: &str, text: &str, now: Ms) -> Result<Ms, String> {
    let soon = || parse_duration(text).ok().map(|wait| now + ms(wait));
    parse_time(text).or_else(soon).ok_or_else(|| format!("`{key}`: write \"2027-01-01T12:00:00Z\""))
}

/// Fields that a request may bring. Those of a connection, and Tidegate's own, are not for whoever hands it in.
fn fields(headers: &BTreeMap<String, String>) -> Result<Fields, String> {
    let mut fields = Fields::default();
    for (name, value) in headers {
        let wrong = || format!("`headers`: `{name}` is no header, or its value is none");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_str(value).map_err(|_| wrong())?;
        fields.append(name, value);
    }
    tidegate_model::headers::strip_request(&mut fields);
    fields.remove(http::header::CONTENT_LENGTH);
    Ok(fields)
}

/// Credentials are shown to nobody.
fn shown_fields(fields: &Fields) -> BTreeMap<String, Value> {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for (name, value) in fields.iter() {
        let hidden = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, SET_COOKIE]
            .iter()
            .any(|secret| secret.as_str().as_bytes() == name.as_bytes());
        let shown =
            if hidden { "hidden".into() } else { String::from_utf8_lossy(value.as_bytes()).into_owned() };
        match all.get_mut(name.as_str()) {
            Some(Value::String(first)) => *first = format!("{first}, {shown}"),
            _ => drop(all.insert(name.as_str().to_owned(), json!(shown))),
        }
    }
    all
}

/// A delivery, without its request.
pub fn record(record: &Record) -> Value {
    let progress = record.progress.as_ref().and_then(|told| serde_json::from_slice::<Value>(told).ok());
    json!({
        "id": record.id.to_string(),
        "queue": &*record.queue,
        "tenant": &*record.tenant,
        "key": record.lane.as_ref().map(|lane| &*lane.key),
        "state": record.state.name(),
        "priority": record.priority.name(),
        "created": shown(record.created),
        "due": shown(record.due),
        "expires": record.expires.map(shown),
        "attempts": record.attempts,
        "attempts_max": record.attempts_max,
        "waits_for": record.waits_for,
        "progress": progress,
        "why": record.why.as_deref(),
        "forgotten": record.forgotten.map(shown),
    })
}

/// All that is known of a delivery.
pub fn whole(whole: &Whole) -> Value {
    let mut told = record(&whole.record);
    let request = &whole.request;
    told["request"] = json!({
        "method": request.method.as_str(),
        "path": &*request.target,
        "headers": shown_fields(&request.fields),
    });
    told["request"][body_key(&request.body)] = body(&request.body);
    told["attempts_made"] = whole.attempts.iter().map(attempt).collect();
    told["result"] = whole.result.as_ref().map_or(Value::Null, result);
    told
}

fn attempt(attempt: &Attempt) -> Value {
    json!({
        "number": attempt.number,
        "began": shown(attempt.began),
        "took_ms": attempt.took,
        "status": attempt.status,
        "why": attempt.why.as_deref(),
        "answer": String::from_utf8_lossy(&attempt.answer),
    })
}

fn result(kept: &Kept) -> Value {
    let mut told =
        json!({ "status": kept.status, "headers": shown_fields(&kept.fields), "whole": kept.whole });
    told[body_key(&kept.body)] = body(&kept.body);
    told
}

/// Text is shown as it is.
fn body_key(bytes: &Bytes) -> &'static str {
    if std::str::from_utf8(bytes).is_ok() { "body" } else { "base64" }
}

fn body(bytes: &Bytes) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!(BASE64_STANDARD.encode(bytes)),
    }
}

/// A queue as it is configured.
pub fn queue(queue: &QueueSettings) -> Value {
    let way = match &queue.way {
        Way::Push(upstream) => json!({ "push": &**upstream }),
        Way::Pull => json!("pull"),
        Way::Webhooks => json!("webhooks"),
    };
    json!({
        "name": &*queue.name,
        "way": way,
        "concurrency": queue.concurrency,
        "attempts": queue.policy.attempts_max,
        "ordered": queue.per_key.ordered,
        "timeout": show_duration(&queue.timeout),
        "waiting_max": queue.room.waiting_max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Ms = 1_763_000_000_000;

    /// What becomes of a body: the offer, or what is wrong with it.
    fn check(body: Value) -> Result<Offer, String> {
        let new: NewDelivery = serde_json::from_value(body).map_err(|error| error.to_string())?;
        new.offer(NOW, || Some(Id(7)))
    }

    #[test]
    fn times_are_points_or_waits() {
        let due = |body: Value| check(body).map(|offer| (offer.due, offer.expires));
        assert_eq!(due(json!({"tenant": "a"})), Ok((None, None)));
        assert_eq!(
            due(json!({"tenant": "a", "delay": "5m", "expires": "1h"})),
            Ok((Some(NOW + 300_000), Some(NOW + 3_600_000)))
        );
        let at = json!({"tenant": "a", "at": "2025-11-13T02:13:21Z"});
        assert_eq!(due(at), Ok((Some(NOW + 1_000), None)));
        assert!(due(json!({"tenant": "a", "at": "2025-11-13T02:13:21Z", "delay": "1s"})).is_err());
        assert!(due(json!({"tenant": "a", "at": "soon"})).is_err());
        assert!(due(json!({"tenant": "a", "at": "2225-11-13T02:13:21Z"})).is_err());
    }

    #[test]
    fn a_body_is_text_bytes_or_json() {
        let body = |value: Value| check(value).map(|offer| offer.body);
        assert_eq!(body(json!({"tenant": "a"})), Ok(Bytes::new()));
        assert_eq!(body(json!({"tenant": "a", "body": "x"})), Ok(Bytes::from("x")));
        assert_eq!(body(json!({"tenant": "a", "base64": "AAE="})), Ok(Bytes::from(vec![0, 1])));
        assert_eq!(body(json!({"tenant": "a", "json": {"a": 1}})), Ok(Bytes::from("{\"a\":1}")));
        assert!(body(json!({"tenant": "a", "json": 1, "body": "x"})).is_err());
        assert!(body(json!({"tenant": "a", "base64": "?"})).is_err());
    }

    #[test]
    fn what_it_must_not_say_is_refused_or_left_out() {
        assert!(check(json!({"tenant": "a", "prio": 1})).is_err());
        assert!(check(json!({"key": "a"})).is_err());
        assert!(check(json!({"tenant": "a", "headers": {"a b": "c"}})).is_err());
        assert!(check(json!({"tenant": "a", "after": ["x"]})).is_err());
        assert!(check(json!({"tenant": "a", "unique": {"key": "k", "at_most": "1s"}})).is_err());
        let headers = json!({"X-A": "b", "Connection": "close", "Tidegate-Tenant": "other"});
        let fields = check(json!({"tenant": "a", "headers": headers})).unwrap().fields;
        assert_eq!(fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-a"]);
    }

    #[test]
    fn credentials_are_shown_to_nobody() {
        let mut fields = Fields::default();
        fields.append(AUTHORIZATION, HeaderValue::from_static("Bearer hush"));
        fields.append(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let told = json!(shown_fields(&fields)).to_string();
        assert!(!told.contains("hush") && told.contains("text/plain"), "{told}");
    }
}
