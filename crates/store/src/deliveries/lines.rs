//! Lines in the database: a queue and a tenant are a number there, with what it has counted.
//!
//! Counts are kept in memory while they change and written once a transaction, so that they cost a transaction as much as it
//! touches lines, not deliveries. Memory holds some lines; when it holds too many, all are forgotten between two
//! transactions. After a transaction that failed, too: what it had counted did not happen.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row as Found, params};
use tidegate_model::delivery::Kind;

use super::Line;

/// Lines in memory between two transactions.
const LINES_MAX: usize = 8192;

/// The lines in memory.
#[derive(Debug, Default)]
pub(super) struct Lines {
    known: HashMap<i64, Counted>,
    places: HashMap<Line, i64>,
    /// Bytes of all of a tenant's lines, by their owner.
    owners: HashMap<i64, i64>,
    changed: Vec<i64>,
}

#[derive(Clone, Debug)]
struct Counted {
    names: Line,
    owner: i64,
    counts: [i64; 7],
    bytes: i64,
    changed: bool,
}

/// A line's columns, in the order in which [`counted`] reads them.
const SELECT: &str = "SELECT line, queue, tenant, owner, blocked, scheduled, ready, leased, delivered, dead, cancelled, \
                      bytes FROM lines";

fn counted(row: &Found<'_>) -> rusqlite::Result<(i64, Counted)> {
    let mut counts = [0; 7];
    for (place, count) in counts.iter_mut().enumerate() {
        *count = row.get(place + 4)?;
    }
    let names = Line { queue: row.get(1)?, tenant: row.get(2)? };
    Ok((row.get(0)?, Counted { names, owner: row.get(3)?, counts, bytes: row.get(11)?, changed: false }))
}

