//! Self-protection, measured: memory and files of the process, the lateness of each core, who waits to be accepted.
//!
//! The control runtime looks at the process ten times a second, each core at itself. What they find is brought to
//! heights and stages by [`tidegate_model::protect`], to a level by [`tidegate_model::gate::level`], and told to the
//! [`Shield`], which the exchanges ask. Nothing here is on the path of a request.
//!
//! The control API has a runtime and file descriptors of its own: it answers whatever happens here.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::gate::level::{Level, Signals};
use tidegate_model::protect::{Brake, Stage, Standing, height, height_of_lag, per_weight, signal};
use tidegate_model::tenant::Tenants;
use tidegate_model::tick::Tick;
use tidegate_proxy::{CoreShield, Guard, Proxy, Shield};
use tidegate_wire::server::Server;
use tidegate_wire::{clock, files, task};

use crate::config::ProtectSettings;
use crate::wiring::Gate;

mod memory;

pub use memory::{Limit, files_of};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(100);
/// How often the limit is read again, in looks: a control group's may be changed while it runs.
const LIMIT_LOOKS: u32 = 50;
/// From this height on it is looked what each tenant holds.
const SHARES_FROM: f64 = 0.70;

/// What was measured last, for whoever asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readings {
    /// Bytes that the process takes.
    pub memory: u64,
    /// Bytes that it may take; 0: not watched.
    pub memory_limit: u64,
    /// The limit of open files; 0: it is not known.
    pub files_limit: usize,
}

/// Files that are open now. (Linux tells the number as the size of the directory since 6.2; before, they are counted.)
#[must_use]
pub fn open_files() -> usize {
    let directory = "/proc/self/fd";
    match std::fs::metadata(directory).map_or(0, |told| told.len()) {
        0 => std::fs::read_dir(directory).map_or(0, Iterator::count),
        told => usize::try_from(told).unwrap_or(usize::MAX),
    }
}

/// Connections that the kernel dropped as the list of those who wait to be accepted was full; of all processes of this
/// network.
#[must_use]
pub fn listen_overflows() -> u64 {
    overflows(&std::fs::read_to_string("/proc/self/net/netstat").unwrap_or_default()).unwrap_or(0)
}

/// Names and numbers stand in two lines, one below the other.
fn overflows(netstat: &str) -> Option<u64> {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split(' ').position(|name| name == "ListenOverflows")?;
    numbers.split(' ').nth(place)?.parse().ok()
}

/// Raises the limit of open files. To be called before anything is opened.
pub fn raise_files() {
    // What it is then is asked again below.
    let _ = files::raise_limit();
}

/// Shares out the open files, and looks at the process from now on. Must be called on the control runtime, once all is
/// open that stays open.
pub fn watch(gate: &Arc<Gate>) {
    if let Some(limit) = files::raise_limit() {
        files::share_out(limit, open_files());
        gate.readings.lock().files_limit = limit;
    }
    let mut watch = ProcessWatch::default();
    // The first look is now: no request comes before there are bounds.
    watch.look_at(gate);
    let gate = Arc::downgrade(gate);
    task::spawn(async move {
        loop {
            clock::sleep(LOOK).await;
            let Some(gate) = gate.upgrade() else { return };
            watch.look_at(&gate);
        }
    });
}

/// Looks at the process.
#[derive(Default)]
struct ProcessWatch {
    limit: Limit,
    looks: u32,
    brake: Brake,
    level: Level,
    told: (Stage, u8),
}

impl ProcessWatch {
    fn look_at(&mut self, gate: &Gate) {
        let settings = gate.config().protect;
        let now = clock::now();
        self.look(&settings, &gate.shield, &gate.standing.tenants, &gate.readings, now);
        // What is cached is a budget of its own: it must not be what the process runs short of memory for.
        let limit = gate.readings.lock().memory_limit;
        gate.standing.cache.spare(if limit == 0 { u64::MAX } else { limit / 2 });
        gate.standing.upstreams.look(settings.calm, now);
    }

