//! Shards: deliveries are divided by their tenants, and all that a delivery has to do with (what is unique, the turns of a
//! key, what it comes after, its callback) is its tenant's, so no transaction of one shard needs another.
//!
//! What always holds: a tenant's shard depends on its id and the number of shards alone, today and in every later version; where
//! a delivery is says of which shard it is.

use super::Seq;

/// The most shards.
pub const SHARDS_MAX: u16 = 64;
/// The bits of a place below its shard.
const NUMBER_BITS: u32 = 48;

/// The shard of a tenant's deliveries, of so many: FNV-1a of its id, its bits mixed, scaled to the number.
#[must_use]
pub fn shard_of(tenant: &str, shards: u16) -> u16 {
    let hash = tenant.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let scaled = u128::from(crate::balance::mix(hash)) * u128::from(shards);
    u16::try_from(scaled >> 64).expect("it is below the number of shards")
}

impl Seq {
    /// The place with this number in its shard.
    #[must_use]
    pub fn in_shard(shard: u16, number: u64) -> Seq {
        debug_assert!(number >> NUMBER_BITS == 0, "{number}");
        Seq(u64::from(shard) << NUMBER_BITS | number)
    }

    /// Its number in its shard.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0 & ((1 << NUMBER_BITS) - 1)
    }

    /// The shard that it is of.
    #[must_use]
    pub fn shard(self) -> u16 {
        u16::try_from(self.0 >> NUMBER_BITS).expect("so many bits are left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is on disk was divided so: this never changes.
    #[test]
    fn a_tenant_stays_in_its_shard_for_ever() {
        let of = |shards| ["", "acme", "initech", "a", "b"].map(|tenant| shard_of(tenant, shards));
        assert_eq!(of(1), [0; 5]);
        assert_eq!(of(4), [3, 1, 0, 1, 1]);
        assert_eq!(of(64), [48, 16, 4, 23, 21]);
    }

    #[test]
    fn shards_have_about_as_many_tenants_each() {
        for shards in [2, 3, 16, SHARDS_MAX] {
            let mut counts = vec![0_u32; usize::from(shards)];
            for number in 0..10_000 {
                counts[usize::from(shard_of(&format!("tenant-{number}"), shards))] += 1;
            }
            let even = 10_000 / u32::from(shards);
            assert!(counts.iter().all(|count| (even / 2..even * 2).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn a_place_says_of_which_shard_it_is() {
        for (shard, number) in [(0, 1), (0, (1 << 48) - 1), (63, 0), (63, 7)] {
            let seq = Seq::in_shard(shard, number);
            assert_eq!((seq.shard(), seq.number()), (shard, number));
        }
        assert!(Seq::in_shard(0, (1 << 48) - 1) < Seq::in_shard(1, 0));
        assert_eq!(Seq(7).shard(), 0);
    }
}
