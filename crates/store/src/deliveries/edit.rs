//! Changing the request of a delivery that has not begun, or is dead.

use std::sync::Arc;

use tidegate_model::delivery::{Id, Record, Request, State};

use super::append::has_not_begun;
use super::ledger::Ledger;
use super::rows::{Row, request_bytes};
use super::tables::Fault;
use super::{Edit, Edited, Room, append, look};

/// Changes what a request says, where it is still as whoever asks knows it.
pub(super) fn edit(
    ledger: &mut Ledger<'_>,
    tenant: Option<&str>,
    id: Id,
    edits: Option<u64>,
    edit: &Edit,
    room: Room,
) -> Result<Edited, Fault> {
    let Some(row) = look::found(ledger, tenant, id)? else { return Ok(Edited::Gone) };
    if !may_be_edited(&row.record) {
        return Ok(Edited::Not(row.record.state));
    }
    let (before, known) = ledger.request(row.record.seq)?;
    if edits.is_some_and(|edits| edits != known) {
        return Ok(Edited::Otherwise(known));
    }
    let request = Arc::new(Request {
        method: edit.method.clone().unwrap_or_else(|| before.method.clone()),
        target: edit.target.clone().unwrap_or_else(|| Arc::clone(&before.target)),
        fields: before.fields.clone(),
        body: edit.body.clone().unwrap_or_else(|| before.body.clone()),
    });
    let bytes = request_bytes(&request);
    if bytes > row.bytes && !append::has_room(ledger, row.line, 0, bytes - row.bytes, room)? {
        return Ok(Edited::Full);
    }
    ledger.tables.put_request(row.record.seq, &request, known + 1)?;
    ledger.put(&row, Row { bytes, ..row.clone() })?;
    ledger.tell_followers();
    Ok(Edited::Done(known + 1))
}

fn may_be_edited(record: &Record) -> bool {
    has_not_begun(record) || record.state == State::Dead
}
