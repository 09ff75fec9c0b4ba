//! `/queues/NAME/claim`, `ack`, `nack` and `extend`: the application comes for the deliveries of a queue that is pulled.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use tidegate_dispatch::{Claim, ClaimError, Dispatcher, Ending, Extension, Grip, How};
use tidegate_model::delivery::PROGRESS_BYTES_MAX;
use tidegate_model::fields::Fields;
use tidegate_model::refusal;
use tidegate_store::Unavailable;
use tidegate_store::deliveries::{Kept, Who};

use super::deliveries::{BODY_MAX, Refused, answer, no_store, refused, unavailable};
use super::{Control, body, problem};
use crate::config::{parse_duration, parse_size};
use crate::pull::{BYTES, BYTES_MAX, LEASE_MAX, One, Outcome, TOGETHER_MAX, WAIT_MAX, name_of, over};

/// Bytes of a result that is kept.
const RESULT_MAX: usize = 1 << 20;

/// What is claimed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewClaim {
    /// So many at most, up to 100. Without it: one.
    pub most: Option<usize>,
    /// Of these tenants. Without it: of all.
    pub tenants: Vec<String>,
    /// For how long they are held: `"30s"`, up to 12 hours. Without it: as the queue says.
    pub lease: Option<String>,
    /// How long is waited for the first one: up to `"60s"`. Without it: not at all.
    pub wait: Option<String>,
    /// Bytes of their requests, in all: `"4MiB"`, up to 64 MiB. Without it: 16 MiB. The first may have more, alone.
    pub bytes_max: Option<String>,
}

/// What came of deliveries that were claimed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endings {
    /// Each of them.
    pub deliveries: Vec<EndingOfOne>,
}

/// What came of one.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EndingOfOne {
    /// What it is held by, as the claim has told.
    pub grip: String,
    /// Of `nack`: why, in words.
    pub why: Option<String>,
    /// Of `nack`: when it is to be made again, from now on: `"5m"`. Without it: as the queue says.
    pub delay: Option<String>,
    /// Of `nack`: it will never succeed, and is dead.
    #[serde(default)]
    pub never: bool,
    /// Of `ack`: what is kept as its result, where the queue keeps any: text.
    pub result: Option<String>,
}

/// Which are held longer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extensions {
    /// Each of them.
    pub deliveries: Vec<ExtensionOfOne>,
}

/// One that is held longer.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExtensionOfOne {
    /// What it is held by.
    pub grip: String,
    /// For how long from now on. Without it: as the queue says.
    pub lease: Option<String>,
    /// How far it has come: any JSON, up to 4 KiB.
    pub progress: Option<Value>,
}

/// What became of each.
#[derive(Debug, JsonSchema, Serialize)]
pub struct HeldAll {
    /// In their order: `done`; `lost`: its lease had ended, or it was cancelled, and nothing was changed; `elsewhere`:
    /// another node is to be told; `unknown`: the store could not be told.
    pub outcomes: Vec<&'static str>,
}

/// What a claim is answered.
#[derive(Serialize)]
struct Claimed {
    deliveries: Vec<Box<RawValue>>,
}

fn bad<T>(detail: &str) -> Result<T, Refused> {
    refused(StatusCode::BAD_REQUEST, "control.claim", detail)
}

async fn read<T: DeserializeOwned>(sent: Body) -> Result<T, Refused> {
    body::json(sent, BODY_MAX, "control.claim").await
}

fn dispatcher(control: &Control) -> Result<&Arc<Dispatcher>, Refused> {
    control.process.gate.dispatcher().map_or_else(no_store, Ok)
}

fn time(key: &str, text: Option<&str>, most: Duration) -> Result<Option<Duration>, Refused> {
    match text.map(parse_duration) {
        None => Ok(None),
        Some(Ok(time)) if time <= most => Ok(Some(time)),
        Some(Ok(_)) => bad(&format!("`{key}` is at most {}", crate::config::show_duration(&most))),
        Some(Err(why)) => bad(&format!("`{key}`: {why}")),
    }
}

