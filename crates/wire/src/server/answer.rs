//! The head of an answer over HTTP/1.1, as it is written. Pure, but for the date.
//!
//! Only the body itself tells how it is framed: what the handler says of that is not written on, but where there is no
//! body, in answers to HEAD and in 304.

use bytes::Bytes;
use http::StatusCode;
use http_body::Body as HttpBody;
use tidegate_model::fields::Value;
use tidegate_model::message::{Response, ResponseHead};

use crate::date;
use crate::outgoing::{Framing, field};

/// What the client is told besides what the handler says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// It speaks HTTP/1.0.
    pub http10: bool,
    /// The request was HEAD.
    pub is_head: bool,
    /// Whether the connection outlives the answer.
    pub keep: bool,
}

/// Whether the handler wants the connection to end.
fn closes(connection: Value<'_>) -> bool {
    let mut options = connection.as_bytes().split(|&byte| byte == b',');
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Whether an answer with this status has a body (RFC 9110 section 6.4.1).
fn has_body(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// How the client knows where the answer ends.
pub(super) fn framing<B: HttpBody<Data = Bytes>>(
    response: &Response<B>,
    http10: bool,
    is_head: bool,
) -> Framing {
    if is_head || !has_body(response.status()) || response.body().is_end_stream() {
        return Framing::None;
    }
    match response.body().size_hint().exact() {
        Some(length) => Framing::Length(length),
        None if http10 => Framing::Close,
        None => Framing::Chunked,
    }
}

/// Writes the head. Tells whether the connection outlives the answer: the handler may not want that.
pub(super) fn write_head(out: &mut Vec<u8>, head: &ResponseHead, framing: Framing, mut told: Told) -> bool {
    let status = head.status;
    out.extend_from_slice(if told.http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    if status == StatusCode::OK {
        out.extend_from_slice(b"200 OK\r\n");
    } else {
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    // What there would be for somebody else.
    let would_be = told.is_head && !status.is_informational() || status == StatusCode::NOT_MODIFIED;
    let mut dated = false;
    head.headers.write(out, |name, value| match name.as_bytes() {
        b"content-length" => would_be,
        b"transfer-encoding" => false,
        b"connection" => {
            told.keep &= !closes(value);
            switched
        }
        b"date" => {
            dated = true;
            true
        }
        _ => true,
    });
    if !dated && !switched {
        field(out, "date", &date::now());
    }
    framing.write(out, has_body(status) && !told.is_head);
    match (told.keep, told.http10) {
        _ if switched => {}
        (false, _) => out.extend_from_slice(b"connection: close\r\n"),
        (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (true, false) => {}
    }
    out.extend_from_slice(b"\r\n");
    told.keep
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    const KEPT: Told = Told { http10: false, is_head: false, keep: true };

    /// The head of an answer with this status and these fields, whose body is `body`.
    fn check(status: u16, fields: &[(&str, &str)], body: &'static str, told: Told, expected: &str) {
        let mut response = http::Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let response = response.header("date", "then").body(Full::new(Bytes::from(body))).unwrap();
        let response = Response::from(response);
        let framing = framing(&response, told.http10, told.is_head);
        let mut out = Vec::new();
        let kept = write_head(&mut out, &response.into_parts().0, framing, told);
        assert_eq!(kept, !expected.contains("connection: close"));
        assert_eq!(String::from_utf8(out).unwrap().replace("date: then\r\n", ""), expected);
    }

    #[test]
    fn the_body_alone_tells_how_it_is_framed() {
        let lies = [("content-length", "7"), ("transfer-encoding", "chunked"), ("x", "y")];
        check(200, &lies, "abc", KEPT, "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 3\r\n\r\n");
        check(200, &lies, "", KEPT, "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 0\r\n\r\n");
        check(204, &lies, "abc", KEPT, "HTTP/1.1 204 No Content\r\nx: y\r\n\r\n");
        check(304, &lies, "", KEPT, "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\nx: y\r\n\r\n");
        let head = Told { is_head: true, ..KEPT };
        check(200, &lies, "", head, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nx: y\r\n\r\n");
        check(200, &[], "", head, "HTTP/1.1 200 OK\r\n\r\n");
        check(299, &[], "", KEPT, "HTTP/1.1 299 \r\ncontent-length: 0\r\n\r\n");
    }

    #[test]
    fn the_connection_is_told_of_by_us() {
        let last = Told { keep: false, ..KEPT };
        let fields = [("connection", "keep-alive, x")];
        check(200, &fields, "", last, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        check(200, &fields, "", KEPT, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let old = Told { http10: true, ..KEPT };
        check(200, &[], "", old, "HTTP/1.0 200 OK\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n");
        let upgrade = [("connection", "upgrade"), ("upgrade", "x")];
        let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        check(101, &upgrade, "", KEPT, switched);
        let ending = [("connection", "x, Close")];
        check(200, &ending, "", KEPT, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        assert!(!closes(Value::from(&http::HeaderValue::from_static("closed"))));
    }
}
