//! What the cache has for a request that somebody asks about.

use std::sync::Arc;

use http::{Method, StatusCode};
use tidegate_model::cache::Wall;
use tidegate_model::cache::key::{Key, Target};
use tidegate_model::cache::reuse::Rules;
use tidegate_model::fields::Fields;
use tidegate_model::route::Found as Matched;

use super::kept::Kept;
use super::memory::{Found, Named};
use super::stage::now;
use crate::decide::upstream_of_split;
use crate::site::{Route, Site};

/// A request, as far as it is in a key.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// Whether it comes by TLS.
    pub https: bool,
    /// The host, in its one form.
    pub host: &'a str,
    /// The port, if it is not the usual one.
    pub port: Option<&'a str>,
    /// The path, in its one form.
    pub path: &'a str,
    /// The query.
    pub query: Option<&'a str>,
    /// The tenant that asks.
    pub tenant: Option<&'a str>,
    /// The fields that count.
    pub fields: &'a Fields,
}

/// What there is to say.
#[derive(Debug)]
pub enum Inspected {
    /// No route takes such a request.
    NoRoute,
    /// Its route is not cached.
    NotCached(Arc<str>),
    /// Its route has answers for each tenant, and none was told.
    NoTenant(Arc<str>),
    /// Nothing is stored in memory; `true`: for requests that differ in what the answer varies with there is.
    Nothing(Arc<str>, Key, bool),
    /// This is stored.
    Stored(Box<Entry>),
}

/// An answer that is stored.
#[derive(Debug)]
pub struct Entry {
    /// The route.
    pub route: Arc<str>,
    /// The key, of all variants.
    pub key: Key,
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub fields: Fields,
    /// The bytes of its content.
    pub length: u64,
    /// The bytes that it takes.
    pub size: u64,
    /// When it may be used.
    pub rules: Rules,
    /// Whether it is asked for often.
    pub hot: bool,
    /// How many tags it has.
    pub tags: usize,
    /// The time that all this is told for.
    pub now: Wall,
}

/// Looks.
#[must_use]
pub fn inspect(site: &Site, question: &Question<'_>) -> Inspected {
    let Matched::Route(route, _) =
        site.table.find(question.host, question.path, &Method::GET, question.fields)
    else {
        return Inspected::NoRoute;
    };
    let name = Arc::clone(&route.settings.name);
    let Some(settings) = &route.settings.cache else { return Inspected::NotCached(name) };
    let tenant = match (settings.public, question.tenant) {
        (true, _) => None,
        (false, None) => return Inspected::NoTenant(name),
        (false, tenant) => tenant,
    };
    let key = key(route, question, tenant);
    let named = Named { tenant, host: question.host, path: question.path, key };
    match site.cache.memory.find(&named, question.fields) {
        Found::Answer(kept) => Inspected::Stored(Box::new(entry(name, key, &kept))),
        Found::Variants => Inspected::Nothing(name, key, true),
        Found::Nothing => Inspected::Nothing(name, key, false),
    }
}

fn key(route: &Route, question: &Question<'_>, tenant: Option<&str>) -> Key {
    let mut steering = Vec::new();
    if tenant.is_none()
        && let Some(name) = question.tenant.and_then(|tenant| upstream_of_split(route, tenant))
    {
        super::asked::say(&mut steering, "split", name.as_bytes());
    }
    let target = Target {
        tenant,
        route: &route.settings.name,
        https: question.https,
        host: question.host,
        port: question.port,
        path: question.path,
        query: question.query,
        content: None,
        steering: (!steering.is_empty()).then_some(&steering),
    };
    let rules = route.settings.cache.as_ref().map(|settings| settings.key.clone()).unwrap_or_default();
    Key::of(&target, question.fields, &rules)
}

fn entry(route: Arc<str>, key: Key, kept: &Kept) -> Entry {
    Entry {
        route,
        key,
        status: kept.status(),
        fields: kept.fields(),
        length: kept.length,
        size: kept.size(),
        rules: kept.rules(),
        hot: kept.is_hot(),
        tags: kept.known().tags().len(),
        now: now(),
    }
}
