//! The tier below memory: answers on disk, bounded in bytes, checked when they are read, there again after a restart.
//!
//! ```text
//! core --- keep ---> list of at most so many ---> writer ---> segments      (full: dropped, and counted)
//! core --- find ---> index: is it there? ---> the system has it in memory: read
//!                                         '-> list ---> reader ---> core    (full, slow, spoilt: a miss, and counted)
//! core --- purge --> ledger --------------------> writer ---> journal
//! ```
//!
//! An answer is written when it is kept in memory, not when it goes from there: so all of it is there after a crash, and
//! what goes from memory, many at once, need not be written at once. What is read goes into memory again, whose order of
//! eviction lets pass what is asked for once.
//!
//! What always holds: no core waits for a disk; what one reads itself the system has in memory (`RWF_NOWAIT`), and is small.
//! What was purged, by whatever name, is not found again, after a restart neither: see `journal`. The key has the tenant in it, and a record is compared with the whole of
//! it. Whatever is wrong with the directory, traffic goes on without it, and it is tried again each second.

mod ground;
mod index;
mod journal;
mod ledger;
mod record;
mod segment;
mod store;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_model::cache::Wall;
use tidegate_model::cache::key::Key;
use tidegate_model::cache::orders::LogPlace;
use tidegate_model::cache::purge::{Label, Marks, Noted, Purge, Standing as Purged, labels};
use tidegate_model::cache::tags::Tag;
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;
use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use self::ground::Ground;
use self::index::variant_key;
use self::journal::in_session;
use self::ledger::Ledger;
use self::record::{Item, Restored};
use self::store::{Open, Store};
use self::worker::{Job, Read};
use super::kept::Kept;
use super::known::Known;
use super::memory::Named;
use super::tier::{Brought, Finding, Inspecting, Lies, Tier};

pub use self::store::SIZE_MIN;

/// Answers that may wait to be written, and their bytes.
const WRITES_MAX: usize = 1024;
const WRITES_BYTES_MAX: u64 = 32 << 20;
/// Reads that may wait. With more a request goes on to the upstream.
const READS_MAX: usize = 256;
/// How many read at once: a disk is faster with some, and while one reads what is not in the system's cache another may
/// read what is.
const READERS: usize = 2;
/// How long a request waits for the disk. An upstream answers within that.
const READ_WAIT: Duration = Duration::from_millis(250);
/// What is not fresh for longer is stale before it goes from memory: it is not written.
const FRESH_SECONDS_MIN: u32 = 10;
/// See `Shared::again`.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two looks whether the writer can be told to close, or has opened the directory.
const PAUSE: Duration = Duration::from_millis(5);
/// The number of a purge that comes before all of this process.
const FIRST: u64 = 1;

/// Where answers are kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    /// A directory that one process has for itself.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
}

/// The disk tier.
#[derive(Debug)]
pub struct Disk {
    settings: DiskSettings,
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
    reads: SyncSender<Read>,
}

/// Where one who waits is told what was read.
type Reply = oneshot::Sender<Option<Arc<Loaded>>>;

/// What cores and the tier's threads have in common.
#[derive(Debug)]
struct Shared {
    open: ArcSwapOption<Open>,
    ledger: Ledger,
    counts: Counts,
    standing: Mutex<Standing>,
    /// Who waits for what is being read.
    reading: Mutex<HashMap<Key, Vec<Reply>>>,
    waiting_bytes: AtomicU64,
    /// An answer has been taken from the list, written or not.
    wrote: Notify,
    /// It is not to be used again.
    removed: AtomicBool,
    /// What tells one run of the system from the next; zero: that is not known.
    boot: u128,
    /// How long after a failure it is tried again, and how often the directory is looked for.
    again: Duration,
}

