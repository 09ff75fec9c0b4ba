//! One try: a slot, an endpoint, a connection, a request, a head. And what a failure means.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use http::header::{HOST, RETRY_AFTER};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri, Version};
use tidegate_model::breaker::{self, Verdict};
use tidegate_model::deadline::{self, GRPC_TIMEOUT};
use tidegate_model::fields::{Fields, Value};
use tidegate_model::message::{Request, Response};
use tidegate_model::own::OwnFields;
use tidegate_model::receipt::{Receipt, Step};
use tidegate_model::refusal::{self, Kind, Refusal};
use tidegate_model::retry::{Sent, retry_after};
use tidegate_model::tenant::Tenant;
use tidegate_model::tick::{Tick, nanos};
use tidegate_wire::body::Body;
use tidegate_wire::client::{self, ConnectError, Hearing, SendError, SendErrorKind, Target};
use tidegate_wire::clock;
use tidegate_wire::settings::Protocol;

use crate::answer::{AnswerBody, Held};
use crate::caller::Caller;
use crate::endpoint::{Busy, Endpoint, EndpointSet};
use crate::gate::Slot;
use crate::pick::{Ask, Local, Pick};
use crate::pool::{Connection, Pooled};
use crate::settings::{BreakerSettings, HostHeader, OutlierSettings, UpstreamSettings};
use crate::trial::{Trial, Try};
use crate::upstreams::Upstream;

/// How often a connection that its server had closed meanwhile is replaced without counting as a try.
const STALE_MAX: u32 = 2;

/// How often an endpoint that is no longer to be had, when it has just been picked, is replaced by another.
const PICKS_MAX: u32 = 8;

/// A try that failed.
pub(crate) struct Failed {
    pub refusal: Refusal,
    pub sent: Sent,
    /// Whether the request's body is still there, as nothing was sent.
    pub unsent: bool,
    /// Where.
    pub endpoint: Option<u64>,
    /// Whether it speaks against the endpoint: neither the client nor a limit of ours is why.
    counts: bool,
}

impl Failed {
    #[cold]
    fn before_sending(refusal: Refusal, counts: bool) -> Failed {
        Failed { refusal, sent: Sent::Nothing, unsent: true, endpoint: None, counts }
    }
}

/// A try that was answered.
pub(crate) struct Answered {
    pub response: Response<AnswerBody>,
    /// Where: its key, and its address.
    pub endpoint: (u64, SocketAddr),
    pub retry_after: Option<Duration>,
}

/// What stays the same over the tries of one call.
pub(crate) struct Plan<'a> {
    pub upstream: &'a Arc<Upstream>,
    /// On whose behalf, and by which route.
    pub tenant: &'a Arc<Tenant>,
    pub route: &'a Arc<str>,
    pub local: &'a Rc<Local>,
    /// Which connections may be used.
    pub transport: u64,
    pub settings: &'a UpstreamSettings,
    pub deadline: Tick,
    pub try_timeout: Option<Duration>,
    /// What the route gives a try, however little the client gives.
    pub patience: Duration,
    pub key: u64,
    /// The tenant's key, where its endpoints are drawn by it.
    pub shard: u64,
    pub receipt: &'a RefCell<Receipt>,
    /// What is owed to the upstream's breaker.
    pub trial: Trial<'a>,
    /// The request's body is waited for. A client that sends none of it must not be able to open breakers for all.
    pub awaited: &'a Cell<bool>,
    /// What is said beside the client's fields.
    pub own: &'a OwnFields<'a>,
    /// Who hears interim responses.
    pub hearing: Hearing<'a>,
}

