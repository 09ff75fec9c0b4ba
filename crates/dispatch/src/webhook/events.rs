//! Events: published, looked up, sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tidegate_model::delivery::{AGING_MS, Id, Lane, Ms, Request};
use tidegate_model::fields::Fields;
use tidegate_model::gate::Priority;
use tidegate_model::webhook::cloudevents::BATCH_MAX;
use tidegate_model::webhook::event::{
    CHANNELS_MAX, DISABLED, PAYLOAD_BYTES_MAX, TEST, draw_id, is_id, is_name,
};
use tidegate_model::webhook::filter::is_channel;
use tidegate_store::deliveries::{
    Appended, Otherwise, Promise, Room as Waiting, TOGETHER_MAX, Unique, fresh_id,
};
use tidegate_store::documents::{Expect, Place, Room, Write, Written};

use super::destinations::Page;
use super::records::{self, Destination, EventRecord, Outcome, OutcomeState, Record as _, Reference, Stored};
use super::{QUEUE, WebhookError, Webhooks, batches, chance, now_ms};

/// How long the same id is the same event for a destination.
const UNIQUE_FOR: Duration = Duration::from_secs(86_400);
/// What a tenant may have waiting.
pub(super) const WAITING: Waiting = Waiting { waiting_max: 1_000_000, bytes_max: 1 << 30 };
/// Bytes of a subject.
const SUBJECT_BYTES_MAX: usize = 500;
/// Events that are looked at when some are recovered, at once.
const RECOVERED_MAX: usize = 200;

/// An event that is to be published.
#[derive(Clone, Debug, Default)]
pub struct NewEvent {
    /// Its id; `None`: it is drawn.
    pub id: Option<String>,
    /// Its type.
    pub kind: String,
    /// The channels that it is told on.
    pub channels: Vec<String>,
    /// What it is about.
    pub subject: Option<String>,
    /// What has happened, in JSON.
    pub payload: Bytes,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its id.
    pub id: String,
    /// Whether it had been published before.
    pub repeated: bool,
    /// Destinations that it goes to.
    pub destinations: usize,
}

/// Which events are sent again.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Those that were published from then on.
    pub since: Ms,
    /// Those that were given up.
    pub failed: bool,
    /// Those that never went there.
    pub missing: bool,
    /// From here on, as told before.
    pub after: Option<(Ms, Arc<str>)>,
}

/// What was sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// So many.
    pub sent: usize,
    /// Where it is to go on; `None`: that was all.
    pub next: Option<(Ms, Arc<str>)>,
}

impl Webhooks {
    /// Publishes events of a tenant. None is published unless all can be.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn publish(
        &self,
        tenant: &Arc<str>,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Published>, WebhookError> {
        if events.is_empty() || events.len() > BATCH_MAX {
            return Err(WebhookError::Invalid(format!("1 to {BATCH_MAX} events are published at once")));
        }
        let mut payloads = Vec::with_capacity(events.len());
        for event in &events {
            payloads.push(self.look_at_event(event).await?);
        }
        let destinations = self.destinations_of(tenant).await?;
        let at = now_ms();
        let mut named = Vec::with_capacity(events.len());
        for event in events {
            let id = match &event.id {
                Some(id) => id.clone(),
                None => draw_id(chance()?),
            };
            named.push((id, event));
        }
        let twice = |(place, (id, _)): (usize, &(String, NewEvent))| {
            named[..place].iter().any(|(other, _)| other == id)
        };
        if named.iter().enumerate().any(twice) {
            return Err(WebhookError::Invalid("the same id stands twice among the events".to_owned()));
        }
        let repeated = self.keep(tenant, &named, at).await?;
        let mut sends = Vec::new();
        let mut published = Vec::with_capacity(named.len());
        for (((id, event), payload), repeated) in named.iter().zip(&payloads).zip(repeated) {
            let passes = |one: &&Stored<Destination>| {
                let filter = &one.record.wanted.filter;
                one.record.health.is_enabled()
                    && filter.passes(&event.kind, &event.channels, || Some(payload))
            };
            let to: Vec<&Stored<Destination>> = destinations.iter().filter(passes).collect();
            published.push(Published { id: id.clone(), repeated, destinations: to.len() });
            for one in to {
                // What it had before it may have had so long ago that no delivery is known of it any more.
                if !repeated || self.outcome(tenant, one, id).await?.is_none() {
                    sends.push(Send { to: one, event: id.clone(), once: Once::Published });
                }
            }
        }
        self.send(tenant, sends).await?;
        Ok(published)
    }

