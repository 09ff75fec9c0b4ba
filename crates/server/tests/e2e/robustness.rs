//! Bytes that no honest client sends: what reaches the upstream is one well-formed request, or nothing.

use std::io::Write as _;

use tidegate_testkit::{Gate, Origin, Reply, ask, connect, read_answer, send};

use crate::{app, gate};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn ok() -> Origin {
    Origin::start(|_| Reply::Status(200, "here".to_owned()))
}

/// Sends bytes that are to be refused with this code, and another request behind them.
fn check(gate: &Gate, bytes: &str, code: &str) {
    let answer = send(gate.address, [bytes.as_bytes(), SMUGGLED.as_bytes()].concat().as_slice());
    let status = if code == "request.method" { "HTTP/1.1 501 " } else { "HTTP/1.1 400 " };
    assert!(answer.starts_with(status), "{bytes:?}: {answer}");
    assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{bytes:?}: {answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{bytes:?}: {answer}");
}

#[test]
fn no_head_that_two_servers_could_read_differently_passes() {
    let origin = ok();
    let gate = gate("heads-smuggling", &app(&[origin.address], "", ""));
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    for fields in [
        "Content-Length: 37\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Content-Length: 0\r\nContent-Length: 37",
        "Content-Length: 37\r\nContent-Length: 37",
        "Content-Length: 0, 37",
        "Content-Length: 37, 37",
        "Content-Length: +0",
        "Content-Length: -1",
        "Content-Length: 0x0",
        "Content-Length: 1e1",
        "Content-Length: 0 37",
        "Content-Length: ",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: ",
        "Transfer-Encoding:\r\n chunked",
    ] {
        check(&gate, &post(fields), "request.framing");
    }
    check(
        &gate,
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "request.framing",
    );
    assert!(origin.recorded().is_empty(), "{:?}", origin.recorded());
}

#[test]
fn no_line_that_two_servers_could_end_differently_passes() {
    let origin = ok();
    let gate = gate("lines-smuggling", &app(&[origin.address], "", ""));
    let field = |line: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
    for line in [
        "X: a\nTransfer-Encoding: chunked",
        "X: a\n",
        "X: a\rTransfer-Encoding: chunked",
        "X: a\r\r\nY: b",
        "X: a\0b",
        "X: a\u{1}b",
        "X: a\u{7f}b",
        "X\0: a",
        "X\r: a",
        "X: a\r\n folded",
        "X: a\r\n\tfolded",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Content-Length : 37",
        " X: a",
        "X",
        ": a",
        "X(y): a",
        "X@y: a",
        "\u{e9}: a",
    ] {
        check(&gate, &field(line), "request.malformed");
    }
    for line in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\n\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET /\r\n\r\n",
        "GET\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{1} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        check(&gate, line, "request.malformed");
    }
    check(&gate, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "request.method");
    assert!(origin.recorded().is_empty(), "{:?}", origin.recorded());
}

#[test]
fn no_host_that_two_servers_could_take_for_another_passes() {
    let origin = ok();
    let gate = gate("hosts-smuggling", &app(&[origin.address], "", ""));
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n",
        "GET / HTTP/1.1\r\nHost: a:b\r\n",
        "GET / HTTP/1.1\r\nHost: a:999999\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n",
        "GET / HTTP/1.1\r\nHost: a..b\r\n",
        "GET / HTTP/1.1\r\nHost: http://a\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n",
        "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n",
        "GET http://b@a/ HTTP/1.1\r\nHost: a\r\n",
        "GET http:/// HTTP/1.1\r\nHost: a\r\n",
        "GET http://a/ HTTP/1.1\r\n",
    ] {
        // A host that only the lifecycle finds wrong is refused there: its connection may go on.
        let closing = format!("{head}Connection: close\r\n\r\n");
        check(&gate, &closing, "request.host");
    }
    assert!(origin.recorded().is_empty(), "{:?}", origin.recorded());
    let absolute = ask(gate.address, "GET http://TEST/x", "");
    assert_eq!(absolute.status, 200);
    assert!(origin.recorded()[0].head.starts_with("GET /x HTTP/1.1\r\n"), "{}", origin.recorded()[0].head);
}

