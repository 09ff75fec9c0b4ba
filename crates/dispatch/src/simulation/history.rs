//! What has happened, as it is seen from outside: by those who hand deliveries in, by the application, by the operator. Rules
//! are checked against this and against what is on disk in the end.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use tidegate_model::delivery::outcome::Policy;
use tidegate_model::delivery::{Id, Ms, Record, Seq, Token};
use tidegate_store::deliveries::{Line, Pause};

use crate::dispatcher::{Held, How};
use crate::settings::QueueSettings;

/// How an attempt ended at the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    Well,
    /// It may be made again.
    Badly,
    /// It is not to be made again.
    Never,
    /// The engine broke it off.
    BrokenOff,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was told to be accepted.
    Accepted(Id),
    /// The application sees an attempt.
    Began {
        id: Id,
        seq: Seq,
        attempt: u32,
        line: Line,
        key: Option<Arc<str>>,
    },
    /// It is over there.
    Ended {
        id: Id,
        attempt: u32,
        went: Went,
    },
    /// Somebody has come for it. The lease lasts until then, at least.
    Claimed {
        id: Id,
        seq: Seq,
        token: Token,
        attempt: u32,
        line: Line,
        key: Option<Arc<str>>,
        least: Ms,
    },
    /// Its lease lasts longer.
    Extended {
        seq: Seq,
        token: Token,
        least: Ms,
    },
    /// Somebody tells what came of it.
    Telling {
        id: Id,
        how: How,
    },
    /// It was heard whether somebody still had it.
    Told {
        id: Id,
        seq: Seq,
        token: Token,
        how: How,
        held: Held,
    },
    Pausing(Pause),
    Paused(Pause),
    Resuming(Pause),
    Cancelling(Id),
    Redriving(Id),
    /// Another owner has taken over.
    Fenced,
    /// A process that stood still since before this one began has gone on with what it had at hand.
    Woke,
    /// The wall clock was set.
    Jumped(i64),
    /// Queues have other bounds.
    Configured,
    /// The process is gone; whether it ended as it was told to.
    Gone {
        drained: bool,
    },
    /// It was leased on disk when the process was gone.
    WasLeased(Id, Token),
}

/// When what happened to which process.
#[derive(Clone, Debug)]
pub struct Event {
    /// Milliseconds since the beginning, on a clock that nobody sets.
    pub at: Ms,
    /// What time it was for deliveries.
    pub wall: Ms,
    pub process: u32,
    pub what: What,
}

/// How it was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: Id,
    pub due: Option<Ms>,
    pub expires: Option<Ms>,
    pub attempts_max: Option<u32>,
    pub is_unique: bool,
    pub after: Vec<Id>,
    pub callback: Option<Id>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub events: Vec<Event>,
    pub asked: Vec<Asked>,
    /// The queues, as they were most generous.
    pub queues: Vec<QueueSettings>,
    /// Queues that are not configured for a while: what is judged meanwhile is judged by what holds for every queue.
    pub unconfigured: Vec<Arc<str>>,
    /// What is on disk in the end.
    pub records: Vec<Record>,
    /// What the store finds wrong with itself.
    pub audit: Vec<String>,
    /// The longest that a batch is on its way to disk.
    pub latency: Ms,
    /// Whether somebody sets the wall clock.
    pub jumps: bool,
}

impl History {
    pub fn queue(&self, name: &str) -> Option<&QueueSettings> {
        self.queues.iter().find(|queue| *queue.name == *name)
    }

    /// Attempts that a delivery of this queue may have, where nothing was told with it.
    pub fn attempts_max(&self, name: &str) -> Option<u32> {
        let own = self.queue(name)?.policy.attempts_max;
        let is_left_out = self.unconfigured.iter().any(|queue| **queue == *name);
        Some(if is_left_out { own.max(Policy::default().attempts_max) } else { own })
    }

    pub fn asked(&self, id: Id) -> Option<&Asked> {
        self.asked.iter().find(|asked| asked.id == id)
    }

    /// Whether such a thing has ever happened.
    pub fn has(&self, is: impl Fn(&What) -> bool) -> bool {
        self.events.iter().any(|event| is(&event.what))
    }

    pub fn was_redriven(&self, id: Id) -> bool {
        self.has(|what| *what == What::Redriving(id))
    }

    pub fn was_cancelled(&self, id: Id) -> bool {
        self.has(|what| *what == What::Cancelling(id))
    }

    /// The same history has the same.
    pub fn digest(&self) -> u64 {
        let (mut hasher, mut text) = (DefaultHasher::new(), String::new());
        for event in &self.events {
            text.clear();
            // Writing to a string never fails.
            let _ = write!(text, "{event:?}");
            hasher.write(text.as_bytes());
        }
        for record in &self.records {
            text.clear();
            let _ = write!(text, "{record:?}");
            hasher.write(text.as_bytes());
        }
        hasher.finish()
    }
}
