//! A WebSocket over HTTP/2 (RFC 8441), told to the handler as the HTTP/1.1 Upgrade that it stands for (RFC 6455).
//!
//! The client's extended CONNECT becomes a GET with `Connection`, `Upgrade` and a `Sec-WebSocket-Key` of our own; the
//! handler's 101 becomes a 200. So whoever forwards Upgrades forwards these too, to upstreams that speak HTTP/1.1. As
//! the one who asked, we also check the answer: a wrong `Sec-WebSocket-Accept`, or a success that changes no protocol,
//! is no WebSocket.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::ext::Protocol;
use tidegate_model::refusal::{REQUEST_METHOD, Refusal, SERVER_INTERNAL, UPSTREAM_PROTOCOL};

/// What a server adds to the key (RFC 6455 section 1.3).
const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A WebSocket that was asked for over HTTP/2.
pub(crate) struct Opening {
    accept: String,
}

/// Makes of an extended CONNECT the GET that it stands for. `None`: the request is an ordinary one.
///
/// # Errors
/// Another protocol than WebSocket is asked for.
pub(crate) fn translate<B>(request: &mut Request<B>) -> Result<Option<Opening>, Refusal> {
    let Some(protocol) = request.extensions_mut().remove::<Protocol>() else { return Ok(None) };
    if !protocol.as_str().eq_ignore_ascii_case("websocket") {
        return Err(Refusal::new(&REQUEST_METHOD, "Of extended CONNECT only WebSocket is supported."));
    }
    let mut key = [0; 16];
    rand::fill(&mut key).map_err(|_| Refusal::new(&SERVER_INTERNAL, "The system has no random bytes."))?;
    let key = BASE64_STANDARD.encode(key);
    let accept = accept_of(key.as_bytes());
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    headers.extend(HeaderValue::try_from(key).ok().map(|key| (SEC_WEBSOCKET_KEY, key)));
    Ok(Some(Opening { accept }))
}

impl Opening {
    /// Makes of the answer to the GET the one to the CONNECT.
    ///
    /// # Errors
    /// It is a success, and no WebSocket.
    pub(crate) fn answer<B>(&self, response: &mut Response<B>) -> Result<(), Refusal> {
        if response.status().is_success() {
            return Err(Refusal::new(&UPSTREAM_PROTOCOL, "The upstream did not open a WebSocket."));
        }
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let headers = response.headers_mut();
        let accepted = headers.remove(SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accepted| accepted.as_bytes() != self.accept.as_bytes()) {
            return Err(Refusal::new(&UPSTREAM_PROTOCOL, "The upstream did not accept the WebSocket's key."));
        }
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
        headers.remove(CONTENT_LENGTH);
        *response.status_mut() = StatusCode::OK;
        Ok(())
    }
}

/// What a server that speaks WebSocket answers to a key.
pub(crate) fn accept_of(key: &[u8]) -> String {
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, SALT].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(protocol: &'static str) -> Request<()> {
        let mut request = Request::connect("https://a/chat").header("content-length", "0").body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static(protocol));
        request
    }

    /// What becomes of an answer with this status, and these bytes for `Sec-WebSocket-Accept`.
    fn check(status: u16, accept: impl Fn(&Opening) -> String) -> Result<u16, &'static str> {
        let opening = translate(&mut asked("websocket")).unwrap().expect("it is asked for");
        let response = Response::builder().status(status).header("sec-websocket-accept", accept(&opening));
        let mut response = response.header("upgrade", "websocket").body(()).unwrap();
        let answered = opening.answer(&mut response);
        answered.map(|()| response.status().as_u16()).map_err(|refusal| refusal.kind.code)
    }

    #[test]
    fn answers_a_key_as_the_rfc_does() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_extended_connect_becomes_an_upgrade_with_a_key_of_its_own() {
        let (mut one, mut two) = (asked("websocket"), asked("WebSocket"));
        for request in [&mut one, &mut two] {
            assert!(translate(request).unwrap().is_some());
            assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/chat"));
            assert_eq!(request.headers()["upgrade"], "websocket");
            assert!(!request.headers().contains_key("content-length"));
        }
        assert_ne!(one.headers()["sec-websocket-key"], two.headers()["sec-websocket-key"]);
        assert_eq!(
            translate(&mut asked("connect-udp")).err().map(|refusal| refusal.kind.code),
            Some("request.method")
        );
        assert!(translate(&mut Request::new(())).unwrap().is_none());
    }

    #[test]
    fn only_a_change_of_protocol_with_the_right_answer_is_a_websocket() {
        assert_eq!(check(101, |opening| opening.accept.clone()), Ok(200));
        assert_eq!(check(101, |_| accept_of(b"another")), Err("upstream.protocol"));
        assert_eq!(check(200, |opening| opening.accept.clone()), Err("upstream.protocol"));
        assert_eq!(check(403, |_| String::new()), Ok(403));
    }
}
