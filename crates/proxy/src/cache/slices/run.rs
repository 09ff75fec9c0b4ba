//! A run: slices of one version on their way from the upstream, for all who read them meanwhile.
//!
//! ```text
//! Lead --- asks the upstream ---> head: Lead::come ---> Bringer: pieces, and which of their slices are kept
//! Seat --- waits, reads the pieces that are here; who is behind them reads what is kept
//! ```
//!
//! What is here is a window. Where slices are kept it moves on as far as a tier has acknowledged them: who is slower reads
//! them there, and so does who comes later; so one slow client holds up nobody, and no byte is asked for twice. Where they
//! cannot be kept it moves on with the slowest of those who read. A run goes at most some slices ahead of the fastest, and
//! ends with a slice when nobody reads any more: what nobody asks for is not fetched.
//!
//! What always holds: a run holds some slices and a piece at most, whatever its length; while slices are kept, each byte that
//! came is in the window or in a tier.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_model::cache::assemble::Grid;
use tidegate_model::cache::range::Part;

/// Slices in the window.
const WINDOW: u64 = 4;
/// Slices that a run may be ahead of the fastest who reads, and that somebody may be ahead of a run to wait for it.
pub const AHEAD: u64 = 16;

/// All runs of the process.
#[derive(Debug, Default)]
pub struct Runs {
    /// By version.
    under_way: Mutex<HashMap<u128, Vec<Arc<Run>>>>,
    held: AtomicU64,
    held_max: AtomicU64,
}

/// What a reader is to others that want the same bytes.
pub enum Role {
    /// It asks the upstream.
    Lead(Lead, Seat),
    /// They are on their way.
    Follow(Seat),
    /// There are as many under way as there is memory for.
    Full,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// All of it came.
    Whole,
    /// The upstream has another representation now, or none.
    Changed,
    /// The upstream did not answer with what was asked for.
    Refused,
    /// It broke off.
    Broken,
    /// Nobody read any more.
    Left,
}

impl Runs {
    /// Holds them to so many bytes.
    pub fn bound(&self, held_max: u64) {
        self.held_max.store(held_max, Relaxed);
    }

    /// Bytes that they may hold.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// How many there are.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.lock().values().map(Vec::len).sum()
    }

    /// Joins the run that brings this byte of a version, or leads one that brings these. `must`: whether or not there is
    /// memory for it: a client is in the middle of it.
    pub fn join(self: &Arc<Runs>, version: u128, grid: Grid, at: u64, part: Part, must: bool) -> Role {
        let mut under_way = self.under_way.lock();
        if let Some(seat) = under_way.get(&version).and_then(|runs| joined(runs, at)) {
            return Role::Follow(seat);
        }
        let Some(run) = self.begin(grid, part, must) else { return Role::Full };
        under_way.entry(version).or_default().push(Arc::clone(&run));
        let seat = Run::sit(&run, at);
        Role::Lead(Lead { runs: Arc::clone(self), version, run }, seat)
    }

    /// Joins the run that brings this byte of a version.
    #[must_use]
    pub fn follow(&self, version: u128, at: u64) -> Option<Seat> {
        joined(self.under_way.lock().get(&version)?, at)
    }

    /// Whether this slice is on its way.
    #[must_use]
    pub fn bring(&self, version: u128, at: u64) -> bool {
        let under_way = self.under_way.lock();
        under_way
            .get(&version)
            .is_some_and(|runs| runs.iter().any(|run| run.state.lock().reaches(at, run.grid)))
    }

    fn begin(self: &Arc<Runs>, grid: Grid, part: Part, must: bool) -> Option<Arc<Run>> {
        let bytes = (WINDOW + 1) * grid.slice.min(grid.whole);
        let held = self.held.fetch_add(bytes, Relaxed);
        if held + bytes > self.held_max.load(Relaxed) && !must {
            self.held.fetch_sub(bytes, Relaxed);
            return None;
        }
        let Part { from, to: end } = part;
        let state = State { from, to: from, end, kept_to: from, keeps: true, ..State::default() };
        Some(Arc::new(Run { grid, bytes, runs: Arc::clone(self), state: Mutex::new(state) }))
    }

    fn end(&self, version: u128, run: &Arc<Run>) {
        let mut under_way = self.under_way.lock();
        if let Some(runs) = under_way.get_mut(&version) {
            runs.retain(|other| !Arc::ptr_eq(other, run));
            if runs.is_empty() {
                under_way.remove(&version);
            }
        }
    }
}

fn joined(runs: &[Arc<Run>], at: u64) -> Option<Seat> {
    let run = runs.iter().find(|run| run.state.lock().reaches(at, run.grid))?;
    Some(Run::sit(run, at))
}

