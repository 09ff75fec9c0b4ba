//! The tenants that wait, hold slots or owe: each with its virtual time, and in what order they come.
//!
//! A tenant's *virtual time* is the slot time that it was charged, over its weight. The list's virtual time is that of the
//! waiting tenant that comes next, and runs at least half as fast as if the tenants that want any shared the slots in use
//! exactly (generalised processor sharing): else a stream of new tenants, each beginning where the next one stands, would
//! hold it up, and with it all that came before; but not so fast as to overtake those whose charges are yet to be corrected.
//! While nobody waits, it runs as fast as all slots could serve one tenant of weight one. A tenant that begins to wait is
//! lifted to it: what was not asked for is no credit.
//!
//! A tenant is known only while it waits, holds a slot, or its virtual time lies ahead. Beyond `tenants_max` they share
//! [`BUCKETS`] by hash, each the emptier of two (shuffle sharding, as Kubernetes' API Priority and Fairness has it).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, DefaultHasher, Hasher};
use std::ops::Index;
use std::sync::Arc;
use std::time::Duration;

use super::entries::{Ages, Key, Place};
use crate::gate::Priority;
use crate::gate::codel::Codel;
use crate::tick::nanos;

/// Tenants that are too many to be known by name share so many flows.
pub(super) const BUCKETS: usize = 64;
/// A tenant that used more than its share is set back no further than this much time of all slots.
pub(super) const DEBT_MAX: Duration = Duration::from_secs(10);
/// The least that a slot is thought to be used, in nanoseconds.
const ESTIMATE_MIN: u64 = 10_000;
/// A sample counts for so many times the estimate at most.
const LEARNT_MAX: u64 = 4;
/// A new sample counts this part of a tenant's estimate.
const ESTIMATE_SHIFT: u32 = 3;

/// Slot time over weight, in 2^-32 nanoseconds: exact enough for any weight, and it never wraps.
pub(super) type Virtual = u128;

/// Who comes next: the least virtual time; of equals who holds fewest slots for its weight (so that who comes now and
/// then need not wait for one more of whoever has all of them), and of those the first to have begun to wait.
type Turn = (Virtual, u64, u64);

/// Slot time as virtual time.
pub(super) fn virtual_of(nanos: u128, weight: u32) -> Virtual {
    (nanos << 32) / u128::from(weight.max(1))
}

/// An estimate after a slot was used so long.
fn learnt(estimate: u64, used: u64) -> u64 {
    let used = used.min(estimate.saturating_mul(LEARNT_MAX));
    let kept = estimate - (estimate >> ESTIMATE_SHIFT);
    kept.saturating_add(used >> ESTIMATE_SHIFT).max(ESTIMATE_MIN)
}

/// A hasher that strangers cannot foresee.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeded(pub u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

#[derive(Debug)]
enum Home {
    Tenant(Arc<str>),
    Bucket(usize),
}

/// One tenant, or those that share a bucket.
#[derive(Debug)]
pub(super) struct Flow {
    home: Home,
    virtual_time: Virtual,
    /// What it paid too much: its next charges are paid of it. Its virtual time is not set back at once, else whoever
    /// has quick requests would step back before those who wait since, again and again.
    credit: Virtual,
    /// The list's virtual time when it began to wait: virtual time less credit is never before that.
    floor: Virtual,
    /// The weight it last asked with.
    pub weight: u32,
    /// What a slot of it is thought to be used, in nanoseconds.
    pub estimate: u64,
    /// Nothing was known of that when it came: the first sample is all there is.
    cold: bool,
    /// Slots it holds.
    pub holding: u32,
    /// Its waiters by [`Priority`].
    pub lines: [BTreeMap<Place, Key>; 3],
    /// The same by age.
    pub ages: [Ages; 3],
    /// Whether they stand. Each line is judged alone: that the less important wait for the more important is no overload of
    /// these.
    pub codel: [Codel; 3],
    /// When it began to wait or had its last turn, in the order of those that did.
    turn: u64,
    listed: Listed,
}

/// Where a flow stands in the indexes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Listed {
    turn: Option<Turn>,
    tails: [Option<(Virtual, u64)>; 3],
    debt: Option<Virtual>,
    /// Slot time that its waiters are thought to need, in nanoseconds.
    backlog: u128,
    weight: u64,
    /// Its weight as long as it waits or holds a slot.
    active: u64,
}

