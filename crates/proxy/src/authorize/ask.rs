//! Asks an authorizer: a request of our own to an upstream, with what it may know of the client's.
//!
//! It is a `GET` without content, through the upstream's gate, breaker and pools, within the exchange's deadline. What came of it
//! is told by `/explain`; it is no try of the exchange's own.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderName, HeaderValue, Method, Uri};
use http_body::Body as _;
use tidegate_model::access::authorize::{Question, Verdict, Word, chosen, lifetime};
use tidegate_model::access::take_out;
use tidegate_model::cache::key::steers;
use tidegate_model::credential::Digest;
use tidegate_model::fields::{Fields, Value};
use tidegate_model::forwarded::{X_FORWARDED_HOST, X_FORWARDED_PROTO};
use tidegate_model::message::{Request, Response};
use tidegate_model::own::{OwnFields, Said};
use tidegate_model::receipt::{Receipt, Step};
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_upstream::settings::RetrySettings;
use tidegate_upstream::{AnswerBody, Terms, Upstream};
use tidegate_wire::body::Body;
use tidegate_wire::client::Hearing;
use tidegate_wire::clock;

use super::verdicts::{Flight, Outcome};
use crate::access::settings::AuthorizeSettings;
use crate::admit::known;
use crate::cache::intake::take_ours;
use crate::exchange::Exchange;
use crate::forward::deadline_of;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::route::Routed;
use crate::settle::Content;
use crate::site::Site;
use crate::trace;

/// The most bytes of what an authorizer tells a client.
const BODY_BYTES_MAX: usize = 64 * 1024;
const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// To ask twice does no harm.
static RETRY: RetrySettings = RetrySettings {
    tries: 2,
    try_timeout: None,
    statuses: Vec::new(),
    backoff: Duration::from_millis(10),
    backoff_max: Duration::from_millis(100),
    idempotent: true,
    body_bytes: 0,
    hedge: None,
};

/// A route's authorizer.
pub struct Authorizer {
    settings: Arc<AuthorizeSettings>,
    upstream: Arc<Upstream>,
    /// Of the settings and the route: another authorizer is asked anew.
    digest: [u8; 32],
    /// Its last answer may be told to others: then one asks for all who ask the same at once.
    shared: AtomicBool,
}

impl Authorizer {
    /// The authorizer of the route of this name.
    #[must_use]
    pub fn new(settings: &Arc<AuthorizeSettings>, route: &str, upstream: Arc<Upstream>) -> Authorizer {
        let digest = Digest::of(format!("{route}\n{settings:?}").as_bytes()).0;
        Authorizer { settings: Arc::clone(settings), upstream, digest, shared: AtomicBool::new(true) }
    }
}

/// What asking needs of the exchange's surroundings.
#[derive(Clone, Copy)]
struct Around<'a> {
    proxy: &'a Proxy,
    site: &'a Site,
    routed: &'a Routed<'a>,
    permitted: &'a Permitted,
    authorizer: &'a Authorizer,
    by: Tick,
}

/// Asks the route's authorizer. `None`: the request may go on, with what the authorizer has said beside it. Else what its
/// client is told.
///
/// # Errors
/// `authorize.unavailable`: it failed, and the operator does not let requests pass then.
pub async fn ask(
    proxy: &Proxy,
    site: &Site,
    exchange: &mut Exchange,
    routed: &Routed<'_>,
    permitted: &Permitted,
    authorizer: &Authorizer,
) -> Result<Option<Response<Content>>, Refusal> {
    let settings = &authorizer.settings;
    let now = clock::now();
    let by = deadline_of(site, exchange, &routed.route.settings).min(now.after(settings.timeout));
    let around = Around { proxy, site, routed, permitted, authorizer, by };
    let told = chosen(&exchange.head.headers, &settings.headers);
    let key = key_of(around, exchange, &told);
    let found = answer(around, exchange, key, told).await;
    let (outcome, because) = match &found {
        Ok((_, true)) => (Outcome::Remembered, ""),
        Ok((verdict, false)) => match **verdict {
            Verdict::Allowed { .. } => (Outcome::Allowed, ""),
            Verdict::Denied { .. } => (Outcome::Denied, ""),
        },
        Err(why) if settings.open => (Outcome::Open, *why),
        Err(why) => (Outcome::Failed, *why),
    };
    site.verdicts.count(outcome);
    exchange.note(Step::Authorized { outcome: outcome.name(), because });
    // What only the authorizer may say is never believed of a client.
    take_out(&mut exchange.head.headers, &settings.to_upstream);
    match found {
        Ok((verdict, _)) => Ok(pass(exchange, &verdict)),
        Err(_) if settings.open => Ok(None),
        Err(_) => {
            let why = "whether this request may be made could not be found out";
            Err(Refusal::new(&refusal::AUTHORIZE_UNAVAILABLE, why).retry_after(Duration::from_secs(1)))
        }
    }
}

