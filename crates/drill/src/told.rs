//! A drill's outcome in words, for a terminal and as a page.

mod deliveries;

use std::ops::Range;

use crate::drill::{About, Outcome, Verdict};
use crate::report::html::{Judgement, Page, Table, Tone};
use crate::report::svg::{Line, Look, Plot, Shade, number};
use crate::run::Run;

/// Seconds that one point of a plot stands for.
const STEP: f64 = 0.25;
/// The same where quantiles are taken, which need some requests.
const QUANTILE_STEP: f64 = 0.5;

/// One fact of both sides.
type Fact = (&'static str, fn(&Outcome, &Run) -> String);

/// What is told side by side.
const FACTS: [Fact; 10] = [
    ("good answers per second", |outcome, run| number(run.driven.goodput("", outcome.whole()))),
    ("answered well", |outcome, run| share(run.driven.success(outcome.drill.victims, outcome.whole()))),
    ("… while it lasted", |outcome, run| share(run.driven.success(outcome.drill.victims, outcome.fault()))),
    ("… after it", |outcome, run| share(run.driven.success(outcome.drill.victims, outcome.after()))),
    ("p50", |outcome, run| time(run.driven.quantile(outcome.drill.victims, outcome.whole(), 0.5))),
    ("p99", |outcome, run| time(run.driven.quantile(outcome.drill.victims, outcome.whole(), 0.99))),
    ("requests at the applications, per request asked", |_, run| {
        number(run.sum(|counts| counts.requests) as f64 / run.driven.asked.len().max(1) as f64)
    }),
    ("longest line within an application", |_, run| run.line_most().to_string()),
    ("longest line at the gate", |_, run| {
        number(run.samples.iter().map(|sample| sample.gate_waiting).fold(f64::NAN, f64::max))
    }),
    ("work done for nobody", |_, run| share(run.wasted())),
];

impl Outcome {
    fn whole(&self) -> Range<f64> {
        0.0..self.drill.seconds * self.scale
    }

    fn fault(&self) -> Range<f64> {
        self.drill.fault.at(self.scale)
    }

    fn after(&self) -> Range<f64> {
        self.fault().end..self.whole().end
    }

    /// What happened, on one line with tabs between, for a program: the verdict, what share of those that matter was
    /// answered well while it lasted and afterwards, their p99 in milliseconds while it lasted, good answers per second of
    /// all while it lasted, the work done for nobody, and the numbers that the rule looks at.
    #[must_use]
    pub fn terse(&self) -> String {
        let (driven, victims) = (&self.runs.on.driven, self.drill.victims);
        format!(
            "{}\t{:.4}\t{:.4}\t{:.1}\t{:.1}\t{:.4}\t{}",
            self.verdict.word(),
            driven.success(victims, self.fault()),
            driven.success(victims, self.after()),
            driven.quantile(victims, self.fault(), 0.99) * 1e3,
            driven.goodput("", self.fault()),
            self.runs.on.wasted(),
            self.judged.reason
        )
    }

    fn table(&self) -> Table {
        let mut columns = ["", "protection off", "protection on"].map(str::to_owned).to_vec();
        columns.extend(self.runs.baseline.as_ref().map(|_| "without the trouble".to_owned()));
        let runs: Vec<&Run> = [Some(&self.runs.off), Some(&self.runs.on), self.runs.baseline.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        let facts = match self.drill.about {
            About::Exchanges => &FACTS[..],
            About::Deliveries => &deliveries::FACTS[..],
        };
        let rows = facts.iter().map(|(name, fact)| {
            std::iter::once((*name).to_owned()).chain(runs.iter().map(|run| fact(self, run))).collect()
        });
        let of = match self.drill.about {
            About::Exchanges => "shares and latencies",
            About::Deliveries => "promises and times",
        };
        let caption = match self.drill.victims {
            "" => "Side by side".to_owned(),
            victims => format!("Side by side ({of}: {victims})"),
        };
        Table { caption, columns, rows: rows.collect() }
    }

    /// What happened, for a terminal.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let table = self.table();
        let mut lines = vec![String::new()];
        let row = |cells: &[String]| {
            let (name, values) =
                cells.split_first().map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
            values.iter().fold(format!("{name:<50}"), |line, value| format!("{line}{value:>20}"))
        };
        lines.push(row(&table.columns));
        lines.extend(table.rows.iter().map(|cells| row(cells)));
        lines.push(String::new());
        for plot in self.plots().iter().take(2) {
            lines.push(format!("{} ({}, {} s)", plot.title, plot.up, number(self.whole().end)));
            for (name, look) in [("off", Look::Off), ("on", Look::On)] {
                let most = plot.lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
                let most = most.filter(|value| value.is_finite()).fold(0.0, f64::max);
                if let Some(line) = plot.lines.iter().find(|line| line.look == look) {
                    lines.push(format!("  {name:<4}{}", spark(line, most, plot.logarithmic)));
                }
            }
        }
        lines.push(String::new());
        lines.extend(self.judged.told.iter().cloned());
        lines.push(String::new());
        lines.push(format!("{}: {}", self.verdict.word(), self.judged.reason));
        lines
    }

    /// All of it as a page.
    #[must_use]
    pub fn page(&self) -> Page {
        let tone = match self.verdict {
            Verdict::Passed => Tone::Good,
            Verdict::Failed => Tone::Bad,
            Verdict::TooBusy => Tone::Neither,
        };
        let word = self.verdict.word();
        let mut word = word.to_owned();
        if let Some(first) = word.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Page {
            title: self.drill.name.to_owned(),
            summary: self.drill.summary.to_owned(),
            verdict: Some(Judgement { tone, word, reason: self.judged.reason.clone() }),
            rule: self.drill.rule.to_owned(),
            explanation: self.judged.told.clone(),
            tables: vec![self.table()],
            plots: self.plots(),
            texts: vec![
                ("Protection off".to_owned(), self.runs.off.config.clone()),
                ("Protection on".to_owned(), self.runs.on.config.clone()),
            ],
            notes: vec![
                format!("tidegate drill {} --seed {}", self.drill.name, self.seed),
                match self.drill.about {
                    About::Exchanges => {
                        "Both sides got the same requests at the same times; a latency counts from the moment at which \
                         its request should have been sent, over all tries of its client."
                    }
                    About::Deliveries => {
                        "Both sides got the same requests at the same times; what became of a promise is told by the \
                         applications, not by the gate."
                    }
                }
                .to_owned(),
            ],
        }
    }

    fn plots(&self) -> Vec<Plot> {
        let mut plots = match self.drill.about {
            About::Exchanges => self.plots_of_exchanges(),
            About::Deliveries => self.plots_of_deliveries(),
        };
        plots.retain(|plot| {
            plot.lines.iter().any(|line| line.points.iter().any(|point| point.1.is_finite() && point.1 > 0.0))
        });
        plots
    }

    /// The same line of both sides.
    fn both(&self, of: &dyn Fn(&Run) -> Vec<(f64, f64)>) -> Vec<Line> {
        vec![
            Line { name: "off".to_owned(), look: Look::Off, points: of(&self.runs.off) },
            Line { name: "on".to_owned(), look: Look::On, points: of(&self.runs.on) },
        ]
    }

    fn plots_of_exchanges(&self) -> Vec<Plot> {
        let victims = self.drill.victims;
        let goodput = |run: &Run| over(&self.whole(), STEP, |span| run.driven.goodput("", span));
        let p99 = |run: &Run| {
            let quantile = |span| run.driven.answered_quantile(victims, span, 0.99) * 1000.0;
            over(&self.whole(), QUANTILE_STEP, quantile)
        };
        let tries = |run: &Run| over(&self.whole(), STEP, |span| run.driven.tries(span));
        let offered = over(&self.whole(), STEP, |span| self.runs.off.driven.offered("", span));
        let line = |run: &Run| {
            let waiting = |at: f64| at.max(0.0);
            run.samples.iter().map(|s| (s.at, s.app_waiting as f64 + waiting(s.gate_waiting))).collect()
        };
        let slots = self.runs.on.samples.iter().map(|sample| (sample.at, sample.gate_slots)).collect();
        let mut goodputs = self.both(&goodput);
        goodputs.insert(0, Line { name: "asked".to_owned(), look: Look::Offered, points: offered });
        let mut plots = vec![
            self.plot("Goodput", "good answers per second", goodputs),
            self.plot("Latency, p99 of what was answered well", "ms", self.both(&p99)),
            self.plot("Waiting, at the gate and in the applications", "requests", self.both(&line)),
            self.plot("Tries of clients, repeats included", "per second", self.both(&tries)),
            self.plot(
                "The gate's limit, protection on",
                "slots",
                vec![Line { name: "on".to_owned(), look: Look::On, points: slots }],
            ),
        ];
        plots[1].logarithmic = true;
        plots
    }

    fn plot(&self, title: &str, up: &str, lines: Vec<Line>) -> Plot {
        let fault = self.fault();
        let shades = if fault.is_empty() {
            Vec::new()
        } else {
            vec![Shade { from: fault.start, to: fault.end, name: self.drill.fault_name.to_owned() }]
        };
        Plot {
            title: title.to_owned(),
            across: "seconds".to_owned(),
            up: up.to_owned(),
            logarithmic: false,
            lines,
            shades,
        }
    }
}

/// A value for each step of a span, at its middle.
fn over(whole: &Range<f64>, step: f64, value: impl Fn(Range<f64>) -> f64) -> Vec<(f64, f64)> {
    let count = ((whole.end - whole.start) / step).floor() as u32;
    let begins = (0..count).map(|index| whole.start + f64::from(index) * step);
    begins.map(|from| (from + step / 2.0, value(from..from + step))).collect()
}

/// A line as blocks, eight heights.
fn spark(line: &Line, most: f64, logarithmic: bool) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let height = |value: f64| if logarithmic { (1.0 + value).ln() } else { value };
    let block = |value: f64| {
        if !value.is_finite() || most <= 0.0 {
            return ' ';
        }
        let share = height(value) / height(most);
        BLOCKS[((share * 8.0) as usize).min(7)]
    };
    line.points.iter().map(|point| block(point.1)).collect()
}

