//! Tests of the store through its doors: whatever it is made of, it tells the same. With a real database in a directory of
//! the test's own, and with a real PostgreSQL.

mod migrate;
mod postgres;
mod sqlite;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;
use tidegate_model::idempotency::{Answer, Command, Fingerprint, Kept, Key, Told};
use tidegate_testkit::Postgres;
use tidegate_wire::clock;

use crate::{
    Location, Named, OpenError, PostgresSettings, PostgresUrl, State, Store, StoreSettings, Unavailable,
};

/// Long after any test.
const LATER: u64 = 1 << 40;
/// Long before any.
const BEFORE: u64 = 1;
/// What a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(25);

/// What a store is made of.
enum Bed {
    Directory(TempDir),
    Postgres(String),
}

impl Bed {
    /// One of each.
    fn all() -> [Bed; 2] {
        [Bed::Directory(tempfile::tempdir().unwrap()), Bed::Postgres(Postgres::shared().database())]
    }

    fn settings(&self) -> StoreSettings {
        settings(match self {
            Bed::Directory(directory) => Location::Directory(directory.path().join("data")),
            Bed::Postgres(url) => at(url, Duration::from_secs(3600)),
        })
    }

    /// How many may have it at the same time.
    fn nodes(&self) -> usize {
        if matches!(self, Bed::Directory(_)) { 1 } else { 2 }
    }

    fn open(&self) -> Store {
        Store::open(self.settings()).unwrap()
    }
}

/// A PostgreSQL at this URL, with leases of this length.
fn at(url: &str, lease: Duration) -> Location {
    let url = PostgresUrl::parse(&format!("{url}?sslmode=disable")).unwrap();
    Location::Postgres(PostgresSettings {
        url,
        ca: None,
        lease,
        timeout: PATIENCE,
        shards: 1,
        node: "here".into(),
        brings: false,
    })
}

fn settings(location: Location) -> StoreSettings {
    StoreSettings { location, bytes_max: 64 << 20, tenant_bytes_max: 16 << 20 }
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
    for bed in Bed::all() {
        let (answered, held, free) = (named("a", "1"), named("a", "2"), named("a", "3"));
        let store = bed.open();
        check(
            &store,
            &answered,
            &[(claim(1, LATER), Told::Claimed), (finish(1, whole(3), LATER), Told::Done)],
        );
        check(&store, &held, &[(claim(2, LATER), Told::Claimed)]);
        check(
            &store,
            &free,
            &[(claim(3, LATER), Told::Claimed), (Command::Release { claim: 3 }, Told::Done)],
        );
        let before = store.standing();
        assert_eq!((before.records, before.commits, before.done, &before.state), (2, 5, 5, &State::Serving));
        store.close();
        assert_eq!(say(&store, &free, claim(4, LATER)), Err(Unavailable::Stopped));
        drop(store);
        let store = bed.open();
        until("it has counted them", || {
            let after = store.standing();
            (after.records, after.bytes) == (2, before.bytes)
        });
        check(&store, &answered, &[(claim(5, LATER), Told::Answered(whole(3)))]);
        check(&store, &held, &[(claim(6, LATER), Told::Unknown)]);
        check(&store, &free, &[(claim(7, LATER), Told::Claimed)]);
        assert_eq!(store.standing().commits, 1, "who is only told writes nothing");
    }
}

#[test]
fn a_tenant_finds_no_other_tenants_record_and_fills_no_other_tenants_room() {
    for bed in Bed::all() {
        let store = Store::open(StoreSettings { tenant_bytes_max: 8000, ..bed.settings() }).unwrap();
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
}

#[test]
fn what_has_come_to_its_end_is_removed_and_its_room_is_free() {
    for bed in Bed::all() {
        let store = Arc::new(bed.open());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut all = tokio::task::JoinSet::new();
            for number in 0..300 {
                let store = Arc::clone(&store);
                let ended = finish(number, whole(10), BEFORE);
                all.spawn(
                    async move { store.tell(named("a", &number.to_string()), "a".into(), ended).await },
                );
            }
            assert!(all.join_all().await.iter().all(|told| *told == Ok(Told::Done)));
        });
        check(&store, &named("b", "kept"), &[(claim(1, LATER), Told::Claimed)]);
        until("all are swept", || store.standing().records == 1);
        assert_eq!(store.standing().swept, 300);
    }
}

#[test]
fn a_store_that_is_full_says_so_and_goes_on_once_there_is_room() {
    for bed in Bed::all() {
        let store = Store::open(StoreSettings { bytes_max: 1 << 17, ..bed.settings() }).unwrap();
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
}

#[test]
fn an_answer_that_finds_no_room_is_known_by_its_status_and_takes_no_other_down() {
    for bed in Bed::all() {
        let store = Store::open(StoreSettings { bytes_max: 1 << 17, ..bed.settings() }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let tell = |key: &str, command| store.tell(named("a", key), "a".into(), command);
            let (large, small) = (tell("1", finish(1, whole(1 << 18), LATER)), tell("2", claim(2, LATER)));
            // Whether both are written together or one after the other.
            assert_eq!(tokio::join!(large, small), (Ok(Told::Done), Ok(Told::Claimed)));
        });
        check(&store, &named("a", "1"), &[(claim(3, LATER), Told::Answered(Kept::Status(201)))]);
    }
}

/// The store in a few words, for the test below: no batches, no pages, no counts.
#[derive(Default)]
struct Naive {
    records: HashMap<(u8, u8), Simple>,
    /// Of each node, how often it was begun anew.
    lives: [u64; 2],
}

