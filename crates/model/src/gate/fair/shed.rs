//! Who waits, and who is let wait no longer: room in the list, and what makes a waiter late.

use std::collections::BTreeMap;
use std::time::Duration;

use super::entries::{Account, Key, State, Waiter};
use super::flow::Flow;
use super::{Ask, Asked, Fair, Outcome, Woken, codel};
use crate::balance::mix;
use crate::gate::{Priority, Reason, Refused};
use crate::tick::{Tick, nanos};

impl Fair {
    /// It waits.
    pub(super) fn queue(&mut self, flow: u32, account: Account, ask: &Ask<'_>, doomed_at: Tick) -> Asked {
        self.saturated();
        if let Some(episode) = &mut self.episode {
            episode.queued += 1;
        }
        self.usage.queued(&account);
        let (now, wait) = (self.now, self.terms.wait);
        let place = (ask.asked_at.min(now), self.number());
        let by_deadline = doomed_at < now.after(wait);
        let by = doomed_at.min(now.after(wait));
        let waiter = Waiter {
            flow,
            account,
            weight: ask.who.weight.max(1),
            priority: ask.priority,
            place,
            queued_at: now,
            by,
            by_deadline,
            bytes: ask.bytes,
            older: None,
            newer: None,
        };
        let key = self.entries.add(State::Waiting(waiter));
        self.expiry.insert((by, key));
        self.waiting[ask.priority as usize] += 1;
        self.bytes[ask.priority as usize] += ask.bytes;
        let entries = &mut self.entries;
        self.flows.change(flow, |flow| {
            flow.lines[ask.priority as usize].insert(place, key);
            entries.link(key, &mut flow.ages[ask.priority as usize]);
        });
        self.judge(flow);
        Asked::Queued { key, by }
    }

    /// Takes a waiter out of the list; its key is to be granted or ended.
    pub(super) fn take_waiter(&mut self, key: Key) -> Waiter {
        let (flow, class) = (self.entries.waiter(key).flow, self.entries.waiter(key).priority as usize);
        let entries = &mut self.entries;
        let waiter = self.flows.change(flow, |flow| {
            let waiter = entries.take_waiter(key, &mut flow.ages[class]);
            flow.lines[class].remove(&waiter.place);
            if flow.lines[class].is_empty() {
                flow.codel[class].emptied();
            }
            waiter
        });
        self.expiry.remove(&(waiter.by, key));
        self.waiting[waiter.priority as usize] -= 1;
        self.bytes[waiter.priority as usize] -= waiter.bytes;
        waiter
    }

    /// A waiter is refused, and told when to come back.
    pub(super) fn refuse(&mut self, key: Key, reason: Reason, woken: &mut Vec<Woken>) {
        let waiter = self.take_waiter(key);
        self.entries.end(key);
        self.count_refusal(reason, &waiter.account);
        let retry_after = self.jittered(self.expected_wait(waiter.flow));
        woken.push(Woken { key, outcome: Outcome::Refused(Refused { reason, retry_after }) });
    }

    /// Which of this tenant's lines stand.
    fn judge(&mut self, flow: u32) {
        let oldest = Priority::ALL.map(|priority| self.oldest_wait(flow, priority));
        let (now, wait) = (self.now, self.terms.wait);
        self.flows.change(flow, |flow| {
            let terms = terms(flow, wait);
            for (codel, oldest) in flow.codel.iter_mut().zip(oldest) {
                if let Some(oldest) = oldest {
                    codel.observe(&terms, oldest, now);
                }
            }
        });
    }

    /// Of those of this tenant's lines that stand, drops who has waited too long to be of use, the least important first;
    /// never the last one, so that a slot that becomes free finds somebody.
    pub(super) fn shed_stale(&mut self, flow: u32, woken: &mut Vec<Woken>) {
        self.judge(flow);
        let limit = terms(&self.flows[flow], self.terms.wait).limit;
        for priority in Priority::ALL {
            while self.flows[flow].is_overloaded(priority) && self.flows[flow].waiting() > 1 {
                let stale = self.oldest_wait(flow, priority).is_some_and(|oldest| oldest > limit);
                let oldest = self.flows[flow].ages[priority as usize].oldest;
                let Some(oldest) = oldest.filter(|_| stale) else { break };
                self.refuse(oldest, Reason::Overloaded, woken);
            }
        }
    }

    fn oldest_wait(&self, flow: u32, priority: Priority) -> Option<Duration> {
        let oldest = self.flows[flow].ages[priority as usize].oldest?;
        Some(self.now.since(self.entries.waiter(oldest).queued_at))
    }