/// How the tier stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The directory is being read.
    Opening,
    /// It reads and writes.
    Serving,
    /// It reads; the last write failed, and the next is tried soon.
    Failing(String),
    /// It does nothing; it is tried again soon.
    Away(String),
}

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    unread: AtomicU64,
    spoilt: AtomicU64,
    read_errors: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    large: AtomicU64,
    evicted: AtomicU64,
    write_errors: AtomicU64,
    size: AtomicU64,
}

/// What is told of the tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// How it stands.
    pub standing: Standing,
    /// Its directory.
    pub path: PathBuf,
    /// Bytes that it may take.
    pub size_max: u64,
    /// Bytes of its segments.
    pub size: u64,
    /// Bytes of the answers that are found in them.
    pub bytes: u64,
    /// Answers that are found.
    pub answers: u64,
    /// Requests that found an answer here.
    pub hits: u64,
    /// Requests that found none, here neither.
    pub misses: u64,
    /// Answers that were there and not read in time, because the disk or its readers had too much to do.
    pub unread: u64,
    /// Answers that were not as they were written.
    pub spoilt: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Answers written.
    pub written: u64,
    /// Answers that were not written, because the disk had too much to do or did not take them.
    pub dropped: u64,
    /// Answers that are larger than a segment.
    pub large: u64,
    /// Answers that made room for others.
    pub evicted: u64,
    /// Writes that failed.
    pub write_errors: u64,
}

/// An answer that was read, for all who waited for it.
#[derive(Debug)]
struct Loaded {
    vary: Vary,
    made: u64,
    known: Bytes,
    body: Box<[Bytes]>,
}

impl Loaded {
    fn of(restored: Restored) -> Loaded {
        let Restored { head, vary, known, body } = restored;
        Loaded { vary, made: head.made, known, body }
    }
}

impl Disk {
    /// Begins to use a directory. It is opened by the tier's own thread; until then nothing is found. `marks`: what was
    /// purged before.
    #[must_use]
    pub fn start(settings: DiskSettings, marks: Marks) -> Disk {
        Disk::start_on(Ground::new(settings.path.clone()), settings, marks, boot_id(), AGAIN)
    }

    fn start_on(ground: Ground, settings: DiskSettings, marks: Marks, boot: u128, again: Duration) -> Disk {
        let shared = Arc::new(Shared {
            open: ArcSwapOption::empty(),
            ledger: Ledger::new(marks),
            counts: Counts::default(),
            standing: Mutex::new(Standing::Opening),
            reading: Mutex::default(),
            waiting_bytes: AtomicU64::new(0),
            wrote: Notify::new(),
            removed: AtomicBool::new(false),
            boot,
            again,
        });
        let (jobs, to_write) = sync_channel(WRITES_MAX);
        let (reads, to_read) = sync_channel(READS_MAX);
        let (writer, size) = (Arc::clone(&shared), settings.size);
        thread("cache-write", move || worker::write(&writer, &to_write, &ground, size));
        let to_read = Arc::new(Mutex::new(to_read));
        for _ in 0..READERS {
            let (shared, to_read) = (Arc::clone(&shared), Arc::clone(&to_read));
            thread("cache-read", move || worker::read(&shared, &to_read));
        }
        Disk { settings, shared, jobs, reads }
    }

    /// Where it is.
    #[must_use]
    pub fn settings(&self) -> &DiskSettings {
        &self.settings
    }

    /// Something was purged. To be told in the order of the numbers.
    pub fn purged(&self, noted: Noted) {
        self.shared.ledger.note(noted);
        // A full list is being worked on, and purges come first.
        let _ = self.jobs.try_send(Job::Purges);
    }

    /// The log that nodes share was read up to there, and what it orders has been told before.
    pub fn log_read(&self, place: LogPlace) {
        self.shared.ledger.log_read(place);
    }

    /// How far the log had been read by who had the directory before, once that is known: waits so long at most.
    pub async fn log_place(&self, most: Duration) -> Option<LogPlace> {
        let by = clock::now().after(most);
        while *self.shared.standing.lock() == Standing::Opening && clock::now() < by {
            clock::sleep(PAUSE).await;
        }
        self.shared.open.load().as_ref()?.place
    }

