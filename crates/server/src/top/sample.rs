//! One look at a running Tidegate: what its control API said at a moment.

use std::time::Duration;

use serde_json::Value;
use tidegate_drill::metrics::Metrics;
use tidegate_model::tick::Tick;
use tidegate_wire::clock;

use crate::status::{Remote, ask_for};

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// When.
    pub at: Tick,
    /// `GET /status`.
    pub status: Value,
    /// `GET /metrics`.
    pub metrics: Metrics,
    /// `GET /queues`; null where there is no store.
    pub queues: Value,
}

impl Sample {
    /// Asks for it.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn ask(remote: &Remote, patience: Duration) -> Result<Sample, String> {
        let get = |path: &str| ask_for(remote, "GET", path, "", patience);
        let status = get("/status")?;
        let status =
            serde_json::from_str(&status).map_err(|error| format!("tidegate: not a status: {error}"))?;
        let metrics = Metrics::from(get("/metrics")?.as_str());
        // Without a store there are none, and asking is refused.
        let queues = get("/queues").ok().and_then(|text| serde_json::from_str(&text).ok());
        Ok(Sample { at: clock::now(), status, metrics, queues: queues.unwrap_or_default() })
    }
}

/// A label's value in what stands between the braces of a sample, as it was before it was escaped.
#[must_use]
pub fn label(labels: &str, name: &str) -> Option<String> {
    let mut rest = labels;
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let (mut value, mut end, mut escaped) = (String::new(), None, false);
        for (place, character) in after.char_indices() {
            match (escaped, character) {
                (false, '\\') => escaped = true,
                (false, '"') => {
                    end = Some(place);
                    break;
                }
                (was, other) => {
                    value.push(if was && other == 'n' { '\n' } else { other });
                    escaped = false;
                }
            }
        }
        if key == name {
            return end.map(|_| value);
        }
        rest = after[end? + 1..].strip_prefix(',')?;
    }
}
