//! A measurement in words: lines while it runs, what was found, and the page.

use std::time::Duration;

use super::Measured;
use super::ramp::{Step, Strain};
use super::seen::Usage;
use super::suspect::Suspect;
use super::usl::{Fit, Peak};
use crate::report::html::{Judgement, Page, Table, Tone};
use crate::report::svg::{Line, Look, Plot, Shade, number};

/// Times the highest concurrency that was measured, up to which the law's prediction is drawn.
const FORESEEN: f64 = 2.0;

/// The head of the lines.
pub(super) fn head() -> String {
    format!(
        "{:>9} {:>9} {:>10} {:>10} {:>9} {:>9} {:>8}  {}",
        "asked/s", "good/s", "p50", "p99", "under way", "CPU", "backlog", ""
    )
}

/// One load.
pub(super) fn line(step: &Step, usage: &Usage, strain: Option<Strain>) -> String {
    let processors = usage.service.map_or("?".to_owned(), |used| format!("{used:.2}"));
    let remark = match (step.cut, strain) {
        (true, _) => "let go: it was breaking",
        (false, Some(strain)) => why(strain),
        (false, None) => "",
    };
    format!(
        "{:>9} {:>9} {:>10} {:>10} {:>9} {:>9} {:>8}  {remark}",
        number(step.offered),
        number(step.good),
        time(step.p50),
        time(step.p99),
        number(step.concurrency),
        processors,
        usage.backlog,
    )
}

/// What is said of a service that kept up with nothing.
pub(super) fn dead(first: Option<&Step>) -> String {
    let Some(step) = first else { return "nothing was sent".to_owned() };
    let status = step.status.map_or(String::new(), |status| format!("; it answered {status}"));
    format!(
        "of {} requests a second {} % failed and {} % were refused{status}",
        number(step.offered),
        number(step.failed * 100.0),
        number(step.refused * 100.0)
    )
}

fn why(strain: Strain) -> &'static str {
    match strain {
        Strain::Errors => "errors",
        Strain::Refusals => "it refuses (429 or 503)",
        Strain::Behind => "it falls behind",
        Strain::Latency => "the tail grows",
    }
}

/// A time with its unit.
fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{} ms", number(seconds * 1000.0)) } else { format!("{} s", number(seconds)) }
}

