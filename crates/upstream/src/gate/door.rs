//! A core's door to the gate: how its calls take slots and give them back.
//!
//! A slot belongs to one try. It is given back when the upstream has finished; a body whose reader is slow, or that is a long
//! stream, *lends* its slot, and the core's sweep takes it back after a while, though the body goes on: from there on
//! it counts against the tenant's concurrency alone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_model::gate::adaptive::Window;
use tidegate_model::gate::fair::{Ask, Asked, Key, Outcome, Who};
use tidegate_model::gate::{Priority, Reason, Refused};
use tidegate_model::limit::spread;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tenant::Tenant;
use tidegate_model::tick::Tick;
use tidegate_wire::clock;

use super::Gate;

/// How long a body holds a slot at most.
const LENT_MAX: Duration = Duration::from_secs(5);
/// The same, where all that is left fits into what sockets buffer: the upstream has finished, and the reader is slow.
const LENT_SHORT_MAX: Duration = Duration::from_secs(1);
/// What sockets buffer at least.
const BUFFERED: u64 = 64 * 1024;

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
}

/// The slots of bodies under way, each until when it is lent, at the places that the bodies know.
#[derive(Debug, Default)]
struct Lending {
    places: Vec<(Tick, Option<Slot>)>,
    free: Vec<usize>,
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
    Free { tenant: Arc<Tenant>, route: Arc<str>, since: Tick },
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
            let way = Way::Free { tenant: Arc::clone(tenant), route: Arc::clone(route), since: now };
            Slot(Some(Taken { door: Rc::clone(self), way }))
        })
    }

    /// A slot, after waiting for it if need be; and how long that took.
    pub(crate) async fn enter(self: &Rc<Door>, want: &Want<'_>) -> (Result<Slot, Refusal>, Duration) {
        let since = clock::now();
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
        let slot = self.slot(key);
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
            Outcome::Refused(refused) => Err(refuse(refused)),
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
        let over: Vec<Slot> = {
            let mut lent = self.lent.borrow_mut();
            let over = lent.places.iter_mut().filter(|(until, _)| *until <= now);
            over.filter_map(|(_, slot)| slot.take()).collect()
        };
        drop(over);
        self.gate.watch(name, now);
    }
}

impl Slot {
    /// Lends it to a body of which so much is left, if that is known. `None`: there is none to lend.
    pub(crate) fn lend(self, left: Option<u64>, now: Tick) -> Option<Lent> {
        let door = Rc::clone(&self.0.as_ref()?.door);
        let short = left.is_some_and(|left| left <= BUFFERED);
        let until = now.after(if short { LENT_SHORT_MAX } else { LENT_MAX });
        let mut lent = door.lent.borrow_mut();
        let place = match lent.free.pop() {
            Some(place) => {
                lent.places[place] = (until, Some(self));
                place
            }
            None => {
                lent.places.push((until, Some(self)));
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
            Way::Free { tenant, route, since } => {
                let now = clock::now();
                let who = who(&tenant, &route);
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

impl Drop for Lent {
    fn drop(&mut self) {
        let slot = {
            let mut lent = self.door.lent.borrow_mut();
            lent.free.push(self.place);
            lent.places[self.place].1.take()
        };
        drop(slot);
    }
}

fn who<'a>(tenant: &'a Tenant, route: &'a Arc<str>) -> Who<'a> {
    Who { tenant: tenant.payer(), route, weight: tenant.with_plan(|plan| plan.weight) }
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
    // What the list expects is jittered already, by a part of itself: told in whole seconds, little of that would be left.
    let chance = tidegate_model::balance::mix(retry_after.as_nanos() as u64);
    refusal.retry_after(spread(retry_after.max(Duration::from_secs(1)), chance))
}
