//! A crawler asks for everything once, and takes room in a cache from what is asked for again and again.

use std::time::Duration;

use super::{apps, one_route};
use crate::app::{Answer, Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Objects, Source};
use crate::run::{Run, RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "scan-resistance",
    summary: "Clients ask for sixty things, some more often than others, which have room in the cache. A crawler goes through \
              850 others, six times what has room, and asks for each once. The upstream alone cannot bear both.",
    rule: "Protected, at least 99.9 % of the clients' requests are answered well while the crawler is there, and the \
           application is asked for their things at most 1.5 times as often as without it. Unprotected, fewer than half are \
           answered well.",
    seconds: 9.0,
    fault: Window { from: 3.0, to: 8.0 },
    fault_name: "crawler",
    about: About::Exchanges,
    victims: "clients",
    side,
    has_baseline: true,
    judge,
};

/// Things that clients ask for, and how often per second in all.
const THINGS: u32 = 60;
const RATE: f64 = 150.0;
/// What the crawler asks for per second. The upstream does 200.
const CRAWL: f64 = 170.0;
/// Bytes of each thing. All that clients ask for takes half of what one tenant may have, which is half of the cache.
const BYTES: usize = 8 << 10;
/// How long clients wait.
const PATIENCE: Duration = Duration::from_millis(500);
/// Requests that wait within the application: a second of work.
const LINE: usize = 200;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let behaviour = Behaviour {
        slots: 4,
        waiting_max: LINE,
        service: Service::Constant(Duration::from_millis(20)),
        answer: Answer { cache_control: "max-age=60", bytes: BYTES, ..Answer::default() },
        ..Behaviour::default()
    };
    let apps = apps(setting, 1, &behaviour)?;
    let (room, cache) = match kind {
        Kind::Off => ("", ""),
        Kind::On | Kind::Baseline => ("[cache]\nmemory = \"2MiB\"\n\n", "cache = {}\n"),
    };
    let config = format!("{room}{}", one_route(&apps, "", cache));
    let fault = DRILL.fault.at(setting.scale);
    let clients = Source {
        path: "/thing/".to_owned(),
        objects: Objects::Popular(THINGS),
        timeout: PATIENCE,
        ..Source::steady("clients", RATE)
    };
    let rate = if kind == Kind::Baseline { 0.0 } else { CRAWL };
    let crawler = Source {
        path: "/everything/".to_owned(),
        objects: Objects::Each,
        rates: vec![(fault.start, rate), (fault.end, 0.0)],
        ..Source::steady("crawler", 0.0)
    };
    Ok(DRILL.undisturbed(setting, apps, config, vec![clients, crawler]))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let fault = DRILL.fault.at(setting.scale);
    let (off, on) = (&runs.off, &runs.on);
    let baseline = runs.baseline.as_ref().unwrap_or(on);
    let fine = |run: &Run| run.driven.success("clients", fault.clone());
    let asked = |run: &Run| run.sum(|counts| counts.of_place("thing"));
    let crawled = |run: &Run| run.sum(|counts| counts.of_place("everything"));
    let most = 1.5 * asked(baseline) as f64;
    let of = on.driven.due("clients", 0.0..DRILL.seconds * setting.scale).count();
    Judged {
        passed: fine(on) >= 0.999 && asked(on) as f64 <= most && fine(off) < 0.5,
        reason: format!(
            "with the protection {} of the clients' requests were answered well (p99 {}), and of {of} the application saw {} \
             (without the crawler {}, at most {most:.0}); without the protection {} were answered well",
            share(fine(on)),
            time(on.driven.quantile("clients", fault.clone(), 0.99)),
            asked(on),
            asked(baseline),
            share(fine(off))
        ),
        told: vec![
            format!(
                "Unprotected, clients and crawler together asked for more than the application can do, and stood in one \
                 line, {} long. {} of the clients' requests were answered well.",
                off.line_most(),
                share(fine(off))
            ),
            format!(
                "Protected, {} things of the crawler's, {} MiB, went through a cache in which this tenant has one. What was \
                 asked for once went first, and what was asked for again stayed: the application was asked for the \
                 clients' things {} times, and {} times where no crawler was.",
                crawled(on),
                (crawled(on) as usize * BYTES) >> 20,
                asked(on),
                asked(baseline)
            ),
        ],
    }
}
