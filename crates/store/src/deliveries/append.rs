//! Accepting deliveries: each promise for itself, so that one that is refused keeps no other from being accepted.

use std::sync::Arc;

use tidegate_model::delivery::{Id, Ms, Record, Seq, State, rank};

use super::ledger::Ledger;
use super::rows::{MARK_CALLBACK, MARK_FIRST, Row, request_bytes};
use super::tables::{Fault, Sole};
use super::{Appended, Line, News, Otherwise, Promise, Room, Unique};

/// Accepts these, in their order.
pub(super) fn append(
    ledger: &mut Ledger<'_>,
    promises: &[Promise],
    room: Room,
    now: Ms,
) -> Result<Vec<Appended>, Fault> {
    let mut all = Vec::with_capacity(promises.len());
    for promise in promises {
        all.push(one(ledger, promise, room, now)?);
        ledger.follow_up(now)?;
    }
    ledger.tell_followers();
    Ok(all)
}

fn one(ledger: &mut Ledger<'_>, promise: &Promise, room: Room, now: Ms) -> Result<Appended, Fault> {
    if ledger.tables.find(promise.id)?.is_some() {
        return Ok(Appended::Already(promise.id));
    }
    let shard = ledger.tables.shard_of(&promise.tenant);
    let names = Line { queue: Arc::clone(&promise.queue), tenant: Arc::clone(&promise.tenant) };
    let line = ledger.place(&names)?;
    if let Some(unique) = &promise.unique
        && let Some((first, sole)) = same(ledger, line, unique, now)?
    {
        return meet(ledger, promise, unique, &first, sole.fingerprint, room, now);
    }
    let firsts = match firsts(ledger, promise)? {
        Ok(firsts) => firsts,
        Err(missing) => return Ok(Appended::After(missing)),
    };
    let bytes = request_bytes(&promise.request);
    if !has_room(ledger, line, 1, bytes, room)? {
        return Ok(Appended::Full);
    }
    let seq = ledger.next_seq(shard)?;
    come_after(ledger, seq, &firsts)?;
    let mut row = Row {
        record: record(promise, seq, firsts.len(), now),
        line,
        owner: ledger.book.lines.names(ledger.tables, line)?.0,
        place: None,
        sole: promise.unique.as_ref().map(|unique| Arc::clone(&unique.key)),
        marks: 0,
        bytes,
        kept: 0,
    };
    if let Some(callback) = &promise.callback {
        ledger.tables.put_callback(seq, callback)?;
        row.marks |= MARK_CALLBACK;
    }
    ledger.tables.put_request(seq, &promise.request, 0)?;
    if let Some(unique) = &promise.unique {
        only(ledger, line, unique, seq)?;
    }
    ledger.insert_or_begin(row, now)?;
    Ok(Appended::Accepted(promise.id))
}

fn record(promise: &Promise, seq: Seq, firsts: usize, now: Ms) -> Record {
    let due = promise.due.unwrap_or(now);
    Record {
        lane: promise.lane.clone(),
        priority: promise.priority,
        rank: rank(due, promise.priority, promise.aging),
        due,
        expires: promise.expires,
        state: match firsts {
            0 if due <= now => State::Ready,
            0 => State::Scheduled,
            _ => State::Blocked,
        },
        attempts_max: promise.attempts_max,
        // There are AFTER_MAX of them at most.
        waits_for: u32::try_from(firsts).unwrap_or(u32::MAX),
        ..Record::new(promise.id, seq, Arc::clone(&promise.queue), Arc::clone(&promise.tenant), now)
    }
}

/// Whether a line may have so many more, and its tenant so many bytes more.
pub(super) fn has_room(
    ledger: &mut Ledger<'_>,
    line: i64,
    more: u64,
    bytes: u64,
    room: Room,
) -> Result<bool, Fault> {
    let (tables, lines) = (&mut *ledger.tables, &mut ledger.book.lines);
    // Where none more is asked for, there is room for it however many there are.
    Ok((more == 0 || lines.waiting(tables, line)? + more <= room.waiting_max)
        && lines.bytes_of(tables, line)?.saturating_add(bytes) <= room.bytes_max)
}

/// Those that a promise comes after and that have not ended. Or the one that there is not, or that will never be delivered.
fn firsts(ledger: &mut Ledger<'_>, promise: &Promise) -> Result<Result<Vec<Row>, Id>, Fault> {
    let mut firsts: Vec<Row> = Vec::with_capacity(promise.after.len());
    let shard = ledger.tables.shard_of(&promise.tenant);
    for id in &promise.after {
        // One of another shard is another tenant's.
        let first = match ledger.tables.find(*id)?.filter(|seq| seq.shard() == shard) {
            Some(seq) => ledger.load(seq)?,
            None => None,
        };
        match first.filter(|first| first.record.tenant == promise.tenant) {
            Some(first) if first.record.state == State::Delivered => {}
            Some(first) if !first.record.state.has_ended() => {
                if firsts.iter().all(|other| other.record.seq != first.record.seq) {
                    firsts.push(first);
                }
            }
            _ => return Ok(Err(*id)),
        }
    }
    Ok(Ok(firsts))
}

/// Notes after what a delivery comes.
fn come_after(ledger: &mut Ledger<'_>, seq: Seq, firsts: &[Row]) -> Result<(), Fault> {
    for first in firsts {
        ledger.tables.insert_after(first.record.seq, seq)?;
        if first.marks & MARK_FIRST == 0 {
            ledger.tables.put_marks(first, first.marks | MARK_FIRST)?;
        }
    }
    Ok(())
}

