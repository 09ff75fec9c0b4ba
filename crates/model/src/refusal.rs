//! A refusal: an expected "no", told to the client with a stable code.
//!
//! Each [`Kind`] is a row of [`KINDS`]: code, status, who is to blame, whether a repeat may help, the
//! RFC 9209 error type, the gRPC status, and the page that `tidegate explain CODE` prints.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::limit::Standing;

/// An expected "no" with all that the client is told. One word, so that the results of those that pass stay small: nearly
/// every stage returns one.
#[derive(Clone, Debug)]
pub struct Refusal(Box<Reason>);

/// What a [`Refusal`] tells.
#[derive(Clone, Debug)]
pub struct Reason {
    /// Which refusal it is.
    pub kind: &'static Kind,
    /// One sentence about this case, safe to show to the client.
    pub detail: Cow<'static, str>,
    /// When a repeat may succeed.
    pub retry_after: Option<Duration>,
    /// The limit that was violated, as `RateLimit` and the problem body tell it.
    pub violated: Option<Box<Standing>>,
}

/// Who has to act so that it does not happen again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client sent what it must not send.
    Client,
    /// The tenant asks for more than its plan entitles it to.
    Tenant,
    /// The application behind Tidegate failed or was too slow.
    Upstream,
    /// Whoever runs Tidegate: configuration or capacity.
    Operator,
}

/// Whether a repeat of the same request may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It will be refused again until the request changes.
    Never,
    /// Later, at `Retry-After` if given.
    Later,
}

/// One row of the table of refusals.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Stable dotted code, `area.reason`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Short title, the same for every occurrence.
    pub title: &'static str,
    /// Who has to act.
    pub blame: Blame,
    /// Whether a repeat may help.
    pub repeat: Repeat,
    /// RFC 9209 proxy error type.
    pub proxy_error: &'static str,
    /// The value of `Proxy-Status` (RFC 9209), whole. Code and error type are tokens: nothing to escape.
    pub proxy_status: &'static str,
    /// gRPC status code.
    pub grpc: u8,
    /// The page, in Markdown.
    pub page: &'static str,
}

impl Refusal {
    /// A refusal of this kind with one sentence about the case.
    #[must_use]
    // So that what refuses stands aside from the code of those that pass.
    #[cold]
    pub fn new(kind: &'static Kind, detail: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal(Box::new(Reason { kind, detail: detail.into(), retry_after: None, violated: None }))
    }

    /// The same refusal, telling the client when to come back.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Refusal {
        self.retry_after = Some(wait);
        self
    }
}

impl Deref for Refusal {
    type Target = Reason;

    fn deref(&self) -> &Reason {
        &self.0
    }
}

impl DerefMut for Refusal {
    fn deref_mut(&mut self) -> &mut Reason {
        &mut self.0
    }
}

/// The row with this code.
#[must_use]
pub fn find(code: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.code == code).copied()
}

