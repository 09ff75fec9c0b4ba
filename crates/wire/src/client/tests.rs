use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tidegate_model::message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::body::BoxError;
use crate::settings::ClientTlsSettings;

const NEVER: Tick = Tick::MAX;

type Served = Result<Response<Body>, std::convert::Infallible>;

async fn hello(request: Request<Incoming>) -> Served {
    let body = format!("{:?} {}", request.version(), request.uri());
    Ok(Response::new(Body::full(body)))
}

async fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Serves one connection with what `serve` makes of it.
async fn serving<F>(serve: impl FnOnce(TcpStream) -> F + 'static) -> SocketAddr
where
    F: Future<Output = ()>,
{
    let (listener, address) = listening().await;
    task::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream).await;
    });
    address
}

async fn serve_http1<I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static>(io: I) {
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service_fn(hello)).await;
}

async fn serve_http2<I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static>(io: I) {
    let builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    let _ = builder.serve_connection(io, service_fn(hello)).await;
}

fn plain(address: SocketAddr, protocol: Protocol) -> Target {
    Target { address, protocol, tls: None }
}

fn get(uri: &str) -> message::Request<Body> {
    Request::get(uri).header("host", "app").body(Body::Empty).unwrap().into()
}

/// Sends a request, and tells the body of the response.
async fn text(sender: Sender, uri: &str) -> (String, Option<Sender>) {
    let mut reply = sender.send(&mut get(uri), NEVER).await.unwrap().into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = reply.frame().await {
        bytes.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default());
    }
    (String::from_utf8(bytes).unwrap(), reply.into_sender())
}

/// What a request comes to on a server that answers with these bytes and closes.
async fn check_answer(answer: impl Into<Vec<u8>>, expected: SendErrorKind) {
    let answer = answer.into();
    let address = serving(async move |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(&answer).await;
    })
    .await;
    let sender = connect(&plain(address, Protocol::Http1)).await.unwrap();
    let error = sender.send(&mut get("/"), NEVER).await.unwrap_err();
    assert_eq!(error.kind, expected, "{:?}", error.source);
    assert!(error.sent);
}

#[tokio::test(flavor = "local")]
async fn speaks_http1_and_keeps_the_connection() {
    let address = serving(async |stream| serve_http1(TokioIo::new(stream)).await).await;
    let sender = connect(&plain(address, Protocol::Auto)).await.unwrap();
    let (said, sender) = text(sender, "/a").await;
    assert_eq!(said, "HTTP/1.1 /a");
    let (said, sender) = text(sender.unwrap(), "/b").await;
    assert_eq!(said, "HTTP/1.1 /b");
    let mut sender = sender.unwrap();
    assert!(sender.try_clone().is_none() && !sender.is_http2() && sender.is_ready());
}

#[tokio::test(flavor = "local")]
async fn speaks_http2_by_prior_knowledge_with_many_requests_at_once() {
    let address = serving(async |stream| serve_http2(TokioIo::new(stream)).await).await;
    let first = connect(&plain(address, Protocol::H2)).await.unwrap();
    let second = first.try_clone().unwrap();
    let ((one, _), (two, _)) = tokio::join!(text(first, "http://app/a"), text(second, "http://app/b"));
    assert_eq!((one.as_str(), two.as_str()), ("HTTP/2.0 http://app/a", "HTTP/2.0 http://app/b"));
}

#[tokio::test(flavor = "local")]
async fn knows_how_many_streams_the_server_takes_before_the_first_request() {
    let address = serving(async |stream| {
        let mut connection =
            h2::server::Builder::new().max_concurrent_streams(3).handshake::<_, Bytes>(stream).await.unwrap();
        while connection.accept().await.is_some() {}
    })
    .await;
    let sender = connect(&plain(address, Protocol::H2)).await.unwrap();
    assert_eq!(sender.streams_max(), 3);
}

