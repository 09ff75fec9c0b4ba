//! Who is next: pure, without input and output, clock or chance.
//!
//! ```text
//! the store's news, what was read of it --->  windows, a line each  --- by turns ---> begun: to be committed, then made
//!                                              ^                                        |
//!                                              '--- refused: put back, or forgotten <---+---> ended: the slot is free
//! ```
//!
//! A *line* is a tenant's part of a queue. Of each line the first ready deliveries are here, in a window; a million more on
//! disk cost nothing. Within a queue, lines take turns by the slot time that they have used over their weight (`share`);
//! within a line the rank decides. Queues share nothing but memory.
//!
//! What always holds:
//! - Of a queue no more is under way than its concurrency, nor begun than its rate allows; of a tenant and of a key the same.
//! - What is paused is not begun, and nothing else waits for it.
//! - While the way to an upstream is closed its queue is *parked*: nothing of it is begun and nothing written. When it may be
//!   open again one attempt finds out.
//! - Lines, deliveries in windows and bytes under way have maxima. What does not fit is on disk and is found again.
//! - What is begun is in nobody's window; whether it may still be begun the store says, which knows better.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::delivery::{Ms, Seq};
use tidegate_model::tick::{Tick, nanos};
use tidegate_store::deliveries::{AHEAD_BYTES_MAX, ByNumber, Line, Pause, Ready};

mod keys;
mod queue;
mod share;
mod shelf;
#[cfg(test)]
pub(crate) mod tests;

use self::queue::{Picked, Queue, Way};
use self::shelf::{Found, Place, place};
use crate::dispatcher::Claim;
use crate::settings::{self, QueueSettings};

/// What is held in memory at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Lines.
    pub lines: usize,
    /// Deliveries in windows.
    pub items: usize,
    /// Deliveries in one window.
    pub window: usize,
    /// Bytes of the requests under way. One alone may have more.
    pub bytes: u64,
    /// Lines that are read from disk at once.
    pub loads: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { lines: 16_384, items: 131_072, window: 512, bytes: 256 << 20, loads: 16 }
    }
}

impl Bounds {
    /// What of them is one scheduler's, of so many in the same process.
    #[must_use]
    pub fn of(self, count: u16) -> Bounds {
        let count = usize::from(count.max(1));
        Bounds {
            lines: (self.lines / count).max(1),
            items: (self.items / count).max(self.window),
            window: self.window,
            bytes: self.bytes / count as u64,
            loads: (self.loads / count).max(1),
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The next of a line are to be read: those after this place, so many at most.
    Load(Line, Option<Place>, usize),
    /// It is to be begun.
    Start(Ready),
    /// It is too late for it.
    Expire(Ready),
}

/// How an attempt ended, as far as it matters to who is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was made, whatever came of it.
    Made,
    /// Nothing was sent: the upstream is not to be had for so long.
    Unsent(Duration),
    /// It was not begun.
    NotBegun,
}

/// How much is taken at once.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Deliveries.
    pub count: usize,
    /// Bytes of all of them.
    pub bytes: u64,
    /// The first may have more.
    pub first_any: bool,
}

impl Most {
    /// What somebody asks for.
    pub fn of(claim: &Claim) -> Most {
        Most { count: claim.most, bytes: claim.bytes_max, first_any: claim.first_any }
    }
}

/// What is under way.
#[derive(Debug)]
struct Busy {
    line: Line,
    began: Tick,
    /// Slot time that it was charged, in nanoseconds.
    charged: u64,
    bytes: u64,
    /// It may be begun again, though that it has ended was not heard yet.
    again: Option<Ready>,
}

/// Who is next.
#[derive(Debug)]
pub struct Scheduler {
    bounds: Bounds,
    queues: BTreeMap<Arc<str>, Queue>,
    busy: ByNumber<Seq, Busy>,
    /// What is under way, by when it has taken what it was charged.
    outruns: BTreeSet<(Tick, Seq)>,
    pauses: HashSet<Pause>,
    lines: usize,
    items: usize,
    bytes: u64,
    /// Slots of all queues that are given away beforehand.
    aside: u32,
    loading: usize,
    /// There are lines for which there was no room.
    crowded: bool,
    /// Of a line that is not here nothing is ready on disk.
    complete: bool,
}

impl Scheduler {
    /// Of no queue.
    #[must_use]
    pub fn new(bounds: Bounds) -> Scheduler {
        Scheduler {
            bounds,
            queues: BTreeMap::new(),
            busy: ByNumber::default(),
            outruns: BTreeSet::new(),
            pauses: HashSet::new(),
            lines: 0,
            items: 0,
            bytes: 0,
            aside: 0,
            loading: 0,
            crowded: false,
            complete: false,
        }
    }

