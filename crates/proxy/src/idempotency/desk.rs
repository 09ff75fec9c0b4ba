//! What is under way in this process, by key: the first makes the request, the others wait for what it is told.
//!
//! The store says what was; here stands what is. A record that is held and has no place here is one that nobody works on
//! any more: that is how a crash is told from patience.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_model::idempotency::{Fingerprint, Kept};
use tidegate_model::tick::Tick;
use tidegate_store::Named;
use tidegate_wire::clock;
use tokio::sync::{Notify, watch};

/// Requests that wait for one.
const WAITING_MAX: usize = 64;

/// All that is under way.
#[derive(Debug, Default)]
pub struct Desk {
    places: Mutex<HashMap<Named, Arc<Place>>>,
    emptied: Notify,
}

#[derive(Debug)]
struct Place {
    fingerprint: Fingerprint,
    outcome: watch::Sender<Option<Outcome>>,
}

/// What became of the first request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It was answered so.
    Answered(Kept),
    /// The store knows, or nobody: ask again.
    Again,
}

/// What a request is to others with the same key.
pub enum Joined {
    /// It is the first.
    Lead(Lead),
    /// Another one is under way.
    Follow(Follower),
    /// Another request with this key is under way, and it is not the same.
    Mismatch,
    /// As many wait as may.
    Crowded,
}

impl Desk {
    /// Joins those who have this key.
    pub fn join(self: &Arc<Desk>, named: &Named, fingerprint: Fingerprint) -> Joined {
        match self.places.lock().entry(named.clone()) {
            Entry::Occupied(place) if place.get().fingerprint != fingerprint => Joined::Mismatch,
            Entry::Occupied(place) if place.get().outcome.receiver_count() >= WAITING_MAX => Joined::Crowded,
            Entry::Occupied(place) => Joined::Follow(Follower(place.get().outcome.subscribe())),
            Entry::Vacant(place) => {
                let made = Arc::new(Place { fingerprint, outcome: watch::Sender::new(None) });
                place.insert(Arc::clone(&made));
                Joined::Lead(Lead { desk: Arc::clone(self), named: named.clone(), place: made, ended: false })
            }
        }
    }

    /// How many are under way, and how many wait.
    pub fn under_way(&self) -> (usize, usize) {
        let places = self.places.lock();
        (places.len(), places.values().map(|place| place.outcome.receiver_count()).sum())
    }

    /// Waits until none is under way.
    pub async fn empty(&self) {
        loop {
            let mut emptied = pin!(self.emptied.notified());
            // Before looking: what is emptied from then on is not missed.
            emptied.as_mut().enable();
            if self.places.lock().is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

/// Who makes the request. Dropped without a word, it leaves the others to ask the store.
pub struct Lead {
    desk: Arc<Desk>,
    named: Named,
    place: Arc<Place>,
    ended: bool,
}

impl Lead {
    /// The request has ended. To be called once the store knows.
    pub fn end(mut self, outcome: Outcome) {
        self.leave(outcome);
    }

    fn leave(&mut self, outcome: Outcome) {
        self.ended = true;
        let mut places = self.desk.places.lock();
        places.remove(&self.named);
        let empty = places.is_empty();
        drop(places);
        // Who is told to ask again does not meet this one again.
        self.place.outcome.send_replace(Some(outcome));
        if empty {
            self.desk.emptied.notify_waiters();
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.ended {
            self.leave(Outcome::Again);
        }
    }
}

/// Who waits.
pub struct Follower(watch::Receiver<Option<Outcome>>);

impl Follower {
    /// What became of the first; `None`: that is not known in time.
    pub async fn outcome(mut self, by: Tick) -> Option<Outcome> {
        match clock::timeout_at(by, self.0.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => Some(Outcome::Again),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_model::idempotency::Key;

    use super::*;

    const FIRST: Fingerprint = [1; 32];

    fn named(key: &str) -> Named {
        Named { tenant: "t".into(), scope: "r".into(), key: Key::parse(key.as_bytes()).unwrap() }
    }

    /// What joining is to these.
    fn check(desk: &Arc<Desk>, key: &str, fingerprint: Fingerprint, expected: &str) -> Joined {
        let joined = desk.join(&named(key), fingerprint);
        let name = match &joined {
            Joined::Lead(_) => "lead",
            Joined::Follow(_) => "follow",
            Joined::Mismatch => "mismatch",
            Joined::Crowded => "crowded",
        };
        assert_eq!(name, expected);
        joined
    }

    fn soon() -> Tick {
        clock::now().after(Duration::from_secs(10))
    }

    #[tokio::test]
    async fn the_first_leads_and_the_others_are_told_what_it_was_told() {
        let desk = Arc::<Desk>::default();
        let Joined::Lead(lead) = check(&desk, "a", FIRST, "lead") else { unreachable!() };
        let Joined::Follow(follower) = check(&desk, "a", FIRST, "follow") else { unreachable!() };
        check(&desk, "a", [2; 32], "mismatch");
        check(&desk, "b", [2; 32], "lead");
        assert_eq!(desk.under_way(), (1, 1));
        lead.end(Outcome::Answered(Kept::Status(201)));
        let told = follower.outcome(soon()).await;
        assert!(matches!(told, Some(Outcome::Answered(Kept::Status(201)))));
        desk.empty().await;
        check(&desk, "a", [2; 32], "lead");
    }

    #[tokio::test]
    async fn who_leaves_without_a_word_leaves_the_others_to_ask() {
        let desk = Arc::<Desk>::default();
        let lead = check(&desk, "a", FIRST, "lead");
        let Joined::Follow(follower) = check(&desk, "a", FIRST, "follow") else { unreachable!() };
        drop(lead);
        assert!(matches!(follower.outcome(soon()).await, Some(Outcome::Again)));
    }

    #[tokio::test]
    async fn no_more_wait_than_may_and_none_for_ever() {
        let desk = Arc::<Desk>::default();
        let _lead = check(&desk, "a", FIRST, "lead");
        let mut waiting: Vec<Joined> = (0..WAITING_MAX).map(|_| check(&desk, "a", FIRST, "follow")).collect();
        check(&desk, "a", FIRST, "crowded");
        let Some(Joined::Follow(follower)) = waiting.pop() else { unreachable!() };
        assert!(follower.outcome(clock::now()).await.is_none());
        check(&desk, "a", FIRST, "follow");
    }
}
