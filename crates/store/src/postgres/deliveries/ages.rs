//! Ages: the parts of the large tables, each written to for a while and dropped whole once nothing of it is left.
//!
//! ```text
//! past, past, past, now, runway, runway       a part of `requests`, `results` and `attempts` each
//!   |          '- few are left: moved to now
//!   '- none is left: dropped
//! ```
//!
//! What is forgotten leaves its request where it is: nothing is removed row by row, so there is nothing to vacuum, and a reader
//! that holds PostgreSQL's past open for hours leaves nothing behind that others have to step over. The parts that come next are
//! there before they are needed; nobody has to make one to write. Which age is now each node looks up once a second: two that
//! differ for a moment write to two that are there.
//!
//! What it does not do: a request that is forgotten is on disk until its part is dropped. That is once it has some GiB or a day,
//! and most of what was in it is forgotten.

use futures_util::TryFutureExt as _;
use tidegate_model::delivery::Seq;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::super::away::Away;
use super::desk::Desk;
use super::rows::{get, number};
use super::session::{Says, Session};
use crate::deliveries::rows::whole;
use crate::deliveries::tables::Fault;

/// Within PostgreSQL's space of advisory locks: whoever makes or drops parts has it, for the length of the transaction.
pub(super) const LOCK: i64 = 0x5469_6465_0000_0002;
/// Parts that are there before they are needed.
const RUNWAY: i64 = 2;
/// Deliveries of an age, and bytes, from which on the next one begins.
const COUNT_MAX: i64 = 2_000_000;
const BYTES_MAX: i64 = 2 << 30;
/// Deliveries of a past age that are moved together.
const MOVED_MAX: i64 = 256;
/// What is moved is no more than this part of what was there.
const LEFT_OF: i64 = 16;
const TABLES: [&str; 3] = ["requests", "results", "attempts"];

/// The age that is now.
const NOW: &str = "SELECT max(age) FROM ages WHERE began IS NOT NULL";
/// Whether the one that is now has had its time: a day, or so much. What was forgotten takes its room, too.
const IS_FULL: &str = "
    SELECT coalesce(bool_or(a.began < clock_timestamp() - interval '1 day'), false) AND coalesce(sum(c.made), 0) > 0
        OR coalesce(sum(c.made), 0) >= $2::bigint
        OR coalesce(pg_total_relation_size(to_regclass('tidegate.requests_' || $1::integer)), 0) >= $3::bigint
    FROM ages a LEFT JOIN age_counts c USING (age) WHERE a.age = $1::integer";
/// Past ages, the oldest first, with what is left of them and what there was.
const PAST: &str = "
    SELECT a.age, coalesce(sum(c.count), 0)::bigint, coalesce(sum(c.made), 0)::bigint
    FROM ages a LEFT JOIN age_counts c USING (age) WHERE a.age < $1 GROUP BY a.age ORDER BY a.age";
const MOVABLE: &str = "
    SELECT d.seq, d.bytes + d.kept FROM age_counts c JOIN deliveries d ON d.seq BETWEEN c.low AND c.high AND d.age = c.age
    WHERE c.age = $1 AND c.shard = $2 AND c.count > 0 ORDER BY d.seq LIMIT $3";
const MOVE: [&str; 4] = [
    "INSERT INTO requests (age, seq, edits, method, target, fields, body)
     SELECT $2::integer, r.seq, edits, method, target, fields, body
     FROM unnest($3::bigint[]) AS t (seq) JOIN requests r ON r.age = $1::integer AND r.seq = t.seq",
    "INSERT INTO results (age, seq, status, whole, fields, body)
     SELECT $2::integer, r.seq, status, whole, fields, body
     FROM unnest($3::bigint[]) AS t (seq) JOIN results r ON r.age = $1::integer AND r.seq = t.seq",
    "INSERT INTO attempts (age, seq, token, number, began, took, status, why, answer)
     SELECT $2::integer, a.seq, token, number, began, took, status, why, answer
     FROM unnest($3::bigint[]) AS t (seq) JOIN attempts a ON a.age = $1::integer AND a.seq = t.seq",
    "UPDATE deliveries d SET age = $2::integer FROM unnest($3::bigint[]) AS t (seq) WHERE d.seq = t.seq AND d.age = $1::integer",
];

