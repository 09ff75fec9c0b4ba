//! Destinations: a tenant's server that hears of events, what its answers mean, and when it is left alone.
//!
//! ```text
//! enabled --- 410, or nothing but failures for too long ---> disabled --- somebody enables it ---> enabled
//!    '------- somebody disables it ----------------------------^
//! ```
//!
//! | answer | means |
//! | --- | --- |
//! | 2xx | delivered |
//! | 410 | the receiver is gone: the destination is disabled |
//! | 429, 502, 504 | a failure, and the receiver has too much: `Retry-After` counts, within bounds |
//! | any other, a redirect too, or none | a failure: tried again as the schedule says |
//!
//! What always holds: a destination is disabled by one rule at a time and says which; only failures that follow one another
//! count, so that one delivery ends all that was counted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cloudevents::{BATCH_MAX, Form};
use super::filter::{Filter, FilterError};

/// Fields of its own that a destination may have.
pub const FIELDS_MAX: usize = 20;
/// Bytes of such a field's value.
pub const FIELD_BYTES_MAX: usize = 1000;
/// Bytes of a description.
pub const DESCRIPTION_BYTES_MAX: usize = 500;
/// Attempts that a schedule may have.
pub const ATTEMPTS_MAX: usize = 30;
/// The longest that events wait for others of their batch.
pub const WAIT_MS_MAX: u64 = 3_600_000;
/// The pauses of Standard Webhooks' example, in seconds: ten attempts over some three days.
pub const SCHEDULE: [u64; 9] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
/// A destination that fails for as long as this is disabled.
pub const DISABLE_AFTER: Duration = Duration::from_secs(5 * 86_400);
/// The longest wait that a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);
/// A receiver that has too much is left alone for as long as this, if it says nothing.
const THROTTLED: Duration = Duration::from_secs(60);

/// Fields that a destination cannot have for its own: they are the message's, the connection's or Tidegate's.
const NOT_ITS_OWN: [&str; 13] = [
    "host",
    "origin",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "expect",
    "proxy-authorization",
    "proxy-connection",
];

/// What its operator says of a destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Where events go.
    pub url: String,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it wants to hear of.
    #[serde(default)]
    pub filter: Filter,
    /// How events are written.
    #[serde(default)]
    pub form: Form,
    /// Fields of its own, in each request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Requests a second, at most; `None`: no limit but that of the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Whether events reach it in the order in which they were published: what fails holds up what follows.
    #[serde(default)]
    pub ordered: bool,
    /// Pauses between attempts, in seconds; `None`: those of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Vec<u64>>,
    /// Whether it is asked first whether it wants events: CloudEvents' handshake.
    #[serde(default)]
    pub handshake: bool,
    /// How events are gathered, where they are written as batches; `None`: what waits goes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
}

/// When events that were gathered go: at the first of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// So many wait.
    pub events: u32,
    /// They have waited for so long, in milliseconds.
    pub wait_ms: u64,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { events: BATCH_MAX as u32, wait_ms: 0 }
    }
}

/// Why a destination cannot be as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WantedError {
    /// Its filter cannot be used.
    #[error("filter: {0}")]
    Filter(#[from] FilterError),
    /// A field that it cannot have.
    #[error("`{0}` cannot be a header of a destination")]
    Header(String),
    /// A field that stands there twice: only one would be sent.
    #[error("`{0}` stands twice among the headers")]
    Twice(String),
    /// Too many fields.
    #[error("a destination has at most {FIELDS_MAX} headers of its own")]
    Headers,
    /// A schedule without an end, or with pauses of no use.
    #[error("a schedule has at most {ATTEMPTS_MAX} pauses of 1 second to 7 days")]
    Schedule,
    /// Gathered in another way than can be.
    #[error(
        "a batch is of the form `cloudevents-batch`, has 1 to {BATCH_MAX} events and waits at most {WAIT_MS_MAX} ms"
    )]
    Batch,
    /// A description of such length.
    #[error("a description has at most {DESCRIPTION_BYTES_MAX} bytes")]
    Description,
    /// Nothing would ever be sent.
    #[error("a rate is at least 1 a second")]
    Rate,
}

