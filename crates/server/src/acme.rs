//! Certificates by themselves (ACME, RFC 8555): ordered, renewed and kept in the store, where all nodes find them.
//!
//! ```text
//! a look at what is due, a handshake for a name without one, an operator
//!     -> tend(NAME): one at a time in this process, a few names at once
//!         -> what the store says: nothing to do | look at the authority's window (ARI) | order
//!             -> order, under the name's lease: challenges into the store, validated, finalized, checked, written
//! ```
//!
//! What always holds: no name is asked for at the authority that is neither configured nor a tenant's; a certificate that is
//! there is served until another one has been checked and written; who has failed waits longer each time, and where the
//! authority says how long, so long. Without the authority all that the store has is served.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tidegate_proxy::domains::Domains;
use tidegate_proxy::idempotency::Idempotency;
use tidegate_proxy::secure::Secured;
use tidegate_store::{Store, Unavailable};
use tidegate_wire::tls::{Certificates, Managed};
use tidegate_wire::{clock, task};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

mod order;
mod records;
mod seal;
mod source;
mod tend;
mod transport;

pub use records::{CERTIFICATE, CertificateRecord, Told};
use source::Source;

/// Names that are tended at once, at most.
const TENDED_MAX: usize = 8;
/// Names that wait for it.
const WAITING_MAX: usize = 4096;
/// The longest time between two looks at what is due.
const LOOK: Duration = Duration::from_secs(30);
/// The shortest.
const LOOK_MIN: Duration = Duration::from_millis(250);

/// How certificates are ordered.
#[derive(Clone, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The authority's directory.
    pub directory: String,
    /// Whom it may write to.
    pub email: Option<String>,
    /// The file of authorities to believe it by; else the system's.
    pub ca: Option<PathBuf>,
    /// By what an account is bound to one that there is already: its name and key.
    pub binding: Option<(String, Vec<u8>)>,
    /// Names that have certificates from the start.
    pub domains: BTreeSet<Arc<str>>,
    /// How it is shown that names are ours; the next one after each failure.
    pub challenges: Vec<Challenge>,
    /// Whether hosts of tenants get certificates when somebody asks for them.
    pub on_demand: Option<OnDemand>,
    /// By what keys are sealed in the store.
    pub secret: Option<Vec<u8>>,
    /// Certificates in memory.
    pub memory: usize,
    /// The first pause after a failure.
    pub retry: Duration,
}

impl std::fmt::Debug for AcmeSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "AcmeSettings({}, {:?})", self.directory, self.domains)
    }
}

/// How it is shown that a name is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// By an answer to a request for a path.
    Http01,
    /// By a certificate in a handshake.
    TlsAlpn01,
}

/// Certificates that are ordered when somebody asks for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDemand {
    /// Certificates of tenants' hosts, at most.
    pub limit: u64,
    /// How long a handshake waits.
    pub wait: Duration,
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Certificates that were issued.
    pub issued: AtomicU64,
    /// Orders that failed.
    pub failed: AtomicU64,
}

/// The certificates that Tidegate orders.
pub struct Acme {
    settings: ArcSwapOption<AcmeSettings>,
    idempotency: Arc<Idempotency>,
    domains: Arc<Domains>,
    secured: Arc<Secured>,
    certificates: Arc<Certificates>,
    managed: ArcSwapOption<Managed>,
    counts: Counts,
    /// Until when the authority wants to hear nothing, in milliseconds since the Unix epoch.
    paused_until: Arc<AtomicU64>,
    /// Names that are tended, or wait for it, and who waits for what that comes to.
    tended: Mutex<HashMap<Arc<str>, watch::Sender<bool>>>,
    jobs: mpsc::Sender<Arc<str>>,
    waiting: Mutex<Option<mpsc::Receiver<Arc<str>>>>,
    wake: Notify,
    /// Handshakes that look for a name in the store, and authorities that do.
    looks: Semaphore,
    proofs: Semaphore,
    /// What this process is called in leases.
    node: String,
    account: tokio::sync::Mutex<Option<(AcmeSettings, instant_acme::Account)>>,
    told: Mutex<Vec<Told>>,
}

