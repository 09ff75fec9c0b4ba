//! When this node has purged: by that, what another node was answered is compared with its purges.
//!
//! A home tells how long ago it asked for what it has. Counted back from now, on this node's own clock, that is a moment to
//! which a number among the purges of this node belongs ([`Reading`], with times for places); and what is purged since,
//! by whomever, is compared by label as everything is. No list of purges is exchanged for it and no clocks are
//! compared; it holds for purges that came through Redis, from a peer, and for this node's own, alike. The price is
//! [`APART_MS`]: what a home asks for within so long after a purge is not yet told from what it had before.

use parking_lot::Mutex;
use tidegate_model::cache::orders::{Place, Reading};
use tidegate_model::tick::Tick;

/// What ages in whole seconds may be wrong by, together.
const APART_MS: u64 = 2_000;
/// Purges whose time is remembered: as many as there are marks.
const TIMES_MAX: usize = 65_536;

/// The times of this node's purges.
#[derive(Debug)]
pub struct PurgeTimes(Mutex<Reading>);

impl PurgeTimes {
    /// Before all purges the newest number was this.
    #[must_use]
    pub fn new(newest: u64) -> PurgeTimes {
        let mut times = Reading::new(TIMES_MAX);
        times.read(Place::default(), newest);
        PurgeTimes(Mutex::new(times))
    }

    /// Something was purged just now; `newest` is the number for what is asked for then.
    pub fn purged(&self, now: Tick, newest: u64) {
        self.0.lock().read(place(now.0 / 1_000_000), newest);
    }

    /// The number for what was asked for so many seconds ago. `None`: that is longer than is remembered.
    #[must_use]
    pub fn made(&self, ago: u32, now: Tick) -> Option<u64> {
        let ago_ms = u64::from(ago).saturating_mul(1_000).saturating_add(APART_MS);
        self.0.lock().made_at(place((now.0 / 1_000_000).saturating_sub(ago_ms)))
    }
}

fn place(millis: u64) -> Place {
    Place { millis, number: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// The number that something has which was asked for so long before a minute after the process began, with purges at
    /// these seconds.
    fn check(purged: &[u64], ago: u32, expected: Option<u64>) {
        let (times, zero) = (PurgeTimes::new(1), Tick(0));
        for (number, second) in purged.iter().enumerate() {
            times.purged(zero.after(Duration::from_secs(*second)), number as u64 + 2);
        }
        assert_eq!(times.made(ago, zero.after(Duration::from_secs(60))), expected, "{ago} s ago");
    }

    #[test]
    fn what_was_asked_for_before_a_purge_has_a_number_below_it() {
        check(&[], 5, Some(1));
        check(&[20, 40], 50, Some(1));
        check(&[20, 40], 30, Some(2));
        check(&[20, 40], 10, Some(3));
    }

    #[test]
    fn what_cannot_be_told_from_what_was_there_before_counts_as_that() {
        check(&[40], 20, Some(1));
        check(&[40], 19, Some(1));
        check(&[40], 18, Some(2));
        check(&[40, 40], 18, Some(2));
    }

    #[test]
    fn what_is_older_than_all_that_is_remembered_has_none() {
        let times = PurgeTimes::new(1);
        for number in 0..=TIMES_MAX as u64 {
            times.purged(Tick(number * 1_000_000), number + 2);
        }
        assert_eq!(times.made(u32::MAX, Tick(TIMES_MAX as u64 * 1_000_000)), None);
    }
}
