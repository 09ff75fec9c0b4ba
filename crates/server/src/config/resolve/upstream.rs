//! Upstreams.

mod files;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_model::gate::adaptive;
use tidegate_upstream::settings::{
    Balance, BreakerSettings, Concurrency, Discovery, EndpointSettings, HashOn, HealthSettings, HostHeader,
    OutlierSettings, RefreshBounds, ShardSettings, UpstreamSettings, WaitingSettings, WhenDown,
};
use tidegate_wire::client_tls::{ClientTls, ClientTlsError};
use tidegate_wire::settings::{ClientTlsSettings, Protocol};

use super::Context;
use super::tenants::name_problem;
use crate::config::problem::{Place, Problem};
use crate::config::raw;
use crate::config::text::parse_name;
use crate::config::tree::Node;

pub fn upstreams(context: &mut Context<'_>, raw: &raw::Config) -> Vec<UpstreamSettings> {
    let node = context.entry("upstream");
    let mut upstreams = Vec::new();
    for (name, upstream) in &raw.upstream {
        let node = node.at(name);
        if let Err(message) = parse_name(name) {
            name_problem(context, node, message);
        }
        upstreams.extend(one(context, name, upstream, node));
    }
    upstreams
}

fn one(context: &mut Context<'_>, name: &str, raw: &raw::Upstream, node: &Node) -> Option<UpstreamSettings> {
    for (key, time) in [
        ("connect_timeout", &raw.connect_timeout),
        ("idle_timeout", &raw.idle_timeout),
        ("lifetime", &raw.lifetime),
        ("body_idle", &raw.body_idle),
    ] {
        context.positive(node, key, time);
    }
    let discovery = discovery(context, raw, node)?;
    let tls = tls(context, raw, node, &discovery);
    Some(UpstreamSettings {
        name: Arc::from(name),
        protocol: match raw.protocol {
            raw::Protocol::Http1 => Protocol::Http1,
            raw::Protocol::H2 => Protocol::H2,
            raw::Protocol::Auto => Protocol::Auto,
        },
        tls,
        host: raw.host.as_ref().map_or(HostHeader::Client, |host| HostHeader::Fixed(host.0.clone())),
        balance: balance(context, raw, node),
        shard: shard(context, raw, node, &discovery),
        slow_start: raw.slow_start.0,
        health: raw.health.as_ref().map(|health| self::health(context, health, node.at("health"))),
        outlier: OutlierSettings {
            consecutive: raw.outlier.consecutive,
            base: raw.outlier.base.0,
            max: raw.outlier.max.0,
            max_percent: u8::try_from(raw.outlier.max_ejected.0).unwrap_or(100),
        },
        panic_threshold: u8::try_from(raw.panic_threshold.0).unwrap_or(100),
        concurrency: raw.concurrency.as_ref().map(|one| concurrency(context, one, node)),
        waiting: WaitingSettings {
            limit: raw.waiting.limit as usize,
            tenant_limit: raw.waiting.per_tenant.unwrap_or(raw.waiting.limit) as usize,
            bytes: usize::try_from(raw.waiting.bytes.0).unwrap_or(usize::MAX),
            wait: raw.waiting.wait.0,
        },
        breaker: raw.breaker.on().map(|breaker| {
            context.positive(node.at("breaker"), "cooldown", &breaker.cooldown);
            BreakerSettings { consecutive: breaker.consecutive, cooldown: breaker.cooldown.0 }
        }),
        retry_budget_percent: raw.retry_budget.0,
        retry_budget_min_per_second: raw.retry_budget_min,
        connect_timeout: raw.connect_timeout.0,
        connections_max: raw.connections,
        idle_max: raw.idle_connections.min(raw.connections),
        idle_timeout: raw.idle_timeout.0,
        lifetime_max: raw.lifetime.0,
        body_idle: raw.body_idle.0,
        discovery,
    })
}