impl Acme {
    /// Nothing is ordered before [`drive`].
    #[must_use]
    pub fn new(
        idempotency: Arc<Idempotency>,
        domains: Arc<Domains>,
        secured: Arc<Secured>,
        certificates: Arc<Certificates>,
    ) -> Arc<Acme> {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        Arc::new(Acme {
            settings: ArcSwapOption::empty(),
            idempotency,
            domains,
            secured,
            certificates,
            managed: ArcSwapOption::empty(),
            counts: Counts::default(),
            paused_until: Arc::default(),
            tended: Mutex::default(),
            jobs,
            waiting: Mutex::new(Some(waiting)),
            wake: Notify::new(),
            looks: Semaphore::new(source::LOOKS_MAX),
            proofs: Semaphore::new(source::PROOFS_MAX),
            node: format!("{:016x}", chance()),
            account: tokio::sync::Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// These settings count from now on.
    pub fn set(self: &Arc<Acme>, settings: Option<&AcmeSettings>) {
        let before = self.settings.swap(settings.cloned().map(Arc::new));
        match settings {
            None => {
                self.certificates.manage(None);
                self.managed.store(None);
                self.secured.ready(HashSet::new());
                self.told.lock().clear();
            }
            Some(settings) => {
                let has_changed = before.as_deref().is_none_or(|before| {
                    before.memory != settings.memory || before.secret != settings.secret
                });
                if has_changed {
                    let source = Box::new(Source(Arc::downgrade(self)));
                    let managed = Arc::new(Managed::new(source, settings.memory));
                    self.managed.store(Some(Arc::clone(&managed)));
                    self.certificates.manage(Some(managed));
                }
            }
        }
        self.wake.notify_one();
    }

    /// Names whose certificates are in use: the configured ones first, so many at most.
    #[must_use]
    pub fn in_use(&self, most: usize) -> Vec<Arc<str>> {
        let Some(settings) = self.settings.load_full() else { return Vec::new() };
        let held = self.managed.load().as_ref().map(|managed| managed.names()).unwrap_or_default();
        let others = held.into_iter().filter(|name| !settings.domains.contains(name));
        settings.domains.iter().cloned().chain(others).take(most).collect()
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Certificates in memory; `None`: none are managed.
    #[must_use]
    pub fn held(&self) -> Option<usize> {
        self.managed.load().as_ref().map(|managed| managed.held())
    }

    /// How it stands with the configured names, as of the last look.
    #[must_use]
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().clone()
    }

    /// What is known of a host's certificate in memory is forgotten: it is looked for again.
    pub fn forget(&self, name: &str) {
        if let Some(managed) = self.managed.load_full() {
            managed.forget(name);
        }
    }

    /// The host is nobody's any more: nor is its certificate. One that is configured stays.
    ///
    /// # Errors
    /// The store.
    pub async fn discard(&self, name: &str) -> Result<(), Unavailable> {
        let is_configured = self.settings.load().as_ref().is_some_and(|held| held.domains.contains(name));
        if !is_configured && let Some(store) = self.store() {
            records::remove(&store, name).await?;
        }
        self.forget(name);
        Ok(())
    }

    fn store(&self) -> Option<Arc<Store>> {
        self.idempotency.store()
    }

    /// Tends to a name soon. What becomes true once that is done; `None`: too many wait already.
    fn soon(&self, name: &Arc<str>) -> Option<watch::Receiver<bool>> {
        let mut tended = self.tended.lock();
        if let Some(there) = tended.get(name) {
            return Some(there.subscribe());
        }
        self.jobs.try_send(Arc::clone(name)).ok()?;
        let (done, told) = watch::channel(false);
        tended.insert(Arc::clone(name), done);
        Some(told)
    }

    /// Whether certificates may be ordered for a name now: it is configured, or a tenant's.
    async fn is_wanted(&self, settings: &AcmeSettings, name: &str) -> Option<bool> {
        if settings.domains.contains(name) {
            return Some(true);
        }
        if settings.on_demand.is_none() {
            return Some(false);
        }
        self.domains.owner(name).await.ok().map(|owner| owner.is_some())
    }
}

/// Orders and renews what is due, for as long as the process runs.
pub fn drive(acme: Arc<Acme>) {
    let Some(mut waiting) = acme.waiting.lock().take() else { return };
    let looking = Arc::clone(&acme);
    task::spawn(async move {
        loop {
            let wait = tend::look(&looking).await.min(LOOK);
            // Whoever wakes it again and again makes it look no more often.
            clock::sleep_until(clock::now().after(LOOK_MIN)).await;
            let _ = clock::timeout_at(clock::now().after(wait), looking.wake.notified()).await;
        }
    });
    task::spawn(async move {
        let turns = Arc::new(Semaphore::new(TENDED_MAX));
        while let Some(name) = waiting.recv().await {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
            let acme = Arc::clone(&acme);
            task::spawn(async move {
                let _turn = turn;
                let _done = Done { acme: &acme, name: &name };
                tend::tend(&acme, &name).await;
            });
        }
    });
}

/// Tells those who wait that a name was tended, whatever came of it.
struct Done<'a> {
    acme: &'a Acme,
    name: &'a Arc<str>,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if let Some(done) = self.acme.tended.lock().remove(self.name) {
            done.send_replace(true);
        }
        self.acme.wake.notify_one();
    }
}

/// Chance from the operating system.
fn chance() -> u64 {
    getrandom::u64().unwrap_or_else(|_| clock::now().0)
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let since = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}

impl Acme {
    fn issued(&self) {
        self.counts.issued.fetch_add(1, Relaxed);
    }

    fn failed(&self) {
        self.counts.failed.fetch_add(1, Relaxed);
    }
}

/// Where the store has a name's certificate.
#[must_use]
pub fn certificate_place(name: &str) -> tidegate_store::documents::Place {
    records::place(CERTIFICATE, name)
}
