//! Logins as they are configured: resolved settings.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// By which logins a route may be used, and by whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSettings {
    /// The provider's name in the configuration.
    pub by: Arc<str>,
    /// Claims that are required on this route, besides those that the provider's logins all are: each is, or holds, one of these.
    pub require: BTreeMap<String, Vec<String>>,
}

/// What must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub Vec<u8>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("hidden")
    }
}

/// A provider of logins, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSettings {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// Its `iss`; its metadata are found by it.
    pub issuer: String,
    /// PEM file of the authorities that may vouch for its server; else the system's.
    pub ca: Option<PathBuf>,
    /// Who we are to it.
    pub client_id: String,
    /// How that is proved; `None`: by PKCE alone.
    pub client_secret: Option<Hidden>,
    /// What is asked for.
    pub scopes: String,
    /// How browsers reach us: `https://app.example.com`; `None`: as they ask.
    pub origin: Option<String>,
    /// What cookies are sealed by: the first seals, all open.
    pub secrets: Vec<Hidden>,
    /// How long a session lasts at most.
    pub session: Duration,
    /// The claim that names the tenant.
    pub tenant_claim: Option<String>,
    /// Claims that the application is told.
    pub headers: Vec<(HeaderName, String)>,
    /// The names of these headers. None of a client passes.
    pub told: Vec<HeaderName>,
    /// Claims that are required, with one of these values.
    pub require: BTreeMap<String, Vec<String>>,
    /// Claims that routes require, besides.
    pub asked: Vec<String>,
    /// Tolerance for `exp`, `nbf` and `iat`.
    pub clock_skew: Duration,
    /// Where browsers go that have logged out.
    pub after_logout: String,
}

impl OidcSettings {
    /// The claims that a session holds.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        let told = self.headers.iter().map(|(_, claim)| claim);
        told.chain(&self.tenant_claim).chain(self.require.keys()).chain(&self.asked).map(String::as_str)
    }
}