fn concurrency(context: &mut Context<'_>, raw: &raw::Concurrency, node: &Node) -> Concurrency {
    let raw::Between { min, max, initial } = match raw {
        raw::Concurrency::Fixed(limit) => return Concurrency::Fixed(*limit),
        raw::Concurrency::Word(raw::Adaptive::Adaptive) => raw::Between::default(),
        raw::Concurrency::Between(between) => between.clone(),
    };
    if min > max {
        context.tell(node.at("concurrency"), "`min` is more than `max`");
    }
    Concurrency::Adaptive(adaptive::Terms { min, max, initial: initial.clamp(min, max.max(min)) })
}

fn discovery(context: &mut Context<'_>, raw: &raw::Upstream, node: &Node) -> Option<Discovery> {
    let (min, max) = (raw.refresh.min.0, raw.refresh.max.0);
    context.positive(node.at("refresh"), "min", &raw.refresh.min);
    if min > max {
        context.tell(node.at("refresh"), "`min` is longer than `max`");
    }
    let refresh = RefreshBounds { min, max };
    let resolver = raw.resolver.as_ref().map(|address| address.0);
    let given: Vec<&str> = ["endpoints", "dns", "srv", "file", "files"]
        .into_iter()
        .filter(|key| node.get(key).is_some())
        .collect();
    if let [_, second, ..] = given.as_slice() {
        let message = format!("endpoints come from one of `{}`, not from both", given.join("` and `"));
        context.tell(node.at(second), message);
        return None;
    }
    if let Some(files) = &raw.files {
        files::alone(context, raw, node);
        return Some(Discovery::Files(files::files(context, &files.table(), node.at("files"))));
    }
    if let Some(list) = &raw.endpoints {
        return Some(Discovery::Static(endpoints(context, list, node.at("endpoints"))));
    }
    if let Some(dns) = &raw.dns {
        let (host, port) = dns.0.clone();
        return Some(Discovery::Dns { host, port, refresh, resolver });
    }
    if let Some(name) = &raw.srv {
        if !name.contains('.') || name.starts_with('.') || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("`{name}` is no name of an SRV record");
            context.tell_with(node.at("srv"), message, "write it as in \"_http._tcp.app.internal\"");
        }
        return Some(Discovery::Srv { name: name.clone(), refresh, resolver });
    }
    if let Some(file) = &raw.file {
        if let Err(error) = std::fs::File::open(&file.0) {
            let why = super::plain(&error);
            context.tell(node.at("file"), format!("cannot read {}: {why}", file.0.display()));
        }
        return Some(Discovery::File(file.0.clone()));
    }
    context.add(
        node,
        Problem::new(Some(node.key_place()), "this upstream has no endpoints")
            .help("add endpoints = [\"127.0.0.1:3000\"], or dns, srv, file or files"),
    );
    None
}

fn endpoints(context: &mut Context<'_>, list: &[raw::Endpoint], node: &Node) -> Vec<EndpointSettings> {
    if list.is_empty() {
        context.tell(node, "this upstream has no endpoints");
    }
    let mut seen: HashMap<SocketAddr, Place> = HashMap::new();
    let mut endpoints = Vec::new();
    for (index, endpoint) in list.iter().enumerate() {
        let node = node.nth(index);
        let (address, weight) = match endpoint {
            raw::Endpoint::Address(address) => (address.0, 1),
            raw::Endpoint::Table(table) => (table.address.0, table.weight),
        };
        if address.port() == 0 || address.ip().is_unspecified() {
            context.tell(node.at("address"), format!("nobody can be reached at `{address}`"));
        }
        let place = node.at("address").place.clone();
        if let Some(there) = seen.insert(address, place.clone()) {
            let message = format!("the endpoint `{address}` stands twice");
            let problem = Problem::new(Some(place), message).note(Some(&there), "the other one is");
            context.add(node, problem.help("give it a weight instead: { address = \"…\", weight = 2 }"));
        }
        endpoints.push(EndpointSettings { address, weight });
    }
    endpoints
}

