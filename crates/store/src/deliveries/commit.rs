//! The owner's commands: each is decided by [`tidegate_model::delivery::step`] in the transaction that reads and writes.

use std::sync::Arc;

use tidegate_model::delivery::{Command, Id, Ms, State, Told};

use super::ledger::Ledger;
use super::rows::{self, Row};
use super::{Asked, Committed, News, look};

/// Carries out these, in their order.
pub(super) fn commit(ledger: &mut Ledger<'_>, asked: &[Asked], now: Ms) -> rusqlite::Result<Vec<Committed>> {
    let mut all = Vec::with_capacity(asked.len());
    for one in asked {
        let (told, request) = command(ledger, one, now)?;
        ledger.follow_up(now)?;
        let mut ready = std::mem::take(&mut ledger.ready);
        // What it brought about may have been taken back by what that brought about.
        ready.dedup_by_key(|ready| ready.seq);
        all.push(Committed { told, request, ready });
    }
    // Whoever is the owner knows when what it puts off is due, not when that is which was blocked.
    ledger.tell_followers();
    Ok(all)
}

impl Asked {
    /// Bytes of what is kept beside the delivery itself.
    pub(super) fn bytes(&self) -> u64 {
        let result = self.result.as_ref().map_or(0, |result| result.body.len() + result.fields.bytes());
        let attempt = self.attempt.as_ref().map_or(0, |attempt| attempt.answer.len());
        (result + attempt) as u64
    }
}

fn command(
    ledger: &mut Ledger<'_>,
    asked: &Asked,
    now: Ms,
) -> rusqlite::Result<(Told, Option<Arc<tidegate_model::delivery::Request>>)> {
    let Some(row) = ledger.load(asked.seq)? else { return Ok((Told::Gone, None)) };
    let (change, told) = tidegate_model::delivery::step(row.record.clone(), asked.command.clone(), now);
    let tidegate_model::delivery::Change::Put(record) = change else { return Ok((told, None)) };
    let mut after = Row { record: *record, ..row.clone() };
    if let Command::Finish { token, .. } = &asked.command {
        // That something has been done is worth more than what was said of it.
        let room = (asked.attempt.is_some() || asked.result.is_some()) && ledger.takes_new(asked.bytes())?;
        if let Some(attempt) = asked.attempt.as_ref().filter(|_| room) {
            rows::insert_attempt(ledger.connection, asked.seq, *token, attempt)?;
        }
        if let Some(result) = asked.result.as_ref().filter(|_| room) {
            let (kept, before) = rows::insert_result(ledger.connection, asked.seq, result)?;
            after.kept = (after.kept + kept).saturating_sub(before);
            ledger.pages += 1 + kept / 4096;
        }
    }
    let started = matches!(after.record.state, State::Leased { .. }) && matches!(told, Told::Started(_));
    ledger.put(&row, after)?;
    let request = if started { Some(rows::request(ledger.connection, asked.seq)?.0) } else { None };
    Ok((told, request))
}

/// Carries out a command that somebody else than the owner gives. `None`: there is no such delivery of this tenant's.
pub(super) fn change(
    ledger: &mut Ledger<'_>,
    tenant: Option<&str>,
    id: Id,
    command: &Command,
    now: Ms,
) -> rusqlite::Result<Option<Told>> {
    let Some(row) = look::found(ledger, tenant, id)? else { return Ok(None) };
    let told = ledger.command(&row, command.clone(), now)?;
    if told == Told::Done && matches!(row.record.state, State::Ready | State::Leased { .. }) {
        ledger.news.push(News::Gone(row.record.seq, row.ready().line));
    }
    ledger.follow_up(now)?;
    ledger.tell_followers();
    Ok(Some(told))
}
