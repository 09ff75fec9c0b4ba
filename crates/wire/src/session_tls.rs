//! TLS of a connection that is no HTTP: to a database.
//!
//! Whom to trust is told as for an upstream; what is spoken above it is somebody else's. No protocol is named in the
//! handshake but the one that is asked for: a server that knows others refuses those it does not.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::client_tls::{self, ClientTlsError};
use crate::settings::ClientTlsSettings;

/// A stream within TLS.
pub type SessionStream<S> = tokio_rustls::client::TlsStream<S>;

/// How TLS is spoken to a server.
#[derive(Clone, Debug)]
pub struct SessionTls {
    config: Arc<ClientConfig>,
    name: Option<String>,
}

impl SessionTls {
    /// TLS as configured, for this protocol.
    ///
    /// # Errors
    /// A file of authorities that cannot be used.
    pub fn new(settings: &ClientTlsSettings, protocol: &[u8]) -> Result<SessionTls, ClientTlsError> {
        let mut config = client_tls::config(settings)?;
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(SessionTls { config: Arc::new(config), name: settings.server_name.clone() })
    }

    /// Speaks it over a connection to this host.
    ///
    /// # Errors
    /// Whatever the handshake fails with.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        host: &str,
        stream: S,
    ) -> io::Result<SessionStream<S>> {
        let name = self.name.as_deref().unwrap_or(host).to_owned();
        let name =
            ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        TlsConnector::from(self.config).connect(name, stream).await
    }
}
