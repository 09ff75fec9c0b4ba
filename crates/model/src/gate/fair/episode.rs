//! A time of saturation: when it began, and what was done about it.

use std::time::Duration;

use crate::tick::Tick;

/// Saturation that comes back within this has not ended.
const GAP: Duration = Duration::from_secs(1);

/// A time of saturation: from the first that finds no slot until nobody has waited for a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// When the first found no slot.
    pub began: Tick,
    /// When somebody last waited, or was refused for want of a slot.
    pub last: Tick,
    /// Requests that had to wait.
    pub queued: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// The longest wait of one that got a slot.
    pub waited_max: Duration,
}

impl Episode {
    pub(super) fn new(now: Tick) -> Episode {
        Episode { began: now, last: now, queued: 0, refused: 0, waited_max: Duration::ZERO }
    }

    /// Whether it is over unless somebody waits now.
    pub(super) fn is_over(&self, now: Tick) -> bool {
        now.since(self.last) >= GAP
    }
}
