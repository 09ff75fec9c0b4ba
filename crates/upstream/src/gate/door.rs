//! A core's door to the gate: how its calls take slots and give them back.
//!
//! A slot belongs to one try. It is given back when the upstream has finished. A body under way has its slot *lent*: once it
//! is its reader that is slow, or the body is a long stream, the slot is taken back though the body goes on, which counts
//! against the tenant's concurrency alone from there on. That is looked at once a second, and before anybody waits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_model::gate::adaptive::Window;
use tidegate_model::gate::fair::{Ask, Asked, Key, Outcome};
use tidegate_model::gate::{Priority, Reason, Refused};
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tenant::Tenant;
use tidegate_model::tick::Tick;
use tidegate_wire::clock;

use super::Gate;
use super::payer::{Payer, Payers, who};

/// How long a body holds a slot at most.
const LENT_MAX: Duration = Duration::from_secs(5);
/// How long it holds one while its reader takes nothing of it.
const UNREAD_MAX: Duration = Duration::from_millis(100);
/// How often lent slots are looked at before somebody waits.
const LOOKED_EVERY: Duration = Duration::from_millis(10);

/// Samples are gathered for so long, or until they are so many.
const GATHERED_FOR: Duration = Duration::from_millis(20);
const GATHERED_MAX: u32 = 64;

/// Who wants a slot, and how much.
pub(crate) struct Want<'a> {
    pub tenant: &'a Arc<Tenant>,
    pub route: &'a Arc<str>,
    pub priority: Priority,
    /// When its exchange first came to this gate.
    pub asked_at: Tick,
    pub deadline: Tick,
    /// How long the upstream is expected to take.
    pub service: Duration,
    /// What the request holds while it waits.
    pub bytes: usize,
}

/// One core's door to a gate.
#[derive(Debug)]
pub(crate) struct Door {
    gate: Arc<Gate>,
    /// Samples since they were last handed on, and when that was.
    samples: Cell<Window>,
    handed_at: Cell<Tick>,
    lent: RefCell<Lending>,
    looked_at: Cell<Tick>,
    payers: Payers,
}

/// The slots of bodies under way, at the places that the bodies know.
#[derive(Debug, Default)]
struct Lending {
    places: Vec<Place>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Place {
    slot: Option<Slot>,
    /// Until when it is lent at most.
    until: Tick,
    /// Since when its reader is waited for; `None`: the upstream is.
    unread_since: Option<Tick>,
}

impl Place {
    fn is_over(&self, now: Tick) -> bool {
        self.until <= now || self.unread_since.is_some_and(|since| since.after(UNREAD_MAX) <= now)
    }
}

/// One unit of an upstream's concurrency. Empty where it is not limited.
#[derive(Debug, Default)]
pub(crate) struct Slot(Option<Taken>);

#[derive(Debug)]
struct Taken {
    door: Rc<Door>,
    way: Way,
}

/// How a slot was had.
#[derive(Debug)]
enum Way {
    /// While nobody waited. Whose it is is told only if somebody waits by the end.
    Free { payer: Rc<Payer>, since: Tick },
    /// Through the list.
    Line(Key),
}

impl Door {
    pub(crate) fn new(gate: &Arc<Gate>) -> Door {
        Door {
            gate: Arc::clone(gate),
            samples: Cell::default(),
            handed_at: Cell::new(Tick(0)),
            lent: RefCell::default(),
            looked_at: Cell::new(Tick(0)),
            payers: Payers::default(),
        }
    }

    /// A slot, if one is free and nobody waits for it.
    pub(crate) fn try_enter(
        self: &Rc<Door>,
        limited: bool,
        tenant: &Arc<Tenant>,
        route: &Arc<str>,
        now: Tick,
    ) -> Option<Slot> {
        if !limited {
            return Some(Slot(None));
        }
        self.gate.slots.try_enter().then(|| {
            let way = Way::Free { payer: self.payers.find(tenant, route), since: now };
            Slot(Some(Taken { door: Rc::clone(self), way }))
        })
    }

