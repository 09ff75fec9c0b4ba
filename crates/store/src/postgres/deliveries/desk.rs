//! A transaction with deliveries in PostgreSQL: begun, filled by the ledger, committed.
//!
//! ```text
//! begin, is this epoch still, hold the shards, what will be asked for    one answer
//!   the ledger asks for what is not there (seldom)                        one answer each
//! what was changed, the shards' versions, commit                         one answer
//! ```
//!
//! What always holds: whatever a transaction writes in a shard it writes while it holds the shard's row, and what it has read
//! there it has read since; so of two nodes that write in a shard one comes after the other. Where the row tells the version
//! that this node has written itself, what is [known](Known) of the shard is still so.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tidegate_model::delivery::shard::shard_of;
use tidegate_model::delivery::{Id, Seq};

use super::super::away::Failed;
use super::flush;
use super::known::{Change, Known, Pending};
use super::rows::{get, halves, number, text};
use super::session::{Says, Session};
use crate::deliveries::Line;
use crate::deliveries::rows::whole;
use crate::deliveries::tables::{Fault, Hints, Shard};

/// Holds this node's epoch, and says which transaction of it this is: no row if it has ended.
const FENCE: &str = "UPDATE nodes SET batch = $2 WHERE epoch = $1 AND ended IS NULL RETURNING epoch";
const HOLD: &str = "
    SELECT shard, epoch, owner, version, seq, line FROM shards WHERE shard = ANY ($1) ORDER BY shard FOR UPDATE";
const LOOK: &str = "SELECT shard, epoch, owner, version, seq, line FROM shards ORDER BY shard";
const WORKS: &str = "SELECT shard FROM shards s WHERE EXISTS (SELECT FROM works w WHERE w.shard = s.shard)";
const PAUSED: &str = "SELECT queue, tenant, key FROM pauses WHERE kind = 3";
const SHARDS: &str = "
    UPDATE shards s SET version = s.version + 1, epoch = t.epoch, owner = t.owner, seq = t.seq, line = t.line
    FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) AS t (shard, epoch, owner, seq, line)
    WHERE s.shard = t.shard";
const NOTIFY: &str = "SELECT pg_notify('tidegate_deliveries', told) FROM unnest($1::text[]) AS t (told)";
const PLACES: &str = "
    SELECT i.seq FROM unnest($1::bigint[], $2::bigint[]) AS t (high, low) JOIN ids i ON i.high = t.high AND i.low = t.low";
const BEGIN: &str = "BEGIN";
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// How a shard's row stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) epoch: i64,
    /// An epoch of `nodes`; 0: nobody leads it.
    pub(super) owner: i64,
    pub(super) version: i64,
    pub(super) seq: i64,
    pub(super) line: i64,
    /// Whether this transaction has written in it.
    pub(super) changed: bool,
}

/// What a transaction may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Idle,
    Reads,
    Writes,
}

/// Where transactions are made, one after the other.
pub(super) struct Desk {
    pub(super) session: Session,
    pub(super) known: Known,
    pub(super) pending: Pending,
    /// How many shards there are.
    pub(super) count: u16,
    /// Those that this transaction has read or, if it writes, holds.
    pub(super) shards: BTreeMap<u16, Standing>,
    /// The version of each shard up to which all is known.
    seen: HashMap<u16, i64>,
    /// The version of each shard up to which the ledger knows how it stands: it is told that only where it asks.
    told: HashMap<u16, i64>,
    /// Shards that this node leads, and under which number: also what it was given under an epoch that has ended since.
    pub(super) led: HashMap<u16, i64>,
    /// Those that this transaction takes or gives away.
    pub(super) taken: BTreeMap<u16, Option<i64>>,
    paused: Vec<(Line, std::sync::Arc<str>)>,
    works: BTreeSet<u16>,
    /// Of what age new deliveries are.
    pub(super) age: i32,
    /// Bytes that there is room for.
    pub(super) room: u64,
    /// Bytes that this transaction has added.
    pub(super) bytes: i64,
    /// Whether something has been written that is not [pending](Pending) any more.
    pub(super) wrote: bool,
    /// Deliveries of which that is so.
    flushed: Vec<Seq>,
    mode: Mode,
}

impl Desk {
    pub(super) fn new(session: Session, count: u16, led: HashMap<u16, i64>) -> Desk {
        Desk {
            session,
            known: Known::default(),
            pending: Pending::default(),
            count,
            shards: BTreeMap::new(),
            seen: HashMap::new(),
            told: HashMap::new(),
            led,
            taken: BTreeMap::new(),
            paused: Vec::new(),
            works: BTreeSet::new(),
            age: 0,
            room: 0,
            bytes: 0,
            wrote: false,
            flushed: Vec::new(),
            mode: Mode::Idle,
        }
    }

