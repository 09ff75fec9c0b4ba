//! Plans, tenants, their keys, and how they are recognised.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::Uri;
use tidegate_model::credential::Digest;
use tidegate_model::plan::{Plan, RATES_MAX, Rate};
use tidegate_proxy::settings::{ApiKey, JwtKeys, JwtSettings, ListedTenant, TenantSettings, TenantSource};
use tidegate_wire::client_tls::{ClientTls, ClientTlsError};
use tidegate_wire::settings::ClientTlsSettings;

use super::{Context, nearest};
use crate::config::problem::{Place, Problem};
use crate::config::raw;
use crate::config::text::{JwksAt, parse_name, parse_tenant_id};
use crate::config::tree::Node;

/// The plan that is there whether it is given or not.
const DEFAULT: &str = "default";
/// In place of a plan: whoever is not listed is refused.
const REFUSE: &str = "refuse";
/// The shortest shared secret: as long as the hash (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;

pub fn tenants(context: &mut Context<'_>, raw: &raw::Config) -> TenantSettings {
    let plans = plans(context, raw);
    let jwts = jwts(context, raw);
    let listed = listed(context, raw, &plans);
    let node = context.entry("tenants");
    let mut from = Vec::new();
    for (index, source) in raw.tenants.from.iter().enumerate() {
        from.extend(source_of(context, raw, source, node.at("from").nth(index), &jwts));
    }
    let unknown = raw.tenants.unknown.0.as_str();
    let unknown = match plans.get(unknown) {
        _ if unknown == REFUSE => None,
        Some(plan) => Some(Arc::clone(plan)),
        None => {
            let help = match nearest(unknown, plans.keys().map(|name| &**name).chain([REFUSE])) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("add [plan.{unknown}]; \"refuse\" refuses whoever is not listed"),
            };
            context.tell_with(node.at("unknown"), format!("there is no plan `{unknown}`"), help);
            None
        }
    };
    let (limit, window) = raw.tenants.failures.0;
    let failures = Rate { name: Arc::from("failures"), limit, window, burst: limit };
    TenantSettings { from, unknown, plans, listed, tracked_max: raw.tenants.tracked as usize, failures }
}

/// The plan of this name; tells a problem if there is none.
fn plan(
    context: &mut Context<'_>,
    plans: &HashMap<Arc<str>, Arc<Plan>>,
    name: &str,
    node: &Node,
) -> Option<Arc<Plan>> {
    if let Some(plan) = plans.get(name) {
        return Some(Arc::clone(plan));
    }
    context.exists("plan", name, node);
    None
}

fn plans(context: &mut Context<'_>, raw: &raw::Config) -> HashMap<Arc<str>, Arc<Plan>> {
    let mut plans = HashMap::new();
    let node = context.entry("plan");
    for (name, plan) in &raw.plan {
        let node = node.at(name);
        if let Err(message) = parse_name(name) {
            name_problem(context, node, message);
        }
        if name == REFUSE {
            name_problem(
                context,
                node,
                "a plan cannot be called `refuse`: in `tenants.unknown` that refuses".to_owned(),
            );
        }
        let name: Arc<str> = Arc::from(name.as_str());
        let plan = Plan {
            name: Arc::clone(&name),
            rates: rates(context, plan.rate.as_ref(), DEFAULT, node.at("rate")),
            concurrency: plan.concurrency,
            body_bytes_max: plan.body.as_ref().map(|size| size.0),
            request_bytes_per_second: plan
                .request_bytes_per_second
                .as_ref()
                .and_then(|rate| NonZeroU64::new(rate.0)),
            response_bytes_per_second: plan
                .response_bytes_per_second
                .as_ref()
                .and_then(|rate| NonZeroU64::new(rate.0)),
            weight: plan.weight,
        };
        plans.insert(name, Arc::new(plan));
    }
    plans.entry(Arc::from(DEFAULT)).or_insert_with(|| {
        Arc::new(Plan {
            name: Arc::from(DEFAULT),
            rates: Vec::new(),
            concurrency: None,
            body_bytes_max: None,
            request_bytes_per_second: None,
            response_bytes_per_second: None,
            weight: 1,
        })
    });
    plans
}

/// Tells what is wrong with a key that is a name, at that key.
pub fn name_problem(context: &mut Context<'_>, node: &Node, message: String) {
    context.add(node, Problem::new(Some(node.key_place()), message));
}

