//! Listings and counts for people and their tools.
//!
//! A page looks at so many deliveries and no more, the newest first: where few of many are meant, pages have fewer than they
//! may, and say from where to go on. So no listing keeps the writing thread for longer than a batch of commands does.

use rusqlite::{OptionalExtension as _, params};
use tidegate_model::delivery::{Command, Kind, Ms, Record, Seq, State, Told};

use super::ledger::Ledger;
use super::rows::{self, Row, columns, whole};
use super::{Changed, Depth, Filter, Line, News, Page, Total};

/// Deliveries of one page.
pub const PAGE_MAX: usize = 1000;
/// Deliveries that one page looks at.
const LOOKS_MAX: usize = 4096;
/// Lines whose first delivery is looked at for how long the oldest has waited.
const OLDEST_LINES_MAX: i64 = 4096;

impl Filter {
    /// Whether a delivery is meant.
    fn means(&self, record: &Record) -> bool {
        let same = |asked: &Option<std::sync::Arc<str>>, name: &str| {
            asked.as_deref().is_none_or(|asked| asked == name)
        };
        let key = record.lane.as_ref().map(|lane| &*lane.key);
        same(&self.queue, &record.queue)
            && same(&self.tenant, &record.tenant)
            && self.state.is_none_or(|state| state == record.state.kind())
            && self.key.as_deref().is_none_or(|asked| key == Some(asked))
            && self.since.is_none_or(|since| record.created >= since)
            && self.before.is_none_or(|before| record.created < before)
    }
}

/// Deliveries that are meant, the newest first, from behind this one on.
pub(super) fn list(
    ledger: &mut Ledger<'_>,
    filter: &Filter,
    after: Option<Seq>,
    most: usize,
) -> rusqlite::Result<Page> {
    let (rows, next) = find(ledger, filter, after, most.min(PAGE_MAX))?;
    Ok(Page { records: rows.into_iter().map(|row| row.record).collect(), next })
}

fn find(
    ledger: &mut Ledger<'_>,
    filter: &Filter,
    after: Option<Seq>,
    most: usize,
) -> rusqlite::Result<(Vec<Row>, Option<Seq>)> {
    let before = after.map_or(i64::MAX, |after| whole(after.0));
    let looks = LOOKS_MAX as i64;
    let (connection, lines) = (ledger.connection, &mut ledger.book.lines);
    let (sql, of) = match (&filter.tenant, filter.state) {
        (Some(tenant), _) => {
            let owner: Option<i64> = connection
                .prepare_cached("SELECT owner FROM lines WHERE tenant = ?1 LIMIT 1")?
                .query_row([&**tenant], |row| row.get(0))
                .optional()?;
            let Some(owner) = owner else { return Ok((Vec::new(), None)) };
            (
                concat!(
                    "SELECT ",
                    columns!(),
                    " FROM deliveries INDEXED BY deliveries_owner
                      WHERE owner = ?3 AND seq < ?1 ORDER BY seq DESC LIMIT ?2"
                ),
                owner,
            )
        }
        (None, Some(state @ (Kind::Leased | Kind::Dead | Kind::Cancelled))) => (
            concat!(
                "SELECT ",
                columns!(),
                " FROM deliveries INDEXED BY deliveries_few
                  WHERE state IN (3, 5, 6) AND state = ?3 AND seq < ?1 ORDER BY seq DESC LIMIT ?2"
            ),
            state as i64,
        ),
        (None, _) => (
            concat!(
                "SELECT ",
                columns!(),
                " FROM deliveries WHERE seq < ?1 AND ?3 = 0 ORDER BY seq DESC LIMIT ?2"
            ),
            0,
        ),
    };
    let mut select = connection.prepare_cached(sql)?;
    let mut looked = select.query(params![before, looks, of])?;
    let (mut found, mut count, mut last) = (Vec::new(), 0, None);
    while let Some(row) = looked.next()? {
        let row = rows::read(row, lines, connection)?;
        count += 1;
        last = Some(row.record.seq);
        if filter.means(&row.record) {
            found.push(row);
            if found.len() >= most {
                return Ok((found, last));
            }
        }
    }
    Ok((found, last.filter(|_| count >= LOOKS_MAX)))
}

