//! The control API: health, metrics, status, explanations, and the few changes that an operator makes by hand.
//!
//! It has a runtime of its own: nothing asked here stalls traffic. Health and metrics need no token on loopback; a change
//! always needs one, except over the unix socket. `Host` is checked, so that a web page that the operator looks at
//! cannot talk to it (DNS rebinding).

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, MatchedPath, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_model::credential::Digest;
use tidegate_model::receipt::RequestId;
use tidegate_upstream::{Admin, UpstreamStatus};
use tidegate_wire::clock;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use self::audit::{Changed, Code};
use crate::audit::Change;
use crate::config::{ControlAddress, ControlSettings, ControlToken, Failure, Scope, Spot};
use crate::run::Process;
use crate::telemetry::TextFormat;
use crate::upgrade::{self, Sockets, shown};

use self::body::BYTES_MAX as BODY_MAX;
use self::door::Door;

mod administer;
mod audit;
mod body;
mod cache;
mod canaries;
mod deliveries;
mod domains;
mod door;
mod endpoints;
mod explanation;
mod faults;
mod maintenance;
mod metrics;
mod mirrors;
mod openapi;
mod pull;
mod queues;
mod report;
mod schedules;
mod shapes;
mod store;
mod told;
mod webhooks;

pub use deliveries::now;
pub use explanation::in_words;
pub use faults::end_all as end_all_faults;
pub use metrics::{TenantLines, read as read_metrics};
pub use openapi::published as published_openapi;
pub use pull::{EndingOfOne, ExtensionOfOne, ending, extension};

/// Letters of a path that are recorded of a change.
const PATH_KEPT_MAX: usize = 1024;

/// Who asks.
#[derive(Clone, Copy, Debug)]
enum Peer {
    Tcp(SocketAddr),
    Unix,
}

/// Who asks, by name: of a token, or in words.
#[derive(Clone, Debug)]
struct Who(String);

#[derive(Clone)]
struct Control {
    process: Arc<Process>,
    settings: Arc<ControlSettings>,
}

/// A control API that is bound and not served yet.
pub struct Bound {
    settings: Arc<ControlSettings>,
    tcp: Vec<std::net::TcpListener>,
    unix: Vec<UnixListener>,
    /// The same, by what the configuration says, for a process that takes over.
    pub copies: Vec<(String, OwnedFd)>,
    /// Where it is, in words: `ADDRESS:PORT` or `unix:PATH`.
    pub addresses: Vec<String>,
}

/// Binds each of the addresses, but for those that are open already.
///
/// # Errors
/// Every address that cannot be listened on.
pub fn bind(settings: &ControlSettings, legacy: &mut Sockets) -> Result<Bound, Vec<Failure>> {
    let settings = Arc::new(settings.clone());
    let (tcp, unix, copies, addresses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut bound = Bound { settings: Arc::clone(&settings), tcp, unix, copies, addresses };
    let mut failures = Vec::new();
    for address in &settings.listen {
        let done = bound.add(address, legacy.take_control(address));
        failures.extend(done.err().map(|error| unbound(address, &error)));
    }
    if failures.is_empty() { Ok(bound) } else { Err(failures) }
}

fn unbound(address: &ControlAddress, error: &io::Error) -> Failure {
    let shown = shown(address);
    let in_use = error.kind() == io::ErrorKind::AddrInUse;
    let why = if in_use { "it is in use by another process".to_owned() } else { error.to_string() };
    let failure = Failure::new(
        Spot::Control(address.clone()),
        format!("the control API cannot listen on {shown}: {why}"),
    );
    if in_use {
        failure.help("give it another address: [control] listen = [\"127.0.0.1:8091\"]")
    } else {
        failure
    }
}

impl Bound {
    /// One more address, for which there may be a socket already.
    fn add(&mut self, address: &ControlAddress, held: Option<OwnedFd>) -> io::Result<()> {
        let copy = match address {
            ControlAddress::Tcp(at) => {
                let listener = match held {
                    Some(held) => std::net::TcpListener::from(held),
                    None => std::net::TcpListener::bind(at)?,
                };
                listener.set_nonblocking(true)?;
                self.addresses.push(listener.local_addr()?.to_string());
                let copy = listener.try_clone()?.into();
                self.tcp.push(listener);
                copy
            }
            ControlAddress::Unix(path) => {
                let listener = match held {
                    Some(held) => std::os::unix::net::UnixListener::from(held),
                    None => bind_unix(path)?,
                };
                listener.set_nonblocking(true)?;
                self.addresses.push(shown(address));
                let copy = listener.try_clone()?.into();
                self.unix.push(UnixListener::from_std(listener)?);
                copy
            }
        };
        self.copies.push((shown(address), copy));
        Ok(())
    }

    /// Serves it from now on. Must be called on the control runtime.
    ///
    /// # Errors
    /// The system has no room for a socket in its event queue.
    pub fn serve(self, process: &Arc<Process>) -> io::Result<()> {
        let router = router(Control { process: Arc::clone(process), settings: self.settings });
        for listener in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let service = router.clone().layer(middleware::from_fn(as_tcp));
            let service = service.into_make_service_with_connect_info::<Peer>();
            let listener = Door::new(listener, process);
            tidegate_wire::task::spawn(async move { ended(axum::serve(listener, service).await) });
        }
        for listener in self.unix {
            let service = router.clone().layer(middleware::from_fn(as_unix));
            let listener = Door::new(listener, process);
            let service = service.into_make_service_with_connect_info::<Owner>();
            tidegate_wire::task::spawn(async move { ended(axum::serve(listener, service).await) });
        }
        Ok(())
    }
}

