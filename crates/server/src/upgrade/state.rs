//! What the old process knows that would be missed: what was spent of limits, what is thought of endpoints, and what the new one must
//! know of the store before it is its own.
//!
//! Not handed over, as it comes back by itself: latencies, pools, breakers (an upstream that fails opens the new one's soon), what an
//! adaptive limit knows beside the limit, the cache's memory, counters of metrics.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_model::health::Terms;
use tidegate_model::tenant::spent::{Ledger, Spent};
use tidegate_upstream::Admin;
use tidegate_wire::clock;
use tidegate_wire::link::{Link, read_memory, write_memory};

use super::lent::{self, Lent};
use super::protocol::{Said, say};
use crate::wiring::Gate;

/// The most bytes of a state: some ten million limits.
const STATE_BYTES_MAX: u64 = 1 << 30;

/// What is known.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct State {
    spent: Vec<Spent>,
    endpoints: Vec<Endpoint>,
    /// Adaptive limits, by upstream.
    #[serde(default)]
    limits: Vec<(String, u32)>,
    #[serde(default)]
    lent: Option<Lent>,
}

/// What is thought of an endpoint.
#[derive(Debug, Deserialize, Serialize)]
struct Endpoint {
    upstream: String,
    address: SocketAddr,
    admin: Admin,
    /// Why its checks find it unhealthy, if they do.
    unhealthy: Option<String>,
}

/// Sends what is known, or what was spent since the last time.
///
/// # Errors
/// The other process is gone, or there is no memory.
pub fn tell(link: &Link, gate: &Gate, ledger: &Mutex<Ledger>, said: &Said) -> io::Result<()> {
    let state = match said {
        Said::Begin => State {
            endpoints: endpoints(gate),
            limits: limits(gate),
            lent: lent::gather(gate),
            ..State::default()
        },
        _ => State::default(),
    };
    let spent = ledger.lock().look(&gate.standing.tenants, clock::now());
    let file = write_memory("tidegate-state", &serde_json::to_vec(&State { spent, ..state })?)?;
    say(link, said, &[file.as_fd()])
}

fn limits(gate: &Gate) -> Vec<(String, u32)> {
    let all = gate.standing.upstreams.status();
    let adaptive = all.into_iter().filter(|upstream| upstream.gate.adaptive);
    adaptive.filter_map(|upstream| Some((upstream.name.to_string(), upstream.gate.concurrency?))).collect()
}

fn endpoints(gate: &Gate) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for upstream in gate.standing.upstreams.status() {
        for endpoint in upstream.endpoints {
            let unhealthy = endpoint.health_error.clone().unwrap_or_default();
            let unhealthy = (endpoint.health == "unhealthy").then_some(unhealthy);
            if endpoint.admin == Admin::Enabled && unhealthy.is_none() {
                continue;
            }
            let (upstream, address, admin) = (upstream.name.to_string(), endpoint.address, endpoint.admin);
            all.push(Endpoint { upstream, address, admin, unhealthy });
        }
    }
    all
}

impl State {
    /// What came along.
    ///
    /// # Errors
    /// It is no such thing.
    pub fn read(files: Vec<OwnedFd>) -> io::Result<State> {
        let file = files.into_iter().next().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(serde_json::from_slice(&read_memory(file, STATE_BYTES_MAX)?)?)
    }

    /// Makes it what is known here.
    pub fn apply(self, gate: &Gate) {
        let now = clock::now();
        let unknown = gate.config().proxy.tenants.unknown.clone();
        gate.standing.tenants.spend(&self.spent, unknown.as_ref(), now);
        if let Some(lent) = self.lent {
            lent.apply(gate);
        }
        for (name, limit) in self.limits {
            if let Some(upstream) = gate.standing.upstreams.get(&name) {
                upstream.go_on_from(limit, now);
            }
        }
        for told in self.endpoints {
            let Some(upstream) = gate.standing.upstreams.get(&told.upstream) else { continue };
            if told.admin != Admin::Enabled {
                gate.standing.upstreams.set_endpoint(&told.upstream, told.address, told.admin);
            }
            // Where nobody checks any more, nobody would take it back.
            let checked = upstream.settings().health.is_some();
            if let Some(why) = told.unhealthy.filter(|_| checked) {
                let set = upstream.endpoints();
                let endpoint = set.endpoints.iter().find(|endpoint| endpoint.address == told.address);
                if let Some(endpoint) = endpoint {
                    endpoint.checked(Err(why), Terms { healthy: 1, unhealthy: 1 }, now);
                }
            }
        }
    }
}
