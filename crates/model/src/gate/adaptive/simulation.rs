//! The limiter before upstreams that change: so many workers, a queue before them, service times of chance.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::*;
use crate::balance::mix;

mod drills;

/// An upstream at one time.
#[derive(Clone, Copy, Debug)]
struct Server {
    workers: usize,
    service_ms: f64,
    shape: Shape,
    /// Requests a second that come to the gate.
    rate: f64,
    /// How long they wait there.
    wait_ms: f64,
    /// What is asked at once beyond so many is answered 503 at once.
    refuses_above: usize,
    /// This share of answers fails whatever the load.
    drops: f64,
    /// This share of requests is answered in a millisecond without a worker.
    bypass: f64,
    /// How much slower it becomes for each request at once beyond its workers.
    thrashing: f64,
}

/// How service times are distributed, around the same mean.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Steady,
    Exponential,
    /// Nine in ten take a tenth of the mean, one takes nine times the mean.
    Bimodal,
    /// ln is normal with a deviation of 1.
    LogNormal,
}

const SERVER: Server = Server {
    workers: 16,
    service_ms: 20.0,
    shape: Shape::Exponential,
    rate: 1_600.0,
    wait_ms: f64::INFINITY,
    refuses_above: usize::MAX,
    drops: 0.0,
    bypass: 0.0,
    thrashing: 0.0,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    /// When it came, when it had its slot, how many were in use then, and how long it was worked on.
    Served(u64, u64, usize, u64),
    Bypassed(u64, u64, usize),
    Flush,
}

enum Limiter {
    Fixed(usize),
    Adaptive(Box<Adaptive>),
}

/// What happened: when each was answered well, and the limit over time.
#[derive(Debug, Default)]
struct Story {
    served: Vec<f64>,
    came: Vec<f64>,
    /// Of each that was served: when it came, how long it took in all, when its work ended, and how long that was.
    answers: Vec<(f64, f64, f64, f64)>,
    limits: Vec<(f64, u32)>,
    /// How many wait at the gate, over time.
    waiting: Vec<(f64, usize)>,
}

impl Story {
    fn throughput(&self, from: f64, to: f64) -> f64 {
        self.served.iter().filter(|&&at| at >= from && at < to).count() as f64 / (to - from)
    }

    fn limits(&self, from: f64, to: f64) -> impl Iterator<Item = f64> {
        self.limits.iter().filter(move |(at, _)| *at >= from && *at < to).map(|&(_, limit)| f64::from(limit))
    }

    fn mean_limit(&self, from: f64, to: f64) -> f64 {
        self.limits(from, to).sum::<f64>() / self.limits(from, to).count() as f64
    }

    fn least_limit(&self, from: f64, to: f64) -> f64 {
        self.limits(from, to).fold(f64::INFINITY, f64::min)
    }
}

struct World<'a> {
    server: &'a dyn Fn(f64) -> Server,
    limiter: Limiter,
    chance: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    now: u64,
    /// When they came.
    waiting: VecDeque<u64>,
    in_use: usize,
    busy: usize,
    /// When each came, when it had its slot, and how many were in use then.
    queue: VecDeque<(u64, u64, usize)>,
    window: Window,
    story: Story,
}

fn run(server: &dyn Fn(f64) -> Server, limiter: Limiter, seconds: f64, seed: u64) -> Story {
    let mut world = World {
        server,
        limiter,
        chance: seed << 32,
        events: BinaryHeap::new(),
        number: 0,
        now: 0,
        waiting: VecDeque::new(),
        in_use: 0,
        busy: 0,
        queue: VecDeque::new(),
        window: Window::default(),
        story: Story::default(),
    };
    world.after(0.0, Event::Arrives);
    world.after(0.0, Event::Flush);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at as f64 > seconds * 1e9 {
            break;
        }
        world.now = at;
        world.take(event);
    }
    world.story
}

fn adaptive(server: &dyn Fn(f64) -> Server, seconds: f64, seed: u64) -> Story {
    run(server, Limiter::Adaptive(Box::new(Adaptive::new(Terms::default(), Tick(0)))), seconds, seed)
}