    /// Makes these the queues. What is under way of one that is gone ends as it does; the rest stays on disk. Lines of a new
    /// one are to be looked for.
    pub fn configure(&mut self, settings: &[Arc<QueueSettings>]) {
        let gone: Vec<Arc<str>> = (self.queues.keys())
            .filter(|name| !settings.iter().any(|held| held.name == **name))
            .cloned()
            .collect();
        for name in gone {
            self.set_aside(&name, 0);
            let tenants: Vec<_> = self.queues[&name].lines.keys().cloned().collect();
            tenants.iter().for_each(|tenant| self.forget(&name, tenant));
            self.queues.remove(&name);
        }
        for held in settings {
            match self.queues.get_mut(&held.name) {
                Some(queue) => queue.settings = Arc::clone(held),
                None => {
                    let mut queue = Queue::new(Arc::clone(held));
                    let still = self.busy.values().filter(|busy| busy.line.queue == held.name).count();
                    queue.holding = u32::try_from(still).unwrap_or(u32::MAX);
                    self.queues.insert(Arc::clone(&held.name), queue);
                    self.complete = false;
                }
            }
        }
        self.relist_all();
    }

    /// The tenants whose weight counts now.
    pub fn tenants(&self) -> HashSet<Arc<str>> {
        self.queues.values().flat_map(|queue| queue.lines.keys().cloned()).collect()
    }

    /// Each tenant counts so much from now on.
    pub fn weigh(&mut self, weight: impl Fn(&str) -> u32) {
        for queue in self.queues.values_mut() {
            let tenants: Vec<_> = queue.lines.keys().cloned().collect();
            tenants.iter().for_each(|tenant| queue.weigh(tenant, weight(tenant)));
        }
        self.relist_all();
    }

    /// What is not begun from now on.
    pub fn pause(&mut self, pause: Pause) {
        self.pauses.insert(pause);
        self.relist_all();
    }

    /// This, and nothing else, is not begun from now on.
    pub fn set_pauses(&mut self, pauses: Vec<Pause>) {
        let pauses: HashSet<Pause> = pauses.into_iter().collect();
        if pauses != self.pauses {
            self.pauses = pauses;
            self.relist_all();
        }
    }

    /// It is begun again.
    pub fn resume(&mut self, pause: &Pause) {
        self.pauses.remove(pause);
        self.relist_all();
    }

    fn is_paused(&self, queue: &Arc<str>, tenant: &Arc<str>) -> bool {
        !self.pauses.is_empty()
            && [
                Pause::Queue(Arc::clone(queue)),
                Pause::Tenant(Arc::clone(tenant)),
                Pause::Line(Line { queue: Arc::clone(queue), tenant: Arc::clone(tenant) }),
            ]
            .iter()
            .any(|pause| self.pauses.contains(pause))
    }

    fn relist_all(&mut self) {
        let names: Vec<Arc<str>> = self.queues.keys().cloned().collect();
        for name in names {
            // In the order of their names: those who begin to wait now wait in that order.
            let mut tenants: Vec<_> = self.queues[&name].lines.keys().cloned().collect();
            tenants.sort_unstable();
            tenants.iter().for_each(|tenant| self.relist(&name, tenant));
        }
    }

