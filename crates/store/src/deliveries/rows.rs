//! Rows of deliveries: how a record lies in the database, with its request, its attempts and its result.

use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row as Found, params};
use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{Id, Kind, Lane, Record, Request, Seq, State, Token};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;

use super::lines::Lines;
use super::{Attempt, Kept, Line, Ready};

/// What a delivery takes beside its own bytes: its row and what is found by it, about.
pub(super) const ROW_BYTES: u64 = 256;
/// Attempts that are kept of a delivery: the last ones.
pub(super) const ATTEMPTS_KEPT: u64 = 20;
/// Bytes of what an attempt was answered that are kept.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// Bytes of the words for why one failed.
const WHY_BYTES_MAX: usize = 1 << 10;

/// Somebody comes after it.
pub(super) const MARK_FIRST: u8 = 1;
/// Something is made once it has ended.
pub(super) const MARK_CALLBACK: u8 = 2;

/// A delivery as it lies in the database.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) record: Record,
    pub(super) line: i64,
    pub(super) owner: i64,
    /// What it has of its lane.
    pub(super) place: Option<Place>,
    /// What makes it one of a kind.
    pub(super) sole: Option<Arc<str>>,
    pub(super) marks: u8,
    /// Bytes of its request.
    pub(super) bytes: u64,
    /// Bytes of its result and its attempts.
    pub(super) kept: u64,
}