#[tokio::test(flavor = "local")]
async fn a_server_that_ends_before_its_settings_does_not_speak_http2() {
    let address = serving(async |stream| drop(stream)).await;
    let error = connect(&plain(address, Protocol::H2)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Http(..)), "{error:?}");
}

#[tokio::test(flavor = "local")]
async fn tells_where_nobody_listens() {
    // Bound, and not listening: nobody else gets the port meanwhile.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = held.local_addr().unwrap();
    let error = connect(&plain(address, Protocol::Http1)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tcp(at, _) if at == address), "{error:?}");
}

#[tokio::test(flavor = "local")]
async fn gives_a_request_back_that_was_not_sent() {
    for (protocol, uri) in [(Protocol::Http1, "/kept"), (Protocol::H2, "http://app/kept")] {
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let address = serving(async move |stream: TcpStream| match protocol {
            // A reset, not an end: of what is written after an end the kernel takes the first bytes.
            Protocol::Http1 => {
                let _ = closed.await;
                stream.set_zero_linger().unwrap();
            }
            _ => {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                tokio::select! { _ = connection.accept() => {}, _ = closed => {} }
            }
        })
        .await;
        let mut sender = connect(&plain(address, protocol)).await.unwrap();
        close.send(()).unwrap();
        while !sender.is_closed() {
            tokio::task::yield_now().await;
        }
        let mut kept = Request::post(uri).body(Body::full("kept")).unwrap().into();
        let error = sender.send(&mut kept, NEVER).await.unwrap_err();
        assert!(error.kind == SendErrorKind::Closed && !error.sent, "{protocol:?}: {error:?}");
        assert_eq!(kept.uri(), uri);
        assert_eq!(kept.into_body().collect().await.unwrap().to_bytes(), "kept");
    }
}

#[tokio::test(flavor = "local")]
async fn tells_malformed_answers_from_closed_connections() {
    check_answer("", SendErrorKind::Closed).await;
    check_answer("HTTP/1.1 200 OK\r\ncontent-le", SendErrorKind::Closed).await;
    check_answer("what?\r\n\r\n", SendErrorKind::Protocol).await;
    check_answer("HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n", SendErrorKind::Protocol).await;
    check_answer("HTTP/1.1 200 OK\r\nspaced : 1\r\n\r\n", SendErrorKind::Protocol).await;
    check_answer(
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        SendErrorKind::Protocol,
    )
    .await;
}

#[tokio::test(flavor = "local")]
async fn bounds_the_head_of_a_response() {
    let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
    check_answer(format!("HTTP/1.1 200 OK\r\n{many}\r\n"), SendErrorKind::Protocol).await;
    let long = "b".repeat(HEAD_BYTES_MAX);
    check_answer(format!("HTTP/1.1 200 OK\r\na: {long}\r\n\r\n"), SendErrorKind::Protocol).await;
}

/// A body whose first frame is an error.
struct Broken;

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(Err("the client went away".into())))
    }
}

#[tokio::test(flavor = "local")]
async fn blames_the_request_for_its_own_body() {
    for (protocol, uri) in [(Protocol::Http1, "/"), (Protocol::H2, "http://app/")] {
        let address = serving(async move |stream| match protocol {
            Protocol::H2 => serve_http2(TokioIo::new(stream)).await,
            // Waits for the body.
            _ => drop({ stream }.read_to_end(&mut Vec::new()).await),
        })
        .await;
        let sender = connect(&plain(address, protocol)).await.unwrap();
        let mut request = Request::post(uri).header("host", "app").body(Body::boxed(Broken)).unwrap().into();
        let error = sender.send(&mut request, NEVER).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::Body, "{protocol:?}: {:?}", error.source);
        assert!(error.sent, "{protocol:?}: there is nothing left that could be sent again");
    }
}

