//! What lies under `/_tidegate/deliveries/`: how far a delivery has come, its answer, and a way to want it no more.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tidegate_model::delivery::{Command, Id, Ms, Told, shown};
use tidegate_model::message::Response;
use tidegate_model::refusal::{self, Refusal};
use tidegate_store::Store;
use tidegate_store::deliveries::{Glance, Kept};

use super::accept::unavailable;
use super::events::Events;
use super::{DELIVERIES_PATH, now};
use crate::exchange::Exchange;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::respond::No;
use crate::settings::DeliveriesSettings;
use crate::settle::Content;
use crate::site::Site;

/// How long what was cancelled is kept, where its queue is not configured any more.
const CANCELLED_FOR: Ms = 86_400_000;

/// What is asked of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// How far it has come.
    Status,
    /// Its answer.
    Result,
    /// That it is not made.
    Cancel,
}

/// Answers.
///
/// # Errors
/// `delivery.*`, `store.unavailable`.
pub async fn answer(
    proxy: &Proxy,
    site: &Site,
    exchange: &Exchange,
    permitted: &Permitted,
    settings: &DeliveriesSettings,
) -> Result<Response<Content>, Refusal> {
    let asked = asked(exchange.head.uri.path(), &exchange.head.method);
    let (id, asked) = asked.map_err(|no| no.refusal)?;
    let Some(store) = site.idempotency.store() else {
        return Err(unavailable(proxy, tidegate_store::Unavailable::Stopped));
    };
    let tenant = Arc::clone(permitted.permit().tenant().id());
    let find = || async {
        let found = store.glance(Some(&tenant), id).await.map_err(|why| unavailable(proxy, why))?;
        found.ok_or_else(not_found)
    };
    let mut response = match asked {
        Asked::Status => {
            let glance = find().await?;
            if wants_events(exchange) {
                return stream(proxy, site, &store, tenant, &glance);
            }
            status(&glance)
        }
        Asked::Result => {
            let glance = find().await?;
            let whole = match glance.answered {
                Some(_) => store.read(Some(&tenant), id).await.map_err(|why| unavailable(proxy, why))?,
                None => None,
            };
            match whole.and_then(|whole| whole.result) {
                _ if !glance.record.state.has_ended() => {
                    let why = format!("the delivery is {}", glance.record.state.name());
                    let refusal = Refusal::new(&refusal::DELIVERY_PENDING, why);
                    return Err(crate::protect::come_again(refusal, &proxy.entropy));
                }
                Some(kept) if kept.whole => result(&kept),
                _ => {
                    let why = "no answer is kept of it, or not all of it";
                    return Err(Refusal::new(&refusal::DELIVERY_NO_RESULT, why));
                }
            }
        }
        Asked::Cancel => {
            let queue = find().await?.record.queue;
            let kept = settings.cancelled_for.get(&queue).copied().unwrap_or(CANCELLED_FOR);
            let forgotten = now().saturating_add(kept);
            let told = store.change(Some(&tenant), id, Command::Cancel { forgotten }, now()).await;
            match told.map_err(|why| unavailable(proxy, why))? {
                None | Some(Told::Gone) => return Err(not_found()),
                Some(Told::Not(state)) => {
                    let why = format!("the delivery is {}: nothing is left to cancel", state.name());
                    return Err(Refusal::new(&refusal::DELIVERY_ENDED, why));
                }
                Some(Told::Done | Told::Started(_)) => status(&find().await?),
            }
        }
    };
    without_content_for_head(&mut response, exchange);
    Ok(response)
}

/// An answer to HEAD is the head alone.
pub fn without_content_for_head(response: &mut Response<Content>, exchange: &Exchange) {
    if exchange.open.receipt().method == Method::HEAD {
        *response.body_mut() = Content::Empty;
    }
}

