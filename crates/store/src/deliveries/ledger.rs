//! One transaction with deliveries: what is changed, and what that brings about in the same transaction.
//!
//! Whatever changes a delivery goes through [`Ledger::put`]: it settles the lane, writes the row, counts, and notes what follows.
//! [`Ledger::follow_up`] carries that out: a turn that was given back goes to whoever asks next, whoever comes after
//! one that has ended is told, a callback is accepted. One transaction carries out so much of it and no more; the rest is
//! noted on disk ([`Work`]) and done by and by.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};
use tidegate_model::delivery::lane::{self, Place};
use tidegate_model::delivery::{Change, Command, Kind, Ms, Record, Seq, State, Told, step};

use super::lines::Lines;
use super::rows::{self, MARK_CALLBACK, MARK_FIRST, Row, columns, whole};
use super::{Line, News, Ready, ends};

/// What one transaction may bring about beside what was asked for.
const CONSEQUENCES_MAX: usize = 512;

/// What is known between two transactions, all of it on disk.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(super) lines: Lines,
    /// Keys that are paused.
    pub(super) paused: HashSet<(Line, Arc<str>)>,
    /// The last place that was given away.
    pub(super) seq: u64,
    pub(super) epoch: u64,
    /// Whether there may be work left.
    pub(super) works: bool,
    /// Whether the above is what is on disk.
    read: bool,
}

impl Book {
    /// A transaction failed: what is known may not be so.
    pub(crate) fn forget(&mut self) {
        self.lines.clear();
        self.read = false;
    }

    /// Whether something is left to be done.
    pub(crate) fn has_work(&self) -> bool {
        self.works
    }

    /// A transaction is on disk.
    pub(crate) fn settled(&mut self) {
        self.lines.trim();
    }

    fn read(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        (self.epoch, self.seq) =
            connection.query_row("SELECT epoch, seq FROM shards WHERE shard = 0", (), |row| {
                Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
            })?;
        self.works = connection.query_row("SELECT EXISTS (SELECT 1 FROM works)", (), |row| row.get(0))?;
        self.paused = super::pauses::keys(connection)?;
        self.read = true;
        Ok(())
    }
}

/// What is done by and by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Whoever comes after this, which has ended, is told.
    Ended(Seq),
    /// The turns of a key go to whoever asks, or are taken back from whoever has not begun while it is paused.
    Lane(i64, Arc<str>),
}

/// A transaction.
pub(crate) struct Ledger<'a> {
    pub(super) connection: &'a Connection,
    pub(super) book: &'a mut Book,
    /// What has become ready.
    pub(super) ready: Vec<Ready>,
    /// When the first of what became scheduled is due.
    pub(super) due: Option<Ms>,
    /// What whoever decides who is next has not done itself.
    pub(super) news: Vec<News>,
    turns: VecDeque<(i64, Arc<str>)>,
    ends: VecDeque<Seq>,
    consequences: usize,
    seq_before: u64,
    /// Pages that were changed, about.
    pub(crate) pages: u64,
}

