//! Tenants: who pays, misbehaves and complains. What each is entitled to, and what it has spent of that.
//!
//! A [`Permit`] is made by [`Tenants::admit`] alone, and gives back what it holds when it is dropped.
//!
//! State is kept by name over a reload: a tenant's by its id, a rate's by its name, a route's by the route's name.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use smallvec::SmallVec;

pub use crate::limit::Standing;
use crate::limit::{Reserved, Verdict, Word};
use crate::plan::{Plan, RATES_MAX, Rate};
use crate::protect::EXCHANGE_BYTES;
use crate::refusal::{self, Refusal};
use crate::tick::Tick;

pub mod spent;
mod table;

pub use table::Tenants;

/// The id under which all are counted that were vouched for and did not fit into the table.
pub const OVERFLOW: &str = "overflow";
/// The same for those whose id nobody vouched for.
pub const OVERFLOW_CLAIMED: &str = "overflow-claimed";
/// What the ids of client addresses begin with.
pub const ADDRESS_PREFIX: &str = "ip:";
/// The most bytes of a tenant's id; a longer one comes from nobody we know.
pub const ID_BYTES_MAX: usize = 128;
/// Set in `in_flight` while, and after, a tenant is evicted.
const DETACHED: u32 = 1 << 31;

/// Whether a text is a tenant's id: 1 to [`ID_BYTES_MAX`] printable ASCII characters without spaces. Then it can be
/// told to the application in a header as it is.
#[must_use]
pub fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether an id is Tidegate's own: whoever could call itself so would spend what is others'.
#[must_use]
pub fn is_reserved(id: &str) -> bool {
    id == OVERFLOW || id == OVERFLOW_CLAIMED || id.starts_with(ADDRESS_PREFIX)
}

/// One tenant.
///
/// Its memory is in this order because there may be a million of them, and each request is for another one: what all
/// requests need lies in the first 128 bytes, counts of references included, and nothing of it behind a pointer but what
/// tenants of one plan have in common.
#[derive(Debug)]
#[repr(C)]
pub struct Tenant {
    id: Arc<str>,
    /// Whose limits count for it, where it found no room in the table.
    overflow: Option<Arc<Tenant>>,
    entitlement: ArcSwap<Entitlement>,
    in_flight: AtomicU32,
    /// Nobody vouched for its id.
    claimed: bool,
    /// It stands in a queue for eviction. Changed by whoever holds the table's lock.
    queued: AtomicBool,
    admitted: AtomicU64,
    /// What was spent of the rates of its plan: [`Entitlement::places`].
    words: [Word; RATES_MAX],
    request_bytes: Word,
    response_bytes: Word,
    /// Bytes that its bodies may make Tidegate hold.
    held: AtomicU64,
    routes: OnceLock<Box<papaya::HashMap<Arc<str>, Arc<RouteState>>>>,
    refused: AtomicU64,
    told: [AtomicU64; 2],
}

/// What a tenant is entitled to. Tenants of one plan that came in as such share it.
#[derive(Debug)]
struct Entitlement {
    plan: Arc<Plan>,
    listed: bool,
    /// The place among a tenant's words of each rate, in the plan's order.
    places: [u8; RATES_MAX],
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

impl RouteLimits {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.concurrency.is_none()
    }
}

/// Evidence that a tenant's limits let an exchange pass. Held until its last response byte.
#[derive(Debug)]
pub struct Permit {
    tenant: Arc<Tenant>,
    route: Option<Arc<RouteState>>,
    /// Whether it counts as an exchange under way. Another node's does not: it is counted there.
    counted: bool,
    /// Whether the plan that let it in sets no pace.
    unpaced: bool,
}

/// Which way a tenant's bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Request bodies.
    Request,
    /// Response bodies.
    Response,
}

impl Tenant {
    fn new(id: Arc<str>, entitlement: Arc<Entitlement>, claimed: bool) -> Tenant {
        Tenant {
            id,
            overflow: None,
            entitlement: ArcSwap::new(entitlement),
            in_flight: AtomicU32::new(0),
            claimed,
            queued: AtomicBool::new(false),
            admitted: AtomicU64::new(0),
            words: Default::default(),
            request_bytes: Word::default(),
            response_bytes: Word::default(),
            held: AtomicU64::new(0),
            routes: OnceLock::new(),
            refused: AtomicU64::new(0),
            told: Default::default(),
        }
    }

