//! Errands, carried out together: what writes in one transaction, what only reads in another.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_wire::{bell, clock};

use super::{Doubt, Waiting, Writer};
use crate::deliveries::ledger::Ledger;
use crate::deliveries::tables::{Fault, Hints, Needs};
use crate::deliveries::{News, Tidings};
use crate::postgres::Failed;
use crate::postgres::deliveries::ages;
use crate::postgres::deliveries::desk::Desk;
use crate::postgres::deliveries::news::{self, Heard};
use crate::standing::State;
use crate::store::Unavailable;

impl Writer {
    /// Carries these out: what writes in one transaction, and what only reads in another.
    pub(super) fn write(&mut self, group: Vec<Waiting>) {
        let count = self.settings.shards;
        let (mut writes, mut reads) = (Vec::new(), Vec::new());
        let (mut needs, mut looks) = (Needs::default(), Hints::default());
        for waiting in group {
            let one = waiting.errand.needs(count);
            if one.writes {
                needs.add(one);
                writes.push(waiting);
            } else {
                looks.add(one.hints);
                reads.push(waiting);
            }
        }
        if !writes.is_empty() {
            match self.places_of(&mut needs) {
                Ok(()) => self.change(writes, needs),
                Err(fault) => self.failed(writes, fault),
            }
        }
        if !reads.is_empty() {
            self.read(reads, &looks);
        }
    }

    /// In which shards those are that are told by their ids alone: they stay there.
    pub(super) fn places_of(&mut self, needs: &mut Needs) -> Result<(), Fault> {
        if needs.everywhere || self.settings.shards == 1 {
            needs.shards.extend(0..self.settings.shards);
        }
        if needs.ids.is_empty() || self.settings.shards == 1 {
            return Ok(());
        }
        let Some(desk) = &mut self.desk else { return Ok(()) };
        let shards = desk.shards_of(&needs.ids)?;
        needs.shards.extend(shards);
        Ok(())
    }

    pub(super) fn change(&mut self, mut group: Vec<Waiting>, needs: Needs) {
        let Needs { mut shards, hints, .. } = needs;
        let committing = loop {
            match self.transact(&mut group, &shards, &hints) {
                // A shard is found to be another's only now and then; it is held, too, then.
                Err((Fault::Beyond(shard), _)) if shards.insert(shard) => self.undo(),
                done => break done,
            }
        };
        match committing {
            Ok(()) => self.tell_all(group),
            Err((Fault::Postgres(Failed::Lost(why)), Some(batch))) => {
                let epoch = self.epoch.unwrap_or_default();
                self.doubt = Some(Doubt { epoch, batch, group });
                self.away(&why);
            }
            Err((fault, _)) => self.failed(group, fault),
        }
    }

    /// One transaction. Where it fails: why and, if it may be committed all the same, its number.
    pub(super) fn transact(
        &mut self,
        group: &mut [Waiting],
        shards: &BTreeSet<u16>,
        hints: &Hints,
    ) -> Result<(), (Fault, Option<i64>)> {
        self.transact_with(shards, hints, &mut |ledger| {
            group.iter_mut().try_for_each(|waiting| waiting.errand.apply(ledger))
        })
    }

