//! Logins of browsers by a provider that speaks OpenID Connect.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, Uri};
use tidegate_model::access::sealed::SECRET_BYTES_MIN;
use tidegate_proxy::access::login::{Hidden, LoginSettings, OidcSettings};

use super::Context;
use crate::config::raw::{self, Secrets};
use crate::config::text::{Header, parse_name};
use crate::config::tree::Node;

/// Logins that there may be.
const PROVIDERS_MAX: usize = 64;
/// Claims that may be required at one place.
const CLAIMS_MAX: usize = 32;
/// The least and the longest that a session lasts, in seconds.
const SESSION_SECONDS: (u64, u64) = (1, 400 * 86_400);

/// By whose logins a route may be used.
pub(super) fn login(
    context: &mut Context<'_>,
    raw: &raw::RouteLogin,
    node: &Node,
) -> Option<Arc<LoginSettings>> {
    let none = BTreeMap::new();
    let (by, require, at) = match raw {
        raw::RouteLogin::Off(false) => return None,
        raw::RouteLogin::Off(true) => {
            context.tell_with(node, "by whose logins?", "write login = \"NAME\" of an [oidc.NAME]");
            return None;
        }
        raw::RouteLogin::By(name) => (name, &none, node),
        raw::RouteLogin::Table(table) => (&table.by, &table.require, node.at("by")),
    };
    required(context, require, node.at("require"));
    let known = context.exists("oidc", &by.0, at);
    known.then(|| Arc::new(LoginSettings { by: Arc::from(by.0.as_str()), require: require.clone() }))
}

fn required(context: &mut Context<'_>, require: &BTreeMap<String, Vec<String>>, node: &Node) {
    if require.len() > CLAIMS_MAX {
        context.tell(node, format!("there are at most {CLAIMS_MAX} of them"));
    }
    for (claim, values) in require {
        if values.is_empty() {
            context.tell(node.at(claim), format!("no value of `{claim}` would do: nobody may use it"));
        }
    }
}

/// The claims that routes require of this one's logins.
fn asked(raw: &raw::Config, name: &str) -> Vec<String> {
    let tables = raw.route.iter().filter_map(|route| match &route.login {
        raw::RouteLogin::Table(table) if table.by.0 == name => Some(table),
        _ => None,
    });
    let mut claims: Vec<String> = tables.flat_map(|table| table.require.keys().cloned()).collect();
    claims.sort_unstable();
    claims.dedup();
    claims
}

pub(super) fn providers(context: &mut Context<'_>, raw: &raw::Config) -> Vec<Arc<OidcSettings>> {
    let node = context.entry("oidc");
    if raw.oidc.len() > PROVIDERS_MAX {
        context.tell(node, format!("there are at most {PROVIDERS_MAX} providers of logins"));
    }
    let mut all = Vec::new();
    for (name, oidc) in &raw.oidc {
        let settings = provider(context, name, oidc, node.at(name));
        all.push(Arc::new(OidcSettings { asked: asked(raw, name), ..settings }));
    }
    all
}

fn provider(context: &mut Context<'_>, name: &str, raw: &raw::Oidc, node: &Node) -> OidcSettings {
    if let Err(message) = parse_name(name) {
        super::tenants::name_problem(context, node, message);
    }
    issuer(context, raw, node);
    if raw.client_id.is_empty() {
        context.tell_with(node, "who Tidegate is to the provider is missing", "add client_id = \"…\"");
    }
    if !(SESSION_SECONDS.0..=SESSION_SECONDS.1).contains(&raw.session.0.as_secs()) {
        context.tell(node.at("session"), "a session lasts at least a second, and at most 400 days");
    }
    required(context, &raw.require, node.at("require"));
    if !raw.scopes.iter().any(|scope| scope == "openid") {
        context.tell(node.at("scopes"), "without the scope `openid` a provider does not say who it is");
    }
    let is_origin = |text: &String| {
        let uri = text.parse::<Uri>().ok();
        let whole = uri.and_then(|uri| Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?)));
        whole.as_ref() == Some(text)
    };
    if raw.origin.as_ref().is_some_and(|origin| !is_origin(origin)) {
        context.tell(node.at("origin"), "an origin is `https://HOST`, without a path");
    }
    let secrets = secrets(context, raw, node);
    let client_secret =
        raw.client_secret.as_ref().map(|secret| Hidden(context.secret(secret, node.at("client_secret"))));
    let mut headers = Vec::new();
    for (header, claim) in &raw.headers {
        let at = node.at("headers").at(header);
        match HeaderName::from_bytes(header.as_bytes()) {
            Ok(header) => {
                super::access::sayable(context, &[Header(header.clone())], at, true);
                headers.push((header, claim.clone()));
            }
            Err(_) => super::tenants::name_problem(context, at, format!("`{header}` is no name of a header")),
        }
    }
    let ca = raw.ca.as_ref().map(|file| file.0.clone());
    ca.iter().for_each(|file| context.name_file(file));
    OidcSettings {
        name: Arc::from(name),
        issuer: raw.issuer.clone(),
        ca,
        client_id: raw.client_id.clone(),
        client_secret,
        scopes: raw.scopes.join(" "),
        origin: raw.origin.clone(),
        secrets,
        session: raw.session.0,
        tenant_claim: raw.tenant_claim.clone(),
        told: headers.iter().map(|(name, _)| name.clone()).collect(),
        headers,
        require: raw.require.clone(),
        clock_skew: raw.clock_skew.0,
        after_logout: raw.after_logout.0.clone(),
        asked: Vec::new(),
    }
}

/// What passes between us and the provider makes somebody: it is not said where others may hear it.
fn issuer(context: &mut Context<'_>, raw: &raw::Oidc, node: &Node) {
    let at = if raw.issuer.is_empty() { node } else { node.at("issuer") };
    let uri = raw.issuer.parse::<Uri>().ok().filter(|uri| uri.host().is_some() && uri.query().is_none());
    let is_local = |uri: &Uri| matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match uri {
        Some(uri) if uri.scheme_str() == Some("https") => {}
        Some(uri) if uri.scheme_str() == Some("http") && is_local(&uri) => {}
        _ => {
            context.tell_with(at, "an issuer is a URL with https", "add issuer = \"https://id.example.com\"")
        }
    }
}

fn secrets(context: &mut Context<'_>, raw: &raw::Oidc, node: &Node) -> Vec<Hidden> {
    let at = node.at("secret");
    let before = context.problems.len();
    let secrets: Vec<Hidden> = match &raw.secret {
        None => {
            let help = "add secret = { env = \"NAME\" }; openssl rand -hex 32 makes one";
            context.tell_with(node, "what sessions are sealed by is missing", help);
            return Vec::new();
        }
        Some(Secrets::One(secret)) => vec![Hidden(context.secret(secret, at))],
        Some(Secrets::Many(secrets)) => {
            let all = secrets.iter().enumerate();
            all.map(|(index, secret)| Hidden(context.secret(secret, at.nth(index)))).collect()
        }
    };
    let short = secrets.is_empty() || secrets.iter().any(|secret| secret.0.len() < SECRET_BYTES_MIN);
    if short && context.problems.len() == before {
        let message = format!("a secret has at least {SECRET_BYTES_MIN} bytes, so that nobody guesses it");
        context.tell_with(at, message, "openssl rand -hex 32 makes one");
    }
    secrets
}