    fn relist(&mut self, queue: &Arc<str>, tenant: &Arc<str>) {
        let (paused, low) = (self.is_paused(queue, tenant), self.window() / 4);
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.relist(tenant, paused, low);
        }
    }

    /// How much a window holds: less where there are many.
    fn window(&self) -> usize {
        (self.bounds.items / self.lines.max(1)).clamp(4, self.bounds.window.max(4))
    }

    /// There is something of this line on disk. `false`: there is no room for it, or no such queue.
    pub fn found(&mut self, line: &Line, weight: impl Fn(&str) -> u32) -> bool {
        self.know(line, true, weight)
    }

    /// All lines that have something ready were found.
    pub fn found_all(&mut self) {
        self.complete = !self.crowded;
    }

    fn know(&mut self, line: &Line, more: bool, weight: impl Fn(&str) -> u32) -> bool {
        let Some(queue) = self.queues.get_mut(&line.queue) else { return false };
        if queue.lines.contains_key(&line.tenant) {
            return true;
        }
        if self.lines >= self.bounds.lines {
            (self.crowded, self.complete) = (true, false);
            return false;
        }
        queue.add(&line.tenant, weight(&line.tenant), more);
        self.lines += 1;
        self.relist(&line.queue, &line.tenant);
        true
    }

    /// Where there are lines for which there was no room, an eighth of those that are here makes room: of each queue those that
    /// have had most. They are on disk, and found again. `true`: others are to be looked for.
    pub fn rotate(&mut self) -> bool {
        if !std::mem::take(&mut self.crowded) {
            return false;
        }
        self.complete = false;
        let free = self.bounds.lines.saturating_sub(self.lines);
        let most = (self.bounds.lines / 8).max(1).saturating_sub(free);
        let mut idle: Vec<_> = (self.queues.iter())
            .flat_map(|(name, queue)| queue.lines.iter().map(move |(tenant, shelf)| (name, tenant, shelf)))
            .filter(|(_, _, shelf)| shelf.share.holding == 0)
            .map(|(name, tenant, shelf)| (shelf.share.virtual_time(), Arc::clone(name), Arc::clone(tenant)))
            .collect();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        idle.iter().take(most).for_each(|(_, name, tenant)| self.forget(name, tenant));
        true
    }

    /// Whether there was no room for some, and there is now.
    #[must_use]
    pub fn has_room_again(&self) -> bool {
        self.crowded && self.lines < self.bounds.lines
    }

    fn forget(&mut self, queue: &Arc<str>, tenant: &Arc<str>) {
        if let Some(shelf) = self.queues.get_mut(queue).and_then(|queue| queue.remove(tenant)) {
            self.lines -= 1;
            self.items -= shelf.len();
        }
    }

    /// One may be begun.
    pub fn arrived(&mut self, ready: Ready, weight: impl Fn(&str) -> u32) {
        if let Some(busy) = self.busy.get_mut(&ready.seq) {
            busy.again = Some(ready);
            return;
        }
        if !self.know(&ready.line, !self.complete, weight) {
            return;
        }
        let line = ready.line.clone();
        let held = self.queues.get(&line.queue).is_some_and(|queue| queue.holds_back(ready.seq));
        if !held {
            self.change(&line, |shelf, window| shelf.put(ready, window));
        }
    }

    /// Changes a line, and puts it where it stands then.
    fn change<T>(&mut self, line: &Line, change: impl FnOnce(&mut shelf::Shelf, usize) -> T) -> Option<T> {
        let window = self.window();
        let shelf = self.queues.get_mut(&line.queue)?.lines.get_mut(&line.tenant)?;
        let before = shelf.len();
        let result = change(shelf, window);
        self.items = self.items - before + shelf.len();
        self.relist(&line.queue, &line.tenant);
        Some(result)
    }

    /// What was read of a line, of at most so many; `None`: it could not be read.
    pub fn loaded(&mut self, line: &Line, found: Option<Vec<Ready>>, most: usize) {
        self.loading = self.loading.saturating_sub(1);
        let queue = self.queues.get(&line.queue);
        let found = found.map(|mut ready| {
            let (last, more) = (ready.last().map(place), ready.len() >= most);
            let here = |seq| self.busy.contains_key(&seq) || queue.is_some_and(|queue| queue.holds_back(seq));
            ready.retain(|ready| !here(ready.seq));
            Found { ready, last, more }
        });
        self.change(line, |shelf, window| shelf.loaded(found, window));
        self.tidy(line);
    }

    /// More has happened than was told: all lines are read anew, and those that are not here are to be looked for.
    pub fn look_anew(&mut self) {
        self.complete = false;
        for queue in self.queues.values_mut() {
            queue.lines.values_mut().for_each(shelf::Shelf::look_anew);
        }
        self.relist_all();
    }

    /// It may not be begun any more. `true`: it is under way.
    pub fn gone(&mut self, seq: Seq, line: &Line) -> bool {
        self.change(line, |shelf, _| shelf.remove(seq));
        self.busy.contains_key(&seq)
    }

    /// The way to a queue's upstream is closed until then.
    pub fn park(&mut self, queue: &str, until: Tick) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.way = match queue.way {
                Way::Parked(before) => Way::Parked(before.max(until)),
                Way::Open | Way::Probing(_) => Way::Parked(until),
            };
        }
    }

    /// The same, unless an attempt is finding out just now.
    pub fn keep_parked(&mut self, queue: &str, until: Tick) {
        if self.queues.get(queue).is_some_and(|queue| !matches!(queue.way, Way::Probing(Some(_)))) {
            self.park(queue, until);
        }
    }

    /// Whether nothing of this queue waits, here or on disk, and whatever comes could be begun in each of its slots: nothing
    /// bounds it but these.
    #[must_use]
    pub fn takes_whatever_comes(&self, queue: &str) -> bool {
        let known_all = self.complete && self.loading == 0 && self.pauses.is_empty();
        known_all && self.queues.get(queue).is_some_and(Queue::takes_whatever_comes)
    }

    /// Slots of a queue that are free, and for whose requests there is room.
    #[must_use]
    pub fn spare(&self, queue: &str) -> u32 {
        let aside = self.aside_bytes();
        // A quarter of all bytes: what waits for some never waits for slots that nobody takes.
        let most = (self.bounds.bytes / 4).min(self.bounds.bytes.saturating_sub(self.bytes));
        let room = most.saturating_sub(aside) / AHEAD_BYTES_MAX;
        let free = self.queues.get(queue).map_or(0, Queue::free);
        free.min(u32::try_from(room).unwrap_or(u32::MAX))
    }

    fn aside_bytes(&self) -> u64 {
        u64::from(self.aside) * AHEAD_BYTES_MAX
    }

    /// So many slots of a queue are given away beforehand.
    pub fn set_aside(&mut self, queue: &str, slots: u32) {
        if let Some(queue) = self.queues.get_mut(queue) {
            self.aside = self.aside - queue.aside + slots;
            queue.aside = slots;
        }
    }

    /// One was begun in a slot that was given away, and is not any more.
    pub fn begun(&mut self, ready: &Ready, now: Tick, weight: impl Fn(&str) -> u32) {
        self.know(&ready.line, !self.complete, weight);
        if let Some(queue) = self.queues.get_mut(&ready.line.queue) {
            queue.takes_turn(&ready.line.tenant);
        }
        self.under_way_now(ready, now);
    }

    /// It is under way already, for somebody who has come for it before.
    pub fn adopt(&mut self, ready: &Ready, now: Tick, weight: impl Fn(&str) -> u32) {
        self.know(&ready.line, true, weight);
        self.under_way_now(ready, now);
    }

    fn under_way_now(&mut self, ready: &Ready, now: Tick) {
        let Some(queue) = self.queues.get_mut(&ready.line.queue) else { return };
        let charged = queue.adopt(&ready.line.tenant);
        self.bytes += ready.bytes;
        self.outruns.insert((now.after(Duration::from_nanos(charged)), ready.seq));
        let line = ready.line.clone();
        self.busy.insert(ready.seq, Busy { line, began: now, charged, bytes: ready.bytes, again: None });
        self.relist(&ready.line.queue, &ready.line.tenant);
    }

    /// Until when a queue is parked, or whether an attempt finds out (`Tick(0)`).
    #[must_use]
    pub fn parked(&self, queue: &str) -> Option<Tick> {
        match self.queues.get(queue)?.way {
            Way::Open => None,
            Way::Parked(until) => Some(until),
            Way::Probing(_) => Some(Tick(0)),
        }
    }

    /// Attempts of a queue that are under way.
    #[must_use]
    pub fn under_way(&self, queue: &str) -> u32 {
        self.queues.get(queue).map_or(0, |queue| queue.holding)
    }

    /// What is to be done now. Of what is pulled nothing is begun here.
    pub fn turn(&mut self, now: Tick, wall: Ms, actions: &mut Vec<Action>) {
        self.charge_outruns(now);
        let names: Vec<Arc<str>> = self.queues.keys().cloned().collect();
        for name in &names {
            self.release(name, now);
            let pulled = self.queues.get(name).is_some_and(|queue| queue.settings.way == settings::Way::Pull);
            while !pulled && self.begin(name, (&[], u64::MAX), now, wall, actions) {}
        }
        self.load(&names, actions);
    }

    /// Takes up to so many of what is pulled, of these tenants alone where any are named.
    pub fn claim(
        &mut self,
        queue: &Arc<str>,
        tenants: &[Arc<str>],
        most: Most,
        now: Tick,
        wall: Ms,
        actions: &mut Vec<Action>,
    ) -> usize {
        self.release(queue, now);
        let mut left = if most.first_any { u64::MAX } else { most.bytes };
        let mut begun = 0;
        while begun < most.count && self.begin(queue, (tenants, left), now, wall, actions) {
            let Some(Action::Start(ready)) = actions.last() else { break };
            left = left.min(most.bytes).saturating_sub(ready.bytes);
            begun += 1;
        }
        begun
    }

    /// Begins the next one, of these tenants and of so many bytes at most. `false`: there is none.
    fn begin(
        &mut self,
        name: &Arc<str>,
        (tenants, bytes_max): (&[Arc<str>], u64),
        now: Tick,
        wall: Ms,
        actions: &mut Vec<Action>,
    ) -> bool {
        let taken = self.bytes + self.aside_bytes();
        let room = if self.bytes == 0 { u64::MAX } else { self.bounds.bytes.saturating_sub(taken) };
        loop {
            let Some(queue) = self.queues.get_mut(name) else { return false };
            match queue.pick(tenants, room.min(bytes_max), now, wall) {
                Picked::None => return false,
                // Another one may go.
                Picked::Held(line, kept) => {
                    self.items -= usize::from(!kept);
                    self.relist(name, &line.tenant);
                }
                Picked::Expired(ready) => {
                    self.items -= 1;
                    self.relist(name, &ready.line.tenant);
                    self.tidy(&ready.line);
                    actions.push(Action::Expire(ready));
                }
                Picked::One(ready, charged) => {
                    self.items -= 1;
                    let (line, bytes) = (ready.line.clone(), ready.bytes);
                    self.bytes += bytes;
                    self.outruns.insert((now.after(Duration::from_nanos(charged)), ready.seq));
                    self.busy.insert(ready.seq, Busy { line, began: now, charged, bytes, again: None });
                    self.relist(name, &ready.line.tenant);
                    actions.push(Action::Start(ready));
                    return true;
                }
            }
        }
    }

    fn release(&mut self, name: &Arc<str>, now: Tick) {
        while let Some(ready) = self.queues.get_mut(name).and_then(|queue| queue.released(now)) {
            self.items -= 1;
            let line = ready.line.clone();
            self.change(&line, |shelf, window| shelf.put(ready, window));
        }
    }

    fn load(&mut self, names: &[Arc<str>], actions: &mut Vec<Action>) {
        let (most, low) = (self.window(), self.window() / 4);
        for name in names {
            let Some(queue) = self.queues.get_mut(name) else { continue };
            while self.loading < self.bounds.loads {
                let Some(tenant) = queue.hungry.pop_first() else { break };
                let Some(shelf) = queue.lines.get_mut(&tenant) else { continue };
                let Some(after) = shelf.wants(low) else { continue };
                shelf.loads();
                self.loading += 1;
                let line = Line { queue: Arc::clone(name), tenant };
                actions.push(Action::Load(line, after, most));
            }
        }
    }

    /// What outruns what it was charged is charged as much again.
    fn charge_outruns(&mut self, now: Tick) {
        while let Some(&(at, seq)) = self.outruns.first().filter(|(at, _)| *at <= now) {
            self.outruns.remove(&(at, seq));
            let Some(busy) = self.busy.get_mut(&seq) else { continue };
            let charge = busy.charged.max(nanos(now.since(busy.began)).saturating_sub(busy.charged));
            busy.charged = busy.charged.saturating_add(charge);
            self.outruns.insert((busy.began.after(Duration::from_nanos(busy.charged)), seq));
            let line = busy.line.clone();
            if let Some(queue) = self.queues.get_mut(&line.queue) {
                queue.outran(&line.tenant, charge);
            }
            self.relist(&line.queue, &line.tenant);
        }
    }

    /// What was under way has ended, or was not begun: its slot is free.
    pub fn ended(&mut self, seq: Seq, how: Ended, now: Tick) {
        let Some(busy) = self.busy.remove(&seq) else { return };
        self.outruns.remove(&(busy.began.after(Duration::from_nanos(busy.charged)), seq));
        self.bytes -= busy.bytes;
        let Some(queue) = self.queues.get_mut(&busy.line.queue) else { return };
        let took = (how == Ended::Made).then(|| now.since(busy.began));
        let probed = queue.way == Way::Probing(Some(seq));
        queue.ended(&busy.line.tenant, seq, busy.charged, took);
        match how {
            Ended::Made if probed => queue.way = Way::Open,
            Ended::Unsent(wait) => self.park(&busy.line.queue, now.after(wait)),
            Ended::Made | Ended::NotBegun => {}
        }
        self.relist(&busy.line.queue, &busy.line.tenant);
        match busy.again {
            // Its line is here still.
            Some(ready) => self.arrived(ready, |_| 1),
            None => self.tidy(&busy.line),
        }
    }

    /// Forgets a line of which there is nothing.
    fn tidy(&mut self, line: &Line) {
        let shelf = self.queues.get(&line.queue).and_then(|queue| queue.lines.get(&line.tenant));
        if shelf.is_some_and(shelf::Shelf::is_over) {
            self.forget(&line.queue, &line.tenant);
        }
    }

    /// When something can be begun that cannot be now, by itself.
    #[must_use]
    pub fn wakes(&self) -> Option<Tick> {
        self.queues.values().filter_map(Queue::wakes).min()
    }

    /// Deliveries in windows, and lines.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.items, self.lines)
    }
}
