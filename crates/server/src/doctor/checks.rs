//! From facts to findings. Nothing is read here, nothing tried: each check is a function of what is known.

mod certificates;
mod disks;
mod machine;
mod network;
mod process;
mod servers;
#[cfg(test)]
mod tests;
mod upstreams;

use super::facts::Facts;
use super::finding::{CHECKS, CONFIG, Finding, Severity};

/// All that is found, in the order of [`CHECKS`], the worst of each first.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = configuration(facts).into_iter().collect();
    findings.extend(process::examine(facts));
    findings.extend(network::examine(facts));
    findings.extend(machine::examine(facts));
    findings.extend(upstreams::examine(facts));
    findings.extend(certificates::examine(facts));
    findings.extend(disks::examine(facts));
    findings.extend(servers::examine(facts));
    let place = |finding: &Finding| CHECKS.iter().position(|check| *check == finding.check);
    findings.sort_by_key(|finding| (place(finding), std::cmp::Reverse(finding.severity)));
    findings
}

fn configuration(facts: &Facts) -> Option<Finding> {
    match (&facts.config_error, &facts.wanted) {
        (Some(why), _) => {
            let effect = "`tidegate run` does not start with it, and a reload changes nothing";
            Some(Finding::new(CONFIG, Severity::Breaks, why.clone(), effect).mend("tidegate check -c FILE"))
        }
        (None, Some(_)) => Some(Finding::fine(CONFIG, "it can be used")),
        (None, None) => {
            let seen = "there is none here: what one asks for is not looked at";
            Some(Finding::new(CONFIG, Severity::Note, seen, "").mend("tidegate doctor -c FILE"))
        }
    }
}

/// A number of bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}

/// A time for people.
fn time(time: std::time::Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}
