//! A store in a directory, brought into an empty PostgreSQL: claims, documents and deliveries, with all that is kept of them.
//!
//! It is done *cold*: no process has the directory meanwhile (its lock is held), and no node the database (its shards are
//! taken, so that nobody makes anything of it). The directory stays as it is, but that what was left to be done by and by is done.
//!
//! ```text
//! what was left is done -> the database is empty -> marked -> claims, documents, pauses, deliveries
//!                                                         -> each compared with what it was -> the mark is taken away
//! ```
//!
//! What always holds: it goes in steps of bounded size, one transaction each; a database in which there is anything is left
//! alone. One that was left in the middle has the mark, and is to be made anew: from the directory nothing is lost.
//!
//! What it does not do: versions of documents (`ETag`s) begin anew.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use rusqlite::Connection;
use tidegate_model::delivery::Seq;
use tidegate_model::idempotency::{Answer, Command, Fingerprint, Kept, Key};
use tidegate_wire::clock;
use tokio::runtime::Builder;

use crate::claims;
use crate::database::{Database, Location, NAME, OpenError, StoreSettings};
use crate::deliveries::book::Book;
use crate::deliveries::ledger::Ledger;
use crate::deliveries::moving::{self, Moving};
use crate::deliveries::sqlite::recent::Recent;
use crate::deliveries::sqlite::{Sqlite, audit};
use crate::deliveries::tables::{Fault, Needs, Tables as _};
use crate::documents::{Expect, Place, Room, Write, Written};
use crate::postgres::{self, Away, PostgresSettings};
use crate::store::{Named, Store, Unavailable};

/// What one step has, of anything, and bytes of it, but for a single one that has more.
const STEP: usize = 200;
const STEP_BYTES: u64 = 8 << 20;
/// What documents may take: they had room before.
const ROOM: Room = Room { count: u64::MAX >> 1, bytes: u64::MAX >> 1 };

/// What was brought over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Records of idempotency keys.
    pub claims: u64,
    /// Documents.
    pub documents: u64,
    /// Deliveries.
    pub deliveries: u64,
}

/// Why a store was not brought over, or not whole.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The directory or the database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database cannot be asked.
    #[error("the database does not answer: {0}")]
    Away(#[from] Away),
    /// It is no PostgreSQL.
    #[error("a store is brought into a PostgreSQL: postgres://USER@HOST/DATABASE")]
    Nowhere,
    /// There is something in it.
    #[error("there is something in {0} already: a store is brought into an empty database")]
    Occupied(String),
    /// It was left in the middle.
    #[error(
        "a store was being brought into {0} and that was broken off: nothing is lost, the directory is as it was. Begin anew: \
         DROP SCHEMA tidegate CASCADE, and this command again"
    )]
    Begun(String),
    /// What is in the directory is not whole.
    #[error("{} is damaged: `tidegate store check` tells more", .0.display())]
    Damaged(PathBuf),
    /// It cannot be read.
    #[error("the directory cannot be read: {0}")]
    Read(String),
    /// The database takes no more.
    #[error(
        "the database takes no more: {0}. What is there is of no use: DROP SCHEMA tidegate CASCADE, and begin anew"
    )]
    Write(#[from] Unavailable),
    /// What is there is not what was to be brought.
    #[error("{0} is not in the database as it was in the directory: nothing was taken away from there")]
    Differs(String),
}

impl From<rusqlite::Error> for MigrateError {
    fn from(error: rusqlite::Error) -> MigrateError {
        MigrateError::Read(error.to_string())
    }
}

impl From<Fault> for MigrateError {
    fn from(error: Fault) -> MigrateError {
        MigrateError::Read(error.to_string())
    }
}

/// Brings the store in a directory that no process uses into a PostgreSQL in which there is none.
///
/// # Errors
/// [`MigrateError`].
///
/// # Panics
/// If the system has no event queue.
pub fn migrate(from: &Path, to: StoreSettings) -> Result<Migrated, MigrateError> {
    let Location::Postgres(postgres) = to.location else { return Err(MigrateError::Nowhere) };
    let postgres = PostgresSettings { brings: true, ..postgres };
    let to = StoreSettings { location: Location::Postgres(postgres.clone()), ..to };
    if !from.join(NAME).exists() {
        return Err(OpenError::Foreign(from.to_owned()).into());
    }
    let database = Database::open_whole(from)?;
    let connection = &database.connection;
    if !claims::audit(connection)?.is_empty() || !audit::audit(connection)?.is_empty() {
        return Err(MigrateError::Damaged(from.to_owned()));
    }
    settle(connection)?;
    let place = to.location.to_string();
    let store = Store::open(to)?;
    match postgres::contents(&postgres)? {
        postgres::Contents::Nothing => {}
        postgres::Contents::Begun => return Err(MigrateError::Begun(place)),
        postgres::Contents::Something => return Err(MigrateError::Occupied(place)),
    }
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("the system has an event queue");
    let done = runtime.block_on(bring(connection, &store));
    store.close();
    done
}