    fn look(
        &mut self,
        settings: &ProtectSettings,
        shield: &Shield,
        tenants: &Tenants,
        readings: &Mutex<Readings>,
        now: Tick,
    ) {
        if self.looks.is_multiple_of(LIMIT_LOOKS) {
            self.limit = Limit::read();
        }
        self.looks = self.looks.wrapping_add(1);
        let most = settings.memory.unwrap_or(self.limit.bytes);
        let used = self.limit.used();
        {
            let mut readings = readings.lock();
            (readings.memory, readings.memory_limit) = (used, most);
        }
        shield.bound(settings.buffers.unwrap_or(most / 2), settings.lag);
        let (held, held_max) = shield.held();
        self.tell(settings, shield, tenants, height(used, most), height(held, held_max), now);
    }

    /// Makes of what was measured what is told. What bodies hold refuses bodies alone, and that when they come.
    fn tell(
        &mut self,
        settings: &ProtectSettings,
        shield: &Shield,
        tenants: &Tenants,
        memory: f64,
        bodies: f64,
        now: Tick,
    ) {
        let stage = self.brake.observe(memory, now);
        let lag = shield.cores().iter().map(|core| strain(core, settings.lag)).fold(0.0, f64::max);
        let signals = Signals { memory: signal(memory.max(bodies)), lag: signal(lag), ..Signals::default() };
        let level = self.level.observe(signals.pressure(), settings.calm, now);
        let short = memory.max(bodies) >= SHARES_FROM || stage > Stage::Calm;
        let share = if short { share_of(tenants) } else { u64::MAX };
        shield.tell(level, stage, share);
        let lagging = shield.cores().iter().map(CoreShield::stage).max().unwrap_or_default();
        self.log(stage.max(lagging), stage, level, memory, lag);
    }

    /// Says when it begins to refuse, refuses others, or ends to: what an operator must find in the log.
    fn log(&mut self, stage: Stage, memory_stage: Stage, level: u8, memory: f64, lag: f64) {
        let (before, _) = std::mem::replace(&mut self.told, (stage, level));
        if stage == before {
            return;
        }
        let short_of = if memory_stage == stage { "memory" } else { "time" };
        let (memory, lag) = ((memory * 1e3).round() / 1e3, (lag * 1e3).round() / 1e3);
        match stage {
            Stage::Calm => tracing::info!(level, memory, lag, "nobody is refused any more"),
            stage => {
                tracing::warn!(stage = stage.name(), short_of, level, memory, lag, "requests are refused")
            }
        }
    }
}

/// The bytes for each unit of weight, over all tenants that hold any.
fn share_of(tenants: &Tenants) -> u64 {
    let mut held = Vec::new();
    tenants.each(|tenant| held.push((tenant.held(), tenant.with_plan(|plan| plan.weight))));
    per_weight(held.into_iter())
}

/// How high a core stands, by its lateness or by who waits to be accepted.
fn strain(core: &CoreShield, most: Duration) -> f64 {
    if most.is_zero() { 0.0 } else { height_of_lag(core.lag(), most).max(core.backlog()) }
}

/// Looks at a core, on it, from now on.
pub fn watch_core(server: &Rc<Server<Proxy>>, guard: &Rc<Guard>) {
    let (server, guard) = (Rc::downgrade(server), Rc::clone(guard));
    task::spawn(async move {
        let mut watch = CoreWatch::default();
        loop {
            let due = clock::now().after(LOOK);
            clock::sleep_until(due).await;
            let Some(server) = server.upgrade() else { return };
            let now = clock::now();
            watch.look(guard.core(), now.since(due), server.backlog(), guard.shield().lag_max(), now);
            if guard.shield().memory() > Stage::Calm {
                crate::memory::collect(true);
            }
        }
    });
}

/// Looks at a core.
#[derive(Default)]
struct CoreWatch {
    lag: Standing,
    backlog: Standing,
    brake: Brake,
}

