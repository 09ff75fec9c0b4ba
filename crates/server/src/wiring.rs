//! Wiring: the parts of a running Tidegate, put together and kept in step with the configuration.
//!
//! Each core is a thread with a runtime of its own; commands reach it through a bounded channel. Nothing here is on the
//! path of a request.

use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_dispatch::webhook::{Slot, Webhooks};
use tidegate_dispatch::{Dispatcher, Parts as DispatchParts};
use tidegate_model::plan::Plan;
use tidegate_model::tenant::Tenants;
use tidegate_model::tick::Tick;
use tidegate_proxy::cache::Cache;
use tidegate_proxy::domains::Domains;
use tidegate_proxy::idempotency::Idempotency;
use tidegate_proxy::secure::Secured;
use tidegate_proxy::{Shield, Site, SiteError, Standing};
use tidegate_store::{OpenError, Store};
use tidegate_upstream::Upstreams;
use tidegate_upstream::settings::UpstreamSettings;
use tidegate_wire::clock;
use tidegate_wire::handover::{Heir, Passed};
use tidegate_wire::listen::BindError;
use tidegate_wire::server::Census;
use tidegate_wire::settings::CertificateFiles;
use tidegate_wire::tls::{CertificateError, CertificateSet, Certificates};
use tokio::sync::oneshot;

use crate::acme::Acme;
use crate::config::{Config, Failure, Spot};
use crate::maintenance::Orders;
use crate::protect::Readings;
use crate::pull::nodes::Nodes;
use crate::redis::Redis;
use crate::schedules::Schedules;
use crate::telemetry::{LogWriterError, ProcessCounts, Telemetry};
use crate::upgrade::{Legacy, Sockets};

use self::cores::{Command, Core, Parts};
use self::listening::{Bound, bind_new, listeners};

mod cores;
mod listening;

pub use listening::{Listening, Side};

/// How long a core may take to do what it was told until nobody waits for it any more.
const REACHED_MAX: Duration = Duration::from_secs(5);
/// How to mend it.
pub const PORT_IN_USE: &str = "`ss -ltnp` tells which process it is; end it, or take another port";

/// A running Tidegate.
pub struct Gate {
    /// State that outlives a reload.
    pub standing: Standing,
    /// What receipts become.
    pub telemetry: Arc<Telemetry>,
    /// Connections of the process.
    pub census: Arc<Census>,
    /// What the process does.
    pub counts: ProcessCounts,
    /// What it runs short of.
    pub shield: Arc<Shield>,
    /// What was measured of it last.
    pub readings: Mutex<Readings>,
    site: Mutex<Arc<Site>>,
    /// What was seen of schedules.
    pub schedules: Schedules,
    /// Lets orders of maintenance take turns.
    pub orders: Orders,
    /// Where it meets other nodes.
    pub redis: Arc<Redis>,
    /// How other nodes are asked for deliveries.
    pub nodes: Nodes,
    /// What makes deliveries, once there is a store and a queue.
    dispatcher: OnceLock<Arc<Dispatcher>>,
    /// What tenants' servers are told.
    webhooks: Arc<Slot>,
    certificates: Arc<Certificates>,
    /// Certificates that are ordered.
    pub acme: Arc<Acme>,
    /// What is served to other nodes.
    node_certificates: Arc<Certificates>,
    cores: Vec<Core>,
    listening: Mutex<Vec<Listening>>,
    /// Sockets that are bound, until it listens.
    unopened: Mutex<Option<Bound>>,
    /// Which core gets the next connection of the process before.
    adopted: AtomicUsize,
    config: Mutex<Arc<Config>>,
}

