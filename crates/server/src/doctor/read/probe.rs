//! Tries what only trying tells: names, endpoints, the disk, the servers. Each try is bounded in time and number, and leaves
//! nothing behind.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate_store::Location;
use tidegate_upstream::settings::{Discovery, UpstreamSettings};
use tidegate_wire::{certificate, clock};

use super::super::facts::{CertificateLook, DiskLook, PostgresLook, Purpose, RedisLook, UpstreamLook};
use crate::config::{AccessLog, Config, RedisSettings};

/// How often each name is asked.
const LOOKUPS: usize = 3;
/// Endpoints of one upstream that are tried.
const ENDPOINTS_MAX: usize = 64;
/// Endpoints that are tried at once.
const AT_ONCE: usize = 16;
/// How many fsyncs are measured, and for how long at most.
const SYNCS: usize = 200;
const SYNCS_TIME: Duration = Duration::from_secs(2);
/// What is written before each.
const SYNC_BYTES: usize = 4096;
/// Bytes of access log that there should be room for.
const LOG_GROWTH: u64 = 1 << 30;

/// Resolves an upstream's name and connects to its endpoints; without trying: what is known of them.
pub async fn upstream(settings: &UpstreamSettings, tries: bool) -> UpstreamLook {
    let mut look = UpstreamLook {
        name: settings.name.to_string(),
        discovery: settings.discovery.to_string(),
        connect_timeout: settings.connect_timeout,
        ..UpstreamLook::default()
    };
    let mut found: Vec<SocketAddr> = match &settings.discovery {
        Discovery::Static(endpoints) => endpoints.iter().map(|endpoint| endpoint.address).collect(),
        Discovery::Dns { .. } | Discovery::Srv { .. } if tries => {
            look_up(&settings.discovery, &mut look).await
        }
        _ => Vec::new(),
    };
    found.truncate(ENDPOINTS_MAX);
    if tries {
        for some in found.chunks(AT_ONCE) {
            look.endpoints.extend(connect(some, settings.connect_timeout));
        }
    }
    look
}

async fn look_up(discovery: &Discovery, look: &mut UpstreamLook) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for _ in 0..LOOKUPS {
        let began = clock::now();
        match tidegate_upstream::look_up(discovery).await {
            Ok(addresses) => {
                look.lookups.push(clock::now().since(began));
                found = addresses;
            }
            Err(why) => {
                look.lookup_error = Some(why);
                break;
            }
        }
    }
    found
}

fn connect(addresses: &[SocketAddr], most: Duration) -> Vec<(SocketAddr, Result<Duration, String>)> {
    let try_one = |address: SocketAddr| {
        let began = clock::now();
        let stream = TcpStream::connect_timeout(&address, most.max(Duration::from_millis(1)));
        let outcome = stream.map(|_| clock::now().since(began)).map_err(|error| error.to_string());
        (address, outcome)
    };
    std::thread::scope(|scope| {
        let tries: Vec<_> = addresses.iter().map(|&address| scope.spawn(move || try_one(address))).collect();
        tries.into_iter().filter_map(|one| one.join().ok()).collect()
    })
}

/// The certificates of the listeners. What cannot be read was refused with the configuration.
#[must_use]
pub fn certificates(config: &Config) -> Vec<CertificateLook> {
    let look = |files: &tidegate_wire::settings::CertificateFiles| {
        let chain = certificate::read(&files.cert).ok()?;
        let key_mode = std::fs::metadata(&files.key).ok()?.permissions().mode();
        Some(CertificateLook { path: files.cert.clone(), chain, key: files.key.clone(), key_mode })
    };
    config.certificates.iter().filter_map(look).collect()
}

/// The directories that a configuration writes to.
#[must_use]
pub fn disks(config: &Config, tries: bool) -> Vec<DiskLook> {
    let mut looks = Vec::new();
    if let Some(store) = &config.store
        && let Location::Directory(path) = &store.location
    {
        looks.push(disk(Purpose::Store, path, store.bytes_max, tries));
    }
    if let Some(tier) = &config.proxy.disk {
        looks.push(disk(Purpose::Cache, &tier.path, tier.size, tries));
    }
    if let AccessLog::File(path) = &config.log.access {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        looks.push(disk(Purpose::Log, folder, LOG_GROWTH, tries));
    }
    looks
}

