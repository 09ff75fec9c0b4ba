//! `/purge` and `/cache/inspect`: what is cached is taken away by name, and looked at.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::cache::Wall;
use tidegate_model::cache::key::Aliases;
use tidegate_model::cache::purge::{Label, Purge};
use tidegate_model::cache::tags::Tag;
use tidegate_model::fields::Fields;
use tidegate_model::tenant::is_id;
use tidegate_model::{host, path};
use tidegate_proxy::cache::CacheStanding;
use tidegate_proxy::cache::inspect::{Entry, Inspected, Looked, Question, inspect as look};
use tidegate_wire::clock;

use super::{Control, Who, body, problem};

/// What is to be purged: one of these, `everything` apart of one `tenant` alone, if that stands beside it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// This URL, with whatever query.
    url: Option<String>,
    /// All whose URLs begin so.
    prefix: Option<String>,
    /// All of this host.
    host: Option<String>,
    /// All of this tenant; beside another: what of that is this tenant's.
    tenant: Option<String>,
    /// All that has this tag.
    tag: Option<String>,
    /// Everything: `true`.
    everything: bool,
    /// It may still be served where that is better than nothing, or while it is refreshed.
    soft: bool,
}

/// A URL, as the cache names what it stands for.
#[derive(Debug, PartialEq)]
struct Place {
    https: bool,
    host: String,
    port: Option<String>,
    path: String,
    query: Option<String>,
}

pub async fn purge(
    State(control): State<Control>,
    Extension(Who(who)): Extension<Who>,
    sent: Body,
) -> Response {
    let bytes = match body::read(sent, body::BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(refused) => return *refused,
    };
    let read = serde_json::from_slice::<Order>(&bytes).map_err(|error| error.to_string());
    let site = control.process.gate.site();
    let aliases = &site.settings.aliases;
    let (order, labels) = match read.and_then(|order| labels(&order, aliases).map(|labels| (order, labels))) {
        Ok(read) => read,
        Err(why) => return problem(StatusCode::BAD_REQUEST, "control.purge", &why),
    };
    let how = if order.soft { Purge::Soft } else { Purge::Hard };
    for label in labels {
        control.process.gate.standing.cache.purge(label, how, Wall::of(clock::wall()));
    }
    let mut told = told(&order);
    if !control.process.gate.standing.cache.purges_written().await {
        // It holds here, and would not after a crash: the disk has too much to do, or is away.
        told["on_disk"] = json!("pending");
    }
    tracing::info!(by = %who, purged = %told, "cache purged");
    axum::Json(told).into_response()
}

/// What was purged, as it was asked for.
fn told(order: &Order) -> Value {
    let mut told = json!({"soft": order.soft});
    let named = [
        ("url", &order.url),
        ("prefix", &order.prefix),
        ("host", &order.host),
        ("tag", &order.tag),
        ("tenant", &order.tenant),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            told[name] = json!(value);
        }
    }
    if order.everything {
        told["everything"] = json!(true);
    }
    told
}

/// The labels of what is to be purged: one, or of a host that is an alias one for each of its names.
fn labels(order: &Order, aliases: &Aliases) -> Result<Vec<Label>, String> {
    let Order { url, prefix, host, tenant, tag, everything, .. } = order;
    if let Some(tenant) = tenant.as_deref().filter(|tenant| !is_id(tenant)) {
        return Err(format!("`{tenant}` is no tenant's id"));
    }
    match (url, prefix, host, tag, everything, tenant) {
        (Some(url), None, None, None, false, tenant) => {
            let Place { host, path, .. } = place(url)?;
            let label = |host: &str| match tenant {
                None => Label::path(host, &path),
                Some(tenant) => Label::path_of(Some(tenant), host, &path),
            };
            Ok(aliases.names(&host).map(label).collect())
        }
        (None, Some(prefix), None, None, false, tenant) => {
            let Place { host, path, .. } = place(prefix)?;
            let label = |host: &str| match tenant {
                None => Label::prefix(host, &path),
                Some(tenant) => Label::prefix_of(tenant, host, &path),
            };
            Ok(aliases.names(&host).map(label).collect())
        }
        (None, None, Some(host), None, false, tenant) => {
            let label = |host: &str| match tenant {
                None => Label::host(host),
                Some(tenant) => Label::host_of(tenant, host),
            };
            Ok(aliases.names(&one_host(host)?).map(label).collect())
        }
        (None, None, None, Some(tag), false, tenant) if !tag.is_empty() => {
            Ok(vec![Label::tag(Tag::named(tag.as_bytes()), tenant.as_deref())])
        }
        (None, None, None, None, false, Some(tenant)) => Ok(vec![Label::tenant(tenant)]),
        (None, None, None, None, true, None) => Ok(vec![Label::EVERYTHING]),
        _ => Err("the body is {\"url\": …}, \"prefix\", \"host\", \"tag\", \"tenant\" or {\"everything\": true}: one \
                  of them; `tenant` may stand beside `url`, `prefix`, `host` and `tag`"
            .to_owned()),
    }
}

