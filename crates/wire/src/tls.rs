//! TLS towards clients: certificates chosen by the name that is asked for, swapped without touching a connection.
//!
//! Those of files are all in memory ([`CertificateSet`]); those that Tidegate manages itself are read when somebody asks for
//! their name ([`Managed`]). A certificate brings the terms of its connections along: which clients' certificates it
//! wants, and under which key its session tickets are sealed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};

use crate::clock;
use crate::settings::CertificateFiles;

mod accept;
mod clients;
mod facts;
mod failure;
mod managed;
mod staple;
mod tickets;

pub(crate) use clients::is_pinned;
pub use clients::{ClientRule, ClientRuleError, ClientRules, TlsClient};
pub use facts::Facts;
pub use failure::HandshakeFailure;
pub use managed::{Asked, CertificateSource, Coming, Managed};

pub(crate) use accept::{Accepted, Failed, accept};
use staple::Staple;
use tickets::{Ticketer, Tickets};

/// The protocol by which a certificate authority looks whether a name is ours (RFC 8737).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// What is wrong with a certificate or its key.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct CertificateError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// A set of certificates out of files, by the names they are for.
#[derive(Debug)]
pub struct CertificateSet {
    first: Arc<Loaded>,
    exact: HashMap<String, Arc<Loaded>>,
    /// By what follows the first label's dot.
    wildcard: HashMap<String, Arc<Loaded>>,
}

/// A certificate out of files, and what it wants of clients.
#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    rule: Option<Arc<ClientRule>>,
    /// What its authority says of it, and where that stands.
    staple: Option<(Staple, PathBuf)>,
}

impl Loaded {
    fn rule_id(&self) -> Option<[u8; 32]> {
        self.rule.as_ref().map(|rule| rule.id)
    }
}

/// A certificate as connections are made with it.
#[derive(Debug)]
pub struct Served {
    config: Arc<ServerConfig>,
    /// The same, with an OCSP answer that holds for a while.
    stapled: Option<Stapled>,
    pub(crate) rule: Option<Arc<ClientRule>>,
    /// Seconds since the Unix epoch from which on nobody believes it.
    pub not_after: u64,
}

#[derive(Debug)]
struct Stapled {
    config: Arc<ServerConfig>,
    staple: Staple,
}

/// The certificates that the listeners serve.
#[derive(Debug, Default)]
pub struct Certificates {
    set: ArcSwapOption<Serving>,
    managed: ArcSwapOption<Managed>,
    tickets: Tickets,
}

