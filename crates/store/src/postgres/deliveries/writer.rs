//! The thread that writes deliveries to PostgreSQL: what waits becomes one transaction, and whoever waits for it is told once
//! that is committed.
//!
//! ```text
//!            connect                         the connection is lost
//! away ------------------------> writing ---------------------------.
//!   ^  '--- not: a little later                                     | while a commit was under way: in doubt, until the
//!   '---------------------------------------------------------------' next connection says whether it is there
//! ```
//!
//! What always holds: a transaction has a number, which is written with it, so that after a lost connection is known
//! whether it was committed; its errands are carried out again if it was not, and told what they had found if it was. Whoever
//! waits is told something within the time that is configured, about: but the owner of a shard, while nobody knows, as
//! what it began may be begun.

#[cfg(debug_assertions)]
mod by_hand;
mod hindrance;
mod tend;
mod transact;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, UNIX_EPOCH};

use tidegate_model::retry::backoff;
use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;

use self::hindrance::Hindrance;
use super::super::away::Away;
use super::super::settings::PostgresSettings;
use super::ages;
use super::desk::Desk;
use super::joining::{Joined, join};
use super::news::Heard;
use crate::deliveries::{Book, Errand, Followers};
use crate::standing::{self, State};
use crate::store::{Job, Unavailable, WAITING_MAX};

/// Errands of one transaction, and what they count for, but for a single one that counts for more.
const BATCH_MAX: usize = 512;
const BATCH_WEIGHT_MAX: u64 = 8 << 20;
/// Between two tries to connect: the first wait, and the longest.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How often is looked, while PostgreSQL is away, for who has waited long enough.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// An errand, and until when somebody waits for it.
struct Waiting {
    errand: Box<dyn Errand>,
    by: Tick,
}

/// A transaction of which nobody knows whether it is committed.
struct Doubt {
    epoch: i64,
    batch: i64,
    group: Vec<Waiting>,
}

type Joining = Pin<Box<dyn Future<Output = Result<Joined, Away>>>>;

/// The thread's own.
pub(in super::super) struct Writer {
    runtime: Rc<LocalRuntime>,
    settings: PostgresSettings,
    bytes_max: u64,
    told: Arc<standing::Told>,
    followers: Arc<Followers>,
    /// What this connection is called among all that write.
    name: String,
    desk: Option<Desk>,
    /// What it led by the last connection.
    led: HashMap<u16, i64>,
    book: Book,
    heard: Option<mpsc::Receiver<String>>,
    /// Of each shard that this node leads, what it has heard of it.
    hears: BTreeMap<u16, Heard>,
    joining: Option<Joining>,
    failures: u32,
    /// Who is in the way of its transactions, and until when none is begun for that.
    hindrance: Hindrance,
    /// What was written under last.
    epoch: Option<i64>,
    /// The last transaction's number.
    batch: i64,
    doubt: Option<Doubt>,
    waiting: VecDeque<Waiting>,
    /// Bytes of all deliveries, about.
    bytes: i64,
    tend_at: Tick,
    tended: u32,
    /// When nobody waits any more for what was to be written.
    close_by: Tick,
}

impl Writer {
    /// One that writes there, on this thread.
    pub(in super::super) fn new(
        settings: PostgresSettings,
        bytes_max: u64,
        told: Arc<standing::Told>,
        followers: Arc<Followers>,
    ) -> Writer {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("the system has an event queue for the store");
        let number = getrandom::u64().unwrap_or_else(|_| clock::now().0);
        Writer {
            runtime: Rc::new(runtime),
            settings,
            bytes_max,
            told,
            followers,
            name: format!("tidegate-deliveries-{number:016x}"),
            desk: None,
            led: HashMap::new(),
            book: Book::default(),
            heard: None,
            hears: BTreeMap::new(),
            joining: None,
            failures: 0,
            hindrance: Hindrance::default(),
            epoch: None,
            batch: 0,
            doubt: None,
            waiting: VecDeque::new(),
            bytes: 0,
            tend_at: Tick(0),
            tended: 0,
            close_by: Tick::MAX,
        }
    }

    /// Connects for the first time.
    ///
    /// # Errors
    /// What does not mend itself. Else it is tried again, by and by.
    pub(in super::super) fn join(&mut self) -> Result<(), Away> {
        let joined = self.runtime.block_on(self.connecting(Duration::ZERO));
        match joined {
            Err(away) if away.is_final() => Err(away),
            joined => {
                self.joined(joined);
                Ok(())
            }
        }
    }

