//! A delivery as it lies in a store, and what of it is kept there.

use std::sync::Arc;

use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{Record, Request};

use super::{Attempt, Line, Pause, Ready};

/// What a delivery takes beside its own bytes: its row and what is found by it, about.
pub(crate) const ROW_BYTES: u64 = 256;
/// What an attempt takes beside its own bytes, about.
const ATTEMPT_BYTES: u64 = 64;
/// Attempts that are kept of a delivery: the last ones.
pub(crate) const ATTEMPTS_KEPT: u64 = 20;
/// Bytes of what an attempt was answered that are kept.
pub(crate) const ANSWER_BYTES_MAX: usize = 4 << 10;
/// Bytes of the words for why one failed.
const WHY_BYTES_MAX: usize = 1 << 10;

/// Somebody comes after it.
pub(crate) const MARK_FIRST: u8 = 1;
/// Something is made once it has ended.
pub(crate) const MARK_CALLBACK: u8 = 2;

/// A delivery as it lies in a store.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) record: Record,
    /// The number of its line.
    pub(crate) line: i64,
    /// The owner of that.
    pub(crate) owner: i64,
    /// What it has of its lane.
    pub(crate) place: Option<Place>,
    /// What makes it one of a kind.
    pub(crate) sole: Option<Arc<str>>,
    pub(crate) marks: u8,
    /// Bytes of its request.
    pub(crate) bytes: u64,
    /// Bytes of its result and its attempts.
    pub(crate) kept: u64,
}

/// A row as its table has it, which knows its line by the number alone: neither queue nor tenant of its record is told.
#[derive(Debug)]
pub(crate) struct Unnamed(pub(crate) Row);

impl Unnamed {
    /// Its line's number.
    pub(crate) fn line(&self) -> i64 {
        self.0.line
    }

    /// The row of a line that is called so.
    pub(crate) fn named(self, names: Line) -> Row {
        let Unnamed(mut row) = self;
        (row.record.queue, row.record.tenant) = (names.queue, names.tenant);
        row
    }
}

impl Row {
    /// What whoever decides who is next has to know.
    pub(crate) fn ready(&self) -> Ready {
        let record = &self.record;
        Ready {
            seq: record.seq,
            id: record.id,
            line: Line { queue: Arc::clone(&record.queue), tenant: Arc::clone(&record.tenant) },
            lane: record.lane.clone(),
            rank: record.rank,
            priority: record.priority,
            due: record.due,
            expires: record.expires,
            attempts: record.attempts,
            attempts_max: record.attempts_max,
            bytes: self.bytes,
        }
    }

    /// By what it is next in its lane.
    pub(crate) fn turn(&self) -> Option<i64> {
        let ordered = self.record.lane.as_ref()?.ordered;
        self.place.map(|_| if ordered { whole(self.record.seq.0) } else { self.record.rank })
    }
}

/// A number as SQL has them.
pub(crate) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What a request counts for.
pub(crate) fn request_bytes(request: &Request) -> u64 {
    ROW_BYTES + (request.target.len() + request.fields.bytes() + request.body.len()) as u64
}

/// What an attempt counts for, by what is kept of it.
pub(crate) fn attempt_bytes(attempt: &Attempt) -> u64 {
    let why = attempt.why.as_deref().map_or(0, |why| words(why).len());
    ATTEMPT_BYTES + (why + attempt.answer.len().min(ANSWER_BYTES_MAX)) as u64
}

/// As many of these words as are kept.
pub(crate) fn words(text: &str) -> &str {
    &text[..text.floor_char_boundary(WHY_BYTES_MAX)]
}

impl Pause {
    /// It as a row: of which kind it is, its queue, tenant and key, empty where it has none.
    pub(crate) fn columns(&self) -> (u8, &str, &str, &str) {
        match self {
            Pause::Queue(queue) => (0, queue, "", ""),
            Pause::Tenant(tenant) => (1, "", tenant, ""),
            Pause::Line(line) => (2, &line.queue, &line.tenant, ""),
            Pause::Key(line, key) => (3, &line.queue, &line.tenant, key),
        }
    }

    /// What such a row is.
    pub(crate) fn of_columns(kind: u8, queue: Arc<str>, tenant: Arc<str>, key: Arc<str>) -> Pause {
        match kind {
            0 => Pause::Queue(queue),
            1 => Pause::Tenant(tenant),
            2 => Pause::Line(Line { queue, tenant }),
            _ => Pause::Key(Line { queue, tenant }, key),
        }
    }
}
