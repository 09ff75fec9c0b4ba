//! The owner's commands: each is decided by [`tidegate_model::delivery::step`] in the transaction that reads and writes.

use std::sync::Arc;

use tidegate_model::delivery::{Command, Id, Ms, State, Token, Told};

use super::ledger::Ledger;
use super::rows::{ATTEMPTS_KEPT, Row, attempt_bytes};
use super::tables::Fault;
use super::{Asked, Attempt, Committed, Epoch, Kept, News, look};

/// Carries out these, in their order.
pub(super) fn commit(
    ledger: &mut Ledger<'_>,
    epoch: Epoch,
    asked: &[Asked],
    now: Ms,
) -> Result<Vec<Committed>, Fault> {
    let mut all = Vec::with_capacity(asked.len());
    for one in asked {
        let (told, request) = match one.seq.shard() == epoch.shard {
            true => command(ledger, one, now)?,
            // Another's: whoever leads a shard knows none of them.
            false => (Told::Gone, None),
        };
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
) -> Result<(Told, Option<Arc<tidegate_model::delivery::Request>>), Fault> {
    let Some(row) = ledger.load(asked.seq)? else { return Ok((Told::Gone, None)) };
    let (change, told) = tidegate_model::delivery::step(row.record.clone(), asked.command.clone(), now);
    let tidegate_model::delivery::Change::Put(record) = change else { return Ok((told, None)) };
    let mut after = Row { record: *record, ..row.clone() };
    if let Command::Finish { token, .. } = &asked.command {
        // That something has been done is worth more than what was said of it.
        let room =
            (asked.attempt.is_some() || asked.result.is_some()) && ledger.tables.takes_new(asked.bytes())?;
        if let Some(result) = asked.result.as_ref().filter(|_| room) {
            keep_result(ledger, &mut after, result)?;
        }
        if let Some(attempt) = asked.attempt.as_ref().filter(|_| room) {
            keep_attempt(ledger, &mut after, *token, attempt)?;
        }
    }
    let started = matches!(after.record.state, State::Leased { .. }) && matches!(told, Told::Started(_));
    ledger.put(&row, after)?;
    let request = if started { Some(ledger.request(asked.seq)?.0) } else { None };
    Ok((told, request))
}

/// Keeps a result, in the place of an earlier one.
fn keep_result(ledger: &mut Ledger<'_>, row: &mut Row, result: &Kept) -> Result<(), Fault> {
    let seq = row.record.seq;
    let earlier = match row.kept {
        0 => None,
        _ => ledger.tables.result(seq)?,
    };
    let fields = packed(result);
    ledger.tables.put_result(seq, result, &fields)?;
    let bytes = |fields: &[u8], result: &Kept| (fields.len() + result.body.len()) as u64;
    let (more, less) =
        (bytes(&fields, result), earlier.map_or(0, |earlier| bytes(&packed(&earlier), &earlier)));
    row.kept = (row.kept + more).saturating_sub(less);
    ledger.pages += 1 + more / 4096;
    Ok(())
}

fn packed(result: &Kept) -> Vec<u8> {
    let mut fields = Vec::with_capacity(result.fields.bytes());
    result.fields.pack(&mut fields);
    fields
}

/// Keeps an attempt, and as many of those before it as are kept.
fn keep_attempt(
    ledger: &mut Ledger<'_>,
    row: &mut Row,
    token: Token,
    attempt: &Attempt,
) -> Result<(), Fault> {
    let seq = row.record.seq;
    let all = |ledger: &mut Ledger<'_>| -> Result<u64, Fault> {
        Ok(ledger.tables.attempts(seq)?.iter().map(attempt_bytes).sum())
    };
    // Of the first few, none has to go.
    let (more, less) = if token.0 <= ATTEMPTS_KEPT {
        ledger.tables.put_attempt(seq, token, attempt)?;
        (attempt_bytes(attempt), 0)
    } else {
        let before = all(ledger)?;
        ledger.tables.put_attempt(seq, token, attempt)?;
        (all(ledger)?, before)
    };
    row.kept = (row.kept + more).saturating_sub(less);
    ledger.pages += more / 4096;
    Ok(())
}

/// Carries out a command that somebody else than the owner gives. `None`: there is no such delivery of this tenant's.
pub(super) fn change(
    ledger: &mut Ledger<'_>,
    tenant: Option<&str>,
    id: Id,
    command: &Command,
    now: Ms,
) -> Result<Option<Told>, Fault> {
    let Some(row) = look::found(ledger, tenant, id)? else { return Ok(None) };
    let told = ledger.command(&row, command.clone(), now)?;
    if told == Told::Done && matches!(row.record.state, State::Ready | State::Leased { .. }) {
        ledger.tidings.push(row.record.seq.shard(), News::Gone(row.record.seq, row.ready().line));
    }
    ledger.follow_up(now)?;
    ledger.tell_followers();
    Ok(Some(told))
}
