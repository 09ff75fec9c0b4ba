//! The command line: what may be asked for, and who answers it.
//!
//! Exit codes: 0 done, 1 failed, 2 a bad configuration or command line.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tidegate_model::access::password::Password;
use tidegate_model::credential::Digest;
use tidegate_model::refusal;
use tidegate_store::Location;

use crate::canary::{CanaryArgs, canary};
use crate::config::{self, Config, Problems};
use crate::deliveries::{DeliveryArgs, QueueArgs, ScheduleArgs, delivery, queue, schedule};
use crate::doctor::{DoctorArgs, doctor};
use crate::drill::{DrillArgs, drill};
use crate::maintenance::{MaintenanceArgs, maintenance};
use crate::manual;
use crate::mirror::{MirrorArgs, mirror};
use crate::purge::{CacheArgs, PurgeArgs, cache, purge};
use crate::run::{Source, run};
use crate::status::{AuditArgs, StatusArgs, audit, status};
use crate::store::{StoreCommand, store};
use crate::top::{TopArgs, top};
use crate::upgrade::{self, UpgradeArgs};
use crate::webhook::{WebhookArgs, webhook};

/// Exit code of a bad configuration.
pub const BAD_CONFIG: u8 = 2;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about = "The front door of a multi-tenant SaaS",
    propagate_version = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until told to stop: one line per listener when ready, SIGHUP or a changed file reloads, SIGTERM drains
    Run {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArgs,
        /// No file at all: one upstream at HOST:PORT behind 0.0.0.0:8080
        #[arg(long, conflicts_with = "config", value_name = "HOST:PORT")]
        to: Option<String>,
    },
    /// Let the binary that now stands where a running Tidegate's did take over, without a lost request
    Upgrade(UpgradeArgs),
    /// Check a configuration: everything that is wrong with it, or a summary
    Check {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArgs,
        /// Print the whole configuration with its defaults, secrets hidden
        #[arg(long)]
        print: bool,
    },
    /// Look at this machine and at what a configuration asks of it: what will break, at which load, and what mends it
    Doctor(DoctorArgs),
    /// Tell what a refusal means, who has to act and how to mend it; without a code, list all
    Explain {
        /// The code, such as limit.rate
        code: Option<String>,
    },
    /// Start two sample servers with a gate before them and a little traffic, and tell what happens
    Demo {
        /// Stop by itself after so many seconds
        #[arg(long)]
        seconds: Option<u64>,
    },
    /// Rehearse: drive load and faults, and tell what held
    Drill(Box<DrillArgs>),
    /// Tell the state of a running Tidegate: upstreams, endpoints, tenants; or change an endpoint's state
    Status(StatusArgs),
    /// Watch a running Tidegate live: tenants, routes, endpoints, queues, refusals; drain and pause by keys
    Top(TopArgs),
    /// Take away what a running Tidegate has cached
    Purge(PurgeArgs),
    /// Look at what a running Tidegate has cached
    Cache(CacheArgs),
    /// Tell how the next versions of routes stand; start one, pause it, promote it, roll it back
    Canary(CanaryArgs),
    /// Tell what mirrors answer beside upstreams, and whether a route may be moved
    Mirror(MirrorArgs),
    /// Maintenance: tell requests of a route, a tenant or all to come again later, and end that
    Maintenance(MaintenanceArgs),
    /// Look at the queues of a running Tidegate, pause and resume them
    Queue(QueueArgs),
    /// Look at deliveries, hand them in, cancel them, make them again
    Delivery(DeliveryArgs),
    /// Look at schedules, or make a run now
    Schedule(ScheduleArgs),
    /// Webhooks: destinations, event types, events
    Webhook(Box<WebhookArgs>),
    /// Copy the store, put a copy back, look whether one is sound
    #[command(subcommand)]
    Store(StoreCommand),
    /// Tell what was changed in a running Tidegate, and by whom
    Audit(AuditArgs),
    /// Make keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print what lets a shell complete these commands
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the generated documentation into this directory
    #[command(hide = true)]
    Gen {
        /// The directory, usually `docs`.
        directory: PathBuf,
        /// Write man pages and completions instead.
        #[arg(long)]
        manual: bool,
    },
}

/// Keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make an API key: it is shown once, the configuration holds only its digest
    New {
        /// Its name in the configuration and in logs
        #[arg(long, default_value = "k1")]
        id: String,
    },
    /// Make the hash of a password for `basic` on a route; the password is a line of standard input
    Password,
}

/// Which configuration.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", default_value = "tidegate.toml")]
    pub config: PathBuf,
}

impl ConfigArgs {
    /// Reads it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Config, Problems> {
        Config::load(&self.config)
    }
}

