//! The store as the rest of the process sees it: commands go over a bounded list to the writing thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::idempotency::{Command, Key, Told};
use tidegate_wire::clock;
use tokio::sync::{mpsc, oneshot};

use crate::backup::Frozen;
use crate::database::{BYTES_MIN, Database, Location, OpenError, StoreSettings};
use crate::deliveries::{Errand, Followers};
use crate::documents::{Answer, Document, Listing, Place, Question, Write, Written};
use crate::early::Early;
use crate::postgres::{self, PostgresSettings, Unopened};
use crate::standing::{self, Standing, State};
use crate::writer::Writer;

/// Commands that may wait for the writing thread.
pub(crate) const WAITING_MAX: usize = 4096;

/// How long a directory is waited for that another process has said to have let go, and how often it is looked.
const TAKEN_MAX: Duration = Duration::from_secs(10);
const TAKEN_LOOK: Duration = Duration::from_millis(10);

/// The store of a process.
pub struct Store {
    pub(crate) commands: mpsc::Sender<Job>,
    /// What is asked of deliveries: the same list or, where they are written by a thread of their own, that one's.
    pub(crate) errands: mpsc::Sender<Job>,
    /// Bytes of deliveries that wait to be accepted.
    pub(crate) appending: Arc<AtomicU64>,
    pub(crate) followers: Arc<Followers>,
    told: Arc<standing::Told>,
    /// What is known while another process has it.
    early: Arc<Mutex<Awaited>>,
    settings: StoreSettings,
    /// The last claim's number.
    claims: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Whether another process has the store, and what is known then.
#[derive(Debug, Default)]
enum Awaited {
    /// It is open, or never will be.
    #[default]
    No,
    /// Another has it.
    Yes(Arc<Early>),
}

/// What a record is found by, and who pays for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// Whose it is: no other tenant ever finds it.
    pub tenant: Arc<str>,
    /// Within what of the tenant's: a route's name.
    pub scope: Arc<str>,
    /// The key that the client has chosen.
    pub key: Key,
}

/// One command, and who waits for what it comes to.
pub(crate) enum Job {
    /// To a record.
    Claims {
        named: Named,
        /// Who pays for the room that it takes.
        account: Arc<str>,
        command: Command,
        told: oneshot::Sender<Result<Told, Unavailable>>,
    },
    /// To documents.
    Documents { question: Question, told: oneshot::Sender<Result<Answer, Unavailable>> },
    /// To deliveries.
    Deliveries(Box<dyn Errand>),
    /// The database's file is left alone for a while.
    Freeze { told: oneshot::Sender<Result<Frozen, Unavailable>> },
    /// It need not be any more.
    Thaw,
    /// The process ends.
    Close,
}

/// Why a command was not carried out. Nothing of it is on disk then, as far as can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Too many wait already.
    #[error("the store has more to write than it can for now")]
    Busy,
    /// There is no room.
    #[error("the store has no room left")]
    Full,
    /// It could not be written.
    #[error("the store cannot be written to for now")]
    Failing,
    /// It has stopped.
    #[error("the store has stopped writing")]
    Stopped,
    /// Another has taken the shard over.
    #[error("another owns the shard now")]
    Fenced,
    /// Another node has the shard.
    #[error("another node makes the deliveries of this shard")]
    Elsewhere,
    /// This kind of store does not do it.
    #[error("this store keeps no deliveries")]
    Unserved,
}

