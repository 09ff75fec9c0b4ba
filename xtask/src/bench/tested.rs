//! Measures that end-to-end tests make, as these have the clients: a test that is otherwise ignored prints a table.

use std::path::Path;
use std::process::Command;

/// Runs the test of this name with this binary. The table, and what failed beside it.
///
/// # Errors
/// There is no table.
pub fn measure(
    root: &Path,
    target: &Path,
    built: &Path,
    test: &str,
) -> Result<(String, Option<String>), String> {
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
