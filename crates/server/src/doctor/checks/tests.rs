//! What is found of given facts.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_wire::certificate::Chain;
use tidegate_wire::timekeeping::Timekeeping;

use super::super::facts::{
    CertificateLook, DiskLook, Facts, Host, PostgresLook, Purpose, RedisLook, UpstreamLook, Wanted,
};
use super::super::finding::{CHECKS, CONFIG, Finding, Severity};
use super::examine;

const DAY: i64 = 24 * 3600;
const NOW: i64 = 1_800_000_000;
const MIB: u64 = 1 << 20;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A machine of which nothing is to be said.
fn fine_host() -> Host {
    Host {
        files: Some(1 << 20),
        files_max: Some(1 << 20),
        files_system: Some((2_000, 1 << 40)),
        threads: Some(10_000),
        low_ports: Some((true, 1024)),
        root: false,
        backlog: Some(4096),
        half_open: Some((4096, true)),
        ports: Some((1024, 65_535)),
        port_reuse: Some(1),
        conntrack: Some((100, 1 << 20)),
        socket_memory: Some(4 << 30),
        idle_restart: Some(false),
        processors: Some(4),
        quota: Some(400),
        throttled: Some((0, 1000)),
        memory: Some(16 << 30),
        swap: Some(0),
        swappiness: Some(60),
        overcommit: Some(0),
        clock: Some(Timekeeping { synchronised: true, error_max: millis(3) }),
    }
}

/// A configuration for which it is enough.
fn fine_wanted() -> Wanted {
    Wanted {
        clients: 100_000,
        upstreams: 2_000,
        busiest: Some(("app".to_owned(), 1_000)),
        workers: 4,
        tls: true,
        ports: vec![443, 8090],
        hosts: vec!["api.example.com".to_owned()],
        cache: 64 * MIB,
        buffers: None,
        memory: Some(8 << 30),
        shared_wait: Some(millis(20)),
    }
}

/// Both, and what they depend on: nothing is to be said.
fn fine() -> Facts {
    let upstream = UpstreamLook {
        name: "app".to_owned(),
        discovery: "dns app.internal:3000".to_owned(),
        lookups: vec![millis(1), millis(2)],
        lookup_error: None,
        endpoints: vec![("127.0.0.1:3000".parse().unwrap(), Ok(millis(1)))],
        connect_timeout: millis(1000),
    };
    let names = vec!["*.example.com".to_owned()];
    let holds = (NOW - DAY, NOW + 80 * DAY);
    let certificate = CertificateLook {
        path: PathBuf::from("/etc/tidegate/cert.pem"),
        chain: Chain {
            names,
            holds,
            length: 2,
            broken: None,
            ends_in_root: false,
            issuer: "CN=X".to_owned(),
        },
        key: PathBuf::from("/etc/tidegate/key.pem"),
        key_mode: 0o100_640,
    };
    let disk = DiskLook {
        purpose: Purpose::Store,
        path: PathBuf::from("/var/lib/tidegate"),
        kind: Some("ext4".to_owned()),
        free: Some(100 << 30),
        files_free: Some(1_000_000),
        growth: 1 << 30,
        error: None,
        syncs: vec![millis(1); 100],
    };
    let postgres =
        PostgresLook { warnings: Vec::new(), version: 17, round_trip: millis(1), connections: (5, 97) };
    let redis =
        RedisLook { round_trip: millis(1), memory: Some(1 << 30), policy: Some("volatile-lru".to_owned()) };
    Facts {
        host: fine_host(),
        wanted: Some(fine_wanted()),
        config_error: None,
        now: NOW,
        upstreams: vec![upstream],
        untried: 0,
        certificates: vec![certificate],
        disks: vec![disk],
        postgres: Some(("postgres://db/app".to_owned(), Ok(postgres))),
        redis: Some(("redis:6379".to_owned(), Ok(redis))),
    }
}

