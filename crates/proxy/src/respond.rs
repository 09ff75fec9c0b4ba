//! Respond: what the client is told, be it the upstream's answer, an answer of the configuration, or a refusal.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_LENGTH, LOCATION, SET_COOKIE, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use tidegate_model::coding::Packing;
use tidegate_model::fields::Fields;
use tidegate_model::headers;
use tidegate_model::message::{Response, ResponseHead};
use tidegate_model::path::redirect_target;
use tidegate_model::problem::{self, Form, RATELIMIT, RATELIMIT_POLICY, X_REQUEST_ID};
use tidegate_model::receipt::{End, Opening, Receipt, RequestId, Target};
use tidegate_model::refusal::{self, Blame, Kind, Refusal, Repeat};
use tidegate_model::tenant::Permit;
use tidegate_upstream::AnswerBody;
use tidegate_wire::clock;
use tidegate_wire::server::Connection;

use crate::access::Dress;
use crate::cache::intake::take_ours;
use crate::exchange::{Exchange, Open};
use crate::fault;
use crate::forward;
use crate::lifecycle::Proxy;
use crate::limit::{Permitted, Told};
use crate::protect;
use crate::route::Routed;
use crate::settings::{Action, FixedResponse, HeaderChanges};
use crate::settle::{Content, ExchangeBody};

/// A header in which a trusted peer asks where the time went.
pub const SERVER_TIMING_ASKED: HeaderName = HeaderName::from_static("tidegate-server-timing");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What will be told, with what ends when it has been.
pub struct Answer {
    /// Status, headers and content.
    pub response: Response<Content>,
    /// The tenant's permit; `None`: nobody was asked who it is.
    pub permit: Option<Permit>,
    /// How the tenant stands, where it is limited.
    pub told: Option<Told>,
}

/// A refusal on its way to the client.
pub struct Refused {
    /// Which.
    pub refusal: Refusal,
    /// How the client reads it.
    pub form: Form,
    /// The receipt.
    pub open: Open,
    /// The methods that would do.
    pub allow: Option<HeaderValue>,
    /// What is said besides.
    pub dress: Option<Box<Dress>>,
    /// The operator's own page, for a client that reads pages.
    pub page: Option<Bytes>,
}

/// A stage's "no".
pub struct No {
    /// Which.
    pub refusal: Refusal,
    /// The methods that would do.
    pub allow: Option<HeaderValue>,
    /// The operator's own page, for a client that reads pages.
    pub page: Option<Bytes>,
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> No {
        No { refusal, allow: None, page: None }
    }
}

impl Refused {
    /// The response.
    #[must_use]
    pub fn into_response(self) -> Response<ExchangeBody> {
        self.open.refused(&self.refusal);
        let id = self.open.receipt().request_id;
        let mut response = problem::respond(&self.refusal, self.form, id);
        if protect::ends_connection(self.refusal.kind, self.open.receipt().version) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        fault::tell(response.headers_mut(), &self.open.receipt());
        if self.refusal.kind.code == refusal::REQUEST_CODING.code {
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static(Packing::TOLD));
        }
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, allow);
        }
        if let Some(mut dress) = self.dress {
            let challenge = dress.challenge.take();
            if let Some(challenge) = challenge.filter(|_| response.status() == StatusCode::UNAUTHORIZED) {
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            dress.put(response.headers_mut());
        }
        if let Some(page) = self.page {
            *response.body_mut() = page;
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        let status = response.status();
        let head = self.open.receipt().method == Method::HEAD;
        response.map(|body| {
            let content = if head { Content::Empty } else { Content::Full(body) };
            ExchangeBody::new(content, status, self.open, None)
        })
    }
}

/// Tells an answer.
#[must_use]
pub fn complete(exchange: Box<Exchange>, answer: Answer) -> Response<ExchangeBody> {
    let (mut head, content) = answer.response.into_parts();
    let Exchange { open, upgraded, timing, connection, sticky, dress, fault: struck, .. } = *exchange;
    if let Some(cookie) = sticky {
        head.headers.append(SET_COOKIE, *cookie);
    }
    head.headers.insert(X_REQUEST_ID, open.receipt().request_id);
    if let Some(dress) = dress {
        dress.put(&mut head.headers);
    }
    if let Some(Told { policy, left }) = answer.told {
        // Limits of the application's own stay beside ours: each has its name.
        head.headers.append(RATELIMIT_POLICY, policy);
        head.headers.append(RATELIMIT, left);
    }
    if struck.is_some() {
        fault::tell(&mut head.headers, &open.receipt());
    }
    if timing {
        let value = server_timing(&open.receipt());
        head.headers.extend(HeaderValue::from_str(&value).ok().map(|value| (SERVER_TIMING, value)));
    }
    let body = match upgraded {
        Some(sides) => {
            ExchangeBody::answered(&open, head.status);
            let permit = answer.permit.expect("what was forwarded was permitted");
            forward::join(sides, open, permit, connection.limits.tunnel_idle);
            ExchangeBody::empty()
        }
        None => ExchangeBody::new(fault::shaped(content, struck), head.status, open, answer.permit),
    };
    Response::from_parts(head, body)
}

