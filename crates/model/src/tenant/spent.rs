//! What tenants have spent of their limits, told to the process that takes over, so that nobody gets a second allowance.
//!
//! The first look tells all that has not come back yet; each later one what was spent since the one before. A word says when its
//! limit is full again and not when something was spent: where a limit was full in between, as much is told as may have been
//! spent since the last look, which is at most the time between two looks more than was. So it errs to the strict side.
//!
//! Not told: exchanges under way. They end where they are, and count there.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Direction, OVERFLOW, OVERFLOW_CLAIMED, RouteState, Tenant, Tenants};
use crate::limit::Word;
use crate::plan::Plan;
use crate::tick::Tick;

/// Which of a tenant's limits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// A rate of its plan.
    Plan(Arc<str>),
    /// A rate of a route.
    Route(Arc<str>, Arc<str>),
    /// The pace of request bodies.
    Request,
    /// The pace of response bodies.
    Response,
}

/// What was spent of one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The tenant.
    pub tenant: Arc<str>,
    /// Whether nobody vouched for its id.
    pub claimed: bool,
    /// The limit.
    pub limit: Which,
    /// How long it takes to come back, in nanoseconds.
    pub nanos: u64,
}

/// What was seen of all limits.
#[derive(Debug, Default)]
pub struct Ledger {
    seen: HashMap<(Arc<str>, Which), u64>,
    looked_at: Tick,
}

impl Ledger {
    /// What was spent since the last look.
    pub fn look(&mut self, tenants: &Tenants, now: Tick) -> Vec<Spent> {
        let (mut told, mut seen) = (Vec::new(), HashMap::new());
        let since = self.looked_at.0;
        let first = since == 0;
        tenants.each(|tenant| {
            tenant.limits(|limit, word| {
                let at = word.full_again();
                if at <= now.0 && (first || at <= since) {
                    return;
                }
                let key = (Arc::clone(&tenant.id), limit.clone());
                let before = self.seen.get(&key).copied().unwrap_or_default().max(since);
                seen.insert(key, at);
                let nanos = if first { at - now.0 } else { at.saturating_sub(before) };
                if nanos > 0 {
                    told.push(Spent {
                        tenant: Arc::clone(&tenant.id),
                        claimed: tenant.claimed,
                        limit,
                        nanos,
                    });
                }
            });
        });
        (self.seen, self.looked_at) = (seen, now);
        told
    }
}

impl Tenants {
    /// Spends what another process has let its tenants spend. Who is not listed has this plan.
    pub fn spend(&self, all: &[Spent], unknown: Option<&Arc<Plan>>, now: Tick) {
        for Spent { tenant, claimed, limit, nanos } in all {
            let found = match (&**tenant, unknown) {
                (OVERFLOW, Some(plan)) => Some(Arc::clone(self.shared_by(false, plan))),
                (OVERFLOW_CLAIMED, Some(plan)) => Some(Arc::clone(self.shared_by(true, plan))),
                (id, Some(plan)) if *claimed => Some(self.find_or_add_claimed(id, plan, now)),
                (id, Some(plan)) => Some(self.find_or_add(id, plan, now)),
                (id, None) => self.find(id),
            };
            if let Some(found) = found {
                found.spend(limit, *nanos, now);
            }
        }
    }
}

impl Tenant {
    /// Calls `visit` with each of its limits.
    fn limits(&self, mut visit: impl FnMut(Which, &Word)) {
        let held = self.entitlement.load();
        for (rate, word) in self.rates(&held) {
            visit(Which::Plan(Arc::clone(&rate.name)), word);
        }
        visit(Which::Request, self.bytes(Direction::Request));
        visit(Which::Response, self.bytes(Direction::Response));
        for (route, state) in
            self.routes.get().iter().flat_map(|routes| routes.pin().iter().map(named).collect::<Vec<_>>())
        {
            for (rate, word) in &state.words.pin() {
                visit(Which::Route(Arc::clone(&route), Arc::clone(rate)), word);
            }
        }
    }

    fn spend(&self, limit: &Which, nanos: u64, now: Tick) {
        let account = self.account();
        match limit {
            Which::Plan(name) => {
                let held = account.entitlement.load();
                // A rate that the plan does not have any more was spent of for nothing.
                if let Some((_, word)) = account.rates(&held).find(|(rate, _)| rate.name == *name) {
                    word.spend(nanos, now);
                }
            }
            Which::Route(route, rate) => {
                let routes = account.routes.get_or_init(Box::default).pin();
                let state = routes.get_or_insert_with(Arc::clone(route), Arc::<RouteState>::default);
                state.words.pin().get_or_insert_with(Arc::clone(rate), Arc::default).spend(nanos, now);
            }
            Which::Request => account.bytes(Direction::Request).spend(nanos, now),
            Which::Response => account.bytes(Direction::Response).spend(nanos, now),
        }
    }
}

