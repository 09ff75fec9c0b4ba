//! `tidegate drill`: rehearsals from the command line.
//!
//! Exit codes: 0 as it should be, 1 not so, 2 asked wrongly, 3 this machine was too busy to judge, 4 it lacks what a drill needs.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tidegate_drill::capacity::{self, Options, Refused};
use tidegate_drill::drill::{Drill, Verdict};
use tidegate_drill::gate::Beside;
use tidegate_drill::postgres::PostgresError;
use tidegate_drill::report::html;
use tidegate_drill::run::{RunError, Setting};
use tidegate_drill::scenario;
use tidegate_wire::files::raise_limit;

use crate::cli::BAD_CONFIG;
use crate::config::{nearest, parse_duration};

/// This machine was too busy to judge.
const TOO_BUSY: u8 = 3;

/// Something that a drill needs is not installed on this machine.
const MISSING: u8 = 4;

/// What to rehearse.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct DrillArgs {
    /// What to do.
    #[command(subcommand)]
    what: Option<What>,
    /// The drill, as `list` names it, or `all`
    name: Option<String>,
    /// What chance begins with: the same seed, the same requests at the same times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write a report, one HTML page, to this file; of `all`, one each, the drill's name put before its ending
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Tell the outcome on one line, with tabs between, after `outcome`
    #[arg(long, hide = true)]
    terse: bool,
    /// Put this program in the place of the protected Tidegate, to compare
    #[arg(long, hide = true, value_name = "PROGRAM", requires = "beside")]
    program: Option<PathBuf>,
    /// An argument of that program; `{config}` is the path of its configuration
    #[arg(long = "program-argument", hide = true, allow_hyphen_values = true)]
    program_arguments: Vec<String>,
    /// The configuration of that program, with places for addresses
    #[arg(long, hide = true, value_name = "FILE")]
    beside: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the drills
    List,
    /// Measure how much a service of yours can take, where to run it, and what gives out first
    Capacity(CapacityArgs),
}

#[derive(Debug, Args)]
struct CapacityArgs {
    /// The service, with the path to ask for: http:// or https://
    #[arg(long, value_name = "URL")]
    url: String,
    /// A header field to send; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Requests per second at most
    #[arg(long, default_value_t = 5000.0, value_name = "N")]
    rate_max: f64,
    /// How long each load is held
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    step: Duration,
    /// How long all of it may take
    #[arg(long, default_value = "90s", value_parser = parse_duration)]
    time: Duration,
    /// How long an answer may take
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    timeout: Duration,
    /// The service is not on this machine, and it is mine
    #[arg(long)]
    i_own_this_host: bool,
    /// PEM file of the authorities to trust, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The control API of a Tidegate before the service, to see its gate
    #[arg(long, value_name = "ADDRESS:PORT")]
    control: Option<SocketAddr>,
    /// What chance begins with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write a report, one HTML page, to this file
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

impl DrillArgs {
    /// The proxy to be put in Tidegate's place, if there is one.
    fn beside(&self) -> io::Result<Option<Beside>> {
        let Some(program) = &self.program else { return Ok(None) };
        let template = self.beside.as_ref().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
        Ok(Some(Beside { program: program.clone(), arguments: self.program_arguments.clone(), template }))
    }
}

/// Does what is asked for.
///
/// # Errors
/// Standard output or the report cannot be written.
pub fn drill(args: &DrillArgs) -> io::Result<ExitCode> {
    // Connections of clients and of applications are all this process's: more than a shell's usual thousand.
    let _ = raise_limit();
    match (&args.what, args.name.as_deref()) {
        (Some(What::Capacity(args)), _) => measure(args),
        (Some(What::List), _) | (None, None) => list(),
        (None, Some("all")) => rehearse(&scenario::ALL, args),
        (None, Some(name)) => match scenario::find(name) {
            Some(drill) => rehearse(&[drill], args),
            None => {
                eprintln!("tidegate: there is no drill `{name}`");
                match nearest(name, scenario::ALL.iter().map(|drill| drill.name)) {
                    Some(near) => eprintln!("did you mean `{near}`?"),
                    None => eprintln!("`tidegate drill list` lists all"),
                }
                Ok(ExitCode::from(BAD_CONFIG))
            }
        },
    }
}

fn list() -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    for drill in &scenario::ALL {
        writeln!(out, "{:22} {}", drill.name, drill.summary)?;
    }
    writeln!(out, "{:22} How much a service of yours can take, and what gives out first.", "capacity")?;
    Ok(ExitCode::SUCCESS)
}

