//! What became of each request, and what it adds up to over a span of the run.

use std::ops::Range;
use std::time::Duration;

use tidegate_model::tick::Tick;

use super::hostile::Harm;

/// How a request ended, for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Answered well.
    Good,
    /// Told to come later: 429 or 503.
    Refused,
    /// Answered wrongly, broken off, or too late.
    Failed,
    /// Still without an answer when the run ended.
    Open,
}

/// A request of a client, with all its tries.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// When it was to be sent, from the start of the run.
    pub due: Duration,
    /// Whose it is.
    pub source: usize,
    /// By which number an application knows it.
    pub name: u64,
    /// When each of its tries was sent.
    pub sent: Vec<Duration>,
    /// When its last try so far ended.
    pub ended: Option<Duration>,
    /// How that ended.
    pub end: End,
    /// Where its client asked the same once more after a good answer: how that ended.
    pub again: Option<End>,
}

impl Asked {
    pub(super) fn new(due: Duration, source: usize, name: u64) -> Asked {
        Asked { due, source, name, sent: Vec::new(), ended: None, end: End::Open, again: None }
    }

    /// From when it was due to its good answer.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        let ended = self.ended.filter(|_| self.end == End::Good)?;
        Some(ended.saturating_sub(self.due))
    }
}

/// What became of a load.
#[derive(Clone, Debug)]
pub struct Driven {
    /// What the sources are called.
    pub sources: Vec<String>,
    /// Each request, by when it was due.
    pub asked: Vec<Asked>,
    /// When it began.
    pub begin: Tick,
    /// How long it took.
    pub length: Duration,
    /// Requests that this side sent too late.
    pub late: usize,
    /// What became of those who meant harm.
    pub hostile: Harm,
}

impl Driven {
    /// The number of the source of this name.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<usize> {
        self.sources.iter().position(|source| source == name)
    }

    /// Share of what was to be sent that this side sent too late.
    #[must_use]
    pub fn late_share(&self) -> f64 {
        self.late as f64 / self.asked.len().max(1) as f64
    }

    /// Requests of the sources whose name begins so, due in this span.
    pub fn due<'a>(&'a self, prefix: &'a str, seconds: Range<f64>) -> impl Iterator<Item = &'a Asked> {
        self.asked.iter().filter(move |asked| {
            self.sources[asked.source].starts_with(prefix) && seconds.contains(&asked.due.as_secs_f64())
        })
    }

    /// Share of them that were answered well. Of none: all.
    #[must_use]
    pub fn success(&self, prefix: &str, seconds: Range<f64>) -> f64 {
        let (mut all, mut good) = (0u32, 0u32);
        for asked in self.due(prefix, seconds) {
            all += 1;
            good += u32::from(asked.end == End::Good);
        }
        if all == 0 { 1.0 } else { f64::from(good) / f64::from(all) }
    }

    /// The latency, in seconds, that this share of them did not exceed. One without a good answer took longer than any
    /// other: infinitely long, if it is among the slowest that are left out of the share.
    #[must_use]
    pub fn quantile(&self, prefix: &str, seconds: Range<f64>, share: f64) -> f64 {
        let time = |asked: &Asked| asked.latency().map_or(f64::INFINITY, |time| time.as_secs_f64());
        quantile(self.due(prefix, seconds).map(time).collect(), share)
    }

    /// The same of those that were answered well alone.
    #[must_use]
    pub fn answered_quantile(&self, prefix: &str, seconds: Range<f64>, share: f64) -> f64 {
        let answered = self.due(prefix, seconds).filter_map(Asked::latency);
        quantile(answered.map(|time| time.as_secs_f64()).collect(), share)
    }

    /// Good answers per second that came in this span.
    #[must_use]
    pub fn goodput(&self, prefix: &str, seconds: Range<f64>) -> f64 {
        let came = self.asked.iter().filter(|asked| {
            let ended = asked.ended.map_or(f64::NAN, |ended| ended.as_secs_f64());
            asked.end == End::Good
                && seconds.contains(&ended)
                && self.sources[asked.source].starts_with(prefix)
        });
        came.count() as f64 / (seconds.end - seconds.start).max(1e-9)
    }

    /// Requests per second that were due in this span.
    #[must_use]
    pub fn offered(&self, prefix: &str, seconds: Range<f64>) -> f64 {
        let length = (seconds.end - seconds.start).max(1e-9);
        self.due(prefix, seconds).count() as f64 / length
    }

    /// Tries per second that were sent in this span, repeats included.
    #[must_use]
    pub fn tries(&self, seconds: Range<f64>) -> f64 {
        let sent = self.asked.iter().flat_map(|asked| &asked.sent);
        let count = sent.filter(|sent| seconds.contains(&sent.as_secs_f64())).count();
        count as f64 / (seconds.end - seconds.start).max(1e-9)
    }
}

/// Nearest rank. Of nothing: not a number.
pub(crate) fn quantile(mut times: Vec<f64>, share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    let rank = (share * times.len() as f64).ceil() as usize;
    times.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driven() -> Driven {
        let asked = |due: u64, ended: Option<u64>, end| Asked {
            due: Duration::from_millis(due),
            source: usize::from(due >= 2000),
            name: due,
            sent: vec![Duration::from_millis(due)],
            ended: ended.map(Duration::from_millis),
            end,
            again: None,
        };
        let asked = vec![
            asked(0, Some(100), End::Good),
            asked(500, Some(1700), End::Good),
            asked(900, Some(950), End::Refused),
            asked(1500, None, End::Open),
            asked(2500, Some(2600), End::Good),
        ];
        let sources = vec!["victim 1".to_owned(), "other".to_owned()];
        Driven {
            sources,
            asked,
            begin: Tick(0),
            length: Duration::from_secs(3),
            late: 1,
            hostile: Harm::default(),
        }
    }

    #[test]
    fn adds_up_by_when_it_was_due_and_goodput_by_when_it_came() {
        let driven = driven();
        assert_eq!(driven.success("victim", 0.0..1.0), 2.0 / 3.0);
        assert_eq!(driven.success("nobody", 0.0..1.0), 1.0);
        assert_eq!(driven.goodput("", 0.0..1.0), 1.0);
        assert_eq!(driven.goodput("", 1.0..3.0), 1.0);
        assert_eq!(driven.offered("victim", 0.0..2.0), 2.0);
        assert_eq!(driven.tries(0.0..3.0), 5.0 / 3.0);
        assert_eq!((driven.source("other"), driven.late_share()), (Some(1), 0.2));
    }

    #[test]
    fn who_was_not_answered_took_longest() {
        let driven = driven();
        assert_eq!(driven.quantile("victim", 0.0..2.0, 0.5), 1.2);
        assert_eq!(driven.quantile("victim", 0.0..2.0, 0.99), f64::INFINITY);
        assert_eq!(driven.answered_quantile("victim", 0.0..2.0, 0.99), 1.2);
        assert!(driven.quantile("victim", 9.0..10.0, 0.5).is_nan());
    }
}
