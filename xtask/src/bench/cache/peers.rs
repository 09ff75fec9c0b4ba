//! The caches: where each is found, how it is started, and what it takes in memory.
//!
//! What each is told lies beside this file, with a line that says what it is; the places in braces are filled in here.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::origin::{self, Origin};
use crate::bench::client::Connection;
use crate::bench::peers::{first_line, package};
use crate::bench::process::{Server, free_port};
use crate::bench::{now, requests};

/// How long a server may take until it answers. Varnish compiles its configuration first.
const START_MAX: Duration = Duration::from_secs(30);
/// A key of nginx with what belongs to it, in the shared memory for keys; the rest is for the memory's own tables.
const NGINX_KEY_BYTES: usize = 128;
const NGINX_KEYS_KIB_BESIDE: usize = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Tidegate,
    Nginx,
    Varnish,
}

impl Peer {
    pub const ALL: [Peer; 3] = [Peer::Tidegate, Peer::Nginx, Peer::Varnish];

    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Tidegate => "tidegate",
            Peer::Nginx => "nginx",
            Peer::Varnish => "varnish",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Peer::Tidegate => "Tidegate",
            Peer::Nginx => "nginx",
            Peer::Varnish => "Varnish",
        }
    }

    fn settings(self) -> &'static str {
        match self {
            Peer::Tidegate => include_str!("tidegate.toml"),
            Peer::Nginx => include_str!("nginx.conf"),
            Peer::Varnish => include_str!("varnish.vcl"),
        }
    }

    /// What it was told, in a line.
    pub fn told(self) -> &'static str {
        self.settings().lines().next().unwrap_or_default().trim_start_matches("# ")
    }
}

/// How much a cache may keep, and where.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Whether all objects of the row have room.
    pub for_all: bool,
    pub memory_mib: usize,
    /// As many objects as that holds; nginx is bounded by it.
    pub objects: usize,
    /// Below a memory of this size, on disk, as far as one keeps both.
    pub disk_mib: Option<usize>,
}

/// A cache that is there to be started.
pub struct Program {
    pub peer: Peer,
    pub version: String,
    path: PathBuf,
}

impl Program {
    /// Finds or installs it. For Tidegate, `built` is its program.
    pub fn find(peer: Peer, built: &Path) -> Result<Program, String> {
        let (path, argument) = match peer {
            Peer::Tidegate => (built.to_path_buf(), "--version"),
            Peer::Nginx => (package("nginx", "nginx")?, "-v"),
            Peer::Varnish => (package("varnishd", "varnish")?, "-V"),
        };
        let said = first_line(&path, argument)?;
        Ok(Program { peer, version: version_in(&said), path })
    }

    /// Starts it with nothing in it, and waits until it answers.
    pub fn start(&self, row: &str, room: Room, folder: &Path, origin: &Origin) -> Result<Running, String> {
        let folder = folder.join(row).join(self.peer.name());
        let store = Store::empty(&folder, self.peer, room.disk_mib.is_none())?;
        let port = free_port()?;
        let config = folder.join("config");
        let text = filled_in(self.peer, room, &folder, &store.objects, port, origin.address);
        std::fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        let output = folder.join("output.log");
        let arguments = self.arguments(room, &store, &config, port);
        let server = Server::start("0", &self.path, &arguments, &output)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut running = Running { server, address, output, store };
        running.ready()?;
        Ok(running)
    }

    fn arguments(&self, room: Room, store: &Store, config: &Path, port: u16) -> Vec<String> {
        let config = config.display().to_string();
        match self.peer {
            Peer::Tidegate => vec!["run".to_owned(), "-c".to_owned(), config],
            Peer::Nginx => vec!["-c".to_owned(), config],
            Peer::Varnish => {
                let storage = match room.disk_mib {
                    None => format!("malloc,{}M", room.memory_mib),
                    Some(mib) => format!("file,{},{mib}M", store.objects.join("file").display()),
                };
                let working = store.scratch.join("working");
                // No jail: it would want users of its own. One pool of threads, for there is one core. A connection may be
                // idle as long as with nginx: a crowd waits while the others have their turn.
                ["-F", "-j", "none", "-f", &config, "-n", &working.display().to_string(), "-s", &storage]
                    .into_iter()
                    .chain(["-a", &format!("127.0.0.1:{port}"), "-T", "none", "-p", "thread_pools=1"])
                    .chain(["-p", "timeout_idle=75"])
                    .map(str::to_owned)
                    .collect()
            }
        }
    }
}

/// A cache that answers.
pub struct Running {
    pub server: Server,
    pub address: SocketAddr,
    /// Where it says why it ended.
    output: PathBuf,
    store: Store,
}

