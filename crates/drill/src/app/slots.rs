//! A server's workers, and the line before them: first come, first served, and nobody leaves it. That is how most
//! application servers are, and how they drown: under overload each request waits behind all those that nobody waits for
//! any more.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Shared, State};

/// Slots in use, and who waits for one.
#[derive(Default)]
pub(super) struct Slots {
    pub busy: usize,
    pub waiting: VecDeque<oneshot::Sender<Slot>>,
}

/// A worker. Dropped, it goes to whoever has waited longest.
pub(super) struct Slot(Option<Arc<Shared>>);

/// Takes a slot, after whatever wait. `None`: too many wait already.
pub(super) async fn take(shared: &Arc<Shared>) -> Option<Slot> {
    let waiter = {
        let mut state = shared.state.lock();
        if state.slots.busy < state.behaviour.slots && state.slots.waiting.is_empty() {
            begin(&mut state);
            return Some(Slot(Some(Arc::clone(shared))));
        }
        if state.slots.waiting.len() >= state.behaviour.waiting_max {
            state.counts.turned_away += 1;
            return None;
        }
        let (give, waiter) = oneshot::channel();
        state.slots.waiting.push_back(give);
        state.counts.waiting_most = state.counts.waiting_most.max(state.slots.waiting.len());
        waiter
    };
    waiter.await.ok()
}

/// Gives free slots to those who wait.
pub(super) fn fill(shared: &Arc<Shared>) {
    while let Some(next) = next(shared) {
        if let Err(mut slot) = next.send(Slot(Some(Arc::clone(shared)))) {
            // Nobody waits there any more. Taken apart here, it does not come back by itself.
            slot.0 = None;
            shared.state.lock().slots.busy -= 1;
        }
    }
}

/// Who has waited longest, if there is a slot for it: the slot counts as taken.
fn next(shared: &Shared) -> Option<oneshot::Sender<Slot>> {
    let mut state = shared.state.lock();
    if state.slots.busy >= state.behaviour.slots {
        return None;
    }
    let next = state.slots.waiting.pop_front()?;
    begin(&mut state);
    Some(next)
}

fn begin(state: &mut State) {
    state.slots.busy += 1;
    state.counts.busy_most = state.counts.busy_most.max(state.slots.busy);
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.state.lock().slots.busy -= 1;
            fill(&shared);
        }
    }
}
