//! TLS to endpoints: whom to trust, which name to ask for.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::settings::{ClientTlsSettings, Protocol};
use crate::tls::{CertificateError as FileError, is_pinned, load_pair, pem_reason};

/// TLS to the endpoints of one upstream.
#[derive(Debug)]
pub struct ClientTls {
    /// The name to ask for and to verify; `None`: the endpoint's address.
    pub name: Option<ServerName<'static>>,
    http1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
    both: Arc<ClientConfig>,
}

/// Why TLS to an upstream cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// Not a DNS name and not an address.
    #[error("`{0}` is not a server name")]
    Name(String),
    /// The file of authorities cannot be used.
    #[error("{}: {why}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The certificate to show, or its key, cannot be used.
    #[error(transparent)]
    Identity(FileError),
    /// Nobody vouches for anybody.
    #[error("the system has no certificate authorities: name a file of them (`ca`)")]
    NoAuthorities,
    /// rustls refused.
    #[error("TLS settings")]
    Rustls(#[from] rustls::Error),
}

impl ClientTls {
    /// TLS as configured; `host` is the name the endpoints were resolved from, if they were.
    ///
    /// # Errors
    /// A name or a file of authorities that cannot be used.
    pub fn new(settings: &ClientTlsSettings, host: Option<&str>) -> Result<ClientTls, ClientTlsError> {
        let name = match settings.server_name.as_deref().or(host) {
            Some(name) => Some(
                ServerName::try_from(name.to_owned()).map_err(|_| ClientTlsError::Name(name.to_owned()))?,
            ),
            None => None,
        };
        let config = config(settings)?;
        let speaking = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        Ok(ClientTls {
            name,
            http1: speaking(&[b"http/1.1"]),
            h2: speaking(&[b"h2"]),
            both: speaking(&[b"h2", b"http/1.1"]),
        })
    }

    /// TLS by the same authorities to a host of this name (or address), who may be shown a certificate.
    ///
    /// # Errors
    /// Not a server's name.
    pub fn to(&self, host: &str, identity: Option<&Identity>) -> Result<ClientTls, ClientTlsError> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| ClientTlsError::Name(host.to_owned()))?;
        let showing = |config: &Arc<ClientConfig>| match identity {
            None => Arc::clone(config),
            Some(identity) => {
                let mut config = ClientConfig::clone(config);
                config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&identity.0)));
                // A session that one identity has begun is not another's to go on with.
                config.resumption = Resumption::disabled();
                Arc::new(config)
            }
        };
        let [http1, h2, both] = [&self.http1, &self.h2, &self.both].map(showing);
        Ok(ClientTls { name: Some(name), http1, h2, both })
    }

    pub(crate) fn config(&self, protocol: Protocol) -> &Arc<ClientConfig> {
        match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::H2 => &self.h2,
            Protocol::Auto => &self.both,
        }
    }
}

/// A certificate with its key, by which a client says who it is.
#[derive(Clone, Debug)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// Reads a chain, the leaf first, and its key, both PEM.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn read(chain: &str, key: &str) -> Result<Identity, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let chain = chain.map_err(|error| pem_reason(&error))?;
        if chain.is_empty() {
            return Err("there is no certificate in it".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| pem_reason(&error))?;
        let key = aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| format!("it is no usable key: {error}"))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| "the key is not the certificate's".to_owned())?;
        Ok(Identity(Arc::new(certified)))
    }
}

/// How TLS is spoken to whom these settings trust, whatever is spoken above it.
pub(crate) fn config(settings: &ClientTlsSettings) -> Result<ClientConfig, ClientTlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let verifier: Arc<dyn ServerCertVerifier> = if settings.insecure {
        Arc::new(AcceptAny(provider))
    } else {
        let roots = Arc::new(authorities(settings)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        verifier.map_err(|error| ClientTlsError::Rustls(rustls::Error::General(error.to_string())))?
    };
    let verifier: Arc<dyn ServerCertVerifier> = match &settings.pins[..] {
        [] => verifier,
        pins => Arc::new(Pinned { inner: verifier, pins: pins.into() }),
    };
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    if let Some((cert, key)) = &settings.identity {
        let first = |mut problems: Vec<_>| ClientTlsError::Identity(problems.swap_remove(0));
        let (pair, _) = load_pair(cert, key).map_err(first)?;
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::new(pair)));
    }
    Ok(config)
}

/// The server's key must be among these, whoever vouches for it.
#[derive(Debug)]
struct Pinned {
    inner: Arc<dyn ServerCertVerifier>,
    pins: Box<[[u8; 32]]>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(leaf, between, name, ocsp, now)?;
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

fn authorities(settings: &ClientTlsSettings) -> Result<RootCertStore, ClientTlsError> {
    let mut store = RootCertStore::empty();
    let Some(path) = &settings.ca else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if store.is_empty() { Err(ClientTlsError::NoAuthorities) } else { Ok(store) };
    };
    let unusable = |why: String| ClientTlsError::Authorities { path: path.clone(), why };
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(pem_reason(&error)))? {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        store.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(unusable("no certificate in it".to_owned()));
    }
    Ok(store)
}

/// `insecure = true`: any certificate, though the handshake's signatures must still be right.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
