//! Schedules: the times at which a delivery is made again and again.
//!
//! A cron line has the fields minute, hour, day of the month, month, day of the week, and may begin with seconds; it is meant
//! in a time zone (`croner` reads it, `jiff` knows the zones, as they were when Tidegate was built). Where a clock is put
//! forward or back, as Vixie's cron has it and the Open Cron Pattern Specification:
//!
//! - A line with `*` or a step in its minutes or hours runs as the clock on the wall shows: not in an hour that is skipped,
//!   and in both of one that comes twice.
//! - A line with fixed minutes and hours runs once a day: right after the hour that is skipped, and in the first of the two.
//!
//! What always holds: a run is told by its own time, never by when somebody looked. So two who look at the same schedule
//! name the same runs, and whoever makes them can tell one from another. Times only go forward from the last one that
//! was seen: a clock that is put back makes no run twice.
//!
//! What it does not do: it knows no leap seconds, and no calendar of holidays.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};

use crate::delivery::Ms;

/// Runs that are made up for at once.
pub const MISSED_MAX: usize = 100;
/// How late a run may be begun that counts as made in time.
pub const LATE_MAX: Ms = 60_000;
/// The most characters of a cron line.
pub const CRON_BYTES_MAX: usize = 256;

/// The times of a schedule.
#[derive(Clone, Debug)]
pub struct Times {
    cron: Cron,
    zone: TimeZone,
}

/// Why a schedule cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The line cannot be read.
    #[error("{0}")]
    Cron(String),
    /// Its time never comes.
    #[error("this time never comes")]
    Never,
    /// There is no such zone.
    #[error("there is no time zone `{0}`: write a name such as \"Europe/Berlin\", or \"UTC\"")]
    Zone(String),
}

/// What becomes of runs whose time has passed while nobody was there to make them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missed {
    /// They are left out.
    Skip,
    /// The last of them is made.
    #[default]
    Once,
    /// Each is made, [`MISSED_MAX`] of them at most: the last ones.
    All,
}

impl Missed {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Missed::Skip => "skip",
            Missed::Once => "once",
            Missed::All => "all",
        }
    }
}

impl Times {
    /// Reads a cron line and the name of a time zone.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(cron: &str, zone: &str) -> Result<Times, Wrong> {
        let zone = Times::zone(zone)?;
        if cron.len() > CRON_BYTES_MAX {
            return Err(Wrong::Cron(format!("a cron line has at most {CRON_BYTES_MAX} characters")));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(cron).map_err(|error| Wrong::Cron(said(&error.to_string())))?;
        let times = Times { cron, zone };
        // The 29th of February comes within eight years of any time, the 30th in none.
        times.next(0).map(|_| times).ok_or(Wrong::Never)
    }

    /// The zone of this name.
    ///
    /// # Errors
    /// [`Wrong::Zone`].
    pub fn zone(name: &str) -> Result<TimeZone, Wrong> {
        TimeZoneDatabase::bundled().get(name).map_err(|_| Wrong::Zone(name.to_owned()))
    }

    /// The first time after this one.
    #[must_use]
    pub fn next(&self, after: Ms) -> Option<Ms> {
        let found = self.cron.find_next_occurrence(&self.at(after)?, false).ok()?;
        ms(&found).filter(|next| *next > after)
    }

    /// The last time until this one, itself included.
    fn last(&self, until: Ms) -> Option<Ms> {
        // What is found before a time is so by whole seconds: a time of its own second counts from its beginning.
        let found = self.cron.find_previous_occurrence(&self.at(until - until % 1_000)?, true).ok()?;
        ms(&found)
    }

    fn at(&self, time: Ms) -> Option<Zoned> {
        let time = Timestamp::from_millisecond(i64::try_from(time).ok()?).ok()?;
        Some(time.to_zoned(self.zone.clone()))
    }

    /// The runs whose time has come since that of the last one that was seen, in their order.
    #[must_use]
    pub fn due(&self, seen: Ms, now: Ms, missed: Missed) -> Vec<Ms> {
        let most = if missed == Missed::All { MISSED_MAX } else { 1 };
        let (mut runs, mut until) = (Vec::new(), now);
        while runs.len() < most {
            match self.last(until).filter(|run| *run > seen) {
                Some(run) => {
                    runs.push(run);
                    let Some(before) = run.checked_sub(1_000) else { break };
                    until = before;
                }
                None => break,
            }
        }
        if missed == Missed::Skip {
            runs.retain(|run| now - run <= LATE_MAX);
        }
        runs.reverse();
        runs
    }
}

fn ms(time: &Zoned) -> Option<Ms> {
    Ms::try_from(time.timestamp().as_millisecond()).ok()
}

/// What the parser says, as part of a sentence.
fn said(error: &str) -> String {
    let text = error.rsplit(": ").next().unwrap_or(error).trim_end_matches('.');
    format!("not a cron line: {text}")
}

