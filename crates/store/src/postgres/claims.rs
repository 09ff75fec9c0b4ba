//! Claims in PostgreSQL: what waits is one reading and, where something changes, one transaction.
//!
//! ```text
//! read all, locking nothing -- tidegate_model decides each -- nothing changes: told
//!        ^                                |
//!        |                   fence, insert, update, remove: only what is still as it was read
//!        '---- it is not: asked again ----'---- it was: count what it takes, commit, told
//! ```
//!
//! Who is only told something writes nothing and waits for no disk. Two nodes that claim one key both read none; the
//! second one's insertion waits for the first one's commit, finds the key taken, and is asked again.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::try_join;
use tidegate_model::idempotency::{
    Answer, Change, Command, Fingerprint, Holder, Kept, Record, State, Told, already, step_among,
};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::away::Failed;
use super::keeper::Waiting;
use super::link::Link;
use crate::claims::{Delta, record_bytes, whole};
use crate::store::Unavailable;

/// Rows of an account's counts: so many nodes count beside each other.
const STRIPES: i64 = 8;
/// The largest record that is read with its answer at once. Those of others are fetched a few at a time.
const SMALL: i64 = 16 << 10;
/// Bytes of the answers that are fetched together, but for a single one that has more.
const FETCH_MAX: i64 = 8 << 20;

/// A row for each that is asked for, whether there is a record or not; and the second it is.
pub(super) const READ: &str = "
    SELECT asked.place, floor(extract(epoch FROM clock_timestamp()))::bigint,
           c.account, c.stripe, c.bytes, c.fingerprint, c.epoch, c.claim, c.until, c.status, c.told_to,
           CASE WHEN c.bytes <= 16384 THEN c.fields END, CASE WHEN c.bytes <= 16384 THEN c.body END,
           n.epoch IS NOT NULL AND n.ended IS NULL,
           coalesce(n.until BETWEEN clock_timestamp() AND clock_timestamp() + 2 * n.lease, false)
    FROM unnest($1::bytea[]) WITH ORDINALITY AS asked (id, place)
    LEFT JOIN claims c ON c.id = asked.id
    LEFT JOIN nodes n ON n.epoch = c.epoch AND c.status IS NULL";
pub(super) const TAKEN: &str = "
    SELECT account, sum(records)::bigint, sum(bytes)::bigint FROM accounts WHERE account = ANY ($1) GROUP BY account";
pub(super) const WHOLE: &str =
    "SELECT told_to, fields, body FROM claims WHERE id = $1 AND status IS NOT NULL";
pub(super) const INSERT: &str = "
    INSERT INTO claims (id, tenant, scope, key, account, stripe, fingerprint, epoch, claim, until, status, told_to,
                        fields, body, bytes)
    SELECT id, tenant, scope, key, account, $15::smallint, fingerprint, epoch, claim, until, status, told_to, fields, body, bytes
    FROM unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bigint[], $8::bigint[],
                $9::bigint[], $10::integer[], $11::bytea[], $12::bytea[], $13::bytea[], $14::bigint[])
        AS t (id, tenant, scope, key, account, fingerprint, epoch, claim, until, status, told_to, fields, body, bytes)
    ORDER BY id
    ON CONFLICT (id) DO NOTHING RETURNING id";
