//! `cargo xtask bench certificates`: memory and CPU of handshakes with ten, a thousand and ten thousand names in the store.
//!
//! The clients are those of the end-to-end tests (`crates/server/tests/e2e/certificates/measure.rs`); the binary is built for
//! release, or given.

use std::path::Path;

use super::place::Machine;
use super::{build, sections, target, tested};

pub const USAGE: &str = "cargo xtask bench certificates [--built PATH] [--write]";

/// Measures, prints what was, and writes it to `docs/benchmarks.md` if that is asked for.
///
/// # Errors
/// What stops it, or that a handshake failed.
pub fn certificates(arguments: &[String], root: &Path) -> Result<(), String> {
    let (write, built) = tested::read(arguments, USAGE)?;
    let target = target()?;
    let built = match built {
        Some(built) => built,
        None => build(root, &target)?,
    };
    let (measured, failed) = tested::measure(root, &target, &built, "certificates::measure::")?;
    let machine = Machine::describe();
    let text = format!(
        "## Certificates of many names\n\n{measured}\n`{USAGE}` on {} ({} cores, Linux {}), clients and Tidegate on the same cores. The names are \
         in a store (SQLite), each with a certificate of its own (ECDSA, P-256) and a chain of two, as an order leaves them. A handshake is a whole one \
         (TLS 1.3, nothing gone on with), on a connection of its own that is closed behind it; names by chance. CPU is the process's, of all its threads \
         (`/proc/PID/stat`), for one of 2,000 handshakes: the median of three rounds, and the rounds it lies between. Memory is resident (`VmRSS`). \
         `memory` is the bound of certificates in memory; what is not there is read from the store.\n",
        machine.processor, machine.cores, machine.kernel
    );
    println!("\n{text}");
    match failed {
        Some(said) => Err(format!("a handshake failed:\n{said}")),
        None if write => sections::write_section(root, "certificates", &text),
        None => Ok(()),
    }
}
