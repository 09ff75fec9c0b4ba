//! `[webhook]`, and `incoming` at routes: what is told to tenants' servers, and what others' servers tell.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Secret;
use crate::config::scalar::{Size, Time};
use crate::config::text::{File, Name, Net, PlainPath};

/// Webhooks to tenants' destinations. See `docs/webhooks.md`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// Who publishes, a URL: `source` of CloudEvents, and, by its host, who asks their receivers.
    pub source: String,
    /// Where receivers of CloudEvents may call back to consent later: a URL that leads to a listener for clients, without a path.
    /// Without it: they consent at once, or not.
    pub callback: Option<String>,
    /// Networks that may be called although they are not public.
    pub allow: Vec<Net>,
    /// Networks that may not be called although they are public: those of hosts of your own.
    pub deny: Vec<Net>,
    /// Ports that may be called. Without it: 80, 443 and from 1024 on.
    pub ports: Vec<u16>,
    /// Whether `http` may be called beside `https`.
    pub plaintext: bool,
    /// The name server that destinations' names are asked of, `ADDRESS:PORT`. Without it: the system's.
    pub resolver: Option<String>,
    /// The authorities that sign destinations' certificates, a PEM file. Without it: the system's authorities.
    pub ca: Option<File>,
    /// To resolve a name and to connect, TLS included.
    pub connect_timeout: Time,
    /// The whole of an attempt.
    pub timeout: Time,
    /// Pauses between attempts, where a destination has none of its own. By chance each is up to a fifth longer.
    pub schedule: Vec<Time>,
    /// How long events, and what became of them, are kept.
    pub retention: Time,
    /// A destination that does nothing but fail for so long is disabled.
    pub disable_after: Time,
    /// How long a secret that was replaced goes on signing.
    pub overlap: Time,
    /// Attempts at once.
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: u32,
    /// Attempts of one tenant at once: what its destinations hang in is nobody else's. Without it: half of `concurrency`.
    #[schemars(range(min = 1, max = 10_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_tenant: Option<u32>,
    /// Attempts of one destination at once.
    #[schemars(range(min = 1, max = 1000))]
    pub per_destination: u32,
    /// Destinations of one tenant.
    #[schemars(range(min = 1, max = 1000))]
    pub destinations: u32,
    /// Bytes of the events that are kept of one tenant.
    pub events: Size,
    /// Whether only types of the catalogue may be published.
    pub strict: bool,
}

impl Default for Webhook {
    fn default() -> Webhook {
        let (seconds, days) =
            (|s: u64| Time(Duration::from_secs(s)), |d: u64| Time(Duration::from_secs(d * 86_400)));
        Webhook {
            source: "https://tidegate.invalid".to_owned(),
            callback: None,
            allow: Vec::new(),
            deny: Vec::new(),
            ports: Vec::new(),
            plaintext: false,
            resolver: None,
            ca: None,
            connect_timeout: seconds(5),
            timeout: seconds(20),
            schedule: tidegate_model::webhook::destination::SCHEDULE
                .iter()
                .map(|pause| seconds(*pause))
                .collect(),
            retention: days(30),
            disable_after: days(5),
            overlap: days(1),
            concurrency: 100,
            per_tenant: None,
            per_destination: 10,
            destinations: 50,
            events: Size(256 << 20),
            strict: false,
        }
    }
}

/// Takes webhooks that others' servers send: verified, kept, answered, and delivered by a queue.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Incoming {
    /// How their sender signs.
    pub scheme: Scheme,
    /// The secret, or several while one replaces another.
    pub secret: Secrets,
    /// The queue that they are put into.
    pub queue: Name,
    /// The path of the request to the application. Without it: that which it came by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PlainPath>,
    /// How far the sender's clock and ours may be apart.
    #[serde(default = "tolerance")]
    pub tolerance: Time,
    /// How long a repeat is known.
    #[serde(default = "remember")]
    pub remember: Time,
    /// Bytes of one.
    #[serde(default = "body")]
    pub body: Size,
}

/// How a sender signs.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// As Standard Webhooks says.
    Standard,
    /// As Stripe does.
    Stripe,
    /// As GitHub does.
    Github,
    /// As Slack does.
    Slack,
}

/// A secret, or several.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Secrets {
    /// Several: each is good.
    Many(Vec<Secret>),
    /// One.
    One(Secret),
}

fn tolerance() -> Time {
    Time(Duration::from_secs(300))
}

fn remember() -> Time {
    Time(Duration::from_secs(3 * 86_400))
}

fn body() -> Size {
    Size(1 << 20)
}
