//! What is known in memory of one line: a window on its ready deliveries, the first ones by rank. The rest is on disk.
//!
//! What always holds: of all that is ready up to the *cursor*, each is in the window, held, or begun, unless it came while
//! more was told than could be: then all is looked at anew. Where nothing lies beyond the cursor, `more` is false.

use std::collections::BTreeMap;

use tidegate_model::delivery::Seq;
use tidegate_store::deliveries::Ready;

use super::share::Share;

/// The order within a line.
pub type Place = (i64, Seq);

/// Where a delivery stands in its line.
pub fn place(ready: &Ready) -> Place {
    (ready.rank, ready.seq)
}

/// What was read of a line.
#[derive(Debug)]
pub struct Found {
    /// What can be begun of it.
    pub ready: Vec<Ready>,
    /// How far it was read.
    pub last: Option<Place>,
    /// Whether there is more.
    pub more: bool,
}

/// A line.
#[derive(Debug)]
pub struct Shelf {
    pub share: Share,
    window: BTreeMap<Place, Ready>,
    cursor: Option<Place>,
    more: bool,
    loading: bool,
    /// What came while something was read from disk: whether that has it nobody knows.
    meanwhile: Vec<Ready>,
    /// More came than is remembered, or was missed.
    missed: bool,
    /// Deliveries whose key has to wait.
    pub held: usize,
    /// The order in which lines began to have something.
    pub began: u64,
}

impl Shelf {
    /// A line; `more`: something of it may be on disk.
    pub fn new(share: Share, more: bool) -> Shelf {
        Shelf {
            share,
            window: BTreeMap::new(),
            cursor: None,
            more,
            loading: false,
            meanwhile: Vec::new(),
            missed: false,
            held: 0,
            began: 0,
        }
    }

    /// Deliveries in memory.
    pub fn len(&self) -> usize {
        self.window.len() + self.meanwhile.len() + self.held
    }

    /// Whether something can be begun.
    pub fn has_any(&self) -> bool {
        !self.window.is_empty()
    }

    /// Whether it is to be forgotten: there is nothing of it, neither here nor on disk nor under way.
    pub fn is_over(&self) -> bool {
        self.len() == 0 && !self.more && !self.loading && self.share.holding == 0
    }

    /// One may be begun now. Of a window that would hold more than so many, the last goes.
    pub fn put(&mut self, ready: Ready, most: usize) {
        let beyond = self.more && self.cursor.is_none_or(|cursor| place(&ready) > cursor);
        // Who has nothing else here does not wait until it was looked whether there is more.
        if !beyond || self.cursor.is_none() && self.window.is_empty() {
            self.window.insert(place(&ready), ready);
            self.shorten(most);
        } else if self.loading && self.meanwhile.len() < most {
            self.meanwhile.push(ready);
        } else if self.loading {
            self.missed = true;
        }
    }

    fn shorten(&mut self, most: usize) {
        while self.window.len() > most {
            self.window.pop_last();
            // Where nothing is known of what is on disk, that stays so.
            if self.cursor.is_some() || !self.more {
                self.cursor = self.window.last_key_value().map(|(&last, _)| last);
            }
            self.more = true;
        }
    }

    /// The first.
    pub fn first(&self) -> Option<&Ready> {
        self.window.first_key_value().map(|(_, ready)| ready)
    }

    /// Takes the first.
    pub fn take(&mut self) -> Option<Ready> {
        self.window.pop_first().map(|(_, ready)| ready)
    }

    /// It cannot be begun any more. `true`: it was in the window.
    pub fn remove(&mut self, seq: Seq) -> bool {
        let before = self.window.len();
        self.window.retain(|&(_, held), _| held != seq);
        self.meanwhile.retain(|ready| ready.seq != seq);
        self.window.len() < before
    }

    /// What is to be read from disk, if it runs low: what comes after this.
    pub fn wants(&self, low: usize) -> Option<Option<Place>> {
        (self.more && !self.loading && self.window.len() <= low).then_some(self.cursor)
    }

