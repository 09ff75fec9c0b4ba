//! Upstreams as they are typed.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Switch, yes};
use crate::config::scalar::{Hash, Percent, Size, Statuses, Time};
use crate::config::text::{Address, DnsName, File, Hashed, HeaderText, PlainPath};

/// A service behind Tidegate. Its endpoints come from exactly one of `endpoints`, `dns`, `srv` and `file`; with `files` a directory
/// answers instead.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Its endpoints: addresses, or tables with a weight.
    pub endpoints: Option<Vec<Endpoint>>,
    /// A host name with a port: all its addresses, asked again when their time to live ends.
    pub dns: Option<DnsName>,
    /// The name of an SRV record: its targets with their ports and weights, the lowest priority number first.
    #[schemars(extend("examples" = ["_http._tcp.app.internal"]))]
    pub srv: Option<String>,
    /// A file with one `ADDRESS [weight=N]` a line, read again when it changes.
    pub file: Option<File>,
    /// A directory whose files answer, instead of a service: its path, or a table.
    pub files: Option<Files>,
    /// The name server to ask. Without it: the system's.
    pub resolver: Option<Address>,
    /// Bounds of the time to live of DNS answers.
    pub refresh: Refresh,
    /// How to speak to it. `auto` is what TLS negotiates, and HTTP/1.1 without TLS.
    pub protocol: Protocol,
    /// TLS to it: `true`, or a table.
    pub tls: Switch<Tls>,
    /// The `Host` that it sees. Without it: what the client sent.
    pub host: Option<HeaderText>,
    /// How an endpoint is chosen.
    pub balance: Balance,
    /// What `ring-hash` hashes: `"tenant"` (which it is without it), `"client-ip"`, `"header:NAME"`, or `"cookie:NAME"` for sticky sessions.
    pub hash_on: Option<Hashed>,
    /// Shuffle sharding: each tenant is served by a few of the endpoints, drawn from its id, so that one whose requests take endpoints down takes down its own alone. How many, or a table. Without it: all serve it.
    pub shuffle_shard: Option<ShuffleShard>,
    /// A new or recovered endpoint grows to its full share in this time. Zero: at once.
    pub slow_start: Time,
    /// Active checks. With a path: an HTTP request; without: a connection. Without the table: none.
    pub health: Option<Health>,
    /// Ejection of endpoints that fail while others do not.
    pub outlier: Outlier,
    /// With a smaller share of endpoints usable than this, all are used: better some failures than an overloaded rest.
    pub panic_threshold: Percent,
    /// Calls at once: a number; `"adaptive"`, which finds it from what the upstream answers; or a table, which is that
    /// within bounds. Without it: not limited.
    pub concurrency: Option<Concurrency>,
    /// Who waits when `concurrency` is reached.
    pub waiting: Waiting,
    /// A circuit breaker of the whole upstream: `true`, or a table. Each endpoint has one of its own, see `outlier`.
    pub breaker: Switch<Breaker>,
    /// Retries and hedges, as a share of first tries.
    pub retry_budget: Percent,
    /// Retries per second that are allowed at any rate, so that a quiet upstream may be retried at all.
    #[schemars(range(max = 100_000))]
    pub retry_budget_min: u32,
    /// To connect, TLS included.
    pub connect_timeout: Time,
    /// Connections at once to one endpoint.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: u32,
    /// Idle connections kept per endpoint, at most `connections`.
    #[schemars(range(max = 1_000_000))]
    pub idle_connections: u32,
    /// How long an idle connection is kept. Choose less than the application keeps it.
    pub idle_timeout: Time,
    /// How long a connection is used at all, so that balancing and DNS changes take hold.
    pub lifetime: Time,
    /// Between two parts of a response's body.
    pub body_idle: Time,
}

impl Default for Upstream {
    fn default() -> Upstream {
        Upstream {
            endpoints: None,
            dns: None,
            srv: None,
            file: None,
            files: None,
            resolver: None,
            refresh: Refresh::default(),
            protocol: Protocol::Http1,
            tls: Switch::Toggle(false),
            host: None,
            balance: Balance::PeakEwma,
            hash_on: None,
            shuffle_shard: None,
            slow_start: Time(Duration::ZERO),
            health: None,
            outlier: Outlier::default(),
            panic_threshold: Percent(50),
            concurrency: None,
            waiting: Waiting::default(),
            breaker: Switch::Toggle(false),
            retry_budget: Percent(20),
            retry_budget_min: 10,
            connect_timeout: Time(Duration::from_secs(1)),
            connections: 10_000,
            idle_connections: 1024,
            idle_timeout: Time(Duration::from_secs(60)),
            lifetime: Time(Duration::from_secs(3600)),
            body_idle: Time(Duration::from_secs(60)),
        }
    }
}

