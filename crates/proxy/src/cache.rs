//! The cache: what answers many requests with one of the upstream's answers.
//!
//! `tidegate_model::cache` has the rules. Here is what performs them: [`memory`] keeps, [`purges`] reach all nodes, [`fill`] collapses, [`serve`] makes
//! of what is kept what one client asked for, [`stage`] is the way of a request through all of it.
//!
//! What always holds: the tenant is in the key unless the route declares its content public; nothing that sets a cookie is
//! kept; nothing is served before the tenant's limits have let the request pass.

pub mod fill;
pub mod kept;
pub mod memory;
pub mod purges;
pub mod serve;
pub mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_model::cache::Wall;
use tidegate_model::cache::evict::Bounds;
use tidegate_model::cache::purge::{Label, Purge};

use self::fill::Fills;
use self::memory::Memory;
use self::purges::Purges;

/// The cache of the process.
#[derive(Debug)]
pub struct Cache {
    /// What is kept.
    pub memory: Memory,
    /// What is purged, here and on other nodes.
    pub purges: Purges,
    fills: Arc<Fills>,
    object_bytes_max: AtomicU64,
}

/// How much it may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBounds {
    /// In all, and of one tenant.
    pub bounds: Bounds,
    /// The largest content that is kept, in bytes.
    pub object_bytes_max: u64,
}

impl Default for CacheBounds {
    fn default() -> CacheBounds {
        const MIB: u64 = 1024 * 1024;
        let bounds = Bounds { bytes: 64 * MIB, tenant_bytes: 32 * MIB, tenant_entries: 1_000_000 };
        CacheBounds { bounds, object_bytes_max: 8 * MIB }
    }
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(bounds: CacheBounds) -> Cache {
        Cache {
            memory: Memory::new(bounds.bounds),
            purges: Purges::default(),
            fills: Arc::default(),
            object_bytes_max: AtomicU64::new(bounds.object_bytes_max),
        }
    }

    /// Holds it to other bounds.
    pub fn bound(&self, bounds: CacheBounds) {
        self.memory.bound(bounds.bounds);
        self.object_bytes_max.store(bounds.object_bytes_max, Relaxed);
    }

    /// Purges what has this label: here at once, and on all other nodes.
    pub fn purge(&self, label: Label, purge: Purge, now: Wall) {
        self.memory.purge(label, purge, now);
        self.purges.issue(label, purge);
    }

    /// Requests that others wait for.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.fills.under_way()
    }

    fn object_bytes_max(&self) -> u64 {
        self.object_bytes_max.load(Relaxed)
    }
}
