//! Clients that show a certificate (mutual TLS): which are wanted, and what is known of one that came.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use aws_lc_rs::digest::{SHA256, digest};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::HeaderValue;
use parking_lot::Mutex;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::{Facts, pem_reason, provider, read};
use crate::clock;
use crate::settings::ClientCertificates;

/// Rules that a connection remembers what its client is by: the latest.
const JUDGED_MAX: usize = 8;

/// What is wanted of clients that ask for the names of one certificate.
#[derive(Debug)]
pub struct ClientRule {
    /// What the rule is, files' content included: two that have one are the same.
    pub id: [u8; 32],
    /// Whether a client without a certificate is refused.
    pub required: bool,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
}

/// Why a rule cannot be used.
#[derive(Debug)]
pub struct ClientRuleError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What is wanted of clients, by the host that they ask for: what the certificate wants that a handshake for this host is shown.
#[derive(Clone, Debug)]
pub struct ClientRules {
    pub(super) exact: HashMap<String, Option<Arc<ClientRule>>>,
    pub(super) wildcard: HashMap<String, Option<Arc<ClientRule>>>,
    /// For names that no certificate is for.
    pub(super) first: Option<Arc<ClientRule>>,
}

impl ClientRules {
    /// What is wanted of clients that ask for this host. `managed`: whether one that no file's certificate is for has one that
    /// is managed.
    #[must_use]
    pub fn of(&self, host: &str, managed: impl FnOnce() -> bool) -> Option<&ClientRule> {
        let parent = || self.wildcard.get(host.split_once('.')?.1);
        match self.exact.get(host).or_else(parent) {
            Some(rule) => rule.as_deref(),
            None => self.first.as_deref().filter(|_| !managed()),
        }
    }
}

/// What a client has shown, and the handshake found good.
#[derive(Debug)]
pub struct TlsClient {
    /// The [`ClientRule::id`] by which it was found good.
    pub rule: [u8; 32],
    /// The certificates, the leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// What the leaf says.
    pub facts: Facts,
    /// SHA-256 of the leaf.
    pub fingerprint: [u8; 32],
    /// The leaf as applications are told it (RFC 9440 section 2.2).
    pub told: HeaderValue,
    /// What was sent above it, if anything was (section 2.3).
    pub told_chain: Option<HeaderValue>,
    /// What came of it by other rules.
    judged: Mutex<Vec<([u8; 32], bool)>>,
}

impl TlsClient {
    /// One that has shown these, the leaf first, to a connection with the rule of this id. `None`: it has shown none.
    #[must_use]
    pub fn new(rule: [u8; 32], chain: Vec<Vec<u8>>) -> Option<TlsClient> {
        let (leaf, above) = chain.split_first()?;
        let told = |one: &Vec<u8>| format!(":{}:", BASE64_STANDARD.encode(one));
        let value = |text: String| HeaderValue::try_from(text).expect("Base64 is a field's value");
        let chained = above.iter().map(told).collect::<Vec<_>>().join(", ");
        Some(TlsClient {
            rule,
            facts: Facts::of(leaf).unwrap_or_default(),
            fingerprint: sha256(leaf),
            told: value(told(leaf)),
            told_chain: (!above.is_empty()).then(|| value(chained)),
            chain,
            judged: Mutex::default(),
        })
    }
}

