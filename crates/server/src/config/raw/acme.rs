//! `[acme]`: certificates by themselves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Secret, yes};
use crate::config::scalar::Time;
use crate::config::text::File;

/// Certificates that Tidegate orders and renews by itself. It needs a `[store]`. See `docs/certificates.md`.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// The directory of the certificate authority.
    #[serde(default = "directory")]
    pub directory: String,
    /// Whether you agree to the authority's terms of service. Without that it issues nothing.
    #[serde(default)]
    pub terms_agreed: bool,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// Names that have a certificate from the start.
    #[serde(default)]
    pub domains: Vec<String>,
    /// How the authority is shown that a name is yours: after each failure by the next one of these.
    #[serde(default = "challenges")]
    pub challenges: Vec<Challenge>,
    /// PEM file of the authorities that vouch for the directory's server, where that is none of the system's.
    pub ca: Option<File>,
    /// The account that there is already at the authority, where it wants one (external account binding).
    pub binding: Option<Binding>,
    /// Hosts of tenants (`[tenant.ID] domains`, and those that the control API registers) have certificates, too: ordered when
    /// somebody first asks for one. Without it: they have none.
    pub on_demand: Option<OnDemand>,
    /// What private keys are sealed by in the store; all nodes have the same. Without it they are there as they are.
    pub secret: Option<Secret>,
    /// Certificates in memory. Others are read from the store when somebody asks for them.
    #[serde(default = "memory")]
    #[schemars(range(min = 16, max = 1_000_000))]
    pub memory: u32,
    /// The pause after a failure; each further one is three times as long, up to six hours.
    #[serde(default = "retry")]
    pub retry: Time,
    /// Whether requests for hosts with such a certificate that do not come by https are sent there (308).
    #[serde(default = "yes")]
    pub redirect: bool,
    /// The port at which clients reach https: what such requests are sent to.
    #[serde(default = "https_port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub https_port: u16,
    /// For how long browsers are told to come by https alone (HSTS). Zero: they are told nothing.
    #[serde(default = "hsts")]
    pub hsts: Time,
}

/// How the authority is shown that a name is yours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
pub enum Challenge {
    /// A request to port 80.
    #[serde(rename = "http-01")]
    Http01,
    /// A handshake on port 443.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// An account that there is already at the authority.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// What the authority calls it.
    pub id: String,
    /// Its key as the authority gives it: base64url.
    pub secret: Secret,
}

/// Certificates that are ordered when somebody asks for them.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnDemand {
    /// Certificates of tenants' hosts, at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub limit: u32,
    /// How long the first handshake waits for its certificate. It is ordered also where nobody waits any more.
    pub wait: Time,
}

impl Default for OnDemand {
    fn default() -> OnDemand {
        OnDemand { limit: 10_000, wait: Time(std::time::Duration::from_secs(8)) }
    }
}

fn directory() -> String {
    "https://acme-v02.api.letsencrypt.org/directory".to_owned()
}

fn challenges() -> Vec<Challenge> {
    vec![Challenge::TlsAlpn01, Challenge::Http01]
}

fn memory() -> u32 {
    1000
}

fn retry() -> Time {
    Time(std::time::Duration::from_secs(60))
}

fn https_port() -> u16 {
    443
}

fn hsts() -> Time {
    Time(std::time::Duration::from_secs(365 * 24 * 3600))
}
