//! The handle of the engines: what the rest of the process asks of deliveries. It may be used from any thread. Which shard's
//! engine is asked, and what becomes of several answers, is in `routes`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_model::delivery::{Id, Ms, Request, Seq, Token};
use tidegate_model::plan::Plan;
use tidegate_model::tenant::Tenants;
use tidegate_store::deliveries::{Appended, Kept, Leader, Pause, Promise, Roll, TOGETHER_MAX, Who, fresh_id};
use tidegate_store::{Store, Unavailable};
use tidegate_upstream::{Caller, Upstreams};
use tidegate_wire::{clock, task};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use crate::attempt::{Maker, Record};
use crate::chance::Chance;
use crate::engine::{Board, Seat, wall};
use crate::offer::{Offer, Unacceptable};
use crate::rota::Shards;
use crate::settings::QueueSettings;
use crate::time::Clock;
use crate::webhook::Slot;

mod routes;

/// Orders that wait for an engine.
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
    /// The number of the epoch by which this process has a shard; 0: it has not.
    epochs: Box<[AtomicU64]>,
    /// Who has which, as it was seen last.
    roll: Mutex<Option<Arc<Roll>>>,
    draining: AtomicBool,
}

/// What a queue has done since the process began, and does.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Attempts, or leases, under way.
    pub under_way: u32,
    /// It is parked for so long; zero: an attempt finds out whether its upstream is back. Of several shards: the longest.
    pub parked: Option<Duration>,
    /// The same of each shard.
    of_shards: Vec<(u16, u32, Option<Duration>)>,
    /// Attempts by what they came to, in the order of [`OUTCOMES`].
    pub outcomes: [u64; OUTCOMES.len()],
    /// Attempts by how long they took: [`TOOK_MS`]; the last class: longer.
    pub took: [u64; TOOK_MS.len() + 1],
    /// Milliseconds of all of them.
    pub took_ms: u64,
}

