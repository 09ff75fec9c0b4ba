//! A request is read as it was written, by this version and by those before.

use http::header::{HOST, HeaderName, HeaderValue};
use rusqlite::{Connection, params};

use super::forgetting::{done, tables};
use super::*;
use crate::deliveries::{Book, append};

fn fields(connection: &Connection) -> Vec<u8> {
    connection.query_row("SELECT fields FROM requests", (), |row| row.get(0)).unwrap()
}

#[test]
fn fields_are_read_in_their_short_form_and_in_the_one_before_version_6() {
    let connection = tables();
    let mut promise = promise(1, "acme");
    let request = Arc::make_mut(&mut promise.request);
    request.fields.append(HOST, HeaderValue::from_static("shop.test"));
    request.fields.append(HeaderName::from_static("x-order"), HeaderValue::from_static("7"));
    let mut book = Book::default();
    done(&connection, &mut book, |ledger| {
        append::append(ledger, std::slice::from_ref(&promise), ROOM, NOW).unwrap()
    });
    let seq =
        Seq(connection.query_row("SELECT seq FROM deliveries", (), |row| row.get::<_, i64>(0)).unwrap()
            as u64);
    let mut read = || done(&connection, &mut book, |ledger| ledger.request(seq).unwrap().0);
    assert_eq!(read(), promise.request);
    let mut before = Vec::new();
    promise.request.fields.pack(&mut before);
    assert_ne!(fields(&connection), before);
    connection.execute("UPDATE requests SET fields = ?1", params![before]).unwrap();
    assert_eq!(read(), promise.request);
}
