//! One row: its proxies started, its rounds in turn, the medians.
//!
//! The proxies of a row stand beside each other and are asked one after the other, round by round (A B C D A B C D),
//! so that a neighbour on the machine disturbs all of them. A round with an answer that is not 2xx is no round.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::client::Connection;
use super::configs::{ORIGIN, ORIGIN_STATUS};
use super::load::{Idle, Load};
use super::open_loop::{self, Plan};
use super::peers::{Peer, Program, Running};
use super::place::Place;
use super::requests::{self, Requests};
use super::rows::{Kind, Row};
use super::{now, walk};

/// Requests per second of the open loop: well below what each proxy can do with a core.
pub const OPEN_RATE: u32 = 4000;
/// Connections of the open loop.
pub const OPEN_CONNECTIONS: usize = 32;
/// How long connections may take to be opened and used once.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// How long they are idle until it is looked what they take.
pub const IDLE_FOR: Duration = Duration::from_secs(8);

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub rounds: usize,
    pub load: Duration,
    pub latency: Duration,
}

/// What was found out about a proxy in a row. What a row does not ask is not there.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub cpu_us: Option<f64>,
    pub per_second: Option<f64>,
    pub p50: Option<Duration>,
    pub p99: Option<Duration>,
    /// How the CPU time is shared among threads, the busiest first.
    pub shares: Vec<f64>,
    pub memory: Option<Memory>,
}

/// Resident memory without and with many of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub before: u64,
    pub after: u64,
    pub count: usize,
}

impl Memory {
    /// Bytes for each.
    pub fn each(&self) -> f64 {
        self.after.saturating_sub(self.before) as f64 / self.count.max(1) as f64
    }
}

/// The figures, or why there are none.
pub type Cell = Result<Figures, String>;

/// A row with its cells.
#[derive(Clone, Debug)]
pub struct Measured {
    pub row: Row,
    pub cells: BTreeMap<Peer, Cell>,
}

/// One round of one proxy.
#[derive(Clone, Debug)]
struct Round {
    cpu_us: f64,
    per_second: f64,
    quantiles: Option<(Duration, Duration)>,
    shares: Vec<f64>,
}

/// Measures a row.
///
/// # Errors
/// Only what stops all of it; what goes wrong with one proxy is told in its cell.
pub fn row(row: &Row, programs: &[Program], place: &Place, pace: Pace) -> Result<Measured, String> {
    let requests = (row.requests)();
    let folder = place.folder.join(row.name);
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let script = folder.join("requests.lua");
    std::fs::write(&script, requests.script()).map_err(|error| format!("{}: {error}", script.display()))?;
    let row_of = RowOf { row, requests, script, place, pace };
    let cells = match row.kind {
        Kind::Idle => programs.iter().map(|program| (program.peer, row_of.idle(program))).collect(),
        Kind::Speed | Kind::Growth(_) => row_of.in_turns(programs),
    };
    Ok(Measured { row: *row, cells })
}

/// A row with all that its measuring needs.
struct RowOf<'a> {
    row: &'a Row,
    requests: Requests,
    script: PathBuf,
    place: &'a Place,
    pace: Pace,
}

