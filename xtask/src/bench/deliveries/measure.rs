//! The rows of one peer, one after the other on the same running server; what goes wrong in one is told in its cell.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::counters::{Disk, Used};
use super::drive::{self, Outcome, Plan};
use super::journey::{Desk, Quantiles};
use super::own;
use super::peers::{Peer, Place, Program, Running, Way};
use super::rows::{self, Kind, Row};
use crate::bench::measure::median;

/// What was found out about a peer in a row. What a row does not ask is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub per_second: Option<f64>,
    /// The slowest and the fastest window.
    pub from_to: Option<(f64, f64)>,
    /// CPU time of the servers for each delivery, and of those who offer and take.
    pub cpu_us: Option<f64>,
    pub client_us: Option<f64>,
    pub written: Option<f64>,
    pub flushes: Option<f64>,
    /// At half of the most: from due to accepted, and from accepted to attempted.
    pub half: Option<f64>,
    pub accept: Option<Quantiles>,
    pub attempt: Option<Quantiles>,
    pub memory: Option<Memory>,
    /// Of another tenant's, how many came before the one of who came late.
    pub behind: Option<f64>,
    /// How many of the tenant with three times the weight there were for each of the other's.
    pub share: Option<f64>,
    pub commits: Option<f64>,
}

/// Bytes of memory before and after so many deliveries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    pub before: u64,
    pub after: u64,
    pub count: u64,
}

/// The figures; nothing where a peer cannot do what the row asks; or why there are none.
pub type Cell = Result<Option<Figures>, String>;

/// The cells of a peer, by the name of their row.
pub type Cells = BTreeMap<&'static str, Cell>;

struct Course<'a> {
    peer: Peer,
    running: Running,
    desk: &'a Desk,
    disk: Option<Disk>,
    /// The number of the last run.
    runs: u16,
}

/// Starts a peer and measures all rows.
///
/// # Errors
/// It does not start.
pub fn peer(program: &Program, rows: &[Row], folder: &Path) -> Result<Cells, String> {
    let desk: Arc<Desk> = Desk::new();
    let place = Place { folder: folder.join(program.peer.name()), desk: &desk };
    let running = program.start(&place)?;
    let disk = Disk::of(&place.folder);
    let mut course = Course { peer: program.peer, running, desk: &desk, disk, runs: 0 };
    let mut cells = Cells::new();
    let accepts_one = |row: &&Row| matches!(row.kind, Kind::Accept { batch: 1, .. });
    for row in rows.iter().filter(|row| program.peer.keeps() || accepts_one(row)) {
        let cell = course.row(row);
        match &cell {
            Ok(Some(figures)) => println!("  {:<12} {}", row.name, figures.line()),
            Ok(None) => println!("  {:<12} it has none", row.name),
            Err(why) => println!("  {:<12} {why}", row.name),
        }
        cells.insert(row.name, cell);
    }
    drop(course);
    let _ = std::fs::remove_dir_all(&place.folder);
    Ok(cells)
}

/// Of each row, the round in the middle, with the slowest and the fastest window of all.
pub fn middle(rounds: Vec<Cells>) -> Cells {
    let mut by_row = BTreeMap::<&str, Vec<Cell>>::new();
    for (row, cell) in rounds.into_iter().flatten() {
        by_row.entry(row).or_default().push(cell);
    }
    by_row.into_iter().map(|(row, cells)| (row, middle_of(cells))).collect()
}

/// Why one of them has no figures is told in the place of the others'.
fn middle_of(cells: Vec<Cell>) -> Cell {
    let all: Vec<Option<Figures>> = cells.into_iter().collect::<Result<_, _>>()?;
    let mut all: Vec<Figures> = all.into_iter().flatten().collect();
    all.sort_by(|one, other| one.per_second.partial_cmp(&other.per_second).unwrap_or(Ordering::Equal));
    let windows = || all.iter().filter_map(|figures| figures.from_to);
    let slowest = windows().map(|(from, _)| from).reduce(f64::min);
    let fastest = windows().map(|(_, to)| to).reduce(f64::max);
    let middle = all.get(all.len().saturating_sub(1) / 2);
    Ok(middle.map(|figures| Figures { from_to: slowest.zip(fastest), ..*figures }))
}

