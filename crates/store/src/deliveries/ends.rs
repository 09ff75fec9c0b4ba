//! What follows when a delivery has ended: whoever comes after it is told, and its callback is accepted.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use rusqlite::OptionalExtension as _;
use tidegate_model::delivery::lane::Place;
use tidegate_model::delivery::{AGING_MS, Command, Ms, Record, Request, Seq, State, Token, rank};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;

use super::Line;
use super::ledger::{Ledger, Work};
use super::rows::{self, MARK_CALLBACK, MARK_FIRST, Row, id_of, whole};

/// Tells whoever has to be told that this delivery has ended.
pub(super) fn tell(ledger: &mut Ledger<'_>, seq: Seq, now: Ms) -> rusqlite::Result<()> {
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

fn tell_those_after(ledger: &mut Ledger<'_>, first: &Record, now: Ms) -> rusqlite::Result<()> {
    loop {
        let next: Option<i64> = ledger
            .connection
            .prepare_cached("SELECT seq FROM afters WHERE first = ?1 LIMIT 1")?
            .query_row([whole(first.seq.0)], |row| row.get(0))
            .optional()?;
        let Some(next) = next else { return Ok(()) };
        if ledger.spent() {
            return ledger.later(&Work::Ended(first.seq));
        }
        ledger
            .connection
            .prepare_cached("DELETE FROM afters WHERE first = ?1 AND seq = ?2")?
            .execute([whole(first.seq.0), next])?;
        ledger.pages += 1;
        let Some(row) = ledger.load(Seq(next as u64))? else { continue };
        // One that was made again waits for nobody any more, but perhaps for its turn.
        if row.record.state != State::Blocked || waits_for_others(&row) == 0 {
            continue;
        }
        if first.state == State::Delivered {
            ledger.command(&row, Command::Unblock { over: 1 }, now)?;
        } else {
            let mut record = row.record.clone();
            record.state = State::Dead;
            record.why = Some(format!("it comes after {}, which is {}", first.id, first.state.name()).into());
            record.forgotten = first.forgotten;
            ledger.put(&row, Row { record, ..row.clone() })?;
        }
    }
}

/// How many others a delivery waits for, its turn aside.
pub(super) fn waits_for_others(row: &Row) -> u32 {
    row.record.waits_for.saturating_sub(u32::from(row.place == Some(Place::Asks)))
}

/// Accepts what is made once a delivery has ended: once, even if that is made again later.
fn call_back(ledger: &mut Ledger<'_>, ended: &Row, now: Ms) -> rusqlite::Result<()> {
    let seq = whole(ended.record.seq.0);
    let found = ledger
        .connection
        .prepare_cached("SELECT high, low, queue, target FROM callbacks WHERE seq = ?1")?
        .query_row([seq], |row| {
            Ok((id_of(row.get(0)?, row.get(1)?), row.get::<_, Arc<str>>(2)?, row.get::<_, Arc<str>>(3)?))
        })
        .optional()?;
    let Some((id, queue, target)) = found else { return Ok(()) };
    ledger.connection.prepare_cached("DELETE FROM callbacks WHERE seq = ?1")?.execute([seq])?;
    if rows::find(ledger.connection, id)?.is_some() {
        return Ok(());
    }
    let mut fields = Fields::with_capacity(1);
    fields.append(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    let request = Request { method: Method::POST, target, fields, body: how_it_ended(&ended.record) };
    let line = Line { queue, tenant: Arc::clone(&ended.record.tenant) };
    let place = ledger.book.lines.place(ledger.connection, &line)?;
    let (owner, _) = ledger.book.lines.names(ledger.connection, place)?;
    ledger.book.seq += 1;
    let record = Record {
        id,
        seq: Seq(ledger.book.seq),
        queue: line.queue,
        tenant: line.tenant,
        lane: None,
        priority: Priority::Default,
        rank: rank(now, Priority::Default, AGING_MS),
        created: now,
        due: now,
        expires: None,
        state: State::Ready,
        attempts: 0,
        attempts_max: None,
        waits_for: 0,
        token: Token(0),
        progress: None,
        why: None,
        forgotten: None,
    };
    rows::insert_request(ledger.connection, record.seq, &request, 0)?;
    let bytes = rows::request_bytes(&request);
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