impl Wanted {
    /// Looks whether it can be so; its URL is looked at by [`super::reach`].
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), WantedError> {
        self.filter.check()?;
        if self.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(WantedError::Description);
        }
        if self.headers.len() > FIELDS_MAX {
            return Err(WantedError::Headers);
        }
        if let Some((name, _)) = self.headers.iter().find(|(name, value)| !is_own(name, value)) {
            return Err(WantedError::Header(name.clone()));
        }
        let again = |(at, (name, _)): &(usize, &(String, String))| {
            self.headers[..*at].iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
        };
        if let Some((_, (name, _))) = self.headers.iter().enumerate().find(again) {
            return Err(WantedError::Twice(name.clone()));
        }
        if self.rate == Some(0) {
            return Err(WantedError::Rate);
        }
        let can = |batch: &Batch| {
            (1..=BATCH_MAX as u32).contains(&batch.events)
                && batch.wait_ms <= WAIT_MS_MAX
                && self.form == Form::CloudeventsBatch
        };
        if !self.batch.as_ref().is_none_or(can) {
            return Err(WantedError::Batch);
        }
        match &self.schedule {
            Some(schedule) if !is_schedule(schedule) => Err(WantedError::Schedule),
            _ => Ok(()),
        }
    }
}

/// Whether these may be the pauses between attempts.
#[must_use]
pub fn is_schedule(pauses: &[u64]) -> bool {
    pauses.len() < ATTEMPTS_MAX && pauses.iter().all(|pause| (1..=7 * 86_400).contains(pause))
}

fn is_own(name: &str, value: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let reserved = ["webhook-", "ce-", "tidegate-"].iter().any(|prefix| lower.starts_with(prefix))
        || NOT_ITS_OWN.contains(&lower.as_str());
    let valid = http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok();
    valid && !reserved && value.len() <= FIELD_BYTES_MAX
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It was taken.
    Delivered,
    /// The receiver wants nothing any more.
    Gone,
    /// It failed, and the receiver says that it has too much: nothing is sent for this long.
    Throttled(Duration),
    /// It failed.
    Failed {
        /// It is not tried again before.
        not_before: Option<Duration>,
    },
}

/// What an answer means: its status, if there is one, and what it says of when to come back.
#[must_use]
pub fn meaning(status: Option<u16>, retry_after: Option<Duration>) -> Meaning {
    let bounded = retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
    match status {
        Some(200..=299) => Meaning::Delivered,
        Some(410) => Meaning::Gone,
        Some(429 | 502 | 504) => Meaning::Throttled(bounded.unwrap_or(THROTTLED).max(Duration::from_secs(1))),
        Some(503) => Meaning::Failed { not_before: bounded },
        _ => Meaning::Failed { not_before: None },
    }
}

/// The pause before the attempt after so many (at least one), up to a fifth longer by chance; `None`: there is no further
/// one. What the receiver asks for counts if it is longer.
#[must_use]
pub fn pause(schedule: &[u64], attempts: u32, meaning: Meaning, chance: u64) -> Option<Duration> {
    let base = *schedule.get((attempts.max(1) - 1) as usize)?;
    let asked = match meaning {
        Meaning::Throttled(wait) => wait,
        Meaning::Failed { not_before } => not_before.unwrap_or_default(),
        Meaning::Delivered | Meaning::Gone => return None,
    };
    let base = Duration::from_secs(base);
    let more = base.mul_f64(0.2 * (chance as f64 / u64::MAX as f64));
    Some((base + more).max(asked))
}

/// Whether events go there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// They do.
    #[default]
    Enabled,
    /// Somebody has disabled it.
    Disabled,
    /// It answered 410.
    Gone,
    /// It failed for too long.
    Failing,
}

