//! `cargo xtask bench deliveries`: Tidegate's deliveries beside the queues that the field has, with the same durability.
//!
//! What is measured is in `rows`, how in `measure` and `drive`, how each peer is set in `peers`; `wires` speaks to them. It needs
//! Linux with two cores, Debian's packages, npm and PyPI or what they would install. It does not tune the machine; a peer that cannot
//! be had is told as such.
//!
//! A machine is faster at one time than some minutes later. So rates are measured in rounds, all peers by turns in each, and of
//! each peer and row the round in the middle is told. The first round has all rows and takes some six minutes, each other one four.

use std::io::Write as _;
use std::path::Path;

use self::measure::Cells;
use self::peers::{Peer, Program};
use self::report::{Found, Report};
use self::rows::{ROWS, Row};
use super::measure::median;
use super::place::Machine;
use super::{build, now, sections, target, to_core_1};

mod counters;
mod drive;
mod journey;
mod measure;
mod node;
mod nothing;
mod own;
mod peers;
mod postgres;
mod receiver;
mod report;
mod restate;
mod rows;
mod wires;

pub const USAGE: &str = "cargo xtask bench deliveries [--row NAME,...] [--peer NAME,...] [--rounds COUNT] [--built PROGRAM] [--write]";
/// Rounds, where none are asked for.
const ROUNDS: usize = 3;
/// The most that are: an hour.
const ROUNDS_MAX: usize = 15;

/// What the command line asks for.
#[derive(Debug)]
struct Wanted {
    /// None: all rows.
    rows: Option<Vec<String>>,
    peers: Option<Vec<String>>,
    rounds: usize,
    /// A Tidegate that is built already.
    built: Option<String>,
    write: bool,
}

/// Runs the rows, prints their tables, and writes them to `docs/benchmarks.md` if that is asked for.
///
/// # Errors
/// What stops it, or what failed in it.
pub fn deliveries(arguments: &[String], root: &Path) -> Result<(), String> {
    let wanted = Wanted::read(arguments)?;
    let target = target()?;
    let wanted_peers: Vec<Peer> =
        Peer::ALL.into_iter().filter(|peer| has(&wanted.peers, peer.name())).collect();
    let built = match &wanted.built {
        Some(built) => built.into(),
        // It takes minutes: who asks for the others alone does not wait for it.
        None if wanted_peers.iter().any(|peer| peer.is_tidegate()) => build(root, &target)?,
        None => target.clone(),
    };
    let machine = Machine::describe();
    if machine.cores < 2 {
        return Err("one core for the servers and one for the load are needed".to_owned());
    }
    to_core_1()?;
    let folder = target.join("bench/deliveries");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let disk_ms = disk_ms(&folder)?;
    println!("the disk takes {disk_ms:.2} ms to keep a block");
    let rows: Vec<Row> = ROWS.into_iter().filter(|row| has(&wanted.rows, row.name)).collect();
    let rates: Vec<Row> = rows.iter().filter(|row| row.kind.has_rate()).copied().collect();
    let mut peers: Vec<Turns> =
        wanted_peers.into_iter().map(|peer| Turns::new(peer, &built, &target)).collect();
    for round in 0..wanted.rounds {
        println!("round {} of {}", round + 1, wanted.rounds);
        let rows = if round == 0 { &rows } else { &rates };
        peers.iter_mut().for_each(|peer| peer.turn(rows, &folder));
    }
    let peers = peers.into_iter().map(Turns::end).collect();
    let command = format!("cargo xtask bench deliveries {}", arguments.join(" ")).trim_end().to_owned();
    let text = Report { machine, command, disk_ms, rounds: wanted.rounds, rows, peers }.markdown();
    println!("\n{text}");
    if wanted.write { sections::write_section(root, "deliveries", &text) } else { Ok(()) }
}

/// A peer's part in all rounds.
struct Turns {
    peer: Peer,
    /// What it was found to do in each, or why it is not there.
    found: Result<(Program, Vec<Cells>), String>,
}