macro_rules! kinds {
    ($($name:ident = $code:literal, $status:literal, $title:literal, $blame:ident, $repeat:ident, $proxy:literal, $grpc:literal;)*) => {
        $(
            #[doc = concat!("`", $code, "`: ", $title, " (", stringify!($status), ").")]
            pub static $name: Kind = Kind {
                code: $code, status: $status, title: $title, blame: Blame::$blame, repeat: Repeat::$repeat,
                proxy_error: $proxy, grpc: $grpc,
                proxy_status: concat!("tidegate; error=", $proxy, "; details=\"", $code, "\""),
                page: include_str!(concat!("../../../docs/refusals/", $code, ".md")),
            };
        )*
        /// Every refusal there is, in the order of the documentation.
        pub static KINDS: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    // The bytes of the request.
    REQUEST_MALFORMED = "request.malformed", 400, "Malformed request", Client, Never, "http_request_error", 13;
    REQUEST_FRAMING = "request.framing", 400, "Ambiguous message framing", Client, Never, "http_request_error", 13;
    REQUEST_HOST = "request.host", 400, "Missing or invalid Host", Client, Never, "http_request_error", 13;
    REQUEST_PATH = "request.path", 400, "Invalid path", Client, Never, "http_request_error", 13;
    REQUEST_HEADERS_TOO_LARGE = "request.headers-too-large", 431, "Header fields too large", Client, Never, "http_request_error", 8;
    REQUEST_BODY_TOO_LARGE = "request.body-too-large", 413, "Request body too large", Client, Never, "http_request_error", 8;
    REQUEST_CODING = "request.coding", 415, "Content coding not supported", Client, Never, "http_request_error", 3;
    REQUEST_CORRUPT = "request.corrupt", 400, "Compressed body cannot be decoded", Client, Never, "http_request_error", 3;
    REQUEST_INFLATED = "request.inflated", 413, "Decoded body too large", Client, Never, "http_request_error", 8;
    REQUEST_TIMEOUT = "request.timeout", 408, "Request not received in time", Client, Later, "http_request_error", 1;
    REQUEST_EXPECTATION = "request.expectation", 417, "Expectation not supported", Client, Never, "http_request_error", 13;
    REQUEST_METHOD = "request.method", 501, "Method not supported", Client, Never, "http_request_error", 12;
    // Finding the route.
    ROUTE_NOT_FOUND = "route.not-found", 404, "No route matches", Client, Never, "http_request_denied", 12;
    ROUTE_METHOD = "route.method-not-allowed", 405, "Method not allowed on this path", Client, Never, "http_request_denied", 12;
    ROUTE_MISDIRECTED = "route.misdirected", 421, "Connection made for another host", Client, Never, "http_request_error", 7;
    ROUTE_SHED = "route.shed", 503, "Route left out under load", Operator, Later, "http_request_denied", 14;
    ROUTE_MAINTENANCE = "route.maintenance", 503, "Under maintenance", Operator, Later, "http_request_denied", 14;
    ROUTE_ADDRESS = "route.address-denied", 403, "Address not allowed", Client, Never, "http_request_denied", 7;
    // Who is asking.
    CREDENTIAL_MISSING = "credential.missing", 401, "Credential required", Client, Never, "http_request_denied", 16;
    CREDENTIAL_INVALID = "credential.invalid", 401, "Invalid credential", Client, Never, "http_request_denied", 16;
    CREDENTIAL_EXPIRED = "credential.expired", 401, "Expired credential", Client, Never, "http_request_denied", 16;
    CREDENTIAL_THROTTLED = "credential.throttled", 429, "Too many failed identifications", Client, Later, "http_request_denied", 8;
    CREDENTIAL_UNAVAILABLE = "credential.unavailable", 503, "Credentials cannot be verified now", Operator, Later, "proxy_internal_error", 14;
    TENANT_UNKNOWN = "tenant.unknown", 403, "Unknown tenant", Client, Never, "http_request_denied", 7;
    LOGIN_REQUIRED = "login.required", 401, "Login required", Client, Never, "http_request_denied", 16;
    LOGIN_FORBIDDEN = "login.forbidden", 403, "Account not allowed", Client, Never, "http_request_denied", 7;
    LOGIN_INVALID = "login.invalid", 400, "Login not valid", Client, Never, "http_request_denied", 16;
    LOGIN_UNAVAILABLE = "login.unavailable", 503, "Logins not available", Operator, Later, "proxy_internal_error", 14;
    CORS_DENIED = "cors.denied", 403, "Origin not allowed", Client, Never, "http_request_denied", 7;
    AUTHORIZE_UNAVAILABLE = "authorize.unavailable", 503, "Authorizer not available", Operator, Later, "proxy_internal_error", 14;
    // What the tenant is entitled to.
    LIMIT_RATE = "limit.rate", 429, "Rate limit exceeded", Tenant, Later, "http_request_denied", 8;
    LIMIT_CONCURRENCY = "limit.concurrency", 429, "Too many requests at once", Tenant, Later, "http_request_denied", 8;
    LIMIT_BODY = "limit.body", 413, "Request body larger than the plan allows", Tenant, Never, "http_request_denied", 8;
    // The cache.
    CACHE_ONLY = "cache.only-if-cached", 504, "Not stored", Client, Never, "http_request_denied", 14;
    // Idempotency, and the store that it is kept in.
    IDEMPOTENCY_KEY_MISSING = "idempotency.key-missing", 400, "Idempotency key required", Client, Never, "http_request_denied", 3;
    IDEMPOTENCY_KEY_INVALID = "idempotency.key-invalid", 400, "Invalid idempotency key", Client, Never, "http_request_error", 3;
    IDEMPOTENCY_STREAM = "idempotency.stream", 400, "Streams are not repeated", Client, Never, "http_request_denied", 12;
    IDEMPOTENCY_BODY = "idempotency.body-too-large", 413, "Request body too large for an idempotency key", Client, Never, "http_request_error", 8;
    IDEMPOTENCY_MISMATCH = "idempotency.mismatch", 422, "Idempotency key used for another request", Client, Never, "http_request_denied", 9;
    IDEMPOTENCY_IN_PROGRESS = "idempotency.in-progress", 409, "First request still under way", Client, Later, "http_request_denied", 10;
    IDEMPOTENCY_UNKNOWN = "idempotency.unknown", 409, "Outcome of the first request unknown", Upstream, Never, "http_request_denied", 9;
    IDEMPOTENCY_NOT_KEPT = "idempotency.not-kept", 409, "Answer was not kept", Upstream, Never, "http_request_denied", 6;
    IDEMPOTENCY_FULL = "idempotency.full", 429, "Too many idempotency keys", Tenant, Later, "http_request_denied", 8;
    STORE_UNAVAILABLE = "store.unavailable", 503, "Store cannot be written to", Operator, Later, "proxy_internal_error", 14;
    // What is made later.
    DELIVERY_NOT_FOUND = "delivery.not-found", 404, "No such delivery", Client, Never, "http_request_denied", 5;
    DELIVERY_PENDING = "delivery.pending", 409, "Delivery not made yet", Client, Later, "http_request_denied", 9;
    DELIVERY_NO_RESULT = "delivery.no-result", 404, "No answer kept", Client, Never, "http_request_denied", 5;
    DELIVERY_ENDED = "delivery.ended", 409, "Delivery has ended", Client, Never, "http_request_denied", 9;
    DELIVERY_FULL = "delivery.full", 429, "Too many deliveries waiting", Tenant, Later, "http_request_denied", 8;
    DELIVERY_BODY = "delivery.body-too-large", 413, "Request body too large to be made later", Client, Never, "http_request_error", 8;
    DELIVERY_STREAM = "delivery.stream", 400, "Streams are not made later", Client, Never, "http_request_denied", 12;
    DELIVERY_ELSEWHERE = "delivery.elsewhere", 503, "Another node makes these deliveries", Client, Later, "http_request_denied", 14;
    DELIVERY_FOLLOWERS = "delivery.followers", 503, "Too many deliveries followed", Operator, Later, "http_request_denied", 8;
    // Webhooks that come in.
    WEBHOOK_SIGNATURE = "webhook.signature", 401, "Webhook not verified", Client, Never, "http_request_denied", 16;
    WEBHOOK_TIMESTAMP = "webhook.timestamp", 400, "Webhook too old or too early", Client, Never, "http_request_denied", 9;
    WEBHOOK_BACKLOG = "webhook.backlog", 503, "Too many webhooks waiting", Upstream, Later, "http_request_denied", 8;
    // Time.
    DEADLINE_EXCEEDED = "deadline.exceeded", 504, "Deadline exceeded", Upstream, Later, "connection_read_timeout", 4;
    DEADLINE_UNREACHABLE = "deadline.unreachable", 504, "Deadline cannot be met", Client, Later, "http_request_denied", 4;
    // The upstream.
    UPSTREAM_CONNECT = "upstream.connect", 502, "Upstream refused the connection", Upstream, Later, "connection_refused", 14;
    UPSTREAM_CONNECT_TIMEOUT = "upstream.connect-timeout", 504, "Upstream connection timed out", Upstream, Later, "connection_timeout", 14;
    UPSTREAM_TLS = "upstream.tls", 502, "TLS to the upstream failed", Operator, Never, "tls_protocol_error", 14;
    UPSTREAM_RESET = "upstream.reset", 502, "Upstream closed the connection", Upstream, Later, "connection_terminated", 14;
    UPSTREAM_PROTOCOL = "upstream.protocol", 502, "Invalid response from the upstream", Upstream, Later, "http_protocol_error", 13;
    UPSTREAM_WEBSOCKET = "upstream.websocket", 502, "Upstream takes no WebSocket", Operator, Never, "http_upgrade_failed", 12;
    UPSTREAM_RESOLVE = "upstream.resolve", 503, "Upstream has no address", Operator, Later, "dns_error", 14;
    UPSTREAM_UNAVAILABLE = "upstream.unavailable", 503, "No usable endpoint", Upstream, Later, "destination_unavailable", 14;
    UPSTREAM_FILES = "upstream.files", 503, "Files cannot be read", Operator, Later, "destination_unavailable", 14;
    UPSTREAM_SHARD = "upstream.shard-down", 503, "The tenant's endpoints are down", Upstream, Later, "destination_unavailable", 14;
    UPSTREAM_BREAKER = "upstream.breaker-open", 503, "Circuit breaker open", Upstream, Later, "destination_unavailable", 14;
    UPSTREAM_SATURATED = "upstream.saturated", 503, "Upstream saturated", Upstream, Later, "connection_limit_reached", 8;
    // Tidegate itself.
    SERVER_CONNECTIONS = "server.connections", 503, "Too many connections", Operator, Later, "connection_limit_reached", 14;
    SERVER_CROWDED = "server.crowded", 503, "Too many connections of one address", Client, Later, "connection_limit_reached", 14;
    SERVER_FILES = "server.files", 503, "Too many open files", Operator, Later, "connection_limit_reached", 14;
    SERVER_MEMORY = "server.memory", 503, "Short of memory", Operator, Later, "proxy_internal_error", 14;
    SERVER_LAG = "server.lag", 503, "Short of processor time", Operator, Later, "proxy_internal_error", 14;
    SERVER_INTERNAL = "server.internal", 500, "Internal error", Operator, Later, "proxy_internal_error", 13;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_dotted_and_have_a_page_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for kind in KINDS {
            assert!(seen.insert(kind.code), "{} stands twice", kind.code);
            assert_eq!(kind.code.split('.').count(), 2, "{} is not area.reason", kind.code);
            assert!(
                kind.page.starts_with(&format!("# {}\n", kind.code)),
                "{}: page lacks its title",
                kind.code
            );
            assert!((400..600).contains(&kind.status));
        }
    }
}