/// Does what was left to be done by and by.
fn settle(connection: &Connection) -> Result<(), MigrateError> {
    let mut book = Book::default();
    while Sqlite::new(connection, &mut Recent::default()).next_work(0)?.is_some() {
        let transaction = connection.unchecked_transaction()?;
        let mut recent = Recent::default();
        let mut tables = Sqlite::new(connection, &mut recent);
        let mut ledger = Ledger::new(&mut tables, &mut book);
        ledger.work(0, now_ms())?;
        ledger.close()?;
        transaction.commit()?;
        book.settled();
    }
    Ok(())
}

async fn bring(connection: &Connection, store: &Store) -> Result<Migrated, MigrateError> {
    mark(store, true).await?;
    let mut epochs = Vec::new();
    for shard in 0..store.shards() {
        epochs.push(store.lead(shard).await?);
    }
    let migrated = Migrated {
        claims: bring_claims(connection, store).await?,
        documents: bring_documents(connection, store).await?,
        deliveries: bring_deliveries(connection, store).await?,
    };
    compare(connection, store, migrated.deliveries).await?;
    for epoch in epochs {
        store.give_away(epoch).await?;
    }
    mark(store, false).await?;
    Ok(migrated)
}

/// Marks that it is under way, so that what was left in the middle is not taken for a store.
async fn mark(store: &Store, begins: bool) -> Result<(), MigrateError> {
    let place = Place { kind: postgres::MIGRATION, tenant: "".into(), name: "".into() };
    let write = match begins {
        true => {
            let expect = Expect::Absent;
            Write::Put { place, expect, at: now_ms(), until: None, body: Bytes::new(), room: ROOM }
        }
        false => Write::Remove { place, expect: Expect::Any },
    };
    match store.write(vec![write]).await? {
        Written::Done(_) => Ok(()),
        _ => Err(MigrateError::Begun(store.settings().location.to_string())),
    }
}

/// A record of a key, as its table has it.
struct Claim {
    id: i64,
    named: Named,
    account: Arc<str>,
    fingerprint: Fingerprint,
    claim: u64,
    until: u64,
    kept: Option<Kept>,
}

async fn bring_claims(connection: &Connection, store: &Store) -> Result<u64, MigrateError> {
    let (mut last, mut count, now) = (i64::MIN, 0, now_ms() / 1_000);
    loop {
        let step = claims_after(connection, last)?;
        let Some(newest) = step.last() else { return Ok(count) };
        last = newest.id;
        for claim in step.into_iter().filter(|claim| claim.until > now) {
            let Claim { named, account, fingerprint, claim, until, kept, .. } = claim;
            let begin = Command::Claim { fingerprint, claim, again: false, records_max: u64::MAX, until };
            store.ask(named.clone(), Arc::clone(&account), begin).await?;
            let end = match kept {
                Some(kept) => Command::Finish { fingerprint, claim, kept, until },
                // It was open when the process ended: what came of it nobody knows.
                None => Command::Leave { claim },
            };
            store.tell(named, account, end).await?;
            count += 1;
        }
    }
}

fn claims_after(connection: &Connection, last: i64) -> Result<Vec<Claim>, MigrateError> {
    let mut select = connection.prepare_cached(
        "SELECT id, tenant, scope, key, account, fingerprint, claim, until, status, told_to, fields, body
         FROM claims WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let mut rows = select.query((last, 20))?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let bytes =
            |place| row.get::<_, Option<Vec<u8>>>(place).map(|bytes| Bytes::from(bytes.unwrap_or_default()));
        let number = |place| row.get::<_, i64>(place).map(|number| u64::try_from(number).unwrap_or_default());
        let kept = match (row.get::<_, Option<u16>>(8)?, row.get::<_, Option<Fingerprint>>(9)?) {
            (None, _) => None,
            (Some(status), None) => Some(Kept::Status(status)),
            (Some(status), Some(told_to)) => {
                Some(Kept::Whole(Answer { status, fields: bytes(10)?, body: bytes(11)?, told_to }))
            }
        };
        let text: String = row.get(3)?;
        let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let key = Key::parse(quoted.as_bytes())
            .map_err(|_| MigrateError::Read(format!("`{text}` is no idempotency key")))?;
        all.push(Claim {
            id: row.get(0)?,
            named: Named { tenant: row.get(1)?, scope: row.get(2)?, key },
            account: row.get(4)?,
            fingerprint: row.get(5)?,
            claim: number(6)?,
            until: number(7)?,
            kept,
        });
    }
    Ok(all)
}

