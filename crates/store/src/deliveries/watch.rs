//! Whoever waits for what becomes of one delivery: woken by each change of it that this process has committed.
//!
//! What always holds: as many wait at once as [`WATCHES_MAX`]; nothing that happens before a look is missed by it, as a watch begins
//! before that. While nobody watches, a commit costs one load.
//!
//! What it does not do: tell of what other nodes do. Whoever watches looks by itself now and then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use tidegate_model::delivery::Id;
use tokio::sync::Notify;

/// Those who watch at once.
const WATCHES_MAX: usize = 4_096;

/// Deliveries that are watched, and by how many.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    count: AtomicUsize,
    by_id: Mutex<HashMap<Id, (usize, Arc<Notify>)>>,
}

impl Watched {
    /// One more. `None`: as many watch as may.
    pub(crate) fn watch(self: &Arc<Self>, id: Id) -> Option<Watch> {
        let taken = self.count.fetch_add(1, Relaxed);
        let mut by_id = self.by_id.lock();
        let (watches, changed) = by_id.entry(id).or_default();
        *watches += 1;
        // Dropped, it gives back its place.
        let watch = Watch { watched: Arc::clone(self), id, changed: Arc::clone(changed) };
        drop(by_id);
        (taken < WATCHES_MAX).then_some(watch)
    }

    /// These were changed, and that is committed.
    pub(crate) fn tell(&self, changed: &[Id]) {
        if self.count.load(Relaxed) == 0 {
            return;
        }
        let by_id = self.by_id.lock();
        changed.iter().filter_map(|id| by_id.get(id)).for_each(|(_, changed)| changed.notify_waiters());
    }
}

/// A delivery that is watched.
#[derive(Debug)]
pub struct Watch {
    watched: Arc<Watched>,
    id: Id,
    changed: Arc<Notify>,
}

impl Watch {
    /// The next change, of those that are committed from now on: from this call, not from when it is first waited for.
    pub fn next(&self) -> impl Future<Output = ()> + 'static {
        let changed = Arc::clone(&self.changed);
        let mut next = Box::pin(changed.notified_owned());
        next.as_mut().enable();
        next
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.count.fetch_sub(1, Relaxed);
        let mut by_id = self.watched.by_id.lock();
        if let Some((watches, _)) = by_id.get_mut(&self.id) {
            *watches -= 1;
            if *watches == 0 {
                by_id.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn is_woken(next: impl Future<Output = ()>) -> bool {
        matches!(pin!(next).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()))
    }

    #[test]
    fn who_watches_is_woken_by_its_own_alone_and_misses_nothing_from_then_on() {
        let watched = Arc::<Watched>::default();
        let (one, other) = (watched.watch(Id(1)).unwrap(), watched.watch(Id(1)).unwrap());
        let (first, second, later) = (one.next(), other.next(), one.next());
        watched.tell(&[Id(2)]);
        assert!(!is_woken(later));
        watched.tell(&[Id(3), Id(1)]);
        assert!(is_woken(first) && is_woken(second) && !is_woken(one.next()));
    }

    #[test]
    fn those_who_watch_have_a_bound_and_leave_nothing_behind() {
        let watched = Arc::<Watched>::default();
        let all: Vec<_> = (0..WATCHES_MAX).map(|id| watched.watch(Id(id as u128))).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(watched.watch(Id(1)).is_none() && watched.watch(Id(1 << 70)).is_none());
        drop(all);
        assert_eq!((watched.count.load(Relaxed), watched.by_id.lock().len()), (0, 0));
    }
}
