//! Protect: whether the process can bear one more exchange. It is asked before a body is read or a tenant looked for.
//!
//! The [`Shield`] says what runs short. Whoever measures writes to it, a few times a second; the cores read it: while
//! nothing runs short, that is one load of a word for each request. What bodies may make the process hold is counted
//! here, before they are read: between two looks at the memory of the process much can come.
//!
//! It decides nothing: [`tidegate_model::protect`] does.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::Version;
use tidegate_model::gate::Priority;
use tidegate_model::protect::{Stage, height, is_greedy};
use tidegate_model::refusal::{self, Kind, Refusal};
use tidegate_model::tenant::Tenant;
use tidegate_model::tick::nanos;

use crate::entropy::Entropy;

/// When a client may come again at the earliest, and how much later at most: all of them shall not come at once.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_SPREAD_MS: u128 = 3_000;
/// A body that may make us hold fewer bytes is not counted: it is part of what an exchange counts for.
const HELD_MIN: u64 = 4 << 10;

/// What the process runs short of, for all cores to see.
#[derive(Debug)]
pub struct Shield {
    /// Level in the upper four bits, stage of memory in the lower four.
    state: AtomicU8,
    /// Bytes for each unit of weight from which a tenant is greedy.
    per_weight: AtomicU64,
    /// What bodies may make the process hold; 0: as much as they like.
    held_max: AtomicU64,
    /// How late a core may be, in nanoseconds; 0: as late as it likes.
    lag_max: AtomicU64,
    cores: Box<[CoreShield]>,
}

/// What one core runs short of. Written by that core alone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CoreShield {
    stage: AtomicU8,
    /// Bytes that the bodies of its exchanges may make us hold.
    held: AtomicU64,
    /// The lateness that stands, in nanoseconds.
    lag: AtomicU64,
    /// How full the list of those is who wait to be accepted, in thousandths.
    backlog: AtomicU64,
}

impl CoreShield {
    /// How the core stands now.
    pub fn tell(&self, stage: Stage, lag: Duration, backlog: f64) {
        self.stage.store(stage as u8, Relaxed);
        self.lag.store(nanos(lag), Relaxed);
        self.backlog.store((backlog * 1e3) as u64, Relaxed);
    }

    /// Whom it refuses.
    #[must_use]
    pub fn stage(&self) -> Stage {
        Stage::numbered(self.stage.load(Relaxed))
    }

    /// The lateness that stands.
    #[must_use]
    pub fn lag(&self) -> Duration {
        Duration::from_nanos(self.lag.load(Relaxed))
    }

    /// How full the list of those is who wait to be accepted, 0 to 1.
    #[must_use]
    pub fn backlog(&self) -> f64 {
        self.backlog.load(Relaxed) as f64 / 1e3
    }

    /// Only its own core writes: nothing is lost between the two.
    fn set_held(&self, change: impl FnOnce(u64) -> u64) {
        self.held.store(change(self.held.load(Relaxed)), Relaxed);
    }
}

impl Shield {
    /// A shield for so many cores, nothing running short.
    #[must_use]
    pub fn new(cores: usize) -> Arc<Shield> {
        Arc::new(Shield {
            state: AtomicU8::new(0),
            per_weight: AtomicU64::new(u64::MAX),
            held_max: AtomicU64::new(0),
            lag_max: AtomicU64::new(0),
            cores: (0..cores).map(|_| CoreShield::default()).collect(),
        })
    }

    /// How the process stands now: its level, whom it refuses for want of memory, and from where on a tenant is greedy.
    pub fn tell(&self, level: u8, memory: Stage, per_weight: u64) {
        self.per_weight.store(per_weight, Relaxed);
        self.state.store(level << 4 | memory as u8, Relaxed);
    }

    /// Bounds what bodies may make the process hold, and how late its cores may be; zero: not at all.
    pub fn bound(&self, held_max: u64, lag_max: Duration) {
        self.held_max.store(held_max, Relaxed);
        self.lag_max.store(nanos(lag_max), Relaxed);
    }

    /// How late a core may be; zero: as late as it likes.
    #[must_use]
    pub fn lag_max(&self) -> Duration {
        Duration::from_nanos(self.lag_max.load(Relaxed))
    }

    /// The level of the process.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.state.load(Relaxed) >> 4
    }

    /// Whom it refuses for want of memory.
    #[must_use]
    pub fn memory(&self) -> Stage {
        Stage::numbered(self.state.load(Relaxed) & 0xf)
    }

    /// Bytes that bodies may make the process hold, and how many they may at most.
    #[must_use]
    pub fn held(&self) -> (u64, u64) {
        let held = self.cores.iter().map(|core| core.held.load(Relaxed));
        (held.fold(0, u64::saturating_add), self.held_max.load(Relaxed))
    }

    /// Its cores.
    #[must_use]
    pub fn cores(&self) -> &[CoreShield] {
        &self.cores
    }
}