/// How a destination fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether events go there.
    pub state: State,
    /// Since when all has failed, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<u64>,
}

impl Health {
    /// Whether events go there.
    #[must_use]
    pub fn is_enabled(self) -> bool {
        self.state == State::Enabled
    }

    /// How it fares after an attempt that meant this. Told is the second where it was disabled by it.
    #[must_use]
    pub fn after(self, meaning: Meaning, disable_after: Duration, now: u64) -> (Health, Option<State>) {
        if !self.is_enabled() {
            return (self, None);
        }
        match meaning {
            Meaning::Delivered => (Health::default(), None),
            Meaning::Gone => (Health { state: State::Gone, ..self }, Some(State::Gone)),
            Meaning::Throttled(_) | Meaning::Failed { .. } => {
                let since = self.failing_since.map_or(now, |since| since.min(now));
                let state =
                    if now - since >= disable_after.as_secs() { State::Failing } else { State::Enabled };
                let news = (state == State::Failing).then_some(state);
                (Health { state, failing_since: Some(since) }, news)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const FAILED: Meaning = Meaning::Failed { not_before: None };

    fn check(status: Option<u16>, retry_after: Option<u64>, expected: Meaning) {
        assert_eq!(meaning(status, retry_after.map(Duration::from_secs)), expected, "{status:?}");
    }

    #[test]
    fn answers_mean_what_standard_webhooks_says() {
        for status in [200, 202, 204, 299] {
            check(Some(status), None, Meaning::Delivered);
        }
        check(Some(410), Some(5), Meaning::Gone);
        for status in [301, 302, 308, 400, 401, 404, 500] {
            check(Some(status), Some(5), FAILED);
        }
        check(None, None, FAILED);
        for status in [429, 502, 504] {
            check(Some(status), Some(7), Meaning::Throttled(7 * SECOND));
            check(Some(status), Some(0), Meaning::Throttled(SECOND));
            check(Some(status), Some(u64::MAX), Meaning::Throttled(RETRY_AFTER_MAX));
            check(Some(status), None, Meaning::Throttled(THROTTLED));
        }
        check(Some(503), Some(7), Meaning::Failed { not_before: Some(7 * SECOND) });
    }

    #[test]
    fn the_schedule_ends_and_what_the_receiver_asks_for_counts_if_it_is_longer() {
        let pauses = [10, 100];
        assert_eq!(pause(&pauses, 1, FAILED, 0), Some(10 * SECOND));
        assert_eq!(pause(&pauses, 2, FAILED, u64::MAX), Some(120 * SECOND));
        assert_eq!(pause(&pauses, 3, FAILED, 0), None);
        assert_eq!(pause(&pauses, 1, Meaning::Throttled(60 * SECOND), 0), Some(60 * SECOND));
        assert_eq!(pause(&pauses, 2, Meaning::Throttled(60 * SECOND), 0), Some(100 * SECOND));
        assert_eq!(pause(&pauses, 1, Meaning::Delivered, 0), None);
        assert!(is_schedule(&SCHEDULE) && is_schedule(&[]) && !is_schedule(&[0]) && !is_schedule(&[1; 30]));
    }

    #[test]
    fn is_disabled_when_the_receiver_is_gone() {
        let (health, news) = Health::default().after(Meaning::Gone, DISABLE_AFTER, 10);
        assert_eq!((health.state, news), (State::Gone, Some(State::Gone)));
        assert_eq!(health.after(Meaning::Gone, DISABLE_AFTER, 11), (health, None), "told once");
        assert_eq!(health.after(Meaning::Delivered, DISABLE_AFTER, 11), (health, None), "what was under way");
    }

    #[test]
    fn is_disabled_after_failing_for_too_long_and_a_delivery_ends_the_count() {
        let after = 100 * SECOND;
        let (one, _) = Health::default().after(FAILED, after, 1000);
        let (well, _) = one.after(Meaning::Delivered, after, 1050);
        assert_eq!(well, Health::default());
        let (two, news) = well.after(FAILED, after, 1099);
        assert_eq!((two.failing_since, news), (Some(1099), None));
        assert_eq!(two.after(FAILED, after, 1198).1, None);
        assert_eq!(two.after(FAILED, after, 1199).1, Some(State::Failing));
    }

    fn wanted() -> Wanted {
        serde_json::from_value(serde_json::json!({ "url": "https://a.example/" })).unwrap()
    }

    #[test]
    fn refuses_what_a_destination_cannot_have() {
        assert_eq!(wanted().check(), Ok(()));
        let with = |name: &str, value: &str| {
            Wanted { headers: vec![(name.to_owned(), value.to_owned())], ..wanted() }.check().is_ok()
        };
        assert!(with("X-Api-Key", "abc") && with("authorization", "Bearer x"));
        for (name, value) in [
            ("Host", "a"),
            ("Content-Length", "1"),
            ("webhook-signature", "v1,x"),
            ("CE-id", "x"),
            ("Tidegate-Tenant", "x"),
            ("x y", "a"),
            ("x", "a\r\nb: c"),
        ] {
            assert!(!with(name, value), "{name}");
        }
        let twice = ["X-Key", "x-key"].map(|name| (name.to_owned(), "a".to_owned())).to_vec();
        let twice = Wanted { headers: twice, ..wanted() }.check();
        assert_eq!(twice, Err(WantedError::Twice("x-key".to_owned())));
        let batched = |events, wait_ms, form| {
            Wanted { batch: Some(Batch { events, wait_ms }), form, ..wanted() }.check().is_ok()
        };
        assert!(batched(1, 0, Form::CloudeventsBatch) && batched(100, WAIT_MS_MAX, Form::CloudeventsBatch));
        assert!(!batched(0, 0, Form::CloudeventsBatch) && !batched(101, 0, Form::CloudeventsBatch));
        assert!(!batched(1, WAIT_MS_MAX + 1, Form::CloudeventsBatch) && !batched(1, 0, Form::Plain));
        assert_eq!(Wanted { rate: Some(0), ..wanted() }.check(), Err(WantedError::Rate));
        assert_eq!(Wanted { schedule: Some(vec![0]), ..wanted() }.check(), Err(WantedError::Schedule));
        let headers = vec![("x".to_owned(), "y".to_owned()); FIELDS_MAX + 1];
        assert_eq!(Wanted { headers, ..wanted() }.check(), Err(WantedError::Headers));
    }

    proptest! {
        #[test]
        fn a_clock_that_jumps_disables_nothing_by_itself(times in prop::collection::vec(0u64..1_000_000, 1..20)) {
            let mut health = Health::default();
            let mut seen = (u64::MAX, 0);
            for now in times {
                seen = (seen.0.min(now), seen.1.max(now));
                health = health.after(FAILED, DISABLE_AFTER, now).0;
                if !health.is_enabled() {
                    prop_assert!(seen.1 - seen.0 >= DISABLE_AFTER.as_secs());
                    break;
                }
            }
        }

        #[test]
        fn a_pause_is_never_shorter_than_asked(attempts in 1u32..12, asked in 0u64..100_000, chance: u64) {
            let meaning = meaning(Some(429), Some(Duration::from_secs(asked)));
            let Meaning::Throttled(wait) = meaning else { panic!("{meaning:?}") };
            match pause(&SCHEDULE, attempts, meaning, chance) {
                None => prop_assert!(attempts as usize > SCHEDULE.len()),
                Some(pause) => {
                    let base = Duration::from_secs(SCHEDULE[attempts as usize - 1]);
                    prop_assert!(pause >= wait && pause >= base && pause <= wait.max(base.mul_f64(1.21)));
                }
            }
        }
    }
}
