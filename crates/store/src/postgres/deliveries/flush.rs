//! What a transaction has changed, as one statement a table, however many rows it has.

use std::sync::Arc;

use tidegate_model::delivery::{Seq, State};
use tokio_postgres::types::ToSql;

use super::known::{Change, Entry, Keyed, Known, Pending, Removed};
use super::rows::halves;
use super::session::Says;
use crate::deliveries::rows::{ANSWER_BYTES_MAX, whole, words};
use crate::deliveries::tables::shard_of_line;

const INSERT: &str = "
    INSERT INTO deliveries (seq, shard, age, state, until, token, attempts, line, owner, high, low, priority, rank, created, due,
        expires, attempts_max, waits_for, key, ordered, open_max, place, turn, sole, marks, bytes, kept, forgotten, progress,
        why)
    SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::integer[], $4::smallint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::smallint[], $13::bigint[], $14::bigint[], $15::bigint[],
        $16::bigint[], $17::bigint[], $18::bigint[], $19::bytea[], $20::boolean[], $21::bigint[], $22::smallint[],
        $23::bigint[], $24::bytea[], $25::smallint[], $26::bigint[], $27::bigint[], $28::bigint[], $29::bytea[], $30::text[])";
const INSERT_IDS: &str = "
    INSERT INTO ids (high, low, seq) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])";
const LEAN: &str = "
    UPDATE deliveries d SET state = t.state, until = t.until, token = t.token, attempts = t.attempts, kept = t.kept, due = t.due,
        forgotten = t.forgotten, why = t.why
    FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::text[]) AS t (seq, state, until, token, attempts, kept, due, forgotten, why)
    WHERE d.seq = t.seq";
const WIDE: &str = "
    UPDATE deliveries d SET state = t.state, until = t.until, token = t.token, attempts = t.attempts, kept = t.kept, due = t.due,
        forgotten = t.forgotten, why = t.why, priority = t.priority, rank = t.rank, expires = t.expires,
        attempts_max = t.attempts_max, waits_for = t.waits_for, key = t.key, ordered = t.ordered, open_max = t.open_max,
        place = t.place, turn = t.turn, sole = t.sole, marks = t.marks, bytes = t.bytes, progress = t.progress
    FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::text[], $10::smallint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bytea[],
        $16::boolean[], $17::bigint[], $18::smallint[], $19::bigint[], $20::bytea[], $21::smallint[], $22::bigint[],
        $23::bytea[])
        AS t (seq, state, until, token, attempts, kept, due, forgotten, why, priority, rank, expires, attempts_max, waits_for,
            key, ordered, open_max, place, turn, sole, marks, bytes, progress)
    WHERE d.seq = t.seq";
const REMOVE: &str = "DELETE FROM deliveries d USING unnest($1::bigint[]) AS t (seq) WHERE d.seq = t.seq";
const REMOVE_IDS: &str = "
    DELETE FROM ids i USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS t (high, low, seq)
    WHERE i.high = t.high AND i.low = t.low AND i.seq = t.seq";
const REMOVE_CALLBACKS: &str =
    "DELETE FROM callbacks c USING unnest($1::bigint[]) AS t (seq) WHERE c.seq = t.seq";
const REMOVE_AFTERS: &str =
    "DELETE FROM afters a USING unnest($1::bigint[]) AS t (seq) WHERE a.first = t.seq";
const REMOVE_UNIQUES: &str = "
    DELETE FROM uniques u USING unnest($1::bigint[], $2::bytea[], $3::bigint[]) AS t (line, key, seq)
    WHERE u.line = t.line AND u.key = t.key AND u.seq = t.seq";
const REQUESTS: &str = "
    INSERT INTO requests AS r (age, seq, edits, method, target, fields, body)
    SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])
    ON CONFLICT (age, seq) DO UPDATE SET edits = excluded.edits, method = excluded.method, target = excluded.target,
        fields = excluded.fields, body = excluded.body";
