//! Failed identifications, limited per client address: guessing keys is slow.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tidegate_model::limit::Word;
use tidegate_model::plan::Rate;
use tidegate_model::tick::Tick;

/// Addresses remembered; further ones share one word, so that a flood of addresses gains nothing.
const ADDRESSES_MAX: usize = 65_536;

/// What addresses have spent of their failures. Survives a reload.
#[derive(Debug, Default)]
pub struct Failures {
    words: papaya::HashMap<IpAddr, Arc<Word>>,
    overflow: Word,
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
        let words = self.failures.words.pin();
        let wait = words.get(&network(address))?.wait(&self.rate, now);
        (!wait.is_zero()).then_some(wait)
    }

    /// An address failed once more.
    pub fn failed(&self, address: IpAddr, now: Tick) {
        let words = self.failures.words.pin();
        let key = network(address);
        if words.len() >= ADDRESSES_MAX && !words.contains_key(&key) {
            words.retain(|_, word| !word.is_full(now));
            if words.len() >= ADDRESSES_MAX {
                self.failures.overflow.take(&self.rate, now);
                return;
            }
        }
        words.get_or_insert_with(key, Arc::default).take(&self.rate, now);
    }
}

/// An IPv6 client owns a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_an_address_that_fails_too_often_and_no_other() {
        let rate = Rate { name: Arc::from("failures"), limit: 60, window: Duration::from_secs(60), burst: 3 };
        let limit = FailureLimit::new(Arc::default(), rate);
        let (bad, same, other) = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1");
        let now = Tick(1);
        (0..3).for_each(|_| limit.failed(bad.parse().unwrap(), now));
        assert_eq!(limit.blocked(same.parse().unwrap(), now), Some(Duration::from_secs(1)));
        assert_eq!(limit.blocked(other.parse().unwrap(), now), None);
        assert_eq!(limit.blocked(bad.parse().unwrap(), now.after(Duration::from_secs(1))), None);
    }
}
