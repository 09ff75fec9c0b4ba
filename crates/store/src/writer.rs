//! The writing thread: what waits becomes one transaction, and whoever waits for it is told once that is on disk.
//!
//! It alone touches the database. When a transaction fails, its commands are tried one by one, so that one that needs
//! room takes nobody down with it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};
use tidegate_model::idempotency::{Command, Kept, Told};
use tidegate_wire::clock;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::claims::{self, Asked, Delta};
use crate::database::{Database, PAGE_BYTES, Trouble};
use crate::documents;
use crate::standing::{self, State};
use crate::store::{Job, Named, Unavailable};

/// Commands of one transaction.
const BATCH_MAX: usize = 512;
/// Bytes of the answers in one transaction, but for a single one that has more.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Bytes of the log, about, from which on it is written back into the database.
const LOG_BYTES_MAX: u64 = 4 << 20;
/// Pages that a command changes beside those of its answer, at most: table, indices, account.
const COMMAND_PAGES: u64 = 8;
/// How often records that have come to their end are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How many are removed in one transaction, and about how many bytes of them: whoever waits meanwhile waits for no more.
const SWEEP_MAX: usize = 256;
const SWEEP_BYTES_MAX: u64 = 8 << 20;

/// The thread's own.
pub(crate) struct Writer {
    database: Database,
    tenant_bytes_max: u64,
    told: Arc<standing::Told>,
    runtime: Runtime,
    /// Bytes of the log, about.
    logged: u64,
    /// Why nothing may be written any more.
    stopped: Option<Arc<str>>,
}

/// What is asked of documents, and who waits for it.
type Inquiry = (documents::Question, oneshot::Sender<Result<documents::Answer, Unavailable>>);

/// A command that waits to be on disk.
struct Waiting {
    named: Named,
    account: Arc<str>,
    command: Command,
    told: oneshot::Sender<Result<Told, Unavailable>>,
}

impl Waiting {
    fn bytes(&self) -> u64 {
        match &self.command {
            Command::Finish { kept, .. } => kept.bytes(),
            Command::Claim { .. } | Command::Release { .. } | Command::Leave { .. } => 0,
        }
    }
}

impl Writer {
    /// The writer of this database, and the last number that a claim may have had.
    pub(crate) fn new(
        database: Database,
        tenant_bytes_max: u64,
        told: Arc<standing::Told>,
    ) -> rusqlite::Result<(Writer, u64)> {
        let Delta { records, bytes } = claims::all(&database.connection)?;
        told.more(records, bytes);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime that only waits needs nothing of the system");
        // Numbers only need to differ within a process; that later ones are greater helps whoever looks.
        let last = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let last = u64::try_from(last).unwrap_or_default();
        Ok((Writer { database, tenant_bytes_max, told, runtime, logged: 0, stopped: None }, last))
    }

