//! A request that is taken in whole before anything is done for it: because its content is part of what tells it from another, or
//! because it is made later.
//!
//! What always holds: a body is counted, and bounded, before it is read; what is kept of a request for later is what would have
//! been forwarded now, without what belongs to the client's connection alone.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_model::delivery::{Id, Request};
use tidegate_model::fields::Name;
use tidegate_model::idempotency::Key;
use tidegate_model::method::is_safe;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_store::deliveries::fresh_id;

use crate::exchange::Exchange;
use crate::forward;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::protect::Held;
use crate::request_body::{self, Fault, Read};
use crate::route::Routed;

/// Whether a field is kept. What is not: what frames the body that has come, what was wanted of us, and the tenant, which each attempt
/// says anew.
fn is_kept(name: Name<'_>) -> bool {
    !matches!(name.as_bytes(), b"content-length" | b"expect" | b"trailer" | b"prefer" | b"tidegate-tenant")
}

/// The `Idempotency-Key` of a request; `None`: it needs none.
///
/// # Errors
/// `idempotency.key-invalid`; `idempotency.key-missing`: one is required of it.
pub fn key(exchange: &Exchange, required: bool) -> Result<Option<Key>, Refusal> {
    let head = &exchange.head;
    if is_safe(&head.method) {
        return Ok(None);
    }
    let key = Key::of(&head.headers)
        .map_err(|malformed| Refusal::new(&refusal::IDEMPOTENCY_KEY_INVALID, malformed.to_string()))?;
    if key.is_none() && required && !head.method.is_idempotent() {
        let why = "this route wants an Idempotency-Key with such a request";
        return Err(Refusal::new(&refusal::IDEMPOTENCY_KEY_MISSING, why));
    }
    Ok(key)
}

/// Reads a request's body whole. It is `too_large` where it has more than `most` bytes. What it takes of memory is held as long as
/// what is returned with it.
///
/// # Errors
/// What a body is refused with.
pub async fn body(
    proxy: &Proxy,
    exchange: &mut Exchange,
    routed: &Routed<'_>,
    permitted: &Permitted,
    (most, too_large): (u64, impl Fn() -> Refusal),
    by: Tick,
) -> Result<(Bytes, Option<Held>), Refusal> {
    let route = &routed.route.settings;
    let length = exchange.announced();
    if length.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let (tenant, bytes) = (permitted.permit().tenant(), length.unwrap_or(most));
    let held = proxy.guard.hold(tenant, route.priority, bytes, &proxy.entropy)?;
    let upload: Fault = Rc::default();
    let mut body = forward::body(proxy, exchange, route, permitted, &upload)?;
    let late = "the deadline came before the request's body had come whole";
    match request_body::read(&mut body, &upload, most, by, late).await? {
        Read::Whole(content) => Ok((content, held)),
        Read::Longer(_) => Err(too_large()),
    }
}

/// The request as it will be made, with this content.
///
/// # Errors
/// It cannot be made.
pub fn request(
    proxy: &Proxy,
    exchange: &mut Exchange,
    routed: &Routed<'_>,
    permitted: &Permitted,
    body: Bytes,
) -> Result<Request, Refusal> {
    let (mut own, mut head) = forward::said(proxy, exchange, routed, permitted)?;
    if let Some(said) = &mut own.said
        && let Some(spans) = &said.spans
    {
        // The attempts are below the promise, which is a span of its own.
        said.trace = spans.traceparent(spans.of_promise());
    }
    own.put(&mut head.headers);
    head.headers.retain(|name, _| is_kept(name));
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    Ok(Request { method: head.method, target: Arc::from(target), fields: head.headers, body })
}

/// An id that nobody can guess: the system's chance, not ours.
///
/// # Errors
/// The system has none to give.
pub fn fresh() -> Result<Id, Refusal> {
    fresh_id().ok_or_else(|| Refusal::new(&refusal::SERVER_INTERNAL, "the system has no chance to give"))
}
