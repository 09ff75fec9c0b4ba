//! Accepting deliveries: each promise for itself, so that one that is refused keeps no other from being accepted.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, params};
use tidegate_model::delivery::{Id, Ms, Record, Seq, State, Token, rank};

use super::ledger::Ledger;
use super::rows::{self, MARK_CALLBACK, MARK_FIRST, Row, halves, whole};
use super::{Appended, Line, Otherwise, Promise, Room, Unique};

/// Accepts these, in their order.
pub(super) fn append(
    ledger: &mut Ledger<'_>,
    promises: &[Promise],
    room: Room,
    now: Ms,
) -> rusqlite::Result<Vec<Appended>> {
    let mut all = Vec::with_capacity(promises.len());
    for promise in promises {
        all.push(one(ledger, promise, room, now)?);
        ledger.follow_up(now)?;
    }
    ledger.tell_followers();
    Ok(all)
}

fn one(ledger: &mut Ledger<'_>, promise: &Promise, room: Room, now: Ms) -> rusqlite::Result<Appended> {
    if rows::find(ledger.connection, promise.id)?.is_some() {
        return Ok(Appended::Already(promise.id));
    }
    let names = Line { queue: Arc::clone(&promise.queue), tenant: Arc::clone(&promise.tenant) };
    let line = ledger.book.lines.place(ledger.connection, &names)?;
    if let Some(unique) = &promise.unique
        && let Some((first, fingerprint)) = same(ledger, line, unique, now)?
    {
        return meet(ledger, promise, unique, &first, fingerprint, room, now);
    }
    let firsts = match firsts(ledger, promise)? {
        Ok(firsts) => firsts,
        Err(missing) => return Ok(Appended::After(missing)),
    };
    let bytes = rows::request_bytes(&promise.request);
    if !has_room(ledger, line, 1, bytes, room)? {
        return Ok(Appended::Full);
    }
    ledger.book.seq += 1;
    let seq = Seq(ledger.book.seq);
    come_after(ledger, seq, &firsts)?;
    let mut row = Row {
        record: record(promise, seq, firsts.len(), now),
        line,
        owner: ledger.book.lines.names(ledger.connection, line)?.0,
        place: None,
        sole: promise.unique.as_ref().map(|unique| Arc::clone(&unique.key)),
        marks: 0,
        bytes,
        kept: 0,
    };
    if call_back(ledger, promise, seq)? {
        row.marks |= MARK_CALLBACK;
    }
    rows::insert_request(ledger.connection, seq, &promise.request, 0)?;
    if let Some(unique) = &promise.unique {
        only(ledger, line, unique, seq)?;
    }
    ledger.insert(row)?;
    Ok(Appended::Accepted(promise.id))
}

fn record(promise: &Promise, seq: Seq, firsts: usize, now: Ms) -> Record {
    let due = promise.due.unwrap_or(now);
    Record {
        id: promise.id,
        seq,
        queue: Arc::clone(&promise.queue),
        tenant: Arc::clone(&promise.tenant),
        lane: promise.lane.clone(),
        priority: promise.priority,
        rank: rank(due, promise.priority, promise.aging),
        created: now,
        due,
        expires: promise.expires,
        state: match firsts {
            0 if due <= now => State::Ready,
            0 => State::Scheduled,
            _ => State::Blocked,
        },
        attempts: 0,
        attempts_max: promise.attempts_max,
        // There are AFTER_MAX of them at most.
        waits_for: u32::try_from(firsts).unwrap_or(u32::MAX),
        token: Token(0),
        progress: None,
        why: None,
        forgotten: None,
    }
}

/// Whether a line may have so many more, and its tenant so many bytes more.
pub(super) fn has_room(
    ledger: &mut Ledger<'_>,
    line: i64,
    more: u64,
    bytes: u64,
    room: Room,
) -> rusqlite::Result<bool> {
    let (connection, lines) = (ledger.connection, &mut ledger.book.lines);
    // Where none more is asked for, there is room for it however many there are.
    Ok((more == 0 || lines.waiting(connection, line)? + more <= room.waiting_max)
        && lines.bytes_of(connection, line)?.saturating_add(bytes) <= room.bytes_max)
}

