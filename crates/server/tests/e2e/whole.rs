//! What is cut in the middle is never told on as whole, and each side is told what is true of its own connection.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_testkit::frames::{Frames, kind};
use tidegate_testkit::{
    H2Origin, Origin, PATIENCE, block_on, connect, h2, h2_connect, h2_read, read_answer, until,
};

use crate::streams::{read_rest, read_until, sent};
use crate::{app, gate};

#[test]
fn an_upload_that_is_reset_never_arrives_whole() {
    let (tell, told) = sync_channel(1);
    let origin = Origin::scripted(move |visit| {
        if visit.path() == "/early" {
            visit.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")?;
        }
        let body = visit.read_body();
        tell.send(body.is_some()).ok()?;
        visit.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    });
    let gate = gate("upload-reset", &app(&[origin.address], "", ""));
    let ways = ["/", "/early"].map(|path| [(path, h2::Reason::NO_ERROR), (path, h2::Reason::CANCEL)]);
    for (number, (path, code)) in ways.into_iter().flatten().enumerate() {
        let mut frames = Frames::connect(gate.address);
        let fields = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "a")];
        frames.request(1, false, &fields).unwrap();
        frames.send(kind::DATA, 0, 1, b"half").unwrap();
        until("the upstream is asked", || origin.recorded().len() == number + 1);
        if path == "/early" {
            frames.until(|frame| frame.kind == kind::DATA).expect("the answer has begun");
        }
        frames.send(kind::RST_STREAM, 0, 1, &u32::from(code).to_be_bytes()).unwrap();
        let whole = told.recv_timeout(PATIENCE).unwrap();
        assert!(!whole, "half of it, after {path} {code:?}");
    }
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let stream = sent(gate.address, head);
    until("the upstream is asked", || origin.recorded().len() == 5);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(!told.recv_timeout(PATIENCE).unwrap(), "half of it, after a FIN");
}

#[test]
fn an_early_answer_that_is_tried_again_gives_its_slot_to_the_next_try() {
    let again = AtomicBool::new(false);
    let origin = Origin::scripted(move |visit| {
        if !again.swap(true, Relaxed) {
            visit.say("HTTP/1.1 503 Busy\r\nContent-Length: 10\r\n\r\nx")?;
            return visit.until_left();
        }
        let length = visit.read_body()?.0;
        visit.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{length}"))
    });
    let lines = "concurrency = 1\nwaiting = { limit = 1, wait = \"60s\" }";
    let route = "retry = { tries = 2, backoff = \"1ms\", idempotent = true }";
    let gate = gate("early-again", &app(&[origin.address], lines, route));
    let mut stream = sent(gate.address, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf");
    until("it is tried again", || origin.recorded().len() == 2);
    stream.write_all(b"half").unwrap();
    let answer = read_answer(&mut stream);
    assert_eq!((answer.status, answer.body.as_str()), (200, "8"), "{}", answer.head);
}

#[test]
fn an_answer_whose_stream_is_reset_is_not_told_as_whole() {
    let (reset, resets) = sync_channel(1);
    let resets = Mutex::new(resets);
    let origin = H2Origin::start(move |mut call| {
        let reason: h2::Reason = match call.head.uri.path() {
            "/no-error" => h2::Reason::NO_ERROR,
            _ => h2::Reason::CANCEL,
        };
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        reset.send(go).unwrap();
        async move {
            let mut body = call.respond.send_response(http::Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"half"), false).unwrap();
            let _ = gone.await;
            body.send_reset(reason);
        }
    });
    let gate = gate("answer-reset", &app(&[origin.address], "protocol = \"h2\"", ""));
    for path in ["/no-error", "/cancel"] {
        let mut stream = sent(gate.address, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        read_until(&mut stream, "4\r\nhalf\r\n");
        resets.lock().recv().unwrap().send(()).unwrap();
        assert_eq!(read_rest(&mut stream), "", "{path}: it ends without an end");
    }
}

#[test]
fn an_answer_without_content_tells_of_none_and_an_old_version_is_not_passed_on() {
    let origin = Origin::scripted(|visit| match visit.path() {
        "/none" => visit.say("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
        "/same" => visit.say("HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n"),
        "/old" => {
            visit.say("HTTP/1.0 200 OK\r\n\r\nold")?;
            None
        }
        _ => visit.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    });
    let gate = gate("no-content", &app(&[origin.address], "", ""));
    let mut stream = connect(gate.address);
    let mut asked = |path: &str| {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        stream.try_clone().unwrap()
    };
    let answer = read_answer(&mut asked("/none"));
    assert!(answer.status == 204 && answer.header("content-length").is_empty(), "{}", answer.head);
    assert!(read_until(&mut asked("/same"), "\r\n\r\n").starts_with("HTTP/1.1 304 "));
    let old = read_until(&mut asked("/old"), "3\r\nold\r\n0\r\n\r\n");
    assert!(old.starts_with("HTTP/1.1 200 OK\r\n"), "{old}");
    assert_eq!(read_answer(&mut asked("/")).body, "ok");
}

#[test]
fn trailers_say_nothing_that_only_the_gate_may_say() {
    let (tell, told) = sync_channel(2);
    let origin = Origin::scripted(move |visit| {
        tell.send(visit.read_body()?.1).ok()?;
        visit
            .say("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")?;
        visit.say("X-Sum: 5\r\nConnection: close\r\nTransfer-Encoding: gzip\r\nContent-Length: 9\r\n\r\n")
    });
    let gate = gate("trailers", &app(&[origin.address], "", ""));
    let fields = [
        "Tidegate-Tenant: other",
        "X-Forwarded-For: 10.0.0.1",
        "X_Forwarded_For: 10.0.0.1",
        "Cookie: a=b",
        "X-Check: 9",
    ];
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Check\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = sent(gate.address, format!("{head}1\r\na\r\n0\r\n{}\r\n\r\n", fields.join("\r\n")));
    read_until(&mut stream, "2\r\nok\r\n0\r\nx-sum: 5\r\n\r\n");
    assert_eq!(told.recv().unwrap().join("\n").to_ascii_lowercase(), "x-check: 9");
    // Those of a connection make an answer in frames malformed.
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request = http::Request::post("http://a/").header("te", "trailers").body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        let mut trailers = http::HeaderMap::new();
        for name in ["authorization", "content-length", "tidegate-tenant", "x-check"] {
            trailers.insert(name, "8".parse().unwrap());
        }
        send.send_trailers(trailers).unwrap();
        let (bytes, trailers) = h2_read(&mut response.await.unwrap().into_body()).await;
        let names: Vec<_> =
            trailers.iter().flat_map(http::HeaderMap::keys).map(|name| name.as_str()).collect();
        assert_eq!((bytes.as_slice(), names), (b"ok".as_slice(), vec!["x-sum"]));
    });
    assert_eq!(told.recv().unwrap().join("\n").to_ascii_lowercase(), "x-check: 8");
}
