//! All tests, and at the end what failed: of some thousand lines nobody should have to look for it.
//!
//! Nothing is tried again: a test that fails once has failed.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};

use crate::root;

/// Runs the tests of the whole workspace, those behind one that failed too.
pub fn run() -> Result<(), String> {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut child = Command::new(program)
        .args(["test", "--workspace", "--no-fail-fast"])
        .current_dir(root())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let output = child.stdout.take().ok_or("it has no output")?;
    let failures = watch(BufReader::new(output), |line| {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line).and_then(|()| out.flush());
    });
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    if !failures.is_empty() {
        println!("\n== what failed, and what it said\n\n{failures}");
    }
    Err("cargo test --workspace --no-fail-fast failed".to_owned())
}

/// Hands on what the tests say, line by line; what they say of those that failed.
fn watch(mut output: impl BufRead, mut tell: impl FnMut(&[u8])) -> String {
    let (mut failures, mut failed, mut line) = (String::new(), false, Vec::new());
    while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        tell(&line);
        let text = String::from_utf8_lossy(&line);
        // A test binary ends with `failures:`, what each of them said, their names, and its result.
        failed |= text.trim_end() == "failures:";
        if failed {
            failures += &text;
        }
        failed &= !text.starts_with("test result: ");
        line.clear();
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_told_whole_and_nothing_else() {
        let failed = "failures:\n\n---- a::b stdout ----\npanicked\n\nfailures:\n    a::b\n\ntest result: FAILED. 1 passed\n";
        let good = "running 1 test\ntest c ... ok\n\ntest result: ok. 1 passed\n";
        let all = format!("running 2 tests\ntest a::b ... FAILED\n\n{failed}\n{good}\n{failed}");
        let mut told = Vec::new();
        let failures = watch(all.as_bytes(), |line| told.extend_from_slice(line));
        assert_eq!(failures, format!("{failed}{failed}"));
        assert_eq!(told, all.as_bytes());
        assert_eq!(watch(good.as_bytes(), |_| ()), "");
    }
}