impl<'a> Ledger<'a> {
    /// A transaction that has begun.
    pub(crate) fn new(connection: &'a Connection, book: &'a mut Book) -> rusqlite::Result<Ledger<'a>> {
        if !book.read {
            book.read(connection)?;
        }
        let seq_before = book.seq;
        Ok(Ledger {
            connection,
            book,
            ready: Vec::new(),
            due: None,
            news: Vec::new(),
            turns: VecDeque::new(),
            ends: VecDeque::new(),
            consequences: 0,
            seq_before,
            pages: 0,
        })
    }

    /// Writes what was counted, before the transaction is committed. What is told then.
    pub(crate) fn close(self) -> rusqlite::Result<Vec<News>> {
        let Ledger { connection, book, mut news, seq_before, .. } = self;
        book.lines.write(connection)?;
        if book.seq != seq_before {
            connection
                .prepare_cached("UPDATE shards SET seq = ?1 WHERE shard = 0")?
                .execute([whole(book.seq)])?;
        }
        news.dedup();
        Ok(news)
    }

    /// What was found ready and due so far goes to those who follow.
    pub(super) fn tell_followers(&mut self) {
        self.news.extend(self.ready.drain(..).map(News::Ready));
        self.news.extend(self.due.take().map(News::Due));
    }

    pub(super) fn load(&mut self, seq: Seq) -> rusqlite::Result<Option<Row>> {
        rows::load(self.connection, &mut self.book.lines, seq)
    }

    /// Carries out a command to a delivery.
    pub(super) fn command(&mut self, row: &Row, command: Command, now: Ms) -> rusqlite::Result<Told> {
        let (change, told) = step(row.record.clone(), command, now);
        if let Change::Put(record) = change {
            self.put(row, Row { record: *record, ..row.clone() })?;
        }
        Ok(told)
    }

    /// A delivery is accepted.
    pub(super) fn insert(&mut self, mut row: Row) -> rusqlite::Result<()> {
        self.settle(&mut row)?;
        rows::insert(self.connection, &row)?;
        let bytes = row.bytes as i64;
        self.book.lines.count(self.connection, row.line, None, Some(row.record.state.kind()), bytes)?;
        self.pages += 3 + row.bytes / 4096;
        self.note(None, &row, true);
        Ok(())
    }

    /// A delivery is different now.
    pub(super) fn put(&mut self, before: &Row, mut after: Row) -> rusqlite::Result<()> {
        self.settle(&mut after)?;
        let (from, to) = (before.record.state.kind(), after.record.state.kind());
        if to.has_ended() && !from.has_ended() {
            self.keep_unique(&mut after)?;
        }
        rows::update(self.connection, before, &after)?;
        let bytes = (after.bytes + after.kept) as i64 - (before.bytes + before.kept) as i64;
        self.book.lines.count(self.connection, after.line, Some(from), Some(to), bytes)?;
        self.pages += 3;
        // It is to be begun in another order now.
        let is_new = (before.record.rank, &before.record.lane) != (after.record.rank, &after.record.lane);
        self.note(Some(from), &after, is_new);
        Ok(())
    }

    /// What is one of a kind is not forgotten before another one may be.
    fn keep_unique(&mut self, row: &mut Row) -> rusqlite::Result<()> {
        let Some(sole) = &row.sole else { return Ok(()) };
        let until: Option<i64> = self
            .connection
            .prepare_cached("SELECT until FROM uniques WHERE line = ?1 AND key = ?2 AND seq = ?3")?
            .query_row(params![row.line, &**sole, whole(row.record.seq.0)], |found| found.get(0))
            .optional()?;
        let until = until.and_then(|until| u64::try_from(until).ok()).unwrap_or_default();
        row.record.forgotten = row.record.forgotten.map(|forgotten| forgotten.max(until));
        Ok(())
    }

    /// What follows from a delivery's being as it is now.
    fn note(&mut self, from: Option<Kind>, row: &Row, is_new: bool) {
        let followed = row.marks & (MARK_FIRST | MARK_CALLBACK) != 0;
        match row.record.state {
            State::Ready if from != Some(Kind::Ready) || is_new => self.ready.push(row.ready()),
            State::Scheduled => {
                let due = row.record.due;
                self.due = Some(self.due.map_or(due, |before| before.min(due)));
            }
            state if state.has_ended() && followed && from.is_some_and(|from| !from.has_ended()) => {
                self.ends.push_back(row.record.seq);
            }
            _ => {}
        }
    }

    /// Settles what a delivery has of its lane.
    fn settle(&mut self, row: &mut Row) -> rusqlite::Result<()> {
        let Some(lane) = row.record.lane.clone() else { return Ok(()) };
        let before = row.place;
        let mut open = self.open(row.line, &lane.key)?;
        let paused = self.is_paused(&row.record, &lane.key);
        // Whoever comes goes behind those who ask, even where their turn has not yet been given.
        let asked = lane.ordered && before.is_none() && open < lane.open_max;
        let behind = asked && self.asks(row.line, &lane.key)?.is_some();
        let seen = if behind { u32::MAX } else { open };
        row.place = lane::settle(&mut row.record, before, seen, paused);
        if (before == Some(Place::Holds)) != (row.place == Some(Place::Holds)) {
            open = if row.place == Some(Place::Holds) { open + 1 } else { open.saturating_sub(1) };
            self.set_open(row.line, &lane.key, open)?;
        }
        if before == Some(Place::Holds) && row.place != before || behind {
            self.turns.push_back((row.line, lane.key));
        }
        Ok(())
    }

    /// A delivery gives back what it has of its lane, as it comes into another one.
    pub(super) fn leave_lane(&mut self, row: &mut Row) -> rusqlite::Result<()> {
        let Some(lane) = row.record.lane.clone() else { return Ok(()) };
        if row.place.take() == Some(Place::Holds) {
            let open = self.open(row.line, &lane.key)?;
            self.set_open(row.line, &lane.key, open.saturating_sub(1))?;
            self.turns.push_back((row.line, lane.key));
        }
        Ok(())
    }

    pub(super) fn is_paused(&self, record: &Record, key: &Arc<str>) -> bool {
        if self.book.paused.is_empty() {
            return false;
        }
        let line = Line { queue: Arc::clone(&record.queue), tenant: Arc::clone(&record.tenant) };
        self.book.paused.contains(&(line, Arc::clone(key)))
    }

    /// Turns of a key that are held.
    fn open(&self, line: i64, key: &str) -> rusqlite::Result<u32> {
        let mut select =
            self.connection.prepare_cached("SELECT open FROM lanes WHERE line = ?1 AND key = ?2")?;
        let open = select.query_row(params![line, key], |row| row.get(0)).optional()?;
        Ok(open.unwrap_or_default())
    }

    fn set_open(&self, line: i64, key: &str, open: u32) -> rusqlite::Result<()> {
        if open == 0 {
            let mut delete =
                self.connection.prepare_cached("DELETE FROM lanes WHERE line = ?1 AND key = ?2")?;
            delete.execute(params![line, key])?;
        } else {
            let mut put = self
                .connection
                .prepare_cached("INSERT OR REPLACE INTO lanes (line, key, open) VALUES (?1, ?2, ?3)")?;
            put.execute(params![line, key, open])?;
        }
        Ok(())
    }

    /// Who is next to get a turn.
    fn asks(&mut self, line: i64, key: &str) -> rusqlite::Result<Option<Row>> {
        self.of_lane(line, key, Place::Asks)
    }

    /// The first in a lane that has this place.
    fn of_lane(&mut self, line: i64, key: &str, place: Place) -> rusqlite::Result<Option<Row>> {
        let (connection, lines) = (self.connection, &mut self.book.lines);
        let mut select = connection.prepare_cached(concat!(
            "SELECT ",
            columns!(),
            " FROM deliveries INDEXED BY deliveries_lane
              WHERE line = ?1 AND key = ?2 AND place = ?3 AND place IS NOT NULL ORDER BY turn, seq LIMIT 1"
        ))?;
        let found =
            select.query_row(params![line, key, place as u8], |row| rows::read(row, lines, connection));
        found.optional()
    }

    /// Gives turns that are free to those who ask.
    fn give_turns(&mut self, line: i64, key: &Arc<str>, now: Ms) -> rusqlite::Result<()> {
        while let Some(row) = self.asks(line, key)? {
            let open = self.open(line, key)?;
            let room = row.record.lane.as_ref().is_some_and(|lane| open < lane.open_max);
            if !room || self.is_paused(&row.record, key) {
                return Ok(());
            }
            if self.spent() {
                return self.later(&Work::Lane(line, Arc::clone(key)));
            }
            self.set_open(line, key, open + 1)?;
            let held = Row { place: Some(Place::Holds), ..row.clone() };
            let (change, _) = step(held.record.clone(), Command::Unblock { over: 1 }, now);
            let Change::Put(record) = change else { return Ok(()) };
            self.put(&row, Row { record: *record, ..held })?;
        }
        Ok(())
    }

    /// Takes the turns of a paused key back from those who have not begun.
    fn take_turns(&mut self, line: i64, key: &Arc<str>) -> rusqlite::Result<()> {
        let mut after = i64::MIN;
        loop {
            let seqs = {
                let mut select = self.connection.prepare_cached(
                    "SELECT seq FROM deliveries INDEXED BY deliveries_lane
                     WHERE line = ?1 AND key = ?2 AND place = 2 AND place IS NOT NULL AND state = 2 AND turn >= ?3
                     ORDER BY turn, seq LIMIT 64",
                )?;
                let found = select.query_map(params![line, &**key, after], |row| {
                    row.get::<_, i64>(0).map(|seq| seq as u64)
                })?;
                found.collect::<rusqlite::Result<Vec<_>>>()?
            };
            if seqs.is_empty() {
                return Ok(());
            }
            for seq in seqs {
                if self.spent() {
                    return self.later(&Work::Lane(line, Arc::clone(key)));
                }
                let Some(row) = self.load(Seq(seq))? else { continue };
                after = if row.record.lane.as_ref().is_some_and(|lane| lane.ordered) {
                    whole(row.record.seq.0)
                } else {
                    row.record.rank
                };
                self.news.push(News::Gone(row.record.seq, row.ready().line));
                self.put(&row, row.clone())?;
            }
        }
    }

    /// A key was paused, or goes on.
    pub(super) fn look_at_lane(&mut self, line: i64, key: &Arc<str>, now: Ms) -> rusqlite::Result<()> {
        let (_, names) = self.book.lines.names(self.connection, line)?;
        if self.book.paused.contains(&(names, Arc::clone(key))) {
            self.take_turns(line, key)
        } else {
            self.give_turns(line, key, now)
        }
    }

    /// Carries out what the changes so far bring about.
    pub(super) fn follow_up(&mut self, now: Ms) -> rusqlite::Result<()> {
        loop {
            if let Some((line, key)) = self.turns.pop_front() {
                self.give_turns(line, &key, now)?;
            } else if let Some(seq) = self.ends.pop_front() {
                ends::tell(self, seq, now)?;
            } else {
                return Ok(());
            }
        }
    }

    /// Whether this transaction has brought about as much as one may. Counts one more.
    pub(super) fn spent(&mut self) -> bool {
        self.consequences += 1;
        self.consequences > CONSEQUENCES_MAX
    }

    /// Notes what is done by and by.
    pub(super) fn later(&mut self, work: &Work) -> rusqlite::Result<()> {
        let (kind, place, key) = match work {
            Work::Ended(seq) => (0, whole(seq.0), ""),
            Work::Lane(line, key) => (1, *line, &**key),
        };
        self.connection
            .prepare_cached("INSERT OR IGNORE INTO works (kind, place, key) VALUES (?1, ?2, ?3)")?
            .execute(params![kind, place, key])?;
        self.book.works = true;
        Ok(())
    }

    /// Carries out some of what was noted.
    pub(crate) fn work(&mut self, now: Ms) -> rusqlite::Result<()> {
        let found = self
            .connection
            .prepare_cached("SELECT kind, place, key FROM works LIMIT 1")?
            .query_row((), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Arc<str>>(2)?))
            })
            .optional()?;
        let Some((kind, place, key)) = found else {
            self.book.works = false;
            return Ok(());
        };
        self.connection
            .prepare_cached("DELETE FROM works WHERE kind = ?1 AND place = ?2 AND key = ?3")?
            .execute(params![kind, place, &*key])?;
        self.pages += 1;
        match kind {
            0 => ends::tell(self, Seq(place as u64), now)?,
            _ if self.book.lines.is(self.connection, place)? => self.look_at_lane(place, &key, now)?,
            _ => {}
        }
        self.follow_up(now)?;
        self.tell_followers();
        Ok(())
    }

    /// There is a new owner. Its epoch.
    pub(super) fn lead(&mut self) -> rusqlite::Result<u64> {
        let number = self.book.epoch + 1;
        self.connection
            .prepare_cached("UPDATE shards SET epoch = ?1 WHERE shard = 0")?
            .execute([whole(number)])?;
        self.book.epoch = number;
        self.pages += 1;
        Ok(number)
    }

    /// Refuses whoever is not the owner any more.
    pub(super) fn is_led_by(&self, epoch: super::Epoch) -> bool {
        epoch.shard == 0 && epoch.number == self.book.epoch
    }
}
