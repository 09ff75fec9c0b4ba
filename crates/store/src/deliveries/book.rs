//! What is known of deliveries between two transactions, all of it on disk, in the tables or ahead of them: how each shard stands, what lines have counted.

use tidegate_model::delivery::Seq;

use super::lines::Lines;
use super::tables::{Fault, Shard, Tables};

/// What is known between two transactions.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(super) lines: Lines,
    /// By their numbers.
    shards: Vec<Option<Known>>,
    /// The number of the transaction that is under way.
    transaction: u64,
}

/// A shard that is known.
#[derive(Debug)]
struct Known {
    shard: Shard,
    /// The last place that may be given away in it without being written.
    written: u64,
    /// The last transaction that has asked how it stands.
    asked: u64,
}

impl Book {
    /// A transaction failed: what is known may not be so.
    pub(crate) fn forget(&mut self) {
        self.lines.clear();
        self.shards.clear();
    }

    /// Whether something is left to be done in a shard.
    pub(crate) fn has_work(&self, shard: u16) -> bool {
        self.shards.get(usize::from(shard)).and_then(Option::as_ref).is_some_and(|known| known.shard.works)
    }

    /// A transaction is on disk.
    pub(crate) fn settled(&mut self) {
        self.lines.trim();
    }

    /// A transaction has begun.
    pub(super) fn begin(&mut self) {
        self.transaction += 1;
    }

    /// A shard, as it stands in this transaction. `None`: there is no such shard.
    pub(super) fn shard(&mut self, tables: &mut dyn Tables, shard: u16) -> Result<Option<&mut Shard>, Fault> {
        let place = usize::from(shard);
        if self.shards.len() <= place {
            self.shards.resize_with(place + 1, || None);
        }
        let known = &mut self.shards[place];
        if known.as_ref().is_none_or(|known| known.asked != self.transaction) {
            if let Some(found) = tables.shard(shard, known.is_some())? {
                // What another has changed of it may be its lines, too.
                self.lines.forget(shard);
                *known = Some(Known { written: found.seq.0, shard: found, asked: self.transaction });
            }
            if let Some(known) = known {
                known.asked = self.transaction;
            }
        }
        Ok(known.as_mut().map(|known| &mut known.shard))
    }

    /// Whether all places that were given away are noted.
    pub(crate) fn has_noted_places(&self) -> bool {
        self.shards.iter().flatten().all(|known| known.shard.seq.0 <= known.written)
    }

    /// Writes what has changed.
    pub(crate) fn write(&mut self, tables: &mut dyn Tables) -> Result<(), Fault> {
        self.lines.write(tables)?;
        for known in self.shards.iter_mut().flatten() {
            if known.shard.seq.0 > known.written {
                known.written = known.shard.seq.0 + tables.seqs_ahead();
                tables.put_seq(Seq(known.written))?;
            }
        }
        Ok(())
    }
}
