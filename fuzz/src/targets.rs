//! The targets: each takes any bytes and panics if what must hold does not.
//!
//! They are compiled into the fuzzers, and into the end-to-end tests, which run them over the committed seeds.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, header};
use tidegate::config::Config;
use tidegate_model::address::{AddressSet, Forwarding, Network, X_FORWARDED_FOR, client_address};
use tidegate_model::coding::acceptable;
use tidegate_model::fields::{Fields, Value};
use tidegate_model::files::name::Name;
use tidegate_model::headers::Seen;
use tidegate_model::idempotency::{KEY_BYTES_MAX, Key};
use tidegate_model::webhook::incoming::{ID_BYTES_MAX, Scheme, Source};
use tidegate_model::webhook::reach::{Reach, special};
use tidegate_model::{deadline, host, path};
use tidegate_proxy::settings::{JwtKeys, JwtSettings};
use tidegate_proxy::{Entropy, Verifier, Verifiers, trace};
use tidegate_wire::client::response::{Chunks, Framing, Malformed, Piece, take_head};
use tidegate_wire::proxy_protocol::{HEADER_MAX, Parsed, parse};
use tidegate_wire::request_body::{Next, RequestBody};
use tidegate_wire::request_head::{Facts, HeadLimits, HeadReader};

/// The most bytes of an input: more shows nothing new and costs time.
const INPUT_MAX: usize = 16 * 1024;

/// A client's bytes mean the same for any split of them, and are read only where a naive, strict reader finds one whole
/// request after another, with the same boundaries.
pub fn request(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(INPUT_MAX)];
    let whole = read_requests(&mut std::iter::once(bytes));
    let split = read_requests(&mut in_small_parts(bytes));
    assert_eq!(split, whole, "a split changes what the requests are");
    if let Ok(read) = whole {
        let between = reading::between_requests(bytes).expect("what is read can be read in one way");
        assert_eq!(read.between, between, "it ends where a request ends");
    }
}

/// What was read of a client's bytes.
#[derive(Debug, PartialEq)]
struct Requests {
    heads: Vec<String>,
    bodies: Vec<u8>,
    /// They end between two requests.
    between: bool,
}

/// Reads requests. The error is why not, and how many heads were read before that.
fn read_requests<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) -> Result<Requests, (&'static str, usize)> {
    let limits = HeadLimits { count: 20, bytes: 2048 };
    let (mut read, mut reader, mut body) =
        (BytesMut::new(), HeadReader::new(limits), RequestBody::of(&Facts::default()));
    let mut requests = Requests { heads: Vec::new(), bodies: Vec::new(), between: true };
    loop {
        let step = match body.take(&mut read, limits) {
            Ok(Next::Data(data)) => {
                requests.bodies.extend_from_slice(&data);
                continue;
            }
            Ok(Next::Trailers(_)) => continue,
            Ok(Next::More) => Ok(false),
            Ok(Next::End) => match reader.read(&read) {
                Ok(Some(end)) => {
                    let facts = reader.facts();
                    reader.take(&read.split_to(end).freeze(), ()).map(|request| {
                        requests.heads.push(format!("{request:?} {facts:?}"));
                        body = RequestBody::of(&facts);
                        true
                    })
                }
                Ok(None) => Ok(false),
                Err(violation) => Err(violation),
            },
            Err(violation) => Err(violation),
        };
        match step {
            Ok(true) => continue,
            Ok(false) => match parts.next() {
                Some(part) => read.extend_from_slice(part),
                None => break,
            },
            Err(violation) => return Err((violation.why, requests.heads.len())),
        }
    }
    requests.between = matches!(body, RequestBody::Ended) && !reader.has_begun(&read);
    Ok(requests)
}