#[tokio::test(flavor = "local")]
async fn knows_a_refused_stream_from_a_reset_one() {
    for (reason, expected) in [
        (h2::Reason::REFUSED_STREAM, SendErrorKind::Refused),
        (h2::Reason::INTERNAL_ERROR, SendErrorKind::Closed),
    ] {
        let address = serving(async move |stream| {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(reason);
            }
        })
        .await;
        let sender = connect(&plain(address, Protocol::H2)).await.unwrap();
        let error = sender.send(&mut get("http://app/"), NEVER).await.unwrap_err();
        assert_eq!(error.kind, expected, "{:?}", error.source);
    }
}

/// The bytes of a request as its server gets them, when `answer` is what it says after the head.
async fn sent(request: impl Into<message::Request<Body>>, answer: &'static [u8]) -> String {
    let (listener, address) = listening().await;
    let (got, read) = tokio::sync::oneshot::channel();
    task::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut bytes, mut answered) = (Vec::new(), false);
        while stream.read_buf(&mut bytes).await.is_ok_and(|length| length > 0) {
            if !answered && bytes.windows(4).any(|four| four == b"\r\n\r\n") {
                stream.write_all(answer).await.unwrap();
                answered = true;
            }
        }
        got.send(bytes).unwrap();
    });
    let sender = connect(&plain(address, Protocol::Http1)).await.unwrap();
    let mut reply = sender.send(&mut request.into(), NEVER).await.unwrap().into_body();
    std::future::poll_fn(|context| reply.poll_sent(context)).await;
    drop(reply);
    String::from_utf8(read.await.unwrap()).unwrap()
}

/// A body of these frames that never tells its length.
fn frames(frames: Vec<Frame<Bytes>>) -> Body {
    let frames = futures_util::stream::iter(frames.into_iter().map(Ok::<_, BoxError>));
    Body::boxed(http_body_util::StreamBody::new(frames))
}

#[tokio::test(flavor = "local")]
async fn frames_a_request_by_its_body_alone() {
    let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
    let request = Request::post("/a?b").header("host", "app").header("content-length", "9");
    let bytes = sent(request.body(Body::full("four")).unwrap(), answer).await;
    assert_eq!(bytes, "POST /a?b HTTP/1.1\r\nhost: app\r\ncontent-length: 4\r\n\r\nfour");
    let request = Request::put("http://app/").header("transfer-encoding", "gzip").body(Body::Empty).unwrap();
    assert_eq!(sent(request, answer).await, "PUT / HTTP/1.1\r\nhost: app\r\ncontent-length: 0\r\n\r\n");
    let bytes = sent(get("/"), answer).await;
    assert_eq!(bytes, "GET / HTTP/1.1\r\nhost: app\r\n\r\n");
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    trailers.insert("content-length", "7".parse().unwrap());
    let parts = ["ab", "", "c"].map(|part| Frame::data(Bytes::from(part)));
    let body = frames(parts.into_iter().chain([Frame::trailers(trailers)]).collect());
    let bytes = sent(Request::post("/").header("host", "app").body(body).unwrap(), answer).await;
    let expected = "POST / HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nx-sum: 7\r\n\r\n";
    assert_eq!(bytes, expected);
}

#[tokio::test(flavor = "local")]
async fn goes_on_sending_after_an_early_answer() {
    let (listener, address) = listening().await;
    let (got, read) = tokio::sync::oneshot::channel();
    task::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 1];
        stream.read_exact(&mut bytes).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
            .await
            .unwrap();
        stream.read_to_end(&mut bytes).await.unwrap();
        got.send(bytes).unwrap();
    });
    let (late, body) = tokio::sync::mpsc::channel::<Bytes>(1);
    let body = futures_util::stream::unfold(body, async |mut body| {
        let data = body.recv().await?;
        Some((Ok::<_, BoxError>(Frame::data(data)), body))
    });
    let body = Body::boxed(http_body_util::StreamBody::new(body));
    let sender = connect(&plain(address, Protocol::Http1)).await.unwrap();
    let mut request = Request::post("/").header("host", "app").body(body).unwrap().into();
    let mut response = sender.send(&mut request, NEVER).await.unwrap();
    assert!(response.status() == StatusCode::OK && response.body().is_uploading());
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "hi");
    late.send(Bytes::from("more")).await.unwrap();
    drop(late);
    std::future::poll_fn(|context| response.body_mut().poll_sent(context)).await;
    assert!(!response.body().is_uploading());
    assert!(response.into_body().into_sender().is_some(), "both have ended: it can be used again");
    assert!(read.await.unwrap().ends_with(b"4\r\nmore\r\n0\r\n\r\n"));
}

