//! The concurrency limit of an upstream, found from what it answers: no more at once than makes it answer more.
//!
//! An upstream that has room answers more when it is asked more at once; one that has none answers as much, later (Little's
//! law). So the limiter asks, over windows of a tenth of a second or more, *by how much does goodput rise with concurrency?*
//! That is the *gain*, d ln(goodput) / d ln(concurrency), from the differences between neighbouring windows: 1 where there is
//! room, 0 where all that is added queues, below 0 where more is less.
//!
//! - Above [`GAIN_RIGHT`] the limit grows, below it falls: in proportion, and by how sure it is (the gain is taken as right
//!   until measured otherwise, so that noise moves the limit little).
//! - So that there are differences, a limit that is used *breathes*: one window in four, drawn by hash lest it fall in step
//!   with the upstream, is lower by a quarter.
//! - Latency is for emergencies. When it is far above the usual, the limit is cut at once. A cut that did not lower latency
//!   was no cut of a queue: then the upstream itself has become slower, that is the usual from now on, and the limit grows
//!   back. Latencies are taken as geometric means: like a median that hardly sees outliers, and unlike a median it does not
//!   jump between the modes of an upstream that answers some requests in 2 ms and some in 100.
//! - And it is a leash: where requests are few or very different, the gain is known late, and the limit would wander.
//! - What was dropped (overload answers, resets, time-outs) is no goodput, and counts as four times the usual latency, so that
//!   a quick 503 does not look fast. While most is dropped, it tells nothing of the limit, which
//!   is cut once and stays.
//! - While the limit is not used, it stays.
//!
//! Against what went wrong elsewhere: Envoy's adaptive concurrency lets a handful through while it measures a minimum, and
//! answers 503 meanwhile (Envoy #11579, #38338); no window here is lower by more than a quarter. Vegas keeps a minimum for
//! ever, and collapses when the upstream becomes slower; here the minimum only holds the leash, and a slower upstream lifts
//! it. Netflix's gradient2 lets its long-term latency follow the short-term one, so that a queue that stands becomes the
//! usual, and the limit drifts up; here the usual follows too, but does not set the limit.
//!
//! Deterministic, and without a clock. It judges an upstream as a whole: a slow endpoint is the balancer's concern.

use std::time::Duration;

use self::window::{Point, Usual};
use crate::balance::mix;
use crate::tick::Tick;

pub use self::window::Window;

#[cfg(test)]
mod simulation;
mod window;

/// The gain at which a limit is right: a tenth more at once is worth a hundredth and a half more answers.
pub const GAIN_RIGHT: f64 = 0.15;

/// The shortest window that is measured, and its fewest samples.
const WINDOW_MIN: Duration = Duration::from_millis(100);
const SAMPLES_MIN: u32 = 10;
/// After a change what was under way is let pass, at most so long.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// A limit that is used breathes: one window in so many is lower by so much.
const BREATHS: u64 = 4;
const BREATH: f64 = 0.25;
/// A limit of which less is used tells nothing.
const USED_MIN: f64 = 0.75;

/// How far it moves a window, in ln, for a gain that is off by one.
const MOVE: f64 = 0.14;
/// How far it grows a window whatever the gain, in ln over the limit: a small limit gives little evidence, and one slot too
/// many costs little.
const PUSH: f64 = 0.1;
/// The leash: beyond so far between the usual latency and the least, in ln, the limit falls by so much a window for each one.
const LEASH: f64 = 1.0;
const PULL: f64 = 0.2;
/// How far it grows a window at the start, in ln, until it has met a sign of queueing: a gain so much too low.
const START: f64 = 0.2;
const SIGN: f64 = 0.08;
/// After an emergency it grows as quickly again to this share of what it was.
const BACK: f64 = 0.7;

/// ln of how far above the usual a latency is an emergency, and of what the limit is cut by then at most.
const ABOVE: f64 = 0.5;
const CUT_MAX: f64 = 0.5;
/// A share of drops at which a window tells nothing of the gain.
const DROPS_MANY: f64 = 0.5;

/// What is assumed of the gain before it is measured, and its variance: a little room, so that it is looked for.
const PRIOR: f64 = GAIN_RIGHT + 0.02;
const PRIOR_VARIANCE: f64 = 0.15;
/// How much of the evidence is kept a window; more while there is less than that, for where requests are few it takes long
/// to gather; and over an emergency, for it may be another upstream after that.
const KEEP: f64 = 0.96;
const EVIDENCE_FEW: f64 = 8.0;
const KEEP_FEW: f64 = 0.98;
const KEEP_EMERGENCY: f64 = 0.1;
/// No more evidence is held than this, however many the requests: what is new must count.
const EVIDENCE_MAX: f64 = 20.0;

