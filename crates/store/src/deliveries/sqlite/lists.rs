//! What people and their tools ask for: pages, sums, what is paused.

use rusqlite::{Connection, params};
use tidegate_model::delivery::{Kind, Seq};

use super::limit;
use super::rows::{columns, number, several};
use crate::deliveries::rows::{Unnamed, whole};
use crate::deliveries::tables::{Among, Fault};
use crate::deliveries::{Depth, Line, Pause, Total};

pub(super) fn page(
    connection: &Connection,
    among: Among,
    before: Seq,
    most: usize,
) -> Result<Vec<Unnamed>, Fault> {
    let (sql, of) = match among {
        Among::Owner(owner) => (
            concat!(
                "SELECT ",
                columns!(),
                " FROM deliveries INDEXED BY deliveries_owner
                  WHERE owner = ?3 AND seq < ?1 ORDER BY seq DESC LIMIT ?2"
            ),
            owner,
        ),
        Among::Few(kind) => (
            concat!(
                "SELECT ",
                columns!(),
                " FROM deliveries INDEXED BY deliveries_few
                  WHERE state > 2 AND state <> 4 AND state = ?3 AND seq < ?1 ORDER BY seq DESC LIMIT ?2"
            ),
            kind as i64,
        ),
        Among::All => (
            concat!(
                "SELECT ",
                columns!(),
                " FROM deliveries WHERE seq < ?1 AND ?3 = 0 ORDER BY seq DESC LIMIT ?2"
            ),
            0,
        ),
    };
    several(connection, sql, params![whole(before.0), limit(most), of])
}

const COUNTS: &str = "blocked, scheduled, ready, leased, delivered, dead, cancelled";

pub(super) fn depths(
    connection: &Connection,
    queue: Option<&str>,
    tenant: Option<&str>,
    after: Option<&Line>,
    most: usize,
) -> Result<Vec<Depth>, Fault> {
    let names = after.map_or(("", ""), |line| (&line.queue, &line.tenant));
    let sql = match tenant {
        Some(_) => "(queue, tenant) > (?1, ?2) AND (?3 IS NULL OR queue = ?3) AND tenant = ?4",
        None if queue.is_some() => "(queue, tenant) > (?1, ?2) AND queue = ?3 AND ?4 IS NULL",
        None => "(queue, tenant) > (?1, ?2) AND ?3 IS NULL AND ?4 IS NULL",
    };
    let sql = format!(
        "SELECT {COUNTS}, queue, tenant, bytes FROM lines WHERE {sql} ORDER BY queue, tenant LIMIT {most}"
    );
    let mut select = connection.prepare(&sql)?;
    let found = select.query_map(params![names.0, names.1, queue, tenant], |row| {
        let line = Line { queue: row.get(7)?, tenant: row.get(8)? };
        Ok(Depth { line, counts: counts(row)?, bytes: number(row, 9)? })
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn counts(row: &rusqlite::Row<'_>) -> rusqlite::Result<[u64; 7]> {
    let mut counts = [0; 7];
    for (place, count) in counts.iter_mut().enumerate() {
        *count = number(row, place)?;
    }
    Ok(counts)
}

pub(super) fn totals(connection: &Connection, lines_max: usize) -> Result<Vec<Total>, Fault> {
    let mut select = connection.prepare_cached(
        "SELECT sum(blocked), sum(scheduled), sum(ready), sum(leased), sum(delivered), sum(dead), sum(cancelled), queue,
             sum(bytes), count(*)
         FROM lines GROUP BY queue ORDER BY queue",
    )?;
    let found = select.query_map((), |row| {
        let (queue, counts) = (row.get(7)?, counts(row)?);
        Ok(Total { queue, counts, bytes: number(row, 8)?, lines: number(row, 9)?, oldest: None })
    })?;
    let mut totals = found.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut oldest = connection.prepare_cached(
        "SELECT min((SELECT due FROM deliveries INDEXED BY deliveries_ready
                     WHERE state = 2 AND deliveries.line = first.line ORDER BY rank LIMIT 1))
         FROM (SELECT line FROM lines INDEXED BY lines_begins WHERE begins AND queue = ?1 LIMIT ?2) AS first",
    )?;
    for total in totals.iter_mut().filter(|total| total.counts[Kind::Ready as usize] > 0) {
        let due: Option<i64> =
            oldest.query_row(params![&*total.queue, limit(lines_max)], |row| row.get(0))?;
        total.oldest = due.and_then(|due| u64::try_from(due).ok());
    }
    Ok(totals)
}

pub(super) fn pauses(connection: &Connection) -> Result<Vec<Pause>, Fault> {
    let mut select = connection
        .prepare_cached("SELECT kind, queue, tenant, key FROM pauses ORDER BY kind, queue, tenant, key")?;
    let found = select
        .query_map((), |row| Ok(Pause::of_columns(row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn put_pause(connection: &Connection, pause: &Pause, most: usize) -> Result<bool, Fault> {
    let (kind, queue, tenant, key) = pause.columns();
    let mut is = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM pauses WHERE kind = ?1 AND queue = ?2 AND tenant = ?3 AND key = ?4)",
    )?;
    if is.query_row(params![kind, queue, tenant, key], |row| row.get(0))? {
        return Ok(true);
    }
    let mut count = connection.prepare_cached("SELECT count(*) FROM pauses")?;
    if count.query_row((), |row| number(row, 0))? >= most as u64 {
        return Ok(false);
    }
    connection
        .prepare_cached("INSERT INTO pauses (kind, queue, tenant, key) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![kind, queue, tenant, key])?;
    Ok(true)
}

pub(super) fn remove_pause(connection: &Connection, pause: &Pause) -> Result<(), Fault> {
    let (kind, queue, tenant, key) = pause.columns();
    connection
        .prepare_cached("DELETE FROM pauses WHERE kind = ?1 AND queue = ?2 AND tenant = ?3 AND key = ?4")?
        .execute(params![kind, queue, tenant, key])?;
    Ok(())
}
