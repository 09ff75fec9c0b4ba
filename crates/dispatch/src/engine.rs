//! The engine: one task on the thread of deliveries, which owns the scheduler of a shard and does what it says. `seat` is the
//! shard in this process, whether it is led here or not; an engine lives for one epoch of it.
//!
//! ```text
//! orders of the handle ----.
//! news of the store --------+--> the scheduler --> starts --> committed --> attempts --.
//! what was asked of it, ----|                                                          |
//! attempts that ended  <----+----------------------------------------------------------'
//!                           '--> what they came to --> committed
//! ```
//!
//! What always holds:
//! - Nothing is begun before the store has said so: an attempt is spent durably, then made.
//! - What has ended is told to the store until that has taken it. While it takes nothing, nothing new is begun.
//! - A slot is free when the upstream has finished, not when that is on disk.
//! - Whatever the store says is leased to a push when this engine begins, nobody makes any more: it lapses at once. Leases of
//!   those who pull keep their time.
//! - Fenced off by another owner, it breaks off all attempts and ends.
//! - Told to give its shard away it begins nothing for a while, and gives it away when nothing is under way; else it goes on.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tidegate_model::delivery::{Ms, Seq, Token};
use tidegate_model::tenant::{ADDRESS_PREFIX, Tenant};
use tidegate_model::tick::Tick;
use tidegate_store::Unavailable;
use tidegate_store::deliveries::{ByNumber, Committed, Epoch, Follower, Line, News, Pause, Queues, Ready};
use tidegate_wire::{clock, task};
use tokio::sync::{Notify, mpsc};

use crate::attempt::{Made, Maker};
use crate::dispatcher::{ClaimError, Order, Parts, Shared};
use crate::rota::LONG_REST;
use crate::scheduler::{Action, Ended, Scheduler};
use crate::settings::{QueueSettings, Way};
use commits::Pending;
use pull::Pull;

mod ahead;
mod commits;
mod kept;
mod looks;
mod pull;
mod seat;

pub use seat::{Board, Seat};

/// How long a shard that is to be given away is held still, so that what is under way may end.
const STILL: Duration = Duration::from_secs(5);
/// How often is looked what no news tell of.
const LOOK: Duration = Duration::from_secs(1);
/// How long is waited after the store has refused, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often it is said that the store takes nothing.
const WARN: Duration = Duration::from_secs(10);
/// Orders taken in one turn.
const ORDERS_MAX: usize = 256;

/// What has happened.
enum Event {
    /// An attempt has ended; `None`: it was broken off.
    Ended(Seq, Token, Option<Box<Made>>),
    /// The store has answered commands.
    Committed(Vec<Pending>, Result<Vec<Committed>, Unavailable>),
    Loaded(Line, usize, Result<Vec<Ready>, Unavailable>),
    Found(usize, Result<Vec<Line>, Unavailable>),
    Promoted(Result<(Vec<Ready>, Option<Ms>, bool), Unavailable>),
    Expired(Result<Vec<(Seq, Line)>, Unavailable>),
    Paused(Result<Vec<Pause>, Unavailable>),
}

/// Where what has happened waits. Bounded by what is under way: each task puts one thing into it.
#[derive(Default)]
struct Inbox {
    events: RefCell<VecDeque<Event>>,
    come: Notify,
}

impl Inbox {
    fn put(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.come.notify_one();
    }
}

/// Why an engine has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It was told to, and nothing is under way.
    Drained,
    /// Its shard is another node's from now on.
    Given,
    /// Another has taken its shard over.
    Fenced,
    /// There is a fault in it.
    Panicked,
}

/// An attempt under way.
struct Running {
    token: Token,
    ready: Ready,
    began: Ms,
    /// Breaks it off.
    cancel: Rc<Notify>,
}

/// The engine.
pub struct Engine {
    parts: Rc<Parts>,
    shared: Arc<Shared>,
    maker: Rc<Maker>,
    board: Rc<Board>,
    inbox: Rc<Inbox>,
    epoch: Epoch,
    scheduler: Scheduler,
    queues: HashMap<Arc<str>, Arc<QueueSettings>>,
    /// The names of those that are pulled, and no names: one of both is what the store is told of.
    pulled: Queues,
    none: Queues,
    running: ByNumber<Seq, Running>,
    /// What was cancelled between its start's command and the answer.
    cancelled: HashSet<Seq>,
    pull: Pull,
    ahead: ahead::Ahead,
    commits: commits::Commits,
    looks: looks::Looks,
    draining: bool,
    /// Nothing is begun until then, so that the shard may be given away.
    still: Option<Tick>,
    /// The store refused: until when nothing is asked of it, and how long that was.
    store_away: Option<(Tick, Duration)>,
    fenced: bool,
    looked_at: Tick,
    keeps_time_at: Rc<Cell<Ms>>,
    /// Nothing is said of the store before.
    warns_from: Tick,
}