/// The delivery that a path names, and what is asked of it.
///
/// # Errors
/// `delivery.not-found`, `route.method-not-allowed`.
pub fn asked(path: &str, method: &Method) -> Result<(Id, Asked), No> {
    let rest = path.strip_prefix(DELIVERIES_PATH).unwrap_or_default();
    let (id, is_result) = match rest.strip_suffix("/result") {
        Some(id) => (id, true),
        None => (rest, false),
    };
    let id = Id::parse(id).ok_or_else(not_found)?;
    match (method, is_result) {
        (&Method::GET | &Method::HEAD, true) => Ok((id, Asked::Result)),
        (&Method::GET | &Method::HEAD, false) => Ok((id, Asked::Status)),
        (&Method::DELETE, false) => Ok((id, Asked::Cancel)),
        _ => Err(No {
            refusal: Refusal::new(&refusal::ROUTE_METHOD, "a delivery is looked at, or cancelled"),
            allow: Some(HeaderValue::from_static(if is_result { "GET, HEAD" } else { "GET, HEAD, DELETE" })),
            page: None,
        }),
    }
}

fn wants_events(exchange: &Exchange) -> bool {
    exchange.head.method == Method::GET
        && exchange.head.headers.get_all(ACCEPT).iter().any(|value| {
            value.as_bytes().split(|byte| *byte == b',').any(|one| {
                let kind = one.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
                kind.eq_ignore_ascii_case(b"text/event-stream")
            })
        })
}

/// The delivery as it goes on.
fn stream(
    proxy: &Proxy,
    site: &Site,
    store: &Arc<Store>,
    tenant: Arc<str>,
    glance: &Glance,
) -> Result<Response<Content>, Refusal> {
    let events = Events::of(&site.idempotency, store, tenant, glance).ok_or_else(|| {
        let why = "as many deliveries are followed as may be";
        crate::protect::come_again(Refusal::new(&refusal::DELIVERY_FOLLOWERS, why), &proxy.entropy)
    })?;
    let mut response = Response::new(Content::Events(Box::new(events)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// How far it has come.
fn status(glance: &Glance) -> Response<Content> {
    let mut response = Response::new(Content::Full(Bytes::from(told(glance).to_string())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !glance.record.state.has_ended() {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What its tenant is told of it.
pub(super) fn told(glance: &Glance) -> Value {
    let record = &glance.record;
    let place = format!("{DELIVERIES_PATH}{}", record.id);
    let progress = record.progress.as_ref().and_then(|told| serde_json::from_slice::<Value>(told).ok());
    json!({
        "id": record.id.to_string(),
        "state": record.state.name(),
        "queue": &*record.queue,
        "created": shown(record.created),
        "due": shown(record.due),
        "expires": record.expires.map(shown),
        "attempts": record.attempts,
        "progress": progress,
        "why": record.why.as_deref(),
        "result_status": glance.answered,
        "result": glance.answered.map(|_| format!("{place}/result")),
    })
}

/// The answer that was kept, as it was.
pub fn result(kept: &Kept) -> Response<Content> {
    let content = if kept.body.is_empty() { Content::Empty } else { Content::Full(kept.body.clone()) };
    let mut response = Response::new(content);
    *response.status_mut() = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    *response.headers_mut() = kept.fields.clone();
    response
}

/// There is no such delivery, or none of this tenant's.
pub fn not_found() -> Refusal {
    Refusal::new(&refusal::DELIVERY_NOT_FOUND, "there is no such delivery")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    /// What is asked for; or the refusal's code.
    fn check(method: &str, rest: &str, expected: Result<Asked, &str>) {
        let path = format!("{DELIVERIES_PATH}{rest}");
        let found = asked(&path, &method.parse().unwrap());
        let found = found.map(|(_, asked)| asked).map_err(|no| no.refusal.kind.code);
        assert_eq!(found, expected, "{method} {rest}");
    }

    #[test]
    fn a_path_names_a_delivery_and_a_method_what_is_asked_of_it() {
        check("GET", ID, Ok(Asked::Status));
        check("HEAD", &format!("{ID}/result"), Ok(Asked::Result));
        check("DELETE", ID, Ok(Asked::Cancel));
        check("DELETE", &format!("{ID}/result"), Err("route.method-not-allowed"));
        check("POST", ID, Err("route.method-not-allowed"));
        for rest in ["", "x", "result", &format!("{ID}/"), &format!("{ID}/x"), &ID.to_uppercase()] {
            check("GET", rest, Err("delivery.not-found"));
        }
    }
}
