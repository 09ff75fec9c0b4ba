//! Deliveries as the rest of the process asks for them: each method is a command to the writing thread, and is answered
//! once what it has changed is on disk.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_model::delivery::{Id, Ms, Seq};
use tokio::sync::{mpsc, oneshot};

use super::ledger::Ledger;
use super::rows::{request_bytes, whole};
use super::{
    Appended, Asked, Committed, Epoch, Follower, Leased, Line, Pause, Promise, Ready, Room, Whole, append,
    commit, look, pauses,
};
use crate::database::PAGE_BYTES;
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
    fn apply(&mut self, ledger: &mut Ledger<'_>) -> rusqlite::Result<()>;
    /// Tells whoever asked, once the transaction is on disk, or that it is not.
    fn tell(self: Box<Self>, how: Result<(), Unavailable>);
    /// How much it is for one transaction.
    fn weight(&self) -> u64;
    /// Leaves out what needs room and is not needed. `false`: there is no such thing.
    fn shrink(&mut self) -> bool;
}

/// One kind of what is asked.
trait Asks: Send {
    type Told: Send;
    fn apply(&mut self, ledger: &mut Ledger<'_>) -> rusqlite::Result<Result<Self::Told, Unavailable>>;
    fn weight(&self) -> u64 {
        WEIGHT
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
    fn apply(&mut self, ledger: &mut Ledger<'_>) -> rusqlite::Result<()> {
        self.found = Some(self.asks.apply(ledger)?);
        Ok(())
    }

    fn tell(self: Box<Self>, how: Result<(), Unavailable>) {
        let Waits { found, told, .. } = *self;
        // Whoever asked may have gone; what was done stands.
        let _ = told.send(how.and_then(|()| found.unwrap_or(Err(Unavailable::Stopped))));
    }

    fn weight(&self) -> u64 {
        self.asks.weight()
    }

    fn shrink(&mut self) -> bool {
        self.asks.shrink()
    }
}

/// What needs no more than to be carried out.
struct Plain<F>(F);

impl<T: Send, F> Asks for Plain<F>
where
    F: FnMut(&mut Ledger<'_>) -> rusqlite::Result<Result<T, Unavailable>> + Send,
{
    type Told = T;

    fn apply(&mut self, ledger: &mut Ledger<'_>) -> rusqlite::Result<Result<T, Unavailable>> {
        (self.0)(ledger)
    }
}

struct Append {
    promises: Vec<Promise>,
    room: Room,
    now: Ms,
    bytes: u64,
}

impl Asks for Append {
    type Told = Vec<Appended>;

    fn apply(&mut self, ledger: &mut Ledger<'_>) -> rusqlite::Result<Result<Vec<Appended>, Unavailable>> {
        if !ledger.takes_new(self.bytes)? {
            return Ok(Err(Unavailable::Full));
        }
        append::append(ledger, &self.promises, self.room, self.now).map(Ok)
    }

    fn weight(&self) -> u64 {
        self.bytes + self.promises.len() as u64 * WEIGHT
    }
}

struct Commit {
    epoch: Epoch,
    asked: Vec<Asked>,
    now: Ms,
}

impl Asks for Commit {
    type Told = Vec<Committed>;

    fn apply(&mut self, ledger: &mut Ledger<'_>) -> rusqlite::Result<Result<Vec<Committed>, Unavailable>> {
        if !ledger.is_led_by(self.epoch) {
            return Ok(Err(Unavailable::Fenced));
        }
        commit::commit(ledger, &self.asked, self.now).map(Ok)
    }

    fn weight(&self) -> u64 {
        self.asked.iter().map(|asked| WEIGHT + asked.bytes()).sum()
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

impl Ledger<'_> {
    /// Whether there is room for what is new: some is left for what has to be written of what is there already.
    pub(super) fn takes_new(&self, bytes: u64) -> rusqlite::Result<bool> {
        let number = |sql| self.connection.prepare_cached(sql)?.query_row((), |row| row.get::<_, i64>(0));
        let most = number("PRAGMA max_page_count")?;
        let taken = number("PRAGMA page_count")? - number("PRAGMA freelist_count")?;
        let reserve = (most / 16).clamp(8, 4096);
        Ok(taken + whole(bytes / PAGE_BYTES) < most - reserve)
    }
}

/// What may wait to be accepted is given back when it no longer waits, whoever gave up waiting for it.
struct Appending(Arc<std::sync::atomic::AtomicU64>, u64);

impl Drop for Appending {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Relaxed);
    }
}

impl Store {
    /// Accepts deliveries, each for itself, in their order: at most [`TOGETHER_MAX`].
    ///
    /// # Errors
    /// [`Unavailable`]: none is accepted then, as far as can be known. To append one again whose id is there already changes
    /// nothing.
    pub async fn append(
        &self,
        promises: Vec<Promise>,
        room: Room,
        now: Ms,
    ) -> Result<Vec<Appended>, Unavailable> {
        let bytes = promises.iter().map(|promise| request_bytes(&promise.request)).sum();
        if self.appending.fetch_add(bytes, Relaxed) + bytes > APPENDING_BYTES_MAX.max(bytes) {
            self.appending.fetch_sub(bytes, Relaxed);
            return Err(Unavailable::Busy);
        }
        let _waits = Appending(Arc::clone(&self.appending), bytes);
        self.errand(Append { promises, room, now, bytes }, false).await
    }

    /// Takes a shard over: whoever had it before is refused from now on.
    ///
    /// # Errors
    /// [`Unavailable`]; [`Fenced`](Unavailable::Fenced): there is no such shard.
    pub async fn lead(&self, shard: u16) -> Result<Epoch, Unavailable> {
        self.plain(move |ledger| {
            if shard != 0 {
                return Ok(Err(Unavailable::Fenced));
            }
            ledger.lead().map(|number| Ok(Epoch { shard, number }))
        })
        .await
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
        self.errand(Commit { epoch, asked, now }, true).await
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
        self.led(epoch, move |ledger| look::promote(ledger, now, most)).await
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
        self.led(epoch, move |ledger| look::lines(ledger, after.as_ref(), most)).await
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
        self.led(epoch, move |ledger| look::ready(ledger, &line, after, most)).await
    }

    /// Leases that have not ended, by their deliveries' places.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn leased(&self, epoch: Epoch, after: Seq, most: usize) -> Result<Vec<Leased>, Unavailable> {
        self.led(epoch, move |ledger| look::leased(ledger, after, most)).await
    }

    /// What has not begun and is not to be any more. It is so until it was told to
    /// [`Expire`](tidegate_model::delivery::Command::Expire).
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn expired(&self, epoch: Epoch, now: Ms, most: usize) -> Result<Vec<(Seq, Line)>, Unavailable> {
        self.led(epoch, move |ledger| look::expired(ledger, now, most)).await
    }

    /// All that is known of a delivery: for this tenant or, where none is told, for the operator.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn read(&self, tenant: Option<&str>, id: Id) -> Result<Option<Whole>, Unavailable> {
        let tenant = tenant.map(Box::<str>::from);
        self.plain(move |ledger| look::whole_of(ledger, tenant.as_deref(), id).map(Ok)).await
    }

