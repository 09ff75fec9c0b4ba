//! Tenants: who pays, misbehaves and complains. Their limits' state, in a table that is bounded and refills nobody.
//!
//! Always holds:
//! - A listed tenant is always in the table; an unlisted one comes in when first seen.
//! - At most `max` unlisted tenants are in the table. One is evicted only when all its limits are full and nothing
//!   of its is in flight: forgetting it then changes nothing. While none can be evicted, further unlisted ones share
//!   the one overflow tenant.
//! - A [`Permit`] is made by [`Tenants::admit`] alone, and gives back what it holds when it is dropped.
//!
//! State is kept by name over a reload: a tenant's by its id, a rate's by its name, a route's by the route's name.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::limit::{Verdict, Word};
use crate::plan::{Plan, Rate};
use crate::refusal::{self, Refusal};
use crate::tick::Tick;

/// The id of the tenant that stands for all that do not fit into the table.
pub const OVERFLOW: &str = "overflow";
/// The most bytes of a tenant's id; a longer one comes from nobody we know.
pub const ID_BYTES_MAX: usize = 128;
/// Tenants looked at for eviction when a new one comes in.
const SWEEP_STEPS: usize = 8;
/// Set in `in_flight` while, and after, a tenant is evicted.
const DETACHED: u32 = 1 << 31;

/// One tenant.
#[derive(Debug)]
pub struct Tenant {
    id: Arc<str>,
    entitlement: ArcSwap<Entitlement>,
    in_flight: AtomicU32,
    request_bytes: Word,
    response_bytes: Word,
    routes: OnceLock<papaya::HashMap<Arc<str>, Arc<RouteState>>>,
    admitted: AtomicU64,
    refused: AtomicU64,
    told: [AtomicU64; 2],
}

/// A plan with the words of its rates, in the plan's order.
#[derive(Debug)]
struct Entitlement {
    plan: Arc<Plan>,
    listed: bool,
    words: Vec<Arc<Word>>,
}

/// What a tenant has spent of one route's limits.
#[derive(Debug, Default)]
struct RouteState {
    words: papaya::HashMap<Arc<str>, Arc<Word>>,
    in_flight: AtomicU32,
}

/// The limits that a route sets for each tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLimits {
    /// The route's name.
    pub name: Arc<str>,
    /// Rates; all of them must allow a request.
    pub rates: Vec<Rate>,
    /// Exchanges at once.
    pub concurrency: Option<u32>,
}

/// Evidence that a tenant's limits let an exchange pass. Held until its last response byte.
#[derive(Debug)]
pub struct Permit {
    tenant: Arc<Tenant>,
    route: Option<Arc<RouteState>>,
}

/// How a tenant stands with the limit of which it has the least left, as `RateLimit` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit's name.
    pub name: Arc<str>,
    /// Requests per window.
    pub limit: u64,
    /// The window.
    pub window: Duration,
    /// Requests left.
    pub remaining: u64,
    /// Until it is full again.
    pub reset: Duration,
}

impl Tenant {
    fn new(id: Arc<str>, plan: Arc<Plan>, listed: bool) -> Tenant {
        Tenant {
            id,
            entitlement: ArcSwap::from_pointee(Entitlement::new(plan, listed, None)),
            in_flight: AtomicU32::new(0),
            request_bytes: Word::default(),
            response_bytes: Word::default(),
            routes: OnceLock::new(),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            told: Default::default(),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.entitlement.load().plan)
    }

