//! What the cache keeps compressed: made once in each coding, told with its length, gone with its answer.

use std::net::SocketAddr;

use tidegate_testkit::{Gate, Origin, block_on, h2_connect, h2_read, until};

use crate::bodies::{Got, fetch, text, unpacked};
use crate::cache::origin;
use crate::{app, command, control, gate};

const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];
const TEXT: &str = "Content-Type: text/plain\r\nETag: \"a\"\r\nCache-Control: max-age=600\r\n";

/// One that keeps what this application says, and compresses it.
fn keeping(name: &str, origin: &Origin) -> Gate {
    gate(name, &app(&[origin.address], "", "compress = {}\ncache = {}"))
}

/// Asks for it in a coding, from the cache, and tells also whether it was kept so.
fn hit(gate: &Gate, path: &str, coding: &str) -> (Got, bool) {
    let (got, kept) = explained(gate, path, coding);
    assert!(got.field("cache-status").contains("hit"), "{}", got.head);
    (got, kept)
}

fn explained(gate: &Gate, path: &str, coding: &str) -> (Got, bool) {
    let got = fetch(gate.address, &format!("GET {path}"), &format!("Accept-Encoding: {coding}\r\n"));
    let line = format!("/explain/{}?format=text", got.field("x-request-id"));
    let mut told = String::new();
    until("it is explained", || {
        told = control(gate, &line);
        told.contains(" 200 OK")
    });
    let kept = told.contains(&format!("answered with what the cache keeps in {coding}"));
    (got, kept)
}

fn until_kept(gate: &Gate, path: &str, coding: &str) -> Got {
    let mut found = None;
    until(&format!("{path} is kept in {coding}"), || {
        let (got, kept) = hit(gate, path, coding);
        found = kept.then_some(got);
        found.is_some()
    });
    found.expect("it is found")
}

fn fill(address: SocketAddr, path: &str) {
    until("it is stored", || {
        fetch(address, &format!("GET {path}"), "").field("cache-status").contains("hit")
    });
}

/// Text of some length that is no page of one line again and again.
fn long() -> String {
    (0..20_000).map(|number| format!("line {number} says little; ")).collect()
}

#[test]
fn a_hit_is_compressed_once_and_told_with_its_length_from_then_on() {
    let origin = origin(|visit, _| (TEXT.to_owned(), if visit.path() == "/long" { long() } else { text() }));
    let gate = keeping("kept-coded", &origin);
    for (path, whole) in [("/short", text()), ("/long", long())] {
        fill(gate.address, path);
        let before = gate.metric("tidegate_cache_bytes").expect("it is counted");
        let mut taken = 0;
        for coding in CODINGS {
            let (first, kept) = hit(&gate, path, coding);
            assert!(!kept && first.whole, "{path} {coding}: nobody had it so");
            assert_eq!((first.field("content-encoding"), first.text() == whole), (coding, true));
            let again = until_kept(&gate, path, coding);
            assert_eq!((again.field("content-encoding"), again.text() == whole), (coding, true), "{path}");
            assert_eq!(again.field("content-length"), again.body.len().to_string(), "{path} {coding}");
            assert_eq!((again.field("etag"), again.field("vary")), ("w/\"a\"", "accept-encoding"));
            assert_eq!((again.field("accept-ranges"), again.field("transfer-encoding")), ("", ""));
            taken += again.body.len();
            // HEAD is told the same, with the length that is known now.
            let head =
                fetch(gate.address, &format!("HEAD {path}"), &format!("Accept-Encoding: {coding}\r\n"));
            assert_eq!(head.field("content-length"), again.field("content-length"), "{}", head.head);
            assert_eq!(
                (head.field("content-encoding"), head.field("etag"), head.body.len()),
                (coding, "w/\"a\"", 0)
            );
        }
        let grown = gate.metric("tidegate_cache_bytes").expect("it is counted") - before;
        assert!(
            (taken as f64..taken as f64 + 1500.0).contains(&grown),
            "{path}: {taken} bytes, {grown} counted"
        );
        // What is not coded is as it was.
        let plain = fetch(gate.address, &format!("GET {path}"), "");
        assert_eq!(
            (plain.field("etag"), plain.field("content-encoding"), plain.text() == whole),
            ("\"a\"", "", true)
        );
        let part =
            fetch(gate.address, &format!("GET {path}"), "Accept-Encoding: gzip\r\nRange: bytes=0-3\r\n");
        assert_eq!((part.status, part.field("content-encoding"), part.text()), (206, "", "line".to_owned()));
        let same = fetch(
            gate.address,
            &format!("GET {path}"),
            "Accept-Encoding: gzip\r\nIf-None-Match: W/\"a\"\r\n",
        );
        assert_eq!((same.status, same.field("etag"), same.field("content-encoding")), (304, "w/\"a\"", ""));
    }
    let (head, bytes) = block_on(async {
        let mut client = h2_connect(gate.address).await;
        let uri = "http://a/long";
        let request = http::Request::get(uri).header("accept-encoding", "br").body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let (head, mut body) = answer.await.unwrap().into_parts();
        (head, h2_read(&mut body).await.0)
    });
    assert_eq!(head.headers["content-length"], bytes.len().to_string());
    assert!(unpacked("br", &bytes).unwrap() == long().as_bytes(), "over HTTP/2");
    assert_eq!(origin.recorded().len(), 2, "the application was asked for each once");
}