/// The rates of a plan or a route; a single one is called `only` unless it says otherwise.
pub fn rates(context: &mut Context<'_>, raw: Option<&raw::Rates>, only: &str, node: &Node) -> Vec<Rate> {
    let one = |name: &str, limit: u64, window, burst: Option<u64>| Rate {
        name: Arc::from(name),
        limit,
        window,
        burst: burst.unwrap_or(limit),
    };
    let rates = match raw {
        None => return Vec::new(),
        Some(raw::Rates::Short(rate)) => return vec![one(only, rate.0.0, rate.0.1, None)],
        Some(raw::Rates::One(rate)) => std::slice::from_ref(rate),
        Some(raw::Rates::Several(rates)) => rates.as_slice(),
    };
    if rates.len() > RATES_MAX {
        context.tell(node, format!("there are at most {RATES_MAX} rates, not {}", rates.len()));
    }
    let mut out: Vec<Rate> = Vec::new();
    for (index, rate) in rates.iter().enumerate() {
        let node = node.nth(index);
        if rate.name.is_none() && rates.len() > 1 {
            context.tell_with(node, "one of several rates needs a name", "add name = \"…\"");
            continue;
        }
        let name = rate.name.as_ref().map_or(only, |name| name.0.as_str());
        if out.iter().any(|there| *there.name == *name) {
            context.tell(node.at("name"), format!("two rates are called `{name}`"));
        }
        out.push(one(name, rate.limit.0.0, rate.limit.0.1, rate.burst));
    }
    out
}

fn listed(
    context: &mut Context<'_>,
    raw: &raw::Config,
    plans: &HashMap<Arc<str>, Arc<Plan>>,
) -> HashMap<Arc<str>, ListedTenant> {
    let mut listed = HashMap::new();
    let mut digests: HashMap<[u8; 32], (&str, Place)> = HashMap::new();
    let mut domains: HashMap<Arc<str>, &str> = HashMap::new();
    let mut fingerprints: HashMap<[u8; 32], &str> = HashMap::new();
    let node = context.entry("tenant");
    for (id, tenant) in &raw.tenant {
        let node = node.at(id);
        if let Err(message) = parse_tenant_id(id) {
            name_problem(context, node, message);
        }
        let mut keys: Vec<ApiKey> = Vec::new();
        for (index, key) in tenant.keys.iter().enumerate() {
            let node = node.at("keys").nth(index);
            if keys.iter().any(|there| *there.id == key.id.0) {
                context.tell(node.at("id"), format!("two keys of `{id}` are called `{}`", key.id.0));
            }
            let place = node.at("sha256").place.clone();
            if let Some((other, there)) = digests.insert(key.sha256.0, (id, place.clone())) {
                let message = if other == id {
                    format!("`{id}` has this key twice")
                } else {
                    format!("tenants `{other}` and `{id}` have the same key")
                };
                context.add(node, Problem::new(Some(place), message).note(Some(&there), "the other one is"));
            }
            keys.push(ApiKey {
                id: Arc::from(key.id.0.as_str()),
                digest: Digest(key.sha256.0),
                expires: key.expires.as_ref().map(|moment| moment.0.seconds),
            });
        }
        let mut own: Vec<Arc<str>> = Vec::new();
        for (index, domain) in tenant.domains.iter().enumerate() {
            let node = node.at("domains").nth(index);
            match super::domain(domain) {
                Ok(name) => match domains.insert(Arc::clone(&name), id) {
                    Some(other) => context.tell(node, format!("`{name}` is a host of `{other}` already")),
                    None => own.push(name),
                },
                Err(why) => context.tell(node, why),
            }
        }
        let mut certificates: Vec<[u8; 32]> = Vec::new();
        for (index, shown) in tenant.certificates.iter().enumerate() {
            match fingerprints.insert(shown.0, id) {
                Some(other) => {
                    let node = node.at("certificates").nth(index);
                    context.tell(node, format!("this certificate is one of `{other}` already"));
                }
                None => certificates.push(shown.0),
            }
        }
        let Some(plan) = plan(context, plans, &tenant.plan.0, node.at("plan")) else { continue };
        let id: Arc<str> = Arc::from(id.as_str());
        listed.insert(Arc::clone(&id), ListedTenant { id, plan, keys, domains: own, certificates });
    }
    listed
}

