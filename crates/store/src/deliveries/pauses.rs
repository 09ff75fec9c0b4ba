//! Pauses. That a queue, a tenant or a line is paused is only remembered: whoever decides who is next takes nothing from
//! them. A key is paused here: what may be begun of it becomes blocked, and what comes asks for a turn that nobody gets.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, params};
use tidegate_model::delivery::Ms;

use super::ledger::Ledger;
use super::{Line, Pause};

/// Pauses that there may be.
pub(super) const PAUSES_MAX: i64 = 10_000;

fn columns_of(pause: &Pause) -> (u8, &str, &str, &str) {
    match pause {
        Pause::Queue(queue) => (0, queue, "", ""),
        Pause::Tenant(tenant) => (1, "", tenant, ""),
        Pause::Line(line) => (2, &line.queue, &line.tenant, ""),
        Pause::Key(line, key) => (3, &line.queue, &line.tenant, key),
    }
}

/// All of them.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<Pause>> {
    let mut select = connection
        .prepare_cached("SELECT kind, queue, tenant, key FROM pauses ORDER BY kind, queue, tenant, key")?;
    let found = select.query_map((), |row| {
        let (queue, tenant): (Arc<str>, Arc<str>) = (row.get(1)?, row.get(2)?);
        Ok(match row.get::<_, u8>(0)? {
            0 => Pause::Queue(queue),
            1 => Pause::Tenant(tenant),
            2 => Pause::Line(Line { queue, tenant }),
            _ => Pause::Key(Line { queue, tenant }, row.get(3)?),
        })
    })?;
    found.collect()
}

/// The keys among them.
pub(super) fn keys(connection: &Connection) -> rusqlite::Result<HashSet<(Line, Arc<str>)>> {
    let keys = all(connection)?.into_iter().filter_map(|pause| match pause {
        Pause::Key(line, key) => Some((line, key)),
        _ => None,
    });
    Ok(keys.collect())
}

/// Pauses. `false`: there are as many already as there may be.
pub(super) fn pause(ledger: &mut Ledger<'_>, pause: &Pause, now: Ms) -> rusqlite::Result<bool> {
    let count: i64 =
        ledger.connection.prepare_cached("SELECT count(*) FROM pauses")?.query_row((), |row| row.get(0))?;
    if count >= PAUSES_MAX {
        return Ok(false);
    }
    let (kind, queue, tenant, key) = columns_of(pause);
    ledger
        .connection
        .prepare_cached("INSERT OR IGNORE INTO pauses (kind, queue, tenant, key) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![kind, queue, tenant, key])?;
    ledger.pages += 1;
    if let Pause::Key(line, key) = pause {
        ledger.book.paused.insert((line.clone(), Arc::clone(key)));
    }
    look(ledger, pause, now)?;
    Ok(true)
}

/// Ends a pause.
pub(super) fn resume(ledger: &mut Ledger<'_>, pause: &Pause, now: Ms) -> rusqlite::Result<()> {
    let (kind, queue, tenant, key) = columns_of(pause);
    ledger
        .connection
        .prepare_cached("DELETE FROM pauses WHERE kind = ?1 AND queue = ?2 AND tenant = ?3 AND key = ?4")?
        .execute(params![kind, queue, tenant, key])?;
    ledger.pages += 1;
    if let Pause::Key(line, key) = pause {
        ledger.book.paused.remove(&(line.clone(), Arc::clone(key)));
    }
    look(ledger, pause, now)
}

fn look(ledger: &mut Ledger<'_>, pause: &Pause, now: Ms) -> rusqlite::Result<()> {
    if let Pause::Key(line, key) = pause
        && let Some(line) = ledger.book.lines.find(ledger.connection, line)?
    {
        ledger.look_at_lane(line, key, now)?;
        ledger.follow_up(now)?;
    }
    ledger.tell_followers();
    Ok(())
}