    /// One that is itself to the application and in the records, and part of `overflow` to the limits.
    fn within(id: Arc<str>, overflow: Arc<Tenant>) -> Tenant {
        let entitlement = overflow.entitlement.load_full();
        Tenant { overflow: Some(overflow), ..Tenant::new(id, entitlement, true) }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Whether nobody vouched for its id.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.claimed
    }

    /// Whether it found no room in the table and shares its limits with others.
    #[must_use]
    pub fn is_overflow(&self) -> bool {
        self.overflow.is_some()
    }

    /// Whose limits count for it: its own, mostly.
    fn account(&self) -> &Tenant {
        self.overflow.as_deref().unwrap_or(self)
    }

    /// The id under which it is charged for what tenants share: its own, mostly. Who found no room in the table shares that
    /// of the others, too: ids that nobody vouched for are no shares of their own.
    #[must_use]
    pub fn payer(&self) -> &Arc<str> {
        &self.account().id
    }

    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.account().entitlement.load().plan)
    }

    /// Looks at its plan. Unlike [`Tenant::plan`] this counts no reference that all cores share.
    pub fn with_plan<T>(&self, look: impl FnOnce(&Plan) -> T) -> T {
        look(&self.account().entitlement.load().plan)
    }

    /// Exchanges under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.account().in_flight.load(Relaxed) & !DETACHED
    }

    /// Bytes that it holds of ours, about: those that its bodies may make us hold, and what each exchange takes.
    #[must_use]
    pub fn held(&self) -> u64 {
        let bodies = self.account().held.load(Relaxed);
        bodies.saturating_add(u64::from(self.in_flight()) * EXCHANGE_BYTES)
    }

    /// Counts bytes that a body of its may make us hold. To be [let go](Tenant::let_go) when that is over.
    pub fn hold(&self, bytes: u64) {
        self.account().held.fetch_add(bytes, Relaxed);
    }

    /// Counts them no more.
    pub fn let_go(&self, bytes: u64) {
        self.account().held.fetch_sub(bytes, Relaxed);
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
        let account = self.account();
        let held = account.entitlement.load();
        account.rates(&held).map(|(rate, word)| standing(rate, word, now)).collect()
    }

    /// How it stands with a route's rates, and its exchanges under way there. Spends nothing.
    #[must_use]
    pub fn standings_on(&self, limits: &RouteLimits, now: Tick) -> (Vec<Standing>, u32) {
        let untouched = Word::default();
        let state = self.account().routes.get().and_then(|routes| routes.pin().get(&limits.name).cloned());
        let words = state.as_ref().map(|state| state.words.pin());
        let rates = limits.rates.iter().map(|rate| {
            let word = words.as_ref().and_then(|words| words.get(&rate.name));
            standing(rate, word.map_or(&untouched, |word| word), now)
        });
        (rates.collect(), state.as_ref().map_or(0, |state| state.in_flight.load(Relaxed)))
    }

    /// The pace of its plan for this direction, in bytes per second.
    #[must_use]
    pub fn pace(&self, direction: Direction) -> Option<std::num::NonZeroU64> {
        self.with_plan(|plan| match direction {
            Direction::Request => plan.request_bytes_per_second,
            Direction::Response => plan.response_bytes_per_second,
        })
    }

    /// Reserves time for body bytes at this pace: see [`Word::reserve`].
    #[must_use]
    pub fn reserve(
        &self,
        direction: Direction,
        bytes: u64,
        per_second: std::num::NonZeroU64,
        now: Tick,
    ) -> Reserved {
        self.account().bytes(direction).reserve(bytes, per_second, now)
    }

    /// Gives back time that was reserved for bytes that were not sent.
    pub fn release(&self, direction: Direction, reserved: &Reserved) {
        self.account().bytes(direction).release(reserved);
    }

    fn bytes(&self, direction: Direction) -> &Word {
        match direction {
            Direction::Request => &self.request_bytes,
            Direction::Response => &self.response_bytes,
        }
    }

    /// Whether the configuration names it.
    fn is_listed(&self) -> bool {
        self.entitlement.load().listed
    }

    /// The rates of what it is entitled to, and what was spent of each.
    fn rates<'a>(&'a self, held: &'a Entitlement) -> impl Iterator<Item = (&'a Rate, &'a Word)> + Clone {
        held.plan.rates.iter().zip(&held.places).map(|(rate, &place)| (rate, &self.words[usize::from(place)]))
    }

    /// Entitles it to something else, if it is. `last` is what was last made for another one, mostly the same.
    fn swap_plan(&self, plan: &Arc<Plan>, listed: bool, last: &mut Option<Arc<Entitlement>>) {
        let held = self.entitlement.load();
        if held.plan == *plan && held.listed == listed {
            return;
        }
        let (next, fresh) = Entitlement::after(&held, Arc::clone(plan), listed);
        // Whoever was let in by the plan before may still spend of a word as it was: of one request the rate that has it
        // now is told too much then, once.
        fresh.for_each(|place| self.words[usize::from(place)].forget());
        let next = match last {
            Some(last) if last.is(&next) => Arc::clone(last),
            _ => Arc::clone(last.insert(Arc::new(next))),
        };
        self.entitlement.store(next);
    }

    /// All that it has spent has come back.
    fn is_full(&self, now: Tick) -> bool {
        let routes_full =
            || self.routes.get().is_none_or(|routes| routes.pin().values().all(|route| route.is_full(now)));
        self.rates(&self.entitlement.load()).all(|(_, word)| word.is_full(now))
            && self.request_bytes.is_full(now)
            && self.response_bytes.is_full(now)
            && routes_full()
    }

    /// Takes it out of use if forgetting it changes nothing. Whoever finds it detached looks it up again.
    fn detach(&self, now: Tick) -> bool {
        // What the last exchange spent is seen by whoever sees that it has ended.
        if self.in_flight.compare_exchange(0, DETACHED, Acquire, Relaxed).is_err() {
            return false;
        }
        if self.is_full(now) {
            return true;
        }
        self.in_flight.fetch_and(!DETACHED, Release);
        false
    }

    fn route(&self, limits: &RouteLimits) -> Arc<RouteState> {
        let routes = self.routes.get_or_init(Box::default).pin();
        Arc::clone(routes.get_or_insert_with(Arc::clone(&limits.name), Arc::default))
    }

    /// Forgets what was spent of the limits of routes that are no more.
    fn forget_routes(&self, is_known: &dyn Fn(&str) -> bool, now: Tick) {
        if let Some(routes) = self.routes.get() {
            routes.pin().retain(|name, state| is_known(name) || !state.is_full(now));
        }
    }
}

