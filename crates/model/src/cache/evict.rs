//! Who goes when there is no room: S3-FIFO within a tenant (Yang et al., SOSP 2023), the largest tenant first.
//!
//! ```text
//!           new ----> small ---- not asked for since ----> gone, but remembered a while
//!                       |                                    |
//!   remembered ----> main <---- asked for since              | comes again: straight to main
//!                     | ^                                    |
//!                     +-+ asked for since: once more round <-+
//! ```
//!
//! What is asked for once passes through a tenth of the room and harms nobody: a scan ruins nothing. Room is shared by
//! tenants: while there is any, each takes what it likes up to its own bound; when there is none, whoever has most gives
//! first, so that a tenant that stores much pushes out its own. A hit changes nothing here: it sets a mark on the entry
//! itself, which is read when its turn comes.
//!
//! It counts bytes and knows places; it holds no content. Every operation is constant but for the order of tenants by size,
//! which is logarithmic in their number.

use std::collections::{BTreeSet, HashMap};

/// The hundredths of its room that a tenant's new entries pass through.
const SMALL_PERCENT: u64 = 10;
/// What an entry takes in the order of eviction, in bytes: its place, and the share of the memory of those that went.
pub const NODE_BYTES: usize = size_of::<Node>() + size_of::<Node>() / GROWTH + size_of::<u32>();
/// Places are added by an eighth of those there are, so that few stand empty.
pub const GROWTH: usize = 8;
/// No entry.
const NONE: u32 = u32::MAX;

/// The place of an entry, its own until it is evicted or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(u32);

impl Place {
    /// As an index into a table of what is kept there.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// As a number; never the largest of all.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// The place of a number.
    #[must_use]
    pub fn numbered(number: u32) -> Place {
        Place(number)
    }
}

/// How much may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes in all.
    pub bytes: u64,
    /// Bytes of one tenant.
    pub tenant_bytes: u64,
    /// Entries of one tenant.
    pub tenant_entries: u32,
}

/// The order of all that is kept.
#[derive(Debug)]
pub struct Evictor {
    bounds: Bounds,
    nodes: Vec<Node>,
    /// The first free place.
    free: u32,
    tenants: HashMap<u64, Room>,
    by_size: BTreeSet<(u64, u64)>,
    bytes: u64,
    /// Hashes of what went before it was asked for again, each in the one place where it can be.
    remembered: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    tenant: u64,
    /// Nothing larger than 4 GiB is kept whole.
    bytes: u32,
    /// The queue in its lowest bits, the hash in all others.
    hash_and_queue: u32,
    /// Towards what came later.
    newer: u32,
    /// Towards what came before; among free places, the next.
    older: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Free,
    Small,
    Main,
}

/// The bits of a queue.
const QUEUE_BITS: u32 = 2;

impl Node {
    fn queue(&self) -> Queue {
        match self.hash_and_queue & ((1 << QUEUE_BITS) - 1) {
            1 => Queue::Small,
            2 => Queue::Main,
            _ => Queue::Free,
        }
    }

    fn set_queue(&mut self, queue: Queue) {
        self.hash_and_queue = self.hash() | queue as u32;
    }

    fn hash(&self) -> u32 {
        self.hash_and_queue >> QUEUE_BITS << QUEUE_BITS
    }
}

/// What a tenant has.
#[derive(Debug)]
struct Room {
    small: List,
    main: List,
}

#[derive(Clone, Copy, Debug)]
struct List {
    newest: u32,
    oldest: u32,
    bytes: u64,
    count: u32,
}

const EMPTY: List = List { newest: NONE, oldest: NONE, bytes: 0, count: 0 };

impl Room {
    fn bytes(&self) -> u64 {
        self.small.bytes + self.main.bytes
    }

    fn count(&self) -> u32 {
        self.small.count + self.main.count
    }

    fn list(&mut self, queue: Queue) -> &mut List {
        if queue == Queue::Small { &mut self.small } else { &mut self.main }
    }
}

