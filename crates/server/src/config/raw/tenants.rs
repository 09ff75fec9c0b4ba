//! `[tenants]`, `[plan.*]`, `[tenant.*]`: who is who, and what each is entitled to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::scalar::{Hash, Moment, PerTime, Size};
use crate::config::text::{CertificatePlace, Header, KeyPlace, Name, TenantHost};

/// How the tenant of a request is recognised.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenants {
    /// Where credentials are looked for. The first one present decides; one that is present and invalid is refused.
    /// An empty list: all requests are those of one tenant, `anonymous`.
    pub from: Vec<TenantFrom>,
    /// The plan of whoever is not listed, or `"refuse"`. The plan `default` is without limits unless it is given.
    pub unknown: Name,
    /// The most tenants that are not listed and have limits of their own; further ones share one's.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub tracked: u32,
    /// Failed identifications per client address (IPv6: per /64); beyond that its credentials are refused unread.
    pub failures: PerTime,
}

impl Default for Tenants {
    fn default() -> Tenants {
        Tenants {
            from: Vec::new(),
            unknown: Name("default".to_owned()),
            tracked: 100_000,
            failures: PerTime((30, std::time::Duration::from_secs(60))),
        }
    }
}

/// Where a tenant is recognised.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TenantFrom {
    /// By an API key: `"bearer"` (in `Authorization`) or `"header:NAME"`.
    ApiKey(KeyPlace),
    /// By a token that this `[jwt.NAME]` verifies.
    Jwt(String),
    /// By the host: `"{tenant}.example.com"`.
    Host(TenantHost),
    /// By the whole host, where it is a tenant's own: one of `[tenant.ID] domains`, or one that was registered by the
    /// control API.
    Domain(Which),
    /// By the certificate that the client has shown (`[[tls]] client`): `"subject:CN"`, `"san:dns"`, `"san:uri"`, `"san:email"`, each
    /// with a pattern where the tenant is a part of it (`"san:uri:spiffe://example.com/tenant/{tenant}"`); or `"fingerprint"`, where
    /// the tenant lists it.
    Certificate(CertificatePlace),
    /// By a header, which counts from `trusted_proxies` only.
    Header(Header),
    /// By the address of the `"client"`, each a tenant of its own. The last resort.
    Address(Whose),
}

/// Which hosts.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// Those that are registered.
    Registered,
}

/// Whose address.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Whose {
    /// The client's.
    Client,
}

/// What a tenant is entitled to.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// How many requests in which time: `"50/s"`, a table, or a list of at most four named tables, all of which
    /// must allow a request. Without it: not limited.
    pub rate: Option<Rates>,
    /// Requests at once, each held until its last response byte. Without it: not limited.
    #[schemars(range(min = 1))]
    pub concurrency: Option<u32>,
    /// Bytes of one request's body.
    pub body: Option<Size>,
    /// Bytes per second of all request bodies together.
    pub request_bytes_per_second: Option<Size>,
    /// Bytes per second of all response bodies together.
    pub response_bytes_per_second: Option<Size>,
    /// Its share when an upstream is saturated, relative to others.
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            rate: None,
            concurrency: None,
            body: None,
            request_bytes_per_second: None,
            response_bytes_per_second: None,
            weight: 1,
        }
    }
}

/// One rate or several.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Rates {
    /// So many in such a time.
    Short(PerTime),
    /// A rate with its burst.
    One(Rate),
    /// Several rates, each with a name.
    Several(Vec<Rate>),
}

/// A rate with its burst.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The name in `RateLimit` and in refusals. A plan's single rate is called `default`, a route's as
    /// the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// So many in such a time.
    pub limit: PerTime,
    /// So many at once. Without it: as many as the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub burst: Option<u64>,
}

/// A tenant.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenant {
    /// Its plan.
    pub plan: Name,
    /// Its API keys, as digests.
    pub keys: Vec<Key>,
    /// The hosts that it has of its own: whole names. See `docs/tenants.md`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// SHA-256 of the certificates that its clients show, in hexadecimal digits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Hash>,
    /// Whether its requests are told to come again later. See `docs/maintenance.md`.
    pub maintenance: bool,
}

impl Default for Tenant {
    fn default() -> Tenant {
        Tenant {
            plan: Name("default".to_owned()),
            keys: Vec::new(),
            domains: Vec::new(),
            certificates: Vec::new(),
            maintenance: false,
        }
    }
}

/// An API key, never the key itself.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its name, for logs.
    pub id: Name,
    /// SHA-256 of the key in hexadecimal digits; `tidegate key new` makes both.
    pub sha256: Hash,
    /// From then on it is refused. Without it: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
}