    async fn look_at_event(&self, event: &NewEvent) -> Result<Value, WebhookError> {
        let invalid = |why: &str| Err(WebhookError::Invalid(why.to_owned()));
        if !is_name(&event.kind) {
            return invalid(
                "an event's type is words of letters, digits, `_` and `-`, with dots between them",
            );
        }
        if event.kind.starts_with("tidegate.") {
            return invalid("types that begin with `tidegate.` are Tidegate's own");
        }
        if event.id.as_deref().is_some_and(|id| !is_id(id)) {
            return invalid("an event's id has 1 to 64 letters, digits, `_` and `-`");
        }
        if event.channels.len() > CHANNELS_MAX || event.channels.iter().any(|channel| !is_channel(channel)) {
            return invalid("an event has at most 10 channels, of printable ASCII without spaces");
        }
        if event.subject.as_ref().is_some_and(|subject| subject.len() > SUBJECT_BYTES_MAX) {
            return invalid("a subject has at most 500 bytes");
        }
        if event.payload.len() > PAYLOAD_BYTES_MAX {
            return invalid("a payload has at most 1 MiB");
        }
        let Ok(payload) = serde_json::from_slice::<Value>(&event.payload) else {
            return invalid("the payload is no JSON");
        };
        self.conforms(&event.kind, &payload).await?;
        Ok(payload)
    }

    /// Keeps events. Whether each had been kept before.
    async fn keep(
        &self,
        tenant: &Arc<str>,
        events: &[(String, NewEvent)],
        at: Ms,
    ) -> Result<Vec<bool>, WebhookError> {
        let mut repeated = vec![false; events.len()];
        loop {
            let fresh: Vec<usize> = (0..events.len()).filter(|index| !repeated[*index]).collect();
            let writes = fresh.iter().map(|index| {
                let (id, event) = &events[*index];
                self.event_write(tenant, id, event, at)
            });
            match self.store.write(writes.collect()).await? {
                Written::Done(_) => return Ok(repeated),
                Written::Full(_) => return Err(WebhookError::Full("events")),
                Written::Unexpected(place, _) => {
                    let index = fresh[place];
                    let (id, event) = &events[index];
                    let held = self.get::<EventRecord>(records::EVENT, tenant, id).await?;
                    match held {
                        Some(held) if held.record == record_of(event) => repeated[index] = true,
                        Some(_) => return Err(WebhookError::Mismatch),
                        // It was removed meanwhile: it is written with the next try.
                        None => {}
                    }
                }
            }
        }
    }

    fn event_write(&self, tenant: &Arc<str>, id: &str, event: &NewEvent, at: Ms) -> Write {
        let settings = self.settings();
        let until = at + u64::try_from(settings.retention.as_millis()).unwrap_or(u64::MAX / 2);
        Write::Put {
            place: Place { kind: records::EVENT, tenant: Arc::clone(tenant), name: id.into() },
            expect: Expect::Absent,
            at,
            until: Some(until),
            body: record_of(event).written(),
            room: Room { count: u64::MAX >> 1, bytes: settings.events_bytes_max },
        }
    }

