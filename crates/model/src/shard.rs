//! Shuffle sharding: which few of an upstream's endpoints serve a tenant.
//!
//! Each tenant has a set of its own, drawn from its id. Two tenants that share an endpoint seldom share all of them, so
//! that a tenant whose requests take endpoints down (a query that never ends, a body that crashes the application)
//! takes down its own few, and nearly everybody else keeps one that is well.
//!
//! The draw is weighted rendezvous: each endpoint has a score of its own for each tenant, and the highest win. That
//! makes it the same on every node and after every restart, and steady: an endpoint that goes is replaced where it was
//! a member, and nothing else changes; one that comes takes at most one place in a set. It is also exactly a weighted
//! draw without putting back (Efraimidis and Spirakis 2006).
//!
//! Pure. Who is well plays no part in the draw: a set that moved on from what its tenant has broken would
//! carry the poison through all endpoints.

use smallvec::SmallVec;

use crate::balance::{mix, unit};

/// The most endpoints of one set.
pub const SIZE_MAX: usize = 32;

/// Members of a set, as places in the list that it was drawn from; the highest score first.
pub type Places = SmallVec<[u16; 8]>;

/// What a set is drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// What names the endpoint on every node and after every restart.
    pub key: u64,
    /// Its share relative to others.
    pub weight: u32,
    /// Its place in the list that the caller knows it by.
    pub place: u16,
}

/// The key of a tenant.
#[must_use]
pub fn key_of(tenant: &str) -> u64 {
    let (words, rest) = tenant.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The length: what ends in zeros is not what ends before them.
    let key = words.iter().fold(tenant.len() as u64, |key, word| mix(key ^ u64::from_le_bytes(*word)));
    mix(key ^ u64::from_le_bytes(last))
}

/// The set of the tenant with this key: so many of these, or all of them if there are no more.
#[must_use]
pub fn members(key: u64, size: usize, from: &[Drawn]) -> Places {
    let size = size.min(SIZE_MAX);
    let mut best: SmallVec<[(f64, u16); 8]> = SmallVec::with_capacity(size + 1);
    for one in from {
        let score = score(key, one);
        let at = best.partition_point(|held| held.0 >= score);
        if at < size {
            best.insert(at, (score, one.place));
            best.truncate(size);
        }
    }
    best.into_iter().map(|(_, place)| place).collect()
}

/// The larger -weight / ln(h) wins, h in (0, 1).
fn score(key: u64, one: &Drawn) -> f64 {
    let hashed = unit(mix(key ^ mix(one.key))).clamp(1e-18, 1.0 - 1e-16);
    -f64::from(one.weight) / hashed.ln()
}