const RESULTS: &str = "
    INSERT INTO results AS r (age, seq, status, whole, fields, body)
    SELECT * FROM unnest($1::integer[], $2::bigint[], $3::integer[], $4::boolean[], $5::bytea[], $6::bytea[])
    ON CONFLICT (age, seq) DO UPDATE SET status = excluded.status, whole = excluded.whole, fields = excluded.fields,
        body = excluded.body";
const ATTEMPTS: &str = "
    INSERT INTO attempts AS a (age, seq, token, number, began, took, status, why, answer)
    SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[],
        $8::text[], $9::bytea[])
    ON CONFLICT (age, seq, token) DO UPDATE SET number = excluded.number, began = excluded.began, took = excluded.took,
        status = excluded.status, why = excluded.why, answer = excluded.answer";
const TRIM: &str = "
    DELETE FROM attempts a USING unnest($1::integer[], $2::bigint[], $3::bigint[]) AS t (age, seq, token)
    WHERE a.age = t.age AND a.seq = t.seq AND a.token <= t.token";
const INSERT_LINES: &str = "
    INSERT INTO lines (line, shard, queue, tenant, owner, blocked, scheduled, ready, leased, delivered, dead, cancelled, bytes,
        begins)
    SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::boolean[])";
const LINES: &str = "
    UPDATE lines l SET blocked = t.blocked, scheduled = t.scheduled, ready = t.ready, leased = t.leased,
        delivered = t.delivered, dead = t.dead, cancelled = t.cancelled, bytes = t.bytes, begins = t.begins
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::boolean[])
        AS t (line, blocked, scheduled, ready, leased, delivered, dead, cancelled, bytes, begins)
    WHERE l.line = t.line";
const REMOVE_LINES: &str = "DELETE FROM lines l USING unnest($1::bigint[]) AS t (line) WHERE l.line = t.line";
const REMOVE_LANES_OF: &str =
    "DELETE FROM lanes l USING unnest($1::bigint[]) AS t (line) WHERE l.line = t.line";
const LANES: &str = "
    INSERT INTO lanes AS l (line, key, open) SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[])
    ON CONFLICT (line, key) DO UPDATE SET open = excluded.open";
const REMOVE_LANES: &str = "
    DELETE FROM lanes l USING unnest($1::bigint[], $2::bytea[]) AS t (line, key) WHERE l.line = t.line AND l.key = t.key";
const UNIQUES: &str = "
    INSERT INTO uniques AS u (line, key, seq, until, fingerprint)
    SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bytea[])
    ON CONFLICT (line, key) DO UPDATE SET seq = excluded.seq, until = excluded.until, fingerprint = excluded.fingerprint";
const AFTERS: &str = "INSERT INTO afters (first, seq) SELECT * FROM unnest($1::bigint[], $2::bigint[])
    ON CONFLICT DO NOTHING";
const REMOVE_AFTER: &str = "
    DELETE FROM afters a USING unnest($1::bigint[], $2::bigint[]) AS t (first, seq)
    WHERE a.first = t.first AND a.seq = t.seq";
const REMOVE_FIRSTS: &str = "DELETE FROM afters a USING unnest($1::bigint[]) AS t (seq) WHERE a.seq = t.seq";
const CALLBACKS: &str = "
    INSERT INTO callbacks AS c (seq, high, low, queue, target)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[])
    ON CONFLICT (seq) DO UPDATE SET high = excluded.high, low = excluded.low, queue = excluded.queue,
        target = excluded.target";
const WORKS: &str = "
    INSERT INTO works (shard, kind, place, key) SELECT * FROM unnest($1::smallint[], $2::smallint[], $3::bigint[], $4::bytea[])
    ON CONFLICT DO NOTHING";
const REMOVE_WORKS: &str = "
    DELETE FROM works w USING unnest($1::smallint[], $2::smallint[], $3::bigint[], $4::bytea[]) AS t (shard, kind, place, key)
    WHERE w.shard = t.shard AND w.kind = t.kind AND w.place = t.place AND w.key = t.key";
