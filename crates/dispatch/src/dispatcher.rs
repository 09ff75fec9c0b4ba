//! The handle of the engine: what the rest of the process asks of deliveries. It may be used from any thread.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_model::delivery::{Id, Ms, Request, Seq, Token};
use tidegate_model::plan::Plan;
use tidegate_model::tenant::Tenants;
use tidegate_store::deliveries::{Appended, Kept, Pause, Promise, TOGETHER_MAX};
use tidegate_store::{Store, Unavailable};
use tidegate_upstream::{Caller, Upstreams};
use tidegate_wire::clock;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use crate::attempt::{Maker, Record};
use crate::chance::Chance;
use crate::engine::{Engine, wall};
use crate::offer::{Offer, Unacceptable};
use crate::settings::QueueSettings;
use crate::time::Clock;
use crate::webhook::Slot;

/// Orders that wait for the engine.
const ORDERS_MAX: usize = 4_096;
/// Upper bounds of the classes that attempts are counted in, in milliseconds.
pub const TOOK_MS: [Ms; 12] = [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];
/// What attempts come to: delivered, to be made again, given up, not sent, broken off as it was cancelled, not heard of again.
pub const OUTCOMES: [&str; 6] = ["delivered", "again", "dead", "unsent", "cancelled", "lapsed"];

/// What the engine works with.
pub struct Parts {
    /// Where deliveries are kept.
    pub store: Arc<Store>,
    /// Where they go.
    pub upstreams: Arc<Upstreams>,
    /// Whose they are.
    pub tenants: Arc<Tenants>,
    /// The plan of a tenant that nobody knows.
    pub unknown: Arc<Plan>,
    /// Webhooks, once they are configured.
    pub webhooks: Arc<Slot>,
    /// Cores of the process, the engine's own included: connections are shared among them.
    pub cores: usize,
    /// Chance.
    pub seed: u64,
}

/// What the handle and the engine share.
pub(crate) struct Shared {
    clock: Mutex<Clock>,
    counts: Mutex<HashMap<Arc<str>, Counts>>,
    queues: ArcSwap<BTreeMap<Arc<str>, Arc<QueueSettings>>>,
}

/// What a queue has done since the process began, and does.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Attempts, or leases, under way.
    pub under_way: u32,
    /// It is parked for so long; zero: an attempt finds out whether its upstream is back.
    pub parked: Option<Duration>,
    /// Attempts by what they came to, in the order of [`OUTCOMES`].
    pub outcomes: [u64; OUTCOMES.len()],
    /// Attempts by how long they took: [`TOOK_MS`]; the last class: longer.
    pub took: [u64; TOOK_MS.len() + 1],
    /// Milliseconds of all of them.
    pub took_ms: u64,
}

impl Shared {
    /// The time, for deliveries.
    pub fn now(&self) -> Ms {
        self.clock.lock().tell(wall(), clock::now())
    }

    pub fn count(&self, queue: &Arc<str>, outcome: &str, took: Ms) {
        let mut counts = self.counts.lock();
        let counts = counts.entry(Arc::clone(queue)).or_default();
        if let Some(place) = OUTCOMES.iter().position(|name| *name == outcome) {
            counts.outcomes[place] += 1;
        }
        // What was not made took no time.
        if !matches!(outcome, "unsent" | "lapsed") {
            counts.took[TOOK_MS.partition_point(|&most| most < took)] += 1;
            counts.took_ms += took;
        }
    }

    pub fn tell<'a>(
        &self,
        queues: impl Iterator<Item = &'a Arc<str>>,
        look: impl Fn(&Arc<str>) -> (u32, Option<Duration>),
    ) {
        let mut counts = self.counts.lock();
        for name in queues {
            let (under_way, parked) = look(name);
            if !counts.contains_key(name) {
                counts.insert(Arc::clone(name), Counts::default());
            }
            if let Some(held) = counts.get_mut(name) {
                (held.under_way, held.parked) = (under_way, parked);
            }
        }
    }
}

/// Where it is told whether somebody still had what it told of, each in its place.
pub(crate) type Answers = oneshot::Sender<Vec<Result<Held, Unavailable>>>;

/// What is asked of the engine.
pub(crate) enum Order {
    Configure(Vec<Arc<QueueSettings>>),
    Pause(Pause),
    Resume(Pause),
    Claim(WaitingClaim),
    End(Vec<Ending>, Answers),
    Extend(Vec<Extension>, Answers),
    Drain,
}

pub(crate) struct WaitingClaim {
    pub claim: Claim,
    pub told: oneshot::Sender<Result<Vec<Claimed>, ClaimError>>,
}

