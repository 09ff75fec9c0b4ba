//! What an exchange's stages are told: resolved settings with units and defaults.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tidegate_model::address::AddressSet;
use tidegate_model::cache::key::Aliases;
use tidegate_model::credential::Digest;
use tidegate_model::delivery::Ms;
use tidegate_model::gate::Priority;
use tidegate_model::gate::level::Degrade;
use tidegate_model::plan::{Plan, Rate};
use tidegate_model::route::{Match, Split};
use tidegate_model::tenant::RouteLimits;
use tidegate_model::trace::Tracing;
use tidegate_store::deliveries::Room;
use tidegate_upstream::settings::RetrySettings;

use crate::access::login::OidcSettings;
use crate::access::settings::AccessSettings;
use crate::canary::CanarySettings;
use crate::coding::CodingSettings;
use crate::idempotency::IdempotencySettings;
use crate::incoming::IncomingSettings;
use crate::maintenance::MaintenanceSettings;
use crate::mirror::MirrorSettings;

/// Everything the stages of an exchange read, resolved. One snapshot is swapped in by a reload.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Peers whose `X-Forwarded-*`, `Forwarded` and tenant headers count.
    pub trusted_proxies: AddressSet,
    /// Who the tenants are.
    pub tenants: TenantSettings,
    /// The routes, in the file's order, which never matters.
    pub routes: Vec<Arc<RouteSettings>>,
    /// How deliveries are told of, where there are any: a route of Tidegate's own, on every host.
    pub deliveries: Option<Arc<RouteSettings>>,
    /// A header in which clients may send their own deadline in milliseconds.
    pub deadline_header: Option<HeaderName>,
    /// What is decided of traces when an exchange begins, where they are told.
    pub tracing: Option<Tracing>,
    /// How much the cache keeps.
    pub cache: crate::cache::CacheBounds,
    /// Hosts whose answers are one host's.
    pub aliases: Aliases,
    /// Where it keeps more.
    pub disk: Option<crate::cache::disk::DiskSettings>,
    /// What is worked on, and who is let through.
    pub maintenance: MaintenanceSettings,
    /// Whose logins routes may be used by.
    pub logins: Vec<Arc<OidcSettings>>,
    /// The nodes that ask each other before the upstream.
    pub cluster: Option<crate::cache::shield::ClusterSettings>,
    /// How hosts with certificates of Tidegate's own are spoken to; `None`: there are none.
    pub secure: Option<crate::secure::SecureSettings>,
}

/// Who the tenants are and how one is recognised.
#[derive(Clone, Debug)]
pub struct TenantSettings {
    /// Where credentials are looked for, in this order; the first one present decides.
    pub from: Vec<TenantSource>,
    /// Plan of a tenant that is not listed; `None`: such a tenant is refused.
    pub unknown: Option<Arc<Plan>>,
    /// Plans by name.
    pub plans: HashMap<Arc<str>, Arc<Plan>>,
    /// Listed tenants by id.
    pub listed: HashMap<Arc<str>, ListedTenant>,
    /// Most tenants with state of their own; further unlisted ones share a bucket.
    pub tracked_max: usize,
    /// Failed identifications per client address.
    pub failures: Rate,
}

/// A tenant in the configuration.
#[derive(Clone, Debug)]
pub struct ListedTenant {
    /// Its id.
    pub id: Arc<str>,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its API keys.
    pub keys: Vec<ApiKey>,
    /// The hosts that it has of its own.
    pub domains: Vec<Arc<str>>,
    /// SHA-256 of the certificates that its clients show.
    pub certificates: Vec<[u8; 32]>,
}

/// An API key as it is stored: never the key itself.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Its name, for logs.
    pub id: Arc<str>,
    /// SHA-256 of the key.
    pub digest: Digest,
    /// Seconds since the Unix epoch after which it is refused.
    pub expires: Option<u64>,
}

