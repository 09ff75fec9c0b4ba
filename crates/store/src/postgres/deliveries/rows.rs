//! How a delivery's row, a line and what is kept beside them lie in PostgreSQL.

use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{Id, Kind, Lane, Record, Request, Seq, State, Token};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tokio_postgres::Row as Found;
use tokio_postgres::types::FromSql;

use crate::deliveries::rows::{Row, Unnamed};
use crate::deliveries::tables::{Fault, Tally};
use crate::deliveries::{Attempt, Kept, Line};

/// The columns that [`unnamed`] reads, in its order, of a table that is called `d`.
macro_rules! columns {
    () => {
        "d.seq, d.age, d.state, d.until, d.token, d.attempts, d.line, d.owner, d.high, d.low, d.priority, d.rank, \
         d.created, d.due, d.expires, d.attempts_max, d.waits_for, d.key, d.ordered, d.open_max, d.place, d.sole, \
         d.marks, d.bytes, d.kept, d.forgotten, d.progress, d.why"
    };
}
/// The columns that [`tally`] reads, in its order, of a table that is called `l`.
macro_rules! line_columns {
    () => {
        "l.line, l.queue, l.tenant, l.owner, l.blocked, l.scheduled, l.ready, l.leased, l.delivered, l.dead, \
         l.cancelled, l.bytes"
    };
}
/// The columns that [`request`] reads, behind the place, of a table that is called `r`.
macro_rules! request_columns {
    () => {
        "r.seq, r.edits, r.method, r.target, r.fields, r.body"
    };
}
pub(super) use {columns, line_columns, request_columns};

const ODD: Fault = Fault::Odd("a column has another type");

/// What stands in a column.
pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Found, place: usize) -> Result<T, Fault> {
    row.try_get(place).map_err(|_| ODD)
}

/// A number that is never below 0.
pub(super) fn number(row: &Found, place: usize) -> Result<u64, Fault> {
    Ok(u64::try_from(get::<i64>(row, place)?).unwrap_or_default())
}

fn perhaps(row: &Found, place: usize) -> Result<Option<u64>, Fault> {
    Ok(get::<Option<i64>>(row, place)?.map(|number| u64::try_from(number).unwrap_or_default()))
}

/// One that is no larger than its kind.
fn small<T: TryFrom<i64>>(row: &Found, place: usize) -> Result<T, Fault> {
    T::try_from(get::<i64>(row, place)?).map_err(|_| Fault::Odd("a number is too large"))
}

/// A text that is there as bytes.
pub(super) fn text(bytes: &[u8]) -> Result<Arc<str>, Fault> {
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| Fault::Odd("a text is none"))
}

fn perhaps_text(row: &Found, place: usize) -> Result<Option<Arc<str>>, Fault> {
    get::<Option<&[u8]>>(row, place)?.map(text).transpose()
}

fn bytes(row: &Found, place: usize) -> Result<Bytes, Fault> {
    get::<&[u8]>(row, place).map(Bytes::copy_from_slice)
}

fn fields(row: &Found, place: usize) -> Result<Fields, Fault> {
    Fields::unpack(get(row, place)?).ok_or(Fault::Odd("no fields"))
}

/// Two halves of an id.
pub(super) fn halves(id: Id) -> (i64, i64) {
    ((id.0 >> 64) as i64, id.0 as i64)
}

pub(super) fn id_of(high: i64, low: i64) -> Id {
    Id(u128::from(high as u64) << 64 | u128::from(low as u64))
}

