//! What follows from what: what is one of a kind, what comes after what, what is made at the end, what is left to be done.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};
use tidegate_model::delivery::Seq;

use super::limit;
use super::rows::{halves, id_of, number, seqs};
use crate::deliveries::Callback;
use crate::deliveries::rows::whole;
use crate::deliveries::tables::{Fault, Sole, Work};

pub(super) fn unique(connection: &Connection, line: i64, key: &str) -> Result<Option<Sole>, Fault> {
    let mut select = connection
        .prepare_cached("SELECT seq, until, fingerprint FROM uniques WHERE line = ?1 AND key = ?2")?;
    let found = select.query_row(params![line, key], |row| {
        Ok(Sole { seq: Seq(number(row, 0)?), until: number(row, 1)?, fingerprint: row.get(2)? })
    });
    Ok(found.optional()?)
}

pub(super) fn put_unique(connection: &Connection, line: i64, key: &str, sole: &Sole) -> Result<(), Fault> {
    let mut put = connection.prepare_cached(
        "INSERT OR REPLACE INTO uniques (line, key, seq, until, fingerprint) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    put.execute(params![line, key, whole(sole.seq.0), whole(sole.until), sole.fingerprint])?;
    Ok(())
}

pub(super) fn comes_after(connection: &Connection, first: Seq, seq: Seq) -> Result<bool, Fault> {
    let mut select =
        connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM afters WHERE first = ?1 AND seq = ?2)")?;
    Ok(select.query_row([whole(first.0), whole(seq.0)], |row| row.get(0))?)
}

pub(super) fn insert_after(connection: &Connection, first: Seq, seq: Seq) -> Result<(), Fault> {
    let mut insert = connection.prepare_cached("INSERT INTO afters (first, seq) VALUES (?1, ?2)")?;
    insert.execute([whole(first.0), whole(seq.0)])?;
    Ok(())
}

pub(super) fn afters(
    connection: &Connection,
    first: Seq,
    after: Seq,
    most: usize,
) -> Result<Vec<Seq>, Fault> {
    let sql = "SELECT seq FROM afters WHERE first = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
    seqs(connection, sql, [whole(first.0), whole(after.0), limit(most)])
}

pub(super) fn remove_after(connection: &Connection, first: Seq, seq: Seq) -> Result<(), Fault> {
    let mut delete = connection.prepare_cached("DELETE FROM afters WHERE first = ?1 AND seq = ?2")?;
    delete.execute([whole(first.0), whole(seq.0)])?;
    Ok(())
}

pub(super) fn remove_firsts(connection: &Connection, seq: Seq) -> Result<(), Fault> {
    connection.prepare_cached("DELETE FROM afters WHERE seq = ?1")?.execute([whole(seq.0)])?;
    Ok(())
}

pub(super) fn callback(connection: &Connection, seq: Seq) -> Result<Option<Callback>, Fault> {
    let mut select =
        connection.prepare_cached("SELECT high, low, queue, target FROM callbacks WHERE seq = ?1")?;
    let found = select.query_row([whole(seq.0)], |row| {
        Ok(Callback { id: id_of(row.get(0)?, row.get(1)?), queue: row.get(2)?, target: row.get(3)? })
    });
    Ok(found.optional()?)
}

pub(super) fn put_callback(connection: &Connection, seq: Seq, callback: &Callback) -> Result<(), Fault> {
    let (high, low) = halves(callback.id);
    let mut put = connection.prepare_cached(
        "INSERT OR REPLACE INTO callbacks (seq, high, low, queue, target) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    put.execute(params![whole(seq.0), high, low, &*callback.queue, &*callback.target])?;
    Ok(())
}

pub(super) fn remove_callback(connection: &Connection, seq: Seq) -> Result<(), Fault> {
    connection.prepare_cached("DELETE FROM callbacks WHERE seq = ?1")?.execute([whole(seq.0)])?;
    Ok(())
}

/// What is left to be done, as it lies in the database: kind, place, key.
fn columns_of(work: &Work) -> (u8, i64, &str) {
    match work {
        Work::Ended(seq) => (0, whole(seq.0), ""),
        Work::Lane(line, key) => (1, *line, key),
    }
}

pub(super) fn next_work(connection: &Connection) -> Result<Option<Work>, Fault> {
    let mut select =
        connection.prepare_cached("SELECT kind, place, key FROM works ORDER BY kind, place, key LIMIT 1")?;
    let found = select.query_row((), |row| {
        Ok(match row.get::<_, u8>(0)? {
            0 => Work::Ended(Seq(number(row, 1)?)),
            _ => Work::Lane(row.get(1)?, row.get::<_, Arc<str>>(2)?),
        })
    });
    Ok(found.optional()?)
}

pub(super) fn put_work(connection: &Connection, work: &Work) -> Result<(), Fault> {
    let (kind, place, key) = columns_of(work);
    let mut insert =
        connection.prepare_cached("INSERT OR IGNORE INTO works (kind, place, key) VALUES (?1, ?2, ?3)")?;
    insert.execute(params![kind, place, key])?;
    Ok(())
}

pub(super) fn remove_work(connection: &Connection, work: &Work) -> Result<(), Fault> {
    let (kind, place, key) = columns_of(work);
    let mut delete =
        connection.prepare_cached("DELETE FROM works WHERE kind = ?1 AND place = ?2 AND key = ?3")?;
    delete.execute(params![kind, place, key])?;
    Ok(())
}
