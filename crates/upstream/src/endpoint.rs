//! Endpoints: one address of an upstream, with all that is known of it, shared by all cores.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_model::balance::{Candidate, Ewma, slow_start};
use tidegate_model::breaker::Breaker;
use tidegate_model::tick::Tick;

use crate::settings::EndpointSettings;

/// What an operator wants of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    healthy: AtomicBool,
    health_error: Mutex<Option<String>>,
    /// Ejects it after failures in a row.
    pub(crate) breaker: Breaker,
    /// When it began, or began again, to serve.
    serving_since: AtomicU64,
    /// `Retry-After`: not before this tick, if there is another.
    busy_until: AtomicU64,
    latency: AtomicU64,
    latency_at: AtomicU64,
    active: AtomicU32,
    pub(crate) connections: AtomicU32,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) connects: AtomicU64,
}

/// The endpoints of an upstream. Never changed: swapped.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// In the order of configuration or discovery.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// An endpoint as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointStatus {
    /// Its address.
    pub address: SocketAddr,
    /// Its configured or discovered share.
    pub weight: u32,
    /// What the operator wants.
    pub admin: Admin,
    /// `up`, `unhealthy`, `ejected`.
    pub state: &'static str,
    /// The last failed health check, while unhealthy.
    pub health_error: Option<String>,
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
    fn new(settings: &EndpointSettings, now: Tick) -> Endpoint {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Endpoint {
            id: NEXT.fetch_add(1, Relaxed),
            address: settings.address,
            weight: AtomicU32::new(settings.weight),
            admin: AtomicU8::new(0),
            healthy: AtomicBool::new(true),
            health_error: Mutex::new(None),
            breaker: Breaker::default(),
            serving_since: AtomicU64::new(now.0),
            busy_until: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            latency_at: AtomicU64::new(0),
            active: AtomicU32::new(0),
            connections: AtomicU32::new(0),
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
        self.admin.store(admin as u8, Relaxed);
        if before != Admin::Enabled && admin == Admin::Enabled {
            self.serving_since.store(now.0, Relaxed);
        }
    }

    /// Notes what an active check found. `true`: it changed something.
    pub fn set_health(&self, healthy: bool, error: Option<String>, now: Tick) -> bool {
        *self.health_error.lock() = error;
        let before = self.healthy.swap(healthy, Relaxed);
        if healthy && !before {
            self.serving_since.store(now.0, Relaxed);
        }
        before != healthy
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

    /// Whether it is enabled, healthy, not ejected and has not asked for a pause.
    #[must_use]
    pub fn is_usable(&self, now: Tick) -> bool {
        self.is_enabled()
            && self.is_healthy()
            && !self.breaker.is_open(now)
            && self.busy_until.load(Relaxed) <= now.0
    }

    /// It asked for a pause.
    pub(crate) fn busy_for(&self, wait: Duration, now: Tick) {
        self.busy_until.store(now.after(wait.min(Duration::from_secs(60))).0, Relaxed);
    }

    /// What the balancer knows of it.
    pub(crate) fn candidate(&self, slow: Duration, now: Tick) -> Candidate {
        let share = match slow {
            Duration::ZERO => 1.0,
            window => slow_start(now.since(Tick(self.serving_since.load(Relaxed))), window),
        };
        Candidate {
            weight: f64::from(self.weight.load(Relaxed)) * share,
            active: self.active.load(Relaxed),
            latency: f64::from_bits(self.latency.load(Relaxed)),
        }
    }

    /// A call begins.
    pub(crate) fn enter(self: &Arc<Self>) -> Busy {
        self.active.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        Busy(Arc::clone(self))
    }

    /// A call's head came, or the call failed, after this time.
    pub(crate) fn sample(&self, latency: Duration, failed: bool, now: Tick) {
        let before = Ewma {
            value: f64::from_bits(self.latency.load(Relaxed)),
            at: Tick(self.latency_at.load(Relaxed)),
        };
        let after = before.after(latency, failed, now);
        // Two cores may both write: one sample of two is lost, never more.
        self.latency.store(after.value.to_bits(), Relaxed);
        self.latency_at.store(after.at.0, Relaxed);
    }

    /// What an operator sees.
    #[must_use]
    pub fn status(&self, now: Tick) -> EndpointStatus {
        let state = match (self.is_healthy(), self.breaker.is_open(now)) {
            (false, _) => "unhealthy",
            (true, true) => "ejected",
            (true, false) => "up",
        };
        EndpointStatus {
            address: self.address,
            weight: self.weight.load(Relaxed),
            admin: self.admin(),
            state,
            health_error: self.health_error.lock().clone(),
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

/// A call under way.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Endpoint>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl EndpointSet {
    /// These addresses; what was known of one that stays is kept.
    #[must_use]
    pub fn update(&self, settings: &[EndpointSettings], now: Tick) -> EndpointSet {
        let kept = |settings: &EndpointSettings| {
            let held = self.endpoints.iter().find(|held| held.address == settings.address)?;
            held.weight.store(settings.weight, Relaxed);
            Some(Arc::clone(held))
        };
        let endpoints = settings
            .iter()
            .map(|one| kept(one).unwrap_or_else(|| Arc::new(Endpoint::new(one, now))))
            .collect();
        EndpointSet { endpoints }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> Vec<EndpointSettings> {
        addresses.iter().map(|a| EndpointSettings { address: a.parse().unwrap(), weight: 1 }).collect()
    }

    #[test]
    fn an_endpoint_that_stays_keeps_what_is_known_of_it() {
        let first = EndpointSet::default().update(&set(&["127.0.0.1:1", "127.0.0.1:2"]), Tick(1));
        first.endpoints[1].set_admin(Admin::Draining, Tick(1));
        let second = first.update(&set(&["127.0.0.1:3", "127.0.0.1:2"]), Tick(2));
        assert_eq!(second.endpoints[1].id, first.endpoints[1].id);
        assert_eq!(second.endpoints[1].admin(), Admin::Draining);
        assert_ne!(second.endpoints[0].id, first.endpoints[0].id);
    }

    #[test]
    fn is_usable_only_when_nothing_speaks_against_it() {
        let set = EndpointSet::default().update(&set(&["127.0.0.1:1"]), Tick(1));
        let endpoint = &set.endpoints[0];
        assert!(endpoint.is_usable(Tick(1)));
        endpoint.busy_for(Duration::from_secs(1), Tick(1));
        assert!(!endpoint.is_usable(Tick(2)) && endpoint.is_usable(Tick(2_000_000_000)));
        endpoint.set_health(false, Some("refused".into()), Tick(1));
        assert_eq!(endpoint.status(Tick(2_000_000_000)).state, "unhealthy");
        assert!(!endpoint.is_usable(Tick(2_000_000_000)));
    }
}
