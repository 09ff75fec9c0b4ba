//! Where what must survive a crash is kept, and what routes keep there.

use tidegate_proxy::idempotency::IdempotencySettings;
use tidegate_proxy::settings::Action;
use tidegate_store::StoreSettings;

use super::Context;
use super::route::statuses;
use crate::config::raw;
use crate::config::scalar::{Size, show_duration, show_size};
use crate::config::tree::Node;

/// The least that a store has room in for anything.
const SIZE_MIN: u64 = 1 << 20;
/// The most bytes of a body that is held in memory.
const BODY_MAX: u64 = 64 << 20;

pub(super) fn store(context: &mut Context<'_>, raw: &raw::Config) -> Option<StoreSettings> {
    let raw = raw.store.as_ref()?;
    if raw.size.0 < SIZE_MIN {
        let node = context.entry("store").at("size");
        context.tell(node, format!("`size` must be at least {}", show_size(&SIZE_MIN)));
    }
    Some(StoreSettings {
        directory: raw.url.0.clone(),
        bytes_max: raw.size.0,
        tenant_bytes_max: raw.size.0 / 100 * u64::from(raw.tenant_share.0),
    })
}

pub(super) fn idempotency(
    context: &mut Context<'_>,
    route: &raw::Route,
    node: &Node,
    action: &Action,
) -> Option<IdempotencySettings> {
    // Inherited, it means nothing where nothing is forwarded.
    let raw = route.idempotency.on().filter(|_| matches!(action, Action::Forward(_)))?;
    let at = node.at("idempotency");
    if context.root.get("store").is_none() {
        let help = "add [store] with url = \"sqlite:tidegate-data\"";
        context.tell_with(at, "there is no store to keep idempotency keys in", help);
    }
    if route.name.is_none() {
        let message = "a route with `idempotency` needs a name: its records are found by it";
        context.tell_with(at, message, "add name = \"…\", and never change it");
    }
    // Less would forget a request that is under way; fractions are not kept.
    if raw.ttl.0 < route.deadline.0 || raw.ttl.0.subsec_nanos() != 0 {
        let least = show_duration(&route.deadline.0);
        context.tell(at.at("ttl"), format!("`ttl` is in whole seconds, and at least the deadline, {least}"));
    }
    for (key, Size(size)) in [("body_max", &raw.body_max), ("response_max", &raw.response_max)] {
        if *size > BODY_MAX {
            context.tell(at.at(key), format!("`{key}` is at most {}", show_size(&BODY_MAX)));
        }
    }
    Some(IdempotencySettings {
        required: raw.required,
        ttl: raw.ttl.0,
        body_bytes_max: raw.body_max.0,
        response_bytes_max: raw.response_max.0,
        wait: raw.wait.0,
        keys_max: raw.keys.into(),
        upstream: raw.upstream,
        release: statuses(&raw.release),
    })
}
