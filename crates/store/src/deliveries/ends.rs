//! What follows when a delivery has ended: whoever comes after it is told, and its callback is accepted.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{Command, Ms, Record, Request, Seq, State};
use tidegate_model::fields::Fields;

use super::ledger::Ledger;
use super::rows::{MARK_CALLBACK, MARK_FIRST, Row, request_bytes};
use super::tables::{Fault, Work};
use super::{Callback, Line};

/// Those that come after one that has ended, of which so many are looked for together.
const TOLD_TOGETHER: usize = 64;

/// Tells whoever has to be told that this delivery has ended.
pub(super) fn tell(ledger: &mut Ledger<'_>, seq: Seq, now: Ms) -> Result<(), Fault> {
    let Some(row) = ledger.load(seq)? else { return Ok(()) };
    // Made again meanwhile: whoever comes after it still does.
    if !row.record.state.has_ended() {
        return Ok(());
    }
    if row.marks & MARK_CALLBACK != 0 {
        call_back(ledger, &row, now)?;
    }
    if row.marks & MARK_FIRST != 0 {
        tell_those_after(ledger, &row.record, now)?;
    }
    Ok(())
}

fn tell_those_after(ledger: &mut Ledger<'_>, first: &Record, now: Ms) -> Result<(), Fault> {
    let mut after = Seq(0);
    loop {
        let those = ledger.tables.afters(first.seq, after, TOLD_TOGETHER)?;
        let Some(last) = those.last() else { return Ok(()) };
        after = *last;
        let are_all = those.len() < TOLD_TOGETHER;
        for seq in ledger.prefetch(those)? {
            if ledger.spent() {
                return ledger.later(&Work::Ended(first.seq));
            }
            ledger.tables.remove_after(first.seq, seq)?;
            ledger.pages += 1;
            tell_one(ledger, first, seq, now)?;
        }
        if are_all {
            return Ok(());
        }
    }
}

fn tell_one(ledger: &mut Ledger<'_>, first: &Record, seq: Seq, now: Ms) -> Result<(), Fault> {
    let Some(row) = ledger.load(seq)? else { return Ok(()) };
    // One that was made again waits for nobody any more, but perhaps for its turn.
    if row.record.state != State::Blocked || waits_for_others(&row) == 0 {
        return Ok(());
    }
    if first.state == State::Delivered {
        ledger.command(&row, Command::Unblock { over: 1 }, now)?;
        return Ok(());
    }
    let mut record = row.record.clone();
    record.state = State::Dead;
    record.why = Some(format!("it comes after {}, which is {}", first.id, first.state.name()).into());
    record.forgotten = first.forgotten;
    ledger.put(&row, Row { record, ..row.clone() })
}

/// How many others a delivery waits for, its turn aside.
pub(super) fn waits_for_others(row: &Row) -> u32 {
    row.record.waits_for.saturating_sub(u32::from(row.place == Some(Place::Asks)))
}

/// Accepts what is made once a delivery has ended: once, even if that is made again later.
fn call_back(ledger: &mut Ledger<'_>, ended: &Row, now: Ms) -> Result<(), Fault> {
    let seq = ended.record.seq;
    let Some(Callback { id, queue, target }) = ledger.tables.callback(seq)? else { return Ok(()) };
    ledger.tables.remove_callback(seq)?;
    if ledger.tables.find(id)?.is_some() {
        return Ok(());
    }
    let mut fields = Fields::with_capacity(1);
    fields.append(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    let request = Request { method: Method::POST, target, fields, body: how_it_ended(&ended.record) };
    let line = Line { queue, tenant: Arc::clone(&ended.record.tenant) };
    let place = ledger.place(&line)?;
    let (owner, _) = ledger.book.lines.names(ledger.tables, place)?;
    // The same tenant's, and so of the same shard.
    let record = Record::new(id, ledger.next_seq(seq.shard())?, line.queue, line.tenant, now);
    let bytes = request_bytes(&request);
    ledger.tables.put_request(record.seq, &Arc::new(request), 0)?;
    ledger.insert(Row { record, line: place, owner, place: None, sole: None, marks: 0, bytes, kept: 0 })
}

/// What a callback says.
fn how_it_ended(record: &Record) -> Bytes {
    let mut said = format!("{{\"id\":\"{}\",\"queue\":", record.id);
    say(&mut said, &record.queue);
    said.push_str(",\"state\":");
    say(&mut said, record.state.name());
    // Writing to a string never fails.
    let _ = write!(said, ",\"attempts\":{}", record.attempts);
    if let Some(why) = &record.why {
        said.push_str(",\"why\":");
        say(&mut said, why);
    }
    said.push('}');
    Bytes::from(said)
}

/// A text as JSON.
fn say(said: &mut String, text: &str) {
    said.push('"');
    for character in text.chars() {
        match character {
            '"' => said.push_str("\\\""),
            '\\' => said.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(said, "\\u{:04x}", u32::from(control));
            }
            other => said.push(other),
        }
    }
    said.push('"');
}