fn one_host(name: &str) -> Result<String, String> {
    host::normalize(name).map(|host| host.into_owned()).map_err(|_| format!("`{name}` is no host"))
}

/// Reads `https://host[:port]/path[?query]`.
fn place(url: &str) -> Result<Place, String> {
    let wrong = || format!("`{url}` is no URL: https://HOST/PATH");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let https = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?;
    let usual = if https { 443 } else { 80 };
    let port = authority.port_u16().filter(|port| *port != usual).map(|port| port.to_string());
    let path = path::normalize(uri.path()).map_err(|_| wrong())?.into_owned();
    Ok(Place {
        https,
        host: one_host(authority.as_str())?,
        port,
        path,
        query: uri.query().map(str::to_owned),
    })
}

pub async fn inspect(State(control): State<Control>, Query(asked): Query<Vec<(String, String)>>) -> Response {
    let bad = |why: &str| problem(StatusCode::BAD_REQUEST, "control.inspect", why);
    let (mut url, mut tenant, mut fields) = (None, None, Fields::default());
    for (name, value) in asked {
        match name.as_str() {
            "url" => url = Some(value),
            "tenant" => tenant = Some(value),
            "header" => {
                let field = value.split_once(':').and_then(|(name, value)| {
                    let name = HeaderName::try_from(name.trim()).ok()?;
                    Some((name, HeaderValue::try_from(value.trim()).ok()?))
                });
                let Some((name, value)) = field else { return bad("a header is `name: value`") };
                fields.append(&name, &value);
            }
            _ => return bad("what may be asked with is `url`, `tenant` and `header`"),
        }
    }
    let place = match url.as_deref().map(place) {
        Some(Ok(place)) => place,
        Some(Err(why)) => return bad(&why),
        None => return bad("`url` is missing"),
    };
    let question = Question {
        https: place.https,
        host: &place.host,
        port: place.port.as_deref(),
        path: &place.path,
        query: place.query.as_deref(),
        tenant: tenant.as_deref(),
        fields: &fields,
    };
    match look(control.process.gate.site(), &question).await {
        Inspected::NoRoute => no_entry("no route takes such a request"),
        Inspected::NotCached(route) => no_entry(&format!("route `{route}` has no `cache`")),
        Inspected::NoTenant(route) => {
            bad(&format!("route `{route}` has answers for each tenant: `tenant` says whose"))
        }
        Inspected::Looked(looked) => axum::Json(shown(&looked)).into_response(),
    }
}

fn no_entry(why: &str) -> Response {
    problem(StatusCode::NOT_FOUND, "control.not-cached", why)
}

/// What the nearest tier has that has it, and how it lies in each.
fn shown(looked: &Looked) -> Value {
    let Looked { route, key, variants, tiers, now } = looked;
    let stored = tiers.iter().find_map(|(_, entry)| entry.as_ref());
    let mut told = stored.map_or_else(|| json!({"variants": variants}), |entry| shown_entry(entry, *now));
    told["route"] = json!(route);
    told["key"] = json!(format!("{key:?}"));
    told["stored"] = json!(stored.is_some());
    told["tiers"] = tiers.iter().map(|(name, entry)| in_tier(name, entry.as_ref(), *now)).collect();
    told
}

fn in_tier(name: &str, entry: Option<&Entry>, now: Wall) -> Value {
    let Some(entry) = entry else { return json!({"tier": name, "stored": false}) };
    let freshness = &entry.rules.freshness;
    json!({
        "tier": name,
        "stored": true,
        "at": (!entry.at.is_empty()).then_some(&entry.at),
        "bytes": entry.bytes,
        "age_s": freshness.age(now),
        "fresh": freshness.stale_for(now).is_none(),
    })
}