fn bytes(text: Option<&str>) -> Result<u64, Refused> {
    match text.map(parse_size) {
        None => Ok(BYTES),
        Some(Ok(bytes @ 1..=BYTES_MAX)) => Ok(bytes),
        Some(Ok(_)) => bad("`bytes_max` is from 1 byte to 64 MiB"),
        Some(Err(why)) => bad(&format!("`bytes_max`: {why}")),
    }
}

fn grip(text: &str) -> Result<Grip, Refused> {
    Grip::parse(text).map_or_else(|| bad(&format!("`{text}` is no `grip`")), Ok)
}

pub async fn claim(State(control): State<Control>, Path(name): Path<String>, body: Body) -> Response {
    answer(claimed(&control, &name, body).await)
}

async fn claimed(control: &Control, name: &str, sent: Body) -> Result<Response, Refused> {
    let asked: NewClaim = body::json_or_nothing(sent, BODY_MAX, "control.claim").await?;
    let claim = Claim {
        queue: Arc::from(name),
        tenants: asked.tenants.iter().map(|tenant| Arc::from(tenant.as_str())).collect(),
        most: asked.most.unwrap_or(1).clamp(1, TOGETHER_MAX),
        lease: time("lease", asked.lease.as_deref(), LEASE_MAX)?,
        wait: time("wait", asked.wait.as_deref(), WAIT_MAX)?.unwrap_or_default(),
        bytes_max: bytes(asked.bytes_max.as_deref())?,
        first_any: true,
    };
    let dispatcher = dispatcher(control)?;
    match over::claim(&control.process.gate, dispatcher, claim).await {
        Ok(all) => {
            let deliveries = all.into_iter().map(One::into_told).collect();
            Ok(axum::Json(Claimed { deliveries }).into_response())
        }
        Err(ClaimError::Queue) => {
            let detail = format!("there is no queue `{name}` that is pulled");
            refused(StatusCode::NOT_FOUND, "control.no-queue", &detail)
        }
        Err(error @ ClaimError::Busy) => Err(later("control.claims", &error.to_string())),
        Err(error @ ClaimError::Draining) => Err(later("control.draining", &error.to_string())),
        Err(ClaimError::Elsewhere) => {
            let of = |tenant: &String| dispatcher.store().shard_of(tenant);
            let shards: Vec<u16> = asked.tenants.iter().map(of).collect();
            Err(elsewhere(dispatcher, |shard| shards.is_empty() || shards.contains(&shard)))
        }
    }
}

/// Another node makes the deliveries of these shards: which, as far as this one knows.
fn elsewhere(dispatcher: &Dispatcher, is_meant: impl Fn(u16) -> bool) -> Refused {
    let leaders = dispatcher.leaders();
    let names: BTreeSet<&str> = (leaders.iter())
        .filter(|leader| is_meant(leader.shard))
        .filter_map(|leader| match &leader.who {
            Who::Elsewhere(name) => Some(&**name),
            Who::Here | Who::Nobody => None,
        })
        .collect();
    let detail = match names.len() {
        0 => "no node makes these deliveries at this moment".to_owned(),
        1 => format!("the node `{}` makes these deliveries", names.into_iter().collect::<String>()),
        _ => format!("the nodes `{}` make these deliveries", Vec::from_iter(names).join("`, `")),
    };
    later(refusal::DELIVERY_ELSEWHERE.code, &detail)
}

/// A "no" that may be another thing in a moment.
fn later(code: &str, detail: &str) -> Refused {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, code, detail);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    Box::new(response)
}

pub async fn ack(State(control): State<Control>, Path(_): Path<String>, body: Body) -> Response {
    answer(ended(&control, body, true).await)
}

pub async fn nack(State(control): State<Control>, Path(_): Path<String>, body: Body) -> Response {
    answer(ended(&control, body, false).await)
}

