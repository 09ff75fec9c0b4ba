//! What is offered, and when each of it was due, accepted and attempted.
//!
//! Every delivery carries the number of its run and its own, so that whoever gets it can be told from what an earlier run left
//! behind. Times are those of the wall, in microseconds: a driver in another process has the same.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a delivery.
pub const PAYLOAD_BYTES: usize = 1024;
/// JSON, for whoever keeps nothing else.
const BEFORE: &str = r#"{"number":""#;
const BETWEEN: &str = r#"","padding":""#;
const AFTER: &str = r#""}"#;
const RUN_DIGITS: usize = 4;
const NUMBER_DIGITS: usize = 12;

/// The deliveries of one run.
pub struct Journey {
    run: u16,
    accepted: AtomicU64,
    attempted: AtomicU64,
    /// Of the deliveries whose times are looked at, by number: due, accepted, attempted; 0: not yet.
    times: Vec<[AtomicU64; 3]>,
}

/// The runs that are under way: who gets a delivery tells it here.
pub struct Desk(RwLock<Vec<Arc<Journey>>>);

/// The middle and the end of a distribution, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
}

impl Journey {
    /// `timed`: of how many deliveries, from the first, times are kept.
    pub fn new(run: u16, timed: usize) -> Arc<Journey> {
        let times = std::iter::repeat_with(|| [const { AtomicU64::new(0) }; 3]).take(timed).collect();
        Arc::new(Journey { run, accepted: AtomicU64::new(0), attempted: AtomicU64::new(0), times })
    }

    pub fn payload(&self, number: u64) -> Vec<u8> {
        payload(self.run, number)
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    pub fn attempted(&self) -> u64 {
        self.attempted.load(Relaxed)
    }

    pub fn note_due(&self, number: u64, at: u64) {
        self.note(number, 0, at);
    }

    pub fn note_accepted(&self, first: u64, count: u64, at: u64) {
        self.accepted.fetch_add(count, Relaxed);
        (first..first + count).for_each(|number| self.note(number, 1, at));
    }

    /// Of another run's delivery nothing is noted.
    pub fn note_attempted(&self, payload: &[u8], at: u64) {
        if let Some((run, number)) = read(payload)
            && run == self.run
        {
            self.attempted.fetch_add(1, Relaxed);
            self.note(number, 2, at);
        }
    }

    /// The first time counts.
    fn note(&self, number: u64, which: usize, at: u64) {
        let cell = usize::try_from(number).ok().and_then(|number| self.times.get(number));
        if let Some(cell) = cell {
            let _ = cell[which].compare_exchange(0, at, Relaxed, Relaxed);
        }
    }

    /// When a delivery was attempted.
    pub fn attempted_at(&self, number: u64) -> Option<u64> {
        let cell = usize::try_from(number).ok().and_then(|number| self.times.get(number))?;
        Some(cell[2].load(Relaxed)).filter(|at| *at > 0)
    }

    /// How many were attempted between two times.
    pub fn attempted_between(&self, from: u64, to: u64) -> usize {
        let times = self.times.iter().map(|cell| cell[2].load(Relaxed));
        times.filter(|at| (from..to).contains(at)).count()
    }

    /// From when each was due to its acceptance, and from its acceptance to its attempt, of those from this number on.
    /// An attempt that was there before who offered had heard of its acceptance took no time.
    ///
    /// # Errors
    /// How many were not accepted, or never attempted.
    pub fn quantiles(&self, from: usize) -> Result<(Quantiles, Quantiles), String> {
        let (mut accepts, mut attempts, mut lost) = (Vec::new(), Vec::new(), 0);
        for cell in self.times.iter().skip(from) {
            let [due, accepted, attempted] = cell.each_ref().map(|time| time.load(Relaxed));
            match (due, accepted, attempted) {
                (0, ..) => {}
                (_, 0, _) | (.., 0) => lost += 1,
                _ => {
                    accepts.push(accepted.saturating_sub(due));
                    attempts.push(attempted.saturating_sub(accepted));
                }
            }
        }
        if lost > 0 {
            return Err(format!("{lost} deliveries were not accepted or not attempted in time"));
        }
        Ok((Quantiles::of(accepts), Quantiles::of(attempts)))
    }
}

impl Desk {
    pub fn new() -> Arc<Desk> {
        Arc::new(Desk(RwLock::new(Vec::new())))
    }

