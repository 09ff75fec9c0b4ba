//! Identify: for which tenant the request is made.
//!
//! The sources are asked in the order of the configuration; the first credential that is *present* decides, and one that
//! is present and invalid is refused, never passed over for a weaker one. A header counts from trusted proxies only.
//! An API key of ours is taken out of the request: the application has no use for it. A JWT is left in. A tenant header
//! that did not come from a trusted proxy is taken out too: the application might believe it.
//!
//! A bearer token is looked for by keys and by tokens (JWT): what looks like a JWT is one where both are asked, so that
//! exactly one of the two decides, whatever their order. Of several issuers the one that the token names verifies it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use http::HeaderName;
use http::header::AUTHORIZATION;
use tidegate_model::credential::Digest;
use tidegate_model::fields::Fields;
use tidegate_model::limit::spread;
use tidegate_model::plan::Plan;
use tidegate_model::receipt::Step;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tenant::{ADDRESS_PREFIX, Tenant, Tenants, is_id, is_reserved};
use tidegate_model::tick::Tick;
use tidegate_wire::clock;
use tidegate_wire::tls::TlsClient;

use crate::access::Vouched;
use crate::entropy::Entropy;
use crate::exchange::Exchange;
use crate::settings::{CertificateName, TenantSettings, TenantSource};
use crate::site::Site;

mod certificate;
mod failures;
mod jwt;

pub use failures::{FailureLimit, Failures};
pub use jwt::{Verifier, Verifiers};

/// The most bytes of a credential.
const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;

/// Who tenants are recognised by, prepared for looking up.
pub struct Identity {
    sources: Vec<Source>,
    keys: HashMap<[u8; 32], Key>,
    unknown: Option<Arc<Plan>>,
    plans: HashMap<Arc<str>, Arc<Plan>>,
    /// A bearer token may be an API key.
    bearer_keys: bool,
    /// A bearer token may be a JWT of one of these issuers.
    verifiers: Vec<Arc<Verifier>>,
    /// A host that a tenant has of its own names it.
    by_domain: bool,
    /// Certificates that tenants list, by their SHA-256.
    certificates: HashMap<[u8; 32], Arc<str>>,
    /// The headers in which trusted proxies name tenants.
    headers: Option<Arc<[HeaderName]>>,
}

/// What is known of a request besides its fields: its host, whose that is, and what its client has shown.
type Connected<'a> = (&'a str, Option<&'a Arc<str>>, Option<&'a TlsClient>);

struct Key {
    digest: Digest,
    tenant: Arc<str>,
    expires: Option<u64>,
}

enum Source {
    KeyBearer,
    KeyHeader(HeaderName),
    Jwt,
    Host { prefix: String, suffix: String },
    Domain,
    Certificate(CertificateName),
    Header(HeaderName),
    ClientAddress,
}

/// Whom a credential names.
struct Named<'a> {
    tenant: Id<'a>,
    by: &'static str,
    /// The header that carried our key.
    strip: Option<HeaderName>,
    /// Anybody could have claimed it.
    claimed: bool,
}

/// A tenant's id where it stands, so that no count is kept of it that all cores share.
enum Id<'a> {
    Held(&'a str),
    Made(Arc<str>),
}

impl Deref for Id<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Id::Held(id) => id,
            Id::Made(id) => id,
        }
    }
}

impl<'a> Named<'a> {
    /// By what somebody vouched for.
    fn vouched(tenant: Id<'a>, by: &'static str) -> Named<'a> {
        Named { tenant, by, strip: None, claimed: false }
    }

    /// By what anybody may write.
    fn claimed(tenant: Id<'a>, by: &'static str) -> Named<'a> {
        Named { tenant, by, strip: None, claimed: true }
    }
}

