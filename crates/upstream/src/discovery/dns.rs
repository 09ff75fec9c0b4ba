//! Endpoints by DNS: the A and AAAA records of a name, or the targets of an SRV record (RFC 2782).
//!
//! What it does not do: cache. Each look asks anew, when the TTL of the last answer has ended.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tidegate_wire::clock;

use super::Found;
use crate::settings::{Discovery, EndpointSettings, RefreshBounds};

/// The most targets of an SRV record.
const TARGETS_MAX: usize = 256;
/// No name is asked more often than this, whatever its TTL and the configuration say.
const REFRESH_MIN: Duration = Duration::from_millis(10);
/// The largest weight of an endpoint.
const WEIGHT_MAX: u32 = 1000;

/// What is remembered from one look to the next.
#[derive(Default)]
pub(super) struct Names {
    /// Addresses of SRV targets: one that cannot be resolved just now keeps those it had.
    targets: HashMap<String, Vec<IpAddr>>,
}

impl Names {
    /// The endpoints of a name.
    pub(super) async fn resolve(&mut self, asked: &Discovery) -> Found {
        match asked {
            Discovery::Dns { host, port, refresh, resolver } => {
                let (addresses, until) = addresses(&ask(*resolver)?, host).await?;
                let endpoint = |ip| EndpointSettings { address: SocketAddr::new(ip, *port), weight: 1 };
                let endpoints = addresses.into_iter().map(endpoint).collect();
                Ok((in_order(endpoints), bounded(until, *refresh)))
            }
            Discovery::Srv { name, refresh, resolver } => {
                self.services(&ask(*resolver)?, name, *refresh).await
            }
            Discovery::Static(_) | Discovery::File(_) | Discovery::Files(_) => {
                Ok((Vec::new(), Duration::MAX))
            }
        }
    }

    async fn services(&mut self, resolver: &TokioResolver, name: &str, bounds: RefreshBounds) -> Found {
        let answer =
            resolver.lookup(name, RecordType::SRV).await.map_err(|error| format!("{name}: {error}"))?;
        let mut until = answer.valid_until();
        let records = answer.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv),
            _ => None,
        });
        let services = preferred(records);
        if services.is_empty() {
            return Err(format!("{name}: the service is not offered"));
        }
        let looks = services.iter().map(|service| addresses(resolver, &service.target));
        let mut endpoints = Vec::new();
        let before = std::mem::take(&mut self.targets);
        for (service, look) in services.iter().zip(join_all(looks).await) {
            let found = match look {
                Ok((addresses, valid)) => {
                    until = until.min(valid);
                    addresses
                }
                Err(error) => {
                    tracing::warn!(
                        service = name,
                        error,
                        "a target is not resolved; its known addresses stay"
                    );
                    before.get(&service.target).cloned().unwrap_or_default()
                }
            };
            let endpoint = |&ip: &IpAddr| {
                let address = SocketAddr::new(ip, service.port);
                EndpointSettings { address, weight: service.weight }
            };
            endpoints.extend(found.iter().map(endpoint));
            self.targets.insert(service.target.clone(), found);
        }
        Ok((in_order(endpoints), bounded(until, bounds)))
    }
}

/// One target of an SRV record.
#[derive(Debug, PartialEq, Eq)]
struct Service {
    target: String,
    port: u16,
    weight: u32,
}

/// The targets of the most preferred priority: the others are for when these are gone from DNS. Their weights are
/// brought into ours; none is zero, which RFC 2782 means as "very little".
fn preferred<'a>(records: impl Iterator<Item = &'a SRV>) -> Vec<Service> {
    // RFC 2782: a target of "." says that the service is decidedly not available.
    let mut records: Vec<_> = records.filter(|srv| !srv.target.is_root()).collect();
    let first = records.iter().map(|srv| srv.priority).min();
    records.retain(|srv| Some(srv.priority) == first);
    records.truncate(TARGETS_MAX);
    let most = records.iter().map(|srv| u32::from(srv.weight)).max().unwrap_or_default().max(WEIGHT_MAX);
    let weight = |srv: &SRV| (u32::from(srv.weight) * WEIGHT_MAX / most).max(1);
    records
        .into_iter()
        .map(|srv| Service { target: srv.target.to_utf8(), port: srv.port, weight: weight(srv) })
        .collect()
}

/// Answers rotate; an order of our own keeps the set the same.
fn in_order(mut endpoints: Vec<EndpointSettings>) -> Vec<EndpointSettings> {
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints.dedup_by_key(|endpoint| endpoint.address);
    endpoints
}

/// Who is asked. Made anew for each look: a change of the system's settings is seen, and nothing old is in a cache.
fn ask(server: Option<SocketAddr>) -> Result<TokioResolver, String> {
    let builder = match server {
        // Where the system has no settings (a bare container), the hosts file and `localhost` still hold.
        None => TokioResolver::builder_tokio().unwrap_or_else(|_| asking(Vec::new())),
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            asking(vec![NameServerConfig::new(server.ip(), true, connections.to_vec())])
        }
    };
    builder.build().map_err(|error| format!("no resolver: {error}"))
}

fn asking(servers: Vec<NameServerConfig>) -> ResolverBuilder<TokioRuntimeProvider> {
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
}

/// The addresses of a name, asked now.
pub(crate) async fn lookup(server: Option<SocketAddr>, host: &str) -> Result<Vec<IpAddr>, String> {
    Ok(addresses(&ask(server)?, host).await?.0)
}

async fn addresses(resolver: &TokioResolver, host: &str) -> Result<(Vec<IpAddr>, Instant), String> {
    let answer = resolver.lookup_ip(host).await.map_err(|error| format!("{host}: {error}"))?;
    Ok((answer.iter().collect(), answer.valid_until()))
}

fn bounded(until: Instant, bounds: RefreshBounds) -> Duration {
    let now = clock::instant(clock::now()).into_std();
    let least = bounds.min.max(REFRESH_MIN);
    until.saturating_duration_since(now).clamp(least, bounds.max.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::Name;

    /// Records as `(priority, weight, port, target)`; what is used of them as `(target, port, weight)`.
    fn check(records: &[(u16, u16, u16, &str)], expected: &[(&str, u16, u32)]) {
        let records: Vec<SRV> = records
            .iter()
            .map(|&(priority, weight, port, target)| {
                SRV::new(priority, weight, port, Name::from_utf8(target).unwrap())
            })
            .collect();
        let found = preferred(records.iter());
        let expected: Vec<Service> = expected
            .iter()
            .map(|&(target, port, weight)| Service { target: target.to_owned(), port, weight })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_the_most_preferred_priority_is_used() {
        check(
            &[(20, 1, 1, "far."), (10, 5, 2, "near."), (10, 7, 3, "near.")],
            &[("near.", 2, 5), ("near.", 3, 7)],
        );
    }

    #[test]
    fn weights_keep_their_proportions_and_none_is_zero() {
        check(&[(1, 0, 1, "a."), (1, 10, 1, "b.")], &[("a.", 1, 1), ("b.", 1, 10)]);
        check(&[(1, 20_000, 1, "a."), (1, 40_000, 1, "b.")], &[("a.", 1, 500), ("b.", 1, 1000)]);
    }

    #[tokio::test(flavor = "local")]
    async fn localhost_needs_no_name_server() {
        for resolver in [ask(None).unwrap(), asking(Vec::new()).build().unwrap()] {
            let (found, _) = addresses(&resolver, "localhost").await.unwrap();
            assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
        }
    }

    #[test]
    fn a_root_target_means_that_there_is_no_service() {
        check(&[(0, 0, 0, ".")], &[]);
    }
}
