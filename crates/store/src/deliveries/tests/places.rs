//! Places: each is noted before it is given away, and given away once.

use rusqlite::Connection;

use super::forgetting::{done, tables};
use super::*;
use crate::deliveries::{Book, append};

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, (), |row| row.get(0)).unwrap()
}

#[test]
fn places_are_noted_ahead_and_whoever_begins_anew_gives_away_none_of_those() {
    let connection = tables();
    let accept = |book: &mut Book, id| {
        let promises = [promise(id, "acme")];
        done(&connection, book, |ledger| append::append(ledger, &promises, ROOM, NOW).unwrap());
        let [place, noted] =
            ["SELECT max(seq) FROM deliveries", "SELECT seq FROM shards"].map(|sql| number(&connection, sql));
        assert!(noted > place);
        (place, noted)
    };
    let mut book = Book::default();
    let (first, noted) = accept(&mut book, 1);
    // It is next to it, and nothing more is noted.
    assert_eq!(accept(&mut book, 2), (first + 1, noted));
    let (third, later) = accept(&mut Book::default(), 3);
    assert_eq!((third, later > noted), (noted + 1, true));
}
