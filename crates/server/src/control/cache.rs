//! `/purge` and `/cache/inspect`: what is cached is taken away by name, and looked at.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_model::cache::Wall;
use tidegate_model::cache::purge::{Label, Purge};
use tidegate_model::cache::tags::Tag;
use tidegate_model::fields::Fields;
use tidegate_model::tenant::is_id;
use tidegate_model::{host, path};
use tidegate_proxy::cache::CacheStanding;
use tidegate_proxy::cache::inspect::{Entry, Inspected, Question, inspect as look};
use tidegate_wire::clock;

use super::{BODY_MAX, Control, Who, problem};

/// What is to be purged: one of these; `tenant` may stand beside `url` and `tag`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    url: Option<String>,
    prefix: Option<String>,
    host: Option<String>,
    tenant: Option<String>,
    tag: Option<String>,
    everything: bool,
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
    body: Body,
) -> Response {
    let bytes = axum::body::to_bytes(body, BODY_MAX).await.unwrap_or_default();
    let read = serde_json::from_slice::<Order>(&bytes).map_err(|error| error.to_string());
    let (order, label) = match read.and_then(|order| label(&order).map(|label| (order, label))) {
        Ok(read) => read,
        Err(why) => return problem(StatusCode::BAD_REQUEST, "control.purge", &why),
    };
    let how = if order.soft { Purge::Soft } else { Purge::Hard };
    control.process.gate.standing.cache.purge(label, how, Wall::of(clock::wall()));
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

fn label(order: &Order) -> Result<Label, String> {
    let Order { url, prefix, host, tenant, tag, everything, .. } = order;
    if let Some(tenant) = tenant.as_deref().filter(|tenant| !is_id(tenant)) {
        return Err(format!("`{tenant}` is no tenant's id"));
    }
    match (url, prefix, host, tag, everything, tenant) {
        (Some(url), None, None, None, false, tenant) => {
            let place = place(url)?;
            Ok(match tenant {
                None => Label::path(&place.host, &place.path),
                Some(tenant) => Label::path_of(Some(tenant), &place.host, &place.path),
            })
        }
        (None, Some(prefix), None, None, false, None) => {
            let place = place(prefix)?;
            Ok(Label::prefix(&place.host, &place.path))
        }
        (None, None, Some(host), None, false, None) => Ok(Label::host(&one_host(host)?)),
        (None, None, None, Some(tag), false, tenant) if !tag.is_empty() => {
            Ok(Label::tag(Tag::named(tag.as_bytes()), tenant.as_deref()))
        }
        (None, None, None, None, false, Some(tenant)) => Ok(Label::tenant(tenant)),
        (None, None, None, None, true, None) => Ok(Label::EVERYTHING),
        _ => Err("the body is {\"url\": …}, \"prefix\", \"host\", \"tag\", \"tenant\" or {\"everything\": true}: one \
                  of them; `tenant` may stand beside `url` and `tag`"
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
    match look(&control.process.gate.site(), &question) {
        Inspected::NoRoute => no_entry("no route takes such a request"),
        Inspected::NotCached(route) => no_entry(&format!("route `{route}` has no `cache`")),
        Inspected::NoTenant(route) => {
            bad(&format!("route `{route}` has answers for each tenant: `tenant` says whose"))
        }
        Inspected::Nothing(route, key, variants) => axum::Json(
            json!({"route": route, "key": format!("{key:?}"), "stored": false, "variants": variants}),
        )
        .into_response(),
        Inspected::Stored(entry) => axum::Json(shown(&entry)).into_response(),
    }
}

fn no_entry(why: &str) -> Response {
    problem(StatusCode::NOT_FOUND, "control.not-cached", why)
}

fn shown(entry: &Entry) -> Value {
    let (rules, freshness) = (&entry.rules, &entry.rules.freshness);
    let fields: Vec<[String; 2]> = entry
        .fields
        .iter()
        .map(|(name, value)| [name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()])
        .collect();
    json!({
        "route": entry.route,
        "key": format!("{:?}", entry.key),
        "stored": true,
        "status": entry.status.as_u16(),
        "age_s": freshness.age(entry.now),
        "lifetime_s": freshness.lifetime,
        "fresh": freshness.stale_for(entry.now).is_none(),
        "lifetime_guessed": freshness.heuristic,
        "validate_always": rules.validate_always,
        "never_stale": rules.never_stale,
        "stale_while_revalidate_s": rules.while_revalidate,
        "stale_if_error_s": rules.if_error,
        "content_bytes": entry.length,
        "memory_bytes": entry.size,
        "often_asked_for": entry.hot,
        "tags": entry.tags,
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
        let read = serde_json::from_str::<Order>(body).map_err(drop);
        assert_eq!(read.and_then(|order| label(&order).map_err(drop)), expected, "{body}");
    }

    #[test]
    fn one_thing_is_purged_at_a_time_and_a_tenant_narrows_url_and_tag() {
        check(r#"{"url": "https://Shop.example/a?x"}"#, Ok(Label::path("shop.example", "/a")));
        check(
            r#"{"url": "http://shop.example:8080/a", "tenant": "acme"}"#,
            Ok(Label::path_of(Some("acme"), "shop.example", "/a")),
        );
        check(r#"{"prefix": "https://shop.example/v1/"}"#, Ok(Label::prefix("shop.example", "/v1/")));
        check(r#"{"host": "Shop.example", "soft": true}"#, Ok(Label::host("shop.example")));
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
            r#"{"host": "h", "tenant": "acme"}"#,
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
