//! An upstream at a third of its capacity: a failed machine, a cold cache, a neighbour on the same host.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::{apps, endpoints, recovery};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Act, Source};
use crate::run::{RunError, Setting, Side};
use crate::told::share;

/// The drill.
pub const DRILL: Drill = Drill {
    name: "brown-out",
    summary: "For five seconds an upstream has a third of its capacity: 133 requests a second of the 280 that are asked \
              for. Some of them are critical.",
    rule: "Protected, at least 99 % of critical requests are answered well meanwhile, at least 0.85 of the application's \
           slots do work that somebody waits for, and 2 s after its end at the latest at least 90 % of all requests are answered well in each half \
           second. Unprotected, fewer than half of the critical ones are.",
    seconds: 12.5,
    fault: Window { from: 3.0, to: 8.0 },
    fault_name: "a third of its capacity",
    about: About::Exchanges,
    victims: "critical",
    side,
    has_baseline: false,
    judge,
};

/// What is asked for, by priority, and how often a second. The upstream does 400.
const ASKED: [(&str, f64); 3] = [("critical", 50.0), ("default", 130.0), ("sheddable", 100.0)];
/// Requests that the application works on at the same time.
const SLOTS: usize = 8;
/// How much slower it is in the brown-out.
const SLOWER: f64 = 3.0;
/// What it does then.
const LEFT: f64 = 400.0 / SLOWER;
/// How long clients wait for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(20));
    let apps = apps(setting, 1, &Behaviour { slots: SLOTS, service, ..Behaviour::default() })?;
    let protected = kind != Kind::Off;
    let gate = if protected { "concurrency = \"adaptive\"\nwaiting = { wait = \"300ms\" }\n" } else { "" };
    let mut config =
        format!("[upstream.app]\nendpoints = {}\noutlier = {{ consecutive = 0 }}\n{gate}", endpoints(&apps));
    for (name, _) in ASKED {
        let more = if protected {
            format!("deadline = \"1s\"\npriority = \"{name}\"\n")
        } else {
            "deadline = \"60s\"\n".to_owned()
        };
        let _ = write!(
            config,
            "\n[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"app\"\nretry = {{ tries = 1 }}\n{more}"
        );
    }
    let source = |(name, rate): (&str, f64)| Source {
        path: format!("/{name}"),
        timeout: PATIENCE,
        ..Source::steady(name, rate)
    };
    let fault = DRILL.fault.at(setting.scale);
    let (ill, well) = (Arc::clone(&apps[0]), Arc::clone(&apps[0]));
    let at = Duration::from_secs_f64;
    let acts: Vec<Act> = vec![
        (at(fault.start), Box::new(move || ill.change(|behaviour| behaviour.slowdown = SLOWER))),
        (at(fault.end), Box::new(move || well.change(|behaviour| behaviour.slowdown = 1.0))),
    ];
    let side = DRILL.undisturbed(setting, apps, config, ASKED.into_iter().map(source).collect());
    Ok(Side { acts, ..side })
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let fault = DRILL.fault.at(setting.scale);
    let settled = DRILL.seconds * setting.scale - PATIENCE.as_secs_f64();
    let (off, on) = (&runs.off.driven, &runs.on.driven);
    let (lost, held) = (off.success("critical", fault.clone()), on.success("critical", fault.clone()));
    let (broken, done) = (off.goodput("", fault.clone()), on.goodput("", fault.clone()));
    let useful = runs.on.useful(&fault) / SLOTS as f64;
    let back = recovery(on, "", fault.end..settled, 0.9);
    let after = |back: Option<f64>| match back {
        Some(seconds) => format!("{seconds:.1} s after its end"),
        None => "not before the run's end".to_owned(),
    };
    let slots: Vec<f64> = runs.on.samples.iter().map(|sample| sample.gate_slots).collect();
    let most = slots.iter().copied().fold(0.0, f64::max);
    Judged {
        passed: held >= 0.99 && lost < 0.5 && useful >= 0.85 && back.is_some_and(|seconds| seconds <= 2.0),
        reason: format!(
            "meanwhile {} of critical requests were answered well with the protection and {} without; {done:.0} and \
             {broken:.0} answers a second, of {LEFT:.0} that can still be done; {} and {} of the slots did useful work; all was well again {} and {}",
            share(held),
            share(lost),
            share(useful),
            share(runs.off.useful(&fault) / SLOTS as f64),
            after(back),
            after(recovery(off, "", fault.end..settled, 0.9))
        ),
        told: vec![
            format!(
                "Unprotected, everything that was asked for went into the application's line, up to {} long. Within a \
                 second it was longer than anybody waits, and from then on each answer came too late, critical or not: {} \
                 of the run's work was for nobody, long after the capacity was back.",
                runs.off.line_most(),
                share(runs.off.wasted())
            ),
            format!(
                "Protected, nobody told the gate how many slots there are: it looks at how many more answers come when more \
                 is asked at once, and never let more than {most:.0} through. What did not fit was shed by priority: {} of \
                 sheddable requests were answered in the brown-out, {} of default ones, {} of critical ones.",
                share(on.success("sheddable", fault.clone())),
                share(on.success("default", fault.clone())),
                share(held)
            ),
        ],
    }
}
