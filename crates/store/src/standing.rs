//! How the store stands: what its writing thread tells whoever looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// How the store stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether it writes.
    pub state: State,
    /// Records.
    pub records: u64,
    /// Bytes that they count for.
    pub bytes: u64,
    /// The most bytes of the database.
    pub bytes_max: u64,
    /// Commands that wait for the writing thread.
    pub waiting: u64,
    /// Transactions that were written, ever.
    pub commits: u64,
    /// Commands that were answered once they were on disk, ever.
    pub done: u64,
    /// Commands that failed, ever.
    pub failed: u64,
    /// Records that came to their end and were removed, ever.
    pub swept: u64,
}

/// Whether the store writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// It does.
    #[default]
    Serving,
    /// There was no room for the last write. It is tried again.
    Full,
    /// The last write failed. It is tried again.
    Failing(Arc<str>),
    /// It has stopped: the process has to be started anew.
    Stopped(Arc<str>),
    /// The process ends.
    Closed,
}

impl State {
    /// In a word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            State::Serving => "serving",
            State::Full => "full",
            State::Failing(_) => "failing",
            State::Stopped(_) => "stopped",
            State::Closed => "closed",
        }
    }
}

/// What the writing thread tells.
#[derive(Debug, Default)]
pub(crate) struct Told {
    state: Mutex<State>,
    records: AtomicI64,
    bytes: AtomicI64,
    pub(crate) commits: AtomicU64,
    pub(crate) done: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) swept: AtomicU64,
    /// Commands that it has taken and not carried out.
    pub(crate) held: AtomicU64,
    /// How deliveries stand, where they have a thread of their own.
    deliveries: Mutex<State>,
    /// Errands to deliveries that it has taken and not carried out.
    pub(crate) errands: AtomicU64,
}

impl Told {
    /// There are so many more records, and bytes of them.
    pub(crate) fn more(&self, records: i64, bytes: i64) {
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// There are so many records, and bytes of them.
    pub(crate) fn set(&self, records: i64, bytes: i64) {
        self.records.store(records, Relaxed);
        self.bytes.store(bytes, Relaxed);
    }

    /// Bytes of all records.
    pub(crate) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes.load(Relaxed)).unwrap_or_default()
    }

    /// It stands so now. Tells how it stood before.
    pub(crate) fn stand(&self, state: State) -> State {
        std::mem::replace(&mut self.state.lock(), state)
    }

    /// Deliveries stand so now, where they have a thread of their own. Tells how they stood before.
    pub(crate) fn stand_deliveries(&self, state: State) -> State {
        std::mem::replace(&mut self.deliveries.lock(), state)
    }

    /// How it stands: as that stands which stands worse.
    pub(crate) fn state(&self) -> State {
        let state = self.state.lock().clone();
        if state == State::Serving { self.deliveries.lock().clone() } else { state }
    }

    pub(crate) fn standing(&self, bytes_max: u64, waiting: u64) -> Standing {
        let count = |number: &AtomicI64| u64::try_from(number.load(Relaxed)).unwrap_or_default();
        Standing {
            state: self.state(),
            records: count(&self.records),
            bytes: count(&self.bytes),
            bytes_max,
            waiting: waiting + self.held.load(Relaxed) + self.errands.load(Relaxed),
            commits: self.commits.load(Relaxed),
            done: self.done.load(Relaxed),
            failed: self.failed.load(Relaxed),
            swept: self.swept.load(Relaxed),
        }
    }
}
