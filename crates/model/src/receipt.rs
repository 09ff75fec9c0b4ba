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

use crate::coding::Coding;
use crate::delivery::Id;
use crate::fault;
use crate::refusal::Kind;
use crate::tick::Tick;
use crate::trace::Trace;

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
    /// How its answer was compressed; `None`: it was not. Apart, as few are and a receipt is to stay small.
    pub compressed: Option<Box<Compressed>>,
    /// What became of the question to the target's home node (`answered`, `away`, `late`, `refused`, `old`); `None`: it was
    /// not asked.
    pub home: Option<&'static str>,
    /// It is an attempt of this delivery, the how many-th; `None`: it is an exchange.
    pub delivery: Option<(crate::delivery::Id, u32)>,
    /// Where it stands in its trace, where traces are told; `None` too: it never became a request. In memory of its own: a receipt
    /// stays small where they are not.
    pub trace: Option<Box<Trace>>,
    /// Another node made it on behalf of an exchange of its own: that one tells the tenant's part.
    pub of_peer: bool,
    /// How the exchange ended.
    pub end: End,
    /// The names of the injected faults that struck it.
    pub fault: Option<Arc<str>>,
    /// What happened, in order. As many as an ordinary exchange has are in the receipt itself, which stays below a KiB.
    pub events: SmallVec<[Event; 7]>,
    /// Events that did not fit.
    pub events_dropped: u32,
}

/// How an answer was compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// The coding.
    pub coding: Coding,
    /// The bytes of the content before, as far as they were read.
    pub plain_bytes: u64,
}