fn ended(served: io::Result<()>) {
    if let Err(error) = served {
        tracing::error!(%error, "the control API ended");
    }
}

/// Whoever may open the socket may change everything: that is the owner alone.
fn bind_unix(path: &PathBuf) -> io::Result<std::os::unix::net::UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_err() {
        // A socket that nobody listens on is left over from a process that was killed. Anything else stays.
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket {
            std::fs::remove_file(path)?;
        }
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn as_tcp(ConnectInfo(peer): ConnectInfo<Peer>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(peer);
    next.run(request).await
}

/// Who has opened the unix socket: the id of its user, if the system knows it.
#[derive(Clone, Copy, Debug)]
struct Owner(Option<u32>);

impl Connected<IncomingStream<'_, Door<UnixListener>>> for Owner {
    fn connect_info(stream: IncomingStream<'_, Door<UnixListener>>) -> Owner {
        Owner(stream.io().peer_cred().ok().map(|owner| owner.uid()))
    }
}

async fn as_unix(ConnectInfo(owner): ConnectInfo<Owner>, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Peer::Unix);
    request.extensions_mut().insert(owner);
    next.run(request).await
}

fn router(control: Control) -> Router {
    endpoints::all()
        .into_iter()
        .fold(Router::new(), |router, endpoint| router.route(endpoint.path, endpoint.handler))
        .fallback(|| async {
            problem(StatusCode::NOT_FOUND, "control.not-found", "there is nothing at this path")
        })
        .method_not_allowed_fallback(|| async {
            problem(StatusCode::METHOD_NOT_ALLOWED, "control.method", "this path has another method")
        })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(control.clone(), guard))
        .with_state(control)
}

/// Lets a request through that may be made.
async fn guard(State(control): State<Control>, mut request: Request, next: Next) -> Response {
    let _asked = control.process.generation.begin_asking();
    let peer = request.extensions().get::<Peer>().copied();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !matches!(peer, Some(Peer::Unix)) && !is_known_host(host, &control.settings.hosts) {
        return problem(
            StatusCode::MISDIRECTED_REQUEST,
            "control.host",
            "this Host is not a name of the control API",
        );
    }
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let found = path.and_then(|path| endpoints::operation(path, request.method().as_str()));
    // Of what there is not, only who may look hears so.
    let safe = if request.method().is_safe() { Scope::Read } else { Scope::Write };
    let need = found.map_or(Some(safe), |found| found.scope);
    match may(peer, need, request.headers(), &control.settings.tokens) {
        Ok(who) => {
            let change = found.filter(|found| audit::is_recorded(found)).map(|found| Change {
                who: who.clone(),
                from: from(&request, peer),
                action: format!("{} {}", found.method.to_uppercase(), path.unwrap_or_default()),
                path: request.uri().path().chars().take(PATH_KEPT_MAX).collect(),
                ..Change::default()
            });
            if change.is_none() && !request.method().is_safe() {
                tracing::info!(who, method = %request.method(), path = request.uri().path(), "control: change");
            }
            request.extensions_mut().insert(Who(who));
            match change {
                Some(change) => recorded(&control.process, change, next.run(request)).await,
                None => next.run(request).await,
            }
        }
        Err(response) => *response,
    }
}

