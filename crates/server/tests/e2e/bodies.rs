//! Compression of answers and decompression of requests, read and made by others' decoders and encoders.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_testkit::{Gate, Origin, PATIENCE, Reply, block_on, connect, h2_connect, h2_read, until};

use crate::{app, gate};

const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

/// Some text that is worth it.
pub fn text() -> String {
    (0..100).map(|number| format!("line {number} of a text that says little; ")).collect()
}

/// Reads what is coded.
pub fn unpacked(coding: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match coding {
        "" => out.extend_from_slice(bytes),
        "gzip" => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).ok()?),
        "br" => drop(brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out).ok()?),
        "zstd" => out = zstd::stream::decode_all(bytes).ok()?,
        other => panic!("{other}"),
    }
    Some(out)
}

/// Content in a coding, made by others' encoders.
pub fn packed(coding: &str, content: &[u8]) -> Vec<u8> {
    let (mut out, level) = (Vec::new(), flate2::Compression::default());
    match coding {
        "gzip" => drop(flate2::read::GzEncoder::new(content, level).read_to_end(&mut out).unwrap()),
        "deflate" => drop(flate2::read::ZlibEncoder::new(content, level).read_to_end(&mut out).unwrap()),
        "br" => drop(brotli::CompressorReader::new(content, 4096, 5, 22).read_to_end(&mut out).unwrap()),
        "zstd" => out = zstd::stream::encode_all(content, 3).unwrap(),
        other => panic!("{other}"),
    }
    out
}

/// An answer with its bytes.
pub struct Got {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// It came to its end.
    pub whole: bool,
}

impl Got {
    pub fn field(&self, name: &str) -> &str {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
    }

    /// What it says, its coding undone.
    pub fn text(&self) -> String {
        let content = unpacked(self.field("content-encoding"), &self.body);
        String::from_utf8(content.unwrap_or_else(|| panic!("no such coding: {}", self.head))).unwrap()
    }
}

/// Asks, and reads to the end of the connection.
pub fn fetch(address: SocketAddr, request_line: &str, headers: &str) -> Got {
    send(
        address,
        format!("{request_line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n").as_bytes(),
    )
}

fn send(address: SocketAddr, request: &[u8]) -> Got {
    let mut stream = connect(address);
    stream.write_all(request).unwrap();
    let mut all = Vec::new();
    // One that is cut may end by a reset.
    let _ = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&all[..end + 2]).to_ascii_lowercase();
    let status = head[9..12].parse().unwrap();
    let mut got = Got { status, head, body: all[end + 4..].to_vec(), whole: true };
    if got.field("transfer-encoding") == "chunked" {
        (got.body, got.whole) = unchunked(&got.body);
    }
    got
}

fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        if rest.len() < end + 2 + size + 2 {
            break;
        }
        body.extend_from_slice(&rest[end + 2..][..size]);
        rest = &rest[end + 2 + size + 2..];
    }
    (body, false)
}

/// An application that answers with some text under these fields.
fn telling(fields: &'static str) -> Origin {
    Origin::scripted(move |visit| {
        visit.read_content()?;
        let body = text();
        let head = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
        match visit.head.starts_with("HEAD") {
            true => visit.say(head),
            false => visit.say(head + &body),
        }
    })
}

const TEXT: &str = "Content-Type: text/plain\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n";

fn compressing(name: &str, origin: &Origin, route: &str) -> Gate {
    gate(name, &app(&[origin.address], "", &format!("compress = {{}}\n{route}")))
}

