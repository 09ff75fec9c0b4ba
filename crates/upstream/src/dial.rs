//! The way to places that tenants name: a URL of somebody's, called from within the operator's network.
//!
//! It is not the way to upstreams: those are the operator's, few, and known before. A place is known when it is called, is
//! called seldom, and nobody vouches for it. So nothing is discovered, balanced or checked ahead; instead:
//!
//! 1. the name is resolved when a connection is made, and *every* address that it has must be one that may be called
//!    ([`tidegate_model::webhook::reach`]);
//! 2. connected to is one of those very addresses: nothing asks the name a second time (DNS rebinding);
//! 3. TLS asks for and verifies the URL's name; no redirect is followed; of the answer no more is read than is kept.
//!
//! Each *line* (a destination, as whoever calls names it) has a breaker and a few idle connections of its own: nobody's
//! failures keep anybody else's messages. What is kept of lines has a maximum; one that is forgotten has a closed breaker.
//!
//! What it does not do: retry (but for a kept connection that the server had closed), sign, wait for a slot.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderValue, Method, Uri};
use http_body_util::BodyExt as _;
use tidegate_model::breaker::{self, Breaker, Probe, Verdict};
use tidegate_model::fields::Fields;
use tidegate_model::message::Request;
use tidegate_model::tick::Tick;
use tidegate_model::webhook::reach::{Place, Reach, Unreachable};
use tidegate_wire::body::Body;
use tidegate_wire::client::{self, ConnectError, Reply, SendErrorKind, Sender, Target};
use tidegate_wire::client_tls::{ClientTls, ClientTlsError, Identity};
use tidegate_wire::clock;
use tidegate_wire::settings::{ClientTlsSettings, Protocol};

use crate::discovery::lookup;
use crate::settings::BreakerSettings;

/// Lines that something is kept of.
const LINES_MAX: usize = 4096;
/// Idle connections of one line.
const IDLE_MAX: usize = 2;
/// How long one is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// A cooldown that doubles ends here.
const COOLDOWN_MAX: Duration = Duration::from_secs(600);

/// How places are called.
#[derive(Clone, Debug, PartialEq)]
pub struct DialSettings {
    /// What may be called.
    pub reach: Reach,
    /// The name server to ask; else the system's.
    pub resolver: Option<SocketAddr>,
    /// Whom to trust.
    pub tls: ClientTlsSettings,
    /// To resolve the name and to connect, TLS included.
    pub connect_timeout: Duration,
    /// The whole of a call, the answer's body included.
    pub timeout: Duration,
    /// Bytes of an answer that are kept; what comes beyond is not read.
    pub answer_bytes_max: usize,
    /// Calls at once.
    pub calls_max: usize,
    /// When a line is left alone.
    pub breaker: BreakerSettings,
}

/// What is sent.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// The method.
    pub method: Method,
    /// The fields; `Host` is the place's.
    pub fields: &'a Fields,
    /// The content.
    pub body: &'a Bytes,
}

impl Message<'_> {
    fn to(&self, place: &Place) -> Result<Request<Body>, DialError> {
        let malformed = |_| DialError::Refused(Unreachable::Url);
        let mut request = Request::new(Body::full(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::try_from(&place.path).map_err(malformed)?;
        let host =
            HeaderValue::try_from(&place.authority).map_err(|_| DialError::Refused(Unreachable::Url))?;
        *request.headers_mut() = self.fields.clone();
        request.headers_mut().insert(&HOST, host);
        Ok(request)
    }
}

/// What a place has answered.
#[derive(Clone, Debug)]
pub struct Dialled {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: Fields,
    /// The beginning of its content.
    pub body: Bytes,
    /// Whether that is all of it.
    pub whole: bool,
    /// Who has answered.
    pub address: SocketAddr,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It may not be called.
    #[error(transparent)]
    Refused(#[from] Unreachable),
    /// What its name leads to may not be called.
    #[error("`{0}`: {1}")]
    Inside(String, #[source] Unreachable),
    /// Its name is not resolved.
    #[error("the name is not resolved: {0}")]
    Resolve(String),
    /// There is no connection.
    #[error("{why}")]
    Connect {
        /// Where to, and what happened.
        why: String,
        /// The same without where.
        told: String,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] ClientTlsError),
    /// The connection failed before there was an answer.
    #[error("{0}")]
    Send(String),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It failed too often in a row and is left alone. Nothing was sent.
    #[error("it failed too often in a row and is left alone for a while")]
    LeftAlone {
        /// For so long.
        wait: Duration,
    },
    /// Too many are called already. Nothing was sent.
    #[error("too many calls are under way")]
    Busy,
}

impl DialError {
    /// Whether nothing was tried at all.
    #[must_use]
    pub fn is_untried(&self) -> bool {
        matches!(self, DialError::LeftAlone { .. } | DialError::Busy)
    }

    /// What whoever has named the place is told: nothing of what a name server has answered, which may be one of the
    /// operator's own, and knows more than the internet does. A name that is not there and one that leads inside are told
    /// alike.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            DialError::Inside(..) | DialError::Resolve(_) => {
                "its name leads to nothing that may be called".to_owned()
            }
            DialError::Connect { told, .. } => told.clone(),
            other => other.to_string(),
        }
    }
}

