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
        let slots = Arc::new(Semaphore::new(limit.map_or(0, |limit| limit as usize)));
        Gate { slots, limit: Mutex::new(limit), waiting: AtomicUsize::new(0) }
    }

    /// Changes the limit. Slots in use stay in use; those above a smaller limit are taken away as they come back.
    pub(crate) fn resize(&self, limit: Option<u32>) {
        let mut held = self.limit.lock();
        let (before, after) = (held.unwrap_or(0) as usize, limit.unwrap_or(0) as usize);
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
