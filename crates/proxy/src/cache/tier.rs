//! The tiers below memory: larger and slower, perhaps shared with other nodes.
//!
//! Memory answers first. Whoever leads those who ask for what memory does not have asks the tiers, one after the other, before
//! the upstream; what one of them has goes to memory. What memory keeps is told to all of them.
//!
//! What always holds: a tier that is late, broken or away is one that has nothing; nothing that a tier does stalls a core; what
//! a tier brings is compared with the purges of this process before it is used.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use tidegate_model::cache::Wall;
use tidegate_model::cache::purge::{Label, Purge};
use tidegate_model::cache::vary::Vary;
use tidegate_model::fields::Fields;

use super::kept::Kept;
use super::memory::Named;

/// A tier below memory.
pub trait Tier: fmt::Debug + Send + Sync {
    /// Its name, as it is told of a hit.
    fn name(&self) -> &'static str;

    /// Looks for the answer to a request. `None`: it is known at once that there is none.
    fn find(&self, named: &Named<'_>, request: &Fields) -> Option<Finding>;

    /// Looks for somebody who asks about it: nothing is used, and nothing counted. `None`: there is nothing to look at.
    fn inspect(&self, _named: &Named<'_>, _request: &Fields) -> Option<Inspecting> {
        None
    }

    /// Memory keeps this answer to this request now; `room` is whose.
    fn keep(&self, named: &Named<'_>, room: u64, request: &Fields, vary: &Vary, kept: &Arc<Kept>);

    /// The same for an answer of which only the freshness is new.
    fn keep_fresher(&self, named: &Named<'_>, room: u64, request: &Fields, vary: &Vary, kept: &Arc<Kept>) {
        self.keep(named, room, request, vary, kept);
    }

    /// What has this label was purged; `newest` is the number of what is asked for from now on.
    fn purge(&self, label: Label, purge: Purge, newest: u64, now: Wall);
}

/// An answer on its way from a tier.
pub type Finding = Pin<Box<dyn Future<Output = Option<Brought>>>>;

/// The same for somebody who asks about it.
pub type Inspecting = Pin<Box<dyn Future<Output = Option<Lies>> + Send>>;

/// An answer, and how it lies in a tier.
#[derive(Debug)]
pub struct Lies {
    /// The answer.
    pub kept: Arc<Kept>,
    /// Where it lies, in words.
    pub at: String,
    /// The bytes that it takes there.
    pub bytes: u64,
}

/// What a tier had.
#[derive(Debug)]
pub struct Brought {
    /// The answer.
    pub kept: Arc<Kept>,
    /// What it varies with.
    pub vary: Vary,
}