const AGES: &str = "
    INSERT INTO age_counts AS a (age, shard, count, made, bytes, low, high)
    SELECT * FROM unnest($1::integer[], $2::smallint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
    ON CONFLICT (age, shard) DO UPDATE SET count = a.count + excluded.count, made = a.made + excluded.made, bytes = a.bytes + excluded.bytes,
        low = least(a.low, excluded.low), high = greatest(a.high, excluded.high)";

/// A list for each column, of these.
macro_rules! columns_of {
    ($all:expr, $($column:expr),+ $(,)?) => {{
        let all = $all;
        let values: Vec<Box<dyn ToSql + Sync>> = vec![
            $(Box::new(all.iter().map($column).collect::<Vec<_>>())),+
        ];
        values
    }};
}

fn seq(seq: Seq) -> i64 {
    whole(seq.0)
}

fn small(number: u16) -> i16 {
    i16::try_from(number).unwrap_or(i16::MAX)
}

/// What PostgreSQL takes for text: anything but this one character.
fn sayable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn until(entry: &Entry) -> Option<i64> {
    match entry.row.record.state {
        State::Leased { until, .. } => Some(whole(until)),
        _ => None,
    }
}

fn why(entry: &Entry) -> Option<String> {
    entry.row.record.why.as_deref().map(|why| sayable(words(why)))
}

/// What is to be said so that the deliveries that were changed are there as they are known.
pub(super) fn rows<'a>(known: &'a Known, changed: &[Seq], removed: &'a [Removed], all: &mut Vec<Says<'a>>) {
    let entries = || changed.iter().filter_map(|seq| known.rows.get(seq)?.as_ref());
    let of = |change: Change| entries().filter(|entry| entry.change == change).collect::<Vec<_>>();
    insert(&of(Change::New), all);
    lean(&of(Change::Lean), all);
    wide(&of(Change::Wide), all);
    remove(removed, all);
}

fn insert<'a>(new: &[&'a Entry], all: &mut Vec<Says<'a>>) {
    if new.is_empty() {
        return;
    }
    let values = columns_of!(
        new,
        |entry| seq(entry.row.record.seq),
        |entry| small(entry.row.record.seq.shard()),
        |entry| entry.age,
        |entry| entry.row.record.state.kind() as i16,
        |entry| until(entry),
        |entry| whole(entry.row.record.token.0),
        |entry| i64::from(entry.row.record.attempts),
        |entry| entry.row.line,
        |entry| entry.row.owner,
        |entry| halves(entry.row.record.id).0,
        |entry| halves(entry.row.record.id).1,
        |entry| entry.row.record.priority as i16,
        |entry| entry.row.record.rank,
        |entry| whole(entry.row.record.created),
        |entry| whole(entry.row.record.due),
        |entry| entry.row.record.expires.map(whole),
        |entry| entry.row.record.attempts_max.map(i64::from),
        |entry| i64::from(entry.row.record.waits_for),
        |entry| entry.row.record.lane.as_ref().map(|lane| lane.key.as_bytes()),
        |entry| entry.row.record.lane.as_ref().map(|lane| lane.ordered),
        |entry| entry.row.record.lane.as_ref().map(|lane| i64::from(lane.open_max)),
        |entry| entry.row.place.map(|place| place as i16),
        |entry| entry.row.turn(),
        |entry| entry.row.sole.as_deref().map(str::as_bytes),
        |entry| i16::from(entry.row.marks),
        |entry| whole(entry.row.bytes),
        |entry| whole(entry.row.kept),
        |entry| entry.row.record.forgotten.map(whole),
        |entry| entry.row.record.progress.as_deref(),
        |entry| why(entry),
    );
    all.push(Says::new(INSERT, values));
    let ids = columns_of!(
        new,
        |entry| halves(entry.row.record.id).0,
        |entry| halves(entry.row.record.id).1,
        |entry| seq(entry.row.record.seq),
    );
    all.push(Says::new(INSERT_IDS, ids));
}

