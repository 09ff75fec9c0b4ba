//! What a server has seen: the side of the story that no proxy can tell.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tidegate_model::tick::Tick;

/// Tenants, and places, that are counted by name.
const NAMES_MAX: usize = 1024;
/// Requests that are known again when they are repeated. More than a drill of 30 s sends.
const NUMBERS_MAX: usize = 1 << 18;

/// What a server has seen so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that are open.
    pub open: u64,
    /// The most there ever were.
    pub open_most: u64,
    /// Requests whose head has come, health checks not among them.
    pub requests: u64,
    /// Of those, repeats: their `Drill-Request` had come before.
    pub repeats: u64,
    /// Answered well, with a client there to take it.
    pub served: u64,
    /// Answered 500 with a client there to take it.
    pub failed: u64,
    /// Answered 503, because too many waited.
    pub turned_away: u64,
    /// Worked on to the end, and then nobody was there: doomed work.
    pub wasted: u64,
    /// Slot time that was used.
    pub worked_time: Duration,
    /// Of that, for nobody.
    pub wasted_time: Duration,
    /// How often it died.
    pub crashes: u64,
    /// Health checks.
    pub checked: u64,
    /// Requests being worked on.
    pub busy: usize,
    /// The most there ever were.
    pub busy_most: usize,
    /// Requests that wait for a slot.
    pub waiting: usize,
    /// The most there ever were.
    pub waiting_most: usize,
    /// Requests by tenant; no more than 1024 of them are told apart.
    pub by_tenant: BTreeMap<String, u64>,
    /// Requests by the first part of their path; no more than 1024 of them are told apart.
    pub by_place: BTreeMap<String, u64>,
}

/// What a server has seen of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visits {
    /// When it came first.
    pub first: Tick,
    /// How often it came.
    pub times: u64,
    /// When its work was first done to the end, and well, whether or not anybody was there to be told.
    pub made_first: Option<Tick>,
    /// How often it was.
    pub made: u64,
}

impl Visits {
    /// Adds what another server has seen of the same request.
    pub fn add(&mut self, other: &Visits) {
        self.first = self.first.min(other.first);
        self.times += other.times;
        self.made_first = [self.made_first, other.made_first].into_iter().flatten().min();
        self.made += other.made;
    }
}

/// Which requests have come, by number, so that repeats are known.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<u64, Visits>);

impl Seen {
    /// Notes that this request has come. How often it had before.
    pub(super) fn note(&mut self, number: u64, now: Tick) -> u64 {
        if self.0.len() >= NUMBERS_MAX && !self.0.contains_key(&number) {
            return 0;
        }
        let visits = self.0.entry(number).or_insert(Visits { first: now, ..Visits::default() });
        visits.times += 1;
        visits.times - 1
    }

    /// Notes that its work was done.
    pub(super) fn made(&mut self, number: u64, now: Tick) {
        if let Some(visits) = self.0.get_mut(&number) {
            visits.made += 1;
            visits.made_first.get_or_insert(now);
        }
    }

    pub(super) fn all(&self) -> HashMap<u64, Visits> {
        self.0.clone()
    }
}

impl Counts {
    /// Counts a connection, unless there are too many.
    pub(super) fn connected(&mut self, max: u64) -> bool {
        let fits = self.open < max;
        if fits {
            self.accepted += 1;
            self.open += 1;
            self.open_most = self.open_most.max(self.open);
        }
        fits
    }

    /// Counts a request of this tenant for something at this place, which had come so often before.
    pub(super) fn came(&mut self, tenant: &str, place: &str, before: u64) {
        self.requests += 1;
        self.repeats += u64::from(before > 0);
        count(&mut self.by_tenant, tenant);
        count(&mut self.by_place, place);
    }

    /// Requests for something at this place.
    #[must_use]
    pub fn of_place(&self, place: &str) -> u64 {
        self.by_place.get(place).copied().unwrap_or_default()
    }

    /// Counts the end of a request that was worked on for so long.
    pub(super) fn worked(&mut self, time: Duration, outcome: Outcome) {
        self.worked_time += time;
        match outcome {
            Outcome::Served => self.served += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Wasted => {
                self.wasted += 1;
                self.wasted_time += time;
            }
        }
    }
}

fn count(by_name: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = by_name.get_mut(name) {
        *count += 1;
    } else if by_name.len() < NAMES_MAX {
        by_name.insert(name.to_owned(), 1);
    }
}

/// How work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Served,
    Failed,
    Wasted,
}
