//! The site: one immutable snapshot of what the stages read. A reload swaps it; an exchange keeps the one it pinned.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use tidegate_model::route::{Match, Split, Table, Tie};
use tidegate_model::tenant::{RouteLimits, Tenants};
use tidegate_upstream::{Prepared, Upstream, Upstreams};
use tidegate_wire::clock;
use tidegate_wire::tls::ClientRules;

use crate::access::Access;
use crate::access::login::{OidcSettings, Provider, Providers};
use crate::authorize::Verdicts;
use crate::cache::Cache;
use crate::cache::shield::Homes;
use crate::canary::{Canaried, Canaries};
use crate::domains::{Domains, Listed};
use crate::fault::Faults;
use crate::idempotency::Idempotency;
use crate::identify::{FailureLimit, Failures, Identity, Verifiers};
use crate::incoming::IncomingSettings;
use crate::maintenance::Maintenance;
use crate::mirror::{Mirrored, Mirrors};
use crate::secure::Secured;
use crate::settings::{
    Action, DeliveriesSettings, FixedResponse, ListedTenant, ProxySettings, RouteSettings, Rung,
    TenantSettings, TenantSource,
};

/// One snapshot.
pub struct Site {
    /// What was configured.
    pub settings: ProxySettings,
    /// Which route a request matches.
    pub table: Table<Arc<Route>>,
    /// The route of Tidegate's own, where it tells of deliveries.
    pub deliveries: Option<Arc<Route>>,
    /// Who a request is made for.
    pub identity: Identity,
    /// What the tenants have spent.
    pub tenants: Arc<Tenants>,
    /// What addresses have spent of failed identifications.
    pub failures: FailureLimit,
    /// What an operator has injected.
    pub faults: Arc<Faults>,
    /// What operators work on.
    pub maintenance: Arc<Maintenance>,
    /// What is kept of the routes that want it.
    pub cache: Arc<Cache>,
    /// Whose answers are kept.
    pub caches: Caches,
    /// What was done under a key, and what is.
    pub idempotency: Arc<Idempotency>,
    /// What authorizers have said.
    pub verdicts: Arc<Verdicts>,
    /// Whose logins routes may be used by.
    pub logins: HashMap<Arc<str>, Arc<Provider>>,
    /// Whom to ask before the upstream.
    pub homes: Option<Homes>,
    /// The hosts that tenants have of their own.
    pub domains: Arc<Domains>,
    /// What is known of certificates of Tidegate's own.
    pub secured: Arc<Secured>,
    /// What is wanted of clients that may show a certificate.
    pub client_rules: Option<ClientRules>,
}

/// A site as exchanges of one core hold it: by this core's own count. That of the `Arc` would be contended over all cores,
/// twice a request.
pub type Pinned = Rc<Arc<Site>>;

/// What outlives every site: state kept by name over reloads.
#[derive(Clone)]
pub struct Standing {
    /// The upstreams.
    pub upstreams: Arc<Upstreams>,
    /// The tenants.
    pub tenants: Arc<Tenants>,
    /// Failed identifications.
    pub failures: Arc<Failures>,
    /// Verifiers of tokens.
    pub verifiers: Arc<Verifiers>,
    /// Providers of logins.
    pub providers: Arc<Providers>,
    /// Injected faults.
    pub faults: Arc<Faults>,
    /// What operators work on.
    pub maintenance: Arc<Maintenance>,
    /// The cache.
    pub cache: Arc<Cache>,
    /// What was done under a key, and what is.
    pub idempotency: Arc<Idempotency>,
    /// What came of mirroring.
    pub mirrors: Arc<Mirrors>,
    /// What authorizers have said.
    pub verdicts: Arc<Verdicts>,
    /// The hosts that tenants have of their own.
    pub domains: Arc<Domains>,
    /// What is known of certificates of Tidegate's own.
    pub secured: Arc<Secured>,
    /// How canaries stand.
    pub canaries: Arc<Canaries>,
}

/// A route with everything that it names looked up.
pub struct Route {
    /// What was configured.
    pub settings: Arc<RouteSettings>,
    /// The limits of each tenant on it.
    pub limits: RouteLimits,
    /// Who may use it, where that is more than an address and a credential.
    pub access: Option<Box<Access>>,
    /// What it does.
    pub ladder: Ladder,
    /// Where its requests are made once more.
    pub mirror: Option<Arc<Mirrored>>,
    /// Its next version: the last of the ladder's first upstreams.
    pub canary: Option<Arc<Canaried>>,
}

