//! What all metrics say now: sums over all cores. Labels are bounded: routes and endpoints by the
//! configuration, tenants by the busiest few.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_model::coding::Coding;
use tidegate_model::fault::Kind;
use tidegate_model::tenant::Tenants;
use tidegate_proxy::cache::disk::Standing as DiskStanding;
use tidegate_proxy::cache::shield::Outcome;
use tidegate_proxy::{Authorized, CoreShield};
use tidegate_store::State;
use tidegate_upstream::{Admin, EndpointStatus, FilesStatus, ShardStatus, UpstreamStatus};
use tidegate_wire::clock;
use tidegate_wire::tls::HandshakeFailure;

use super::{canaries, logins, mirrors, queues};
use crate::protect;
use crate::run::Process;
use crate::telemetry::{
    ACCEPT_FAILURES, ACME_ORDERS, AUDIT_FAILURES, AUTHORIZED, BACKLOG, BREAKER_OPEN, BREAKER_OPENED, BUCKETS,
    BUILD, CACHE_ANSWERS, CACHE_AWAITED, CACHE_BYTES, CACHE_BYTES_MAX, CACHE_COMING, CACHE_DISK_ANSWERS,
    CACHE_DISK_BYTES, CACHE_DISK_EVICTED, CACHE_DISK_READS, CACHE_DISK_UP, CACHE_DISK_WRITES, CACHE_EVICTED,
    CACHE_OUTCOMES, CACHE_PURGED, CACHE_REQUESTS, CACHE_SLICES, CERTIFICATE_EXPIRY, CERTIFICATES_HELD,
    CLIENT_GONE, CLUSTER_ANSWERED, CLUSTER_ASKED, CLUSTER_HEARD, CLUSTER_NODES_UP, CLUSTER_PASSED,
    CLUSTER_PASSING, CLUSTER_PURGES, CLUSTER_PURGES_WAITING, CLUSTER_STRANGERS, COMPRESSED, COMPRESSED_PLAIN,
    CONNECTIONS, CONNECTIONS_REFUSED, ENDPOINT_ACTIVE, ENDPOINT_CONNECTIONS, ENDPOINT_CONNECTS,
    ENDPOINT_FAILURES, ENDPOINT_LATENCY, ENDPOINT_REQUESTS, ENDPOINT_UP, Exposition, FAULTS, FAULTS_STRUCK,
    FILES_ACTIVE, FILES_FAILURES, FILES_REQUESTS, FILES_WAITED, GATE_REFUSED, GATE_SLOTS, GATE_USED,
    GATE_WAITING, HANDSHAKES_FAILED, HELD, HELD_LIMIT, Histogram, KEY_OUTCOMES, KEYS, LAG, LEVEL,
    LINES_DROPPED, LINES_LEFT_OUT, LISTEN_OVERFLOWS, MAINTENANCE, MEMORY, MEMORY_LIMIT, Metric, OPEN_FILES,
    OPEN_FILES_LIMIT, OTLP_EXCHANGES, OTLP_ITEMS, OTLP_UP, PURGES, PURGES_LOST, PURGES_WAITING, RECEIVED,
    REDIS_FAILURES, REDIS_UP, REFUSALS, RELOADS, REQUESTS, RouteCells, SECONDS, SENT, SHARD_REFUSED,
    SHARD_SPILLED, SHARED, SHEDDING, STORE_BYTES, STORE_BYTES_MAX, STORE_COMMANDS, STORE_COMMITS,
    STORE_RECORDS, STORE_SWEPT, STORE_UP, STORE_WAITING, TENANT_REFUSED, TENANT_REQUESTS, TENANTS,
    TRACE_OUTCOMES, TRIES, UPSTREAM_LEVEL,
};

/// Tenants with a line of their own.
const TENANTS_MAX: usize = 20;

/// A metric, and where its value is read.
type Read<T, V> = (Metric, fn(&T) -> V);