/// One core's view of the shield.
#[derive(Debug)]
pub struct Guard {
    shield: Arc<Shield>,
    core: usize,
}

impl Guard {
    /// The view of this core.
    ///
    /// # Panics
    /// If the shield has no such core.
    #[must_use]
    pub fn new(shield: &Arc<Shield>, core: usize) -> Rc<Guard> {
        assert!(core < shield.cores.len(), "the shield is made for all cores");
        Rc::new(Guard { shield: Arc::clone(shield), core })
    }

    /// What its own core writes to.
    #[must_use]
    pub fn core(&self) -> &CoreShield {
        &self.shield.cores[self.core]
    }

    /// What it looks at.
    #[must_use]
    pub fn shield(&self) -> &Shield {
        &self.shield
    }

    /// The level of the process.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.shield.level()
    }

    /// Whether an exchange of this importance may go on.
    ///
    /// # Errors
    /// `server.memory`, `server.lag`.
    pub fn request(&self, priority: Priority, entropy: &Entropy) -> Result<(), Refusal> {
        let (memory, lag) = (self.shield.memory(), self.core().stage());
        if memory.refuses(priority) {
            return Err(short_of_memory(entropy));
        }
        if lag.refuses(priority) {
            return Err(refused(
                &refusal::SERVER_LAG,
                "the server has more to do than it can for now",
                entropy,
            ));
        }
        Ok(())
    }

    /// Whether an exchange of this tenant may go on.
    ///
    /// # Errors
    /// `server.memory`.
    pub fn tenant(&self, tenant: &Tenant, entropy: &Entropy) -> Result<(), Refusal> {
        if self.shield.memory() == Stage::Calm {
            return Ok(());
        }
        self.share(tenant, entropy)
    }

    fn share(&self, tenant: &Tenant, entropy: &Entropy) -> Result<(), Refusal> {
        let weight = tenant.with_plan(|plan| plan.weight);
        if !is_greedy(tenant.held(), weight, self.shield.per_weight.load(Relaxed)) {
            return Ok(());
        }
        let why = "the server is short of memory, and the tenant holds more than its share";
        Err(refused(&refusal::SERVER_MEMORY, why, entropy))
    }

    /// Counts what a body may make us hold, unless that is little, or too much is held already.
    ///
    /// What is held is looked at before these bytes: one body goes over by itself at most, and none is refused for ever.
    ///
    /// # Errors
    /// `server.memory`.
    pub fn hold(
        self: &Rc<Self>,
        tenant: &Arc<Tenant>,
        priority: Priority,
        bytes: u64,
        entropy: &Entropy,
    ) -> Result<Option<Held>, Refusal> {
        if bytes < HELD_MIN {
            return Ok(None);
        }
        let (held, most) = self.shield.held();
        let stage = Stage::at(height(held, most));
        if stage.refuses(priority) {
            return Err(short_of_memory(entropy));
        }
        if stage > Stage::Calm {
            self.share(tenant, entropy)?;
        }
        Ok(Some(Held::new(self, tenant, bytes)))
    }

    /// Why a new connection is not to be served now, if it is not.
    #[must_use]
    pub fn connection(&self, entropy: &Entropy) -> Option<Refusal> {
        self.request(Priority::Critical, entropy).err()
    }
}

fn short_of_memory(entropy: &Entropy) -> Refusal {
    refused(&refusal::SERVER_MEMORY, "the server is short of memory", entropy)
}

fn refused(kind: &'static Kind, why: &'static str, entropy: &Entropy) -> Refusal {
    come_again(Refusal::new(kind, why), entropy)
}

/// Tells the client to come again, each at another time.
#[must_use]
pub fn come_again(refusal: Refusal, entropy: &Entropy) -> Refusal {
    let extra = (RETRY_SPREAD_MS * u128::from(entropy.word())) >> 64;
    let extra = Duration::from_millis(u64::try_from(extra).unwrap_or_default());
    refusal.retry_after(RETRY_AFTER + extra)
}

/// Whether a refusal ends its connection: what a connection holds is what is short, or another one is wanted. (HTTP/2 has no such
/// word.)
#[must_use]
pub fn ends_connection(kind: &Kind, version: Version) -> bool {
    let ending = [refusal::SERVER_MEMORY.code, refusal::ROUTE_MISDIRECTED.code];
    version < Version::HTTP_2 && ending.contains(&kind.code)
}

