//! The tables of deliveries in PostgreSQL, as the ledger asks for them: what is known is told at once, what changes is noted.

use std::sync::Arc;

use tidegate_model::delivery::shard::shard_of;
use tidegate_model::delivery::{Id, Kind, Ms, Request, Seq, Token};

use super::desk::Desk;
use super::known::{Change, Entry, Removed, Result as Answer};
use super::{leads, lists, looks};
use crate::deliveries::rows::{ATTEMPTS_KEPT, Row, Unnamed};
use crate::deliveries::tables::{Among, Fault, Hints, Shard, Sole, Tables, Tally, Work, shard_of_line};
use crate::deliveries::{Attempt, Callback, Depth, Kept, Line, Pause, Roll, Total};

impl Desk {
    /// A delivery is changed so far at least.
    fn change(&mut self, seq: Seq, how: Change) -> Option<&mut Entry> {
        let entry = self.known.rows.get_mut(&seq)?.as_mut()?;
        if entry.change == Change::Nothing {
            self.pending.rows.push(seq);
        }
        entry.change = entry.change.max(how);
        Some(entry)
    }
}

impl Tables for Desk {
    fn shard_of(&self, tenant: &str) -> u16 {
        shard_of(tenant, self.count)
    }

    fn shard(&mut self, shard: u16, known: bool) -> Result<Option<Shard>, Fault> {
        self.tell_shard(shard, known)
    }

    fn put_seq(&mut self, seq: Seq) -> Result<(), Fault> {
        Desk::put_seq(self, seq)
    }

    fn take(&mut self, shard: u16) -> Result<Option<u64>, Fault> {
        leads::take(self, shard)
    }

    fn give_away(&mut self, shard: u16) -> Result<(), Fault> {
        leads::give_away(self, shard)
    }

    fn roll(&mut self) -> Result<Roll, Fault> {
        leads::roll(self)
    }

    fn takes_new(&mut self, bytes: u64) -> Result<bool, Fault> {
        let added = u64::try_from(self.bytes).unwrap_or_default();
        Ok(added.saturating_add(bytes) < self.room)
    }

    fn prefetch(&mut self, hints: &Hints) -> Result<(), Fault> {
        self.fetch(hints)?;
        // Of what was fetched: its lane, and what makes it one of a kind.
        self.fetch(hints)
    }

    fn line(&mut self, names: &Line) -> Result<Option<Tally>, Fault> {
        if !self.known.names.contains_key(names) && !self.known.tenants.contains_key(&names.tenant) {
            self.fetch(&Hints { tenants: vec![Arc::clone(&names.tenant)], ..Hints::default() })?;
        }
        let number = self.known.names.get(names);
        Ok(number.and_then(|number| self.known.lines.get(number)).cloned())
    }

    fn line_by_number(&mut self, number: i64) -> Result<Option<Tally>, Fault> {
        if !self.known.lines.contains_key(&number) {
            looks::line(self, number)?;
        }
        Ok(self.known.lines.get(&number).cloned())
    }

    fn owner(&mut self, tenant: &str) -> Result<Option<i64>, Fault> {
        let lines = looks::lines_of(self, tenant)?;
        Ok(lines.first().map(|tally| tally.owner))
    }

    fn bytes_by_line(&mut self, tenant: &str) -> Result<Vec<(i64, i64)>, Fault> {
        let lines = looks::lines_of(self, tenant)?;
        Ok(lines.iter().map(|tally| (tally.number, tally.bytes)).collect())
    }

    fn insert_line(&mut self, names: &Line, owner: Option<i64>) -> Result<i64, Fault> {
        let standing = self.write_in(shard_of(&names.tenant, self.count))?;
        standing.line += 1;
        let number = standing.line;
        let owner = owner.unwrap_or(number);
        self.known.absorb_line(Tally { number, names: names.clone(), owner, counts: [0; 7], bytes: 0 });
        self.pending.new_lines.insert(number);
        Ok(number)
    }

