//! The receipt: the one record of an exchange.
//!
//! It is opened when the request's head has arrived, written to by every stage, travels inside the response
//! body, and is settled exactly once: when the last byte has left, or when the client or a panic ended it.
//! Access log, metrics, traces and `GET /explain/ID` are all made from it.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, Version};
use smallvec::SmallVec;

use crate::fault;
use crate::refusal::Kind;
use crate::tick::Tick;

pub use target::Target;

mod target;

/// The most events one receipt keeps; what comes after is counted in [`Receipt::events_dropped`].
pub const EVENTS_MAX: usize = 64;

/// The record of one exchange.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The request's id, told to the client, the upstream, the log and `/explain`.
    pub request_id: RequestId,
    /// When the request's head had arrived.
    pub started: Tick,
    /// The request's method.
    pub method: Method,
    /// The request's target, as received.
    pub target: Target,
    /// The request's authority, lower case; empty if it has none.
    pub host: Arc<str>,
    /// The request's HTTP version.
    pub version: Version,
    /// The address of the client, after trusted proxies were believed.
    pub client: IpAddr,
    /// The listener's address it came in by.
    pub listener: SocketAddr,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The route's name, once routed.
    pub route: Option<Arc<str>>,
    /// The tenant's id, once identified.
    pub tenant: Option<Arc<str>>,
    /// The upstream's name, once forwarded.
    pub upstream: Option<Arc<str>>,
    /// The endpoint that answered, or was tried last.
    pub endpoint: Option<SocketAddr>,
    /// Upstream calls made, the first included, hedges too.
    pub tries: u32,
    /// The status told to the client; `None` while none was.
    pub status: Option<StatusCode>,
    /// The refusal, if Tidegate answered by itself with a "no".
    pub refusal: Option<&'static Kind>,
    /// Request body bytes received.
    pub request_bytes: u64,
    /// Response body bytes sent.
    pub response_bytes: u64,
    /// When it was settled.
    pub ended: Tick,
    /// When the response's head was handed to the connection.
    pub answered: Option<Tick>,
    /// Time spent waiting at the upstream's gate.
    pub gate_wait: Duration,
    /// Time spent in upstream calls until their heads.
    pub upstream_time: Duration,
    /// How overloaded it was when it was decided, the process or the upstream, 0 to 3.
    pub load: u8,
    /// Its line in the access log may be left out, if it went well.
    pub sampled_out: bool,
    /// What the cache did: `hit`, `stale`, `revalidated`, `miss`, `bypass`; `None`: the route is not cached.
    pub cache: Option<&'static str>,
    /// What became of its idempotency key: `first`, `replayed`, `joined`, `released`, `unkept`, `unknown`, `unrecorded`;
    /// `None`: it had none that counted.
    pub idempotency: Option<&'static str>,
    /// Whether an upstream may have seen a request that it has not answered, or whose answer was not taken.
    pub reached: bool,
    /// What became of the question to the target's home node (`answered`, `away`, `late`, `refused`, `old`); `None`: it was
    /// not asked.
    pub home: Option<&'static str>,
    /// Another node made it on behalf of an exchange of its own: that one tells the tenant's part.
    pub of_peer: bool,
    /// How the exchange ended.
    pub end: End,
    /// The names of the injected faults that struck it.
    pub fault: Option<Arc<str>>,
    /// What happened, in order.
    pub events: SmallVec<[Event; 8]>,
    /// Events that did not fit.
    pub events_dropped: u32,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Open,
    /// The whole response was handed to the connection.
    Complete,
    /// The client went away first.
    ClientGone,
    /// The upstream broke off in the middle of the response's body.
    UpstreamBroke,
    /// An Upgrade's tunnel closed.
    TunnelClosed,
    /// An injected fault cut it.
    Injected,
    /// A panic ended it.
    Panicked,
}

impl End {
    /// The name used in log and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            End::Open => "open",
            End::Complete => "complete",
            End::ClientGone => "client-gone",
            End::UpstreamBroke => "upstream-broke",
            End::TunnelClosed => "tunnel-closed",
            End::Injected => "injected",
            End::Panicked => "panicked",
        }
    }
}

/// One thing that happened to an exchange.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: Tick,
    /// What.
    pub step: Step,
}

