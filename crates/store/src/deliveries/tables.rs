//! What the ledger of deliveries lies in: tables, whose they are and in what language they are asked is not its business.
//!
//! The ledger decides, the tables remember. Each operation goes by a key or along an index within a bound, and none decides
//! anything: so SQLite and PostgreSQL cannot come to answer differently. Within a transaction what was written is what
//! is read, whether it has left the process or not, but for [`depths`](Tables::depths), [`totals`](Tables::totals) and
//! [`lines_ready`](Tables::lines_ready), which may tell counts as they were when the transaction began.
//!
//! Nothing that is written has to be read back: numbers are given by who writes, from a counter that is at hand. So
//! tables that are far away may keep what is written, and send it off in one piece. What a transaction will ask for is
//! told beforehand where that is known ([`prefetch`](Tables::prefetch)), so that it is fetched in one piece, too.
//!
//! Beginning a transaction, committing it and rolling it back is the business of whoever made the tables.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use tidegate_model::delivery::{Id, Kind, Ms, Request, Seq, Token};

use super::rows::{Row, Unnamed};
use super::{Attempt, Callback, Depth, Kept, Line, Pause, Roll, Total};
use crate::postgres::Failed;

/// Why the tables did not do what was asked. The transaction is over then, and nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL failed, or is away.
    #[error(transparent)]
    Postgres(#[from] Failed),
    /// The transaction does not hold this shard: it is done again with it.
    #[error("shard {0} is not held")]
    Beyond(u16),
    /// What lies there was not written by this program.
    #[error("what lies in the store was not written by Tidegate: {0}")]
    Odd(&'static str),
}

/// The shard that a line is of: its number has it where a delivery's has.
pub(crate) fn shard_of_line(number: i64) -> u16 {
    Seq(number as u64).shard()
}

/// How a shard stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    /// The number of its owner's epoch.
    pub(crate) epoch: u64,
    /// The last place that was given away in it, the shard in its highest bits.
    pub(crate) seq: Seq,
    /// Whether there may be work left ([`Work`]).
    pub(crate) works: bool,
    /// Keys of its lines that are paused.
    pub(crate) paused: HashSet<(Line, Arc<str>)>,
}

/// A line, and what it has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Its number: the shard in its highest bits (that of its tenant), and given away once.
    pub(crate) number: i64,
    /// What it is called.
    pub(crate) names: Line,
    /// The number of the first of the same tenant's lines, which may be gone: the same for all of them.
    pub(crate) owner: i64,
    /// Deliveries in each state, in the order of [`Kind::ALL`].
    pub(crate) counts: [i64; 7],
    /// Bytes that they count for.
    pub(crate) bytes: i64,
}

impl Tally {
    /// Whether there is no delivery in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }
}

/// What is one of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sole {
    /// Which one it is.
    pub(crate) seq: Seq,
    /// Until when another one is the same.
    pub(crate) until: Ms,
    /// What tells whether another one asks for the same.
    pub(crate) fingerprint: Option<[u8; 32]>,
}

/// What is done by and by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Whoever comes after this, which has ended, is told.
    Ended(Seq),
    /// The turns of a key of a line go to whoever asks, or are taken back from whoever has not begun while it is paused.
    Lane(i64, Arc<str>),
}

/// Among which deliveries a listing looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Among {
    /// A tenant's, by the owner of its lines.
    Owner(i64),
    /// Those in this state: leased, dead or cancelled, of which there are few.
    Few(Kind),
    /// All.
    All,
}

/// What will be asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hints {
    /// Deliveries that are loaded.
    pub(crate) seqs: Vec<Seq>,
    /// Those that are looked for.
    pub(crate) ids: Vec<Id>,
    /// Those whose requests are read.
    pub(crate) requests: Vec<Seq>,
    /// Tenants whose lines are written to.
    pub(crate) tenants: Vec<Arc<str>>,
    /// What is to be one of a kind.
    pub(crate) uniques: Vec<(Line, Arc<str>)>,
    /// Keys whose turns are asked for.
    pub(crate) lanes: Vec<(Line, Arc<str>)>,
}

