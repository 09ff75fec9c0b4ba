//! The gate: an upstream's concurrency, and the bounded list of who waits for a slot, first come first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::WaitingSettings;

/// As many slots as an upstream without a limit has.
const UNLIMITED: usize = Semaphore::MAX_PERMITS / 2;

/// The gate of one upstream.
#[derive(Debug)]
pub(crate) struct Gate {
    slots: Arc<Semaphore>,
    limit: Mutex<Option<u32>>,
    waiting: AtomicUsize,
}

/// One unit of an upstream's concurrency. `None` where it is not limited.
#[derive(Debug)]
pub(crate) struct Slot(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

impl Gate {
    pub(crate) fn new(limit: Option<u32>) -> Gate {
        let slots = Arc::new(Semaphore::new(count(limit)));
        Gate { slots, limit: Mutex::new(limit), waiting: AtomicUsize::new(0) }
    }

    /// Changes the limit. Slots in use stay in use; those above a smaller limit are taken away as they come back. Who waits
    /// gets those of a larger one.
    pub(crate) fn resize(&self, limit: Option<u32>) {
        let mut held = self.limit.lock();
        let (before, after) = (count(*held), count(limit));
        if after > before {
            self.slots.add_permits(after - before);
        } else if before > after {
            let gone = before - after;
            let at_once = self.slots.forget_permits(gone);
            if at_once < gone {
                let (slots, left) = (Arc::clone(&self.slots), (gone - at_once) as u32);
                tidegate_wire::task::spawn(async move {
                    if let Ok(permits) = slots.acquire_many_owned(left).await {
                        permits.forget();
                    }
                });
            }
        }
        *held = limit;
    }

    /// Slots in use, and requests waiting.
    pub(crate) fn usage(&self, limit: Option<u32>) -> (usize, usize) {
        let free = self.slots.available_permits();
        (limit.map_or(0, |limit| (limit as usize).saturating_sub(free)), self.waiting.load(Relaxed))
    }

    /// A slot, if one is free now.
    pub(crate) fn try_enter(&self, limited: bool) -> Option<Slot> {
        if !limited {
            return Some(Slot(None));
        }
        Arc::clone(&self.slots).try_acquire_owned().ok().map(|permit| Slot(Some(permit)))
    }

    /// A slot, after waiting for it if need be. How long that took.
    pub(crate) async fn enter(
        &self,
        limited: bool,
        waiting: WaitingSettings,
        deadline: Tick,
    ) -> Result<(Slot, Duration), Refusal> {
        if let Some(slot) = self.try_enter(limited) {
            return Ok((slot, Duration::ZERO));
        }
        if self.waiting.fetch_add(1, Relaxed) >= waiting.limit {
            self.waiting.fetch_sub(1, Relaxed);
            return Err(saturated("its waiting list is full"));
        }
        let _waiting = Waiting(&self.waiting);
        let since = clock::now();
        let by = since.after(waiting.wait).min(deadline);
        match clock::timeout_at(by, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(permit)) => Ok((Slot(Some(permit)), clock::now().since(since))),
            Ok(Err(_)) | Err(_) => Err(saturated("no slot became free in time")),
        }
    }
}

fn count(limit: Option<u32>) -> usize {
    limit.map_or(UNLIMITED, |limit| limit as usize)
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn saturated(why: &'static str) -> Refusal {
    Refusal::new(&refusal::UPSTREAM_SATURATED, format!("the upstream is as busy as it may be and {why}"))
        .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_wire::task;

    const WAITING: WaitingSettings = WaitingSettings { limit: 2, wait: Duration::from_secs(60) };

    fn soon() -> Tick {
        clock::now().after(Duration::from_secs(60))
    }

    /// Somebody who waits; told to the receiver when it is over.
    fn waiter(gate: &Arc<Gate>) -> tokio::sync::oneshot::Receiver<bool> {
        let (told, heard) = tokio::sync::oneshot::channel();
        let gate = Arc::clone(gate);
        task::spawn(async move {
            let entered = gate.enter(true, WAITING, soon()).await;
            let _ = told.send(entered.is_ok());
        });
        heard
    }

    async fn until_waiting(gate: &Gate, count: usize) {
        while gate.usage(Some(1)).1 != count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "local")]
    async fn the_list_of_who_waits_is_bounded_and_one_who_leaves_makes_room() {
        let gate = Arc::new(Gate::new(Some(1)));
        let slot = gate.try_enter(true);
        let first = waiter(&gate);
        until_waiting(&gate, 1).await;
        let mut second = Box::pin(gate.enter(true, WAITING, soon()));
        assert!(futures_util::future::poll_immediate(second.as_mut()).await.is_none());
        let refused = gate.enter(true, WAITING, soon()).await.unwrap_err();
        assert_eq!(refused.kind.code, "upstream.saturated");
        drop(second);
        until_waiting(&gate, 1).await;
        drop(slot);
        assert!(first.await.unwrap());
        until_waiting(&gate, 0).await;
    }

    #[tokio::test(flavor = "local")]
    async fn who_waits_gets_the_slots_of_a_larger_limit_and_of_none() {
        for limit in [Some(3), None] {
            let gate = Arc::new(Gate::new(Some(1)));
            let _slot = gate.try_enter(true);
            let waiters = [waiter(&gate), waiter(&gate)];
            until_waiting(&gate, 2).await;
            gate.resize(limit);
            for waiter in waiters {
                assert!(waiter.await.unwrap(), "{limit:?}");
            }
        }
    }

    #[tokio::test(flavor = "local")]
    async fn slots_above_a_smaller_limit_are_taken_away_as_they_come_back() {
        let gate = Gate::new(Some(3));
        let mut slots: Vec<_> = (0..3).map(|_| gate.try_enter(true).expect("three are free")).collect();
        gate.resize(Some(1));
        for _ in 0..2 {
            slots.pop();
            tokio::task::yield_now().await;
            assert!(gate.try_enter(true).is_none());
        }
        slots.pop();
        assert!(gate.try_enter(true).is_some());
        gate.resize(None);
        gate.resize(Some(2));
        let both = [gate.try_enter(true), gate.try_enter(true), gate.try_enter(true)];
        assert_eq!(both.map(|slot| slot.is_some()), [true, true, false]);
    }
}
