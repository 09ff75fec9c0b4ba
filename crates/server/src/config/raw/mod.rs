//! The configuration as it is typed. The comment on each field is the text of the reference; the default of
//! each is the default of Tidegate. Nothing is looked up here and nothing checked but the shape of each value.

mod access;
mod acme;
mod bodies;
mod canary;
mod cluster;
mod login;
mod maintenance;
mod mirror;
mod otlp;
mod queue;
mod redis;
mod route;
mod store;
mod tenants;
mod upstream;
mod webhook;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_wire::settings::ConnectionLimits;

pub use access::{AuthorizeKey, OnFailure, RouteAuthorize, RouteBasic, RouteCors, Said, SecurityHeaders};
pub use acme::{Acme, Challenge};
pub use bodies::{CodingName, Compress, Decompress};
pub use canary::Canary;
pub use cluster::{Cluster, ClusterTls};
pub use login::{Oidc, RouteLogin};
pub use maintenance::Maintenance;
pub use mirror::{Mirror, MirrorCompare};
pub use otlp::{Otlp, OtlpTraces, Parents};
pub use queue::{Backoff, Missed, Queue, Schedule};
pub use redis::{CacheRedis, Redis};
pub use route::{
    Add, Defer, Degrade, Fallback, HeaderChanges, HeaderIs, Priority, Redirect, Respond, Route,
    RouteDefaults, SetTo, Share,
};
pub use store::{RouteIdempotency, Store, StorePlace};
pub use tenants::{Plan, Rates, Tenant, TenantFrom, Tenants, Which, Whose};
pub use upstream::{
    Adaptive, Balance, Between, Concurrency, Endpoint, FilesTable, Health, Protocol, Upstream, WhenDown,
};
pub use webhook::{Incoming, Scheme, Secrets, Webhook};

use super::scalar::{Hash, Percent, Size, Time};
use super::text::{Address, ControlListen, File, Header, Jwks, LogTarget, Name, Net};

/// A whole configuration file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Further files, as paths or as patterns with `*` in the last part, beside this file. Their tables join this
    /// file's; the same key in two files is an error. Included files include nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("examples" = ["conf.d/*.toml"]))]
    pub include: Vec<String>,
    /// Threads that carry traffic, each with its own sockets and connections. Without it: one per core.
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<u32>,
    /// Where requests come in.
    pub listen: Listen,
    /// What connections are held to. A listener may have its own.
    pub limits: Limits,
    /// Certificates, chosen by the name a client asks for; the first one is served to whoever asks for no known
    /// name. They are read again when their files change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<Certificate>,
    /// Certificates that are ordered and renewed by themselves. See `docs/certificates.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
    /// The control API: status, metrics, health, changes.
    pub control: Control,
    /// What is written where.
    pub log: Log,
    /// The collector that traces and metrics are sent to. See `docs/telemetry.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<Otlp>,
    /// Shutting down.
    pub drain: Drain,
    /// A new binary that takes over. See `docs/upgrade.md`.
    pub upgrade: Upgrade,
    /// When the process refuses requests to save itself. See `docs/overload.md`.
    pub protect: Protect,
    /// How much the cache keeps. Which routes are cached is said at the routes. See `docs/cache.md`.
    pub cache: CacheRoom,
    /// Where what must survive a crash is kept. See `docs/idempotency.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// The Redis through which purges reach all nodes. See `docs/cluster.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// The nodes that ask each other before the upstream. See `docs/cluster.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// How tokens (JWT) are verified, by a name that `tenants.from` uses.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub jwt: BTreeMap<String, Jwt>,
    /// Providers of logins (OpenID Connect), by a name that routes use. See `docs/access.md`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub oidc: BTreeMap<String, Oidc>,
    /// How the tenant of a request is recognised.
    pub tenants: Tenants,
    /// What tenants are entitled to, by the plan's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub plan: BTreeMap<String, Plan>,
    /// The tenants, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tenant: BTreeMap<String, Tenant>,
    /// The services behind Tidegate, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub upstream: BTreeMap<String, Upstream>,
    /// What waits for its turn, by the queue's name. It needs a `[store]`. See `docs/queues.md`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub queue: BTreeMap<String, Queue>,
    /// What is made again and again, by the schedule's name. See `docs/schedules.md`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub schedule: BTreeMap<String, Schedule>,
    /// Webhooks to tenants' destinations. It needs a `[store]`. See `docs/webhooks.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// What is worked on, and who is let through meanwhile. See `docs/maintenance.md`.
    pub maintenance: Maintenance,
    /// What is done with which requests. The order in the file never matters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<Route>,
    /// What routes inherit.
    pub defaults: Defaults,
}

