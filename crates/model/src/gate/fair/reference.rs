//! The waiting list as simply as it can be told: no indexes, every question asked of everybody. What
//! [`Fair`](super::Fair) answers must be the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Terms;
use super::flow::{DEBT_MAX, Virtual, virtual_of};
use crate::gate::codel::{self, Codel};
use crate::gate::{Priority, Reason};
use crate::tick::{Tick, nanos};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Entered,
    Queued,
    Refused(Reason),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub number: u64,
    pub tenant: u8,
    pub weight: u32,
    pub priority: Priority,
    pub asked_at: Tick,
    pub deadline: Tick,
    pub service: Duration,
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    asking: Asking,
    queued_at: Tick,
}

#[derive(Clone, Copy, Debug)]
struct Holding {
    asking: Asking,
    granted_at: Tick,
    charged: u64,
    paid: Virtual,
}

#[derive(Clone, Copy, Debug)]
struct Tenant {
    virtual_time: Virtual,
    credit: Virtual,
    floor: Virtual,
    weight: u32,
    estimate: u64,
    cold: bool,
    turn: u64,
    codel: [Codel; 3],
}

impl Tenant {
    fn lift(&mut self, reached: Virtual) {
        self.virtual_time = reached.max(self.virtual_time - self.credit);
        self.credit = 0;
        self.floor = self.floor.min(self.virtual_time);
    }
}

#[derive(Debug)]
pub(super) struct Naive {
    terms: Terms,
    limit: usize,
    pub in_use: usize,
    now: Tick,
    waiting: Vec<Waiting>,
    holding: Vec<Holding>,
    tenants: BTreeMap<u8, Tenant>,
    reached: Virtual,
    turn: u64,
    contended_since: Option<Tick>,
    typical: Option<u64>,
    pub told: Vec<(u64, Told)>,
}

impl Naive {
    pub fn new(terms: Terms, limit: usize) -> Naive {
        Naive {
            terms,
            limit,
            in_use: 0,
            now: Tick(0),
            waiting: Vec::new(),
            holding: Vec::new(),
            tenants: BTreeMap::new(),
            reached: 0,
            turn: 0,
            contended_since: None,
            typical: None,
            told: Vec::new(),
        }
    }

    pub fn ask(&mut self, asking: Asking, now: Tick) -> Told {
        self.begin(now);
        let reached = self.virtual_time();
        self.turn += 1;
        let idle = self.of(asking.tenant).next().is_none();
        let (turn, fresh) = (self.turn, self.fresh(asking.service));
        let tenant = self.tenants.entry(asking.tenant).or_insert(fresh);
        tenant.weight = asking.weight;
        if idle {
            tenant.lift(reached);
            (tenant.floor, tenant.turn) = (reached, turn);
        }
        let told = if asking.deadline.0 <= self.now.0 + nanos(asking.service) {
            Told::Refused(Reason::Deadline)
        } else if self.in_use < self.limit {
            self.hold(asking);
            Told::Entered
        } else if let Err(reason) = self.hope(&asking).and_then(|()| self.make_room(&asking)) {
            Told::Refused(reason)
        } else {
            self.waiting.push(Waiting { asking, queued_at: self.now });
            self.judge(asking.tenant);
            Told::Queued
        };
        self.finish();
        told
    }

    pub fn leave(&mut self, number: u64, used: Duration, now: Tick) {
        self.begin(now);
        self.release(number, used);
        self.finish();
    }

    pub fn leave_unkeyed(&mut self, asking: &Asking, used: Duration, now: Tick) {
        self.begin(now);
        self.in_use = self.in_use.saturating_sub(1);
        if let Some(since) = self.contended_since {
            let (reached, fresh) = (self.virtual_time(), self.fresh(used));
            let idle = self.of(asking.tenant).next().is_none();
            let tenant = self.tenants.entry(asking.tenant).or_insert(fresh);
            if idle {
                tenant.lift(reached);
            }
            learn(tenant, &mut self.typical, used);
            let charged = nanos(used.min(self.now.since(since)));
            self.charge(asking.tenant, virtual_of(charged.into(), asking.weight), asking.weight);
        }
        self.finish();
    }

    pub fn cancel(&mut self, number: u64, now: Tick) {
        self.begin(now);
        self.waiting.retain(|waiter| waiter.asking.number != number);
        if let Some(holder) = self.holding.iter().find(|holder| holder.asking.number == number) {
            let used = self.now.since(holder.granted_at);
            self.release(number, used);
        }
        self.finish();
    }

    pub fn set_limit(&mut self, limit: usize, now: Tick) {
        self.begin(now);
        self.limit = limit;
        self.finish();
    }

    pub fn expire(&mut self, now: Tick) {
        self.begin(now);
        self.finish();
    }

