//! Schedules: each run becomes a delivery when its time has come.
//!
//! What was seen of a schedule last is a document in the store; a run is a delivery that is unique by the schedule's name and the
//! run's own time. So a crash between the two, or several nodes, make each run once. Times follow the wall clock: it is looked
//! at every few seconds, however far away the next run is.
//!
//! What it does not do: a schedule that is new, or that says another time than before, begins now: runs that it would have had
//! are none that were missed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_dispatch::{Offer, Unacceptable};
use tidegate_model::delivery::{Id, Ms};
use tidegate_model::schedule::run_key;
use tidegate_store::deliveries::{Appended, Otherwise, Unique, fresh_id};
use tidegate_store::documents::{Expect, Place, Room, Write};
use tidegate_store::{Store, Unavailable};
use tidegate_wire::{clock, task};

use crate::config::ScheduleSettings;
use crate::wiring::Gate;

/// The longest between two looks at the clock.
const LOOK: Duration = Duration::from_secs(2);
/// How long a run is known to have been made, beyond what was seen last.
const KNOWN_FOR: Ms = 2 * 86_400_000;
/// What is remembered of schedules takes no more than this.
const ROOM: Room = Room { count: 10_000, bytes: 16 << 20 };

/// What is remembered of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Seen {
    /// The last run that was made or left out, or when the schedule began.
    pub seen: Ms,
    /// The cron line then.
    cron: String,
    /// The time zone then.
    zone: String,
    /// Whether it rested.
    paused: bool,
}

/// What was seen of schedules, by name.
#[derive(Debug, Default)]
pub struct Schedules(Mutex<HashMap<Arc<str>, Seen>>);