/// Tells what was answered before any route was looked for: it is nobody's, and spends of no limit.
#[must_use]
pub fn before_routes(exchange: Exchange, response: Response<Content>) -> Response<ExchangeBody> {
    let (mut head, content) = response.into_parts();
    head.headers.insert(X_REQUEST_ID, exchange.open.receipt().request_id);
    let body = ExchangeBody::new(content, head.status, exchange.open, None);
    Response::from_parts(head, body)
}

/// Where the time went, in milliseconds (W3C Server Timing).
fn server_timing(receipt: &Receipt) -> String {
    let total = clock::now().since(receipt.started);
    let own = total.saturating_sub(receipt.gate_wait).saturating_sub(receipt.upstream_time);
    let millis = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    format!(
        "tidegate;dur={:.3}, gate;dur={:.3}, upstream;dur={:.3}",
        millis(own),
        millis(receipt.gate_wait),
        millis(receipt.upstream_time)
    )
}

/// The upstream's answer as the client gets it. `changes`: none, where the cache makes them when it serves.
#[must_use]
pub fn forwarded(response: Response<AnswerBody>, changes: Option<&HeaderChanges>) -> Response<Content> {
    let (mut head, body) = response.into_parts();
    passed_on(&mut head, changes);
    Response::from_parts(head, Content::Answer(body))
}

/// The upstream's answer to an Upgrade that it grants.
#[must_use]
pub fn switched(mut head: ResponseHead, changes: &HeaderChanges) -> Response<Content> {
    passed_on(&mut head, Some(changes));
    if head.headers.contains_key(UPGRADE) {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    Response::from_parts(head, Content::Empty)
}

/// What belongs to the upstream's connection alone the client of it has left behind.
fn passed_on(head: &mut ResponseHead, changes: Option<&HeaderChanges>) {
    if let Some(changes) = changes {
        apply(&mut head.headers, changes);
    }
    // Each connection has a version of its own (RFC 9110 section 2.5).
    head.version = Version::HTTP_11;
}

/// What the client gets of an interim response: what is said to Tidegate alone and what the route takes out of answers or says
/// in its own words is left out.
pub fn interim(fields: &mut Fields, changes: &HeaderChanges) {
    take_ours(fields);
    for name in changes.remove.iter().chain(changes.set.iter().map(|(name, _)| name)) {
        fields.remove(name);
    }
}

/// Changes headers as configured.
pub fn apply(headers: &mut Fields, changes: &HeaderChanges) {
    headers::change(headers, &changes.remove, &changes.set, &changes.add);
}

/// A fixed response of the configuration.
#[must_use]
pub fn fixed(fixed: &Arc<FixedResponse>, head: bool) -> Response<Content> {
    let mut response = Response::new(if head { Content::Empty } else { Content::Full(fixed.body.clone()) });
    *response.status_mut() = fixed.status;
    for (name, value) in &fixed.headers {
        response.headers_mut().append(name, value);
    }
    response
}

/// A redirect of the configuration.
#[must_use]
pub fn redirect(routed: &Routed<'_>, exchange: &Exchange) -> Response<Content> {
    let mut response = Response::new(Content::Empty);
    if let Action::Redirect { status, to } = &routed.route.settings.action {
        let path = exchange.head.uri.path_and_query().map_or("/", |path| path.as_str());
        let target = redirect_target(to, &exchange.host, path);
        *response.status_mut() = *status;
        response.headers_mut().extend(HeaderValue::from_str(&target).ok().map(|target| (LOCATION, target)));
    }
    response
}

/// Attaches the permit to an answer.
#[must_use]
pub fn permitted(response: Response<Content>, permitted: Permitted) -> Answer {
    let (permit, told) = permitted.into_parts();
    Answer { response, permit: Some(permit), told }
}

/// An answer for which nobody was asked who it is.
#[must_use]
pub fn unasked(response: Response<Content>) -> Answer {
    Answer { response, permit: None, told: None }
}

/// The answer to what never became a request, and its receipt. Fields that could be read tell the form.
#[must_use]
pub fn refuse_bytes(
    proxy: &Proxy,
    connection: &Connection,
    refusal: &Refusal,
    fields: Option<&Fields>,
) -> Response<Bytes> {
    let id = RequestId(proxy.entropy.id());
    // It had no request line that could be relied on: none is told.
    let opening = Opening {
        request_id: id,
        started: clock::now(),
        method: unread_method(),
        target: Target::of_path(""),
        host: None,
        version: Version::HTTP_11,
        client: connection.peer.ip(),
        listener: connection.listener,
        tls: connection.tls,
    };
    let response = problem::respond(refusal, fields.map_or(Form::Json, Form::of), id);
    let open = Open::new(opening, &proxy.recorder);
    {
        let mut receipt = open.receipt_mut();
        receipt.status = Some(response.status());
        receipt.response_bytes = response.body().len() as u64;
    }
    open.refused(refusal);
    open.settle(End::Complete);
    response
}

/// Stands in a receipt for a method that was not read.
fn unread_method() -> Method {
    Method::from_bytes(b"-").expect("a dash is a token")
}

/// Whether the next rung of the ladder may do better than this refusal. What the client did wrong no rung mends.
#[must_use]
pub fn is_worth_falling_back(kind: &Kind) -> bool {
    kind.blame != Blame::Client && (kind.repeat != Repeat::Never || kind.code.starts_with("upstream."))
}
