//! What came of many comparisons: counts, classes of differences, the last samples, latencies, and whether a route may be
//! moved.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::compare::{Compared, Difference, Kind};
use crate::delivery::Ms;
use crate::histogram::Histogram;
use crate::proportion;
use crate::receipt::RequestId;

/// The most classes of differences that are told apart; further ones are counted together.
pub const CLASSES_MAX: usize = 100;
/// The most samples that are kept.
pub const SAMPLES_MAX: usize = 500;
/// One-sided confidence of 95 %.
const CONFIDENCE: f64 = 1.645;

/// What became of a request that was mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both answers were compared.
    Compared(Compared),
    /// The mirror gave no answer: the code of its refusal.
    Failed(&'static str),
}

/// Of which request an outcome is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// When both answers were there.
    pub at: Ms,
    /// The exchange.
    pub request_id: RequestId,
    /// The method.
    pub method: Method,
    /// The path, without its query: that may hold a credential.
    pub path: Arc<str>,
    /// Whose request it was.
    pub tenant: Arc<str>,
}

/// A request whose answers differed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Which.
    pub subject: Subject,
    /// In what they differed; empty: the mirror gave no answer.
    pub differences: Vec<Difference>,
    /// The code of the refusal that there was instead of the mirror's answer.
    pub failed: Option<&'static str>,
}

/// Differences alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Answers that differ in the same place.
    Different(Kind, String),
    /// No answer, for the same reason.
    Failed(&'static str),
}

/// When a route may be moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ready {
    /// So many answers were compared.
    pub compared: u64,
    /// For so long.
    pub over: Duration,
    /// At most this share of them differed, or was missing.
    pub differing: f64,
    /// The mirror's p99 is at most so many times the upstream's.
    pub latency: Option<f64>,
}

/// Whether a route may be moved.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// It may.
    pub ready: bool,
    /// The share that differed.
    pub differing: f64,
    /// What that share is below, with 95 % confidence.
    pub bound: f64,
    /// What is missing, in words.
    pub missing: Vec<String>,
}

/// What came of comparisons since some time.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Since when.
    pub since: Ms,
    /// Compared, and the same.
    pub equal: u64,
    /// Compared, and not the same.
    pub different: u64,
    /// The mirror gave no answer.
    pub failed: u64,
    /// Answered, and nobody can say; by what is missing.
    pub unknown: BTreeMap<&'static str, u64>,
    /// Differences by class.
    pub classes: BTreeMap<Class, u64>,
    /// Differences of further classes.
    pub others: u64,
    /// The last that differed, the oldest first.
    pub samples: VecDeque<Sample>,
    /// From the call of the upstream to the head of its answer.
    pub ours: Histogram,
    /// The same of the mirror.
    pub theirs: Histogram,
}

impl Tally {
    /// One that begins now.
    #[must_use]
    pub fn new(since: Ms) -> Tally {
        Tally {
            since,
            equal: 0,
            different: 0,
            failed: 0,
            unknown: BTreeMap::new(),
            classes: BTreeMap::new(),
            others: 0,
            samples: VecDeque::new(),
            ours: Histogram::default(),
            theirs: Histogram::default(),
        }
    }

    /// Both latencies, of a request that both answered.
    pub fn took(&mut self, ours: Duration, theirs: Duration) {
        self.ours.note(ours);
        self.theirs.note(theirs);
    }

    /// One more outcome. At most so many samples are kept.
    pub fn note(&mut self, subject: Subject, outcome: Outcome, samples: usize) {
        let (differences, failed) = match outcome {
            Outcome::Compared(Compared::Equal) => {
                self.equal += 1;
                return;
            }
            Outcome::Compared(Compared::Unknown(why)) => {
                *self.unknown.entry(why).or_default() += 1;
                return;
            }
            Outcome::Compared(Compared::Different(differences)) => {
                self.different += 1;
                (differences, None)
            }
            Outcome::Failed(code) => {
                self.failed += 1;
                (Vec::new(), Some(code))
            }
        };
        // A class counts answers, not the elements of an array in one of them.
        let mut classes: Vec<Class> =
            differences.iter().map(|one| Class::Different(one.kind, one.place.clone())).collect();
        classes.extend(failed.map(Class::Failed));
        classes.sort();
        classes.dedup();
        for class in classes {
            if self.classes.len() >= CLASSES_MAX && !self.classes.contains_key(&class) {
                self.others += 1;
            } else {
                *self.classes.entry(class).or_default() += 1;
            }
        }
        let most = samples.min(SAMPLES_MAX);
        if most > 0 {
            self.samples.push_back(Sample { subject, differences, failed });
        }
        let over = self.samples.len().saturating_sub(most);
        self.samples.drain(..over);
    }