#[test]
fn answers_are_compressed_as_clients_take_it() {
    let origin = telling(TEXT);
    let gate = compressing("coded", &origin, "");
    for coding in CODINGS {
        let got = fetch(gate.address, "GET /", &format!("Accept-Encoding: {coding}\r\n"));
        assert_eq!((got.field("content-encoding"), got.text()), (coding, text()), "{}", got.head);
        assert_eq!(got.field("content-length"), got.body.len().to_string(), "it was here whole");
        assert!(got.body.len() * 3 < text().len(), "{coding}: {}", got.body.len());
        assert_eq!((got.field("etag"), got.field("vary")), ("w/\"a\"", "accept-encoding"));
        assert_eq!(got.field("accept-ranges"), "");
        let head = fetch(gate.address, "HEAD /", &format!("Accept-Encoding: {coding}\r\n"));
        assert_eq!((head.field("content-encoding"), head.field("etag")), (coding, "w/\"a\""));
        assert_eq!((head.field("content-length"), head.body.len()), ("", 0), "{}", head.head);
    }
    let got = fetch(gate.address, "GET /", "Accept-Encoding: gzip;q=0.5, br;q=0.4, zstd;q=0.1\r\n");
    assert_eq!(got.field("content-encoding"), "gzip", "the client's word counts first");
    let got = fetch(gate.address, "GET /", "Accept-Encoding: gzip, br, zstd\r\n");
    assert_eq!(got.field("content-encoding"), "zstd");
    for plain in ["", "Accept-Encoding: compress\r\n", "Accept-Encoding: gzip;q=0\r\n"] {
        let got = fetch(gate.address, "GET /", plain);
        assert_eq!(
            (got.field("content-encoding"), got.field("vary"), got.text()),
            ("", "accept-encoding", text())
        );
        assert_eq!(got.field("etag"), "\"a\"");
    }
    until("the log tells it", || {
        gate.access_log().contains(&format!("\"coding\":\"br\",\"plain_bytes\":{}", text().len()))
    });
}

#[test]
fn what_says_so_is_told_as_it_is() {
    let origin = Origin::scripted(|visit| {
        let fields = match visit.path() {
            "/image" => "Content-Type: image/png\r\n",
            "/events" => "Content-Type: text/event-stream\r\n",
            "/whole" => "Content-Type: text/html\r\nCache-Control: no-transform\r\n",
            "/digest" => "Content-Type: text/html\r\nContent-Digest: sha-256=:x:\r\n",
            "/coded" => "Content-Type: text/html\r\nContent-Encoding: x-own\r\n",
            "/short" => {
                return visit
                    .say("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nok");
            }
            "/part" => {
                let head =
                    "HTTP/1.1 206 Partial\r\nContent-Type: text/html\r\nContent-Range: bytes 0-1/9\r\n";
                return visit.say(format!("{head}Content-Length: 2\r\n\r\nok"));
            }
            _ => "Content-Type: text/html\r\n",
        };
        let body = text();
        visit.say(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()))
    });
    let gate = compressing("as-it-is", &origin, "");
    const GZIP: &str = "Accept-Encoding: gzip\r\n";
    for path in ["/image", "/events", "/whole", "/digest", "/short", "/part"] {
        let got = fetch(gate.address, &format!("GET {path}"), GZIP);
        assert_eq!((got.field("content-encoding"), got.field("vary")), ("", ""), "{path}: {}", got.head);
    }
    let got = fetch(gate.address, "GET /coded", GZIP);
    assert_eq!((got.field("content-encoding"), got.body.len()), ("x-own", text().len()));
    let others = ["Range: bytes=0-1\r\n", "Cache-Control: no-transform\r\n"];
    for field in others.into_iter().chain(["Sec-Fetch-Site: cross-site\r\nCookie: session=1\r\n"]) {
        let got = fetch(gate.address, "GET /", &format!("{GZIP}{field}"));
        assert_eq!((got.field("content-encoding"), got.field("vary")), ("", "accept-encoding"), "{field}");
    }
    let got =
        fetch(gate.address, "GET /", &format!("{GZIP}Sec-Fetch-Site: same-origin\r\nCookie: session=1\r\n"));
    assert_eq!(got.field("content-encoding"), "gzip");
}

/// Reads until all that came can be decoded to what ends with this.
fn read_until_says(stream: &mut TcpStream, all: &mut Vec<u8>, coding: &str, expected: &str) {
    loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).expect("it comes");
        assert!(count > 0, "it ends");
        all.extend_from_slice(&buffer[..count]);
        let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let (body, _) = unchunked(&all[end + 4..]);
        if begun(coding, &body).ends_with(expected) {
            return;
        }
    }
}

