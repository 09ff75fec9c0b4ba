//! The slots of a gate while nobody waits: one atomic to enter, one to leave.
//!
//! One word holds how many slots there are and how many are in use. While somebody waits it is *closed*: nobody enters
//! or leaves by it, so its count stands still, and [`Fair`](super::fair::Fair) counts under the lock of whoever holds
//! it. Each operation on the waiting list goes the same way, and needs no other care:
//!
//! ```text
//! lock -> close, and tell Fair how many were in use -> ask, leave, cancel ... -> open, if nobody waits -> unlock
//! ```
//!
//! It always holds that nobody passes those who wait, and that no slot is lost or made between word and list. A hedge
//! enters by [`Slots::try_enter`] alone: it takes a slot that nobody wants, or none.
//!
//! It knows no tenants: what is used while nobody waits is nobody's loss, and is not charged.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most slots a gate may have.
pub const SLOTS_MAX: usize = (1 << 31) - 1;

const CLOSED: u64 = 1 << 63;
const IN_USE: u64 = (1 << 32) - 1;

/// Slots, and how many are in use: 1 bit closed, 31 bits slots, 32 bits in use.
#[derive(Debug)]
pub struct Slots(AtomicU64);

impl Slots {
    /// So many slots, none in use, open.
    #[must_use]
    pub fn new(limit: usize) -> Slots {
        Slots(AtomicU64::new(word(false, limit, 0)))
    }

