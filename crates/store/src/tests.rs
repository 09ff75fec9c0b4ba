//! Tests of the store through its doors, with a real database in a directory of the test's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;
use tidegate_model::idempotency::{Answer, Command, Fingerprint, Kept, Key, Told};
use tidegate_wire::clock;

use crate::{Named, OpenError, State, Store, StoreSettings, Unavailable};

/// Long after any test.
const LATER: u64 = 1 << 40;
/// Long before any.
const BEFORE: u64 = 1;
/// What a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(25);

fn settings(directory: &TempDir) -> StoreSettings {
    StoreSettings {
        directory: directory.path().join("data"),
        bytes_max: 64 << 20,
        tenant_bytes_max: 16 << 20,
    }
}

fn open(directory: &TempDir) -> Store {
    Store::open(settings(directory)).unwrap()
}

fn named(tenant: &str, key: &str) -> Named {
    Named { tenant: tenant.into(), scope: "r".into(), key: Key::parse(key.as_bytes()).unwrap() }
}

fn fingerprint(number: u8) -> Fingerprint {
    [number; 32]
}

fn whole(body: usize) -> Kept {
    let body = Bytes::from(vec![b'x'; body]);
    Kept::Whole(Answer { status: 201, fields: Bytes::from_static(b"f"), body, told_to: fingerprint(9) })
}

fn claim(claim: u64, until: u64) -> Command {
    Command::Claim { fingerprint: fingerprint(1), claim, again: false, records_max: 100, until }
}

fn finish(claim: u64, kept: Kept, until: u64) -> Command {
    Command::Finish { fingerprint: fingerprint(1), claim, kept, until }
}

/// What a command comes to, for a record of this tenant, which pays for it.
fn say(store: &Store, named: &Named, command: Command) -> Result<Told, Unavailable> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.tell(named.clone(), Arc::clone(&named.tenant), command))
}

/// Gives commands for one record, and compares what each comes to.
fn check(store: &Store, named: &Named, commands: &[(Command, Told)]) {
    for (command, told) in commands {
        assert_eq!(say(store, named, command.clone()).as_ref(), Ok(told), "{command:?}");
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let by = clock::now().after(PATIENCE);
    while !holds() {
        assert!(clock::now() < by, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_told_to_be_done_is_there_after_a_new_start() {
    let directory = tempfile::tempdir().unwrap();
    let (answered, held, free) = (named("a", "1"), named("a", "2"), named("a", "3"));
    let store = open(&directory);
    check(&store, &answered, &[(claim(1, LATER), Told::Claimed), (finish(1, whole(3), LATER), Told::Done)]);
    check(&store, &held, &[(claim(2, LATER), Told::Claimed)]);
    check(&store, &free, &[(claim(3, LATER), Told::Claimed), (Command::Release { claim: 3 }, Told::Done)]);
    let before = store.standing();
    assert_eq!((before.records, before.commits, before.done, &before.state), (2, 5, 5, &State::Serving));
    store.close();
    assert_eq!(say(&store, &free, claim(4, LATER)), Err(Unavailable::Stopped));
    drop(store);
    let store = open(&directory);
    let after = store.standing();
    assert_eq!((after.records, after.bytes), (2, before.bytes));
    check(&store, &answered, &[(claim(5, LATER), Told::Answered(whole(3)))]);
    check(&store, &held, &[(claim(6, LATER), Told::Unknown)]);
    check(&store, &free, &[(claim(7, LATER), Told::Claimed)]);
    assert_eq!(store.standing().commits, 1, "who is only told writes nothing");
}

#[test]
fn a_tenant_finds_no_other_tenants_record_and_fills_no_other_tenants_room() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(StoreSettings { tenant_bytes_max: 8000, ..settings(&directory) }).unwrap();
    check(
        &store,
        &named("a", "1"),
        &[(claim(1, LATER), Told::Claimed), (finish(1, whole(5000), LATER), Told::Done)],
    );
    check(
        &store,
        &named("a", "2"),
        &[(claim(2, LATER), Told::Claimed), (finish(2, whole(5000), LATER), Told::Done)],
    );
    check(
        &store,
        &named("b", "1"),
        &[(claim(3, LATER), Told::Claimed), (finish(3, whole(5000), LATER), Told::Done)],
    );
    check(&store, &named("a", "1"), &[(claim(4, LATER), Told::Answered(whole(5000)))]);
    check(&store, &named("a", "2"), &[(claim(4, LATER), Told::Answered(Kept::Status(201)))]);
    check(&store, &named("b", "1"), &[(claim(4, LATER), Told::Answered(whole(5000)))]);
    let most = |most| Command::Claim {
        fingerprint: fingerprint(1),
        claim: 5,
        again: false,
        records_max: most,
        until: LATER,
    };
    check(&store, &named("a", "3"), &[(most(2), Told::Full), (most(3), Told::Claimed)]);
}

#[test]
fn what_has_come_to_its_end_is_removed_and_its_room_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&directory));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for number in 0..300 {
            let store = Arc::clone(&store);
            let ended = finish(number, whole(10), BEFORE);
            all.spawn(async move { store.tell(named("a", &number.to_string()), "a".into(), ended).await });
        }
        assert!(all.join_all().await.iter().all(|told| *told == Ok(Told::Done)));
    });
    check(&store, &named("b", "kept"), &[(claim(1, LATER), Told::Claimed)]);
    until("all are swept", || store.standing().records == 1);
    assert_eq!(store.standing().swept, 300);
}

