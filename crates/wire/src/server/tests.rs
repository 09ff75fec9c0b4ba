//! The server on real sockets, with a handler that does what the path says.

use std::time::Duration;

use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::body::Body;
use crate::listen;
use crate::settings::CertificateFiles;
use crate::task::LocalExecutor;
use crate::tls::{CertificateSet, Certificates};
use crate::tunnel::{self, ClientSide};

mod crowd;
mod ends;

/// Answers `/` at once, `/wait` when the gate opens, `/told` when it is told to, `/body` with the body's length; anything else with its
/// path.
#[derive(Default)]
struct Fake {
    gate: Notify,
    begun: Notify,
    aside: Notify,
    /// An exchange was dropped before it was answered.
    cancelled: Rc<Notify>,
    seen: RefCell<Vec<String>>,
    refused: RefCell<Vec<&'static str>>,
    /// Who waits at `/told`.
    waiting: RefCell<Vec<oneshot::Sender<()>>>,
}

struct Cancelled(Option<Rc<Notify>>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(cancelled) = self.0.take() {
            cancelled.notify_one();
        }
    }
}

impl Fake {
    async fn answer(self: Rc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let mut guard = Cancelled(Some(Rc::clone(&self.cancelled)));
        self.seen.borrow_mut().push(request.uri().path().to_owned());
        self.begun.notify_one();
        let answer = match request.uri().path() {
            "/wait" => {
                self.gate.notified().await;
                "waited".to_owned()
            }
            "/told" => {
                guard.0 = None;
                return crowd::told(&self).await;
            }
            "/peer" => peer.to_string(),
            "/body" => match request.into_body().collect().await {
                Ok(body) => body.to_bytes().len().to_string(),
                Err(_) => "broken body".to_owned(),
            },
            "/ignored" => "no".to_owned(),
            "/stream" => {
                guard.0 = None;
                return Response::new(Body::boxed(StreamBody::new(futures_util::stream::iter(
                    [Ok(Frame::data(Bytes::from_static(b"abc"))), Err("upstream broke".into())]
                        .into_iter()
                        .take(if request.uri().query().is_some() { 2 } else { 1 }),
                ))));
            }
            "/aside" => {
                // Somebody else goes on reading the body after the answer.
                let this = Rc::clone(&self);
                task::spawn(async move {
                    let read = request.into_body().collect().await;
                    let told = read.map_or("cut".to_owned(), |body| body.to_bytes().len().to_string());
                    this.seen.borrow_mut().push(told);
                    this.aside.notify_one();
                });
                "aside".to_owned()
            }
            "/panic" => {
                task::spawn(async move {
                    let read = request.into_body().collect().await;
                    self.seen.borrow_mut().push(read.map_or("cut", |_| "whole").to_owned());
                    self.aside.notify_one();
                });
                panic!("the handler panics, as it is told");
            }
            "/large" => {
                guard.0 = None;
                let data = Bytes::from_static(&[b'x'; 64 * 1024]);
                let frames = std::iter::repeat_with(move || Ok(Frame::data(data.clone())));
                return Response::new(Body::boxed(StreamBody::new(futures_util::stream::iter(frames))));
            }
            "/upgrade" => {
                guard.0 = None;
                return echo(request);
            }
            path => path.to_owned(),
        };
        guard.0 = None;
        Response::new(Body::full(answer))
    }
}

fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let client = ClientSide::of(request.extensions_mut());
    let (near, far) = tokio::io::duplex(64);
    task::spawn(async move {
        tunnel::run(client, near, Duration::from_secs(60), [&Unthrottled, &Unthrottled]).await;
    });
    task::spawn(async move {
        let (mut read, mut write) = tokio::io::split(far);
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", http::HeaderValue::from_static("upgrade"));
    response.headers_mut().insert("upgrade", http::HeaderValue::from_static("echo"));
    response
}

struct Unthrottled;

impl tunnel::Throttle for Unthrottled {
    fn most(&self) -> usize {
        64
    }

    fn wait(&self, _: usize) -> Duration {
        Duration::ZERO
    }
}

impl Handler for Fake {
    type Body = Body;

    fn handle(
        self: &Rc<Self>,
        request: Request<Incoming>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Response<Body>> + 'static {
        Rc::clone(self).answer(request, connection.peer)
    }

    fn refuse(&self, _: &Connection, refusal: Refusal, _: Option<&Fields>) -> Response<Bytes> {
        self.refused.borrow_mut().push(refusal.kind.code);
        let mut response = Response::new(Bytes::from_static(refusal.kind.code.as_bytes()));
        *response.status_mut() = http::StatusCode::from_u16(refusal.kind.status).unwrap();
        response
    }
}

/// The bytes that a future takes.
fn size_of_future<F>(
    _: impl FnOnce(Rc<Server<Fake>>, TcpStream, Seat, Rc<Connection>, &'static ListenerSettings) -> F,
) -> usize {
    size_of::<F>()
}

#[test]
fn the_task_of_a_connection_is_small() {
    let bytes = size_of_future(Server::serve);
    assert!(bytes <= 3072, "each idle connection takes {bytes} bytes for its task alone");
}

struct Scene {
    fake: Rc<Fake>,
    server: Rc<Server<Fake>>,
    address: SocketAddr,
}

impl Scene {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn connect_tls(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let settings = crate::settings::ClientTlsSettings { insecure: true, ..Default::default() };
        let tls = crate::client_tls::ClientTls::new(&settings, Some("a")).unwrap();
        let config = Arc::clone(tls.config(crate::settings::Protocol::Http1));
        let name = rustls::pki_types::ServerName::try_from("a").unwrap();
        tokio_rustls::TlsConnector::from(config).connect(name, self.connect().await).await.unwrap()
    }

    /// Sends these bytes and reads until the server closes.
    async fn exchange(&self, bytes: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// Reads until these bytes have come.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = String::new();
    while !answer.ends_with(end) {
        let byte = stream.read_u8().await.unwrap_or_else(|error| panic!("{error} after {answer:?}"));
        answer.push(byte as char);
    }
    answer
}

/// Runs a scene on a core of its own; one that hangs fails.
fn scene<F: Future<Output = ()>>(
    change: impl FnOnce(&mut ListenerSettings),
    play: impl FnOnce(Rc<Scene>) -> F,
) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        let mut settings = ListenerSettings {
            address: "127.0.0.1:0".parse().unwrap(),
            tls: false,
            proxy_protocol: false,
            limits: Arc::default(),
        };
        change(&mut settings);
        let fake = Rc::new(Fake::default());
        let tls = match settings.tls {
            true => certificates(),
            false => Arc::new(Certificates::default()),
        };
        let server = Server::new(Rc::clone(&fake), tls, Arc::default());
        let socket = listen::bind(settings.address, 1).unwrap().remove(0);
        let address = socket.local_addr().unwrap();
        server.listen(socket, settings).unwrap();
        let played = play(Rc::new(Scene { fake, server, address }));
        tokio::time::timeout(Duration::from_secs(20), played).await.expect("the scene hangs");
    });
}

/// A certificate for `a`.
fn certificates() -> Arc<Certificates> {
    static MADE: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    // Tests beside this one make theirs.
    let number = MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("tidegate-wire-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let files = CertificateFiles {
        cert: folder.join("cert.pem"),
        key: folder.join("key.pem"),
        ocsp: None,
        client: None,
    };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let certificates = Arc::new(Certificates::default());
    certificates.swap(CertificateSet::load(&[files]).ok());
    std::fs::remove_dir_all(&folder).unwrap();
    certificates
}

fn limits(settings: &mut ListenerSettings) -> &mut ConnectionLimits {
    Arc::make_mut(&mut settings.limits)
}