impl ClientRule {
    /// Reads authorities and revocations.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn load(settings: &ClientCertificates) -> Result<ClientRule, ClientRuleError> {
        let bad = |path: &PathBuf, why: String| ClientRuleError { path: path.clone(), why };
        let ca = read(&settings.ca).map_err(|why| bad(&settings.ca, why))?;
        let roots = authorities(&ca).map_err(|why| bad(&settings.ca, why))?;
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let mut revoked = Vec::new();
        if let Some(path) = &settings.crl {
            revoked = read(path).map_err(|why| bad(path, why))?;
            let lists = CertificateRevocationListDer::pem_slice_iter(&revoked).collect::<Result<Vec<_>, _>>();
            let lists = lists.map_err(|error| bad(path, pem_reason(&error)))?;
            if lists.is_empty() {
                return Err(bad(path, "there is no list of revoked certificates in it".to_owned()));
            }
            // Whom no list speaks of is not revoked: authorities above need not have one.
            builder = builder.with_crls(lists).allow_unknown_revocation_status();
        }
        if !settings.required {
            builder = builder.allow_unauthenticated();
        }
        let at_fault = settings.crl.as_ref().unwrap_or(&settings.ca);
        let inner = builder.build().map_err(|error| bad(at_fault, error.to_string()))?;
        let mut all = vec![u8::from(settings.required)];
        for part in [&ca, &revoked] {
            all.extend_from_slice(&(part.len() as u64).to_be_bytes());
            all.extend_from_slice(part);
        }
        settings.pins.iter().for_each(|pin| all.extend_from_slice(pin));
        let verifier: Arc<dyn ClientCertVerifier> = match &settings.pins[..] {
            [] => inner,
            pins => Arc::new(Pinned { inner, pins: pins.into() }),
        };
        Ok(ClientRule { id: sha256(&all), required: settings.required, verifier })
    }

    /// Whether the client of a connection is good by this rule, whatever rule it was made under: that it has the key, its handshake
    /// has shown.
    #[must_use]
    pub fn accepts(&self, client: &TlsClient) -> bool {
        if client.rule == self.id {
            return true;
        }
        let mut judged = client.judged.lock();
        if let Some((_, good)) = judged.iter().find(|(rule, _)| *rule == self.id) {
            return *good;
        }
        let chain: Vec<CertificateDer<'_>> = client.chain.iter().map(|one| one.as_slice().into()).collect();
        let Some((leaf, above)) = chain.split_first() else { return false };
        let good = self.verifier.verify_client_cert(leaf, above, now()).is_ok();
        if judged.len() == JUDGED_MAX {
            judged.remove(0);
        }
        judged.push((self.id, good));
        good
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| pem_reason(&error))?;
        store.add(certificate).map_err(|error| format!("it is no authority: {error}"))?;
    }
    if store.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(store) }
}

/// Whether a certificate's key is one of these.
pub(crate) fn is_pinned(leaf: &CertificateDer<'_>, pins: &[[u8; 32]]) -> bool {
    let parsed = webpki::EndEntityCert::try_from(leaf);
    parsed.is_ok_and(|parsed| pins.contains(&sha256(&parsed.subject_public_key_info())))
}

/// The keys of clients must be among these, whoever vouches for them.
#[derive(Debug)]
struct Pinned {
    inner: Arc<dyn ClientCertVerifier>,
    pins: Box<[[u8; 32]]>,
}

impl ClientCertVerifier for Pinned {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(leaf, between, now)?;
        if is_pinned(leaf, &self.pins) {
            Ok(verified)
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which rule counts for a host, where the first certificate has rule 1.
    fn check(host: &str, managed: bool, expected: Option<u8>) {
        let rule = |id| {
            let verifier = WebPkiClientVerifier::no_client_auth();
            Some(Arc::new(ClientRule { id: [id; 32], required: true, verifier }))
        };
        let named = |all: [(&str, Option<Arc<ClientRule>>); 2]| {
            all.map(|(name, rule)| (name.to_owned(), rule)).into_iter().collect()
        };
        let rules = ClientRules {
            exact: named([("a.test", rule(2)), ("open.b.test", None)]),
            wildcard: named([("b.test", rule(3)), ("c.test", None)]),
            first: rule(1),
        };
        let found = rules.of(host, || managed).map(|rule| rule.id[0]);
        assert_eq!(found, expected, "{host}");
    }

    #[test]
    fn a_host_has_the_rule_of_the_certificate_that_its_handshake_is_shown() {
        check("a.test", false, Some(2));
        check("a.test", true, Some(2));
        check("x.b.test", false, Some(3));
        check("open.b.test", false, None);
        check("x.c.test", false, None);
        check("x.y.b.test", false, Some(1));
        check("b.test", false, Some(1));
        check("192.0.2.1", false, Some(1));
        check("", false, Some(1));
        check("managed.test", true, None);
    }
}
