//! What the doctor finds: one row for each thing that is looked at, and what was found of it.

use serde_json::{Value, json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Good to know.
    Note,
    /// It costs speed, or fails beyond a certain load.
    Hurts,
    /// It does not work, or loses what it must not lose.
    Breaks,
}

impl Severity {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Fine => "fine",
            Severity::Note => "note",
            Severity::Hurts => "hurts",
            Severity::Breaks => "breaks",
        }
    }
}

/// Something that is looked at. Its page is a section of `docs/doctor.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// `area.subject`.
    pub code: &'static str,
    /// What is looked at.
    pub title: &'static str,
}

macro_rules! checks {
    ($($name:ident = $code:literal, $title:literal;)+) => {
        $(#[doc = $title] pub const $name: Check = Check { code: $code, title: $title };)+
        /// All of them, in the order in which they are told.
        pub const CHECKS: &[Check] = &[$($name),+];
    };
}

checks! {
    CONFIG = "config.file", "the configuration";
    FILES_LIMIT = "files.limit", "open files of this process";
    FILES_SYSTEM = "files.system", "open files of the whole machine";
    THREADS = "process.threads", "threads that the process may have";
    LOW_PORTS = "process.ports", "the right to listen below port 1024";
    ROOT = "process.user", "the user that it runs as";
    BACKLOG = "network.backlog", "connections that wait to be accepted";
    HALF_OPEN = "network.half-open", "connections that are being made";
    PORTS = "network.ports", "ports for connections to upstreams";
    CONNTRACK = "network.conntrack", "connections that the firewall follows";
    SOCKET_MEMORY = "network.memory", "memory of the kernel for TCP";
    IDLE_RESTART = "network.idle-restart", "connections that were idle";
    QUOTA = "cpu.quota", "the share of the processors";
    WORKERS = "cpu.workers", "threads that carry traffic";
    THROTTLED = "cpu.throttled", "pauses forced by the control group";
    MEMORY = "memory.limit", "memory for what is configured";
    WATCHED = "memory.watched", "the memory that it watches itself by";
    SWAP = "memory.swap", "memory that is put on disk";
    OVERCOMMIT = "memory.overcommit", "memory that is promised";
    CLOCK = "clock.kept", "the clock";
    NAMES = "names.resolve", "names of upstreams";
    ENDPOINTS = "endpoints.connect", "endpoints of upstreams";
    EXPIRY = "tls.expiry", "how long certificates hold";
    CHAIN = "tls.chain", "chains of certificates";
    HOSTS = "tls.hosts", "certificates for the hosts of routes";
    KEY_FILE = "tls.key-file", "who may read private keys";
    FILESYSTEM = "disk.filesystem", "what kind of file system a directory is on";
    ACCESS = "disk.access", "whether a directory can be written to";
    SPACE = "disk.space", "room for what is configured";
    INODES = "disk.inodes", "room for further files";
    SYNC = "disk.sync", "how fast the disk makes things durable";
    POSTGRES = "postgres.reach", "the store in PostgreSQL";
    POSTGRES_SETTINGS = "postgres.settings", "how PostgreSQL is set up";
    POSTGRES_ROOM = "postgres.connections", "connections that PostgreSQL has left";
    REDIS = "redis.reach", "Redis";
    REDIS_MEMORY = "redis.eviction", "what Redis throws away when it is full";
}

/// What was found of something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Of what.
    pub check: Check,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub seen: String,
    /// What breaks, and from which load on; empty where nothing does.
    pub effect: String,
    /// How that load is found.
    pub how: String,
    /// The lines that mend it: commands, or settings of a named file.
    pub mend: Vec<String>,
}

impl Finding {
    /// Nothing is wrong with it.
    pub fn fine(check: Check, seen: impl Into<String>) -> Finding {
        Finding {
            check,
            severity: Severity::Fine,
            seen: seen.into(),
            effect: String::new(),
            how: String::new(),
            mend: Vec::new(),
        }
    }

    /// Something is wrong with it.
    pub fn new(
        check: Check,
        severity: Severity,
        seen: impl Into<String>,
        effect: impl Into<String>,
    ) -> Finding {
        Finding { severity, effect: effect.into(), ..Finding::fine(check, seen) }
    }

    /// With how the load was found.
    #[must_use]
    pub fn how(mut self, how: impl Into<String>) -> Finding {
        self.how = how.into();
        self
    }

    /// With a line that mends it.
    #[must_use]
    pub fn mend(mut self, line: impl Into<String>) -> Finding {
        self.mend.push(line.into());
        self
    }

    /// With the setting of the kernel that mends it: now, and after the next start of the machine.
    #[must_use]
    pub fn sysctl(self, name: &str, value: impl std::fmt::Display) -> Finding {
        self.mend(format!("sysctl -w {name}=\"{value}\""))
            .mend(format!("echo '{name} = {value}' >> /etc/sysctl.d/90-tidegate.conf"))
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "code": self.check.code,
            "severity": self.severity.name(),
            "seen": self.seen,
            "effect": self.effect,
            "how": self.how,
            "mend": self.mend,
        })
    }
}