impl Plan<'_> {
    pub(crate) fn note(&self, step: Step) {
        self.receipt.borrow_mut().note(clock::now(), step);
    }

    /// Notes what is behind an error, if anything is.
    fn note_cause(&self, error: &dyn std::error::Error) {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        let told: Vec<String> = causes.map(ToString::to_string).collect();
        if !told.is_empty() {
            self.note(Step::Cause(told.join(": ").into()));
        }
    }

    /// A slot, if one is free and nobody waits for it.
    pub(crate) fn try_enter(&self, now: Tick) -> Option<Slot> {
        self.local.door.try_enter(self.settings.concurrency.is_some(), self.tenant, self.route, now)
    }

    /// Takes a further try or a hedge out of the upstream's budget, if there is one left.
    pub(crate) fn spend(&self) -> bool {
        self.upstream.budget.spend(self.settings.retry_budget_min_per_second, clock::now())
    }

    /// When a try that begins now must have been answered.
    pub(crate) fn by(&self, now: Tick) -> Tick {
        self.try_timeout.map_or(self.deadline, |most| now.after(most).min(self.deadline))
    }

    /// Whether a try that was not answered in so long speaks against its endpoint. A client that gives next to no time
    /// must not be able to open breakers for all.
    fn is_fair(&self, had: Duration) -> bool {
        let usual = || self.upstream.latencies.quantile(0.99);
        had >= self.patience / 2 || usual().is_some_and(|usual| had >= usual * 3)
    }
}

/// The terms of an ejection.
fn ejection(settings: &OutlierSettings) -> breaker::Terms {
    breaker::Terms { consecutive: settings.consecutive, cooldown: settings.base, cooldown_max: settings.max }
}

/// The terms of a breaker: the cooldown doubles up to sixteen times.
pub(crate) fn opening(settings: &BreakerSettings) -> breaker::Terms {
    let cooldown_max = settings.cooldown.saturating_mul(16);
    breaker::Terms { consecutive: settings.consecutive, cooldown: settings.cooldown, cooldown_max }
}

impl Caller {
    /// Makes one try on an endpoint that was not tried yet.
    pub(crate) async fn attempt(
        &self,
        plan: &Plan<'_>,
        slot: Slot,
        tried: &[u64],
        request: &mut Request<Body>,
        began: Tick,
    ) -> Result<Answered, Failed> {
        let by = plan.by(began);
        plan.local.refresh(plan.upstream);
        // Held until the try has ended, and the endpoint with it: each endpoint's own count is one that all cores write.
        let set = plan.local.endpoints();
        let (pick, busy, probe) = match self.choose(plan, &set, tried, by, began) {
            Ok(chosen) => chosen,
            Err(refusal) => return Err(Failed::before_sending(refusal, false)),
        };
        let number = {
            let mut receipt = plan.receipt.borrow_mut();
            receipt.tries += 1;
            receipt.endpoint = Some(pick.endpoint.address);
            let (number, endpoint, because) = (receipt.tries, pick.endpoint.address, pick.because);
            receipt.note(began, Step::Try { number, endpoint, because });
            number
        };
        let endpoint = pick.endpoint;
        let trial = Try::new(endpoint, probe, began);
        let at_once = plan.local.door.at_once();
        let result =
            self.on_endpoint(plan, slot, endpoint, busy, request, Bounds { began, by, number }).await;
        if let Some(at_once) = at_once {
            sample(plan, at_once, began, &result);
        }
        self.learn(plan, endpoint, trial, &result);
        result.map_err(|mut failed| {
            failed.endpoint = Some(endpoint.id);
            plan.note(Step::TryFailed(number, failed.refusal.kind.code));
            failed
        })
    }

