//! Slots given away beforehand: while nothing of a queue waits, what is accepted for it takes a free slot in the transaction that
//! accepts it ([`Store::offer`](tidegate_store::Store::offer)), and is begun here as soon as that is on disk.
//!
//! What always holds: what was given away counts as taken, until it is back or told to be. As soon as something waits it is
//! taken back, before whoever is next is chosen: so turns, bounds and pauses are as they would be without it.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tidegate_model::delivery::{Request, Token};
use tidegate_store::deliveries::Ready;
use tidegate_wire::clock;

use super::Engine;

/// Slots that are given away, by queue.
#[derive(Debug, Default)]
pub struct Ahead(HashMap<Arc<str>, u32>);

impl Ahead {
    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Engine {
    /// Takes back what is given away of queues in which something waits.
    pub(super) fn take_back_waited_for(&mut self) {
        let waited_for = |queue: &&Arc<str>| !self.scheduler.takes_whatever_comes(queue);
        let queues: Vec<_> = self.ahead.0.keys().filter(waited_for).cloned().collect();
        queues.iter().for_each(|queue| self.take_back(queue));
    }

    /// Takes back all that is given away.
    pub(super) fn take_back_all(&mut self) {
        let queues: Vec<_> = self.ahead.0.keys().cloned().collect();
        queues.iter().for_each(|queue| self.take_back(queue));
    }

    /// What is being taken just now comes back, or is told, a moment later.
    fn take_back(&mut self, queue: &Arc<str>) {
        let given = self.ahead.0.get(queue).copied().unwrap_or_default();
        self.set_aside(queue, given.saturating_sub(self.parts.store.take_back(self.epoch, queue)));
    }

    /// Gives away what nobody waits for.
    pub(super) fn give_ahead(&mut self) {
        if !self.parts.store.takes_slots() {
            return;
        }
        for (name, settings) in &self.queues {
            let spare = self.scheduler.spare(name);
            if spare > 0 && self.scheduler.takes_whatever_comes(name) {
                self.parts.store.offer(self.epoch, name, spare, super::commits::lease_of(settings));
                let given = self.ahead.0.entry(Arc::clone(name)).or_default();
                *given += spare;
                self.scheduler.set_aside(name, *given);
            }
        }
    }

    /// One was begun in a slot that was given away.
    pub(super) fn begun(&mut self, ready: Ready, token: Token, request: Arc<Request>) {
        let queue = Arc::clone(&ready.line.queue);
        let given = self.ahead.0.get(&queue).copied().unwrap_or_default();
        self.set_aside(&queue, given.saturating_sub(1));
        #[cfg(test)]
        if self.maker.played.as_ref().is_some_and(|played| played.forgets_begun) {
            return;
        }
        let parts = Rc::clone(&self.parts);
        self.scheduler.begun(&ready, clock::now(), |tenant| parts.weight(tenant));
        self.make(ready, token, request);
    }

    fn set_aside(&mut self, queue: &Arc<str>, given: u32) {
        match given {
            0 => drop(self.ahead.0.remove(queue)),
            _ => drop(self.ahead.0.insert(Arc::clone(queue), given)),
        }
        self.scheduler.set_aside(queue, given);
    }
}
