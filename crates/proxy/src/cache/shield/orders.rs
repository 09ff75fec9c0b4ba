//! Purges on their way to other nodes, where no log has them: each other node is told by itself.
//!
//! What waits for a node stays until that node has said that it has done it: one that is away is told when it is back. What
//! waits is bounded as it is for the log (`tidegate_model::cache::orders`): too many become one that makes everything stale.
//!
//! What it does not do: outlive this process. A node that is away while the one that purged ends is not told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tidegate_model::cache::orders::{Order, Outbox};
use tokio::sync::Notify;

/// Orders that wait for one node.
const OUTBOX_MAX: usize = 8_192;

/// What one other node is to be told.
#[derive(Debug)]
pub struct Letters {
    /// The node's name.
    pub node: Arc<str>,
    outbox: Mutex<Outbox>,
    /// Something waits, or nobody is to be told any more.
    pub changed: Notify,
    gone: AtomicBool,
    carried: AtomicBool,
}

impl Letters {
    fn to(node: Arc<str>) -> Letters {
        Letters {
            node,
            outbox: Mutex::new(Outbox::new(OUTBOX_MAX)),
            changed: Notify::new(),
            gone: AtomicBool::new(false),
            carried: AtomicBool::new(false),
        }
    }

    /// Whether the node is none of the cluster's any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// What is to be told next, with the numbers of it. It stays until [`Letters::told`].
    #[must_use]
    pub fn take(&self, most: usize) -> Vec<(u64, Order)> {
        self.outbox.lock().take(most)
    }

    /// The node has done this.
    pub fn told(&self, orders: &[(u64, Order)]) {
        let mut outbox = self.outbox.lock();
        for (number, order) in orders {
            outbox.sent(*number);
            outbox.seen(*number, *order);
        }
    }

    fn issue(&self, order: Order) {
        self.outbox.lock().issue(order);
        self.changed.notify_one();
    }
}

/// What all other nodes are to be told.
#[derive(Debug, Default)]
pub struct Orders {
    nodes: ArcSwap<Vec<Arc<Letters>>>,
    /// Others are to be told from now on.
    pub changed: Notify,
    told: AtomicU64,
    heard: AtomicU64,
}

/// How it stands with what nodes tell each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderCounts {
    /// What waits, for all nodes together.
    pub waiting: u64,
    /// What was told.
    pub told: u64,
    /// What others have told.
    pub heard: u64,
}

impl Orders {
    /// These are to be told from now on. What waits for those that stay goes on waiting.
    pub fn tell(&self, nodes: &[Arc<str>]) {
        let before = self.nodes.load_full();
        let kept = |node: &Arc<str>| before.iter().find(|letters| letters.node == *node).map(Arc::clone);
        let after =
            nodes.iter().map(|node| kept(node).unwrap_or_else(|| Arc::new(Letters::to(Arc::clone(node)))));
        self.nodes.store(Arc::new(after.collect()));
        for gone in before.iter().filter(|letters| !nodes.contains(&letters.node)) {
            gone.gone.store(true, Relaxed);
            gone.changed.notify_one();
        }
        self.changed.notify_one();
    }

    /// What nobody carries to its node yet. Whoever asks does from now on.
    #[must_use]
    pub fn uncarried(&self) -> Vec<Arc<Letters>> {
        let nodes = self.nodes.load();
        nodes.iter().filter(|letters| !letters.carried.swap(true, Relaxed)).map(Arc::clone).collect()
    }

    /// Something was purged here.
    pub fn issue(&self, order: Order) {
        self.nodes.load().iter().for_each(|letters| letters.issue(order));
    }

    /// So many were told, or heard of others.
    pub fn note(&self, told: usize, heard: usize) {
        self.told.fetch_add(told as u64, Relaxed);
        self.heard.fetch_add(heard as u64, Relaxed);
    }

    /// How it stands.
    #[must_use]
    pub fn counts(&self) -> OrderCounts {
        let waiting = self.nodes.load().iter().map(|letters| letters.outbox.lock().waiting() as u64).sum();
        OrderCounts { waiting, told: self.told.load(Relaxed), heard: self.heard.load(Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::cache::purge::{Label, Purge};

    fn order(host: &str) -> Order {
        Order { label: Label::host(host), purge: Purge::Hard }
    }

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    /// What each of these is to be told.
    fn check(letters: &[Arc<Letters>], expected: &[&[Order]]) {
        let waiting = letters
            .iter()
            .map(|letters| letters.take(99).into_iter().map(|(_, order)| order).collect::<Vec<_>>());
        assert_eq!(waiting.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_node_is_told_until_it_has_done_it() {
        let orders = Orders::default();
        orders.tell(&names(&["b", "c"]));
        let letters = orders.uncarried();
        orders.issue(order("x"));
        check(&letters, &[&[order("x")], &[order("x")]]);
        letters[0].told(&letters[0].take(99));
        orders.issue(order("y"));
        check(&letters, &[&[order("y")], &[order("x"), order("y")]]);
        assert_eq!(orders.counts().waiting, 3);
    }

    #[test]
    fn what_waits_for_a_node_that_stays_goes_on_waiting() {
        let orders = Orders::default();
        orders.tell(&names(&["b", "c"]));
        let letters = orders.uncarried();
        orders.issue(order("x"));
        orders.tell(&names(&["c", "d"]));
        assert_eq!(letters.iter().map(|letters| letters.is_gone()).collect::<Vec<_>>(), [true, false]);
        assert_eq!(orders.uncarried().iter().map(|letters| &*letters.node).collect::<Vec<_>>(), ["d"]);
        check(&letters[1..], &[&[order("x")]]);
    }

    #[test]
    fn too_many_for_a_node_that_is_away_become_one_that_makes_everything_stale() {
        let orders = Orders::default();
        orders.tell(&names(&["b"]));
        (0..=OUTBOX_MAX).for_each(|number| orders.issue(order(&number.to_string())));
        check(&orders.uncarried(), &[&[Order::ALL]]);
    }
}
