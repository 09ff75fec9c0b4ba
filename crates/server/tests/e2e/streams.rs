//! Exchanges that are more than a request and an answer: events, gRPC, trailers, uploads, and their ends.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_testkit::frames::{Frames, get, kind};
use tidegate_testkit::h2;
use tidegate_testkit::{
    Gate, H2Call, H2Origin, Origin, Reply, Visit, ask, block_on, connect, h2_connect, h2_read, nobody,
    read_answer, until,
};

use crate::{app, gate};

/// A connection on which these bytes were sent.
pub fn sent(address: SocketAddr, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(bytes.as_ref()).unwrap();
    stream
}

/// Reads until these bytes have come: all that came.
pub fn read_until(stream: &mut impl std::io::Read, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let count = stream.read(&mut byte).unwrap_or_else(|error| panic!("{error} after {}", lossy(&seen)));
        assert_eq!(count, 1, "closed after {}", lossy(&seen));
        seen.push(byte[0]);
    }
    lossy(&seen)
}

pub fn read_rest(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    if let Err(error) = stream.read_to_end(&mut seen) {
        panic!("{error} after {}", lossy(&seen));
    }
    lossy(&seen)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An origin whose script waits for the test at the places where it receives.
fn stepped(
    script: impl Fn(&mut Visit, &dyn Fn() -> Option<()>) -> Option<()> + Send + Sync + 'static,
) -> (Origin, SyncSender<()>) {
    let (go, wait) = sync_channel(16);
    let wait = Mutex::new(wait);
    let origin = Origin::scripted(move |visit| {
        script(visit, &|| wait.lock().recv_timeout(tidegate_testkit::PATIENCE).ok())
    });
    (origin, go)
}

fn h2_app(origin: &H2Origin) -> String {
    app(&[origin.address], "protocol = \"h2\"", "path = \"/\"\ndeadline = \"10s\"")
}

#[test]
fn events_arrive_one_by_one() {
    let (origin, go) = stepped(|visit, wait| {
        visit.say(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
            visit.say(format!("{:x}\r\n{event}\r\n", event.len()))?;
            wait()?;
        }
        visit.say("0\r\n\r\n")
    });
    let gate = gate("sse", &app(&[origin.address], "", ""));
    let mut stream = sent(gate.address, "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
    for number in 1..=3 {
        // The next event is not made before this one was read.
        read_until(&mut stream, &format!("data: {number}\n\n\r\n"));
        go.send(()).unwrap();
    }
    read_until(&mut stream, "0\r\n\r\n");
    for _ in 0..3 {
        go.send(()).unwrap();
    }
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request = http::Request::get("http://a/").body(()).unwrap();
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(h2_read(&mut response.into_body()).await.0, b"data: 1\n\ndata: 2\n\ndata: 3\n\n");
    });
}

/// Answers each message with its own, and the end with the trailers of success.
async fn grpc_echo(mut call: H2Call) {
    let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut send = call.respond.send_response(response, false).unwrap();
    while let Some(Ok(message)) = call.body.data().await {
        let _ = call.body.flow_control().release_capacity(message.len());
        send.send_data(message, false).unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("x-sum", "7".parse().unwrap());
    send.send_trailers(trailers).unwrap();
}

fn grpc(path: &str) -> http::Request<()> {
    http::Request::post(format!("http://a{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

#[test]
fn grpc_messages_go_both_ways_at_once_and_end_with_trailers() {
    let origin = H2Origin::start(grpc_echo);
    let gate = gate("grpc", &h2_app(&origin));
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let (response, mut send) = client.send_request(grpc("/echo.Echo/Both"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (http::StatusCode::OK, &"application/grpc".parse().unwrap())
        );
        let mut body = response.into_body();
        for message in ["one", "two"] {
            send.send_data(Bytes::from(message), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), message, "answered before the next is sent");
        }
        send.send_data(Bytes::new(), true).unwrap();
        let (rest, trailers) = h2_read(&mut body).await;
        let trailers = trailers.expect("trailers pass");
        assert_eq!(
            (rest.len(), &trailers["grpc-status"], &trailers["x-sum"]),
            (0, &"0".parse().unwrap(), &"7".parse().unwrap())
        );
    });
    let head = &origin.recorded()[0];
    assert!(head.contains("\"te\": \"trailers\"") && head.contains("/echo.Echo/Both"), "{head}");
}

#[test]
fn a_refused_grpc_call_has_a_grpc_status() {
    let gate = gate("grpc-refused", &app(&[nobody()], "protocol = \"h2\"", "path = \"/there/\""));
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        for (path, status) in [("/else/Call", "12"), ("/there/Call", "14")] {
            let response = client.send_request(grpc(path), true).unwrap().0.await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            assert_eq!(response.headers()["grpc-status"], status, "{path}: {:?}", response.headers());
            assert!(response.headers().contains_key("grpc-message"));
            assert!(h2_read(&mut response.into_body()).await.0.is_empty());
        }
        // What is refused before any stage looks at it, too.
        let mut request = grpc("/there/Call");
        for _ in 0..100 {
            request.headers_mut().append("x-many", "y".parse().unwrap());
        }
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        let code = response.headers().get("grpc-status").map(http::HeaderValue::as_bytes);
        assert_eq!((response.status().as_u16(), code), (200, Some(&b"8"[..])), "{:?}", response.headers());
        assert!(response.into_body().is_end_stream(), "all of it stands in the head");
    });
}

