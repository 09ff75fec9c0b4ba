//! Forward: the request goes to an upstream, and down the ladder when that fails.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use futures_util::TryFutureExt as _;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri, Version};
use http_body::Body as _;
use tidegate_model::deadline::TIDEGATE_DEADLINE_MS;
use tidegate_model::fields::{Fields, Value};
use tidegate_model::gate::Priority;
use tidegate_model::message::{Request, Response};
use tidegate_model::own::{OwnFields, Said, TIDEGATE_LOAD};
use tidegate_model::path::replace_prefix;
use tidegate_model::receipt::{End, Step};
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::retry::{Sent, may_repeat};
use tidegate_model::tenant::Direction;
use tidegate_model::tick::Tick;
use tidegate_model::{deadline, headers};
use tidegate_upstream::{Called, Switched, Terms, Upstream};
use tidegate_wire::body::{Body, Incoming};
use tidegate_wire::client::Hearing;
use tidegate_wire::patience::Patience;
use tidegate_wire::{clock, task, tunnel};

use crate::admit::known;
use crate::cache::content::Ahead;
use crate::coding;
use crate::exchange::{Exchange, Open};
use crate::fault::InItsPlace;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::mirror;
use crate::pace::{Pace, TunnelPace};
use crate::request_body::{Fault, RequestBody, check_announced};
use crate::respond::{self, apply};
use crate::route::Routed;
use crate::settings::RouteSettings;
use crate::settle::Content;
use crate::site::{Fallback, Site};
use crate::trace;

/// What is read of a body over HTTP/1.1 before its upstream takes it.
const READ_AHEAD: u64 = 64 << 10;

/// Forwards to the first rung and, when that fails, takes the further ones in their order. What an injected fault puts
/// in the place of the first rung is taken as what that came to.
///
/// # Errors
/// The refusal of the first rung, if no further one answers.
pub async fn forward(
    proxy: &Proxy,
    site: &Site,
    exchange: &mut Exchange,
    routed: &Routed<'_>,
    permitted: &Permitted,
    ladder: (&Arc<Upstream>, &[Fallback]),
    mut instead: InItsPlace,
) -> Result<Response<Content>, Refusal> {
    let (first, rest) = ladder;
    let settings = &*routed.route.settings;
    let by = deadline_of(site, exchange, settings);
    let fault = match exchange.ahead.as_deref() {
        Some(Ahead::Begun(_, fault)) => Rc::clone(fault),
        Some(Ahead::Whole(..)) | None => Fault::default(),
    };
    exchange.arm = routed.route.canary.as_ref().and_then(|canary| canary.arm(first));
    let (mut request, mut own) = prepare(proxy, exchange, routed, permitted, &fault)?;
    // Until the first wait, and after an injected delay.
    let (mut failed, mut again, mut now) = (None, true, clock::latest());
    for number in 0..=rest.len() {
        exchange.sticky = None;
        let upstream = match number.checked_sub(1).map(|number| &rest[number]) {
            None => first,
            Some(Fallback::Upstream(_)) if !again || now >= by => continue,
            Some(Fallback::Upstream(upstream)) => {
                exchange.note(Step::Fallback(Arc::clone(upstream.name())));
                upstream
            }
            Some(Fallback::Respond(fixed)) => {
                exchange.note(Step::Fallback(Arc::from("fixed")));
                return Ok(respond::fixed(fixed, exchange.open.receipt().method == Method::HEAD));
            }
        };
        let further = number < rest.len();
        let (result, whole) = match instead.take() {
            Some(instead) => {
                (exchange.duplicate, exchange.arm) = (None, None);
                (*instead, true)
            }
            None => {
                let rung = Rung { upstream, now, by, further };
                call(proxy, exchange, settings, permitted, rung, &mut request, &mut own, &fault).await
            }
        };
        again = whole;
        now = clock::latest();
        match result {
            Ok(response) if !further || !settings.fallback_statuses.contains(&response.status()) => {
                fault.answered();
                return Ok(response);
            }
            Ok(response) if !matches!(failed, Some(Outcome::Answered(_))) => {
                exchange.open.receipt_mut().reached |= matches!(response.body(), Content::Answer(_));
                failed = Some(Outcome::Answered(Box::new(response)));
            }
            Ok(_) => {}
            // The client's own body may be why: then it is to blame, not the upstream, and nobody else can help.
            Err(_) if let Some(fault) = fault.told() => return Err(Refusal::new(fault.kind, fault.why)),
            Err(refusal) if refusal.kind.code == refusal::DEADLINE_EXCEEDED.code && fault.is_missing() => {
                let why = "the deadline came before the request's body had come whole";
                return Err(Refusal::new(&refusal::REQUEST_TIMEOUT, why));
            }
            Err(refusal) if !respond::is_worth_falling_back(refusal.kind) => return Err(refusal),
            Err(refusal) => failed = failed.or(Some(Outcome::Refused(refusal))),
        }
    }
    match failed {
        Some(Outcome::Answered(response)) => {
            fault.answered();
            Ok(*response)
        }
        Some(Outcome::Refused(refusal)) => Err(refusal),
        None => unreachable!("the first rung was taken"),
    }
}

