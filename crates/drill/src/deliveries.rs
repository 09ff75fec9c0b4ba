//! What became of deliveries: what clients were promised, held against what the applications saw of it.
//!
//! Whoever is answered 202 has been promised that its request is made, at least once. Nothing here asks the gate whether it was: the
//! application's own account says.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use tidegate_model::tick::Tick;

use crate::app::Visits;
use crate::load::{Asked, Driven, End};
use crate::run::Run;

/// A request that a client was promised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promise {
    /// From the promise to the first attempt that an application saw. `None`: it saw none.
    pub waited: Option<Duration>,
    /// From the promise to when it was first made. `None`: it was not.
    pub took: Option<Duration>,
    /// How often an application was asked for it.
    pub attempts: u64,
    /// How often it was made.
    pub made: u64,
}

/// What became of some promises.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Kept {
    /// Requests that were promised.
    pub promised: u64,
    /// Of those, made at least once.
    pub made: u64,
    /// Of those, made more than once.
    pub repeated: u64,
    /// Attempts that applications saw of them.
    pub attempts: u64,
}

/// The promises to the sources whose names begin so, of what was due in this span.
fn promises<'a>(
    driven: &'a Driven,
    visits: &'a HashMap<u64, Visits>,
    sources: &'a str,
    seconds: Range<f64>,
) -> impl Iterator<Item = Promise> {
    let promised = driven.due(sources, seconds).filter(|asked| asked.end == End::Good);
    promised.map(|asked| promise(driven.begin, asked, visits.get(&asked.name)))
}

fn promise(begin: Tick, asked: &Asked, visits: Option<&Visits>) -> Promise {
    let promised = begin.after(asked.ended.unwrap_or(asked.due));
    let Some(visits) = visits else {
        return Promise { waited: None, took: None, attempts: 0, made: 0 };
    };
    Promise {
        // An attempt may come to the application before the answer comes to the client.
        waited: Some(visits.first.since(promised)),
        took: visits.made_first.map(|made| made.since(promised)),
        attempts: visits.times,
        made: visits.made,
    }
}

impl Run {
    /// What became of the promises to these sources, of what was due in this span.
    #[must_use]
    pub fn kept(&self, sources: &str, seconds: Range<f64>) -> Kept {
        promises(&self.driven, &self.visits, sources, seconds).fold(Kept::default(), |all, one| Kept {
            promised: all.promised + 1,
            made: all.made + u64::from(one.made > 0),
            repeated: all.repeated + u64::from(one.made > 1),
            attempts: all.attempts + one.attempts,
        })
    }

    /// How many of these sources' requests were made more than once, whatever their clients were told.
    #[must_use]
    pub fn made_twice(&self, sources: &str) -> u64 {
        let all = self.driven.due(sources, 0.0..f64::INFINITY);
        let twice = all.filter(|asked| self.visits.get(&asked.name).is_some_and(|visits| visits.made > 1));
        twice.count() as u64
    }

    /// The seconds from promise to first attempt that this share of them did not exceed. One that was not attempted waited longest.
    #[must_use]
    pub fn waited(&self, sources: &str, seconds: Range<f64>, share: f64) -> f64 {
        self.quantile(sources, seconds, share, |one| one.waited)
    }

    /// The seconds from promise to when it was made that this share of them did not exceed. One that was not made took longest.
    #[must_use]
    pub fn took(&self, sources: &str, seconds: Range<f64>, share: f64) -> f64 {
        self.quantile(sources, seconds, share, |one| one.took)
    }

    fn quantile(
        &self,
        sources: &str,
        seconds: Range<f64>,
        share: f64,
        time: impl Fn(&Promise) -> Option<Duration>,
    ) -> f64 {
        let all = promises(&self.driven, &self.visits, sources, seconds);
        let times = all.map(|one| time(&one).map_or(f64::INFINITY, |time| time.as_secs_f64()));
        crate::load::quantile(times.collect(), share)
    }

