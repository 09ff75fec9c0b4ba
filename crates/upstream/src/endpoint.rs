//! Endpoints: one address of an upstream, with all that is known of it, shared by all cores.
//!
//! What the traffic reads and writes is atomics; the lock is for what checks and operators say. An [`EndpointSet`] is
//! never changed: discovery swaps it for another that holds the same [`Endpoint`]s where the addresses are the same,
//! so that counters, averages, health and ejections survive a re-resolve and a reload.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_model::balance::{Candidate, Ewma, slow_start};
use tidegate_model::breaker::{self, Breaker};
use tidegate_model::health::{Health, State, Terms, Transition};
use tidegate_model::tick::{Tick, nanos};
use tidegate_wire::clock;
use tidegate_wire::files::{self, OfUpstream};
use tokio::sync::Notify;

use crate::settings::EndpointSettings;

/// What an operator wants of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// It is used.
    #[default]
    Enabled,
    /// It finishes what it has, and gets nothing new.
    Draining,
    /// It is not used.
    Disabled,
}

/// One address of an upstream.
#[derive(Debug)]
pub struct Endpoint {
    /// A key that no other endpoint of the process ever has.
    pub id: u64,
    /// Its address.
    pub address: SocketAddr,
    weight: AtomicU32,
    admin: AtomicU8,
    /// It is in no set any more: what is under way on it ends, and nothing of it is kept.
    gone: AtomicBool,
    /// It has chosen HTTP/1.1 where it was offered HTTP/2 too.
    pub(crate) chose_http1: AtomicBool,
    /// What the record of its checks comes to, for the traffic to read.
    healthy: AtomicBool,
    checks: Mutex<Checks>,
    /// Ejects it after failures in a row.
    pub(crate) breaker: Breaker,
    /// When it began, or began again, to serve.
    serving_since: AtomicU64,
    /// `Retry-After`: not before this tick, if there is another.
    busy_until: AtomicU64,
    latency: AtomicU64,
    latency_at: AtomicU64,
    active: AtomicU32,
    connections: AtomicU32,
    /// Calls that wait for a connection, because there are as many as may be.
    wanted: AtomicU32,
    /// Wakes them.
    freed: Notify,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) connects: AtomicU64,
}

/// What active checks have found.
#[derive(Debug, Default)]
struct Checks {
    health: Health,
    done: u64,
    error: Option<String>,
}

/// The endpoints of an upstream. Never changed: swapped.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Grows with each swap: what was computed from a set is good for its version alone.
    pub version: u64,
    /// In the order of configuration or discovery.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Whether all weigh the same.
    pub(crate) is_even: bool,
}

/// An endpoint as an operator sees it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(deny_unknown_fields)]
pub struct EndpointStatus {
    /// Its address.
    pub address: SocketAddr,
    /// Its configured or discovered share.
    pub weight: u32,
    /// How much of that slow start leaves it: 1 is all.
    pub share: f64,
    /// What the operator wants.
    pub admin: Admin,
    /// `up`; or why it gets nothing: `unhealthy`, `ejected`, `paused` (it asked for it by `Retry-After`).
    pub state: &'static str,
    /// What active checks come to: `unknown`, `healthy`, `unhealthy`.
    pub health: &'static str,
    /// For how long they have come to that.
    pub health_since_ms: u64,
    /// Checks answered ever, well or not.
    pub checks: u64,
    /// What went wrong with the last check; `None`: it went well.
    pub health_error: Option<String>,
    /// How much longer it stays ejected.
    pub ejected_ms: Option<u64>,
    /// How much longer it asked to be left alone.
    pub paused_ms: Option<u64>,
    /// Calls under way.
    pub active: u32,
    /// Connections open.
    pub connections: u32,
    /// Calls ever.
    pub requests: u64,
    /// Failed calls ever.
    pub failures: u64,
    /// Connections made ever.
    pub connects: u64,
    /// Times it was ejected.
    pub ejections: u64,
    /// Its latency average, peaks weighing heavily, in milliseconds.
    pub latency_ms: f64,
}

impl Endpoint {
    fn new(settings: &EndpointSettings, admin: Admin, now: Tick) -> Endpoint {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Endpoint {
            id: NEXT.fetch_add(1, Relaxed),
            address: settings.address,
            weight: AtomicU32::new(settings.weight),
            admin: AtomicU8::new(admin as u8),
            gone: AtomicBool::new(false),
            chose_http1: AtomicBool::new(false),
            healthy: AtomicBool::new(true),
            checks: Mutex::new(Checks { health: Health::unknown(now), ..Checks::default() }),
            breaker: Breaker::default(),
            serving_since: AtomicU64::new(now.0),
            busy_until: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            latency_at: AtomicU64::new(0),
            active: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            freed: Notify::new(),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            connects: AtomicU64::new(0),
        }
    }