/// A row of [`columns!`], and its age.
pub(super) fn unnamed(row: &Found) -> Result<(Unnamed, i32), Fault> {
    let token = Token(number(row, 4)?);
    let kind = u8::try_from(get::<i16>(row, 2)?).ok().and_then(Kind::of);
    let state = match kind.ok_or(Fault::Odd("a state that there is not"))? {
        Kind::Blocked => State::Blocked,
        Kind::Scheduled => State::Scheduled,
        Kind::Ready => State::Ready,
        Kind::Leased => State::Leased { token, until: number(row, 3)? },
        Kind::Delivered => State::Delivered,
        Kind::Dead => State::Dead,
        Kind::Cancelled => State::Cancelled,
    };
    let lane = match perhaps_text(row, 17)? {
        None => None,
        Some(key) => Some(Lane { key, ordered: get(row, 18)?, open_max: small(row, 19)? }),
    };
    let priority = usize::try_from(get::<i16>(row, 10)?).ok().and_then(|place| Priority::ALL.get(place));
    let place = get::<Option<i16>>(row, 20)?.and_then(|place| u8::try_from(place).ok()).and_then(Place::of);
    let nobody: Arc<str> = Arc::default();
    let record = Record {
        id: id_of(get(row, 8)?, get(row, 9)?),
        seq: Seq(number(row, 0)?),
        queue: Arc::clone(&nobody),
        tenant: nobody,
        lane,
        priority: *priority.ok_or(Fault::Odd("a priority that there is not"))?,
        rank: get(row, 11)?,
        created: number(row, 12)?,
        due: number(row, 13)?,
        expires: perhaps(row, 14)?,
        state,
        attempts: small(row, 5)?,
        attempts_max: get::<Option<i64>>(row, 15)?.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
        waits_for: small(row, 16)?,
        token,
        progress: get::<Option<&[u8]>>(row, 26)?.map(Bytes::copy_from_slice),
        why: get::<Option<&str>>(row, 27)?.map(Arc::from),
        forgotten: perhaps(row, 25)?,
    };
    let unnamed = Unnamed(Row {
        record,
        line: get(row, 6)?,
        owner: get(row, 7)?,
        place,
        sole: perhaps_text(row, 21)?,
        marks: u8::try_from(get::<i16>(row, 22)?).unwrap_or_default(),
        bytes: number(row, 23)?,
        kept: number(row, 24)?,
    });
    Ok((unnamed, get(row, 1)?))
}

/// A row of [`line_columns!`].
pub(super) fn tally(row: &Found) -> Result<Tally, Fault> {
    let mut counts = [0; 7];
    for (place, count) in counts.iter_mut().enumerate() {
        *count = get(row, place + 4)?;
    }
    let names = Line { queue: get::<&str>(row, 1)?.into(), tenant: get::<&str>(row, 2)?.into() };
    Ok(Tally { number: get(row, 0)?, names, owner: get(row, 3)?, counts, bytes: get(row, 11)? })
}

/// A row of [`request_columns!`]: whose request, what it says, and how often it was changed.
pub(super) fn request(row: &Found) -> Result<(Seq, Arc<Request>, u64), Fault> {
    let method = Method::from_str(get(row, 2)?).map_err(|_| Fault::Odd("no method"))?;
    let target = get::<&str>(row, 3)?.into();
    let request = Request { method, target, fields: fields(row, 4)?, body: bytes(row, 5)? };
    Ok((Seq(number(row, 0)?), Arc::new(request), number(row, 1)?))
}

/// A row of `status, fields, body, whole`.
pub(super) fn result(row: &Found) -> Result<Kept, Fault> {
    Ok(Kept {
        status: status(get(row, 0)?),
        fields: fields(row, 1)?,
        body: bytes(row, 2)?,
        whole: get(row, 3)?,
    })
}

pub(super) fn status(number: i32) -> u16 {
    u16::try_from(number).unwrap_or_default()
}

/// A row of `number, began, took, status, why, answer`.
pub(super) fn attempt(row: &Found) -> Result<Attempt, Fault> {
    Ok(Attempt {
        number: small(row, 0)?,
        began: number(row, 1)?,
        took: number(row, 2)?,
        status: get::<Option<i32>>(row, 3)?.map(status),
        why: get::<Option<&str>>(row, 4)?.map(Arc::from),
        answer: bytes(row, 5)?,
    })
}
