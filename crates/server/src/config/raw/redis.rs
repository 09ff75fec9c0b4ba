//! `[redis]`: where nodes meet.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;
use crate::config::scalar::{Size, Time};
use crate::config::text::{File, Name};

/// The Redis (or Valkey) through which purges reach all nodes.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Where it is: `redis://[USER:PASSWORD@]HOST:PORT[/DATABASE]`, `rediss://…` for TLS, or `unix:///PATH`.
    pub url: Secret,
    /// What all of its keys begin with. Nodes with one prefix belong together.
    #[serde(default = "prefix")]
    pub prefix: Name,
    /// The authority that signs its certificate, a PEM file. Without it: the system's authorities.
    pub ca: Option<File>,
    /// How long connecting may take.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Time,
    /// How long an answer may take. Traffic never waits for it.
    #[serde(default = "timeout")]
    pub timeout: Time,
    /// Purges that are kept for nodes that are away. Who was away for longer takes all that it has for stale.
    #[serde(default = "orders")]
    #[schemars(range(min = 1, max = 65_536))]
    pub orders: u32,
}

/// Answers that all nodes share, in the Redis of `[redis]`, below memory. A request waits for it only shortly.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheRedis {
    /// The largest content of one answer that is shared.
    pub object: Size,
    /// How long a request waits for it at most, before it asks the upstream.
    pub wait: Time,
    /// How long an answer stays there once it is stale, if it says nothing longer itself: for what may be served stale.
    pub stale: Time,
}

impl Default for CacheRedis {
    fn default() -> CacheRedis {
        CacheRedis {
            object: Size(256 << 10),
            wait: Time(std::time::Duration::from_millis(20)),
            stale: Time(std::time::Duration::from_secs(600)),
        }
    }
}

fn prefix() -> Name {
    Name("tidegate".to_owned())
}

fn connect_timeout() -> Time {
    Time(std::time::Duration::from_secs(1))
}

fn timeout() -> Time {
    Time(std::time::Duration::from_millis(500))
}

fn orders() -> u32 {
    32_768
}