    /// It is being read.
    pub fn loads(&mut self) {
        self.loading = true;
    }

    /// It was read; `None`: it could not be.
    pub fn loaded(&mut self, found: Option<Found>, most: usize) {
        self.loading = false;
        let (meanwhile, missed) = (std::mem::take(&mut self.meanwhile), std::mem::take(&mut self.missed));
        if let Some(Found { ready: found, last, more }) = found {
            self.cursor = self.cursor.max(last);
            self.more = more;
            self.window.extend(found.into_iter().map(|ready| (place(&ready), ready)));
            if more && let Some(cursor) = self.cursor {
                // What lies between is not known: whoever came before it would be passed over.
                self.window.retain(|&held, _| held <= cursor);
            }
        }
        meanwhile.into_iter().for_each(|ready| self.put(ready, most));
        if missed {
            self.look_anew();
        }
        self.shorten(most);
    }

    /// Something may have been missed, anywhere in it.
    pub fn look_anew(&mut self) {
        (self.cursor, self.more) = (None, true);
        // What is being read may have begun behind what was missed.
        self.missed |= self.loading;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;
    use crate::scheduler::tests::ready as one;

    /// The line as it is on disk.
    #[derive(Default)]
    struct Disk(BTreeSet<Place>);

    impl Disk {
        fn read(&self, after: Option<Place>, most: usize) -> Found {
            let ready: Vec<Ready> = (self.0.iter())
                .filter(|&&place| after.is_none_or(|after| place > after))
                .take(most)
                .map(|&(rank, seq)| one("q", "t", seq.0, rank))
                .collect();
            Found { last: ready.last().map(place), more: ready.len() == most, ready }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn all_that_is_on_disk_is_begun_once(steps in proptest::collection::vec((0..6_u8, -20..20_i64), 1..200)) {
            const MOST: usize = 4;
            let (mut disk, mut shelf, mut next) = (Disk::default(), Shelf::new(Share::new(1, 0), true), 0);
            let mut reading: Option<Found> = None;
            let mut begun = BTreeSet::new();
            // In the end it is quiet, and what is left is read and begun.
            for (step, rank) in steps.into_iter().chain((0..600).flat_map(|_| [(4, 0), (5, 0), (3, 0)])) {
                match step {
                    0 | 1 => {
                        next += 1;
                        disk.0.insert((rank, Seq(next)));
                        shelf.put(one("q", "t", next, rank), MOST);
                    }
                    // Appended, and the news of it were lost; told so.
                    2 => {
                        next += 1;
                        disk.0.insert((rank, Seq(next)));
                        shelf.look_anew();
                    }
                    3 => if let Some(ready) = shelf.take() && disk.0.remove(&place(&ready)) {
                        prop_assert!(begun.insert(ready.seq));
                    },
                    4 => if reading.is_none() && let Some(after) = shelf.wants(1) {
                        shelf.loads();
                        reading = Some(disk.read(after, MOST));
                    },
                    _ => if let Some(found) = reading.take() {
                        shelf.loaded(Some(found), MOST);
                    },
                }
                prop_assert!(shelf.len() <= 2 * MOST + 1, "{}", shelf.len());
            }
            prop_assert_eq!(begun.len() as u64, next);
            prop_assert!(shelf.is_over());
        }
    }

    #[test]
    fn one_that_comes_before_the_window_enters_it_and_the_last_goes() {
        let mut shelf = Shelf::new(Share::new(1, 0), true);
        shelf.loads();
        let found = vec![one("q", "t", 1, 10), one("q", "t", 2, 20)];
        shelf.loaded(Some(Found { ready: found, last: Some((20, Seq(2))), more: true }), 2);
        shelf.put(one("q", "t", 3, 5), 2);
        shelf.put(one("q", "t", 4, 15), 2);
        let seqs: Vec<u64> = std::iter::from_fn(|| shelf.take()).map(|ready| ready.seq.0).collect();
        assert_eq!(seqs, [3, 1]);
        assert_eq!(shelf.wants(0), Some(Some((10, Seq(1)))));
    }
}
