//! Waking many tasks of a core from another thread for the price of one.
//!
//! Whoever wakes a task of a runtime on another thread rings that thread out of its sleep: a lock and a system call, for each task.
//! A thread that writes to disk for hundreds of requests at once answers all of them in one go, and would ring as often.
//! So they are put on a list, and the core is rung once until it has looked there: then it wakes them by itself, which costs
//! next to nothing.
//!
//! Where both threads share a processor, a core that is rung goes before whoever rings, answers the few that it finds, and sleeps
//! again. Whoever answers some rings behind the last of them ([`together`]).
//!
//! What always holds: nobody who was woken is forgotten. Where the core's runtime has ended, tasks are woken as if there were
//! no bell.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::task;

/// Tasks beyond which those that are woken together are a crowd: to have many do the same step one after the other costs less than to
/// have each go all its way. Of fewer, each gains more by being early.
const CROWD: usize = 16;
/// Those who are answered together, beyond which a core is rung behind the last of them.
const SOME: usize = 3;

/// Waits for what another thread answers, together with many others. What is waited for is woken for each answer, once.
///
/// # Panics
/// Outside a `tokio::runtime::LocalRuntime` (or a `LocalSet`).
pub fn hear<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = Arc::new(Caller { bell: of_this_core(), task: AtomicWaker::new() });
    Hear { waker: Waker::from(Arc::clone(&caller)), caller, future }
}

pin_project_lite::pin_project! {
    /// What waits so.
    struct Hear<F> {
        caller: Arc<Caller>,
        waker: Waker,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Hear<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let hear = self.project();
        hear.caller.task.register(context.waker());
        hear.future.poll(&mut Context::from_waker(hear.waker))
    }
}

/// Whether a crowd was woken on this core, of whom some have not had their turn yet. Whoever goes behind them for that has its next
/// turn after theirs, be it one of them or not.
pub(crate) fn is_crowd_awake() -> bool {
    CROWD_IS_AWAKE.get()
}

/// Answers so many who wait. If they are some, cores are rung once all are answered: that is to wait for nothing itself.
pub fn together<T>(count: usize, answer: impl FnOnce() -> T) -> T {
    if count <= SOME {
        return answer();
    }
    let _held = Held { outer: HELD.replace(Some(Vec::new())) };
    answer()
}

/// Rings what was held back, also where answering has panicked.
struct Held {
    outer: Option<Vec<Arc<Bell>>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let bells = HELD.replace(self.outer.take());
        bells.into_iter().flatten().for_each(|bell| bell.ringer.wake());
    }
}

/// Rings, or leaves that to [`together`].
fn ring(bell: Arc<Bell>) {
    let held_back = HELD.with_borrow_mut(|held| held.as_mut().map(|bells| bells.push(Arc::clone(&bell))));
    if held_back.is_none() {
        bell.ringer.wake();
    }
}

/// A core's bell.
#[derive(Default)]
struct Bell {
    woken: Mutex<Woken>,
    ringer: AtomicWaker,
}

#[derive(Default)]
struct Woken {
    callers: Vec<Arc<Caller>>,
    /// Nobody listens any more.
    is_over: bool,
}

/// Who waits for an answer.
struct Caller {
    bell: Arc<Bell>,
    task: AtomicWaker,
}

impl Wake for Caller {
    fn wake(self: Arc<Caller>) {
        let bell = Arc::clone(&self.bell);
        let mut woken = bell.woken.lock();
        if woken.is_over {
            drop(woken);
            return self.task.wake();
        }
        let is_first = woken.callers.is_empty();
        woken.callers.push(self);
        drop(woken);
        if is_first {
            ring(bell);
        }
    }
}

/// The task that wakes the others.
struct Ringer(Arc<Bell>);

impl Future for Ringer {
    type Output = ();

