//! Who makes the deliveries of which shard, where several nodes share a store: what this node takes and gives away.
//!
//! ```text
//!            free, and this node has fewer than its part          it has more than its part, and
//!            (or nobody took it for some looks)                   somebody has fewer
//! not here ---------------------------------------------> here ------------------------------------> given away
//!    ^                                                      |
//!    '------- another took it over: fenced <----------------'
//! ```
//!
//! What always holds: what is decided here may be wrong, as it is decided on what was read a moment ago; the store alone says
//! whose a shard is. Of a store that is not shared everything is taken, and nothing looked at.
//!
//! What it does not do: it moves no shard because one has more to do than another, and elects nobody.

use tidegate_store::deliveries::{Leader, Roll, Who};

/// Looks after which a shard that nobody took is taken by whoever sees it.
const FREE_MAX: u32 = 5;
/// Looks for which nothing is given away after something was: whoever is to take it has to be seen with it first.
pub const REST: u32 = 3;
/// The same after something could not be, as what is under way takes long.
pub const LONG_REST: u32 = 60;

/// Shards, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shards(pub u64);

impl Shards {
    /// All of so many.
    pub fn all(count: u16) -> Shards {
        Shards(if count >= 64 { u64::MAX } else { (1 << count) - 1 })
    }

    /// This one.
    pub fn one(shard: u16) -> Shards {
        Shards(1_u64.checked_shl(u32::from(shard)).unwrap_or_default())
    }

    pub fn has(self, shard: u16) -> bool {
        self.0 & Shards::one(shard).0 != 0
    }

    fn add(&mut self, shard: u16) {
        self.0 |= Shards::one(shard).0;
    }

    /// Those that are in both.
    pub fn and(self, other: Shards) -> Shards {
        Shards(self.0 & other.0)
    }

    /// Each of them, from this one on and then from the first.
    pub fn from(self, first: u16) -> impl Iterator<Item = u16> {
        let first = first % 64;
        (first..64).chain(0..first).filter(move |&shard| self.has(shard))
    }
}

/// What this node does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rota {
    /// It makes the deliveries of these, or tries to.
    pub take: Shards,
    /// It gives these away, once nothing of them is under way.
    pub give: Shards,
}

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub struct Looks {
    /// For how many looks each was nobody's.
    free: Vec<u32>,
    /// For how many more nothing is given away.
    rests: u32,
}

impl Looks {
    /// What follows from who has which now.
    pub fn look(&mut self, roll: &Roll) -> Rota {
        let most = part(roll.shards.len(), roll.nodes);
        self.free.resize(roll.shards.len(), 0);
        let (mut rota, mut here) = (Rota::default(), Vec::new());
        for Leader { shard, who, .. } in &roll.shards {
            let free = self.free.get_mut(usize::from(*shard));
            match who {
                Who::Here => {
                    here.push(*shard);
                    rota.take.add(*shard);
                    free.into_iter().for_each(|free| *free = 0);
                }
                Who::Elsewhere(_) => free.into_iter().for_each(|free| *free = 0),
                Who::Nobody => free.into_iter().for_each(|free| *free = free.saturating_add(1)),
            }
        }
        let nobodys = roll.shards.iter().filter(|one| one.who == Who::Nobody).map(|one| one.shard);
        let mut room = most.saturating_sub(here.len());
        for shard in nobodys {
            let waited = self.free.get(usize::from(shard)).is_some_and(|looks| *looks > FREE_MAX);
            if room > 0 || waited {
                room = room.saturating_sub(1);
                rota.take.add(shard);
            }
        }
        self.rests = self.rests.saturating_sub(1);
        if let Some(last) = here.last().filter(|_| here.len() > most && self.rests == 0) {
            rota.give.add(*last);
        }
        rota
    }

    /// One was given away, or could not be for now.
    pub fn rest(&mut self, looks: u32) {
        self.rests = looks;
    }
}