impl Flow {
    fn new(home: Home, virtual_time: Virtual, estimate: u64) -> Flow {
        Flow {
            home,
            virtual_time,
            credit: 0,
            floor: virtual_time,
            weight: 1,
            estimate: estimate.max(ESTIMATE_MIN),
            cold: estimate == 0,
            holding: 0,
            lines: Default::default(),
            ages: Default::default(),
            codel: Default::default(),
            turn: 0,
            listed: Listed::default(),
        }
    }

    pub fn waiting(&self) -> usize {
        self.lines.iter().map(BTreeMap::len).sum()
    }

    /// Whether its line of this importance stands.
    pub fn is_overloaded(&self, priority: Priority) -> bool {
        self.codel[priority as usize].is_overloaded()
    }

    /// The virtual time at which the last of so many waiters would have been served.
    fn tail_of(&self, waiting: usize) -> Virtual {
        self.virtual_time + virtual_of(u128::from(self.estimate) * waiting as u128, self.weight)
    }

    /// Whom it sends next: of the most important, the first to have asked, or the last while they are overloaded.
    pub fn first(&self) -> Option<Key> {
        let class = (0..self.lines.len()).rev().find(|&class| !self.lines[class].is_empty())?;
        let (line, newest_first) = (&self.lines[class], self.codel[class].is_overloaded());
        let end = if newest_first { line.last_key_value() } else { line.first_key_value() };
        end.map(|(_, &key)| key)
    }

    /// Whom it would send last among those of one importance.
    pub fn last(&self, priority: Priority) -> Option<Key> {
        let line = &self.lines[priority as usize];
        let newest_first = self.is_overloaded(priority);
        let end = if newest_first { line.first_key_value() } else { line.last_key_value() };
        end.map(|(_, &key)| key)
    }

    /// While it does not wait, its credit is no more than a smaller debt, and to begin at this virtual time no debt.
    pub fn lift(&mut self, reached: Virtual) {
        self.virtual_time = (self.virtual_time - self.credit).max(reached);
        (self.credit, self.floor) = (0, self.floor.min(self.virtual_time));
    }

    /// A slot of it was used so long. One that was used far longer than most counts for little: it was charged what it
    /// used, and those after it are not like it.
    fn learn(&mut self, used: u64) {
        let cold = std::mem::take(&mut self.cold);
        self.estimate = if cold { used.max(ESTIMATE_MIN) } else { learnt(self.estimate, used) };
    }

    fn listed_as(&self) -> Listed {
        let (waiting, weight) = (self.waiting(), u64::from(self.weight));
        if waiting == 0 {
            let debt = (self.holding == 0).then_some(self.virtual_time);
            let active = if self.holding == 0 { 0 } else { weight };
            return Listed { debt, active, ..Listed::default() };
        }
        let tail = (self.tail_of(waiting), self.turn);
        Listed {
            turn: Some((
                self.virtual_time,
                (u64::from(self.holding) << 32) / u64::from(self.weight),
                self.turn,
            )),
            tails: std::array::from_fn(|class| (!self.lines[class].is_empty()).then_some(tail)),
            debt: None,
            backlog: u128::from(self.estimate) * waiting as u128,
            weight,
            active: weight,
        }
    }
}

/// All flows, and their orders.
#[derive(Debug)]
pub(super) struct Flows {
    flows: Vec<Option<Flow>>,
    free: Vec<u32>,
    by_tenant: HashMap<Arc<str>, u32, Seeded>,
    buckets: Vec<Option<u32>>,
    tenants_max: usize,
    /// Those that wait, the next first.
    turns: BTreeSet<(Turn, u32)>,
    /// Those that have waiters of an importance, the one most over its share last.
    tails: [BTreeSet<(Virtual, u64, u32)>; 3],
    /// Those that are kept for what they owe.
    debts: BTreeSet<(Virtual, u32)>,
    /// What the virtual time has reached at least.
    reached: Virtual,
    /// What a slot is used by whoever comes, in nanoseconds, where nobody says better; `None`: none was given back yet.
    typical: Option<u64>,
    /// What all waiters are thought to need, in nanoseconds of slot time.
    backlog: u128,
    /// The weights of those that wait.
    weights: u64,
    /// The weights of those that wait or hold slots.
    active: u64,
    turn: u64,
}

