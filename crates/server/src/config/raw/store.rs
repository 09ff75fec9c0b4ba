//! `[store]`: where what must survive a crash is kept; and what routes keep there.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EnvSecret, FileSecret};
use crate::config::scalar::{Percent, Size, Time};
use crate::config::text::{File, StoreUrl};

/// Where what must survive a crash is kept.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// `sqlite:` and a directory for this alone, on a disk of this machine: it is made where there is none, and one process
    /// has it at a time. Or `postgres://USER[:PASSWORD]@HOST/DATABASE`, which nodes may share: see `docs/store.md`.
    pub url: StorePlace,
    /// The most bytes of its database. Of one in PostgreSQL, of the records in it.
    #[serde(default = "size")]
    pub size: Size,
    /// The share of it that one tenant's answers may have. What goes beyond is told once and not kept.
    #[serde(default = "tenant_share")]
    pub tenant_share: Percent,
    /// The authority that signs PostgreSQL's certificate, a PEM file. Without it: the system's authorities.
    pub ca: Option<File>,
    /// How long a request waits for PostgreSQL: 5 s. What has happened already waits twice as long to be recorded.
    pub timeout: Option<Time>,
    /// How long a node that PostgreSQL has not heard of is believed to be at work: 10 s. What it had begun is unknown from
    /// then on.
    pub lease: Option<Time>,
    /// Parts that deliveries are divided into by their tenants, each of them made by one node at a time: of a store in
    /// PostgreSQL, 1 where nothing is said. What a queue may is divided, too. It is fixed when the database is made.
    #[schemars(range(min = 1, max = 64))]
    pub shards: Option<u16>,
    /// What other nodes call this one: of a store in PostgreSQL. Without it: its place in `[cluster]`, or the machine's name.
    #[schemars(length(min = 1, max = 128))]
    pub node: Option<String>,
}

/// Where the store is: a URL, the name of an environment variable that holds it, or a file.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum StorePlace {
    /// The URL itself.
    Url(StoreUrl),
    /// In the environment.
    Env(EnvSecret),
    /// In a file.
    File(FileSecret),
}

fn size() -> Size {
    Size(8 << 30)
}

fn tenant_share() -> Percent {
    Percent(25)
}

/// How requests with the same `Idempotency-Key` have one effect.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouteIdempotency {
    /// Whether a request must bring a key, if its method is not idempotent by itself.
    pub required: bool,
    /// How long an answer is told again. A repeat that comes later has an effect of its own.
    pub ttl: Time,
    /// Bytes of the body of a request with a key: it is read whole before it is sent.
    pub body_max: Size,
    /// Bytes of the body of an answer that is kept. A longer one is passed on, and a repeat is refused.
    pub response_max: Size,
    /// How long a repeat waits for the first, within its deadline, before it is refused.
    pub wait: Time,
    /// Keys of one tenant at a time.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub keys: u32,
    /// Whether the upstream itself has one effect for one key: a request whose outcome is unknown is then sent again
    /// instead of refused.
    pub upstream: bool,
    /// Statuses by which the upstream says that it has done nothing: the key is free again.
    #[schemars(inner(range(min = 400, max = 599)))]
    pub release: Vec<u16>,
}

impl Default for RouteIdempotency {
    fn default() -> RouteIdempotency {
        RouteIdempotency {
            required: false,
            ttl: Time(Duration::from_secs(24 * 3600)),
            body_max: Size(1 << 20),
            response_max: Size(1 << 20),
            wait: Time(Duration::from_secs(5)),
            keys: 100_000,
            upstream: false,
            release: vec![401, 425, 429],
        }
    }
}
