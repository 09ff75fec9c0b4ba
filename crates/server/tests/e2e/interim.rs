//! Interim responses (103 and the like): passed on while the answer is waited for, and part of no answer.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tidegate_testkit::{Gate, Origin, ask, block_on, connect, h2_connect, read_answer, send, until};

use crate::upstreams::timeline;
use crate::{app, gate};

const HINT: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Own: hint\r\nServer: app\r\n\
                    Tidegate-Purge: \"tenant\"\r\nConnection: hop\r\nHop: 1\r\nKeep-Alive: 5\r\nContent-Length: 7\r\n\r\n";
const WELL: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 4\r\n\r\nwell";

/// An application that says this before its answer.
fn saying(before: impl Into<String>) -> Origin {
    let before = before.into();
    Origin::scripted(move |visit| {
        visit.read_body()?;
        visit.say(&before)?;
        visit.say(WELL)
    })
}

fn before(name: &str, origin: &Origin, route: &str) -> Gate {
    gate(name, &app(&[origin.address], "", route))
}

#[test]
fn a_hint_reaches_the_client_before_the_answer_is_there() {
    let heard = Arc::new(AtomicBool::new(false));
    let may = Arc::clone(&heard);
    let origin = Origin::scripted(move |visit| {
        visit.say(HINT)?;
        until("the client has heard it", || may.load(SeqCst));
        visit.say(WELL)
    });
    let gate =
        before("interim", &origin, "response_headers = { remove = [\"server\"], add = { x-a = \"b\" } }");
    let mut stream = connect(gate.address);
    for _ in 0..2 {
        heard.store(false, SeqCst);
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let hint = read_answer_head(&mut stream);
        assert!(
            hint.starts_with("http/1.1 103 early hints\r\nlink: </a.css>; rel=preload\r\nx-own: hint\r\n"),
            "{hint}"
        );
        for gone in ["server", "tidegate", "hop", "keep-alive", "content-length", "x-a"] {
            assert!(!hint.contains(gone), "{gone}: {hint}");
        }
        heard.store(true, SeqCst);
        let answer = read_answer(&mut stream);
        assert_eq!((answer.status, &*answer.body, answer.header("link")), (200, "well", ""));
        assert!(timeline(&gate, &answer).contains("passed on an interim 103"));
    }
}

/// Reads one head, of an answer without content.
fn read_answer_head(stream: &mut std::net::TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(
            stream.read(&mut byte).expect("it comes"),
            1,
            "closed: {}",
            String::from_utf8_lossy(&head)
        );
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).to_ascii_lowercase()
}

#[test]
fn whoever_cannot_hear_them_gets_the_answer_alone() {
    let origin = saying(HINT);
    let gate = before("interim-deaf", &origin, "");
    let old = send(gate.address, b"GET /a HTTP/1.0\r\nHost: test\r\n\r\n");
    assert!(old.starts_with("HTTP/1.0 200") && old.ends_with("\r\n\r\nwell"), "{old}");
    let status = block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request = http::Request::get("http://test/a").body(()).expect("a request");
        let (response, _) = client.send_request(request, true).expect("it is sent");
        response.await.expect("an answer").status()
    });
    assert_eq!(status, 200);
}

#[test]
fn they_are_bounded_in_number_and_in_bytes() {
    let hint = |bytes: usize| format!("HTTP/1.1 103 Early Hints\r\nX-Long: {}\r\n\r\n", "x".repeat(bytes));
    for (name, each, count, most) in [("interim-many", 10, 16, 16), ("interim-long", 3_000, 10, 5)] {
        let origin = saying(hint(each).repeat(count));
        let gate = before(name, &origin, "");
        let told = send(gate.address, b"GET /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        assert_eq!(told.matches("HTTP/1.1 103").count(), most, "{told}");
        assert!(told.ends_with("\r\n\r\nwell"), "{told}");
    }
    let origin = saying(hint(10).repeat(17));
    let gate = before("interim-endless", &origin, "retry = { tries = 1 }");
    let told = send(gate.address, b"GET /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert!(told.contains("HTTP/1.1 502"), "{told}");
}

#[test]
fn they_are_part_of_nothing_that_is_stored() {
    let origin = saying(HINT);
    let gate = before("interim-cached", &origin, "cache = {}");
    let mut stream = connect(gate.address);
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(read_answer_head(&mut stream).starts_with("http/1.1 103"));
    assert_eq!(read_answer(&mut stream).body, "well");
    let mut answer = ask(gate.address, "GET /a", "");
    until("it comes from the cache, alone", || {
        let hit = answer.header("cache-status").starts_with("tidegate; hit");
        if !hit {
            answer = ask(gate.address, "GET /a", "");
        }
        hit
    });
    assert_eq!((answer.status, &*answer.body, answer.header("link")), (200, "well", ""));
}

#[test]
fn a_continue_is_said_to_whoever_waits_for_it_and_to_nobody_else() {
    let origin = saying("HTTP/1.1 100 Continue\r\n\r\n");
    let gate = before("interim-continue", &origin, "");
    assert_eq!(ask(gate.address, "GET /a", "").status, 200);
}