    /// Begins one that writes in these shards, under the number `batch`.
    pub(super) fn begin(&mut self, batch: i64, shards: &BTreeSet<u16>, hints: &Hints) -> Result<(), Fault> {
        self.mode = Mode::Writes;
        let epoch = self.session.link.epoch;
        let held: Vec<i16> = shards.iter().map(|shard| *shard as i16).collect();
        let mut says = vec![
            Says::plain(BEGIN),
            // In this order everybody does it: who waits for a shard holds nobody's epoch.
            Says::new(HOLD, vec![Box::new(held)]),
            Says::new(FENCE, vec![Box::new(epoch), Box::new(batch)]),
            Says::plain(WORKS),
            Says::plain(PAUSED),
        ];
        let wants = self.wants(hints);
        says.extend(wants.says());
        let answers = self.session.ask_all(&says)?;
        drop(says);
        let [_, found, fenced, works, paused, rest @ ..] = &answers[..] else {
            return Err(Fault::Odd("fewer answers than questions"));
        };
        if fenced.is_empty() {
            return Err(Failed::Fenced.into());
        }
        self.stands(found, works, paused)?;
        wants.absorb(rest, &mut self.known)?;
        self.adopt();
        self.fetch(hints)
    }

    /// Begins one that only reads.
    pub(super) fn begin_reading(&mut self, hints: &Hints) -> Result<(), Fault> {
        self.mode = Mode::Reads;
        let mut says =
            vec![Says::plain(BEGIN_READING), Says::plain(LOOK), Says::plain(WORKS), Says::plain(PAUSED)];
        let wants = self.wants(hints);
        says.extend(wants.says());
        let answers = self.session.ask_all(&says)?;
        drop(says);
        let [_, found, works, paused, rest @ ..] = &answers[..] else {
            return Err(Fault::Odd("fewer answers than questions"));
        };
        self.stands(found, works, paused)?;
        wants.absorb(rest, &mut self.known)?;
        self.fetch(hints)
    }

    /// What was told of the shards. What is known of those in which another has written is forgotten.
    fn stands(
        &mut self,
        found: &[tokio_postgres::Row],
        works: &[tokio_postgres::Row],
        paused: &[tokio_postgres::Row],
    ) -> Result<(), Fault> {
        self.shards.clear();
        for row in found {
            let shard = number_of(get(row, 0)?)?;
            let version = get(row, 3)?;
            if self.seen.insert(shard, version) != Some(version) {
                let count = self.count;
                self.known.forget_shard(shard, |tenant| shard_of(tenant, count));
            }
            let standing = Standing {
                epoch: get(row, 1)?,
                owner: get(row, 2)?,
                version,
                seq: get(row, 4)?,
                line: get(row, 5)?,
                changed: false,
            };
            self.shards.insert(shard, standing);
        }
        self.works = works.iter().map(|row| number_of(get(row, 0)?)).collect::<Result<_, _>>()?;
        self.paused.clear();
        for row in paused {
            let line = Line { queue: get::<&str>(row, 0)?.into(), tenant: get::<&str>(row, 1)?.into() };
            self.paused.push((line, text(get(row, 2)?)?));
        }
        Ok(())
    }

    /// What this node leads under an epoch of its own that has ended, and nobody has taken since, is its own again.
    fn adopt(&mut self) {
        let own = self.session.link.epoch;
        for (shard, standing) in &mut self.shards {
            if self.led.get(shard) == Some(&standing.epoch) {
                standing.owner = own;
            }
            if standing.owner == own {
                self.led.insert(*shard, standing.epoch);
            } else {
                self.led.remove(shard);
            }
        }
    }

    /// How a shard stands, for the ledger.
    pub(super) fn tell_shard(&mut self, shard: u16, known: bool) -> Result<Option<Shard>, Fault> {
        if shard >= self.count {
            return Ok(None);
        }
        let Some(standing) = self.shards.get(&shard) else { return Err(Fault::Beyond(shard)) };
        if self.told.insert(shard, standing.version) == Some(standing.version) && known {
            return Ok(None);
        }
        let paused = self.paused.iter().filter(|(line, _)| shard_of(&line.tenant, self.count) == shard);
        Ok(Some(Shard {
            epoch: u64::try_from(standing.epoch).unwrap_or_default(),
            seq: Seq(u64::try_from(standing.seq).unwrap_or_default()),
            works: self.works.contains(&shard),
            paused: paused.cloned().collect(),
        }))
    }

    /// A shard that this transaction holds. It is written in.
    pub(super) fn write_in(&mut self, shard: u16) -> Result<&mut Standing, Fault> {
        if self.mode != Mode::Writes {
            return Err(Fault::Beyond(shard));
        }
        let standing = self.shards.get_mut(&shard).ok_or(Fault::Beyond(shard))?;
        standing.changed = true;
        Ok(standing)
    }

    /// Whether anything has been changed.
    pub(super) fn has_written(&self) -> bool {
        self.mode == Mode::Writes
            && (self.wrote || !self.pending.is_empty() || self.shards.values().any(|one| one.changed))
    }

