//! A library before the system's own answers for the database's files as it is told by files of the test's: disks that are full,
//! disks that fail, power that goes. And it sets the wall clock.

use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate_testkit::Gate;

use crate::BINARY;

/// What stands for a clock that is right.
const CLOCK: i64 = 100_000;

/// Writes to a database fail with ENOSPC while there is a file `full`, or with the number in it, those that make a file longer while there
/// is one `filled`, and its fsyncs with EIO while there is one `broken`.
/// At the fsync whose number is in `before` the machine loses its power: what was not synced is as it was. At that in
/// `after` it does so once that is on disk. The wall clock is ahead by what `clock` says, less [`CLOCK`] seconds.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
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

/* What a write fails with for which there is no room; 0: there is some. */
static int refusal_of(int file, off_t at, size_t count) {
    struct stat now;
    int full = struck("full");
    if (full >= 0) return full > 0 ? full : ENOSPC;
    if (struck("filled") >= 0 && fstat(file, &now) == 0 && at + (off_t) count > now.st_size) return ENOSPC;
    return 0;
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
            int refusal = refusal_of(file, at, count); \
            if (refusal != 0) { errno = refusal; return -1; } \
            note(file, at, count); \
        } \
        return real(file, bytes, count, at); \
    }
WRITES(pwrite, off_t)
WRITES(pwrite64, off64_t)

ssize_t write(int file, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    if (is_ours(file)) {
        off_t at = lseek(file, 0, SEEK_CUR);
        int refusal = refusal_of(file, at, count);
        if (refusal != 0) { errno = refusal; return -1; }
        note(file, at, count);
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
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, now);
    int ahead = done == 0 && clock == CLOCK_REALTIME ? struck("clock") : -1;
    if (ahead >= 0) now->tv_sec += ahead - 100000;
    return done;
}
int fsync(int file) { return synced(file, "fsync"); }
int fdatasync(int file) { return synced(file, "fdatasync"); }
"#;

/// A folder of faults, and the library that strikes by it.
pub struct Faults(PathBuf);

impl Faults {
    pub fn new(data: &Path) -> Faults {
        let folder = data.join("faults");
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
    pub fn strike(&self, fault: &str, on: bool) {
        if on { self.strike_at(fault, 0) } else { std::fs::remove_file(self.0.join(fault)).unwrap() }
    }

    /// It strikes at the event of this number.
    pub fn strike_at(&self, fault: &str, number: u32) {
        // Whole or not at all: the library may look at any moment.
        let (made, path) = (self.0.join("made"), self.0.join(fault));
        std::fs::write(&made, number.to_string()).unwrap();
        std::fs::rename(made, path).unwrap();
    }

    /// The wall clock is ahead by so many seconds.
    pub fn set_clock(&self, ahead: i64) {
        self.strike_at("clock", u32::try_from(CLOCK + ahead).unwrap());
    }

    /// A process on which they strike.
    pub fn gate(&self, name: &str, config: &str) -> Gate {
        let text = |path: &Path| path.display().to_string();
        let environment =
            [("LD_PRELOAD", text(&self.0.join("faults.so"))), ("TIDEGATE_TEST_FAULTS", text(&self.0))];
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let control =
            if config.contains("[control]") { "" } else { "[control]\nlisten = [\"127.0.0.1:0\"]\n" };
        let config = format!(
            "{config}\n[listen]\nhttp = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.1/32\"]\n{control}[log]\naccess = \"off\"\n"
        );
        Gate::start_whole(BINARY, name, &environment, &config)
    }
}