/// Makes a change and records it. Whoever asked may leave meanwhile: what has begun is done, and recorded.
async fn recorded(
    process: &Arc<Process>,
    mut change: Change,
    made: impl Future<Output = Response> + Send + 'static,
) -> Response {
    let (audit, broken) = (Arc::clone(&process.audit), change.clone());
    let (told, answer) = oneshot::channel();
    tidegate_wire::task::spawn(async move {
        let response = made.await;
        change.status = Some(response.status().as_u16());
        change.code = response.extensions().get::<Code>().map(|code| code.0.clone());
        if let Some(changed) = response.extensions().get::<Changed>() {
            (change.before, change.after) = (changed.before.clone(), Some(changed.after.clone()));
        }
        audit.keep(change).await;
        // Whoever asked may have gone.
        let _ = told.send(response);
    });
    if let Ok(response) = answer.await {
        return response;
    }
    let (status, code) = (StatusCode::INTERNAL_SERVER_ERROR, "control.broken");
    let change = Change { status: Some(status.as_u16()), code: Some(code.to_owned()), ..broken };
    process.audit.keep(change).await;
    problem(status, code, "the change panicked: see the log")
}

/// Where a request comes from.
fn from(request: &Request, peer: Option<Peer>) -> String {
    match (peer, request.extensions().get::<Owner>()) {
        (Some(Peer::Tcp(address)), _) => address.to_string(),
        (_, Some(Owner(Some(user)))) => format!("user {user}"),
        _ => String::new(),
    }
}

/// Names that a browser cannot be made to resolve to us: addresses, localhost, and what the operator lists.
fn is_known_host(host: &str, listed: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok()
        || listed.iter().any(|one| one.eq_ignore_ascii_case(name))
}

/// Who it is, if they may.
fn may(
    peer: Option<Peer>,
    need: Option<Scope>,
    headers: &HeaderMap,
    tokens: &[ControlToken],
) -> Result<String, Box<Response>> {
    let loopback = match peer {
        Some(Peer::Unix) => return Ok("unix socket".to_owned()),
        Some(Peer::Tcp(peer)) => peer.ip().to_canonical().is_loopback(),
        None => false,
    };
    let token =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(token) = token else {
        let open = loopback && matches!(need, None | Some(Scope::Read));
        return if open { Ok("loopback".to_owned()) } else { Err(Box::new(unauthorized())) };
    };
    let digest = Digest::of(token.as_bytes());
    // All of them are compared, so that the time says nothing of which one it was.
    let found =
        tokens.iter().fold(None, |found, held| if held.digest == digest { Some(held) } else { found });
    let Some(held) = found else { return Err(Box::new(unauthorized())) };
    // Who may change may look.
    let has = |scope: Scope| held.scopes.contains(&scope);
    match need {
        Some(Scope::Read) if held.scopes.is_empty() => Err(Box::new(lacks_scope())),
        // Who may change everything may also deliver.
        Some(Scope::Deliver) if has(Scope::Write) => Ok(held.name.to_string()),
        Some(scope @ (Scope::Write | Scope::Faults | Scope::Purge | Scope::Deliver)) if !has(scope) => {
            Err(Box::new(lacks_scope()))
        }
        _ => Ok(held.name.to_string()),
    }
}

fn lacks_scope() -> Response {
    problem(StatusCode::FORBIDDEN, "control.scope", "the token lacks the scope for this")
}

fn unauthorized() -> Response {
    let mut response = problem(
        StatusCode::UNAUTHORIZED,
        "control.token",
        "a token is needed: `Authorization: Bearer …`, see [control] tokens",
    );
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// An error as RFC 9457 has it.
fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    problem_with(status, code, detail, &[])
}

/// The same with all that is wrong, each for itself.
fn problem_with(status: StatusCode, code: &str, detail: &str, problems: &[String]) -> Response {
    let mut body = json!({
        "type": format!("urn:tidegate:{}", code.replacen('.', ":", 1)), "title": status.canonical_reason(), "status": status.as_u16(),
        "code": code, "detail": detail,
    });
    if !problems.is_empty() {
        body["problems"] = json!(problems);
    }
    let mut response = (status, body.to_string()).into_response();
    response.extensions_mut().insert(Code(code.to_owned()));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
    response
}

