//! One try: a slot, an endpoint, a connection, a request, a head. And what a failure means.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, RETRY_AFTER};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use tidegate_model::receipt::{Receipt, Step};
use tidegate_model::refusal::{self, Kind, Refusal};
use tidegate_model::retry::{Sent, retry_after};
use tidegate_model::tick::Tick;
use tidegate_model::{breaker, deadline};
use tidegate_wire::body::Body;
use tidegate_wire::client::{self, ConnectError, SendErrorKind, Sender, Target};
use tidegate_wire::clock;

use crate::answer::{AnswerBody, Held};
use crate::caller::Caller;
use crate::endpoint::Endpoint;
use crate::gate::Slot;
use crate::pick::Pick;
use crate::pool::Pooled;
use crate::settings::{HostHeader, UpstreamSettings};
use crate::upstreams::Upstream;

/// How often a connection that its server had closed meanwhile is replaced without counting as a try.
const STALE_MAX: u32 = 2;

/// A try that failed.
pub(crate) struct Failed {
    pub refusal: Refusal,
    pub sent: Sent,
    /// The request, if nothing of it was sent.
    pub request: Option<Request<Body>>,
    /// Where.
    pub endpoint: Option<u64>,
}

/// A try that was answered.
pub(crate) struct Answered {
    pub response: Response<AnswerBody>,
    pub endpoint: Arc<Endpoint>,
    pub retry_after: Option<Duration>,
}

/// What stays the same over the tries of one call.
pub(crate) struct Plan<'a> {
    pub upstream: &'a Arc<Upstream>,
    pub settings: &'a UpstreamSettings,
    pub deadline: Tick,
    pub try_timeout: Option<Duration>,
    pub key: u64,
    pub receipt: &'a RefCell<Receipt>,
}

impl Plan<'_> {
    pub(crate) fn note(&self, step: Step) {
        self.receipt.borrow_mut().note(clock::now(), step);
    }
}

impl Caller {
    /// Makes one try on an endpoint that was not tried yet.
    pub(crate) async fn attempt(
        &self,
        plan: &Plan<'_>,
        slot: Slot,
        tried: &[u64],
        request: Request<Body>,
    ) -> Result<Answered, Failed> {
        let now = clock::now();
        let set = plan.upstream.endpoints();
        let picker = self.state.picker(plan.upstream);
        let Some(pick) = picker.pick(plan.settings, &set, tried, plan.key, self.state.chance(), now) else {
            let refusal = match set.endpoints.is_empty() {
                true => Refusal::new(&refusal::UPSTREAM_RESOLVE, "the upstream has no address yet"),
                false => {
                    Refusal::new(&refusal::UPSTREAM_UNAVAILABLE, "no endpoint of the upstream is enabled")
                }
            };
            let refusal = refusal.retry_after(Duration::from_secs(1));
            return Err(Failed { refusal, sent: Sent::Nothing, request: Some(request), endpoint: None });
        };
        let number = {
            let mut receipt = plan.receipt.borrow_mut();
            receipt.tries += 1;
            receipt.endpoint = Some(pick.endpoint.address);
            let (number, endpoint, because) = (receipt.tries, pick.endpoint.address, pick.because);
            receipt.note(now, Step::Try { number, endpoint, because });
            number
        };
        let endpoint = Arc::clone(&pick.endpoint);
        let result = self.on_endpoint(plan, slot, &pick, number, request, now).await;
        self.learn(plan, &endpoint, &result, now);
        result.map_err(|mut failed| {
            failed.endpoint = Some(endpoint.id);
            plan.note(Step::TryFailed(failed.refusal.kind.code));
            failed
        })
    }

    /// Tells the endpoint's and the upstream's breakers how it went.
    fn learn(
        &self,
        plan: &Plan<'_>,
        endpoint: &Arc<Endpoint>,
        result: &Result<Answered, Failed>,
        began: Tick,
    ) {
        let now = clock::now();
        let latency = now.since(began);
        plan.receipt.borrow_mut().upstream_time += latency;
        let (failed, pause) = match result {
            Ok(answered) => (answered.response.status().is_server_error(), answered.retry_after),
            Err(failed) if failed.refusal.kind.blame == refusal::Blame::Client => return,
            Err(_) => (true, None),
        };
        endpoint.sample(latency, failed, now);
        if !failed {
            plan.upstream.latencies.add(latency);
            endpoint.breaker.succeeded();
            plan.upstream.breaker.succeeded();
            return;
        }
        endpoint.failures.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if let Some(pause) = pause {
            endpoint.busy_for(pause, now);
        }
        let outlier = &plan.settings.outlier;
        let terms = breaker::Terms { consecutive: outlier.consecutive, cooldown: outlier.base };
        if plan.upstream.may_eject(outlier.max_percent, now)
            && endpoint.breaker.failed(&terms, endpoint.breaker.is_tripped(), now)
        {
            tracing::warn!(upstream = %plan.settings.name, endpoint = %endpoint.address, "ejected after failures in a row");
        }
        if let Some(settings) = &plan.settings.breaker {
            let terms = breaker::Terms { consecutive: settings.consecutive, cooldown: settings.cooldown };
            if plan.upstream.breaker.failed(&terms, plan.upstream.breaker.is_tripped(), now) {
                tracing::warn!(upstream = %plan.settings.name, "circuit breaker opened");
            }
        }
    }

