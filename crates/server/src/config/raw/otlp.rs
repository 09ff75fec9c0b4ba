//! `[otlp]`: where traces and metrics are sent.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Secret, Switch};
use crate::config::scalar::{PerTime, Portion, Time};
use crate::config::text::File;

/// The collector that traces and metrics are sent to, by OTLP over HTTP (protobuf).
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// Where it is: a URL, to which `/v1/traces` and `/v1/metrics` are added.
    pub endpoint: String,
    /// Fields of each request, `{ authorization = { env = "OTLP_TOKEN" } }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// The authority that signs its certificate, a PEM file. Without it: the system's authorities.
    pub ca: Option<File>,
    /// How long one request may take. Traffic never waits for it.
    #[serde(default = "timeout")]
    pub timeout: Time,
    /// What else is said of this process, beside `service.name` and its like: `{ "deployment.environment.name" = "production" }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resource: BTreeMap<String, String>,
    /// Which traces are sent; `false`: none.
    #[serde(default = "traces")]
    pub traces: Switch<OtlpTraces>,
    /// Whether metrics are sent, those of `GET /metrics`; `false`: they are not.
    #[serde(default = "metrics")]
    pub metrics: Switch<OtlpMetrics>,
}

/// Which traces are sent. It is decided when an exchange has ended.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpTraces {
    /// The share of all of them that is sent whatever came of them, drawn by the trace's id.
    pub share: Portion,
    /// Whether all are sent that failed: answered with 5xx, broken off, attempts that were not accepted.
    pub errors: bool,
    /// All are sent whose answer's head took so long.
    pub slow: Time,
    /// How many are sent at most because they failed or were slow.
    pub most: PerTime,
    /// How many may wait of one core. What comes beyond is dropped and counted.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue: u32,
    /// Whose `traceparent` may say that its trace is recorded, and then is sent.
    pub parents: Parents,
}

impl Default for OtlpTraces {
    fn default() -> OtlpTraces {
        OtlpTraces {
            share: Portion(10_000),
            errors: true,
            slow: Time(Duration::from_secs(1)),
            most: PerTime((100, Duration::from_secs(1))),
            queue: 2048,
            parents: Parents::Trusted,
        }
    }
}

/// Whose word counts.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Parents {
    /// That of `trusted_proxies`.
    Trusted,
    /// Everybody's: a client then decides how much is sent.
    All,
    /// Nobody's.
    None,
}

/// How metrics are sent.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpMetrics {
    /// How often.
    pub interval: Time,
}

impl Default for OtlpMetrics {
    fn default() -> OtlpMetrics {
        OtlpMetrics { interval: Time(Duration::from_secs(60)) }
    }
}

fn timeout() -> Time {
    Time(Duration::from_secs(10))
}

fn traces() -> Switch<OtlpTraces> {
    Switch::Toggle(true)
}

fn metrics() -> Switch<OtlpMetrics> {
    Switch::Toggle(true)
}
