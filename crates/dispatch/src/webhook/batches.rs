//! Batches: events for one destination that go as one request, so many of them or after so long.
//!
//! ```text
//! publish --- each event is noted as waiting ---> a delivery that gathers, due when the time is over, or now where enough wait
//!                                                                     |
//!                          the oldest that wait become a batch, which is kept <--- its first attempt
//!                                    '--- the same events under the same id in each further attempt
//! ```
//!
//! What always holds: of whatever waits there is a delivery behind it that has not gathered yet; what is gathered leaves the list
//! and becomes a batch in one transaction; an event is in one batch, and once in it has an outcome, by which a repeat is known.
//! A delivery that finds nothing waiting has nothing to do and is done.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_model::delivery::{Id, Kind, Ms};
use tidegate_model::webhook::cloudevents::{BATCH_MAX, Form};
use tidegate_model::webhook::event::drawn;
use tidegate_store::deliveries::{Appended, Otherwise, Promise, Unique, fresh_id};
use tidegate_store::documents::{Expect, Place, Room, WRITES_MAX, Write, Written};

use super::events::{WAITING, promise};
use super::records::{self, Destination, Outcome, OutcomeState, Record as _, Reference, Stored};
use super::{WebhookError, Webhooks, chance, now_ms};

/// Events that may wait for one destination's next batches.
const ROOM: Room = Room { count: 100_000, bytes: 256 << 20 };
/// Tries to gather what others gather, too.
const GATHERED_MAX: usize = 5;
/// How long it is known that enough wait.
const FULL_FOR: Ms = 60_000;

/// That an event waits. All that it says is its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits;

/// The events of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch(pub Vec<String>);

/// Whether a destination's events are gathered.
pub(super) fn gathers(destination: &Stored<Destination>) -> bool {
    destination.record.wanted.form == Form::CloudeventsBatch
}

/// Events of a destination's batch, at most.
fn most(destination: &Stored<Destination>) -> usize {
    let wanted = destination.record.wanted.batch.unwrap_or_default();
    (wanted.events as usize).clamp(1, BATCH_MAX)
}

impl Webhooks {
    /// Notes that events wait for a destination's next batch, and sees to it that they are gathered. How many were not waiting
    /// already.
    pub(super) async fn let_wait(
        &self,
        tenant: &Arc<str>,
        destination: &Stored<Destination>,
        events: Vec<String>,
    ) -> Result<usize, WebhookError> {
        let owner = records::outcomes_of(tenant, &destination.name);
        let (now, kept) = (now_ms(), self.settings().retention.as_millis());
        let until = Some(now.saturating_add(u64::try_from(kept).unwrap_or(u64::MAX / 2)));
        let writes = events.into_iter().map(|event| Write::Put {
            place: Place { kind: records::WAITING, tenant: Arc::clone(&owner), name: event.into() },
            expect: Expect::Absent,
            at: self.next_place(now),
            until,
            body: Waits.written(),
            room: ROOM,
        });
        let noted = self.write_what_may(writes.collect()).await?;
        self.gather_later(tenant, destination, now).await?;
        Ok(noted)
    }

    /// Where an event stands among those that wait: behind all before it, whatever the clock says.
    fn next_place(&self, now: Ms) -> u64 {
        let now = now.saturating_mul(1000);
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self.last_place.fetch_update(Relaxed, Relaxed, next).unwrap_or_default();
        now.max(last.saturating_add(1))
    }

    /// Writes those for which what has to be there is there. How many.
    async fn write_what_may(&self, mut writes: Vec<Write>) -> Result<usize, WebhookError> {
        let mut done = 0;
        while !writes.is_empty() {
            let rest = writes.split_off(writes.len().min(WRITES_MAX));
            loop {
                match self.store.write(writes.clone()).await? {
                    Written::Done(versions) => done += versions.len(),
                    Written::Full(_) => return Err(WebhookError::Full("events waiting")),
                    Written::Unexpected(place, _) => {
                        writes.remove(place);
                        continue;
                    }
                }
                break;
            }
            writes = rest;
        }
        Ok(done)
    }

    /// Sees to it that what waits is gathered: when the time of its part of the clock is over, or now.
    async fn gather_later(
        &self,
        tenant: &Arc<str>,
        destination: &Stored<Destination>,
        now: Ms,
    ) -> Result<(), WebhookError> {
        let wait = destination.record.wanted.batch.unwrap_or_default().wait_ms;
        if wait == 0 {
            return self.gathering(tenant, destination, None, None).await.map(drop);
        }
        let (slot, most) = (now / wait, most(destination));
        let due = (slot + 1).saturating_mul(wait);
        let key = format!("{}:gather:{slot}", destination.name);
        let once = Unique { key: key.into(), until: due, otherwise: Otherwise::Keep, fingerprint: None };
        if let Some(held) = self.gathering(tenant, destination, Some(due), Some(once)).await?
            && !self.has_still_to_gather(held).await?
        {
            self.gathering(tenant, destination, Some(due), None).await?;
        }
        let owner = records::outcomes_of(tenant, &destination.name);
        let page = self.list::<Waits>(records::WAITING, &owner, None, 0, most).await?;
        if page.items.len() >= most
            && let Some(first) = page.items.first()
        {
            // Once for those that are first now.
            let key = format!("{}:full:{}", destination.name, first.version).into();
            let once = Unique { key, until: now + FULL_FOR, otherwise: Otherwise::Keep, fingerprint: None };
            self.gathering(tenant, destination, None, Some(once)).await?;
        }
        Ok(())
    }

