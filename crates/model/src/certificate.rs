//! When a certificate is renewed, and when it is tried again after that has failed.
//!
//! The authority's own window counts where it tells one (ARI, RFC 9773); else two thirds of the lifetime, a little earlier by
//! chance, so that what was issued together is not renewed together. A certificate that was issued just now is not renewed,
//! whatever the authority says: one that always says "now" gets no more than an order in a thousandth of a lifetime.
//!
//! All times are seconds since the Unix epoch.

/// The longest pause after a failure.
const PAUSE_MAX: u64 = 6 * 3600;
/// By how much each failure makes the pause longer than the one before.
const LONGER: u64 = 3;
/// The shortest and the longest time between two looks at the authority's window.
const LOOK_MIN: u64 = 600;
const LOOK_MAX: u64 = 24 * 3600;

/// From when to when a certificate is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// From then.
    pub not_before: u64,
    /// Until then.
    pub not_after: u64,
}

impl Life {
    fn seconds(&self) -> u64 {
        self.not_after.saturating_sub(self.not_before)
    }

    /// Before that it is not renewed.
    #[must_use]
    pub fn earliest(&self, issued: u64) -> u64 {
        issued + (self.seconds() / 1000).max(1)
    }

    /// When it is renewed, if the authority says nothing.
    #[must_use]
    pub fn renewal(&self, chance: u64) -> u64 {
        let (due, earlier) = (self.seconds() / 3 * 2, self.seconds() / 20);
        self.not_before + due.saturating_sub(chance % (earlier + 1))
    }

    /// When it is renewed, if the authority says from when to when: a moment of that by chance, before it ends at any rate.
    #[must_use]
    pub fn renewal_within(&self, window: (u64, u64), chance: u64) -> u64 {
        let (start, end) = window;
        let at = start + chance % (end.saturating_sub(start) + 1);
        at.min(self.not_after.saturating_sub(self.seconds() / 20))
    }

    /// How long until the window is looked at again, where the authority says this.
    #[must_use]
    pub fn next_look(&self, told: u64) -> u64 {
        let least = LOOK_MIN.min((self.seconds() / 1000).max(1));
        told.clamp(least, LOOK_MAX)
    }
}

/// How long to wait after so many failures in a row, in milliseconds: a little more or less by chance.
#[must_use]
pub fn pause_ms(first_ms: u64, failures: u32, chance: u64) -> u64 {
    let longer = LONGER.saturating_pow(failures.saturating_sub(1));
    let pause = first_ms.saturating_mul(longer).min(PAUSE_MAX * 1000);
    pause - pause / 4 + chance % (pause / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 24 * 3600;
    const LIFE: Life = Life { not_before: 1_000_000, not_after: 1_000_000 + 90 * DAY };

    #[test]
    fn it_is_renewed_when_a_third_is_left_or_when_the_authority_says() {
        assert_eq!(LIFE.renewal(0), LIFE.not_before + 60 * DAY);
        let window = (LIFE.not_before + 50 * DAY, LIFE.not_before + 52 * DAY);
        assert_eq!(LIFE.renewal_within(window, 0), window.0);
        assert_eq!(LIFE.renewal_within((5, 5), 77), 5, "at once");
        assert_eq!(LIFE.earliest(LIFE.not_before), LIFE.not_before + 7776);
    }

    #[test]
    fn a_pause_grows_up_to_a_bound() {
        let pauses = [1, 2, 3, 9, 40].map(|failures| pause_ms(60_000, failures, 0));
        assert_eq!(pauses, [45_000, 135_000, 405_000, 16_200_000, 16_200_000]);
        assert_eq!(LIFE.next_look(0), 600);
        assert_eq!(LIFE.next_look(1_000_000), DAY);
        assert_eq!(Life { not_before: 0, not_after: 3600 }.next_look(1), 3);
    }

    proptest! {
        #[test]
        fn it_is_renewed_before_it_ends(start: u32, length: u32, chance: u64, from: u32, to: u32) {
            let life = Life { not_before: start.into(), not_after: u64::from(start) + u64::from(length) };
            prop_assert!(life.renewal(chance) <= life.not_after);
            prop_assert!(life.renewal_within((from.into(), to.into()), chance) <= life.not_after);
        }
    }
}