/// Runs drills one after another. The exit code is that of the worst: failed before too busy before not run for want of something
/// before passed.
fn rehearse(drills: &[Drill], args: &DrillArgs) -> io::Result<ExitCode> {
    let binary = std::env::current_exe()?;
    let beside = args.beside()?;
    let setting = Setting { binary: &binary, seed: args.seed, scale: 1.0, beside: beside.as_ref() };
    let mut out = io::stdout();
    let mut tell = |line: &str| drop(writeln!(out, "{line}").and_then(|()| out.flush()));
    let (mut verdicts, mut is_missing) = (Vec::new(), false);
    for drill in drills {
        tell(&format!("{}: {}\nrule: {}", drill.name, drill.summary, drill.rule));
        let outcome = match drill.run(&setting, &mut tell) {
            Ok(outcome) => outcome,
            Err(error @ RunError::Postgres(PostgresError::Missing)) => {
                // The others need nothing of it.
                eprintln!("tidegate: {}: {error}", drill.name);
                is_missing = true;
                continue;
            }
            Err(error) => {
                eprintln!("tidegate: {error}");
                return Ok(ExitCode::FAILURE);
            }
        };
        if args.terse {
            tell(&format!("outcome\t{}", outcome.terse()));
        } else {
            outcome.lines().iter().for_each(|line| tell(line));
        }
        if let Some(path) = &args.report {
            let path = if drills.len() > 1 { named(path, drill.name) } else { path.clone() };
            write(&path, &html::page(&outcome.page()))?;
            tell(&format!("report: {}", path.display()));
        }
        tell("");
        verdicts.push(outcome.verdict);
    }
    let worst = [Verdict::Failed, Verdict::TooBusy].into_iter().find(|worst| verdicts.contains(worst));
    let code = match worst {
        None if is_missing => MISSING,
        worst => worst.unwrap_or(Verdict::Passed).code(),
    };
    Ok(ExitCode::from(code))
}

/// `report.html` for a drill: `report-NAME.html`.
fn named(path: &Path, name: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{name}.html"))
}

fn measure(args: &CapacityArgs) -> io::Result<ExitCode> {
    let options = Options {
        url: args.url.clone(),
        headers: args.headers.clone(),
        rate_max: args.rate_max,
        step: args.step,
        time: args.time,
        timeout: args.timeout,
        own_host: args.i_own_this_host,
        ca: args.ca.clone(),
        control: args.control,
        seed: args.seed,
    };
    let mut out = io::stdout();
    // Whoever reads may have gone: what is measured is no less worth its report.
    let mut tell = |line: &str| drop(writeln!(out, "{line}").and_then(|()| out.flush()));
    let measured = match capacity::measure(&options, &mut tell) {
        Ok(measured) => measured,
        Err(refused) => {
            eprintln!("tidegate: {refused}");
            return Ok(match refused {
                Refused::Busy => ExitCode::from(TOO_BUSY),
                Refused::Dead(..) | Refused::Runtime(_) => ExitCode::FAILURE,
                _ => ExitCode::from(BAD_CONFIG),
            });
        }
    };
    tell("");
    for sentence in measured.sentences() {
        tell(&sentence);
    }
    if let Some(path) = &args.report {
        write(path, &html::page(&measured.page()))?;
        tell(&format!("report: {}", path.display()));
    }
    Ok(if measured.is_judged() { ExitCode::SUCCESS } else { ExitCode::from(TOO_BUSY) })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    std::fs::write(path, text)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
