//! What is so of a PostgreSQL alone: several nodes, servers that end, and connections that are lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use tidegate_testkit::Ends;

use super::*;
use crate::advise;

/// Longer than any test: a lease ends when the test says so.
const LEASE: Duration = Duration::from_secs(3600);

/// What is waited for a server that ends: well above what one takes that works.
const IMPATIENT: Duration = Duration::from_secs(2);

fn open(url: &str) -> Store {
    Store::open(settings(at(url, LEASE))).unwrap()
}

/// A node that waits for a server no longer than a test can.
fn open_impatient(url: &str) -> Store {
    let Location::Postgres(postgres) = at(url, LEASE) else { unreachable!() };
    let postgres = PostgresSettings { timeout: IMPATIENT, ..postgres };
    Store::open(settings(Location::Postgres(postgres))).unwrap()
}

/// What each of these commands by each of these nodes comes to.
fn check_nodes(named: &Named, commands: &[(&Store, Command, Told)]) {
    for (store, command, told) in commands {
        assert_eq!(say(store, named, command.clone()).as_ref(), Ok(told), "{command:?}");
    }
}

#[test]
fn what_one_node_works_on_no_other_begins() {
    let url = Postgres::shared().database();
    let (one, other) = (open(&url), open(&url));
    let named = named("a", "1");
    let again =
        Command::Claim { fingerprint: fingerprint(1), claim: 7, again: true, records_max: 100, until: LATER };
    check_nodes(
        &named,
        &[
            (&one, claim(1, LATER), Told::Claimed),
            (&other, claim(1, LATER), Told::Elsewhere),
            (&other, again.clone(), Told::Elsewhere),
            (&other, finish(1, whole(1), LATER), Told::Lost),
            (&other, Command::Release { claim: 1 }, Told::Lost),
            (&one, finish(1, whole(40_000), LATER), Told::Done),
            (&other, claim(2, LATER), Told::Answered(whole(40_000))),
            (&one, claim(2, LATER), Told::Answered(whole(40_000))),
        ],
    );
    let named = super::named("a", "2");
    check_nodes(&named, &[(&one, claim(3, LATER), Told::Claimed)]);
    one.leave(named.clone(), "a".into(), 3);
    until("it is known to be nobody's", || say(&other, &named, claim(4, LATER)) == Ok(Told::Unknown));
    check_nodes(&named, &[(&other, again, Told::Claimed), (&one, finish(3, whole(1), LATER), Told::Lost)]);
}

#[test]
fn of_all_that_claim_a_key_at_once_one_is_told_so() {
    const KEYS: usize = 40;
    let url = Postgres::shared().database();
    let nodes: Vec<Store> = (0..3).map(|_| open(&url)).collect();
    let claimed: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for store in &nodes {
            let claimed = &claimed;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    let all = claimed.iter().enumerate().map(|(key, claimed)| async move {
                        let named = named("a", &key.to_string());
                        let told = store.ask(named, "a".into(), claim(store.next_claim(), LATER)).await;
                        match told.unwrap() {
                            Told::Claimed => drop(claimed.fetch_add(1, SeqCst)),
                            told => assert_eq!(told, Told::Elsewhere),
                        }
                    });
                    futures_util::future::join_all(all).await;
                });
            });
        }
    });
    assert!(claimed.iter().all(|claimed| claimed.load(SeqCst) == 1), "{claimed:?}");
    until("all are counted once", || nodes.iter().map(|node| node.standing().done).sum::<u64>() == 120);
    let counted = "SELECT sum(records) FROM tidegate.accounts";
    assert_eq!(Postgres::shared().say_in(&url, counted), KEYS.to_string());
}

#[test]
fn who_was_not_heard_of_loses_what_it_had_begun_and_what_it_writes_of_that_is_refused() {
    let (server, named) = (Postgres::shared(), named("a", "1"));
    let url = server.database();
    let (one, other) = (open(&url), open(&url));
    check_nodes(
        &named,
        &[(&one, claim(1, LATER), Told::Claimed), (&other, claim(1, LATER), Told::Elsewhere)],
    );
    let lapse = "UPDATE tidegate.nodes SET until = clock_timestamp() WHERE epoch = 1";
    let _ = server.say_in(&url, lapse);
    // Nobody has missed it: it goes on.
    check_nodes(&super::named("a", "2"), &[(&one, claim(9, LATER), Told::Claimed)]);
    check_nodes(
        &named,
        &[
            (&other, claim(2, LATER), Told::Unknown),
            (&one, finish(1, whole(1), LATER), Told::Lost),
            (&one, Command::Release { claim: 1 }, Told::Lost),
            (&other, claim(3, LATER), Told::Unknown),
        ],
    );
    // From then on it writes under another epoch, and what it begins is its own again.
    let next = super::named("a", "3");
    check_nodes(
        &next,
        &[
            (&one, claim(4, LATER), Told::Claimed),
            (&other, claim(5, LATER), Told::Elsewhere),
            (&one, finish(4, whole(1), LATER), Told::Done),
        ],
    );
    assert_eq!(server.say_in(&url, "SELECT count(*) FROM tidegate.nodes WHERE ended IS NOT NULL"), "1");
}