impl Turns {
    fn new(peer: Peer, built: &Path, target: &Path) -> Turns {
        Turns { peer, found: Program::find(peer, built, target).map(|program| (program, Vec::new())) }
    }

    /// Starts it, and measures these rows.
    fn turn(&mut self, rows: &[Row], folder: &Path) {
        let began = now();
        println!("{}", self.peer.title());
        if let Ok((program, rounds)) = &mut self.found {
            match measure::peer(program, rows, folder) {
                Ok(cells) => rounds.push(cells),
                Err(why) => self.found = Err(why),
            }
        }
        if let Err(why) = &self.found {
            println!("  left out: {why}");
        }
        println!("  {:.0} s", began.elapsed().as_secs_f64());
    }

    fn end(self) -> (Peer, Found) {
        (self.peer, self.found.map(|(program, rounds)| (program.version, measure::middle(rounds))))
    }
}

/// How long the disk takes to keep a block that is written behind others: the median of some.
fn disk_ms(folder: &Path) -> Result<f64, String> {
    let path = folder.join("block");
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file = std::fs::File::create(&path).map_err(wrong)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let began = now();
        file.write_all(&[0; 4096]).and_then(|()| file.sync_data()).map_err(wrong)?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(&path).map_err(wrong)?;
    Ok(median(times.into_iter()).unwrap_or_default())
}

fn has(wanted: &Option<Vec<String>>, name: &str) -> bool {
    wanted.as_ref().is_none_or(|names| names.iter().any(|one| one == name))
}

impl Wanted {
    fn read(arguments: &[String]) -> Result<Wanted, String> {
        let mut wanted = Wanted { rows: None, peers: None, rounds: ROUNDS, built: None, write: false };
        let mut arguments = arguments.iter();
        let usage = || format!("usage: {USAGE}");
        while let Some(argument) = arguments.next() {
            let mut names = |known: &[&str]| {
                let names: Vec<String> =
                    arguments.next().ok_or_else(usage)?.split(',').map(str::to_owned).collect();
                match names.iter().find(|name| !known.contains(&name.as_str())) {
                    None => Ok(Some(names)),
                    Some(none) => Err(format!("there is no {none}; there are {}", known.join(", "))),
                }
            };
            match argument.as_str() {
                "--row" => wanted.rows = names(&ROWS.map(|row| row.name))?,
                "--peer" => wanted.peers = names(&Peer::ALL.map(Peer::name))?,
                "--rounds" => {
                    let count = arguments.next().and_then(|count| count.parse().ok());
                    let count = count.filter(|count| (1..=ROUNDS_MAX).contains(count));
                    wanted.rounds = count.ok_or_else(|| format!("--rounds takes 1 to {ROUNDS_MAX}"))?;
                }
                "--built" => wanted.built = Some(arguments.next().ok_or_else(usage)?.clone()),
                "--write" => wanted.write = true,
                _ => return Err(usage()),
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &str, expected: Result<(usize, usize), &str>) {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        match (Wanted::read(&arguments), expected) {
            (Ok(wanted), Ok(expected)) => {
                let rows = ROWS.iter().filter(|row| has(&wanted.rows, row.name)).count();
                let peers = Peer::ALL.iter().filter(|peer| has(&wanted.peers, peer.name())).count();
                assert_eq!((rows, peers), expected);
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn reads_which_rows_and_peers_are_wanted() {
        check("--write", Ok((ROWS.len(), Peer::ALL.len())));
        check("--row accept-1,delayed --peer redis --built target/release/tidegate", Ok((2, 1)));
        check("--row accept", Err("there is no accept; there are accept-1"));
        check("--peer kafka", Err("there is no kafka; there are tidegate, tidegate-postgres"));
        check("--peer", Err(USAGE));
        check("--fast", Err(USAGE));
        check("--rounds 5", Ok((ROWS.len(), Peer::ALL.len())));
        check("--rounds 0", Err("--rounds takes 1 to 15"));
        check("--rounds", Err("--rounds takes 1 to 15"));
    }
}
