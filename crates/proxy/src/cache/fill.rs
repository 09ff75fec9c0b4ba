//! One request to the upstream answers all who ask for the same meanwhile.
//!
//! ```text
//! first to ask: Lead --- asks the upstream ---> head: Lead::stream ---> pieces as they come ---> whole: kept
//! the others:   Seat --- wait --------------> the same head ---------> the same pieces, at their own pace
//! ```
//!
//! Whoever leads may leave: once the head is there its task goes on for the others and for the cache; before, one of the
//! others leads anew. An answer that nobody else may have sends all of them on alone, and that is remembered a while, so
//! that what cannot be kept does not go one by one.
//!
//! Nothing is held that is not bounded: pieces by the size of what may be kept, and when that is exceeded by a window that
//! the slowest of those who are still there moves on.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_model::cache::key::Key;
use tidegate_model::refusal::Refusal;
use tidegate_model::tick::Tick;

use super::kept::Head;

/// How long a target whose answer could not be kept is not collapsed.
const ALONE_FOR: Duration = Duration::from_secs(10);
/// Targets that are remembered as such; one that falls on another's place takes it.
const ALONE_PLACES: usize = 1 << 14;
/// What may lie ready for the slowest of those who read an answer that is too large to be kept.
const WINDOW_BYTES: u64 = 256 * 1024;

/// All that is being asked for.
#[derive(Debug)]
pub struct Fills {
    under_way: Mutex<HashMap<Key, Arc<Fill>>>,
    held: AtomicU64,
    held_max: AtomicU64,
    alone: Box<[(AtomicU64, AtomicU64)]>,
}

/// What a request is to others that ask for the same.
pub enum Role {
    /// It asks the upstream.
    Lead(Lead),
    /// It waits for who does.
    Follow(Seat),
    /// It asks for itself: what it asks for was not to be shared when it was last asked for.
    Alone(Lead),
}

impl Default for Fills {
    fn default() -> Fills {
        let alone = (0..ALONE_PLACES).map(|_| (AtomicU64::new(0), AtomicU64::new(0))).collect();
        Fills {
            under_way: Mutex::default(),
            held: AtomicU64::new(0),
            held_max: AtomicU64::new(u64::MAX),
            alone,
        }
    }
}

impl Fills {
    /// Joins those who ask for this.
    pub fn join(self: &Arc<Fills>, key: Key, now: Tick) -> Role {
        let (known, until) = &self.alone[key.0 as usize % ALONE_PLACES];
        if known.load(Relaxed) == key.0 as u64 && Tick(until.load(Relaxed)) > now {
            return Role::Alone(self.lead_alone(key));
        }
        let mut under_way = self.under_way.lock();
        match under_way.get(&key) {
            Some(fill) => Role::Follow(Fill::sit(fill)),
            None => {
                let fill = self.fill();
                under_way.insert(key, Arc::clone(&fill));
                Role::Lead(Lead { fills: Arc::clone(self), key, fill, together: true })
            }
        }
    }

    /// Asks for what is served meanwhile, unless somebody does.
    #[must_use]
    pub fn lead_behind(self: &Arc<Fills>, key: Key) -> Option<Lead> {
        let mut under_way = self.under_way.lock();
        if under_way.contains_key(&key) {
            return None;
        }
        let fill = self.fill();
        under_way.insert(key, Arc::clone(&fill));
        Some(Lead { fills: Arc::clone(self), key, fill, together: true })
    }

    /// Asks for itself: nobody joins. What comes may be kept all the same.
    #[must_use]
    pub fn lead_alone(self: &Arc<Fills>, key: Key) -> Lead {
        Lead { fills: Arc::clone(self), key, fill: self.fill(), together: false }
    }

    fn fill(self: &Arc<Fills>) -> Arc<Fill> {
        Arc::new(Fill { state: Mutex::default(), held: AtomicU64::new(0), fills: Arc::clone(self) })
    }

    /// Bytes of answers that are on their way.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// Holds them to so many bytes: what goes beyond is handed on, and not kept.
    pub fn bound(&self, held_max: u64) {
        self.held_max.store(held_max, Relaxed);
    }

    /// What this asks for may be shared after all.
    fn go_together(&self, key: Key) {
        let (known, until) = &self.alone[key.0 as usize % ALONE_PLACES];
        if known.load(Relaxed) == key.0 as u64 {
            until.store(0, Relaxed);
        }
    }

    /// What this asks for is not to be collapsed for a while.
    pub fn go_alone(&self, key: Key, now: Tick) {
        let (known, until) = &self.alone[key.0 as usize % ALONE_PLACES];
        known.store(key.0 as u64, Relaxed);
        until.store(now.after(ALONE_FOR).0, Relaxed);
    }