impl Engine {
    fn new(seat: &Seat, epoch: Epoch) -> Engine {
        Engine {
            parts: Rc::clone(&seat.parts),
            shared: Arc::clone(&seat.shared),
            maker: Rc::clone(&seat.maker),
            board: Rc::clone(&seat.board),
            inbox: Rc::default(),
            epoch,
            scheduler: Scheduler::new(seat.maker.bounds().of(seat.parts.store.shards())),
            queues: HashMap::new(),
            pulled: Queues::default(),
            none: Queues::default(),
            running: ByNumber::default(),
            cancelled: HashSet::new(),
            pull: Pull::default(),
            ahead: ahead::Ahead::default(),
            commits: commits::Commits::default(),
            looks: looks::Looks::default(),
            draining: false,
            still: None,
            store_away: None,
            fenced: false,
            looked_at: Tick(0),
            keeps_time_at: Rc::default(),
            warns_from: Tick(0),
        }
    }

    /// Makes what there is until it ends.
    async fn drive(&mut self, news: &mut Follower, orders: &mut mpsc::Receiver<Order>) -> Left {
        if !self.recover().await {
            return Left::Fenced;
        }
        loop {
            // Whoever is next is chosen by all that has happened: what is acknowledged by now is among it, and comes before
            // who has just had its turn.
            self.hear(news.take());
            self.take_events();
            self.take_orders(orders);
            self.turn();
            if self.fenced {
                self.break_off();
                return Left::Fenced;
            }
            if self.is_quiet() && (self.draining || self.still.is_some()) {
                return if self.draining { Left::Drained } else { Left::Given };
            }
            news.unhurried(self.unhurried());
            let wakes = self.wakes();
            let inbox = Rc::clone(&self.inbox);
            let mut come = pin!(inbox.come.notified());
            // Which of them comes first makes no difference, and the same happens every time.
            tokio::select! {
                biased;
                () = &mut come => {}
                told = news.next() => self.hear(told),
                order = orders.recv(), if !(orders.is_closed() && orders.is_empty()) => self.take_order(order),
                () = clock::sleep_until(wakes) => {}
            }
        }
    }

    /// Breaks off all attempts that are under way.
    fn break_off(&self) {
        self.running.values().for_each(|running| running.cancel.notify_one());
    }

    fn now(&self) -> Ms {
        self.shared.now()
    }

    fn take_orders(&mut self, orders: &mut mpsc::Receiver<Order>) {
        for _ in 0..ORDERS_MAX {
            let Ok(order) = orders.try_recv() else { return };
            self.obey(order);
        }
    }

    fn take_order(&mut self, order: Option<Order>) {
        match order {
            Some(order) => self.obey(order),
            None => self.draining = true,
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Configure(queues) => self.configure(queues),
            Order::Pause(pause) => {
                self.looks.pauses_change();
                self.scheduler.pause(pause);
            }
            Order::Resume(pause) => {
                self.looks.pauses_change();
                self.scheduler.resume(&pause);
            }
            Order::Claim(claim) => self.queue_up(claim),
            Order::End(endings, told) => self.end(endings, told),
            Order::Extend(extensions, told) => self.extend(extensions, told),
            Order::Return(grips) => grips.into_iter().for_each(|grip| self.give_back(grip)),
            #[cfg(test)]
            Order::Panic => panic!("as the test asks for"),
            Order::Drain => {
                self.draining = true;
                self.board.retires();
                self.pull.refuse_all(ClaimError::Draining);
            }
        }
    }

    /// Holds still where the shard is to be given away, for as long as that may take.
    fn hold_still(&mut self, now: Tick) {
        match self.still {
            None if self.board.gives(self.epoch.shard) => self.still = Some(now.after(STILL)),
            Some(until) if until <= now => {
                // What is under way takes long: the others get it when it is a better time.
                self.still = None;
                self.board.has_given(self.epoch.shard, LONG_REST);
            }
            _ => {}
        }
    }

    fn configure(&mut self, queues: Vec<Arc<QueueSettings>>) {
        self.take_back_all();
        self.scheduler.configure(&queues);
        let pulled = queues.iter().filter(|queue| queue.way == Way::Pull);
        self.pulled = Arc::new(pulled.map(|queue| Arc::clone(&queue.name)).collect());
        self.queues = queues.into_iter().map(|queue| (Arc::clone(&queue.name), queue)).collect();
        let parts = Rc::clone(&self.parts);
        self.scheduler.weigh(|tenant| parts.weight(tenant));
        self.looks.look_for_lines();
    }