/// How many different sets there are: of so many tenants, one has the whole set of a given other one.
#[must_use]
pub fn distinct(endpoints: usize, size: usize) -> u64 {
    let size = size.min(endpoints.saturating_sub(size));
    let wider = (0..size as u128).try_fold(1u128, |sets, step| {
        // Exact at each step: the product of so many numbers in a row is a multiple of their count's factorial.
        Some(sets.checked_mul(endpoints as u128 - step)? / (step + 1))
    });
    wider.and_then(|sets| u64::try_from(sets).ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn even(count: u16) -> Vec<Drawn> {
        (0..count).map(|place| Drawn { key: 1000 + u64::from(place), weight: 1, place }).collect()
    }

    fn drawn(tenant: u64, size: usize, from: &[Drawn]) -> Vec<u16> {
        let mut places = members(key_of(&format!("tenant-{tenant}")), size, from).to_vec();
        places.sort_unstable();
        places
    }

    /// Draws the sets of so many tenants, and compares how many have 0, 1, … members in common with the first one's
    /// with what the combinations say: C(size, k) C(n - size, size - k) of C(n, size).
    fn check(count: u16, size: usize, seed: u64) {
        const TENANTS: u64 = 20_000;
        let from = even(count);
        let first = drawn(seed, size, &from);
        let mut overlaps = vec![0u64; size + 1];
        for tenant in 1..=TENANTS {
            let other = drawn(seed.wrapping_add(tenant), size, &from);
            overlaps[other.iter().filter(|place| first.contains(place)).count()] += 1;
        }
        let all = distinct(count.into(), size) as f64;
        for (common, &found) in overlaps.iter().enumerate() {
            let ways = distinct(size, common) * distinct(usize::from(count) - size, size - common);
            let expected = ways as f64 / all * TENANTS as f64;
            // Five standard deviations of a count, and a few for those that are next to none.
            let slack = 5.0 * expected.sqrt() + 5.0;
            assert!((found as f64 - expected).abs() < slack, "{common} in common: {found}, not {expected}");
        }
    }

    #[test]
    fn sets_overlap_as_combinations_say() {
        for (count, size) in [(8, 2), (8, 4), (12, 3), (100, 5), (5, 1)] {
            check(count, size, 7);
        }
    }

    #[test]
    fn counts_sets() {
        assert_eq!(distinct(8, 2), 28);
        assert_eq!(distinct(100, 5), 75_287_520);
        assert_eq!((distinct(5, 5), distinct(3, 5), distinct(0, 2)), (1, 1, 1));
        assert_eq!(distinct(4096, 32), u64::MAX);
    }

    #[test]
    fn each_endpoint_serves_its_share_of_the_tenants() {
        let from = even(10);
        let mut counts = BTreeMap::<u16, u32>::new();
        for tenant in 0..10_000 {
            drawn(tenant, 3, &from).into_iter().for_each(|place| *counts.entry(place).or_default() += 1);
        }
        // Three tenths of 10,000; the standard deviation is 46.
        assert!(counts.values().all(|count| (2770..3230).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_heavy_endpoint_serves_as_many_as_a_draw_without_putting_back_gives_it() {
        let weights = [1, 1, 2, 4];
        let from: Vec<Drawn> =
            even(4).into_iter().map(|one| Drawn { weight: weights[usize::from(one.place)], ..one }).collect();
        let mut counts = [0u32; 4];
        for tenant in 0..20_000 {
            drawn(tenant, 2, &from).into_iter().for_each(|place| counts[usize::from(place)] += 1);
        }
        for (place, &count) in counts.iter().enumerate() {
            let (own, all) = (f64::from(weights[place]), 8.0);
            let second: f64 = (0..4)
                .filter(|other| *other != place)
                .map(|other| f64::from(weights[other]) / all * own / (all - f64::from(weights[other])))
                .sum();
            let expected = (own / all + second) * 20_000.0;
            assert!((f64::from(count) - expected).abs() < 350.0, "{place}: {count}, not {expected}");
        }
    }

    #[test]
    fn tenants_have_keys_of_their_own() {
        let ids = [
            "",
            "a",
            "a\0",
            "acme",
            "acme2",
            "tenant-1",
            "tenant-10",
            "tenant-100",
            "ip:10.0.0.1",
            "ip:10.0.0.10",
        ];
        let keys: std::collections::HashSet<u64> = ids.iter().map(|id| key_of(id)).collect();
        assert_eq!(keys.len(), ids.len());
        // All nodes and all versions must agree: a change of this moves every tenant.
        assert_eq!(key_of("acme"), 6_654_217_065_479_530_137);
        assert_eq!(drawn(1, 3, &even(8)), [1, 6, 7]);
    }

    proptest! {
        #[test]
        fn an_endpoint_that_goes_is_replaced_and_nothing_else_changes(
            tenant in any::<u64>(), count in 2u16..40, size in 1usize..8, gone in any::<prop::sample::Index>(),
            weights in proptest::collection::vec(1u32..1000, 40),
        ) {
            let all: Vec<Drawn> = even(count)
                .into_iter()
                .map(|one| Drawn { weight: weights[usize::from(one.place)], ..one })
                .collect();
            let gone = gone.index(all.len()) as u16;
            let rest: Vec<Drawn> = all.iter().copied().filter(|one| one.place != gone).collect();
            let (before, after) = (drawn(tenant, size, &all), drawn(tenant, size, &rest));
            if before.contains(&gone) {
                let kept = before.iter().filter(|place| **place != gone).all(|place| after.contains(place));
                prop_assert!(kept, "{:?} became {:?}", before, after);
            } else {
                // Read the other way: one that comes and takes no place changes nothing, and else takes just one.
                prop_assert_eq!(before, after);
            }
        }

        #[test]
        fn a_set_has_as_many_members_as_it_should_each_once(tenant in any::<u64>(), count in 0u16..60, size in 1usize..60) {
            let mut set = drawn(tenant, size, &even(count));
            let length = set.len();
            set.dedup();
            prop_assert_eq!((set.len(), length), (length, size.min(usize::from(count)).min(SIZE_MAX)));
        }

        #[test]
        fn the_order_of_the_list_plays_no_part(tenant in any::<u64>(), count in 1u16..30) {
            let mut from = even(count);
            let forth = drawn(tenant, 3, &from);
            from.reverse();
            prop_assert_eq!(forth, drawn(tenant, 3, &from));
        }
    }
}
