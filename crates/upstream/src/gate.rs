//! The gate: an upstream's slots, and who waits for one.
//!
//! The decisions are the model's ([`tidegate_model::gate`]): here are the lock, the clock and the wakers around them.
//! While nobody waits, a slot costs one atomic to take and one to give back. Once somebody does, all goes through the
//! [`Line`] under its lock: the waiting list says who is next, and that one's task is woken.
//!
//! Always holds: a slot is given back once, by its drop; a waiter that is dropped, at whatever moment, gives back its place,
//! or the slot that it was just given. Nobody passes those who wait.

mod door;
mod payer;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_model::gate::Reason;
use tidegate_model::gate::adaptive::{Adaptive, Window};
use tidegate_model::gate::fair::{Ask, Asked, Fair, Key, Outcome, Terms, Woken};
use tidegate_model::gate::slots::{SLOTS_MAX, Slots};
use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::sync::oneshot;

pub(crate) use self::door::{Door, Lent, Slot, Want};
pub use self::verdict::Verdict;
use self::verdict::{Tell, Told};
use crate::settings::{Concurrency, WaitingSettings};

/// Tenants that the list knows by name; more share buckets.
const TENANTS_MAX: usize = 4_096;

/// The heaviest users that are shown.
const SHOWN_MAX: usize = 8;

/// The gate of one upstream.
#[derive(Debug)]
pub(crate) struct Gate {
    slots: Slots,
    line: Mutex<Line>,
    /// Copies of what the line counts, for whoever only looks.
    waiting: AtomicUsize,
    in_use: AtomicUsize,
    /// What finds the limit, if nobody has fixed it.
    adaptive: Mutex<Option<Adaptive>>,
    adapts: AtomicBool,
}

/// Who waits.
#[derive(Debug)]
struct Line {
    fair: Fair,
    /// How to tell each waiter, by the index of its key. Of one that is over nothing is told until the index is another's.
    tellers: Vec<Option<oneshot::Sender<Outcome>>>,
    woken: Vec<Woken>,
    told: Told,
}

/// A gate as an operator sees it.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct GateStatus {
    /// Slots; `None`: not limited.
    pub concurrency: Option<u32>,
    /// Whether that is found from what the upstream answers.
    pub adaptive: bool,
    /// Slots in use.
    pub in_use: usize,
    /// Requests waiting for a slot.
    pub waiting: usize,
    /// Bytes that they hold.
    pub waiting_bytes: usize,
    /// Refusals ever, by reason.
    pub gate_refused: BTreeMap<&'static str, u64>,
    /// For how long somebody has been waiting, pauses under a second aside; `None`: nobody waits.
    pub saturated_ms: Option<u64>,
    /// Who used most of the slot time under saturation, of late, or at the end of the last.
    pub heaviest: Vec<GateShare>,
    /// The saturation that lasts, or the last one; `None`: there was none.
    pub verdict: Option<Verdict>,
}

/// One tenant's part of an upstream's slot time, on one route.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(deny_unknown_fields)]
pub struct GateShare {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// The route's name.
    pub route: Arc<str>,
    /// Its share of the slot time used of late, 0 to 1.
    pub share: f64,
    /// The tenant's requests that wait, on all routes.
    pub waiting: usize,
    /// Its requests that had to wait, and its refusals, in this saturation and on this route.
    pub queued: u64,
    /// See `queued`.
    pub refused: u64,
}

impl Gate {
    pub(crate) fn new(concurrency: Option<Concurrency>, waiting: &WaitingSettings, now: Tick) -> Gate {
        let seed = RandomState::new().build_hasher().finish();
        let fair = Fair::new(terms(waiting), SLOTS_MAX, seed);
        let gate = Gate {
            slots: Slots::new(SLOTS_MAX),
            line: Mutex::new(Line { fair, tellers: Vec::new(), woken: Vec::new(), told: Told::default() }),
            waiting: AtomicUsize::new(0),
            in_use: AtomicUsize::new(0),
            adaptive: Mutex::default(),
            adapts: AtomicBool::new(false),
        };
        gate.resize(concurrency, waiting, now);
        gate
    }

    /// Changes limit and waiting list. Slots in use stay in use; those above a smaller limit are gone as they come back. Who
    /// waits gets those of a larger one. What was learnt of an adaptive limit stays.
    pub(crate) fn resize(&self, concurrency: Option<Concurrency>, waiting: &WaitingSettings, now: Tick) {
        let mut adaptive = self.adaptive.lock();
        let limit = match concurrency {
            None => SLOTS_MAX,
            Some(Concurrency::Fixed(limit)) => limit as usize,
            Some(Concurrency::Adaptive(terms)) => {
                let held = adaptive.get_or_insert_with(|| Adaptive::new(terms, now));
                held.set_terms(terms);
                held.limit() as usize
            }
        };
        if !matches!(concurrency, Some(Concurrency::Adaptive(_))) {
            *adaptive = None;
        }
        self.adapts.store(adaptive.is_some(), Relaxed);
        self.with(|line| line.fair.set_terms(terms(waiting)));
        self.set_limit(limit, now);
    }

    fn set_limit(&self, limit: usize, now: Tick) {
        self.with(|line| {
            self.slots.set_limit(limit.max(1));
            line.fair.set_limit(limit, now, &mut line.woken);
        });
    }

