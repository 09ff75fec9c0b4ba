//! Rows of deliveries: how a record lies in the database, with its request, its attempts and its result.

use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use rusqlite::types::{ToSql, Type};
use rusqlite::{Connection, OptionalExtension as _, Row as Found, Statement, params};
use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{Id, Kind, Lane, Record, Request, Seq, State, Token};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;

use super::limit;
use super::statements::Statements;
use crate::deliveries::rows::{ANSWER_BYTES_MAX, ATTEMPTS_KEPT, Row, Unnamed, whole, words};
use crate::deliveries::tables::Fault;
use crate::deliveries::{Attempt, Kept};

/// The columns that [`read`] reads, in its order.
macro_rules! columns {
    () => {
        "seq, state, until, token, attempts, line, owner, high, low, priority, rank, created, due, expires, \
         attempts_max, waits_for, key, ordered, open_max, place, sole, marks, bytes, kept, forgotten, progress, why"
    };
}
pub(super) use columns;

pub(super) fn number(row: &Found<'_>, place: usize) -> rusqlite::Result<u64> {
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
fn read(row: &Found<'_>) -> rusqlite::Result<Unnamed> {
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
    let lane = match row.get::<_, Option<Arc<str>>>(16)? {
        None => None,
        Some(key) => Some(Lane { key, ordered: row.get(17)?, open_max: row.get(18)? }),
    };
    let priority = Priority::ALL.get(usize::from(row.get::<_, u8>(9)?)).copied();
    let place = row.get::<_, Option<u8>>(19)?.and_then(Place::of);
    let record = Record {
        id: id_of(row.get(7)?, row.get(8)?),
        seq: Seq(number(row, 0)?),
        queue: Arc::default(),
        tenant: Arc::default(),
        lane,
        priority: priority.ok_or_else(|| odd(9, "a priority that there is not"))?,
        rank: row.get(10)?,
        created: number(row, 11)?,
        due: number(row, 12)?,
        expires: perhaps(row, 13)?,
        state,
        attempts: row.get(4)?,
        attempts_max: row.get(14)?,
        waits_for: row.get(15)?,
        token,
        progress: row.get::<_, Option<Vec<u8>>>(25)?.map(Bytes::from),
        why: row.get(26)?,
        forgotten: perhaps(row, 24)?,
    };
    Ok(Unnamed(Row {
        record,
        line: row.get(5)?,
        owner: row.get(6)?,
        place,
        sole: row.get(20)?,
        marks: row.get(21)?,
        bytes: number(row, 22)?,
        kept: number(row, 23)?,
    }))
}

pub(super) fn load(statements: &mut Statements<'_>, seq: Seq) -> Result<Option<Unnamed>, Fault> {
    let sql = concat!("SELECT ", columns!(), " FROM deliveries WHERE seq = ?1");
    Ok(statements.get(sql)?.query_row([whole(seq.0)], read).optional()?)
}

/// Rows of [`columns!`].
pub(super) fn several(
    connection: &Connection,
    sql: &str,
    bounds: impl rusqlite::Params,
) -> Result<Vec<Unnamed>, Fault> {
    let mut select = connection.prepare_cached(sql)?;
    let found = select.query_map(bounds, read)?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Places of deliveries.
pub(super) fn seqs<const N: usize>(
    connection: &Connection,
    sql: &str,
    bounds: [i64; N],
) -> Result<Vec<Seq>, Fault> {
    let mut select = connection.prepare_cached(sql)?;
    let bounds = rusqlite::params_from_iter(bounds);
    let found = select.query_map(bounds, |row| number(row, 0).map(Seq))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// The first halves of the ids that there are in the neighbourhood of one, so many at most.
pub(super) fn neighbours<T: FromIterator<i64>>(
    connection: &Connection,
    id: Id,
    most: usize,
) -> Result<T, Fault> {
    let mut select = connection
        .prepare_cached("SELECT DISTINCT high FROM deliveries WHERE high BETWEEN ?1 AND ?2 LIMIT ?3")?;
    let (first, last) = id.neighbourhood();
    let bounds = params![halves(first).0, halves(last).0, limit(most)];
    Ok(select.query_map(bounds, |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn find(statements: &mut Statements<'_>, id: Id) -> Result<Option<Seq>, Fault> {
    let (high, low) = halves(id);
    let select = statements.get("SELECT seq FROM deliveries WHERE high = ?1 AND low = ?2")?;
    Ok(select.query_row([high, low], |row| number(row, 0).map(Seq)).optional()?)
}

pub(super) fn insert(statements: &mut Statements<'_>, row: &Row) -> Result<(), Fault> {
    let record = &row.record;
    let (high, low) = halves(record.id);
    let insert = statements.get(
        "INSERT INTO deliveries (seq, state, until, token, attempts, kept, due, forgotten, why, priority, rank, expires,
             attempts_max, waits_for, key, ordered, open_max, place, turn, sole, marks, bytes, progress,
             line, owner, high, low, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
             ?23, ?24, ?25, ?26, ?27, ?28)",
    )?;
    bind(insert, row)?;
    for (place, value) in (24..).zip([row.line, row.owner, high, low, whole(record.created)]) {
        insert.raw_bind_parameter(place, value)?;
    }
    insert.raw_execute()?;
    Ok(())
}

/// Writes what has changed, by the statement that touches the fewest indices.
pub(super) fn update(statements: &mut Statements<'_>, before: &Row, after: &Row) -> Result<(), Fault> {
    let (old, new) = (&before.record, &after.record);
    let (seq, state) = (whole(new.seq.0), new.state.kind() as u8);
    let same_place = before.place == after.place && new.lane == old.lane && new.rank == old.rank;
    let same_rest = new.progress == old.progress
        && (new.priority, new.expires, new.attempts_max) == (old.priority, old.expires, old.attempts_max)
        && (new.waits_for, after.marks, after.bytes) == (old.waits_for, before.marks, before.bytes)
        && before.sole == after.sole;
    if !same_place || !same_rest {
        return update_all(statements, after);
    }
    let (token, kept) = (whole(new.token.0), whole(after.kept));
    if new.forgotten == old.forgotten && new.due == old.due && new.why == old.why {
        statements
            .get(
                "UPDATE deliveries SET state = ?2, until = ?3, token = ?4, attempts = ?5, kept = ?6 WHERE seq = ?1",
            )?
            .execute(params![seq, state, until(new), token, new.attempts, kept])?;
        return Ok(());
    }
    let (due, forgotten, why) = (whole(new.due), new.forgotten.map(whole), new.why.as_deref().map(words));
    statements
        .get(
            "UPDATE deliveries SET state = ?2, until = ?3, token = ?4, attempts = ?5, kept = ?6, due = ?7, forgotten = ?8,
                 why = ?9 WHERE seq = ?1",
        )?
        .execute(params![seq, state, until(new), token, new.attempts, kept, due, forgotten, why])?;
    Ok(())
}

fn update_all(statements: &mut Statements<'_>, row: &Row) -> Result<(), Fault> {
    let update = statements.get(
        "UPDATE deliveries SET state = ?2, until = ?3, token = ?4, attempts = ?5, kept = ?6, due = ?7, forgotten = ?8,
             why = ?9, priority = ?10, rank = ?11, expires = ?12, attempts_max = ?13, waits_for = ?14, key = ?15,
             ordered = ?16, open_max = ?17, place = ?18, turn = ?19, sole = ?20, marks = ?21, bytes = ?22, progress = ?23
         WHERE seq = ?1",
    )?;
    bind(update, row)?;
    update.raw_execute()?;
    Ok(())
}

pub(super) fn until(record: &Record) -> Option<i64> {
    match record.state {
        State::Leased { until, .. } => Some(whole(until)),
        _ => None,
    }
}

/// What may change of a delivery, in the order of [`update_all`].
fn bind(statement: &mut Statement<'_>, row: &Row) -> rusqlite::Result<()> {
    let record = &row.record;
    let lane = record.lane.as_ref();
    let values: [&dyn ToSql; 23] = [
        &whole(record.seq.0),
        &(record.state.kind() as u8),
        &until(record),
        &whole(record.token.0),
        &record.attempts,
        &whole(row.kept),
        &whole(record.due),
        &record.forgotten.map(whole),
        &record.why.as_deref().map(words),
        &(record.priority as u8),
        &record.rank,
        &record.expires.map(whole),
        &record.attempts_max,
        &record.waits_for,
        &lane.map(|lane| &*lane.key),
        &lane.map(|lane| lane.ordered),
        &lane.map(|lane| lane.open_max),
        &row.place.map(|place| place as u8),
        &row.turn(),
        &row.sole.as_deref(),
        &row.marks,
        &whole(row.bytes),
        &record.progress.as_deref(),
    ];
    (1..).zip(values).try_for_each(|(place, value)| statement.raw_bind_parameter(place, value))
}

pub(super) fn put_marks(connection: &Connection, seq: Seq, marks: u8) -> Result<(), Fault> {
    let mut update = connection.prepare_cached("UPDATE deliveries SET marks = ?2 WHERE seq = ?1")?;
    update.execute(params![whole(seq.0), marks])?;
    Ok(())
}

/// Writes a request in the place of an earlier one.
pub(super) fn put_request(
    statements: &mut Statements<'_>,
    seq: Seq,
    request: &Request,
    edits: u64,
) -> Result<(), Fault> {
    let mut fields = Vec::with_capacity(request.fields.bytes());
    request.fields.pack_short(&mut fields);
    let put = statements.get(
        "INSERT OR REPLACE INTO requests (seq, method, target, fields, body, edits) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    put.execute(params![
        whole(seq.0),
        request.method.as_str(),
        &*request.target,
        fields,
        &*request.body,
        whole(edits),
    ])?;
    Ok(())
}

pub(super) fn request(connection: &Connection, seq: Seq) -> Result<Option<(Arc<Request>, u64)>, Fault> {
    let mut select = connection
        .prepare_cached("SELECT method, target, fields, body, edits FROM requests WHERE seq = ?1")?;
    let found = select.query_row([whole(seq.0)], |row| {
        let method = Method::from_str(row.get_ref(0)?.as_str()?).map_err(|_| odd(0, "no method"))?;
        let request = Request { method, target: row.get(1)?, fields: fields(row, 2)?, body: body(row, 3)? };
        Ok((Arc::new(request), number(row, 4)?))
    });
    Ok(found.optional()?)
}

fn fields(row: &Found<'_>, place: usize) -> rusqlite::Result<Fields> {
    Fields::unpack(row.get_ref(place)?.as_blob()?).ok_or_else(|| odd(place, "no fields"))
}

fn body(row: &Found<'_>, place: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(place).map(Bytes::from)
}

pub(super) fn put_result(
    statements: &mut Statements<'_>,
    seq: Seq,
    result: &Kept,
    fields: &[u8],
) -> Result<(), Fault> {
    let put = statements.get(
        "INSERT OR REPLACE INTO results (seq, status, fields, body, whole) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    put.execute(params![whole(seq.0), result.status, fields, &*result.body, result.whole])?;
    Ok(())
}

pub(super) fn result(connection: &Connection, seq: Seq) -> Result<Option<Kept>, Fault> {
    let mut select =
        connection.prepare_cached("SELECT status, fields, body, whole FROM results WHERE seq = ?1")?;
    let found = select.query_row([whole(seq.0)], |row| {
        Ok(Kept { status: row.get(0)?, fields: fields(row, 1)?, body: body(row, 2)?, whole: row.get(3)? })
    });
    Ok(found.optional()?)
}

pub(super) fn answered(connection: &Connection, seq: Seq) -> Result<Option<u16>, Fault> {
    let mut select = connection.prepare_cached("SELECT status FROM results WHERE seq = ?1 AND whole")?;
    Ok(select.query_row([whole(seq.0)], |row| row.get(0)).optional()?)
}

pub(super) fn put_attempt(
    statements: &mut Statements<'_>,
    seq: Seq,
    token: Token,
    attempt: &Attempt,
) -> Result<(), Fault> {
    let answer = &attempt.answer[..attempt.answer.len().min(ANSWER_BYTES_MAX)];
    statements
        .get(
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
        statements
            .get("DELETE FROM attempts WHERE seq = ?1 AND token <= ?2")?
            .execute([whole(seq.0), whole(token.0 - ATTEMPTS_KEPT)])?;
    }
    Ok(())
}

pub(super) fn attempts(connection: &Connection, seq: Seq) -> Result<Vec<Attempt>, Fault> {
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
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// What there may be of a delivery is told by its row: what no such row has is not looked for.
pub(super) fn remove(connection: &Connection, row: &Row) -> Result<(), Fault> {
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
