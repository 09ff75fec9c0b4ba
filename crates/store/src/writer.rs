//! The writing thread: what waits becomes one transaction, and whoever waits for it is told once that is on disk.
//!
//! It alone touches the database. When a transaction fails, its commands are tried one by one, so that one that needs
//! room takes nobody down with it.

mod transaction;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tidegate_model::idempotency::{Command, Kept, Told};
use tidegate_model::tick::Tick;
use tidegate_wire::{bell, clock};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use self::transaction::{Brought, Concern, Known, apply};
use crate::backup::Frozen;
use crate::claims::{self, Delta};
use crate::come::{BATCH_MAX, gather, take};
use crate::database::{Database, Trouble};
use crate::deliveries::ledger::Ledger;
use crate::deliveries::sqlite::Sqlite;
use crate::deliveries::tables::Fault;
use crate::deliveries::{Errand, Followers, Tide, prune};
use crate::documents;
use crate::later::Later;
use crate::standing::{self, State};
use crate::store::{Job, Named, Unavailable};

/// Bytes of the answers in one transaction, but for a single one that has more.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Bytes of the log from which on it is written back into the database while nothing comes. Whoever comes meanwhile waits for no
/// more than that.
const LOG_BYTES_REST: u64 = 512 << 10;
/// The same, whoever waits. The later it is, the fewer pages there are that were changed again meanwhile, which are written
/// back once; and the longer those wait who come then.
const LOG_BYTES_MAX: u64 = 4 << 20;
/// The same, while the database's file is left alone.
const FROZEN_LOG_BYTES_MAX: u64 = 512 << 20;
/// How long nothing has come when the store is at rest. Whoever was told just now comes again sooner, if there is more.
const REST: Duration = Duration::from_millis(5);
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
    followers: Arc<Followers>,
    /// What is known of the deliveries.
    known: Known,
    /// Bytes of the log.
    logged: u64,
    /// The database's file, once it was copied: to close it would take the locks of the process away.
    file: Option<Arc<File>>,
    /// While the database's file is left alone.
    frozen: Option<Frozen>,
    /// The last write went well.
    is_well: bool,
    /// Why nothing may be written any more.
    stopped: Option<Arc<str>>,
    /// What is to be accepted in a later round.
    later: Later<Box<dyn Errand>>,
}

/// The only shard of a store in a directory.
const SHARD: u16 = 0;

/// A command that waits to be on disk.
enum Waiting {
    Claims(Claim),
    Documents(Inquiry),
    Deliveries(Box<dyn Errand>),
}

/// What is asked of documents.
struct Inquiry {
    question: documents::Question,
    answer: Option<documents::Answer>,
    told: oneshot::Sender<Result<documents::Answer, Unavailable>>,
}

struct Claim {
    named: Named,
    account: Arc<str>,
    command: Command,
    told: oneshot::Sender<Result<Told, Unavailable>>,
}

impl Claim {
    fn bytes(&self) -> u64 {
        match &self.command {
            Command::Finish { kept, .. } => kept.bytes(),
            Command::Claim { .. } | Command::Release { .. } | Command::Leave { .. } => 0,
        }
    }
}

impl Waiting {
    fn bytes(&self) -> u64 {
        match self {
            Waiting::Claims(claim) => claim.bytes(),
            Waiting::Documents(_) => 0,
            Waiting::Deliveries(errand) => errand.weight(),
        }
    }

    /// What it has to do with deliveries.
    fn concern(&self) -> Concern {
        match self {
            Waiting::Claims(_) | Waiting::Documents(_) => Concern::Nothing,
            Waiting::Deliveries(errand) if matches!(errand.tide(), Tide::Comes(_)) => Concern::New,
            Waiting::Deliveries(_) => Concern::Any,
        }
    }

