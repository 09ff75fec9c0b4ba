//! Telemetry: what receipts become. Access log, metrics, and the recent exchanges that can be explained.
//!
//! Each core has cells of its own behind a mutex that nobody else takes but a scrape or a question: recording costs an
//! uncontended lock. The access log is made at most once: when its writer cannot keep up, lines are dropped and counted.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::balance::mix;
use tidegate_model::coding::Coding;
use tidegate_model::limit::Word;
use tidegate_model::receipt::{End, Receipt, RequestId};
use tidegate_proxy::Recorder;
use tidegate_wire::{clock, task};
use tokio::sync::Notify;

use self::traces::Kept;
use crate::config::{AccessLog, LogSettings};

mod exposition;
mod families;
mod line;
mod reference;
mod traces;
mod writer;

pub use exposition::*;
pub use families::{Exemplar, Exposition, Family, Histogram, Sample, TextFormat, Value};
pub use reference::generated;
pub(crate) use tidegate_model::tick::rfc3339;
pub use traces::{TRACE_OUTCOMES, TraceSettings, has_failed};
pub use writer::{LogWriter, LogWriterError};

/// Upper bounds of the latency buckets, in seconds.
pub const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// What the cache does with an exchange.
pub const CACHE_OUTCOMES: [&str; 8] =
    ["hit", "stale", "revalidated", "collapsed", "miss", "bypass", BEHIND[0], BEHIND[1]];
/// An exchange that no client asked for: what is stored is refreshed, or what is missing of it is fetched.
const BEHIND: [&str; 2] = ["refresh", "slices"];
/// What becomes of an exchange's idempotency key.
pub const KEY_OUTCOMES: [&str; 7] =
    ["first", "replayed", "joined", "released", "unkept", "unknown", "unrecorded"];
/// Routes with metrics of their own; the names of a thousand reloads must not pile up.
const ROUTES_MAX: usize = 10_000;
/// Bytes of a request's target that are kept of a recent exchange.
const TARGET_KEPT_MAX: usize = 1024;
/// Receipts that a core has to spare: as many exchanges as begin before another one ends. Some hundred end together where they have
/// waited for the same commit.
const SPARE_MAX: usize = 256;
/// Bytes of access log that a core gathers before it hands them on.
const CHUNK: usize = 32 * 1024;
/// How long a line waits at most for others.
const FLUSH: Duration = Duration::from_millis(200);

/// The telemetry of the process.
pub struct Telemetry {
    cores: Vec<Arc<Mutex<Cells>>>,
    log: Option<LogWriter>,
    query: bool,
    slow: Duration,
    /// What was spent of the traces that may be told.
    traces_spent: Arc<Word>,
    /// Rung when traces should be taken.
    pub traces_due: Arc<Notify>,
}

/// What one core has recorded.
struct Cells {
    routes: HashMap<Arc<str>, RouteCells, BuildHasherDefault<OfNames>>,
    refusals: HashMap<&'static str, u64>,
    tries: u64,
    lines_left_out: u64,
    /// What is told as traces, where that is configured.
    kept: Option<Kept>,
    /// What became of what was to be told, as in [`TRACE_OUTCOMES`].
    kept_outcomes: [u64; TRACE_OUTCOMES.len()],
    /// Each kind has a ring of its own: a tenant that is refused hundreds of times a second must not push out the one
    /// exchange that failed, nor those the slow one.
    recent: Ring,
    refused: Ring,
    remarkable: Ring,
}

/// Hashes names that the operator has given: each exchange looks its route up, and nobody needs to be kept from choosing
/// names that collide.
#[derive(Default)]
struct OfNames(u64);

