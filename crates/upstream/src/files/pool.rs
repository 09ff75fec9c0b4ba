//! Threads that may wait for a disk, so that no core does.
//!
//! There are a few for the whole process, made when they are first needed; what they cannot begin at once waits in a
//! bounded line, and what does not fit is refused. A job whose asker has gone is not begun.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// More do not make a disk faster.
const THREADS_MAX: usize = 16;
/// Jobs that wait for a thread.
const WAITING_MAX: usize = 1024;
/// A thread that has had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The line is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many reads wait for the disk")]
pub(super) struct Full;

/// A job's thread has panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a read failed in itself")]
pub(super) struct Lost;

/// The threads of the process.
static POOL: Pool = Pool { line: Mutex::new(Line::new()), come: Condvar::new() };

struct Pool {
    line: Mutex<Line>,
    come: Condvar,
}

struct Line {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Line {
    const fn new() -> Line {
        Line { jobs: VecDeque::new(), threads: 0, idle: 0 }
    }
}

/// Runs a job on one of the threads; what it comes to.
///
/// # Errors
/// [`Full`]; what is awaited fails with [`Lost`] only if the job has panicked.
pub(super) fn run<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<impl Future<Output = Result<T, Lost>> + Unpin + Send, Full> {
    let (answer, answered) = oneshot::channel();
    POOL.add(Box::new(move || {
        if !answer.is_closed() {
            // Whoever asked may have gone meanwhile.
            let _ = answer.send(job());
        }
    }))?;
    Ok(futures_util::FutureExt::map(answered, |answer| answer.map_err(|_| Lost)))
}

impl Pool {
    fn add(&'static self, job: Job) -> Result<(), Full> {
        let mut line = self.line.lock();
        if line.jobs.len() >= WAITING_MAX {
            return Err(Full);
        }
        if line.idle > line.jobs.len() {
            line.jobs.push_back(job);
            self.come.notify_one();
            return Ok(());
        }
        if line.threads < THREADS_MAX {
            let thread = std::thread::Builder::new().name("files".to_owned());
            match thread.spawn(|| self.work()) {
                Ok(_) => line.threads += 1,
                Err(error) if line.threads == 0 => {
                    tracing::error!(%error, "no thread for reading files");
                    return Err(Full);
                }
                // Those that there are will come to it.
                Err(_) => {}
            }
        }
        line.jobs.push_back(job);
        Ok(())
    }

    fn work(&'static self) {
        // However it ends, it is counted no more.
        let _thread = Thread(self);
        while let Some(job) = self.next() {
            job();
        }
    }

    /// The next job; `None`: there was none for long.
    fn next(&self) -> Option<Job> {
        let mut line = self.line.lock();
        loop {
            if let Some(job) = line.jobs.pop_front() {
                return Some(job);
            }
            line.idle += 1;
            let late = self.come.wait_for(&mut line, IDLE).timed_out();
            line.idle -= 1;
            if late && line.jobs.is_empty() {
                return None;
            }
        }
    }
}

struct Thread(&'static Pool);

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.line.lock().threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc::sync_channel;

    use futures_util::future::join_all;

    #[tokio::test]
    async fn runs_what_it_is_given_and_survives_a_panic() {
        assert_eq!(run(|| 7).unwrap().await, Ok(7));
        assert_eq!(run(|| -> u8 { panic!("on purpose") }).unwrap().await, Err(Lost));
        assert_eq!(join_all((0..100).map(|n| run(move || n * 2).unwrap())).await.len(), 100);
    }

    #[tokio::test]
    async fn the_line_is_bounded_and_what_nobody_waits_for_is_not_begun() {
        let pool: &'static Pool =
            Box::leak(Box::new(Pool { line: Mutex::new(Line::new()), come: Condvar::new() }));
        let (go, gate) = sync_channel::<()>(0);
        let gate = Arc::new(Mutex::new(gate));
        let begun = Arc::new(AtomicUsize::new(0));
        let job = || {
            let (gate, begun) = (Arc::clone(&gate), Arc::clone(&begun));
            Box::new(move || {
                begun.fetch_add(1, SeqCst);
                let _ = gate.lock().recv();
            }) as Job
        };
        let taken = (0..2 * (THREADS_MAX + WAITING_MAX)).take_while(|_| pool.add(job()).is_ok()).count();
        assert!((WAITING_MAX..=WAITING_MAX + THREADS_MAX).contains(&taken), "{taken}");
        assert!(pool.line.lock().threads <= THREADS_MAX);
        // All that was taken is done in the end.
        drop(go);
        while begun.load(SeqCst) < taken {
            std::thread::yield_now();
        }
    }
}
