//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::run::{Source, run};

/// The file that is read when none is named.
const FILE: &str = "tidegate.toml";

/// What was asked for.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about = "The front door of a multi-tenant SaaS",
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until told to stop: one line per listener when ready, SIGHUP or a changed file reloads, SIGTERM drains
    Run {
        /// The configuration
        #[arg(short, long, default_value = FILE)]
        config: PathBuf,
        /// No file at all: one upstream at HOST:PORT behind 0.0.0.0:8080
        #[arg(long, conflicts_with = "config", value_name = "HOST:PORT")]
        to: Option<String>,
    },
    /// Tell every problem of a configuration; exit code 2 if there is one
    Check {
        /// The configuration
        #[arg(short, long, default_value = FILE)]
        config: PathBuf,
        /// Print it, secrets hidden
        #[arg(long)]
        print: bool,
    },
    /// Tell what a refusal code means, who has to act and how to mend it; without a code, list all
    Explain {
        /// The code, such as `limit.rate`
        code: Option<String>,
    },
    /// Make an API key
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Start two sample servers with a gate before them and a little traffic, and tell what happens
    Demo {
        /// Stop by itself after so many seconds
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Tell the state of a running Tidegate: upstreams, endpoints, tenants; or change an endpoint's state
    Status(crate::status::StatusArgs),
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Print a new key, once, and the line for the configuration
    New {
        /// The key's name in the configuration
        #[arg(long, default_value = "k1")]
        id: String,
    },
}

/// Runs the command, and says how it went: 0, 1 for a failure, 2 for a bad configuration or command line.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { to: Some(address), .. } => run(Source::To(address)),
        Command::Run { config, to: None } => run(Source::File(config)),
        Command::Check { config, print } => check(&config, print),
        Command::Explain { code } => explain(code.as_deref()),
        Command::Key { command: KeyCommand::New { id } } => new_key(&id),
        Command::Demo { seconds } => crate::demo::demo(seconds),
        Command::Status(args) => crate::status::status(&args),
    }
}

fn check(path: &std::path::Path, print: bool) -> ExitCode {
    match Config::load(path) {
        Ok(config) if print => {
            print!("{}", config.effective);
            ExitCode::SUCCESS
        }
        Ok(config) => {
            let (routes, upstreams) = (config.proxy.routes.len(), config.upstreams.len());
            let tenants = config.proxy.tenants.listed.len();
            println!("{}: ok: {routes} routes, {upstreams} upstreams, {tenants} tenants", path.display());
            ExitCode::SUCCESS
        }
        Err(problems) => {
            eprintln!("{problems}");
            ExitCode::from(2)
        }
    }
}

fn explain(code: Option<&str>) -> ExitCode {
    use tidegate_model::refusal;
    match code.map(|code| (code, refusal::find(code))) {
        Some((_, Some(kind))) => {
            println!("{}", kind.page.trim_end());
            ExitCode::SUCCESS
        }
        Some((code, None)) => {
            let known: Vec<&str> = refusal::KINDS.iter().map(|kind| kind.code).collect();
            eprintln!("there is no refusal `{code}`{}", crate::config::nearest(code, &known));
            ExitCode::FAILURE
        }
        None => {
            for kind in refusal::KINDS {
                println!("{:28} {} {}", kind.code, kind.status, kind.title);
            }
            ExitCode::SUCCESS
        }
    }
}

fn new_key(id: &str) -> ExitCode {
    let mut entropy = [0; 32];
    if let Err(error) = getrandom::fill(&mut entropy) {
        eprintln!("the system gives no chance: {error}");
        return ExitCode::FAILURE;
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let key = format!("tg_{id}_{}", hex(&entropy));
    let digest = tidegate_model::credential::Digest::of(key.as_bytes());
    println!("key, shown this once:\n  {key}\n\nfor the tenant's table in the configuration:");
    println!("  keys = [{{ id = \"{id}\", sha256 = \"{}\" }}]", hex(&digest.0));
    ExitCode::SUCCESS
}
