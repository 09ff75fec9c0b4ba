//! Idempotency keys: one effect for all requests that carry the same key (draft-ietf-httpapi-idempotency-key-header-07).
//!
//! A *record* is what is known of a key. It is scoped by tenant and route, and lives for a while:
//!
//! ```text
//!            claim                 finish
//! (none) ------------> held ----------------> answered: a repeat is told the same
//!    ^                  |  '--- nobody works on it any more: its outcome is unknown
//!    '---- release -----'
//! ```
//!
//! [`step`] is the whole of it: what a command makes of a record, and what whoever gave it is told. A *claim* is a number
//! that only grows; who finishes or releases shows its own, so that nobody ends what another has begun meanwhile.
//!
//! What always holds: of all that claim one key for one request, one is told [`Told::Claimed`] until that one has released
//! it, or its record has come to its end. Whether somebody still works on a record that is held is known by whoever calls
//! [`step`], not here: it asks for nobody else. Where several nodes share records, [`step_among`] is told who holds one.

use bytes::Bytes;
use http::{Method, StatusCode};
use sha2::{Digest as _, Sha256};

mod key;

pub use key::{IDEMPOTENCY_KEY, KEY_BYTES_MAX, Key, Malformed};

/// What stands for a request: two that have the same are the same request.
pub type Fingerprint = [u8; 32];

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The request that it was first used for.
    pub fingerprint: Fingerprint,
    /// Who claimed it.
    pub claim: u64,
    /// It is forgotten then, in seconds since the Unix epoch.
    pub until: u64,
    /// How far it has come.
    pub state: State,
}

/// How far a record has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The request may be under way. If it is not, nobody knows whether it had an effect.
    Held,
    /// It has been answered.
    Answered(Kept),
}

/// What is kept of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it.
    Whole(Answer),
    /// Its status alone: there was no room for the rest, or it had no end.
    Status(u16),
}

/// An answer that can be told again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its fields, as whoever keeps them writes them.
    pub fields: Bytes,
    /// Its content.
    pub body: Bytes,
    /// Who was told it: what is for one client alone is told no other.
    pub told_to: Fingerprint,
}

impl Kept {
    /// The status that was told.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Kept::Whole(answer) => answer.status,
            Kept::Status(status) => *status,
        }
    }

    /// Bytes of it that take room.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Kept::Whole(answer) => (answer.fields.len() + answer.body.len()) as u64,
            Kept::Status(_) => 0,
        }
    }

    /// As much of it as fits into so many bytes.
    #[must_use]
    pub fn within(self, room: u64) -> Kept {
        if self.bytes() <= room { self } else { Kept::Status(self.status()) }
    }
}

/// What is asked of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The request is about to be made.
    Claim {
        /// Which request.
        fingerprint: Fingerprint,
        /// By whom.
        claim: u64,
        /// Whether it may be made again where its outcome is unknown: the upstream itself is idempotent.
        again: bool,
        /// Records that the tenant may have.
        records_max: u64,
        /// When it is forgotten.
        until: u64,
    },
    /// The request has been answered.
    Finish {
        /// Which request.
        fingerprint: Fingerprint,
        /// By whom it was claimed.
        claim: u64,
        /// With what.
        kept: Kept,
        /// When it is forgotten.
        until: u64,
    },
    /// The request has had no effect, for certain: the key is free again.
    Release {
        /// By whom it was claimed.
        claim: u64,
    },
    /// The request is under way no more, and how it ended nobody knows: for those who cannot see that nobody works on it.
    Leave {
        /// By whom it was claimed.
        claim: u64,
    },
}

/// What becomes of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is this from now on.
    Put(Record),
    /// There is none any more.
    Remove,
    /// It stays as it is, and is nobody's.
    Leave,
}

/// What whoever asked is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is done.
    Done,
    /// The request may be made.
    Claimed,
    /// It was made, and answered so.
    Answered(Kept),
    /// The key was used for another request.
    Mismatch,
    /// It was begun, and how it ended nobody knows.
    Unknown,
    /// It was begun by another node, which has not ended it.
    Elsewhere,
    /// The tenant has as many records as it may.
    Full,
    /// The record is another's by now: nothing was changed.
    Lost,
}

