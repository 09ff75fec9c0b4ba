//! The writing thread's part, played by a simulation: it says when commands are carried out, whether they are, and where the
//! machine stops. In no binary that is built for release.
//!
//! Whatever is written is written by the writing thread's own code into a real database. Between two rounds all that is in its
//! files is synced: a copy of them is what a loss of power leaves then. One in the middle of a transaction leaves what
//! was there before it.

use tidegate_wire::clock;
use tokio::sync::mpsc;

use crate::store::{Job, Unavailable};
use crate::writer::{BATCH_MAX, Pace, Writer};

/// Whoever has it writes.
pub struct Hand {
    writer: Writer,
    jobs: mpsc::Receiver<Job>,
    got: Vec<Job>,
    pace: Pace,
}

impl Hand {
    pub(crate) fn new(writer: Writer, jobs: mpsc::Receiver<Job>) -> Hand {
        Hand { writer, jobs, got: Vec::new(), pace: Pace::begin() }
    }

    /// Waits until there is something to write. `false`: nothing will come any more.
    pub async fn wait(&mut self) -> bool {
        let waited =
            clock::timeout_at(self.pace.until(), self.jobs.recv_many(&mut self.got, BATCH_MAX)).await;
        waited != Ok(0)
    }

    /// Commands that wait to be carried out together, beside those that come until then.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.got.len()
    }

    /// Carries out what waits, and tells those who asked.
    pub fn write(&mut self) {
        while self.got.len() < BATCH_MAX
            && let Ok(job) = self.jobs.try_recv()
        {
            self.got.push(job);
        }
        self.writer.round(&mut self.got, &mut self.jobs, &mut self.pace);
    }

    /// Carries out nothing of what waits, and tells so.
    pub fn refuse(&mut self, why: Unavailable) {
        self.got.drain(..).for_each(|job| job.refuse(why));
    }
}

impl Job {
    fn refuse(self, why: Unavailable) {
        // Whoever asked may have gone.
        match self {
            Job::Claims { told, .. } => drop(told.send(Err(why))),
            Job::Documents { told, .. } => drop(told.send(Err(why))),
            Job::Deliveries(errand) => errand.tell(Err(why)),
            Job::Freeze { told } => drop(told.send(Err(why))),
            Job::Thaw | Job::Close => {}
        }
    }
}