impl RouteState {
    fn is_full(&self, now: Tick) -> bool {
        self.in_flight.load(Relaxed) == 0 && self.words.pin().values().all(|word| word.is_full(now))
    }
}

impl Entitlement {
    /// For tenants that have spent nothing yet.
    fn new(plan: Arc<Plan>, listed: bool) -> Entitlement {
        assert!(plan.rates.len() <= RATES_MAX, "the configuration bounds the rates of a plan");
        Entitlement { plan, listed, places: std::array::from_fn(|place| place as u8) }
    }

    /// For one that had another plan: a rate that this had by the same name keeps its word. And the places of those that
    /// others get.
    fn after(
        before: &Entitlement,
        plan: Arc<Plan>,
        listed: bool,
    ) -> (Entitlement, impl Iterator<Item = u8> + use<>) {
        let kept = |rate: &Rate| {
            let place = before.plan.rates.iter().position(|held| held.name == rate.name)?;
            Some(before.places[place])
        };
        let mut places = [None; RATES_MAX];
        places.iter_mut().zip(&plan.rates).for_each(|(place, rate)| *place = kept(rate));
        let mut free = (0..RATES_MAX as u8).filter(move |place| !places.contains(&Some(*place)));
        let fresh = free.clone();
        let next = Entitlement::new(plan, listed);
        let places = places.map(|kept| kept.or_else(|| free.next()).expect("each has a place"));
        (Entitlement { places, ..next }, fresh)
    }