async fn bring_documents(connection: &Connection, store: &Store) -> Result<u64, MigrateError> {
    let (mut last, mut count) = (0, 0);
    let mut kinds = HashMap::new();
    loop {
        let (writes, newest) = documents_after(connection, last, &mut kinds)?;
        if writes.is_empty() {
            return Ok(count);
        }
        (last, count) = (newest, count + writes.len() as u64);
        if !matches!(store.write(writes).await?, Written::Done(_)) {
            return Err(MigrateError::Differs("a document".to_owned()));
        }
    }
}

/// The next documents, as they are to be written, and the version of the last of them.
fn documents_after(
    connection: &Connection,
    last: i64,
    kinds: &mut HashMap<String, &'static str>,
) -> Result<(Vec<Write>, i64), MigrateError> {
    let mut select = connection.prepare_cached(
        "SELECT version, kind, tenant, name, at, until, body FROM documents WHERE version > ?1
         ORDER BY version LIMIT ?2",
    )?;
    let mut rows = select.query((last, STEP as i64))?;
    let (mut writes, mut newest, mut bytes) = (Vec::new(), last, 0);
    while let Some(row) = rows.next()? {
        let kind: String = row.get(1)?;
        // There is a handful of kinds, each of them a word of this program.
        let kind = *kinds.entry(kind).or_insert_with_key(|kind| Box::leak(kind.clone().into_boxed_str()));
        let body = Bytes::from(row.get::<_, Vec<u8>>(6)?);
        let number = |number: i64| u64::try_from(number).unwrap_or_default();
        newest = row.get(0)?;
        bytes += body.len() as u64;
        writes.push(Write::Put {
            place: Place { kind, tenant: row.get(2)?, name: row.get(3)? },
            expect: Expect::Absent,
            at: number(row.get(4)?),
            until: row.get::<_, Option<i64>>(5)?.map(number),
            body,
            room: ROOM,
        });
        if bytes >= STEP_BYTES {
            break;
        }
    }
    Ok((writes, newest))
}

async fn bring_deliveries(connection: &Connection, store: &Store) -> Result<u64, MigrateError> {
    for pause in Sqlite::new(connection, &mut Recent::default()).pauses()? {
        store.pause(pause, now_ms()).await?;
    }
    let (mut before, mut count) = (Seq(i64::MAX as u64), 0);
    loop {
        let step = step_of(connection, before)?;
        let Some(last) = step.last() else { break };
        (before, count) = (last.seq(), count + step.len() as u64);
        let work = move |ledger: &mut Ledger<'_>| moving::put(ledger, &step).map(Ok);
        store.plain(Needs::writes_everywhere(), work).await?;
    }
    let given = Sqlite::new(connection, &mut Recent::default())
        .shard(0, false)?
        .map(|shard| shard.seq.number())
        .unwrap_or_default();
    let shards = store.shards();
    let work = move |ledger: &mut Ledger<'_>| moving::give_away_from(ledger, shards, given).map(Ok);
    store.plain(Needs::writes_everywhere(), work).await?;
    Ok(count)
}

/// The deliveries of the next step.
fn step_of(connection: &Connection, before: Seq) -> Result<Vec<Moving>, MigrateError> {
    let (mut book, mut recent) = (Book::default(), Recent::default());
    let mut tables = Sqlite::new(connection, &mut recent);
    let mut ledger = Ledger::new(&mut tables, &mut book);
    Ok(moving::take(&mut ledger, before, STEP, STEP_BYTES)?)
}

/// Looks whether each delivery is there as it was, and no other.
async fn compare(connection: &Connection, store: &Store, count: u64) -> Result<(), MigrateError> {
    let mut before = Seq(i64::MAX as u64);
    loop {
        let step = step_of(connection, before)?;
        let Some(last) = step.last() else { break };
        before = last.seq();
        let work = move |ledger: &mut Ledger<'_>| moving::differs(ledger, &step).map(Ok);
        if let Some(id) = store.plain(Needs::looks(), work).await? {
            return Err(MigrateError::Differs(format!("the delivery {id}")));
        }
    }
    let totals = store.totals().await?;
    let there: u64 = totals.iter().flat_map(|total| total.counts).sum();
    if there != count {
        return Err(MigrateError::Differs(format!("a delivery of {there} instead of {count}")));
    }
    Ok(())
}

fn now_ms() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