impl Measured {
    /// Whether it says anything of the service: the load was made in time.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        !matches!(self.suspect, Suspect::Generator)
    }

    /// What was found, in sentences.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let edge = self.edge();
        if !self.is_judged() {
            return vec![suspicion(&self.suspect), format!("What was seen all the same: {edge}")];
        }
        let knee = &self.found.knee;
        let run = format!(
            "Run it at up to {} requests a second: there it does the most for its latency (p99 {}, {} under way on average).",
            number(knee.offered),
            time(knee.p99),
            number(knee.concurrency)
        );
        let mut told = vec![run, edge, suspicion(&self.suspect)];
        told.extend(self.fit.as_ref().map(|fit| self.law(fit)));
        told
    }

    /// What it kept up with, and what not.
    fn edge(&self) -> String {
        let limit = number(self.found.limit.offered);
        match &self.found.broke {
            Some((broke, strain)) => format!(
                "It kept up with {limit} a second; at {} it did not: {}.",
                number(broke.offered),
                why(*strain)
            ),
            None if self.out_of_time => {
                format!("It kept up with {limit} a second when the time was over: --time gives it more.")
            }
            None => {
                format!("It kept up with all that was asked, {limit} a second: --rate-max asks for more.")
            }
        }
    }

    /// The most requests that were under way on average, and the most that were done per second.
    fn most(&self) -> (f64, f64) {
        self.steps.iter().fold((1.0, 0.0), |(concurrency, done): (f64, f64), (step, _)| {
            (concurrency.max(step.concurrency), done.max(step.good))
        })
    }

    fn law(&self, fit: &Fit) -> String {
        /// A law that explains less is none of this service.
        const EXPLAINED: f64 = 0.8;
        let (measured, done) = self.most();
        let law = format!(
            "The Universal Scalability Law fits with contention σ = {} and coherency κ = {} (it explains {} % of the variance)",
            small(fit.contention),
            small(fit.coherency),
            number(fit.explained.max(0.0) * 100.0)
        );
        if fit.explained < EXPLAINED {
            return format!("{law}: too little to foresee anything by it.");
        }
        match fit.peak() {
            Peak::At(peak) if peak.concurrency > measured => format!(
                "{law}. Prediction, past what was measured: at most {} a second, with {} under way; beyond that less.",
                number(peak.throughput),
                number(peak.concurrency)
            ),
            Peak::Ceiling(most) if most > done * 1.05 => format!(
                "{law}. Prediction, past what was measured: never more than {} a second, however many are under way.",
                number(most)
            ),
            Peak::At(_) | Peak::Ceiling(_) => {
                format!("{law}. It has no more to foresee: the most was measured, {} a second.", number(done))
            }
            Peak::None => format!("{law}: nothing that was measured slows it down."),
        }
    }

    /// All of it as a page.
    #[must_use]
    pub fn page(&self) -> Page {
        let mut columns = ["", "asked/s", "good/s", "refused", "failed", "p50", "p99", "under way"]
            .map(str::to_owned)
            .to_vec();
        columns.extend(
            ["CPU of the service", "CPU of the generator", "waiting to be accepted"].map(str::to_owned),
        );
        let base = &self.steps[0].0;
        let rows = self.steps.iter().map(|(step, saw)| {
            let remark = match step.strain(base) {
                _ if step.cut => "let go",
                Some(strain) => why(strain),
                None => "kept up",
            };
            vec![
                remark.to_owned(),
                number(step.offered),
                number(step.good),
                format!("{} %", number(step.refused * 100.0)),
                format!("{} %", number(step.failed * 100.0)),
                time(step.p50),
                time(step.p99),
                number(step.concurrency),
                saw.usage.service.map_or("not known".to_owned(), |used| format!("{used:.2}")),
                format!("{:.2}", saw.usage.own),
                saw.usage.backlog.to_string(),
            ]
        });
        let rows = rows.collect();
        let judged = self.is_judged();
        let word = if judged { "Measured" } else { "Not measured" };
        let tone = if judged { Tone::Good } else { Tone::Neither };
        let sentences = self.sentences();
        Page {
            title: "capacity".to_owned(),
            summary: format!("How much {} ({}) can take, and what gives out first.", self.url, self.address),
            verdict: Some(Judgement { tone, word: word.to_owned(), reason: sentences[0].clone() }),
            rule: String::new(),
            explanation: sentences[1..].to_vec(),
            tables: vec![Table { caption: "Each load".to_owned(), columns, rows }],
            plots: vec![self.throughput_plot(), self.latency_plot(), self.law_plot()],
            texts: Vec::new(),
            notes: vec![format!("tidegate drill capacity --url {}", self.url), self.visible()],
        }
    }

    fn visible(&self) -> String {
        match self.processes {
            0 => "Which processes listen there is not known: nothing is said of their processors and files."
                .to_owned(),
            1 => "One process listens there; its processor time, files and connections were looked at."
                .to_owned(),
            many => format!(
                "{many} processes listen there; their processor time, files and connections were looked at."
            ),
        }
    }

    /// The loads by rate, and a value of each.
    fn by_rate(&self, value: impl Fn(&Step) -> f64) -> Vec<(f64, f64)> {
        let mut points: Vec<_> = self.steps.iter().map(|(step, _)| (step.offered, value(step))).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    }

    fn broken(&self) -> Vec<Shade> {
        let most = self.steps.iter().map(|(step, _)| step.offered).fold(0.0, f64::max);
        let broke = self.found.broke.as_ref().map(|(broke, _)| broke.offered);
        broke.map(|from| Shade { from, to: most, name: "too much".to_owned() }).into_iter().collect()
    }

    fn throughput_plot(&self) -> Plot {
        let line = |name: &str, look, points| Line { name: name.to_owned(), look, points };
        Plot {
            title: "What was asked and what was done".to_owned(),
            across: "requests asked for per second".to_owned(),
            up: "good answers per second".to_owned(),
            logarithmic: false,
            lines: vec![
                line("asked", Look::Offered, self.by_rate(|step| step.offered)),
                line("done", Look::On, self.by_rate(|step| step.good)),
            ],
            shades: self.broken(),
        }
    }

    fn latency_plot(&self) -> Plot {
        let line = |name: &str, look, points| Line { name: name.to_owned(), look, points };
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        Plot {
            title: "Latency".to_owned(),
            across: "requests asked for per second".to_owned(),
            up: "latency, ms".to_owned(),
            logarithmic: true,
            lines: vec![
                line("p50", Look::On, self.by_rate(|step| milliseconds(step.p50))),
                line("p99", Look::Off, self.by_rate(|step| milliseconds(step.p99))),
            ],
            shades: self.broken(),
        }
    }

    fn law_plot(&self) -> Plot {
        /// Points of a curve.
        const POINTS: u32 = 60;
        let points = self.steps.iter().map(|(step, _)| (step.concurrency, step.good)).collect();
        let mut lines = vec![Line { name: "measured".to_owned(), look: Look::Measured, points }];
        if let Some(fit) = &self.fit {
            let (measured, _) = self.most();
            let curve = |from: f64, to: f64| {
                let at = move |step| from + (to - from) * f64::from(step) / f64::from(POINTS);
                (0..=POINTS).map(at).map(|concurrency| (concurrency, fit.throughput(concurrency))).collect()
            };
            lines.push(Line { name: "law".to_owned(), look: Look::Model, points: curve(0.0, measured) });
            lines.push(Line {
                name: "prediction".to_owned(),
                look: Look::Prediction,
                points: curve(measured, measured * FORESEEN),
            });
        }
        Plot {
            title: "Throughput and concurrency: the Universal Scalability Law".to_owned(),
            across: "requests under way, on average".to_owned(),
            up: "good answers per second".to_owned(),
            logarithmic: false,
            lines,
            shades: Vec::new(),
        }
    }
}

