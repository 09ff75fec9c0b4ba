//! Canary: which requests go to a route's next version, and what both versions answer.
//!
//! The decisions are [`tidegate_model::canary`]'s; who looks each second, and keeps the state in the store, is the control
//! runtime. Cores read one number, the share, and count in atomics. A request that failed with the canary goes to the baseline
//! where the rules of fallbacks let it: nothing was sent, or it is safe.
//!
//! What always holds: a state that is not known yet gives the canary nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::header::COOKIE;
use parking_lot::Mutex;
use tidegate_model::balance::mix;
use tidegate_model::canary::{Evidence, Looks, Plan, Side, State, is_chosen};
use tidegate_model::delivery::Ms;
use tidegate_model::histogram::{self, BUCKETS, Histogram};
use tidegate_model::message::RequestHead;
use tidegate_model::refusal::Refusal;
use tidegate_model::tick::Tick;
use tidegate_upstream::settings::HashOn;
use tidegate_upstream::{Answer, Upstream};
use tidegate_wire::clock;

use crate::request_body::Upload;
use crate::site::Fallback;

/// A route's next version.
#[derive(Clone, Debug, PartialEq)]
pub struct CanarySettings {
    /// Its upstream.
    pub upstream: Arc<str>,
    /// How it grows, and when it is taken back.
    pub plan: Plan,
    /// Who stays with a version.
    pub sticky: HashOn,
    /// Whether the baseline is asked where it failed, if that may be.
    pub fallback: bool,
}

/// The canary of a route, in a site.
pub struct Canaried {
    sticky: HashOn,
    /// What it is held against.
    baseline: Arc<Upstream>,
    /// The next version.
    pub(crate) upstream: Arc<Upstream>,
    /// What comes after it has failed.
    pub(crate) rest: Vec<Fallback>,
    canary: Arc<Canary>,
}

/// What outlives a reload of a route's canary.
pub struct Canary {
    /// The route.
    pub route: Arc<str>,
    share: AtomicU32,
    baseline: Counts,
    canary: Counts,
    kept: Mutex<Kept>,
    unsaved: AtomicBool,
}

struct Kept {
    settings: CanarySettings,
    /// `None`: it is not known yet.
    state: Option<State>,
    looks: Looks,
    /// What the last look saw.
    seen: (Evidence, Evidence),
    rollbacks: u64,
}

/// What one version has answered since the process began.
struct Counts {
    answers: AtomicU64,
    errors: AtomicU64,
    micros: AtomicU64,
    latencies: Box<[AtomicU64; BUCKETS]>,
}

/// How a canary stands.
pub struct Told {
    /// What was configured.
    pub settings: CanarySettings,
    /// Its state; `None`: it is not known yet.
    pub state: Option<State>,
    /// The last answers, within the window.
    pub window: Evidence,
    /// Those since its state began.
    pub step: Evidence,
    /// All since the process began.
    pub sums: Evidence,
    /// How often this process has taken it back.
    pub rollbacks: u64,
}

/// The canaries of the process, by route.
#[derive(Default)]
pub struct Canaries {
    by_route: Mutex<BTreeMap<Arc<str>, Arc<Canary>>>,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            answers: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            latencies: Box::new(std::array::from_fn(|_| AtomicU64::new(0))),
        }
    }
}

impl Counts {
    fn note(&self, took: Option<Duration>) {
        self.answers.fetch_add(1, Relaxed);
        match took {
            None => {
                self.errors.fetch_add(1, Relaxed);
            }
            Some(took) => {
                self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
                self.latencies[histogram::bucket(took)].fetch_add(1, Relaxed);
            }
        }
    }

    fn sums(&self) -> Side {
        let counts = self.latencies.each_ref().map(|count| count.load(Relaxed));
        Side {
            answers: self.answers.load(Relaxed),
            errors: self.errors.load(Relaxed),
            latencies: Histogram::of(counts, self.micros.load(Relaxed)),
        }
    }
}

impl Canaries {
    /// The canary of a route, with what is known of it from before.
    pub(crate) fn of(
        &self,
        route: &Arc<str>,
        settings: &CanarySettings,
        (baseline, upstream): (Arc<Upstream>, Arc<Upstream>),
        rest: Vec<Fallback>,
    ) -> Arc<Canaried> {
        let mut by_route = self.by_route.lock();
        let canary = by_route.entry(Arc::clone(route)).or_insert_with(|| {
            Arc::new(Canary {
                route: Arc::clone(route),
                share: AtomicU32::new(0),
                baseline: Counts::default(),
                canary: Counts::default(),
                kept: Mutex::new(Kept {
                    settings: settings.clone(),
                    state: None,
                    looks: Looks::default(),
                    seen: Default::default(),
                    rollbacks: 0,
                }),
                unsaved: AtomicBool::new(false),
            })
        });
        canary.follow(settings);
        let (sticky, canary) = (settings.sticky.clone(), Arc::clone(canary));
        Arc::new(Canaried { sticky, baseline, upstream, rest, canary })
    }

    /// Forgets the routes that have none any more.
    pub(crate) fn retain(&self, has_one: impl Fn(&str) -> bool) {
        self.by_route.lock().retain(|route, _| has_one(route));
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Canary>> {
        self.by_route.lock().values().cloned().collect()
    }

    /// That of a route.
    #[must_use]
    pub fn get(&self, route: &str) -> Option<Arc<Canary>> {
        self.by_route.lock().get(route).cloned()
    }
}

impl Canary {
    /// Another upstream is another canary, of which nothing is known; anything else goes on as it stands.
    fn follow(&self, settings: &CanarySettings) {
        let mut kept = self.kept.lock();
        if kept.settings.upstream != settings.upstream {
            (kept.state, kept.seen) = (None, Default::default());
            self.unsaved.store(false, Relaxed);
        }
        kept.settings = settings.clone();
        let share = kept.state.as_ref().map_or(0, |state| state.share(&settings.plan));
        self.share.store(share, Relaxed);
    }

