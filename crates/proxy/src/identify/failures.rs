//! Failed identifications, limited per client address: guessing keys is slow.
//!
//! A sketch of fixed size, not a table of addresses: nobody can fill it, nothing has to be evicted, and an address costs
//! the same whether one or a million others fail. Each address has one word in each of four rows, at places that a
//! secret hash chooses; it is blocked when *all* its words are spent. Addresses that share one word with a guesser are
//! not blocked by it; that all four are shared has, with a thousand guessers at a time, a chance of some 1 in 70,000.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidegate_model::limit::Word;
use tidegate_model::plan::Rate;
use tidegate_model::tick::Tick;

/// Rows of the sketch.
const ROWS: usize = 4;
/// Words of a row. A power of two.
const WORDS: usize = 1 << 14;

/// What addresses have spent of their failures. Survives a reload.
#[derive(Debug, Default)]
pub struct Failures {
    hasher: RandomState,
    /// Made at the first failure: mostly there is none.
    words: OnceLock<Box<[Word]>>,
}

/// The failures with the rate of one snapshot.
#[derive(Debug)]
pub struct FailureLimit {
    failures: Arc<Failures>,
    rate: Rate,
}

impl FailureLimit {
    /// Holds addresses to this rate.
    #[must_use]
    pub fn new(failures: Arc<Failures>, rate: Rate) -> FailureLimit {
        FailureLimit { failures, rate }
    }

    /// How long an address has to wait that failed too often.
    #[must_use]
    pub fn blocked(&self, address: IpAddr, now: Tick) -> Option<Duration> {
        let words = self.failures.words.get()?;
        let waits = self.failures.places(address).map(|place| words[place].wait(&self.rate, now));
        waits.into_iter().min().filter(|wait| !wait.is_zero())
    }

    /// An address failed once more.
    pub fn failed(&self, address: IpAddr, now: Tick) {
        let words = self.failures.words.get_or_init(|| (0..ROWS * WORDS).map(|_| Word::default()).collect());
        for place in self.failures.places(address) {
            let _ = words[place].take(&self.rate, now);
        }
    }
}

impl Failures {
    /// The address's place in each row.
    fn places(&self, address: IpAddr) -> [usize; ROWS] {
        let hash = self.hasher.hash_one(network(address));
        std::array::from_fn(|row| row * WORDS + (hash >> (16 * row)) as usize % WORDS)
    }
}

/// Whom an address stands for: an IPv6 client owns a whole /64.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit() -> FailureLimit {
        let rate = Rate { name: Arc::from("failures"), limit: 60, window: Duration::from_secs(60), burst: 3 };
        FailureLimit::new(Arc::default(), rate)
    }

    fn fail(limit: &FailureLimit, address: &str, times: usize, now: Tick) {
        (0..times).for_each(|_| limit.failed(address.parse().unwrap(), now));
    }

    /// For how many seconds an address is blocked.
    fn check(limit: &FailureLimit, address: &str, now: Tick, expected: Option<u64>) {
        let blocked = limit.blocked(address.parse().unwrap(), now);
        assert_eq!(blocked, expected.map(Duration::from_secs), "{address}");
    }

    #[test]
    fn blocks_an_address_that_fails_too_often_and_no_other() {
        let (limit, now) = (limit(), Tick(1));
        check(&limit, "192.0.2.1", now, None);
        fail(&limit, "192.0.2.1", 2, now);
        check(&limit, "192.0.2.1", now, None);
        fail(&limit, "192.0.2.1", 5, now);
        check(&limit, "::ffff:192.0.2.1", now, Some(1));
        check(&limit, "192.0.2.2", now, None);
        check(&limit, "192.0.2.1", now.after(Duration::from_secs(1)), None);
    }

    #[test]
    fn an_ipv6_client_is_its_whole_network() {
        let (limit, now) = (limit(), Tick(1));
        fail(&limit, "2001:db8::1", 3, now);
        check(&limit, "2001:db8::2", now, Some(1));
        check(&limit, "2001:db8:0:1::1", now, None);
    }

    #[test]
    fn a_flood_of_addresses_hides_no_guesser_and_blocks_few_others() {
        let (limit, now) = (limit(), Tick(1));
        let address = |n: u32| IpAddr::V4(n.into());
        for n in 0..2_000 {
            (0..3).for_each(|_| limit.failed(address(n), now));
        }
        assert!((0..2_000).all(|n| limit.blocked(address(n), now).is_some()));
        let others = (1_000_000..1_010_000).filter(|n| limit.blocked(address(*n), now).is_some()).count();
        // One row is full to an eighth: all four of an address are by a chance of 1 in 6,000.
        assert!(others < 40, "{others}");
    }
}
