//! Discovery: where an upstream's endpoints are, asked again when the answer has grown old.
//!
//! It runs on the control runtime, never on a core that carries traffic. A failure keeps the endpoints that there are.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tidegate_wire::{clock, task};

use crate::health;
use crate::settings::{Discovery, EndpointSettings, RefreshBounds};
use crate::upstreams::{Upstream, Upstreams};

/// How often a watched file is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// How soon a failed resolution is tried again, first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// The most endpoints of one upstream; what comes beyond is left out, and said.
pub(crate) const ENDPOINTS_MAX: usize = 4096;

impl Upstreams {
    /// Drives discovery and health checks of all upstreams, those that a reload brings too. Never returns.
    pub async fn drive(self: Arc<Self>) {
        let mut driven = HashSet::new();
        loop {
            let changed = self.changed.notified();
            let all = self.all();
            driven.retain(|id| all.iter().any(|upstream| upstream.id == *id));
            for upstream in all {
                if driven.insert(upstream.id) {
                    discover(Arc::clone(&self), Arc::clone(&upstream));
                    check(Arc::clone(&self), upstream);
                }
            }
            changed.await;
        }
    }
}

/// Checks each endpoint of an upstream for as long as it is there.
fn check(upstreams: Arc<Upstreams>, upstream: Arc<Upstream>) {
    task::spawn(async move {
        let mut watched = HashSet::new();
        while upstreams.has(&upstream) {
            let set = upstream.endpoints();
            watched.retain(|id| set.endpoints.iter().any(|endpoint| endpoint.id == *id));
            if upstream.settings().health.is_none() {
                watched.clear();
            }
            for endpoint in set.endpoints.iter().filter(|_| upstream.settings().health.is_some()) {
                if watched.insert(endpoint.id) {
                    let (upstreams, upstream_held, id) =
                        (Arc::clone(&upstreams), Arc::clone(&upstream), endpoint.id);
                    let wanted = move || {
                        let there =
                            upstream_held.endpoints().endpoints.iter().any(|endpoint| endpoint.id == id);
                        there && upstreams.has(&upstream_held) && upstream_held.settings().health.is_some()
                    };
                    health::watch(Arc::clone(&upstream), Arc::clone(endpoint), wanted);
                }
            }
            let _ = clock::timeout_at(clock::now().after(FILE_INTERVAL), upstream.changed.notified()).await;
        }
    });
}

/// Finds an upstream's endpoints for as long as it is there.
fn discover(upstreams: Arc<Upstreams>, upstream: Arc<Upstream>) {
    task::spawn(async move {
        let mut failures = 0;
        let mut file_seen = None;
        while upstreams.has(&upstream) {
            let discovery = upstream.settings().discovery.clone();
            let wait = match &discovery {
                Discovery::Static(_) => None,
                Discovery::Dns { host, port, refresh, resolver } => {
                    Some(found(&upstream, addresses(host, *port, *refresh, *resolver).await, &mut failures))
                }
                Discovery::Srv { name, refresh, resolver } => {
                    Some(found(&upstream, services(name, *refresh, *resolver).await, &mut failures))
                }
                Discovery::File(path) => {
                    let modified = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
                    if modified != file_seen || modified.is_none() {
                        file_seen = modified;
                        found(&upstream, from_file(path, modified), &mut failures);
                    }
                    Some(FILE_INTERVAL)
                }
            };
            let changed = upstream.changed.notified();
            match wait {
                Some(wait) => drop(clock::timeout_at(clock::now().after(wait), changed).await),
                None => changed.await,
            }
        }
    });
}

/// Endpoints, and how long they may be believed.
type Found = Result<(Vec<EndpointSettings>, Duration), String>;

/// Hands on what was found, and tells when to look again.
fn found(upstream: &Upstream, found: Found, failures: &mut u32) -> Duration {
    match found {
        Ok((mut endpoints, wait)) => {
            *failures = 0;
            if endpoints.len() > ENDPOINTS_MAX {
                tracing::warn!(upstream = %upstream.settings().name, found = endpoints.len(), "too many endpoints: some are left out");
                endpoints.truncate(ENDPOINTS_MAX);
            }
            upstream.discovered(&endpoints, clock::now());
            wait
        }
        Err(error) => {
            if upstream.not_discovered(error.clone()) {
                tracing::warn!(upstream = %upstream.settings().name, error, "endpoints not found; those known stay");
            }
            *failures = failures.saturating_add(1);
            RETRY.0.saturating_mul(1 << (*failures - 1).min(8)).min(RETRY.1)
        }
    }
}

