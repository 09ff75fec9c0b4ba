//! An application server behind TLS: HTTP/2 or HTTP/1.1, as the client and it agree.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use crate::beside;

/// An application server behind TLS. It answers with the protocol that was agreed on (`h2`, `http/1.1`).
pub struct TlsOrigin {
    /// Where it listens.
    pub address: SocketAddr,
}

impl TlsOrigin {
    /// Starts a server with a certificate and its key in these files; it offers these protocols.
    ///
    /// # Panics
    /// If they cannot be used, or there is no free port.
    #[must_use]
    pub fn start(cert: &Path, key: &Path, protocols: &[&str]) -> TlsOrigin {
        TlsOrigin::start_with(cert, key, protocols, "http/1.1")
    }

    /// Starts a server with a certificate and its key in these files, which says this over HTTP/1.1.
    ///
    /// # Panics
    /// If they cannot be used, or there is no free port.
    #[must_use]
    pub fn saying(cert: &Path, key: &Path, said: &str) -> TlsOrigin {
        TlsOrigin::start_with(cert, key, &["http/1.1"], said)
    }

    /// Starts a server that wants to be shown a certificate of one of these authorities, and says this over HTTP/1.1.
    ///
    /// # Panics
    /// If the files cannot be used, or there is no free port.
    #[must_use]
    pub fn demanding(cert: &Path, key: &Path, authorities: &Path, said: &str) -> TlsOrigin {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(authorities).expect("a certificate");
        roots.add(authority).expect("it can be an authority");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let verifier = verifier.expect("there is an authority");
        TlsOrigin::start_as(cert, key, &["http/1.1"], said, |builder| {
            builder.with_client_cert_verifier(verifier)
        })
    }

    fn start_with(cert: &Path, key: &Path, protocols: &[&str], said: &str) -> TlsOrigin {
        TlsOrigin::start_as(cert, key, protocols, said, |builder| builder.with_no_client_auth())
    }

    fn start_as(
        cert: &Path,
        key: &Path,
        protocols: &[&str],
        said: &str,
        clients: impl FnOnce(
            ConfigBuilder<ServerConfig, WantsVerifier>,
        ) -> ConfigBuilder<ServerConfig, WantsServerCert>,
    ) -> TlsOrigin {
        let answer: Arc<str> =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len()).into();
        let certificate = CertificateDer::from_pem_file(cert).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default protocol versions");
        let mut config =
            clients(builder).with_single_cert(vec![certificate], key).expect("a certificate with its key");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket can be told");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(accept(
                listener,
                TlsAcceptor::from(Arc::new(config)),
                answer,
            ));
        });
        TlsOrigin { address }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, answer: Arc<str>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
        beside(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => serve_h2(stream).await,
                _ => serve_http1(stream, &answer).await,
            }
        });
    }
}

type Stream = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

async fn serve_h2(stream: Stream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let response = http::Response::builder().header("content-length", "2").body(()).expect("a response");
        if let Ok(mut body) = respond.send_response(response, false) {
            let _ = body.send_data(Bytes::from_static(b"h2"), true);
        }
    }
}

async fn serve_http1(mut stream: Stream, answer: &str) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
