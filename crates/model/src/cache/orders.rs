//! Purges on every node: what one node purges, it orders from all others, through one log that all of them read.
//!
//! ```text
//! purge here --- at once ---> marks
//!      '------- Outbox ------> log (Redis) --- read by every node, in one order ---> marks, Reading
//! ```
//!
//! The log gives each order a [`Place`], and places only grow. A node marks what it reads in the order of the log; for each
//! place it remembers the number that its own marks had then ([`Reading`]). So what another node stored can be compared with
//! the marks of this one: the entry tells a place, the place has a number here, and what was marked since is known.
//!
//! A node's own orders are marked twice: when they are issued, and again when they come back in the log, so that no entry
//! that another node asked for in between is taken for newer. Until then they are *unseen*, and what they name is not read
//! from where others store.
//!
//! Nothing here is unbounded. An outbox that overflows becomes one order that makes everything stale; places that are
//! forgotten are older than all that is known. Both purge too much, never too little.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use crate::cache::purge::{Label, Purge};

/// Own orders that have been read back and are issued again if the log turns out to have lost something.
const RECENT_MAX: usize = 1_024;
/// The largest text of an order.
const TEXT_MAX: usize = 128;

/// Where an order stands in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Milliseconds since 1970, by the clock of who keeps the log. It never goes back.
    pub millis: u64,
    /// The number within the millisecond.
    pub number: u64,
}

/// A place, and of which log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// What tells one log from another; zero: none.
    pub log: u64,
    /// Where.
    pub place: Place,
}

impl Place {
    /// Reads `MILLIS-NUMBER`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Place> {
        let (millis, number) = text.split_once('-')?;
        Some(Place { millis: millis.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.millis, self.number)
    }
}

/// What all nodes are to purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What.
    pub label: Label,
    /// How.
    pub purge: Purge,
}

impl Order {
    /// What is ordered when it is not known any more what was: all that there is, and it may stand in for an upstream.
    pub const ALL: Order = Order { label: Label::EVERYTHING, purge: Purge::Soft };
}

/// An entry of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who wrote it.
    pub node: u64,
    /// Its number among those of its node; they grow.
    pub number: u64,
    /// What it orders; `None`: nothing, it only makes a place.
    pub order: Option<Order>,
}

impl Entry {
    /// One line of text, `1 NODE NUMBER hard|soft|none LABEL`. The first number is the form's.
    #[must_use]
    pub fn text(&self) -> String {
        let Entry { node, number, order } = self;
        match order {
            None => format!("1 {node:016x} {number} none"),
            Some(Order { label, purge }) => {
                let how = if *purge == Purge::Hard { "hard" } else { "soft" };
                format!("1 {node:016x} {number} {how} {:032x}", label.number())
            }
        }
    }

    /// Reads it. What cannot be read may have ordered anything, and so orders all.
    #[must_use]
    pub fn parse(text: &str) -> Entry {
        Entry::parse_known(text).unwrap_or(Entry { node: 0, number: 0, order: Some(Order::ALL) })
    }

    fn parse_known(text: &str) -> Option<Entry> {
        let mut words = text.get(..text.len().min(TEXT_MAX))?.split(' ');
        let mut word = || words.next();
        if word()? != "1" {
            return None;
        }
        let node = u64::from_str_radix(word()?, 16).ok()?;
        let number = word()?.parse().ok()?;
        let purge = match word()? {
            "none" => return Some(Entry { node, number, order: None }),
            "hard" => Purge::Hard,
            "soft" => Purge::Soft,
            _ => return None,
        };
        let label = Label::numbered(u128::from_str_radix(word()?, 16).ok()?);
        Some(Entry { node, number, order: Some(Order { label, purge }) })
    }
}

/// What this node has ordered and not yet read back from the log.
#[derive(Debug)]
pub struct Outbox {
    /// The number of the next order.
    next: u64,
    /// Not yet in the log, as far as is known.
    waiting: VecDeque<(u64, Order)>,
    /// In the log, and not yet read back.
    sent: VecDeque<(u64, Order)>,
    /// Read back.
    recent: VecDeque<Order>,
    /// The newest order of each label that was not read back.
    unseen: HashMap<Label, (u64, Purge)>,
    /// Up to this number they were handed out to be sent.
    taken: u64,
    /// Up to this number they were read back.
    seen: u64,
    most: usize,
    overflowed: u64,
}