/// Those that a promise comes after and that have not ended. Or the one that there is not, or that will never be delivered.
fn firsts(ledger: &mut Ledger<'_>, promise: &Promise) -> rusqlite::Result<Result<Vec<Row>, Id>> {
    let mut firsts: Vec<Row> = Vec::with_capacity(promise.after.len());
    for id in &promise.after {
        let first = match rows::find(ledger.connection, *id)? {
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

/// Notes after what a delivery comes. How many of them are new.
fn come_after(ledger: &mut Ledger<'_>, seq: Seq, firsts: &[Row]) -> rusqlite::Result<u32> {
    let mut noted = 0;
    for first in firsts {
        let mut insert =
            ledger.connection.prepare_cached("INSERT OR IGNORE INTO afters (first, seq) VALUES (?1, ?2)")?;
        noted += insert.execute([whole(first.record.seq.0), whole(seq.0)])? as u32;
        if first.marks & MARK_FIRST == 0 {
            ledger
                .connection
                .prepare_cached("UPDATE deliveries SET marks = marks | ?2 WHERE seq = ?1")?
                .execute(params![whole(first.record.seq.0), MARK_FIRST])?;
        }
    }
    Ok(noted)
}

/// Notes what is made once a delivery has ended. Whether there is such a thing.
fn call_back(ledger: &mut Ledger<'_>, promise: &Promise, seq: Seq) -> rusqlite::Result<bool> {
    let Some(callback) = &promise.callback else { return Ok(false) };
    let (high, low) = halves(callback.id);
    ledger
        .connection
        .prepare_cached(
            "INSERT OR REPLACE INTO callbacks (seq, high, low, queue, target) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![whole(seq.0), high, low, &*callback.queue, &*callback.target])?;
    Ok(true)
}

/// Notes what is one of a kind.
fn only(ledger: &mut Ledger<'_>, line: i64, unique: &Unique, seq: Seq) -> rusqlite::Result<()> {
    ledger
        .connection
        .prepare_cached(
            "INSERT OR REPLACE INTO uniques (line, key, seq, until, fingerprint) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![line, &*unique.key, whole(seq.0), whole(unique.until), unique.fingerprint])?;
    Ok(())
}

/// What counts as the same as a promise, and what tells whether it asks for the same.
fn same(
    ledger: &mut Ledger<'_>,
    line: i64,
    unique: &Unique,
    now: Ms,
) -> rusqlite::Result<Option<(Row, Option<[u8; 32]>)>> {
    let found = ledger
        .connection
        .prepare_cached("SELECT seq, until, fingerprint FROM uniques WHERE line = ?1 AND key = ?2")?
        .query_row(params![line, &*unique.key], |row| {
            Ok((
                row.get::<_, i64>(0)? as u64,
                row.get::<_, i64>(1)? as u64,
                row.get::<_, Option<[u8; 32]>>(2)?,
            ))
        })
        .optional()?;
    let Some((seq, until, fingerprint)) = found else { return Ok(None) };
    let Some(first) = ledger.load(Seq(seq))? else { return Ok(None) };
    let is_same = now < until || has_not_begun(&first.record);
    Ok(is_same.then_some((first, fingerprint)))
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
) -> rusqlite::Result<Appended> {
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
) -> rusqlite::Result<Appended> {
    let id = first.record.id;
    let firsts = match firsts(ledger, promise)? {
        Ok(firsts) if firsts.iter().any(|other| other.record.seq == first.record.seq) => {
            return Ok(Appended::After(id));
        }
        Ok(firsts) => firsts,
        Err(missing) => return Ok(Appended::After(missing)),
    };
    let bytes = rows::request_bytes(&promise.request);
    if bytes > first.bytes && !has_room(ledger, first.line, 0, bytes - first.bytes, room)? {
        return Ok(Appended::Full);
    }
    let mut row = first.clone();
    // Its turn is given back and asked for anew: it may have another key now.
    let waits_for = super::ends::waits_for_others(first) + come_after(ledger, first.record.seq, &firsts)?;
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
    if call_back(ledger, promise, first.record.seq)? {
        row.marks |= MARK_CALLBACK;
    }
    let (_, edits) = rows::request(ledger.connection, first.record.seq)?;
    rows::insert_request(ledger.connection, first.record.seq, &promise.request, edits + 1)?;
    only(ledger, first.line, unique, first.record.seq)?;
    if first.record.state == State::Ready {
        // Whoever has it in mind as it was forgets that.
        ledger.news.push(super::News::Gone(first.record.seq, first.ready().line));
    }
    ledger.put(first, row)?;
    Ok(Appended::Replaced(id))
}