/// Somebody comes for deliveries.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Of this queue.
    pub queue: Arc<str>,
    /// Of these tenants; empty: of all.
    pub tenants: Vec<Arc<str>>,
    /// So many at most.
    pub most: usize,
    /// For so long; `None`: as the queue says.
    pub lease: Option<Duration>,
    /// So long is waited for the first one.
    pub wait: Duration,
}

/// Why there is nothing to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// It is not there, or is not pulled.
    #[error("there is no such queue that is pulled")]
    Queue,
    /// Too many wait already, or the engine has ended.
    #[error("too many wait for deliveries already")]
    Busy,
}

/// What a delivery is held by: written `SEQ-TOKEN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grip {
    /// Which.
    pub seq: Seq,
    /// The lease.
    pub token: Token,
}

impl Grip {
    /// The one that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Grip> {
        let (seq, token) = text.split_once('-')?;
        Some(Grip { seq: Seq(seq.parse().ok()?), token: Token(token.parse().ok()?) })
    }
}

impl fmt::Display for Grip {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.seq.0, self.token.0)
    }
}

/// A delivery that somebody has.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// What it is held by.
    pub grip: Grip,
    /// What it is found by.
    pub id: Id,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What it has in common with others.
    pub key: Option<Arc<str>>,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Until when it is held.
    pub until: Ms,
    /// The request.
    pub request: Arc<Request>,
}

/// What came of a delivery that somebody has.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Which.
    pub grip: Grip,
    /// How it went.
    pub how: How,
    /// Why, in words, where it did not go well.
    pub why: Option<Arc<str>>,
    /// What is kept of it.
    pub result: Option<Kept>,
}

/// How an attempt of somebody's went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Well.
    Done,
    /// Not well; perhaps when it is to be tried again.
    Refused(Option<Duration>),
    /// Not well, and it never will.
    Never,
}

/// Somebody needs longer.
#[derive(Clone, Debug)]
pub struct Extension {
    /// For which.
    pub grip: Grip,
    /// For so long from now; `None`: as the queue says.
    pub lease: Option<Duration>,
    /// How far it has come: JSON.
    pub progress: Option<Bytes>,
}

/// Whether somebody still had what it told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is done.
    Done,
    /// Its lease had ended, or it was cancelled: nothing was changed.
    Lost,
}

/// The handle.
pub struct Dispatcher {
    store: Arc<Store>,
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Dispatcher {
    /// Starts the engine, on a thread of its own. `recorder` is called there, for whatever takes the receipts.
    ///
    /// # Panics
    /// If the system starts no thread.
    #[must_use]
    pub fn start(parts: Parts, recorder: impl FnOnce() -> Record + Send + 'static) -> Arc<Dispatcher> {
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        let shared = Arc::new(Shared {
            clock: Mutex::new(Clock::new(wall(), clock::now())),
            counts: Mutex::default(),
            queues: ArcSwap::default(),
        });
        let (store, own) = (Arc::clone(&parts.store), Arc::clone(&shared));
        let run = move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
                .expect("the system has an event queue for deliveries");
            runtime.block_on(async move {
                let caller = Caller::new(parts.cores, parts.seed);
                caller.sweep();
                let maker =
                    Maker::new(caller, recorder(), Chance::seeded(!parts.seed), Arc::clone(&parts.webhooks));
                Engine::run(parts, own, maker, waiting).await;
            });
        };
        let thread = std::thread::Builder::new().name("dispatch".to_owned()).spawn(run);
        let thread = thread.expect("a thread can be started");
        Arc::new(Dispatcher { store, shared, orders, thread: Mutex::new(Some(thread)) })
    }

    /// Makes these the queues. What was accepted for one that is gone is kept.
    pub fn configure(&self, queues: Vec<QueueSettings>) {
        let queues: BTreeMap<Arc<str>, Arc<QueueSettings>> =
            queues.into_iter().map(|queue| (Arc::clone(&queue.name), Arc::new(queue))).collect();
        let all = queues.values().cloned().collect();
        self.shared.queues.store(Arc::new(queues));
        if self.orders.try_send(Order::Configure(all)).is_err() {
            tracing::error!("the engine of deliveries took no configuration");
        }
    }

    /// The queues, by name.
    #[must_use]
    pub fn queues(&self) -> Arc<BTreeMap<Arc<str>, Arc<QueueSettings>>> {
        self.shared.queues.load_full()
    }

