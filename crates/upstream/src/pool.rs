//! The connections of one core, by endpoint.
//!
//! HTTP/1.1: last in, first out, so that what is not needed grows old and is closed. HTTP/2: shared by as many calls as its
//! server takes streams; when it is full another one is made, and calls that come together wait for one instead of
//! each making its own. Every connection holds one of those that its endpoint may have ([`Reserved`]) until the last
//! call on it has ended, whether it is still in the pool or not.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use std::time::Duration;

use tidegate_model::balance::mix;
use tidegate_model::tick::Tick;
use tidegate_wire::client::Sender;
use tokio::sync::Notify;

use crate::endpoint::{Endpoint, Reserved};
use crate::settings::UpstreamSettings;

/// A connection with all that is counted of it.
#[derive(Debug)]
pub(crate) struct Pooled {
    pub sender: Sender,
    pub ticket: Ticket,
}

/// What is counted of a connection for as long as it is open, be it in the pool, in a call or in an answer's body.
#[derive(Debug)]
pub(crate) struct Ticket {
    reserved: Reserved,
    born: Tick,
    /// The upstream's transport when it was made.
    transport: u64,
    /// Whether an exchange was made on it before.
    reused: bool,
}

impl Pooled {
    /// A new connection.
    pub(crate) fn new(sender: Sender, reserved: Reserved, transport: u64, now: Tick) -> Pooled {
        Pooled { sender, ticket: Ticket { reserved, born: now, transport, reused: false } }
    }

    fn is_worth_using(&mut self, transport: u64, lifetime_max: Duration, now: Tick) -> bool {
        self.ticket.is_worth_using(transport, lifetime_max, now) && !self.sender.is_closed()
    }
}

impl Ticket {
    fn is_worth_using(&self, transport: u64, lifetime_max: Duration, now: Tick) -> bool {
        self.transport == transport && now.since(self.born) <= lifetime_max
    }
}

/// An HTTP/2 connection.
#[derive(Debug)]
struct Shared {
    sender: RefCell<Sender>,
    ticket: Ticket,
    streams: Cell<usize>,
    used_at: Cell<Tick>,
}

impl Shared {
    fn is_worth_using(&self, transport: u64, lifetime_max: Duration, now: Tick) -> bool {
        self.ticket.is_worth_using(transport, lifetime_max, now) && !self.sender.borrow_mut().is_closed()
    }
}

/// A stream of an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Stream(Rc<Shared>);