#[test]
fn a_clock_that_is_put_back_leaves_no_key_with_a_node_that_is_gone() {
    let (server, named) = (Postgres::shared(), named("a", "1"));
    let url = server.database();
    let (gone, other) = (open(&url), open(&url));
    check_nodes(
        &named,
        &[(&gone, claim(1, LATER), Told::Claimed), (&other, claim(2, LATER), Told::Elsewhere)],
    );
    // As if it had been heard of an hour from now, and another one, and another.
    let ahead = "UPDATE tidegate.nodes SET until = clock_timestamp() + 3 * lease WHERE epoch = 1";
    let _ = server.say_in(&url, ahead);
    check_nodes(&named, &[(&other, claim(3, LATER), Told::Unknown)]);
}

#[test]
fn nodes_that_start_at_once_make_the_tables_once_and_newer_ones_are_refused() {
    let server = Postgres::shared();
    let url = server.database();
    std::thread::scope(|scope| {
        let nodes: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&url))).collect();
        for (number, node) in nodes.into_iter().enumerate() {
            let key = named("a", &number.to_string());
            check_nodes(&key, &[(&node.join().unwrap(), claim(1, LATER), Told::Claimed)]);
        }
    });
    assert_eq!(server.say_in(&url, "SELECT count(*) FROM tidegate.versions"), "3");
    let _ = server.say_in(&url, "INSERT INTO tidegate.versions (version) VALUES (99)");
    let refused = Store::open(settings(at(&url, LEASE))).err().map(|error| error.to_string());
    assert!(refused.is_some_and(|why| why.contains("version 99")));
}

#[test]
fn a_database_that_there_is_not_is_told_at_once_and_a_server_that_is_away_is_waited_for() {
    let mut server = Postgres::start("away");
    let nowhere = Store::open(settings(at(&server.url("nowhere"), LEASE)));
    assert!(matches!(nowhere, Err(OpenError::Postgres { .. })), "{nowhere:?}");
    let url = server.database();
    server.stop(Ends::InOrder);
    let store = open(&url);
    assert!(matches!(store.state(), State::Failing(_)));
    server.start_again();
    until("it is there", || say(&store, &named("a", "1"), claim(1, LATER)) == Ok(Told::Claimed));
    until("its deliveries are, too", || store.state() == State::Serving);
}

#[test]
fn what_was_told_to_be_done_outlives_the_server_and_what_is_asked_meanwhile_is_told_so() {
    let mut server = Postgres::start("outlives");
    let url = server.database();
    let store = open_impatient(&url);
    let (answered, held) = (named("a", "1"), named("a", "2"));
    until("it is claimed", || say(&store, &answered, claim(1, LATER)) == Ok(Told::Claimed));
    until("it is answered", || say(&store, &answered, finish(1, whole(3), LATER)) == Ok(Told::Done));
    until("it is held", || say(&store, &held, claim(2, LATER)) == Ok(Told::Claimed));
    server.stop(Ends::Killed);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| say(&store, &named("a", "3"), claim(3, LATER)));
        let told = scope.spawn(|| say(&store, &held, finish(2, whole(4), LATER)));
        assert_eq!(asked.join().unwrap(), Err(Unavailable::Failing));
        assert_eq!(told.join().unwrap(), Err(Unavailable::Failing));
    });
    assert!(matches!(store.state(), State::Failing(_)));
    server.start_again();
    // That it was answered was told to its client: it is written now, though nobody waits for it any more.
    let known = || say(&store, &held, claim(4, LATER)) == Ok(Told::Answered(whole(4)));
    until("what was owed is written", known);
    until("it is told again", || say(&store, &answered, claim(5, LATER)) == Ok(Told::Answered(whole(3))));
    // Nothing was sent for it: it is free.
    until("it is free", || say(&store, &named("a", "3"), claim(6, LATER)) == Ok(Told::Claimed));
}

