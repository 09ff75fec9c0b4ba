//! A list under test: random steps taken on it and on the naive one, and what holds after each.

use std::collections::HashMap;

use super::flow::BUCKETS;
use super::reference::{Asking, Naive, Told};
use super::*;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Ask {
        tenant: u8,
        weight: u32,
        class: usize,
        before_ms: u64,
        deadline_ms: u64,
        service_ms: u64,
        bytes: usize,
    },
    Leave {
        nth: usize,
        used_ms: Option<u64>,
    },
    Unkeyed {
        tenant: u8,
        used_ms: u64,
    },
    Cancel {
        nth: usize,
    },
    Pass {
        micros: u64,
    },
    Limit {
        limit: usize,
    },
}

pub(super) fn steps(tenants: u8, most: usize) -> impl Strategy<Value = Vec<Step>> {
    let ask = (0..tenants, 1u32..5, 0usize..3, 0u64..60, 1u64..500, 0u64..40, 0usize..40).prop_map(
        |(tenant, weight, class, before_ms, deadline_ms, service_ms, bytes)| Step::Ask {
            tenant,
            weight,
            class,
            before_ms: before_ms.saturating_sub(45),
            deadline_ms,
            service_ms,
            bytes,
        },
    );
    let step = prop_oneof![
        8 => ask,
        4 => (0usize..100, proptest::option::of(0u64..100)).prop_map(|(nth, used_ms)| Step::Leave { nth, used_ms }),
        1 => (0..tenants, 0u64..100).prop_map(|(tenant, used_ms)| Step::Unkeyed { tenant, used_ms }),
        1 => (0usize..100).prop_map(|nth| Step::Cancel { nth }),
        4 => (0u64..30_000).prop_map(|micros| Step::Pass { micros }),
        1 => (1usize..6).prop_map(|limit| Step::Limit { limit }),
    ];
    proptest::collection::vec(step, 1..most)
}

pub(super) const TERMS: Terms = Terms {
    waiters_max: 8,
    tenant_waiters_max: 5,
    bytes_max: 150,
    wait: Duration::from_millis(60),
    tenants_max: 100,
};

/// A list, what it should hold, and the same told naively.
pub(super) struct Bench {
    pub fair: Fair,
    pub naive: Naive,
    pub now: Tick,
    pub waiting: HashMap<Key, Asking>,
    pub holding: Vec<(Key, Asking, Tick)>,
    pub number: u64,
    /// Slots in use that have no key.
    outside: usize,
}

impl Bench {
    pub fn new(terms: Terms) -> Bench {
        let (fair, naive) = (Fair::new(terms, 2, 7), Naive::new(terms, 2));
        Bench {
            fair,
            naive,
            now: Tick(1),
            waiting: HashMap::new(),
            holding: Vec::new(),
            number: 0,
            outside: 0,
        }
    }

    pub fn tenant(number: u8) -> Arc<str> {
        Arc::from(format!("t{number}"))
    }

    pub fn ask(&mut self, asking: Asking, woken: &mut Vec<Woken>) -> Told {
        let (tenant, route) = (Bench::tenant(asking.tenant), Arc::from("r"));
        let ask = Ask {
            who: Who { tenant: &tenant, route: &route, weight: asking.weight },
            priority: asking.priority,
            asked_at: asking.asked_at,
            deadline: asking.deadline,
            service: asking.service,
            bytes: asking.bytes,
        };
        match self.fair.ask(&ask, self.now, woken) {
            Asked::Entered(key) => {
                self.holding.push((key, asking, self.now));
                Told::Entered
            }
            Asked::Queued { key, .. } => {
                assert!(self.waiting.insert(key, asking).is_none(), "a living key is nobody else's");
                Told::Queued
            }
            Asked::Refused(refused) => Told::Refused(refused.reason),
        }
    }

