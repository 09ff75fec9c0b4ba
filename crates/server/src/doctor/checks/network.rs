//! What the kernel's network is set to.

use tidegate_wire::listen;

use super::super::facts::{Facts, Host, Wanted};
use super::super::finding::{
    BACKLOG, CONNTRACK, Finding, HALF_OPEN, IDLE_RESTART, PORTS, SOCKET_MEMORY, Severity,
};
use super::size;

/// A port is not used again for so long after its connection was closed here (`TCP_TIMEWAIT_LEN`).
const CLOSED_SECONDS: u64 = 60;
/// Half-open connections that an honest peak makes.
const HALF_OPEN_MIN: u64 = 1024;
/// What a connection with data on its way takes of the kernel: a small buffer each way.
const BUSY_BYTES: u64 = 128 << 10;
/// The part of all connections that are busy at once.
const BUSY_PART: u64 = 10;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let (host, wanted) = (&facts.host, facts.wanted.as_ref());
    let found = [
        backlog(host, wanted),
        half_open(host),
        ports(host, wanted),
        conntrack(host, wanted),
        socket_memory(host, wanted),
        idle_restart(host),
    ];
    found.into_iter().flatten().collect()
}

fn backlog(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let (most, asked) = (host.backlog?, u64::from(listen::BACKLOG.unsigned_abs()));
    if most >= asked {
        return Some(Finding::fine(BACKLOG, format!("net.core.somaxconn = {most}")));
    }
    let workers = wanted.map_or(1, |wanted| wanted.workers);
    let effect = format!(
        "a burst of more than {} connections is dropped in part while the cores are busy; such clients try again after a second",
        most * workers
    );
    Some(
        Finding::new(BACKLOG, Severity::Hurts, format!("net.core.somaxconn = {most}"), effect)
            .how(format!("{workers} workers with a list of {most} each; Tidegate asks for {asked}"))
            .sysctl("net.core.somaxconn", asked),
    )
}

fn half_open(host: &Host) -> Option<Finding> {
    let (most, cookies) = host.half_open?;
    let seen =
        format!("net.ipv4.tcp_max_syn_backlog = {most}, net.ipv4.tcp_syncookies = {}", u8::from(cookies));
    if !cookies {
        let effect =
            format!("{most} connections that somebody begins and does not finish shut everybody else out");
        return Some(
            Finding::new(HALF_OPEN, Severity::Hurts, seen, effect).sysctl("net.ipv4.tcp_syncookies", 1),
        );
    }
    if most < HALF_OPEN_MIN {
        let effect = format!(
            "from {most} connections that are being made at once on, cookies stand in: such connections lose window scaling and \
             selective acknowledgements where the client sends no timestamps"
        );
        return Some(
            Finding::new(HALF_OPEN, Severity::Note, seen, effect)
                .sysctl("net.ipv4.tcp_max_syn_backlog", HALF_OPEN_MIN * 4),
        );
    }
    Some(Finding::fine(HALF_OPEN, seen))
}

fn ports(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let (first, last) = host.ports?;
    let count = (last + 1).saturating_sub(first);
    let seen = format!("net.ipv4.ip_local_port_range = {first} {last}: {count}");
    let (upstream, asked) = wanted.and_then(|wanted| wanted.busiest.clone()).unwrap_or_default();
    let reused = host.port_reuse.unwrap_or(0) == 1;
    let each_second = if reused { count } else { count / CLOSED_SECONDS };
    if count >= asked && count >= 16_384 {
        return Some(Finding::fine(
            PORTS,
            format!("{seen}; up to {each_second} new connections a second to one endpoint"),
        ));
    }
    let effect = if count < asked {
        format!(
            "from {count} connections to one endpoint on none can be made (`upstream.connect`); upstream `{upstream}` may have \
             {asked}"
        )
    } else {
        format!(
            "more than {each_second} new connections a second to one endpoint cannot be made (`upstream.connect`)"
        )
    };
    Some(
        Finding::new(PORTS, Severity::Hurts, seen, effect)
            .how(format!("a port that was closed here is not used again for {CLOSED_SECONDS} s, unless tcp_tw_reuse = 1"))
            .sysctl("net.ipv4.ip_local_port_range", "1024 65535")
            .sysctl("net.ipv4.tcp_tw_reuse", 1),
    )
}

fn conntrack(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let (count, most) = host.conntrack?;
    let seen = format!("net.netfilter.nf_conntrack_max = {most}, {count} are followed now");
    let asked =
        wanted.map_or(0, |wanted| wanted.clients.saturating_add(wanted.clients.min(wanted.upstreams)));
    let left = most.saturating_sub(count);
    let full = count >= most - most / 10;
    if left >= asked && !full {
        return Some(Finding::fine(CONNTRACK, seen));
    }
    let severity = if full { Severity::Breaks } else { Severity::Hurts };
    let effect = format!(
        "from {} connections of clients on the kernel drops whatever begins a new one, without a word: clients and Tidegate \
         run into time-outs",
        left / 2
    );
    Some(
        Finding::new(CONNTRACK, severity, seen, effect)
            .how("an exchange takes two: its client's connection, and one to an endpoint")
            .sysctl("net.netfilter.nf_conntrack_max", (count + asked).max(most * 2).next_power_of_two())
            .mend("iptables -t raw -A PREROUTING -p tcp -m multiport --dports 80,443 -j NOTRACK   # or do not follow them at all"),
    )
}

fn socket_memory(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let most = host.socket_memory?;
    let busy = most / BUSY_BYTES;
    let seen = format!("net.ipv4.tcp_mem lets TCP take {}", size(most));
    let asked = wanted.map_or(0, |wanted| wanted.clients / BUSY_PART);
    if busy >= asked {
        return Some(Finding::fine(SOCKET_MEMORY, seen));
    }
    let pages = |bytes: u64| bytes / 4096;
    let needed = asked * BUSY_BYTES;
    let effect = format!(
        "from about {busy} connections with data on their way on the kernel shrinks buffers and drops packets; the configuration \
         allows {asked} times {BUSY_PART}"
    );
    Some(
        Finding::new(SOCKET_MEMORY, Severity::Hurts, seen, effect)
            .how(format!(
                "{} for each connection with data on its way, one in {BUSY_PART} at once",
                size(BUSY_BYTES)
            ))
            .sysctl(
                "net.ipv4.tcp_mem",
                format!("{} {} {}", pages(needed / 2), pages(needed / 4 * 3), pages(needed)),
            ),
    )
}

fn idle_restart(host: &Host) -> Option<Finding> {
    if !host.idle_restart? {
        return Some(Finding::fine(IDLE_RESTART, "net.ipv4.tcp_slow_start_after_idle = 0"));
    }
    let effect = "a kept connection that was idle begins slowly again: answers of more than 14 KiB take further round trips";
    Some(
        Finding::new(IDLE_RESTART, Severity::Note, "net.ipv4.tcp_slow_start_after_idle = 1", effect)
            .sysctl("net.ipv4.tcp_slow_start_after_idle", 0),
    )
}
