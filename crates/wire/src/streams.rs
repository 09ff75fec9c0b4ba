//! The HTTP/2 streams of one connection, as tasks that can be cut.
//!
//! A client that opens no window for a stream, and answers every ping, would hold its response, and with it an upstream's
//! slot and connection, for ever (CVE-2019-9517 is its kin). hyper does not ask a response's body for more before there
//! is room: a body that was asked last too long ago tells a stream that makes no progress. Such a stream is reset by
//! ending its task; the others go on.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tidegate_model::tick::Tick;
use tokio::task::AbortHandle;

use crate::task;

/// The streams that are answered now. There are never more than the connection may have at once.
#[derive(Default)]
pub(crate) struct Streams {
    slots: RefCell<Vec<Slot>>,
    /// The stream whose task hyper is about to spawn.
    next: Cell<Option<usize>>,
}

struct Slot {
    used: bool,
    task: Option<AbortHandle>,
    /// Since when the client has taken nothing; [`Tick::MAX`] while it is us who it waits for.
    waits_since: Tick,
}

/// One stream, until its response has ended.
pub(crate) struct Stream {
    streams: Rc<Streams>,
    place: usize,
}

impl Streams {
    /// A stream whose task comes next.
    pub(crate) fn open(self: &Rc<Self>) -> Stream {
        let mut slots = self.slots.borrow_mut();
        let slot = Slot { used: true, task: None, waits_since: Tick::MAX };
        let place = match slots.iter().position(|slot| !slot.used) {
            Some(free) => {
                slots[free] = slot;
                free
            }
            None => {
                slots.push(slot);
                slots.len() - 1
            }
        };
        self.next.set(Some(place));
        Stream { streams: Rc::clone(self), place }
    }

    /// Ends the streams of which the client has taken nothing for so long.
    pub(crate) fn cut_stalled(&self, now: Tick, most: Duration) {
        for slot in self.slots.borrow_mut().iter_mut() {
            if slot.waits_since != Tick::MAX && slot.waits_since.after(most) <= now {
                slot.waits_since = Tick::MAX;
                // The task ends later, on this thread: nothing of it is borrowed here.
                slot.task.take().inspect(AbortHandle::abort);
            }
        }
    }
}

impl Stream {
    /// Notes since when the client has had something to take; [`Tick::MAX`]: it has taken all.
    pub(crate) fn waits_since(&self, tick: Tick) {
        self.streams.slots.borrow_mut()[self.place].waits_since = tick;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut slots = self.streams.slots.borrow_mut();
        slots[self.place] = Slot { used: false, task: None, waits_since: Tick::MAX };
    }
}

/// Runs hyper's tasks for the streams of one connection.
#[derive(Clone)]
pub(crate) struct StreamExecutor(pub(crate) Rc<Streams>);

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        let task = task::spawn_abortable(async move {
            future.await;
        });
        // hyper spawns a stream's task as soon as the service was called; other tasks belong to no response.
        if let Some(place) = self.0.next.take() {
            self.0.slots.borrow_mut()[place].task = Some(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Executor as _;

    use super::*;
    use crate::clock;

    const MOST: Duration = Duration::from_secs(1);

    struct Alive(Rc<Cell<u32>>);

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    #[test]
    fn a_stream_of_which_nothing_is_taken_is_cut_and_the_others_go_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let streams = Rc::new(Streams::default());
            let executor = StreamExecutor(Rc::clone(&streams));
            let alive = Rc::new(Cell::new(0));
            let now = clock::now();
            for waits_since in [now, Tick::MAX, now.after(MOST)] {
                let stream = streams.open();
                alive.set(alive.get() + 1);
                let living = Alive(Rc::clone(&alive));
                executor.execute(async move {
                    let _living = living;
                    stream.waits_since(waits_since);
                    std::future::pending::<()>().await;
                });
            }
            tokio::task::yield_now().await;
            streams.cut_stalled(now.after(MOST), MOST);
            tokio::task::yield_now().await;
            assert_eq!(alive.get(), 2);
            streams.cut_stalled(now.after(MOST * 3), MOST);
            tokio::task::yield_now().await;
            assert_eq!(alive.get(), 1, "one has taken all");
            drop(streams.open());
            assert_eq!(streams.slots.borrow().len(), 3, "a place is used again");
        });
    }
}