/// How many of so many shards each of so many nodes has at most.
fn part(shards: usize, nodes: u32) -> usize {
    shards.div_ceil(usize::try_from(nodes.max(1)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `.`: nobody's, `h`: here, else another's.
    fn roll(nodes: u32, shards: &str) -> Roll {
        let leader = |(shard, letter)| Leader {
            shard: u16::try_from(shard).unwrap(),
            epoch: 1,
            who: match letter {
                '.' => Who::Nobody,
                'h' => Who::Here,
                other => Who::Elsewhere(other.to_string().into()),
            },
        };
        Roll { nodes, shards: shards.chars().enumerate().map(leader).collect() }
    }

    fn check(nodes: u32, shards: &str, take: &[u16], give: &[u16]) {
        let rota = Looks::default().look(&roll(nodes, shards));
        let (taken, given): (Vec<u16>, Vec<u16>) = (rota.take.from(0).collect(), rota.give.from(0).collect());
        assert_eq!((&*taken, &*given), (take, give), "{nodes} {shards}");
    }

    #[test]
    fn who_is_alone_takes_all_and_several_take_their_parts() {
        check(1, "....", &[0, 1, 2, 3], &[]);
        check(1, ".", &[0], &[]);
        check(2, "....", &[0, 1], &[]);
        check(2, "bb..", &[2, 3], &[]);
        check(2, "b", &[], &[]);
        check(2, ".", &[0], &[]);
        check(3, "h...", &[0, 1], &[]);
        check(0, "..", &[0, 1], &[]);
    }

    #[test]
    fn who_has_more_than_its_part_gives_one_away_after_the_other() {
        check(2, "hhhh", &[0, 1, 2, 3], &[3]);
        check(2, "hhhb", &[0, 1, 2], &[2]);
        check(2, "hhbb", &[0, 1], &[]);
        check(2, "hhb", &[0, 1], &[]);
        let mut looks = Looks::default();
        assert_eq!(looks.look(&roll(2, "hhhh")).give, Shards::one(3));
        looks.rest(REST);
        assert_eq!(looks.look(&roll(2, "hhhb")).give, Shards::default(), "it rests");
        for _ in 1..REST {
            looks.look(&roll(2, "hhhb"));
        }
        assert_eq!(looks.look(&roll(2, "hhhb")).give, Shards::one(2));
    }

    #[test]
    fn what_nobody_takes_is_taken_beyond_the_part() {
        let mut looks = Looks::default();
        for _ in 0..FREE_MAX {
            assert_eq!(looks.look(&roll(2, "hh..")).take, Shards(0b11));
        }
        assert_eq!(looks.look(&roll(2, "hh..")).take, Shards(0b1111));
        assert_eq!(looks.look(&roll(2, "hhb.")).take, Shards(0b1011));
        assert_eq!(looks.look(&roll(2, "hhbb")).take, Shards(0b11));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Nodes that look about as often come to have their parts, in whatever order they look, and then nothing moves any more.
        #[test]
        fn nodes_come_to_have_their_parts(
            nodes in 1_u32..6,
            shards in 1_usize..20,
            firsts in prop::collection::vec(0_u32..6, 40),
        ) {
            let mut owners: Vec<Option<u32>> = vec![None; shards];
            let mut looks: Vec<Looks> = (0..nodes).map(|_| Looks::default()).collect();
            let mut moved = 0;
            for round in 0..700 {
                let first = firsts[round % firsts.len()];
                for node in (first..first + nodes).map(|node| node % nodes) {
                    let leader = |(shard, owner): (usize, &Option<u32>)| Leader {
                        shard: shard as u16,
                        epoch: 1,
                        who: match owner {
                            None => Who::Nobody,
                            Some(owner) if *owner == node => Who::Here,
                            Some(_) => Who::Elsewhere("other".into()),
                        },
                    };
                    let all = owners.iter().enumerate().map(leader).collect();
                    // The first is there alone for a while.
                    let there = if round < 3 { 1 } else { nodes };
                    if round < 3 && node != 0 {
                        continue;
                    }
                    let rota = looks[node as usize].look(&Roll { nodes: there, shards: all });
                    for (shard, owner) in owners.iter_mut().enumerate() {
                        if owner.is_none() && rota.take.has(shard as u16) {
                            (*owner, moved) = (Some(node), round);
                        } else if rota.give.has(shard as u16) {
                            (*owner, moved) = (None, round);
                            looks[node as usize].rest(REST);
                        }
                    }
                }
            }
            let has = |node| owners.iter().filter(|owner| **owner == Some(node)).count();
            prop_assert!((0..nodes).all(|node| has(node) <= part(shards, nodes)), "{:?}", owners);
            prop_assert!(moved < 690, "it does not come to rest");
        }
    }

    #[test]
    fn shards_are_told_from_any_on() {
        assert_eq!(Shards(0b1011).from(1).collect::<Vec<_>>(), [1, 3, 0]);
        assert_eq!(
            (Shards::all(64), Shards::all(3), Shards::one(70)),
            (Shards(u64::MAX), Shards(7), Shards(0))
        );
    }
}