fn lean<'a>(changed: &[&'a Entry], all: &mut Vec<Says<'a>>) {
    if !changed.is_empty() {
        all.push(Says::new(LEAN, often(changed)));
    }
}

/// What each change of a state writes, wide or lean.
fn often<'a>(changed: &[&'a Entry]) -> Vec<Box<dyn ToSql + Sync + 'a>> {
    columns_of!(
        changed,
        |entry| seq(entry.row.record.seq),
        |entry| entry.row.record.state.kind() as i16,
        |entry| until(entry),
        |entry| whole(entry.row.record.token.0),
        |entry| i64::from(entry.row.record.attempts),
        |entry| whole(entry.row.kept),
        |entry| whole(entry.row.record.due),
        |entry| entry.row.record.forgotten.map(whole),
        |entry| why(entry),
    )
}

fn wide<'a>(changed: &[&'a Entry], all: &mut Vec<Says<'a>>) {
    if changed.is_empty() {
        return;
    }
    let mut values = often(changed);
    values.extend(columns_of!(
        changed,
        |entry| entry.row.record.priority as i16,
        |entry| entry.row.record.rank,
        |entry| entry.row.record.expires.map(whole),
        |entry| entry.row.record.attempts_max.map(i64::from),
        |entry| i64::from(entry.row.record.waits_for),
        |entry| entry.row.record.lane.as_ref().map(|lane| lane.key.as_bytes()),
        |entry| entry.row.record.lane.as_ref().map(|lane| lane.ordered),
        |entry| entry.row.record.lane.as_ref().map(|lane| i64::from(lane.open_max)),
        |entry| entry.row.place.map(|place| place as i16),
        |entry| entry.row.turn(),
        |entry| entry.row.sole.as_deref().map(str::as_bytes),
        |entry| i16::from(entry.row.marks),
        |entry| whole(entry.row.bytes),
        |entry| entry.row.record.progress.as_deref(),
    ));
    all.push(Says::new(WIDE, values));
}

fn remove<'a>(removed: &'a [Removed], all: &mut Vec<Says<'a>>) {
    if removed.is_empty() {
        return;
    }
    for sql in [REMOVE, REMOVE_CALLBACKS, REMOVE_AFTERS] {
        all.push(Says::new(sql, columns_of!(removed, |gone| seq(gone.seq))));
    }
    let ids = columns_of!(removed, |gone| halves(gone.id).0, |gone| halves(gone.id).1, |gone| seq(gone.seq));
    all.push(Says::new(REMOVE_IDS, ids));
    let soles: Vec<(&Keyed, Seq)> =
        removed.iter().filter_map(|gone| Some((gone.sole.as_ref()?, gone.seq))).collect();
    if !soles.is_empty() {
        let values =
            columns_of!(&soles, |((line, _), _)| *line, |((_, key), _)| key.as_bytes(), |(_, gone)| seq(
                *gone
            ),);
        all.push(Says::new(REMOVE_UNIQUES, values));
    }
}

/// The same, of all else.
pub(super) fn rest<'a>(known: &'a Known, pending: &'a Pending, all: &mut Vec<Says<'a>>) {
    contents(known, pending, all);
    lines(known, pending, all);
    keyed(known, pending, all);
    links(pending, all);
    let ages = &pending.ages;
    if !ages.is_empty() {
        let values = columns_of!(
            ages,
            |((age, _), _)| *age,
            |((_, shard), _)| small(*shard),
            |(_, change)| change.count,
            |(_, change)| change.made,
            |(_, change)| change.bytes,
            |(_, change)| seq(change.low),
            |(_, change)| seq(change.high),
        );
        all.push(Says::new(AGES, values));
    }
}

