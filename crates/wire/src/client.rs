//! Connections to endpoints: TCP, TLS, HTTP/1.1 and HTTP/2.
//!
//! HTTP/1.1 is ours ([`Http1`]): whoever sends a request drives its connection. HTTP/2 is hyper's, driven by a task of
//! this core. Either says after a failure whether anything had been sent: what was not sent may be tried again
//! whatever its method (RFC 9110 section 9.2.2).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::EXPECT;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use tidegate_model::fields::Fields;
use tidegate_model::headers;
use tidegate_model::message::{Request, Response};
use tidegate_model::own::TryFields;
use tidegate_model::tick::Tick;

use crate::body::{Body, BoxError, is_cut};
use crate::client_tls::ClientTls;
use crate::clock;
use crate::settings::Protocol;
use crate::task::{self, LocalExecutor};

mod greeting;
mod http1;
mod websocket;

pub use greeting::StreamLimit;
use greeting::{First, Greeted};
pub use http1::Http1;
use http1::Io;
pub use http1::response;
use response::HEAD_BYTES_MAX;
#[cfg(test)]
use response::HEADERS_MAX;
pub use websocket::{Tunnel, is_websocket};

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
    /// One request at a time. The response's body holds the connection until it has ended: [`Reply::into_sender`].
    Http1(Box<Http1>),
    /// Many at once, up to the server's limit.
    Http2(http2::SendRequest<Body>, StreamLimit),
}

/// A response's body.
#[derive(Debug)]
pub enum Reply {
    /// It holds its connection.
    Http1(Box<Http1>),
    /// A stream of a connection that others use, too.
    Http2(Incoming),
    /// The same, and a WebSocket is granted on it.
    WebSocket(Box<TokioIo<hyper::upgrade::Upgraded>>),
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct SendError {
    /// Whether something of the request may have been sent. If not, the request is as it was.
    pub sent: bool,
    /// What happened.
    pub kind: SendErrorKind,
    /// Why.
    #[source]
    pub source: Option<BoxError>,
}

impl SendError {
    fn new(kind: SendErrorKind, source: Option<BoxError>) -> SendError {
        SendError { sent: true, kind, source }
    }
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
    /// There was no response in time.
    #[error("no response came in time")]
    Late,
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
            Protocol::Http1 | Protocol::Auto => Ok(Sender::Http1(Http1::new(Io::Plain(stream)))),
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
        (false, _) => Ok(Sender::Http1(Http1::new(Io::Tls(Box::new(stream))))),
    }
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
    /// Whether no request can be sent any more.
    #[must_use]
    pub fn is_closed(&mut self) -> bool {
        match self {
            Sender::Http1(connection) => connection.is_closed(),
            Sender::Http2(sender, _) => sender.is_closed(),
        }
    }

    /// Whether a request may be sent at once.
    #[must_use]
    pub fn is_ready(&mut self) -> bool {
        match self {
            Sender::Http1(connection) => !connection.is_closed(),
            Sender::Http2(sender, _) => sender.is_ready(),
        }
    }

    /// Whether it speaks HTTP/2: requests need an absolute target then (RFC 9113 section 8.3.1).
    #[must_use]
    pub fn is_http2(&self) -> bool {
        matches!(self, Sender::Http2(..))
    }

    /// Whether a WebSocket may be asked for: HTTP/2 servers say so.
    #[must_use]
    pub fn takes_websockets(&self) -> bool {
        match self {
            Sender::Http1(_) => true,
            Sender::Http2(_, limit) => limit.takes_websockets(),
        }
    }

    /// How many requests may be under way at once; what is sent beyond that waits.
    #[must_use]
    pub fn streams_max(&self) -> usize {
        match self {
            Sender::Http1(_) => 1,
            Sender::Http2(_, limit) => limit.get(),
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

    /// Sends a request that has nothing beside its fields: [`Sender::forward`].
    ///
    /// # Errors
    /// [`SendError`]: what happened, and whether anything was sent.
    pub async fn send(self, request: &mut Request<Body>, by: Tick) -> Result<Response<Reply>, SendError> {
        self.forward(request, &TryFields::default(), Hearing::default(), by).await
    }

    /// Sends a request, with `own` beside its fields, and waits until `by` for the response's head, without the fields that belong to the connection
    /// alone (only an Upgrade that is granted keeps its own). The request's head stays; its body is taken, unless
    /// nothing was sent.
    ///
    /// # Errors
    /// [`SendError`]: what happened, and whether anything was sent.
    pub async fn forward(
        self,
        request: &mut Request<Body>,
        own: &TryFields<'_>,
        hearing: Hearing<'_>,
        by: Tick,
    ) -> Result<Response<Reply>, SendError> {
        match self {
            Sender::Http1(mut connection) => {
                let response = connection.send(request, own, hearing, by).await?;
                Ok(response.map(|()| Reply::Http1(connection)))
            }
            // In memory of its own: what HTTP/1.1 takes would be as large.
            Sender::Http2(sender, _) => Box::pin(send_http2(sender, request, own, by)).await,
        }
    }
}

/// Hears an interim response: what it says, and its fields without those of the connection.
pub type Hear<'a> = dyn Fn(&mut Context<'_>, StatusCode, Fields) + 'a;

/// Who hears interim responses, but for 100, if anybody does. hyper's HTTP/2 tells none of them.
#[derive(Clone, Copy, Default)]
pub struct Hearing<'a>(pub Option<&'a Hear<'a>>);

impl Hearing<'_> {
    fn hear(&self, context: &mut Context<'_>, status: StatusCode, fields: Fields) {
        if let Some(hear) = self.0 {
            hear(context, status, fields);
        }
    }
}