/// Changes one fact of a machine that is fine, and expects this finding alone to be bad, with these words in what breaks.
fn check(code: &str, severity: Severity, words: &str, change: impl FnOnce(&mut Facts)) {
    let mut facts = fine();
    change(&mut facts);
    let bad: Vec<Finding> =
        examine(&facts).into_iter().filter(|finding| finding.severity > Severity::Fine).collect();
    let codes: Vec<_> = bad.iter().map(|finding| (finding.check.code, finding.severity)).collect();
    assert_eq!(codes, [(code, severity)], "{bad:#?}");
    assert!(bad[0].effect.contains(words), "{words:?} is not in {:?}", bad[0].effect);
    let tells = severity == Severity::Note || !bad[0].mend.is_empty();
    assert!(tells, "{code} says what mends it");
}

fn host(change: impl FnOnce(&mut Host)) -> impl FnOnce(&mut Facts) {
    move |facts| change(&mut facts.host)
}

fn wanted(change: impl FnOnce(&mut Wanted)) -> impl FnOnce(&mut Facts) {
    move |facts| change(facts.wanted.as_mut().unwrap())
}

fn disk(change: impl FnOnce(&mut DiskLook)) -> impl FnOnce(&mut Facts) {
    move |facts| change(&mut facts.disks[0])
}

fn certificate(change: impl FnOnce(&mut CertificateLook)) -> impl FnOnce(&mut Facts) {
    move |facts| change(&mut facts.certificates[0])
}

#[test]
fn nothing_is_said_of_a_machine_that_is_fine() {
    let findings = examine(&fine());
    assert!(findings.iter().all(|finding| finding.severity == Severity::Fine), "{findings:#?}");
    assert!(findings.len() > 30, "{}", findings.len());
    // What is not told by the system is not judged.
    let findings = examine(&Facts::default());
    assert_eq!(findings.iter().map(|finding| finding.check).collect::<Vec<_>>(), [CONFIG]);
}

#[test]
fn files_are_counted_against_connections() {
    check("files.limit", Severity::Hurts, "from 45684 connections", host(|host| host.files = Some(61_440)));
    check("files.limit", Severity::Breaks, "server.files", host(|host| host.files = Some(256)));
    check(
        "files.system",
        Severity::Hurts,
        "from about 49000",
        host(|host| {
            host.files_system = Some((2_000, 100_000));
        }),
    );
}

#[test]
fn the_process_needs_threads_and_its_ports() {
    check("process.threads", Severity::Breaks, "does not start", host(|host| host.threads = Some(5)));
    check("process.threads", Severity::Hurts, "few threads", host(|host| host.threads = Some(40)));
    check(
        "process.ports",
        Severity::Breaks,
        "does not start",
        host(|host| host.low_ports = Some((false, 1024))),
    );
    check("process.user", Severity::Note, "", host(|host| host.root = true));
    let mut facts = fine();
    facts.host.low_ports = Some((false, 80));
    assert!(examine(&facts).iter().all(|finding| finding.severity == Severity::Fine));
}

#[test]
fn the_network_is_judged_by_what_is_configured() {
    check(
        "network.backlog",
        Severity::Hurts,
        "more than 512 connections",
        host(|host| host.backlog = Some(128)),
    );
    check("network.half-open", Severity::Note, "from 256", host(|host| host.half_open = Some((256, true))));
    check(
        "network.half-open",
        Severity::Hurts,
        "shut everybody",
        host(|host| host.half_open = Some((4096, false))),
    );
    check(
        "network.ports",
        Severity::Hurts,
        "from 500 connections",
        host(|host| host.ports = Some((60_000, 60_499))),
    );
    check(
        "network.ports",
        Severity::Hurts,
        "more than 133 new",
        host(|host| {
            (host.ports, host.port_reuse) = (Some((50_000, 57_999)), Some(2));
        }),
    );
    check(
        "network.conntrack",
        Severity::Hurts,
        "from 32718",
        host(|host| host.conntrack = Some((100, 65_536))),
    );
    check(
        "network.conntrack",
        Severity::Breaks,
        "drops",
        host(|host| host.conntrack = Some((1_000_000, 1 << 20))),
    );
    check(
        "network.memory",
        Severity::Hurts,
        "from about 2048",
        host(|host| host.socket_memory = Some(256 * MIB)),
    );
    check("network.idle-restart", Severity::Note, "14 KiB", host(|host| host.idle_restart = Some(true)));
}