impl Hints {
    /// And this.
    pub(crate) fn add(&mut self, more: Hints) {
        self.seqs.extend(more.seqs);
        self.ids.extend(more.ids);
        self.requests.extend(more.requests);
        self.tenants.extend(more.tenants);
        self.uniques.extend(more.uniques);
        self.lanes.extend(more.lanes);
    }
}

/// What an errand needs of tables that several processes share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// Whether it may change anything.
    pub(crate) writes: bool,
    /// Shards in which it does, as far as is known.
    pub(crate) shards: BTreeSet<u16>,
    /// Whether these are all.
    pub(crate) everywhere: bool,
    /// Deliveries in whose shards it does.
    pub(crate) ids: Vec<Id>,
    pub(crate) hints: Hints,
}

impl Needs {
    /// It changes nothing.
    pub(crate) fn looks() -> Needs {
        Needs::default()
    }

    /// It looks for this delivery and changes nothing.
    pub(crate) fn looks_for(id: Id) -> Needs {
        Needs { hints: Hints { ids: vec![id], ..Hints::default() }, ..Needs::default() }
    }

    /// It may change something in this shard.
    pub(crate) fn writes_in(shard: u16) -> Needs {
        Needs { writes: true, shards: BTreeSet::from([shard]), ..Needs::default() }
    }

    /// It may change something in the shard of this delivery.
    pub(crate) fn writes_of(id: Id) -> Needs {
        Needs { writes: true, ids: vec![id], ..Needs::looks_for(id) }
    }

    /// It may change something in any shard.
    pub(crate) fn writes_everywhere() -> Needs {
        Needs { writes: true, everywhere: true, ..Needs::default() }
    }

    /// And what this one needs.
    pub(crate) fn add(&mut self, more: Needs) {
        self.writes |= more.writes;
        self.everywhere |= more.everywhere;
        self.shards.extend(more.shards);
        self.ids.extend(more.ids);
        self.hints.add(more.hints);
    }
}

/// See the module. `&mut self` throughout: what is far away keeps what it has fetched.
pub(crate) trait Tables {
    /// The shard of a tenant's deliveries: always the same.
    fn shard_of(&self, tenant: &str) -> u16;

    /// How a shard stands. Asked once in each transaction that touches it, before anything else of it is. `None` where it is
    /// `known`: nobody else has changed anything of what the ledger keeps of it between two transactions (what [`Shard`] tells,
    /// and its lines). `None` where it is not: there is no such shard.
    fn shard(&mut self, shard: u16, known: bool) -> Result<Option<Shard>, Fault>;

    /// How many places are noted as given away before they are, at most. Whoever begins anew gives away none of them.
    fn seqs_ahead(&self) -> u64 {
        0
    }

    /// The last place that was given away in its shard, or may be without being noted.
    fn put_seq(&mut self, seq: Seq) -> Result<(), Fault>;

    /// Takes a shard that there is: the number of its new owner's epoch, the one before and 1. `None`: another node has it, and
    /// is there.
    fn take(&mut self, shard: u16) -> Result<Option<u64>, Fault>;

    /// Gives a shard away that this node has.
    fn give_away(&mut self, shard: u16) -> Result<(), Fault>;

    /// Who has which shard.
    fn roll(&mut self) -> Result<Roll, Fault>;

    /// Whether there is room for so many bytes of what is new: some is left for what has to be written of what is there.
    fn takes_new(&mut self, bytes: u64) -> Result<bool, Fault>;

    /// What will be asked for soon, so that what is far away is fetched in one piece. It changes no answer.
    fn prefetch(&mut self, hints: &Hints) -> Result<(), Fault> {
        let _ = hints;
        Ok(())
    }

