//! Shards: which endpoints serve a tenant, remembered by each core.
//!
//! The draw looks at every endpoint, so what has come out of it is kept: a bounded table per core and upstream, of which
//! each tenant has two places. It is good for one version of the endpoint set and begins anew with the next. Endpoints that
//! an operator has drained or disabled are no members, and are replaced like those that have gone; ones that are unwell
//! stay members.

use std::net::SocketAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_model::shard::{self, Drawn, Places};
use tidegate_model::tick::Tick;

use crate::endpoint::{Endpoint, EndpointSet, EndpointStatus};
use crate::pick::address_key;
use crate::settings::{ShardSettings, WhenDown};
use crate::upstreams::Upstream;

/// The most tenants whose endpoints a core remembers, per upstream. A power of two.
const REMEMBERED_MAX: usize = 2048;

/// The endpoints that serve a tenant.
#[derive(Debug)]
pub(crate) struct Shard {
    key: u64,
    /// Their places in the set.
    pub places: Places,
    /// Their addresses, for the record.
    pub addresses: Arc<[SocketAddr]>,
}

/// What one core remembers of an upstream's shards.
#[derive(Debug, Default)]
pub(crate) struct Shards {
    /// The version of the set and the size of a shard that all of this is good for.
    good_for: (u64, usize),
    drawn: Vec<Drawn>,
    /// Two places for each key, side by side. Empty until the first is asked for.
    remembered: Vec<Option<Shard>>,
}

impl Shards {
    /// The shard of the tenant with this key.
    pub(crate) fn find(&mut self, set: &EndpointSet, size: usize, key: u64) -> &Shard {
        if self.remembered.is_empty() || self.good_for != (set.version, size) {
            self.good_for = (set.version, size);
            self.drawn = drawn(set);
            self.remembered.clear();
            self.remembered.resize_with(REMEMBERED_MAX, || None);
        }
        let pair = (key as usize % REMEMBERED_MAX) & !1;
        let is_it = |held: &Option<Shard>| held.as_ref().is_some_and(|held| held.key == key);
        let place = match [pair, pair + 1].into_iter().find(|&place| is_it(&self.remembered[place])) {
            Some(place) => place,
            None => {
                // The older of the two goes.
                self.remembered.swap(pair, pair + 1);
                let places = shard::members(key, size, &self.drawn);
                let addresses =
                    places.iter().map(|&place| set.endpoints[usize::from(place)].address).collect();
                self.remembered[pair] = Some(Shard { key, places, addresses });
                pair
            }
        };
        self.remembered[place].as_ref().expect("it was found or put there just now")
    }
}

/// What shards are drawn from.
fn drawn(set: &EndpointSet) -> Vec<Drawn> {
    let enabled = set.endpoints.iter().zip(0u16..).filter(|(endpoint, _)| endpoint.is_enabled());
    enabled.map(|(one, place)| Drawn { key: address_key(one), weight: one.weight(), place }).collect()
}

/// An upstream's shards as an operator sees them.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(deny_unknown_fields)]
pub struct ShardStatus {
    /// Endpoints that serve a tenant.
    pub size: usize,
    /// What becomes of a tenant none of whose endpoints is usable: `refuse` or `spill`.
    pub when_down: &'static str,
    /// How many different shards there are.
    pub distinct: u64,
    /// Calls refused because no endpoint of the tenant's shard was usable.
    pub refused: u64,
    /// Calls that left their tenant's shard because no endpoint of it was usable.
    pub spilled: u64,
}

impl ShardStatus {
    pub(crate) fn of(settings: ShardSettings, set: &EndpointSet, refused: u64, spilled: u64) -> ShardStatus {
        let endpoints = set.endpoints.iter().filter(|one| one.is_enabled()).count();
        ShardStatus {
            size: settings.size,
            when_down: match settings.when_down {
                WhenDown::Refuse => "refuse",
                WhenDown::Spill => "spill",
            },
            distinct: shard::distinct(endpoints, settings.size),
            refused,
            spilled,
        }
    }
}

impl Upstream {
    /// The endpoints that serve this tenant; `None`: the upstream has no shuffle sharding.
    #[must_use]
    pub fn shard_of(&self, tenant: &str, now: Tick) -> Option<Vec<EndpointStatus>> {
        let settings = self.settings();
        let set = self.endpoints();
        let places = shard::members(shard::key_of(tenant), settings.shard?.size, &drawn(&set));
        let endpoints = places.iter().map(|&place| &set.endpoints[usize::from(place)]);
        Some(endpoints.map(|one| one.status(settings.slow_start, now)).collect())
    }
}

