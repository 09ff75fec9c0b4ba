//! Lists that SQLite reads as tables: a statement that inserts all rows of a list opens what it writes to once, and is small, so that it
//! is in the processor's caches for the next row.
//!
//! A list is the thread's own, and is there while its statement is carried out: SQLite reads it on the thread that asks.

use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;
use std::thread::LocalKey;

use rusqlite::ffi;
use rusqlite::vtab::{Context, Filters, IndexInfo, VTab, VTabConfig, VTabConnection, VTabCursor};

use super::statements::Statements;
use crate::deliveries::tables::Fault;

/// What is shown.
pub(super) trait Shown: Sized + 'static {
    /// What its table is called.
    const NAME: &CStr;
    /// How that would be made.
    const TABLE: &CStr;

    /// Those that the next cursor reads.
    fn list() -> &'static LocalKey<Cell<Vec<Self>>>;

    /// Tells a column.
    fn tell(&self, column: usize, to: &mut Context) -> rusqlite::Result<()>;
}

/// Carries out a statement that reads these, all of them. They are gone then.
pub(super) fn write<T: Shown>(
    statements: &mut Statements<'_>,
    sql: &'static str,
    list: &mut Vec<T>,
) -> Result<(), Fault> {
    if list.is_empty() {
        return Ok(());
    }
    let (statement, count) = (statements.get(sql)?, list.len());
    T::list().set(std::mem::take(list));
    let written = statement.raw_execute();
    // Where the cursor has had it, it has given it back.
    *list = T::list().take();
    list.clear();
    match written? {
        all if all == count => Ok(()),
        _ => Err(Fault::Odd("not all of what is new was written")),
    }
}

/// A table, for SQLite.
#[repr(C)]
pub(super) struct Table<T> {
    /// First, as SQLite has it.
    base: ffi::sqlite3_vtab,
    of: PhantomData<T>,
}

// SAFETY: it begins with what SQLite looks at.
unsafe impl<T: Shown> VTab<'_> for Table<T> {
    type Aux = ();
    type Cursor = Cursor<T>;

    fn connect(
        connection: &mut VTabConnection,
        _: Option<&()>,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[&[u8]],
    ) -> rusqlite::Result<(Cow<'static, CStr>, Table<T>)> {
        // Nobody's statement reads it but ours.
        connection.config(VTabConfig::DirectOnly)?;
        Ok((Cow::Borrowed(T::TABLE), Table { base: ffi::sqlite3_vtab::default(), of: PhantomData }))
    }

    fn best_index(&self, _: &mut IndexInfo) -> rusqlite::Result<bool> {
        Ok(true)
    }

    fn open(&mut self) -> rusqlite::Result<Cursor<T>> {
        Ok(Cursor { base: ffi::sqlite3_vtab_cursor::default(), list: Vec::new(), place: 0 })
    }
}

/// Where SQLite is in a list.
#[repr(C)]
pub(super) struct Cursor<T: Shown> {
    /// First, as SQLite has it.
    base: ffi::sqlite3_vtab_cursor,
    list: Vec<T>,
    place: usize,
}

// SAFETY: it begins with what SQLite looks at.
unsafe impl<T: Shown> VTabCursor for Cursor<T> {
    fn filter(&mut self, _: c_int, _: Option<&str>, _: &Filters<'_>) -> rusqlite::Result<()> {
        (self.list, self.place) = (T::list().take(), 0);
        Ok(())
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.place += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.place >= self.list.len()
    }

    fn column(&self, to: &mut Context, column: c_int) -> rusqlite::Result<()> {
        let shown = self.list.get(self.place).zip(usize::try_from(column).ok());
        shown.map_or(Ok(()), |(shown, column)| shown.tell(column, to))
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(self.place as i64)
    }
}

impl<T: Shown> Drop for Cursor<T> {
    fn drop(&mut self) {
        T::list().set(std::mem::take(&mut self.list));
    }
}
