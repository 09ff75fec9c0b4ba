//! What the control API answers where the answer is written by hand: the same as types, for its description alone. Nothing
//! that is not named here may be in such an answer; the end-to-end tests hold each one against it.
#![allow(dead_code, reason = "they describe what is written elsewhere")]

pub mod cache;
pub mod domains;
pub mod status;
pub mod webhooks;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::Value;

/// How many deliveries there are in each state.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CountsTold {
    /// They come after others.
    blocked: u64,
    /// Their time has not come.
    scheduled: u64,
    /// They may be begun.
    ready: u64,
    /// An attempt is under way, or somebody has them.
    leased: u64,
    /// They went well, and are kept.
    delivered: u64,
    /// They were given up, and are kept.
    dead: u64,
    /// Nobody wants them any more, and they are kept.
    cancelled: u64,
}

/// A queue.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct QueueTold {
    /// Its name.
    name: String,
    /// Where its deliveries go.
    way: WayTold,
    /// Attempts that may be under way at once.
    concurrency: Option<u64>,
    /// Attempts that a delivery may have.
    attempts: u64,
    /// Whether those of a key are made in their order.
    ordered: bool,
    /// How long an attempt, or a lease, may take: `"30s"`.
    timeout: String,
    /// Deliveries of a tenant that may wait.
    waiting_max: u64,
    /// Nothing of it is begun, as somebody wants it so.
    paused: bool,
    /// What is paused of it.
    paused_parts: Vec<PartTold>,
    /// How many there are.
    counts: CountsTold,
    /// Bytes that they count for.
    bytes: u64,
    /// Since when the oldest may be begun (RFC 3339).
    oldest: Option<String>,
    /// Attempts, or leases, under way.
    under_way: u64,
    /// Nothing of it is begun, as its upstream's breaker is open or its gate is full.
    parked: bool,
    /// Of its tenants, where this queue alone is asked for.
    lines: Option<Vec<LineTold>>,
}

/// Where deliveries go.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum WayTold {
    /// To this upstream.
    Push(String),
    /// To whoever comes for them.
    Pull,
    /// To the destinations of webhooks.
    Webhooks,
}

/// A tenant of a queue, or a key of it, that is paused.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PartTold {
    /// Whose.
    tenant: String,
    /// This key's alone.
    key: Option<String>,
}

/// What a tenant has in a queue.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LineTold {
    /// Whose.
    tenant: String,
    /// How many.
    counts: CountsTold,
    /// Bytes that they count for.
    bytes: u64,
}

/// All queues.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct QueuesTold {
    /// Each of them.
    queues: Vec<QueueTold>,
    /// Tenants of whom nothing is begun in whatever queue.
    paused_tenants: Vec<String>,
}

/// A delivery.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DeliveryTold {
    /// What it is found by.
    id: String,
    /// Its queue.
    queue: String,
    /// Whose it is.
    tenant: String,
    /// The key that it is in order by.
    key: Option<String>,
    /// How far it has come.
    state: StateTold,
    /// Who of a tenant's goes first: `critical`, `default` or `sheddable`.
    priority: String,
    /// When it was accepted (RFC 3339).
    created: String,
    /// From when on it may be begun.
    due: String,
    /// From when on it is not begun any more.
    expires: Option<String>,
    /// Attempts that were begun.
    attempts: u64,
    /// Attempts that it may have; null: as its queue says.
    attempts_max: Option<u64>,
    /// Deliveries that it comes after and that have not ended.
    waits_for: u64,
    /// What whoever has it told of how far it is.
    progress: Value,
    /// Why its last attempt did not go well, or why it ended.
    why: Option<String>,
    /// When it is forgotten.
    forgotten: Option<String>,
    /// What is sent, where this delivery alone is asked for.
    request: Option<RequestTold>,
    /// The attempts that are remembered, where this delivery alone is asked for.
    attempts_made: Option<Vec<AttemptTold>>,
    /// What was answered in the end, where that is kept.
    result: Option<ResultTold>,
}

/// How far a delivery has come.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum StateTold {
    /// It comes after others.
    Blocked,
    /// Its time has not come.
    Scheduled,
    /// It may be begun.
    Ready,
    /// An attempt is under way, or somebody has it.
    Leased,
    /// It went well.
    Delivered,
    /// It was given up.
    Dead,
    /// Nobody wants it any more.
    Cancelled,
}

/// What is sent: `body` if it is text, else `base64`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RequestTold {
    /// The method.
    method: String,
    /// The path and query.
    path: String,
    /// The headers, credentials hidden.
    headers: BTreeMap<String, String>,
    /// Text.
    body: Option<String>,
    /// Bytes.
    base64: Option<String>,
}

