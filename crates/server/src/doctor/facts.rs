//! What the doctor judges by: what was read of the machine, what the configuration asks for, and what was tried.
//!
//! Everything here is plain data, so that what is found of it is found in a test as on a server. `None` is "the system does not
//! tell": then nothing is said of it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_wire::certificate::Chain;
use tidegate_wire::timekeeping::Timekeeping;

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The machine and the process.
    pub host: Host,
    /// What the configuration asks of them; `None`: there is none.
    pub wanted: Option<Wanted>,
    /// Why the configuration cannot be used.
    pub config_error: Option<String>,
    /// The wall clock, in seconds of the Unix epoch.
    pub now: i64,
    /// Upstreams that were looked for.
    pub upstreams: Vec<UpstreamLook>,
    /// So many of them were not tried, for want of time.
    pub untried: usize,
    /// Certificates.
    pub certificates: Vec<CertificateLook>,
    /// Directories.
    pub disks: Vec<DiskLook>,
    /// The store in PostgreSQL: where, and what was found.
    pub postgres: Option<(String, Result<PostgresLook, String>)>,
    /// Redis: where, and what was found.
    pub redis: Option<(String, Result<RedisLook, String>)>,
}

/// The machine, and what the process may have of it.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The limit of open files that the process may raise itself to.
    pub files: Option<u64>,
    /// What that limit may be raised to by anybody.
    pub files_max: Option<u64>,
    /// Open files of the whole machine, and the most of them.
    pub files_system: Option<(u64, u64)>,
    /// Threads that the process may have, by its own limit and its control groups'.
    pub threads: Option<u64>,
    /// Whether it may listen below the first port that anybody may listen on, and which that is.
    pub low_ports: Option<(bool, u16)>,
    /// Whether it is root.
    pub root: bool,
    /// `net.core.somaxconn`.
    pub backlog: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`, and whether cookies stand in when it is full.
    pub half_open: Option<(u64, bool)>,
    /// The first and the last port of connections that are made.
    pub ports: Option<(u64, u64)>,
    /// `net.ipv4.tcp_tw_reuse`: 0 off, 1 on, 2 on loopback.
    pub port_reuse: Option<u64>,
    /// Connections that the firewall follows, and the most of them; `None`: it follows none.
    pub conntrack: Option<(u64, u64)>,
    /// Bytes that TCP may take of the kernel's memory.
    pub socket_memory: Option<u64>,
    /// `net.ipv4.tcp_slow_start_after_idle`.
    pub idle_restart: Option<bool>,
    /// Processors that the process may use.
    pub processors: Option<u64>,
    /// How many of them its control groups let it use in each period, in hundredths of one.
    pub quota: Option<u64>,
    /// Periods in which it was stopped, of so many.
    pub throttled: Option<(u64, u64)>,
    /// Bytes that it may take.
    pub memory: Option<u64>,
    /// Bytes of swap.
    pub swap: Option<u64>,
    /// `vm.swappiness`.
    pub swappiness: Option<u64>,
    /// `vm.overcommit_memory`.
    pub overcommit: Option<u64>,
    /// The clock.
    pub clock: Option<Timekeeping>,
}

/// What a configuration asks of the machine.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Connections of clients at once, at most.
    pub clients: u64,
    /// Connections to upstreams at once, at most, as far as their endpoints are known.
    pub upstreams: u64,
    /// The most connections to one endpoint, and its upstream.
    pub busiest: Option<(String, u64)>,
    /// Threads that carry traffic.
    pub workers: u64,
    /// Whether any listener speaks TLS.
    pub tls: bool,
    /// Ports that it listens on.
    pub ports: Vec<u16>,
    /// Hosts that routes name in full.
    pub hosts: Vec<String>,
    /// Bytes of the cache in memory.
    pub cache: u64,
    /// Bytes that bodies may take, where the configuration says it.
    pub buffers: Option<u64>,
    /// Bytes that the process may take, where the configuration says it; 0: it is not watched.
    pub memory: Option<u64>,
    /// How long a request waits for what nodes share in Redis.
    pub shared_wait: Option<Duration>,
}

/// An upstream that was looked for.
#[derive(Clone, Debug, Default)]
pub struct UpstreamLook {
    /// Its name.
    pub name: String,
    /// Its discovery, in words.
    pub discovery: String,
    /// How long each time took that its name was resolved; empty where it has none.
    pub lookups: Vec<Duration>,
    /// Why it was not resolved.
    pub lookup_error: Option<String>,
    /// What became of connecting to each of its endpoints.
    pub endpoints: Vec<(SocketAddr, Result<Duration, String>)>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

/// A certificate and its key.
#[derive(Clone, Debug, Default)]
pub struct CertificateLook {
    /// Its file.
    pub path: PathBuf,
    /// What it is.
    pub chain: Chain,
    /// The key's file.
    pub key: PathBuf,
    /// The bits of who may do what with that.
    pub key_mode: u32,
}

/// What a directory is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// The store.
    #[default]
    Store,
    /// The cache's disk tier.
    Cache,
    /// The access log.
    Log,
}

impl Purpose {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::Store => "the store",
            Purpose::Cache => "the cache's disk tier",
            Purpose::Log => "the access log",
        }
    }
}

/// A directory that is written to.
#[derive(Clone, Debug, Default)]
pub struct DiskLook {
    /// What for.
    pub purpose: Purpose,
    /// Where it is, or is going to be.
    pub path: PathBuf,
    /// The file system's kind.
    pub kind: Option<String>,
    /// Bytes that are free.
    pub free: Option<u64>,
    /// Files that may yet be made; `None`: the file system does not count them.
    pub files_free: Option<u64>,
    /// Bytes that it may yet grow by.
    pub growth: u64,
    /// Why nothing can be written.
    pub error: Option<String>,
    /// How long each fsync took, the shortest first.
    pub syncs: Vec<Duration>,
}

/// A PostgreSQL that was asked.
#[derive(Clone, Debug, Default)]
pub struct PostgresLook {
    /// What speaks against it.
    pub warnings: Vec<String>,
    /// Its version.
    pub version: i32,
    /// How long a question takes.
    pub round_trip: Duration,
    /// Connections that there are and may be.
    pub connections: (i64, i64),
}

/// A Redis that was asked.
#[derive(Clone, Debug, Default)]
pub struct RedisLook {
    /// How long a question takes.
    pub round_trip: Duration,
    /// Bytes that it may take; 0: all there are.
    pub memory: Option<u64>,
    /// What it throws away when it is full.
    pub policy: Option<String>,
}
