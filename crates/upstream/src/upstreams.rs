//! The upstreams of the process: what all cores share of them, kept by name over a reload.
//!
//! A reload either takes all settings or none. What the settings say and which endpoints there are is changed under
//! one lock per upstream, so that an answer of the discovery from before a reload never overwrites what came with it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_model::breaker::{self, Breaker};
use tidegate_model::gate::level::{Level, RefusedShare, Signals};
use tidegate_model::retry::{Budget, Latencies};
use tidegate_model::tick::Tick;
use tidegate_wire::client::Target;
use tidegate_wire::client_tls::{ClientTls, ClientTlsError};
use tidegate_wire::clock;
use tidegate_wire::settings::Protocol;
use tokio::sync::{Notify, watch};

use crate::discovery::ENDPOINTS_MAX;
use crate::endpoint::{Admin, Endpoint, EndpointSet, EndpointStatus};
use crate::files::{Counts, FilesStatus};
use crate::gate::{Gate, GateStatus};
use crate::settings::{Discovery, EndpointSettings, UpstreamSettings};
use crate::shard::ShardStatus;

/// A named service: everything of it that all cores share.
#[derive(Debug)]
pub struct Upstream {
    /// A key that no other upstream of the process ever has.
    pub(crate) id: u64,
    name: Arc<str>,
    /// Grows when settings or endpoints have changed: what a core keeps of them is good for its version alone.
    version: AtomicU64,
    settings: ArcSwap<UpstreamSettings>,
    tls: ArcSwap<Option<Arc<ClientTls>>>,
    endpoints: ArcSwap<EndpointSet>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) breaker: Breaker,
    pub(crate) budget: Budget,
    pub(crate) latencies: Latencies,
    /// What files have answered.
    pub(crate) files: Arc<Counts>,
    /// How overloaded it is, 0 to 3.
    load: AtomicU8,
    /// What that is made of.
    watched: Mutex<Watched>,
    /// Calls that found no endpoint of their tenant's shard usable: refused, and sent elsewhere.
    pub(crate) shard_refused: AtomicU64,
    pub(crate) shard_spilled: AtomicU64,
    /// Held while an endpoint is ejected: two cores must not both take the last one that may go.
    ejecting: Mutex<()>,
    /// Grows when connections made before must not be used any more: another protocol, other TLS.
    transport: AtomicU64,
    /// Held while settings or endpoints are changed.
    known: Mutex<Known>,
    /// Tells the drivers of discovery and health that settings or endpoints have changed.
    changes: watch::Sender<u64>,
}

/// What an upstream's level is made of.
#[derive(Debug, Default)]
struct Watched {
    level: Level,
    refused: RefusedShare,
}

/// What is known of an upstream's endpoints beyond the set that is in use.
#[derive(Debug, Default)]
struct Known {
    /// When discovery last found them.
    found_at: Option<Tick>,
    /// What went wrong when discovery last failed; `None`: it did not.
    error: Option<String>,
    /// Times that discovery failed.
    failures: u64,
    /// What the operator wants of endpoints, where it is not [`Admin::Enabled`]: kept while the address is away.
    admin: HashMap<SocketAddr, Admin>,
}

/// An upstream as an operator sees it.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(deny_unknown_fields)]
pub struct UpstreamStatus {
    /// Its name.
    pub name: Arc<str>,
    /// `closed`, `open`, or `half-open`: a probe is due or under way.
    pub breaker: &'static str,
    /// Times the breaker opened.
    pub breaker_opened: u64,
    /// How overloaded it is, 0 to 3.
    pub load: u8,
    /// Its gate.
    #[serde(flatten)]
    pub gate: GateStatus,
    /// The median of its latency, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of its latency, in milliseconds.
    pub p99_ms: Option<f64>,
    /// Where its endpoints come from: `static`, `dns NAME`, `srv NAME`, `file PATH`.
    pub discovery: String,
    /// How long ago they were found last; `None`: never.
    pub discovered_ms: Option<u64>,
    /// What went wrong when they were last looked for. Those known stay in use.
    pub discovery_error: Option<String>,
    /// Times they were looked for in vain.
    pub discovery_failures: u64,
    /// What files have answered; `None`: it serves none.
    pub files: Option<FilesStatus>,
    /// Its shuffle sharding; `None`: all endpoints serve each tenant.
    pub shard: Option<ShardStatus>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
}

