//! Deliveries as the rest of the process asks for them: each method is a command to the writing thread, and is answered
//! once what it has changed is on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_model::delivery::shard::shard_of;
use tidegate_model::delivery::{Command, Id, Ms, Seq};
use tokio::sync::{mpsc, oneshot};

use super::ledger::Ledger;
use super::rows::request_bytes;
use super::tables::{Fault, Needs};
use super::{
    Appended, Asked, Committed, Epoch, Leased, Line, Pause, Promise, Ready, Room, Whole, append, commit,
    look, pauses,
};
use crate::store::{Job, Store, Unavailable};

/// Deliveries of one [`Store::append`], and commands of one [`Store::commit`].
pub const TOGETHER_MAX: usize = 1024;
/// Bytes of what waits to be accepted.
const APPENDING_BYTES_MAX: u64 = 128 << 20;
/// What a delivery or a command counts for, beside its bytes, of what one transaction may have: so none takes long.
const WEIGHT: u64 = 2048;

/// What is asked of the deliveries.
pub(crate) trait Errand: Send {
    /// Carries it out, in a transaction that has begun and may fail yet.
    fn apply(&mut self, ledger: &mut Ledger<'_>) -> Result<(), Fault>;
    /// Tells whoever asked, once the transaction is on disk, or that it is not.
    fn tell(self: Box<Self>, how: Result<(), Unavailable>);
    /// What it needs of tables that are divided into so many shards.
    fn needs(&self, shards: u16) -> Needs;
    /// Whether who asked cannot go on before it is known whether it was carried out.
    fn must_know(&self) -> bool;
    /// How much it is for one transaction.
    fn weight(&self) -> u64;
    /// What it does to how many wait.
    fn tide(&self) -> Tide;
    /// Leaves out what needs room and is not needed. `false`: there is no such thing.
    fn shrink(&mut self) -> bool;
}

/// What somebody does to how many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tide {
    /// So many more may wait.
    Comes(usize),
    /// So many that have waited are begun.
    Goes(usize),
    /// Nothing.
    Stands,
}

/// Where it is told what something came to.
type Answer<T> = oneshot::Receiver<Result<T, Unavailable>>;

/// One kind of what is asked.
trait Asks: Send {
    type Told: Send;
    fn apply(&mut self, ledger: &mut Ledger<'_>) -> Result<Result<Self::Told, Unavailable>, Fault>;
    fn needs(&self, shards: u16) -> Needs;
    fn must_know(&self) -> bool {
        false
    }
    fn weight(&self) -> u64 {
        WEIGHT
    }
    fn tide(&self) -> Tide {
        Tide::Stands
    }
    fn shrink(&mut self) -> bool {
        false
    }
}

struct Waits<A: Asks> {
    asks: A,
    found: Option<Result<A::Told, Unavailable>>,
    told: oneshot::Sender<Result<A::Told, Unavailable>>,
}

impl<A: Asks> Errand for Waits<A> {
    fn apply(&mut self, ledger: &mut Ledger<'_>) -> Result<(), Fault> {
        self.found = Some(self.asks.apply(ledger)?);
        Ok(())
    }

    fn tell(self: Box<Self>, how: Result<(), Unavailable>) {
        let Waits { found, told, .. } = *self;
        // Whoever asked may have gone; what was done stands.
        let _ = told.send(how.and_then(|()| found.unwrap_or(Err(Unavailable::Stopped))));
    }

    fn needs(&self, shards: u16) -> Needs {
        self.asks.needs(shards)
    }

    fn must_know(&self) -> bool {
        self.asks.must_know()
    }

    fn weight(&self) -> u64 {
        self.asks.weight()
    }

    fn tide(&self) -> Tide {
        self.asks.tide()
    }