/// Where a tenant is recognised.
#[derive(Clone, Debug)]
pub enum TenantSource {
    /// An API key in `Authorization: Bearer`.
    ApiKeyBearer,
    /// An API key in this header.
    ApiKeyHeader(HeaderName),
    /// A JWT in `Authorization: Bearer`.
    Jwt(Arc<JwtSettings>),
    /// The one label of the host name in place of `{tenant}`.
    Host {
        /// What stands before it, usually nothing.
        prefix: String,
        /// What stands after it, `.example.com`.
        suffix: String,
    },
    /// The certificate that the client has shown.
    Certificate(CertificateName),
    /// The whole host, where it is a tenant's own.
    Domain,
    /// A header, counted from trusted proxies only.
    Header(HeaderName),
    /// The client's address itself (`ip:…`), never listed.
    ClientAddress,
}

/// Where a tenant stands in a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName {
    /// The part that names it.
    pub part: CertificatePart,
    /// What stands before the tenant there.
    pub prefix: String,
    /// What stands behind it.
    pub suffix: String,
}

/// A part of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificatePart {
    /// The subject's common name.
    CommonName,
    /// A host's name of subjectAltName.
    Dns,
    /// A URI there.
    Uri,
    /// An address of e-mail there.
    Email,
    /// All of it: its SHA-256 is one that the tenant lists.
    Fingerprint,
}

/// How a JWT is verified.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtSettings {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// Where its keys come from.
    pub keys: JwtKeys,
    /// Accepted `iss`.
    pub issuer: Option<String>,
    /// Accepted `aud`.
    pub audience: Option<String>,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// Tolerance for `exp` and `nbf`.
    pub clock_skew: Duration,
    /// How often a JWKS is fetched again, also asked for (not more often than every 10 s) by an unknown `kid`.
    pub refresh: Duration,
}

/// Where the keys of a JWT come from.
#[derive(Clone, PartialEq)]
pub enum JwtKeys {
    /// A JSON Web Key Set at a URL.
    Url {
        /// Where.
        url: http::Uri,
        /// PEM file of the authorities that may vouch for its server; else the system's.
        ca: Option<PathBuf>,
    },
    /// A JSON Web Key Set in a file, watched.
    File(PathBuf),
    /// A shared secret (HS256, HS384, HS512).
    Secret(Bytes),
}

/// One route.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// Its name; state, metrics and records key on it.
    pub name: Arc<str>,
    /// What it matches.
    pub matches: Match,
    /// Addresses that may use it; empty: all.
    pub allow: AddressSet,
    /// Addresses that may not, even if allowed.
    pub deny: AddressSet,
    /// Who else decides who may use it, and what browsers are told of it.
    pub access: AccessSettings,
    /// What is done.
    pub action: Action,
    /// Rates per tenant on this route.
    pub rates: Vec<Rate>,
    /// Exchanges at once per tenant on this route.
    pub concurrency: Option<u32>,
    /// Largest request body in bytes.
    pub body_bytes_max: Option<u64>,
    /// To the response's head, in total.
    pub deadline: Duration,
    /// Tries and hedges.
    pub retry: RetrySettings,
    /// What comes after a failed forward, in order.
    pub fallback: Vec<Rung>,
    /// Answers of an upstream that count as failed, when there is a further rung.
    pub fallback_statuses: Vec<StatusCode>,
    /// Changes to the path and the headers of the request before it is forwarded.
    pub request: RequestChanges,
    /// Changes to the response's headers.
    pub response: HeaderChanges,
    /// What is shed first under overload.
    pub priority: Priority,
    /// What it does without under load.
    pub degrade: Degrade,
    /// Whether and how its answers are kept.
    pub cache: Option<CacheSettings>,
    /// Whether and how repeats have one effect.
    pub idempotency: Option<IdempotencySettings>,
    /// Whether and how requests are accepted now and made later.
    pub defer: Option<DeferSettings>,
    /// Where its requests are made once more, and how the answers are compared.
    pub mirror: Option<MirrorSettings>,
    /// Whether it is in maintenance by the configuration.
    pub maintenance: bool,
    /// Whether and how bodies are compressed and decoded.
    pub coding: Option<Box<CodingSettings>>,
    /// Its next version, which gets a share of its requests.
    pub canary: Option<CanarySettings>,
}