#[tokio::test(flavor = "local")]
async fn a_granted_upgrade_is_a_tunnel_with_what_came_behind_the_head() {
    let address = serving(async |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\n\r\nfirst").await;
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let target = plain(address, Protocol::Http1);
    let mut request = Request::get("/").header("host", "app").header("connection", "upgrade");
    request = request.header("upgrade", "echo");
    let mut request = request.body(Body::Empty).unwrap().into();
    let response = connect(&target).await.unwrap().send(&mut request, NEVER).await.unwrap();
    let mut tunnel = response.into_body().into_tunnel().unwrap();
    let mut bytes = [0; 10];
    tunnel.write_all(b"again").await.unwrap();
    tunnel.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"firstagain");
    // Nobody asked for it: the bytes that would follow are not HTTP.
    check_answer("HTTP/1.1 101 Switching Protocols\r\n\r\n", SendErrorKind::Protocol).await;
}

#[tokio::test(flavor = "local")]
async fn what_comes_after_an_answer_ends_the_connection() {
    let address = serving(async |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 1024]).await;
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
        let _ = stream.write_all(format!("{answer}hi{answer}").as_bytes()).await;
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let (said, sender) = text(connect(&plain(address, Protocol::Http1)).await.unwrap(), "/").await;
    assert_eq!(said, "hi");
    assert!(sender.is_none(), "an answer to nobody's request would be taken for the next one's");
}

/// What one request comes to on a server that answers these bytes, and the connection if it may be used again.
async fn answered(answer: Vec<u8>) -> (usize, Option<Sender>) {
    let address = serving(async move |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(&answer).await;
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let (said, sender) = text(connect(&plain(address, Protocol::Http1)).await.unwrap(), "/").await;
    (said.len(), sender)
}

#[tokio::test(flavor = "local")]
async fn neither_a_head_that_drips_nor_an_upload_that_is_not_taken_outlasts_the_time() {
    for drips in [true, false] {
        let address = serving(async move |mut stream: TcpStream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\na: ").await;
            while drips && stream.write_all(b"b").await.is_ok() {
                clock::sleep(Duration::from_millis(1)).await;
            }
            std::future::pending().await
        })
        .await;
        let sender = connect(&plain(address, Protocol::Http1)).await.unwrap();
        let endless = futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from(vec![0; 64 * 1024]))));
        let body = if drips { Body::Empty } else { Body::boxed(http_body_util::StreamBody::new(endless)) };
        let mut request = Request::post("/").header("host", "app").body(body).unwrap().into();
        let by = clock::now().after(Duration::from_millis(40));
        let error = sender.send(&mut request, by).await.unwrap_err();
        assert!(error.kind == SendErrorKind::Late && error.sent, "{error:?}");
    }
}

#[tokio::test(flavor = "local")]
async fn an_idle_connection_holds_nothing_of_a_large_answer() {
    for length in [2, 4 << 20] {
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'a');
        let (read, sender) = answered(answer).await;
        let Some(Sender::Http1(connection)) = sender else { panic!("it can be used again") };
        assert_eq!(read, length);
        assert!(connection.room() <= 8 * 1024, "{} after {length} bytes", connection.room());
    }
}