/// Bytes that a body may make us hold, counted until it is dropped.
#[derive(Debug)]
pub struct Held {
    guard: Rc<Guard>,
    tenant: Arc<Tenant>,
    bytes: u64,
}

impl Held {
    fn new(guard: &Rc<Guard>, tenant: &Arc<Tenant>, bytes: u64) -> Held {
        tenant.hold(bytes);
        guard.core().set_held(|held| held.saturating_add(bytes));
        Held { guard: Rc::clone(guard), tenant: Arc::clone(tenant), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tenant.let_go(self.bytes);
        self.guard.core().set_held(|held| held.saturating_sub(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::plan::Plan;
    use tidegate_model::tenant::Tenants;
    use tidegate_model::tick::Tick;

    fn tenants(names: &[&str]) -> Vec<Arc<Tenant>> {
        let plan = Arc::new(Plan {
            name: "p".into(),
            rates: Vec::new(),
            concurrency: None,
            body_bytes_max: None,
            request_bytes_per_second: None,
            response_bytes_per_second: None,
            weight: 1,
        });
        let table = Tenants::new(10);
        names.iter().map(|name| table.find_or_add(name, &plan, Tick(1))).collect()
    }

    /// What requests of each importance, then a new connection, are told.
    fn check(guard: &Guard, expected: [Option<&str>; 4]) {
        let entropy = Entropy::seeded(7);
        let told = |refused: Option<Refusal>| refused.map(|refusal| refusal.kind.code);
        let requests = Priority::ALL.map(|priority| told(guard.request(priority, &entropy).err()));
        let [sheddable, default, critical] = requests;
        assert_eq!([sheddable, default, critical, told(guard.connection(&entropy))], expected);
    }

    #[test]
    fn the_least_important_are_refused_first_and_connections_last() {
        let shield = Shield::new(2);
        let guard = Guard::new(&shield, 0);
        let (memory, lag) = (Some("server.memory"), Some("server.lag"));
        check(&guard, [None; 4]);
        shield.tell(3, Stage::Default, u64::MAX);
        check(&guard, [memory, memory, None, None]);
        shield.tell(0, Stage::All, u64::MAX);
        check(&guard, [memory; 4]);
        shield.tell(0, Stage::Greedy, u64::MAX);
        guard.core().tell(Stage::Sheddable, Duration::from_millis(200), 0.0);
        check(&guard, [lag, None, None, None]);
        check(&Guard::new(&shield, 1), [None; 4]);
    }

    #[test]
    fn greedy_tenants_are_refused_while_memory_runs_short() {
        let shield = Shield::new(1);
        let (guard, entropy, tenants) = (Guard::new(&shield, 0), Entropy::seeded(7), tenants(&["a", "b"]));
        let held = guard.hold(&tenants[0], Priority::Default, 1 << 20, &entropy).unwrap();
        let refused = || [0, 1].map(|one| guard.tenant(&tenants[one], &entropy).is_err());
        assert_eq!(refused(), [false, false]);
        shield.tell(1, Stage::Greedy, 1 << 19);
        assert_eq!(refused(), [true, false]);
        drop(held);
        assert_eq!(refused(), [false, false]);
    }

    #[test]
    fn bodies_may_make_us_hold_no_more_than_the_bound_and_one() {
        let shield = Shield::new(2);
        let guards = [0, 1].map(|core| Guard::new(&shield, core));
        let (entropy, tenants) = (Entropy::seeded(7), tenants(&["a"]));
        let hold = |core: usize, priority| guards[core].hold(&tenants[0], priority, 90 << 10, &entropy);
        shield.bound(100 << 10, Duration::ZERO);
        let first = hold(0, Priority::Default).unwrap();
        assert!(hold(1, Priority::Default).is_err(), "both cores count together");
        assert!(
            guards[1].hold(&tenants[0], Priority::Default, 1, &entropy).unwrap().is_none(),
            "too little to count"
        );
        let last = hold(1, Priority::Critical).unwrap();
        assert_eq!(shield.held(), (180 << 10, 100 << 10));
        assert!(hold(0, Priority::Critical).is_err());
        drop((first, last));
        assert_eq!((shield.held().0, tenants[0].held()), (0, 0));
        assert!(hold(0, Priority::Sheddable).unwrap().is_some());
    }

    #[test]
    fn clients_are_told_to_come_again_at_different_times() {
        let entropy = Entropy::seeded(7);
        let waits: Vec<Duration> = (0..100).map(|_| short_of_memory(&entropy).retry_after.unwrap()).collect();
        assert!(waits.iter().all(|wait| (1.0..=4.0).contains(&wait.as_secs_f64())));
        assert!(waits.iter().any(|wait| wait.as_secs() == 1) && waits.iter().any(|wait| wait.as_secs() == 3));
    }
}