/// Why Tidegate does not start, or a reload does not take effect.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// Addresses that cannot be listened on.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Bind(Vec<BindError>),
    /// Certificates that cannot be used.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Certificates(Vec<CertificateError>),
    /// The routes cannot be used.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// An upstream cannot be used.
    #[error("{}", crate::run::chain(.0))]
    Upstream(#[from] tidegate_upstream::UpstreamError),
    /// The access log cannot be written.
    #[error("{}", crate::run::chain(.0))]
    Log(#[from] LogWriterError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// More than one of these.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<WiringError>),
}

impl WiringError {
    /// What failed, each for itself.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        match self {
            WiringError::Bind(errors) => errors.iter().map(unbound).collect(),
            WiringError::Store(error) => vec![Failure::new(Spot::Store, error.to_string())],
            WiringError::Log(_) => vec![Failure::new(Spot::AccessLog, self.to_string())],
            WiringError::Certificates(errors) => {
                errors.iter().map(|error| Failure::new(Spot::Whole, error.to_string())).collect()
            }
            WiringError::Several(errors) => errors.iter().flat_map(WiringError::failures).collect(),
            WiringError::Site(_) | WiringError::Upstream(_) => {
                vec![Failure::new(Spot::Whole, self.to_string())]
            }
        }
    }
}

fn unbound(error: &BindError) -> Failure {
    let failure = Failure::new(Spot::Listener(error.address), error.to_string());
    match error.source.kind() {
        std::io::ErrorKind::AddrInUse => failure.help(PORT_IN_USE),
        _ => failure,
    }
}

impl Gate {
    /// Starts the cores. They listen once it is [opened](Gate::open). What a process before has left is taken from there.
    ///
    /// # Errors
    /// [`WiringError`]; nothing is left running then but idle threads.
    pub fn start(config: Config, legacy: &mut Legacy) -> Result<Arc<Gate>, WiringError> {
        let standing = standing(&config);
        let workers = config.workers.get();
        let (sockets, telemetry) = open_all(&config, &standing, legacy)?;
        let (certificates, node_certificates) =
            (Arc::<Certificates>::default(), Arc::<Certificates>::default());
        let (of_clients, of_nodes) = load_certificates(&config)?;
        if let Some(secret) = &config.tickets {
            certificates.seal_tickets(Some(&secret.0));
        }
        let client_rules = of_clients.as_ref().and_then(CertificateSet::rules);
        certificates.swap(of_clients);
        node_certificates.swap(of_nodes);
        let upstreams = standing.upstreams.prepare(upstreams(&config))?;
        let site = Arc::new(Site::build(config.proxy.clone(), client_rules, &standing, &upstreams)?);
        upstreams.commit();
        let census = Arc::<Census>::default();
        let shield = Shield::new(workers);
        let parts = Parts {
            site: Arc::clone(&site),
            telemetry: Arc::clone(&telemetry),
            census: Arc::clone(&census),
            tls: Arc::clone(&certificates),
            node_tls: Arc::clone(&node_certificates),
            shield: Arc::clone(&shield),
        };
        let cores = (0..workers).map(|number| Core::start(number, workers, &parts)).collect();
        let acme = Acme::new(
            Arc::clone(&standing.idempotency),
            Arc::clone(&standing.domains),
            Arc::clone(&standing.secured),
            Arc::clone(&certificates),
        );
        acme.set(config.acme.as_ref());
        let redis = Arc::new(Redis::new(Arc::clone(&standing.cache)));
        redis.set(config.redis.as_ref(), config.shared);
        tell_nodes(&standing, &config);
        standing.cache.set_tiers(vec![Arc::new(Arc::clone(redis.far()))]);
        let webhooks = Arc::new(Slot::new(webhooks(None, &config, &standing)));
        let gate = Arc::new(Gate {
            webhooks,
            standing,
            telemetry,
            census,
            counts: ProcessCounts::default(),
            shield,
            readings: Mutex::default(),
            schedules: Schedules::default(),
            orders: Orders::default(),
            redis,
            site: Mutex::new(site),
            nodes: Nodes::default(),
            dispatcher: OnceLock::new(),
            certificates,
            acme,
            node_certificates,
            cores,
            listening: Mutex::default(),
            unopened: Mutex::new(Some(sockets)),
            adopted: AtomicUsize::new(0),
            config: Mutex::new(Arc::new(config)),
        });
        gate.deliver();
        Ok(gate)
    }

    /// Listens.
    pub fn open(&self) {
        if let Some(sockets) = self.unopened.lock().take() {
            self.listen(sockets);
        }
    }

