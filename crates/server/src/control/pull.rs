//! `/queues/NAME/claim`, `ack`, `nack` and `extend`: the application comes for the deliveries of a queue that is pulled.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidegate_dispatch::{Claim, ClaimError, Claimed, Dispatcher, Ending, Extension, Grip, Held, How};
use tidegate_model::delivery::{PROGRESS_BYTES_MAX, shown};
use tidegate_model::fields::Fields;
use tidegate_store::Unavailable;
use tidegate_store::deliveries::Kept;

use super::Control;
use super::deliveries::{BODY_MAX, Refused, answer, refused, unavailable};
use crate::config::parse_duration;

/// Deliveries that are claimed, or told of, at once.
const TOGETHER_MAX: usize = 100;
/// The longest that is waited for a delivery.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest lease.
const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);
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
}

/// What came of deliveries that were claimed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endings {
    /// Each of them.
    pub deliveries: Vec<EndingOfOne>,
}

/// What came of one.
#[derive(Debug, Deserialize, JsonSchema)]
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
#[derive(Debug, Deserialize, JsonSchema)]
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
    /// In their order: `done`; `lost`: its lease had ended, or it was cancelled, and nothing was changed; `unknown`: the store
    /// could not be told.
    pub outcomes: Vec<&'static str>,
}

fn bad<T>(detail: &str) -> Result<T, Refused> {
    refused(StatusCode::BAD_REQUEST, "control.claim", detail)
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Refused> {
    let Ok(bytes) = axum::body::to_bytes(body, BODY_MAX).await else {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, "control.too-large", "the body is too large");
    };
    let bytes = if bytes.trim_ascii().is_empty() { Bytes::from_static(b"{}") } else { bytes };
    serde_json::from_slice(&bytes).or_else(|error| bad(&error.to_string()))
}

fn dispatcher(control: &Control) -> Result<&Arc<Dispatcher>, Refused> {
    control.process.gate.dispatcher().map_or_else(
        || refused(StatusCode::NOT_FOUND, "control.no-store", "there is no `[store]` to keep deliveries in"),
        Ok,
    )
}

fn time(key: &str, text: Option<&str>, most: Duration) -> Result<Option<Duration>, Refused> {
    match text.map(parse_duration) {
        None => Ok(None),
        Some(Ok(time)) if time <= most => Ok(Some(time)),
        Some(Ok(_)) => bad(&format!("`{key}` is at most {}", crate::config::show_duration(&most))),
        Some(Err(why)) => bad(&format!("`{key}`: {why}")),
    }
}

fn grip(text: &str) -> Result<Grip, Refused> {
    Grip::parse(text).map_or_else(|| bad(&format!("`{text}` is no `grip`")), Ok)
}

pub async fn claim(State(control): State<Control>, Path(name): Path<String>, body: Body) -> Response {
    answer(claimed(&control, &name, body).await)
}

async fn claimed(control: &Control, name: &str, body: Body) -> Result<Response, Refused> {
    let asked: NewClaim = read(body).await?;
    let claim = Claim {
        queue: Arc::from(name),
        tenants: asked.tenants.iter().map(|tenant| Arc::from(tenant.as_str())).collect(),
        most: asked.most.unwrap_or(1).clamp(1, TOGETHER_MAX),
        lease: time("lease", asked.lease.as_deref(), LEASE_MAX)?,
        wait: time("wait", asked.wait.as_deref(), WAIT_MAX)?.unwrap_or_default(),
    };
    match dispatcher(control)?.claim(claim).await {
        Ok(all) => {
            let all: Vec<Value> = all.iter().map(one).collect();
            Ok(axum::Json(json!({ "deliveries": all })).into_response())
        }
        Err(ClaimError::Queue) => {
            let detail = format!("there is no queue `{name}` that is pulled");
            refused(StatusCode::NOT_FOUND, "control.no-queue", &detail)
        }
        Err(error @ ClaimError::Busy) => {
            refused(StatusCode::SERVICE_UNAVAILABLE, "control.claims", &error.to_string())
        }
    }
}

/// A delivery for whoever makes it: credentials included, as a request to an upstream would bring them.
fn one(claimed: &Claimed) -> Value {
    let request = &claimed.request;
    let headers: Vec<[String; 2]> = request
        .fields
        .iter()
        .map(|(name, value)| {
            [name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()]
        })
        .collect();
    let mut told = json!({
        "grip": claimed.grip.to_string(),
        "id": claimed.id.to_string(),
        "tenant": &*claimed.tenant,
        "key": claimed.key.as_deref(),
        "attempt": claimed.attempt,
        "until": shown(claimed.until),
        "method": request.method.as_str(),
        "path": &*request.target,
        "headers": headers,
    });
    match std::str::from_utf8(&request.body) {
        Ok(text) => told["body"] = json!(text),
        Err(_) => told["base64"] = json!(BASE64_STANDARD.encode(&request.body)),
    }
    told
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
    let endings: Result<Vec<Ending>, Refused> =
        asked.deliveries.into_iter().map(|one| ending(one, well)).collect();
    let told = dispatcher(control)?.end(endings?).await;
    outcomes(&told)
}

fn ending(one: EndingOfOne, well: bool) -> Result<Ending, Refused> {
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
    let extensions = asked.deliveries.into_iter().map(|one| {
        let progress = one.progress.map(|progress| Bytes::from(progress.to_string()));
        if progress.as_ref().is_some_and(|progress| progress.len() > PROGRESS_BYTES_MAX) {
            return bad(&format!("`progress` has at most {PROGRESS_BYTES_MAX} bytes"));
        }
        let lease = time("lease", one.lease.as_deref(), LEASE_MAX)?;
        Ok(Extension { grip: grip(&one.grip)?, lease, progress })
    });
    let extensions: Result<Vec<Extension>, Refused> = extensions.collect();
    outcomes(&dispatcher(control)?.extend(extensions?).await)
}

fn bounded(count: usize) -> Result<(), Refused> {
    if count > TOGETHER_MAX {
        return bad(&format!("at most {TOGETHER_MAX} deliveries are told of at once"));
    }
    Ok(())
}

fn outcomes(told: &[Result<Held, Unavailable>]) -> Result<Response, Refused> {
    if let Some(Err(why)) = told.first().filter(|_| told.iter().all(Result::is_err)) {
        return Err(unavailable(why));
    }
    let outcomes = told.iter().map(|one| match one {
        Ok(Held::Done) => "done",
        Ok(Held::Lost) => "lost",
        Err(_) => "unknown",
    });
    Ok(axum::Json(HeldAll { outcomes: outcomes.collect() }).into_response())
}