/// As far as it can be read.
fn begun(coding: &str, bytes: &[u8]) -> String {
    let mut out = vec![0; 1 << 16];
    let mut read = |reader: &mut dyn std::io::Read| {
        let mut filled = 0;
        while let Ok(count @ 1..) = reader.read(&mut out[filled..]) {
            filled += count;
        }
        String::from_utf8_lossy(&out[..filled]).into_owned()
    };
    match coding {
        "gzip" => read(&mut flate2::read::GzDecoder::new(bytes)),
        "br" => read(&mut brotli::Decompressor::new(bytes, 4096)),
        _ => read(&mut zstd::stream::read::Decoder::new(bytes).unwrap()),
    }
}

#[test]
fn nothing_is_held_back_while_the_application_pauses() {
    let (go, wait) = sync_channel(16);
    let wait = Mutex::new(wait);
    let origin = Origin::scripted(move |visit| {
        visit.say("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        visit.say("5\r\nfirst\r\n")?;
        wait.lock().recv_timeout(PATIENCE).ok()?;
        visit.say("6\r\nsecond\r\n")?;
        wait.lock().recv_timeout(PATIENCE).ok()?;
        match visit.path() {
            "/cut" => None,
            _ => visit.say("0\r\n\r\n"),
        }
    });
    let gate = compressing("paused", &origin, "");
    for coding in CODINGS {
        let mut stream = connect(gate.address);
        write!(stream, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept-Encoding: {coding}\r\n\r\n")
            .unwrap();
        let mut all = Vec::new();
        read_until_says(&mut stream, &mut all, coding, "first");
        go.send(()).unwrap();
        read_until_says(&mut stream, &mut all, coding, "firstsecond");
        go.send(()).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(b"0\r\n\r\n"), "{coding}: it ends");
    }
    go.send(()).unwrap();
    go.send(()).unwrap();
    let cut = fetch(gate.address, "GET /cut", "Accept-Encoding: gzip\r\n");
    assert!(!cut.whole && unpacked("gzip", &cut.body).is_none(), "what was cut is not whole");
}

#[test]
fn large_answers_pass_compressed_over_both_versions() {
    let body = text().repeat(1200);
    let length = body.len();
    let origin = Origin::scripted(move |visit| {
        visit.say(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ))?;
        visit.say(&body)
    });
    let gate = compressing("large-coded", &origin, "");
    let whole = text().repeat(1200);
    for coding in CODINGS {
        let got = fetch(gate.address, "GET /", &format!("Accept-Encoding: {coding}\r\n"));
        assert!(got.whole && got.body.len() * 5 < length, "{coding}: {} of {length}", got.body.len());
        assert!(got.text() == whole, "{coding}");
        let (head, bytes) = block_on(async {
            let mut client = h2_connect(gate.address).await;
            let uri = format!("http://{}/", gate.address);
            let request = http::Request::get(uri).header("accept-encoding", coding).body(()).unwrap();
            let (answer, _) = client.send_request(request, true).unwrap();
            let (head, mut body) = answer.await.unwrap().into_parts();
            (head, h2_read(&mut body).await.0)
        });
        assert_eq!(head.headers["content-encoding"], coding);
        assert!(unpacked(coding, &bytes).unwrap() == whole.as_bytes(), "{coding} over HTTP/2");
    }
    until("the log tells both lengths", || {
        let log = gate.access_log();
        log.matches(&format!("\"coding\":\"zstd\",\"plain_bytes\":{length}")).count() == 2
    });
}

