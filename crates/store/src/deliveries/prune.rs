//! Forgetting what has ended long enough ago, some at a time.

use rusqlite::params;

use super::ledger::Ledger;
use super::look::rows_of;
use super::rows::{self, columns, whole};

/// Removes what is to be forgotten, the longest ago first: so many at most, and none more once these had so many bytes.
/// How many, and whether there are more.
pub(crate) fn prune(
    ledger: &mut Ledger<'_>,
    now: u64,
    most: usize,
    bytes_max: u64,
) -> rusqlite::Result<(usize, bool)> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        " FROM deliveries INDEXED BY deliveries_forgotten
          WHERE forgotten IS NOT NULL AND forgotten <= ?1 ORDER BY forgotten LIMIT ?2"
    );
    let found = rows_of(ledger, sql, params![whole(now), most as i64])?;
    let (mut removed, mut bytes) = (0, 0);
    for row in &found {
        if bytes >= bytes_max {
            break;
        }
        rows::remove(ledger.connection, row)?;
        let gone = row.bytes + row.kept;
        let kind = row.record.state.kind();
        ledger.book.lines.count(ledger.connection, row.line, Some(kind), None, -(gone as i64))?;
        bytes += gone;
        removed += 1;
        ledger.pages += 3 + gone / 4096;
    }
    Ok((removed, removed == most || removed < found.len()))
}