/// Where requests come in.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Addresses for HTTP/1.1 and HTTP/2 (prior knowledge), without TLS. Each is an address, or a table.
    pub http: Vec<Listener>,
    /// Addresses for HTTP/1.1 and HTTP/2 over TLS. They need a certificate: in `[[tls]]`, or by `[acme]`.
    pub https: Vec<Listener>,
    /// Session tickets that other nodes know, too. Without it: each process knows its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tickets: Option<Tickets>,
    /// Only these peers may set `X-Forwarded-*`, `Forwarded`, `Client-Cert` and tenant headers.
    pub trusted_proxies: Vec<Net>,
    /// A header in which clients may send their own deadline, in milliseconds. It can only shorten the route's, so that anybody may. (`grpc-timeout` always counts.)
    pub deadline_header: Option<Header>,
}

/// A listener: its address, or a table.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Listener {
    /// An address.
    Address(Address),
    /// An address and more.
    Table(Box<ListenerTable>),
}

/// A listener with more than an address.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTable {
    /// The address. Port 0 lets the system choose.
    pub address: Address,
    /// Whether connections begin with a PROXY protocol header, v1 or v2. One without is then closed.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// What connections of this listener are held to; what is not given here is as in `[limits]`.
    #[serde(default)]
    pub limits: Limits,
}

/// What connections are held to. What crosses a limit is refused or closed.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at once, in the whole process.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections: u32,
    /// Connections of one client address at once (of IPv6: of one /64). Zero: as many as it likes while a quarter of all is
    /// free, then its share. Trusted proxies are not held to it.
    pub connections_per_address: u32,
    /// Header fields of one request.
    #[schemars(range(min = 1, max = 1000))]
    pub header_count: u32,
    /// Bytes of one request's head, its first line included.
    pub header_bytes: Size,
    /// From the first byte of a request's head to its last.
    pub header_time: Time,
    /// PROXY protocol header and TLS handshake together.
    pub handshake_time: Time,
    /// A kept-alive connection without a request.
    pub idle: Time,
    /// A body, either way, that makes no progress.
    pub body_idle: Time,
    /// Bytes per second that a request's body must keep up on average while it is waited for. Zero: none.
    pub body_rate_min: Size,
    /// How long a request's body may be slower than that at its beginning.
    pub body_grace: Time,
    /// Bytes of one request's body.
    pub body_bytes: Size,
    /// Requests on one connection; then it is closed after the response.
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub requests: u64,
    /// A WebSocket, or another upgraded connection, in which neither side sends.
    pub tunnel_idle: Time,
    /// HTTP/2: streams at once on one connection.
    #[schemars(range(min = 1, max = 10_000))]
    pub h2_streams: u32,
    /// HTTP/2: streams reset by the client before they were accepted; then the connection is closed.
    #[schemars(range(min = 1, max = 10_000))]
    pub h2_resets_pending: u32,
    /// HTTP/2: streams reset because the client broke the protocol; then the connection is closed.
    #[schemars(range(min = 1, max = 100_000))]
    pub h2_resets_local: u32,
    /// HTTP/2: requests that the client gave up before they were answered, less those that were answered; then the
    /// connection is closed (rapid reset).
    #[schemars(range(min = 1, max = 1_000_000))]
    pub h2_resets: u32,
    /// HTTP/2: a connection on which nothing came for so long is asked whether its client is there, and closed if
    /// it does not answer.
    pub h2_ping: Time,
    /// HTTP/2: receive window of a stream.
    pub h2_stream_window: Size,
    /// HTTP/2: receive window of a connection.
    pub h2_connection_window: Size,
    /// HTTP/2: bytes buffered for sending on one stream.
    pub h2_send_buffer: Size,
}

