//! What the listeners and connections are told: resolved settings, every limit with its unit and default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One address to listen on.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSettings {
    /// The address. Port 0 lets the kernel choose; the chosen one is reported.
    pub address: SocketAddr,
    /// Whether connections begin with TLS.
    pub tls: bool,
    /// Whether connections begin with a PROXY protocol header (v1 or v2); one without is then closed.
    pub proxy_protocol: bool,
    /// What connections are held to.
    pub limits: Arc<ConnectionLimits>,
}

/// What an inbound connection is held to. Every limit is a maximum; what crosses it is refused or closed.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionLimits {
    /// Connections at once, over all listeners and cores of the process.
    pub connections: usize,
    /// Connections of one client address at once. `None`: as many as it likes, while there is room.
    pub connections_per_address: Option<usize>,
    /// Header fields of one request.
    pub header_count: usize,
    /// Bytes of one request's head, request line included.
    pub header_bytes: usize,
    /// From the first byte of a request's head (or the accept) to its last: total, not per read.
    pub header_time: Duration,
    /// PROXY protocol header and TLS handshake together: total.
    pub handshake_time: Duration,
    /// A kept-alive connection without a request.
    pub idle: Duration,
    /// A body, either way, that makes no progress.
    pub body_idle: Duration,
    /// Bytes per second that a request body must keep up on average once `body_grace` is over; 0: none.
    pub body_rate_min: u64,
    /// How long a request body may be slower than `body_rate_min` at its beginning.
    pub body_grace: Duration,
    /// Bytes of one request body.
    pub body_bytes: u64,
    /// Requests on one connection; then it is closed after the response (HTTP/2: GOAWAY).
    pub requests: u64,
    /// An upgraded connection (WebSocket) in which neither side sends.
    pub tunnel_idle: Duration,
    /// HTTP/2 streams at once on one connection.
    pub h2_streams: u32,
    /// HTTP/2 streams reset by the peer and not yet accepted, then GOAWAY (rapid reset).
    pub h2_resets_pending: usize,
    /// HTTP/2 streams reset because the peer broke the protocol, then GOAWAY.
    pub h2_resets_local: usize,
    /// HTTP/2 requests that the client gave up before they were answered, less those that were answered; then GOAWAY.
    pub h2_resets: u32,
    /// An HTTP/2 connection on which nothing came for so long is asked whether its client is there.
    pub h2_ping: Duration,
    /// HTTP/2 receive window of a stream, in bytes.
    pub h2_stream_window: u32,
    /// HTTP/2 receive window of a connection, in bytes.
    pub h2_connection_window: u32,
    /// HTTP/2 bytes buffered for sending on one stream.
    pub h2_send_buffer: usize,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits {
            connections: 100_000,
            connections_per_address: None,
            header_count: 100,
            header_bytes: 32 * 1024,
            header_time: Duration::from_secs(10),
            handshake_time: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_idle: Duration::from_secs(30),
            body_rate_min: 0,
            body_grace: Duration::from_secs(10),
            body_bytes: 1 << 30,
            requests: 100_000,
            tunnel_idle: Duration::from_secs(3600),
            h2_streams: 100,
            h2_resets_pending: 20,
            h2_resets_local: 256,
            h2_resets: 200,
            h2_ping: Duration::from_secs(30),
            h2_stream_window: 256 * 1024,
            h2_connection_window: 1024 * 1024,
            h2_send_buffer: 256 * 1024,
        }
    }
}

/// A certificate and its key, as PEM files, served to whom asks for one of its names (SNI); the first one
/// is served to whom asks for no known name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// What the authority says of the certificate (OCSP, DER); shown as long as it holds.
    pub ocsp: Option<PathBuf>,
    /// What is wanted of clients that ask for its names; `None`: no certificate.
    pub client: Option<ClientCertificates>,
}

/// Which certificates of clients are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM file of the authorities that may vouch for them.
    pub ca: PathBuf,
    /// Whether a client without one is refused.
    pub required: bool,
    /// SHA-256 of the public keys (SubjectPublicKeyInfo) that they may have; empty: any.
    pub pins: Vec<[u8; 32]>,
    /// PEM file of lists of those that are revoked.
    pub crl: Option<PathBuf>,
}

/// How to speak to an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge, or by ALPN where there is TLS.
    H2,
    /// What ALPN chose; HTTP/1.1 without TLS.
    Auto,
}

/// TLS to an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsSettings {
    /// The name to ask for and to verify; else the endpoint's host name or address.
    pub server_name: Option<String>,
    /// PEM file of the authorities to trust; else the system's.
    pub ca: Option<PathBuf>,
    /// Accept any certificate. For tests and for networks that are trusted anyway.
    pub insecure: bool,
    /// The certificate to show, and its key, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// SHA-256 of the public keys (SubjectPublicKeyInfo) that the server may have; empty: any.
    pub pins: Vec<[u8; 32]>,
}
