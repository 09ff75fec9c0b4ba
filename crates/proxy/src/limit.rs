//! Limit: whether the tenant may make this exchange now. The only maker of [`Permitted`].

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use http::HeaderValue;
use tidegate_model::limit::spread;
use tidegate_model::plan::Plan;
use tidegate_model::problem::{Left, Quota, rate_limit, rate_limit_policy};
use tidegate_model::receipt::Step;
use tidegate_model::refusal::Refusal;
use tidegate_model::tenant::{self, Permit, Standing, Tenant};

use crate::entropy::Entropy;
use crate::exchange::Exchange;
use crate::route::Routed;
use crate::site::{Route, Site};

/// Policies whose text a core remembers.
const POLICIES_MAX: usize = 16;

/// Evidence that the tenant's limits let this exchange pass.
pub struct Permitted {
    permit: Permit,
    told: Option<Told>,
}

/// How the tenant stands, as its client is told.
pub struct Told {
    /// `RateLimit-Policy`: all the limits that count for this request.
    pub policy: HeaderValue,
    /// `RateLimit`: what is left of the one that has the least left.
    pub left: HeaderValue,
}

impl Permitted {
    /// What is held while the exchange lasts.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The same for what is done on behalf of this exchange and outlives it: a refresh of what is stored.
    /// `None`: the tenant has as many at once as it may.
    #[must_use]
    pub fn on_behalf(&self) -> Option<Permitted> {
        Some(Permitted { permit: self.permit.on_behalf()?, told: None })
    }

    /// Evidence that another node of the cluster has asked the tenant's limits. To be made only of what such a node has
    /// said.
    #[must_use]
    pub(crate) fn of_peer(tenant: &Arc<Tenant>) -> Permitted {
        Permitted { permit: Permit::of_peer(tenant), told: None }
    }

    /// The way to do more of what this exchange asks for, as long as somebody reads its answer.
    #[must_use]
    pub fn standby(&self) -> Standby {
        Standby(self.permit.standby())
    }

    /// What is held, and how the tenant stands.
    #[must_use]
    pub fn into_parts(self) -> (Permit, Option<Told>) {
        (self.permit, self.told)
    }
}

/// Evidence that the tenant's limits let an exchange pass whose answer needs more than one request to the upstream.
pub struct Standby(tenant::Standby);

impl Standby {
    /// For one more. `None`: the tenant is not known any more.
    #[must_use]
    pub fn permitted(&self) -> Option<Permitted> {
        Some(Permitted { permit: self.0.permit()?, told: None })
    }
}

/// The text of `RateLimit-Policy`, by plan and route, on one core: it is the same for each of their requests.
#[derive(Default)]
pub struct Policies(RefCell<Vec<Policy>>);

/// Neither the plan nor the route is held, but that no other takes its place in memory.
struct Policy {
    plan: Weak<Plan>,
    route: Weak<Route>,
    text: HeaderValue,
}

impl Policies {
    fn of(&self, tenant: &Tenant, route: &Arc<Route>) -> HeaderValue {
        let remembered = tenant.with_plan(|plan| {
            let is = |held: &&Policy| {
                std::ptr::eq(held.plan.as_ptr(), plan) && std::ptr::eq(held.route.as_ptr(), &**route)
            };
            self.0.borrow().iter().find(is).map(|held| held.text.clone())
        });
        remembered.unwrap_or_else(|| self.make(&tenant.plan(), route))
    }

    #[cold]
    fn make(&self, plan: &Arc<Plan>, route: &Arc<Route>) -> HeaderValue {
        let rates = plan.rates.iter().chain(&route.limits.rates);
        let text = rate_limit_policy(rates.map(|rate| Quota {
            name: &rate.name,
            limit: rate.limit,
            window: rate.window,
        }));
        let mut held = self.0.borrow_mut();
        if held.len() == POLICIES_MAX {
            held.remove(0);
        }
        held.push(Policy { plan: Arc::downgrade(plan), route: Arc::downgrade(route), text: text.clone() });
        text
    }
}

/// Asks the tenant's plan and the route's own limits.
///
/// # Errors
/// `limit.rate`, `limit.concurrency`.
pub fn limit(
    site: &Site,
    tenant: Arc<Tenant>,
    routed: &Routed<'_>,
    exchange: &Exchange,
    entropy: &Entropy,
    policies: &Policies,
) -> Result<Permitted, Refusal> {
    let now = exchange.started;
    let limits = &routed.route.limits;
    let (permit, standing) = site.tenants.admit(tenant, limits, now).map_err(|mut refusal| {
        refusal.retry_after = refusal.retry_after.map(|wait| spread(wait, entropy.word()));
        refusal
    })?;
    let told = standing.map(|standing| {
        let policy = policies.of(permit.tenant(), routed.route);
        let reset = standing.horizon();
        let Standing { name, remaining, .. } = standing;
        let left = rate_limit([Left { name: &name, remaining, reset }]);
        exchange.open.receipt_mut().note(now, Step::Limited { limit: name, remaining });
        Told { policy, left }
    });
    Ok(Permitted { permit, told })
}