impl Default for Limits {
    fn default() -> Limits {
        let limits = ConnectionLimits::default();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Limits {
            connections: count(limits.connections),
            connections_per_address: limits.connections_per_address.map_or(0, count),
            header_count: count(limits.header_count),
            header_bytes: Size(limits.header_bytes as u64),
            header_time: Time(limits.header_time),
            handshake_time: Time(limits.handshake_time),
            idle: Time(limits.idle),
            body_idle: Time(limits.body_idle),
            body_rate_min: Size(limits.body_rate_min),
            body_grace: Time(limits.body_grace),
            body_bytes: Size(limits.body_bytes),
            requests: limits.requests,
            tunnel_idle: Time(limits.tunnel_idle),
            h2_streams: limits.h2_streams,
            h2_resets_pending: count(limits.h2_resets_pending),
            h2_resets_local: count(limits.h2_resets_local),
            h2_resets: limits.h2_resets,
            h2_ping: Time(limits.h2_ping),
            h2_stream_window: Size(limits.h2_stream_window.into()),
            h2_connection_window: Size(limits.h2_connection_window.into()),
            h2_send_buffer: Size(limits.h2_send_buffer as u64),
        }
    }
}

/// When the process refuses requests to save itself: those of greedy tenants first, then by the priority of their routes.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protect {
    /// Bytes that the process may take. Close to that it refuses. Zero: not watched. Without it: what its control group
    /// allows, or the memory of the machine.
    pub memory: Option<Size>,
    /// Bytes that request bodies may make it hold together, read ahead or kept for another try. Zero: not bounded.
    /// Without it: half of `memory`.
    pub buffers: Option<Size>,
    /// How long requests may wait for a core that has too much to do, all the time. Zero: not watched.
    pub lag: Time,
    /// How long the pressure must have been low for the level to be lowered by one.
    pub calm: Time,
}

impl Default for Protect {
    fn default() -> Protect {
        Protect {
            memory: None,
            buffers: None,
            lag: Time(std::time::Duration::from_millis(500)),
            calm: Time(tidegate_model::gate::level::LOWER_AFTER),
        }
    }
}

/// How much the cache keeps.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheRoom {
    /// Bytes in memory, all answers together, what they take beside their own bytes included.
    pub memory: Size,
    /// The share of it that one tenant may have. When there is no room, whoever has most makes some.
    pub tenant_share: Percent,
    /// Answers of one tenant.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub tenant_entries: u32,
    /// The largest content of one answer that is kept as one.
    pub object: Size,
    /// The largest content that is kept in slices: on disk, and of it a quarter of the disk at most; in memory, where there is no disk, an eighth of it. `0`: what is larger than `object` is passed on and not kept.
    pub large: Size,
    /// The bytes of a slice: what is read at once, and what a client that asks for a part makes the upstream send at least.
    pub slice: Size,
    /// Hosts whose answers are those of another one: `{ "www.example.com" = "example.com" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub host_aliases: BTreeMap<String, String>,
    /// Answers that all nodes share, in the Redis of `[redis]`. See `docs/cluster.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<CacheRedis>,
    /// Where more is kept, that outlives the process. See `docs/cache.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<CacheDisk>,
}

/// Where answers are kept on disk.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CacheDisk {
    /// A directory for this alone. It is made where there is none; one process has it at a time.
    pub path: File,
    /// Its bytes.
    #[serde(default = "disk_size")]
    pub size: Size,
}

fn disk_size() -> Size {
    Size(1 << 30)
}