    /// Makes room for a newcomer, or tells why there is none; then nobody was displaced.
    pub(super) fn make_room(
        &mut self,
        flow: u32,
        ask: &Ask<'_>,
        woken: &mut Vec<Woken>,
    ) -> Result<(), Reason> {
        let class = ask.priority as usize;
        let own = match self.flows[flow].waiting() >= self.terms.tenant_waiters_max {
            true => Some(self.own_victim(flow, ask.priority).ok_or(Reason::TenantFull)?),
            false => None,
        };
        let equal = if own.is_some() { None } else { self.equal_victim(flow, ask.priority) };
        let bytes_of = |key: Option<Key>| key.map_or(0, |key| self.entries.waiter(key).bytes);
        let less: usize = self.waiting[..class].iter().sum();
        let less_bytes: usize = self.bytes[..class].iter().sum();
        // What own frees of the less important is counted with them: it is among them or stands for `equal`.
        let own_equal = own.filter(|&key| self.entries.waiter(key).priority == ask.priority);
        let room = less_bytes + bytes_of(equal) + bytes_of(own_equal);
        if self.bytes_over(ask.bytes) > room {
            return Err(Reason::Bytes);
        }
        if self.waiters_over() > less + usize::from(equal.or(own_equal).is_some()) {
            return Err(Reason::Full);
        }
        if let Some(own) = own {
            self.refuse(own, Reason::Displaced, woken);
        }
        while self.waiters_over() > 0 || self.bytes_over(ask.bytes) > 0 {
            let less = Priority::ALL[..class]
                .iter()
                .find_map(|&less| self.flows.most_over(less).and_then(|flow| self.flows[flow].last(less)));
            // It was counted before: once the less important are gone, the one as important is enough.
            let Some(victim) = less.or(equal) else { unreachable!("there is room, it was counted") };
            self.refuse(victim, Reason::Displaced, woken);
        }
        Ok(())
    }

    /// How many waiters are too many once one more has come.
    fn waiters_over(&self) -> usize {
        (self.waiting() + 1).saturating_sub(self.terms.waiters_max)
    }

    /// How many bytes are too many once so many more have come.
    fn bytes_over(&self, more: usize) -> usize {
        let held: usize = self.bytes.iter().sum();
        held.saturating_add(more).saturating_sub(self.terms.bytes_max)
    }

    /// Whom a newcomer displaces of its own tenant: the last of the less important, or while newer ones go first, the
    /// last of those as important.
    fn own_victim(&self, flow: u32, priority: Priority) -> Option<Key> {
        let flow = &self.flows[flow];
        let less =
            Priority::ALL.into_iter().take_while(|&less| less < priority).find_map(|less| flow.last(less));
        less.or_else(|| flow.last(priority).filter(|_| flow.is_overloaded(priority)))
    }

    /// Whom a newcomer displaces among those as important: the last of the tenant that asks for most over its share, if
    /// that is more than its own tenant asks for, itself included.
    fn equal_victim(&self, flow: u32, priority: Priority) -> Option<Key> {
        let over = self.flows.most_over(priority)?;
        let wins = match over == flow {
            true => self.flows[flow].is_overloaded(priority),
            false => self.flows.asks_for(over, 0) > self.flows.asks_for(flow, 1),
        };
        self.flows[over].last(priority).filter(|_| wins)
    }

    /// How long a newcomer waits at least, as far as one knows: until its tenant's share of the slots has served those that
    /// go before it, or all slots have served everybody. Nothing for a retry, which does not come last.
    pub(super) fn least_wait(&self, flow: u32, ask: &Ask<'_>) -> Duration {
        let (backlog, weights) = self.flows.backlog();
        let flow = &self.flows[flow];
        let important = ask.priority as usize + usize::from(flow.is_overloaded(ask.priority));
        let before: usize = flow.lines.iter().skip(important).map(BTreeMap::len).sum();
        if before == 0 || ask.asked_at < self.now {
            return Duration::ZERO;
        }
        let own = u128::from(flow.estimate) * before as u128 * u128::from(weights) / u128::from(flow.weight);
        Duration::from_nanos(u64::try_from(own.min(backlog) / self.limit as u128).unwrap_or(u64::MAX))
    }

    /// How long one more of this flow would wait: until its tenant's share of the slots has served those before it, or
    /// all slots have served everybody, whichever comes first.
    pub(super) fn expected_wait(&self, flow: u32) -> Duration {
        let (backlog, weights) = self.flows.backlog();
        let flow = &self.flows[flow];
        let (estimate, weight) = (u128::from(flow.estimate), u128::from(flow.weight));
        let others = if flow.waiting() == 0 { u128::from(weights) + weight } else { u128::from(weights) };
        let own = estimate * (flow.waiting() as u128 + 1) * others / weight;
        let least = own.min(backlog + estimate) / self.limit as u128;
        Duration::from_nanos(u64::try_from(least).unwrap_or(u64::MAX))
    }

    /// Longer by up to a half, so that those refused together do not come back together.
    pub(super) fn jittered(&mut self, wait: Duration) -> Duration {
        self.chance = self.chance.wrapping_add(1);
        let more = (u128::from(nanos(wait)) / 2 * u128::from(mix(self.chance))) >> 64;
        wait.saturating_add(Duration::from_nanos(more as u64))
    }
}

fn terms(flow: &Flow, wait: Duration) -> codel::Terms {
    codel::Terms::of(wait, Duration::from_nanos(flow.estimate))
}
