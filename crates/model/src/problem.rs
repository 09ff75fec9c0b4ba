//! A refusal as the client is told it: RFC 9457 JSON, a page for browsers, or a gRPC status.
//!
//! Nothing of the request is repeated in an answer but the request's id, which Tidegate made. What else is
//! written, the refusal's detail and the names of limits, is escaped for where it stands all the same.
//!
//! A refusal by rate is answered as fast as the attack that it fends off asks: one pass, no template engine,
//! no serializer, and the values that are the same for every refusal of a kind are static.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::fields::Fields;
use crate::message::Response;
use crate::receipt::RequestId;
use crate::refusal::{Blame, Kind, Refusal, Repeat};

mod page;
mod rate_limit;

pub use rate_limit::{Left, Quota, RATELIMIT, RATELIMIT_POLICY, rate_limit, rate_limit_policy};

/// The id of the exchange, told to the client and the upstream.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who answered, and why it was not the origin (RFC 9209).
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What kind of answer the client can read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// `application/problem+json`.
    #[default]
    Json,
    /// A page.
    Html,
    /// gRPC: status 200 and `grpc-status` in the head ("trailers only"), with this content type.
    Grpc(&'static str),
}

impl Form {
    /// The form that the request's headers ask for.
    ///
    /// gRPC by its content type. A page only if `Accept` names HTML and prefers it to JSON; `*/*` is content
    /// with JSON.
    #[must_use]
    pub fn of(headers: &Fields) -> Form {
        if let Some(grpc) = headers.get(CONTENT_TYPE).and_then(|value| grpc(value.as_bytes())) {
            return Form::Grpc(grpc);
        }
        let mut wanted = Wanted::default();
        for value in headers.get_all(ACCEPT) {
            for range in value.as_bytes().split(|&byte| byte == b',') {
                wanted.note(range);
            }
        }
        wanted.form()
    }
}

/// The response that tells this refusal.
///
/// It carries `Proxy-Status`, `X-Request-Id`, `Retry-After` if the refusal has one, `RateLimit` and its policy of the
/// limit that was violated, and a challenge with a 401. What it cannot know is the caller's to add: `Allow` with a
/// 405.
#[must_use]
pub fn respond(refusal: &Refusal, form: Form, request_id: RequestId) -> Response<Bytes> {
    let kind = refusal.kind;
    let mut headers = Fields::with_capacity(12);
    let (status, body) = match form {
        Form::Json => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            (kind.status, json(refusal, request_id))
        }
        Form::Html => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            headers.insert(
                CONTENT_SECURITY_POLICY,
                HeaderValue::from_static(
                    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
                ),
            );
            (kind.status, page::html(refusal, request_id))
        }
        Form::Grpc(content_type) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            headers.insert(GRPC_STATUS, u64::from(u16::from(kind.grpc)));
            headers.insert(GRPC_MESSAGE, grpc_message(refusal));
            if let Some(wait) = refusal.retry_after {
                let pushback = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
                headers.insert(GRPC_RETRY_PUSHBACK_MS, u64::from(pushback));
            }
            (200, Bytes::new())
        }
    };
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Several of the statuses may be stored by default (RFC 9110, 15.1); a refusal never is.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PROXY_STATUS, HeaderValue::from_static(kind.proxy_status));
    headers.insert(X_REQUEST_ID, request_id);
    if let Some(wait) = refusal.retry_after {
        headers.insert(RETRY_AFTER, seconds_up(wait));
    }
    if let Some(standing) = &refusal.violated {
        let reset = refusal.retry_after.unwrap_or(standing.reset);
        let (limit, window) = (standing.limit, standing.window);
        headers.insert(RATELIMIT_POLICY, rate_limit_policy([Quota { name: &standing.name, limit, window }]));
        headers.insert(RATELIMIT, rate_limit([Left { name: &standing.name, remaining: 0, reset }]));
    }
    if kind.status == 401 {
        headers.insert(WWW_AUTHENTICATE, challenge(kind));
    }
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("the table's statuses are valid");
    *response.headers_mut() = headers;
    response
}

/// Whole seconds, rounded up: who comes back then is not too early.
#[must_use]
pub fn seconds_up(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0))
}

fn challenge(kind: &Kind) -> HeaderValue {
    // RFC 6750, 3.1: no error code where no credential was sent.
    if kind.code == "credential.missing" {
        HeaderValue::from_static("Bearer")
    } else {
        HeaderValue::from_static("Bearer error=\"invalid_token\"")
    }
}

/// What `Accept` says of HTML and JSON, in thousandths of quality.
#[derive(Default)]
struct Wanted {
    html: Option<u16>,
    json: Option<u16>,
    /// `application/*`, else `*/*`: what JSON counts as when it is not named.
    wildcard: Option<(bool, u16)>,
}

