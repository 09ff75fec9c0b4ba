//! What is new in a transaction, gathered: rows and requests are written several a statement, as each statement opens its table
//! with all of its indices anew, which is a good part of what it costs to write one row. SQLite reads them from here ([`shown`]).
//!
//! What always holds: who asks for what lies in one of the two tables comes through here ([`all`](Gathered::all) and [`of`](Gathered::of)),
//! and finds it there; or looks among what is gathered first ([`find`](Gathered::find)). Nothing is left when the transaction is
//! committed, as [`Tables::flush`] comes before that. What is left where nothing is committed is on disk [ahead](crate::ahead) of the tables.
//!
//! [`Tables::flush`]: crate::deliveries::tables::Tables::flush

use std::cell::Cell;
use std::ffi::CStr;
use std::sync::Arc;
use std::thread::LocalKey;

use rusqlite::Connection;
use rusqlite::vtab::{Context, Module};
use tidegate_model::delivery::{Id, Request, Seq};

use super::fresh::Fresh;
use super::rows::{self, halves};
use super::shown::{self, Shown, Table};
use super::statements::Statements;
use crate::deliveries::rows::{Row, whole};
use crate::deliveries::tables::Fault;

/// So many are gathered, in one transaction or several.
const GATHERED_MAX: usize = 256;

/// Lets a connection read what is gathered.
pub(crate) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    const ROWS: Module<'_, Table<PlainRow>> = Module::eponymous_only_module();
    const REQUESTS: Module<'_, Table<NewRequest>> = Module::eponymous_only_module();
    connection.create_module(PlainRow::NAME, &ROWS, None)?;
    connection.create_module(NewRequest::NAME, &REQUESTS, None)
}

/// See the module.
pub(super) struct Gathered<'a> {
    statements: Statements<'a>,
    fresh: Fresh,
}

impl<'a> Gathered<'a> {
    /// What was gathered before and is not written yet.
    pub(super) fn new(connection: &'a Connection, fresh: Fresh) -> Gathered<'a> {
        Gathered { statements: Statements::new(connection), fresh }
    }

    /// What is not written yet.
    pub(super) fn left(self) -> Fresh {
        self.fresh
    }

    /// The connection, for what lies in other tables.
    pub(super) fn aside(&self) -> &'a Connection {
        self.statements.connection()
    }

    /// For what lies in other tables, or is not gathered.
    pub(super) fn others(&mut self) -> &mut Statements<'a> {
        &mut self.statements
    }

    /// The connection, for what is in both tables.
    pub(super) fn all(&mut self) -> Result<&'a Connection, Fault> {
        if !self.fresh.is_empty() {
            let mut fresh = std::mem::take(&mut self.fresh);
            shown::write(&mut self.statements, REQUEST, &mut fresh.requests)?;
            shown::write(&mut self.statements, PLAIN, &mut fresh.rows)?;
            self.fresh = fresh.emptied();
        }
        Ok(self.aside())
    }

    /// For what is in both tables of one delivery.
    pub(super) fn of(&mut self, seq: Seq) -> Result<&mut Statements<'a>, Fault> {
        if seq >= self.fresh.since {
            self.all()?;
        }
        Ok(&mut self.statements)
    }

    /// Whether something of a delivery may be gathered.
    #[cfg(debug_assertions)]
    pub(super) fn may_have(&self, seq: Seq) -> bool {
        seq >= self.fresh.since
    }

    /// The first halves of the ids that are gathered in the neighbourhood of one.
    pub(super) fn neighbours(&self, id: Id) -> impl Iterator<Item = i64> {
        let (first, last) = id.neighbourhood();
        let highs = halves(first).0..=halves(last).0;
        self.fresh.rows.iter().map(PlainRow::high).filter(move |high| highs.contains(high))
    }

    /// Writes a row by and by.
    pub(super) fn insert(&mut self, row: &Row) -> Result<(), Fault> {
        let Some(plain) = PlainRow::of(row) else { return rows::insert(&mut self.statements, row) };
        self.fresh.since = self.fresh.since.min(row.record.seq);
        self.fresh.rows.push(plain);
        self.bound()
    }

    /// Writes a request that was never changed by and by: there is none of that delivery yet.
    pub(super) fn put_request(&mut self, seq: Seq, request: &Arc<Request>) -> Result<(), Fault> {
        self.fresh.since = self.fresh.since.min(seq);
        self.fresh.requests.push(NewRequest { seq, request: Arc::clone(request) });
        self.bound()
    }

    fn bound(&mut self) -> Result<(), Fault> {
        if self.fresh.requests.len() > GATHERED_MAX { self.all().map(drop) } else { Ok(()) }
    }

    /// Where a delivery is that is gathered.
    pub(super) fn find(&self, id: Id) -> Option<Seq> {
        let (high, low) = halves(id);
        self.fresh.rows.iter().find(|row| row.is(high, low)).map(PlainRow::seq)
    }
}

