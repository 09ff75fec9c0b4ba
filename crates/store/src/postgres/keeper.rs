//! The thread that writes to PostgreSQL: what waits becomes one transaction, and whoever waits for it is told once that is
//! committed.
//!
//! ```text
//!            connect                           the connection is lost
//! away ------------------------> writing ------------------------------.
//!   ^  '--- not: a little later, a little longer each time             |
//!   '------------------------------------------------------------------'
//! ```
//!
//! What always holds: whoever asks is told something within the `timeout` that is configured, about, and whoever tells of what has
//! happened within twice that: over most restarts, and not much longer than a client waits. What should not be lost because of
//! that (that a request was answered) is *owed*: it is written once PostgreSQL is there again, though nobody waits for it. A
//! claim that was given up while nobody knew whether it was committed is taken back then.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, UNIX_EPOCH};

use tidegate_model::idempotency::{Command, Fingerprint, Kept, Told, digest};
use tidegate_model::retry::backoff;
use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::sync::{mpsc, oneshot};

use super::away::{Away, Failed};
use super::claims::{self, Bounds, Came};
use super::documents;
use super::link::Link;
use super::settings::PostgresSettings;
use super::sweep::Sweep;
use crate::claims::Delta;
use crate::documents::{Answer, Question, Written};
use crate::standing::{self, State};
use crate::store::{Job, Named, Unavailable, WAITING_MAX};

/// Commands of one transaction, and bytes of the answers in it, but for a single one that has more.
const BATCH_MAX: usize = 512;
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Between two tries to connect: the first wait, and the longest.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How often is looked, while PostgreSQL is away, for who has waited long enough.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Commands that are owed, and bytes of them. Of an answer that goes beyond these, the status alone is.
const OWED_MAX: usize = 4096;
const OWED_BYTES_MAX: u64 = 64 << 20;

/// A command that waits to be committed.
pub(super) struct Waiting {
    pub(super) id: Fingerprint,
    pub(super) named: Named,
    pub(super) account: Arc<str>,
    pub(super) command: Command,
    /// How long its record lives, in seconds: until when is said by the clock of the database.
    pub(super) lifetime: u64,
    /// It may have been committed already: the connection was lost meanwhile.
    pub(super) tried: bool,
    /// Until when somebody waits for it.
    by: Tick,
    /// `None`: nobody does any more.
    told: Option<oneshot::Sender<Result<Told, Unavailable>>>,
}

impl Waiting {
    fn new(
        named: Named,
        account: Arc<str>,
        command: Command,
        told: oneshot::Sender<Result<Told, Unavailable>>,
        timeout: Duration,
    ) -> Waiting {
        let Named { tenant, scope, key } = &named;
        let id = digest([tenant.as_bytes(), scope.as_bytes(), key.as_str().as_bytes()]);
        let (until, most) = match &command {
            Command::Claim { until, .. } => (*until, timeout),
            Command::Finish { until, .. } => (*until, timeout * 2),
            Command::Release { .. } | Command::Leave { .. } => (0, timeout * 2),
        };
        let lifetime = until.saturating_sub(now());
        let by = clock::now().after(most);
        Waiting { id, named, account, command, lifetime, tried: false, by, told: Some(told) }
    }

    fn bytes(&self) -> u64 {
        match &self.command {
            Command::Finish { kept, .. } => kept.bytes(),
            Command::Claim { .. } | Command::Release { .. } | Command::Leave { .. } => 0,
        }
    }

    fn tell(&mut self, what: Result<Told, Unavailable>) {
        if let Some(told) = self.told.take() {
            // Whoever asked may have gone; the record stands.
            let _ = told.send(what);
        }
    }
}

/// What is to be written though nobody waits for it any more.
#[derive(Default)]
struct Owed {
    commands: usize,
    bytes: u64,
}

/// What is asked of documents, until when somebody waits for it, and who.
struct Inquiry {
    question: Question,
    by: Tick,
    told: oneshot::Sender<Result<Answer, Unavailable>>,
}

type Joining = Pin<Box<dyn Future<Output = Result<Link, Away>>>>;

