//! Who saturates an upstream, since when, and what was done about it: what an operator is told, in `/status`, by
//! `tidegate status` and by the log.
//!
//! It is told of the saturation that lasts, or of the last one: whoever is woken by an alarm comes later.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tidegate_model::gate::fair::{Episode, Picture};
use tidegate_model::tick::{Tick, rfc3339};
use tidegate_wire::clock;

/// Above this share of the slot time, one tenant is why.
const ONE_TENANT: f64 = 0.5;
/// How long it must have been saturated for the log to say so.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// The log says so of one upstream no more often than this, and while it lasts this often.
const TOLD_EVERY: Duration = Duration::from_secs(10);
const REPEATED_EVERY: Duration = Duration::from_secs(60);

/// One time of saturation.
#[derive(Clone, Debug, JsonSchema, PartialEq, Serialize)]
#[schemars(deny_unknown_fields)]
pub struct Verdict {
    /// When it began, in UTC (RFC 3339).
    pub began: String,
    /// How long it lasted, or has lasted.
    pub lasted_ms: u64,
    /// Whether it is over.
    pub over: bool,
    /// The tenant that used most of the slot time; `None`: nobody has given a slot back yet.
    pub tenant: Option<Arc<str>>,
    /// The route on which that tenant used most.
    pub route: Option<Arc<str>>,
    /// The tenant's share of the slot time used of late, on all routes: 0 to 1.
    pub share: f64,
    /// Requests that had to wait, of all tenants and of this one.
    pub queued: u64,
    /// See `queued`.
    pub tenant_queued: u64,
    /// Requests that were refused, of all tenants and of this one.
    pub refused: u64,
    /// See `refused`.
    pub tenant_refused: u64,
    /// The longest wait of a request that got a slot.
    pub waited_max_ms: u64,
    /// All of it in a sentence.
    pub text: String,
}

impl Verdict {
    /// `None`: it was never saturated.
    pub(super) fn of(picture: &Picture, now: Tick) -> Option<Verdict> {
        let episode = picture.episode.as_ref()?;
        let until = if picture.saturated { now } else { episode.last };
        let mut verdict = Verdict {
            began: began(episode, now),
            lasted_ms: millis(until.since(episode.began)),
            over: !picture.saturated,
            tenant: None,
            route: None,
            share: 0.0,
            queued: episode.queued,
            tenant_queued: 0,
            refused: episode.refused,
            tenant_refused: 0,
            waited_max_ms: millis(episode.waited_max),
            text: String::new(),
        };
        verdict.accuse(picture);
        verdict.text = verdict.to_string();
        Some(verdict)
    }

    /// Finds who used most on all routes together.
    fn accuse(&mut self, picture: &Picture) {
        let of = |tenant: &Arc<str>| {
            let shares = picture.shares.iter().filter(|share| share.tenant == *tenant);
            shares.fold((0.0, 0, 0), |(used, queued, refused), share| {
                (used + share.slot_time, queued + share.queued, refused + share.refused)
            })
        };
        // The heaviest comes first, so the first share of a tenant names its heaviest route.
        let mut worst = None::<(f64, u64, u64)>;
        for share in &picture.shares {
            let sums = of(&share.tenant);
            if worst.is_none_or(|(most, ..)| sums.0 > most) {
                worst = Some(sums);
                (self.tenant, self.route) = (Some(Arc::clone(&share.tenant)), Some(Arc::clone(&share.route)));
            }
        }
        let (share, queued, refused) = worst.unwrap_or_default();
        self.share = (share * 1e3).round() / 1e3;
        (self.tenant_queued, self.tenant_refused) = (queued, refused);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.lasted_ms as f64 / 1e3;
        let percent = self.share * 100.0;
        match self.over {
            true => write!(out, "was saturated for {seconds:.1} s from {}: ", self.began)?,
            false => write!(out, "saturated for {seconds:.1} s, since {}: ", self.began)?,
        }
        match (&self.tenant, &self.route) {
            (Some(tenant), Some(route)) if self.share >= ONE_TENANT => {
                write!(out, "tenant {tenant} used {percent:.0} % of the slot time, mostly on route {route}")?;
            }
            (Some(tenant), Some(route)) => write!(
                out,
                "no tenant used most of the slot time, {tenant} {percent:.0} % of it, mostly on route {route}"
            )?,
            _ => write!(out, "no slot has been given back yet")?,
        }
        write!(
            out,
            "; {} requests waited ({} of this tenant), {} ms at most; {} were refused ({} of this tenant)",
            self.queued, self.tenant_queued, self.waited_max_ms, self.refused, self.tenant_refused
        )
    }
}

