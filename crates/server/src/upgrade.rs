//! A new binary without a lost request: a process starts its successor, which takes over its sockets and what it knows.
//!
//! ```text
//! old                                          new
//! starts the binary at its own path  ------->  hello: the protocol that it speaks
//! offers sockets                     ------->  reads its configuration, resolves upstreams, listens nowhere
//!                                    <-------  ready
//! what was spent of limits, states   ------->  listens on the same sockets
//!                                    <-------  serving
//! gives away connections that are    ------->  goes on with them
//!   between two requests
//! lets the store go                  ------->  opens it; what needs it has waited
//! finishes what is under way, ends
//! ```
//!
//! Always holds: until the new process serves, the old one has given nothing away, and goes on as if nothing had been, however the
//! new one ends. No listening socket is closed that either has: what waits in it is accepted by one of them.
//!
//! `protocol` is what they say, `successor` the old one's side, `predecessor` the new one's, `state` what is handed over,
//! `lent` what is known of a store that the old one has still, `sockets` who gets which.

mod command;
mod lent;
mod predecessor;
mod protocol;
mod sockets;
mod state;
mod successor;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_model::cache::Wall;
use tidegate_store::StoreSettings;
use tidegate_wire::clock;
use tidegate_wire::link::Link;
use tokio::sync::{Notify, watch};

pub use command::{UpgradeArgs, command};
pub use predecessor::{Met, meet};
pub use protocol::Elder;
pub use sockets::{Place, Sockets, shown};
pub use successor::{NotUpgraded, Successor, leave, upgrade};

/// How often a reload looks whether it may be made.
const SETTLED_LOOK: Duration = Duration::from_millis(20);
/// Old processes that may be finishing what they have.
pub const ELDERS_MAX: usize = 8;

/// What a process has of the one before, or of whoever opened its sockets for it.
#[derive(Debug, Default)]
pub struct Legacy {
    /// Sockets that are open.
    pub sockets: Sockets,
    /// The store that the one before has, and what is dropped once it has let that go.
    store: Option<(String, std::sync::mpsc::Receiver<()>)>,
}

impl Legacy {
    /// Whether the process before has this store.
    #[must_use]
    pub fn has_store(&self, settings: &StoreSettings) -> bool {
        self.store.as_ref().is_some_and(|(place, _)| *place == settings.location.to_string())
    }

    /// Returns when it has let it go, or has ended.
    pub fn store_let_go(&mut self) -> impl FnOnce() + Send + 'static {
        let held = self.store.take();
        move || {
            if let Some((_, free)) = held {
                // Told, or dropped by a process that is gone: it is free either way.
                let _ = free.recv();
            }
        }
    }
}

/// Where a process stands in the row of those that took over from each other.
#[derive(Debug)]
pub struct Generation {
    /// Its number; the first is 1.
    number: u64,
    since: Wall,
    phase: Mutex<Phase>,
    /// What those before it have told that have not ended, each of itself and of those before it.
    elders: Mutex<BTreeMap<u32, Vec<Elder>>>,
    /// The links to them.
    links: Mutex<Vec<(u32, Link)>>,
    /// The process before was told to stop while this one took over.
    pub told_to_stop: Notify,
    /// Its successor serves.
    pub handed_over: Notify,
    /// The control API shall accept no more. It is closed once that accepts none.
    pub control: watch::Sender<bool>,
    /// Requests of the control API that are being answered.
    asked: Arc<AtomicUsize>,
}

/// A request of the control API, while it is answered.
#[derive(Debug)]
pub struct Asking(Arc<AtomicUsize>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug, Default)]
enum Phase {
    /// It serves.
    #[default]
    Serving,
    /// A successor is being started.
    Starting,
    /// That one serves.
    HandedOver(Arc<Successor>),
}

impl Generation {
    /// One after so many.
    #[must_use]
    pub fn after(before: u64) -> Generation {
        Generation {
            number: before + 1,
            since: Wall::of(clock::wall()),
            phase: Mutex::default(),
            elders: Mutex::default(),
            links: Mutex::default(),
            told_to_stop: Notify::new(),
            handed_over: Notify::new(),
            control: watch::channel(false).0,
            asked: Arc::default(),
        }
    }

    /// The process that has taken over, if one has.
    #[must_use]
    pub fn successor(&self) -> Option<Arc<Successor>> {
        match &*self.phase.lock() {
            Phase::HandedOver(successor) => Some(Arc::clone(successor)),
            Phase::Serving | Phase::Starting => None,
        }
    }

    /// Counts a request of the control API, until that is dropped.
    #[must_use]
    pub fn begin_asking(&self) -> Asking {
        self.asked.fetch_add(1, Relaxed);
        Asking(Arc::clone(&self.asked))
    }

    /// Whether the control API has answered all that it was asked.
    fn is_unasked(&self) -> bool {
        self.asked.load(Relaxed) == 0
    }

    /// Returns when no successor is being started: what would be changed now, that one might have read already or not.
    pub async fn settled(&self) {
        while matches!(*self.phase.lock(), Phase::Starting) {
            clock::sleep(SETTLED_LOOK).await;
        }
    }

    /// Those before it that have not ended, the latest first.
    fn elders(&self) -> Vec<Elder> {
        let mut all: Vec<Elder> = Vec::new();
        // What a process says of itself comes first.
        let told = self.elders.lock();
        let own = told.values().filter_map(|told| told.first());
        for elder in own.chain(told.values().flatten()) {
            if all.iter().all(|one| one.pid != elder.pid) {
                all.push(elder.clone());
            }
        }
        all.sort_by_key(|elder| std::cmp::Reverse(elder.generation));
        all
    }

    /// As `/status` tells it.
    #[must_use]
    pub fn status(&self) -> Value {
        let elder = |elder: &Elder| json!({"generation": elder.generation, "pid": elder.pid, "since": stamp(elder.since), "connections": elder.connections});
        json!({
            "generation": self.number,
            "pid": std::process::id(),
            "since": stamp(self.since.0),
            "draining": self.elders().iter().map(elder).collect::<Vec<_>>(),
        })
    }
}

fn stamp(seconds: u64) -> String {
    format!("{}Z", crate::telemetry::rfc3339(seconds))
}
