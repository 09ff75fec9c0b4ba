//! One transaction of the writing thread: on disk in the database's log or, where it is little and all of it new, [ahead](crate::ahead) of
//! the tables.
//!
//! What always holds: whoever looks into the tables of deliveries for more than what is new finds all there that was told to be on disk.
//! After a transaction that failed no row that is at hand is believed: what is ahead of the tables is brought there from its bytes, in
//! each transaction that is for deliveries until one succeeds. Where that cannot be written, what changes nothing is answered all the same.

use std::sync::atomic::Ordering::Relaxed;

use rusqlite::Connection;
use tidegate_model::idempotency::Told;

use super::{COMMAND_PAGES, Claim, Inquiry, Waiting, Writer, now};
use crate::ahead::Ahead;
use crate::claims::{self, Asked, Delta};
use crate::database::{self, Database, PAGE_BYTES, Trouble};
use crate::deliveries::ledger::Ledger;
use crate::deliveries::sqlite::Sqlite;
use crate::deliveries::sqlite::recent::Recent;
use crate::deliveries::tables::{Fault, Tables as _};
use crate::deliveries::{Book, Slots, Tidings};
use crate::documents;
use crate::store::Unavailable;

/// Deliveries of a transaction that may be on disk ahead of the tables. More of them fill most of the pages that they change.
const ROUND_MAX: usize = 32;
/// The same, in bytes.
const ROUND_BYTES_MAX: usize = 64 << 10;

/// What is known of the deliveries between two transactions, all of it on disk.
#[derive(Default)]
pub(super) struct Known {
    pub(super) book: Book,
    pub(super) recent: Recent,
}

impl Known {
    /// Writes into the tables what is ahead of them.
    fn catch_up(&mut self, connection: &Connection) -> Result<(), Fault> {
        let mut tables = Sqlite::new(connection, &mut self.recent);
        self.book.write(&mut tables)?;
        tables.flush()?;
        tables.leave();
        Ok(())
    }
}

/// What a transaction has to do with deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Concern {
    Nothing,
    /// It is for those that are new.
    New,
    Any,
}

/// What a transaction has come to, beside what it was for.
#[derive(Default)]
pub(super) struct Brought {
    pub(super) delta: Delta,
    /// Pages that it has changed, about. What has changed none has told nothing of the disk.
    pub(super) pages: u64,
    /// What whoever follows the deliveries is told.
    pub(super) news: Tidings,
    /// It has changed nothing in the tables: all that it has brought about is new, and gathered.
    pub(super) is_gathered: bool,
}

/// What became of a transaction.
enum Outcome<T> {
    /// All that it has changed is on disk.
    Done(T, Brought),
    /// It was to change nothing, and what is ahead could not be brought into the tables with it.
    Looked(T, Fault),
}

