//! Clients in a hurry behind clients that have time: work that is too late before it is begun, and is done all the same.

use std::fmt::Write as _;
use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::run::{RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "deadline-inversion",
    summary: "Half as much again is asked for as an upstream can do, a quarter of it by clients that wait no longer than \
              150 ms. They stand behind those that wait two seconds.",
    rule: "Protected, at most 3 % of the application's work is for clients that have left, at least half of the hurried \
           requests are answered well, and all together get at least 1.1 times what they get unprotected. Unprotected, \
           at least a tenth of the work is for nobody.",
    seconds: 11.0,
    fault: Window { from: 2.0, to: 9.0 },
    fault_name: "overload",
    about: About::Exchanges,
    victims: "hurried",
    side,
    has_baseline: false,
    judge,
};

/// Who asks: how often a second before and after, how often in the overload, and what they wait in milliseconds. The
/// upstream does 400.
const ASKED: [(&str, f64, f64, u64); 2] = [("hurried", 50.0, 150.0, 150), ("patient", 150.0, 450.0, 2000)];
/// Requests that wait within the application, half a second of work: with a longer line nobody at all is answered in time.
const LINE: usize = 200;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(20));
    let apps = apps(setting, 1, &Behaviour { slots: 8, waiting_max: LINE, service, ..Behaviour::default() })?;
    let gate = match kind {
        Kind::Off => "",
        Kind::On | Kind::Baseline => "concurrency = 9\nwaiting = { limit = 200, wait = \"500ms\" }\n",
    };
    let mut config =
        format!("[upstream.app]\nendpoints = {}\noutlier = {{ consecutive = 0 }}\n{gate}", endpoints(&apps));
    let fault = DRILL.fault.at(setting.scale);
    let mut sources = Vec::new();
    for (name, calm, much, patience) in ASKED {
        let deadline = if kind == Kind::Off { "60s".to_owned() } else { format!("{patience}ms") };
        let _ = write!(
            config,
            "\n[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"app\"\ndeadline = \"{deadline}\"\n\
             retry = {{ tries = 1 }}\n"
        );
        // All of one tenant, so that it is not fairness that helps.
        sources.push(Source {
            rates: vec![(0.0, calm), (fault.start, much), (fault.end, calm)],
            timeout: Duration::from_millis(patience),
            path: format!("/{name}"),
            ..Source::steady(name, 0.0)
        });
    }
    Ok(DRILL.undisturbed(setting, apps, config, sources))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    /// Until the line has formed.
    const FORMED: f64 = 1.0;
    let fault = DRILL.fault.at(setting.scale);
    let formed = fault.start + FORMED * setting.scale..fault.end;
    let (off, on) = (&runs.off.driven, &runs.on.driven);
    let (lost, held) = (off.success("hurried", formed.clone()), on.success("hurried", formed.clone()));
    let (before, all) = (off.goodput("", formed.clone()), on.goodput("", formed.clone()));
    let (wasted, saved) = (runs.off.wasted(), runs.on.wasted());
    let patient = |run: &crate::load::Driven| run.success("patient", formed.clone());
    Judged {
        passed: saved <= 0.03 && wasted >= 0.1 && held >= 0.5 && all >= 1.1 * before,
        reason: format!(
            "{} of the work was for nobody with the protection and {} without; {} and {} of hurried requests were answered \
             well; {all:.0} and {before:.0} answers a second in all",
            share(saved),
            share(wasted),
            share(held),
            share(lost)
        ),
        told: vec![
            format!(
                "Unprotected, all stood in one line within the application, up to {} long: half a second of work. That is \
                 nothing to clients that wait two seconds ({} answered well) and too long for those that wait 150 ms: \
                 each of their requests was begun after its client had left, and worked on to its end.",
                runs.off.line_most(),
                share(patient(off))
            ),
            format!(
                "Protected, the line stood at the gate, which knows when each request has to be answered: one that cannot \
                 be is refused before it costs anything, and under overload the newest go first. What the doomed work had \
                 cost became answers: {} of patient requests were answered well, with a p99 of {} where it had been {}.",
                share(patient(on)),
                time(on.answered_quantile("patient", formed.clone(), 0.99)),
                time(off.answered_quantile("patient", formed.clone(), 0.99))
            ),
        ],
    }
}
