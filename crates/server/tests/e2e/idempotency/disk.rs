//! Disks that are full, disks that fail, and power that goes: a library before the system's own answers for the database's
//! files as it is told by files of the test's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_testkit::{Gate, Origin, connect, read_answer, read_answer_or_end, until};

use super::{Data, Gated, check, config, payments, post, receipt, request};
use crate::{BINARY, control};

/// Writes to a database fail with ENOSPC while there is a file `full`, its fsyncs with EIO while there is one `broken`.
/// At the fsync whose number is in `before` the machine loses its power: what was not synced is as it was. At that in
/// `after` it does so once that is on disk.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_ours(int file) {
    char link[64], path[4096];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, "tidegate.db") != NULL;
}

/* What is in the file of this fault; -1: it does not strike. */
static int struck(const char *fault) {
    char path[4096];
    int saved = errno, number = 0;
    snprintf(path, sizeof path, "%s/%s", getenv("TIDEGATE_TEST_FAULTS"), fault);
    FILE *told = fopen(path, "re");
    errno = saved;
    if (told == NULL) return -1;
    if (fscanf(told, "%d", &number) != 1) number = 0;
    fclose(told);
    errno = saved;
    return number;
}

/* What was written since the last fsync, the newest first. */
struct unsynced { int file; off_t at, size; size_t count; char *old; struct unsynced *next; };
static struct unsynced *all;

static void note(int file, off_t at, size_t count) {
    struct stat now;
    struct unsynced *one = malloc(sizeof *one);
    fstat(file, &now);
    *one = (struct unsynced) { file, at, now.st_size, count, calloc(1, count), all };
    if (pread(file, one->old, count, at) < 0) one->count = 0;
    all = one;
}

static void forget(int file) {
    for (struct unsynced **at = &all; *at != NULL;) {
        struct unsynced *one = *at;
        if (one->file != file) { at = &one->next; continue; }
        *at = one->next;
        free(one->old);
        free(one);
    }
}

static void lose_power(void) {
    ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite");
    for (struct unsynced *one = all; one != NULL; one = one->next) {
        if (real(one->file, one->old, one->count, one->at) < 0 || ftruncate(one->file, one->size) < 0) abort();
    }
    _exit(137);
}

#define WRITES(name, offset) \
    ssize_t name(int file, const void *bytes, size_t count, offset at) { \
        ssize_t (*real)(int, const void *, size_t, offset) = dlsym(RTLD_NEXT, #name); \
        if (is_ours(file)) { \
            if (struck("full") >= 0) { errno = ENOSPC; return -1; } \
            note(file, at, count); \
        } \
        return real(file, bytes, count, at); \
    }
WRITES(pwrite, off_t)
WRITES(pwrite64, off64_t)

ssize_t write(int file, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    if (is_ours(file)) {
        if (struck("full") >= 0) { errno = ENOSPC; return -1; }
        note(file, lseek(file, 0, SEEK_CUR), count);
    }
    return real(file, bytes, count);
}

static int synced(int file, const char *name) {
    static int passed;
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    if (!is_ours(file)) return real(file);
    if (struck("broken") >= 0) { errno = EIO; return -1; }
    int before = struck("before"), after = struck("after");
    passed += before >= 0 || after >= 0;
    if (passed == before) lose_power();
    int done = real(file);
    if (done == 0) forget(file);
    if (passed == after) lose_power();
    return done;
}
int fsync(int file) { return synced(file, "fsync"); }
int fdatasync(int file) { return synced(file, "fdatasync"); }
"#;

/// A folder of faults, and the library that strikes by it.
struct Faults(PathBuf);

impl Faults {
    fn new(data: &Data) -> Faults {
        let folder = data.path().join("faults");
        std::fs::create_dir_all(&folder).unwrap();
        let source = folder.join("faults.c");
        std::fs::write(&source, LIBRARY).unwrap();
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&folder.join("faults.so"), &source])
            .arg("-ldl")
            .status();
        assert!(built.is_ok_and(|status| status.success()), "a C compiler is there");
        Faults(folder)
    }

    /// It strikes from now on, or no longer.
    fn strike(&self, fault: &str, on: bool) {
        if on { self.strike_at(fault, 0) } else { std::fs::remove_file(self.0.join(fault)).unwrap() }
    }

    /// It strikes at the event of this number.
    fn strike_at(&self, fault: &str, number: u32) {
        // Whole or not at all: the library may look at any moment.
        let (made, path) = (self.0.join("made"), self.0.join(fault));
        std::fs::write(&made, number.to_string()).unwrap();
        std::fs::rename(made, path).unwrap();
    }

    fn gate(&self, name: &str, config: &str) -> Gate {
        let text = |path: &Path| path.display().to_string();
        let environment =
            [("LD_PRELOAD", text(&self.0.join("faults.so"))), ("TIDEGATE_TEST_FAULTS", text(&self.0))];
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let config = format!(
            "{config}\n[listen]\nhttp = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1/32\"]\n[control]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = \"off\"\n"
        );
        Gate::start_whole(BINARY, name, &environment, &config)
    }
}

fn config_beside(data: &Data, address: std::net::SocketAddr, route: &str) -> String {
    config(data, address, "", route).replace(
        &format!("sqlite:{}", data.path().display()),
        &format!("sqlite:{}", data.path().join("store").display()),
    )
}