fn tls(
    context: &mut Context<'_>,
    raw: &raw::Upstream,
    node: &Node,
    discovery: &Discovery,
) -> Option<ClientTlsSettings> {
    let tls = raw.tls.on()?;
    let settings = ClientTlsSettings {
        server_name: tls.server_name,
        ca: tls.ca.map(|file| file.0),
        insecure: tls.insecure,
        identity: match (tls.cert, tls.key) {
            (Some(cert), Some(key)) => Some((cert.0, key.0)),
            (None, None) => None,
            (cert, _) => {
                let (there, lacks) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
                let message = format!("`{there}` stands without `{lacks}`");
                context.tell_with(node.at("tls").at(there), message, "a certificate is shown with its key");
                None
            }
        },
        pins: tls.pins.iter().map(|pin| pin.0).collect(),
    };
    let shown = settings.identity.iter().flat_map(|(cert, key)| [cert, key]);
    for file in settings.ca.iter().chain(shown) {
        context.name_file(file);
    }
    let host = match discovery {
        Discovery::Dns { host, .. } => Some(host.as_str()),
        _ => None,
    };
    match ClientTls::new(&settings, host) {
        Ok(_) => {}
        Err(error @ ClientTlsError::Name(_)) => {
            context.tell(node.at("tls").at("server_name"), error.to_string());
        }
        Err(ClientTlsError::Identity(file)) => {
            let is_key = settings.identity.as_ref().is_some_and(|(_, key)| *key == file.path);
            let told = format!("cannot use {}: {}", file.path.display(), file.why);
            context.tell(node.at("tls").at(if is_key { "key" } else { "cert" }), told);
        }
        Err(ClientTlsError::Authorities { path, why }) => {
            context.tell(node.at("tls").at("ca"), format!("cannot use {}: {why}", path.display()));
        }
        Err(error @ (ClientTlsError::NoAuthorities | ClientTlsError::Rustls(_))) => {
            context.tell(node.at("tls"), error.to_string())
        }
    }
    Some(settings)
}

fn balance(context: &mut Context<'_>, raw: &raw::Upstream, node: &Node) -> Balance {
    if raw.balance != raw::Balance::RingHash && raw.hash_on.is_some() {
        context.tell_with(
            node.at("hash_on"),
            "`hash_on` belongs to ring-hash",
            "add balance = \"ring-hash\"",
        );
    }
    match raw.balance {
        raw::Balance::RoundRobin => Balance::RoundRobin,
        raw::Balance::LeastRequest => Balance::LeastRequest,
        raw::Balance::PeakEwma => Balance::PeakEwma,
        raw::Balance::RingHash => {
            Balance::RingHash(raw.hash_on.as_ref().map_or(HashOn::Tenant, |on| on.0.clone()))
        }
        raw::Balance::Random => Balance::Random,
    }
}

fn shard(
    context: &mut Context<'_>,
    raw: &raw::Upstream,
    node: &Node,
    discovery: &Discovery,
) -> Option<ShardSettings> {
    let table = raw.shuffle_shard.as_ref()?.table();
    let size = table.size as usize;
    if let Discovery::Static(endpoints) = discovery
        && size >= endpoints.len()
    {
        let message =
            format!("{size} of {} endpoints are all of them: no tenant is kept apart", endpoints.len());
        context.tell_with(node.at("shuffle_shard"), message, "take fewer, or leave `shuffle_shard` out");
    }
    if raw.breaker.on().is_some() {
        let message = "a breaker shuts the whole upstream, which one tenant with `shuffle_shard` must not be able to do";
        let help = "leave `breaker` out: `outlier` takes out endpoints one by one";
        context.tell_with(node.at("breaker"), message, help);
    }
    let when_down = match table.when_down {
        raw::WhenDown::Refuse => WhenDown::Refuse,
        raw::WhenDown::Spill => WhenDown::Spill,
    };
    Some(ShardSettings { size, when_down })
}

fn health(context: &mut Context<'_>, raw: &raw::Health, node: &Node) -> HealthSettings {
    context.positive(node, "interval", &raw.interval);
    context.positive(node, "timeout", &raw.timeout);
    HealthSettings {
        path: raw.path.as_ref().map(|path| path.0.clone()),
        host: raw.host.as_ref().and_then(|host| host.0.to_str().ok()).map(str::to_owned),
        statuses: raw.statuses.0,
        interval: raw.interval.0,
        timeout: raw.timeout.0,
        healthy: raw.healthy,
        unhealthy: raw.unhealthy,
    }
}