#[test]
fn connections_that_are_lost_under_load_lose_nothing_and_leave_no_doubt() {
    const WRITERS: u64 = 4;
    let server = Postgres::start("lost");
    let url = server.database();
    let (one, other) = (open(&url), open(&url));
    let (ended, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let written: Vec<Vec<Named>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, ended, done) = (if writer % 2 == 0 { &one } else { &other }, &ended, &done);
                scope.spawn(move || write_until(store, ended, done))
            })
            .collect();
        for _ in 0..5 {
            let before = done.load(SeqCst);
            until("some were written", || done.load(SeqCst) >= before + WRITERS);
            server.end_connections();
        }
        ended.store(true, SeqCst);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for named in written.iter().flatten() {
        assert_eq!(say(&one, named, claim(0, LATER)), Ok(Told::Answered(whole(10))));
    }
    let counted = server.say_in(&url, "SELECT sum(records) FROM tidegate.accounts");
    assert_eq!(counted, server.say_in(&url, "SELECT count(*) FROM tidegate.claims"));
}

#[test]
fn a_server_that_hangs_is_not_waited_for_without_end() {
    let server = Postgres::start("hangs");
    let url = server.database();
    let store = open_impatient(&url);
    until("it is claimed", || say(&store, &named("a", "1"), claim(1, LATER)) == Ok(Told::Claimed));
    server.hang(true);
    assert_eq!(say(&store, &named("a", "2"), claim(2, LATER)), Err(Unavailable::Failing));
    server.hang(false);
    until("it is there again", || say(&store, &named("a", "3"), claim(3, LATER)) == Ok(Told::Claimed));
    until("what nobody was told of is free", || {
        say(&store, &named("a", "2"), claim(4, LATER)) == Ok(Told::Claimed)
    });
}

