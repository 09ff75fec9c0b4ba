//! What is known of the gain: d ln(goodput) / d ln(concurrency).
//!
//! Each window is compared with what the last ones were like, not with its neighbour alone: while the limit wanders slowly, it is
//! the way from where it was that tells, and the mean of several is less noise. Where goodput has changed by more than any
//! change of concurrency can explain, it is the upstream that has changed: nothing is learnt of that, and comparison begins
//! anew.

use super::{GAIN_RIGHT, Point};

/// What is assumed of the gain before it is measured, and its variance: a little room, so that it is looked for.
const PRIOR: f64 = GAIN_RIGHT + 0.02;
const PRIOR_VARIANCE: f64 = 0.15;
/// How much of the evidence is kept a window; more while there is less than that, for where requests are few it takes long
/// to gather.
const KEEP: f64 = 0.96;
const FEW: f64 = 8.0;
const KEEP_FEW: f64 = 0.98;
/// No more evidence is held than this, however many the requests: what is new must count.
const MOST: f64 = 20.0;
/// A share of drops at which a window tells nothing of the gain.
const DROPS_MANY: f64 = 0.5;
/// How fast what windows are compared with follows them.
const FOLLOW: f64 = 0.25;

/// The evidence.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    /// Sums of products of differences over their noise.
    covariance: f64,
    variance: f64,
    /// What the last windows were like, if they used the limit.
    reference: Option<Point>,
}

impl Evidence {
    /// The gain: 1 where there is room, 0 where all that is added queues.
    pub fn gain(&self) -> f64 {
        let gain = (self.covariance + PRIOR / PRIOR_VARIANCE) / (self.variance + 1.0 / PRIOR_VARIANCE);
        gain.clamp(-1.0, 1.0)
    }

    /// Its standard error.
    pub fn error(&self) -> f64 {
        (self.variance + 1.0 / PRIOR_VARIANCE).sqrt().recip()
    }

    /// How sure it is that there is room, so that latency is not for queueing: 0 to 1.
    pub fn room(&self) -> f64 {
        (2.0 * (self.gain() - PRIOR)).clamp(0.0, 1.0)
    }

    /// Learns from a window that used the limit.
    pub fn take(&mut self, point: &Point) {
        let reference = self.reference.filter(|reference| !reference.is_of_another(point));
        if let Some(reference) = &reference {
            self.learn(reference, point);
        }
        self.reference = Some(reference.map_or(*point, |reference| reference.follow(point, FOLLOW)));
    }

    fn learn(&mut self, reference: &Point, point: &Point) {
        if reference.drops.max(point.drops) > DROPS_MANY {
            return;
        }
        let (more, gained) = (point.in_use - reference.in_use, point.goodput - reference.goodput);
        let weight = 1.0 / (point.noise + reference.noise);
        // No single difference tells of more than can be: noise is cut alike on both sides of what can.
        let ends = (-1.5 * more.abs(), 2.5 * more.abs());
        let gain = (gained * more.signum()).clamp(ends.0, ends.1) * more.signum();
        let keep = if self.variance > FEW { KEEP } else { KEEP_FEW };
        let (covariance, variance) =
            (keep * self.covariance + weight * more * gain, keep * self.variance + weight * more * more);
        let fits = (MOST / variance).min(1.0);
        (self.covariance, self.variance) = (covariance * fits, variance * fits);
    }

    /// The limit was not used: nothing is compared with what was before that.
    pub fn pause(&mut self) {
        self.reference = None;
    }

    /// It may be another upstream from now on: so much of what was learnt is kept.
    pub fn doubt(&mut self, keep: f64) {
        self.covariance *= keep;
        self.variance *= keep;
        self.reference = None;
    }
}
