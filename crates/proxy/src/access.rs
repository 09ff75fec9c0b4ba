//! Access: who may use a route, where that is more than an address and a credential, and what browsers are told of it.
//!
//! ```text
//! route -> [preflight] -> [password | login] -> identify -> address -> limit -> [authorizer] -> …   every answer: CORS, security headers
//! ```
//!
//! What always holds: a preflight is answered before anybody is asked who he is, as it has no credentials; what is said to browsers
//! stands in refusals too, so that a script can read why; a route that wants nothing of it costs one look at an `Option`.

pub mod basic;
mod dress;
pub mod login;
pub mod settings;

use std::collections::HashMap;
use std::sync::Arc;

use http::StatusCode;
use http::header::VARY;
use tidegate_model::access::cors::{self, Cors};
use tidegate_model::access::security::Security;
use tidegate_model::message::Response;
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_upstream::Prepared;

use self::basic::BasicSettings;
use self::login::{Entered, Login, Provider};
use self::settings::AccessSettings;
use crate::authorize::Authorizer;
use crate::exchange::Exchange;
use crate::forward::deadline_of;
use crate::lifecycle::Proxy;
use crate::respond::{self, Answer};
use crate::route::Routed;
use crate::settings::RouteSettings;
use crate::settle::Content;
use crate::site::{Site, SiteError};

pub use dress::Dress;

/// What a route asks of who uses it, with everything that it names looked up.
pub struct Access {
    /// Which origins' scripts may call it.
    pub cors: Option<Arc<Cors>>,
    /// What browsers are told besides.
    pub security: Option<Arc<Security>>,
    /// Who may use it by name and password.
    pub basic: Option<Arc<BasicSettings>>,
    /// By whose logins it may be used.
    pub login: Option<Login>,
    /// Who is asked of each request.
    pub authorizer: Option<Authorizer>,
}

impl Access {
    /// Looks up what the settings of a route name; `None`: they ask for nothing.
    ///
    /// # Errors
    /// An upstream that is missing, or a provider of logins.
    pub fn build(
        route: &RouteSettings,
        upstreams: &Prepared<'_>,
        logins: &HashMap<Arc<str>, Arc<Provider>>,
    ) -> Result<Option<Box<Access>>, SiteError> {
        let AccessSettings { basic, login, authorize, cors, security, .. } = &route.access;
        let asks = basic.is_some() || login.is_some() || authorize.is_some();
        if !asks && cors.is_none() && security.is_none() {
            return Ok(None);
        }
        let login = login.as_ref().map(|settings| {
            let missing = || SiteError::LoginMissing {
                route: Arc::clone(&route.name),
                login: Arc::clone(&settings.by),
            };
            let provider = logins.get(&settings.by).ok_or_else(missing)?;
            Ok(Login { provider: Arc::clone(provider), require: settings.require.clone() })
        });
        let authorizer = authorize.as_ref().map(|settings| {
            let missing = || SiteError::UpstreamMissing {
                route: Arc::clone(&route.name),
                upstream: Arc::clone(&settings.upstream),
            };
            let upstream = upstreams.get(&settings.upstream).ok_or_else(missing)?;
            Ok(Authorizer::new(settings, &route.name, Arc::clone(upstream)))
        });
        let authorizer = authorizer.transpose()?;
        Ok(Some(Box::new(Access {
            cors: cors.clone(),
            security: security.clone(),
            basic: basic.clone(),
            login: login.transpose()?,
            authorizer,
        })))
    }

    /// Whether it asks who somebody is.
    #[must_use]
    pub fn asks_who(&self) -> bool {
        self.basic.is_some() || self.login.is_some()
    }
}

/// What comes before anybody is asked who he is: what all answers of the route will say, and the answer to a preflight.
///
/// # Errors
/// `cors.denied`; an address that may not use the route.
pub fn before(
    access: &Access,
    routed: &Routed<'_>,
    exchange: &mut Exchange,
) -> Result<Option<Answer>, Refusal> {
    exchange.dress = Some(Box::new(Dress::of(access, exchange)));
    let Some(cors) = &access.cors else { return Ok(None) };
    let Some(method) = cors::preflight(&exchange.head.method, &exchange.head.headers) else {
        return Ok(None);
    };
    crate::authorize::authorize(&routed.route.settings, exchange.client)?;
    exchange.note(Step::Preflight);
    let answer = cors.preflight(&method, &exchange.head.headers);
    let mut fields = answer.map_err(|why| Refusal::new(&refusal::CORS_DENIED, why))?;
    if let Some(dress) = &mut exchange.dress {
        dress.without_cors();
    }
    fields.append(VARY, Cors::preflight_vary());
    let mut response = Response::new(Content::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = fields;
    Ok(Some(respond::unasked(response)))
}

/// A tenant that was vouched for, and by what.
pub type Vouched = (Arc<str>, &'static str);

/// Who somebody is, by a password or a login.
pub enum Who {
    /// This tenant; `None`: that is found out as it is elsewhere.
    Is(Option<Vouched>),
    /// Nobody yet: where its browser is to go.
    Sent(Box<Answer>),
}

/// Finds out who it is, where the route asks for a password or a login.
///
/// # Errors
/// The address may not use the route; `credential.*`, `login.*`.
pub async fn who(
    proxy: &Proxy,
    site: &Site,
    access: &Access,
    routed: &Routed<'_>,
    exchange: &mut Exchange,
) -> Result<Who, Refusal> {
    let route = &routed.route.settings;
    crate::authorize::authorize(route, exchange.client)?;
    let by = deadline_of(site, exchange, route);
    if let Some(settings) = &access.basic {
        return basic::identify(settings, site, exchange, by, &proxy.entropy).await.map(Who::Is);
    }
    let Some(login) = &access.login else { return Ok(Who::Is(None)) };
    Ok(match login::enter(login, exchange, by).await? {
        Entered::In(tenant) => Who::Is(tenant.map(|tenant| (tenant, "login"))),
        Entered::Sent(answer) => Who::Sent(answer),
    })
}
