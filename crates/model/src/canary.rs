//! A canary: a share of a route's requests goes to its next version, grows step by step while that does as well as the
//! baseline, and is taken back at once when it does not.
//!
//! ```text
//!            start              every step's time is over, with enough answers
//!  waiting ---------> running -----------------------------------------------> promoted
//!                     |  ^  '- worse than the baseline -> rolled back --- start ---> running (from the first step)
//!               pause v  | start
//!                     paused (its share stays; what is worse is rolled back all the same)
//! ```
//!
//! What is worse is judged by bounds that chance does not pass, since it is looked at each second for hours. Who was given to
//! the canary stays with it while its share grows: the same hash is held against a larger share.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::balance::mix;
use crate::delivery::Ms;
use crate::histogram::Histogram;
use crate::mirror::{WHOLE, is_drawn};
use crate::proportion;

/// Standard errors that lie between chance and a verdict: one look in 30,000 would be wrong, were there nothing allowed.
const ERRORS_Z: f64 = 4.0;
/// The same for the ranks of quantiles, of both sides at once.
const LATENCY_Z: f64 = 3.0;
/// Fewer errors say nothing, whatever they are of.
const ERRORS_MIN: u64 = 5;
/// A quantile that is worse by less is not felt.
const LATENCY_FLOOR: Duration = Duration::from_millis(5);
/// How the reason of a state begins that somebody has ordered.
const ORDERED_BY: &str = "by ";
/// Looks that a window is made of.
const LOOKS: u32 = 8;

/// How a canary grows, and when it is taken back.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its shares, one after the other, in millionths.
    pub steps: Vec<u32>,
    /// How long each lasts, at least.
    pub every: Duration,
    /// Whether it begins by command alone.
    pub manual: bool,
    /// What is worse.
    pub rollback: Rollback,
}

/// What is worse than the baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollback {
    /// By how much the share of errors may be larger.
    pub errors: f64,
    /// How many times the latency may be that of the baseline; `None`: it is not judged.
    pub latency: Option<f64>,
    /// Which quantile of it.
    pub quantile: f64,
    /// Answers of each side that are needed to judge latency, and of the canary to leave a step.
    pub min: u64,
    /// How long an answer counts. All of a step's count as well.
    pub window: Duration,
}

/// Where a canary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nobody has begun it.
    Waiting,
    /// It grows.
    Running,
    /// It stays as large as it is.
    Paused,
    /// It has all.
    Promoted,
    /// It has nothing any more.
    RolledBack,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 5] =
        [Phase::Waiting, Phase::Running, Phase::Paused, Phase::Promoted, Phase::RolledBack];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Promoted => "promoted",
            Phase::RolledBack => "rolled-back",
        }
    }
}

/// What an operator may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin; go on, where it is paused.
    Start,
    /// Stay.
    Pause,
    /// Take all.
    Promote,
    /// Take nothing.
    Rollback,
}

/// How a canary stands. It is kept in the store, and the same for all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct State {
    /// Where it is.
    pub phase: Phase,
    /// Which step it is at, or was.
    pub step: usize,
    /// Since when.
    pub since: Ms,
    /// Why: who said so, or what was found.
    pub why: String,
}

/// What one side has answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// Answers, errors included.
    pub answers: u64,
    /// Errors: 5xx, or none at all.
    pub errors: u64,
    /// To the heads of those that were none.
    pub latencies: Histogram,
}

impl Side {
    fn since(&self, earlier: &Side) -> Side {
        Side {
            answers: self.answers.saturating_sub(earlier.answers),
            errors: self.errors.saturating_sub(earlier.errors),
            latencies: self.latencies.since(&earlier.latencies),
        }
    }
}

/// What both have answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The baseline.
    pub baseline: Side,
    /// The canary.
    pub canary: Side,
}

impl Evidence {
    fn since(&self, earlier: &Evidence) -> Evidence {
        Evidence {
            baseline: self.baseline.since(&earlier.baseline),
            canary: self.canary.since(&earlier.canary),
        }
    }

    /// Why the canary is worse; `None`: nobody can say that it is.
    #[must_use]
    pub fn worse(&self, rollback: &Rollback) -> Option<String> {
        let Evidence { baseline, canary } = self;
        let excess = proportion::excess(
            (canary.errors, canary.answers),
            (baseline.errors, baseline.answers),
            ERRORS_Z,
        );
        if canary.errors >= ERRORS_MIN && excess > rollback.errors {
            return Some(format!(
                "errors: {} of {} answers, of the baseline's {} of {}",
                canary.errors, canary.answers, baseline.errors, baseline.answers
            ));
        }
        let ratio = rollback.latency?;
        let rank = |histogram: &Histogram, away: f64| {
            let (count, share) = (histogram.total() as f64, rollback.quantile);
            let rank = count * share + away * (count * share * (1.0 - share)).sqrt();
            histogram.at_rank(rank.ceil().clamp(1.0, count) as u64)
        };
        if canary.latencies.total().min(baseline.latencies.total()) < rollback.min.max(1) {
            return None;
        }
        let (at_least, at_most) =
            (rank(&canary.latencies, -LATENCY_Z)?, rank(&baseline.latencies, LATENCY_Z)?);
        // A bucket is known to an eighth: the canary's is taken at its lower end.
        let at_least = at_least.mul_f64(8.0 / 9.0);
        (at_least > at_most.mul_f64(ratio) && at_least > at_most + LATENCY_FLOOR).then(|| {
            let millis = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e3;
            format!(
                "latency: p{} of {:.1} ms, of the baseline's {:.1} ms",
                rollback.quantile * 100.0,
                millis(canary.latencies.quantile(rollback.quantile)),
                millis(baseline.latencies.quantile(rollback.quantile))
            )
        })
    }
}