/// Answers that were compressed, before and after.
fn coded(out: &mut Exposition, routes: &[(impl AsRef<str>, RouteCells)]) {
    let by_coding: [Read<(u64, u64), u64>; 2] = [(COMPRESSED_PLAIN, |one| one.0), (COMPRESSED, |one| one.1)];
    for (metric, value) in by_coding {
        out.family(&metric);
        for (name, cells) in routes {
            let used = Coding::ALL.into_iter().zip(cells.coded).filter(|(_, coded)| coded.0 > 0);
            for (coding, coded) in used {
                let labels = [("route", name.as_ref()), ("coding", coding.token())];
                out.sample(metric.name, &labels, value(&coded));
            }
        }
    }
}

/// A tenant's exchanges.
pub struct TenantCounts {
    /// Whose.
    pub id: Arc<str>,
    /// Let through.
    pub admitted: u64,
    /// Refused.
    pub refused: u64,
    /// Under way.
    pub in_flight: u32,
}

/// The busiest tenants, and the sum of all others.
pub fn busiest(process: &Process) -> (Vec<TenantCounts>, (u64, u64)) {
    let mut all = Vec::new();
    process.gate.standing.tenants.each(|tenant| {
        let (admitted, refused) = tenant.counts();
        all.push(TenantCounts {
            id: Arc::clone(tenant.id()),
            admitted,
            refused,
            in_flight: tenant.in_flight(),
        });
    });
    all.sort_by(|a, b| (b.admitted + b.refused).cmp(&(a.admitted + a.refused)).then_with(|| a.id.cmp(&b.id)));
    let rest = all.split_off(all.len().min(TENANTS_MAX));
    let others =
        rest.iter().fold((0, 0), |(admitted, refused), one| (admitted + one.admitted, refused + one.refused));
    (all, others)
}

/// All that is said now.
pub async fn read(process: &Process) -> Exposition {
    let queues = queues::find(process).await;
    gather(process, queues.as_ref())
}