impl Default for CacheRoom {
    fn default() -> CacheRoom {
        CacheRoom {
            memory: Size(64 << 20),
            tenant_share: Percent(50),
            tenant_entries: 1_000_000,
            object: Size(8 << 20),
            large: Size(1 << 30),
            slice: Size(256 << 10),
            host_aliases: BTreeMap::new(),
            redis: None,
            disk: None,
        }
    }
}

/// A certificate and its key.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// PEM file of the chain, the leaf first.
    pub cert: File,
    /// PEM file of the private key.
    pub key: File,
    /// DER file of an OCSP answer about the certificate: shown to clients ("stapled") as long as it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<File>,
    /// What is wanted of clients that ask for its names (mutual TLS). Without it: no certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientCertificates>,
}

/// Which certificates of clients are good.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// PEM file of the authorities that may vouch for them.
    pub ca: File,
    /// Whether a client without one is refused. Else it is one without.
    #[serde(default = "yes")]
    pub required: bool,
    /// SHA-256 of the public keys (SubjectPublicKeyInfo) that they may have, in hexadecimal digits. None: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Hash>,
    /// PEM file of lists of those that are revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl: Option<File>,
}

fn yes() -> bool {
    true
}

/// How TLS sessions are gone on with.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tickets {
    /// What tickets are sealed by: all nodes that have the same go on with each other's sessions.
    pub secret: Secret,
}

/// The control API.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Where it listens: addresses, or `unix:PATH`. Health and metrics need no token on loopback; a change always
    /// needs one, except over the unix socket. An empty list: nowhere.
    pub listen: Vec<ControlListen>,
    /// Who may do what.
    pub tokens: Vec<Token>,
    /// Names in `Host` that are accepted besides `localhost` and addresses.
    pub hosts: Vec<String>,
    /// Whether faults may be injected, to rehearse them: see `docs/faults.md`.
    pub faults: bool,
}

impl Default for Control {
    fn default() -> Control {
        let local = std::net::SocketAddr::from(([127, 0, 0, 1], 8090));
        let listen = vec![ControlListen(super::settings::ControlAddress::Tcp(local))];
        Control { listen, tokens: Vec::new(), hosts: Vec::new(), faults: false }
    }
}

/// A token for the control API.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its name, for logs.
    pub name: Name,
    /// SHA-256 of the token in hexadecimal digits; `tidegate key new` makes both.
    pub sha256: Hash,
    /// What it may do.
    #[serde(default = "read_only")]
    pub scopes: Vec<Scope>,
}

fn read_only() -> Vec<Scope> {
    vec![Scope::Read]
}

/// What a token may do.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at everything.
    Read,
    /// Change what is running.
    Write,
    /// Inject faults, where `[control] faults` allows it.
    Faults,
    /// Purge what is cached, and nothing else.
    Purge,
    /// Hand in deliveries and take those of queues that are pulled, and nothing else.
    Deliver,
}

/// What is written where.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The access log, one JSON object a line: `"stdout"`, `"off"` or a file, opened again on SIGUSR1.
    pub access: LogTarget,
    /// Bytes of access log that may wait for their writer. What comes beyond is dropped and counted.
    pub buffer: Size,
    /// Whether the access log tells a request's query. Queries may hold secrets.
    pub query: bool,
    /// A file that every change through the control API is appended to, one JSON object a line, before it is answered. See `docs/control.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<File>,
    /// The least severe message of Tidegate's own log, which goes to standard error.
    pub level: Level,
    /// The form of Tidegate's own log.
    pub format: LogFormat,
    /// Recent requests kept per worker, for `GET /explain/REQUEST_ID`, at a KiB each, of those that nothing is remarkable about. The
    /// few that a core's cache holds cost next to nothing; of thousands each is written to memory.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub recent: u32,
    /// The same for refused requests, and as many for those that were slow or failed.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub remarkable: u32,
    /// A request that took longer counts as slow. Slow and failed ones, refused ones, and the rest are kept apart.
    pub slow: Time,
}

