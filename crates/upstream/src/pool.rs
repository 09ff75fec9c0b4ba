//! The connections of one core, by endpoint: last in, first out, so that what is not needed grows old and is closed.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_model::tick::Tick;
use tidegate_wire::client::Sender;

use crate::endpoint::Endpoint;
use crate::settings::UpstreamSettings;

/// A connection with all that is counted of it.
#[derive(Debug)]
pub(crate) struct Pooled {
    pub sender: Sender,
    pub endpoint: Arc<Endpoint>,
    born: Tick,
    /// Whether an exchange was made on it before.
    pub reused: bool,
}

impl Pooled {
    /// A new connection, counted until it is dropped.
    pub(crate) fn new(sender: Sender, endpoint: Arc<Endpoint>, now: Tick) -> Pooled {
        endpoint.connections.fetch_add(1, Relaxed);
        endpoint.connects.fetch_add(1, Relaxed);
        Pooled { sender, endpoint, born: now, reused: false }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.endpoint.connections.fetch_sub(1, Relaxed);
    }
}

struct Idle {
    pooled: Pooled,
    since: Tick,
}

/// The pools of one core.
#[derive(Default)]
pub(crate) struct Pools {
    idle: RefCell<HashMap<u64, VecDeque<Idle>>>,
    cores: Cell<u32>,
}

impl Pools {
    pub(crate) fn new(cores: usize) -> Pools {
        Pools { idle: RefCell::default(), cores: Cell::new(u32::try_from(cores).unwrap_or(u32::MAX).max(1)) }
    }

    /// An idle connection to this endpoint, if there is one worth using.
    pub(crate) fn take(&self, endpoint: &Endpoint, settings: &UpstreamSettings, now: Tick) -> Option<Pooled> {
        let mut pools = self.idle.borrow_mut();
        let pool = pools.get_mut(&endpoint.id)?;
        while pool.front().is_some_and(|idle| now.since(idle.since) > settings.idle_timeout) {
            pool.pop_front();
        }
        while let Some(Idle { mut pooled, .. }) = pool.pop_back() {
            if !pooled.sender.is_closed() && now.since(pooled.born) <= settings.lifetime_max {
                pooled.reused = true;
                return Some(pooled);
            }
        }
        None
    }

    /// A shared handle on an HTTP/2 connection to this endpoint. The connection itself stays.
    pub(crate) fn share(
        &self,
        endpoint: &Endpoint,
        settings: &UpstreamSettings,
        now: Tick,
    ) -> Option<Sender> {
        let mut pools = self.idle.borrow_mut();
        let pool = pools.get_mut(&endpoint.id)?;
        pool.retain(|idle| {
            !idle.pooled.sender.is_closed() && now.since(idle.pooled.born) <= settings.lifetime_max
        });
        pool.iter().find(|idle| idle.pooled.sender.is_ready()).and_then(|idle| idle.pooled.sender.try_clone())
    }

    /// Keeps a connection for later, unless there are enough or it has become too old.
    pub(crate) fn put(&self, pooled: Pooled, settings: &UpstreamSettings, now: Tick) {
        if pooled.sender.is_closed()
            || now.since(pooled.born) > settings.lifetime_max
            || !pooled.endpoint.is_enabled()
        {
            return;
        }
        let mut pools = self.idle.borrow_mut();
        let pool = pools.entry(pooled.endpoint.id).or_default();
        if pool.len() >= (settings.idle_max / self.cores.get()).max(1) as usize {
            pool.pop_front();
        }
        pool.push_back(Idle { pooled, since: now });
    }

    /// Closes what has been idle too long, and forgets endpoints without connections.
    pub(crate) fn sweep(&self, idle_timeout: std::time::Duration, now: Tick) {
        self.idle.borrow_mut().retain(|_, pool| {
            pool.retain(|idle| !idle.pooled.sender.is_closed() && now.since(idle.since) <= idle_timeout);
            !pool.is_empty()
        });
    }
}
