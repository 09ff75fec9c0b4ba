//! The writing thread's part, played by a simulation: it says when commands are carried out, whether they are, and where the
//! machine stops. In no binary that is built for release.
//!
//! Whatever is written is written by the writing thread's own code into a real database. Of SQLite, between two rounds all that is in
//! its files is synced: a copy of them is what a loss of power leaves then. One in the middle of a transaction leaves what
//! was there before it. Of PostgreSQL there are two who write, each on a thread of its own, for which the simulation waits:
//! nothing goes on there but a round, and in it no time passes. What is on the server when one of them is dropped is
//! what the death of a process leaves.

use std::sync::Arc;

use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::sync::mpsc;

use crate::come::{BATCH_MAX, take};
use crate::database::{Location, OpenError, StoreSettings};
use crate::deliveries::Followers;
use crate::postgres::{self, Remote};
use crate::standing;
use crate::store::{Job, Store, Unavailable, WAITING_MAX, writer};
use crate::writer::{Pace, Writer};

/// Whoever has it writes.
pub struct Hand {
    pen: Pen,
    jobs: mpsc::Receiver<Job>,
    got: Vec<Job>,
}

/// What it writes with.
enum Pen {
    Sqlite(Box<Writer>, Pace),
    Postgres(Remote),
}

/// What befalls a connection to PostgreSQL in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// It is lost after so many questions: before the next one is sent, or once that was carried out, of which nothing is heard
    /// then.
    Lost {
        /// So many are answered before.
        after: u32,
        /// Whether the next one is heard by PostgreSQL.
        heard: bool,
    },
    /// A fault that PostgreSQL does not have: what is to be committed is undone, and told to be committed.
    Undone,
}

/// How somebody who writes stands after a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// When the next one is due, whether something comes or not.
    pub(crate) until: Tick,
    /// Whether it leads a shard.
    pub(crate) leads: bool,
}

impl Hand {
    /// Waits until there is something to write. `false`: nothing will come any more.
    pub async fn wait(&mut self) -> bool {
        let until = match &self.pen {
            Pen::Sqlite(_, pace) => pace.until(),
            Pen::Postgres(remote) => remote.stands.until,
        };
        clock::timeout_at(until, self.jobs.recv_many(&mut self.got, BATCH_MAX)).await != Ok(0)
    }

    /// Commands that wait to be carried out together, beside those that come until then.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.got.len()
    }

    /// Carries out what waits, and tells those who asked.
    pub fn write(&mut self) {
        self.write_and(None);
    }

    /// The same, and something befalls the connection meanwhile. Where there is none to a server, nothing does.
    pub fn write_and(&mut self, mishap: Option<Mishap>) {
        take(&mut self.jobs, &mut self.got);
        match &mut self.pen {
            Pen::Sqlite(writer, pace) => writer.round(&mut self.got, &mut self.jobs, pace),
            Pen::Postgres(remote) => remote.round(std::mem::take(&mut self.got), mishap),
        }
    }

    /// Whether it led a shard after its last round.
    #[must_use]
    pub fn leads(&self) -> bool {
        matches!(&self.pen, Pen::Postgres(remote) if remote.stands.leads)
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

impl Store {
    /// Opens it without a thread that writes: that do those who have the [`Hand`]s. On PostgreSQL the first of them writes
    /// deliveries.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_by_hand(location: Location, bytes_max: u64) -> Result<(Store, Vec<Hand>), OpenError> {
        let settings = StoreSettings { location, bytes_max, tenant_bytes_max: bytes_max };
        let (told, followers) = (Arc::<standing::Told>::default(), Arc::<Followers>::default());
        let (commands, waiting) = mpsc::channel(WAITING_MAX);
        let hand = |pen, jobs| Hand { pen, jobs, got: Vec::new() };
        let (lists, last, hands) = match &settings.location {
            Location::Directory(path) => {
                let (writer, last) = writer(path, &settings, &told, &followers)?;
                let pen = Pen::Sqlite(Box::new(writer), Pace::begin());
                ([commands.clone(), commands], last, vec![hand(pen, waiting)])
            }
            Location::Postgres(postgres) => {
                let (errands, asked) = mpsc::channel(WAITING_MAX);
                let opened = postgres::by_hand(postgres, bytes_max, &told, &followers);
                let [deliveries, rest] = opened.map_err(|why| settings.unopened(why))?;
                let hands = vec![hand(Pen::Postgres(deliveries), asked), hand(Pen::Postgres(rest), waiting)];
                ([commands, errands], 0, hands)
            }
        };
        Ok((Store::of(lists, followers, told, settings, last, Vec::new()), hands))
    }
}
