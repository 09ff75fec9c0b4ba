//! What a route asks of who uses it: resolved settings.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use tidegate_model::access::cors::Cors;
use tidegate_model::access::security::Security;

use super::basic::BasicSettings;
use super::login::LoginSettings;

/// Who may use a route, and what browsers are told of it.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// Who may use it by name and password.
    pub basic: Option<Arc<BasicSettings>>,
    /// By whose logins it may be used.
    pub login: Option<Arc<LoginSettings>>,
    /// Who is asked of each request.
    pub authorize: Option<Arc<AuthorizeSettings>>,
    /// Which origins' scripts may call it.
    pub cors: Option<Arc<Cors>>,
    /// What browsers are told besides.
    pub security: Option<Arc<Security>>,
    /// The headers in which the application is told what was found out. None of a client passes, before its content or behind it.
    pub vouched: Option<Arc<[HeaderName]>>,
}

/// A service that decides which requests go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizeSettings {
    /// Where it is.
    pub upstream: Arc<str>,
    /// What it is asked at, with a query if it wants one.
    pub path: http::uri::PathAndQuery,
    /// What it is told of the client's fields. All of it is in the key of its answer.
    pub headers: Vec<HeaderName>,
    /// Its own fields that the upstream is told. None of a client passes.
    pub to_upstream: Vec<HeaderName>,
    /// Its own fields that the client is told when it says yes.
    pub to_client: Vec<HeaderName>,
    /// What else makes two requests different.
    pub key: KeyParts,
    /// The longest that an answer counts. Zero: each request is asked about.
    pub cache_max: Duration,
    /// How long it may take, within the route's deadline.
    pub timeout: Duration,
    /// Whether requests go on when it fails.
    pub open: bool,
}

/// What else makes two requests different to an authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyParts {
    /// The method.
    pub method: bool,
    /// The host.
    pub host: bool,
    /// The path.
    pub path: bool,
    /// The query.
    pub query: bool,
    /// The client's address.
    pub client: bool,
}