/// How a route's requests are accepted now and made later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeferSettings {
    /// All of them; else those whose clients prefer it.
    pub always: bool,
    /// The queue that they are put into.
    pub queue: Arc<str>,
    /// The priority of their deliveries.
    pub priority: Priority,
    /// How much earlier one counts as due for each step of its priority.
    pub aging: Ms,
    /// What a tenant may have waiting.
    pub room: Room,
    /// For how long a request under the same `Idempotency-Key` is the same.
    pub unique_for: Ms,
    /// Whether a request must bring such a key, if its method is not idempotent by itself.
    pub key_required: bool,
}

/// How deliveries are told of, on every listener for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveriesSettings {
    /// How long what was cancelled is kept, by queue.
    pub cancelled_for: HashMap<Arc<str>, Ms>,
}

/// How a route's answers are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CacheSettings {
    /// Its content is the same for all tenants.
    pub public: bool,
    /// What makes two requests different.
    pub key: tidegate_model::cache::key::Rules,
    /// The largest content of a QUERY that is in its key, in bytes; zero: it goes past the cache.
    pub query_content: u64,
    /// When what is stale may be used, and whether clients have a say.
    pub reuse: tidegate_model::cache::reuse::Terms,
    /// The lifetime of what tells none.
    pub heuristic: tidegate_model::cache::freshness::Heuristic,
    /// The lifetime, in seconds, of answers that failed and tell none; zero: they are not kept.
    pub error_ttl: u32,
    /// Whether a target's home node is asked before the upstream.
    pub shield: bool,
    /// Fields that speak for `Cache-Control`, the first that is there counts (RFC 9213).
    pub targeted: Vec<HeaderName>,
}

impl RouteSettings {
    /// What each tenant is held to on it.
    #[must_use]
    pub fn limits(&self) -> RouteLimits {
        let (name, rates) = (Arc::clone(&self.name), self.rates.clone());
        RouteLimits { name, rates, concurrency: self.concurrency }
    }
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Forwards to one of these upstreams.
    Forward(Split),
    /// Redirects.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// The target; `{path}` (with query), `{host}` are replaced.
        to: String,
    },
    /// Answers by itself.
    Respond(Arc<FixedResponse>),
    /// Tells of deliveries. The configuration has no word for it: it is Tidegate's own.
    Deliveries(DeliveriesSettings),
    /// Takes webhooks.
    Incoming(Arc<IncomingSettings>),
}

/// A response from the configuration.
#[derive(Clone, Debug)]
pub struct FixedResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
}

/// One rung of the ladder taken after a failed forward.
#[derive(Clone, Debug)]
pub enum Rung {
    /// Another upstream.
    Upstream(Arc<str>),
    /// A fixed response.
    Respond(Arc<FixedResponse>),
}

/// Changes to a request before it is forwarded.
#[derive(Clone, Debug, Default)]
pub struct RequestChanges {
    /// Replaces the matched prefix, `/v1` by `/api`.
    pub prefix: Option<String>,
    /// Its headers.
    pub headers: HeaderChanges,
}

/// Changes to headers: removed, then set, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Removed.
    pub remove: Vec<HeaderName>,
    /// Replaced or created.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appended beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderChanges {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

impl std::fmt::Debug for JwtKeys {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JwtKeys::Url { url, .. } => write!(out, "Url({url})"),
            JwtKeys::File(path) => write!(out, "File({})", path.display()),
            JwtKeys::Secret(_) => write!(out, "Secret(hidden)"),
        }
    }
}
