//! Claims in the database: a record is read, `tidegate_model::idempotency` decides, and what it says is written.
//!
//! Beside the records stands what each tenant's take together ([`bump`]), changed with them: so it is bounded without
//! counting them.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tidegate_model::idempotency::{Answer, Change, Command, Fingerprint, Kept, Record, State, Told, step};

use crate::store::Named;

/// What a record takes beside its own bytes: row, index and account, about.
const RECORD_BYTES: usize = 256;

/// What a transaction has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) records: i64,
    pub(crate) bytes: i64,
}

impl Delta {
    pub(crate) fn add(&mut self, other: Delta) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// A record as it lies there.
struct Lying {
    id: i64,
    account: String,
    bytes: i64,
    record: Record,
}

/// Whose record it is, and when it is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) named: &'a Named,
    pub(crate) account: &'a str,
    /// The most bytes that the account's records may take.
    pub(crate) bytes_max: u64,
    /// In seconds since the Unix epoch.
    pub(crate) now: u64,
}

/// Carries out a command. What it has changed; `None`: nothing was written.
pub(crate) fn apply(
    connection: &Connection,
    asked: Asked<'_>,
    command: Command,
) -> rusqlite::Result<(Told, Option<Delta>)> {
    let found = load(connection, asked.named)?;
    let (records, bytes) = match &command {
        Command::Release { .. } | Command::Leave { .. } => (0, 0),
        Command::Claim { .. } | Command::Finish { .. } => taken(connection, asked.account)?,
    };
    let command = match command {
        Command::Finish { fingerprint, claim, kept, until } => {
            let kept = kept.within(asked.bytes_max.saturating_sub(bytes));
            Command::Finish { fingerprint, claim, kept, until }
        }
        other => other,
    };
    let (change, told) = step(found.as_ref().map(|lying| lying.record.clone()), command, records, asked.now);
    let delta = match (change, found) {
        // Whose a record is, this store has no need to know: it has one process.
        (Change::None | Change::Leave, _) | (Change::Remove, None) => None,
        (Change::Remove, Some(lying)) => Some(remove(connection, lying.id, &lying.account, lying.bytes)?),
        (Change::Put(record), found) => Some(put(connection, asked, &record, found.as_ref())?),
    };
    Ok((told, delta))
}

/// Removes records that have come to their end, the oldest first: so many at most, and none more once these had so many
/// bytes. How many, and whether there are more.
pub(crate) fn sweep(
    connection: &Connection,
    now: u64,
    most: usize,
    bytes_max: u64,
) -> rusqlite::Result<(usize, Delta, bool)> {
    let mut select = connection
        .prepare_cached("SELECT id, account, bytes FROM claims WHERE until <= ?1 ORDER BY until LIMIT ?2")?;
    let ended = select.query_map(params![whole(now), whole(most as u64)], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
    })?;
    let ended = ended.collect::<rusqlite::Result<Vec<_>>>()?;
    let (mut removed, mut delta) = (0, Delta::default());
    for (id, account, bytes) in &ended {
        if -delta.bytes >= whole(bytes_max) {
            break;
        }
        delta.add(remove(connection, *id, account, *bytes)?);
        removed += 1;
    }
    Ok((removed, delta, removed == most || removed < ended.len()))
}

/// What is wrong with what accounts say.
pub(crate) fn audit(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut select = connection.prepare(
        "SELECT account FROM accounts LEFT JOIN (
             SELECT account, count(*) AS count, sum(bytes) AS all_bytes FROM claims GROUP BY account
         ) USING (account) WHERE (records, accounts.bytes) IS NOT (count, all_bytes)
         UNION SELECT account FROM claims WHERE account NOT IN (SELECT account FROM accounts) LIMIT 20",
    )?;
    let wrong = select.query_map((), |row| row.get::<_, String>(0))?;
    wrong
        .map(|account| Ok(format!("the records of an account are not those that are counted: {}", account?)))
        .collect()
}

/// All records, and their bytes.
pub(crate) fn all(connection: &Connection) -> rusqlite::Result<Delta> {
    connection.query_row(
        "SELECT coalesce(sum(records), 0), coalesce(sum(bytes), 0) FROM accounts",
        (),
        |row| Ok(Delta { records: row.get(0)?, bytes: row.get(1)? }),
    )
}

fn load(connection: &Connection, named: &Named) -> rusqlite::Result<Option<Lying>> {
    let mut select = connection.prepare_cached(
        "SELECT id, account, bytes, fingerprint, claim, until, status, told_to, fields, body
         FROM claims WHERE tenant = ?1 AND scope = ?2 AND key = ?3",
    )?;
    select.query_row(params![&*named.tenant, &*named.scope, named.key.as_str()], lying).optional()
}

