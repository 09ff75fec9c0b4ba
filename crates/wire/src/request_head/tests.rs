use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::request_body::{Next, RequestBody};

const LIMITS: HeadLimits = HeadLimits { count: 10, bytes: 1024 };

/// What is read of a connection's bytes.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// What the requests say, and the bytes of their bodies.
    requests: Vec<(String, Vec<u8>)>,
    trailers: Vec<String>,
    /// Why nothing follows.
    violation: Option<Violation>,
    /// Whether it ended within a request.
    within: bool,
}

/// Reads requests out of pieces.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let (mut read, mut heads, mut body) = (BytesMut::new(), HeadReader::new(LIMITS), RequestBody::Ended);
    let mut seen = Seen::default();
    for piece in pieces {
        read.extend_from_slice(piece);
        match advance(&mut read, &mut heads, &mut body, &mut seen) {
            Ok(()) => {}
            Err(violation) => {
                seen.violation = Some(violation);
                break;
            }
        }
    }
    let within = heads.has_begun(&read) || !matches!(body, RequestBody::Ended);
    seen.within = within && seen.violation.is_none();
    seen
}

fn advance(
    read: &mut BytesMut,
    heads: &mut HeadReader,
    body: &mut RequestBody,
    seen: &mut Seen,
) -> Result<(), Violation> {
    loop {
        match body.take(read, LIMITS)? {
            Next::Data(data) => seen.requests.last_mut().unwrap().1.extend_from_slice(&data),
            Next::Trailers(trailers) => seen.trailers.push(format!("{trailers:?}")),
            Next::More => return Ok(()),
            Next::End => {
                let Some(end) = heads.read(read)? else { return Ok(()) };
                let facts = heads.facts();
                let request = heads.take(&read.split_to(end).freeze(), ())?;
                *body = RequestBody::of(&facts);
                seen.requests.push((format!("{request:?} {facts:?}"), Vec::new()));
            }
        }
    }
}

/// The code of the first violation.
fn check(bytes: &str) -> Option<&'static str> {
    read([bytes.as_bytes()]).violation.map(|violation| violation.kind.code)
}

fn code(bytes: &str) -> &'static str {
    check(bytes).unwrap_or("passed")
}

/// A GET with these field lines after its Host.
fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

#[test]
fn passes_one_well_formed_request_after_another() {
    for good in [
        get(""),
        get("").repeat(3),
        format!("\r\n{}", get("")),
        get("X: \tvalue with \u{e9} \t"),
        "POST /a?b=c HTTP/1.1\r\nhOsT: a:80\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n".into(),
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.0\r\n\r\n".into(),
        "GET http://A.example/x HTTP/1.1\r\nHost: a.EXAMPLE\r\n\r\n".into(),
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(),
    ] {
        assert_eq!(check(&good), None, "{good:?}");
    }
}

#[test]
fn refuses_ambiguous_framing() {
    let post = |fields: &str, body: &str| code(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}"));
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
    ] {
        let refused = post(fields, "");
        assert!(["request.framing", "request.malformed"].contains(&refused), "{fields:?}: {refused}");
    }
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "+5\r\n",
        " 5\r\n",
        "5 \r\n",
        "0x5\r\n",
        "\r\n",
        "-1\r\n",
        "5;a\nb\r\n",
        "fffffffffffffffff\r\n",
        "5\r\nhelloX\r\n",
        "5\r\nhello\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
    ] {
        let refused = post("Transfer-Encoding: chunked\r\n", body);
        assert!(["request.framing", "request.malformed"].contains(&refused), "{body:?}: {refused}");
    }
    assert_eq!(code("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), "request.framing");
}

#[test]
fn refuses_lines_that_two_readers_could_read_differently() {
    for bad in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a\r\n\n".into(),
        get("X: a\rb\r\n"),
        get("X: a\0b\r\n"),
        get(" folded\r\n"),
        get("\tfolded\r\n"),
        get("X : a\r\n"),
        get(": a\r\n"),
        get("X(: a\r\n"),
        get("no colon\r\n"),
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(),
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(),
        "GET / http/1.1\r\nHost: a\r\n\r\n".into(),
        "GET /\r\n\r\n".into(),
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(),
    ] {
        assert_eq!(code(&bad), "request.malformed", "{bad:?}");
    }
    assert_eq!(code("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), "request.method");
}

#[test]
fn demands_exactly_one_valid_host() {
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(code(bad), "request.host", "{bad:?}");
    }
}

#[test]
fn bounds_heads() {
    assert_eq!(code(&get(&"X: y\r\n".repeat(10))), "request.headers-too-large");
    assert_eq!(code(&get(&format!("X: {}\r\n", "y".repeat(2000)))), "request.headers-too-large");
    assert_eq!(code(&format!("GET /{}", "y".repeat(2000))), "request.headers-too-large");
    assert_eq!(code(&get(&"X: y\r\n".repeat(9)).repeat(5)), "passed");
}

#[test]
fn requests_before_a_bad_one_are_read() {
    let seen = read([format!("{}{}BAD\r\n", get(""), get("X: y\r\n")).as_bytes()]);
    assert_eq!(
        (seen.requests.len(), seen.violation.map(|bad| bad.kind.code)),
        (2, Some("request.malformed"))
    );
}

#[test]
fn tells_what_a_head_says_of_its_connection() {
    let facts = |head: &str| {
        let mut reader = HeadReader::new(LIMITS);
        let bytes = Bytes::from(head.to_owned());
        assert_eq!(reader.read(&bytes).unwrap(), Some(bytes.len()), "{head:?}");
        reader.facts()
    };
    let keeps = |version: &str, field: &str| {
        facts(&format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n")).keeps()
    };
    for (version, field, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: x, Close\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        assert_eq!(keeps(version, field), expected, "{version} {field:?}");
    }
    let asked = facts(&get("Upgrade: x\r\nExpect: 100-Continue\r\nTE: gzip, trailers\r\n"));
    assert!(asked.upgrade && asked.expects && asked.trailers);
    let old = facts("GET / HTTP/1.0\r\nUpgrade: x\r\nExpect: 100-continue\r\n\r\n");
    assert!(!old.upgrade && !old.expects, "HTTP/1.0 has neither");
}

#[test]
fn the_fields_of_a_request_are_what_was_sent() {
    let mut reader = HeadReader::new(LIMITS);
    let head = Bytes::from("PUT /a?b HTTP/1.1\r\nHost: A:80\r\nX-Y:  v w \t\r\nx-y:\r\nZ: \u{e9}\r\n\r\n");
    assert_eq!(reader.read(&head).unwrap(), Some(head.len()));
    let request = reader.take(&head, ()).unwrap();
    assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::PUT, "/a?b"));
    let fields: Vec<_> =
        request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(
        fields,
        [("host", b"A:80".as_slice()), ("x-y", b"v w"), ("x-y", b""), ("z", "\u{e9}".as_bytes())]
    );
}

