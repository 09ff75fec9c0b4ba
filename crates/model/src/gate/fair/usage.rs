//! Who used a gate's slots of late: the heaviest accounts, each a tenant on a route.
//!
//! Space-saving (Metwally et al., "Efficient Computation of Frequent and Top-k Elements", 2005) with exponential decay:
//! at most [`ACCOUNTS_MAX`] are kept; a new one takes the place of the lightest and inherits its use as its possible
//! error. An account is overrated by at most one in [`ACCOUNTS_MAX`] of all use, and none that used more is missing.

use std::time::Duration;

use super::entries::Account;
use crate::tick::Tick;

/// The most accounts that are kept.
pub(super) const ACCOUNTS_MAX: usize = 64;
/// After this, a use counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(5);
/// How often what was used is made to count less.
const DECAY_EVERY: Duration = Duration::from_millis(50);

/// What one account used.
#[derive(Clone, Debug)]
pub(super) struct Used {
    pub account: Account,
    /// Slot time in nanoseconds, decayed.
    pub nanos: f64,
    /// How much of it may be another's.
    pub error: f64,
    /// Requests that had to wait, and refusals, in this time of saturation.
    pub queued: u64,
    pub refused: u64,
}

/// The heaviest accounts.
#[derive(Debug, Default)]
pub(super) struct Usage {
    accounts: Vec<Used>,
    total: f64,
    decayed_at: Tick,
}

impl Usage {
    /// Slot time was used.
    pub fn add(&mut self, account: &Account, nanos: u64, now: Tick) {
        if nanos == 0 {
            return;
        }
        self.decay(now);
        let nanos = nanos as f64;
        self.total += nanos;
        if let Some(used) = self.find(account) {
            used.nanos += nanos;
            return;
        }
        let fresh = Used { account: account.clone(), nanos, error: 0.0, queued: 0, refused: 0 };
        if self.accounts.len() < ACCOUNTS_MAX {
            self.accounts.push(fresh);
            return;
        }
        if let Some(lightest) = self.accounts.iter_mut().min_by(|a, b| a.nanos.total_cmp(&b.nanos)) {
            let error = lightest.nanos;
            *lightest = Used { nanos: nanos + error, error, ..fresh };
        }
    }

    /// Another time of saturation begins: what was counted is of the last one.
    pub fn count_anew(&mut self) {
        for used in &mut self.accounts {
            (used.queued, used.refused) = (0, 0);
        }
    }

    /// One of this account waits. Counted for the heavy alone, as refusals are: who used nothing saturates nothing.
    pub fn queued(&mut self, account: &Account) {
        self.find(account).into_iter().for_each(|used| used.queued += 1);
    }

    /// One of this account was refused.
    pub fn refused(&mut self, account: &Account) {
        self.find(account).into_iter().for_each(|used| used.refused += 1);
    }

    fn find(&mut self, account: &Account) -> Option<&mut Used> {
        self.accounts.iter_mut().find(|used| used.account.hash == account.hash)
    }

    /// The heaviest first, each with its share of all use.
    pub fn heaviest(&mut self, now: Tick) -> impl Iterator<Item = (&Used, f64)> {
        self.decay(now);
        self.accounts.sort_by(|a, b| (b.nanos - b.error).total_cmp(&(a.nanos - a.error)));
        let total = self.total.max(1.0);
        self.accounts.iter().map(move |used| (used, (used.nanos - used.error) / total))
    }

    fn decay(&mut self, now: Tick) {
        let passed = now.since(self.decayed_at);
        if passed < DECAY_EVERY {
            return;
        }
        self.decayed_at = now;
        let left = (-passed.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2();
        self.total *= left;
        for used in &mut self.accounts {
            used.nanos *= left;
            used.error *= left;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn account(number: u64) -> Account {
        Account { tenant: Arc::from(format!("t{number}")), route: Arc::from("r"), hash: number }
    }

    #[test]
    fn a_use_counts_half_after_its_half_life() {
        let mut usage = Usage::default();
        usage.add(&account(1), 1_000, Tick(0));
        usage.add(&account(2), 1_000, Tick(0).after(HALF_LIFE));
        let shares: Vec<f64> = usage.heaviest(Tick(0).after(HALF_LIFE)).map(|(_, share)| share).collect();
        assert!((shares[0] - 2.0 / 3.0).abs() < 1e-9 && (shares[1] - 1.0 / 3.0).abs() < 1e-9, "{shares:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn the_heavy_are_never_missing_nor_overrated(uses in proptest::collection::vec((0u64..400, 1u64..1000), 1..2000)) {
            let mut usage = Usage::default();
            let (mut exact, mut total) = (vec![0u64; 400], 0u64);
            for (number, nanos) in uses {
                usage.add(&account(number), nanos, Tick(0));
                exact[number as usize] += nanos;
                total += nanos;
            }
            prop_assert!(usage.accounts.len() <= ACCOUNTS_MAX);
            let told: Vec<(u64, f64)> =
                usage.heaviest(Tick(0)).map(|(used, share)| (used.account.hash, share)).collect();
            for &(number, share) in &told {
                prop_assert!(share * total as f64 <= exact[number as usize] as f64 + 0.5);
            }
            for (number, &nanos) in exact.iter().enumerate() {
                let kept = told.iter().any(|&(told, _)| told == number as u64);
                prop_assert!(kept || nanos * ACCOUNTS_MAX as u64 <= total);
            }
        }
    }
}
