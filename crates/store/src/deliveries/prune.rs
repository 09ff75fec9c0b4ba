//! Forgetting what has ended long enough ago, some at a time.

use tidegate_model::delivery::{Ms, Seq};

use super::ledger::Ledger;
use super::rows::{MARK_FIRST, Row};
use super::tables::Fault;

/// Removes what of a shard is to be forgotten, the longest ago first: so many at most, and none more once these had so many
/// bytes. How many, and whether there are more.
pub(crate) fn prune(
    ledger: &mut Ledger<'_>,
    shard: u16,
    now: Ms,
    most: usize,
    bytes_max: u64,
) -> Result<(usize, bool), Fault> {
    ledger.shard(shard)?;
    let found = ledger.tables.forgotten(shard, now, most)?;
    let found = ledger.all_named(found)?;
    let (mut removed, mut bytes) = (0, 0);
    for row in &found {
        if bytes >= bytes_max {
            break;
        }
        if is_to_be_told(ledger, row)? {
            continue;
        }
        ledger.tables.remove(row)?;
        let gone = row.bytes + row.kept;
        let kind = row.record.state.kind();
        ledger.book.lines.count(ledger.tables, row.line, Some(kind), None, -(gone as i64))?;
        bytes += gone;
        removed += 1;
        ledger.pages += 3 + gone / 4096;
    }
    Ok((removed, removed == most || removed < found.len()))
}

/// Whether there are those who have not been told yet that it has ended: of so many that it is done by and by, and from it.
fn is_to_be_told(ledger: &mut Ledger<'_>, row: &Row) -> Result<bool, Fault> {
    Ok(row.marks & MARK_FIRST != 0 && !ledger.tables.afters(row.record.seq, Seq(0), 1)?.is_empty())
}