const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";

#[test]
fn a_client_that_asks_first_is_told_to_go_on_when_the_upstream_wants_the_body() {
    let (origin, go) = stepped(|visit, wait| {
        wait()?;
        visit.say("HTTP/1.1 100 Continue\r\n\r\n")?;
        let (length, _) = visit.read_body()?;
        visit.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{length}"))
    });
    let gate = gate("continue", &app(&[origin.address], "", ""));
    let mut stream = sent(gate.address, EXPECTING);
    until("the head arrives", || origin.recorded().len() == 1);
    assert!(origin.recorded()[0].head.to_ascii_lowercase().contains("\r\nexpect: 100-continue\r\n"));
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(stream.read(&mut [0]).is_err(), "the upstream has not said yet whether it wants the body");
    stream.set_read_timeout(Some(tidegate_testkit::PATIENCE)).unwrap();
    go.send(()).unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").unwrap();
    let answer = read_rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n5"), "{answer}");
}

#[test]
fn a_client_that_asks_first_is_not_told_to_go_on_when_the_answer_is_no() {
    let origin = Origin::scripted(|visit| visit.say("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno"));
    let gate = gate("expect-no", &app(&[origin.address], "", "path = \"/\"\nmethods = [\"POST\"]"));
    let answer = read_rest(&mut sent(gate.address, EXPECTING));
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.ends_with("no"), "the upstream's: {answer}");
    let answer = read_rest(&mut sent(gate.address, EXPECTING.replace("POST", "PUT")));
    assert!(answer.starts_with("HTTP/1.1 405 "), "the gate's: {answer}");
    let answer = read_rest(&mut sent(gate.address, EXPECTING.replace("100-continue", "200-ok")));
    assert!(answer.starts_with("HTTP/1.1 417 "), "an expectation that nobody knows: {answer}");
    assert_eq!(origin.recorded().len(), 1);
    // Whether the body still comes, nobody can know: the connection ends with the answer, and says so.
    let answer = read_rest(&mut sent(gate.address, EXPECTING.replace("Connection: close\r\n", "")));
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("connection: close"), "{answer}");
}

