//! The working set: what a transaction has read and will write, and what of it is still so in the next one.
//!
//! What a shard's `version` says has not been changed by another node since this one wrote last is kept between two
//! transactions, within bounds: so a delivery that this node has accepted is begun and ended without being read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_model::delivery::{Id, Request, Seq};

use super::askers::Askers;
use crate::deliveries::rows::{Row, request_bytes};
use crate::deliveries::tables::{Sole, Tally, shard_of_line};
use crate::deliveries::{Attempt, Callback, Line};

/// Rows that are kept between two transactions.
const ROWS_MAX: usize = 65_536;
/// Bytes of the requests that are.
const REQUEST_BYTES_MAX: u64 = 64 << 20;
/// Lines, keys of lanes and uniques that are.
const OTHERS_MAX: usize = 16_384;

/// A key of a line's.
pub(super) type Keyed = (i64, Arc<str>);

/// What is to be written of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Nothing,
    /// What every attempt changes.
    Lean,
    Wide,
    /// It is not there yet.
    New,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Without the names of its line.
    pub(super) row: Row,
    pub(super) age: i32,
    pub(super) change: Change,
}

/// What is known. Where something is `None` it is known that it is not there.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) rows: HashMap<Seq, Option<Entry>>,
    pub(super) ids: HashMap<Id, Option<Seq>>,
    pub(super) requests: HashMap<Seq, (Arc<Request>, u64)>,
    request_bytes: u64,
    pub(super) lines: HashMap<i64, Tally>,
    pub(super) names: HashMap<Line, i64>,
    /// Tenants of whom all lines are known, and these.
    pub(super) tenants: HashMap<Arc<str>, BTreeSet<i64>>,
    pub(super) lanes: HashMap<Keyed, u32>,
    pub(super) uniques: HashMap<Keyed, Option<Sole>>,
    /// Of keys of which it is known who asks for a turn.
    pub(super) askers: HashMap<Keyed, Askers>,
}

impl Known {
    /// A row that was read: what is known of it is at least as new.
    pub(super) fn absorb(&mut self, row: Row, age: i32) {
        let (seq, id) = (row.record.seq, row.record.id);
        let entry = self.rows.entry(seq).or_insert(Some(Entry { row, age, change: Change::Nothing }));
        if entry.is_some() {
            self.ids.insert(id, Some(seq));
        }
    }

    pub(super) fn absorb_request(&mut self, seq: Seq, request: Arc<Request>, edits: u64) {
        self.request_bytes += request_bytes(&request);
        if let Some((before, _)) = self.requests.insert(seq, (request, edits)) {
            self.request_bytes = self.request_bytes.saturating_sub(request_bytes(&before));
        }
    }

    pub(super) fn forget_request(&mut self, seq: Seq) {
        if let Some((before, _)) = self.requests.remove(&seq) {
            self.request_bytes = self.request_bytes.saturating_sub(request_bytes(&before));
        }
    }

    pub(super) fn absorb_line(&mut self, tally: Tally) {
        if let Some(all) = self.tenants.get_mut(&tally.names.tenant) {
            all.insert(tally.number);
        }
        self.names.insert(tally.names.clone(), tally.number);
        self.lines.insert(tally.number, tally);
    }

    pub(super) fn forget_line(&mut self, number: i64) {
        if let Some(tally) = self.lines.remove(&number) {
            self.names.remove(&tally.names);
            if let Some(all) = self.tenants.get_mut(&tally.names.tenant) {
                all.remove(&number);
            }
        }
        self.lanes.retain(|(line, _), _| *line != number);
        self.uniques.retain(|(line, _), _| *line != number);
        self.askers.retain(|(line, _), _| *line != number);
    }

    /// Another has written in a shard.
    pub(super) fn forget_shard(&mut self, shard: u16, shard_of: impl Fn(&str) -> u16) {
        self.rows.retain(|seq, _| seq.shard() != shard);
        self.requests.retain(|seq, _| seq.shard() != shard);
        self.request_bytes = self.requests.values().map(|(request, _)| request_bytes(request)).sum();
        self.lines.retain(|line, _| shard_of_line(*line) != shard);
        self.names.retain(|_, line| shard_of_line(*line) != shard);
        self.tenants.retain(|tenant, _| shard_of(tenant) != shard);
        self.lanes.retain(|(line, _), _| shard_of_line(*line) != shard);
        self.uniques.retain(|(line, _), _| shard_of_line(*line) != shard);
        self.askers.retain(|(line, _), _| shard_of_line(*line) != shard);
    }