#[tokio::test(flavor = "local")]
async fn what_nobody_asked_for_is_noticed_by_a_task_that_has_done_much_in_its_turn() {
    let (say, said) = tokio::sync::oneshot::channel();
    let address = serving(async move |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        let _ = said.await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let (_, sender) = text(connect(&plain(address, Protocol::Http1)).await.unwrap(), "/").await;
    let mut sender = sender.unwrap();
    say.send(()).unwrap();
    let Sender::Http1(connection) = &mut sender else { unreachable!() };
    // Something has come: nobody has read it yet.
    connection.readable().await;
    let closed = std::future::poll_fn(|context| {
        while let Poll::Ready(progress) = tokio::task::coop::poll_proceed(context) {
            progress.made_progress();
        }
        Poll::Ready(sender.is_closed())
    })
    .await;
    assert!(closed);
}

#[tokio::test(flavor = "local")]
async fn a_change_of_protocol_within_the_request_is_none() {
    let address = serving(async |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\n\r\n").await;
        let _ = stream.read(&mut [0; 1]).await;
    })
    .await;
    let never = futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>();
    let body = Body::boxed(http_body_util::StreamBody::new(never));
    let request = Request::post("/").header("host", "app").header("upgrade", "echo");
    let sender = connect(&plain(address, Protocol::Http1)).await.unwrap();
    let error = sender.send(&mut request.body(body).unwrap().into(), NEVER).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Protocol);
}

/// A TLS server for `app.test`, and the file of the authority that vouches for it.
struct Secure {
    acceptor: TlsAcceptor,
    ca: std::path::PathBuf,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.ca);
    }
}

fn secure(alpn: &[&[u8]]) -> Secure {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let certified = rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    let ca = std::env::temp_dir().join(format!("tidegate-ca-{}-{count}.pem", std::process::id()));
    std::fs::write(&ca, certified.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Secure { acceptor: TlsAcceptor::from(Arc::new(config)), ca }
}

/// What a connection with these settings comes to: the HTTP version it speaks, or where it failed.
async fn check_tls(
    alpn: &[&[u8]],
    protocol: Protocol,
    settings: impl FnOnce(&Secure) -> ClientTlsSettings,
    expected: &str,
) {
    let server = secure(alpn);
    let acceptor = server.acceptor.clone();
    let address = serving(async move |stream| {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => serve_http2(TokioIo::new(stream)).await,
            _ => serve_http1(TokioIo::new(stream)).await,
        }
    })
    .await;
    let tls = Arc::new(ClientTls::new(&settings(&server), None).unwrap());
    let found = match connect(&Target { address, protocol, tls: Some(tls) }).await {
        Ok(sender) => {
            let uri = if sender.is_http2() { "https://app.test/" } else { "/" };
            let response = sender.send(&mut get(uri), NEVER).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            if response.version() == Version::HTTP_2 { "h2" } else { "http/1.1" }
        }
        Err(ConnectError::Tcp(..)) => "tcp",
        Err(ConnectError::Tls(..)) => "tls",
        Err(ConnectError::Http(..)) => "http",
    };
    assert_eq!(found, expected, "{alpn:?} {protocol:?}");
}

fn trusting(server: &Secure) -> ClientTlsSettings {
    let (server_name, ca) = (Some("app.test".to_owned()), Some(server.ca.clone()));
    ClientTlsSettings { server_name, ca, ..ClientTlsSettings::default() }
}

#[tokio::test(flavor = "local")]
async fn an_answer_over_tls_that_is_cut_is_not_taken_for_whole() {
    for whole in [true, false] {
        let server = secure(&[b"http/1.1"]);
        let acceptor = server.acceptor.clone();
        let address = serving(async move |stream| {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\npart").await.unwrap();
            stream.flush().await.unwrap();
            if whole {
                stream.shutdown().await.unwrap();
            }
        })
        .await;
        let tls = Arc::new(ClientTls::new(&trusting(&server), None).unwrap());
        let target = Target { address, protocol: Protocol::Http1, tls: Some(tls) };
        let sender = connect(&target).await.unwrap();
        let body = sender.send(&mut get("/"), NEVER).await.unwrap().into_body();
        assert_eq!(body.collect().await.is_ok(), whole);
    }
}

