//! Deliveries in the store: what is handed to it, and what it tells.
//!
//! Three families of operations: *append* (any node: a promise is accepted once it is on disk), *commit* (the owner of a
//! shard alone: commands to deliveries, each decided by [`tidegate_model::delivery::step`] within the transaction that
//! reads and writes it), and looking. The owner's *epoch* goes with each commit; one that another has taken over is refused.
//! What a change brings about (the next of its key, those that come after it, its callback) is in the same transaction.
//! Times are told by whoever asks: the store looks at no clock for them, but to forget what is to be forgotten.

mod administer;
mod append;
pub(crate) mod book;
mod commit;
mod door;
mod edit;
mod ends;
mod fresh;
mod lanes;
pub(crate) mod ledger;
mod lines;
mod list;
mod look;
pub(crate) mod moving;
mod news;
mod numbers;
mod pauses;
pub(crate) mod prune;
pub(crate) mod rows;
mod shards;
mod slots;
pub(crate) mod sqlite;
pub(crate) mod tables;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tidegate_model::delivery::{Command, Id, Kind, Lane, Ms, Record, Request, Seq, Token, Told};
use tidegate_model::gate::Priority;

pub(crate) use book::Book;
pub use door::TOGETHER_MAX;
pub(crate) use door::{Errand, Tide};
pub use fresh::fresh_id;
pub use list::PAGE_MAX;
pub use news::{Follower, Queues};
pub(crate) use news::{Followers, Tidings};
pub use numbers::{ByNumber, Spread};
pub use shards::{Leader, Roll, Who};
pub use slots::AHEAD_BYTES_MAX;
pub(crate) use slots::Slots;
pub use watch::Watch;

/// A delivery that is to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// What it is to be found by: fresh random bits.
    pub id: Id,
    /// The queue's name.
    pub queue: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What it has in common with others.
    pub lane: Option<Lane>,
    /// Who of a tenant's goes first.
    pub priority: Priority,
    /// See [`tidegate_model::delivery::rank`].
    pub aging: Ms,
    /// Not begun before; `None`: now.
    pub due: Option<Ms>,
    /// Not begun from then on.
    pub expires: Option<Ms>,
    /// Attempts that it may have; `None`: as many as the queue says.
    pub attempts_max: Option<u32>,
    /// What else counts as the same.
    pub unique: Option<Unique>,
    /// Those that it comes after, all of the same tenant: it waits until each was delivered. Where one ends otherwise, it is
    /// dead. One that takes the place of another comes after what was accepted before that.
    pub after: Vec<Id>,
    /// What is made once it has ended, whatever way: a delivery of its own, accepted in the same transaction. Its
    /// request says how it ended.
    pub callback: Option<Callback>,
    /// The request.
    pub request: Arc<Request>,
}

/// What makes a delivery one of a kind within its queue and tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    /// What they share.
    pub key: Arc<str>,
    /// Until when another one is the same, even if this has ended; at least until it has begun to be made.
    pub until: Ms,
    /// What becomes of another one.
    pub otherwise: Otherwise,
    /// What tells whether it asks for the same: one that asks for something else is a mismatch. `None`: it may.
    pub fingerprint: Option<[u8; 32]>,
}

/// What becomes of a promise for which there is one already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Otherwise {
    /// The first one stands, and is told.
    Keep,
    /// It takes the place of the first one, request and all, while that has not begun.
    Replace,
    /// As `Replace`, and the first one's time is put off to this one's: but never beyond so long after it was accepted.
    Debounce {
        /// So long.
        at_most: Ms,
    },
}

/// What is made once a delivery has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Its id.
    pub id: Id,
    /// Its queue.
    pub queue: Arc<str>,
    /// Its path and query.
    pub target: Arc<str>,
}

/// What became of a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is accepted.
    Accepted(Id),
    /// There is one already: this.
    Already(Id),
    /// It took the place of this one, which keeps its id.
    Replaced(Id),
    /// There is one already, and it asks for something else: or to come, with the place of that, among others of an ordered key.
    Mismatch(Id),
    /// The tenant has as many in this queue as it may, or as many bytes.
    Full,
    /// It comes after one that there is not, that has failed, or that is newer than what it was to take the place of.
    After(Id),
}

/// What a tenant may have waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Deliveries of one tenant in one queue that have not ended.
    pub waiting_max: u64,
    /// Bytes of all of a tenant's.
    pub bytes_max: u64,
}

/// A queue's deliveries of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Line {
    /// The queue's name.
    pub queue: Arc<str>,
    /// The tenant's id.
    pub tenant: Arc<str>,
}

/// A delivery that may be begun: what whoever decides who is next has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where it is.
    pub seq: Seq,
    /// What it is found by.
    pub id: Id,
    /// Whose, and of which queue.
    pub line: Line,
    /// What it has in common with others.
    pub lane: Option<Lane>,
    /// The order within its line, with `seq` where two are the same.
    pub rank: i64,
    /// Who is shed first where the upstream is saturated.
    pub priority: Priority,
    /// Since when it may be begun.
    pub due: Ms,
    /// Not begun from then on.
    pub expires: Option<Ms>,
    /// Attempts that were begun and count.
    pub attempts: u32,
    /// See [`Promise::attempts_max`].
    pub attempts_max: Option<u32>,
    /// Bytes of its request.
    pub bytes: u64,
}

