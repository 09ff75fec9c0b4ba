//! One side of a drill: applications, a gate before them, load on it, and what was seen meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tidegate_wire::task;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{App, Counts, Visits};
use crate::gate::{Beside, Gate, GateError};
use crate::load::{Act, Driven, Hostile, Load, Source};
use crate::metrics::Metrics;
use crate::postgres::{Pair, PostgresError};
use crate::stall::Stalls;

/// Between two looks at the gate and the applications.
const LOOK: Duration = Duration::from_millis(250);

/// What is tried on each side in the same way.
pub struct Setting<'a> {
    /// The binary that is examined.
    pub binary: &'a Path,
    /// What chance begins with.
    pub seed: u64,
    /// Another proxy in the place of the protected Tidegate.
    pub beside: Option<&'a Beside>,
    /// What all times of the drill are multiplied by: 1, or less where only counts matter.
    pub scale: f64,
}

/// One side before it is run.
pub struct Side {
    /// The applications.
    pub apps: Vec<Arc<App>>,
    /// The configuration, without listeners: made for these applications.
    pub config: String,
    /// Who asks.
    pub sources: Vec<Source>,
    /// Who means harm.
    pub hostile: Vec<Hostile>,
    /// Faults, and when.
    pub acts: Vec<Act>,
    /// The PostgreSQL that its store is in, if it is.
    pub postgres: Option<Arc<Pair>>,
    /// When the gate is killed, and started again at once.
    pub kills: Vec<Duration>,
    /// Whether it then finds its store empty: what a queue in memory is left with.
    pub forgets: bool,
    /// How long, in seconds.
    pub seconds: f64,
    /// How long, at most, it is then waited until no delivery waits or is under way any more.
    pub drain: Duration,
}

/// What was seen at a moment of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Seconds from its start.
    pub at: f64,
    /// Requests waiting at the gate. Not a number: it did not say.
    pub gate_waiting: f64,
    /// Slots of the gate. Not a number: it has no limit, or did not say.
    pub gate_slots: f64,
    /// Tries that the gate has sent so far.
    pub gate_tries: f64,
    /// Deliveries that have not ended. Not a number: it has no queue, or did not say.
    pub gate_deliveries: f64,
    /// Bytes of memory that the gate takes. Not a number: it did not say.
    pub gate_memory: f64,
    /// Requests waiting within the applications.
    pub app_waiting: usize,
    /// Requests that the applications work on.
    pub app_busy: usize,
    /// Slot time, in seconds, that the applications have spent so far on requests that somebody waited for.
    pub app_useful: f64,
    /// Seconds that one thread of the gate, the load or the applications had waited for a processor since the last look, at
    /// most.
    pub stalled: f64,
}

/// One side after it was run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its whole configuration.
    pub config: String,
    /// What became of the load.
    pub driven: Driven,
    /// What was seen meanwhile.
    pub samples: Vec<Sample>,
    /// What the applications saw, in all.
    pub apps: Vec<Counts>,
    /// What they saw of each request, by the number that it has there, all of them together.
    pub visits: HashMap<u64, Visits>,
    /// When the gate was killed.
    pub kills: Vec<Tick>,
    /// What the gate said at the end. Nothing, if it did not answer.
    pub metrics: Metrics,
}

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No gate.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// No PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// No application, no runtime.
    #[error("a drill cannot be set up: {0}")]
    Io(#[from] std::io::Error),
    /// The gate ended under load.
    #[error("Tidegate ended in the middle of the drill; it says:\n{0}")]
    Ended(String),
    /// The user had enough.
    #[error("interrupted")]
    Interrupted,
}

