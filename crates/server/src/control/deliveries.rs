//! `/queues` and `/deliveries`: handing in, looking, cancelling, making anew, pausing. Each change is a line of Tidegate's own
//! log, with who asked for it.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_dispatch::{QueueSettings, Way};
use tidegate_model::delivery::outcome::later;
use tidegate_model::delivery::{Command, Id, Kind, Ms, Told, shown};
use tidegate_store::deliveries::{Appended, Line, Pause, Promise, Whole, fresh_id};
use tidegate_store::{Store, Unavailable};
use tidegate_wire::clock;
use tokio::sync::Semaphore;

use super::shapes::{self, Accepted, AcceptedAll, NewDelivery, OneOrMany};
use super::{Control, Who, administer, body, problem};
use crate::config::Config;

/// Bytes of a request that hands in deliveries.
pub const BODY_MAX: usize = 16 << 20;
/// Such requests that are read at once: so many bodies there may be in memory.
static READING: Semaphore = Semaphore::const_new(8);
/// Tenants of a queue that are told.
const LINES_MAX: usize = 100;
/// Deliveries that are handed in at once.
const TOGETHER_MAX: usize = 1000;

/// A "no" of these endpoints.
pub type Refused = Box<Response>;

pub fn refused<T>(status: StatusCode, code: &str, detail: &str) -> Result<T, Refused> {
    Err(Box::new(problem(status, code, detail)))
}

/// Now, on the wall clock.
pub fn now() -> Ms {
    let since = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ms::try_from(since.as_millis()).unwrap_or(Ms::MAX)
}

pub fn store_of(control: &Control) -> Result<Arc<Store>, Refused> {
    let store = control.process.gate.standing.idempotency.store();
    store.map_or_else(no_store, Ok)
}

pub fn no_store<T>() -> Result<T, Refused> {
    refused(StatusCode::NOT_FOUND, "control.no-store", "there is no `[store]` to keep deliveries in")
}

pub fn unavailable(why: &Unavailable) -> Refused {
    let mut response =
        problem(StatusCode::SERVICE_UNAVAILABLE, "control.store-unavailable", &why.to_string());
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    Box::new(response)
}

/// A queue of this name.
fn queue_of<'a>(config: &'a Config, name: &str) -> Result<&'a QueueSettings, Refused> {
    let found = config.queues.iter().find(|queue| *queue.name == *name);
    found.map_or_else(
        || refused(StatusCode::NOT_FOUND, "control.no-queue", &format!("there is no queue `{name}`")),
        Ok,
    )
}

pub fn id_of(text: &str) -> Result<Id, Refused> {
    Id::parse(text).map_or_else(no_delivery, Ok)
}

pub fn no_delivery<T>() -> Result<T, Refused> {
    refused(StatusCode::NOT_FOUND, "control.no-delivery", "there is no such delivery, or it was forgotten")
}

pub fn answer(result: Result<Response, Refused>) -> Response {
    result.unwrap_or_else(|refused| *refused)
}

/// Reads a body of deliveries.
async fn read(sent: Body) -> Result<OneOrMany, Refused> {
    let Ok(_reading) = READING.acquire().await else { return no_delivery() };
    let bytes = body::read(sent, BODY_MAX).await?;
    let wrong = |error: serde_json::Error| {
        Box::new(problem(StatusCode::BAD_REQUEST, "control.delivery", &error.to_string()))
    };
    // By hand: what serde tells of alternatives names none of them.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return serde_json::from_slice(&bytes).map(OneOrMany::Many).map_err(wrong);
    }
    serde_json::from_slice(&bytes).map(|one| OneOrMany::One(Box::new(one))).map_err(wrong)
}

pub async fn hand_in(State(control): State<Control>, Path(name): Path<String>, body: Body) -> Response {
    answer(handed_in(&control, &name, body).await)
}

