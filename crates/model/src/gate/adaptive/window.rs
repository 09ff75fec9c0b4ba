//! What the limiter measures: samples of a window, what they tell, and what is usual.

use std::time::Duration;

/// Samples of a short time, of one core: plain sums, for [`Adaptive::absorb`](super::Adaptive::absorb).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Window {
    served: u32,
    dropped: u32,
    /// Sums of ln(milliseconds) of the served and of the dropped, and of the squares of both.
    served_ln: f64,
    dropped_ln: f64,
    ln_squares: f64,
    /// Sums of milliseconds, and of their squares.
    ms: f64,
    ms_squares: f64,
    /// The sum of slots in use.
    in_use: f64,
}

impl Window {
    /// A slot was used so long for an answer; so many were in use then, itself included. A long stream is no sample: it
    /// takes as long as its client wants.
    pub fn served(&mut self, latency: Duration, in_use: usize) {
        self.served = self.served.saturating_add(1);
        self.served_ln += self.sample(latency, in_use);
    }

    /// A slot was used so long, and the upstream was overloaded, silent or gone.
    pub fn dropped(&mut self, latency: Duration, in_use: usize) {
        self.dropped = self.dropped.saturating_add(1);
        self.dropped_ln += self.sample(latency, in_use);
    }

    fn sample(&mut self, latency: Duration, in_use: usize) -> f64 {
        // A microsecond at least: nothing real is quicker, and ln(0) is no number.
        let ms = latency.as_secs_f64().max(1e-6) * 1e3;
        let ln = ms.ln();
        self.ln_squares += ln * ln;
        self.ms += ms;
        self.ms_squares += ms * ms;
        self.in_use += in_use as f64;
        ln
    }

    /// Samples in it.
    #[must_use]
    pub fn samples(&self) -> u32 {
        self.served.saturating_add(self.dropped)
    }

    pub(super) fn add(&mut self, other: &Window) {
        self.served = self.served.saturating_add(other.served);
        self.dropped = self.dropped.saturating_add(other.dropped);
        self.served_ln += other.served_ln;
        self.dropped_ln += other.dropped_ln;
        self.ln_squares += other.ln_squares;
        self.ms += other.ms;
        self.ms_squares += other.ms_squares;
        self.in_use += other.in_use;
    }

    /// The mean latency.
    pub(super) fn mean(&self) -> Duration {
        Duration::from_secs_f64((self.ms / f64::from(self.samples()) / 1e3).clamp(0.0, 1e6))
    }

    /// Slots in use, on the average.
    pub(super) fn in_use(&self) -> f64 {
        self.in_use / f64::from(self.samples())
    }

    /// The geometric mean of what was served, as ln; of what was dropped, where nothing was served.
    fn served_ln(&self) -> f64 {
        match self.served {
            0 => self.dropped_ln / f64::from(self.dropped),
            served => self.served_ln / f64::from(served),
        }
    }
}

/// What a window tells; all but numbers as logarithms.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub in_use: f64,
    /// What was served, a millisecond.
    pub goodput: f64,
    /// The variance of its noise.
    pub noise: f64,
    /// The geometric mean, drops included.
    pub latency: f64,
    pub samples: f64,
    /// The share of drops.
    pub drops: f64,
}

/// Answers do not come independently: their number is noisier by this.
const NOISE: f64 = 1.5;
/// ln of what a drop counts over the usual latency.
const DROP: f64 = 2.0 * std::f64::consts::LN_2;
/// The samples at which a window counts half.
const SAMPLES_HALF: f64 = 20.0;

/// How many times its noise a change is no chance.
const NO_CHANCE: f64 = 3.0;

impl Point {
    pub fn of(window: &Window, elapsed: Duration, usual: &Usual) -> Point {
        let (samples, dropped) = (f64::from(window.samples()), f64::from(window.dropped));
        let drops_ln = window.dropped_ln.max(dropped * usual.served) + dropped * DROP;
        let served = f64::from(window.served).max(1.0);
        Point {
            in_use: window.in_use().max(1.0).ln(),
            goodput: (served / (elapsed.as_secs_f64().max(1e-6) * 1e3)).ln(),
            noise: NOISE * usual.spread() / served,
            latency: (window.served_ln + drops_ln) / samples,
            samples,
            drops: dropped / samples,
        }
    }

    /// What follows the windows by so much each, as far as that is compared with others.
    pub fn follow(&self, point: &Point, by: f64) -> Point {
        let mean = |old: f64, new: f64| old + by * (new - old);
        Point {
            in_use: mean(self.in_use, point.in_use),
            goodput: mean(self.goodput, point.goodput),
            noise: self.noise * (1.0 - by).powi(2) + point.noise * by.powi(2),
            latency: mean(self.latency, point.latency),
            samples: mean(self.samples, point.samples),
            drops: mean(self.drops, point.drops),
        }
    }

