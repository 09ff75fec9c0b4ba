//! Statements that a transaction has carried out, at hand for the next time: to look one up by its text costs a good part of what it
//! costs to carry it out.

use rusqlite::{CachedStatement, Connection};

/// Those that are at hand.
pub(super) struct Statements<'a> {
    connection: &'a Connection,
    known: Vec<(&'static str, CachedStatement<'a>)>,
}

impl<'a> Statements<'a> {
    pub(super) fn new(connection: &'a Connection) -> Statements<'a> {
        Statements { connection, known: Vec::new() }
    }

    /// What they are carried out on.
    pub(super) fn connection(&self) -> &'a Connection {
        self.connection
    }

    /// The statement of this text, prepared.
    pub(super) fn get(&mut self, sql: &'static str) -> rusqlite::Result<&mut CachedStatement<'a>> {
        let place = match self.known.iter().position(|(text, _)| *text == sql) {
            Some(place) => place,
            None => {
                self.known.push((sql, self.connection.prepare_cached(sql)?));
                self.known.len() - 1
            }
        };
        Ok(&mut self.known[place].1)
    }
}