impl Upstream {
    /// Where one of its endpoints is spoken to, for whoever does so without a call: HTTP/1.1. `None`: it has none.
    #[must_use]
    pub fn any_target(&self) -> Option<Target> {
        let address = self.endpoints().endpoints.first()?.address;
        Some(Target { address, protocol: Protocol::Http1, tls: self.tls() })
    }

    /// Whether it failed so often that it is not called now, or once only, to see whether it is back.
    #[must_use]
    pub fn is_left_alone(&self, now: Tick) -> bool {
        self.breaker.is_open(now)
    }

    /// Whether it failed so often that it was left alone, and has not answered well since.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.breaker.is_tripped()
    }

    /// How much longer it is not called, as it failed so often.
    #[must_use]
    pub fn left_alone_for(&self, now: Tick) -> Option<Duration> {
        self.breaker.open_for(now)
    }

    fn new(settings: UpstreamSettings, tls: Option<Arc<ClientTls>>, now: Tick) -> Upstream {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let upstream = Upstream {
            id: NEXT.fetch_add(1, Relaxed),
            name: Arc::clone(&settings.name),
            version: AtomicU64::new(0),
            tls: ArcSwap::from_pointee(tls),
            gate: Arc::new(Gate::new(settings.concurrency, &settings.waiting, now)),
            settings: ArcSwap::from_pointee(settings),
            endpoints: ArcSwap::from_pointee(EndpointSet::default()),
            breaker: Breaker::default(),
            budget: Budget::default(),
            latencies: Latencies::default(),
            files: Arc::default(),
            load: AtomicU8::new(0),
            watched: Mutex::default(),
            shard_refused: AtomicU64::new(0),
            shard_spilled: AtomicU64::new(0),
            ejecting: Mutex::default(),
            transport: AtomicU64::new(0),
            known: Mutex::default(),
            changes: watch::Sender::new(0),
        };
        upstream.take_listed(&mut upstream.known.lock(), now);
        upstream
    }

    fn change(&self, settings: UpstreamSettings, tls: Option<Arc<ClientTls>>, now: Tick) {
        let mut known = self.known.lock();
        // Even under the same settings: the file of authorities may be another.
        self.tls.store(Arc::new(tls));
        if **self.settings.load() == settings {
            return;
        }
        self.gate.resize(settings.concurrency, &settings.waiting, now);
        if settings.breaker.is_none() {
            self.breaker.reset(now);
        }
        if settings.outlier.consecutive == 0 {
            self.endpoints.load().endpoints.iter().for_each(|endpoint| endpoint.breaker.reset(now));
        }
        let before = self.settings.swap(Arc::new(settings));
        self.version.fetch_add(1, Release);
        let after = self.settings.load();
        if (before.protocol, &before.tls, host_of(&before)) != (after.protocol, &after.tls, host_of(&after)) {
            self.transport.fetch_add(1, Release);
        }
        self.take_listed(&mut known, now);
        drop(known);
        self.tell();
    }

    /// Its TLS, if these settings ask for the same. A file of authorities, or of a certificate, may have changed under the same name.
    fn same_tls(&self, settings: &UpstreamSettings) -> Option<Option<Arc<ClientTls>>> {
        let held = self.settings.load();
        let same = held.tls == settings.tls && host_of(&held) == host_of(settings);
        let read = settings.tls.as_ref().is_some_and(|tls| tls.ca.is_some() || tls.identity.is_some());
        (same && !read).then(|| self.tls())
    }

    /// Takes the endpoints that the configuration lists.
    fn take_listed(&self, known: &mut Known, now: Tick) {
        match &self.settings.load().discovery {
            Discovery::Static(endpoints) => drop(self.take(known, endpoints, now)),
            Discovery::Files(_) => drop(self.take(known, &[], now)),
            Discovery::Dns { .. } | Discovery::Srv { .. } | Discovery::File(_) => {}
        }
    }

    /// Swaps the set, if that changes anything. `true`: it did.
    fn take(&self, known: &mut Known, endpoints: &[EndpointSettings], now: Tick) -> bool {
        known.found_at = Some(now);
        known.error = None;
        let held = self.endpoints.load();
        if held.is(endpoints) {
            return false;
        }
        let admin = |address| known.admin.get(&address).copied().unwrap_or_default();
        self.endpoints.store(Arc::new(held.update(endpoints, admin, now)));
        self.version.fetch_add(1, Release);
        true
    }

    /// Takes what discovery found. What was known of endpoints that stay is kept. An answer to what is no longer
    /// asked is dropped.
    pub(crate) fn discovered(&self, asked: &Discovery, endpoints: &[EndpointSettings], now: Tick) {
        let mut known = self.known.lock();
        if self.settings.load().discovery != *asked {
            return;
        }
        let changed = self.take(&mut known, endpoints, now);
        drop(known);
        if changed {
            let set = self.endpoints.load();
            let addresses: Vec<_> = set.endpoints.iter().take(16).map(|endpoint| endpoint.address).collect();
            tracing::info!(upstream = %self.settings.load().name, count = set.endpoints.len(), first = ?addresses, "endpoints changed");
            self.tell();
        }
    }

    /// Discovery failed; the endpoints that there are stay. `true`: it is another failure than before.
    pub(crate) fn not_discovered(&self, error: &str) -> bool {
        let mut known = self.known.lock();
        let news = known.error.as_deref() != Some(error);
        known.error = Some(error.to_owned());
        known.failures += 1;
        drop(known);
        if news {
            self.tell();
        }
        news
    }

    /// Whether its endpoints were looked for, and found or not.
    fn was_looked_for(&self) -> bool {
        let known = self.known.lock();
        known.found_at.is_some() || known.error.is_some()
    }

    /// Says what the operator wants of an endpoint. `false`: there is no such one, nor was one set before.
    fn set_endpoint(&self, address: SocketAddr, admin: Admin, now: Tick) -> bool {
        let mut known = self.known.lock();
        let set = self.endpoints.load();
        let endpoint = set.endpoints.iter().find(|endpoint| endpoint.address == address);
        if let Some(endpoint) = endpoint {
            endpoint.set_admin(admin, now);
            // Who is a member of which shard depends on it.
            self.endpoints.store(Arc::new(set.renewed()));
            self.version.fetch_add(1, Release);
        } else if !known.admin.contains_key(&address) {
            return false;
        }
        if admin == Admin::Enabled {
            known.admin.remove(&address);
        } else {
            if known.admin.len() >= ENDPOINTS_MAX {
                // What the operator said of addresses that have gone is forgotten first.
                known.admin.retain(|held, _| set.endpoints.iter().any(|endpoint| endpoint.address == *held));
            }
            known.admin.insert(address, admin);
        }
        true
    }

    fn tell(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Hears of every change of settings and endpoints from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Its name. It stays the same over a reload.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Which settings and endpoints [`Upstream::settings`] and [`Upstream::endpoints`] give, at least.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Acquire)
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

    /// Which connections may be used: those made under this number. Asked for before the settings: a connection made
    /// by older settings than its number says would be used under the newer ones.
    pub(crate) fn transport(&self) -> u64 {
        self.transport.load(Acquire)
    }

    /// Whether the connections to this endpoint may carry many requests at once.
    pub(crate) fn may_multiplex(&self, protocol: Protocol, endpoint: &Endpoint) -> bool {
        match protocol {
            Protocol::Http1 => false,
            Protocol::H2 => true,
            Protocol::Auto => !endpoint.chose_http1.load(Relaxed) && self.is_tls(),
        }
    }

    /// A call that had begun at `began` failed there; `true`: the endpoint is ejected by this. Never more are than the
    /// settings allow, whatever the cores see at one moment.
    pub(crate) fn eject(
        &self,
        endpoint: &Endpoint,
        terms: &breaker::Terms,
        probe: Option<breaker::Probe>,
        began: Tick,
        now: Tick,
    ) -> bool {
        let _ejecting = self.ejecting.lock();
        let brink = probe.is_none() && endpoint.breaker.is_at_the_brink(terms);
        if brink && !self.may_eject(self.settings.load().outlier.max_percent) {
            return false;
        }
        endpoint.breaker.failed(terms, probe, began, now)
    }

    /// Whether one more endpoint may be ejected.
    fn may_eject(&self, max_percent: u8) -> bool {
        let set = self.endpoints.load();
        let ejected = set.endpoints.iter().filter(|endpoint| endpoint.breaker.is_tripped()).count();
        (ejected + 1) * 100 <= set.endpoints.len() * usize::from(max_percent)
    }

    /// Goes on from the adaptive limit that another process has found.
    pub fn go_on_from(&self, limit: u32, now: Tick) {
        self.gate.go_on_from(limit, now);
    }

    /// How overloaded it is, 0 to 3 ([`tidegate_model::gate::level`]).
    #[must_use]
    pub fn load(&self) -> u8 {
        self.load.load(Relaxed)
    }

    /// Finds its level anew. A level is lowered after so long.
    fn look(&self, calm: Duration, now: Tick) {
        let (wait, refusals) = self.gate.strain(now);
        let served: u64 = self.endpoints.load().endpoints.iter().map(|endpoint| endpoint.served()).sum();
        let served = served + self.files.served();
        let mut watched = self.watched.lock();
        let refused = watched.refused.observe(refusals, served, now);
        let level =
            watched.level.observe(Signals { wait, refused, ..Signals::default() }.pressure(), calm, now);
        let before = self.load.swap(level, Relaxed);
        if level != before {
            tracing::info!(upstream = %self.name, level, before, wait, refused, "load");
        }
    }

    /// What an operator sees.
    #[must_use]
    pub fn status(&self, now: Tick) -> UpstreamStatus {
        let settings = self.settings.load();
        let millis = |share: f64| self.latencies.quantile(share).map(|latency| latency.as_secs_f64() * 1e3);
        let known = self.known.lock();
        UpstreamStatus {
            name: Arc::clone(&settings.name),
            breaker: self.breaker.state(now).name(),
            breaker_opened: self.breaker.opened(),
            load: self.load(),
            gate: self.gate.status(now),
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
            discovery: settings.discovery.to_string(),
            discovered_ms: known
                .found_at
                .map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX)),
            discovery_error: known.error.clone(),
            discovery_failures: known.failures,
            files: matches!(settings.discovery, Discovery::Files(_)).then(|| self.files.status()),
            shard: settings.shard.map(|shard| {
                let (refused, spilled) = (&self.shard_refused, &self.shard_spilled);
                ShardStatus::of(shard, &self.endpoints.load(), refused.load(Relaxed), spilled.load(Relaxed))
            }),
            endpoints: self
                .endpoints
                .load()
                .endpoints
                .iter()
                .map(|one| one.status(settings.slow_start, now))
                .collect(),
        }
    }
}

