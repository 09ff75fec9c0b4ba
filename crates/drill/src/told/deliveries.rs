//! What is told of a drill whose clients get promises: what was promised, what of it was made, and how long that took.

use crate::drill::Outcome;
use crate::load::End;
use crate::report::svg::{Line, Look, Plot, number};
use crate::run::Run;

use super::{Fact, QUANTILE_STEP, STEP, over, share, time};

/// What is told side by side.
pub(super) const FACTS: [Fact; 12] = [
    ("answered well (202: promised)", |outcome, run| {
        share(run.driven.success(outcome.drill.victims, outcome.whole()))
    }),
    ("refused, of all sources", |_, run| {
        run.driven.asked.iter().filter(|asked| asked.end == End::Refused).count().to_string()
    }),
    ("promises kept", |outcome, run| share(run.kept(outcome.drill.victims, outcome.whole()).share())),
    ("promises broken", |outcome, run| run.kept(outcome.drill.victims, outcome.whole()).lost().to_string()),
    ("made more than once", |outcome, run| {
        run.kept(outcome.drill.victims, outcome.whole()).repeated.to_string()
    }),
    ("promise to first attempt, p50", |outcome, run| {
        time(run.waited(outcome.drill.victims, outcome.whole(), 0.5))
    }),
    ("promise to first attempt, p99", |outcome, run| {
        time(run.waited(outcome.drill.victims, outcome.whole(), 0.99))
    }),
    ("promise to made, p50", |outcome, run| time(run.took(outcome.drill.victims, outcome.whole(), 0.5))),
    ("promise to made, p99", |outcome, run| time(run.took(outcome.drill.victims, outcome.whole(), 0.99))),
    ("attempts at the applications, of all sources", |_, run| run.sum(|counts| counts.requests).to_string()),
    ("most deliveries that had not ended", |_, run| number(run.waiting_most())),
    ("most memory of the gate, MiB", |_, run| number(run.memory_most().round())),
];

impl Outcome {
    pub(super) fn plots_of_deliveries(&self) -> Vec<Plot> {
        let victims = self.drill.victims;
        let wait = |run: &Run| {
            let begun = |seconds| run.waited(victims, seconds, 0.99) * 1000.0;
            // What waited longer than anybody looked is a gap.
            let points = over(&self.whole(), QUANTILE_STEP, begun).into_iter();
            points.filter(|point| point.1.is_finite()).collect()
        };
        let waiting = |run: &Run| run.samples.iter().map(|s| (s.at, s.gate_deliveries)).collect();
        let promised = |run: &Run| over(&self.whole(), STEP, |span| run.driven.goodput("", span));
        let made = |run: &Run| over(&self.whole(), STEP, |span| run.made("", span));
        let memory =
            |run: &Run| run.samples.iter().map(|s| (s.at, s.gate_memory / f64::from(1 << 20))).collect();
        let offered = over(&self.whole(), STEP, |span| self.runs.off.driven.offered("", span));
        let mut promises = self.both(&promised);
        promises.insert(0, Line { name: "asked".to_owned(), look: Look::Offered, points: offered });
        let mut plots = vec![
            self.plot("From promise to first attempt, p99, by when it was due", "ms", self.both(&wait)),
            self.plot("Deliveries that have not ended", "deliveries", self.both(&waiting)),
            self.plot("Promised", "per second", promises),
            self.plot("Made", "per second", self.both(&made)),
            self.plot("Memory of the gate", "MiB", self.both(&memory)),
        ];
        plots[0].logarithmic = true;
        plots
    }
}
