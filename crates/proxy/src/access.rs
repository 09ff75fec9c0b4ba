//! Access: who may use a route, where that is more than an address and a credential, and what browsers are told of it.
//!
//! ```text
//! route -> [preflight] -> [password] -> identify -> address -> limit -> [authorizer] -> …          every answer: CORS, security headers
//! ```
//!
//! What always holds: a preflight is answered before anybody is asked who he is, as it has no credentials; what is said to browsers
//! stands in refusals too, so that a script can read why; a route that wants nothing of it costs one look at an `Option`.

pub mod basic;
mod dress;
pub mod settings;

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
use self::settings::AccessSettings;
use crate::authorize::Authorizer;
use crate::exchange::Exchange;
use crate::respond::{self, Answer};
use crate::route::Routed;
use crate::settings::RouteSettings;
use crate::settle::Content;
use crate::site::SiteError;

pub use dress::Dress;

/// What a route asks of who uses it, with everything that it names looked up.
pub struct Access {
    /// Which origins' scripts may call it.
    pub cors: Option<Arc<Cors>>,
    /// What browsers are told besides.
    pub security: Option<Arc<Security>>,
    /// Who may use it by name and password.
    pub basic: Option<Arc<BasicSettings>>,
    /// Who is asked of each request.
    pub authorizer: Option<Authorizer>,
}

impl Access {
    /// Looks up what the settings of a route name; `None`: they ask for nothing.
    ///
    /// # Errors
    /// An upstream that is missing.
    pub fn build(route: &RouteSettings, upstreams: &Prepared<'_>) -> Result<Option<Box<Access>>, SiteError> {
        let AccessSettings { basic, authorize, cors, security, .. } = &route.access;
        if basic.is_none() && authorize.is_none() && cors.is_none() && security.is_none() {
            return Ok(None);
        }
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
            authorizer,
        })))
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
