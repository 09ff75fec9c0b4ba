//! `mirror` on a route.

use std::sync::Arc;

use tidegate_model::mirror::compare::Rules;
use tidegate_model::mirror::tally::Ready;
use tidegate_model::mirror::{PATTERNS_MAX, Pattern};
use tidegate_model::tenant::is_id;
use tidegate_proxy::mirror::{CompareSettings, MirrorSettings};
use tidegate_proxy::settings::Action;

use super::Context;
use super::route::changes;
use crate::config::raw;
use crate::config::scalar::show_size;
use crate::config::tree::Node;

/// The largest body that is copied, or compared.
const BODY_MAX: u64 = 4 << 20;

pub(super) fn mirror(
    context: &mut Context<'_>,
    raw: &raw::Route,
    node: &Node,
    action: &Action,
) -> Option<MirrorSettings> {
    let (raw, node) = (raw.mirror.as_ref()?, node.at("mirror"));
    let Action::Forward(split) = action else {
        context.tell(node, "`mirror` belongs to a route that forwards");
        return None;
    };
    let at = node.at("upstream");
    context.exists("upstream", &raw.upstream.0, at);
    if split.to.iter().any(|(name, _)| **name == *raw.upstream.0) {
        context.tell(at, format!("the route forwards to `{}` itself", raw.upstream.0));
    }
    context.positive(node, "timeout", &raw.timeout);
    bounded(context, raw.body_max.0, node.at("body_max"));
    for (place, tenant) in raw.tenants.iter().enumerate() {
        if !is_id(tenant) {
            context.tell(node.at("tenants").nth(place), format!("`{tenant}` is no tenant's id"));
        }
    }
    Some(MirrorSettings {
        upstream: Arc::from(raw.upstream.0.as_str()),
        share: raw.share.0,
        tenants: raw.tenants.iter().map(|tenant| Arc::from(tenant.as_str())).collect(),
        methods: raw.methods.iter().map(|method| method.0.clone()).collect(),
        body_bytes_max: raw.body_max.0,
        timeout: raw.timeout.0,
        concurrency: raw.concurrency,
        prefix: raw.rewrite.as_ref().map(|prefix| prefix.0.clone()),
        headers: changes(context, &raw.request_headers, node.at("request_headers")),
        compare: raw.compare.on().map(|raw| compare(context, &raw, node.at("compare"))),
    })
}

fn compare(context: &mut Context<'_>, raw: &raw::MirrorCompare, node: &Node) -> CompareSettings {
    bounded(context, raw.body_max.0, node.at("body_max"));
    let ready = &raw.ready;
    CompareSettings {
        rules: Rules {
            headers: raw.headers.iter().map(|header| header.0.clone()).collect(),
            ignore: patterns(context, &raw.ignore, node.at("ignore")),
            unordered: patterns(context, &raw.unordered, node.at("unordered")),
        },
        body_bytes_max: raw.body_max.0,
        samples: raw.samples as usize,
        ready: Ready {
            compared: ready.compared,
            over: ready.over.0,
            differing: f64::from(ready.differing.0) / f64::from(tidegate_model::mirror::WHOLE),
            latency: ready.latency,
        },
    }
}

fn bounded(context: &mut Context<'_>, bytes: u64, node: &Node) {
    if bytes > BODY_MAX {
        context.tell(node, format!("`body_max` is at most {}", show_size(&BODY_MAX)));
    }
}

fn patterns(context: &mut Context<'_>, texts: &[String], node: &Node) -> Vec<Pattern> {
    let mut patterns = Vec::with_capacity(texts.len().min(PATTERNS_MAX));
    for (place, text) in texts.iter().enumerate() {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => context.tell(node.nth(place), format!("`{text}`: {error}")),
        }
    }
    patterns
}