impl Hasher for OfNames {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 = mix(self.0 ^ u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = mix(self.0 ^ u64::from(byte));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What was recorded of one route.
#[derive(Clone, Debug, Default)]
pub struct RouteCells {
    /// Exchanges by the first digit of their status; 0: none was told.
    pub classes: [u64; 6],
    /// Exchanges by latency; the last: slower than all bounds.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Seconds of all of them.
    pub seconds: f64,
    /// Request body bytes.
    pub bytes_in: u64,
    /// Response body bytes.
    pub bytes_out: u64,
    /// Exchanges that the client left.
    pub client_gone: u64,
    /// Exchanges by what the cache did, as in [`CACHE_OUTCOMES`].
    pub cache: [u64; CACHE_OUTCOMES.len()],
    /// Exchanges by what became of their idempotency key, as in [`KEY_OUTCOMES`].
    pub keys: [u64; KEY_OUTCOMES.len()],
    /// Bytes of compressed answers by coding, as in [`Coding::ALL`]: before, and as they were sent.
    pub coded: [(u64, u64); Coding::ALL.len()],
    /// The last of each bucket whose trace is told, where traces are.
    pub exemplars: Option<Box<[Option<Exemplar>; BUCKETS.len() + 1]>>,
}

/// The last receipts, the oldest first.
struct Ring {
    receipts: VecDeque<Box<RefCell<Receipt>>>,
    max: usize,
}

impl Ring {
    /// Takes one in the place of the oldest, which it gives back.
    fn push(&mut self, mut receipt: Box<RefCell<Receipt>>) -> Option<Box<RefCell<Receipt>>> {
        receipt.get_mut().target.shorten(TARGET_KEPT_MAX);
        let full = self.receipts.len() >= self.max;
        let oldest = if full { self.receipts.pop_front() } else { None };
        self.receipts.push_back(receipt);
        oldest
    }

    fn find(&self, id: RequestId) -> Option<Receipt> {
        let mut latest = self.receipts.iter().rev().map(|receipt| receipt.borrow());
        latest.find(|receipt| receipt.request_id == id).map(|receipt| receipt.clone())
    }
}

/// Sums over all cores.
#[derive(Debug, Default)]
pub struct Sums {
    /// By route; "" are exchanges without one.
    pub routes: HashMap<Arc<str>, RouteCells>,
    /// By code.
    pub refusals: HashMap<&'static str, u64>,
    /// Upstream calls.
    pub tries: u64,
    /// Lines of access log that were dropped.
    pub lines_dropped: u64,
    /// Lines of access log that routes left out under load.
    pub lines_left_out: u64,
}

impl Telemetry {
    /// The telemetry of so many cores.
    ///
    /// # Errors
    /// The access log's file cannot be opened.
    pub fn new(settings: &LogSettings, cores: usize) -> Result<Telemetry, LogWriterError> {
        let log = match &settings.access {
            AccessLog::Off => None,
            AccessLog::Stdout => Some(LogWriter::start(None, settings.buffer)?),
            AccessLog::File(path) => Some(LogWriter::start(Some(path.clone()), settings.buffer)?),
        };
        let ring = |max: usize| Ring { receipts: VecDeque::new(), max: max.max(1) };
        let cells = || {
            Arc::new(Mutex::new(Cells {
                routes: HashMap::default(),
                refusals: HashMap::new(),
                tries: 0,
                lines_left_out: 0,
                kept: None,
                kept_outcomes: [0; TRACE_OUTCOMES.len()],
                recent: ring(settings.recent),
                refused: ring(settings.remarkable),
                remarkable: ring(settings.remarkable),
            }))
        };
        let cores = (0..cores).map(|_| cells()).collect();
        let (traces_spent, traces_due) = Default::default();
        Ok(Telemetry { cores, log, query: settings.query, slow: settings.slow, traces_spent, traces_due })
    }

    /// The recorder of one core. Must be called on it.
    #[must_use]
    pub fn recorder(self: &Arc<Self>, core: usize) -> Rc<dyn Recorder> {
        let recorder = Rc::new(CoreRecorder {
            telemetry: Arc::clone(self),
            cells: Arc::clone(&self.cores[core]),
            chunk: RefCell::new(Chunk::default()),
            spare: RefCell::default(),
        });
        let weak = Rc::downgrade(&recorder);
        task::spawn(async move {
            loop {
                clock::sleep(FLUSH).await;
                let Some(recorder) = weak.upgrade() else { return };
                recorder.flush();
            }
        });
        recorder
    }

    /// From now on these traces are told. What waits to be told is kept.
    pub fn tell_traces(&self, settings: Option<&TraceSettings>) {
        for cells in &self.cores {
            let mut cells = cells.lock();
            match (&mut cells.kept, settings) {
                (Some(kept), Some(settings)) => kept.settings = settings.clone(),
                (kept, settings) => {
                    let (spent, due) = (&self.traces_spent, &self.traces_due);
                    let begun = |settings: &TraceSettings| {
                        Kept::new(settings.clone(), Arc::clone(spent), Arc::clone(due))
                    };
                    *kept = settings.map(begun);
                }
            }
        }
    }

    /// Takes so many receipts that are to be told as traces.
    #[must_use]
    pub fn take_traces(&self, most: usize) -> Vec<Receipt> {
        let mut taken = Vec::new();
        for cells in &self.cores {
            if let Some(kept) = &mut cells.lock().kept {
                taken.extend(kept.take(most - taken.len()));
            }
        }
        taken
    }

    /// What became of what was to be told, as in [`TRACE_OUTCOMES`].
    #[must_use]
    pub fn traces_kept(&self) -> [u64; TRACE_OUTCOMES.len()] {
        let mut sums = [0; TRACE_OUTCOMES.len()];
        for cells in &self.cores {
            let outcomes = cells.lock().kept_outcomes;
            sums.iter_mut().zip(outcomes).for_each(|(sum, one)| *sum += one);
        }
        sums
    }

    /// Opens the access log's file again.
    pub fn reopen(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    /// Waits until what the cores have handed over is in the access log, at most so long.
    pub fn finish(&self, most: Duration) {
        if let Some(log) = &self.log {
            log.finish(most);
        }
    }

    /// A recent exchange.
    #[must_use]
    pub fn find(&self, id: RequestId) -> Option<Receipt> {
        self.cores.iter().find_map(|cells| {
            let cells = cells.lock();
            [&cells.recent, &cells.refused, &cells.remarkable].iter().find_map(|ring| ring.find(id))
        })
    }

    /// What all cores have recorded.
    #[must_use]
    pub fn sums(&self) -> Sums {
        let mut sums =
            Sums { lines_dropped: self.log.as_ref().map_or(0, LogWriter::dropped), ..Sums::default() };
        for cells in &self.cores {
            let cells = cells.lock();
            sums.tries += cells.tries;
            sums.lines_left_out += cells.lines_left_out;
            for (code, count) in &cells.refusals {
                *sums.refusals.entry(code).or_default() += count;
            }
            for (name, cells) in &cells.routes {
                sums.routes.entry(Arc::clone(name)).or_default().add(cells);
            }
        }
        sums
    }
}

impl RouteCells {
    fn add(&mut self, other: &RouteCells) {
        self.classes.iter_mut().zip(other.classes).for_each(|(sum, one)| *sum += one);
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, one)| *sum += one);
        self.seconds += other.seconds;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.client_gone += other.client_gone;
        self.cache.iter_mut().zip(other.cache).for_each(|(sum, one)| *sum += one);
        self.keys.iter_mut().zip(other.keys).for_each(|(sum, one)| *sum += one);
        for (sum, one) in self.coded.iter_mut().zip(other.coded) {
            *sum = (sum.0 + one.0, sum.1 + one.1);
        }
        for (place, exemplar) in other.exemplars.iter().flat_map(|all| all.iter().enumerate()) {
            exemplar.iter().for_each(|exemplar| self.exemplify(place, *exemplar));
        }
    }

    /// Takes an example for a bucket, if it is newer than the one that is there.
    fn exemplify(&mut self, bucket: usize, exemplar: Exemplar) {
        let held = &mut self.exemplars.get_or_insert_with(|| Box::new([None; BUCKETS.len() + 1]))[bucket];
        if held.is_none_or(|held| held.at <= exemplar.at) {
            *held = Some(exemplar);
        }
    }

    fn record(&mut self, receipt: &Receipt, exemplar: Option<Exemplar>) {
        if let Some(outcome) = receipt.cache {
            if let Some(place) = CACHE_OUTCOMES.iter().position(|name| *name == outcome) {
                self.cache[place] += 1;
            }
            if BEHIND.contains(&outcome) {
                return;
            }
        }
        if let Some(place) =
            receipt.idempotency.and_then(|one| KEY_OUTCOMES.iter().position(|name| *name == one))
        {
            self.keys[place] += 1;
        }
        if let Some(compressed) = &receipt.compressed
            && let Some(place) = Coding::ALL.iter().position(|one| *one == compressed.coding)
        {
            self.coded[place].0 += compressed.plain_bytes;
            self.coded[place].1 += receipt.response_bytes;
        }
        let class = receipt.status.map_or(0, |status| usize::from(status.as_u16() / 100)).min(5);
        self.classes[class] += 1;
        let seconds = receipt.ended.since(receipt.started).as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket] += 1;
        if let Some(exemplar) = exemplar {
            self.exemplify(bucket, exemplar);
        }
        self.seconds += seconds;
        self.bytes_in += receipt.request_bytes;
        self.bytes_out += receipt.response_bytes;
        self.client_gone += u64::from(receipt.end == End::ClientGone);
    }
}