impl World<'_> {
    fn server(&self) -> Server {
        (self.server)(self.now as f64 / 1e9)
    }

    /// A number above 0, to 1.
    fn chance(&mut self) -> f64 {
        self.chance = self.chance.wrapping_add(1);
        ((mix(self.chance) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn after(&mut self, ms: f64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now + (ms * 1e6) as u64, self.number, event)));
    }

    fn limit(&self) -> usize {
        match &self.limiter {
            Limiter::Fixed(limit) => *limit,
            Limiter::Adaptive(adaptive) => adaptive.limit() as usize,
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Flush => {
                let window = std::mem::take(&mut self.window);
                if let Limiter::Adaptive(adaptive) = &mut self.limiter {
                    adaptive.absorb(&window, Tick(self.now));
                    self.story.limits.push((self.now as f64 / 1e9, adaptive.limit()));
                }
                self.story.waiting.push((self.now as f64 / 1e9, self.waiting.len()));
                self.after(10.0, Event::Flush);
            }
            Event::Arrives => {
                self.story.came.push(self.now as f64 / 1e9);
                if self.waiting.len() < 200 {
                    self.waiting.push_back(self.now);
                }
                let pause = -self.chance().ln() * 1e3 / self.server().rate;
                self.after(pause, Event::Arrives);
            }
            Event::Bypassed(came, began, at_once) => self.answered(came, began, at_once, 0, false),
            Event::Served(came, began, at_once, work) => {
                self.busy -= 1;
                self.answered(came, began, at_once, work, false);
                self.serve();
            }
        }
        self.enter();
    }

    fn enter(&mut self) {
        let server = self.server();
        let late = |came: &u64| (self.now - came) as f64 > server.wait_ms * 1e6;
        let gone = self.waiting.iter().take_while(|came| late(came)).count();
        self.waiting.drain(..gone);
        while self.in_use < self.limit() {
            let Some(came) = self.waiting.pop_front() else { return };
            self.in_use += 1;
            let at_once = self.in_use;
            if at_once > server.refuses_above {
                self.answered(came, self.now.saturating_sub(500_000), at_once, 0, true);
                // A refusal takes its half millisecond too: else refusing would go on for ever within one event.
                break;
            }
            if self.chance() <= server.bypass {
                self.after(1.0, Event::Bypassed(came, self.now, at_once));
            } else {
                self.queue.push_back((came, self.now, at_once));
            }
            self.serve();
        }
    }

    fn serve(&mut self) {
        let server = self.server();
        while self.busy < server.workers {
            let Some((came, began, at_once)) = self.queue.pop_front() else { return };
            self.busy += 1;
            let share = match server.shape {
                Shape::Steady => 1.0,
                Shape::Exponential => -self.chance().ln(),
                Shape::Bimodal => {
                    if self.chance() <= 0.1 {
                        9.1
                    } else {
                        0.1
                    }
                }
                Shape::LogNormal => {
                    let radius = (-2.0 * self.chance().ln()).sqrt();
                    (radius * (std::f64::consts::TAU * self.chance()).cos() - 0.5).exp()
                }
            };
            let over = self.in_use.saturating_sub(server.workers) as f64;
            let ms = server.service_ms * share * (1.0 + server.thrashing * over);
            self.after(ms, Event::Served(came, began, at_once, (ms * 1e6) as u64));
        }
    }

    fn answered(&mut self, came: u64, began: u64, at_once: usize, work: u64, refused: bool) {
        let latency = Duration::from_nanos(self.now - began);
        let dropped = refused || self.chance() <= self.server().drops;
        match dropped {
            true => self.window.dropped(latency, at_once),
            false => {
                self.window.served(latency, at_once);
                let seconds = |nanos: u64| nanos as f64 / 1e9;
                self.story.served.push(seconds(self.now));
                self.story.answers.push((
                    seconds(came),
                    seconds(self.now - came),
                    seconds(self.now),
                    seconds(work),
                ));
            }
        }
        self.in_use -= 1;
    }
}

const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

/// What an upstream can serve, a second.
fn capacity(server: Server) -> f64 {
    server.workers as f64 * 1e3 / server.service_ms
}

/// Lets the limiter learn an upstream that stays as it is, for 20 s; of the last 12 expects this share of what it can serve,
/// and this many times its workers as the mean limit at most.
#[track_caller]
fn check(server: Server, served_min: f64, limit_max: f64) {
    for seed in SEEDS {
        let story = adaptive(&|_| server, 20.0, seed);
        let served = story.throughput(8.0, 20.0) / capacity(server);
        assert!(served >= served_min, "{server:?} {seed}: {served} of capacity");
        let limit = story.mean_limit(8.0, 20.0);
        assert!(limit <= limit_max * server.workers as f64, "{server:?} {seed}: limit {limit}");
        let least = story.least_limit(8.0, 20.0);
        assert!(least >= 0.4 * server.workers as f64, "{server:?} {seed}: least limit {least}");
    }
}

// Over twenty seeds the worst of the bimodal serves 0.90 of capacity, all of them 0.977 on the average.
#[test]
fn finds_the_capacity_whatever_requests_are_like() {
    check(SERVER, 0.92, 2.8);
    check(Server { shape: Shape::Steady, ..SERVER }, 0.95, 2.0);
    check(Server { shape: Shape::LogNormal, ..SERVER }, 0.92, 3.5);
    check(Server { shape: Shape::Bimodal, ..SERVER }, 0.8, 2.0);
}

// The fewer the requests, the less is known of them.
#[test]
fn finds_the_capacity_however_great() {
    check(Server { workers: 4, rate: 400.0, ..SERVER }, 0.9, 12.0);
    check(Server { workers: 40, rate: 3_000.0, ..SERVER }, 0.94, 2.0);
    check(Server { workers: 8, service_ms: 400.0, rate: 40.0, ..SERVER }, 0.75, 2.5);
}

