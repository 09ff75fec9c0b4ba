//! The tenant that a client's certificate names. The handshake has found it good; what it says is vouched for by its authority.
//!
//! Exactly one of its names must fit: of two nobody could say which one counts.

use std::sync::Arc;

use tidegate_model::refusal::{self, Refusal};
use tidegate_wire::tls::Facts;

use super::{HashMap, Id, Named, own_id};
use crate::settings::{CertificateName, CertificatePart, ListedTenant};

/// Certificates that a tenant lists, and whose they are.
pub fn listed(tenant: &ListedTenant) -> impl Iterator<Item = ([u8; 32], Arc<str>)> + '_ {
    tenant.certificates.iter().map(|one| (*one, Arc::clone(&tenant.id)))
}

/// The tenant.
///
/// # Errors
/// `credential.invalid`.
pub fn named<'a>(
    wanted: &CertificateName,
    (facts, fingerprint): (&'a Facts, &[u8; 32]),
    listed: &'a HashMap<[u8; 32], Arc<str>>,
) -> Result<Named<'a>, Refusal> {
    let invalid = || Refusal::new(&refusal::CREDENTIAL_INVALID, "the certificate names no tenant");
    let names: &[String] = match wanted.part {
        CertificatePart::CommonName => facts.common_name.as_slice(),
        CertificatePart::Dns => &facts.dns,
        CertificatePart::Uri => &facts.uris,
        CertificatePart::Email => &facts.emails,
        CertificatePart::Fingerprint => {
            let tenant = listed.get(fingerprint).ok_or_else(invalid)?;
            return Ok(Named::vouched(Id::Held(tenant), "certificate"));
        }
    };
    let tenant = |name: &'a String| {
        let tenant = name.strip_prefix(wanted.prefix.as_str())?.strip_suffix(wanted.suffix.as_str())?;
        (!tenant.is_empty()).then_some(tenant)
    };
    let mut fit = names.iter().filter_map(tenant);
    let (Some(tenant), None) = (fit.next(), fit.next()) else { return Err(invalid()) };
    own_id(tenant).map(|()| Named::vouched(Id::Held(tenant), "certificate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(part: CertificatePart, (prefix, suffix): (&str, &str), expected: Option<&str>) {
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let facts = Facts {
            common_name: Some("acme".to_owned()),
            dns: texts(&["a.clients.example", "b.other.example"]),
            uris: texts(&["spiffe://x/t/acme", "spiffe://x/t/beta"]),
            ..Facts::default()
        };
        let name = CertificateName { part, prefix: prefix.to_owned(), suffix: suffix.to_owned() };
        let listed = HashMap::from([([7; 32], Arc::from("listed"))]);
        let found = named(&name, (&facts, &[7; 32]), &listed).ok().map(|named| named.tenant.to_string());
        assert_eq!(found.as_deref(), expected, "{part:?} {prefix} {suffix}");
    }

    #[test]
    fn exactly_one_name_of_a_certificate_is_the_tenant() {
        check(CertificatePart::CommonName, ("", ""), Some("acme"));
        check(CertificatePart::CommonName, ("x-", ""), None);
        check(CertificatePart::Dns, ("", ".clients.example"), Some("a"));
        check(CertificatePart::Dns, ("", ""), None);
        check(CertificatePart::Uri, ("spiffe://x/t/", ""), None);
        check(CertificatePart::Uri, ("spiffe://x/t/be", ""), Some("ta"));
        check(CertificatePart::Email, ("", ""), None);
        check(CertificatePart::Fingerprint, ("", ""), Some("listed"));
    }
}
