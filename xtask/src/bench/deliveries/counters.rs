//! What the kernel says that a peer used: CPU time, bytes written, and how often the disk had to put its cache away.
//!
//! Bytes and flushes are those of the disk (`/proc/diskstats`), whoever asked for them and by whatever call (`fsync`,
//! `fdatasync`, `O_SYNC`): the rest of the machine must be quiet. What the kernel counts for a process (`write_bytes`) is whole
//! folios, of which it may write a part.

use std::ops::Sub;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::bench::process::{Server, cpu_of_process};

/// All up to a moment, or between two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// By the servers, a database included.
    pub server_cpu: Duration,
    /// By those who offer and take.
    pub client_cpu: Duration,
    pub written: u64,
    pub flushes: u64,
}

impl Used {
    /// `clients` are beside this process.
    pub fn so_far(servers: &[Server], clients: &[u32], disk: Option<&Disk>) -> Used {
        let clients = clients.iter().copied().chain([std::process::id()]);
        let (written, flushes) = disk.and_then(Disk::told).unwrap_or_default();
        Used {
            server_cpu: servers.iter().map(Server::cpu).sum(),
            client_cpu: clients.map(cpu_of_process).sum(),
            written,
            flushes,
        }
    }
}

impl Sub for Used {
    type Output = Used;

    fn sub(self, before: Used) -> Used {
        Used {
            server_cpu: self.server_cpu.saturating_sub(before.server_cpu),
            client_cpu: self.client_cpu.saturating_sub(before.client_cpu),
            written: self.written.saturating_sub(before.written),
            flushes: self.flushes.saturating_sub(before.flushes),
        }
    }
}

/// The whole disk that a folder is on: of a part of it, flushes are not counted.
pub struct Disk(String);

impl Disk {
    pub fn of(folder: &Path) -> Option<Disk> {
        let device = std::fs::metadata(folder).ok()?.dev();
        let (major, minor) = numbers(device);
        let place = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        let whole = if place.join("partition").exists() { place.parent()? } else { &place };
        Some(Disk(whole.file_name()?.to_str()?.to_owned()))
    }

    /// Bytes written, and flushes.
    fn told(&self) -> Option<(u64, u64)> {
        told_of(&std::fs::read_to_string("/proc/diskstats").ok()?, &self.0)
    }
}

/// The major and minor number in a device's number, as Linux packs them.
fn numbers(device: u64) -> (u64, u64) {
    ((device >> 8) & 0xFFF | (device >> 32) & !0xFFF, device & 0xFF | (device >> 12) & !0xFF)
}

/// A sector of `/proc/diskstats`, whatever the disk's own are.
const SECTOR_BYTES: u64 = 512;

/// The tenth field of a disk's line, and the nineteenth (Documentation/admin-guide/iostats.rst).
fn told_of(diskstats: &str, disk: &str) -> Option<(u64, u64)> {
    let mut lines = diskstats.lines().map(|line| line.split_whitespace());
    let mut line = lines.find(|line| line.clone().nth(2) == Some(disk))?;
    let sectors: u64 = line.nth(9)?.parse().ok()?;
    Some((sectors * SECTOR_BYTES, line.nth(8)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_disk_has_written_and_its_flushes() {
        let told = " 254 0 vdb 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 99 17\n 254 1 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n";
        assert_eq!(told_of(told, "vda"), Some((7 * 512, 16)));
        assert_eq!((told_of(told, "vdc"), told_of("1 2 old 4", "old")), (None, None));
    }

    #[test]
    fn a_device_has_two_numbers() {
        assert_eq!((numbers(0xFE00), numbers(0x0801)), ((254, 0), (8, 1)));
    }
}
