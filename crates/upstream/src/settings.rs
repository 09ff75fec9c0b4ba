//! What an upstream is told: resolved settings with units and defaults.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::files::name::Name;
use tidegate_model::gate::adaptive;
use tidegate_wire::settings::{ClientTlsSettings, Protocol};

/// A named service.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamSettings {
    /// The name; state survives a reload under it.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How to speak to them.
    pub protocol: Protocol,
    /// TLS to them.
    pub tls: Option<ClientTlsSettings>,
    /// The `Host` that they see.
    pub host: HostHeader,
    /// How one is chosen.
    pub balance: Balance,
    /// Shuffle sharding: each tenant is served by a few of the endpoints.
    pub shard: Option<ShardSettings>,
    /// How much less than its fair share a new or recovered endpoint gets, growing over this time; zero: no slow start.
    pub slow_start: Duration,
    /// Active checks.
    pub health: Option<HealthSettings>,
    /// Passive ejection.
    pub outlier: OutlierSettings,
    /// Below this share of usable endpoints (percent), all are used: better some failures than an overloaded rest.
    pub panic_threshold: u8,
    /// Calls at once over all cores; `None`: not limited.
    pub concurrency: Option<Concurrency>,
    /// Who waits for a slot.
    pub waiting: WaitingSettings,
    /// Circuit breakers of the upstream and of each endpoint.
    pub breaker: Option<BreakerSettings>,
    /// Retries and hedges per hundred first tries.
    pub retry_budget_percent: u32,
    /// Retries per second allowed at any rate, so that a quiet upstream may be retried at all.
    pub retry_budget_min_per_second: u32,
    /// TCP and TLS together.
    pub connect_timeout: Duration,
    /// Connections at once to one endpoint, over all cores.
    pub connections_max: u32,
    /// Idle connections kept per endpoint, over all cores.
    pub idle_max: u32,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// How long a connection is used at all, so that balancing and DNS changes take hold.
    pub lifetime_max: Duration,
    /// Between two bytes of a response's body.
    pub body_idle: Duration,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// Listed in the configuration.
    Static(Vec<EndpointSettings>),
    /// All A and AAAA records of a name, asked again when their TTL ends.
    Dns {
        /// The name.
        host: String,
        /// The port of every endpoint.
        port: u16,
        /// Bounds of the TTL.
        refresh: RefreshBounds,
        /// The name server to ask (`resolver = "127.0.0.1:8600"`); else the system's.
        resolver: Option<SocketAddr>,
    },
    /// The targets of an SRV record: ports and weights from it; those of the lowest priority number alone are used.
    /// With TLS, `server_name` says which name all of them are verified by: a target's own name comes from DNS, which
    /// proves nothing.
    Srv {
        /// The record's name, `_http._tcp.app.internal`.
        name: String,
        /// Bounds of the TTL.
        refresh: RefreshBounds,
        /// The name server to ask; else the system's.
        resolver: Option<SocketAddr>,
    },
    /// One `ADDRESS [weight=N]` a line, `#` comments; read again when the file changes.
    File(PathBuf),
    /// Nowhere: files answer.
    Files(Arc<FilesSettings>),
}

impl fmt::Display for Discovery {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Discovery::Static(_) => out.write_str("static"),
            Discovery::Dns { host, port, .. } => write!(out, "dns {host}:{port}"),
            Discovery::Srv { name, .. } => write!(out, "srv {name}"),
            Discovery::File(path) => write!(out, "file {}", path.display()),
            Discovery::Files(files) => write!(out, "files {}", files.root.display()),
        }
    }
}

/// A directory that answers instead of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesSettings {
    /// The directory.
    pub root: PathBuf,
    /// The file that answers for a directory.
    pub index: Option<String>,
    /// The file that answers for what is missing, as the application's shell does for each of its pages.
    pub fallback: Option<Name>,
    /// The page that is told with 404.
    pub not_found: Option<Name>,
    /// Whether `.br`, `.zst` and `.gz` beside a file answer for it.
    pub precompressed: bool,
    /// Whether names that begin with a dot are served.
    pub hidden: bool,
}

/// Bounds on how often a name is resolved again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshBounds {
    /// A smaller TTL counts as this.
    pub min: Duration,
    /// A larger TTL counts as this.
    pub max: Duration,
}

/// One listed endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Its address, `HOST:PORT` with a literal address. (A host name is [`Discovery::Dns`].)
    pub address: SocketAddr,
    /// Its share relative to others, 1 to 1000.
    pub weight: u32,
}

/// The `Host` that endpoints see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HostHeader {
    /// What the client sent.
    #[default]
    Client,
    /// Always this.
    Fixed(http::HeaderValue),
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balance {
    /// Smooth weighted round robin.
    RoundRobin,
    /// The less busy of two drawn by chance.
    LeastRequest,
    /// The one of two with the lower latency times load, peaks and failures weighing heavily.
    PeakEwma,
    /// Consistent hashing with bounded load.
    RingHash(HashOn),
    /// By chance and weight.
    Random,
}

