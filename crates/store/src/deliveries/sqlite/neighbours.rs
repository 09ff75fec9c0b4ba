//! Ids that lie beside each other, at hand: before a delivery is accepted it is asked whether there is one with its id, and
//! to ask the table for each costs a good part of what it costs to write one.
//!
//! What always holds: of a neighbourhood that is known, all ids that there are are known; some may be known that there are no more.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use tidegate_model::delivery::Id;

use super::rows::halves;
use crate::deliveries::numbers::{ByNumber, Spread};

/// Ids of a neighbourhood that are known: beyond that the table is asked.
pub(super) const IDS_MAX: usize = 1_024;
/// Neighbourhoods that are known: each thread that draws ids is in one.
const NEIGHBOURHOODS_MAX: usize = 256;

/// The first halves of ids.
pub(super) type Highs = HashSet<i64, BuildHasherDefault<Spread>>;

/// Neighbourhoods, by what their ids share. `None`: there are too many of it.
#[derive(Debug, Default)]
pub(super) struct Neighbours(ByNumber<u32, Option<Highs>>);

impl Neighbours {
    /// Whether there is surely no such id.
    pub(super) fn lack(&self, id: Id) -> bool {
        matches!(self.0.get(&id.shared()), Some(Some(highs)) if !highs.contains(&halves(id).0))
    }

    /// There is this id now. `false`: nothing is known of its neighbourhood.
    pub(super) fn put(&mut self, id: Id) -> bool {
        let Some(known) = self.0.get_mut(&id.shared()) else { return false };
        if let Some(highs) = known {
            highs.insert(halves(id).0);
            if highs.len() > IDS_MAX {
                *known = None;
            }
        }
        true
    }

    /// In the neighbourhood of this id there are these; where they are more than [`IDS_MAX`], not all of them are here.
    pub(super) fn know(&mut self, id: Id, highs: Highs) {
        if self.0.len() >= NEIGHBOURHOODS_MAX {
            self.0.clear();
        }
        self.0.insert(id.shared(), (highs.len() <= IDS_MAX).then_some(highs));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An id of a neighbourhood.
    fn id(shared: u32, rest: u128) -> Id {
        Id(u128::from(shared) << 104 | rest << 64)
    }

    #[test]
    fn an_id_is_missed_where_its_neighbourhood_is_known_and_there_is_none_like_it() {
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.lack(id(7, 1)) && !neighbours.put(id(7, 1)));
        neighbours.know(id(7, 1), Highs::from_iter([halves(id(7, 1)).0]));
        assert!(!neighbours.lack(id(7, 1)) && neighbours.lack(id(7, 2)));
        assert!(neighbours.put(id(7, 2)) && !neighbours.lack(id(7, 2)));
        // One that differs in its second half alone may be there.
        assert!(!neighbours.lack(Id(id(7, 2).0 | 1)));
        assert!(!neighbours.lack(id(8, 2)));
    }

    #[test]
    fn of_a_neighbourhood_with_too_many_none_is_missed() {
        let mut neighbours = Neighbours::default();
        neighbours.know(id(1, 0), (0..=IDS_MAX as u128).map(|rest| halves(id(1, rest)).0).collect());
        assert!(neighbours.put(id(1, 1 << 30)) && !neighbours.lack(id(1, 1 << 31)));
        neighbours.know(id(2, 0), Highs::default());
        assert!(neighbours.lack(id(2, 1 << 31)));
        assert!((0..=IDS_MAX as u128).all(|rest| neighbours.put(id(2, rest))));
        assert!(!neighbours.lack(id(2, 1 << 31)));
    }

    #[test]
    fn so_many_neighbourhoods_are_known_and_no_more() {
        let mut neighbours = Neighbours::default();
        for shared in 0..10 * NEIGHBOURHOODS_MAX as u32 {
            neighbours.know(id(shared, 0), Highs::default());
            assert!(neighbours.0.len() <= NEIGHBOURHOODS_MAX && neighbours.lack(id(shared, 1)));
        }
    }
}
