//! Slots in use, and what they are charged.

use super::Fair;
use super::entries::Key;
use super::flow::virtual_of;
use crate::tick::{Tick, nanos};

impl Fair {
    /// A holder was made: its slot is in use, and its tenant is charged what its slots last took.
    pub(super) fn hold(&mut self, key: Key) {
        self.in_use += 1;
        let flow = self.entries.holder_mut(key).flow;
        let estimate = self.flows.change(flow, |flow| {
            flow.holding += 1;
            flow.estimate
        });
        self.charge_up_to(key, estimate);
    }

    /// Who has used up what it was charged is charged for half as much again: so what it was charged is never less than
    /// what it used, and takes few steps however long it lasts.
    pub(super) fn charge_outruns(&mut self) {
        while let Some(&(at, key)) = self.outruns.first().filter(|&&(at, _)| at <= self.now && at < Tick::MAX)
        {
            self.outruns.remove(&(at, key));
            let holder = self.entries.holder_mut(key);
            let used = nanos(self.now.since(holder.granted_at));
            let accounted = used.saturating_sub(holder.accounted);
            holder.accounted += accounted;
            self.usage.add(&holder.account, accounted, self.now);
            self.charge_up_to(key, used.saturating_add(used / 2));
        }
    }

    fn charge_up_to(&mut self, key: Key, charged: u64) {
        let holder = self.entries.holder_mut(key);
        let cost =
            virtual_of(charged.into(), holder.weight) - virtual_of(holder.charged.into(), holder.weight);
        holder.charged = charged;
        holder.paid += self.flows.charge(holder.flow, cost, holder.weight, self.limit);
        self.outruns.insert((holder.outruns_at(), key));
    }

    /// A holder's key ends: its tenant has paid what was used, and its estimate follows.
    pub(super) fn release(&mut self, key: Key, used: u64) {
        let holder = self.entries.take_holder(key);
        self.entries.end(key);
        self.outruns.remove(&(holder.outruns_at(), key));
        self.in_use = self.in_use.saturating_sub(1);
        self.flows.change(holder.flow, |flow| flow.holding -= 1);
        self.flows.learn(holder.flow, used);
        let cost = virtual_of(used.into(), holder.weight);
        match cost.checked_sub(holder.paid) {
            Some(more) => drop(self.flows.charge(holder.flow, more, holder.weight, self.limit)),
            None => self.flows.refund(holder.flow, holder.paid - cost),
        }
        self.usage.add(&holder.account, used.saturating_sub(holder.accounted), self.now);
    }
}