fn contents<'a>(known: &'a Known, pending: &'a Pending, all: &mut Vec<Says<'a>>) {
    let age = |seq: &Seq| known.rows.get(seq)?.as_ref().map(|entry| entry.age);
    let requests = pending.requests.iter();
    let requests: Vec<_> =
        requests.filter_map(|place| Some((age(place)?, place, known.requests.get(place)?))).collect();
    if !requests.is_empty() {
        let values = columns_of!(
            &requests,
            |(age, ..)| *age,
            |(_, place, _)| seq(**place),
            |(.., (_, edits))| whole(*edits),
            |(.., (request, _))| request.method.as_str(),
            |(.., (request, _))| &*request.target,
            |(.., (request, _))| packed(&request.fields),
            |(.., (request, _))| &*request.body,
        );
        all.push(Says::new(REQUESTS, values));
    }
    let results: Vec<_> =
        pending.results.iter().filter_map(|(place, kept)| Some((age(place)?, place, kept))).collect();
    if !results.is_empty() {
        let values = columns_of!(
            &results,
            |(age, ..)| *age,
            |(_, place, _)| seq(**place),
            |(.., kept)| i32::from(kept.status),
            |(.., kept)| kept.whole,
            |(.., kept)| &*kept.fields,
            |(.., kept)| &*kept.body,
        );
        all.push(Says::new(RESULTS, values));
    }
    let attempts = pending.attempts.iter();
    let attempts: Vec<_> = attempts
        .filter_map(|((place, token), attempt)| Some((age(place)?, place, *token, attempt)))
        .collect();
    if !attempts.is_empty() {
        let values = columns_of!(
            &attempts,
            |(age, ..)| *age,
            |(_, place, ..)| seq(**place),
            |(_, _, token, _)| whole(*token),
            |(.., attempt)| i64::from(attempt.number),
            |(.., attempt)| whole(attempt.began),
            |(.., attempt)| whole(attempt.took),
            |(.., attempt)| attempt.status.map(i32::from),
            |(.., attempt)| attempt.why.as_deref().map(|why| sayable(words(why))),
            |(.., attempt)| &attempt.answer[..attempt.answer.len().min(ANSWER_BYTES_MAX)],
        );
        all.push(Says::new(ATTEMPTS, values));
    }
    let trimmed: Vec<_> =
        pending.trimmed.iter().filter_map(|(place, token)| Some((age(place)?, place, *token))).collect();
    if !trimmed.is_empty() {
        let values =
            columns_of!(&trimmed, |(age, ..)| *age, |(_, place, _)| seq(**place), |(.., token)| whole(
                *token
            ));
        all.push(Says::new(TRIM, values));
    }
}

fn packed(fields: &tidegate_model::fields::Fields) -> Vec<u8> {
    let mut packed = Vec::with_capacity(fields.bytes());
    fields.pack(&mut packed);
    packed
}

fn lines<'a>(known: &'a Known, pending: &'a Pending, all: &mut Vec<Says<'a>>) {
    let new: Vec<_> = pending.new_lines.iter().filter_map(|line| known.lines.get(line)).collect();
    if !new.is_empty() {
        let mut values = columns_of!(
            &new,
            |tally| tally.number,
            |tally| small(shard_of_line(tally.number)),
            |tally| &*tally.names.queue,
            |tally| &*tally.names.tenant,
            |tally| tally.owner,
        );
        for kind in 0..7 {
            values.push(Box::new(new.iter().map(|tally| tally.counts[kind]).collect::<Vec<_>>()));
        }
        values.push(Box::new(new.iter().map(|tally| tally.bytes).collect::<Vec<_>>()));
        values.push(Box::new(new.iter().map(|tally| tally.counts[2] > 0).collect::<Vec<_>>()));
        all.push(Says::new(INSERT_LINES, values));
    }
    let changed: Vec<_> = pending.lines.iter().filter_map(|line| known.lines.get(line)).collect();
    if !changed.is_empty() {
        let mut values = columns_of!(&changed, |tally| tally.number);
        for kind in 0..7 {
            values.push(Box::new(changed.iter().map(|tally| tally.counts[kind]).collect::<Vec<_>>()));
        }
        values.push(Box::new(changed.iter().map(|tally| tally.bytes).collect::<Vec<_>>()));
        values.push(Box::new(changed.iter().map(|tally| tally.counts[2] > 0).collect::<Vec<_>>()));
        all.push(Says::new(LINES, values));
    }
    if !pending.gone_lines.is_empty() {
        for sql in [REMOVE_LINES, REMOVE_LANES_OF] {
            all.push(Says::new(sql, columns_of!(&pending.gone_lines, |line| *line)));
        }
    }
}

