//! An upstream dies in the way that hurts: it goes on accepting and answers nothing.

use std::sync::Arc;
use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Act, Source};
use crate::run::{RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "dead-upstream",
    summary: "An upstream hangs: it accepts and answers nothing. A breaker and a fallback keep answering.",
    rule: "Protected, at least 98 % are answered well while it hangs and no answer takes longer than 0.6 s at p99; \
           afterwards at least 99 %. Unprotected, fewer than half are while it hangs.",
    seconds: 10.0,
    fault: Window { from: 3.0, to: 7.0 },
    fault_name: "the upstream hangs",
    about: About::Exchanges,
    victims: "",
    side,
    has_baseline: false,
    judge,
};

/// What clients wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(10));
    let all = apps(setting, 2, &Behaviour { slots: 32, service, ..Behaviour::default() })?;
    let (main, reserve) = (endpoints(&all[..1]), endpoints(&all[1..]));
    let config = match kind {
        Kind::Off => format!(
            "[upstream.app]\nendpoints = {main}\noutlier = {{ consecutive = 0 }}\n\n\
             [[route]]\nname = \"app\"\nupstream = \"app\"\ndeadline = \"1s\"\nretry = {{ tries = 1 }}\n"
        ),
        Kind::On | Kind::Baseline => format!(
            "[upstream.app]\nendpoints = {main}\nbreaker = {{ consecutive = 5, cooldown = \"500ms\" }}\n\n\
             [upstream.reserve]\nendpoints = {reserve}\n\n\
             [[route]]\nname = \"app\"\nupstream = \"app\"\ndeadline = \"1s\"\n\
             retry = {{ tries = 1, try_timeout = \"300ms\" }}\nfallback = [{{ upstream = \"reserve\" }}]\n"
        ),
    };
    let fault = DRILL.fault.at(setting.scale);
    let at = Duration::from_secs_f64;
    let (hangs, wakes) = (Arc::clone(&all[0]), Arc::clone(&all[0]));
    let acts: Vec<Act> = vec![
        (at(fault.start), Box::new(move || hangs.hang())),
        (at(fault.end), Box::new(move || wakes.resume())),
    ];
    let side = DRILL.undisturbed(
        setting,
        all,
        config,
        vec![Source { timeout: PATIENCE, ..Source::steady("clients", 200.0) }],
    );
    Ok(Side { acts, ..side })
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let fault = DRILL.fault.at(setting.scale);
    let after = DRILL.mended(setting.scale);
    let (off, on) = (&runs.off, &runs.on);
    let lost = off.driven.success("", fault.clone());
    let held = on.driven.success("", fault.clone());
    let slow = on.driven.quantile("", fault, 0.99);
    let back = on.driven.success("", after);
    let reserve = on.apps.get(1).map_or(0, |counts| counts.served);
    let hung = on.apps.first().map_or(0, |counts| counts.wasted);
    Judged {
        passed: held >= 0.98 && slow <= 0.6 && back >= 0.99 && lost < 0.5,
        reason: format!(
            "while it hung, {} were answered well with the protection (p99 {}) and {} without; {} afterwards",
            share(held),
            time(slow),
            share(lost),
            share(back)
        ),
        told: vec![
            format!(
                "Unprotected, each request that went to the hanging upstream waited for its whole deadline of {}: the \
                 gate forwarded what nobody could answer, and {} did work for nobody when the upstream came back.",
                time(PATIENCE.as_secs_f64()),
                off.sum(|counts| counts.wasted)
            ),
            format!(
                "Protected, a try was given up after 300 ms; after five such in a row the breaker opened, and requests \
                 took the fallback at once: {reserve} were answered by the reserve. The breaker let single probes \
                 through, so that the hanging upstream had {hung} requests to work off for nobody, and was found again \
                 when it woke."
            ),
        ],
    }
}
