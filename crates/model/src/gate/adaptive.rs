//! The concurrency limit of an upstream, found from what it answers: no more at once than makes it answer more.
//!
//! An upstream that has room answers more when it is asked more at once; one that has none answers as much, later (Little's
//! law). So the limiter asks, over windows of a tenth of a second or more, *by how much does goodput rise with concurrency?*
//! That is the *gain*, d ln(goodput) / d ln(concurrency), from the differences between neighbouring windows: 1 where there is
//! room, 0 where all that is added queues, below 0 where more is less.
//!
//! - Above [`GAIN_RIGHT`] the limit grows, below it falls: in proportion, and by how sure it is (the gain is taken as right
//!   until measured otherwise, so that noise moves the limit little). See `evidence`.
//! - So that there are differences, a limit that is used *breathes*: one window in four, drawn by hash lest it fall in step
//!   with the upstream, is lower by a fifth.
//! - A small limit errs upward. With eight slots, one too few costs an eighth of all that can be done, one too many an eighth
//!   of a service time of latency; and where slots are few, so are samples. So it grows a little by itself, and it does
//!   not fall for a gain below 0 that may be chance.
//! - Latency is for emergencies. When it is far above the usual, the limit is cut at once: by as much as the samples are
//!   sure of, and not below most of what the upstream has carried at its least latency, unless a cut is seen to help. A cut
//!   that did not lower latency was no cut of a queue: then the upstream itself has become slower, that is the usual from now
//!   on, and the cut is taken back. What was cut grows back quickly, unless more at once is seen to bring nothing.
//!   Latencies are taken as geometric means: like a median that hardly sees outliers, and unlike a median it does not
//!   jump between the modes of an upstream that answers some requests in 2 ms and some in 100.
//! - And it is a leash: where requests are few or very different, the gain is known late, and the limit would wander. It goes
//!   no further than some times what was carried at the least latency; above `SMALL` also no further than latency is
//!   some times the least.
//! - What was dropped (overload answers, resets, time-outs) is no goodput, and counts as four times the usual latency, so that
//!   a quick 503 does not look fast. While most is dropped, it tells nothing of the limit, which
//!   is cut once and stays.
//! - While the limit is not used, it stays.
//!
//! Against what went wrong elsewhere: Envoy's adaptive concurrency lets a handful through while it measures a minimum, and
//! answers 503 meanwhile (Envoy #11579, #38338); no window here is lower by more than a fifth. Vegas keeps a minimum for
//! ever, and collapses when the upstream becomes slower; here the minimum only holds the leash, and what was carried at it
//! counts more than it. Netflix's gradient2 lets its long-term latency follow the short-term one, so that a queue that
//! stands becomes the usual, and the limit drifts up; here the usual follows too, but does not set the limit.
//!
//! Deterministic, and without a clock. It judges an upstream as a whole: a slow endpoint is the balancer's concern.

use std::time::Duration;

use self::evidence::Evidence;
use self::window::{Point, Usual};
use crate::balance::mix;
use crate::tick::Tick;

pub use self::window::Window;

mod evidence;
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
const BREATH: f64 = 0.2;
/// A limit of which less is used tells nothing.
const USED_MIN: f64 = 0.75;

/// Up to this a limit is small: it is held by no leash of latency, and errs upward. So few at once are no long queue.
const SMALL: f64 = 16.0;
/// No emergency cuts to less than this.
const FEW: f64 = 10.0;

/// How far it moves a window, in ln, for a gain that is off by one; and how much faster it falls where the gain is surely
/// too low.
const MOVE: f64 = 0.14;
const FASTER: f64 = 2.5;
/// How far it grows a window whatever the gain, in ln over the limit: a small limit gives little evidence, and one slot too
/// many costs little.
const PUSH: f64 = 0.15;
/// The leash: beyond so far, in ln, the limit falls by so much a window for each one.
const LEASH: f64 = 1.0;
const PULL: f64 = 0.2;
/// How far it grows a window at the start, in ln, until it has met a sign of queueing: a gain so much too low, and latency
/// so far above the least, in ln, if the gain is not surely too low.
const START: f64 = 0.2;
const SIGN: f64 = 0.08;
const LATER: f64 = 0.2;