    /// Exchanges under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed) & !DETACHED
    }

    /// Exchanges let through and refused by its limits, ever.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.admitted.load(Relaxed), self.refused.load(Relaxed))
    }

    /// Exchanges let through and refused since this was last asked. For counters that must not lose any.
    #[must_use]
    pub fn untold(&self) -> (u64, u64) {
        // The greatest that was ever told: one who asks at the same time with an older count tells nothing twice.
        let since = |now: u64, told: &AtomicU64| now.saturating_sub(told.fetch_max(now, Relaxed));
        let (admitted, refused) = self.counts();
        (since(admitted, &self.told[0]), since(refused, &self.told[1]))
    }

    /// How it stands with each rate of its plan. Spends nothing.
    #[must_use]
    pub fn standings(&self, now: Tick) -> Vec<Standing> {
        let held = self.entitlement.load();
        let rates = held.plan.rates.iter().zip(&held.words);
        rates
            .map(|(rate, word)| {
                let (remaining, reset) = word.left(rate, now);
                let (name, limit, window) = (Arc::clone(&rate.name), rate.limit, rate.window);
                Standing { name, limit, window, remaining, reset }
            })
            .collect()
    }

    /// Spends request body bytes; how long to wait before more are taken.
    #[must_use]
    pub fn spend_request_bytes(&self, bytes: u64, now: Tick) -> Duration {
        let pace = self.entitlement.load().plan.request_bytes_per_second;
        pace.map_or(Duration::ZERO, |pace| self.request_bytes.spend_bytes(bytes, pace, now))
    }

    /// Spends response body bytes; how long to wait before more are sent.
    #[must_use]
    pub fn spend_response_bytes(&self, bytes: u64, now: Tick) -> Duration {
        let pace = self.entitlement.load().plan.response_bytes_per_second;
        pace.map_or(Duration::ZERO, |pace| self.response_bytes.spend_bytes(bytes, pace, now))
    }

    fn swap_plan(&self, plan: &Arc<Plan>, listed: bool) {
        let held = self.entitlement.load();
        if held.plan != *plan || held.listed != listed {
            self.entitlement.store(Arc::new(Entitlement::new(Arc::clone(plan), listed, Some(&held))));
        }
    }

    /// All that it has spent has come back.
    fn is_full(&self, now: Tick) -> bool {
        let routes_full = || {
            self.routes.get().is_none_or(|routes| {
                routes.pin().values().all(|route| route.words.pin().values().all(|word| word.is_full(now)))
            })
        };
        self.entitlement.load().words.iter().all(|word| word.is_full(now))
            && self.request_bytes.is_full(now)
            && self.response_bytes.is_full(now)
            && routes_full()
    }

    /// Takes it out of use if forgetting it changes nothing. Whoever finds it detached looks it up again.
    fn detach(&self, now: Tick) -> bool {
        if self.in_flight.compare_exchange(0, DETACHED, Relaxed, Relaxed).is_err() {
            return false;
        }
        if self.is_full(now) {
            return true;
        }
        self.in_flight.fetch_and(!DETACHED, Relaxed);
        false
    }

    fn route(&self, limits: &RouteLimits) -> Arc<RouteState> {
        let routes = self.routes.get_or_init(papaya::HashMap::new).pin();
        Arc::clone(routes.get_or_insert_with(Arc::clone(&limits.name), Arc::default))
    }
}

impl Entitlement {
    /// A plan's words; a rate that the plan before had by the same name keeps what was spent.
    fn new(plan: Arc<Plan>, listed: bool, before: Option<&Entitlement>) -> Entitlement {
        let kept = |rate: &Rate| {
            let before = before?;
            let place = before.plan.rates.iter().position(|held| held.name == rate.name)?;
            before.words.get(place).cloned()
        };
        let words = plan.rates.iter().map(|rate| kept(rate).unwrap_or_default()).collect();
        Entitlement { plan, listed, words }
    }
}

/// All tenants of the process.
#[derive(Debug)]
pub struct Tenants {
    table: papaya::HashMap<Arc<str>, Arc<Tenant>, RandomState>,
    unlisted: Mutex<Unlisted>,
    overflow: OnceLock<Arc<Tenant>>,
    /// What tenants that were evicted had not told.
    gone: [AtomicU64; 2],
    max: usize,
}

/// The unlisted tenants in the order in which they are looked at for eviction.
#[derive(Debug, Default)]
struct Unlisted {
    queue: std::collections::VecDeque<Arc<Tenant>>,
}

/// The tenant was evicted between lookup and admission.
struct Gone;

impl Tenants {
    /// A table for at most `max` unlisted tenants.
    #[must_use]
    pub fn new(max: usize) -> Tenants {
        Tenants {
            table: papaya::HashMap::new(),
            unlisted: Mutex::default(),
            overflow: OnceLock::new(),
            gone: Default::default(),
            max: max.max(1),
        }
    }