    /// Picks an endpoint and begins a call there.
    fn choose<'a>(
        &self,
        plan: &'a Plan<'_>,
        set: &'a EndpointSet,
        tried: &'a [u64],
        by: Tick,
        now: Tick,
    ) -> Result<(Pick<'a>, Busy, Option<breaker::Probe>), Refusal> {
        let picker = &plan.local.picker;
        let (settings, key, tenant) = (plan.settings, plan.key, plan.shard);
        let mut ask = Ask { settings, set, tried, key, tenant, chance: 0, now };
        if tried.is_empty()
            && let Some((addresses, _)) = picker.shard(&ask)
        {
            plan.receipt.borrow_mut().note(now, Step::Sharded(addresses));
        }
        for _ in 0..PICKS_MAX {
            ask.chance = self.state.chance();
            let Some(pick) = picker.pick(&ask) else { break };
            // An operator may have said otherwise just now.
            let Some(busy) = pick.endpoint.enter() else { continue };
            let probe = match pick.endpoint.breaker.ask(&ejection(&plan.settings.outlier), by, now) {
                Verdict::Closed => None,
                Verdict::Probe(probe) => Some(probe),
                Verdict::Open { .. } if pick.is_panic() => None,
                // Another core's call is the probe.
                Verdict::Open { .. } => continue,
            };
            if pick.is_spilled() {
                plan.upstream.shard_spilled.fetch_add(1, Relaxed);
            }
            return Ok((pick, busy, probe));
        }
        Err(none_to_pick(plan, &ask))
    }

    /// Tells the endpoint and the upstream's breaker how it went.
    fn learn(&self, plan: &Plan<'_>, endpoint: &Endpoint, trial: Try<'_>, result: &Result<Answered, Failed>) {
        let now = clock::latest();
        let began = trial.began;
        let latency = now.since(began);
        plan.receipt.borrow_mut().upstream_time += latency;
        let pause = match result {
            Ok(answered) if !is_fault(&answered.response) => {
                plan.upstream.latencies.add(latency, now);
                plan.upstream.breaker.succeeded(plan.trial.take(), now);
                return endpoint.succeeded(trial.ended(), latency, now);
            }
            Ok(answered) => answered.retry_after,
            Err(Failed { counts: true, .. }) => None,
            Err(_) if plan.awaited.get() => return trial.says_nothing(),
            // Too little time is at least that much.
            Err(failed) if std::ptr::eq(failed.refusal.kind, &refusal::DEADLINE_EXCEEDED) => return,
            Err(_) => return trial.says_nothing(),
        };
        endpoint.sample(latency, true, now);
        endpoint.failures.fetch_add(1, Relaxed);
        if let Some(pause) = pause {
            endpoint.busy_for(pause, now);
        }
        if plan.upstream.eject(endpoint, &ejection(&plan.settings.outlier), trial.ended(), began, now) {
            tracing::warn!(upstream = %plan.settings.name, endpoint = %endpoint.address, "ejected after failures in a row");
        }
        if let Some(settings) = &plan.settings.breaker
            && plan.upstream.breaker.failed(&opening(settings), plan.trial.take(), began, now)
        {
            tracing::warn!(upstream = %plan.settings.name, "circuit breaker opened");
        }
    }

    async fn on_endpoint(
        &self,
        plan: &Plan<'_>,
        slot: Slot,
        endpoint: &Arc<Endpoint>,
        busy: Busy,
        request: &mut Request<Body>,
        bounds: Bounds,
    ) -> Result<Answered, Failed> {
        let by = bounds.by;
        let left = by.since(bounds.began);
        prepare(plan, request.headers_mut(), endpoint.address, left);
        let own = plan.own.of_try(bounds.number, left);
        let mut stale = 0;
        loop {
            let connected = match self.connection(plan, endpoint, &bounds, stale > 0).await {
                Ok(there) if !there.sender.takes_websockets() && client::is_websocket(request) => {
                    Box::pin(self.for_websocket(plan, endpoint, &bounds)).await
                }
                connected => connected,
            };
            let Connection { sender, lease } = match connected {
                Ok(connection) => connection,
                Err((refusal, counts)) => return Err(Failed::before_sending(refusal, counts)),
            };
            match lease.is_http2() {
                true => to_http2(request, endpoint, plan.upstream.is_tls()),
                false if request.version() == Version::HTTP_2 => to_http1(request),
                false => {}
            }
            match sender.forward(request, &own, plan.hearing, by).await {
                Ok(response) => {
                    let pause = pause_asked(&response);
                    let step = Step::TryAnswered(bounds.number, response.status());
                    plan.receipt.borrow_mut().note(clock::latest(), step);
                    let held = Held {
                        caller: Rc::clone(&self.state),
                        local: Rc::clone(plan.local),
                        lease,
                        slot,
                        lent: None,
                        busy,
                    };
                    let response = AnswerBody::within(response, held, plan.settings.body_idle);
                    return Ok(Answered {
                        response,
                        endpoint: (endpoint.id, endpoint.address),
                        retry_after: pause,
                    });
                }
                Err(error) if error.kind == SendErrorKind::Late => return Err(late(plan, &bounds)),
                // The server closed an idle connection just then. That says nothing of the endpoint.
                Err(error) if !error.sent && lease.is_reused() && stale < STALE_MAX => stale += 1,
                Err(error) => return Err(broken(plan, endpoint, &error)),
            }
        }
    }

    /// A connection that is there already, or a new one; or why there is none, and whether that speaks against the
    /// endpoint.
    async fn connection(
        &self,
        plan: &Plan<'_>,
        endpoint: &Arc<Endpoint>,
        bounds: &Bounds,
        fresh: bool,
    ) -> Result<Connection, (Refusal, bool)> {
        let now = clock::latest();
        let there = || self.state.pools.take(endpoint, plan.transport, plan.settings, now);
        if !fresh && let Some(connection) = there() {
            return Ok(connection);
        }
        Box::pin(self.connect(plan, endpoint, bounds, now, plan.settings.protocol)).await
    }

    /// A connection for a WebSocket to a server whose HTTP/2 does not carry them: one of HTTP/1.1, if the server may be
    /// spoken to so.
    async fn for_websocket(
        &self,
        plan: &Plan<'_>,
        endpoint: &Arc<Endpoint>,
        bounds: &Bounds,
    ) -> Result<Connection, (Refusal, bool)> {
        if plan.settings.protocol != Protocol::Auto {
            let why = "the upstream speaks HTTP/2 and does not take WebSockets over it";
            return Err((Refusal::new(&refusal::UPSTREAM_WEBSOCKET, why), false));
        }
        self.connect(plan, endpoint, bounds, clock::latest(), Protocol::Http1).await
    }

    /// A new connection, or one that has become free while it was waited for.
    async fn connect(
        &self,
        plan: &Plan<'_>,
        endpoint: &Arc<Endpoint>,
        bounds: &Bounds,
        now: Tick,
        protocol: Protocol,
    ) -> Result<Connection, (Refusal, bool)> {
        let (settings, pools) = (plan.settings, &self.state.pools);
        let by = now.after(settings.connect_timeout).min(bounds.by);
        let shared = plan.upstream.may_multiplex(protocol, endpoint);
        while shared && let Some(opening) = pools.opening(endpoint) {
            if clock::timeout_at(by, opening.notified()).await.is_err() {
                return Err(not_in_time(plan, bounds, now));
            }
            if let Some(connection) = pools.take(endpoint, plan.transport, settings, clock::now()) {
                return Ok(connection);
            }
        }
        let most = settings.connections_max;
        let mut reserved = match endpoint.reserve(most) {
            Some(reserved) => reserved,
            None => {
                if protocol == settings.protocol
                    && let Some(connection) = pools.take_full(endpoint, plan.transport, now)
                {
                    return Ok(connection);
                }
                let until = now.after(settings.waiting.wait).min(bounds.by);
                endpoint.reserve_by(most, settings.waiting.limit, until).await.ok_or_else(too_many)?
            }
        };
        if !reserved.open() {
            pools.give_up();
            if !reserved.open() {
                return Err(no_file());
            }
        }
        let opening = shared.then(|| pools.open(endpoint));
        let began = clock::now();
        let by = began.after(settings.connect_timeout).min(bounds.by);
        let target = Target { address: endpoint.address, protocol, tls: plan.upstream.tls() };
        let sender = match clock::timeout_at(by, client::connect(&target)).await {
            Ok(Ok(sender)) => sender,
            Ok(Err(error)) => return Err((not_connected(plan, &error), true)),
            Err(_) => return Err(not_in_time(plan, bounds, began)),
        };
        let connected = clock::now();
        plan.note(Step::Connected(connected.since(began)));
        endpoint.connects.fetch_add(1, Relaxed);
        if protocol == settings.protocol {
            endpoint.chose_http1.store(!sender.is_http2(), Relaxed);
        }
        // Up to a tenth older than it is: what was made together does not end together.
        let aged = settings.lifetime_max.mul_f64(self.state.chance() as f64 / u64::MAX as f64 / 10.0);
        let born = Tick(connected.0.saturating_sub(nanos(aged)));
        let pooled = Pooled::new(sender, reserved, plan.transport, born);
        let connection = pools.begin(pooled, settings, connected);
        drop(opening);
        Ok(connection)
    }
}

