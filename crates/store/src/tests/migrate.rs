//! A store in a directory is brought into a PostgreSQL: what is there then is what was there, and a database that is not empty
//! is left alone.

use tempfile::TempDir;
use tidegate_model::delivery::{Command, Kind, Lane, Request};
use tidegate_model::gate::Priority;

use super::*;
use crate::deliveries::{
    Asked, Attempt, Callback, Filter, Kept as Answered, Line, Otherwise, Pause, Promise, Room, Unique,
};
use crate::documents::{Expect, Listing, Place, Write};
use crate::postgres::Away;
use crate::{MigrateError, Migrated, migrate};

/// Milliseconds.
const NOW: u64 = 1_800_000_000_000;
const ROOM: Room = Room { waiting_max: 1_000, bytes_max: 1 << 30 };

fn promise(number: u128, tenant: &str) -> Promise {
    let request = Request {
        method: http::Method::POST,
        target: "/jobs".into(),
        fields: Default::default(),
        body: format!("body {number}").into(),
    };
    Promise {
        id: tidegate_model::delivery::Id(number),
        queue: "jobs".into(),
        tenant: tenant.into(),
        lane: None,
        priority: Priority::Default,
        aging: 60_000,
        due: None,
        expires: None,
        attempts_max: None,
        unique: None,
        after: Vec::new(),
        callback: None,
        request: request.into(),
    }
}

/// Some of everything.
async fn fill(store: &Store) {
    let lane = Some(Lane { key: "k".into(), ordered: true, open_max: 1 });
    let unique = Unique {
        key: "u".into(),
        until: u64::MAX / 4,
        otherwise: Otherwise::Keep,
        fingerprint: Some([7; 32]),
    };
    let callback =
        Callback { id: tidegate_model::delivery::Id(900), queue: "jobs".into(), target: "/done".into() };
    let mut all: Vec<Promise> =
        (1..40).map(|number| promise(number, ["a", "b", "c"][number as usize % 3])).collect();
    all[0].unique = Some(unique);
    all[1].due = Some(NOW * 2);
    all[2].lane.clone_from(&lane);
    all[5].lane = lane;
    all[8].after = vec![all[5].id];
    all[10].callback = Some(callback);
    store.append(all, ROOM, NOW).await.unwrap();
    let epoch = store.lead(0).await.unwrap();
    let line = Line { queue: "jobs".into(), tenant: "a".into() };
    let ready = store.ready(epoch, &line, None, 100).await.unwrap();
    let seqs: Vec<_> = ready.iter().take(2).map(|ready| ready.seq).collect();
    let start = |seq| Asked { seq, command: Command::Start { until: NOW * 2 }, attempt: None, result: None };
    let told = store.commit(epoch, seqs.iter().map(|seq| start(*seq)).collect(), NOW).await.unwrap();
    // One is under way, one has ended.
    let tidegate_model::delivery::Told::Started(token) = told[0].told else { panic!("{told:?}") };
    let attempt =
        Attempt { number: 1, began: NOW, took: 5, status: Some(200), why: None, answer: "well".into() };
    let becomes = tidegate_model::delivery::Becomes::Delivered { forgotten: NOW * 2 };
    let finish = Asked {
        seq: seqs[0],
        command: Command::Finish { token, becomes, why: None },
        attempt: Some(attempt),
        result: Some(Answered {
            status: 200,
            fields: Default::default(),
            body: "well done".into(),
            whole: true,
        }),
    };
    store.commit(epoch, vec![finish], NOW).await.unwrap();
    assert!(store.pause(Pause::Tenant("b".into()), NOW).await.unwrap());
    let place = Place { kind: "thing", tenant: "a".into(), name: "n".into() };
    let room = crate::documents::Room { count: 10, bytes: 1_000 };
    let put = Write::Put { place, expect: Expect::Absent, at: 5, until: None, body: "doc".into(), room };
    store.write(vec![put]).await.unwrap();
}

fn directory() -> (TempDir, StoreSettings) {
    let folder = TempDir::new().unwrap();
    let settings = settings(Location::Directory(folder.path().join("data")));
    (folder, settings)
}

fn path(settings: &StoreSettings) -> &std::path::Path {
    let Location::Directory(path) = &settings.location else { unreachable!() };
    path
}

