//! `cargo xtask sim`: the engine of deliveries under simulated time and chance, by thousands of seeds. What a seed means and what has to
//! hold is in `crates/dispatch/src/simulation`; some seeds are among the tests.

use crate::cargo;

pub const USAGE: &str = "cargo xtask sim [--store sqlite|postgres] [--seeds N] [--seed S]";
/// Seeds on SQLite, where nothing else is said: some minutes on two cores.
const SEEDS: u64 = 2_000;
/// Of so many seeds one is played on PostgreSQL, too, where no store is named: they take about as long as the others.
const POSTGRES_OF: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Sqlite,
    Postgres,
}

impl Store {
    fn read(text: &str) -> Result<Store, String> {
        match text {
            "sqlite" => Ok(Store::Sqlite),
            "postgres" => Ok(Store::Postgres),
            _ => Err(format!("{text} is no store; usage: {USAGE}")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Store::Sqlite => "sqlite",
            Store::Postgres => "postgres",
        }
    }
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// `None`: on both.
    store: Option<Store>,
    first: u64,
    count: u64,
}

impl Wanted {
    fn read(arguments: &[String]) -> Result<Wanted, String> {
        let number =
            |text: &str| text.parse::<u64>().map_err(|_| format!("{text} is no number; usage: {USAGE}"));
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (store, rest) = match &words[..] {
            ["--store", store, rest @ ..] => (Some(Store::read(store)?), rest),
            rest => (None, rest),
        };
        match rest {
            [] => Ok(Wanted {
                store,
                first: 0,
                count: if store == Some(Store::Postgres) { SEEDS / POSTGRES_OF } else { SEEDS },
            }),
            ["--seeds", count] => Ok(Wanted { store, first: 0, count: number(count)? }),
            ["--seed", seed] => Ok(Wanted { store, first: number(seed)?, count: 1 }),
            _ => Err(format!("usage: {USAGE}")),
        }
    }

    /// How many seeds are played on which store.
    fn parts(&self) -> Vec<(Store, u64)> {
        match self.store {
            Some(store) => vec![(store, self.count)],
            None => vec![(Store::Sqlite, self.count), (Store::Postgres, self.count.div_ceil(POSTGRES_OF))],
        }
    }
}

/// Runs the seeds; a single one tells what happened.
///
/// # Errors
/// Where one fails, which.
pub fn sim(arguments: &[String]) -> Result<(), String> {
    let wanted = Wanted::read(arguments)?;
    for (store, count) in wanted.parts() {
        println!("== {count} seeds on {}", store.name());
        play(store, wanted.first, count)?;
    }
    Ok(())
}

fn play(store: Store, first: u64, count: u64) -> Result<(), String> {
    let (first, seeds) = (first.to_string(), count.to_string());
    let environment = [
        ("TIDEGATE_SIM_STORE", store.name()),
        ("TIDEGATE_SIM_FIRST", first.as_str()),
        ("TIDEGATE_SIM_SEEDS", &seeds),
    ];
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
    use super::Store::{Postgres, Sqlite};
    use super::*;

    /// Which seed is the first, and how many are played on which store.
    fn check(line: &str, expected: Option<(u64, &[(Store, u64)])>) {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let wanted = Wanted::read(&arguments).ok().map(|wanted| (wanted.first, wanted.parts()));
        assert_eq!(wanted, expected.map(|(first, parts)| (first, parts.to_vec())), "{line}");
    }

    #[test]
    fn one_seed_or_so_many_are_asked_for() {
        check("", Some((0, &[(Sqlite, 2_000), (Postgres, 200)])));
        check("--seeds 5", Some((0, &[(Sqlite, 5), (Postgres, 1)])));
        check("--seed 5", Some((5, &[(Sqlite, 1), (Postgres, 1)])));
        check("--store sqlite", Some((0, &[(Sqlite, 2_000)])));
        check("--store postgres", Some((0, &[(Postgres, 200)])));
        check("--store postgres --seeds 70", Some((0, &[(Postgres, 70)])));
        check("--store sqlite --seed 7", Some((7, &[(Sqlite, 1)])));
        for wrong in ["--seed five", "five", "--store", "--store redis", "--seed 5 --store sqlite"] {
            check(wrong, None);
        }
    }
}