    fn shrink(&mut self) -> bool {
        self.asks.shrink()
    }
}

/// What needs no more than to be carried out.
struct Plain<F>(Needs, F);

impl<T: Send, F> Asks for Plain<F>
where
    F: FnMut(&mut Ledger<'_>) -> Result<Result<T, Unavailable>, Fault> + Send,
{
    type Told = T;

    fn apply(&mut self, ledger: &mut Ledger<'_>) -> Result<Result<T, Unavailable>, Fault> {
        (self.1)(ledger)
    }

    fn needs(&self, _: u16) -> Needs {
        self.0.clone()
    }
}

struct Append {
    promises: Vec<Promise>,
    room: Room,
    now: Ms,
    waits: Appending,
}

impl Asks for Append {
    type Told = Vec<Appended>;

    fn apply(&mut self, ledger: &mut Ledger<'_>) -> Result<Result<Vec<Appended>, Unavailable>, Fault> {
        if !ledger.tables.takes_new(self.waits.bytes)? {
            return Ok(Err(Unavailable::Full));
        }
        append::append(ledger, &self.promises, self.room, self.now).map(Ok)
    }

    fn needs(&self, shards: u16) -> Needs {
        let mut needs = Needs { writes: true, ..Needs::default() };
        let hints = &mut needs.hints;
        for promise in &self.promises {
            needs.shards.insert(shard_of(&promise.tenant, shards));
            hints.ids.push(promise.id);
            hints.ids.extend(&promise.after);
            hints.tenants.push(Arc::clone(&promise.tenant));
            let line = || Line { queue: Arc::clone(&promise.queue), tenant: Arc::clone(&promise.tenant) };
            hints.uniques.extend(promise.unique.as_ref().map(|unique| (line(), Arc::clone(&unique.key))));
            hints.lanes.extend(promise.lane.as_ref().map(|lane| (line(), Arc::clone(&lane.key))));
        }
        needs
    }

    fn weight(&self) -> u64 {
        self.waits.bytes + self.promises.len() as u64 * WEIGHT
    }

    fn tide(&self) -> Tide {
        Tide::Comes(self.promises.len())
    }
}

struct Commit {
    epoch: Epoch,
    asked: Vec<Asked>,
    now: Ms,
}

impl Asks for Commit {
    type Told = Vec<Committed>;

    fn apply(&mut self, ledger: &mut Ledger<'_>) -> Result<Result<Vec<Committed>, Unavailable>, Fault> {
        if !ledger.is_led_by(self.epoch)? {
            return Ok(Err(Unavailable::Fenced));
        }
        commit::commit(ledger, self.epoch, &self.asked, self.now).map(Ok)
    }

    fn needs(&self, _: u16) -> Needs {
        let mut needs = Needs::writes_in(self.epoch.shard);
        for asked in &self.asked {
            needs.hints.seqs.push(asked.seq);
            if matches!(asked.command, Command::Start { .. }) {
                needs.hints.requests.push(asked.seq);
            }
        }
        needs
    }

    /// What was begun is to be made, or is made for nothing.
    fn must_know(&self) -> bool {
        true
    }

    fn weight(&self) -> u64 {
        self.asked.iter().map(|asked| WEIGHT + asked.bytes()).sum()
    }

    fn tide(&self) -> Tide {
        Tide::Goes(self.asked.iter().filter(|asked| matches!(asked.command, Command::Start { .. })).count())
    }

    /// That something has been done is worth more than what was said of it.
    fn shrink(&mut self) -> bool {
        let mut has = false;
        for asked in &mut self.asked {
            has |= asked.result.take().is_some() | asked.attempt.take().is_some();
        }
        has
    }
}

/// So many bytes wait to be accepted, as long as this is there, whoever has given up waiting for the answer.
struct Appending {
    all: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Appending {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

impl Store {
    /// Accepts deliveries, each for itself, in their order: at most [`TOGETHER_MAX`]. They are asked for at once, and not when
    /// somebody waits for the answer: what waits for it has not to hold them.
    ///
    /// # Errors
    /// [`Unavailable`]: none is accepted then, as far as can be known. To append one again whose id is there already changes
    /// nothing.
    pub fn append(
        &self,
        promises: Vec<Promise>,
        room: Room,
        now: Ms,
    ) -> impl Future<Output = Result<Vec<Appended>, Unavailable>> + use<> {
        let asked = self.ask_to_append(promises, room, now);
        async move { asked?.await.unwrap_or(Err(Unavailable::Stopped)) }
    }

    fn ask_to_append(
        &self,
        promises: Vec<Promise>,
        room: Room,
        now: Ms,
    ) -> Result<Answer<Vec<Appended>>, Unavailable> {
        let bytes = promises.iter().map(|promise| request_bytes(&promise.request)).sum();
        let waits = Appending { all: Arc::clone(&self.appending), bytes };
        if self.appending.fetch_add(bytes, Relaxed) + bytes > APPENDING_BYTES_MAX.max(bytes) {
            return Err(Unavailable::Busy);
        }
        let (job, answer) = job(Append { promises, room, now, waits });
        self.errands.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unavailable::Busy,
            mpsc::error::TrySendError::Closed(_) => Unavailable::Stopped,
        })?;
        Ok(answer)
    }

    /// Carries out commands, each for itself, in their order: at most [`TOGETHER_MAX`]. What each comes to.
    ///
    /// # Errors
    /// [`Unavailable`]: none was carried out then, as far as can be known. [`Fenced`](Unavailable::Fenced): another owns the
    /// shard.
    pub async fn commit(
        &self,
        epoch: Epoch,
        asked: Vec<Asked>,
        now: Ms,
    ) -> Result<Vec<Committed>, Unavailable> {
        self.errand(Commit { epoch, asked, now }).await
    }

    /// Makes ready what is due. What that is, when the next is due, and whether that is now.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn promote(
        &self,
        epoch: Epoch,
        now: Ms,
        most: usize,
    ) -> Result<(Vec<Ready>, Option<Ms>, bool), Unavailable> {
        let needs = Needs::writes_in(epoch.shard);
        self.led(epoch, needs, move |ledger| look::promote(ledger, epoch.shard, now, most)).await
    }

    /// Lines in which something may be begun, in the order of their names.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn lines(
        &self,
        epoch: Epoch,
        after: Option<Line>,
        most: usize,
    ) -> Result<Vec<Line>, Unavailable> {
        self.led(epoch, Needs::looks(), move |ledger| look::lines(ledger, epoch.shard, after.as_ref(), most))
            .await
    }

