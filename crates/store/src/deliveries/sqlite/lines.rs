//! Lines, with what was counted of them and the turns of their keys that are held.

use rusqlite::{Connection, OptionalExtension as _, Row as Found, params};

use super::limit;
use crate::deliveries::Line;
use crate::deliveries::tables::{Fault, Tally};

/// The columns that [`read`] reads, in its order.
macro_rules! columns {
    () => {
        "line, queue, tenant, owner, blocked, scheduled, ready, leased, delivered, dead, cancelled, bytes"
    };
}

fn read(row: &Found<'_>) -> rusqlite::Result<Tally> {
    let mut counts = [0; 7];
    for (place, count) in counts.iter_mut().enumerate() {
        *count = row.get(place + 4)?;
    }
    let names = Line { queue: row.get(1)?, tenant: row.get(2)? };
    Ok(Tally { number: row.get(0)?, names, owner: row.get(3)?, counts, bytes: row.get(11)? })
}

pub(super) fn find(connection: &Connection, names: &Line) -> Result<Option<Tally>, Fault> {
    let sql = concat!("SELECT ", columns!(), " FROM lines WHERE queue = ?1 AND tenant = ?2");
    let mut select = connection.prepare_cached(sql)?;
    Ok(select.query_row(params![&*names.queue, &*names.tenant], read).optional()?)
}

pub(super) fn load(connection: &Connection, number: i64) -> Result<Option<Tally>, Fault> {
    let sql = concat!("SELECT ", columns!(), " FROM lines WHERE line = ?1");
    Ok(connection.prepare_cached(sql)?.query_row([number], read).optional()?)
}

pub(super) fn owner(connection: &Connection, tenant: &str) -> Result<Option<i64>, Fault> {
    let mut select = connection.prepare_cached("SELECT owner FROM lines WHERE tenant = ?1 LIMIT 1")?;
    Ok(select.query_row([tenant], |row| row.get(0)).optional()?)
}

pub(super) fn bytes(connection: &Connection, tenant: &str) -> Result<Vec<(i64, i64)>, Fault> {
    let mut select = connection.prepare_cached("SELECT line, bytes FROM lines WHERE tenant = ?1")?;
    let found = select.query_map([tenant], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn insert(connection: &Connection, names: &Line, owner: Option<i64>) -> Result<i64, Fault> {
    connection
        .prepare_cached(
            "INSERT INTO lines (queue, tenant, owner, blocked, scheduled, ready, leased, delivered, dead, cancelled, bytes)
             VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0, 0, 0)",
        )?
        .execute(params![&*names.queue, &*names.tenant, owner.unwrap_or_default()])?;
    let number = connection.last_insert_rowid();
    if owner.is_none() {
        connection.prepare_cached("UPDATE lines SET owner = line WHERE line = ?1")?.execute([number])?;
    }
    Ok(number)
}

pub(super) fn put(connection: &Connection, tally: &Tally) -> Result<(), Fault> {
    if tally.is_empty() {
        connection.prepare_cached("DELETE FROM lines WHERE line = ?1")?.execute([tally.number])?;
        connection.prepare_cached("DELETE FROM lanes WHERE line = ?1")?.execute([tally.number])?;
        return Ok(());
    }
    let [blocked, scheduled, ready, leased, delivered, dead, cancelled] = tally.counts;
    connection
        .prepare_cached(
            "UPDATE lines SET blocked = ?2, scheduled = ?3, ready = ?4, leased = ?5, delivered = ?6, dead = ?7,
                 cancelled = ?8, bytes = ?9 WHERE line = ?1",
        )?
        .execute(params![
            tally.number,
            blocked,
            scheduled,
            ready,
            leased,
            delivered,
            dead,
            cancelled,
            tally.bytes
        ])?;
    connection
        .prepare_cached("UPDATE lines SET begins = ?2 WHERE line = ?1 AND begins <> ?2")?
        .execute(params![tally.number, ready > 0])?;
    Ok(())
}

pub(super) fn ready(connection: &Connection, after: Option<&Line>, most: usize) -> Result<Vec<Line>, Fault> {
    let (queue, tenant) = after.map_or(("", ""), |line| (&line.queue, &line.tenant));
    let mut select = connection.prepare_cached(
        "SELECT queue, tenant FROM lines INDEXED BY lines_begins
         WHERE begins AND (queue, tenant) > (?1, ?2) ORDER BY queue, tenant LIMIT ?3",
    )?;
    let found = select.query_map(params![queue, tenant, limit(most)], |row| {
        Ok(Line { queue: row.get(0)?, tenant: row.get(1)? })
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn open(connection: &Connection, line: i64, key: &str) -> Result<u32, Fault> {
    let mut select = connection.prepare_cached("SELECT open FROM lanes WHERE line = ?1 AND key = ?2")?;
    let open = select.query_row(params![line, key], |row| row.get(0)).optional()?;
    Ok(open.unwrap_or_default())
}

pub(super) fn put_open(connection: &Connection, line: i64, key: &str, open: u32) -> Result<(), Fault> {
    if open == 0 {
        let mut delete = connection.prepare_cached("DELETE FROM lanes WHERE line = ?1 AND key = ?2")?;
        delete.execute(params![line, key])?;
    } else {
        let mut put = connection
            .prepare_cached("INSERT OR REPLACE INTO lanes (line, key, open) VALUES (?1, ?2, ?3)")?;
        put.execute(params![line, key, open])?;
    }
    Ok(())
}