    /// Takes a slot, if one is free and nobody waits.
    #[must_use]
    pub fn try_enter(&self) -> bool {
        let mut seen = self.0.load(Relaxed);
        loop {
            if seen & CLOSED != 0 || in_use(seen) >= limit(seen) {
                return false;
            }
            match self.0.compare_exchange_weak(seen, seen + 1, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Gives a slot back, unless somebody waits for it: then it goes to them, through the waiting list.
    #[must_use]
    pub fn try_leave(&self) -> bool {
        let mut seen = self.0.load(Relaxed);
        loop {
            if seen & CLOSED != 0 {
                return false;
            }
            debug_assert!(in_use(seen) > 0, "a slot is given back once");
            match self.0.compare_exchange_weak(seen, seen - 1, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
    }

    /// Nobody enters or leaves past the waiting list from here on. How many slots are in use; `None`: it was closed
    /// already, and the waiting list knows.
    #[must_use]
    pub fn close(&self) -> Option<usize> {
        let before = self.0.fetch_or(CLOSED, Relaxed);
        (before & CLOSED == 0).then(|| in_use(before))
    }

    /// Nobody waits any more, and so many slots are in use. Only whoever closed it may say so.
    pub fn open(&self, in_use: usize) {
        let _ = self.0.fetch_update(Relaxed, Relaxed, |seen| Some(word(false, limit(seen), in_use)));
    }

    /// Changes how many there are; at the same time as [`Fair::set_limit`](super::fair::Fair::set_limit), under the same lock.
    /// Those in use stay in use.
    pub fn set_limit(&self, limit: usize) {
        let _ =
            self.0.fetch_update(Relaxed, Relaxed, |seen| Some(word(seen & CLOSED != 0, limit, in_use(seen))));
    }

    /// How many there are.
    #[must_use]
    pub fn limit(&self) -> usize {
        limit(self.0.load(Relaxed))
    }

    /// How many are in use; while somebody waits, as many as there were when the first came.
    #[must_use]
    pub fn in_use(&self) -> usize {
        in_use(self.0.load(Relaxed))
    }
}

fn word(closed: bool, limit: usize, in_use: usize) -> u64 {
    let closed = if closed { CLOSED } else { 0 };
    closed | (limit.min(SLOTS_MAX) as u64) << 32 | (in_use as u64).min(IN_USE)
}

fn limit(word: u64) -> usize {
    ((word & !CLOSED) >> 32) as usize
}

fn in_use(word: u64) -> usize {
    (word & IN_USE) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Priority;
    use crate::gate::fair::{Ask, Asked, Fair, Outcome, Terms, Who, Woken};
    use crate::tick::Tick;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread::{self, Thread};
    use std::time::Duration;

    #[test]
    fn lets_in_as_many_as_there_are_slots() {
        let slots = Slots::new(2);
        assert_eq!([slots.try_enter(), slots.try_enter(), slots.try_enter()], [true, true, false]);
        assert!(slots.try_leave() && slots.try_enter());
        slots.set_limit(3);
        assert_eq!([slots.try_enter(), slots.try_enter()], [true, false]);
        assert_eq!((slots.limit(), slots.in_use()), (3, 3));
    }

    #[test]
    fn nobody_passes_while_it_is_closed() {
        let slots = Slots::new(2);
        assert!(slots.try_enter());
        assert_eq!((slots.close(), slots.close()), (Some(1), None));
        slots.set_limit(5);
        assert!(!slots.try_enter() && !slots.try_leave());
        slots.open(4);
        assert_eq!([slots.try_enter(), slots.try_enter()], [true, false]);
    }

    /// A thread that waits, and what it is told.
    type Waker = (Thread, Arc<AtomicUsize>);

    /// What the shell does, with threads for tasks.
    struct Gate {
        slots: Slots,
        list: Mutex<(Fair, Vec<Option<Waker>>)>,
        clock: AtomicU64,
    }

    const WAITS: usize = 0;
    const ENTERED: usize = 1;
    const REFUSED: usize = 2;

    impl Gate {
        fn with<T>(&self, operation: impl FnOnce(&mut Fair, Tick, &mut Vec<Woken>) -> T) -> T {
            let mut list = self.list.lock();
            let (fair, wakers) = &mut *list;
            if let Some(in_use) = self.slots.close() {
                fair.adopt(in_use);
            }
            let mut woken = Vec::new();
            let result = operation(fair, Tick(self.clock.fetch_add(1_000, Relaxed)), &mut woken);
            for Woken { key, outcome } in woken {
                let (thread, told) = wakers[key.index()].take().expect("it waits");
                told.store(if outcome == Outcome::Entered { ENTERED } else { REFUSED }, Relaxed);
                thread.unpark();
            }
            if fair.nobody_waits() {
                self.slots.open(fair.in_use());
            }
            result
        }

        fn pass(&self, who: Who<'_>, inside: &AtomicUsize, most: &AtomicUsize) -> bool {
            let mut key = None;
            if !self.slots.try_enter() {
                let told = Arc::new(AtomicUsize::new(WAITS));
                let ask = Ask {
                    who,
                    priority: Priority::Default,
                    asked_at: Tick(0),
                    deadline: Tick::MAX,
                    service: Duration::from_micros(3),
                    bytes: 1,
                };
                // The waker is filed under the same lock: nobody is woken before.
                let asked = {
                    let told = Arc::clone(&told);
                    let mut list = self.list.lock();
                    let (fair, wakers) = &mut *list;
                    if let Some(in_use) = self.slots.close() {
                        fair.adopt(in_use);
                    }
                    let mut woken = Vec::new();
                    let asked = fair.ask(&ask, Tick(self.clock.fetch_add(1_000, Relaxed)), &mut woken);
                    assert!(woken.is_empty(), "nobody is displaced or late here");
                    if let Asked::Queued { key, .. } = asked {
                        let index = key.index();
                        wakers.resize_with(wakers.len().max(index + 1), || None);
                        wakers[index] = Some((thread::current(), told));
                    }
                    if fair.nobody_waits() {
                        self.slots.open(fair.in_use());
                    }
                    asked
                };
                key = match asked {
                    Asked::Entered(key) => Some(key),
                    Asked::Refused(_) => return false,
                    Asked::Queued { key, .. } => {
                        while told.load(Relaxed) == WAITS {
                            thread::park();
                        }
                        if told.load(Relaxed) == REFUSED {
                            return false;
                        }
                        Some(key)
                    }
                };
            }
            most.fetch_max(inside.fetch_add(1, Relaxed) + 1, Relaxed);
            thread::yield_now();
            inside.fetch_sub(1, Relaxed);
            let used = Duration::from_micros(3);
            match key {
                Some(key) => self.with(|fair, now, woken| fair.leave(key, used, now, woken)),
                None if self.slots.try_leave() => {}
                None => self.with(|fair, now, woken| fair.leave_unkeyed(who, used, now, woken)),
            }
            true
        }
    }

    #[test]
    fn word_and_list_neither_lose_nor_make_a_slot_between_threads() {
        let terms = Terms { wait: Duration::from_secs(3600), ..Terms::default() };
        let gate = Gate {
            slots: Slots::new(3),
            list: Mutex::new((Fair::new(terms, 3, 1), Vec::new())),
            clock: AtomicU64::new(1),
        };
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let passed: usize = thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|number| {
                    let (gate, inside, most) = (&gate, &inside, &most);
                    scope.spawn(move || {
                        let (tenant, route) = (Arc::from(format!("t{}", number % 3)), Arc::from("r"));
                        let who = Who { tenant: &tenant, route: &route, weight: 1 };
                        (0..300).filter(|_| gate.pass(who, inside, most)).count()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        assert_eq!(passed, 8 * 300);
        assert!(most.load(Relaxed) <= 3, "{most:?}");
        assert_eq!(gate.slots.close(), Some(0), "open, and all slots are back");
    }
}
