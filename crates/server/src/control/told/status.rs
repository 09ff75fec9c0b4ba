//! What `/status` answers, and `/explain`: the same as types, for their description alone.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use tidegate_upstream::UpstreamStatus;

use super::super::maintenance::WindowTold;
use super::FaultTold;
use super::domains::CertificateTold;

/// The whole state.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct StatusTold {
    /// Tidegate's.
    version: String,
    /// The configuration in force.
    config: ConfigTold,
    /// This process, and those before it.
    process: ProcessTold,
    /// Client connections that are open.
    connections: u64,
    /// How overloaded the process is.
    load: LoadTold,
    /// Where clients come in.
    listeners: Vec<ListenerTold>,
    /// Null: none is configured.
    redis: Option<RedisTold>,
    /// What must survive a crash; null: there is no store.
    store: Option<StoreTold>,
    /// The nodes that ask each other; null: there is no cluster.
    cluster: Option<ClusterTold>,
    /// Certificates that are ordered; null: none are.
    certificates: Option<OrderedTold>,
    /// What is cached.
    cache: CacheTold,
    /// Each upstream.
    upstreams: Vec<UpstreamStatus>,
    /// Each plan.
    plans: Vec<PlanTold>,
    /// What is injected.
    faults: Vec<FaultTold>,
    /// What is in maintenance.
    maintenance: Vec<WindowTold>,
    /// The tenants.
    tenants: TenantsTold,
}

/// The configuration in force.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ConfigTold {
    /// Since when (RFC 3339).
    loaded_at: String,
    /// Times another one was put into force.
    reloads: u64,
    /// Times one was not.
    reloads_refused: u64,
    /// Why the last one was not; null: it was.
    last_error: Option<String>,
}

/// A process.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ProcessTold {
    /// Which of those that took over from one another, from 1.
    generation: u64,
    /// Its id.
    pid: u32,
    /// When it began (RFC 3339).
    since: String,
    /// Those that it or another took over from, and that have not ended.
    draining: Vec<ElderTold>,
}

/// A process that another has taken over from.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ElderTold {
    /// As of this process.
    generation: u64,
    /// Its id.
    pid: u32,
    /// When it was taken over from (RFC 3339).
    since: String,
    /// Connections that it has not finished.
    connections: u64,
}

/// How overloaded the process is, and by what.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LoadTold {
    /// 0 to 3.
    level: u8,
    /// Whom it refuses for want of memory: `calm` is nobody.
    shedding: String,
    /// Memory that it takes.
    memory_bytes: Option<u64>,
    /// Memory that it may take.
    memory_limit: Option<u64>,
    /// Bytes that bodies under way may make it hold.
    held_bytes: u64,
    /// And may at most.
    held_limit: Option<u64>,
    /// File descriptors.
    open_files: u64,
    /// And how many there may be.
    open_files_limit: Option<u64>,
    /// Connections, to clients and upstreams.
    connections_open: u64,
    /// And how many there may be.
    connections_limit: Option<u64>,
    /// Each core.
    cores: Vec<CoreTold>,
}

/// A core.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CoreTold {
    /// How late it is.
    lag_ms: f64,
    /// How full its list of connections that wait to be accepted is, 0 to 1.
    backlog: f64,
    /// Whom it refuses for want of time: `calm` is nobody.
    shedding: String,
}

/// Where clients come in.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ListenerTold {
    /// The address and port.
    address: String,
    /// Whether they speak TLS.
    tls: bool,
    /// Whether they say by the PROXY protocol whom they come from.
    proxy_protocol: bool,
}

/// Where nodes meet.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RedisTold {
    /// Its address.
    address: String,
    /// `off`, `joining`, `up` or `away`.
    state: String,
    /// Why it is away.
    error: Option<String>,
    /// Connections that did not come about or were lost.
    failures: u64,
    /// The log of purges.
    purges: RedisPurgesTold,
    /// The tier of the cache that all nodes share; null: there is none.
    shared: Option<SharedTold>,
}

/// The log of purges.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RedisPurgesTold {
    /// Up to where it was read.
    place: Option<String>,
    /// Of this node, to be sent.
    waiting: u64,
    /// Of this node.
    sent: u64,
    /// Of others.
    read: u64,
    /// Times that more waited than may.
    overflowed: u64,
    /// Times that it was not known what was missed.
    lost: u64,
}

