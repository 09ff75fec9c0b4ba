//! The control API: health, metrics, status, explanations, and the few changes that an operator makes by hand.
//!
//! It has a runtime of its own: nothing asked here stalls traffic. Health and metrics need no token on loopback; a change
//! always needs one, except over the unix socket. `Host` is checked, so that a web page that the operator looks at
//! cannot talk to it (DNS rebinding).

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_model::receipt::RequestId;
use tidegate_upstream::{Admin, EndpointStatus, UpstreamStatus};
use tidegate_wire::clock;

use self::audit::{Changed, Code};
use crate::config::ControlSettings;
use crate::run::Process;
use crate::telemetry::TextFormat;
use crate::upgrade;

use self::body::BYTES_MAX as BODY_MAX;
use self::guard::guard;

mod administer;
mod audit;
mod body;
mod bound;
mod cache;
mod canaries;
mod deliveries;
mod domains;
mod door;
mod endpoints;
mod explanation;
mod faults;
mod guard;
mod logins;
mod maintenance;
mod metrics;
mod mirrors;
mod openapi;
mod pull;
mod queues;
mod report;
mod schedules;
mod shapes;
mod store;
mod told;
mod webhooks;

pub use bound::{Bound, bind};
pub use deliveries::now;
pub use explanation::in_words;
pub use faults::end_all as end_all_faults;
pub use metrics::{TenantLines, read as read_metrics};
pub use openapi::published as published_openapi;
pub use pull::{EndingOfOne, ExtensionOfOne, ending, extension};

/// Who asks, by name: of a token, or in words.
#[derive(Clone, Debug)]
struct Who(String);

#[derive(Clone)]
struct Control {
    process: Arc<Process>,
    settings: Arc<ControlSettings>,
}

fn router(control: Control) -> Router {
    endpoints::all()
        .into_iter()
        .fold(Router::new(), |router, endpoint| router.route(endpoint.path, endpoint.handler))
        .fallback(|| async {
            problem(StatusCode::NOT_FOUND, "control.not-found", "there is nothing at this path")
        })
        .method_not_allowed_fallback(|| async {
            problem(StatusCode::METHOD_NOT_ALLOWED, "control.method", "this path has another method")
        })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::map_response(in_form))
        .layer(middleware::from_fn_with_state(control.clone(), guard))
        .with_state(control)
}

/// What is wrong with a path or a query is found before anybody answers: it is told in the form of all errors.
async fn in_form(response: Response) -> Response {
    let status = response.status();
    if !status.is_client_error() || response.extensions().get::<Code>().is_some() {
        return response;
    }
    let why = axum::body::to_bytes(response.into_body(), BODY_MAX).await.unwrap_or_default();
    problem(status, "control.request", &String::from_utf8_lossy(&why))
}

/// An error as RFC 9457 has it.
fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    problem_with(status, code, detail, &[])
}