    /// Gives a connection of the process before to one of the cores. Blocks while that has no room for it.
    pub fn adopt(&self, passed: Passed) {
        let place = self.adopted.fetch_add(1, Relaxed) % self.cores.len();
        // A core that has ended serves nobody.
        let _ = self.cores[place].commands.blocking_send(Command::Adopt(Box::new(passed)));
    }

    /// Leaves listening to another process, which has the sockets of those that `taken` names. Connections that are between two
    /// requests are given to it.
    pub async fn hand_over(&self, heir: &Heir, taken: impl Fn(&Listening) -> bool) {
        let listening: Vec<Listening> = std::mem::take(&mut *self.listening.lock());
        for gone in listening.iter().filter(|one| !taken(one)) {
            self.cores.iter().for_each(|core| core.tell(Command::Close(gone.address, gone.side)));
        }
        drop(listening);
        for core in &self.cores {
            core.tell(Command::HandOver(heir.clone()));
        }
        if !self.reached().await {
            tracing::warn!("a core hangs: it does not hand over what it has");
        }
    }

    /// Waits until no client of HTTP/2 can have failed to hear that it shall begin nothing here any more, at most until then.
    pub async fn settled(&self, by: Tick) {
        let tell = |core: &Core| {
            let (done, told) = oneshot::channel();
            core.tell(Command::Settled(by, done));
            told
        };
        let told: Vec<_> = self.cores.iter().map(tell).collect();
        for told in told {
            // A core that hangs is waited for no longer than the others.
            let _ = clock::timeout_at(by, told).await;
        }
    }

