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
