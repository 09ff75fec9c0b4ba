//! Purges, as they reach this node and leave it. What other nodes have to do with it is `tidegate_model::cache::orders`;
//! the log itself is read and written elsewhere, by whoever has a connection to it.
//!
//! What always holds: a purge is visible on this node before it is ordered from others; while nobody reads a log, nothing
//! is gathered for one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::cache::Wall;
use tidegate_model::cache::orders::{Entry, LogPlace, Order, Outbox, Place, Reading};
use tidegate_model::cache::purge::{Label, Purge};
use tokio::sync::Notify;

use super::Cache;

/// Own orders that wait for the log; one more, and all of them become one that makes everything stale.
const OUTBOX_MAX: usize = 8_192;
/// How long the log waits for a disk tier that is being opened.
const OPENING_MAX: Duration = Duration::from_secs(5);
/// Places of the log that are remembered: as many as there are marks.
const PLACES_MAX: usize = 65_536;

/// The purges of this node among those of all nodes.
#[derive(Debug)]
pub struct Purges {
    /// What tells the log of all nodes from others; zero: there are no others.
    log: AtomicU64,
    outbox: Mutex<Outbox>,
    reading: Mutex<Reading>,
    /// Orders wait to be written to the log.
    pub issued: Notify,
    sent: AtomicU64,
    read: AtomicU64,
    lost: AtomicU64,
}

/// How this node stands with the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgeCounts {
    /// Own orders that wait to be written.
    pub waiting: u64,
    /// Own orders written.
    pub sent: u64,
    /// Orders of others read.
    pub read: u64,
    /// How often so many waited that everything was made stale instead.
    pub overflowed: u64,
    /// How often it was not known what this node has missed, so that all it had was made stale.
    pub lost: u64,
    /// How far the log has been read.
    pub place: Option<Place>,
}

impl Default for Purges {
    fn default() -> Purges {
        Purges {
            log: AtomicU64::new(0),
            outbox: Mutex::new(Outbox::new(OUTBOX_MAX)),
            reading: Mutex::new(Reading::new(PLACES_MAX)),
            issued: Notify::new(),
            sent: AtomicU64::new(0),
            read: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }
}

impl Purges {
    /// From now on there are other nodes, who share this log, or none any more: zero.
    pub fn share(&self, log: u64) {
        if self.log.swap(log, Relaxed) != log {
            *self.outbox.lock() = Outbox::new(OUTBOX_MAX);
            self.reading.lock().clear();
        }
    }

    /// Orders from all others what was purged here.
    pub fn issue(&self, label: Label, purge: Purge) {
        if self.log.load(Relaxed) != 0 {
            self.outbox.lock().issue(Order { label, purge });
            self.issued.notify_one();
        }
    }

    /// The next orders for the log, with their numbers.
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<(u64, Order)> {
        self.outbox.lock().take(most)
    }

    /// They are in the log, up to this number.
    pub fn sent(&self, up_to: u64, count: usize) {
        self.outbox.lock().sent(up_to);
        self.sent.fetch_add(count as u64, Relaxed);
    }

    /// The connection to the log was lost: what may not be in it is to be written again.
    pub fn again(&self) {
        self.outbox.lock().again();
    }

    /// Whether there are other nodes, and it is not known what they have purged.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.log.load(Relaxed) != 0 && self.place().is_none()
    }

    /// This process goes on from where the one before it had read the log, if that is known: what was purged up to there is
    /// written down beside what it has kept.
    pub async fn resume(&self, cache: &Cache) {
        let Some(disk) = cache.memory.disk() else { return };
        let Some(LogPlace { log, place }) = disk.log_place(OPENING_MAX).await else { return };
        if log == self.log.load(Relaxed) && self.place().is_none() {
            self.reading.lock().read(place, cache.memory.newest());
        }
    }

