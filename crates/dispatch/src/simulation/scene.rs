//! What outlives a process: the disk, the time, those who hand deliveries in and come for them, and what has happened.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tidegate_model::delivery::{Id, Ms};
use tidegate_model::tick::Tick;
use tidegate_store::deliveries::{Promise, Ready};
use tidegate_wire::clock;
use tokio::sync::Notify;

use super::disk::Disk;
use super::history::{Asked, Event, History, Went, What};
use super::plan::{LATENCY_MAX, Plan, STORM, below, percent};
use super::workers::Work;
use crate::chance::Chance;

/// When it all begins, on either clock.
pub const BEGIN: (Tick, Duration) = (Tick(3_600_000_000_000), Duration::from_secs(1_800_000_000));

/// What is done wrong on purpose, so that a rule that is to see it can be seen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// What was on disk at a death is lost, back to the commit before the last so many. On a server: of so many commits one is undone,
    /// and told to be done.
    LosesCommits(usize),
    /// In a directory: what is on disk ahead of the tables is lost at a death.
    LosesAhead,
    /// On a server: who stood still is taken for the owner when it goes on.
    IgnoresFence,
    /// On a server: what was committed when a connection was lost is taken for undone.
    ForgetsDoubt,
    /// The operator's pauses reach nobody.
    IgnoresPauses,
    /// The application is asked twice each time.
    AsksTwice,
    /// What was begun as it was accepted is told to nobody.
    ForgetsBegun,
}

/// What outlives a process.
pub struct Scene {
    pub plan: Plan,
    pub chance: Chance,
    pub sabotage: Sabotage,
    pub history: RefCell<History>,
    /// Batches that were handed in and told of.
    pub taken: RefCell<BTreeSet<usize>>,
    /// What a batch came to be when it was first handed in.
    pub promises: RefCell<Vec<Option<Vec<Promise>>>>,
    /// Acts that were told to be done.
    pub acted: RefCell<BTreeSet<usize>>,
    /// What each worker has.
    pub held: RefCell<Vec<VecDeque<Work>>>,
    /// Those that were accepted, in that order.
    pub accepted: RefCell<Vec<Id>>,
    pub process: Cell<u32>,
    /// Whether the process lives: what one that is dead does is seen by nobody.
    pub alive: Cell<bool>,
    /// Nothing fails, and nobody dies.
    pub quiet: Cell<bool>,
    pub died: Notify,
    moments: Cell<u64>,
    now: Cell<(Tick, SystemTime)>,
    pub disk: Disk,
}

impl Scene {
    pub fn new(plan: Plan, chance: Chance, sabotage: Sabotage, disk: Disk) -> Rc<Scene> {
        // What was sent when a connection was lost is sent again by the next one.
        let losing = disk.server().is_some_and(|server| server.losing > 0);
        let history = History {
            queues: plan.queues.clone(),
            unconfigured: plan.unconfigured(),
            latency: if losing { 3 * LATENCY_MAX } else { LATENCY_MAX },
            jumps: plan.jumps,
            ..History::default()
        };
        let batches = plan.batches.len();
        Rc::new(Scene {
            plan,
            chance,
            sabotage,
            history: RefCell::new(history),
            taken: RefCell::default(),
            promises: RefCell::new(vec![None; batches]),
            acted: RefCell::default(),
            held: RefCell::new((0..3).map(|_| VecDeque::new()).collect()),
            accepted: RefCell::default(),
            process: Cell::new(0),
            alive: Cell::new(false),
            quiet: Cell::new(true),
            died: Notify::new(),
            moments: Cell::new(0),
            now: Cell::new((BEGIN.0, SystemTime::UNIX_EPOCH + BEGIN.1)),
            disk,
        })
    }

    /// Time goes on where it was left. To be called on the runtime of a new process.
    pub fn take_up_time(&self) {
        let (tick, wall) = self.now.get();
        clock::simulated::begin(tick, wall);
    }