    /// Writes what was kept, where that is not done by whoever made the tables: nothing more comes in this transaction.
    fn flush(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    // Lines.

    /// A line, by its names.
    fn line(&mut self, names: &Line) -> Result<Option<Tally>, Fault>;

    /// A line, by its number.
    fn line_by_number(&mut self, number: i64) -> Result<Option<Tally>, Fault>;

    /// The owner that the lines of a tenant have, where it has any.
    fn owner(&mut self, tenant: &str) -> Result<Option<i64>, Fault>;

    /// What each of a tenant's lines counts for in bytes, by its number, as it was last [written](Tables::put_lines).
    fn bytes_by_line(&mut self, tenant: &str) -> Result<Vec<(i64, i64)>, Fault>;

    /// A new line with nothing in it, in the shard of its tenant. Without an owner it is its own. Its number.
    fn insert_line(&mut self, names: &Line, owner: Option<i64>) -> Result<i64, Fault>;

    /// What was counted of lines that there are. One whose counts are all zero is removed, with its lanes.
    fn put_lines(&mut self, changed: &[&Tally]) -> Result<(), Fault>;

    // Deliveries.

    /// Where a delivery is, by its id.
    fn find(&mut self, id: Id) -> Result<Option<Seq>, Fault>;

    /// A delivery.
    fn load(&mut self, seq: Seq) -> Result<Option<Unnamed>, Fault>;

    /// A delivery that there was not.
    fn insert(&mut self, row: &Row) -> Result<(), Fault>;

    /// A delivery that was as `before` is as `after`.
    fn update(&mut self, before: &Row, after: &Row) -> Result<(), Fault>;

    /// A delivery has these marks, and is as it was but for that.
    fn put_marks(&mut self, row: &Row, marks: u8) -> Result<(), Fault>;

    /// A delivery is forgotten: with its request, its result, its attempts, and what it makes one of a kind, where that is
    /// still this one. Nothing comes after it any more, and nothing is made of it.
    fn remove(&mut self, row: &Row) -> Result<(), Fault>;

    /// A request, and how often it was changed. Each delivery has one.
    fn request(&mut self, seq: Seq) -> Result<Option<(Arc<Request>, u64)>, Fault>;

    /// Keeps a request that was changed so often, in the place of an earlier one: one that never was is the first.
    fn put_request(&mut self, seq: Seq, request: &Arc<Request>, edits: u64) -> Result<(), Fault>;

    /// The attempts that are kept, the oldest first.
    fn attempts(&mut self, seq: Seq) -> Result<Vec<Attempt>, Fault>;

    /// Keeps an attempt under its token, and none whose token is [`ATTEMPTS_KEPT`](super::rows::ATTEMPTS_KEPT) or more below.
    fn put_attempt(&mut self, seq: Seq, token: Token, attempt: &Attempt) -> Result<(), Fault>;

    /// The result.
    fn result(&mut self, seq: Seq) -> Result<Option<Kept>, Fault>;

    /// The status of a result that is whole.
    fn answered(&mut self, seq: Seq) -> Result<Option<u16>, Fault>;

    /// Keeps a result, in the place of an earlier one, with its fields as they are [packed](tidegate_model::fields::Fields::pack).
    fn put_result(&mut self, seq: Seq, result: &Kept, fields: &[u8]) -> Result<(), Fault>;

    // What follows from what.

    /// What is one of this kind in a line.
    fn unique(&mut self, line: i64, key: &str) -> Result<Option<Sole>, Fault>;

    /// This is one of this kind, in the place of another.
    fn put_unique(&mut self, line: i64, key: &Arc<str>, sole: &Sole) -> Result<(), Fault>;

    /// Whether a delivery comes after this first one.
    fn comes_after(&mut self, first: Seq, seq: Seq) -> Result<bool, Fault>;

    /// Notes that a delivery comes after this first one, which was not noted.
    fn insert_after(&mut self, first: Seq, seq: Seq) -> Result<(), Fault>;

    /// Those that come after this one, by their places, from behind `after` on.
    fn afters(&mut self, first: Seq, after: Seq, most: usize) -> Result<Vec<Seq>, Fault>;

    /// A delivery comes after this first one no more.
    fn remove_after(&mut self, first: Seq, seq: Seq) -> Result<(), Fault>;

    /// A delivery comes after none any more.
    fn remove_firsts(&mut self, seq: Seq) -> Result<(), Fault>;

    /// What is made once a delivery has ended.
    fn callback(&mut self, seq: Seq) -> Result<Option<Callback>, Fault>;

    /// This is made once a delivery has ended, in the place of something else.
    fn put_callback(&mut self, seq: Seq, callback: &Callback) -> Result<(), Fault>;

    /// Nothing is made any more.
    fn remove_callback(&mut self, seq: Seq) -> Result<(), Fault>;

    /// Something that was left to be done in a shard: always the same one until that is removed.
    fn next_work(&mut self, shard: u16) -> Result<Option<Work>, Fault>;

    /// Leaves something to be done, in the shard of the delivery or the line; twice is once.
    fn put_work(&mut self, work: &Work) -> Result<(), Fault>;

    /// It is not left to be done.
    fn remove_work(&mut self, work: &Work) -> Result<(), Fault>;

    // Lanes.

    /// Turns of a key that are held; 0 where nothing is noted.
    fn open(&mut self, line: i64, key: &str) -> Result<u32, Fault>;

    /// So many turns of a key are held. Of 0 nothing is noted.
    fn put_open(&mut self, line: i64, key: &Arc<str>, open: u32) -> Result<(), Fault>;

    /// Whether anybody [asks](tidegate_model::delivery::lane::Place::Asks) for a turn of a key.
    fn is_asked_for(&mut self, line: i64, key: &str) -> Result<bool, Fault>;

    /// The first who ask for a turn of a key, by turn and place ([`Row::turn`]).
    fn asking(&mut self, line: i64, key: &str, most: usize) -> Result<Vec<Unnamed>, Fault>;

    /// Who [holds](tidegate_model::delivery::lane::Place::Holds) a turn of a key and is in this state, by turn and place, from
    /// behind these on.
    fn holding(
        &mut self,
        of: (i64, &str),
        state: Kind,
        after: (i64, Seq),
        most: usize,
    ) -> Result<Vec<(i64, Seq)>, Fault>;

    // What is next.

    /// Scheduled ones of a shard that are due, the longest ago first.
    fn due(&mut self, shard: u16, now: Ms, most: usize) -> Result<Vec<Seq>, Fault>;

    /// When the first scheduled one of a shard is due.
    fn next_due(&mut self, shard: u16) -> Result<Option<Ms>, Fault>;

    /// Ready ones of a line by rank and place, from behind these on.
    fn ready(&mut self, line: i64, after: (i64, Seq), most: usize) -> Result<Vec<Unnamed>, Fault>;

    /// Lines of a shard that have ready ones, by queue and tenant, from behind this one on.
    fn lines_ready(&mut self, shard: u16, after: Option<&Line>, most: usize) -> Result<Vec<Line>, Fault>;

    /// Leased ones of a shard by place, from behind this one on.
    fn leased(&mut self, shard: u16, after: Seq, most: usize) -> Result<Vec<Unnamed>, Fault>;

    /// Those of a shard that are blocked, scheduled or ready and have expired, the longest ago first, and their lines.
    fn expired(&mut self, shard: u16, now: Ms, most: usize) -> Result<Vec<(Seq, i64)>, Fault>;

    /// Those of a shard that are to be forgotten, the longest ago first.
    fn forgotten(&mut self, shard: u16, now: Ms, most: usize) -> Result<Vec<Unnamed>, Fault>;

    // What people ask for.

    /// Deliveries before this place, the last place first.
    fn page(&mut self, among: Among, before: Seq, most: usize) -> Result<Vec<Unnamed>, Fault>;

    /// Lines by queue and tenant, from behind this one on: of a queue, a tenant, both or all.
    fn depths(
        &mut self,
        queue: Option<&str>,
        tenant: Option<&str>,
        after: Option<&Line>,
        most: usize,
    ) -> Result<Vec<Depth>, Fault>;

    /// Sums over the lines of each queue, by its name. The oldest is that of the first ready one of each of so many lines.
    fn totals(&mut self, lines_max: usize) -> Result<Vec<Total>, Fault>;

    /// What is paused, by kind (in the order of [`Pause`]) and names.
    fn pauses(&mut self) -> Result<Vec<Pause>, Fault>;

    /// Pauses; twice is once. `false`, and nothing was done: it was not paused, and so many are already.
    fn put_pause(&mut self, pause: &Pause, most: usize) -> Result<bool, Fault>;

    /// Ends a pause; one that there is not has ended.
    fn remove_pause(&mut self, pause: &Pause) -> Result<(), Fault>;

    /// What is wrong with what lies in the tables, for tests.
    #[cfg(any(test, debug_assertions))]
    fn audit(&mut self) -> Result<Vec<String>, Fault>;
}