impl Identity {
    /// Prepares the settings.
    #[must_use]
    pub fn new(settings: &TenantSettings, verifiers: &Verifiers) -> Identity {
        let sources = settings.from.iter().map(|source| match source {
            TenantSource::ApiKeyBearer => Source::KeyBearer,
            TenantSource::ApiKeyHeader(name) => Source::KeyHeader(name.clone()),
            TenantSource::Jwt(_) => Source::Jwt,
            TenantSource::Host { prefix, suffix } => {
                Source::Host { prefix: prefix.clone(), suffix: suffix.clone() }
            }
            TenantSource::Domain => Source::Domain,
            TenantSource::Certificate(name) => Source::Certificate(name.clone()),
            TenantSource::Header(name) => Source::Header(name.clone()),
            TenantSource::ClientAddress => Source::ClientAddress,
        });
        let keys = settings.listed.values().flat_map(|tenant| {
            tenant.keys.iter().map(|key| {
                (
                    key.digest.0,
                    Key { digest: key.digest, tenant: Arc::clone(&tenant.id), expires: key.expires },
                )
            })
        });
        let plans = settings.listed.values().map(|tenant| (Arc::clone(&tenant.id), Arc::clone(&tenant.plan)));
        let verifiers = settings.from.iter().filter_map(|source| match source {
            TenantSource::Jwt(jwt) => Some(verifiers.of(jwt)),
            _ => None,
        });
        let headers = settings.from.iter().filter_map(|source| match source {
            TenantSource::Header(name) => Some(name.clone()),
            _ => None,
        });
        let headers: Vec<HeaderName> = headers.collect();
        Identity {
            headers: (!headers.is_empty()).then(|| headers.into()),
            bearer_keys: settings.from.iter().any(|source| matches!(source, TenantSource::ApiKeyBearer)),
            verifiers: verifiers.collect(),
            certificates: settings.listed.values().flat_map(certificate::listed).collect(),
            by_domain: settings.from.iter().any(|source| matches!(source, TenantSource::Domain)),
            sources: sources.collect(),
            keys: keys.collect(),
            unknown: settings.unknown.clone(),
            plans: plans.collect(),
        }
    }

