//! Receivers of webhooks that consent later: the call that they were told of (`WebHook-Request-Callback`), answered by a route of
//! Tidegate's own.
//!
//! Whoever knows the key of what was asked may consent to it, by GET or POST; `WebHook-Allowed-Rate` says how many requests a
//! minute. Who sends webhooks reads it before the next attempt: both know the store, and neither the other.
//!
//! What always holds: nobody hears that it is done before it is on disk.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method};
use tidegate_model::message::Response;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::webhook::cloudevents::allowed;
use tidegate_model::webhook::consent::{Asked, Given, KEPT_MS, KIND, PATH, is_key};
use tidegate_store::Unavailable;
use tidegate_store::documents::{Expect, Place, Room, Write, Written};

use crate::defer::accept::unavailable;
use crate::defer::now;
use crate::exchange::Exchange;
use crate::lifecycle::Proxy;
use crate::respond::No;
use crate::settle::Content;
use crate::site::Site;

/// What was asked takes no more room for being answered.
const ROOM: Room = Room { count: u64::MAX >> 1, bytes: u64::MAX >> 1 };

/// The key of what a path consents to.
///
/// # Errors
/// `route.not-found`, `route.method-not-allowed`.
pub fn key<'a>(path: &'a str, method: &Method) -> Result<&'a str, No> {
    let key = path.strip_prefix(PATH).filter(|key| is_key(key)).ok_or_else(not_asked)?;
    match *method {
        Method::GET | Method::POST => Ok(key),
        _ => Err(No {
            refusal: Refusal::new(&refusal::ROUTE_METHOD, "who consents calls by GET or POST"),
            allow: Some(HeaderValue::from_static("GET, POST")),
            page: None,
        }),
    }
}

/// Whether an exchange is such a call.
pub fn is_call(exchange: &Exchange) -> bool {
    exchange.head.uri.path().starts_with(PATH)
}

/// Notes that the receiver consents.
///
/// # Errors
/// `route.not-found`: nobody has asked; `request.malformed`: it names a rate that is none; `store.unavailable`.
pub async fn answer(proxy: &Proxy, site: &Site, exchange: &Exchange) -> Result<Response<Content>, Refusal> {
    let head = &exchange.head;
    let key = key(head.uri.path(), &head.method).map_err(|no| no.refusal)?;
    let Some(store) = site.idempotency.store() else {
        return Err(unavailable(proxy, Unavailable::Stopped));
    };
    let place = Place { kind: KIND, tenant: "".into(), name: key.into() };
    let found = store.document(place.clone()).await.map_err(|why| unavailable(proxy, why))?;
    let Some(found) = found else { return Err(not_asked()) };
    let asked: Asked = serde_json::from_slice(&found.body).map_err(|_| not_asked())?;
    let rate = allowed(&head.headers, asked.rate).ok_or_else(|| {
        Refusal::new(
            &refusal::REQUEST_MALFORMED,
            "WebHook-Allowed-Rate is a number of requests a minute, or *",
        )
    })?;
    let asked = Asked { given: Some(Given { rate }), ..asked };
    let body = serde_json::to_vec(&asked).unwrap_or_default().into();
    let until = Some(now().saturating_add(KEPT_MS));
    let put = Write::Put { place, expect: Expect::Any, at: found.at, until, body, room: ROOM };
    match store.write(vec![put]).await.map_err(|why| unavailable(proxy, why))? {
        Written::Done(_) => {}
        Written::Unexpected(..) | Written::Full(_) => return Err(unavailable(proxy, Unavailable::Full)),
    }
    let mut response = Response::new(Content::Full(Bytes::from_static(b"{\"allowed\":true}")));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn not_asked() -> Refusal {
    Refusal::new(&refusal::ROUTE_NOT_FOUND, "nobody is asked for consent by this path")
}