/// Does what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run { to: Some(address), .. } => Ok(run(Source::To(address))),
        Command::Run { config, to: None } => Ok(run(Source::File(config.config))),
        Command::Demo { seconds } => Ok(crate::demo::demo(seconds)),
        Command::Drill(args) => drill(&args),
        Command::Upgrade(args) => Ok(upgrade::command(&args)),
        Command::Status(args) => Ok(status(&args)),
        Command::Top(args) => top(args),
        Command::Purge(args) => Ok(purge(&args)),
        Command::Cache(args) => Ok(cache(&args)),
        Command::Canary(args) => Ok(canary(&args)),
        Command::Mirror(args) => Ok(mirror(&args)),
        Command::Maintenance(args) => Ok(maintenance(&args)),
        Command::Queue(args) => Ok(queue(&args)),
        Command::Delivery(args) => Ok(delivery(&args)),
        Command::Schedule(args) => Ok(schedule(&args)),
        Command::Webhook(args) => Ok(webhook(&args)),
        Command::Store(command) => Ok(store(&command)),
        Command::Audit(args) => Ok(audit(&args)),
        Command::Check { config, print } => check(&config, print),
        Command::Doctor(args) => doctor(&args),
        Command::Explain { code } => explain(code.as_deref()),
        Command::Key(KeyCommand::New { id }) => new_key(&id),
        Command::Key(KeyCommand::Password) => hash_password(),
        Command::Completions { shell } => manual::completions(shell),
        Command::Gen { directory, manual: true } => manual::write(&directory).map(|()| ExitCode::SUCCESS),
        Command::Gen { directory, manual: false } => generate(&directory),
    };
    // Whoever reads through a pipe may have enough before the end.
    done.unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        _ => {
            eprintln!("tidegate: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Tells what is wrong with a configuration, and says so to the shell.
pub fn refuse(problems: &Problems) -> ExitCode {
    eprintln!("{problems}");
    ExitCode::from(BAD_CONFIG)
}

fn check(args: &ConfigArgs, print: bool) -> io::Result<ExitCode> {
    let config = match args.load() {
        Ok(config) => config,
        Err(problems) => return Ok(refuse(&problems)),
    };
    let mut out = io::stdout().lock();
    if print {
        write!(out, "{}", config.effective)?;
    } else {
        writeln!(out, "{}: ok: {}", args.config.display(), config.summary())?;
        advise(&config);
    }
    Ok(ExitCode::SUCCESS)
}

/// What a configuration cannot know of what it names. It is right all the same: that a server is away now says nothing of later.
fn advise(config: &Config) {
    let Some(Location::Postgres(settings)) = config.store.as_ref().map(|store| &store.location) else {
        return;
    };
    let place = settings.url.shown();
    match tidegate_store::advise(settings) {
        Ok(advice) => advice.warnings.iter().for_each(|advice| eprintln!("warning: {place}: {advice}")),
        Err(error) => eprintln!("warning: {place} could not be asked: {error}"),
    }
}

fn explain(code: Option<&str>) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let Some(code) = code else {
        list(&mut out, refusal::KINDS.iter().copied())?;
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(kind) = refusal::find(code) {
        writeln!(out, "{}", kind.page.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let area: Vec<_> = refusal::KINDS.iter().copied().filter(|kind| area(kind.code) == area(code)).collect();
    if area.iter().any(|_| !code.contains('.')) {
        list(&mut out, area.into_iter())?;
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("tidegate: there is no refusal `{code}`");
    if let Some(near) = config::nearest(code, refusal::KINDS.iter().map(|kind| kind.code)) {
        eprintln!("did you mean `{near}`?");
    } else if area.is_empty() {
        eprintln!("`tidegate explain` lists all");
    } else {
        let codes: Vec<&str> = area.iter().map(|kind| kind.code).collect();
        eprintln!("there are {}", codes.join(", "));
    }
    Ok(ExitCode::FAILURE)
}

fn area(code: &str) -> &str {
    code.split('.').next().unwrap_or(code)
}

fn list(out: &mut impl io::Write, kinds: impl Iterator<Item = &'static refusal::Kind>) -> io::Result<()> {
    let mut before = "";
    for kind in kinds {
        if area(kind.code) != before && !before.is_empty() {
            writeln!(out)?;
        }
        before = area(kind.code);
        writeln!(out, "{:30} {}  {}", kind.code, kind.status, kind.title)?;
    }
    Ok(())
}

fn new_key(id: &str) -> io::Result<ExitCode> {
    if let Err(why) = config::parse_name(id) {
        eprintln!("tidegate: --id: {why}");
        return Ok(ExitCode::from(BAD_CONFIG));
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let key = format!("tg_{}", config::shown_hash(&random));
    let digest = config::shown_hash(&Digest::of(key.as_bytes()).0);
    let mut out = io::stdout().lock();
    writeln!(out, "The key, shown this once, for the client (Authorization: Bearer KEY):\n\n  {key}\n")?;
    writeln!(
        out,
        "Its digest, for the configuration, under [tenant.ID]:\n\n  keys = [{{ id = \"{id}\", sha256 = \"{digest}\" }}]\n"
    )?;
    writeln!(
        out,
        "The same pair is a token of the control API: tokens = [{{ name = \"{id}\", sha256 = …, scopes = [\"read\"] }}]"
    )?;
    Ok(ExitCode::SUCCESS)
}

fn hash_password() -> io::Result<ExitCode> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        eprintln!("tidegate: the password is the first line of standard input, and it is empty");
        return Ok(ExitCode::from(BAD_CONFIG));
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|error| io::Error::other(error.to_string()))?;
    let hash = Password::make(password.as_bytes(), &salt)
        .ok_or_else(|| io::Error::other("the password cannot be hashed"))?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "Its hash, for [route.basic] users = [{{ name = \"…\", hash = \"…\" }}], or a line NAME:HASH of its file:\n\n  {hash}"
    )?;
    Ok(ExitCode::SUCCESS)
}

fn generate(directory: &Path) -> io::Result<ExitCode> {
    let openapi = ("openapi.json", crate::control::published_openapi());
    let of_code = config::generated().into_iter().chain(crate::telemetry::generated());
    for (name, text) in of_code.chain(crate::monitoring::generated()).chain([openapi]) {
        let path = directory.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, text)?;
    }
    Ok(ExitCode::SUCCESS)
}