#[test]
fn no_chunk_that_two_servers_could_measure_differently_passes() {
    let origin = ok();
    let gate = gate("chunks-smuggling", &app(&[origin.address], "", ""));
    let head = "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300));
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t;a\r\nhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        &long,
        "0\n\r\n",
        "0\r\n\n",
        "0\r\nContent-Length: 37\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: b\r\n\r\n",
        "0\r\n X: folded\r\n\r\n",
        "0\r\nX : a\r\n\r\n",
        "0\r\nX: a\nY: b\r\n\r\n",
        "0\r\nX\r\n\r\n",
    ] {
        let answer = send(gate.address, format!("{head}{body}{SMUGGLED}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
        assert!(
            answer.contains("request.framing") || answer.contains("request.malformed"),
            "{body:?}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answer}");
    }
    assert!(origin.recorded().is_empty(), "{:?}", origin.recorded());
    let mut stream = connect(gate.address);
    write!(stream, "{head}5;ok=\"yes\"\r\nhello\r\nA\r\n0123456789\r\n00\r\nX-Sum: 1\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).status, 200);
    assert_eq!(origin.recorded().iter().map(|request| request.length).collect::<Vec<_>>(), [15]);
}

/// A request of parts that are each good or bad, as the number tells.
fn mixed(mut number: u64) -> String {
    let mut pick = |parts: &[&'static str]| {
        // The good part comes first, and is what is picked mostly.
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = (number >> 33) as usize;
        if drawn.is_multiple_of(16) { parts[drawn / 16 % parts.len()] } else { parts[0] }
    };
    let end = "\r\n";
    let fields = [
        "X: y\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close, x-hop, content-length\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding: chunked\n",
        "X: a\rb\r\n",
        "X: \0\r\n",
        " folded\r\n",
        "Upgrade: x\r\nConnection: upgrade\r\n",
        "Host: b\r\n",
        "Expect: 100-continue\r\n",
        "TE: trailers, chunked\r\n",
        "Trailer: content-length\r\n",
        "content-length: 0005\r\n",
    ];
    let mut out = String::new();
    for _ in 0..2 {
        out += pick(&["GET", "POST", "OPTIONS", "get", "G T", "", "PUT"]);
        out += pick(&[" ", "  ", "\t"]);
        out += pick(&[
            "/x",
            "/smuggled",
            "http://a/x",
            "http://b/x",
            "*",
            "/x y",
            "//x",
            "/%00",
            "x",
            "/x#y",
            "/x?a=`",
        ]);
        out += pick(&[" HTTP/1.1\r\n", " HTTP/1.0\r\n", " HTTP/1.1\n", "\r\n", " HTTP/1.2\r\n"]);
        out += pick(&["Host: a\r\n", "", "Host: a, b\r\n", "hOsT:a\r\n", "Host : a\r\n"]);
        out += pick(&fields);
        out += pick(&[
            "Transfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\n",
            "",
            "Transfer-Encoding: x\r\n",
        ]);
        out += pick(&fields);
        out += pick(&[end, end, "\n", "\r"]);
        out += pick(&[
            "5\r\nhello\r\n0\r\n\r\n",
            "hello",
            "",
            "0\r\n\r\n",
            "5\nhello\n0\n\n",
            "5;x\r\nhello\r\n0\r\nX: y\r\n\r\n",
        ]);
    }
    out
}

/// What is wrong with a request's head, for whoever takes nothing for granted.
fn flaw(head: &str) -> Option<&'static str> {
    let lines: Vec<&str> = head.strip_suffix("\r\n\r\n")?.split("\r\n").collect();
    let count = |name: &str| {
        let prefix = format!("{name}:");
        lines.iter().filter(|line| line.to_ascii_lowercase().starts_with(&prefix)).count()
    };
    let parts: Vec<&str> = lines[0].split(' ').collect();
    let token = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let named = |line: &&str| line.split_once(": ").is_some_and(|(name, _)| token(name));
    [
        (parts.len() != 3 || parts[2] != "HTTP/1.1" || !token(parts[0]), "the request line"),
        (!parts.get(1).is_some_and(|target| target.starts_with('/') || *target == "*"), "the target"),
        (head.replace("\r\n", "").contains(|byte: char| byte.is_control()), "control bytes"),
        (!lines[1..].iter().all(named), "a field line"),
        (count("host") != 1, "not one Host"),
        (count("content-length") + count("transfer-encoding") > 1, "two lengths"),
        (count("connection") > 0 && count("upgrade") != 1, "a field of the connection"),
    ]
    .into_iter()
    .find_map(|(wrong, what)| wrong.then_some(what))
}

#[test]
fn whatever_is_sent_the_upstream_sees_nothing_but_well_formed_requests() {
    let origin = ok();
    let gate = gate("mixed", &app(&[origin.address], "", ""));
    let mut passed = 0;
    for number in 0..150 {
        let request = mixed(number);
        let before = origin.recorded().len();
        let mut stream = connect(gate.address);
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 200 OK").count();
        let seen = origin.recorded().split_off(before);
        for recorded in &seen {
            assert_eq!(flaw(&recorded.head), None, "{request:?} became {}", recorded.head);
        }
        assert!(seen.len() <= 2 && answers <= 2, "{request:?} became {seen:?}");
        passed += seen.len();
    }
    assert!(passed > 100, "{passed}: the mixture is too bad to prove anything");
}

#[test]
fn what_belongs_to_the_clients_connection_ends_at_the_gate() {
    let origin = ok();
    let gate = gate("hop", &app(&[origin.address], "", ""));
    let hop = "Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nHop: 2\r\nConnection: hop\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Connection: keep-alive\r\nTE: gzip, trailers\r\nProxy-Authorization: Basic x\r\nX-End: 3\r\n";
    assert_eq!(ask(gate.address, "GET /", hop).status, 200);
    let head = origin.recorded()[0].head.to_ascii_lowercase();
    // `Hop` is nominated, `X-Hop` is not to be taken away: an application's own field may be called so.
    for gone in ["\r\nconnection:", "\r\nhop:", "\r\nkeep-alive:", "\r\nproxy-", "gzip", "\r\nupgrade:"] {
        assert!(!head.contains(gone), "{gone}: {head}");
    }
    for kept in ["\r\nx-end: 3", "\r\nte: trailers"] {
        assert!(head.contains(kept), "{kept}: {head}");
    }
    // Nobody takes from a request what the gate or the application relies on.
    let nominated = "Connection: Host, Content-Length, X-Forwarded-For, Authorization\r\nAuthorization: b\r\nContent-Length: 0\r\n";
    assert_eq!(ask(gate.address, "POST /", nominated).status, 200);
    let head = origin.recorded()[1].head.to_ascii_lowercase();
    for kept in ["\r\nhost: ", "\r\nx-forwarded-for: ", "\r\nauthorization: b", "\r\ncontent-length: 0"] {
        assert!(head.contains(kept), "{kept}: {head}");
    }
}

#[test]
fn an_old_client_without_a_host_is_well_formed_for_the_upstream() {
    let origin = ok();
    let gate = gate("http10", &app(&[origin.address], "", ""));
    let answer = send(gate.address, b"GET /old HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{answer}");
    let head = &origin.recorded()[0].head;
    assert!(head.starts_with("GET /old HTTP/1.1\r\n"), "{head}");
    assert_eq!(head.to_ascii_lowercase().matches("\r\nhost: ").count(), 1, "{head}");
}

#[test]
fn no_answer_that_two_clients_could_measure_differently_passes() {
    let origin = Origin::scripted(|visit| {
        let fields = match visit.path() {
            "/both" => "Content-Length: 2\r\nTransfer-Encoding: chunked",
            "/differ" => "Content-Length: 2\r\nContent-Length: 3",
            "/list" => "Content-Length: 2, 3",
            "/sign" => "Content-Length: +2",
            "/coding" => "Transfer-Encoding: gzip, chunked",
            "/unknown" => "Transfer-Encoding: xchunked",
            "/folded" => "X: a\r\n Content-Length: 2",
            "/space" => "Content-Length : 2",
            "/control" => "X: a\0b\r\nContent-Length: 2",
            "/return" => "X: a\rContent-Length: 9\r\nContent-Length: 2",
            "/twice" => "Content-Length: 2\r\nContent-Length: 2",
            "/same" => "Content-Length: 2, 2",
            _ => "Content-Length: 2",
        };
        visit.say(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nok"))
    });
    let gate = gate("answers", &app(&[origin.address], "", "retry = { tries = 1 }"));
    for path in [
        "/both", "/differ", "/list", "/sign", "/coding", "/unknown", "/folded", "/space", "/control",
        "/return",
    ] {
        let answer = ask(gate.address, &format!("GET {path}"), "");
        assert_eq!(answer.status, 502, "{path}: {}", answer.head);
        assert!(answer.body.contains("upstream.protocol"), "{path}: {}", answer.body);
    }
    for path in ["/twice", "/same", "/"] {
        let answer = ask(gate.address, &format!("GET {path}"), "");
        let lengths: Vec<_> = answer.head.lines().filter(|line| line.starts_with("content-length")).collect();
        assert_eq!(
            (answer.status, answer.body.as_str(), lengths),
            (200, "ok", vec!["content-length: 2"]),
            "{path}"
        );
    }
}

#[test]
fn what_an_upstream_says_beyond_its_answer_is_nobodys_answer() {
    let beyond = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let origin = Origin::scripted(move |visit| {
        visit.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{beyond}"))
    });
    let gate = gate("beyond", &app(&[origin.address], "", ""));
    let mut stream = connect(gate.address);
    for _ in 0..5 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!(read_answer(&mut stream).body, "ok");
    }
    assert_eq!(origin.recorded().len(), 5);
}