    /// Pauses something; twice is once. `false`: as much is paused already as may be.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn pause(&self, pause: Pause, now: Ms) -> Result<bool, Unavailable> {
        self.plain(move |ledger| pauses::pause(ledger, &pause, now).map(Ok)).await
    }

    /// Ends a pause; one that there is not has ended.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn resume(&self, pause: Pause, now: Ms) -> Result<(), Unavailable> {
        self.plain(move |ledger| pauses::resume(ledger, &pause, now).map(Ok)).await
    }

    /// What is paused.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn paused(&self) -> Result<Vec<Pause>, Unavailable> {
        self.plain(|ledger| pauses::all(ledger.connection).map(Ok)).await
    }

    /// What is wrong with what is on disk.
    #[cfg(test)]
    pub(crate) async fn audit(&self) -> Result<Vec<String>, Unavailable> {
        self.plain(|ledger| super::audit::audit(ledger.connection).map(Ok)).await
    }

    /// What happens from now on that the owner does not do itself. The first is to look.
    #[must_use]
    pub fn follow(&self) -> Follower {
        self.followers.follow()
    }

    /// Carries out what the owner of a shard alone may.
    async fn led<T: Send + 'static>(
        &self,
        epoch: Epoch,
        mut work: impl FnMut(&mut Ledger<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.plain(move |ledger| match ledger.is_led_by(epoch) {
            true => work(ledger).map(Ok),
            false => Ok(Err(Unavailable::Fenced)),
        })
        .await
    }

    pub(super) async fn plain<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Ledger<'_>) -> rusqlite::Result<Result<T, Unavailable>> + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.errand(Plain(work), true).await
    }

    /// Gives something to the writing thread: it waits for its place on the list, or is refused where there is none.
    async fn errand<A: Asks + 'static>(&self, asks: A, waits: bool) -> Result<A::Told, Unavailable> {
        let (told, answer) = oneshot::channel();
        let job = Job::Deliveries(Box::new(Waits { asks, found: None, told }));
        if waits {
            self.commands.send(job).await.map_err(|_| Unavailable::Stopped)?;
        } else {
            self.commands.try_send(job).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Unavailable::Busy,
                mpsc::error::TrySendError::Closed(_) => Unavailable::Stopped,
            })?;
        }
        answer.await.unwrap_or(Err(Unavailable::Stopped))
    }
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
        self.plain(move |ledger| commit::change(ledger, tenant.as_deref(), id, &command, now).map(Ok)).await
    }
}
