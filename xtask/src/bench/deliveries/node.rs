//! Peers whose client is a library for Node: the plan is run by a driver of its own process (`node/drive.mjs`).

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::counters::Used;
use super::drive::{Outcome, Plan, Sample};
use super::journey::{PAYLOAD_BYTES, Quantiles};
use crate::bench::now;
use crate::bench::peers::{installed, package};

/// The drivers; they have to lie beside the packages that they import.
const DRIVERS: [(&str, &str); 4] = [
    ("drive.mjs", include_str!("node/drive.mjs")),
    ("bullmq.mjs", include_str!("node/bullmq.mjs")),
    ("pgboss.mjs", include_str!("node/pgboss.mjs")),
    ("restate.mjs", include_str!("node/restate.mjs")),
];

/// A folder with packages of npm, and the drivers.
#[derive(Clone)]
pub struct Packages(PathBuf);

/// A peer that is spoken to by a driver in Node.
pub struct Node {
    pub packages: Packages,
    /// The driver's name.
    pub driver: &'static str,
    pub port: u16,
}

/// A driver that runs. It is ended when it is dropped.
struct Running(Child);

impl Packages {
    /// Installs packages into a folder of their own, if they are not there.
    pub fn install(folder: PathBuf, names: &[&str]) -> Result<Packages, String> {
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        package("node", "nodejs")?;
        let npm = package("npm", "npm")?;
        let packages = Packages(folder);
        if names.iter().any(|name| packages.version(name).is_err()) {
            println!("installing {} into {}", names.join(", "), packages.0.display());
            let flags = ["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"];
            installed(Command::new(npm).args(flags).arg(&packages.0).args(names))?;
        }
        for (name, text) in DRIVERS {
            let path = packages.path(name);
            std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(packages)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The version of a package (`name@2` or `name`) that is there.
    pub fn version(&self, name: &str) -> Result<String, String> {
        let bare = name.get(1..).and_then(|rest| rest.find('@')).map_or(name, |at| &name[..=at]);
        let path = self.0.join("node_modules").join(bare).join("package.json");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let version = text.lines().find_map(|line| line.trim().strip_prefix("\"version\": \""));
        let version = version.and_then(|rest| rest.split('"').next());
        version.map(str::to_owned).ok_or_else(|| format!("{}: no version", path.display()))
    }
}

impl Node {
    /// Makes a queue.
    pub fn prepare(&self, plan: Plan) -> Result<(), String> {
        let plan = Plan { windows: 0, ..plan };
        self.run(plan, 0, &|_| Used::default()).map(drop)
    }

    /// Runs a plan to its end; `used` is told the driver's process.
    pub fn run(&self, plan: Plan, number: u16, used: &dyn Fn(u32) -> Used) -> Result<Outcome, String> {
        let mut child = Command::new(package("node", "nodejs")?)
            .arg(self.packages.path("drive.mjs"))
            .args([self.driver, &json(plan, number, self.port)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("node: {error}"))?;
        let (out, process) = (child.stdout.take(), child.id());
        let mut running = Running(child);
        let mut outcome = Outcome { samples: Vec::new(), quantiles: None };
        let mut ended = false;
        for line in BufReader::new(out.ok_or("node says nothing")?).lines().map_while(Result::ok) {
            ended |= outcome.hear(&line, &|| used(process))?;
        }
        if ended { Ok(outcome) } else { Err(running.why()) }
    }
}

impl Running {
    fn why(&mut self) -> String {
        let said = self.0.stderr.take().map(BufReader::new).map(|said| said.lines().map_while(Result::ok));
        let said: Vec<String> = said.into_iter().flatten().collect();
        let line = said.iter().find(|line| line.contains("Error")).or(said.last());
        format!("the driver ended: {}", line.map_or("", String::as_str))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Outcome {
    /// Takes a line of a driver in, and says whether it was the last.
    fn hear(&mut self, line: &str, used: &dyn Fn() -> Used) -> Result<bool, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| -> Result<u64, String> {
            words
                .get(at)
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| format!("the driver said {line:?}"))
        };
        match words.first() {
            Some(&"sample") => {
                let (accepted, attempted) = (number(1)?, number(2)?);
                self.samples.push(Sample { at: now(), accepted, attempted, used: used() });
            }
            Some(&name @ ("accept" | "attempt")) => {
                let found = Quantiles { count: number(1)?, p50: number(2)?, p99: number(3)? };
                let both = self.quantiles.get_or_insert_default();
                *(if name == "accept" { &mut both.0 } else { &mut both.1 }) = found;
            }
            Some(&"failed") => return Err(line.to_owned()),
            _ => {}
        }
        Ok(matches!(line, "done" | "ready"))
    }
}

fn json(plan: Plan, number: u16, port: u16) -> String {
    let or_null = |value: Option<String>| value.unwrap_or_else(|| "null".to_owned());
    let whole = |value: Option<u64>| or_null(value.map(|value| value.to_string()));
    let millis = |time: Duration| time.as_millis();
    let mut text = format!("{{\"port\":{port},\"run\":{number},\"bytes\":{PAYLOAD_BYTES}");
    let _ = write!(
        text,
        ",\"queue\":\"{}\",\"producers\":{},\"consumers\":{},\"batch\":{},\"rate\":{},\"delay_ms\":{}",
        plan.queue.name(),
        plan.producers,
        plan.consumers,
        plan.batch,
        or_null(plan.rate.map(|rate| rate.to_string())),
        or_null(plan.delay.map(|delay| millis(delay).to_string())),
    );
    let _ = write!(
        text,
        ",\"warm_ms\":{},\"window_ms\":{},\"windows\":{},\"ahead_max\":{},\"count_max\":{}}}",
        millis(plan.warm),
        millis(plan.window),
        plan.windows,
        whole(plan.ahead_max),
        whole(plan.count_max),
    );
    text
}

/// Where packages are, beneath what is built.
pub fn folder(target: &Path) -> PathBuf {
    target.join("bench/deliveries-npm")
}

#[cfg(test)]
mod tests {
    use super::super::wires::Queue;
    use super::*;

    fn hear(lines: &[&str]) -> Result<Outcome, String> {
        let mut outcome = Outcome { samples: Vec::new(), quantiles: None };
        for line in lines {
            outcome.hear(line, &Used::default)?;
        }
        Ok(outcome)
    }

    #[test]
    fn hears_samples_and_latencies() {
        let outcome = hear(&["sample 10 5", "accept 4 100 200", "attempt 4 1 2", "done"]).unwrap();
        assert_eq!((outcome.samples[0].accepted, outcome.samples[0].attempted), (10, 5));
        let expected = (Quantiles { count: 4, p50: 100, p99: 200 }, Quantiles { count: 4, p50: 1, p99: 2 });
        assert_eq!(outcome.quantiles, Some(expected));
    }

    #[test]
    fn what_a_driver_fails_of_is_told() {
        assert_eq!(hear(&["failed no such host"]).err(), Some("failed no such host".to_owned()));
        assert!(hear(&["sample ten 5"]).is_err());
    }

    #[test]
    fn a_plan_is_json_without_what_it_has_not() {
        let plan = Plan {
            queue: Queue::Work,
            producers: 2,
            consumers: 64,
            batch: 1,
            rate: Some(500.0),
            delay: None,
            warm: Duration::from_millis(500),
            window: Duration::from_secs(1),
            windows: 3,
            ahead_max: None,
            count_max: Some(9),
        };
        let text = json(plan, 7, 4711);
        for part in [
            "{\"port\":4711,\"run\":7",
            "\"rate\":500,\"delay_ms\":null",
            "\"ahead_max\":null,\"count_max\":9}",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