#[test]
fn a_full_disk_refuses_what_is_new_and_is_got_over_without_a_restart() {
    let (data, origin) = (Data::new("full"), payments());
    let faults = Faults::new(&data);
    let gate = faults.gate("idem-full", &config_beside(&data, origin.address, "idempotency = {}"));
    let ask = |key: &str| post(&gate, &format!("Idempotency-Key: {key}\r\n"), "ten");
    assert_eq!(ask("a").body, "effect 1");
    faults.strike("full", true);
    check(&ask("b"), 503, "store.unavailable");
    assert_eq!(origin.recorded().len(), 1, "nothing was sent");
    assert_eq!((ask("a").body.as_str(), gate.metric("tidegate_store_up")), ("effect 1", Some(0.0)));
    faults.strike("full", false);
    assert_eq!(ask("b").body, "effect 2");
    assert_eq!(gate.metric("tidegate_store_up"), Some(1.0));
}

#[test]
fn an_answer_that_could_not_be_recorded_is_told_and_its_repeats_have_no_effect() {
    let (data, origin) = (Data::new("unrecorded"), Gated::new());
    let faults = Faults::new(&data);
    let route = "deadline = \"20s\"\nidempotency = {}";
    let gate = faults.gate("idem-unrecorded", &config_beside(&data, origin.address(), route));
    let mut first = connect(gate.address);
    std::io::Write::write_all(&mut first, request("POST /pay", "Idempotency-Key: k\r\n", "ten").as_bytes())
        .unwrap();
    until("it is with the origin", || origin.entered() == 1);
    faults.strike("full", true);
    origin.let_go();
    assert_eq!(read_answer(&mut first).body, "effect 1");
    faults.strike("full", false);
    check(&post(&gate, "Idempotency-Key: k\r\n", "ten"), 409, "idempotency.unknown");
    assert_eq!(origin.entered(), 1);
}

#[test]
fn a_failed_fsync_stops_writing_until_a_new_process_and_says_so() {
    let (data, origin) = (Data::new("fsync"), payments());
    let faults = Faults::new(&data);
    let config = config_beside(&data, origin.address, "idempotency = {}");
    let mut gate = faults.gate("idem-fsync-1", &config);
    assert_eq!(post(&gate, "Idempotency-Key: a\r\n", "ten").body, "effect 1");
    faults.strike("broken", true);
    check(&post(&gate, "Idempotency-Key: b\r\n", "ten"), 503, "store.unavailable");
    faults.strike("broken", false);
    check(&post(&gate, "Idempotency-Key: c\r\n", "ten"), 503, "store.unavailable");
    assert!(control(&gate, "/status").contains("\"state\":\"stopped\""));
    assert_eq!(gate.metric("tidegate_store_up"), Some(0.0));
    until("the log says so", || gate.said().contains("the store stops writing"));
    assert_eq!(origin.recorded().len(), 1, "nothing was sent");
    gate.signal("-TERM");
    assert_eq!(gate.wait(), Some(0));
    let gate = faults.gate("idem-fsync-2", &config);
    assert_eq!(post(&gate, "Idempotency-Key: a\r\n", "ten").header("idempotency-replayed"), "true");
    assert_eq!(post(&gate, "Idempotency-Key: c\r\n", "ten").body, "effect 2");
}

/// A request has two fsyncs: that of its claim, and that of its answer. At each of them the power goes, before and after.
#[test]
fn whenever_the_power_goes_nothing_was_sent_without_a_claim_or_told_without_a_record() {
    let data = Data::new("power");
    let effects: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&effects);
    let origin = Origin::scripted(move |visit| {
        visit.read_body()?;
        let key = visit.field("idempotency-key")?;
        noted.lock().push(key.clone());
        receipt(visit, "201 Created", &key)
    });
    let faults = Faults::new(&data);
    let config = config_beside(&data, origin.address, "idempotency = {}");
    let had_effect = |key: &str| effects.lock().iter().filter(|one| *one == key).count();
    for (fault, number, sent, repeat) in [
        ("before", 1, 0, "made"),
        ("after", 1, 0, "unknown"),
        ("before", 2, 1, "unknown"),
        ("after", 2, 1, "replayed"),
    ] {
        let key = format!("{fault}-{number}");
        let mut gate = faults.gate(&format!("idem-power-{key}"), &config);
        assert_eq!(post(&gate, &format!("Idempotency-Key: well-{key}\r\n"), "ten").status, 201);
        faults.strike_at(fault, number);
        let mut stream = connect(gate.address);
        let asked = request("POST /pay", &format!("Idempotency-Key: {key}\r\n"), "ten");
        std::io::Write::write_all(&mut stream, asked.as_bytes()).unwrap();
        assert_eq!(read_answer_or_end(&mut stream), b"", "{key}: it was told nothing");
        assert_eq!(gate.wait(), Some(137), "{}", gate.said());
        assert_eq!(had_effect(&key), sent, "{key}");
        faults.strike(fault, false);
        let gate = faults.gate(&format!("idem-power-{key}-again"), &config);
        let well = post(&gate, &format!("Idempotency-Key: well-{key}\r\n"), "ten");
        assert_eq!(well.header("idempotency-replayed"), "true", "what was told before is there");
        let again = post(&gate, &format!("Idempotency-Key: {key}\r\n"), "ten");
        match repeat {
            "unknown" => check(&again, 409, "idempotency.unknown"),
            _ => assert_eq!((again.status, &again.body), (201, &key)),
        }
        assert_eq!(again.header("idempotency-replayed") == "true", repeat == "replayed", "{key}");
        assert_eq!(had_effect(&key), if repeat == "made" { 1 } else { sent }, "{key}");
    }
}