    pub(super) fn transact_with(
        &mut self,
        shards: &BTreeSet<u16>,
        hints: &Hints,
        work: &mut dyn FnMut(&mut Ledger<'_>) -> Result<(), Fault>,
    ) -> Result<(), (Fault, Option<i64>)> {
        self.batch += 1;
        let (batch, by) = (self.batch, self.soon());
        let taken = self.told.bytes().saturating_add(u64::try_from(self.bytes).unwrap_or_default());
        let room = self.bytes_max.saturating_sub(taken);
        let Some(desk) = self.desk.as_mut() else {
            return Err((Failed::Lost("there is no connection".to_owned()).into(), None));
        };
        desk.room = room;
        desk.session.waits_until(by);
        let before = |fault| (fault, None);
        desk.begin(batch, shards, hints).map_err(before)?;
        let mut ledger = Ledger::new(desk, &mut self.book);
        work(&mut ledger).map_err(before)?;
        let tidings = ledger.close().map_err(before)?;
        if !desk.has_written() {
            return desk.end().map_err(before);
        }
        let (bytes, own) = (desk.bytes, desk.session.link.epoch);
        let (mine, notes) = divide(desk, &tidings, own);
        let taken: Vec<u16> = desk.taken.keys().copied().collect();
        let versions = desk.commit(&notes).map_err(|fault| (fault, Some(batch)))?;
        self.bytes += bytes;
        self.told.commits.fetch_add(1, Relaxed);
        for (shard, version) in versions {
            if taken.contains(&shard) {
                self.hears.insert(shard, Heard::begin(version));
            } else if let Some(heard) = self.hears.get_mut(&shard) {
                heard.hear(version);
            }
        }
        for (shard, news) in mine {
            self.followers.tell(shard, &news);
        }
        self.followers.tell_changed(&tidings);
        self.book.settled();
        Ok(())
    }

    /// Carries out what only reads.
    pub(super) fn read(&mut self, mut group: Vec<Waiting>, hints: &Hints) {
        let by = self.soon();
        let Some(desk) = self.desk.as_mut() else { return self.give_back(group) };
        desk.session.waits_until(by);
        let mut look = || {
            desk.begin_reading(hints)?;
            let mut ledger = Ledger::new(&mut *desk, &mut self.book);
            group.iter_mut().try_for_each(|waiting| waiting.errand.apply(&mut ledger))?;
            ledger.close()?;
            desk.end()
        };
        match look() {
            Ok(()) => self.tell_all(group),
            Err(fault) => self.failed(group, fault),
        }
    }

    pub(super) fn tell_all(&mut self, group: Vec<Waiting>) {
        self.told.done.fetch_add(group.len() as u64, Relaxed);
        self.hindrance.is_over();
        bell::together(group.len(), || {
            group.into_iter().for_each(|waiting| waiting.errand.tell(Ok(())));
        });
        self.well();
    }

    /// Takes back what a transaction has done.
    pub(super) fn undo(&mut self) {
        let by = self.soon();
        self.book.forget();
        if let Some(desk) = &mut self.desk {
            desk.session.waits_until(by);
            desk.undo();
        }
    }

    /// Nothing of a transaction is done.
    pub(super) fn failed(&mut self, mut group: Vec<Waiting>, fault: Fault) {
        let failed = match fault {
            Fault::Postgres(failed) => failed,
            other => Failed::Refused(other.to_string()),
        };
        if let Failed::Lost(why) = &failed {
            self.give_back(group);
            return self.away(why);
        }
        self.undo();
        match failed {
            Failed::Fenced => {
                self.give_back(group);
                self.new_epoch();
            }
            Failed::Again(why) => {
                tracing::debug!(why, "the store tries a transaction of deliveries again");
                self.give_back(group);
                self.hindrance.met(clock::now(), getrandom::u64().unwrap_or_default());
                let age = self.desk.as_mut().map(ages::look);
                if let Some(Err(fault)) = age {
                    self.away(&fault.to_string());
                }
            }
            Failed::Full(_) | Failed::Refused(_) | Failed::Lost(_) if group.len() > 1 => {
                // Each for itself, so that one takes nobody down with it.
                for waiting in group {
                    if self.desk.is_some() {
                        self.write(vec![waiting]);
                    } else {
                        self.waiting.push_back(waiting);
                    }
                }
            }
            Failed::Full(_) if group.iter_mut().any(|waiting| waiting.errand.shrink()) => self.write(group),
            Failed::Full(why) => {
                tracing::debug!(why, "PostgreSQL has no room");
                self.ill(State::Full);
                self.refuse(group, Unavailable::Full);
            }
            Failed::Refused(why) | Failed::Lost(why) => {
                self.ill(State::Failing(why.as_str().into()));
                self.refuse(group, Unavailable::Failing);
            }
        }
    }

    pub(super) fn refuse(&mut self, group: Vec<Waiting>, why: Unavailable) {
        self.told.failed.fetch_add(group.len() as u64, Relaxed);
        group.into_iter().for_each(|waiting| waiting.errand.tell(Err(why)));
    }
}

type Mine = Vec<(u16, Vec<News>)>;

/// What goes to those who follow here, and what is told to other nodes.
fn divide(desk: &Desk, tidings: &Tidings, own: i64) -> (Mine, Vec<String>) {
    let (mut mine, mut notes) = (Vec::new(), Vec::new());
    for (shard, news) in tidings.by_shard() {
        match desk.shards.get(&shard) {
            Some(standing) if standing.owner == own => mine.push((shard, news.to_vec())),
            // Its version is counted up by the same transaction.
            Some(standing) if standing.owner != 0 && !news.is_empty() => {
                notes.push(news::note(shard, standing.version + 1, news));
            }
            _ => {}
        }
    }
    (mine, notes)
}