    fn tell(self, how: Result<Option<Told>, Unavailable>) {
        match self {
            Waiting::Claims(claim) => {
                let told = how.and_then(|told| told.ok_or(Unavailable::Stopped));
                // Whoever asked may have gone; the record stands.
                let _ = claim.told.send(told);
            }
            Waiting::Documents(Inquiry { answer, told, .. }) => {
                let _ = told.send(how.and_then(|_| answer.ok_or(Unavailable::Stopped)));
            }
            Waiting::Deliveries(errand) => errand.tell(how.map(|_| ())),
        }
    }
}

/// When what nobody asks for is done.
pub(crate) struct Pace {
    sweep_at: Tick,
    /// When the log is written back, should nothing come until then.
    rest_at: Option<Tick>,
    /// Commands have left something to be done.
    busy: bool,
}

impl Pace {
    pub(crate) fn begin() -> Pace {
        Pace { sweep_at: clock::now().after(SWEEP_EVERY), rest_at: None, busy: false }
    }

    /// When the next round is due, whether something comes or not: what commands have left to be done is done behind those
    /// that wait, without a pause.
    pub(crate) fn until(&self) -> Tick {
        if self.busy {
            return clock::now();
        }
        self.rest_at.map_or(self.sweep_at, |rest_at| rest_at.min(self.sweep_at))
    }
}

impl Writer {
    /// The writer of this database, and the last number that a claim may have had.
    pub(crate) fn new(
        database: Database,
        tenant_bytes_max: u64,
        told: Arc<standing::Told>,
        followers: Arc<Followers>,
    ) -> rusqlite::Result<(Writer, u64)> {
        let Delta { records, bytes } = claims::all(&database.connection)?;
        told.more(records, bytes);
        let (last, is_well) = (claims_begun(), !database.owes);
        let writer = Writer {
            database,
            tenant_bytes_max,
            told,
            followers,
            known: Known::default(),
            logged: 0,
            file: None,
            frozen: None,
            is_well,
            stopped: None,
            later: Later::new(),
        };
        Ok((writer, last))
    }