    fn hear(&mut self, told: VecDeque<News>) {
        for news in told {
            match news {
                News::Ready(ready) => self.arrived(ready),
                News::Begun(ready, token, request) => self.begun(ready, token, request),
                News::Due(at) => self.looks.due(at),
                News::Gone(seq, line) => self.gone(seq, &line),
                News::Look => {
                    self.scheduler.look_anew();
                    self.looks.look_for_all();
                }
            }
        }
    }

    /// Queues in which nobody waits for what becomes ready: who comes for something there brings an order.
    fn unhurried(&self) -> &Queues {
        if self.pull.is_awaited() { &self.none } else { &self.pulled }
    }

    fn arrived(&mut self, ready: Ready) {
        let parts = Rc::clone(&self.parts);
        self.scheduler.arrived(ready, |tenant| parts.weight(tenant));
    }

    /// It was cancelled, or has been begun elsewhere.
    fn gone(&mut self, seq: Seq, line: &Line) {
        if !self.scheduler.gone(seq, line) {
            return;
        }
        if let Some(running) = self.running.get(&seq) {
            running.cancel.notify_one();
        } else if self.pull.forget(seq) {
            self.scheduler.ended(seq, Ended::Made, clock::now());
        } else {
            self.cancelled.insert(seq);
        }
    }

    fn take_events(&mut self) {
        loop {
            let Some(event) = self.inbox.events.borrow_mut().pop_front() else { return };
            match event {
                Event::Ended(seq, token, made) => self.ended(seq, token, made.map(|made| *made)),
                Event::Committed(asked, told) => self.committed(asked, told),
                Event::Loaded(line, most, found) => {
                    self.heed(&found);
                    self.scheduler.loaded(&line, found.ok(), most);
                }
                Event::Found(most, lines) => self.found(most, lines),
                Event::Promoted(told) => self.promoted(told),
                Event::Expired(found) => self.expired(found),
                Event::Paused(pauses) => self.paused(pauses),
            }
        }
    }

    /// What the store's answer says of the store.
    fn heed<T>(&mut self, answer: &Result<T, Unavailable>) {
        match answer {
            Ok(_) => self.store_away = None,
            Err(Unavailable::Fenced) => self.fenced = true,
            Err(error) => {
                let pause = self.store_away.map_or(PAUSES.0, |(_, pause)| (pause * 2).min(PAUSES.1));
                let now = clock::now();
                if now >= self.warns_from {
                    tracing::warn!(%error, "the store does not take what becomes of deliveries");
                    self.warns_from = now.after(WARN);
                }
                self.store_away = Some((clock::now().after(pause), pause));
            }
        }
    }

    /// Whether the store is left alone for now.
    fn spares_store(&self, now: Tick) -> bool {
        self.store_away.is_some_and(|(until, _)| now < until)
    }

    fn turn(&mut self) {
        let (now, wall) = (clock::now(), self.now());
        if now.since(self.looked_at) >= LOOK {
            self.looked_at = now;
            self.looks.second(self.scheduler.rotate());
            self.maker.teller.sweep();
            if !self.spares_store(now) {
                self.keep_time(wall);
            }
        }
        self.lapse(now);
        let spares_store = self.spares_store(now);
        if !spares_store {
            self.look(wall);
            self.hold_still(now);
        }
        if !spares_store && !self.draining && self.still.is_none() && self.commits.may_begin() {
            self.begin(now, wall);
        } else {
            self.take_back_all();
        }
        if !spares_store {
            self.flush();
            if !self.commits.is_quiet() {
                self.keep_time_soon(wall);
            }
        }
        self.tell_status(now);
    }

    /// Begins what may be.
    fn begin(&mut self, now: Tick, wall: Ms) {
        for queue in self.queues.values() {
            let Some(upstream) = queue.upstream().and_then(|name| self.parts.upstreams.get(name)) else {
                continue;
            };
            // It is asked again soon: somebody else's probe may find it well before that.
            if let Some(wait) = upstream.left_alone_for(now) {
                self.scheduler.keep_parked(&queue.name, now.after(wait.min(Duration::from_millis(500))));
            }
        }
        self.take_back_waited_for();
        let mut actions = Vec::new();
        self.scheduler.turn(now, wall, &mut actions);
        for action in actions {
            match action {
                Action::Start(ready) => self.start(ready, wall),
                other => self.act(other),
            }
        }
        self.serve_claims(now, wall);
        self.give_ahead();
    }

