//! Static files as an upstream: a directory that answers instead of a server.
//!
//! ```text
//! path --- shelf: look in memory; what is not there, on a thread that may wait for the disk --> an open file, or none
//! open file --- answer: conditions, range, fields --> head --- body: whole at once, or piece by piece --> client
//! ```
//!
//! It stands behind the same gate, deadline, breaker and receipt as any upstream; only where a network call would be made, a
//! file is opened. What the kernel has in memory is read on the core at once, without ever waiting for a disk; everything
//! else is a job for a bounded pool of threads. A small file is read whole before the head is told, and read again if it
//! changed meanwhile; a large one goes piece by piece, no faster than its client takes it, in constant memory. When it is
//! no longer what it was at the head, the answer breaks off instead of mixing two versions.
//!
//! It lists no directory, opens nothing but regular files, follows no link out of its root, and never writes.

mod answer;
mod body;
mod call;
mod kind;
mod pool;
mod root;
mod shelf;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Serialize;

pub(crate) use body::FileBody;
pub(crate) use call::call;
pub(crate) use shelf::Shelf;

/// What all cores count of an upstream of files.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    requests: AtomicU64,
    failures: AtomicU64,
    active: AtomicU32,
    waited: AtomicU64,
}

/// Files as an operator sees them.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(deny_unknown_fields)]
pub struct FilesStatus {
    /// Calls under way.
    pub active: u32,
    /// Calls ever.
    pub requests: u64,
    /// Calls that failed, ever: the disk, or a file that changed while it was read.
    pub failures: u64,
    /// Reads that had to wait for the disk, ever.
    pub waited: u64,
}

impl Counts {
    /// A call begins.
    fn begin(self: &Arc<Counts>) -> Busy {
        self.active.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
    }

    /// Calls that it was given, ever.
    pub(crate) fn served(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// What an operator sees.
    pub(crate) fn status(&self) -> FilesStatus {
        FilesStatus {
            active: self.active.load(Relaxed),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
            waited: self.waited.load(Relaxed),
        }
    }
}

/// A call under way.
#[derive(Debug)]
struct Busy(Arc<Counts>);

impl Busy {
    /// It failed, or broke off after its head.
    fn broke(&self) {
        self.0.failures.fetch_add(1, Relaxed);
    }

    /// It waits for the disk.
    fn waits(&self) {
        self.0.waited.fetch_add(1, Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Unread {
    /// The root is not there, or may not be read.
    #[error("the root: {0}")]
    Root(Errno),
    /// The system says so.
    #[error("{0}")]
    System(#[from] Errno),
    /// It changes again and again.
    #[error("the file changed while it was read")]
    Changed,
    /// Too many wait for the disk.
    #[error(transparent)]
    Full(#[from] pool::Full),
    /// A thread was lost.
    #[error(transparent)]
    Lost(#[from] pool::Lost),
    /// Neither memory nor disk gave anything for too long.
    #[error("the disk made no progress")]
    Stalled,
    /// The process has as many files open as it may.
    #[error("too many open files")]
    NoFile,
}