impl Wanted {
    fn note(&mut self, range: &[u8]) {
        let mut parts = range.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or(b"");
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        let (html, json) = (
            is(b"text/html") || is(b"application/xhtml+xml"),
            is(b"application/json") || is(b"application/problem+json"),
        );
        let (narrow, any) = (is(b"application/*"), is(b"*/*"));
        if !(html || json || narrow || any) {
            return;
        }
        let quality = parts
            .find_map(|part| part.strip_prefix(b"q=").or_else(|| part.strip_prefix(b"Q=")))
            .map_or(1000, quality);
        if html {
            self.html = self.html.max(Some(quality));
        } else if json {
            self.json = self.json.max(Some(quality));
        } else {
            self.wildcard = self.wildcard.max(Some((narrow, quality)));
        }
    }

    fn form(&self) -> Form {
        let html = self.html.unwrap_or(0);
        let html_wins = match (self.json, self.wildcard) {
            (Some(json), _) => html > json,
            (None, Some((_, wildcard))) => html >= wildcard,
            (None, None) => true,
        };
        if html > 0 && html_wins { Form::Html } else { Form::Json }
    }
}

/// A quality value in thousandths (RFC 9110, 12.4.2); what cannot be read counts as 0.
fn quality(text: &[u8]) -> u16 {
    match text {
        [b'1', ..] => 1000,
        [b'0'] => 0,
        [b'0', b'.', digits @ ..] if digits.len() <= 3 && digits.iter().all(u8::is_ascii_digit) => (0..3)
            .fold(0, |sum, place| sum * 10 + digits.get(place).map_or(0, |digit| u16::from(digit - b'0'))),
        _ => 0,
    }
}

fn grpc(content_type: &[u8]) -> Option<&'static str> {
    let starts = |prefix: &str| {
        content_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    if !starts("application/grpc") {
        return None;
    }
    if starts("application/grpc-web-text") {
        return Some("application/grpc-web-text+proto");
    }
    if starts("application/grpc-web") {
        return Some("application/grpc-web+proto");
    }
    matches!(content_type.get(16), None | Some(b'+' | b';' | b' ')).then_some("application/grpc")
}

/// `CODE: detail`, percent-encoded as gRPC over HTTP/2 has it.
fn grpc_message(refusal: &Refusal) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(refusal.kind.code.len() + refusal.detail.len() + 16);
    out.extend_from_slice(refusal.kind.code.as_bytes());
    out.extend_from_slice(b": ");
    for byte in detail(refusal).bytes() {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            out.push(byte);
        } else {
            out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(out)).expect("printable ASCII is a header value")
}

/// The refusal's sentence; its kind's title where it has none.
fn detail(refusal: &Refusal) -> &str {
    if refusal.detail.is_empty() { refusal.kind.title } else { &refusal.detail }
}

fn json(refusal: &Refusal, request_id: RequestId) -> Bytes {
    let kind = refusal.kind;
    let id = request_id.hex();
    let id = std::str::from_utf8(&id).expect("hexadecimal digits are text");
    let mut object = Object { out: Vec::with_capacity(448 + refusal.detail.len()) };
    object.text("type", &["urn:tidegate:refusal:", kind.code]);
    object.text("title", &[kind.title]);
    object.number("status", u64::from(kind.status));
    object.text("detail", &[detail(refusal)]);
    object.text("instance", &["urn:tidegate:request:", id]);
    object.text("code", &[kind.code]);
    object.text("request_id", &[id]);
    object.text("blame", &[blame(kind.blame)]);
    object.text("retry", &[repeat(kind.repeat)]);
    if let Some(wait) = refusal.retry_after {
        object.number("retry_after", seconds_up(wait));
    }
    if let Some(standing) = &refusal.violated {
        object.name("violated-policies");
        object.out.push(b'[');
        object.string(&[&standing.name]);
        object.out.push(b']');
    }
    object.out.extend_from_slice(b"}\n");
    Bytes::from(object.out)
}

fn blame(blame: Blame) -> &'static str {
    match blame {
        Blame::Client => "client",
        Blame::Tenant => "tenant",
        Blame::Upstream => "upstream",
        Blame::Operator => "operator",
    }
}

fn repeat(repeat: Repeat) -> &'static str {
    match repeat {
        Repeat::Never => "never",
        Repeat::Later => "later",
    }
}

/// A JSON object being written. Names are ours and need no escaping.
struct Object {
    out: Vec<u8>,
}

impl Object {
    fn name(&mut self, name: &str) {
        self.out.push(if self.out.is_empty() { b'{' } else { b',' });
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A string made of these parts.
    fn text(&mut self, name: &str, parts: &[&str]) {
        self.name(name);
        self.string(parts);
    }

    fn number(&mut self, name: &str, mut number: u64) {
        self.name(name);
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            // A remainder of ten fits a byte.
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[at..]);
    }

    fn string(&mut self, parts: &[&str]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.out.push(b'"');
        for byte in parts.iter().flat_map(|part| part.bytes()) {
            match byte {
                b'"' | b'\\' => self.out.extend([b'\\', byte]),
                0..=0x1f => {
                    self.out.extend_from_slice(b"\\u00");
                    self.out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
                }
                _ => self.out.push(byte),
            }
        }
        self.out.push(b'"');
    }
}

#[cfg(test)]
mod tests;
