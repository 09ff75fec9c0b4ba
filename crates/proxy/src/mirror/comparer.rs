//! The comparing thread: it takes pairs of answers from all cores, over a bounded list, decodes and compares them, and counts.
//!
//! Reading a large JSON document takes milliseconds, which no core has.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tidegate_model::mirror::compare::{Answer, Compared, Content, compare};
use tidegate_model::mirror::tally::{Outcome, Subject};

use super::answer::Taken;
use super::{Held, Mirrored};
use crate::coding::{Undecoded, whole};

/// Pairs of answers that may wait.
const WAITING_MAX: usize = 256;

/// What the thread is given.
pub struct Work {
    mirrored: Arc<Mirrored>,
    subject: Subject,
    task: Task,
}

/// What is to be done for one request.
pub enum Task {
    /// Two answers are compared.
    Pair(Box<Pair>),
    /// It is known what came of it.
    Known {
        /// What.
        outcome: Outcome,
        /// Both latencies.
        took: Option<(Duration, Duration)>,
    },
}

/// Two answers to one request.
pub struct Pair {
    /// The upstream's.
    pub ours: Taken,
    /// The mirror's.
    pub theirs: Taken,
    /// How long both took.
    pub took: (Duration, Duration),
    /// The room that they take.
    pub held: Held,
}

impl Task {
    /// For this request.
    pub fn of(self, mirrored: &Arc<Mirrored>, subject: Subject) -> Work {
        Work { mirrored: Arc::clone(mirrored), subject, task: self }
    }
}

/// Starts the thread. It ends with the last who may give it something to do.
pub fn start() -> SyncSender<Work> {
    let (give, waiting) = sync_channel(WAITING_MAX);
    let started = std::thread::Builder::new().name("mirror".to_owned()).spawn(move || run(&waiting));
    if let Err(error) = started {
        tracing::error!(%error, "no thread compares what mirrors answer");
    }
    give
}

fn run(waiting: &Receiver<Work>) {
    while let Ok(Work { mirrored, subject, task }) = waiting.recv() {
        let settings = mirrored.settings.compare.as_ref();
        let (outcome, took) = match (task, settings) {
            (Task::Known { outcome, took }, _) => (outcome, took),
            (Task::Pair(_), None) => continue,
            (Task::Pair(pair), Some(settings)) => {
                let Pair { ours, theirs, took, held } = *pair;
                let most = settings.body_bytes_max;
                let judge = || compare(&settings.rules, &decoded(ours, most), &decoded(theirs, most));
                // What strangers answer must not end the comparing of all others.
                let compared = catch_unwind(AssertUnwindSafe(judge)).unwrap_or(Compared::Unknown("panicked"));
                drop(held);
                (Outcome::Compared(compared), Some(took))
            }
        };
        mirrored.mirror.note(subject, outcome, took, settings.map_or(0, |settings| settings.samples));
    }
}

/// The answer with its body as it is without its coding.
fn decoded(taken: Taken, most: u64) -> Answer {
    let Taken { mut answer, coding } = taken;
    if let Content::Whole(bytes) = &answer.body
        && !bytes.is_empty()
    {
        answer.body = match coding {
            Ok(None) => return answer,
            Ok(Some(packing)) => match whole(packing, bytes, most) {
                Ok(bytes) => Content::Whole(bytes),
                Err(Undecoded::Longer) => Content::Longer,
                Err(Undecoded::Corrupt) => Content::Coded,
            },
            Err(_) => Content::Coded,
        };
    }
    answer
}