/// Why there is no endpoint for a call.
#[cold]
fn none_to_pick(plan: &Plan<'_>, ask: &Ask<'_>) -> Refusal {
    let second = Duration::from_secs(1);
    let (kind, why, wait) = match plan.local.picker.shard(ask) {
        _ if ask.set.endpoints.is_empty() => {
            (&refusal::UPSTREAM_RESOLVE, "the upstream has no address yet", second)
        }
        Some((members, wait)) if !members.is_empty() => {
            plan.upstream.shard_refused.fetch_add(1, Relaxed);
            (&refusal::UPSTREAM_SHARD, "all endpoints that serve this tenant are down", wait.max(second))
        }
        _ => (&refusal::UPSTREAM_UNAVAILABLE, "no endpoint of the upstream is enabled", second),
    };
    Refusal::new(kind, why).retry_after(wait)
}

/// Tells the adaptive limit how a try went: an answer, or a sign that the upstream has more than it can do.
fn sample(plan: &Plan<'_>, at_once: usize, began: Tick, result: &Result<Answered, Failed>) {
    let served = match result {
        Ok(answered) => !matches!(answered.response.status().as_u16(), 429 | 503),
        Err(Failed { counts: true, .. }) => false,
        // A client's fault, or a limit of ours.
        Err(_) => return,
    };
    let now = clock::now();
    plan.local.door.sample(at_once, now.since(began), served, now);
}

