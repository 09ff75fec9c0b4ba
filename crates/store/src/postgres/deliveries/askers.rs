//! Who asks for a turn of a key, the first of them: so that a turn that is given back goes on without a question, however
//! many keys a batch has.

use std::collections::BTreeSet;

use tidegate_model::delivery::Seq;
use tidegate_model::delivery::lane::Place;

use super::desk::Desk;
use super::known::Keyed;
use crate::deliveries::rows::{Row, Unnamed};
use crate::deliveries::tables::{Fault, Hints};

/// Who asks for a turn of one key that are kept in mind.
const KEPT_MAX: usize = 256;

/// The first who ask for a turn of a key, by turn and place.
#[derive(Debug, Default)]
pub(super) struct Askers {
    first: BTreeSet<(i64, Seq)>,
    /// Whether these are all.
    whole: bool,
}

impl Askers {
    pub(super) fn new(first: BTreeSet<(i64, Seq)>, whole: bool) -> Askers {
        Askers { first, whole }
    }

    fn add(&mut self, one: (i64, Seq)) {
        if self.whole || self.first.last().is_some_and(|last| one < *last) {
            self.first.insert(one);
        }
        if self.first.len() > KEPT_MAX {
            self.first.pop_last();
            self.whole = false;
        }
    }

    /// So many of them. `None`: they are not known.
    fn first(&self, most: usize) -> Option<Vec<Seq>> {
        let known = self.whole || self.first.len() >= most;
        known.then(|| self.first.iter().take(most).map(|(_, seq)| *seq).collect())
    }
}

/// For a turn of what a delivery asks, and when it is its own.
pub(super) fn asks(row: &Row) -> Option<(Keyed, (i64, Seq))> {
    let lane = row.record.lane.as_ref().filter(|_| row.place == Some(Place::Asks))?;
    Some(((row.line, lane.key.clone()), (row.turn()?, row.record.seq)))
}

impl Desk {
    /// A delivery asks no more as it did before, or asks now.
    pub(super) fn heed_asking(&mut self, before: Option<&Row>, after: Option<&Row>) {
        let (before, after) = (before.and_then(asks), after.and_then(asks));
        if before == after {
            return;
        }
        if let Some((key, place)) = before
            && let Some(askers) = self.known.askers.get_mut(&key)
        {
            askers.first.remove(&place);
        }
        if let Some((key, place)) = after {
            if self.pending.new_lines.contains(&key.0) {
                let all = || Askers { first: BTreeSet::new(), whole: true };
                self.known.askers.entry(key.clone()).or_insert_with(all);
            }
            if let Some(askers) = self.known.askers.get_mut(&key) {
                askers.add(place);
            }
        }
    }

    /// The first who ask for a turn of a key: where they are.
    pub(super) fn first_asking(&mut self, key: &Keyed, most: usize) -> Result<Vec<Seq>, Fault> {
        if !self.known.askers.contains_key(key) && self.pending.new_lines.contains(&key.0) {
            return Ok(Vec::new());
        }
        if let Some(first) = self.known.askers.get(key).and_then(|askers| askers.first(most)) {
            return Ok(first);
        }
        self.fetch_askers(key, most)?;
        Ok(self.known.askers.get(key).and_then(|askers| askers.first(most)).unwrap_or_default())
    }

    pub(super) fn asking_rows(&mut self, key: &Keyed, most: usize) -> Result<Vec<Unnamed>, Fault> {
        let seqs = self.first_asking(key, most)?;
        self.fetch(&Hints { seqs: seqs.clone(), ..Hints::default() })?;
        let known = seqs.iter().filter_map(|seq| self.known.rows.get(seq)?.as_ref());
        Ok(known.map(|entry| Unnamed(entry.row.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of the first two, after one of this turn was added to some.
    fn check(turns: &[i64], whole: bool, more: i64, expected: Option<&[u64]>) {
        let all = turns.iter().map(|turn| (*turn, Seq(*turn as u64))).collect();
        let mut askers = Askers::new(all, whole);
        askers.add((more, Seq(more as u64)));
        let first = askers.first(2).map(|first| first.iter().map(|seq| seq.0).collect::<Vec<_>>());
        assert_eq!(first.as_deref(), expected);
    }

    #[test]
    fn who_comes_behind_those_that_are_known_is_not_known_unless_they_are_all() {
        check(&[1], true, 2, Some(&[1, 2]));
        check(&[1], false, 2, None);
        check(&[3], false, 2, Some(&[2, 3]));
        check(&[1, 3], false, 4, Some(&[1, 3]));
        check(&[], true, 4, Some(&[4]));
        check(&[], false, 4, None);
    }

    #[test]
    fn no_more_are_kept_in_mind_than_may_be() {
        let mut askers = Askers::new(BTreeSet::new(), true);
        (0..1000).for_each(|turn| askers.add((turn, Seq(turn as u64))));
        assert_eq!(askers.first.len(), KEPT_MAX);
        assert_eq!(askers.first(KEPT_MAX + 1), None);
    }
}