/// What a command makes of a record. Its tenant has so many records, this one included if there is one.
#[must_use]
pub fn step(record: Option<Record>, command: Command, records: u64, now: u64) -> (Change, Told) {
    // What has come to its end is as if it were not there, but for the room that it takes until it is removed.
    let taken = u64::from(record.is_some());
    let record = record.filter(|record| record.until > now);
    match command {
        Command::Claim { fingerprint, claim, again, records_max, until } => {
            let held = Record { fingerprint, claim, until, state: State::Held };
            match record {
                None if records.saturating_sub(taken) >= records_max => (Change::None, Told::Full),
                None => (Change::Put(held), Told::Claimed),
                Some(found) if found.fingerprint != fingerprint => (Change::None, Told::Mismatch),
                Some(Record { state: State::Answered(kept), .. }) => (Change::None, Told::Answered(kept)),
                Some(_) if again => (Change::Put(held), Told::Claimed),
                Some(_) => (Change::None, Told::Unknown),
            }
        }
        Command::Finish { fingerprint, claim, kept, until } => match record {
            Some(found) if found.claim != claim || found.state != State::Held => (Change::None, Told::Lost),
            // One that was removed because it had come to its end is still a request that was made.
            _ => {
                let state = State::Answered(kept);
                (Change::Put(Record { fingerprint, claim, until, state }), Told::Done)
            }
        },
        Command::Release { claim } => match record {
            Some(found) if found.claim == claim && found.state == State::Held => (Change::Remove, Told::Done),
            Some(_) => (Change::None, Told::Lost),
            None => (Change::None, Told::Done),
        },
        Command::Leave { claim } => match record {
            Some(found) if found.claim == claim && found.state == State::Held => (Change::Leave, Told::Done),
            Some(_) | None => (Change::None, Told::Lost),
        },
    }
}

/// Whose a record is that is held, where nodes share records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Whoever asks. It knows by itself whether it works on it.
    Asking,
    /// Another node, which is there.
    Another,
    /// Nobody: its node has ended, or has left it.
    Nobody,
}

/// [`step`] where nodes share records: nobody takes up what another may be working on, nor ends what is not its own.
#[must_use]
pub fn step_among(
    record: Option<Record>,
    holder: Holder,
    command: Command,
    records: u64,
    now: u64,
) -> (Change, Told) {
    let held = record.as_ref().filter(|record| record.until > now && record.state == State::Held);
    match (held, holder, &command) {
        (Some(held), Holder::Another, Command::Claim { fingerprint, .. })
            if held.fingerprint == *fingerprint =>
        {
            (Change::None, Told::Elsewhere)
        }
        (
            Some(_),
            Holder::Another | Holder::Nobody,
            Command::Finish { .. } | Command::Release { .. } | Command::Leave { .. },
        ) => (Change::None, Told::Lost),
        _ => step(record, command, records, now),
    }
}

/// What a command of whoever holds the record has come to, if it was carried out before: for one of which nobody knows
/// whether it was.
#[must_use]
pub fn already(record: &Record, command: &Command) -> Option<Told> {
    match (command, &record.state) {
        (Command::Claim { claim, .. }, State::Held) if *claim == record.claim => Some(Told::Claimed),
        (Command::Finish { claim, .. }, State::Answered(_)) if *claim == record.claim => Some(Told::Done),
        _ => None,
    }
}

/// How a request ended that had claimed a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The upstream has answered.
    Answered(StatusCode),
    /// It did not, and has seen nothing of the request.
    Unsent,
    /// It did not, and may have seen it.
    Unanswered,
}

/// What becomes of the key then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// The answer is the answer to all repeats, an error, too: it may have had an effect.
    Answered,
    /// It is free again: there was no effect.
    Free,
    /// Its outcome is unknown.
    Unknown,
}

/// What becomes of a key. `release` are the statuses by which the upstream says that it has done nothing.
#[must_use]
pub fn becomes(ended: Ended, release: &[StatusCode]) -> Becomes {
    match ended {
        Ended::Answered(status) if release.contains(&status) => Becomes::Free,
        Ended::Answered(_) => Becomes::Answered,
        Ended::Unsent => Becomes::Free,
        Ended::Unanswered => Becomes::Unknown,
    }
}

/// The fingerprint of a request: its method, host, target and content, to the byte.
#[must_use]
pub fn fingerprint(method: &Method, host: &str, target: &str, body: &[u8]) -> Fingerprint {
    digest([method.as_str().as_bytes(), host.as_bytes(), target.as_bytes(), body])
}

/// The digest of these parts: what belongs to one is never taken for another's.
#[must_use]
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
