//! Https by itself: what stands before the routes where Tidegate gets certificates for hosts.
//!
//! A certificate authority that asks whether a host is ours (HTTP-01, RFC 8555 section 8.3) is answered by any node: what
//! it wants to see is in the store. Whoever asks for a host that has a certificate, and not by https, is sent there (308: the
//! method stays); and browsers are told to come by https (HSTS, RFC 6797).

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, STRICT_TRANSPORT_SECURITY};
use http::{HeaderValue, Method, StatusCode};
use tidegate_model::forwarded::X_FORWARDED_PROTO;
use tidegate_model::message::Response;
use tidegate_store::documents::Place;
use tidegate_wire::clock;
use tokio::sync::Semaphore;

use crate::exchange::Exchange;
use crate::settle::Content;
use crate::site::Site;

/// Where a certificate authority asks.
const CHALLENGES: &str = "/.well-known/acme-challenge/";
/// The port that a URL need not name.
const HTTPS: u16 = 443;
/// The longest token.
const TOKEN_BYTES_MAX: usize = 256;
/// Tokens that are looked for in the store at once; a further one waits.
const LOOKS_MAX: usize = 16;
/// What the answers to certificate authorities are in the store, by token.
pub const CHALLENGE: &str = "acme-challenge";

/// How hosts with certificates of Tidegate's own are spoken to.
#[derive(Clone, Debug, Default)]
pub struct SecureSettings {
    /// To which port whoever does not come by https is sent.
    pub redirect: Option<u16>,
    /// What browsers are told.
    pub hsts: Option<HeaderValue>,
    /// Whether hosts of tenants get certificates, too.
    pub tenants: bool,
}

/// What is known of certificates of Tidegate's own.
pub struct Secured {
    ready: ArcSwap<HashSet<Arc<str>>>,
    looks: Semaphore,
}

impl Default for Secured {
    fn default() -> Secured {
        Secured { ready: ArcSwap::default(), looks: Semaphore::new(LOOKS_MAX) }
    }
}

impl Secured {
    /// These of the configured hosts have a certificate now.
    pub fn ready(&self, hosts: HashSet<Arc<str>>) {
        self.ready.store(Arc::new(hosts));
    }

    /// Whether a host has a certificate, or gets one when it is asked for.
    pub(crate) fn is_secured(&self, site: &Site, settings: &SecureSettings, host: &str) -> bool {
        let owned = || matches!(site.domains.known(host, clock::latest()), Some(Some(_)));
        self.ready.load().contains(host) || (settings.tenants && owned())
    }

    /// What a certificate authority wants to see, if this is a token of ours.
    async fn challenge(&self, site: &Site, token: &str) -> Option<Bytes> {
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !token.bytes().all(letters) {
            return None;
        }
        let store = site.idempotency.store()?;
        let _turn = self.looks.acquire().await.ok()?;
        let place = Place { kind: CHALLENGE, tenant: "".into(), name: token.into() };
        store.document(place).await.ok()?.map(|found| found.body)
    }
}

/// What is answered before any route is looked for; `None`: nothing is.
pub async fn answer(
    site: &Site,
    settings: &SecureSettings,
    exchange: &Exchange,
) -> Option<Response<Content>> {
    let head = &exchange.head;
    let is_head = head.method == Method::HEAD;
    if let Some(token) = head.uri.path().strip_prefix(CHALLENGES) {
        if head.method != Method::GET && !is_head {
            return None;
        }
        let told = site.secured.challenge(site, token).await?;
        let mut response = Response::new(if is_head { Content::Empty } else { Content::Full(told) });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Some(response);
    }
    let port = settings.redirect?;
    if came_by_https(exchange) {
        return None;
    }
    if settings.tenants && site.domains.known(&exchange.host, exchange.started).is_none() {
        // What it comes to is known then.
        let _ = site.domains.owner(&exchange.host).await;
    }
    if !site.secured.is_secured(site, settings, &exchange.host) {
        return None;
    }
    // `OPTIONS *` has none: behind a host its star would be part of a name.
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path } else { "/" };
    let host = &exchange.host;
    let target =
        if port == HTTPS { format!("https://{host}{path}") } else { format!("https://{host}:{port}{path}") };
    let target = HeaderValue::try_from(target).ok()?;
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, target);
    Some(response)
}

/// What a browser is told with the answer to this exchange.
#[must_use]
pub fn hsts(site: &Site, settings: &SecureSettings, exchange: &Exchange) -> Option<HeaderValue> {
    let told = settings.hsts.as_ref()?;
    // By http it says nothing (RFC 6797 section 7.2): anybody could have written it.
    (came_by_https(exchange) && site.secured.is_secured(site, settings, &exchange.host)).then(|| told.clone())
}

/// Tells it, where the application has not said something of its own.
pub fn tell<T>(response: &mut Response<T>, hsts: HeaderValue) {
    if !response.headers().contains_key(STRICT_TRANSPORT_SECURITY) {
        response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts);
    }
}

/// Whether the client came by https: to here, or to a proxy that is trusted.
pub(crate) fn came_by_https(exchange: &Exchange) -> bool {
    let told =
        || exchange.head.headers.get(&X_FORWARDED_PROTO).is_some_and(|scheme| scheme.as_bytes() == b"https");
    exchange.connection.tls || (exchange.trusted && told())
}