    /// How it stands.
    #[must_use]
    pub fn told(&self) -> Told {
        let kept = self.kept.lock();
        let (window, step) = kept.seen.clone();
        Told {
            settings: kept.settings.clone(),
            state: kept.state.clone(),
            window,
            step,
            sums: self.sums(),
            rollbacks: kept.rollbacks,
        }
    }

    fn sums(&self) -> Evidence {
        Evidence { baseline: self.baseline.sums(), canary: self.canary.sums() }
    }

    /// The share of requests that it gets now, in millionths.
    #[must_use]
    pub fn share(&self) -> u32 {
        self.share.load(Relaxed)
    }

    /// It stands like this from now on; somebody else knows already, or is to be told.
    pub fn set(&self, state: State, unsaved: bool) {
        let mut kept = self.kept.lock();
        let sums = self.sums();
        kept.looks.begin(&sums);
        kept.seen = Default::default();
        self.share.store(state.share(&kept.settings.plan), Relaxed);
        kept.state = Some(state);
        self.unsaved.store(unsaved, Relaxed);
    }

    /// Whether its state is not in the store yet, if there is one.
    #[must_use]
    pub fn is_unsaved(&self) -> bool {
        self.unsaved.load(Relaxed)
    }

    /// Its state is in the store.
    pub fn saved(&self, state: &State) {
        if self.kept.lock().state.as_ref() == Some(state) {
            self.unsaved.store(false, Relaxed);
        }
    }

    /// Looks at what both versions have answered: what it comes to is its state from now on.
    pub fn look(&self, now: Ms) -> Option<State> {
        let found = {
            let mut kept = self.kept.lock();
            let sums = self.sums();
            let plan = kept.settings.plan.clone();
            kept.seen = kept.looks.look(&sums, plan.rollback.window, now);
            let found = kept.state.as_ref()?.look(&plan, &kept.seen.0, &kept.seen.1, now)?;
            kept.rollbacks += u64::from(found.share(&plan) == 0);
            found
        };
        self.set(found.clone(), true);
        Some(found)
    }
}

impl Canaried {
    /// Whether this request is the canary's.
    #[must_use]
    pub fn is_chosen(&self, tenant: &str, head: &RequestHead, client: IpAddr) -> bool {
        let share = self.canary.share();
        share > 0 && is_chosen(&self.canary.route, self.hash(tenant, head, client), share)
    }

    /// The same, of any request of a tenant: who stays with a version is the tenant.
    #[must_use]
    pub fn is_chosen_for(&self, tenant: &str) -> bool {
        let share = self.canary.share();
        share > 0 && is_chosen(&self.canary.route, hash(tenant.as_bytes()), share)
    }

    fn hash(&self, tenant: &str, head: &RequestHead, client: IpAddr) -> u64 {
        let by_address = || match client {
            IpAddr::V4(address) => hash(&address.octets()),
            IpAddr::V6(address) => hash(&address.octets()),
        };
        match &self.sticky {
            HashOn::Tenant => hash(tenant.as_bytes()),
            HashOn::ClientAddress => by_address(),
            HashOn::Header(name) => {
                head.headers.get(name).map_or_else(by_address, |value| hash(value.as_bytes()))
            }
            HashOn::Cookie(name) => {
                let cookies = head.headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
                let mut pairs =
                    cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
                let found = pairs.find(|(held, _)| held == name);
                found.map_or_else(by_address, |(_, value)| hash(value.as_bytes()))
            }
        }
    }

    /// What is to be told what this upstream answers; `None`: it is neither version.
    #[must_use]
    pub fn arm(&self, upstream: &Arc<Upstream>) -> Option<Box<Arm>> {
        let is_canary = Arc::ptr_eq(upstream, &self.upstream);
        let is_one = is_canary || Arc::ptr_eq(upstream, &self.baseline);
        is_one.then(|| Box::new(Arm { canary: Arc::clone(&self.canary), is_canary, began: None }))
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| mix(hash ^ u64::from(byte)))
}

/// A request that one of both versions is asked for. Dropped before there is an answer, since its client has left, it took as long
/// as that, at least.
pub struct Arm {
    canary: Arc<Canary>,
    is_canary: bool,
    /// When its call began; `None`: it has not, or is counted.
    began: Option<Tick>,
}

impl Arm {
    /// Its call begins.
    pub fn begin(&mut self, now: Tick) {
        self.began = Some(now);
    }

    /// What came of it. What the client itself has broken says nothing of either version.
    pub fn answered(mut self, result: &Result<Answer, Refusal>, upload: &Upload) {
        let Some(began) = self.began.take() else { return };
        let took = match result {
            Ok(answer) if answer.response.status().is_server_error() => None,
            Ok(_) => Some(clock::now().since(began)),
            Err(_) if upload.told().is_some() || upload.is_missing() => return,
            Err(refusal) if refusal.kind.blame == tidegate_model::refusal::Blame::Client => return,
            Err(_) => None,
        };
        self.counts().note(took);
    }

    fn counts(&self) -> &Counts {
        if self.is_canary { &self.canary.canary } else { &self.canary.baseline }
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        if let Some(began) = self.began {
            self.counts().note(Some(clock::now().since(began)));
        }
    }
}
