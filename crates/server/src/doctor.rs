//! `tidegate doctor`: looks at the machine, at what the configuration asks of it, and at what both depend on, and says what will
//! break, at which load, and what mends it.
//!
//! ```text
//! read (/proc, the configuration) and probe (names, endpoints, disk, servers) -> Facts -> checks -> Findings -> told
//! ```
//!
//! It changes nothing: one file of its own is written, synced and removed where the store is going to be. Every try is bounded.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tidegate_wire::clock;
use tokio::runtime::{Builder, LocalOptions};

use crate::cli::{BAD_CONFIG, ConfigArgs};
use crate::config::Config;
use crate::status::cell;

mod checks;
pub mod facts;
mod finding;
mod read;

pub use checks::examine;
pub use finding::{CHECKS, Finding, Severity};

use facts::Facts;

/// How long upstreams are tried, all together; one that has begun is tried to its end.
const TRIES_TIME: Duration = Duration::from_secs(60);

/// What to look at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Which configuration.
    #[command(flatten)]
    config: ConfigArgs,
    /// Limits and control groups of this process, a Tidegate that runs, instead of one's own
    #[arg(long)]
    pid: Option<u32>,
    /// Try nothing: no name is resolved, nothing connected to, no disk measured
    #[arg(long)]
    offline: bool,
    /// Everything as JSON
    #[arg(long)]
    json: bool,
}

/// Looks, and tells. 0: nothing breaks, 1: something does, 2: the configuration cannot be used.
///
/// # Errors
/// Nobody reads what is told.
pub fn doctor(args: &DoctorArgs) -> io::Result<ExitCode> {
    if let Some(pid) = args.pid.filter(|pid| !std::path::Path::new(&format!("/proc/{pid}/limits")).exists()) {
        eprintln!("tidegate: there is no process {pid}");
        return Ok(ExitCode::FAILURE);
    }
    let facts = look(args);
    let findings = examine(&facts);
    let mut out = io::stdout().lock();
    if args.json {
        let all: Vec<_> = findings.iter().map(Finding::json).collect();
        writeln!(out, "{:#}", json!({"findings": all, "counts": counts(&findings)}))?;
    } else {
        out.write_all(told(&findings).as_bytes())?;
    }
    let breaks = findings.iter().any(|finding| finding.severity == Severity::Breaks);
    Ok(match (&facts.config_error, breaks) {
        (Some(_), _) => ExitCode::from(BAD_CONFIG),
        (None, true) => ExitCode::FAILURE,
        (None, false) => ExitCode::SUCCESS,
    })
}

fn look(args: &DoctorArgs) -> Facts {
    let now = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut facts = Facts {
        host: read::host(args.pid),
        now: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        ..Facts::default()
    };
    // Without any file at its usual place, the machine is looked at alone.
    let none = args.config.config.as_os_str() == "tidegate.toml" && !args.config.config.exists();
    if none {
        return facts;
    }
    match args.config.load() {
        Ok(config) => probe(&config, !args.offline, &mut facts),
        Err(problems) => facts.config_error = Some(problems.to_string()),
    }
    facts
}

fn probe(config: &Config, tries: bool, facts: &mut Facts) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("the system has an event queue");
    runtime.block_on(async {
        let until = clock::now().after(TRIES_TIME);
        for settings in &config.upstreams {
            let in_time = clock::now() < until;
            facts.untried += usize::from(tries && !in_time);
            facts.upstreams.push(read::probe::upstream(settings, tries && in_time).await);
        }
        if let Some(settings) = config.redis.as_ref().filter(|_| tries) {
            facts.redis = Some(read::probe::redis(settings).await);
        }
    });
    let endpoints: Vec<_> =
        facts.upstreams.iter().map(|one| (one.name.clone(), one.endpoints.len())).collect();
    facts.wanted = Some(read::wanted(config, &endpoints));
    facts.certificates = read::probe::certificates(config);
    facts.disks = read::probe::disks(config, tries);
    facts.postgres = tries.then(|| read::probe::postgres(config)).flatten();
}

fn counts(findings: &[Finding]) -> serde_json::Value {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    json!({
        "breaks": count(Severity::Breaks),
        "hurts": count(Severity::Hurts),
        "note": count(Severity::Note),
        "fine": count(Severity::Fine),
    })
}

/// For a terminal: what is not fine whole, the worst first, then a line for each of the rest.
fn told(findings: &[Finding]) -> String {
    let mut text = String::new();
    for severity in [Severity::Breaks, Severity::Hurts, Severity::Note] {
        for finding in findings.iter().filter(|finding| finding.severity == severity) {
            text += &block(finding);
        }
    }
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Fine) {
        text += &format!("fine    {:20} {}\n", finding.check.code, cell(&json!(finding.seen)));
    }
    let counts = counts(findings);
    let [breaks, hurts, notes, fine] = ["breaks", "hurts", "note", "fine"].map(|name| &counts[name]);
    text + &format!("\n{breaks} break, {hurts} hurt, {notes} to note, {fine} fine\n")
}

fn block(finding: &Finding) -> String {
    let mut text =
        format!("{:7} {:20} {}\n", finding.severity.name(), finding.check.code, finding.check.title);
    let mut part = |name: &str, told: &str| {
        for (number, line) in told.lines().enumerate() {
            let line = cell(&json!(line));
            text += &format!("        {:7}{line}\n", if number == 0 { name } else { "" });
        }
    };
    part("seen", &finding.seen);
    part("effect", &finding.effect);
    part("how", &finding.how);
    part("mend", &finding.mend.join("\n"));
    text + "\n"
}
