//! Nodes that ask each other before the upstream.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::cluster::NODES_MAX;
use tidegate_model::cluster::ask::ASK_BYTES_MAX;
use tidegate_model::cluster::seal::{SECRET_BYTES_MIN, Secret};
use tidegate_proxy::cache::shield::ClusterSettings;
use tidegate_upstream::settings::{
    Balance, BreakerSettings, Discovery, EndpointSettings, HostHeader, OutlierSettings, RefreshBounds,
    UpstreamSettings, WaitingSettings,
};
use tidegate_wire::client_tls::{ClientTls, ClientTlsError};
use tidegate_wire::settings::{
    CertificateFiles, ClientTlsSettings, ConnectionLimits, ListenerSettings, Protocol,
};
use tidegate_wire::tls::CertificateSet;

use super::Context;
use crate::config::raw;
use crate::config::settings::{ClusterListen, ControlAddress};
use crate::config::suggest::nearest;
use crate::config::text::parse_dns;
use crate::config::tree::Node;

/// So many calls in a row that fail, and a node is left alone for a while. One is let through then to see whether it is
/// back; while that fails the pauses grow.
const FAILURES_MAX: u32 = 3;
const LEFT_ALONE: Duration = Duration::from_secs(1);
/// Connections to one node, over all cores.
const CONNECTIONS_MAX: u32 = 4_096;
const IDLE_MAX: u32 = 256;
/// Bounds of the time after which a node's name is resolved again.
const REFRESH: RefreshBounds = RefreshBounds { min: Duration::from_secs(1), max: Duration::from_secs(60) };

/// What `[cluster]` means.
pub(super) struct Cluster {
    /// What asks and answers.
    pub settings: ClusterSettings,
    /// Where the others come in.
    pub listen: ClusterListen,
    /// The other nodes.
    pub peers: Vec<UpstreamSettings>,
}

pub(super) fn cluster(context: &mut Context<'_>, raw: &raw::Config) -> Option<Cluster> {
    let all = raw;
    let raw = raw.cluster.as_ref()?;
    let node = context.entry("cluster");
    for (key, time) in [("connect_timeout", &raw.connect_timeout), ("wait", &raw.wait)] {
        context.positive(node, key, time);
    }
    let secret = context.secret(&raw.secret, node.at("secret"));
    if secret.len() < SECRET_BYTES_MIN {
        let help = "make one: openssl rand -base64 32";
        context.tell_with(node.at("secret"), format!("a secret has {SECRET_BYTES_MIN} bytes at least"), help);
    }
    taken(context, all, raw.listen.0);
    let tls = raw.tls.as_ref().map(|tls| self::tls(context, tls, node.at("tls")));
    let places = nodes(context, raw, node.at("nodes"));
    let me = me(context, raw, node)?;
    let client = tls.as_ref().map(|(client, _)| client);
    let peers: Vec<UpstreamSettings> = places
        .iter()
        .filter(|(name, _)| *name != me)
        .map(|(name, discovery)| peer(raw, name, discovery, client))
        .collect();
    let known = |name: &str| (name != me).then(|| upstream_name(name));
    let nodes = places.iter().map(|(name, _)| (Arc::from(*name), known(name))).collect();
    let settings =
        ClusterSettings { me: Arc::from(me), nodes, secret: Secret::new(&secret), wait: raw.wait.0 };
    let limits = ConnectionLimits { body_bytes: ASK_BYTES_MAX as u64, ..ConnectionLimits::default() };
    let listener = ListenerSettings {
        address: raw.listen.0,
        tls: tls.is_some(),
        proxy_protocol: false,
        limits: Arc::new(limits),
    };
    Some(Cluster { settings, listen: ClusterListen { listener, files: tls.map(|(_, files)| files) }, peers })
}

/// The upstream that a node is: no name of the configuration has a colon.
fn upstream_name(node: &str) -> Arc<str> {
    Arc::from(format!("peer:{node}"))
}

/// Tells an address that something else listens on.
fn taken(context: &mut Context<'_>, raw: &raw::Config, address: SocketAddr) {
    if address.port() == 0 {
        return;
    }
    let node = context.entry("cluster").at("listen");
    let public = raw.listen.http.iter().chain(&raw.listen.https).any(|listener| match listener {
        raw::Listener::Address(listener) => listener.0 == address,
        raw::Listener::Table(table) => table.address.0 == address,
    });
    if public {
        let help = "nodes talk to each other on an address of their own, which no client reaches";
        context.tell_with(node, format!("clients come in by `{address}`"), help);
    }
    if raw.control.listen.iter().any(|one| one.0 == ControlAddress::Tcp(address)) {
        context.tell_with(
            node,
            format!("`{address}` is the address of the control API"),
            "take another port",
        );
    }
}