/// Where the limit may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The lowest, at least 1.
    pub min: u32,
    /// The highest.
    pub max: u32,
    /// The first.
    pub initial: u32,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { min: 2, max: 1_000, initial: 10 }
    }
}

/// A limit that is being learnt.
#[derive(Clone, Debug)]
pub struct Adaptive {
    terms: Terms,
    limit: f64,
    /// The limit in force: `limit`, breathing.
    applied: u32,
    breaths: u64,
    window: Window,
    /// When what is measured began, after the last change has settled.
    began: Tick,
    /// The window before, if it used the limit.
    before: Option<Point>,
    usual: Option<Usual>,
    /// The sum of ln(latency) of the last windows since the last cut, and its samples.
    recent: (f64, f64),
    /// Sums of products of differences over their noise: the evidence for the gain.
    covariance: f64,
    variance: f64,
    /// Up to here it grows quickly: at first until it meets a sign of queueing, after an emergency towards where it was.
    aim: f64,
    /// Whether the last window was an emergency.
    cut: bool,
}

/// What latency tells, in ln.
#[derive(Clone, Copy, Debug)]
struct Signs {
    /// How far it is above what is an emergency.
    over: f64,
    /// Whether it is so far above the least that something queues.
    queued: bool,
    /// How far the usual is beyond the leash.
    beyond: f64,
}

impl Adaptive {
    /// A limit about which nothing is known yet.
    #[must_use]
    pub fn new(terms: Terms, now: Tick) -> Adaptive {
        let mut adaptive = Adaptive {
            terms,
            limit: f64::from(terms.initial),
            applied: terms.initial,
            breaths: 0,
            window: Window::default(),
            began: now,
            before: None,
            usual: None,
            recent: (0.0, 0.0),
            covariance: 0.0,
            variance: 0.0,
            aim: f64::INFINITY,
            cut: false,
        };
        adaptive.set_terms(terms);
        adaptive
    }