impl Default for Log {
    fn default() -> Log {
        Log {
            access: LogTarget("stdout".to_owned()),
            buffer: Size(8 << 20),
            query: false,
            audit: None,
            level: Level::Info,
            format: LogFormat::Text,
            recent: 64,
            remarkable: 1024,
            slow: Time(std::time::Duration::from_secs(1)),
        }
    }
}

/// How severe a message is.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
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

/// The form of Tidegate's own log.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Shutting down.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long requests may take to finish after SIGTERM.
    pub time: Time,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain { time: Time(std::time::Duration::from_secs(30)) }
    }
}

/// A new binary that takes over. See `docs/upgrade.md`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upgrade {
    /// How long the new process may take until it serves. One that takes longer is ended, and the old one serves on.
    pub start: Time,
    /// How long the old process may go on with what it has: long answers, event streams, WebSockets.
    pub connections: Time,
    /// How long the new process waits for deliveries that the old one has under way, where the store is a directory. Those that
    /// take longer are made again.
    pub deliveries: Time,
}

impl Default for Upgrade {
    fn default() -> Upgrade {
        let seconds = |seconds| Time(std::time::Duration::from_secs(seconds));
        Upgrade { start: seconds(30), connections: seconds(3600), deliveries: seconds(5) }
    }
}

/// How a token (JWT) is verified. Its keys come from `jwks` or are a `secret`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// The JSON Web Key Set: a URL, fetched again every `refresh` and when an unknown key is named, or a file,
    /// read again when it changes.
    pub jwks: Option<Jwks>,
    /// PEM file of the authorities that may vouch for the server of an `https` URL. Without it: the system's.
    pub ca: Option<File>,
    /// The shared secret (HS256, HS384, HS512).
    pub secret: Option<Secret>,
    /// The accepted `iss`. Without it: any.
    pub issuer: Option<String>,
    /// The accepted `aud`. Without it: any.
    pub audience: Option<String>,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// How far the clocks may be apart, for `exp` and `nbf`.
    pub clock_skew: Time,
    /// How often the key set is fetched again.
    pub refresh: Time,
}

impl Default for Jwt {
    fn default() -> Jwt {
        Jwt {
            jwks: None,
            ca: None,
            secret: None,
            issuer: None,
            audience: None,
            tenant_claim: "tenant".to_owned(),
            clock_skew: Time(std::time::Duration::from_secs(30)),
            refresh: Time(std::time::Duration::from_secs(300)),
        }
    }
}

/// A secret: a text, the name of an environment variable, or a file. Shown as `hidden`.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Secret {
    /// The secret itself.
    Text(#[serde(serialize_with = "hidden")] String),
    /// In the environment.
    Env(EnvSecret),
    /// In a file.
    File(FileSecret),
}

fn hidden<S: serde::Serializer>(_: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("hidden")
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Secret::Text(_) => write!(out, "Text(hidden)"),
            Secret::Env(EnvSecret { env }) => write!(out, "Env({env})"),
            Secret::File(FileSecret { file }) => write!(out, "File({})", file.0.display()),
        }
    }
}

/// A secret in the environment.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EnvSecret {
    /// The variable's name.
    pub env: String,
}

/// A secret in a file.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileSecret {
    /// The file. A line end at its end is no part of the secret.
    pub file: File,
}

/// What routes inherit.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// What every route inherits: tables key by key, everything else whole.
    pub route: RouteDefaults,
}

/// Off, on with its defaults, or on as the table says.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Switch<T> {
    /// Off or on.
    Toggle(bool),
    /// On.
    Table(T),
}

impl<T: Default + Clone> Switch<T> {
    /// The settings, if it is on.
    #[must_use]
    pub fn on(&self) -> Option<T> {
        match self {
            Switch::Toggle(on) => on.then(T::default),
            Switch::Table(table) => Some(table.clone()),
        }
    }
}