    fn put_lines(&mut self, changed: &[&Tally]) -> Result<(), Fault> {
        for tally in changed {
            self.write_in(shard_of_line(tally.number))?;
            let is_new = self.pending.new_lines.contains(&tally.number);
            if tally.is_empty() {
                self.known.forget_line(tally.number);
                self.pending.lanes.retain(|(line, _)| *line != tally.number);
                self.pending.lines.remove(&tally.number);
                if !self.pending.new_lines.remove(&tally.number) {
                    self.pending.gone_lines.insert(tally.number);
                }
            } else {
                self.known.absorb_line((*tally).clone());
                if !is_new {
                    self.pending.lines.insert(tally.number);
                }
            }
        }
        Ok(())
    }

    fn find(&mut self, id: Id) -> Result<Option<Seq>, Fault> {
        if !self.known.ids.contains_key(&id) {
            self.fetch(&Hints { ids: vec![id], ..Hints::default() })?;
        }
        Ok(self.known.ids.get(&id).copied().flatten())
    }

    fn load(&mut self, seq: Seq) -> Result<Option<Unnamed>, Fault> {
        if !self.known.rows.contains_key(&seq) {
            self.fetch(&Hints { seqs: vec![seq], ..Hints::default() })?;
        }
        let found = self.known.rows.get(&seq).and_then(Option::as_ref);
        Ok(found.map(|entry| Unnamed(entry.row.clone())))
    }

    fn insert(&mut self, row: &Row) -> Result<(), Fault> {
        let seq = row.record.seq;
        self.write_in(seq.shard())?;
        let age = self.age;
        self.heed_asking(None, Some(row));
        self.known.ids.insert(row.record.id, Some(seq));
        self.known.rows.insert(seq, Some(Entry { row: row.clone(), age, change: Change::New }));
        self.pending.rows.push(seq);
        self.pending.count(age, seq, 1, (row.bytes + row.kept) as i64);
        self.bytes += row.bytes as i64;
        Ok(())
    }

    fn update(&mut self, before: &Row, after: &Row) -> Result<(), Fault> {
        let seq = after.record.seq;
        self.write_in(seq.shard())?;
        let how = if is_lean(before, after) { Change::Lean } else { Change::Wide };
        if !matches!(self.known.rows.get(&seq), Some(Some(_))) {
            // It was told of by a look that did not keep it.
            self.fetch(&Hints { seqs: vec![seq], ..Hints::default() })?;
        }
        let Some(entry) = self.change(seq, how) else {
            return Err(Fault::Odd("what is changed is not there"));
        };
        let was = std::mem::replace(&mut entry.row, after.clone());
        let age = entry.age;
        self.heed_asking(Some(&was), Some(after));
        let more = (after.bytes + after.kept) as i64 - (before.bytes + before.kept) as i64;
        if more != 0 {
            self.pending.count(age, seq, 0, more);
            self.bytes += more;
        }
        Ok(())
    }

    fn put_marks(&mut self, row: &Row, marks: u8) -> Result<(), Fault> {
        self.update(row, &Row { marks, ..row.clone() })
    }

    fn remove(&mut self, row: &Row) -> Result<(), Fault> {
        let (seq, id) = (row.record.seq, row.record.id);
        self.write_in(seq.shard())?;
        self.load(seq)?;
        let bytes = (row.bytes + row.kept) as i64;
        if let Some(Some(entry)) = self.known.rows.insert(seq, None) {
            self.pending.count(entry.age, seq, -1, -bytes);
            self.heed_asking(Some(&entry.row), None);
        }
        self.bytes -= bytes;
        self.known.ids.insert(id, None);
        self.known.forget_request(seq);
        let sole = row.sole.as_ref().map(|key| (row.line, Arc::clone(key)));
        if let Some(key) = &sole
            && self
                .known
                .uniques
                .get(key)
                .is_some_and(|found| found.as_ref().is_some_and(|sole| sole.seq == seq))
        {
            self.known.uniques.insert(key.clone(), None);
        }
        self.pending.callbacks.remove(&seq);
        self.pending.afters.retain(|(first, _), _| *first != seq);
        self.pending.removed.push(Removed { seq, id, sole });
        Ok(())
    }

    fn request(&mut self, seq: Seq) -> Result<Option<(Arc<Request>, u64)>, Fault> {
        if !self.known.requests.contains_key(&seq) {
            self.fetch(&Hints { requests: vec![seq], ..Hints::default() })?;
        }
        Ok(self.known.requests.get(&seq).cloned())
    }