impl Index<u32> for Flows {
    type Output = Flow;

    fn index(&self, index: u32) -> &Flow {
        self.flows[index as usize].as_ref().expect("a flow is known while an entry names it")
    }
}

impl Flows {
    pub fn new(tenants_max: usize, hasher: Seeded) -> Flows {
        Flows {
            flows: Vec::new(),
            free: Vec::new(),
            by_tenant: HashMap::with_hasher(hasher),
            buckets: Vec::new(),
            tenants_max,
            turns: BTreeSet::new(),
            tails: Default::default(),
            debts: BTreeSet::new(),
            reached: 0,
            typical: None,
            backlog: 0,
            weights: 0,
            active: 0,
            turn: 0,
        }
    }

    pub fn set_tenants_max(&mut self, max: usize) {
        self.tenants_max = max;
    }

    /// The list's virtual time.
    pub fn virtual_time(&self) -> Virtual {
        self.turns.first().map_or(self.reached, |&((next, ..), _)| next.max(self.reached))
    }

    /// Nobody waited while all slots together had so much time.
    pub fn pass_idle(&mut self, slot_nanos: u128) {
        self.reached += virtual_of(slot_nanos, 1);
    }

    /// Somebody waited while the slots in use had so much time.
    pub fn pass_shared(&mut self, slot_nanos: u128) {
        self.reached += virtual_of(slot_nanos, 1) / (2 * u128::from(self.active.max(1)));
    }

    /// What all waiters are thought to need, in nanoseconds of slot time; and the weights of their tenants.
    pub fn backlog(&self) -> (u128, u64) {
        (self.backlog, self.weights)
    }

    /// One more is asked for on behalf of a flow. If none of it waits, its turn comes now: time that it did not ask for is
    /// no credit.
    pub fn begin_turn(&mut self, index: u32, weight: u32) {
        let (reached, turn) = (self.virtual_time(), self.next_turn());
        self.change(index, |flow| {
            flow.weight = weight;
            if flow.waiting() == 0 {
                flow.lift(reached);
                (flow.floor, flow.turn) = (reached, turn);
            }
        });
    }

    /// A flow is charged without having asked: if it does not wait, that is debt from now on, and not of old.
    pub fn lift_idle(&mut self, index: u32) {
        let reached = self.virtual_time();
        self.change(index, |flow| {
            if flow.waiting() == 0 {
                flow.lift(reached);
            }
        });
    }

    /// The flow whose turn it is. The list's virtual time is never behind it again.
    pub fn take_turn(&mut self) -> Option<u32> {
        let &((virtual_time, ..), index) = self.turns.first()?;
        self.reached = self.reached.max(virtual_time);
        let turn = self.next_turn();
        self.change(index, |flow| flow.turn = turn);
        Some(index)
    }

    fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// The flow most over its share among those that have a waiter of this importance.
    pub fn most_over(&self, priority: Priority) -> Option<u32> {
        self.tails[priority as usize].last().map(|&(.., index)| index)
    }

    /// The flow of a tenant.
    pub fn find(&mut self, tenant: &Arc<str>, estimate: Duration) -> u32 {
        if let Some(&index) = self.by_tenant.get(tenant) {
            return index;
        }
        if self.by_tenant.len() < self.tenants_max {
            let index = self.add(Home::Tenant(Arc::clone(tenant)), estimate);
            self.by_tenant.insert(Arc::clone(tenant), index);
            return index;
        }
        let hash = self.by_tenant.hasher().hash_one(tenant) as usize;
        self.buckets.resize(BUCKETS, None);
        let two = [hash % BUCKETS, hash / BUCKETS % BUCKETS];
        let waiting = |&bucket: &usize| self.buckets[bucket].map_or(0, |index| self[index].waiting());
        let bucket = two.into_iter().min_by_key(waiting).unwrap_or_default();
        if let Some(index) = self.buckets[bucket] {
            return index;
        }
        let index = self.add(Home::Bucket(bucket), estimate);
        self.buckets[bucket] = Some(index);
        index
    }

