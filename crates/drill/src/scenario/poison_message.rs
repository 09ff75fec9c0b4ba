//! A few deliveries of one tenant kill the worker that gets them, each time.
//!
//! Protected, an attempt is spent before it is made, there are so many and no more, the pause before the next one doubles, and the
//! tenant has one under way at a time. Unprotected, what failed is given out again at once, for ever: what a queue does
//! that puts back what was not acknowledged.

use std::time::Duration;

use super::{TENANTS, apps, endpoints};
use crate::app::{Behaviour, Harm, Poison, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::report::svg::number;
use crate::run::{Run, RunError, Setting, Side};
use crate::told::time;

/// The drill.
pub const DRILL: Drill = Drill {
    name: "poison-message",
    summary: "Four workers take what a queue has. Some deliveries of one tenant kill the worker that gets them, for 200 ms each time.",
    rule: "Protected, each poisonous delivery reaches a worker at most ten times and is dead then, every promise to the other \
           tenants is kept, and 99 % of them are made within two seconds. Unprotected, every poisonous one is still given out at the \
           end, and the workers died at least twice as often until then.",
    seconds: 9.0,
    fault: Window { from: 1.0, to: 7.0 },
    fault_name: "poison",
    about: About::Deliveries,
    victims: "other",
    side,
    has_baseline: false,
    judge,
};

/// Workers.
const WORKERS: u64 = 4;
/// Tenants that mean no harm, and what each puts in per second.
const OTHERS: usize = 4;
const OTHER: f64 = 20.0;
/// Poisonous deliveries per second, in the first third of the fault.
const POISON: f64 = 1.5;
/// How often one is tried, where that has an end.
const ATTEMPTS: u32 = 10;
/// How soon the others' are to be made.
const SOON: f64 = 2.0;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let behaviour = Behaviour {
        service: Service::Exponential(Duration::from_millis(20)),
        poison: Some(Poison { tenant: "toxic".to_owned(), harm: Harm::Crash(Duration::from_millis(200)) }),
        ..Behaviour::default()
    };
    let apps = apps(setting, WORKERS, &behaviour)?;
    let protection = match kind {
        // The most attempts that can be asked for: more than fit into the drill.
        Kind::Off => "attempts = 1000\nbackoff = { first = \"20ms\", max = \"20ms\" }\n".to_owned(),
        Kind::On | Kind::Baseline => format!(
            "attempts = {ATTEMPTS}\nbackoff = {{ first = \"100ms\", max = \"500ms\" }}\ntenant_concurrency = 1\n"
        ),
    };
    let config = format!(
        "{TENANTS}[store]\nurl = \"sqlite:{}\"\n\n\
         [upstream.workers]\nendpoints = {}\noutlier = {{ consecutive = 1, base = \"200ms\" }}\n\n\
         [queue.jobs]\nupstream = \"workers\"\nconcurrency = 16\n{protection}\n\
         [[route]]\nname = \"jobs\"\nupstream = \"workers\"\ndefer = \"always\"\n",
        crate::gate::STORE,
        endpoints(&apps)
    );
    let fault = DRILL.fault.at(setting.scale);
    let of = |tenant: &str, rates| Source { writes: true, rates, ..Source::steady(tenant, 0.0).of(tenant) };
    let other = |number| of(&format!("other-{number}"), vec![(0.0, OTHER), (fault.end, 0.0)]);
    let mut sources: Vec<Source> = (1..=OTHERS).map(other).collect();
    let third = fault.start + (fault.end - fault.start) / 3.0;
    sources.push(of("toxic", vec![(fault.start, POISON / setting.scale), (third, 0.0)]));
    let side = DRILL.undisturbed(setting, apps, config, sources);
    // Unprotected there is no end that could be waited for.
    let drain = if kind == Kind::Off { Duration::ZERO } else { Duration::from_secs(20) };
    Ok(Side { drain, ..side })
}

/// What the rule looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    /// Poisonous deliveries that were promised, and those that are dead at the end.
    poisonous: f64,
    dead: f64,
    /// How often one of them reached a worker, at most.
    most: u64,
    /// Promises to the others that were broken; and the seconds in which 99 % of them were made.
    broken: u64,
    took: f64,
    /// Unprotected: poisonous deliveries that were promised, and those that have ended nevertheless.
    endless: f64,
    ended: f64,
    /// How often workers died: without protection, and with it.
    crashes: [u64; 2],
}

