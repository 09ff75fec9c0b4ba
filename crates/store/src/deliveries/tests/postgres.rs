//! What is so of deliveries on a PostgreSQL alone: several nodes, servers that end, connections that are lost.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tidegate_testkit::Ends;

use super::*;
use crate::{PostgresSettings, PostgresUrl};

/// Where a database is, with leases that no test outlives.
pub(super) fn at(url: &str, shards: u16) -> PostgresSettings {
    let url = PostgresUrl::parse(&format!("{url}?sslmode=disable")).unwrap();
    PostgresSettings {
        url,
        ca: None,
        lease: Duration::from_secs(3600),
        timeout: PATIENCE,
        shards,
        node: "here".into(),
        brings: false,
    }
}

/// All nodes were not heard of for so long that others may end them.
pub(super) fn lapse(server: &Postgres, url: &str) {
    // One by one: whoever writes holds its own, and waits for another's shard.
    let lapse = "DO $$ DECLARE node bigint; BEGIN
        FOR node IN SELECT epoch FROM tidegate.nodes WHERE ended IS NULL LOOP
            UPDATE tidegate.nodes SET until = clock_timestamp() - interval '1 second' WHERE epoch = node;
            COMMIT;
        END LOOP;
    END $$";
    let _ = server.say_in(url, lapse);
}

fn open(url: &str, shards: u16) -> Result<Store, OpenError> {
    let location = Location::Postgres(at(url, shards));
    Store::open(StoreSettings { location, bytes_max: 1 << 30, tenant_bytes_max: 1 << 20 })
}