/// The same bytes in parts of one byte to seven.
fn in_small_parts(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut step = 0;
    std::iter::from_fn(move || {
        step = step % 7 + 1;
        let (part, after) = rest.split_at(step.min(rest.len()));
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

/// An answer of an upstream means the same for any split of the bytes, and bytes that come after it are never part of it.
pub fn response(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(INPUT_MAX)];
    let whole = read_response(&mut std::iter::once(bytes));
    let mut parts = in_small_parts(bytes);
    let split = read_response(&mut parts);
    let unread: usize = parts.map(<[u8]>::len).sum();
    let split =
        split.map(|read| read.map(|(status, data, trailers, left)| (status, data, trailers, left + unread)));
    assert_eq!(split, whole, "a split changes what the answer is");
}

/// Status, body, trailers and how many bytes were left over.
type Read = (u16, Vec<u8>, usize, usize);

/// Reads one answer. `None`: it has not come whole.
fn read_response<'a>(parts: &mut impl Iterator<Item = &'a [u8]>) -> Result<Option<Read>, &'static str> {
    let (mut read, mut seen) = (BytesMut::new(), 0);
    let head = loop {
        match take_head(&mut read, &mut seen, &Method::GET).map_err(|Malformed(why)| why)? {
            Some(head) => break head,
            None => match parts.next() {
                Some(part) => read.extend_from_slice(part),
                None => return Ok(None),
            },
        }
    };
    let (status, mut data, mut trailers) = (head.status.as_u16(), Vec::new(), 0);
    let mut chunks = Chunks::default();
    loop {
        let more = match head.framing {
            Framing::Length(length) if (read.len() as u64) < length => true,
            Framing::Length(length) => {
                data.extend_from_slice(&read.split_to(length as usize));
                false
            }
            // All that comes is the body.
            Framing::Close => {
                data.extend_from_slice(&read.split());
                true
            }
            Framing::Chunked => match chunks.take(&mut read).map_err(|Malformed(why)| why)? {
                Piece::Data(piece) => {
                    data.extend_from_slice(&piece);
                    continue;
                }
                Piece::Trailers(fields) => {
                    trailers = fields.len();
                    false
                }
                Piece::End => false,
                Piece::More => true,
            },
        };
        if !more {
            return Ok(Some((status, data, trailers, read.len())));
        }
        match parts.next() {
            Some(part) => read.extend_from_slice(part),
            None if head.framing == Framing::Close => return Ok(Some((status, data, trailers, 0))),
            None => return Ok(None),
        }
    }
}

/// A reader of HTTP/1 requests that knows nothing of ours: slow, naive, strict.
mod reading {
    /// Whether the bytes end between two requests. `None`: they are no requests, or could be read in two ways.
    pub fn between_requests(mut rest: &[u8]) -> Option<bool> {
        loop {
            while let Some(after) = rest.strip_prefix(b"\r\n") {
                rest = after;
            }
            if rest.is_empty() {
                return Some(true);
            }
            let Some(end) = find(rest, b"\r\n\r\n") else { return Some(false) };
            // Bytes that are not ASCII mean nothing here.
            let text = |byte: &u8| if byte.is_ascii() { char::from(*byte) } else { 'x' };
            let head: String = rest[..end].iter().map(text).collect();
            rest = &rest[end + 4..];
            let Some(body) = skip_body(&head, rest)? else { return Some(false) };
            rest = body;
        }
    }

    /// What follows the body of this head; `None` inside: it has not come whole.
    fn skip_body<'a>(head: &str, rest: &'a [u8]) -> Option<Option<&'a [u8]>> {
        if head.replace("\r\n", "").contains(['\r', '\n', '\0']) {
            return None;
        }
        let mut lines = head.split("\r\n");
        let version = lines.next()?.rsplit(' ').next()?;
        let fields = lines.map(|line| line.split_once(':')).collect::<Option<Vec<_>>>()?;
        let clean = |name: &str| !name.is_empty() && !name.contains([' ', '\t']);
        if !fields.iter().all(|(name, _)| clean(name)) {
            return None;
        }
        let all = |wanted: &str| -> Vec<&str> {
            let found = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.trim_matches([' ', '\t'])).collect()
        };
        let hosts = all("host").len();
        if hosts > 1 || (hosts == 0 && version != "HTTP/1.0") {
            return None;
        }
        match (all("content-length").as_slice(), all("transfer-encoding").as_slice()) {
            ([], []) => Some(Some(rest)),
            ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(rest.get(length.parse::<usize>().ok()?..))
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") && version != "HTTP/1.0" => {
                skip_chunks(rest)
            }
            _ => None,
        }
    }

    fn skip_chunks(mut rest: &[u8]) -> Option<Option<&[u8]>> {
        loop {
            let Some(end) = find(rest, b"\r\n") else { return Some(None) };
            let line = String::from_utf8_lossy(&rest[..end]);
            let digits = line.split(';').next()?;
            if digits.is_empty()
                || !digits.bytes().all(|byte| byte.is_ascii_hexdigit())
                || line.contains('\n')
            {
                return None;
            }
            let size = usize::from_str_radix(digits, 16).ok()?;
            rest = &rest[end + 2..];
            if size == 0 {
                // Trailers, and the empty line.
                let block = if rest.starts_with(b"\r\n") {
                    Some(2)
                } else {
                    find(rest, b"\r\n\r\n").map(|end| end + 4)
                };
                return Some(block.map(|end| &rest[end..]));
            }
            let Some(after) = rest.get(size..) else { return Some(None) };
            match after {
                [b'\r', b'\n', after @ ..] => rest = after,
                [] | [b'\r'] => return Some(None),
                _ => return None,
            }
        }
    }

    fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
        bytes.windows(wanted.len()).position(|window| window == wanted)
    }
}

