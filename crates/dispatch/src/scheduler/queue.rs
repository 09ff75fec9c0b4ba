//! One queue: its lines in the order of their turns, and what holds all of them up.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::delivery::{Ms, Seq};
use tidegate_model::limit::{Verdict, Word};
use tidegate_model::tick::{Tick, nanos};
use tidegate_store::deliveries::{Line, Ready};

use super::keys::Keys;
use super::share::{Share, Virtual, learnt, virtual_of};
use super::shelf::Shelf;
use crate::settings::{self, QueueSettings};

/// Deliveries of one queue whose key has to wait.
const HELD_MAX: usize = 4_096;

/// Who comes next: the least virtual time; of equals who holds fewest slots for its weight, and of those the first to have
/// begun to have something.
type Turn = (Virtual, u64, u64);

/// Whether the way to the application is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is.
    Open,
    /// Nothing is begun before then.
    Parked(Tick),
    /// One attempt finds out whether it is; `None`: it has not begun.
    Probing(Option<Seq>),
}

/// A queue.
#[derive(Debug)]
pub struct Queue {
    pub settings: Arc<QueueSettings>,
    pub lines: HashMap<Arc<str>, Shelf>,
    turns: BTreeSet<(Turn, Arc<str>)>,
    listed: HashMap<Arc<str>, Turn>,
    /// Lines whose windows run low.
    pub hungry: BTreeSet<Arc<str>>,
    /// Deliveries whose key has to wait, until when.
    held: BTreeMap<(Tick, Seq), Ready>,
    held_seqs: HashSet<Seq>,
    /// Attempts under way.
    pub holding: u32,
    /// Slots that are given away beforehand.
    pub aside: u32,
    pub way: Way,
    rate: Word,
    keys: Keys,
    reached: Virtual,
    /// What an attempt takes, in nanoseconds; 0: none has ended yet.
    typical: u64,
    weights: u64,
    /// Nothing may be begun before then, by its rate.
    pub not_before: Option<Tick>,
    began: u64,
}

/// What a pick came to.
pub enum Picked {
    /// This is begun; so much was charged for it.
    One(Ready, u64),
    /// It is too late for this one.
    Expired(Ready),
    /// The key of one of this line has to wait; whether it is remembered.
    Held(Line, bool),
    /// Nothing can be begun now.
    None,
}

impl Queue {
    pub fn new(settings: Arc<QueueSettings>) -> Queue {
        Queue {
            settings,
            lines: HashMap::new(),
            turns: BTreeSet::new(),
            listed: HashMap::new(),
            hungry: BTreeSet::new(),
            held: BTreeMap::new(),
            held_seqs: HashSet::new(),
            holding: 0,
            aside: 0,
            way: Way::Open,
            rate: Word::default(),
            keys: Keys::default(),
            reached: 0,
            typical: 0,
            weights: 0,
            not_before: None,
            began: 0,
        }
    }