/// Lets the exchange pass, with what is said beside it; or what its client is told.
fn pass(exchange: &mut Exchange, verdict: &Verdict) -> Option<Response<Content>> {
    match verdict {
        Verdict::Allowed { upstream, client } => {
            exchange.seen.steering |= upstream.keys().any(|name| steers(name.as_str()));
            exchange.head.headers.extend(upstream);
            if let Some(dress) = &mut exchange.dress {
                dress.add.extend(client);
            }
            None
        }
        Verdict::Denied { status, fields, body } => {
            let empty = exchange.head.method == Method::HEAD || body.is_empty();
            let mut response =
                Response::new(if empty { Content::Empty } else { Content::Full(body.clone()) });
            *response.status_mut() = *status;
            *response.headers_mut() = fields.clone();
            Some(response)
        }
    }
}

fn key_of(around: Around<'_>, exchange: &Exchange, told: &Fields) -> [u8; 32] {
    let (parts, uri) = (around.authorizer.settings.key, &exchange.head.uri);
    Question {
        settings: &around.authorizer.digest,
        tenant: around.permitted.permit().tenant().id(),
        method: parts.method.then_some(exchange.head.method.as_str()),
        host: parts.host.then_some(&*exchange.host),
        path: parts.path.then_some(uri.path()),
        query: uri.query().filter(|_| parts.query),
        client: parts.client.then_some(exchange.client),
    }
    .key(told)
}

/// What the authorizer says, and whether it has said so before; or why it says nothing.
async fn answer(
    around: Around<'_>,
    exchange: &Exchange,
    key: [u8; 32],
    told: Fields,
) -> Result<(Arc<Verdict>, bool), &'static str> {
    let (site, authorizer) = (around.site, around.authorizer);
    if authorizer.settings.cache_max.is_zero() {
        return asked(around, exchange, key, told).await.map(|verdict| (verdict, false));
    }
    let tenant = around.permitted.permit().tenant().id();
    loop {
        if let Some(verdict) = site.verdicts.find(tenant, &key, clock::now()) {
            return Ok((verdict, true));
        }
        let ended = match around.proxy.flights.join(key) {
            Flight::Others(ended) if authorizer.shared.load(Relaxed) => ended,
            Flight::Others(_) => {
                return asked(around, exchange, key, told).await.map(|verdict| (verdict, false));
            }
            Flight::Ours(_asking) => {
                return asked(around, exchange, key, told).await.map(|verdict| (verdict, false));
            }
        };
        // It cannot end before it is waited for: nothing else runs on this core meanwhile.
        let ended = pin!(ended.notified());
        if clock::timeout_at(around.by, ended).await.is_err() {
            return Err("late");
        }
    }
}

