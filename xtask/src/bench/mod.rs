//! `cargo xtask bench edge`: Tidegate beside nginx, HAProxy and Envoy, before one origin, each with the same features.
//!
//! Core 0 has the proxy under test, core 1 the origin and the load. The figure that counts is CPU time per request from
//! the kernel's accounts, as a ratio to nginx in the same run; all else is told beside it. What is measured is in `rows`,
//! how each proxy is told to do it in `configs`, how it is judged in `targets`.
//!
//! It needs Linux with two cores, and Debian's packages or the right to install them. It does not tune the machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use measure::{Measured, Pace};
pub use peers::package;
use peers::{Peer, Program};
use place::{Machine, Place};
use report::Report;
use rows::{ROWS, Row};

pub mod cache;
pub mod certificates;
mod client;
mod configs;
pub mod deliveries;
mod load;
mod measure;
mod open_loop;
mod peers;
mod place;
pub mod pressure;
mod process;
mod report;
mod requests;
mod rows;
mod sections;
mod targets;
mod tested;
pub mod upgrade;
mod walk;

pub const USAGE: &str = "cargo xtask bench edge [--quick] [--row NAME,...] [--peer NAME,...] [--write]";

/// File descriptors that are not for idle connections.
const FILES_KEPT: usize = 1000;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    quick: bool,
    write: bool,
    /// None: all rows.
    rows: Option<Vec<String>>,
    peers: Vec<Peer>,
}

/// Runs the rows, prints their tables, and writes them to `docs/benchmarks.md` if that is asked for.
///
/// # Errors
/// What stops it, or what failed in it.
pub fn edge(arguments: &[String], root: &Path) -> Result<(), String> {
    let wanted = Wanted::read(arguments)?;
    let target = target()?;
    let built = build(root, &target)?;
    let machine = Machine::describe();
    if machine.cores < 2 {
        return Err("one core for the proxy and one for the load are needed".to_owned());
    }
    to_core_1()?;
    let place = Place::prepare(&target)?;
    for (tool, package) in [("wrk", "wrk"), ("h2load", "nghttp2-client")] {
        peers::package(tool, package)?;
    }
    let (programs, missing) = find(&wanted, &place, &built);
    let _origin = place.origin()?;
    let pace = wanted.pace();
    let measured = run(&wanted, &machine, &programs, &place, pace)?;
    let versions = programs.iter().map(|program| (program.peer, program.version.clone())).collect();
    let command = format!("cargo xtask bench edge {}", arguments.join(" ")).trim_end().to_owned();
    let report = Report { machine, command, pace, versions, missing, measured };
    let text = report.markdown();
    println!("\n{text}");
    if wanted.write {
        sections::write_around(root, &text)?;
    }
    let failed = report.failed();
    if failed.is_empty() { Ok(()) } else { Err(format!("failed rounds:\n{}", failed.join("\n"))) }
}

impl Wanted {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut wanted = Self { quick: false, write: false, rows: None, peers: Peer::ALL.to_vec() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut names = || arguments.next().map(|names| names.split(',').map(str::to_owned)).ok_or(USAGE);
            match argument.as_str() {
                "--quick" => wanted.quick = true,
                "--write" => wanted.write = true,
                "--row" => wanted.rows = Some(names()?.map(known_row).collect::<Result<_, _>>()?),
                "--peer" => {
                    wanted.peers = names()?.map(|name| known_peer(&name)).collect::<Result<_, _>>()?
                }
                _ => return Err(format!("usage: {USAGE}")),
            }
        }
        Ok(wanted)
    }

    /// Rows that are named are run, however long they take.
    fn has(&self, row: &Row) -> bool {
        match &self.rows {
            Some(names) => names.iter().any(|name| name == row.name),
            None => row.quick || !self.quick,
        }
    }

    fn pace(&self) -> Pace {
        if self.quick {
            Pace { rounds: 3, load: Duration::from_secs(1), latency: Duration::from_millis(250) }
        } else {
            Pace { rounds: 3, load: Duration::from_secs(2), latency: Duration::from_secs(1) }
        }
    }
}

fn known_row(name: String) -> Result<String, String> {
    if ROWS.iter().any(|row| row.name == name) {
        return Ok(name);
    }
    Err(format!("there is no row {name}; there are {}", ROWS.map(|row| row.name).join(", ")))
}