    /// Requests of which it is known whether the mirror answers as the upstream does.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.equal + self.different + self.failed
    }

    /// Whether the route may be moved.
    #[must_use]
    pub fn verdict(&self, ready: &Ready, now: Ms) -> Verdict {
        let (compared, bad) = (self.compared(), self.different + self.failed);
        let (_, bound) = proportion::bounds(bad, compared, CONFIDENCE);
        let differing = if compared == 0 { 0.0 } else { bad as f64 / compared as f64 };
        let mut missing = Vec::new();
        if compared < ready.compared {
            missing.push(format!("{compared} of {} were compared", ready.compared));
        }
        let over = Duration::from_millis(now.saturating_sub(self.since));
        if over < ready.over {
            missing.push(format!("compared for {} s of {} s", over.as_secs(), ready.over.as_secs()));
        }
        if bound > ready.differing {
            let percent = |share: f64| format!("{} %", (share * 1e4).ceil() / 1e2);
            missing.push(format!(
                "{} differed: that is below {} for sure, and must be below {}",
                percent(differing),
                percent(bound),
                percent(ready.differing)
            ));
        }
        if let Some(ratio) = ready.latency
            && let (Some(ours), Some(theirs)) = (self.ours.quantile(0.99), self.theirs.quantile(0.99))
            && theirs > ours.mul_f64(ratio)
        {
            let millis = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
            missing.push(format!("its p99 is {}, the upstream's {}", millis(theirs), millis(ours)));
        }
        Verdict { ready: missing.is_empty(), differing, bound, missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(number: u128) -> Subject {
        let (method, path, tenant) = (Method::GET, "/".into(), "acme".into());
        Subject { at: 0, request_id: RequestId(number), method, path, tenant }
    }

    fn different(places: &[&str]) -> Outcome {
        let one = |place: &&str| {
            let (ours, theirs) = (Some("1".to_owned()), Some("2".to_owned()));
            Difference { kind: Kind::Body, place: (*place).to_owned(), ours, theirs }
        };
        Outcome::Compared(Compared::Different(places.iter().map(one).collect()))
    }

    fn tally(equal: u64, outcomes: Vec<Outcome>) -> Tally {
        let mut tally = Tally::new(0);
        tally.equal = equal;
        for (number, outcome) in outcomes.into_iter().enumerate() {
            tally.note(subject(number as u128), outcome, 3);
        }
        tally
    }

    /// Whether a route may be moved at this second, or what is missing.
    fn check(tally: &Tally, seconds: u64, latency: Option<f64>, missing: &[&str]) {
        let ready = Ready { compared: 1000, over: Duration::from_secs(60), differing: 0.005, latency };
        let verdict = tally.verdict(&ready, seconds * 1000);
        assert_eq!(verdict.missing, missing, "{verdict:?}");
        assert_eq!(verdict.ready, missing.is_empty());
    }

    #[test]
    fn a_route_may_be_moved_when_enough_was_the_same_for_long_enough() {
        check(&tally(1000, Vec::new()), 60, None, &[]);
        check(&tally(999, Vec::new()), 59, None, &["999 of 1000 were compared", "compared for 59 s of 60 s"]);
        check(
            &tally(996, vec![different(&["/a"]); 4]),
            60,
            None,
            &["0.4 % differed: that is below 0.89 % for sure, and must be below 0.5 %"],
        );
        // What is known for sure of few is little.
        check(
            &tally(0, Vec::new()),
            60,
            None,
            &[
                "0 of 1000 were compared",
                "0 % differed: that is below 100 % for sure, and must be below 0.5 %",
            ],
        );
        check(
            &tally(980, vec![Outcome::Failed("upstream.connect"); 20]),
            60,
            None,
            &["2 % differed: that is below 2.87 % for sure, and must be below 0.5 %"],
        );
    }

    #[test]
    fn a_slow_mirror_is_not_ready_where_that_is_asked() {
        let mut slow = tally(1000, Vec::new());
        for _ in 0..100 {
            slow.took(Duration::from_millis(10), Duration::from_millis(30));
        }
        check(&slow, 60, None, &[]);
        check(&slow, 60, Some(4.0), &[]);
        check(&slow, 60, Some(2.0), &["its p99 is 30.7 ms, the upstream's 10.2 ms"]);
    }

    #[test]
    fn classes_and_samples_are_bounded() {
        let names: Vec<String> = (0..150).map(|number| format!("/{number}")).collect();
        let all = tally(0, names.iter().map(|name| different(&[name])).collect());
        assert_eq!((all.classes.len(), all.others, all.different), (CLASSES_MAX, 50, 150));
        let kept: Vec<u128> = all.samples.iter().map(|one| one.subject.request_id.0).collect();
        assert_eq!(kept, [147, 148, 149]);
        // An answer counts once for a class, however many elements differ.
        let one = tally(0, vec![different(&["/items/*", "/items/*", "/x"])]);
        assert_eq!(one.classes.values().copied().collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn what_nobody_knows_counts_for_nothing() {
        let unknown = tally(0, vec![Outcome::Compared(Compared::Unknown("large")); 5]);
        assert_eq!((unknown.compared(), unknown.unknown["large"], unknown.samples.len()), (0, 5, 0));
    }
}