pub(super) const UPDATE: &str = "
    UPDATE claims c
    SET account = t.account, fingerprint = t.fingerprint, epoch = t.epoch, claim = t.claim, until = t.until,
        status = t.status, told_to = t.told_to, fields = t.fields, body = t.body, bytes = t.bytes
    FROM unnest($1::bytea[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[],
                $8::bytea[], $9::bytea[], $10::bytea[], $11::bigint[], $12::bigint[], $13::bigint[], $14::boolean[])
        AS t (id, account, fingerprint, epoch, claim, until, status, told_to, fields, body, bytes,
              was_epoch, was_claim, was_held)
    WHERE c.id = t.id AND c.epoch = t.was_epoch AND c.claim = t.was_claim AND (c.status IS NULL) = t.was_held
    RETURNING c.id";
pub(super) const REMOVE: &str = "
    DELETE FROM claims c USING unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS t (id, epoch, claim)
    WHERE c.id = t.id AND c.epoch = t.epoch AND c.claim = t.claim AND c.status IS NULL
    RETURNING c.id";
pub(super) const COUNT: &str = "
    INSERT INTO accounts AS a (account, stripe, records, bytes)
    SELECT account, stripe, records, bytes
    FROM unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[]) AS t (account, stripe, records, bytes)
    ORDER BY account, stripe
    ON CONFLICT (account, stripe) DO UPDATE SET records = a.records + excluded.records, bytes = a.bytes + excluded.bytes";
/// Removes some that have come to their end from then on, passing over those that another removes. How many, and up to when.
pub(super) const SWEEP: &str = "
    WITH ended AS (
        SELECT id FROM claims
        WHERE until >= $2 AND until <= floor(extract(epoch FROM statement_timestamp()))::bigint
        ORDER BY until LIMIT $1 FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM claims c USING ended WHERE c.id = ended.id RETURNING c.account, c.stripe, c.bytes, c.until
    ), counted AS (
        INSERT INTO accounts AS a (account, stripe, records, bytes)
        SELECT account, stripe, -count(*), -sum(bytes) FROM gone GROUP BY account, stripe ORDER BY account, stripe
        ON CONFLICT (account, stripe) DO UPDATE
            SET records = a.records + excluded.records, bytes = a.bytes + excluded.bytes
    )
    SELECT count(*), coalesce(sum(bytes), 0)::bigint, coalesce(max(until), 0) FROM gone";

/// What the store may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of one account.
    pub(super) account_bytes: u64,
    /// Bytes that there is room for.
    pub(super) room: u64,
}

/// What a command comes to.
pub(super) enum Came {
    /// To this.
    To(Result<Told, Unavailable>),
    /// Nothing yet: what it was decided on has changed meanwhile.
    Again,
}

/// A record as it lies there.
struct Lying {
    account: String,
    stripe: i16,
    bytes: i64,
    epoch: i64,
    /// Whether the epoch is one that has not ended, and whether it is believed to be at work.
    live: bool,
    leased: bool,
    record: Record,
    /// Its answer was left where it is.
    large: bool,
}

/// What is to be written of one command.
struct Write<'a> {
    place: usize,
    waiting: &'a Waiting,
    /// Whose it is from then on; 0: nobody's.
    epoch: i64,
    bytes: i64,
    /// `None`: it is removed.
    record: Option<Record>,
    before: Option<Lying>,
}

/// Carries out commands to different records. What each came to, and what that has changed; `None`: nothing was written.
pub(super) async fn round(
    link: &Link,
    group: &[Waiting],
    bounds: Bounds,
) -> Result<(Vec<Came>, Option<Delta>), Failed> {
    let (found, mut taken) = read(link, group).await?;
    let mut came: Vec<Came> = Vec::with_capacity(group.len());
    let (mut writes, mut lapsed, mut large) = (Vec::new(), Vec::new(), Vec::new());
    for (place, (waiting, (now, lying))) in group.iter().zip(found).enumerate() {
        if let Some(epoch) = lying.as_ref().and_then(|lying| lapsed_epoch(lying, link.epoch, now)) {
            lapsed.push(epoch);
            came.push(Came::Again);
            continue;
        }
        let account = taken.entry(&waiting.account).or_default();
        let decided = decide(link.epoch, waiting, lying.as_ref(), *account, bounds, now);
        let (change, told) = match decided {
            Ok(decided) => decided,
            Err(refused) => {
                came.push(Came::To(Err(refused)));
                continue;
            }
        };
        if matches!(told, Told::Answered(_)) && lying.as_ref().is_some_and(|lying| lying.large) {
            large.push((place, lying.as_ref().map_or(0, |lying| lying.bytes)));
        }
        came.push(Came::To(Ok(told)));
        if let Some(write) = write_of(link.epoch, place, waiting, change, lying) {
            account.add(write.delta());
            writes.push(write);
        }
    }
    if !lapsed.is_empty() {
        link.end(&lapsed).await?;
    }
    fetch(link, group, &large, &mut came).await?;
    // Last: once it is committed nothing may fail.
    let delta = write(link, &writes, &mut came).await?;
    Ok((came, delta))
}

