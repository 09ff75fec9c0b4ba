//! What was heard of each sender, so that nothing is heard twice: the window of RFC 4303 section 3.4.3 (IPsec), for each
//! process that has the secret.
//!
//! A sender numbers what it says. Of each the highest number is remembered and which of those just below were heard; what
//! is older than the window, or said too long ago, is not heard at all. So no list of all that was said is needed, and a
//! sender may be forgotten as soon as whatever it said is too old by its time. What was said before this process began is
//! not heard either: it might have been heard by the one before.

use std::collections::HashMap;

/// How far two nodes' clocks may be apart, with the way between them, in milliseconds.
pub const APART_MS_MAX: u64 = 30_000;
/// Numbers below the highest that may still come: cores of one sender overtake each other.
const WINDOW: u64 = 4_096;
/// Processes that are remembered: each start of a node is one.
const SENDERS_MAX: usize = 1_024;

/// Why something is not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheard {
    /// It was said too long ago, or in the future: the clocks are apart, or somebody kept it.
    Time,
    /// It was heard before, or so many since that nobody knows.
    Again,
    /// There are too many senders to remember one more.
    Crowded,
}

/// What was heard.
#[derive(Debug)]
pub struct Heard {
    /// When it began to hear, in milliseconds of the civil clock.
    began_ms: u64,
    senders: HashMap<u64, Sender>,
}

#[derive(Debug)]
struct Sender {
    highest: u64,
    /// A bit for each number of the window, by its rest.
    seen: Box<[u64; (WINDOW / 64) as usize]>,
    /// The latest time at which it said something.
    sent_ms: u64,
}

impl Heard {
    /// Nothing was heard yet.
    #[must_use]
    pub fn new(now_ms: u64) -> Heard {
        Heard { began_ms: now_ms, senders: HashMap::new() }
    }

    /// Hears what was sealed, unless it is not to be heard. To be asked only of what has a good seal: a stranger must
    /// not make us remember it.
    ///
    /// # Errors
    /// Why not.
    pub fn hear(&mut self, sender: u64, number: u64, sent_ms: u64, now_ms: u64) -> Result<(), Unheard> {
        if sent_ms.abs_diff(now_ms) > APART_MS_MAX || sent_ms < self.began_ms {
            return Err(Unheard::Time);
        }
        if !self.senders.contains_key(&sender) {
            self.make_room(now_ms)?;
        }
        let made = || Sender { highest: 0, seen: Box::new([0; (WINDOW / 64) as usize]), sent_ms };
        let held = self.senders.entry(sender).or_insert_with(made);
        held.sent_ms = held.sent_ms.max(sent_ms);
        held.hear(number)
    }

    fn make_room(&mut self, now_ms: u64) -> Result<(), Unheard> {
        if self.senders.len() >= SENDERS_MAX {
            // Whatever these said is refused for its time.
            self.senders.retain(|_, sender| sender.sent_ms.saturating_add(APART_MS_MAX) >= now_ms);
        }
        if self.senders.len() >= SENDERS_MAX { Err(Unheard::Crowded) } else { Ok(()) }
    }
}

impl Sender {
    fn hear(&mut self, number: u64) -> Result<(), Unheard> {
        if number > self.highest {
            // The places of those between them are of numbers that are too old now.
            let first = self.highest.saturating_add(1).max(number.saturating_sub(WINDOW - 1));
            (first..=number).for_each(|skipped| self.mark(skipped, false));
            self.highest = number;
        } else if self.highest - number >= WINDOW || self.is_marked(number) {
            return Err(Unheard::Again);
        }
        self.mark(number, true);
        Ok(())
    }

    fn is_marked(&self, number: u64) -> bool {
        let place = number % WINDOW;
        self.seen[(place / 64) as usize] >> (place % 64) & 1 == 1
    }

    fn mark(&mut self, number: u64, heard: bool) {
        let place = number % WINDOW;
        let word = &mut self.seen[(place / 64) as usize];
        *word = *word & !(1 << (place % 64)) | u64::from(heard) << (place % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_000_000;

    fn check(heard: &mut Heard, number: u64, sent_ms: u64, expected: Result<(), Unheard>) {
        assert_eq!(heard.hear(1, number, sent_ms, NOW), expected, "number {number} of {sent_ms}");
    }

    #[test]
    fn nothing_is_heard_twice() {
        let mut heard = Heard::new(0);
        for (number, expected) in [
            (5, Ok(())),
            (5, Err(Unheard::Again)),
            (4, Ok(())),
            (4, Err(Unheard::Again)),
            (5 + WINDOW, Ok(())),
            (5, Err(Unheard::Again)),
            (6, Ok(())),
            (3, Err(Unheard::Again)),
        ] {
            check(&mut heard, number, NOW, expected);
        }
        assert_eq!(heard.hear(2, 5, NOW, NOW), Ok(()), "another sender has numbers of its own");
    }

    #[test]
    fn what_was_said_at_another_time_or_before_this_process_began_is_not_heard() {
        let mut heard = Heard::new(NOW - 10);
        check(&mut heard, 1, NOW - 11, Err(Unheard::Time));
        check(&mut heard, 1, NOW + APART_MS_MAX + 1, Err(Unheard::Time));
        check(&mut heard, 1, NOW - 10, Ok(()));
        let mut heard = Heard::new(0);
        check(&mut heard, 1, NOW - APART_MS_MAX - 1, Err(Unheard::Time));
        check(&mut heard, 1, NOW - APART_MS_MAX, Ok(()));
    }

    #[test]
    fn senders_have_a_bound_and_those_that_fell_silent_make_room() {
        let mut heard = Heard::new(0);
        for sender in 0..SENDERS_MAX as u64 {
            assert_eq!(heard.hear(sender, 1, NOW, NOW), Ok(()));
        }
        assert_eq!(heard.hear(u64::MAX, 1, NOW, NOW), Err(Unheard::Crowded));
        let later = NOW + APART_MS_MAX + 1;
        assert_eq!(heard.hear(u64::MAX, 1, later, later), Ok(()));
        assert_eq!(heard.senders.len(), 1);
        assert_eq!(heard.hear(3, 1, NOW, later), Err(Unheard::Time), "what is forgotten is too old");
    }

    proptest! {
        #[test]
        fn in_whatever_order_it_comes_each_is_heard_once_at_most(
            numbers in proptest::collection::vec(0u64..3 * WINDOW, 1..400),
        ) {
            let mut heard = Heard::new(0);
            let mut before = std::collections::HashSet::new();
            let mut highest = 0;
            for number in numbers {
                let accepted = heard.hear(1, number, NOW, NOW).is_ok();
                prop_assert!(!accepted || !before.contains(&number), "{number} twice");
                if !before.contains(&number) && highest < number + WINDOW {
                    // What is new and within the window is heard; zero is before all numbers.
                    prop_assert!(accepted || number == 0 && highest == 0, "{number} of {highest}");
                }
                highest = highest.max(number);
                if accepted {
                    before.insert(number);
                }
            }
        }
    }
}
