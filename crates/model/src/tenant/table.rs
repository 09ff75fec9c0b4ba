//! The table of tenants: bounded, and it refills nobody.
//!
//! Always holds:
//! - A listed tenant is always in the table; an unlisted one comes in when first seen.
//! - At most `max` unlisted tenants are in the table, and at most three quarters of them are *claimed*: named by
//!   something that anybody can write (a host, an address). Whoever invents names cannot crowd out those that a token
//!   or a trusted proxy *vouched* for.
//! - One is evicted only when all its limits are full and nothing of its is in flight: forgetting it then changes
//!   nothing. While none can be evicted, further ones share the limits of one overflow tenant: those that are claimed
//!   of one, those that are vouched for of another. They keep their ids.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{Entitlement, OVERFLOW, OVERFLOW_CLAIMED, Permit, RouteLimits, Standing, Tenant};
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::tick::Tick;

/// Tenants of each kind looked at for eviction when a new one comes in.
const SWEEP_STEPS: usize = 8;

/// All tenants of the process.
#[derive(Debug)]
pub struct Tenants {
    table: papaya::HashMap<Arc<str>, Arc<Tenant>, RandomState>,
    /// Whoever changes the table holds this.
    unlisted: Mutex<Unlisted>,
    overflow: OnceLock<Arc<Tenant>>,
    overflow_claimed: OnceLock<Arc<Tenant>>,
    /// What tenants that were evicted had not told.
    gone: [AtomicU64; 2],
}

/// The unlisted tenants in the order in which they are looked at for eviction.
#[derive(Debug, Default)]
struct Unlisted {
    vouched: VecDeque<Arc<Tenant>>,
    claimed: VecDeque<Arc<Tenant>>,
    max: usize,
    /// What unlisted tenants are entitled to in the configuration in force.
    entitlement: Option<Arc<Entitlement>>,
}

impl Unlisted {
    fn queue(&mut self, claimed: bool) -> &mut VecDeque<Arc<Tenant>> {
        if claimed { &mut self.claimed } else { &mut self.vouched }
    }

    /// Lets one in at the end of its queue, unless it stands there already.
    fn queue_up(&mut self, tenant: &Arc<Tenant>) {
        if !tenant.queued.swap(true, Relaxed) {
            self.queue(tenant.claimed).push_back(Arc::clone(tenant));
        }
    }

    fn has_room(&self, claimed: bool) -> bool {
        let whole = self.vouched.len() + self.claimed.len() < self.max;
        whole && (!claimed || self.claimed.len() < self.max - self.max / 4)
    }
}

impl Tenants {
    /// A table for at most `max` unlisted tenants.
    #[must_use]
    pub fn new(max: usize) -> Tenants {
        Tenants {
            table: papaya::HashMap::new(),
            unlisted: Mutex::new(Unlisted { max: max.max(1), ..Unlisted::default() }),
            overflow: OnceLock::new(),
            overflow_claimed: OnceLock::new(),
            gone: Default::default(),
        }
    }

    /// Holds the table to at most `max` unlisted tenants from now on. Those beyond leave when they can.
    pub fn bound(&self, max: usize) {
        self.unlisted.lock().max = max.max(1);
    }

