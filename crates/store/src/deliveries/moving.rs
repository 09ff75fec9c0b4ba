//! A delivery with all that is kept of it, taken out of one store's tables and put into another's, as it is: nothing is decided,
//! nothing follows from it, nobody is told.
//!
//! What always holds: its number stays, and its id; its shard is that of its tenant where it goes, and its line has another
//! number there. Whoever moves all of a store's has what it has: turns of keys are counted as their holders are put.
//!
//! What it does not do: nobody else may write to either store meanwhile.

use std::sync::Arc;

use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{Id, Record, Request, Seq, State, Token};

use super::ledger::Ledger;
use super::rows::{MARK_CALLBACK, MARK_FIRST, Row};
use super::tables::{Among, Fault, Sole};
use super::{Attempt, Callback, Kept, Line};

/// Deliveries that come after one, read at once.
const AFTERS: usize = 1_000;

/// A delivery with all that is kept of it.
#[derive(Clone, Debug)]
pub(crate) struct Moving {
    row: Row,
    request: Arc<Request>,
    edits: u64,
    attempts: Vec<Attempt>,
    result: Option<Kept>,
    sole: Option<Sole>,
    /// Those that come after it.
    afters: Vec<Seq>,
    callback: Option<Callback>,
}

impl Moving {
    /// Where it was.
    pub(crate) fn seq(&self) -> Seq {
        self.row.record.seq
    }

    /// Of which shard it is, where there are so many.
    fn place(&self, ledger: &Ledger<'_>) -> impl Fn(Seq) -> Seq + use<> {
        let shard = ledger.tables.shard_of(&self.row.record.tenant);
        move |seq| Seq::in_shard(shard, seq.number())
    }
}

/// Takes the next ones before this place: so many at most, and none more once they have so many bytes.
pub(crate) fn take(
    ledger: &mut Ledger<'_>,
    before: Seq,
    most: usize,
    bytes_max: u64,
) -> Result<Vec<Moving>, Fault> {
    let found = ledger.tables.page(Among::All, before, most)?;
    let (mut all, mut bytes) = (Vec::with_capacity(found.len()), 0);
    for row in ledger.all_named(found)? {
        if bytes >= bytes_max {
            break;
        }
        bytes += row.bytes + row.kept;
        all.push(one(ledger, row)?);
    }
    Ok(all)
}

fn one(ledger: &mut Ledger<'_>, row: Row) -> Result<Moving, Fault> {
    let seq = row.record.seq;
    let (request, edits) = ledger.request(seq)?;
    let sole = match &row.sole {
        Some(key) => ledger.tables.unique(row.line, key)?.filter(|sole| sole.seq == seq),
        None => None,
    };
    let mut afters: Vec<Seq> = Vec::new();
    let mut whole = row.marks & MARK_FIRST == 0;
    while !whole {
        let more = ledger.tables.afters(seq, afters.last().copied().unwrap_or_default(), AFTERS)?;
        whole = more.len() < AFTERS;
        afters.extend(more);
    }
    let callback = if row.marks & MARK_CALLBACK != 0 { ledger.tables.callback(seq)? } else { None };
    let (attempts, result) = (ledger.tables.attempts(seq)?, ledger.tables.result(seq)?);
    Ok(Moving { row, request, edits, attempts, result, sole, afters, callback })
}

/// Puts them where none of them is.
pub(crate) fn put(ledger: &mut Ledger<'_>, all: &[Moving]) -> Result<(), Fault> {
    all.iter().try_for_each(|one| put_one(ledger, one))
}

fn put_one(ledger: &mut Ledger<'_>, moving: &Moving) -> Result<(), Fault> {
    let Moving { row, request, edits, attempts, result, sole, afters, callback } = moving;
    let place = moving.place(ledger);
    let (seq, record) = (place(row.record.seq), &row.record);
    let line = ledger.place(&line_of(record))?;
    let (owner, _) = ledger.book.lines.names(ledger.tables, line)?;
    let there = Row { record: Record { seq, ..record.clone() }, line, owner, ..row.clone() };
    ledger.tables.insert(&there)?;
    ledger.tables.put_request(seq, request, *edits)?;
    let bytes = i64::try_from(row.bytes + row.kept).unwrap_or(i64::MAX);
    ledger.book.lines.count(ledger.tables, line, None, Some(record.state.kind()), bytes)?;
    for (token, attempt) in tokens(record, attempts.len()).zip(attempts) {
        ledger.tables.put_attempt(seq, token, attempt)?;
    }
    if let Some(result) = result {
        let mut fields = Vec::with_capacity(result.fields.bytes());
        result.fields.pack(&mut fields);
        ledger.tables.put_result(seq, result, &fields)?;
    }
    if let (Some(key), Some(sole)) = (&row.sole, sole) {
        ledger.tables.put_unique(line, key, &Sole { seq, ..sole.clone() })?;
    }
    for after in afters {
        ledger.tables.insert_after(seq, place(*after))?;
    }
    if let Some(callback) = callback {
        ledger.tables.put_callback(seq, callback)?;
    }
    if let (Some(Place::Holds), Some(lane)) = (row.place, &record.lane) {
        let open = ledger.tables.open(line, &lane.key)?;
        ledger.tables.put_open(line, &lane.key, open + 1)?;
    }
    ledger.pages += 3 + (row.bytes + row.kept) / 4096;
    Ok(())
}

/// Tokens for attempts that are kept without: the last ones that were given, but for one that is under way.
fn tokens(record: &Record, count: usize) -> impl Iterator<Item = Token> {
    let under_way = u64::from(matches!(record.state, State::Leased { .. }));
    let end = record.token.0.saturating_sub(under_way).max(count as u64);
    (end - count as u64 + 1..=end).map(Token)
}

/// No place up to this number is given away again.
pub(crate) fn give_away_from(ledger: &mut Ledger<'_>, shards: u16, number: u64) -> Result<(), Fault> {
    for shard in 0..shards {
        let held = ledger.shard_there(shard)?;
        held.seq = held.seq.max(Seq::in_shard(shard, number));
    }
    Ok(())
}

/// Whether what was put is there as it was: one that is not.
pub(crate) fn differs(ledger: &mut Ledger<'_>, all: &[Moving]) -> Result<Option<Id>, Fault> {
    for moving in all {
        let Moving { row, request, edits, attempts, result, .. } = moving;
        let (place, id) = (moving.place(ledger), row.record.id);
        let seq = place(row.record.seq);
        ledger.shard_there(seq.shard())?;
        if ledger.tables.find(id)? != Some(seq) {
            return Ok(Some(id));
        }
        let Some(there) = ledger.load(seq)? else { return Ok(Some(id)) };
        let same = there.record == Record { seq, ..row.record.clone() }
            && (there.place, &there.sole, there.marks) == (row.place, &row.sole, row.marks)
            && (there.bytes, there.kept) == (row.bytes, row.kept)
            && ledger.request(seq)? == (Arc::clone(request), *edits)
            && ledger.tables.attempts(seq)? == *attempts
            && ledger.tables.result(seq)? == *result;
        if !same {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn line_of(record: &Record) -> Line {
    Line { queue: Arc::clone(&record.queue), tenant: Arc::clone(&record.tenant) }
}
