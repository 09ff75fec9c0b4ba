//! `/webhooks/…`: destinations, event types and events, for the application that owns them.
//!
//! What is shown of a destination hides the values of its headers; written back as they were shown, they stay. Secrets are shown
//! to whoever may change.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidegate_dispatch::webhook::{
    Destination, EventRecord, NewEvent, Outcome, Page, Recovery, Rotation, Stored, WebhookError, Webhooks,
};
use tidegate_model::tenant::is_id;
use tidegate_model::webhook::cloudevents::BATCH_MAX;
use tidegate_model::webhook::destination::Wanted;
use tidegate_model::webhook::event::{EventType, PAYLOAD_BYTES_MAX, SCHEMA_BYTES_MAX};
use tidegate_model::webhook::signing::Kind;
use tokio::sync::Semaphore;

use super::{Control, body, problem};
use crate::config::parse_duration;

/// Bytes of a request that publishes.
const EVENTS_BYTES_MAX: usize = PAYLOAD_BYTES_MAX * 8;
/// Such requests that are read at once: so many payloads there may be in memory.
static PUBLISHING: Semaphore = Semaphore::const_new(4);
/// Bytes of a request that says what a type of events is.
const TYPE_BYTES_MAX: usize = SCHEMA_BYTES_MAX * 2;
/// Entries of a page, where nothing else is said, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;
/// What stands for the value of a header.
const HIDDEN: &str = "(hidden)";

/// Which part of a listing.
#[derive(Deserialize)]
pub struct Part {
    cursor: Option<String>,
    limit: Option<usize>,
    since: Option<u64>,
}

impl Part {
    fn after(&self) -> Result<Option<(u64, Arc<str>)>, Refused> {
        let Some(cursor) = self.cursor.as_deref().filter(|cursor| !cursor.is_empty()) else {
            return Ok(None);
        };
        let read = cursor.split_once('-').and_then(|(at, name)| Some((at.parse().ok()?, name.into())));
        read.map(Some).ok_or_else(|| invalid("the cursor is none that a page has told"))
    }

    fn most(&self) -> usize {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX)
    }
}

