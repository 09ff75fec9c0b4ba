//! Certificates by themselves.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use http::{HeaderValue, Uri};
use tidegate_proxy::secure::SecureSettings;
use tidegate_wire::client_tls::{ClientTls, ClientTlsError};
use tidegate_wire::settings::ClientTlsSettings;

use super::Context;
use crate::acme::{AcmeSettings, Challenge, OnDemand};
use crate::config::raw;
use crate::config::tree::Node;

/// The shortest secret.
const SECRET_BYTES_MIN: usize = 32;

pub(super) fn acme(context: &mut Context<'_>, raw: &raw::Config) -> Option<AcmeSettings> {
    let acme = raw.acme.as_ref()?;
    let node = context.entry("acme");
    if raw.store.is_none() {
        let help = "add [store] with url = \"sqlite:tidegate-data\"";
        context.tell_with(node, "there is no store to keep certificates in", help);
    }
    if !acme.terms_agreed {
        let help = "read them at your certificate authority, and write terms_agreed = true";
        context.tell_with(node, "without your agreement to its terms the authority issues nothing", help);
    }
    if acme.domains.is_empty() && acme.on_demand.is_none() {
        let help = "write domains = [\"www.example.com\"], or on_demand = {} for the hosts of tenants";
        context.tell_with(node, "no name would ever get a certificate", help);
    }
    if acme.challenges.is_empty() {
        context.tell(node.at("challenges"), "there is no way to show that a name is yours");
    }
    context.positive(node, "retry", &acme.retry);
    if let Some(on_demand) = &acme.on_demand {
        context.positive(node.at("on_demand"), "wait", &on_demand.wait);
    }
    directory(context, acme, node);
    let domains = domains(context, acme, node);
    let binding = acme.binding.as_ref().map(|binding| {
        let at = node.at("binding").at("secret");
        let key = BASE64_URL_SAFE_NO_PAD.decode(context.secret(&binding.secret, at).trim_ascii());
        if key.is_err() {
            context.tell(at, "the key is not base64url");
        }
        (binding.id.clone(), key.unwrap_or_default())
    });
    Some(AcmeSettings {
        directory: acme.directory.clone(),
        email: acme.email.clone(),
        ca: acme.ca.as_ref().map(|file| file.0.clone()),
        binding,
        domains,
        challenges: acme
            .challenges
            .iter()
            .map(|challenge| match challenge {
                raw::Challenge::Http01 => Challenge::Http01,
                raw::Challenge::TlsAlpn01 => Challenge::TlsAlpn01,
            })
            .collect(),
        on_demand: acme
            .on_demand
            .as_ref()
            .map(|on_demand| OnDemand { limit: on_demand.limit.into(), wait: on_demand.wait.0 }),
        secret: acme.secret.as_ref().map(|secret| long_secret(context, secret, node.at("secret"))),
        memory: acme.memory as usize,
        retry: acme.retry.0,
    })
}

/// A secret that is long enough to seal by.
pub(super) fn long_secret(context: &mut Context<'_>, secret: &raw::Secret, node: &Node) -> Vec<u8> {
    let before = context.problems.len();
    let bytes = context.secret(secret, node);
    if bytes.len() < SECRET_BYTES_MIN && context.problems.len() == before {
        let message = format!("the secret has {} bytes, and needs {SECRET_BYTES_MIN}", bytes.len());
        context.tell_with(node, message, "openssl rand -hex 32 makes one");
    }
    bytes
}

fn directory(context: &mut Context<'_>, acme: &raw::Acme, node: &Node) {
    let url: Option<Uri> = acme.directory.parse().ok();
    let is_https = |url: &Uri| url.scheme_str() == Some("https") && url.host().is_some();
    if !url.as_ref().is_some_and(is_https) {
        context.tell(node.at("directory"), "the directory is a URL that begins with https://");
    }
    if let Some(ca) = &acme.ca {
        context.name_file(&ca.0);
        let settings = ClientTlsSettings { ca: Some(ca.0.clone()), ..ClientTlsSettings::default() };
        if let Err(ClientTlsError::Authorities { path, why }) = ClientTls::new(&settings, None) {
            context.tell(node.at("ca"), format!("cannot use {}: {why}", path.display()));
        }
    }
}

fn domains(context: &mut Context<'_>, acme: &raw::Acme, node: &Node) -> BTreeSet<Arc<str>> {
    let mut domains = BTreeSet::new();
    for (index, name) in acme.domains.iter().enumerate() {
        let node = node.at("domains").nth(index);
        match domain(name) {
            Ok(name) => {
                if !domains.insert(name) {
                    context.tell(node, "this name stands twice");
                }
            }
            Err(why) => context.tell(node, why),
        }
    }
    domains
}

/// A name that can have a certificate, in its one form.
/// # Errors
/// Why there is none for it, in words.
pub fn domain(name: &str) -> Result<Arc<str>, String> {
    if name.contains('*') {
        let why = "a certificate for all names below one is not ordered: the authority would have to see that \
                   in DNS. Name each, or give tenants theirs on demand";
        return Err(why.to_owned());
    }
    let host = tidegate_model::host::normalize(name).map_err(|error| error.detail().to_owned())?;
    let is_name = host.len() == name.trim_end_matches('.').len()
        && host.contains('.')
        && host.len() <= 253
        && host.parse::<std::net::IpAddr>().is_err()
        && host.split('.').all(|label| !label.is_empty() && label.len() <= 63);
    if is_name {
        Ok(host.into())
    } else {
        Err(format!("`{name}` is no host name that can have a certificate"))
    }
}

/// How hosts with such certificates are spoken to.
pub(super) fn secure(raw: &raw::Config) -> Option<SecureSettings> {
    let acme = raw.acme.as_ref()?;
    let seconds = acme.hsts.0.as_secs();
    let hsts = (seconds > 0).then(|| HeaderValue::try_from(format!("max-age={seconds}")).ok()).flatten();
    let redirect = acme.redirect.then_some(acme.https_port);
    Some(SecureSettings { redirect, hsts, tenants: acme.on_demand.is_some() })
}
