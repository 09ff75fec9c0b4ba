//! What every store keeps to of deliveries, asked through its doors.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tempfile::TempDir;
use tidegate_model::delivery::outcome::later;
use tidegate_model::delivery::{AGING_MS, Becomes};
use tidegate_model::delivery::{Command, Id, Kind, Lane, Ms, Record, Request, Seq, State, Token, Told};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tidegate_wire::clock;
use tokio::runtime::Runtime;

use super::{
    Appended, Asked, Attempt, Callback, Committed, Control, Edit, Edited, Epoch, Filter, Kept, Line, News,
    Otherwise, Pause, Promise, Ready, Room, Unique, Whole,
};
use crate::{Location, OpenError, Store, StoreSettings, Unavailable};

mod history;
mod measure;

/// When it is, unless a test says otherwise: before the clock of the store, which does by it what was left to be done.
const NOW: Ms = 1_700_000_000_000;
/// What a test waits for anything.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(25);
/// Long after.
const LATER: Ms = NOW + 1_000_000_000_000;
const ROOM: Room = Room { waiting_max: 1_000_000, bytes_max: 1 << 40 };

/// A store, and who owns its shard.
struct Stand {
    runtime: Runtime,
    directory: TempDir,
    store: Option<Store>,
    epoch: Epoch,
    bytes_max: u64,
    last: u128,
    /// How often it was killed.
    lives: u32,
}

impl Stand {
    fn new() -> Stand {
        Stand::of_bytes(256 << 20)
    }

    fn of_bytes(bytes_max: u64) -> Stand {
        let mut stand = Stand {
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
            directory: tempfile::tempdir().unwrap(),
            store: None,
            epoch: Epoch { shard: 0, number: 0 },
            bytes_max,
            last: 0,
            lives: 0,
        };
        stand.open();
        stand
    }