fn known_peer(name: &str) -> Result<Peer, String> {
    let peer = Peer::ALL.into_iter().find(|peer| peer.name() == name);
    peer.ok_or_else(|| format!("there is no peer {name}; there are {}", Peer::ALL.map(Peer::name).join(", ")))
}

/// The target directory: this program is in a folder of it.
fn target() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    own.ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{} is in no target directory", own.display()))
}

fn build(root: &Path, target: &Path) -> Result<PathBuf, String> {
    println!("building Tidegate");
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(program)
        .args(["build", "-q", "--release", "-p", "tidegate", "--target-dir"])
        .arg(target)
        .current_dir(root)
        .status()
        .map_err(|error| error.to_string())?;
    if status.success() {
        Ok(target.join("release/tidegate"))
    } else {
        Err("Tidegate does not build".to_owned())
    }
}

/// Binds this process to the core of the load; what it starts is there too, if not told otherwise.
fn to_core_1() -> Result<(), String> {
    let own = std::process::id().to_string();
    let output = Command::new("taskset")
        .args(["-cp", "1", &own])
        .output()
        .map_err(|error| format!("taskset: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("taskset: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Those that are there, and why the others are not.
fn find(wanted: &Wanted, place: &Place, built: &Path) -> (Vec<Program>, BTreeMap<Peer, String>) {
    let (mut programs, mut missing) = (Vec::new(), BTreeMap::new());
    for peer in &wanted.peers {
        match Program::find(*peer, place, built) {
            Ok(program) => programs.push(program),
            Err(why) => {
                println!("{} is left out: {why}", peer.title());
                missing.insert(*peer, why);
            }
        }
    }
    (programs, missing)
}

fn run(
    wanted: &Wanted,
    machine: &Machine,
    programs: &[Program],
    place: &Place,
    pace: Pace,
) -> Result<Vec<Measured>, String> {
    let mut measured = Vec::new();
    for mut row in ROWS.into_iter().filter(|row| wanted.has(row)) {
        let began = now();
        row.setup.connections = row.setup.connections.min(machine.files_max.saturating_sub(FILES_KEPT));
        println!("{}: {}", row.name, row.title);
        let cells = measure::row(&row, programs, place, pace)?;
        for (peer, cell) in &cells.cells {
            println!("  {:<9} {}", peer.title(), line(cell));
        }
        println!("  {:.0} s", began.elapsed().as_secs_f64());
        measured.push(cells);
    }
    Ok(measured)
}

/// A cell, while the run goes on.
fn line(cell: &measure::Cell) -> String {
    let figures = match cell {
        Ok(figures) => figures,
        Err(why) => return why.clone(),
    };
    let parts = [
        figures.cpu_us.map(|us| format!("{us:.2} us")),
        figures.per_second.map(|number| format!("{number:.0}/s")),
        figures.p50.map(|latency| format!("p50 {} us", latency.as_micros())),
        figures.p99.map(|latency| format!("p99 {} us", latency.as_micros())),
        figures.memory.map(|memory| {
            format!("{} KiB, {} KiB, {:.0} B each", memory.before >> 10, memory.after >> 10, memory.each())
        }),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

#[expect(clippy::disallowed_methods, reason = "a developer command has no clock of the product's")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &str, expected: Result<(&[&str], &[Peer]), &str>) {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        match (Wanted::read(&arguments), expected) {
            (Ok(wanted), Ok((rows, peers))) => {
                let has: Vec<&str> = ROWS.iter().filter(|row| wanted.has(row)).map(|row| row.name).collect();
                assert_eq!((&has[..], &wanted.peers[..]), (rows, peers));
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn reads_which_rows_and_peers_are_wanted() {
        check("--row plain,idle --peer nginx", Ok((&["plain", "idle"], &[Peer::Nginx])));
        check("--row tenants-1000000 --quick", Ok((&["tenants-1000000"], &Peer::ALL)));
        check("--row plane", Err("there is no row plane; there are plain, post"));
        check("--peer squid", Err("there is no peer squid; there are tidegate, nginx"));
        check("--peer", Err(USAGE));
        check("--fast", Err(USAGE));
    }

    #[test]
    fn leaves_out_long_rows_when_it_must_be_quick() {
        let quick = Wanted::read(&["--quick".to_owned()]).unwrap();
        assert!(
            !ROWS.iter().filter(|row| quick.has(row)).any(|row| row.kind == rows::Kind::Growth(1_000_000))
        );
    }
}