impl Side {
    /// Runs it.
    ///
    /// # Errors
    /// [`RunError`]: what could not be started, or ended too soon.
    pub fn run(self, setting: &Setting<'_>) -> Result<Run, RunError> {
        let whole = whole(&self.config);
        let addresses: Vec<SocketAddr> = self.apps.iter().map(|app| app.address()).collect();
        let gate = match setting.beside {
            None => Gate::start(setting.binary, &whole)?,
            Some(beside) => Gate::beside(beside, &addresses)?,
        };
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let stalls = gate.process().map(Stalls::of);
        let stage = Stage::new(gate);
        let mut acts = self.acts;
        acts.extend(self.kills.into_iter().map(|at| (at, stage.killing(self.forgets))));
        let load = Load {
            address: Rc::clone(&stage.address),
            sources: self.sources,
            hostile: self.hostile,
            acts,
            length: Duration::from_secs_f64(self.seconds),
            seed: setting.seed,
        };
        let (apps, watched) = (self.apps.clone(), Rc::clone(&stage));
        let (driven, samples, metrics) = runtime.block_on(async move {
            let samples = Rc::new(RefCell::new(Vec::new()));
            let (watching, watcher) = (Rc::clone(&samples), Rc::clone(&watched));
            task::spawn(async move { watch(&watcher, &apps, stalls, &watching).await });
            let (mut stop, mut end) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            let driving = async {
                let driven = load.drive().await;
                let samples = samples.borrow().clone();
                (driven, samples, watched.drained(self.drain).await)
            };
            tokio::select! {
                driven = driving => Ok(driven),
                _ = stop.recv() => Err(RunError::Interrupted),
                _ = end.recv() => Err(RunError::Interrupted),
            }
        })?;
        drop(runtime);
        if let Some(error) = stage.failed.take() {
            return Err(error.into());
        }
        let mut gate = stage.gate.borrow_mut();
        if gate.has_ended() {
            return Err(RunError::Ended(gate.said()));
        }
        let mut visits = HashMap::new();
        self.apps.iter().for_each(|app| gather(&mut visits, app.visits()));
        let apps = self.apps.iter().map(|app| app.counts()).collect();
        Ok(Run { config: whole, driven, samples, apps, visits, kills: stage.kills.take(), metrics })
    }
}

/// What all applications saw of each request.
fn gather(all: &mut HashMap<u64, Visits>, of_one: HashMap<u64, Visits>) {
    for (number, visits) in of_one {
        all.entry(number).and_modify(|before| before.add(&visits)).or_insert(visits);
    }
}

/// The gate while there is load on it.
struct Stage {
    gate: RefCell<Gate>,
    /// Where it serves now.
    address: Rc<Cell<SocketAddr>>,
    kills: RefCell<Vec<Tick>>,
    /// Why it did not come back.
    failed: RefCell<Option<GateError>>,
}

impl Stage {
    fn new(gate: Gate) -> Rc<Stage> {
        let address = Rc::new(Cell::new(gate.address));
        Rc::new(Stage {
            gate: RefCell::new(gate),
            address,
            kills: RefCell::default(),
            failed: RefCell::default(),
        })
    }

    /// Kills it, and starts it again. One that is not back yet cannot be killed.
    fn killing(self: &Rc<Stage>, forgets: bool) -> Box<dyn FnOnce()> {
        let stage = Rc::clone(self);
        Box::new(move || {
            let mut gate = stage.gate.borrow_mut();
            if gate.process().is_none() {
                return;
            }
            stage.kills.borrow_mut().push(clock::now());
            gate.kill(forgets);
            let (told, stage) = (gate.start_again(), Rc::clone(&stage));
            task::spawn(async move {
                match told.await {
                    Ok(Ok(process)) => {
                        let mut gate = stage.gate.borrow_mut();
                        gate.take(process);
                        stage.address.set(gate.address);
                    }
                    Ok(Err(error)) => *stage.failed.borrow_mut() = Some(error),
                    // Its thread panicked, and has said so.
                    Err(_) => {}
                }
            });
        })
    }

    async fn metrics(&self) -> Option<Metrics> {
        let control = self.gate.borrow().control;
        Metrics::ask(control, LOOK).await
    }