/// A header is bounded and whole, what is before its end is its beginning, and what follows it changes nothing.
pub fn proxy_protocol(bytes: &[u8]) {
    let Parsed::Header { length, addresses } = parse(bytes) else { return };
    assert!(length <= bytes.len() && length <= HEADER_MAX, "{length} of {}", bytes.len());
    assert_eq!(parse(&bytes[..length]), Parsed::Header { length, addresses });
    for cut in [0, 1, length / 2, length - 1] {
        assert_eq!(parse(&bytes[..cut]), Parsed::Partial, "{cut} of {length}");
    }
}

/// A path has one form, which no rule can be sidestepped with.
pub fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(one) = path::normalize(text) else { return };
    assert_eq!(path::normalize(&one).as_deref(), Ok(&*one), "the form of {text:?} is no form");
    assert!(&*one == "*" || one.starts_with('/'), "{one:?}");
    assert!(one.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'\\'), "{one:?}");
    assert!(one.split('/').all(|segment| segment != "." && segment != ".."), "{one:?}");
    let target = path::redirect_target("{path}", "a", &one);
    assert!(!target.starts_with("//") && !target.contains(['\r', '\n']), "{target:?} leads elsewhere");
}

/// Whatever a path says, the file that it names lies below the root, and is hidden only if that is wanted. What comes after a
/// line's end is an `Accept-Encoding`.
pub fn file(bytes: &[u8]) {
    let (path, coding) = bytes.split_at(bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len()));
    let codings = acceptable(coding.split(|&byte| byte == b'\n'));
    assert!((1..codings.len()).all(|place| !codings[..place].contains(&codings[place])), "{codings:?}");
    let Ok(path) = std::str::from_utf8(path) else { return };
    let one = path::normalize(path).unwrap_or_else(|_| path.into());
    for (path, hidden) in [(path, true), (&one, false), (&one, true)] {
        let Ok(name) = Name::of(path, hidden) else { continue };
        let segments: Vec<&[u8]> = name.bytes().split(|&byte| byte == b'/').collect();
        assert!(!name.bytes().iter().any(|&byte| matches!(byte, 0..=0x1f | 0x7f | b'\\')), "{name:?}");
        assert!(segments.len() == 1 || !segments.contains(&&b""[..]), "{name:?}");
        assert!(!segments.iter().any(|one| matches!(*one, b"." | b"..")), "{name:?}");
        let shown = segments.iter().skip(usize::from(segments[0] == b".well-known"));
        assert!(hidden || shown.into_iter().all(|one| !one.starts_with(b".")), "{name:?}");
    }
}

/// A host has one form: lower case, bounded, without port.
pub fn host(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(one) = host::normalize(text) else { return };
    assert_eq!(host::normalize(&one).as_deref(), Ok(&*one), "the form of {text:?} is no form");
    assert!(!one.is_empty() && one.len() <= host::HOST_BYTES_MAX, "{one:?}");
    assert!(
        !one.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' ' || b"/?#@%".contains(&byte)),
        "{one:?}"
    );
}

