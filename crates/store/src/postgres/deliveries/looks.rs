//! Looks at deliveries in PostgreSQL, each by a key or along an index from a place on, within a bound.

use std::sync::Arc;

use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{Kind, Ms, Seq};
use tokio_postgres::types::ToSql;

use super::desk::{Desk, span};
use super::fetch::{absorb_lines, absorb_rows};
use super::rows::{attempt, columns, get, id_of, line_columns, number, result as read_result, status, text};
use super::session::Says;
use crate::deliveries::rows::{Unnamed, whole};
use crate::deliveries::tables::{Fault, Hints, Sole, Tally, Work};
use crate::deliveries::{Attempt, Callback, Kept};

const LINE: &str = concat!("SELECT ", line_columns!(), " FROM lines l WHERE l.line = $1");
const ATTEMPTS: &str = "
    SELECT number, began, took, status, why, answer FROM attempts WHERE age = $1 AND seq = $2 ORDER BY token";
const RESULT: &str = "SELECT status, fields, body, whole FROM results WHERE age = $1 AND seq = $2";
const ANSWERED: &str = "SELECT status FROM results WHERE age = $1 AND seq = $2 AND whole";
const COMES_AFTER: &str = "SELECT seq FROM afters WHERE first = $1 AND seq = $2";
const AFTERS: &str = "SELECT seq FROM afters WHERE first = $1 AND seq > $2 ORDER BY seq LIMIT $3";
const CALLBACK: &str = "SELECT high, low, queue, target FROM callbacks WHERE seq = $1";
const WORK: &str = "SELECT kind, place, key FROM works WHERE shard = $1 ORDER BY kind, place, key LIMIT 1";
const HOLDING: &str = "
    SELECT seq, turn FROM deliveries
    WHERE line = $1 AND key = $2 AND place = $3 AND place IS NOT NULL AND state = $7 AND (turn, seq) > ($4, $5)
    ORDER BY turn, seq LIMIT $6";
const DUE: &str = "
    SELECT seq FROM deliveries WHERE state = 1 AND shard = $1 AND due <= $2 ORDER BY due, seq LIMIT $3";
const NEXT_DUE: &str = "SELECT due FROM deliveries WHERE state = 1 AND shard = $1 ORDER BY due, seq LIMIT 1";
const READY: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries d WHERE d.state = 2 AND d.line = $1 AND (d.rank, d.seq) > ($2, $3)
      ORDER BY d.rank, d.seq LIMIT $4"
);
const LEASED: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries d WHERE d.state = 3 AND d.seq > $1 AND d.seq <= $2 ORDER BY d.seq LIMIT $3"
);
const EXPIRED: &str = "
    SELECT seq, line FROM deliveries WHERE expires IS NOT NULL AND state < 3 AND shard = $1 AND expires <= $2
    ORDER BY expires, seq LIMIT $3";
const FORGOTTEN: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries d WHERE d.forgotten IS NOT NULL AND d.shard = $1 AND d.forgotten <= $2
      ORDER BY d.forgotten, d.seq LIMIT $3"
);

type Values<'a> = Vec<Box<dyn ToSql + Sync + 'a>>;

fn most(count: usize) -> Box<i64> {
    Box::new(i64::try_from(count).unwrap_or(i64::MAX))
}

fn place(seq: Seq) -> Box<i64> {
    Box::new(whole(seq.0))
}

/// Rows along an index, as they are known.
pub(super) fn rows(desk: &mut Desk, sql: &'static str, values: Values<'_>) -> Result<Vec<Unnamed>, Fault> {
    desk.flush_rows()?;
    let found = desk.session.ask(Says::new(sql, values))?;
    let seqs = absorb_rows(&found, &mut desk.known)?;
    let known = seqs.iter().filter_map(|seq| desk.known.rows.get(seq)?.as_ref());
    Ok(known.map(|entry| Unnamed(entry.row.clone())).collect())
}

