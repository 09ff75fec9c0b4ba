//! What is new in a transaction is there for whoever asks, however many there are, and in the tables once it is committed.

use tidegate_model::delivery::Lane;

use super::forgetting::tables;
use super::*;
use crate::database::Trouble;
use crate::deliveries::ledger::Ledger;
use crate::deliveries::sqlite::Sqlite;
use crate::deliveries::sqlite::recent::Recent;
use crate::deliveries::tables::{Among, Fault, Tables as _};
use crate::deliveries::{Book, append};

/// One of some that lie beside each other: plain ones, one of a key, one with a long body.
fn some(number: u128) -> Promise {
    let like = Promise { id: Id((8 + number) << 64), ..promise(number, "acme") };
    match number % 8 {
        3 => Promise {
            lane: Some(Lane { key: number.to_string().into(), ordered: true, open_max: 1 }),
            ..like
        },
        5 => {
            let body = Bytes::from(vec![b'x'; 65 << 10]);
            Promise { request: Arc::new(Request { body, ..(*like.request).clone() }), ..like }
        }
        _ => like,
    }
}

#[test]
fn however_many_are_accepted_at_once_each_is_there() {
    let (connection, mut book, mut recent) = (tables(), Book::default(), Recent::default());
    let mut last = 0;
    for count in (1..=20).chain([31, 32, 33, 100]) {
        let promises: Vec<_> = (last + 1..=last + count).map(some).collect();
        last += count;
        // Within the transaction, and in one of its own, of one who knows nothing of it.
        let mut tables = Sqlite::new(&connection, &mut recent);
        let mut ledger = Ledger::new(&mut tables, &mut book);
        let accepted = append::append(&mut ledger, &promises, ROOM, NOW).unwrap();
        assert!(accepted.iter().zip(&promises).all(|(one, promise)| *one == Appended::Accepted(promise.id)));
        let again = append::append(&mut ledger, &promises, ROOM, NOW).unwrap();
        assert!(again.iter().zip(&promises).all(|(one, promise)| *one == Appended::Already(promise.id)));
        ledger.close().unwrap();
        let (mut book, mut recent) = (Book::default(), Recent::default());
        let mut tables = Sqlite::new(&connection, &mut recent);
        let mut ledger = Ledger::new(&mut tables, &mut book);
        for promise in &promises {
            let seq = ledger.tables.find(promise.id).unwrap().unwrap();
            assert_eq!(ledger.load(seq).unwrap().map(|row| row.record.id), Some(promise.id));
            assert_eq!(ledger.request(seq).unwrap(), (Arc::clone(&promise.request), 0));
        }
        assert_eq!(ledger.tables.audit().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn what_is_new_is_found_before_it_is_written() {
    let (connection, mut book, mut recent) = (tables(), Book::default(), Recent::default());
    let mut tables = Sqlite::new(&connection, &mut recent);
    let mut ledger = Ledger::new(&mut tables, &mut book);
    for number in 1..=24 {
        let promise = some(number);
        append::append(&mut ledger, std::slice::from_ref(&promise), ROOM, NOW).unwrap();
        let after = Promise { after: vec![promise.id], ..super::promise(number, "acme") };
        let accepted = append::append(&mut ledger, std::slice::from_ref(&after), ROOM, NOW).unwrap();
        assert_eq!(accepted, [Appended::Accepted(after.id)]);
        let page = ledger.tables.page(Among::All, Seq(i64::MAX as u64), 100).unwrap();
        assert_eq!(page.len() as u128, 2 * number);
        let seq = ledger.tables.find(promise.id).unwrap().unwrap();
        // It is at hand once, and then in the table.
        for _ in 0..2 {
            assert_eq!(ledger.request(seq).unwrap(), (Arc::clone(&promise.request), 0));
        }
    }
    ledger.close().unwrap();
}

#[test]
fn what_finds_no_room_when_it_is_written_is_not_there_and_keeps_nothing_from_coming_later() {
    let (connection, mut book, mut recent) = (tables(), Book::default(), Recent::default());
    let accept = |numbers: std::ops::Range<u128>, book: &mut Book, recent: &mut Recent| {
        let promises: Vec<_> = numbers.map(some).collect();
        let transaction = connection.unchecked_transaction().unwrap();
        let mut tables = Sqlite::new(&connection, recent);
        let mut ledger = Ledger::new(&mut tables, book);
        let done = append::append(&mut ledger, &promises, ROOM, NOW).and_then(|_| ledger.close());
        drop(tables);
        match done {
            Ok(_) => transaction.commit().unwrap(),
            Err(_) => {
                transaction.rollback().unwrap();
                book.forget();
                recent.forget();
            }
        }
        done.map(drop)
    };
    accept(1..3, &mut book, &mut recent).unwrap();
    let pages: i64 = connection.query_row("PRAGMA page_count", (), |row| row.get(0)).unwrap();
    let bound = |pages: i64| connection.pragma_update(None, "max_page_count", pages).unwrap();
    // Some of them have room.
    bound(pages + 20);
    let failed = accept(10..60, &mut book, &mut recent).unwrap_err();
    assert!(matches!(&failed, Fault::Sqlite(error) if Trouble::of(error) == Trouble::Full), "{failed}");
    bound(1 << 20);
    accept(30..40, &mut book, &mut recent).unwrap();
    let mut tables = Sqlite::new(&connection, &mut recent);
    let count = tables.page(Among::All, Seq(i64::MAX as u64), 100).unwrap().len();
    assert_eq!((count, tables.audit().unwrap()), (12, Vec::<String>::new()));
}
