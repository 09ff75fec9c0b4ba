//! A client of TLS that keeps its sessions, and tells how each handshake went.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

pub use rustls::NamedGroup as Group;
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::{SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use crate::connect;
use crate::tls::AcceptAny;

/// What a client is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Able {
    /// TLS 1.3, with early data where the server takes it.
    Tls13,
    /// TLS 1.2, by tickets.
    Tickets12,
    /// TLS 1.2, by sessions' numbers alone.
    Numbers12,
}

/// Such a client.
pub struct Sessions {
    config: Arc<ClientConfig>,
    able: Able,
}

/// How a handshake went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaken {
    /// It goes on with a session that there was.
    pub resumed: bool,
    /// It took one turn more than it need have.
    pub retried: bool,
    /// The group that the keys come from.
    pub group: Option<String>,
    /// The server would take data with the client's first words.
    pub early: bool,
    /// The certificate that was shown, in this handshake or when the session was begun.
    pub shown: Vec<u8>,
    /// The OCSP answer that was shown with it; empty: none, or the session is gone on with.
    pub stapled: Vec<u8>,
}

impl Sessions {
    /// A client without any yet.
    #[must_use]
    pub fn new(able: Able) -> Sessions {
        Sessions::with(able, aws_lc_rs::DEFAULT_KX_GROUPS.to_vec())
    }

    /// One of TLS 1.3 that knows these groups, and guesses the first.
    ///
    /// # Panics
    /// For a group that nobody knows.
    #[must_use]
    pub fn of_groups(groups: &[Group]) -> Sessions {
        let known = |group: &Group| {
            let all = aws_lc_rs::ALL_KX_GROUPS.iter();
            *all.clone().find(|one| one.name() == *group).expect("a group that is known")
        };
        Sessions::with(Able::Tls13, groups.iter().map(known).collect())
    }

    fn with(able: Able, kx_groups: Vec<&'static dyn SupportedKxGroup>) -> Sessions {
        let provider = rustls::crypto::CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
        let version = if able == Able::Tls13 { &TLS13 } else { &TLS12 };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .expect("the provider has the version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny))
            .with_no_client_auth();
        config.enable_early_data = true;
        let way = if able == Able::Numbers12 {
            Tls12Resumption::SessionIdOnly
        } else {
            Tls12Resumption::SessionIdOrTickets
        };
        config.resumption = Resumption::in_memory_sessions(64).tls12_resumption(way);
        Sessions { config: Arc::new(config), able }
    }

    /// Shakes hands and asks for `/`, so that what is told behind the handshake is heard.
    ///
    /// # Errors
    /// The handshake, or the request.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn visit(&self, address: SocketAddr, name: &str) -> std::io::Result<Shaken> {
        let server = ServerName::try_from(name.to_owned()).expect("a server's name");
        let mut connection =
            ClientConnection::new(Arc::clone(&self.config), server).expect("settings that fit");
        let early = self.able == Able::Tls13 && connection.early_data().is_some();
        let mut stream = StreamOwned::new(connection, connect(address));
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let kind = stream.conn.handshake_kind();
        let certificates = stream.conn.peer_certificates().unwrap_or_default();
        Ok(Shaken {
            resumed: kind == Some(HandshakeKind::Resumed),
            retried: kind == Some(HandshakeKind::FullWithHelloRetryRequest),
            group: stream.conn.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
            early,
            shown: certificates.first().map(|one| one.to_vec()).unwrap_or_default(),
            stapled: STAPLED.take(),
        })
    }
}

thread_local! {
    /// What the last handshake on this thread was shown with a certificate.
    pub(crate) static STAPLED: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}
