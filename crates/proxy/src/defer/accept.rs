//! A request becomes a delivery.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};
use tidegate_model::delivery::{BODY_BYTES_MAX, Id};
use tidegate_model::fields::{FieldValue, Fields};
use tidegate_model::idempotency::{Key, fingerprint};
use tidegate_model::message::Response;
use tidegate_model::prefer::{PREFERENCE_APPLIED, Prefer};
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_store::deliveries::{Appended, Otherwise, Promise, Unique, Watch, Whole};
use tidegate_store::{Store, Unavailable};
use tidegate_wire::{bell, clock};

use super::{DELIVERIES_PATH, now, told};
use crate::exchange::Exchange;
use crate::fault::InItsPlace;
use crate::forward::{deadline_of, told_by};
use crate::idempotency::is_stream;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::protect::come_again;
use crate::respond;
use crate::route::Routed;
use crate::settings::DeferSettings;
use crate::settle::Content;
use crate::site::Site;
use crate::whole;

/// The first pause between two looks at a delivery that somebody waits for; it doubles up to the longest.
const LOOK_FIRST: Duration = Duration::from_millis(10);
/// The longest.
const LOOK_MAX: Duration = Duration::from_millis(500);
/// Fields of an answer that says where to look, and of what is said of each answer: there is room for them from the first on.
const SAID: usize = 8;

/// What the stages before have found out.
#[derive(Clone, Copy)]
pub struct Onward<'a> {
    /// The proxy.
    pub proxy: &'a Proxy,
    /// The site.
    pub site: &'a Site,
    /// The route.
    pub routed: &'a Routed<'a>,
    /// What the route says of it.
    pub settings: &'a DeferSettings,
}

/// Whether this request is deferred: all of them are, or its client prefers that.
#[must_use]
pub fn applies(settings: &DeferSettings, exchange: &Exchange) -> bool {
    settings.always
        || Prefer::of(&exchange.head.headers).respond_async
            && !exchange.seen.upgrade
            && !is_stream(&exchange.head.headers)
}

/// Accepts a request, and tells where to learn what becomes of it; or its answer, if that comes while its client waits.
///
/// # Errors
/// `delivery.*`, `idempotency.*`, `store.unavailable`, and what a body is refused with.
pub async fn accept(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    permitted: &Permitted,
    instead: InItsPlace,
) -> Result<Response<Content>, Refusal> {
    if let Some(instead) = instead {
        return *instead;
    }
    let Onward { proxy, site, routed, settings } = onward;
    let Some(store) = site.idempotency.store() else {
        return Err(unavailable(proxy, Unavailable::Stopped));
    };
    if exchange.seen.upgrade || is_stream(&exchange.head.headers) {
        let why = "an Upgrade or a gRPC call cannot be made later";
        return Err(Refusal::new(&refusal::DELIVERY_STREAM, why));
    }
    let key = whole::key(exchange, settings.key_required)?;
    let prefer = Prefer::of(&exchange.head.headers);
    let by = deadline_of(site, exchange, &routed.route.settings);
    let bound = (BODY_BYTES_MAX as u64, too_large);
    let (body, _held) = whole::body(proxy, exchange, routed, permitted, bound, by).await?;
    let promise = promise(onward, exchange, permitted, key, body)?;
    let appended = store.append(vec![promise], settings.room, now());
    let id = found(proxy, told_by(by, bell::hear(appended)).await?)?;
    exchange.note(Step::Deferred(id));
    let waited = match prefer.wait.filter(|wait| !wait.is_zero()) {
        Some(wait) => {
            let tenant = Arc::clone(permitted.permit().tenant().id());
            // Few wait: what that takes is no part of what each exchange holds.
            Box::pin(ended(site, &store, &tenant, id, clock::now().after(wait).min(by))).await
        }
        None => None,
    };
    let answer = waited.and_then(|whole| whole.result).filter(|result| result.whole);
    let mut response = match answer {
        // As it is where nothing is deferred.
        Some(kept) => {
            let mut response = told::result(&kept);
            respond::apply(response.headers_mut(), &routed.route.settings.response);
            response
        }
        None => accepted(id),
    };
    told::without_content_for_head(&mut response, exchange);
    if prefer.respond_async {
        response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("respond-async"));
    }
    Ok(response)
}

