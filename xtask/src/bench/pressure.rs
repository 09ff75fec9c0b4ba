//! `cargo xtask bench pressure`: the drills' own traffic through Tidegate, nginx, HAProxy and Envoy.
//!
//! Each proxy stands where the protected Tidegate stands in a drill, before the same applications, with the best equivalent
//! settings that it has, which lie beside this file with a line that says what they do. Who passes is for the drill's own
//! rule to say. The machine is not tuned; a run that this machine was too busy for is told as such.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::peers::{Peer, Program};
use super::place::{Machine, Place};
use super::{build, sections, target};

pub const USAGE: &str = "cargo xtask bench pressure [--drill NAME,...] [--seed N] [--write]";

macro_rules! drill {
    ($name:literal) => {
        (
            $name,
            [
                (Peer::Nginx, include_str!(concat!("pressure/", $name, ".nginx"))),
                (Peer::Haproxy, include_str!(concat!("pressure/", $name, ".haproxy"))),
                (Peer::Envoy, include_str!(concat!("pressure/", $name, ".envoy"))),
            ],
        )
    };
}
/// The drills, with the settings of those beside Tidegate. Its own are the drill's.
const DRILLS: [(&str, [(Peer, &str); 3]); 6] = [
    drill!("noisy-neighbour"),
    drill!("retry-storm"),
    drill!("slow-endpoint"),
    drill!("brown-out"),
    drill!("peak"),
    drill!("dead-upstream"),
];

struct Wanted {
    drills: Option<Vec<String>>,
    seed: String,
    write: bool,
}

/// What a drill said of a proxy.
#[derive(Debug, PartialEq)]
struct Said {
    verdict: String,
    during: f64,
    after: f64,
    p99_ms: f64,
    good: f64,
    wasted: f64,
}

/// Runs the drills through each proxy, prints the table, and writes it to `docs/benchmarks.md` if that is asked for.
///
/// # Errors
/// What stops it.
pub fn pressure(arguments: &[String], root: &Path) -> Result<(), String> {
    let wanted = Wanted::read(arguments)?;
    let target = target()?;
    let built = build(root, &target)?;
    let place = Place::prepare(&target)?;
    let mut programs = Vec::new();
    for peer in Peer::ALL {
        match Program::find(peer, &place, &built) {
            Ok(program) => programs.push(program),
            Err(why) => println!("{} is left out: {why}", peer.title()),
        }
    }
    let mut tables = String::new();
    for (name, settings) in DRILLS {
        if wanted.drills.as_ref().is_some_and(|names| !names.iter().any(|one| one == name)) {
            continue;
        }
        println!("{name}");
        let mut rows = Vec::new();
        for program in &programs {
            let config = settings.iter().find(|(peer, _)| *peer == program.peer).map(|(_, config)| *config);
            let said = run(name, &wanted.seed, program, config, &built, &target);
            match &said {
                Ok(said) => println!("  {:<9} {said:?}", program.peer.title()),
                Err(why) => println!("  {:<9} {why}", program.peer.title()),
            }
            rows.push((program, config, said));
        }
        table(&mut tables, name, &rows);
    }
    let command = format!("cargo xtask bench pressure {}", arguments.join(" "));
    let text = document(&tables, command.trim_end(), &programs);
    println!("\n{text}");
    if wanted.write { sections::write_section(root, "pressure", &text) } else { Ok(()) }
}

impl Wanted {
    fn read(arguments: &[String]) -> Result<Wanted, String> {
        let usage = || format!("usage: {USAGE}");
        let mut wanted = Wanted { drills: None, seed: "1".to_owned(), write: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().cloned().ok_or_else(usage);
            match argument.as_str() {
                "--drill" => {
                    let names: Vec<String> = value()?.split(',').map(str::to_owned).collect();
                    if let Some(none) =
                        names.iter().find(|name| DRILLS.iter().all(|(known, _)| known != name))
                    {
                        return Err(format!(
                            "there is no drill {none}; there are {}",
                            DRILLS.map(|(name, _)| name).join(", ")
                        ));
                    }
                    wanted.drills = Some(names);
                }
                "--seed" => wanted.seed = value()?,
                "--write" => wanted.write = true,
                _ => return Err(usage()),
            }
        }
        Ok(wanted)
    }
}