    /// Writes until it is told to end, or nobody is left who could tell.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut got = Vec::with_capacity(BATCH_MAX);
        let mut sweep_at = clock::now().after(SWEEP_EVERY);
        let mut open = true;
        while open {
            let waited =
                self.runtime.block_on(clock::timeout_at(sweep_at, jobs.recv_many(&mut got, BATCH_MAX)));
            open = waited != Ok(0);
            let mut batch = Vec::with_capacity(got.len());
            let mut asked = Vec::new();
            for job in got.drain(..) {
                match job {
                    Job::Claims { named, account, command, told } => {
                        batch.push(Waiting { named, account, command, told });
                    }
                    Job::Documents { question, told } => asked.push((question, told)),
                    Job::Close => {
                        // What waits already is carried out yet.
                        jobs.close();
                    }
                }
            }
            self.write_all(batch);
            if !asked.is_empty() {
                self.answer(asked);
            }
            if clock::now() >= sweep_at {
                // If there are more, they go by and by, behind each batch of commands.
                let wait = if self.sweep() { Duration::ZERO } else { SWEEP_EVERY };
                sweep_at = clock::now().after(wait);
            }
        }
        if self.stopped.is_none() {
            self.check_point("TRUNCATE");
        }
        self.told.stand(State::Closed);
    }

    /// Writes a batch, by as many transactions as its bytes need.
    fn write_all(&mut self, batch: Vec<Waiting>) {
        let (mut group, mut bytes) = (Vec::with_capacity(batch.len()), 0);
        for waiting in batch {
            if bytes > 0 && bytes + waiting.bytes() > BATCH_BYTES_MAX {
                self.write(std::mem::take(&mut group));
                bytes = 0;
            }
            bytes += waiting.bytes();
            group.push(waiting);
        }
        if !group.is_empty() {
            self.write(group);
        }
    }

    /// Writes commands together or, where that fails, one by one.
    fn write(&mut self, mut group: Vec<Waiting>) {
        if self.stopped.is_some() {
            return self.refuse(group, Unavailable::Stopped);
        }
        match self.transaction(|connection, this| this.apply(connection, &group)) {
            Ok(answers) => {
                self.told.done.fetch_add(group.len() as u64, Relaxed);
                for (waiting, told) in group.into_iter().zip(answers) {
                    // Whoever asked may have gone; the record stands.
                    let _ = waiting.told.send(Ok(told));
                }
            }
            Err(_) if group.len() > 1 && self.stopped.is_none() => {
                group.into_iter().for_each(|waiting| self.write(vec![waiting]));
            }
            Err(Unavailable::Full) if let Some(smaller) = smaller(&mut group) => self.write(vec![smaller]),
            Err(why) => self.refuse(group, why),
        }
    }

    /// Answers questions about documents together or, where that fails, one by one.
    fn answer(&mut self, mut asked: Vec<Inquiry>) {
        if self.stopped.is_some() {
            return asked.into_iter().for_each(|(_, told)| drop(told.send(Err(Unavailable::Stopped))));
        }
        let answered = self.transaction(|connection, _| {
            let (mut answers, mut pages) = (Vec::with_capacity(asked.len()), 0);
            for (question, _) in &asked {
                let (answer, bytes) = documents::apply(connection, question)?;
                if matches!(answer, documents::Answer::Written(documents::Written::Done(_))) {
                    pages += COMMAND_PAGES + bytes / PAGE_BYTES;
                }
                answers.push(answer);
            }
            Ok((answers, Delta::default(), pages))
        });
        match answered {
            Ok(answers) => {
                self.told.done.fetch_add(answers.len() as u64, Relaxed);
                for ((_, told), answer) in asked.into_iter().zip(answers) {
                    // Whoever asked may have gone; what was written stands.
                    let _ = told.send(Ok(answer));
                }
            }
            Err(_) if asked.len() > 1 && self.stopped.is_none() => {
                asked.drain(..).for_each(|one| self.answer(vec![one]));
            }
            Err(why) => {
                self.told.failed.fetch_add(asked.len() as u64, Relaxed);
                asked.into_iter().for_each(|(_, told)| drop(told.send(Err(why))));
            }
        }
    }

    fn refuse(&self, group: Vec<Waiting>, why: Unavailable) {
        self.told.failed.fetch_add(group.len() as u64, Relaxed);
        for waiting in group {
            let _ = waiting.told.send(Err(why));
        }
    }

    fn apply(&self, connection: &Connection, group: &[Waiting]) -> rusqlite::Result<(Vec<Told>, Delta, u64)> {
        let now = now();
        let mut delta = Delta::default();
        let mut answers = Vec::with_capacity(group.len());
        let mut pages = 0;
        for waiting in group {
            let Waiting { named, account, command, .. } = waiting;
            let asked = Asked { named, account, bytes_max: self.tenant_bytes_max, now };
            let (told, change) = claims::apply(connection, asked, command.clone())?;
            answers.push(told);
            if let Some(change) = change {
                delta.add(change);
                pages += COMMAND_PAGES + waiting.bytes() / PAGE_BYTES;
            }
        }
        Ok((answers, delta, pages))
    }

    /// Does something in one transaction, and tells what it came to once that is on disk. The work tells beside how many
    /// pages it has changed, about; what changed none has told nothing of the disk.
    fn transaction<T>(
        &mut self,
        work: impl FnOnce(&Connection, &Writer) -> rusqlite::Result<(T, Delta, u64)>,
    ) -> Result<T, Unavailable> {
        let result = begin(&self.database.connection).and_then(|transaction| {
            let (made, delta, pages) = work(&transaction, self)?;
            transaction.commit()?;
            Ok((made, delta, pages))
        });
        match result {
            Ok((made, _, 0)) => Ok(made),
            Ok((made, delta, pages)) => {
                self.told.commits.fetch_add(1, Relaxed);
                self.told.more(delta.records, delta.bytes);
                self.well();
                self.logged += pages * PAGE_BYTES;
                if self.logged >= LOG_BYTES_MAX {
                    self.check_point("PASSIVE");
                }
                Ok(made)
            }
            Err(error) => Err(self.ill(&error)),
        }
    }

    /// Writes the log back into the database, so that it begins anew.
    fn check_point(&mut self, how: &str) {
        let sql = format!("PRAGMA wal_checkpoint({how})");
        match self.database.connection.query_row(&sql, (), |_| Ok(())) {
            Ok(()) => self.logged = 0,
            // All of it is in the log, and the next look tries again.
            Err(error) => drop(self.ill(&error)),
        }
    }

    /// Removes some of what has come to its end. Tells whether there is more.
    fn sweep(&mut self) -> bool {
        if self.stopped.is_some() {
            return false;
        }
        let swept = self.transaction(|connection, _| {
            let (count, delta, more) = claims::sweep(connection, now(), SWEEP_MAX, SWEEP_BYTES_MAX)?;
            let (gone, further) = documents::sweep(connection, now() * 1000, SWEEP_MAX)?;
            Ok(((count, more || further), delta, (count + gone) as u64))
        });
        // Where it failed, it is tried again later.
        let Ok((count, more)) = swept else { return false };
        self.told.swept.fetch_add(count as u64, Relaxed);
        more
    }

    /// A write went well.
    fn well(&self) {
        match self.told.stand(State::Serving) {
            State::Full | State::Failing(_) => tracing::info!("the store can be written to again"),
            State::Serving | State::Stopped(_) | State::Closed => {}
        }
    }

    /// A write failed. Says so when that is new.
    fn ill(&mut self, error: &rusqlite::Error) -> Unavailable {
        let said: Arc<str> = error.to_string().into();
        let (state, told) = match Trouble::of(error) {
            Trouble::Full => (State::Full, Unavailable::Full),
            Trouble::Passing => (State::Failing(Arc::clone(&said)), Unavailable::Failing),
            Trouble::Final => {
                self.stopped = Some(Arc::clone(&said));
                // Nor when it is closed. This cannot fail where the database is open.
                let closing = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
                let _ = self.database.connection.set_db_config(closing, true);
                (State::Stopped(Arc::clone(&said)), Unavailable::Stopped)
            }
        };
        if self.told.stand(state.clone()) == state {
            return told;
        }
        match told {
            Unavailable::Stopped => {
                tracing::error!(error = &*said, "the store stops writing: start the process anew")
            }
            _ => tracing::error!(error = &*said, "the store cannot be written to; it is tried again"),
        }
        told
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.told.stand(State::Stopped("its writing thread has panicked".into()));
        }
    }
}

/// The one command of a group that found no room, without what needs the most: that a request has been answered is worth
/// more than with what.
fn smaller(group: &mut Vec<Waiting>) -> Option<Waiting> {
    let waiting = group.first_mut()?;
    let Command::Finish { kept, .. } = &mut waiting.command else { return None };
    let Kept::Whole(answer) = kept else { return None };
    *kept = Kept::Status(answer.status);
    group.pop()
}

fn begin(connection: &Connection) -> rusqlite::Result<rusqlite::Transaction<'_>> {
    rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate)
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