async fn ready(State(control): State<Control>) -> Response {
    if control.process.draining.load(std::sync::atomic::Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    "ready\n".into_response()
}

async fn scrape(State(control): State<Control>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = TextFormat::of(accept);
    let text = metrics::read(&control.process).await.text(format);
    ([(header::CONTENT_TYPE, format.media_type())], text).into_response()
}

async fn openapi() -> Response {
    axum::Json(openapi::document()).into_response()
}

async fn status(State(control): State<Control>) -> Response {
    axum::Json(report::status(&control.process)).into_response()
}

async fn config(State(control): State<Control>) -> Response {
    let text = control.process.gate.config().effective.to_string();
    ([(header::CONTENT_TYPE, "application/toml")], text).into_response()
}

#[derive(Deserialize)]
struct Format {
    #[serde(default)]
    format: String,
}

async fn explain(
    State(control): State<Control>,
    Path(id): Path<String>,
    Query(Format { format }): Query<Format>,
    headers: HeaderMap,
) -> Response {
    let Some(id) = RequestId::parse(&id) else {
        return problem(
            StatusCode::BAD_REQUEST,
            "control.request-id",
            "a request id has 32 hexadecimal digits",
        );
    };
    let Some(receipt) = control.process.gate.telemetry.find(id) else {
        return problem(
            StatusCode::NOT_FOUND,
            "control.forgotten",
            "no recent exchange has this id: only the last ones are kept",
        );
    };
    let accepts_text =
        headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/plain"));
    if format == "text" || (format.is_empty() && accepts_text) {
        return explanation::text(&receipt).into_response();
    }
    axum::Json(explanation::json(&receipt)).into_response()
}

/// The configuration was read again.
#[derive(JsonSchema, Serialize)]
struct Reloaded {
    /// It is in force on every core.
    reloaded: bool,
}

async fn reload(State(control): State<Control>) -> Response {
    match control.process.reload().await {
        Ok(()) => axum::Json(Reloaded { reloaded: true }).into_response(),
        Err(problems) => problem(StatusCode::UNPROCESSABLE_ENTITY, "control.config", &problems),
    }
}

/// Another process has taken over.
#[derive(JsonSchema, Serialize)]
struct Upgraded {
    /// Its process id.
    pid: u32,
}

async fn upgrade(State(control): State<Control>) -> Response {
    match upgrade::upgrade(&control.process).await {
        Ok(pid) => axum::Json(Upgraded { pid }).into_response(),
        Err(error) => problem(StatusCode::CONFLICT, "control.upgrade", &error.to_string()),
    }
}

#[derive(Deserialize)]
struct EndpointChange {
    state: Admin,
}

async fn set_endpoint(
    State(control): State<Control>,
    Path((name, address)): Path<(String, String)>,
    body: Body,
) -> Response {
    let Ok(address) = address.parse::<SocketAddr>() else {
        return problem(StatusCode::BAD_REQUEST, "control.address", "not an address and port");
    };
    let bytes = match body::read(body, BODY_MAX).await {
        Ok(bytes) => bytes,
        Err(refused) => return *refused,
    };
    let Ok(change) = serde_json::from_slice::<EndpointChange>(&bytes) else {
        let detail = r#"the body is not {"state": "enabled"}, "draining" or "disabled""#;
        return problem(StatusCode::BAD_REQUEST, "control.body", detail);
    };
    let upstreams = &control.process.gate.standing.upstreams;
    let told = || upstreams.get(&name).map(|upstream| upstream.status(clock::now()));
    let state = |told: Option<&UpstreamStatus>| {
        let endpoint = told?.endpoints.iter().find(|endpoint| endpoint.address == address)?;
        serde_json::to_value(endpoint.admin).ok()?.as_str().map(str::to_owned)
    };
    let before = state(told().as_ref());
    if upstreams.set_endpoint(&name, address, change.state) {
        let upstream = told();
        let after = state(upstream.as_ref()).unwrap_or_default();
        let mut response = axum::Json(json!(upstream)).into_response();
        response.extensions_mut().insert(Changed { before, after });
        return response;
    }
    let detail = match upstreams.get(&name) {
        Some(_) => format!("upstream `{name}` has no endpoint {address}"),
        None => format!("there is no upstream `{name}`"),
    };
    problem(StatusCode::NOT_FOUND, "control.endpoint", &detail)
}

async fn shard(State(control): State<Control>, Path((name, tenant)): Path<(String, String)>) -> Response {
    let found = control.process.gate.standing.upstreams.get(&name);
    match found.and_then(|upstream| upstream.shard_of(&tenant, clock::now())) {
        Some(endpoints) => {
            axum::Json(json!({"upstream": name, "tenant": tenant, "endpoints": endpoints})).into_response()
        }
        None => problem(
            StatusCode::NOT_FOUND,
            "control.shard",
            "there is no such upstream, or all of its endpoints serve each tenant",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a request gets: 200, or the status of the refusal.
    fn check(peer: &str, need: Option<Scope>, token: Option<&str>) -> u16 {
        let token_of = |name: &str, scopes: &[Scope]| ControlToken {
            name: name.into(),
            digest: Digest::of(name.as_bytes()),
            scopes: scopes.to_vec(),
        };
        let tokens = [
            token_of("reader", &[Scope::Read]),
            token_of("writer", &[Scope::Write]),
            token_of("rehearser", &[Scope::Faults]),
            token_of("purger", &[Scope::Purge]),
            token_of("deliverer", &[Scope::Deliver]),
        ];
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        let peer = if peer == "unix" { Peer::Unix } else { Peer::Tcp(peer.parse().unwrap()) };
        may(Some(peer), need, &headers, &tokens).map_or_else(|response| response.status().as_u16(), |_| 200)
    }

    #[test]
    fn a_change_needs_a_token_everywhere_but_on_the_unix_socket() {
        let (loopback, far) = ("127.0.0.1:9", "192.0.2.1:9");
        for (peer, need, token, expected) in [
            (loopback, None, None, 200),
            (loopback, Some(Scope::Read), None, 200),
            (loopback, Some(Scope::Write), None, 401),
            (far, None, None, 401),
            (far, None, Some("reader"), 200),
            (far, Some(Scope::Read), Some("reader"), 200),
            (far, Some(Scope::Read), Some("writer"), 200),
            (loopback, Some(Scope::Write), Some("reader"), 403),
            (far, Some(Scope::Write), Some("writer"), 200),
            (loopback, Some(Scope::Read), Some("wrong"), 401),
            (loopback, Some(Scope::Faults), None, 401),
            (loopback, Some(Scope::Faults), Some("writer"), 403),
            (far, Some(Scope::Faults), Some("rehearser"), 200),
            (far, Some(Scope::Read), Some("rehearser"), 200),
            (far, Some(Scope::Write), Some("rehearser"), 403),
            (loopback, Some(Scope::Purge), None, 401),
            (far, Some(Scope::Purge), Some("purger"), 200),
            (far, Some(Scope::Purge), Some("writer"), 403),
            (far, Some(Scope::Write), Some("purger"), 403),
            (loopback, Some(Scope::Deliver), None, 401),
            (far, Some(Scope::Deliver), Some("deliverer"), 200),
            (far, Some(Scope::Deliver), Some("writer"), 200),
            (far, Some(Scope::Deliver), Some("purger"), 403),
            (far, Some(Scope::Write), Some("deliverer"), 403),
            ("unix", Some(Scope::Faults), None, 200),
            ("unix", Some(Scope::Write), None, 200),
        ] {
            assert_eq!(check(peer, need, token), expected, "{peer} {need:?} {token:?}");
        }
    }

    #[test]
    fn the_documentation_names_each_endpoint_and_each_error() {
        let sources = [
            include_str!("control.rs"),
            include_str!("control/audit.rs"),
            include_str!("control/body.rs"),
            include_str!("control/faults.rs"),
            include_str!("control/cache.rs"),
            include_str!("control/administer.rs"),
            include_str!("control/deliveries.rs"),
            include_str!("control/pull.rs"),
            include_str!("control/schedules.rs"),
            include_str!("control/webhooks.rs"),
            include_str!("control/domains.rs"),
            include_str!("control/store.rs"),
            include_str!("control/mirrors.rs"),
            include_str!("control/canaries.rs"),
        ];
        let page = include_str!("../../../docs/control.md");
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## `")).collect();
        for path in endpoints::all().iter().map(|endpoint| endpoint.path) {
            let told = headings.iter().any(|heading| heading.contains(&format!(" {path}`")));
            assert!(told, "docs/control.md has no `{path}`");
        }
        assert_eq!(headings.len(), endpoints::all().len(), "{headings:?}");
        let codes = |text: &str| {
            let parts = text.split(['"', '`']).filter(|part| part.starts_with("control."));
            let codes = parts
                .filter(|part| part.bytes().all(|byte| byte.is_ascii_lowercase() || b".-".contains(&byte)));
            codes.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
        };
        let known = sources.map(|source| codes(source.split("#[cfg(test)]").next().unwrap()));
        assert_eq!(codes(page), known.into_iter().flatten().collect());
    }

    #[test]
    fn a_host_that_a_page_could_resolve_to_us_is_refused() {
        for (host, known) in [
            ("127.0.0.1:8090", true),
            ("localhost", true),
            ("[::1]:8090", true),
            ("gate.internal:8090", true),
            ("evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_known_host(host, &["gate.internal".to_owned()]), known, "{host}");
        }
    }
}