#[derive(Clone, Copy)]
struct Simple {
    print: u8,
    claim: u64,
    ended: bool,
    status: Option<u16>,
    /// The node that has it, and in which life.
    holder: (usize, u64),
}

/// Which record, by which node.
#[derive(Clone, Copy)]
struct Where {
    record: (u8, u8),
    node: usize,
}

impl Naive {
    fn known(&self, at: Where) -> Option<Simple> {
        self.records.get(&at.record).copied().filter(|known| !known.ended)
    }

    fn put(&mut self, at: Where, print: u8, claim: u64, ended: bool, status: Option<u16>) {
        let holder = (at.node, self.lives[at.node]);
        self.records.insert(at.record, Simple { print, claim, ended, status, holder });
    }

    fn claim(&mut self, at: Where, print: u8, claim: u64, ended: bool, again: bool) -> Told {
        match self.known(at) {
            Some(known) if known.print != print => return Told::Mismatch,
            Some(Simple { status: Some(status), .. }) => return Told::Answered(Kept::Status(status)),
            Some(Simple { holder: (node, life), .. }) if node != at.node && self.lives[node] == life => {
                return Told::Elsewhere;
            }
            Some(_) if !again => return Told::Unknown,
            Some(_) | None => {}
        }
        self.put(at, print, claim, ended, None);
        Told::Claimed
    }

    fn finish(&mut self, at: Where, print: u8, claim: u64, ended: bool, status: u16) -> Told {
        match self.known(at) {
            Some(known) if known.claim != claim || known.status.is_some() => Told::Lost,
            _ => {
                self.put(at, print, claim, ended, Some(status));
                Told::Done
            }
        }
    }

    fn release(&mut self, at: Where, claim: u64) -> Told {
        match self.known(at) {
            Some(known) if known.claim == claim && known.status.is_none() => {
                self.records.remove(&at.record);
                Told::Done
            }
            Some(_) => Told::Lost,
            None => Told::Done,
        }
    }
}

/// What is done, by which node, to which record, for which request, under which claim, and one thing more.
type Step = (u8, usize, (u8, u8), u8, u64, bool);

/// Gives commands to as many nodes as may have the store, and compares what each comes to with what the naive one tells.
fn check_lock_step(bed: &Bed, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut nodes: Vec<Option<Store>> = (0..bed.nodes()).map(|_| Some(bed.open())).collect();
    let mut naive = Naive::default();
    for (number, (what, node, record, print, which, flag)) in steps.into_iter().enumerate() {
        let node = node % nodes.len();
        let at = Where { record, node };
        let named = named(&record.0.to_string(), &record.1.to_string());
        let fingerprint = fingerprint(print);
        // A record in four has come to its end as soon as it is written.
        let ends = which == 3;
        let until = if ends { BEFORE } else { LATER };
        // No process has a claim of another's, nor of one that ended.
        let claim = (naive.lives[node] * 2 + node as u64) * 10 + which;
        let status = 200 + number as u16;
        let (command, expected) = match what {
            0..=4 => (
                Command::Claim { fingerprint, claim, again: flag, records_max: 1000, until },
                naive.claim(at, print, claim, ends, flag),
            ),
            5..=7 => (
                Command::Finish { fingerprint, claim, kept: Kept::Status(status), until },
                naive.finish(at, print, claim, ends, status),
            ),
            8 => (Command::Release { claim }, naive.release(at, claim)),
            _ => {
                let before = nodes[node].take();
                before.iter().for_each(Store::close);
                drop(before);
                nodes[node] = Some(bed.open());
                naive.lives[node] += 1;
                continue;
            }
        };
        let store = nodes[node].as_ref().unwrap();
        prop_assert_eq!(say(store, &named, command), Ok(expected));
    }
    nodes.iter().flatten().for_each(Store::close);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn it_tells_what_the_simplest_store_would(
        steps in proptest::collection::vec(
            (0u8..10, 0usize..2, (0u8..2, 0u8..3), 0u8..2, 0u64..4, any::<bool>()),
            1..30,
        ),
    ) {
        for bed in Bed::all() {
            check_lock_step(&bed, steps.clone())?;
        }
    }
}

#[test]
fn documents_are_there_after_a_new_start() {
    use crate::documents::{Expect, Listing, Place, Room, Write, Written};
    for bed in Bed::all() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let place = || Place { kind: "thing", tenant: "a".into(), name: "x".into() };
        let put = |expect, body| {
            let room = Room { count: 10, bytes: 1000 };
            vec![Write::Put { place: place(), expect, at: 7, until: None, body, room }]
        };
        let store = bed.open();
        let written = runtime.block_on(store.write(put(Expect::Absent, Bytes::from_static(b"1"))));
        assert_eq!(written, Ok(Written::Done(vec![1])));
        let stale = runtime.block_on(store.write(put(Expect::Absent, Bytes::from_static(b"2"))));
        assert_eq!(stale, Ok(Written::Unexpected(0, Some(1))));
        store.close();
        let store = bed.open();
        let found = runtime.block_on(store.document(place())).unwrap().unwrap();
        assert_eq!((found.version, found.at, &found.body[..]), (1, 7, &b"1"[..]));
        let listing = Listing { kind: "thing", tenant: "a".into(), after: None, since: 0, most: 5 };
        assert_eq!(runtime.block_on(store.documents(listing)), Ok(vec![found]));
    }
}