/// Why a run was not made.
#[derive(Debug, thiserror::Error)]
pub enum NotRun {
    /// The store takes none.
    #[error(transparent)]
    Store(#[from] Unavailable),
    /// Its queue takes none such.
    #[error(transparent)]
    Unacceptable(#[from] Unacceptable),
    /// The system gives no chance.
    #[error("the system has no chance to give")]
    Chance,
    /// There is no room for it.
    #[error("its tenant has as many deliveries waiting as it may")]
    Full,
}

impl Schedules {
    /// What was seen of one last.
    #[must_use]
    pub fn seen(&self, name: &str) -> Option<Ms> {
        self.0.lock().get(name).map(|seen| seen.seen)
    }
}

/// Follows the schedules of the configuration in force. Must be called on the control runtime.
pub fn drive(gate: Arc<Gate>) {
    task::spawn(async move {
        loop {
            let next = look(&gate).await;
            let wait = next.map_or(LOOK, |next| Duration::from_millis(next.saturating_sub(now())).min(LOOK));
            clock::sleep_until(clock::now().after(wait.max(Duration::from_millis(10)))).await;
        }
    });
}

/// Makes what is due, and tells when the next run is.
async fn look(gate: &Gate) -> Option<Ms> {
    let config = gate.config();
    // The process ends: whoever comes after makes what is due.
    let store = gate.standing.idempotency.store().filter(|_| !gate.standing.idempotency.is_draining())?;
    let mut next: Option<Ms> = None;
    for schedule in &config.schedules {
        match one(gate, &store, schedule).await {
            Ok(at) => next = next.into_iter().chain(at).min(),
            // It is tried again with the next look: what was not made stays due.
            Err(error) => tracing::warn!(schedule = &*schedule.name, %error, "no run was made"),
        }
    }
    gate.schedules.0.lock().retain(|name, _| config.schedules.iter().any(|one| one.name == *name));
    next
}

async fn one(gate: &Gate, store: &Store, schedule: &ScheduleSettings) -> Result<Option<Ms>, NotRun> {
    let (now, before) = (now(), remembered(gate, store, schedule).await?);
    let mut seen = begun(before.as_ref(), schedule, now);
    if !schedule.paused {
        for run in schedule.times.due(seen.seen, now, schedule.missed) {
            let id = make(gate, store, schedule, run, &run_key(&schedule.name, run)).await?;
            tracing::info!(schedule = &*schedule.name, run, delivery = %id, "a run was made");
            seen.seen = run;
        }
    }
    if before.as_ref() != Some(&seen) {
        remember(store, schedule, &seen, now).await?;
        gate.schedules.0.lock().insert(Arc::clone(&schedule.name), seen.clone());
    }
    Ok(schedule.times.next(now.max(seen.seen)).filter(|_| !schedule.paused))
}

/// From where on its runs count.
fn begun(before: Option<&Seen>, schedule: &ScheduleSettings, now: Ms) -> Seen {
    let same = before.filter(|before| {
        *before.cron == *schedule.cron && *before.zone == *schedule.zone && before.paused == schedule.paused
    });
    same.cloned().unwrap_or_else(|| Seen {
        seen: now,
        cron: schedule.cron.to_string(),
        zone: schedule.zone.to_string(),
        paused: schedule.paused,
    })
}

async fn remembered(
    gate: &Gate,
    store: &Store,
    schedule: &ScheduleSettings,
) -> Result<Option<Seen>, Unavailable> {
    let known = gate.schedules.0.lock().get(&schedule.name).cloned();
    if known.is_some() {
        return Ok(known);
    }
    let found = store.document(place(schedule)).await?;
    let seen = found.and_then(|found| serde_json::from_slice::<Seen>(&found.body).ok());
    if let Some(seen) = &seen {
        gate.schedules.0.lock().insert(Arc::clone(&schedule.name), seen.clone());
    }
    Ok(seen)
}

async fn remember(
    store: &Store,
    schedule: &ScheduleSettings,
    seen: &Seen,
    now: Ms,
) -> Result<(), Unavailable> {
    let body = serde_json::to_vec(seen).unwrap_or_default().into();
    let put =
        Write::Put { place: place(schedule), expect: Expect::Any, at: now, until: None, body, room: ROOM };
    store.write(vec![put]).await.map(drop)
}

fn place(schedule: &ScheduleSettings) -> Place {
    Place { kind: "schedule", tenant: "".into(), name: Arc::clone(&schedule.name) }
}

/// Makes a run: a delivery that is unique by this key.
///
/// # Errors
/// [`NotRun`].
pub async fn make(
    gate: &Gate,
    store: &Store,
    schedule: &ScheduleSettings,
    due: Ms,
    key: &str,
) -> Result<Id, NotRun> {
    let config = gate.config();
    let found = config.queues.iter().find(|queue| queue.name == schedule.queue);
    let queue = found.ok_or_else(|| Unacceptable::Queue(Arc::clone(&schedule.queue)))?;
    let now = now();
    let offer = Offer {
        tenant: Arc::clone(&schedule.tenant),
        key: schedule.key.clone(),
        due: Some(due.min(now)),
        unique: Some(Unique {
            key: Arc::from(key),
            until: now.saturating_add(KNOWN_FOR),
            otherwise: Otherwise::Keep,
            fingerprint: None,
        }),
        method: schedule.method.clone(),
        target: schedule.target.clone(),
        fields: schedule.fields.clone(),
        body: schedule.body.clone(),
        ..Offer::default()
    };
    let id = fresh_id().ok_or(NotRun::Chance)?;
    let promise = queue.promise(offer, id, now)?;
    match store.append(vec![promise], queue.room, now).await?.first() {
        Some(Appended::Accepted(id) | Appended::Already(id) | Appended::Replaced(id)) => Ok(*id),
        _ => Err(NotRun::Full),
    }
}

/// Now, on the wall clock.
fn now() -> Ms {
    let since = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ms::try_from(since.as_millis()).unwrap_or(Ms::MAX)
}

#[cfg(test)]
mod tests {
    use tidegate_model::fields::Fields;
    use tidegate_model::schedule::{Missed, Times};

    use super::*;

    fn schedule(cron: &str, paused: bool) -> ScheduleSettings {
        ScheduleSettings {
            name: "s".into(),
            times: Times::parse(cron, "UTC").unwrap(),
            cron: cron.into(),
            zone: "UTC".into(),
            missed: Missed::Once,
            queue: "q".into(),
            tenant: "system".into(),
            key: None,
            method: None,
            target: None,
            fields: Fields::default(),
            body: bytes::Bytes::new(),
            paused,
        }
    }

    #[test]
    fn what_is_new_or_says_another_time_or_has_rested_begins_now() {
        let hourly = schedule("@hourly", false);
        let first = begun(None, &hourly, 5);
        assert_eq!(first.seen, 5);
        assert_eq!(begun(Some(&first), &hourly, 9), first);
        assert_eq!(begun(Some(&first), &schedule("@daily", false), 9).seen, 9);
        let resting = begun(Some(&first), &schedule("@hourly", true), 9);
        assert_eq!((resting.seen, resting.paused), (9, true));
        assert_eq!(begun(Some(&resting), &hourly, 12).seen, 12);
    }
}