/// The way to places, of one thread.
pub struct Dialer {
    settings: DialSettings,
    tls: ClientTls,
    lines: RefCell<HashMap<Arc<str>, Rc<Line>>>,
    calls: Cell<usize>,
}

/// What is kept of a line.
struct Line {
    breaker: Breaker,
    idle: RefCell<Vec<Idle>>,
    used_at: Cell<Tick>,
}

struct Idle {
    sender: Sender,
    /// Where it was connected to.
    to: (Place, SocketAddr),
    since: Tick,
}

/// One of the calls at once.
struct Call<'a>(&'a Cell<usize>);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A probe that is handed back unless it has told how it went.
struct Trying<'a> {
    breaker: &'a Breaker,
    probe: Option<Probe>,
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.take() {
            self.breaker.abandoned(probe, clock::now());
        }
    }
}

impl Dialer {
    /// A way to places.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(settings: DialSettings) -> Result<Dialer, ClientTlsError> {
        let tls = ClientTls::new(&settings.tls, None)?;
        Ok(Dialer { settings, tls, lines: RefCell::default(), calls: Cell::new(0) })
    }

    /// What may be called.
    #[must_use]
    pub fn reach(&self) -> &Reach {
        &self.settings.reach
    }

    /// Sends a request to a place and reads its answer. `well` says whether an answer with this status speaks for the
    /// line's health.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn send(
        &self,
        line: &Arc<str>,
        place: &Place,
        identity: Option<&Identity>,
        message: &Message<'_>,
        well: impl Fn(u16) -> bool,
    ) -> Result<Dialled, DialError> {
        let began = clock::now();
        let by = began.after(self.settings.timeout);
        if self.calls.get() >= self.settings.calls_max {
            return Err(DialError::Busy);
        }
        self.calls.set(self.calls.get() + 1);
        let _call = Call(&self.calls);
        let line = self.line(line, began);
        let terms = self.terms();
        let mut trying = match line.breaker.ask(&terms, by, began) {
            Verdict::Closed => Trying { breaker: &line.breaker, probe: None },
            Verdict::Probe(probe) => Trying { breaker: &line.breaker, probe: Some(probe) },
            Verdict::Open { wait } => return Err(DialError::LeftAlone { wait }),
        };
        let late = |_| DialError::Late(self.settings.timeout);
        let called = clock::timeout_at(by, Box::pin(self.call(&line, place, identity, message, by))).await;
        let called = called.map_err(late).flatten();
        let (probe, now) = (trying.probe.take(), clock::now());
        if called.as_ref().is_ok_and(|answer| well(answer.status)) {
            line.breaker.succeeded(probe, now);
        } else {
            line.breaker.failed(&terms, probe, began, now);
        }
        called
    }

    /// Closes connections that were idle for too long.
    pub fn sweep(&self) {
        let now = clock::now();
        for line in self.lines.borrow().values() {
            line.idle.borrow_mut().retain(|idle| now.since(idle.since) < IDLE_TIMEOUT);
        }
    }

    fn terms(&self) -> breaker::Terms {
        let BreakerSettings { consecutive, cooldown } = self.settings.breaker;
        breaker::Terms { consecutive, cooldown, cooldown_max: COOLDOWN_MAX.max(cooldown) }
    }

    /// What is kept of a line. Where there are too many, the one that was not used for longest is forgotten.
    fn line(&self, name: &Arc<str>, now: Tick) -> Rc<Line> {
        let mut lines = self.lines.borrow_mut();
        if !lines.contains_key(name) && lines.len() >= LINES_MAX {
            let oldest =
                lines.iter().min_by_key(|(_, line)| line.used_at.get()).map(|(name, _)| Arc::clone(name));
            oldest.and_then(|oldest| lines.remove(&oldest));
        }
        let made = || Line { breaker: Breaker::default(), idle: RefCell::default(), used_at: Cell::new(now) };
        let line = lines.entry(Arc::clone(name)).or_insert_with(|| Rc::new(made()));
        line.used_at.set(now);
        Rc::clone(line)
    }

    async fn call(
        &self,
        line: &Line,
        place: &Place,
        identity: Option<&Identity>,
        message: &Message<'_>,
        by: Tick,
    ) -> Result<Dialled, DialError> {
        if let Some((sender, address)) = line.take(place) {
            match sender.send(&mut message.to(place)?, by).await {
                Ok(response) => return self.answer(line, place, address, response).await,
                // The server had closed it, most likely before it saw anything; if not, receivers know a repeat by its id.
                Err(error) if error.kind == SendErrorKind::Closed => {}
                Err(error) => return Err(DialError::Send(chain(&error))),
            }
        }
        let connecting = self.connect(place, identity);
        let within = clock::now().after(self.settings.connect_timeout).min(by);
        let late = |_| DialError::Late(self.settings.connect_timeout);
        let (sender, address) = clock::timeout_at(within, connecting).await.map_err(late)??;
        let mut request = message.to(place)?;
        let response = sender.send(&mut request, by).await.map_err(|error| DialError::Send(chain(&error)))?;
        self.answer(line, place, address, response).await
    }

    /// Connects to an address that was looked at.
    async fn connect(
        &self,
        place: &Place,
        identity: Option<&Identity>,
    ) -> Result<(Sender, SocketAddr), DialError> {
        let found = match place.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => lookup(self.settings.resolver, &place.host).await.map_err(DialError::Resolve)?,
        };
        let tls = match place.tls {
            true => Some(Arc::new(self.tls.to(&place.host, identity)?)),
            false => None,
        };
        let mut why = None;
        let inside = |why| DialError::Inside(place.host.clone(), why);
        let addresses = self.settings.reach.addresses(&place.host, found).map_err(inside)?;
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            let address = SocketAddr::new(address, place.port);
            match client::connect(&Target { address, protocol: Protocol::Http1, tls: tls.clone() }).await {
                Ok(sender) => return Ok((sender, address)),
                // Another address has the same certificate, or should not be asked for one.
                Err(error @ ConnectError::Tls(..)) => return Err(unconnected(&error)),
                Err(error) => why = Some(unconnected(&error)),
            }
        }
        Err(why.unwrap_or_else(|| DialError::Resolve("it has no address".to_owned())))
    }

    /// Reads the answer, as much of it as is kept; and keeps the connection if nothing is left on it.
    async fn answer(
        &self,
        line: &Line,
        place: &Place,
        address: SocketAddr,
        response: tidegate_model::message::Response<Reply>,
    ) -> Result<Dialled, DialError> {
        let (head, mut reply) = response.into_parts();
        let mut body = BytesMut::new();
        let mut whole = true;
        while let Some(frame) = reply.frame().await {
            let frame = frame.map_err(|error| DialError::Send(format!("the answer broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            let room = self.settings.answer_bytes_max - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                whole = false;
                break;
            }
        }
        let uploading = reply.is_uploading();
        if whole
            && !uploading
            && let Some(sender) = reply.into_sender()
        {
            line.keep(Idle { sender, to: (place.clone(), address), since: clock::now() });
        }
        let status = head.status.as_u16();
        Ok(Dialled { status, fields: head.headers, body: body.freeze(), whole, address })
    }
}

impl Line {
    /// A connection to this place that may be used again.
    fn take(&self, place: &Place) -> Option<(Sender, SocketAddr)> {
        let mut idle = self.idle.borrow_mut();
        let now = clock::now();
        while let Some(mut one) = idle.pop() {
            let same = (one.to.0.tls, &one.to.0.host, one.to.0.port) == (place.tls, &place.host, place.port);
            if same && now.since(one.since) < IDLE_TIMEOUT && one.sender.is_ready() {
                return Some((one.sender, one.to.1));
            }
        }
        None
    }

    fn keep(&self, one: Idle) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_MAX {
            idle.push(one);
        }
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Dialer({} lines, {} calls)", self.lines.borrow().len(), self.calls.get())
    }
}

fn unconnected(error: &ConnectError) -> DialError {
    let told = match error {
        ConnectError::Tcp(_, why) => format!("no connection: {}", why.kind()),
        ConnectError::Tls(_, why) => format!("TLS failed: {}", chain(why)),
        ConnectError::Http(..) => "it does not speak HTTP".to_owned(),
    };
    DialError::Connect { why: chain(error), told }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
