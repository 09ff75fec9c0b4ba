//! Connections to endpoints: TCP, TLS, HTTP/1.1 and HTTP/2, one hyper connection each, driven by a task of this core.
//!
//! A [`Sender`] says after a failure whether anything had been sent: what was not sent may be tried again whatever
//! its method (RFC 9110 section 9.2.2).

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use crate::body::{Body, Incoming};
use crate::client_tls::ClientTls;
use crate::settings::Protocol;
use crate::task::{self, LocalExecutor};

mod greeting;

pub use greeting::StreamLimit;
use greeting::{First, Greeted};

/// The most header fields of a response.
const HEADERS_MAX: usize = 128;
/// The most bytes of a response's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// HTTP/2 receive windows, in bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// An HTTP/2 connection on which streams wait, and nothing has come for this long, is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(10);
/// How long it may take to answer; then it is closed, and its streams fail.
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// Where to connect, and how to speak there.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// TLS, if it is spoken there.
    pub tls: Option<Arc<ClientTls>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP failed.
    #[error("cannot connect to {0}")]
    Tcp(SocketAddr, #[source] io::Error),
    /// TLS failed.
    #[error("TLS with {0} failed")]
    Tls(SocketAddr, #[source] io::Error),
    /// HTTP/2's preface failed, or ALPN did not offer it.
    #[error("HTTP with {0} failed")]
    Http(SocketAddr, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A connection to send requests on.
#[derive(Debug)]
pub enum Sender {
    /// One request at a time.
    Http1(http1::SendRequest<Body>),
    /// Many at once, up to the server's limit.
    Http2(http2::SendRequest<Body>, StreamLimit),
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    /// The request, if nothing of it was sent.
    pub request: Option<Box<Request<Body>>>,
    /// What happened.
    pub kind: SendErrorKind,
    /// What hyper says.
    #[source]
    pub source: hyper::Error,
}

/// What ended a request early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendErrorKind {
    /// The peer closed or reset the connection.
    #[error("the connection was closed")]
    Closed,
    /// An HTTP/2 peer refused the stream: it did nothing with it.
    #[error("the stream was refused")]
    Refused,
    /// The answer was not HTTP.
    #[error("the response is malformed")]
    Protocol,
    /// The request's own body failed.
    #[error("the request's body failed")]
    Body,
}

/// Connects. The caller bounds it in time.
///
/// # Errors
/// [`ConnectError`]: what failed, and where.
pub async fn connect(target: &Target) -> Result<Sender, ConnectError> {
    let address = target.address;
    let stream = TcpStream::connect(address).await.map_err(|error| ConnectError::Tcp(address, error))?;
    stream.set_nodelay(true).map_err(|error| ConnectError::Tcp(address, error))?;
    let Some(tls) = &target.tls else {
        return match target.protocol {
            Protocol::H2 => http2(address, stream).await,
            Protocol::Http1 | Protocol::Auto => http1(address, TokioIo::new(stream)).await,
        };
    };
    let name = tls.name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
    let connector = TlsConnector::from(Arc::clone(tls.config(target.protocol)));
    let stream = connector.connect(name, stream).await.map_err(|error| ConnectError::Tls(address, error))?;
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    match (h2, target.protocol) {
        (true, _) => http2(address, stream).await,
        (false, Protocol::H2) => {
            Err(ConnectError::Http(address, "the endpoint does not offer HTTP/2 (ALPN)".into()))
        }
        (false, _) => http1(address, TokioIo::new(stream)).await,
    }
}

async fn http1<I>(address: SocketAddr, io: I) -> Result<Sender, ConnectError>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .handshake(io)
        .await
        .map_err(|error| ConnectError::Http(address, error.into()))?;
    task::spawn(async move {
        // Whoever waits for a response is told; without one there is nobody to tell.
        if let Err(error) = connection.with_upgrades().await {
            tracing::trace!(%address, %error, "connection ended");
        }
    });
    Ok(Sender::Http1(sender))
}

/// Ready when the server has sent its SETTINGS, which come first (RFC 9113 section 3.4): then it does speak HTTP/2, and
/// how many streams it takes is known.
async fn http2<I>(address: SocketAddr, stream: I) -> Result<Sender, ConnectError>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let first = Rc::<First>::default();
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_WITHIN)
        .handshake(TokioIo::new(Greeted::new(stream, &first)))
        .await
        .map_err(|error| ConnectError::Http(address, error.into()))?;
    let limit = StreamLimit::default();
    let (greeted, greeting) = oneshot::channel();
    let driven = greeting::drive(connection, first, limit.clone(), greeted);
    task::spawn(async move {
        if let Err(error) = driven.await {
            tracing::trace!(%address, %error, "connection ended");
        }
    });
    let silent = |_| ConnectError::Http(address, "it ended before the server's SETTINGS".into());
    greeting.await.map_err(silent)?;
    Ok(Sender::Http2(sender, limit))
}

impl Sender {
    /// Whether a request may be sent at once.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender, _) => sender.is_ready(),
        }
    }

    /// Whether no request can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match self {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender, _) => sender.is_closed(),
        }
    }

    /// Whether it speaks HTTP/2: requests need an absolute target then (RFC 9113 section 8.3.1).
    #[must_use]
    pub fn is_http2(&self) -> bool {
        matches!(self, Sender::Http2(..))
    }

    /// How many requests may be under way at once; what is sent beyond that waits.
    #[must_use]
    pub fn streams_max(&self) -> usize {
        match self {
            Sender::Http1(_) => 1,
            Sender::Http2(_, limit) => limit.get(),
        }
    }

    /// Waits until a request may be sent.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn ready(&mut self) -> Result<(), hyper::Error> {
        match self {
            Sender::Http1(sender) => sender.ready().await,
            Sender::Http2(sender, _) => sender.ready().await,
        }
    }

    /// Another handle on an HTTP/2 connection; HTTP/1.1 has only one.
    #[must_use]
    pub fn try_clone(&self) -> Option<Sender> {
        match self {
            Sender::Http1(_) => None,
            Sender::Http2(sender, limit) => Some(Sender::Http2(sender.clone(), limit.clone())),
        }
    }

    /// Sends a request and waits for the response's head.
    ///
    /// # Errors
    /// [`SendError`], with the request where nothing of it was sent.
    pub async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let sent = match self {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender, _) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| {
            let request = error.take_message().map(Box::new);
            let source = error.into_error();
            SendError { request, kind: kind(&source), source }
        })
    }
}

/// What hyper's error means for whoever may try again.
fn kind(error: &hyper::Error) -> SendErrorKind {
    let h2 = h2_cause(error);
    if h2.is_some_and(is_refusal) {
        SendErrorKind::Refused
    } else if error.is_parse() || h2.is_some_and(h2::Error::is_library) {
        SendErrorKind::Protocol
    } else if error.is_user() || h2.is_some_and(is_ours) {
        SendErrorKind::Body
    } else {
        SendErrorKind::Closed
    }
}

fn h2_cause(error: &hyper::Error) -> Option<&h2::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return Some(h2);
        }
        cause = error.source();
    }
    None
}

/// hyper resets a stream whose request body has failed.
fn is_ours(h2: &h2::Error) -> bool {
    h2.is_reset() && !h2.is_remote() && !h2.is_library()
}

/// RFC 9113 section 8.7: `REFUSED_STREAM`, and a stream above GOAWAY's last id, were not processed.
fn is_refusal(h2: &h2::Error) -> bool {
    h2.reason() == Some(h2::Reason::REFUSED_STREAM)
        || (h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR))
}

#[cfg(test)]
mod tests;