    /// Waits until all that was purged is written down, at most so long. Tells whether it is.
    pub async fn purges_settled(&self, most: Duration) -> bool {
        self.shared.ledger.settled(most).await
    }

    /// Whether the directory is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.open.load().is_some()
    }

    /// Whether there is an answer under this key.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.shared.open.load().as_ref().is_some_and(|open| open.index.has(key))
    }

    /// The largest slice of a large answer that has room here, and some beside it.
    #[must_use]
    pub fn slice_bytes_max(&self) -> u64 {
        store::segment_bytes(self.settings.size) / 2
    }

    /// Finds a slice of a large answer, for whoever waits for it so long.
    pub fn find_slice(&self, named: &Named<'_>, most: Duration) -> Option<Finding> {
        self.look(named, &Fields::default(), most)
    }

    /// Keeps a slice. Tells whether it was taken. Large answers leave half of the list to others.
    pub fn keep_slice(&self, named: &Named<'_>, room: u64, kept: &Arc<Kept>) -> bool {
        self.shared.waiting_bytes.load(Relaxed) <= WRITES_BYTES_MAX / 2
            && self.take(named, room, &Fields::default(), &Vary::default(), kept, false)
    }

    /// Waits until an answer has been written.
    pub fn wrote(&self) -> Notified<'_> {
        self.shared.wrote.notified()
    }

    /// Waits until this holds, or that time has come; it is looked at again whenever an answer has been written. Tells
    /// whether it holds.
    pub async fn holds_by(&self, by: Tick, mut holds: impl FnMut() -> bool) -> bool {
        loop {
            let mut wrote = std::pin::pin!(self.shared.wrote.notified());
            // What is written between the look and the wait counts.
            wrote.as_mut().enable();
            if holds() {
                return true;
            }
            if clock::timeout_at(by, wrote).await.is_err() {
                return holds();
            }
        }
    }

    /// Keeps an answer. Tells whether it is to be written. `again`: where one is kept under its key, its content is there.
    fn take(
        &self,
        named: &Named<'_>,
        room: u64,
        request: &Fields,
        vary: &Vary,
        kept: &Arc<Kept>,
        again: bool,
    ) -> bool {
        let open = self.shared.open.load();
        if open.is_none() && matches!(*self.shared.standing.lock(), Standing::Away(_)) {
            return false;
        }
        // What the target's answers have once varied with they go on to be told apart by, as in memory.
        let known = open.as_ref().and_then(|open| open.index.varying(named.key));
        let vary = known.and_then(|known| known.and(vary)).unwrap_or_else(|| vary.clone());
        let key = if vary.is_empty() { named.key } else { variant_key(named.key, &vary, request) };
        if let Some(open) = open.as_ref() {
            if again && !kept.is_sliced() && open.index.has(key) {
                return false;
            }
            // Whether this one is written or not: what was before it is not served any more.
            open.index.forget(key);
        }
        // A manifest is small, and what it stands for is not.
        if kept.own_rules().freshness.lifetime < FRESH_SECONDS_MIN && !kept.is_sliced() {
            return false;
        }
        let bytes = kept.size();
        let waiting = self.shared.waiting_bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        let item = Item { key, target: named.key, room, vary, kept: Arc::clone(kept) };
        if waiting > WRITES_BYTES_MAX || self.jobs.try_send(Job::Keep(item)).is_err() {
            self.shared.waiting_bytes.fetch_sub(bytes, Relaxed);
            self.shared.counts.dropped.fetch_add(1, Relaxed);
            return false;
        }
        true
    }

    /// Closes the directory, so that all of it is there at the next start, and waits for that at most so long.
    pub fn close(&self, most: Duration) {
        let (done, end) = sync_channel(1);
        let (mut job, mut left) = (Job::Close(done), most);
        while let Err(TrySendError::Full(back)) = self.jobs.try_send(job) {
            let Some(rest) = left.checked_sub(PAUSE) else { return };
            (left, job) = (rest, back);
            std::thread::sleep(PAUSE);
        }
        // Whether it was told or the time is over: there is nothing more to be done.
        let _ = end.recv_timeout(left);
    }

    /// It is used no more. `remove`: nor will it be by this process, and what is in it goes, since nobody will note there what
    /// is purged.
    pub fn end(&self, remove: bool) {
        self.shared.removed.store(remove, Relaxed);
        // Should its list be full: it ends as well when nobody can send it anything any more.
        let _ = self.jobs.try_send(Job::Close(sync_channel(1).0));
    }

    /// What is to be told of it.
    #[must_use]
    pub fn told(&self) -> Told {
        let (counts, open) = (&self.shared.counts, self.shared.open.load());
        let of = |count: &AtomicU64| count.load(Relaxed);
        Told {
            standing: self.shared.standing.lock().clone(),
            path: self.settings.path.clone(),
            size_max: self.settings.size,
            size: of(&counts.size),
            bytes: open.as_ref().map_or(0, |open| open.index.bytes()),
            answers: open.as_ref().map_or(0, |open| open.index.answers() as u64),
            hits: of(&counts.hits),
            misses: of(&counts.misses),
            unread: of(&counts.unread),
            spoilt: of(&counts.spoilt),
            read_errors: of(&counts.read_errors),
            written: of(&counts.written),
            dropped: of(&counts.dropped),
            large: of(&counts.large),
            evicted: of(&counts.evicted),
            write_errors: of(&counts.write_errors),
        }
    }
}