    /// What tenants' servers are told, where that is configured.
    #[must_use]
    pub fn webhooks(&self) -> Option<Arc<Webhooks>> {
        self.webhooks.load_full()
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock())
    }

    /// Where it listens.
    #[must_use]
    pub fn listening(&self) -> Vec<Listening> {
        self.listening.lock().clone()
    }

    /// The site in force.
    #[must_use]
    pub fn site(&self) -> Arc<Site> {
        Arc::clone(&self.site.lock())
    }

    /// Puts another configuration into force. Nothing that is under way is touched. Each core takes it in its own turn:
    /// see [`Gate::reached`].
    ///
    /// What can fail comes first: a configuration takes effect as a whole or not at all.
    ///
    /// # Errors
    /// [`WiringError`]; the configuration before stays in force.
    pub fn apply(&self, config: Config) -> Result<(), WiringError> {
        let before = self.config();
        let (of_clients, of_nodes) = load_certificates(&config)?;
        let none = &mut Sockets::default();
        let sockets = bind_new(&listeners(&config), &self.listening(), self.cores.len(), none)?;
        let upstreams = self.standing.upstreams.prepare(upstreams(&config))?;
        let client_rules = of_clients.as_ref().and_then(CertificateSet::rules);
        let site = Arc::new(Site::build(config.proxy.clone(), client_rules, &self.standing, &upstreams)?);
        keep_in(&self.standing, open_store(&config, &self.standing, &mut Legacy::default())?);
        for setting in restart_needed(&before, &config) {
            tracing::warn!("`{setting}` takes effect after a restart");
        }
        if before.tickets != config.tickets {
            self.certificates.seal_tickets(config.tickets.as_ref().map(|secret| &secret.0[..]));
        }
        self.certificates.swap(of_clients);
        self.node_certificates.swap(of_nodes);
        self.acme.set(config.acme.as_ref());
        upstreams.commit();
        self.webhooks.store(webhooks(self.webhooks(), &config, &self.standing));
        self.redis.set(config.redis.as_ref(), config.shared);
        tell_nodes(&self.standing, &config);
        let traces = config.otlp.as_ref().and_then(|otlp| otlp.traces.as_ref());
        self.telemetry.tell_traces(traces);
        for core in &self.cores {
            core.tell(Command::Site(Arc::clone(&site)));
        }
        *self.site.lock() = site;
        *self.config.lock() = Arc::new(config);
        self.deliver();
        self.listen(sockets);
        Ok(())
    }

    /// What makes deliveries; `None`: there has been no store, or no queue.
    #[must_use]
    pub fn dispatcher(&self) -> Option<&Arc<Dispatcher>> {
        self.dispatcher.get()
    }

    /// Makes the queues of the configuration those that deliveries are made of.
    fn deliver(&self) {
        let config = self.config();
        let Some(store) = self.standing.idempotency.store() else { return };
        if config.queues.is_empty() && self.dispatcher.get().is_none() {
            return;
        }
        let dispatcher = self.dispatcher.get_or_init(|| {
            let parts = DispatchParts {
                store,
                upstreams: Arc::clone(&self.standing.upstreams),
                tenants: Arc::clone(&self.standing.tenants),
                unknown: config.proxy.tenants.unknown.clone().unwrap_or_else(|| Arc::new(nobodys_plan())),
                webhooks: Arc::clone(&self.webhooks),
                cores: self.cores.len(),
                seed: seed(),
            };
            let (telemetry, own) = (Arc::clone(&self.telemetry), self.cores.len());
            Dispatcher::start(parts, move || {
                let recorder = telemetry.recorder(own);
                Rc::new(move |receipt| recorder.record(receipt))
            })
        });
        dispatcher.configure(config.queues.clone());
    }

    /// Waits until every core has done what it was told so far. `false`: one of them hangs.
    pub async fn reached(&self) -> bool {
        let tell = |core: &Core| {
            let (done, told) = oneshot::channel();
            core.tell(Command::Reached(done));
            told
        };
        let told: Vec<_> = self.cores.iter().map(tell).collect();
        let by = clock::now().after(REACHED_MAX);
        let mut all = true;
        for told in told {
            // A core that has ended serves nobody.
            all &= clock::timeout_at(by, told).await.is_ok();
        }
        all
    }

    /// Waits for what is under way on the cores, at most so long. `true`: all of it has ended.
    pub fn ended(&self, most: Duration) -> bool {
        for core in &self.cores {
            core.tell(Command::Drain);
        }
        self.until(clock::now().after(most), || true)
    }

    /// Stops accepting and waits for what is under way, at most so long. `true`: all of it has ended.
    pub fn drain(&self, most: Duration) -> bool {
        // Whoever comes now shall not wait in vain.
        self.listening.lock().clear();
        self.standing.idempotency.drain();
        for core in &self.cores {
            core.tell(Command::Drain);
        }
        self.until(clock::now().after(most), || {
            self.dispatcher.get().is_none_or(|dispatcher| dispatcher.drain())
        })
    }

    /// Waits until all cores have ended and so has this, at most until then.
    fn until(&self, by: Tick, also: impl Fn() -> bool) -> bool {
        loop {
            let ended = also()
                && self
                    .cores
                    .iter()
                    .all(|core| core.thread.lock().as_ref().is_none_or(JoinHandle::is_finished));
            if ended || clock::now() >= by {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What tenants are entitled to of whom nobody knows anything: nothing is asked of these any more.
fn nobodys_plan() -> Plan {
    Plan {
        name: Arc::from("unknown"),
        rates: Vec::new(),
        concurrency: None,
        body_bytes_max: None,
        request_bytes_per_second: None,
        response_bytes_per_second: None,
        weight: 1,
    }
}

/// What outlives reloads, as it is before anything has happened.
fn standing(config: &Config) -> Standing {
    let idempotency = Arc::<Idempotency>::default();
    Standing {
        upstreams: Arc::new(Upstreams::default()),
        tenants: Arc::new(Tenants::new(config.proxy.tenants.tracked_max)),
        failures: Arc::default(),
        verifiers: Arc::default(),
        faults: Arc::default(),
        maintenance: Arc::default(),
        cache: Arc::new(Cache::new(config.proxy.cache)),
        mirrors: Arc::default(),
        verdicts: Arc::default(),
        providers: Arc::default(),
        domains: Arc::new(Domains::new(Arc::clone(&idempotency))),
        secured: Arc::<Secured>::default(),
        idempotency,
        canaries: Arc::default(),
    }
}

/// Opens what can fail for reasons of the machine's: sockets, the access log, the store. All that fails is told at once.
fn open_all(
    config: &Config,
    standing: &Standing,
    legacy: &mut Legacy,
) -> Result<(Bound, Arc<Telemetry>), WiringError> {
    let workers = config.workers.get();
    let opened = Telemetry::new(&config.log, workers + 1).map_err(WiringError::from);
    let traces = config.otlp.as_ref().and_then(|otlp| otlp.traces.as_ref());
    opened.iter().for_each(|telemetry| telemetry.tell_traces(traces));
    let store = open_store(config, standing, legacy);
    let bound = bind_new(&listeners(config), &[], workers, &mut legacy.sockets);
    match (bound, opened, store) {
        (Ok(sockets), Ok(telemetry), Ok(store)) => {
            keep_in(standing, store);
            Ok((sockets, Arc::new(telemetry)))
        }
        (bound, opened, store) => {
            let errors = bound.err().into_iter().chain(opened.err()).chain(store.err());
            Err(WiringError::Several(errors.collect()))
        }
    }
}

/// All upstreams of a configuration, other nodes included.
fn upstreams(config: &Config) -> Vec<UpstreamSettings> {
    config.upstreams.iter().chain(&config.peers).cloned().collect()
}

/// What has changed and cannot be changed while running.
fn restart_needed(before: &Config, after: &Config) -> impl Iterator<Item = &'static str> {
    let changed = [
        ("workers", before.workers != after.workers),
        ("[control]", before.control != after.control),
        ("[log]", before.log != after.log),
        // One that there was not before is opened at once.
        ("[store]", before.store.is_some() && before.store != after.store),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(setting, _)| setting)
}

/// Opens the store that is configured, unless one is open: another one takes a new process.
fn open_store(
    config: &Config,
    standing: &Standing,
    legacy: &mut Legacy,
) -> Result<Option<Arc<Store>>, WiringError> {
    match &config.store {
        Some(settings) if legacy.has_store(settings) => {
            let let_go = legacy.store_let_go();
            Ok(Some(Arc::new(Store::open_after(settings.clone(), let_go)?)))
        }
        Some(settings) if standing.idempotency.store().is_none() => {
            Ok(Some(Arc::new(Store::open(settings.clone())?)))
        }
        _ => Ok(None),
    }
}

fn keep_in(standing: &Standing, store: Option<Arc<Store>>) {
    if let Some(store) = store {
        standing.idempotency.keep_in(store);
    }
}

/// Webhooks as they are configured: those that there are go on with other settings.
fn webhooks(held: Option<Arc<Webhooks>>, config: &Config, standing: &Standing) -> Option<Arc<Webhooks>> {
    let plan = config.webhook.as_ref()?;
    match held {
        Some(held) => {
            held.set(plan.settings.clone());
            Some(held)
        }
        None => Some(Arc::new(Webhooks::new(standing.idempotency.store()?, plan.settings.clone()))),
    }
}

/// Other nodes are told what is purged here, unless they read it in the log.
fn tell_nodes(standing: &Standing, config: &Config) {
    let others = config.proxy.cluster.iter().filter(|_| config.redis.is_none());
    let others = others.flat_map(|cluster| cluster.nodes.iter().filter(|(_, upstream)| upstream.is_some()));
    let others: Vec<Arc<str>> = others.map(|(name, _)| Arc::clone(name)).collect();
    standing.cache.peering.orders.tell(&others);
}

/// What is served to clients, and what to other nodes.
fn load_certificates(
    config: &Config,
) -> Result<(Option<CertificateSet>, Option<CertificateSet>), WiringError> {
    let load = |files: &[CertificateFiles]| match files {
        [] => Ok(None),
        files => CertificateSet::load(files).map(Some).map_err(WiringError::Certificates),
    };
    let of_nodes = config.cluster.as_ref().and_then(|cluster| cluster.files.as_ref());
    Ok((load(&config.certificates)?, load(of_nodes.map_or(&[], std::slice::from_ref))?))
}

/// Chance from the operating system.
fn seed() -> u64 {
    getrandom::u64().unwrap_or_else(|_| clock::now().0)
}
