//! What a look becomes: the head of the answer, and which bytes follow.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
    IF_RANGE, LAST_MODIFIED, LOCATION, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, StatusCode};
use smallvec::SmallVec;
use tidegate_model::cache::Wall;
use tidegate_model::cache::range::{Asked, Part, asked};
use tidegate_model::fields::Fields;
use tidegate_model::files::condition::{Verdict, verdict};
use tidegate_model::files::name::with_slash;
use tidegate_model::message::{Request, Response};

use super::shelf::{Open, Outcome};

/// What may be asked of a file.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What follows a head.
#[derive(Debug, Default)]
pub(super) enum Content {
    /// Nothing.
    #[default]
    Nothing,
    /// These bytes.
    Bytes(Bytes),
    /// These pieces, of this file.
    Pieces(Box<Open>, SmallVec<[Piece; 1]>),
}

/// A piece of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// What stands between parts.
    Text(Bytes),
    /// A part of the file.
    Part(Part),
}

/// What answers a request that asks for no file; `None`: it asks for one.
pub(super) fn without_file<B>(request: &Request<B>) -> Option<Response<Content>> {
    let status = match *request.method() {
        Method::GET | Method::HEAD => return None,
        Method::OPTIONS => StatusCode::NO_CONTENT,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    let mut response = said(status, request.method());
    response.headers_mut().insert(ALLOW, METHODS);
    Some(response)
}

/// A status with a line of text that says the same.
fn said(status: StatusCode, method: &Method) -> Response<Content> {
    let mut response = Response::new(Content::Nothing);
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        let text = format!("{} {}\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
        response.headers_mut().insert(CONTENT_TYPE, TEXT);
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        *response.body_mut() = content(method, Bytes::from(text));
    }
    response
}

fn content(method: &Method, bytes: Bytes) -> Content {
    if method == Method::HEAD { Content::Nothing } else { Content::Bytes(bytes) }
}

/// Makes an answer of a look. `path` is the client's own; `boundary` stands between parts, and nobody can know it before.
pub(super) fn answer<B>(
    outcome: Outcome,
    request: &Request<B>,
    path: &str,
    now: SystemTime,
    boundary: u64,
) -> Response<Content> {
    let method = request.method();
    match outcome {
        Outcome::File(open) => of_file(open, method, request.headers(), now, boundary),
        Outcome::Slash => {
            let target = HeaderValue::try_from(with_slash(path, request.uri().query()));
            let Ok(target) = target else { return said(StatusCode::NOT_FOUND, method) };
            let mut response = said(StatusCode::PERMANENT_REDIRECT, method);
            response.headers_mut().insert(LOCATION, target);
            response
        }
        Outcome::Denied => said(StatusCode::FORBIDDEN, method),
        Outcome::Missing(_, Some(Open { kind, content: Some(bytes), .. })) => {
            let mut response = Response::new(Content::Nothing);
            *response.status_mut() = StatusCode::NOT_FOUND;
            let fields = response.headers_mut();
            fields.insert(CONTENT_TYPE, value(&kind.content_type()));
            fields.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            fields.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
            *response.body_mut() = content(method, bytes);
            response
        }
        Outcome::Missing(..) => said(StatusCode::NOT_FOUND, method),
    }
}

/// The type is always told: no browser needs to guess.
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

fn of_file(
    open: Open,
    method: &Method,
    request: &Fields,
    now: SystemTime,
    boundary: u64,
) -> Response<Content> {
    let mut response = Response::new(Content::Nothing);
    let fields = response.headers_mut();
    let length = open.stamp.length;
    fields.insert(ETAG, value(&open.stamp.tag(open.coding, now)));
    if let Some(modified) = open.stamp.last_modified(now) {
        fields.insert(LAST_MODIFIED, value(&modified));
    }
    if open.varies {
        fields.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    let wall = Wall::of(now);
    match verdict(request, fields, wall) {
        Verdict::Content => {}
        Verdict::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        Verdict::Failed => return said(StatusCode::PRECONDITION_FAILED, method),
    }
    let kind = value(&open.kind.content_type());
    fields.insert(CONTENT_TYPE, kind.clone());
    fields.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(coding) = open.coding {
        fields.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.token()));
    }
    if request.contains_key(IF_RANGE) {
        // A date is as good as a tag only if it lies back far enough from this one.
        fields.insert(DATE, value(&httpdate::fmt_http_date(now)));
    }
    let (status, pieces) = match asked(method, request, fields, length) {
        Asked::Whole => (StatusCode::OK, SmallVec::from_buf([Piece::Part(Part { from: 0, to: length })])),
        Asked::Nothing => {
            let mut response = said(StatusCode::RANGE_NOT_SATISFIABLE, method);
            response.headers_mut().insert(CONTENT_RANGE, value(&format!("bytes */{length}")));
            return response;
        }
        Asked::Parts(parts) => {
            (StatusCode::PARTIAL_CONTENT, in_parts(&parts, fields, &kind, length, boundary))
        }
    };
    fields.insert(CONTENT_LENGTH, HeaderValue::from(pieces.iter().map(Piece::len).sum::<u64>()));
    *response.status_mut() = status;
    if method != Method::HEAD {
        *response.body_mut() = of_pieces(open, pieces);
    }
    response
}