    /// Requests that others wait for.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.lock().len()
    }

    fn end(&self, key: Key, fill: &Arc<Fill>) {
        let mut under_way = self.under_way.lock();
        if under_way.get(&key).is_some_and(|held| Arc::ptr_eq(held, fill)) {
            under_way.remove(&key);
        }
    }
}

/// One request to the upstream, as those see it who wait for its answer.
struct Fill {
    state: Mutex<State>,
    /// Bytes that it has counted with all others.
    held: AtomicU64,
    fills: Arc<Fills>,
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.fills.held.fetch_sub(*self.held.get_mut(), Relaxed);
    }
}

#[derive(Default)]
struct State {
    stage: Stage,
    /// The pieces from `first` on.
    pieces: std::collections::VecDeque<Bytes>,
    /// The number of the first piece that is still here.
    first: usize,
    /// Bytes of the pieces that are here.
    bytes: u64,
    ended: Option<Ended>,
    seats: Vec<Option<Sitting>>,
    free: Vec<usize>,
    /// Who brings the pieces and waits for room.
    bringer: Option<Waker>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Asking,
    Streaming(Arc<Head>),
    Over(Over),
}

/// How it ended for those who still wait for a head.
#[derive(Clone, Debug)]
pub enum Over {
    /// Nobody asks any more: one of those who wait is to.
    Left,
    /// It cannot be shared.
    Alone,
    /// What is stored is up to date again.
    Refreshed,
    /// The upstream answered that it failed, and something that is stored stands in.
    Failed,
    /// The upstream failed, for everybody.
    Refused(Refusal),
}

/// How the pieces ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    Broken,
}

#[derive(Default)]
struct Sitting {
    /// The number of the next piece.
    next: usize,
    waker: Option<Waker>,
}

impl std::fmt::Debug for Fill {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Fill")
    }
}

impl Fill {
    fn sit(fill: &Arc<Fill>) -> Seat {
        let mut state = fill.state.lock();
        let sitting = Some(Sitting { next: state.first, waker: None });
        let at = match state.free.pop() {
            Some(at) => {
                state.seats[at] = sitting;
                at
            }
            None => {
                state.seats.push(sitting);
                state.seats.len() - 1
            }
        };
        drop(state);
        Seat { fill: Arc::clone(fill), at }
    }
}

impl State {
    fn wake_all(&mut self) {
        for sitting in self.seats.iter_mut().flatten() {
            if let Some(waker) = sitting.waker.take() {
                waker.wake();
            }
        }
    }

    /// Lets go of pieces that all have read, and tells who brings them.
    fn move_on(&mut self) {
        let slowest = self.seats.iter().flatten().map(|sitting| sitting.next).min();
        let slowest = slowest.unwrap_or(self.first + self.pieces.len());
        while self.first < slowest
            && let Some(piece) = self.pieces.pop_front()
        {
            self.first += 1;
            self.bytes -= piece.len() as u64;
        }
        if let Some(bringer) = self.bringer.take() {
            bringer.wake();
        }
    }
}

/// Who asks the upstream. Dropped before there is a head, another one asks.
pub struct Lead {
    fills: Arc<Fills>,
    key: Key,
    fill: Arc<Fill>,
    together: bool,
}

impl Lead {
    /// Whether others may join it.
    #[must_use]
    pub fn is_together(&self) -> bool {
        self.together
    }

    /// The head is there: all who wait may have it, if it is to be shared. Gives the way to bring the pieces, and a seat for
    /// oneself.
    #[must_use]
    pub fn stream(self, head: Arc<Head>, shared: bool, now: Tick) -> (Bringer, Seat) {
        if shared {
            self.fills.go_together(self.key);
        } else {
            self.fills.go_alone(self.key, now);
            self.fills.end(self.key, &self.fill);
        }
        let mut state = self.fill.state.lock();
        state.stage = if shared { Stage::Streaming(head) } else { Stage::Over(Over::Alone) };
        state.wake_all();
        drop(state);
        let seat = Fill::sit(&self.fill);
        (Bringer { lead: self, kept: Some(Vec::new()), bytes: 0 }, seat)
    }

    /// There is nothing to share. `alone`: nor will there be soon.
    pub fn end(self, over: Over, now: Tick) {
        if matches!(over, Over::Alone) {
            self.fills.go_alone(self.key, now);
        }
        self.over(over);
    }