/// What answers a request on a route.
pub enum Ladder {
    /// Rungs: the first is one of these upstreams, by share and tenant; the rest come after it has failed.
    Forward {
        /// By weight.
        split: Split,
        /// In the split's order.
        first: Vec<Arc<Upstream>>,
        /// What comes after a failed forward.
        rest: Vec<Fallback>,
    },
    /// A redirect.
    Redirect,
    /// A fixed response.
    Respond(Arc<FixedResponse>),
    /// What is known of a delivery.
    Deliveries(DeliveriesSettings),
    /// The route's queue.
    Incoming(Arc<IncomingSettings>),
}

/// Whose answers a site keeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caches {
    /// Of tenants.
    pub tenants: bool,
    /// Those that are public.
    pub public: bool,
}

impl Caches {
    fn of(routes: &[Arc<RouteSettings>]) -> Caches {
        let any = |public: bool| {
            routes.iter().filter_map(|route| route.cache.as_ref()).any(|cache| cache.public == public)
        };
        Caches { tenants: any(false), public: any(true) }
    }
}

impl Ladder {
    /// Whether this is one of the upstreams that it begins with.
    #[must_use]
    pub fn begins_with(&self, upstream: &Arc<Upstream>) -> bool {
        matches!(self, Ladder::Forward { first, .. } if first.iter().any(|one| Arc::ptr_eq(one, upstream)))
    }
}

/// A rung taken after a failed forward.
pub enum Fallback {
    /// Another upstream.
    Upstream(Arc<Upstream>),
    /// A fixed response.
    Respond(Arc<FixedResponse>),
}

/// Why a site cannot be built. `check` finds all of these first.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A route names an upstream that is not there.
    #[error("route `{route}` forwards to upstream `{upstream}`, which does not exist")]
    UpstreamMissing {
        /// The route.
        route: Arc<str>,
        /// The upstream.
        upstream: Arc<str>,
    },
    /// A route names a provider of logins that is not there.
    #[error("route `{route}` wants logins of `{login}`, which does not exist")]
    LoginMissing {
        /// The route.
        route: Arc<str>,
        /// The provider.
        login: Arc<str>,
    },
    /// Two routes match the same requests equally well.
    #[error("routes are ambiguous: {0:?}")]
    Ambiguous(Vec<Tie>),
}

impl Site {
    /// Looks up everything that the settings name, among the upstreams that will be in force with it.
    ///
    /// # Errors
    /// An upstream that is missing, or routes that are ambiguous.
    pub fn build(
        settings: ProxySettings,
        client_rules: Option<ClientRules>,
        standing: &Standing,
        upstreams: &Prepared<'_>,
    ) -> Result<Site, SiteError> {
        let login = |login: &Arc<OidcSettings>| (Arc::clone(&login.name), standing.providers.of(login));
        let logins: HashMap<_, _> = settings.logins.iter().map(login).collect();
        let routes = settings
            .routes
            .iter()
            .map(|route| {
                Ok((route.matches.clone(), Arc::new(Route::build(route, standing, upstreams, &logins)?)))
            })
            .collect::<Result<Vec<(Match, Arc<Route>)>, SiteError>>()?;
        let table = Table::build(routes).map_err(SiteError::Ambiguous)?;
        let deliveries =
            settings.deliveries.as_ref().map(|route| Route::build(route, standing, upstreams, &logins));
        let deliveries = deliveries.transpose()?.map(Arc::new);
        let tenants = &settings.tenants;
        let identity = Identity::new(tenants, &standing.verifiers);
        let failures = FailureLimit::new(Arc::clone(&standing.failures), tenants.failures.clone());
        let jwts = tenants.from.iter().filter_map(|source| match source {
            TenantSource::Jwt(settings) => Some(settings),
            _ => None,
        });
        standing.verifiers.retain(&jwts.collect::<Vec<_>>());
        standing.providers.retain(|name| logins.contains_key(name));
        standing.tenants.bound(tenants.tracked_max);
        standing.cache.bound(settings.cache);
        standing.cache.keep_on_disk(settings.disk.as_ref());
        let mirrored = settings.routes.iter().filter(|route| route.mirror.is_some());
        let mirrored: HashSet<&str> = mirrored.map(|route| &*route.name).collect();
        standing.mirrors.retain(|name| mirrored.contains(name));
        standing.domains.list(listed_domains(tenants));
        let with_canary = settings.routes.iter().filter(|route| route.canary.is_some());
        let with_canary: HashSet<&str> = with_canary.map(|route| &*route.name).collect();
        standing.canaries.retain(|name| with_canary.contains(name));
        let own = settings.deliveries.iter();
        let known: HashSet<&str> = settings.routes.iter().chain(own).map(|route| &*route.name).collect();
        standing.tenants.forget_routes(|name| known.contains(name), clock::now());
        standing
            .tenants
            .apply(tenants.listed.values().map(|one| (&one.id, &one.plan)), tenants.unknown.as_ref());
        Ok(Site {
            table,
            deliveries,
            identity,
            tenants: Arc::clone(&standing.tenants),
            failures,
            faults: Arc::clone(&standing.faults),
            maintenance: Arc::clone(&standing.maintenance),
            cache: Arc::clone(&standing.cache),
            caches: Caches::of(&settings.routes),
            idempotency: Arc::clone(&standing.idempotency),
            verdicts: Arc::clone(&standing.verdicts),
            logins,
            homes: settings.cluster.as_ref().map(|cluster| Homes::new(cluster, upstreams)),
            domains: Arc::clone(&standing.domains),
            secured: Arc::clone(&standing.secured),
            client_rules,
            settings,
        })
    }
}

