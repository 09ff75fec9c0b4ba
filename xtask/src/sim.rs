//! `cargo xtask sim`: the engine of deliveries under simulated time and chance, by thousands of seeds. What a seed means and what has to
//! hold is in `crates/dispatch/src/simulation`; twenty seeds are among the tests.

use crate::cargo;

pub const USAGE: &str = "cargo xtask sim [--seeds N] [--seed S]";
/// Seeds, where nothing else is said: some minutes on two cores.
const SEEDS: u64 = 2_000;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    first: u64,
    count: u64,
}

impl Wanted {
    fn read(arguments: &[String]) -> Result<Wanted, String> {
        let number =
            |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is no number; usage: {USAGE}"));
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words[..] {
            [] => Ok(Wanted { first: 0, count: SEEDS }),
            ["--seeds", count] => Ok(Wanted { first: 0, count: number(count)? }),
            ["--seed", seed] => Ok(Wanted { first: number(seed)?, count: 1 }),
            _ => Err(format!("usage: {USAGE}")),
        }
    }
}

/// Runs the seeds; a single one tells what happened.
///
/// # Errors
/// Where one fails, which.
pub fn sim(arguments: &[String]) -> Result<(), String> {
    let Wanted { first, count } = Wanted::read(arguments)?;
    let (first, seeds) = (first.to_string(), count.to_string());
    let environment = [("TIDEGATE_SIM_FIRST", first.as_str()), ("TIDEGATE_SIM_SEEDS", &seeds)];
    let run = |test: &str| {
        let arguments =
            ["test", "-q", "-p", "tidegate-dispatch", "--lib", test, "--", "--ignored", "--nocapture"];
        cargo(&arguments, &environment)
    };
    run("simulation::seeds_that_are_asked_for")?;
    if count > 1 {
        run("simulation::a_death_at_each_moment_of_some_seeds_loses_nothing")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<Wanted>) {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        assert_eq!(Wanted::read(&arguments).ok(), expected, "{line}");
    }

    #[test]
    fn one_seed_or_so_many_are_asked_for() {
        check("", Some(Wanted { first: 0, count: SEEDS }));
        check("--seeds 5", Some(Wanted { first: 0, count: 5 }));
        check("--seed 5", Some(Wanted { first: 5, count: 1 }));
        check("--seed five", None);
        check("five", None);
    }
}
