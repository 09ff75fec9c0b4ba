//! The upstreams of the process: what all cores share of them, kept by name over a reload.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;
use tidegate_model::breaker::Breaker;
use tidegate_model::refusal::Refusal;
use tidegate_model::retry::{Budget, Latencies};
use tidegate_model::tick::Tick;
use tidegate_wire::client_tls::{ClientTls, ClientTlsError};
use tidegate_wire::clock;
use tidegate_wire::settings::Protocol;
use tokio::sync::Notify;

use crate::endpoint::{Admin, EndpointSet, EndpointStatus};
use crate::gate::{Gate, Slot};
use crate::settings::{Discovery, EndpointSettings, UpstreamSettings};

/// A named service: everything of it that all cores share.
#[derive(Debug)]
pub struct Upstream {
    /// A key that no other upstream of the process ever has.
    pub(crate) id: u64,
    settings: ArcSwap<UpstreamSettings>,
    tls: ArcSwap<Option<Arc<ClientTls>>>,
    endpoints: ArcSwap<EndpointSet>,
    gate: Gate,
    pub(crate) breaker: Breaker,
    pub(crate) budget: Budget,
    pub(crate) latencies: Latencies,
    /// What discovery says went wrong last.
    discovery_error: Mutex<Option<String>>,
    /// Tells the drivers of discovery and health that the settings have changed or that it is gone.
    pub(crate) changed: Notify,
}

/// An upstream as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: Arc<str>,
    /// `closed` or `open`.
    pub breaker: &'static str,
    /// Times the breaker opened.
    pub breaker_opened: u64,
    /// The limit of its concurrency.
    pub concurrency: Option<u32>,
    /// Slots in use.
    pub in_use: usize,
    /// Requests waiting for a slot.
    pub waiting: usize,
    /// The median of its latency, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of its latency, in milliseconds.
    pub p99_ms: Option<f64>,
    /// What discovery says went wrong last.
    pub discovery_error: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

impl Upstream {
    fn new(settings: UpstreamSettings, now: Tick) -> Result<Upstream, ClientTlsError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let upstream = Upstream {
            id: NEXT.fetch_add(1, Relaxed),
            tls: ArcSwap::from_pointee(tls_of(&settings)?),
            gate: Gate::new(settings.concurrency),
            settings: ArcSwap::from_pointee(settings),
            endpoints: ArcSwap::from_pointee(EndpointSet::default()),
            breaker: Breaker::default(),
            budget: Budget::default(),
            latencies: Latencies::default(),
            discovery_error: Mutex::new(None),
            changed: Notify::new(),
        };
        upstream.listed(now);
        Ok(upstream)
    }

    fn change(&self, settings: UpstreamSettings, now: Tick) -> Result<(), ClientTlsError> {
        if **self.settings.load() == settings {
            return Ok(());
        }
        self.tls.store(Arc::new(tls_of(&settings)?));
        self.gate.resize(settings.concurrency);
        self.settings.store(Arc::new(settings));
        self.listed(now);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Takes the endpoints that the configuration lists.
    fn listed(&self, now: Tick) {
        if let Discovery::Static(endpoints) = &self.settings.load().discovery {
            self.discovered(endpoints, now);
        }
    }

    /// Takes what discovery found. What was known of endpoints that stay is kept.
    pub(crate) fn discovered(&self, endpoints: &[EndpointSettings], now: Tick) {
        *self.discovery_error.lock() = None;
        self.endpoints.store(Arc::new(self.endpoints.load().update(endpoints, now)));
    }

    /// Discovery failed; the endpoints that there are stay. `true`: it is another failure than before.
    pub(crate) fn not_discovered(&self, error: String) -> bool {
        let mut held = self.discovery_error.lock();
        let news = held.as_deref() != Some(&error);
        *held = Some(error);
        news
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> Arc<UpstreamSettings> {
        self.settings.load_full()
    }

    /// Its endpoints.
    #[must_use]
    pub fn endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.load_full()
    }

    pub(crate) fn tls(&self) -> Option<Arc<ClientTls>> {
        (**self.tls.load()).clone()
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.load().is_some()
    }

    /// Whether its connections may carry many requests at once.
    pub(crate) fn may_multiplex(&self) -> bool {
        match self.settings.load().protocol {
            Protocol::Http1 => false,
            Protocol::H2 => true,
            Protocol::Auto => self.is_tls(),
        }
    }

    /// Whether one more endpoint may be ejected.
    pub(crate) fn may_eject(&self, max_percent: u8, now: Tick) -> bool {
        let set = self.endpoints.load();
        let ejected = set.endpoints.iter().filter(|endpoint| endpoint.breaker.is_open(now)).count();
        (ejected + 1) * 100 <= set.endpoints.len() * usize::from(max_percent)
    }

    pub(crate) fn try_enter(&self, settings: &UpstreamSettings) -> Option<Slot> {
        self.gate.try_enter(settings.concurrency.is_some())
    }

    pub(crate) async fn enter(
        &self,
        settings: &UpstreamSettings,
        deadline: Tick,
    ) -> Result<(Slot, Duration), Refusal> {
        self.gate.enter(settings.concurrency.is_some(), settings.waiting, deadline).await
    }

    /// What an operator sees.
    #[must_use]
    pub fn status(&self, now: Tick) -> UpstreamStatus {
        let settings = self.settings.load();
        let (in_use, waiting) = self.gate.usage(settings.concurrency);
        let millis = |share: f64| self.latencies.quantile(share).map(|latency| latency.as_secs_f64() * 1e3);
        UpstreamStatus {
            name: Arc::clone(&settings.name),
            breaker: if self.breaker.is_tripped() { "open" } else { "closed" },
            breaker_opened: self.breaker.opened(),
            concurrency: settings.concurrency,
            in_use,
            waiting,
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
            discovery_error: self.discovery_error.lock().clone(),
            endpoints: self.endpoints.load().endpoints.iter().map(|endpoint| endpoint.status(now)).collect(),
        }
    }
}

