//! How much of a queue's slot time a tenant has had: start-time fair queueing (Goyal, Vin, Cheng 1996) over tenants, as the
//! gate's waiting list has it (`tidegate_model::gate::fair`), without what only a waiting list needs.
//!
//! A tenant's *virtual time* is the slot time that it was charged, over its weight; whose is least comes next. An attempt is
//! charged what the tenant's last took, charged again as often as it outruns that, and corrected to what it really took: so a
//! tenant whose attempts hang takes no slot after slot on an old estimate.

use std::time::Duration;

use tidegate_model::tick::nanos;

/// The least that an attempt is thought to take, in nanoseconds.
const ESTIMATE_MIN: u64 = 10_000;
/// A new sample counts this part of a tenant's estimate.
const ESTIMATE_SHIFT: u32 = 3;
/// A sample counts for so many times the estimate at most.
const LEARNT_MAX: u64 = 4;
/// A tenant that used more than its share is set back no further than by this much slot time.
const DEBT_MAX: Duration = Duration::from_secs(60);

/// Slot time over weight, in 2^-32 nanoseconds: exact enough for any weight, and it never wraps.
pub type Virtual = u128;

/// Slot time as virtual time.
pub fn virtual_of(nanos: u64, weight: u32) -> Virtual {
    (u128::from(nanos) << 32) / u128::from(weight.max(1))
}

/// One tenant's part of a queue.
#[derive(Clone, Debug)]
pub struct Share {
    virtual_time: Virtual,
    /// What it was charged too much: its next charges are paid of it. Its virtual time is not set back at once, else it would
    /// step back before those who began to wait since.
    credit: Virtual,
    /// Virtual time less credit is never before this.
    floor: Virtual,
    weight: u32,
    /// What an attempt is thought to take, in nanoseconds; 0: nothing is known of that.
    estimate: u64,
    /// Attempts under way.
    pub holding: u32,
}

impl Share {
    /// Of a tenant that begins now.
    pub fn new(weight: u32, reached: Virtual) -> Share {
        Share {
            virtual_time: reached,
            credit: 0,
            floor: reached,
            weight: weight.max(1),
            estimate: 0,
            holding: 0,
        }
    }

    /// Its weight.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// It counts so much from now on.
    pub fn weigh(&mut self, weight: u32) {
        self.weight = weight.max(1);
    }

    /// Where it stands.
    pub fn virtual_time(&self) -> Virtual {
        self.virtual_time
    }

    /// Slots that it holds for its weight.
    pub fn held(&self) -> u64 {
        (u64::from(self.holding) << 32) / u64::from(self.weight)
    }

    /// It has something to begin again: what was not asked for is no credit.
    pub fn lift(&mut self, reached: Virtual) {
        self.virtual_time = (self.virtual_time - self.credit).max(reached);
        (self.credit, self.floor) = (0, self.virtual_time);
    }

    /// An attempt begins: what it is charged, in nanoseconds. `typical`: what attempts of the queue take.
    pub fn begin(&mut self, typical: u64, reached: Virtual) -> u64 {
        let charge = if self.estimate == 0 { typical } else { self.estimate }.max(ESTIMATE_MIN);
        self.holding += 1;
        self.charge(charge, reached);
        charge
    }

    /// Slot time is charged, as far as debt goes.
    pub fn charge(&mut self, nanos: u64, reached: Virtual) {
        let most = reached + virtual_of(tidegate_model::tick::nanos(DEBT_MAX), self.weight);
        let cost = virtual_of(nanos, self.weight);
        let credited = cost.min(self.credit);
        self.credit -= credited;
        let after = self.virtual_time + cost - credited;
        self.virtual_time = self.virtual_time.max(after.min(most));
    }

    /// An attempt that was charged so much took so long.
    pub fn end(&mut self, charged: u64, took: Duration, reached: Virtual) {
        let took = nanos(took).max(ESTIMATE_MIN);
        self.holding = self.holding.saturating_sub(1);
        if took >= charged {
            self.charge(took - charged, reached);
        } else {
            self.refund(charged - took);
        }
        self.estimate = learnt(self.estimate, took);
    }

    /// An attempt that was charged so much was not made.
    pub fn give_back(&mut self, charged: u64) {
        self.holding = self.holding.saturating_sub(1);
        self.refund(charged);
    }

    fn refund(&mut self, nanos: u64) {
        let back = virtual_of(nanos, self.weight);
        self.credit = (self.credit + back).min(self.virtual_time.saturating_sub(self.floor));
    }
}

/// An estimate after an attempt took so long.
pub fn learnt(estimate: u64, took: u64) -> u64 {
    if estimate == 0 {
        return took.max(ESTIMATE_MIN);
    }
    let took = took.min(estimate.saturating_mul(LEARNT_MAX));
    (estimate - (estimate >> ESTIMATE_SHIFT)).saturating_add(took >> ESTIMATE_SHIFT).max(ESTIMATE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_attempt_costs_what_it_took_whatever_was_thought() {
        for thought in [ESTIMATE_MIN, 500_000_000, 3_000_000_000] {
            let mut share = Share::new(2, 7);
            let charged = share.begin(thought, 7);
            assert_eq!((charged, share.holding), (thought, 1));
            share.end(charged, SECOND, 7);
            share.lift(7);
            let spent = share.virtual_time() - 7;
            // A division each time it is charged may lose one unit.
            assert!(spent.abs_diff(virtual_of(1_000_000_000, 2)) <= 2, "{spent}");
        }
    }

    #[test]
    fn what_was_not_made_costs_nothing_and_nobody_owes_for_ever() {
        let mut share = Share::new(1, 0);
        let charged = share.begin(ESTIMATE_MIN, 0);
        share.give_back(charged);
        share.lift(0);
        assert_eq!((share.virtual_time(), share.holding), (0, 0));
        share.charge(u64::MAX, 0);
        assert_eq!(share.virtual_time(), virtual_of(nanos(DEBT_MAX), 1));
    }
}