impl Evictor {
    /// Nothing is kept yet. It remembers about as many of those that went as `expected` entries.
    #[must_use]
    pub fn new(bounds: Bounds, expected: usize) -> Evictor {
        Evictor {
            bounds,
            nodes: Vec::new(),
            free: NONE,
            tenants: HashMap::new(),
            by_size: BTreeSet::new(),
            bytes: 0,
            remembered: vec![0; expected.next_power_of_two().max(64)],
        }
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes and entries of a tenant.
    #[must_use]
    pub fn of_tenant(&self, tenant: u64) -> (u64, u32) {
        self.tenants.get(&tenant).map_or((0, 0), |room| (room.bytes(), room.count()))
    }

    /// Tenants with anything kept.
    #[must_use]
    pub fn tenants(&self) -> usize {
        self.tenants.len()
    }

    /// Other bounds, from now on; what is too much goes.
    pub fn bound(&mut self, bounds: Bounds, mut used: impl FnMut(Place) -> bool, gone: &mut Vec<Place>) {
        self.bounds = bounds;
        let over: Vec<u64> = self.tenants.keys().copied().collect();
        for tenant in over {
            self.make_room(tenant, 0, &mut used, gone);
        }
    }

    /// Finds a place for an entry, and tells who had to go for it. `used` tells whether an entry was asked for since it was
    /// last looked at, and takes that mark from it. `None`: it is larger than anything may be.
    pub fn insert(
        &mut self,
        tenant: u64,
        hash: u64,
        bytes: u64,
        mut used: impl FnMut(Place) -> bool,
        gone: &mut Vec<Place>,
    ) -> Option<Place> {
        if bytes > self.bounds.bytes.min(self.bounds.tenant_bytes) || self.bounds.tenant_entries == 0 {
            return None;
        }
        let counted = u32::try_from(bytes).ok()?;
        self.make_room(tenant, bytes, &mut used, gone);
        // The lower half finds the place where it is remembered and tells it from most others that fall there.
        let mut node = Node { tenant, bytes: counted, hash_and_queue: hash as u32, newer: NONE, older: NONE };
        node.set_queue(if self.forget(node.hash()) { Queue::Main } else { Queue::Small });
        let place = match self.free {
            NONE => {
                // 32 bits of places are 300 GB of these entries alone.
                if self.nodes.len() == self.nodes.capacity() {
                    self.nodes.reserve_exact(self.nodes.len() / GROWTH + 64);
                }
                self.nodes.push(node);
                (self.nodes.len() - 1) as u32
            }
            free => {
                self.free = self.nodes[free as usize].older;
                self.nodes[free as usize] = node;
                free
            }
        };
        self.push(place);
        Some(Place(place))
    }

    /// An entry takes so many bytes more. Tells whether there is room for that, and who had to go for it: never itself. It
    /// goes to the newest end of its queue: that it grows says that it is asked for.
    pub fn grow(
        &mut self,
        place: Place,
        bytes: u64,
        mut used: impl FnMut(Place) -> bool,
        gone: &mut Vec<Place>,
    ) -> bool {
        let Some(&node) = self.nodes.get(place.index()).filter(|node| node.queue() != Queue::Free) else {
            return false;
        };
        let whole = u64::from(node.bytes).saturating_add(bytes);
        if whole > self.bounds.bytes.min(self.bounds.tenant_bytes) {
            return false;
        }
        let Ok(counted) = u32::try_from(whole) else { return false };
        self.unlink(place.0);
        self.make_room(node.tenant, whole, &mut used, gone);
        self.nodes[place.index()].bytes = counted;
        self.push(place.0);
        true
    }

    /// An entry is no longer kept.
    pub fn remove(&mut self, place: Place) {
        if self.nodes.get(place.index()).is_some_and(|node| node.queue() != Queue::Free) {
            self.unlink(place.0);
            self.release(place.0);
        }
    }

    fn make_room(
        &mut self,
        tenant: u64,
        bytes: u64,
        used: &mut impl FnMut(Place) -> bool,
        gone: &mut Vec<Place>,
    ) {
        let entries = u32::from(bytes > 0);
        while let (held, count) = self.of_tenant(tenant)
            && count > 0
            && (held + bytes > self.bounds.tenant_bytes || count + entries > self.bounds.tenant_entries)
        {
            self.evict(tenant, used, gone);
        }
        while self.bytes + bytes > self.bounds.bytes
            && let Some(&(_, largest)) = self.by_size.last()
        {
            self.evict(largest, used, gone);
        }
    }

    /// Evicts one entry of a tenant that has some.
    fn evict(&mut self, tenant: u64, used: &mut impl FnMut(Place) -> bool, gone: &mut Vec<Place>) {
        loop {
            let room = &self.tenants[&tenant];
            let small = room.small.count > 0
                && (room.main.count == 0 || room.small.bytes * 100 >= room.bytes() * SMALL_PERCENT);
            let place = if small { room.small.oldest } else { room.main.oldest };
            let asked = used(Place(place));
            self.unlink(place);
            if asked {
                self.nodes[place as usize].set_queue(Queue::Main);
                self.push(place);
                continue;
            }
            if small {
                self.remember(self.nodes[place as usize].hash());
            }
            self.release(place);
            gone.push(Place(place));
            return;
        }
    }

    /// Puts an entry at the newest end of its queue.
    fn push(&mut self, place: u32) {
        let node @ Node { tenant, bytes, .. } = self.nodes[place as usize];
        let room = self.tenants.entry(tenant).or_insert(Room { small: EMPTY, main: EMPTY });
        let before = room.bytes();
        let list = room.list(node.queue());
        let newest = std::mem::replace(&mut list.newest, place);
        if newest == NONE {
            list.oldest = place;
        } else {
            self.nodes[newest as usize].newer = place;
        }
        let node = &mut self.nodes[place as usize];
        (node.older, node.newer) = (newest, NONE);
        list.bytes += u64::from(bytes);
        list.count += 1;
        self.resized(tenant, before);
    }

    /// Takes an entry out of its queue.
    fn unlink(&mut self, place: u32) {
        let node @ Node { tenant, bytes, newer, older, .. } = self.nodes[place as usize];
        if newer != NONE {
            self.nodes[newer as usize].older = older;
        }
        if older != NONE {
            self.nodes[older as usize].newer = newer;
        }
        let room = self.tenants.get_mut(&tenant).expect("an entry's tenant has a room");
        let before = room.bytes();
        let list = room.list(node.queue());
        if newer == NONE {
            list.newest = older;
        }
        if older == NONE {
            list.oldest = newer;
        }
        list.bytes -= u64::from(bytes);
        list.count -= 1;
        self.resized(tenant, before);
    }

    fn release(&mut self, place: u32) {
        let node = &mut self.nodes[place as usize];
        (node.hash_and_queue, node.older) = (Queue::Free as u32, self.free);
        self.free = place;
    }

    /// Keeps the order of tenants by size, and forgets those that have nothing.
    fn resized(&mut self, tenant: u64, before: u64) {
        let room = &self.tenants[&tenant];
        let (now, count) = (room.bytes(), room.count());
        self.by_size.remove(&(before, tenant));
        self.bytes = self.bytes + now - before;
        if count == 0 {
            self.tenants.remove(&tenant);
        } else {
            self.by_size.insert((now, tenant));
        }
    }

    fn remember(&mut self, hash: u32) {
        let mask = self.remembered.len() - 1;
        self.remembered[(hash >> QUEUE_BITS) as usize & mask] = mark(hash);
    }

    fn forget(&mut self, hash: u32) -> bool {
        let mask = self.remembered.len() - 1;
        let slot = &mut self.remembered[(hash >> QUEUE_BITS) as usize & mask];
        let known = *slot == mark(hash);
        if known {
            *slot = 0;
        }
        known
    }
}

/// What of a hash is remembered: never zero, which is nothing.
fn mark(hash: u32) -> u32 {
    hash.max(1)
}

#[cfg(test)]
mod shelf;
#[cfg(test)]
mod simulated;

#[cfg(test)]
mod tests {
    use super::shelf::Shelf;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_what_fits_and_refuses_what_never_will() {
        let mut kept = Shelf::new(100, 60);
        assert!(!kept.ask(1, 1, 61) && kept.holds(1, 0..9) == 0);
        for name in 0..6 {
            kept.ask(1, name, 10);
        }
        assert_eq!((kept.holds(1, 0..6), kept.evictor.of_tenant(1)), (6, (60, 6)));
        kept.ask(1, 6, 10);
        assert_eq!((kept.holds(1, 0..7), kept.evictor.bytes()), (6, 60));
    }

