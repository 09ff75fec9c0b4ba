//! Faults that an operator injects to rehearse: a delay, an answer of Tidegate's own instead of the application's, a slow
//! body, a body that is cut, a connection that ends without an answer.
//!
//! Pure: which faults strike an exchange, and what they come to together. Every fault ends: it has an end when it is
//! made, and who asks whether it strikes brings the time, so that nobody has to be there to end it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use smallvec::SmallVec;

use crate::balance::{mix, unit};
use crate::tick::Tick;

/// The most faults at once.
pub const FAULTS_MAX: usize = 32;
/// The longest that a fault lasts. Who rehearses longer says so again.
pub const DURATION_MAX: Duration = Duration::from_secs(3600);
/// The longest delay.
pub const DELAY_MAX: Duration = Duration::from_secs(300);

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The exchange waits so long before it goes on.
    Delay(Duration),
    /// It is answered with this status, as if the first upstream had done so.
    Abort(StatusCode),
    /// Its connection ends without an answer; over HTTP/2, its stream is reset.
    Reset,
    /// The response's body comes with so many bytes a second.
    Throttle(u64),
    /// The response's body ends, broken, after so many bytes.
    Truncate(u64),
}

impl Kind {
    /// The names of all kinds, in the order of [`Kind::place`].
    pub const NAMES: [&str; 5] = ["delay", "abort", "reset", "throttle", "truncate"];

    /// Its place among [`Kind::NAMES`].
    #[must_use]
    pub fn place(self) -> usize {
        match self {
            Kind::Delay(_) => 0,
            Kind::Abort(_) => 1,
            Kind::Reset => 2,
            Kind::Throttle(_) => 3,
            Kind::Truncate(_) => 4,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Kind::NAMES[self.place()]
    }
}

/// A fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its name; no other fault has it at the same time.
    pub name: Arc<str>,
    /// What it does.
    pub kind: Kind,
    /// Whose exchanges it strikes; `None`: everybody's.
    pub tenant: Option<Arc<str>>,
    /// On which route; `None`: on all.
    pub route: Option<Arc<str>>,
    /// What share of these, above 0, at most 1.
    pub share: f64,
    /// Who has made it.
    pub by: Arc<str>,
    /// When it ends.
    pub until: Tick,
}

impl Fault {
    /// Whether it strikes an exchange of this tenant on this route, now.
    #[must_use]
    pub fn strikes(&self, tenant: &str, route: &str, chance: u64, now: Tick) -> bool {
        now < self.until
            && self.tenant.as_deref().is_none_or(|only| only == tenant)
            && self.route.as_deref().is_none_or(|only| only == route)
            && unit(chance) < self.share
    }
}

/// What strikes one exchange: what several faults come to together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Struck {
    /// The places of the faults in the list, in its order.
    pub by: SmallVec<[u8; 4]>,
    /// The longest of the delays.
    pub delay: Duration,
    /// Instead of an answer: the first of those that there are.
    pub instead: Option<Instead>,
    /// The least of the paces, in bytes a second.
    pub throttle: Option<u64>,
    /// The earliest of the ends, in bytes.
    pub truncate: Option<u64>,
}

/// What comes instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// This status.
    Abort(StatusCode),
    /// Nothing, and the connection ends.
    Reset,
}