    /// The process is gone for so long.
    pub fn leave_time(&self, down: Duration) {
        self.now.set((clock::now().after(down), clock::wall() + down));
    }

    /// Milliseconds since the beginning.
    pub fn passed(&self) -> Ms {
        clock::now().since(BEGIN.0).as_millis() as Ms
    }

    /// The tick of this millisecond.
    pub fn tick(&self, at: Ms) -> Tick {
        BEGIN.0.after(Duration::from_millis(at))
    }

    pub fn is_calm(&self) -> bool {
        self.passed() > STORM
    }

    /// Notes what has happened, as long as there is somebody whom it can happen to.
    pub fn note(&self, what: What) {
        if self.alive.get() {
            self.note_anyway(what);
        }
    }

    pub fn note_anyway(&self, what: What) {
        let (at, wall, process) = (self.passed(), crate::engine::wall(), self.process.get());
        self.history.borrow_mut().events.push(Event { at, wall, process, what });
    }

    pub fn asks(&self, promise: &Promise) {
        let mut history = self.history.borrow_mut();
        history.asked.push(Asked {
            id: promise.id,
            due: promise.due,
            expires: promise.expires,
            attempts_max: promise.attempts_max,
            is_unique: promise.unique.is_some(),
            after: promise.after.clone(),
            callback: promise.callback.as_ref().map(|callback| callback.id),
        });
    }

    /// A moment at which a death matters: perhaps it is the last. What comes after it is then never done.
    pub async fn moment(&self) {
        self.pass_moment();
        self.end_if_dead().await;
    }

    /// The same, for who does something yet where it was the last.
    pub fn pass_moment(&self) {
        if self.quiet.get() || !self.alive.get() {
            return;
        }
        self.moments.set(self.moments.get() + 1);
        if self.plan.deaths.contains(&self.moments.get()) && !self.is_calm() {
            self.alive.set(false);
            self.died.notify_one();
        }
    }

    /// Of a process that is dead nothing goes on.
    pub async fn end_if_dead(&self) {
        if !self.alive.get() {
            std::future::pending::<()>().await;
        }
    }

    /// Moments so far.
    pub fn moments(&self) -> u64 {
        self.moments.get()
    }

    /// How long a batch is on its way to disk.
    pub fn latency(&self) -> Duration {
        let most = if percent(&self.chance, 3) { LATENCY_MAX } else { 12 };
        Duration::from_millis(below(&self.chance, most))
    }

    /// How the application answers.
    pub fn application(&self) -> (Went, Duration) {
        let (bad, never) =
            if self.is_calm() { (0, 0) } else { (self.plan.failing.0, self.plan.failing.0 / 12) };
        let dice = below(&self.chance, 100);
        let went = match () {
            () if dice < never => Went::Never,
            () if dice < bad => Went::Badly,
            () => Went::Well,
        };
        let slow = if percent(&self.chance, 5) { 2_900 } else { 120 };
        (went, Duration::from_millis(below(&self.chance, slow)))
    }
}

/// Notes an attempt that the application sees, and its end: also where it is broken off.
pub struct Seen {
    scene: Rc<Scene>,
    id: Id,
    attempt: u32,
    went: Went,
}

impl Seen {
    pub fn begin(scene: &Rc<Scene>, ready: &Ready) -> Seen {
        let attempt = ready.attempts + 1;
        scene.note(What::Began {
            id: ready.id,
            seq: ready.seq,
            attempt,
            line: ready.line.clone(),
            key: ready.lane.as_ref().map(|lane| lane.key.clone()),
        });
        Seen { scene: Rc::clone(scene), id: ready.id, attempt, went: Went::BrokenOff }
    }

    pub fn end(mut self, went: Went) {
        self.went = went;
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.scene.note(What::Ended { id: self.id, attempt: self.attempt, went: self.went });
    }
}