async fn handed_in(control: &Control, name: &str, body: Body) -> Result<Response, Refused> {
    let (store, config) = (store_of(control)?, control.process.gate.config());
    let queue = queue_of(&config, name)?;
    if queue.way == Way::Webhooks {
        let detail = "events wait in this queue: publish one, `POST /webhooks/events/TENANT`";
        return refused(StatusCode::CONFLICT, "control.queue-of-webhooks", detail);
    }
    match read(body).await? {
        OneOrMany::One(new) => {
            let mut all = accept(&store, queue, vec![*new]).await?;
            Ok(all.pop().map_or_else(|| *unavailable(&Unavailable::Failing), one_told))
        }
        OneOrMany::Many(all) if all.len() > TOGETHER_MAX => {
            let detail = format!("at most {TOGETHER_MAX} deliveries are handed in at once");
            refused(StatusCode::PAYLOAD_TOO_LARGE, "control.too-large", &detail)
        }
        OneOrMany::Many(all) => {
            let deliveries = accept(&store, queue, all).await?;
            Ok(axum::Json(AcceptedAll { deliveries }).into_response())
        }
    }
}

/// What one that was handed in alone is told.
fn one_told(accepted: Accepted) -> Response {
    let detail = accepted.detail.clone().unwrap_or_default();
    match accepted.outcome {
        "accepted" | "already" | "replaced" => {
            let place = format!("/deliveries/{}", accepted.id.as_deref().unwrap_or_default());
            (StatusCode::ACCEPTED, [(header::LOCATION, place)], axum::Json(accepted)).into_response()
        }
        "invalid" => problem(StatusCode::BAD_REQUEST, "control.delivery", &detail),
        "mismatch" => problem(StatusCode::UNPROCESSABLE_ENTITY, "control.mismatch", &detail),
        "after" => problem(StatusCode::CONFLICT, "control.after", &detail),
        _ => problem(StatusCode::TOO_MANY_REQUESTS, "control.full", &detail),
    }
}

/// Hands these to the store, and tells what became of each, in their order.
async fn accept(
    store: &Store,
    queue: &QueueSettings,
    all: Vec<NewDelivery>,
) -> Result<Vec<Accepted>, Refused> {
    let now = now();
    let made: Vec<Result<Promise, String>> = all
        .into_iter()
        .map(|new| {
            let offer = new.offer(now, fresh_id)?;
            let id = fresh_id().ok_or("the system has no chance to give")?;
            queue.promise(offer, id, now).map_err(|why| why.to_string())
        })
        .collect();
    let promises: Vec<Promise> = made.iter().filter_map(|made| made.as_ref().ok()).cloned().collect();
    let appended = if promises.is_empty() {
        Vec::new()
    } else {
        store.append(promises, queue.room, now).await.map_err(|why| unavailable(&why))?
    };
    let mut appended = appended.into_iter();
    let told = made.into_iter().map(|made| match made {
        Ok(_) => {
            appended.next().map_or_else(|| refusal(None, "full", "the store told nothing of it"), outcome)
        }
        Err(why) => refusal(None, "invalid", &why),
    });
    Ok(told.collect())
}

fn outcome(appended: Appended) -> Accepted {
    let accepted = |id: Id, outcome| Accepted { id: Some(id.to_string()), outcome, detail: None };
    match appended {
        Appended::Accepted(id) => accepted(id, "accepted"),
        Appended::Already(id) => accepted(id, "already"),
        Appended::Replaced(id) => accepted(id, "replaced"),
        Appended::Mismatch(id) => {
            refusal(Some(id), "mismatch", "one of its kind is there, and asks for something else")
        }
        Appended::Full => refusal(None, "full", "the tenant has as many deliveries waiting as it may"),
        Appended::After(id) => refusal(
            Some(id),
            "after",
            "it comes after a delivery that there is not, that has failed, or that is newer than it",
        ),
    }
}

fn refusal(id: Option<Id>, outcome: &'static str, detail: &str) -> Accepted {
    Accepted { id: id.map(|id| id.to_string()), outcome, detail: Some(detail.to_owned()) }
}

pub async fn found(control: &Control, id: &str) -> Result<Whole, Refused> {
    let (store, id) = (store_of(control)?, id_of(id)?);
    let whole = store.read(None, id).await.map_err(|why| unavailable(&why))?;
    whole.map_or_else(no_delivery, Ok)
}

pub async fn show(State(control): State<Control>, Path(id): Path<String>) -> Response {
    answer(found(&control, &id).await.map(|whole| administer::shown(&whole)))
}

pub async fn cancel(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(id): Path<String>,
) -> Response {
    answer(changed(&control, &who, &id, Change::Cancel).await)
}

pub async fn redrive(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(id): Path<String>,
) -> Response {
    answer(changed(&control, &who, &id, Change::Redrive).await)
}

