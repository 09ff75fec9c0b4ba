//! Who may use a route, and what browsers are told of it.

use std::sync::Arc;

use http::header::{
    CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method};
use tidegate_model::access::cors::{Cors, Origin};
use tidegate_model::access::security::Security;
use tidegate_model::cache::key::Rules;
use tidegate_model::headers::may_be_changed;
use tidegate_proxy::access::settings::{AccessSettings, AuthorizeSettings, KeyParts};

use super::Context;
use crate::config::raw::{self, AuthorizeKey, OnFailure, Said};
use crate::config::text::Header;
use crate::config::tree::Node;

/// Headers that an authorizer may be asked to set, or be told of, at most.
const NAMES_MAX: usize = 32;
/// Origins of one route at most.
const ORIGINS_MAX: usize = 256;
/// What scripts may use where nobody says.
const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

pub(super) fn access(context: &mut Context<'_>, raw: &raw::Route, node: &Node) -> AccessSettings {
    let basic = raw.basic.on().and_then(|basic| super::basic::basic(context, &basic, node.at("basic")));
    let authorize = raw.authorize.on();
    let authorize = authorize.and_then(|raw| self::authorize(context, &raw, node.at("authorize")));
    let login = super::login::login(context, &raw.login, node.at("login"));
    if basic.is_some() && login.is_some() {
        context.tell(node.at("login"), "a route asks for a password or for a login, not for both");
    }
    let provider = login.as_ref().and_then(|login| context.logins.iter().find(|one| one.name == login.by));
    let claims = provider.into_iter().flat_map(|provider| provider.told.iter().cloned());
    let user = basic.iter().filter_map(|basic| basic.user_header.clone());
    let told = authorize.iter().flat_map(|authorize| authorize.to_upstream.iter().cloned());
    let vouched: Vec<HeaderName> = user.chain(claims).chain(told).collect();
    AccessSettings {
        vouched: (!vouched.is_empty()).then(|| vouched.into()),
        basic,
        login,
        authorize,
        cors: raw.cors.on().and_then(|cors| self::cors(context, &cors, raw, node.at("cors"))),
        security: raw.security_headers.on().map(|headers| Arc::new(security(&headers))),
    }
}

/// What an application may answer by is in the key of what is cached: what was found out of its client too.
pub(super) fn key(rules: &mut Rules, access: &AccessSettings) {
    for name in access.vouched.iter().flat_map(|names| names.iter()) {
        if !rules.headers.contains(name) {
            rules.headers.push(name.clone());
        }
    }
}

fn authorize(
    context: &mut Context<'_>,
    raw: &raw::RouteAuthorize,
    node: &Node,
) -> Option<Arc<AuthorizeSettings>> {
    let Some(upstream) = &raw.upstream else {
        context.tell_with(node, "who is to be asked is missing", "add upstream = \"…\" to it");
        return None;
    };
    context.exists("upstream", &upstream.0, node.at("upstream"));
    context.positive(node, "timeout", &raw.timeout);
    for (key, names) in
        [("headers", &raw.headers), ("to_upstream", &raw.to_upstream), ("to_client", &raw.to_client)]
    {
        sayable(context, names, node.at(key), key != "to_client");
    }
    let has = |part: AuthorizeKey| raw.key.contains(&part);
    let names = |names: &[Header]| names.iter().map(|name| name.0.clone()).collect();
    Some(Arc::new(AuthorizeSettings {
        upstream: Arc::from(upstream.0.as_str()),
        path: raw.path.0.parse().ok()?,
        headers: names(&raw.headers),
        to_upstream: names(&raw.to_upstream),
        to_client: names(&raw.to_client),
        key: KeyParts {
            method: has(AuthorizeKey::Method),
            host: has(AuthorizeKey::Host),
            path: has(AuthorizeKey::Path),
            query: has(AuthorizeKey::Query),
            client: has(AuthorizeKey::Client),
        },
        cache_max: raw.cache_max.0,
        timeout: raw.timeout.0,
        open: raw.on_failure == OnFailure::Allow,
    }))
}