fn tls_of(settings: &UpstreamSettings) -> Result<Option<Arc<ClientTls>>, ClientTlsError> {
    let host = host_of(settings);
    settings.tls.as_ref().map(|tls| ClientTls::new(tls, host).map(Arc::new)).transpose()
}

/// The name that its endpoints are resolved from, and verified by.
fn host_of(settings: &UpstreamSettings) -> Option<&str> {
    match &settings.discovery {
        // The dot at the end of a full name belongs to DNS, not to certificates.
        Discovery::Dns { host, .. } => Some(host.strip_suffix('.').unwrap_or(host)),
        Discovery::Static(_) | Discovery::Srv { .. } | Discovery::File(_) | Discovery::Files(_) => None,
    }
}

/// All upstreams of the process.
#[derive(Debug, Default)]
pub struct Upstreams {
    by_name: ArcSwap<HashMap<Arc<str>, Arc<Upstream>>>,
    /// One reload at a time.
    applying: Mutex<()>,
    /// Tells [`Upstreams::drive`] that upstreams came or went.
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

/// Upstreams that can be put into force: whatever can fail has been done. Dropped, it changes nothing.
#[must_use = "nothing is in force until it is committed"]
pub struct Prepared<'a> {
    upstreams: &'a Upstreams,
    _applying: MutexGuard<'a, ()>,
    after: HashMap<Arc<str>, Arc<Upstream>>,
    /// Those that were there before, and what they will be told.
    changes: Vec<(Arc<Upstream>, UpstreamSettings, Option<Arc<ClientTls>>)>,
}