    /// The limit in force.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.applied
    }

    /// The gain as it was measured of late: 1 where there is room, 0 where all that is added queues.
    #[must_use]
    pub fn gain(&self) -> f64 {
        let gain = (self.covariance + PRIOR / PRIOR_VARIANCE) / (self.variance + 1.0 / PRIOR_VARIANCE);
        gain.clamp(-1.0, 1.0)
    }

    /// How sure it is that there is room, so that latency is not for queueing: 0 to 1.
    fn room(&self) -> f64 {
        (2.0 * (self.gain() - PRIOR)).clamp(0.0, 1.0)
    }

    /// Changes where the limit may be. What was learnt stays.
    pub fn set_terms(&mut self, terms: Terms) {
        self.terms = terms;
        self.limit = self.bounded(self.limit);
        self.applied = self.limit.round() as u32;
    }

    /// Takes samples: each as it comes, or those of some ten milliseconds at once (a core keeps a [`Window`] of its own, so
    /// that a sample costs it no lock). The new limit, if it is another.
    pub fn absorb(&mut self, samples: &Window, now: Tick) -> Option<u32> {
        if now < self.began {
            return None;
        }
        self.window.add(samples);
        let elapsed = now.since(self.began);
        let mean = self.usual.map_or(Duration::ZERO, |usual| usual.mean());
        if self.window.samples() < SAMPLES_MIN || elapsed < WINDOW_MIN.max(mean * 2) {
            return None;
        }
        let window = std::mem::take(&mut self.window);
        let before = self.applied;
        let usual = self.judge(&window, elapsed);
        self.usual = Some(usual);
        if self.applied == before {
            self.began = now;
            return None;
        }
        self.began = now.after((usual.rest() * 3 / 2).min(SETTLE_MAX));
        Some(self.applied)
    }

    fn judge(&mut self, window: &Window, elapsed: Duration) -> Usual {
        let mut usual = Usual::after(self.usual, window);
        let point = Point::of(window, elapsed, &usual);
        if window.in_use() < USED_MIN * f64::from(self.applied) {
            self.before = None;
            self.applied = self.bounded(self.limit).round() as u32;
        } else {
            if let Some(before) = self.before.replace(point) {
                self.learn(&before, &point);
                if self.cut {
                    usual.slower(slower(&before, &point) * (point.latency - usual.all));
                }
            }
            let signs = self.signs(&point, &usual);
            self.step(&point, &signs);
            self.breathe();
        }
        usual.follow(point.latency, self.room());
        usual
    }

    /// What the difference to the window before tells of the gain.
    fn learn(&mut self, before: &Point, point: &Point) {
        if before.drops.max(point.drops) > DROPS_MANY {
            return;
        }
        let (more, gained) = (point.in_use - before.in_use, point.goodput - before.goodput);
        let weight = 1.0 / (point.noise + before.noise);
        // No single difference tells of more than can be: noise is cut alike on both sides of what can.
        let ends = (-1.5 * more.abs(), 2.5 * more.abs());
        let gain = (gained * more.signum()).clamp(ends.0, ends.1) * more.signum();
        let keep = if self.variance > EVIDENCE_FEW { KEEP } else { KEEP_FEW };
        let (covariance, variance) =
            (keep * self.covariance + weight * more * gain, keep * self.variance + weight * more * more);
        let fits = (EVIDENCE_MAX / variance).min(1.0);
        (self.covariance, self.variance) = (covariance * fits, variance * fits);
    }

    /// What latency tells. Looks at more than the last window: of one in which all slots were held by long requests, those
    /// are all that one sees.
    fn signs(&mut self, point: &Point, usual: &Usual) -> Signs {
        let (sum, samples) = self.recent;
        let (sum, samples) = (sum / 2.0 + point.latency * point.samples, samples / 2.0 + point.samples);
        let (latency, far) = (sum / samples, ABOVE.max(3.0 * (usual.spread_ln() / samples).sqrt()));
        let over = latency - usual.all - far;
        self.recent = if over > 0.0 { (0.0, 0.0) } else { (sum, samples) };
        Signs {
            over,
            queued: latency - usual.least > far,
            beyond: (usual.all - usual.least - LEASH).max(0.0),
        }
    }

    /// Moves the limit.
    fn step(&mut self, point: &Point, signs: &Signs) {
        let (off, blind) = (self.gain() - GAIN_RIGHT, point.drops > DROPS_MANY);
        if signs.over > 0.0 && !self.cut {
            self.aim = self.limit * BACK;
            self.covariance *= KEEP_EMERGENCY;
            self.variance *= KEEP_EMERGENCY;
        } else if !blind && (off <= -SIGN || signs.queued) {
            self.aim = self.aim.min(self.limit);
        }
        self.cut = signs.over > 0.0;
        let by = match () {
            () if self.cut => -signs.over.min(CUT_MAX) * point.confidence(),
            () if blind => 0.0,
            () if self.limit < self.aim => START,
            () => MOVE * off + PUSH / self.limit - PULL * signs.beyond * (1.0 - self.room()),
        };
        self.limit = self.bounded(self.limit * by.exp());
    }

    fn breathe(&mut self) {
        self.breaths += 1;
        let whole = self.limit.round();
        let low = (self.limit * (1.0 - BREATH)).round().min(whole - 1.0).max(f64::from(self.terms.min));
        let breathes = mix(self.breaths).is_multiple_of(BREATHS);
        self.applied = self.bounded(if breathes { low } else { whole.max(low + 1.0) }) as u32;
    }

    fn bounded(&self, limit: f64) -> f64 {
        let min = f64::from(self.terms.min.max(1));
        limit.clamp(min, f64::from(self.terms.max).max(min))
    }
}

/// Whether a cut left latency as it was, so that the upstream itself is slower: 1 if it did, 0 if latency came down by half
/// as much or more.
fn slower(before: &Point, point: &Point) -> f64 {
    let (more, later) = (point.in_use - before.in_use, point.latency - before.latency);
    match more < 0.0 {
        true => (1.0 - 2.0 * later / more).clamp(0.0, 1.0) * point.confidence(),
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn stays_between_its_ends_whatever_it_is_told(
            ends in (0u32..20, 0u32..2_000), initial in any::<u32>(),
            samples in proptest::collection::vec((any::<bool>(), any::<u64>(), 0usize..5_000, 1u32..30, any::<u32>()), 1..100),
        ) {
            let terms = Terms { min: ends.0, max: ends.1, initial };
            let (mut adaptive, mut now) = (Adaptive::new(terms, Tick(0)), Tick(0));
            for (served, nanos, in_use, number, pause) in samples {
                let (mut window, latency) = (Window::default(), Duration::from_nanos(nanos));
                for _ in 0..number {
                    match served {
                        true => window.served(latency, in_use),
                        false => window.dropped(latency, in_use),
                    }
                }
                now = now.after(Duration::from_nanos(pause.into()));
                let before = adaptive.limit();
                let changed = adaptive.absorb(&window, now);
                prop_assert_eq!(changed.is_some(), adaptive.limit() != before);
                prop_assert!(adaptive.limit() >= ends.0.max(1) && adaptive.limit() <= ends.1.max(ends.0).max(1));
                prop_assert!(adaptive.gain().is_finite() && adaptive.limit.is_finite());
            }
        }
    }
}
