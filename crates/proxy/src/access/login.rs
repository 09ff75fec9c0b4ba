//! Logins of browsers by an OpenID provider, and the sessions that come of them.
//!
//! ```text
//! GET /page --- no session ---> 302 to the provider, the pending login sealed in a cookie of this browser
//!   provider ---> /_tidegate/oidc/NAME/callback: state, code -> tokens, ID token verified -> session in a cookie -> 302 /page
//! GET /page --- session ---> [its tokens have run out: asked for anew] -> claims required -> headers, tenant -> ...
//! ```
//!
//! What always holds: nothing of a session is kept here; a browser holds it, sealed. A pending login is answered by its own
//! state, of its own browser, and leads back to a path of ours. Who cannot be shown a page is told 401, never sent elsewhere; who comes
//! back again and again without a session is sent no more. No cookie of ours goes to an application.
//!
//! What it does not do: a session cannot be ended from elsewhere before its tokens run out; a copied cookie is good as long.

mod outcome;
mod own;
mod provider;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use tidegate_model::access::login::{Expected, Pending, Session, chosen, header, satisfies, subject, with};
use tidegate_model::access::{sealed, take_out};
use tidegate_model::cache::key::steers;
use tidegate_model::message::Response;
use tidegate_model::problem::Form;
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_wire::clock;

pub use outcome::LoginOutcome;
pub use own::{OIDC_PATH, own};
pub use provider::{Ask, NoTokens, Provider, Providers, Question};
pub use settings::{Hidden, LoginSettings, OidcSettings};

use crate::exchange::Exchange;
use crate::respond::{self, Answer};
use crate::settle::Content;

/// What the names of our cookies begin with.
const COOKIES: &str = "__Host-tidegate-";
/// Logins that one browser may have begun, and the most bytes of cookies that they take.
const PENDING_MAX: usize = 5;
const PENDING_BYTES_MAX: usize = 6 * 1024;
/// Cookies of one request that are looked at as begun logins.
const LOOKED_AT_MAX: usize = 32;
/// For so long a session goes on whose provider cannot be asked.
const GRACE_SECONDS: u64 = 300;
/// How long such a session's request waits for the provider.
const GRACE_WAIT: Duration = Duration::from_secs(2);
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// By which logins a route may be used, with their provider looked up.
pub struct Login {
    /// Whose logins.
    pub provider: Arc<Provider>,
    /// Claims that are required on this route.
    pub require: BTreeMap<String, Vec<String>>,
}

/// What came of looking for a session.
pub enum Entered {
    /// There is one: the tenant that it is for, if it says one.
    In(Option<Arc<str>>),
    /// There is none: where the browser is to go.
    Sent(Box<Answer>),
}

/// Looks for a session.
///
/// # Errors
/// `login.required`, `login.forbidden`, `login.unavailable`, `login.invalid` for who comes back again and again.
pub async fn enter(login: &Login, exchange: &mut Exchange, by: Tick) -> Result<Entered, Refusal> {
    let provider = &*login.provider;
    if let Some(dress) = &mut exchange.dress {
        dress.challenge = Some(HeaderValue::from_static("Session"));
    }
    let entered = session_or_begin(login, exchange, by).await;
    let outcome = match &entered {
        Ok(Entered::In(_)) => LoginOutcome::Session,
        Ok(Entered::Sent(_)) => LoginOutcome::Sent,
        Err(refusal) => LoginOutcome::of(refusal),
    };
    note(provider, exchange, outcome);
    entered
}

async fn session_or_begin(login: &Login, exchange: &mut Exchange, by: Tick) -> Result<Entered, Refusal> {
    let (provider, now) = (&*login.provider, clock::latest_wall().0);
    let found = match provider.session(&exchange.head.headers, now) {
        Some(session) => fresh(provider, exchange, session, by, now).await?,
        None => None,
    };
    let Some(session) = found else {
        if !shows_pages(exchange) {
            let why = "a browser logs in by opening a page of this route";
            return Err(Refusal::new(&refusal::LOGIN_REQUIRED, why));
        }
        let target = exchange.head.uri.path_and_query().map_or("/", |target| target.as_str());
        return begin(provider, exchange, target, now).map(|answer| Entered::Sent(Box::new(answer)));
    };
    let settings = provider.settings();
    if !satisfies(&session.claims, &settings.require) || !satisfies(&session.claims, &login.require) {
        return Err(forbidden("this account may not use this route"));
    }
    let fields = &mut exchange.head.headers;
    take_out(fields, &settings.told);
    for (name, claim) in &settings.headers {
        if let Some(value) = session.claims.get(claim).and_then(header) {
            exchange.seen.steering |= steers(name.as_str());
            fields.append(name, value);
        }
    }
    let Some(claim) = &settings.tenant_claim else { return Ok(Entered::In(None)) };
    let tenant = session.claims.get(claim).and_then(|value| value.as_str());
    match tenant.filter(|tenant| crate::identify::may_be_named(tenant)) {
        Some(tenant) => Ok(Entered::In(Some(tenant.into()))),
        None => Err(forbidden("this account has no tenant")),
    }
}

fn note(provider: &Provider, exchange: &Exchange, outcome: LoginOutcome) {
    provider.count(outcome);
    exchange.note(Step::Login(Arc::clone(&provider.settings().name), outcome.name()));
}

