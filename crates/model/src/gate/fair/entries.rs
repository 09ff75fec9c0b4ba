//! Who waits and who holds a slot, under keys that stay valid until they are given back and never mean another after that.

use std::sync::Arc;
use std::time::Duration;

use super::flow::Virtual;
use crate::gate::Priority;
use crate::tick::Tick;

/// A waiter, and after that the slot it got: one key for both. A key that is over names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// A small number that no other living key has: below the most slots and waiters there ever were at once.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Where one stands in its tenant's line: when its exchange first asked, and a number that no other has.
pub(super) type Place = (Tick, u64);

/// Whose slot time it is.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub tenant: Arc<str>,
    pub route: Arc<str>,
    /// Of both names.
    pub hash: u64,
}

/// One that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub flow: u32,
    pub account: Account,
    pub weight: u32,
    pub priority: Priority,
    pub place: Place,
    pub queued_at: Tick,
    /// When it is refused if it still waits.
    pub by: Tick,
    /// Whether that is for its deadline's sake.
    pub by_deadline: bool,
    pub bytes: usize,
    /// Its neighbours among its tenant's waiters of its importance by age.
    pub older: Option<Key>,
    pub newer: Option<Key>,
}

/// One that holds a slot.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub flow: u32,
    pub account: Account,
    pub weight: u32,
    pub granted_at: Tick,
    /// Slot time it is thought to use, in nanoseconds: what its tenant was charged for.
    pub charged: u64,
    /// What its tenant really paid for that: less where it already owes as much as one may.
    pub paid: Virtual,
    /// Slot time that the account shows so far, in nanoseconds.
    pub accounted: u64,
}

impl Holder {
    /// One that was charged nothing yet.
    pub fn new(flow: u32, account: Account, weight: u32, granted_at: Tick) -> Holder {
        Holder { flow, account, weight, granted_at, charged: 0, paid: 0, accounted: 0 }
    }

    /// When it has used what it was charged.
    pub fn outruns_at(&self) -> Tick {
        self.granted_at.after(Duration::from_nanos(self.charged))
    }
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Free,
    Waiting(Waiter),
    Holding(Holder),
}

/// The waiters of one tenant and importance by age: the ends of a list that runs through their entries. Retries have an old place
/// and a young age, so that a tenant's line does not tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ages {
    pub oldest: Option<Key>,
    pub newest: Option<Key>,
}

/// A slab of entries, as long as it ever had to be.
#[derive(Debug, Default)]
pub(super) struct Entries {
    entries: Vec<(u32, State)>,
    free: Vec<u32>,
    /// Free once the operation is over.
    ended: Vec<u32>,
}

impl Entries {
    pub fn add(&mut self, state: State) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, State::Free));
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.1 = state;
        Key { index, generation: entry.0 }
    }

    pub fn get(&self, key: Key) -> Option<&State> {
        self.entries.get(key.index()).filter(|entry| entry.0 == key.generation).map(|entry| &entry.1)
    }

    /// The waiter under its key has become a holder.
    pub fn grant(&mut self, key: Key, holder: Holder) {
        self.entries[key.index()].1 = State::Holding(holder);
    }

    /// What was under a key that is to be granted or ended next.
    pub fn take_waiter(&mut self, key: Key, ages: &mut Ages) -> Waiter {
        self.unlink(key, ages);
        match std::mem::replace(&mut self.entries[key.index()].1, State::Free) {
            State::Waiting(waiter) => waiter,
            State::Holding(_) | State::Free => unreachable!("its neighbours knew it as a waiter"),
        }
    }

    /// What was under a key that is to be ended next.
    pub fn take_holder(&mut self, key: Key) -> Holder {
        match std::mem::replace(&mut self.entries[key.index()].1, State::Free) {
            State::Holding(holder) => holder,
            State::Waiting(_) | State::Free => unreachable!("it was looked at before"),
        }
    }

    /// Ends a key. Its index is not another's before [`Entries::recycle`]: whoever files things by it may hear of the end
    /// and of a new key in one operation, in any order.
    pub fn end(&mut self, key: Key) {
        let entry = &mut self.entries[key.index()];
        *entry = (entry.0.wrapping_add(1), State::Free);
        self.ended.push(key.index);
    }

    /// An operation begins: what ended in the last one is free.
    pub fn recycle(&mut self) {
        self.free.append(&mut self.ended);
    }

    /// The waiter under a key that the caller's own lists hold.
    pub fn waiter(&self, key: Key) -> &Waiter {
        match self.get(key) {
            Some(State::Waiting(waiter)) => waiter,
            _ => unreachable!("a line holds waiters alone"),
        }
    }

    fn waiter_mut(&mut self, key: Key) -> &mut Waiter {
        match &mut self.entries[key.index()] {
            (generation, State::Waiting(waiter)) if *generation == key.generation => waiter,
            _ => unreachable!("a line holds waiters alone"),
        }
    }

    /// The holder under a key that the caller's own lists hold.
    pub fn holder_mut(&mut self, key: Key) -> &mut Holder {
        match &mut self.entries[key.index()] {
            (generation, State::Holding(holder)) if *generation == key.generation => holder,
            _ => unreachable!("a slot's charge is looked at only while it is held"),
        }
    }

    /// The youngest of its tenant and importance has come.
    pub fn link(&mut self, key: Key, ages: &mut Ages) {
        self.waiter_mut(key).older = ages.newest;
        match ages.newest {
            Some(older) => self.waiter_mut(older).newer = Some(key),
            None => ages.oldest = Some(key),
        }
        ages.newest = Some(key);
    }

    fn unlink(&mut self, key: Key, ages: &mut Ages) {
        let (older, newer) = (self.waiter(key).older, self.waiter(key).newer);
        match older {
            Some(older) => self.waiter_mut(older).newer = newer,
            None => ages.oldest = newer,
        }
        match newer {
            Some(newer) => self.waiter_mut(newer).older = older,
            None => ages.newest = older,
        }
    }

    /// Entries there ever were at once, and entries in use.
    #[cfg(test)]
    pub fn sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.entries.len() - self.free.len() - self.ended.len())
    }
}