    /// A slot, after waiting for it if need be; and how long that took.
    pub(crate) async fn enter(self: &Rc<Door>, want: &Want<'_>) -> (Result<Slot, Refusal>, Duration) {
        let since = clock::now();
        if self.looked_at.get().after(LOOKED_EVERY) <= since {
            self.take_back(since);
        }
        let ask = Ask {
            who: who(want.tenant, want.route),
            priority: want.priority,
            asked_at: want.asked_at,
            deadline: want.deadline,
            service: want.service,
            bytes: want.bytes,
        };
        let (asked, mut heard) = self.gate.ask(&ask, since);
        let (key, mut by) = match asked {
            Asked::Entered(key) => return (Ok(self.slot(key)), Duration::ZERO),
            Asked::Refused(refused) => return (Err(refuse(refused)), Duration::ZERO),
            Asked::Queued { key, by } => (key, by),
        };
        // Dropped in the middle of waiting it gives back its place, or the slot that it was given just then.
        let mut slot = self.slot(key);
        let outcome = loop {
            match clock::timeout_at(by, &mut heard).await {
                Ok(Ok(outcome)) => break outcome,
                Ok(Err(_)) => unreachable!("a waiter's teller stays until it has told"),
                Err(_) => {
                    self.gate.expire();
                    // It has been told by now, unless the timer rang too early.
                    by = clock::now().after(Duration::from_millis(1));
                }
            }
        };
        let result = match outcome {
            Outcome::Entered => Ok(slot),
            Outcome::Refused(refused) => {
                // Its key is over: there is nothing to give back.
                slot.0 = None;
                Err(refuse(refused))
            }
        };
        (result, clock::now().since(since))
    }

    fn slot(self: &Rc<Door>, key: Key) -> Slot {
        Slot(Some(Taken { door: Rc::clone(self), way: Way::Line(key) }))
    }

    /// How many slots are in use, if the limit wants to know.
    pub(crate) fn at_once(&self) -> Option<usize> {
        self.gate.adapts.load(Relaxed).then(|| self.gate.in_use())
    }

    /// A try took so long while so many were under way; served, or not for want of strength.
    pub(crate) fn sample(&self, at_once: usize, latency: Duration, served: bool, now: Tick) {
        let mut samples = self.samples.get();
        match served {
            true => samples.served(latency, at_once),
            false => samples.dropped(latency, at_once),
        }
        let ripe = samples.samples() >= GATHERED_MAX || now.since(self.handed_at.get()) >= GATHERED_FOR;
        if ripe {
            self.handed_at.set(now);
            self.gate.learn(&std::mem::take(&mut samples), now);
        }
        self.samples.set(samples);
    }

    /// Takes back slots that bodies have had for long enough, and looks who saturates the gate.
    pub(crate) fn sweep(&self, name: &str, now: Tick) {
        self.take_back(now);
        self.gate.watch(name, now);
    }

    fn take_back(&self, now: Tick) {
        self.looked_at.set(now);
        let over: Vec<Slot> = {
            let mut lent = self.lent.borrow_mut();
            let over = lent.places.iter_mut().filter(|place| place.is_over(now));
            over.filter_map(|place| place.slot.take()).collect()
        };
        drop(over);
    }
}

impl Slot {
    /// Lends it to a body. `None`: there is none to lend.
    pub(crate) fn lend(self, now: Tick) -> Option<Lent> {
        let door = Rc::clone(&self.0.as_ref()?.door);
        let held = Place { slot: Some(self), until: now.after(LENT_MAX), unread_since: Some(now) };
        let mut lent = door.lent.borrow_mut();
        let place = match lent.free.pop() {
            Some(place) => {
                lent.places[place] = held;
                place
            }
            None => {
                lent.places.push(held);
                lent.places.len() - 1
            }
        };
        drop(lent);
        Some(Lent { door, place })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(Taken { door, way }) = self.0.take() else { return };
        match way {
            Way::Line(key) => door.gate.cancel(key),
            Way::Free { .. } if door.gate.slots.try_leave() => {}
            Way::Free { payer, since } => {
                let now = clock::now();
                let who = payer.who();
                door.gate.with(|line| line.fair.leave_unkeyed(who, now.since(since), now, &mut line.woken));
            }
        }
    }
}

/// A slot that a body holds, for a while.
#[derive(Debug)]
pub(crate) struct Lent {
    door: Rc<Door>,
    place: usize,
}

impl Lent {
    /// From now on, its reader is waited for, or (`None`) the upstream.
    pub(crate) fn waits_for_reader(&self, since: Option<Tick>) {
        self.door.lent.borrow_mut().places[self.place].unread_since = since;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let slot = {
            let mut lent = self.door.lent.borrow_mut();
            lent.free.push(self.place);
            lent.places[self.place].slot.take()
        };
        drop(slot);
    }
}

fn refuse(refused: Refused) -> Refusal {
    let Refused { reason, retry_after } = refused;
    let refusal = match reason {
        Reason::Deadline => Refusal::new(&refusal::DEADLINE_UNREACHABLE, reason.to_string()),
        _ => Refusal::new(
            &refusal::UPSTREAM_SATURATED,
            format!("the upstream is as busy as it may be and {reason}"),
        ),
    };
    refusal.retry_after(retry_after)
}