#[test]
fn a_client_that_asks_first_is_not_kept_waiting_by_an_upstream_that_does_not_know_of_it() {
    let origin = Origin::start(|_| Reply::Status(200, "whole".to_owned()));
    let gate = gate("expect-old", &app(&[origin.address], "", ""));
    let mut stream = sent(gate.address, EXPECTING);
    assert_eq!(read_until(&mut stream, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").unwrap();
    assert!(read_rest(&mut stream).ends_with("whole"));
    assert_eq!(origin.recorded()[0].length, 5);
}

#[test]
fn an_answer_that_comes_before_the_upload_has_ended_reaches_the_client() {
    let origin = Origin::scripted(|visit| {
        visit.say("HTTP/1.1 413 Enough\r\nContent-Length: 6\r\nConnection: close\r\n\r\nenough")?;
        None
    });
    let gate = gate("early", &app(&[origin.address], "", "path = \"/\"\nmethods = [\"POST\"]"));
    for (line, status) in [("POST /", 413), ("PUT /", 405)] {
        let mut stream = connect(gate.address);
        write!(stream, "{line} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
        // It sends on until it can send no more, and only then looks whether there is an answer.
        stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        for _ in 0..100 {
            if stream.write_all(&[0; 65536]).is_err() {
                break;
            }
        }
        assert_eq!(read_answer(&mut stream).status, status, "{line}");
    }
}

#[test]
fn an_early_answer_over_http2_leaves_the_connection_to_the_other_streams() {
    let origin = Origin::scripted(|visit| match visit.path() {
        "/early" => {
            visit.say("HTTP/1.1 413 Enough\r\nContent-Length: 6\r\nConnection: close\r\n\r\nenough")?;
            None
        }
        _ => visit.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    });
    let gate = gate("h2-early", &app(&[origin.address], "", ""));
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request = http::Request::post("http://a/early").body(()).unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from(vec![0; 100_000]), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(h2_read(&mut response.into_body()).await.0, b"enough");
        // The rest of the upload is not wanted, and that is said (RFC 9113 section 8.1).
        let reset = std::future::poll_fn(|context| send.poll_reset(context)).await.unwrap();
        assert!([h2::Reason::NO_ERROR, h2::Reason::CANCEL].contains(&reset), "{reset:?}");
        let request = http::Request::get("http://a/next").body(()).unwrap();
        assert_eq!(client.send_request(request, true).unwrap().0.await.unwrap().status(), 200);
    });
}

#[test]
fn the_answer_to_head_has_lengths_and_no_body() {
    let origin = Origin::scripted(|visit| {
        let head = match visit.path() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "/304" => "HTTP/1.1 304 Same\r\nETag: \"x\"\r\n\r\n",
            _ => "HTTP/1.1 204 Nothing\r\n\r\n",
        };
        visit.say(head)
    });
    let gate = gate("head", &app(&[origin.address], "", ""));
    let mut stream = connect(gate.address);
    for (line, status, length) in [
        ("HEAD /length", "200", Some("1234")),
        ("HEAD /chunked", "200", None),
        ("GET /304", "304", None),
        ("GET /204", "204", None),
        ("HEAD /204", "204", None),
        ("HEAD /length", "200", Some("1234")),
    ] {
        write!(stream, "{line} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").to_ascii_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{line}: {head}");
        let told = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert_eq!(told, length, "{line}: {head}");
    }
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request = http::Request::head("http://a/length").body(()).unwrap();
        let response = client.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.headers()["content-length"], "1234");
        assert!(response.into_body().is_end_stream());
    });
}

#[test]
fn bodies_in_chunks_and_their_trailers_pass_both_ways() {
    let (chunks, told) = sync_channel(8);
    let origin = Origin::scripted(move |visit| {
        let (length, trailers) = visit.read_body()?;
        chunks.send((length, trailers)).ok()?;
        visit.say("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")?;
        visit.say("2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n")
    });
    let gate = gate("chunks", &app(&[origin.address], "", ""));
    let mut stream = sent(
        gate.address,
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Check\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for chunk in ["1\r\na\r\n", "4\r\nbcde\r\n", "0\r\nX-Check: 9\r\n\r\n"] {
        stream.write_all(chunk.as_bytes()).unwrap();
    }
    let answer = read_until(&mut stream, "0\r\nx-sum: 5\r\n\r\n");
    assert!(answer.contains("transfer-encoding: chunked") && !answer.contains("content-length"), "{answer}");
    let (length, trailers) = told.recv().unwrap();
    assert_eq!((length, trailers.join("").to_ascii_lowercase()), (5, "x-check: 9".to_owned()));
    // From HTTP/2, where a body has no chunks, and back.
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request = http::Request::post("http://a/")
            .header("te", "trailers")
            .header("trailer", "x-check")
            .body(())
            .unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-check", "8".parse().unwrap());
        send.send_trailers(trailers).unwrap();
        let (bytes, trailers) = h2_read(&mut response.await.unwrap().into_body()).await;
        assert_eq!(
            (bytes, &trailers.expect("trailers pass")["x-sum"]),
            (b"abcde".to_vec(), &"5".parse().unwrap())
        );
    });
    let (length, trailers) = told.recv().unwrap();
    assert_eq!((length, trailers.join("").to_ascii_lowercase()), (3, "x-check: 8".to_owned()));
}

#[test]
fn cookies_in_pieces_are_one_for_an_upstream_that_speaks_http1() {
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let gate = gate("cookies", &app(&[origin.address], "", ""));
    block_on(async {
        let mut client = h2_connect(gate.address).await;
        let request =
            http::Request::get("http://a/").header("cookie", "a=1").header("cookie", "b=2").body(()).unwrap();
        assert_eq!(client.send_request(request, true).unwrap().0.await.unwrap().status(), 200);
    });
    let head = origin.recorded()[0].head.to_ascii_lowercase();
    assert!(head.contains("\r\ncookie: a=1; b=2\r\n") && head.matches("cookie").count() == 1, "{head}");
}

