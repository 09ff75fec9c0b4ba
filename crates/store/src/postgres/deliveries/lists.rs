//! What people and their tools ask PostgreSQL for of deliveries: pages, sums, what is paused.

use tidegate_model::delivery::{Kind, Seq};
use tokio_postgres::Row as Found;
use tokio_postgres::types::ToSql;

use super::desk::Desk;
use super::looks::rows;
use super::rows::{columns, get, number, text};
use super::session::Says;
use crate::deliveries::rows::{Unnamed, whole};
use crate::deliveries::tables::{Among, Fault};
use crate::deliveries::{Depth, Line, Pause, Total};

const OF_OWNER: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries d WHERE d.owner = $3 AND d.seq < $1 ORDER BY d.seq DESC LIMIT $2"
);
/// Of each state a statement of its own, as the index is for three of them alone.
const LEASED: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries d WHERE d.state = 3 AND d.seq < $1 ORDER BY d.seq DESC LIMIT $2"
);
const DEAD: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries d WHERE d.state = 5 AND d.seq < $1 ORDER BY d.seq DESC LIMIT $2"
);
const CANCELLED: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries d WHERE d.state = 6 AND d.seq < $1 ORDER BY d.seq DESC LIMIT $2"
);
const ALL: &str =
    concat!("SELECT ", columns!(), " FROM deliveries d WHERE d.seq < $1 ORDER BY d.seq DESC LIMIT $2");
const LINES_READY: &str = "
    SELECT queue, tenant FROM lines WHERE begins AND shard = $1 AND (queue, tenant) > ($2, $3)
    ORDER BY queue, tenant LIMIT $4";

macro_rules! depth_columns {
    () => {
        "SELECT blocked, scheduled, ready, leased, delivered, dead, cancelled, queue, tenant, bytes FROM lines WHERE "
    };
}
const DEPTHS: &str = concat!(depth_columns!(), "(queue, tenant) > ($1, $2) ORDER BY queue, tenant LIMIT $3");
const DEPTHS_OF_QUEUE: &str =
    concat!(depth_columns!(), "queue = $4 AND (queue, tenant) > ($1, $2) ORDER BY queue, tenant LIMIT $3");
const DEPTHS_OF_TENANT: &str =
    concat!(depth_columns!(), "tenant = $4 AND (queue, tenant) > ($1, $2) ORDER BY queue, tenant LIMIT $3");
const DEPTHS_OF_BOTH: &str = concat!(
    depth_columns!(),
    "queue = $4 AND tenant = $5 AND (queue, tenant) > ($1, $2) ORDER BY queue, tenant LIMIT $3"
);
const TOTALS: &str = "
    SELECT sum(blocked)::bigint, sum(scheduled)::bigint, sum(ready)::bigint, sum(leased)::bigint, sum(delivered)::bigint,
        sum(dead)::bigint, sum(cancelled)::bigint, queue, sum(bytes)::bigint, count(*)
    FROM lines GROUP BY queue ORDER BY queue";
const OLDEST: &str = "
    SELECT min(first.due) FROM (SELECT line FROM lines WHERE begins AND queue = $1 LIMIT $2) AS ready_lines
    CROSS JOIN LATERAL (
        SELECT d.due FROM deliveries d WHERE d.state = 2 AND d.line = ready_lines.line ORDER BY d.rank, d.seq LIMIT 1
    ) AS first";
const PAUSES: &str = "SELECT kind, queue, tenant, key FROM pauses ORDER BY kind, queue, tenant, key";
const IS_PAUSED: &str = "
    SELECT count(*), coalesce(bool_or(kind = $1 AND queue = $2 AND tenant = $3 AND key = $4), false) FROM pauses";
const PAUSE: &str =
    "INSERT INTO pauses (kind, queue, tenant, key) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
const RESUME: &str = "DELETE FROM pauses WHERE kind = $1 AND queue = $2 AND tenant = $3 AND key = $4";

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn page(desk: &mut Desk, among: Among, before: Seq, most: usize) -> Result<Vec<Unnamed>, Fault> {
    let mut values: Vec<Box<dyn ToSql + Sync>> = vec![Box::new(whole(before.0)), Box::new(limit(most))];
    let sql = match among {
        Among::Owner(owner) => {
            values.push(Box::new(owner));
            OF_OWNER
        }
        Among::Few(Kind::Leased) => LEASED,
        Among::Few(Kind::Dead) => DEAD,
        Among::Few(Kind::Cancelled) => CANCELLED,
        Among::Few(_) | Among::All => ALL,
    };
    rows(desk, sql, values)
}

pub(super) fn lines_ready(
    desk: &mut Desk,
    shard: u16,
    after: Option<&Line>,
    most: usize,
) -> Result<Vec<Line>, Fault> {
    let (queue, tenant) = after.map_or(("", ""), |line| (&line.queue, &line.tenant));
    let values: Vec<Box<dyn ToSql + Sync + '_>> =
        vec![Box::new(shard as i16), Box::new(queue), Box::new(tenant), Box::new(limit(most))];
    let found = desk.session.ask(Says::new(LINES_READY, values))?;
    let line =
        |row: &Found| Ok(Line { queue: get::<&str>(row, 0)?.into(), tenant: get::<&str>(row, 1)?.into() });
    found.iter().map(line).collect()
}

