//! Deliveries: requests that were accepted durably and are made later.
//!
//! ```text
//!            accept, due later          due                      start                 done
//!          .------------------> scheduled ----> ready ------------------> leased ------------------> delivered
//!  accept -+------------------------------------^ ^ ^                     | | | |
//!          |                        ^             | |    nothing was sent | | | | again, with backoff
//!          '-> blocked -------------+-------------' '---------------------' | | '----> scheduled
//!                its turn has come  |                                       | '- no further attempt, never, expired
//!                                   |              redrive                  |
//!                                   '------------------------------ dead <--'
//!  cancel, from whatever has not ended: ------------------------------------------------------> cancelled
//! ```
//!
//! [`step()`] is the whole of it: what a command makes of a delivery, and what whoever gave it is told. It is carried out
//! within the transaction that reads and writes the record. [`judge`](outcome::judge) says what an attempt's outcome means,
//! [`Backoff`](outcome::Backoff) when the next one is made.
//!
//! What always holds:
//! - An attempt is spent before anything is done for it: what crashes whoever takes it is not taken for ever.
//! - A lease has a *token*, which only grows. Who finishes, extends or reports shows it: nobody ends what has been handed to
//!   another meanwhile, or was cancelled.
//! - What has ended changes no more, but by a redrive.
//! - Of a *key* whose order counts, one delivery alone is not blocked; a retry keeps its place.
//!
//! Times are milliseconds since the Unix epoch ([`Ms`]): they outlive the process that wrote them.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;

use crate::fields::Fields;
use crate::gate::Priority;

mod id;
pub mod lane;
pub mod outcome;
pub mod shard;
mod step;

pub use id::{Drawing, Id};
pub use step::{Becomes, Change, Command, Told, step};

/// Milliseconds since the Unix epoch.
pub type Ms = u64;

/// A time as people and machines read it (RFC 3339), in UTC.
#[must_use]
pub fn shown(time: Ms) -> String {
    let known = i64::try_from(time).ok().and_then(|time| jiff::Timestamp::from_millisecond(time).ok());
    known.unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// The time that is written so (RFC 3339).
#[must_use]
pub fn parse_time(text: &str) -> Option<Ms> {
    text.parse::<jiff::Timestamp>().ok().and_then(|time| Ms::try_from(time.as_millisecond()).ok())
}

/// The most characters of a delivery's key, and of what makes it unique.
pub const KEY_BYTES_MAX: usize = 255;
/// The most bytes of a request's content.
pub const BODY_BYTES_MAX: usize = 10 << 20;
/// The most bytes of what is told of a delivery's progress.
pub const PROGRESS_BYTES_MAX: usize = 4 << 10;
/// The most deliveries that one waits for.
pub const AFTER_MAX: usize = 100;

/// A delivery's place in the store: within its [shard] it grows with each that is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// What a lease is held by. The next one of the same delivery is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It waits for others: for those before it of its key, or for those that it comes after.
    Blocked,
    /// It is due later.
    Scheduled,
    /// It may be begun.
    Ready,
    /// Somebody has it until then; from then on nobody is believed to.
    Leased {
        /// Who.
        token: Token,
        /// Until when.
        until: Ms,
    },
    /// It was answered well.
    Delivered,
    /// It is given up: dead-lettered.
    Dead,
    /// Somebody wanted it no more.
    Cancelled,
}

impl State {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.kind().name()
    }

    /// Which of them it is.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            State::Blocked => Kind::Blocked,
            State::Scheduled => Kind::Scheduled,
            State::Ready => Kind::Ready,
            State::Leased { .. } => Kind::Leased,
            State::Delivered => Kind::Delivered,
            State::Dead => Kind::Dead,
            State::Cancelled => Kind::Cancelled,
        }
    }

    /// Whether nothing becomes of it any more by itself.
    #[must_use]
    pub fn has_ended(self) -> bool {
        self.kind().has_ended()
    }
}

/// A state without what belongs to it: how it is written down, counted and asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// [`State::Blocked`].
    Blocked = 0,
    /// [`State::Scheduled`].
    Scheduled = 1,
    /// [`State::Ready`].
    Ready = 2,
    /// [`State::Leased`].
    Leased = 3,
    /// [`State::Delivered`].
    Delivered = 4,
    /// [`State::Dead`].
    Dead = 5,
    /// [`State::Cancelled`].
    Cancelled = 6,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Kind; 7] = [
        Kind::Blocked,
        Kind::Scheduled,
        Kind::Ready,
        Kind::Leased,
        Kind::Delivered,
        Kind::Dead,
        Kind::Cancelled,
    ];

    /// The one with this number.
    #[must_use]
    pub fn of(number: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(number)).copied()
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Blocked => "blocked",
            Kind::Scheduled => "scheduled",
            Kind::Ready => "ready",
            Kind::Leased => "leased",
            Kind::Delivered => "delivered",
            Kind::Dead => "dead",
            Kind::Cancelled => "cancelled",
        }
    }

    /// Whether nothing becomes of it any more by itself.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Kind::Delivered | Kind::Dead | Kind::Cancelled)
    }
}