    /// Whether it is one and the same.
    fn is(&self, other: &Entitlement) -> bool {
        Arc::ptr_eq(&self.plan, &other.plan) && (self.listed, self.places) == (other.listed, other.places)
    }
}

/// Why nothing was entered.
enum Closed {
    /// The tenant was evicted between lookup and admission.
    Gone,
    /// It has as many exchanges under way as it may.
    Full,
}

/// Counts one more exchange, if there may be one more. One that is refused is at no time counted: it can take the
/// place of no other.
fn enter(in_flight: &AtomicU32, max: Option<u32>) -> Result<(), Closed> {
    let max = max.unwrap_or(DETACHED - 1);
    let mut count = in_flight.load(Relaxed);
    loop {
        if count & DETACHED != 0 {
            return Err(Closed::Gone);
        }
        if count >= max {
            return Err(Closed::Full);
        }
        match in_flight.compare_exchange_weak(count, count + 1, Acquire, Relaxed) {
            Ok(_) => return Ok(()),
            Err(seen) => count = seen,
        }
    }
}

/// Stands by for an exchange that was permitted and whose answer needs more than one request to the upstream: what a client
/// is reading is not refused in its middle.
#[derive(Clone, Debug)]
pub struct Standby {
    tenant: Arc<Tenant>,
    counted: bool,
}

impl Standby {
    /// A permit. It counts as an exchange under way, spends of no rate, and is given whatever is under way. `None`: the tenant
    /// was evicted, since nothing of its was under way.
    #[must_use]
    pub fn permit(&self) -> Option<Permit> {
        if self.counted {
            enter(&self.tenant.account().in_flight, None).ok()?;
        }
        Some(Permit::unasked(&self.tenant, self.counted))
    }
}