fn lying(row: &Row<'_>) -> rusqlite::Result<Lying> {
    let number = |place| row.get::<_, i64>(place).map(|number| u64::try_from(number).unwrap_or_default());
    let bytes = |place| row.get::<_, Option<Vec<u8>>>(place).map(|bytes| bytes.map(Bytes::from));
    let state = match (row.get::<_, Option<u16>>(6)?, row.get::<_, Option<Fingerprint>>(7)?) {
        (None, _) => State::Held,
        (Some(status), None) => State::Answered(Kept::Status(status)),
        (Some(status), Some(told_to)) => State::Answered(Kept::Whole(Answer {
            status,
            fields: bytes(8)?.unwrap_or_default(),
            body: bytes(9)?.unwrap_or_default(),
            told_to,
        })),
    };
    let record = Record { fingerprint: row.get(3)?, claim: number(4)?, until: number(5)?, state };
    Ok(Lying { id: row.get(0)?, account: row.get(1)?, bytes: row.get(2)?, record })
}

fn put(
    connection: &Connection,
    asked: Asked<'_>,
    record: &Record,
    before: Option<&Lying>,
) -> rusqlite::Result<Delta> {
    let Named { tenant, scope, key } = asked.named;
    let kept = match &record.state {
        State::Held => None,
        State::Answered(kept) => Some(kept),
    };
    let answer = match kept {
        Some(Kept::Whole(answer)) => Some(answer),
        _ => None,
    };
    let bytes = record_bytes(asked.named, asked.account, record);
    let mut statement = connection.prepare_cached(
        "INSERT INTO claims
             (tenant, scope, key, account, fingerprint, claim, until, status, told_to, fields, body, bytes)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (tenant, scope, key) DO UPDATE SET
             account = ?4, fingerprint = ?5, claim = ?6, until = ?7, status = ?8, told_to = ?9, fields = ?10,
             body = ?11, bytes = ?12",
    )?;
    statement.execute(params![
        &**tenant,
        &**scope,
        key.as_str(),
        asked.account,
        record.fingerprint,
        whole(record.claim),
        whole(record.until),
        kept.map(Kept::status),
        answer.map(|answer| answer.told_to),
        answer.map(|answer| &*answer.fields),
        answer.map(|answer| &*answer.body),
        bytes,
    ])?;
    let mut delta = Delta { records: 1, bytes };
    bump(connection, asked.account, delta)?;
    if let Some(before) = before {
        let gone = Delta { records: -1, bytes: -before.bytes };
        bump(connection, &before.account, gone)?;
        delta.add(gone);
    }
    Ok(delta)
}

fn remove(connection: &Connection, id: i64, account: &str, bytes: i64) -> rusqlite::Result<Delta> {
    connection.prepare_cached("DELETE FROM claims WHERE id = ?1")?.execute([id])?;
    let delta = Delta { records: -1, bytes: -bytes };
    bump(connection, account, delta)?;
    Ok(delta)
}

/// The records of an account, and their bytes.
fn taken(connection: &Connection, account: &str) -> rusqlite::Result<(u64, u64)> {
    let mut select = connection.prepare_cached("SELECT records, bytes FROM accounts WHERE account = ?1")?;
    let found =
        select.query_row([account], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()?;
    let number = |number: i64| u64::try_from(number).unwrap_or_default();
    Ok(found.map_or((0, 0), |(records, bytes)| (number(records), number(bytes))))
}

/// Counts what an account's records take. One without any is forgotten.
fn bump(connection: &Connection, account: &str, delta: Delta) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO accounts (account, records, bytes) VALUES (?1, ?2, ?3)
             ON CONFLICT (account) DO UPDATE SET records = records + ?2, bytes = bytes + ?3",
        )?
        .execute(params![account, delta.records, delta.bytes])?;
    if delta.records < 0 {
        connection
            .prepare_cached("DELETE FROM accounts WHERE account = ?1 AND records <= 0")?
            .execute([account])?;
    }
    Ok(())
}

/// What a record takes of its account.
pub(crate) fn record_bytes(named: &Named, account: &str, record: &Record) -> i64 {
    let names = named.tenant.len() + named.scope.len() + named.key.as_str().len() + account.len();
    let kept = match &record.state {
        State::Held => 0,
        State::Answered(kept) => kept.bytes(),
    };
    (RECORD_BYTES + names) as i64 + whole(kept)
}

/// A number as databases have them.
pub(crate) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
