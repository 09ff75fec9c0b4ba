//! The PostgreSQL that the store is in dies under load, and its standby takes over, which had fallen behind before.
//!
//! Protected, the standby has to confirm what is committed (`synchronous_standby_names`). Unprotected, it follows, as PostgreSQL has it
//! unless told otherwise: what it had not taken is gone, and what Tidegate has acknowledged with it.

use std::sync::Arc;
use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Act, Driven, End, Source};
use crate::postgres::Pair;
use crate::run::{Run, RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "database-failover",
    summary: "The PostgreSQL that the store is in dies, a second after its standby fell behind, which takes over half a second later. \
              Clients ask for each payment once more after they were told that it was made; others hand in deliveries.",
    rule: "Protected, with a standby that has to confirm, no payment reaches the server twice, every payment is acknowledged in \
           the end, every delivery that was promised is made, and Tidegate goes on by itself: of what is asked for from three seconds after the failover on, 99 % are answered \
           well within two seconds. Unprotected, with a standby that only follows, payments are made twice.",
    seconds: 12.0,
    fault: Window { from: 2.0, to: 3.5 },
    fault_name: "the standby is behind, the primary dies",
    about: About::Exchanges,
    victims: "clients",
    side,
    has_baseline: false,
    judge,
};

/// Payments per second, until so many seconds.
const RATE: f64 = 40.0;
/// Deliveries that are handed in per second, for as long.
const JOBS: f64 = 20.0;
const UNTIL: f64 = 8.0;
/// When the primary dies.
const DIES: f64 = 3.0;
/// How long clients wait for an answer to one try, how often they try, and what they wait in between.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(200);
/// When they ask once more, after they were answered well.
const AGAIN: f64 = 3.0;
/// From so many seconds after the failover on, all is to be well.
const MENDED: f64 = 3.0;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(20));
    let all = apps(setting, 1, &Behaviour { slots: 512, service, ..Behaviour::default() })?;
    let pair = Arc::new(Pair::start(kind != Kind::Off)?);
    let config = format!(
        "[store]\nurl = \"{}\"\ntimeout = \"2s\"\n\n\
         [upstream.app]\nendpoints = {}\noutlier = {{ consecutive = 0 }}\n\n\
         [[route]]\nname = \"payments\"\nupstream = \"app\"\ndeadline = \"20s\"\nretry = {{ tries = 1 }}\n\
         idempotency = {{ required = true }}\n\n\
         [queue.jobs]\nupstream = \"app\"\n\n\
         [[route]]\nname = \"jobs\"\npath = \"/jobs\"\nupstream = \"app\"\ndeadline = \"20s\"\ndefer = \"always\"\n",
        pair.url(),
        endpoints(&all)
    );
    let fault = DRILL.fault.at(setting.scale);
    let clients = Source {
        writes: true,
        keys: true,
        timeout: PATIENCE,
        tries: TRIES,
        pause: PAUSE,
        again: Some(Duration::from_secs_f64(AGAIN * setting.scale)),
        rates: vec![(0.0, RATE), (UNTIL * setting.scale, 0.0)],
        ..Source::steady("clients", 0.0)
    };
    let jobs = Source {
        name: "jobs".to_owned(),
        path: "/jobs".to_owned(),
        keys: false,
        again: None,
        rates: vec![(0.0, JOBS), (UNTIL * setting.scale, 0.0)],
        ..clients.clone()
    };
    // Each on a thread of its own: programs are started, which the load does not wait for.
    let act = |seconds: f64, does: fn(&Pair)| -> Act {
        let pair = Arc::clone(&pair);
        let begin = move || drop(std::thread::spawn(move || does(&pair)));
        (Duration::from_secs_f64(seconds), Box::new(begin))
    };
    let acts = vec![
        act(fault.start, Pair::stall),
        act(DIES * setting.scale, Pair::kill),
        act(fault.end, Pair::promote),
    ];
    let side = DRILL.undisturbed(setting, all, config, vec![clients, jobs]);
    // Unprotected nobody can say what there is to wait for.
    let drain = if kind == Kind::Off { Duration::ZERO } else { Duration::from_secs(20) };
    Ok(Side { acts, postgres: Some(pair), drain, ..side })
}

/// What the rule looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    /// Payments that were made more than once, protected and not.
    twice: u64,
    lost: u64,
    /// Promises to make a delivery later that were broken, protected.
    broken: u64,
    /// Shares of payments that were acknowledged in the end, and of those due after the failover that were at once.
    paid: f64,
    after: f64,
}