/// Shuffle sharding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSettings {
    /// Endpoints that serve a tenant, 1 to [`tidegate_model::shard::SIZE_MAX`].
    pub size: usize,
    /// What becomes of a tenant none of whose endpoints is usable.
    pub when_down: WhenDown,
}

/// What becomes of a tenant none of whose endpoints is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// It is refused: what has taken its endpoints down may be its own requests.
    Refuse,
    /// All endpoints serve it.
    Spill,
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The tenant's id.
    Tenant,
    /// The client's address.
    ClientAddress,
    /// A request header; absent: the client's address.
    Header(http::HeaderName),
    /// A cookie, set by Tidegate when absent (sticky sessions).
    Cookie(String),
}

/// Active health checks.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthSettings {
    /// `Some`: an HTTP GET of this path; `None`: a TCP connection.
    pub path: Option<String>,
    /// The `Host` of the check; else the endpoint's address.
    pub host: Option<String>,
    /// Statuses that mean healthy, inclusive.
    pub statuses: (u16, u16),
    /// Between two checks, jittered by a tenth.
    pub interval: Duration,
    /// For one check, in total.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy endpoint healthy.
    pub healthy: u32,
    /// Failures in a row that make a healthy endpoint unhealthy.
    pub unhealthy: u32,
}

/// Passive ejection of endpoints that fail while others do not.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierSettings {
    /// Failures in a row (5xx, resets, time-outs) that eject; 0: never by this rule.
    pub consecutive: u32,
    /// The first ejection lasts this long, each further one that much longer.
    pub base: Duration,
    /// No ejection lasts longer.
    pub max: Duration,
    /// At most this share of the endpoints is ejected at once (percent).
    pub max_percent: u8,
}

/// How many calls there may be at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// So many, at least 1.
    Fixed(u32),
    /// What makes the upstream answer most, between these ends.
    Adaptive(adaptive::Terms),
}

/// The bounded waiting list before the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingSettings {
    /// Requests that may wait.
    pub limit: usize,
    /// Requests of one tenant that may wait.
    pub tenant_limit: usize,
    /// Bytes that all of them may hold.
    pub bytes: usize,
    /// How long one may wait.
    pub wait: Duration,
}

/// A circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open it.
    pub consecutive: u32,
    /// How long it stays open before it lets one probe through; doubled, up to sixteen times, while probes fail.
    pub cooldown: Duration,
}

/// Tries of one exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrySettings {
    /// Tries in all, the first included; at least 1.
    pub tries: u32,
    /// One try, to the response's head; `None`: the exchange's deadline alone.
    pub try_timeout: Option<Duration>,
    /// Statuses that are worth another try.
    pub statuses: Vec<http::StatusCode>,
    /// The first pause; doubled for each further one, with full jitter.
    pub backoff: Duration,
    /// No pause is longer.
    pub backoff_max: Duration,
    /// Whether the upstream may see an unsafe request twice without harm.
    pub idempotent: bool,
    /// Request body bytes kept for another try; a longer body is tried once.
    pub body_bytes: usize,
    /// A second try beside a slow first one, for safe methods.
    pub hedge: Option<HedgeSettings>,
}

/// When a second try is sent beside the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgeSettings {
    /// The latency quantile of the upstream after which to hedge, `0.5..1.0`.
    pub quantile: f64,
    /// Never earlier than this.
    pub min: Duration,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An upstream without endpoints, for tests to change.
    pub(crate) fn upstream(name: &str) -> UpstreamSettings {
        UpstreamSettings {
            name: name.into(),
            discovery: Discovery::Static(Vec::new()),
            protocol: Protocol::Http1,
            tls: None,
            host: HostHeader::Client,
            balance: Balance::RoundRobin,
            shard: None,
            slow_start: Duration::ZERO,
            health: None,
            outlier: OutlierSettings {
                consecutive: 5,
                base: Duration::from_secs(10),
                max: Duration::from_secs(60),
                max_percent: 50,
            },
            panic_threshold: 50,
            concurrency: None,
            waiting: WaitingSettings {
                limit: 10,
                tenant_limit: 10,
                bytes: 1 << 20,
                wait: Duration::from_secs(1),
            },
            breaker: None,
            retry_budget_percent: 20,
            retry_budget_min_per_second: 10,
            connect_timeout: Duration::from_secs(1),
            connections_max: 100,
            idle_max: 10,
            idle_timeout: Duration::from_secs(60),
            lifetime_max: Duration::from_secs(600),
            body_idle: Duration::from_secs(30),
        }
    }
}
