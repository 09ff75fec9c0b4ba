//! A seat: one shard in this process, led here or not. Where it may be had it is taken, and an engine makes its deliveries
//! until it has drained, gives the shard away, or another has taken it over.
//!
//! What this node takes and gives away of a store that nodes share is on the *board*, kept by one task for all seats
//! (`rota`); alone with its store, all of it is this node's.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tidegate_store::Unavailable;
use tidegate_store::deliveries::Epoch;
use tidegate_wire::clock;
use tokio::sync::{Notify, mpsc};

use super::{Engine, LOOK, Left, PAUSES};
use crate::attempt::Maker;
use crate::dispatcher::{ClaimError, Order, Parts, Shared};
use crate::rota::{Looks, REST, Rota, Shards};
use crate::settings::QueueSettings;

/// How long it is tried to give a shard away. After that it is free when this node's lease has ended.
const GIVE_MAX: Duration = Duration::from_secs(2);

/// What this node takes and gives away.
pub struct Board {
    rota: Cell<Rota>,
    /// For so many looks nothing is given away: something was, or could not be.
    rests: Cell<u32>,
    changed: Notify,
    retires: Notify,
}

impl Board {
    /// Of so many shards: all of them, where nobody else has the store.
    pub fn new(shards: u16, is_shared: bool) -> Rc<Board> {
        let take = if is_shared { Shards::default() } else { Shards::all(shards) };
        Rc::new(Board {
            rota: Cell::new(Rota { take, give: Shards::default() }),
            rests: Cell::new(0),
            changed: Notify::new(),
            retires: Notify::new(),
        })
    }

    /// Whether a shard is to be given away.
    pub fn gives(&self, shard: u16) -> bool {
        self.rota.get().give.has(shard)
    }

    /// It was, or cannot be for now.
    pub fn has_given(&self, shard: u16, rests: u32) {
        let Rota { mut take, .. } = self.rota.get();
        take.0 &= !Shards::one(shard).0;
        self.rota.set(Rota { take, give: Shards::default() });
        self.rests.set(rests);
    }

    /// This node takes no more.
    pub fn retires(&self) {
        self.retires.notify_one();
    }

    /// Keeps it, where other nodes have the store, too, until this one makes no more deliveries.
    pub async fn keep(self: Rc<Board>, parts: Rc<Parts>, shared: Arc<Shared>) {
        let mut looks = Looks::default();
        while !shared.is_draining() {
            // Where it cannot be told the store says so itself; nothing is moved then.
            if let Ok(roll) = parts.store.roll().await {
                if let rests @ 1.. = self.rests.take() {
                    looks.rest(rests);
                }
                self.rota.set(looks.look(&roll));
                shared.put(roll);
                self.changed.notify_waiters();
            }
            tokio::select! {
                () = clock::sleep(LOOK) => {}
                () = self.retires.notified() => {}
            }
        }
    }
}

/// Runs an engine to its end, whatever ends it. The store knows all that it was doing: another one goes on from there.
async fn whole(drive: impl Future<Output = Left>) -> Left {
    let mut drive = pin!(drive);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| drive.as_mut().poll(context)));
        polled.unwrap_or(Poll::Ready(Left::Panicked))
    })
    .await
}

/// A shard in this process.
pub struct Seat {
    pub(crate) parts: Rc<Parts>,
    pub(super) shared: Arc<Shared>,
    pub(super) maker: Rc<Maker>,
    pub(super) board: Rc<Board>,
    shard: u16,
    queues: HashMap<Arc<str>, Arc<QueueSettings>>,
}

impl Seat {
    /// Of this shard.
    pub fn new(
        parts: &Rc<Parts>,
        shared: &Arc<Shared>,
        maker: &Rc<Maker>,
        board: &Rc<Board>,
        shard: u16,
    ) -> Seat {
        let (parts, shared, maker) = (Rc::clone(parts), Arc::clone(shared), Rc::clone(maker));
        Seat { parts, shared, maker, board: Rc::clone(board), shard, queues: HashMap::new() }
    }