#[test]
fn a_store_that_is_full_says_so_and_goes_on_once_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(StoreSettings { bytes_max: 1 << 17, ..settings(&directory) }).unwrap();
    let records_max = u64::from(u32::MAX);
    let claim = |claim| Command::Claim {
        fingerprint: fingerprint(1),
        claim,
        again: false,
        records_max,
        until: LATER,
    };
    let named = |number: u64| named("a", &format!("{number:0>250}"));
    let refused =
        (0..10_000).find(|number| say(&store, &named(*number), claim(*number)) != Ok(Told::Claimed));
    let refused = refused.unwrap();
    assert_eq!(say(&store, &named(refused), claim(refused)), Err(Unavailable::Full));
    assert_eq!(store.state(), State::Full);
    for number in refused - 5..refused {
        check(&store, &named(number), &[(Command::Release { claim: number }, Told::Done)]);
    }
    check(&store, &named(refused), &[(claim(refused), Told::Claimed)]);
    assert_eq!(store.state(), State::Serving);
}

#[test]
fn an_answer_that_finds_no_room_is_known_by_its_status_and_takes_no_other_down() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&directory);
    let store = Store::open(StoreSettings { bytes_max: 1 << 17, ..settings }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let tell = |key: &str, command| store.tell(named("a", key), "a".into(), command);
        let (large, small) = (tell("1", finish(1, whole(1 << 18), LATER)), tell("2", claim(2, LATER)));
        // Whether both are written together or one after the other.
        assert_eq!(tokio::join!(large, small), (Ok(Told::Done), Ok(Told::Claimed)));
    });
    check(&store, &named("a", "1"), &[(claim(3, LATER), Told::Answered(Kept::Status(201)))]);
}

#[test]
fn a_directory_has_one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    assert!(matches!(Store::open(settings(&directory)), Err(OpenError::Taken(_))));
    store.close();
    drop(store);
    until("the lock is free", || Store::open(settings(&directory)).is_ok());
}

#[test]
fn what_is_no_store_of_this_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let change = |sql: &str| {
        let other = rusqlite::Connection::open(data.join("tidegate.db")).unwrap();
        other.execute_batch(sql).unwrap();
    };
    change("CREATE TABLE other (a)");
    assert!(matches!(Store::open(settings(&directory)), Err(OpenError::Foreign(_))));
    change("DROP TABLE other");
    drop(open(&directory));
    until("the store is closed", || {
        let other = rusqlite::Connection::open(data.join("tidegate.db")).unwrap();
        other.execute_batch("PRAGMA user_version = 99").is_ok()
    });
    until("a newer version is refused", || {
        matches!(Store::open(settings(&directory)), Err(OpenError::Newer { version: 99, .. }))
    });
    std::fs::write(data.join("tidegate.db"), vec![7; 8192]).unwrap();
    let _ = std::fs::remove_file(data.join("tidegate.db-wal"));
    assert!(matches!(Store::open(settings(&directory)), Err(OpenError::Foreign(_))));
}