    /// How far the log has been read.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.reading.lock().last()
    }

    /// This node does not know what it has missed: all that it has is made stale, and the log is read from its beginning.
    pub fn begin(&self, cache: &Cache, now: Wall) {
        self.lost.fetch_add(1, Relaxed);
        self.reading.lock().clear();
        cache.mark(Order::ALL.label, Order::ALL.purge, now);
        self.outbox.lock().repeat();
        self.issued.notify_one();
    }

    /// An entry of the log was read. `node` is this one.
    pub fn read(&self, cache: &Cache, place: Place, entry: &Entry, node: u64, now: Wall) {
        if let Some(order) = entry.order {
            // One's own, too: what others asked for in between must not be taken for newer than it.
            cache.mark(order.label, order.purge, now);
            if entry.node == node {
                self.outbox.lock().seen(entry.number, order);
            } else {
                self.read.fetch_add(1, Relaxed);
            }
        }
        self.reading.lock().read(place, cache.memory.newest());
        if let Some(disk) = cache.memory.disk() {
            disk.log_read(LogPlace { log: self.log.load(Relaxed), place });
        }
    }

    /// What this node had read of the log when `made` was its newest purge.
    #[must_use]
    pub fn place_of(&self, made: u64) -> Option<Place> {
        self.reading.lock().place_of(made)
    }

    /// The number of purge for what another node asked for when it had read up to there, if no order of this node that is
    /// still on its way names it.
    pub fn made_at(&self, place: Place, labels: impl Iterator<Item = Label>) -> Option<u64> {
        let made = self.reading.lock().made_at(place)?;
        (!self.outbox.lock().names(labels)).then_some(made)
    }

    /// How it stands.
    #[must_use]
    pub fn counts(&self) -> PurgeCounts {
        let outbox = self.outbox.lock();
        PurgeCounts {
            waiting: outbox.waiting() as u64,
            sent: self.sent.load(Relaxed),
            read: self.read.load(Relaxed),
            overflowed: outbox.overflowed(),
            lost: self.lost.load(Relaxed),
            place: self.place(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::cache::key::Key;
    use tidegate_model::cache::purge::labels;

    use crate::cache::CacheBounds;

    const NOW: Wall = Wall(1_000);

    fn here() -> (Purges, Cache) {
        let purges = Purges::default();
        purges.share(1);
        (purges, Cache::new(CacheBounds::default()))
    }

    fn place(millis: u64) -> Place {
        Place { millis, number: 0 }
    }

    fn read(purges: &Purges, cache: &Cache, at: u64, node: u64, number: u64) {
        let order = Some(Order { label: Label::host("h"), purge: Purge::Hard });
        purges.read(cache, place(at), &Entry { node, number, order }, 1, NOW);
    }

    /// Whether what another node asked for at this place may be used here.
    fn check(purges: &Purges, at: u64, expected: bool) {
        assert_eq!(purges.made_at(place(at), labels(None, "h", "/", Key(1), &[])).is_some(), expected);
    }

    #[test]
    fn gathers_nothing_while_there_are_no_others() {
        let purges = Purges::default();
        purges.issue(Label::EVERYTHING, Purge::Hard);
        assert_eq!(purges.counts(), PurgeCounts::default());
    }

    #[test]
    fn what_was_ordered_and_not_read_back_is_not_used() {
        let (purges, cache) = here();
        read(&purges, &cache, 5, 2, 1);
        check(&purges, 5, true);
        purges.issue(Label::host("h"), Purge::Hard);
        check(&purges, 5, false);
        let taken = purges.take(9);
        purges.sent(taken[0].0, 1);
        check(&purges, 5, false);
        read(&purges, &cache, 6, 1, taken[0].0);
        check(&purges, 5, true);
        assert!(purges.made_at(place(5), std::iter::empty()) < purges.made_at(place(6), std::iter::empty()));
    }

    #[test]
    fn what_is_older_than_all_that_was_read_is_not_used() {
        let (purges, cache) = here();
        read(&purges, &cache, 5, 2, 1);
        check(&purges, 4, false);
        assert_eq!(purges.place_of(cache.memory.newest()), Some(place(5)));
        assert_eq!(purges.place_of(0), None);
    }

    #[test]
    fn a_node_that_begins_anew_forgets_its_places_and_repeats_its_orders() {
        let (purges, cache) = here();
        purges.issue(Label::host("h"), Purge::Hard);
        let number = purges.take(9)[0].0;
        purges.sent(number, 1);
        read(&purges, &cache, 5, 1, number);
        assert_eq!(purges.counts().waiting, 0);
        let newest = cache.memory.newest();
        purges.begin(&cache, NOW);
        check(&purges, 5, false);
        assert_eq!((purges.counts().waiting, purges.counts().lost), (1, 1));
        assert!(cache.memory.newest() > newest, "what it has was marked");
    }
}
