//! Picking: which endpoint the next try goes to, and why.
//!
//! Of many endpoints that weigh the same, the choice looks at the two that chance has drawn, or at the one whose turn
//! it is, and at no other; only if something speaks against these it looks at all. What it needs is kept from pick to
//! pick: none allocates.
//!
//! With shuffle sharding the choice is among the few that serve the tenant. It leaves them only if none is usable and
//! the settings say so; that too many of all are unusable is no reason.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::balance::{self, Candidate, PartRobin, RoundRobin};
use tidegate_model::tick::Tick;

use crate::endpoint::{Endpoint, EndpointSet};
use crate::files::Shelf;
use crate::gate::Door;
use crate::settings::{Balance, ShardSettings, UpstreamSettings, WhenDown};
use crate::shard::{Shard, Shards, rest};
use crate::upstreams::Upstream;

/// Of so few endpoints, all are looked at.
const FEW: usize = 4;
/// How long it is believed that enough endpoints are usable.
const BELIEVED: Duration = Duration::from_millis(20);

/// A picked endpoint, and why it was picked.
pub(crate) struct Pick<'a> {
    pub endpoint: &'a Arc<Endpoint>,
    pub because: &'static str,
}

impl Pick<'_> {
    /// Whether it was picked though something speaks against it, because too few others are left.
    pub(crate) fn is_panic(&self) -> bool {
        self.because == PANIC
    }

    /// Whether it is outside of its tenant's shard.
    pub(crate) fn is_spilled(&self) -> bool {
        self.because == SPILL
    }
}

const PANIC: &str = "panic";
const SPILL: &str = "spill";

/// What an endpoint is picked for.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub settings: &'a UpstreamSettings,
    pub set: &'a EndpointSet,
    /// Those that were tried already: one of them is picked only if there is no other.
    pub tried: &'a [u64],
    /// The key of consistent hashing.
    pub key: u64,
    /// The tenant's key, where its endpoints are drawn by it.
    pub tenant: u64,
    pub chance: u64,
    pub now: Tick,
}

/// What one core keeps of an upstream, so that its calls touch no count that other cores write, too.
#[derive(Debug)]
#[expect(
    clippy::redundant_allocation,
    reason = "the inner counts are shared between cores, the outer ones are not"
)]
pub(crate) struct Local {
    version: Cell<u64>,
    settings: RefCell<Rc<Arc<UpstreamSettings>>>,
    endpoints: RefCell<Rc<Arc<EndpointSet>>>,
    pub picker: Picker,
    pub door: Rc<Door>,
    /// Where it serves files.
    pub files: Shelf,
}

#[expect(
    clippy::redundant_allocation,
    reason = "the inner counts are shared between cores, the outer ones are not"
)]
impl Local {
    pub(crate) fn new(upstream: &Upstream) -> Local {
        Local {
            // Before they are read: what changes meanwhile is read again.
            version: Cell::new(upstream.version()),
            settings: RefCell::new(Rc::new(upstream.settings())),
            endpoints: RefCell::new(Rc::new(upstream.endpoints())),
            picker: Picker::default(),
            door: Rc::new(Door::new(&upstream.gate)),
            files: Shelf::default(),
        }
    }

    /// Reads again what has changed.
    pub(crate) fn refresh(&self, upstream: &Upstream) {
        let version = upstream.version();
        if self.version.replace(version) != version {
            *self.settings.borrow_mut() = Rc::new(upstream.settings());
            *self.endpoints.borrow_mut() = Rc::new(upstream.endpoints());
        }
    }

    pub(crate) fn settings(&self) -> Rc<Arc<UpstreamSettings>> {
        Rc::clone(&self.settings.borrow())
    }

    pub(crate) fn endpoints(&self) -> Rc<Arc<EndpointSet>> {
        Rc::clone(&self.endpoints.borrow())
    }
}