/// When the response's head must have come.
pub fn deadline_of(site: &Site, exchange: &Exchange, settings: &RouteSettings) -> Tick {
    let header = site.settings.deadline_header.as_ref();
    let may_ask = exchange.seen.grpc_timeout || header.is_some();
    let asked = may_ask.then(|| deadline::asked(&exchange.head.headers, header)).flatten();
    let by = deadline::earlier(exchange.started, settings.deadline, asked);
    exchange.by.map_or(by, |most| by.min(most))
}

/// What the store says, if it does by then: another process may have it still, or a disk hangs.
///
/// # Errors
/// `deadline.exceeded`.
pub fn told_by<T>(by: Tick, asked: impl Future<Output = T>) -> impl Future<Output = Result<T, Refusal>> {
    clock::timeout_at(by, asked).map_err(|_| {
        let why =
            "the deadline came before the store had answered: what was asked of it may be carried out yet";
        Refusal::new(&refusal::DEADLINE_EXCEEDED, why)
    })
}

/// How a rung failed: with an answer that is better than none, or with none.
enum Outcome {
    Answered(Box<Response<Content>>),
    Refused(Refusal),
}

/// A rung of the ladder that leads to an upstream.
struct Rung<'a> {
    upstream: &'a Arc<Upstream>,
    now: Tick,
    by: Tick,
    /// Whether there is another one.
    further: bool,
}

/// Takes a rung. Tells also whether the request may be made on a further one.
#[expect(clippy::too_many_arguments, reason = "the exchange and its parts; they have no meaning as a group")]
async fn call(
    proxy: &Proxy,
    exchange: &mut Exchange,
    settings: &RouteSettings,
    permitted: &Permitted,
    rung: Rung<'_>,
    request: &mut Request<Body>,
    own: &mut OwnFields<'_>,
    upload: &Fault,
) -> (Result<Response<Content>, Refusal>, bool) {
    let Rung { upstream, now, by, further } = rung;
    exchange.open.receipt_mut().upstream = Some(Arc::clone(upstream.name()));
    let upgrade = own.upgrade;
    let (mut duplicate, mut arm) = (exchange.duplicate.take(), exchange.arm.take());
    if let Some(duplicate) = &mut duplicate {
        duplicate.begin();
    }
    if let Some(arm) = &mut arm {
        arm.begin(now);
    }
    let level = proxy.guard.level();
    own.load = Some(level.max(upstream.load()));
    let (connection, receipt) = (&exchange.connection, exchange.open.receipt_cell());
    let hear = |context: &mut Context<'_>, status, mut fields: Fields| {
        respond::interim(&mut fields, &settings.response);
        if connection.pass_on(context, status, &fields) {
            receipt.borrow_mut().note(clock::latest(), Step::PassedOn(status));
        }
    };
    let terms = Terms {
        now,
        deadline: by,
        patience: settings.deadline,
        retry: &settings.retry,
        route: &settings.name,
        // What no client waits for goes when there is room.
        priority: if exchange.behind { Priority::Sheddable } else { settings.priority },
        degrade: &settings.degrade,
        level,
        client: exchange.client,
        upgrade,
        own,
        // What no client waits for has nobody to be told.
        hearing: Hearing((!exchange.behind).then_some(&hear)),
        further,
        awaited: upload.awaited(),
    };
    let called =
        proxy.caller.call(upstream, permitted.permit(), request, &terms, exchange.open.receipt_cell());
    let Called { result, again } = Box::pin(called).await;
    if let Some(arm) = arm {
        arm.answered(&result, upload);
    }
    let result = match duplicate {
        None => result,
        Some(duplicate) => duplicate.told(proxy, exchange, permitted, now, result),
    };
    let response = result.map(|answer| {
        exchange.sticky = answer.sticky.map(Box::new);
        if !upgrade || answer.response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            let changes = settings.cache.is_none().then_some(&settings.response);
            return respond::forwarded(answer.response, changes);
        }
        let (head, body) = answer.response.into_parts();
        exchange.upgraded = exchange.upgrade.take().zip(body.into_switched());
        respond::switched(head, &settings.response)
    });
    (response, again)
}