/// A lease that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// What is made.
    pub delivery: Ready,
    /// By whom.
    pub token: Token,
    /// Until when.
    pub until: Ms,
}

/// What follows whoever decides who is next: what others than itself have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It may be begun.
    Ready(Ready),
    /// It was begun in a slot that was [offered](crate::Store::offer), as it was accepted: under this token, with this request.
    Begun(Ready, Token, Arc<Request>),
    /// Something is due then.
    Due(Ms),
    /// It may not be begun any more, or its attempt is to be broken off: it was cancelled.
    Gone(Seq, Line),
    /// More has happened than could be told: look.
    Look,
}

/// Who owns a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Of which shard.
    pub shard: u16,
    /// It grows with each owner.
    pub number: u64,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What whoever gave it is told.
    pub told: Told,
    /// The request, of what was started.
    pub request: Option<Arc<Request>>,
    /// What may be begun now because of it: the next of its key, what came after it, its callback.
    pub ready: Vec<Ready>,
}

/// A command to a delivery, and what is kept of the attempt that it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Which.
    pub seq: Seq,
    /// What.
    pub command: Command,
    /// What is kept of the attempt.
    pub attempt: Option<Attempt>,
    /// Its result, where one is kept.
    pub result: Option<Kept>,
}

/// What is kept of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number: the first is 1.
    pub number: u32,
    /// When it began.
    pub began: Ms,
    /// How long it took, in milliseconds.
    pub took: Ms,
    /// The status that it was answered with.
    pub status: Option<u16>,
    /// Why it failed, in words.
    pub why: Option<Arc<str>>,
    /// The beginning of what was answered.
    pub answer: Bytes,
}

/// An answer that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: tidegate_model::fields::Fields,
    /// Its content, or its beginning.
    pub body: Bytes,
    /// Whether that is all of it.
    pub whole: bool,
}

/// All that is known of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// How far it has come.
    pub record: Record,
    /// The request.
    pub request: Arc<Request>,
    /// How often that was changed.
    pub edits: u64,
    /// The last attempts, the newest last.
    pub attempts: Vec<Attempt>,
    /// The answer.
    pub result: Option<Kept>,
}

/// How far a delivery has come, without what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// How far.
    pub record: Record,
    /// The status of its answer, where all of that is kept and it has ended.
    pub answered: Option<u16>,
}

/// Which deliveries are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this queue.
    pub queue: Option<Arc<str>>,
    /// Of this tenant.
    pub tenant: Option<Arc<str>>,
    /// So far.
    pub state: Option<Kind>,
    /// Of this key.
    pub key: Option<Arc<str>>,
    /// Accepted from then on.
    pub since: Option<Ms>,
    /// Accepted before then.
    pub before: Option<Ms>,
}

/// What is not begun for a while.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pause {
    /// A queue's.
    Queue(Arc<str>),
    /// A tenant's, of all queues.
    Tenant(Arc<str>),
    /// A tenant's of one queue.
    Line(Line),
    /// Those of one key.
    Key(Line, Arc<str>),
}

/// How many of a line there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Of which.
    pub line: Line,
    /// In each state, in the order of [`Kind::ALL`].
    pub counts: [u64; 7],
    /// Bytes that they count for.
    pub bytes: u64,
}

/// How many of a queue there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// The queue's name.
    pub queue: Arc<str>,
    /// In each state, in the order of [`Kind::ALL`].
    pub counts: [u64; 7],
    /// Bytes that they count for.
    pub bytes: u64,
    /// Tenants that have any.
    pub lines: u64,
    /// Since when the oldest may be begun, of those that are next of their tenants.
    pub oldest: Option<Ms>,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The newest first.
    pub records: Vec<Record>,
    /// From behind which to go on; `None`: there are no more.
    pub next: Option<Seq>,
}

/// What others than the owner of a shard may want of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// See [`Command::Cancel`].
    Cancel {
        /// When they are forgotten.
        forgotten: Ms,
    },
    /// See [`Command::Redrive`].
    Redrive {
        /// When they are made again.
        due: Ms,
        /// See [`tidegate_model::delivery::rank`].
        aging: Ms,
    },
    /// They are forgotten, by and by, and what they made one of a kind with them: what has ended.
    Purge {
        /// What has not begun, too: it is cancelled first.
        waiting: bool,
    },
}

/// What a change by filter came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// How many were changed.
    pub changed: usize,
    /// From behind which to go on; `None`: there are no more.
    pub next: Option<Seq>,
}

/// What became of a change to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edited {
    /// It is done: it has been changed so often now.
    Done(u64),
    /// It has been changed so often, and not as whoever asks knows it.
    Otherwise(u64),
    /// It has begun, or has ended well.
    Not(tidegate_model::delivery::State),
    /// The tenant has no room for it.
    Full,
    /// There is none.
    Gone,
}

/// What is changed of a delivery that has not begun, or is dead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Its method.
    pub method: Option<Method>,
    /// Its path and query.
    pub target: Option<Arc<str>>,
    /// Its content.
    pub body: Option<Bytes>,
}