/// What one core remembers between picks of one upstream.
#[derive(Debug, Default)]
pub(crate) struct Picker {
    robin: RefCell<RoundRobin>,
    /// Whose turn it is, where all weigh the same.
    turn: Cell<usize>,
    /// Until when there is no need to look again whether enough of the set of this version are usable.
    calm: Cell<(u64, Tick)>,
    scratch: RefCell<Scratch>,
    shards: RefCell<Shards>,
    /// Whose turn it is in shards.
    parts: RefCell<PartRobin>,
}

/// What a choice among all is made from, kept for the next one.
#[derive(Debug, Default)]
struct Scratch {
    /// Places in the set.
    eligible: Vec<usize>,
    candidates: Vec<Candidate>,
    keyed: Vec<(u64, Candidate)>,
    weights: Vec<(u64, f64)>,
}

impl Scratch {
    /// Gathers those of these places that may be picked: the usable ones, or in a panic all that are enabled; of
    /// them, those that were not tried yet, if there are any. `false`: there are none.
    fn gather(&mut self, ask: &Ask<'_>, places: impl Iterator<Item = usize> + Clone, panic: bool) -> bool {
        for fresh in [true, false] {
            let eligible = |place: &usize| {
                let endpoint = &ask.set.endpoints[*place];
                (if panic { endpoint.is_enabled() } else { endpoint.is_usable(ask.now) })
                    && (!fresh || !ask.tried.contains(&endpoint.id))
            };
            self.eligible.clear();
            self.eligible.extend(places.clone().filter(eligible));
            if !self.eligible.is_empty() {
                return true;
            }
        }
        false
    }
}