struct Run {
    grid: Grid,
    /// What it is counted for.
    bytes: u64,
    runs: Arc<Runs>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Run")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.runs.held.fetch_sub(self.bytes, Relaxed);
    }
}

#[derive(Default)]
struct State {
    stage: Stage,
    /// The window: the first byte that is here, and the first that is not yet.
    from: u64,
    to: u64,
    pieces: VecDeque<Bytes>,
    /// Where it ends.
    end: u64,
    /// What lies before is in a tier, from where the run began.
    kept_to: u64,
    /// What was here when the last one left.
    left_at: Option<u64>,
    /// Whether what comes is kept.
    keeps: bool,
    /// The upstream answers with the whole, whatever it is asked for.
    is_whole: bool,
    seats: Vec<Option<Sitting>>,
    free: Vec<usize>,
    /// Who brings the pieces and waits for room.
    bringer: Option<Waker>,
}

#[derive(Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Asking,
    Coming,
    Over(Over),
}

struct Sitting {
    /// The byte that it wants next.
    at: u64,
    waker: Option<Waker>,
}

impl Run {
    fn sit(run: &Arc<Run>, at: u64) -> Seat {
        let mut state = run.state.lock();
        let sitting = Some(Sitting { at, waker: None });
        let place = match state.free.pop() {
            Some(place) => {
                state.seats[place] = sitting;
                place
            }
            None => {
                state.seats.push(sitting);
                state.seats.len() - 1
            }
        };
        // It may be the fastest now.
        state.go_on();
        drop(state);
        Seat { run: Arc::clone(run), place }
    }
}

impl State {
    /// Whether somebody who wants this byte may wait for it here.
    fn reaches(&self, at: u64, grid: Grid) -> bool {
        let soon = self.is_whole || at < self.to.saturating_add(AHEAD * grid.slice);
        !matches!(self.stage, Stage::Over(_)) && self.from <= at && at < self.end && soon
    }

    /// Whether nobody reads, a slice has ended since, and there is more than another one to come.
    fn is_deserted(&mut self, slice: u64) -> bool {
        if self.seats.iter().any(Option::is_some) {
            self.left_at = None;
            return false;
        }
        let left_at = *self.left_at.get_or_insert(self.to);
        let has_ended = self.to.is_multiple_of(slice) || self.to / slice > left_at / slice;
        has_ended && self.end - self.to > slice
    }

    fn wake_all(&mut self) {
        for sitting in self.seats.iter_mut().flatten() {
            if let Some(waker) = sitting.waker.take() {
                waker.wake();
            }
        }
    }

    fn go_on(&mut self) {
        if let Some(bringer) = self.bringer.take() {
            bringer.wake();
        }
    }

    /// Lets go of what nobody here wants any more; and, where the window is full, of what is kept.
    fn move_on(&mut self, window: u64) {
        let slowest = self.seats.iter().flatten().map(|sitting| sitting.at).min().unwrap_or(self.to);
        while let Some(piece) = self.pieces.front() {
            let end = self.from + piece.len() as u64;
            let (is_passed, is_kept) = (end <= slowest, end <= self.kept_to);
            let is_full = self.to - self.from > window;
            let goes = if self.keeps { is_kept && (is_passed || is_full) } else { is_passed };
            if !goes {
                break;
            }
            self.from = end;
            self.pieces.pop_front();
        }
    }

    /// What is here from this byte on.
    fn piece(&self, at: u64) -> Option<Bytes> {
        let mut begin = self.from;
        for piece in &self.pieces {
            let end = begin + piece.len() as u64;
            if at < end {
                return Some(piece.slice((at - begin) as usize..));
            }
            begin = end;
        }
        None
    }
}

/// Who asks the upstream. Dropped before there is a head, the run has been refused.
pub struct Lead {
    runs: Arc<Runs>,
    version: u128,
    run: Arc<Run>,
}

impl Lead {
    /// What is asked for.
    #[must_use]
    pub fn part(&self) -> Part {
        let state = self.run.state.lock();
        Part { from: state.from, to: state.end }
    }

    /// The head is there, and this part comes; it begins where it was asked for, or is the whole.
    #[must_use]
    pub fn come(self, part: Part, is_whole: bool) -> Bringer {
        let mut state = self.run.state.lock();
        (state.stage, state.is_whole) = (Stage::Coming, is_whole);
        (state.from, state.to, state.kept_to, state.end) = (part.from, part.from, part.from, part.to);
        state.wake_all();
        drop(state);
        Bringer { lead: self }
    }

