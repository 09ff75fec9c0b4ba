//! Large answers: kept in slices, filled and served as streams, never held whole.
//!
//! ```text
//! answer, larger than `object` --- manifest: kept in the place of its content ------------> memory, disk
//!                              '-- run: slice after slice, as they come -----------------> disk
//! request --- manifest --- reader: from the tiers, from a run, or from a run of its own --> client
//! ```
//!
//! A *manifest* is an ordinary answer without content: it has the freshness, the validators and the names to purge by, and a
//! number that its slices are found by ([`tidegate_model::cache::assemble`]). Slices know nothing of all that: they are bytes
//! under a key, good for as long as a manifest names them, and go as the unused go. So a 304 renews a large answer with one
//! small record, and a purge takes it away with one mark.
//!
//! Slices belong on disk, and never push what is small and hot out of memory. Without a disk they lie in memory, of answers
//! that take an eighth of it at most. What is no larger than `object`, and came in parts, is in both, as its like are.
//!
//! What always holds: whatever an answer's length, filling and serving it hold some slices ([`run`], [`reader`]); bytes of
//! two versions never stand in one answer: what cannot be gone on with breaks off.
//!
//! What it does not do: share slices with other nodes.

pub mod ask;
pub mod reader;
pub mod run;
pub mod take;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tidegate_model::cache::Wall;
use tidegate_model::cache::assemble::{Grid, Manifest};
use tidegate_model::cache::freshness::Freshness;
use tidegate_model::cache::range::Part;
use tidegate_model::cache::reuse::Rules;
use tidegate_model::cache::status::{Fwd, Status};
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;
use tidegate_model::message::Response;
use tidegate_model::tick::Tick;

use self::ask::Source;
use self::reader::{Segment, SliceBody};
use self::run::{Runs, Seat};
use super::Cache;
use super::asked::Asked;
use super::kept::{Head, Kept};
use super::memory::{Found, Named};
use super::serve::{self, Shared};
use super::stage::{Onward, now, wish};
use crate::exchange::Exchange;
use crate::settle::Content;

/// What is said of an answer that is served from slices.
pub const NAME: &str = "slices";
/// Slices of one answer: a larger one has larger slices, so that they are counted through in no time.
const SLICES_MAX: u64 = 8_192;
/// The share of the disk, and of the memory where there is none, that one answer may take.
const DISK_SHARE: u64 = 4;
const MEMORY_SHARE: u64 = 8;
/// How long a fill waits for the disk, once: what is not taken by then is read by those who are there, and by nobody else.
const WRITE_WAIT: Duration = Duration::from_secs(5);
/// How long a client that is in the middle of an answer waits for the disk: it is better served late than by another
/// request.
const READ_WAIT: Duration = Duration::from_secs(10);

/// What is known of slices beside what is kept of them.
#[derive(Debug, Default)]
pub struct Slices {
    /// Those on their way.
    pub runs: Arc<Runs>,
    large_bytes_max: AtomicU64,
    slice_bytes: AtomicU64,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    kept: AtomicU64,
    dropped: AtomicU64,
    read: AtomicU64,
    asked: AtomicU64,
    changed: AtomicU64,
    broken: AtomicU64,
}

/// What has become of slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SliceCounts {
    /// Slices that a tier took.
    pub kept: u64,
    /// Slices that it did not take in time.
    pub dropped: u64,
    /// Slices read from a tier.
    pub read: u64,
    /// Requests to upstreams for slices that were missing.
    pub asked: u64,
    /// Those that met another representation.
    pub changed: u64,
    /// Answers that broke off in their middle, since a slice was missing and could not be had.
    pub broken: u64,
}

impl Slices {
    /// Holds them to these bounds.
    pub fn bound(&self, large_bytes_max: u64, slice_bytes: u64, held_max: u64) {
        self.large_bytes_max.store(large_bytes_max, Relaxed);
        self.slice_bytes.store(slice_bytes, Relaxed);
        self.runs.bound(held_max);
    }

    /// What has become of them.
    #[must_use]
    pub fn counts(&self) -> SliceCounts {
        let Counts { kept, dropped, read, asked, changed, broken } = &self.counts;
        SliceCounts {
            kept: kept.load(Relaxed),
            dropped: dropped.load(Relaxed),
            read: read.load(Relaxed),
            asked: asked.load(Relaxed),
            changed: changed.load(Relaxed),
            broken: broken.load(Relaxed),
        }
    }
}