#[test]
fn tags_of_compressed_answers_still_match() {
    let origin = Origin::scripted(|visit| {
        let body = text();
        match (visit.field("if-none-match"), visit.field("if-match")) {
            (Some(_), _) => visit.say("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
            (None, Some(tag)) if tag != "\"a\"" => {
                visit.say("HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n")
            }
            _ => visit.say(format!("HTTP/1.1 200 OK\r\n{TEXT}Content-Length: {}\r\n\r\n{body}", body.len())),
        }
    });
    let gate = compressing("tags", &origin, "");
    let got = fetch(gate.address, "GET /", "Accept-Encoding: gzip\r\nIf-None-Match: W/\"a\"\r\n");
    assert_eq!((got.status, got.field("etag"), got.field("vary")), (304, "w/\"a\"", "accept-encoding"));
    assert!(origin.recorded()[0].head.contains("W/\"a\""), "it is asked as the client asks");
    let got = fetch(gate.address, "PUT /", "If-Match: W/\"a\"\r\nContent-Length: 0\r\n");
    assert_eq!(got.status, 200, "a weakened tag is no bar to a change");
}

#[test]
fn the_application_is_asked_as_the_client_asks_unless_tidegate_alone_compresses() {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let gate = compressing("offload", &origin, "");
    fetch(gate.address, "GET /", "Accept-Encoding: br, gzip\r\n");
    gate.rewrite(&app(&[origin.address], "", "compress = { offload = true, codings = [\"gzip\"] }"));
    gate.reload();
    until("it is asked for what is not coded", || {
        fetch(gate.address, "GET /", "Accept-Encoding: br, gzip\r\n");
        let asked = origin.recorded();
        let last = asked.last().unwrap().head.to_ascii_lowercase();
        assert!(asked[0].head.to_ascii_lowercase().contains("accept-encoding: br, gzip"));
        !last.contains("accept-encoding")
    });
}

/// A request with this content in this coding.
fn upload(address: SocketAddr, fields: &str, content: &[u8]) -> Got {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n",
        content.len()
    );
    send(address, &[head.as_bytes(), content].concat())
}

/// An application that tells what it got: its coding, and its content.
fn reading() -> Origin {
    Origin::scripted(|visit| {
        let content = visit.read_content()?;
        let coding = visit.field("content-encoding").unwrap_or_default();
        let digest = visit.field("content-digest").unwrap_or_default();
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Coding: {coding}{digest}\r\nContent-Length: {}\r\n\r\n",
            content.len()
        );
        visit.say(head)?;
        visit.say(content)
    })
}

#[test]
fn compressed_requests_are_decoded_for_the_application() {
    let origin = reading();
    let gate = gate("decoded", &app(&[origin.address], "", "decompress = {}"));
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let content = packed(coding, text().as_bytes());
        let fields = format!("Content-Encoding: {coding}\r\nContent-Digest: sha-256=:x:\r\n");
        let got = upload(gate.address, &fields, &content);
        assert_eq!(
            (got.status, got.field("x-coding"), got.text()),
            (200, "", text()),
            "{coding}: {}",
            got.head
        );
        let (status, bytes) = block_on(async {
            let mut client = h2_connect(gate.address).await;
            let uri = format!("http://{}/", gate.address);
            let request = http::Request::post(uri).header("content-encoding", coding).body(()).unwrap();
            let (answer, mut body) = client.send_request(request, false).unwrap();
            body.send_data(Bytes::from(content), true).unwrap();
            let (head, mut body) = answer.await.unwrap().into_parts();
            (head.status.as_u16(), h2_read(&mut body).await.0)
        });
        assert_eq!((status, String::from_utf8(bytes).unwrap()), (200, text()), "{coding} over HTTP/2");
    }
    let got = upload(gate.address, "", b"as it is");
    assert_eq!((got.status, got.text()), (200, "as it is".to_owned()));
    let none = fetch(gate.address, "GET /", "Content-Encoding: gzip\r\n");
    assert_eq!(none.status, 200, "no content is in no coding");
}

#[test]
fn what_cannot_be_decoded_is_refused_by_its_name() {
    let origin = reading();
    let route = "decompress = { max_size = \"8MiB\", max_ratio = 50 }\nretry = { tries = 1 }";
    let gate = gate("bombs", &app(&[origin.address], "", route));
    let whole = packed("gzip", text().as_bytes());
    let zeros = vec![0; 16 << 20];
    let mut random = 7u64;
    let mut chance = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as u8 & 15
    };
    let large: Vec<u8> = (0..9 << 20).map(|_| chance()).collect();
    for (coding, content, status, code) in [
        ("compress", whole.clone(), 415, "request.coding"),
        ("gzip, br", whole.clone(), 415, "request.coding"),
        ("gzip", b"not gzip at all".to_vec(), 400, "request.corrupt"),
        ("gzip", whole[..whole.len() - 3].to_vec(), 400, "request.corrupt"),
        ("gzip", [&whole[..], b"rest"].concat(), 400, "request.corrupt"),
        ("zstd", whole.clone(), 400, "request.corrupt"),
        ("br", whole.clone(), 400, "request.corrupt"),
        ("gzip", packed("gzip", &zeros), 413, "request.inflated"),
        ("br", packed("br", &zeros), 413, "request.inflated"),
        ("zstd", packed("zstd", &zeros), 413, "request.inflated"),
        ("gzip", packed("gzip", &large), 413, "request.inflated"),
    ] {
        let got = upload(gate.address, &format!("Content-Encoding: {coding}\r\n"), &content);
        assert_eq!(got.status, status, "{coding} {code}: {}", got.head);
        let body = String::from_utf8_lossy(&got.body);
        assert!(body.contains(code), "{coding} {code}: {body}");
        let accepts = if status == 415 { "br, deflate, gzip, zstd" } else { "" };
        assert_eq!(got.field("accept-encoding"), accepts);
    }
}