/// What each try tells the upstream anew.
fn prepare(plan: &Plan<'_>, headers: &mut Fields, endpoint: SocketAddr, left: Duration) {
    if plan.own.grpc_timeout && headers.contains_key(GRPC_TIMEOUT) {
        headers.insert(GRPC_TIMEOUT, deadline::grpc_remaining(left));
    }
    match &plan.settings.host {
        HostHeader::Fixed(host) => headers.insert(HOST, host),
        _ if headers.contains_key(HOST) => {}
        // HTTP/1.0 lets a client name none; HTTP/1.1, which is spoken here, does not.
        _ => headers.extend(HeaderValue::try_from(endpoint.to_string()).map(|host| (HOST, host)).ok()),
    }
}

/// When a try began, until when it may take, and which one it is.
struct Bounds {
    began: Tick,
    by: Tick,
    number: u32,
}

/// HTTP/2 has the host and the scheme in the target (RFC 9113 section 8.3.1).
#[inline(never)]
fn to_http2(request: &mut Request<Body>, endpoint: &Endpoint, tls: bool) {
    let host = request.headers().get(HOST);
    let authority = host
        .and_then(|host| Authority::try_from(host.as_bytes()).ok())
        .or_else(|| endpoint.address.to_string().parse().ok());
    request.headers_mut().remove(HOST);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    if parts.authority.is_none() {
        parts.authority = authority;
    }
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
}