/// What makes a run the same, whoever makes it.
#[must_use]
pub fn run_key(schedule: &str, run: Ms) -> String {
    format!("schedule:{schedule}:{run}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> Ms {
        text.parse::<Timestamp>().unwrap().as_millisecond().try_into().unwrap()
    }

    /// The next times after one, as UTC.
    fn check(cron: &str, zone: &str, after: &str, expected: &[&str]) {
        let times = Times::parse(cron, zone).unwrap();
        let mut at = time(after);
        let next = expected.iter().map(|_| {
            at = times.next(at).unwrap();
            Timestamp::from_millisecond(i64::try_from(at).unwrap()).unwrap().to_string()
        });
        assert_eq!(next.collect::<Vec<_>>(), expected, "{cron} {zone}");
    }

    #[test]
    fn a_line_is_meant_in_its_zone() {
        check(
            "30 9 * * MON-FRI",
            "Europe/Berlin",
            "2026-11-20T12:00:00Z",
            &["2026-11-23T08:30:00Z", "2026-11-24T08:30:00Z"],
        );
        check(
            "*/15 * * * *",
            "UTC",
            "2026-11-20T12:00:00.5Z",
            &["2026-11-20T12:15:00Z", "2026-11-20T12:30:00Z"],
        );
        check("*/10 * * * * *", "UTC", "2026-11-20T12:00:00Z", &["2026-11-20T12:00:10Z"]);
        check("0 0 29 2 *", "UTC", "2026-11-20T12:00:00Z", &["2028-02-29T00:00:00Z"]);
        check("@daily", "Asia/Kolkata", "2026-11-20T12:00:00Z", &["2026-11-20T18:30:00Z"]);
    }

    #[test]
    fn a_fixed_time_in_a_skipped_hour_comes_right_after_it() {
        // On the 29th of March, 02:00 is 03:00 at once.
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        );
    }

    #[test]
    fn a_repeated_time_in_a_skipped_hour_is_left_out() {
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-03-29T00:10:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"],
        );
        // 01:30 in winter, 03:30 in summer: there is no 02:30.
        check(
            "30 */1 * * *",
            "Europe/Berlin",
            "2026-03-29T00:00:00Z",
            &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"],
        );
    }

    #[test]
    fn a_fixed_time_in_an_hour_that_comes_twice_comes_once() {
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        );
    }

    #[test]
    fn a_repeated_time_in_an_hour_that_comes_twice_comes_in_both() {
        check(
            "*/30 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:45:00Z",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z",
            ],
        );
    }

    #[test]
    fn what_cannot_be_is_told() {
        let wrong = |cron: &str, zone: &str| Times::parse(cron, zone).unwrap_err();
        assert_eq!(wrong("0 0 30 2 *", "UTC"), Wrong::Never);
        assert_eq!(wrong("* * * * *", "Europe/Atlantis"), Wrong::Zone("Europe/Atlantis".to_owned()));
        for cron in ["", "* * *", "61 * * * *", "* * * * * * 2027", "never", "@reboot"] {
            assert!(matches!(wrong(cron, "UTC"), Wrong::Cron(_)), "{cron}");
        }
        assert!(matches!(wrong(&"*".repeat(300), "UTC"), Wrong::Cron(_)));
    }

    /// The runs that are due, as minutes of an hour.
    fn due(missed: Missed, seen: &str, now: &str, expected: &[Ms]) {
        let times = Times::parse("*/10 * * * *", "UTC").unwrap();
        let of = |text: &str| time(&format!("2026-11-20T12:{text}Z"));
        let runs = times.due(of(seen), of(now), missed);
        let minutes: Vec<Ms> = runs.iter().map(|run| (run - of("00:00")) / 60_000).collect();
        assert_eq!(minutes, expected, "{missed:?} {seen} {now}");
    }

    #[test]
    fn missed_runs_are_left_out_made_once_or_made_up_for() {
        due(Missed::Skip, "00:00", "35:00", &[]);
        due(Missed::Skip, "00:00", "30:30", &[30]);
        due(Missed::Once, "00:00", "35:00", &[30]);
        due(Missed::All, "00:00", "35:00", &[10, 20, 30]);
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            due(missed, "10:00", "19:59", &[]);
            due(missed, "10:00", "20:00.5", &[20]);
            // The clock was put back.
            due(missed, "40:00", "20:00", &[]);
        }
    }

    #[test]
    fn no_more_are_made_up_for_than_may() {
        let times = Times::parse("* * * * * *", "UTC").unwrap();
        let now = time("2026-11-20T12:00:00Z");
        let runs = times.due(0, now, Missed::All);
        assert_eq!((runs.len(), runs.last()), (MISSED_MAX, Some(&now)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_time_that_comes_is_due_once_however_often_one_looks(
            start in 1_700_000_000_000..1_900_000_000_000_u64,
            looks in proptest::collection::vec(1..7_200_000_u64, 1..12),
            cron in prop_oneof![Just("*/20 * * * *"), Just("5 2 * * *"), Just("15,45 */3 * * *")],
            zone in prop_oneof![Just("UTC"), Just("America/New_York"), Just("Australia/Lord_Howe")],
        ) {
            let times = Times::parse(cron, zone).unwrap();
            let (mut seen, mut now, mut runs) = (start, start, Vec::new());
            for look in looks {
                now += look;
                let due = times.due(seen, now, Missed::All);
                seen = due.last().copied().unwrap_or(seen);
                runs.extend(due);
            }
            let (mut at, mut expected) = (start, Vec::new());
            while let Some(next) = times.next(at).filter(|next| *next <= now) {
                expected.push(next);
                at = next;
            }
            prop_assert_eq!(runs, expected);
        }
    }
}