/// What is done to a delivery.
#[derive(Clone, Copy, Debug)]
enum Change {
    Cancel,
    Redrive,
}

async fn changed(control: &Control, who: &str, id: &str, change: Change) -> Result<Response, Refused> {
    let store = store_of(control)?;
    let record = found(control, id).await?.record;
    let config = control.process.gate.config();
    let queue = config.queues.iter().find(|queue| queue.name == record.queue);
    let now = now();
    let command = match change {
        Change::Cancel => {
            let keep = queue.map(|queue| queue.policy.keep).unwrap_or_default();
            Command::Cancel { forgotten: later(now, keep.cancelled) }
        }
        Change::Redrive => {
            let aging = queue.map_or(tidegate_model::delivery::AGING_MS, |queue| later(0, queue.aging));
            Command::Redrive { due: now, aging }
        }
    };
    let told = store.change(None, record.id, command, now).await.map_err(|why| unavailable(&why))?;
    match told {
        Some(Told::Done | Told::Started(_)) => {
            tracing::info!(who, delivery = %record.id, change = ?change, "control: delivery changed");
            Ok(administer::shown(&found(control, id).await?))
        }
        Some(Told::Not(state)) => {
            let detail = format!("the delivery is {}", state.name());
            refused(StatusCode::CONFLICT, "control.delivery-state", &detail)
        }
        _ => no_delivery(),
    }
}

/// What is paused, or goes on.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Paused {
    /// Of this tenant alone.
    pub tenant: Option<String>,
    /// Of this key of the tenant alone.
    pub key: Option<String>,
}

/// What was paused, or goes on.
#[derive(Debug, JsonSchema, Serialize)]
pub struct PausedTold {
    /// The queue.
    pub queue: String,
    /// The tenant; none: all.
    pub tenant: Option<String>,
    /// The key; none: all.
    pub key: Option<String>,
    /// Whether it is paused now.
    pub paused: bool,
}

pub async fn pause(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(name): Path<String>,
    body: Body,
) -> Response {
    answer(set_paused(&control, &who, &name, body, true).await)
}

pub async fn resume(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(name): Path<String>,
    body: Body,
) -> Response {
    answer(set_paused(&control, &who, &name, body, false).await)
}

async fn set_paused(
    control: &Control,
    who: &str,
    name: &str,
    sent: Body,
    paused: bool,
) -> Result<Response, Refused> {
    let config = control.process.gate.config();
    let queue = Arc::clone(&queue_of(&config, name)?.name);
    let Paused { tenant, key } = body::json_or_nothing(sent, body::BYTES_MAX, "control.body").await?;
    let line = |tenant: &str| Line { queue: Arc::clone(&queue), tenant: Arc::from(tenant) };
    let pause = match (&tenant, &key) {
        (None, None) => Pause::Queue(Arc::clone(&queue)),
        (Some(tenant), None) => Pause::Line(line(tenant)),
        (Some(tenant), Some(key)) => Pause::Key(line(tenant), Arc::from(key.as_str())),
        (None, Some(_)) => {
            return refused(StatusCode::BAD_REQUEST, "control.body", "a key is a tenant's: add `tenant`");
        }
    };
    order(control, pause, paused).await?;
    tracing::info!(who, queue = name, ?tenant, ?key, paused, "control: queue paused or resumed");
    Ok(axum::Json(PausedTold { queue: name.to_owned(), tenant, key, paused }).into_response())
}

/// Pauses something, or ends that.
async fn order(control: &Control, pause: Pause, paused: bool) -> Result<(), Refused> {
    // The engine hears of it by its own handle.
    let Some(dispatcher) = control.process.gate.dispatcher() else { return no_store() };
    let done = match paused {
        true => dispatcher.pause(pause).await,
        false => dispatcher.resume(pause).await.map(|()| true),
    };
    if !done.map_err(|why| unavailable(&why))? {
        return refused(StatusCode::CONFLICT, "control.pauses", "as much is paused already as may be");
    }
    Ok(())
}

/// A tenant that is paused in all queues, or goes on.
#[derive(Debug, JsonSchema, Serialize)]
pub struct TenantPaused {
    /// The tenant.
    pub tenant: String,
    /// Whether it is paused now.
    pub paused: bool,
}

pub async fn pause_tenant(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(tenant): Path<String>,
) -> Response {
    answer(set_tenant_paused(&control, &who, tenant, true).await)
}