    async fn on_endpoint(
        &self,
        plan: &Plan<'_>,
        slot: Slot,
        pick: &Pick,
        number: u32,
        request: Request<Body>,
        began: Tick,
    ) -> Result<Answered, Failed> {
        let endpoint = &pick.endpoint;
        let busy = endpoint.enter();
        let by = plan.try_timeout.map_or(plan.deadline, |most| began.after(most).min(plan.deadline));
        let mut request = self.prepare(plan, request, by.since(began));
        let mut stale = 0;
        loop {
            let mut connection = match self.connection(plan, endpoint, by, stale > 0).await {
                Ok(connection) => connection,
                Err(refusal) => {
                    return Err(Failed {
                        refusal,
                        sent: Sent::Nothing,
                        request: Some(request),
                        endpoint: None,
                    });
                }
            };
            let reused = connection.is_reused();
            if matches!(connection, Connection::Shared(_)) {
                to_http2(&mut request, endpoint, plan.upstream.is_tls());
            }
            let sent = clock::timeout_at(by, connection.sender().send(request)).await;
            let error = match sent {
                Ok(Ok(response)) => {
                    let pause = pause_asked(&response);
                    plan.note(Step::TryAnswered(response.status()));
                    let held = Held {
                        caller: std::rc::Rc::clone(&self.state),
                        upstream: Arc::clone(plan.upstream),
                        pooled: connection.into_pooled(),
                        _slot: slot,
                        _busy: busy,
                    };
                    let idle = plan.settings.body_idle;
                    let response = response.map(|body| AnswerBody::new(body, held, idle));
                    return Ok(Answered { response, endpoint: Arc::clone(endpoint), retry_after: pause });
                }
                Ok(Err(error)) => error,
                Err(_) => return Err(late(plan, by, number)),
            };
            let unsent = error.request.map(|request| *request);
            match unsent {
                // The server closed an idle connection just then. That says nothing of the endpoint.
                Some(unsent) if reused && stale < STALE_MAX => {
                    request = unsent;
                    stale += 1;
                }
                unsent => {
                    let nothing = unsent.is_some() || error.kind == SendErrorKind::Refused;
                    let sent = if nothing { Sent::Nothing } else { Sent::Perhaps };
                    let refusal = Refusal::new(kind_of(error.kind), error.kind.to_string());
                    tracing::debug!(upstream = %plan.settings.name, endpoint = %endpoint.address, error = %error.source, "try failed");
                    return Err(Failed { refusal, sent, request: unsent, endpoint: None });
                }
            }
        }
    }

    /// A connection from the pool, or a new one.
    async fn connection(
        &self,
        plan: &Plan<'_>,
        endpoint: &Arc<Endpoint>,
        by: Tick,
        fresh: bool,
    ) -> Result<Connection, Refusal> {
        let now = clock::now();
        let pools = &self.state.pools;
        if !fresh {
            if let Some(sender) =
                pools.share(endpoint, plan.settings, now).filter(|_| plan.upstream.may_multiplex())
            {
                return Ok(Connection::Shared(sender));
            }
            while let Some(mut pooled) = pools.take(endpoint, plan.settings, now) {
                if pooled.sender.is_ready() || pooled.sender.ready().await.is_ok() {
                    return Ok(Connection::Own(pooled));
                }
            }
        }
        if endpoint.connections.load(std::sync::atomic::Ordering::Relaxed) >= plan.settings.connections_max {
            return Err(Refusal::new(
                &refusal::UPSTREAM_SATURATED,
                "the endpoint has as many connections as it may",
            )
            .retry_after(Duration::from_secs(1)));
        }
        let target =
            Target { address: endpoint.address, protocol: plan.settings.protocol, tls: plan.upstream.tls() };
        let connect_by = now.after(plan.settings.connect_timeout).min(by);
        let sender = match clock::timeout_at(connect_by, Box::pin(client::connect(&target))).await {
            Ok(Ok(sender)) => sender,
            Ok(Err(error)) => return Err(not_connected(plan, &error)),
            Err(_) => {
                return Err(Refusal::new(
                    &refusal::UPSTREAM_CONNECT_TIMEOUT,
                    "the endpoint did not accept the connection in time",
                ));
            }
        };
        let connected = clock::now();
        plan.note(Step::Connected(connected.since(now)));
        let shared = sender.try_clone();
        let pooled = Pooled::new(sender, Arc::clone(endpoint), connected);
        match shared {
            Some(sender) => {
                pools.put(pooled, plan.settings, connected);
                Ok(Connection::Shared(sender))
            }
            None => Ok(Connection::Own(pooled)),
        }
    }