impl Cells {
    fn count(&mut self, receipt: &Receipt) {
        let Cells { kept, kept_outcomes, .. } = self;
        let exemplar = kept.as_mut().and_then(|kept| kept.look(receipt, kept_outcomes));
        if let Some(kind) = receipt.refusal {
            *self.refusals.entry(kind.code).or_default() += 1;
        }
        let name = receipt.route.as_deref().unwrap_or_default();
        if let Some(route) = self.routes.get_mut(name) {
            route.record(receipt, exemplar);
        } else if self.routes.len() < ROUTES_MAX {
            self.routes.entry(Arc::from(name)).or_default().record(receipt, exemplar);
        }
    }
}

struct CoreRecorder {
    telemetry: Arc<Telemetry>,
    cells: Arc<Mutex<Cells>>,
    chunk: RefCell<Chunk>,
    /// What fell out of a ring, for the next exchanges.
    #[expect(
        clippy::vec_box,
        reason = "the rings and the exchanges hold them in boxes, and that none is moved is the point"
    )]
    spare: RefCell<Vec<Box<RefCell<Receipt>>>>,
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    lines: u64,
    stamp: line::Stamp,
}

impl CoreRecorder {
    fn flush(&self) {
        let mut chunk = self.chunk.borrow_mut();
        if let (Some(log), false) = (&self.telemetry.log, chunk.bytes.is_empty()) {
            let bytes = std::mem::replace(&mut chunk.bytes, Vec::with_capacity(CHUNK + CHUNK / 4));
            log.write(bytes, std::mem::take(&mut chunk.lines));
        }
    }
}

