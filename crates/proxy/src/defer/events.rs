//! A delivery as it goes on, as server-sent events: one for each change of its state, attempts or progress, and one when it
//! has ended, which is the last.
//!
//! Whoever follows is woken by what this node commits of it; what other nodes do is looked for at intervals.
//!
//! What always holds: as many are followed at once as [`FOLLOWERS_MAX`], and none for longer than [`FOLLOWED_MAX`]: a client
//! asks again then by itself, as its browser does. Nothing waits for a slow reader: it gets the present when it reads, not all
//! that has been.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tidegate_model::tick::Tick;
use tidegate_store::Store;
use tidegate_store::deliveries::{Glance, Watch};
use tidegate_wire::clock;

use super::told::told;
use crate::idempotency::Idempotency;

/// Deliveries that are followed at once.
const FOLLOWERS_MAX: usize = 1024;
/// The longest that one is followed.
const FOLLOWED_MAX: Duration = Duration::from_secs(3600);
/// Between two looks at it, where nothing wakes whoever follows it.
const LOOK: Duration = Duration::from_millis(250);
/// The same where each change does.
const LOOK_WOKEN: Duration = Duration::from_secs(1);
/// Between any two looks: who says how far it has come, over and over, is not followed at each step.
const LOOK_MIN: Duration = Duration::from_millis(20);
/// Between two signs of life, where nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(15);

static FOLLOWERS: AtomicUsize = AtomicUsize::new(0);

type Change = Pin<Box<dyn Future<Output = ()>>>;

/// Waits for the next look.
async fn pause(changed: Option<Change>, watched: bool, shared: bool) {
    let now = clock::now();
    let Some(changed) = changed else {
        let pause = if watched { LOOK_MIN } else { LOOK };
        return clock::sleep_until(now.after(pause)).await;
    };
    let longest = now.after(if shared { LOOK } else { LOOK_WOKEN });
    // Either way it is time to look.
    let _ = clock::timeout_at(longest, changed).await;
    clock::sleep_until(now.after(LOOK_MIN)).await;
}

/// What is looked for next, and what came of it.
type Looking = Pin<Box<dyn Future<Output = Option<Glance>>>>;

/// The events of one delivery.
pub struct Events {
    standing: Arc<Idempotency>,
    store: Arc<Store>,
    tenant: Arc<str>,
    id: tidegate_model::delivery::Id,
    /// What has not been told yet.
    next: VecDeque<Bytes>,
    /// What was told last.
    last: String,
    looking: Option<Looking>,
    /// `None`: as many are woken as may be.
    watch: Option<Watch>,
    /// The next change, from the last look on.
    changed: Option<Change>,
    ended: bool,
    until: Tick,
    heard: Tick,
    _place: Place,
}

/// A place among those that follow.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let taken = FOLLOWERS.fetch_add(1, Relaxed);
        // Dropped, it gives back what was just taken.
        let place = Place;
        (taken < FOLLOWERS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        FOLLOWERS.fetch_sub(1, Relaxed);
    }
}

impl Events {
    /// The events of this delivery from now on. `None`: too many are followed.
    #[must_use]
    pub fn of(
        standing: &Arc<Idempotency>,
        store: &Arc<Store>,
        tenant: Arc<str>,
        glance: &Glance,
    ) -> Option<Events> {
        let now = clock::now();
        let mut events = Events {
            standing: Arc::clone(standing),
            store: Arc::clone(store),
            tenant,
            id: glance.record.id,
            next: VecDeque::new(),
            last: String::new(),
            looking: None,
            watch: store.watch(glance.record.id),
            // What has happened since it was looked at may have woken nobody.
            changed: None,
            ended: false,
            until: now.after(FOLLOWED_MAX),
            heard: now,
            _place: Place::take()?,
        };
        events.tell(glance);
        Some(events)
    }

    /// Notes what is to be told of it now.
    fn tell(&mut self, glance: &Glance) {
        let data = told(glance).to_string();
        self.ended = glance.record.state.has_ended();
        if data != self.last {
            let kind = if self.ended { "end" } else { "state" };
            self.next.push_back(Bytes::from(format!("event: {kind}\ndata: {data}\n\n")));
            self.last = data;
        }
    }

    /// The next piece of the stream; `None`: it has ended.
    pub fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(piece) = self.next.pop_front() {
                self.heard = clock::now();
                return Poll::Ready(Some(piece));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let (store, tenant, id) = (&self.store, &self.tenant, self.id);
            let looking = self.looking.get_or_insert_with(|| {
                let (store, tenant) = (Arc::clone(store), Arc::clone(tenant));
                let (changed, watched) = (self.changed.take(), self.watch.is_some());
                // It is heard from before the look on that follows.
                self.changed = self.watch.as_ref().map(|watch| Box::pin(watch.next()) as Change);
                Box::pin(async move {
                    pause(changed, watched, store.is_shared()).await;
                    store.glance(Some(&tenant), id).await.ok().flatten()
                })
            });
            let found = ready!(looking.as_mut().poll(context));
            self.looking = None;
            match found {
                Some(glance) => self.tell(&glance),
                // It was forgotten, or the store cannot say: whoever follows asks again.
                None => self.ended = true,
            }
            let now = clock::now();
            self.ended |= now >= self.until || self.standing.is_draining();
            if self.next.is_empty() && !self.ended && now.since(self.heard) >= HEARTBEAT {
                self.next.push_back(Bytes::from_static(b": here\n\n"));
            }
        }
    }

    /// Whether nothing more will come.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.ended && self.next.is_empty()
    }
}