impl Prepared<'_> {
    /// The upstream that will have this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.after.get(name)
    }

    /// Puts them into force. State of those that stay is kept by name; the drivers of the others end.
    pub fn commit(self) {
        let now = clock::now();
        for (held, settings, tls) in self.changes {
            held.change(settings, tls, now);
        }
        self.upstreams.by_name.store(Arc::new(self.after));
        self.upstreams.changed.notify_one();
    }
}

impl Upstreams {
    /// Makes the upstreams these.
    ///
    /// # Errors
    /// TLS to an upstream cannot be set up; nothing is changed then.
    pub fn apply(&self, settings: Vec<UpstreamSettings>) -> Result<(), UpstreamError> {
        self.prepare(settings)?.commit();
        Ok(())
    }

    /// Does all that can fail of making the upstreams these. Until that is committed or dropped, no other can be
    /// prepared.
    ///
    /// # Errors
    /// TLS to an upstream cannot be set up.
    pub fn prepare(&self, settings: Vec<UpstreamSettings>) -> Result<Prepared<'_>, UpstreamError> {
        let applying = self.applying.lock();
        let now = clock::now();
        let before = self.by_name.load();
        let (mut after, mut changes) = (HashMap::new(), Vec::new());
        for one in settings {
            let name = Arc::clone(&one.name);
            let held = before.get(&name);
            let tls = match held.and_then(|held| held.same_tls(&one)) {
                Some(tls) => tls,
                None => tls_of(&one).map_err(|source| UpstreamError { name: Arc::clone(&name), source })?,
            };
            let upstream = match held {
                Some(held) => {
                    changes.push((Arc::clone(held), one, tls));
                    Arc::clone(held)
                }
                None => Arc::new(Upstream::new(one, tls, now)),
            };
            after.insert(name, upstream);
        }
        Ok(Prepared { upstreams: self, _applying: applying, after, changes })
    }

    /// Waits until the endpoints of every upstream were looked for once, or until this tick: who serves from then on
    /// does not refuse the first requests for want of an address that is just being resolved. `true`: all were.
    ///
    /// Something must drive them meanwhile ([`Upstreams::drive`]).
    pub async fn looked_for(&self, by: Tick) -> bool {
        for upstream in self.all() {
            let mut changes = upstream.changes();
            while !upstream.was_looked_for() {
                if clock::timeout_at(by, changes.changed()).await.is_err() {
                    return false;
                }
            }
        }
        true
    }

    /// The upstream of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Upstream>> {
        self.by_name.load().get(name).cloned()
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Upstream>> {
        let mut all: Vec<_> = self.by_name.load().values().cloned().collect();
        all.sort_by_key(|upstream| Arc::clone(&upstream.settings.load().name));
        all
    }

    /// Finds the level of each anew. To be called some times a second; a level is lowered after so long.
    pub fn look(&self, calm: Duration, now: Tick) {
        self.by_name.load().values().for_each(|upstream| upstream.look(calm, now));
    }

    /// What an operator sees of all of them.
    #[must_use]
    pub fn status(&self) -> Vec<UpstreamStatus> {
        let now = clock::now();
        self.all().iter().map(|upstream| upstream.status(now)).collect()
    }

    /// Says what the operator wants of an endpoint. It holds over reloads, and over the absence of the address from
    /// what discovery finds. `false`: there is no such endpoint.
    pub fn set_endpoint(&self, upstream: &str, address: SocketAddr, admin: Admin) -> bool {
        let Some(held) = self.get(upstream) else { return false };
        let known = held.set_endpoint(address, admin, clock::now());
        if known {
            tracing::info!(upstream, %address, ?admin, "endpoint state set");
        }
        known
    }
}