impl Store {
    /// Opens it. What it holds is what was there when it was last told to be.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(settings: StoreSettings) -> Result<Store, OpenError> {
        let settings = StoreSettings { bytes_max: settings.bytes_max.max(BYTES_MIN), ..settings };
        let (told, followers) = (Arc::<standing::Told>::default(), Arc::<Followers>::default());
        let (commands, waiting) = mpsc::channel(WAITING_MAX);
        let (errands, threads, last) = match &settings.location {
            Location::Directory(path) => {
                let (thread, last) = sqlite(path, &settings, &told, &followers, waiting)?;
                (commands.clone(), vec![thread], last)
            }
            Location::Postgres(postgres) => {
                let (errands, asked) = mpsc::channel(WAITING_MAX);
                let jobs = [waiting, asked];
                (errands, in_postgres(postgres, &settings, &told, &followers, jobs)?, 0)
            }
        };
        Ok(Store::of([commands, errands], followers, told, settings, last, threads))
    }

    /// Opens it as soon as another process has let it go, which is so when `let_go` has returned. What is asked of it until then
    /// waits in its list. What it cannot be opened for is logged, and everything refused from then on.
    ///
    /// # Errors
    /// [`OpenError`], of what is known at once.
    pub fn open_after(
        settings: StoreSettings,
        let_go: impl FnOnce() + Send + 'static,
    ) -> Result<Store, OpenError> {
        let Location::Directory(path) = settings.location.clone() else {
            // Nodes share it anyway.
            return Store::open(settings);
        };
        let settings = StoreSettings { bytes_max: settings.bytes_max.max(BYTES_MIN), ..settings };
        let (told, followers) = (Arc::<standing::Told>::default(), Arc::<Followers>::default());
        let (commands, waiting) = mpsc::channel(WAITING_MAX);
        let parts = (settings.clone(), Arc::clone(&told), Arc::clone(&followers));
        let early = Arc::new(Mutex::new(Awaited::Yes(Arc::default())));
        let awaited = Arc::clone(&early);
        let run = move || {
            let (settings, told, followers) = parts;
            let_go();
            let opened = writer_in_turn(&path, &settings, &told, &followers);
            *awaited.lock() = Awaited::No;
            match opened {
                Ok((writer, _)) => writer.run(waiting),
                Err(error) => {
                    tracing::error!(%error, "the store that another process had cannot be opened");
                    let _ = told.stand(State::Stopped(Arc::from(error.to_string())));
                }
            }
        };
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(run);
        let threads = vec![thread.map_err(OpenError::Thread)?];
        let lists = [commands.clone(), commands];
        let last = crate::writer::claims_begun();
        Ok(Store { early, ..Store::of(lists, followers, told, settings, last, threads) })
    }

    /// These documents are known while another process has the store.
    pub fn lend(&self, documents: Early) {
        if let Awaited::Yes(early) = &mut *self.early.lock() {
            *early = Arc::new(documents);
        }
    }

    /// What is known while another process has it.
    fn early(&self) -> Option<Arc<Early>> {
        match &*self.early.lock() {
            Awaited::No => None,
            Awaited::Yes(early) => Some(Arc::clone(early)),
        }
    }

    pub(crate) fn of(
        [commands, errands]: [mpsc::Sender<Job>; 2],
        followers: Arc<Followers>,
        told: Arc<standing::Told>,
        settings: StoreSettings,
        last: u64,
        threads: Vec<JoinHandle<()>>,
    ) -> Store {
        Store {
            commands,
            errands,
            appending: Arc::default(),
            followers,
            told,
            early: Arc::default(),
            settings,
            claims: AtomicU64::new(last),
            threads: Mutex::new(threads),
        }
    }

    /// Where it is, and how large it may become.
    #[must_use]
    pub fn settings(&self) -> &StoreSettings {
        &self.settings
    }

    /// A number that no claim has had.
    #[must_use]
    pub fn next_claim(&self) -> u64 {
        self.claims.fetch_add(1, Relaxed) + 1
    }

    /// Carries out what may be refused: where too many wait already, it is, at once.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn ask(&self, named: Named, account: Arc<str>, command: Command) -> Result<Told, Unavailable> {
        let (told, answer) = oneshot::channel();
        let job = Job::Claims { named, account, command, told };
        self.commands.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unavailable::Busy,
            mpsc::error::TrySendError::Closed(_) => Unavailable::Stopped,
        })?;
        answer.await.unwrap_or(Err(Unavailable::Stopped))
    }

    /// Carries out what should not be refused, as it tells of what has happened: it waits for its place.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn tell(&self, named: Named, account: Arc<str>, command: Command) -> Result<Told, Unavailable> {
        let (told, answer) = oneshot::channel();
        let job = Job::Claims { named, account, command, told };
        self.commands.send(job).await.map_err(|_| Unavailable::Stopped)?;
        answer.await.unwrap_or(Err(Unavailable::Stopped))
    }

    /// Changes documents, all of these or none.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn write(&self, writes: Vec<Write>) -> Result<Written, Unavailable> {
        match self.question(Question::Write(writes)).await? {
            Answer::Written(written) => Ok(written),
            Answer::Read(_) | Answer::Listed(_) => Err(Unavailable::Failing),
        }
    }

    /// The document at this place.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn document(&self, place: Place) -> Result<Option<Document>, Unavailable> {
        if let Some(found) = self.early().and_then(|early| early.read(&place)) {
            return Ok(found);
        }
        match self.question(Question::Read(place)).await? {
            Answer::Read(found) => Ok(found),
            Answer::Written(_) | Answer::Listed(_) => Err(Unavailable::Failing),
        }
    }

    /// Documents, a page of them.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn documents(&self, listing: Listing) -> Result<Vec<Document>, Unavailable> {
        if let Some(found) = self.early().and_then(|early| early.list(&listing)) {
            return Ok(found);
        }
        match self.question(Question::List(listing)).await? {
            Answer::Listed(found) => Ok(found),
            Answer::Written(_) | Answer::Read(_) => Err(Unavailable::Failing),
        }
    }

    async fn question(&self, question: Question) -> Result<Answer, Unavailable> {
        let (told, answer) = oneshot::channel();
        let job = Job::Documents { question, told };
        self.commands.send(job).await.map_err(|_| Unavailable::Stopped)?;
        answer.await.unwrap_or(Err(Unavailable::Stopped))
    }

    /// Says that a request which was begun under a claim is under way no more, and that nobody knows how it ended. Where
    /// several processes share the store, the others cannot see that; alone, whoever asks knows it by itself.
    pub fn leave(&self, named: Named, account: Arc<str>, claim: u64) {
        if matches!(self.settings.location, Location::Directory(_)) {
            return;
        }
        let (told, _) = oneshot::channel();
        // Where too many wait already, others are told that it is under way until this process has ended.
        let _ =
            self.commands.try_send(Job::Claims { named, account, command: Command::Leave { claim }, told });
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let waiting = |list: &mpsc::Sender<Job>| list.max_capacity() - list.capacity();
        let mut waiting_all = waiting(&self.commands);
        if !self.errands.same_channel(&self.commands) {
            waiting_all += waiting(&self.errands);
        }
        self.told.standing(self.settings.bytes_max, waiting_all as u64)
    }

    /// Whether it writes.
    #[must_use]
    pub fn state(&self) -> State {
        self.told.state()
    }

    /// Carries out what waits, and closes it. Blocks until that is done; what comes later is refused.
    pub fn close(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        if threads.is_empty() {
            return;
        }
        // A list that is full has a place soon; one that is closed has a writer that is gone.
        let _ = self.errands.blocking_send(Job::Close);
        if !self.errands.same_channel(&self.commands) {
            let _ = self.commands.blocking_send(Job::Close);
        }
        for thread in threads {
            // It says by itself why it panicked.
            let _ = thread.join();
        }
    }
}

