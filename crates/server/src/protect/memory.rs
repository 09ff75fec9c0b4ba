//! What memory the process takes, and what it may take, as the kernel tells.
//!
//! It may take what its control group may (version 2 or 1, whatever group above it is the tightest), or all of the
//! machine's. It takes what is resident, and what the kernel holds of its sockets where the group tells that: both
//! count when the kernel looks for whom to end. What other processes take does not count: refusing would not free it.

use std::path::{Path, PathBuf};

/// A limit of version 1 from which on it is none: the kernel writes "no limit" as a number of pages.
const NO_LIMIT: u64 = 1 << 60;

/// What the process may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// So many bytes; 0: it is not known.
    pub bytes: u64,
    /// Where its group tells what is held of sockets.
    stat: Option<PathBuf>,
}

impl Limit {
    /// What it is now.
    #[must_use]
    pub fn read() -> Limit {
        Limit::of("self")
    }

    /// What that of a process is: of one by its number, or `self`.
    #[must_use]
    pub fn of(process: &str) -> Limit {
        let groups = text(&format!("/proc/{process}/cgroup"));
        let root = Path::new("/sys/fs/cgroup");
        let found =
            files_of(&groups, root, "memory", &["memory.max", "memory.high"], &["memory.limit_in_bytes"]);
        let limits = found.iter().filter_map(|file| limit_in(&std::fs::read_to_string(file).ok()?));
        let machine = field(&text("/proc/meminfo"), "MemTotal:").map(|kib| kib * 1024);
        let bytes = limits.chain(machine).min();
        let stat = found.first().map(|file| file.with_file_name("memory.stat"));
        Limit { bytes: bytes.unwrap_or(0), stat }
    }

    /// What the process takes; 0: it is not known.
    #[must_use]
    pub fn used(&self) -> u64 {
        let resident = field(&text("/proc/self/status"), "VmRSS:").unwrap_or(0) * 1024;
        let sockets =
            self.stat.as_ref().and_then(|stat| field(&std::fs::read_to_string(stat).ok()?, "sock "));
        resident.saturating_add(sockets.unwrap_or(0))
    }
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
}

/// A limit in a file of its own: a number, or `max`.
fn limit_in(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| (1..NO_LIMIT).contains(bytes))
}

/// The files of a controller in which a limit may stand, in version 2 or 1 by their names, of the process's own group first, then of all above it. In a container the path
/// may be the host's, and not be there: the outermost is.
pub fn files_of(
    groups: &str,
    root: &Path,
    controller: &str,
    of_two: &'static [&'static str],
    of_one: &'static [&'static str],
) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, names) = match controllers {
            "" if root.join("cgroup.controllers").exists() => (root.to_owned(), of_two),
            "" => (root.join("unified"), of_two),
            one if one.split(',').any(|one| one == controller) => (root.join(one), of_one),
            _ => continue,
        };
        // One that begins above the namespace's root cannot be looked into.
        let own = Path::new(path.trim_start_matches('/'));
        let inside = !own.components().any(|part| part == std::path::Component::ParentDir);
        for group in own.ancestors().filter(|group| inside || group.as_os_str().is_empty()) {
            files.extend(names.iter().map(|name| mount.join(group).join(name)));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files for this `/proc/self/cgroup`, below `/r`.
    fn check(groups: &str, expected: &[&str]) {
        let (of_two, of_one) = (&["memory.max", "memory.high"], &["memory.limit_in_bytes"]);
        let files = files_of(groups, Path::new("/r"), "memory", of_two, of_one);
        let shown: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        assert_eq!(shown, expected, "{groups:?}");
    }

    #[test]
    fn limits_of_all_groups_above_count() {
        check(
            "0::/a/b\n",
            &[
                "/r/unified/a/b/memory.max",
                "/r/unified/a/b/memory.high",
                "/r/unified/a/memory.max",
                "/r/unified/a/memory.high",
                "/r/unified/memory.max",
                "/r/unified/memory.high",
            ],
        );
        check(
            "5:cpu:/x\n4:memory:/docker/7\nbroken\n",
            &[
                "/r/memory/docker/7/memory.limit_in_bytes",
                "/r/memory/docker/memory.limit_in_bytes",
                "/r/memory/memory.limit_in_bytes",
            ],
        );
        check("0::/../../a\n", &["/r/unified/memory.max", "/r/unified/memory.high"]);
        check("", &[]);
    }

    #[test]
    fn no_limit_is_none() {
        for (text, limit) in
            [("max\n", None), ("9223372036854771712\n", None), ("0\n", None), ("536870912\n", Some(1 << 29))]
        {
            assert_eq!(limit_in(text), limit, "{text:?}");
        }
    }

    #[test]
    fn the_kernel_is_understood() {
        assert_eq!(field("Name:\tx\nVmRSS:\t   12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(field("anon 5\nsock 4096\nsocket 1\n", "sock "), Some(4096));
        let limit = Limit::read();
        assert!(limit.used() > 0 && limit.bytes >= limit.used(), "{limit:?}");
    }
}