fn node(url: &str) -> Store {
    open(url, 1).unwrap()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let by = clock::now().after(PATIENCE);
    while !holds() {
        assert!(clock::now() < by, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One whose number is all of its id, with a body whose bytes count.
fn promise(id: u128, tenant: &str) -> Promise {
    let like = super::promise(id, tenant);
    let request = Request { body: Bytes::from(vec![b'x'; 100]), ..(*like.request).clone() };
    Promise { id: Id(id), request: Arc::new(request), ..like }
}

fn audit(store: &Store) {
    assert_eq!(wait(store.audit()), Ok(Vec::new()));
}

fn asked(seq: Seq, command: Command) -> Asked {
    Asked { seq, command, attempt: None, result: None }
}

/// What some nodes do while something happens to their server.
#[derive(Default)]
struct Work {
    /// Whether nothing more is accepted.
    full: AtomicBool,
    /// Who accepts yet.
    accepting: AtomicU64,
    /// All that was accepted is made.
    done: AtomicBool,
    accepted: Mutex<Vec<Id>>,
    made: AtomicU64,
    /// How often an attempt may have been broken off.
    recovered: AtomicU64,
}

impl Work {
    /// Accepts until it is told not to. Whatever happens, who asks is told the truth in the end.
    fn accept(&self, store: &Store, writer: u128) {
        for number in 0.. {
            if self.full.load(SeqCst) {
                break;
            }
            let some: Vec<Promise> = (0..3)
                .map(|one| Promise {
                    // Of every third the order counts.
                    lane: if one == 0 { lane(true, 1) } else { None },
                    ..promise(writer << 64 | number << 2 | one, &format!("t{}", one % 2))
                })
                .collect();
            loop {
                match wait(store.append(some.clone(), ROOM, NOW)) {
                    Ok(told) => {
                        let good =
                            |told: &Appended| matches!(told, Appended::Accepted(_) | Appended::Already(_));
                        assert!(told.iter().all(good), "{told:?}");
                        break;
                    }
                    Err(Unavailable::Failing) => {}
                    Err(why) => panic!("{why}"),
                }
            }
            self.accepted.lock().unwrap().extend(some.iter().map(|promise| promise.id));
        }
        self.accepting.fetch_sub(1, SeqCst);
    }

    /// Makes what is accepted until nothing more is, by whatever it takes.
    fn make(&self, store: &Store) {
        while !self.done.load(SeqCst) {
            match wait(store.lead(0)) {
                Ok(epoch) if self.make_under(store, epoch).is_some() => self.done.store(true, SeqCst),
                Ok(_) => {}
                Err(Unavailable::Failing | Unavailable::Elsewhere) => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(why) => panic!("{why}"),
            }
        }
    }

    /// `None`: it failed, or another leads.
    fn make_under(&self, store: &Store, epoch: Epoch) -> Option<()> {
        let told = |told: Result<Vec<Committed>, Unavailable>| match told {
            Ok(told) => Some(told),
            Err(Unavailable::Failing | Unavailable::Fenced) => None,
            Err(why) => panic!("{why}"),
        };
        let looked = wait(store.leased(epoch, Seq(0), 1000)).ok()?;
        for one in looked {
            self.recovered.fetch_add(1, SeqCst);
            let again = Command::Finish { token: one.token, becomes: Becomes::Again { due: NOW }, why: None };
            told(wait(store.commit(epoch, vec![asked(one.delivery.seq, again)], NOW)))?;
        }
        loop {
            wait(store.promote(epoch, NOW, 1000)).ok()?;
            let (full, mut found) = (self.accepting.load(SeqCst) == 0, Vec::new());
            for line in wait(store.lines(epoch, None, 10)).ok()? {
                found.extend(wait(store.ready(epoch, &line, None, 50)).ok()?);
            }
            if found.is_empty() && full {
                return Some(());
            }
            let start = |ready: &Ready| asked(ready.seq, Command::Start { until: LATER });
            let started = told(wait(store.commit(epoch, found.iter().map(start).collect(), NOW)))?;
            let ends = found.iter().zip(started).filter_map(|(ready, started)| match started.told {
                Told::Started(token) => {
                    assert!(started.request.is_some());
                    Some(asked(ready.seq, Command::Finish { token, becomes: DONE, why: None }))
                }
                _ => None,
            });
            let ended = told(wait(store.commit(epoch, ends.collect(), NOW)))?;
            assert!(ended.iter().all(|ended| ended.told == Told::Done), "{ended:?}");
            self.made.fetch_add(ended.len() as u64, SeqCst);
        }
    }

    /// Waits until so many more were made.
    fn goes_on(&self, more: u64) {
        let before = self.made.load(SeqCst);
        until("more was made", || self.made.load(SeqCst) >= before + more);
    }
}

struct Full<'a>(&'a Work);

impl Drop for Full<'_> {
    fn drop(&mut self) {
        self.0.full.store(true, SeqCst);
        if std::thread::panicking() {
            self.0.done.store(true, SeqCst);
        }
    }
}

/// Lets these nodes work while something happens. Nothing that was accepted is lost or stranded, or there twice.
fn check(nodes: &[Store], happens: impl FnOnce(&Work)) {
    let work = Work { accepting: AtomicU64::new(nodes.len() as u64), ..Work::default() };
    std::thread::scope(|scope| {
        for (number, node) in nodes.iter().enumerate() {
            let work = &work;
            scope.spawn(move || work.accept(node, number as u128 + 1));
            scope.spawn(move || work.make(node));
        }
        // However this ends, nobody works for ever.
        let ends = Full(&work);
        work.goes_on(20);
        happens(&work);
        drop(ends);
    });
    let accepted = work.accepted.lock().unwrap();
    assert_eq!(accepted.iter().collect::<HashSet<_>>().len(), accepted.len());
    for id in accepted.iter() {
        let record = wait(nodes[0].read(None, *id)).unwrap().unwrap().record;
        assert_eq!(record.state, State::Delivered, "{record:?}");
    }
    let totals = wait(nodes[0].totals()).unwrap();
    assert_eq!(totals[0].counts.iter().sum::<u64>(), accepted.len() as u64);
    audit(&nodes[0]);
}

/// What is said to PostgreSQL: `cargo test --release -p tidegate-store deliveries::tests::postgres::what_it_costs -- --ignored
/// --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_it_costs() {
    const BATCH: u128 = 256;
    const BATCHES: u128 = 20;
    let server = Postgres::start_with("deliveries-costs", &["fsync=on"]);
    let url = server.database();
    let store = node(&url);
    let epoch = wait(store.lead(0)).unwrap();
    let line = Line { queue: "mails".into(), tenant: "a".into() };
    let said = || crate::postgres::SAID.each_ref().map(|count| count.load(SeqCst));
    let wal = || server.say("SELECT pg_current_wal_lsn() - '0/0'").parse::<f64>().unwrap();
    let each = |what: &str, work: &mut dyn FnMut(u128)| {
        // Statements are prepared once.
        work(0);
        let (before, written, began) = (said(), wal(), clock::now());
        (1..=BATCHES).for_each(work);
        let seconds = clock::now().since(began).as_secs_f64();
        let [statements, answers] = [0, 1].map(|place| (said()[place] - before[place]) as f64);
        let batches = BATCHES as f64;
        let count = (BATCHES * BATCH) as f64;
        eprintln!(
            "{what}: {:.1} statements and {:.1} answers a batch of {BATCH}; {:.0} bytes of log and {:.0}/s",
            statements / batches,
            answers / batches,
            (wal() - written) / count,
            count / seconds
        );
    };
    each("accepted", &mut |batch| {
        let some = (0..BATCH).map(|one| promise(batch << 64 | one, "a")).collect();
        wait(store.append(some, ROOM, NOW)).unwrap();
    });
    let mut tokens = Vec::new();
    let mut all = Vec::new();
    let mut after = None;
    while let Some(last) = {
        let page = wait(store.ready(epoch, &line, after, 1000)).unwrap();
        all.extend(page.iter().map(|ready| ready.seq));
        page.last().map(|ready| (ready.rank, ready.seq))
    } {
        after = Some(last);
    }
    let of = |batch: u128| all.iter().skip((batch * BATCH) as usize).take(BATCH as usize);
    each("begun", &mut |batch| {
        let start = of(batch).map(|seq| asked(*seq, Command::Start { until: LATER })).collect();
        let started = wait(store.commit(epoch, start, NOW)).unwrap();
        tokens.extend(started.iter().map(|started| match started.told {
            Told::Started(token) => token,
            other => panic!("{other:?}"),
        }));
    });
    each("ended", &mut |batch| {
        let tokens = tokens.iter().skip((batch * BATCH) as usize);
        let finish = of(batch)
            .zip(tokens)
            .map(|(seq, token)| asked(*seq, Command::Finish { token: *token, becomes: DONE, why: None }));
        wait(store.commit(epoch, finish.collect(), NOW)).unwrap();
    });
}