fn named((name, state): (&Arc<str>, &Arc<RouteState>)) -> (Arc<str>, Arc<RouteState>) {
    (Arc::clone(name), Arc::clone(state))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::Rate;
    use crate::tenant::RouteLimits;

    const START: Tick = Tick(5_000_000_000);

    fn rate(name: &str, limit: u64) -> Rate {
        Rate { name: Arc::from(name), limit, window: Duration::from_secs(1), burst: limit }
    }

    fn plan() -> Arc<Plan> {
        Arc::new(Plan {
            name: Arc::from("p"),
            rates: vec![rate("r", 10)],
            concurrency: None,
            body_bytes_max: None,
            request_bytes_per_second: None,
            response_bytes_per_second: None,
            weight: 1,
        })
    }

    fn route() -> RouteLimits {
        RouteLimits { name: Arc::from("orders"), rates: vec![rate("own", 4)], concurrency: None }
    }

    /// How many requests pass at this moment.
    fn passes(tenants: &Tenants, id: &str, limits: &RouteLimits, now: Tick) -> usize {
        let one = || tenants.admit(tenants.find_or_add(id, &plan(), now), limits, now).is_ok();
        (0..100).take_while(|_| one()).count()
    }

    fn none() -> RouteLimits {
        RouteLimits { name: Arc::from("none"), rates: Vec::new(), concurrency: None }
    }

    #[test]
    fn what_was_spent_in_one_process_cannot_be_spent_in_the_next() {
        let (old, new) = (Tenants::new(10), Tenants::new(10));
        let mut ledger = Ledger::default();
        assert_eq!(passes(&old, "acme", &route(), START), 4, "the route's");
        assert_eq!(passes(&old, "other", &none(), START), 10, "the plan's");
        let told = ledger.look(&old, START);
        assert_eq!(told.len(), 3, "{told:?}");
        new.spend(&told, Some(&plan()), START);
        assert_eq!(passes(&new, "acme", &route(), START), 0);
        assert_eq!(passes(&new, "acme", &none(), START), 6);
        assert_eq!(passes(&new, "other", &none(), START), 0);
        // It comes back as it would have.
        let later = START.after(Duration::from_millis(500));
        assert_eq!(passes(&new, "other", &none(), later), 5);
        assert_eq!(passes(&new, "acme", &route(), later), 2);
    }

    #[test]
    fn a_later_look_tells_what_was_spent_since_and_nothing_twice() {
        let (old, new) = (Tenants::new(10), Tenants::new(10));
        let mut ledger = Ledger::default();
        let one = |now| old.admit(old.find_or_add("acme", &plan(), now), &none(), now).is_ok();
        assert!((0..3).all(|_| one(START)));
        new.spend(&ledger.look(&old, START), Some(&plan()), START);
        assert!((0..4).all(|_| one(START)));
        let told = ledger.look(&old, START);
        assert_eq!(told.iter().map(|one| one.nanos).collect::<Vec<_>>(), [400_000_000]);
        new.spend(&told, Some(&plan()), START);
        assert_eq!(ledger.look(&old, START), [], "nothing was spent");
        assert_eq!(passes(&new, "acme", &none(), START), 3);
        // One that was full in between: at most the time since the last look is told beyond what was spent.
        let later = START.after(Duration::from_secs(10));
        assert!(ledger.look(&old, later).is_empty());
        let taken = later.after(Duration::from_millis(30));
        assert!(one(taken));
        let told = ledger.look(&old, later.after(Duration::from_millis(50)));
        assert_eq!(told.iter().map(|one| one.nanos).collect::<Vec<_>>(), [130_000_000]);
    }

    #[test]
    fn who_has_no_room_shares_what_is_told_of_those_that_share() {
        let (old, new) = (Tenants::new(1), Tenants::new(1));
        assert_eq!(passes(&old, "first", &none(), START), 10);
        assert_eq!(passes(&old, "second", &none(), START), 10, "of what all further ones share");
        new.spend(&Ledger::default().look(&old, START), Some(&plan()), START);
        assert_eq!(passes(&new, "first", &none(), START), 0);
        assert_eq!(passes(&new, "third", &none(), START), 0);
    }

    #[test]
    fn what_is_told_survives_its_way() {
        let told = Spent {
            tenant: Arc::from("acme"),
            claimed: true,
            limit: Which::Route(Arc::from("orders"), Arc::from("own")),
            nanos: 7,
        };
        let text = serde_json::to_string(&told).expect("JSON");
        assert_eq!(serde_json::from_str::<Spent>(&text).expect("the same"), told);
    }
}
