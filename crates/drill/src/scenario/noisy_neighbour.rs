//! One tenant asks for fifty times its share.

use std::time::Duration;

use super::{TENANTS, apps, one_route};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::Source;
use crate::run::{RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "noisy-neighbour",
    summary: "Of an upstream that does 400 requests a second, with room for ten tenants, one tenant asks for fifty times \
              its tenth and another for no more than its own.",
    rule: "Protected, the quiet tenant's p99 is at most 1.5 times what it is alone plus one service time (20 ms), its \
           error rate at most 0.1 points above what it is alone, and all tenants together get at least 0.95 of the slot \
           time that first come first served turns into answers.",
    seconds: 9.0,
    fault: Window { from: 1.0, to: 8.0 },
    fault_name: "noisy tenant",
    about: About::Exchanges,
    victims: "quiet",
    side,
    has_baseline: true,
    judge,
};

/// What one request takes, on average.
const SERVICE: Duration = Duration::from_millis(20);
/// What the quiet tenant asks for: a tenth of what eight slots do.
const TENTH: f64 = 40.0;
/// Requests that wait within the application. A worker pool without such a bound answers nobody in time after a second of
/// this; with it, first come first served does all the work that can be done, and is the harder thing to compare with.
const LINE: usize = 200;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(SERVICE);
    let apps = apps(setting, 1, &Behaviour { slots: 8, waiting_max: LINE, service, ..Behaviour::default() })?;
    // Two more than the application's eight: they are there when a slot becomes free, for which a request from here would
    // come a way too late.
    let gate = match kind {
        Kind::Off => "",
        Kind::On | Kind::Baseline => "concurrency = 10\nwaiting = { limit = 200, wait = \"500ms\" }\n",
    };
    let config = format!("{TENANTS}{}", one_route(&apps, gate, ""));
    let fault = DRILL.fault.at(setting.scale);
    let noise = if kind == Kind::Baseline { 0.0 } else { 50.0 * TENTH };
    let noisy = Source {
        rates: vec![(fault.start, noise), (fault.end, 0.0)],
        ..Source::steady("noisy", 0.0).of("noisy")
    };
    let sources = vec![Source::steady("quiet", TENTH).of("quiet"), noisy];
    Ok(DRILL.undisturbed(setting, apps, config, sources))
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let fault = DRILL.fault.at(setting.scale);
    let (off, on) = (&runs.off.driven, &runs.on.driven);
    let baseline = runs.baseline.as_ref().map_or(on, |run| &run.driven);
    let slow = |run: &crate::load::Driven| run.quantile("quiet", fault.clone(), 0.99);
    let fine = |run: &crate::load::Driven| run.success("quiet", fault.clone());
    let (alone, bound) = (slow(baseline), 1.5 * slow(baseline) + SERVICE.as_secs_f64());
    let (useful_fifo, useful) = (runs.off.useful(&fault), runs.on.useful(&fault));
    let (fifo, all) = (off.goodput("", fault.clone()), on.goodput("", fault.clone()));
    let noisy = |run: &crate::load::Driven| run.goodput("noisy", fault.clone());
    Judged {
        passed: slow(on) <= bound && fine(on) >= fine(baseline) - 0.001 && useful >= 0.95 * useful_fifo,
        reason: format!(
            "the quiet tenant's p99 is {} (alone {}, at most {}), {} of its requests were answered well (alone {}), and \
             all together kept {useful:.2} of 8 slots at useful work (first come first served {useful_fifo:.2}): {all:.0} \
             answers a second, and {fifo:.0}",
            time(slow(on)),
            time(alone),
            time(bound),
            share(fine(on)),
            share(fine(baseline))
        ),
        told: vec![
            format!(
                "Unprotected, the line within the application, {} long, was the noisy tenant's: the quiet one stood at \
                 its end like everybody else. {} of its requests were answered well, those with a median of {}. The \
                 application worked at its limit all the while: the bottleneck was its eight slots, and who asks most \
                 has most of them.",
                runs.off.line_most(),
                share(fine(off)),
                time(off.answered_quantile("quiet", fault.clone(), 0.5))
            ),
            format!(
                "Protected, the line stood at the gate, which lets tenants take turns by the slot time that they really \
                 use. The quiet tenant asks for less than its share and hardly waits; what is left, {:.0} of {:.0} \
                 answers a second, is all the noisy one's. The slots were never idle for the sake of fairness.",
                noisy(on),
                all
            ),
        ],
    }
}
