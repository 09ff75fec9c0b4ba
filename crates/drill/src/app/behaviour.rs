//! How a server behaves, and what therefore becomes of a request: a pure decision of seed and number.

use std::time::Duration;

use crate::chance::{Chance, mix};

/// How a server behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// Requests it works on at the same time.
    pub slots: usize,
    /// Requests that wait for a slot, first come, first served; one more is answered 503 at once. Most servers have no
    /// such bound: `usize::MAX`.
    pub waiting_max: usize,
    /// How long a request takes once it has a slot.
    pub service: Service,
    /// What all service times are multiplied by: 3.0 is a server at a third of its capacity.
    pub slowdown: f64,
    /// A server that is ill and passes its health checks.
    pub gray: Gray,
    /// A tenant whose requests harm the server.
    pub poison: Option<Poison>,
    /// What a good answer is.
    pub answer: Answer,
}

/// A good answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its `Cache-Control`: what a cache may do with it. Empty: the field is not there.
    pub cache_control: &'static str,
    /// Bytes of its content, at most [`ANSWER_BYTES_MAX`]. None: `ok`.
    pub bytes: usize,
    /// Where it answers a `POST`: its `Tidegate-Purge`, what is no longer so. Empty: the field is not there.
    pub purge: &'static str,
}

/// No answer is larger.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How long requests take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Service {
    /// All the same.
    Constant(Duration),
    /// Exponential, with this mean.
    Exponential(Duration),
    /// Log-normal: most take about the median, some very much longer.
    LogNormal {
        /// Half of them take longer.
        median: Duration,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
}

/// A gray failure: health checks see nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gray {
    /// Share of requests that are slow.
    pub slow_share: f64,
    /// How many times longer those take.
    pub slow_factor: f64,
    /// Share of requests that are answered 500, after their service time.
    pub error_share: f64,
}

/// Requests that harm the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poison {
    /// Whose (`Tidegate-Tenant`).
    pub tenant: String,
    /// What they do.
    pub harm: Harm,
}

/// What a poisonous request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The whole process answers nothing for so long.
    Hang(Duration),
    /// The process dies and comes back after so long.
    Crash(Duration),
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    pub service: Duration,
    pub fails: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            slots: 8,
            waiting_max: usize::MAX,
            service: Service::Exponential(Duration::from_millis(20)),
            slowdown: 1.0,
            gray: Gray::default(),
            poison: None,
            answer: Answer::default(),
        }
    }
}

impl Behaviour {
    /// What becomes of the request of this number when it comes for the `round`-th time.
    pub(super) fn fate(&self, seed: u64, number: u64, round: u64) -> Fate {
        let mut chance = Chance::new(mix(seed ^ mix(number)), round);
        let (first, second) = (chance.unit(), chance.unit());
        let mut factor = self.slowdown;
        if chance.unit() < self.gray.slow_share {
            factor *= self.gray.slow_factor;
        }
        let seconds = self.service.seconds(first, second) * factor;
        Fate { service: bounded(seconds), fails: chance.unit() < self.gray.error_share }
    }

    /// What a request of this tenant does to the server.
    pub(super) fn harm(&self, tenant: &str) -> Option<Harm> {
        self.poison.as_ref().filter(|poison| poison.tenant == tenant).map(|poison| poison.harm)
    }
}

/// No single request takes longer, whatever was drawn.
const SERVICE_MAX: Duration = Duration::from_secs(60);

fn bounded(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(SERVICE_MAX).min(SERVICE_MAX)
}

impl Service {
    /// Its mean.
    #[must_use]
    pub fn mean(self) -> Duration {
        match self {
            Service::Constant(time) | Service::Exponential(time) => time,
            Service::LogNormal { median, sigma } => {
                bounded(median.as_secs_f64() * (sigma * sigma / 2.0).exp())
            }
        }
    }

    /// A service time, of two even chances in [0, 1).
    fn seconds(self, first: f64, second: f64) -> f64 {
        match self {
            Service::Constant(time) => time.as_secs_f64(),
            Service::Exponential(mean) => -(1.0 - first).ln() * mean.as_secs_f64(),
            Service::LogNormal { median, sigma } => {
                // Box and Muller 1958.
                let normal = (-2.0 * (1.0 - first).ln()).sqrt() * (std::f64::consts::TAU * second).cos();
                median.as_secs_f64() * (sigma * normal).exp()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(service: Service) -> Behaviour {
        Behaviour { service, ..Behaviour::default() }
    }

    fn check(behaviour: &Behaviour, seed: u64) -> (Duration, f64) {
        const MANY: u64 = 20_000;
        let fates: Vec<_> = (0..MANY).map(|number| behaviour.fate(seed, number, 0)).collect();
        let failed = fates.iter().filter(|fate| fate.fails).count();
        let total: Duration = fates.iter().map(|fate| fate.service).sum();
        (total / MANY as u32, failed as f64 / MANY as f64)
    }

    #[test]
    fn each_distribution_has_the_mean_that_it_says() {
        let time = Duration::from_millis(20);
        for service in [
            Service::Constant(time),
            Service::Exponential(time),
            Service::LogNormal { median: time, sigma: 0.8 },
        ] {
            let (mean, failed) = check(&with(service), 7);
            let ratio = mean.as_secs_f64() / service.mean().as_secs_f64();
            assert!((0.97..1.03).contains(&ratio), "{service:?}: {ratio}");
            assert_eq!(failed, 0.0);
        }
    }

    #[test]
    fn a_gray_server_is_slow_and_wrong_as_often_as_it_says() {
        let gray = Gray { slow_share: 0.25, slow_factor: 9.0, error_share: 0.1 };
        let behaviour = Behaviour { gray, ..with(Service::Constant(Duration::from_millis(10))) };
        let (mean, failed) = check(&behaviour, 11);
        assert!((0.029..0.031).contains(&mean.as_secs_f64()), "{mean:?}");
        assert!((0.09..0.11).contains(&failed), "{failed}");
    }

    proptest! {
        #[test]
        fn a_seed_and_a_number_have_one_fate_and_a_slowdown_multiplies_it(
            seed: u64, number: u64, round in 0u64..4, slowdown in 1.0f64..50.0,
        ) {
            let behaviour = with(Service::Exponential(Duration::from_millis(20)));
            let fate = behaviour.fate(seed, number, round);
            prop_assert_eq!(fate, behaviour.fate(seed, number, round));
            let slower = Behaviour { slowdown, ..behaviour }.fate(seed, number, round);
            let wanted = fate.service.as_secs_f64() * slowdown;
            prop_assert!((slower.service.as_secs_f64() - wanted).abs() < 1e-6, "{:?} {}", slower, wanted);
        }

        #[test]
        fn no_distribution_gives_a_time_that_is_none(seed: u64, number: u64, sigma in 0.0f64..100.0) {
            let median = Duration::from_secs(1);
            let fate = with(Service::LogNormal { median, sigma }).fate(seed, number, 0);
            prop_assert!(fate.service <= SERVICE_MAX);
        }
    }
}