#[test]
fn connections_that_are_lost_under_load_lose_nothing_and_leave_no_doubt() {
    let server = Postgres::start("deliveries-lost");
    let url = server.database();
    check(&[node(&url), node(&url)], |work| {
        for _ in 0..5 {
            server.end_connections();
            work.goes_on(20);
        }
    });
}

#[test]
fn a_server_that_is_killed_and_starts_again_has_all_that_was_accepted() {
    let mut server = Postgres::start("deliveries-killed");
    let url = server.database();
    check(&[node(&url), node(&url)], |work| {
        for _ in 0..2 {
            server.stop(Ends::Killed);
            server.start_again();
            work.goes_on(20);
        }
    });
}

#[test]
fn a_failover_loses_nothing_where_a_standby_has_to_confirm() {
    let mut primary = Postgres::start("deliveries-primary");
    let own = primary.database();
    let standby = primary.standby("deliveries-standby");
    let name = own.rsplit_once('/').unwrap().1;
    let url = format!("postgres://postgres@{},{}/{name}", primary.address, standby.address);
    until("the standby is there", || {
        primary.say("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"
    });
    let _ = primary.say("ALTER SYSTEM SET synchronous_standby_names = '*'");
    let _ = primary.say("SELECT pg_reload_conf()");
    until("the standby confirms", || primary.say("SELECT sync_state FROM pg_stat_replication") == "sync");
    check(&[node(&url), node(&url)], |work| {
        primary.stop(Ends::Killed);
        standby.promote();
        work.goes_on(20);
    });
}

#[test]
fn nodes_that_were_not_heard_of_are_fenced_and_go_on_under_new_epochs() {
    let server = Postgres::shared();
    let url = server.database();
    check(&[node(&url), node(&url), node(&url)], |work| {
        for _ in 0..5 {
            lapse(server, &url);
            work.goes_on(10);
        }
    });
}

#[test]
fn a_shard_is_one_nodes_until_that_gives_it_away_ends_or_is_not_heard_of() {
    let server = Postgres::shared();
    let url = server.database();
    let (one, other) = (node(&url), node(&url));
    let first = wait(one.lead(0)).unwrap();
    assert_eq!(wait(other.lead(0)), Err(Unavailable::Elsewhere));
    let seq = {
        assert_eq!(wait(other.append(vec![promise(1, "a")], ROOM, NOW)), Ok(vec![Appended::Accepted(Id(1))]));
        wait(one.read(None, Id(1))).unwrap().unwrap().record.seq
    };
    wait(one.give_away(first)).unwrap();
    let second = wait(other.lead(0)).unwrap();
    assert!(second.number > first.number);
    let start = || vec![asked(seq, Command::Start { until: LATER })];
    assert_eq!(wait(one.commit(first, start(), NOW)), Err(Unavailable::Fenced));
    assert_eq!(wait(one.lines(first, None, 1)), Err(Unavailable::Fenced));
    lapse(server, &url);
    let third = wait(one.lead(0)).unwrap();
    assert_eq!(wait(other.commit(second, start(), NOW)), Err(Unavailable::Fenced));
    assert!(matches!(wait(one.commit(third, start(), NOW)).unwrap()[0].told, Told::Started(_)));
    one.close();
    assert!(wait(other.lead(0)).unwrap().number > third.number);
    assert!(matches!(wait(other.read(None, Id(1))).unwrap().unwrap().record.state, State::Leased { .. }));
}

#[test]
fn what_another_node_has_written_is_known_after_a_look_at_something_else() {
    let url = Postgres::shared().database();
    let (one, other) = (node(&url), node(&url));
    for (number, store) in [&one, &other, &one, &other].into_iter().enumerate() {
        // It sees that the other one has written, and is not told what.
        assert_eq!(wait(store.paused()), Ok(Vec::new()));
        let id = Id(number as u128);
        assert_eq!(wait(store.append(vec![promise(id.0, "a")], ROOM, NOW)), Ok(vec![Appended::Accepted(id)]));
    }
    let epoch = wait(one.lead(0)).unwrap();
    assert_eq!(wait(one.paused()), Ok(Vec::new()));
    let seq = wait(one.read(None, Id(0))).unwrap().unwrap().record.seq;
    wait(other.append(vec![promise(9, "a")], ROOM, NOW)).unwrap();
    assert_eq!(wait(one.paused()), Ok(Vec::new()));
    wait(one.commit(epoch, vec![asked(seq, Command::Start { until: LATER })], NOW)).unwrap();
    let counts = wait(other.totals()).unwrap()[0].counts;
    assert_eq!(counts, [0, 0, 4, 1, 0, 0, 0]);
    audit(&other);
}

#[test]
fn a_node_that_is_missed_by_nobody_keeps_what_it_leads() {
    let server = Postgres::shared();
    let url = server.database();
    let one = node(&url);
    let epoch = wait(one.lead(0)).unwrap();
    let _ = server.say_in(&url, "UPDATE tidegate.nodes SET ended = clock_timestamp()");
    // It writes under a new epoch; the shard was nobody else's meanwhile.
    assert_eq!(wait(one.append(vec![promise(1, "a")], ROOM, NOW)), Ok(vec![Appended::Accepted(Id(1))]));
    assert_eq!(wait(one.commit(epoch, Vec::new(), NOW)), Ok(Vec::new()));
    let other = node(&url);
    assert_eq!(wait(other.lead(0)), Err(Unavailable::Elsewhere));
}

#[test]
fn what_another_node_accepts_is_heard_and_what_nobody_told_of_is_looked_for() {
    let server = Postgres::shared();
    let url = server.database();
    let (owner, other) = (node(&url), node(&url));
    wait(owner.lead(0)).unwrap();
    let mut news = owner.follow(0);
    until("it has looked", || news.take().contains(&News::Look));
    wait(other.append(vec![promise(1, "a"), promise(2, "b")], ROOM, NOW)).unwrap();
    let mut heard = Vec::new();
    until("it has heard", || {
        heard.extend(news.take());
        heard.len() >= 2
    });
    let ids: Vec<_> = heard
        .iter()
        .map(|news| match news {
            News::Ready(ready) => ready.id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [Id(1), Id(2)]);
    // As if what was told of it was lost.
    let _ = server.say_in(&url, "UPDATE tidegate.shards SET version = version + 1");
    until("it looks", || news.take().contains(&News::Look));
}

#[test]
fn deliveries_are_divided_by_tenant_and_into_as_many_shards_as_at_first() {
    const SHARDS: u16 = 3;
    let url = Postgres::shared().database();
    let nodes = [open(&url, SHARDS).unwrap(), open(&url, SHARDS).unwrap()];
    let refused = open(&url, 1).err().map(|error| error.to_string());
    assert!(refused.is_some_and(|why| why.contains("into 3 shards") && why.contains("says 1")));
    let tenants: Vec<String> = (0..12).map(|number| format!("tenant-{number}")).collect();
    let all: Vec<Promise> =
        tenants.iter().enumerate().map(|(id, tenant)| promise(id as u128, tenant)).collect();
    assert!(
        wait(nodes[0].append(all, ROOM, NOW))
            .unwrap()
            .iter()
            .all(|told| matches!(told, Appended::Accepted(_)))
    );
    let epochs: Vec<Epoch> =
        (0..SHARDS).map(|shard| wait(nodes[usize::from(shard) % 2].lead(shard)).unwrap()).collect();
    assert_eq!(wait(nodes[0].lead(SHARDS)), Err(Unavailable::Fenced));
    let mut made = 0;
    for epoch in &epochs {
        let node = &nodes[usize::from(epoch.shard) % 2];
        for line in wait(node.lines(*epoch, None, 100)).unwrap() {
            assert_eq!(node.shard_of(&line.tenant), epoch.shard);
            for ready in wait(node.ready(*epoch, &line, None, 10)).unwrap() {
                assert_eq!(ready.seq.shard(), epoch.shard);
                let start = asked(ready.seq, Command::Start { until: LATER });
                assert!(matches!(
                    wait(node.commit(*epoch, vec![start], NOW)).unwrap()[0].told,
                    Told::Started(_)
                ));
                made += 1;
            }
        }
    }
    assert_eq!(made, tenants.len());
    // Whoever wants it changes it, by its id or by filter, whatever shard it is in.
    let cancel = Command::Cancel { forgotten: LATER };
    assert_eq!(wait(nodes[1].change(None, Id(5), cancel, NOW)), Ok(Some(Told::Done)));
    let control = Control::Cancel { forgotten: LATER };
    let changed = wait(nodes[1].change_many(Filter::default(), control, None, 100, NOW)).unwrap();
    assert_eq!((changed.changed, changed.next), (tenants.len() - 1, None));
    assert_eq!(wait(nodes[0].list(Filter::default(), None, 100)).unwrap().records.len(), tenants.len());
    let roll = wait(nodes[0].roll()).unwrap();
    let here = |who: &crate::deliveries::Who| *who == crate::deliveries::Who::Here;
    assert_eq!(roll.nodes, 2);
    assert_eq!(roll.shards.iter().map(|one| here(&one.who)).collect::<Vec<_>>(), [true, false, true]);
    audit(&nodes[0]);
}

#[test]
fn a_part_of_which_nothing_is_left_is_dropped_and_what_is_left_is_moved() {
    let server = Postgres::shared();
    let url = server.database();
    let store = node(&url);
    let epoch = wait(store.lead(0)).unwrap();
    let all: Vec<Promise> = (0..40).map(|id| promise(id, "a")).collect();
    wait(store.append(all, ROOM, NOW)).unwrap();
    let forgotten = Becomes::Delivered { forgotten: NOW };
    let line = Line { queue: "mails".into(), tenant: "a".into() };
    for ready in &wait(store.ready(epoch, &line, None, 100)).unwrap()[1..] {
        let start = asked(ready.seq, Command::Start { until: LATER });
        let Told::Started(token) = wait(store.commit(epoch, vec![start], NOW)).unwrap()[0].told else {
            panic!()
        };
        let finish = Command::Finish { token, becomes: forgotten, why: None };
        wait(store.commit(epoch, vec![asked(ready.seq, finish)], NOW)).unwrap();
    }
    let ages = |what: &str| {
        server.say_in(&url, &format!("SELECT string_agg(age::text, ',' ORDER BY age) FROM {what}"))
    };
    assert_eq!(ages("tidegate.ages"), "1,2,3");
    let tomorrow = "UPDATE tidegate.ages SET began = began - interval '2 days'";
    until("the next one has begun", || {
        let _ = server.say_in(&url, tomorrow);
        ages("tidegate.ages WHERE began IS NOT NULL").contains('2')
    });
    until("what is left was moved", || {
        server.say_in(&url, "SELECT string_agg(DISTINCT age::text, ',') FROM tidegate.deliveries") != "1"
    });
    // So that there is one past the last.
    wait(store.append(vec![promise(99, "a")], ROOM, NOW)).unwrap();
    until("it is dropped", || {
        let _ = server.say_in(&url, tomorrow);
        !ages("tidegate.ages").starts_with("1,")
    });
    assert_eq!(server.say_in(&url, "SELECT to_regclass('tidegate.requests_1') IS NULL"), "t");
    let left = wait(store.read(None, Id(0))).unwrap().unwrap();
    assert_eq!((left.record.state, left.request.body.len()), (State::Ready, 100));
    audit(&store);
}
