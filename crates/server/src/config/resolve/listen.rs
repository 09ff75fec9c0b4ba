//! Listeners, their limits and certificates; the control API; logs.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_model::credential::Digest;
use tidegate_wire::settings::{CertificateFiles, ClientCertificates, ConnectionLimits, ListenerSettings};
use tidegate_wire::tls::CertificateSet;

use super::Context;
use crate::config::problem::{Place, Problem};
use crate::config::raw;
use crate::config::scalar::{Size, show_size};
use crate::config::settings::{
    AccessLog, ControlAddress, ControlSettings, ControlToken, Level, LogFormat, LogSettings, Scope,
};
use crate::config::tree::Node;

/// The largest window that HTTP/2 knows (RFC 9113, section 6.9.1).
const WINDOW_MAX: u64 = (1 << 31) - 1;

pub fn listeners(context: &mut Context<'_>, raw: &raw::Config) -> Vec<ListenerSettings> {
    let node = context.entry("listen");
    let shared = Arc::new(limits(context, &raw.limits, context.entry("limits")));
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    let mut taken: HashMap<SocketAddr, Place> = HashMap::new();
    for (key, list, tls) in [("http", &raw.listen.http, false), ("https", &raw.listen.https, true)] {
        for (index, listener) in list.iter().enumerate() {
            let node = node.at(key).nth(index);
            let settings = match listener {
                raw::Listener::Address(address) => ListenerSettings {
                    address: address.0,
                    tls,
                    proxy_protocol: false,
                    limits: Arc::clone(&shared),
                },
                raw::Listener::Table(table) => ListenerSettings {
                    address: table.address.0,
                    tls,
                    proxy_protocol: table.proxy_protocol,
                    limits: Arc::new(limits(context, &table.limits, node.at("limits"))),
                },
            };
            // Each port 0 is another port.
            let place = node.at("address").place.clone();
            if settings.address.port() != 0
                && let Some(there) = taken.insert(settings.address, place.clone())
            {
                let message = format!("`{}` is listened on twice", settings.address);
                context.add(
                    node,
                    Problem::new(Some(place.clone()), message).note(Some(&there), "the other one is"),
                );
            }
            let control = ControlAddress::Tcp(settings.address);
            if settings.address.port() != 0 && raw.control.listen.iter().any(|one| one.0 == control) {
                let message = format!("`{}` is the address of the control API", settings.address);
                let help =
                    "the control API is at `[control] listen`, if nothing else is given at 127.0.0.1:8090";
                context.add(node, Problem::new(Some(place), message).help(help));
            }
            listeners.push(settings);
        }
    }
    if listeners.is_empty() && !node.tainted {
        context.tell_whole("there is no listener", "add [listen] http = [\"0.0.0.0:8080\"]");
    }
    if listeners.iter().any(|listener| listener.tls)
        && context.root.get("tls").is_none()
        && context.root.get("acme").is_none()
    {
        let at = node.at("https");
        context.tell_with(
            at,
            "https needs a certificate",
            "add [[tls]] cert = \"cert.pem\", key = \"key.pem\", or [acme]",
        );
    }
    listeners
}

fn limits(context: &mut Context<'_>, raw: &raw::Limits, node: &Node) -> ConnectionLimits {
    for (key, time) in [
        ("header_time", &raw.header_time),
        ("handshake_time", &raw.handshake_time),
        ("idle", &raw.idle),
        ("body_idle", &raw.body_idle),
        ("tunnel_idle", &raw.tunnel_idle),
        ("h2_ping", &raw.h2_ping),
    ] {
        context.positive(node, key, time);
    }
    let mut bytes = |key: &str, size: &Size, least: u64, most: u64| {
        if !(least..=most).contains(&size.0) {
            let (least, most) = (show_size(&least), show_size(&most));
            context.tell(node.at(key), format!("`{key}` must be from {least} to {most}"));
        }
        size.0.clamp(least, most)
    };
    let word = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
    let long = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    ConnectionLimits {
        connections: raw.connections as usize,
        connections_per_address: Some(raw.connections_per_address as usize).filter(|most| *most > 0),
        header_count: raw.header_count as usize,
        header_bytes: long(bytes("header_bytes", &raw.header_bytes, 1 << 10, 1 << 20)),
        header_time: raw.header_time.0,
        handshake_time: raw.handshake_time.0,
        idle: raw.idle.0,
        body_idle: raw.body_idle.0,
        body_rate_min: raw.body_rate_min.0,
        body_grace: raw.body_grace.0,
        body_bytes: raw.body_bytes.0,
        requests: raw.requests,
        tunnel_idle: raw.tunnel_idle.0,
        h2_streams: raw.h2_streams,
        h2_resets_pending: raw.h2_resets_pending as usize,
        h2_resets_local: raw.h2_resets_local as usize,
        h2_resets: raw.h2_resets,
        h2_ping: raw.h2_ping.0,
        h2_stream_window: word(bytes("h2_stream_window", &raw.h2_stream_window, 1 << 10, WINDOW_MAX)),
        h2_connection_window: word(bytes(
            "h2_connection_window",
            &raw.h2_connection_window,
            64 << 10,
            WINDOW_MAX,
        )),
        h2_send_buffer: long(bytes("h2_send_buffer", &raw.h2_send_buffer, 1 << 10, 64 << 20)),
    }
}

