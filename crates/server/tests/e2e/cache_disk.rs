//! The cache's disk tier: there again after a restart and a crash, and never in the way of traffic.

use std::path::{Path, PathBuf};

use tidegate_testkit::{Gate, Origin, ask, until};

use crate::{app, control, gate};

/// A directory that is removed with the test.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Directory {
        Directory(Gate::folder(&format!("{name}-files")))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.join("cache")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An application that tells how often it was asked; its answers live for long.
fn counting() -> Origin {
    let count = std::sync::atomic::AtomicUsize::new(0);
    Origin::scripted(move |visit| {
        visit.read_body()?;
        let body = format!("answer {}", count.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        let head = "Cache-Control: max-age=600\r\nVary: Accept-Language";
        visit.say(format!("HTTP/1.1 200 OK\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    })
}

fn on_disk(name: &str, origin: &Origin, path: &Path) -> Gate {
    let config = app(&[origin.address], "", "cache = {}");
    let tenants = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n";
    let listen = "http = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1\"]";
    let disk = format!("[cache]\ndisk = {{ path = \"{}\", size = \"64MiB\" }}\n", path.display());
    Gate::start_listening(crate::BINARY, name, listen, &format!("{config}{tenants}{disk}"))
}

fn serves(gate: &Gate) {
    until("the disk tier serves", || gate.metric("tidegate_cache_disk_up") == Some(1.0));
}

fn written(gate: &Gate, count: f64) {
    until("it is on disk", || {
        gate.metric("tidegate_cache_disk_writes_total{outcome=\"written\"}") == Some(count)
    });
}

/// What is answered, and whether it was stored.
fn check(gate: &Gate, fields: &str, path: &str, body: &str, is_hit: bool) {
    let answer = ask(gate.address, &format!("GET {path}"), fields);
    assert_eq!(answer.body, body, "{path} {fields}: {}", answer.head);
    let told = answer.header("cache-status");
    assert_eq!(told.starts_with("tidegate; hit"), is_hit, "{path} {fields}: {told}");
}

#[test]
fn what_was_kept_is_served_by_the_next_process_to_the_tenant_that_it_belongs_to() {
    for signal in ["-TERM", "-KILL"] {
        let (origin, files) = (counting(), Directory::new("disk-restart"));
        let mut first = on_disk("disk-restart-1", &origin, &files.path());
        serves(&first);
        check(&first, "x-tenant: acme\r\n", "/a", "answer 0", false);
        check(&first, "x-tenant: acme\r\naccept-language: de\r\n", "/a", "answer 1", false);
        written(&first, 2.0);
        first.signal(signal);
        first.wait();
        let second = on_disk("disk-restart-2", &origin, &files.path());
        serves(&second);
        check(&second, "x-tenant: acme\r\n", "/a", "answer 0", true);
        check(&second, "x-tenant: acme\r\naccept-language: de\r\n", "/a", "answer 1", true);
        check(&second, "x-tenant: other\r\n", "/a", "answer 2", false);
        assert_eq!(
            second.metric("tidegate_cache_disk_reads_total{outcome=\"hit\"}"),
            Some(2.0),
            "then from memory"
        );
        check(&second, "x-tenant: acme\r\n", "/a", "answer 0", true);
        assert_eq!(second.metric("tidegate_cache_disk_reads_total{outcome=\"hit\"}"), Some(2.0));
    }
}

#[test]
fn what_a_write_has_changed_does_not_come_back_with_the_next_process() {
    for signal in ["-TERM", "-KILL"] {
        let (origin, files) = (counting(), Directory::new("disk-purged"));
        let mut first = on_disk("disk-purged-1", &origin, &files.path());
        serves(&first);
        check(&first, "x-tenant: acme\r\n", "/a", "answer 0", false);
        check(&first, "x-tenant: acme\r\n", "/b", "answer 1", false);
        written(&first, 2.0);
        assert_eq!(ask(first.address, "POST /a", "x-tenant: acme\r\nContent-Length: 0\r\n").body, "answer 2");
        // It was answered: from now on nothing may bring back what was before.
        first.signal(signal);
        first.wait();
        let second = on_disk("disk-purged-2", &origin, &files.path());
        serves(&second);
        check(&second, "x-tenant: acme\r\n", "/a", "answer 3", false);
        check(&second, "x-tenant: acme\r\n", "/b", "answer 1", true);
    }
}

#[test]
fn a_directory_that_cannot_be_used_is_told_and_traffic_goes_on_until_it_can() {
    let (origin, files) = (counting(), Directory::new("disk-blocked"));
    std::fs::write(files.path(), "a file in the way").expect("it is written");
    let gate = on_disk("disk-blocked", &origin, &files.path());
    until("it is noticed", || control(&gate, "/status").contains("\"state\":\"away\""));
    assert_eq!(gate.metric("tidegate_cache_disk_up"), Some(0.0));
    check(&gate, "x-tenant: acme\r\n", "/a", "answer 0", false);
    check(&gate, "x-tenant: acme\r\n", "/a", "answer 0", true);
    std::fs::remove_file(files.path()).expect("it is there");
    serves(&gate);
    check(&gate, "x-tenant: acme\r\n", "/b", "answer 1", false);
    written(&gate, 1.0);
}

#[test]
fn a_directory_is_one_processs_at_a_time_and_taken_over_when_that_ends() {
    let (origin, files) = (counting(), Directory::new("disk-shared"));
    let mut first = on_disk("disk-shared-1", &origin, &files.path());
    serves(&first);
    check(&first, "x-tenant: acme\r\n", "/a", "answer 0", false);
    written(&first, 1.0);
    let second = on_disk("disk-shared-2", &origin, &files.path());
    until("it is refused", || control(&second, "/status").contains("another process has this directory"));
    check(&second, "x-tenant: acme\r\n", "/b", "answer 1", false);
    first.signal("-TERM");
    assert_eq!(first.wait(), Some(0));
    serves(&second);
    check(&second, "x-tenant: acme\r\n", "/a", "answer 0", true);
}

#[test]
fn a_reload_puts_a_tier_below_the_cache_and_takes_it_away() {
    let (origin, files) = (counting(), Directory::new("disk-reload"));
    let config = app(&[origin.address], "", "cache = {}");
    let gate = gate("disk-reload", &config);
    assert_eq!(gate.metric("tidegate_cache_disk_up"), None);
    gate.rewrite(&format!("{config}[cache]\ndisk = {{ path = \"{}\" }}\n", files.path().display()));
    serves(&gate);
    check(&gate, "", "/a", "answer 0", false);
    written(&gate, 1.0);
    gate.rewrite(&config);
    until("it is gone", || gate.metric("tidegate_cache_disk_up").is_none());
    check(&gate, "", "/a", "answer 0", true);
    until("nothing is left", || {
        let mut left = std::fs::read_dir(files.path()).into_iter().flatten().flatten();
        !left.any(|entry| entry.file_name().to_string_lossy().starts_with("segment"))
    });
}

#[test]
fn a_hit_and_whoever_looks_are_told_which_tier_has_it() {
    let (origin, files) = (counting(), Directory::new("disk-tiers"));
    let mut first = on_disk("disk-tiers-1", &origin, &files.path());
    serves(&first);
    check(&first, "x-tenant: acme\r\n", "/a", "answer 0", false);
    written(&first, 1.0);
    first.signal("-TERM");
    first.wait();
    let second = on_disk("disk-tiers-2", &origin, &files.path());
    serves(&second);
    let look = || {
        let answer = control(&second, "/cache/inspect?url=http%3A%2F%2Ftest%2Fa&tenant=acme");
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(body).expect("it is JSON")
    };
    let told = look();
    let [memory, disk] = [&told["tiers"][0], &told["tiers"][1]];
    assert_eq!((&memory["tier"], &memory["stored"]), (&"memory".into(), &false.into()), "{told}");
    assert_eq!(
        (&disk["tier"], &disk["stored"], &disk["fresh"]),
        (&"disk".into(), &true.into(), &true.into())
    );
    let at = disk["at"].as_str().unwrap_or_default();
    assert!(at.starts_with("segment ") && disk["bytes"].as_u64() > Some(8), "{told}");
    assert_eq!((&told["stored"], &told["content_bytes"]), (&true.into(), &8.into()), "{told}");
    for tier in ["disk", "memory"] {
        let hit = ask(second.address, "GET /a", "x-tenant: acme\r\n");
        let status = hit.header("cache-status");
        assert!(status.starts_with("tidegate; hit; ttl="), "{status}");
        assert_eq!(status.ends_with("; detail=disk"), tier == "disk", "{status}");
        let timeline = crate::upstreams::timeline(&second, &hit);
        assert!(timeline.contains(&format!("cache: hit, from {tier}")), "{timeline}");
    }
    assert_eq!(look()["tiers"][0]["stored"], true);
    assert_eq!(origin.recorded().len(), 1);
}