/// An attempt.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct AttemptTold {
    /// Its number, from 1.
    number: u64,
    /// When it began (RFC 3339).
    began: String,
    /// How long it took.
    took_ms: u64,
    /// What was answered.
    status: Option<u16>,
    /// Why it did not go well.
    why: Option<String>,
    /// The beginning of the answer.
    answer: String,
}

/// What was answered: `body` if it is text, else `base64`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ResultTold {
    /// The status.
    status: u16,
    /// The headers, credentials hidden.
    headers: BTreeMap<String, String>,
    /// Whether all of it was kept.
    whole: bool,
    /// Text.
    body: Option<String>,
    /// Bytes.
    base64: Option<String>,
}

/// A page of deliveries.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DeliveriesTold {
    /// Each of them, without its request.
    deliveries: Vec<DeliveryTold>,
    /// The `cursor` of the next page; null: there is none.
    next: Option<String>,
}

/// What somebody has got.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ClaimTold {
    /// Each of them.
    deliveries: Vec<ClaimedTold>,
}

/// One of them: `body` if it is text, else `base64`.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ClaimedTold {
    /// What it is held by.
    grip: String,
    /// What it is found by.
    id: String,
    /// Whose it is.
    tenant: String,
    /// The key that it is in order by.
    key: Option<String>,
    /// The attempt's number, from 1.
    attempt: u64,
    /// Until when it is held (RFC 3339).
    until: String,
    /// The method.
    method: String,
    /// The path and query.
    path: String,
    /// The headers: name and value of each.
    headers: Vec<[String; 2]>,
    /// Text.
    body: Option<String>,
    /// Bytes.
    base64: Option<String>,
}

/// All schedules.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SchedulesTold {
    /// Each of them.
    schedules: Vec<ScheduleTold>,
}

/// A schedule.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ScheduleTold {
    /// Its name.
    name: String,
    /// When it is made.
    cron: String,
    /// By the clocks of this time zone.
    zone: String,
    /// What becomes of runs that were missed.
    missed: String,
    /// The queue of its runs.
    queue: String,
    /// Whose they are.
    tenant: String,
    /// Nothing of it is made.
    paused: bool,
    /// Up to when its runs were made (RFC 3339).
    seen: Option<String>,
    /// When the next run is.
    next: Option<String>,
}

/// What is injected.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct FaultsTold {
    /// Whether any may be.
    enabled: bool,
    /// The faults that have not ended, the oldest first.
    faults: Vec<FaultTold>,
}

/// A fault: one of `delay`, `abort`, `reset`, `throttle` and `truncate` says what it does.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct FaultTold {
    /// Its name.
    name: String,
    /// Exchanges wait so long: `"2s"`.
    delay: Option<String>,
    /// They are answered with this status.
    abort: Option<u16>,
    /// Their connections are reset.
    reset: Option<bool>,
    /// Answers come at so many bytes a second.
    throttle: Option<u64>,
    /// Answers end after so many bytes.
    truncate: Option<u64>,
    /// It strikes this tenant alone.
    tenant: Option<String>,
    /// It strikes this route alone.
    route: Option<String>,
    /// The share of exchanges that it strikes, up to 1.
    share: f64,
    /// Whose token injected it.
    by: String,
    /// When it ends (RFC 3339).
    until: String,
    /// How long that is from now on.
    left_ms: u64,
    /// Exchanges that it has struck.
    struck: u64,
}

/// A fault to be injected: one of `delay`, `abort`, `reset`, `throttle` and `truncate` says what it does.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NewFault {
    /// Its name.
    name: String,
    /// When it ends by itself: after `"5m"`, an hour at most.
    duration: String,
    /// It strikes this tenant alone.
    tenant: Option<String>,
    /// It strikes this route alone.
    route: Option<String>,
    /// The share of exchanges that it strikes, above 0 and up to 1; all, where nothing is said.
    share: Option<f64>,
    /// Exchanges wait so long: `"2s"`, five minutes at most.
    delay: Option<String>,
    /// They are answered with this status, 200 to 599.
    abort: Option<u16>,
    /// Their connections are reset: `true`.
    reset: Option<bool>,
    /// Answers come at so many bytes a second.
    throttle: Option<SizeSaid>,
    /// Answers end after so many bytes.
    truncate: Option<SizeSaid>,
}

/// A number of bytes.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum SizeSaid {
    /// In bytes.
    Bytes(u64),
    /// With its unit: `"10KiB"`.
    Text(String),
}