#[test]
fn a_client_that_has_only_closed_its_side_gets_its_answer() {
    let origin = Origin::start(|_| Reply::After(Duration::from_millis(300)));
    let gate = gate("half", &app(&[origin.address], "", ""));
    let mut stream = sent(gate.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = read_rest(&mut stream);
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
    // So do those that stand in line behind it.
    let mut stream = sent(gate.address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2));
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = read_rest(&mut stream);
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
}

/// A gate before an origin that keeps everybody waiting, and one request that has arrived there.
fn kept_waiting(name: &str) -> (Origin, Gate) {
    let origin = Origin::scripted(|visit| match visit.path() {
        "/body" => {
            visit.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")?;
            visit.until_left()
        }
        _ => visit.until_left(),
    });
    let gate = gate(name, &app(&[origin.address], "", "deadline = \"60s\""));
    (origin, gate)
}

#[test]
fn a_client_that_goes_cancels_the_upstreams_call() {
    let (origin, gate) = kept_waiting("left");
    // Before the answer, within it, and with an upload under way.
    for (number, (head, read)) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", ""),
        ("GET /body HTTP/1.1\r\nHost: a\r\n\r\n", "a\r\n"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = sent(gate.address, head);
        until("the request arrives", || origin.recorded().len() == number + 1);
        if !read.is_empty() {
            read_until(&mut stream, read);
        }
        drop(stream);
        until("the upstream's call is cancelled", || origin.left() == number + 1);
    }
}

#[test]
fn a_stream_that_is_reset_cancels_the_upstreams_call_and_no_other() {
    let (origin, gate) = kept_waiting("reset");
    let mut frames = Frames::connect(gate.address);
    for (stream, path) in [(1, "/"), (3, "/body"), (5, "/")] {
        frames.request(stream, true, &get(path)).unwrap();
    }
    until("all arrive", || origin.recorded().len() == 3);
    frames.until(|frame| frame.stream == 3 && frame.kind == kind::DATA).expect("the body begins");
    for (number, stream) in [(1, 1), (2, 3)] {
        frames.send(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]).unwrap();
        until("the upstream's call is cancelled", || origin.left() == number);
    }
    assert_eq!(origin.left(), 2, "the third goes on");
    // It is we who reset it, for an error of the stream: a window that is too large.
    frames.send(kind::WINDOW_UPDATE, 0, 5, &[0x7f, 255, 255, 255]).unwrap();
    until("the upstream's call is cancelled", || origin.left() == 3);
    frames.request(7, true, &get("/")).unwrap();
    until("another arrives", || origin.recorded().len() == 4);
    drop(frames);
    until("all are cancelled", || origin.left() == 4);
}

#[test]
fn a_call_that_is_cancelled_cancels_the_upstreams_stream() {
    let (gone, told) = sync_channel(8);
    let origin = H2Origin::start(move |mut call: H2Call| {
        let gone = gone.clone();
        async move {
            let reason = std::future::poll_fn(|context| call.respond.poll_reset(context)).await;
            let _ = gone.send(reason.ok());
        }
    });
    let gate = gate("h2-cancel", &h2_app(&origin));
    let mut frames = Frames::connect(gate.address);
    frames.request(1, true, &get("/")).unwrap();
    until("the request arrives", || origin.recorded().len() == 1);
    frames.send(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]).unwrap();
    assert_eq!(told.recv_timeout(tidegate_testkit::PATIENCE).unwrap(), Some(h2::Reason::CANCEL));
}

#[test]
fn a_large_body_passes_through_little_memory() {
    const MIB: u64 = 1 << 20;
    const LENGTH: u64 = 256;
    let origin = Origin::start(|_| Reply::Status(200, String::new()));
    let gate = gate("large", &app(&[origin.address], "", "deadline = \"120s\""));
    assert_eq!(ask(gate.address, "GET /", "").status, 200);
    let before = gate.memory();
    let mut stream = connect(gate.address);
    write!(stream, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", LENGTH * MIB).unwrap();
    let block = vec![0; MIB as usize];
    let mut most = 0;
    for _ in 0..LENGTH {
        stream.write_all(&block).unwrap();
        most = most.max(gate.memory());
    }
    assert_eq!(read_answer(&mut stream).status, 200);
    assert_eq!(origin.recorded()[1].length, LENGTH * MIB);
    assert!(most.saturating_sub(before) < 64 * MIB, "{} MiB more", (most - before) / MIB);
}