/// An endpoint: its address, or a table.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Endpoint {
    /// An address.
    Address(Address),
    /// An address and a weight.
    Table(EndpointTable),
}

/// An endpoint with its weight.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointTable {
    /// The address.
    pub address: Address,
    /// Its share relative to others.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// A directory whose files answer: its path, or a table.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Files {
    /// The directory.
    Root(File),
    /// The directory, and how it is served.
    Table(FilesTable),
}

impl Files {
    /// The table, with what is not given.
    #[must_use]
    pub fn table(&self) -> FilesTable {
        match self {
            Files::Root(root) => FilesTable {
                root: root.clone(),
                index: index(),
                fallback: None,
                not_found: None,
                precompressed: true,
                hidden: false,
            },
            Files::Table(table) => table.clone(),
        }
    }
}

/// A directory whose files answer, and how it is served.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FilesTable {
    /// The directory.
    #[schemars(extend("examples" = ["public"]))]
    pub root: File,
    /// The file that answers for a directory. `""`: none does.
    #[serde(default = "index")]
    pub index: String,
    /// The file that answers for a page that is missing, as the shell of a single-page application does. A missing style,
    /// script, image or font stays missing.
    #[schemars(extend("examples" = ["/index.html"]))]
    pub fallback: Option<PlainPath>,
    /// The page that is told, with 404, for what is missing.
    #[schemars(extend("examples" = ["/404.html"]))]
    pub not_found: Option<PlainPath>,
    /// Whether `app.js.br`, `app.js.zst` and `app.js.gz`, where they are not older, answer for `app.js`, as
    /// `Accept-Encoding` has it.
    #[serde(default = "yes")]
    pub precompressed: bool,
    /// Whether names that begin with a dot are served, too. `.well-known` always is.
    #[serde(default)]
    pub hidden: bool,
}

fn index() -> String {
    "index.html".to_owned()
}

/// Bounds of the time to live of DNS answers.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Refresh {
    /// A shorter one counts as this.
    pub min: Time,
    /// A longer one counts as this.
    pub max: Time,
}

impl Default for Refresh {
    fn default() -> Refresh {
        Refresh { min: Time(Duration::from_secs(1)), max: Time(Duration::from_secs(300)) }
    }
}

/// How to speak to an upstream.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    H2,
    /// What TLS negotiates.
    Auto,
}

/// TLS to an upstream.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The name to ask for and to verify. Without it: the host name of `dns`, or the endpoint's address.
    pub server_name: Option<String>,
    /// PEM file of the authorities to trust. Without it: the system's.
    pub ca: Option<File>,
    /// Accept any certificate. For tests, and for networks that are trusted anyway.
    pub insecure: bool,
    /// PEM file of the certificate that the upstream is shown, the leaf first (mutual TLS).
    pub cert: Option<File>,
    /// PEM file of its private key.
    pub key: Option<File>,
    /// SHA-256 of the public keys (SubjectPublicKeyInfo) that the upstream may have, in hexadecimal digits, whoever vouches for it.
    /// None: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Hash>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// In turn, by weight.
    RoundRobin,
    /// The less busy of two drawn by chance.
    LeastRequest,
    /// The one of two that has answered sooner and is less busy.
    PeakEwma,
    /// The same one for the same `hash_on`, unless it is overloaded.
    RingHash,
    /// By chance and weight.
    Random,
}

/// Shuffle sharding: how many endpoints serve a tenant, or a table.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum ShuffleShard {
    /// So many endpoints.
    Size(#[schemars(range(min = 1, max = 32))] u32),
    /// So many endpoints, and what becomes of a tenant when they are down.
    Table(ShuffleShardTable),
}