    fn poll(self: Pin<&mut Ringer>, context: &mut Context<'_>) -> Poll<()> {
        // Before it looks: whoever comes behind the look rings again.
        self.0.ringer.register(context.waker());
        let callers = std::mem::take(&mut self.0.woken.lock().callers);
        callers.iter().for_each(|caller| caller.task.wake());
        let is_crowd = callers.len() > CROWD;
        CROWD_IS_AWAKE.set(is_crowd);
        if is_crowd {
            // The next look comes behind the turns of all of them.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        CROWD_IS_AWAKE.set(false);
        let callers = {
            let mut woken = self.0.woken.lock();
            woken.is_over = true;
            std::mem::take(&mut woken.callers)
        };
        callers.iter().for_each(|caller| caller.task.wake());
    }
}

thread_local! {
    static CROWD_IS_AWAKE: Cell<bool> = const { Cell::new(false) };
    static HELD: RefCell<Option<Vec<Arc<Bell>>>> = const { RefCell::new(None) };
    static BELL: RefCell<Option<Arc<Bell>>> = const { RefCell::new(None) };
}

/// The bell of the runtime that this thread has. There is a new one for each: one that has ended took its own along.
fn of_this_core() -> Arc<Bell> {
    BELL.with_borrow_mut(|held| match held {
        Some(bell) if !bell.woken.lock().is_over => Arc::clone(bell),
        _ => {
            let bell = Arc::<Bell>::default();
            task::spawn(Ringer(Arc::clone(&bell)));
            Arc::clone(held.insert(bell))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    fn core() -> LocalRuntime {
        Builder::new_current_thread().build_local(LocalOptions::default()).unwrap()
    }

    /// So many tasks wait for what another thread answers; how many have heard it.
    fn check(runtime: &LocalRuntime, count: usize) -> usize {
        let (asks, mut asked) = mpsc::channel::<oneshot::Sender<usize>>(count);
        let answering = std::thread::spawn(move || {
            let all: Vec<_> = (0..count).map_while(|_| asked.blocking_recv()).collect();
            all.into_iter().enumerate().for_each(|(number, told)| told.send(number).unwrap());
        });
        let heard = Rc::<Cell<usize>>::default();
        runtime.block_on(async {
            let (done, mut all_done) = mpsc::channel::<()>(1);
            for _ in 0..count {
                let (told, answer) = oneshot::channel();
                asks.try_send(told).unwrap();
                let (heard, done) = (Rc::clone(&heard), done.clone());
                task::spawn(async move {
                    hear(answer).await.unwrap();
                    heard.set(heard.get() + 1);
                    drop(done);
                });
            }
            drop(done);
            assert_eq!(all_done.recv().await, None);
        });
        answering.join().unwrap();
        heard.get()
    }

    #[test]
    fn whoever_waits_hears() {
        let runtime = core();
        for count in [1, 2, 300] {
            assert_eq!(check(&runtime, count), count);
        }
    }

    #[test]
    fn the_next_runtime_of_a_thread_has_its_own() {
        assert_eq!(check(&core(), 3), 3);
        assert_eq!(check(&core(), 3), 3);
    }

    #[test]
    fn who_is_woken_many_times_is_woken_once_a_look() {
        let mut core = Core::new();
        let callers = core.callers(5);
        callers.iter().for_each(|caller| Arc::clone(caller).wake());
        assert_eq!(core.rung(), 1);
        core.look();
        Arc::clone(&callers[0]).wake();
        assert_eq!(core.rung(), 2);
    }

    #[test]
    fn who_answers_some_rings_behind_the_last_of_them() {
        let core = Core::new();
        let callers = core.callers(SOME + 1);
        let rung = together(callers.len(), || {
            callers.iter().for_each(|caller| Arc::clone(caller).wake());
            core.rung()
        });
        assert_eq!((rung, core.rung()), (0, 1));
    }

    #[test]
    fn of_a_few_the_first_rings() {
        let core = Core::new();
        let callers = core.callers(SOME);
        let rung = together(callers.len(), || {
            Arc::clone(&callers[0]).wake();
            core.rung()
        });
        assert_eq!(rung, 1);
    }

    #[test]
    fn some_among_others_ring_for_themselves() {
        let (outer, inner) = (Core::new(), Core::new());
        together(SOME + 1, || {
            Arc::clone(&outer.callers(1)[0]).wake();
            together(SOME + 1, || Arc::clone(&inner.callers(1)[0]).wake());
            assert_eq!((outer.rung(), inner.rung()), (0, 1));
        });
        assert_eq!((outer.rung(), inner.rung()), (1, 1));
    }

    #[test]
    fn who_was_answered_before_a_panic_hears_it() {
        let core = Core::new();
        let caller = core.callers(1).remove(0);
        let panics = std::panic::AssertUnwindSafe(|| {
            together(SOME + 1, || {
                caller.wake();
                panic!("on purpose");
            })
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(core.rung(), 1);
    }

    #[test]
    fn a_task_is_woken_where_nobody_listens_any_more() {
        let (woken, bell) = (Arc::new(Count::default()), Arc::<Bell>::default());
        let caller = || {
            let caller = Caller { bell: Arc::clone(&bell), task: AtomicWaker::new() };
            caller.task.register(&Waker::from(Arc::clone(&woken)));
            Arc::new(caller)
        };
        let ringer = Ringer(Arc::clone(&bell));
        caller().wake();
        assert_eq!(*woken.0.lock(), 0);
        drop(ringer);
        assert_eq!(*woken.0.lock(), 1);
        caller().wake();
        assert_eq!(*woken.0.lock(), 2);
    }

    /// A core that looks when it is told to.
    struct Core {
        ringer: Ringer,
        rung: Arc<Count>,
    }

    impl Core {
        /// One that has looked once.
        fn new() -> Core {
            let mut core = Core { ringer: Ringer(Arc::default()), rung: Arc::default() };
            core.look();
            core
        }

        fn look(&mut self) {
            let waker = Waker::from(Arc::clone(&self.rung));
            assert!(Pin::new(&mut self.ringer).poll(&mut Context::from_waker(&waker)).is_pending());
        }

        fn callers(&self, count: usize) -> Vec<Arc<Caller>> {
            let caller = || Arc::new(Caller { bell: Arc::clone(&self.ringer.0), task: AtomicWaker::new() });
            (0..count).map(|_| caller()).collect()
        }

        /// How often it was rung.
        fn rung(&self) -> usize {
            *self.rung.0.lock()
        }
    }

    #[derive(Default)]
    struct Count(Mutex<usize>);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            *self.0.lock() += 1;
        }
    }
}
