use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { count: 10, bytes: 1024 };

/// The code and reason of the first violation, fed whole.
fn check(bytes: &str) -> Option<(&'static str, usize)> {
    let mut guard = Guard::new(LIMITS);
    guard.feed(bytes.as_bytes()).err().map(|(at, violation)| (violation.kind.code, at))
}

fn code(bytes: &str) -> &'static str {
    check(bytes).map_or("passed", |(code, _)| code)
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
fn says_where_the_bad_line_begins() {
    let good = get("");
    assert_eq!(check(&format!("{good}BAD\r\n")), Some(("request.malformed", good.len())));
}

#[test]
fn nothing_follows_an_upgrade_until_it_is_decided() {
    let upgrade = get("Connection: upgrade\r\nUpgrade: websocket\r\n");
    let mut guard = Guard::new(LIMITS);
    guard.feed(upgrade.as_bytes()).expect("well-formed");
    assert_eq!(guard.phase(), Phase::Undecided);
    assert!(guard.feed(b"x").is_err());
    guard.decide(true);
    guard.feed(b"\0\x01anything\n").expect("a tunnel");
    let mut refused = Guard::new(LIMITS);
    refused.feed(upgrade.as_bytes()).expect("well-formed");
    refused.decide(false);
    refused.feed(get("").as_bytes()).expect("the next request");
}

proptest! {
    #[test]
    fn any_split_of_the_bytes_gives_the_same_verdict(
        pieces in proptest::collection::vec(prop_oneof![
            Just("GET / HTTP/1.1\r\n"), Just("Host: a\r\n"), Just("\r\n"), Just("\n"), Just("Content-Length: 3\r\n"), Just("abc"),
            Just("Transfer-Encoding: chunked\r\n"), Just("3\r\nabc\r\n"), Just("0\r\n"), Just("X: y\r\n"), Just(" "), Just("\r"),
            Just("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ], 0..12),
        cuts in proptest::collection::vec(1usize..20, 0..60),
    ) {
        let bytes = pieces.concat();
        let mut whole = Guard::new(LIMITS);
        let result = whole.feed(bytes.as_bytes());
        let expected = result.err().map(|(_, violation)| violation);
        let mut split = Guard::new(LIMITS);
        let mut seen = None;
        let mut delivered = Vec::new();
        let mut rest = bytes.as_bytes();
        let mut cuts = cuts.into_iter();
        while seen.is_none() && !rest.is_empty() {
            let cut = cuts.next().unwrap_or(usize::MAX).min(rest.len());
            let held = split.held().to_vec();
            let result = split.feed(&rest[..cut]);
            let passed = result.unwrap_or_else(|(at, _)| at);
            if passed > 0 {
                delivered.extend_from_slice(&held);
                delivered.extend_from_slice(&rest[..passed]);
            }
            seen = result.err().map(|(_, violation)| violation);
            rest = &rest[cut..];
        }
        prop_assert_eq!(seen, expected);
        // What has passed is the same too: never a byte of a line that is bad, or that has not ended.
        let good = result.unwrap_or_else(|(at, _)| at);
        prop_assert_eq!(&delivered, &bytes.as_bytes()[..good]);
        if expected.is_none() {
            prop_assert_eq!(split.phase(), whole.phase());
        }
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
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Guard::new(LIMITS).feed(&bytes);
    }
}
