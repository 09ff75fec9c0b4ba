//! One thing is suddenly asked for by everybody, and is fresh for a second.

use std::time::Duration;

use super::{apps, one_route, others};
use crate::app::{Answer, Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::run::{Run, RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "hot-key",
    summary: "Of an upstream that does 80 requests a second, 30 are asked for all kinds of things, and suddenly 400 a second \
              for one that is fresh for a second.",
    rule: "Protected, from its first second on the hot thing's p99 is at most 50 ms, which is half of what it takes to make \
           it; it is made at most twice a second; and the others' p99 is at most 1.5 times what it is without it, plus 20 \
           ms. Unprotected, fewer than half of the others are answered well.",
    seconds: 8.0,
    fault: Window { from: 1.5, to: 7.0 },
    fault_name: "hot",
    about: About::Exchanges,
    victims: "others",
    side,
    has_baseline: true,
    judge,
};

/// What a request takes.
const MADE_IN: Duration = Duration::from_millis(100);
/// How long clients wait.
const PATIENCE: Duration = Duration::from_secs(1);
/// Requests that wait within the application.
const LINE: usize = 200;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let behaviour = Behaviour {
        slots: 8,
        waiting_max: LINE,
        service: Service::Constant(MADE_IN),
        answer: Answer { cache_control: "max-age=1", bytes: 4 << 10, ..Answer::default() },
        ..Behaviour::default()
    };
    let apps = apps(setting, 1, &behaviour)?;
    let cache = match kind {
        Kind::Off => "",
        Kind::On | Kind::Baseline => "cache = { stale_while_revalidate = \"5s\" }\n",
    };
    let config = one_route(&apps, "", cache);
    let fault = DRILL.fault.at(setting.scale);
    let rate = if kind == Kind::Baseline { 0.0 } else { 400.0 };
    let hot = Source {
        path: "/hot".to_owned(),
        rates: vec![(fault.start, rate), (fault.end, 0.0)],
        timeout: PATIENCE,
        ..Source::steady("hot", 0.0)
    };
    Ok(DRILL.undisturbed(setting, apps, config, vec![others(30.0, PATIENCE), hot]))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let fault = DRILL.fault.at(setting.scale);
    let known = fault.start + setting.scale..fault.end;
    let (off, on) = (&runs.off, &runs.on);
    let baseline = runs.baseline.as_ref().unwrap_or(on);
    let hot = on.driven.quantile("hot", known, 0.99);
    let made = |run: &Run| run.sum(|counts| counts.of_place("hot"));
    let most = 2.0 * (fault.end - fault.start) + 1.0;
    let others = |run: &Run| run.driven.quantile("others", fault.clone(), 0.99);
    let bound = 1.5 * others(baseline) + 0.02;
    let fine = |run: &Run| run.driven.success("others", fault.clone());
    Judged {
        passed: hot <= 0.05 && made(on) as f64 <= most && others(on) <= bound && fine(off) < 0.5,
        reason: format!(
            "with the protection the hot thing's p99 was {}, it was made {} times (at most {most:.0}), and the others' p99 \
             was {} (without it {}, at most {}); without the protection {} of the others were answered well",
            time(hot),
            made(on),
            time(others(on)),
            time(others(baseline)),
            time(bound),
            share(fine(off))
        ),
        told: vec![
            format!(
                "Unprotected, the hot thing was asked of the application {} times, five times what it can do, and all else \
                 stood in the same line, {} long: {} of the others were answered well.",
                made(off),
                off.line_most(),
                share(fine(off))
            ),
            format!(
                "Protected, it was made {} times. One request fetched it while the first of those who asked waited together; \
                 from then on it was refreshed behind those who asked, shortly before or after its second was over, and \
                 nobody waited for it. The application had its slots for the others.",
                made(on)
            ),
        ],
    }
}