/// Asks, and remembers what was said for as long as it counts.
async fn asked(
    around: Around<'_>,
    exchange: &Exchange,
    key: [u8; 32],
    told: Fields,
) -> Result<Arc<Verdict>, &'static str> {
    let settings = &around.authorizer.settings;
    let answer = put(around, exchange, told).await?;
    let (head, body) = answer.into_parts();
    let lives = lifetime(&head.headers, &settings.headers, settings.cache_max);
    let verdict = match Word::of(head.status) {
        Word::Nothing => return Err("status"),
        Word::Yes => {
            // Nobody needs its content; but its connection is worth the little that there may be of it.
            let _ = read(body, around.by).await;
            Verdict::allowed(&head.headers, &settings.to_upstream, &settings.to_client)
        }
        Word::No => {
            let mut fields = head.headers;
            take_ours(&mut fields);
            Verdict::denied(head.status, fields, read(body, around.by).await?)
        }
    };
    let verdict = Arc::new(verdict);
    around.authorizer.shared.store(!lives.is_zero(), Relaxed);
    if !lives.is_zero() {
        let tenant = around.permitted.permit().tenant().id();
        around.site.verdicts.keep(tenant, key, &verdict, clock::now().after(lives));
    }
    Ok(verdict)
}

/// Puts the question.
async fn put(
    around: Around<'_>,
    exchange: &Exchange,
    told: Fields,
) -> Result<Response<AnswerBody>, &'static str> {
    let Around { proxy, routed, permitted, authorizer, by, .. } = around;
    let route = &routed.route.settings;
    let (head, seen) = (&exchange.head, exchange.seen);
    let mut request = Request::new(Body::Empty);
    *request.uri_mut() = Uri::from(authorizer.settings.path.clone());
    *request.headers_mut() = question(exchange, told);
    let believed = (exchange.trusted && seen.forwarded).then_some(&head.headers);
    let forwarded = known(&exchange.connection).forwarding.tell(head.headers.get(HOST), believed);
    let spans = exchange.open.receipt().trace.as_deref().copied();
    let begun = || trace::span(seen.trace.then_some(&head.headers), &proxy.entropy).0;
    let said = Said {
        told: forwarded,
        via: head.version,
        request_id: exchange.open.receipt().request_id,
        // The question is below the exchange's own span, where it has one that is told.
        trace: spans.map_or_else(begun, |spans| spans.traceparent(spans.span)),
        spans: None,
        tenant: permitted.permit().tenant().id(),
    };
    let own = OwnFields { said: Some(said), ..OwnFields::default() };
    let now = clock::now();
    let terms = Terms {
        now,
        deadline: by,
        patience: authorizer.settings.timeout,
        retry: &RETRY,
        route: &route.name,
        priority: route.priority,
        degrade: &route.degrade,
        level: proxy.guard.level(),
        client: exchange.client,
        upgrade: false,
        own: &own,
        hearing: Hearing::default(),
        further: false,
        awaited: &Cell::new(false),
    };
    // What the exchange's own calls come to is not mixed with this one.
    let receipt = {
        let open = exchange.open.receipt();
        RefCell::new(Receipt::open(open.request_id, now, open.client, open.listener))
    };
    let called = proxy.caller.call(&authorizer.upstream, permitted.permit(), &mut request, &terms, &receipt);
    let called = Box::pin(called).await;
    called.result.map(|answer| answer.response).map_err(|refusal| refusal.kind.code)
}

/// What the authorizer is told: what it may know of the client's fields, and what the request is.
fn question(exchange: &Exchange, told: Fields) -> Fields {
    let (head, mut fields) = (&exchange.head, told);
    for name in [HOST, X_FORWARDED_HOST, X_FORWARDED_PROTO] {
        let is_believed = name == HOST || exchange.trusted;
        if let Some(value) = head.headers.get(&name).filter(|_| is_believed).map(Value::owned) {
            fields.insert(name, value);
        }
    }
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    for (name, value) in [(X_FORWARDED_METHOD, head.method.as_str()), (X_FORWARDED_URI, target)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            fields.insert(name, value);
        }
    }
    fields
}

/// Reads what an authorizer tells, whole.
async fn read(mut body: AnswerBody, by: Tick) -> Result<Bytes, &'static str> {
    let mut content = BytesMut::new();
    while !body.is_end_stream() {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = clock::timeout_at(by, frame).await.map_err(|_| "late")?;
        let Some(frame) = frame else { break };
        if let Ok(data) = frame.map_err(|_| "broken off")?.into_data() {
            if content.len() + data.len() > BODY_BYTES_MAX {
                return Err("too large");
            }
            content.extend_from_slice(&data);
        }
    }
    Ok(content.freeze())
}
