//! What webhooks keep in the store: each kind of document, and how it is written.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_model::delivery::Ms;
use tidegate_model::webhook::cloudevents::BATCH_MAX;
use tidegate_model::webhook::consent::Asked;
use tidegate_model::webhook::destination::{Health, Wanted};
use tidegate_model::webhook::event::{Event, EventType};
use tidegate_model::webhook::signing::Written;
use tidegate_store::documents::Document;

use super::batches::Batch;

/// Destinations, by their tenant and id.
pub(super) const DESTINATION: &str = "webhook.destination";
/// Event types, everybody's, by their name.
pub(super) const TYPE: &str = "webhook.type";
/// Events, by their tenant and id.
pub(super) const EVENT: &str = "webhook.event";
/// What became of an event at a destination: by tenant and destination, and the event's id.
pub(super) const OUTCOME: &str = "webhook.outcome";
/// That an event waits for a destination's next batch: by tenant and destination, and the event's id.
pub(super) const WAITING: &str = "webhook.waiting";
/// The events of a batch that is on its way: by tenant and destination, and the batch's id.
pub(super) const BATCH: &str = "webhook.batch";

/// Attempts that are kept of one event at one destination.
pub(super) const ATTEMPTS_MAX: usize = 10;
/// Bytes of an answer that are kept with an attempt.
pub(super) const ANSWER_BYTES_MAX: usize = 2048;

/// What a kind of document is, in words.
pub(super) fn what(kind: &str) -> &'static str {
    match kind {
        DESTINATION => "destinations",
        TYPE => "event types",
        EVENT => "events",
        _ => "outcomes",
    }
}

/// Whose outcomes a destination's are.
pub(super) fn outcomes_of(tenant: &str, destination: &str) -> Arc<str> {
    format!("{tenant}/{destination}").into()
}

/// What is kept as a document.
pub trait Record: Sized {
    /// Reads it.
    fn read(bytes: &Bytes) -> Option<Self>;
    /// Writes it.
    fn written(&self) -> Bytes;
}

macro_rules! json {
    ($($record:ty),*) => {
        $(impl Record for $record {
            fn read(bytes: &Bytes) -> Option<Self> {
                of_json(bytes)
            }

            fn written(&self) -> Bytes {
                to_json(self)
            }
        })*
    };
}
json!(Destination, EventType, Outcome, Batch, Asked);

fn of_json<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

fn to_json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// A record with what the store says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    /// Its name.
    pub name: Arc<str>,
    /// Which writing of it this is.
    pub version: u64,
    /// What it is listed by.
    pub at: Ms,
    /// The record.
    pub record: T,
}

impl<T: Record> Stored<T> {
    /// The record of a document; `None`: it cannot be read.
    pub(super) fn of(document: &Document) -> Option<Stored<T>> {
        let Document { name, version, at, body } = document;
        let record = T::read(body)?;
        Some(Stored { name: Arc::clone(name), version: *version, at: *at, record })
    }
}

/// A destination.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Destination {
    /// What its operator says of it.
    pub wanted: Wanted,
    /// Its secrets, the newest first.
    pub secrets: Vec<Written>,
    /// How it fares.
    #[serde(default)]
    pub health: Health,
    /// The certificate that it is shown, with its key: both PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<(String, String)>,
    /// The key by which its receiver may consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<String>,
}

impl std::fmt::Debug for Destination {
    /// Without its headers and its key: most likely they are credentials.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Destination { wanted, secrets, health, .. } = self;
        write!(out, "Destination({}, {:?}, {secrets:?}, {health:?})", wanted.url, wanted.filter)
    }
}

/// An event as it is kept: one line of JSON, and behind it the payload as it came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The channels that it is told on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What has happened, in JSON.
    #[serde(skip)]
    pub payload: Bytes,
}

impl Record for EventRecord {
    fn read(bytes: &Bytes) -> Option<EventRecord> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let head: EventRecord = of_json(&bytes[..end])?;
        Some(EventRecord { payload: bytes.slice(end + 1..), ..head })
    }

    fn written(&self) -> Bytes {
        // JSON on one line has no line's end in it.
        [&to_json(self)[..], b"\n", &self.payload].concat().into()
    }
}

impl EventRecord {
    /// The event.
    pub(super) fn event(&self, id: &str, tenant: &Arc<str>, at: Ms) -> Event {
        Event {
            id: id.to_owned(),
            tenant: Arc::clone(tenant),
            kind: self.kind.clone(),
            channels: self.channels.clone(),
            subject: self.subject.clone(),
            at: at / 1000,
            payload: self.payload.clone(),
        }
    }
}

/// How far an event has come at a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeState {
    /// It was taken.
    Delivered,
    /// It failed, and is tried again.
    Retrying,
    /// It failed, and is given up.
    Failed,
}

/// What became of an event at a destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The event's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// How far it has come.
    pub state: OutcomeState,
    /// The last attempts, the newest last.
    pub attempts: Vec<Told>,
}

/// What is kept of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Its number.
    pub number: u32,
    /// When it began, in milliseconds since the Unix epoch.
    pub at: Ms,
    /// How long it took, in milliseconds.
    pub took: Ms,
    /// Where it went.
    pub url: String,
    /// The address that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What was said beside the payload; the values of the destination's own headers are hidden.
    pub request: Vec<(String, String)>,
    /// The status that it was answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The beginning of the answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
}

/// What a delivery in the queue says: which events, and where they go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The destination's id.
    pub destination: String,
    /// The ids of the events: one; of a batch none, or those of one that was made by hand.
    pub events: Vec<String>,
    /// The batch that it makes of what waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
}

impl Reference {
    /// The reference that a delivery's content says.
    #[must_use]
    pub fn read(content: &[u8]) -> Option<Reference> {
        of_json(content).filter(|read: &Reference| read.events.len() <= BATCH_MAX)
    }

    /// As a delivery's content.
    #[must_use]
    pub fn written(&self) -> Bytes {
        to_json(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(record: &EventRecord) {
        assert_eq!(EventRecord::read(&record.written()).as_ref(), Some(record));
    }

    proptest! {
        #[test]
        fn an_event_is_read_as_it_was_written(
            kind in ".{0,20}", subject in proptest::option::of(".{0,20}"), channels in prop::collection::vec(".{0,9}", 0..3),
            payload: Vec<u8>,
        ) {
            check(&EventRecord { kind, channels, subject, payload: payload.into() });
        }

        #[test]
        fn foreign_bytes_are_no_record(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            let _ = (EventRecord::read(&bytes), Destination::read(&bytes), Outcome::read(&bytes), Reference::read(&bytes));
        }
    }
}