/// Made anew each time: nothing of an old answer is in its cache, and a change of the system's settings is seen.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let builder = match server {
        None => TokioResolver::builder_tokio(),
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
        }
    };
    builder.and_then(|builder| builder.build()).map_err(|error| format!("no resolver: {error}"))
}

fn bounded(until: std::time::Instant, bounds: RefreshBounds) -> Duration {
    let left = clock::instant(clock::now()).into_std();
    until.saturating_duration_since(left).clamp(bounds.min, bounds.max.max(bounds.min))
}

async fn addresses(host: &str, port: u16, bounds: RefreshBounds, server: Option<SocketAddr>) -> Found {
    let answer = resolver(server)?.lookup_ip(host).await.map_err(|error| format!("{host}: {error}"))?;
    let wait = bounded(answer.valid_until(), bounds);
    let mut endpoints: Vec<EndpointSettings> =
        answer.iter().map(|ip| EndpointSettings { address: SocketAddr::new(ip, port), weight: 1 }).collect();
    // Answers rotate; an order of our own keeps the set the same.
    endpoints.sort_by_key(|endpoint| endpoint.address);
    if endpoints.is_empty() { Err(format!("{host}: no address")) } else { Ok((endpoints, wait)) }
}

async fn services(name: &str, bounds: RefreshBounds, server: Option<SocketAddr>) -> Found {
    let resolver = resolver(server)?;
    let answer = resolver.lookup(name, RecordType::SRV).await.map_err(|error| format!("{name}: {error}"))?;
    let wait = bounded(answer.valid_until(), bounds);
    let records: Vec<(u16, u16, u16, String)> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some((srv.priority, srv.weight, srv.port, srv.target.to_utf8())),
            _ => None,
        })
        .collect();
    // Only the most preferred priority is used: the others are for when its targets are gone from DNS.
    let first = records.iter().map(|record| record.0).min().ok_or_else(|| format!("{name}: no record"))?;
    let mut endpoints = Vec::new();
    for (_, weight, port, target) in records.into_iter().filter(|record| record.0 == first) {
        let addresses: Vec<IpAddr> =
            resolver.lookup_ip(&target).await.map_err(|error| format!("{target}: {error}"))?.iter().collect();
        let weight = u32::from(weight).clamp(1, 1000);
        endpoints.extend(
            addresses.into_iter().map(|ip| EndpointSettings { address: SocketAddr::new(ip, port), weight }),
        );
    }
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    if endpoints.is_empty() { Err(format!("{name}: no address")) } else { Ok((endpoints, wait)) }
}

fn from_file(path: &Path, modified: Option<SystemTime>) -> Found {
    if modified.is_none() {
        return Err(format!("{}: cannot be read", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text)
        .map(|endpoints| (endpoints, FILE_INTERVAL))
        .map_err(|error| format!("{}:{error}", path.display()))
}

/// One `ADDRESS [weight=N]` a line; `#` begins a comment. All lines count, or none.
fn parse(text: &str) -> Result<Vec<EndpointSettings>, String> {
    let mut endpoints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let bad = |what: &str| format!("{}: {what}: `{line}`", number + 1);
        let (address, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let address = address.parse().map_err(|_| bad("not an address and port"))?;
        let weight = match rest.trim() {
            "" => 1,
            rest => rest
                .strip_prefix("weight=")
                .and_then(|weight| weight.parse().ok())
                .filter(|weight| (1..=1000).contains(weight))
                .ok_or_else(|| bad("what follows is not weight=1 to weight=1000"))?,
        };
        endpoints.push(EndpointSettings { address, weight });
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_whole_or_not_at_all() {
        let good = parse("# two\n127.0.0.1:1\n\n[::1]:2  weight=3 # b\n").unwrap();
        assert_eq!(good.iter().map(|e| e.weight).collect::<Vec<_>>(), [1, 3]);
        assert!(parse("127.0.0.1:1\nlocalhost:2\n").unwrap_err().starts_with("2: not an address"));
        assert!(parse("127.0.0.1:1 weight=0").is_err());
    }
}
