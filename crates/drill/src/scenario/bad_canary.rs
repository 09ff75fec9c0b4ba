//! A release gone bad: a fifth of the tenants have the next version, which begins to fail.

use std::sync::Arc;
use std::time::Duration;

use super::apps;
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{Driven, Source};
use crate::run::{RunError, Setting, Side};
use crate::told::share;

/// The drill.
pub const DRILL: Drill = Drill {
    name: "bad-canary",
    summary: "A fifth of a hundred tenants have the next version. Two seconds later it answers three requests of five with 500, \
              and its health checks pass.",
    rule: "Protected, from 3 s after it went bad at least 99.5 % of requests are answered well. Unprotected, fewer than 95 %.",
    seconds: 10.0,
    fault: Window { from: 2.0, to: 10.0 },
    fault_name: "the next version fails",
    about: About::Exchanges,
    victims: "tenant",
    side,
    has_baseline: false,
    judge,
};

/// Tenants, each of whom asks twice a second.
const TENANTS: usize = 100;
/// The share of the next version's answers that are errors.
const ERRORS: f64 = 0.6;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(5));
    let apps = apps(setting, 2, &Behaviour { slots: 16, service, ..Behaviour::default() })?;
    let route = match kind {
        Kind::Off => "to = [{ upstream = \"app\", weight = 4 }, { upstream = \"next\", weight = 1 }]\n",
        Kind::On | Kind::Baseline => {
            "upstream = \"app\"\n\
             canary = { upstream = \"next\", steps = [\"20%\"], every = \"1h\", rollback = { window = \"2s\" } }\n"
        }
    };
    let upstream = |name: &str, number: usize| {
        let address = apps[number].address();
        format!("[upstream.{name}]\nendpoints = [\"{address}\"]\noutlier = {{ consecutive = 0 }}\n\n")
    };
    let config = format!(
        "{}{}{}[[route]]\nname = \"app\"\nretry = {{ tries = 1 }}\n{route}",
        super::TENANTS,
        upstream("app", 0),
        upstream("next", 1)
    );
    let tenant =
        |number: usize| Source::steady(&format!("tenant {number}"), 2.0).of(&format!("tenant-{number}"));
    let from = Duration::from_secs_f64(DRILL.fault.at(setting.scale).start);
    let next = Arc::clone(&apps[1]);
    let mut side = DRILL.undisturbed(setting, apps, config, (0..TENANTS).map(tenant).collect());
    side.acts.push((from, Box::new(move || next.change(|behaviour| behaviour.gray.error_share = ERRORS))));
    Ok(side)
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    /// Until then it has to be found out.
    const FOUND: f64 = 3.0;
    /// A run's last requests may still be under way.
    const TAIL: f64 = 1.0;
    let fault = DRILL.fault.at(setting.scale);
    let found = fault.start + FOUND * setting.scale..fault.end - TAIL * setting.scale;
    let well = |driven: &Driven| driven.success("tenant", found.clone());
    let (off, on) = (well(&runs.off.driven), well(&runs.on.driven));
    let served = |run: &crate::run::Run| run.apps.get(1).map_or(0, |counts| counts.requests);
    Judged {
        passed: on >= 0.995 && off < 0.95,
        reason: format!(
            "from 3 s after the next version went bad {} of requests were answered well with the protection and {} without",
            share(on),
            share(off)
        ),
        told: vec![
            format!(
                "Unprotected, the share of the next version is what somebody has written, until somebody writes another: it got {} \
                 requests of the run, and the same tenants met its errors all the while. No health check, and no breaker, sees an \
                 application that answers quickly and wrongly three times in five.",
                served(&runs.off)
            ),
            format!(
                "Protected, both versions are held against each other each second: the errors of the next one were more than chance \
                 explains, and it was given nothing more, after {} requests. It stays so until an operator says otherwise.",
                served(&runs.on)
            ),
        ],
    }
}