#[test]
fn processors_are_counted_against_workers() {
    check("cpu.quota", Severity::Hurts, "up to 63 ms of every 100 ms", host(|host| host.quota = Some(150)));
    check("cpu.workers", Severity::Hurts, "scheduler", host(|host| host.processors = Some(2)));
    check("cpu.workers", Severity::Note, "4 processors", host(|host| host.processors = Some(8)));
    check("cpu.throttled", Severity::Hurts, "100 ms", host(|host| host.throttled = Some((50, 1000))));
}

#[test]
fn memory_is_added_up() {
    check("memory.limit", Severity::Hurts, "from about 19005 idle", |facts| {
        (facts.host.memory, facts.wanted.as_mut().unwrap().memory) = (Some(1 << 30), None);
    });
    check("memory.limit", Severity::Breaks, "server.memory", |facts| {
        (facts.host.memory, facts.wanted.as_mut().unwrap().memory) = (Some(128 * MIB), None);
    });
    check(
        "memory.watched",
        Severity::Hurts,
        "the kernel ends the process",
        wanted(|wanted| wanted.memory = Some(0)),
    );
    check("memory.watched", Severity::Hurts, "16.0 GiB", wanted(|wanted| wanted.memory = Some(32 << 30)));
    check("memory.swap", Severity::Note, "waits for the disk", host(|host| host.swap = Some(1 << 30)));
    check("memory.overcommit", Severity::Hurts, "allocation", host(|host| host.overcommit = Some(2)));
}

#[test]
fn a_clock_that_nobody_keeps_hurts() {
    let kept = |synchronised, error| Some(Timekeeping { synchronised, error_max: millis(error) });
    check("clock.kept", Severity::Hurts, "drifts", host(|host| host.clock = kept(false, 16_000)));
    check("clock.kept", Severity::Hurts, "tokens", host(|host| host.clock = kept(true, 4_000)));
}

#[test]
fn upstreams_are_looked_for() {
    check("names.resolve", Severity::Breaks, "upstream.resolve", |facts| {
        facts.upstreams[0].lookup_error = Some("no such name".to_owned());
    });
    check("names.resolve", Severity::Note, "start waits", |facts| {
        facts.upstreams[0].lookups.push(millis(300))
    });
    check("names.resolve", Severity::Hurts, "start waits", |facts| {
        facts.upstreams[0].lookups.push(millis(3000))
    });
    let refused = || ("127.0.0.1:3001".parse().unwrap(), Err("refused".to_owned()));
    check("endpoints.connect", Severity::Hurts, "1 of its endpoints", |facts| {
        facts.upstreams[0].endpoints.push(refused());
    });
    check("endpoints.connect", Severity::Note, "nothing is known", |facts| facts.untried = 2);
    check("endpoints.connect", Severity::Breaks, "502", |facts| {
        facts.upstreams[0].endpoints = vec![refused()]
    });
}

#[test]
fn certificates_are_read_as_clients_do() {
    let until = |days: i64| certificate(move |one| one.chain.holds.1 = NOW + days * DAY + 1);
    check("tls.expiry", Severity::Note, "after that", until(20));
    check("tls.expiry", Severity::Hurts, "after that", until(3));
    check("tls.expiry", Severity::Breaks, "every client refuses it", until(-2));
    check("tls.expiry", Severity::Breaks, "until then", certificate(|one| one.chain.holds.0 = NOW + DAY));
    check("tls.chain", Severity::Breaks, "Java", certificate(|one| one.chain.broken = Some(0)));
    check("tls.chain", Severity::Hurts, "only roots", certificate(|one| one.chain.length = 1));
    check(
        "tls.chain",
        Severity::Note,
        "given it",
        certificate(|one| {
            (one.chain.length, one.chain.ends_in_root) = (1, true);
        }),
    );
    check("tls.key-file", Severity::Hurts, "other users", certificate(|one| one.key_mode = 0o100_644));
    for host in ["example.com", "a.api.example.com", "api.example.org"] {
        check(
            "tls.hosts",
            Severity::Hurts,
            "first certificate",
            wanted(|wanted| {
                wanted.hosts.push(host.to_owned());
            }),
        );
    }
}

