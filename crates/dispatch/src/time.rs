//! What time it is for deliveries: the wall clock, carried by the monotonic one over its jumps.
//!
//! Schedules follow the wall clock, but what has been begun must not lapse, nor what waits stand still, because somebody set
//! it. So it follows forward at once (a machine that slept must make what came due meanwhile), and never goes back: where
//! the wall clock was set back, time goes on at half its pace until the wall clock has caught up. A pause of seconds takes
//! twice as long then, and nothing an hour. Leases are watched by the monotonic clock alone.

use tidegate_model::delivery::Ms;
use tidegate_model::tick::Tick;

const NANOS: u64 = 1_000_000;

/// The time of this process.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The last time that was told, in nanoseconds since the Unix epoch.
    last: u64,
    at: Tick,
}

impl Clock {
    /// It begins with what the wall clock says.
    #[must_use]
    pub fn new(wall: Ms, now: Tick) -> Clock {
        Clock { last: wall.saturating_mul(NANOS), at: now }
    }

    /// It is this late already, or later: whoever came before has seen it.
    pub fn reach(&mut self, time: Ms) {
        self.last = self.last.max(time.saturating_mul(NANOS));
    }

    /// The time, where the wall clock says `wall`.
    pub fn tell(&mut self, wall: Ms, now: Tick) -> Ms {
        let passed = now.0.saturating_sub(self.at.0);
        let (steady, wall) = (self.last.saturating_add(passed), wall.saturating_mul(NANOS));
        // It tells whole milliseconds, and so is up to one behind.
        let is_behind = wall.saturating_add(NANOS) < steady;
        self.last = if is_behind { wall.max(self.last.saturating_add(passed / 2)) } else { wall.max(steady) };
        self.at = self.at.max(now);
        self.last / NANOS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Ms = 3_600_000;

    fn check(steps: &[(Ms, u64, Ms)]) {
        let mut clock = Clock::new(10 * HOUR, Tick(0));
        for &(wall, passed, expected) in steps {
            assert_eq!(clock.tell(wall, Tick(passed * NANOS)), expected, "{wall} {passed}");
        }
    }

    #[test]
    fn it_follows_the_wall_clock_forward_at_once() {
        check(&[
            (10 * HOUR + 5, 5, 10 * HOUR + 5),
            (11 * HOUR, 6, 11 * HOUR),
            (11 * HOUR + 9, 15, 11 * HOUR + 9),
        ]);
    }

    #[test]
    fn set_back_it_goes_on_slowly_until_the_wall_clock_has_caught_up() {
        check(&[
            (9 * HOUR, 0, 10 * HOUR),
            (9 * HOUR + 1_000, 1_000, 10 * HOUR + 500),
            (10 * HOUR, HOUR, 10 * HOUR + HOUR / 2),
            (11 * HOUR, 2 * HOUR, 11 * HOUR),
            (12 * HOUR, 3 * HOUR, 12 * HOUR),
        ]);
    }

    #[test]
    fn what_another_has_seen_is_not_told_again() {
        let mut clock = Clock::new(9 * HOUR, Tick(0));
        clock.reach(8 * HOUR);
        assert_eq!(clock.tell(9 * HOUR, Tick(0)), 9 * HOUR);
        clock.reach(10 * HOUR);
        assert_eq!(clock.tell(9 * HOUR, Tick(0)), 10 * HOUR);
        assert_eq!(clock.tell(9 * HOUR + 1_000, Tick(1_000 * NANOS)), 10 * HOUR + 500);
    }

    #[test]
    fn asked_at_every_moment_it_loses_none() {
        let mut clock = Clock::new(0, Tick(0));
        for micros in 0..50_000_u64 {
            let told = clock.tell(micros / 1_000, Tick(micros * 1_000));
            assert!(told.abs_diff(micros / 1_000) <= 1, "{told} {micros}");
        }
    }
}