    /// What may be begun of a line, in the order in which it is.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn ready(
        &self,
        epoch: Epoch,
        line: &Line,
        after: Option<(i64, Seq)>,
        most: usize,
    ) -> Result<Vec<Ready>, Unavailable> {
        let line = line.clone();
        self.led(epoch, Needs::looks(), move |ledger| look::ready(ledger, &line, after, most)).await
    }

    /// Leases that have not ended, by their deliveries' places.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn leased(&self, epoch: Epoch, after: Seq, most: usize) -> Result<Vec<Leased>, Unavailable> {
        self.led(epoch, Needs::looks(), move |ledger| look::leased(ledger, epoch.shard, after, most)).await
    }

    /// What has not begun and is not to be any more. It is so until it was told to
    /// [`Expire`](tidegate_model::delivery::Command::Expire).
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn expired(&self, epoch: Epoch, now: Ms, most: usize) -> Result<Vec<(Seq, Line)>, Unavailable> {
        self.led(epoch, Needs::looks(), move |ledger| look::expired(ledger, epoch.shard, now, most)).await
    }

    /// All that is known of a delivery: for this tenant or, where none is told, for the operator.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn read(&self, tenant: Option<&str>, id: Id) -> Result<Option<Whole>, Unavailable> {
        let tenant = tenant.map(Box::<str>::from);
        self.plain(Needs::looks_for(id), move |ledger| look::whole_of(ledger, tenant.as_deref(), id).map(Ok))
            .await
    }

    /// Pauses something; twice is once. `false`: as much is paused already as may be.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn pause(&self, pause: Pause, now: Ms) -> Result<bool, Unavailable> {
        self.plain(self.needs_of(&pause), move |ledger| pauses::pause(ledger, &pause, now).map(Ok)).await
    }

    /// Ends a pause; one that there is not has ended.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn resume(&self, pause: Pause, now: Ms) -> Result<(), Unavailable> {
        self.plain(self.needs_of(&pause), move |ledger| pauses::resume(ledger, &pause, now).map(Ok)).await
    }

    /// A key is its tenant's; what else is paused is written beside the first shard.
    fn needs_of(&self, pause: &Pause) -> Needs {
        Needs::writes_in(match pause {
            Pause::Key(line, _) => self.shard_of(&line.tenant),
            Pause::Queue(_) | Pause::Tenant(_) | Pause::Line(_) => 0,
        })
    }

    /// What is paused.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn paused(&self) -> Result<Vec<Pause>, Unavailable> {
        self.plain(Needs::looks(), |ledger| ledger.tables.pauses().map(Ok)).await
    }

    /// What is wrong with what is on disk.
    ///
    /// # Errors
    /// [`Unavailable`].
    #[cfg(any(test, debug_assertions))]
    pub async fn audit(&self) -> Result<Vec<String>, Unavailable> {
        self.plain(Needs::looks(), |ledger| ledger.tables.audit().map(Ok)).await
    }

    /// Carries out what the owner of a shard alone may.
    pub(super) async fn led<T: Send + 'static>(
        &self,
        epoch: Epoch,
        needs: Needs,
        mut work: impl FnMut(&mut Ledger<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.plain(needs, move |ledger| match ledger.is_led_by(epoch)? {
            true => work(ledger).map(Ok),
            false => Ok(Err(Unavailable::Fenced)),
        })
        .await
    }

    pub(crate) async fn plain<T: Send + 'static>(
        &self,
        needs: Needs,
        work: impl FnMut(&mut Ledger<'_>) -> Result<Result<T, Unavailable>, Fault> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.errand(Plain(needs, work)).await
    }

    /// Gives something to the writing thread, as soon as there is a place on its list.
    async fn errand<A: Asks + 'static>(&self, asks: A) -> Result<A::Told, Unavailable> {
        let (job, answer) = job(asks);
        self.errands.send(job).await.map_err(|_| Unavailable::Stopped)?;
        answer.await.unwrap_or(Err(Unavailable::Stopped))
    }
}

/// What the writing thread is given, and where it answers.
fn job<A: Asks + 'static>(asks: A) -> (Job, Answer<A::Told>) {
    let (told, answer) = oneshot::channel();
    (Job::Deliveries(Box::new(Waits { asks, found: None, told })), answer)
}

impl Store {
    /// One command to one delivery, whoever gives it: what is wanted of it from outside, such as that it is cancelled or made
    /// again. `None`: there is no such delivery, or none of this tenant's.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn change(
        &self,
        tenant: Option<&str>,
        id: Id,
        command: tidegate_model::delivery::Command,
        now: Ms,
    ) -> Result<Option<tidegate_model::delivery::Told>, Unavailable> {
        let tenant = tenant.map(Box::<str>::from);
        self.plain(Needs::writes_of(id), move |ledger| {
            commit::change(ledger, tenant.as_deref(), id, &command, now).map(Ok)
        })
        .await
    }
}
