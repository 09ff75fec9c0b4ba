//! Limit: whether the tenant may make this exchange now. The only maker of [`Permitted`].

use std::sync::Arc;

use tidegate_model::receipt::Step;
use tidegate_model::refusal::Refusal;
use tidegate_model::tenant::{Permit, Standing, Tenant};
use tidegate_wire::clock;

use crate::exchange::Exchange;
use crate::route::Routed;
use crate::site::Site;

/// Evidence that the tenant's limits let this exchange pass.
pub struct Permitted {
    permit: Permit,
    standing: Option<Standing>,
}

impl Permitted {
    /// What is held while the exchange lasts.
    #[must_use]
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// What is held, and how the tenant stands.
    #[must_use]
    pub fn into_parts(self) -> (Permit, Option<Standing>) {
        (self.permit, self.standing)
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
) -> Result<Permitted, Refusal> {
    let now = clock::now();
    let (permit, standing) = site.tenants.admit(tenant, &routed.route.limits, now)?;
    if let Some(standing) = &standing {
        let (limit, remaining) = (Arc::clone(&standing.name), standing.remaining);
        exchange.open.receipt_mut().note(now, Step::Limited { limit, remaining });
    }
    Ok(Permitted { permit, standing })
}