/// The thread's own.
pub(super) struct Keeper {
    settings: PostgresSettings,
    bounds: (u64, u64),
    told: Arc<standing::Told>,
    /// What this process is called among all that write.
    name: String,
    link: Option<Link>,
    joining: Option<Joining>,
    failures: u32,
    /// What was written under last.
    epoch: Option<i64>,
    waiting: VecDeque<Waiting>,
    asked: VecDeque<Inquiry>,
    owed: Owed,
    sweep: Sweep,
    /// When nobody waits any more for what was to be written.
    close_by: Tick,
}

impl Keeper {
    /// One that writes there. No account may take more than so many bytes, nor all together.
    pub(super) fn new(
        settings: PostgresSettings,
        account_bytes_max: u64,
        bytes_max: u64,
        told: Arc<standing::Told>,
    ) -> Keeper {
        let number = getrandom::u64().unwrap_or_else(|_| clock::now().0);
        Keeper {
            settings,
            bounds: (account_bytes_max, bytes_max),
            told,
            name: format!("tidegate-{number:016x}"),
            link: None,
            joining: None,
            failures: 0,
            epoch: None,
            waiting: VecDeque::new(),
            asked: VecDeque::new(),
            owed: Owed::default(),
            sweep: Sweep::default(),
            close_by: Tick::MAX,
        }
    }

    /// Connects for the first time.
    ///
    /// # Errors
    /// What does not mend itself. Else it is tried again, by and by.
    pub(super) async fn join(&mut self) -> Result<(), Away> {
        match Link::connect(&self.settings, &self.name, None).await {
            Err(away) if away.is_final() => Err(away),
            joined => {
                self.joined(joined);
                Ok(())
            }
        }
    }

