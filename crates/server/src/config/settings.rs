//! The resolved configuration: what a file means, every default filled in, every name looked up.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tidegate_dispatch::QueueSettings;
use tidegate_dispatch::webhook::WebhookSettings;
use tidegate_model::credential::Digest;
use tidegate_model::fields::Fields;
use tidegate_model::schedule::{Missed, Times};
use tidegate_model::webhook::reach::Place;
use tidegate_proxy::cache::far::FarSettings;
use tidegate_proxy::settings::ProxySettings;
use tidegate_store::StoreSettings;
use tidegate_upstream::settings::UpstreamSettings;
use tidegate_wire::settings::{CertificateFiles, ListenerSettings};

use super::places::Places;
use crate::acme::AcmeSettings;
use crate::telemetry::TraceSettings;

/// A whole configuration. Parts of it are handed to the parts of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where requests come in.
    pub listeners: Vec<ListenerSettings>,
    /// What the TLS listeners serve; the first is the default. They have been read once, and were good.
    pub certificates: Vec<CertificateFiles>,
    /// What session tickets are sealed by, where other nodes have it, too.
    pub tickets: Option<Hidden>,
    /// How certificates are ordered.
    pub acme: Option<AcmeSettings>,
    /// Where Tidegate is watched and steered.
    pub control: ControlSettings,
    /// What is written where.
    pub log: LogSettings,
    /// Where traces and metrics are sent.
    pub otlp: Option<OtlpSettings>,
    /// When the process refuses to save itself.
    pub protect: ProtectSettings,
    /// Where nodes meet.
    pub redis: Option<RedisSettings>,
    /// What all nodes share of the cache.
    pub shared: Option<FarSettings>,
    /// Where what must survive a crash is kept.
    pub store: Option<StoreSettings>,
    /// Where other nodes come in.
    pub cluster: Option<ClusterListen>,
    /// The other nodes, as upstreams.
    pub peers: Vec<UpstreamSettings>,
    /// Threads that carry traffic, each with a runtime of its own.
    pub workers: NonZeroUsize,
    /// How long exchanges may take to finish after SIGTERM.
    pub drain: Duration,
    /// A new binary that takes over.
    pub upgrade: UpgradeSettings,
    /// The upstreams, by name in order.
    pub upstreams: Vec<UpstreamSettings>,
    /// What waits for its turn, those queues included that routes have made.
    pub queues: Vec<QueueSettings>,
    /// What is made again and again.
    pub schedules: Vec<ScheduleSettings>,
    /// How webhooks are sent.
    pub webhook: Option<WebhookPlan>,
    /// What the stages of an exchange read.
    pub proxy: ProxySettings,
    /// The files that were read.
    pub sources: Sources,
    /// The whole configuration as TOML, with its defaults, secrets hidden.
    pub effective: Arc<str>,
    /// Where in the files stands what can fail yet.
    pub places: Places,
}

impl Config {
    /// What it holds, on one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        [
            count(self.listeners.len(), "listener"),
            count(self.proxy.routes.len(), "route"),
            count(self.upstreams.len(), "upstream"),
            count(self.proxy.tenants.plans.len(), "plan"),
            count(self.proxy.tenants.listed.len(), "tenant"),
        ]
        .join(", ")
    }
}

/// Bytes that are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub Vec<u8>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("hidden")
    }
}

/// The files a configuration was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The configuration files, the first one includes the others, with the SHA-256 of what was read.
    pub files: Vec<(PathBuf, [u8; 32])>,
    /// Certificates, keys, authorities and secrets in files of their own: a change of these is a change too.
    pub named: Vec<PathBuf>,
    /// Patterns of included files, whose directories may get further files.
    pub patterns: Vec<PathBuf>,
}

/// How webhooks are sent.
#[derive(Clone, Debug)]
pub struct WebhookPlan {
    /// Attempts at once.
    pub concurrency: u32,
    /// Those of one tenant.
    pub per_tenant: u32,
    /// All else.
    pub settings: WebhookSettings,
}

/// A delivery that is made again and again.
#[derive(Clone, Debug)]
pub struct ScheduleSettings {
    /// Its name: what is remembered of it is found by that.
    pub name: Arc<str>,
    /// When.
    pub times: Times,
    /// The cron line, as it was written.
    pub cron: Arc<str>,
    /// The time zone's name.
    pub zone: Arc<str>,
    /// What becomes of runs that were missed.
    pub missed: Missed,
    /// The queue that each run is put into.
    pub queue: Arc<str>,
    /// Whose the deliveries are.
    pub tenant: Arc<str>,
    /// What they have in common.
    pub key: Option<Arc<str>>,
    /// The request's method; `None`: as the queue says.
    pub method: Option<Method>,
    /// Its path and query; `None`: as the queue says.
    pub target: Option<Arc<str>>,
    /// Its fields.
    pub fields: Fields,
    /// Its content.
    pub body: Bytes,
    /// No run is made.
    pub paused: bool,
}

