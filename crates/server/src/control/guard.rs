//! Who may ask for what, and that each change leaves a record.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use tidegate_model::credential::Digest;
use tokio::sync::oneshot;

use super::audit::{self, Changed, Code};
use super::{Control, Who, endpoints, problem};
use crate::audit::Change;
use crate::config::{ControlToken, Scope};
use crate::run::Process;

/// Letters of a path that are recorded of a change.
const PATH_KEPT_MAX: usize = 1024;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

/// Who has opened the unix socket: the id of its user, if the system knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner(pub(super) Option<u32>);

/// Lets a request through that may be made.
pub(super) async fn guard(State(control): State<Control>, mut request: Request, next: Next) -> Response {
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
