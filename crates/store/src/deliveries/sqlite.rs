//! The tables of deliveries in SQLite: one shard, in the transaction that its connection is in.
//!
//! Each operation is one statement, prepared once; what is new is gathered and written several rows a statement (`gathered`). Its pages are
//! in this process's memory; of what was written lately, rows and requests themselves are at hand (`recent`), as to read a row of
//! thirty columns costs as much as to change it.

pub(crate) mod audit;
mod follows;
pub(crate) mod fresh;
mod gathered;
mod lines;
mod lists;
mod neighbours;
mod next;
pub(crate) mod recent;
mod rows;
pub(crate) mod schema;
mod shown;
mod statements;

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _};
use tidegate_model::delivery::{Id, Kind, Ms, Request, Seq, Token};

use self::gathered::Gathered;
pub(crate) use self::gathered::prepare;
use self::neighbours::Highs;
use self::recent::Recent;

use super::rows::{Row, Unnamed, whole};
use super::tables::{Among, Fault, Shard, Sole, Tables, Tally, Work};
use super::{Attempt, Callback, Depth, Kept, Leader, Line, Pause, Roll, Total, Who};
use crate::database::PAGE_BYTES;

/// Pages that are left for what has to be written of what is there already: a sixteenth of all, within these bounds.
const RESERVE_PAGES: (i64, i64) = (8, 4096);

/// Pages that what is new takes beside its own bytes, at most: of its row, and of each index that it is in.
const COMMAND_PAGES: i64 = 8;

/// Places that are noted as given away before they are: a commit that accepts something changes one page less for that.
const SEQS_AHEAD: u64 = 4_096;

/// The tables, in a transaction.
pub(crate) struct Sqlite<'a> {
    gathered: Gathered<'a>,
    recent: &'a mut Recent,
}

impl<'a> Sqlite<'a> {
    /// In the transaction that this connection is in.
    pub(crate) fn new(connection: &'a Connection, recent: &'a mut Recent) -> Sqlite<'a> {
        Sqlite { gathered: Gathered::new(connection, std::mem::take(&mut recent.fresh)), recent }
    }

    /// Leaves what is gathered as it is, for a later transaction.
    pub(crate) fn leave(self) {
        self.recent.fresh = self.gathered.left();
    }

    /// Pages that there are for what is new. To ask is dear: SQLite reads such a question anew each time.
    fn room(&mut self) -> Result<i64, Fault> {
        self.gathered.all()?;
        let most = self.number("PRAGMA max_page_count")?;
        let taken = self.number("PRAGMA page_count")? - self.number("PRAGMA freelist_count")?;
        let reserve = (most / 16).clamp(RESERVE_PAGES.0, RESERVE_PAGES.1);
        Ok(most - reserve - taken)
    }

    fn number(&self, sql: &str) -> rusqlite::Result<i64> {
        self.gathered.aside().prepare_cached(sql)?.query_row((), |row| row.get(0))
    }
}