/// A request that was meant for HTTP/2, for an endpoint that speaks HTTP/1.1.
#[cold]
pub(crate) fn to_http1(request: &mut Request<Body>) {
    let parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = parts.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = parts.path_and_query.map(Uri::from).unwrap_or_default();
    *request.version_mut() = Version::HTTP_11;
}

/// The time of this try, or of the whole call, is over.
#[cold]
fn late(plan: &Plan<'_>, bounds: &Bounds) -> Failed {
    let (refusal, counts) = out_of_time(plan, bounds);
    Failed { refusal, sent: Sent::Perhaps, unsent: false, endpoint: None, counts }
}

#[cold]
fn out_of_time(plan: &Plan<'_>, bounds: &Bounds) -> (Refusal, bool) {
    let detail = match bounds.by >= plan.deadline {
        true => "the upstream did not answer before the deadline".to_owned(),
        false => format!("the upstream did not answer try {} in time", bounds.number),
    };
    let counts = !plan.awaited.get() && plan.is_fair(bounds.by.since(bounds.began));
    (Refusal::new(&refusal::DEADLINE_EXCEEDED, detail), counts)
}

/// There is no connection in time, though it was tried since `began`.
#[cold]
fn not_in_time(plan: &Plan<'_>, bounds: &Bounds, began: Tick) -> (Refusal, bool) {
    if began.after(plan.settings.connect_timeout) > bounds.by {
        return out_of_time(plan, bounds);
    }
    let detail = "the endpoint did not accept the connection in time";
    (Refusal::new(&refusal::UPSTREAM_CONNECT_TIMEOUT, detail), true)
}

/// The endpoint has as many connections as it may: our limit, not its fault.
fn too_many() -> (Refusal, bool) {
    let refusal =
        Refusal::new(&refusal::UPSTREAM_SATURATED, "the endpoint has as many connections as it may");
    (refusal.retry_after(Duration::from_secs(1)), false)
}

/// The process has no file descriptor left for it: not the endpoint's fault either.
fn no_file() -> (Refusal, bool) {
    let refusal = Refusal::new(&refusal::SERVER_FILES, "the server has as many open files as it may");
    (refusal.retry_after(Duration::from_secs(1)), false)
}

/// The connection broke before the answer's head.
#[cold]
fn broken(plan: &Plan<'_>, endpoint: &Endpoint, error: &SendError) -> Failed {
    tracing::debug!(upstream = %plan.settings.name, endpoint = %endpoint.address, error = ?error.source, "try failed");
    plan.note_cause(error);
    let nothing = !error.sent || error.kind == SendErrorKind::Refused;
    Failed {
        refusal: Refusal::new(kind_of(error.kind), error.kind.to_string()),
        sent: if nothing { Sent::Nothing } else { Sent::Perhaps },
        unsent: !error.sent,
        endpoint: None,
        counts: error.kind != SendErrorKind::Body,
    }
}

#[cold]
fn not_connected(plan: &Plan<'_>, error: &ConnectError) -> Refusal {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::debug!(upstream = %plan.settings.name, %error, source, "not connected");
    plan.note_cause(error);
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
        SendErrorKind::Late => &refusal::DEADLINE_EXCEEDED,
    }
}

/// Whether the server says that it has failed. gRPC says so by a field where HTTP has a status: unknown, internal,
/// unavailable, data loss.
fn is_fault<B>(response: &Response<B>) -> bool {
    let grpc = || response.headers().get("grpc-status").map(Value::as_bytes);
    response.status().is_server_error()
        || response.version() == Version::HTTP_2 && matches!(grpc(), Some(b"2" | b"13" | b"14" | b"15"))
}

/// The pause that an answer of 429 or 503 asks for.
fn pause_asked<B>(response: &Response<B>) -> Option<Duration> {
    if !matches!(response.status().as_u16(), 429 | 503) {
        return None;
    }
    response
        .headers()
        .get(RETRY_AFTER)
        .map(Value::to_str)?
        .ok()
        .and_then(|value| retry_after(value, clock::wall()))
}