    /// Takes a step on both, and compares what they say.
    pub fn step(&mut self, step: Step) {
        let (mut woken, now) = (Vec::new(), self.now);
        match step {
            Step::Ask { tenant, weight, class, before_ms, deadline_ms, service_ms, bytes } => {
                self.number += 1;
                let asking = Asking {
                    number: self.number,
                    tenant,
                    weight,
                    priority: Priority::ALL[class],
                    asked_at: Tick(now.0.saturating_sub(before_ms * 1_000_000)),
                    deadline: now.after(Duration::from_millis(deadline_ms)),
                    service: Duration::from_millis(service_ms),
                    bytes,
                };
                let told = self.ask(asking, &mut woken);
                assert_eq!(told, self.naive.ask(asking, now), "{asking:?}");
                self.check_shedding(asking, told, &woken);
                self.wake(woken);
                return;
            }
            Step::Leave { nth, used_ms } => {
                if self.holding.is_empty() {
                    return;
                }
                let (key, asking, since) = self.holding.remove(nth % self.holding.len());
                let used = used_ms.map_or(now.since(since), Duration::from_millis);
                self.fair.leave(key, used, now, &mut woken);
                self.naive.leave(asking.number, used, now);
            }
            Step::Unkeyed { tenant, used_ms } => {
                // One comes in by the word of slots while it is open; the next time, one of those leaves.
                if self.fair.nobody_waits() && self.fair.in_use() < self.fair.limit() {
                    self.outside += 1;
                    self.fair.adopt(self.fair.in_use() + 1);
                    self.naive.in_use += 1;
                    return;
                }
                if self.outside == 0 {
                    return;
                }
                self.outside -= 1;
                let (route, used) = (Arc::from("r"), Duration::from_millis(used_ms));
                let who = Who { tenant: &Bench::tenant(tenant), route: &route, weight: 2 };
                self.fair.leave_unkeyed(who, used, now, &mut woken);
                self.naive.leave_unkeyed(&Asking { tenant, weight: 2, ..NOBODY }, used, now);
            }
            Step::Cancel { nth } => {
                let mut living: Vec<(Key, u64)> =
                    self.waiting.iter().map(|(&key, asking)| (key, asking.number)).collect();
                living.extend(self.holding.iter().map(|&(key, asking, _)| (key, asking.number)));
                living.sort_by_key(|&(_, number)| number);
                if living.is_empty() {
                    return;
                }
                let (key, number) = living[nth % living.len()];
                self.fair.cancel(key, now, &mut woken);
                self.naive.cancel(number, now);
                self.waiting.remove(&key);
                self.holding.retain(|&(held, ..)| held != key);
            }
            Step::Pass { micros } => {
                self.now = now.after(Duration::from_micros(micros));
                self.fair.expire(self.now, &mut woken);
                self.naive.expire(self.now);
            }
            Step::Limit { limit } => {
                self.fair.set_limit(limit, now, &mut woken);
                self.naive.set_limit(limit, now);
            }
        }
        self.wake(woken);
    }

    fn wake(&mut self, woken: Vec<Woken>) {
        let mut told = Vec::new();
        for Woken { key, outcome } in woken {
            let asking = self.waiting.remove(&key).expect("who is woken waited");
            told.push((
                asking.number,
                match outcome {
                    Outcome::Entered => {
                        self.holding.push((key, asking, self.now));
                        Told::Entered
                    }
                    Outcome::Refused(refused) => Told::Refused(refused.reason),
                },
            ));
        }
        let mut naive = std::mem::take(&mut self.naive.told);
        let order = |told: &mut Vec<(u64, Told)>| told.sort_by_key(|told| told.0);
        order(&mut told);
        order(&mut naive);
        assert_eq!(told, naive);
        self.check();
    }

    /// What holds after each step.
    pub fn check(&mut self) {
        let fair = &self.fair;
        assert!(fair.nobody_waits() || fair.in_use() >= fair.limit(), "a slot is free while somebody waits");
        assert_eq!(fair.waiting(), self.waiting.len());
        assert!(fair.waiting() <= fair.terms.waiters_max);
        let bytes: usize = self.waiting.values().map(|asking| asking.bytes).sum();
        assert_eq!(bytes, fair.bytes.iter().sum::<usize>());
        assert!(bytes <= fair.terms.bytes_max);
        for asking in self.waiting.values() {
            let own = self.waiting.values().filter(|other| other.tenant == asking.tenant).count();
            assert!(own <= fair.terms.tenant_waiters_max);
        }
        assert_eq!(fair.entries.sizes().1, self.waiting.len() + self.holding.len());
        assert!(fair.entries.sizes().0 <= 2 * fair.terms.waiters_max + 8, "as long as it had to be");
        assert_eq!(fair.in_use(), self.holding.len() + self.outside);
        assert_eq!(fair.expiry.len(), self.waiting.len());
        assert_eq!(fair.outruns.len(), self.holding.len());
        assert!(fair.flows.len() <= fair.terms.tenants_max + BUCKETS);
        assert!(fair.expires_at().is_none_or(|by| by > self.now), "who waited long enough is still there");
    }

    /// Nobody is refused for want of room while a less important one stays, but where its own tenant is to blame.
    fn check_shedding(&self, newcomer: Asking, told: Told, woken: &[Woken]) {
        let gone = |key: &Key| woken.iter().any(|woken| woken.key == *key);
        let stay = self.waiting.iter().filter(|(key, asking)| !gone(key) && asking.number != newcomer.number);
        let least = stay.map(|(_, asking)| asking.priority).min().unwrap_or(Priority::Critical);
        if told == Told::Refused(Reason::Full) {
            assert!(least >= newcomer.priority, "{newcomer:?} was refused, {least:?} stays");
        }
        for Woken { key, outcome } in woken {
            let victim = self.waiting[key];
            match outcome {
                Outcome::Refused(refused) if refused.reason == Reason::Displaced => {}
                Outcome::Refused(_) | Outcome::Entered => continue,
            }
            assert!(victim.priority <= newcomer.priority, "{newcomer:?} displaced {victim:?}");
            assert!(
                victim.tenant == newcomer.tenant || least >= victim.priority,
                "{victim:?} went, {least:?} stays"
            );
        }
    }
}

pub(super) const NOBODY: Asking = Asking {
    number: 0,
    tenant: 0,
    weight: 1,
    priority: Priority::Default,
    asked_at: Tick(0),
    deadline: Tick::MAX,
    service: Duration::ZERO,
    bytes: 0,
};

pub(super) const PATIENT: Asking =
    Asking { service: Duration::from_millis(20), deadline: Tick(1 << 60), ..NOBODY };