/// What happened to an exchange. Names are shared, so that recording one allocates nothing.
#[derive(Clone, Debug)]
pub enum Step {
    /// The route was chosen.
    Routed,
    /// The tenant was identified by this kind of credential (`api-key`, `jwt`, `header`, `host`, `address`).
    Identified(&'static str),
    /// This limit decided: `remaining` requests were left.
    Limited {
        /// The limit's name.
        limit: Arc<str>,
        /// Whole requests left after this one.
        remaining: u64,
    },
    /// This injected fault struck.
    Faulted(Arc<str>, fault::Kind),
    /// Waited at the gate of this upstream.
    Waited(Duration),
    /// The endpoints that serve this tenant, where the upstream has shuffle sharding.
    Sharded(Arc<[SocketAddr]>),
    /// A try began.
    Try {
        /// The try's number, from 1.
        number: u32,
        /// Where to.
        endpoint: SocketAddr,
        /// Why there: `round-robin`, `least-request`, `peak-ewma`, `ring-hash`, `random`, `panic`, `spill`, …
        because: &'static str,
    },
    /// A connection was made for the try (none of the pool was idle).
    Connected(Duration),
    /// What the system, TLS or HTTP said of a try. For the operator: no client is told.
    Cause(Box<str>),
    /// The try failed, for this reason (a refusal's code).
    TryFailed(&'static str),
    /// The try was answered with this status.
    TryAnswered(StatusCode),
    /// A file was found.
    FileRead {
        /// Which: the file itself, an index, a page in its place.
        what: &'static str,
        /// The coding of the sibling that was taken for it.
        coding: Option<&'static str>,
        /// Where from: `memory`, `disk`.
        from: &'static str,
    },
    /// No file is served, for this reason.
    FileMissing(&'static str),
    /// Another try comes after this pause.
    Backoff(Duration),
    /// No further try, for this reason (`budget`, `deadline`, `tries`, `load`, `unsafe`, `body`, `answered`, `breaker`, `shard`).
    NoRetry(&'static str),
    /// A second try was sent beside the slow first one.
    Hedged,
    /// It refreshes what answered this request.
    Refreshes(RequestId),
    /// The target's home node was asked.
    AskedHome {
        /// Which.
        node: Arc<str>,
        /// What became of it, as in [`Receipt::home`].
        outcome: &'static str,
        /// Why, where there is more to say.
        because: Cow<'static, str>,
    },
    /// An interim response of the upstream was passed on.
    PassedOn(StatusCode),
    /// The cache answered it, or did not.
    Cached {
        /// What it did, as in [`Receipt::cache`].
        outcome: &'static str,
        /// Why, in a word; of a hit: where it was found. Empty: there is nothing to say.
        because: &'static str,
    },
    /// What became of its idempotency key, as in [`Receipt::idempotency`].
    Idempotent(&'static str),
    /// The ladder's next rung was taken (`upstream NAME`, `fixed`).
    Fallback(Arc<str>),
    /// At this level of load its route does without this (`upstream`, `route`).
    Degraded(&'static str, u8),
    /// This limit was exceeded.
    Exceeded(Arc<str>),
    /// It was refused with this code, for this reason.
    Refused(&'static str, Cow<'static, str>),
    /// The response's head was handed to the connection.
    Answered(StatusCode),
}

impl Receipt {
    /// Opens a receipt for a request whose head has just arrived.
    #[must_use]
    pub fn open(request_id: RequestId, started: Tick, client: IpAddr, listener: SocketAddr) -> Receipt {
        Receipt {
            request_id,
            started,
            method: Method::GET,
            target: Target::of_path("/"),
            host: empty(),
            version: Version::HTTP_11,
            client,
            listener,
            tls: false,
            route: None,
            tenant: None,
            upstream: None,
            endpoint: None,
            tries: 0,
            status: None,
            refusal: None,
            request_bytes: 0,
            response_bytes: 0,
            ended: started,
            answered: None,
            gate_wait: Duration::ZERO,
            upstream_time: Duration::ZERO,
            load: 0,
            sampled_out: false,
            cache: None,
            idempotency: None,
            reached: false,
            home: None,
            of_peer: false,
            end: End::Open,
            fault: None,
            events: SmallVec::new(),
            events_dropped: 0,
        }
    }

    /// Notes that something happened.
    pub fn note(&mut self, at: Tick, step: Step) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(Event { at, step });
        } else {
            self.events_dropped += 1;
        }
    }
}

fn empty() -> Arc<str> {
    static EMPTY: std::sync::OnceLock<Arc<str>> = std::sync::OnceLock::new();
    EMPTY.get_or_init(|| Arc::from("")).clone()
}

/// A request's id: 128 bits, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub u128);

impl RequestId {
    /// The 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(self) -> [u8; 32] {
        const PAIRS: [[u8; 2]; 256] = {
            let (digits, mut pairs, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
            while byte < 256 {
                pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
                byte += 1;
            }
            pairs
        };
        let mut out = [0u8; 32];
        for (pair, byte) in out.chunks_exact_mut(2).zip(self.0.to_be_bytes()) {
            pair.copy_from_slice(&PAIRS[usize::from(byte)]);
        }
        out
    }

    /// Parses what [`RequestId::hex`] printed.
    #[must_use]
    pub fn parse(text: &str) -> Option<RequestId> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten().map(RequestId)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}