    /// What the operator wants of it.
    #[must_use]
    pub fn admin(&self) -> Admin {
        match self.admin.load(Relaxed) {
            0 => Admin::Enabled,
            1 => Admin::Draining,
            _ => Admin::Disabled,
        }
    }

    /// Says what the operator wants of it.
    pub fn set_admin(&self, admin: Admin, now: Tick) {
        let before = self.admin();
        self.admin.store(admin as u8, SeqCst);
        if before != Admin::Enabled && admin == Admin::Enabled {
            self.serving_since.store(now.0, Relaxed);
        }
    }

    /// Notes what an active check found. The transition, if it made one.
    pub fn checked(&self, found: Result<(), String>, terms: Terms, now: Tick) -> Option<Transition> {
        let mut checks = self.checks.lock();
        checks.done += 1;
        let transition = checks.health.answered(found.is_ok(), terms, now);
        checks.error = found.err();
        let transition = transition?;
        self.healthy.store(transition.to != State::Unhealthy, Relaxed);
        if transition.from == State::Unhealthy {
            self.serving_since.store(now.0, Relaxed);
        }
        Some(transition)
    }

    /// Forgets what active checks have found: they were switched off, and nobody would ever take it back.
    pub fn forget_checks(&self, now: Tick) {
        let mut checks = self.checks.lock();
        if checks.health.state() != State::Unknown {
            *checks = Checks { health: Health::unknown(now), done: checks.done, error: None };
            self.healthy.store(true, Relaxed);
        }
    }