impl Lines {
    /// Forgets what is not on disk.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.places.clear();
        self.owners.clear();
        self.changed.clear();
    }

    /// A line's number, if there is such a line.
    pub(super) fn find(&mut self, connection: &Connection, line: &Line) -> rusqlite::Result<Option<i64>> {
        if let Some(place) = self.places.get(line) {
            return Ok(Some(*place));
        }
        let sql = const_format(SELECT, " WHERE queue = ?1 AND tenant = ?2");
        let found = connection
            .prepare_cached(&sql)?
            .query_row(params![&*line.queue, &*line.tenant], counted)
            .optional()?;
        Ok(found.map(|(place, counted)| self.keep(place, counted)))
    }

    /// A line's number. Where there is none yet, there is one now.
    pub(super) fn place(&mut self, connection: &Connection, line: &Line) -> rusqlite::Result<i64> {
        if let Some(place) = self.find(connection, line)? {
            return Ok(place);
        }
        let owner: Option<i64> = connection
            .prepare_cached("SELECT owner FROM lines WHERE tenant = ?1 LIMIT 1")?
            .query_row([&*line.tenant], |row| row.get(0))
            .optional()?;
        connection
            .prepare_cached(
                "INSERT INTO lines (queue, tenant, owner, blocked, scheduled, ready, leased, delivered, dead, cancelled,
                     bytes) VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0, 0, 0)",
            )?
            .execute(params![&*line.queue, &*line.tenant, owner.unwrap_or_default()])?;
        let place = connection.last_insert_rowid();
        if owner.is_none() {
            connection.prepare_cached("UPDATE lines SET owner = line WHERE line = ?1")?.execute([place])?;
        }
        let counted = Counted {
            names: line.clone(),
            owner: owner.unwrap_or(place),
            counts: [0; 7],
            bytes: 0,
            changed: false,
        };
        self.keep(place, counted);
        // One that stays empty, as what was to be in it was refused, is removed with the others that have become so.
        self.touch(place);
        Ok(place)
    }

    /// Whose a line is, and what it is called.
    pub(super) fn names(&mut self, connection: &Connection, place: i64) -> rusqlite::Result<(i64, Line)> {
        let counted = self.counted(connection, place)?;
        Ok((counted.owner, counted.names.clone()))
    }

    /// Whether there is still a line with this number.
    pub(super) fn is(&mut self, connection: &Connection, place: i64) -> rusqlite::Result<bool> {
        let mut select = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM lines WHERE line = ?1)")?;
        select.query_row([place], |row| row.get(0))
    }

    /// Deliveries of a line that have not ended.
    pub(super) fn waiting(&mut self, connection: &Connection, place: i64) -> rusqlite::Result<u64> {
        let counted = self.counted(connection, place)?;
        let open = Kind::ALL.into_iter().filter(|kind| !kind.has_ended());
        let open: i64 = open.map(|kind| counted.counts[kind as usize]).sum();
        Ok(u64::try_from(open).unwrap_or_default())
    }

    /// Bytes of all of a tenant's deliveries.
    pub(super) fn bytes_of(&mut self, connection: &Connection, place: i64) -> rusqlite::Result<u64> {
        let (owner, names) = self.names(connection, place)?;
        if let Some(bytes) = self.owners.get(&owner) {
            return Ok(u64::try_from(*bytes).unwrap_or_default());
        }
        let mut select = connection.prepare_cached("SELECT line, bytes FROM lines WHERE tenant = ?1")?;
        let all =
            select.query_map([&*names.tenant], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        let mut bytes = 0;
        for line in all {
            let (line, written) = line?;
            bytes += self.known.get(&line).map_or(written, |counted| counted.bytes);
        }
        self.owners.insert(owner, bytes);
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    /// One of a line's deliveries comes from this state into that, or anew, or goes.
    pub(super) fn count(
        &mut self,
        connection: &Connection,
        place: i64,
        from: Option<Kind>,
        to: Option<Kind>,
        bytes: i64,
    ) -> rusqlite::Result<()> {
        if from == to && bytes == 0 {
            return Ok(());
        }
        let counted = self.counted(connection, place)?;
        if let Some(from) = from {
            counted.counts[from as usize] -= 1;
        }
        if let Some(to) = to {
            counted.counts[to as usize] += 1;
        }
        counted.bytes += bytes;
        let owner = counted.owner;
        if let Some(owned) = self.owners.get_mut(&owner) {
            *owned += bytes;
        }
        self.touch(place);
        Ok(())
    }

    fn touch(&mut self, place: i64) {
        if let Some(counted) = self.known.get_mut(&place)
            && !std::mem::replace(&mut counted.changed, true)
        {
            self.changed.push(place);
        }
    }

    /// Writes what has been counted. A line without deliveries is removed.
    pub(super) fn write(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let changed = std::mem::take(&mut self.changed);
        for place in changed {
            let Some(counted) = self.known.get_mut(&place) else { continue };
            counted.changed = false;
            if counted.counts.iter().all(|count| *count == 0) {
                connection.prepare_cached("DELETE FROM lines WHERE line = ?1")?.execute([place])?;
                connection.prepare_cached("DELETE FROM lanes WHERE line = ?1")?.execute([place])?;
                let names = counted.names.clone();
                self.known.remove(&place);
                self.places.remove(&names);
                continue;
            }
            let [blocked, scheduled, ready, leased, delivered, dead, cancelled] = counted.counts;
            connection
                .prepare_cached(
                    "UPDATE lines SET blocked = ?2, scheduled = ?3, ready = ?4, leased = ?5, delivered = ?6, dead = ?7,
                         cancelled = ?8, bytes = ?9 WHERE line = ?1",
                )?
                .execute(params![
                    place,
                    blocked,
                    scheduled,
                    ready,
                    leased,
                    delivered,
                    dead,
                    cancelled,
                    counted.bytes
                ])?;
        }
        Ok(())
    }

    /// A transaction is over: keeps no more in memory than it may.
    pub(super) fn trim(&mut self) {
        if self.known.len() > LINES_MAX || self.owners.len() > LINES_MAX {
            self.clear();
        }
    }

    fn counted(&mut self, connection: &Connection, place: i64) -> rusqlite::Result<&mut Counted> {
        if !self.known.contains_key(&place) {
            let sql = const_format(SELECT, " WHERE line = ?1");
            let (_, counted) = connection.prepare_cached(&sql)?.query_row([place], counted)?;
            self.keep(place, counted);
        }
        Ok(self.known.get_mut(&place).expect("it was put there"))
    }

    fn keep(&mut self, place: i64, counted: Counted) -> i64 {
        self.places.insert(counted.names.clone(), place);
        self.known.insert(place, counted);
        place
    }
}

fn const_format(select: &str, condition: &str) -> String {
    [select, condition].concat()
}

/// The names of a line, of which nothing else is asked.
pub(super) fn named(row: &Found<'_>) -> rusqlite::Result<Line> {
    Ok(Line { queue: row.get::<_, Arc<str>>(0)?, tenant: row.get(1)? })
}