impl Permit {
    /// One that asks no limits here.
    fn unasked(tenant: &Arc<Tenant>, counted: bool) -> Permit {
        Permit { tenant: Arc::clone(tenant), route: None, counted, unpaced: false }
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// The pace of a body that begins now, in bytes per second. Where the plan that let the exchange in sets none, that stands:
    /// the plan is not looked up again for each body.
    #[must_use]
    pub fn pace(&self, direction: Direction) -> Option<std::num::NonZeroU64> {
        if self.unpaced { None } else { self.tenant.pace(direction) }
    }

    /// A further one, for what is done on behalf of this exchange and outlives it. It counts as an exchange under way and
    /// spends of no rate. `None`: there are as many as the plan allows.
    #[must_use]
    pub fn on_behalf(&self) -> Option<Permit> {
        let account = self.tenant.account();
        enter(&account.in_flight, account.entitlement.load().plan.concurrency).ok()?;
        Some(Permit::unasked(&self.tenant, true))
    }

    /// One for what another node does on behalf of this tenant: that node has asked its limits, and counts it. To be made
    /// only of what such a node has said.
    #[must_use]
    pub fn of_peer(tenant: &Arc<Tenant>) -> Permit {
        Permit::unasked(tenant, false)
    }

    /// One for a copy of what this one was given for: a mirror answers nobody, and the tenant is not charged for it.
    #[must_use]
    pub fn mirrored(&self) -> Permit {
        Permit::unasked(&self.tenant, false)
    }

    /// One for an attempt of a delivery: the tenant was limited when it was accepted, and its queue says how many are made at
    /// once. To be made only of what the store has accepted.
    #[must_use]
    pub fn of_delivery(tenant: &Arc<Tenant>) -> Permit {
        Permit::unasked(tenant, false)
    }

    /// The way to a further one later, when this one is over or in somebody else's hands.
    #[must_use]
    pub fn standby(&self) -> Standby {
        Standby { tenant: Arc::clone(&self.tenant), counted: self.counted }
    }

    /// Enters the tenant, then the route, then spends of all rates. The tenant is moved: each exchange counts one reference.
    ///
    /// # Errors
    /// The tenant was evicted meanwhile: this one is not counted, and nothing was spent.
    fn new(
        tenant: Arc<Tenant>,
        limits: &RouteLimits,
        now: Tick,
    ) -> Result<Result<(Permit, Option<Standing>), Refusal>, Permit> {
        let mut permit = Permit { tenant, route: None, counted: false, unpaced: false };
        let account = permit.tenant.account();
        let held = account.entitlement.load();
        let verdict = match enter(&account.in_flight, held.plan.concurrency) {
            Err(Closed::Gone) => return Err(permit),
            Err(Closed::Full) => Err(too_many_at_once("the plan")),
            Ok(()) => {
                permit.counted = true;
                permit.unpaced = held.plan.is_unpaced();
                permit.check(&held, limits, now)
            }
        };
        let account = permit.tenant.account();
        let count = if verdict.is_ok() { &account.admitted } else { &account.refused };
        count.fetch_add(1, Relaxed);
        Ok(verdict.map(|standing| (permit, standing)))
    }

    fn check(
        &mut self,
        held: &Entitlement,
        limits: &RouteLimits,
        now: Tick,
    ) -> Result<Option<Standing>, Refusal> {
        let account = self.tenant.account();
        if limits.is_empty() {
            return take_all(account.rates(held), now);
        }
        let state = account.route(limits);
        if enter(&state.in_flight, limits.concurrency).is_err() {
            return Err(too_many_at_once("the route"));
        }
        let state = self.route.insert(state);
        let words = state.words.pin();
        let own: SmallVec<[Arc<Word>; RATES_MAX]> = limits
            .rates
            .iter()
            .map(|rate| Arc::clone(words.get_or_insert_with(Arc::clone(&rate.name), Arc::default)))
            .collect();
        let own = limits.rates.iter().zip(own.iter().map(|word| &**word));
        take_all(account.rates(held).chain(own), now)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(route) = &self.route {
            route.in_flight.fetch_sub(1, Release);
        }
        if self.counted {
            self.tenant.account().in_flight.fetch_sub(1, Release);
        }
    }
}

fn standing(rate: &Rate, word: &Word, now: Tick) -> Standing {
    let (remaining, reset) = word.left(rate, now);
    Standing::of(rate, remaining, reset)
}

/// Spends of all rates or, if one refuses, of none. How it stands with the one that has the least left.
fn take_all<'a>(
    rates: impl Iterator<Item = (&'a Rate, &'a Word)> + Clone,
    now: Tick,
) -> Result<Option<Standing>, Refusal> {
    // All are asked before one is spent: requests that one limit refuses take nothing of another one, not even for
    // the moment until it is given back.
    if rates.clone().nth(1).is_some()
        && let Some((rate, wait)) = longest_wait(rates.clone(), now)
    {
        return Err(over(rate, wait));
    }
    let mut tightest: Option<(&Rate, u64, Duration)> = None;
    for (place, (rate, word)) in rates.clone().enumerate() {
        match word.take(rate, now) {
            Verdict::Passed { remaining, reset } => {
                if tightest.is_none_or(|(_, least, _)| remaining < least) {
                    tightest = Some((rate, remaining, reset));
                }
            }
            Verdict::Refused { retry_after } => {
                for (rate, word) in rates.clone().take(place) {
                    word.give_back(rate);
                }
                let (rate, wait) = longest_wait(rates, now).unwrap_or((rate, retry_after));
                return Err(over(rate, wait));
            }
        }
    }
    Ok(tightest.map(|(rate, remaining, reset)| Standing::of(rate, remaining, reset)))
}

/// The rate that lets nothing pass for longest.
fn longest_wait<'a>(
    rates: impl Iterator<Item = (&'a Rate, &'a Word)>,
    now: Tick,
) -> Option<(&'a Rate, Duration)> {
    let waits = rates.map(|(rate, word)| (rate, word.wait(rate, now)));
    waits.filter(|(_, wait)| !wait.is_zero()).max_by_key(|(_, wait)| *wait)
}

fn over(rate: &Rate, wait: Duration) -> Refusal {
    let mut refusal =
        Refusal::new(&refusal::LIMIT_RATE, "the tenant sends more requests than its limit allows")
            .retry_after(wait);
    refusal.violated = Some(Box::new(Standing::of(rate, 0, wait)));
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