/// A large answer, and whose it is: what its slices are kept and found by.
#[derive(Clone)]
pub struct Whose {
    /// The request that its manifest answers.
    pub asked: Asked,
    /// The manifest.
    pub manifest: Manifest,
}

impl Whose {
    /// A slice, as a purge may name it.
    fn named(&self, slice: u64) -> Named<'_> {
        Named { key: self.manifest.key(slice), ..self.asked.named() }
    }
}

impl Cache {
    /// How an answer of this length is cut. `None`: it is not kept in slices.
    #[must_use]
    pub fn grid(&self, whole: u64) -> Option<Grid> {
        let (most, slice_max) = match self.memory.disk() {
            Some(disk) if disk.is_open() => (disk.settings().size / DISK_SHARE, disk.slice_bytes_max()),
            // What cannot be read now is not written either.
            Some(_) => return None,
            None => (self.bounds.load().bounds.bytes / MEMORY_SHARE, u64::MAX),
        };
        let most = most.min(self.slices.large_bytes_max.load(Relaxed));
        let wanted = self.slices.slice_bytes.load(Relaxed).max(whole / SLICES_MAX + 1);
        (0 < whole && whole <= most).then(|| Grid { whole, slice: wanted.min(slice_max).max(1) })
    }

    /// Whether a slice is in a tier, as far as indices tell.
    #[must_use]
    pub fn has_slice(&self, whose: &Whose, slice: u64) -> bool {
        self.has_slice_of(&whose.asked.named(), &whose.manifest, slice)
    }

    /// How many of the slices of an answer to this request are there.
    #[must_use]
    pub fn slices_there(&self, named: &Named<'_>, manifest: &Manifest) -> u64 {
        (0..manifest.grid.count()).filter(|slice| self.has_slice_of(named, manifest, *slice)).count() as u64
    }

    fn has_slice_of(&self, named: &Named<'_>, manifest: &Manifest, slice: u64) -> bool {
        let (named, disk) = (Named { key: manifest.key(slice), ..*named }, self.memory.disk());
        let in_memory = || matches!(self.memory.find(&named, &Fields::default()), Found::Answer(_));
        disk.as_ref().is_some_and(|disk| disk.has(named.key))
            || (self.is_in_memory(manifest, disk.is_some()) && in_memory())
    }

    /// Whether slices of this answer are kept in memory.
    fn is_in_memory(&self, manifest: &Manifest, there_is_a_disk: bool) -> bool {
        !there_is_a_disk || manifest.grid.whole <= self.object_bytes_max()
    }

    /// Reads a slice. `None`: it is not there, or not as it was written.
    async fn read_slice(&self, whose: &Whose, slice: u64) -> Option<VecDeque<Bytes>> {
        let named = whose.named(slice);
        let kept = match self.memory.find(&named, &Fields::default()) {
            Found::Answer(kept) => kept,
            _ => {
                // It is not compared with what was purged: whoever found its manifest before may read it to its end, and
                // nobody finds it without one.
                let found = self.memory.disk()?.find_slice(&named, READ_WAIT)?;
                found.await?.kept
            }
        };
        self.slices.counts.read.fetch_add(1, Relaxed);
        // It is put together from what is foreign: what is not as long as it is to be is not it.
        (kept.length() == whose.manifest.grid.part_of(slice).len()).then(|| kept.pieces().collect())
    }

    /// Hands a slice to the tiers. Tells whether one of them takes it.
    fn keep_slice(&self, whose: &Whose, slice: u64, kept: &Arc<Kept>) -> bool {
        let (named, vary, none) = (whose.named(slice), Vary::default(), Fields::default());
        let disk = self.memory.disk();
        let mut taken = false;
        if self.is_in_memory(&whose.manifest, disk.is_some()) {
            taken = self.memory.keep(&named, whose.asked.room, &none, &vary, Arc::clone(kept));
        }
        taken | disk.is_some_and(|disk| disk.keep_slice(&named, whose.asked.room, kept))
    }

    /// Waits until this holds, or that time has come; it is looked at again whenever the disk has written something.
    async fn holds_by(&self, by: Tick, mut holds: impl FnMut() -> bool) -> bool {
        match self.memory.disk() {
            Some(disk) if disk.is_open() => disk.holds_by(by, holds).await,
            _ => holds(),
        }
    }
}

/// What is stored of a large answer, looked over before its head is sent.
enum Look {
    /// All that is asked for is in a tier, or on its way.
    There,
    /// What is missing can be asked for; the first bytes of this part are.
    Missing(Option<Part>),
    /// Something is missing, and nothing would tell whether it were the same.
    Gone,
}

