//! `cargo xtask bench upgrade`: ten upgrades in a row under a thousand requests a second, of which none may fail.
//!
//! The clients are those of the end-to-end tests (`crates/server/tests/e2e/upgrade/measure.rs`); the binary is built for release.

use std::path::Path;
use std::process::Command;

use super::place::Machine;
use super::{build, sections, target};

pub const USAGE: &str = "cargo xtask bench upgrade [--write]";

/// Measures, prints what was, and writes it to `docs/benchmarks.md` if that is asked for.
///
/// # Errors
/// What stops it, or that a request failed.
pub fn upgrade(arguments: &[String], root: &Path) -> Result<(), String> {
    let write = match arguments {
        [] => false,
        [one] if one == "--write" => true,
        _ => return Err(format!("usage: {USAGE}")),
    };
    let target = target()?;
    let built = build(root, &target)?;
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(program)
        .args(["test", "-q", "-p", "tidegate", "--test", "e2e", "--target-dir"])
        .arg(&target)
        .args(["upgrade::measure::", "--", "--ignored", "--nocapture"])
        .env("TIDEGATE_BINARY", &built)
        .current_dir(root)
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let measured =
        measured(&said).ok_or_else(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?;
    let machine = Machine::describe();
    let text = format!(
        "## Upgrades under load\n\n{measured}\n`{USAGE}` on {} ({} cores, Linux {}), clients, application and both processes on the same \
         cores. Each request is due at a time of its own (1,000 a second in all), and its latency counts from there; around an upgrade: within two \
         seconds of its command.\n",
        machine.processor, machine.cores, machine.kernel
    );
    println!("\n{text}");
    if !output.status.success() {
        return Err(format!("requests failed:\n{said}"));
    }
    if write { sections::write_section(root, "upgrade", &text) } else { Ok(()) }
}

/// What stands between the two lines that say so.
fn measured(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("measured\n")?;
    rest.split_once("end of what was measured").map(|(measured, _)| measured)
}

#[cfg(test)]
mod tests {
    use super::measured;

    #[test]
    fn what_was_measured_is_found_among_what_tests_say() {
        assert_eq!(
            measured("running 1 test\nmeasured\n| a |\nend of what was measured\nok"),
            Some("| a |\n")
        );
        assert_eq!(measured("running 1 test\nok"), None);
    }
}