fn shown_entry(entry: &Entry, now: Wall) -> Value {
    let (rules, freshness) = (&entry.rules, &entry.rules.freshness);
    let fields: Vec<[String; 2]> = entry
        .fields
        .iter()
        .map(|(name, value)| [name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
        .collect();
    json!({
        "status": entry.status.as_u16(),
        "age_s": freshness.age(now),
        "lifetime_s": freshness.lifetime,
        "fresh": freshness.stale_for(now).is_none(),
        "lifetime_guessed": freshness.heuristic,
        "validate_always": rules.validate_always,
        "never_stale": rules.never_stale,
        "stale_while_revalidate_s": rules.while_revalidate,
        "stale_if_error_s": rules.if_error,
        "content_bytes": entry.length,
        "often_asked_for": entry.hot,
        "tags": entry.tags,
        "slices": entry.slices.map(|(there, all)| json!({"there": there, "all": all})),
        "fields": fields,
    })
}

/// How the cache stands, for `/status`.
pub fn standing(standing: &CacheStanding) -> Value {
    json!({
        "memory_bytes": standing.bytes,
        "memory_limit": standing.bytes_max,
        "answers": standing.entries,
        "evicted": standing.evicted,
        "coming_bytes": standing.coming_bytes,
        "awaited": standing.under_way,
        "refreshing": standing.refreshing,
        "purged": standing.purged,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<Label, ()>) {
        check_all(body, expected.map(|label| vec![label]));
    }

    fn check_all(body: &str, expected: Result<Vec<Label>, ()>) {
        let read = serde_json::from_str::<Order>(body).map_err(drop);
        let aliases = Aliases::new([("www.shop.example".into(), "shop.example".into())]);
        assert_eq!(read.and_then(|order| labels(&order, &aliases).map_err(drop)), expected, "{body}");
    }

    #[test]
    fn an_alias_is_purged_by_all_its_names() {
        let both = |label: fn(&str) -> Label| Ok(vec![label("shop.example"), label("www.shop.example")]);
        check_all(r#"{"url": "http://WWW.shop.example/a"}"#, both(|host| Label::path(host, "/a")));
        check_all(r#"{"prefix": "http://www.shop.example/a"}"#, both(|host| Label::prefix(host, "/a")));
        check_all(
            r#"{"host": "www.shop.example", "tenant": "acme"}"#,
            both(|host| Label::host_of("acme", host)),
        );
    }

    #[test]
    fn one_thing_is_purged_at_a_time_and_a_tenant_narrows_it() {
        check(r#"{"url": "https://Shop.example/a?x"}"#, Ok(Label::path("shop.example", "/a")));
        check(
            r#"{"url": "http://shop.example:8080/a", "tenant": "acme"}"#,
            Ok(Label::path_of(Some("acme"), "shop.example", "/a")),
        );
        check(r#"{"prefix": "https://shop.example/v1/"}"#, Ok(Label::prefix("shop.example", "/v1/")));
        check(
            r#"{"prefix": "https://shop.example/v1", "tenant": "acme"}"#,
            Ok(Label::prefix_of("acme", "shop.example", "/v1")),
        );
        check(r#"{"host": "Shop.example", "soft": true}"#, Ok(Label::host("shop.example")));
        check(r#"{"host": "shop.example", "tenant": "acme"}"#, Ok(Label::host_of("acme", "shop.example")));
        check(r#"{"tag": "T"}"#, Ok(Label::tag(Tag::named(b"t"), None)));
        check(r#"{"tag": "t", "tenant": "acme"}"#, Ok(Label::tag(Tag::named(b"t"), Some("acme"))));
        check(r#"{"tenant": "acme"}"#, Ok(Label::tenant("acme")));
        check(r#"{"everything": true}"#, Ok(Label::EVERYTHING));
        for wrong in [
            "",
            "{}",
            r#"{"soft": true}"#,
            r#"{"everything": false}"#,
            r#"{"everything": true, "tag": "t"}"#,
            r#"{"host": "h", "prefix": "http://h/", "tenant": "acme"}"#,
            r#"{"everything": true, "tenant": "acme"}"#,
            r#"{"url": "/a"}"#,
            r#"{"url": "ftp://h/a"}"#,
            r#"{"tag": ""}"#,
            r#"{"tenant": ""}"#,
            r#"{"tag": "t", "tenant": ""}"#,
            r#"{"all": true}"#,
        ] {
            check(wrong, Err(()));
        }
    }
}
