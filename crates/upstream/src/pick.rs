//! Picking: which endpoint the next try goes to, and why.

use std::cell::RefCell;
use std::sync::Arc;

use smallvec::SmallVec;
use tidegate_model::balance::{self, Candidate, RoundRobin};
use tidegate_model::tick::Tick;

use crate::endpoint::{Endpoint, EndpointSet};
use crate::settings::{Balance, UpstreamSettings};

/// A picked endpoint, and why it was picked.
pub(crate) struct Pick {
    pub endpoint: Arc<Endpoint>,
    pub because: &'static str,
}

impl Pick {
    /// Whether it was picked though something speaks against it, because too few others are left.
    pub(crate) fn is_panic(&self) -> bool {
        self.because == PANIC
    }
}

const PANIC: &str = "panic";

/// What one core remembers between picks of one upstream.
#[derive(Debug, Default)]
pub(crate) struct Picker {
    robin: RefCell<RoundRobin>,
}

impl Picker {
    /// Picks an endpoint. One that was tried already is picked only if there is no other.
    pub(crate) fn pick(
        &self,
        settings: &UpstreamSettings,
        set: &EndpointSet,
        tried: &[u64],
        key: u64,
        chance: u64,
        now: Tick,
    ) -> Option<Pick> {
        if let [endpoint] = set.endpoints.as_slice() {
            // The only one there is: an ejection would leave nothing.
            let because = if endpoint.is_usable(now) { name(&settings.balance) } else { PANIC };
            return endpoint.is_enabled().then(|| Pick { endpoint: Arc::clone(endpoint), because });
        }
        let enabled = || set.endpoints.iter().filter(|endpoint| endpoint.is_enabled());
        let total = enabled().count();
        let usable = enabled().filter(|endpoint| endpoint.is_usable(now)).count();
        // Ejecting more than the maximum share, or losing more than the threshold, would overload the rest.
        let panic = usable * 100 < total * usize::from(settings.panic_threshold) || usable == 0;
        let eligible = |fresh: bool| -> SmallVec<[&Arc<Endpoint>; 16]> {
            enabled()
                .filter(|endpoint| panic || endpoint.is_usable(now))
                .filter(|endpoint| !fresh || !tried.contains(&endpoint.id))
                .collect()
        };
        let mut endpoints = eligible(!tried.is_empty());
        if endpoints.is_empty() {
            endpoints = eligible(false);
        }
        let index = self.choose(settings, &endpoints, key, chance, now)?;
        let because = if panic { PANIC } else { name(&settings.balance) };
        Some(Pick { endpoint: Arc::clone(endpoints[index]), because })
    }

    fn choose(
        &self,
        settings: &UpstreamSettings,
        endpoints: &[&Arc<Endpoint>],
        key: u64,
        chance: u64,
        now: Tick,
    ) -> Option<usize> {
        let known = |endpoint: &&Arc<Endpoint>| endpoint.candidate(settings.slow_start, now);
        let candidates = || -> SmallVec<[Candidate; 16]> { endpoints.iter().map(known).collect() };
        match &settings.balance {
            Balance::RoundRobin => {
                let weights: SmallVec<[(u64, f64); 16]> =
                    endpoints.iter().map(|e| (e.id, known(e).weight)).collect();
                self.robin.borrow_mut().next(&weights)
            }
            Balance::LeastRequest => balance::least_request(&candidates(), chance),
            Balance::PeakEwma => balance::peak_ewma(&candidates(), chance),
            Balance::Random => balance::random(&candidates(), chance),
            Balance::RingHash(_) => {
                // By address, not by id: all nodes and all restarts agree.
                let keyed: SmallVec<[(u64, Candidate); 16]> =
                    endpoints.iter().map(|endpoint| (address_key(endpoint), known(endpoint))).collect();
                balance::consistent(&keyed, key)
            }
        }
    }
}

fn address_key(endpoint: &Endpoint) -> u64 {
    let ip = match endpoint.address.ip() {
        std::net::IpAddr::V4(v4) => u128::from(v4.to_bits()),
        std::net::IpAddr::V6(v6) => v6.to_bits(),
    };
    balance::mix((ip >> 64) as u64 ^ balance::mix(ip as u64 ^ u64::from(endpoint.address.port())))
}

fn name(balance: &Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "round-robin",
        Balance::LeastRequest => "least-request",
        Balance::PeakEwma => "peak-ewma",
        Balance::RingHash(_) => "ring-hash",
        Balance::Random => "random",
    }
}
