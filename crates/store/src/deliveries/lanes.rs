//! The turns of keys: who has one, who gets the next. What a delivery has of its lane is decided by
//! [`lane::settle`]; here it is counted, and what was given back is given on.

use std::sync::Arc;

use tidegate_model::delivery::lane::{self, Place};
use tidegate_model::delivery::{Change, Command, Kind, Ms, Record, Seq, step};

use super::ledger::Ledger;
use super::rows::Row;
use super::tables::{Fault, Work, shard_of_line};
use super::{Line, News};

/// Who asks, of which so many are looked at together: one who gets the turn, and one who does not.
const ASKING: usize = 2;
/// Who holds a turn, of which so many are looked at together.
const HOLDING: usize = 64;

impl Ledger<'_> {
    /// Settles what a delivery has of its lane.
    pub(super) fn settle(&mut self, row: &mut Row) -> Result<(), Fault> {
        let Some(lane) = row.record.lane.clone() else { return Ok(()) };
        let before = row.place;
        let mut open = self.tables.open(row.line, &lane.key)?;
        let paused = self.is_paused(row.line, &row.record, &lane.key)?;
        // Whoever comes goes behind those who ask, even where their turn has not yet been given.
        let asked = lane.ordered && before.is_none() && open < lane.open_max;
        let behind = asked && self.tables.is_asked_for(row.line, &lane.key)?;
        let seen = if behind { u32::MAX } else { open };
        row.place = lane::settle(&mut row.record, before, seen, paused);
        if (before == Some(Place::Holds)) != (row.place == Some(Place::Holds)) {
            open = if row.place == Some(Place::Holds) { open + 1 } else { open.saturating_sub(1) };
            self.tables.put_open(row.line, &lane.key, open)?;
        }
        if before == Some(Place::Holds) && row.place != before || behind {
            self.turns.push_back((row.line, lane.key));
        }
        Ok(())
    }

    /// A delivery gives back what it has of its lane, as it comes into another one.
    pub(super) fn leave_lane(&mut self, row: &mut Row) -> Result<(), Fault> {
        let Some(lane) = row.record.lane.clone() else { return Ok(()) };
        if row.place.take() == Some(Place::Holds) {
            let open = self.tables.open(row.line, &lane.key)?;
            self.tables.put_open(row.line, &lane.key, open.saturating_sub(1))?;
            self.turns.push_back((row.line, lane.key));
        }
        Ok(())
    }

    /// One that was made again asks for a turn of an ordered key. Where a newer one holds that and waits for others, it gives it back
    /// and asks, too: the oldest gets it. Else that one might wait for whoever waits for this one, and none would ever begin.
    pub(super) fn take_turn_from_newer(&mut self, asks: &Row) -> Result<(), Fault> {
        let Some(lane) = asks.record.lane.clone().filter(|lane| lane.ordered) else { return Ok(()) };
        let holding = self.tables.holding((asks.line, &lane.key), Kind::Blocked, (i64::MIN, Seq(0)), 1)?;
        let Some((_, newer)) = holding.first().filter(|(_, seq)| *seq > asks.record.seq) else {
            return Ok(());
        };
        let Some(row) = self.load(*newer)? else {
            return Ok(());
        };
        let open = self.tables.open(asks.line, &lane.key)?;
        self.tables.put_open(asks.line, &lane.key, open.saturating_sub(1))?;
        let mut after = Row { place: Some(Place::Asks), ..row.clone() };
        after.record.waits_for += 1;
        self.put(&row, after)?;
        self.turns.push_back((asks.line, lane.key));
        Ok(())
    }

    fn is_paused(&mut self, line: i64, record: &Record, key: &Arc<str>) -> Result<bool, Fault> {
        let paused = &self.shard_there(shard_of_line(line))?.paused;
        if paused.is_empty() {
            return Ok(false);
        }
        let line = Line { queue: Arc::clone(&record.queue), tenant: Arc::clone(&record.tenant) };
        Ok(paused.contains(&(line, Arc::clone(key))))
    }

    /// Gives turns that are free to those who ask.
    pub(super) fn give_turns(&mut self, line: i64, key: &Arc<str>, now: Ms) -> Result<(), Fault> {
        loop {
            let asking = self.tables.asking(line, key, ASKING)?;
            if asking.is_empty() {
                return Ok(());
            }
            for row in asking {
                let row = self.named(row)?;
                if !self.give_turn(line, key, &row, now)? {
                    return Ok(());
                }
            }
        }
    }

    /// Gives a turn to this one, who asks first. Whether there may be another.
    fn give_turn(&mut self, line: i64, key: &Arc<str>, row: &Row, now: Ms) -> Result<bool, Fault> {
        let open = self.tables.open(line, key)?;
        let room = row.record.lane.as_ref().is_some_and(|lane| open < lane.open_max);
        if !room || self.is_paused(line, &row.record, key)? {
            return Ok(false);
        }
        if self.spent() {
            self.later(&Work::Lane(line, Arc::clone(key)))?;
            return Ok(false);
        }
        self.tables.put_open(line, key, open + 1)?;
        let held = Row { place: Some(Place::Holds), ..row.clone() };
        let (change, _) = step(held.record.clone(), Command::Unblock { over: 1 }, now);
        let Change::Put(record) = change else { return Ok(false) };
        self.put(row, Row { record: *record, ..held })?;
        Ok(true)
    }

    /// Takes the turns of a paused key back from those who have not begun.
    fn take_turns(&mut self, line: i64, key: &Arc<str>) -> Result<(), Fault> {
        let mut after = (i64::MIN, Seq(0));
        loop {
            let holding = self.tables.holding((line, key), Kind::Ready, after, HOLDING)?;
            let Some(last) = holding.last() else { return Ok(()) };
            after = *last;
            for seq in self.prefetch(holding.iter().map(|(_, seq)| *seq).collect())? {
                if self.spent() {
                    return self.later(&Work::Lane(line, Arc::clone(key)));
                }
                let Some(row) = self.load(seq)? else { continue };
                self.tidings.push(seq.shard(), News::Gone(seq, row.ready().line));
                self.put(&row, row.clone())?;
            }
        }
    }

    /// A key was paused, or goes on. Where there is no such line any more, nobody has its turns.
    pub(super) fn look_at_lane(&mut self, line: i64, key: &Arc<str>, now: Ms) -> Result<(), Fault> {
        self.shard_there(shard_of_line(line))?;
        let Some(names) = self.book.lines.known(self.tables, line)? else { return Ok(()) };
        if self.shard_there(shard_of_line(line))?.paused.contains(&(names, Arc::clone(key))) {
            self.take_turns(line, key)
        } else {
            self.give_turns(line, key, now)
        }
    }
}