    pub fn set(&self, journeys: &[&Arc<Journey>]) {
        let journeys = journeys.iter().map(|journey| Arc::clone(journey)).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = journeys;
    }

    pub fn heard(&self, payload: &[u8], at: u64) {
        let journeys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        journeys.iter().for_each(|journey| journey.note_attempted(payload, at));
    }
}

impl Quantiles {
    /// By nearest rank.
    pub fn of(mut values: Vec<u64>) -> Quantiles {
        values.sort_unstable();
        let at = |share: f64| {
            let rank = (share * values.len() as f64).ceil() as usize;
            values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Quantiles { count: values.len() as u64, p50: at(0.5), p99: at(0.99) }
    }
}

/// A delivery's content.
pub fn payload(run: u16, number: u64) -> Vec<u8> {
    let (run_digits, digits) = (RUN_DIGITS, NUMBER_DIGITS);
    let mut text = format!("{BEFORE}{run:0run_digits$x}{number:0digits$x}{BETWEEN}");
    let padding = PAYLOAD_BYTES - text.len() - AFTER.len();
    text.extend(std::iter::repeat_n('x', padding));
    text.push_str(AFTER);
    text.into_bytes()
}

/// The run and the number of a delivery.
pub fn read(payload: &[u8]) -> Option<(u16, u64)> {
    let digits = payload.strip_prefix(BEFORE.as_bytes())?.get(..RUN_DIGITS + NUMBER_DIGITS)?;
    let (run, number) = std::str::from_utf8(digits).ok()?.split_at_checked(RUN_DIGITS)?;
    Some((u16::from_str_radix(run, 16).ok()?, u64::from_str_radix(number, 16).ok()?))
}

/// The time of the wall, in microseconds.
#[expect(clippy::disallowed_methods, reason = "a developer command has no clock of the product's")]
pub fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_its_run_and_its_number() {
        let made = payload(0x12, 1_000_000);
        assert_eq!((made.len(), read(&made)), (PAYLOAD_BYTES, Some((0x12, 1_000_000))));
        assert_eq!(read(br#"{"number":"zz"}"#), None);
        assert_eq!(read(b""), None);
    }

    #[test]
    fn what_an_earlier_run_left_behind_counts_for_nothing() {
        let journey = Journey::new(2, 1);
        journey.note_attempted(&payload(1, 0), 5);
        assert_eq!(journey.attempted(), 0);
        journey.note_attempted(&payload(2, 0), 5);
        assert_eq!(journey.attempted(), 1);
    }

    #[test]
    fn times_are_from_due_to_accepted_and_on_to_the_attempt() {
        let journey = Journey::new(1, 2);
        for number in 0..2 {
            journey.note_due(number, 100);
            journey.note_accepted(number, 1, 110 + number);
            journey.note_attempted(&payload(1, number), 131);
        }
        // A repeat changes nothing.
        journey.note_attempted(&payload(1, 1), 999);
        let (accept, attempt) = journey.quantiles(0).unwrap();
        assert_eq!(
            (accept, attempt),
            (Quantiles { count: 2, p50: 10, p99: 11 }, Quantiles { count: 2, p50: 20, p99: 21 })
        );
        assert_eq!(journey.quantiles(1).unwrap().1.count, 1);
    }

    #[test]
    fn what_was_never_attempted_is_told() {
        let journey = Journey::new(1, 1);
        journey.note_due(0, 100);
        journey.note_accepted(0, 1, 110);
        assert!(journey.quantiles(0).is_err_and(|why| why.starts_with("1 deliveries")));
    }
}