/// A pair of servers, one of which confirms what the other commits, that fails over while two nodes write.
#[test]
fn a_failover_loses_nothing_that_was_told_where_a_standby_has_to_confirm() {
    let mut primary = Postgres::start("primary");
    let own = primary.database();
    let standby = primary.standby("standby");
    let name = own.rsplit_once('/').unwrap().1;
    let url = format!("postgres://postgres@{},{}/{name}", primary.address, standby.address);
    let Location::Postgres(both) = at(&url, LEASE) else { unreachable!() };
    let lost = |advice: &String| advice.contains("synchronous_standby_names is empty");
    until("the standby is there", || {
        primary.say("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
    });
    assert!(advise(&both).unwrap().warnings.iter().any(lost));
    let _ = primary.say("ALTER SYSTEM SET synchronous_standby_names = '*'");
    let _ = primary.say("SELECT pg_reload_conf()");
    until("the standby confirms", || primary.say("SELECT sync_state FROM pg_stat_replication") == "sync");
    assert!(!advise(&both).unwrap().warnings.iter().any(lost));
    let (one, other) = (open(&url), open(&url));
    let (ended, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let written: Vec<Vec<Named>> = std::thread::scope(|scope| {
        let writers: Vec<_> = [&one, &other]
            .into_iter()
            .map(|store| scope.spawn(|| write_until(store, &ended, &done)))
            .collect();
        let more = || {
            let before = done.load(SeqCst);
            until("more was written", || done.load(SeqCst) >= before + 10);
        };
        more();
        primary.stop(Ends::Killed);
        standby.promote();
        // Nobody has to confirm what the only one that is left commits.
        more();
        ended.store(true, SeqCst);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    for named in written.iter().flatten() {
        assert_eq!(say(&one, named, claim(0, LATER)), Ok(Told::Answered(whole(10))), "{named:?}");
    }
}

/// Writes records of its own until it is told to end. Those that were told to be done.
fn write_until(store: &Store, ended: &AtomicBool, done: &AtomicU64) -> Vec<Named> {
    static WRITERS: AtomicU64 = AtomicU64::new(0);
    let writer = WRITERS.fetch_add(1, SeqCst);
    let mut written = Vec::new();
    for number in 0.. {
        if ended.load(SeqCst) {
            break;
        }
        // None of a tenant has more than it may.
        let named = named(&format!("{writer}-{}", number / 50), &number.to_string());
        let mine = store.next_claim();
        // Whatever becomes of a connection meanwhile, who asks is told the truth.
        assert_eq!(say(store, &named, claim(mine, LATER)), Ok(Told::Claimed));
        assert_eq!(say(store, &named, finish(mine, whole(10), LATER)), Ok(Told::Done));
        written.push(named);
        done.fetch_add(1, SeqCst);
    }
    written
}

#[test]
fn tls_is_spoken_and_a_certificate_that_nobody_vouches_for_is_refused() {
    let (server, certificate) = Postgres::start_tls("tls");
    let database = server.database();
    let open = |url: String, ca: Option<&std::path::Path>| {
        let url = PostgresUrl::parse(&url).unwrap();
        let ca = ca.map(std::path::Path::to_owned);
        let postgres = PostgresSettings {
            url,
            ca,
            lease: LEASE,
            timeout: PATIENCE,
            shards: 1,
            node: "here".into(),
            brings: false,
        };
        Store::open(settings(Location::Postgres(postgres))).unwrap()
    };
    let trusting = open(format!("{database}?sslmode=prefer"), None);
    check(&trusting, &named("a", "1"), &[(claim(1, LATER), Told::Claimed)]);
    let verified = open(format!("{database}?sslmode=verify-full"), Some(&certificate));
    check(&verified, &named("a", "2"), &[(claim(1, LATER), Told::Claimed)]);
    let secured = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                   WHERE ssl AND application_name LIKE 'tidegate-%'";
    // Each has one for its deliveries beside that.
    assert_eq!(server.say(secured), "4");
    // It is signed by none of the system's authorities.
    let refused = open(format!("{database}?sslmode=require"), None);
    assert!(matches!(refused.state(), State::Failing(_)));
}

/// What is so of a key, for whoever watches all that work on it.
#[derive(Default)]
struct Watched {
    /// Somebody was told that it may make the request, and has not given that back.
    claimed: AtomicBool,
    /// Somebody was told that it is recorded how it was answered.
    answered: AtomicBool,
}

impl Watched {
    /// One command after another, as a request gives them: how it ends is drawn by its number.
    fn work(&self, store: &Store, named: &Named, number: u64) {
        let mine = store.next_claim();
        let answered = self.answered.load(SeqCst);
        match say(store, named, claim(mine, LATER)) {
            Ok(Told::Claimed) => {
                assert!(!answered, "{named:?}: what was answered is told again, or nobody knows");
                assert!(!self.claimed.swap(true, SeqCst), "{named:?}: another has it");
            }
            Ok(Told::Answered(_) | Told::Elsewhere | Told::Unknown) => return,
            // It takes too long, and nothing was sent.
            Err(Unavailable::Failing) => return,
            told => panic!("{named:?}: {told:?}"),
        }
        match number % 4 {
            0 => {
                // From then on another may have it.
                self.claimed.store(false, SeqCst);
                let told = say(store, named, Command::Release { claim: mine });
                assert!(matches!(told, Ok(Told::Done | Told::Lost) | Err(_)), "{told:?}");
            }
            1 => store.leave(named.clone(), "a".into(), mine),
            _ => match say(store, named, finish(mine, whole(10), LATER)) {
                Ok(Told::Done) => self.answered.store(true, SeqCst),
                // Its node was believed to be gone.
                told => assert!(matches!(told, Ok(Told::Lost) | Err(_)), "{told:?}"),
            },
        }
    }
}

#[test]
fn whatever_becomes_of_nodes_and_connections_nobody_has_what_another_has() {
    const KEYS: usize = 100;
    let server = Postgres::start("watched");
    let url = server.database();
    let nodes = [open(&url), open(&url), open(&url)];
    let watched: Vec<Watched> = (0..KEYS).map(|_| Watched::default()).collect();
    let named = |key: usize| named(&format!("t{}", key / 50), &key.to_string());
    let worked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let (store, watched, worked) = (&nodes[worker % 3], &watched, &worked);
            scope.spawn(move || {
                for key in 0..KEYS {
                    // Two of each node's, a little apart: some meet, some follow each other.
                    let at = (key + worker / 3 * 7) % KEYS;
                    watched[at].work(store, &named(at), (key + worker) as u64);
                    worked.fetch_add(1, SeqCst);
                }
            });
        }
        for what in 0..12 {
            until("more was done", || worked.load(SeqCst) >= (what + 1) * 40);
            match what % 3 {
                0 => server.end_connections(),
                // All of them are believed to be gone, until they are heard of again.
                _ => drop(server.say_in(&url, "UPDATE tidegate.nodes SET until = clock_timestamp()")),
            }
        }
    });
    for (key, watched) in watched.iter().enumerate() {
        let told = say(&nodes[0], &named(key), claim(0, LATER)).unwrap();
        if watched.answered.load(SeqCst) {
            assert_eq!(told, Told::Answered(whole(10)));
        }
    }
    let counted = server.say_in(&url, "SELECT sum(records), sum(bytes) FROM tidegate.accounts");
    assert_eq!(counted, server.say_in(&url, "SELECT count(*), sum(bytes) FROM tidegate.claims"));
}
