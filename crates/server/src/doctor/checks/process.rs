//! What the process itself may have: files, threads, ports, rights.

use tidegate_wire::files;

use super::super::facts::{Facts, Host, Wanted};
use super::super::finding::{FILES_LIMIT, FILES_SYSTEM, Finding, LOW_PORTS, ROOT, Severity, THREADS};

/// With fewer open files it is not worth to begin.
const FILES_MIN: u64 = 1024;
/// Threads besides those that carry traffic: control, store, disk tier, logs, and those that wait for files.
const THREADS_BESIDE: u64 = 64;
/// A limit from which on it is none.
const NO_LIMIT: u64 = 1 << 40;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let found = [
        files_limit(host, facts.wanted.as_ref()),
        files_system(host, facts.wanted.as_ref()),
        threads(host, facts.wanted.as_ref()),
        low_ports(host, facts.wanted.as_ref()),
        host.root.then(root),
    ];
    found.into_iter().flatten().collect()
}

fn files_limit(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let limit = host.files?;
    let clients = files::clients_within(usize::try_from(limit).unwrap_or(usize::MAX)) as u64;
    let seen = match limit {
        NO_LIMIT.. => "no limit".to_owned(),
        limit => format!("{limit}"),
    };
    let asked = wanted.map_or(0, |wanted| wanted.clients);
    if limit >= FILES_MIN && clients >= asked {
        return Some(Finding::fine(
            FILES_LIMIT,
            format!("{seen}: room for {clients} connections of clients"),
        ));
    }
    let severity = if limit < FILES_MIN { Severity::Breaks } else { Severity::Hurts };
    // A quarter of what connections may take is kept for those to upstreams.
    let needed = (asked.max(1000) / 3 * 4 + 1024).next_power_of_two();
    let effect = format!(
        "from {clients} connections of clients on further ones are answered with 503 `server.files`{}",
        if asked > 0 { format!("; the configuration allows {asked}") } else { String::new() }
    );
    let mut finding = Finding::new(FILES_LIMIT, severity, seen, effect)
        .how(
            "a sixteenth of the limit (16 to 512) is set aside, and a quarter of the rest kept for upstreams",
        )
        .mend(format!("LimitNOFILE={needed}   # in [Service] of the systemd unit"))
        .mend(format!("ulimit -Hn {needed}   # in a root shell that starts it"))
        .mend(format!("docker run --ulimit nofile={needed}:{needed} …"));
    if host.files_max.is_some_and(|most| most < needed) {
        finding = finding.sysctl("fs.nr_open", needed);
    }
    Some(finding)
}

fn files_system(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let (open, most) = host.files_system?;
    let asked =
        wanted.map_or(0, |wanted| wanted.clients.saturating_add(wanted.clients.min(wanted.upstreams)));
    let left = most.saturating_sub(open);
    if left >= asked {
        let seen = if most >= NO_LIMIT { "no limit".to_owned() } else { format!("{open} of {most}") };
        return Some(Finding::fine(FILES_SYSTEM, seen));
    }
    let effect = format!(
        "from about {} connections of clients on no process of the machine can open a file; the configuration allows {}",
        left / 2,
        wanted.map_or(0, |wanted| wanted.clients)
    );
    Some(
        Finding::new(FILES_SYSTEM, Severity::Hurts, format!("{open} of {most}"), effect)
            .how("an exchange takes two: its client's connection, and one to an endpoint")
            .sysctl("fs.file-max", (open + asked).next_power_of_two()),
    )
}

fn threads(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let (most, wanted) = (host.threads?, wanted?);
    let needed = wanted.workers + THREADS_BESIDE;
    if most >= needed {
        let seen = if most >= NO_LIMIT { "no limit".to_owned() } else { format!("{most} are free") };
        return Some(Finding::fine(THREADS, seen));
    }
    let breaks = most < wanted.workers + 8;
    let severity = if breaks { Severity::Breaks } else { Severity::Hurts };
    let effect = if breaks {
        "it does not start: a core is a thread, and so are control API, store and log"
    } else {
        "what waits for files and disks is served by few threads, or fails"
    };
    Some(
        Finding::new(THREADS, severity, format!("{most} are free, some {needed} are needed"), effect)
            .how(format!("{} workers, and up to {THREADS_BESIDE} threads beside them", wanted.workers))
            .mend(format!("TasksMax={}   # in [Service] of the systemd unit", needed.max(512)))
            .mend(format!("docker run --pids-limit {} …", needed.max(512))),
    )
}

fn low_ports(host: &Host, wanted: Option<&Wanted>) -> Option<Finding> {
    let ((may, first), wanted) = (host.low_ports?, wanted?);
    let low: Vec<u16> = wanted.ports.iter().copied().filter(|port| (1..first).contains(port)).collect();
    if low.is_empty() {
        return None;
    }
    let ports = low.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    if may {
        return Some(Finding::fine(LOW_PORTS, format!("it may listen on {ports}")));
    }
    Some(
        Finding::new(
            LOW_PORTS,
            Severity::Breaks,
            format!("this user may not listen on {ports}"),
            "`tidegate run` does not start",
        )
        .mend("AmbientCapabilities=CAP_NET_BIND_SERVICE   # in [Service] of the systemd unit")
        .mend("setcap cap_net_bind_service=+ep $(command -v tidegate)")
        .sysctl("net.ipv4.ip_unprivileged_port_start", low.iter().min().copied().unwrap_or(80)),
    )
}

fn root() -> Finding {
    let effect = "nothing breaks; whoever finds a hole in it has the machine";
    Finding::new(ROOT, Severity::Note, "it runs as root", effect)
        .mend("User=tidegate   # in [Service] of the systemd unit: see packaging/systemd/tidegate.service")
}