fn seqs(desk: &mut Desk, sql: &'static str, values: Values<'_>) -> Result<Vec<Seq>, Fault> {
    desk.flush_rows()?;
    desk.session.ask(Says::new(sql, values))?.iter().map(|row| number(row, 0).map(Seq)).collect()
}

pub(super) fn line(desk: &mut Desk, number: i64) -> Result<(), Fault> {
    let found = desk.session.ask(Says::new(LINE, vec![Box::new(number)]))?;
    absorb_lines(&found, &mut desk.known)
}

/// A tenant's lines, the first one first.
pub(super) fn lines_of(desk: &mut Desk, tenant: &str) -> Result<Vec<Tally>, Fault> {
    if !desk.known.tenants.contains_key(tenant) {
        desk.fetch(&Hints { tenants: vec![tenant.into()], ..Hints::default() })?;
    }
    let numbers = desk.known.tenants.get(tenant).into_iter().flatten();
    Ok(numbers.filter_map(|number| desk.known.lines.get(number)).cloned().collect())
}

/// The age of a delivery, where there is one.
fn age(desk: &mut Desk, seq: Seq) -> Result<Option<i32>, Fault> {
    if !desk.known.rows.contains_key(&seq) {
        desk.fetch(&Hints { seqs: vec![seq], ..Hints::default() })?;
    }
    Ok(desk.known.rows.get(&seq).and_then(Option::as_ref).map(|entry| entry.age))
}

pub(super) fn attempts(desk: &mut Desk, seq: Seq) -> Result<Vec<Attempt>, Fault> {
    desk.flush_all()?;
    let Some(age) = age(desk, seq)? else { return Ok(Vec::new()) };
    let found = desk.session.ask(Says::new(ATTEMPTS, vec![Box::new(age), place(seq)]))?;
    found.iter().map(attempt).collect()
}

pub(super) fn result(desk: &mut Desk, seq: Seq) -> Result<Option<Kept>, Fault> {
    desk.flush_all()?;
    let Some(age) = age(desk, seq)? else { return Ok(None) };
    let found = desk.session.ask(Says::new(RESULT, vec![Box::new(age), place(seq)]))?;
    found.first().map(read_result).transpose()
}

pub(super) fn answered(desk: &mut Desk, seq: Seq) -> Result<Option<u16>, Fault> {
    desk.flush_all()?;
    let Some(age) = age(desk, seq)? else { return Ok(None) };
    let found = desk.session.ask(Says::new(ANSWERED, vec![Box::new(age), place(seq)]))?;
    found.first().map(|row| get(row, 0).map(status)).transpose()
}

pub(super) fn unique(desk: &mut Desk, line: i64, key: &str) -> Result<Option<Sole>, Fault> {
    let keyed = (line, Arc::from(key));
    if !desk.known.uniques.contains_key(&keyed) && !desk.pending.new_lines.contains(&line) {
        desk.fetch_unique(&keyed)?;
    }
    Ok(desk.known.uniques.get(&keyed).cloned().flatten())
}

pub(super) fn open(desk: &mut Desk, line: i64, key: &str) -> Result<u32, Fault> {
    let keyed = (line, Arc::from(key));
    if !desk.known.lanes.contains_key(&keyed) && !desk.pending.new_lines.contains(&line) {
        desk.fetch_lane(&keyed)?;
    }
    Ok(desk.known.lanes.get(&keyed).copied().unwrap_or_default())
}

pub(super) fn comes_after(desk: &mut Desk, first: Seq, seq: Seq) -> Result<bool, Fault> {
    Ok(!desk.session.ask(Says::new(COMES_AFTER, vec![place(first), place(seq)]))?.is_empty())
}

pub(super) fn afters(desk: &mut Desk, first: Seq, after: Seq, count: usize) -> Result<Vec<Seq>, Fault> {
    if !desk.pending.afters.is_empty() || !desk.pending.free.is_empty() {
        desk.flush_all()?;
    }
    let found = desk.session.ask(Says::new(AFTERS, vec![place(first), place(after), most(count)]))?;
    found.iter().map(|row| number(row, 0).map(Seq)).collect()
}

