//! `mirror` on a route: its requests are made once more elsewhere, and the answers compared.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HeaderChanges, Switch};
use crate::config::scalar::{Portion, Size, Time};
use crate::config::text::{Header, Name, PlainPath, Verb};

/// Makes requests once more to another upstream, and compares its answers with those that clients get. No client waits for
/// it. See `docs/mirroring.md`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The upstream that gets the copies.
    pub upstream: Name,
    /// The share of requests that are copied.
    #[serde(default = "share")]
    pub share: Portion,
    /// Of these tenants alone. Without it: of all.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub tenants: Vec<String>,
    /// With these methods. What is copied has its effects twice.
    #[serde(default = "methods")]
    #[schemars(length(min = 1))]
    pub methods: Vec<Verb>,
    /// The largest body of a request; one with more is not copied.
    #[serde(default = "body_max")]
    pub body_max: Size,
    /// How long the mirror may take to answer, to the last byte.
    #[serde(default = "timeout")]
    pub timeout: Time,
    /// Copies of this route that may be under way at once; further ones are left out.
    #[serde(default = "concurrency")]
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: u32,
    /// What stands for the matched part of the path. Without it: what the route forwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<PlainPath>,
    /// Changes to the copy's headers: removed, then set, then added.
    #[serde(default)]
    pub request_headers: HeaderChanges,
    /// Whether answers are compared: `{}`, `true`, or a table.
    #[serde(default = "uncompared")]
    pub compare: Switch<MirrorCompare>,
}

/// How answers are compared: the status, the body, and what is said here.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorCompare {
    /// Headers that are compared.
    #[schemars(length(max = 64))]
    pub headers: Vec<Header>,
    /// Places in JSON that may differ, as pointers in which `*` is any one step.
    #[schemars(length(max = 64), extend("examples" = ["/items/*/updatedAt"]))]
    pub ignore: Vec<String>,
    /// Arrays in JSON whose order says nothing.
    #[schemars(length(max = 64))]
    pub unordered: Vec<String>,
    /// The largest body that is compared, as it is and decoded.
    pub body_max: Size,
    /// Of answers that differed, so many of the last are kept with what differed in them. Zero: none.
    #[schemars(range(max = 500))]
    pub samples: u32,
    /// When the report says that the route may be moved.
    pub ready: MirrorReady,
}

/// When the report says that a route may be moved.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorReady {
    /// So many answers were compared.
    pub compared: u64,
    /// For so long.
    pub over: Time,
    /// The share that differed, or was missing, is below this with 95 % confidence.
    pub differing: Portion,
    /// The mirror's p99 is at most so many times the upstream's. Without it: latencies are told alone.
    #[schemars(range(min = 0.1, max = 1000.0))]
    pub latency: Option<f64>,
}

impl Default for MirrorCompare {
    fn default() -> MirrorCompare {
        MirrorCompare {
            headers: Vec::new(),
            ignore: Vec::new(),
            unordered: Vec::new(),
            body_max: Size(64 << 10),
            samples: 50,
            ready: MirrorReady::default(),
        }
    }
}

impl Default for MirrorReady {
    fn default() -> MirrorReady {
        MirrorReady {
            compared: 1000,
            over: Time(Duration::from_secs(3600)),
            differing: Portion(5_000),
            latency: None,
        }
    }
}

fn share() -> Portion {
    Portion(tidegate_model::mirror::WHOLE)
}

fn methods() -> Vec<Verb> {
    vec![Verb(http::Method::GET), Verb(http::Method::HEAD)]
}

fn body_max() -> Size {
    Size(64 << 10)
}

fn timeout() -> Time {
    Time(Duration::from_secs(5))
}

fn concurrency() -> u32 {
    64
}

fn uncompared() -> Switch<MirrorCompare> {
    Switch::Toggle(false)
}