/// The hosts that tenants of the file have of their own.
fn listed_domains(tenants: &TenantSettings) -> Listed {
    let of = |tenant: &ListedTenant| {
        let id = Arc::clone(&tenant.id);
        tenant.domains.clone().into_iter().map(move |host| (host, Arc::clone(&id)))
    };
    tenants.listed.values().flat_map(of).collect()
}

impl Route {
    fn build(
        settings: &Arc<RouteSettings>,
        standing: &Standing,
        upstreams: &Prepared<'_>,
        logins: &HashMap<Arc<str>, Arc<Provider>>,
    ) -> Result<Route, SiteError> {
        let find = |name: &Arc<str>| {
            upstreams.get(name).cloned().ok_or_else(|| SiteError::UpstreamMissing {
                route: Arc::clone(&settings.name),
                upstream: Arc::clone(name),
            })
        };
        let rest = || {
            let rung = |rung: &Rung| match rung {
                Rung::Upstream(name) => find(name).map(Fallback::Upstream),
                Rung::Respond(response) => Ok(Fallback::Respond(Arc::clone(response))),
            };
            settings.fallback.iter().map(rung).collect::<Result<Vec<_>, _>>()
        };
        let mut canary = None;
        let ladder = match &settings.action {
            Action::Forward(split) => {
                let mut first: Vec<Arc<Upstream>> =
                    split.to.iter().map(|(name, _)| find(name)).collect::<Result<_, _>>()?;
                if let (Some(next), Some(baseline)) = (&settings.canary, first.first().cloned()) {
                    let upstream = find(&next.upstream)?;
                    let again = next.fallback.then(|| Fallback::Upstream(Arc::clone(&baseline)));
                    let rest = again.into_iter().chain(rest()?).collect();
                    let both = (baseline, Arc::clone(&upstream));
                    first.push(upstream);
                    canary = Some(standing.canaries.of(&settings.name, next, both, rest));
                }
                Ladder::Forward { split: split.clone(), first, rest: rest()? }
            }
            Action::Redirect { .. } => Ladder::Redirect,
            Action::Respond(response) => Ladder::Respond(Arc::clone(response)),
            Action::Deliveries(settings) => Ladder::Deliveries(settings.clone()),
            Action::Incoming(settings) => Ladder::Incoming(Arc::clone(settings)),
        };
        let mirror = match &settings.mirror {
            None => None,
            Some(mirror) => Some(standing.mirrors.of(&settings.name, mirror, find(&mirror.upstream)?)),
        };
        let access = Access::build(settings, upstreams, logins)?;
        Ok(Route {
            settings: Arc::clone(settings),
            limits: settings.limits(),
            access,
            ladder,
            mirror,
            canary,
        })
    }
}