/// The epoch of a record that nobody is believed to work on any more, though nobody has ended it.
fn lapsed_epoch(lying: &Lying, own: i64, now: u64) -> Option<i64> {
    let held = lying.record.state == State::Held && lying.record.until > now;
    (held && lying.live && !lying.leased && lying.epoch != own).then_some(lying.epoch)
}

/// What becomes of a record, and what whoever asked is told.
fn decide(
    own: i64,
    waiting: &Waiting,
    lying: Option<&Lying>,
    taken: Delta,
    bounds: Bounds,
    now: u64,
) -> Result<(Change, Told), Unavailable> {
    let holder = match lying {
        Some(lying) if !lying.live => Holder::Nobody,
        Some(lying) if lying.epoch == own => Holder::Asking,
        Some(_) => Holder::Another,
        None => Holder::Nobody,
    };
    let is_own = |lying: &&Lying| lying.epoch == own && (lying.live || lying.record.state != State::Held);
    if waiting.tried
        && let Some(lying) = lying.filter(is_own)
        && let Some(told) = already(&lying.record, &waiting.command)
    {
        return Ok((Change::None, told));
    }
    let records = u64::try_from(taken.records).unwrap_or_default();
    let room = bounds.account_bytes.saturating_sub(u64::try_from(taken.bytes).unwrap_or_default());
    let room = room.min(bounds.room);
    let until = now.saturating_add(waiting.lifetime);
    let command = match waiting.command.clone() {
        Command::Claim { fingerprint, claim, again, records_max, .. } => {
            Command::Claim { fingerprint, claim, again, records_max, until }
        }
        Command::Finish { fingerprint, claim, kept, .. } => {
            Command::Finish { fingerprint, claim, kept: kept.within(room), until }
        }
        other => other,
    };
    let is_claim = matches!(command, Command::Claim { .. });
    let record = lying.map(|lying| lying.record.clone());
    let (change, told) = step_among(record, holder, command, records, now);
    if bounds.room == 0 && is_claim && lying.is_none() && told == Told::Claimed {
        return Err(Unavailable::Full);
    }
    Ok((change, told))
}

fn write_of(
    own: i64,
    place: usize,
    waiting: &Waiting,
    change: Change,
    before: Option<Lying>,
) -> Option<Write<'_>> {
    let (epoch, record) = match change {
        Change::None => return None,
        Change::Put(record) => (own, Some(record)),
        Change::Remove => (0, None),
        Change::Leave => (0, before.as_ref().map(|lying| lying.record.clone())),
    };
    if record.is_none() && before.is_none() {
        return None;
    }
    let bytes = record.as_ref().map_or(0, |record| record_bytes(&waiting.named, &waiting.account, record));
    Some(Write { place, waiting, epoch, bytes, record, before })
}

impl Write<'_> {
    /// What it adds to the account of whoever asked.
    fn delta(&self) -> Delta {
        let mut delta = Delta { records: i64::from(self.record.is_some()), bytes: self.bytes };
        if let Some(before) = self.before.as_ref().filter(|before| before.account == *self.waiting.account) {
            delta.add(Delta { records: -1, bytes: -before.bytes });
        }
        delta
    }
}