    /// Makes a delivery of each; or, for who takes batches, lets it wait for the next. How many were not there already.
    async fn send(&self, tenant: &Arc<str>, sends: Vec<Send<'_>>) -> Result<usize, WebhookError> {
        let now = now_ms();
        let (mut promises, mut waiting) = (Vec::new(), Vec::<(&Stored<Destination>, Vec<String>)>::new());
        for Send { to, event, once } in sends {
            if batches::gathers(to) {
                match waiting.iter_mut().find(|(held, _)| held.name == to.name) {
                    Some((_, events)) => events.push(event),
                    None => waiting.push((to, vec![event])),
                }
                continue;
            }
            let unique = once.unique(&to.name, &event, now);
            let reference = Reference { destination: to.name.to_string(), events: vec![event], batch: None };
            promises.push(promise(tenant, to, &reference, unique, fresh_id().ok_or(WebhookError::Chance)?));
        }
        let mut sent = 0;
        while !promises.is_empty() {
            let rest = promises.split_off(promises.len().min(TOGETHER_MAX));
            let appended = self.store.append(std::mem::replace(&mut promises, rest), WAITING, now).await?;
            if appended.iter().any(|one| matches!(one, Appended::Full)) {
                return Err(WebhookError::Full("deliveries waiting"));
            }
            sent += appended.iter().filter(|one| matches!(one, Appended::Accepted(_))).count();
        }
        for (to, events) in waiting {
            sent += self.let_wait(tenant, to, events).await?;
        }
        Ok(sent)
    }

    /// What became of an event at a destination, if anything has.
    async fn outcome(
        &self,
        tenant: &Arc<str>,
        destination: &Stored<Destination>,
        event: &str,
    ) -> Result<Option<Stored<Outcome>>, WebhookError> {
        self.get(records::OUTCOME, &records::outcomes_of(tenant, &destination.name), event).await
    }

    /// An event.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn event(&self, tenant: &Arc<str>, id: &str) -> Result<Stored<EventRecord>, WebhookError> {
        let found = self.get(records::EVENT, tenant, id).await?;
        found.ok_or(WebhookError::NotFound("event"))
    }

    /// A tenant's events, the oldest first.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn events(
        &self,
        tenant: &Arc<str>,
        since: Ms,
        after: Option<(Ms, Arc<str>)>,
        most: usize,
    ) -> Result<Page<EventRecord>, WebhookError> {
        self.list(records::EVENT, tenant, after, since, most).await
    }

    /// Tries out a destination by an event for it alone. The event's id.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn test(&self, tenant: &Arc<str>, id: &str) -> Result<String, WebhookError> {
        let destination = self.destination(tenant, id).await?;
        let payload = json!({ "test": true, "destination": id }).to_string().into();
        let event = NewEvent { kind: TEST.to_owned(), payload, ..NewEvent::default() };
        let named = [(draw_id(chance()?), event)];
        self.keep(tenant, &named, now_ms()).await?;
        let [(name, _)] = named;
        self.send(tenant, vec![Send { to: &destination, event: name.clone(), once: Once::Published }])
            .await?;
        Ok(name)
    }

    /// Sends an event to a destination again, whatever became of it.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn resend(&self, tenant: &Arc<str>, id: &str, event: &str) -> Result<(), WebhookError> {
        let destination = self.destination(tenant, id).await?;
        self.event(tenant, event).await?;
        let send = Send { to: &destination, event: event.to_owned(), once: Once::Never };
        self.send(tenant, vec![send]).await.map(drop)
    }

    /// Sends again what a destination has not got. Some at once: whoever asks goes on from `next`.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub async fn recover(
        &self,
        tenant: &Arc<str>,
        id: &str,
        recovery: Recovery,
    ) -> Result<Recovered, WebhookError> {
        let destination = self.destination(tenant, id).await?;
        let Recovery { since, failed, missing, after } = recovery;
        let page = self.events(tenant, since, after, RECOVERED_MAX).await?;
        let filter = &destination.record.wanted.filter;
        let mut sends = Vec::new();
        for event in &page.items {
            let payload = || serde_json::from_slice::<Value>(&event.record.payload).ok();
            let payload = if filter.payload.is_empty() { None } else { payload() };
            let own = event.record.kind.starts_with("tidegate.");
            if own || !filter.passes(&event.record.kind, &event.record.channels, || payload.as_ref()) {
                continue;
            }
            let outcome = self.outcome(tenant, &destination, &event.name).await?;
            let once = match outcome.map(|outcome| (outcome.record.state, outcome.version)) {
                None if missing => Once::Published,
                Some((OutcomeState::Failed, version)) if failed => Once::Failed(version),
                _ => continue,
            };
            sends.push(Send { to: &destination, event: event.name.to_string(), once });
        }
        let sent = self.send(tenant, sends).await?;
        Ok(Recovered { sent, next: page.next })
    }

    /// Tells a tenant's other destinations that one was disabled.
    pub(super) async fn tell_disabled(
        &self,
        tenant: &Arc<str>,
        gone: &Stored<Destination>,
        why: &str,
    ) -> Result<(), WebhookError> {
        let payload = json!({ "destination": &*gone.name, "url": gone.record.wanted.url, "why": why });
        let payload: Bytes = payload.to_string().into();
        let event = NewEvent { kind: DISABLED.to_owned(), payload: payload.clone(), ..NewEvent::default() };
        let named = [(draw_id(chance()?), event)];
        self.keep(tenant, &named, now_ms()).await?;
        let destinations = self.destinations_of(tenant).await?;
        let value: Value = serde_json::from_slice(&payload).unwrap_or_default();
        let to = destinations.iter().filter(|one| {
            let filter = &one.record.wanted.filter;
            one.name != gone.name
                && one.record.health.is_enabled()
                && filter.passes(DISABLED, &[], || Some(&value))
        });
        let send = |to| Send { to, event: named[0].0.clone(), once: Once::Published };
        let sends = to.map(send).collect();
        self.send(tenant, sends).await.map(drop)
    }
}

