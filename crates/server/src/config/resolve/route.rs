//! Routes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use tidegate_dispatch::QueueSettings;
use tidegate_model::cache::freshness::Heuristic;
use tidegate_model::cache::key::{Parameters, Rules as KeyRules};
use tidegate_model::cache::reuse::Terms as ReuseTerms;
use tidegate_model::gate::Priority;
use tidegate_model::gate::level::Degrade;
use tidegate_model::headers::may_be_changed;
use tidegate_model::route::{HeaderCondition, HeaderTest, HostPattern, Match, PathPattern, Split, Table};
use tidegate_proxy::cache::intake::TIDEGATE_CACHE_CONTROL;
use tidegate_proxy::settings::{
    Action, CacheSettings, FixedResponse, HeaderChanges, RequestChanges, RouteSettings, Rung,
};
use tidegate_upstream::settings::{HedgeSettings, RetrySettings};

use super::Context;
use super::tenants::rates;
use crate::config::problem::Problem;
use crate::config::raw;
use crate::config::scalar::{Time, show_duration};
use crate::config::text::HeaderText;
use crate::config::tree::Node;

/// Paths that belong to Tidegate on every listener.
const OWN_PATHS: &str = "/_tidegate";
/// What the application tells caches of our kind (RFC 9213).
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// Header fields that belong to Tidegate.
const OWN_HEADERS: &str = "tidegate-";

pub fn routes(
    context: &mut Context<'_>,
    queues: &mut Vec<QueueSettings>,
    raw: &raw::Config,
) -> Vec<Arc<RouteSettings>> {
    let node = context.entry("route");
    if raw.route.is_empty() && context.root.get("route").is_none() {
        context.tell_whole("there is no route", "add [[route]] path = \"/\", upstream = \"…\"");
    }
    let mut routes = Vec::new();
    let mut nodes = Vec::new();
    for (index, route) in raw.route.iter().enumerate() {
        if let Some(settings) = one(context, queues, route, node.nth(index)) {
            routes.push(Arc::new(settings));
            nodes.push(node.nth(index));
        }
    }
    let table = routes.iter().map(|route| (route.matches.clone(), ())).collect();
    let ties = Table::build(table).err().unwrap_or_default();
    for tie in &ties {
        let (first, second) = (&routes[tie.first].name, &routes[tie.second].name);
        let message = format!("routes `{first}` and `{second}` match the same requests equally well");
        let problem = Problem::new(Some(nodes[tie.second].place.clone()), message)
            .note(Some(&nodes[tie.first].place), "the other one is")
            .help("make one more specific: another host, path, method or header condition");
        context.add(nodes[tie.second], problem);
    }
    let mut names: HashMap<&Arc<str>, usize> = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let Some(first) = names.insert(&route.name, index) else { continue };
        let unnamed = nodes[index].get("name").is_none();
        if unnamed && ties.iter().any(|tie| tie.second == index) {
            // Two that match the same are called the same; that is told already.
            continue;
        }
        let place = nodes[index].at("name").place.clone();
        let problem = Problem::new(Some(place), format!("two routes are called `{}`", route.name))
            .note(Some(&nodes[first].at("name").place), "the other one is");
        context.add(nodes[index], if unnamed { problem.help("give it a name of its own") } else { problem });
    }
    routes
}