/// The writing thread over a directory, and the last number that a claim may have had.
fn sqlite(
    path: &Path,
    settings: &StoreSettings,
    told: &Arc<standing::Told>,
    followers: &Arc<Followers>,
    waiting: mpsc::Receiver<Job>,
) -> Result<(JoinHandle<()>, u64), OpenError> {
    let (writer, last) = writer(path, settings, told, followers)?;
    let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || writer.run(waiting));
    Ok((thread.map_err(OpenError::Thread)?, last))
}

pub(crate) fn writer(
    path: &Path,
    settings: &StoreSettings,
    told: &Arc<standing::Told>,
    followers: &Arc<Followers>,
) -> Result<(Writer, u64), OpenError> {
    let database = Database::open(path, settings.bytes_max)?;
    Writer::new(database, settings.tenant_bytes_max, Arc::clone(told), Arc::clone(followers))
        .map_err(|source| OpenError::Database { path: path.to_owned(), source })
}

/// The same where another process is about to let the directory go.
fn writer_in_turn(
    path: &Path,
    settings: &StoreSettings,
    told: &Arc<standing::Told>,
    followers: &Arc<Followers>,
) -> Result<(Writer, u64), OpenError> {
    let by = clock::now().after(TAKEN_MAX);
    loop {
        match writer(path, settings, told, followers) {
            Err(OpenError::Taken(_)) if clock::now() < by => std::thread::sleep(TAKEN_LOOK),
            done => return done,
        }
    }
}

fn in_postgres(
    postgres: &PostgresSettings,
    settings: &StoreSettings,
    told: &Arc<standing::Told>,
    followers: &Arc<Followers>,
    jobs: [mpsc::Receiver<Job>; 2],
) -> Result<Vec<JoinHandle<()>>, OpenError> {
    let bounds = (settings.tenant_bytes_max, settings.bytes_max);
    let started = postgres::start(postgres.clone(), bounds, Arc::clone(told), Arc::clone(followers), jobs);
    started.map_err(|why| settings.unopened(why))
}

impl StoreSettings {
    pub(crate) fn unopened(&self, why: Unopened) -> OpenError {
        match why {
            Unopened::Away(source) => OpenError::Postgres { place: self.location.to_string(), source },
            Unopened::Thread(error) => OpenError::Thread(error),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Store({})", self.settings.location)
    }
}