/// 202, with where to look.
fn accepted(id: Id) -> Response<Content> {
    let digits = id.hex();
    // Digits and letters, which JSON takes as they are.
    let body =
        [&br#"{"id":""#[..], &digits, br#"","status":""#, DELIVERIES_PATH.as_bytes(), &digits, br#""}"#]
            .concat();
    let mut response = Response::new(Content::Full(Bytes::from(body)));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    *headers = Fields::with_capacity(SAID);
    headers.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.append(LOCATION, Place(digits));
    response
}

/// Where a delivery of this id is looked for.
struct Place([u8; 32]);

impl FieldValue for Place {
    fn say(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(DELIVERIES_PATH.as_bytes());
        text.extend_from_slice(&self.0);
    }
}

/// The request as it will be made, and what is said of it.
fn promise(
    onward: Onward<'_>,
    exchange: &mut Exchange,
    permitted: &Permitted,
    key: Option<Key>,
    body: Bytes,
) -> Result<Promise, Refusal> {
    let Onward { proxy, routed, settings, .. } = onward;
    let tenant = permitted.permit().tenant();
    let created = now();
    let unique = key.map(|key| {
        let head = &exchange.head;
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        Unique {
            key: Arc::from(key.as_str()),
            until: created.saturating_add(settings.unique_for),
            otherwise: Otherwise::Keep,
            fingerprint: Some(fingerprint(&head.method, &exchange.host, target, &body)),
        }
    });
    let request = whole::request(proxy, exchange, routed, permitted, body)?;
    Ok(Promise {
        id: whole::fresh()?,
        queue: Arc::clone(&settings.queue),
        tenant: Arc::clone(tenant.id()),
        lane: None,
        priority: settings.priority,
        aging: settings.aging,
        due: None,
        expires: None,
        attempts_max: None,
        unique,
        after: Vec::new(),
        callback: None,
        request: Arc::new(request),
    })
}

/// The id that the delivery is found by.
fn found(proxy: &Proxy, appended: Result<Vec<Appended>, Unavailable>) -> Result<Id, Refusal> {
    let appended = appended.map_err(|why| unavailable(proxy, why))?;
    match appended.first() {
        Some(Appended::Accepted(id) | Appended::Already(id) | Appended::Replaced(id)) => Ok(*id),
        Some(Appended::Mismatch(_)) => {
            let why = "this Idempotency-Key was used for another request: another method, target or body";
            Err(Refusal::new(&refusal::IDEMPOTENCY_MISMATCH, why))
        }
        Some(Appended::Full) => {
            let why = "the tenant has as many deliveries waiting as it may";
            Err(come_again(Refusal::new(&refusal::DELIVERY_FULL, why), &proxy.entropy))
        }
        Some(Appended::After(_)) | None => {
            Err(Refusal::new(&refusal::SERVER_INTERNAL, "the store told nothing of the delivery"))
        }
    }
}

/// The delivery, if it ends by then.
async fn ended(site: &Site, store: &Store, tenant: &str, id: Id, by: Tick) -> Option<Whole> {
    let (mut pause, watch) = (LOOK_FIRST, store.watch(id));
    loop {
        // What is committed from here on wakes it.
        let changed = watch.as_ref().map(Watch::next);
        let glance = store.glance(Some(tenant), id).await.ok()??;
        if glance.record.state.has_ended() {
            glance.answered?;
            return store.read(Some(tenant), id).await.ok()?;
        }
        let now = clock::now();
        if now >= by || site.idempotency.is_draining() {
            return None;
        }
        let at = now.after(pause).min(by);
        match changed {
            Some(changed) => drop(clock::timeout_at(at, changed).await),
            None => clock::sleep_until(at).await,
        }
        // What another node does of it is looked for.
        pause = (pause * 2).min(LOOK_MAX);
    }
}

fn too_large() -> Refusal {
    let why = format!("a request that is made later has a body of at most {BODY_BYTES_MAX} bytes");
    Refusal::new(&refusal::DELIVERY_BODY, why)
}

/// The store cannot say.
pub fn unavailable(proxy: &Proxy, why: Unavailable) -> Refusal {
    come_again(Refusal::new(&refusal::STORE_UNAVAILABLE, why.to_string()), &proxy.entropy)
}