/// A row of which nothing is said that most have nothing of.
#[derive(Debug)]
pub(super) struct PlainRow {
    pub(super) values: [i64; 16],
    pub(super) until: Option<i64>,
}

/// How those are written.
const PLAIN: &str = "INSERT INTO deliveries (seq, high, low, state, token, attempts, kept, due, priority, rank, waits_for, marks,
    bytes, line, owner, created, until) SELECT * FROM tidegate_rows";

impl Shown for PlainRow {
    const NAME: &CStr = c"tidegate_rows";
    const TABLE: &CStr = c"CREATE TABLE shown (seq, high, low, state, token, attempts, kept, due, priority, rank, waits_for, marks,
        bytes, line, owner, created, until)";

    fn list() -> &'static LocalKey<Cell<Vec<PlainRow>>> {
        thread_local!(static LIST: Cell<Vec<PlainRow>> = const { Cell::new(Vec::new()) });
        &LIST
    }

    fn tell(&self, column: usize, to: &mut Context) -> rusqlite::Result<()> {
        match self.values.get(column) {
            Some(value) => to.set_result(*value),
            None => to.set_result(self.until),
        }
    }
}

impl PlainRow {
    /// This row, if it is one.
    fn of(row: &Row) -> Option<PlainRow> {
        let record = &row.record;
        let is_plain = (record.forgotten, record.expires, record.attempts_max) == (None, None, None)
            && (record.lane.is_none() && row.place.is_none() && row.sole.is_none())
            && (record.why.is_none() && record.progress.is_none());
        if !is_plain {
            return None;
        }
        let (high, low) = halves(record.id);
        let values = [
            whole(record.seq.0),
            high,
            low,
            i64::from(record.state.kind() as u8),
            whole(record.token.0),
            i64::from(record.attempts),
            whole(row.kept),
            whole(record.due),
            i64::from(record.priority as u8),
            record.rank,
            i64::from(record.waits_for),
            i64::from(row.marks),
            whole(row.bytes),
            row.line,
            row.owner,
            whole(record.created),
        ];
        Some(PlainRow { values, until: rows::until(record) })
    }

    /// Where it is.
    pub(super) fn seq(&self) -> Seq {
        Seq(self.values[0] as u64)
    }

    /// The first half of its id.
    fn high(&self) -> i64 {
        self.values[1]
    }

    /// Whether these are the halves of its id.
    fn is(&self, high: i64, low: i64) -> bool {
        self.values[1..3] == [high, low]
    }
}

/// A request that was never changed.
#[derive(Debug)]
pub(super) struct NewRequest {
    pub(super) seq: Seq,
    pub(super) request: Arc<Request>,
}

/// How those are written.
const REQUEST: &str =
    "INSERT INTO requests (seq, method, target, fields, body, edits) SELECT *, 0 FROM tidegate_requests";

impl Shown for NewRequest {
    const NAME: &CStr = c"tidegate_requests";
    const TABLE: &CStr = c"CREATE TABLE shown (seq, method, target, fields, body)";

    fn list() -> &'static LocalKey<Cell<Vec<NewRequest>>> {
        thread_local!(static LIST: Cell<Vec<NewRequest>> = const { Cell::new(Vec::new()) });
        &LIST
    }

    fn tell(&self, column: usize, to: &mut Context) -> rusqlite::Result<()> {
        match column {
            0 => to.set_result(whole(self.seq.0)),
            1 => to.set_result(self.request.method.as_str()),
            2 => to.set_result(&*self.request.target),
            3 => {
                let mut fields = Vec::with_capacity(self.request.fields.bytes());
                self.request.fields.pack_short(&mut fields);
                to.set_result(fields)
            }
            _ => to.set_result(&*self.request.body),
        }
    }
}