    #[test]
    fn a_scan_ruins_nothing_that_is_asked_for() {
        let mut kept = Shelf::new(1_000, 1_000);
        for _ in 0..3 {
            for name in 0..50 {
                kept.ask(1, name, 10);
            }
        }
        for name in 1_000..100_000 {
            kept.ask(1, name, 10);
        }
        assert_eq!(kept.holds(1, 0..50), 50);
    }

    #[test]
    fn a_tenant_that_stores_much_pushes_out_its_own() {
        let mut kept = Shelf::new(1_000, 1_000);
        for name in 0..20 {
            kept.ask(1, name, 10);
        }
        for name in 0..10_000 {
            kept.ask(2, name, 10);
        }
        assert_eq!((kept.holds(1, 0..20), kept.evictor.of_tenant(2).0), (20, 800));
    }

    #[test]
    fn room_is_shared_evenly_when_all_want_it() {
        let mut kept = Shelf::new(1_000, 1_000);
        for name in 0..1_000 {
            for tenant in 0..5 {
                kept.ask(tenant, name, 10);
            }
        }
        for tenant in 0..5 {
            assert!((190..=210).contains(&kept.evictor.of_tenant(tenant).0));
        }
    }

    #[test]
    fn what_grows_pushes_out_others_and_never_itself() {
        let mut kept = Shelf::new(100, 60);
        for name in 0..6 {
            kept.ask(1, name, 10);
        }
        let (oldest, mut gone) = (kept.by_name[&(1, 0)], Vec::new());
        assert!(kept.evictor.grow(oldest, 25, |_| false, &mut gone));
        assert_eq!((kept.evictor.of_tenant(1), gone.len()), ((55, 3), 3));
        assert!(!gone.contains(&oldest));
        assert!(
            !kept.evictor.grow(oldest, 26, |_| false, &mut gone),
            "it would be larger than anything may be"
        );
        assert!(!kept.evictor.grow(gone[0], 1, |_| false, &mut gone), "who went does not grow");
        assert_eq!(kept.evictor.bytes(), 55);
        kept.evictor.remove(oldest);
        assert_eq!(kept.evictor.of_tenant(1), (20, 2));
        let (last, mut gone) = (kept.by_name[&(1, 5)], Vec::new());
        assert!(kept.evictor.grow(last, 50, |_| false, &mut gone));
        assert_eq!(kept.evictor.of_tenant(1), (60, 1), "alone, its tenant goes on to have a room");
    }

