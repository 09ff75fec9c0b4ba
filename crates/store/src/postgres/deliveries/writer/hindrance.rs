//! When a transaction that was in another's way is tried again.

use std::time::Duration;

use tidegate_model::retry::backoff;
use tidegate_model::tick::Tick;

/// The first wait, and the longest.
const FIRST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(250);

/// Whoever is in the way, for as long as somebody is.
#[derive(Default)]
pub(super) struct Hindrance {
    /// Tries in a row that came to nothing.
    tries: u32,
    until: Tick,
}

impl Hindrance {
    /// Another try came to nothing: the next one comes later than this one did.
    pub(super) fn met(&mut self, now: Tick, chance: u64) {
        self.tries = self.tries.saturating_add(1);
        self.until = now.after(backoff(FIRST, LONGEST, self.tries, chance));
    }

    /// Nobody is any more.
    pub(super) fn is_over(&mut self) {
        self.tries = 0;
    }

    /// When it is tried again.
    pub(super) fn until(&self) -> Tick {
        self.until
    }

    /// Whether that is still to come.
    pub(super) fn lasts(&self, now: Tick) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(1_000);

    #[test]
    fn each_try_in_vain_waits_longer_up_to_a_bound_and_one_that_is_not_begins_anew() {
        let longest_of = |tries: u32| {
            let mut hindrance = Hindrance::default();
            assert!(!hindrance.lasts(NOW), "nobody has been in the way");
            (0..tries).for_each(|_| hindrance.met(NOW, u64::MAX));
            (hindrance.until().since(NOW), hindrance)
        };
        let waits: Vec<Duration> = (1..12).map(|tries| longest_of(tries).0).collect();
        assert!(waits[0] > Duration::ZERO && waits[0] <= FIRST, "{waits:?}");
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        assert!(waits[1] > waits[0] && waits[10] > LONGEST / 2 && waits[10] <= LONGEST, "{waits:?}");
        let (wait, mut hindrance) = longest_of(200);
        assert!(wait <= LONGEST && hindrance.lasts(NOW) && !hindrance.lasts(NOW.after(LONGEST)));
        hindrance.is_over();
        hindrance.met(NOW, u64::MAX);
        assert_eq!(hindrance.until().since(NOW), waits[0]);
        let spread: Vec<Tick> = [0, u64::MAX / 2, u64::MAX]
            .map(|chance| {
                let mut hindrance = Hindrance::default();
                (0..9).for_each(|_| hindrance.met(NOW, chance));
                hindrance.until()
            })
            .to_vec();
        assert!(spread[0] < spread[1] && spread[1] < spread[2], "two do not meet again: {spread:?}");
    }
}
