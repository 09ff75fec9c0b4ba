//! The gate's decisions: who gets a slot next, how many slots there are, who waits too long, how overloaded it all is.
//!
//! ```text
//! ask --- a slot is free ---> slot --- leave ---> (the next waiter gets it)
//!  |                           ^
//!  |                           | its tenant's turn by virtual time
//!  +--- none is free ------> waiting --- cancelled | waited too long | displaced | overloaded ---> gone
//!  |
//!  +--- no room, or no time left ---> refused
//! ```
//!
//! [`slots`] counts while nobody waits, [`fair`] orders the waiting list by tenants, [`codel`] tells a burst from a queue
//! that stands, [`adaptive`] finds the number of slots from what the upstream answers, [`level`] tells the rest of the house
//! how bad it is. Each is a state with time as an argument: what wakes tasks and holds locks is in the crates above.

use std::fmt;
use std::time::Duration;

pub mod adaptive;
pub mod codel;
pub mod fair;
pub mod level;
pub mod slots;

/// How important an exchange is: the less important are shed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// May be refused first, and is served only when nothing more important of its tenant waits.
    Sheddable,
    /// What is not told otherwise.
    #[default]
    Default,
    /// Is shed last.
    Critical,
}

impl Priority {
    /// All of them, the least important first.
    pub const ALL: [Priority; 3] = [Priority::Sheddable, Priority::Default, Priority::Critical];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Priority::Sheddable => "sheddable",
            Priority::Default => "default",
            Priority::Critical => "critical",
        }
    }
}

/// Why the gate let somebody not in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The waiting list is full of what is as important, of tenants that ask for no more than this one.
    Full,
    /// The tenant has as many waiters as one tenant may have.
    TenantFull,
    /// The waiting list holds as many bytes as it may.
    Bytes,
    /// Somebody more important, or of a tenant that asks for less, took the place.
    Displaced,
    /// No slot became free in time, or none would.
    Wait,
    /// The exchange's deadline leaves no time for the upstream to answer.
    Deadline,
    /// The tenant's queue stands: only its newest waiters are served.
    Overloaded,
}

impl Reason {
    /// All of them, in the order of [`Reason::index`].
    pub const ALL: [Reason; 7] = [
        Reason::Full,
        Reason::TenantFull,
        Reason::Bytes,
        Reason::Displaced,
        Reason::Wait,
        Reason::Deadline,
        Reason::Overloaded,
    ];

    /// Its place in [`Reason::ALL`], for counters.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::TenantFull => "tenant-full",
            Reason::Bytes => "bytes",
            Reason::Displaced => "displaced",
            Reason::Wait => "wait",
            Reason::Deadline => "deadline",
            Reason::Overloaded => "overloaded",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Reason::Full => "the waiting list is full",
            Reason::TenantFull => "the tenant has as many requests waiting as it may",
            Reason::Bytes => "the waiting list holds as many bytes as it may",
            Reason::Displaced => {
                "a more important request, or one of a tenant that asks for less, took its place"
            }
            Reason::Wait => "no slot becomes free in time",
            Reason::Deadline => "the deadline leaves no time for the upstream to answer",
            Reason::Overloaded => {
                "the tenant's requests come faster than they are served, and newer ones go first"
            }
        })
    }
}

/// A "no" of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// When to come back: what those who wait before it are expected to take, jittered upwards by up to a half.
    pub retry_after: Duration,
}