#[test]
fn what_no_coding_makes_smaller_is_told_as_it_is_to_head_as_well() {
    let mut random = 7u64;
    let mut chance = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as u8
    };
    let noise: Vec<u8> = (0..200_000).map(|_| chance()).collect();
    let told = noise.clone();
    let origin = Origin::scripted(move |visit| {
        let body = if visit.path() == "/long" { &told[..] } else { &told[..4000] };
        let head = format!("HTTP/1.1 200 OK\r\n{TEXT}Content-Length: {}\r\n\r\n", body.len());
        visit.say([head.as_bytes(), body].concat())
    });
    let gate = keeping("kept-plain", &origin);
    for (path, whole) in [("/short", &noise[..4000]), ("/long", &noise[..])] {
        fill(gate.address, path);
        let before = gate.metric("tidegate_cache_bytes").expect("it is counted");
        until("it is known to be no smaller", || {
            let (got, _) = hit(&gate, path, "gzip");
            let content = unpacked(got.field("content-encoding"), &got.body).expect("it is whole");
            assert!(content == whole, "{path}");
            got.field("content-encoding").is_empty()
        });
        let head = fetch(gate.address, &format!("HEAD {path}"), "Accept-Encoding: gzip\r\n");
        assert_eq!(head.field("content-length"), whole.len().to_string(), "{}", head.head);
        assert_eq!((head.field("content-encoding"), head.field("etag")), ("", "\"a\""));
        let grown = gate.metric("tidegate_cache_bytes").expect("it is counted") - before;
        assert!((0.0..1000.0).contains(&grown), "{path}: nothing is kept but that it is so: {grown}");
    }
}

#[test]
fn what_is_kept_compressed_goes_with_its_answer_and_stays_when_that_is_confirmed() {
    let origin = origin(|visit, count| match visit.field("if-none-match") {
        Some(_) => (
            "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nCache-Control: max-age=600\r\n".to_owned(),
            String::new(),
        ),
        None => (TEXT.to_owned(), text().replace("line", &format!("line-{count}"))),
    });
    let gate = keeping("kept-purged", &origin);
    fill(gate.address, "/a");
    let kept = until_kept(&gate, "/a", "br");
    let held = gate.metric("tidegate_cache_bytes").expect("it is counted");
    let purge = |more: &[&str]| {
        let (went, said) = command(&gate, &[&["purge", "--url", "http://a/a"], more].concat());
        assert!(went, "{said}");
    };
    purge(&["--soft"]);
    let (confirmed, was_kept) = explained(&gate, "/a", "br");
    assert!(confirmed.field("cache-status").contains("fwd-status=304"), "{}", confirmed.head);
    assert!(was_kept && confirmed.body == kept.body, "it was not compressed anew");
    assert_eq!(gate.metric("tidegate_cache_bytes"), Some(held));
    purge(&[]);
    fill(gate.address, "/a");
    let (newer, was_kept) = hit(&gate, "/a", "br");
    assert!(!was_kept && newer.text() != kept.text(), "of what is gone nothing is told");
}