    /// How many per second were first made in this span.
    #[must_use]
    pub fn made(&self, sources: &str, seconds: Range<f64>) -> f64 {
        let begin = self.driven.begin;
        let of = self.driven.due(sources, 0.0..f64::INFINITY);
        let made = of.filter_map(|asked| self.visits.get(&asked.name)?.made_first);
        let within = made.filter(|made| seconds.contains(&made.since(begin).as_secs_f64()));
        within.count() as f64 / (seconds.end - seconds.start).max(1e-9)
    }

    /// The most deliveries that had not ended at a time.
    #[must_use]
    pub fn waiting_most(&self) -> f64 {
        self.samples.iter().map(|sample| sample.gate_deliveries).fold(f64::NAN, f64::max)
    }

    /// The most memory that the gate took, in MiB.
    #[must_use]
    pub fn memory_most(&self) -> f64 {
        let bytes = self.samples.iter().map(|sample| sample.gate_memory).fold(f64::NAN, f64::max);
        bytes / f64::from(1 << 20)
    }
}

impl Kept {
    /// Promised, and not made.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.promised - self.made
    }

    /// Share of the promises that were kept. Of none: all.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.promised == 0 { 1.0 } else { self.made as f64 / self.promised as f64 }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::Harm;
    use crate::metrics::Metrics;

    /// A run in which sources asked for what is told: when it was due and answered, in milliseconds, and what an application
    /// saw of it, if it did: when it came and was made, how often it came, how often it was made.
    type Told<'a> = (&'a str, u64, End, Option<(u64, u64, u64, u64)>);

    pub(crate) fn run(told: &[Told<'_>]) -> Run {
        let mut sources: Vec<String> = Vec::new();
        let (mut asked, mut visits) = (Vec::new(), HashMap::new());
        let at = |ms: u64| Tick(0).after(Duration::from_millis(ms));
        for (name, (source, due, end, seen)) in (1..).zip(told) {
            let place = sources.iter().position(|known| known == source);
            let source = place.unwrap_or_else(|| {
                sources.push((*source).to_owned());
                sources.len() - 1
            });
            let due = Duration::from_millis(*due);
            let again = None;
            asked.push(Asked { due, source, name, sent: vec![due], ended: Some(due), end: *end, again });
            if let Some((first, done, times, made)) = *seen {
                let made_first = (made > 0).then(|| at(done));
                visits.insert(name, Visits { first: at(first), times, made_first, made });
            }
        }
        let (length, hostile) = (Duration::from_secs(10), Harm::default());
        let driven = Driven { sources, asked, begin: Tick(0), length, late: 0, hostile };
        let (config, samples, apps, kills) = (String::new(), Vec::new(), Vec::new(), Vec::new());
        Run { config, driven, samples, apps, visits, kills, metrics: Metrics::default() }
    }

    #[test]
    fn a_promise_is_kept_if_the_application_made_it() {
        let run = run(&[
            ("a 1", 1_000, End::Good, Some((1_100, 1_200, 1, 1))),
            ("a 1", 1_000, End::Good, Some((1_300, 1_900, 3, 2))),
            ("a 2", 1_000, End::Good, Some((900, 0, 1, 0))),
            ("a 2", 1_000, End::Good, None),
            ("a 2", 1_000, End::Refused, Some((1_000, 1_000, 9, 9))),
            ("b", 1_000, End::Good, None),
            ("a 1", 9_000, End::Good, None),
        ]);
        let kept = run.kept("a", 0.0..2.0);
        assert_eq!(kept, Kept { promised: 4, made: 2, repeated: 1, attempts: 5 });
        assert_eq!((kept.lost(), kept.share()), (2, 0.5));
        assert_eq!(["a 1", "a 2", "b"].map(|source| run.made_twice(source)), [1, 1, 0]);
        let waited = [0.25, 0.5, 0.75, 1.0].map(|share| run.waited("a", 0.0..2.0, share));
        assert_eq!(waited, [0.0, 0.1, 0.3, f64::INFINITY]);
        assert_eq!([0.25, 0.5, 0.75].map(|share| run.took("a", 0.0..2.0, share)), [0.2, 0.9, f64::INFINITY]);
        assert_eq!(run.kept("nobody", 0.0..9.0).share(), 1.0);
    }
}
