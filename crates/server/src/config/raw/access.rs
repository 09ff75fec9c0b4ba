//! Who may use a route, and what browsers are told of it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::scalar::Time;
use crate::config::text::{File, Header, HeaderText, Name, PlainPath, Verb};

/// Who may use a route by name and password (HTTP Basic).
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteBasic {
    /// What a browser shows beside the question.
    pub realm: String,
    /// Who.
    pub users: Vec<BasicUser>,
    /// A file with more of them, a line each: `NAME:HASH`.
    pub file: Option<File>,
    /// The header in which the application is told the name. None of a client passes.
    pub user_header: Option<Header>,
}

impl Default for RouteBasic {
    fn default() -> RouteBasic {
        RouteBasic { realm: "restricted".to_owned(), users: Vec::new(), file: None, user_header: None }
    }
}

/// Somebody with a password.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BasicUser {
    /// The name, without a colon.
    pub name: String,
    /// The password's hash, by argon2id or bcrypt: `tidegate key password` makes one.
    #[serde(serialize_with = "super::hidden")]
    pub hash: String,
    /// The tenant that it is. Without it that is found out as `[tenants]` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// A service that decides which requests go on. It is asked with a `GET` at `path` and answers 2xx for yes; 401, 403 or a redirect
/// is what the client gets instead.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteAuthorize {
    /// Where it is. It is needed.
    pub upstream: Option<Name>,
    /// What it is asked at.
    pub path: PlainPath,
    /// What it is told of the client's headers, besides method, target, host and address. All of it counts in what is remembered.
    pub headers: Vec<Header>,
    /// Headers of its yes that the upstream is told. None of a client passes.
    pub to_upstream: Vec<Header>,
    /// Headers of its yes that the client is told.
    pub to_client: Vec<Header>,
    /// What makes two requests different to it, besides `headers`, the tenant and the route. Leave out what it does not look at,
    /// so that its answer counts for more.
    pub key: Vec<AuthorizeKey>,
    /// The longest that an answer counts whose `Cache-Control` says so. Zero: each request is asked about.
    pub cache_max: Time,
    /// How long it may take, within the route's `deadline`.
    pub timeout: Time,
    /// What becomes of a request when it fails: `"refuse"` or `"allow"`.
    pub on_failure: OnFailure,
}

impl Default for RouteAuthorize {
    fn default() -> RouteAuthorize {
        let header = |name| Header(http::HeaderName::from_static(name));
        RouteAuthorize {
            upstream: None,
            path: PlainPath("/".to_owned()),
            headers: vec![header("authorization"), header("cookie")],
            to_upstream: Vec::new(),
            to_client: Vec::new(),
            key: vec![AuthorizeKey::Method, AuthorizeKey::Host, AuthorizeKey::Path, AuthorizeKey::Query],
            cache_max: Time(Duration::from_secs(60)),
            timeout: Time(Duration::from_secs(2)),
            on_failure: OnFailure::Refuse,
        }
    }
}

/// What makes two requests different to an authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorizeKey {
    /// The method.
    Method,
    /// The host.
    Host,
    /// The path.
    Path,
    /// The query.
    Query,
    /// The client's address.
    Client,
}

/// What becomes of a request when its authorizer fails.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is refused.
    Refuse,
    /// It goes on, without what the authorizer would have said.
    Allow,
}

/// Which other origins' scripts may call a route (CORS).
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteCors {
    /// `https://app.example.com`; `https://*.example.com` for all below; `http://localhost:*` for any port; `*` alone for all. They
    /// are needed.
    pub origins: Vec<String>,
    /// Methods that scripts may use. Without it: those of the route, or all usual ones.
    pub methods: Option<Vec<Verb>>,
    /// Headers that scripts may send. Without it: those that they ask for.
    pub headers: Option<Vec<Header>>,
    /// Headers of answers that scripts may read.
    pub expose: Vec<Header>,
    /// Whether requests carry cookies and the like. Not with `*`.
    pub credentials: bool,
    /// For how long a browser remembers what it was told.
    pub max_age: Time,
    /// Whether pages of the internet may call what is in a private network.
    pub private_network: bool,
    /// Whether what the application itself says of it stays, where it says anything.
    pub keep: bool,
}

impl Default for RouteCors {
    fn default() -> RouteCors {
        let expose = ["x-request-id", "retry-after", "ratelimit", "ratelimit-policy"];
        RouteCors {
            origins: Vec::new(),
            methods: None,
            headers: None,
            expose: expose.map(|name| Header(http::HeaderName::from_static(name))).into(),
            credentials: false,
            max_age: Time(Duration::from_secs(600)),
            private_network: false,
            keep: false,
        }
    }
}

/// Headers by which a browser is told to be careful with an answer. Each is `true` (as Tidegate has it), `false` (not said), or the
/// value.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecurityHeaders {
    /// `Strict-Transport-Security`, over TLS alone: `max-age=31536000`.
    pub strict_transport_security: Said,
    /// `X-Content-Type-Options`: `nosniff`.
    pub content_type_options: Said,
    /// `X-Frame-Options`: `SAMEORIGIN`.
    pub frame_options: Said,
    /// `Content-Security-Policy`: `frame-ancestors 'self'`. What an application loads only it knows.
    pub content_security_policy: Said,
    /// `Referrer-Policy`: `strict-origin-when-cross-origin`.
    pub referrer_policy: Said,
    /// `Permissions-Policy`: `camera=(), geolocation=(), microphone=(), payment=(), usb=()`.
    pub permissions_policy: Said,
    /// `Cross-Origin-Opener-Policy`: `same-origin-allow-popups`.
    pub opener_policy: Said,
    /// `Cross-Origin-Resource-Policy`: `same-site`. Not said unless it is wanted: others' pages may show what is here.
    pub resource_policy: Said,
    /// Whether they are said instead of what the application says. Without it the application's own stay.
    pub replace: bool,
}

impl Default for SecurityHeaders {
    fn default() -> SecurityHeaders {
        SecurityHeaders {
            strict_transport_security: Said::Usual(true),
            content_type_options: Said::Usual(true),
            frame_options: Said::Usual(true),
            content_security_policy: Said::Usual(true),
            referrer_policy: Said::Usual(true),
            permissions_policy: Said::Usual(true),
            opener_policy: Said::Usual(true),
            resource_policy: Said::Usual(false),
            replace: false,
        }
    }
}

/// A header that is said, or not, or with this value.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Said {
    /// As Tidegate has it, or not at all.
    Usual(bool),
    /// With this value.
    Value(HeaderText),
}