    /// The queue of this name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<Arc<QueueSettings>> {
        self.shared.queues.load().get(name).cloned()
    }

    /// Where deliveries are kept, for whoever looks.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What time it is for deliveries.
    #[must_use]
    pub fn now(&self) -> Ms {
        self.shared.now()
    }

    /// Accepts deliveries, each for itself: told once they are on disk, in their order.
    ///
    /// # Errors
    /// [`Unavailable`]; of those beyond the first [`TOGETHER_MAX`] some may have been accepted then.
    pub async fn append(
        &self,
        queue: &str,
        offers: Vec<Offer>,
    ) -> Result<Vec<Result<Appended, Unacceptable>>, Unavailable> {
        let Some(settings) = self.queue(queue) else {
            let none = Unacceptable::Queue(queue.into());
            return Ok(offers.iter().map(|_| Err(none.clone())).collect());
        };
        let now = self.now();
        let mut told = Vec::with_capacity(offers.len());
        let mut promises: Vec<(usize, Promise)> = Vec::new();
        for (place, offer) in offers.into_iter().enumerate() {
            match fresh_id().map(|id| settings.promise(offer, id, now)) {
                Ok(Ok(promise)) => {
                    promises.push((place, promise));
                    told.push(Ok(Appended::Full));
                }
                Ok(Err(refused)) => told.push(Err(refused)),
                Err(unavailable) => return Err(unavailable),
            }
        }
        while !promises.is_empty() {
            let rest = promises.split_off(promises.len().min(TOGETHER_MAX));
            let (places, batch): (Vec<usize>, Vec<Promise>) =
                std::mem::replace(&mut promises, rest).into_iter().unzip();
            let answers = self.store.append(batch, settings.room, now).await?;
            places.into_iter().zip(answers).for_each(|(place, answer)| told[place] = Ok(answer));
        }
        Ok(told)
    }

    /// Nothing of it is begun from now on. `false`: as much is paused as may be.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn pause(&self, pause: Pause) -> Result<bool, Unavailable> {
        let done = self.store.pause(pause.clone(), self.now()).await?;
        if done {
            self.order(Order::Pause(pause)).await;
        }
        Ok(done)
    }

    /// It is begun again.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn resume(&self, pause: Pause) -> Result<(), Unavailable> {
        self.store.resume(pause.clone(), self.now()).await?;
        self.order(Order::Resume(pause)).await;
        Ok(())
    }

    /// Waits for deliveries, and takes them. Dropped before, it takes none.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>, ClaimError> {
        let (told, answer) = oneshot::channel();
        self.orders.try_send(Order::Claim(WaitingClaim { claim, told })).map_err(|_| ClaimError::Busy)?;
        answer.await.unwrap_or(Err(ClaimError::Busy))
    }

    /// Tells what came of deliveries that somebody has.
    pub async fn end(&self, endings: Vec<Ending>) -> Vec<Result<Held, Unavailable>> {
        let (count, (told, answer)) = (endings.len(), oneshot::channel());
        self.order(Order::End(endings, told)).await;
        answer.await.unwrap_or_else(|_| vec![Err(Unavailable::Stopped); count])
    }

    /// Holds them longer.
    pub async fn extend(&self, extensions: Vec<Extension>) -> Vec<Result<Held, Unavailable>> {
        let (count, (told, answer)) = (extensions.len(), oneshot::channel());
        self.order(Order::Extend(extensions, told)).await;
        answer.await.unwrap_or_else(|_| vec![Err(Unavailable::Stopped); count])
    }

    async fn order(&self, order: Order) {
        // An engine that has ended begins nothing: what was ordered is on disk, or answered as its channel is dropped.
        let _ = self.orders.send(order).await;
    }

    /// What queues have done and do, by name: those, too, that are not configured any more.
    #[must_use]
    pub fn counts(&self) -> HashMap<Arc<str>, Counts> {
        self.shared.counts.lock().clone()
    }

    /// Begins nothing more. `true`: what was under way has ended. To be asked again until it has.
    pub fn drain(&self) -> bool {
        let mut thread = self.thread.lock();
        let Some(running) = &*thread else { return true };
        if !running.is_finished() {
            // A full list is emptied soon, and it is told again; a closed one is that of an engine that is about to end.
            let _ = self.orders.try_send(Order::Drain);
            return false;
        }
        let ended = thread.take();
        drop(thread);
        // It says by itself why it panicked.
        ended.is_none_or(|thread| thread.join().is_ok())
    }
}

/// 128 random bits that nobody can foresee.
fn fresh_id() -> Result<Id, Unavailable> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| Unavailable::Failing)?;
    Ok(Id(u128::from_be_bytes(bytes)))
}
