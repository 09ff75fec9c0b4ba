//! Incoming webhooks: a request that another's server sends is verified, kept, and answered; the application gets it by a
//! queue, later and for certain.
//!
//! The sender is answered once it is on disk and before the application has seen it: senders wait for seconds only, and
//! count who is slow as failed. What a sender repeats is known by its id and kept once.
//!
//! What always holds: nothing is kept that is not signed by a known key, nor answered well that is not kept. What is wrong
//! with a signature is told in one word, whatever it is: who tries keys learns nothing.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tidegate_model::delivery::{Ms, Request};
use tidegate_model::gate::Priority;
use tidegate_model::message::Response;
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::webhook::incoming::{Genuine, Source};
use tidegate_model::webhook::signing::Unverified;
use tidegate_store::Unavailable;
use tidegate_store::deliveries::{Appended, Otherwise, Promise, Room, Unique};
use tidegate_wire::{bell, clock};

use crate::exchange::Exchange;
use crate::forward::{deadline_of, told_by};
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::protect::come_again;
use crate::route::Routed;
use crate::settle::Content;
use crate::site::Site;
use crate::whole;

/// What the application is told that a delivery is known by.
const TIDEGATE_WEBHOOK_ID: HeaderName = HeaderName::from_static("tidegate-webhook-id");

/// How a route takes webhooks.
#[derive(Clone, Debug)]
pub struct IncomingSettings {
    /// Who sends them.
    pub source: Source,
    /// The queue that they are put into.
    pub queue: Arc<str>,
    /// The path of the request to the application; `None`: that which it came by.
    pub path: Option<Arc<str>>,
    /// How long a repeat is known.
    pub remember: Ms,
    /// Bytes of one.
    pub body_bytes_max: u64,
    /// Who of a tenant's goes first.
    pub priority: Priority,
    /// How much earlier one counts as due for each step of its priority.
    pub aging: Ms,
    /// What a tenant may have waiting.
    pub room: Room,
}

/// Takes a webhook.
///
/// # Errors
/// `webhook.signature`, `webhook.timestamp`, `webhook.backlog`, `store.unavailable`, and what is wrong with its body.
pub async fn take(
    proxy: &Proxy,
    site: &Site,
    exchange: &mut Exchange,
    routed: &Routed<'_>,
    permitted: &Permitted,
    settings: &IncomingSettings,
) -> Result<Response<Content>, Refusal> {
    if exchange.head.method != Method::POST {
        return Err(Refusal::new(&refusal::ROUTE_METHOD, "webhooks are sent by POST"));
    }
    let Some(store) = site.idempotency.store() else {
        return Err(unavailable(proxy, Unavailable::Stopped));
    };
    let by = deadline_of(site, exchange, &routed.route.settings);
    let most = settings.body_bytes_max;
    let bound = (most, || too_large(most));
    let (content, _held) = whole::body(proxy, exchange, routed, permitted, bound, by).await?;
    let now = now_ms();
    let genuine = settings.source.verify(&exchange.head.headers, &content, now / 1000).map_err(unverified)?;
    if let Some(challenge) = genuine.challenge {
        return Ok(answer("text/plain; charset=utf-8", challenge));
    }
    let mut request = whole::request(proxy, exchange, routed, permitted, content)?;
    if let Ok(id) = HeaderValue::try_from(&genuine.id) {
        request.fields.insert(&TIDEGATE_WEBHOOK_ID, id);
    }
    if let Some(path) = &settings.path {
        request.target = Arc::clone(path);
    }
    let tenant = permitted.permit().tenant().id();
    let promise = promise(&routed.route.settings.name, settings, tenant, &genuine, request, now)?;
    let appended = told_by(by, bell::hear(store.append(vec![promise], settings.room, now))).await?;
    match appended.map_err(|why| unavailable(proxy, why))?.first() {
        Some(Appended::Accepted(id) | Appended::Replaced(id)) => {
            exchange.note(Step::Deferred(*id));
            Ok(accepted(&genuine.id, false))
        }
        Some(Appended::Already(_) | Appended::Mismatch(_)) => Ok(accepted(&genuine.id, true)),
        Some(Appended::Full | Appended::After(_)) | None => {
            let why = "as many webhooks wait for the application as may";
            Err(come_again(Refusal::new(&refusal::WEBHOOK_BACKLOG, why), &proxy.entropy))
        }
    }
}

fn promise(
    route: &str,
    settings: &IncomingSettings,
    tenant: &Arc<str>,
    genuine: &Genuine,
    request: Request,
    now: Ms,
) -> Result<Promise, Refusal> {
    let key = format!("incoming:{route}:{}", genuine.id);
    Ok(Promise {
        id: whole::fresh()?,
        queue: Arc::clone(&settings.queue),
        tenant: Arc::clone(tenant),
        lane: None,
        priority: settings.priority,
        aging: settings.aging,
        due: None,
        expires: None,
        attempts_max: None,
        unique: Some(Unique {
            key: within(key),
            until: now.saturating_add(settings.remember),
            otherwise: Otherwise::Keep,
            fingerprint: None,
        }),
        after: Vec::new(),
        callback: None,
        request: Arc::new(request),
    })
}

/// A key of a length that may be.
fn within(key: String) -> Arc<str> {
    if key.len() <= tidegate_model::delivery::KEY_BYTES_MAX {
        return key.into();
    }
    let digest = tidegate_model::idempotency::digest([key.as_bytes()]);
    digest.iter().fold("incoming:".to_owned(), |text, byte| text + &format!("{byte:02x}")).into()
}

fn accepted(id: &str, repeated: bool) -> Response<Content> {
    answer(
        "application/json",
        serde_json::json!({ "accepted": true, "id": id, "repeated": repeated }).to_string(),
    )
}

fn answer(kind: &'static str, said: String) -> Response<Content> {
    let mut response = Response::new(Content::Full(said.into()));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(&CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn unverified(why: Unverified) -> Refusal {
    match why {
        Unverified::Old | Unverified::Early => Refusal::new(
            &refusal::WEBHOOK_TIMESTAMP,
            "the request was signed too long ago, or by a wrong clock",
        ),
        Unverified::Missing(_) | Unverified::Malformed(_) | Unverified::Forged => {
            Refusal::new(&refusal::WEBHOOK_SIGNATURE, "the request is not signed by a known key")
        }
    }
}

fn too_large(most: u64) -> Refusal {
    Refusal::new(&refusal::REQUEST_BODY_TOO_LARGE, format!("a webhook has at most {most} bytes here"))
}

fn unavailable(proxy: &Proxy, why: Unavailable) -> Refusal {
    come_again(Refusal::new(&refusal::STORE_UNAVAILABLE, why.to_string()), &proxy.entropy)
}

fn now_ms() -> Ms {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