fn small(value: f64) -> String {
    if value < 1e-6 { "0".to_owned() } else { format!("{value:.2e}") }
}

fn suspicion(suspect: &Suspect) -> String {
    match suspect {
        Suspect::Nothing => "Nothing saturated within the load that was allowed.".to_owned(),
        Suspect::Generator => {
            "This generator was late: it measured itself, and nothing is said of the service. Run it on \
            another machine, or with fewer others beside it."
                .to_owned()
        }
        Suspect::Limit => {
            "A limit saturated first: it refused (429 or 503) before the service was full. That may be as \
            meant."
                .to_owned()
        }
        Suspect::Thread(used) => format!(
            "One thread saturated first: it used {} of a processor while others were free. An event loop, or a lock \
             that all share; more processes would help, more processors would not.",
            number(*used)
        ),
        Suspect::Processors(used) => {
            format!("The processors saturated first: the service used {}.", number(*used))
        }
        Suspect::Neighbours(used) => format!(
            "The machine's processors saturated first ({} % of them), and mostly not by the service.",
            number(used * 100.0)
        ),
        Suspect::Files(share) => {
            format!("Open files saturated first: {} % of what it may open.", number(share * 100.0))
        }
        Suspect::Backlog(waiting) => format!(
            "Accepting saturated first: up to {waiting} connections waited to be accepted, and some were lost."
        ),
        Suspect::Gate(gate) => format!(
            "The gate before the service saturated first: {} waited there{}. If the service could do more, raise the \
             upstream's concurrency.",
            number(gate.waiting),
            gate.limit.map_or(String::new(), |limit| format!(", at a limit of {}", number(limit)))
        ),
        Suspect::Workers(workers) => format!(
            "Its processors were idle when it no longer kept up: it works on about {} requests at a time and waits for \
             something else. Workers, a pool of database connections, or a lock.",
            number(workers.max(1.0).round())
        ),
        Suspect::Unknown => {
            "What saturated first cannot be seen from here: its processes are not known. Run it on the \
            service's own machine, as a user who may see them."
                .to_owned()
        }
    }
}
