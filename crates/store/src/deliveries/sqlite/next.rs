//! What is next: each along the partial index of those that are in question, so that it costs the same beside millions.

use rusqlite::{Connection, params};
use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{Kind, Ms, Seq};

use super::limit;
use super::rows::{columns, number, seqs, several};
use crate::deliveries::rows::{Unnamed, whole};
use crate::deliveries::tables::Fault;

pub(super) fn is_asked_for(connection: &Connection, line: i64, key: &str) -> Result<bool, Fault> {
    let mut select = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_lane
             WHERE line = ?1 AND key = ?2 AND place = ?3 AND place IS NOT NULL)",
    )?;
    Ok(select.query_row(params![line, key, Place::Asks as u8], |row| row.get(0))?)
}

pub(super) fn asking(
    connection: &Connection,
    line: i64,
    key: &str,
    most: usize,
) -> Result<Vec<Unnamed>, Fault> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM deliveries INDEXED BY deliveries_lane
          WHERE line = ?1 AND key = ?2 AND place = ?3 AND place IS NOT NULL ORDER BY turn, seq LIMIT ?4"
    );
    several(connection, sql, params![line, key, Place::Asks as u8, limit(most)])
}

pub(super) fn holding(
    connection: &Connection,
    (line, key): (i64, &str),
    state: Kind,
    after: (i64, Seq),
    most: usize,
) -> Result<Vec<(i64, Seq)>, Fault> {
    let mut select = connection.prepare_cached(
        "SELECT turn, seq FROM deliveries INDEXED BY deliveries_lane
         WHERE line = ?1 AND key = ?2 AND place = ?3 AND place IS NOT NULL AND state = ?7 AND (turn, seq) > (?4, ?5)
         ORDER BY turn, seq LIMIT ?6",
    )?;
    let bounds = params![line, key, Place::Holds as u8, after.0, whole(after.1.0), limit(most), state as u8];
    let found = select.query_map(bounds, |row| Ok((row.get(0)?, Seq(number(row, 1)?))))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn due(connection: &Connection, now: Ms, most: usize) -> Result<Vec<Seq>, Fault> {
    let sql = "SELECT seq FROM deliveries INDEXED BY deliveries_due WHERE state = 1 AND due <= ?1 ORDER BY due LIMIT ?2";
    seqs(connection, sql, [whole(now), limit(most)])
}

pub(super) fn next_due(connection: &Connection) -> Result<Option<Ms>, Fault> {
    let mut select = connection.prepare_cached(
        "SELECT due FROM deliveries INDEXED BY deliveries_due WHERE state = 1 ORDER BY due LIMIT 1",
    )?;
    Ok(select.query_map((), |row| number(row, 0))?.next().transpose()?)
}

pub(super) fn ready(
    connection: &Connection,
    line: i64,
    after: (i64, Seq),
    most: usize,
) -> Result<Vec<Unnamed>, Fault> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM deliveries INDEXED BY deliveries_ready
          WHERE state = 2 AND line = ?1 AND (rank, seq) > (?2, ?3) ORDER BY rank, seq LIMIT ?4"
    );
    several(connection, sql, params![line, after.0, whole(after.1.0), limit(most)])
}

pub(super) fn leased(connection: &Connection, after: Seq, most: usize) -> Result<Vec<Unnamed>, Fault> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM deliveries INDEXED BY deliveries_few
          WHERE state > 2 AND state <> 4 AND state = 3 AND seq > ?1 ORDER BY seq LIMIT ?2"
    );
    several(connection, sql, params![whole(after.0), limit(most)])
}

pub(super) fn expired(connection: &Connection, now: Ms, most: usize) -> Result<Vec<(Seq, i64)>, Fault> {
    let mut select = connection.prepare_cached(
        "SELECT seq, line FROM deliveries INDEXED BY deliveries_expires
         WHERE expires IS NOT NULL AND state < 3 AND expires <= ?1 ORDER BY expires LIMIT ?2",
    )?;
    let found = select.query_map([whole(now), limit(most)], |row| Ok((Seq(number(row, 0)?), row.get(1)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn forgotten(connection: &Connection, now: Ms, most: usize) -> Result<Vec<Unnamed>, Fault> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM deliveries INDEXED BY deliveries_forgotten
          WHERE forgotten IS NOT NULL AND forgotten <= ?1 ORDER BY forgotten LIMIT ?2"
    );
    several(connection, sql, params![whole(now), limit(most)])
}