/// The nodes that can be read, and where they are found.
fn nodes<'r>(context: &mut Context<'_>, raw: &'r raw::Cluster, node: &Node) -> Vec<(&'r str, Discovery)> {
    if raw.nodes.len() > NODES_MAX {
        context.tell(node, format!("a cluster has {NODES_MAX} nodes at most"));
    }
    let mut nodes: Vec<(&str, Discovery)> = Vec::new();
    for (index, name) in raw.nodes.iter().enumerate() {
        let node = node.nth(index);
        if nodes.iter().any(|(there, _)| there == name) {
            context.tell(node, format!("the node `{name}` stands twice"));
            continue;
        }
        match place(name) {
            Ok(discovery) => nodes.push((name, discovery)),
            Err(why) => {
                context.tell_with(node, why, "write it as \"10.0.0.1:7400\" or \"gate-1.internal:7400\"")
            }
        }
    }
    nodes
}

fn place(name: &str) -> Result<Discovery, String> {
    if let Ok(address) = name.parse::<SocketAddr>() {
        if address.port() == 0 || address.ip().is_unspecified() {
            return Err(format!("nobody can be reached at `{name}`"));
        }
        return Ok(Discovery::Static(vec![EndpointSettings { address, weight: 1 }]));
    }
    let (host, port) = parse_dns(name)?;
    Ok(Discovery::Dns { host, port, refresh: REFRESH, resolver: None })
}

/// Which of the nodes this one is.
fn me<'r>(context: &mut Context<'_>, raw: &'r raw::Cluster, node: &Node) -> Option<&'r str> {
    let listen = raw.listen.0.to_string();
    let wanted = raw.me.as_ref().unwrap_or(&listen);
    let found = raw.nodes.iter().find(|name| *name == wanted);
    if found.is_some() {
        return found.map(String::as_str);
    }
    if raw.me.is_some() {
        let help = match nearest(wanted, raw.nodes.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "write one of them, as it stands there".to_owned(),
        };
        context.tell_with(node.at("self"), format!("`{wanted}` is none of `nodes`"), help);
    } else {
        let help = "say which of them it is: self = \"10.0.0.1:7400\"";
        context.tell_with(
            node.at("nodes"),
            format!("none of them is this node, which listens on `{listen}`"),
            help,
        );
    }
    None
}

fn tls(
    context: &mut Context<'_>,
    raw: &raw::ClusterTls,
    node: &Node,
) -> (ClientTlsSettings, CertificateFiles) {
    let files =
        CertificateFiles { cert: raw.cert.0.clone(), key: raw.key.0.clone(), ocsp: None, client: None };
    for file in [&files.cert, &files.key] {
        context.name_file(file);
    }
    for problem in CertificateSet::load(std::slice::from_ref(&files)).err().unwrap_or_default() {
        let key = if problem.path == files.cert { "cert" } else { "key" };
        cannot_use(context, node.at(key), &problem.path, &problem.why);
    }
    let ca = raw.ca.as_ref().map(|file| file.0.clone());
    if let Some(ca) = &ca {
        context.name_file(ca);
    }
    let client =
        ClientTlsSettings { server_name: raw.server_name.clone(), ca, ..ClientTlsSettings::default() };
    match ClientTls::new(&client, None) {
        Ok(_) => {}
        Err(error @ ClientTlsError::Name(_)) => context.tell(node.at("server_name"), error.to_string()),
        Err(ClientTlsError::Authorities { path, why }) => cannot_use(context, node.at("ca"), &path, &why),
        Err(error) => context.tell(node, error.to_string()),
    }
    (client, files)
}

fn cannot_use(context: &mut Context<'_>, node: &Node, path: &Path, why: &dyn std::fmt::Display) {
    context.tell(node, format!("cannot use {}: {why}", path.display()));
}

/// Another node, as an upstream: with pools and a breaker, without a gate. Its own protects it.
fn peer(
    raw: &raw::Cluster,
    name: &str,
    discovery: &Discovery,
    tls: Option<&ClientTlsSettings>,
) -> UpstreamSettings {
    UpstreamSettings {
        name: upstream_name(name),
        discovery: discovery.clone(),
        protocol: Protocol::Http1,
        tls: tls.cloned(),
        host: HostHeader::Client,
        balance: Balance::RoundRobin,
        shard: None,
        slow_start: Duration::ZERO,
        health: None,
        outlier: OutlierSettings { consecutive: 0, base: LEFT_ALONE, max: LEFT_ALONE, max_percent: 0 },
        panic_threshold: 0,
        concurrency: None,
        waiting: WaitingSettings { limit: 0, tenant_limit: 0, bytes: 0, wait: Duration::ZERO },
        breaker: Some(BreakerSettings { consecutive: FAILURES_MAX, cooldown: LEFT_ALONE }),
        retry_budget_percent: 0,
        retry_budget_min_per_second: 0,
        connect_timeout: raw.connect_timeout.0,
        connections_max: CONNECTIONS_MAX,
        idle_max: IDLE_MAX,
        idle_timeout: Duration::from_secs(60),
        lifetime_max: Duration::from_secs(600),
        body_idle: Duration::from_secs(60),
    }
}
