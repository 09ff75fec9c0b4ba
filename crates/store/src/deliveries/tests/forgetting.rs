//! What is forgotten, and what is not yet: by hand, between what is done by and by.

use rusqlite::Connection;

use super::*;
use crate::database::VERSIONS;
use crate::deliveries::ledger::Ledger;
use crate::deliveries::sqlite::recent::Recent;
use crate::deliveries::sqlite::{self, Sqlite};
use crate::deliveries::{Book, append, commit, look, prune};

/// A database of the newest version.
pub(super) fn tables() -> Connection {
    let connection = crate::memory::nowhere();
    VERSIONS.iter().for_each(|statements| connection.execute_batch(statements).unwrap());
    sqlite::prepare(&connection).unwrap();
    connection
}

/// Does something in a transaction.
pub(super) fn done<T>(
    connection: &Connection,
    book: &mut Book,
    work: impl FnOnce(&mut Ledger<'_>) -> T,
) -> T {
    let mut recent = Recent::default();
    let mut tables = Sqlite::new(connection, &mut recent);
    let mut ledger = Ledger::new(&mut tables, book);
    let made = work(&mut ledger);
    ledger.close().unwrap();
    made
}

#[test]
fn one_that_others_come_after_is_not_forgotten_before_they_are_told() {
    let connection = tables();
    let (connection, mut book) = (&connection, Book::default());
    let head = promise(0, "acme");
    // More than one transaction tells.
    let after = |number| Promise { after: vec![head.id], ..promise(number, "acme") };
    let promises: Vec<_> = [head.clone()].into_iter().chain((1..=1200).map(after)).collect();
    done(connection, &mut book, |ledger| append::append(ledger, &promises, ROOM, NOW).unwrap());
    let (epoch, seq) = (Epoch { shard: 0, number: 0 }, Seq(1));
    let mut make = |command| {
        let asked = [Asked { seq, command, attempt: None, result: None }];
        done(connection, &mut book, |ledger| commit::commit(ledger, epoch, &asked, NOW).unwrap())
    };
    make(Command::Start { until: LATER });
    let becomes = Becomes::Delivered { forgotten: NOW };
    make(Command::Finish { token: Token(1), becomes, why: None });
    let mut pruned = 0;
    while book.has_work(0) {
        assert_eq!(pruned, 0, "it was forgotten, and some that come after it do not know how it has ended");
        pruned += done(connection, &mut book, |ledger| prune::prune(ledger, 0, NOW, 256, 1 << 20).unwrap()).0;
        done(connection, &mut book, |ledger| ledger.work(0, NOW).unwrap());
    }
    pruned += done(connection, &mut book, |ledger| prune::prune(ledger, 0, NOW, 256, 1 << 20).unwrap()).0;
    assert_eq!(pruned, 1);
    for promise in &promises[1..] {
        let found = done(connection, &mut book, |ledger| look::found(ledger, None, promise.id).unwrap());
        assert_eq!(found.unwrap().record.state, State::Ready);
    }
}