/// Whoever is not trusted is the client, whatever they say; what is told on can be read back.
pub fn forwarded(bytes: &[u8]) {
    static TRUSTED: LazyLock<AddressSet> = LazyLock::new(|| {
        let networks =
            ["10.0.0.0/8", "::1", "fd00::/8"].map(|text| text.parse::<Network>().expect("a network"));
        networks.into_iter().collect()
    });
    let mut headers = Fields::default();
    for line in bytes.split(|&byte| byte == b'\n') {
        let (name, value) = match line.strip_prefix(b"F:") {
            Some(value) => (header::FORWARDED, value),
            None => (X_FORWARDED_FOR, line),
        };
        headers.extend(HeaderValue::from_bytes(value).ok().map(|value| (name, value)));
    }
    let [stranger, proxy] = ["192.0.2.1", "10.0.0.1"].map(|text| text.parse::<IpAddr>().expect("an address"));
    assert_eq!(client_address(stranger, &headers, &TRUSTED), stranger);
    let client = client_address(proxy, &headers, &TRUSTED);
    for peer in [stranger, proxy] {
        let mut told = headers.clone();
        let trusted = TRUSTED.contains(peer);
        let own = Forwarding::new(peer, true)
            .tell(Some(Value::from(&HeaderValue::from_static("a.example"))), trusted.then_some(&headers));
        Seen::of(&told).take_request(&mut told, trusted, false);
        for (name, value) in own.fields() {
            assert!(!told.contains_key(name), "{name} is told twice");
            told.insert(name, value);
        }
        // Whoever trusts us finds the same client, whichever header is read.
        for read in [Some(X_FORWARDED_FOR), None] {
            assert_eq!(
                client_address(proxy, &told, &TRUSTED),
                if trusted { client } else { stranger },
                "{read:?}"
            );
            read.iter().for_each(|name| told.remove(name));
        }
    }
}

/// A configuration is read or refused, and what is refused is told with places that are there.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(&bytes[..bytes.len().min(INPUT_MAX)]) else { return };
    // Files are read as named: not devices.
    if text.contains("/dev") || text.contains("/proc") {
        return;
    }
    match Config::parse(Path::new("fuzz.toml"), text) {
        Ok(config) => assert!(!config.effective.is_empty() && !config.listeners.is_empty()),
        Err(problems) => {
            assert!(problems.count() > 0 && !problems.to_string().is_empty());
            let lines = text.lines().count().max(1);
            for told in problems.told() {
                assert!(told.line.is_none_or(|line| (1..=lines + 1).contains(&line)), "{told:?}");
            }
        }
    }
}

/// A token is taken or refused for what it is, the same each time; only a signature makes a tenant.
pub fn jwt(bytes: &[u8]) {
    static VERIFIER: LazyLock<Arc<Verifier>> = LazyLock::new(|| {
        let keys = JwtKeys::Secret(b"a secret of thirty-two bytes ...".as_slice().into());
        let settings = JwtSettings {
            name: "fuzz".into(),
            keys,
            issuer: None,
            audience: None,
            tenant_claim: "tenant".to_owned(),
            clock_skew: Duration::from_secs(30),
            refresh: Duration::from_secs(300),
        };
        Verifiers::default().of(&Arc::new(settings))
    });
    let Ok(token) = std::str::from_utf8(bytes) else { return };
    let [first, second] = [(); 2].map(|()| VERIFIER.verify(token));
    match (first, second) {
        (Ok(first), Ok(second)) => {
            assert!(first == second && !first.is_empty() && token.split('.').count() == 3)
        }
        (Err(first), Err(second)) => {
            assert_eq!(first.kind.code, second.kind.code);
            assert!(
                ["credential.invalid", "credential.expired"].contains(&first.kind.code),
                "{}",
                first.kind.code
            );
        }
        _ => panic!("the second verdict is another one"),
    }
}

