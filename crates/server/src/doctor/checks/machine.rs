//! Processors, memory and the clock.

use std::time::Duration;

use super::super::facts::{Facts, Host, Wanted};
use super::super::finding::{
    CLOCK, Finding, MEMORY, OVERCOMMIT, QUOTA, SWAP, Severity, THROTTLED, WATCHED, WORKERS,
};
use super::{size, time};

/// Bytes that an idle connection takes: see `docs/running.md`.
const IDLE_BYTES: u64 = 20 << 10;
/// The same over TLS.
const IDLE_TLS_BYTES: u64 = 40 << 10;
/// What the process takes before anybody comes, for each worker and once.
const WORKER_BYTES: u64 = 4 << 20;
const BASE_BYTES: u64 = 48 << 20;
/// From this part of its memory on it begins to refuse, in percent: see `docs/overload.md`.
const REFUSES_PERCENT: u64 = 85;
/// The clock may be off so much before what expires is judged wrongly.
const ERROR_MAX: Duration = Duration::from_secs(1);

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let (host, wanted) = (&facts.host, facts.wanted.as_ref());
    let found = [
        quota(host, wanted),
        workers(host, wanted),
        throttled(host),
        memory(host, wanted),
        watched(host, wanted),
        swap(host),
        overcommit(host),
        clock(host),
    ];
    found.into_iter().flatten().collect()
}

fn quota(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let quota = host.quota?;
    let shown = format!("{:.2}", quota as f64 / 100.0);
    let workers = wanted.map_or(host.processors.unwrap_or(1), |wanted| wanted.workers);
    if workers * 100 <= quota {
        return Some(Finding::fine(QUOTA, format!("{shown} processors for {workers} workers")));
    }
    let stops = 100 - quota / workers;
    let effect = format!(
        "when all {workers} workers are busy the kernel stops the whole process for up to {stops} ms of every 100 ms: the slowest \
         requests take that much longer, and cores refuse as late (`server.lag`)"
    );
    let whole = (quota / 100).max(1);
    Some(
        Finding::new(QUOTA, Severity::Hurts, format!("{shown} processors for {workers} workers"), effect)
            .how("cpu.max of the control group, shared out among the workers")
            .mend(format!("workers = {whole}   # in the configuration; takes effect after a restart"))
            .mend(format!("CPUQuota={}%   # in [Service] of the systemd unit; in Kubernetes no limit, a request of {workers}", workers * 100)),
    )
}

fn workers(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let (processors, workers) = (host.processors?, wanted?.workers);
    let seen = format!("{workers} workers on {processors} processors");
    match workers.cmp(&processors) {
        std::cmp::Ordering::Equal => Some(Finding::fine(WORKERS, seen)),
        std::cmp::Ordering::Less => {
            let effect = format!(
                "nothing breaks; {} processors carry no traffic, which is right where the application runs on this machine, too",
                processors - workers
            );
            Some(Finding::new(WORKERS, Severity::Note, seen, effect))
        }
        std::cmp::Ordering::Greater => {
            let effect = "workers wait for each other's processor: requests wait for a turn of the kernel's scheduler under load";
            Some(Finding::new(WORKERS, Severity::Hurts, seen, effect).mend(format!(
                "workers = {processors}   # in the configuration; takes effect after a restart"
            )))
        }
    }
}

fn throttled(host: &Host) -> Option<Finding> {
    let (stopped, periods) = host.throttled.filter(|(_, periods)| *periods > 0)?;
    let percent = stopped * 100 / periods;
    let seen = format!("stopped in {stopped} of {periods} periods ({percent} %)");
    if percent < 1 {
        return Some(Finding::fine(THROTTLED, seen));
    }
    let effect = "requests that were under way in those periods waited for up to 100 ms each";
    let severity = if percent >= 5 { Severity::Hurts } else { Severity::Note };
    Some(
        Finding::new(THROTTLED, severity, seen, effect)
            .how("cpu.stat of the control group, since it was made")
            .mend("CPUQuota=   # in [Service] of the systemd unit: none; in Kubernetes take the limit away and keep the request"),
    )
}

