//! Looking at deliveries. Each look has a bound, and goes along an index: who asks while there are millions waits no longer.

use tidegate_model::delivery::{Command, Id, Ms, Seq, State};

use super::ledger::Ledger;
use super::rows::Row;
use super::tables::Fault;
use super::{Glance, Leased, Line, Ready, Whole};

/// The most that one look tells.
pub(super) const LOOK_MAX: usize = 4096;

/// Makes ready what is due in a shard. What that is, when the next is due, and whether that is now.
pub(super) fn promote(
    ledger: &mut Ledger<'_>,
    shard: u16,
    now: Ms,
    asked: usize,
) -> Result<(Vec<Ready>, Option<Ms>, bool), Fault> {
    let due = ledger.tables.due(shard, now, asked.min(LOOK_MAX))?;
    for seq in ledger.prefetch(due)? {
        if let Some(row) = ledger.load(seq)? {
            ledger.command(&row, Command::Promote, now)?;
            ledger.follow_up(now)?;
        }
    }
    let next = ledger.tables.next_due(shard)?;
    ledger.tidings.forget_due(shard);
    Ok((std::mem::take(&mut ledger.ready), next, next.is_some_and(|next| next <= now)))
}

/// Lines of a shard in which something may be begun, in the order of their names.
pub(super) fn lines(
    ledger: &mut Ledger<'_>,
    shard: u16,
    after: Option<&Line>,
    asked: usize,
) -> Result<Vec<Line>, Fault> {
    ledger.tables.lines_ready(shard, after, asked.min(LOOK_MAX))
}

/// What may be begun of a line, in the order in which it is.
pub(super) fn ready(
    ledger: &mut Ledger<'_>,
    line: &Line,
    after: Option<(i64, Seq)>,
    asked: usize,
) -> Result<Vec<Ready>, Fault> {
    let Some(line) = ledger.find_line(line)? else { return Ok(Vec::new()) };
    let after = after.unwrap_or((i64::MIN, Seq(0)));
    let found = ledger.tables.ready(line, after, asked.min(LOOK_MAX))?;
    Ok(ledger.all_named(found)?.iter().map(Row::ready).collect())
}

/// Leases of a shard that have not ended, by their deliveries' places.
pub(super) fn leased(
    ledger: &mut Ledger<'_>,
    shard: u16,
    after: Seq,
    asked: usize,
) -> Result<Vec<Leased>, Fault> {
    let found = ledger.tables.leased(shard, after, asked.min(LOOK_MAX))?;
    let leased = |row: Row| match row.record.state {
        State::Leased { token, until } => Some(Leased { delivery: row.ready(), token, until }),
        _ => None,
    };
    Ok(ledger.all_named(found)?.into_iter().filter_map(leased).collect())
}

/// What of a shard has not begun and is not to be any more, the longest ago first.
pub(super) fn expired(
    ledger: &mut Ledger<'_>,
    shard: u16,
    now: Ms,
    asked: usize,
) -> Result<Vec<(Seq, Line)>, Fault> {
    let found = ledger.tables.expired(shard, now, asked.min(LOOK_MAX))?;
    let named = |(seq, line)| Ok((seq, ledger.book.lines.names(ledger.tables, line)?.1));
    found.into_iter().map(named).collect()
}

/// All that is known of a delivery, for its tenant or, where that is not told, for the operator.
pub(super) fn whole_of(
    ledger: &mut Ledger<'_>,
    tenant: Option<&str>,
    id: Id,
) -> Result<Option<Whole>, Fault> {
    let Some(row) = found(ledger, tenant, id)? else { return Ok(None) };
    let seq = row.record.seq;
    let (request, edits) = ledger.request(seq)?;
    Ok(Some(Whole {
        request,
        edits,
        attempts: ledger.tables.attempts(seq)?,
        result: ledger.tables.result(seq)?,
        record: row.record,
    }))
}

/// How far a delivery has come.
pub(super) fn glance(ledger: &mut Ledger<'_>, tenant: Option<&str>, id: Id) -> Result<Option<Glance>, Fault> {
    let Some(row) = found(ledger, tenant, id)? else { return Ok(None) };
    let answered = match row.record.state.has_ended() {
        true => ledger.tables.answered(row.record.seq)?,
        false => None,
    };
    Ok(Some(Glance { record: row.record, answered }))
}

/// A delivery, for its tenant alone where that is told.
pub(super) fn found(ledger: &mut Ledger<'_>, tenant: Option<&str>, id: Id) -> Result<Option<Row>, Fault> {
    let Some(seq) = ledger.tables.find(id)? else { return Ok(None) };
    // One of another shard is another tenant's.
    if tenant.is_some_and(|tenant| ledger.tables.shard_of(tenant) != seq.shard()) {
        return Ok(None);
    }
    Ok(ledger.load(seq)?.filter(|row| tenant.is_none_or(|tenant| *row.record.tenant == *tenant)))
}
