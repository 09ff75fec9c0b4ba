//! What the cache has for a request that somebody asks about, tier by tier.

use std::sync::Arc;

use http::{Method, StatusCode};
use tidegate_model::cache::Wall;
use tidegate_model::cache::assemble::{Manifest, TIDEGATE_SLICES};
use tidegate_model::cache::key::{Key, Target};
use tidegate_model::cache::reuse::Rules;
use tidegate_model::fields::Fields;
use tidegate_model::route::Found as Matched;

use super::Cache;
use super::kept::Kept;
use super::memory::{Found, Named};
use super::stage::{MEMORY, now};
use super::tier::Lies;
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
    /// All tiers were looked at.
    Looked(Box<Looked>),
}

/// What all tiers have for a request.
#[derive(Debug)]
pub struct Looked {
    /// The route.
    pub route: Arc<str>,
    /// The key, of all variants.
    pub key: Key,
    /// Whether memory has answers to requests that differ in what they vary with.
    pub variants: bool,
    /// Each tier, the nearest first, and what it has.
    pub tiers: Vec<(&'static str, Option<Entry>)>,
    /// The time that all this is told for.
    pub now: Wall,
}

/// An answer that is stored.
#[derive(Debug)]
pub struct Entry {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub fields: Fields,
    /// The bytes of its content.
    pub length: u64,
    /// Where it lies in its tier, in words; empty: there is nothing to say.
    pub at: String,
    /// The bytes that it takes there.
    pub bytes: u64,
    /// When it may be used.
    pub rules: Rules,
    /// Whether it is asked for often.
    pub hot: bool,
    /// How many tags it has.
    pub tags: usize,
    /// How many of its slices are there, if its content is kept in slices, and how many it has.
    pub slices: Option<(u64, u64)>,
}

/// Looks: at memory now, and at the tiers below it when it is awaited.
pub async fn inspect(site: Arc<Site>, question: &Question<'_>) -> Inspected {
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
    let host = site.settings.aliases.of(question.host).map_or(question.host, |one| &**one);
    let key = key(route, question, host, tenant);
    let named = Named { tenant, host, path: question.path, key };
    let found = site.cache.memory.find(&named, question.fields);
    let variants = matches!(found, Found::Variants);
    let in_memory = match found {
        Found::Answer(kept) => Some(entry(&site.cache, &named, &kept, String::new(), kept.whole_size())),
        Found::Variants | Found::Nothing => None,
    };
    let mut tiers = vec![(MEMORY, in_memory)];
    for tier in site.cache.below() {
        let lies = match tier.inspect(&named, question.fields) {
            Some(inspecting) => inspecting.await,
            None => None,
        };
        // What was purged in this process, or is known to have been on another node, is not there for anybody.
        let lies = lies.filter(|lies| site.cache.memory.is_good(&lies.kept, &named));
        let entry = lies.map(|Lies { kept, at, bytes }| entry(&site.cache, &named, &kept, at, bytes));
        tiers.push((tier.name(), entry));
    }
    Inspected::Looked(Box::new(Looked { route: name, key, variants, tiers, now: now() }))
}

fn key(route: &Route, question: &Question<'_>, host: &str, tenant: Option<&str>) -> Key {
    let mut steering = Vec::new();
    if (tenant.is_none() || route.canary.is_some())
        && let Some(name) = question.tenant.and_then(|tenant| upstream_of_split(route, tenant))
    {
        super::asked::say(&mut steering, "split", name.as_bytes());
    }
    let target = Target {
        tenant,
        route: &route.settings.name,
        https: question.https,
        host,
        port: question.port,
        path: question.path,
        query: question.query,
        content: None,
        steering: (!steering.is_empty()).then_some(&steering),
    };
    let rules = route.settings.cache.as_ref().map(|settings| settings.key.clone()).unwrap_or_default();
    Key::of(&target, question.fields, &rules)
}

fn entry(cache: &Cache, named: &Named<'_>, kept: &Kept, at: String, bytes: u64) -> Entry {
    let mut fields = kept.fields();
    let manifest = Manifest::of(&fields).filter(|_| kept.is_sliced());
    fields.remove(TIDEGATE_SLICES);
    Entry {
        status: kept.status(),
        fields,
        length: manifest.map_or(kept.length(), |manifest| manifest.grid.whole),
        at,
        bytes,
        rules: kept.rules(),
        hot: kept.is_hot(),
        tags: kept.known().tags().len(),
        slices: manifest.map(|manifest| (cache.slices_there(named, &manifest), manifest.grid.count())),
    }
}