fn look(source: &Source, segments: &VecDeque<Segment>) -> Look {
    let grid = source.whose.manifest.grid;
    let mut first = true;
    for segment in segments {
        let Segment::Part(part) = segment else { continue };
        if let Some(run) = grid.missing(*part, |slice| source.has(slice)) {
            let at_once = first && run.start == grid.slice_at(part.from);
            return if source.may_ask() { Look::Missing(at_once.then_some(*part)) } else { Look::Gone };
        }
        first = false;
    }
    Look::There
}

/// What is stored, in slices or not, for this client. What is missing is asked for when it is its turn.
#[must_use]
pub fn stored(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    kept: &Arc<Kept>,
    status: Status,
) -> Response<Content> {
    if !kept.is_sliced() {
        return serve::stored(kept, &wish(onward, asked), now(), status);
    }
    match Source::of(onward, exchange, asked, kept) {
        Some(source) => read(onward, source, asked, kept, status, None),
        // Nothing that can be read: it was looked at before, and cannot be; empty it must not seem.
        None => serve::stored(kept, &wish(onward, asked), now(), status).map(|_| Content::Cut),
    }
}

fn read(
    onward: Onward<'_>,
    source: Rc<Source>,
    asked: &Asked,
    kept: &Kept,
    status: Status,
    seat: Option<Seat>,
) -> Response<Content> {
    let manifest = source.whose.manifest;
    let (response, segments) = serve::sliced(kept, &manifest, &wish(onward, asked), now(), status);
    if segments.is_empty() {
        return response;
    }
    let slices = SliceBody::new(source, segments, seat);
    response.map(|_| Content::Cached(Box::new(Shared::Slices(slices))))
}

/// What is stored in slices, for this client; where the first of them are missing, when the upstream has said that it brings
/// them. `None`: it is as if nothing were stored.
pub async fn answer(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    kept: &Arc<Kept>,
) -> Option<Response<Content>> {
    let source = Source::of(onward, exchange, asked, kept)?;
    let (_, segments) =
        serve::sliced(kept, &source.whose.manifest, &wish(onward, asked), now(), Status::default());
    let hit = Status { detail: Some(NAME), ..Status::default() };
    let fwd = Status { fwd: Some(Fwd::Partial), stored: true, ..hit };
    let stored_only = onward.settings.reuse.request_directives && asked.told.only_if_cached;
    match look(&source, &segments) {
        Look::There => Some(read(onward, source, asked, kept, hit, None)),
        Look::Missing(_) if stored_only => None,
        Look::Missing(None) => Some(read(onward, source, asked, kept, fwd, None)),
        Look::Missing(Some(part)) => {
            let seat = source.seat(part, false).await.ok()?;
            Some(read(onward, source, asked, kept, fwd, seat))
        }
        Look::Gone => None,
    }
}

/// Whether what is stored can be read: all that is asked for is there; or, if `or_asked`, can be asked for.
#[must_use]
pub fn is_readable(
    onward: Onward<'_>,
    exchange: &Exchange,
    asked: &Asked,
    kept: &Arc<Kept>,
    or_asked: bool,
) -> bool {
    if !kept.is_sliced() {
        return true;
    }
    let Some(source) = Source::of(onward, exchange, asked, kept) else { return false };
    let (_, segments) =
        serve::sliced(kept, &source.whose.manifest, &wish(onward, asked), now(), Status::default());
    match look(&source, &segments) {
        Look::There => true,
        Look::Missing(_) => or_asked,
        Look::Gone => false,
    }
}

/// A slice, made of what came.
fn slice_of(made: u64, pieces: &[Bytes]) -> Arc<Kept> {
    Arc::new(Kept::new(&head_of_slice(made), pieces))
}

/// What is known of a slice: nothing but when it was asked for. Its manifest says how long it is good.
fn head_of_slice(made: u64) -> Head {
    let freshness = Freshness { initial_age: 0, lifetime: u32::MAX, answered: Wall(0), heuristic: false };
    Head {
        status: StatusCode::OK,
        fields: Fields::default(),
        rules: Rules {
            freshness,
            validate_always: false,
            never_stale: false,
            while_revalidate: 0,
            if_error: None,
            immutable: true,
        },
        tags: Box::default(),
        made,
        took_ms: 0,
        vary: Vary::default(),
        variant: Vec::new(),
    }
}
