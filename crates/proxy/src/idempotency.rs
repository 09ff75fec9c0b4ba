//! Idempotency: requests that carry the same `Idempotency-Key` have one effect, and are told the same.
//!
//! ```text
//! read the body -- join those with the same key --- first: claim in the store --- forward --- record --- tell
//!                          |                                 '--- recorded already: tell that
//!                          '--- others: wait for the first, and tell what it was told
//! ```
//!
//! `tidegate_model::idempotency` decides, `tidegate_store` remembers; `desk` knows what is under way in this process,
//! [`stage`] is the way of a request through it, `gather` takes in the answer, `kept` makes one of a record.
//!
//! What always holds: nothing goes upstream before its claim is on disk, and nothing is told before its record is; whoever
//! leaves does not stop what was begun for it; a record is found by its tenant and route alone. What a crash left open is
//! unknown, and refused, unless the route says that its upstream is idempotent by itself.
//!
//! What it does not do: it keeps no streams. What is too long, or has no end in time, is passed on and not told again.

mod desk;
mod gather;
mod kept;
pub mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::StatusCode;
use tidegate_store::Store;

use self::desk::Desk;

pub use self::gather::Resumed;
pub(crate) use self::stage::is_stream;

/// How a route keeps the effects of repeats to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencySettings {
    /// Whether a request that is not idempotent by its method must bring a key.
    pub required: bool,
    /// How long an answer is told again.
    pub ttl: Duration,
    /// The largest request body.
    pub body_bytes_max: u64,
    /// The largest response body that is kept.
    pub response_bytes_max: u64,
    /// How long a repeat waits for the first, within its deadline.
    pub wait: Duration,
    /// Keys of one tenant at a time.
    pub keys_max: u64,
    /// Whether the upstream itself has one effect for one key: what is unknown is then asked again.
    pub upstream: bool,
    /// Statuses by which the upstream says that it has done nothing.
    pub release: Vec<StatusCode>,
}

/// What outlives every site: the store, and what is under way.
#[derive(Debug, Default)]
pub struct Idempotency {
    desk: Arc<Desk>,
    store: ArcSwapOption<Store>,
    draining: AtomicBool,
    /// Exchanges on the way to the store or from it.
    users: Arc<AtomicUsize>,
}

/// An exchange that needs the store, while it does.
#[derive(Debug)]
pub struct Use(Arc<AtomicUsize>);

impl Drop for Use {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Idempotency {
    /// Keeps records in this store.
    pub fn keep_in(&self, store: Arc<Store>) {
        self.store.store(Some(store));
    }

    /// The store, where there is one.
    #[must_use]
    pub fn store(&self) -> Option<Arc<Store>> {
        self.store.load_full()
    }

    /// The process ends: whoever waits for what is made later is told to come again.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether it does.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Counts an exchange that needs the store, until that is dropped.
    #[must_use]
    pub fn begin_use(&self) -> Use {
        self.users.fetch_add(1, Relaxed);
        Use(Arc::clone(&self.users))
    }

    /// Whether no exchange needs the store now.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.users.load(Relaxed) == 0 && self.desk.under_way().0 == 0
    }

    /// Requests that were begun under a key and have not ended, and how many wait for them.
    #[must_use]
    pub fn under_way(&self) -> (usize, usize) {
        self.desk.under_way()
    }

    /// Waits until none is under way, whoever has left.
    pub async fn finished(&self) {
        self.desk.empty().await;
    }
}
