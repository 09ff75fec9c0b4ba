//! How many connections each client address has, so that one address cannot have them all.
//!
//! An address may have as many connections as it likes while there is room for everybody: behind one there may be an office.
//! Once three quarters of all places are taken, each address is held to its share of them, and the last quarter is for those
//! who have less: an attacker who holds connections open keeps nobody out, unless it has very many addresses. A limit of the
//! operator's own holds always.
//!
//! An IPv6 client has a whole network of addresses, so it is counted by its /64. What stands for many clients (a trusted
//! proxy) is never judged. What is held is bounded by the connections that there are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, so that cores that accept do not wait for each other.
const SHARDS: usize = 64;
/// No address is held to less of the places than it would have among so many.
const ADDRESSES_MIN: usize = 16;
/// A browser opens some.
const SHARE_MIN: usize = 6;

/// Who is counted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    /// One address.
    V4(Ipv4Addr),
    /// The first 64 bits of one.
    V6(u64),
}

impl Client {
    /// Whoever has this address.
    pub(crate) fn at(address: IpAddr) -> Client {
        match address.to_canonical() {
            IpAddr::V4(address) => Client::V4(address),
            IpAddr::V6(address) => Client::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// The connections of the process, by client.
#[derive(Debug)]
pub(crate) struct Crowd {
    shards: [Mutex<HashMap<Client, usize>>; SHARDS],
    hasher: RandomState,
    clients: AtomicUsize,
}

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            clients: AtomicUsize::new(0),
        }
    }
}

impl Crowd {
    /// Counts a connection. How many this client has besides.
    pub(crate) fn enter(&self, client: Client) -> usize {
        let mut shard = self.shard(client);
        let open = shard.entry(client).or_insert_with(|| {
            self.clients.fetch_add(1, Relaxed);
            0
        });
        *open += 1;
        *open - 1
    }

    /// A connection that was counted has ended.
    pub(crate) fn leave(&self, client: Client) {
        if let Entry::Occupied(mut open) = self.shard(client).entry(client) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
                self.clients.fetch_sub(1, Relaxed);
            }
        }
    }

    /// How many connections a client may have when `taken` of `most` places are: `None` is as many as it likes.
    pub(crate) fn share(&self, taken: usize, most: usize) -> Option<usize> {
        let crowded = taken >= most - most / 4;
        crowded.then(|| (most / self.clients.load(Relaxed).max(ADDRESSES_MIN)).max(SHARE_MIN))
    }

    fn shard(&self, client: Client) -> MutexGuard<'_, HashMap<Client, usize>> {
        let shard = self.hasher.hash_one(client) as usize % SHARDS;
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(address: &str) -> Client {
        Client::at(address.parse().unwrap())
    }

    #[test]
    fn a_network_of_ipv6_and_a_mapped_address_are_one_client() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("::ffff:9.8.7.6"), client("9.8.7.6"));
        assert_ne!(client("9.8.7.6"), client("9.8.7.7"));
    }

    #[test]
    fn nobody_is_held_to_a_share_before_three_quarters_are_taken() {
        let crowd = Crowd::default();
        assert_eq!(crowd.share(749, 1_000), None);
        assert_eq!(crowd.share(750, 1_000), Some(1_000 / ADDRESSES_MIN));
    }

    #[test]
    fn the_share_falls_with_the_clients_that_there_are_and_leaves_each_a_few() {
        let crowd = Crowd::default();
        let enter = |from: u32, to: u32| {
            (from..to).for_each(|ip| {
                crowd.enter(Client::V4(ip.into()));
            })
        };
        enter(0, 50);
        assert_eq!(crowd.share(1_000, 1_000), Some(20));
        enter(50, 1_000);
        assert_eq!(crowd.share(1_000, 1_000), Some(SHARE_MIN));
    }

    proptest! {
        #[test]
        fn counts_as_a_naive_count_does_and_holds_nothing_of_whoever_left(
            steps in proptest::collection::vec((0u32..5, any::<bool>()), 0..200),
        ) {
            let (crowd, mut naive) = (Crowd::default(), [0usize; 5]);
            for (ip, enters) in steps {
                let (client, open) = (Client::V4(ip.into()), &mut naive[ip as usize]);
                if enters {
                    prop_assert_eq!(crowd.enter(client), *open);
                    *open += 1;
                } else if *open > 0 {
                    crowd.leave(client);
                    *open -= 1;
                }
                let here = naive.iter().filter(|open| **open > 0).count();
                prop_assert_eq!(crowd.clients.load(Relaxed), here);
                prop_assert_eq!(crowd.shards.iter().map(|shard| shard.lock().unwrap().len()).sum::<usize>(), here);
            }
        }
    }
}