/// Changes deliveries that are meant, the newest first, from behind this one on.
pub(super) fn change(
    ledger: &mut Ledger<'_>,
    filter: &Filter,
    command: &Command,
    after: Option<Seq>,
    most: usize,
    now: Ms,
) -> rusqlite::Result<Changed> {
    let (rows, next) = find(ledger, filter, after, most.min(PAGE_MAX))?;
    let mut changed = 0;
    for row in rows {
        // What it was before others of these were changed may not be what it is now.
        let Some(row) = ledger.load(row.record.seq)? else { continue };
        if ledger.command(&row, command.clone(), now)? == Told::Done {
            changed += 1;
            if matches!(row.record.state, State::Ready | State::Leased { .. }) {
                ledger.news.push(News::Gone(row.record.seq, row.ready().line));
            }
        }
        ledger.follow_up(now)?;
    }
    ledger.tell_followers();
    Ok(Changed { changed, next })
}

const COUNTS: &str = "blocked, scheduled, ready, leased, delivered, dead, cancelled";

/// How many there are of lines, in the order of their names: of a queue, a tenant, both or all.
pub(super) fn depths(
    ledger: &Ledger<'_>,
    queue: Option<&str>,
    tenant: Option<&str>,
    after: Option<&Line>,
    most: usize,
) -> rusqlite::Result<Vec<Depth>> {
    let names = after.map_or(("", ""), |line| (&line.queue, &line.tenant));
    let sql = match tenant {
        Some(_) => "(queue, tenant) > (?1, ?2) AND (?3 IS NULL OR queue = ?3) AND tenant = ?4",
        None if queue.is_some() => "(queue, tenant) > (?1, ?2) AND queue = ?3 AND ?4 IS NULL",
        None => "(queue, tenant) > (?1, ?2) AND ?3 IS NULL AND ?4 IS NULL",
    };
    let sql = format!(
        "SELECT {COUNTS}, queue, tenant, bytes FROM lines WHERE {sql} ORDER BY queue, tenant LIMIT {}",
        most.min(PAGE_MAX)
    );
    let mut select = ledger.connection.prepare(&sql)?;
    let found = select.query_map(params![names.0, names.1, queue, tenant], |row| {
        let line = Line { queue: row.get(7)?, tenant: row.get(8)? };
        Ok(Depth { line, counts: counts(row)?, bytes: row.get::<_, i64>(9)? as u64 })
    })?;
    found.collect()
}

fn counts(row: &rusqlite::Row<'_>) -> rusqlite::Result<[u64; 7]> {
    let mut counts = [0; 7];
    for (place, count) in counts.iter_mut().enumerate() {
        *count = u64::try_from(row.get::<_, i64>(place)?).unwrap_or_default();
    }
    Ok(counts)
}

/// How many there are of each queue, and since when the oldest of those that are next may be begun.
pub(super) fn totals(ledger: &Ledger<'_>) -> rusqlite::Result<Vec<Total>> {
    let mut select = ledger.connection.prepare_cached(
        "SELECT sum(blocked), sum(scheduled), sum(ready), sum(leased), sum(delivered), sum(dead), sum(cancelled), queue,
             sum(bytes), count(*)
         FROM lines GROUP BY queue ORDER BY queue",
    )?;
    let found = select.query_map((), |row| {
        Ok(Total {
            queue: row.get(7)?,
            counts: counts(row)?,
            bytes: row.get::<_, i64>(8)? as u64,
            lines: row.get::<_, i64>(9)? as u64,
            oldest: None,
        })
    })?;
    let mut totals = found.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut oldest = ledger.connection.prepare_cached(
        "SELECT min((SELECT due FROM deliveries INDEXED BY deliveries_ready
                     WHERE state = 2 AND deliveries.line = first.line ORDER BY rank LIMIT 1))
         FROM (SELECT line FROM lines INDEXED BY lines_ready WHERE ready > 0 AND queue = ?1 LIMIT ?2) AS first",
    )?;
    for total in totals.iter_mut().filter(|total| total.counts[Kind::Ready as usize] > 0) {
        let due: Option<i64> =
            oldest.query_row(params![&*total.queue, OLDEST_LINES_MAX], |row| row.get(0))?;
        total.oldest = due.and_then(|due| u64::try_from(due).ok());
    }
    Ok(totals)
}
