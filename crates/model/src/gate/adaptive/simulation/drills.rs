//! The limiter before the drills' own upstream: a few slots, service times of chance, and too few requests to know much.
//!
//! The same bounds as the drills have, and closer ones, over many seeds, in simulated time.

use super::*;

const SEEDS: std::ops::RangeInclusive<u64> = 1..=20;
const SEEDS_NUMBER: f64 = 20.0;

/// What the drills stand an application for: eight slots, 20 ms each, and clients that wait 300 ms at the gate.
const APPLICATION: Server =
    Server { workers: 8, service_ms: 20.0, rate: 280.0, wait_ms: 300.0, ..super::SERVER };

/// A third of the capacity for five seconds, as in `brown-out`, of an application of so many slots.
fn brown_out(workers: usize) -> impl Fn(f64) -> Server {
    let rate = 35.0 * workers as f64;
    move |at| {
        let service_ms = if (3.0..8.0).contains(&at) { 60.0 } else { 20.0 };
        Server { workers, rate, service_ms, ..APPLICATION }
    }
}

/// Ten times the load for three seconds, as in `peak`.
fn peak(at: f64) -> Server {
    Server { rate: if (3.0..6.0).contains(&at) { 1_000.0 } else { 100.0 }, ..APPLICATION }
}

/// What became of one drill.
struct Seen {
    /// Share of the slots that did useful work in the fault.
    useful: f64,
    /// From how many seconds after it on nine in ten were answered well in each half second.
    back: f64,
    /// Of those answered in it, in seconds.
    p99: f64,
    /// The highest limit, ever.
    limit: f64,
}

fn see(server: &dyn Fn(f64) -> Server, fault: std::ops::Range<f64>, seed: u64) -> Seen {
    const PATIENCE: f64 = 1.0;
    let end = fault.end + 3.5;
    let story = adaptive(server, end + PATIENCE, seed);
    let work = story.answers.iter().filter(|answer| fault.contains(&answer.2)).map(|answer| answer.3);
    let slots = server(fault.start).workers as f64 * (fault.end - fault.start);
    let mut took: Vec<f64> =
        story.answers.iter().filter(|answer| fault.contains(&answer.0)).map(|answer| answer.1).collect();
    took.sort_by(f64::total_cmp);
    let mut back = 0.0;
    for half in 0..7 {
        let from = fault.end + f64::from(half) * 0.5;
        let due = |at: &f64| (from..from + 0.5).contains(at);
        let came = story.came.iter().filter(|at| due(at)).count() as f64;
        let well =
            story.answers.iter().filter(|answer| due(&answer.0) && answer.1 <= PATIENCE).count() as f64;
        if well < 0.9 * came {
            back = f64::from(half + 1) * 0.5;
        }
    }
    Seen {
        useful: work.sum::<f64>() / slots,
        back,
        p99: took[took.len() * 99 / 100],
        limit: story.limits(0.0, end).fold(0.0, f64::max),
    }
}

/// Expects so much useful work of the worst seed, and so much of the mean.
#[track_caller]
fn check(server: &dyn Fn(f64) -> Server, fault: std::ops::Range<f64>, useful_min: f64, useful_mean: f64) {
    let mut sum = 0.0;
    for seed in SEEDS {
        let Seen { useful, back, p99, limit } = see(server, fault.clone(), seed);
        let told = format!("{seed}: useful {useful:.3}, back {back}, p99 {p99:.3}, limit {limit}");
        assert!(useful >= useful_min && back <= 1.0 && p99 <= 0.75, "{told}");
        assert!(limit <= 3.5 * server(0.0).workers as f64, "{told}");
        sum += useful;
    }
    let mean = sum / SEEDS_NUMBER;
    assert!(mean >= useful_mean, "{mean}");
}

#[test]
fn a_brown_out_costs_no_goodput_and_is_over_when_it_is_over() {
    check(&brown_out(8), 3.0..8.0, 0.93, 0.97);
}

#[test]
fn a_brown_out_of_a_greater_application_costs_little() {
    check(&brown_out(16), 3.0..8.0, 0.85, 0.95);
}

#[test]
fn a_peak_finds_all_slots_at_work() {
    check(&peak, 3.0..6.0, 0.93, 0.97);
}

#[test]
fn a_queue_does_not_stand_higher_the_longer_it_stands() {
    // Minutes of twice what can be done.
    for workers in [2, 8] {
        let server = Server { workers, ..APPLICATION };
        let server = Server { rate: 2.0 * capacity(server), ..server };
        let story = adaptive(&|_| server, 240.0, 1);
        for from in [60.0, 120.0, 180.0] {
            let limit = story.mean_limit(from, from + 60.0);
            assert!(limit <= 16.0 + 2.0 * workers as f64, "{server:?} {from}: {limit}");
        }
        let served = story.throughput(60.0, 240.0) / capacity(server);
        assert!(served >= 0.95, "{server:?}: {served}");
    }
}
