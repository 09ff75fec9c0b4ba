//! Reads the facts: of the machine from `/proc` and `/sys`, of a configuration what it asks for. Nothing is changed.
//!
//! Whatever cannot be read is "not told", never a guess.

use std::path::Path;

use tidegate_model::route::HostPattern;
use tidegate_wire::timekeeping;

use super::facts::{Host, Wanted};
use crate::config::{Config, ControlAddress};
use crate::protect::{Limit, files_of};

pub mod probe;

/// The bit of `CAP_NET_BIND_SERVICE`.
const BIND_SERVICE: u64 = 1 << 10;
/// A page of memory, as `tcp_mem` counts.
const PAGE: u64 = 4096;
/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// The machine, and what a process may have: the one of this number, or this one.
#[must_use]
pub fn host(pid: Option<u32>) -> Host {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let limits = text(&format!("/proc/{process}/limits"));
    let status = text(&format!("/proc/{process}/status"));
    let groups = text(&format!("/proc/{process}/cgroup"));
    let memory = text("/proc/meminfo");
    let first =
        number("/proc/sys/net/ipv4/ip_unprivileged_port_start").and_then(|port| u16::try_from(port).ok());
    let memory_limit = Limit::of(&process).bytes;
    Host {
        files: limit_in(&limits, "Max open files"),
        files_max: number("/proc/sys/fs/nr_open"),
        files_system: files_system(&text("/proc/sys/fs/file-nr")),
        threads: threads(&limits, &groups),
        low_ports: first.map(|first| (may_bind(&status), first)),
        root: user(&status) == Some(0),
        backlog: number("/proc/sys/net/core/somaxconn"),
        half_open: number("/proc/sys/net/ipv4/tcp_max_syn_backlog")
            .zip(number("/proc/sys/net/ipv4/tcp_syncookies").map(|mode| mode > 0)),
        ports: pair(&text("/proc/sys/net/ipv4/ip_local_port_range")),
        port_reuse: number("/proc/sys/net/ipv4/tcp_tw_reuse"),
        conntrack: number("/proc/sys/net/netfilter/nf_conntrack_count")
            .zip(number("/proc/sys/net/netfilter/nf_conntrack_max")),
        socket_memory: words(&text("/proc/sys/net/ipv4/tcp_mem"))
            .nth(2)
            .map(|pages| pages.saturating_mul(PAGE)),
        idle_restart: number("/proc/sys/net/ipv4/tcp_slow_start_after_idle").map(|mode| mode > 0),
        processors: std::thread::available_parallelism().ok().map(|count| count.get() as u64),
        quota: quota(&groups),
        throttled: throttled(&groups),
        memory: (memory_limit > 0).then_some(memory_limit),
        swap: field(&memory, "SwapTotal:").map(|kib| kib * 1024),
        swappiness: number("/proc/sys/vm/swappiness"),
        overcommit: number("/proc/sys/vm/overcommit_memory"),
        clock: timekeeping::timekeeping(),
    }
}

/// What a configuration asks for. `endpoints`: how many each upstream has, as far as it is known.
#[must_use]
pub fn wanted(config: &Config, endpoints: &[(String, usize)]) -> Wanted {
    let of =
        |name: &str| endpoints.iter().find(|(known, _)| known == name).map_or(1, |(_, count)| *count.max(&1));
    let most = |upstream: &tidegate_upstream::settings::UpstreamSettings| {
        u64::from(upstream.connections_max).saturating_mul(of(&upstream.name) as u64)
    };
    let busiest = config.upstreams.iter().max_by_key(|upstream| upstream.connections_max);
    let control = config.control.listen.iter().filter_map(|address| match address {
        ControlAddress::Tcp(address) => Some(address.port()),
        ControlAddress::Unix(_) => None,
    });
    let mut hosts: Vec<String> = config
        .proxy
        .routes
        .iter()
        .filter_map(|route| match &route.matches.host {
            HostPattern::Exact(host) => Some(host.clone()),
            HostPattern::Any | HostPattern::Wildcard(_) => None,
        })
        // Those are ordered where they are missing.
        .filter(|host| config.acme.as_ref().is_none_or(|acme| !acme.domains.contains(host.as_str())))
        .collect();
    hosts.sort();
    hosts.dedup();
    Wanted {
        clients: config.listeners.iter().map(|one| one.limits.connections as u64).max().unwrap_or(0),
        upstreams: config.upstreams.iter().map(most).fold(0, u64::saturating_add),
        busiest: busiest.map(|one| (one.name.to_string(), u64::from(one.connections_max))),
        workers: config.workers.get() as u64,
        tls: config.listeners.iter().any(|listener| listener.tls),
        ports: config.listeners.iter().map(|listener| listener.address.port()).chain(control).collect(),
        hosts,
        cache: config.proxy.cache.bounds.bytes,
        buffers: config.protect.buffers.filter(|bytes| *bytes > 0),
        memory: config.protect.memory,
        shared_wait: config.shared.map(|shared| shared.wait),
    }
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn number(path: &str) -> Option<u64> {
    text(path).trim().parse().ok()
}

fn words(text: &str) -> impl Iterator<Item = u64> {
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok())
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let mut words = words(text);
    words.next().zip(words.next())
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| words(line.strip_prefix(name)?).next())
}