/// The store in a few words, for the test below: no batches, no pages, no counts.
#[derive(Default)]
struct Naive(HashMap<(u8, u8), Simple>);

#[derive(Clone, Copy)]
struct Simple {
    print: u8,
    claim: u64,
    ended: bool,
    status: Option<u16>,
}

impl Naive {
    fn known(&self, at: (u8, u8)) -> Option<Simple> {
        self.0.get(&at).copied().filter(|known| !known.ended)
    }

    fn claim(&mut self, at: (u8, u8), print: u8, claim: u64, ended: bool, again: bool) -> Told {
        match self.known(at) {
            Some(known) if known.print != print => return Told::Mismatch,
            Some(Simple { status: Some(status), .. }) => return Told::Answered(Kept::Status(status)),
            Some(_) if !again => return Told::Unknown,
            Some(_) | None => {}
        }
        self.0.insert(at, Simple { print, claim, ended, status: None });
        Told::Claimed
    }

    fn finish(&mut self, at: (u8, u8), print: u8, claim: u64, ended: bool, status: u16) -> Told {
        match self.known(at) {
            Some(known) if known.claim != claim || known.status.is_some() => Told::Lost,
            _ => {
                self.0.insert(at, Simple { print, claim, ended, status: Some(status) });
                Told::Done
            }
        }
    }

    fn release(&mut self, at: (u8, u8), claim: u64) -> Told {
        match self.known(at) {
            Some(known) if known.claim == claim && known.status.is_none() => {
                self.0.remove(&at);
                Told::Done
            }
            Some(_) => Told::Lost,
            None => Told::Done,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn it_tells_what_the_simplest_store_would(
        steps in proptest::collection::vec((0u8..10, 0u8..2, 0u8..3, 0u8..2, 0u64..4, any::<bool>()), 1..30),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = open(&directory);
        let mut naive = Naive::default();
        for (number, (what, tenant, key, print, which, flag)) in steps.into_iter().enumerate() {
            let at = (tenant, key);
            let named = named(&tenant.to_string(), &key.to_string());
            let fingerprint = fingerprint(print);
            // A record in four has come to its end as soon as it is written.
            let ends = which == 3;
            let until = if ends { BEFORE } else { LATER };
            let (command, expected) = match what {
                0..=4 => (
                    Command::Claim { fingerprint, claim: which, again: flag, records_max: 1000, until },
                    naive.claim(at, print, which, ends, flag),
                ),
                5..=7 => (
                    Command::Finish { fingerprint, claim: which, kept: Kept::Status(200 + number as u16), until },
                    naive.finish(at, print, which, ends, 200 + number as u16),
                ),
                8 => (Command::Release { claim: which }, naive.release(at, which)),
                _ => {
                    store.close();
                    drop(store);
                    store = open(&directory);
                    continue;
                }
            };
            prop_assert_eq!(say(&store, &named, command), Ok(expected));
        }
        store.close();
    }
}

#[test]
fn documents_are_there_after_a_new_start() {
    use crate::documents::{Expect, Listing, Place, Room, Write, Written};
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let place = || Place { kind: "thing", tenant: "a".into(), name: "x".into() };
    let put = |expect, body| {
        let room = Room { count: 10, bytes: 1000 };
        vec![Write::Put { place: place(), expect, at: 7, until: None, body, room }]
    };
    let store = open(&directory);
    let written = runtime.block_on(store.write(put(Expect::Absent, Bytes::from_static(b"1"))));
    assert_eq!(written, Ok(Written::Done(vec![1])));
    let stale = runtime.block_on(store.write(put(Expect::Absent, Bytes::from_static(b"2"))));
    assert_eq!(stale, Ok(Written::Unexpected(0, Some(1))));
    store.close();
    let store = open(&directory);
    let found = runtime.block_on(store.document(place())).unwrap().unwrap();
    assert_eq!((found.version, found.at, &found.body[..]), (1, 7, &b"1"[..]));
    let listing = Listing { kind: "thing", tenant: "a".into(), after: None, since: 0, most: 5 };
    assert_eq!(runtime.block_on(store.documents(listing)), Ok(vec![found]));
}