pub(super) fn one(
    context: &mut Context<'_>,
    queues: &mut Vec<QueueSettings>,
    raw: &raw::Route,
    node: &Node,
) -> Option<RouteSettings> {
    let matches = matches(context, raw, node);
    let name = raw.name.as_ref().map_or_else(|| name_of(&matches), |name| name.0.clone());
    let action = action(context, queues, raw, node)?;
    let forwards = matches!(action, Action::Forward(_));
    if raw.rewrite.is_some() && !forwards {
        context.tell(node.at("rewrite"), "`rewrite` belongs to a route that forwards");
    }
    context.positive(node, "deadline", &raw.deadline);
    let access = super::access::access(context, raw, node);
    Some(RouteSettings {
        name: Arc::from(name.as_str()),
        matches,
        allow: raw.allow.iter().map(|network| network.0).collect(),
        deny: raw.deny.iter().map(|network| network.0).collect(),
        rates: rates(context, raw.limits.rate.as_ref(), &name, node.at("limits").at("rate")),
        concurrency: raw.limits.concurrency,
        body_bytes_max: raw.limits.body.as_ref().map(|size| size.0),
        deadline: raw.deadline.0,
        retry: retry(context, raw, node),
        fallback: fallback(context, raw, node, &action),
        fallback_statuses: statuses(&raw.fallback_on),
        request: RequestChanges {
            prefix: raw.rewrite.as_ref().map(|prefix| prefix.0.clone()),
            headers: changes(context, &raw.request_headers, node.at("request_headers")),
        },
        response: changes(context, &raw.response_headers, node.at("response_headers")),
        degrade: degrade(raw.degrade),
        priority: match raw.priority {
            raw::Priority::Critical => Priority::Critical,
            raw::Priority::Default => Priority::Default,
            raw::Priority::Sheddable => Priority::Sheddable,
        },
        cache: cache(context, raw, node, &action).map(|mut cache| {
            super::access::key(&mut cache.key, &access);
            cache
        }),
        idempotency: super::store::idempotency(context, raw, node, &action),
        defer: super::queue::defer(context, queues, raw, node, &action),
        mirror: super::mirror::mirror(context, raw, node, &action),
        maintenance: raw.maintenance,
        coding: super::bodies::coding(context, raw, node, &action),
        access,
        canary: super::canary::canary(context, raw, node, &action),
        action,
    })
}

fn cache(context: &mut Context<'_>, raw: &raw::Route, node: &Node, action: &Action) -> Option<CacheSettings> {
    // Inherited, it means nothing where nothing is forwarded.
    let raw = raw.cache.on().filter(|_| matches!(action, Action::Forward(_)))?;
    let node = node.at("cache");
    let parameters = match raw.query {
        Some(_) if !raw.query_ignore.is_empty() => {
            context.tell(
                node.at("query_ignore"),
                "`query` says which parameters count: nothing is left to ignore",
            );
            Parameters::All
        }
        Some(names) if names.is_empty() => Parameters::Ignored,
        Some(names) => Parameters::Only(names),
        None if raw.query_ignore.is_empty() => Parameters::All,
        None => Parameters::Without(raw.query_ignore),
    };
    let seconds = |time: &Time| u32::try_from(time.0.as_secs()).unwrap_or(u32::MAX);
    for (key, time) in [
        ("default_ttl", &raw.default_ttl),
        ("error_ttl", &raw.error_ttl),
        ("stale_while_revalidate", &raw.stale_while_revalidate),
        ("stale_if_error", &raw.stale_if_error),
    ] {
        if time.0.subsec_nanos() != 0 {
            context.tell(node.at(key), "ages are told in whole seconds (RFC 9111 section 1.2.2)");
        }
    }
    if raw.shield == Some(true) && context.root.get("cluster").is_none() {
        let help = "add [cluster] with its `listen`, `nodes` and `secret`";
        context.tell_with(node.at("shield"), "there is no cluster whose nodes could be asked", help);
    }
    Some(CacheSettings {
        public: raw.public,
        shield: raw.shield.unwrap_or(true),
        key: KeyRules {
            parameters,
            ordered: raw.query_ordered,
            headers: raw.headers.iter().map(|header| header.0.clone()).collect(),
            cookies: raw.cookies,
        },
        query_content: raw.query_content.0,
        reuse: ReuseTerms {
            request_directives: raw.client_directives,
            while_revalidate: seconds(&raw.stale_while_revalidate),
            if_error: seconds(&raw.stale_if_error),
        },
        heuristic: Heuristic {
            percent: raw.heuristic.0,
            max: seconds(&raw.heuristic_max),
            unmodified: seconds(&raw.default_ttl),
        },
        error_ttl: seconds(&raw.error_ttl),
        targeted: vec![TIDEGATE_CACHE_CONTROL, CDN_CACHE_CONTROL],
    })
}