impl CoreWatch {
    /// It was late by so much, and the list of who waits to be accepted so full.
    fn look(&mut self, core: &CoreShield, late: Duration, backlog: f64, most: Duration, now: Tick) {
        let lag = self.lag.observe_time(late, now);
        let backlog = self.backlog.observe((backlog * 1e3) as u64, now) as f64 / 1e3;
        let height = if most.is_zero() { 0.0 } else { height_of_lag(lag, most).max(backlog) };
        core.tell(self.brake.observe(height, now), lag, backlog);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Duration = Duration::from_millis(400);

    fn at(millis: u64) -> Tick {
        Tick(millis * 1_000_000)
    }

    /// Looks at a core that is so late, in milliseconds, and whose list is so full, ten times a second, from the
    /// hundredth second on; then expects this stage.
    fn check(looks: &[(u64, f64)], expected: Stage) {
        let (shield, mut watch) = (Shield::new(1), CoreWatch::default());
        let mut now = at(100_000);
        for &(late, backlog) in looks {
            let late = Duration::from_millis(late);
            now = now.after(LOOK + late);
            watch.look(&shield.cores()[0], late, backlog, LAG, now);
        }
        assert_eq!(shield.cores()[0].stage(), expected, "{looks:?}");
    }

    #[test]
    fn a_core_that_is_late_all_the_time_refuses_and_one_that_stopped_once_does_not() {
        check(&[(1, 0.0); 20], Stage::Calm);
        check(&[(1, 0.0), (3_000, 0.0), (1, 0.0)], Stage::Calm);
        check(&[(250, 0.0); 6], Stage::Sheddable);
        check(&[(450, 0.0); 4], Stage::Default);
        check(&[(2_000, 0.0); 3], Stage::All);
        let over = [[(450, 0.0); 4].as_slice(), &[(1, 0.0); 14]].concat();
        check(&over, Stage::Calm);
    }

    #[test]
    fn a_list_that_stays_full_of_who_waits_to_be_accepted_refuses_and_a_burst_does_not() {
        check(&[[(0, 1.0); 4].as_slice(), &[(0, 0.0)], &[(0, 1.0); 4]].concat(), Stage::Calm);
        check(&[(0, 0.97); 15], Stage::All);
        check(&[(0, 0.5); 15], Stage::Calm);
    }

    #[test]
    fn a_core_that_is_not_watched_refuses_nobody() {
        let (shield, mut watch) = (Shield::new(1), CoreWatch::default());
        for step in 0..20 {
            let now = at(100_000 + step * 1_000);
            watch.look(&shield.cores()[0], Duration::from_secs(9), 1.0, Duration::ZERO, now);
        }
        assert_eq!(shield.cores()[0].stage(), Stage::Calm);
    }

    #[test]
    fn memory_raises_the_level_before_anybody_is_refused_and_calm_comes_back() {
        let settings = ProtectSettings { calm: Duration::from_millis(300), ..ProtectSettings::default() };
        let (shield, tenants, mut watch) = (Shield::new(1), Tenants::new(10), ProcessWatch::default());
        let mut look = |millis, memory| {
            watch.tell(&settings, &shield, &tenants, memory, 0.0, at(millis));
            (shield.level(), shield.memory())
        };
        assert_eq!(look(0, 0.5), (0, Stage::Calm));
        assert_eq!(look(100, 0.78), (0, Stage::Calm));
        assert_eq!(look(200, 0.78), (1, Stage::Calm));
        assert_eq!(look(300, 0.96).1, Stage::All);
        assert_eq!(look(400, 0.97), (2, Stage::All));
        assert_eq!([look(500, 0.98), look(600, 0.98)].map(|(level, _)| level), [3; 2]);
        let calm = (7..50).map(|step| look(step * 100, 0.2)).last();
        assert_eq!(calm, Some((0, Stage::Calm)));
    }

    #[test]
    fn the_kernel_tells_what_it_dropped() {
        let text = "IpExt: A B\nIpExt: 1 2\nTcpExt: X ListenOverflows Y\nTcpExt: 3 40 5\n";
        assert_eq!([overflows(text), overflows("TcpExt: X"), overflows("")], [Some(40), None, None]);
    }

    #[test]
    fn a_look_finds_what_the_process_takes_and_bounds_what_bodies_may() {
        let (shield, readings) = (Shield::new(1), Mutex::<Readings>::default());
        let settings = ProtectSettings { memory: Some(1 << 40), ..ProtectSettings::default() };
        ProcessWatch::default().look(&settings, &shield, &Tenants::new(10), &readings, at(1));
        let read = *readings.lock();
        assert!(read.memory > 0 && read.memory_limit == 1 << 40, "{read:?}");
        assert_eq!((shield.held(), shield.memory()), ((0, 1 << 39), Stage::Calm));
    }
}
