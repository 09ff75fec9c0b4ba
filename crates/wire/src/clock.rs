//! The one home of time: the monotonic clock as [`Tick`]s, the wall clock, and waiting.

use std::cell::Cell;
use std::future::Future;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use tidegate_model::cache::Wall;
use tidegate_model::tick::{Tick, nanos};
use tokio::time;

/// Ticks begin this long before the first one is asked for, so that "an hour ago" is a tick too.
const BEFORE_START: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn origin() -> Instant {
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
    #[expect(clippy::disallowed_methods, reason = "this is time's one home")]
    let now = Tick(nanos(Instant::now().saturating_duration_since(origin())));
    LATEST.set(now);
    now
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

/// Waits for a future until this tick.
///
/// # Errors
/// [`Elapsed`], when the tick came first.
pub async fn timeout_at<F: Future>(tick: Tick, future: F) -> Result<F::Output, Elapsed> {
    time::timeout_at(instant(tick), future).await.map_err(|_| Elapsed)
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
}