    /// Writes until it is told to end, or nobody is left who could tell.
    pub(in super::super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut open = true;
        let mut got = Vec::with_capacity(BATCH_MAX);
        while open || (!self.waiting.is_empty() || self.doubt.is_some()) && clock::now() < self.close_by {
            let room = WAITING_MAX.saturating_sub(self.waiting.len()).min(BATCH_MAX);
            let next = self.next().min(self.close_by);
            let runtime = Rc::clone(&self.runtime);
            let (mut joined, mut said) = (None, None);
            let (joining, heard) = (&mut self.joining, &mut self.heard);
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    link = joins(joining) => joined = Some(link),
                    count = jobs.recv_many(&mut got, room), if open && room > 0 => open = count > 0,
                    told = hears(heard) => said = Some(told),
                    () = clock::sleep_until(next) => {}
                }
            });
            for job in got.drain(..) {
                match job {
                    // What waits already is carried out yet.
                    Job::Close => jobs.close(),
                    job => self.heed(job),
                }
            }
            if !open && self.close_by == Tick::MAX {
                self.close_by = self.soon();
            }
            if let Some(joined) = joined {
                self.joining = None;
                self.joined(joined);
            }
            match said {
                Some(Some(said)) => self.hear(&said),
                Some(None) => self.away("the connection was lost"),
                None => {}
            }
            self.turn();
            self.expire();
        }
        self.leave();
    }

    fn heed(&mut self, job: Job) {
        match job {
            Job::Deliveries(errand) => self.take(errand),
            // These go to the other thread, or are none to it.
            Job::Claims { .. } | Job::Documents { .. } | Job::Freeze { .. } | Job::Thaw | Job::Close => {}
        }
    }

    fn take(&mut self, errand: Box<dyn Errand>) {
        let times = if errand.must_know() { 2 } else { 1 };
        let by = clock::now().after(self.settings.timeout * times);
        self.waiting.push_back(Waiting { errand, by });
    }

    /// When something has to be done though nobody asks for it.
    fn next(&self) -> Tick {
        match &self.desk {
            Some(_) if !self.waiting.is_empty() || self.has_work().is_some() => {
                self.hindrance.until().max(clock::now())
            }
            Some(desk) => desk.session.link.renewed.after(self.settings.lease / 3).min(self.tend_at),
            None if !self.waiting.is_empty() || self.doubt.is_some() => clock::now().after(LOOK_EVERY),
            None => Tick::MAX,
        }
    }

    fn soon(&self) -> Tick {
        clock::now().after(self.settings.timeout)
    }

    fn connecting(&self, wait: Duration) -> Joining {
        let (settings, name, epoch) = (self.settings.clone(), self.name.clone(), self.epoch);
        let doubt = self.doubt.as_ref().map(|doubt| doubt.epoch);
        let runtime = Rc::clone(&self.runtime);
        let timeout = self.settings.timeout;
        Box::pin(async move {
            clock::sleep(wait).await;
            let joining = Box::pin(join(settings, name, epoch, doubt, runtime));
            clock::timeout_at(clock::now().after(timeout * 2), joining)
                .await
                .map_err(|_| Away::Slow(timeout))?
        })
    }

    /// A try to connect has ended.
    fn joined(&mut self, joined: Result<Joined, Away>) {
        let Joined { session, heard, committed, bytes } = match joined {
            Ok(joined) => joined,
            Err(away) => return self.away(&away.to_string()),
        };
        if self.epoch.is_some_and(|epoch| epoch != session.link.epoch) {
            fenced();
        }
        self.epoch = Some(session.link.epoch);
        let mut desk = Desk::new(session, self.settings.shards, std::mem::take(&mut self.led));
        desk.session.waits_until(self.soon());
        if let Err(fault) = ages::look(&mut desk) {
            self.led = desk.led;
            return self.away(&fault.to_string());
        }
        self.desk = Some(desk);
        self.heard = Some(heard);
        self.bytes = bytes;
        self.failures = 0;
        (self.tend_at, self.tended) = (Tick(0), 0);
        self.hears.clear();
        if let Some(doubt) = self.doubt.take() {
            if committed == Some(doubt.batch) {
                self.tell_all(doubt.group);
            } else {
                self.give_back(doubt.group);
            }
        }
        self.look_everywhere();
        self.well();
    }

    /// There is no connection, or none that is of use. Another one is made.
    fn away(&mut self, why: &str) {
        // What it leads is its own yet, unless another takes it.
        if let Some(desk) = self.desk.take() {
            self.led = desk.led;
        }
        self.heard = None;
        self.book.forget();
        self.failures = self.failures.saturating_add(1);
        self.ill(State::Failing(why.into()));
        let wait = backoff(RETRY, RETRY_MAX, self.failures, getrandom::u64().unwrap_or_default());
        self.joining = Some(self.connecting(wait));
    }

    /// Does what is to be done now.
    fn turn(&mut self) {
        let (now, lease) = (clock::now(), self.settings.lease);
        let by = self.soon();
        let Some(desk) = &mut self.desk else { return };
        desk.session.waits_until(by);
        if now >= desk.session.link.renewed.after(lease / 3) {
            match desk.session.renew() {
                Ok(true) => {}
                Ok(false) => self.new_epoch(),
                Err(failed) => self.away(&failed.to_string()),
            }
        }
        if self.desk.is_some() && !self.is_hindered() {
            let group = self.group();
            if !group.is_empty() {
                self.write(group);
            }
        }
        if let Some(shard) = self.has_work().filter(|_| !self.is_hindered()) {
            self.alone(shard, &mut |ledger| ledger.work(shard, now_ms()));
        }
        if clock::now() >= self.tend_at {
            self.tend();
        }
    }

    /// Whether is waited for whoever was in the way.
    fn is_hindered(&self) -> bool {
        self.hindrance.lasts(clock::now())
    }

    /// What is carried out together.
    fn group(&mut self) -> Vec<Waiting> {
        let (mut group, mut weight) = (Vec::new(), 0);
        while let Some(waiting) = self.waiting.front() {
            let more = waiting.errand.weight();
            if group.len() >= BATCH_MAX || weight > 0 && weight + more > BATCH_WEIGHT_MAX {
                break;
            }
            weight += more;
            group.extend(self.waiting.pop_front());
        }
        group
    }

    /// What could not be carried out comes first the next time.
    fn give_back(&mut self, group: Vec<Waiting>) {
        for waiting in group.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
    }

    /// Another has ended this node's epoch: what it leads is another's, or anybody's who comes first.
    fn new_epoch(&mut self) {
        fenced();
        let (by, name) = (self.soon(), self.name.clone());
        let Some(desk) = &mut self.desk else { return };
        desk.session.waits_until(by);
        match desk.session.register(&name) {
            Ok(epoch) => self.epoch = Some(epoch),
            Err(failed) => self.away(&failed.to_string()),
        }
    }

    /// Tells those who have waited long enough that it takes too long.
    fn expire(&mut self) {
        let now = clock::now();
        if self.waiting.iter().any(|waiting| waiting.by <= now) {
            let all = std::mem::take(&mut self.waiting).into_iter();
            let (late, rest): (VecDeque<_>, VecDeque<_>) = all.partition(|waiting| waiting.by <= now);
            self.waiting = rest;
            self.refuse(late.into(), Unavailable::Failing);
        }
        if let Some(mut doubt) = self.doubt.take() {
            let late = |waiting: &Waiting| waiting.by <= now && !waiting.errand.must_know();
            let (late, rest): (Vec<_>, Vec<_>) = doubt.group.into_iter().partition(late);
            doubt.group = rest;
            self.doubt = Some(doubt);
            self.refuse(late, Unavailable::Failing);
        }
        let held = self.waiting.len() + self.doubt.as_ref().map_or(0, |doubt| doubt.group.len());
        self.told.errands.store(held as u64, Relaxed);
    }

    /// Others find it out by themselves, though later.
    fn leave(mut self) {
        let by = self.soon();
        if let Some(desk) = &mut self.desk {
            desk.session.waits_until(by);
            let _ = desk.session.leave();
        }
        let doubt = self.doubt.take().map(|doubt| doubt.group).unwrap_or_default();
        let left = std::mem::take(&mut self.waiting).into_iter().chain(doubt).collect();
        self.refuse(left, Unavailable::Stopped);
        self.told.stand_deliveries(State::Closed);
    }

    fn well(&self) {
        if matches!(self.told.stand_deliveries(State::Serving), State::Full | State::Failing(_)) {
            tracing::info!("deliveries can be written");
        }
    }

    fn ill(&self, state: State) {
        let before = self.told.stand_deliveries(state.clone());
        if std::mem::discriminant(&before) == std::mem::discriminant(&state) {
            return;
        }
        let why = if let State::Failing(why) = &state { why } else { "no room is left" };
        tracing::error!(error = why, "deliveries cannot be written; it is tried again");
    }
}

fn fenced() {
    tracing::warn!(
        "the store: this node was not heard of for so long that another has ended its lease; the deliveries that it leads \
         are anybody's"
    );
}

/// The end of a try to connect, if one is under way.
async fn joins(joining: &mut Option<Joining>) -> Result<Joined, Away> {
    match joining {
        Some(joining) => joining.await,
        None => std::future::pending().await,
    }
}

/// What is heard next. `None`: the connection is lost.
async fn hears(heard: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match heard {
        Some(heard) => heard.recv().await,
        None => std::future::pending().await,
    }
}

/// Milliseconds since the Unix epoch, by the clock of this machine.
fn now_ms() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