    /// Waits so long, at most, until no delivery waits or is under way. What the gate said last.
    async fn drained(&self, patience: Duration) -> Metrics {
        let (by, mut last, mut before) = (clock::now().after(patience), Metrics::default(), f64::NAN);
        loop {
            let mut waiting = f64::NAN;
            if let Some(metrics) = self.metrics().await {
                (waiting, last) = (metrics.waiting(), metrics);
            }
            // Twice: what it says may be a moment old.
            if clock::now() > by || (waiting == 0.0 && before == 0.0) {
                return last;
            }
            before = waiting;
            clock::sleep(LOOK).await;
        }
    }
}

/// The whole configuration: listeners and control API on loopback, no log that the disk would be measured by.
fn whole(config: &str) -> String {
    format!(
        "[listen]\nhttp = [\"127.0.0.1:0\"]\ntrusted_proxies = [\"127.0.0.0/8\"]\n\n\
         [control]\nlisten = [\"127.0.0.1:0\"]\n\n[log]\naccess = \"off\"\nlevel = \"error\"\n\n{}\n",
        config.trim()
    )
}

/// Looks again and again, until the runtime ends.
async fn watch(stage: &Stage, apps: &[Arc<App>], mut stalls: Option<Stalls>, samples: &RefCell<Vec<Sample>>) {
    let begin = clock::now();
    let mut due = begin;
    loop {
        clock::sleep_until(due).await;
        due = due.after(LOOK);
        let metrics = stage.metrics().await;
        let of = |name: &str| metrics.as_ref().map_or(f64::NAN, |metrics| metrics.sum(name));
        let counts: Vec<Counts> = apps.iter().map(|app| app.counts()).collect();
        samples.borrow_mut().push(Sample {
            at: clock::now().since(begin).as_secs_f64(),
            gate_waiting: of("tidegate_upstream_waiting"),
            gate_slots: of("tidegate_upstream_slots"),
            gate_tries: of("tidegate_upstream_tries_total"),
            gate_deliveries: metrics.as_ref().map_or(f64::NAN, Metrics::waiting),
            gate_memory: of("tidegate_memory_bytes"),
            app_waiting: counts.iter().map(|counts| counts.waiting).sum(),
            stalled: stalls.as_mut().map_or(0.0, Stalls::longest),
            app_busy: counts.iter().map(|counts| counts.busy).sum(),
            app_useful: counts
                .iter()
                .map(|counts| (counts.worked_time - counts.wasted_time).as_secs_f64())
                .sum(),
        });
    }
}

impl Run {
    /// The same count of all applications together.
    #[must_use]
    pub fn sum(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        self.apps.iter().map(count).sum()
    }

    /// How many slots of the applications did work that somebody waited for, on average over a span of seconds: goodput,
    /// weighed by what each answer takes. Where service times are drawn, answers per second differ by some hundredths by chance
    /// alone; this does not.
    #[must_use]
    pub fn useful(&self, seconds: &std::ops::Range<f64>) -> f64 {
        let within: Vec<&Sample> =
            self.samples.iter().filter(|sample| seconds.contains(&sample.at)).collect();
        match within[..] {
            [first, .., last] => (last.app_useful - first.app_useful) / (last.at - first.at).max(1e-9),
            _ => 0.0,
        }
    }

    /// Share of the applications' work that was for nobody.
    #[must_use]
    pub fn wasted(&self) -> f64 {
        let worked: f64 = self.apps.iter().map(|counts| counts.worked_time.as_secs_f64()).sum();
        let wasted: f64 = self.apps.iter().map(|counts| counts.wasted_time.as_secs_f64()).sum();
        if worked > 0.0 { wasted / worked } else { 0.0 }
    }

    /// Tries that the gate had sent when it was last asked. Not a number: it never said.
    #[must_use]
    pub fn tries(&self) -> f64 {
        self.samples.iter().map(|sample| sample.gate_tries).fold(f64::NAN, f64::max)
    }

    /// The longest line within the applications.
    #[must_use]
    pub fn line_most(&self) -> usize {
        self.apps.iter().map(|counts| counts.waiting_most).max().unwrap_or(0)
    }
}
