//! Deliveries that are pulled, where several nodes share a store: whoever claims, or tells of what it has, may ask any node.
//!
//! ```text
//! worker --> this node: the shards that it has -------------------------------------.
//!              '--- shards of other nodes --- Question, sealed ---> clerk: its shards --'--> answer
//! ```
//!
//! What always holds:
//! - One hop: a clerk asks its own engines alone, so that what is passed on is never passed on again.
//! - What nobody has seen is given back: of a claim whose worker has gone, or that was answered by several at once.
//! - What another node says counts for nothing but its own shards, and is bounded as a worker's own request is.
//!
//! What it does not do: find nodes that are not in `[cluster]`, or are called otherwise in `[store]`. Of those is told which
//! of them has what is asked for, and the worker goes there.

pub mod clerk;
pub mod nodes;
pub mod over;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidegate_dispatch::{Claim, ClaimError, Claimed, Grip, Held};
use tidegate_model::delivery::shown;
use tidegate_store::Unavailable;

use crate::control::{EndingOfOne, ExtensionOfOne};

/// Deliveries that are claimed, or told of, at once.
pub const TOGETHER_MAX: usize = 100;
/// The longest that is waited for a delivery.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);
/// Bytes of requests that one claim is answered with, where nothing is said.
pub const BYTES: u64 = 16 << 20;
/// The most of it.
pub const BYTES_MAX: u64 = 64 << 20;
/// The same of what another node passes on: as text each byte may take six.
const PASSED_BYTES_MAX: u64 = 16 << 20;

/// What a node asks of another.
#[derive(Debug, Deserialize, Serialize)]
enum Question {
    /// What there is to make, under a number drawn for it.
    Claim(u64, Passed),
    /// Nobody waits for the claim of this number any more.
    Cancel(u64),
    /// Nobody has seen these.
    Return(Vec<String>),
    /// What came of these; whether they went well.
    End(bool, Vec<EndingOfOne>),
    /// These are held longer.
    Extend(Vec<ExtensionOfOne>),
}

/// A claim that is passed on.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Passed {
    queue: Arc<str>,
    tenants: Vec<Arc<str>>,
    most: usize,
    bytes_max: u64,
    first_any: bool,
    lease_ms: Option<u64>,
    wait_ms: u64,
}

/// What it is answered.
#[derive(Debug, Deserialize, Serialize)]
enum Told {
    Claimed(Vec<One>),
    Unclaimed(Why),
    /// Of each: `done`, `lost`, `elsewhere` or `unknown`.
    Outcomes(Vec<String>),
    Done,
}

/// Why there is nothing to claim.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum Why {
    Queue,
    Busy,
    Draining,
    Elsewhere,
}

/// A delivery that was claimed, as its worker is told of it.
#[derive(Debug, Deserialize, Serialize)]
pub struct One {
    grip: String,
    bytes: u64,
    told: Box<RawValue>,
}

impl Passed {
    fn of(claim: &Claim) -> Passed {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Passed {
            queue: Arc::clone(&claim.queue),
            tenants: claim.tenants.clone(),
            most: claim.most,
            bytes_max: claim.bytes_max,
            first_any: claim.first_any,
            lease_ms: claim.lease.map(millis),
            wait_ms: millis(claim.wait),
        }
    }

    /// The claim, within what any may be.
    fn claim(self) -> Claim {
        Claim {
            queue: self.queue,
            tenants: self.tenants,
            most: self.most.clamp(1, TOGETHER_MAX),
            bytes_max: self.bytes_max.min(PASSED_BYTES_MAX),
            first_any: self.first_any,
            lease: self.lease_ms.map(|ms| Duration::from_millis(ms).min(LEASE_MAX)),
            wait: Duration::from_millis(self.wait_ms).min(WAIT_MAX),
        }
    }
}

impl From<ClaimError> for Why {
    fn from(error: ClaimError) -> Why {
        match error {
            ClaimError::Queue => Why::Queue,
            ClaimError::Busy => Why::Busy,
            ClaimError::Draining => Why::Draining,
            ClaimError::Elsewhere => Why::Elsewhere,
        }
    }
}

