//! `cargo xtask bench cache`: Tidegate's cache beside nginx's `proxy_cache` and Varnish, with the same objects.
//!
//! What is measured is in `rows`, how in `measure`, what each was told in the files beside these. The origin is in this
//! process and counts what it is asked: what is called a hit was one. It needs Linux with two cores, and Debian's packages
//! or the right to install them. It does not tune the machine, and is over in some minutes.

use std::path::Path;

use self::measure::Measured;
use self::origin::Origin;
use self::peers::{Peer, Program};
use self::report::Report;
use self::rows::ROWS;
use super::place::Machine;
use super::{build, now, peers::package, sections, target, to_core_1};

mod crowd;
mod measure;
mod origin;
mod peers;
mod report;
mod rows;
mod zipf;

pub const USAGE: &str = "cargo xtask bench cache [--row NAME,...] [--peer NAME,...] [--write]";

/// What the command line asks for.
#[derive(Debug)]
struct Wanted {
    /// None: all rows.
    rows: Option<Vec<String>>,
    peers: Option<Vec<String>>,
    write: bool,
}

/// Runs the rows, prints their tables, and writes them to `docs/benchmarks.md` if that is asked for.
///
/// # Errors
/// What stops it, or what failed in it.
pub fn cache(arguments: &[String], root: &Path) -> Result<(), String> {
    let wanted = Wanted::read(arguments)?;
    let target = target()?;
    // It takes minutes: who asks for the others alone does not wait for it.
    let built =
        if has(&wanted.peers, Peer::Tidegate.name()) { build(root, &target)? } else { target.clone() };
    let machine = Machine::describe();
    if machine.cores < 2 {
        return Err("one core for the cache and one for the load are needed".to_owned());
    }
    to_core_1()?;
    package("wrk", "wrk")?;
    let folder = target.join("bench/cache");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut programs = Vec::new();
    for peer in Peer::ALL.into_iter().filter(|peer| has(&wanted.peers, peer.name())) {
        match Program::find(peer, &built) {
            Ok(program) => programs.push(program),
            Err(why) => println!("{} is left out: {why}", peer.title()),
        }
    }
    let measured = run(&wanted, &programs, &folder)?;
    let command = format!("cargo xtask bench cache {}", arguments.join(" ")).trim_end().to_owned();
    let text = Report { machine, command, programs: &programs, measured: &measured }.markdown();
    println!("\n{text}");
    if wanted.write {
        sections::write_section(root, "cache", &text)?;
    }
    let failed: Vec<String> = measured.iter().flat_map(failures).collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured:\n{}", failed.join("\n"))) }
}

fn run(wanted: &Wanted, programs: &[Program], folder: &Path) -> Result<Vec<Measured>, String> {
    let origin = Origin::start()?;
    let mut measured = Vec::new();
    for row in ROWS.iter().filter(|row| has(&wanted.rows, row.name)) {
        let began = now();
        println!("{}: {}", row.name, row.title);
        let cells = measure::row(row, programs, folder, &origin)?;
        for (peer, cell) in &cells.cells {
            match cell {
                Ok(figures) => println!("  {:<9} {figures:?}", peer.title()),
                Err(why) => println!("  {:<9} {why}", peer.title()),
            }
        }
        println!("  {:.0} s", began.elapsed().as_secs_f64());
        measured.push(cells);
    }
    Ok(measured)
}

fn failures(measured: &Measured) -> impl Iterator<Item = String> {
    let name = measured.row.name;
    let failed = measured.cells.iter().filter_map(|(peer, cell)| Some((peer, cell.as_ref().err()?)));
    failed.map(move |(peer, why)| format!("{name}: {}: {why}", peer.title()))
}

fn has(wanted: &Option<Vec<String>>, name: &str) -> bool {
    wanted.as_ref().is_none_or(|names| names.iter().any(|one| one == name))
}

impl Wanted {
    fn read(arguments: &[String]) -> Result<Wanted, String> {
        let mut wanted = Wanted { rows: None, peers: None, write: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut names = |known: &[&str]| {
                let names = arguments.next().ok_or_else(|| format!("usage: {USAGE}"))?;
                let names: Vec<String> = names.split(',').map(str::to_owned).collect();
                match names.iter().find(|name| !known.contains(&name.as_str())) {
                    None => Ok(Some(names)),
                    Some(none) => Err(format!("there is no {none}; there are {}", known.join(", "))),
                }
            };
            match argument.as_str() {
                "--row" => wanted.rows = names(&ROWS.map(|row| row.name))?,
                "--peer" => wanted.peers = names(&Peer::ALL.map(Peer::name))?,
                "--write" => wanted.write = true,
                _ => return Err(format!("usage: {USAGE}")),
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &str, expected: Result<(usize, bool), &str>) {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        match (Wanted::read(&arguments), expected) {
            (Ok(wanted), Ok((rows, nginx))) => {
                assert_eq!(ROWS.iter().filter(|row| has(&wanted.rows, row.name)).count(), rows);
                assert_eq!(has(&wanted.peers, "nginx"), nginx);
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn reads_which_rows_and_peers_are_wanted() {
        check("--write", Ok((ROWS.len(), true)));
        check("--row mix,memory --peer varnish", Ok((2, false)));
        check("--row mixed", Err("there is no mixed; there are hit-1k"));
        check("--peer squid", Err("there is no squid; there are tidegate, nginx, varnish"));
        check("--peer", Err(USAGE));
        check("--fast", Err(USAGE));
    }
}