    /// Writes until it is told to end, or nobody is left who could tell.
    pub(crate) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime that only waits needs nothing of the system");
        let mut got = Vec::with_capacity(BATCH_MAX);
        let mut pace = Pace::begin();
        let (mut open, mut before) = (true, 0);
        while open || !self.later.is_empty() {
            open = if self.later.is_empty() {
                let waited = runtime.block_on(async {
                    clock::timeout_at(pace.until(), jobs.recv_many(&mut got, BATCH_MAX)).await
                });
                waited != Ok(0)
            } else {
                take(&mut jobs, &mut got)
            };
            open = open && gather(&mut jobs, &mut got, before);
            before = got.len();
            self.round(&mut got, &mut jobs, &mut pace);
        }
        self.end();
    }

    /// One round: what has come is carried out, and then a part of what is to be done anyway.
    pub(crate) fn round(&mut self, got: &mut Vec<Job>, jobs: &mut mpsc::Receiver<Job>, pace: &mut Pace) {
        let (mut batch, mut freeze) = (Vec::with_capacity(got.len()), None);
        let mut errands = Vec::new();
        let is_at_rest = got.is_empty() && self.later.is_empty();
        for job in got.drain(..) {
            match job {
                Job::Claims { named, account, command, told } => {
                    batch.push(Waiting::Claims(Claim { named, account, command, told }));
                }
                Job::Documents { question, told } => {
                    batch.push(Waiting::Documents(Inquiry { question, answer: None, told }));
                }
                Job::Deliveries(errand) => errands.push(errand),
                Job::Freeze { told } => freeze = Some(told),
                Job::Thaw => self.thaw(),
                Job::Close => {
                    // What waits already is carried out yet.
                    jobs.close();
                }
            }
        }
        let errands = self.later.round(errands, |errand| errand.tide());
        batch.extend(errands.into_iter().map(Waiting::Deliveries));
        self.write_all(batch);
        self.rest(is_at_rest, pace);
        if let Some(told) = freeze {
            let _ = told.send(self.freeze());
        }
        // Where that failed, it is tried again later.
        pace.busy = self.known.book.has_work(SHARD) && self.work() || !self.later.is_empty();
        if clock::now() >= pace.sweep_at {
            // If there are more, they go by and by, behind each batch of commands.
            let wait = if self.sweep() { Duration::ZERO } else { SWEEP_EVERY };
            pace.sweep_at = clock::now().after(wait);
        }
    }

    fn end(&mut self) {
        if self.stopped.is_none() {
            // Where that fails, the next process does it.
            let _ = self.catch_up();
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
        let (bytes_max, followers) = (self.tenant_bytes_max, Arc::clone(&self.followers));
        let owed = self.database.owes;
        let concern = group.iter().map(Waiting::concern).max().unwrap_or(Concern::Nothing);
        let work = |connection: &Connection, known: &mut Known| {
            apply(connection, known, &followers.slots, &mut group, bytes_max)
        };
        match self.transaction(concern, work) {
            Ok(answers) => {
                self.told.done.fetch_add(group.len() as u64, Relaxed);
                bell::together(group.len(), || {
                    group.into_iter().zip(answers).for_each(|(waiting, told)| waiting.tell(Ok(told)));
                });
                self.relieve();
            }
            Err(_) if group.len() > 1 && self.stopped.is_none() => self.write_singly(group),
            Err(_) if concern != Concern::Nothing && self.has_to_try_again(owed) => self.write(group),
            Err(Unavailable::Full) if let Some(smaller) = smaller(&mut group) => self.write(vec![smaller]),
            Err(why) => self.refuse(group, why),
        }
    }

    /// Writes commands one by one. Where what is ahead of the tables finds no place there, nothing new does.
    fn write_singly(&mut self, group: Vec<Waiting>) {
        let refused = self.catch_up().err();
        for waiting in group {
            match refused {
                Some(why) if waiting.concern() == Concern::New => self.refuse(vec![waiting], why),
                _ => self.write(vec![waiting]),
            }
        }
    }

    fn refuse(&self, group: Vec<Waiting>, why: Unavailable) {
        self.told.failed.fetch_add(group.len() as u64, Relaxed);
        group.into_iter().for_each(|waiting| waiting.tell(Err(why)));
    }

    /// Leaves the database's file alone, once all is in it.
    fn freeze(&mut self) -> Result<Frozen, Unavailable> {
        if self.stopped.is_some() {
            return Err(Unavailable::Stopped);
        }
        if self.frozen.is_some() {
            return Err(Unavailable::Busy);
        }
        self.catch_up()?;
        if let Err(error) = self.database.whole() {
            return Err(self.ill(&error.into()));
        }
        self.logged = 0;
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::new(self.database.file().map_err(|_| Unavailable::Failing)?),
        };
        self.file = Some(Arc::clone(&file));
        let frozen = Frozen { file, thawed: Arc::default() };
        self.frozen = Some(frozen.clone());
        Ok(frozen)
    }

    fn thaw(&mut self) {
        if let Some(frozen) = self.frozen.take() {
            frozen.thawed.store(true, SeqCst);
        }
    }

    /// Writes the log back, if it has some, once nothing has come for a while.
    fn rest(&mut self, is_at_rest: bool, pace: &mut Pace) {
        if self.logged < LOG_BYTES_REST || self.stopped.is_some() {
            pace.rest_at = None;
        } else if !is_at_rest {
            pace.rest_at = Some(clock::now().after(REST));
        } else if pace.rest_at.is_none_or(|rest_at| clock::now() >= rest_at) {
            pace.rest_at = None;
            self.check_point("PASSIVE");
        }
    }

    /// Writes the log back once it has much: behind those who are told already.
    fn relieve(&mut self) {
        if self.logged >= LOG_BYTES_MAX && self.stopped.is_none() {
            self.check_point("PASSIVE");
        }
    }

    /// Writes the log back into the database, so that it begins anew.
    fn check_point(&mut self, how: &str) {
        if self.frozen.is_some() && self.logged < FROZEN_LOG_BYTES_MAX && how != "TRUNCATE" {
            return;
        }
        self.thaw();
        let sql = format!("PRAGMA wal_checkpoint({how})");
        match self.database.connection.query_row(&sql, (), |_| Ok(())) {
            Ok(()) => self.logged = 0,
            // All of it is in the log, and the next look tries again.
            Err(error) => drop(self.ill(&error.into())),
        }
    }

    /// Removes some of what has come to its end. Tells whether there is more.
    fn sweep(&mut self) -> bool {
        if self.stopped.is_some() {
            return false;
        }
        if self.told.state() == State::Full {
            // The log's room is there again for what comes next.
            self.check_point("PASSIVE");
        }
        let swept = self.transaction(Concern::Any, |connection, known| {
            let (count, delta, more) = claims::sweep(connection, now(), SWEEP_MAX, SWEEP_BYTES_MAX)?;
            let (gone, further) = documents::sweep(connection, now_ms(), SWEEP_MAX)?;
            let mut tables = Sqlite::new(connection, &mut known.recent);
            let mut ledger = Ledger::new(&mut tables, &mut known.book);
            let (pruned, left) = prune::prune(&mut ledger, SHARD, now_ms(), SWEEP_MAX, SWEEP_BYTES_MAX)?;
            let pages = ledger.pages + (count + gone) as u64;
            let brought = Brought { delta, pages, news: ledger.close()?, ..Brought::default() };
            let is_idle = count + gone + pruned == 0;
            Ok(((count + pruned, !is_idle && (more || further || left)), brought))
        });
        // Where it failed, it is tried again later.
        let Ok((count, more)) = swept else { return false };
        self.relieve();
        self.told.swept.fetch_add(count as u64, Relaxed);
        more
    }

    /// Does some of what commands have left to be done. Tells whether it went well.
    fn work(&mut self) -> bool {
        if self.stopped.is_some() {
            return false;
        }
        let done = self.transaction(Concern::Any, |connection, known| {
            let mut tables = Sqlite::new(connection, &mut known.recent);
            let mut ledger = Ledger::new(&mut tables, &mut known.book);
            ledger.work(SHARD, now_ms())?;
            let pages = ledger.pages;
            Ok(((), Brought { pages, news: ledger.close()?, ..Brought::default() }))
        });
        self.relieve();
        done.is_ok()
    }

    /// A write went well.
    fn well(&mut self) {
        if !std::mem::replace(&mut self.is_well, true) {
            self.database.ahead.look_again();
        }
        match self.told.stand(State::Serving) {
            State::Full | State::Failing(_) => tracing::info!("the store can be written to again"),
            State::Serving | State::Stopped(_) | State::Closed => {}
        }
    }

    /// A write failed. Says so when that is new.
    fn ill(&mut self, error: &Fault) -> Unavailable {
        self.is_well = false;
        let said: Arc<str> = error.to_string().into();
        let trouble = match error {
            Fault::Sqlite(error) => Trouble::of(error),
            // The last two are never SQLite's.
            Fault::Odd(_) | Fault::Postgres(_) | Fault::Beyond(_) => Trouble::Passing,
        };
        let (state, told) = match trouble {
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
    let is_smaller = match group.first_mut()? {
        Waiting::Deliveries(errand) => errand.shrink(),
        Waiting::Claims(Claim { command: Command::Finish { kept, .. }, .. }) => match kept {
            Kept::Whole(answer) => {
                *kept = Kept::Status(answer.status);
                true
            }
            Kept::Status(_) => false,
        },
        Waiting::Claims(_) | Waiting::Documents(_) => false,
    };
    is_smaller.then(|| group.pop()).flatten()
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The number that the claims of a process begin after. Numbers only need to differ within a process; that later ones are greater
/// helps whoever looks.
pub(crate) fn claims_begun() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or_default()
}