/// When the first of a shard's endpoints may be usable again.
pub(crate) fn rest(set: &EndpointSet, shard: &Shard, now: Tick) -> std::time::Duration {
    let members = shard.places.iter().filter_map(|&place| set.endpoints.get(usize::from(place)));
    members.map(|one: &Arc<Endpoint>| one.rest(now)).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use tidegate_model::balance::mix;

    use super::*;
    use crate::endpoint::Admin;
    use crate::pick::{Ask, Pick, Picker};
    use crate::settings::tests::upstream;
    use crate::settings::{Balance, EndpointSettings, UpstreamSettings};

    const NOW: Tick = Tick(1_000);
    const LONG: Duration = Duration::from_secs(60);

    fn set(count: u16) -> EndpointSet {
        let listed: Vec<_> = (1..=count)
            .map(|port| EndpointSettings { address: ([127, 0, 0, 1], port).into(), weight: 1 })
            .collect();
        EndpointSet::default().update(&listed, |_| Admin::Enabled, Tick(1))
    }

    fn settings(size: usize, when_down: WhenDown) -> UpstreamSettings {
        UpstreamSettings { shard: Some(ShardSettings { size, when_down }), ..upstream("app") }
    }

    fn pick<'a>(
        picker: &Picker,
        settings: &'a UpstreamSettings,
        set: &'a EndpointSet,
        tenant: u64,
        chance: u64,
    ) -> Option<Pick<'a>> {
        let ask = Ask { settings, set, tried: &[], key: 0, tenant, chance: mix(chance), now: NOW };
        picker.pick(&ask)
    }

    /// The places that a tenant's calls go to by each way to choose, once its own endpoints are as `harm` makes them.
    fn check(
        size: usize,
        when_down: WhenDown,
        harm: impl Fn(&EndpointSet, &[u16]),
        holds: impl Fn(&[u16], Option<HashSet<u16>>, &str),
    ) {
        let tenant = shard::key_of("acme");
        for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::PeakEwma, Balance::Random] {
            let (picker, set) = (Picker::default(), set(8));
            let settings = UpstreamSettings { balance, ..settings(size, when_down) };
            let own = Shards::default().find(&set, size, tenant).places.to_vec();
            harm(&set, &own);
            let mut because = "";
            let places: Option<HashSet<u16>> = (0..200)
                .map(|chance| {
                    let pick = pick(&picker, &settings, &set, tenant, chance)?;
                    because = pick.because;
                    set.endpoints
                        .iter()
                        .zip(0u16..)
                        .find(|(one, _)| one.id == pick.endpoint.id)
                        .map(|one| one.1)
                })
                .collect();
            holds(&own, places, because);
        }
    }

    fn same(own: &[u16], places: &HashSet<u16>) -> bool {
        own.iter().copied().collect::<HashSet<_>>() == *places
    }

    fn hurt(set: &EndpointSet, places: &[u16]) {
        places.iter().for_each(|&place| set.endpoints[usize::from(place)].busy_for(LONG, NOW));
    }

    #[test]
    fn a_tenant_is_served_by_all_of_its_endpoints_and_by_no_other() {
        check(
            3,
            WhenDown::Refuse,
            |_, _| {},
            |own, places, _| assert!(same(own, &places.expect("one is there"))),
        );
    }

    #[test]
    fn what_is_down_is_passed_over_within_the_shard() {
        check(
            3,
            WhenDown::Refuse,
            |set, own| hurt(set, &own[1..]),
            |own, places, _| assert_eq!(places, Some(HashSet::from([own[0]]))),
        );
    }

    #[test]
    fn a_tenant_whose_endpoints_are_all_down_gets_no_other() {
        check(2, WhenDown::Refuse, hurt, |_, places, _| assert_eq!(places, None));
    }

    #[test]
    fn it_gets_the_others_where_the_settings_say_so() {
        check(2, WhenDown::Spill, hurt, |own, places, because| {
            let places = places.expect("one is there");
            assert!(own.iter().all(|place| !places.contains(place)) && places.len() == 6, "{places:?}");
            assert_eq!(because, "spill");
        });
    }

    #[test]
    fn in_a_panic_it_still_stays_with_its_own() {
        let all = |set: &EndpointSet, _: &[u16]| hurt(set, &[0, 1, 2, 3, 4, 5, 6, 7]);
        check(2, WhenDown::Refuse, all, |own, places, because| {
            assert!(same(own, &places.expect("one is there")));
            assert_eq!(because, "panic");
        });
    }

    #[test]
    fn what_was_tried_is_tried_again_before_the_shard_is_left() {
        let (picker, set, settings) = (Picker::default(), set(8), settings(1, WhenDown::Spill));
        let first = pick(&picker, &settings, &set, 7, 0).expect("one is there").endpoint.id;
        let ask =
            Ask { settings: &settings, set: &set, tried: &[first], key: 0, tenant: 7, chance: 1, now: NOW };
        assert_eq!(picker.pick(&ask).expect("one is there").endpoint.id, first);
    }

    #[test]
    fn one_that_is_drained_is_replaced_and_the_others_stay() {
        let (before, tenant) = (set(8), shard::key_of("acme"));
        let mut shards = Shards::default();
        let own = shards.find(&before, 3, tenant).places.to_vec();
        before.endpoints[usize::from(own[0])].set_admin(Admin::Draining, NOW);
        let after = shards.find(&before.renewed(), 3, tenant).places.to_vec();
        assert!(!after.contains(&own[0]) && after.len() == 3);
        assert!(own[1..].iter().all(|place| after.contains(place)), "{own:?} became {after:?}");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_right() {
        let (set, mut shards) = (set(20), Shards::default());
        for round in 0..2 {
            for tenant in 0..3 * REMEMBERED_MAX as u64 {
                let key = mix(tenant);
                let expected = shard::members(key, 4, &drawn(&set));
                assert_eq!(shards.find(&set, 4, key).places, expected, "round {round}");
            }
        }
        assert_eq!(shards.remembered.len(), REMEMBERED_MAX);
    }

    #[test]
    fn two_tenants_that_meet_in_the_table_are_both_remembered() {
        let (set, mut shards) = (set(20), Shards::default());
        let (first, second) = (10, 10 + REMEMBERED_MAX as u64);
        let told = |shards: &mut Shards, key| Arc::as_ptr(&shards.find(&set, 4, key).addresses).cast::<u8>();
        let drawn = [told(&mut shards, first), told(&mut shards, second)];
        assert_eq!(drawn, [told(&mut shards, first), told(&mut shards, second)]);
    }
}