fn matches(context: &mut Context<'_>, raw: &raw::Route, node: &Node) -> Match {
    let (PathPattern::Exact(path) | PathPattern::Prefix(path)) = &raw.path.0;
    if path.strip_prefix(OWN_PATHS).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        context.tell(node.at("path"), format!("paths under `{OWN_PATHS}/` belong to Tidegate"));
    }
    let mut headers: Vec<HeaderCondition> = Vec::new();
    for (name, is) in &raw.headers {
        let node = node.at("headers").at(name);
        let Some(name) = header(context, name, node) else { continue };
        if headers.iter().any(|there| there.name == name) {
            context.tell(node, format!("there are two conditions on `{name}`"));
        }
        let is = match is {
            raw::HeaderIs::Present(true) => HeaderTest::Present,
            raw::HeaderIs::Present(false) => HeaderTest::Absent,
            raw::HeaderIs::Value(value) => HeaderTest::Equals(value.0.clone()),
        };
        headers.push(HeaderCondition { name, is });
    }
    Match {
        host: raw.host.as_ref().map_or(HostPattern::Any, |host| host.0.clone()),
        path: raw.path.0.clone(),
        methods: raw.methods.iter().map(|method| method.0.clone()).collect(),
        headers,
    }
}

/// The name of a route that has none: what it matches. So it stays the same wherever it stands in the file.
fn name_of(matches: &Match) -> String {
    let mut name = String::new();
    if !matches.methods.is_empty() {
        let methods: Vec<&str> = matches.methods.iter().map(http::Method::as_str).collect();
        name = format!("{} ", methods.join(","));
    }
    if matches.host != HostPattern::Any {
        name += &matches.host.to_string();
    }
    name + &matches.path.to_string().replacen("= ", "=", 1)
}

/// A header's name that is a key.
fn header(context: &mut Context<'_>, name: &str, node: &Node) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        super::tenants::name_problem(context, node, format!("`{name}` is no name of a header"));
    }
    parsed
}

fn action(
    context: &mut Context<'_>,
    queues: &[QueueSettings],
    raw: &raw::Route,
    node: &Node,
) -> Option<Action> {
    let keys = ["upstream", "to", "redirect", "respond", "incoming"];
    let given: Vec<&str> = keys.into_iter().filter(|key| node.get(key).is_some()).collect();
    if let [first, second, ..] = given.as_slice() {
        context.tell(node.at(second), format!("a route does one thing: `{first}` or `{second}`"));
        return None;
    }
    if let Some(name) = &raw.upstream {
        context.exists("upstream", &name.0, node.at("upstream"));
        return Some(Action::Forward(Split { to: vec![(Arc::from(name.0.as_str()), 1)] }));
    }
    if let Some(shares) = &raw.to {
        return Some(Action::Forward(split(context, shares, node.at("to"))));
    }
    if let Some(redirect) = &raw.redirect {
        return Some(self::redirect(context, redirect, node.at("redirect")));
    }
    if let Some(respond) = &raw.respond {
        return Some(Action::Respond(Arc::new(self::respond(context, respond, node.at("respond")))));
    }
    if let Some(incoming) = &raw.incoming {
        return super::webhook::incoming(context, queues, incoming, raw, node);
    }
    context.tell_with(
        node,
        "this route does nothing",
        "add upstream = \"…\", or to, redirect, respond or incoming",
    );
    None
}

fn split(context: &mut Context<'_>, shares: &[raw::Share], node: &Node) -> Split {
    let mut to: Vec<(Arc<str>, u32)> = Vec::new();
    for (index, share) in shares.iter().enumerate() {
        let node = node.nth(index).at("upstream");
        let name = share.upstream.0.as_str();
        context.exists("upstream", name, node);
        if to.iter().any(|(there, _)| **there == *name) {
            context.tell(node, format!("`{name}` stands twice: give it one weight"));
        }
        to.push((Arc::from(name), share.weight));
    }
    if to.iter().all(|(_, weight)| *weight == 0) {
        context.tell(node, "all weights are zero: no request would go anywhere");
    }
    Split { to }
}

