//! Clients that show a certificate (mutual TLS): which are wanted, and what is known of one that came.

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::{Facts, pem_reason, provider, read};
use crate::settings::ClientCertificates;

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

/// What is known of a client on whose connection a rule counts.
#[derive(Debug)]
pub struct TlsClient {
    /// The rule's [`ClientRule::id`].
    pub rule: [u8; 32],
    /// What it has shown, the leaf first, DER; empty: nothing, and nothing is required.
    pub chain: Vec<Vec<u8>>,
    /// What the leaf says.
    pub facts: Facts,
    /// SHA-256 of the leaf.
    pub fingerprint: [u8; 32],
}

impl TlsClient {
    /// Whether it has shown a certificate. Then that was good.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.chain.is_empty()
    }

    pub(super) fn new(rule: &ClientRule, chain: Option<&[CertificateDer<'_>]>) -> TlsClient {
        let chain: Vec<Vec<u8>> = chain.unwrap_or_default().iter().map(|one| one.to_vec()).collect();
        let leaf = chain.first();
        TlsClient {
            rule: rule.id,
            facts: leaf.and_then(|leaf| Facts::of(leaf)).unwrap_or_default(),
            fingerprint: leaf.map_or([0; 32], |leaf| sha256(leaf)),
            chain,
        }
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
        let parsed = webpki::EndEntityCert::try_from(leaf)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let key = sha256(&parsed.subject_public_key_info());
        if self.pins.contains(&key) {
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