    fn begin(&mut self, now: Tick) {
        if self.waiting.is_empty() {
            self.reached += virtual_of(now.since(self.now).as_nanos() * self.limit as u128, 1);
        } else {
            let wants = |number: &u8| {
                self.of(*number).next().is_some()
                    || self.holding.iter().any(|holder| holder.asking.tenant == *number)
            };
            let active = self.tenants.iter().filter(|tenant| wants(tenant.0)).map(|tenant| tenant.1.weight);
            let active: u128 = active.map(u128::from).sum();
            let shared = virtual_of(now.since(self.now).as_nanos() * self.holding.len() as u128, 1);
            self.reached += shared / (2 * active.max(1));
        }
        self.now = now;
        let mut outrun: Vec<Holding> = self.holding.clone();
        outrun.retain(|holder| holder.granted_at.after(Duration::from_nanos(holder.charged)) <= now);
        outrun.sort_by_key(|holder| holder.granted_at.after(Duration::from_nanos(holder.charged)));
        for holder in outrun {
            self.charge_up_to(holder.asking.number, nanos(now.since(holder.granted_at)) * 3 / 2);
        }
        let mut late: Vec<(Tick, u64, Reason)> = Vec::new();
        for Waiting { asking, queued_at } in &self.waiting {
            let (wait, doomed) =
                (queued_at.after(self.terms.wait), Tick(asking.deadline.0 - nanos(asking.service)));
            let reason = if doomed < wait { Reason::Deadline } else { Reason::Wait };
            late.push((wait.min(doomed), asking.number, reason));
        }
        late.retain(|&(by, ..)| by <= now);
        for (_, number, reason) in late {
            self.refuse(number, reason);
        }
    }

    fn finish(&mut self) {
        while self.in_use < self.limit && !self.waiting.is_empty() {
            let next = self.tenants.iter().filter(|&(&tenant, _)| self.of(tenant).next().is_some());
            let holds = |number: &u8, weight: u32| {
                let slots = self.holding.iter().filter(|holder| holder.asking.tenant == *number).count();
                ((slots as u64) << 32) / u64::from(weight)
            };
            let next = next.min_by_key(|(number, t)| (t.virtual_time, holds(number, t.weight), t.turn));
            let (&tenant, next) = next.unwrap();
            self.reached = self.reached.max(next.virtual_time);
            self.turn += 1;
            self.tenants.get_mut(&tenant).unwrap().turn = self.turn;
            self.judge(tenant);
            let limit = self.terms_of(tenant).limit;
            for priority in Priority::ALL {
                while self.overloaded(tenant, priority) && self.of(tenant).count() > 1 {
                    let oldest =
                        self.of_class(tenant, priority).next().map(|one| (one.queued_at, one.asking.number));
                    let Some((queued_at, number)) = oldest else { break };
                    if self.now.since(queued_at) <= limit {
                        break;
                    }
                    self.refuse(number, Reason::Overloaded);
                }
            }
            let asking = self.in_order(tenant)[0];
            self.waiting.retain(|waiter| waiter.asking.number != asking.number);
            self.hold(asking);
            self.told.push((asking.number, Told::Entered));
        }
        for (&number, tenant) in &mut self.tenants {
            for priority in Priority::ALL {
                let here = |one: &Waiting| one.asking.tenant == number && one.asking.priority == priority;
                if !self.waiting.iter().any(here) {
                    tenant.codel[priority as usize].emptied();
                }
            }
        }
        self.contended_since = match self.waiting.is_empty() {
            true => None,
            false => Some(self.contended_since.unwrap_or(self.now)),
        };
        let reached = self.virtual_time();
        let (waiting, holding) = (&self.waiting, &self.holding);
        self.tenants.retain(|number, tenant| {
            waiting.iter().any(|waiter| waiter.asking.tenant == *number)
                || holding.iter().any(|holder| holder.asking.tenant == *number)
                || tenant.virtual_time > reached
        });
    }

    /// Whether it may be served in time, were those before it served as quickly as its tenant's share allows.
    fn hope(&self, asking: &Asking) -> Result<(), Reason> {
        let tenant = &self.tenants[&asking.tenant];
        let doomed = Tick(asking.deadline.0 - nanos(asking.service)).since(self.now);
        let overloaded = self.overloaded(asking.tenant, asking.priority);
        let before = self.of(asking.tenant).filter(|waiter| match overloaded {
            true => waiter.asking.priority > asking.priority,
            false => waiter.asking.priority >= asking.priority,
        });
        let before = before.count() as u128;
        let (mut weights, mut all) = (0, 0);
        for (number, other) in &self.tenants {
            let waiting = self.of(*number).count() as u128;
            weights += if waiting > 0 { u128::from(other.weight) } else { 0 };
            all += waiting * u128::from(other.estimate);
        }
        let own = before * u128::from(tenant.estimate) * weights / u128::from(tenant.weight);
        let least = own.min(all) / self.limit as u128;
        match before == 0 || asking.asked_at < self.now || least <= doomed.as_nanos() {
            true => Ok(()),
            false => Err(Reason::Deadline),
        }
    }

