//! What leaves comes before what arrives: which of those that wait to be accepted are in a round of the writing thread, and which
//! in a later one.
//!
//! Where some that have waited are begun, half as many are accepted: so it is fewer and fewer that wait, and each that comes
//! when none does costs less, as it is begun when it is accepted. Those who hand in more than that wait themselves.
//!
//! What always holds: who came first is the first, some are accepted in each round, nobody waits for more than some rounds, and
//! nothing is put off where nothing is begun.

use crate::deliveries::Tide;

/// Deliveries that are accepted in a round at least, where so many wait for that.
const ACCEPTED_MIN: usize = 16;
/// Rounds in a row in which something is put off.
const ROUNDS_MAX: u32 = 4;

/// What is to be accepted in a later round.
pub(crate) struct Later<T> {
    waiting: Vec<T>,
    /// In so many in a row something was put off.
    rounds: u32,
}

impl<T> Later<T> {
    pub(crate) fn new() -> Later<T> {
        Later { waiting: Vec::new(), rounds: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Of those that wait and those that have come, who is in this round.
    pub(crate) fn round(&mut self, come: Vec<T>, tide: impl Fn(&T) -> Tide) -> Vec<T> {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(come);
        if self.rounds < ROUNDS_MAX {
            self.waiting = put_off(&mut all, tide);
        }
        self.rounds = if self.waiting.is_empty() { 0 } else { self.rounds + 1 };
        all
    }
}

/// Takes out what is put off.
fn put_off<T>(all: &mut Vec<T>, tide: impl Fn(&T) -> Tide) -> Vec<T> {
    let goes = |one| if let Tide::Goes(count) = tide(one) { count } else { 0 };
    let begun: usize = all.iter().map(goes).sum();
    if begun == 0 {
        return Vec::new();
    }
    let (most, mut come) = ((begun / 2).max(ACCEPTED_MIN), 0);
    let is_later = |one: &mut T| {
        let Tide::Comes(count) = tide(one) else { return false };
        come += count;
        come > most && come > count
    };
    all.extract_if(.., is_later).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are accepted in a round in which so many are begun, of those who come with so many each.
    fn check(begun: &[usize], comes: usize, each: usize, expected: usize) {
        let mut come: Vec<_> = (0..comes).map(|number| (number, Tide::Comes(each))).collect();
        come.extend(begun.iter().map(|count| (comes, Tide::Goes(*count))));
        let mut later = Later::new();
        let now = later.round(come, |(_, tide)| *tide);
        let counts = (now.len() - begun.len(), later.waiting.len());
        assert_eq!(counts, (expected, comes - expected), "{begun:?} begun, {comes} come");
        let numbers: Vec<_> =
            now.iter().take(expected).chain(&later.waiting).map(|(number, _)| *number).collect();
        assert!(numbers.is_sorted(), "who came first is the first");
    }

    #[test]
    fn half_as_many_come_as_are_begun() {
        check(&[], 300, 1, 300);
        check(&[0, 0], 300, 1, 300);
        check(&[100, 60], 300, 1, 80);
        check(&[1], 300, 1, ACCEPTED_MIN);
        check(&[1], 5, 1, 5);
        check(&[40], 300, 10, 2);
        // One who brings more than may come is not kept waiting for ever.
        check(&[1], 3, 1000, 1);
    }

    #[test]
    fn nobody_waits_for_more_than_some_rounds() {
        let mut later = Later::new();
        let mut round = |come: Vec<Tide>| later.round(come, |tide| *tide).len();
        let first = [vec![Tide::Goes(1)], vec![Tide::Comes(1); 200]].concat();
        assert_eq!(round(first), 1 + ACCEPTED_MIN);
        for _ in 1..ROUNDS_MAX {
            assert_eq!(round(vec![Tide::Goes(1)]), 1 + ACCEPTED_MIN);
        }
        let rest = 200 - ROUNDS_MAX as usize * ACCEPTED_MIN;
        assert_eq!(round(vec![Tide::Goes(1), Tide::Comes(1)]), 2 + rest);
        assert_eq!(
            round([vec![Tide::Goes(1)], vec![Tide::Comes(1); 20]].concat()),
            1 + ACCEPTED_MIN,
            "and it begins anew"
        );
        assert_eq!(round(vec![Tide::Stands]), 1 + 4, "nothing is begun");
        assert!(later.is_empty());
    }
}
