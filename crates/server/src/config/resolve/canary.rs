//! `canary` on a route.

use std::sync::Arc;

use tidegate_model::canary::{Plan, Rollback};
use tidegate_model::mirror::WHOLE;
use tidegate_proxy::canary::CanarySettings;
use tidegate_proxy::settings::Action;
use tidegate_upstream::settings::HashOn;

use super::Context;
use crate::config::raw;
use crate::config::tree::Node;

pub(super) fn canary(
    context: &mut Context<'_>,
    route: &raw::Route,
    node: &Node,
    action: &Action,
) -> Option<CanarySettings> {
    let (raw, route_node, node) = (route.canary.as_ref()?, node, node.at("canary"));
    let Action::Forward(split) = action else {
        context.tell(node, "`canary` belongs to a route that forwards");
        return None;
    };
    if route.to.is_some() {
        let help = "say upstream = \"…\": the version that the canary is held against";
        context.tell_with(node, "a route has a `canary`, or several upstreams in `to`", help);
    }
    let at = node.at("upstream");
    context.exists("upstream", &raw.upstream.0, at);
    if split.to.iter().any(|(name, _)| **name == *raw.upstream.0) {
        context.tell(at, format!("the route forwards to `{}` itself", raw.upstream.0));
    }
    if route.name.is_none() {
        context.tell_with(
            route_node,
            "what becomes of a canary is kept by the route's name",
            "add name = \"…\"",
        );
    }
    if route.cache.on().is_some() && raw.sticky.0 != HashOn::Tenant {
        let message = "on a cached route each tenant has one version: `sticky` is \"tenant\"";
        context.tell(node.at("sticky"), message);
    }
    let mut before = 0;
    for (place, step) in raw.steps.iter().enumerate() {
        if step.0 <= before || step.0 >= WHOLE {
            let message = "each step is larger than the one before, above 0% and below 100%";
            context.tell(node.at("steps").nth(place), message);
        }
        before = step.0;
    }
    context.positive(node, "every", &raw.every);
    let (rollback, at) = (&raw.rollback, node.at("rollback"));
    context.positive(at, "window", &rollback.window);
    if !(1..100).contains(&rollback.quantile.0) {
        context.tell(at.at("quantile"), "`quantile` is above 0% and below 100%");
    }
    Some(CanarySettings {
        upstream: Arc::from(raw.upstream.0.as_str()),
        plan: Plan {
            steps: raw.steps.iter().map(|step| step.0).collect(),
            every: raw.every.0,
            manual: raw.manual,
            rollback: Rollback {
                errors: f64::from(rollback.errors.0) / f64::from(WHOLE),
                latency: Some(rollback.latency),
                quantile: f64::from(rollback.quantile.0) / 100.0,
                min: rollback.min,
                window: rollback.window.0,
            },
        },
        sticky: raw.sticky.0.clone(),
        fallback: raw.fallback,
    })
}
