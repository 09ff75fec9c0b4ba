//! What HTTP/2's codec lets through and HTTP/1's guard would not: CONNECT as a forward proxy's, paths that are none,
//! hosts that are missing, malformed or differ from the authority, too many fields, bodies announced as too large.
//! And the one thing that is written differently there: `Cookie` in pieces.

use http::{HeaderMap, HeaderValue, Method, Request, header};
use tidegate_model::host;
use tidegate_model::refusal::{
    REQUEST_BODY_TOO_LARGE, REQUEST_EXPECTATION, REQUEST_FRAMING, REQUEST_HEADERS_TOO_LARGE, REQUEST_HOST,
    REQUEST_METHOD, REQUEST_PATH, Refusal,
};

use crate::request_head::is_target;
use crate::settings::ConnectionLimits;

/// Checks that the request is well formed, and makes one of its `Cookie` fields.
pub(crate) fn check<B>(request: &mut Request<B>, limits: &ConnectionLimits) -> Result<(), Refusal> {
    join_cookies(request.headers_mut());
    let headers = request.headers();
    if request.method() == Method::CONNECT && request.extensions().get::<hyper::ext::Protocol>().is_none() {
        return Err(Refusal::new(&REQUEST_METHOD, "CONNECT is not supported: this is no forward proxy."));
    }
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let passes = match target {
        "*" => request.method() == Method::OPTIONS,
        path => path.starts_with('/') && is_target(path.as_bytes()),
    };
    if !passes {
        return Err(Refusal::new(&REQUEST_PATH, ":path is no path."));
    }
    if headers.len() > limits.header_count {
        return Err(Refusal::new(&REQUEST_HEADERS_TOO_LARGE, "The request has too many header fields."));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().map(|value| value.as_bytes());
    if hosts.next().is_some() {
        return Err(Refusal::new(&REQUEST_HOST, "The request has more than one Host."));
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    match (authority, host) {
        (None, None) => {
            return Err(Refusal::new(&REQUEST_HOST, "The request has no :authority and no Host."));
        }
        (Some(authority), Some(host)) if !authority.as_bytes().eq_ignore_ascii_case(host) => {
            return Err(Refusal::new(&REQUEST_HOST, ":authority and Host differ."));
        }
        (Some(authority), _) => drop(host::normalize(authority)?),
        (None, Some(host)) => {
            let text = std::str::from_utf8(host).map_err(|_| Refusal::from(host::HostError::Byte))?;
            drop(host::normalize(text)?);
        }
    }
    let mut expected = headers.get_all(header::EXPECT).iter();
    if !expected.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Refusal::new(&REQUEST_EXPECTATION, "Only `100-continue` may be expected."));
    }
    check_length(headers, limits.body_bytes)
}

/// RFC 9113 section 8.2.3: pieces of `Cookie` are joined before they go where HTTP/2 is not spoken.
fn join_cookies(headers: &mut HeaderMap) {
    let mut pieces = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (pieces.next(), pieces.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for piece in std::iter::once(second).chain(pieces) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(piece.as_bytes());
    }
    // Of values and a separator that are valid, a valid one is made.
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(header::COOKIE, joined);
    }
}

fn check_length(headers: &http::HeaderMap, most: u64) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    let number = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|text| text.parse::<u64>().ok()) {
        Some(length) if length > most => {
            Err(Refusal::new(&REQUEST_BODY_TOO_LARGE, "The request's body is too large."))
        }
        Some(_) if lengths.next().is_none() => Ok(()),
        _ => Err(Refusal::new(&REQUEST_FRAMING, "Content-Length is not one decimal number.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of the refusal of a request with this target and these fields, if it is one.
    fn check(target: &str, fields: &[(&str, &str)]) -> Option<&'static str> {
        let request =
            fields.iter().fold(Request::get(target), |request, (name, value)| request.header(*name, *value));
        let limits = ConnectionLimits { header_count: 4, body_bytes: 100, ..ConnectionLimits::default() };
        super::check(&mut request.body(()).unwrap(), &limits).err().map(|refusal| refusal.kind.code)
    }

    #[test]
    fn what_http1_would_not_take_is_not_taken() {
        for target in ["http://a/", "http://A:80/b?c=d", "https://[::1]/"] {
            assert_eq!(check(target, &[]), None, "{target}");
        }
        assert_eq!(check("*", &[("host", "a")]), Some("request.path"));
        for target in ["http://b@a/", "http://a:123456/", "/"] {
            assert_eq!(check(target, &[]), Some("request.host"), "{target}");
        }
        assert_eq!(check("/", &[("host", "a")]), None);
        for hosts in [&[("host", "b")][..], &[("host", "a"), ("host", "a")], &[("host", "a b")]] {
            assert_eq!(check("http://a/", hosts), Some("request.host"), "{hosts:?}");
        }
        for (length, code) in
            [("100", None), ("101", Some("request.body-too-large")), ("1x", Some("request.framing"))]
        {
            assert_eq!(check("http://a/", &[("content-length", length)]), code, "{length}");
        }
        let twice = [("content-length", "1"), ("content-length", "1")];
        assert_eq!(check("http://a/", &twice), Some("request.framing"));
        assert_eq!(check("http://a/", &[("x", "y"); 5]), Some("request.headers-too-large"));
        assert_eq!(check("http://a/", &[("expect", "magic")]), Some("request.expectation"));
        assert_eq!(check("http://a/", &[("expect", "100-Continue")]), None);
    }

    #[test]
    fn pieces_of_a_cookie_become_one() {
        let mut request =
            Request::get("http://a/").header("cookie", "a=1").header("cookie", "b=2").header("cookie", "c=3");
        let mut request = std::mem::take(&mut request).body(()).unwrap();
        super::check(&mut request, &ConnectionLimits::default()).unwrap();
        let cookies: Vec<_> = request.headers().get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }
}