    /// Whether goodput has changed by more than can be for the change of concurrency: no gain is far below 0 or above 1.
    pub fn is_of_another(&self, point: &Point) -> bool {
        let (more, gained) = (point.in_use - self.in_use, point.goodput - self.goodput);
        let ends = (-0.5 * more, 1.5 * more);
        let beyond = (ends.0.min(ends.1) - gained).max(gained - ends.0.max(ends.1));
        beyond > NO_CHANCE * (point.noise + self.noise).sqrt()
    }

    /// How much it counts: few samples are mostly noise.
    pub fn confidence(&self) -> f64 {
        self.samples / (self.samples + SAMPLES_HALF)
    }
}

/// How fast what is usual follows what is measured, a window.
pub(super) const FOLLOW: f64 = 0.1;
/// How fast the least latency rises, in ln a window; and how much faster where there is room, so that it is no queue that
/// makes it long. While the limit is not used, it follows the usual so fast.
const RISE: f64 = 0.0005;
const RISE_ROOM: f64 = 0.015;
const FOLLOW_UNUSED: f64 = 0.1;
/// So near to the least, in ln, a latency is as good as the least; and how fast what was carried at it is forgotten.
const NEAR: f64 = 0.2;
const FORGET: f64 = 0.005;
/// The least and the most variance of latency over its mean: nothing is as regular as it looks, and the rarest and longest
/// do not count for more than this.
const SPREAD_MIN: f64 = 0.05;
const SPREAD_MAX: f64 = 10.0;

/// What latencies usually are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usual {
    /// ln of the geometric mean of what is served, and with drops.
    served: f64,
    pub all: f64,
    /// The lowest that `all` has been, rising slowly.
    pub least: f64,
    /// The most at once that was carried at about that, as ln; forgotten slowly.
    pub calm: f64,
    /// Windows.
    seen: f64,
    /// Sums over the windows of late, of which older ones count less: one alone may miss what is rare and long.
    samples: f64,
    ln: f64,
    ln_squares: f64,
    ms: f64,
    ms_squares: f64,
}

impl Usual {
    /// What is usual once a window has come after these; what its drops count depends on that, and follows.
    pub fn after(before: Option<Usual>, window: &Window) -> Usual {
        let served = window.served_ln();
        let (mut usual, follow) = match before {
            Some(before) => (before, if window.served > 0 { FOLLOW } else { 0.0 }),
            None => (Usual::new(served), 0.0),
        };
        usual.served += follow * (served - usual.served);
        let add = |sum: &mut f64, more: f64| *sum = *sum * (1.0 - FOLLOW) + more;
        add(&mut usual.samples, window.samples().into());
        add(&mut usual.ln, window.served_ln + window.dropped_ln);
        add(&mut usual.ln_squares, window.ln_squares);
        add(&mut usual.ms, window.ms);
        add(&mut usual.ms_squares, window.ms_squares);
        usual
    }

    fn new(latency: f64) -> Usual {
        Usual {
            served: latency,
            all: latency,
            least: latency,
            calm: 0.0,
            seen: 0.0,
            samples: 0.0,
            ln: 0.0,
            ln_squares: 0.0,
            ms: 0.0,
            ms_squares: 0.0,
        }
    }

    /// The upstream itself is slower now, by as much.
    pub fn slower(&mut self, by: f64) {
        self.all += by;
        self.least += by;
    }

    /// Follows a window; `room` tells how sure it is that its latency is not for queueing, 0 to 1, and `used` whether it used
    /// the limit.
    pub fn follow(&mut self, point: &Point, room: f64, used: bool) {
        self.seen += 1.0;
        // The first few windows count alike: one alone may be far off.
        self.all += FOLLOW.max(1.0 / self.seen) * (point.latency - self.all);
        if self.all < self.least + NEAR {
            self.calm = self.calm.max(point.in_use);
        } else if used {
            self.calm += FORGET * (point.in_use - self.calm).min(0.0);
        }
        if !used {
            self.least += FOLLOW_UNUSED * (self.all - self.least);
        }
        self.least = self.all.min(self.least + RISE + RISE_ROOM * room);
    }

    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64((self.ms / self.samples / 1e3).clamp(0.0, 1e6))
    }

    /// How long what is under way at some moment takes from then on: half the mean and more, for one rather meets what is
    /// long.
    pub fn rest(&self) -> Duration {
        self.mean().mul_f64((1.0 + self.spread()) / 2.0)
    }

    /// The variance of latency over its mean.
    fn spread(&self) -> f64 {
        (self.ms_squares * self.samples / (self.ms * self.ms) - 1.0).clamp(SPREAD_MIN, SPREAD_MAX)
    }

    /// The variance of ln(latency).
    pub fn spread_ln(&self) -> f64 {
        let mean = self.ln / self.samples;
        (self.ln_squares / self.samples - mean * mean).max(0.0)
    }
}
