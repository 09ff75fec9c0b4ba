//! The drills there are, a file each.
//!
//! A drill's file says what is tried on both sides, which configuration protects, and by which rule the runs are judged. "Off"
//! is plain proxying with the protections in question left out, as the field's defaults have it; where a bound is lower
//! than any product's default, it is so on both sides, and the drill says why.

mod connection_flood;
mod dead_upstream;
mod poison_tenant;
mod rolling_restart;
mod slowloris;
mod thundering_reconnect;

use std::sync::Arc;

use crate::app::{App, Behaviour};
use crate::drill::Drill;
use crate::run::{RunError, Setting};

/// All drills, in the order in which they are listed.
pub const ALL: [Drill; 6] = [
    dead_upstream::DRILL,
    rolling_restart::DRILL,
    slowloris::DRILL,
    connection_flood::DRILL,
    thundering_reconnect::DRILL,
    poison_tenant::DRILL,
];

/// The drill of this name.
#[must_use]
pub fn find(name: &str) -> Option<Drill> {
    ALL.into_iter().find(|drill| drill.name == name)
}

/// So many applications that behave alike.
fn apps(setting: &Setting<'_>, count: u64, behaviour: &Behaviour) -> Result<Vec<Arc<App>>, RunError> {
    let start = |number| App::start(setting.seed ^ number, behaviour.clone()).map(Arc::new);
    Ok((0..count).map(start).collect::<Result<_, _>>()?)
}

/// Their addresses, as a list in a configuration.
fn endpoints(apps: &[Arc<App>]) -> String {
    let all: Vec<String> = apps.iter().map(|app| format!("\"{}\"", app.address())).collect();
    format!("[{}]", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drill_has_a_name_of_its_own_a_rule_and_an_end() {
        for (index, drill) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.name != drill.name), "{}", drill.name);
            assert!(!drill.rule.is_empty() && !drill.summary.is_empty());
            let sides = if drill.has_baseline { 3.0 } else { 2.0 };
            assert!(drill.seconds * sides < 29.0, "{} takes too long", drill.name);
            assert!(drill.fault.from < drill.fault.to && drill.fault.to <= drill.seconds, "{}", drill.name);
        }
    }
}