/// What is told on is always one valid `traceparent` with a span of its own.
pub fn traceparent(bytes: &[u8]) {
    let Ok(given) = HeaderValue::from_bytes(bytes) else { return };
    let (parent, state) = (HeaderName::from_static("traceparent"), HeaderName::from_static("tracestate"));
    let mut headers = Fields::default();
    headers.insert(&parent, &given);
    headers.insert(&state, HeaderValue::from_static("vendor=1"));
    let seen = Seen::of(&headers);
    let (told, goes_on) = trace::span(Some(&headers), &Entropy::seeded(bytes.len() as u64));
    seen.take_request(&mut headers, false, goes_on);
    assert!(!headers.contains_key(&parent), "it is told anew");
    let told = std::str::from_utf8(&told).expect("it is text");
    let parts: Vec<&str> = told.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert_eq!(lengths, [2, 32, 16, 2], "{told}");
    assert!(parts.concat().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{told}");
    assert!(
        parts[0] == "00" && [1, 2].iter().all(|&part| parts[part].bytes().any(|digit| digit != b'0')),
        "{told}"
    );
    // The state belongs to the trace.
    let continued = given.as_bytes().get(3..35) == Some(parts[1].as_bytes());
    assert_eq!(headers.contains_key(&state), continued, "{told}");
}

/// A key is a short text of printable characters, and means the same in quotes.
pub fn idempotency_key(bytes: &[u8]) {
    let Ok(key) = Key::parse(bytes) else { return };
    let text = key.as_str();
    assert!((1..=KEY_BYTES_MAX).contains(&text.len()), "{text:?}");
    assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{text:?}");
    let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    assert_eq!(Key::parse(quoted.as_bytes()), Ok(key), "{quoted}");
}

/// A destination's URL leads where its parts say, to a host that is a name or a public address; and means the same when what it
/// leads to is written as a URL again.
pub fn webhook_url(bytes: &[u8]) {
    let Ok(url) = std::str::from_utf8(bytes) else { return };
    let reach = Reach { plaintext: true, ..Reach::default() };
    let Ok(place) = reach.place(url) else { return };
    assert!(!place.authority.contains('@') && place.path.starts_with('/'), "{place:?}");
    assert!(place.port == 80 || place.port == 443 || place.port >= 1024, "{place:?}");
    match place.host.parse::<IpAddr>() {
        Ok(address) => assert!(special(address).is_none(), "{address} is not public"),
        Err(_) => {
            let last = place.host.rsplit('.').next().unwrap_or_default();
            assert!(
                !last.bytes().all(|byte| byte.is_ascii_digit()),
                "{} may be taken for an address",
                place.host
            );
        }
    }
    HeaderValue::from_str(&place.authority).expect("it is a value of Host");
    let scheme = if place.tls { "https" } else { "http" };
    let again = reach.place(&format!("{scheme}://{}{}", place.authority, place.path));
    assert_eq!(again.as_ref(), Ok(&place), "{url:?}");
}

/// The signature of somebody else's webhook is taken or refused, and never taken of who has no key. The first line of the input is the
/// scheme, those up to an empty one are fields, the rest is the body.
pub fn webhook_signature(bytes: &[u8]) {
    const NOW: u64 = 1_000;
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let (scheme, secret) = match lines.next() {
        Some("standard") => (Scheme::Standard, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        Some("stripe") => (Scheme::Stripe, "a secret"),
        Some("github") => (Scheme::Github, "a secret"),
        _ => (Scheme::Slack, "a secret"),
    };
    let mut fields = Fields::default();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            fields.append(&name, &value);
        }
    }
    let verify = |secret: &str, body: &[u8]| {
        Source::new(scheme, &[secret], 300).expect("it is a secret").verify(&fields, body, NOW)
    };
    let other = if scheme == Scheme::Standard { "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" } else { "another" };
    assert!(verify(other, body.as_bytes()).is_err(), "nobody has signed with this one");
    let Ok(genuine) = verify(secret, body.as_bytes()) else { return };
    assert!(!genuine.id.is_empty() && genuine.id.len() <= ID_BYTES_MAX, "{genuine:?}");
    HeaderValue::from_str(&genuine.id).expect("an id is a value");
    assert!(verify(secret, &[body.as_bytes(), b" "].concat()).is_err(), "another body is not signed");
}

/// A deadline is bounded, and what is told on is never later.
pub fn deadline(bytes: &[u8]) {
    const MOST: Duration = Duration::from_secs(99_999_999 * 3600);
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let own = HeaderName::from_static("x-deadline");
    let mut headers = Fields::default();
    headers.insert(deadline::GRPC_TIMEOUT, value.clone());
    headers.insert(&own, value.clone());
    let Some(asked) = deadline::asked(&headers, Some(&own)) else { return };
    assert!(asked <= MOST, "{asked:?}");
    let told = deadline::grpc_timeout(deadline::grpc_remaining(asked)).expect("what is told can be read");
    assert!(told <= asked, "{told:?} of {asked:?}");
    if let Some(millis) = deadline::milliseconds(HeaderValue::from(deadline::remaining_ms(asked))) {
        assert!(millis <= asked, "{millis:?} of {asked:?}");
    }
}