/// A hard limit in `/proc/PID/limits`: a name, the soft one, the hard one, a unit.
fn limit_in(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn files_system(told: &str) -> Option<(u64, u64)> {
    let (open, most) = (words(told).next()?, words(told).nth(2)?);
    Some((open, most))
}

fn may_bind(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & BIND_SERVICE != 0)
}

/// Its effective user.
fn user(status: &str) -> Option<u64> {
    words(status.lines().find_map(|line| line.strip_prefix("Uid:"))?).nth(1)
}

/// What its own limit and those of its control groups leave.
fn threads(limits: &str, groups: &str) -> Option<u64> {
    let own = limit_in(limits, "Max processes");
    let of_groups = files_of(groups, Path::new(GROUPS), "pids", &["pids.max"], &["pids.max"]);
    let left = of_groups.iter().filter_map(|file| {
        let most: u64 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        let there = std::fs::read_to_string(file.with_file_name("pids.current")).ok();
        Some(most.saturating_sub(there.and_then(|there| there.trim().parse().ok()).unwrap_or(0)))
    });
    left.chain(own).min()
}

/// The tightest share of all groups, in hundredths of a processor.
fn quota(groups: &str) -> Option<u64> {
    let of_two = files_of(groups, Path::new(GROUPS), "cpu", &["cpu.max"], &["cpu.cfs_quota_us"]);
    let read = |file: &std::path::PathBuf| {
        let told = std::fs::read_to_string(file).ok()?;
        if file.ends_with("cpu.max") {
            return quota_of(&told);
        }
        let period = std::fs::read_to_string(file.with_file_name("cpu.cfs_period_us")).ok()?;
        quota_of(&format!("{} {}", told.trim(), period.trim()))
    };
    of_two.iter().filter_map(read).min()
}

/// `MICROSECONDS PERIOD`; without a limit `max` or a number below zero stands first.
fn quota_of(told: &str) -> Option<u64> {
    let mut words = told.split_ascii_whitespace();
    let quota: u64 = words.next()?.parse().ok()?;
    let period: u64 = words.next()?.parse().ok().filter(|period| *period > 0)?;
    Some(quota.saturating_mul(100) / period)
}

fn throttled(groups: &str) -> Option<(u64, u64)> {
    let files = files_of(groups, Path::new(GROUPS), "cpu", &["cpu.stat"], &["cpu.stat"]);
    let told = files.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
    field(&told, "nr_throttled").zip(field(&told, "nr_periods"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             unlimited            unlimited            processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(limit_in(limits, "Max open files"), Some(524_288));
        assert_eq!(limit_in(limits, "Max processes"), Some(u64::MAX));
        assert_eq!(limit_in("", "Max open files"), None);
        assert_eq!(files_system("1632\t0\t9223372036854775807\n"), Some((1632, 9_223_372_036_854_775_807)));
        assert_eq!(pair("32768\t60999\n"), Some((32_768, 60_999)));
        for (told, quota) in [
            ("max 100000\n", None),
            ("150000 100000\n", Some(150)),
            ("-1 100000", None),
            ("5 0", None),
            ("", None),
        ] {
            assert_eq!(quota_of(told), quota, "{told:?}");
        }
        let status = "Name:\ttidegate\nUid:\t1000\t0\t0\t0\nCapEff:\t0000000000000400\n";
        assert_eq!((user(status), may_bind(status)), (Some(0), true));
        assert!(!may_bind("CapEff:\t00000000000003ff\n"));
    }

    #[test]
    fn this_machine_tells_of_itself() {
        let host = host(None);
        assert!(host.files.is_some_and(|files| files > 2), "{host:?}");
        assert!(host.processors.is_some() && host.memory.is_some(), "{host:?}");
    }
}
