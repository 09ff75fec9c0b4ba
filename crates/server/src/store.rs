//! `tidegate store`: the store's directory copied, put back and looked at. A store that a running Tidegate uses is copied by that one,
//! which is asked through its control API.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_store::{BackupError, Location, OpenError, PostgresSettings, PostgresUrl, StoreSettings};

use crate::cli::{ConfigArgs, refuse};
use crate::status::{Remote, ask_for};

/// How long a copy may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is done with the store.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Copy the store into a new directory, whether Tidegate runs or not
    Backup(BackupArgs),
    /// Put a backup where the store is to be: there must be none. Tidegate must not run
    Restore {
        /// The backup's directory
        from: PathBuf,
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Look at all of a store, or of a backup, and tell what is wrong with it. Tidegate must not run on it
    Check {
        /// Its directory; otherwise the one that the configuration names
        directory: Option<PathBuf>,
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Bring the store of the configuration, a directory, into an empty PostgreSQL. Tidegate must not run on either
    Migrate {
        /// Where to: postgres://USER:PASSWORD@HOST/DATABASE
        #[arg(long, env = "TIDEGATE_MIGRATE_TO", hide_env_values = true)]
        to: String,
        /// What deliveries are divided into there, for ever: `[store] shards`.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
        shards: u16,
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArgs,
    },
}

/// A backup.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The directory, which there must not be yet
    to: PathBuf,
    /// Which configuration.
    #[command(flatten)]
    config: ConfigArgs,
    /// Where it is asked for, if Tidegate runs.
    #[command(flatten)]
    remote: Remote,
}

/// Does it.
#[must_use]
pub fn store(command: &StoreCommand) -> ExitCode {
    match command {
        StoreCommand::Backup(args) => backup(args),
        StoreCommand::Restore { from, config } => with(config, |directory| {
            let bytes = tidegate_store::restore(from, directory).map_err(|error| error.to_string())?;
            Ok(format!("{} was put back into {}: {bytes} bytes", from.display(), directory.display()))
        }),
        StoreCommand::Migrate { to, shards, config } => migrate(to, *shards, config),
        StoreCommand::Check { directory: Some(directory), .. } => said(check(directory)),
        StoreCommand::Check { directory: None, config } => with(config, check),
    }
}

/// Does something with the directory that the configuration names.
fn with(config: &ConfigArgs, work: impl FnOnce(&Path) -> Result<String, String>) -> ExitCode {
    let config = match config.load() {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    said(match config.store.map(|store| store.location) {
        Some(Location::Directory(directory)) => work(&directory),
        Some(Location::Postgres(_)) => {
            Err("the store is a PostgreSQL: its own tools copy it (pg_dump, pg_basebackup)".to_owned())
        }
        None => Err("the configuration has no [store]".to_owned()),
    })
}

fn backup(args: &BackupArgs) -> ExitCode {
    with(&args.config, |directory| {
        let told = match tidegate_store::backup(directory, &args.to) {
            Err(BackupError::Open(OpenError::Taken(_))) => backup_of_running(args)?,
            told => told.map_err(|error| error.to_string())?,
        };
        Ok(format!("{} was copied to {}: {told} bytes", directory.display(), args.to.display()))
    })
}

fn backup_of_running(args: &BackupArgs) -> Result<u64, String> {
    let to = std::path::absolute(&args.to).map_err(|error| error.to_string())?;
    let asked = json!({ "to": to }).to_string();
    let told = ask_for(&args.remote, "POST", "/store/backup", &asked, PATIENCE)?;
    let told: Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
    Ok(told["bytes"].as_u64().unwrap_or_default())
}

/// Brings the directory's store into a PostgreSQL.
fn migrate(to: &str, shards: u16, config: &ConfigArgs) -> ExitCode {
    let config = match config.load() {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    let Some(store) = config.store else { return said(Err("the configuration has no [store]".to_owned())) };
    let Location::Directory(directory) = &store.location else {
        return said(Err("the store of the configuration is a PostgreSQL already".to_owned()));
    };
    let url = match PostgresUrl::parse(to) {
        Ok(url) => url,
        Err(why) => return said(Err(why)),
    };
    let location = Location::Postgres(PostgresSettings {
        url,
        ca: None,
        lease: Duration::from_secs(60),
        timeout: Duration::from_secs(30),
        shards,
        node: Arc::from("tidegate store migrate"),
        brings: false,
    });
    let done =
        tidegate_store::migrate(directory, StoreSettings { location: location.clone(), ..store.clone() });
    said(done.map_err(|error| error.to_string()).map(|told| {
        format!(
            "{} was brought into {location}: {} deliveries, {} keys, {} documents, each of them compared",
            directory.display(),
            told.deliveries,
            told.claims,
            told.documents
        )
    }))
}

fn check(directory: &Path) -> Result<String, String> {
    let wrong = tidegate_store::check(directory).map_err(|error| error.to_string())?;
    if wrong.is_empty() {
        return Ok(format!("{}: ok", directory.display()));
    }
    Err(format!("{}:\n  {}", directory.display(), wrong.join("\n  ")))
}

fn said(told: Result<String, String>) -> ExitCode {
    match told {
        Ok(text) => {
            // It is done, whether anybody reads it or not.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            let why = why.strip_prefix("tidegate: ").unwrap_or(&why);
            eprintln!("tidegate: {why}");
            ExitCode::FAILURE
        }
    }
}