    /// What each try tells the upstream anew.
    fn prepare(&self, plan: &Plan<'_>, mut request: Request<Body>, left: Duration) -> Request<Body> {
        let headers = request.headers_mut();
        headers.insert(http::HeaderName::from_static("tidegate-deadline-ms"), deadline::remaining_ms(left));
        let grpc = http::HeaderName::from_static("grpc-timeout");
        if headers.contains_key(&grpc) {
            headers.insert(grpc, deadline::grpc_remaining(left));
        }
        if let HostHeader::Fixed(host) = &plan.settings.host {
            headers.insert(HOST, host.clone());
        }
        request
    }
}

/// A connection for one request.
enum Connection {
    /// HTTP/1.1: out of the pool while it is used.
    Own(Pooled),
    /// HTTP/2: a handle; the connection stays in the pool.
    Shared(Sender),
}

impl Connection {
    fn sender(&mut self) -> &mut Sender {
        match self {
            Connection::Own(pooled) => &mut pooled.sender,
            Connection::Shared(sender) => sender,
        }
    }

    /// Whether its server may have closed it unnoticed.
    fn is_reused(&self) -> bool {
        match self {
            Connection::Own(pooled) => pooled.reused,
            Connection::Shared(_) => true,
        }
    }

    fn into_pooled(self) -> Option<Pooled> {
        match self {
            Connection::Own(pooled) => Some(pooled),
            Connection::Shared(_) => None,
        }
    }
}

/// HTTP/2 has the host and the scheme in the target (RFC 9113 section 8.3.1).
fn to_http2(request: &mut Request<Body>, endpoint: &Endpoint, tls: bool) {
    let host = request.headers_mut().remove(HOST);
    let authority = host
        .and_then(|host| Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(host.as_bytes())).ok())
        .or_else(|| endpoint.address.to_string().parse().ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if parts.authority.is_none() {
        parts.authority = authority;
    }
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
}

/// The time of this try, or of the whole call, is over.
fn late(plan: &Plan<'_>, by: Tick, number: u32) -> Failed {
    let whole = by >= plan.deadline;
    let detail = match whole {
        true => "the upstream did not answer before the deadline".to_owned(),
        false => format!("the upstream did not answer try {number} in time"),
    };
    let refusal = Refusal::new(&refusal::DEADLINE_EXCEEDED, detail);
    Failed { refusal, sent: Sent::Perhaps, request: None, endpoint: None }
}

fn not_connected(plan: &Plan<'_>, error: &ConnectError) -> Refusal {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::debug!(upstream = %plan.settings.name, %error, source, "not connected");
    match error {
        ConnectError::Tcp(..) => {
            Refusal::new(&refusal::UPSTREAM_CONNECT, "the endpoint does not accept connections")
        }
        ConnectError::Tls(..) => Refusal::new(&refusal::UPSTREAM_TLS, "TLS with the endpoint failed"),
        ConnectError::Http(..) => {
            Refusal::new(&refusal::UPSTREAM_PROTOCOL, "the endpoint does not speak the protocol it should")
        }
    }
}

fn kind_of(kind: SendErrorKind) -> &'static Kind {
    match kind {
        SendErrorKind::Closed | SendErrorKind::Refused => &refusal::UPSTREAM_RESET,
        SendErrorKind::Protocol => &refusal::UPSTREAM_PROTOCOL,
        SendErrorKind::Body => &refusal::REQUEST_MALFORMED,
    }
}

/// The pause that an answer of 429 or 503 asks for.
fn pause_asked<B>(response: &Response<B>) -> Option<Duration> {
    if !matches!(response.status().as_u16(), 429 | 503) {
        return None;
    }
    response
        .headers()
        .get(RETRY_AFTER)
        .map(HeaderValue::to_str)?
        .ok()
        .and_then(|value| retry_after(value, clock::wall()))
}