impl std::fmt::Debug for Hearing<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Hearing({})", self.0.is_some())
    }
}

async fn send_http2(
    mut sender: http2::SendRequest<Body>,
    request: &mut Request<Body>,
    own: &TryFields<'_>,
    by: Tick,
) -> Result<Response<Reply>, SendError> {
    let mut fields = request.headers().clone();
    // hyper hears no interim responses there: the client is told to go on by us.
    fields.remove(EXPECT);
    own.put(&mut fields);
    let websocket = is_websocket(request);
    let mut whole = http::Request::new(std::mem::take(request.body_mut()));
    *whole.method_mut() = request.method().clone();
    *whole.uri_mut() = request.uri().clone();
    *whole.version_mut() = request.version();
    *whole.headers_mut() = fields.into_map();
    let asked = if websocket { websocket::ask(&mut whole) } else { None };
    let Ok(sent) = clock::timeout_at(by, sender.try_send_request(whole)).await else {
        return Err(SendError::new(SendErrorKind::Late, None));
    };
    let mut response = sent.map_err(|mut error| {
        let unsent = error.take_message();
        let sent = unsent.is_none();
        if let Some(unsent) = unsent {
            *request.body_mut() = unsent.into_body();
        }
        let source = error.into_error();
        SendError { sent, kind: kind(&source), source: Some(source.into()) }
    })?;
    let lost = |error: hyper::Error| SendError::new(SendErrorKind::Closed, Some(error.into()));
    let granted = match asked {
        None => None,
        Some(accept) => websocket::granted(&mut response).await.map_err(lost)?.map(|stream| (accept, stream)),
    };
    let mut response = Response::from(response);
    headers::strip_response(response.headers_mut());
    Ok(match granted {
        None => response.map(Reply::Http2),
        Some((accept, stream)) => {
            accept.tell(&mut response);
            response.map(|_| Reply::WebSocket(Box::new(TokioIo::new(stream))))
        }
    })
}

impl Reply {
    /// The connection, if it may be used again now. HTTP/2's never left.
    #[must_use]
    pub fn into_sender(self) -> Option<Sender> {
        match self {
            Reply::Http1(mut connection) if connection.is_reusable() => {
                connection.shrink();
                Some(Sender::Http1(connection))
            }
            Reply::Http1(_) | Reply::Http2(_) | Reply::WebSocket(_) => None,
        }
    }

    /// All of the body, where it has come with the head and the request is sent: most answers are short. The response has
    /// ended then.
    #[must_use]
    pub fn take_whole(&mut self) -> Option<Bytes> {
        match self {
            Reply::Http1(connection) => connection.take_whole(),
            Reply::Http2(body) => body.is_end_stream().then(Bytes::new),
            Reply::WebSocket(_) => None,
        }
    }

    /// The connection or stream, if the server has granted an Upgrade: it carries bytes both ways now.
    ///
    /// # Errors
    /// The reply, if it has not.
    pub fn into_tunnel(self) -> Result<Tunnel, Reply> {
        match self {
            Reply::Http1(connection) if connection.is_tunnel() => Ok(Tunnel::Http1(connection)),
            Reply::WebSocket(stream) => Ok(Tunnel::Http2(stream)),
            other => Err(other),
        }
    }

    /// Whether the request is still being sent while its response is there already. Someone has to go on with
    /// [`Reply::poll_sent`] then, whether the response is read or not.
    #[must_use]
    pub fn is_uploading(&self) -> bool {
        matches!(self, Reply::Http1(connection) if connection.is_uploading())
    }

    /// Sends what there is of the request. Ready once all of it is sent, or cannot be.
    pub fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Reply::Http1(connection) => connection.poll_sent(context),
            Reply::Http2(_) | Reply::WebSocket(_) => Poll::Ready(()),
        }
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Reply::Http1(connection) => connection.poll_frame(context),
            Reply::WebSocket(_) => Poll::Ready(None),
            Reply::Http2(body) => match ready!(Pin::new(&mut *body).poll_frame(context)) {
                None if is_cut(body) => Poll::Ready(Some(Err("the server reset the stream".into()))),
                frame => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Http1(connection) => connection.left() == Some(0),
            Reply::Http2(body) => body.is_end_stream(),
            Reply::WebSocket(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Http1(connection) => connection.left().map_or_else(SizeHint::new, SizeHint::with_exact),
            Reply::Http2(body) => body.size_hint(),
            Reply::WebSocket(_) => SizeHint::with_exact(0),
        }
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