    /// Finds the tenant of a request.
    ///
    /// # Errors
    /// `credential.*`, `tenant.unknown`.
    fn name<'a>(
        &'a self,
        headers: &'a Fields,
        (host, owner, shown): Connected<'a>,
        client: IpAddr,
        trusted: bool,
    ) -> Result<Named<'a>, Refusal> {
        for source in &self.sources {
            let named = match source {
                Source::KeyBearer => bearer(headers)?
                    .filter(|token| !self.is_jwt(token))
                    .map(|key| self.by_key(key, &AUTHORIZATION)),
                Source::KeyHeader(name) => one(headers, name)?.map(|key| self.by_key(key, name)),
                Source::Jwt => {
                    bearer(headers)?.filter(|token| self.is_jwt(token)).map(|token| self.by_token(token))
                }
                Source::Host { prefix, suffix } => {
                    let label = host
                        .strip_prefix(prefix.as_str())
                        .and_then(|rest| rest.strip_suffix(suffix.as_str()));
                    let label = label.filter(|label| !label.is_empty() && !label.contains('.'));
                    label.map(|label| own_id(label).map(|()| Named::claimed(Id::Held(label), "host")))
                }
                Source::Domain => owner.map(|owner| Ok(Named::claimed(Id::Held(owner), "domain"))),
                Source::Certificate(name) => shown.map(|shown| {
                    certificate::named(name, (&shown.facts, &shown.fingerprint), &self.certificates)
                }),
                Source::Header(name) if trusted => {
                    one(headers, name)?.map(|id| own_id(id).map(|()| Named::vouched(Id::Held(id), "header")))
                }
                Source::Header(_) => None,
                Source::ClientAddress => {
                    Some(Ok(Named::claimed(Id::Made(address_tenant(client)), "address")))
                }
            };
            if let Some(named) = named {
                return named;
            }
        }
        if self.sources.is_empty() {
            // Nobody asked who it is: then it is everybody, and their limits are shared.
            return Ok(Named::vouched(Id::Held("anonymous"), "nothing"));
        }
        Err(Refusal::new(
            &refusal::CREDENTIAL_MISSING,
            "no credential that this gate knows is in the request",
        ))
    }

    /// Whether a bearer token is one for the verifiers of JWTs.
    fn is_jwt(&self, token: &str) -> bool {
        match (self.bearer_keys, self.verifiers.is_empty()) {
            (true, false) => looks_like_jwt(token),
            (_, none) => !none,
        }
    }

    /// Whether a request may be a guess: it brings a credential, or names a tenant where not everybody is taken.
    fn may_guess(&self, headers: &Fields) -> bool {
        self.sources.iter().any(|source| match source {
            Source::KeyBearer | Source::Jwt => !matches!(bearer(headers), Ok(None)),
            Source::KeyHeader(name) | Source::Header(name) => headers.contains_key(name),
            Source::Host { .. } => self.unknown.is_none(),
            Source::ClientAddress | Source::Domain | Source::Certificate(_) => false,
        })
    }

    /// The headers in which trusted proxies name tenants, if there are any: nobody else may.
    #[must_use]
    pub fn headers(&self) -> Option<&Arc<[HeaderName]>> {
        self.headers.as_ref()
    }

    /// Whether hosts that tenants have of their own name them.
    fn by_domain(&self) -> bool {
        self.by_domain
    }

    /// The tenant of a token: its issuer's verifier decides or, where it is nobody's, the first.
    fn by_token(&self, token: &str) -> Result<Named<'_>, Refusal> {
        let (first, rest) = self.verifiers.split_first().expect("a source of tokens has a verifier");
        let chosen = match rest {
            [] => first,
            _ => self.verifiers.iter().find(|verifier| verifier.is_issuer(token)).unwrap_or(first),
        };
        let tenant = chosen.verify(token)?;
        own_id(&tenant).map(|()| Named::vouched(Id::Made(tenant), "jwt"))
    }

    fn by_key(&self, key: &str, header: &HeaderName) -> Result<Named<'_>, Refusal> {
        let digest = Digest::of(key.as_bytes());
        let invalid = || Refusal::new(&refusal::CREDENTIAL_INVALID, "this API key is not known");
        // The table is found by hash; that it is this very key is compared in constant time.
        let found = self.keys.get(&digest.0).filter(|found| found.digest == digest).ok_or_else(invalid)?;
        let now = clock::latest_wall().0;
        if found.expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::new(&refusal::CREDENTIAL_EXPIRED, "this API key has expired"));
        }
        Ok(Named { strip: Some(header.clone()), ..Named::vouched(Id::Held(&found.tenant), "api-key") })
    }

    /// The tenant with its state.
    fn tenant(&self, tenants: &Tenants, named: &Named, now: Tick) -> Result<Arc<Tenant>, Refusal> {
        let id: &str = &named.tenant;
        match self.plans.get(id).or(self.unknown.as_ref()) {
            Some(plan) if named.claimed => Ok(tenants.find_or_add_claimed(id, plan, now)),
            Some(plan) => Ok(tenants.find_or_add(id, plan, now)),
            None => Err(Refusal::new(&refusal::TENANT_UNKNOWN, "this tenant is not known here")),
        }
    }

    /// The tenant of this id, which another node of the cluster has identified. `None`: it is not known here.
    #[must_use]
    pub(crate) fn known(&self, tenants: &Tenants, id: &str, claimed: bool, now: Tick) -> Option<Arc<Tenant>> {
        let plan = self.plans.get(id).or(self.unknown.as_ref())?;
        let found = if claimed { Tenants::find_or_add_claimed } else { Tenants::find_or_add };
        is_id(id).then(|| found(tenants, id, plan, now))
    }

    /// Takes out what the application must not see, or must not believe.
    fn strip(&self, headers: &mut Fields, carried: Option<&HeaderName>, trusted: bool) {
        if let Some(header) = carried {
            headers.remove(header);
        }
        for source in &self.sources {
            match source {
                Source::KeyHeader(name) => headers.remove(name),
                Source::Header(name) if !trusted => headers.remove(name),
                _ => {}
            }
        }
    }
}

