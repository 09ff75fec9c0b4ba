//! A flood of connections that say nothing.

use super::slowloris::{attacked, judged};
use crate::drill::{About, Drill, Judged, Kind, Runs, Window};
use crate::load;
use crate::run::{RunError, Setting, Side};

/// The drill.
pub const DRILL: Drill = Drill {
    name: "connection-flood",
    summary: "An attacker opens 100 connections a second and says nothing on any of them.",
    rule: "Protected, ordinary clients are answered well at least 99 % of the time during the attack. Unprotected, less \
           than half of the time in its second half.",
    seconds: 10.0,
    fault: Window { from: 2.0, to: 8.0 },
    fault_name: "connection flood",
    about: About::Exchanges,
    victims: "clients",
    side,
    has_baseline: false,
    judge,
};

fn side(setting: &Setting<'_>, kind: Kind) -> Result<Side, RunError> {
    let limits = match kind {
        Kind::Off => "idle = \"1h\"\nhandshake_time = \"1h\"\nheader_time = \"1h\"",
        Kind::On | Kind::Baseline => "idle = \"1s\"\nhandshake_time = \"1s\"\nheader_time = \"1s\"",
    };
    attacked(setting, &DRILL, load::Kind::Silent, limits)
}

fn judge(setting: &Setting<'_>, runs: &Runs) -> Judged {
    judged(
        setting,
        &DRILL,
        runs,
        "Protected, a connection without a request is closed after a second (`idle`)",
    )
}