    /// Writes until it is told to end, or nobody is left who could tell.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut open = true;
        let mut got = Vec::with_capacity(BATCH_MAX);
        while open || !self.idle() && clock::now() < self.close_by {
            let waiting = self.waiting.len() + self.asked.len() - self.owed.commands;
            let room = WAITING_MAX.saturating_sub(waiting).min(BATCH_MAX);
            let next = self.next().min(self.close_by);
            let mut joined = None;
            tokio::select! {
                biased;
                link = join(&mut self.joining) => joined = Some(link),
                count = jobs.recv_many(&mut got, room), if open && room > 0 => open = count > 0,
                () = clock::sleep_until(next) => {}
            }
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
            self.turn().await;
            self.inquire().await;
            self.expire();
        }
        if let Some(link) = &self.link {
            // Others find it out by themselves, though later.
            let _ = clock::timeout_at(self.soon(), link.leave()).await;
        }
        for mut waiting in self.waiting.drain(..) {
            waiting.tell(Err(Unavailable::Stopped));
            self.told.failed.fetch_add(1, Relaxed);
        }
        for inquiry in self.asked.drain(..) {
            let _ = inquiry.told.send(Err(Unavailable::Stopped));
        }
        self.told.stand(State::Closed);
    }

    fn heed(&mut self, job: Job) {
        match job {
            Job::Claims { named, account, command, told } => {
                let timeout = self.settings.timeout;
                self.waiting.push_back(Waiting::new(named, account, command, told, timeout));
            }
            Job::Documents { question, told } => {
                self.asked.push_back(Inquiry { question, by: self.soon(), told });
            }
            Job::Freeze { told } => drop(told.send(Err(Unavailable::Unserved))),
            Job::Deliveries(errand) => errand.tell(Err(Unavailable::Unserved)),
            Job::Thaw | Job::Close => {}
        }
    }

    /// One round, played by a simulation: see [`crate::hand`].
    #[cfg(debug_assertions)]
    pub(super) async fn round(&mut self, got: Vec<Job>) -> crate::hand::Round {
        if self.joining.take().is_some() {
            let joined = Link::connect(&self.settings, &self.name, self.epoch).await;
            self.joined(joined);
        }
        got.into_iter().for_each(|job| self.heed(job));
        self.turn().await;
        self.inquire().await;
        self.expire();
        let until = if self.joining.is_some() { clock::now().after(LOOK_EVERY) } else { self.next() };
        crate::hand::Round { until, leads: false }
    }

    fn idle(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty()
    }

    /// When something has to be done though nobody asks for it.
    fn next(&self) -> Tick {
        match &self.link {
            Some(_) if !self.idle() => clock::now(),
            Some(link) => link.renewed.after(self.settings.lease / 3).min(self.sweep.next()),
            None if !self.asked.is_empty() || self.waiting.iter().any(|waiting| waiting.told.is_some()) => {
                clock::now().after(LOOK_EVERY)
            }
            None => Tick::MAX,
        }
    }

    /// A try to connect has ended.
    fn joined(&mut self, joined: Result<Link, Away>) {
        match joined {
            Ok(link) => {
                if self.epoch.is_some_and(|epoch| epoch != link.epoch) {
                    self.fenced();
                }
                self.epoch = Some(link.epoch);
                self.link = Some(link);
                self.failures = 0;
                self.sweep.look_soon();
                self.well();
            }
            Err(away) => self.away(&away.to_string()),
        }
    }

    /// There is no connection, or none that is of use. Another one is made.
    fn away(&mut self, why: &str) {
        self.link = None;
        self.failures = self.failures.saturating_add(1);
        self.ill(State::Failing(why.into()));
        let wait = backoff(RETRY, RETRY_MAX, self.failures, getrandom::u64().unwrap_or_default());
        let (settings, name, epoch) = (self.settings.clone(), self.name.clone(), self.epoch);
        self.joining = Some(Box::pin(async move {
            clock::sleep(wait).await;
            Link::connect(&settings, &name, epoch).await
        }));
    }

    /// Does what is to be done now.
    async fn turn(&mut self) {
        while self.link.is_some() {
            let mut group = self.group();
            let failed = self.act_in_time(&mut group).await.err();
            let wrote = !group.is_empty() || failed.is_none();
            if failed.is_some() {
                group.iter_mut().for_each(|waiting| waiting.tried = true);
            }
            match failed {
                None => self.give_back(group),
                Some(Failed::Lost(why)) => {
                    self.give_back(group);
                    return self.away(&why);
                }
                Some(Failed::Fenced) => {
                    self.give_back(group);
                    self.new_epoch().await;
                }
                Some(Failed::Again(why)) => {
                    tracing::debug!(why, "the store tries a transaction again");
                    self.give_back(group);
                }
                Some(failed @ (Failed::Full(_) | Failed::Refused(_))) => self.one_by_one(group, failed).await,
            }
            // Others are heard in between; what is left is gone on with at once.
            if !wrote || self.waiting.len() < BATCH_MAX || self.expired() {
                return;
            }
        }
    }

    /// Answers what is asked of documents, one by one. Whoever changes one and is told that it failed has to look.
    async fn inquire(&mut self) {
        while let Some(link) = &self.link
            && let Some(inquiry) = self.asked.pop_front()
        {
            let answer = Box::pin(documents::answer(link, &inquiry.question));
            let answer = clock::timeout_at(self.soon(), answer).await;
            let answer = answer.unwrap_or_else(|_| Err(Failed::Lost("no answer of documents".to_owned())));
            let told = match answer {
                Ok(answer) => Ok(answer),
                Err(Failed::Again(_)) if clock::now() < inquiry.by => {
                    self.asked.push_front(inquiry);
                    continue;
                }
                Err(Failed::Full(_)) => Err(Unavailable::Full),
                Err(Failed::Lost(why)) => {
                    self.away(&why);
                    Err(Unavailable::Failing)
                }
                Err(Failed::Again(why) | Failed::Refused(why)) => {
                    tracing::warn!(why, "documents could not be read or changed");
                    Err(Unavailable::Failing)
                }
                Err(Failed::Fenced) => Err(Unavailable::Failing),
            };
            let count = if told.is_ok() { &self.told.done } else { &self.told.failed };
            count.fetch_add(1, Relaxed);
            let wrote = matches!(told, Ok(Answer::Written(Written::Done(_))));
            self.told.commits.fetch_add(u64::from(wrote), Relaxed);
            let _ = inquiry.told.send(told);
        }
    }

    /// What is carried out together: of one record one command alone.
    fn group(&mut self) -> Vec<Waiting> {
        let (mut group, mut ids, mut bytes) = (Vec::new(), HashSet::new(), 0);
        let mut left = VecDeque::new();
        while let Some(waiting) = self.waiting.pop_front() {
            let fits = bytes == 0 || bytes + waiting.bytes() <= BATCH_BYTES_MAX;
            if group.len() < BATCH_MAX && fits && ids.insert(waiting.id) {
                bytes += waiting.bytes();
                group.push(waiting);
            } else {
                // Behind it none of the same record may go first.
                ids.insert(waiting.id);
                left.push_back(waiting);
            }
        }
        self.waiting = left;
        group
    }

    /// What could not be carried out comes first the next time.
    fn give_back(&mut self, group: Vec<Waiting>) {
        for waiting in group.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
    }

    /// The same, for so long as a transaction may take.
    async fn act_in_time(&mut self, group: &mut Vec<Waiting>) -> Result<(), Failed> {
        let timeout = self.settings.timeout;
        let slow = |_| Err(Failed::Lost(Away::Slow(timeout).to_string()));
        clock::timeout_at(self.soon(), self.act(group)).await.unwrap_or_else(slow)
    }

    /// When nothing is waited for any longer that begins now.
    fn soon(&self) -> Tick {
        clock::now().after(self.settings.timeout)
    }

    /// Carries out these commands; what remains of them is to be carried out again. Or looks after the node's lease, and what
    /// has come to its end.
    async fn act(&mut self, group: &mut Vec<Waiting>) -> Result<(), Failed> {
        let Some(link) = &mut self.link else { return Ok(()) };
        if clock::now() >= link.renewed.after(self.settings.lease / 3) && !link.renew().await? {
            return Err(Failed::Fenced);
        }
        if !group.is_empty() {
            let (account_bytes, bytes_max) = self.bounds;
            let bounds = Bounds { account_bytes, room: bytes_max.saturating_sub(self.told.bytes()) };
            let (came, delta) = claims::round(link, group, bounds).await?;
            let full = came.iter().any(|came| matches!(came, Came::To(Err(Unavailable::Full))));
            if full {
                self.ill(State::Full)
            } else {
                self.well()
            }
            self.settle(group, came, delta);
        }
        let Some(link) = &self.link else { return Ok(()) };
        self.sweep.sweep(link, &self.told).await
    }

    /// Tells what commands have come to, and leaves those that are to be carried out again.
    fn settle(&mut self, group: &mut Vec<Waiting>, came: Vec<Came>, delta: Option<Delta>) {
        let mut again = Vec::new();
        // Counted before anybody is told.
        if let Some(delta) = delta {
            self.told.commits.fetch_add(1, Relaxed);
            self.told.more(delta.records, delta.bytes);
        }
        for (mut waiting, came) in group.drain(..).zip(came) {
            match came {
                Came::To(what) => {
                    let count = if what.is_ok() { &self.told.done } else { &self.told.failed };
                    count.fetch_add(1, Relaxed);
                    self.paid(&waiting);
                    waiting.tell(what);
                }
                Came::Again => again.push(waiting),
            }
        }
        *group = again;
    }

    /// Something that was owed is not any more.
    fn paid(&mut self, waiting: &Waiting) {
        if waiting.told.is_none() {
            self.owed.commands -= 1;
            self.owed.bytes -= waiting.bytes();
        }
    }

    /// Commands that failed together are tried one by one, so that one takes nobody down with it.
    async fn one_by_one(&mut self, group: Vec<Waiting>, failed: Failed) {
        let alone = group.len() == 1;
        let mut failed = Some(failed).filter(|_| alone);
        for waiting in group {
            let mut single = vec![waiting];
            let why = match failed.take() {
                Some(failed) => Some(failed),
                None => self.act_in_time(&mut single).await.err(),
            };
            single.iter_mut().for_each(|waiting| waiting.tried = true);
            match why {
                Some(Failed::Full(why)) => self.full(single, &why),
                Some(Failed::Refused(why)) => {
                    self.ill(State::Failing(why.as_str().into()));
                    self.refuse(single, Unavailable::Failing);
                }
                Some(Failed::Lost(why)) => {
                    self.give_back(single);
                    self.away(&why);
                }
                None | Some(Failed::Again(_) | Failed::Fenced) => self.give_back(single),
            }
        }
    }

    /// There is no room for a command. That a request was answered is worth more than with what.
    fn full(&mut self, group: Vec<Waiting>, why: &str) {
        tracing::debug!(why, "PostgreSQL has no room");
        self.ill(State::Full);
        for mut waiting in group {
            match &mut waiting.command {
                Command::Finish { kept: kept @ Kept::Whole(_), .. } => {
                    if waiting.told.is_none() {
                        self.owed.bytes -= kept.bytes();
                    }
                    *kept = Kept::Status(kept.status());
                    self.waiting.push_front(waiting);
                }
                _ => self.refuse(vec![waiting], Unavailable::Full),
            }
        }
    }

    fn refuse(&mut self, group: Vec<Waiting>, why: Unavailable) {
        for mut waiting in group {
            self.paid(&waiting);
            self.told.failed.fetch_add(1, Relaxed);
            waiting.tell(Err(why));
        }
    }

    /// Another has ended this node's epoch: what was claimed under it is not this node's any more.
    async fn new_epoch(&mut self) {
        self.fenced();
        let Some(link) = &mut self.link else { return };
        let by = clock::now().after(self.settings.timeout);
        match clock::timeout_at(by, link.register(&self.name)).await {
            Ok(Ok(())) => self.epoch = Some(link.epoch),
            Ok(Err(failed)) => self.away(&format!("{failed:?}")),
            Err(_) => self.away("no answer to a new epoch"),
        }
    }

    fn fenced(&mut self) {
        self.epoch = None;
        tracing::warn!(
            "the store: this node was not heard of for so long that another has ended its lease; what it had begun under \
             idempotency keys is unknown to all"
        );
    }

    fn expired(&self) -> bool {
        let now = clock::now();
        self.waiting.iter().any(|waiting| waiting.told.is_some() && waiting.by <= now)
    }

    /// Tells those who have waited long enough that it takes too long. What they told of is owed from then on.
    fn expire(&mut self) {
        let now = clock::now();
        while self.asked.front().is_some_and(|inquiry| inquiry.by <= now) {
            if let Some(inquiry) = self.asked.pop_front() {
                let _ = inquiry.told.send(Err(Unavailable::Failing));
            }
        }
        if self.expired() {
            let all = std::mem::take(&mut self.waiting);
            for mut waiting in all {
                if waiting.told.is_none() || waiting.by > now || self.owe(&mut waiting) {
                    self.waiting.push_back(waiting);
                }
            }
        }
        self.told.held.store((self.waiting.len() + self.asked.len()) as u64, Relaxed);
    }

    /// Whoever waits for this command is told that it takes too long. Whether it is to be carried out all the same.
    fn owe(&mut self, waiting: &mut Waiting) -> bool {
        waiting.tell(Err(Unavailable::Failing));
        self.told.failed.fetch_add(1, Relaxed);
        match &mut waiting.command {
            Command::Claim { .. } if !waiting.tried => return false,
            // It may be there: whoever claimed it was told that it is not, and has sent nothing.
            Command::Claim { claim, .. } => waiting.command = Command::Release { claim: *claim },
            Command::Finish { kept, .. } if self.owed.bytes + kept.bytes() > OWED_BYTES_MAX => {
                *kept = Kept::Status(kept.status());
            }
            Command::Finish { .. } | Command::Release { .. } | Command::Leave { .. } => {}
        }
        if self.owed.commands >= OWED_MAX {
            return false;
        }
        self.owed.commands += 1;
        self.owed.bytes += waiting.bytes();
        true
    }

    fn well(&self) {
        if matches!(self.told.stand(State::Serving), State::Full | State::Failing(_)) {
            tracing::info!("the store can be written to");
        }
    }

    fn ill(&self, state: State) {
        let before = self.told.stand(state.clone());
        // Each try may say it in other words.
        if std::mem::discriminant(&before) == std::mem::discriminant(&state) {
            return;
        }
        let why = if let State::Failing(why) = &state { why } else { "no room is left" };
        tracing::error!(error = why, "the store cannot be written to; it is tried again");
    }
}

/// The end of a try to connect, if one is under way.
async fn join(joining: &mut Option<Joining>) -> Result<Link, Away> {
    match joining {
        Some(joining) => joining.await,
        None => std::future::pending().await,
    }
}

/// Seconds since the Unix epoch, by the clock of this machine.
fn now() -> u64 {
    clock::wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