/// Makes the parts that are to be there, where they are not: when the first node comes.
pub(super) async fn make_first(client: &Client) -> Result<(), Away> {
    client.batch_execute("BEGIN").await?;
    client.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let there: Option<i32> = client.query_one("SELECT max(age) FROM ages", &[]).await?.get(0);
    if there.is_none() {
        for age in 1..=1 + RUNWAY as i32 {
            client.batch_execute(&make(age)).await?;
        }
        client.batch_execute("UPDATE ages SET began = clock_timestamp() WHERE age = 1").await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(())
}

/// A part of each table is made beside it and put in then: nobody who writes waits for it.
fn make(age: i32) -> String {
    let part = |table: &&str| {
        format!(
            "CREATE TABLE {table}_{age} (LIKE {table} INCLUDING ALL);
             ALTER TABLE {table} ATTACH PARTITION {table}_{age} FOR VALUES IN ({age});"
        )
    };
    let parts: String = TABLES.iter().map(part).collect();
    format!("{parts} INSERT INTO ages (age) VALUES ({age});")
}

/// Looks up which age is now.
pub(super) fn look(desk: &mut Desk) -> Result<(), Fault> {
    let found = desk.session.ask(Says::plain(NOW))?;
    desk.age = found.first().map(|row| get::<Option<i32>>(row, 0)).transpose()?.flatten().unwrap_or(1);
    Ok(())
}

/// Begins the next age where it is time, and drops what is of no use. Whoever does it does it alone.
pub(super) fn turn(session: &mut Session, now: i32) -> Result<(), Fault> {
    let full =
        session.ask(Says::new(IS_FULL, vec![Box::new(now), Box::new(COUNT_MAX), Box::new(BYTES_MAX)]))?;
    if full.first().map(|row| get::<bool>(row, 0)).transpose()?.unwrap_or_default() {
        next(session, now)?;
    }
    let past = session.ask(Says::new(PAST, vec![Box::new(now)]))?;
    for row in &past {
        // Whoever has slept since may write to the one before; it learns of it by an error, and does it again.
        if get::<i64>(row, 1)? == 0 && get::<i32>(row, 0)? < now - 1 {
            return drop_part(session, get(row, 0)?);
        }
    }
    Ok(())
}

/// The next age begins, and there is a further one behind it.
fn next(session: &mut Session, now: i32) -> Result<(), Fault> {
    let last = now + 1 + RUNWAY as i32;
    let sql = format!(
        "BEGIN; SELECT pg_advisory_xact_lock({LOCK});
         UPDATE ages SET began = clock_timestamp() WHERE age = {} AND began IS NULL;
         {} COMMIT",
        now + 1,
        make(last)
    );
    // Another node may have been first: then there is such a part already.
    in_one_piece(session, sql)
}

fn drop_part(session: &mut Session, age: i32) -> Result<(), Fault> {
    let tables: String = TABLES.iter().map(|table| format!("DROP TABLE IF EXISTS {table}_{age};")).collect();
    // Whoever writes waits for no longer than that. One that has slept for so long that it takes this age for the present one
    // may have written to it since it was looked at.
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = '100ms'; SELECT pg_advisory_xact_lock({LOCK});
         LOCK TABLE requests_{age} IN ACCESS EXCLUSIVE MODE;
         DO $$ BEGIN
             IF EXISTS (SELECT FROM age_counts WHERE age = {age} AND count > 0) THEN
                 RAISE EXCEPTION 'something is left of it';
             END IF;
         END $$;
         {tables} DELETE FROM age_counts WHERE age = {age}; DELETE FROM ages WHERE age = {age}; COMMIT"
    );
    in_one_piece(session, sql)
}

/// What fails is tried again later.
fn in_one_piece(session: &mut Session, sql: String) -> Result<(), Fault> {
    let client = &session.link.client;
    let done = session.wait(async {
        match client.batch_execute(&sql).await {
            Err(error) if error.code().is_some() => {
                client.batch_execute("ROLLBACK").and_then(async |()| Ok(Some(error.to_string()))).await
            }
            Err(error) => Err(error),
            Ok(()) => Ok(None),
        }
    })?;
    if let Some(why) = done {
        tracing::debug!(why, "the parts of the tables of deliveries are left as they are for now");
    }
    Ok(())
}

/// Whether there is a past age of which little is left.
pub(super) fn movable(desk: &mut Desk) -> Result<bool, Fault> {
    let past = desk.session.ask(Says::new(PAST, vec![Box::new(desk.age)]))?;
    for row in &past {
        if is_nearly_over(row)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_nearly_over(row: &Row) -> Result<bool, Fault> {
    let (left, made) = (get::<i64>(row, 1)?, get::<i64>(row, 2)?);
    Ok(left > 0 && left <= made / LEFT_OF)
}

/// A past age of which little is left, in a shard that this transaction holds: some of it is of the present one from now on.
pub(super) fn move_on(desk: &mut Desk, shard: u16) -> Result<usize, Fault> {
    let now = desk.age;
    let past = desk.session.ask(Says::new(PAST, vec![Box::new(now)]))?;
    for row in &past {
        if !is_nearly_over(row)? {
            continue;
        }
        let age = get::<i32>(row, 0)?;
        let of: Vec<Box<dyn ToSql + Sync>> = vec![Box::new(age), Box::new(shard as i16), Box::new(MOVED_MAX)];
        let found = desk.session.ask(Says::new(MOVABLE, of))?;
        let moved = found
            .iter()
            .map(|row| Ok((Seq(number(row, 0)?), get(row, 1)?)))
            .collect::<Result<Vec<(Seq, i64)>, Fault>>()?;
        if moved.is_empty() {
            continue;
        }
        desk.write_in(shard)?;
        let seqs: Vec<i64> = moved.iter().map(|(seq, _)| whole(seq.0)).collect();
        let says: Vec<Says<'_>> = MOVE
            .iter()
            .map(|sql| Says::new(sql, vec![Box::new(age), Box::new(now), Box::new(seqs.clone())]))
            .collect();
        desk.session.ask_all(&says)?;
        for (seq, bytes) in &moved {
            desk.pending.count(age, *seq, -1, -bytes);
            desk.pending.count(now, *seq, 1, *bytes);
            if let Some(Some(entry)) = desk.known.rows.get_mut(seq) {
                entry.age = now;
            }
        }
        return Ok(moved.len());
    }
    Ok(0)
}