/// Runs a drill with this proxy in Tidegate's place.
fn run(
    drill: &str,
    seed: &str,
    program: &Program,
    config: Option<&str>,
    built: &Path,
    target: &Path,
) -> Result<Said, String> {
    let mut command = Command::new(built);
    command.args(["drill", drill, "--terse", "--seed", seed]);
    if let Some(config) = config {
        let file = target.join(format!("bench/{drill}.{}", program.peer.name()));
        std::fs::write(&file, config).map_err(|error| format!("{}: {error}", file.display()))?;
        command.arg("--program").arg(&program.path).arg("--beside").arg(&file);
        for argument in program.arguments_of("{config}", 1) {
            command.arg(format!("--program-argument={argument}"));
        }
    }
    let output = command.output().map_err(|error| format!("{}: {error}", built.display()))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = told.lines().find_map(|line| line.strip_prefix("outcome\t"));
    line.and_then(Said::read).ok_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

impl Said {
    fn read(line: &str) -> Option<Said> {
        let mut parts = line.split('\t');
        let verdict = parts.next()?.to_owned();
        let mut number = || parts.next()?.parse().ok();
        let (during, after, p99_ms) = (number()?, number()?, number()?);
        Some(Said { verdict, during, after, p99_ms, good: number()?, wasted: number()? })
    }
}

type Row<'a> = (&'a Program, Option<&'a str>, Result<Said, String>);

fn table(text: &mut String, drill: &str, rows: &[Row<'_>]) {
    let _ = write!(
        text,
        "### {drill}\n\n| | the drill's rule | answered well meanwhile | afterwards | p99 meanwhile | good answers/s meanwhile | work for nobody |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    for (program, _, said) in rows {
        let title = program.peer.title();
        let _ = match said {
            Ok(said) => writeln!(
                text,
                "| {title} | {} | {:.1} % | {:.1} % | {} | {:.0} | {:.1} % |",
                said.verdict,
                said.during * 100.0,
                said.after * 100.0,
                millis(said.p99_ms),
                said.good,
                said.wasted * 100.0
            ),
            Err(why) => writeln!(text, "| {title} | not run: {} | | | | | |", why.replace(['|', '\n'], " ")),
        };
    }
    text.push('\n');
    for (program, config, _) in rows {
        if let Some(said) = config.and_then(|config| config.lines().next()) {
            let _ = writeln!(text, "- {}: {}", program.peer.title(), said.trim_start_matches("# "));
        }
    }
    text.push('\n');
}

fn millis(time: f64) -> String {
    if time.is_finite() { format!("{time:.0} ms") } else { "not answered".to_owned() }
}

fn document(tables: &str, command: &str, programs: &[Program]) -> String {
    let versions: Vec<String> =
        programs.iter().map(|program| format!("{} {}", program.peer.title(), program.version)).collect();
    let machine = Machine::describe();
    format!(
        "## Under pressure\n\n`{command}`: {}, on the machine above ({} cores, shared by the proxy, the applications and the load).\n\n\
         Each proxy stands where the protected Tidegate stands in a [drill](drills.md), before the same applications, with the same \
         requests at the same times, and is judged by the drill's own rule, which was written for Tidegate. What it was told is said \
         below each table and lies in `xtask/src/bench/pressure/`: the best equivalent that it has without a module, a script or a paid \
         edition. \"Answered well\" and p99 are those of the clients that matter in the drill; who has no answer counts as slower \
         than all.\n\n{tables}",
        versions.join(", "),
        machine.cores
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_drill_says() {
        let said = Said::read("passed\t0.9990\t1.0000\tinf\t390.2\t0.0100\tmany words").unwrap();
        assert_eq!((said.verdict.as_str(), said.during, said.p99_ms), ("passed", 0.999, f64::INFINITY));
        assert_eq!(Said::read("passed\t0.9"), None);
        assert_eq!(millis(f64::INFINITY), "not answered");
    }

    #[test]
    fn every_setting_says_what_it_is_and_where_it_listens() {
        for (_, settings) in DRILLS {
            for (_, config) in settings {
                assert!(config.starts_with("# ") && config.contains("{port}") && config.contains("{app0"));
            }
        }
    }

    #[test]
    fn refuses_a_drill_that_is_none() {
        let arguments = ["--drill".to_owned(), "peek".to_owned()];
        assert!(Wanted::read(&arguments).err().is_some_and(|why| why.contains("there is no drill peek")));
    }
}
