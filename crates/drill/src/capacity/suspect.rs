//! What saturated first: a judgement on numbers that were seen, and never more than they bear.
//!
//! Asked in an order in which each answer would make the next a mistake: a generator that is late measures itself; a limit
//! that refuses is no lack of capacity; a processor that is full explains a queue behind it, not the other way round.

use super::ramp::{Found, Step, Strain};
use super::seen::Usage;

/// Late requests, as a share of all, that make a measurement one of the generator.
pub const LATE: f64 = 0.05;

/// What a gate before the service says of it, where it was asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GateSaid {
    /// Requests that waited at its gate, at most.
    pub waiting: f64,
    /// The gate's limit of requests under way, if it has one.
    pub limit: Option<f64>,
}

/// What saturated first.
#[derive(Clone, Debug, PartialEq)]
pub enum Suspect {
    /// Nothing did, within the load that was allowed.
    Nothing,
    /// This side: the load was not made in time, and nothing can be said of the service.
    Generator,
    /// A limit that somebody set: it refused (429 or 503) before anything else gave out.
    Limit,
    /// One thread of it used a whole processor while others were free: an event loop, a global lock.
    Thread(f64),
    /// It used the processors that the machine has.
    Processors(f64),
    /// Others on this machine used its processors.
    Neighbours(f64),
    /// It could open no more files or connections.
    Files(f64),
    /// Connections waited to be accepted.
    Backlog(u64),
    /// The gate before it let no more through: what waited, waited there.
    Gate(GateSaid),
    /// Its processors were idle, and yet it did no more: it has so many workers, connections to a database, or locks.
    Workers(f64),
    /// The numbers that it could see do not tell.
    Unknown,
}

/// Judges. `strained` is what was used at the lowest load that was not kept up with; `base` what came of next to no load.
#[must_use]
pub fn judge(found: &Found, base: &Step, strained: &Usage, gate: Option<&GateSaid>) -> Suspect {
    /// Of a processor: what no thread comes above while others have to run too.
    const FULL: f64 = 0.85;
    /// Open files: past this, the next burst fails.
    const NEARLY_ALL: f64 = 0.95;
    let Some((broke, strain)) = &found.broke else { return Suspect::Nothing };
    if broke.late > LATE {
        return Suspect::Generator;
    }
    let gate = gate.filter(|gate| gate.waiting >= 1.0);
    if *strain == Strain::Refusals {
        // Whoever waits at a gate too long is refused by it, too.
        return gate.map_or(Suspect::Limit, |gate| Suspect::Gate(gate.clone()));
    }
    let processors = strained.processors as f64;
    let service = strained.service.unwrap_or(0.0);
    if let Some(busiest) = strained.busiest_thread.filter(|busiest| *busiest > FULL)
        && service < FULL * processors
    {
        return Suspect::Thread(busiest);
    }
    if service > FULL * processors {
        return Suspect::Processors(service);
    }
    if let Some(machine) = strained.machine.filter(|machine| *machine > 0.95) {
        return match service > processors / 2.0 {
            true => Suspect::Processors(service),
            false => Suspect::Neighbours(machine),
        };
    }
    if let Some(files) = strained.files.filter(|files| *files > NEARLY_ALL) {
        return Suspect::Files(files);
    }
    if strained.overflows > 0 {
        return Suspect::Backlog(strained.backlog);
    }
    if let Some(gate) = gate {
        return Suspect::Gate(gate.clone());
    }
    match strained.service {
        Some(_) => Suspect::Workers(workers(found, base)),
        None => Suspect::Unknown,
    }
}

/// How many requests it works on at once, by Little's law: what it does at most, times how long one takes alone.
fn workers(found: &Found, base: &Step) -> f64 {
    let most = found.broke.as_ref().map_or(found.limit.good, |(step, _)| step.good.max(found.limit.good));
    let alone = if base.good > 0.0 { base.concurrency / base.good } else { base.p50.as_secs_f64() };
    most * alone
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn step(offered: f64, good: f64, latency: f64) -> Step {
        let p50 = Duration::from_secs_f64(latency);
        Step { offered, good, p50, p99: p50, concurrency: good * latency, ..Step::default() }
    }

    fn check(broke: (Step, Strain), usage: Usage, gate: Option<&GateSaid>) -> Suspect {
        let base = step(10.0, 10.0, 0.02);
        let found =
            Found { knee: step(300.0, 300.0, 0.022), limit: step(350.0, 350.0, 0.03), broke: Some(broke) };
        judge(&found, &base, &usage, gate)
    }

    fn idle() -> Usage {
        let (service, busiest_thread, machine) = (Some(0.2), Some(0.1), Some(0.4));
        Usage { service, busiest_thread, machine, processors: 4, ..Usage::default() }
    }

    #[test]
    fn names_what_the_numbers_bear() {
        let slow = || (step(500.0, 400.0, 2.0), Strain::Behind);
        let late = Step { late: 0.2, ..slow().0 };
        let gate = GateSaid { waiting: 30.0, limit: Some(8.0) };
        for (broke, usage, gate, wanted) in [
            ((late, Strain::Behind), idle(), None, Suspect::Generator),
            ((slow().0, Strain::Refusals), idle(), None, Suspect::Limit),
            ((slow().0, Strain::Refusals), idle(), Some(&gate), Suspect::Gate(gate.clone())),
            (slow(), Usage { busiest_thread: Some(0.97), ..idle() }, None, Suspect::Thread(0.97)),
            (
                slow(),
                Usage { service: Some(3.8), busiest_thread: Some(0.97), ..idle() },
                None,
                Suspect::Processors(3.8),
            ),
            (slow(), Usage { machine: Some(0.99), ..idle() }, None, Suspect::Neighbours(0.99)),
            (slow(), Usage { files: Some(1.0), ..idle() }, None, Suspect::Files(1.0)),
            (slow(), Usage { overflows: 3, backlog: 128, ..idle() }, None, Suspect::Backlog(128)),
            (slow(), idle(), Some(&gate), Suspect::Gate(gate.clone())),
            (slow(), idle(), None, Suspect::Workers(8.0)),
            (slow(), Usage::default(), None, Suspect::Unknown),
        ] {
            assert_eq!(check(broke, usage, gate), wanted);
        }
    }
}