impl Row {
    /// What whoever decides who is next has to know.
    pub(super) fn ready(&self) -> Ready {
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
    fn turn(&self) -> Option<i64> {
        let ordered = self.record.lane.as_ref()?.ordered;
        self.place.map(|_| if ordered { whole(self.record.seq.0) } else { self.record.rank })
    }
}

/// The columns that [`read`] reads, in its order.
macro_rules! columns {
    () => {
        "seq, state, until, token, attempts, line, high, low, priority, rank, created, due, expires, \
         attempts_max, waits_for, key, ordered, open_max, place, sole, marks, bytes, kept, forgotten, progress, why"
    };
}
pub(super) use columns;

/// A number as SQLite has them.
pub(super) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(row: &Found<'_>, place: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(place).map(|number| u64::try_from(number).unwrap_or_default())
}

fn perhaps(row: &Found<'_>, place: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(place)?.map(|number| u64::try_from(number).unwrap_or_default()))
}

/// What lies there was not written by this program.
fn odd(place: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(place, Type::Null, what.into())
}

pub(super) fn halves(id: Id) -> (i64, i64) {
    ((id.0 >> 64) as i64, id.0 as i64)
}

pub(super) fn id_of(high: i64, low: i64) -> Id {
    Id(u128::from(high as u64) << 64 | u128::from(low as u64))
}

/// A row of [`columns!`].
pub(super) fn read(row: &Found<'_>, lines: &mut Lines, connection: &Connection) -> rusqlite::Result<Row> {
    let token = Token(number(row, 3)?);
    let kind = Kind::of(row.get(1)?).ok_or_else(|| odd(1, "a state that there is not"))?;
    let state = match kind {
        Kind::Blocked => State::Blocked,
        Kind::Scheduled => State::Scheduled,
        Kind::Ready => State::Ready,
        Kind::Leased => State::Leased { token, until: number(row, 2)? },
        Kind::Delivered => State::Delivered,
        Kind::Dead => State::Dead,
        Kind::Cancelled => State::Cancelled,
    };
    let line = row.get(5)?;
    let (owner, names) = lines.names(connection, line)?;
    let lane = match row.get::<_, Option<Arc<str>>>(15)? {
        None => None,
        Some(key) => Some(Lane { key, ordered: row.get(16)?, open_max: row.get(17)? }),
    };
    let priority = Priority::ALL.get(usize::from(row.get::<_, u8>(8)?)).copied();
    let place = row.get::<_, Option<u8>>(18)?.and_then(Place::of);
    let record = Record {
        id: id_of(row.get(6)?, row.get(7)?),
        seq: Seq(number(row, 0)?),
        queue: names.queue,
        tenant: names.tenant,
        lane,
        priority: priority.ok_or_else(|| odd(8, "a priority that there is not"))?,
        rank: row.get(9)?,
        created: number(row, 10)?,
        due: number(row, 11)?,
        expires: perhaps(row, 12)?,
        state,
        attempts: row.get(4)?,
        attempts_max: row.get(13)?,
        waits_for: row.get(14)?,
        token,
        progress: row.get::<_, Option<Vec<u8>>>(24)?.map(Bytes::from),
        why: row.get(25)?,
        forgotten: perhaps(row, 23)?,
    };
    Ok(Row {
        record,
        line,
        owner,
        place,
        sole: row.get(19)?,
        marks: row.get(20)?,
        bytes: number(row, 21)?,
        kept: number(row, 22)?,
    })
}

pub(super) fn load(connection: &Connection, lines: &mut Lines, seq: Seq) -> rusqlite::Result<Option<Row>> {
    let mut select =
        connection.prepare_cached(concat!("SELECT ", columns!(), " FROM deliveries WHERE seq = ?1"))?;
    select.query_row([whole(seq.0)], |row| read(row, lines, connection)).optional()
}

/// Where a delivery is, by its id.
pub(super) fn find(connection: &Connection, id: Id) -> rusqlite::Result<Option<Seq>> {
    let (high, low) = halves(id);
    let mut select = connection.prepare_cached("SELECT seq FROM deliveries WHERE high = ?1 AND low = ?2")?;
    select.query_row([high, low], |row| number(row, 0).map(Seq)).optional()
}

pub(super) fn insert(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    let record = &row.record;
    let ((high, low), lane) = (halves(record.id), record.lane.as_ref());
    let mut insert = connection.prepare_cached(
        "INSERT INTO deliveries (seq, state, token, attempts, line, owner, high, low, priority, rank, created, due,
             expires, attempts_max, waits_for, key, ordered, open_max, place, turn, sole, marks, bytes, kept, forgotten)
         VALUES (?1, ?2, 0, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
             0, ?22)",
    )?;
    insert.execute(params![
        whole(record.seq.0),
        record.state.kind() as u8,
        row.line,
        row.owner,
        high,
        low,
        record.priority as u8,
        record.rank,
        whole(record.created),
        whole(record.due),
        record.expires.map(whole),
        record.attempts_max,
        record.waits_for,
        lane.map(|lane| &*lane.key),
        lane.map(|lane| lane.ordered),
        lane.map(|lane| lane.open_max),
        row.place.map(|place| place as u8),
        row.turn(),
        row.sole.as_deref(),
        row.marks,
        whole(row.bytes),
        record.forgotten.map(whole),
    ])?;
    Ok(())
}

/// Writes what has changed, by the statement that touches the fewest indices.
pub(super) fn update(connection: &Connection, before: &Row, after: &Row) -> rusqlite::Result<()> {
    let (old, new) = (&before.record, &after.record);
    let seq = whole(new.seq.0);
    let until = match new.state {
        State::Leased { until, .. } => Some(whole(until)),
        _ => None,
    };
    let state = new.state.kind() as u8;
    let same_place = before.place == after.place && new.lane == old.lane && new.rank == old.rank;
    let same_rest = new.progress == old.progress
        && (new.priority, new.expires, new.attempts_max) == (old.priority, old.expires, old.attempts_max)
        && (new.waits_for, after.marks, after.bytes) == (old.waits_for, before.marks, before.bytes)
        && before.sole == after.sole;
    if same_place && same_rest && new.forgotten == old.forgotten && new.due == old.due && new.why == old.why {
        connection
            .prepare_cached(
                "UPDATE deliveries SET state = ?2, until = ?3, token = ?4, attempts = ?5, kept = ?6 WHERE seq = ?1",
            )?
            .execute(params![
                seq,
                state,
                until,
                whole(new.token.0),
                new.attempts,
                whole(after.kept)
            ])?;
        return Ok(());
    }
    if same_place && same_rest {
        connection
            .prepare_cached(
                "UPDATE deliveries SET state = ?2, until = ?3, token = ?4, attempts = ?5, kept = ?6, due = ?7,
                     forgotten = ?8, why = ?9 WHERE seq = ?1",
            )?
            .execute(params![
                seq,
                state,
                until,
                whole(new.token.0),
                new.attempts,
                whole(after.kept),
                whole(new.due),
                new.forgotten.map(whole),
                new.why.as_deref().map(words),
            ])?;
        return Ok(());
    }
    update_all(connection, after, state, until)
}