/// Notes what is one of a kind.
fn only(ledger: &mut Ledger<'_>, line: i64, unique: &Unique, seq: Seq) -> Result<(), Fault> {
    let sole = Sole { seq, until: unique.until, fingerprint: unique.fingerprint };
    ledger.tables.put_unique(line, &unique.key, &sole)
}

/// What counts as the same as a promise, and what tells whether it asks for the same.
fn same(ledger: &mut Ledger<'_>, line: i64, unique: &Unique, now: Ms) -> Result<Option<(Row, Sole)>, Fault> {
    let Some(sole) = ledger.tables.unique(line, &unique.key)? else { return Ok(None) };
    let Some(first) = ledger.load(sole.seq)? else { return Ok(None) };
    let is_same = now < sole.until || has_not_begun(&first.record);
    Ok(is_same.then_some((first, sole)))
}

/// Whether another one may take its place.
pub(super) fn has_not_begun(record: &Record) -> bool {
    matches!(record.state, State::Blocked | State::Scheduled | State::Ready) && record.attempts == 0
}

/// A promise for which there is one already.
fn meet(
    ledger: &mut Ledger<'_>,
    promise: &Promise,
    unique: &Unique,
    first: &Row,
    fingerprint: Option<[u8; 32]>,
    room: Room,
    now: Ms,
) -> Result<Appended, Fault> {
    let id = first.record.id;
    if let (Some(old), Some(new)) = (fingerprint, unique.fingerprint)
        && old != new
    {
        return Ok(Appended::Mismatch(id));
    }
    let due = promise.due.unwrap_or(now);
    let due = match unique.otherwise {
        _ if !has_not_begun(&first.record) => return Ok(Appended::Already(id)),
        Otherwise::Keep => return Ok(Appended::Already(id)),
        Otherwise::Replace => due,
        Otherwise::Debounce { at_most } => due.min(first.record.created.saturating_add(at_most)),
    };
    replace(ledger, promise, unique, first, due, room, now)
}

/// A promise takes the place of one that has not begun, and keeps its id, its place and those that it comes after.
fn replace(
    ledger: &mut Ledger<'_>,
    promise: &Promise,
    unique: &Unique,
    first: &Row,
    due: Ms,
    room: Room,
    now: Ms,
) -> Result<Appended, Fault> {
    let id = first.record.id;
    let firsts = match firsts(ledger, promise)? {
        Ok(firsts) => firsts,
        Err(missing) => return Ok(Appended::After(missing)),
    };
    // Whoever waits, waits for older ones, for their turn too: so none waits for one that waits for it.
    if let Some(newer) = firsts.iter().find(|other| other.record.seq >= first.record.seq) {
        return Ok(Appended::After(newer.record.id));
    }
    if jumps_in(ledger, promise, first)? {
        return Ok(Appended::Mismatch(id));
    }
    let bytes = request_bytes(&promise.request);
    if bytes > first.bytes && !has_room(ledger, first.line, 0, bytes - first.bytes, room)? {
        return Ok(Appended::Full);
    }
    let mut row = first.clone();
    // Its turn is given back and asked for anew: it may have another key now.
    let firsts = not_yet_noted(ledger, first.record.seq, firsts)?;
    come_after(ledger, first.record.seq, &firsts)?;
    // There are AFTER_MAX of them at most.
    let waits_for = super::ends::waits_for_others(first) + u32::try_from(firsts.len()).unwrap_or(u32::MAX);
    ledger.leave_lane(&mut row)?;
    row.record = Record {
        id,
        created: first.record.created,
        token: first.record.token,
        waits_for,
        state: match waits_for {
            0 if due <= now => State::Ready,
            0 => State::Scheduled,
            _ => State::Blocked,
        },
        due,
        rank: rank(due, promise.priority, promise.aging),
        ..record(promise, first.record.seq, 0, now)
    };
    row.bytes = bytes;
    if let Some(callback) = &promise.callback {
        ledger.tables.put_callback(first.record.seq, callback)?;
        row.marks |= MARK_CALLBACK;
    }
    let (_, edits) = ledger.request(first.record.seq)?;
    ledger.tables.put_request(first.record.seq, &promise.request, edits + 1)?;
    only(ledger, first.line, unique, first.record.seq)?;
    if first.record.state == State::Ready {
        // Whoever has it in mind as it was forgets that.
        ledger.tidings.push(first.record.seq.shard(), News::Gone(first.record.seq, first.ready().line));
    }
    ledger.put(first, row)?;
    Ok(Appended::Replaced(id))
}

/// Whether it would come into an ordered key in which there are others. It keeps its place, and may be older than who has the
/// turn: that one may wait for it.
fn jumps_in(ledger: &mut Ledger<'_>, promise: &Promise, first: &Row) -> Result<bool, Fault> {
    let Some(lane) = promise.lane.as_ref().filter(|lane| lane.ordered) else { return Ok(false) };
    if first.record.lane.as_ref().is_some_and(|own| own.ordered && own.key == lane.key) {
        return Ok(false);
    }
    Ok(ledger.tables.open(first.line, &lane.key)? > 0 || ledger.tables.is_asked_for(first.line, &lane.key)?)
}

/// Those of these after which a delivery does not come already.
fn not_yet_noted(ledger: &mut Ledger<'_>, seq: Seq, firsts: Vec<Row>) -> Result<Vec<Row>, Fault> {
    let mut new = Vec::with_capacity(firsts.len());
    for first in firsts {
        if !ledger.tables.comes_after(first.record.seq, seq)? {
            new.push(first);
        }
    }
    Ok(new)
}