    /// Starts it anew, as after a crash: nothing is told to the one before but that it is to go.
    fn open(&mut self) {
        if let Some(store) = self.store.take() {
            store.close();
        }
        let location = Location::Directory(self.place());
        let settings = StoreSettings { location, bytes_max: self.bytes_max, tenant_bytes_max: 1 << 20 };
        // A process that a test beside this one begins may have the lock for a moment.
        let by = clock::now().after(PATIENCE);
        let store = loop {
            match Store::open(settings.clone()) {
                Ok(store) => break store,
                Err(OpenError::Taken(_)) if clock::now() < by => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        self.epoch = self.runtime.block_on(store.lead(0)).unwrap();
        self.store = Some(store);
    }

    /// Starts it anew from what is on disk while the one before is still at work: as after `kill -9`.
    fn kill(&mut self) {
        let (from, to) = (self.place(), self.place().with_extension((self.lives + 1).to_string()));
        std::fs::create_dir_all(&to).unwrap();
        for name in ["tidegate.db", "tidegate.db-wal"] {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
        self.lives += 1;
        self.open();
    }

    fn place(&self) -> std::path::PathBuf {
        let place = self.directory.path().join("data");
        if self.lives == 0 { place } else { place.with_extension(self.lives.to_string()) }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn promise(&mut self, tenant: &str) -> Promise {
        self.last += 1;
        let request = Request {
            method: Method::POST,
            target: "/jobs?a=b".into(),
            fields: Fields::default(),
            body: Bytes::from(format!("body {}", self.last)),
        };
        Promise {
            // The same first half for all: both halves count.
            id: Id(7 << 64 | self.last),
            queue: "mails".into(),
            tenant: tenant.into(),
            lane: None,
            priority: Priority::Default,
            aging: AGING_MS,
            due: None,
            expires: None,
            attempts_max: None,
            unique: None,
            after: Vec::new(),
            callback: None,
            request: Arc::new(request),
        }
    }

    fn append(&self, promises: &[Promise]) -> Vec<Appended> {
        self.runtime.block_on(self.store().append(promises.to_vec(), ROOM, NOW)).unwrap()
    }

    /// Accepts one, and says where it is.
    fn accept(&self, promise: &Promise) -> Seq {
        assert_eq!(self.append(std::slice::from_ref(promise)), [Appended::Accepted(promise.id)]);
        self.record(promise.id).seq
    }

    fn whole(&self, id: Id) -> Option<Whole> {
        self.runtime.block_on(self.store().read(None, id)).unwrap()
    }

    fn record(&self, id: Id) -> Record {
        self.whole(id).unwrap().record
    }

    fn commit(&self, seq: Seq, command: Command) -> Committed {
        self.commit_at(NOW, Asked { seq, command, attempt: None, result: None })
    }

    fn commit_at(&self, now: Ms, asked: Asked) -> Committed {
        let mut told = self.runtime.block_on(self.store().commit(self.epoch, vec![asked], now)).unwrap();
        told.pop().unwrap()
    }

    fn start(&self, seq: Seq) -> Token {
        match self.commit(seq, Command::Start { until: LATER }).told {
            Told::Started(token) => token,
            told => panic!("it was not started: {told:?}"),
        }
    }

    /// Starts it, and ends it so. What may be begun because of it.
    fn make(&self, seq: Seq, becomes: Becomes) -> Vec<Ready> {
        let token = self.start(seq);
        let made = self.commit(seq, Command::Finish { token, becomes, why: None });
        assert_eq!(made.told, Told::Done);
        made.ready
    }

    fn ready(&self, tenant: &str) -> Vec<Seq> {
        let line = Line { queue: "mails".into(), tenant: tenant.into() };
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            // By few, so that the places between two pages are looked at, too.
            let page = self.runtime.block_on(self.store().ready(self.epoch, &line, after, 2)).unwrap();
            let Some(last) = page.last() else { return all };
            after = Some((last.rank, last.seq));
            all.extend(page.iter().map(|ready| ready.seq));
        }
    }

    fn lines(&self) -> Vec<Line> {
        self.runtime.block_on(self.store().lines(self.epoch, None, 10)).unwrap()
    }

    fn promote(&self, now: Ms, most: usize) -> (Vec<Seq>, Option<Ms>, bool) {
        let (ready, next, more) = self.runtime.block_on(self.store().promote(self.epoch, now, most)).unwrap();
        (ready.iter().map(|ready| ready.seq).collect(), next, more)
    }

    fn pause(&self, pause: &Pause) {
        assert!(self.runtime.block_on(self.store().pause(pause.clone(), NOW)).unwrap());
    }

    fn resume(&self, pause: &Pause) {
        self.runtime.block_on(self.store().resume(pause.clone(), NOW)).unwrap();
    }

    fn check(&self, all: &[(Seq, State)], promises: &[Promise]) {
        for ((seq, state), promise) in all.iter().zip(promises) {
            let record = self.record(promise.id);
            assert_eq!((record.seq, record.state), (*seq, *state), "{}", promise.id);
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            store.close();
        }
    }
}

const DONE: Becomes = Becomes::Delivered { forgotten: LATER };
const DEAD: Becomes = Becomes::Dead { forgotten: LATER };

fn lane(ordered: bool, open_max: u32) -> Option<Lane> {
    Some(Lane { key: "k".into(), ordered, open_max })
}

fn seqs(ready: &[Ready]) -> Vec<Seq> {
    ready.iter().map(|ready| ready.seq).collect()
}

#[test]
fn what_was_accepted_is_there_after_a_new_start() {
    let mut stand = Stand::new();
    let promise = Promise { attempts_max: Some(3), expires: Some(LATER), ..stand.promise("acme") };
    let seq = stand.accept(&promise);
    let token = stand.start(seq);
    let before = stand.whole(promise.id).unwrap();
    assert_eq!(before.request, promise.request);
    assert_eq!(before.record.state, State::Leased { token, until: LATER });
    assert_eq!((before.record.attempts, before.record.attempts_max), (1, Some(3)));
    stand.open();
    assert_eq!(stand.whole(promise.id), Some(before));
    let leased = stand.runtime.block_on(stand.store().leased(stand.epoch, Seq(0), 10)).unwrap();
    assert_eq!((leased[0].delivery.seq, leased[0].token, leased[0].until), (seq, token, LATER));
    assert!(stand.runtime.block_on(stand.store().leased(stand.epoch, seq, 10)).unwrap().is_empty());
}

#[test]
fn a_tenant_reads_its_own_alone() {
    let mut stand = Stand::new();
    let promise = stand.promise("acme");
    stand.accept(&promise);
    let read = |tenant| stand.runtime.block_on(stand.store().read(Some(tenant), promise.id)).unwrap();
    assert!(read("acme").is_some());
    assert!(read("other").is_none());
}

#[test]
fn what_is_accepted_twice_is_there_once() {
    let mut stand = Stand::new();
    let promise = stand.promise("acme");
    stand.accept(&promise);
    assert_eq!(stand.append(std::slice::from_ref(&promise)), [Appended::Already(promise.id)]);
    assert_eq!(stand.ready("acme").len(), 1);
}

#[test]
fn an_owner_that_another_has_taken_over_from_changes_nothing() {
    let mut stand = Stand::new();
    let promise = stand.promise("acme");
    let seq = stand.accept(&promise);
    let old = stand.epoch;
    stand.epoch = stand.runtime.block_on(stand.store().lead(0)).unwrap();
    assert!(stand.epoch > old);
    let start = Asked { seq, command: Command::Start { until: LATER }, attempt: None, result: None };
    let refused = stand.runtime.block_on(stand.store().commit(old, vec![start], NOW));
    assert_eq!(refused, Err(Unavailable::Fenced));
    assert_eq!(stand.record(promise.id).state, State::Ready);
    assert_eq!(stand.runtime.block_on(stand.store().lines(old, None, 1)), Err(Unavailable::Fenced));
    assert_eq!(stand.runtime.block_on(stand.store().lead(1)), Err(Unavailable::Fenced));
}

#[test]
fn what_is_due_later_is_ready_when_it_is_due() {
    let mut stand = Stand::new();
    let promises: Vec<_> =
        (1..=3).map(|number| Promise { due: Some(NOW + number * 10), ..stand.promise("acme") }).collect();
    let all: Vec<_> = promises.iter().map(|promise| stand.accept(promise)).collect();
    assert_eq!(stand.promote(NOW, 10), (vec![], Some(NOW + 10), false));
    assert_eq!(stand.promote(NOW + 20, 1), (vec![all[0]], Some(NOW + 20), true));
    assert_eq!(stand.promote(NOW + 20, 10), (vec![all[1]], Some(NOW + 30), false));
    assert_eq!(stand.promote(LATER, 10), (vec![all[2]], None, false));
    assert_eq!(stand.ready("acme"), all);
}

#[test]
fn lines_are_those_in_which_something_may_be_begun() {
    let mut stand = Stand::new();
    let (a, b) = (stand.promise("a"), stand.promise("b"));
    let later = Promise { due: Some(LATER), ..stand.promise("c") };
    let (first, _, _) = (stand.accept(&a), stand.accept(&b), stand.accept(&later));
    let tenants =
        |stand: &Stand| stand.lines().iter().map(|line| line.tenant.to_string()).collect::<Vec<_>>();
    assert_eq!(tenants(&stand), ["a", "b"]);
    let after = Line { queue: "mails".into(), tenant: "a".into() };
    let page = stand.runtime.block_on(stand.store().lines(stand.epoch, Some(after), 10)).unwrap();
    assert_eq!(page.len(), 1);
    stand.start(first);
    assert_eq!(tenants(&stand), ["b"]);
}

#[test]
fn ready_ones_are_told_by_rank_and_then_by_age() {
    let mut stand = Stand::new();
    let of = |stand: &mut Stand, priority| {
        let promise = Promise { priority, ..stand.promise("acme") };
        stand.accept(&promise)
    };
    let late = of(&mut stand, Priority::Sheddable);
    let first = of(&mut stand, Priority::Default);
    let second = of(&mut stand, Priority::Default);
    let most = of(&mut stand, Priority::Critical);
    assert_eq!(stand.ready("acme"), [most, first, second, late]);
}

#[test]
fn an_attempt_its_answer_and_its_result_are_kept() {
    let mut stand = Stand::new();
    let promise = stand.promise("acme");
    let seq = stand.accept(&promise);
    let mut fields = Fields::default();
    fields.append(http::header::ETAG, http::HeaderValue::from_static("\"1\""));
    for number in 1..=25 {
        let token = stand.start(seq);
        let becomes = if number < 25 { Becomes::Again { due: NOW } } else { DONE };
        let attempt = Attempt {
            number,
            began: NOW,
            took: 5,
            status: Some(500),
            why: Some("no".into()),
            answer: Bytes::from_static(b"oh"),
        };
        let result =
            Kept { status: 200, fields: fields.clone(), body: Bytes::from(vec![1; 5000]), whole: true };
        let asked = Asked {
            seq,
            command: Command::Finish { token, becomes, why: Some("no".into()) },
            attempt: Some(attempt),
            result: Some(result),
        };
        assert_eq!(stand.commit_at(NOW, asked).told, Told::Done);
        stand.promote(NOW, 1);
    }
    let whole = stand.whole(promise.id).unwrap();
    assert_eq!(
        whole.attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(),
        Vec::from_iter(6..=25)
    );
    let result = whole.result.unwrap();
    assert_eq!((result.status, result.body.len(), result.whole), (200, 5000, true));
    assert_eq!(result.fields.get(http::header::ETAG).unwrap().as_bytes(), b"\"1\"");
    assert_eq!(whole.record.state, State::Delivered);
}

#[test]
fn what_is_not_there_is_told_to_be_gone() {
    let stand = Stand::new();
    assert_eq!(stand.commit(Seq(99), Command::Start { until: LATER }).told, Told::Gone);
}

#[test]
fn a_tenants_room_is_kept_to_exactly_and_by_queue() {
    let mut stand = Stand::new();
    let room = Room { waiting_max: 2, bytes_max: 1 << 30 };
    let append = |stand: &mut Stand, tenant: &str, room| {
        let promise = stand.promise(tenant);
        let told = stand.runtime.block_on(stand.store().append(vec![promise.clone()], room, NOW)).unwrap();
        (promise, told[0].clone())
    };
    let (first, told) = append(&mut stand, "acme", room);
    assert_eq!(told, Appended::Accepted(first.id));
    append(&mut stand, "acme", room);
    assert_eq!(append(&mut stand, "acme", room).1, Appended::Full);
    let (other, told) = append(&mut stand, "other", room);
    assert_eq!(told, Appended::Accepted(other.id));
    let seq = stand.record(first.id).seq;
    stand.make(seq, DONE);
    let (next, told) = append(&mut stand, "acme", room);
    assert_eq!(told, Appended::Accepted(next.id));
    // What has ended still has its bytes.
    let tight = Room { waiting_max: 9, bytes_max: 4 * 256 };
    assert_eq!(append(&mut stand, "acme", tight).1, Appended::Full);
}

#[test]
fn of_an_ordered_key_one_alone_may_be_begun_and_a_retry_keeps_its_place() {
    let mut stand = Stand::new();
    let promises: Vec<_> = (0..3).map(|_| Promise { lane: lane(true, 1), ..stand.promise("acme") }).collect();
    let all: Vec<_> = promises.iter().map(|promise| stand.accept(promise)).collect();
    assert_eq!(stand.ready("acme"), [all[0]]);
    assert_eq!(stand.make(all[0], Becomes::Again { due: NOW + 5 }), []);
    assert_eq!(stand.ready("acme"), []);
    stand.open();
    assert_eq!(stand.promote(NOW + 5, 10).0, [all[0]]);
    assert_eq!(seqs(&stand.make(all[0], DEAD)), [all[1]]);
    assert_eq!(seqs(&stand.make(all[1], DONE)), [all[2]]);
    assert_eq!(stand.make(all[2], DONE), []);
    // A redriven one gets its turn at once where nobody has it.
    assert_eq!(stand.commit(all[0], Command::Redrive { due: NOW, aging: 0 }).ready.len(), 1);
    assert_eq!(stand.ready("acme"), [all[0]]);
}

#[test]
fn of_a_key_as_many_are_open_as_may_be_and_what_waits_for_its_time_is_not() {
    let mut stand = Stand::new();
    let promises: Vec<_> =
        (0..4).map(|_| Promise { lane: lane(false, 2), ..stand.promise("acme") }).collect();
    let all: Vec<_> = promises.iter().map(|promise| stand.accept(promise)).collect();
    assert_eq!(stand.ready("acme"), all[..2]);
    assert_eq!(seqs(&stand.make(all[0], Becomes::Again { due: NOW + 5 })), [all[2]]);
    assert_eq!(seqs(&stand.make(all[1], DONE)), [all[3]]);
    // Its time has come, but two are open: it waits for its turn.
    assert_eq!(stand.promote(NOW + 5, 10).0, []);
    assert_eq!(stand.record(promises[0].id).state, State::Blocked);
    stand.check(&[(all[2], State::Ready), (all[3], State::Ready)], &promises[2..]);
    let token = stand.start(all[2]);
    let finish = Command::Finish { token, becomes: DONE, why: None };
    let told = stand.commit_at(NOW + 6, Asked { seq: all[2], command: finish, attempt: None, result: None });
    assert_eq!(seqs(&told.ready), [all[0]]);
}

#[test]
fn a_paused_key_begins_nothing_and_keeps_no_other_waiting() {
    let mut stand = Stand::new();
    let keyed: Vec<_> = (0..3).map(|_| Promise { lane: lane(false, 2), ..stand.promise("acme") }).collect();
    let all: Vec<_> = keyed.iter().map(|promise| stand.accept(promise)).collect();
    let other = stand.promise("acme");
    let other = stand.accept(&other);
    let token = stand.start(all[0]);
    let line = Line { queue: "mails".into(), tenant: "acme".into() };
    let (key, queue) = (Pause::Key(line, "k".into()), Pause::Queue("other".into()));
    stand.pause(&queue);
    stand.pause(&key);
    assert_eq!(stand.ready("acme"), [other]);
    stand.open();
    assert_eq!(stand.runtime.block_on(stand.store().paused()), Ok(vec![queue, key.clone()]));
    // What has begun goes on.
    let finish = Command::Finish { token, becomes: DONE, why: None };
    assert_eq!(stand.commit(all[0], finish).ready, []);
    let more = Promise { lane: lane(false, 2), ..stand.promise("acme") };
    let more = stand.accept(&more);
    assert_eq!(stand.ready("acme"), [other]);
    stand.resume(&key);
    assert_eq!(stand.ready("acme"), [all[1], all[2], other]);
    assert_eq!(seqs(&stand.make(all[1], DONE)), [more]);
}

#[test]
fn what_comes_after_others_waits_until_each_was_delivered() {
    let mut stand = Stand::new();
    let (a, b) = (stand.promise("acme"), stand.promise("acme"));
    let (first, second) = (stand.accept(&a), stand.accept(&b));
    let last = Promise { after: vec![a.id, b.id, a.id], ..stand.promise("acme") };
    let last_seq = stand.accept(&last);
    assert_eq!(stand.make(first, DONE), []);
    assert_eq!(stand.record(last.id).waits_for, 1);
    assert_eq!(seqs(&stand.make(second, DONE)), [last_seq]);
    let late = Promise { after: vec![a.id, b.id], ..stand.promise("acme") };
    stand.accept(&late);
    assert_eq!(stand.record(late.id).state, State::Ready);
}

#[test]
fn where_one_fails_all_that_come_after_it_are_dead() {
    let mut stand = Stand::new();
    let head = stand.promise("acme");
    let head_seq = stand.accept(&head);
    let mut chain = vec![head.clone()];
    for _ in 0..20 {
        let next = Promise { after: vec![chain[chain.len() - 1].id], ..stand.promise("acme") };
        stand.accept(&next);
        chain.push(next);
    }
    assert_eq!(stand.make(head_seq, DEAD), []);
    assert!(chain.iter().all(|promise| stand.record(promise.id).state == State::Dead));
    let why = stand.record(chain[1].id).why.unwrap();
    assert!(why.contains(&head.id.to_string()), "{why}");
    let late = Promise { after: vec![head.id], ..stand.promise("acme") };
    assert_eq!(stand.append(&[late]), [Appended::After(head.id)]);
    let foreign = Promise { after: vec![head.id], ..stand.promise("other") };
    assert_eq!(stand.append(&[foreign]), [Appended::After(head.id)]);
}

#[test]
fn more_than_one_transaction_may_bring_about_is_done_by_and_by() {
    let mut stand = Stand::new();
    let head = stand.promise("acme");
    let head_seq = stand.accept(&head);
    let many: Vec<_> = (0..700).map(|_| Promise { after: vec![head.id], ..stand.promise("acme") }).collect();
    many.chunks(1000).for_each(|some| drop(stand.append(some)));
    let mut follower = stand.store().follow();
    follower.take();
    let mut told = stand.make(head_seq, DONE).len();
    assert!(told < 700);
    while told < 700 {
        let news = stand.runtime.block_on(follower.next());
        told += news.iter().filter(|news| matches!(news, News::Ready(_))).count();
    }
    assert_eq!(stand.record(many[699].id).state, State::Ready);
}

#[test]
fn a_callback_is_made_once_when_its_delivery_has_ended() {
    let mut stand = Stand::new();
    let callback = Callback { id: Id(99), queue: "mails".into(), target: "/done".into() };
    let promise = Promise { callback: Some(callback), ..stand.promise("acme") };
    let seq = stand.accept(&promise);
    let ready = stand.make(seq, DEAD);
    assert_eq!(ready.iter().map(|ready| ready.id).collect::<Vec<_>>(), [Id(99)]);
    let whole = stand.whole(Id(99)).unwrap();
    assert_eq!(&*whole.request.target, "/done");
    let body = format!("{{\"id\":\"{}\",\"queue\":\"mails\",\"state\":\"dead\",\"attempts\":1}}", promise.id);
    assert_eq!(whole.request.body, body);
    stand.commit(seq, Command::Redrive { due: NOW, aging: 0 });
    assert_eq!(stand.make(seq, DONE), []);
}

fn unique(until: Ms, otherwise: Otherwise, fingerprint: Option<u8>) -> Option<Unique> {
    Some(Unique { key: "u".into(), until, otherwise, fingerprint: fingerprint.map(|print| [print; 32]) })
}

#[test]
fn what_is_one_of_a_kind_stands_until_its_time_is_over() {
    let mut stand = Stand::new();
    let of = |stand: &mut Stand, until, print| Promise {
        unique: unique(until, Otherwise::Keep, print),
        ..stand.promise("acme")
    };
    let first = of(&mut stand, LATER + 10, Some(1));
    let seq = stand.accept(&first);
    let same = of(&mut stand, LATER + 10, Some(1));
    let different = of(&mut stand, LATER + 10, Some(2));
    let told = stand.append(&[same.clone(), different, Promise { tenant: "other".into(), ..same.clone() }]);
    let id = same.id;
    assert_eq!(told, [Appended::Already(first.id), Appended::Mismatch(first.id), Appended::Accepted(id)]);
    let again = of(&mut stand, LATER + 99, None);
    let at = |stand: &Stand, now| {
        stand.runtime.block_on(stand.store().append(vec![again.clone()], ROOM, now)).unwrap().remove(0)
    };
    // Its time is over, but it has not begun.
    assert_eq!(at(&stand, LATER + 10), Appended::Already(first.id));
    stand.make(seq, Becomes::Delivered { forgotten: LATER });
    assert_eq!(stand.record(first.id).forgotten, Some(LATER + 10), "it is kept as long as it is told");
    assert_eq!(at(&stand, LATER + 9), Appended::Already(first.id));
    assert_eq!(at(&stand, LATER + 10), Appended::Accepted(again.id));
}

#[test]
fn what_has_not_begun_may_be_replaced_and_is_put_off_so_long_and_no_longer() {
    let mut stand = Stand::new();
    let debounce = Otherwise::Debounce { at_most: 100 };
    let of = |stand: &mut Stand, due, otherwise| Promise {
        due: Some(due),
        unique: unique(LATER, otherwise, None),
        ..stand.promise("acme")
    };
    let first = of(&mut stand, NOW + 50, debounce);
    let seq = stand.accept(&first);
    let put_off = of(&mut stand, NOW + 80, debounce);
    assert_eq!(stand.append(std::slice::from_ref(&put_off)), [Appended::Replaced(first.id)]);
    assert_eq!(stand.record(first.id).due, NOW + 80);
    assert_eq!(stand.whole(first.id).unwrap().request, put_off.request);
    let further = of(&mut stand, NOW + 500, debounce);
    assert_eq!(stand.append(&[further]), [Appended::Replaced(first.id)]);
    assert_eq!(stand.record(first.id).due, NOW + 100);
    let now = Promise { lane: lane(true, 1), ..of(&mut stand, NOW, Otherwise::Replace) };
    assert_eq!(stand.append(&[now]), [Appended::Replaced(first.id)]);
    assert_eq!(stand.ready("acme"), [seq]);
    stand.start(seq);
    let late = of(&mut stand, NOW, Otherwise::Replace);
    assert_eq!(stand.append(&[late]), [Appended::Already(first.id)]);
}

#[test]
fn what_has_expired_is_told_until_it_was_ended() {
    let mut stand = Stand::new();
    let promise = Promise { expires: Some(NOW + 5), ..stand.promise("acme") };
    let seq = stand.accept(&promise);
    let expired = |now| stand.runtime.block_on(stand.store().expired(stand.epoch, now, 10)).unwrap();
    assert_eq!(expired(NOW + 4), []);
    assert_eq!(expired(NOW + 5), [(seq, Line { queue: "mails".into(), tenant: "acme".into() })]);
    let expire = Asked { seq, command: Command::Expire { forgotten: LATER }, attempt: None, result: None };
    assert_eq!(stand.commit_at(NOW + 5, expire).told, Told::Done);
    assert_eq!(expired(LATER), []);
}

#[test]
fn who_follows_is_told_what_was_accepted() {
    let mut stand = Stand::new();
    let mut follower = stand.store().follow();
    assert_eq!(follower.take(), [News::Look]);
    let promise = stand.promise("acme");
    let seq = stand.accept(&promise);
    let later = Promise { due: Some(NOW + 7), ..stand.promise("acme") };
    stand.accept(&later);
    let news = stand.runtime.block_on(follower.next());
    assert!(matches!(&news[0], News::Ready(ready) if ready.seq == seq), "{news:?}");
    assert_eq!(news[1], News::Due(NOW + 7));
}

#[test]
fn what_has_ended_is_forgotten_and_its_line_with_it() {
    let mut stand = Stand::new();
    let promise = stand.promise("acme");
    let seq = stand.accept(&promise);
    stand.make(seq, Becomes::Delivered { forgotten: later(0, std::time::Duration::from_secs(1)) });
    let by = clock::now().after(PATIENCE);
    while stand.whole(promise.id).is_some() {
        assert!(clock::now() < by, "it was never forgotten");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(stand.commit(seq, Command::Start { until: LATER }).told, Told::Gone);
    stand.open();
    let next = stand.promise("acme");
    assert!(stand.accept(&next) > seq, "a place is given away once");
}

#[test]
fn where_there_is_no_room_nothing_new_is_accepted_and_what_was_begun_is_ended() {
    let mut stand = Stand::of_bytes(1 << 19);
    let mut all = Vec::new();
    loop {
        // Of many pages each, and few of them: the room that is left is what the small changes need.
        let mut some: Vec<_> = (0..4).map(|_| stand.promise("acme")).collect();
        for promise in &mut some {
            let request = Request { body: vec![1; 5000].into(), ..Request::clone(&promise.request) };
            promise.request = Arc::new(request);
        }
        match stand.runtime.block_on(stand.store().append(some.clone(), ROOM, NOW)) {
            Ok(_) => all.extend(some.iter().map(|promise| promise.id)),
            Err(why) => {
                assert_eq!(why, Unavailable::Full);
                break;
            }
        }
        assert!(all.len() < 10_000);
    }
    for id in all {
        let seq = stand.record(id).seq;
        let token = stand.start(seq);
        let result = Kept { status: 200, fields: Fields::default(), body: vec![0; 4096].into(), whole: true };
        let finish = Command::Finish { token, becomes: DONE, why: None };
        let asked = Asked { seq, command: finish, attempt: None, result: Some(result) };
        assert_eq!(stand.commit_at(NOW, asked).told, Told::Done);
    }
}

/// All pages of a listing, by few.
fn listed(stand: &Stand, filter: &Filter) -> Vec<Seq> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = stand.runtime.block_on(stand.store().list(filter.clone(), after, 2)).unwrap();
        all.extend(page.records.iter().map(|record| record.seq));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

#[test]
fn a_listing_tells_what_is_meant_the_newest_first() {
    let mut stand = Stand::new();
    let mut all = Vec::new();
    for (tenant, queue, keyed) in
        [("a", "mails", true), ("b", "mails", false), ("a", "texts", false), ("a", "mails", false)]
    {
        let lane = if keyed { lane(false, 1) } else { None };
        let promise = Promise { queue: queue.into(), lane, ..stand.promise(tenant) };
        all.push(stand.accept(&promise));
    }
    stand.make(all[3], DEAD);
    stand.start(all[1]);
    let any = Filter::default;
    let check = |filter: Filter, places: &[usize]| {
        let expected: Vec<_> = places.iter().map(|place| all[*place]).collect();
        assert_eq!(listed(&stand, &filter), expected, "{filter:?}");
    };
    check(any(), &[3, 2, 1, 0]);
    check(Filter { tenant: Some("a".into()), ..any() }, &[3, 2, 0]);
    check(Filter { tenant: Some("none".into()), ..any() }, &[]);
    check(Filter { queue: Some("mails".into()), ..any() }, &[3, 1, 0]);
    check(Filter { queue: Some("mails".into()), tenant: Some("a".into()), ..any() }, &[3, 0]);
    check(Filter { state: Some(Kind::Dead), ..any() }, &[3]);
    check(Filter { state: Some(Kind::Leased), ..any() }, &[1]);
    check(Filter { state: Some(Kind::Ready), ..any() }, &[2, 0]);
    check(Filter { state: Some(Kind::Ready), tenant: Some("a".into()), ..any() }, &[2, 0]);
    check(Filter { key: Some("k".into()), ..any() }, &[0]);
    check(Filter { since: Some(NOW + 1), ..any() }, &[]);
    check(Filter { before: Some(NOW + 1), ..any() }, &[3, 2, 1, 0]);
}

#[test]
fn counts_are_those_of_the_lines() {
    let mut stand = Stand::new();
    let (a, b) = (stand.promise("a"), Promise { due: Some(NOW + 9), ..stand.promise("b") });
    let other = Promise { queue: "texts".into(), ..stand.promise("a") };
    let (first, _, _) = (stand.accept(&a), stand.accept(&b), stand.accept(&other));
    stand.make(first, DEAD);
    stand.open();
    let depths = |queue, tenant| {
        let found = stand.runtime.block_on(stand.store().depths(queue, tenant, None, 10)).unwrap();
        found.iter().map(|depth| (depth.line.tenant.to_string(), depth.counts)).collect::<Vec<_>>()
    };
    let (dead, scheduled) = ([0, 0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0]);
    let ready = [0, 0, 1, 0, 0, 0, 0];
    assert_eq!(depths(Some("mails"), None), [("a".to_owned(), dead), ("b".to_owned(), scheduled)]);
    assert_eq!(depths(None, Some("a")), [("a".to_owned(), dead), ("a".to_owned(), ready)]);
    assert_eq!(depths(Some("texts"), Some("a")), [("a".to_owned(), ready)]);
    assert_eq!(depths(None, None).len(), 3);
    let totals = stand.runtime.block_on(stand.store().totals()).unwrap();
    assert_eq!(totals.iter().map(|total| &*total.queue).collect::<Vec<_>>(), ["mails", "texts"]);
    assert_eq!((totals[0].counts, totals[0].lines, totals[0].oldest), ([0, 1, 0, 0, 0, 1, 0], 2, None));
    assert_eq!((totals[1].counts, totals[1].oldest), (ready, Some(NOW)));
    assert!(totals[0].bytes > 512);
}

#[test]
fn what_is_changed_by_filter_is_changed_once_and_by_and_by() {
    let mut stand = Stand::new();
    let all: Vec<_> = (0..5).map(|_| stand.promise("acme")).collect();
    stand.append(&all);
    let started = stand.record(all[0].id).seq;
    stand.start(started);
    let filter = Filter { queue: Some("mails".into()), ..Filter::default() };
    let mut follower = stand.store().follow();
    follower.take();
    let change = |control, after| {
        stand.runtime.block_on(stand.store().change_many(filter.clone(), control, after, 2, NOW)).unwrap()
    };
    let through = |control| {
        let (mut changed, mut after) = (0, None);
        loop {
            let some = change(control, after);
            changed += some.changed;
            after = some.next;
            if after.is_none() {
                return changed;
            }
        }
    };
    assert_eq!(through(Control::Cancel { forgotten: LATER }), 5);
    assert_eq!(follower.take().iter().filter(|news| matches!(news, News::Gone(..))).count(), 5);
    assert_eq!(stand.ready("acme"), []);
    assert_eq!(through(Control::Cancel { forgotten: LATER }), 0);
    assert_eq!(through(Control::Redrive { due: NOW, aging: 0 }), 5);
    assert_eq!(stand.ready("acme").len(), 5);
}

#[test]
fn a_request_is_edited_by_who_knows_it_as_it_is() {
    let mut stand = Stand::new();
    let promise = stand.promise("acme");
    let seq = stand.accept(&promise);
    let edit = |tenant, edits, body: &'static [u8], room| {
        let edit = Edit { body: Some(Bytes::from_static(body)), ..Edit::default() };
        stand.runtime.block_on(stand.store().edit(Some(tenant), promise.id, edits, edit, room)).unwrap()
    };
    assert_eq!(edit("other", None, b"x", ROOM), Edited::Gone);
    assert_eq!(edit("acme", Some(0), b"one", ROOM), Edited::Done(1));
    assert_eq!(edit("acme", Some(0), b"two", ROOM), Edited::Otherwise(1));
    assert_eq!(edit("acme", None, &[7; 999], Room { bytes_max: 600, ..ROOM }), Edited::Full);
    let token = stand.start(seq);
    assert!(matches!(edit("acme", None, b"x", ROOM), Edited::Not(State::Leased { .. })));
    stand.commit(seq, Command::Finish { token, becomes: DEAD, why: None });
    assert_eq!(edit("acme", Some(1), b"two", ROOM), Edited::Done(2));
    let whole = stand.whole(promise.id).unwrap();
    assert_eq!((&*whole.request.body, &*whole.request.target, whole.edits), (&b"two"[..], "/jobs?a=b", 2));
}