fn gather(process: &Process, queues: Option<&queues::Found>) -> Exposition {
    let mut out = Exposition::default();
    exchanges(&mut out, process);
    upstreams(&mut out, process);
    tenants(&mut out, process);
    let gate = &process.gate;
    out.family(&CONNECTIONS);
    out.sample(CONNECTIONS.name, &[], gate.census.open());
    out.family(&CONNECTIONS_REFUSED);
    out.sample(CONNECTIONS_REFUSED.name, &[], gate.census.refused());
    out.family(&ACCEPT_FAILURES);
    out.sample(ACCEPT_FAILURES.name, &[], gate.census.failed());
    out.family(&HANDSHAKES_FAILED);
    for why in HandshakeFailure::ALL {
        out.sample(HANDSHAKES_FAILED.name, &[("reason", why.name())], gate.census.handshakes_failed(why));
    }
    protection(&mut out, process);
    out.family(&MAINTENANCE);
    let windows = gate.config().proxy.maintenance.windows.len() + gate.standing.maintenance.windows().len();
    out.sample(MAINTENANCE.name, &[], windows);
    let faults = &gate.standing.faults;
    out.family(&FAULTS);
    out.sample(FAULTS.name, &[], faults.all(clock::now()).len());
    out.family(&FAULTS_STRUCK);
    for (kind, count) in Kind::NAMES.into_iter().zip(faults.counts()) {
        out.sample(FAULTS_STRUCK.name, &[("kind", kind)], count);
    }
    mirrors::write(&mut out, &gate.standing.mirrors);
    out.family(&AUTHORIZED);
    for (outcome, count) in Authorized::ALL.iter().zip(gate.standing.verdicts.counts()) {
        out.sample(AUTHORIZED.name, &[("outcome", outcome.name())], count);
    }
    logins::write(&mut out, &gate.standing.providers);
    certificates(&mut out, process);
    canaries::write(&mut out, &gate.standing.canaries);
    redis(&mut out, process);
    store(&mut out, process);
    queues::write(&mut out, process, queues);
    cluster(&mut out, process);
    cache(&mut out, process);
    cache_disk(&mut out, process);
    otlp(&mut out, process);
    out.family(&RELOADS);
    out.sample(RELOADS.name, &[("outcome", "applied")], gate.counts.reloads.load(Relaxed));
    out.sample(RELOADS.name, &[("outcome", "refused")], gate.counts.reloads_refused.load(Relaxed));
    out.family(&AUDIT_FAILURES);
    out.sample(AUDIT_FAILURES.name, &[], process.audit.failures.load(Relaxed));
    out.family(&BUILD);
    out.sample(BUILD.name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    out
}

fn otlp(out: &mut Exposition, process: &Process) {
    let config = process.gate.config();
    let Some(settings) = &config.otlp else { return };
    if settings.traces.is_some() {
        out.family(&OTLP_EXCHANGES);
        for (outcome, count) in TRACE_OUTCOMES.into_iter().zip(process.gate.telemetry.traces_kept()) {
            out.sample(OTLP_EXCHANGES.name, &[("outcome", outcome)], count);
        }
    }
    let traces = settings.traces.as_ref().map(|_| ("traces", &process.otlp.traces));
    let metrics = settings.metrics.map(|_| ("metrics", &process.otlp.metrics));
    let signals = || traces.into_iter().chain(metrics);
    out.family(&OTLP_ITEMS);
    for (signal, counts) in signals() {
        let counts = [("sent", &counts.sent), ("rejected", &counts.rejected), ("lost", &counts.lost)];
        for (outcome, count) in counts {
            let labels = [("signal", signal), ("outcome", outcome)];
            out.sample(OTLP_ITEMS.name, &labels, count.load(Relaxed));
        }
    }
    out.family(&OTLP_UP);
    for (signal, counts) in signals() {
        out.sample(OTLP_UP.name, &[("signal", signal)], u8::from(counts.up.load(Relaxed)));
    }
}

fn certificates(out: &mut Exposition, process: &Process) {
    let acme = &process.gate.acme;
    let Some(held) = acme.held() else { return };
    out.family(&ACME_ORDERS);
    for (outcome, count) in [("issued", &acme.counts().issued), ("failed", &acme.counts().failed)] {
        out.sample(ACME_ORDERS.name, &[("outcome", outcome)], count.load(Relaxed));
    }
    out.family(&CERTIFICATES_HELD);
    out.sample(CERTIFICATES_HELD.name, &[], held as u64);
    out.family(&CERTIFICATE_EXPIRY);
    for told in acme.told() {
        out.sample(CERTIFICATE_EXPIRY.name, &[("name", &told.name)], told.record.not_after);
    }
}

fn cluster(out: &mut Exposition, process: &Process) {
    let site = process.gate.site();
    let Some(homes) = &site.homes else { return };
    let counts = process.gate.standing.cache.peering.counts();
    let up = homes.standing(clock::now()).filter(|(_, up)| *up != Some(false)).count();
    out.family(&CLUSTER_NODES_UP);
    out.sample(CLUSTER_NODES_UP.name, &[], up as u64);
    out.family(&CLUSTER_ASKED);
    for (outcome, count) in Outcome::ALL.iter().zip(counts.asked) {
        out.sample(CLUSTER_ASKED.name, &[("outcome", outcome.name())], count);
    }
    out.family(&CLUSTER_ANSWERED);
    for (outcome, count) in [("answered", counts.answered), ("refused", counts.unanswered)] {
        out.sample(CLUSTER_ANSWERED.name, &[("outcome", outcome)], count);
    }
    let nodes = &process.gate.nodes;
    for (metric, outcomes) in
        [(CLUSTER_PASSED, &nodes.counts.passed()[..]), (CLUSTER_HEARD, &nodes.counts.heard())]
    {
        out.family(&metric);
        for (outcome, count) in outcomes {
            out.sample(metric.name, &[("outcome", outcome)], count);
        }
    }
    out.family(&CLUSTER_PASSING);
    out.sample(CLUSTER_PASSING.name, &[], nodes.under_way());
    let orders = process.gate.standing.cache.peering.orders.counts();
    out.family(&CLUSTER_PURGES);
    for (direction, count) in [("told", orders.told), ("heard", orders.heard)] {
        out.sample(CLUSTER_PURGES.name, &[("direction", direction)], count);
    }
    out.family(&CLUSTER_PURGES_WAITING);
    out.sample(CLUSTER_PURGES_WAITING.name, &[], orders.waiting);
    out.family(&CLUSTER_STRANGERS);
    out.sample(CLUSTER_STRANGERS.name, &[], counts.strangers);
}

fn cache(out: &mut Exposition, process: &Process) {
    let standing = process.gate.standing.cache.standing();
    for (metric, value) in [
        (CACHE_BYTES, standing.bytes),
        (CACHE_BYTES_MAX, standing.bytes_max),
        (CACHE_ANSWERS, standing.entries as u64),
        (CACHE_EVICTED, standing.evicted),
        (CACHE_COMING, standing.coming_bytes),
        (CACHE_AWAITED, standing.under_way as u64),
        (CACHE_PURGED, standing.purged),
    ] {
        out.family(&metric);
        out.sample(metric.name, &[], value);
    }
    let slices = process.gate.standing.cache.slices.counts();
    out.family(&CACHE_SLICES);
    for (outcome, count) in [
        ("kept", slices.kept),
        ("dropped", slices.dropped),
        ("read", slices.read),
        ("asked", slices.asked),
        ("changed", slices.changed),
        ("broken", slices.broken),
    ] {
        out.sample(CACHE_SLICES.name, &[("outcome", outcome)], count);
    }
}

fn store(out: &mut Exposition, process: &Process) {
    let Some(store) = process.gate.standing.idempotency.store() else { return };
    let told = store.standing();
    for (metric, value) in [
        (STORE_UP, u64::from(told.state == State::Serving)),
        (STORE_RECORDS, told.records),
        (STORE_BYTES, told.bytes),
        (STORE_BYTES_MAX, told.bytes_max),
        (STORE_WAITING, told.waiting),
        (STORE_COMMITS, told.commits),
        (STORE_SWEPT, told.swept),
    ] {
        out.family(&metric);
        out.sample(metric.name, &[], value);
    }
    out.family(&STORE_COMMANDS);
    for (outcome, count) in [("done", told.done), ("failed", told.failed)] {
        out.sample(STORE_COMMANDS.name, &[("outcome", outcome)], count);
    }
}

fn redis(out: &mut Exposition, process: &Process) {
    let redis = &process.gate.redis;
    let Some(up) = redis.is_up() else { return };
    let purges = process.gate.standing.cache.purges.counts();
    for (metric, value) in [
        (REDIS_UP, u64::from(up)),
        (REDIS_FAILURES, redis.failures()),
        (PURGES_WAITING, purges.waiting),
        (PURGES_LOST, purges.lost),
    ] {
        out.family(&metric);
        out.sample(metric.name, &[], value);
    }
    out.family(&PURGES);
    for (direction, count) in [("sent", purges.sent), ("read", purges.read)] {
        out.sample(PURGES.name, &[("direction", direction)], count);
    }
    if redis.far().settings().is_none() {
        return;
    }
    let far = redis.far().counts();
    out.family(&SHARED);
    for (outcome, count) in [
        ("hit", far.hits),
        ("miss", far.misses),
        ("late", far.late),
        ("unusable", far.unusable),
        ("kept", far.kept),
        ("dropped", far.dropped),
    ] {
        out.sample(SHARED.name, &[("outcome", outcome)], count);
    }
}

fn cache_disk(out: &mut Exposition, process: &Process) {
    let Some(told) = process.gate.standing.cache.memory.disk().map(|disk| disk.told()) else { return };
    for (metric, value) in [
        (CACHE_DISK_UP, u64::from(told.standing == DiskStanding::Serving)),
        (CACHE_DISK_BYTES, told.bytes),
        (CACHE_DISK_ANSWERS, told.answers),
        (CACHE_DISK_EVICTED, told.evicted),
    ] {
        out.family(&metric);
        out.sample(metric.name, &[], value);
    }
    let reads = [
        ("hit", told.hits),
        ("miss", told.misses),
        ("unread", told.unread),
        ("spoilt", told.spoilt),
        ("error", told.read_errors),
    ];
    let writes = [
        ("written", told.written),
        ("dropped", told.dropped),
        ("large", told.large),
        ("error", told.write_errors),
    ];
    for (metric, outcomes) in [(CACHE_DISK_READS, &reads[..]), (CACHE_DISK_WRITES, &writes)] {
        out.family(&metric);
        for (outcome, count) in outcomes {
            out.sample(metric.name, &[("outcome", outcome)], count);
        }
    }
}

fn protection(out: &mut Exposition, process: &Process) {
    let shield = &process.gate.shield;
    let readings = *process.gate.readings.lock();
    let (held, held_max) = shield.held();
    let lagging = shield.cores().iter().map(CoreShield::stage).max().unwrap_or_default();
    out.family(&SHEDDING);
    for (cause, stage) in [("memory", shield.memory()), ("time", lagging)] {
        out.sample(SHEDDING.name, &[("cause", cause)], stage as u8);
    }
    for (metric, value) in [
        (LEVEL, shield.level().into()),
        (MEMORY, readings.memory),
        (MEMORY_LIMIT, readings.memory_limit),
        (HELD, held),
        (HELD_LIMIT, held_max),
        (OPEN_FILES, protect::open_files() as u64),
        (OPEN_FILES_LIMIT, readings.files_limit as u64),
        (LISTEN_OVERFLOWS, protect::listen_overflows()),
    ] {
        out.family(&metric);
        out.sample(metric.name, &[], value);
    }
    let of_core: [Read<CoreShield, f64>; 2] =
        [(LAG, |core| core.lag().as_secs_f64()), (BACKLOG, CoreShield::backlog)];
    for (metric, value) in of_core {
        out.family(&metric);
        for (number, core) in shield.cores().iter().enumerate() {
            out.sample(metric.name, &[("core", &number.to_string())], value(core));
        }
    }
}

fn exchanges(out: &mut Exposition, process: &Process) {
    let sums = process.gate.telemetry.sums();
    let mut routes: Vec<(Arc<str>, RouteCells)> = sums.routes.into_iter().collect();
    routes.sort_by(|a, b| a.0.cmp(&b.0));
    out.family(&REQUESTS);
    for (name, cells) in &routes {
        for (class, count) in ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(cells.classes) {
            out.sample(REQUESTS.name, &[("route", name), ("class", class)], count);
        }
    }
    out.family(&SECONDS);
    for (name, cells) in &routes {
        let histogram = Histogram {
            bounds: BUCKETS.to_vec(),
            counts: cells.buckets.to_vec(),
            sum: cells.seconds,
            exemplars: cells.exemplars.as_ref().map_or_else(Vec::new, |exemplars| exemplars.to_vec()),
        };
        out.histogram(&SECONDS, &[("route", name)], histogram);
    }
    let by_route: [Read<RouteCells, u64>; 3] = [
        (RECEIVED, |cells| cells.bytes_in),
        (SENT, |cells| cells.bytes_out),
        (CLIENT_GONE, |cells| cells.client_gone),
    ];
    for (metric, value) in by_route {
        out.family(&metric);
        for (name, cells) in &routes {
            out.sample(metric.name, &[("route", name)], value(cells));
        }
    }
    out.family(&CACHE_REQUESTS);
    for (name, cells) in &routes {
        for (outcome, count) in CACHE_OUTCOMES.into_iter().zip(cells.cache).filter(|(_, count)| *count > 0) {
            out.sample(CACHE_REQUESTS.name, &[("route", name), ("outcome", outcome)], count);
        }
    }
    coded(out, &routes);
    out.family(&KEYS);
    for (name, cells) in &routes {
        for (outcome, count) in KEY_OUTCOMES.into_iter().zip(cells.keys).filter(|(_, count)| *count > 0) {
            out.sample(KEYS.name, &[("route", name), ("outcome", outcome)], count);
        }
    }
    out.family(&REFUSALS);
    let mut refusals: Vec<_> = sums.refusals.into_iter().collect();
    refusals.sort_unstable();
    for (code, count) in refusals {
        out.sample(REFUSALS.name, &[("code", code)], count);
    }
    out.family(&TRIES);
    out.sample(TRIES.name, &[], sums.tries);
    out.family(&LINES_DROPPED);
    out.sample(LINES_DROPPED.name, &[], sums.lines_dropped);
    out.family(&LINES_LEFT_OUT);
    out.sample(LINES_LEFT_OUT.name, &[], sums.lines_left_out);
}

fn upstreams(out: &mut Exposition, process: &Process) {
    let all = process.gate.standing.upstreams.status();
    let of_upstream: [Read<UpstreamStatus, f64>; 5] = [
        (UPSTREAM_LEVEL, |one| one.load.into()),
        (BREAKER_OPEN, |one| f64::from(u8::from(one.breaker != "closed"))),
        (BREAKER_OPENED, |one| one.breaker_opened as f64),
        (GATE_USED, |one| one.gate.in_use as f64),
        (GATE_WAITING, |one| one.gate.waiting as f64),
    ];
    for (metric, value) in of_upstream {
        out.family(&metric);
        for one in &all {
            out.sample(metric.name, &[("upstream", &one.name)], value(one));
        }
    }
    let of_files: [Read<FilesStatus, u64>; 4] = [
        (FILES_REQUESTS, |one| one.requests),
        (FILES_FAILURES, |one| one.failures),
        (FILES_WAITED, |one| one.waited),
        (FILES_ACTIVE, |one| one.active.into()),
    ];
    for (metric, value) in of_files {
        out.family(&metric);
        for one in &all {
            if let Some(files) = &one.files {
                out.sample(metric.name, &[("upstream", &one.name)], value(files));
            }
        }
    }
    let of_shards: [Read<ShardStatus, u64>; 2] =
        [(SHARD_REFUSED, |one| one.refused), (SHARD_SPILLED, |one| one.spilled)];
    for (metric, value) in of_shards {
        out.family(&metric);
        for one in &all {
            if let Some(shard) = &one.shard {
                out.sample(metric.name, &[("upstream", &one.name)], value(shard));
            }
        }
    }
    out.family(&GATE_SLOTS);
    for one in &all {
        if let Some(limit) = one.gate.concurrency {
            out.sample(GATE_SLOTS.name, &[("upstream", &one.name)], limit);
        }
    }
    out.family(&GATE_REFUSED);
    for one in &all {
        for (reason, count) in &one.gate.gate_refused {
            out.sample(GATE_REFUSED.name, &[("upstream", &one.name), ("reason", reason)], *count);
        }
    }
    let of_endpoint: [Read<EndpointStatus, f64>; 7] = [
        (ENDPOINT_REQUESTS, |one| one.requests as f64),
        (ENDPOINT_FAILURES, |one| one.failures as f64),
        (ENDPOINT_CONNECTS, |one| one.connects as f64),
        (ENDPOINT_CONNECTIONS, |one| f64::from(one.connections)),
        (ENDPOINT_ACTIVE, |one| f64::from(one.active)),
        (ENDPOINT_UP, |one| f64::from(u8::from(one.state == "up" && one.admin == Admin::Enabled))),
        (ENDPOINT_LATENCY, |one| one.latency_ms / 1e3),
    ];
    for (metric, value) in of_endpoint {
        out.family(&metric);
        for upstream in &all {
            for one in &upstream.endpoints {
                let address = one.address.to_string();
                out.sample(metric.name, &[("upstream", &upstream.name), ("endpoint", &address)], value(one));
            }
        }
    }
}

/// Let through, refused.
type Counts = (u64, u64);

/// The tenants that have lines of their own, and what is counted in the line of all others.
///
/// A tenant comes and goes with its rank, but no line ever counts backwards, which would be taken for a restart: what
/// happened since the last scrape is added to the line that the tenant has now.
#[derive(Debug, Default)]
pub struct TenantLines {
    lines: BTreeMap<Arc<str>, Counts>,
    others: Counts,
}

impl TenantLines {
    fn follow(&mut self, tenants: &Tenants, top: &[TenantCounts]) {
        let TenantLines { lines, others } = self;
        lines.retain(|id, _| top.iter().any(|one| one.id == *id));
        for one in top {
            lines.entry(Arc::clone(&one.id)).or_default();
        }
        let add = |sum: &mut Counts, (admitted, refused)| *sum = (sum.0 + admitted, sum.1 + refused);
        tenants.each(|tenant| add(lines.get_mut(tenant.id()).unwrap_or(others), tenant.untold()));
        add(others, tenants.untold_of_evicted());
    }
}

fn tenants(out: &mut Exposition, process: &Process) {
    let tenants = &process.gate.standing.tenants;
    out.family(&TENANTS);
    out.sample(TENANTS.name, &[], tenants.len());
    let mut told = process.tenant_lines.lock();
    told.follow(tenants, &busiest(process).0);
    let of_tenant: [Read<Counts, u64>; 2] =
        [(TENANT_REQUESTS, |counts| counts.0), (TENANT_REFUSED, |counts| counts.1)];
    for (metric, value) in of_tenant {
        out.family(&metric);
        for (id, counts) in &told.lines {
            out.sample(metric.name, &[("tenant", id)], value(counts));
        }
        // A tenant that is called `other` cannot take this line away: it has a label more.
        out.sample(metric.name, &[("tenant", "other"), ("sum", "true")], value(&told.others));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::plan::Plan;
    use tidegate_model::tenant::RouteLimits;
    use tidegate_model::tick::Tick;

    /// Sends exchanges of these tenants and scrapes; what the lines say then, the others' last.
    fn check(
        told: &mut TenantLines,
        tenants: &Tenants,
        sent: &[(&str, u64)],
        top: &[&str],
        expected: &[u64],
    ) {
        let plan = Arc::new(Plan {
            name: "p".into(),
            rates: Vec::new(),
            concurrency: None,
            body_bytes_max: None,
            request_bytes_per_second: None,
            response_bytes_per_second: None,
            weight: 1,
        });
        let route = RouteLimits { name: "r".into(), rates: Vec::new(), concurrency: None };
        for (id, count) in sent {
            for _ in 0..*count {
                let tenant = tenants.find_or_add(id, &plan, Tick(1));
                assert!(tenants.admit(tenant.clone(), &route, Tick(1)).is_ok());
            }
        }
        let top =
            top.iter().map(|id| TenantCounts { id: (*id).into(), admitted: 0, refused: 0, in_flight: 0 });
        told.follow(tenants, &top.collect::<Vec<_>>());
        let lines = told.lines.values().map(|counts| counts.0).chain([told.others.0]);
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_line_counts_backwards_when_tenants_come_and_go() {
        let (mut told, tenants) = (TenantLines::default(), Tenants::new(100));
        check(&mut told, &tenants, &[("a", 5), ("b", 3), ("c", 1)], &["a", "b"], &[5, 3, 1]);
        check(&mut told, &tenants, &[("a", 1), ("c", 9)], &["a", "c"], &[6, 9, 1]);
        check(&mut told, &tenants, &[("b", 2)], &["a", "c"], &[6, 9, 3]);
        check(&mut told, &tenants, &[("b", 7), ("c", 1)], &["b", "c"], &[7, 10, 3]);
    }
}