fn redirect(context: &mut Context<'_>, raw: &raw::Redirect, node: &Node) -> Action {
    let (to, status) = match raw {
        raw::Redirect::To(to) => (to, 308),
        raw::Redirect::Table(table) => (&table.to, table.status),
    };
    let at = node.at("to");
    let plain = to.replace("{path}", "/").replace("{host}", "host");
    if plain.contains(['{', '}']) {
        context.tell(at, "only `{path}` and `{host}` are replaced in a redirect");
    } else if to.is_empty() || HeaderValue::from_str(&plain).is_err() || plain.contains(' ') {
        context.tell(at, "the target of a redirect is a URL or a path");
    } else if !plain.starts_with('/') && !plain.contains("://") {
        context.tell_with(
            at,
            "the target of a redirect begins with `/` or `https://`",
            format!("write \"https://{to}\""),
        );
    }
    if ![301, 302, 303, 307, 308].contains(&status) {
        context.tell(node.at("status"), "a redirect has status 301, 302, 303, 307 or 308");
    }
    Action::Redirect {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::PERMANENT_REDIRECT),
        to: to.clone(),
    }
}

fn respond(context: &mut Context<'_>, raw: &raw::Respond, node: &Node) -> FixedResponse {
    let mut headers = set(context, &raw.headers, node.at("headers"));
    if !raw.body.is_empty() {
        if matches!(raw.status, 204 | 205 | 304) {
            context.tell(node.at("body"), format!("a response with status {} has no body", raw.status));
        }
        if !headers.iter().any(|(name, _)| name == CONTENT_TYPE) {
            headers.push((CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
        }
    }
    FixedResponse {
        status: StatusCode::from_u16(raw.status).unwrap_or(StatusCode::OK),
        headers,
        body: Bytes::from(raw.body.clone()),
    }
}

/// What it does without under load.
fn degrade(raw: raw::Degrade) -> Degrade {
    let raw::Degrade { hedge, retry, upstream, route, log, compress } = raw;
    Degrade {
        hedge: hedge.get(),
        retry: retry.get(),
        upstream: upstream.get(),
        route: route.get(),
        log: log.get(),
        compress: compress.get(),
    }
}

fn retry(context: &mut Context<'_>, raw: &raw::Route, node: &Node) -> RetrySettings {
    let at = node.at("retry");
    let retry = &raw.retry;
    if let Some(time) = &retry.try_timeout {
        context.positive(at, "try_timeout", time);
        if time.0 > raw.deadline.0 {
            let deadline = show_duration(&raw.deadline.0);
            let message = format!("`try_timeout` is longer than the route's `deadline` ({deadline})");
            context.tell(at.at("try_timeout"), message);
        }
    }
    if retry.backoff.0 > retry.backoff_max.0 {
        let most = show_duration(&retry.backoff_max.0);
        context.tell(at.at("backoff"), format!("`backoff` is longer than `backoff_max` ({most})"));
    }
    if retry.body.0 > 64 << 20 {
        context.tell(at.at("body"), "`body` is at most 64MiB: it is kept in memory");
    }
    RetrySettings {
        tries: retry.tries,
        try_timeout: retry.try_timeout.as_ref().map(|time| time.0),
        statuses: statuses(&retry.statuses),
        backoff: retry.backoff.0,
        backoff_max: retry.backoff_max.0,
        idempotent: retry.idempotent,
        body_bytes: usize::try_from(retry.body.0).unwrap_or(usize::MAX),
        hedge: raw.hedge.on().map(|hedge| {
            if !(50..100).contains(&hedge.quantile.0) {
                context.tell(node.at("hedge").at("quantile"), "`quantile` must be from 50% to 99%");
            }
            HedgeSettings { quantile: f64::from(hedge.quantile.0) / 100.0, min: hedge.min.0 }
        }),
    }
}

/// Statuses whose range has been checked by the schema.
pub(super) fn statuses(raw: &[u16]) -> Vec<StatusCode> {
    raw.iter().filter_map(|status| StatusCode::from_u16(*status).ok()).collect()
}

fn fallback(context: &mut Context<'_>, raw: &raw::Route, node: &Node, action: &Action) -> Vec<Rung> {
    let Action::Forward(split) = action else {
        // Inherited, it means nothing here; a redirect does not fail.
        return Vec::new();
    };
    let node = node.at("fallback");
    let mut tried: Vec<Arc<str>> = match split.to.as_slice() {
        [(only, _)] => vec![Arc::clone(only)],
        _ => Vec::new(),
    };
    let mut rungs = Vec::new();
    for (index, rung) in raw.fallback.iter().enumerate() {
        let node = node.nth(index);
        if matches!(rungs.last(), Some(Rung::Respond(_))) {
            context.tell(node, "a fixed response never fails: nothing comes after it");
        }
        rungs.push(match rung {
            raw::Fallback::Upstream(name) => {
                let name: Arc<str> = Arc::from(name.0.as_str());
                context.exists("upstream", &name, node.at("upstream"));
                if tried.contains(&name) {
                    context.tell(
                        node.at("upstream"),
                        format!("`{name}` has failed already when this is reached"),
                    );
                }
                tried.push(Arc::clone(&name));
                Rung::Upstream(name)
            }
            raw::Fallback::Respond(respond) => {
                Rung::Respond(Arc::new(self::respond(context, respond, node.at("respond"))))
            }
        });
    }
    rungs
}

pub(super) fn changes(context: &mut Context<'_>, raw: &raw::HeaderChanges, node: &Node) -> HeaderChanges {
    for (index, name) in raw.remove.iter().enumerate() {
        changeable(context, &name.0, node.at("remove").nth(index));
    }
    let mut add = Vec::new();
    for (name, values) in &raw.add {
        let node = node.at("add").at(name);
        let Some(name) = header(context, name, node) else { continue };
        changeable(context, &name, node);
        let values = match values {
            raw::Add::One(value) => std::slice::from_ref(value),
            raw::Add::Several(values) => values.as_slice(),
        };
        add.extend(values.iter().map(|value| (name.clone(), value.0.clone())));
    }
    let node = node.at("set");
    let read = raw
        .set
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), set_to(context, value, node.at(name))?)));
    let values: BTreeMap<String, HeaderText> = read.collect();
    HeaderChanges {
        remove: raw.remove.iter().map(|name| name.0.clone()).collect(),
        set: set(context, &values, node),
        add,
    }
}