/// A set of certificates as connections are made with them.
#[derive(Debug)]
struct Serving {
    first: Arc<Served>,
    exact: HashMap<String, Arc<Served>>,
    wildcard: HashMap<String, Arc<Served>>,
}

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
                Ok((loaded, names)) => {
                    first.get_or_insert_with(|| Arc::clone(&loaded));
                    for name in names {
                        let entry = match name.strip_prefix("*.") {
                            Some(parent) => wildcard.entry(parent.to_owned()),
                            None => exact.entry(name.clone()),
                        };
                        let served: &Arc<Loaded> = entry.or_insert_with(|| Arc::clone(&loaded));
                        if served.rule_id() != loaded.rule_id() {
                            let why = format!(
                                "an earlier certificate is for {name}, too, and wants something else of clients"
                            );
                            problems.push(CertificateError { path: pair.cert.clone(), why });
                        }
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

    /// What is wanted of clients, by the host that they ask for. `None`: nothing, of nobody.
    #[must_use]
    pub fn rules(&self) -> Option<ClientRules> {
        let named = |names: &HashMap<String, Arc<Loaded>>| {
            names.iter().map(|(name, one)| (name.clone(), one.rule.clone())).collect()
        };
        let mut all = self.exact.values().chain(self.wildcard.values()).chain([&self.first]);
        all.any(|one| one.rule.is_some()).then(|| ClientRules {
            exact: named(&self.exact),
            wildcard: named(&self.wildcard),
            first: self.first.rule.clone(),
        })
    }

    fn serving(self, tickets: &Tickets) -> Serving {
        let mut made: HashMap<*const Loaded, Arc<Served>> = HashMap::new();
        let mut terms: HashMap<Option<[u8; 32]>, ServerConfig> = HashMap::new();
        let mut serve = |loaded: &Arc<Loaded>| {
            let new = || {
                let rule = loaded.rule.clone();
                let terms =
                    terms.entry(loaded.rule_id()).or_insert_with(|| terms_of(rule.as_deref(), tickets));
                let staple = loaded.staple.as_ref().and_then(shown);
                Arc::new(Served::of(Arc::clone(&loaded.key), rule, terms).with(staple, &loaded.key))
            };
            Arc::clone(made.entry(Arc::as_ptr(loaded)).or_insert_with(new))
        };
        let first = serve(&self.first);
        let mut all = |names: HashMap<String, Arc<Loaded>>| {
            names.into_iter().map(|(name, loaded)| (name, serve(&loaded))).collect()
        };
        Serving { first, exact: all(self.exact), wildcard: all(self.wildcard) }
    }
}

impl Serving {
    fn find(&self, name: &str) -> Option<&Arc<Served>> {
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }
}

impl Served {
    fn of(key: Arc<CertifiedKey>, rule: Option<Arc<ClientRule>>, terms: &ServerConfig) -> Served {
        let not_after = key.cert.first().and_then(|leaf| Facts::of(leaf)).map_or(0, |facts| facts.not_after);
        let mut config = terms.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(key));
        Served { config: Arc::new(config), stapled: None, rule, not_after }
    }

    /// With this answer, as long as it holds.
    fn with(mut self, staple: Option<Staple>, key: &CertifiedKey) -> Served {
        self.stapled = staple.map(|staple| {
            let key = CertifiedKey { ocsp: Some(staple.der.clone()), ..key.clone() };
            let mut config = ServerConfig::clone(&self.config);
            config.cert_resolver = Arc::new(SingleCertAndKey::from(key));
            Stapled { config: Arc::new(config), staple }
        });
        self
    }

    /// How a connection is made with it now.
    pub(crate) fn config(&self) -> &Arc<ServerConfig> {
        let holds = |stapled: &&Stapled| stapled.staple.lacks(clock::latest_wall().0).is_none();
        self.stapled.as_ref().filter(holds).map_or(&self.config, |stapled| &stapled.config)
    }

    /// One that answers a certificate authority that looks whether a name is ours (RFC 8737), made for that, as DER.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn challenge(certificate: Vec<u8>, key: Vec<u8>) -> Result<Served, String> {
        let key = PrivateKeyDer::try_from(key).map_err(str::to_owned)?;
        let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
        let key = Arc::new(CertifiedKey::new(vec![CertificateDer::from(certificate)], key));
        let mut terms = ground().with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&key))));
        terms.alpn_protocols = vec![ACME_TLS.to_vec()];
        terms.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Served::of(key, None, &terms))
    }
}

/// A pair, with the names that it is for, and what it wants of clients. What is wrong with any file is told of all.
fn load_one(files: &CertificateFiles) -> Result<(Arc<Loaded>, Vec<String>), Vec<CertificateError>> {
    let rule = files.client.as_ref().map(ClientRule::load).transpose();
    let rule = rule.map_err(|ClientRuleError { path, why }| CertificateError { path, why });
    match (load_pair(&files.cert, &files.key), rule) {
        (Ok((key, names)), Ok(rule)) => {
            let staple = files.ocsp.as_ref().map(|path| load_staple(path, &key)).transpose();
            let (key, rule) = (Arc::new(key), rule.map(Arc::new));
            let loaded = |staple| (Arc::new(Loaded { key, rule, staple }), names);
            staple.map(loaded).map_err(|problem| vec![problem])
        }
        (pair, rule) => Err(pair.err().unwrap_or_default().into_iter().chain(rule.err()).collect()),
    }
}

/// A certificate with its key, and the names that it is for.
pub(crate) fn load_pair(
    cert: &Path,
    key: &Path,
) -> Result<(CertifiedKey, Vec<String>), Vec<CertificateError>> {
    let bad = |path: &Path, why: String| CertificateError { path: path.to_owned(), why };
    let chain = read(cert).and_then(|pem| chain_of(&pem)).map_err(|why| bad(cert, why));
    let signing = read(key).and_then(|pem| key_of(&pem)).map_err(|why| bad(key, why));
    let ((chain, names), signing) = match (chain, signing) {
        (Ok(chain), Ok(signing)) => (chain, signing),
        (chain, signing) => return Err(chain.err().into_iter().chain(signing.err()).collect()),
    };
    let certified = CertifiedKey::new(chain, signing);
    let stranger = |_| vec![bad(key, format!("it is not the key of {}", cert.display()))];
    certified.keys_match().map_err(stranger)?;
    Ok((certified, names))
}

