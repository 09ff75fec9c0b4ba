//! Shards: whose each is, and how one is taken and given away.
//!
//! A store in a directory has one, and whoever has the directory has it. Of one that nodes share, each shard is made by
//! one node at a time; a node that has ended, or is not heard of for longer than its lease, has none any more. Who takes
//! which is decided above: here is told how it stands, and one that is free goes to whoever asks first.

use std::sync::Arc;

use tidegate_model::delivery::Id;
use tidegate_model::delivery::shard::shard_of;

use super::tables::Needs;
use super::{Epoch, Follower, Watch};
use crate::database::Location;
use crate::store::{Store, Unavailable};

/// Who makes the deliveries of which shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roll {
    /// Nodes that make deliveries, this one included: it counts from the first time that it looks.
    pub nodes: u32,
    /// All shards, in their order.
    pub shards: Vec<Leader>,
}

/// Who makes the deliveries of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Of which.
    pub shard: u16,
    /// The number of its last owner's epoch.
    pub epoch: u64,
    /// Who.
    pub who: Who,
}

/// A node, for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Nobody does: it can be had.
    Nobody,
    /// This process.
    Here,
    /// The node that is called so.
    Elsewhere(Arc<str>),
}

impl Store {
    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        match &self.settings().location {
            Location::Directory(_) => 1,
            Location::Postgres(postgres) => postgres.shards,
        }
    }

    /// The shard of a tenant's deliveries.
    #[must_use]
    pub fn shard_of(&self, tenant: &str) -> u16 {
        shard_of(tenant, self.shards())
    }

    /// Whether other nodes may have shards of it, too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.settings().location, Location::Postgres(_))
    }

    /// Takes a shard over: whoever had it before is refused from now on.
    ///
    /// # Errors
    /// [`Unavailable`]; [`Elsewhere`](Unavailable::Elsewhere): another node has it, and is there.
    /// [`Fenced`](Unavailable::Fenced): there is no such shard.
    pub async fn lead(&self, shard: u16) -> Result<Epoch, Unavailable> {
        if shard >= self.shards() {
            return Err(Unavailable::Fenced);
        }
        self.plain(Needs::writes_in(shard), move |ledger| {
            if ledger.shard(shard)?.is_none() {
                return Ok(Err(Unavailable::Fenced));
            }
            Ok(ledger.lead(shard)?.ok_or(Unavailable::Elsewhere))
        })
        .await
    }

    /// Gives a shard away: another node may have it at once. Its owner has nothing of it under way any more.
    ///
    /// # Errors
    /// [`Unavailable`]; [`Fenced`](Unavailable::Fenced): another has it already.
    pub async fn give_away(&self, epoch: Epoch) -> Result<(), Unavailable> {
        let needs = Needs::writes_in(epoch.shard);
        self.led(epoch, needs, move |ledger| ledger.tables.give_away(epoch.shard)).await
    }

    /// Who makes the deliveries of which shard.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub async fn roll(&self) -> Result<Roll, Unavailable> {
        self.plain(Needs::looks(), |ledger| ledger.tables.roll().map(Ok)).await
    }

    /// Wakes whoever waits for what becomes of a delivery, as far as this process does it. `None`: as many wait as may.
    #[must_use]
    pub fn watch(&self, id: Id) -> Option<Watch> {
        self.followers.watched.watch(id)
    }

    /// What happens in a shard from now on that its owner does not do itself. The first is to look.
    #[must_use]
    pub fn follow(&self, shard: u16) -> Follower {
        self.followers.follow(shard)
    }
}