    fn put_request(&mut self, seq: Seq, request: &Arc<Request>, edits: u64) -> Result<(), Fault> {
        self.write_in(seq.shard())?;
        self.known.absorb_request(seq, Arc::clone(request), edits);
        self.pending.requests.insert(seq);
        Ok(())
    }

    fn attempts(&mut self, seq: Seq) -> Result<Vec<Attempt>, Fault> {
        looks::attempts(self, seq)
    }

    fn put_attempt(&mut self, seq: Seq, token: Token, attempt: &Attempt) -> Result<(), Fault> {
        self.write_in(seq.shard())?;
        self.pending.attempts.insert((seq, token.0), attempt.clone());
        if token.0 > ATTEMPTS_KEPT {
            self.pending.trimmed.insert(seq, token.0 - ATTEMPTS_KEPT);
        }
        Ok(())
    }

    fn result(&mut self, seq: Seq) -> Result<Option<Kept>, Fault> {
        looks::result(self, seq)
    }

    fn answered(&mut self, seq: Seq) -> Result<Option<u16>, Fault> {
        looks::answered(self, seq)
    }

    fn put_result(&mut self, seq: Seq, result: &Kept, fields: &[u8]) -> Result<(), Fault> {
        self.write_in(seq.shard())?;
        let Kept { status, whole, body, .. } = result;
        let answer = Answer { status: *status, whole: *whole, fields: fields.to_vec(), body: body.clone() };
        self.pending.results.insert(seq, answer);
        Ok(())
    }

    fn unique(&mut self, line: i64, key: &str) -> Result<Option<Sole>, Fault> {
        looks::unique(self, line, key)
    }

    fn put_unique(&mut self, line: i64, key: &Arc<str>, sole: &Sole) -> Result<(), Fault> {
        self.write_in(shard_of_line(line))?;
        self.known.uniques.insert((line, Arc::clone(key)), Some(sole.clone()));
        self.pending.uniques.insert((line, Arc::clone(key)));
        Ok(())
    }

    fn comes_after(&mut self, first: Seq, seq: Seq) -> Result<bool, Fault> {
        match self.pending.afters.get(&(first, seq)) {
            Some(there) => Ok(*there),
            None if self.pending.free.contains(&seq) => Ok(false),
            None => looks::comes_after(self, first, seq),
        }
    }

    fn insert_after(&mut self, first: Seq, seq: Seq) -> Result<(), Fault> {
        self.write_in(first.shard())?;
        self.pending.afters.insert((first, seq), true);
        Ok(())
    }

    fn afters(&mut self, first: Seq, after: Seq, most: usize) -> Result<Vec<Seq>, Fault> {
        looks::afters(self, first, after, most)
    }

    fn remove_after(&mut self, first: Seq, seq: Seq) -> Result<(), Fault> {
        self.write_in(first.shard())?;
        self.pending.afters.insert((first, seq), false);
        Ok(())
    }

    fn remove_firsts(&mut self, seq: Seq) -> Result<(), Fault> {
        self.write_in(seq.shard())?;
        self.pending.afters.retain(|(_, waits), _| *waits != seq);
        self.pending.free.insert(seq);
        Ok(())
    }

    fn callback(&mut self, seq: Seq) -> Result<Option<Callback>, Fault> {
        match self.pending.callbacks.get(&seq) {
            Some(callback) => Ok(callback.clone()),
            None => looks::callback(self, seq),
        }
    }

    fn put_callback(&mut self, seq: Seq, callback: &Callback) -> Result<(), Fault> {
        self.write_in(seq.shard())?;
        self.pending.callbacks.insert(seq, Some(callback.clone()));
        Ok(())
    }

    fn remove_callback(&mut self, seq: Seq) -> Result<(), Fault> {
        self.write_in(seq.shard())?;
        self.pending.callbacks.insert(seq, None);
        Ok(())
    }

    fn next_work(&mut self, shard: u16) -> Result<Option<Work>, Fault> {
        looks::next_work(self, shard)
    }

    fn put_work(&mut self, work: &Work) -> Result<(), Fault> {
        self.put_work_so(work, true)
    }

    fn remove_work(&mut self, work: &Work) -> Result<(), Fault> {
        self.put_work_so(work, false)
    }

    fn open(&mut self, line: i64, key: &str) -> Result<u32, Fault> {
        looks::open(self, line, key)
    }

