//! The waiting list of a gate: weighted fair queueing over tenants, charged by the slot time that they really used.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng 1996) with as many servers as there are slots. A slot is charged what its
//! tenant's slots last took; charged again as often as it outruns that while it is held; and corrected to what it
//! really took when it is given back. So a tenant with ten times slower requests gets a tenth of their number, and one
//! whose requests hang cannot take slot after slot on an old estimate.
//!
//! Always holds:
//! - No slot is free while somebody waits.
//! - Who waits goes in by its tenant's turn (`flow`); within a tenant the more important first, then first come first
//!   served, or newest first while the tenant's line of that importance stands ([`codel`]).
//! - Waiters, waiters of a tenant and their bytes have maxima. A newcomer displaces the less important, of the tenant
//!   that asks for most over its share; of those as important as itself, one of a tenant that asks for more than its
//!   own; never one that is more important. None is refused for want of room while a less important one stays, unless
//!   its own tenant's maximum is what it meets.
//! - Memory is bounded by slots, waiters and `tenants_max`, whatever tenants there are.
//! - A key that is over does nothing.
//!
//! It wakes nobody and has no clock and no lock: [`Slots`](super::slots) says how the shell counts while nobody waits.
//! Each operation tells whom to wake. Time never runs backwards in it, whatever it is told.

mod entries;
mod episode;
mod flow;
mod shed;
mod slot;
mod usage;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use self::entries::{Account, Entries, Holder, State, Waiter};
use self::flow::{Flows, Seeded, virtual_of};
use self::usage::Usage;
use super::codel;
use super::{Priority, Reason, Refused};
use crate::balance::mix;
use crate::tick::{Tick, nanos};

pub use self::entries::Key;
pub use self::episode::Episode;
pub use self::usage::HALF_LIFE;

/// What the list holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Waiters in all.
    pub waiters_max: usize,
    /// Waiters of one tenant.
    pub tenant_waiters_max: usize,
    /// Bytes that waiters hold, in all.
    pub bytes_max: usize,
    /// How long one waits.
    pub wait: Duration,
    /// Tenants known by name; more share buckets.
    pub tenants_max: usize,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms {
            waiters_max: 1_000,
            tenant_waiters_max: 1_000,
            bytes_max: 64 << 20,
            wait: Duration::from_millis(200),
            tenants_max: 4_096,
        }
    }
}

/// On whose behalf, and by which route.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The tenant's id.
    pub tenant: &'a Arc<str>,
    /// The route's name.
    pub route: &'a Arc<str>,
    /// The tenant's share relative to others, at least 1.
    pub weight: u32,
}

/// One that wants a slot.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// On whose behalf.
    pub who: Who<'a>,
    /// How important it is.
    pub priority: Priority,
    /// When its exchange first asked: now, unless this is a retry, which stands where its exchange stood.
    pub asked_at: Tick,
    /// When its exchange must be answered.
    pub deadline: Tick,
    /// How long the upstream is expected to take: who could not be answered before the deadline is refused at once.
    pub service: Duration,
    /// Bytes it holds while it waits.
    pub bytes: usize,
}

/// What the list says to one that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It has a slot.
    Entered(Key),
    /// It waits, at most until then: [`Fair::expire`] is to be called at that time, if it was not woken before.
    Queued {
        /// Its key, now as a waiter and then as the holder of a slot.
        key: Key,
        /// When it waited long enough.
        by: Tick,
    },
    /// It has no slot and does not wait.
    Refused(Refused),
}

/// One that waits no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken {
    /// Its key.
    pub key: Key,
    /// What it has got. Refused: its key is over.
    pub outcome: Outcome,
}

/// What one that waited has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A slot.
    Entered,
    /// A refusal.
    Refused(Refused),
}

/// Who saturates the gate.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Whether somebody waits, pauses under a second aside.
    pub saturated: bool,
    /// The time of saturation: this one, or if it is not saturated the last one.
    pub episode: Option<Episode>,
    /// Slots.
    pub limit: usize,
    /// Slots in use, as far as the list knows: exact while somebody waits.
    pub in_use: usize,
    /// Waiters.
    pub waiting: usize,
    /// Bytes that they hold.
    pub bytes: usize,
    /// The heaviest users of slot time under saturation, the heaviest first: of late, or at the end of the last.
    pub shares: Vec<Share>,
}

/// One tenant's part on one route.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// The route's name.
    pub route: Arc<str>,
    /// Share of the slot time used of late ([`HALF_LIFE`]), 0 to 1.
    pub slot_time: f64,
    /// The tenant's waiters, on all routes.
    pub waiting: usize,
    /// Its requests that had to wait on this route, and those that were refused, in this time of saturation. Those from
    /// before it was among the heaviest are not counted.
    pub queued: u64,
    /// See `queued`.
    pub refused: u64,
}

