//! The cache: what answers many requests with one of the upstream's answers.
//!
//! `tidegate_model::cache` has the rules. Here is what performs them: [`memory`] keeps, [`disk`] keeps more below it,
//! [`purges`] reach all nodes, [`fill`] collapses, [`serve`] makes
//! of what is kept what one client asked for, [`stage`] is the way of a request through all of it.
//!
//! What always holds: the tenant is in the key unless the route declares its content public; nothing that sets a cookie is
//! kept; nothing is served before the tenant's limits have let the request pass.

pub mod disk;
pub mod fill;
pub mod kept;
pub mod memory;
pub mod purges;
pub mod serve;
pub mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::HeaderMap;
use tidegate_model::cache::Wall;
use tidegate_model::cache::evict::Bounds;
use tidegate_model::cache::purge::{Label, Purge};
use tidegate_model::cache::vary::Vary;

use self::disk::{Disk, DiskSettings};
use self::fill::Fills;
use self::kept::Kept;
use self::memory::{Found, Memory, Named};
use self::purges::Purges;

/// How long whoever purged waits until that is written down.
const PURGE_WAIT: Duration = Duration::from_millis(100);

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

    /// Keeps answers in this directory, too; or in none.
    pub fn keep_on_disk(&self, settings: Option<&DiskSettings>) {
        let before = self.memory.below();
        if before.as_ref().map(|disk| disk.settings()) == settings {
            return;
        }
        if let Some(before) = before {
            // Only one that is used again is told what is purged from now on.
            let same = settings.is_some_and(|settings| settings.path == before.settings().path);
            before.end(!same);
        }
        self.memory
            .put_below(|marks| settings.map(|settings| Arc::new(Disk::start(settings.clone(), marks))));
    }

    /// Finds the answer to a request that found none in memory.
    pub async fn find_below(&self, named: &Named<'_>, room: u64, request: &HeaderMap) -> Option<Arc<Kept>> {
        let (kept, vary) = self.memory.below()?.find(&self.memory, named, request).await?;
        if let Found::Answer(newer) = self.memory.find(named, request) {
            return Some(newer);
        }
        // What is asked for once leaves memory soon: its order of eviction decides what is worth to stay.
        self.memory.keep(named, room, request, &vary, Arc::clone(&kept));
        Some(kept)
    }

    /// Keeps an answer, in memory and below.
    pub fn keep(&self, named: &Named<'_>, room: u64, request: &HeaderMap, vary: &Vary, kept: &Arc<Kept>) {
        self.memory.keep(named, room, request, vary, Arc::clone(kept));
        if let Some(below) = self.memory.below() {
            below.keep(named, room, request, vary, kept, false);
        }
    }

    /// Keeps an answer of which only the freshness is new.
    pub fn keep_fresher(
        &self,
        named: &Named<'_>,
        room: u64,
        request: &HeaderMap,
        vary: &Vary,
        kept: &Arc<Kept>,
    ) {
        self.memory.keep(named, room, request, vary, Arc::clone(kept));
        if let Some(below) = self.memory.below() {
            below.keep(named, room, request, vary, kept, true);
        }
    }

    /// Waits, if there is a tier that outlives the process, until what was purged is written down there. Tells whether it is;
    /// it holds in this process in any case, and a disk that hangs holds up nobody for long.
    pub async fn purges_written(&self) -> bool {
        match self.memory.below() {
            None => true,
            Some(below) => below.purges_settled(PURGE_WAIT).await,
        }
    }

    /// The process ends: what is on disk is there again at the next start.
    pub fn close(&self, most: Duration) {
        if let Some(below) = self.memory.below() {
            below.close(most);
        }
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