impl Picker {
    /// Picks an endpoint.
    pub(crate) fn pick<'a>(&self, ask: &Ask<'a>) -> Option<Pick<'a>> {
        match &ask.settings.shard {
            None => self.of_all(ask),
            Some(shard) => self.of_shard(ask, *shard),
        }
    }

    /// The addresses of the endpoints that serve the tenant, and when the first of them may be usable again; `None`: all
    /// endpoints serve it.
    pub(crate) fn shard(&self, ask: &Ask<'_>) -> Option<(Arc<[SocketAddr]>, Duration)> {
        let mut shards = self.shards.borrow_mut();
        let shard = shards.find(ask.set, ask.settings.shard?.size, ask.tenant);
        Some((Arc::clone(&shard.addresses), rest(ask.set, shard, ask.now)))
    }

    fn of_all<'a>(&self, ask: &Ask<'a>) -> Option<Pick<'a>> {
        let Ask { settings, set, now, .. } = *ask;
        if let [endpoint] = set.endpoints.as_slice() {
            // The only one there is: an ejection would leave nothing.
            let because = if endpoint.is_usable(now) { name(&settings.balance) } else { PANIC };
            return endpoint.is_enabled().then_some(Pick { endpoint, because });
        }
        if set.endpoints.len() > FEW
            && let Some(endpoint) = self.quick(ask)
        {
            return Some(Pick { endpoint, because: name(&settings.balance) });
        }
        let panic = self.is_panic(settings, set, now);
        let scratch = &mut *self.scratch.borrow_mut();
        if !scratch.gather(ask, 0..set.endpoints.len(), panic) {
            return None;
        }
        self.chosen(ask, scratch, if panic { PANIC } else { name(&settings.balance) })
    }

    fn of_shard<'a>(&self, ask: &Ask<'a>, settings: ShardSettings) -> Option<Pick<'a>> {
        {
            let mut shards = self.shards.borrow_mut();
            let Shard { places, .. } = shards.find(ask.set, settings.size, ask.tenant);
            let members = || places.iter().map(|&place| usize::from(place));
            let scratch = &mut *self.scratch.borrow_mut();
            if scratch.gather(ask, members(), false) {
                return self.chosen(ask, scratch, name(&ask.settings.balance));
            }
            if settings.when_down == WhenDown::Refuse {
                // So many are down that it cannot be this tenant's doing alone; but its shard it does not leave.
                let panic = self.is_panic(ask.settings, ask.set, ask.now);
                let there = panic && scratch.gather(ask, members(), true);
                return there.then(|| self.chosen(ask, scratch, PANIC))?;
            }
        }
        let spilled = self.of_all(ask)?;
        Some(if spilled.is_panic() { spilled } else { Pick { because: SPILL, ..spilled } })
    }

    /// One of those gathered.
    fn chosen<'a>(&self, ask: &Ask<'a>, scratch: &mut Scratch, because: &'static str) -> Option<Pick<'a>> {
        let index = self.choose(ask, scratch)?;
        let endpoint = &ask.set.endpoints[scratch.eligible[index]];
        Some(Pick { endpoint, because })
    }

    /// Whether so few are usable that all must be used: ejecting more than the maximum share, or losing more than the
    /// threshold, would overload the rest.
    fn is_panic(&self, settings: &UpstreamSettings, set: &EndpointSet, now: Tick) -> bool {
        let (mut total, mut usable) = (0, 0);
        for endpoint in set.endpoints.iter().filter(|endpoint| endpoint.is_enabled()) {
            total += 1;
            usable += usize::from(endpoint.is_usable(now));
        }
        let panic = usable * 100 < total * usize::from(settings.panic_threshold) || usable == 0;
        self.calm.set((set.version, if panic { now } else { now.after(BELIEVED) }));
        panic
    }

    /// The choice where all weigh the same, if nothing speaks against it.
    fn quick<'a>(&self, ask: &Ask<'a>) -> Option<&'a Arc<Endpoint>> {
        let Ask { settings, set, tried, chance, now, .. } = *ask;
        let (version, until) = self.calm.get();
        if !set.is_even || !settings.slow_start.is_zero() || version != set.version || until <= now {
            return None;
        }
        let endpoints = &set.endpoints;
        let good = |endpoint: &&Arc<Endpoint>| endpoint.is_usable(now) && !tried.contains(&endpoint.id);
        let better = |choose: fn(&[Candidate], u64) -> Option<usize>| {
            let (first, second) = balance::two_of(endpoints.len(), chance);
            let pair = [&endpoints[first], &endpoints[second]];
            let known = pair.map(|endpoint| endpoint.candidate(Duration::ZERO, now));
            // Other chance than has drawn them: the same one would favour some.
            let chosen = pair[choose(&known, balance::mix(chance))?];
            pair.iter().all(good).then_some(chosen)
        };
        match &settings.balance {
            Balance::RoundRobin => {
                let turn = self.turn.get() % endpoints.len();
                self.turn.set(turn + 1);
                Some(&endpoints[turn]).filter(good)
            }
            Balance::LeastRequest => better(balance::least_request),
            Balance::PeakEwma => better(balance::peak_ewma),
            Balance::Random => Some(&endpoints[balance::two_of(endpoints.len(), chance).0]).filter(good),
            Balance::RingHash(_) => None,
        }
    }

    fn choose(&self, ask: &Ask<'_>, scratch: &mut Scratch) -> Option<usize> {
        let Ask { settings, set, key, chance, now, .. } = *ask;
        let Scratch { eligible, candidates, keyed, weights } = scratch;
        let endpoints = eligible.iter().map(|&place| &set.endpoints[place]);
        let known = |endpoint: &Endpoint| endpoint.candidate(settings.slow_start, now);
        let all = endpoints.clone();
        let candidates = move || {
            candidates.clear();
            candidates.extend(all.map(|endpoint| known(endpoint)));
            candidates as &[Candidate]
        };
        match &settings.balance {
            Balance::RoundRobin if settings.shard.is_some() => {
                weights.clear();
                weights.extend(
                    eligible.iter().map(|&place| (place as u64, known(&set.endpoints[place]).weight)),
                );
                self.parts.borrow_mut().next(set.endpoints.len(), weights)
            }
            Balance::RoundRobin => {
                weights.clear();
                weights.extend(endpoints.map(|endpoint| (endpoint.id, known(endpoint).weight)));
                self.robin.borrow_mut().next(weights)
            }
            Balance::LeastRequest => balance::least_request(candidates(), chance),
            Balance::PeakEwma => balance::peak_ewma(candidates(), chance),
            Balance::Random => balance::random(candidates(), chance),
            Balance::RingHash(_) => {
                // By address, not by id: all nodes and all restarts agree.
                keyed.clear();
                keyed.extend(endpoints.map(|endpoint| (address_key(endpoint), known(endpoint))));
                balance::consistent(keyed, key)
            }
        }
    }
}