/// The waiting list.
#[derive(Debug)]
pub struct Fair {
    terms: Terms,
    limit: usize,
    in_use: usize,
    /// The latest time it was told.
    now: Tick,
    entries: Entries,
    flows: Flows,
    /// Waiters by when they waited long enough.
    expiry: BTreeSet<(Tick, Key)>,
    /// Holders by when they have used what they were charged.
    outruns: BTreeSet<(Tick, Key)>,
    /// Waiters and their bytes, by [`Priority`].
    waiting: [usize; 3],
    bytes: [usize; 3],
    /// For places.
    next: u64,
    chance: u64,
    usage: Usage,
    contended_since: Option<Tick>,
    episode: Option<Episode>,
    refusals: [u64; 7],
}

impl Fair {
    /// An empty list before so many slots. The seed is for jitter, and for hashes that strangers cannot foresee.
    #[must_use]
    pub fn new(terms: Terms, limit: usize, seed: u64) -> Fair {
        Fair {
            terms,
            limit: limit.max(1),
            in_use: 0,
            now: Tick(0),
            entries: Entries::default(),
            flows: Flows::new(terms.tenants_max, Seeded(mix(seed))),
            expiry: BTreeSet::new(),
            outruns: BTreeSet::new(),
            waiting: [0; 3],
            bytes: [0; 3],
            next: 0,
            chance: seed,
            usage: Usage::default(),
            contended_since: None,
            episode: None,
            refusals: [0; 7],
        }
    }

    /// Asks for a slot.
    pub fn ask(&mut self, ask: &Ask<'_>, now: Tick, woken: &mut Vec<Woken>) -> Asked {
        self.begin(now, woken);
        let flow = self.flows.find(ask.who.tenant, ask.service);
        let asked = self.ask_for(flow, ask, woken);
        self.finish(woken);
        asked
    }

    fn ask_for(&mut self, flow: u32, ask: &Ask<'_>, woken: &mut Vec<Woken>) -> Asked {
        let account = self.account(ask.who);
        let weight = ask.who.weight.max(1);
        let doomed_at = Tick(ask.deadline.0.saturating_sub(nanos(ask.service)));
        self.flows.begin_turn(flow, weight);
        let reason = if doomed_at <= self.now {
            Reason::Deadline
        } else if self.in_use < self.limit {
            let holder = Holder::new(flow, account, weight, self.now);
            let key = self.entries.add(State::Holding(holder));
            self.hold(key);
            return Asked::Entered(key);
        } else if self.terms.wait.is_zero() {
            Reason::Wait
        } else if self.least_wait(flow, ask) > doomed_at.since(self.now) {
            Reason::Deadline
        } else {
            match self.make_room(flow, ask, woken) {
                Ok(()) => return self.queue(flow, account, ask, doomed_at),
                Err(reason) => reason,
            }
        };
        if reason != Reason::Deadline || self.in_use >= self.limit {
            self.saturated();
        }
        self.count_refusal(reason, &account);
        Asked::Refused(Refused { reason, retry_after: self.jittered(self.expected_wait(flow)) })
    }

    /// Gives back a slot that was used so long.
    pub fn leave(&mut self, key: Key, used: Duration, now: Tick, woken: &mut Vec<Woken>) {
        self.begin(now, woken);
        if matches!(self.entries.get(key), Some(State::Holding(_))) {
            self.release(key, nanos(used));
        }
        self.finish(woken);
    }

    /// Gives back a slot that was entered while nobody waited, so that it has no key. What it was used since somebody
    /// waits is charged.
    pub fn leave_unkeyed(&mut self, who: Who<'_>, used: Duration, now: Tick, woken: &mut Vec<Woken>) {
        self.begin(now, woken);
        self.in_use = self.in_use.saturating_sub(1);
        if let Some(since) = self.contended_since {
            let account = self.account(who);
            let charged = nanos(used.min(self.now.since(since)));
            let flow = self.flows.find(who.tenant, used);
            self.flows.lift_idle(flow);
            self.flows.learn(flow, nanos(used));
            let cost = virtual_of(charged.into(), who.weight);
            self.flows.charge(flow, cost, who.weight, self.limit);
            self.usage.add(&account, charged, self.now);
        }
        self.finish(woken);
    }

    /// The one under this key is gone: it waits no more, or gives its slot back if it has one.
    pub fn cancel(&mut self, key: Key, now: Tick, woken: &mut Vec<Woken>) {
        self.begin(now, woken);
        match self.entries.get(key) {
            Some(State::Waiting(_)) => {
                self.take_waiter(key);
                self.entries.end(key);
            }
            Some(State::Holding(holder)) => {
                let used = nanos(self.now.since(holder.granted_at));
                self.release(key, used);
            }
            Some(State::Free) | None => {}
        }
        self.finish(woken);
    }

    /// Refuses those who waited long enough.
    pub fn expire(&mut self, now: Tick, woken: &mut Vec<Woken>) {
        self.begin(now, woken);
        self.finish(woken);
    }

    /// Changes the number of slots; at least one. Those in use stay in use.
    pub fn set_limit(&mut self, limit: usize, now: Tick, woken: &mut Vec<Woken>) {
        self.begin(now, woken);
        self.limit = limit.max(1);
        self.finish(woken);
    }

    /// Changes the terms. Who waits already, waits on.
    pub fn set_terms(&mut self, terms: Terms) {
        self.terms = terms;
        self.flows.set_tenants_max(terms.tenants_max);
    }