    /// Whether something waits to be begun.
    pub fn has_any(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Whether this one's key has to wait.
    pub fn holds_back(&self, seq: Seq) -> bool {
        self.held_seqs.contains(&seq)
    }

    fn virtual_time(&self) -> Virtual {
        self.turns.first().map_or(self.reached, |((next, ..), _)| (*next).max(self.reached))
    }

    /// A line that was not known; `more`: something of it may be on disk.
    pub fn add(&mut self, tenant: &Arc<str>, weight: u32, more: bool) -> &mut Shelf {
        let share = Share::new(weight, self.virtual_time());
        self.weights += u64::from(share.weight());
        self.lines.entry(Arc::clone(tenant)).or_insert(Shelf::new(share, more))
    }

    /// Forgets a line.
    pub fn remove(&mut self, tenant: &Arc<str>) -> Option<Shelf> {
        let shelf = self.lines.remove(tenant)?;
        self.weights = self.weights.saturating_sub(u64::from(shelf.share.weight()));
        self.hungry.remove(tenant);
        if let Some(turn) = self.listed.remove(tenant) {
            self.turns.remove(&(turn, Arc::clone(tenant)));
        }
        let mine: Vec<_> =
            self.held.iter().filter(|(_, held)| held.line.tenant == *tenant).map(|(&at, _)| at).collect();
        for at in mine {
            self.held.remove(&at);
            self.held_seqs.remove(&at.1);
        }
        Some(shelf)
    }

    /// A tenant counts so much from now on.
    pub fn weigh(&mut self, tenant: &Arc<str>, weight: u32) {
        let Some(shelf) = self.lines.get_mut(tenant) else { return };
        self.weights = self.weights.saturating_sub(u64::from(shelf.share.weight())) + u64::from(weight);
        shelf.share.weigh(weight);
    }

    /// Puts a line where it stands now, after whatever was done to it.
    pub fn relist(&mut self, tenant: &Arc<str>, paused: bool, low: usize) {
        let reached = self.virtual_time();
        let most = self.settings.tenant_concurrency.unwrap_or(u32::MAX);
        let before = self.listed.get(tenant).copied();
        let mut now = None;
        if let Some(shelf) = self.lines.get_mut(tenant) {
            if shelf.has_any() && !paused && shelf.share.holding < most {
                if before.is_none() {
                    self.began += 1;
                    shelf.began = self.began;
                    if shelf.share.holding == 0 {
                        shelf.share.lift(reached);
                    }
                }
                now = Some((shelf.share.virtual_time(), shelf.share.held(), shelf.began));
            }
            match shelf.wants(low) {
                Some(_) if !paused => drop(self.hungry.insert(Arc::clone(tenant))),
                _ => drop(self.hungry.remove(tenant)),
            }
        }
        if now == before {
            return;
        }
        if let Some(before) = before {
            self.turns.remove(&(before, Arc::clone(tenant)));
        }
        match now {
            Some(now) => {
                self.turns.insert((now, Arc::clone(tenant)));
                self.listed.insert(Arc::clone(tenant), now);
            }
            None => drop(self.listed.remove(tenant)),
        }
    }

    /// Whether the way is open for one more, as far as the upstream goes.
    pub fn may_begin(&mut self, now: Tick) -> bool {
        if let Way::Parked(until) = self.way
            && until <= now
        {
            self.way = Way::Probing(None);
        }
        let open = match self.way {
            Way::Open | Way::Probing(None) => true,
            Way::Parked(_) | Way::Probing(Some(_)) => false,
        };
        open && self.free() > 0
    }

    /// Slots that nobody has, and that are not given away.
    pub fn free(&self) -> u32 {
        self.settings.concurrency.saturating_sub(self.holding).saturating_sub(self.aside)
    }

    /// Whether nothing waits, and nothing but its concurrency bounds what may be begun.
    pub fn takes_whatever_comes(&self) -> bool {
        let is_bounded = self.settings.rate.is_some() || self.settings.tenant_concurrency.is_some();
        let waits = self.has_any() || !self.hungry.is_empty() || !self.held.is_empty();
        matches!(self.settings.way, settings::Way::Push(_)) && self.way == Way::Open && !is_bounded && !waits
    }

    /// Until when its rate lets nothing be begun.
    fn paced(&mut self, now: Tick) -> bool {
        self.not_before = None;
        let Some(rate) = &self.settings.rate else { return false };
        let wait = self.rate.wait(rate, now);
        self.not_before = (!wait.is_zero()).then(|| now.after(wait));
        self.not_before.is_some()
    }

    /// Takes the next one, of these tenants where it matters which, if it has no more than so many bytes.
    pub fn pick(&mut self, tenants: &[Arc<str>], bytes_max: u64, now: Tick, wall: Ms) -> Picked {
        if !self.has_any() || !self.may_begin(now) || self.paced(now) {
            return Picked::None;
        }
        let next = match tenants {
            [] => self.turns.first(),
            some => self.turns.iter().find(|(_, tenant)| some.contains(tenant)),
        };
        let Some((turn, tenant)) = next.cloned() else { return Picked::None };
        let Some(shelf) = self.lines.get_mut(&tenant) else { return Picked::None };
        if shelf.first().is_none_or(|ready| ready.bytes > bytes_max) {
            return Picked::None;
        }
        let Some(ready) = shelf.take() else { return Picked::None };
        if ready.expires.is_some_and(|expires| expires <= wall) {
            return Picked::Expired(ready);
        }
        if let Some(wait) = self.key_waits(&ready, now) {
            let line = ready.line.clone();
            return Picked::Held(line, self.hold(ready, now.after(wait)));
        }
        if let Some(rate) = &self.settings.rate {
            // It was asked just now, and nobody else spends of it.
            let taken = self.rate.take(rate, now);
            debug_assert!(matches!(taken, Verdict::Passed { .. }), "{taken:?}");
        }
        self.reached = self.reached.max(turn.0);
        let reached = self.reached;
        let shelf = self.lines.get_mut(&tenant).expect("it was found above");
        let charged = shelf.share.begin(self.typical, reached);
        // Those who are equal take turns.
        self.began += 1;
        shelf.began = self.began;
        self.holding += 1;
        if let Way::Probing(None) = self.way {
            self.way = Way::Probing(Some(ready.seq));
        }
        Picked::One(ready, charged)
    }

    /// A tenant has its turn, where nobody waits for one.
    pub fn takes_turn(&mut self, tenant: &Arc<str>) {
        let reached = self.virtual_time();
        let Some(shelf) = self.lines.get_mut(tenant) else { return };
        if shelf.share.holding == 0 {
            shelf.share.lift(reached);
        }
        self.reached = self.reached.max(shelf.share.virtual_time());
        self.began += 1;
        shelf.began = self.began;
    }

    /// One of a tenant's is under way. What it is charged.
    pub fn adopt(&mut self, tenant: &Arc<str>) -> u64 {
        self.holding += 1;
        let reached = self.reached;
        let typical = self.typical;
        self.lines.get_mut(tenant).map_or(1, |shelf| shelf.share.begin(typical, reached))
    }

    /// How long its key has to wait; if it need not, that is spent.
    fn key_waits(&mut self, ready: &Ready, now: Tick) -> Option<Duration> {
        let (rate, lane) = (self.settings.per_key.rate.as_ref()?, ready.lane.as_ref()?);
        let key = (Arc::clone(&ready.line.tenant), Arc::clone(&lane.key));
        self.keys.take(key, rate, now).err()
    }

    /// Remembers it until then. `false`: there is no room.
    fn hold(&mut self, ready: Ready, until: Tick) -> bool {
        let Some(shelf) = self.lines.get_mut(&ready.line.tenant) else { return false };
        if self.held.len() >= HELD_MAX {
            // It is on disk, and met again when the line is read anew.
            shelf.look_anew();
            return false;
        }
        shelf.held += 1;
        self.held_seqs.insert(ready.seq);
        self.held.insert((until, ready.seq), ready);
        true
    }

    /// The next one whose key has waited long enough.
    pub fn released(&mut self, now: Tick) -> Option<Ready> {
        let first = self.held.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ready = first.remove();
        self.held_seqs.remove(&ready.seq);
        if let Some(shelf) = self.lines.get_mut(&ready.line.tenant) {
            shelf.held -= 1;
        }
        Some(ready)
    }

    /// An attempt that was charged so much has ended; `took`: `None`, if it was not made.
    pub fn ended(&mut self, tenant: &Arc<str>, seq: Seq, charged: u64, took: Option<Duration>) {
        self.holding = self.holding.saturating_sub(1);
        if self.way == Way::Probing(Some(seq)) {
            self.way = Way::Probing(None);
        }
        if let Some(took) = took {
            self.typical = learnt(self.typical, nanos(took));
            // As long as new tenants come, each beginning where the next one stands, all would stand.
            self.reached += virtual_of(nanos(took), 1) / (2 * u128::from(self.weights.max(1)));
        }
        let reached = self.reached;
        if let Some(shelf) = self.lines.get_mut(tenant) {
            match took {
                Some(took) => {
                    shelf.share.end(charged, took, reached);
                    // Of equals who began to wait meanwhile comes before who has just had its turn.
                    self.began += 1;
                    shelf.began = self.began;
                }
                None => shelf.share.give_back(charged),
            }
        }
    }

    /// One of a tenant's outruns what it was charged: this much more is.
    pub fn outran(&mut self, tenant: &Arc<str>, charge: u64) {
        let reached = self.reached;
        if let Some(shelf) = self.lines.get_mut(tenant) {
            shelf.share.charge(charge, reached);
        }
    }

    /// When something of it can be begun that cannot be now, by itself.
    pub fn wakes(&self) -> Option<Tick> {
        let waiting = self.has_any();
        let parked = match self.way {
            Way::Parked(until) if waiting => Some(until),
            _ => None,
        };
        let paced = self.not_before.filter(|_| waiting);
        let held = self.held.first_key_value().map(|(&(at, _), _)| at);
        [parked, paced, held].into_iter().flatten().min()
    }
}