/// The tier of the cache that all nodes share.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SharedTold {
    /// It had it.
    hits: u64,
    /// It had it not.
    misses: u64,
    /// It did not answer in time.
    late: u64,
    /// What it had could not be used.
    unusable: u64,
    /// It was given so many.
    kept: u64,
    /// Too many waited.
    dropped: u64,
}

/// What must survive a crash.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct StoreTold {
    /// Where it is.
    path: String,
    /// `serving`, `full`, `failing`, `stopped` or `closed`.
    state: String,
    /// Why it fails.
    error: Option<String>,
    /// Records of idempotency keys.
    records: u64,
    /// Bytes that it takes.
    bytes: u64,
    /// And may take.
    size_limit: u64,
    /// Commands that wait.
    waiting: u64,
    /// Transactions.
    commits: u64,
    /// Commands by what became of them.
    commands: CommandsTold,
    /// Idempotency keys.
    keys: KeysTold,
    /// Who makes the deliveries of which shard; null: none are made here.
    shards: Option<Vec<LeaderTold>>,
}

/// Commands by what became of them.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CommandsTold {
    /// They are on disk.
    done: u64,
    /// They are not.
    failed: u64,
}

/// Idempotency keys.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct KeysTold {
    /// Requests that are made under a key.
    under_way: u64,
    /// Requests that wait for these.
    awaited_by: u64,
}

/// Who makes the deliveries of a shard.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LeaderTold {
    /// Its number.
    shard: u16,
    /// It grows when another node takes it.
    epoch: u64,
    /// This node does.
    here: bool,
    /// This other one does; null: this one, or nobody.
    node: Option<String>,
}

/// The nodes that ask each other before the upstream.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ClusterTold {
    /// This node.
    #[schemars(rename = "self")]
    me: String,
    /// Where others reach it.
    listen: Option<String>,
    /// All of them.
    nodes: Vec<NodeTold>,
    /// Questions to the home nodes of targets, by what became of them.
    asked: BTreeMap<String, u64>,
    /// Questions of others that were answered.
    answered: u64,
    /// And that were not.
    unanswered: u64,
    /// What was said by nobody of the cluster.
    strangers: u64,
    /// Purges, where no Redis has them.
    purges: NodePurgesTold,
}

/// A node.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NodeTold {
    /// Its name.
    name: String,
    /// `self`, `up` or `away`.
    state: String,
}

/// Purges that nodes tell each other.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct NodePurgesTold {
    /// They are still to be told.
    waiting: u64,
    /// Others have heard them.
    told: u64,
    /// Of others.
    heard: u64,
}

/// Certificates that are ordered.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct OrderedTold {
    /// How many are in memory.
    in_memory: u64,
    /// Orders at the authority.
    orders: OrdersTold,
    /// Those of configured names.
    configured: Vec<CertificateTold>,
}

/// Orders at the authority.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct OrdersTold {
    /// They brought a certificate.
    issued: u64,
    /// They did not.
    failed: u64,
}

/// What is cached in memory.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CacheTold {
    /// Bytes.
    memory_bytes: u64,
    /// And how many there may be.
    memory_limit: u64,
    /// Answers.
    answers: u64,
    /// Answers that made room for others.
    evicted: u64,
    /// Bytes of answers that are coming.
    coming_bytes: u64,
    /// Requests that are made for all that wait for the same.
    awaited: u64,
    /// Requests that refresh what is stale.
    refreshing: u64,
    /// Purges.
    purged: u64,
    /// What is on disk; null: nothing is to be.
    disk: Option<DiskTold>,
    /// Slices of large answers.
    slices: SlicesTold,
}

/// The cache's disk tier.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DiskTold {
    /// Where it is.
    path: String,
    /// `opening`, `serving`, `failing` or `away`.
    state: String,
    /// Why it fails, or is away.
    error: Option<String>,
    /// Bytes of the file.
    size_bytes: u64,
    /// And how many there may be.
    size_limit: u64,
    /// Bytes of answers.
    bytes: u64,
    /// Answers.
    answers: u64,
    /// It had it.
    hits: u64,
    /// It had it not.
    misses: u64,
    /// Answers that it could not take.
    dropped: u64,
}