    /// Whether active checks find it healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Relaxed)
    }

    /// Whether it may be used at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.admin.load(Relaxed) == 0
    }

    /// Whether its connections are worth keeping: it is enabled, and still one of the upstream's.
    #[must_use]
    pub(crate) fn is_kept(&self) -> bool {
        self.is_enabled() && !self.gone.load(Relaxed)
    }

    /// Whether it is enabled, healthy, not ejected and has not asked for a pause.
    #[must_use]
    pub fn is_usable(&self, now: Tick) -> bool {
        self.is_enabled()
            && self.is_healthy()
            && !self.breaker.is_open(now)
            && self.busy_until.load(Relaxed) <= now.0
    }

    /// Its configured or discovered share.
    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    /// How long it is to be left alone, as far as that is known: what is unhealthy is asked again all the time.
    pub(crate) fn rest(&self, now: Tick) -> Duration {
        let ejected = self.breaker.open_for(now).unwrap_or_default();
        ejected.max(Tick(self.busy_until.load(Relaxed)).since(now))
    }

    /// It asked for a pause.
    pub(crate) fn busy_for(&self, wait: Duration, now: Tick) {
        self.busy_until.store(now.after(wait.min(Duration::from_secs(60))).0, Relaxed);
    }

    /// What the balancer knows of it.
    pub(crate) fn candidate(&self, slow: Duration, now: Tick) -> Candidate {
        Candidate {
            weight: f64::from(self.weight.load(Relaxed)) * self.share(slow, now),
            active: self.active.load(Relaxed),
            // What was known of one that was ejected is known no more.
            latency: if self.breaker.is_tripped() { 0.0 } else { self.average().now(now) },
        }
    }

    /// What slow start leaves it of its weight.
    fn share(&self, slow: Duration, now: Tick) -> f64 {
        match slow {
            Duration::ZERO => 1.0,
            window => slow_start(now.since(Tick(self.serving_since.load(Relaxed))), window),
        }
    }

    fn average(&self) -> Ewma {
        Ewma { value: f64::from_bits(self.latency.load(Relaxed)), at: Tick(self.latency_at.load(Relaxed)) }
    }

    /// A call begins; `None`: the endpoint is no longer to be used. An operator who has drained it and then reads that
    /// no call is under way may stop it: either this call sees the one, or the operator sees the other.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Busy> {
        self.active.fetch_add(1, SeqCst);
        let busy = Busy(Arc::clone(self));
        if self.admin.load(SeqCst) != 0 {
            return None;
        }
        self.requests.fetch_add(1, Relaxed);
        Some(busy)
    }

    /// Calls that it was given, ever.
    pub(crate) fn served(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Takes one of the connections that there may be.
    pub(crate) fn reserve(self: &Arc<Self>, most: u32) -> Option<Reserved> {
        let more = |open: u32| (open < most).then_some(open + 1);
        let reserved = || Reserved { endpoint: Arc::clone(self), file: None };
        self.connections.fetch_update(SeqCst, SeqCst, more).ok().map(|_| reserved())
    }

    /// Whether somebody waits for one of the connections that there may be, or for a file descriptor.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(SeqCst) > 0 || files::are_short()
    }

    /// Takes one of the connections that there may be, after waiting for it if need be; `None`: it did not become free
    /// until this tick, or more calls than `waiting` wait already. Idle connections of other cores are given up for it.
    pub(crate) async fn reserve_by(
        self: &Arc<Self>,
        most: u32,
        waiting: usize,
        by: Tick,
    ) -> Option<Reserved> {
        if let Some(reserved) = self.reserve(most) {
            return Some(reserved);
        }
        let before = self.wanted.fetch_add(1, SeqCst);
        let _wanting = Wanting(&self.wanted);
        if before as usize >= waiting {
            return None;
        }
        // As long as somebody waits, none is put aside anew.
        if before == 0 {
            WANTED.notify_waiters();
        }
        // Asked again after having been counted: whoever frees one from now on sees that somebody waits.
        loop {
            if let Some(reserved) = self.reserve(most) {
                return Some(reserved);
            }
            clock::timeout_at(by, self.freed.notified()).await.ok()?;
        }
    }

    /// A call's head came, or the call failed, after this time.
    pub(crate) fn sample(&self, latency: Duration, failed: bool, now: Tick) {
        self.note_average(self.average().after(latency, failed, now));
    }

    /// A call was given up after this time: its head would have come later still.
    pub(crate) fn sample_at_least(&self, latency: Duration, now: Tick) {
        let before = self.average();
        if nanos(latency) as f64 > before.value {
            self.note_average(before.after(latency, false, now));
        }
    }

    fn note_average(&self, average: Ewma) {
        // Two cores may both write: one sample of two is lost, never more.
        self.latency.store(average.value.to_bits(), Relaxed);
        self.latency_at.store(average.at.0, Relaxed);
    }

    /// A call went well.
    pub(crate) fn succeeded(&self, probe: Option<breaker::Probe>, latency: Duration, now: Tick) {
        if self.breaker.succeeded(probe, now) {
            // It begins anew: with a small share, and with nothing held against it.
            self.serving_since.store(now.0, Relaxed);
            self.note_average(Ewma::default().after(latency, false, now));
        } else {
            self.sample(latency, false, now);
        }
    }

    /// What an operator sees, where a slow start takes so long.
    #[must_use]
    pub fn status(&self, slow: Duration, now: Tick) -> EndpointStatus {
        let ejected = match self.breaker.state(now) {
            breaker::State::Closed => None,
            breaker::State::Open | breaker::State::HalfOpen => {
                Some(self.breaker.open_for(now).unwrap_or_default())
            }
        };
        let paused = Tick(self.busy_until.load(Relaxed)).since(now);
        let state = match (self.is_healthy(), ejected, paused.is_zero()) {
            (false, ..) => "unhealthy",
            (true, Some(_), _) => "ejected",
            (true, None, false) => "paused",
            (true, None, true) => "up",
        };
        let checks = self.checks.lock();
        EndpointStatus {
            address: self.address,
            weight: self.weight.load(Relaxed),
            share: self.share(slow, now),
            admin: self.admin(),
            state,
            health: checks.health.state().name(),
            health_since_ms: millis(now.since(checks.health.since())),
            checks: checks.done,
            health_error: checks.error.clone(),
            ejected_ms: ejected.map(millis),
            paused_ms: (!paused.is_zero()).then(|| millis(paused)),
            active: self.active.load(Relaxed),
            connections: self.connections.load(Relaxed),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
            connects: self.connects.load(Relaxed),
            ejections: self.breaker.opened(),
            latency_ms: f64::from_bits(self.latency.load(Relaxed)) / 1e6,
        }
    }
}

/// Wakes every core when a call waits for a connection: others may have idle ones that they can give up.
pub(crate) static WANTED: Notify = Notify::const_new();

struct Wanting<'a>(&'a AtomicU32);

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// One of the connections that an endpoint may have: being made, idle or in use.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) endpoint: Arc<Endpoint>,
    file: Option<OfUpstream>,
}