/// The value of a field, read from where it stands.
fn set_to(context: &mut Context<'_>, raw: &raw::SetTo, node: &Node) -> Option<HeaderText> {
    let secret = match raw {
        raw::SetTo::Text(text) => return Some(text.clone()),
        raw::SetTo::Env(env) => raw::Secret::Env(env.clone()),
        raw::SetTo::File(file) => raw::Secret::File(file.clone()),
    };
    let before = context.problems.len();
    let bytes = context.secret(&secret, node);
    if context.problems.len() > before {
        return None;
    }
    let Ok(mut value) = HeaderValue::from_bytes(&bytes) else {
        context.tell(node, "what stands there is no header's value");
        return None;
    };
    value.set_sensitive(true);
    Some(HeaderText(value))
}

fn set(
    context: &mut Context<'_>,
    raw: &BTreeMap<String, HeaderText>,
    node: &Node,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut set: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (name, value) in raw {
        let node = node.at(name);
        let Some(name) = header(context, name, node) else { continue };
        changeable(context, &name, node);
        if set.iter().any(|(there, _)| *there == name) {
            context.tell(node, format!("`{name}` stands twice"));
        }
        set.push((name, value.0.clone()));
    }
    set
}

fn changeable(context: &mut Context<'_>, name: &HeaderName, node: &Node) {
    if !may_be_changed(name) || name.as_str().starts_with(OWN_HEADERS) {
        context.tell(node, format!("`{name}` is Tidegate's to write"));
    }
}
