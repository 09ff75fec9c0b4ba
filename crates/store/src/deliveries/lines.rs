//! Lines: a queue and a tenant are a number in the tables, with what it has counted.
//!
//! Counts are kept in memory while they change and written once a transaction, so that they cost a transaction as much as it
//! touches lines, not deliveries, or later, with what is [ahead](crate::ahead) of the tables. Memory holds some lines; when it holds too many,
//! all are forgotten between two transactions, once all is written. After a transaction that failed, too: what it had counted did not happen. And those of a shard that another
//! has changed.

use std::collections::HashMap;

use tidegate_model::delivery::Kind;

use super::Line;
use super::numbers::ByNumber;
use super::tables::{Fault, Tables, Tally, shard_of_line};

/// Lines in memory between two transactions.
const LINES_MAX: usize = 8192;

/// The lines in memory.
#[derive(Debug, Default)]
pub(super) struct Lines {
    known: ByNumber<i64, Counted>,
    places: HashMap<Line, i64>,
    /// Bytes of all of a tenant's lines, by their owner.
    owners: ByNumber<i64, i64>,
    changed: Vec<i64>,
}

#[derive(Debug)]
struct Counted {
    tally: Tally,
    changed: bool,
}

impl Lines {
    /// Forgets what is not on disk.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.places.clear();
        self.owners.clear();
        self.changed.clear();
    }

    /// Forgets the lines of a shard, of which none has changed in this transaction.
    pub(super) fn forget(&mut self, shard: u16) {
        self.known.retain(|number, _| shard_of_line(*number) != shard);
        self.places.retain(|_, number| shard_of_line(*number) != shard);
        self.owners.retain(|owner, _| shard_of_line(*owner) != shard);
    }

    /// A line's number, if there is such a line.
    pub(super) fn find(&mut self, tables: &mut dyn Tables, line: &Line) -> Result<Option<i64>, Fault> {
        if let Some(number) = self.places.get(line) {
            return Ok(Some(*number));
        }
        Ok(tables.line(line)?.map(|tally| self.keep(tally)))
    }

    /// A line's number. Where there is none yet, there is one now.
    pub(super) fn place(&mut self, tables: &mut dyn Tables, line: &Line) -> Result<i64, Fault> {
        if let Some(number) = self.find(tables, line)? {
            return Ok(number);
        }
        let owner = tables.owner(&line.tenant)?;
        let number = tables.insert_line(line, owner)?;
        let owner = owner.unwrap_or(number);
        self.keep(Tally { number, names: line.clone(), owner, counts: [0; 7], bytes: 0 });
        // One that stays empty, as what was to be in it was refused, is removed with the others that have become so.
        self.touch(number);
        Ok(number)
    }

    /// Whose a line is, and what it is called.
    pub(super) fn names(&mut self, tables: &mut dyn Tables, number: i64) -> Result<(i64, Line), Fault> {
        let Counted { tally, .. } = self.counted(tables, number)?;
        Ok((tally.owner, tally.names.clone()))
    }

    /// What a line is called, if there is still one with this number.
    pub(super) fn known(&mut self, tables: &mut dyn Tables, number: i64) -> Result<Option<Line>, Fault> {
        if !self.known.contains_key(&number)
            && let Some(tally) = tables.line_by_number(number)?
        {
            self.keep(tally);
        }
        Ok(self.known.get(&number).map(|counted| counted.tally.names.clone()))
    }

    /// Deliveries of a line that have not ended.
    pub(super) fn waiting(&mut self, tables: &mut dyn Tables, number: i64) -> Result<u64, Fault> {
        let counts = self.counted(tables, number)?.tally.counts;
        let open = Kind::ALL.into_iter().filter(|kind| !kind.has_ended());
        let open: i64 = open.map(|kind| counts[kind as usize]).sum();
        Ok(u64::try_from(open).unwrap_or_default())
    }

    /// Bytes of all of a tenant's deliveries.
    pub(super) fn bytes_of(&mut self, tables: &mut dyn Tables, number: i64) -> Result<u64, Fault> {
        let (owner, names) = self.names(tables, number)?;
        if let Some(bytes) = self.owners.get(&owner) {
            return Ok(u64::try_from(*bytes).unwrap_or_default());
        }
        let written = tables.bytes_by_line(&names.tenant)?;
        let now = |(number, written)| self.known.get(&number).map_or(written, |counted| counted.tally.bytes);
        let bytes = written.into_iter().map(now).sum();
        self.owners.insert(owner, bytes);
        Ok(u64::try_from(bytes).unwrap_or_default())
    }

    /// One of a line's deliveries comes from this state into that, or anew, or goes.
    pub(super) fn count(
        &mut self,
        tables: &mut dyn Tables,
        number: i64,
        from: Option<Kind>,
        to: Option<Kind>,
        bytes: i64,
    ) -> Result<(), Fault> {
        if from == to && bytes == 0 {
            return Ok(());
        }
        let Counted { tally, .. } = self.counted(tables, number)?;
        if let Some(from) = from {
            tally.counts[from as usize] -= 1;
        }
        if let Some(to) = to {
            tally.counts[to as usize] += 1;
        }
        tally.bytes += bytes;
        let owner = tally.owner;
        if let Some(owned) = self.owners.get_mut(&owner) {
            *owned += bytes;
        }
        self.touch(number);
        Ok(())
    }

    fn touch(&mut self, number: i64) {
        if let Some(counted) = self.known.get_mut(&number)
            && !std::mem::replace(&mut counted.changed, true)
        {
            self.changed.push(number);
        }
    }

    /// Writes what has been counted. A line without deliveries is removed.
    pub(super) fn write(&mut self, tables: &mut dyn Tables) -> Result<(), Fault> {
        if self.changed.is_empty() {
            return Ok(());
        }
        let changed = std::mem::take(&mut self.changed);
        let tallies = changed.iter().filter_map(|number| self.known.get(number));
        let tallies: Vec<&Tally> = tallies.map(|counted| &counted.tally).collect();
        tables.put_lines(&tallies)?;
        for number in changed {
            let Some(counted) = self.known.get_mut(&number) else { continue };
            counted.changed = false;
            if counted.tally.is_empty()
                && let Some(gone) = self.known.remove(&number)
            {
                self.places.remove(&gone.tally.names);
            }
        }
        Ok(())
    }

    /// A transaction is over: keeps no more in memory than it may.
    pub(super) fn trim(&mut self) {
        if self.changed.is_empty() && (self.known.len() > LINES_MAX || self.owners.len() > LINES_MAX) {
            self.clear();
        }
    }

    fn counted(&mut self, tables: &mut dyn Tables, number: i64) -> Result<&mut Counted, Fault> {
        if !self.known.contains_key(&number) {
            self.keep(tables.line_by_number(number)?.ok_or(Fault::Odd("a delivery has no line"))?);
        }
        Ok(self.known.get_mut(&number).expect("it was put there"))
    }

    fn keep(&mut self, tally: Tally) -> i64 {
        let number = tally.number;
        self.places.insert(tally.names.clone(), number);
        self.known.insert(number, Counted { tally, changed: false });
        number
    }
}