fn record_of(event: &NewEvent) -> EventRecord {
    EventRecord {
        kind: event.kind.clone(),
        channels: event.channels.clone(),
        subject: event.subject.clone(),
        payload: event.payload.clone(),
    }
}

/// An event on its way to a destination.
struct Send<'a> {
    to: &'a Stored<Destination>,
    event: String,
    once: Once,
}

/// What counts as the same send.
enum Once {
    /// Because it was published, however often that is said.
    Published,
    /// Because it had failed there: by this writing of what became of it.
    Failed(u64),
    /// Each is another.
    Never,
}

impl Once {
    fn unique(&self, destination: &str, event: &str, now: Ms) -> Option<Unique> {
        let key = match self {
            Once::Published => format!("{destination}:{event}"),
            Once::Failed(version) => format!("{destination}:{event}:{version}"),
            Once::Never => return None,
        };
        let until = now.saturating_add(UNIQUE_FOR.as_millis() as Ms);
        Some(Unique { key: key.into(), until, otherwise: Otherwise::Keep, fingerprint: None })
    }
}

/// A delivery of what a reference says.
pub(super) fn promise(
    tenant: &Arc<str>,
    destination: &Stored<Destination>,
    reference: &Reference,
    unique: Option<Unique>,
    id: Id,
) -> Promise {
    let ordered = destination.record.wanted.ordered;
    let lane = ordered.then(|| Lane { key: Arc::clone(&destination.name), ordered: true, open_max: 1 });
    let request = Request {
        method: Method::POST,
        target: "/".into(),
        fields: Fields::default(),
        body: reference.written(),
    };
    Promise {
        id,
        queue: QUEUE.into(),
        tenant: Arc::clone(tenant),
        lane,
        priority: Priority::Default,
        aging: AGING_MS,
        due: None,
        expires: None,
        attempts_max: None,
        unique,
        after: Vec::new(),
        callback: None,
        request: Arc::new(request),
    }
}
