//! `[cluster]`: nodes that ask each other before the upstream.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;
use crate::config::scalar::Time;
use crate::config::text::{Address, File};

/// The nodes that ask each other before the upstream: each target has one of them for its home. See `docs/cluster.md`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Where this node listens for the others, and for nobody else.
    pub listen: Address,
    /// All nodes, this one included, as `ADDRESS:PORT` or `NAME:PORT`: the same list on each of them. Names are resolved again
    /// when their TTL ends.
    #[schemars(length(min = 1, max = 64))]
    pub nodes: Vec<String>,
    /// Which of `nodes` this one is. Without it: the one that `listen` is.
    #[serde(rename = "self", skip_serializing_if = "Option::is_none")]
    pub me: Option<String>,
    /// What all nodes have in common, and nobody else has: 32 bytes at least.
    pub secret: Secret,
    /// TLS between the nodes. Without it, their network must be one that nobody else reads or writes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTls>,
    /// How long connecting to another node may take.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Time,
    /// How long a word of a home is waited for before the upstream is asked. A home that waits for the upstream itself says
    /// so meanwhile, however long that takes.
    #[serde(default = "wait")]
    pub wait: Time,
}

/// TLS between the nodes.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTls {
    /// This node's certificate, a PEM file.
    pub cert: File,
    /// Its private key, a PEM file.
    pub key: File,
    /// The authorities that sign the others' certificates, a PEM file. Without it: the system's.
    pub ca: Option<File>,
    /// The name that all certificates are for. Without it: each node's name or address in `nodes`.
    pub server_name: Option<String>,
}

fn connect_timeout() -> Time {
    Time(std::time::Duration::from_millis(500))
}

fn wait() -> Time {
    Time(std::time::Duration::from_secs(1))
}
