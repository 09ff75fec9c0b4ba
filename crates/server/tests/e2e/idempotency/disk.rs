//! Disks that are full, and disks that fail: a library before the system's own answers for the database's files as it is
//! told by files of the test's.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_testkit::{Gate, connect, read_answer, until};

use super::{Data, Gated, check, config, payments, post, request};
use crate::{BINARY, control};

/// Writes to a database fail with ENOSPC while there is a file `full`, its fsyncs with EIO while there is one `broken`.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int strikes(int file, const char *fault) {
    char link[64], path[4096];
    const char *folder = getenv("TIDEGATE_TEST_FAULTS");
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || folder == NULL) { errno = saved; return 0; }
    path[length] = 0;
    int ours = strstr(path, "tidegate.db") != NULL;
    snprintf(path, sizeof path, "%s/%s", folder, fault);
    int there = ours && access(path, F_OK) == 0;
    errno = saved;
    return there;
}

#define WRITES(name, offset) \
    ssize_t name(int file, const void *bytes, size_t count, offset at) { \
        ssize_t (*real)(int, const void *, size_t, offset) = dlsym(RTLD_NEXT, #name); \
        if (strikes(file, "full")) { errno = ENOSPC; return -1; } \
        return real(file, bytes, count, at); \
    }
WRITES(pwrite, off_t)
WRITES(pwrite64, off64_t)

ssize_t write(int file, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    if (strikes(file, "full")) { errno = ENOSPC; return -1; }
    return real(file, bytes, count);
}

#define SYNCS(name) \
    int name(int file) { \
        int (*real)(int) = dlsym(RTLD_NEXT, #name); \
        if (strikes(file, "broken")) { errno = EIO; return -1; } \
        return real(file); \
    }
SYNCS(fsync)
SYNCS(fdatasync)
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
        let path = self.0.join(fault);
        if on { std::fs::write(path, "").unwrap() } else { std::fs::remove_file(path).unwrap() }
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
