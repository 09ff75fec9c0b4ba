//! Looking at deliveries. Each look has a bound, and goes along an index: who asks while there are millions waits no longer.

use rusqlite::params;
use tidegate_model::delivery::{Command, Id, Ms, Seq, State};

use super::ledger::Ledger;
use super::lines::named;
use super::rows::{self, Row, columns, whole};
use super::{Glance, Leased, Line, Ready, Whole};

/// The most that one look tells.
pub(super) const LOOK_MAX: usize = 4096;

fn most(asked: usize) -> i64 {
    asked.min(LOOK_MAX) as i64
}

/// Makes ready what is due. What that is, when the next is due, and whether that is now.
pub(super) fn promote(
    ledger: &mut Ledger<'_>,
    now: Ms,
    asked: usize,
) -> rusqlite::Result<(Vec<Ready>, Option<Ms>, bool)> {
    let due = seqs(
        ledger,
        "SELECT seq FROM deliveries INDEXED BY deliveries_due WHERE state = 1 AND due <= ?1 ORDER BY due LIMIT ?2",
        [whole(now), most(asked)],
    )?;
    for seq in due {
        if let Some(row) = ledger.load(seq)? {
            ledger.command(&row, Command::Promote, now)?;
            ledger.follow_up(now)?;
        }
    }
    let next: Option<i64> = ledger
        .connection
        .prepare_cached(
            "SELECT due FROM deliveries INDEXED BY deliveries_due WHERE state = 1 ORDER BY due LIMIT 1",
        )?
        .query_map((), |row| row.get(0))?
        .next()
        .transpose()?;
    ledger.due = None;
    let next = next.map(|next| next as u64);
    Ok((std::mem::take(&mut ledger.ready), next, next.is_some_and(|next| next <= now)))
}

fn seqs(ledger: &Ledger<'_>, sql: &str, bounds: [i64; 2]) -> rusqlite::Result<Vec<Seq>> {
    let mut select = ledger.connection.prepare_cached(sql)?;
    let found = select.query_map(bounds, |row| row.get::<_, i64>(0).map(|seq| Seq(seq as u64)))?;
    found.collect()
}

/// Lines in which something may be begun, in the order of their names.
pub(super) fn lines(ledger: &Ledger<'_>, after: Option<&Line>, asked: usize) -> rusqlite::Result<Vec<Line>> {
    let (queue, tenant) = after.map_or(("", ""), |line| (&line.queue, &line.tenant));
    let mut select = ledger.connection.prepare_cached(
        "SELECT queue, tenant FROM lines INDEXED BY lines_ready
         WHERE ready > 0 AND (queue, tenant) > (?1, ?2) ORDER BY queue, tenant LIMIT ?3",
    )?;
    let found = select.query_map(params![queue, tenant, most(asked)], named)?;
    found.collect()
}

/// What may be begun of a line, in the order in which it is.
pub(super) fn ready(
    ledger: &mut Ledger<'_>,
    line: &Line,
    after: Option<(i64, Seq)>,
    asked: usize,
) -> rusqlite::Result<Vec<Ready>> {
    let Some(line) = ledger.book.lines.find(ledger.connection, line)? else { return Ok(Vec::new()) };
    let (rank, seq) = after.map_or((i64::MIN, 0), |(rank, seq)| (rank, whole(seq.0)));
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM deliveries INDEXED BY deliveries_ready
          WHERE state = 2 AND line = ?1 AND (rank, seq) > (?2, ?3) ORDER BY rank, seq LIMIT ?4"
    );
    let found = rows_of(ledger, sql, params![line, rank, seq, most(asked)])?;
    Ok(found.iter().map(Row::ready).collect())
}

/// Rows of [`columns!`].
pub(super) fn rows_of(
    ledger: &mut Ledger<'_>,
    sql: &str,
    bounds: impl rusqlite::Params,
) -> rusqlite::Result<Vec<Row>> {
    let (connection, lines) = (ledger.connection, &mut ledger.book.lines);
    let mut select = connection.prepare_cached(sql)?;
    let found = select.query_map(bounds, |row| rows::read(row, lines, connection))?;
    found.collect()
}

/// Leases that have not ended, by their deliveries' places.
pub(super) fn leased(ledger: &mut Ledger<'_>, after: Seq, asked: usize) -> rusqlite::Result<Vec<Leased>> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM deliveries INDEXED BY deliveries_few
          WHERE state IN (3, 5, 6) AND state = 3 AND seq > ?1 ORDER BY seq LIMIT ?2"
    );
    let found = rows_of(ledger, sql, params![whole(after.0), most(asked)])?;
    let leased = |row: Row| match row.record.state {
        State::Leased { token, until } => Some(Leased { delivery: row.ready(), token, until }),
        _ => None,
    };
    Ok(found.into_iter().filter_map(leased).collect())
}

/// What has not begun and is not to be any more, the longest ago first.
pub(super) fn expired(ledger: &Ledger<'_>, now: Ms, asked: usize) -> rusqlite::Result<Vec<(Seq, Line)>> {
    let mut select = ledger.connection.prepare_cached(
        "SELECT seq, queue, tenant FROM (
             SELECT seq, line FROM deliveries INDEXED BY deliveries_expires
             WHERE expires IS NOT NULL AND state < 3 AND expires <= ?1 ORDER BY expires LIMIT ?2
         ) JOIN lines USING (line)",
    )?;
    let found = select.query_map([whole(now), most(asked)], |row| {
        let line = Line { queue: row.get(1)?, tenant: row.get(2)? };
        Ok((Seq(row.get::<_, i64>(0)? as u64), line))
    })?;
    found.collect()
}

/// All that is known of a delivery, for its tenant or, where that is not told, for the operator.
pub(super) fn whole_of(
    ledger: &mut Ledger<'_>,
    tenant: Option<&str>,
    id: Id,
) -> rusqlite::Result<Option<Whole>> {
    let Some(row) = found(ledger, tenant, id)? else { return Ok(None) };
    let seq = row.record.seq;
    let (request, edits) = rows::request(ledger.connection, seq)?;
    Ok(Some(Whole {
        request,
        edits,
        attempts: rows::attempts(ledger.connection, seq)?,
        result: rows::result(ledger.connection, seq)?,
        record: row.record,
    }))
}

/// How far a delivery has come.
pub(super) fn glance(
    ledger: &mut Ledger<'_>,
    tenant: Option<&str>,
    id: Id,
) -> rusqlite::Result<Option<Glance>> {
    let Some(row) = found(ledger, tenant, id)? else { return Ok(None) };
    let answered = match row.record.state.has_ended() {
        true => rows::answered(ledger.connection, row.record.seq)?,
        false => None,
    };
    Ok(Some(Glance { record: row.record, answered }))
}

/// A delivery, for its tenant alone where that is told.
pub(super) fn found(ledger: &mut Ledger<'_>, tenant: Option<&str>, id: Id) -> rusqlite::Result<Option<Row>> {
    let Some(seq) = rows::find(ledger.connection, id)? else { return Ok(None) };
    Ok(ledger.load(seq)?.filter(|row| tenant.is_none_or(|tenant| *row.record.tenant == *tenant)))
}