#[test]
fn a_head_that_comes_byte_by_byte_is_searched_once() {
    let mut reader = HeadReader::new(HeadLimits { bytes: 100_000, ..LIMITS });
    let head = get(&format!("X: {}\r\n", "y".repeat(50_000)));
    for end in 0..head.len() {
        assert_eq!(reader.read(&head.as_bytes()[..end]), Ok(None));
        assert_eq!(reader.seen, end, "what was searched is not searched again");
    }
    assert_eq!(reader.read(head.as_bytes()), Ok(Some(head.len())));
}

#[test]
fn a_byte_may_stand_where_its_class_says() {
    for byte in 0..=u8::MAX {
        let common = byte == b'!' || (byte > b'#' && byte < 0x7f && !matches!(byte, b'<' | b'>'));
        assert_eq!(is_target(&[b'/', b'?', byte]), common, "{byte:#x} in a query");
        assert_eq!(is_target(&[b'/', byte]), byte == b'"' || (common && byte != b'`'), "{byte:#x} in a path");
        let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        assert_eq!(run(&[byte], TOKEN) == 1, token, "{byte:#x} in a token");
    }
}

#[test]
fn a_name_is_told_in_any_case_from_every_other_token() {
    let name = b"content-length";
    for byte in (0..=u8::MAX).filter(|&byte| token_length(&[byte]) == 1) {
        for at in 0..name.len() {
            let mut other = *name;
            other[at] = byte;
            assert_eq!(is_named(&other, name), other.eq_ignore_ascii_case(name), "{}", other.escape_ascii());
        }
    }
    assert!(is_named(b"TE", b"te") && !is_named(b"te", b"t") && !is_named(b"t", b"te"));
}

#[test]
fn an_authority_is_a_host_and_perhaps_a_port() {
    let long = "a".repeat(255);
    for good in [
        "a",
        "a.b-c_d",
        "a:",
        "a:80",
        "a:65535",
        "127.0.0.1:8080",
        "[::1]",
        "[::ffff:1.2.3.4]:80",
        "[]",
        &long,
    ] {
        assert!(is_authority(good.as_bytes()), "{good:?}");
    }
    let longer = "a".repeat(256);
    for bad in [
        "", ":80", "a:123456", "a:8x", "a:80:80", "a b", "u@a", "a/", "[::1", "::1]", "[::1]80", "[g]",
        "[]]", &longer,
    ] {
        assert!(!is_authority(bad.as_bytes()), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_verdict(
        pieces in proptest::collection::vec(prop_oneof![
            Just("GET / HTTP/1.1\r\n"), Just("Host: a\r\n"), Just("\r\n"), Just("\n"), Just("Content-Length: 3\r\n"), Just("abc"),
            Just("Transfer-Encoding: chunked\r\n"), Just("3\r\nabc\r\n"), Just("0\r\n"), Just("X: y\r\n"), Just(" "), Just("\r"),
            Just("Connection: close\r\n"), Just("0\r\nX: y\r\n\r\n"),
            Just("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ], 0..12),
        cuts in proptest::collection::vec(1usize..20, 0..60),
    ) {
        let bytes = pieces.concat();
        let mut parts = Vec::new();
        let mut rest = bytes.as_bytes();
        for cut in cuts {
            let (part, after) = rest.split_at(cut.min(rest.len()));
            parts.push(part);
            rest = after;
        }
        parts.push(rest);
        prop_assert_eq!(read(parts), read([bytes.as_bytes()]));
    }

    #[test]
    fn whatever_target_passes_is_one_for_whom_the_bytes_are_handed_to(target in "[ -~]{0,12}") {
        let target = format!("/{target}");
        if code(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")) == "passed" {
            let read = http::Uri::try_from(&target);
            prop_assert!(read.is_ok_and(|uri| uri == target.as_str()), "{}", target);
        }
    }

    #[test]
    fn eight_bytes_at_once_are_what_they_are_one_by_one(word in any::<[u8; 8]>(), byte in any::<u8>(), at in 0usize..8) {
        let mut word = word.map(|byte| byte | 0x20);
        word[at] = byte;
        prop_assert_eq!(is_field_value(&word), word.iter().all(|&byte| is_value(byte)));
        let twice = [word, word].concat();
        let length = twice.iter().position(|&byte| !is_value(byte)).unwrap_or(16);
        prop_assert_eq!(value_length(&twice), length);
        prop_assert_eq!(value_length(&twice[..11]), length.min(11));
        prop_assert!(!is_word_of_values(word) || word.iter().all(|&byte| is_value(byte)));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read([bytes.as_slice()]);
    }
}