fn memory(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let wanted = wanted?;
    let limit = wanted.memory.filter(|bytes| *bytes > 0).or(host.memory)?;
    let each = if wanted.tls { IDLE_TLS_BYTES } else { IDLE_BYTES };
    let base = BASE_BYTES + wanted.workers * WORKER_BYTES;
    // What is cached gives way to what is needed, down to half of the memory.
    let cache = wanted.cache.min(limit / 2);
    let spare = (limit / 100 * REFUSES_PERCENT).saturating_sub(base + cache);
    let fits = spare / each;
    let seen = format!("{}, of which the cache takes {}", size(limit), size(cache));
    let needed = base + wanted.cache + wanted.clients * each + wanted.buffers.unwrap_or(0);
    if fits >= wanted.clients && spare >= wanted.clients * each + wanted.buffers.unwrap_or(0) {
        return Some(Finding::fine(MEMORY, format!("{seen}; {} are asked for", size(needed))));
    }
    let severity = if spare < 16 << 20 { Severity::Breaks } else { Severity::Hurts };
    let effect = format!(
        "from about {fits} idle connections on, fewer with bodies under way, requests are refused (`server.memory`); the \
         configuration allows {}",
        wanted.clients
    );
    Some(
        Finding::new(MEMORY, severity, seen, effect)
            .how(format!(
                "{} for an idle connection, {} before the first, {} for the cache, and refusing begins at {REFUSES_PERCENT} %",
                size(each),
                size(base),
                size(cache)
            ))
            .mend(format!("MemoryMax={}M   # in [Service] of the systemd unit, or the container's limit", (needed >> 20) * 5 / 4))
            .mend("connections = …   # under [limits] in the configuration: what this machine is to take"),
    )
}

fn watched(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let (limit, watched) = (host.memory?, wanted?.memory?);
    let seen = format!("[protect] memory is {}, the system lets it take {}", size(watched), size(limit));
    if (1..=limit).contains(&watched) {
        return Some(Finding::fine(WATCHED, seen));
    }
    let effect = format!(
        "at {} the kernel ends the process, before it refuses anybody by itself: every exchange under way is lost",
        size(limit)
    );
    Some(Finding::new(WATCHED, Severity::Hurts, seen, effect).mend(
        "take `memory` out of [protect] in the configuration: what the system allows is found by itself",
    ))
}

fn swap(host: &Host) -> Option<Finding> {
    let (swap, swappiness) = (host.swap?, host.swappiness?);
    if swap == 0 || swappiness <= 10 {
        let seen = if swap == 0 {
            "none".to_owned()
        } else {
            format!("{}, vm.swappiness = {swappiness}", size(swap))
        };
        return Some(Finding::fine(SWAP, seen));
    }
    let effect = "under pressure a core waits for the disk to have its own memory back: all of its exchanges wait (`server.lag`)";
    Some(
        Finding::new(SWAP, Severity::Note, format!("{}, vm.swappiness = {swappiness}", size(swap)), effect)
            .mend("MemorySwapMax=0   # in [Service] of the systemd unit")
            .sysctl("vm.swappiness", 1),
    )
}

fn overcommit(host: &Host) -> Option<Finding> {
    let mode = host.overcommit?;
    let seen = format!("vm.overcommit_memory = {mode}");
    if mode != 2 {
        return Some(Finding::fine(OVERCOMMIT, seen));
    }
    let effect = "memory that is promised and not used counts: an allocation may fail, which ends the process, while much is free";
    Some(Finding::new(OVERCOMMIT, Severity::Hurts, seen, effect).sysctl("vm.overcommit_memory", 0))
}

fn clock(host: &Host) -> Option<Finding> {
    let kept = host.clock?;
    if kept.synchronised && kept.error_max <= ERROR_MAX {
        return Some(Finding::fine(CLOCK, format!("kept, {} off at most", time(kept.error_max))));
    }
    let (seen, effect) = if kept.synchronised {
        (
            format!("kept, but up to {} off", time(kept.error_max)),
            "tokens are taken after their end or refused before it, and stored answers are older than they seem",
        )
    } else {
        (
            "nobody keeps it".to_owned(),
            "it drifts, seconds in a week: tokens and certificates are judged by a wrong time, schedules are early or late, and \
             nodes differ on what is fresh",
        )
    };
    Some(
        Finding::new(CLOCK, Severity::Hurts, seen, effect)
            .mend("timedatectl set-ntp true")
            .mend("apt-get install chrony && systemctl enable --now chrony"),
    )
}