#[test]
fn a_route_that_does_not_decode_passes_on_what_comes() {
    let origin = reading();
    let gate = gate("not-decoded", &app(&[origin.address], "", ""));
    let content = packed("gzip", text().as_bytes());
    let got = upload(gate.address, "Content-Encoding: gzip\r\n", &content);
    assert_eq!((got.status, got.field("x-coding")), (200, "gzip"));
    assert_eq!(got.body, content);
}

#[test]
fn requests_and_answers_under_a_key_are_compared_and_kept_as_they_are() {
    let origin = Origin::scripted(|visit| {
        visit.read_content()?;
        let body = text();
        visit.say(format!("HTTP/1.1 201 Created\r\n{TEXT}Content-Length: {}\r\n\r\n{body}", body.len()))
    });
    let data = Gate::folder("bodies-idem");
    let store = format!("[store]\nurl = \"sqlite:{}\"\n", data.display());
    let route = "compress = {}\ndecompress = {}\nidempotency = {}";
    let gate = gate("bodies-idem", &(app(&[origin.address], "", route) + &store));
    let key = "Idempotency-Key: \"k\"\r\n";
    let first = upload(gate.address, key, b"the same");
    assert_eq!((first.status, first.field("content-encoding"), first.text()), (201, "", text()));
    let fields = format!("{key}Content-Encoding: zstd\r\nAccept-Encoding: br\r\n");
    let again = upload(gate.address, &fields, &packed("zstd", b"the same"));
    assert_eq!((again.status, again.field("idempotency-replayed")), (201, "true"), "{}", again.head);
    assert_eq!((again.field("content-encoding"), again.text()), ("br", text()));
    let other = upload(gate.address, &fields, &packed("zstd", b"another"));
    assert_eq!(other.status, 422);
    assert_eq!(origin.recorded().len(), 1);
}

#[test]
fn what_is_stored_is_told_to_each_as_it_takes_it() {
    let origin = Origin::scripted(|visit| {
        let body = text();
        let head = format!("HTTP/1.1 200 OK\r\n{TEXT}Cache-Control: max-age=60\r\n");
        visit.say(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
    });
    let gate = compressing("stored-coded", &origin, "cache = {}");
    until("it is stored", || fetch(gate.address, "GET /", "").field("cache-status").contains("hit"));
    for coding in ["gzip", "br", "zstd", "gzip", "br", "zstd"] {
        let got = fetch(gate.address, "GET /", &format!("Accept-Encoding: {coding}\r\n"));
        assert!(got.field("cache-status").contains("hit"), "{}", got.head);
        assert_eq!((got.field("content-encoding"), got.text()), (coding, text()));
        assert_eq!(got.field("etag"), "w/\"a\"");
    }
    let got = fetch(gate.address, "GET /", "Accept-Encoding: gzip\r\nIf-None-Match: W/\"a\"\r\n");
    assert_eq!((got.status, got.field("etag")), (304, "w/\"a\""));
    let part = fetch(gate.address, "GET /", "Accept-Encoding: gzip\r\nRange: bytes=0-3\r\n");
    assert_eq!((part.status, part.text()), (206, "line".to_owned()), "{}", part.head);
    let plain = fetch(gate.address, "GET /", "");
    assert_eq!(
        (plain.field("etag"), plain.field("vary"), plain.text()),
        ("\"a\"", "accept-encoding", text())
    );
    assert_eq!(origin.recorded().len(), 1);
}