fn update_all(connection: &Connection, row: &Row, state: u8, until: Option<i64>) -> rusqlite::Result<()> {
    let record = &row.record;
    let lane = record.lane.as_ref();
    let mut update = connection.prepare_cached(
        "UPDATE deliveries SET state = ?2, until = ?3, token = ?4, attempts = ?5, kept = ?6, due = ?7, forgotten = ?8,
             why = ?9, priority = ?10, rank = ?11, expires = ?12, attempts_max = ?13, waits_for = ?14, key = ?15,
             ordered = ?16, open_max = ?17, place = ?18, turn = ?19, sole = ?20, marks = ?21, bytes = ?22, progress = ?23
         WHERE seq = ?1",
    )?;
    update.execute(params![
        whole(record.seq.0),
        state,
        until,
        whole(record.token.0),
        record.attempts,
        whole(row.kept),
        whole(record.due),
        record.forgotten.map(whole),
        record.why.as_deref().map(words),
        record.priority as u8,
        record.rank,
        record.expires.map(whole),
        record.attempts_max,
        record.waits_for,
        lane.map(|lane| &*lane.key),
        lane.map(|lane| lane.ordered),
        lane.map(|lane| lane.open_max),
        row.place.map(|place| place as u8),
        row.turn(),
        row.sole.as_deref(),
        row.marks,
        whole(row.bytes),
        record.progress.as_deref(),
    ])?;
    Ok(())
}

/// What a request counts for.
pub(super) fn request_bytes(request: &Request) -> u64 {
    ROW_BYTES + (request.target.len() + request.fields.bytes() + request.body.len()) as u64
}

/// Keeps a request that was changed so often, in the place of an earlier one.
pub(super) fn insert_request(
    connection: &Connection,
    seq: Seq,
    request: &Request,
    edits: u64,
) -> rusqlite::Result<()> {
    let mut fields = Vec::with_capacity(request.fields.bytes());
    request.fields.pack(&mut fields);
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO requests (seq, method, target, fields, body, edits) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    insert.execute(params![
        whole(seq.0),
        request.method.as_str(),
        &*request.target,
        fields,
        &*request.body,
        whole(edits),
    ])?;
    Ok(())
}

/// A request, and how often it was changed.
pub(super) fn request(connection: &Connection, seq: Seq) -> rusqlite::Result<(Arc<Request>, u64)> {
    let mut select = connection
        .prepare_cached("SELECT method, target, fields, body, edits FROM requests WHERE seq = ?1")?;
    select.query_row([whole(seq.0)], |row| {
        let method = Method::from_str(row.get_ref(0)?.as_str()?).map_err(|_| odd(0, "no method"))?;
        let request = Request { method, target: row.get(1)?, fields: fields(row, 2)?, body: body(row, 3)? };
        Ok((Arc::new(request), number(row, 4)?))
    })
}

fn fields(row: &Found<'_>, place: usize) -> rusqlite::Result<Fields> {
    Fields::unpack(row.get_ref(place)?.as_blob()?).ok_or_else(|| odd(place, "no fields"))
}

fn body(row: &Found<'_>, place: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(place).map(Bytes::from)
}

