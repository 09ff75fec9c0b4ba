//! How fast the store is, and how much memory it takes:
//! `cargo test --release -p tidegate-store deliveries::tests::measure -- --ignored --nocapture --test-threads 1`.

use super::*;
use crate::database::{self, Database};

/// Deliveries that are appended together.
const BATCH: usize = 256;
/// Callers at a time.
const CALLERS: usize = 4;

fn promises(stand: &mut Stand, count: usize, due: Option<Ms>) -> Vec<Promise> {
    let request = Arc::new(Request {
        method: Method::POST,
        target: "/jobs".into(),
        fields: Fields::default(),
        body: Bytes::from(vec![b'x'; 1024]),
    });
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut id = || {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        Id(u128::from(chance) << 64 | u128::from(chance.rotate_left(29)))
    };
    let promise = stand.promise("acme");
    (0..count).map(|_| Promise { id: id(), due, request: Arc::clone(&request), ..promise.clone() }).collect()
}

/// Appends all of these, from some callers at a time.
fn append_all(stand: &Stand, promises: &[Promise]) {
    let store = stand.store();
    stand.runtime.block_on(async {
        for some in promises.chunks(BATCH * CALLERS) {
            let mut told = some.chunks(BATCH).map(|batch| Box::pin(store.append(batch.to_vec(), ROOM, NOW)));
            let told = (told.next(), told.next(), told.next(), told.next());
            let wait = |one: Option<_>| async {
                match one {
                    Some(one) => Some(one.await),
                    None => None,
                }
            };
            let all = tokio::join!(wait(told.0), wait(told.1), wait(told.2), wait(told.3));
            for told in [all.0, all.1, all.2, all.3].into_iter().flatten() {
                assert!(told.unwrap().iter().all(|told| matches!(told, Appended::Accepted(_))));
            }
        }
    });
}

fn commit_all(stand: &Stand, asked: Vec<Asked>) -> Vec<Committed> {
    stand.runtime.block_on(stand.store().commit(stand.epoch, asked, NOW)).unwrap()
}

fn per_second(what: &str, count: usize, began: tidegate_model::tick::Tick) {
    let seconds = clock::now().since(began).as_secs_f64();
    eprintln!("{what}: {:.0}/s", count as f64 / seconds);
}

/// CPU time of this process, in seconds: user, system.
fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let seconds = |place: usize| fields[place].parse::<f64>().unwrap() / 100.0;
    (seconds(11), seconds(12))
}

fn cpu_each(what: &str, count: usize, before: (f64, f64), after: (f64, f64)) {
    let each = |seconds: f64| seconds * 1e6 / count as f64;
    let [user, system] = [each(after.0 - before.0), each(after.1 - before.1)];
    eprintln!("CPU of {what}: {user:.1} us user, {system:.1} us system");
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
#[ignore = "a measurement"]
fn whole_lives() {
    let mut stand = Stand::on(Bed::directory(16 << 30));
    let count = 200 * BATCH;
    let promises = promises(&mut stand, count, None);
    let (began, before) = (clock::now(), cpu());
    append_all(&stand, &promises);
    per_second("accepted, 1 KiB", count, began);
    let accepted = cpu();
    let line = Line { queue: "mails".into(), tenant: "acme".into() };
    let (mut after, lives) = (None, clock::now());
    let mut done = 0;
    loop {
        let found = stand.runtime.block_on(stand.store().ready(stand.epoch, &line, after, BATCH)).unwrap();
        let Some(last) = found.last() else { break };
        after = Some((last.rank, last.seq));
        let start = |ready: &Ready| Asked {
            seq: ready.seq,
            command: Command::Start { until: LATER },
            attempt: None,
            result: None,
        };
        let started = commit_all(&stand, found.iter().map(start).collect());
        let finish = |(ready, started): (&Ready, Committed)| {
            let Told::Started(token) = started.told else { panic!("{:?}", started.told) };
            assert_eq!(started.request.unwrap().body.len(), 1024);
            let command = Command::Finish { token, becomes: DONE, why: None };
            Asked { seq: ready.seq, command, attempt: None, result: None }
        };
        done += commit_all(&stand, found.iter().zip(started).map(finish).collect()).len();
    }
    assert_eq!(done, count);
    per_second("looked for, started and ended", count, lives);
    per_second("whole lives", count, began);
    cpu_each("what was accepted", count, before, accepted);
    cpu_each("a life", count, before, cpu());
}

/// What is left of an acceptance where nobody asks anything: the rows and indices of a delivery, so many in each transaction.
#[test]
#[ignore = "a measurement"]
fn sqlite_alone() {
    const EACH: usize = 84;
    const TRANSACTIONS: usize = 1000;
    let numbers =
        format!("WITH RECURSIVE n (k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM n WHERE k < {})", EACH - 1);
    let deliveries = format!(
        "{numbers} INSERT INTO deliveries (seq, high, low, state, token, attempts, kept, due, priority, rank, waits_for, marks,
         bytes, line, owner, created) SELECT ?1 + k, ?1 + k, random(), 2, 0, 0, 0, ?2, 1, ?1 + k, 0, 0, 1100, 1, 1, ?2 FROM n"
    );
    let requests = format!(
        "{numbers} INSERT INTO requests (seq, method, target, fields, body, edits) SELECT ?1 + k, 'POST', '/jobs', ?2, ?3, 0
         FROM n"
    );
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path(), 16 << 30).unwrap();
    let connection = &database.connection;
    let (began, before, mut logged) = (clock::now(), cpu(), 0);
    for transaction in 0..TRANSACTIONS {
        let first = (transaction * EACH + 1) as i64;
        let begun = database::begin(connection).unwrap();
        let rows = connection.prepare_cached(&deliveries).unwrap().execute((first, NOW as i64)).unwrap();
        let bodies =
            connection.prepare_cached(&requests).unwrap().execute((first, [7; 60], [7; 1024])).unwrap();
        begun.commit().unwrap();
        assert_eq!((rows, bodies), (EACH, EACH));
        logged += database.written();
        if logged >= 4 << 20 {
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(())).unwrap();
            logged = 0;
        }
    }
    let count = TRANSACTIONS * EACH;
    per_second("accepted by SQLite alone, 1 KiB", count, began);
    cpu_each("each", count, before, cpu());
}

#[test]
#[ignore = "a measurement"]
fn a_million_that_wait_for_their_time() {
    let mut stand = Stand::on(Bed::directory(16 << 30));
    let began = clock::now();
    for _ in 0..100 {
        let some = promises(&mut stand, 10_000, Some(LATER));
        let some: Vec<_> = some
            .into_iter()
            .enumerate()
            .map(|(place, promise)| Promise {
                id: Id(promise.id.0 ^ stand.last << 50),
                due: Some(LATER + place as Ms),
                ..promise
            })
            .collect();
        append_all(&stand, &some);
    }
    per_second("accepted for later, 1 KiB", 1_000_000, began);
    eprintln!("resident: {} MiB", rss_mib());
    let began = clock::now();
    let (found, next, _) = stand.promote(LATER, 1000);
    eprintln!("promoted {} in {:?}, next {next:?}", found.len(), clock::now().since(began));
}
