//! Where what must survive a crash is kept, and what routes keep there.

use std::sync::Arc;
use std::time::Duration;

use tidegate_model::delivery::shard::SHARDS_MAX;
use tidegate_proxy::idempotency::IdempotencySettings;
use tidegate_proxy::settings::Action;
use tidegate_store::{Location, PostgresSettings, StoreSettings};

use super::Context;
use super::route::statuses;
use crate::config::raw;
use crate::config::scalar::{Size, show_duration, show_size};
use crate::config::text::{StoreAt, parse_store_url};
use crate::config::tree::Node;

/// The least that a store has room in for anything.
const SIZE_MIN: u64 = 1 << 20;
/// What there is where nothing else is said: over a restart of PostgreSQL, and over some bad seconds of a node.
const TIMEOUT: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(10);
/// The shortest time for a transaction: a disk may have a bad moment.
const TIMEOUT_MIN: Duration = Duration::from_millis(500);
/// The shortest lease: it is put off three times before it ends.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// The most bytes of a body that is held in memory.
const BODY_MAX: u64 = 64 << 20;

pub(super) fn store(context: &mut Context<'_>, raw: &raw::Config) -> Option<StoreSettings> {
    let raw = raw.store.as_ref()?;
    if raw.size.0 < SIZE_MIN {
        let node = context.entry("store").at("size");
        context.tell(node, format!("`size` must be at least {}", show_size(&SIZE_MIN)));
    }
    let location = location(context, raw)?;
    let postgres = matches!(location, Location::Postgres(_));
    let node = context.entry("store");
    for key in ["ca", "timeout", "lease", "shards", "node"] {
        if !postgres && node.get(key).is_some() {
            context
                .tell(node.at(key), format!("`{key}` is for a store in PostgreSQL: this one is a directory"));
        }
    }
    for (key, time, least) in [("timeout", &raw.timeout, TIMEOUT_MIN), ("lease", &raw.lease, LEASE_MIN)] {
        if time.as_ref().is_some_and(|time| time.0 < least) {
            context.tell(node.at(key), format!("`{key}` must be at least {}", show_duration(&least)));
        }
    }
    if let Some(ca) = &raw.ca {
        context.name_file(&ca.0);
    }
    Some(StoreSettings {
        location,
        bytes_max: raw.size.0,
        tenant_bytes_max: raw.size.0 / 100 * u64::from(raw.tenant_share.0),
    })
}

fn location(context: &mut Context<'_>, raw: &raw::Store) -> Option<Location> {
    let node = context.entry("store").at("url");
    let shards = raw.shards.unwrap_or(1);
    if !(1..=SHARDS_MAX).contains(&shards) {
        let at = context.entry("store").at("shards");
        context.tell(at, format!("a store has 1 to {SHARDS_MAX} shards"));
    }
    let told = match &raw.url {
        raw::StorePlace::Url(url) => Ok(url.0.clone()),
        raw::StorePlace::Env(env) => at(&context.secret(&raw::Secret::Env(env.clone()), node)),
        raw::StorePlace::File(file) => at(&context.secret(&raw::Secret::File(file.clone()), node)),
    };
    match told {
        Ok(StoreAt::Directory(path)) => Some(Location::Directory(path)),
        Ok(StoreAt::Postgres(url)) => Some(Location::Postgres(PostgresSettings {
            url,
            ca: raw.ca.as_ref().map(|file| file.0.clone()),
            lease: raw.lease.as_ref().map_or(LEASE, |lease| lease.0),
            timeout: raw.timeout.as_ref().map_or(TIMEOUT, |timeout| timeout.0),
            shards: shards.clamp(1, SHARDS_MAX),
            node: raw.node.as_deref().map_or_else(machine, Arc::from),
            brings: false,
        })),
        Err(why) => {
            context.tell(node, why);
            None
        }
    }
}

/// What the machine is called.
fn machine() -> Arc<str> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    Arc::from(if name.is_empty() { "localhost" } else { name })
}

fn at(secret: &[u8]) -> Result<StoreAt, String> {
    let text = std::str::from_utf8(secret).map_err(|_| "the URL is not UTF-8".to_owned())?;
    parse_store_url(text)
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