    /// Runs until it is told to drain and has done so.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut rest = PAUSES.0;
        while let Some(epoch) = self.lead(&mut orders).await {
            let shard = self.shard;
            self.shared.leads(shard, epoch.number);
            let mut engine = Engine::new(&self, epoch);
            let mut news = self.parts.store.follow(shard);
            engine.configure(self.queues.values().cloned().collect());
            let left = whole(engine.drive(&mut news, &mut orders)).await;
            self.shared.leads(shard, 0);
            // Nobody would hear of what takes them until another epoch begins.
            engine.take_back_all();
            self.queues = std::mem::take(&mut engine.queues);
            engine.pull.refuse_all(match left {
                Left::Drained => ClaimError::Draining,
                Left::Given | Left::Fenced | Left::Panicked => ClaimError::Elsewhere,
            });
            match left {
                Left::Drained => return self.give_away(epoch).await,
                Left::Given => {
                    self.give_away(epoch).await;
                    self.board.has_given(shard, REST);
                    tracing::info!(shard, "the deliveries of this shard are another node's to make");
                }
                Left::Fenced => tracing::warn!(
                    shard,
                    number = epoch.number,
                    "another node has taken over the deliveries: attempts are broken off"
                ),
                Left::Panicked => {
                    tracing::error!(shard, "the engine of deliveries has panicked and begins anew");
                    engine.break_off();
                    // What it panicked at may be there still.
                    let until = clock::now().after(rest);
                    rest = (rest * 2).min(PAUSES.1);
                    if self.shared.is_draining() || self.wait(&mut orders, until).await.is_none() {
                        return self.give_away(epoch).await;
                    }
                }
            }
        }
    }

    /// Lets another node have the shard at once.
    async fn give_away(&self, epoch: Epoch) {
        if !self.parts.store.is_shared() {
            return;
        }
        let by = clock::now().after(GIVE_MAX);
        while !matches!(self.parts.store.give_away(epoch).await, Ok(()) | Err(Unavailable::Fenced)) {
            if clock::now() >= by {
                tracing::warn!(shard = self.shard, "the shard is free when this node's lease has ended");
                return;
            }
            clock::sleep(PAUSES.0).await;
        }
    }

    /// Becomes the owner. `None`: it is told to end before.
    async fn lead(&mut self, orders: &mut mpsc::Receiver<Order>) -> Option<Epoch> {
        let (mut pause, mut last) = (PAUSES.0, None);
        // What was under way is judged by what its queue says.
        let mut configured = !self.queues.is_empty();
        while !configured {
            configured = self.take(orders.recv().await?)?;
        }
        loop {
            if self.board.rota.get().take.has(self.shard) {
                match self.parts.store.lead(self.shard).await {
                    Ok(epoch) => return Some(epoch),
                    // Another node was faster.
                    Err(Unavailable::Elsewhere) => {}
                    Err(error) if last != Some(error) => {
                        tracing::error!(%error, shard = self.shard, "deliveries wait for the store");
                        last = Some(error);
                    }
                    Err(_) => {}
                }
            }
            let until = clock::now().after(pause);
            pause = (pause * 2).min(PAUSES.1);
            self.wait(orders, until).await?;
            self.shared.tell(self.shard, self.queues.keys(), |_| (0, None));
        }
    }

    /// Waits so long, or until another look was had at who has what. `None`: it is told to end.
    async fn wait(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        until: tidegate_model::tick::Tick,
    ) -> Option<()> {
        let board = Rc::clone(&self.board);
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => { self.take(order?)?; }
                () = board.changed.notified() => return Some(()),
                () = clock::sleep_until(until) => return Some(()),
            }
        }
    }

    /// Takes an order while nothing is owned: whether it says what there is. `None`: it is to end.
    fn take(&mut self, order: Order) -> Option<bool> {
        match order {
            Order::Configure(all) => {
                self.queues = all.into_iter().map(|queue| (Arc::clone(&queue.name), queue)).collect();
                Some(true)
            }
            Order::Drain => {
                self.board.retires();
                None
            }
            // Pauses are read from the store; who claims or ends is told that nothing is known.
            Order::Pause(_)
            | Order::Resume(_)
            | Order::Claim(_)
            | Order::End(..)
            | Order::Extend(..)
            | Order::Return(_) => Some(false),
            #[cfg(test)]
            Order::Panic => Some(false),
        }
    }
}