fn tls_of(settings: &UpstreamSettings) -> Result<Option<Arc<ClientTls>>, ClientTlsError> {
    let host = match &settings.discovery {
        Discovery::Dns { host, .. } => Some(host.as_str()),
        Discovery::Static(_) | Discovery::Srv { .. } | Discovery::File(_) => None,
    };
    settings.tls.as_ref().map(|tls| ClientTls::new(tls, host).map(Arc::new)).transpose()
}

/// All upstreams of the process.
#[derive(Debug, Default)]
pub struct Upstreams {
    by_name: ArcSwap<HashMap<Arc<str>, Arc<Upstream>>>,
    pub(crate) changed: Notify,
}

/// Why an upstream cannot be used as configured.
#[derive(Debug, thiserror::Error)]
#[error("upstream `{name}`")]
pub struct UpstreamError {
    /// Which.
    pub name: Arc<str>,
    /// Why.
    #[source]
    pub source: ClientTlsError,
}

impl Upstreams {
    /// Makes the upstreams these. State of those that stay is kept by name; the drivers of the others end.
    ///
    /// # Errors
    /// TLS to an upstream cannot be set up; nothing is changed then but upstreams that came before it in the list.
    pub fn apply(&self, settings: Vec<UpstreamSettings>) -> Result<(), UpstreamError> {
        let now = clock::now();
        let before = self.by_name.load();
        let mut after = HashMap::new();
        for one in settings {
            let name = Arc::clone(&one.name);
            let failed = |source| UpstreamError { name: Arc::clone(&name), source };
            let upstream = match before.get(&name) {
                Some(held) => {
                    held.change(one, now).map_err(failed)?;
                    Arc::clone(held)
                }
                None => Arc::new(Upstream::new(one, now).map_err(failed)?),
            };
            after.insert(name, upstream);
        }
        self.by_name.store(Arc::new(after));
        for upstream in before.values() {
            upstream.changed.notify_waiters();
        }
        self.changed.notify_one();
        Ok(())
    }

    /// The upstream of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Upstream>> {
        self.by_name.load().get(name).cloned()
    }

    /// Whether this very upstream is still one of the process's.
    pub(crate) fn has(&self, upstream: &Upstream) -> bool {
        self.by_name.load().get(&upstream.settings.load().name).is_some_and(|held| held.id == upstream.id)
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Upstream>> {
        let mut all: Vec<_> = self.by_name.load().values().cloned().collect();
        all.sort_by_key(|upstream| Arc::clone(&upstream.settings.load().name));
        all
    }

    /// What an operator sees of all of them.
    #[must_use]
    pub fn status(&self) -> Vec<UpstreamStatus> {
        let now = clock::now();
        self.all().iter().map(|upstream| upstream.status(now)).collect()
    }

    /// Says what the operator wants of an endpoint. `false`: there is no such one.
    pub fn set_endpoint(&self, upstream: &str, address: std::net::SocketAddr, admin: Admin) -> bool {
        let endpoint = self.get(upstream).and_then(|upstream| {
            upstream.endpoints.load().endpoints.iter().find(|endpoint| endpoint.address == address).cloned()
        });
        if let Some(endpoint) = &endpoint {
            endpoint.set_admin(admin, clock::now());
            tracing::info!(upstream, %address, ?admin, "endpoint state set");
        }
        endpoint.is_some()
    }
}