/// Whose the exchange's host is, where that counts.
///
/// # Errors
/// `store.unavailable`: it is not known now, and nobody else's request may it be meanwhile.
pub async fn owner(site: &Site, exchange: &Exchange) -> Result<Option<Arc<str>>, Refusal> {
    if !site.identity.by_domain() {
        return Ok(None);
    }
    if let Some(owner) = site.domains.known(&exchange.host, exchange.started) {
        return Ok(owner);
    }
    let owner = Box::pin(site.domains.owner(&exchange.host)).await;
    owner
        .map_err(|_| Refusal::new(&refusal::STORE_UNAVAILABLE, "whose host this is cannot be looked for now"))
}

/// Finds the tenant, and takes our own key out of the request. `owner`: whose the host is. One that a
/// password or a login has vouched for is it.
///
/// # Errors
/// `credential.*` and `tenant.unknown`; after too many of them from one address, `credential.throttled`.
pub fn identify(
    site: &Site,
    exchange: &mut Exchange,
    owner: Option<Arc<str>>,
    vouched: Option<Vouched>,
    entropy: &Entropy,
) -> Result<Arc<Tenant>, Refusal> {
    let now = exchange.started;
    let is_vouched = vouched.is_some();
    let blocked = if is_vouched { None } else { site.failures.blocked(exchange.client, now) };
    if let Some(wait) = blocked.filter(|_| site.identity.may_guess(&exchange.head.headers)) {
        let detail = "too many requests with invalid credentials came from this address";
        return Err(
            Refusal::new(&refusal::CREDENTIAL_THROTTLED, detail).retry_after(spread(wait, entropy.word()))
        );
    }
    let headers = &exchange.head.headers;
    let connected = (&*exchange.host, owner.as_ref(), exchange.certified.as_deref());
    let named = match vouched {
        Some((tenant, by)) => own_id(&tenant).map(|()| Named::vouched(Id::Made(tenant), by)),
        None => site.identity.name(headers, connected, exchange.client, exchange.trusted),
    };
    let found = named.and_then(|named| Ok((site.identity.tenant(&site.tenants, &named, now)?, named)));
    let (tenant, by, carried) = match found {
        Ok((tenant, named)) => (tenant, named.by, named.strip),
        Err(refusal) => {
            let guessed =
                [&refusal::CREDENTIAL_INVALID, &refusal::CREDENTIAL_EXPIRED, &refusal::TENANT_UNKNOWN];
            // Whoever proved who he is guesses nothing.
            if !is_vouched && guessed.contains(&refusal.kind) {
                site.failures.failed(exchange.client, now);
            }
            return Err(refusal);
        }
    };
    site.identity.strip(&mut exchange.head.headers, carried.as_ref(), exchange.trusted);
    let mut receipt = exchange.open.receipt_mut();
    receipt.tenant = Some(Arc::clone(tenant.id()));
    receipt.note(now, Step::Identified(by));
    drop(receipt);
    Ok(tenant)
}

/// The one value of a header.
fn one<'a>(headers: &'a Fields, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let invalid = |why| Refusal::new(&refusal::CREDENTIAL_INVALID, why);
    if values.next().is_some() {
        return Err(invalid("the credential is there twice"));
    }
    if value.len() > CREDENTIAL_BYTES_MAX {
        return Err(invalid("the credential is too long"));
    }
    value.to_str().map(Some).map_err(|_| invalid("the credential is not ASCII"))
}

/// The token of `Authorization: Bearer`. A scheme without a token has an empty one: that is present, and invalid.
fn bearer(headers: &Fields) -> Result<Option<&str>, Refusal> {
    let value = one(headers, &AUTHORIZATION)?;
    Ok(value.and_then(|value| {
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    }))
}

/// Whether a tenant may be called so by what somebody says of himself.
#[must_use]
pub fn may_be_named(id: &str) -> bool {
    is_id(id) && !is_reserved(id)
}