    /// Makes the listed tenants these. One that is no longer listed takes the plan of the unknown, if there is one.
    pub fn apply<'a>(
        &self,
        listed: impl IntoIterator<Item = (&'a Arc<str>, &'a Arc<Plan>)>,
        unknown: Option<&Arc<Plan>>,
    ) {
        let listed: HashMap<&Arc<str>, &Arc<Plan>> = listed.into_iter().collect();
        let table = self.table.pin();
        for (id, plan) in &listed {
            let tenant = table.get_or_insert_with(Arc::clone(id), || {
                Arc::new(Tenant::new(Arc::clone(id), Arc::clone(plan), true))
            });
            tenant.swap_plan(plan, true);
        }
        let mut unlisted = self.unlisted.lock();
        for (id, tenant) in &table {
            if listed.contains_key(id) {
                continue;
            }
            let was_listed = tenant.entitlement.load().listed;
            if let Some(plan) = unknown {
                tenant.swap_plan(plan, false);
            }
            if was_listed {
                unlisted.queue.push_back(Arc::clone(tenant));
            }
        }
        unlisted.queue.retain(|tenant| !listed.contains_key(&tenant.id));
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

    /// The tenant with this id, or a new unlisted one with this plan.
    #[must_use]
    pub fn find_or_add(&self, id: &str, plan: &Arc<Plan>, now: Tick) -> Arc<Tenant> {
        self.find(id).unwrap_or_else(|| self.add(id, plan, now))
    }

    /// Calls `visit` with each tenant, and with the one that all share for whom there was no room.
    pub fn each(&self, mut visit: impl FnMut(&Tenant)) {
        for tenant in self.table.pin().values() {
            visit(tenant);
        }
        if let Some(overflow) = self.overflow.get() {
            visit(overflow);
        }
    }

    /// Exchanges let through and refused of tenants that were evicted since this was last asked, as far as they had
    /// not told them themselves.
    #[must_use]
    pub fn untold_of_evicted(&self) -> (u64, u64) {
        (self.gone[0].swap(0, Relaxed), self.gone[1].swap(0, Relaxed))
    }

    fn add(&self, id: &str, plan: &Arc<Plan>, now: Tick) -> Arc<Tenant> {
        let mut unlisted = self.unlisted.lock();
        let table = self.table.pin();
        if let Some(tenant) = table.get(id) {
            return Arc::clone(tenant);
        }
        // Two leave for one that comes, where they can: so the table shrinks back after a flood.
        let mut left = 0;
        for _ in 0..SWEEP_STEPS.min(unlisted.queue.len()) {
            if left == 2 || unlisted.queue.len() < self.max {
                break;
            }
            let Some(candidate) = unlisted.queue.pop_front() else { break };
            if candidate.detach(now) {
                table.remove(&candidate.id);
                let (admitted, refused) = candidate.untold();
                self.gone[0].fetch_add(admitted, Relaxed);
                self.gone[1].fetch_add(refused, Relaxed);
                left += 1;
            } else {
                unlisted.queue.push_back(candidate);
            }
        }
        if unlisted.queue.len() >= self.max {
            let overflow = || Arc::new(Tenant::new(Arc::from(OVERFLOW), Arc::clone(plan), false));
            let overflow = self.overflow.get_or_init(overflow);
            overflow.swap_plan(plan, false);
            return Arc::clone(overflow);
        }
        let tenant = Arc::new(Tenant::new(Arc::from(id), Arc::clone(plan), false));
        unlisted.queue.push_back(Arc::clone(&tenant));
        table.insert(Arc::clone(&tenant.id), Arc::clone(&tenant));
        tenant
    }

    /// Lets an exchange of `tenant` pass, if its plan and the route's limits allow one more.
    ///
    /// All rates are spent or none. The standing is that of the limit with the least left, if there is a limit.
    ///
    /// # Errors
    /// `limit.rate` with the exact time to come back, or `limit.concurrency`.
    pub fn admit(
        &self,
        tenant: &Arc<Tenant>,
        route: &RouteLimits,
        now: Tick,
    ) -> Result<(Permit, Option<Standing>), Refusal> {
        let mut tenant = Arc::clone(tenant);
        loop {
            match Tenant::enter(&tenant) {
                Ok(permit) => return permit.within(route, now),
                Err(Gone) => {
                    let plan = tenant.plan();
                    tenant = self.find_or_add(&tenant.id, &plan, now);
                }
            }
        }
    }
}

