//! Where nodes meet.

use tidegate_proxy::cache::far::FarSettings;

use super::Context;
use crate::config::raw;
use crate::config::scalar::show_size;
use crate::config::settings::{RedisSettings, RedisUrl};

/// The largest content that can be shared.
const OBJECT_MAX: u64 = 16 << 20;

/// What all nodes share of the cache.
pub(super) fn shared(context: &mut Context<'_>, raw: &raw::Config) -> Option<FarSettings> {
    let shared = raw.cache.redis.as_ref()?;
    let node = context.entry("cache").at("redis");
    context.positive(node, "wait", &shared.wait);
    if raw.redis.is_none() {
        context.tell_with(node, "there is no Redis to share answers in", "add [redis] with its `url`");
    }
    if shared.object.0 > OBJECT_MAX {
        let most = format!("`object` is at most {}", show_size(&OBJECT_MAX));
        context.tell(node.at("object"), most);
    }
    Some(FarSettings { entry_bytes_max: shared.object.0, wait: shared.wait.0, stale: shared.stale.0 })
}

pub(super) fn redis(context: &mut Context<'_>, raw: &raw::Config) -> Option<RedisSettings> {
    let raw = raw.redis.as_ref()?;
    let node = context.entry("redis");
    let secret = context.secret(&raw.url, node.at("url"));
    for (key, time) in [("connect_timeout", &raw.connect_timeout), ("timeout", &raw.timeout)] {
        context.positive(node, key, time);
    }
    let url = String::from_utf8(secret).ok().and_then(RedisUrl::new);
    if url.is_none() {
        let help = "write \"redis://HOST:PORT\", \"rediss://HOST:PORT\" (TLS) or \"unix:///PATH\"";
        context.tell_with(node.at("url"), "this is no URL of a Redis", help);
    }
    if let Some(ca) = &raw.ca {
        context.name_file(&ca.0);
    }
    Some(RedisSettings {
        url: url?,
        prefix: raw.prefix.0.as_str().into(),
        ca: raw.ca.as_ref().map(|file| file.0.clone()),
        connect_timeout: raw.connect_timeout.0,
        timeout: raw.timeout.0,
        orders: raw.orders,
    })
}