/// Whether a credential may name this tenant.
fn own_id(id: &str) -> Result<(), Refusal> {
    if may_be_named(id) {
        return Ok(());
    }
    Err(Refusal::new(&refusal::CREDENTIAL_INVALID, "what the credential names is no tenant's id"))
}

/// A client's address as a tenant: an IPv6 client is its whole /64, which it may use as it likes.
fn address_tenant(address: IpAddr) -> Arc<str> {
    Arc::from(format!("{ADDRESS_PREFIX}{}", failures::network(address)))
}

/// Three parts of base64url, the first of which is a JSON object.
fn looks_like_jwt(token: &str) -> bool {
    token.starts_with("ey") && token.split('.').count() == 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ApiKey, ListedTenant};
    use http::HeaderValue;
    use tidegate_model::plan::Rate;

    fn plan() -> Arc<Plan> {
        Arc::new(Plan {
            name: Arc::from("p"),
            rates: Vec::new(),
            concurrency: None,
            body_bytes_max: None,
            request_bytes_per_second: None,
            response_bytes_per_second: None,
            weight: 1,
        })
    }

    /// Who the request is for, or the refusal's code.
    fn check(headers: &[(&str, &str)], host: &str, trusted: bool) -> String {
        let key = |id: &str, key: &str, expires| ApiKey {
            id: Arc::from(id),
            digest: Digest::of(key.as_bytes()),
            expires,
        };
        let acme = ListedTenant {
            id: Arc::from("acme"),
            plan: plan(),
            keys: vec![key("k1", "good", None), key("k2", "old", Some(1))],
            domains: Vec::new(),
            certificates: Vec::new(),
        };
        let settings = TenantSettings {
            from: vec![
                TenantSource::ApiKeyBearer,
                TenantSource::ApiKeyHeader(HeaderName::from_static("x-api-key")),
                TenantSource::Host { prefix: String::new(), suffix: ".example.com".into() },
                TenantSource::Domain,
                TenantSource::Header(HeaderName::from_static("x-tenant")),
            ],
            unknown: Some(plan()),
            plans: HashMap::new(),
            listed: HashMap::from([(Arc::clone(&acme.id), acme)]),
            tracked_max: 10,
            failures: Rate {
                name: Arc::from("failures"),
                limit: 10,
                window: std::time::Duration::from_secs(60),
                burst: 10,
            },
        };
        let identity = Identity::new(&settings, &Verifiers::default());
        let mut map = Fields::default();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let owner = (host == "shop.acme.example").then(|| Arc::from("acme"));
        match identity.name(&map, (host, owner.as_ref(), None), "192.0.2.1".parse().unwrap(), trusted) {
            Ok(named) => format!("{} by {}", &*named.tenant, named.by),
            Err(refusal) => refusal.kind.code.to_owned(),
        }
    }

    #[test]
    fn the_first_credential_present_decides() {
        for (headers, host, trusted, expected) in [
            (&[("authorization", "Bearer good")][..], "x.example.com", false, "acme by api-key"),
            (&[("authorization", "bearer  good")], "", false, "acme by api-key"),
            (&[("x-api-key", "good"), ("x-tenant", "other")], "", true, "acme by api-key"),
            (&[("authorization", "Bearer bad"), ("x-api-key", "good")], "", false, "credential.invalid"),
            (&[("authorization", "Bearer old")], "", false, "credential.expired"),
            (&[("x-api-key", "good"), ("x-api-key", "good")], "", false, "credential.invalid"),
            (&[("authorization", "Basic good")], "t1.example.com", false, "t1 by host"),
            (&[], "a.b.example.com", false, "credential.missing"),
            (&[("x-tenant", "t2")], "shop.acme.example", true, "acme by domain"),
            (&[("x-tenant", "t2")], "", true, "t2 by header"),
            (&[("x-tenant", "t2")], "", false, "credential.missing"),
        ] {
            assert_eq!(check(headers, host, trusted), expected, "{headers:?} {host} {trusted}");
        }
    }
}