pub(super) fn callback(desk: &mut Desk, seq: Seq) -> Result<Option<Callback>, Fault> {
    let found = desk.session.ask(Says::new(CALLBACK, vec![place(seq)]))?;
    let Some(row) = found.first() else { return Ok(None) };
    Ok(Some(Callback {
        id: id_of(get(row, 0)?, get(row, 1)?),
        queue: get::<&str>(row, 2)?.into(),
        target: get::<&str>(row, 3)?.into(),
    }))
}

pub(super) fn next_work(desk: &mut Desk, shard: u16) -> Result<Option<Work>, Fault> {
    if !desk.pending.works.is_empty() {
        desk.flush_all()?;
    }
    let found = desk.session.ask(Says::new(WORK, vec![Box::new(shard as i16)]))?;
    let Some(row) = found.first() else { return Ok(None) };
    Ok(Some(match get::<i16>(row, 0)? {
        0 => Work::Ended(Seq(number(row, 1)?)),
        _ => Work::Lane(get(row, 1)?, text(get(row, 2)?)?),
    }))
}

pub(super) fn holding(
    desk: &mut Desk,
    (line, key): (i64, &str),
    state: Kind,
    (turn, seq): (i64, Seq),
    count: usize,
) -> Result<Vec<(i64, Seq)>, Fault> {
    let holds = Place::Holds as i16;
    let values: Values<'_> = vec![
        Box::new(line),
        Box::new(key.as_bytes()),
        Box::new(holds),
        Box::new(turn),
        place(seq),
        most(count),
        Box::new(state as i16),
    ];
    desk.flush_rows()?;
    let found = desk.session.ask(Says::new(HOLDING, values))?;
    found.iter().map(|row| Ok((get(row, 1)?, Seq(number(row, 0)?)))).collect()
}

pub(super) fn due(desk: &mut Desk, shard: u16, now: Ms, count: usize) -> Result<Vec<Seq>, Fault> {
    seqs(desk, DUE, vec![Box::new(shard as i16), Box::new(whole(now)), most(count)])
}

pub(super) fn next_due(desk: &mut Desk, shard: u16) -> Result<Option<Ms>, Fault> {
    desk.flush_rows()?;
    let found = desk.session.ask(Says::new(NEXT_DUE, vec![Box::new(shard as i16)]))?;
    found.first().map(|row| number(row, 0)).transpose()
}

pub(super) fn ready(
    desk: &mut Desk,
    line: i64,
    (rank, seq): (i64, Seq),
    count: usize,
) -> Result<Vec<Unnamed>, Fault> {
    rows(desk, READY, vec![Box::new(line), Box::new(rank), place(seq), most(count)])
}

pub(super) fn leased(desk: &mut Desk, shard: u16, after: Seq, count: usize) -> Result<Vec<Unnamed>, Fault> {
    let (first, last) = span(shard);
    let after = whole(after.0).max(first);
    rows(desk, LEASED, vec![Box::new(after), Box::new(last), most(count)])
}

pub(super) fn expired(desk: &mut Desk, shard: u16, now: Ms, count: usize) -> Result<Vec<(Seq, i64)>, Fault> {
    desk.flush_rows()?;
    let values: Values<'_> = vec![Box::new(shard as i16), Box::new(whole(now)), most(count)];
    let found = desk.session.ask(Says::new(EXPIRED, values))?;
    found.iter().map(|row| Ok((Seq(number(row, 0)?), get(row, 1)?))).collect()
}

pub(super) fn forgotten(desk: &mut Desk, shard: u16, now: Ms, count: usize) -> Result<Vec<Unnamed>, Fault> {
    rows(desk, FORGOTTEN, vec![Box::new(shard as i16), Box::new(whole(now)), most(count)])
}
