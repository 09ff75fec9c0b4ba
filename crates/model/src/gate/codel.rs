//! Controlled delay: tells a burst, which a queue is for, from a queue that stands, which only makes everybody late.
//!
//! After CoDel (RFC 8289) as Facebook uses it for requests ("Fail at Scale", ACM Queue 2015): a queue whose oldest
//! waiter has been above a *target* for a whole *interval* is overloaded. While it is, the newest waiter is served
//! first, since somebody still waits for its answer, and one that has waited longer than the *limit* is dropped. It ends
//! when the oldest waiter is below the target again, or when nobody waits.
//!
//! It judges one queue. It drops nothing itself, and knows nothing of importance or of slots.

use std::time::Duration;

use crate::tick::Tick;

/// When a queue is overloaded, and what it drops then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// A wait that is no sign of trouble.
    pub target: Duration,
    /// How long the oldest must have been above the target.
    pub interval: Duration,
    /// The longest wait while overloaded.
    pub limit: Duration,
}

impl Terms {
    /// The terms for a queue in which one may wait so long, for a service that takes so long: a twentieth of the wait is
    /// no trouble, half of it is time enough to see trouble before the first waiter's time is over, a fifth is what one
    /// may wait while it lasts. But to wait for one service is no trouble whatever that takes, nor too long to wait for
    /// two: CoDel's target is no shorter than it takes to send a packet (RFC 8289 section 4.3).
    #[must_use]
    pub fn of(wait: Duration, service: Duration) -> Terms {
        Terms {
            target: service.max(wait / 20),
            interval: wait / 2,
            limit: service.saturating_mul(2).max(wait / 5),
        }
    }
}

/// The judgement on one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codel {
    above_since: Option<Tick>,
    overloaded: bool,
}

impl Codel {
    /// The oldest waiter has waited so long.
    pub fn observe(&mut self, terms: &Terms, oldest: Duration, now: Tick) {
        if oldest <= terms.target {
            *self = Codel::default();
            return;
        }
        let since = *self.above_since.get_or_insert(now);
        self.overloaded |= now.since(since) >= terms.interval;
    }

    /// Nobody waits any more.
    pub fn emptied(&mut self) {
        *self = Codel::default();
    }

    /// Whether the queue stands.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.overloaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WAIT: Duration = Duration::from_millis(200);
    const SERVICE: Duration = Duration::from_millis(1);

    /// Observes `(milliseconds, the oldest's wait in milliseconds)`, then expects this judgement.
    fn check(observed: &[(u64, u64)], overloaded: bool) {
        let mut codel = Codel::default();
        for &(at, oldest) in observed {
            codel.observe(&Terms::of(WAIT, SERVICE), Duration::from_millis(oldest), Tick(at * 1_000_000));
        }
        assert_eq!(codel.is_overloaded(), overloaded, "{observed:?}");
    }

    #[test]
    fn a_burst_that_drains_within_the_interval_is_no_overload() {
        check(&[(0, 60), (50, 60), (99, 60)], false);
        check(&[(0, 60), (50, 10), (120, 60)], false);
    }

    #[test]
    fn a_queue_that_stands_for_an_interval_is_overloaded() {
        check(&[(0, 11), (50, 40), (100, 40)], true);
    }

    #[test]
    fn overload_ends_when_the_oldest_is_below_the_target() {
        check(&[(0, 40), (100, 40), (101, 10)], false);
        check(&[(0, 40), (100, 40), (101, 10), (102, 40)], false);
    }

    #[test]
    fn overload_ends_when_nobody_waits() {
        let mut codel = Codel::default();
        for at in [0, 100] {
            codel.observe(&Terms::of(WAIT, SERVICE), WAIT, Tick(at * 1_000_000));
        }
        assert!(codel.is_overloaded());
        codel.emptied();
        assert!(!codel.is_overloaded());
    }

    proptest! {
        #[test]
        fn is_overloaded_only_after_a_whole_interval_above_the_target(
            steps in proptest::collection::vec((0u64..40, 0u64..30), 1..60),
        ) {
            let (terms, mut codel, mut now) = (Terms::of(WAIT, SERVICE), Codel::default(), Tick(0));
            let mut above = Vec::new();
            for (step, oldest) in steps {
                now = now.after(Duration::from_millis(step));
                codel.observe(&terms, Duration::from_millis(oldest), now);
                if oldest <= 10 { above.clear() } else { above.push(now) }
                let stood = above.first().is_some_and(|&first| now.since(first) >= terms.interval);
                prop_assert_eq!(codel.is_overloaded(), stood);
            }
        }
    }
}