impl Reserved {
    /// Takes a file descriptor for it. `false`: the process has none that may be taken, and idle connections are given
    /// up for the next that asks.
    pub(crate) fn open(&mut self) -> bool {
        self.file = OfUpstream::take();
        if self.file.is_none() {
            WANTED.notify_waiters();
        }
        self.file.is_some()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.endpoint.connections.fetch_sub(1, SeqCst);
        if self.endpoint.is_wanted() {
            self.endpoint.freed.notify_one();
        }
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Endpoint>);

impl Busy {
    /// It broke off after the head of its answer.
    pub(crate) fn broke(&self) {
        self.0.failures.fetch_add(1, Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl EndpointSet {
    /// These addresses, each once; what was known of one that stays is kept. A new one begins as `admin` says. Calls
    /// that are under way on one that goes come to their end there.
    #[must_use]
    pub fn update(
        &self,
        settings: &[EndpointSettings],
        admin: impl Fn(SocketAddr) -> Admin,
        now: Tick,
    ) -> EndpointSet {
        let held: HashMap<SocketAddr, &Arc<Endpoint>> =
            self.endpoints.iter().map(|endpoint| (endpoint.address, endpoint)).collect();
        let mut seen = HashSet::new();
        let endpoints: Vec<_> = settings
            .iter()
            .filter(|one| seen.insert(one.address))
            .map(|one| match held.get(&one.address) {
                Some(&held) => {
                    held.weight.store(one.weight, Relaxed);
                    Arc::clone(held)
                }
                None => Arc::new(Endpoint::new(one, admin(one.address), now)),
            })
            .collect();
        for endpoint in self.endpoints.iter().filter(|endpoint| !seen.contains(&endpoint.address)) {
            endpoint.gone.store(true, Relaxed);
        }
        let is_even = settings.iter().all(|one| one.weight == settings[0].weight);
        EndpointSet { version: self.version + 1, endpoints, is_even }
    }

    /// The same endpoints under another version: what was computed from them is computed anew.
    #[must_use]
    pub(crate) fn renewed(&self) -> EndpointSet {
        EndpointSet { version: self.version + 1, endpoints: self.endpoints.clone(), is_even: self.is_even }
    }

    /// Whether these addresses and weights are what it holds already, in this order.
    #[must_use]
    pub fn is(&self, settings: &[EndpointSettings]) -> bool {
        self.endpoints.len() == settings.len()
            && self
                .endpoints
                .iter()
                .zip(settings)
                .all(|(held, one)| held.address == one.address && held.weight.load(Relaxed) == one.weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { healthy: 2, unhealthy: 2 };

    fn listed(addresses: &[&str]) -> Vec<EndpointSettings> {
        addresses.iter().map(|a| EndpointSettings { address: a.parse().unwrap(), weight: 1 }).collect()
    }

    fn set(before: &EndpointSet, addresses: &[&str]) -> EndpointSet {
        before.update(&listed(addresses), |_| Admin::Enabled, Tick(1))
    }

    #[test]
    fn an_endpoint_that_stays_keeps_what_is_known_of_it() {
        let first = set(&EndpointSet::default(), &["127.0.0.1:1", "127.0.0.1:2"]);
        first.endpoints[1].set_admin(Admin::Draining, Tick(1));
        let second = set(&first, &["127.0.0.1:3", "127.0.0.1:2"]);
        assert_eq!(second.endpoints[1].id, first.endpoints[1].id);
        assert_eq!(second.endpoints[1].admin(), Admin::Draining);
        assert_ne!(second.endpoints[0].id, first.endpoints[0].id);
        assert!(second.version > first.version);
    }

    #[test]
    fn an_address_listed_twice_is_one_endpoint() {
        let twice = listed(&["127.0.0.1:1", "127.0.0.1:1"]);
        assert_eq!(EndpointSet::default().update(&twice, |_| Admin::Enabled, Tick(1)).endpoints.len(), 1);
    }

    #[test]
    fn a_set_knows_whether_anything_would_change() {
        let held = set(&EndpointSet::default(), &["127.0.0.1:1"]);
        assert!(held.is(&listed(&["127.0.0.1:1"])));
        assert!(!held.is(&listed(&["127.0.0.1:2"])));
        assert!(!held.is(&[EndpointSettings { weight: 2, ..listed(&["127.0.0.1:1"])[0].clone() }]));
    }

    #[test]
    fn is_usable_only_when_nothing_speaks_against_it() {
        let set = set(&EndpointSet::default(), &["127.0.0.1:1"]);
        let endpoint = &set.endpoints[0];
        let later = Tick(2_000_000_000);
        assert!(endpoint.is_usable(Tick(1)));
        endpoint.busy_for(Duration::from_secs(1), Tick(1));
        assert_eq!(endpoint.status(Duration::ZERO, Tick(1)).paused_ms, Some(1000));
        assert!(!endpoint.is_usable(Tick(2)) && endpoint.is_usable(later));
        endpoint.checked(Err("refused".into()), TERMS, Tick(1));
        assert_eq!(endpoint.status(Duration::ZERO, later).state, "unhealthy");
        assert!(!endpoint.is_usable(later));
    }

    #[test]
    fn one_good_check_of_two_wanted_leaves_it_unhealthy_and_tells_so() {
        let set = set(&EndpointSet::default(), &["127.0.0.1:1"]);
        let endpoint = &set.endpoints[0];
        endpoint.checked(Err("refused".into()), TERMS, Tick(1));
        assert_eq!(endpoint.status(Duration::ZERO, Tick(1)).health_error.as_deref(), Some("refused"));
        endpoint.checked(Ok(()), TERMS, Tick(2));
        let status = endpoint.status(Duration::ZERO, Tick(2));
        assert_eq!((status.health, status.checks, status.health_error), ("unhealthy", 2, None));
        endpoint.checked(Ok(()), TERMS, Tick(3));
        assert_eq!(endpoint.status(Duration::ZERO, Tick(3)).state, "up");
    }

    #[test]
    fn a_drained_endpoint_that_shows_no_call_has_none_and_gets_none() {
        let set = set(&EndpointSet::default(), &["127.0.0.1:1"]);
        let endpoint = &set.endpoints[0];
        let busy = endpoint.enter().expect("it is enabled");
        endpoint.set_admin(Admin::Draining, Tick(1));
        assert_eq!(endpoint.status(Duration::ZERO, Tick(1)).active, 1);
        assert!(endpoint.enter().is_none());
        drop(busy);
        let status = endpoint.status(Duration::ZERO, Tick(1));
        assert_eq!((status.active, status.requests), (0, 1));
    }

    #[test]
    fn connections_that_are_being_made_count_too() {
        let set = set(&EndpointSet::default(), &["127.0.0.1:1"]);
        let first = set.endpoints[0].reserve(1);
        assert!(first.is_some() && set.endpoints[0].reserve(1).is_none());
        drop(first);
        assert!(set.endpoints[0].reserve(1).is_some());
    }

    #[test]
    fn connections_of_an_endpoint_that_has_gone_are_not_kept() {
        let first = set(&EndpointSet::default(), &["127.0.0.1:1", "127.0.0.1:2"]);
        set(&first, &["127.0.0.1:2"]);
        assert_eq!(first.endpoints.iter().map(|one| one.is_kept()).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn an_endpoint_that_was_ejected_begins_slowly_and_with_nothing_held_against_it() {
        let set = set(&EndpointSet::default(), &["127.0.0.1:1"]);
        let endpoint = &set.endpoints[0];
        let second = Duration::from_secs(1);
        let terms = breaker::Terms { consecutive: 1, cooldown: second, cooldown_max: second };
        endpoint.sample(second, true, Tick(1));
        assert!(endpoint.breaker.failed(&terms, None, Tick(1), Tick(1)));
        let later = Tick(1).after(second * 60);
        let breaker::Verdict::Probe(probe) = endpoint.breaker.ask(&terms, later, later) else {
            panic!("a probe is due")
        };
        assert_eq!(endpoint.candidate(second, later).latency, 0.0);
        endpoint.succeeded(Some(probe), Duration::from_millis(1), later);
        let known = endpoint.candidate(second, later);
        assert_eq!((known.weight, known.latency), (0.1, 1e6));
    }

    #[test]
    fn a_call_that_was_given_up_raises_the_average_and_never_lowers_it() {
        let set = set(&EndpointSet::default(), &["127.0.0.1:1"]);
        let endpoint = &set.endpoints[0];
        endpoint.sample(Duration::from_millis(10), false, Tick(1));
        endpoint.sample_at_least(Duration::from_millis(1), Tick(2));
        assert_eq!(endpoint.average().value, 10e6);
        endpoint.sample_at_least(Duration::from_millis(50), Tick(3));
        assert_eq!(endpoint.average().value, 50e6);
    }

    #[test]
    fn switching_checks_off_takes_their_verdict_back() {
        let set = set(&EndpointSet::default(), &["127.0.0.1:1"]);
        set.endpoints[0].checked(Err("refused".into()), TERMS, Tick(1));
        set.endpoints[0].forget_checks(Tick(2));
        assert!(set.endpoints[0].is_usable(Tick(2)));
    }
}
