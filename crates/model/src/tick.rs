//! A point on the process's monotonic clock, handed to every pure decision as an argument.
//!
//! Only `tidegate_wire::clock` makes ticks from the real clock; tests make them from numbers.

use std::time::Duration;

/// Nanoseconds on the process's monotonic clock. Zero is some moment before the process served anything.
///
/// The arithmetic saturates: a tick never wraps, so a comparison never lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// The last representable tick: "never".
    pub const MAX: Tick = Tick(u64::MAX);

    /// This tick plus `wait`.
    #[must_use]
    pub fn after(self, wait: Duration) -> Tick {
        Tick(self.0.saturating_add(nanos(wait)))
    }

    /// How long ago `earlier` was, or zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A duration in whole nanoseconds, saturating at 584 years.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `YYYY-MM-DDTHH:MM:SS` of seconds since the epoch (Howard Hinnant's `civil_from_days`).
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}