impl Shared {
    fn begin(shards: u16) -> Shared {
        Shared {
            clock: Mutex::new(Clock::new(wall(), clock::now())),
            counts: Mutex::default(),
            queues: ArcSwap::default(),
            epochs: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            roll: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// This process has a shard from now on, by an epoch of this number; 0: it has it no more.
    pub fn leads(&self, shard: u16, number: u64) {
        if let Some(held) = self.epochs.get(usize::from(shard)) {
            held.store(number, Relaxed);
        }
    }

    /// The shards that this process has.
    fn led(&self) -> Shards {
        let numbers = self.epochs.iter().enumerate();
        let led = numbers.filter(|(_, number)| number.load(Relaxed) != 0).map(|(shard, _)| 1 << shard);
        Shards(led.fold(0, |all, shard: u64| all | shard))
    }

    /// Who has which shard was looked up.
    pub fn put(&self, roll: Roll) {
        *self.roll.lock() = Some(Arc::new(roll));
    }

    /// Whether nothing more is to be begun.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// The time, for deliveries.
    pub fn now(&self) -> Ms {
        self.clock.lock().tell(wall(), clock::now())
    }

    /// It is this late already.
    pub fn reach(&self, time: Ms) {
        self.clock.lock().reach(time);
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

    /// What is under way of a shard's queues, and whether they are parked.
    pub fn tell<'a>(
        &self,
        shard: u16,
        queues: impl Iterator<Item = &'a Arc<str>>,
        look: impl Fn(&Arc<str>) -> (u32, Option<Duration>),
    ) {
        let mut counts = self.counts.lock();
        for name in queues {
            let (under_way, parked) = look(name);
            if !counts.contains_key(name) {
                counts.insert(Arc::clone(name), Counts::default());
            }
            let Some(held) = counts.get_mut(name) else { continue };
            match held.of_shards.iter_mut().find(|(of, ..)| *of == shard) {
                Some(of) => *of = (shard, under_way, parked),
                None => held.of_shards.push((shard, under_way, parked)),
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
    /// Of a claim that nobody waits for any more.
    Return(Vec<Grip>),
    Drain,
    /// A fault in the engine.
    #[cfg(test)]
    Panic,
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
    /// So many bytes of requests at most, in all.
    pub bytes_max: u64,
    /// The first may have more than that: else nobody could ever take it.
    pub first_any: bool,
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
    /// This process ends, and hands out nothing more.
    #[error("this node is ending, and hands out nothing more")]
    Draining,
    /// Another node has the shards that they are in.
    #[error("another node makes these deliveries")]
    Elsewhere,
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
    /// Bytes of the request, as they are counted.
    pub bytes: u64,
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
    /// To each shard's seat.
    orders: Box<[mpsc::Sender<Order>]>,
    /// Where the next claim of several shards begins.
    turn: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Dispatcher {
    /// Starts the engine, on a thread of its own. `recorder` is called there, for whatever takes the receipts.
    ///
    /// # Panics
    /// If the system starts no thread.
    #[must_use]
    pub fn start(parts: Parts, recorder: impl FnOnce() -> Record + Send + 'static) -> Arc<Dispatcher> {
        let shards = parts.store.shards();
        let (orders, waiting): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::channel(ORDERS_MAX)).unzip();
        let shared = Arc::new(Shared::begin(shards));
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
                make(parts, own, maker, waiting).await;
            });
        };
        let thread = std::thread::Builder::new().name("dispatch".to_owned()).spawn(run);
        let thread = Mutex::new(Some(thread.expect("a thread can be started")));
        Arc::new(Dispatcher { store, shared, orders: orders.into(), turn: AtomicU64::new(0), thread })
    }

    /// The handle, and the engine for whoever runs it.
    #[cfg(test)]
    pub(crate) fn by_hand(parts: Parts, maker: Maker) -> (Arc<Dispatcher>, impl Future<Output = ()>) {
        let (orders, waiting) = mpsc::channel(ORDERS_MAX);
        let shared = Arc::new(Shared::begin(1));
        let (is_shared, parts) = (parts.store.is_shared(), Rc::new(parts));
        let board = Board::new(1, is_shared);
        if is_shared {
            task::spawn(Rc::clone(&board).keep(Rc::clone(&parts), Arc::clone(&shared)));
        }
        let seat = Seat::new(&parts, &shared, &Rc::new(maker), &board, 0);
        let store = Arc::clone(&seat.parts.store);
        let orders = Box::new([orders]);
        let dispatcher =
            Dispatcher { store, shared, orders, turn: AtomicU64::new(0), thread: Mutex::default() };
        (Arc::new(dispatcher), seat.run(waiting))
    }

    /// Has the engines panic.
    #[cfg(test)]
    pub(crate) async fn panic(&self) {
        self.order_all(|| Order::Panic).await;
    }

    /// Tells an engine that is run by hand to end.
    #[cfg(test)]
    pub(crate) async fn drain_by_hand(&self) {
        self.order_all(|| Order::Drain).await;
    }

    /// Makes these the queues. What was accepted for one that is gone is kept.
    pub fn configure(&self, queues: Vec<QueueSettings>) {
        let queues: BTreeMap<Arc<str>, Arc<QueueSettings>> =
            queues.into_iter().map(|queue| (Arc::clone(&queue.name), Arc::new(queue))).collect();
        let all: Vec<Arc<QueueSettings>> = queues.values().cloned().collect();
        self.shared.queues.store(Arc::new(queues));
        let shards = self.store.shards();
        for (shard, orders) in (0..).zip(&*self.orders) {
            let parts = match shards {
                1 => all.clone(),
                _ => all.iter().map(|queue| Arc::new(queue.of_shard(shard, shards))).collect(),
            };
            if orders.try_send(Order::Configure(parts)).is_err() {
                tracing::error!(shard, "the engine of deliveries took no configuration");
            }
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
            match fresh_id().ok_or(Unavailable::Failing).map(|id| settings.promise(offer, id, now)) {
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
            self.order_all(|| Order::Pause(pause.clone())).await;
        }
        Ok(done)
    }

    /// It is begun again.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn resume(&self, pause: Pause) -> Result<(), Unavailable> {
        self.store.resume(pause.clone(), self.now()).await?;
        self.order_all(|| Order::Resume(pause.clone())).await;
        Ok(())
    }

    /// What queues have done and do, by name: those, too, that are not configured any more.
    #[must_use]
    pub fn counts(&self) -> HashMap<Arc<str>, Counts> {
        let mut all = self.shared.counts.lock().clone();
        for counts in all.values_mut() {
            counts.under_way = counts.of_shards.iter().map(|(_, under_way, _)| under_way).sum();
            counts.parked = counts.of_shards.iter().filter_map(|(.., parked)| *parked).max();
        }
        all
    }

    /// Who makes the deliveries of which shard, as far as this node knows.
    #[must_use]
    pub fn leaders(&self) -> Vec<Leader> {
        let seen = self.shared.roll.lock().clone();
        let mut leaders: Vec<Leader> = (0..self.store.shards())
            .map(|shard| {
                let seen = seen.iter().flat_map(|roll| &roll.shards).find(|seen| seen.shard == shard);
                seen.cloned().unwrap_or(Leader { shard, epoch: 0, who: Who::Nobody })
            })
            .collect();
        for (leader, number) in leaders.iter_mut().zip(&self.shared.epochs) {
            match number.load(Relaxed) {
                0 if leader.who == Who::Here => leader.who = Who::Nobody,
                0 => {}
                number => (leader.epoch, leader.who) = (number, Who::Here),
            }
        }
        leaders
    }

    /// Begins nothing more. `true`: what was under way has ended. To be asked again until it has.
    pub fn drain(&self) -> bool {
        let mut thread = self.thread.lock();
        let Some(running) = &*thread else { return true };
        if !running.is_finished() {
            self.shared.draining.store(true, Relaxed);
            for orders in &*self.orders {
                // A full list is emptied soon, and it is told again; a closed one is that of a seat that is about to end.
                let _ = orders.try_send(Order::Drain);
            }
            return false;
        }
        let ended = thread.take();
        drop(thread);
        // It says by itself why it panicked.
        ended.is_none_or(|thread| thread.join().is_ok())
    }
}

/// Makes the deliveries of all shards that are this process's, until all of them have drained.
async fn make(parts: Parts, shared: Arc<Shared>, maker: Maker, orders: Vec<mpsc::Receiver<Order>>) {
    let (parts, maker) = (Rc::new(parts), Rc::new(maker));
    let board = Board::new(parts.store.shards(), parts.store.is_shared());
    if parts.store.is_shared() {
        task::spawn(Rc::clone(&board).keep(Rc::clone(&parts), Arc::clone(&shared)));
    }
    let (ends, mut ended) = mpsc::channel::<()>(1);
    for (shard, orders) in (0..).zip(orders) {
        let seat = Seat::new(&parts, &shared, &maker, &board, shard);
        let ends = ends.clone();
        task::spawn(async move {
            // Nothing is ever sent: it is closed when the last one has ended.
            let _ends = ends;
            seat.run(orders).await;
        });
    }
    drop(ends);
    ended.recv().await;
}