/// What an authority says of a certificate, and where that stands.
fn load_staple(path: &Path, key: &CertifiedKey) -> Result<(Staple, PathBuf), CertificateError> {
    let read = read(path).and_then(|der| Staple::read(der, &key.cert));
    let path = path.to_owned();
    match read {
        Ok(staple) => Ok((staple, path)),
        Err(why) => Err(CertificateError { path, why }),
    }
}

/// An answer that is shown, now or later. Of one that never will be is told.
fn shown((staple, path): &(Staple, PathBuf)) -> Option<Staple> {
    let now = clock::latest_wall().0;
    if let Some(why) = staple.lacks(now) {
        tracing::warn!(path = %path.display(), why, "an OCSP answer is not shown");
    }
    Some(staple.clone()).filter(|staple| staple.is_good && now < staple.until)
}

/// A file. What cannot be read is told in words.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| pem_reason(&rustls::pki_types::pem::Error::Io(error)))
}

/// A chain, the leaf first, and the names that the leaf is for.
type Chain = (Vec<CertificateDer<'static>>, Vec<String>);

fn chain_of(pem: &[u8]) -> Result<Chain, String> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| pem_reason(&error))?;
    let leaf = chain.first().ok_or("there is no certificate in it")?;
    ParsedCertificate::try_from(leaf).map_err(|error| format!("it is no certificate: {error}"))?;
    let names = dns_names(leaf);
    Ok((chain, names))
}

fn key_of(pem: &[u8]) -> Result<Arc<dyn SigningKey>, String> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
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

/// What TLS towards clients is made of: TLS 1.2 and 1.3, suites with authenticated encryption and forward secrecy alone, and
/// a key exchange first that a quantum computer does not undo.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> = std::sync::LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        let hybrid = aws_lc_rs::kx_group::X25519MLKEM768;
        provider.kx_groups.retain(|group| group.name() != hybrid.name());
        provider.kx_groups.insert(0, hybrid);
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

fn ground() -> rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert> {
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has the default protocol versions")
        .with_no_client_auth()
}

/// Stands in terms for the certificate that they get.
#[derive(Debug)]
struct NoneYet;

impl rustls::server::ResolvesServerCert for NoneYet {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// What connections to certificates with this rule have in common. A session that was begun under one rule is not gone on with
/// under another: neither its ticket nor its number is known there.
fn terms_of(rule: Option<&ClientRule>, tickets: &Tickets) -> ServerConfig {
    let mut config = match rule {
        None => ground().with_cert_resolver(Arc::new(NoneYet)),
        Some(rule) => ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default protocol versions")
            .with_client_cert_verifier(Arc::clone(&rule.verifier))
            .with_cert_resolver(Arc::new(NoneYet)),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Arc::new(Ticketer::new(tickets, rule.map(|rule| &rule.id)));
    config
}

impl Certificates {
    /// Serves these of files from now on; `None`: no file's.
    pub fn swap(&self, set: Option<CertificateSet>) {
        self.set.store(set.map(|set| Arc::new(set.serving(&self.tickets))));
    }

    /// Asks these for names that no file's certificate is for; `None`: nobody.
    pub fn manage(&self, managed: Option<Arc<Managed>>) {
        self.managed.store(managed);
    }

    /// Seals session tickets by a secret that other nodes have, too. `None`: by one of this process alone.
    pub fn seal_tickets(&self, secret: Option<&[u8]>) {
        self.tickets.set(secret);
    }

    /// A certificate that is managed, from its chain, the leaf first, and its key, both PEM.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn serve(&self, chain: &[u8], key: &[u8]) -> Result<Served, String> {
        let key = CertifiedKey::new(chain_of(chain)?.0, key_of(key)?);
        key.keys_match().map_err(|_| "the key is not the certificate's".to_owned())?;
        Ok(Served::of(Arc::new(key), None, &self.tickets.terms))
    }
}