fn keyed<'a>(known: &'a Known, pending: &'a Pending, all: &mut Vec<Says<'a>>) {
    let lanes: Vec<(&Keyed, u32)> =
        pending.lanes.iter().filter_map(|key| Some((key, *known.lanes.get(key)?))).collect();
    let (none, some): (Vec<_>, Vec<_>) = lanes.into_iter().partition(|(_, open)| *open == 0);
    if !some.is_empty() {
        let values =
            columns_of!(&some, |((line, _), _)| *line, |((_, key), _)| key.as_bytes(), |(_, open)| {
                i64::from(*open)
            },);
        all.push(Says::new(LANES, values));
    }
    if !none.is_empty() {
        let values = columns_of!(&none, |((line, _), _)| *line, |((_, key), _)| key.as_bytes());
        all.push(Says::new(REMOVE_LANES, values));
    }
    let uniques = pending.uniques.iter();
    let uniques: Vec<_> = uniques.filter_map(|key| Some((key, known.uniques.get(key)?.as_ref()?))).collect();
    if !uniques.is_empty() {
        let values = columns_of!(
            &uniques,
            |((line, _), _)| *line,
            |((_, key), _)| key.as_bytes(),
            |(_, sole)| seq(sole.seq),
            |(_, sole)| whole(sole.until),
            |(_, sole)| sole.fingerprint.as_ref().map(|print| &print[..]),
        );
        all.push(Says::new(UNIQUES, values));
    }
}

fn links<'a>(pending: &'a Pending, all: &mut Vec<Says<'a>>) {
    if !pending.free.is_empty() {
        let free: Vec<_> = pending.free.iter().collect();
        // Before what they come after from now on.
        all.push(Says::new(REMOVE_FIRSTS, columns_of!(&free, |waits| seq(**waits))));
    }
    for (sql, is) in [(AFTERS, true), (REMOVE_AFTER, false)] {
        let these: Vec<_> =
            pending.afters.iter().filter(|(_, there)| **there == is).map(|(pair, _)| pair).collect();
        if !these.is_empty() {
            let values = columns_of!(&these, |(first, _)| seq(*first), |(_, after)| seq(*after));
            all.push(Says::new(sql, values));
        }
    }
    let callbacks = pending.callbacks.iter();
    let callbacks: Vec<_> =
        callbacks.filter_map(|(place, callback)| Some((place, callback.as_ref()?))).collect();
    if !callbacks.is_empty() {
        let values = columns_of!(
            &callbacks,
            |(place, _)| seq(**place),
            |(_, callback)| halves(callback.id).0,
            |(_, callback)| halves(callback.id).1,
            |(_, callback)| &*callback.queue,
            |(_, callback)| &*callback.target,
        );
        all.push(Says::new(CALLBACKS, values));
    }
    let gone: Vec<_> = pending.callbacks.iter().filter(|(_, callback)| callback.is_none()).collect();
    if !gone.is_empty() {
        all.push(Says::new(REMOVE_CALLBACKS, columns_of!(&gone, |(place, _)| seq(**place))));
    }
    for (sql, is) in [(WORKS, true), (REMOVE_WORKS, false)] {
        let these: Vec<_> =
            pending.works.iter().filter(|(_, there)| **there == is).map(|(work, _)| work).collect();
        if !these.is_empty() {
            let values = columns_of!(
                &these,
                // Both a delivery's place and a line's number have the shard where a line has it.
                |(_, place, _)| small(shard_of_line(*place)),
                |(kind, ..)| *kind,
                |(_, place, _)| *place,
                |(.., key): &&(i16, i64, Arc<str>)| key.as_bytes(),
            );
            all.push(Says::new(sql, values));
        }
    }
}
