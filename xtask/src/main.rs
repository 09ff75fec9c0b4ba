//! Developer commands, the same here and in CI: `cargo xtask test`.
//!
//! Everything runs with what a Rust toolchain, a C compiler and git give, but for other servers: `test` installs the Redis and the PostgreSQL
//! that tests run, `bench` the servers that Tidegate is measured beside, where they are missing and may be installed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

mod bench;
mod dist;
mod sim;
mod suite;
mod tidy;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (task, arguments) =
        arguments.split_first().map_or(("", &[][..]), |(task, rest)| (task.as_str(), rest));
    let done = match task {
        "test" | "ci" => test(),
        "tidy" => tidy::check(&root()),
        "gen" => cargo(&["run", "-q", "-p", "tidegate", "--", "gen", "docs"], &[]),
        "dist" => dist::dist(arguments, &root()),
        "sim" => sim::sim(arguments),
        "bench" if arguments.first().is_some_and(|what| what == "edge") => {
            bench::edge(&arguments[1..], &root())
        }
        "bench" if arguments.first().is_some_and(|what| what == "pressure") => {
            bench::pressure::pressure(&arguments[1..], &root())
        }
        "bench" if arguments.first().is_some_and(|what| what == "cache") => {
            bench::cache::cache(&arguments[1..], &root())
        }
        "bench" if arguments.first().is_some_and(|what| what == "upgrade") => {
            bench::upgrade::UPGRADE.run(&arguments[1..], &root())
        }
        "bench" if arguments.first().is_some_and(|what| what == "certificates") => {
            bench::certificates::CERTIFICATES.run(&arguments[1..], &root())
        }
        "bench" if arguments.first().is_some_and(|what| what == "deliveries") => {
            bench::deliveries::deliveries(&arguments[1..], &root())
        }
        _ => Err(format!(
            "usage: cargo xtask test | tidy | gen | {} | {} | {} | {} | {} | {} | {} | {}",
            dist::USAGE.trim_start_matches("cargo xtask "),
            sim::USAGE.trim_start_matches("cargo xtask "),
            bench::USAGE.trim_start_matches("cargo xtask "),
            bench::pressure::USAGE.trim_start_matches("cargo xtask "),
            bench::cache::USAGE.trim_start_matches("cargo xtask "),
            bench::certificates::CERTIFICATES.usage.trim_start_matches("cargo xtask "),
            bench::deliveries::USAGE.trim_start_matches("cargo xtask "),
            bench::upgrade::UPGRADE.usage.trim_start_matches("cargo xtask ")
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("\nxtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that a change must pass, the quick checks first.
fn test() -> Result<(), String> {
    step("tidy: imports, sizes, words", || tidy::check(&root()))?;
    step("format", || cargo(&["fmt", "--all", "--", "--check"], &[]))?;
    step("clippy", || cargo(&["clippy", "-q", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]))?;
    step("docs", || {
        cargo(
            &["doc", "-q", "--workspace", "--no-deps", "--document-private-items"],
            &[("RUSTDOCFLAGS", "-D warnings")],
        )
    })?;
    step("examples", examples)?;
    step("redis-server, for the tests of several nodes", || {
        bench::package("redis-server", "redis-server").map(drop)
    })?;
    step("promtool, for the tests of alerts", || bench::package("promtool", "prometheus").map(drop))?;
    step("PostgreSQL, for the tests of the store", || bench::package("initdb", "postgresql").map(drop))?;
    step("openssl, for the tests of handshakes", || bench::package("openssl", "openssl").map(drop))?;
    step("unit, property and end-to-end tests", suite::run)
}

/// Checks every example with the real binary.
fn examples() -> Result<(), String> {
    let folder = root().join("examples");
    let entries = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "toml")) {
        // Certificates are not committed: these are checked by a unit test, with certificates made for it.
        if file.ends_with("tls.toml") || file.ends_with("mutual-tls.toml") {
            continue;
        }
        let file = file.to_string_lossy();
        cargo(&["run", "-q", "-p", "tidegate", "--", "check", "--config", &file], &[])?;
    }
    cargo(&["run", "-q", "-p", "tidegate", "--", "demo", "--seconds", "3"], &[])
}

fn step(name: &str, run: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    println!("== {name}");
    #[expect(clippy::disallowed_methods, reason = "a developer command has no clock of the product's")]
    let began = Instant::now();
    run().map_err(|why| format!("{name}: {why}"))?;
    println!("== {name}: good, {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let status = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(root())
        .status()
        .map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed", arguments.join(" "))) }
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}
