//! What is said in an answer beside what it is: to browsers, and by an authorizer.

use std::sync::Arc;

use http::HeaderValue;
use http::header::{CACHE_CONTROL, SET_COOKIE};
use tidegate_model::access::cors::Cors;
use tidegate_model::access::security::Security;
use tidegate_model::fields::Fields;

use super::Access;
use crate::exchange::Exchange;
use crate::secure::came_by_https;

/// What will be said in the answer to an exchange, be it the upstream's, the cache's or a refusal.
#[derive(Debug)]
pub struct Dress {
    cors: Option<Arc<Cors>>,
    security: Option<Arc<Security>>,
    /// How the request's origin is told that it may.
    origin: Option<HeaderValue>,
    /// Whether the client came over TLS.
    tls: bool,
    /// Besides.
    pub add: Fields,
    /// How a client is told to say who it is, where it was refused for want of that.
    pub challenge: Option<HeaderValue>,
}

impl Dress {
    /// What this route says to whoever sends this request.
    #[must_use]
    pub fn of(access: &Access, exchange: &Exchange) -> Dress {
        let fields = &exchange.head.headers;
        Dress {
            origin: access.cors.as_ref().and_then(|cors| cors.origin(fields)),
            cors: access.cors.clone(),
            security: access.security.clone(),
            tls: came_by_https(exchange),
            add: Fields::default(),
            challenge: None,
        }
    }

    /// What is said of origins is said already: in the answer to a preflight.
    pub fn without_cors(&mut self) {
        self.cors = None;
    }

    /// Says it.
    pub fn put(self, answer: &mut Fields) {
        if let Some(cors) = &self.cors {
            cors.put(answer, self.origin.as_ref());
        }
        if let Some(security) = &self.security {
            security.put(answer, self.tls);
        }
        if self.add.contains_key(SET_COOKIE) {
            // What is said to one client alone is kept by nobody.
            answer.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        answer.extend(&self.add);
    }
}