pub(crate) fn address_key(endpoint: &Endpoint) -> u64 {
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::endpoint::Admin;
    use crate::settings::EndpointSettings;
    use crate::settings::tests::upstream;

    fn set(count: u16) -> EndpointSet {
        let listed: Vec<_> = (1..=count)
            .map(|port| EndpointSettings { address: ([127, 0, 0, 1], port).into(), weight: 1 })
            .collect();
        EndpointSet::default().update(&listed, |_| Admin::Enabled, Tick(1))
    }

    fn ask<'a>(settings: &'a UpstreamSettings, set: &'a EndpointSet, chance: u64, now: Tick) -> Ask<'a> {
        Ask { settings, set, tried: &[], key: 0, tenant: 0, chance, now }
    }

    /// Who is picked how often in so many picks by each way to choose but ring hash; a twentieth of a second apart, or all
    /// at once.
    fn check(set: &EndpointSet, tried: &[u64], picks: u64, apart: u64, holds: impl Fn(&HashMap<u64, usize>)) {
        for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::PeakEwma, Balance::Random] {
            let (picker, settings) = (Picker::default(), UpstreamSettings { balance, ..upstream("app") });
            let mut counts = HashMap::new();
            for step in 0..picks {
                let now = Tick(1_000 + step * apart);
                let ask = Ask { tried, ..ask(&settings, set, balance::mix(step), now) };
                let pick = picker.pick(&ask).expect("one is there");
                assert!(!pick.is_panic());
                *counts.entry(pick.endpoint.id).or_default() += 1;
            }
            holds(&counts);
        }
    }

    #[test]
    fn each_of_many_gets_its_share_whether_all_are_looked_at_or_two() {
        for apart in [0, 50_000_000] {
            check(&set(20), &[], 4_000, apart, |counts| {
                assert_eq!(counts.len(), 20);
                assert!(counts.values().all(|count| (120..280).contains(count)), "{counts:?}");
            });
        }
    }

    #[test]
    fn what_is_unusable_drained_or_tried_is_not_picked_however_few_are_looked_at() {
        let set = set(12);
        set.endpoints[3].set_admin(Admin::Draining, Tick(1));
        set.endpoints[4].busy_for(Duration::from_secs(60), Tick(1));
        let tried = [set.endpoints[5].id, set.endpoints[6].id];
        let never: Vec<u64> = set.endpoints[3..7].iter().map(|endpoint| endpoint.id).collect();
        check(&set, &tried, 2_000, 100_000, |counts| {
            assert!(never.iter().all(|id| !counts.contains_key(id)), "{counts:?}");
            assert_eq!(counts.len(), 8);
        });
    }

    #[test]
    fn round_robin_takes_turns_among_many() {
        let (picker, set, settings) = (Picker::default(), set(10), upstream("app"));
        let picked: Vec<u64> = (0..21)
            .map(|_| picker.pick(&ask(&settings, &set, 0, Tick(1_000))).unwrap().endpoint.id)
            .collect();
        // The first look is at all of them.
        assert_eq!(picked[1..11], picked[11..21]);
        assert_eq!(picked[1..11].iter().collect::<std::collections::HashSet<_>>().len(), 10);
    }

    #[test]
    fn many_that_fail_are_noticed_soon_and_then_all_are_used() {
        let (picker, set, settings) = (Picker::default(), set(10), upstream("app"));
        let pick = |now: Tick| picker.pick(&ask(&settings, &set, balance::mix(now.0), now)).unwrap();
        assert!(!pick(Tick(1_000)).is_panic());
        set.endpoints[..6].iter().for_each(|one| one.busy_for(Duration::from_secs(60), Tick(1_000)));
        let later = Tick(1_000).after(BELIEVED);
        assert!(pick(later).is_panic());
    }
}