impl RowOf<'_> {
    fn in_turns(&self, programs: &[Program]) -> BTreeMap<Peer, Cell> {
        let mut entered: Vec<_> = programs
            .iter()
            .map(|program| {
                (program.peer, self.start(program).and_then(|running| self.grow(running)), Vec::new())
            })
            .collect();
        for _ in 0..self.pace.rounds {
            for (peer, started, rounds) in &mut entered {
                let done = match started {
                    Ok((running, _)) => self.round(running),
                    Err(_) => continue,
                };
                match done {
                    Ok(round) => rounds.push(round),
                    Err(why) => {
                        println!("  {}: {why}", peer.title());
                        *started = Err(why);
                    }
                }
            }
        }
        let cell = |started: Result<(Running, Option<Memory>), String>, rounds: Vec<Round>| {
            started.map(|(_, memory)| Figures { memory, ..medians(&rounds) })
        };
        entered.into_iter().map(|(peer, started, rounds)| (peer, cell(started, rounds))).collect()
    }

    fn start(&self, program: &Program) -> Result<Running, String> {
        let mut running = program.start(self.row.name, &self.row.setup, self.place)?;
        running.ready(self.row.setup.tls, &self.requests)?;
        if self.row.setup.tls {
            let warmed = self.load(&running).warm()?;
            warmed.check()?;
        }
        Ok(running)
    }

    fn load<'a>(&'a self, running: &'a Running) -> Load<'a> {
        Load {
            shape: self.row.shape,
            url: &running.url,
            script: &self.script,
            openssl: &self.place.openssl,
            time: self.pace.load,
        }
    }

    /// Shows it as many tenants as the row wants.
    fn grow(&self, running: Running) -> Result<(Running, Option<Memory>), String> {
        let Kind::Growth(count) = self.row.kind else {
            return Ok((running, None));
        };
        let before = running.server.memory();
        walk::through(count, running.address)?;
        let after = running.server.memory();
        Ok((running, Some(Memory { before, after, count })))
    }

    fn round(&self, running: &Running) -> Result<Round, String> {
        let threads = running.server.cpu_by_thread();
        let before = running.server.cpu();
        let counted = self.load(running).run()?;
        let cpu = running.server.cpu().saturating_sub(before);
        counted.check()?;
        let after = running.server.cpu_by_thread();
        let quantiles = if self.row.has_latency() { Some(self.latency(running)?) } else { None };
        Ok(Round {
            cpu_us: cpu.as_secs_f64() * 1e6 / counted.good as f64,
            per_second: counted.good as f64 / counted.seconds,
            quantiles,
            shares: shares(&threads, &after),
        })
    }

    fn latency(&self, running: &Running) -> Result<(Duration, Duration), String> {
        let count = (f64::from(OPEN_RATE) * self.pace.latency.as_secs_f64()) as usize;
        let plan = Plan {
            address: running.address,
            requests: &self.requests,
            connections: OPEN_CONNECTIONS,
            rate: OPEN_RATE,
            count,
        };
        let latencies = open_loop::run(plan);
        if latencies.failed > 0 {
            return Err(format!(
                "{} of {count} requests at a fixed rate were not answered 2xx",
                latencies.failed
            ));
        }
        let quantile = |share| latencies.quantile(share).ok_or("no request at a fixed rate".to_owned());
        Ok((quantile(0.5)?, quantile(0.99)?))
    }

    /// What idle connections take, each of which has made one request.
    fn idle(&self, program: &Program) -> Cell {
        let count = self.row.setup.connections;
        let running = self.start(program)?;
        let before = running.server.memory();
        let seen = requests_seen()?;
        let mut idle = Idle::open(&running.url, count, &self.place.openssl)?;
        let until = now() + IDLE_MAX;
        // The questions are themselves seen: at least one of them, and no harm is done by waiting for more requests.
        let mut asked = 0;
        loop {
            asked += 1;
            let done = requests_seen()?.saturating_sub(seen + asked);
            if done >= count as u64 {
                break;
            }
            if now() > until || idle.has_ended() {
                return Err(format!("{done} of {count} connections made their request"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(IDLE_FOR);
        let after = running.server.memory();
        if idle.has_ended() {
            return Err(format!("{count} connections did not stay"));
        }
        Ok(Figures { memory: Some(Memory { before, after, count }), ..Figures::default() })
    }
}

/// How many requests the origin has seen.
fn requests_seen() -> Result<u64, String> {
    let origin = SocketAddr::from((Ipv4Addr::LOCALHOST, ORIGIN));
    let answer = Connection::open(origin)?.exchange(requests::head("GET", ORIGIN_STATUS, "").as_bytes())?;
    let text = String::from_utf8_lossy(&answer.body);
    // The third line has connections accepted, handled, and requests.
    let counts = text.lines().nth(2).unwrap_or_default();
    counts
        .split_whitespace()
        .nth(2)
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| format!("origin: {text}"))
}

/// What part of the CPU time each thread took, the busiest first; those with nothing are left out.
fn shares(before: &BTreeMap<u32, Duration>, after: &BTreeMap<u32, Duration>) -> Vec<f64> {
    let used =
        after.iter().map(|(thread, cpu)| cpu.saturating_sub(before.get(thread).copied().unwrap_or_default()));
    let mut used: Vec<f64> = used.map(|cpu| cpu.as_secs_f64()).filter(|cpu| *cpu > 0.0).collect();
    used.sort_by(|one, other| other.total_cmp(one));
    let all: f64 = used.iter().sum();
    used.into_iter().map(|cpu| cpu / all).collect()
}

fn medians(rounds: &[Round]) -> Figures {
    let quantile = |of: fn(&(Duration, Duration)) -> Duration| {
        median(rounds.iter().filter_map(|round| round.quantiles.as_ref()).map(|pair| of(pair).as_secs_f64()))
            .map(Duration::from_secs_f64)
    };
    Figures {
        cpu_us: median(rounds.iter().map(|round| round.cpu_us)),
        per_second: median(rounds.iter().map(|round| round.per_second)),
        p50: quantile(|pair| pair.0),
        p99: quantile(|pair| pair.1),
        shares: rounds.last().map(|round| round.shares.clone()).unwrap_or_default(),
        memory: None,
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_value_in_the_middle() {
        assert_eq!(median([3.0, 100.0, 1.0].into_iter()), Some(3.0));
        assert_eq!(median([].into_iter()), None);
    }

    #[test]
    fn tells_how_threads_share_the_work() {
        let at = |first, second| {
            BTreeMap::from([
                (1, Duration::from_millis(first)),
                (2, Duration::from_millis(second)),
                (3, Duration::ZERO),
            ])
        };
        assert_eq!(shares(&at(100, 100), &at(110, 130)), [0.75, 0.25]);
        assert_eq!(shares(&at(1, 1), &at(1, 1)), [0.0; 0]);
    }

    #[test]
    fn divides_memory_among_those_that_took_it() {
        assert!((Memory { before: 1000, after: 5000, count: 100 }.each() - 40.0).abs() < 1e-9);
        assert!((Memory { before: 2, after: 1, count: 0 }.each()).abs() < 1e-9);
    }
}
