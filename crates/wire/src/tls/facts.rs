//! What a certificate says of itself, as far as somebody here wants to know.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Names of one kind of which more are not looked at.
const NAMES_MAX: usize = 64;

/// What a certificate says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// From when on it is believed, in seconds since the Unix epoch.
    pub not_before: u64,
    /// Until when.
    pub not_after: u64,
    /// The common name of its subject, if it has exactly one.
    pub common_name: Option<String>,
    /// The names of hosts in its subjectAltName.
    pub dns: Vec<String>,
    /// The URIs there.
    pub uris: Vec<String>,
    /// The addresses of e-mail there.
    pub emails: Vec<String>,
    /// By what its authority knows it (RFC 9773 section 4.1): that one's key and its own number, base64url both.
    pub renewal_id: Option<(String, String)>,
}

impl Facts {
    /// What this certificate says, DER. `None`: it is none.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Facts> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        rest.is_empty().then_some(())?;
        let second = |time: i64| u64::try_from(time).unwrap_or_default();
        let validity = certificate.validity();
        let mut facts = Facts {
            not_before: second(validity.not_before.timestamp()),
            not_after: second(validity.not_after.timestamp()),
            common_name: common_name(&certificate),
            ..Facts::default()
        };
        for extension in certificate.extensions() {
            if let ParsedExtension::AuthorityKeyIdentifier(authority) = extension.parsed_extension()
                && let Some(key) = &authority.key_identifier
            {
                let told =
                    [key.0, certificate.raw_serial()].map(|bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes));
                facts.renewal_id = Some(told.into());
            }
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
                continue;
            };
            for name in &names.general_names {
                let (list, text) = match name {
                    GeneralName::DNSName(text) => (&mut facts.dns, text.to_ascii_lowercase()),
                    GeneralName::URI(text) => (&mut facts.uris, (*text).to_owned()),
                    GeneralName::RFC822Name(text) => (&mut facts.emails, (*text).to_owned()),
                    _ => continue,
                };
                if list.len() < NAMES_MAX {
                    list.push(text);
                }
            }
        }
        Some(facts)
    }

    /// What the first certificate of a chain says, PEM.
    #[must_use]
    pub fn of_chain(pem: &[u8]) -> Option<Facts> {
        Facts::of(&CertificateDer::pem_slice_iter(pem).next()?.ok()?)
    }
}

/// The subject's common name: of two nobody could say which one counts.
fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    names.next().is_none().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    #[test]
    fn a_certificate_says_who_it_is_for_and_until_when() {
        let mut params = CertificateParams::new(["A.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "acme");
        params.subject_alt_names.push(SanType::URI("spiffe://x/acme".try_into().unwrap()));
        params.subject_alt_names.push(SanType::Rfc822Name("a@b.example".try_into().unwrap()));
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let facts = Facts::of(made.der()).unwrap();
        assert_eq!(facts.not_after, 1_893_542_400);
        assert_eq!(
            (facts.common_name.as_deref(), &facts.dns[..]),
            (Some("acme"), &["a.example".to_owned()][..])
        );
        assert_eq!((&facts.uris[0][..], &facts.emails[0][..]), ("spiffe://x/acme", "a@b.example"));
        assert_eq!(Facts::of(b"no certificate"), None);
        assert_eq!(Facts::of(&[made.der(), &b"x"[..]].concat()), None);
    }
}