    /// Commits: the versions that the shards have now in which it has written. Where that fails because the connection is lost, nobody knows whether it is committed.
    pub(super) fn commit(&mut self, notes: &[String]) -> Result<Vec<(u16, i64)>, Fault> {
        let changed: Vec<(u16, Standing)> =
            self.shards.iter().filter(|(_, one)| one.changed).map(|(shard, one)| (*shard, *one)).collect();
        let mut rows = std::mem::take(&mut self.pending.rows);
        let mut says = Vec::new();
        flush::rows(&self.known, &rows, &self.pending.removed, &mut says);
        flush::rest(&self.known, &self.pending, &mut says);
        let column =
            |what: fn(&Standing) -> i64| changed.iter().map(|(_, one)| what(one)).collect::<Vec<_>>();
        if !changed.is_empty() {
            let numbers: Vec<i16> = changed.iter().map(|(shard, _)| *shard as i16).collect();
            says.push(Says::new(
                SHARDS,
                vec![
                    Box::new(numbers),
                    Box::new(column(|one| one.epoch)),
                    Box::new(column(|one| one.owner)),
                    Box::new(column(|one| one.seq)),
                    Box::new(column(|one| one.line)),
                ],
            ));
        }
        if !notes.is_empty() {
            says.push(Says::new(NOTIFY, vec![Box::new(notes.to_vec())]));
        }
        says.push(Says::plain("COMMIT"));
        self.session.ask_all(&says)?;
        drop(says);
        let versions: Vec<(u16, i64)> =
            changed.iter().map(|(shard, standing)| (*shard, standing.version + 1)).collect();
        self.seen.extend(versions.iter().copied());
        for (shard, version) in &versions {
            // What this transaction has done the ledger has done, or it is nothing to it.
            if let Some(told) = self.told.get_mut(shard).filter(|told| **told == version - 1) {
                *told = *version;
            }
        }
        for (shard, number) in std::mem::take(&mut self.taken) {
            match number {
                Some(number) => drop(self.led.insert(shard, number)),
                None => drop(self.led.remove(&shard)),
            }
        }
        rows.append(&mut self.flushed);
        self.over(&rows);
        Ok(versions)
    }

    /// Ends one that has written nothing.
    pub(super) fn end(&mut self) -> Result<(), Fault> {
        self.session.ask(Says::plain("ROLLBACK"))?;
        self.over(&[]);
        Ok(())
    }

    fn over(&mut self, changed: &[Seq]) {
        self.pending = Pending::default();
        self.known.trim(changed);
        self.shards.clear();
        self.taken.clear();
        self.flushed.clear();
        (self.mode, self.wrote, self.bytes) = (Mode::Idle, false, 0);
    }

    /// Takes all back, and forgets what is known.
    pub(super) fn undo(&mut self) {
        // Where the connection is lost, so is the transaction.
        let _ = self.session.ask(Says::plain("ROLLBACK"));
        self.known = Known::default();
        self.seen.clear();
        self.told.clear();
        self.over(&[]);
    }

    /// Sends off what has been changed of deliveries, so that a look along an index finds it.
    pub(super) fn flush_rows(&mut self) -> Result<(), Fault> {
        if self.pending.rows.is_empty() && self.pending.removed.is_empty() {
            return Ok(());
        }
        let (changed, removed) =
            (std::mem::take(&mut self.pending.rows), std::mem::take(&mut self.pending.removed));
        let mut says = Vec::new();
        flush::rows(&self.known, &changed, &removed, &mut says);
        self.session.ask_all(&says)?;
        drop(says);
        for seq in &changed {
            if let Some(Some(entry)) = self.known.rows.get_mut(seq) {
                entry.change = Change::Nothing;
            }
        }
        self.flushed.extend(changed);
        self.wrote = true;
        Ok(())
    }

    /// Sends off all that has been changed.
    pub(super) fn flush_all(&mut self) -> Result<(), Fault> {
        self.flush_rows()?;
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut says = Vec::new();
        flush::rest(&self.known, &self.pending, &mut says);
        self.session.ask_all(&says)?;
        drop(says);
        self.pending = Pending::default();
        self.wrote = true;
        Ok(())
    }

    /// The shards of those of these that there are.
    pub(super) fn shards_of(&mut self, ids: &[Id]) -> Result<BTreeSet<u16>, Fault> {
        let (high, low): (Vec<_>, Vec<_>) = ids.iter().map(|id| halves(*id)).unzip();
        let found = self.session.ask(Says::new(PLACES, vec![Box::new(high), Box::new(low)]))?;
        found.iter().map(|row| Ok(Seq(number(row, 0)?).shard())).collect()
    }

    /// The last place that was given away.
    pub(super) fn put_seq(&mut self, seq: Seq) -> Result<(), Fault> {
        self.write_in(seq.shard())?.seq = whole(seq.0);
        Ok(())
    }
}

fn number_of(shard: i16) -> Result<u16, Fault> {
    u16::try_from(shard).map_err(|_| Fault::Odd("a shard that there is not"))
}

/// The places of a shard: from behind the first on, up to the second.
pub(super) fn span(shard: u16) -> (i64, i64) {
    let first = i64::from(shard) << 48;
    (first, first | ((1 << 48) - 1))
}
