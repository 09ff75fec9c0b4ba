//! Directories that are written to.

use std::time::Duration;

use super::super::facts::{DiskLook, Facts, Purpose};
use super::super::finding::{ACCESS, FILESYSTEM, Finding, INODES, SPACE, SYNC, Severity};
use super::{size, time};

/// Commands that one fsync makes durable where many wait: what `xtask bench` was measured with.
const GROUP: u64 = 64;
/// An fsync that takes longer is felt by whoever waits for it.
const SLOW: Duration = Duration::from_millis(10);
/// One that takes longer is what limits everything that is durable.
const TOO_SLOW: Duration = Duration::from_millis(50);
/// No disk is faster: somebody says "done" who has not done it.
const TOO_FAST: Duration = Duration::from_micros(8);
/// Bytes below which a disk counts as full.
const FULL: u64 = 64 << 20;
/// Files below which it counts as full.
const FILES_MIN: u64 = 1000;

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let each = |disk| [filesystem(disk), access(disk), space(disk), inodes(disk), sync(disk)];
    facts.disks.iter().flat_map(each).flatten().collect()
}

fn place(disk: &DiskLook) -> String {
    format!("{} in {}", disk.purpose.name(), disk.path.display())
}

fn filesystem(disk: &DiskLook) -> Option<Finding> {
    let kind = disk.kind.as_deref()?;
    let seen = format!("{}: {kind}", place(disk));
    let durable = disk.purpose == Purpose::Store;
    let (severity, effect) = match kind {
        "tmpfs" | "ramfs" if durable => {
            (Severity::Breaks, "it is memory: what was acknowledged is gone when the machine restarts")
        }
        "tmpfs" | "ramfs" if disk.purpose == Purpose::Cache => (
            Severity::Hurts,
            "it is memory: it counts twice, and nothing is there after a restart of the machine",
        ),
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "fuse.sshfs" if durable => (
            Severity::Breaks,
            "neither locks nor fsync can be relied on there: the store does not open on NFS, and may be torn elsewhere",
        ),
        "overlay" | "aufs" if durable => (
            Severity::Hurts,
            "it is a layer of the container: what was acknowledged is gone when the container is replaced",
        ),
        _ => return Some(Finding::fine(FILESYSTEM, seen)),
    };
    Some(
        Finding::new(FILESYSTEM, severity, seen, effect)
            .mend("StateDirectory=tidegate   # in [Service] of the systemd unit, and url = \"sqlite:/var/lib/tidegate/store\"")
            .mend("docker run -v tidegate-data:/var/lib/tidegate …   # a volume"),
    )
}

fn access(disk: &DiskLook) -> Option<Finding> {
    let why = disk.error.as_deref()?;
    let severity = if disk.purpose == Purpose::Cache { Severity::Hurts } else { Severity::Breaks };
    let effect = match disk.purpose {
        Purpose::Store => {
            "`tidegate run` does not start, or what needs the store is refused (`store.unavailable`)"
        }
        Purpose::Cache => "nothing is kept on disk; the cache in memory serves alone",
        Purpose::Log => "`tidegate run` does not start",
    };
    let directory = disk.path.display();
    Some(
        Finding::new(ACCESS, severity, format!("{}: {why}", place(disk)), effect)
            .mend(format!("install -d -o tidegate -g tidegate -m 0700 {directory}")),
    )
}

fn space(disk: &DiskLook) -> Option<Finding> {
    let free = disk.free?;
    let seen = format!("{}: {} are free, it may grow by {}", place(disk), size(free), size(disk.growth));
    if free >= disk.growth && free >= FULL {
        return Some(Finding::fine(SPACE, seen));
    }
    let severity = if free < FULL { Severity::Breaks } else { Severity::Hurts };
    let effect = match disk.purpose {
        Purpose::Store => {
            "when the disk is full new deliveries and idempotency keys are refused (`store.unavailable`); what is there is made"
        }
        Purpose::Cache => "when the disk is full nothing further is kept there",
        Purpose::Log => "when the disk is full lines of the access log are dropped, and counted",
    };
    Some(Finding::new(SPACE, severity, seen, effect).mend(format!(
        "df -h {}   # and a larger disk, or a smaller `size` in the configuration",
        disk.path.display()
    )))
}

fn inodes(disk: &DiskLook) -> Option<Finding> {
    let free = disk.files_free?;
    let seen = format!("{}: {free} further files", place(disk));
    if free >= FILES_MIN {
        return Some(Finding::fine(INODES, seen));
    }
    let effect = "no file can be made there, although bytes may be free: as on a full disk";
    Some(Finding::new(INODES, Severity::Hurts, seen, effect).mend(format!("df -i {}", disk.path.display())))
}

fn sync(disk: &DiskLook) -> Option<Finding> {
    let at = |percent: usize| disk.syncs.get((disk.syncs.len().saturating_sub(1)) * percent / 100).copied();
    let (half, most) = (at(50)?, at(99)?);
    let each_second = 1.0 / half.as_secs_f64().max(1e-6);
    let seen = format!(
        "{}: an fsync takes {}, one in a hundred {} (of {})",
        place(disk),
        time(half),
        time(most),
        disk.syncs.len()
    );
    let load = format!(
        "{each_second:.0} commits a second, so at most some {:.0} requests accepted durably with {GROUP} to a commit",
        each_second * GROUP as f64
    );
    let how = format!(
        "each commit is one fsync, and all that wait share it: {GROUP} is what was measured under load"
    );
    let memory = matches!(disk.kind.as_deref(), Some("tmpfs" | "ramfs"));
    if half < TOO_FAST && !memory {
        let effect = "faster than a disk can be: either it has memory that outlives a power cut, or it says so and does not";
        return Some(Finding::new(SYNC, Severity::Note, seen, effect).how(how));
    }
    let severity = match half {
        half if half >= TOO_SLOW => Severity::Hurts,
        half if half >= SLOW || most >= TOO_SLOW => Severity::Note,
        _ => return Some(Finding::fine(SYNC, format!("{seen}: {load}"))),
    };
    let effect = format!("each request that is accepted durably waits that long; {load}");
    Some(
        Finding::new(SYNC, severity, seen, effect)
            .how(how)
            .mend("a disk with a cache that outlives a power cut (a server's NVMe), or the store in PostgreSQL on one")
            .mend("iostat -x 1   # whether others use it up"),
    )
}