impl State {
    /// That of a canary of which nothing is known.
    #[must_use]
    pub fn begun(plan: &Plan, now: Ms) -> State {
        let phase = if plan.manual { Phase::Waiting } else { Phase::Running };
        State { phase, step: 0, since: now, why: "configured".to_owned() }
    }

    /// The share of requests that it gets, in millionths.
    #[must_use]
    pub fn share(&self, plan: &Plan) -> u32 {
        match self.phase {
            Phase::Waiting | Phase::RolledBack => 0,
            Phase::Promoted => WHOLE,
            Phase::Running | Phase::Paused => {
                plan.steps.get(self.step).or(plan.steps.last()).copied().unwrap_or(0)
            }
        }
    }

    /// Whether the other state stands rather than this one, where two nodes did not know of each other: the later one does. But a
    /// rollback stands against whatever nobody has ordered: that another node saw nothing wrong is no reason to go on.
    #[must_use]
    pub fn gives_way_to(&self, other: &State) -> bool {
        match (self.phase, other.phase) {
            (Phase::RolledBack, Phase::RolledBack) => other.since > self.since,
            (Phase::RolledBack, _) => other.is_ordered() && other.since > self.since,
            (_, Phase::RolledBack) => !self.is_ordered() || other.since > self.since,
            _ => other.since > self.since,
        }
    }

    /// Whether somebody has said so.
    fn is_ordered(&self) -> bool {
        self.why.starts_with(ORDERED_BY)
    }

    /// What a command makes of it; `None`: it is so already.
    #[must_use]
    pub fn told(&self, command: Command, who: &str, now: Ms) -> Option<State> {
        let (phase, step) = match (command, self.phase) {
            (Command::Start, Phase::Running | Phase::Promoted)
            | (Command::Pause, Phase::Waiting | Phase::Paused | Phase::Promoted | Phase::RolledBack)
            | (Command::Promote, Phase::Promoted)
            | (Command::Rollback, Phase::RolledBack) => return None,
            (Command::Start, Phase::Paused) => (Phase::Running, self.step),
            (Command::Start, _) => (Phase::Running, 0),
            (Command::Pause, _) => (Phase::Paused, self.step),
            (Command::Promote, _) => (Phase::Promoted, self.step),
            (Command::Rollback, _) => (Phase::RolledBack, self.step),
        };
        Some(State { phase, step, since: now, why: format!("{ORDERED_BY}{who}") })
    }

    /// What is found of it; `None`: nothing changes. `window`: the last answers; `step`: all since this state began.
    #[must_use]
    pub fn look(&self, plan: &Plan, window: &Evidence, step: &Evidence, now: Ms) -> Option<State> {
        if !matches!(self.phase, Phase::Running | Phase::Paused) {
            return None;
        }
        if let Some(why) = window.worse(&plan.rollback).or_else(|| step.worse(&plan.rollback)) {
            return Some(State { phase: Phase::RolledBack, step: self.step, since: now, why });
        }
        let lasted = Duration::from_millis(now.saturating_sub(self.since));
        if self.phase == Phase::Paused || lasted < plan.every || step.canary.answers < plan.rollback.min {
            return None;
        }
        let (answers, next) = (step.canary.answers, self.step + 1);
        let phase = if next < plan.steps.len() { Phase::Running } else { Phase::Promoted };
        let why = format!("as good as the baseline, over {answers} answers");
        Some(State { phase, step: next.min(plan.steps.len().saturating_sub(1)), since: now, why })
    }
}

/// Whether whoever has this hash is the canary's. Who is, is as well with any larger share.
#[must_use]
pub fn is_chosen(route: &str, hash: u64, share: u32) -> bool {
    let seed = route.bytes().fold(0xcbf2_9ce4_8422_2325, |seed: u64, byte| mix(seed ^ u64::from(byte)));
    is_drawn(share, mix(seed ^ mix(hash)))
}

/// What was counted when: sums that only grow, as they were at the last looks.
#[derive(Clone, Debug, Default)]
pub struct Looks {
    past: VecDeque<(Ms, Evidence)>,
    /// As it was when the present state began.
    began: Evidence,
}

impl Looks {
    /// The present state begins.
    pub fn begin(&mut self, sums: &Evidence) {
        self.past.clear();
        self.began = sums.clone();
    }

    /// What came within the window that ends now, and since the present state began.
    pub fn look(&mut self, sums: &Evidence, window: Duration, now: Ms) -> (Evidence, Evidence) {
        let length = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let apart = length / u64::from(LOOKS);
        if self.past.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= apart) {
            self.past.push_back((now, sums.clone()));
        }
        // The newest that is as old as the window stays: what came since then is what it holds.
        while self.past.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= length) {
            self.past.pop_front();
        }
        let full = self.past.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= length);
        let begin = self.past.front().filter(|_| full).map_or(&self.began, |(_, sums)| sums);
        (sums.since(begin), sums.since(&self.began))
    }
}

#[cfg(test)]
mod tests;
