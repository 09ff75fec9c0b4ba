//! An attempt: an event is written in its form, signed, sent to its destination, and what the answer means is kept.
//!
//! It runs on the engine's thread and holds what belongs to no document: how fast a destination may be called, until when it
//! is left alone, how many attempts of it are under way. Lost at a restart, nothing of that loses an event.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;
use tidegate_model::delivery::outcome::Outcome as Verdict;
use tidegate_model::fields::Fields;
use tidegate_model::limit::{Verdict as Passed, Word};
use tidegate_model::plan::Rate;
use tidegate_model::retry::retry_after;
use tidegate_model::tick::Tick;
use tidegate_model::webhook::cloudevents::{self, Consent, Rendered};
use tidegate_model::webhook::consent;
use tidegate_model::webhook::destination::{Meaning, State, meaning, pause};
use tidegate_model::webhook::event::{Event, drawn};
use tidegate_model::webhook::reach;
use tidegate_model::webhook::signing::{Message, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use tidegate_store::documents::{Expect, Write, Written};
use tidegate_upstream::dial::{self, DialError, Dialer, Dialled};
use tidegate_wire::client_tls::Identity;
use tidegate_wire::clock;

use super::batches::batch_place;
use super::destinations::secrets_of;
use super::records::{
    self, ANSWER_BYTES_MAX, ATTEMPTS_MAX, Destination, Outcome, OutcomeState, Reference, Stored, Told,
};
use super::{WebhookError, WebhookSettings, Webhooks, now_ms};

/// Destinations that something is held of.
const LINES_MAX: usize = 4096;
/// How long a receiver's consent is believed, and its refusal.
const CONSENT_FOR: Duration = Duration::from_secs(3600);
const REFUSAL_FOR: Duration = Duration::from_secs(60);
/// How soon what had no turn is looked at again.
const TURN: Duration = Duration::from_millis(500);
/// Tries to note what others note of, too.
const NOTES_MAX: usize = 5;
/// How soon what could not be read is tried again.
const UNREADABLE: Duration = Duration::from_secs(5);

/// Makes attempts.
pub struct Sender {
    webhooks: Arc<Webhooks>,
    /// The way to destinations, and the settings that it was made of.
    dialer: RefCell<Option<(Arc<WebhookSettings>, Rc<Dialer>)>>,
    lines: RefCell<HashMap<Arc<str>, Rc<Line>>>,
}

/// What is held of a destination.
#[derive(Default)]
struct Line {
    word: Word,
    under_way: Cell<usize>,
    /// It is left alone until then.
    held_until: Cell<Tick>,
    consent: RefCell<Option<Heard>>,
    used_at: Cell<Tick>,
}

/// What was heard from a receiver that was asked whether it wants events: of its URL, as whoever is called by another may want
/// something else.
struct Heard {
    url: String,
    consent: Consent,
    at: Tick,
}

impl Line {
    /// What was heard from who is called by this URL, and when.
    fn heard(&self, url: &str) -> Option<(Consent, Tick)> {
        let heard = self.consent.borrow();
        heard.as_ref().filter(|heard| heard.url == url).map(|heard| (heard.consent, heard.at))
    }
}

/// One attempt under way.
struct UnderWay(Rc<Line>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What the engine makes of it.
    pub outcome: Verdict,
    /// The status that it was answered with.
    pub status: Option<u16>,
    /// Why it failed.
    pub why: Option<Arc<str>>,
    /// The beginning of the answer.
    pub answer: Bytes,
}

impl Made {
    fn ended(outcome: Verdict, why: &str) -> Made {
        Made { outcome, status: None, why: Some(why.into()), answer: Bytes::new() }
    }
}

/// What is sent, and what is kept of it.
struct Parcel {
    /// The id that it is sent by.
    id: String,
    rendered: Rendered,
    /// The events in it, each with its type.
    events: Vec<(String, String)>,
}

impl Sender {
    /// A sender of a thread.
    #[must_use]
    pub fn new(webhooks: Arc<Webhooks>) -> Sender {
        Sender { webhooks, dialer: RefCell::default(), lines: RefCell::default() }
    }

    /// Whether it sends these.
    pub(super) fn is_of(&self, webhooks: &Arc<Webhooks>) -> bool {
        Arc::ptr_eq(&self.webhooks, webhooks)
    }

    /// Closes connections that were idle for too long.
    pub fn sweep(&self) {
        if let Some((_, dialer)) = &*self.dialer.borrow() {
            dialer.sweep();
        }
    }

    /// The way to destinations: another one where the settings are others, so that nothing is called, nor kept, that may
    /// not be called any more.
    fn dialer(&self) -> Result<Rc<Dialer>, DialError> {
        let settings = self.webhooks.settings();
        let mut held = self.dialer.borrow_mut();
        if let Some((made_of, dialer)) = &*held
            && Arc::ptr_eq(made_of, &settings)
        {
            return Ok(Rc::clone(dialer));
        }
        let dialer = Rc::new(Dialer::new(settings.dial.clone())?);
        *held = Some((settings, Rc::clone(&dialer)));
        Ok(dialer)
    }

    /// Makes attempt `number` of what a delivery says.
    pub async fn attempt(&self, tenant: &Arc<str>, content: &[u8], number: u32, chance: u64) -> Made {
        let Some(reference) = Reference::read(content) else {
            return Made::ended(Verdict::Never, "the delivery names no destination and no event");
        };
        match self.try_attempt(tenant, &reference, number, chance).await {
            Ok(made) => made,
            Err(WebhookError::NotFound(what)) => {
                Made::ended(Verdict::Never, &format!("the {what} is not there any more"))
            }
            // Nothing has left: what was sent is told by what it was answered.
            Err(
                error @ (WebhookError::Store(_)
                | WebhookError::Chance
                | WebhookError::Changed(_)
                | WebhookError::Full(_)),
            ) => Made::ended(Verdict::Unsent(Some(UNREADABLE)), &error.to_string()),
            Err(error) => Made::ended(Verdict::Never, &error.to_string()),
        }
    }

    async fn try_attempt(
        &self,
        tenant: &Arc<str>,
        reference: &Reference,
        number: u32,
        chance: u64,
    ) -> Result<Made, WebhookError> {
        let webhooks = &self.webhooks;
        let all = webhooks.destinations_of(tenant).await?;
        let found = all.iter().find(|one| *one.name == *reference.destination);
        let destination = found.cloned().ok_or(WebhookError::NotFound("destination"))?;
        let batch = reference.batch.as_deref();
        if !destination.record.health.is_enabled() {
            let events = self.events(tenant, reference, &destination).await?;
            let made = Made::ended(Verdict::Never, "the destination is disabled");
            let told = Told { why: made.why.as_deref().map(str::to_owned), ..told(&destination, number) };
            let events: Vec<_> = events.into_iter().map(|id| (id, String::new())).collect();
            self.note(tenant, &destination, (&events, batch), OutcomeState::Failed, told).await?;
            return Ok(made);
        }
        let line = self.line(&destination.name);
        if let Some(wait) = self.turn(&line, &destination) {
            return Ok(Made::ended(Verdict::Unsent(Some(wait)), "its turn has not come"));
        }
        line.under_way.set(line.under_way.get() + 1);
        let _under_way = UnderWay(Rc::clone(&line));
        let events = self.events(tenant, reference, &destination).await?;
        if events.is_empty() && batch.is_some() {
            // Another delivery has come for all that waited.
            return Ok(Made {
                why: None,
                ..Made::ended(Verdict::Answered(StatusCode::NO_CONTENT, None), "")
            });
        }
        let parcel = self.parcel(tenant, &events, &destination).await?;
        let (began, at) = (clock::now(), now_ms());
        let (fields, called) = self.call(tenant, &line, &destination, &parcel, at / 1000).await?;
        if let Err(error @ (DialError::LeftAlone { .. } | DialError::Busy)) = &called {
            let wait = if let DialError::LeftAlone { wait } = error { *wait } else { TURN };
            return Ok(Made::ended(Verdict::Unsent(Some(wait)), &error.to_string()));
        }
        let told = Told {
            at,
            took: u64::try_from(clock::now().since(began).as_millis()).unwrap_or(u64::MAX),
            request: fields,
            ..told(&destination, number)
        };
        Ok(self.judge(tenant, &line, &destination, batch, &parcel, called, told, chance).await)
    }

    /// What an answer comes to, kept and told.
    #[expect(clippy::too_many_arguments, reason = "all of one attempt")]
    async fn judge(
        &self,
        tenant: &Arc<str>,
        line: &Line,
        destination: &Stored<Destination>,
        batch: Option<&str>,
        parcel: &Parcel,
        called: Result<Dialled, DialError>,
        told: Told,
        chance: u64,
    ) -> Made {
        let settings = self.webhooks.settings();
        let status = called.as_ref().ok().map(|answer| answer.status);
        let asked = called
            .as_ref()
            .ok()
            .and_then(|answer| retry_after(answer.fields.get(RETRY_AFTER)?.to_str().ok()?, clock::wall()));
        let meant = meaning(status, asked);
        if let Meaning::Throttled(wait) = meant {
            line.held_until.set(clock::now().after(wait));
        }
        let schedule = destination.record.wanted.schedule.as_ref().unwrap_or(&settings.schedule);
        let again = pause(schedule, told.number, meant, chance);
        let why = match &called {
            Ok(_) if meant == Meaning::Delivered => None,
            Ok(answer) => Some(format!("answered {}", answer.status)),
            Err(error) => {
                let (told, why) = (error.told(), error.to_string());
                if told != why {
                    tracing::info!(%tenant, destination = &*destination.name, why, "a webhook was not sent");
                }
                Some(told)
            }
        };
        let (outcome, state) = match (meant, again) {
            (Meaning::Delivered, _) => {
                let status = StatusCode::from_u16(status.unwrap_or(200)).unwrap_or_default();
                (Verdict::Answered(status, None), OutcomeState::Delivered)
            }
            (Meaning::Throttled(_) | Meaning::Failed { .. }, Some(wait)) => {
                (Verdict::Refused(Some(wait)), OutcomeState::Retrying)
            }
            (Meaning::Gone | Meaning::Throttled(_) | Meaning::Failed { .. }, _) => {
                (Verdict::Never, OutcomeState::Failed)
            }
        };
        let answer = called.as_ref().map(|answer| answer.body.clone()).unwrap_or_default();
        let told = Told {
            address: called.as_ref().ok().map(|answer| answer.address.to_string()),
            status,
            why: why.clone(),
            answer: beginning(&answer),
            ..told
        };
        // It has been made, whatever becomes of what is told of it.
        let noted = self.note(tenant, destination, (&parcel.events, batch), state, told).await;
        if let Err(error) = noted.and(self.fares(tenant, destination, meant).await) {
            tracing::warn!(destination = &*destination.name, %error, "an attempt's outcome is not kept");
        }
        Made { outcome, status, why: why.map(Arc::from), answer }
    }

    /// Whether a destination may be called now; if not, when to look again.
    fn turn(&self, line: &Line, destination: &Stored<Destination>) -> Option<Duration> {
        let now = clock::now();
        let held = line.held_until.get().since(now);
        if !held.is_zero() {
            return Some(held);
        }
        if line.under_way.get() >= self.webhooks.settings().per_destination.max(1) {
            return Some(TURN);
        }
        let wanted = &destination.record.wanted;
        let allowed = match line.heard(&wanted.url) {
            Some((Consent::Given(rate), _)) if wanted.handshake => rate,
            _ => None,
        };
        let (limit, window) = stricter(wanted.rate, allowed)?;
        let rate = Rate { name: Arc::clone(&destination.name), limit, window, burst: limit };
        match line.word.take(&rate, now) {
            Passed::Passed { .. } => None,
            Passed::Refused { retry_after } => Some(retry_after),
        }
    }

    /// The ids of the events that a delivery is about.
    async fn events(
        &self,
        tenant: &Arc<str>,
        reference: &Reference,
        destination: &Stored<Destination>,
    ) -> Result<Vec<String>, WebhookError> {
        match &reference.batch {
            Some(batch) => self.webhooks.gathered(tenant, destination, batch).await,
            None => Ok(reference.events.clone()),
        }
    }

    /// What is sent: the events in the destination's form. Of a batch what is forgotten is left out.
    async fn parcel(
        &self,
        tenant: &Arc<str>,
        ids: &[String],
        destination: &Stored<Destination>,
    ) -> Result<Parcel, WebhookError> {
        let mut events = Vec::with_capacity(ids.len());
        for id in ids.iter().take(cloudevents::BATCH_MAX) {
            match self.webhooks.event(tenant, id).await {
                Ok(found) => events.push(found.record.event(id, tenant, found.at)),
                Err(WebhookError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let known = events.iter().map(|event| (event.id.clone(), event.kind.clone())).collect();
        let source = &self.webhooks.settings().source;
        Ok(match events.as_slice() {
            [] => return Err(WebhookError::NotFound("event")),
            [event] => {
                let rendered = cloudevents::render(destination.record.wanted.form, event, source);
                Parcel { id: event.id.clone(), rendered, events: known }
            }
            events => {
                Parcel { id: batch_id(events), rendered: cloudevents::batch(events, source), events: known }
            }
        })
    }

    /// Signs and sends. The fields that were said, as they are kept; and what came of it.
    async fn call(
        &self,
        tenant: &Arc<str>,
        line: &Line,
        destination: &Stored<Destination>,
        parcel: &Parcel,
        now: u64,
    ) -> Result<(Vec<(String, String)>, Result<Dialled, DialError>), WebhookError> {
        let record = &destination.record;
        let (fields, kept) = fields(record, parcel, &self.webhooks.settings().origin, now)?;
        let found = self.dialer().and_then(|dialer| Ok((dialer.reach().place(&record.wanted.url)?, dialer)));
        let (place, dialer) = match found {
            Ok(found) => found,
            Err(refused) => return Ok((kept, Err(refused))),
        };
        let identity = match &record.identity {
            None => None,
            Some((chain, key)) => {
                let unusable = |why| WebhookError::Invalid(format!("certificate: {why}"));
                Some(Identity::read(chain, key).map_err(unusable)?)
            }
        };
        // Breaker and connections are those of this writing of it: changed, it begins anew.
        let name: Arc<str> = match &record.identity {
            None => format!("{}#{}", destination.name, record.wanted.url).into(),
            Some(_) => format!("{}#{}", destination.name, destination.version).into(),
        };
        if record.wanted.handshake
            && let Err(error) = {
                let way = (&*dialer, &name, &place, identity.as_ref());
                self.consent(tenant, line, way, destination).await
            }
        {
            return Ok((kept, Err(error)));
        }
        let message = dial::Message { method: Method::POST, fields: &fields, body: &parcel.rendered.body };
        let speaks_well = |status: u16| !matches!(status, 429 | 500..=599);
        Ok((kept, dialer.send(&name, &place, identity.as_ref(), &message, speaks_well).await))
    }

    /// Asks a receiver whether it wants events, if that is not known.
    async fn consent(
        &self,
        tenant: &Arc<str>,
        line: &Line,
        (dialer, name, place, identity): (&Dialer, &Arc<str>, &reach::Place, Option<&Identity>),
        destination: &Stored<Destination>,
    ) -> Result<(), DialError> {
        let withheld =
            || DialError::Send("the receiver has not allowed it (WebHook-Allowed-Origin)".to_owned());
        let (settings, wanted) = (self.webhooks.settings(), &destination.record.wanted);
        let (now, heard) = (clock::now(), line.heard(&wanted.url));
        if heard.is_some_and(|(consent, at)| consent != Consent::Withheld && now.since(at) < CONSENT_FOR) {
            return Ok(());
        }
        let hear = |consent| {
            *line.consent.borrow_mut() = Some(Heard { url: wanted.url.clone(), consent, at: clock::now() });
        };
        let rate = wanted.rate.map(|rate| u64::from(rate) * 60);
        let callback = match &settings.callback {
            None => None,
            Some(base) => {
                // Where the store cannot say, nothing is sent for now.
                let asked = self.webhooks.asked(tenant, destination, rate).await;
                let (key, asked) = asked.map_err(|_| DialError::Busy)?;
                if let Some(given) = asked.given {
                    hear(Consent::Given(given.rate));
                    return Ok(());
                }
                Some(format!("{base}{}{key}", consent::PATH))
            }
        };
        if heard.is_some_and(|(consent, at)| consent == Consent::Withheld && now.since(at) < REFUSAL_FOR) {
            return Err(withheld());
        }
        let mut fields = Fields::default();
        for (name, value) in cloudevents::ask(&settings.origin, rate, callback.as_deref()) {
            put(&mut fields, name, &value);
        }
        let message = dial::Message { method: Method::OPTIONS, fields: &fields, body: &Bytes::new() };
        let answer = dialer.send(name, place, identity, &message, |status| status < 500).await?;
        let consent = cloudevents::answered(answer.status, &answer.fields, &settings.origin, rate);
        hear(consent);
        if consent == Consent::Withheld { Err(withheld()) } else { Ok(()) }
    }

    /// Keeps what became of events at a destination.
    async fn note(
        &self,
        tenant: &Arc<str>,
        destination: &Stored<Destination>,
        (events, batch): (&[(String, String)], Option<&str>),
        state: OutcomeState,
        told: Told,
    ) -> Result<(), WebhookError> {
        let owner = records::outcomes_of(tenant, &destination.name);
        for _ in 0..NOTES_MAX {
            let mut writes = Vec::with_capacity(events.len() + 1);
            for (event, kind) in events {
                let held = self.webhooks.get::<Outcome>(records::OUTCOME, &owner, event).await?;
                let expect = held.as_ref().map_or(Expect::Absent, |held| Expect::Version(held.version));
                let mut outcome = held.map(|held| held.record).unwrap_or_else(|| Outcome {
                    kind: kind.to_owned(),
                    state,
                    attempts: Vec::new(),
                });
                outcome.state = state;
                if outcome.kind.is_empty() {
                    outcome.kind.clone_from(kind);
                }
                outcome.attempts.push(told.clone());
                let more = outcome.attempts.len().saturating_sub(ATTEMPTS_MAX);
                outcome.attempts.drain(..more);
                writes.push(self.webhooks.outcome_write(&owner, event, expect, &outcome));
            }
            if let Some(batch) = batch
                && state != OutcomeState::Retrying
            {
                writes.push(Write::Remove { place: batch_place(&owner, batch), expect: Expect::Any });
            }
            match self.webhooks.store.write(writes).await? {
                // What there is no room for is not kept; the event goes its way.
                Written::Done(_) | Written::Full(_) => return Ok(()),
                // Another attempt of one of them was noted meanwhile.
                Written::Unexpected(..) => {}
            }
        }
        Err(WebhookError::Changed(None))
    }

    /// How a destination fares after an attempt; where that disables it, its tenant is told.
    async fn fares(
        &self,
        tenant: &Arc<str>,
        destination: &Stored<Destination>,
        meant: Meaning,
    ) -> Result<(), WebhookError> {
        let (after, now) = (self.webhooks.settings().disable_after, now_ms() / 1000);
        if destination.record.health.after(meant, after, now).0 == destination.record.health {
            return Ok(());
        }
        let news = Mutex::new(None);
        let changed = self.webhooks.alter(tenant, &destination.name, None, |record| {
            let (health, told) = record.health.after(meant, after, now);
            record.health = health;
            *news.lock() = told;
            Ok(())
        });
        let changed = match changed.await {
            Ok(changed) => changed,
            // It was removed meanwhile.
            Err(WebhookError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let why = match news.into_inner() {
            Some(State::Gone) => "gone",
            Some(State::Failing) => "failing",
            Some(State::Enabled | State::Disabled) | None => return Ok(()),
        };
        tracing::warn!(
            tenant = &**tenant,
            destination = &*destination.name,
            why,
            "webhook destination disabled"
        );
        self.webhooks.tell_disabled(tenant, &changed, why).await
    }

    fn line(&self, name: &Arc<str>) -> Rc<Line> {
        let mut lines = self.lines.borrow_mut();
        if !lines.contains_key(name) && lines.len() >= LINES_MAX {
            let idle = lines.iter().filter(|(_, line)| line.under_way.get() == 0);
            let oldest = idle.min_by_key(|(_, line)| line.used_at.get()).map(|(name, _)| Arc::clone(name));
            oldest.and_then(|oldest| lines.remove(&oldest));
        }
        let line = lines.entry(Arc::clone(name)).or_default();
        line.used_at.set(clock::now());
        Rc::clone(line)
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Sender({} destinations)", self.lines.borrow().len())
    }
}

/// The rate that counts, of what a destination is wanted to get a second and what its receiver allows a minute.
fn stricter(wanted: Option<u32>, allowed: Option<u64>) -> Option<(u64, Duration)> {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    match (wanted.map(u64::from), allowed) {
        (Some(wanted), Some(allowed)) if allowed < wanted.saturating_mul(60) => Some((allowed, minute)),
        (Some(wanted), _) => Some((wanted, second)),
        (None, allowed) => allowed.map(|allowed| (allowed, minute)),
    }
}

/// The fields of a request, and what is kept of them.
fn fields(
    record: &Destination,
    parcel: &Parcel,
    origin: &str,
    now: u64,
) -> Result<(Fields, Vec<(String, String)>), WebhookError> {
    let message = Message { id: &parcel.id, timestamp: now, body: &parcel.rendered.body };
    let signature = secrets_of(record)?.sign(message);
    let mut fields = Fields::default();
    let mut kept = Vec::new();
    let mut say = |name: &str, value: &str| {
        put(&mut fields, name, value);
        kept.push((name.to_owned(), value.to_owned()));
    };
    say(CONTENT_TYPE.as_str(), parcel.rendered.content_type);
    say(USER_AGENT.as_str(), "Tidegate-Webhooks");
    say(WEBHOOK_ID, &parcel.id);
    say(WEBHOOK_TIMESTAMP, &now.to_string());
    say(WEBHOOK_SIGNATURE, &signature);
    if record.wanted.handshake {
        say(cloudevents::ORIGIN, origin);
    }
    for (name, value) in &parcel.rendered.fields {
        say(name, value);
    }
    for (name, value) in &record.wanted.headers {
        put(&mut fields, name, value);
        // Most likely it is a credential.
        kept.push((name.clone(), "(hidden)".to_owned()));
    }
    Ok((fields, kept))
}

/// Says a field, in the place of one of the same name.
fn put(fields: &mut Fields, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        fields.insert(&name, value);
    }
}

fn told(destination: &Stored<Destination>, number: u32) -> Told {
    Told {
        number,
        at: now_ms(),
        took: 0,
        url: destination.record.wanted.url.clone(),
        address: None,
        request: Vec::new(),
        status: None,
        why: None,
        answer: String::new(),
    }
}

/// The beginning of an answer, as text.
fn beginning(answer: &Bytes) -> String {
    String::from_utf8_lossy(&answer[..answer.len().min(ANSWER_BYTES_MAX)]).into_owned()
}

/// The id of a batch: the same for the same events.
fn batch_id(events: &[Event]) -> String {
    let ids = events.iter().map(|event| event.id.as_bytes());
    let digest = tidegate_model::idempotency::digest(ids);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    drawn("batch_", u128::from_be_bytes(bytes))
}