    fn make_room(&mut self, asking: &Asking) -> Result<(), Reason> {
        let own = self.of(asking.tenant).count() >= self.terms.tenant_waiters_max;
        // Whom it may displace, the first to go first.
        let mut victims: Vec<Asking> = Vec::new();
        let mut left = self.waiting.clone();
        let mut gone = |left: &mut Vec<Waiting>, victim: Asking| {
            left.retain(|waiter| waiter.asking.number != victim.number);
            victims.push(victim);
        };
        let overloaded = self.overloaded(asking.tenant, asking.priority);
        let mut equal = None;
        if own {
            let mut mine = self.in_order(asking.tenant);
            mine.retain(|mine| {
                mine.priority < asking.priority || overloaded && mine.priority == asking.priority
            });
            let victim = mine.last().ok_or(Reason::TenantFull)?;
            gone(&mut left, *victim);
        } else {
            let mut equals = self.waiting.clone();
            equals.retain(|waiter| waiter.asking.priority == asking.priority);
            let most = equals
                .iter()
                .map(|waiter| waiter.asking.tenant)
                .max_by_key(|t| (self.tail(*t, 0), self.tenants[t].turn));
            let wins = |most: u8| match most == asking.tenant {
                true => overloaded,
                false => self.asks_for(most, 0) > self.asks_for(asking.tenant, 1),
            };
            equal = most.filter(|&most| wins(most)).map(|most| {
                let mut line = self.in_order(most);
                line.retain(|one| one.priority == asking.priority);
                *line.last().unwrap()
            });
        }
        let fits = |left: &[Waiting]| {
            let bytes: usize = left.iter().map(|waiter| waiter.asking.bytes).sum();
            left.len() < self.terms.waiters_max && bytes + asking.bytes <= self.terms.bytes_max
        };
        while !fits(&left) {
            let less =
                left.iter().map(|waiter| waiter.asking.priority).min().filter(|&p| p < asking.priority);
            let Some(victim) = less.map(|less| self.worst(&left, less)).or_else(|| equal.take()) else {
                let bytes: usize = left.iter().map(|waiter| waiter.asking.bytes).sum();
                let full = bytes + asking.bytes <= self.terms.bytes_max;
                return Err(if full { Reason::Full } else { Reason::Bytes });
            };
            gone(&mut left, victim);
        }
        for victim in victims {
            self.refuse(victim.number, Reason::Displaced);
        }
        Ok(())
    }

    /// The last of this importance of the tenant most over its share, were those alone left.
    fn worst(&self, left: &[Waiting], priority: Priority) -> Asking {
        let tenants = left.iter().filter(|waiter| waiter.asking.priority == priority);
        let tail = |tenant: u8| {
            let state = &self.tenants[&tenant];
            let waiting = left.iter().filter(|waiter| waiter.asking.tenant == tenant).count() as u128;
            state.virtual_time + virtual_of(u128::from(state.estimate) * waiting, state.weight)
        };
        let most =
            tenants.map(|waiter| waiter.asking.tenant).max_by_key(|t| (tail(*t), self.tenants[t].turn));
        let mut line = self.in_order(most.unwrap());
        line.retain(|one| {
            one.priority == priority && left.iter().any(|left| left.asking.number == one.number)
        });
        *line.last().unwrap()
    }

    fn tail(&self, tenant: u8, more: usize) -> Virtual {
        let state = &self.tenants[&tenant];
        let waiting = (self.of(tenant).count() + more) as u128;
        state.virtual_time + virtual_of(u128::from(state.estimate) * waiting, state.weight)
    }

    fn asks_for(&self, tenant: u8, more: usize) -> Virtual {
        let behind = self.virtual_time().saturating_sub(self.tenants[&tenant].virtual_time);
        self.tail(tenant, more) + behind
    }

    /// A tenant's waiters as they are served.
    fn in_order(&self, tenant: u8) -> Vec<Asking> {
        let class = |priority| {
            let mut line: Vec<Asking> = self.of_class(tenant, priority).map(|waiter| waiter.asking).collect();
            line.sort_by_key(|one| (one.asked_at, one.number));
            if self.overloaded(tenant, priority) {
                line.reverse();
            }
            line
        };
        Priority::ALL.into_iter().rev().flat_map(class).collect()
    }

    fn of_class(&self, tenant: u8, priority: Priority) -> impl Iterator<Item = &Waiting> {
        self.of(tenant).filter(move |waiter| waiter.asking.priority == priority)
    }