impl Seen {
    fn of(setting: &Setting<'_>, runs: &Runs) -> Seen {
        let all = 0.0..DRILL.fault.at(setting.scale).end;
        Seen {
            poisonous: runs.on.kept("toxic", all.clone()).promised as f64,
            dead: runs.on.metrics.deliveries(&["dead"]),
            most: most(&runs.on),
            broken: runs.on.kept(DRILL.victims, all.clone()).lost(),
            took: runs.on.took(DRILL.victims, all.clone(), 0.99),
            endless: runs.off.kept("toxic", all).promised as f64,
            ended: runs.off.metrics.deliveries(&["dead"]),
            crashes: [&runs.off, &runs.on].map(|run| run.sum(|counts| counts.crashes)),
        }
    }

    fn holds(&self) -> bool {
        self.poisonous > 0.0
            && self.dead == self.poisonous
            && self.most <= u64::from(ATTEMPTS)
            && self.broken == 0
            && self.took <= SOON
            && self.endless > 0.0
            && self.ended == 0.0
            && self.crashes[0] >= 2 * self.crashes[1]
    }
}

/// How often one poisonous delivery reached a worker, at most.
fn most(run: &Run) -> u64 {
    let toxic = run.driven.due("toxic", 0.0..f64::INFINITY);
    toxic.filter_map(|asked| Some(run.visits.get(&asked.name)?.times)).max().unwrap_or(0)
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let seen = Seen::of(setting, runs);
    let all = || 0.0..DRILL.fault.at(setting.scale).end;
    let slow = |run: &Run| run.took(DRILL.victims, all(), 0.99);
    Judged {
        passed: seen.holds(),
        reason: format!(
            "of {} poisonous deliveries {} are dead, after at most {} visits to a worker; {} promises to the others were broken, and \
             99 % of them made within {}; unprotected, {} of {} are dead; the workers died {} times, and {} times unprotected",
            number(seen.poisonous),
            number(seen.dead),
            seen.most,
            seen.broken,
            time(seen.took),
            number(seen.ended),
            number(seen.endless),
            seen.crashes[1],
            seen.crashes[0]
        ),
        told: vec![
            format!(
                "Unprotected, what had killed its worker was given to the next one at once: the workers died {} times, one \
                 delivery alone visited them {} times, and whatever else they had begun died with them. 99 % of the others were made \
                 within {}, and there was no end to it: nothing but somebody's taking the poison out by hand would have been one.",
                seen.crashes[0],
                most(&runs.off),
                time(slow(&runs.off))
            ),
            format!(
                "Protected, the workers died {} times, and then no more. An attempt is written down before it is made, so that what \
                 takes its worker with it is counted all the same; after {ATTEMPTS} (`attempts`) it is dead, kept to be looked at, and made \
                 again only if somebody says so (`tidegate delivery redrive`). Pauses double (`backoff`), and the tenant has one \
                 under way at a time (`tenant_concurrency`): there were workers left for the others, of whom 99 % were made within {}.",
                seen.crashes[1],
                time(seen.took)
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Seen = Seen {
        poisonous: 3.0,
        dead: 3.0,
        most: 10,
        broken: 0,
        took: 0.5,
        endless: 3.0,
        ended: 0.0,
        crashes: [90, 27],
    };

    fn check(change: impl Fn(&mut Seen), expected: bool) {
        let mut seen = WELL;
        change(&mut seen);
        assert_eq!(seen.holds(), expected, "{seen:?}");
    }

    #[test]
    fn holds_only_if_the_poison_ends_and_nobody_else_dies_of_it() {
        check(|_| (), true);
        check(|seen| seen.poisonous = 0.0, false);
        check(|seen| seen.dead = 2.0, false);
        check(|seen| seen.dead = 4.0, false);
        check(|seen| seen.dead = f64::NAN, false);
        check(|seen| seen.most = 11, false);
        check(|seen| seen.broken = 1, false);
        check(|seen| seen.took = 2.5, false);
        check(|seen| seen.endless = 0.0, false);
        check(|seen| seen.ended = 1.0, false);
        check(|seen| seen.ended = f64::NAN, false);
        check(|seen| seen.crashes = [50, 27], false);
    }
}