/// Where other nodes come in.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterListen {
    /// The listener.
    pub listener: ListenerSettings,
    /// What it serves, where it speaks TLS.
    pub files: Option<CertificateFiles>,
}

/// Where Tidegate is watched and steered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// Where the control API listens; empty: nowhere.
    pub listen: Vec<ControlAddress>,
    /// Who may do what.
    pub tokens: Vec<ControlToken>,
    /// Names in `Host` that are accepted besides `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Whether faults may be injected.
    pub faults: bool,
}

/// How a new binary takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpgradeSettings {
    /// How long it may take until it serves.
    pub start: Duration,
    /// How long the old process may go on with what it has.
    pub connections: Duration,
    /// How long deliveries under way there are waited for, where the store is one process's.
    pub deliveries: Duration,
}

/// An address of the control API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix domain socket.
    Unix(PathBuf),
}

/// A token for the control API, as its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlToken {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// SHA-256 of the token.
    pub digest: Digest,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Look at everything.
    Read,
    /// Change what is running.
    Write,
    /// Inject faults.
    Faults,
    /// Purge what is cached.
    Purge,
    /// Hand in deliveries, and take those of queues that are pulled.
    Deliver,
}

impl Scope {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Faults => "faults",
            Scope::Purge => "purge",
            Scope::Deliver => "deliver",
        }
    }
}

/// When the process refuses to save itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtectSettings {
    /// Bytes that it may take; 0: not watched. `None`: what the system lets it take.
    pub memory: Option<u64>,
    /// Bytes that bodies may make it hold; 0: not bounded. `None`: half of what it may take.
    pub buffers: Option<u64>,
    /// How late a core may be; zero: not watched.
    pub lag: Duration,
    /// How long the pressure must have been low for the level to be lowered by one.
    pub calm: Duration,
}

/// Where nodes meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where it is.
    pub url: RedisUrl,
    /// What its keys begin with.
    pub prefix: Arc<str>,
    /// The authority of its certificate, if it is none of the system's.
    pub ca: Option<PathBuf>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Purges that are kept for nodes that are away.
    pub orders: u32,
}

/// A URL of a Redis. It may hold a password: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    secret: String,
    shown: String,
}

impl RedisUrl {
    /// A URL, if it is one.
    #[must_use]
    pub fn new(secret: String) -> Option<RedisUrl> {
        let shown = crate::redis::is_url(&secret)?;
        Some(RedisUrl { secret, shown })
    }

    /// With the password.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Host and port.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "RedisUrl({})", self.shown)
    }
}

/// Where traces and metrics are sent.
#[derive(Clone, PartialEq)]
pub struct OtlpSettings {
    /// The collector; its path is what signals' own are added to.
    pub place: Place,
    /// Fields of each request. They may hold secrets: they are never shown.
    pub fields: Fields,
    /// The authority of its certificate, if it is none of the system's.
    pub ca: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
    /// What is said of this process, by name.
    pub resource: Vec<(String, String)>,
    /// Which traces are sent, if any.
    pub traces: Option<TraceSettings>,
    /// How often metrics are sent, if they are.
    pub metrics: Option<Duration>,
}

impl std::fmt::Debug for OtlpSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "OtlpSettings({}{})", self.place.authority, self.place.path)
    }
}

/// What is written where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Where the access log goes.
    pub access: AccessLog,
    /// Bytes of access log that may wait for its writer, over all cores; what comes beyond is dropped and counted.
    pub buffer: usize,
    /// Whether the access log tells a request's query, which may hold secrets.
    pub query: bool,
    /// The file of what was changed through the control API.
    pub audit: Option<PathBuf>,
    /// The least severe message of the server's own log.
    pub level: Level,
    /// The form of the server's own log.
    pub format: LogFormat,
    /// Recent exchanges kept per core for `GET /explain/REQUEST_ID`, of those that nothing is remarkable about.
    pub recent: usize,
    /// The same of those that were refused, and of those that were slow or failed.
    pub remarkable: usize,
    /// An exchange that took longer counts as slow: it is kept apart, so that fast ones do not push it out.
    pub slow: Duration,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To this file, opened again on SIGUSR1.
    File(PathBuf),
}

/// Severity of the server's own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What failed for good.
    Error,
    /// What an operator should look at.
    Warn,
    /// What happened to the server.
    Info,
    /// What happened to connections and calls.
    Debug,
    /// Everything.
    Trace,
}

/// The form of the server's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}
