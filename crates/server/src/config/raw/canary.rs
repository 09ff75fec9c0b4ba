//! `canary` on a route: its next version gets a share of its requests, which grows or is taken back.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::scalar::{Percent, Portion, Time};
use crate::config::text::{Hashed, Name};

/// Gives a share of requests to the next version: it grows step by step while that does as well as the route's upstream, and
/// is taken back when it does not. See `docs/mirroring.md`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The next version's upstream.
    pub upstream: Name,
    /// Its shares, one after the other, each larger than the one before. After the last, it has all.
    #[serde(default = "steps")]
    #[schemars(length(min = 1, max = 32))]
    pub steps: Vec<Portion>,
    /// How long each step lasts, at least.
    #[serde(default = "every")]
    pub every: Time,
    /// Who stays with a version while the share is the same, and with the canary while it grows: `tenant`, `client-ip`,
    /// `header:NAME`, `cookie:NAME`.
    #[serde(default = "sticky")]
    pub sticky: Hashed,
    /// Whether it begins by command alone.
    #[serde(default)]
    pub manual: bool,
    /// Whether a request that failed with the canary is made to the route's upstream: as with `fallback`, where nothing was sent
    /// or its method is safe.
    #[serde(default = "fallback")]
    pub fallback: bool,
    /// When it is taken back.
    #[serde(default)]
    pub rollback: CanaryRollback,
}

/// When a canary is taken back.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryRollback {
    /// Its share of errors (5xx, or no answer) is larger than the other's by more than this, and not by chance.
    pub errors: Portion,
    /// Its latency is more than so many times the other's, and not by chance.
    #[schemars(range(min = 1.0, max = 1000.0))]
    pub latency: f64,
    /// Which quantile of it.
    pub quantile: Percent,
    /// Answers of each side that are needed to judge latency, and of the canary to leave a step.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min: u64,
    /// How long an answer counts; all of a step's count besides.
    pub window: Time,
}

impl Default for CanaryRollback {
    fn default() -> CanaryRollback {
        CanaryRollback {
            errors: Portion(10_000),
            latency: 1.5,
            quantile: Percent(95),
            min: 200,
            window: Time(Duration::from_secs(60)),
        }
    }
}

fn steps() -> Vec<Portion> {
    [50_000, 250_000, 500_000].map(Portion).to_vec()
}

fn every() -> Time {
    Time(Duration::from_secs(600))
}

fn sticky() -> Hashed {
    Hashed(tidegate_upstream::settings::HashOn::Tenant)
}

fn fallback() -> bool {
    true
}
