//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Tell what a refusal code means, who has to act and how to mend it; without a code, list all
    Explain {
        /// The code, such as `limit.rate`
        code: Option<String>,
    },
}

/// Runs the command, and says how it went: 0, 1 for a failure, 2 for a bad configuration or command line.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Explain { code } => explain(code.as_deref()),
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
            eprintln!("there is no refusal `{code}`");
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