    fn overloaded(&self, tenant: u8, priority: Priority) -> bool {
        self.tenants[&tenant].codel[priority as usize].is_overloaded()
    }

    fn of(&self, tenant: u8) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().filter(move |waiter| waiter.asking.tenant == tenant)
    }

    fn virtual_time(&self) -> Virtual {
        let waiting = self.waiting.iter().map(|waiter| self.tenants[&waiter.asking.tenant].virtual_time);
        waiting.min().unwrap_or(0).max(self.reached)
    }

    fn fresh(&self, estimate: Duration) -> Tenant {
        let virtual_time = self.virtual_time();
        let known = Some(nanos(estimate)).filter(|&known| known > 0).or(self.typical);
        Tenant {
            virtual_time,
            credit: 0,
            floor: virtual_time,
            weight: 1,
            estimate: known.unwrap_or(0).max(10_000),
            cold: known.is_none(),
            turn: 0,
            codel: Default::default(),
        }
    }

    fn terms_of(&self, tenant: u8) -> codel::Terms {
        codel::Terms::of(self.terms.wait, Duration::from_nanos(self.tenants[&tenant].estimate))
    }

    fn judge(&mut self, tenant: u8) {
        let (terms, now) = (self.terms_of(tenant), self.now);
        for priority in Priority::ALL {
            let oldest = self.of_class(tenant, priority).map(|waiter| now.since(waiter.queued_at)).max();
            let Some(oldest) = oldest else { continue };
            self.tenants.get_mut(&tenant).unwrap().codel[priority as usize].observe(&terms, oldest, now);
        }
    }

    fn refuse(&mut self, number: u64, reason: Reason) {
        let asking = self.waiting.iter().find(|waiter| waiter.asking.number == number).unwrap().asking;
        self.waiting.retain(|waiter| waiter.asking.number != number);
        if self.of_class(asking.tenant, asking.priority).next().is_none() {
            let tenant = self.tenants.get_mut(&asking.tenant).unwrap();
            tenant.codel[asking.priority as usize].emptied();
        }
        self.told.push((number, Told::Refused(reason)));
    }

    fn hold(&mut self, asking: Asking) {
        self.in_use += 1;
        self.holding.push(Holding { asking, granted_at: self.now, charged: 0, paid: 0 });
        self.charge_up_to(asking.number, self.tenants[&asking.tenant].estimate);
    }

    fn charge_up_to(&mut self, number: u64, charged: u64) {
        let at = self.holding.iter().position(|holder| holder.asking.number == number).unwrap();
        let Holding { asking, charged: before, .. } = self.holding[at];
        let cost = virtual_of(charged.into(), asking.weight) - virtual_of(before.into(), asking.weight);
        let paid = self.charge(asking.tenant, cost, asking.weight);
        self.holding[at].charged = charged;
        self.holding[at].paid += paid;
    }

    fn charge(&mut self, tenant: u8, cost: Virtual, weight: u32) -> Virtual {
        let most = self.virtual_time() + virtual_of(DEBT_MAX.as_nanos() * self.limit as u128, weight);
        let tenant = self.tenants.get_mut(&tenant).unwrap();
        let (before, credited) = (tenant.virtual_time, cost.min(tenant.credit));
        tenant.credit -= credited;
        tenant.virtual_time = before.max(most.min(before + cost - credited));
        tenant.virtual_time - before + credited
    }

    fn release(&mut self, number: u64, used: Duration) {
        let Some(at) = self.holding.iter().position(|holder| holder.asking.number == number) else { return };
        let Holding { asking, paid, .. } = self.holding.remove(at);
        self.in_use = self.in_use.saturating_sub(1);
        let idle = self.of(asking.tenant).next().is_none();
        let tenant = self.tenants.get_mut(&asking.tenant).unwrap();
        learn(tenant, &mut self.typical, used);
        let cost = virtual_of(nanos(used).into(), asking.weight);
        if cost >= paid {
            self.charge(asking.tenant, cost - paid, asking.weight);
        } else {
            tenant.credit = (tenant.virtual_time - tenant.floor).min(tenant.credit + paid - cost);
            if idle {
                tenant.lift(0);
            }
        }
    }
}

fn learn(tenant: &mut Tenant, typical: &mut Option<u64>, used: Duration) {
    let cold = std::mem::replace(&mut tenant.cold, false);
    tenant.estimate = if cold { nanos(used).max(10_000) } else { learnt(tenant.estimate, used) };
    *typical = Some(typical.map_or(nanos(used).max(10_000), |typical| learnt(typical, used)));
}

fn learnt(estimate: u64, used: Duration) -> u64 {
    (estimate - estimate / 8 + nanos(used).min(4 * estimate) / 8).max(10_000)
}