/// What is known of a request when its receipt is opened.
#[derive(Clone, Debug)]
pub struct Opening<'a> {
    /// See [`Receipt::request_id`].
    pub request_id: RequestId,
    /// When its head had arrived.
    pub started: Tick,
    /// Its method.
    pub method: Method,
    /// Its target, as received.
    pub target: Target,
    /// Its authority, lower case; `None`: it has none.
    pub host: Option<&'a Arc<str>>,
    /// Its HTTP version.
    pub version: Version,
    /// The address of the client, after trusted proxies were believed.
    pub client: IpAddr,
    /// The listener's address it came in by.
    pub listener: SocketAddr,
    /// Whether it came over TLS.
    pub tls: bool,
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
    /// A preflight was answered: whether its origin's scripts may call the route.
    Preflight,
    /// The route's authorizer was asked.
    Authorized {
        /// What became of it: `allowed`, `denied`, `remembered`, `failed`, `open`.
        outcome: &'static str,
        /// Why it failed: a refusal's code, `status`, `late`, `too large`, `broken off`.
        because: &'static str,
    },
    /// What became of a login, or of looking for a session: the provider's name in the configuration, and the outcome.
    Login(Arc<str>, &'static str),
    /// The tenant was identified by this kind of credential (`api-key`, `jwt`, `login`, `basic`, `header`, `host`, `address`).
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
    /// The try of this number failed, for this reason (a refusal's code).
    TryFailed(u32, &'static str),
    /// The try of this number was answered with this status.
    TryAnswered(u32, StatusCode),
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
    /// Its answer is compressed in this coding; kept so by the cache, or for it alone.
    Compressed(&'static str, bool),
    /// Its content came in this coding, and is decoded.
    Decoded(&'static str),
    /// What became of its idempotency key, as in [`Receipt::idempotency`].
    Idempotent(&'static str),
    /// It was accepted to be made later, as the delivery with this id.
    Deferred(Id),
    /// The ladder's next rung was taken (`upstream NAME`, `fixed`).
    Fallback(Arc<str>),
    /// At this level of load its route does without this (`upstream`, `route`, `compression`).
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
    pub fn of(opening: Opening<'_>) -> Receipt {
        let Opening { request_id, started, method, target, host, version, client, listener, tls } = opening;
        Receipt {
            request_id,
            started,
            method,
            target,
            host: host.map_or_else(empty, Arc::clone),
            version,
            client,
            listener,
            tls,
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
            compressed: None,
            home: None,
            delivery: None,
            trace: None,
            of_peer: false,
            end: End::Open,
            fault: None,
            events: SmallVec::new(),
            events_dropped: 0,
        }
    }

    /// Opens it for another request, in the memory that it has: a receipt is too large to be moved about for each. Nothing
    /// of the one before is left.
    pub fn reopen(&mut self, opening: Opening<'_>) {
        let Opening { request_id, started, method, target, host, version, client, listener, tls } = opening;
        // Each field is named: one that is added is not forgotten here.
        let Receipt {
            request_id: own_id,
            started: own_started,
            method: own_method,
            target: own_target,
            host: own_host,
            version: own_version,
            client: own_client,
            listener: own_listener,
            tls: own_tls,
            route,
            tenant,
            upstream,
            endpoint,
            tries,
            status,
            refusal,
            request_bytes,
            response_bytes,
            ended,
            answered,
            gate_wait,
            upstream_time,
            load,
            sampled_out,
            cache,
            end,
            fault,
            events,
            events_dropped,
            idempotency,
            reached,
            compressed,
            home,
            delivery,
            trace,
            of_peer,
        } = self;
        (*own_id, *own_started, *own_version) = (request_id, started, version);
        (*own_client, *own_listener, *own_tls) = (client, listener, tls);
        (*own_method, *own_target) = (method, target);
        // Mostly it is the same: then the count of its references, which all cores share, is left alone.
        if !host.is_some_and(|host| Arc::ptr_eq(own_host, host)) {
            *own_host = host.map_or_else(empty, Arc::clone);
        }
        (*route, *tenant, *upstream, *endpoint, *fault) = (None, None, None, None, None);
        (*tries, *load, *sampled_out, *events_dropped) = (0, 0, false, 0);
        (*status, *refusal, *cache, *end) = (None, None, None, End::Open);
        (*idempotency, *reached, *home, *of_peer) = (None, false, None, false);
        (*delivery, *trace, *compressed) = (None, None, None);
        (*request_bytes, *response_bytes, *ended, *answered) = (0, 0, started, None);
        (*gate_wait, *upstream_time) = (Duration::ZERO, Duration::ZERO);
        if events.spilled() {
            *events = SmallVec::new();
        } else {
            events.clear();
        }
    }

    /// The same for `GET /`, of which no more is known.
    #[must_use]
    pub fn open(request_id: RequestId, started: Tick, client: IpAddr, listener: SocketAddr) -> Receipt {
        Receipt::of(Opening {
            request_id,
            started,
            method: Method::GET,
            target: Target::of_path("/"),
            host: None,
            version: Version::HTTP_11,
            client,
            listener,
            tls: false,
        })
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
///
/// Packed, so that what holds it is aligned to no more than a word: a receipt full of events is the smaller for it, and
/// allocators hand out what is aligned so without further ado.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(Rust, packed(8))]
pub struct RequestId(pub u128);

impl RequestId {
    /// The 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn hex(self) -> [u8; 32] {
        let mut out = [0; 32];
        let (upper, lower) = out.split_at_mut(16);
        upper.copy_from_slice(&hex((self.0 >> 64) as u64));
        lower.copy_from_slice(&hex(self.0 as u64));
        out
    }

    /// Parses what [`RequestId::hex`] printed.
    #[must_use]
    pub fn parse(text: &str) -> Option<RequestId> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten().map(RequestId)
    }
}

/// Hexadecimal digits as a text.
#[must_use]
pub fn digits_as_text(digits: &[u8; 32]) -> &str {
    str::from_utf8(digits).expect("digits are ASCII")
}

/// The 16 lower-case hexadecimal digits of a word.
#[must_use]
pub fn hex(word: u64) -> [u8; 16] {
    let mut out = [0; 16];
    let (upper, lower) = out.split_at_mut(8);
    upper.copy_from_slice(&digits((word >> 32) as u32));
    lower.copy_from_slice(&digits(word as u32));
    out
}

/// Eight digits at once: each half-byte of the number becomes a byte of a word, and each of these a digit.
fn digits(number: u32) -> [u8; 8] {
    let word = u64::from(number);
    let word = (word | word << 16) & 0x0000_ffff_0000_ffff;
    let word = (word | word << 8) & 0x00ff_00ff_00ff_00ff;
    let word = (word | word << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // One in each byte that is more than nine.
    let letters = (word + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    (word + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

impl fmt::Display for RequestId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(digits_as_text(&self.hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Opening<'static> {
        Opening {
            request_id: RequestId(1),
            started: Tick(2),
            method: Method::PUT,
            target: Target::of_path("/a"),
            host: None,
            version: Version::HTTP_2,
            client: "192.0.2.1".parse().unwrap(),
            listener: "127.0.0.1:80".parse().unwrap(),
            tls: true,
        }
    }

    #[test]
    fn one_that_is_opened_again_holds_nothing_of_the_one_before() {
        let used = Receipt {
            route: Some("r".into()),
            tenant: Some("t".into()),
            upstream: Some("u".into()),
            endpoint: Some("127.0.0.1:1".parse().unwrap()),
            tries: 1,
            status: Some(StatusCode::OK),
            refusal: Some(&crate::refusal::LIMIT_RATE),
            request_bytes: 1,
            response_bytes: 1,
            ended: Tick(9),
            answered: Some(Tick(9)),
            gate_wait: Duration::MAX,
            upstream_time: Duration::MAX,
            load: 1,
            sampled_out: true,
            cache: Some("hit"),
            idempotency: Some("first"),
            reached: true,
            home: Some("away"),
            trace: Some(Box::new(Trace::begin(1, 1, crate::trace::Share::NONE))),
            of_peer: true,
            end: End::Complete,
            fault: Some("f".into()),
            events_dropped: 1,
            ..Receipt::of(Opening { host: Some(&"h".into()), ..opening() })
        };
        for events in [0, 1, EVENTS_MAX] {
            let mut receipt = used.clone();
            (0..events).for_each(|_| receipt.note(Tick(3), Step::Routed));
            receipt.reopen(opening());
            assert_eq!(format!("{receipt:?}"), format!("{:?}", Receipt::of(opening())));
            assert!(!receipt.events.spilled(), "nor the memory that it took");
        }
    }

    #[test]
    fn one_that_is_opened_again_holds_the_host_that_it_had_once() {
        let [one, other] = ["a", "b"].map(Arc::<str>::from);
        let mut receipt = Receipt::of(opening());
        for host in [&one, &one, &other, &one] {
            receipt.reopen(Opening { host: Some(host), ..opening() });
            assert!(Arc::ptr_eq(&receipt.host, host));
        }
        assert_eq!([&one, &other].map(Arc::strong_count), [2, 1]);
        receipt.reopen(opening());
        assert_eq!((&*receipt.host, Arc::strong_count(&one)), ("", 1));
    }

    #[test]
    fn a_receipt_fits_where_small_things_are_allocated() {
        assert!(size_of::<std::cell::RefCell<Receipt>>() <= 1024);
    }

    proptest::proptest! {
        #[test]
        fn an_id_is_shown_in_lower_case_digits(id: u128) {
            let shown = RequestId(id).to_string();
            proptest::prop_assert_eq!(&RequestId(id).hex()[..], shown.as_bytes());
            proptest::prop_assert_eq!(RequestId::parse(&shown), Some(RequestId(id)));
            proptest::prop_assert_eq!(&hex(id as u64)[..], &shown.as_bytes()[16..]);
        }
    }
}