/// ln of how far above the usual a latency is an emergency, and of what the limit is cut by then at most.
const ABOVE: f64 = 0.5;
const CUT_MAX: f64 = 0.5;
/// An emergency does not cut to less than this share of what was carried at the least latency; and each time that it is so
/// sure that this has helped, to that share of that.
const FLOOR: f64 = 0.75;
const HELPED: f64 = 0.5;
/// After an emergency it grows as quickly again to this share of what it was, and to the second one until it is seen that
/// more at once brings nothing.
const BACK_SURELY: f64 = 0.7;
const BACK: f64 = 0.9;
/// ln of how far below the usual a latency is a relief, if it is near the least, and how many times its standard error that is
/// at least; and of how far it is one wherever the least is.
const BELOW: f64 = 0.3;
const BELOW_ERRORS: f64 = 4.0;
const BELOW_FAR: f64 = 0.9;
/// How much of the evidence is kept over an emergency and over a relief, for it may be another upstream after that.
const KEEP_EMERGENCY: f64 = 0.1;
const KEEP_RELIEF: f64 = 0.3;
/// A share of drops at which a window tells nothing of the gain.
const DROPS_MANY: f64 = 0.5;

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
    evidence: Evidence,
    /// Up to here it grows quickly: at first until it meets a sign of queueing, after an emergency towards where it was.
    aim: f64,
    /// Up to here it grows quickly until more at once is seen to bring nothing.
    back: f64,
    /// The emergency that the last window was.
    cut: Option<Cut>,
}

/// An emergency.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The limit before it.
    was: f64,
    /// How far it may be cut.
    floor: f64,
}