fn disk(purpose: Purpose, path: &Path, most: u64, tries: bool) -> DiskLook {
    let place = there(path);
    let told = rustix::fs::statvfs(&place).ok();
    let taken = if purpose == Purpose::Log { 0 } else { bytes_in(path) };
    let mut look = DiskLook {
        purpose,
        path: path.to_owned(),
        kind: kind(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), &place),
        free: told.as_ref().map(|told| told.f_bavail.saturating_mul(told.f_frsize)),
        // A file system that makes them as they are needed tells of none at all.
        files_free: told.filter(|told| told.f_files > 0).map(|told| told.f_favail),
        growth: most.saturating_sub(taken),
        ..DiskLook::default()
    };
    if tries {
        match syncs(&place, if purpose == Purpose::Store { SYNCS } else { 1 }) {
            Ok(mut times) => {
                times.sort();
                look.syncs = if purpose == Purpose::Store { times } else { Vec::new() };
            }
            Err(error) => look.error = Some(format!("{}: {error}", place.display())),
        }
    }
    look
}

/// The directory, or the nearest above it that there is: there it is going to be.
fn there(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = path.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/"));
    found.canonicalize().unwrap_or_else(|_| found.to_owned())
}

/// What lies in it already: it does not grow by that again.
fn bytes_in(path: &Path) -> u64 {
    let files = std::fs::read_dir(path).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(|told| told.is_file()).map(|told| told.len()).sum()
}

/// The kind of the file system that a place is on: of the mounts that lie above it the nearest, of several there the last.
fn kind(mounts: &str, place: &Path) -> Option<String> {
    let found = mounts.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        // A blank in a path is written as its octal number.
        let point = PathBuf::from(mount.split(' ').nth(4)?.replace("\\040", " "));
        place
            .starts_with(&point)
            .then(|| (point.components().count(), rest.split(' ').next().unwrap_or_default()))
    });
    found.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind.to_owned())
}

/// A file that is gone when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes and syncs as the store does: a page at the end, then waiting until it is durable.
fn syncs(folder: &Path, count: usize) -> std::io::Result<Vec<Duration>> {
    let path = folder.join(format!(".tidegate-doctor-{}", std::process::id()));
    let mut file: File = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let _scratch = Scratch(path);
    let (page, over) = ([0x5a_u8; SYNC_BYTES], clock::now().after(SYNCS_TIME));
    let mut times = Vec::new();
    while times.len() < count && clock::now() < over {
        file.write_all(&page)?;
        let began = clock::now();
        file.sync_data()?;
        times.push(clock::now().since(began));
    }
    Ok(times)
}

/// Asks PostgreSQL, where the store is in one.
#[must_use]
pub fn postgres(config: &Config) -> Option<(String, Result<PostgresLook, String>)> {
    let Some(Location::Postgres(settings)) = config.store.as_ref().map(|store| &store.location) else {
        return None;
    };
    let look = tidegate_store::advise(settings).map_err(|away| away.to_string()).map(|advice| PostgresLook {
        warnings: advice.warnings,
        version: advice.version,
        round_trip: advice.round_trip,
        connections: advice.connections,
    });
    Some((settings.url.shown().to_owned(), look))
}

/// Asks Redis, where there is one.
pub async fn redis(settings: &RedisSettings) -> (String, Result<RedisLook, String>) {
    let look = crate::redis::look(settings).await.map_err(|error| crate::run::chain(&error));
    let look =
        look.map(|told| RedisLook { round_trip: told.round_trip, memory: told.memory, policy: told.policy });
    (settings.url.shown().to_owned(), look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_tells_the_kind() {
        let mounts = "22 1 0:1 / / rw - ext4 /dev/vda rw\n\
                      23 22 0:2 / /srv rw,nosuid shared:3 - tmpfs tmpfs rw\n\
                      24 23 0:3 / /srv/with\\040blank rw - nfs4 host:/x rw\n\
                      25 22 0:4 / /srv rw - xfs /dev/vdb rw\nbroken\n";
        for (place, expected) in
            [("/srv/data", "xfs"), ("/srv/with blank/a", "nfs4"), ("/srvx", "ext4"), ("/", "ext4")]
        {
            assert_eq!(kind(mounts, Path::new(place)).as_deref(), Some(expected), "{place}");
        }
        assert_eq!(kind("", Path::new("/")), None);
    }

    #[test]
    fn measuring_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("tidegate-doctor-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        assert!(!syncs(&folder, 3).unwrap().is_empty());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        assert_eq!(there(&folder.join("not/there")), folder.canonicalize().unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(syncs(&folder, 1).is_err());
    }
}
