//! An upstream hangs, and then is gone: what it answered before stands in for it.

use std::sync::Arc;
use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Answer, Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Act, Objects, Source};
use crate::run::{Run, RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "stale-on-outage",
    summary: "An upstream whose answers are fresh for a second hangs for two seconds, and is gone for two more. Both sides \
              cache, and have a breaker.",
    rule: "Protected, at least 99 % are answered well while it is away, with a p99 of at most 0.6 s; afterwards at least \
           99.5 %, by an upstream that is asked again. Unprotected, fewer than half are while it is away.",
    seconds: 10.0,
    fault: Window { from: 3.0, to: 7.0 },
    fault_name: "the upstream is away",
    about: About::Exchanges,
    victims: "",
    side,
    has_baseline: false,
    judge,
};

/// What clients ask for per second, and of how many things.
const RATE: f64 = 200.0;
const THINGS: u32 = 30;
/// How long clients wait.
const PATIENCE: Duration = Duration::from_secs(1);

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let behaviour = Behaviour {
        service: Service::Constant(Duration::from_millis(20)),
        answer: Answer { cache_control: "max-age=1", bytes: 4 << 10, ..Answer::default() },
        ..Behaviour::default()
    };
    let apps = apps(setting, 1, &behaviour)?;
    let stale = match kind {
        Kind::Off => "0s",
        Kind::On | Kind::Baseline => "1m",
    };
    let config = format!(
        "[upstream.app]\nendpoints = {}\nbreaker = {{ consecutive = 5, cooldown = \"500ms\" }}\n\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\ndeadline = \"1s\"\n\
         retry = {{ tries = 1, try_timeout = \"300ms\" }}\ncache = {{ stale_if_error = \"{stale}\" }}\n",
        endpoints(&apps)
    );
    let fault = DRILL.fault.at(setting.scale);
    let at = Duration::from_secs_f64;
    let (hangs, goes, returns) = (Arc::clone(&apps[0]), Arc::clone(&apps[0]), Arc::clone(&apps[0]));
    let clients = Source {
        path: "/thing/".to_owned(),
        objects: Objects::Popular(THINGS),
        timeout: PATIENCE,
        ..Source::steady("clients", RATE)
    };
    let acts: Vec<Act> = vec![
        (at(fault.start), Box::new(move || hangs.hang())),
        (at((fault.start + fault.end) / 2.0), Box::new(move || goes.crash())),
        (at(fault.end), Box::new(move || returns.restart())),
    ];
    let side = DRILL.undisturbed(setting, apps, config, vec![clients]);
    Ok(Side { acts, ..side })
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let fault = DRILL.fault.at(setting.scale);
    let after = DRILL.mended(setting.scale);
    let (off, on) = (&runs.off, &runs.on);
    let held = |run: &Run| run.driven.success("", fault.clone());
    let slow = on.driven.quantile("", fault.clone(), 0.99);
    let back = on.driven.success("", after.clone());
    let again = on.useful(&after);
    Judged {
        passed: held(on) >= 0.99 && slow <= 0.6 && back >= 0.995 && again > 0.0 && held(off) < 0.5,
        reason: format!(
            "while it was away, {} were answered well with the protection (p99 {}) and {} without; {} afterwards, with \
             {again:.2} slots of it at work",
            share(held(on)),
            time(slow),
            share(held(off)),
            share(back)
        ),
        told: vec![
            format!(
                "Unprotected, there was a cache, too: each answer stood in for its second, and then there was nothing \
                 that might be served. {} were answered well, most of them in the first second.",
                share(held(off))
            ),
            format!(
                "Protected, what was stale stood in for an upstream that failed, for no longer than the route says. Until \
                 the breaker opened, one client of each thing waited 300 ms for a try, and others with it; then all were \
                 answered at once (median {}), while single probes looked for the upstream.",
                time(on.driven.answered_quantile("", fault, 0.5))
            ),
        ],
    }
}