fn there(shards: u16) -> (String, StoreSettings) {
    let url = tidegate_testkit::Postgres::shared().database();
    let Location::Postgres(mut postgres) = at(&url, Duration::from_secs(3600)) else { unreachable!() };
    postgres.shards = shards;
    (url, settings(Location::Postgres(postgres)))
}

#[test]
fn what_is_there_then_is_what_was_there() {
    for shards in [1, 3] {
        let (_folder, from) = directory();
        let (_, to) = there(shards);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = Store::open(from.clone()).unwrap();
        runtime.block_on(fill(&store));
        assert_eq!(say(&store, &named("t", "held"), claim(1, LATER)), Ok(Told::Claimed));
        assert_eq!(say(&store, &named("t", "k"), claim(2, LATER)), Ok(Told::Claimed));
        assert_eq!(say(&store, &named("t", "k"), finish(2, whole(10), LATER)), Ok(Told::Done));
        let before = runtime.block_on(store.totals()).unwrap();
        store.close();
        let told = migrate(path(&from), to.clone()).unwrap();
        assert_eq!(told, Migrated { claims: 2, documents: 1, deliveries: 39 });
        let store = Store::open(to.clone()).unwrap();
        runtime.block_on(async {
            let after = store.totals().await.unwrap();
            assert_eq!((after[0].counts, after[0].bytes), (before[0].counts, before[0].bytes));
            assert_eq!(store.paused().await.unwrap(), [Pause::Tenant("b".into())]);
            assert_eq!(store.audit().await.unwrap(), Vec::<String>::new());
            let listing = Listing { kind: "thing", tenant: "a".into(), after: None, since: 0, most: 10 };
            let documents = store.documents(listing).await.unwrap();
            assert_eq!((documents.len(), &documents[0].body[..], documents[0].at), (1, &b"doc"[..], 5));
            // The same is one of a kind still, and a new one is given a place of its own.
            let mut again = promise(500, "b");
            again.unique = Some(Unique {
                key: "u".into(),
                until: u64::MAX / 4,
                otherwise: Otherwise::Keep,
                fingerprint: Some([7; 32]),
            });
            let fresh = promise(501, "b");
            let told = store.append(vec![again, fresh], ROOM, NOW).await.unwrap();
            assert!(matches!(told[0], crate::deliveries::Appended::Already(_)), "{told:?}");
            assert!(matches!(told[1], crate::deliveries::Appended::Accepted(_)), "{told:?}");
            let leased = Filter { state: Some(Kind::Leased), ..Filter::default() };
            assert_eq!(store.list(leased, None, 10).await.unwrap().records.len(), 1);
        });
        assert_eq!(say(&store, &named("t", "k"), claim(3, LATER)), Ok(Told::Answered(whole(10))));
        store.close();
        // What was there is there still, and there is no room for it twice.
        assert!(matches!(migrate(path(&from), to), Err(MigrateError::Occupied(_))));
        assert_eq!(crate::check(path(&from)).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn one_that_was_broken_off_is_not_gone_on_with() {
    let (_folder, from) = directory();
    let (url, to) = there(1);
    let store = Store::open(from.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fill(&store));
    // It is in use.
    assert!(matches!(migrate(path(&from), to.clone()), Err(MigrateError::Open(OpenError::Taken(_)))));
    store.close();
    drop(store);
    Store::open(to.clone()).unwrap().close();
    let server = tidegate_testkit::Postgres::shared();
    // Nothing fits any more in the middle of it.
    let _ = server.say_in(&url, "ALTER TABLE tidegate.lines ADD CONSTRAINT no_b CHECK (tenant <> 'b')");
    let mut impatient = to.clone();
    if let Location::Postgres(postgres) = &mut impatient.location {
        postgres.timeout = Duration::from_secs(3);
    }
    assert!(matches!(migrate(path(&from), impatient), Err(MigrateError::Write(_))));
    assert!(matches!(migrate(path(&from), to.clone()), Err(MigrateError::Begun(_))));
    // Nobody takes it for a store.
    let refused = Store::open(to.clone()).map(|_| ());
    let unfinished = matches!(&refused, Err(OpenError::Postgres { source: Away::Unfinished, .. }));
    assert!(unfinished, "{refused:?}");
    let _ = server.say_in(&url, "DROP SCHEMA tidegate CASCADE");
    assert_eq!(migrate(path(&from), to).unwrap().deliveries, 39);
}
