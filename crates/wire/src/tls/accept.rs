//! The handshake: what the client says first tells which certificate it is shown.

use std::io;
use std::sync::Arc;

use rustls::server::Acceptor;
use rustls::{CertificateError, Error, HandshakeKind, ServerConnection};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ACME_TLS, Certificates, ClientRule, Served, TlsClient};
use crate::clock;

/// The alert that says that there is no certificate for the name that was asked for (RFC 6066 section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The most bytes of the certificates that a client shows: what a connection holds of them, and a request's head is made of.
const SHOWN_BYTES_MAX: usize = 32 * 1024;

/// A connection that has begun.
pub(crate) struct Accepted {
    pub(crate) stream: TlsStream<TcpStream>,
    /// Who it is, where it has shown a certificate.
    pub(crate) client: Option<Arc<TlsClient>>,
}

/// A connection that came to nothing.
pub(crate) struct Failed {
    /// The name it asked for.
    pub(crate) name: Option<String>,
    pub(crate) error: io::Error,
}

/// Shakes hands. `None`: nothing comes after it: a certificate authority has looked whether a name is ours.
///
/// # Errors
/// The handshake failed, or there is no certificate for the name.
pub(crate) async fn accept(
    certificates: &Certificates,
    stream: TcpStream,
) -> Result<Option<Accepted>, Box<Failed>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
    let mut start = start.map_err(|error| Box::new(Failed { name: None, error }))?;
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
        let error = io::Error::new(io::ErrorKind::NotFound, "there is no certificate for this name");
        return Err(Box::new(Failed { name, error }));
    };
    let mut stream = match start.into_stream(Arc::clone(chosen.config())).await {
        Ok(stream) => stream,
        Err(error) => return Err(Box::new(Failed { name, error })),
    };
    if is_challenge {
        let _ = stream.shutdown().await;
        return Ok(None);
    }
    let client = match &chosen.rule {
        None => None,
        Some(rule) => client(rule, stream.get_ref().1).map_err(|error| {
            Box::new(Failed { name, error: io::Error::new(io::ErrorKind::InvalidData, error) })
        })?,
    };
    Ok(Some(Accepted { stream, client }))
}

/// Who has shaken hands under this rule; `None`: nobody, and nobody need be.
fn client(rule: &ClientRule, session: &ServerConnection) -> Result<Option<Arc<TlsClient>>, Error> {
    let shown = session.peer_certificates().unwrap_or_default();
    if shown.iter().map(|one| one.len()).sum::<usize>() > SHOWN_BYTES_MAX {
        return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
    }
    let shown = shown.iter().map(|one| one.to_vec()).collect();
    let Some(client) = TlsClient::new(rule.id, shown) else { return Ok(None) };
    // What a session is gone on with was looked at when it was begun.
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    if resumed && client.facts.not_after < clock::latest_wall().0 {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(Some(Arc::new(client)))
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
