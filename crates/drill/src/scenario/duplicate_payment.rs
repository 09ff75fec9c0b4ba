//! A payment server becomes slow, and clients that got no answer in time ask again.
//!
//! No server can tell a repeat from a second payment by itself. Both sides' clients say which it is
//! (`Idempotency-Key`); the server, as most do, does not look.

use std::sync::Arc;
use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Act, Source};
use crate::run::{RunError, Setting, Side};
use crate::told::share;

/// The drill.
pub const DRILL: Drill = Drill {
    name: "duplicate-payment",
    summary: "A payment server becomes slow, and clients that got no answer in time send their payment again, with the same \
              key, which the server does not look at.",
    rule: "Protected, no payment reaches the server twice, and at least 95 % of those that were due until the end of the fault are \
           answered well. Unprotected, at least one in twenty is made twice or more.",
    seconds: 12.0,
    fault: Window { from: 2.0, to: 6.0 },
    fault_name: "the server is slow",
    about: About::Exchanges,
    victims: "clients",
    side,
    has_baseline: false,
    judge,
};

/// Payments per second.
const RATE: f64 = 40.0;
/// How long clients wait for an answer to one try; how often they try in all, and what they wait in between.
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(100);
/// How many times longer a payment takes while the server is slow: then most take longer than a client waits.
const SLOWER: f64 = 12.0;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(60));
    let all = apps(setting, 1, &Behaviour { slots: 512, service, ..Behaviour::default() })?;
    let protection = match kind {
        Kind::Off => "",
        Kind::On | Kind::Baseline => "idempotency = { required = true }\n",
    };
    let store = if protection.is_empty() { "" } else { "[store]\nurl = \"sqlite:payments\"\n\n" };
    // The same patience with the server on both sides: more than any payment takes.
    let config = format!(
        "{store}[upstream.app]\nendpoints = {}\noutlier = {{ consecutive = 0 }}\nbreaker = false\n\n\
         [[route]]\nname = \"payments\"\nupstream = \"app\"\ndeadline = \"30s\"\nretry = {{ tries = 1 }}\n{protection}",
        endpoints(&all)
    );
    let fault = DRILL.fault.at(setting.scale);
    let at = Duration::from_secs_f64;
    let (slow, well) = (Arc::clone(&all[0]), Arc::clone(&all[0]));
    let clients = Source {
        writes: true,
        keys: true,
        timeout: PATIENCE,
        tries: TRIES,
        pause: PAUSE,
        // Nobody pays any more when the run ends: what was begun has time to be answered.
        rates: vec![(0.0, RATE), (DRILL.seconds * setting.scale / 2.0, 0.0)],
        ..Source::steady("clients", 0.0)
    };
    let acts: Vec<Act> = vec![
        (at(fault.start), Box::new(move || slow.change(|behaviour| behaviour.slowdown = SLOWER))),
        (at(fault.end), Box::new(move || well.change(|behaviour| behaviour.slowdown = 1.0))),
    ];
    Ok(Side { acts, ..DRILL.undisturbed(setting, all, config, vec![clients]) })
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let due = 0.0..DRILL.fault.at(setting.scale).end;
    let (off, on) = (&runs.off, &runs.on);
    let (twice, never) = (off.sum(|counts| counts.repeats), on.sum(|counts| counts.repeats));
    let payments = off.driven.offered("clients", due.clone()) * due.end;
    let paid = on.driven.success("clients", due);
    let all = 0.0..DRILL.seconds * setting.scale;
    let tries = on.driven.tries(all.clone()) * all.end;
    Judged {
        passed: never == 0 && paid >= 0.95 && twice as f64 >= payments / 20.0,
        reason: format!(
            "of {payments:.0} payments, {twice} were made once more than they should have been without the protection, and \
             {never} with it, where {} were answered well",
            share(paid)
        ),
        told: vec![
            format!(
                "Unprotected, a client that waited {} ms in vain sent its payment again, and the server, which had only been \
                 slow, made it again: {twice} times. Had the client not asked again, it would not have known whether it had paid.",
                PATIENCE.as_millis()
            ),
            format!(
                "Protected, the clients tried as often ({tries:.0} times in all), but only the first try of each payment \
                 was forwarded: its key was claimed on disk before, it was finished though its client had left, and \
                 who asked again waited for it or was told what it had come to."
            ),
        ],
    }
}