impl Seen {
    fn of(setting: &Setting<'_>, runs: &Runs) -> Seen {
        let until = UNTIL * setting.scale;
        let mended = DRILL.fault.at(setting.scale).end + MENDED * setting.scale;
        let twice = |run: &Run| run.made_twice(DRILL.victims);
        Seen {
            twice: twice(&runs.on),
            lost: twice(&runs.off),
            broken: runs.on.kept("jobs", 0.0..f64::INFINITY).lost(),
            paid: runs.on.driven.success(DRILL.victims, 0.0..until),
            after: in_time(&runs.on.driven, mended, until),
        }
    }

    fn holds(&self) -> bool {
        self.twice == 0 && self.broken == 0 && self.paid == 1.0 && self.after >= 0.99 && self.lost > 0
    }
}

/// Share of what was due between these seconds that was answered well within what one try has, over all tries.
fn in_time(driven: &Driven, from: f64, to: f64) -> f64 {
    let all: Vec<_> = driven.due(DRILL.victims, from..to).collect();
    let well = all.iter().filter(|asked| asked.latency().is_some_and(|latency| latency <= PATIENCE));
    well.count() as f64 / all.len().max(1) as f64
}

/// The longest time, in seconds, in which nobody was answered well.
fn silence(driven: &Driven) -> f64 {
    let good = driven.due(DRILL.victims, 0.0..f64::INFINITY).filter(|asked| asked.end == End::Good);
    let mut ended: Vec<Duration> = good.filter_map(|asked| asked.ended).collect();
    ended.sort();
    let gaps = ended.iter().zip(ended.iter().skip(1)).map(|(one, next)| next.saturating_sub(*one));
    gaps.max().unwrap_or_default().as_secs_f64()
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let seen = Seen::of(setting, runs);
    let until = 0.0..UNTIL * setting.scale;
    let jobs = runs.on.kept("jobs", 0.0..f64::INFINITY);
    let again = |end: End| runs.on.driven.asked.iter().filter(|asked| asked.again == Some(end)).count();
    Judged {
        passed: seen.holds(),
        reason: format!(
            "{} payments were made twice with a standby that confirms, {} with one that follows; {} of the payments were acknowledged in \
             the end, {} of those from {MENDED} s after the failover on within two seconds; of {} deliveries that were promised, {} \
             were not made",
            seen.twice,
            seen.lost,
            share(seen.paid),
            share(seen.after),
            jobs.promised,
            seen.broken
        ),
        told: vec![
            format!(
                "Unprotected, PostgreSQL said that records were committed which its standby had not taken, and Tidegate told its \
                 clients so. Then the primary was gone, and with it those records: {} clients that asked once more under \
                 the same key had their payment made again. Nothing warned of it on the way, but `tidegate check` does \
                 beforehand.",
                seen.lost
            ),
            format!(
                "Protected, nothing counted as committed before the standby had it: while that was behind, payments waited \
                 instead of being promised. For {} nobody was answered well; after the failover Tidegate found the server that takes writes, \
                 looked up what had been in doubt, and went on: the slowest payment took {}, over all tries of its \
                 client. {} of those who asked once more were told the same as before, {} were not answered. What had been promised for \
                 later was in the standby as well, and was made: the last of it {} after its promise.",
                time(silence(&runs.on.driven)),
                time(runs.on.driven.quantile(DRILL.victims, until, 1.0)),
                again(End::Good),
                again(End::Failed) + again(End::Refused),
                time(runs.on.took("jobs", 0.0..f64::INFINITY, 1.0))
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliveries::tests::run;

    const WELL: Seen = Seen { twice: 0, lost: 30, broken: 0, paid: 1.0, after: 1.0 };

    fn check(change: impl Fn(&mut Seen), expected: bool) {
        let mut seen = WELL;
        change(&mut seen);
        assert_eq!(seen.holds(), expected, "{seen:?}");
    }

    #[test]
    fn holds_only_if_nothing_is_paid_twice_and_it_goes_on() {
        check(|_| (), true);
        check(|seen| seen.twice = 1, false);
        check(|seen| seen.lost = 0, false);
        check(|seen| seen.broken = 1, false);
        check(|seen| seen.paid = 0.999, false);
        check(|seen| seen.after = 0.98, false);
    }

    #[test]
    fn who_is_answered_late_was_not_answered_at_once() {
        let mut driven = run(&[("clients", 0, End::Good, None); 4]).driven;
        driven.asked[1].ended = Some(Duration::from_secs(3));
        driven.asked[2].end = End::Failed;
        assert_eq!((in_time(&driven, 0.0, 1.0), silence(&driven)), (0.5, 3.0));
    }
}