/// Slices of large answers.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SlicesTold {
    /// They were kept.
    kept: u64,
    /// The disk did not take them in time.
    dropped: u64,
    /// They were read.
    read: u64,
    /// Upstreams were asked for them.
    asked: u64,
    /// They were of another representation.
    changed: u64,
    /// Answers that ended for want of one.
    broken: u64,
}

/// A plan.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PlanTold {
    /// Its name.
    name: String,
    /// What it allows.
    rates: Vec<RateTold>,
    /// Requests at once, of a tenant.
    concurrency: Option<u64>,
    /// Bytes of a request's body.
    body_bytes: Option<u64>,
    /// How fast a tenant may send.
    request_bytes_per_second: Option<u64>,
    /// And be sent.
    response_bytes_per_second: Option<u64>,
    /// Tenants of it that have state of their own.
    tenants: u64,
    /// Their requests.
    in_flight: u64,
}

/// A rate.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RateTold {
    /// Its name.
    name: String,
    /// So many requests.
    limit: u64,
    /// In so long.
    window_ms: u64,
    /// So many at once.
    burst: u64,
}

/// The tenants.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct TenantsTold {
    /// Those that have state of their own.
    tracked: u64,
    /// Those that ask most.
    busiest: Vec<TenantTold>,
    /// All others together.
    others: OthersTold,
}

/// What all others come to together.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct OthersTold {
    /// Their limits let it through.
    admitted: u64,
    /// Their limits refused it.
    refused: u64,
}

/// A tenant. How it stands with its plan is not there where it was forgotten while this was gathered.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct TenantTold {
    /// Its id.
    id: String,
    /// Its limits let it through.
    admitted: u64,
    /// Its limits refused it.
    refused: u64,
    /// Its requests.
    in_flight: u64,
    /// Its plan.
    plan: Option<String>,
    /// Requests that it may make at once.
    concurrency: Option<u64>,
    /// Bytes that its bodies make the process hold.
    held_bytes: Option<u64>,
    /// How it stands with its plan.
    rates: Option<Vec<StandingTold>>,
    /// How it stands with routes that have limits, where it has spent something.
    routes: Option<Vec<RouteTold>>,
}

/// How a tenant stands with a rate.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct StandingTold {
    /// Its name.
    name: String,
    /// So many requests.
    limit: u64,
    /// In so long.
    window_ms: u64,
    /// So many are left.
    remaining: u64,
    /// All are, after so long.
    reset_ms: u64,
}

/// How a tenant stands with a route.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RouteTold {
    /// Its name.
    name: String,
    /// Its rates.
    rates: Vec<StandingTold>,
    /// The tenant's requests there.
    in_flight: u64,
    /// And how many there may be.
    concurrency: Option<u64>,
}

/// What happened to an exchange.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ExplanationTold {
    /// Its id.
    request_id: String,
    /// The method.
    method: String,
    /// The host that was asked for; empty: none.
    host: String,
    /// The path.
    path: String,
    /// Who asked.
    client: String,
    /// The route that it matched.
    route: Option<String>,
    /// Whose it is.
    tenant: Option<String>,
    /// The upstream that was called.
    upstream: Option<String>,
    /// The endpoint that was called last, or has answered.
    endpoint: Option<String>,
    /// What the client was told.
    status: Option<u16>,
    /// The refusal.
    code: Option<String>,
    /// Who has to act, where it was refused.
    blame: Option<String>,
    /// Calls to the upstream.
    tries: u64,
    /// How long it waited at the upstream's gate.
    gate_ms: f64,
    /// How long the upstream took.
    upstream_ms: f64,
    /// How long it took, to the last byte.
    duration_ms: f64,
    /// How it ended.
    end: String,
    /// What became of its idempotency key.
    idempotency: Option<String>,
    /// The injected fault that struck it.
    fault: Option<String>,
    /// Each step.
    steps: Vec<StepTold>,
    /// Steps that are not remembered.
    steps_dropped: u64,
}

/// A step.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct StepTold {
    /// When, from its beginning.
    at_ms: f64,
    /// What happened, in a sentence.
    what: String,
}
