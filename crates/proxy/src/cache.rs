//! The cache: what answers many requests with one of the upstream's answers.
//!
//! `tidegate_model::cache` has the rules. Here is what performs them: [`asked`] makes the key ([`content`] reads what of it is in
//! a body), [`memory`] keeps and the tiers below ([`tier`], [`disk`], [`far`]) keep more, as bytes that `known` makes,
//! [`fill`] collapses, [`intake`] says what becomes of an answer, [`serve`] makes of what is kept what one client asked for
//! (`changed` is the route's part in that; [`coded`] is what is kept compressed), [`slices`] keep and serve what is large, `behind` refreshes, [`mod@write`] takes
//! away, [`purges`] reach all nodes, [`shield`] asks the key's home node before the upstream; [`stage`] is the way of a
//! request through all of it.
//!
//! What always holds: the tenant is in the key unless the route declares its content public; nothing that sets a cookie is
//! kept; nothing is served before the tenant's limits have let the request pass.

pub mod asked;
mod behind;
mod changed;
pub mod coded;
pub mod content;
pub mod disk;
pub mod far;
pub mod fill;
pub mod inspect;
pub mod intake;
pub mod kept;
mod known;
pub mod memory;
pub mod purges;
pub mod serve;
pub mod shield;
pub mod slices;
pub mod stage;
pub mod tier;
pub mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_model::cache::Wall;
use tidegate_model::cache::evict::Bounds;
use tidegate_model::cache::orders::Order;
use tidegate_model::cache::purge::{Label, Purge};
use tidegate_model::cache::vary::Vary;
use tidegate_wire::clock;

use self::asked::Asked;
use self::disk::{Disk, DiskSettings};
use self::fill::Fills;
use self::kept::Kept;
use self::memory::Memory;
use self::purges::Purges;
use self::shield::{Peering, PurgeTimes};
use self::slices::Slices;
use self::stage::now;
use self::tier::{Brought, Tier};

/// The share of the memory's bytes that answers on their way may take beside it.
const ON_THE_WAY: u64 = 4;

/// How long whoever purged waits until that is written down.
const PURGE_WAIT: Duration = Duration::from_millis(100);

/// The cache of the process.
#[derive(Debug)]
pub struct Cache {
    /// What is kept in memory.
    pub memory: Memory,
    /// What is purged, here and on other nodes.
    pub purges: Arc<Purges>,
    /// What this process is to other nodes.
    pub peering: Peering,
    /// When it has purged.
    purge_times: PurgeTimes,
    /// Large answers.
    pub slices: Slices,
    tiers: ArcSwap<Vec<Arc<dyn Tier>>>,
    fills: Arc<Fills>,
    refreshing: Arc<AtomicUsize>,
    object_bytes_max: AtomicU64,
    bounds: ArcSwap<CacheBounds>,
    /// The most bytes that the process can spare for it.
    spare: AtomicU64,
    /// Nothing is kept in memory any more.
    is_over: AtomicBool,
    purged: AtomicU64,
}

/// How much it may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheBounds {
    /// In all, and of one tenant.
    pub bounds: Bounds,
    /// The largest content that is kept as one, in bytes.
    pub object_bytes_max: u64,
    /// The largest content that is kept in slices, in bytes. Zero: none is.
    pub large_bytes_max: u64,
    /// The bytes of a slice.
    pub slice_bytes: u64,
}

impl Default for CacheBounds {
    fn default() -> CacheBounds {
        const MIB: u64 = 1024 * 1024;
        let bounds = Bounds { bytes: 64 * MIB, tenant_bytes: 32 * MIB, tenant_entries: 1_000_000 };
        CacheBounds { bounds, object_bytes_max: 8 * MIB, large_bytes_max: 1024 * MIB, slice_bytes: MIB / 4 }
    }
}