impl ShuffleShard {
    /// The table, with what is not given.
    #[must_use]
    pub fn table(&self) -> ShuffleShardTable {
        match self {
            ShuffleShard::Size(size) => ShuffleShardTable { size: *size, when_down: WhenDown::Refuse },
            ShuffleShard::Table(table) => table.clone(),
        }
    }
}

/// Shuffle sharding with what becomes of a tenant when its endpoints are down.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ShuffleShardTable {
    /// How many endpoints serve a tenant.
    #[schemars(range(min = 1, max = 32))]
    pub size: u32,
    /// What becomes of a tenant none of whose endpoints is usable.
    #[serde(default)]
    pub when_down: WhenDown,
}

/// What becomes of a tenant none of whose endpoints is usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenDown {
    /// It is refused: what has taken them down may be its own requests.
    #[default]
    Refuse,
    /// All endpoints serve it.
    Spill,
}

/// Active checks of endpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// The path of an HTTP GET. Without it: a connection is enough.
    pub path: Option<PlainPath>,
    /// The `Host` of the check. Without it: the endpoint's address.
    pub host: Option<HeaderText>,
    /// Statuses that mean healthy.
    pub statuses: Statuses,
    /// Between two checks.
    pub interval: Time,
    /// For one check.
    pub timeout: Time,
    /// Successes in a row that make an unhealthy endpoint healthy.
    #[schemars(range(min = 1, max = 1000))]
    pub healthy: u32,
    /// Failures in a row that make a healthy endpoint unhealthy.
    #[schemars(range(min = 1, max = 1000))]
    pub unhealthy: u32,
}

impl Default for Health {
    fn default() -> Health {
        Health {
            path: None,
            host: None,
            statuses: Statuses((200, 399)),
            interval: Time(Duration::from_secs(1)),
            timeout: Time(Duration::from_millis(500)),
            healthy: 2,
            unhealthy: 3,
        }
    }
}

/// Ejection of endpoints that fail while others do not.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outlier {
    /// Failures in a row (5xx, resets, time-outs) that eject. Zero: never.
    pub consecutive: u32,
    /// How long an ejection lasts before one request finds out whether it may end; doubled each time that it may not.
    pub base: Time,
    /// No ejection lasts longer.
    pub max: Time,
    /// At most this share of the endpoints is ejected at once.
    pub max_ejected: Percent,
}

impl Default for Outlier {
    fn default() -> Outlier {
        Outlier {
            consecutive: 5,
            base: Time(Duration::from_secs(10)),
            max: Time(Duration::from_secs(300)),
            max_ejected: Percent(50),
        }
    }
}

/// Calls at once: a number, a word, or a table.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Concurrency {
    /// So many.
    Fixed(#[schemars(range(min = 1))] u32),
    /// As many as make the upstream answer most.
    Word(Adaptive),
    /// The same, between two ends.
    Between(Between),
}

/// A concurrency that is found.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Adaptive {
    /// As many as make the upstream answer most.
    Adaptive,
}

/// The ends of a concurrency that is found from what the upstream answers.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Between {
    /// Never fewer.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min: u32,
    /// Never more.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: u32,
    /// So many at first.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub initial: u32,
}

impl Default for Between {
    fn default() -> Between {
        Between { min: 2, max: 1000, initial: 10 }
    }
}

/// The waiting list before an upstream: tenants take turns in it by the weights of their plans.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Waiting {
    /// Requests that may wait.
    #[schemars(range(max = 1_000_000))]
    pub limit: u32,
    /// Requests of one tenant that may wait. Without it: as many as `limit`, the tenant that asks for most making room.
    #[schemars(range(max = 1_000_000))]
    pub per_tenant: Option<u32>,
    /// Bytes that all requests that wait may hold together: their heads, and up to 64 KiB of each body.
    pub bytes: Size,
    /// How long one may wait.
    pub wait: Time,
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting {
            limit: 1000,
            per_tenant: None,
            bytes: Size(64 << 20),
            wait: Time(Duration::from_millis(200)),
        }
    }
}

/// A circuit breaker. While it is open, requests are refused at once, or take the route's `fallback`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Failures in a row that open it.
    #[schemars(range(min = 1))]
    pub consecutive: u32,
    /// How long it stays open before it lets one probe through; doubled, up to sixteen times, while probes fail.
    pub cooldown: Time,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { consecutive: 5, cooldown: Time(Duration::from_secs(5)) }
    }
}