impl Writer {
    /// Does something in one transaction, and tells what it came to once that is on disk.
    pub(super) fn transaction<T>(
        &mut self,
        concern: Concern,
        work: impl FnOnce(&Connection, &mut Known) -> Result<(T, Brought), Fault>,
    ) -> Result<T, Unavailable> {
        let result = self.carry_out(concern, work);
        self.known.book.settled();
        self.followers.slots.settle(result.is_ok());
        match result {
            Ok(Outcome::Done(made, Brought { pages: 0, .. })) => Ok(made),
            Ok(Outcome::Done(made, Brought { delta, news, .. })) => {
                self.told.commits.fetch_add(1, Relaxed);
                self.told.more(delta.records, delta.bytes);
                news.by_shard().for_each(|(shard, news)| self.followers.tell(shard, news));
                self.followers.tell_changed(&news);
                if news.has_begun() {
                    // Where all share a core, whoever makes what was begun goes before those who are told that it was accepted.
                    std::thread::yield_now();
                }
                let written = self.database.written();
                if written > 0 && !self.database.owes {
                    self.well();
                }
                self.logged += written;
                self.known.recent.wrote(written / PAGE_BYTES);
                Ok(made)
            }
            Ok(Outcome::Looked(made, error)) => {
                self.failed(&error);
                Ok(made)
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// A transaction is undone.
    fn failed(&mut self, error: &Fault) -> Unavailable {
        self.known.book.forget();
        self.known.recent.forget();
        self.database.undone();
        self.ill(error)
    }

    fn carry_out<T>(
        &mut self,
        concern: Concern,
        work: impl FnOnce(&Connection, &mut Known) -> Result<(T, Brought), Fault>,
    ) -> Result<Outcome<T>, Fault> {
        let (known, Database { connection, ahead, owes, pages_max, .. }) =
            (&mut self.known, &mut self.database);
        let transaction = database::begin(connection)?;
        if concern == Concern::Nothing {
            let (made, brought) = work(&transaction, known)?;
            transaction.commit()?;
            return Ok(Outcome::Done(made, brought));
        }
        if *owes {
            database::bring(&transaction, ahead, *pages_max)?;
        } else if concern == Concern::Any {
            known.catch_up(&transaction)?;
        }
        let changes = transaction.total_changes();
        let (made, mut brought) = work(&transaction, known)?;
        let may_be_ahead = concern == Concern::New && self.is_well && !*owes;
        if may_be_ahead && brought.is_gathered && keep(&mut known.recent, ahead)? {
            // There is nothing in it.
            drop(transaction);
            return Ok(Outcome::Done(made, brought));
        }
        known.catch_up(&transaction)?;
        let has_looked = brought.pages == 0 && transaction.total_changes() == changes;
        let was_touched = ahead.is_touched();
        if was_touched {
            ahead.note(&transaction)?;
            brought.pages += 1;
        }
        match transaction.commit() {
            Ok(()) => {}
            Err(error) if has_looked && Trouble::of(&error) != Trouble::Final => {
                return Ok(Outcome::Looked(made, error.into()));
            }
            Err(error) => return Err(error.into()),
        }
        if was_touched {
            ahead.begin_anew();
        }
        *owes = false;
        Ok(Outcome::Done(made, brought))
    }

    /// Brings into the tables what is ahead of them.
    pub(super) fn catch_up(&mut self) -> Result<(), Unavailable> {
        if self.database.ahead.is_empty() {
            return Ok(());
        }
        let owed = self.database.owes;
        let bring = |_: &Connection, _: &mut Known| Ok(((), Brought { pages: 1, ..Brought::default() }));
        match self.transaction(Concern::Any, bring) {
            Err(_) if self.has_to_try_again(owed) => self.transaction(Concern::Any, bring),
            told => told,
        }
    }

    /// Whether a transaction that failed by itself may succeed: it has brought into the tables what was at hand in rows, within the store's
    /// bound, and the next one does so from its bytes, beyond it.
    pub(super) fn has_to_try_again(&self, owed: bool) -> bool {
        !owed && self.database.owes && self.stopped.is_none()
    }
}

/// Carries out a group of commands. What became of those that are to claims.
pub(super) fn apply(
    connection: &Connection,
    known: &mut Known,
    slots: &Slots,
    group: &mut [Waiting],
    bytes_max: u64,
) -> Result<(Vec<Option<Told>>, Brought), Fault> {
    let (now, changes) = (now(), connection.total_changes());
    let mut answers = Vec::with_capacity(group.len());
    let (mut brought, mut tables) = (Brought::default(), Sqlite::new(connection, &mut known.recent));
    let mut ledger = Ledger::new(&mut tables, &mut known.book).taking(slots);
    for waiting in group {
        match waiting {
            Waiting::Claims(claim) => {
                let Claim { named, account, command, .. } = &*claim;
                let asked = Asked { named, account, bytes_max, now };
                let (told, change) = claims::apply(connection, asked, command.clone())?;
                answers.push(Some(told));
                if let Some(change) = change {
                    brought.delta.add(change);
                    brought.pages += COMMAND_PAGES + claim.bytes() / PAGE_BYTES;
                }
            }
            Waiting::Documents(inquiry) => {
                let Inquiry { question, answer, .. } = inquiry;
                let (found, bytes) = documents::apply(connection, question)?;
                if matches!(found, documents::Answer::Written(documents::Written::Done(_))) {
                    brought.pages += COMMAND_PAGES + bytes / PAGE_BYTES;
                }
                *answer = Some(found);
                answers.push(None);
            }
            Waiting::Deliveries(errand) => {
                errand.apply(&mut ledger)?;
                answers.push(None);
            }
        }
    }
    brought.pages += ledger.pages;
    brought.news = ledger.leave();
    tables.leave();
    brought.is_gathered = connection.total_changes() == changes && known.book.has_noted_places();
    Ok((answers, brought))
}

/// Keeps what is new ahead of the tables, if it is little. `false`: it is not there.
fn keep(recent: &mut Recent, ahead: &mut Ahead) -> Result<bool, Fault> {
    let fresh = &mut recent.fresh;
    let (count, bytes) = fresh.size();
    if count == 0 {
        return Ok(true);
    }
    if count > ROUND_MAX || bytes > ROUND_BYTES_MAX {
        return Ok(false);
    }
    fresh.write(ahead.round());
    let is_kept = ahead.keep()?;
    if is_kept {
        fresh.is_on_disk();
    }
    Ok(is_kept)
}