/// What latency tells, in ln.
#[derive(Clone, Copy, Debug)]
struct Signs {
    /// The geometric mean of late.
    latency: f64,
    /// How far that is above what is an emergency.
    over: f64,
    /// How far it is above the least; and whether that is so far that something queues.
    excess: f64,
    queued: bool,
    /// Whether it is so far below the usual that the upstream itself has become faster.
    relief: bool,
    /// How far the limit is beyond the leash.
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
            evidence: Evidence::default(),
            aim: f64::INFINITY,
            back: 0.0,
            cut: None,
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
        self.evidence.gain()
    }

    /// Goes on from what another process has found; the rest it has to learn anew.
    pub fn go_on_from(&mut self, limit: u32) {
        self.limit = self.bounded(f64::from(limit));
        self.applied = self.limit.round() as u32;
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
        self.began = now.after((usual.rest().max(window.mean()) * 3 / 2).min(SETTLE_MAX));
        Some(self.applied)
    }

    fn judge(&mut self, window: &Window, elapsed: Duration) -> Usual {
        let mut usual = Usual::after(self.usual, window);
        let point = Point::of(window, elapsed, &usual);
        let used = window.in_use() >= USED_MIN * f64::from(self.applied);
        if used {
            let before = self.before.replace(point);
            if let (Some(before), Some(cut)) = (before, &mut self.cut) {
                let (slower, helped) = verdict(&before, &point, usual.spread_ln());
                if helped > HELPED {
                    cut.floor *= FLOOR;
                }
                usual.slower(slower * (point.latency - usual.all));
                self.limit *= (cut.was / self.limit).powf(slower);
            }
            self.evidence.take(&point);
            let signs = self.signs(&point, &usual);
            self.heed(&point, &signs, &mut usual);
            self.step(&point, &signs);
            self.breathe();
        } else {
            self.before = None;
            self.evidence.pause();
            self.applied = self.bounded(self.limit).round() as u32;
        }
        usual.follow(&point, self.evidence.room(), used);
        usual
    }

    /// What latency tells. Looks at more than the last window: of one in which all slots were held by long requests, those
    /// are all that one sees.
    fn signs(&mut self, point: &Point, usual: &Usual) -> Signs {
        let (sum, samples) = self.recent;
        let (sum, samples) = (sum / 2.0 + point.latency * point.samples, samples / 2.0 + point.samples);
        let (latency, error) = (sum / samples, (usual.spread_ln() / samples).sqrt());
        let far = ABOVE.max(3.0 * error);
        let over = latency - usual.all - far;
        self.recent = if over > 0.0 { (0.0, 0.0) } else { (sum, samples) };
        let (below, excess) = (usual.all - latency, latency - usual.least);
        let (later, more) = (usual.all - usual.least, self.limit.ln() - usual.calm);
        let stretched = if self.limit > SMALL { later } else { later.min(more) };
        Signs {
            latency,
            over,
            excess,
            queued: excess > far,
            relief: below > BELOW.max(BELOW_ERRORS * error) && (excess < LATER || below > BELOW_FAR),
            beyond: (stretched - LEASH).max(0.0),
        }
    }

    /// Emergencies, reliefs and signs of queueing: what changes by them, the limit aside.
    fn heed(&mut self, point: &Point, signs: &Signs, usual: &mut Usual) {
        let (off, surely_low) = self.off();
        if off <= -SIGN {
            self.back = 0.0;
        }
        let blind = point.drops > DROPS_MANY;
        let emergency = signs.over > 0.0;
        if emergency && self.cut.is_none() {
            self.aim = self.limit * BACK_SURELY;
            self.back = self.back.max(self.limit * BACK);
            let floor = (usual.calm.exp().min(self.limit) * FLOOR).max(FEW);
            self.cut = Some(Cut { was: self.limit, floor });
            self.evidence.doubt(KEEP_EMERGENCY);
        } else if !blind && signs.relief && self.cut.is_none() {
            usual.all = signs.latency;
            self.evidence.doubt(KEEP_RELIEF);
        } else if !blind && (signs.queued || off <= -SIGN && (signs.excess > LATER || surely_low)) {
            self.aim = self.aim.min(self.limit);
        }
        if !emergency {
            self.cut = None;
        }
    }

    /// How far the gain is off, and whether it is surely too low. A small limit does not fall for a gain below 0 that may be
    /// chance.
    fn off(&self) -> (f64, bool) {
        let (gain, error) = (self.evidence.gain(), self.evidence.error());
        let heeded = if gain < 0.0 && self.limit <= SMALL { (gain + error).min(0.0) } else { gain };
        (heeded - GAIN_RIGHT, gain + error < GAIN_RIGHT)
    }

    /// Moves the limit.
    fn step(&mut self, point: &Point, signs: &Signs) {
        let (off, surely_low) = self.off();
        let speed = if surely_low && self.limit > FEW { MOVE * FASTER } else { MOVE };
        let by = match self.cut {
            Some(_) => -signs.over.min(CUT_MAX) * point.confidence(),
            None if point.drops > DROPS_MANY => 0.0,
            None if self.limit < self.aim => START,
            None if self.limit < self.back && off > -SIGN => START,
            None => speed * off + PUSH / self.limit - PULL * signs.beyond * (1.0 - self.evidence.room()),
        };
        let least = self.cut.map_or(0.0, |cut| cut.floor.min(self.limit));
        self.limit = self.bounded((self.limit * by.exp()).max(least));
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

/// How sure it is that a cut left latency as it was, so that the upstream itself is slower, and that it helped: latency came
/// down by half as much or more.
fn verdict(before: &Point, point: &Point, spread_ln: f64) -> (f64, f64) {
    let (more, later) = (point.in_use - before.in_use, point.latency - before.latency);
    if more >= 0.0 {
        return (0.0, 0.0);
    }
    let noise = spread_ln * (1.0 / before.samples + 1.0 / point.samples);
    let sure = more * more / (more * more + noise);
    let slower = (1.0 - 2.0 * later / more).clamp(0.0, 1.0);
    (slower * sure, (1.0 - slower) * sure)
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
