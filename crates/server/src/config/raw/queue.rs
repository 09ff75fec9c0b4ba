//! `[queue.*]` and `[schedule.*]`: what is accepted now and made later.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Priority, Rates};
use crate::config::scalar::{Size, Time};
use crate::config::text::{HeaderText, Name, PlainPath, Verb};

/// A queue: deliveries that wait for their turn. See `docs/queues.md`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// The upstream that its requests are made to. Exactly one of `upstream` and `pull`.
    pub upstream: Option<Name>,
    /// Whether the application comes for its deliveries, over the control API.
    pub pull: bool,
    /// The path of deliveries that say none.
    pub path: PlainPath,
    /// The method of deliveries that say none.
    pub method: Verb,
    /// Attempts at once, over all tenants; of a queue that is pulled: leases at once.
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: u32,
    /// Attempts of one tenant at once. Without it: as many as `concurrency`.
    #[schemars(range(min = 1, max = 100_000))]
    pub tenant_concurrency: Option<u32>,
    /// Attempts begun in a time: `"100/s"`, or a table. Without it: not limited.
    pub rate: Option<Rates>,
    /// What holds for the deliveries of one tenant that have a key in common.
    pub per_key: PerKey,
    /// Attempts of one delivery, the first included.
    #[schemars(range(min = 1, max = 1000))]
    pub attempts: u32,
    /// When the next attempt is made: a table with the first pause, which doubles, and the longest; or a list of pauses, of
    /// which the last one stays. By chance each is up to a half shorter.
    pub backoff: Backoff,
    /// Statuses after which no further attempt is made, beside those that no repeat helps.
    #[schemars(inner(range(min = 300, max = 599)))]
    pub never: Vec<u16>,
    /// The longest attempt, to the last byte of its answer; of a queue that is pulled: a lease.
    pub timeout: Time,
    /// The priority of deliveries that say none.
    pub priority: Priority,
    /// How much earlier a delivery counts as due for each step of its priority: who waits longer than that comes first.
    pub aging: Time,
    /// Bytes of an answer that are kept as the delivery's result. `0B`: none is kept.
    pub results: Size,
    /// How long deliveries are kept that have ended.
    pub keep: Keep,
    /// What one tenant may have waiting.
    pub waiting: Waiting,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            upstream: None,
            pull: false,
            path: PlainPath("/".to_owned()),
            method: Verb(http::Method::POST),
            concurrency: 10,
            tenant_concurrency: None,
            rate: None,
            per_key: PerKey::default(),
            attempts: 10,
            backoff: Backoff::Doubling(Doubling::default()),
            never: Vec::new(),
            timeout: Time(Duration::from_secs(30)),
            priority: Priority::Default,
            aging: Time(Duration::from_secs(60)),
            results: Size(0),
            keep: Keep::default(),
            waiting: Waiting::default(),
        }
    }
}

/// What holds for the deliveries of one tenant that have a key in common.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerKey {
    /// Whether they are made one after the other, in the order in which they were accepted. One that fails holds up its key
    /// alone.
    pub ordered: bool,
    /// How many of them are under way at once, what waits for its next attempt included. Without it: not limited.
    #[schemars(range(min = 1, max = 100_000))]
    pub concurrency: Option<u32>,
    /// Attempts begun in a time. Without it: not limited.
    pub rate: Option<Rates>,
}

/// When a failed attempt is made again.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Backoff {
    // First: a list would pass for a table without its keys.
    /// These pauses, one after the other.
    Pauses(Vec<Time>),
    /// The pause doubles.
    Doubling(Doubling),
}

/// A pause that doubles.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Doubling {
    /// The first pause.
    pub first: Time,
    /// The longest.
    pub max: Time,
}

impl Default for Doubling {
    fn default() -> Doubling {
        Doubling { first: Time(Duration::from_secs(1)), max: Time(Duration::from_secs(3600)) }
    }
}

/// How long deliveries are kept that have ended.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    /// Those that were answered well.
    pub delivered: Time,
    /// Those that were given up: so long they can be looked at and made again.
    pub dead: Time,
    /// Those that were cancelled.
    pub cancelled: Time,
}

impl Default for Keep {
    fn default() -> Keep {
        let days = |days: u64| Time(Duration::from_secs(days * 86_400));
        Keep { delivered: days(1), dead: days(14), cancelled: days(1) }
    }
}

/// What one tenant may have waiting.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Waiting {
    /// Deliveries in this queue that have not ended.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub deliveries: u64,
    /// Bytes of all its deliveries, in whatever queue.
    pub bytes: Size,
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting { deliveries: 1_000_000, bytes: Size(1 << 30) }
    }
}

/// A schedule: a delivery that is made again and again. See `docs/schedules.md`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// When: minute, hour, day of the month, month, day of the week; seconds may stand before them.
    #[schemars(extend("examples" = ["30 9 * * MON-FRI"]))]
    pub cron: String,
    /// The time zone that it is meant in.
    #[serde(default = "utc")]
    #[schemars(extend("examples" = ["Europe/Berlin"]))]
    pub zone: String,
    /// What becomes of runs whose time passes while Tidegate is not running.
    #[serde(default)]
    pub missed: Missed,
    /// The queue that each run is put into.
    pub queue: Name,
    /// Whose the deliveries are.
    #[serde(default = "system")]
    pub tenant: String,
    /// The key that its deliveries have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The method of the request. Without it: the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Verb>,
    /// Its path and query. Without it: the queue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PlainPath>,
    /// Its headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, HeaderText>,
    /// Its body.
    #[serde(default)]
    pub body: String,
    /// Whether it rests: no run is made.
    #[serde(default)]
    pub paused: bool,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn system() -> String {
    "system".to_owned()
}

/// What becomes of runs that were missed.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They are left out.
    Skip,
    /// The last of them is made.
    #[default]
    Once,
    /// Each of them is made, the last 100 at most.
    All,
}
