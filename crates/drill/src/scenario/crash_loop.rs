//! The gate is killed again and again, while deliveries are promised and made.
//!
//! Protected, what was promised is on disk. Unprotected, each start finds its store empty: what a queue in memory is left with.

use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::run::{Run, RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "crash-loop",
    summary: "Tidegate itself is killed (`kill -9`) five times within five seconds, while clients hand in more than is made.",
    rule: "Protected, not one promise is broken, and no more deliveries are made more than once than may have been under way at the \
           kills (eight each). Unprotected, with a queue that forgets, promises are broken.",
    seconds: 8.0,
    fault: Window { from: 1.0, to: 6.0 },
    fault_name: "kills",
    about: About::Deliveries,
    victims: "",
    side,
    has_baseline: false,
    judge,
};

/// How often it is killed.
const KILLS: u32 = 5;
/// What clients hand in per second; and what is made: eight at once, a tenth of a second each.
const RATE: f64 = 120.0;
const AT_ONCE: u64 = 8;
const SERVICE: Duration = Duration::from_millis(100);

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(SERVICE);
    // Twice as many: at what was begun before a kill it works on.
    let apps = apps(setting, 1, &Behaviour { slots: 2 * AT_ONCE as usize, service, ..Behaviour::default() })?;
    let config = format!(
        "[store]\nurl = \"sqlite:{}\"\n\n[upstream.app]\nendpoints = {}\noutlier = {{ consecutive = 0 }}\n\n\
         [queue.jobs]\nupstream = \"app\"\nconcurrency = {AT_ONCE}\n\n\
         [[route]]\nname = \"jobs\"\nupstream = \"app\"\ndefer = \"always\"\n",
        crate::gate::STORE,
        endpoints(&apps)
    );
    let fault = DRILL.fault.at(setting.scale);
    let rates = vec![(0.0, RATE), (fault.end, 0.0)];
    let clients = Source { writes: true, rates, ..Source::steady("clients", 0.0) };
    let each = (fault.end - fault.start) / f64::from(KILLS);
    let kill = |number: u32| Duration::from_secs_f64(fault.start + each * f64::from(number));
    Ok(Side {
        kills: (0..KILLS).map(kill).collect(),
        forgets: kind == Kind::Off,
        drain: Duration::from_secs(20),
        ..DRILL.undisturbed(setting, apps, config, vec![clients])
    })
}

/// What the rule looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    /// How often the protected gate was killed.
    kills: u64,
    /// Promises; of those, broken; deliveries made more than once.
    promised: u64,
    broken: u64,
    repeated: u64,
    /// Unprotected: promises that were broken.
    lost: u64,
}

impl Seen {
    fn of(runs: &Runs) -> Seen {
        let kept = |run: &Run| run.kept("", 0.0..f64::INFINITY);
        let on = kept(&runs.on);
        Seen {
            kills: runs.on.kills.len() as u64,
            promised: on.promised,
            broken: on.lost(),
            repeated: on.repeated,
            lost: kept(&runs.off).lost(),
        }
    }

    fn holds(&self) -> bool {
        self.kills > 1
            && self.promised > 0
            && self.broken == 0
            && self.repeated <= AT_ONCE * self.kills
            && self.lost > 0
    }
}

fn judge(_: &Setting<'_>, runs: &Runs) -> Judged {
    let seen = Seen::of(runs);
    let all = 0.0..f64::INFINITY;
    let refused = 1.0 - runs.on.driven.success("", all.clone());
    Judged {
        passed: seen.holds(),
        reason: format!(
            "after {} kills {} of {} promises were broken, and {} deliveries were made more than once (at most {}); unprotected, {} \
             promises were broken",
            seen.kills,
            seen.broken,
            seen.promised,
            seen.repeated,
            AT_ONCE * seen.kills,
            seen.lost
        ),
        told: vec![
            format!(
                "Unprotected, whatever waited or was under way at a kill was gone, {} promises in all: clients had been told that it would \
                 be made, and nobody knows of it any more. The longer the line, the more is lost, and a process dies most \
                 easily when the line is long.",
                seen.lost
            ),
            format!(
                "Protected, a client is told 202 once its request is on disk, and each start goes on where the last one was cut: \
                 the last promise was kept {} after it was made. {} of the clients' requests got no promise, as nobody was there to give \
                 one: those know that they have to ask again.",
                time(runs.on.took("", all, 1.0)),
                share(refused)
            ),
            format!(
                "What was under way at a kill is made once more, since nobody can know how far it had come: {} deliveries here, each \
                 with the same `Tidegate-Delivery-Id` and another `Tidegate-Attempt`. That is the price of losing nothing, and \
                 why an application should know repeats by the `Idempotency-Key` that comes with each.",
                seen.repeated
            ),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliveries::tests::run;
    use crate::load::End;

    const WELL: Seen = Seen { kills: 5, promised: 600, broken: 0, repeated: 40, lost: 200 };

    fn check(change: impl Fn(&mut Seen), expected: bool) {
        let mut seen = WELL;
        change(&mut seen);
        assert_eq!(seen.holds(), expected, "{seen:?}");
    }

    #[test]
    fn holds_only_if_nothing_promised_is_lost_and_little_made_twice() {
        check(|_| (), true);
        check(|seen| seen.kills = 1, false);
        check(|seen| seen.promised = 0, false);
        check(|seen| seen.broken = 1, false);
        check(|seen| seen.repeated = 41, false);
        check(|seen| seen.lost = 0, false);
    }

    #[test]
    fn what_nobody_was_promised_is_not_missed() {
        let made = Some((10, 20, 1, 1));
        let off = run(&[("clients", 0, End::Good, None), ("clients", 0, End::Good, made)]);
        let on = run(&[("clients", 0, End::Failed, None), ("clients", 0, End::Good, made)]);
        let seen = Seen::of(&Runs { off, on, baseline: None });
        assert_eq!((seen.promised, seen.broken, seen.lost), (1, 0, 1));
    }
}
