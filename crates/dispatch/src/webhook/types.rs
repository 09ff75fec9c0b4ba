//! The catalogue: which types of events there are, what they mean, and what their payloads look like.

use std::sync::Arc;

use jsonschema::Validator;
use serde_json::Value;
use tidegate_model::delivery::Ms;
use tidegate_model::tick::Tick;
use tidegate_model::webhook::event::{EventType, SCHEMA_BYTES_MAX, TYPES_MAX, is_name};
use tidegate_store::documents::{Expect, Place, Room};
use tidegate_wire::clock;

use super::destinations::Page;
use super::records::{self, Record as _, Stored};
use super::{BELIEVED, WebhookError, Webhooks, now_ms};

/// The catalogue is everybody's.
const EVERYBODY: &str = "";
/// Bytes of a catalogue.
const BYTES_MAX: u64 = 64 << 20;
/// Problems of a payload that are told.
const TOLD_MAX: usize = 5;

/// What was found of a type, and when.
pub(super) type Look = (Option<Arc<Known>>, Tick);

/// A type as it is looked up for each event.
#[derive(Debug)]
pub(super) struct Known {
    archived: bool,
    schema: Option<Validator>,
}

impl Webhooks {
    /// The types of the catalogue, the oldest first.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn types(
        &self,
        after: Option<(Ms, Arc<str>)>,
        most: usize,
    ) -> Result<Page<EventType>, WebhookError> {
        self.list(records::TYPE, &EVERYBODY.into(), after, 0, most).await
    }

    /// A type of the catalogue.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn event_type(&self, name: &str) -> Result<Stored<EventType>, WebhookError> {
        let found = self.get(records::TYPE, &EVERYBODY.into(), name).await?;
        found.ok_or(WebhookError::NotFound("event type"))
    }

    /// Makes or changes a type.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn put_type(
        &self,
        wanted: EventType,
        expect: Option<u64>,
    ) -> Result<Stored<EventType>, WebhookError> {
        if !is_name(&wanted.name) {
            let why = "a type is named by words of letters, digits, `_` and `-`, with dots between them";
            return Err(WebhookError::Invalid(why.to_owned()));
        }
        compiled(wanted.schema.as_ref())?;
        let body = wanted.written();
        if body.len() > SCHEMA_BYTES_MAX {
            let why = format!("a type has at most {SCHEMA_BYTES_MAX} bytes, schema and description together");
            return Err(WebhookError::Invalid(why));
        }
        let room = Room { count: TYPES_MAX as u64, bytes: BYTES_MAX };
        let at = self.get::<EventType>(records::TYPE, &EVERYBODY.into(), &wanted.name).await?;
        let at = at.map_or_else(now_ms, |held| held.at);
        let expect = expect.map_or(Expect::Any, Expect::Version);
        let version = self.put(place(&wanted.name), expect, (at, None), body, room).await?;
        self.types.lock().remove(&*wanted.name);
        Ok(Stored { name: wanted.name.clone().into(), version, at, record: wanted })
    }

    /// A type goes: who publishes it from then on publishes what is not in the catalogue.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn delete_type(&self, name: &str, expect: Option<u64>) -> Result<(), WebhookError> {
        let expect = match expect {
            Some(version) => version,
            None => self.event_type(name).await?.version,
        };
        self.remove(place(name), Expect::Version(expect)).await?;
        self.types.lock().remove(name);
        Ok(())
    }

    /// Whether an event of this type may have this payload.
    pub(super) async fn conforms(&self, name: &str, payload: &Value) -> Result<(), WebhookError> {
        let known = self.known(name).await?;
        match known.as_deref() {
            None if self.settings().strict => {
                Err(WebhookError::Invalid(format!("`{name}` is not in the catalogue of event types")))
            }
            None => Ok(()),
            Some(Known { archived: true, .. }) => {
                Err(WebhookError::Invalid(format!("`{name}` is archived: it is published no more")))
            }
            Some(Known { schema: None, .. }) => Ok(()),
            Some(Known { schema: Some(schema), .. }) => {
                let wrong = schema.iter_errors(payload).take(TOLD_MAX);
                let wrong: Vec<String> =
                    wrong.map(|error| format!("{}: {error}", error.instance_path)).collect();
                if wrong.is_empty() {
                    return Ok(());
                }
                Err(WebhookError::Invalid(format!("the payload is no `{name}`: {}", wrong.join("; "))))
            }
        }
    }

    async fn known(&self, name: &str) -> Result<Option<Arc<Known>>, WebhookError> {
        let now = clock::now();
        if let Some((known, at)) = self.types.lock().get(name)
            && now.since(*at) < BELIEVED
        {
            return Ok(known.clone());
        }
        let found = self.get::<EventType>(records::TYPE, &EVERYBODY.into(), name).await?;
        let known = match found {
            None => None,
            Some(found) => Some(Arc::new(Known {
                archived: found.record.archived,
                schema: compiled(found.record.schema.as_ref())?,
            })),
        };
        let mut types = self.types.lock();
        if types.len() >= TYPES_MAX {
            types.clear();
        }
        types.insert(name.into(), (known.clone(), now));
        Ok(known)
    }
}

fn place(name: &str) -> Place {
    Place { kind: records::TYPE, tenant: EVERYBODY.into(), name: name.into() }
}

/// A schema that payloads can be compared with. One that refers to another's URL is none: nothing is fetched.
fn compiled(schema: Option<&Value>) -> Result<Option<Validator>, WebhookError> {
    let compile = |schema: &Value| {
        jsonschema::options()
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .build(schema)
            .map_err(|error| WebhookError::Invalid(format!("schema: {error}")))
    };
    schema.map(compile).transpose()
}
