//! What is configured of a queue, as it is meant.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tidegate_model::delivery::AGING_MS;
use tidegate_model::delivery::outcome::Policy;
use tidegate_model::gate::Priority;
use tidegate_model::plan::Rate;
use tidegate_store::deliveries::Room;

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSettings {
    /// Its name; what is kept of it is found by that.
    pub name: Arc<str>,
    /// How its deliveries reach the application.
    pub way: Way,
    /// The method of requests that say none.
    pub method: Method,
    /// The path of requests that say none.
    pub path: Arc<str>,
    /// Attempts at once; of a queue that is pulled: leases at once.
    pub concurrency: u32,
    /// Attempts of one tenant at once.
    pub tenant_concurrency: Option<u32>,
    /// Attempts begun in a time.
    pub rate: Option<Rate>,
    /// What holds for those of a tenant that have a key in common.
    pub per_key: PerKey,
    /// How attempts are judged, how often they are made, how long what has ended is kept.
    pub policy: Policy,
    /// The longest attempt, and so the longest that the application is given to answer, body included. Of a queue that is
    /// pulled: a lease, where whoever claims says nothing else.
    pub timeout: Duration,
    /// How much earlier one counts as due for each step of its priority ([`tidegate_model::delivery::rank`]).
    pub aging: Duration,
    /// The priority of those that say none.
    pub priority: Priority,
    /// Bytes of an answer that are kept as the delivery's result; `None`: none is kept.
    pub results: Option<usize>,
    /// What a tenant may have waiting.
    pub room: Room,
}

/// What there is too little of to be divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indivisible {
    /// Its concurrency.
    Concurrency,
    /// What its rate lets begin at once.
    Burst,
}

/// How deliveries reach the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A request is made to the upstream of this name.
    Push(Arc<str>),
    /// The application comes for them.
    Pull,
    /// Events are told to tenants' servers: [`crate::webhook`].
    Webhooks,
}

/// What holds for the deliveries of one tenant that have a key in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerKey {
    /// One after the other, in the order in which they were accepted, retries included: a head that fails holds up its key
    /// alone.
    pub ordered: bool,
    /// How many of them there are at once that are not blocked: attempts, and what waits for its next one.
    pub concurrency: Option<u32>,
    /// Attempts begun in a time.
    pub rate: Option<Rate>,
}

impl QueueSettings {
    /// A queue of this name, with all else as it is where nothing is said.
    #[must_use]
    pub fn new(name: Arc<str>, way: Way) -> QueueSettings {
        QueueSettings {
            name,
            way,
            method: Method::POST,
            path: Arc::from("/"),
            concurrency: 10,
            tenant_concurrency: None,
            rate: None,
            per_key: PerKey::default(),
            policy: Policy::default(),
            timeout: Duration::from_secs(30),
            aging: Duration::from_millis(AGING_MS),
            priority: Priority::Default,
            results: None,
            room: Room { waiting_max: 1_000_000, bytes_max: 1 << 30 },
        }
    }

    /// What of it is a shard's, of so many: of its concurrency and rate an even part, and of what is left over one each for the
    /// first of them. All parts together are the whole.
    #[must_use]
    pub fn of_shard(&self, shard: u16, shards: u16) -> QueueSettings {
        let part = |whole: u64| {
            let (shard, shards) = (u64::from(shard), u64::from(shards.max(1)));
            (whole / shards + u64::from(shard < whole % shards)).max(1)
        };
        QueueSettings {
            concurrency: u32::try_from(part(self.concurrency.into())).unwrap_or(u32::MAX),
            rate: self.rate.as_ref().map(|rate| Rate {
                // As many in a window that is as many times as long: no part of one is left over.
                window: rate.window.saturating_mul(shards.max(1).into()),
                burst: part(rate.burst),
                ..rate.clone()
            }),
            ..self.clone()
        }
    }

    /// Why it cannot be divided among so many shards: each has to have one of what is divided.
    #[must_use]
    pub fn indivisible(&self, shards: u16) -> Option<Indivisible> {
        match &self.rate {
            _ if self.concurrency < u32::from(shards) => Some(Indivisible::Concurrency),
            Some(rate) if rate.burst < u64::from(shards) => Some(Indivisible::Burst),
            _ => None,
        }
    }

    /// The upstream that its requests go to.
    #[must_use]
    pub fn upstream(&self) -> Option<&Arc<str>> {
        match &self.way {
            Way::Push(upstream) => Some(upstream),
            Way::Pull | Way::Webhooks => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(concurrency: u32, burst: u64) -> QueueSettings {
        let rate = Rate { name: "r".into(), limit: 10, window: Duration::from_secs(1), burst };
        let queue = QueueSettings::new("q".into(), Way::Pull);
        QueueSettings { concurrency, rate: Some(rate), ..queue }
    }

    #[test]
    fn one_shard_has_all_of_it() {
        assert_eq!(queue(7, 3).of_shard(0, 1), queue(7, 3));
        assert_eq!(queue(1, 1).indivisible(1), None);
    }

    #[test]
    fn what_is_left_over_is_the_first_ones() {
        let parts: Vec<_> = (0..4).map(|shard| queue(10, 5).of_shard(shard, 4)).collect();
        assert_eq!(parts.iter().map(|part| part.concurrency).collect::<Vec<_>>(), [3, 3, 2, 2]);
        let rates: Vec<_> = parts.iter().filter_map(|part| part.rate.clone()).collect();
        assert_eq!(rates.iter().map(|rate| rate.burst).collect::<Vec<_>>(), [2, 1, 1, 1]);
        // Ten in four seconds, four times.
        assert!(rates.iter().all(|rate| rate.limit == 10 && rate.window == Duration::from_secs(4)));
    }

    #[test]
    fn who_has_less_than_one_for_each_is_not_divided() {
        assert_eq!(queue(3, 100).indivisible(4), Some(Indivisible::Concurrency));
        assert_eq!(queue(4, 3).indivisible(4), Some(Indivisible::Burst));
        assert_eq!(queue(4, 4).indivisible(4), None);
        assert_eq!(QueueSettings { rate: None, ..queue(4, 1) }.indivisible(4), None);
    }

    proptest! {
        #[test]
        fn the_parts_are_the_whole(shards in 1_u16..=64, more in 0_u32..1_000, burst in 0_u64..1_000) {
            let queue = queue(u32::from(shards) + more, u64::from(shards) + burst);
            prop_assert_eq!(queue.indivisible(shards), None);
            let parts: Vec<_> = (0..shards).map(|shard| queue.of_shard(shard, shards)).collect();
            prop_assert_eq!(parts.iter().map(|part| part.concurrency).sum::<u32>(), queue.concurrency);
            let bursts = parts.iter().filter_map(|part| part.rate.as_ref()).map(|rate| rate.burst);
            prop_assert_eq!(bursts.sum::<u64>(), u64::from(shards) + burst);
        }
    }
}