#[test]
fn bytes_that_are_no_request_are_refused_with_their_code_and_never_reach_the_handler() {
    let rows = [
        ("GET / HTTP/1.1\r\n\r\n", "request.host"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "request.host"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "request.host"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "request.host"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "request.framing",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", "request.framing"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", "request.framing"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "request.framing"),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "request.framing"),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", "request.malformed"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", "request.malformed"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", "request.malformed"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "request.malformed"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", "request.malformed"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{1}\r\n\r\n", "request.malformed"),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "request.malformed"),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "request.malformed"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "request.method"),
    ];
    scene(
        |_| {},
        async |scene| {
            for (bytes, code) in rows {
                let answer = scene.exchange(bytes).await;
                assert!(answer.ends_with(code), "{bytes:?} was answered {answer:?}");
                assert_eq!(answer.matches("connection: close").count(), 1, "{answer:?}");
            }
            assert!(scene.fake.seen.borrow().is_empty());
            assert_eq!(scene.fake.refused.borrow().len(), rows.len());
        },
    );
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let change = |settings: &mut ListenerSettings| {
        limits(settings).header_bytes = 1000;
        limits(settings).header_count = 5;
    };
    scene(change, async |scene| {
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1000));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(5));
        for bytes in [long, many] {
            let answer = scene.exchange(&bytes).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
        }
    });
}

#[test]
fn a_bad_line_that_comes_in_pieces_is_refused_by_us_and_a_good_one_passes() {
    scene(
        |_| {},
        async |scene| {
            let rows = [
                ("GET / HTTP/1.1\r\nHost: a\r\nX(y: b\r\n\r\n", "request.malformed"),
                ("GET / HT\x01TP/1.1\r\nHost: a\r\n\r\n", "request.malformed"),
                ("GET /<> HTTP/1.1\r\nHost: a\r\n\r\n", "request.malformed"),
                ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "\r\n\r\n/"),
            ];
            for (bytes, end) in rows {
                let mut stream = scene.connect().await;
                stream.set_nodelay(true).unwrap();
                for byte in bytes.as_bytes() {
                    // Whatever follows a refused line may already meet a closed connection.
                    let _ = stream.write_all(&[*byte]).await;
                    tokio::task::yield_now().await;
                }
                let answer = rest(&mut stream).await;
                assert!(answer.ends_with(end), "{bytes:?} was answered {answer:?}");
                assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer:?}");
            }
            assert_eq!(scene.fake.refused.borrow().len(), 3);
        },
    );
}

#[test]
fn pipelined_requests_before_a_bad_one_are_answered_in_order() {
    scene(
        |_| {},
        async |scene| {
            let good = |path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            let bytes = [good("/first"), good("/second"), "GET /third HTTP/1.1\r\n\r\n".to_owned()].concat();
            let answer = scene.exchange(&bytes).await;
            let places: Vec<_> = ["/first", "/second", "request.host"].map(|text| answer.find(text)).into();
            assert!(places.is_sorted() && places.iter().all(Option::is_some), "{answer:?}");
            assert_eq!(*scene.fake.seen.borrow(), ["/first", "/second"]);
        },
    );
}

