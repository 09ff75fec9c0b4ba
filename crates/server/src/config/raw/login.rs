//! Logins of browsers by a provider that speaks OpenID Connect.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Secret, Secrets};
use crate::config::scalar::Time;
use crate::config::text::{File, Name, PlainPath};

/// By which logins a route may be used: the name of an `[oidc.NAME]`, a table, or `false`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum RouteLogin {
    /// By none.
    Off(bool),
    /// By this one's.
    By(Name),
    /// By some of this one's.
    Table(RouteLoginTable),
}

/// By which logins a route may be used, and which claims it requires.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RouteLoginTable {
    /// The name of an `[oidc.NAME]`.
    pub by: Name,
    /// Claims that are required on this route, besides those that `[oidc.NAME]` requires: each is, or holds, one of these.
    #[serde(default)]
    pub require: BTreeMap<String, Vec<String>>,
}

/// A provider of logins (OpenID Connect). See `docs/access.md`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Oidc {
    /// The provider: `https://id.example.com`. What it says of itself is found below it, at `/.well-known/openid-configuration`.
    pub issuer: String,
    /// PEM file of the authorities that may vouch for its server. Without it: the system's.
    pub ca: Option<File>,
    /// Who Tidegate is to it.
    pub client_id: String,
    /// How that is proved. Without it: by PKCE alone.
    pub client_secret: Option<Secret>,
    /// What is asked for. `offline_access` mostly brings tokens by which a session is kept fresh.
    pub scopes: Vec<String>,
    /// How browsers reach Tidegate: `https://app.example.com`. Without it: by the `Host` that they ask for.
    pub origin: Option<String>,
    /// What cookies are sealed by, the same on each node, of at least 32 bytes: one, or several, of which the first seals and all
    /// open.
    pub secret: Option<Secrets>,
    /// How long a session lasts at most.
    pub session: Time,
    /// The claim that names the tenant. Without it that is found out as `[tenants]` says.
    pub tenant_claim: Option<String>,
    /// Headers in which the application is told claims. None of a client passes.
    pub headers: BTreeMap<String, String>,
    /// Claims that are required: each is, or holds, one of these.
    pub require: BTreeMap<String, Vec<String>>,
    /// How far the clocks may be apart.
    pub clock_skew: Time,
    /// Where a browser goes that has logged out.
    pub after_logout: PlainPath,
}

impl Default for Oidc {
    fn default() -> Oidc {
        Oidc {
            issuer: String::new(),
            ca: None,
            client_id: String::new(),
            client_secret: None,
            scopes: vec!["openid".to_owned()],
            origin: None,
            secret: None,
            session: Time(Duration::from_secs(8 * 3600)),
            tenant_claim: None,
            headers: BTreeMap::new(),
            require: BTreeMap::new(),
            clock_skew: Time(Duration::from_secs(30)),
            after_logout: PlainPath("/".to_owned()),
        }
    }
}