    /// One operation on the waiting list: nobody enters or leaves beside it, and all whom it concerns are told.
    fn with<T>(&self, operation: impl FnOnce(&mut Line) -> T) -> T {
        let mut line = self.line.lock();
        if let Some(in_use) = self.slots.close() {
            line.fair.adopt(in_use);
        }
        let result = operation(&mut line);
        let Line { fair, tellers, woken, .. } = &mut *line;
        for Woken { key, outcome } in woken.drain(..) {
            if let Some(teller) = tellers.get_mut(key.index()).and_then(Option::take) {
                // Who does not listen any more gives back what it got by its key.
                let _ = teller.send(outcome);
            }
        }
        self.in_use.store(fair.in_use(), Relaxed);
        self.waiting.store(fair.waiting(), Relaxed);
        if fair.nobody_waits() {
            self.slots.open(fair.in_use());
        }
        result
    }

    /// Asks the list. Who is to wait hears of it by the receiver.
    fn ask(&self, ask: &Ask<'_>, now: Tick) -> (Asked, oneshot::Receiver<Outcome>) {
        let (teller, heard) = oneshot::channel();
        let asked = self.with(|line| {
            let asked = line.fair.ask(ask, now, &mut line.woken);
            // Under the same lock: nobody wakes it before.
            if let Asked::Queued { key, .. } = asked {
                let index = key.index();
                let length = line.tellers.len().max(index + 1);
                line.tellers.resize_with(length, || None);
                line.tellers[index] = Some(teller);
            }
            asked
        });
        (asked, heard)
    }

    /// Refuses those who have waited long enough.
    fn expire(&self) {
        self.with(|line| line.fair.expire(clock::now(), &mut line.woken));
    }

    /// This one waits no more, or gives its slot back. A key that is over does nothing.
    fn cancel(&self, key: Key) {
        self.with(|line| line.fair.cancel(key, clock::now(), &mut line.woken));
    }

    /// Slots in use, as near as can be told without a lock.
    fn in_use(&self) -> usize {
        match self.waiting.load(Relaxed) {
            0 => self.slots.in_use(),
            _ => self.in_use.load(Relaxed),
        }
    }

    /// Goes on from an adaptive limit that another process has found. One that is a number stays.
    pub(crate) fn go_on_from(&self, limit: u32, now: Tick) {
        let mut adaptive = self.adaptive.lock();
        if let Some(held) = adaptive.as_mut() {
            held.go_on_from(limit);
            self.set_limit(held.limit() as usize, now);
        }
    }

    /// Takes a core's samples, and moves the limit by them.
    fn learn(&self, samples: &Window, now: Tick) {
        // Held while the limit moves: it is always the one that was found last.
        let mut adaptive = self.adaptive.lock();
        if let Some(limit) = adaptive.as_mut().and_then(|adaptive| adaptive.absorb(samples, now)) {
            self.set_limit(limit as usize, now);
        }
    }

    /// Tells the log who saturates it, once it lasts, and when that is over.
    fn watch(&self, name: &str, now: Tick) {
        let (tell, verdict) = {
            let mut line = self.line.lock();
            let saturated = line.fair.is_saturated(now);
            if !saturated && !line.told.is_open() {
                return;
            }
            let picture = line.fair.picture(now);
            let began = picture.episode.as_ref().filter(|_| saturated).map(|episode| episode.began);
            (line.told.look(began.map(|began| now.since(began)), now), Verdict::of(&picture, now))
        };
        let Some(told) = verdict else { return };
        let (tenant, route) = (told.tenant.as_deref(), told.route.as_deref());
        match tell {
            Tell::Nothing => {}
            Tell::Saturated => tracing::warn!(
                upstream = name,
                limit = self.slots.limit(),
                tenant,
                route,
                share = told.share,
                began = told.began,
                queued = told.queued,
                refused = told.refused,
                "{told}"
            ),
            Tell::Over => tracing::info!(upstream = name, tenant, route, share = told.share, "{told}"),
        }
    }

    /// How much of its time the one has waited that is refused next, 0 to 1; and refusals ever.
    pub(crate) fn strain(&self, now: Tick) -> (f64, u64) {
        let line = self.line.lock();
        (line.fair.waited(now), line.fair.refusals().iter().sum())
    }

    /// What an operator sees.
    pub(crate) fn status(&self, now: Tick) -> GateStatus {
        let mut line = self.line.lock();
        let picture = line.fair.picture(now);
        let in_use = if picture.waiting == 0 { self.slots.in_use() } else { picture.in_use };
        let refused = Reason::ALL.map(|reason| (reason.name(), line.fair.refusals()[reason.index()]));
        drop(line);
        let share = |share: tidegate_model::gate::fair::Share| GateShare {
            tenant: share.tenant,
            route: share.route,
            share: (share.slot_time * 1e3).round() / 1e3,
            waiting: share.waiting,
            queued: share.queued,
            refused: share.refused,
        };
        let (limit, verdict) = (self.slots.limit(), Verdict::of(&picture, now));
        GateStatus {
            concurrency: (limit < SLOTS_MAX).then(|| u32::try_from(limit).unwrap_or(u32::MAX)),
            adaptive: self.adapts.load(Relaxed),
            in_use,
            waiting: picture.waiting,
            waiting_bytes: picture.bytes,
            gate_refused: refused.into_iter().collect(),
            saturated_ms: verdict.as_ref().filter(|told| !told.over).map(|told| told.lasted_ms),
            verdict,
            heaviest: picture.shares.into_iter().take(SHOWN_MAX).map(share).collect(),
        }
    }
}

fn terms(waiting: &WaitingSettings) -> Terms {
    Terms {
        waiters_max: waiting.limit,
        tenant_waiters_max: waiting.tenant_limit.min(waiting.limit),
        bytes_max: waiting.bytes,
        wait: waiting.wait,
        tenants_max: TENANTS_MAX,
    }
}