#[tokio::test(flavor = "local")]
async fn bytes_go_both_ways_at_once_over_tls_though_either_side_is_slow_to_take_them() {
    const LENGTH: usize = 2 << 20;
    let server = secure(&[b"http/1.1"]);
    let acceptor = server.acceptor.clone();
    let address = serving(async move |stream| {
        let mut stream = acceptor.accept(stream).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
        stream.read_exact(&mut [0; 1]).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        // What was read is answered, never more: each side waits for the other again and again.
        let mut buffer = vec![0; 64 * 1024];
        let mut left = LENGTH;
        while left > 0 {
            let length = read.read(&mut buffer).await.unwrap().min(left);
            write.write_all(&buffer[..length]).await.unwrap();
            write.flush().await.unwrap();
            left -= length;
        }
        let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
    })
    .await;
    let tls = Arc::new(ClientTls::new(&trusting(&server), None).unwrap());
    let target = Target { address, protocol: Protocol::Http1, tls: Some(tls) };
    let sender = connect(&target).await.unwrap();
    let body = frames((0..LENGTH / 4096 + 1).map(|_| Frame::data(Bytes::from(vec![b'a'; 4096]))).collect());
    let mut request = Request::post("/").header("host", "app").body(body).unwrap().into();
    let mut reply = sender.send(&mut request, NEVER).await.unwrap().into_body();
    let mut read = 0;
    while let Some(frame) = reply.frame().await {
        read += frame.unwrap().into_data().unwrap_or_default().len();
    }
    assert_eq!(read, LENGTH);
}

#[tokio::test(flavor = "local")]
async fn verifies_the_authority_and_the_name() {
    let stranger = secure(&[]);
    check_tls(&[], Protocol::Http1, trusting, "http/1.1").await;
    check_tls(
        &[],
        Protocol::Http1,
        |server: &Secure| ClientTlsSettings { ca: Some(stranger.ca.clone()), ..trusting(server) },
        "tls",
    )
    .await;
    let other = |server: &Secure| ClientTlsSettings {
        server_name: Some("other.test".to_owned()),
        ..trusting(server)
    };
    check_tls(&[], Protocol::Http1, other, "tls").await;
    // Without a name the address is what is verified, and the certificate does not have it.
    check_tls(
        &[],
        Protocol::Http1,
        |server| ClientTlsSettings { server_name: None, ..trusting(server) },
        "tls",
    )
    .await;
    let any = |_: &Secure| ClientTlsSettings { insecure: true, ..ClientTlsSettings::default() };
    check_tls(&[], Protocol::Http1, any, "http/1.1").await;
}

#[tokio::test(flavor = "local")]
async fn speaks_what_alpn_chooses() {
    let both: &[&[u8]] = &[b"h2", b"http/1.1"];
    check_tls(both, Protocol::Auto, trusting, "h2").await;
    check_tls(&[b"http/1.1"], Protocol::Auto, trusting, "http/1.1").await;
    check_tls(&[], Protocol::Auto, trusting, "http/1.1").await;
    check_tls(both, Protocol::Http1, trusting, "http/1.1").await;
    check_tls(both, Protocol::H2, trusting, "h2").await;
    check_tls(&[], Protocol::H2, trusting, "http").await;
    check_tls(&[b"http/1.1"], Protocol::H2, trusting, "tls").await;
}

#[test]
fn an_unusable_authority_or_name_is_told_when_it_is_configured() {
    let missing =
        ClientTlsSettings { ca: Some("/nonexistent/ca.pem".into()), ..ClientTlsSettings::default() };
    let error = ClientTls::new(&missing, None).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/ca.pem: "), "{error}");
    let error = ClientTls::new(&ClientTlsSettings::default(), Some("not a name")).unwrap_err();
    assert_eq!(error.to_string(), "`not a name` is not a server name");
}
