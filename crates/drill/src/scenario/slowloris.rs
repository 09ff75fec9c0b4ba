//! Slowloris: connections that send a request's head a byte at a time.

use std::time::Duration;

use super::{apps, endpoints};
use crate::app::{Behaviour, Service};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load::{self, Hostile, Source};
use crate::run::{RunError, Setting, Side};
use crate::told::{share, time};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "slowloris",
    summary: "An attacker opens 100 connections a second and sends a byte now and then on each, never a whole head.",
    rule: "Protected, ordinary clients are answered well at least 99 % of the time during the attack. Unprotected, less \
           than half of the time in its second half.",
    seconds: 10.0,
    fault: Window { from: 2.0, to: 8.0 },
    fault_name: "slowloris",
    about: About::Exchanges,
    victims: "clients",
    side,
    has_baseline: false,
    judge,
};

/// Connections that the gate takes, on both sides. (The default is 100,000; an attacker that fills those needs more than a
/// laptop, and fills them in the same way.)
pub(super) const CONNECTIONS: u32 = 200;
/// New connections of the attacker per second.
pub(super) const ATTACK: f64 = 100.0;

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let limits = match kind {
        Kind::Off => "header_time = \"10m\"",
        Kind::On | Kind::Baseline => "header_time = \"1s\"",
    };
    attacked(setting, &DRILL, load::Kind::Slowloris, limits)
}

/// A gate under such an attack, with these limits.
pub(super) fn attacked(
    setting: &Setting<'_>,
    drill: &Drill,
    kind: load::Kind,
    limits: &str,
) -> Result<Side, RunError> {
    let service = Service::Exponential(Duration::from_millis(5));
    let apps = apps(setting, 1, &Behaviour { slots: 32, service, ..Behaviour::default() })?;
    let config = format!(
        "[limits]\nconnections = {CONNECTIONS}\n{limits}\n\n[upstream.app]\nendpoints = {}\n\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\n",
        endpoints(&apps)
    );
    // Each on a connection of its own: whoever has one already sees nothing of such an attack.
    let sources = vec![Source { fresh: true, ..Source::steady("clients", 60.0) }];
    let hostile = vec![Hostile { kind, seconds: drill.fault.at(setting.scale), rate: ATTACK }];
    Ok(Side { hostile, ..drill.undisturbed(setting, apps, config, sources) })
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    let mechanism = "Protected, a head has to be whole a second after its first byte (`header_time`)";
    judged(setting, &DRILL, runs, mechanism)
}

/// The judgement of such an attack.
pub(super) fn judged(setting: &Setting<'_>, drill: &Drill, runs: &Runs, mechanism: &str) -> Judged {
    let attack = drill.fault.at(setting.scale);
    let second_half = f64::midpoint(attack.start, attack.end)..attack.end;
    let (off, on) = (&runs.off.driven, &runs.on.driven);
    let lost = off.success("clients", second_half);
    let held = on.success("clients", attack.clone());
    Judged {
        passed: held >= 0.99 && lost < 0.5,
        reason: format!(
            "{} of ordinary requests were answered well under attack with the protection; without it {} in the attack's \
             second half",
            share(held),
            share(lost)
        ),
        told: vec![
            format!(
                "Unprotected, nothing ended the attacker's connections: up to {} were held at once, of {CONNECTIONS} that \
                 the gate takes. Whoever came then was refused (`server.connections`), though the application was idle.",
                off.hostile.held_most
            ),
            format!(
                "{mechanism}: of {} connections that the attacker made {} were closed under its hands, and it never held \
                 more than {}: its rate times that time. Ordinary requests had a p99 of {}.",
                on.hostile.made,
                on.hostile.closed,
                on.hostile.held_most,
                time(on.quantile("clients", attack, 0.99))
            ),
        ],
    }
}
