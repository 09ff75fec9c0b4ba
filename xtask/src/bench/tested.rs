//! Measures that end-to-end tests make, as these have the clients: a test that is otherwise ignored prints a table.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::place::Machine;
use super::{build, sections, target};

/// A measure that an end-to-end test makes.
pub struct Measure {
    /// How it is asked for.
    pub usage: &'static str,
    /// The test's module, and the section of `docs/benchmarks.md` that it is written to.
    pub module: &'static str,
    /// What it is of.
    pub title: &'static str,
    /// How it is measured, behind where.
    pub method: &'static str,
}

impl Measure {
    /// Measures, prints what was, and writes it to `docs/benchmarks.md` if that is asked for. The binary is built for release, or
    /// given.
    ///
    /// # Errors
    /// What stops it, or what failed beside it.
    pub fn run(&self, arguments: &[String], root: &Path) -> Result<(), String> {
        let Measure { usage, module, title, method } = self;
        let (write, built) = read(arguments, usage)?;
        let target = target()?;
        let built = match built {
            Some(built) => built,
            None => build(root, &target)?,
        };
        let (measured, failed) = measure(root, &target, &built, &format!("{module}::measure::"))?;
        let Machine { processor, cores, kernel, .. } = Machine::describe();
        let text = format!(
            "## {title}\n\n{measured}\n`{usage}` on {processor} ({cores} cores, Linux {kernel}), {method}\n"
        );
        println!("\n{text}");
        match failed {
            Some(said) => Err(format!("it failed:\n{said}")),
            None if write => sections::write_section(root, module, &text),
            None => Ok(()),
        }
    }
}

/// Runs the test of this name with this binary. The table, and what failed beside it.
///
/// # Errors
/// There is no table.
fn measure(root: &Path, target: &Path, built: &Path, test: &str) -> Result<(String, Option<String>), String> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(program)
        .args(["test", "-q", "-p", "tidegate", "--test", "e2e", "--target-dir"])
        .arg(target)
        .args([test, "--", "--ignored", "--nocapture"])
        .env("TIDEGATE_BINARY", built)
        .current_dir(root)
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let measured = measured(&said).map(str::to_owned);
    let measured = measured.ok_or_else(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((measured, (!output.status.success()).then_some(said)))
}

/// Whether it is written, and what is measured instead of what is built now.
///
/// # Errors
/// Other arguments.
fn read(arguments: &[String], usage: &str) -> Result<(bool, Option<PathBuf>), String> {
    let (mut write, mut built) = (false, None);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--write" => write = true,
            "--built" => built = Some(arguments.next().ok_or(usage)?.into()),
            _ => return Err(format!("usage: {usage}")),
        }
    }
    Ok((write, built))
}

/// What stands between the two lines that say so.
fn measured(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("measured\n")?;
    rest.split_once("end of what was measured").map(|(measured, _)| measured)
}

#[cfg(test)]
mod tests {
    use super::{measured, read};

    #[test]
    fn reads_what_is_measured_and_whether_it_is_written() {
        let check =
            |text: &str| read(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), "usage");
        assert_eq!(check(""), Ok((false, None)));
        assert_eq!(check("--built a/b --write"), Ok((true, Some("a/b".into()))));
        assert!(check("--built").is_err() && check("--fast").is_err());
    }

    #[test]
    fn what_was_measured_is_found_among_what_tests_say() {
        assert_eq!(
            measured("running 1 test\nmeasured\n| a |\nend of what was measured\nok"),
            Some("| a |\n")
        );
        assert_eq!(measured("running 1 test\nok"), None);
    }
}
