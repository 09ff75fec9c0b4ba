//! The paths of Tidegate's own that logins need: where a page sends browsers to log in, where the provider sends them back to, and
//! where they log out.

use std::time::Duration;

use http::header::{ORIGIN, REFERER, REFERRER_POLICY, SET_COOKIE};
use http::{HeaderName, HeaderValue, Method};
use tidegate_model::access::login::{
    Expected, Pending, Session, Tokens, chosen, local, parameters, satisfies, subject, with,
};
use tidegate_model::access::sealed;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tidegate_wire::clock;

use super::provider::{Ask, NoTokens, Provider};
use super::{LoginOutcome, begin, forbidden, invalid, note, redirect, unavailable};
use crate::exchange::Exchange;
use crate::respond::{self, Answer, No};
use crate::site::Site;

/// Below it are the paths of logins, on each host.
pub const OIDC_PATH: &str = "/_tidegate/oidc/";
/// How long the provider may take to take its code back.
const CALLBACK_TIME: Duration = Duration::from_secs(10);
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Answers on a path of logins.
///
/// # Errors
/// `login.*`, `route.not-found`, `route.method-not-allowed`.
pub async fn own(site: &Site, exchange: &Exchange) -> Result<Answer, No> {
    let path = exchange.head.uri.path();
    let asked = path.strip_prefix(OIDC_PATH).and_then(|rest| rest.split_once('/'));
    let found = asked.and_then(|(name, what)| Some((site.logins.get(name)?, what)));
    let Some((provider, what @ ("login" | "callback" | "logout"))) = found else {
        return Err(Refusal::new(&refusal::ROUTE_NOT_FOUND, "there is no such login").into());
    };
    let by = clock::now().after(CALLBACK_TIME);
    let told = match (what, &exchange.head.method) {
        ("login", &Method::GET) => asked_for(provider, exchange).map(|answer| (answer, LoginOutcome::Sent)),
        ("callback", &Method::GET) => {
            callback(provider, site, exchange, by).await.map(|answer| (answer, LoginOutcome::LoggedIn))
        }
        ("logout", &Method::GET | &Method::POST) => {
            logout(provider, exchange).map(|answer| (answer, LoginOutcome::LoggedOut))
        }
        _ => {
            return Err(No {
                refusal: Refusal::new(&refusal::ROUTE_METHOD, "the path exists, but not for this method"),
                allow: Some(HeaderValue::from_static(if what == "logout" { "GET, POST" } else { "GET" })),
                page: None,
            });
        }
    };
    note(provider, exchange, told.as_ref().map_or_else(LoginOutcome::of, |(_, outcome)| *outcome));
    Ok(told?.0)
}

/// A page sends its browser to log in, and to come back where it says.
fn asked_for(provider: &Provider, exchange: &Exchange) -> Result<Answer, Refusal> {
    let said = parameters(exchange.head.uri.query().unwrap_or_default());
    let target = said.get("return_to").map_or("/", |target| local(target));
    begin(provider, exchange, target, clock::latest_wall().0)
}