impl Recorder for CoreRecorder {
    fn record(&self, mut settled: Box<RefCell<Receipt>>) {
        let receipt = settled.get_mut();
        let slow = receipt.ended.since(receipt.started) >= self.telemetry.slow;
        let well = receipt.refusal.is_none() && receipt.end == End::Complete && !slow;
        let left_out =
            receipt.sampled_out && well && receipt.status.is_some_and(|status| status.as_u16() < 500);
        if self.telemetry.log.is_some() && !left_out && !receipt.of_peer {
            let full = {
                let mut chunk = self.chunk.borrow_mut();
                let Chunk { bytes, lines, stamp } = &mut *chunk;
                line::write(bytes, receipt, stamp.text(clock::wall()), self.telemetry.query);
                *lines += 1;
                bytes.len() >= CHUNK
            };
            if full {
                self.flush();
            }
        }
        let mut cells = self.cells.lock();
        cells.tries += u64::from(receipt.tries);
        cells.lines_left_out += u64::from(left_out && self.telemetry.log.is_some());
        // Of what another node asked, that one tells the tenant's part.
        if !receipt.of_peer {
            cells.count(receipt);
        }
        let status = receipt.status.map_or(0, |status| status.as_u16());
        let broken = !matches!(receipt.end, End::Complete | End::TunnelClosed);
        let ring = match status {
            _ if slow || broken => &mut cells.remarkable,
            0 | 500.. => &mut cells.remarkable,
            400..500 => &mut cells.refused,
            _ => &mut cells.recent,
        };
        if let Some(oldest) = ring.push(settled) {
            let mut spare = self.spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(oldest);
            }
        }
    }

    fn spare(&self) -> Option<Box<RefCell<Receipt>>> {
        self.spare.borrow_mut().pop()
    }
}

impl Drop for CoreRecorder {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Counts what the process itself does.
#[derive(Debug, Default)]
pub struct ProcessCounts {
    /// Reloads that took effect.
    pub reloads: AtomicU64,
    /// Reloads that were refused.
    pub reloads_refused: AtomicU64,
}

impl ProcessCounts {
    /// A reload took effect, or not.
    pub fn reloaded(&self, good: bool) {
        (if good { &self.reloads } else { &self.reloads_refused }).fetch_add(1, Relaxed);
    }
}