impl Course<'_> {
    fn row(&mut self, row: &Row) -> Cell {
        match row.kind {
            Kind::Accept { batch, .. } if batch > 1 && !has_batches(self.peer) => Ok(None),
            Kind::Accept { producers, batch } => {
                let outcome = self.run(rows::accept(producers, batch))?;
                outcome.figures(|sample| sample.accepted).map(Some)
            }
            Kind::EndToEnd => self.end_to_end().map(Some),
            Kind::Delayed { .. } if !has_delays(self.peer) => Ok(None),
            Kind::Delayed { count } => self.delayed(count).map(Some),
            Kind::Fair | Kind::Shared | Kind::Key => self.own(row.kind),
        }
    }

    fn end_to_end(&mut self) -> Result<Figures, String> {
        let figures = self.run(rows::end_to_end())?.figures(|sample| sample.attempted)?;
        let half = figures.per_second.unwrap_or_default() / 2.0;
        let latency = self.run(rows::at_rate(half))?;
        let (accept, attempt) = latency.quantiles.ok_or("no latencies")?;
        Ok(Figures { half: Some(half), accept: Some(accept), attempt: Some(attempt), ..figures })
    }

    fn delayed(&mut self, count: u64) -> Result<Figures, String> {
        let before = self.memory();
        let plan = rows::delayed(count, has_batches(self.peer), self.peer.is_tidegate());
        let outcome = self.run(plan)?;
        let count = outcome.samples.last().map_or(0, |sample| sample.accepted);
        let memory = Memory { before, after: self.memory(), count };
        Ok(Figures { memory: Some(memory), ..Figures::default() })
    }

    fn own(&mut self, kind: Kind) -> Cell {
        let Some(own) = self.running.own else { return Ok(None) };
        self.runs += 2;
        let run = self.runs - 1;
        let none = Figures::default();
        Ok(Some(match kind {
            Kind::Fair => Figures { behind: Some(own::behind(own, self.desk, run)?), ..none },
            Kind::Shared => Figures { share: Some(own::share(own, self.desk, run)?), ..none },
            _ => Figures { commits: Some(own::commits(own)?), ..none },
        }))
    }

    fn memory(&self) -> u64 {
        self.running.servers.iter().map(crate::bench::process::Server::memory_shared).sum()
    }

    fn run(&mut self, plan: Plan) -> Result<Outcome, String> {
        self.runs += 1;
        let Running { servers, beside, way, .. } = &self.running;
        let beside: Vec<u32> = beside.iter().flat_map(crate::bench::process::Server::processes).collect();
        let used = |clients: &[u32]| Used::so_far(servers, clients, self.disk.as_ref());
        match way {
            Way::Own(client) => drive::run(plan, self.runs, &**client, self.desk, &|| used(&beside)),
            Way::Node(node) => node.run(plan, self.runs, &|driver| used(&[driver])),
        }
    }
}

/// Who has no batch takes one delivery a request.
fn has_batches(peer: Peer) -> bool {
    peer != Peer::Restate
}

/// Whether a delivery may say when it is due. RabbitMQ has that by a plugin alone, NATS by a subject for each.
fn has_delays(peer: Peer) -> bool {
    peer.is_tidegate() || matches!(peer, Peer::Pgboss | Peer::Bullmq | Peer::Restate)
}

impl Outcome {
    /// Medians of the windows, for each delivery that was counted.
    fn figures(&self, count: fn(&drive::Sample) -> u64) -> Result<Figures, String> {
        let windows: Vec<(f64, f64, Used)> = self
            .samples
            .windows(2)
            .map(|pair| {
                let seconds = pair[1].at.duration_since(pair[0].at).as_secs_f64();
                let counted = count(&pair[1]).saturating_sub(count(&pair[0])) as f64;
                (counted, seconds, pair[1].used - pair[0].used)
            })
            .collect();
        if windows.is_empty() || windows.iter().any(|(counted, seconds, _)| *counted < 1.0 || *seconds <= 0.0)
        {
            return Err("a window without a single delivery".to_owned());
        }
        let each = |of: fn(&Used) -> f64| median(windows.iter().map(|(counted, _, used)| of(used) / counted));
        let rates: Vec<f64> = windows.iter().map(|(counted, seconds, _)| counted / seconds).collect();
        Ok(Figures {
            per_second: median(rates.iter().copied()),
            from_to: rates.iter().copied().reduce(f64::min).zip(rates.iter().copied().reduce(f64::max)),
            cpu_us: each(|used| used.server_cpu.as_secs_f64() * 1e6),
            client_us: each(|used| used.client_cpu.as_secs_f64() * 1e6),
            written: each(|used| used.written as f64),
            flushes: each(|used| used.flushes as f64),
            ..Figures::default()
        })
    }
}