#[test]
fn disks_are_measured() {
    check("disk.filesystem", Severity::Breaks, "memory", disk(|disk| disk.kind = Some("tmpfs".to_owned())));
    check("disk.filesystem", Severity::Breaks, "fsync", disk(|disk| disk.kind = Some("nfs4".to_owned())));
    check(
        "disk.filesystem",
        Severity::Hurts,
        "container",
        disk(|disk| disk.kind = Some("overlay".to_owned())),
    );
    check(
        "disk.access",
        Severity::Breaks,
        "does not start",
        disk(|disk| disk.error = Some("denied".to_owned())),
    );
    check("disk.space", Severity::Hurts, "refused", disk(|disk| disk.free = Some(500 * MIB)));
    check("disk.space", Severity::Breaks, "refused", disk(|disk| disk.free = Some(MIB)));
    check("disk.inodes", Severity::Hurts, "no file", disk(|disk| disk.files_free = Some(3)));
    check("disk.sync", Severity::Note, "50 commits a second", disk(|disk| disk.syncs = vec![millis(20); 9]));
    check("disk.sync", Severity::Hurts, "1280 requests", disk(|disk| disk.syncs = vec![millis(50); 9]));
    check("disk.sync", Severity::Note, "power cut", disk(|disk| disk.syncs = vec![Duration::from_micros(2)]));
    // Neither the cache nor the log is what must survive.
    for purpose in [Purpose::Cache, Purpose::Log] {
        let mut facts = fine();
        (facts.disks[0].purpose, facts.disks[0].kind) = (purpose, Some("overlay".to_owned()));
        assert!(examine(&facts).iter().all(|finding| finding.severity == Severity::Fine));
    }
}

#[test]
fn servers_are_asked() {
    fn postgres(change: impl FnOnce(&mut PostgresLook)) -> impl FnOnce(&mut Facts) {
        |facts| change(facts.postgres.as_mut().unwrap().1.as_mut().unwrap())
    }
    fn redis(change: impl FnOnce(&mut RedisLook)) -> impl FnOnce(&mut Facts) {
        |facts| change(facts.redis.as_mut().unwrap().1.as_mut().unwrap())
    }
    check("postgres.reach", Severity::Breaks, "store.unavailable", |facts| {
        facts.postgres.as_mut().unwrap().1 = Err("refused".to_owned());
    });
    check("postgres.reach", Severity::Hurts, "60 ms", postgres(|look| look.round_trip = millis(20)));
    check(
        "postgres.settings",
        Severity::Hurts,
        "fsync",
        postgres(|look| look.warnings.push("fsync".to_owned())),
    );
    check("postgres.connections", Severity::Breaks, "refused", postgres(|look| look.connections = (96, 97)));
    check("redis.reach", Severity::Hurts, "purges wait", |facts| {
        facts.redis.as_mut().unwrap().1 = Err("refused".to_owned());
    });
    check("redis.reach", Severity::Hurts, "goes on without", redis(|look| look.round_trip = millis(30)));
    let policy = |name: &'static str| redis(move |look| look.policy = Some(name.to_owned()));
    check("redis.eviction", Severity::Hurts, "log of purges", policy("allkeys-lru"));
    check("redis.eviction", Severity::Hurts, "written", policy("noeviction"));
    check("redis.eviction", Severity::Note, "grows", redis(|look| look.memory = Some(0)));
}

#[test]
fn a_configuration_that_cannot_be_used_is_told_with_what_is_wrong_with_the_machine() {
    let facts = Facts {
        config_error: Some("line 3".to_owned()),
        wanted: None,
        host: Host { files: Some(100), ..Host::default() },
        ..Facts::default()
    };
    let codes: Vec<_> =
        examine(&facts).iter().map(|finding| (finding.check.code, finding.severity)).collect();
    assert_eq!(codes, [("config.file", Severity::Breaks), ("files.limit", Severity::Breaks)]);
}

#[test]
fn each_check_has_a_section_in_its_page_and_each_section_a_check() {
    let page = include_str!("../../../../../docs/doctor.md");
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let codes: Vec<String> =
        CHECKS.iter().map(|check| format!("`{}`: {}", check.code, check.title)).collect();
    assert_eq!(sections, codes);
}