fn began(episode: &Episode, now: Tick) -> String {
    let wall = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}Z", rfc3339(wall.saturating_sub(now.since(episode.began)).as_secs()))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the log has said.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// When it last said that it is saturated.
    at: Option<Tick>,
    /// Whether it has still to say that this is over.
    open: bool,
}

/// What the log is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tell {
    Nothing,
    Saturated,
    Over,
}

impl Told {
    /// Whether anything may be to tell.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// It has been saturated for so long (`None`: it is not). Few lines, however often it comes and goes.
    pub(super) fn look(&mut self, lasted: Option<Duration>, now: Tick) -> Tell {
        let pause = if self.open { REPEATED_EVERY } else { TOLD_EVERY };
        match lasted {
            Some(lasted) if lasted >= TOLD_AFTER && self.at.is_none_or(|at| now.since(at) >= pause) => {
                (self.at, self.open) = (Some(now), true);
                Tell::Saturated
            }
            None if std::mem::take(&mut self.open) => Tell::Over,
            _ => Tell::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::gate::fair::Share;

    fn share(tenant: &str, route: &str, slot_time: f64, queued: u64, refused: u64) -> Share {
        Share { tenant: tenant.into(), route: route.into(), slot_time, waiting: 0, queued, refused }
    }

    fn check(saturated: bool, shares: Vec<Share>, text: &str) -> Verdict {
        let now = clock::now();
        let began = Tick(now.0.saturating_sub(12_400_000_000));
        let last = Tick(now.0.saturating_sub(2_400_000_000));
        let waited_max = Duration::from_millis(180);
        let episode = Episode { began, last, queued: 340, refused: 120, waited_max };
        let picture =
            Picture { saturated, episode: Some(episode), limit: 8, in_use: 8, waiting: 3, bytes: 1, shares };
        let verdict = Verdict::of(&picture, now).expect("it was saturated");
        assert_eq!(verdict.text.replace(&verdict.began, "THEN"), text);
        verdict
    }

    #[test]
    fn names_the_tenant_that_used_most_on_all_routes_and_what_was_done() {
        let shares = vec![
            share("b", "list", 0.4, 9, 1),
            share("a", "search", 0.35, 200, 70),
            share("a", "list", 0.25, 100, 40),
        ];
        let verdict = check(
            false,
            shares,
            "was saturated for 10.0 s from THEN: tenant a used 60 % of the slot time, mostly on route search; 340 \
             requests waited (300 of this tenant), 180 ms at most; 120 were refused (110 of this tenant)",
        );
        assert_eq!((verdict.over, verdict.share, verdict.lasted_ms), (true, 0.6, 10_000));
    }

    #[test]
    fn accuses_nobody_where_many_want_more_than_there_is() {
        let shares = vec![share("b", "list", 0.3, 9, 1), share("a", "list", 0.2, 8, 0)];
        check(
            true,
            shares,
            "saturated for 12.4 s, since THEN: no tenant used most of the slot time, b 30 % of it, mostly on route \
             list; 340 requests waited (9 of this tenant), 180 ms at most; 120 were refused (1 of this tenant)",
        );
    }

    #[test]
    fn the_log_says_few_things_however_often_it_comes_and_goes() {
        let (mut told, second) = (Told::default(), Duration::from_secs(1));
        let mut said = Vec::new();
        for at in 1..=200u64 {
            // Saturated for three seconds of four, and from the hundredth on for good.
            let lasted = if at >= 100 {
                Some(second * (at - 99) as u32)
            } else {
                (at % 4 != 0).then(|| second * (at % 4) as u32)
            };
            match told.look(lasted, Tick(at * 1_000_000_000)) {
                Tell::Nothing => {}
                tell => said.push((at, tell)),
            }
        }
        let saturated: Vec<u64> =
            said.iter().filter(|one| one.1 == Tell::Saturated).map(|one| one.0).collect();
        assert_eq!(saturated, [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 101, 161]);
        // Whatever it says begins, it says is over.
        assert_eq!(said.iter().filter(|one| one.1 == Tell::Over).count(), 10);
    }
}
