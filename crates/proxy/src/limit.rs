//! Limit: whether the tenant may make this exchange now. The only maker of [`Permitted`].

use std::sync::Arc;

use http::HeaderValue;
use tidegate_model::limit::spread;
use tidegate_model::problem::{Left, Quota, rate_limit, rate_limit_policy};
use tidegate_model::receipt::Step;
use tidegate_model::refusal::Refusal;
use tidegate_model::tenant::{Permit, Standing, Tenant};

use crate::entropy::Entropy;
use crate::exchange::Exchange;
use crate::route::Routed;
use crate::site::Site;

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

    /// What is held, and how the tenant stands.
    #[must_use]
    pub fn into_parts(self) -> (Permit, Option<Told>) {
        (self.permit, self.told)
    }
}

/// Asks the tenant's plan and the route's own limits.
///
/// # Errors
/// `limit.rate`, `limit.concurrency`.
pub fn limit(
    site: &Site,
    tenant: &Arc<Tenant>,
    routed: &Routed<'_>,
    exchange: &Exchange,
    entropy: &Entropy,
) -> Result<Permitted, Refusal> {
    let now = exchange.started;
    let limits = &routed.route.limits;
    let (permit, standing) = site.tenants.admit(tenant, limits, now).map_err(|mut refusal| {
        refusal.retry_after = refusal.retry_after.map(|wait| spread(wait, entropy.word()));
        refusal
    })?;
    let told = standing.map(|standing| {
        let policy = tenant.with_plan(|plan| {
            let rates = plan.rates.iter().chain(&limits.rates);
            rate_limit_policy(rates.map(|rate| Quota {
                name: &rate.name,
                limit: rate.limit,
                window: rate.window,
            }))
        });
        let reset = standing.horizon();
        let Standing { name, remaining, .. } = standing;
        let left = rate_limit([Left { name: &name, remaining, reset }]);
        exchange.open.receipt_mut().note(now, Step::Limited { limit: name, remaining });
        Told { policy, left }
    });
    Ok(Permitted { permit, told })
}