fn jwts(context: &mut Context<'_>, raw: &raw::Config) -> HashMap<String, Arc<JwtSettings>> {
    let mut jwts = HashMap::new();
    let node = context.entry("jwt");
    for (name, jwt) in &raw.jwt {
        let node = node.at(name);
        if let Err(message) = parse_name(name) {
            name_problem(context, node, message);
        }
        if jwt.tenant_claim.is_empty() {
            context.tell(node.at("tenant_claim"), "`tenant_claim` is empty");
        }
        context.positive(node, "refresh", &jwt.refresh);
        let Some(keys) = jwt_keys(context, jwt, node) else { continue };
        let settings = JwtSettings {
            name: Arc::from(name.as_str()),
            keys,
            issuer: jwt.issuer.clone(),
            audience: jwt.audience.clone(),
            tenant_claim: jwt.tenant_claim.clone(),
            clock_skew: jwt.clock_skew.0,
            refresh: jwt.refresh.0,
        };
        jwts.insert(name.clone(), Arc::new(settings));
    }
    jwts
}

fn jwt_keys(context: &mut Context<'_>, jwt: &raw::Jwt, node: &Node) -> Option<JwtKeys> {
    match (&jwt.jwks, &jwt.secret) {
        (Some(jwks), None) => Some(match &jwks.0 {
            JwksAt::Url(url) => {
                let ca = jwt.ca.as_ref().map(|file| file.0.clone());
                authorities(context, url, ca.as_deref(), node);
                JwtKeys::Url { url: url.clone(), ca }
            }
            JwksAt::File(path) => {
                if let Err(error) = std::fs::File::open(path) {
                    let why = super::plain(&error);
                    context.tell(node.at("jwks"), format!("cannot read {}: {why}", path.display()));
                }
                JwtKeys::File(path.clone())
            }
        }),
        (None, Some(secret)) => {
            let before = context.problems.len();
            let bytes = context.secret(secret, node.at("secret"));
            if bytes.len() < SECRET_BYTES_MIN && context.problems.len() == before {
                let message =
                    format!("the secret has {} bytes, and needs {SECRET_BYTES_MIN} (RFC 7518)", bytes.len());
                context.tell_with(node.at("secret"), message, "openssl rand -hex 32 makes one");
            }
            Some(JwtKeys::Secret(Bytes::from(bytes)))
        }
        (Some(_), Some(_)) => {
            context.tell(node.at("secret"), "the keys come from `jwks` or are a `secret`, not both");
            None
        }
        (None, None) => {
            context.tell_with(
                node,
                "the keys are missing",
                "add jwks = \"https://…\" or secret = { env = \"NAME\" }",
            );
            None
        }
    }
}

/// Whom the server of a key set is vouched for by.
fn authorities(context: &mut Context<'_>, url: &Uri, ca: Option<&Path>, node: &Node) {
    let Some(ca) = ca else { return };
    context.name_file(ca);
    if url.scheme_str() != Some("https") {
        return context.tell(node.at("ca"), "`ca` is for a key set that is fetched by https");
    }
    let settings = ClientTlsSettings { ca: Some(ca.to_owned()), ..ClientTlsSettings::default() };
    if let Err(ClientTlsError::Authorities { path, why }) = ClientTls::new(&settings, None) {
        context.tell(node.at("ca"), format!("cannot use {}: {why}", path.display()));
    }
}

fn source_of(
    context: &mut Context<'_>,
    raw: &raw::Config,
    source: &raw::TenantFrom,
    node: &Node,
    jwts: &HashMap<String, Arc<JwtSettings>>,
) -> Option<TenantSource> {
    Some(match source {
        raw::TenantFrom::Address(raw::Whose::Client) => TenantSource::ClientAddress,
        raw::TenantFrom::ApiKey(place) => match &place.0 {
            None => TenantSource::ApiKeyBearer,
            Some(name) => TenantSource::ApiKeyHeader(name.clone()),
        },
        raw::TenantFrom::Jwt(name) => {
            // One that has problems of its own is there, though it did not come out.
            context.exists("jwt", name, node.at("jwt"));
            TenantSource::Jwt(Arc::clone(jwts.get(name)?))
        }
        raw::TenantFrom::Host(host) => {
            let (prefix, suffix) = host.0.clone();
            TenantSource::Host { prefix, suffix }
        }
        raw::TenantFrom::Certificate(name) => {
            if raw.tls.iter().all(|tls| tls.client.is_none()) {
                let help = "add client = { ca = \"clients.pem\" } to a [[tls]]";
                context.tell_with(node, "no client is asked for a certificate", help);
            }
            TenantSource::Certificate(name.0.clone())
        }
        raw::TenantFrom::Domain(raw::Which::Registered) => TenantSource::Domain,
        raw::TenantFrom::Header(name) => {
            if raw.listen.trusted_proxies.is_empty() {
                let message = format!("nobody may name a tenant in `{}`: there is no trusted proxy", name.0);
                context.tell_with(node, message, "add [listen] trusted_proxies = [\"10.0.0.0/8\"]");
            }
            TenantSource::Header(name.0.clone())
        }
    })
}