    fn put_open(&mut self, line: i64, key: &Arc<str>, open: u32) -> Result<(), Fault> {
        self.write_in(shard_of_line(line))?;
        self.known.lanes.insert((line, Arc::clone(key)), open);
        self.pending.lanes.insert((line, Arc::clone(key)));
        Ok(())
    }

    fn is_asked_for(&mut self, line: i64, key: &str) -> Result<bool, Fault> {
        Ok(!self.first_asking(&(line, key.into()), 1)?.is_empty())
    }

    fn asking(&mut self, line: i64, key: &str, most: usize) -> Result<Vec<Unnamed>, Fault> {
        self.asking_rows(&(line, key.into()), most)
    }

    fn holding(
        &mut self,
        of: (i64, &str),
        state: Kind,
        after: (i64, Seq),
        most: usize,
    ) -> Result<Vec<(i64, Seq)>, Fault> {
        looks::holding(self, of, state, after, most)
    }

    fn due(&mut self, shard: u16, now: Ms, most: usize) -> Result<Vec<Seq>, Fault> {
        looks::due(self, shard, now, most)
    }

    fn next_due(&mut self, shard: u16) -> Result<Option<Ms>, Fault> {
        looks::next_due(self, shard)
    }

    fn ready(&mut self, line: i64, after: (i64, Seq), most: usize) -> Result<Vec<Unnamed>, Fault> {
        looks::ready(self, line, after, most)
    }

    fn lines_ready(&mut self, shard: u16, after: Option<&Line>, most: usize) -> Result<Vec<Line>, Fault> {
        lists::lines_ready(self, shard, after, most)
    }

    fn leased(&mut self, shard: u16, after: Seq, most: usize) -> Result<Vec<Unnamed>, Fault> {
        looks::leased(self, shard, after, most)
    }

    fn expired(&mut self, shard: u16, now: Ms, most: usize) -> Result<Vec<(Seq, i64)>, Fault> {
        looks::expired(self, shard, now, most)
    }

    fn forgotten(&mut self, shard: u16, now: Ms, most: usize) -> Result<Vec<Unnamed>, Fault> {
        looks::forgotten(self, shard, now, most)
    }

    fn page(&mut self, among: Among, before: Seq, most: usize) -> Result<Vec<Unnamed>, Fault> {
        lists::page(self, among, before, most)
    }

    fn depths(
        &mut self,
        queue: Option<&str>,
        tenant: Option<&str>,
        after: Option<&Line>,
        most: usize,
    ) -> Result<Vec<Depth>, Fault> {
        lists::depths(self, queue, tenant, after, most)
    }

    fn totals(&mut self, lines_max: usize) -> Result<Vec<Total>, Fault> {
        lists::totals(self, lines_max)
    }

    fn pauses(&mut self) -> Result<Vec<Pause>, Fault> {
        lists::pauses(self)
    }

    fn put_pause(&mut self, pause: &Pause, most: usize) -> Result<bool, Fault> {
        lists::put_pause(self, pause, most)
    }

    fn remove_pause(&mut self, pause: &Pause) -> Result<(), Fault> {
        lists::remove_pause(self, pause)
    }

    #[cfg(any(test, debug_assertions))]
    fn audit(&mut self) -> Result<Vec<String>, Fault> {
        super::audit::audit(self)
    }
}

impl Desk {
    fn put_work_so(&mut self, work: &Work, there: bool) -> Result<(), Fault> {
        let key = match work {
            Work::Ended(seq) => {
                self.write_in(seq.shard())?;
                (0, crate::deliveries::rows::whole(seq.0), Arc::default())
            }
            Work::Lane(line, key) => {
                self.write_in(shard_of_line(*line))?;
                (1, *line, Arc::clone(key))
            }
        };
        self.pending.works.insert(key, there);
        Ok(())
    }
}

/// Whether nothing but what every attempt changes is different.
fn is_lean(before: &Row, after: &Row) -> bool {
    let (old, new) = (&before.record, &after.record);
    before.place == after.place
        && new.lane == old.lane
        && new.rank == old.rank
        && new.progress == old.progress
        && (new.priority, new.expires, new.attempts_max) == (old.priority, old.expires, old.attempts_max)
        && (new.waits_for, after.marks, after.bytes) == (old.waits_for, before.marks, before.bytes)
        && before.sole == after.sole
}