/// Headers that go on: not those that frame or route a message, nor those that Tidegate itself writes.
pub(super) fn sayable(context: &mut Context<'_>, names: &[Header], node: &Node, request: bool) {
    const OWN: [&str; 9] = [
        "host",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
        "traceparent",
        "tracestate",
        "via",
    ];
    if names.len() > NAMES_MAX {
        context.tell(node, format!("there are at most {NAMES_MAX} of them"));
    }
    for (index, Header(name)) in names.iter().enumerate() {
        let own = request && OWN.contains(&name.as_str()) || name.as_str().starts_with("tidegate-");
        if own || !may_be_changed(name) {
            context.tell(node.nth(index), format!("`{name}` is Tidegate's to write"));
        }
    }
}

fn cors(
    context: &mut Context<'_>,
    raw: &raw::RouteCors,
    route: &raw::Route,
    node: &Node,
) -> Option<Arc<Cors>> {
    let at = node.at("origins");
    if raw.origins.is_empty() {
        let help = "add origins = [\"https://app.example.com\"]";
        context.tell_with(node, "which origins may call the route is missing", help);
        return None;
    }
    if raw.origins.len() > ORIGINS_MAX {
        context.tell(at, format!("there are at most {ORIGINS_MAX} origins"));
    }
    let all = raw.origins.iter().position(|origin| origin == "*");
    let origins = match all {
        Some(place) if raw.origins.len() > 1 => {
            context.tell(at.nth(place), "`*` stands alone: it is every origin");
            None
        }
        Some(place) => {
            if raw.credentials {
                let message = "every origin with credentials: any page could act as whoever looks at it";
                context.tell_with(at.nth(place), message, "name the origins, or leave out `credentials`");
            }
            None
        }
        None => {
            let mut origins = Vec::new();
            for (index, text) in raw.origins.iter().enumerate() {
                match Origin::parse(text) {
                    Ok(origin) => origins.push(origin),
                    Err(why) => context.tell(at.nth(index), why),
                }
            }
            Some(origins)
        }
    };
    let methods = match &raw.methods {
        Some(methods) => methods.iter().map(|method| method.0.clone()).collect(),
        None if route.methods.is_empty() => METHODS.into(),
        None => route.methods.iter().map(|method| method.0.clone()).collect(),
    };
    let names = |names: &[Header]| names.iter().map(|name| name.0.clone()).collect();
    Some(Arc::new(Cors {
        origins,
        methods,
        headers: raw.headers.as_deref().map(names),
        expose: names(&raw.expose),
        credentials: raw.credentials,
        max_age: raw.max_age.0.as_secs(),
        private_network: raw.private_network,
        keep: raw.keep,
    }))
}

fn security(raw: &raw::SecurityHeaders) -> Security {
    const PERMISSIONS: &str = "camera=(), geolocation=(), microphone=(), payment=(), usb=()";
    let named = HeaderName::from_static;
    let all = [
        (STRICT_TRANSPORT_SECURITY, &raw.strict_transport_security, "max-age=31536000"),
        (X_CONTENT_TYPE_OPTIONS, &raw.content_type_options, "nosniff"),
        (X_FRAME_OPTIONS, &raw.frame_options, "SAMEORIGIN"),
        (CONTENT_SECURITY_POLICY, &raw.content_security_policy, "frame-ancestors 'self'"),
        (REFERRER_POLICY, &raw.referrer_policy, "strict-origin-when-cross-origin"),
        (named("permissions-policy"), &raw.permissions_policy, PERMISSIONS),
        (named("cross-origin-opener-policy"), &raw.opener_policy, "same-origin-allow-popups"),
        (named("cross-origin-resource-policy"), &raw.resource_policy, "same-site"),
    ];
    let say = all.into_iter().filter_map(|(name, said, usual)| match said {
        Said::Usual(false) => None,
        Said::Usual(true) => Some((name, HeaderValue::from_static(usual))),
        Said::Value(value) => Some((name, value.0.clone())),
    });
    Security { say: say.collect(), replace: raw.replace }
}
