//! Many ask at the same moment for a page that nobody has yet.

use std::ops::Range;
use std::time::Duration;

use super::{apps, one_route, others};
use crate::app::{Answer, Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::run::{Run, RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "cache-stampede",
    summary: "Three times a page is announced, and 400 clients ask for it within a quarter of a second. It takes an \
              application as long to make it, which makes eight at once, and has others to serve.",
    rule: "Protected, each page is made once; at least 99.9 % of the crowd have it, with a p99 of at most 0.6 s, and the \
           others' p99 is at most 0.4 s. Unprotected, fewer than half of the crowd have it.",
    seconds: 8.0,
    fault: Window { from: 1.5, to: 5.0 },
    fault_name: "announcements",
    about: About::Exchanges,
    victims: "crowd",
    side,
    has_baseline: false,
    judge,
};

/// What a page takes.
const MADE_IN: Duration = Duration::from_millis(250);
/// How long the crowd waits, and the others.
const PATIENCE: Duration = Duration::from_secs(2);
/// Clients of a crowd per second, and for how long.
const RUSH: f64 = 1600.0;
const RUSH_SECONDS: f64 = 0.25;
/// The pages, and when each is announced.
const PAGES: [(&str, f64); 3] = [("page-1", 1.5), ("page-2", 3.0), ("page-3", 4.5)];
/// Requests that wait within the application.
const LINE: usize = 200;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let behaviour = Behaviour {
        slots: 8,
        waiting_max: LINE,
        service: Service::Constant(MADE_IN),
        answer: Answer { cache_control: "max-age=60", bytes: 16 << 10, ..Answer::default() },
        ..Behaviour::default()
    };
    let apps = apps(setting, 1, &behaviour)?;
    let cache = match kind {
        Kind::Off => "",
        Kind::On | Kind::Baseline => "cache = {}\n",
    };
    let config = one_route(&apps, "", cache);
    let crowds = PAGES.iter().map(|(page, at)| {
        let from = at * setting.scale;
        Source {
            path: format!("/{page}"),
            rates: vec![(from, RUSH), (from + RUSH_SECONDS * setting.scale, 0.0)],
            timeout: PATIENCE,
            ..Source::steady(&format!("crowd of {page}"), 0.0)
        }
    });
    let sources = std::iter::once(others(12.0, PATIENCE)).chain(crowds).collect();
    Ok(DRILL.undisturbed(setting, apps, config, sources))
}

/// How often the page that was made most often was made.
fn made(run: &Run) -> u64 {
    PAGES.iter().map(|(page, _)| run.sum(|counts| counts.of_place(page))).max().unwrap_or_default()
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let whole: Range<f64> = 0.0..DRILL.seconds * setting.scale;
    // Whoever comes at the end may still wait.
    let settled = 0.0..(DRILL.seconds - 1.0) * setting.scale;
    let (off, on) = (&runs.off, &runs.on);
    let have = |run: &Run| run.driven.success("crowd", whole.clone());
    let slow = on.driven.quantile("crowd", whole.clone(), 0.99);
    let others = |run: &Run| run.driven.quantile("others", settled.clone(), 0.99);
    Judged {
        passed: made(on) == 1 && have(on) >= 0.999 && slow <= 0.6 && others(on) <= 0.4 && have(off) < 0.5,
        reason: format!(
            "with the protection a page was made {} at most, {} of the crowd had it (p99 {}), the others' p99 was {}; \
             without, {} of the crowd had it, and pages were asked of the application {} times",
            times(made(on)),
            share(have(on)),
            time(slow),
            time(others(on)),
            share(have(off)),
            PAGES.iter().map(|(page, _)| off.sum(|counts| counts.of_place(page))).sum::<u64>()
        ),
        told: vec![
            format!(
                "Unprotected, each client's request was work of {} ms, of which the application does 32 a second: a line of \
                 {}, and whoever found it full was turned away. The others stood in the same line: {} of them were \
                 answered well. Nobody asked for more than one page: the same work was done again and again.",
                MADE_IN.as_millis(),
                off.line_most(),
                share(off.driven.success("others", settled.clone()))
            ),
            format!(
                "Protected, the first of a crowd made one request, and whoever came before it was answered read the same \
                 answer as it came; whoever came later had it from memory. To the application a crowd of {:.0} was one \
                 client, and its longest line was {}.",
                RUSH * RUSH_SECONDS * setting.scale,
                on.line_most()
            ),
        ],
    }
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}