/// Joins both sides of an Upgrade. The receipt, the permit and the upstream's call live until the tunnel ends.
pub fn join(
    sides: (tunnel::ClientSide, Switched),
    open: Open,
    permit: tidegate_model::tenant::Permit,
    idle: std::time::Duration,
) {
    task::spawn(async move {
        let (client, mut upstream) = sides;
        let paces =
            [Direction::Request, Direction::Response].map(|direction| TunnelPace::of(&permit, direction));
        let (up, down) = tunnel::run(client, &mut upstream.io, idle, [&paces[0], &paces[1]]).await;
        open.request_bytes().set(up);
        open.receipt_mut().response_bytes = down;
        open.settle(End::TunnelClosed);
        drop((permit, upstream));
    });
}

/// Makes of the client's request the one that the upstream gets, and what Tidegate says beside it.
fn prepare<'a>(
    proxy: &Proxy,
    exchange: &mut Exchange,
    routed: &Routed<'_>,
    permitted: &'a Permitted,
    fault: &Fault,
) -> Result<(Request<Body>, OwnFields<'a>), Refusal> {
    let settings = &*routed.route.settings;
    let body = match exchange.ahead.take().map(|ahead| *ahead) {
        None => body(proxy, exchange, settings, permitted, fault)?,
        Some(Ahead::Begun(body, _)) => body,
        // It is still there for whoever refreshes what is stored on this one's behalf.
        Some(Ahead::Whole(content, held)) => {
            let body = Body::full(content.clone());
            exchange.ahead = Some(Box::new(Ahead::Whole(content, held)));
            body
        }
    };
    let mirrored = routed.route.mirror.as_ref();
    let drawn =
        mirrored.and_then(|mirrored| mirror::draw(mirrored, proxy, exchange, &body, routed, permitted));
    let (own, head) = said(proxy, exchange, routed, permitted)?;
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.headers_mut() = head.headers;
    if let Some(drawn) = drawn {
        exchange.duplicate = Some(drawn.of(&mut request, &own));
    }
    Ok((request, own))
}

/// What the upstream gets of the client's head, and what Tidegate says beside it.
///
/// # Errors
/// The path that the route makes of it is none.
pub fn said<'a>(
    proxy: &Proxy,
    exchange: &mut Exchange,
    routed: &Routed<'_>,
    permitted: &'a Permitted,
) -> Result<(OwnFields<'a>, Outgoing), Refusal> {
    let settings = &*routed.route.settings;
    let upgrade = upgrade_of(exchange);
    let (head, seen) = (&mut exchange.head, exchange.seen);
    let fields = &mut head.headers;
    let believed = (exchange.trusted && seen.forwarded).then_some(&*fields);
    let told = known(&exchange.connection).forwarding.tell(fields.get(HOST), believed);
    let spans = exchange.open.receipt().trace.as_deref().copied();
    let (trace, trace_goes_on) = match &spans {
        None => trace::span(seen.trace.then_some(fields), &proxy.entropy),
        Some(spans) => (spans.traceparent(spans.span), spans.parent != 0),
    };
    seen.take_request(fields, exchange.trusted, trace_goes_on);
    let said = Said {
        told,
        via: head.version,
        request_id: exchange.open.receipt().request_id,
        trace,
        spans,
        tenant: permitted.permit().tenant().id(),
    };
    let changes = &settings.request.headers;
    let grpc_timeout = seen.grpc_timeout || !changes.is_empty();
    let mut own = OwnFields { said: Some(said), grpc_timeout, upgrade: upgrade.is_some(), load: None };
    if let Some(upgrade) = upgrade {
        exchange.upgrade = Some(tunnel::ClientSide::of(&mut head.extensions));
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, upgrade);
    }
    if !changes.is_empty() {
        own.put(fields);
        apply(fields, changes);
        // Each try says these anew.
        fields.remove(TIDEGATE_LOAD);
        fields.remove(TIDEGATE_DEADLINE_MS);
    }
    if let Some(prefix) = &settings.request.prefix {
        rewrite(&mut head.uri, routed.matched, prefix)?;
    }
    let (uri, headers) = (std::mem::take(&mut head.uri), std::mem::take(&mut head.headers));
    Ok((own, Outgoing { method: head.method.clone(), uri, headers }))
}