impl From<Why> for ClaimError {
    fn from(why: Why) -> ClaimError {
        match why {
            Why::Queue => ClaimError::Queue,
            Why::Busy => ClaimError::Busy,
            Why::Draining => ClaimError::Draining,
            Why::Elsewhere => ClaimError::Elsewhere,
        }
    }
}

impl One {
    /// As its worker is told of it.
    #[must_use]
    pub fn into_told(self) -> Box<RawValue> {
        self.told
    }
}

impl From<&Claimed> for One {
    fn from(claimed: &Claimed) -> One {
        let told = serde_json::value::to_raw_value(&told(claimed)).expect("JSON can be written");
        One { grip: claimed.grip.to_string(), bytes: claimed.bytes, told }
    }
}

/// A delivery for whoever makes it: credentials included, as a request to an upstream would bring them.
fn told(claimed: &Claimed) -> Value {
    let request = &claimed.request;
    let headers: Vec<[String; 2]> = request
        .fields
        .iter()
        .map(|(name, value)| {
            [name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()]
        })
        .collect();
    let mut told = json!({
        "grip": claimed.grip.to_string(),
        "id": claimed.id.to_string(),
        "tenant": &*claimed.tenant,
        "key": claimed.key.as_deref(),
        "attempt": claimed.attempt,
        "until": shown(claimed.until),
        "method": request.method.as_str(),
        "path": &*request.target,
        "headers": headers,
    });
    match std::str::from_utf8(&request.body) {
        Ok(text) => told["body"] = json!(text),
        Err(_) => told["base64"] = json!(BASE64_STANDARD.encode(&request.body)),
    }
    told
}

/// What became of a delivery that somebody told of.
pub type Outcome = Result<Held, Unavailable>;

/// What an outcome is called.
#[must_use]
pub fn name_of(outcome: &Outcome) -> &'static str {
    match outcome {
        Ok(Held::Done) => "done",
        Ok(Held::Lost) => "lost",
        Err(Unavailable::Elsewhere) => "elsewhere",
        Err(_) => "unknown",
    }
}

fn outcome_of(name: &str) -> Outcome {
    match name {
        "done" => Ok(Held::Done),
        "lost" => Ok(Held::Lost),
        "elsewhere" => Err(Unavailable::Elsewhere),
        _ => Err(Unavailable::Failing),
    }
}

fn grips(texts: &[String]) -> Vec<Grip> {
    texts.iter().take(TOGETHER_MAX).filter_map(|text| Grip::parse(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_passes_on_is_bounded_as_a_workers_own_is() {
        let passed = Passed {
            queue: "q".into(),
            tenants: Vec::new(),
            most: usize::MAX,
            bytes_max: u64::MAX,
            first_any: true,
            lease_ms: Some(u64::MAX),
            wait_ms: u64::MAX,
        };
        let claim = passed.claim();
        let found = (claim.most, claim.bytes_max, claim.lease, claim.wait);
        assert_eq!(found, (TOGETHER_MAX, PASSED_BYTES_MAX, Some(LEASE_MAX), WAIT_MAX));
        assert_eq!(grips(&vec!["1-1".to_owned(); 1_000]).len(), TOGETHER_MAX);
    }

    #[test]
    fn questions_and_answers_read_as_they_were_said() {
        let extension: ExtensionOfOne =
            serde_json::from_value(json!({"grip": "7-1", "lease": "5s", "progress": {"done": 1}})).unwrap();
        for question in [Question::Cancel(u64::MAX), Question::Extend(vec![extension])] {
            let text = serde_json::to_string(&question).unwrap();
            let read: Question = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        let one = One { grip: "7-1".to_owned(), bytes: 5, told: RawValue::from_string("{}".into()).unwrap() };
        let text = serde_json::to_string(&Told::Claimed(vec![one])).unwrap();
        assert_eq!(text, r#"{"Claimed":[{"grip":"7-1","bytes":5,"told":{}}]}"#);
        assert!(matches!(serde_json::from_str(&text), Ok(Told::Claimed(all)) if all.len() == 1));
    }

    #[test]
    fn an_outcome_is_what_it_was_called() {
        for outcome in [Ok(Held::Done), Ok(Held::Lost), Err(Unavailable::Elsewhere)] {
            assert_eq!(outcome_of(name_of(&outcome)), outcome);
        }
        assert_eq!(name_of(&outcome_of("of a later version")), "unknown");
    }
}