    /// It is over.
    pub fn end(self, over: Over) {
        self.over(over);
    }

    fn over(&self, over: Over) {
        self.runs.end(self.version, &self.run);
        let mut state = self.run.state.lock();
        if !matches!(state.stage, Stage::Over(_)) {
            state.stage = Stage::Over(over);
            state.wake_all();
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let asking = self.run.state.lock().stage == Stage::Asking;
        self.over(if asking { Over::Refused } else { Over::Broken });
    }
}

/// Brings the pieces of a run.
pub struct Bringer {
    lead: Lead,
}

impl Bringer {
    /// Brings one piece.
    pub fn push(&self, piece: Bytes) {
        let mut state = self.lead.run.state.lock();
        state.to += piece.len() as u64;
        state.pieces.push_back(piece);
        state.wake_all();
    }

    /// A slice is in a tier.
    pub fn kept(&self, part: Part) {
        let mut state = self.lead.run.state.lock();
        if state.kept_to == part.from {
            state.kept_to = part.to;
        }
    }

    /// Nothing more of it is kept.
    pub fn keeps_no_more(&self) {
        let mut state = self.lead.run.state.lock();
        state.keeps = false;
        state.go_on();
    }

    /// Waits until nobody reads any more, and a slice has ended.
    pub async fn deserted(&self) {
        poll_fn(|context| {
            let mut state = self.lead.run.state.lock();
            if state.is_deserted(self.lead.run.grid.slice) {
                return Poll::Ready(());
            }
            state.bringer = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits until there is room for more. `false`: nobody reads any more, and a slice has ended.
    pub async fn room(&self) -> bool {
        poll_fn(|context| self.poll_room(context)).await
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<bool> {
        let slice = self.lead.run.grid.slice;
        let mut state = self.lead.run.state.lock();
        state.move_on(WINDOW * slice);
        let Some(fastest) = state.seats.iter().flatten().map(|sitting| sitting.at).max() else {
            return Poll::Ready(!state.is_deserted(slice));
        };
        let near = state.to < fastest.saturating_add(AHEAD * slice);
        if near && state.to - state.from <= WINDOW * slice {
            return Poll::Ready(true);
        }
        state.bringer = Some(context.waker().clone());
        Poll::Pending
    }

    /// It is over.
    pub fn end(&self, over: Over) {
        self.lead.over(over);
    }
}

/// Where somebody reads a run.
pub struct Seat {
    run: Arc<Run>,
    place: usize,
}

/// What a reader finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// What is here from that byte on.
    Piece(Bytes),
    /// It has passed: it is in a tier.
    Behind,
    /// The run ended before it.
    Over(Over),
}

impl Seat {
    /// Waits for the upstream's answer.
    ///
    /// # Errors
    /// It is not what was asked for.
    pub async fn head(&self) -> Result<(), Over> {
        poll_fn(|context| {
            let mut state = self.run.state.lock();
            match state.stage {
                Stage::Coming | Stage::Over(Over::Whole | Over::Left) => Poll::Ready(Ok(())),
                Stage::Over(over) => Poll::Ready(Err(over)),
                Stage::Asking => {
                    wait(&mut state, self.place, context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// All before this byte is not wanted here any more.
    pub fn pass(&self, at: u64) {
        let mut state = self.run.state.lock();
        if let Some(sitting) = &mut state.seats[self.place] {
            sitting.at = at;
        }
        state.go_on();
    }

    /// Waits for this byte, and gives it with what is here behind it. All before it is not wanted here any more.
    pub async fn read(&self, at: u64) -> Read {
        poll_fn(|context| self.poll_read(at, context)).await
    }

    fn poll_read(&self, at: u64, context: &mut Context<'_>) -> Poll<Read> {
        let mut state = self.run.state.lock();
        if let Some(sitting) = &mut state.seats[self.place] {
            sitting.at = at;
        }
        state.go_on();
        if at < state.from {
            return Poll::Ready(Read::Behind);
        }
        if let Some(piece) = state.piece(at) {
            return Poll::Ready(Read::Piece(piece));
        }
        match state.stage {
            Stage::Over(over) => Poll::Ready(Read::Over(over)),
            Stage::Coming if at >= state.end => Poll::Ready(Read::Over(Over::Whole)),
            Stage::Asking | Stage::Coming => {
                wait(&mut state, self.place, context);
                Poll::Pending
            }
        }
    }
}

fn wait(state: &mut State, place: usize, context: &Context<'_>) {
    if let Some(sitting) = &mut state.seats[place] {
        match &mut sitting.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.run.state.lock();
        state.seats[self.place] = None;
        state.free.push(self.place);
        state.go_on();
    }
}