/// A destination that is to be made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    destination: Wanted,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    signature: Kind,
    #[serde(default)]
    certificate: Option<Certificate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Certificate {
    chain: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    certificate: Option<Certificate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enable {
    enabled: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rotate {
    secret: Option<String>,
    signature: Kind,
    overlap: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resend {
    event: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recover {
    since: u64,
    #[serde(default)]
    failed: bool,
    #[serde(default)]
    missing: bool,
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    #[serde(default)]
    id: Option<String>,
    r#type: String,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    subject: Option<String>,
    payload: Box<RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Events {
    events: Vec<Event>,
}

/// Whether several are published: looked at without keeping anything of them.
#[derive(Deserialize)]
struct Several {
    events: Option<IgnoredAny>,
}

/// What is not done, as it is told.
pub struct Refused(Box<Response>);

type Done = Result<Response, Refused>;

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl From<Box<Response>> for Refused {
    fn from(response: Box<Response>) -> Refused {
        Refused(response)
    }
}

impl From<WebhookError> for Refused {
    fn from(error: WebhookError) -> Refused {
        failed(&error)
    }
}

fn refused(status: StatusCode, code: &str, why: &str) -> Refused {
    Refused(Box::new(problem(status, code, why)))
}

fn invalid(why: &str) -> Refused {
    refused(StatusCode::UNPROCESSABLE_ENTITY, "control.webhook", why)
}

fn failed(error: &WebhookError) -> Refused {
    let (status, code) = match error {
        WebhookError::NotFound(_) => (StatusCode::NOT_FOUND, "control.webhook-missing"),
        WebhookError::Invalid(_) => (StatusCode::UNPROCESSABLE_ENTITY, "control.webhook"),
        WebhookError::Changed(_) => (StatusCode::PRECONDITION_FAILED, "control.webhook-changed"),
        WebhookError::Mismatch => (StatusCode::CONFLICT, "control.webhook-mismatch"),
        WebhookError::Full(_) => (StatusCode::TOO_MANY_REQUESTS, "control.webhook-full"),
        WebhookError::Store(_) | WebhookError::Chance => {
            (StatusCode::SERVICE_UNAVAILABLE, "control.webhook-store")
        }
    };
    refused(status, code, &error.to_string())
}

fn webhooks(control: &Control) -> Result<Arc<Webhooks>, Refused> {
    let off = || refused(StatusCode::NOT_FOUND, "control.webhook-off", "there is no [webhook] here");
    control.process.gate.webhooks().ok_or_else(off)
}

fn tenant(id: &str) -> Result<Arc<str>, Refused> {
    if is_id(id) { Ok(id.into()) } else { Err(invalid("that is no tenant's id")) }
}

async fn read<T: DeserializeOwned>(sent: Body) -> Result<T, Refused> {
    of_json(&body::read(sent, body::BYTES_MAX).await?)
}

fn of_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(bytes).map_err(|error| invalid(&format!("the body: {error}")))
}

/// The version that a change is for.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version =
        text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    version.map(Some).ok_or_else(|| {
        let why = "If-Match is none of the ETags that are told here";
        refused(StatusCode::PRECONDITION_FAILED, "control.webhook-changed", why)
    })
}

fn tagged(status: StatusCode, version: u64, body: Value) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

fn page<T>(page: &Page<T>, show: impl Fn(&Stored<T>) -> Value) -> Response {
    let next = page.next.as_ref().map(|(at, name)| format!("{at}-{name}"));
    let items: Vec<Value> = page.items.iter().map(show).collect();
    axum::Json(json!({ "items": items, "next": next })).into_response()
}

fn show(stored: &Stored<Destination>) -> Value {
    let mut wanted = stored.record.wanted.clone();
    wanted.headers.iter_mut().for_each(|(_, value)| HIDDEN.clone_into(value));
    json!({
        "id": &*stored.name, "created": stored.at, "version": stored.version, "destination": wanted,
        "state": stored.record.health.state, "failing_since": stored.record.health.failing_since,
        "certificate": stored.record.identity.is_some(),
    })
}

fn show_with_secrets(stored: &Stored<Destination>) -> Value {
    let mut shown = show(stored);
    shown["secrets"] = json!(stored.record.shown());
    shown
}

fn show_type(stored: &Stored<EventType>) -> Value {
    let mut shown = json!(stored.record);
    shown["version"] = json!(stored.version);
    shown
}

fn show_event(stored: &Stored<EventRecord>) -> Value {
    let EventRecord { kind, channels, subject, payload } = &stored.record;
    let payload: Value = serde_json::from_slice(payload).unwrap_or_default();
    json!({
        "id": &*stored.name, "published": stored.at, "type": kind, "channels": channels, "subject": subject,
        "payload": payload,
    })
}

fn show_outcome(stored: &Stored<Outcome>) -> Value {
    let Outcome { kind, state, attempts } = &stored.record;
    json!({ "event": &*stored.name, "type": kind, "state": state, "at": stored.at, "attempts": attempts })
}

pub async fn destinations(
    State(control): State<Control>,
    Path(id): Path<String>,
    Query(part): Query<Part>,
) -> Done {
    let found = webhooks(&control)?.destinations(&tenant(&id)?, part.after()?, part.most()).await;
    Ok(page(&found?, show))
}

pub async fn create(State(control): State<Control>, Path(id): Path<String>, body: Body) -> Done {
    let (webhooks, tenant) = (webhooks(&control)?, tenant(&id)?);
    let Create { destination, secret, signature, certificate } = read(body).await?;
    let rotation = Rotation { kind: signature, secret, overlap: None };
    let identity = certificate.map(|one| (one.chain, one.key));
    let made = webhooks.create(&tenant, destination, rotation, identity).await?;
    Ok(tagged(StatusCode::CREATED, made.version, show_with_secrets(&made)))
}

pub async fn destination(State(control): State<Control>, Path((owner, id)): Path<(String, String)>) -> Done {
    let found = webhooks(&control)?.destination(&tenant(&owner)?, &id).await?;
    Ok(tagged(StatusCode::OK, found.version, show(&found)))
}

pub async fn change(
    State(control): State<Control>,
    Path((owner, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Done {
    let (webhooks, tenant) = (webhooks(&control)?, tenant(&owner)?);
    let mut wanted: Wanted = read(body).await?;
    let held = webhooks.destination(&tenant, &id).await?;
    for (name, value) in &mut wanted.headers {
        let same = |(there, _): &&(String, String)| there.eq_ignore_ascii_case(name);
        if value == HIDDEN
            && let Some((_, known)) = held.record.wanted.headers.iter().find(same)
        {
            value.clone_from(known);
        }
    }
    let changed = webhooks.change(&tenant, &id, expected(&headers)?, wanted).await?;
    Ok(tagged(StatusCode::OK, changed.version, show(&changed)))
}

pub async fn remove(
    State(control): State<Control>,
    Path((owner, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Done {
    webhooks(&control)?.delete(&tenant(&owner)?, &id, expected(&headers)?).await?;
    Ok(axum::Json(json!({ "deleted": id })).into_response())
}

pub async fn enable(
    State(control): State<Control>,
    Path((owner, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Done {
    let (webhooks, tenant) = (webhooks(&control)?, tenant(&owner)?);
    let Enable { enabled } = read(body).await?;
    let changed = webhooks.enable(&tenant, &id, expected(&headers)?, enabled).await?;
    Ok(tagged(StatusCode::OK, changed.version, show(&changed)))
}

pub async fn certificate(
    State(control): State<Control>,
    Path((owner, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Done {
    let (webhooks, tenant) = (webhooks(&control)?, tenant(&owner)?);
    let Shown { certificate } = read(body).await?;
    let identity = certificate.map(|one| (one.chain, one.key));
    let changed = webhooks.identify(&tenant, &id, expected(&headers)?, identity).await?;
    Ok(tagged(StatusCode::OK, changed.version, show(&changed)))
}

pub async fn secrets(State(control): State<Control>, Path((owner, id)): Path<(String, String)>) -> Done {
    let found = webhooks(&control)?.destination(&tenant(&owner)?, &id).await?;
    Ok(tagged(StatusCode::OK, found.version, json!({ "secrets": found.record.shown() })))
}

pub async fn rotate(
    State(control): State<Control>,
    Path((owner, id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Done {
    let (webhooks, tenant) = (webhooks(&control)?, tenant(&owner)?);
    let Rotate { secret, signature, overlap } = read(body).await?;
    let overlap = overlap.as_deref().map(parse_duration).transpose();
    let overlap: Option<Duration> = overlap.map_err(|why| invalid(&format!("overlap: {why}")))?;
    let rotation = Rotation { kind: signature, secret, overlap };
    let changed = webhooks.rotate(&tenant, &id, expected(&headers)?, rotation).await?;
    Ok(tagged(StatusCode::OK, changed.version, json!({ "secrets": changed.record.shown() })))
}

pub async fn test(State(control): State<Control>, Path((owner, id)): Path<(String, String)>) -> Done {
    let event = webhooks(&control)?.test(&tenant(&owner)?, &id).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(json!({ "event": event }))).into_response())
}

pub async fn outcomes(
    State(control): State<Control>,
    Path((owner, id)): Path<(String, String)>,
    Query(part): Query<Part>,
) -> Done {
    let found = webhooks(&control)?.outcomes(&tenant(&owner)?, &id, part.after()?, part.most()).await;
    Ok(page(&found?, show_outcome))
}

pub async fn resend(
    State(control): State<Control>,
    Path((owner, id)): Path<(String, String)>,
    body: Body,
) -> Done {
    let (webhooks, tenant) = (webhooks(&control)?, tenant(&owner)?);
    let Resend { event } = read(body).await?;
    webhooks.resend(&tenant, &id, &event).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(json!({ "event": event }))).into_response())
}

pub async fn recover(
    State(control): State<Control>,
    Path((owner, id)): Path<(String, String)>,
    body: Body,
) -> Done {
    let (webhooks, tenant) = (webhooks(&control)?, tenant(&owner)?);
    let Recover { since, failed: given_up, missing, cursor } = read(body).await?;
    if !given_up && !missing {
        return Err(invalid("say what is sent again: \"failed\", \"missing\", or both"));
    }
    let after = Part { cursor, limit: None, since: None }.after()?;
    let recovery = Recovery { since, failed: given_up, missing, after };
    let done = webhooks.recover(&tenant, &id, recovery).await?;
    let next = done.next.map(|(at, name)| format!("{at}-{name}"));
    Ok((StatusCode::ACCEPTED, axum::Json(json!({ "sent": done.sent, "next": next }))).into_response())
}

pub async fn events(
    State(control): State<Control>,
    Path(owner): Path<String>,
    Query(part): Query<Part>,
) -> Done {
    let since = part.since.unwrap_or_default();
    let found = webhooks(&control)?.events(&tenant(&owner)?, since, part.after()?, part.most()).await;
    Ok(page(&found?, show_event))
}

pub async fn publish(State(control): State<Control>, Path(owner): Path<String>, sent: Body) -> Done {
    let (webhooks, tenant) = (webhooks(&control)?, tenant(&owner)?);
    let Ok(_publishing) = PUBLISHING.acquire().await else { return Err(invalid("it ends")) };
    let bytes = body::read(sent, EVENTS_BYTES_MAX).await?;
    // One event, or several.
    let several = of_json::<Several>(&bytes)?.events.is_some();
    let given = if several { of_json::<Events>(&bytes)?.events } else { vec![of_json::<Event>(&bytes)?] };
    if given.len() > BATCH_MAX {
        return Err(invalid(&format!("at most {BATCH_MAX} events are published at once")));
    }
    let events = given.into_iter().map(|event| NewEvent {
        id: event.id,
        kind: event.r#type,
        channels: event.channels,
        subject: event.subject,
        payload: event.payload.get().to_owned().into(),
    });
    let published = webhooks.publish(&tenant, events.collect()).await?;
    let told = published
        .iter()
        .map(|one| json!({ "id": one.id, "repeated": one.repeated, "destinations": one.destinations }));
    let mut told: Vec<Value> = told.collect();
    let body = if several { json!({ "events": told }) } else { told.pop().unwrap_or_default() };
    Ok((StatusCode::ACCEPTED, axum::Json(body)).into_response())
}

pub async fn event(State(control): State<Control>, Path((owner, id)): Path<(String, String)>) -> Done {
    let found = webhooks(&control)?.event(&tenant(&owner)?, &id).await;
    Ok(axum::Json(show_event(&found?)).into_response())
}

pub async fn types(State(control): State<Control>, Query(part): Query<Part>) -> Done {
    let found = webhooks(&control)?.types(part.after()?, part.most()).await;
    Ok(page(&found?, show_type))
}

pub async fn event_type(State(control): State<Control>, Path(name): Path<String>) -> Done {
    let found = webhooks(&control)?.event_type(&name).await?;
    Ok(tagged(StatusCode::OK, found.version, show_type(&found)))
}

pub async fn put_type(
    State(control): State<Control>,
    Path(name): Path<String>,
    headers: HeaderMap,
    sent: Body,
) -> Done {
    let webhooks = webhooks(&control)?;
    let wanted: EventType = of_json(&body::read(sent, TYPE_BYTES_MAX).await?)?;
    if wanted.name != name {
        return Err(invalid("the type is called otherwise than its path"));
    }
    let made = webhooks.put_type(wanted, expected(&headers)?).await?;
    Ok(tagged(StatusCode::OK, made.version, show_type(&made)))
}

pub async fn remove_type(
    State(control): State<Control>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Done {
    webhooks(&control)?.delete_type(&name, expected(&headers)?).await?;
    Ok(axum::Json(json!({ "deleted": name })).into_response())
}
