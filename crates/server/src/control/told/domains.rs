//! What is answered of tenants' own hosts and of certificates: the same as types, for their description alone.

use schemars::JsonSchema;

/// A host that a tenant has of its own.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DomainTold {
    /// The host.
    domain: String,
    /// When it was registered, in milliseconds since the Unix epoch; null: the configuration file names it.
    registered: Option<u64>,
    /// Who says so: `api` or `file`.
    from: String,
}

/// How it stands with certificates that are ordered.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CertificatesTold {
    /// How many are in memory; null: none are ordered.
    in_memory: Option<u64>,
    /// Those of configured names.
    certificates: Vec<CertificateTold>,
}

/// How it stands with a configured name.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct CertificateTold {
    /// The name.
    name: String,
    /// From when on its certificate is good (RFC 3339); null: there is none.
    not_before: Option<String>,
    /// Up to when.
    not_after: Option<String>,
    /// From when on another one is ordered.
    renewal: Option<String>,
    /// When it is looked after next.
    next_look: Option<String>,
    /// Orders in a row that brought none.
    failures: u64,
    /// Why the last one did not.
    error: Option<String>,
    /// When that was.
    failed_at: Option<String>,
}
