//! What authorizers have said: remembered by all cores for as long as it counts, asked for once at a time on each.

use std::cell::RefCell;
use std::collections::{BinaryHeap, HashMap};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tidegate_model::access::authorize::Verdict;
use tidegate_model::tick::Tick;
use tokio::sync::Notify;

use crate::remembered::Remembered;

/// Half of the verdicts that are remembered of one tenant, where no other needs room.
const HALF: usize = 4 * 1024;
/// Verdicts of all tenants together.
const ALL_MAX: usize = 2 * HALF;
/// How many stay when there is no more room: whoever has most makes it.
const ALL_KEPT: usize = ALL_MAX / 8 * 7;
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
/// Each tenant has its own: one that asks for much crowds nobody out but itself.
#[derive(Debug, Default)]
pub struct Verdicts {
    tenants: papaya::HashMap<Arc<str>, Arc<Remembered<Held>>>,
    /// How many there are, or more: what was said once more counts again until they are counted.
    total: AtomicUsize,
    counts: [AtomicU64; Outcome::ALL.len()],
}

impl Verdicts {
    /// What was said of this tenant's request, if it still counts.
    #[must_use]
    pub fn find(&self, tenant: &str, key: &[u8; 32], now: Tick) -> Option<Arc<Verdict>> {
        let (verdict, until) = self.tenants.pin().get(tenant)?.find(key)?;
        (now < until).then_some(verdict)
    }

    /// Remembers what was said. What is large is not.
    pub fn keep(&self, tenant: &Arc<str>, key: [u8; 32], verdict: &Arc<Verdict>, until: Tick) {
        if verdict.bytes() > BYTES_MAX {
            return;
        }
        let tenants = self.tenants.pin();
        let own = tenants.get_or_insert_with(Arc::clone(tenant), || Arc::new(Remembered::new(HALF)));
        own.keep(key, (Arc::clone(verdict), until));
        if self.total.fetch_add(1, Relaxed) >= ALL_MAX {
            self.make_room();
        }
    }

    /// Counts them, and forgets what is too much, of those tenants that have most.
    fn make_room(&self) {
        let tenants = self.tenants.pin();
        let all = tenants.iter().map(|(tenant, own)| (own.len(), Arc::clone(tenant)));
        let mut all: BinaryHeap<(usize, Arc<str>)> = all.collect();
        let mut total: usize = all.iter().map(|(count, _)| count).sum();
        if total > ALL_MAX {
            while total > ALL_KEPT
                && let Some((count, tenant)) = all.pop()
            {
                let forgotten = tenants.get(&tenant).map_or(count, |own| own.forget_half()).min(count);
                total -= forgotten;
                match count - forgotten {
                    0 => drop(tenants.remove(&tenant)),
                    left => all.push((left, tenant)),
                }
            }
        }
        self.total.store(total, Relaxed);
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
        let me = Arc::from("me");
        verdicts.keep(&me, [1; 32], &denied(10), Tick(100));
        assert!(verdicts.find("me", &[1; 32], Tick(99)).is_some());
        assert!(verdicts.find("me", &[1; 32], Tick(100)).is_none());
        assert!(verdicts.find("you", &[1; 32], Tick(99)).is_none());
        verdicts.keep(&me, [2; 32], &denied(BYTES_MAX), Tick(100));
        assert!(verdicts.find("me", &[2; 32], Tick(1)).is_none());
    }

    #[test]
    fn a_tenant_that_asks_for_much_crowds_nobody_out_but_itself() {
        let verdicts = Verdicts::default();
        let verdict =
            Arc::new(Verdict::denied(StatusCode::FORBIDDEN, Fields::default(), Bytes::from_static(b"no")));
        let key = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            key
        };
        let others: Vec<Arc<str>> = (0..50).map(|n| Arc::from(format!("t{n}"))).collect();
        for other in &others {
            (0..20).for_each(|n| verdicts.keep(other, key(n), &verdict, Tick(9)));
        }
        let greedy = Arc::from("greedy");
        for n in 0..2 * ALL_MAX {
            verdicts.keep(&greedy, key(n), &verdict, Tick(9));
        }
        for other in &others {
            assert!((0..20).all(|n| verdicts.find(other, &key(n), Tick(1)).is_some()), "{other}");
        }
        assert!(verdicts.find("greedy", &key(2 * ALL_MAX - 1), Tick(1)).is_some());
        // Many tenants with little each are bounded as well.
        for n in 0..ALL_MAX + 100 {
            verdicts.keep(&Arc::from(format!("few{n}")), key(n), &verdict, Tick(9));
        }
        let held: usize = verdicts.tenants.pin().values().map(|own| own.len()).sum();
        assert!(held <= ALL_MAX + 1 && verdicts.tenants.len() <= ALL_MAX + 1, "{held}");
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