#[test]
fn serves_nine_tenths_of_what_the_best_fixed_limit_does() {
    // The last is a knife's edge: one at once more than that, and all that comes is answered 503.
    let refuses = Server { refuses_above: 16, ..SERVER };
    for (server, share) in [(SERVER, 0.9), (Server { thrashing: 0.02, ..SERVER }, 0.9), (refuses, 0.8)] {
        let served = |story: Story| story.throughput(8.0, 20.0);
        let fixed =
            [12, 16, 20, 26, 40, 100].map(|limit| served(run(&|_| server, Limiter::Fixed(limit), 16.0, 1)));
        let best = fixed.into_iter().fold(0.0, f64::max);
        let mean = SEEDS.map(|seed| served(adaptive(&|_| server, 16.0, seed))).sum::<f64>() / 3.0;
        assert!(mean >= share * best, "{mean} {fixed:?}");
    }
}

/// Changes an upstream after 10 s. Of the 4 s from `by` on expects this share of what it can serve then, and never a limit
/// below `least`.
#[track_caller]
fn check_change(server: impl Fn(bool) -> Server, by: f64, served_min: f64, least: f64) {
    for seed in SEEDS {
        let story = adaptive(&|at| server(at >= 10.0), by + 4.0, seed);
        let served = story.throughput(by, by + 4.0) / capacity(server(true));
        assert!(served >= served_min, "{seed}: {served} of capacity");
        let limit = story.least_limit(10.0, by + 4.0);
        assert!(limit >= least, "{seed}: limit {limit}");
    }
}

#[test]
fn follows_a_capacity_that_falls_to_a_third_or_rises_threefold() {
    let workers = |workers| Server { workers, ..SERVER };
    check_change(|later| workers(if later { 5 } else { 16 }), 12.0, 0.9, 3.0);
    check_change(|later| workers(if later { 16 } else { 5 }), 15.0, 0.75, 2.0);
}

#[test]
fn does_not_collapse_when_the_upstream_becomes_three_times_slower() {
    let slower = |later| Server { service_ms: if later { 30.0 } else { 10.0 }, rate: 3_200.0, ..SERVER };
    check_change(slower, 12.0, 0.85, 6.0);
    check_change(|later| slower(!later), 11.0, 0.85, 6.0);
}

#[test]
fn is_back_within_seconds_after_an_outage() {
    let server = |at| Server { drops: if (8.0..11.0).contains(&at) { 1.0 } else { 0.0 }, ..SERVER };
    for seed in SEEDS {
        let story = adaptive(&server, 19.0, seed);
        let served = story.throughput(15.0, 19.0) / capacity(SERVER);
        assert!(served >= 0.85, "{seed}: {served}");
    }
}

#[test]
fn drops_that_are_not_for_the_limit_do_not_hold_it_down() {
    // Seven in ten are served well, whatever the limit.
    check(Server { drops: 0.3, ..SERVER }, 0.62, 3.0);
}

#[test]
fn an_upstream_that_answers_half_at_once_does_not_lead_it_astray() {
    check(Server { bypass: 0.5, rate: 2_500.0, ..SERVER }, 1.75, 10.0);
}

#[test]
fn does_not_drift() {
    for server in [SERVER, Server { workers: 2, rate: 200.0, ..SERVER }] {
        let story = adaptive(&|_| server, 100.0, 1);
        for from in [40.0, 60.0, 80.0] {
            let limit = story.mean_limit(from, from + 20.0);
            assert!(limit <= 12.0 + 2.0 * server.workers as f64, "{from} {limit}");
        }
    }
}

#[test]
fn stays_where_it_is_while_it_is_not_used() {
    let story = adaptive(&|at| Server { rate: if at < 8.0 { 1_600.0 } else { 100.0 }, ..SERVER }, 20.0, 1);
    let limits: Vec<f64> = story.limits(10.0, 20.0).collect();
    assert!(limits.iter().all(|limit| limit == &limits[0] && *limit >= 10.0), "{limits:?}");
}

#[test]
fn tells_the_same_story_twice() {
    let stories = [1, 2].map(|_| adaptive(&|_| SERVER, 5.0, 9));
    assert_eq!(stories[0].limits, stories[1].limits);
    assert_eq!(stories[0].served, stories[1].served);
}

#[test]
fn an_upstream_that_has_room_is_not_slowed() {
    for (load, wait_ms_max) in [(0.5, 1.0), (0.7, 2.0), (0.9, 20.0)] {
        for seed in SEEDS {
            let rate = load * capacity(SERVER);
            let story = adaptive(&|_| Server { rate, ..SERVER }, 25.0, seed);
            let served = story.throughput(5.0, 25.0) / rate;
            assert!(served >= 0.96, "{load} {seed}: {served} of what is asked");
            let waiting: Vec<f64> = story.waiting.iter().map(|&(_, number)| number as f64).collect();
            let wait_ms = waiting.iter().sum::<f64>() / waiting.len() as f64 / rate * 1e3;
            assert!(wait_ms <= wait_ms_max, "{load} {seed}: waits {wait_ms} ms at the gate");
        }
    }
}
