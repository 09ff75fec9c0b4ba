//! Metrics of queues: what waits, since when, and what attempts came to.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_dispatch::{OUTCOMES, TOOK_MS};
use tidegate_model::delivery::{Kind, Ms};
use tidegate_store::deliveries::{Pause, Total};

use crate::run::Process;
use crate::telemetry::{
    Exposition, QUEUE_ATTEMPTS, QUEUE_DELIVERIES, QUEUE_OLDEST, QUEUE_PARKED, QUEUE_PAUSED, QUEUE_SECONDS,
    QUEUE_UNDER_WAY, TENANT_WAITING,
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
    others: u64,
    now: Ms,
}

/// Asks the store. Nothing, where there is no queue or the store cannot say.
pub async fn find(process: &Process) -> Option<Found> {
    let gate = &process.gate;
    gate.dispatcher()?;
    let store = gate.standing.idempotency.store()?;
    let totals = store.totals().await.ok()?;
    let paused = store.paused().await.ok()?;
    let (mut tenants, mut after, mut seen) = (BTreeMap::<Arc<str>, u64>::new(), None, 0);
    while seen < LINES_MAX {
        let lines = store.depths(None, None, after.take(), LINES_OF_LOOK).await.ok()?;
        let Some(last) = lines.last() else { break };
        (after, seen) = (Some(last.line.clone()), seen + lines.len());
        for depth in &lines {
            let waits = [Kind::Blocked, Kind::Scheduled, Kind::Ready].map(|kind| depth.counts[kind as usize]);
            *tenants.entry(Arc::clone(&depth.line.tenant)).or_default() += waits.iter().sum::<u64>();
        }
    }
    let mut waiting: Vec<(Arc<str>, u64)> = tenants.into_iter().filter(|(_, count)| *count > 0).collect();
    waiting.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let others = waiting.iter().skip(TENANTS_MAX).map(|(_, count)| count).sum();
    waiting.truncate(TENANTS_MAX);
    Some(Found { totals, paused, waiting, others, now: super::deliveries::now() })
}

/// Writes what was found, and what the engine has counted.
pub fn write(out: &mut Exposition, process: &Process, found: &Found) {
    out.family(&QUEUE_DELIVERIES);
    for total in &found.totals {
        for (kind, count) in Kind::ALL.iter().zip(total.counts) {
            out.sample(QUEUE_DELIVERIES.name, &[("queue", &total.queue), ("state", kind.name())], count);
        }
    }
    out.family(&QUEUE_OLDEST);
    for total in &found.totals {
        let age = total.oldest.map_or(0, |since| found.now.saturating_sub(since));
        out.sample(QUEUE_OLDEST.name, &[("queue", &total.queue)], age as f64 / 1e3);
    }
    out.family(&QUEUE_PAUSED);
    for queue in &process.gate.config().queues {
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
    attempts(out, process);
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
        let mut sum = 0;
        for (bound, count) in TOOK_MS.iter().zip(counts.took) {
            sum += count;
            let bound = (*bound as f64 / 1e3).to_string();
            out.sample("tidegate_queue_attempt_seconds_bucket", &[("queue", queue), ("le", &bound)], sum);
        }
        sum += counts.took[TOOK_MS.len()];
        out.sample("tidegate_queue_attempt_seconds_bucket", &[("queue", queue), ("le", "+Inf")], sum);
        let seconds = counts.took_ms as f64 / 1e3;
        out.sample("tidegate_queue_attempt_seconds_sum", &[("queue", queue)], seconds);
        out.sample("tidegate_queue_attempt_seconds_count", &[("queue", queue)], sum);
    }
}