pub async fn resume_tenant(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    Path(tenant): Path<String>,
) -> Response {
    answer(set_tenant_paused(&control, &who, tenant, false).await)
}

async fn set_tenant_paused(
    control: &Control,
    who: &str,
    tenant: String,
    paused: bool,
) -> Result<Response, Refused> {
    if !tidegate_model::tenant::is_id(&tenant) {
        return refused(StatusCode::BAD_REQUEST, "control.body", "that is no tenant's id");
    }
    order(control, Pause::Tenant(Arc::from(tenant.as_str())), paused).await?;
    tracing::info!(who, tenant, paused, "control: tenant paused or resumed in all queues");
    Ok(axum::Json(TenantPaused { tenant, paused }).into_response())
}

/// The queues of the configuration, and what is paused of each.
pub async fn queues(State(control): State<Control>) -> Response {
    answer(told_queues(&control).await)
}

async fn told_queues(control: &Control) -> Result<Response, Refused> {
    let queues = all_queues(control).await?;
    let paused = match queues.is_empty() {
        true => Vec::new(),
        false => store_of(control)?.paused().await.map_err(|why| unavailable(&why))?,
    };
    let tenants = paused.iter().filter_map(|pause| match pause {
        Pause::Tenant(tenant) => Some(json!(&**tenant)),
        _ => None,
    });
    let tenants: Vec<Value> = tenants.collect();
    Ok(axum::Json(json!({ "queues": queues, "paused_tenants": tenants })).into_response())
}

pub async fn queue(State(control): State<Control>, Path(name): Path<String>) -> Response {
    answer(one_queue(&control, &name).await)
}

async fn one_queue(control: &Control, name: &str) -> Result<Response, Refused> {
    let Some(mut told) = all_queues(control).await?.into_iter().find(|queue| queue["name"] == *name) else {
        return refused(StatusCode::NOT_FOUND, "control.no-queue", &format!("there is no queue `{name}`"));
    };
    let depths = store_of(control)?.depths(Some(name), None, None, LINES_MAX).await;
    let lines = depths.map_err(|why| unavailable(&why))?;
    let lines = lines.iter().map(|depth| {
        json!({ "tenant": &*depth.line.tenant, "counts": counts(&depth.counts), "bytes": depth.bytes })
    });
    told["lines"] = lines.collect();
    Ok(axum::Json(told).into_response())
}

/// How many there are in each state.
fn counts(counts: &[u64; 7]) -> Value {
    let counts = Kind::ALL.iter().zip(counts).map(|(kind, count)| (kind.name().to_owned(), json!(count)));
    Value::Object(counts.collect())
}

async fn all_queues(control: &Control) -> Result<Vec<Value>, Refused> {
    let config = control.process.gate.config();
    if config.queues.is_empty() {
        return Ok(Vec::new());
    }
    let store = store_of(control)?;
    let paused = store.paused().await.map_err(|why| unavailable(&why))?;
    let totals = store.totals().await.map_err(|why| unavailable(&why))?;
    let made = control.process.gate.dispatcher().map(|dispatcher| dispatcher.counts()).unwrap_or_default();
    let told = config.queues.iter().map(|queue| {
        let mut told = shapes::queue(queue);
        told["paused"] = json!(paused.contains(&Pause::Queue(Arc::clone(&queue.name))));
        let parts = paused.iter().filter_map(|pause| match pause {
            Pause::Line(line) if line.queue == queue.name => {
                Some(json!({ "tenant": &*line.tenant, "key": null }))
            }
            Pause::Key(line, key) if line.queue == queue.name => {
                Some(json!({ "tenant": &*line.tenant, "key": &**key }))
            }
            _ => None,
        });
        told["paused_parts"] = parts.collect();
        let total = totals.iter().find(|total| total.queue == queue.name);
        told["counts"] = counts(&total.map_or([0; 7], |total| total.counts));
        told["bytes"] = json!(total.map_or(0, |total| total.bytes));
        told["oldest"] = json!(total.and_then(|total| total.oldest).map(shown));
        let made = made.get(&queue.name);
        told["under_way"] = json!(made.map_or(0, |made| made.under_way));
        told["parked"] = json!(made.is_some_and(|made| made.parked.is_some()));
        told
    });
    Ok(told.collect())
}