fn forbidden(why: &'static str) -> Refusal {
    Refusal::new(&refusal::LOGIN_FORBIDDEN, why)
}

fn invalid(why: &'static str) -> Refusal {
    Refusal::new(&refusal::LOGIN_INVALID, why)
}

fn unavailable() -> Refusal {
    let why = "the provider of logins cannot be asked now";
    Refusal::new(&refusal::LOGIN_UNAVAILABLE, why).retry_after(Duration::from_secs(1))
}

/// The session, asked for anew where its tokens have run out. `None`: it has ended.
async fn fresh(
    provider: &Provider,
    exchange: &mut Exchange,
    session: Session,
    by: Tick,
    now: u64,
) -> Result<Option<Session>, Refusal> {
    let Some(token) = session.refresh.clone().filter(|_| now >= session.fresh_until) else {
        return Ok(Some(session));
    };
    let in_grace = now < session.fresh_until.saturating_add(GRACE_SECONDS);
    let until = if in_grace { by.min(clock::now().after(GRACE_WAIT)) } else { by };
    let asked = match in_grace && provider.is_away(clock::now()) {
        true => Err(NoTokens::Unavailable),
        false => provider.ask(Ask::Refresh(token), until).await,
    };
    let outcome = match &asked {
        Ok(_) => LoginOutcome::Refreshed,
        Err(NoTokens::Refused) => LoginOutcome::Ended,
        Err(NoTokens::Unavailable) if in_grace => LoginOutcome::Kept,
        Err(NoTokens::Unavailable) => return Err(unavailable()),
    };
    note(provider, exchange, outcome);
    let Ok(tokens) = asked else { return Ok(Some(session).filter(|_| outcome == LoginOutcome::Kept)) };
    let mut renewed = session;
    if let Some(token) = &tokens.id_token {
        let verified = provider.verify(token, until).await.map_err(|_| unavailable())?;
        let expected = Expected {
            client_id: &provider.settings().client_id,
            nonce: None,
            access_token: tokens.access_token.as_deref(),
            now,
            skew: provider.settings().clock_skew.as_secs(),
        };
        if subject(&verified, expected).as_ref() != Ok(&renewed.subject) {
            return Ok(None);
        }
        renewed.claims = chosen(&verified.claims, provider.settings().claims());
        renewed.id_token.clone_from(&tokens.id_token);
    }
    renewed.fresh_until = provider.fresh_until(&tokens, now, renewed.until);
    renewed.refresh = tokens.refresh_token.or(renewed.refresh);
    let lines = provider.cookies_of(&exchange.head.headers, &mut renewed, now)?;
    if let Some(dress) = &mut exchange.dress {
        dress.add.extend(lines.into_iter().map(|line| (SET_COOKIE, line)));
    }
    Ok(Some(renewed))
}

/// Whether a browser would show what this request is answered, in place of the page that it shows now.
fn shows_pages(exchange: &Exchange) -> bool {
    let head = &exchange.head;
    let navigates = head.headers.get(SEC_FETCH_MODE).is_none_or(|mode| mode == "navigate");
    let reads = matches!(head.method, Method::GET | Method::HEAD) && exchange.form == Form::Html;
    reads && navigates && !exchange.seen.upgrade && !head.headers.contains_key(X_REQUESTED_WITH)
}

/// Sends a browser to log in and come back to this target.
fn begin(provider: &Provider, exchange: &Exchange, target: &str, now: u64) -> Result<Answer, Refusal> {
    let headers = &exchange.head.headers;
    if provider.again(headers).is_some_and(|again| again.is_loop(now)) {
        return Err(invalid("this browser has logged in again and again, and does not keep its session"));
    }
    let metadata = provider.metadata().ok_or_else(unavailable)?;
    let origin = provider.origin(exchange).ok_or_else(unavailable)?;
    let pending = Pending::new(&provider::chance()?, target, now);
    let (callback, challenge) = (provider.callback(&origin), pending.challenge());
    let url = with(
        &metadata.authorization_endpoint,
        &[
            ("response_type", "code"),
            ("client_id", &provider.settings().client_id),
            ("redirect_uri", &callback),
            ("scope", &provider.settings().scopes),
            ("state", &pending.state),
            ("nonce", &pending.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ],
    );
    let lines = provider.cookie_of(headers, &pending)?;
    let taken: usize = lines.iter().map(HeaderValue::len).sum();
    let mut response = redirect(&url)?;
    let oldest = provider.too_many(headers, PENDING_MAX - 1, PENDING_BYTES_MAX.saturating_sub(taken));
    let gone = oldest.iter().flat_map(|name| sealed::forget(headers, name));
    response.headers_mut().extend(gone.chain(lines).map(|line| (SET_COOKIE, line)));
    Ok(respond::unasked(response))
}

/// A redirect that nobody keeps.
fn redirect(url: &str) -> Result<Response<Content>, Refusal> {
    let internal = |_| Refusal::new(&refusal::SERVER_INTERNAL, "the redirect cannot be written");
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().append(LOCATION, HeaderValue::from_str(url).map_err(internal)?);
    response.headers_mut().append(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Takes our cookies out of a request: they are for us alone.
pub fn leave_cookies(exchange: &mut Exchange) {
    sealed::take_out(&mut exchange.head.headers, COOKIES);
}
