//! The drills there are, a file each.
//!
//! A drill's file says what is tried on both sides, which configuration protects, and by which rule the runs are judged. "Off"
//! is plain proxying with the protections in question left out, as the field's defaults have it; where a bound is lower
//! than any product's default, it is so on both sides, and the drill says why.

mod bad_canary;
mod brown_out;
mod cache_stampede;
mod connection_flood;
mod crash_loop;
mod database_failover;
mod dead_endpoint;
mod dead_upstream;
mod deadline_inversion;
mod duplicate_payment;
mod hot_key;
mod noisy_neighbour;
mod peak;
mod poison_message;
mod poison_tenant;
mod purge_storm;
mod queue_flood;
mod retry_storm;
mod rolling_restart;
mod scan_resistance;
mod slow_endpoint;
mod slowloris;
mod stale_on_outage;
mod thundering_reconnect;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::app::{App, Behaviour};
use crate::drill::Drill;
use crate::load::{Driven, Objects, Source};
use crate::run::{RunError, Setting};

/// All drills, in the order in which they are listed.
pub const ALL: [Drill; 24] = [
    noisy_neighbour::DRILL,
    retry_storm::DRILL,
    slow_endpoint::DRILL,
    brown_out::DRILL,
    peak::DRILL,
    deadline_inversion::DRILL,
    dead_upstream::DRILL,
    rolling_restart::DRILL,
    slowloris::DRILL,
    connection_flood::DRILL,
    thundering_reconnect::DRILL,
    poison_tenant::DRILL,
    bad_canary::DRILL,
    cache_stampede::DRILL,
    stale_on_outage::DRILL,
    hot_key::DRILL,
    scan_resistance::DRILL,
    purge_storm::DRILL,
    duplicate_payment::DRILL,
    queue_flood::DRILL,
    poison_message::DRILL,
    dead_endpoint::DRILL,
    crash_loop::DRILL,
    database_failover::DRILL,
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

/// One upstream of these applications and one route to it, each with these further lines. Nothing is tried again, and no
/// endpoint is ejected: that would help as well.
fn one_route(apps: &[Arc<App>], upstream: &str, route: &str) -> String {
    format!(
        "[upstream.app]\nendpoints = {}\noutlier = {{ consecutive = 0 }}\n{upstream}\n\
         [[route]]\nname = \"app\"\nupstream = \"app\"\nretry = {{ tries = 1 }}\n{route}",
        endpoints(apps)
    )
}

/// Tenants are named by a header.
const TENANTS: &str = "[tenants]\nfrom = [{ header = \"x-tenant\" }]\n\n";

/// Clients each of whom wants something else: of no use to a cache.
fn others(rate: f64, patience: Duration) -> Source {
    let (path, objects) = ("/other/".to_owned(), Objects::Each);
    Source { path, objects, timeout: patience, ..Source::steady("others", rate) }
}

/// How many seconds after the start of a span these sources were well again, and remained so: in each half second from then
/// on, at least this share of the requests that were due was answered well. `None`: not within the span.
fn recovery(driven: &Driven, sources: &str, span: Range<f64>, share: f64) -> Option<f64> {
    const STEP: f64 = 0.5;
    let steps = ((span.end - span.start) / STEP).floor() as u32;
    let at = |step: u32| span.start + f64::from(step) * STEP;
    let bad = (0..steps).rev().find(|step| driven.success(sources, at(*step)..at(step + 1)) < share);
    let well = bad.map_or(0, |step| step + 1);
    (well < steps).then(|| f64::from(well) * STEP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Asked, End};

    /// One request in each half second, answered well or not.
    fn check(well: &[bool], expected: Option<f64>) {
        let asked = |(number, well): (usize, &bool)| Asked {
            due: Duration::from_millis(500 * number as u64 + 100),
            source: 0,
            name: number as u64,
            sent: Vec::new(),
            ended: Some(Duration::from_millis(500 * number as u64 + 200)),
            end: if *well { End::Good } else { End::Refused },
            again: None,
        };
        let driven = Driven {
            sources: vec!["clients".to_owned()],
            asked: well.iter().enumerate().map(asked).collect(),
            begin: tidegate_model::tick::Tick(0),
            length: Duration::from_secs(10),
            late: 0,
            hostile: crate::load::Harm::default(),
        };
        assert_eq!(recovery(&driven, "clients", 1.0..3.0, 0.9), expected, "{well:?}");
    }

    #[test]
    fn well_again_is_who_remains_so() {
        check(&[true; 6], Some(0.0));
        check(&[false, false, false, true, true, true], Some(0.5));
        check(&[true, true, true, true, false, true], Some(1.5));
        check(&[true, true, true, true, true, false], None);
        // What is outside of the span does not count.
        check(&[false, false, true, true, true, true, false], Some(0.0));
    }

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
