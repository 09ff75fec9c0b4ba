//! Slots that are given away beforehand. While nothing of a queue waits and some of its slots are free, whoever decides who is
//! next could only say yes to whatever comes: so it says so before, and what is accepted is begun in the transaction that
//! accepts it. That saves a transaction of its own, and the wait for it.
//!
//! What always holds: a slot that was offered is free, taken, or back where it came from. What was taken is told by
//! [`News::Begun`](super::News::Begun) once it is on disk, and is free again where it did not come there. Under an epoch that
//! is over nothing is taken.
//!
//! Where several processes write, whoever accepts is not always who decides: there nothing is offered.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_model::delivery::Ms;

use super::Epoch;
use crate::database::Location;
use crate::store::Store;

/// Bytes of a request that may take a slot: what is larger is begun as all was before.
pub const AHEAD_BYTES_MAX: u64 = 64 << 10;

/// Those that are offered, by their queue.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<Offers>);

#[derive(Debug, Default)]
struct Offers {
    by_queue: HashMap<Arc<str>, Offer>,
    /// By the transaction that is under way, of all queues.
    taken: u32,
}

/// The slots of a queue.
#[derive(Debug)]
struct Offer {
    epoch: Epoch,
    free: u32,
    /// By the transaction that is under way.
    taken: u32,
    /// How long a lease lasts.
    lease: Ms,
    /// None is to be taken any more.
    closed: bool,
}

impl Offer {
    fn is_open(&self, epoch: Epoch) -> bool {
        self.epoch == epoch && !self.closed && self.free > 0
    }
}

impl Slots {
    /// For how long what takes one is leased. `None`: there is none to be taken.
    pub(super) fn lease(&self, epoch: Epoch, queue: &str) -> Option<Ms> {
        let offers = self.0.lock();
        offers.by_queue.get(queue).filter(|offer| offer.is_open(epoch)).map(|offer| offer.lease)
    }

    /// Takes one, for the transaction that is under way. `false`: there is none to be taken.
    pub(super) fn take(&self, epoch: Epoch, queue: &str) -> bool {
        let Offers { by_queue, taken } = &mut *self.0.lock();
        let Some(offer) = by_queue.get_mut(queue).filter(|offer| offer.is_open(epoch)) else { return false };
        offer.free -= 1;
        offer.taken += 1;
        *taken += 1;
        true
    }

    /// The transaction is over: what it has taken is gone, or free again.
    pub(crate) fn settle(&self, committed: bool) {
        let Offers { by_queue, taken } = &mut *self.0.lock();
        if std::mem::take(taken) == 0 {
            return;
        }
        for offer in by_queue.values_mut() {
            let taken = std::mem::take(&mut offer.taken);
            offer.free += if committed { 0 } else { taken };
        }
    }
}

impl Store {
    /// Whether it takes slots beforehand ([`Store::offer`]).
    #[must_use]
    pub fn takes_slots(&self) -> bool {
        matches!(self.settings().location, Location::Directory(_))
    }

    /// Gives away so many slots more: what is accepted for this queue, may be begun at once, has no key and is not
    /// [too large](AHEAD_BYTES_MAX) takes one. It is leased for so long then, and told as [`News::Begun`](super::News::Begun).
    pub fn offer(&self, epoch: Epoch, queue: &Arc<str>, slots: u32, lease: Ms) {
        let Offers { by_queue, .. } = &mut *self.followers.slots.0.lock();
        // Those of other epochs are nobody's.
        by_queue.retain(|_, offer| offer.epoch == epoch);
        let none = Offer { epoch, free: 0, taken: 0, lease, closed: false };
        let offer = by_queue.entry(Arc::clone(queue)).or_insert(none);
        offer.free += slots;
        (offer.lease, offer.closed) = (lease, false);
    }

    /// Takes back what is free; nothing more is taken. How many these are: what is in a transaction just now is told of, or is
    /// free when this is asked again.
    #[must_use]
    pub fn take_back(&self, epoch: Epoch, queue: &str) -> u32 {
        let Offers { by_queue, .. } = &mut *self.followers.slots.0.lock();
        let Some(offer) = by_queue.get_mut(queue).filter(|offer| offer.epoch == epoch) else { return 0 };
        offer.closed = true;
        std::mem::take(&mut offer.free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Epoch = Epoch { shard: 0, number: 1 };

    fn offered(slots: u32) -> Slots {
        let offer = Offer { epoch: FIRST, free: slots, taken: 0, lease: 5, closed: false };
        Slots(Mutex::new(Offers { by_queue: HashMap::from([("q".into(), offer)]), taken: 0 }))
    }

    fn free(slots: &Slots) -> u32 {
        slots.0.lock().by_queue["q"].free
    }

    #[test]
    fn no_more_are_taken_than_are_offered() {
        let slots = offered(2);
        let taken = [0; 3].map(|_| slots.take(FIRST, "q"));
        assert_eq!(taken, [true, true, false]);
        assert!(!slots.take(FIRST, "other"));
        slots.settle(true);
        assert_eq!(free(&slots), 0);
    }

    #[test]
    fn what_did_not_come_to_disk_has_taken_none() {
        let slots = offered(2);
        assert!(slots.take(FIRST, "q"));
        slots.settle(false);
        assert_eq!(free(&slots), 2);
        assert!(slots.take(FIRST, "q"));
        slots.settle(true);
        slots.settle(false);
        assert_eq!(free(&slots), 1);
    }

    #[test]
    fn under_another_epoch_or_when_it_is_closed_none_is_taken() {
        let slots = offered(2);
        assert!(!slots.take(Epoch { number: 2, ..FIRST }, "q"));
        assert_eq!(slots.lease(FIRST, "q"), Some(5));
        slots.0.lock().by_queue.values_mut().for_each(|offer| offer.closed = true);
        assert!(slots.lease(FIRST, "q").is_none() && !slots.take(FIRST, "q"));
    }
}
