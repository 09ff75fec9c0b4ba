//! A WebSocket to a server that speaks HTTP/2 (RFC 8441): the Upgrade that an exchange asks for becomes an extended CONNECT,
//! and the server's 2xx the 101 that it stands for. So whoever forwards Upgrades forwards these too.
//!
//! A server says in its SETTINGS whether it takes them; one that does not must not be asked. Any other Upgrade HTTP/2 has no
//! form for (RFC 9113 section 8.6): the request goes without it, as a server may decline it anyway.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Method, StatusCode};
use http_body::Body as _;
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tidegate_model::message::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Http1;
use crate::body::Body;
use crate::websocket::accept_of;

/// What a WebSocket over HTTP/1.1 would answer to the client that asks for one.
pub(super) struct Accept(HeaderValue);

/// Whether a request asks for a WebSocket. One with a body does not: it would be read as the first frames.
#[must_use]
pub fn is_websocket(request: &Request<Body>) -> bool {
    let fields = request.headers();
    let named = fields.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    named
        && *request.method() == Method::GET
        && fields.contains_key(SEC_WEBSOCKET_KEY)
        && request.body().is_end_stream()
}

/// Makes the extended CONNECT of a request that asks for a WebSocket ([`is_websocket`]). `None`: it has no key.
pub(super) fn ask(request: &mut http::Request<Body>) -> Option<Accept> {
    let key = request.headers_mut().remove(SEC_WEBSOCKET_KEY)?;
    let accept = HeaderValue::try_from(accept_of(key.as_bytes())).ok()?;
    for name in [CONNECTION, UPGRADE, CONTENT_LENGTH] {
        request.headers_mut().remove(name);
    }
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    Some(Accept(accept))
}

/// The stream of a CONNECT that was granted. `None`: it was not, and is an ordinary answer.
///
/// # Errors
/// The stream had ended before it could be used.
pub(super) async fn granted(
    response: &mut http::Response<hyper::body::Incoming>,
) -> Result<Option<Upgraded>, hyper::Error> {
    match response.status() {
        StatusCode::OK => hyper::upgrade::on(response).await.map(Some),
        _ => Ok(None),
    }
}

impl Accept {
    /// Makes of a granted CONNECT the 101 that it stands for.
    pub(super) fn tell<B>(self, response: &mut Response<B>) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.0);
    }
}

/// The bytes of an Upgrade that a server has granted, both ways. Dropped, it ends the connection or the stream.
#[derive(Debug)]
pub enum Tunnel {
    /// The whole connection.
    Http1(Box<Http1>),
    /// A stream of a connection that others use, too.
    Http2(Box<TokioIo<Upgraded>>),
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Tunnel::Http1(io) => Pin::new(io).poll_read(context, buffer),
            Tunnel::Http2(io) => Pin::new(io).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match &mut *self {
            Tunnel::Http1(io) => Pin::new(io).poll_write(context, bytes),
            Tunnel::Http2(io) => Pin::new(io).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Tunnel::Http1(io) => Pin::new(io).poll_flush(context),
            Tunnel::Http2(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Tunnel::Http1(io) => Pin::new(io).poll_shutdown(context),
            Tunnel::Http2(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, upgrade: &str, key: Option<&str>, body: &'static str) -> bool {
        let request = || {
            let request = http::Request::builder().method(method).uri("https://a/chat");
            let request = request.header("upgrade", upgrade).header("sec-websocket-version", "13");
            let keyed = key.iter().fold(request, |request, key| request.header("sec-websocket-key", *key));
            keyed.body(Body::full(body)).unwrap()
        };
        if !is_websocket(&request().into()) {
            return false;
        }
        let mut request = request();
        let Some(Accept(accept)) = ask(&mut request) else { return false };
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!((request.method(), request.uri().path()), (&Method::CONNECT, "/chat"));
        assert!(request.extensions().get::<Protocol>().is_some());
        let names: Vec<_> = request.headers().keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["sec-websocket-version"]);
        true
    }

    #[test]
    fn only_what_asks_for_a_websocket_becomes_an_extended_connect() {
        let key = Some("dGhlIHNhbXBsZSBub25jZQ==");
        assert!(check("GET", "websocket", key, "") && check("GET", "WebSocket", key, ""));
        for (method, upgrade, key, body) in [
            ("POST", "websocket", key, ""),
            ("GET", "echo", key, ""),
            ("GET", "websocket", None, ""),
            ("GET", "websocket", key, "frame"),
        ] {
            assert!(!check(method, upgrade, key, body), "{method} {upgrade} {key:?} {body}");
        }
    }
}