impl Figures {
    /// A line, while the run goes on.
    fn line(&self) -> String {
        let quantiles = |name: &str, found: Option<Quantiles>| {
            found.map(|it| format!("{name} p50 {} us, p99 {} us", it.p50, it.p99))
        };
        let parts = [
            self.per_second.map(|count| format!("{count:.0}/s")),
            self.from_to.map(|(from, to)| format!("({from:.0} to {to:.0})")),
            self.cpu_us.map(|us| format!("{us:.1} us")),
            self.client_us.map(|us| format!("client {us:.1} us")),
            self.written.map(|bytes| format!("{bytes:.0} B written")),
            self.flushes.map(|count| format!("{count:.4} flushes")),
            self.half.map(|rate| format!("at {rate:.0}/s")),
            quantiles("accept", self.accept),
            quantiles("to attempt", self.attempt),
            self.behind.map(|count| format!("{count:.0} began before")),
            self.share.map(|share| format!("1 to {share:.3}")),
            self.commits.map(|count| format!("{count:.2} group commits")),
            self.memory
                .map(|it| format!("{} MiB, then {} MiB with {}", it.before >> 20, it.after >> 20, it.count)),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::drive::Sample;
    use super::*;
    use crate::bench::now;

    fn outcome(accepted: &[u64]) -> Outcome {
        let start = now();
        let samples = accepted.iter().zip(0..).map(|(accepted, second)| Sample {
            at: start + Duration::from_secs(second),
            accepted: *accepted,
            attempted: 0,
            used: Used {
                server_cpu: Duration::from_millis(second * 100),
                flushes: second * 5,
                ..Used::default()
            },
        });
        Outcome { samples: samples.collect(), quantiles: None }
    }

    #[test]
    fn figures_are_medians_of_the_windows() {
        let figures = outcome(&[0, 1000, 1100, 1600]).figures(|sample| sample.accepted).unwrap();
        assert_eq!((figures.per_second, figures.from_to), (Some(500.0), Some((100.0, 1000.0))));
        assert_eq!((figures.cpu_us, figures.flushes), (Some(200.0), Some(0.01)));
    }

    fn round(per_second: f64, cpu_us: f64) -> Cells {
        let from_to = Some((per_second - 10.0, per_second + 10.0));
        let rate =
            Figures { per_second: Some(per_second), from_to, cpu_us: Some(cpu_us), ..Figures::default() };
        Cells::from([("accept-16", Ok(Some(rate)))])
    }

    #[test]
    fn the_round_in_the_middle_is_told_with_the_windows_of_all() {
        let figures = |rounds: Vec<Cells>| match &middle(rounds)["accept-16"] {
            Ok(Some(it)) => (it.per_second, it.cpu_us, it.from_to),
            other => panic!("{other:?}"),
        };
        let all = Some((90.0, 310.0));
        let rounds = [(300.0, 1.0), (100.0, 2.0), (200.0, 3.0)];
        let rounds = rounds.map(|(rate, cpu)| round(rate, cpu)).to_vec();
        assert_eq!(figures(rounds.clone()), (Some(200.0), Some(3.0), all));
        // Of two, the slower one.
        assert_eq!(figures(rounds[..2].to_vec()), (Some(100.0), Some(2.0), all));
    }

    #[test]
    fn a_round_that_went_wrong_is_told_in_the_place_of_the_others() {
        let wrong = Cells::from([("accept-16", Err("it fell".to_owned()))]);
        assert_eq!(middle(vec![round(1.0, 1.0), wrong])["accept-16"], Err("it fell".to_owned()));
        let none = Cells::from([("accept-16", Ok(None))]);
        assert_eq!(middle(vec![none])["accept-16"], Ok(None));
    }

    #[test]
    fn what_is_measured_once_is_told_as_it_is() {
        let share = Figures { share: Some(3.0), ..Figures::default() };
        let once = Cells::from([("shared", Ok(Some(share)))]);
        assert_eq!(middle(vec![once, round(1.0, 1.0)])["shared"], Ok(Some(share)));
    }

    #[test]
    fn a_window_without_a_delivery_is_no_figure() {
        assert!(outcome(&[0, 1000, 1000]).figures(|sample| sample.accepted).is_err());
        assert!(outcome(&[]).figures(|sample| sample.accepted).is_err());
    }
}