impl Running {
    fn ready(&mut self) -> Result<(), String> {
        let until = now() + START_MAX;
        let request = requests::head("GET", &origin::path(1, 0), "");
        loop {
            match Connection::open(self.address).and_then(|mut it| it.exchange(request.as_bytes())) {
                Ok(answer) if answer.is_good() => return Ok(()),
                other if self.server.has_ended() || now() > until => {
                    let said = std::fs::read_to_string(&self.output).unwrap_or_default();
                    let said = said.trim_end().lines().last().unwrap_or("nothing");
                    return Err(format!("does not answer ({other:?}), and said: {said}"));
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Bytes that it takes: memory, what processes share counted once, and for nginx the files in memory.
    pub fn memory(&self) -> u64 {
        let Store { objects, scratch } = &self.store;
        let files = if objects.starts_with(scratch) { allocated(objects) } else { 0 };
        self.server.memory_shared() + files
    }
}

/// Where a cache keeps files. They go with it.
struct Store {
    objects: PathBuf,
    /// In memory where the machine has a place for files there: what a cache shares between its processes, as Varnish's
    /// manual wants it, and nginx's objects in the rows about memory.
    scratch: PathBuf,
}

impl Store {
    fn empty(folder: &Path, peer: Peer, in_memory: bool) -> Result<Store, String> {
        let shared = Path::new("/dev/shm");
        let scratch = if shared.is_dir() {
            shared.join(format!("tidegate-bench-{}-{}", std::process::id(), peer.name()))
        } else {
            folder.join("scratch")
        };
        let objects = if in_memory { scratch.join("objects") } else { folder.join("objects") };
        let store = Store { objects, scratch };
        for path in [folder, &store.scratch, &store.objects] {
            // Objects of an earlier run would be hits, and its logs would grow on.
            let _ = std::fs::remove_dir_all(path);
            std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(store)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for path in [&self.objects, &self.scratch] {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Bytes of the blocks of all files in a folder.
fn allocated(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => allocated(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

fn filled_in(peer: Peer, room: Room, folder: &Path, store: &Path, port: u16, origin: SocketAddr) -> String {
    let disk = match room.disk_mib {
        Some(mib) => format!("disk = {{ path = {store:?}, size = \"{mib}MiB\" }}\n"),
        None => String::new(),
    };
    // Files that are on disk are no memory of nginx's.
    let files_mib = room.disk_mib.unwrap_or(room.memory_mib);
    let keys = room.objects * NGINX_KEY_BYTES / 1024 + NGINX_KEYS_KIB_BESIDE;
    peer.settings()
        .replace("{port}", &port.to_string())
        .replace("{folder}", &folder.display().to_string())
        .replace("{store}", &store.display().to_string())
        .replace("{memory}", &(if peer == Peer::Nginx { files_mib } else { room.memory_mib }).to_string())
        .replace("{keys}", &keys.to_string())
        .replace("{open_files}", if room.for_all { "max=12000 inactive=1h" } else { "off" })
        .replace("{disk}", &disk)
        .replace("{origin}", &origin.to_string())
        .replace("{origin_host}", &origin.ip().to_string())
        .replace("{origin_port}", &origin.port().to_string())
}

/// `nginx version: nginx/1.22.1`, `varnishd (varnish-7.1.1 revision …)`, `tidegate 0.1.0`.
fn version_in(said: &str) -> String {
    let numbers = said.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
    numbers.filter(|part| part.contains('.')).find(|part| part.len() > 2).unwrap_or(said).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_in_settings_is_filled_in() {
        let origin = SocketAddr::from((Ipv4Addr::LOCALHOST, 4711));
        for peer in Peer::ALL {
            for disk_mib in [None, Some(100)] {
                let room = Room { for_all: true, memory_mib: 10, objects: 1000, disk_mib };
                let text = filled_in(peer, room, Path::new("/f"), Path::new("/s"), 4712, origin);
                assert!(text.contains("4711"), "{text}");
                for word in
                    ["{port", "{folder", "{store", "{memory", "{keys", "{open_files", "{disk", "{origin"]
                {
                    assert!(!text.contains(word), "{word} in {text}");
                }
            }
            assert!(peer.told().starts_with(peer.title()), "{}", peer.told());
        }
    }

    #[test]
    fn versions_are_read_of_what_is_said_first() {
        for (said, version) in [
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("varnishd (varnish-7.1.1 revision 7cee1c)", "7.1.1"),
            ("tidegate 0.1.0", "0.1.0"),
        ] {
            assert_eq!(version_in(said), version);
        }
    }
}
