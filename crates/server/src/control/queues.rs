//! Metrics of queues: what waits, since when, and what attempts came to.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_dispatch::{OUTCOMES, TOOK_MS};
use tidegate_model::delivery::{Kind, Ms};
use tidegate_store::deliveries::{Pause, Total, Who};

use crate::run::Process;
use crate::telemetry::{
    Exposition, Histogram, QUEUE_ATTEMPTS, QUEUE_DELIVERIES, QUEUE_OLDEST, QUEUE_PARKED, QUEUE_PAUSED,
    QUEUE_SECONDS, QUEUE_UNDER_WAY, SHARD_LEADS, TENANT_WAITING,
};

/// Lines that one scrape looks at.
const LINES_MAX: usize = 5_000;
/// Lines of one look.
const LINES_OF_LOOK: usize = 500;
/// Tenants with a line of their own.
const TENANTS_MAX: usize = 20;

/// What the store tells of queues.
#[derive(Debug, Default)]
pub struct Found {
    totals: Vec<Total>,
    paused: Vec<Pause>,
    /// Deliveries of each tenant that wait, the most first.
    waiting: Vec<(Arc<str>, u64)>,
    /// Those of all other tenants.
    others: u64,
    /// The time that deliveries go by: the system's may have been set back.
    now: Ms,
}

/// Asks the store. Nothing, where there is no queue or the store cannot say.
pub async fn find(process: &Process) -> Option<Found> {
    let gate = &process.gate;
    let now = gate.dispatcher()?.now();
    let store = gate.standing.idempotency.store()?;
    let totals = store.totals().await.ok()?;
    let paused = store.paused().await.ok()?;
    let (mut tenants, mut after, mut seen) = (BTreeMap::<Arc<str>, u64>::new(), None, 0);
    while seen < LINES_MAX {
        let lines = store.depths(None, None, after.take(), LINES_OF_LOOK).await.ok()?;
        let Some(last) = lines.last() else { break };
        (after, seen) = (Some(last.line.clone()), seen + lines.len());
        for depth in &lines {
            *tenants.entry(Arc::clone(&depth.line.tenant)).or_default() += waits(&depth.counts);
        }
    }
    let mut waiting: Vec<(Arc<str>, u64)> = tenants.into_iter().filter(|(_, count)| *count > 0).collect();
    waiting.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    waiting.truncate(TENANTS_MAX);
    // Of all, those of tenants too that were not looked at.
    let all: u64 = totals.iter().map(|total| waits(&total.counts)).sum();
    let others = all.saturating_sub(waiting.iter().map(|(_, count)| count).sum());
    Some(Found { totals, paused, waiting, others, now })
}

/// How many have not begun.
fn waits(counts: &[u64; 7]) -> u64 {
    [Kind::Blocked, Kind::Scheduled, Kind::Ready].iter().map(|kind| counts[*kind as usize]).sum()
}

/// Nothing at all is kept of a queue.
fn none_of(queue: &Arc<str>) -> Total {
    Total { queue: Arc::clone(queue), counts: [0; 7], bytes: 0, lines: 0, oldest: None }
}

/// Writes what was found, and what the engine has counted: that is known even while the store says nothing.
pub fn write(out: &mut Exposition, process: &Process, found: Option<&Found>) {
    let Some(dispatcher) = process.gate.dispatcher() else { return };
    if let Some(found) = found {
        kept(out, process, found);
    }
    out.family(&SHARD_LEADS);
    for leader in dispatcher.leaders() {
        let shard = leader.shard.to_string();
        out.sample(SHARD_LEADS.name, &[("shard", &shard)], u64::from(leader.who == Who::Here));
    }
    attempts(out, process);
}

fn kept(out: &mut Exposition, process: &Process, found: &Found) {
    let config = process.gate.config();
    let is_empty = |queue: &Arc<str>| found.totals.iter().all(|total| total.queue != *queue);
    let empty: Vec<Total> =
        config.queues.iter().map(|queue| &queue.name).filter(|name| is_empty(name)).map(none_of).collect();
    let totals = || found.totals.iter().chain(&empty);
    out.family(&QUEUE_DELIVERIES);
    for total in totals() {
        for (kind, count) in Kind::ALL.iter().zip(total.counts) {
            out.sample(QUEUE_DELIVERIES.name, &[("queue", &total.queue), ("state", kind.name())], count);
        }
    }
    out.family(&QUEUE_OLDEST);
    for total in totals() {
        let age = total.oldest.map_or(0, |since| found.now.saturating_sub(since));
        out.sample(QUEUE_OLDEST.name, &[("queue", &total.queue)], age as f64 / 1e3);
    }
    out.family(&QUEUE_PAUSED);
    for queue in &config.queues {
        let paused = found.paused.contains(&Pause::Queue(Arc::clone(&queue.name)));
        out.sample(QUEUE_PAUSED.name, &[("queue", &queue.name)], u64::from(paused));
    }
    out.family(&TENANT_WAITING);
    for (tenant, count) in &found.waiting {
        out.sample(TENANT_WAITING.name, &[("tenant", tenant)], count);
    }
    if found.others > 0 {
        out.sample(TENANT_WAITING.name, &[("tenant", "other"), ("sum", "true")], found.others);
    }
}

fn attempts(out: &mut Exposition, process: &Process) {
    let counts = process.gate.dispatcher().map(|dispatcher| dispatcher.counts()).unwrap_or_default();
    let counts: BTreeMap<_, _> = counts.into_iter().collect();
    out.family(&QUEUE_UNDER_WAY);
    for (queue, counts) in &counts {
        out.sample(QUEUE_UNDER_WAY.name, &[("queue", queue)], counts.under_way);
    }
    out.family(&QUEUE_PARKED);
    for (queue, counts) in &counts {
        out.sample(QUEUE_PARKED.name, &[("queue", queue)], u64::from(counts.parked.is_some()));
    }
    out.family(&QUEUE_ATTEMPTS);
    for (queue, counts) in &counts {
        for (outcome, count) in OUTCOMES.iter().zip(counts.outcomes) {
            out.sample(QUEUE_ATTEMPTS.name, &[("queue", queue), ("outcome", outcome)], count);
        }
    }
    out.family(&QUEUE_SECONDS);
    for (queue, counts) in &counts {
        let histogram = Histogram {
            bounds: TOOK_MS.iter().map(|bound| *bound as f64 / 1e3).collect(),
            counts: counts.took.to_vec(),
            sum: counts.took_ms as f64 / 1e3,
            exemplars: Vec::new(),
        };
        out.histogram(&QUEUE_SECONDS, &[("queue", queue)], histogram);
    }
}