pub fn certificates(context: &mut Context<'_>, raw: &raw::Config) -> Vec<CertificateFiles> {
    let node = context.entry("tls");
    let files: Vec<CertificateFiles> = raw
        .tls
        .iter()
        .map(|tls| CertificateFiles {
            cert: tls.cert.0.clone(),
            key: tls.key.0.clone(),
            ocsp: tls.ocsp.as_ref().map(|file| file.0.clone()),
            client: tls.client.as_ref().map(|client| ClientCertificates {
                ca: client.ca.0.clone(),
                required: client.required,
                pins: client.pins.iter().map(|pin| pin.0).collect(),
                crl: client.crl.as_ref().map(|file| file.0.clone()),
            }),
        })
        .collect();
    for pair in &files {
        context.name_file(&pair.cert);
        context.name_file(&pair.key);
        pair.ocsp.iter().for_each(|ocsp| context.name_file(ocsp));
        if let Some(client) = &pair.client {
            context.name_file(&client.ca);
            client.crl.iter().for_each(|crl| context.name_file(crl));
        }
    }
    if !files.is_empty()
        && let Err(problems) = CertificateSet::load(&files)
    {
        for problem in problems {
            // Files may be named twice: the first place is as good as the second.
            let named = (0..).zip(&files).find_map(|(at, pair)| Some((at, key_of(pair, &problem.path)?)));
            let (at, keys) = named.unwrap_or((0, &["cert"]));
            let place = keys.iter().fold(node.nth(at), |node, key| node.at(key));
            context.tell(place, format!("cannot use {}: {}", problem.path.display(), problem.why));
        }
    }
    files
}

/// Under which key a file is named.
fn key_of(pair: &CertificateFiles, path: &Path) -> Option<&'static [&'static str]> {
    let of_client = |named: fn(&ClientCertificates) -> Option<&PathBuf>| {
        pair.client.as_ref().and_then(named).is_some_and(|file| file == path)
    };
    Some(match () {
        () if pair.cert == path => &["cert"],
        () if pair.key == path => &["key"],
        () if pair.ocsp.as_deref() == Some(path) => &["ocsp"],
        () if of_client(|client| Some(&client.ca)) => &["client", "ca"],
        () if of_client(|client| client.crl.as_ref()) => &["client", "crl"],
        () => return None,
    })
}

/// What session tickets are sealed by, where nodes share it.
pub fn tickets(context: &mut Context<'_>, raw: &raw::Config) -> Option<Vec<u8>> {
    let node = context.entry("listen").at("tickets").at("secret");
    raw.listen.tickets.as_ref().map(|tickets| super::acme::long_secret(context, &tickets.secret, node))
}

pub fn control(context: &mut Context<'_>, raw: &raw::Control) -> ControlSettings {
    let node = context.entry("control");
    let mut listen: Vec<ControlAddress> = Vec::new();
    for (index, address) in raw.listen.iter().enumerate() {
        let free = matches!(&address.0, ControlAddress::Tcp(address) if address.port() == 0);
        if listen.contains(&address.0) && !free {
            context.tell(node.at("listen").nth(index), "this address stands twice");
        }
        listen.push(address.0.clone());
    }
    let mut tokens: Vec<ControlToken> = Vec::new();
    for (index, token) in raw.tokens.iter().enumerate() {
        let node = node.at("tokens").nth(index);
        let digest = Digest(token.sha256.0);
        if tokens.iter().any(|there| *there.name == token.name.0) {
            context.tell(node.at("name"), format!("two tokens are called `{}`", token.name.0));
        }
        if let Some(there) = tokens.iter().find(|there| there.digest == digest) {
            context.tell(node.at("sha256"), format!("this is the same token as `{}`", there.name));
        }
        if token.scopes.is_empty() {
            context.tell_with(
                node.at("scopes"),
                "a token without scopes may do nothing",
                "write scopes = [\"read\"]",
            );
        }
        let scopes = token.scopes.iter().map(|scope| match scope {
            raw::Scope::Read => Scope::Read,
            raw::Scope::Write => Scope::Write,
            raw::Scope::Faults => Scope::Faults,
            raw::Scope::Purge => Scope::Purge,
            raw::Scope::Deliver => Scope::Deliver,
        });
        tokens.push(ControlToken {
            name: Arc::from(token.name.0.as_str()),
            digest,
            scopes: scopes.collect(),
        });
    }
    let mut hosts = Vec::new();
    for (index, host) in raw.hosts.iter().enumerate() {
        match tidegate_model::host::normalize(host) {
            Ok(name) => hosts.push(name.into_owned()),
            Err(error) => context.tell(node.at("hosts").nth(index), error.detail()),
        }
    }
    ControlSettings { listen, tokens, hosts, faults: raw.faults }
}

pub fn log(raw: &raw::Log) -> LogSettings {
    LogSettings {
        access: match raw.access.0.as_str() {
            "off" => AccessLog::Off,
            "stdout" => AccessLog::Stdout,
            path => AccessLog::File(PathBuf::from(path)),
        },
        buffer: usize::try_from(raw.buffer.0).unwrap_or(usize::MAX),
        query: raw.query,
        audit: raw.audit.as_ref().map(|file| file.0.clone()),
        level: match raw.level {
            raw::Level::Error => Level::Error,
            raw::Level::Warn => Level::Warn,
            raw::Level::Info => Level::Info,
            raw::Level::Debug => Level::Debug,
            raw::Level::Trace => Level::Trace,
        },
        format: match raw.format {
            raw::LogFormat::Text => LogFormat::Text,
            raw::LogFormat::Json => LogFormat::Json,
        },
        recent: raw.recent as usize,
        remarkable: raw.remarkable as usize,
        slow: raw.slow.0,
    }
}