impl Tables for Sqlite<'_> {
    fn shard_of(&self, _: &str) -> u16 {
        0
    }

    fn shard(&mut self, shard: u16, known: bool) -> Result<Option<Shard>, Fault> {
        // Nobody else has the database.
        if known {
            return Ok(None);
        }
        let mut select =
            self.gathered.aside().prepare_cached("SELECT epoch, seq FROM shards WHERE shard = ?1")?;
        let found = select.query_row([shard], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        let Some((epoch, seq)) = found.optional()? else { return Ok(None) };
        let works = self.number("SELECT EXISTS (SELECT 1 FROM works)")? != 0;
        let keys = lists::pauses(self.gathered.aside())?.into_iter().filter_map(|pause| match pause {
            Pause::Key(line, key) => Some((line, key)),
            _ => None,
        });
        Ok(Some(Shard { epoch: epoch as u64, seq: Seq(seq as u64), works, paused: keys.collect() }))
    }

    fn seqs_ahead(&self) -> u64 {
        SEQS_AHEAD
    }

    fn put_seq(&mut self, seq: Seq) -> Result<(), Fault> {
        let mut update =
            self.gathered.aside().prepare_cached("UPDATE shards SET seq = ?2 WHERE shard = ?1")?;
        update.execute([i64::from(seq.shard()), whole(seq.0)])?;
        Ok(())
    }

    fn take(&mut self, shard: u16) -> Result<Option<u64>, Fault> {
        let sql = "UPDATE shards SET epoch = epoch + 1 WHERE shard = ?1 RETURNING epoch";
        let epoch = self
            .gathered
            .aside()
            .prepare_cached(sql)?
            .query_row([shard], |row| row.get::<_, i64>(0))
            .optional()?;
        Ok(epoch.map(|epoch| epoch as u64))
    }

    /// Whoever has a directory has its deliveries; the next owner takes them over without asking.
    fn give_away(&mut self, _: u16) -> Result<(), Fault> {
        Ok(())
    }

    fn roll(&mut self) -> Result<Roll, Fault> {
        let mut select =
            self.gathered.aside().prepare_cached("SELECT shard, epoch FROM shards ORDER BY shard")?;
        let found = select.query_map((), |row| {
            Ok(Leader { shard: row.get(0)?, epoch: row.get::<_, i64>(1)? as u64, who: Who::Here })
        })?;
        Ok(Roll { nodes: 1, shards: found.collect::<rusqlite::Result<_>>()? })
    }

    fn takes_new(&mut self, bytes: u64) -> Result<bool, Fault> {
        let pages = whole(bytes / PAGE_BYTES);
        let room = match self.recent.room.filter(|room| pages < *room) {
            Some(room) => room,
            // What is counted is no reason to refuse anything: that is more than was taken.
            None => self.room()?,
        };
        self.recent.room = Some(room - pages - COMMAND_PAGES);
        Ok(pages < room)
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.gathered.all().map(drop)
    }

    fn line(&mut self, names: &Line) -> Result<Option<Tally>, Fault> {
        lines::find(self.gathered.aside(), names)
    }

    fn line_by_number(&mut self, number: i64) -> Result<Option<Tally>, Fault> {
        lines::load(self.gathered.aside(), number)
    }

    fn owner(&mut self, tenant: &str) -> Result<Option<i64>, Fault> {
        lines::owner(self.gathered.aside(), tenant)
    }

    fn bytes_by_line(&mut self, tenant: &str) -> Result<Vec<(i64, i64)>, Fault> {
        lines::bytes(self.gathered.aside(), tenant)
    }

    fn insert_line(&mut self, names: &Line, owner: Option<i64>) -> Result<i64, Fault> {
        lines::insert(self.gathered.aside(), names, owner)
    }

    fn put_lines(&mut self, changed: &[&Tally]) -> Result<(), Fault> {
        changed.iter().try_for_each(|tally| lines::put(self.gathered.aside(), tally))
    }

    fn find(&mut self, id: Id) -> Result<Option<Seq>, Fault> {
        if self.recent.neighbours.lack(id) {
            #[cfg(debug_assertions)]
            assert_eq!(
                (self.gathered.find(id), rows::find(self.gathered.others(), id)?),
                (None, None),
                "at hand"
            );
            return Ok(None);
        }
        match self.gathered.find(id) {
            None => rows::find(self.gathered.others(), id),
            found => Ok(found),
        }
    }

    fn load(&mut self, seq: Seq) -> Result<Option<Unnamed>, Fault> {
        let recent = self.recent.row(seq);
        if recent.is_none() {
            return rows::load(self.gathered.of(seq)?, seq);
        }
        #[cfg(debug_assertions)]
        if !self.gathered.may_have(seq) {
            let found = rows::load(self.gathered.others(), seq)?;
            assert_eq!(format!("{recent:?}"), format!("{found:?}"), "what is at hand");
        }
        Ok(recent)
    }

    fn insert(&mut self, row: &Row) -> Result<(), Fault> {
        self.gathered.insert(row)?;
        let id = row.record.id;
        if !self.recent.neighbours.put(id) {
            let mut found: Highs = rows::neighbours(self.gathered.aside(), id, neighbours::IDS_MAX + 1)?;
            found.extend(self.gathered.neighbours(id));
            self.recent.neighbours.know(id, found);
        }
        self.recent.put(row);
        Ok(())
    }

    fn update(&mut self, before: &Row, after: &Row) -> Result<(), Fault> {
        rows::update(self.gathered.of(after.record.seq)?, before, after)?;
        self.recent.put(after);
        Ok(())
    }

    fn put_marks(&mut self, row: &Row, marks: u8) -> Result<(), Fault> {
        rows::put_marks(self.gathered.of(row.record.seq)?.connection(), row.record.seq, marks)?;
        self.recent.put_marks(row.record.seq, marks);
        Ok(())
    }

    fn remove(&mut self, row: &Row) -> Result<(), Fault> {
        rows::remove(self.gathered.of(row.record.seq)?.connection(), row)?;
        self.recent.remove(row.record.seq);
        Ok(())
    }

    fn request(&mut self, seq: Seq) -> Result<Option<(Arc<Request>, u64)>, Fault> {
        let recent = self.recent.take_request(seq);
        if recent.is_none() {
            return rows::request(self.gathered.of(seq)?.connection(), seq);
        }
        #[cfg(debug_assertions)]
        if !self.gathered.may_have(seq) {
            assert_eq!(recent, rows::request(self.gathered.aside(), seq)?, "what is at hand");
        }
        Ok(recent)
    }

    fn put_request(&mut self, seq: Seq, request: &Arc<Request>, edits: u64) -> Result<(), Fault> {
        match edits {
            0 => self.gathered.put_request(seq, request)?,
            _ => rows::put_request(self.gathered.of(seq)?, seq, request, edits)?,
        }
        self.recent.put_request(seq, request, edits);
        Ok(())
    }

    fn attempts(&mut self, seq: Seq) -> Result<Vec<Attempt>, Fault> {
        rows::attempts(self.gathered.aside(), seq)
    }

    fn put_attempt(&mut self, seq: Seq, token: Token, attempt: &Attempt) -> Result<(), Fault> {
        rows::put_attempt(self.gathered.others(), seq, token, attempt)
    }

    fn result(&mut self, seq: Seq) -> Result<Option<Kept>, Fault> {
        rows::result(self.gathered.aside(), seq)
    }

    fn answered(&mut self, seq: Seq) -> Result<Option<u16>, Fault> {
        rows::answered(self.gathered.aside(), seq)
    }

    fn put_result(&mut self, seq: Seq, result: &Kept, fields: &[u8]) -> Result<(), Fault> {
        rows::put_result(self.gathered.others(), seq, result, fields)
    }

    fn unique(&mut self, line: i64, key: &str) -> Result<Option<Sole>, Fault> {
        follows::unique(self.gathered.aside(), line, key)
    }

    fn put_unique(&mut self, line: i64, key: &Arc<str>, sole: &Sole) -> Result<(), Fault> {
        follows::put_unique(self.gathered.aside(), line, key, sole)
    }

    fn comes_after(&mut self, first: Seq, seq: Seq) -> Result<bool, Fault> {
        follows::comes_after(self.gathered.aside(), first, seq)
    }

    fn insert_after(&mut self, first: Seq, seq: Seq) -> Result<(), Fault> {
        follows::insert_after(self.gathered.aside(), first, seq)
    }

    fn afters(&mut self, first: Seq, after: Seq, most: usize) -> Result<Vec<Seq>, Fault> {
        follows::afters(self.gathered.aside(), first, after, most)
    }

    fn remove_after(&mut self, first: Seq, seq: Seq) -> Result<(), Fault> {
        follows::remove_after(self.gathered.aside(), first, seq)
    }

    fn remove_firsts(&mut self, seq: Seq) -> Result<(), Fault> {
        follows::remove_firsts(self.gathered.aside(), seq)
    }

    fn callback(&mut self, seq: Seq) -> Result<Option<Callback>, Fault> {
        follows::callback(self.gathered.aside(), seq)
    }

    fn put_callback(&mut self, seq: Seq, callback: &Callback) -> Result<(), Fault> {
        follows::put_callback(self.gathered.aside(), seq, callback)
    }

    fn remove_callback(&mut self, seq: Seq) -> Result<(), Fault> {
        follows::remove_callback(self.gathered.aside(), seq)
    }

    fn next_work(&mut self, _: u16) -> Result<Option<Work>, Fault> {
        follows::next_work(self.gathered.aside())
    }

    fn put_work(&mut self, work: &Work) -> Result<(), Fault> {
        follows::put_work(self.gathered.aside(), work)
    }

    fn remove_work(&mut self, work: &Work) -> Result<(), Fault> {
        follows::remove_work(self.gathered.aside(), work)
    }

    fn open(&mut self, line: i64, key: &str) -> Result<u32, Fault> {
        lines::open(self.gathered.aside(), line, key)
    }

    fn put_open(&mut self, line: i64, key: &Arc<str>, open: u32) -> Result<(), Fault> {
        lines::put_open(self.gathered.aside(), line, key, open)
    }

    fn is_asked_for(&mut self, line: i64, key: &str) -> Result<bool, Fault> {
        next::is_asked_for(self.gathered.all()?, line, key)
    }

    fn asking(&mut self, line: i64, key: &str, most: usize) -> Result<Vec<Unnamed>, Fault> {
        next::asking(self.gathered.all()?, line, key, most)
    }

    fn holding(
        &mut self,
        of: (i64, &str),
        state: Kind,
        after: (i64, Seq),
        most: usize,
    ) -> Result<Vec<(i64, Seq)>, Fault> {
        next::holding(self.gathered.all()?, of, state, after, most)
    }

    fn due(&mut self, _: u16, now: Ms, most: usize) -> Result<Vec<Seq>, Fault> {
        next::due(self.gathered.all()?, now, most)
    }

    fn next_due(&mut self, _: u16) -> Result<Option<Ms>, Fault> {
        next::next_due(self.gathered.all()?)
    }

    fn ready(&mut self, line: i64, after: (i64, Seq), most: usize) -> Result<Vec<Unnamed>, Fault> {
        next::ready(self.gathered.all()?, line, after, most)
    }

    fn lines_ready(&mut self, _: u16, after: Option<&Line>, most: usize) -> Result<Vec<Line>, Fault> {
        lines::ready(self.gathered.aside(), after, most)
    }

    fn leased(&mut self, _: u16, after: Seq, most: usize) -> Result<Vec<Unnamed>, Fault> {
        next::leased(self.gathered.all()?, after, most)
    }

    fn expired(&mut self, _: u16, now: Ms, most: usize) -> Result<Vec<(Seq, i64)>, Fault> {
        next::expired(self.gathered.all()?, now, most)
    }

    fn forgotten(&mut self, _: u16, now: Ms, most: usize) -> Result<Vec<Unnamed>, Fault> {
        next::forgotten(self.gathered.all()?, now, most)
    }

    fn page(&mut self, among: Among, before: Seq, most: usize) -> Result<Vec<Unnamed>, Fault> {
        lists::page(self.gathered.all()?, among, before, most)
    }

    fn depths(
        &mut self,
        queue: Option<&str>,
        tenant: Option<&str>,
        after: Option<&Line>,
        most: usize,
    ) -> Result<Vec<Depth>, Fault> {
        lists::depths(self.gathered.aside(), queue, tenant, after, most)
    }

    fn totals(&mut self, lines_max: usize) -> Result<Vec<Total>, Fault> {
        lists::totals(self.gathered.all()?, lines_max)
    }

    fn pauses(&mut self) -> Result<Vec<Pause>, Fault> {
        lists::pauses(self.gathered.aside())
    }

    fn put_pause(&mut self, pause: &Pause, most: usize) -> Result<bool, Fault> {
        lists::put_pause(self.gathered.aside(), pause, most)
    }

    fn remove_pause(&mut self, pause: &Pause) -> Result<(), Fault> {
        lists::remove_pause(self.gathered.aside(), pause)
    }

    #[cfg(any(test, debug_assertions))]
    fn audit(&mut self) -> Result<Vec<String>, Fault> {
        Ok(audit::audit(self.gathered.all()?)?)
    }
}

/// A bound of a statement.
fn limit(most: usize) -> i64 {
    whole(most as u64)
}