/// What was read already is not read again.
fn of_pieces(open: Open, pieces: SmallVec<[Piece; 1]>) -> Content {
    match (open.content.as_ref(), pieces.as_slice()) {
        (Some(bytes), [Piece::Part(part)]) => {
            Content::Bytes(bytes.slice(part.from as usize..part.to as usize))
        }
        (_, [Piece::Part(part)]) if part.is_empty() => Content::Nothing,
        _ => Content::Pieces(Box::new(open), pieces),
    }
}

/// One part, or several with their heads (RFC 9110 section 14.6).
fn in_parts(
    parts: &[Part],
    fields: &mut Fields,
    kind: &HeaderValue,
    length: u64,
    boundary: u64,
) -> SmallVec<[Piece; 1]> {
    if let [part] = parts {
        fields.insert(CONTENT_RANGE, value(&part.content_range(length)));
        return SmallVec::from_buf([Piece::Part(*part)]);
    }
    let boundary = format!("tidegate-{boundary:016x}");
    let kind = kind.to_str().unwrap_or_default();
    let mut pieces = SmallVec::new();
    for part in parts {
        let range = part.content_range(length);
        let head = format!("\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {range}\r\n\r\n");
        pieces.extend([Piece::Text(Bytes::from(head)), Piece::Part(*part)]);
    }
    pieces.push(Piece::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    fields.insert(CONTENT_TYPE, value(&format!("multipart/byteranges; boundary={boundary}")));
    pieces
}

impl Piece {
    /// How many bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Piece::Text(text) => text.len() as u64,
            Piece::Part(part) => part.len(),
        }
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("types, tags, dates and numbers are ASCII")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_model::coding::Coding;
    use tidegate_model::files::stamp::{Moment, Stamp};

    use super::super::kind::Kind;
    use super::*;
    use tidegate_model::fields::Value;

    const TAG: &str = "\"15180.0-a\"";

    /// A file of ten bytes that were read at once.
    fn open() -> Open {
        let moment = Moment { seconds: 86_400, nanos: 0 };
        let file = std::sync::Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        Open {
            file,
            stamp: Stamp { length: 10, modified: moment, changed: moment },
            kind: Kind::of(Some("txt")),
            coding: None,
            varies: true,
            what: "the file",
            may_be_kept: true,
            content: Some(Bytes::from_static(b"0123456789")),
        }
    }

    fn ask(method: Method, fields: &[(&str, &str)], outcome: Outcome) -> Response<Content> {
        let mut request = http::Request::builder().method(method).uri("/docs?q=1");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        answer(outcome, &request.body(()).unwrap().into(), "/docs", now, 7)
    }

    /// The status, the content, and these fields.
    fn check(fields: &[(&str, &str)], status: u16, body: &str, expected: &[(&str, &str)]) {
        let response = ask(Method::GET, fields, Outcome::File(open()));
        assert_eq!(response.status().as_u16(), status, "{fields:?}");
        for (name, value) in expected {
            let told = response.headers().get(*name).map_or("", |value| value.to_str().unwrap());
            assert_eq!(told, *value, "{name} for {fields:?}");
        }
        let bytes = match response.into_body() {
            Content::Nothing => Bytes::new(),
            Content::Bytes(bytes) => bytes,
            Content::Pieces(open, pieces) => pieces
                .iter()
                .flat_map(|piece| match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Part(part) => {
                        open.content.as_ref().unwrap().slice(part.from as usize..part.to as usize)
                    }
                })
                .collect(),
        };
        assert_eq!(bytes, body, "{fields:?}");
    }

    #[test]
    fn a_file_is_told_with_all_that_a_client_needs_to_ask_again() {
        check(
            &[],
            200,
            "0123456789",
            &[
                ("etag", TAG),
                ("last-modified", "Fri, 02 Jan 1970 00:00:00 GMT"),
                ("content-type", "text/plain; charset=utf-8"),
                ("content-length", "10"),
                ("accept-ranges", "bytes"),
                ("vary", "accept-encoding"),
                ("x-content-type-options", "nosniff"),
                ("content-encoding", ""),
            ],
        );
        let coded = Open { coding: Some(Coding::Brotli), ..open() };
        let response = ask(Method::GET, &[], Outcome::File(coded));
        assert_eq!(response.headers().get(CONTENT_ENCODING).unwrap(), "br");
        assert_eq!(response.headers().get(ETAG).unwrap(), "\"15180.0-a-br\"");
    }

    #[test]
    fn conditions_and_ranges_are_asked_in_their_order() {
        check(
            &[("if-none-match", TAG), ("range", "bytes=0-1")],
            304,
            "",
            &[("etag", TAG), ("vary", "accept-encoding")],
        );
        check(&[("if-match", "\"x\"")], 412, "412 Precondition Failed\n", &[]);
        check(
            &[("range", "bytes=3-6")],
            206,
            "3456",
            &[("content-range", "bytes 3-6/10"), ("content-length", "4")],
        );
        check(&[("range", "bytes=-3")], 206, "789", &[("content-range", "bytes 7-9/10")]);
        check(
            &[("range", "bytes=10-")],
            416,
            "416 Range Not Satisfiable\n",
            &[("content-range", "bytes */10")],
        );
        check(&[("range", "bytes=0-1"), ("if-range", TAG)], 206, "01", &[]);
        check(&[("range", "bytes=0-1"), ("if-range", "\"x\"")], 200, "0123456789", &[]);
        check(&[("range", "bytes=0-1"), ("if-range", "Fri, 02 Jan 1970 00:00:00 GMT")], 206, "01", &[]);
        check(&[("range", "lines=0-1")], 200, "0123456789", &[]);
    }

    #[test]
    fn section_14_6_several_parts_are_told_apart() {
        let part = |range: &str, bytes: &str| {
            format!(
                "\r\n--tidegate-0000000000000007\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes {range}/10\r\n\r\n{bytes}"
            )
        };
        let body = format!("{}{}\r\n--tidegate-0000000000000007--\r\n", part("0-0", "0"), part("8-9", "89"));
        let kind = "multipart/byteranges; boundary=tidegate-0000000000000007";
        let length = body.len().to_string();
        check(
            &[("range", "bytes=0-0,-2")],
            206,
            &body,
            &[("content-type", kind), ("content-length", &length)],
        );
    }

    #[test]
    fn other_methods_and_other_ends() {
        let head = ask(Method::HEAD, &[], Outcome::File(open()));
        assert_eq!(head.headers().get(CONTENT_LENGTH).unwrap(), "10");
        assert!(matches!(head.body(), Content::Nothing));
        let slash = ask(Method::GET, &[], Outcome::Slash);
        assert_eq!(
            (slash.status().as_u16(), slash.headers().get(LOCATION).unwrap()),
            (308, Value::from(&HeaderValue::from_static("./docs/?q=1")))
        );
        assert_eq!(ask(Method::GET, &[], Outcome::Denied).status(), StatusCode::FORBIDDEN);
        let missing = ask(Method::GET, &[], Outcome::Missing("why", None));
        assert!(matches!(missing.body(), Content::Bytes(bytes) if bytes == "404 Not Found\n"));
        let page = ask(Method::GET, &[], Outcome::Missing("why", Some(open())));
        assert_eq!((page.status(), page.headers().get(ETAG)), (StatusCode::NOT_FOUND, None));
        for (method, status) in [(Method::POST, 405), (Method::DELETE, 405), (Method::OPTIONS, 204)] {
            let request = http::Request::builder().method(method).body(()).unwrap().into();
            let response = without_file(&request).unwrap();
            assert_eq!(
                (response.status().as_u16(), response.headers().get(ALLOW).unwrap()),
                (status, Value::from(&METHODS))
            );
        }
    }
}