/// The same with all that is wrong, each for itself.
fn problem_with(status: StatusCode, code: &str, detail: &str, problems: &[String]) -> Response {
    let mut body = json!({
        "type": format!("urn:tidegate:{}", code.replacen('.', ":", 1)), "title": status.canonical_reason(), "status": status.as_u16(),
        "code": code, "detail": detail,
    });
    if !problems.is_empty() {
        body["problems"] = json!(problems);
    }
    let mut response = (status, body.to_string()).into_response();
    response.extensions_mut().insert(Code(code.to_owned()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
    response
}

async fn ready(State(control): State<Control>) -> Response {
    if control.process.draining.load(std::sync::atomic::Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    "ready\n".into_response()
}

async fn scrape(State(control): State<Control>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = TextFormat::of(accept);
    let text = metrics::read(&control.process).await.text(format);
    ([(header::CONTENT_TYPE, format.media_type())], text).into_response()
}

async fn openapi() -> Response {
    axum::Json(openapi::document()).into_response()
}

async fn status(State(control): State<Control>) -> Response {
    axum::Json(report::status(&control.process)).into_response()
}

async fn config(State(control): State<Control>) -> Response {
    let text = control.process.gate.config().effective.to_string();
    ([(header::CONTENT_TYPE, "application/toml")], text).into_response()
}

#[derive(Deserialize)]
struct Format {
    #[serde(default)]
    format: String,
}

async fn explain(
    State(control): State<Control>,
    Path(id): Path<String>,
    Query(Format { format }): Query<Format>,
    headers: HeaderMap,
) -> Response {
    let Some(id) = RequestId::parse(&id) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "control.request-id",
            "a request id has 32 hexadecimal digits",
        );
    };
    let Some(receipt) = control.process.gate.telemetry.find(id) else {
        return problem(
            StatusCode::NOT_FOUND,
            "control.forgotten",
            "no recent exchange has this id: only the last ones are kept",
        );
    };
    let accepts_text =
        headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/plain"));
    if format == "text" || (format.is_empty() && accepts_text) {
        return explanation::text(&receipt).into_response();
    }
    axum::Json(explanation::json(&receipt)).into_response()
}

/// The configuration was read again.
#[derive(JsonSchema, Serialize)]
struct Reloaded {
    /// It is in force on every core.
    reloaded: bool,
}

async fn reload(State(control): State<Control>) -> Response {
    match control.process.reload().await {
        Ok(()) => axum::Json(Reloaded { reloaded: true }).into_response(),
        Err(problems) => problem(StatusCode::UNPROCESSABLE_ENTITY, "control.config", &problems),
    }
}

/// Another process has taken over.
#[derive(JsonSchema, Serialize)]
struct Upgraded {
    /// Its process id.
    pid: u32,
}

async fn upgrade(State(control): State<Control>) -> Response {
    match upgrade::upgrade(&control.process).await {
        Ok(pid) => axum::Json(Upgraded { pid }).into_response(),
        Err(error) => problem(StatusCode::CONFLICT, "control.upgrade", &error.to_string()),
    }
}

/// What is to become of an endpoint.
#[derive(Deserialize, JsonSchema)]
struct EndpointChange {
    /// This.
    state: Admin,
}

async fn set_endpoint(
    State(control): State<Control>,
    Path((name, address)): Path<(String, String)>,
    body: Body,
) -> Response {
    let Ok(address) = address.parse::<SocketAddr>() else {
        return problem(StatusCode::BAD_REQUEST, "control.address", "not an address and port");
    };
    let bytes = match body::read(body, BODY_MAX).await {
        Ok(bytes) => bytes,
        Err(refused) => return *refused,
    };
    let Ok(change) = serde_json::from_slice::<EndpointChange>(&bytes) else {
        let detail = r#"the body is not {"state": "enabled"}, "draining" or "disabled""#;
        return problem(StatusCode::BAD_REQUEST, "control.body", detail);
    };
    let upstreams = &control.process.gate.standing.upstreams;
    let told = || upstreams.get(&name).map(|upstream| upstream.status(clock::now()));
    let state = |told: Option<&UpstreamStatus>| {
        let endpoint = told?.endpoints.iter().find(|endpoint| endpoint.address == address)?;
        serde_json::to_value(endpoint.admin).ok()?.as_str().map(str::to_owned)
    };
    let before = state(told().as_ref());
    if upstreams.set_endpoint(&name, address, change.state) {
        let upstream = told();
        let after = state(upstream.as_ref()).unwrap_or_default();
        let mut response = axum::Json(json!(upstream)).into_response();
        response.extensions_mut().insert(Changed { before, after });
        return response;
    }
    let detail = match upstreams.get(&name) {
        Some(_) => format!("upstream `{name}` has no endpoint {address}"),
        None => format!("there is no upstream `{name}`"),
    };
    problem(StatusCode::NOT_FOUND, "control.endpoint", &detail)
}

/// The endpoints that serve a tenant.
#[derive(JsonSchema, Serialize)]
#[schemars(deny_unknown_fields)]
struct ShardTold {
    /// Of this upstream.
    upstream: String,
    /// This tenant.
    tenant: String,
    /// Each of them.
    endpoints: Vec<EndpointStatus>,
}

async fn shard(State(control): State<Control>, Path((name, tenant)): Path<(String, String)>) -> Response {
    let found = control.process.gate.standing.upstreams.get(&name);
    match found.and_then(|upstream| upstream.shard_of(&tenant, clock::now())) {
        Some(endpoints) => axum::Json(ShardTold { upstream: name, tenant, endpoints }).into_response(),
        None => problem(
            StatusCode::NOT_FOUND,
            "control.shard",
            "there is no such upstream, or all of its endpoints serve each tenant",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_names_each_endpoint_and_each_error() {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files = std::fs::read_dir(here.join("control")).unwrap().map(|file| file.unwrap().path());
        let files = files.filter(|file| file.is_file()).chain([here.join("control.rs")]);
        let sources = files.map(|file| std::fs::read_to_string(file).unwrap());
        let page = include_str!("../../../docs/control.md");
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## `")).collect();
        for path in endpoints::all().iter().map(|endpoint| endpoint.path) {
            let told = headings.iter().any(|heading| heading.contains(&format!(" {path}`")));
            assert!(told, "docs/control.md has no `{path}`");
        }
        assert_eq!(headings.len(), endpoints::all().len(), "{headings:?}");
        let codes = |text: &str| {
            let parts = text.split(['"', '`']).filter(|part| part.starts_with("control."));
            let codes = parts
                .filter(|part| part.bytes().all(|byte| byte.is_ascii_lowercase() || b".-".contains(&byte)));
            codes.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
        };
        let known = sources.flat_map(|source| codes(source.split("#[cfg(test)]").next().unwrap()));
        assert_eq!(codes(page), known.collect());
    }
}
