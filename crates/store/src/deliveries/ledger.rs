//! One transaction with deliveries: what is changed, and what that brings about in the same transaction.
//!
//! Whatever changes a delivery goes through [`Ledger::put`]: it settles the lane, writes the row, counts, and notes what follows.
//! [`Ledger::follow_up`] carries that out: a turn that was given back goes to whoever asks next, whoever comes after
//! one that has ended is told, a callback is accepted. One transaction carries out so much of it and no more; the rest is
//! noted on disk ([`Work`]) and done by and by.
//!
//! It knows nothing of how deliveries lie on disk: that is its [`Tables`]' business. What it keeps between two transactions is
//! its [`Book`].

use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{Change, Command, Kind, Ms, Request, Seq, State, Told, step};

use super::book::Book;
use super::news::Tidings;
use super::rows::{MARK_CALLBACK, MARK_FIRST, Row, Unnamed};
use super::tables::{Fault, Hints, Shard, Tables, Work, shard_of_line};
use super::{AHEAD_BYTES_MAX, Epoch, Line, News, Ready, Slots, ends};

/// What one transaction may bring about beside what was asked for.
const CONSEQUENCES_MAX: usize = 512;

/// A transaction.
pub(crate) struct Ledger<'a> {
    pub(super) tables: &'a mut dyn Tables,
    pub(super) book: &'a mut Book,
    /// What has become ready.
    pub(super) ready: Vec<Ready>,
    /// What whoever decides who is next has not done itself.
    pub(super) tidings: Tidings,
    pub(super) turns: VecDeque<(i64, Arc<str>)>,
    ends: VecDeque<Seq>,
    /// Where what is accepted may be begun at once.
    slots: Option<&'a Slots>,
    /// Whether anything is paused, once that was asked.
    pub(super) has_pauses: Option<bool>,
    consequences: usize,
    /// Pages that were changed, about.
    pub(crate) pages: u64,
}

