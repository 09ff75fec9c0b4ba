//! A drill: what is tried twice, with the protection off and on, and judged by a rule that was stated before.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::load::Source;
use crate::run::{Run, RunError, Setting, Side};

/// A drill. All times are seconds of one side's run.
#[derive(Clone, Copy)]
pub struct Drill {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub summary: &'static str,
    /// When it passes.
    pub rule: &'static str,
    /// How long one side takes.
    pub seconds: f64,
    /// When the fault is there.
    pub fault: Window,
    /// What the fault is called in plots.
    pub fault_name: &'static str,
    /// What is told of it.
    pub about: About,
    /// The sources that matter: those whose names begin so.
    pub victims: &'static str,
    /// One side, protected or not.
    pub side: fn(&Setting<'_>, Kind) -> Result<Side, RunError>,
    /// Whether a run without the trouble is needed to compare with.
    pub has_baseline: bool,
    /// The judgement.
    pub judge: fn(&Setting<'_>, &Runs) -> Judged,
}

/// What a drill's clients get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Answers.
    Exchanges,
    /// A promise: what they ask for is made later.
    Deliveries,
}

/// Which side of a drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without the protection.
    Off,
    /// With it.
    On,
    /// With it, and without the trouble.
    Baseline,
}

/// From and to, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// From.
    pub from: f64,
    /// To.
    pub to: f64,
}

/// The runs of a drill.
#[derive(Clone, Debug)]
pub struct Runs {
    /// Without the protection.
    pub off: Run,
    /// With it.
    pub on: Run,
    /// Without the trouble, where that was run.
    pub baseline: Option<Run>,
}

/// What a rule says of runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether it holds.
    pub passed: bool,
    /// The numbers that it was held against.
    pub reason: String,
    /// Why the unprotected side broke, where the bottleneck was, which mechanism held.
    pub told: Vec<String>,
}

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The rule holds.
    Passed,
    /// It does not.
    Failed,
    /// This machine was too busy to make the load in time.
    TooBusy,
}

/// A drill after it was run.
#[derive(Clone)]
pub struct Outcome {
    /// Which.
    pub drill: Drill,
    /// What chance began with.
    pub seed: u64,
    /// What its times were multiplied by.
    pub scale: f64,
    /// What was run.
    pub runs: Runs,
    /// What the rule says.
    pub judged: Judged,
    /// How it ended.
    pub verdict: Verdict,
}

impl Window {
    /// As a range, its times multiplied by the setting's scale.
    #[must_use]
    pub fn at(self, scale: f64) -> Range<f64> {
        self.from * scale..self.to * scale
    }
}

impl Drill {
    /// A side of it in which nobody means harm, and nothing is done to the applications or to the gate.
    pub(crate) fn undisturbed(
        &self,
        setting: &Setting<'_>,
        apps: Vec<Arc<App>>,
        config: String,
        sources: Vec<Source>,
    ) -> Side {
        let seconds = self.seconds * setting.scale;
        Side {
            apps,
            config,
            sources,
            hostile: Vec::new(),
            acts: Vec::new(),
            postgres: None,
            kills: Vec::new(),
            forgets: false,
            seconds,
            drain: Duration::ZERO,
        }
    }

    /// The seconds behind the fault in which all is to be well again: not while a breaker rests that has seen the upstream
    /// away, nor at the end, where the last requests may be under way.
    pub(crate) fn mended(&self, scale: f64) -> Range<f64> {
        const MENDING: f64 = 1.0;
        const TAIL: f64 = 0.5;
        self.fault.at(scale).end + MENDING..self.seconds * scale - TAIL
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`RunError`]: what could not be started, or ended too soon.
    pub fn run(self, setting: &Setting<'_>, tell: &mut dyn FnMut(&str)) -> Result<Outcome, RunError> {
        let baseline = match self.has_baseline {
            true => {
                tell("without the trouble …");
                Some((self.side)(setting, Kind::Baseline)?.run(setting)?)
            }
            false => None,
        };
        tell("protection off …");
        // Without protection all are alike: that side is always Tidegate's.
        let plain = Setting { beside: None, ..*setting };
        let off = (self.side)(&plain, Kind::Off)?.run(&plain)?;
        tell("protection on …");
        let on = (self.side)(setting, Kind::On)?.run(setting)?;
        let runs = Runs { off, on, baseline };
        let judged = (self.judge)(setting, &runs);
        let verdict = match (runs.is_starved(), judged.passed) {
            (true, _) => Verdict::TooBusy,
            (false, true) => Verdict::Passed,
            (false, false) => Verdict::Failed,
        };
        Ok(Outcome { drill: self, seed: setting.seed, scale: setting.scale, runs, judged, verdict })
    }
}

impl Runs {
    /// Whether the load was late so often, or anybody waited for a processor for so long, that the runs say more of this
    /// machine than of the gate.
    fn is_starved(&self) -> bool {
        /// Share of requests.
        const LATE: f64 = 0.02;
        /// Seconds within a quarter of one.
        const STALLED: f64 = 0.15;
        let stalled = |run: &Run| run.samples.iter().any(|sample| sample.stalled > STALLED);
        let all = [Some(&self.off), Some(&self.on), self.baseline.as_ref()];
        all.into_iter().flatten().any(|run| run.driven.late_share() > LATE || stalled(run))
    }
}

impl Verdict {
    /// A word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::TooBusy => "not judged: this machine was too busy",
        }
    }

    /// The exit code for it.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Verdict::Passed => 0,
            Verdict::Failed => 1,
            Verdict::TooBusy => 3,
        }
    }
}
