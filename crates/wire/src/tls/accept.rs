//! The handshake: what the client says first tells which certificate it is shown.

use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ACME_TLS, Certificates, Served, TlsClient};

/// The alert that says that there is no certificate for the name that was asked for (RFC 6066 section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A connection that has begun.
pub(crate) struct Accepted {
    pub(crate) stream: TlsStream<TcpStream>,
    /// What is known of the client, where it may show a certificate.
    pub(crate) client: Option<Arc<TlsClient>>,
}

/// Shakes hands. `None`: nothing comes after it: a certificate authority has looked whether a name is ours.
///
/// # Errors
/// The handshake failed, or there is no certificate for the name.
pub(crate) async fn accept(certificates: &Certificates, stream: TcpStream) -> io::Result<Option<Accepted>> {
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let hello = start.client_hello();
    let name = hello.server_name().map(str::to_ascii_lowercase);
    let is_challenge = hello.alpn().is_some_and(|mut offered| {
        offered.next().is_some_and(|first| first == ACME_TLS) && offered.next().is_none()
    });
    let chosen = match (&name, is_challenge) {
        (Some(name), true) => certificates.challenge(name).await,
        (None, true) => None,
        (name, false) => certificates.choose(name.as_deref()).await,
    };
    let Some(chosen) = chosen else {
        let _ = start.io.write_all(&UNRECOGNIZED_NAME).await;
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no certificate for this name"));
    };
    let mut stream = start.into_stream(Arc::clone(&chosen.config)).await?;
    if is_challenge {
        let _ = stream.shutdown().await;
        return Ok(None);
    }
    let shown = |rule| Arc::new(TlsClient::new(rule, stream.get_ref().1.peer_certificates()));
    let client = chosen.rule.as_deref().map(shown);
    Ok(Some(Accepted { stream, client }))
}

impl Certificates {
    /// The certificate for a name: a file's, one that is managed, or the first file's.
    async fn choose(&self, name: Option<&str>) -> Option<Arc<Served>> {
        let first = {
            let set = self.set.load();
            if let (Some(set), Some(name)) = (&*set, name)
                && let Some(found) = set.find(name)
            {
                return Some(Arc::clone(found));
            }
            set.as_ref().map(|set| Arc::clone(&set.first))
        };
        if let (Some(managed), Some(name)) = (self.managed.load_full(), name)
            && let Some(found) = Box::pin(managed.find(name)).await
        {
            return Some(found);
        }
        first
    }

    async fn challenge(&self, name: &str) -> Option<Arc<Served>> {
        let managed = self.managed.load_full()?;
        Box::pin(managed.challenge(name)).await.map(Arc::new)
    }
}
