//! One row: its caches started and filled, its rounds in turn, the medians.
//!
//! The caches of a row stand beside each other and are asked one after the other, round by round (A B C A B C), so that a
//! neighbour on the machine disturbs all of them. What a cache asked of the origin is counted there: a round of hits in
//! which the origin was asked is no round.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::crowd::{self, Crowd};
use super::origin::{self, Origin};
use super::peers::{Peer, Program, Running};
use super::rows::{self, Kind, Row};
use super::zipf::Zipf;
use crate::bench::client::Connection;
use crate::bench::load::{Load, Shape};
use crate::bench::measure::median;
use crate::bench::{now, requests};

/// Rounds of each cache that count.
pub const ROUNDS: usize = 3;
/// How long a round of hits is.
pub const LOAD: Duration = Duration::from_secs(2);
/// Stampedes of a round.
pub const STAMPEDES: usize = 5;
/// How often all objects are asked for, at most, until all are kept.
const FILLS_MAX: usize = 5;
/// Requests for one object before memory is looked at, so that what each connection and thread takes is taken.
const WARM_UP: usize = 20_000;

/// What was found out about a cache in a row. What a row does not ask is not there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub cpu_us: Option<f64>,
    pub per_second: Option<f64>,
    /// Requests that the origin got of a stampede; of the worst.
    pub asked: Option<f64>,
    /// How long the last of a stampede waited beyond the time that the origin took.
    pub behind_ms: Option<f64>,
    /// The share of requests of which the origin heard nothing.
    pub hit_ratio: Option<f64>,
    /// Bytes that an object takes beyond those that the origin sent.
    pub overhead: Option<f64>,
    /// Bytes that the cache takes in all at the end.
    pub memory: Option<f64>,
}

/// The figures, or why there are none.
pub type Cell = Result<Figures, String>;

/// A row with its cells.
pub struct Measured {
    pub row: Row,
    pub cells: BTreeMap<Peer, Cell>,
}

/// Measures a row; what goes wrong with one cache is told in its cell.
///
/// # Errors
/// What stops all of it.
pub fn row(row: &Row, programs: &[Program], folder: &Path, origin: &Origin) -> Result<Measured, String> {
    let mut row_of = RowOf { row, origin, script: PathBuf::new() };
    if let Kind::Hits { objects, bytes, conditional } = row.kind {
        row_of.script = folder.join("requests.lua");
        let script = rows::requests(objects, bytes, conditional).script();
        std::fs::write(&row_of.script, script)
            .map_err(|error| format!("{}: {error}", row_of.script.display()))?;
    }
    let mut entered: Vec<(Peer, Result<Entered, String>)> = programs
        .iter()
        .map(|program| {
            let entered = program.start(row.name, row.room, folder, origin).and_then(|it| row_of.enter(it));
            (program.peer, entered)
        })
        .collect();
    for round in 0..ROUNDS {
        for (_, entered) in &mut entered {
            let Ok(it) = entered else { continue };
            match row_of.round(it, round) {
                Ok(figures) => it.rounds.push(figures),
                Err(why) => *entered = Err(why),
            }
        }
    }
    let cells = entered.into_iter().map(|(peer, entered)| (peer, entered.map(|it| row_of.figures(&it))));
    Ok(Measured { row: *row, cells: cells.collect() })
}

/// A cache that takes part in a row.
struct Entered {
    running: Running,
    crowd: Option<Crowd>,
    overhead: Option<f64>,
    rounds: Vec<Figures>,
}

/// A row with all that its measuring needs.
struct RowOf<'a> {
    row: &'a Row,
    origin: &'a Origin,
    /// What wrk sends in a row of hits.
    script: PathBuf,
}