/// Keeps a result, in the place of an earlier one. How many bytes it counts for, and the earlier one did.
pub(super) fn insert_result(
    connection: &Connection,
    seq: Seq,
    result: &Kept,
) -> rusqlite::Result<(u64, u64)> {
    let seq = whole(seq.0);
    let before = connection
        .prepare_cached("SELECT length(fields) + length(body) FROM results WHERE seq = ?1")?
        .query_row([seq], |row| number(row, 0))
        .optional()?;
    let mut fields = Vec::with_capacity(result.fields.bytes());
    result.fields.pack(&mut fields);
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO results (seq, status, fields, body, whole) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![seq, result.status, fields, &*result.body, result.whole])?;
    Ok(((fields.len() + result.body.len()) as u64, before.unwrap_or_default()))
}

pub(super) fn result(connection: &Connection, seq: Seq) -> rusqlite::Result<Option<Kept>> {
    let mut select =
        connection.prepare_cached("SELECT status, fields, body, whole FROM results WHERE seq = ?1")?;
    let found = select.query_row([whole(seq.0)], |row| {
        Ok(Kept { status: row.get(0)?, fields: fields(row, 1)?, body: body(row, 2)?, whole: row.get(3)? })
    });
    found.optional()
}

/// The status of a result that is whole.
pub(super) fn answered(connection: &Connection, seq: Seq) -> rusqlite::Result<Option<u16>> {
    let mut select = connection.prepare_cached("SELECT status FROM results WHERE seq = ?1 AND whole")?;
    select.query_row([whole(seq.0)], |row| row.get(0)).optional()
}

/// Keeps an attempt, and as many of those before it as are kept.
pub(super) fn insert_attempt(
    connection: &Connection,
    seq: Seq,
    token: Token,
    attempt: &Attempt,
) -> rusqlite::Result<()> {
    let answer = &attempt.answer[..attempt.answer.len().min(ANSWER_BYTES_MAX)];
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO attempts (seq, token, number, began, took, status, why, answer)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            whole(seq.0),
            whole(token.0),
            attempt.number,
            whole(attempt.began),
            whole(attempt.took),
            attempt.status,
            attempt.why.as_deref().map(words),
            answer,
        ])?;
    if token.0 > ATTEMPTS_KEPT {
        connection
            .prepare_cached("DELETE FROM attempts WHERE seq = ?1 AND token <= ?2")?
            .execute([whole(seq.0), whole(token.0 - ATTEMPTS_KEPT)])?;
    }
    Ok(())
}

pub(super) fn attempts(connection: &Connection, seq: Seq) -> rusqlite::Result<Vec<Attempt>> {
    let mut select = connection.prepare_cached(
        "SELECT number, began, took, status, why, answer FROM attempts WHERE seq = ?1 ORDER BY token",
    )?;
    let found = select.query_map([whole(seq.0)], |row| {
        Ok(Attempt {
            number: row.get(0)?,
            began: number(row, 1)?,
            took: number(row, 2)?,
            status: row.get(3)?,
            why: row.get(4)?,
            answer: body(row, 5)?,
        })
    })?;
    found.collect()
}

/// Removes all of a delivery.
pub(super) fn remove(connection: &Connection, row: &Row) -> rusqlite::Result<()> {
    let seq = whole(row.record.seq.0);
    connection.prepare_cached("DELETE FROM deliveries WHERE seq = ?1")?.execute([seq])?;
    connection.prepare_cached("DELETE FROM requests WHERE seq = ?1")?.execute([seq])?;
    if row.kept > 0 {
        connection.prepare_cached("DELETE FROM results WHERE seq = ?1")?.execute([seq])?;
    }
    if row.record.token.0 > 0 {
        connection.prepare_cached("DELETE FROM attempts WHERE seq = ?1")?.execute([seq])?;
    }
    if let Some(sole) = &row.sole {
        connection
            .prepare_cached("DELETE FROM uniques WHERE line = ?1 AND key = ?2 AND seq = ?3")?
            .execute(params![row.line, &**sole, seq])?;
    }
    Ok(())
}

/// As many of these words as are kept.
fn words(text: &str) -> &str {
    &text[..text.floor_char_boundary(WHY_BYTES_MAX)]
}