/// A share in per cent.
#[must_use]
pub fn share(share: f64) -> String {
    match share * 100.0 {
        percent if percent > 99.0 && percent < 100.0 => format!("{percent:.2} %"),
        percent => format!("{} %", number((percent * 10.0).round() / 10.0)),
    }
}

/// A time in seconds, with its unit.
#[must_use]
pub fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds.is_infinite() => "not answered".to_owned(),
        _ if seconds.is_nan() => "–".to_owned(),
        _ if seconds < 1.0 => format!("{} ms", number(seconds * 1000.0)),
        _ => format!("{} s", number(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_times_are_written_for_readers() {
        for (value, text) in
            [(1.0, "100 %"), (0.99951, "99.95 %"), (0.5, "50 %"), (0.1234, "12.3 %"), (0.0, "0 %")]
        {
            assert_eq!(share(value), text);
        }
        for (value, text) in
            [(0.02, "20 ms"), (1.5, "1.5 s"), (f64::INFINITY, "not answered"), (f64::NAN, "–")]
        {
            assert_eq!(time(value), text);
        }
    }

    #[test]
    fn a_line_in_blocks_has_a_gap_where_nothing_is_known() {
        let points = [0.0, 50.0, f64::NAN, 100.0].iter().map(|value| (0.0, *value)).collect();
        let line = Line { name: String::new(), look: Look::On, points };
        assert_eq!(spark(&line, 100.0, false), "▁▅ █");
    }
}