    /// Does what costs no slot.
    fn act(&mut self, action: Action) {
        match action {
            Action::Load(line, after, most) => self.load(line, after, most),
            // It is found by those that look for what is too late.
            Action::Expire(_) => self.looks.look_for_expired(),
            Action::Start(_) => unreachable!("whoever begins does it itself"),
        }
    }

    /// Makes the attempt that was begun.
    fn make(&mut self, ready: Ready, token: Token, request: Arc<tidegate_model::delivery::Request>) {
        let queue = self.queues.get(&ready.line.queue).cloned();
        let upstream = queue.as_ref().and_then(|queue| self.parts.upstreams.get(queue.upstream()?));
        let is_told = |queue: &QueueSettings| queue.way == Way::Webhooks;
        let Some(queue) = queue.filter(|queue| upstream.is_some() || is_told(queue)) else {
            // A reload has taken it away meanwhile: nothing was sent.
            self.inbox.put(Event::Ended(ready.seq, token, Some(Box::new(Made::nowhere()))));
            self.running
                .insert(ready.seq, Running { token, ready, began: self.now(), cancel: Rc::default() });
            return;
        };
        let tenant = self.parts.tenant(&ready.line.tenant);
        let cancel = Rc::<Notify>::default();
        let (maker, inbox, stop) = (Rc::clone(&self.maker), Rc::clone(&self.inbox), Rc::clone(&cancel));
        let delivery = ready.clone();
        let running = Running { token, ready, began: self.now(), cancel };
        self.running.insert(delivery.seq, running);
        // What a task is made of is moved some times, until it runs and when it has ended: so it is a box.
        task::spawn(Box::pin(async move {
            // Whatever ends this task, a panic too, its slot is free again.
            let mut guard = Guard { inbox, seq: delivery.seq, token, made: Some(Box::new(Made::panicked())) };
            tokio::select! {
                biased;
                () = stop.notified() => guard.made = None,
                made = async {
                    match &upstream {
                        Some(upstream) => maker.make(upstream, &tenant, &queue, &delivery, &request).await,
                        // Larger than what an attempt to an upstream takes, and seldom.
                        None => Box::pin(maker.tell(&queue, &delivery, &request)).await,
                    }
                } => guard.made = Some(Box::new(made)),
            }
        }));
    }

    fn is_quiet(&self) -> bool {
        self.running.is_empty() && self.commits.is_quiet() && self.ahead.is_empty()
    }

    fn wakes(&self) -> Tick {
        let now = clock::now();
        let due =
            self.looks.next_due().map(|due| now.after(Duration::from_millis(due.saturating_sub(self.now()))));
        let store = self.store_away.map(|(until, _)| until).filter(|until| *until > now);
        let others = [self.scheduler.wakes(), self.pull.wakes(), due].into_iter().flatten();
        let soonest = others.min().unwrap_or(Tick::MAX).max(store.unwrap_or_default());
        soonest.min(self.looked_at.after(LOOK)).max(now.after(Duration::from_millis(1)))
    }

    fn tell_status(&self, now: Tick) {
        self.shared.tell(self.epoch.shard, self.queues.keys(), |name| {
            let parked = self.scheduler.parked(name).map(|until| until.since(now));
            (self.scheduler.under_way(name), parked)
        });
    }
}

/// Tells how an attempt ended, whatever ends it.
struct Guard {
    inbox: Rc<Inbox>,
    seq: Seq,
    token: Token,
    made: Option<Box<Made>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.inbox.put(Event::Ended(self.seq, self.token, self.made.take()));
    }
}

impl Parts {
    fn tenant(&self, id: &Arc<str>) -> Arc<Tenant> {
        let now = clock::latest();
        match id.starts_with(ADDRESS_PREFIX) {
            true => self.tenants.find_or_add_claimed(id, &self.unknown, now),
            false => self.tenants.find_or_add(id, &self.unknown, now),
        }
    }

    /// What a tenant counts: as its plan says.
    fn weight(&self, id: &str) -> u32 {
        let found = self.tenants.find(id);
        found.map_or(self.unknown.weight, |tenant| tenant.with_plan(|plan| plan.weight)).max(1)
    }
}

/// Milliseconds of the wall clock.
pub fn wall() -> Ms {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ms::try_from(since.as_millis()).unwrap_or(Ms::MAX)
}

/// The times at which something is to be done, and what.
type Times = BTreeSet<(Tick, Seq)>;