/// The provider has sent a browser back.
async fn callback(
    provider: &Provider,
    site: &Site,
    exchange: &Exchange,
    by: Tick,
) -> Result<Answer, Refusal> {
    let (now, headers) = (clock::latest_wall().0, &exchange.head.headers);
    if let Some(wait) = site.failures.blocked(exchange.client, clock::now()) {
        let why = "too many logins failed that came from this address";
        return Err(Refusal::new(&refusal::CREDENTIAL_THROTTLED, why).retry_after(wait));
    }
    let said = parameters(exchange.head.uri.query().unwrap_or_default());
    let state = said.get("state").ok_or_else(|| invalid("the provider said no state"))?;
    let name = provider.pending_cookie(Pending::mark(state));
    let pending = provider
        .pending(headers, &name)
        .filter(|pending| pending.is_answered_by(state, now))
        .ok_or_else(|| invalid("this login was not begun by this browser, or too long ago"))?;
    let metadata = provider.metadata().ok_or_else(unavailable)?;
    let issuer = said.get("iss");
    if issuer.is_none() && metadata.authorization_response_iss_parameter_supported
        || issuer.is_some_and(|issuer| *issuer != metadata.issuer)
    {
        return Err(invalid("another provider has answered"));
    }
    if let Some(error) = said.get("error") {
        return Err(match error.as_str() {
            "access_denied" => forbidden("the provider did not log this account in"),
            "server_error" | "temporarily_unavailable" => unavailable(),
            _ => invalid("the provider could not log anybody in by what it was asked"),
        });
    }
    let code = said.get("code").ok_or_else(|| invalid("the provider said no code"))?;
    let origin = provider.origin(exchange).ok_or_else(unavailable)?;
    let ask = Ask::Code {
        code: code.clone(),
        verifier: pending.verifier.clone(),
        redirect: provider.callback(&origin),
    };
    let session = match provider.ask(ask, by).await {
        Ok(tokens) => session(provider, tokens, &pending, by, now).await,
        Err(NoTokens::Unavailable) => return Err(unavailable()),
        Err(NoTokens::Refused) => Err(invalid("the provider did not take its own code")),
    };
    let guessed = |refusal: &Refusal| {
        if refusal.kind.code == refusal::LOGIN_INVALID.code {
            site.failures.failed(exchange.client, clock::now());
        }
    };
    let mut session = session.inspect_err(guessed)?;
    if !satisfies(&session.claims, &provider.settings().require) {
        return Err(forbidden("this account may not log in here"));
    }
    let mut response = redirect(&pending.target)?;
    let lines = provider.cookies_of(headers, &mut session, now)?.into_iter();
    let lines = lines.chain(provider.came_back(headers, now)?).chain(sealed::forget(headers, &name));
    let fields = response.headers_mut();
    fields.extend(lines.map(|line| (SET_COOKIE, line)));
    // The code stands in the address of this page.
    fields.append(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(respond::unasked(response))
}

/// The session that these tokens are.
async fn session(
    provider: &Provider,
    tokens: Tokens,
    pending: &Pending,
    by: Tick,
    now: u64,
) -> Result<Session, Refusal> {
    let settings = provider.settings();
    let token =
        tokens.id_token.as_deref().ok_or_else(|| invalid("the provider said nothing of who it is"))?;
    let verified = provider.verify(token, by).await?;
    let expected = Expected {
        client_id: &settings.client_id,
        nonce: Some(&pending.nonce),
        access_token: tokens.access_token.as_deref(),
        now,
        skew: settings.clock_skew.as_secs(),
    };
    let subject = subject(&verified, expected).map_err(invalid)?;
    let until = now.saturating_add(settings.session.as_secs());
    Ok(Session {
        subject,
        claims: chosen(&verified.claims, settings.claims()),
        until,
        fresh_until: provider.fresh_until(&tokens, now, until),
        refresh: tokens.refresh_token,
        id_token: tokens.id_token,
    })
}

/// Whether a page of ours, or whoever sits before the browser, has asked for it.
fn is_own_wish(exchange: &Exchange, origin: &str) -> bool {
    let headers = &exchange.head.headers;
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        // Not `same-site`: another host of the same site may be another tenant's.
        return site == "same-origin" || site == "none";
    }
    let is_ours =
        |value: &str| value.strip_prefix(origin).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let from = headers.get(ORIGIN).or_else(|| headers.get(REFERER));
    from.and_then(|value| value.to_str().ok()).is_some_and(is_ours)
}

/// A browser logs out: here, and with the provider.
fn logout(provider: &Provider, exchange: &Exchange) -> Result<Answer, Refusal> {
    let (headers, settings) = (&exchange.head.headers, provider.settings());
    let origin =
        provider.origin(exchange).ok_or_else(|| invalid("the request does not say which host it is for"))?;
    if !is_own_wish(exchange, &origin) {
        return Err(invalid("a page of another site may log nobody out"));
    }
    let url = match provider.metadata().and_then(|metadata| metadata.end_session_endpoint.clone()) {
        None => settings.after_logout.clone(),
        Some(url) => {
            let back = format!("{origin}{}", settings.after_logout);
            let session = provider.session(headers, clock::latest_wall().0);
            let hint = session.and_then(|session| session.id_token);
            let mut said = vec![("client_id", &*settings.client_id), ("post_logout_redirect_uri", &back)];
            said.extend(hint.as_deref().map(|hint| ("id_token_hint", hint)));
            with(&url, &said)
        }
    };
    let mut response = redirect(&url)?;
    let lines = sealed::forget(headers, provider.session_cookie());
    response.headers_mut().extend(lines.into_iter().map(|line| (SET_COOKIE, line)));
    Ok(respond::unasked(response))
}