/// What of these strikes an exchange. Each has a chance of its own, drawn from the one word.
#[must_use]
pub fn draw<'a>(
    faults: impl IntoIterator<Item = &'a Fault>,
    tenant: &str,
    route: &str,
    chance: u64,
    now: Tick,
) -> Option<Struck> {
    let mut struck = Struck::default();
    for (fault, place) in faults.into_iter().zip(0u8..) {
        if !fault.strikes(tenant, route, mix(chance ^ mix(place.into())), now) {
            continue;
        }
        struck.by.push(place);
        let least = |held: Option<u64>, new: u64| Some(held.map_or(new, |held| held.min(new)));
        match fault.kind {
            Kind::Delay(wait) => struck.delay = struck.delay.max(wait),
            Kind::Abort(status) => struck.instead = struck.instead.or(Some(Instead::Abort(status))),
            Kind::Reset => struck.instead = struck.instead.or(Some(Instead::Reset)),
            Kind::Throttle(pace) => struck.throttle = least(struck.throttle, pace),
            Kind::Truncate(bytes) => struck.truncate = least(struck.truncate, bytes),
        }
    }
    (!struck.by.is_empty()).then_some(struck)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(kind: Kind, share: f64) -> Fault {
        let until = Tick(1_000);
        Fault { name: "f".into(), kind, tenant: None, route: None, share, by: "ops".into(), until }
    }

    const RESET: Kind = Kind::Reset;

    /// Whether a fault of this tenant and route strikes at this time.
    fn check(only: (Option<&str>, Option<&str>), tenant: &str, route: &str, now: u64, strikes: bool) {
        let (only_tenant, only_route) = (only.0.map(Arc::from), only.1.map(Arc::from));
        let fault = Fault { tenant: only_tenant, route: only_route, ..fault(RESET, 1.0) };
        assert_eq!(
            draw([&fault], tenant, route, 7, Tick(now)).is_some(),
            strikes,
            "{only:?} {tenant} {route} {now}"
        );
    }

    #[test]
    fn strikes_whom_it_is_meant_for_until_it_ends() {
        check((None, None), "acme", "search", 999, true);
        check((None, None), "acme", "search", 1_000, false);
        check((Some("acme"), None), "acme", "search", 0, true);
        check((Some("acme"), None), "acme2", "search", 0, false);
        check((Some("acme"), Some("search")), "acme", "search", 0, true);
        check((Some("acme"), Some("search")), "acme", "orders", 0, false);
        check((None, Some("search")), "other", "search", 0, true);
    }

    #[test]
    fn several_come_to_the_worst_of_each() {
        let second = Duration::from_secs(1);
        let all = [
            Kind::Delay(second),
            Kind::Truncate(10),
            Kind::Abort(StatusCode::BAD_GATEWAY),
            Kind::Delay(second * 3),
            RESET,
            Kind::Throttle(100),
            Kind::Throttle(50),
            Kind::Truncate(20),
        ]
        .map(|kind| fault(kind, 1.0));
        let struck = draw(&all, "acme", "search", 7, Tick(0)).expect("all strike");
        let instead = Some(Instead::Abort(StatusCode::BAD_GATEWAY));
        let by = (0..8).collect();
        let expected = Struck { by, delay: second * 3, instead, throttle: Some(50), truncate: Some(10) };
        assert_eq!(struck, expected);
        assert_eq!(draw([], "acme", "search", 7, Tick(0)), None);
    }

    #[test]
    fn each_kind_has_a_name() {
        let kinds = [
            Kind::Delay(DELAY_MAX),
            Kind::Abort(StatusCode::OK),
            RESET,
            Kind::Throttle(1),
            Kind::Truncate(0),
        ];
        assert_eq!(kinds.map(Kind::name), Kind::NAMES);
    }

    proptest! {
        #[test]
        fn strikes_its_share_and_faults_are_drawn_apart(seed in any::<u64>(), share in 0.05f64..0.95) {
            let both = [fault(RESET, share), fault(Kind::Delay(DELAY_MAX), share)];
            let mut counts = [0u32; 3];
            for step in 0..4_000 {
                let struck = draw(&both, "a", "b", mix(seed.wrapping_add(step)), Tick(0)).unwrap_or_default();
                counts[0] += u32::from(struck.by.contains(&0));
                counts[1] += u32::from(struck.by.contains(&1));
                counts[2] += u32::from(struck.by.len() == 2);
            }
            for (count, share) in counts.into_iter().zip([share, share, share * share]) {
                // Six standard deviations.
                let slack = 6.0 * (4_000.0 * share * (1.0 - share)).sqrt();
                prop_assert!((f64::from(count) - share * 4_000.0).abs() < slack, "{:?} of {}", counts, share);
            }
        }
    }
}
