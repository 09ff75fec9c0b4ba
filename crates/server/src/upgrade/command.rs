//! `tidegate upgrade`: asks a running Tidegate for it through its control API.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::status::{Remote, ask_for};

/// How long its answer is waited for: it has a bound of its own (`[upgrade] start`).
const PATIENCE: Duration = Duration::from_secs(3600);

/// Of whom it is asked.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    #[command(flatten)]
    remote: Remote,
}

/// Asks for an upgrade, and tells which process serves then.
#[must_use]
pub fn command(args: &UpgradeArgs) -> ExitCode {
    match ask_for(&args.remote, "POST", "/upgrade", "", PATIENCE) {
        Ok(answer) => {
            let told: Value = serde_json::from_str(&answer).unwrap_or_default();
            // It is done, whether anybody reads it or not.
            let _ = writeln!(std::io::stdout(), "process {} serves", told["pid"]);
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