impl<'a> Ledger<'a> {
    /// A transaction that has begun.
    pub(crate) fn new(tables: &'a mut dyn Tables, book: &'a mut Book) -> Ledger<'a> {
        book.begin();
        Ledger {
            tables,
            book,
            ready: Vec::new(),
            tidings: Tidings::default(),
            turns: VecDeque::new(),
            ends: VecDeque::new(),
            slots: None,
            has_pauses: None,
            consequences: 0,
            pages: 0,
        }
    }

    /// What it accepts may take these.
    pub(crate) fn taking(self, slots: &'a Slots) -> Ledger<'a> {
        Ledger { slots: Some(slots), ..self }
    }

    /// Writes what was counted, before the transaction is committed. What is told then.
    pub(crate) fn close(self) -> Result<Tidings, Fault> {
        self.book.write(self.tables)?;
        self.tables.flush()?;
        Ok(self.tidings)
    }

    /// Writes nothing of what was counted: that is for later. What is told then.
    pub(crate) fn leave(self) -> Tidings {
        self.tidings
    }

    /// A shard, as it stands. `None`: there is no such shard.
    pub(super) fn shard(&mut self, shard: u16) -> Result<Option<&mut Shard>, Fault> {
        self.book.shard(self.tables, shard)
    }

    /// The shard of a line or a delivery that there is.
    pub(super) fn shard_there(&mut self, shard: u16) -> Result<&mut Shard, Fault> {
        self.shard(shard)?.ok_or(Fault::Odd("a shard that there is not"))
    }

    /// The shard of a tenant's deliveries.
    pub(super) fn shard_of_tenant(&mut self, tenant: &str) -> Result<&mut Shard, Fault> {
        let shard = self.tables.shard_of(tenant);
        self.shard_there(shard)
    }

    /// A line's number, if there is such a line.
    pub(super) fn find_line(&mut self, line: &Line) -> Result<Option<i64>, Fault> {
        self.shard_of_tenant(&line.tenant)?;
        self.book.lines.find(self.tables, line)
    }

    /// A line's number. Where there is none yet, there is one now.
    pub(super) fn place(&mut self, line: &Line) -> Result<i64, Fault> {
        self.shard_of_tenant(&line.tenant)?;
        self.book.lines.place(self.tables, line)
    }

    /// The request of a delivery that there is, and how often it was changed.
    pub(super) fn request(&mut self, seq: Seq) -> Result<(Arc<Request>, u64), Fault> {
        self.tables.request(seq)?.ok_or(Fault::Odd("a delivery has no request"))
    }

    /// The next place in a shard.
    pub(super) fn next_seq(&mut self, shard: u16) -> Result<Seq, Fault> {
        let shard = self.shard_there(shard)?;
        shard.seq.0 += 1;
        Ok(shard.seq)
    }

    /// What was found ready and due so far goes to those who follow.
    pub(super) fn tell_followers(&mut self) {
        self.tidings.tell(&mut self.ready);
    }

    pub(super) fn load(&mut self, seq: Seq) -> Result<Option<Row>, Fault> {
        let found = self.tables.load(seq)?;
        found.map(|row| self.named(row)).transpose()
    }

    /// A row with its line's names.
    pub(super) fn named(&mut self, row: Unnamed) -> Result<Row, Fault> {
        self.shard_there(shard_of_line(row.line()))?;
        let (_, names) = self.book.lines.names(self.tables, row.line())?;
        Ok(row.named(names))
    }

    pub(super) fn all_named(&mut self, rows: Vec<Unnamed>) -> Result<Vec<Row>, Fault> {
        rows.into_iter().map(|row| self.named(row)).collect()
    }

    /// These are loaded soon.
    pub(super) fn prefetch(&mut self, seqs: Vec<Seq>) -> Result<Vec<Seq>, Fault> {
        let hints = Hints { seqs, ..Hints::default() };
        self.tables.prefetch(&hints)?;
        Ok(hints.seqs)
    }

    /// Carries out a command to a delivery.
    pub(super) fn command(&mut self, row: &Row, command: Command, now: Ms) -> Result<Told, Fault> {
        let (change, told) = step(row.record.clone(), command, now);
        if let Change::Put(record) = change {
            self.put(row, Row { record: *record, ..row.clone() })?;
        }
        Ok(told)
    }

    /// A delivery is accepted.
    pub(super) fn insert(&mut self, mut row: Row) -> Result<(), Fault> {
        self.settle(&mut row)?;
        self.tables.insert(&row)?;
        let bytes = row.bytes as i64;
        self.book.lines.count(self.tables, row.line, None, Some(row.record.state.kind()), bytes)?;
        self.pages += 3 + row.bytes / 4096;
        self.note(None, &row, true);
        Ok(())
    }

    /// A delivery is accepted, and begun in the same transaction where a slot was given away for it.
    pub(super) fn insert_or_begin(&mut self, row: Row, now: Ms) -> Result<(), Fault> {
        let Some(slots) = self.slots.filter(|_| may_take_a_slot(&row)) else { return self.insert(row) };
        let (shard, queue) = (row.record.seq.shard(), Arc::clone(&row.record.queue));
        let epoch = Epoch { shard, number: self.shard_there(shard)?.epoch };
        let Some(lease) = slots.lease(epoch, &queue) else { return self.insert(row) };
        let start = Command::Start { until: now.saturating_add(lease) };
        let (Change::Put(record), Told::Started(token)) = step(row.record.clone(), start, now) else {
            return self.insert(row);
        };
        // Whoever has offered it may have taken it back by now, or not know of a pause yet.
        if self.has_pauses()? || !slots.take(epoch, &queue) {
            return self.insert(row);
        }
        let ready = row.ready();
        self.insert(Row { record: *record, ..row })?;
        let (request, _) = self.request(ready.seq)?;
        self.tidings.push(shard, News::Begun(ready, token, request));
        Ok(())
    }

    /// Whether anything is paused, whatever it is.
    fn has_pauses(&mut self) -> Result<bool, Fault> {
        if let Some(known) = self.has_pauses {
            return Ok(known);
        }
        let found = !self.tables.pauses()?.is_empty();
        self.has_pauses = Some(found);
        Ok(found)
    }

    /// A delivery is different now.
    pub(super) fn put(&mut self, before: &Row, mut after: Row) -> Result<(), Fault> {
        self.settle(&mut after)?;
        let (from, to) = (before.record.state.kind(), after.record.state.kind());
        if to.has_ended() && !from.has_ended() {
            self.keep_unique(&mut after)?;
            if ends::waits_for_others(before) > 0 {
                // Made again it waits for none of them, and perhaps for others.
                self.tables.remove_firsts(before.record.seq)?;
            }
        }
        self.tables.update(before, &after)?;
        let bytes = (after.bytes + after.kept) as i64 - (before.bytes + before.kept) as i64;
        self.book.lines.count(self.tables, after.line, Some(from), Some(to), bytes)?;
        self.pages += 3;
        self.tidings.changed(after.record.id);
        if before.place.is_none() && after.place == Some(Place::Asks) {
            self.take_turn_from_newer(&after)?;
        }
        // It is to be begun in another order now.
        let is_new = (before.record.rank, &before.record.lane) != (after.record.rank, &after.record.lane);
        self.note(Some(from), &after, is_new);
        Ok(())
    }

    /// What is one of a kind is not forgotten before another one may be.
    fn keep_unique(&mut self, row: &mut Row) -> Result<(), Fault> {
        let Some(sole) = &row.sole else { return Ok(()) };
        let found = self.tables.unique(row.line, sole)?.filter(|found| found.seq == row.record.seq);
        let until = found.map(|found| found.until).unwrap_or_default();
        row.record.forgotten = row.record.forgotten.map(|forgotten| forgotten.max(until));
        Ok(())
    }

    /// What follows from a delivery's being as it is now.
    fn note(&mut self, from: Option<Kind>, row: &Row, is_new: bool) {
        let followed = row.marks & (MARK_FIRST | MARK_CALLBACK) != 0;
        match row.record.state {
            State::Ready if from != Some(Kind::Ready) || is_new => self.ready.push(row.ready()),
            State::Scheduled => self.tidings.due(row.record.seq.shard(), row.record.due),
            state if state.has_ended() && followed && from.is_some_and(|from| !from.has_ended()) => {
                self.ends.push_back(row.record.seq);
            }
            _ => {}
        }
    }

    /// Carries out what the changes so far bring about.
    pub(super) fn follow_up(&mut self, now: Ms) -> Result<(), Fault> {
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
    pub(super) fn later(&mut self, work: &Work) -> Result<(), Fault> {
        self.tables.put_work(work)?;
        let shard = match work {
            Work::Ended(seq) => seq.shard(),
            Work::Lane(line, _) => shard_of_line(*line),
        };
        self.shard_there(shard)?.works = true;
        Ok(())
    }

    /// Carries out some of what was noted in a shard.
    pub(crate) fn work(&mut self, shard: u16, now: Ms) -> Result<(), Fault> {
        let Some(standing) = self.shard(shard)? else { return Ok(()) };
        if !standing.works {
            return Ok(());
        }
        let Some(work) = self.tables.next_work(shard)? else {
            self.shard_there(shard)?.works = false;
            return Ok(());
        };
        self.tables.remove_work(&work)?;
        self.pages += 1;
        match work {
            Work::Ended(seq) => ends::tell(self, seq, now)?,
            Work::Lane(line, key) => self.look_at_lane(line, &key, now)?,
        }
        self.follow_up(now)?;
        self.tell_followers();
        Ok(())
    }

    /// Takes a shard that there is. Its new owner's epoch, or `None`: another node has it.
    pub(super) fn lead(&mut self, shard: u16) -> Result<Option<Epoch>, Fault> {
        let Some(number) = self.tables.take(shard)? else { return Ok(None) };
        self.shard_there(shard)?.epoch = number;
        self.pages += 1;
        Ok(Some(Epoch { shard, number }))
    }

    /// Whether this is the owner of its shard: whoever is not any more is refused.
    pub(super) fn is_led_by(&mut self, epoch: Epoch) -> Result<bool, Fault> {
        Ok(self.shard(epoch.shard)?.is_some_and(|shard| shard.epoch == epoch.number))
    }
}

/// Whether one that is accepted may be begun at once where a slot is free: those of a key have turns.
fn may_take_a_slot(row: &Row) -> bool {
    row.record.state == State::Ready && row.record.lane.is_none() && row.bytes <= AHEAD_BYTES_MAX
}
