//! What authorizers have said: remembered by all cores for as long as it counts, asked for once at a time on each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_model::access::authorize::Verdict;
use tidegate_model::tick::Tick;
use tokio::sync::Notify;

use crate::remembered::Remembered;

/// Half of the verdicts that are remembered.
const HALF: usize = 4 * 1024;
/// The most bytes of one that is.
const BYTES_MAX: usize = 4 * 1024;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The authorizer said yes.
    Allowed,
    /// It said no.
    Denied,
    /// What it said before still counted.
    Remembered,
    /// It failed, and the request was refused.
    Failed,
    /// It failed, and the request went on all the same.
    Open,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 5] =
        [Outcome::Allowed, Outcome::Denied, Outcome::Remembered, Outcome::Failed, Outcome::Open];

    /// Its name in log and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::Denied => "denied",
            Outcome::Remembered => "remembered",
            Outcome::Failed => "failed",
            Outcome::Open => "open",
        }
    }
}

/// A verdict, and until when it counts.
type Held = (Arc<Verdict>, Tick);

/// What the authorizers of the process have said. Survives a reload: a question has the authorizer's settings in its key.
#[derive(Debug)]
pub struct Verdicts {
    remembered: Remembered<Held>,
    counts: [AtomicU64; Outcome::ALL.len()],
}

impl Default for Verdicts {
    fn default() -> Verdicts {
        Verdicts { remembered: Remembered::new(HALF), counts: Default::default() }
    }
}

impl Verdicts {
    /// What was said, if it still counts.
    #[must_use]
    pub fn find(&self, key: &[u8; 32], now: Tick) -> Option<Arc<Verdict>> {
        let (verdict, until) = self.remembered.find(key)?;
        (now < until).then_some(verdict)
    }

    /// Remembers what was said. What is large is not.
    pub fn keep(&self, key: [u8; 32], verdict: &Arc<Verdict>, until: Tick) {
        if verdict.bytes() <= BYTES_MAX {
            self.remembered.keep(key, (Arc::clone(verdict), until));
        }
    }

    /// Counts what became of a question.
    pub fn count(&self, outcome: Outcome) {
        self.counts[outcome as usize].fetch_add(1, Relaxed);
    }

    /// What has become of questions, in the order of [`Outcome::ALL`].
    #[must_use]
    pub fn counts(&self) -> [u64; Outcome::ALL.len()] {
        self.counts.each_ref().map(|count| count.load(Relaxed))
    }
}

/// Questions that are being asked on one core.
#[derive(Default)]
pub struct Flights(RefCell<HashMap<[u8; 32], Weak<Notify>>>);

/// Whether a question is asked already.
pub enum Flight<'a> {
    /// It is now asked by us, until this is dropped.
    Ours(Asking<'a>),
    /// It is asked; this tells when that has ended.
    Others(Rc<Notify>),
}

/// That a question is being asked. Dropped, whoever waits for its answer looks again.
pub struct Asking<'a> {
    flights: &'a Flights,
    key: [u8; 32],
    ended: Rc<Notify>,
}

impl Flights {
    /// Joins whoever asks this already, or is the first to ask.
    pub fn join(&self, key: [u8; 32]) -> Flight<'_> {
        let mut flights = self.0.borrow_mut();
        if let Some(ended) = flights.get(&key).and_then(Weak::upgrade) {
            return Flight::Others(ended);
        }
        let ended = Rc::<Notify>::default();
        flights.insert(key, Rc::downgrade(&ended));
        Flight::Ours(Asking { flights: self, key, ended })
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.flights.0.borrow_mut().remove(&self.key);
        self.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;
    use tidegate_model::fields::Fields;

    use super::*;

    #[test]
    fn a_verdict_counts_until_its_time_has_come_and_a_large_one_is_not_kept() {
        let verdicts = Verdicts::default();
        let denied = |bytes| {
            Arc::new(Verdict::denied(StatusCode::FORBIDDEN, Fields::default(), Bytes::from(vec![0; bytes])))
        };
        verdicts.keep([1; 32], &denied(10), Tick(100));
        assert!(verdicts.find(&[1; 32], Tick(99)).is_some());
        assert!(verdicts.find(&[1; 32], Tick(100)).is_none());
        verdicts.keep([2; 32], &denied(BYTES_MAX), Tick(100));
        assert!(verdicts.find(&[2; 32], Tick(1)).is_none());
    }

    #[test]
    fn whoever_asks_the_same_waits_for_the_first_and_another_is_first_when_that_has_gone() {
        let flights = Flights::default();
        let Flight::Ours(first) = flights.join([1; 32]) else { panic!("nobody asks yet") };
        assert!(matches!(flights.join([1; 32]), Flight::Others(_)));
        assert!(matches!(flights.join([2; 32]), Flight::Ours(_)));
        drop(first);
        assert!(matches!(flights.join([1; 32]), Flight::Ours(_)));
        assert!(flights.0.borrow().is_empty(), "nothing is left of those that have ended");
    }
}