async fn ended(control: &Control, body: Body, well: bool) -> Result<Response, Refused> {
    let asked: Endings = read(body).await?;
    bounded(asked.deliveries.len())?;
    let dispatcher = dispatcher(control)?;
    let grips = |one: &EndingOfOne| ending(one.clone(), well).map(|ending| ending.grip);
    let grips = asked.deliveries.iter().map(grips).collect::<Result<Vec<Grip>, Refused>>()?;
    let told = over::end(&control.process.gate, dispatcher, asked.deliveries, well).await;
    outcomes(dispatcher, &grips, &told)
}

/// What came of one that somebody has.
///
/// # Errors
/// What is wrong with it.
pub fn ending(one: EndingOfOne, well: bool) -> Result<Ending, Refused> {
    let delay = time("delay", one.delay.as_deref(), Duration::from_secs(86_400))?;
    let how = match (well, one.never) {
        (true, false) if one.why.is_none() && delay.is_none() => How::Done,
        (true, _) => return bad("`why`, `delay` and `never` are of `nack`"),
        (false, _) if one.result.is_some() => return bad("`result` is of `ack`"),
        (false, true) => How::Never,
        (false, false) => How::Refused(delay),
    };
    if one.result.as_ref().is_some_and(|result| result.len() > RESULT_MAX) {
        return bad(&format!("`result` has at most {RESULT_MAX} bytes"));
    }
    let result = one.result.map(|text| {
        let mut fields = Fields::default();
        let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
        fields.append(http::header::CONTENT_TYPE, kind);
        Kept { status: 200, fields, body: text.into(), whole: true }
    });
    Ok(Ending { grip: grip(&one.grip)?, how, why: one.why.map(Arc::from), result })
}

pub async fn extend(State(control): State<Control>, Path(_): Path<String>, body: Body) -> Response {
    answer(extended(&control, body).await)
}

async fn extended(control: &Control, body: Body) -> Result<Response, Refused> {
    let asked: Extensions = read(body).await?;
    bounded(asked.deliveries.len())?;
    let dispatcher = dispatcher(control)?;
    let grips = |one: &ExtensionOfOne| extension(one.clone()).map(|extension| extension.grip);
    let grips = asked.deliveries.iter().map(grips).collect::<Result<Vec<Grip>, Refused>>()?;
    let told = over::extend(&control.process.gate, dispatcher, asked.deliveries).await;
    outcomes(dispatcher, &grips, &told)
}

/// How one is held longer.
///
/// # Errors
/// What is wrong with it.
pub fn extension(one: ExtensionOfOne) -> Result<Extension, Refused> {
    let progress = one.progress.map(|progress| Bytes::from(progress.to_string()));
    if progress.as_ref().is_some_and(|progress| progress.len() > PROGRESS_BYTES_MAX) {
        return bad(&format!("`progress` has at most {PROGRESS_BYTES_MAX} bytes"));
    }
    let lease = time("lease", one.lease.as_deref(), LEASE_MAX)?;
    Ok(Extension { grip: grip(&one.grip)?, lease, progress })
}

fn bounded(count: usize) -> Result<(), Refused> {
    if count > TOGETHER_MAX {
        return bad(&format!("at most {TOGETHER_MAX} deliveries are told of at once"));
    }
    Ok(())
}

fn outcomes(dispatcher: &Dispatcher, grips: &[Grip], told: &[Outcome]) -> Result<Response, Refused> {
    if !told.is_empty() && told.iter().all(|one| *one == Err(Unavailable::Elsewhere)) {
        return Err(elsewhere(dispatcher, |shard| grips.iter().any(|grip| grip.seq.shard() == shard)));
    }
    if let Some(Err(why)) = told.first().filter(|_| told.iter().all(Result::is_err)) {
        return Err(unavailable(why));
    }
    Ok(axum::Json(HeldAll { outcomes: told.iter().map(name_of).collect() }).into_response())
}