impl Tier for Disk {
    fn name(&self) -> &'static str {
        "disk"
    }

    fn inspect(&self, named: &Named<'_>, request: &Fields) -> Option<Inspecting> {
        let open = self.shared.open.load_full()?;
        let (key, place) = open.index.peek(named.key, request)?;
        let (shared, reads, target) = (Arc::clone(&self.shared), self.reads.clone(), Target::of(named));
        Some(Box::pin(async move {
            let loaded = load(&shared, &reads, &open, key, place, READ_WAIT).await?;
            let kept = Arc::new(judged(&open, &target.named(), &loaded)?);
            let at = format!("segment {}, byte {}", place.segment, place.at);
            Some(Lies { kept, at, bytes: place.length.into() })
        }))
    }

    fn find(&self, named: &Named<'_>, request: &Fields) -> Option<Finding> {
        self.look(named, request, READ_WAIT)
    }

    fn keep(&self, named: &Named<'_>, room: u64, request: &Fields, vary: &Vary, kept: &Arc<Kept>) {
        self.take(named, room, request, vary, kept, false);
    }

    fn keep_fresher(&self, named: &Named<'_>, room: u64, request: &Fields, vary: &Vary, kept: &Arc<Kept>) {
        self.take(named, room, request, vary, kept, true);
    }

    /// Memory has told it already, in the order of the numbers: [`Disk::purged`].
    fn purge(&self, _: Label, _: Purge, _: u64, _: Wall) {}
}

impl Disk {
    /// Finds what answers a request, for whoever waits for it so long.
    fn look(&self, named: &Named<'_>, request: &Fields, most: Duration) -> Option<Finding> {
        let open = self.shared.open.load_full()?;
        let Some((key, place)) = open.index.find(named.key, request) else {
            self.shared.counts.misses.fetch_add(1, Relaxed);
            return None;
        };
        let (shared, reads, target) = (Arc::clone(&self.shared), self.reads.clone(), Target::of(named));
        Some(Box::pin(async move {
            let loaded = load(&shared, &reads, &open, key, place, most).await;
            let kept = loaded.as_deref().and_then(|loaded| judged(&open, &target.named(), loaded));
            let (Some(loaded), Some(kept)) = (loaded, kept) else {
                shared.counts.misses.fetch_add(1, Relaxed);
                return None;
            };
            shared.counts.hits.fetch_add(1, Relaxed);
            Some(Brought { kept: Arc::new(kept), vary: loaded.vary.clone() })
        }))
    }
}