/// How the cache stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStanding {
    /// Bytes in memory.
    pub bytes: u64,
    /// The most bytes there may be in memory.
    pub bytes_max: u64,
    /// Answers in memory.
    pub entries: usize,
    /// Answers that had to go for want of room, ever.
    pub evicted: u64,
    /// Bytes of answers on their way.
    pub coming_bytes: u64,
    /// Requests to upstreams that others wait for.
    pub under_way: usize,
    /// Refreshes behind that are under way.
    pub refreshing: usize,
    /// Labels that were purged, ever.
    pub purged: u64,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(bounds: CacheBounds) -> Cache {
        let memory = Memory::new(bounds.bounds);
        let cache = Cache {
            purge_times: PurgeTimes::new(memory.newest()),
            memory,
            peering: Peering::default(),
            slices: Slices::default(),
            purges: Arc::default(),
            tiers: ArcSwap::default(),
            fills: Arc::default(),
            refreshing: Arc::default(),
            object_bytes_max: AtomicU64::new(0),
            bounds: ArcSwap::from_pointee(bounds),
            spare: AtomicU64::new(u64::MAX),
            is_over: AtomicBool::new(false),
            purged: AtomicU64::new(0),
        };
        cache.bound(bounds);
        cache
    }

    /// Holds it to other bounds.
    pub fn bound(&self, bounds: CacheBounds) {
        self.bounds.store(Arc::new(bounds));
        self.apply();
    }

    /// The process can spare so many bytes for it and no more, whatever its bounds. What is too much goes at once.
    pub fn spare(&self, bytes: u64) {
        if self.spare.swap(bytes, Relaxed) != bytes {
            self.apply();
        }
    }

    fn apply(&self) {
        let CacheBounds { bounds, object_bytes_max, large_bytes_max, slice_bytes } = **self.bounds.load();
        let bytes = bounds.bytes.min(self.spare.load(Relaxed));
        let tenant_bytes = bounds.tenant_bytes.min(bytes);
        let most = if self.is_over.load(Relaxed) { 0 } else { bytes };
        self.memory.bound(Bounds { bytes: most, tenant_bytes: tenant_bytes.min(most), ..bounds });
        self.fills.bound(bytes / ON_THE_WAY);
        self.slices.bound(large_bytes_max, slice_bytes, bytes / ON_THE_WAY);
        self.object_bytes_max.store(object_bytes_max, Relaxed);
    }

    /// Sets the tiers below memory and disk, the nearest first.
    pub fn set_tiers(&self, tiers: Vec<Arc<dyn Tier>>) {
        self.tiers.store(Arc::new(tiers));
    }

    /// Purges what has this label: here at once, and on all other nodes.
    pub fn purge(&self, label: Label, purge: Purge, now: Wall) {
        self.mark(label, purge, now);
        self.purges.issue(label, purge);
        self.peering.orders.issue(Order { label, purge });
        self.purged.fetch_add(1, Relaxed);
    }

    /// Purges what another node has purged, here alone.
    pub fn purge_for_peer(&self, order: Order) {
        self.mark(order.label, order.purge, now());
    }

    /// Purges what has this label here alone, in memory and below.
    fn mark(&self, label: Label, purge: Purge, now: Wall) {
        let newest = self.memory.purge(label, purge, now);
        self.purge_times.purged(clock::now(), newest);
        for tier in self.tiers.load().iter() {
            tier.purge(label, purge, newest, now);
        }
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> CacheStanding {
        let (bytes, entries) = self.memory.size();
        CacheStanding {
            bytes,
            bytes_max: self.bounds.load().bounds.bytes.min(self.spare.load(Relaxed)),
            entries,
            evicted: self.memory.evicted(),
            coming_bytes: self.fills.held() + self.slices.runs.held(),
            under_way: self.fills.under_way() + self.slices.runs.under_way(),
            refreshing: self.refreshing.load(Relaxed),
            purged: self.purged.load(Relaxed),
        }
    }

    /// Keeps answers in this directory, too; or in none.
    pub fn keep_on_disk(&self, settings: Option<&DiskSettings>) {
        let before = self.memory.disk();
        if before.as_ref().map(|disk| disk.settings()) == settings {
            return;
        }
        if let Some(before) = before {
            // Only one that is used again is told what is purged from now on.
            let same = settings.is_some_and(|settings| settings.path == before.settings().path);
            before.end(!same);
        }
        self.memory.put_disk(|marks| settings.map(|settings| Arc::new(Disk::start(settings.clone(), marks))));
    }

    /// Waits, if there is a tier that outlives the process, until what was purged is written down there. Tells whether it is;
    /// it holds in this process in any case, and a disk that hangs holds up nobody for long.
    pub async fn purges_written(&self) -> bool {
        match self.memory.disk() {
            None => true,
            Some(disk) => disk.purges_settled(PURGE_WAIT).await,
        }
    }

    /// The process ends: what is on disk is there again at the next start.
    pub fn close(&self, most: Duration) {
        if let Some(disk) = self.memory.disk() {
            disk.close(most);
        }
    }

    /// Another process serves: what is in memory is of use to nobody, and this one may be there for an hour.
    pub fn forget(&self) {
        self.is_over.store(true, Relaxed);
        self.apply();
    }

    /// Keeps an answer, here and below.
    fn keep(&self, asked: &Asked, vary: &Vary, kept: &Arc<Kept>) {
        self.memory.keep(&asked.named(), asked.room, &asked.fields, vary, Arc::clone(kept));
        self.each_below(kept, |tier| tier.keep(&asked.named(), asked.room, &asked.fields, vary, kept));
    }

    /// Keeps an answer of which only the freshness is new.
    fn keep_fresher(&self, asked: &Asked, vary: &Vary, kept: &Arc<Kept>) {
        self.memory.keep(&asked.named(), asked.room, &asked.fields, vary, Arc::clone(kept));
        self.each_below(kept, |tier| {
            tier.keep_fresher(&asked.named(), asked.room, &asked.fields, vary, kept);
        });
    }

    fn each_below(&self, kept: &Kept, mut tell: impl FnMut(&dyn Tier)) {
        if let Some(disk) = self.memory.disk() {
            tell(&*disk);
        }
        // Slices are on this node alone: who found their manifest elsewhere would find nothing of them.
        if !kept.is_sliced() {
            self.tiers.load().iter().for_each(|tier| tell(&**tier));
        }
    }

    /// The tiers below memory, the nearest first.
    fn below(&self) -> Vec<Arc<dyn Tier>> {
        let disk = self.memory.disk().map(|disk| disk as Arc<dyn Tier>);
        disk.into_iter().chain(self.tiers.load().iter().cloned()).collect()
    }

    /// Asks the tiers below memory. What one of them has is kept in memory, too. Tells also which.
    async fn look_below(&self, asked: &Asked) -> Option<(Arc<Kept>, &'static str)> {
        let disk = self.memory.disk().map(|disk| disk as Arc<dyn Tier>);
        let tiers = self.tiers.load_full();
        for tier in disk.iter().chain(tiers.iter()) {
            let Some(finding) = tier.find(&asked.named(), &asked.fields) else { continue };
            let Some(Brought { kept, vary }) = finding.await else { continue };
            if self.memory.is_good(&kept, &asked.named()) {
                // What others have purged since it was kept is not known: it may be shown to be good.
                if self.purges.is_behind() {
                    kept.is_stale_from(now());
                }
                self.memory.keep(&asked.named(), asked.room, &asked.fields, &vary, Arc::clone(&kept));
                return Some((kept, tier.name()));
            }
        }
        None
    }

    fn object_bytes_max(&self) -> u64 {
        self.object_bytes_max.load(Relaxed)
    }
}
