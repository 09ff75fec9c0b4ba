//! TLS towards clients: several certificates chosen by name, swapped without touching a connection.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};

use crate::settings::CertificateFiles;

/// What is wrong with a certificate or its key.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct CertificateError {
    /// The file.
    pub path: std::path::PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// A set of certificates, by the names they are for.
#[derive(Debug)]
pub struct CertificateSet {
    first: Arc<CertifiedKey>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows the first label's dot.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

/// The certificates that the listeners serve.
#[derive(Debug, Default)]
pub struct Certificates(ArcSwapOption<CertificateSet>);

impl CertificateSet {
    /// Reads certificates and keys. Every problem is told.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, a key that does not belong to its certificate, no certificate at all.
    pub fn load(files: &[CertificateFiles]) -> Result<CertificateSet, Vec<CertificateError>> {
        let mut problems = Vec::new();
        let mut first = None;
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for pair in files {
            match load_one(pair) {
                Ok((key, names)) => {
                    first.get_or_insert_with(|| Arc::clone(&key));
                    for name in names {
                        match name.strip_prefix("*.") {
                            Some(parent) => {
                                wildcard.entry(parent.to_owned()).or_insert_with(|| Arc::clone(&key))
                            }
                            None => exact.entry(name).or_insert_with(|| Arc::clone(&key)),
                        };
                    }
                }
                Err(found) => problems.extend(found),
            }
        }
        match first {
            Some(first) if problems.is_empty() => Ok(CertificateSet { first, exact, wildcard }),
            _ => Err(problems),
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.exact.get(&name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }
}

/// A pair, with the names that it is for. What is wrong with either file is told of both.
fn load_one(files: &CertificateFiles) -> Result<(Arc<CertifiedKey>, Vec<String>), Vec<CertificateError>> {
    let bad = |path: &Path, why: String| CertificateError { path: path.to_owned(), why };
    let chain = load_chain(&files.cert).map_err(|why| bad(&files.cert, why));
    let signing = load_key(&files.key).map_err(|why| bad(&files.key, why));
    let ((chain, names), signing) = match (chain, signing) {
        (Ok(chain), Ok(signing)) => (chain, signing),
        (chain, signing) => return Err(chain.err().into_iter().chain(signing.err()).collect()),
    };
    let certified = CertifiedKey::new(chain, signing);
    let stranger = |_| vec![bad(&files.key, format!("it is not the key of {}", files.cert.display()))];
    certified.keys_match().map_err(stranger)?;
    Ok((Arc::new(certified), names))
}

/// A chain, the leaf first, and the names that the leaf is for.
type Chain = (Vec<CertificateDer<'static>>, Vec<String>);

fn load_chain(path: &Path) -> Result<Chain, String> {
    let chain = CertificateDer::pem_file_iter(path).map_err(|error| pem_reason(&error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| pem_reason(&error))?;
    let leaf = chain.first().ok_or("there is no certificate in it")?;
    ParsedCertificate::try_from(leaf).map_err(|error| format!("it is no certificate: {error}"))?;
    let names = dns_names(leaf);
    Ok((chain, names))
}

fn load_key(path: &Path) -> Result<Arc<dyn SigningKey>, String> {
    let key = PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => "there is no private key in it".to_owned(),
        error => pem_reason(&error),
    })?;
    aws_lc_rs::sign::any_supported_type(&key).map_err(|error| format!("it is no usable key: {error}"))
}

pub(crate) fn pem_reason(error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        },
        rustls::pki_types::pem::Error::NoItemsFound => "there is no certificate in it".to_owned(),
        other => format!("it is not PEM: {other}"),
    }
}

/// The names in the certificate's subjectAltName.
fn dns_names(leaf: &CertificateDer<'_>) -> Vec<String> {
    webpki::EndEntityCert::try_from(leaf)
        .map(|certificate| certificate.valid_dns_names().map(str::to_ascii_lowercase).collect())
        .unwrap_or_default()
}

impl Certificates {
    /// Serves this set from now on.
    pub fn swap(&self, set: CertificateSet) {
        self.0.store(Some(Arc::new(set)));
    }

    /// The configuration of the listeners: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, session tickets.
    ///
    /// # Panics
    /// If rustls lacks its own default protocol versions.
    #[must_use]
    pub fn server_config(self: &Arc<Certificates>) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default protocol versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Certificates>::clone(self));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Arc::new(config)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.0.load();
        let set = set.as_ref()?;
        Some(Arc::clone(hello.server_name().and_then(|name| set.find(name)).unwrap_or(&set.first)))
    }
}
