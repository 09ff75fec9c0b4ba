//! The one home of time: the monotonic clock as [`Tick`]s, the wall clock, and waiting.

use std::cell::Cell;
use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use futures_util::TryFutureExt as _;
use tidegate_model::cache::Wall;
use tidegate_model::tick::{Tick, nanos};
use tokio::time;

/// Ticks begin this long before the first one is asked for, so that "an hour ago" is a tick too.
const BEFORE_START: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn origin() -> Instant {
    #[cfg(debug_assertions)]
    if let Some((origin, _)) = simulated::SIMULATED.get() {
        return origin;
    }
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "this is time's one home")]
    *ORIGIN.get_or_init(|| Instant::now().checked_sub(BEFORE_START).unwrap_or_else(Instant::now))
}

thread_local! {
    static LATEST: Cell<Tick> = const { Cell::new(Tick(0)) };
    /// The second of the wall clock, and until when it is that.
    static LATEST_WALL: Cell<(Tick, Wall)> = const { Cell::new((Tick(0), Wall(0))) };
}

/// Now, on the monotonic clock.
#[expect(clippy::must_use_candidate, reason = "looking is enough: see `latest`")]
pub fn now() -> Tick {
    #[cfg(debug_assertions)]
    if let Some((now, _)) = simulated::STANDING.get() {
        LATEST.set(now);
        return now;
    }
    let now = Tick(nanos(instant_now().saturating_duration_since(origin())));
    LATEST.set(now);
    now
}

#[expect(clippy::disallowed_methods, reason = "this is time's one home")]
fn instant_now() -> Instant {
    #[cfg(debug_assertions)]
    if simulated::SIMULATED.get().is_some() {
        return time::Instant::now().into_std();
    }
    Instant::now()
}

/// The time when the clock was last looked at on this thread. [`crate::task`] looks each time a task is polled: within a
/// task this is the time of its present turn, and costs next to nothing.
#[must_use]
pub fn latest() -> Tick {
    match LATEST.get() {
        Tick(0) => now(),
        latest => latest,
    }
}

/// Now, on the wall clock.
#[must_use]
pub fn wall() -> SystemTime {
    #[cfg(debug_assertions)]
    if let Some((_, wall)) = simulated::STANDING.get() {
        return wall;
    }
    #[cfg(debug_assertions)]
    if let Some((origin, wall)) = simulated::SIMULATED.get() {
        return wall + instant_now().saturating_duration_since(origin);
    }
    #[expect(clippy::disallowed_methods, reason = "this is time's one home")]
    SystemTime::now()
}

/// The second of the wall clock in the present turn of a task, as [`latest`] is its tick. The wall clock is looked at once a
/// second on each thread: whoever sets it is heard within that.
#[must_use]
pub fn latest_wall() -> Wall {
    let tick = latest();
    let (until, second) = LATEST_WALL.get();
    if tick < until {
        return second;
    }
    let wall = wall();
    let second = Wall::of(wall);
    let into = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    LATEST_WALL.set((tick.after(SECOND - Duration::from_nanos(u64::from(into))), second));
    second
}

/// The same moment for tokio's timers. [`Tick::MAX`] and whatever lies too far ahead becomes thirty years.
#[must_use]
pub fn instant(tick: Tick) -> time::Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    let ahead = tick.since(Tick(0)).min(FAR);
    time::Instant::from_std(origin() + ahead)
}

/// Microseconds of the machine's monotonic clock, as others on it read it too.
#[must_use]
pub fn machine_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    part(now.tv_sec).saturating_mul(1_000_000) + part(now.tv_nsec) / 1000
}

/// Waits until this tick.
pub async fn sleep_until(tick: Tick) {
    time::sleep_until(instant(tick)).await;
}

/// Waits this long.
pub async fn sleep(wait: Duration) {
    time::sleep(wait).await;
}

/// The tick came before the future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("time is up")]
pub struct Elapsed;

/// Waits for a future until this tick. No `async fn`: that would hold the future twice, as what it was given and as what it
/// waits for, and so each around another. So it is called where there is a runtime already, and not as what that is to run.
///
/// # Errors
/// [`Elapsed`], when the tick came first.
pub fn timeout_at<F: Future>(tick: Tick, future: F) -> impl Future<Output = Result<F::Output, Elapsed>> {
    time::timeout_at(instant(tick), future).map_err(|_| Elapsed)
}