pub(super) fn depths(
    desk: &mut Desk,
    queue: Option<&str>,
    tenant: Option<&str>,
    after: Option<&Line>,
    most: usize,
) -> Result<Vec<Depth>, Fault> {
    let names = after.map_or(("", ""), |line| (&line.queue, &line.tenant));
    let mut values: Vec<Box<dyn ToSql + Sync + '_>> =
        vec![Box::new(names.0), Box::new(names.1), Box::new(limit(most))];
    let sql = match (queue, tenant) {
        (None, None) => DEPTHS,
        (Some(_), None) => DEPTHS_OF_QUEUE,
        (None, Some(_)) => DEPTHS_OF_TENANT,
        (Some(_), Some(_)) => DEPTHS_OF_BOTH,
    };
    for name in [queue, tenant].into_iter().flatten() {
        values.push(Box::new(name));
    }
    let found = desk.session.ask(Says::new(sql, values))?;
    let depth = |row: &Found| {
        let line = Line { queue: get::<&str>(row, 7)?.into(), tenant: get::<&str>(row, 8)?.into() };
        Ok(Depth { line, counts: counts(row)?, bytes: number(row, 9)? })
    };
    found.iter().map(depth).collect()
}

fn counts(row: &Found) -> Result<[u64; 7], Fault> {
    let mut counts = [0; 7];
    for (place, count) in counts.iter_mut().enumerate() {
        *count = number(row, place)?;
    }
    Ok(counts)
}

pub(super) fn totals(desk: &mut Desk, lines_max: usize) -> Result<Vec<Total>, Fault> {
    let found = desk.session.ask(Says::plain(TOTALS))?;
    let total = |row: &Found| {
        let queue = get::<&str>(row, 7)?.into();
        Ok(Total {
            queue,
            counts: counts(row)?,
            bytes: number(row, 8)?,
            lines: number(row, 9)?,
            oldest: None,
        })
    };
    let mut totals = found.iter().map(total).collect::<Result<Vec<Total>, Fault>>()?;
    let begins = |total: &&mut Total| total.counts[Kind::Ready as usize] > 0;
    for total in totals.iter_mut().filter(begins) {
        let values: Vec<Box<dyn ToSql + Sync + '_>> =
            vec![Box::new(&*total.queue), Box::new(limit(lines_max))];
        let found = desk.session.ask(Says::new(OLDEST, values))?;
        let due = found.first().map(|row| get::<Option<i64>>(row, 0)).transpose()?.flatten();
        total.oldest = due.and_then(|due| u64::try_from(due).ok());
    }
    Ok(totals)
}

fn values_of(pause: &Pause) -> Vec<Box<dyn ToSql + Sync + '_>> {
    let (kind, queue, tenant, key) = pause.columns();
    vec![Box::new(i16::from(kind)), Box::new(queue), Box::new(tenant), Box::new(key.as_bytes())]
}

pub(super) fn pauses(desk: &mut Desk) -> Result<Vec<Pause>, Fault> {
    let found = desk.session.ask(Says::plain(PAUSES))?;
    let pause = |row: &Found| {
        let kind = u8::try_from(get::<i16>(row, 0)?).unwrap_or(u8::MAX);
        let (queue, tenant) = (get::<&str>(row, 1)?.into(), get::<&str>(row, 2)?.into());
        Ok(Pause::of_columns(kind, queue, tenant, text(get(row, 3)?)?))
    };
    found.iter().map(pause).collect()
}

pub(super) fn put_pause(desk: &mut Desk, pause: &Pause, most: usize) -> Result<bool, Fault> {
    begins_to_write(desk, pause)?;
    let found = desk.session.ask(Says::new(IS_PAUSED, values_of(pause)))?;
    if let Some(row) = found.first() {
        if get(row, 1)? {
            return Ok(true);
        }
        if number(row, 0)? >= most as u64 {
            return Ok(false);
        }
    }
    desk.session.ask(Says::new(PAUSE, values_of(pause)))?;
    Ok(true)
}

pub(super) fn remove_pause(desk: &mut Desk, pause: &Pause) -> Result<(), Fault> {
    begins_to_write(desk, pause)?;
    desk.session.ask(Says::new(RESUME, values_of(pause)))?;
    Ok(())
}

/// What is paused of one tenant is of its shard; of the others any transaction that writes may say so: that is the first's.
fn begins_to_write(desk: &mut Desk, pause: &Pause) -> Result<(), Fault> {
    let shard = match pause {
        Pause::Key(line, _) => tidegate_model::delivery::shard::shard_of(&line.tenant, desk.count),
        Pause::Queue(_) | Pause::Tenant(_) | Pause::Line(_) => 0,
    };
    desk.write_in(shard)?;
    Ok(())
}