    /// Whether a delivery looks at what waits from now on: it was not begun.
    async fn has_still_to_gather(&self, id: Id) -> Result<bool, WebhookError> {
        let Some(held) = self.store.glance(None, id).await? else { return Ok(false) };
        let waits = matches!(held.record.state.kind(), Kind::Blocked | Kind::Scheduled | Kind::Ready);
        Ok(waits && held.record.attempts == 0)
    }

    /// Makes a delivery that gathers. `Some`: there is one of its kind.
    async fn gathering(
        &self,
        tenant: &Arc<str>,
        destination: &Stored<Destination>,
        due: Option<Ms>,
        once: Option<Unique>,
    ) -> Result<Option<Id>, WebhookError> {
        let batch = Some(drawn("batch_", chance()?));
        let reference = Reference { destination: destination.name.to_string(), events: Vec::new(), batch };
        let made: Promise = Promise {
            due,
            ..promise(tenant, destination, &reference, once, fresh_id().ok_or(WebhookError::Chance)?)
        };
        match self.store.append(vec![made], WAITING, now_ms()).await?.first() {
            Some(Appended::Already(id)) => Ok(Some(*id)),
            Some(Appended::Accepted(_) | Appended::Replaced(_)) => Ok(None),
            _ => Err(WebhookError::Full("deliveries waiting")),
        }
    }

    /// The events of a batch: those that it has, or else the oldest that wait. None: there is nothing to do.
    pub(super) async fn gathered(
        &self,
        tenant: &Arc<str>,
        destination: &Stored<Destination>,
        batch: &str,
    ) -> Result<Vec<String>, WebhookError> {
        let owner = records::outcomes_of(tenant, &destination.name);
        let most = most(destination);
        for _ in 0..GATHERED_MAX {
            if let Some(held) = self.get::<Batch>(records::BATCH, &owner, batch).await? {
                return Ok(held.record.0);
            }
            let mut page = self.list::<Waits>(records::WAITING, &owner, None, 0, most + 1).await?;
            if page.items.is_empty() {
                return Ok(Vec::new());
            }
            if page.items.len() > most {
                // Before these are taken: whatever happens, somebody comes for the rest.
                self.gathering(tenant, destination, None, None).await?;
                page.items.truncate(most);
            }
            if self.gather(&owner, batch, &page.items).await? {
                return Ok(page.items.into_iter().map(|one| one.name.to_string()).collect());
            }
        }
        Err(WebhookError::Changed(None))
    }

    /// Makes a batch of these, unless another has taken one of them.
    async fn gather(
        &self,
        owner: &Arc<str>,
        batch: &str,
        waiting: &[Stored<Waits>],
    ) -> Result<bool, WebhookError> {
        let mut writes = Vec::with_capacity(waiting.len() * 2 + 1);
        for one in waiting {
            let place =
                Place { kind: records::WAITING, tenant: Arc::clone(owner), name: Arc::clone(&one.name) };
            writes.push(Write::Remove { place, expect: Expect::Version(one.version) });
            let held = self.get::<Outcome>(records::OUTCOME, owner, &one.name).await?;
            let expect = held.as_ref().map_or(Expect::Absent, |held| Expect::Version(held.version));
            let (kind, attempts) =
                held.map_or_else(Default::default, |held| (held.record.kind, held.record.attempts));
            let outcome = Outcome { kind, state: OutcomeState::Retrying, attempts };
            writes.push(self.outcome_write(owner, &one.name, expect, &outcome));
        }
        let kept = u64::try_from(self.settings().retention.as_millis()).unwrap_or(u64::MAX / 2);
        let events = Batch(waiting.iter().map(|one| one.name.to_string()).collect());
        writes.push(Write::Put {
            place: batch_place(owner, batch),
            expect: Expect::Absent,
            at: now_ms(),
            until: Some(now_ms().saturating_add(kept)),
            body: events.written(),
            room: ROOM,
        });
        match self.store.write(writes).await? {
            Written::Done(_) => Ok(true),
            Written::Unexpected(..) => Ok(false),
            Written::Full(_) => Err(WebhookError::Full("events waiting")),
        }
    }
}

/// Where the events of a batch are kept.
pub(super) fn batch_place(owner: &Arc<str>, batch: &str) -> Place {
    Place { kind: records::BATCH, tenant: Arc::clone(owner), name: batch.into() }
}

impl records::Record for Waits {
    fn read(_: &Bytes) -> Option<Waits> {
        Some(Waits)
    }

    fn written(&self) -> Bytes {
        Bytes::new()
    }
}