    /// A transaction that has changed these is over: what is kept is what the next one may need, and no more than may be.
    pub(super) fn trim(&mut self, changed: &[Seq]) {
        // Ids are those of all shards.
        self.ids.clear();
        self.uniques.clear();
        for seq in changed {
            let goes_on = self.rows.get_mut(seq).and_then(Option::as_mut);
            match goes_on.filter(|entry| !entry.row.record.state.has_ended()) {
                Some(entry) => entry.change = Change::Nothing,
                None => {
                    self.rows.remove(seq);
                    self.forget_request(*seq);
                }
            }
        }
        if self.rows.len() > ROWS_MAX {
            self.rows.clear();
        }
        if self.request_bytes > REQUEST_BYTES_MAX || self.requests.len() > ROWS_MAX {
            self.requests.clear();
            self.request_bytes = 0;
        }
        if self.lines.len() > OTHERS_MAX || self.tenants.len() > OTHERS_MAX {
            self.lines.clear();
            self.names.clear();
            self.tenants.clear();
        }
        if self.lanes.len() > OTHERS_MAX || self.askers.len() > OTHERS_MAX {
            self.lanes.clear();
            self.askers.clear();
        }
    }
}

/// A delivery that is removed.
#[derive(Debug)]
pub(super) struct Removed {
    pub(super) seq: Seq,
    pub(super) id: Id,
    pub(super) sole: Option<Keyed>,
}

/// An answer that is kept, its fields packed.
#[derive(Debug)]
pub(super) struct Result {
    pub(super) status: u16,
    pub(super) whole: bool,
    pub(super) fields: Vec<u8>,
    pub(super) body: Bytes,
}

/// What changed of what lies in a part of the large tables: deliveries, how many came, bytes, and between which places they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct AgeChange {
    pub(super) count: i64,
    pub(super) made: i64,
    pub(super) bytes: i64,
    pub(super) low: Seq,
    pub(super) high: Seq,
}

/// What is to be written before a transaction is committed. Of what is in [`Known`], its keys.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) rows: Vec<Seq>,
    pub(super) removed: Vec<Removed>,
    pub(super) requests: BTreeSet<Seq>,
    pub(super) results: BTreeMap<Seq, Result>,
    pub(super) attempts: BTreeMap<(Seq, u64), Attempt>,
    /// Attempts up to this token go.
    pub(super) trimmed: BTreeMap<Seq, u64>,
    pub(super) new_lines: BTreeSet<i64>,
    pub(super) lines: BTreeSet<i64>,
    pub(super) gone_lines: BTreeSet<i64>,
    pub(super) lanes: HashSet<Keyed>,
    pub(super) uniques: HashSet<Keyed>,
    /// Whether it is there.
    pub(super) afters: BTreeMap<(Seq, Seq), bool>,
    /// These come after none but what is noted here.
    pub(super) free: BTreeSet<Seq>,
    pub(super) callbacks: BTreeMap<Seq, Option<Callback>>,
    pub(super) works: BTreeMap<(i16, i64, Arc<str>), bool>,
    pub(super) ages: BTreeMap<(i32, u16), AgeChange>,
}

impl Pending {
    /// Whether there is anything.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
            && self.removed.is_empty()
            && self.requests.is_empty()
            && self.results.is_empty()
            && self.attempts.is_empty()
            && self.trimmed.is_empty()
            && self.new_lines.is_empty()
            && self.lines.is_empty()
            && self.gone_lines.is_empty()
            && self.lanes.is_empty()
            && self.uniques.is_empty()
            && self.afters.is_empty()
            && self.free.is_empty()
            && self.callbacks.is_empty()
            && self.works.is_empty()
            && self.ages.is_empty()
    }

    /// So many more deliveries, and bytes of them, are of this age.
    pub(super) fn count(&mut self, age: i32, seq: Seq, count: i64, bytes: i64) {
        let new = AgeChange { count: 0, made: 0, bytes: 0, low: seq, high: seq };
        let change = self.ages.entry((age, seq.shard())).or_insert(new);
        change.count += count;
        change.made += count.max(0);
        change.bytes += bytes;
        (change.low, change.high) = (change.low.min(seq), change.high.max(seq));
    }
}