async fn read<'a>(
    link: &Link,
    group: &'a [Waiting],
) -> Result<(Vec<(u64, Option<Lying>)>, HashMap<&'a str, Delta>), Failed> {
    let ids: Vec<&[u8]> = group.iter().map(|waiting| &waiting.id[..]).collect();
    let mut accounts: Vec<&str> = group.iter().map(|waiting| &*waiting.account).collect();
    accounts.sort_unstable();
    accounts.dedup();
    let (read, taken): ([&(dyn ToSql + Sync); 1], [&(dyn ToSql + Sync); 1]) = ([&ids], [&accounts]);
    let (rows, counts) =
        try_join!(link.client.query(&link.says.read, &read), link.client.query(&link.says.taken, &taken))?;
    let mut found: Vec<(u64, Option<Lying>)> = group.iter().map(|_| (0, None)).collect();
    for row in &rows {
        let place = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default();
        // Places are counted from 1.
        if let Some(found) = place.checked_sub(1).and_then(|place| found.get_mut(place)) {
            *found = (number(row, 1)?, lying(row)?);
        }
    }
    let mut taken = HashMap::with_capacity(accounts.len());
    for row in &counts {
        let account: &str = row.try_get(0)?;
        if let Ok(place) = accounts.binary_search(&account) {
            taken.insert(accounts[place], Delta { records: row.try_get(1)?, bytes: row.try_get(2)? });
        }
    }
    Ok((found, taken))
}

fn number(row: &Row, place: usize) -> Result<u64, tokio_postgres::Error> {
    row.try_get::<_, i64>(place).map(|number| u64::try_from(number).unwrap_or_default())
}

fn lying(row: &Row) -> Result<Option<Lying>, tokio_postgres::Error> {
    let Some(account) = row.try_get::<_, Option<String>>(2)? else { return Ok(None) };
    let print = |place| row.try_get::<_, Option<&[u8]>>(place).map(fingerprint_of);
    let bytes: i64 = row.try_get(4)?;
    let told_to = print(10)?;
    let large = bytes > SMALL && told_to.is_some();
    let status = row.try_get::<_, Option<i32>>(9)?.map(|status| u16::try_from(status).unwrap_or_default());
    let state = match (status, told_to) {
        (None, _) => State::Held,
        (Some(status), Some(told_to)) if !large => {
            let content = |place| {
                row.try_get::<_, Option<&[u8]>>(place)
                    .map(|bytes| Bytes::copy_from_slice(bytes.unwrap_or_default()))
            };
            State::Answered(Kept::Whole(Answer { status, fields: content(11)?, body: content(12)?, told_to }))
        }
        (Some(status), _) => State::Answered(Kept::Status(status)),
    };
    let record = Record {
        fingerprint: print(5)?.unwrap_or_default(),
        claim: number(row, 7)?,
        until: number(row, 8)?,
        state,
    };
    Ok(Some(Lying {
        account,
        stripe: row.try_get(3)?,
        bytes,
        epoch: row.try_get(6)?,
        live: row.try_get(13)?,
        leased: row.try_get(14)?,
        record,
        large,
    }))
}

fn fingerprint_of(bytes: Option<&[u8]>) -> Option<Fingerprint> {
    bytes.and_then(|bytes| bytes.try_into().ok())
}