    fn over(&self, over: Over) {
        // First it is not found any more: who is told to ask anew must not meet it again.
        self.fills.end(self.key, &self.fill);
        let mut state = self.fill.state.lock();
        if matches!(state.stage, Stage::Asking) {
            state.stage = Stage::Over(over);
            state.wake_all();
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.over(Over::Left);
    }
}

/// Brings the pieces of an answer.
pub struct Bringer {
    lead: Lead,
    /// What was brought, until it is too much to be kept.
    kept: Option<Vec<Bytes>>,
    bytes: u64,
}

impl Bringer {
    /// Brings one piece. At most `most` bytes are kept; beyond that pieces are handed on only, at the pace of the slowest
    /// reader. Tells whether there is anybody to bring more for.
    pub async fn bring(&mut self, piece: Bytes, most: u64, now: Tick) -> bool {
        self.bytes += piece.len() as u64;
        let (fills, fill) = (&self.lead.fills, &self.lead.fill);
        if self.kept.is_some() {
            fill.held.fetch_add(piece.len() as u64, Relaxed);
            let held = fills.held.fetch_add(piece.len() as u64, Relaxed);
            let large = self.bytes > most;
            if large || held > fills.held_max.load(Relaxed) {
                self.kept = None;
                fills.end(self.lead.key, fill);
            }
            if large {
                fills.go_alone(self.lead.key, now);
            }
        }
        if let Some(kept) = &mut self.kept {
            kept.push(piece.clone());
        }
        {
            let mut state = self.lead.fill.state.lock();
            state.bytes += piece.len() as u64;
            state.pieces.push_back(piece);
            state.wake_all();
        }
        self.kept.is_some() || poll_fn(|context| self.poll_room(context)).await
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.lead.fill.state.lock();
        state.move_on();
        if state.seats.iter().all(Option::is_none) {
            return Poll::Ready(false);
        }
        if state.bytes <= WINDOW_BYTES {
            return Poll::Ready(true);
        }
        state.bringer = Some(context.waker().clone());
        Poll::Pending
    }

    /// All has been brought. What may be kept, if it was not too much; it is to be kept before this is dropped, so that
    /// whoever comes next finds it in one of both places.
    #[must_use]
    pub fn whole(&mut self) -> Option<Box<[Bytes]>> {
        let mut state = self.lead.fill.state.lock();
        state.ended = Some(Ended::Whole);
        state.wake_all();
        self.kept.take().map(Vec::into_boxed_slice)
    }
}

impl Drop for Bringer {
    fn drop(&mut self) {
        let mut state = self.lead.fill.state.lock();
        if state.ended.is_none() {
            state.ended = Some(Ended::Broken);
            state.wake_all();
        }
    }
}

/// A place among those who wait for an answer and read it.
pub struct Seat {
    fill: Arc<Fill>,
    at: usize,
}

impl Seat {
    /// Waits for the head. `Err`: there is none for this request.
    ///
    /// # Errors
    /// How it ended.
    pub async fn head(&self) -> Result<Arc<Head>, Over> {
        poll_fn(|context| {
            let mut state = self.fill.state.lock();
            match &state.stage {
                Stage::Asking => {}
                Stage::Streaming(head) => return Poll::Ready(Ok(Arc::clone(head))),
                Stage::Over(over) => return Poll::Ready(Err(over.clone())),
            }
            state.wait(self.at, context);
            Poll::Pending
        })
        .await
    }

    /// What is brought was purged meanwhile: nobody joins any more.
    pub fn is_outdated(&self, key: Key) {
        self.fill.fills.end(key, &self.fill);
    }

    /// The next piece. `None`: that was all. `Err`: the answer broke off.
    pub fn poll_piece(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let mut state = self.fill.state.lock();
        let first = state.first;
        let Some(next) = state.seats[self.at].as_ref().map(|sitting| sitting.next) else {
            return Poll::Ready(None);
        };
        if let Some(piece) = state.pieces.get(next - first).cloned() {
            if let Some(sitting) = &mut state.seats[self.at] {
                sitting.next += 1;
            }
            if state.bringer.is_some() {
                state.move_on();
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match state.ended {
            Some(Ended::Whole) => Poll::Ready(None),
            Some(Ended::Broken) => Poll::Ready(Some(Err(Broken))),
            None => {
                state.wait(self.at, context);
                Poll::Pending
            }
        }
    }

    /// Whether all has been read.
    #[must_use]
    pub fn is_end(&self) -> bool {
        let state = self.fill.state.lock();
        let next = state.seats[self.at].as_ref().map_or(0, |sitting| sitting.next);
        state.ended == Some(Ended::Whole) && next == state.first + state.pieces.len()
    }
}

impl State {
    fn wait(&mut self, at: usize, context: &Context<'_>) {
        if let Some(sitting) = &mut self.seats[at] {
            match &mut sitting.waker {
                Some(waker) => waker.clone_from(context.waker()),
                empty => *empty = Some(context.waker().clone()),
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.fill.state.lock();
        state.seats[self.at] = None;
        state.free.push(self.at);
        if state.bringer.is_some() {
            state.move_on();
        }
    }
}

/// The answer broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream broke off in the middle of its answer")]
pub struct Broken;
