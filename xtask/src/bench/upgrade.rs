//! `cargo xtask bench upgrade`: ten upgrades in a row under a thousand requests a second, of which none may fail.
//!
//! The clients are those of the end-to-end tests (`crates/server/tests/e2e/upgrade/measure.rs`); the binary is built for
//! release, or given.

use std::path::Path;

use super::place::Machine;
use super::{build, sections, target, tested};

pub const USAGE: &str = "cargo xtask bench upgrade [--built PATH] [--write]";

/// Measures, prints what was, and writes it to `docs/benchmarks.md` if that is asked for.
///
/// # Errors
/// What stops it, or that a request failed.
pub fn upgrade(arguments: &[String], root: &Path) -> Result<(), String> {
    let (write, built) = tested::read(arguments, USAGE)?;
    let target = target()?;
    let built = match built {
        Some(built) => built,
        None => build(root, &target)?,
    };
    let (measured, failed) = tested::measure(root, &target, &built, "upgrade::measure::")?;
    let machine = Machine::describe();
    let text = format!(
        "## Upgrades under load\n\n{measured}\n`{USAGE}` on {} ({} cores, Linux {}), clients, application and both processes on the same \
         cores. Each request is due at a time of its own (1,000 a second in all), and its latency counts from there; around an upgrade: within two \
         seconds of its command.\n",
        machine.processor, machine.cores, machine.kernel
    );
    println!("\n{text}");
    match failed {
        Some(said) => Err(format!("requests failed:\n{said}")),
        None if write => sections::write_section(root, "upgrade", &text),
        None => Ok(()),
    }
}
