//! Nodes that know each other: which of them is the home of a key, and what they say to each other.
//!
//! A node that finds nothing of a target in its own tiers asks the target's *home* before the upstream, so that the
//! upstream is asked once for the whole cluster. The home is drawn by weighted rendezvous ([`crate::shard`]) among the
//! nodes that are up: it is the same on every node that has the same list, and when a node goes, its keys alone move.
//!
//! ```text
//! asker --- Ask, sealed ([`seal`], [`ask`]) ---> home: is it one of ours, and new ([`heard`])?
//!       <--- "still asking" ... Told, sealed ([`told`]), then the content as it comes
//! ```
//!
//! Pure. What comes from a peer is read as foreign bytes: each length is looked at before it is believed.

pub mod ask;
mod bytes;
pub mod heard;
pub mod seal;
pub mod told;

use smallvec::SmallVec;

use crate::balance::mix;
use crate::cache::key::Key;
use crate::shard::{self, Drawn};

/// The most nodes of a cluster.
pub const NODES_MAX: usize = 64;

/// What names a node in the draw: the same wherever it has the same name.
#[must_use]
pub fn node_key(name: &str) -> u64 {
    shard::key_of(name)
}

/// The place of a key's home among these nodes; `None`: none of them is up.
#[must_use]
pub fn home(key: Key, nodes: impl IntoIterator<Item = u64>, is_up: impl Fn(usize) -> bool) -> Option<usize> {
    let drawn = nodes.into_iter().enumerate().filter(|(place, _)| is_up(*place));
    let drawn: SmallVec<[Drawn; 8]> = drawn
        .map(|(place, key)| Drawn { key, weight: 1, place: u16::try_from(place).unwrap_or(u16::MAX) })
        .collect();
    let target = mix(key.0 as u64 ^ mix((key.0 >> 64) as u64));
    shard::members(target, 1, &drawn).first().map(|place| usize::from(*place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(count: usize) -> Vec<u64> {
        (0..count).map(|number| node_key(&format!("10.0.0.{number}:7400"))).collect()
    }

    /// The homes of many keys among these nodes, but for those that are down.
    fn check(nodes: &[u64], down: &[usize]) -> Vec<Option<usize>> {
        let up = |place: usize| !down.contains(&place);
        (0..200u128)
            .map(|number| home(Key(number * 0x9e37_79b9_7f4a_7c15_f39c), nodes.iter().copied(), up))
            .collect()
    }

    #[test]
    fn where_no_node_is_up_there_is_no_home() {
        assert_eq!(home(Key(1), [], |_| true), None);
        assert_eq!(home(Key(1), nodes(3), |_| false), None);
    }

    #[test]
    fn each_node_is_the_home_of_about_as_many() {
        let homes = check(&nodes(4), &[]);
        for node in 0..4 {
            let count = homes.iter().filter(|home| **home == Some(node)).count();
            assert!((25..=75).contains(&count), "node {node} has {count} of 200");
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let (list, turned) = (nodes(5), nodes(5).into_iter().rev().collect::<Vec<_>>());
        let turned = check(&turned, &[]).into_iter().map(|home| home.map(|home| 4 - home));
        assert!(check(&list, &[]).into_iter().eq(turned));
    }

    proptest! {
        #[test]
        fn when_a_node_goes_its_keys_alone_move(count in 2usize..12, gone in 0usize..12) {
            let (nodes, gone) = (nodes(count), gone % count);
            for (before, after) in check(&nodes, &[]).into_iter().zip(check(&nodes, &[gone])) {
                prop_assert!(after != Some(gone));
                if before != Some(gone) {
                    prop_assert_eq!(before, after);
                }
            }
        }
    }
}
