//! The cache's rules: what may be stored, how long it is fresh, when it may be used, and what a write makes of it.
//!
//! ```text
//! response --- store: may it be kept, and what of it ---> stored --- freshness: age and lifetime ---> fresh | stale
//! request  --- reuse: may what is stored answer it ----> serve | validate | serve and refresh | forward | refuse
//! 304      --- validate: does it confirm what is stored, and what of it does it change
//! ```
//!
//! RFC 9111 is the law here, whole; RFC 5861, 8246, 9213, 9211 and 9875 are its amendments. Where it leaves a choice, the
//! answer is never fresher than the careful reading allows: a directive that cannot be read makes a response stale, one that
//! is told twice with two values too.
//!
//! Everything is a pure function of header fields and of the time that the caller tells. Nothing here holds a body, a key or
//! a tenant: that is the store's and the stage's.

pub mod assemble;
mod date;
pub mod directives;
pub mod evict;
pub mod freshness;
pub mod key;
pub mod orders;
pub mod purge;
pub mod purge_field;
pub mod range;
pub mod reuse;
pub mod status;
pub mod store;
pub mod tags;
pub mod validate;
pub mod vary;

#[cfg(test)]
mod conformance;

use std::time::SystemTime;

/// Seconds of the civil clock since 1970, as HTTP dates count. What is on disk outlives the process and its monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub u64);

impl Wall {
    /// The second in which this moment lies; before 1970, the first.
    #[must_use]
    pub fn of(moment: SystemTime) -> Wall {
        Wall(moment.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()))
    }

    /// Seconds since `earlier`, or none if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Wall) -> u32 {
        u32::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(u32::MAX)
    }

    /// The moment that an HTTP date tells.
    #[must_use]
    pub fn of_date(text: &[u8]) -> Option<Wall> {
        date::seconds(text).map(Wall)
    }
}