#[test]
fn a_bad_chunk_breaks_the_body_and_ends_the_connection() {
    scene(
        |_| {},
        async |scene| {
            let head = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let answer = scene
                .exchange(&format!(
                    "{head}3\r\nabc\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                ))
                .await;
            assert!(answer.contains("\r\n\r\n3") && answer.ends_with("/next"), "{answer:?}");
            scene.fake.seen.borrow_mut().clear();
            for chunk in [
                "3\nabc\r\n0\r\n\r\n",
                "-3\r\nabc\r\n0\r\n\r\n",
                "3 \r\nabc\r\n0\r\n\r\n",
                "3\r\nabcd\r\n0\r\n\r\n",
            ] {
                let answer =
                    scene.exchange(&format!("{head}{chunk}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
                assert!(
                    !answer.contains("\r\n\r\n3") && !answer.contains("/smuggled"),
                    "{chunk:?}: {answer:?}"
                );
            }
            assert!(scene.fake.seen.borrow().iter().all(|path| path == "/body"));
        },
    );
}

#[test]
fn a_head_that_drips_is_refused_when_its_whole_time_is_over() {
    let change = |settings: &mut ListenerSettings| limits(settings).header_time = Duration::from_millis(80);
    scene(change, async |scene| {
        let (mut read, mut write) = scene.connect().await.into_split();
        task::spawn(async move {
            // A byte now and then never lets a bound per read pass.
            while write.write_all(b"x").await.is_ok() {
                clock::sleep(Duration::from_millis(5)).await;
            }
        });
        let mut answer = vec![0; 12];
        read.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 408");
    });
}

#[test]
fn a_body_that_stalls_breaks_its_exchange() {
    let change = |settings: &mut ListenerSettings| limits(settings).body_idle = Duration::from_millis(80);
    scene(change, async |scene| {
        let answer = scene.exchange("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
        assert!(answer.is_empty() || answer.ends_with("broken body"), "{answer:?}");
        assert_eq!(scene.fake.seen.borrow().len(), 1);
    });
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let change = |settings: &mut ListenerSettings| limits(settings).idle = Duration::from_millis(80);
    scene(change, async |scene| {
        let mut stream = scene.connect().await;
        stream.write_all(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        until(&mut stream, "/one").await;
        assert_eq!(rest(&mut stream).await, "");
    });
}

#[test]
fn the_last_request_of_a_connection_says_so() {
    let change = |settings: &mut ListenerSettings| limits(settings).requests = 2;
    scene(change, async |scene| {
        let answer = scene.exchange(&"GET /x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3)).await;
        assert_eq!(scene.fake.seen.borrow().len(), 2, "{answer:?}");
        assert_eq!(answer.matches("connection: close").count(), 1, "{answer:?}");
    });
}

#[test]
fn a_client_that_has_only_closed_its_side_is_answered() {
    scene(
        |_| {},
        async |scene| {
            let mut stream = scene.connect().await;
            stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            scene.fake.begun.notified().await;
            stream.shutdown().await.unwrap();
            // The server asks whether somebody is there; only then the answer is made.
            until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
            scene.fake.gate.notify_one();
            let answer = rest(&mut stream).await;
            assert!(answer.ends_with("waited"), "{answer:?}");
        },
    );
}

#[test]
fn a_client_that_closed_its_side_before_its_requests_were_read_is_answered() {
    scene(
        |_| {},
        async |scene| {
            let mut stream = scene.connect().await;
            let both = "GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n";
            stream.write_all(both.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let answer = rest(&mut stream).await;
            assert!(answer.contains("/one") && answer.ends_with("/two"), "{answer:?}");
            // Each in line is one for which it is asked whether somebody is there.
            let mut stream = scene.connect().await;
            stream.write_all(both.replace("/two", "/wait").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            until(&mut stream, "/oneHTTP/1.1 100 Continue\r\n\r\n").await;
            scene.fake.gate.notify_one();
            assert!(rest(&mut stream).await.ends_with("waited"));
        },
    );
}

#[test]
fn a_client_that_has_only_closed_its_side_of_tls_is_answered() {
    scene(
        |settings| settings.tls = true,
        async |scene| {
            let mut stream = scene.connect_tls().await;
            stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            scene.fake.begun.notified().await;
            stream.shutdown().await.unwrap();
            let mut probe = [0; 25];
            stream.read_exact(&mut probe).await.unwrap();
            assert_eq!(&probe, b"HTTP/1.1 100 Continue\r\n\r\n");
            scene.fake.gate.notify_one();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("waited"), "{answer:?}");
            let mut stream = scene.connect_tls().await;
            stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            scene.fake.begun.notified().await;
            drop(stream);
            scene.fake.cancelled.notified().await;
        },
    );
}

#[test]
fn a_client_that_has_gone_cancels_its_exchange() {
    scene(
        |_| {},
        async |scene| {
            for version in ["1.1", "1.0"] {
                let mut stream = scene.connect().await;
                let head = format!("GET /wait HTTP/{version}\r\nHost: a\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                scene.fake.begun.notified().await;
                drop(stream);
                scene.fake.cancelled.notified().await;
            }
        },
    );
}

#[test]
fn a_proxy_protocol_header_names_the_client_and_a_connection_without_one_is_closed() {
    scene(
        |settings| settings.proxy_protocol = true,
        async |scene| {
            let request = "GET /peer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let answer = scene.exchange(&format!("PROXY TCP4 9.8.7.6 5.4.3.2 1234 80\r\n{request}")).await;
            assert!(answer.ends_with("9.8.7.6:1234"), "{answer:?}");
            assert_eq!(scene.exchange(request).await, "");
        },
    );
}

#[test]
fn whoever_comes_when_all_seats_are_taken_is_told() {
    let change = |settings: &mut ListenerSettings| limits(settings).connections = 1;
    scene(change, async |scene| {
        let mut first = scene.connect().await;
        first.write_all(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        until(&mut first, "/one").await;
        let answer = rest(&mut scene.connect().await).await;
        assert!(answer.ends_with("server.connections"), "{answer:?}");
    });
}

#[test]
fn after_an_upgrade_bytes_just_pass() {
    scene(
        |_| {},
        async |scene| {
            let mut stream = scene.connect().await;
            let head = b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            stream.write_all(head).await.unwrap();
            until(&mut stream, "\r\n\r\n").await;
            stream.write_all(b"\0 not HTTP \n").await.unwrap();
            until(&mut stream, "\0 not HTTP \n").await;
            stream.shutdown().await.unwrap();
            assert_eq!(rest(&mut stream).await, "");
        },
    );
}

#[test]
fn bytes_behind_a_request_for_an_upgrade_are_of_no_protocol() {
    scene(
        |_| {},
        async |scene| {
            let head = "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
            let answer = scene.exchange(&format!("{head}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("request.framing"), "{answer:?}");
            // Nor behind its body, nor within it.
            let posted = head.replace("GET", "POST").replace("Host: a", "Host: a\r\nContent-Length: 3");
            for body in ["abcGET /smuggled", "ab"] {
                let answer = scene.exchange(&format!("{posted}{body}")).await;
                assert!(!answer.contains(" 101 ") && !answer.contains("smuggled"), "{answer:?}");
            }
            assert!(!scene.fake.seen.borrow().iter().any(|path| path == "/smuggled"));
        },
    );
}

#[test]
fn a_body_that_nobody_wanted_is_no_request() {
    scene(
        |_| {},
        async |scene| {
            let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
            let next = "GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let (length, size) = (inner.len(), format!("{:x}", inner.len()));
            for body in [
                format!("Content-Length: {length}\r\n\r\n{inner}"),
                format!("Transfer-Encoding: chunked\r\n\r\n{size}\r\n{inner}\r\n0\r\nX: y\r\n\r\n"),
            ] {
                let answer =
                    scene.exchange(&format!("POST /ignored HTTP/1.1\r\nHost: a\r\n{body}{next}")).await;
                assert!(answer.ends_with("/next"), "all of it was there: {answer:?}");
            }
            for body in ["Content-Length: 100\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
                let answer = scene.exchange(&format!("POST /ignored HTTP/1.1\r\nHost: a\r\n{body}")).await;
                assert!(answer.contains("connection: close") && answer.ends_with("no"), "{answer:?}");
            }
            assert!(!scene.fake.seen.borrow().iter().any(|path| path == "/smuggled"));
        },
    );
}

#[test]
fn a_body_may_be_read_on_by_somebody_else_after_the_answer() {
    scene(
        |_| {},
        async |scene| {
            let head = "POST /aside HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc";
            let mut stream = scene.connect().await;
            stream.write_all(head.as_bytes()).await.unwrap();
            let answer = until(&mut stream, "aside").await;
            assert!(answer.contains("connection: close"), "{answer:?}");
            stream.write_all(b"def").await.unwrap();
            scene.fake.aside.notified().await;
            assert_eq!(rest(&mut stream).await, "");
            // A client that goes before it has sent all is told to whoever reads.
            let mut stream = scene.connect().await;
            stream.write_all(head.as_bytes()).await.unwrap();
            drop(stream);
            scene.fake.aside.notified().await;
            assert_eq!(*scene.fake.seen.borrow(), ["/aside", "6", "/aside", "cut"]);
        },
    );
}

#[test]
fn whoever_reads_a_body_learns_that_its_connection_was_cut() {
    let change = |settings: &mut ListenerSettings| limits(settings).body_idle = Duration::from_millis(50);
    scene(change, async |scene| {
        let mut stream = scene.connect().await;
        stream.write_all(b"POST /aside HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc").await.unwrap();
        scene.fake.aside.notified().await;
        assert_eq!(scene.fake.seen.borrow().last().unwrap(), "cut");
    });
}

#[test]
fn an_old_client_is_answered_in_its_own_version() {
    scene(
        |_| {},
        async |scene| {
            let answer = scene.exchange("GET /x HTTP/1.0\r\n\r\n").await;
            assert!(
                answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.contains("connection: close"),
                "{answer:?}"
            );
            let kept = "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
            let answer = scene.exchange(&format!("{kept}GET /x HTTP/1.0\r\n\r\n")).await;
            assert_eq!(answer.matches("HTTP/1.0 200 OK").count(), 2, "{answer:?}");
            assert!(answer.contains("connection: keep-alive"), "{answer:?}");
            // It knows no chunks: the end of the connection is the end of the answer, and a reset its failure.
            let answer = scene.exchange("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
            assert!(!answer.contains("chunked") && answer.ends_with("\r\n\r\nabc"), "{answer:?}");
            let mut stream = scene.connect().await;
            stream.write_all(b"GET /stream?broken HTTP/1.0\r\n\r\n").await.unwrap();
            let error = stream.read_to_end(&mut Vec::new()).await.expect_err("it is not whole");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            let answer = scene.exchange("GET /stream?broken HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(answer.ends_with("3\r\nabc\r\n"), "it has no last chunk: {answer:?}");
        },
    );
}

#[test]
fn who_waits_to_be_asked_for_a_body_is_asked_once_and_only_if_it_knows_of_that() {
    scene(
        |_| {},
        async |scene| {
            let head = "POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
            let mut stream = scene.connect().await;
            for _ in 0..2 {
                stream.write_all(head.as_bytes()).await.unwrap();
                assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
                stream.write_all(b"abc").await.unwrap();
                assert!(until(&mut stream, "\r\n\r\n3").await.starts_with("HTTP/1.1 200 "));
            }
            let answer = scene.exchange(&format!("{}abc", head.replace("HTTP/1.1", "HTTP/1.0"))).await;
            assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("3"), "{answer:?}");
            let answer = scene.exchange(&head.replace("/body", "/ignored")).await;
            assert!(
                answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"),
                "{answer:?}"
            );
        },
    );
}

#[test]
fn a_connection_full_of_requests_lets_the_others_have_their_turn() {
    scene(
        |_| {},
        async |scene| {
            let (mut greedy, mut other) = (scene.connect().await, scene.connect().await);
            let many = 1000;
            let requests = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(many);
            greedy.write_all(requests.as_bytes()).await.unwrap();
            other.write_all(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            until(&mut other, "/other").await;
            let before = scene.fake.seen.borrow().iter().position(|path| path == "/other").unwrap();
            assert!(before < many / 2, "{before} requests were answered first");
            let mut answers = String::new();
            while answers.matches("\r\n\r\n/x").count() < many {
                let mut bytes = vec![0; 65_536];
                let length = greedy.read(&mut bytes).await.unwrap();
                assert!(length > 0, "closed after {answers}");
                answers.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
            }
        },
    );
}

/// Waits until so many connections rest.
async fn resting(scene: &Scene, connections: usize) {
    while scene.server.census.resting() != connections {
        clock::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_connection_that_has_rested_answers_as_before() {
    let change = |settings: &mut ListenerSettings| limits(settings).idle = Duration::from_millis(1600);
    scene(change, |scene| async move {
        let mut stream = scene.connect().await;
        for path in ["/one", "/two", "/three"] {
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
            until(&mut stream, path).await;
            resting(&scene, 1).await;
        }
        stream.write_all(b"GET /half HTTP/1.1\r\n").await.unwrap();
        resting(&scene, 0).await;
        stream.write_all(b"Host: a\r\n\r\nGET /four HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        until(&mut stream, "/half").await;
        until(&mut stream, "/four").await;
        resting(&scene, 1).await;
        assert_eq!(rest(&mut stream).await, "", "the idle time counts from the last request, rested or not");
    });
}

#[test]
fn a_connection_that_has_rested_over_tls_answers_as_before() {
    let change = |settings: &mut ListenerSettings| {
        settings.tls = true;
        limits(settings).idle = Duration::from_millis(1600);
    };
    scene(change, |scene| async move {
        let mut stream = scene.connect_tls().await;
        for path in ["/one", "/two"] {
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            while !answer.ends_with(path) {
                answer.push(stream.read_u8().await.unwrap() as char);
            }
            resting(&scene, 1).await;
        }
        let mut left = Vec::new();
        assert_eq!(stream.read_to_end(&mut left).await.unwrap(), 0, "closed with a word of TLS");
    });
}

#[test]
fn draining_lets_an_exchange_finish_and_closes_what_is_idle() {
    scene(
        |_| {},
        async |scene| {
            let (mut busy, mut idle) = (scene.connect().await, scene.connect().await);
            idle.write_all(b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            until(&mut idle, "/one").await;
            scene.fake.begun.notified().await;
            busy.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            scene.fake.begun.notified().await;
            let drained = Rc::new(Cell::new(false));
            let done = Rc::clone(&drained);
            let server = Rc::clone(&scene.server);
            task::spawn(async move {
                server.drain().await;
                done.set(true);
            });
            assert_eq!(rest(&mut idle).await, "");
            assert!(!drained.get(), "an exchange is under way");
            scene.fake.gate.notify_one();
            let answer = rest(&mut busy).await;
            assert!(answer.contains("connection: close") && answer.ends_with("waited"), "{answer:?}");
            while !drained.get() {
                tokio::task::yield_now().await;
            }
            assert!(TcpStream::connect(scene.address).await.is_err());
        },
    );
}

#[test]
fn http2_by_prior_knowledge_is_served_and_its_host_is_checked() {
    scene(
        |_| {},
        async |scene| {
            let stream = hyper_util::rt::TokioIo::new(scene.connect().await);
            let (mut sender, driver) =
                hyper::client::conn::http2::handshake(LocalExecutor, stream).await.unwrap();
            task::spawn(async move { drop(driver.await) });
            for (host, length, code) in
                [(None, None, "/two"), (Some("a"), Some("0"), "/two"), (Some("b"), None, "request.host")]
            {
                let mut request = http::Request::get("http://a/two");
                if let Some(host) = host {
                    request = request.header("host", host);
                }
                if let Some(length) = length {
                    request = request.header("content-length", length);
                }
                let response =
                    sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, code);
            }
        },
    );
}

#[test]
fn other_settings_hold_for_the_next_connections_of_a_listener() {
    scene(
        |settings| limits(settings).header_count = 2,
        async |scene| {
            let request = "GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\nConnection: close\r\n\r\n";
            assert!(scene.exchange(request).await.starts_with("HTTP/1.1 431 "));
            let mut before = scene.connect().await;
            before.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            until(&mut before, "/x").await;
            let settings = ListenerSettings {
                address: scene.address,
                tls: false,
                proxy_protocol: false,
                limits: Arc::default(),
            };
            scene.server.adjust(scene.address, settings);
            assert!(scene.exchange(request).await.ends_with("\r\n\r\n/x"));
            before.write_all(request.as_bytes()).await.unwrap();
            assert!(rest(&mut before).await.starts_with("HTTP/1.1 431 "), "it keeps what it began with");
        },
    );
}

#[test]
fn what_waits_to_be_accepted_when_a_listener_closes_is_served() {
    for drained in [false, true] {
        scene(
            |_| {},
            async |scene| {
                // Connected for the kernel; the server's task has not run since.
                let mut waiting: Vec<_> = (0..3)
                    .map(|_| {
                        let stream = std::net::TcpStream::connect(scene.address).unwrap();
                        stream.set_nonblocking(true).unwrap();
                        TcpStream::from_std(stream).unwrap()
                    })
                    .collect();
                match drained {
                    true => {
                        let server = Rc::clone(&scene.server);
                        task::spawn(async move { server.drain().await });
                    }
                    false => scene.server.close(scene.address),
                }
                for stream in &mut waiting {
                    stream
                        .write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                        .await
                        .unwrap();
                    assert!(rest(stream).await.ends_with("/x"));
                }
                assert!(TcpStream::connect(scene.address).await.is_err());
            },
        );
    }
}

#[test]
fn an_http2_client_that_answers_no_ping_is_gone() {
    let change = |settings: &mut ListenerSettings| limits(settings).h2_ping = Duration::from_millis(50);
    scene(change, async |scene| {
        let mut stream = scene.connect().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0];
        assert!(answer.windows(9).any(|frame| frame == ping), "{answer:?}");
    });
}