impl RowOf<'_> {
    /// Makes a cache ready for the row's rounds.
    fn enter(&self, running: Running) -> Result<Entered, String> {
        let mut entered = Entered { running, crowd: None, overhead: None, rounds: Vec::new() };
        let it = &entered.running;
        match self.row.kind {
            Kind::Hits { objects, bytes, conditional } => {
                self.fill(it, objects, bytes)?;
                probe(it, bytes, conditional)?;
            }
            Kind::Stampede { waiters, .. } => entered.crowd = Some(Crowd::open(it.address, waiters)?),
            // Until it is as full as it will be.
            Kind::Mix { .. } => drop(self.mix(it, ROUNDS)?),
            Kind::Memory { objects, bytes } => entered.overhead = Some(self.overhead(it, objects, bytes)?),
        }
        Ok(entered)
    }

    /// Asks for all objects until none of them is asked of the origin.
    fn fill(&self, it: &Running, objects: usize, bytes: usize) -> Result<(), String> {
        let mut asked = 0;
        for _ in 0..FILLS_MAX {
            let before = self.origin.asked();
            crowd::walk(it.address, objects, bytes, |number| origin::path(bytes, number))?;
            asked = self.origin.asked() - before;
            if asked == 0 {
                return Ok(());
            }
        }
        Err(format!("does not keep all: {asked} of {objects} objects were asked of the origin again"))
    }

    fn overhead(&self, it: &Running, objects: usize, bytes: usize) -> Result<f64, String> {
        crowd::walk(it.address, WARM_UP, bytes, |_| origin::path(bytes, objects))?;
        let before = it.memory();
        self.fill(it, objects, bytes)?;
        let grown = it.memory().saturating_sub(before);
        let own = origin::head(&origin::path(bytes, objects), bytes).len() + bytes;
        Ok(grown as f64 / objects as f64 - own as f64)
    }

    fn round(&self, entered: &mut Entered, round: usize) -> Cell {
        let it = &entered.running;
        match self.row.kind {
            Kind::Hits { .. } => self.hits(it),
            Kind::Mix { .. } => self.mix(it, round),
            Kind::Stampede { waiters, bytes } => {
                let crowd = entered.crowd.as_mut().ok_or("nobody asks")?;
                self.stampedes(it, crowd, waiters, bytes, round)
            }
            Kind::Memory { .. } => Ok(Figures::default()),
        }
    }

    fn hits(&self, it: &Running) -> Cell {
        let load = Load {
            shape: Shape::KeepAlive,
            url: &format!("http://{}/", it.address),
            script: &self.script,
            openssl: Path::new("/dev/null"),
            time: LOAD,
        };
        let (asked, cpu) = (self.origin.asked(), it.server.cpu());
        let counted = load.run()?;
        let cpu = it.server.cpu().saturating_sub(cpu);
        counted.check()?;
        match self.origin.asked() - asked {
            0 => Ok(Figures {
                cpu_us: Some(cpu.as_secs_f64() * 1e6 / counted.good as f64),
                per_second: Some(counted.good as f64 / counted.seconds),
                ..Figures::default()
            }),
            asked => Err(format!("the origin was asked {asked} times, where all should be kept")),
        }
    }

    /// The same requests for each cache; another seed each round.
    fn mix(&self, it: &Running, round: usize) -> Cell {
        let Kind::Mix { objects, bytes, requests } = self.row.kind else {
            return Err("no mix".to_owned());
        };
        let numbers = Zipf::new(objects).requests(round as u64, requests);
        let (asked, cpu, began) = (self.origin.asked(), it.server.cpu(), now());
        crowd::walk(it.address, requests, bytes, |number| origin::path(bytes, numbers[number] as usize))?;
        let cpu = it.server.cpu().saturating_sub(cpu);
        let asked = self.origin.asked() - asked;
        Ok(Figures {
            cpu_us: Some(cpu.as_secs_f64() * 1e6 / requests as f64),
            per_second: Some(requests as f64 / began.elapsed().as_secs_f64()),
            hit_ratio: Some(1.0 - asked as f64 / requests as f64),
            ..Figures::default()
        })
    }

    fn stampedes(&self, it: &Running, crowd: &mut Crowd, waiters: usize, bytes: usize, round: usize) -> Cell {
        let cpu = it.server.cpu();
        let (mut asked, mut took) = (0, Duration::ZERO);
        for number in round * STAMPEDES..(round + 1) * STAMPEDES {
            let before = self.origin.asked();
            took += crowd.ask(bytes, number)?;
            asked = asked.max(self.origin.asked() - before);
        }
        let cpu = it.server.cpu().saturating_sub(cpu);
        Ok(Figures {
            cpu_us: Some(cpu.as_secs_f64() * 1e6 / (waiters * STAMPEDES) as f64),
            behind_ms: Some((took / STAMPEDES as u32).saturating_sub(origin::SLOW).as_secs_f64() * 1e3),
            asked: Some(asked as f64),
            ..Figures::default()
        })
    }

    fn figures(&self, entered: &Entered) -> Figures {
        let rounds = &entered.rounds;
        let middle = |of: fn(&Figures) -> Option<f64>| median(rounds.iter().filter_map(of));
        Figures {
            cpu_us: middle(|round| round.cpu_us),
            per_second: middle(|round| round.per_second),
            behind_ms: middle(|round| round.behind_ms),
            hit_ratio: middle(|round| round.hit_ratio),
            asked: rounds.iter().filter_map(|round| round.asked).max_by(f64::total_cmp),
            overhead: entered.overhead,
            memory: matches!(self.row.kind, Kind::Mix { .. }).then(|| entered.running.memory() as f64),
        }
    }
}

/// Whether it answers as the row means it, which load generators do not look at.
fn probe(it: &Running, bytes: usize, conditional: bool) -> Result<(), String> {
    let path = origin::path(bytes, 0);
    let condition =
        if conditional { format!("If-None-Match: {}\r\n", origin::etag(&path)) } else { String::new() };
    let answer =
        Connection::open(it.address)?.exchange(requests::head("GET", &path, &condition).as_bytes())?;
    let expected = if conditional { (304, 0) } else { (200, bytes) };
    if (answer.status, answer.body.len()) == expected {
        return Ok(());
    }
    Err(format!("answers with {} and {} bytes, not {expected:?}", answer.status, answer.body.len()))
}