impl Outbox {
    /// Nothing is ordered; at most so many orders are kept.
    #[must_use]
    pub fn new(most: usize) -> Outbox {
        Outbox {
            next: 1,
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            recent: VecDeque::new(),
            unseen: HashMap::new(),
            taken: 0,
            seen: 0,
            most: most.max(1),
            overflowed: 0,
        }
    }

    /// Orders it. An order that one that still waits says already is not said again.
    pub fn issue(&mut self, order: Order) {
        let said = |(number, purge): &(u64, Purge)| {
            *number > self.taken && (*purge == Purge::Hard || order.purge == Purge::Soft)
        };
        if self.unseen.get(&order.label).is_some_and(said) {
            return;
        }
        if self.unseen.len() >= self.most || self.waiting.len() >= self.most {
            self.overflowed += 1;
            self.waiting.clear();
            self.sent.clear();
            self.unseen.clear();
            self.add(Order::ALL);
        } else {
            self.add(order);
        }
    }

    fn add(&mut self, order: Order) {
        let number = self.next;
        self.next += 1;
        self.waiting.push_back((number, order));
        let newest = self.unseen.entry(order.label).or_insert((number, order.purge));
        // Of a label that stands twice, the stronger order counts until the later one is seen.
        let purge = if newest.1 == Purge::Hard { Purge::Hard } else { order.purge };
        *newest = (number, purge);
    }

    /// The next orders to be written to the log, at most so many. They stay until [`Outbox::sent`].
    pub fn take(&mut self, most: usize) -> Vec<(u64, Order)> {
        let taken: Vec<_> = self.waiting.iter().take(most).copied().collect();
        self.taken = taken.last().map_or(self.taken, |(number, _)| self.taken.max(*number));
        taken
    }

    /// They are in the log, up to this number.
    pub fn sent(&mut self, number: u64) {
        while let Some(order) = self.waiting.front().copied()
            && order.0 <= number
        {
            self.waiting.pop_front();
            // What was written may be read back before whoever wrote it hears so.
            if order.0 > self.seen {
                self.sent.push_back(order);
            }
        }
    }

    /// One was read back from the log.
    pub fn seen(&mut self, number: u64, order: Order) {
        self.seen = self.seen.max(number);
        while self.sent.front().is_some_and(|(sent, _)| *sent <= number) {
            self.sent.pop_front();
        }
        if self.unseen.get(&order.label).is_some_and(|(newest, _)| *newest <= number) {
            self.unseen.remove(&order.label);
        }
        self.recent.push_back(order);
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }

    /// The log was left in the middle: what is not known to be in it is written again.
    pub fn again(&mut self) {
        while let Some(order) = self.sent.pop_back() {
            self.waiting.push_front(order);
        }
    }

    /// The log has lost something: what was ordered lately is ordered again. Others may not have read it.
    pub fn repeat(&mut self) {
        self.again();
        for order in std::mem::take(&mut self.recent) {
            self.issue(order);
        }
    }

    /// Whether an order that was not yet read back names one of these.
    #[must_use]
    pub fn names(&self, mut labels: impl Iterator<Item = Label>) -> bool {
        !self.unseen.is_empty() && labels.any(|label| self.unseen.contains_key(&label))
    }

    /// Orders that wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How often there were too many, so that everything was made stale instead.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

/// How far this node has read the log, and what its own marks were then.
#[derive(Debug)]
pub struct Reading {
    /// Each place, and the number of the newest mark after it. Both grow.
    places: VecDeque<(Place, u64)>,
    most: usize,
}

impl Reading {
    /// Nothing has been read; at most so many places are remembered.
    #[must_use]
    pub fn new(most: usize) -> Reading {
        Reading { places: VecDeque::new(), most: most.max(1) }
    }

    /// It begins anew.
    pub fn clear(&mut self) {
        self.places.clear();
    }

    /// An order was read at this place; after it, `newest` was the number for what is asked for then.
    pub fn read(&mut self, place: Place, newest: u64) {
        if self.last().is_some_and(|last| last >= place) {
            return;
        }
        self.places.push_back((place, newest));
        if self.places.len() > self.most {
            self.places.pop_front();
        }
    }

    /// How far it has been read.
    #[must_use]
    pub fn last(&self) -> Option<Place> {
        self.places.back().map(|(place, _)| *place)
    }

