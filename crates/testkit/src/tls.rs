//! Certificates, and a client that tells which one it was shown.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme, StreamOwned,
};

use crate::connect;

/// A client's side of TLS.
pub type TlsClient = StreamOwned<ClientConnection, TcpStream>;

/// Makes a certificate for these names, and writes it and its key to these files. Its bytes.
///
/// # Panics
/// If it cannot be written.
#[must_use]
pub fn certificate(names: &[&str], cert: &Path, key: &Path) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("names for a certificate");
    std::fs::write(key, made.signing_key.serialize_pem()).expect("the key is written");
    std::fs::write(cert, made.cert.pem()).expect("the certificate is written");
    made.cert.der().to_vec()
}

/// Connects and shakes hands, asking for this name and offering these protocols.
///
/// # Errors
/// The handshake failed.
///
/// # Panics
/// If nobody listens.
pub fn tls_connect(address: SocketAddr, name: &str, alpn: &[&str]) -> std::io::Result<TlsClient> {
    tls_over(connect(address), name, alpn)
}

/// Shakes hands on a connection that is there already.
///
/// # Errors
/// The handshake failed.
///
/// # Panics
/// If the name is none.
pub fn tls_over(stream: TcpStream, name: &str, alpn: &[&str]) -> std::io::Result<TlsClient> {
    shake_hands(config(alpn), stream, name)
}

fn shake_hands(config: Arc<ClientConfig>, stream: TcpStream, name: &str) -> std::io::Result<TlsClient> {
    let name = ServerName::try_from(name.to_owned()).expect("a server's name");
    let connection = ClientConnection::new(config, name).expect("settings that fit");
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// The certificate that the server showed.
///
/// # Panics
/// If it showed none.
#[must_use]
pub fn shown(client: &TlsClient) -> Vec<u8> {
    client.conn.peer_certificates().expect("a server shows a certificate")[0].to_vec()
}

/// Connects and shakes hands for HTTP/2.
///
/// # Panics
/// If the handshake fails, or another protocol is chosen.
pub async fn tls_connect_h2(address: SocketAddr, name: &str) -> crate::H2Client {
    shake_hands_h2(config(&["h2"]), address, name).await
}

async fn shake_hands_h2(config: Arc<ClientConfig>, address: SocketAddr, name: &str) -> crate::H2Client {
    let stream = tokio::net::TcpStream::connect(address).await.expect("the gate listens");
    let name = ServerName::try_from(name.to_owned()).expect("a server's name");
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.expect("the handshake succeeds");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    crate::h2_over(stream).await
}

/// A client that goes on with its sessions, and may have a certificate.
pub struct Visitor(Arc<ClientConfig>);

impl Visitor {
    /// One that offers these protocols and shows the certificate in these files, with its key.
    ///
    /// # Panics
    /// If they cannot be used.
    #[must_use]
    pub fn new(alpn: &[&str], identity: Option<(&Path, &Path)>) -> Visitor {
        let mut config = ClientConfig::clone(&config(alpn));
        if let Some((cert, key)) = identity {
            let chain = CertificateDer::pem_file_iter(cert).expect("certificates");
            let chain = chain.collect::<Result<_, _>>().expect("a certificate each");
            let key = PrivateKeyDer::from_pem_file(key).expect("a key");
            let key = aws_lc_rs::sign::any_supported_type(&key).expect("a usable key");
            let shown = SingleCertAndKey::from(Arc::new(CertifiedKey::new(chain, key)));
            config.client_auth_cert_resolver = Arc::new(shown);
        }
        Visitor(Arc::new(config))
    }

    /// Connects and shakes hands, asking for this name.
    ///
    /// # Errors
    /// The handshake failed.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn connect(&self, address: SocketAddr, name: &str) -> std::io::Result<TlsClient> {
        shake_hands(Arc::clone(&self.0), connect(address), name)
    }

    /// Connects and shakes hands for HTTP/2.
    ///
    /// # Panics
    /// If the handshake fails, or another protocol is chosen.
    pub async fn connect_h2(&self, address: SocketAddr, name: &str) -> crate::H2Client {
        shake_hands_h2(Arc::clone(&self.0), address, name).await
    }

    /// Whether it goes on with a session from before.
    #[must_use]
    pub fn is_resumed(client: &TlsClient) -> bool {
        client.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

fn config(alpn: &[&str]) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the default protocol versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// The test itself looks at what was shown.
#[derive(Debug)]
pub(crate) struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        stapled: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        crate::sessions::STAPLED.set(stapled.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