    #[test]
    fn narrower_bounds_make_room_at_once() {
        let mut kept = Shelf::new(1_000, 1_000);
        for name in 0..100 {
            kept.ask(1, name, 10);
        }
        let mut gone = Vec::new();
        kept.evictor.bound(
            Bounds { bytes: 500, tenant_bytes: 400, tenant_entries: 30 },
            |_| false,
            &mut gone,
        );
        assert_eq!((kept.evictor.of_tenant(1), gone.len()), ((300, 30), 70));
    }

    proptest! {
        #[test]
        fn counts_what_is_kept_and_never_holds_more_than_it_may(
            asks in proptest::collection::vec((0u64..4, 0u64..40, 1u64..50), 1..300),
            bytes in 50u64..400,
            tenant_bytes in 50u64..400,
        ) {
            let mut kept = Shelf::new(bytes, tenant_bytes);
            let mut sizes = HashMap::new();
            for (turn, (tenant, name, size)) in asks.into_iter().enumerate() {
                if turn % 11 == 10 {
                    if let Some(place) = kept.by_name.remove(&(tenant, name)) {
                        kept.at.remove(&place);
                        kept.used.remove(&place);
                        kept.evictor.remove(place);
                    }
                    continue;
                }
                if !kept.ask(tenant, name, size) {
                    sizes.insert((tenant, name), size);
                }
                let held: u64 = kept.at.values().map(|name| sizes[name]).sum();
                prop_assert_eq!(held, kept.evictor.bytes());
                prop_assert!(held <= bytes);
                for tenant in 0..4 {
                    let of = kept.at.values().filter(|name| name.0 == tenant);
                    let (sum, count) = of.fold((0, 0), |(sum, count), name| (sum + sizes[name], count + 1));
                    prop_assert_eq!(kept.evictor.of_tenant(tenant), (sum, count));
                    prop_assert!(sum <= tenant_bytes);
                }
            }
        }
    }
}