    /// What had been read when `made` was the newest number. `None`: too long ago, or nothing.
    #[must_use]
    pub fn place_of(&self, made: u64) -> Option<Place> {
        let after = self.places.partition_point(|(_, newest)| *newest <= made);
        self.places.get(after.checked_sub(1)?).map(|(place, _)| *place)
    }

    /// The number for what was asked for when another node had read up to this place. `None`: what was purged since is
    /// not known any more.
    #[must_use]
    pub fn made_at(&self, place: Place) -> Option<u64> {
        let after = self.places.partition_point(|(read, _)| *read <= place);
        self.places.get(after.checked_sub(1)?).map(|(_, newest)| *newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Wall;
    use crate::cache::key::Key;
    use crate::cache::purge::{Marks, Standing, labels};
    use proptest::prelude::*;

    fn hard(host: &str) -> Order {
        Order { label: Label::host(host), purge: Purge::Hard }
    }

    fn soft(host: &str) -> Order {
        Order { label: Label::host(host), purge: Purge::Soft }
    }

    /// What an outbox hands out after these were issued.
    fn check(outbox: &mut Outbox, issued: &[Order], expected: &[Order]) {
        issued.iter().for_each(|order| outbox.issue(*order));
        let taken: Vec<Order> = outbox.take(99).into_iter().map(|(_, order)| order).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn an_order_that_waits_is_not_said_twice_unless_it_is_stronger() {
        check(&mut Outbox::new(9), &[hard("a"), soft("a"), hard("a"), hard("b")], &[hard("a"), hard("b")]);
        check(&mut Outbox::new(9), &[soft("a"), hard("a"), soft("a")], &[soft("a"), hard("a")]);
    }

    #[test]
    fn an_order_that_is_being_sent_is_said_again() {
        let mut outbox = Outbox::new(9);
        check(&mut outbox, &[hard("a")], &[hard("a")]);
        check(&mut outbox, &[hard("a")], &[hard("a"), hard("a")]);
    }

    #[test]
    fn what_was_not_read_back_is_sent_again_after_a_break() {
        let mut outbox = Outbox::new(9);
        check(&mut outbox, &[hard("a"), hard("b")], &[hard("a"), hard("b")]);
        outbox.sent(2);
        check(&mut outbox, &[], &[]);
        outbox.seen(1, hard("a"));
        outbox.again();
        check(&mut outbox, &[hard("c")], &[hard("b"), hard("c")]);
    }

    #[test]
    fn what_was_read_back_is_ordered_again_once_the_log_has_lost_something() {
        let mut outbox = Outbox::new(9);
        check(&mut outbox, &[hard("a")], &[hard("a")]);
        outbox.sent(1);
        outbox.seen(1, hard("a"));
        outbox.again();
        check(&mut outbox, &[], &[]);
        outbox.repeat();
        check(&mut outbox, &[], &[hard("a")]);
    }

    #[test]
    fn what_is_read_back_before_its_writer_hears_that_it_is_written_is_ordered_again_once() {
        let mut outbox = Outbox::new(9);
        check(&mut outbox, &[hard("a")], &[hard("a")]);
        outbox.seen(1, hard("a"));
        outbox.sent(1);
        outbox.repeat();
        check(&mut outbox, &[], &[hard("a")]);
    }

    #[test]
    fn too_many_orders_become_one_that_makes_everything_stale() {
        let mut outbox = Outbox::new(2);
        check(&mut outbox, &[hard("a"), hard("b"), hard("c"), hard("d")], &[Order::ALL, hard("d")]);
        assert_eq!(outbox.overflowed(), 1);
        assert!(outbox.names(labels(None, "z", "/", Key(1), &[])), "everything is named");
    }

    #[test]
    fn names_what_was_not_read_back() {
        let mut outbox = Outbox::new(9);
        let names = |outbox: &Outbox| outbox.names(labels(None, "a", "/", Key(1), &[]));
        assert!(!names(&outbox));
        check(&mut outbox, &[hard("a")], &[hard("a")]);
        outbox.issue(hard("a"));
        outbox.seen(1, hard("a"));
        assert!(names(&outbox), "the second was not");
        outbox.seen(2, hard("a"));
        assert!(!names(&outbox));
    }

    #[test]
    fn an_entry_reads_as_it_was_written() {
        for order in [None, Some(hard("a")), Some(soft("b")), Some(Order::ALL)] {
            let entry = Entry { node: 0xfeed, number: 7, order };
            assert_eq!(Entry::parse(&entry.text()), entry);
        }
    }

    #[test]
    fn an_entry_that_cannot_be_read_orders_everything() {
        for text in ["", "2 0 1 none", "1 0 1 harder 00", "1 0 1 hard zz", "1 0 1 hard", "1 é", "\u{7}"] {
            assert_eq!(Entry::parse(text).order, Some(Order::ALL), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reading(text in ".{0,300}") {
            let _ = (Entry::parse(&text), Place::parse(&text));
        }

        /// Two nodes, one log. Each step: a node purges, its next order comes into the log, a node reads one more. What one
        /// node stores for the other, the other never serves if either's purge, made before the storing or the serving,
        /// should have kept it from that, and the log has brought it, or it was the other's own.
        #[test]
        fn what_is_stored_for_others_is_compared_with_every_mark(
            steps in proptest::collection::vec((0u8..3, any::<bool>(), 0u8..3), 1..60),
            asks_at in 0usize..60,
        ) {
            let order = |host: u8| hard(&host.to_string());
            let mut nodes = [Node::new(), Node::new()];
            let (mut log, mut asked) = (Vec::<(usize, u64, Order)>::new(), None);
            // When the latest purge of each host was issued that each node knows of.
            let mut known = [[None::<usize>; 3]; 2];
            for (time, (step, second, host)) in steps.iter().enumerate() {
                if time == asks_at.min(steps.len() - 1) {
                    asked = nodes[0].reading.place_of(nodes[0].marks.newest()).map(|place| (place, time));
                }
                let (at, host) = (usize::from(*second), *host);
                match step {
                    0 => {
                        nodes[at].issue(order(host), host, time);
                        known[at][usize::from(host)] = Some(time);
                    }
                    1 => if let Some((number, order)) = nodes[at].outbox.take(1).first().copied() {
                        nodes[at].outbox.sent(number);
                        log.push((at, number, order));
                    },
                    _ => if let Some((from, number, _)) = nodes[at].read(at, &log) {
                        let of = |issued: &&(u64, u8, usize)| issued.0 == number;
                        if let Some((_, host, when)) = nodes[from].issued.iter().find(of).copied() {
                            let latest = &mut known[at][usize::from(host)];
                            *latest = (*latest).max(Some(when));
                        }
                    },
                }
                let Some((place, since)) = asked else { continue };
                for host in 0..3u8 {
                    let label = order(host).label;
                    let served = nodes[1].reading.made_at(place).is_some_and(|made| {
                        !nodes[1].outbox.names(std::iter::once(label))
                            && nodes[1].marks.standing(made, std::iter::once(label)) == Standing::Good
                    });
                    let purged = known[1][usize::from(host)].is_some_and(|when| when >= since);
                    prop_assert!(!(served && purged), "host {} at {}", host, time);
                }
            }
        }
    }

    struct Node {
        marks: Marks,
        outbox: Outbox,
        reading: Reading,
        read: usize,
        /// The number of each order, its host, and when it was issued.
        issued: Vec<(u64, u8, usize)>,
    }

    impl Node {
        fn new() -> Node {
            let (outbox, mut reading, marks) = (Outbox::new(99), Reading::new(99), Marks::new(999));
            reading.read(Place::default(), marks.newest());
            Node { marks, outbox, reading, read: 0, issued: Vec::new() }
        }

        fn issue(&mut self, order: Order, host: u8, time: usize) {
            self.marks.purge(order.label, order.purge, Wall(1));
            let number = self.outbox.next;
            self.outbox.issue(order);
            if self.outbox.next > number {
                self.issued.push((number, host, time));
            }
        }

        /// Reads one more entry of the log; tells which.
        fn read(&mut self, own: usize, log: &[(usize, u64, Order)]) -> Option<(usize, u64, Order)> {
            let (from, number, order) = *log.get(self.read)?;
            self.marks.purge(order.label, order.purge, Wall(1));
            if from == own {
                self.outbox.seen(number, order);
            }
            self.read += 1;
            self.reading.read(Place { millis: self.read as u64, number: 0 }, self.marks.newest());
            Some((from, number, order))
        }
    }
}