    /// Makes the listed tenants these. One that is no longer listed takes the plan of the unknown, if there is one.
    pub fn apply<'a>(
        &self,
        listed: impl IntoIterator<Item = (&'a Arc<str>, &'a Arc<Plan>)>,
        unknown: Option<&Arc<Plan>>,
    ) {
        let listed: HashMap<&Arc<str>, &Arc<Plan>> = listed.into_iter().collect();
        let table = self.table.pin();
        let mut last = unknown.map(|plan| Arc::new(Entitlement::new(Arc::clone(plan), false)));
        {
            // From here on whoever comes in has the new plan; nobody waits while those that are there get it.
            let mut unlisted = self.unlisted.lock();
            unlisted.entitlement.clone_from(&last);
            for (id, plan) in &listed {
                let make = || {
                    let entitlement = Arc::new(Entitlement::new(Arc::clone(plan), true));
                    Arc::new(Tenant::new(Arc::clone(id), entitlement, false))
                };
                let tenant = table.get_or_insert_with(Arc::clone(id), make);
                tenant.swap_plan(plan, true, &mut None);
            }
        }
        let mut delisted = Vec::new();
        for (id, tenant) in &table {
            if listed.contains_key(id) {
                continue;
            }
            let held = tenant.entitlement.load();
            tenant.swap_plan(unknown.unwrap_or(&held.plan), false, &mut last);
            if held.listed {
                delisted.push(Arc::clone(tenant));
            }
        }
        let mut unlisted = self.unlisted.lock();
        delisted.iter().for_each(|tenant| unlisted.queue_up(tenant));
        for overflow in [self.overflow.get(), self.overflow_claimed.get()].into_iter().flatten() {
            overflow.swap_plan(unknown.unwrap_or(&overflow.plan()), false, &mut last);
        }
    }

    /// Forgets what was spent of the limits of routes that are no more, as far as it has come back.
    pub fn forget_routes(&self, is_known: impl Fn(&str) -> bool, now: Tick) {
        self.each(|tenant| tenant.forget_routes(&is_known, now));
    }

    /// Tenants in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The tenant with this id, if it is in the table.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<Tenant>> {
        self.table.pin().get(id).cloned()
    }

    /// The tenant with this id, or a new unlisted one with this plan. Somebody vouched for the id.
    #[must_use]
    pub fn find_or_add(&self, id: &str, plan: &Arc<Plan>, now: Tick) -> Arc<Tenant> {
        self.find(id).unwrap_or_else(|| self.add(id, plan, false, now))
    }

    /// The same for an id that anybody may claim.
    #[must_use]
    pub fn find_or_add_claimed(&self, id: &str, plan: &Arc<Plan>, now: Tick) -> Arc<Tenant> {
        self.find(id).unwrap_or_else(|| self.add(id, plan, true, now))
    }

    /// Calls `visit` with each tenant, and with those that all share for whom there was no room.
    pub fn each(&self, mut visit: impl FnMut(&Tenant)) {
        for tenant in self.table.pin().values() {
            visit(tenant);
        }
        for overflow in [self.overflow.get(), self.overflow_claimed.get()].into_iter().flatten() {
            visit(overflow);
        }
    }

    /// Exchanges let through and refused of tenants that were evicted since this was last asked, as far as they had
    /// not told them themselves.
    #[must_use]
    pub fn untold_of_evicted(&self) -> (u64, u64) {
        (self.gone[0].swap(0, Relaxed), self.gone[1].swap(0, Relaxed))
    }

    fn add(&self, id: &str, plan: &Arc<Plan>, claimed: bool, now: Tick) -> Arc<Tenant> {
        let mut unlisted = self.unlisted.lock();
        if let Some(tenant) = self.table.pin().get(id) {
            return Arc::clone(tenant);
        }
        // An exchange that pinned the configuration before must not bring back its plan.
        let own = || Arc::new(Entitlement::new(Arc::clone(plan), false));
        let entitlement = unlisted.entitlement.clone().unwrap_or_else(own);
        let make = |id: &str| Arc::new(Tenant::new(Arc::from(id), entitlement, claimed));
        if !unlisted.has_room(claimed) {
            self.sweep(&mut unlisted, claimed, now);
            if !claimed && !unlisted.has_room(false) {
                self.sweep(&mut unlisted, true, now);
            }
        }
        if unlisted.has_room(claimed) {
            let tenant = make(id);
            unlisted.queue_up(&tenant);
            self.table.pin().insert(Arc::clone(&tenant.id), Arc::clone(&tenant));
            return tenant;
        }
        let (overflow, name) = self.overflow_of(claimed);
        let overflow = overflow.get_or_init(|| make(name));
        Arc::new(Tenant::within(Arc::from(id), Arc::clone(overflow)))
    }

    fn overflow_of(&self, claimed: bool) -> (&OnceLock<Arc<Tenant>>, &'static str) {
        match claimed {
            true => (&self.overflow_claimed, OVERFLOW_CLAIMED),
            false => (&self.overflow, OVERFLOW),
        }
    }

    /// What those share that find no room in the table.
    pub(super) fn shared_by(&self, claimed: bool, plan: &Arc<Plan>) -> &Arc<Tenant> {
        let (overflow, name) = self.overflow_of(claimed);
        let held = self.unlisted.lock().entitlement.clone();
        let make = || {
            let entitlement = held.unwrap_or_else(|| Arc::new(Entitlement::new(Arc::clone(plan), false)));
            Arc::new(Tenant::new(Arc::from(name), entitlement, claimed))
        };
        overflow.get_or_init(make)
    }

    /// Evicts up to two of those that can be: so the table shrinks back after a flood.
    fn sweep(&self, unlisted: &mut Unlisted, claimed: bool, now: Tick) {
        let table = self.table.pin();
        let queue = unlisted.queue(claimed);
        let mut left = 0;
        for _ in 0..SWEEP_STEPS.min(queue.len()) {
            let Some(candidate) = queue.pop_front() else { break };
            if candidate.is_listed() {
                // It was listed since it came in.
                candidate.queued.store(false, Relaxed);
                left += 1;
                continue;
            }
            if !candidate.detach(now) {
                queue.push_back(candidate);
                continue;
            }
            table.remove(&candidate.id);
            let (admitted, refused) = candidate.untold();
            self.gone[0].fetch_add(admitted, Relaxed);
            self.gone[1].fetch_add(refused, Relaxed);
            left += 1;
            if left == 2 {
                break;
            }
        }
    }

    /// Lets an exchange of `tenant` pass, if its plan and the route's limits allow one more.
    ///
    /// All rates are spent or none. The standing is that of the limit with the least left, if there is a limit.
    ///
    /// # Errors
    /// `limit.rate` with the time to come back, or `limit.concurrency`.
    pub fn admit(
        &self,
        mut tenant: Arc<Tenant>,
        route: &RouteLimits,
        now: Tick,
    ) -> Result<(Permit, Option<Standing>), Refusal> {
        loop {
            let evicted = match Permit::new(tenant, route, now) {
                Ok(verdict) => return verdict,
                Err(uncounted) => uncounted,
            };
            // It was evicted, or is just being looked at: whoever does that holds the lock.
            let evicted = evicted.tenant();
            tenant = self.add(&evicted.id, &evicted.plan(), evicted.claimed, now);
        }
    }
}