    /// So many slots are in use, with and without a key: counted elsewhere while nobody waited.
    pub fn adopt(&mut self, in_use: usize) {
        debug_assert!(self.nobody_waits(), "while somebody waits, slots are counted here alone");
        self.in_use = in_use;
    }

    /// Slots in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// Slots.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Waiters.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.iter().sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn nobody_waits(&self) -> bool {
        self.waiting == [0; 3]
    }

    /// When [`Fair::expire`] is to be called next.
    #[must_use]
    pub fn expires_at(&self) -> Option<Tick> {
        self.expiry.first().map(|&(by, _)| by)
    }

    /// How much of its time the one has waited that is refused next, 0 to 1; 0: nobody waits.
    #[must_use]
    pub fn waited(&self, now: Tick) -> f64 {
        let Some(&(by, key)) = self.expiry.first() else { return 0.0 };
        let queued_at = self.entries.waiter(key).queued_at;
        let (waited, most) = (nanos(now.since(queued_at)), nanos(by.since(queued_at)));
        if waited < most { waited as f64 / most as f64 } else { 1.0 }
    }

    /// Refusals ever, by [`Reason`].
    #[must_use]
    pub fn refusals(&self) -> &[u64; 7] {
        &self.refusals
    }

    /// Whether somebody waits, pauses under a second aside.
    #[must_use]
    pub fn is_saturated(&self, now: Tick) -> bool {
        !self.nobody_waits() || self.episode.as_ref().is_some_and(|episode| !episode.is_over(now))
    }

    /// Who saturates it: at most the heaviest 64.
    pub fn picture(&mut self, now: Tick) -> Picture {
        let now = now.max(self.now);
        let saturated = self.is_saturated(now);
        // Afterwards who was heaviest stays so.
        let at = self.episode.as_ref().filter(|_| !saturated).map_or(now, |episode| episode.last);
        let flows = &self.flows;
        let shares = self.usage.heaviest(at).map(|(used, slot_time)| Share {
            tenant: Arc::clone(&used.account.tenant),
            route: Arc::clone(&used.account.route),
            slot_time,
            waiting: flows.waiting(&used.account.tenant),
            queued: used.queued,
            refused: used.refused,
        });
        Picture {
            shares: shares.collect(),
            saturated,
            episode: self.episode.clone(),
            limit: self.limit,
            in_use: self.in_use,
            waiting: self.waiting(),
            bytes: self.bytes.iter().sum(),
        }
    }

    /// What time has brought since the last operation.
    fn begin(&mut self, now: Tick, woken: &mut Vec<Woken>) {
        self.entries.recycle();
        let now = now.max(self.now);
        if self.nobody_waits() {
            self.flows.pass_idle(now.since(self.now).as_nanos() * self.limit as u128);
        } else {
            self.flows.pass_shared(now.since(self.now).as_nanos() * self.outruns.len() as u128);
            self.saturated_until(now);
        }
        self.now = now;
        self.charge_outruns();
        while let Some(&(_, key)) = self.expiry.first().filter(|&&(by, _)| by <= now) {
            let by_deadline = self.entries.waiter(key).by_deadline;
            self.refuse(key, if by_deadline { Reason::Deadline } else { Reason::Wait }, woken);
        }
    }

    /// Free slots go to those who wait; who owes nothing is forgotten.
    fn finish(&mut self, woken: &mut Vec<Woken>) {
        while self.in_use < self.limit {
            let Some(flow) = self.flows.take_turn() else { break };
            self.shed_stale(flow, woken);
            let key = self.flows[flow].first().expect("a flow has a turn while it has waiters");
            let Waiter { flow, account, weight, queued_at, .. } = self.take_waiter(key);
            if let Some(episode) = &mut self.episode {
                episode.waited_max = episode.waited_max.max(self.now.since(queued_at));
            }
            self.entries.grant(key, Holder::new(flow, account, weight, self.now));
            self.hold(key);
            woken.push(Woken { key, outcome: Outcome::Entered });
        }
        if self.nobody_waits() {
            self.contended_since = None;
        } else {
            self.contended_since.get_or_insert(self.now);
        }
        self.flows.forget();
    }

    /// Somebody found no slot: a time of saturation begins, or goes on.
    fn saturated(&mut self) {
        if !self.is_saturated(self.now) {
            self.episode = None;
            self.usage.count_anew();
        }
        self.episode.get_or_insert(Episode::new(self.now));
        self.saturated_until(self.now);
    }

    fn saturated_until(&mut self, now: Tick) {
        if let Some(episode) = &mut self.episode {
            episode.last = now;
        }
    }

    fn count_refusal(&mut self, reason: Reason, account: &Account) {
        self.refusals[reason.index()] += 1;
        if let Some(episode) = self.episode.as_mut().filter(|episode| !episode.is_over(self.now)) {
            episode.refused += 1;
        }
        self.usage.refused(account);
    }

    fn account(&self, who: Who<'_>) -> Account {
        let hash = self.flows.hash(who.tenant, who.route);
        Account { tenant: Arc::clone(who.tenant), route: Arc::clone(who.route), hash }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}
