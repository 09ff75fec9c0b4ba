//! `/tenants/{tenant}/domains…`: the hosts that tenants have of their own; and `/certificates`: how it stands with those that
//! are ordered.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::tenant::{is_id, is_reserved};
use tidegate_proxy::domains::{Changed, Domains};
use tidegate_store::Unavailable;

use super::deliveries::store_of;
use super::{Control, problem};
use crate::acme::Told;
use crate::config::domain;
use crate::telemetry::rfc3339;

/// Entries of a page, where nothing else is said, and at most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;

/// Which part of a listing.
#[derive(Deserialize)]
pub struct Part {
    cursor: Option<String>,
    limit: Option<usize>,
}

type Refused = Box<Response>;
/// The domains, and a tenant and a host that were named.
type Named = (Arc<Domains>, Arc<str>, Arc<str>);

fn answered(done: Result<Response, Refused>) -> Response {
    done.unwrap_or_else(|response| *response)
}

fn invalid(why: &str) -> Refused {
    Box::new(problem(StatusCode::UNPROCESSABLE_ENTITY, "control.domain", why))
}

fn unavailable(error: Unavailable) -> Refused {
    Box::new(problem(StatusCode::SERVICE_UNAVAILABLE, "control.store-unavailable", &error.to_string()))
}

fn missing() -> Refused {
    Box::new(problem(StatusCode::NOT_FOUND, "control.no-domain", "the tenant has no such host"))
}

/// The domains, a tenant's id and a host, if they can be ones.
fn named(control: &Control, tenant: &str, host: &str) -> Result<Named, Refused> {
    store_of(control)?;
    if !is_id(tenant) || is_reserved(tenant) {
        return Err(invalid("that is no tenant's id"));
    }
    let host = domain(host).map_err(|why| invalid(&why))?;
    Ok((Arc::clone(&control.process.gate.standing.domains), tenant.into(), host))
}

/// The version that a change is for.
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let version = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')?.parse().ok());
    version.map(Some).ok_or_else(changed)
}

fn changed() -> Refused {
    let why = "it is another by now than If-Match says";
    Box::new(problem(StatusCode::PRECONDITION_FAILED, "control.domain-changed", why))
}

fn told(host: &str, version: u64, registered: Option<u64>) -> Response {
    let mut response = axum::Json(one(host, registered)).into_response();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A host; one of the file has no time at which it was registered.
fn one(host: &str, registered: Option<u64>) -> Value {
    json!({ "domain": host, "registered": registered, "from": if registered.is_some() { "api" } else { "file" } })
}

pub async fn list(
    State(control): State<Control>,
    Path(tenant): Path<String>,
    Query(part): Query<Part>,
) -> Response {
    let list = async {
        store_of(&control)?;
        let domains = &control.process.gate.standing.domains;
        let tenant: Arc<str> = tenant.into();
        let cursor = part.cursor.filter(|cursor| !cursor.is_empty());
        let after = cursor.as_ref().map(|cursor| {
            let read = cursor.split_once('-').and_then(|(at, name)| Some((at.parse().ok()?, name.into())));
            read.ok_or_else(|| invalid("the cursor is none that a page has told"))
        });
        let most = part.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
        let (found, next) = domains.page(&tenant, after.transpose()?, most).await.map_err(unavailable)?;
        let mut items = Vec::new();
        if cursor.is_none() {
            items.extend(domains.listed_of(&tenant).iter().map(|host| one(host, None)));
        }
        items.extend(found.iter().map(|found| one(&found.name, Some(found.at))));
        let next = next.map(|(at, name)| format!("{at}-{name}"));
        Ok(axum::Json(json!({ "items": items, "next": next })).into_response())
    };
    answered(list.await)
}

pub async fn show(State(control): State<Control>, Path((tenant, host)): Path<(String, String)>) -> Response {
    let look = async {
        let (domains, tenant, host) = named(&control, &tenant, &host)?;
        if domains.listed(&host).is_some_and(|owner| owner == tenant) {
            return Ok(axum::Json(one(&host, None)).into_response());
        }
        let found = domains.find(&tenant, &host).await.map_err(unavailable)?.ok_or_else(missing)?;
        Ok(told(&host, found.version, Some(found.at)))
    };
    answered(look.await)
}

pub async fn put(State(control): State<Control>, Path((tenant, host)): Path<(String, String)>) -> Response {
    let register = async {
        let (domains, tenant, host) = named(&control, &tenant, &host)?;
        match domains.register(&tenant, &host).await.map_err(unavailable)? {
            Changed::Done(_) => {}
            Changed::Full => {
                let why = "the tenant has as many hosts as it may";
                return Err(Box::new(problem(StatusCode::TOO_MANY_REQUESTS, "control.domains-full", why)));
            }
            Changed::Taken | Changed::Unexpected(_) => {
                let why = "this host is another tenant's, or the configuration file's";
                return Err(Box::new(problem(StatusCode::CONFLICT, "control.domain-taken", why)));
            }
        }
        control.process.gate.acme.forget(&host);
        let found = domains.find(&tenant, &host).await.map_err(unavailable)?.ok_or_else(missing)?;
        Ok(told(&host, found.version, Some(found.at)))
    };
    answered(register.await)
}

pub async fn remove(
    State(control): State<Control>,
    Path((tenant, host)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let go = async {
        let (domains, tenant, host) = named(&control, &tenant, &host)?;
        let version = expected(&headers)?;
        match domains.remove(&tenant, &host, version).await.map_err(unavailable)? {
            Changed::Done(_) => {}
            Changed::Unexpected(Some(_)) => return Err(changed()),
            Changed::Unexpected(None) | Changed::Taken | Changed::Full => return Err(missing()),
        }
        control.process.gate.acme.discard(&host).await.map_err(unavailable)?;
        Ok(axum::Json(json!({ "deleted": &*host })).into_response())
    };
    answered(go.await)
}

pub async fn certificates(State(control): State<Control>) -> Response {
    let acme = &control.process.gate.acme;
    let certificates: Vec<Value> = acme.told().iter().map(certificate).collect();
    axum::Json(json!({ "in_memory": acme.held(), "certificates": certificates })).into_response()
}

/// How it stands with a configured name.
pub fn certificate(told: &Told) -> Value {
    let at = |seconds: u64| (seconds > 0).then(|| format!("{}Z", rfc3339(seconds)));
    let record = &told.record;
    json!({
        "name": &*told.name,
        "not_before": at(record.not_before),
        "not_after": at(record.not_after),
        "renewal": at(record.renew),
        "next_look": at(told.next / 1000),
        "failures": record.failures,
        "error": record.error.as_ref().map(|(_, why)| why),
        "failed_at": record.error.as_ref().and_then(|(when, _)| at(*when)),
    })
}
