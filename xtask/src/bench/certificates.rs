//! `cargo xtask bench certificates`: memory and CPU of handshakes with ten, a thousand and ten thousand names in the store.
//!
//! The clients are those of the end-to-end tests (`crates/server/tests/e2e/certificates/measure.rs`); the binary is built for
//! release, or given.

use std::path::{Path, PathBuf};

use super::place::Machine;
use super::{build, sections, target, tested};

pub const USAGE: &str = "cargo xtask bench certificates [--built PATH] [--write]";

/// Measures, prints what was, and writes it to `docs/benchmarks.md` if that is asked for.
///
/// # Errors
/// What stops it, or that a handshake failed.
pub fn certificates(arguments: &[String], root: &Path) -> Result<(), String> {
    let (write, built) = read(arguments)?;
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

/// Whether it is written, and what is measured instead of what is built now.
fn read(arguments: &[String]) -> Result<(bool, Option<PathBuf>), String> {
    let (mut write, mut built) = (false, None);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--write" => write = true,
            "--built" => built = Some(arguments.next().ok_or(USAGE)?.into()),
            _ => return Err(format!("usage: {USAGE}")),
        }
    }
    Ok((write, built))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_measured_and_whether_it_is_written() {
        let check = |text: &str| read(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(check(""), Ok((false, None)));
        assert_eq!(check("--built a/b --write"), Ok((true, Some("a/b".into()))));
        assert!(check("--built").is_err() && check("--fast").is_err());
    }
}