/// What several deliveries of a tenant in a queue have in common: their order, or how many of them are made at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// What it is called: 1 to [`KEY_BYTES_MAX`] bytes.
    pub key: Arc<str>,
    /// Whether they are made one after the other, in the order in which they were accepted, a retry included.
    pub ordered: bool,
    /// How many of them are not blocked. Of an ordered one: 1.
    pub open_max: u32,
}

/// The request that is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub target: Arc<str>,
    /// What its sender said; hop-by-hop fields and credentials that are not for the application are left out before.
    pub fields: Fields,
    /// Its content, of [`BODY_BYTES_MAX`] bytes at most.
    pub body: Bytes,
}

/// A delivery as the store has it, without its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is found by.
    pub id: Id,
    /// Where it is.
    pub seq: Seq,
    /// The queue's name.
    pub queue: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What it has in common with others.
    pub lane: Option<Lane>,
    /// Who of a tenant's goes first.
    pub priority: Priority,
    /// The order in which a tenant's ready ones are begun, the smallest first: see [`rank`].
    pub rank: i64,
    /// When it was accepted.
    pub created: Ms,
    /// Not begun before.
    pub due: Ms,
    /// Not begun from then on.
    pub expires: Option<Ms>,
    /// How far it has come.
    pub state: State,
    /// Attempts that were begun and count.
    pub attempts: u32,
    /// How many it may have, as told with it; `None`: as many as the queue says.
    pub attempts_max: Option<u32>,
    /// How many it still waits for.
    pub waits_for: u32,
    /// The last lease's.
    pub token: Token,
    /// What was last told of its progress: JSON.
    pub progress: Option<Bytes>,
    /// Why the last attempt failed, in words.
    pub why: Option<Arc<str>>,
    /// When it is forgotten, once it has ended.
    pub forgotten: Option<Ms>,
}

impl Record {
    /// One that is accepted now, may be begun at once, and of which nothing else was asked.
    #[must_use]
    pub fn new(id: Id, seq: Seq, queue: Arc<str>, tenant: Arc<str>, now: Ms) -> Record {
        Record {
            id,
            seq,
            queue,
            tenant,
            lane: None,
            priority: Priority::Default,
            rank: rank(now, Priority::Default, AGING_MS),
            created: now,
            due: now,
            expires: None,
            state: State::Ready,
            attempts: 0,
            attempts_max: None,
            waits_for: 0,
            token: Token(0),
            progress: None,
            why: None,
            forgotten: None,
        }
    }
}

/// How much earlier one is due for each step of its priority, where a queue says nothing else.
pub const AGING_MS: Ms = 60_000;

/// The order of ready deliveries of one tenant: by when they were due, the more important as if they had been due earlier. So
/// who waits long enough comes before whatever is more important and newer: nobody waits for ever.
#[must_use]
pub fn rank(due: Ms, priority: Priority, aging: Ms) -> i64 {
    let earlier = match priority {
        Priority::Critical => 2,
        Priority::Default => 1,
        Priority::Sheddable => 0,
    };
    let whole = |ms: Ms| i64::try_from(ms).unwrap_or(i64::MAX);
    whole(due).saturating_sub(whole(aging).saturating_mul(earlier))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_is_shown() {
        for time in [0, 1, 1_763_000_000_123, 1_763_000_000_000] {
            assert_eq!(parse_time(&shown(time)), Some(time));
        }
        assert_eq!(shown(1_763_000_000_120), "2025-11-13T02:13:20.12Z");
        assert_eq!(parse_time("2025-11-13T03:13:20+01:00"), Some(1_763_000_000_000));
        assert_eq!(parse_time("tomorrow"), None);
        assert!(shown(Ms::MAX).starts_with("9999-"));
    }

    #[test]
    fn a_kind_is_found_by_its_number() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind as u8), Some(kind));
        }
        assert_eq!(Kind::of(7), None);
    }

    #[test]
    fn who_waits_long_enough_comes_before_the_more_important() {
        let old = rank(1_000, Priority::Sheddable, 60_000);
        assert!(rank(1_000, Priority::Default, 60_000) < old);
        assert!(rank(121_000, Priority::Critical, 60_000) >= old);
        assert!(rank(Ms::MAX, Priority::Critical, Ms::MAX) < rank(Ms::MAX, Priority::Sheddable, Ms::MAX));
    }
}