impl Stream {
    fn on(shared: &Rc<Shared>, now: Tick) -> Option<Connection> {
        let sender = shared.sender.borrow().try_clone()?;
        shared.streams.set(shared.streams.get() + 1);
        shared.used_at.set(now);
        Some(Connection { sender, lease: Lease::Stream(Stream(Rc::clone(shared))) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

/// A connection for one request.
#[derive(Debug)]
pub(crate) struct Connection {
    pub sender: Sender,
    pub lease: Lease,
}

/// What is held of a connection while it is used.
#[derive(Debug)]
pub(crate) enum Lease {
    /// HTTP/1.1: it is out of the pool.
    Own(Ticket),
    /// HTTP/2: it stays in the pool.
    Stream(#[expect(dead_code, reason = "held for its drop")] Stream),
}

impl Lease {
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self, Lease::Stream(_))
    }

    /// Whether its server may have closed it unnoticed.
    pub(crate) fn is_reused(&self) -> bool {
        match self {
            Lease::Own(ticket) => ticket.reused,
            Lease::Stream(_) => true,
        }
    }
}

impl From<Pooled> for Connection {
    fn from(Pooled { sender, ticket }: Pooled) -> Connection {
        Connection { sender, lease: Lease::Own(ticket) }
    }
}

#[derive(Debug)]
struct Idle {
    pooled: Pooled,
    since: Tick,
}

/// The connections to one endpoint.
#[derive(Debug, Default)]
struct Pool {
    idle: VecDeque<Idle>,
    shared: Vec<Rc<Shared>>,
    /// Tells when the connection that is being made, and may be shared, is there or is not to be.
    opening: Option<Rc<Notify>>,
    /// What the upstream's settings said last.
    idle_timeout: Duration,
    lifetime_max: Duration,
}

impl Pool {
    fn stream(&mut self, transport: u64, full_too: bool, now: Tick) -> Option<Connection> {
        let lifetime_max = self.lifetime_max;
        self.shared.retain(|shared| shared.is_worth_using(transport, lifetime_max, now));
        let ready = self.shared.iter().filter(|shared| shared.sender.borrow_mut().is_ready());
        // A server that takes no stream for now is waited for, with one on each connection: more would not help.
        let roomy = |shared: &&Rc<Shared>| {
            full_too || shared.streams.get() < shared.sender.borrow().streams_max().max(1)
        };
        Stream::on(ready.filter(roomy).min_by_key(|shared| shared.streams.get())?, now)
    }

    fn idle(&mut self, transport: u64, now: Tick) -> Option<Pooled> {
        while self.idle.front().is_some_and(|idle| now.since(idle.since) > self.idle_timeout) {
            self.idle.pop_front();
        }
        while let Some(Idle { mut pooled, .. }) = self.idle.pop_back() {
            if pooled.is_worth_using(transport, self.lifetime_max, now) {
                pooled.ticket.reused = true;
                return Some(pooled);
            }
        }
        None
    }

    fn sweep(&mut self, now: Tick) {
        let (idle_timeout, lifetime_max) = (self.idle_timeout, self.lifetime_max);
        let is_kept = |ticket: &Ticket| ticket.reserved.endpoint.is_kept();
        self.idle.retain_mut(|Idle { pooled, since }| {
            now.since(*since) <= idle_timeout
                && is_kept(&pooled.ticket)
                && pooled.is_worth_using(pooled.ticket.transport, lifetime_max, now)
        });
        self.shared.retain(|shared| {
            if shared.streams.get() > 0 {
                shared.used_at.set(now);
            }
            // What is under way on one that leaves the pool comes to its end there.
            now.since(shared.used_at.get()) <= idle_timeout
                && is_kept(&shared.ticket)
                && shared.is_worth_using(shared.ticket.transport, lifetime_max, now)
        });
    }
}

/// Hashes ids, which the process itself hands out one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ById(u64);

impl BuildHasher for ById {
    type Hasher = ById;

    fn build_hasher(&self) -> ById {
        ById(0)
    }
}

impl Hasher for ById {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = mix(id);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The pools of one core.
#[derive(Debug)]
pub(crate) struct Pools {
    by_endpoint: RefCell<HashMap<u64, Pool, ById>>,
    cores: u32,
}

impl Pools {
    pub(crate) fn new(cores: usize) -> Pools {
        Pools { by_endpoint: RefCell::default(), cores: u32::try_from(cores).unwrap_or(u32::MAX).max(1) }
    }

    /// A connection to this endpoint that is there already, if one is worth using.
    pub(crate) fn take(
        &self,
        endpoint: &Endpoint,
        transport: u64,
        settings: &UpstreamSettings,
        now: Tick,
    ) -> Option<Connection> {
        let mut pools = self.by_endpoint.borrow_mut();
        let pool = pools.get_mut(&endpoint.id)?;
        (pool.idle_timeout, pool.lifetime_max) = (settings.idle_timeout, settings.lifetime_max);
        if !pool.shared.is_empty()
            && let Some(connection) = pool.stream(transport, false, now)
        {
            return Some(connection);
        }
        pool.idle(transport, now).map(Connection::from)
    }

    /// A place in the line of a connection whose streams are all in use.
    pub(crate) fn take_full(&self, endpoint: &Endpoint, transport: u64, now: Tick) -> Option<Connection> {
        let mut pools = self.by_endpoint.borrow_mut();
        pools.get_mut(&endpoint.id)?.stream(transport, true, now)
    }

    /// Puts a new connection to use.
    pub(crate) fn begin(&self, pooled: Pooled, settings: &UpstreamSettings, now: Tick) -> Connection {
        if !pooled.sender.is_http2() {
            return pooled.into();
        }
        let Pooled { sender, ticket } = pooled;
        let id = ticket.reserved.endpoint.id;
        let sender = RefCell::new(sender);
        let shared = Rc::new(Shared { sender, ticket, streams: Cell::new(0), used_at: Cell::new(now) });
        let Some(connection) = Stream::on(&shared, now) else { unreachable!("HTTP/2 has many handles") };
        let mut pools = self.by_endpoint.borrow_mut();
        let pool = pools.entry(id).or_default();
        (pool.idle_timeout, pool.lifetime_max) = (settings.idle_timeout, settings.lifetime_max);
        pool.shared.push(shared);
        connection
    }

    /// Keeps a connection for later, unless there are enough, it has become too old, or somebody waits for its place.
    ///
    /// Whether its server has closed it meanwhile is seen when it is taken.
    pub(crate) fn put(&self, pooled: Pooled, settings: &UpstreamSettings, now: Tick) {
        let endpoint = &pooled.ticket.reserved.endpoint;
        let keeps = settings.idle_max > 0 && endpoint.is_kept() && !endpoint.is_wanted();
        let id = endpoint.id;
        if !keeps || !pooled.ticket.is_worth_using(pooled.ticket.transport, settings.lifetime_max, now) {
            return;
        }
        let mut pools = self.by_endpoint.borrow_mut();
        let pool = pools.entry(id).or_default();
        (pool.idle_timeout, pool.lifetime_max) = (settings.idle_timeout, settings.lifetime_max);
        if pool.idle.len() >= (settings.idle_max / self.cores).max(1) as usize {
            pool.idle.pop_front();
        }
        pool.idle.push_back(Idle { pooled, since: now });
    }

    /// The connection to this endpoint that is being made and may be shared, to wait for.
    pub(crate) fn opening(&self, endpoint: &Endpoint) -> Option<Rc<Notify>> {
        self.by_endpoint.borrow().get(&endpoint.id)?.opening.clone()
    }

    /// Says that a connection that may be shared is being made.
    pub(crate) fn open(&self, endpoint: &Endpoint) -> Opening<'_> {
        let done = Rc::<Notify>::default();
        self.by_endpoint.borrow_mut().entry(endpoint.id).or_default().opening = Some(Rc::clone(&done));
        Opening { pools: self, endpoint: endpoint.id, done }
    }

    /// Gives up connections whose place another core waits for: idle ones at once, HTTP/2 ones when their last call ends.
    pub(crate) fn give_up(&self) {
        let mut pools = self.by_endpoint.borrow_mut();
        for pool in pools.values_mut() {
            pool.idle.retain(|idle| !idle.pooled.ticket.reserved.endpoint.is_wanted());
            pool.shared.retain(|shared| !shared.ticket.reserved.endpoint.is_wanted());
        }
    }

    /// Closes what has been idle too long, has become too old or belongs to an endpoint that is not used, and forgets
    /// endpoints without connections.
    pub(crate) fn sweep(&self, now: Tick) {
        self.by_endpoint.borrow_mut().retain(|_, pool| {
            pool.sweep(now);
            !pool.idle.is_empty() || !pool.shared.is_empty() || pool.opening.is_some()
        });
    }
}

/// A connection that is being made and may be shared. Dropped, it tells those who wait for it.
pub(crate) struct Opening<'a> {
    pools: &'a Pools,
    endpoint: u64,
    done: Rc<Notify>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.pools.by_endpoint.borrow_mut().get_mut(&self.endpoint) {
            pool.opening.take_if(|held| Rc::ptr_eq(held, &self.done));
        }
        self.done.notify_waiters();
    }
}