/// The head of a request to an upstream.
pub struct Outgoing {
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// What the client says.
    pub headers: Fields,
}

/// The request's body, bounded by listener, route and plan. What it may make us hold is counted, or refused.
///
/// # Errors
/// It announces more than it may have, or there is no memory to spare for it.
pub fn body(
    proxy: &Proxy,
    exchange: &mut Exchange,
    settings: &RouteSettings,
    permitted: &Permitted,
    fault: &Fault,
) -> Result<Body, Refusal> {
    let Some(incoming) = exchange.body.take().filter(|body| !body.is_end_stream()) else {
        return Ok(Body::Empty);
    };
    let own = settings.body_bytes_max.unwrap_or(u64::MAX).min(exchange.connection.limits.body_bytes);
    let plan = permitted.permit().tenant().with_plan(|plan| plan.body_bytes_max).unwrap_or(u64::MAX);
    let (max, over) =
        if plan < own { (plan, &refusal::LIMIT_BODY) } else { (own, &refusal::REQUEST_BODY_TOO_LARGE) };
    check_announced(&incoming, max, over)?;
    let bytes = may_hold(&incoming, exchange, settings);
    let tenant = permitted.permit().tenant();
    let held = proxy.guard.hold(tenant, settings.priority, bytes, &proxy.entropy)?;
    let count: Rc<Cell<u64>> = exchange.open.request_bytes();
    let pace = Pace::of(permitted.permit(), Direction::Request);
    // What a trusted proxy says of tenants counts; what only we say comes from nobody else.
    let claims = if exchange.trusted { None } else { proxy.site().identity.headers().cloned() };
    let body = RequestBody::new(incoming, max, over, count, Rc::clone(fault), pace)
        .holding(held)
        .without([settings.access.vouched.clone(), claims]);
    let body = match exchange.head.version {
        Version::HTTP_2 => body.watched(Patience::new(&exchange.connection.limits)),
        _ => body,
    };
    match exchange.bodies.as_deref() {
        None => Ok(Body::boxed(body)),
        bodies => coding::decoded(body, bodies, fault),
    }
}

/// The most bytes of a body that may be here at once: what is read of it ahead of its upstream, and what is kept of it
/// for another try.
fn may_hold(body: &Incoming, exchange: &Exchange, settings: &RouteSettings) -> u64 {
    let ahead = match exchange.head.version {
        Version::HTTP_2 => exchange.connection.limits.h2_stream_window.into(),
        _ => READ_AHEAD,
    };
    let retry = &settings.retry;
    let again = retry.tries > 1 || !settings.fallback.is_empty() || settings.canary.is_some();
    let kept = match again && may_repeat(&exchange.head.method, Sent::Perhaps, retry.idempotent) {
        true => retry.body_bytes as u64,
        false => 0,
    };
    let length = body.size_hint().exact();
    let sent = length.unwrap_or(u64::MAX);
    let content = if exchange.unpacks() { u64::MAX } else { sent };
    let decoder = coding::may_hold(exchange.bodies.as_deref(), length).unwrap_or(0);
    sent.min(ahead).saturating_add(content.min(kept)).saturating_add(decoder)
}

/// The protocol that a client asks to change to: over HTTP/1.1, or over HTTP/2 as the wire translates it.
fn upgrade_of(exchange: &Exchange) -> Option<HeaderValue> {
    if !exchange.seen.upgrade {
        return None;
    }
    let head = &exchange.head;
    let asked = head.version >= Version::HTTP_11 && headers::connection_has(&head.headers, "upgrade");
    // h2c by Upgrade is obsolete (RFC 9113 section 3.1), and a way round a proxy's rules.
    head.headers
        .get(UPGRADE)
        .filter(|value| asked && !value.as_bytes().eq_ignore_ascii_case(b"h2c"))
        .map(Value::owned)
}

fn rewrite(uri: &mut Uri, matched: usize, prefix: &str) -> Result<(), Refusal> {
    let mut path = replace_prefix(uri.path(), matched, prefix);
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let target = PathAndQuery::from_maybe_shared(bytes::Bytes::from(path))
        .map_err(|_| Refusal::new(&refusal::REQUEST_PATH, "the rewritten path is not one"))?;
    *uri = Uri::from(target);
    Ok(())
}