/// Time that a test makes: on its thread alone, and in no binary that is built for release.
#[cfg(debug_assertions)]
pub mod simulated {
    use std::cell::Cell;
    use std::time::{Instant, SystemTime};

    use tidegate_model::tick::Tick;

    thread_local! {
        /// When tick zero was, and what the wall clock said then.
        pub(super) static SIMULATED: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
        /// What it is as long as nobody says otherwise.
        pub(super) static STANDING: Cell<Option<(Tick, SystemTime)>> = const { Cell::new(None) };
    }

    /// On this thread it is now this tick, and so late by the wall clock. From here on both follow tokio's clock, which is to
    /// be paused. To be called again to set the wall clock, and on each runtime.
    ///
    /// # Panics
    /// Where the tick lies before the machine's own time began.
    #[expect(clippy::disallowed_methods, reason = "this is time's one home")]
    pub fn begin(now: Tick, wall: SystemTime) {
        let passed = now.since(Tick(0));
        let origin = tokio::time::Instant::now().into_std().checked_sub(passed);
        SIMULATED.set(Some((origin.expect("the machine has run for longer"), wall - passed)));
        super::LATEST.set(now);
        super::LATEST_WALL.set((Tick(0), super::Wall(0)));
    }

    /// On this thread it is now this tick, and so late by the wall clock, and stays so until this is called again: for a thread
    /// that does what another one, of which the time is, waits for. What it waits for itself is in the machine's time: a
    /// server that does not answer is found out.
    ///
    /// # Panics
    /// Where the tick lies before the machine's own time began.
    #[expect(clippy::disallowed_methods, reason = "this is time's one home")]
    pub fn stand(now: Tick, wall: SystemTime) {
        let passed = now.since(Tick(0));
        let origin = Instant::now().checked_sub(passed).expect("the machine has run for longer");
        SIMULATED.set(Some((origin, wall - passed)));
        STANDING.set(Some((now, wall)));
        super::LATEST.set(now);
        super::LATEST_WALL.set((Tick(0), super::Wall(0)));
    }

    /// Time on this thread is the machine's again.
    pub fn end() {
        SIMULATED.set(None);
        STANDING.set(None);
        super::LATEST.set(Tick(0));
        super::LATEST_WALL.set((Tick(0), super::Wall(0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_never_go_back_and_have_an_hour_behind_them() {
        let first = now();
        assert!(first >= Tick(nanos(BEFORE_START)) || first.0 > 0);
        assert!(now() >= first);
    }

    #[test]
    fn the_latest_second_is_that_of_the_wall_clock() {
        let (second, told) = loop {
            let before = Wall::of(wall());
            now();
            let told = latest_wall();
            // It may have ended in between.
            if Wall::of(wall()) == before {
                break (before, told);
            }
        };
        assert_eq!(told, second);
        assert_eq!(latest_wall(), told, "and stays so in this turn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_is_ready_wins_against_any_tick() {
        assert_eq!(timeout_at(Tick(0), async { 7 }).await, Ok(7));
        assert_eq!(timeout_at(now(), std::future::pending::<()>()).await, Err(Elapsed));
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_time_follows_the_paused_clock_alone() {
        let wall_at = SystemTime::UNIX_EPOCH + SECOND;
        simulated::begin(Tick(5), wall_at);
        assert_eq!((now(), wall()), (Tick(5), wall_at));
        sleep(SECOND * 60).await;
        assert_eq!((now(), wall()), (Tick(5).after(SECOND * 60), wall_at + SECOND * 60));
        simulated::begin(now(), wall_at);
        assert_eq!((now(), wall()), (Tick(5).after(SECOND * 60), wall_at), "it was set back");
        simulated::end();
        assert!(wall() > wall_at + SECOND * 120);
    }

    #[tokio::test]
    async fn time_that_stands_stays_so_and_is_waited_for_all_the_same() {
        let (tick, wall_at) = (Tick(0).after(SECOND * 7), SystemTime::UNIX_EPOCH + SECOND);
        simulated::stand(tick, wall_at);
        let soon = Duration::from_millis(2);
        assert_eq!(timeout_at(now().after(soon), std::future::pending::<()>()).await, Err(Elapsed));
        sleep(soon).await;
        assert_eq!((now(), latest(), wall()), (tick, tick, wall_at));
        simulated::stand(tick.after(SECOND), wall_at);
        assert_eq!((now(), wall()), (tick.after(SECOND), wall_at));
        simulated::end();
        assert!(wall() > wall_at + SECOND * 120);
    }
}
