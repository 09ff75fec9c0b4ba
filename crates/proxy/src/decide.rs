//! Decide: what answers the exchange, in which order, before anything is tried.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_upstream::Upstream;

use crate::exchange::Exchange;
use crate::incoming::IncomingSettings;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::protect;
use crate::route::Routed;
use crate::settings::{DeliveriesSettings, FixedResponse};
use crate::site::{Fallback, Ladder, Route};

/// Of so many requests that went well one is logged, where a route leaves out the others.
const LOGGED_OF: u64 = 10;

/// What answers the exchange.
pub enum Decision<'a> {
    /// An upstream, and what comes after it has failed.
    Forward {
        /// The first rung.
        first: &'a Arc<Upstream>,
        /// The further rungs.
        rest: &'a [Fallback],
    },
    /// A redirect.
    Redirect,
    /// A fixed response.
    Respond(&'a Arc<FixedResponse>),
    /// What is known of a delivery.
    Deliveries(&'a DeliveriesSettings),
    /// The route's queue.
    Incoming(&'a Arc<IncomingSettings>),
}

/// Decides. The process has this level of load; that of the upstream counts too.
///
/// # Errors
/// `route.shed`, where the route is left out at this level.
pub fn decide<'a>(
    proxy: &Proxy,
    exchange: &Exchange,
    routed: &Routed<'a>,
    permitted: &Permitted,
) -> Result<Decision<'a>, Refusal> {
    let decision = first_choice(exchange, routed, permitted);
    let level = match &decision {
        Decision::Forward { first, .. } => proxy.guard.level().max(first.load()),
        Decision::Redirect | Decision::Respond(_) | Decision::Deliveries(_) | Decision::Incoming(_) => {
            proxy.guard.level()
        }
    };
    if level == 0 { Ok(decision) } else { under_load(proxy, exchange, routed, decision, level) }
}

/// What is left of a decision at this level.
fn under_load<'a>(
    proxy: &Proxy,
    exchange: &Exchange,
    routed: &Routed<'a>,
    decision: Decision<'a>,
    level: u8,
) -> Result<Decision<'a>, Refusal> {
    let degrade = &routed.route.settings.degrade;
    {
        let mut receipt = exchange.open.receipt_mut();
        receipt.load = level;
        receipt.sampled_out = level >= degrade.log && !proxy.entropy.word().is_multiple_of(LOGGED_OF);
    }
    if level >= degrade.route {
        exchange.note(Step::Degraded("route", level));
        let refusal = Refusal::new(&refusal::ROUTE_SHED, "the route is left out under this load");
        return Err(protect::come_again(refusal, &proxy.entropy));
    }
    let Decision::Forward { rest: [next, rest @ ..], .. } = &decision else { return Ok(decision) };
    if level < degrade.upstream {
        return Ok(decision);
    }
    exchange.note(Step::Degraded("upstream", level));
    Ok(match next {
        Fallback::Upstream(first) => Decision::Forward { first, rest },
        Fallback::Respond(fixed) => Decision::Respond(fixed),
    })
}

/// The name of the upstream that a tenant's share of a route's split, or of its canary, leads to; `None`: there is only one.
pub fn upstream_of_split<'a>(route: &'a Route, tenant: &str) -> Option<&'a Arc<str>> {
    match &route.ladder {
        Ladder::Forward { first, .. } if let Some(canary) = &route.canary => {
            let chosen = if canary.is_chosen_for(tenant) { first.last() } else { first.first() };
            chosen.map(|upstream| upstream.name())
        }
        Ladder::Forward { split, first, .. } if first.len() > 1 => Some(split.pick(tenant_hash(tenant))),
        _ => None,
    }
}

fn first_choice<'a>(exchange: &Exchange, routed: &Routed<'a>, permitted: &Permitted) -> Decision<'a> {
    match &routed.route.ladder {
        Ladder::Forward { split, first, rest } => {
            let first = match first.as_slice() {
                [only] => only,
                [baseline, ..] if let Some(canary) = &routed.route.canary => {
                    let tenant = permitted.permit().tenant().id();
                    if canary.is_chosen(tenant, &exchange.head, exchange.client) {
                        return Decision::Forward { first: &canary.upstream, rest: &canary.rest };
                    }
                    baseline
                }
                several => {
                    let name = split.pick(tenant_hash(permitted.permit().tenant().id()));
                    let place = split.to.iter().position(|(held, _)| held == name).unwrap_or_default();
                    &several[place]
                }
            };
            Decision::Forward { first, rest }
        }
        Ladder::Redirect => Decision::Redirect,
        Ladder::Respond(response) => Decision::Respond(response),
        Ladder::Deliveries(settings) => Decision::Deliveries(settings),
        Ladder::Incoming(settings) => Decision::Incoming(settings),
    }
}

/// The same on every node and after every restart: a tenant stays in its share of a split.
fn tenant_hash(id: &str) -> u64 {
    let mut hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().build_hasher();
    hasher.write(id.as_bytes());
    hasher.finish()
}
