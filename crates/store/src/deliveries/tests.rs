//! What every store keeps to of deliveries, asked through its doors.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tempfile::TempDir;
use tidegate_model::delivery::outcome::later;
use tidegate_model::delivery::{AGING_MS, Becomes};
use tidegate_model::delivery::{Command, Id, Kind, Lane, Ms, Record, Request, Seq, State, Token, Told};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tidegate_testkit::Postgres;
use tidegate_wire::clock;
use tokio::runtime::Runtime;

use super::{
    Appended, Asked, Attempt, Callback, Committed, Control, Edit, Edited, Epoch, Filter, Kept, Line, News,
    Otherwise, Pause, Promise, Ready, Room, Unique, Whole,
};
use crate::{Location, OpenError, Store, StoreSettings, Unavailable};

mod ahead;
mod follows;
mod forgetting;
mod forms;
mod gathering;
mod history;
mod keys;
mod lists;
mod lives;
mod measure;
mod places;
mod postgres;
mod room;
mod slots;
#[cfg(debug_assertions)]
mod tides;

/// When it is, unless a test says otherwise: before the clock of the store, which does by it what was left to be done.
const NOW: Ms = 1_700_000_000_000;
/// What a test waits for anything.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(25);
/// Long after.
const LATER: Ms = NOW + 1_000_000_000_000;
const ROOM: Room = Room { waiting_max: 1_000_000, bytes_max: 1 << 40 };

/// What a store is made of.
enum Bed {
    /// A directory, with room for so many bytes.
    Directory(TempDir, u64),
    /// A database of a PostgreSQL.
    Postgres(String),
}

impl Bed {
    /// One of each kind.
    fn all() -> Vec<Bed> {
        vec![Bed::directory(256 << 20), Bed::Postgres(Postgres::shared().database())]
    }

    fn directory(bytes_max: u64) -> Bed {
        Bed::Directory(tempfile::tempdir().unwrap(), bytes_max)
    }

    /// As it is found by a process that begins after so many were killed.
    fn settings(&self, lives: u32) -> StoreSettings {
        let (location, bytes_max) = match self {
            Bed::Directory(directory, bytes_max) => {
                (Location::Directory(directory.path().join(lives.to_string())), *bytes_max)
            }
            Bed::Postgres(url) => (Location::Postgres(postgres::at(url, 1)), 256 << 20),
        };
        StoreSettings { location, bytes_max, tenant_bytes_max: 1 << 20 }
    }

    /// The process that has it dies, after so many others have: it still writes, and nothing of that comes to be here.
    fn kill(&self, lives: u32) {
        let directory = match self {
            Bed::Directory(directory, _) => directory,
            // What it still writes is refused once whoever comes has ended its lease.
            Bed::Postgres(url) => return postgres::lapse(Postgres::shared(), url),
        };
        let [from, to] = [lives, lives + 1].map(|lives| directory.path().join(lives.to_string()));
        std::fs::create_dir_all(&to).unwrap();
        for name in ["tidegate.db", "tidegate.db-wal", "tidegate.db-ahead"] {
            if from.join(name).exists() {
                std::fs::copy(from.join(name), to.join(name)).unwrap();
            }
        }
    }
}

/// A store, and who owns its shard.
struct Stand {
    runtime: Runtime,
    bed: Bed,
    store: Option<Store>,
    /// Another node that has the same, where several may: it accepts and reads every other time.
    other: Option<Store>,
    turn: Cell<bool>,
    epoch: Epoch,
    last: u128,
    /// How often it was killed.
    lives: u32,
}

impl Stand {
    /// One on each kind of bed.
    fn all() -> impl Iterator<Item = Stand> {
        Bed::all().into_iter().map(Stand::on)
    }

    fn on(bed: Bed) -> Stand {
        let mut stand = Stand {
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
            bed,
            store: None,
            other: None,
            turn: Cell::new(false),
            epoch: Epoch { shard: 0, number: 0 },
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
        let settings = self.bed.settings(self.lives);
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
        self.bed.kill(self.lives);
        self.lives += 1;
        self.open();
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Has another node beside the owner from now on, where it may.
    fn with_another(mut self) -> Stand {
        if matches!(self.bed, Bed::Postgres(_)) {
            self.other = Some(Store::open(self.bed.settings(0)).unwrap());
        }
        self
    }

    /// Whichever node's turn it is.
    fn any(&self) -> &Store {
        self.turn.set(!self.turn.get());
        self.other.as_ref().filter(|_| self.turn.get()).unwrap_or_else(|| self.store())
    }

    fn promise(&mut self, tenant: &str) -> Promise {
        self.last += 1;
        promise(self.last, tenant)
    }

    fn append(&self, promises: &[Promise]) -> Vec<Appended> {
        self.runtime.block_on(self.any().append(promises.to_vec(), ROOM, NOW)).unwrap()
    }

    /// Accepts one, and says where it is.
    fn accept(&self, promise: &Promise) -> Seq {
        assert_eq!(self.append(std::slice::from_ref(promise)), [Appended::Accepted(promise.id)]);
        self.record(promise.id).seq
    }

    fn whole(&self, id: Id) -> Option<Whole> {
        self.runtime.block_on(self.any().read(None, id)).unwrap()
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
        assert!(self.runtime.block_on(self.any().pause(pause.clone(), NOW)).unwrap());
    }

    fn resume(&self, pause: &Pause) {
        self.runtime.block_on(self.any().resume(pause.clone(), NOW)).unwrap();
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
        for store in [self.store.take(), self.other.take()].into_iter().flatten() {
            store.close();
        }
    }
}

/// The promise with this number.
fn promise(number: u128, tenant: &str) -> Promise {
    let request = Request {
        method: Method::POST,
        target: "/jobs?a=b".into(),
        fields: Fields::default(),
        body: Bytes::from(format!("body {}", number)),
    };
    Promise {
        // The same first half for all: both halves count.
        id: Id(7 << 64 | number),
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

const DONE: Becomes = Becomes::Delivered { forgotten: LATER };
const DEAD: Becomes = Becomes::Dead { forgotten: LATER };

fn lane(ordered: bool, open_max: u32) -> Option<Lane> {
    Some(Lane { key: "k".into(), ordered, open_max })
}

fn unique(until: Ms, otherwise: Otherwise, fingerprint: Option<u8>) -> Option<Unique> {
    Some(Unique { key: "u".into(), until, otherwise, fingerprint: fingerprint.map(|print| [print; 32]) })
}

fn seqs(ready: &[Ready]) -> Vec<Seq> {
    ready.iter().map(|ready| ready.seq).collect()
}