    fn add(&mut self, home: Home, estimate: Duration) -> u32 {
        let estimate = if estimate.is_zero() { self.typical.unwrap_or_default() } else { nanos(estimate) };
        let flow = Flow::new(home, self.virtual_time(), estimate);
        let index = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            (self.flows.len() - 1) as u32
        });
        self.flows[index as usize] = Some(flow);
        self.change(index, |_| {});
        index
    }

    /// Changes a flow, and sets it where it belongs then.
    pub fn change<T>(&mut self, index: u32, change: impl FnOnce(&mut Flow) -> T) -> T {
        let flow = self.flows[index as usize].as_mut().expect("a flow is known while an entry names it");
        let result = change(flow);
        let now = flow.listed_as();
        let before = std::mem::replace(&mut flow.listed, now);
        if before.turn != now.turn {
            before.turn.map(|turn| self.turns.remove(&(turn, index)));
            now.turn.map(|turn| self.turns.insert((turn, index)));
        }
        for (class, tails) in self.tails.iter_mut().enumerate() {
            if before.tails[class] != now.tails[class] {
                before.tails[class].map(|(tail, turn)| tails.remove(&(tail, turn, index)));
                now.tails[class].map(|(tail, turn)| tails.insert((tail, turn, index)));
            }
        }
        if before.debt != now.debt {
            before.debt.map(|debt| self.debts.remove(&(debt, index)));
            now.debt.map(|debt| self.debts.insert((debt, index)));
        }
        self.backlog = self.backlog - before.backlog + now.backlog;
        self.weights = self.weights - before.weight + now.weight;
        self.active = self.active - before.active + now.active;
        result
    }

    /// A slot of a flow was used so long.
    pub fn learn(&mut self, index: u32, used: u64) {
        self.change(index, |flow| flow.learn(used));
        self.typical = Some(self.typical.map_or(used.max(ESTIMATE_MIN), |typical| learnt(typical, used)));
    }

    /// How much a flow asks for over its share: the virtual time at which its last waiter would have been served, with so
    /// many more. Who is behind the list's virtual time is not before those who begin there.
    pub fn asks_for(&self, index: u32, more: usize) -> Virtual {
        let flow = &self[index];
        let behind = self.virtual_time().saturating_sub(flow.virtual_time);
        flow.tail_of(flow.waiting() + more) + behind
    }

    /// Slot time is charged, as far as debt goes. What was paid.
    pub fn charge(&mut self, index: u32, cost: Virtual, weight: u32, slots: usize) -> Virtual {
        let horizon = DEBT_MAX.as_nanos() * slots as u128;
        let most = self.virtual_time() + virtual_of(horizon, weight);
        self.change(index, |flow| {
            let credited = cost.min(flow.credit);
            flow.credit -= credited;
            let before = flow.virtual_time;
            flow.virtual_time = before.max((before + cost - credited).min(most));
            flow.virtual_time - before + credited
        })
    }

    /// More was paid than was used.
    pub fn refund(&mut self, index: u32, cost: Virtual) {
        self.change(index, |flow| {
            flow.credit = (flow.credit + cost).min(flow.virtual_time - flow.floor);
            if flow.waiting() == 0 {
                flow.lift(0);
            }
        });
    }

    /// Forgets those that owe nothing any more.
    pub fn forget(&mut self) {
        let reached = self.virtual_time();
        while let Some(&(debt, index)) = self.debts.first().filter(|&&(debt, _)| debt <= reached) {
            self.debts.remove(&(debt, index));
            match self.flows[index as usize].take().map(|flow| flow.home) {
                Some(Home::Tenant(tenant)) => drop(self.by_tenant.remove(&tenant)),
                Some(Home::Bucket(bucket)) => self.buckets[bucket] = None,
                None => unreachable!("who owes is known"),
            }
            self.free.push(index);
        }
    }

    /// A hash of two names that strangers cannot foresee.
    pub fn hash(&self, tenant: &str, route: &str) -> u64 {
        self.by_tenant.hasher().hash_one((tenant, route))
    }

    /// Waiters of a tenant that is known by its name.
    pub fn waiting(&self, tenant: &str) -> usize {
        self.by_tenant.get(tenant).map_or(0, |&index| self[index].waiting())
    }

    /// Flows that are known.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.flows.len() - self.free.len()
    }
}