/// What is asked for, when the request is somewhere else.
struct Target {
    tenant: Option<String>,
    host: String,
    path: String,
    key: Key,
}

impl Target {
    fn of(named: &Named<'_>) -> Target {
        let Named { tenant, host, path, key } = *named;
        Target { tenant: tenant.map(str::to_owned), host: host.to_owned(), path: path.to_owned(), key }
    }

    fn named(&self) -> Named<'_> {
        let Target { tenant, host, path, key } = self;
        Named { tenant: tenant.as_deref(), host, path, key: *key }
    }
}

/// Reads a record, if the system has it in memory, or has it read, once for all who ask for it meanwhile.
async fn load(
    shared: &Shared,
    reads: &SyncSender<Read>,
    open: &Arc<Open>,
    key: Key,
    place: index::Place,
    most: Duration,
) -> Option<Arc<Loaded>> {
    if let Some(restored) = open.read_cached(place).filter(|restored| restored.head.key == key) {
        return Some(Arc::new(Loaded::of(restored)));
    }
    let (reply, loaded) = oneshot::channel();
    {
        let mut reading = shared.reading.lock();
        match reading.entry(key) {
            Entry::Occupied(mut waiting) => waiting.get_mut().push(reply),
            Entry::Vacant(nobody) => {
                if reads.try_send(Read { open: Arc::clone(open), key, place }).is_err() {
                    shared.counts.unread.fetch_add(1, Relaxed);
                    return None;
                }
                nobody.insert(vec![reply]);
            }
        }
    }
    match clock::timeout_at(clock::now().after(most), loaded).await {
        Ok(loaded) => loaded.ok().flatten(),
        Err(_) => {
            shared.counts.unread.fetch_add(1, Relaxed);
            None
        }
    }
}

impl Shared {
    /// The directory is open.
    fn enter(&self, store: &Store) {
        self.counts.size.store(store.size(), Relaxed);
        self.open.store(Some(Arc::clone(&store.open)));
        self.stand(Standing::Serving);
    }

    /// Nothing is found any more, and no purge is written down.
    fn leave(&self, standing: Standing) {
        self.open.store(None);
        // What waits is remembered all the same: see `Ledger::begin`.
        let _ = self.ledger.stop();
        self.stand(standing);
    }

    fn stand(&self, standing: Standing) {
        let mut before = self.standing.lock();
        if *before != standing {
            *before = standing;
        }
    }

    /// An answer has been taken from the list.
    fn took(&self, item: &Item) {
        self.waiting_bytes.fetch_sub(item.kept.size(), Relaxed);
    }
}

/// The answer, if nothing that was purged in an earlier session has met it. What was purged in this one is compared by whoever
/// asked: to it everything from before is as old as its beginning.
fn judged(open: &Open, named: &Named<'_>, loaded: &Loaded) -> Option<Kept> {
    let (session, number) = in_session(loaded.made);
    let known = Known::of(&loaded.known);
    let tags: Vec<Tag> = known.tags().collect();
    let labels = labels(named.tenant, named.host, named.path, named.key, &tags);
    let (made, stale_since) = match open.past.standing(loaded.made, labels) {
        _ if session == open.session => (number, None),
        Purged::Good => (FIRST, None),
        Purged::StaleSince(when) => (FIRST, Some(when)),
        Purged::Gone => return None,
    };
    let kept = Kept::again(known, loaded.body.clone(), made);
    kept.good_until(made, stale_since);
    Some(kept)
}

/// What tells one run of the system from the next.
fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread can be started");
}