/// Writes what has changed, if all of that is still as it was read; what is not is to be asked again.
async fn write(link: &Link, writes: &[Write<'_>], came: &mut [Came]) -> Result<Option<Delta>, Failed> {
    if writes.is_empty() {
        return Ok(None);
    }
    match transaction(link, writes, came).await {
        Ok(delta) => Ok(Some(delta)),
        Err(failed) => {
            // Where the connection is lost, so is the transaction, and this fails, too.
            let _ = link.client.batch_execute("ROLLBACK").await;
            Err(failed)
        }
    }
}

async fn transaction(link: &Link, writes: &[Write<'_>], came: &mut [Came]) -> Result<Delta, Failed> {
    let (client, says) = (&link.client, &link.says);
    let sides =
        |has: fn(&Write<'_>) -> bool| writes.iter().filter(move |write| has(write)).collect::<Vec<_>>();
    let new = sides(|write| write.before.is_none());
    let changed = sides(|write| write.before.is_some() && write.record.is_some());
    let removed = sides(|write| write.record.is_none());
    let stripe = i16::try_from(link.epoch % STRIPES).unwrap_or_default();
    let fence: [&(dyn ToSql + Sync); 1] = [&link.epoch];
    // All of it is on its way before the first answer.
    let (_, held, inserted, updated, gone) = try_join!(
        client.batch_execute("BEGIN"),
        client.query_opt(&says.fence, &fence),
        insert(link, &new, stripe),
        update(link, &changed),
        remove(link, &removed),
    )?;
    if held.is_none() {
        return Err(Failed::Fenced);
    }
    let done: std::collections::HashSet<Fingerprint> = [inserted, updated, gone]
        .iter()
        .flatten()
        .filter_map(|row| fingerprint_of(row.try_get(0).ok()))
        .collect();
    let mut counts: HashMap<(&str, i16), Delta> = HashMap::new();
    let mut all = Delta::default();
    for write in writes {
        if !done.contains(&write.waiting.id) {
            came[write.place] = Came::Again;
            continue;
        }
        let stripe = write.before.as_ref().map_or(stripe, |before| before.stripe);
        if write.record.is_some() {
            let more = Delta { records: 1, bytes: write.bytes };
            counts.entry((&write.waiting.account, stripe)).or_default().add(more);
            all.add(more);
        }
        if let Some(before) = &write.before {
            let less = Delta { records: -1, bytes: -before.bytes };
            counts.entry((&before.account, stripe)).or_default().add(less);
            all.add(less);
        }
    }
    let counts: Vec<_> = counts.into_iter().filter(|(_, delta)| *delta != Delta::default()).collect();
    let accounts: Vec<&str> = counts.iter().map(|((account, _), _)| *account).collect();
    let stripes: Vec<i16> = counts.iter().map(|((_, stripe), _)| *stripe).collect();
    let records: Vec<i64> = counts.iter().map(|(_, delta)| delta.records).collect();
    let bytes: Vec<i64> = counts.iter().map(|(_, delta)| delta.bytes).collect();
    let values: [&(dyn ToSql + Sync); 4] = [&accounts, &stripes, &records, &bytes];
    try_join!(
        client.execute(&says.count, &values),
        // If what is before it has failed, this takes it back, and the first of both says so.
        client.batch_execute("COMMIT"),
    )?;
    Ok(all)
}

type Rows = Result<Vec<Row>, tokio_postgres::Error>;

/// What a record is made of, a list for each column.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<&'a [u8]>,
    accounts: Vec<&'a str>,
    fingerprints: Vec<&'a [u8]>,
    epochs: Vec<i64>,
    claims: Vec<i64>,
    untils: Vec<i64>,
    statuses: Vec<Option<i32>>,
    told_to: Vec<Option<&'a [u8]>>,
    fields: Vec<Option<&'a [u8]>>,
    bodies: Vec<Option<&'a [u8]>>,
    bytes: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(writes: &[&'a Write<'a>]) -> Columns<'a> {
        let mut columns = Columns::default();
        for write in writes {
            let Some(record) = &write.record else { continue };
            let kept = match &record.state {
                State::Held => None,
                State::Answered(kept) => Some(kept),
            };
            let answer = match kept {
                Some(Kept::Whole(answer)) => Some(answer),
                _ => None,
            };
            columns.ids.push(&write.waiting.id);
            columns.accounts.push(&write.waiting.account);
            columns.fingerprints.push(&record.fingerprint);
            columns.epochs.push(write.epoch);
            columns.claims.push(whole(record.claim));
            columns.untils.push(whole(record.until));
            columns.statuses.push(kept.map(|kept| i32::from(kept.status())));
            columns.told_to.push(answer.map(|answer| &answer.told_to[..]));
            columns.fields.push(answer.map(|answer| &answer.fields[..]));
            columns.bodies.push(answer.map(|answer| &answer.body[..]));
            columns.bytes.push(write.bytes);
        }
        columns
    }
}

async fn insert(link: &Link, writes: &[&Write<'_>], stripe: i16) -> Rows {
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let all = Columns::of(writes);
    let tenants: Vec<&str> = writes.iter().map(|write| &*write.waiting.named.tenant).collect();
    let scopes: Vec<&str> = writes.iter().map(|write| &*write.waiting.named.scope).collect();
    let keys: Vec<&str> = writes.iter().map(|write| write.waiting.named.key.as_str()).collect();
    let values: [&(dyn ToSql + Sync); 15] = [
        &all.ids,
        &tenants,
        &scopes,
        &keys,
        &all.accounts,
        &all.fingerprints,
        &all.epochs,
        &all.claims,
        &all.untils,
        &all.statuses,
        &all.told_to,
        &all.fields,
        &all.bodies,
        &all.bytes,
        &stripe,
    ];
    link.client.query(&link.says.insert, &values).await
}

async fn update(link: &Link, writes: &[&Write<'_>]) -> Rows {
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let all = Columns::of(writes);
    let before = || writes.iter().filter_map(|write| write.before.as_ref());
    let epochs: Vec<i64> = before().map(|before| before.epoch).collect();
    let claims: Vec<i64> = before().map(|before| whole(before.record.claim)).collect();
    let held: Vec<bool> = before().map(|before| before.record.state == State::Held).collect();
    let values: [&(dyn ToSql + Sync); 14] = [
        &all.ids,
        &all.accounts,
        &all.fingerprints,
        &all.epochs,
        &all.claims,
        &all.untils,
        &all.statuses,
        &all.told_to,
        &all.fields,
        &all.bodies,
        &all.bytes,
        &epochs,
        &claims,
        &held,
    ];
    link.client.query(&link.says.update, &values).await
}

async fn remove(link: &Link, writes: &[&Write<'_>]) -> Rows {
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&[u8]> = writes.iter().map(|write| &write.waiting.id[..]).collect();
    let before = || writes.iter().filter_map(|write| write.before.as_ref());
    let epochs: Vec<i64> = before().map(|before| before.epoch).collect();
    let claims: Vec<i64> = before().map(|before| whole(before.record.claim)).collect();
    link.client.query(&link.says.remove, &[&ids, &epochs, &claims]).await
}

/// Fetches the answers that were left where they are: as many as take no more room than one batch. The others are asked
/// for again.
async fn fetch(
    link: &Link,
    group: &[Waiting],
    large: &[(usize, i64)],
    came: &mut [Came],
) -> Result<(), Failed> {
    let mut bytes = 0;
    for (place, size) in large {
        bytes += size;
        let Came::To(Ok(Told::Answered(kept))) = &mut came[*place] else { continue };
        if bytes > FETCH_MAX && bytes > *size {
            came[*place] = Came::Again;
            continue;
        }
        let row = link.client.query_opt(&link.says.whole, &[&&group[*place].id[..]]).await?;
        let content = |row: &Row, place| {
            row.try_get::<_, Option<&[u8]>>(place)
                .map(|bytes| Bytes::copy_from_slice(bytes.unwrap_or_default()))
        };
        match row {
            Some(row) => {
                let told_to = fingerprint_of(row.try_get(0)?);
                let (fields, body) = (content(&row, 1)?, content(&row, 2)?);
                let status = kept.status();
                if let Some(told_to) = told_to {
                    *kept = Kept::Whole(Answer { status, fields, body, told_to });
                }
            }
            // It has come to its end just now.
            None => came[*place] = Came::Again,
        }
    }
    Ok(())
}