impl Tenant {
    fn enter(tenant: &Arc<Tenant>) -> Result<Permit, Gone> {
        if tenant.in_flight.fetch_add(1, Relaxed) & DETACHED != 0 {
            tenant.in_flight.fetch_sub(1, Relaxed);
            return Err(Gone);
        }
        Ok(Permit { tenant: Arc::clone(tenant), route: None })
    }
}

impl Permit {
    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    fn within(mut self, limits: &RouteLimits, now: Tick) -> Result<(Permit, Option<Standing>), Refusal> {
        let verdict = self.check(limits, now);
        let count = if verdict.is_ok() { &self.tenant.admitted } else { &self.tenant.refused };
        count.fetch_add(1, Relaxed);
        verdict.map(|standing| (self, standing))
    }

    fn check(&mut self, limits: &RouteLimits, now: Tick) -> Result<Option<Standing>, Refusal> {
        let entitlement = self.tenant.entitlement.load_full();
        let at_once = |count: u32, max: Option<u32>| max.is_some_and(|max| count > max);
        if at_once(self.tenant.in_flight(), entitlement.plan.concurrency) {
            return Err(too_many_at_once("the plan"));
        }
        if limits.rates.is_empty() && limits.concurrency.is_none() {
            return take_all(entitlement.plan.rates.iter().zip(&entitlement.words), now);
        }
        let state = self.tenant.route(limits);
        let count = state.in_flight.fetch_add(1, Relaxed) + 1;
        self.route = Some(Arc::clone(&state));
        if at_once(count, limits.concurrency) {
            return Err(too_many_at_once("the route"));
        }
        let words = state.words.pin();
        let own: Vec<Arc<Word>> = limits
            .rates
            .iter()
            .map(|rate| Arc::clone(words.get_or_insert_with(Arc::clone(&rate.name), Arc::default)))
            .collect();
        take_all(
            entitlement.plan.rates.iter().zip(&entitlement.words).chain(limits.rates.iter().zip(&own)),
            now,
        )
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(route) = &self.route {
            route.in_flight.fetch_sub(1, Relaxed);
        }
        self.tenant.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Spends of all rates or, if one refuses, of none.
fn take_all<'a>(
    rates: impl Iterator<Item = (&'a Rate, &'a Arc<Word>)> + Clone,
    now: Tick,
) -> Result<Option<Standing>, Refusal> {
    let mut tightest: Option<(&Rate, u64, Duration)> = None;
    for (place, (rate, word)) in rates.clone().enumerate() {
        match word.take(rate, now) {
            Verdict::Passed { remaining, reset } => {
                if tightest.is_none_or(|(_, least, _)| remaining < least) {
                    tightest = Some((rate, remaining, reset));
                }
            }
            Verdict::Refused { retry_after } => {
                for (rate, word) in rates.take(place) {
                    word.give_back(rate);
                }
                return Err(over(rate, retry_after));
            }
        }
    }
    Ok(tightest.map(|(rate, remaining, reset)| Standing {
        name: Arc::clone(&rate.name),
        limit: rate.limit,
        window: rate.window,
        remaining,
        reset,
    }))
}

fn over(rate: &Rate, retry_after: Duration) -> Refusal {
    let mut refusal =
        Refusal::new(&refusal::LIMIT_RATE, "the tenant sends more requests than its limit allows")
            .retry_after(retry_after);
    refusal.violated = Some(Arc::clone(&rate.name));
    refusal
}

fn too_many_at_once(whose: &'static str) -> Refusal {
    let detail = match whose {
        "the plan" => "the tenant has as many requests under way as its plan allows",
        _ => "the tenant has as many requests under way as this route allows",
    };
    Refusal::new(&refusal::LIMIT_CONCURRENCY, detail).retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests;
