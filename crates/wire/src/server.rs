//! Connections from clients: accepted, guarded, driven until they end.
//!
//! Each connection has one task and at most one timer. Deadlines are *lazily armed*: a phase (head, body, idle, a
//! write that stalls) stores when it must be over in a cell, and the timer, when it fires, looks whether that is
//! still so. A request that comes and goes in time costs no timer work at all.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

pub use rustls::ServerConfig as TlsConfig;

use crate::body::{BoxError, Incoming};
use crate::clock;
use crate::guard::Violation;
use crate::h2_check;
use crate::proxy_protocol::{self, Parsed};
use crate::settings::{ConnectionLimits, ListenerSettings};
use crate::stream::{GuardedStream, Shared, Socket};
use crate::task::{self, LocalExecutor};

/// The first bytes of an HTTP/2 connection by prior knowledge.
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a refused client may take to read why, and how much of what it still sends is read meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;
/// How often it is looked whether a client that has shut down its side is still there.
const GONE_CHECK: Duration = Duration::from_millis(100);
/// How long accepting pauses when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers requests.
pub trait Handler: 'static {
    /// The response's body.
    type Body: HttpBody<Data = Bytes, Error = BoxError> + 'static;

    /// Answers a request. A refusal is a response too.
    fn handle(
        self: &Rc<Self>,
        request: Request<Incoming>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// The answer to bytes that never became a request. It is written as it is, and the connection closed.
    fn refuse(&self, connection: &Connection, refusal: Refusal) -> Response<Bytes>;
}

/// What is known of a connection.
#[derive(Debug)]
pub struct Connection {
    /// The client's address, or what a balancer told by the PROXY protocol.
    pub peer: SocketAddr,
    /// The address it was accepted on.
    pub listener: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The name it asked for in TLS.
    pub server_name: Option<String>,
    /// What it is held to.
    pub limits: Arc<ConnectionLimits>,
    /// What the handler remembers of it between two requests.
    pub attached: RefCell<Option<Box<dyn std::any::Any>>>,
}

/// Connections of the whole process.
#[derive(Debug, Default)]
pub struct Census {
    open: AtomicUsize,
    refused: AtomicUsize,
}

impl Census {
    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Connections refused because there were too many.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }
}

/// The server of one core.
pub struct Server<H> {
    handler: Rc<H>,
    tls: Arc<rustls::ServerConfig>,
    census: Arc<Census>,
    listeners: RefCell<HashMap<SocketAddr, Rc<Notify>>>,
    drain: Rc<Drain>,
}

/// Whether connections should end after the exchange they are in.
#[derive(Default)]
struct Drain {
    draining: Cell<bool>,
    changed: Notify,
    connections: Cell<usize>,
    ended: Notify,
}

impl<H: Handler> Server<H> {
    /// A server that listens nowhere yet.
    #[must_use]
    pub fn new(handler: Rc<H>, tls: Arc<rustls::ServerConfig>, census: Arc<Census>) -> Rc<Server<H>> {
        Rc::new(Server { handler, tls, census, listeners: RefCell::default(), drain: Rc::default() })
    }

    /// Accepts connections on this socket until [`Server::close`] or [`Server::drain`].
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn listen(
        self: &Rc<Self>,
        socket: std::net::TcpListener,
        settings: ListenerSettings,
    ) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let listener = TcpListener::from_std(socket)?;
        let stop = Rc::new(Notify::new());
        if let Some(before) = self.listeners.borrow_mut().insert(address, Rc::clone(&stop)) {
            before.notify_one();
        }
        task::spawn(Rc::clone(self).accept(listener, address, settings, stop));
        Ok(())
    }

    /// Stops accepting on this address. Its connections go on.
    pub fn close(&self, address: SocketAddr) {
        if let Some(stop) = self.listeners.borrow_mut().remove(&address) {
            stop.notify_one();
        }
    }

    /// Stops accepting, lets each connection finish what it does, and returns when all have ended.
    pub async fn drain(&self) {
        for (_, stop) in self.listeners.borrow_mut().drain() {
            stop.notify_one();
        }
        self.drain.draining.set(true);
        self.drain.changed.notify_waiters();
        while self.drain.connections.get() > 0 {
            self.drain.ended.notified().await;
        }
    }

    async fn accept(
        self: Rc<Self>,
        listener: TcpListener,
        address: SocketAddr,
        settings: ListenerSettings,
        stop: Rc<Notify>,
    ) {
        let settings = Rc::new(settings);
        let mut stopped = pin!(stop.notified());
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, address, &settings),
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%address, %error, "cannot accept connections");
                    clock::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(
        self: &Rc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        listener: SocketAddr,
        settings: &Rc<ListenerSettings>,
    ) {
        let open = self.census.open.fetch_add(1, Relaxed);
        let guest = Guest { census: Arc::clone(&self.census), drain: Rc::clone(&self.drain) };
        guest.drain.connections.set(guest.drain.connections.get() + 1);
        let connection = Connection {
            peer,
            listener,
            tls: settings.tls,
            server_name: None,
            limits: Arc::clone(&settings.limits),
            attached: RefCell::default(),
        };
        if open >= settings.limits.connections {
            self.census.refused.fetch_add(1, Relaxed);
            if !settings.tls {
                let refusal = Refusal::new(
                    &refusal::SERVER_CONNECTIONS,
                    "the server has as many connections as it may",
                );
                let bytes =
                    encode(&self.handler.refuse(&connection, refusal.retry_after(Duration::from_secs(1))));
                // What fits into an empty socket buffer is taken at once; a client of a full server gets no more.
                let _ = stream.try_write(&bytes);
            }
            return;
        }
        let server = Rc::clone(self);
        let settings = Rc::clone(settings);
        task::spawn(async move {
            let _guest = guest;
            let _ = stream.set_nodelay(true);
            server.serve(stream, connection, &settings).await;
        });
    }

    /// Handshakes, finds out the protocol and drives the connection.
    async fn serve(
        self: Rc<Self>,
        mut stream: TcpStream,
        mut connection: Connection,
        settings: &ListenerSettings,
    ) {
        let limits = Arc::clone(&connection.limits);
        let by = clock::now().after(limits.handshake_time);
        if settings.proxy_protocol {
            match clock::timeout_at(by, read_proxy_header(&mut stream)).await {
                Ok(Some(Some((peer, _)))) => connection.peer = peer,
                Ok(Some(None)) => {}
                Ok(None) | Err(_) => return,
            }
        }
        if settings.tls {
            let acceptor = TlsAcceptor::from(Arc::clone(&self.tls));
            let Ok(Ok(stream)) = clock::timeout_at(by, Box::pin(acceptor.accept(stream))).await else {
                return;
            };
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            connection.server_name = stream.get_ref().1.server_name().map(str::to_owned);
            return self.drive(Socket::Tls(Box::new(stream)), h2, connection).await;
        }
        // hyper's buffers are not made before there is something to put into them.
        let by = clock::now().after(limits.header_time);
        let preface = tokio::select! {
            preface = clock::timeout_at(by, is_h2(&stream)) => preface,
            () = self.drain.stopped() => return,
        };
        match preface {
            Ok(Ok(h2)) => self.drive(Socket::Plain(stream), h2, connection).await,
            Ok(Err(_)) => {}
            Err(_) => {
                let refusal = Refusal::new(&refusal::REQUEST_TIMEOUT, "no request came in time");
                let bytes = encode(&self.handler.refuse(&connection, refusal));
                linger(Socket::Plain(stream), &bytes).await;
            }
        }
    }

    async fn drive(self: Rc<Self>, socket: Socket, h2: bool, connection: Connection) {
        let shared = Shared::new(clock::now());
        let io = GuardedStream::new(socket, !h2, Arc::clone(&shared), Arc::clone(&connection.limits));
        let connection = Rc::new(connection);
        if h2 {
            self.drive_h2(io, shared, connection).await;
        } else {
            self.drive_h1(io, shared, connection).await;
        }
    }

    async fn drive_h1(self: Rc<Self>, io: GuardedStream, shared: Arc<Shared>, connection: Rc<Connection>) {
        let limits = &connection.limits;
        let service = service_fn(|request| self.answer(request, &connection, &shared));
        let mut builder = http1::Builder::new();
        // hyper asks for the client's FIN while an exchange is under way: the guarded stream tells it only of
        // clients that are gone. A response never waits for the next pipelined request.
        builder.half_close(false).max_buf_size((limits.header_bytes * 2).max(64 * 1024));
        if limits.header_count >= 100 {
            builder.max_headers(limits.header_count + 1);
        }
        let mut driven = builder.serve_connection(io, service).with_upgrades();
        let ended = {
            let mut timer = Timer::new(&shared, limits, &self.drain);
            std::future::poll_fn(|context| {
                timer.poll(context, Pin::new(&mut driven), |driven| driven.graceful_shutdown())
            })
            .await
        };
        let violation = match ended {
            Ended::Connection => shared.violation(),
            Ended::HeadLate => {
                Some(Violation { kind: &refusal::REQUEST_TIMEOUT, why: "the head did not come in time" })
            }
            Ended::Cut => return,
        };
        let (Some(violation), Some(parts)) = (violation, driven.into_parts()) else { return };
        // An exchange that the client broke by its body was answered by its own handler, if at all.
        if shared.is_idle() && !shared.broken_body.load(Relaxed) {
            let refusal = Refusal::new(violation.kind, violation.why);
            let bytes = encode(&self.handler.refuse(&connection, refusal));
            linger(parts.io.socket, &bytes).await;
        }
    }

    async fn drive_h2(self: Rc<Self>, io: GuardedStream, shared: Arc<Shared>, connection: Rc<Connection>) {
        let limits = &connection.limits;
        let service = {
            let (server, connection, shared) =
                (Rc::clone(&self), Rc::clone(&connection), Arc::clone(&shared));
            service_fn(move |request| {
                let (server, connection, shared) =
                    (Rc::clone(&server), Rc::clone(&connection), Arc::clone(&shared));
                async move {
                    if let Err(refusal) = h2_check::check(&request, &connection.limits) {
                        let refused = server.handler.refuse(&connection, refusal);
                        return Ok(refused.map(|bytes| Tracked::words(bytes, &shared)));
                    }
                    server.answer(request, &connection, &shared).await
                }
            })
        };
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.h2_streams)
            .max_pending_accept_reset_streams(limits.h2_resets_pending)
            .max_local_error_reset_streams(limits.h2_resets_local)
            .enable_connect_protocol()
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(limits.h2_stream_window)
            .initial_connection_window_size(limits.h2_connection_window)
            .max_send_buf_size(limits.h2_send_buffer);
        let mut driven = Box::pin(builder.serve_connection(io, service));
        let mut timer = Timer::new(&shared, limits, &self.drain);
        std::future::poll_fn(|context| {
            timer.poll(context, driven.as_mut(), |driven| driven.graceful_shutdown())
        })
        .await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Rc<Connection>,
        shared: &Arc<Shared>,
    ) -> Result<Response<Tracked<H::Body>>, std::convert::Infallible> {
        shared.in_flight.fetch_add(1, Relaxed);
        shared.exchanges.fetch_add(1, Relaxed);
        shared.upgraded.store(false, Relaxed);
        let pass = Pass(Arc::clone(shared));
        let http1 = request.version() < Version::HTTP_2;
        let asks_upgrade = http1 && request.headers().contains_key(http::header::UPGRADE);
        shared.declined.store(false, Relaxed);
        let mut response = self.handler.handle(request, connection).await;
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            shared.upgraded.store(true, Relaxed);
        } else if http1
            && (self.drain.draining.get() || shared.exchanges.load(Relaxed) >= connection.limits.requests)
        {
            response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        let switched = shared.upgraded.load(Relaxed);
        shared.declined.store(asks_upgrade && !switched, Relaxed);
        Ok(response.map(|body| Tracked { body: Some(body), words: None, _pass: pass }))
    }
}

impl Drain {
    /// Waits until connections should end.
    async fn stopped(&self) {
        let changed = self.changed.notified();
        if !self.draining.get() {
            changed.await;
        }
    }
}

/// A connection while it is counted.
struct Guest {
    census: Arc<Census>,
    drain: Rc<Drain>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.census.open.fetch_sub(1, Relaxed);
        self.drain.connections.set(self.drain.connections.get() - 1);
        self.drain.ended.notify_one();
    }
}

/// An exchange while it is under way.
struct Pass(Arc<Shared>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
        self.0.active_at.set(clock::now());
    }
}

pin_project_lite::pin_project! {
    /// A response's body that ends its exchange's pass: the handler's, or the words of a refusal.
    struct Tracked<B> {
        #[pin]
        body: Option<B>,
        words: Option<Bytes>,
        _pass: Pass,
    }
}

impl<B> Tracked<B> {
    /// The words of a refusal, as an exchange of its own.
    fn words(bytes: Bytes, shared: &Arc<Shared>) -> Tracked<B> {
        shared.in_flight.fetch_add(1, Relaxed);
        shared.exchanges.fetch_add(1, Relaxed);
        let words = (!bytes.is_empty()).then_some(bytes);
        Tracked { body: None, words, _pass: Pass(Arc::clone(shared)) }
    }
}

impl<B: HttpBody<Data = Bytes, Error = BoxError>> HttpBody for Tracked<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        match this.body.as_pin_mut() {
            Some(body) => body.poll_frame(context),
            None => Poll::Ready(this.words.take().map(|words| Ok(Frame::data(words)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().map_or(self.words.is_none(), HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let words = || SizeHint::with_exact(self.words.as_ref().map_or(0, |words| words.len() as u64));
        self.body.as_ref().map_or_else(words, HttpBody::size_hint)
    }
}

/// How a connection's driving ended.
enum Ended {
    /// By itself.
    Connection,
    /// A head did not come in time.
    HeadLate,
    /// The client takes or sends nothing any more.
    Cut,
}

/// The one timer of a connection, armed late.
struct Timer<'a> {
    shared: &'a Shared,
    limits: &'a ConnectionLimits,
    armed: Pin<Box<tokio::time::Sleep>>,
    drain: &'a Drain,
    drained: Pin<Box<tokio::sync::futures::Notified<'a>>>,
    closing: bool,
}

impl<'a> Timer<'a> {
    fn new(shared: &'a Shared, limits: &'a ConnectionLimits, drain: &'a Drain) -> Timer<'a> {
        let first = shared.active_at.get().after(limits.header_time.min(limits.idle).min(limits.body_idle));
        Timer {
            shared,
            limits,
            armed: Box::pin(tokio::time::sleep_until(clock::instant(first))),
            drain,
            drained: Box::pin(drain.changed.notified()),
            closing: false,
        }
    }

    fn poll<C, E>(
        &mut self,
        context: &mut Context<'_>,
        mut driven: Pin<&mut C>,
        close: impl Fn(Pin<&mut C>),
    ) -> Poll<Ended>
    where
        C: Future<Output = Result<(), E>>,
    {
        loop {
            if driven.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ended::Connection);
            }
            let spent = self.shared.exchanges.load(Relaxed) >= self.limits.requests;
            let drained = self.drain.draining.get() || self.drained.as_mut().poll(context).is_ready();
            if (spent || drained) && !self.closing {
                self.closing = true;
                close(driven.as_mut());
                continue;
            }
            if self.armed.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            let now = clock::now();
            match self.due(now) {
                Due::Later(then) => self.armed.as_mut().reset(clock::instant(then)),
                Due::Idle if !self.closing => {
                    self.closing = true;
                    close(driven.as_mut());
                    self.armed.as_mut().reset(clock::instant(now.after(LINGER)));
                }
                Due::Idle | Due::Write => return Poll::Ready(Ended::Cut),
                Due::Head => return Poll::Ready(Ended::HeadLate),
                Due::Body => {
                    self.shared.read_by.set(Tick::MAX);
                    self.shared.broken_body.store(true, Relaxed);
                    let why = "the body made no progress";
                    self.shared.violate(Violation { kind: &refusal::REQUEST_TIMEOUT, why });
                    self.armed.as_mut().reset(clock::instant(now.after(LINGER)));
                }
            }
        }
    }

    /// What is due now, or when to look again.
    fn due(&self, now: Tick) -> Due {
        let shared = self.shared;
        if shared.write_by.get() <= now {
            return Due::Write;
        }
        let busy = !shared.is_idle();
        if shared.read_by.get() <= now {
            return if busy { Due::Body } else { Due::Head };
        }
        if busy {
            let look = if shared.half_closed.load(Relaxed) {
                GONE_CHECK
            } else {
                self.limits.body_idle.min(Duration::from_secs(1))
            };
            return Due::Later(now.after(look).min(shared.read_by.get()).min(shared.write_by.get()));
        }
        let idle_until = shared.active_at.get().after(self.limits.idle);
        if idle_until <= now && shared.read_by.get() == Tick::MAX {
            return Due::Idle;
        }
        let look = now.after(self.limits.header_time);
        Due::Later(
            idle_until
                .max(now.after(GONE_CHECK))
                .min(look)
                .min(shared.read_by.get())
                .min(shared.write_by.get()),
        )
    }
}

enum Due {
    Later(Tick),
    Idle,
    Head,
    Body,
    Write,
}

/// Errors of one connection that is already gone, not of the listener.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// Reads a PROXY header, and nothing beyond it. `None`: there is none.
async fn read_proxy_header(stream: &mut TcpStream) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let mut seen = vec![0; proxy_protocol::HEADER_MAX];
    let mut before = 0;
    loop {
        let length = stream.peek(&mut seen).await.ok()?;
        match proxy_protocol::parse(&seen[..length]) {
            Parsed::Header { length, addresses } => {
                stream.read_exact(&mut seen[..length]).await.ok()?;
                return Some(addresses);
            }
            Parsed::Partial if length > 0 => wait_for_more(length, &mut before).await,
            Parsed::Partial | Parsed::Invalid => return None,
        }
    }
}

/// Whether the connection begins with HTTP/2's preface. Waits for the first bytes and leaves them where they are.
async fn is_h2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; H2_PREFACE.len()];
    let mut before = 0;
    loop {
        let length = stream.peek(&mut seen).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if length == H2_PREFACE.len() || !H2_PREFACE.starts_with(&seen[..length]) {
            return Ok(seen == *H2_PREFACE);
        }
        wait_for_more(length, &mut before).await;
    }
}

/// A socket with unread bytes stays readable: pause instead of spinning while a client sends byte by byte.
async fn wait_for_more(length: usize, before: &mut usize) {
    if length == *before {
        clock::sleep(Duration::from_millis(5)).await;
    }
    *before = length;
}

/// The bytes of a response that closes the connection.
fn encode(response: &Response<Bytes>) -> Vec<u8> {
    let status = response.status();
    let mut out =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in response.headers() {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(
        format!("content-length: {}\r\nconnection: close\r\n\r\n", response.body().len()).as_bytes(),
    );
    out.extend_from_slice(response.body());
    out
}

/// Writes the last answer, then reads a little on: a close with unread bytes would reset the connection, and the
/// client would not see the answer.
async fn linger(mut socket: Socket, bytes: &[u8]) {
    let by = clock::now().after(LINGER);
    let _ = clock::timeout_at(by, async {
        match &mut socket {
            Socket::Plain(stream) => say_and_listen(stream, bytes).await,
            Socket::Tls(stream) => say_and_listen(stream, bytes).await,
        }
    })
    .await;
}

async fn say_and_listen(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut left = LINGER_BYTES;
    let mut buffer = [0; 4096];
    while left > 0 {
        match stream.read(&mut buffer).await? {
            0 => break,
            length => left = left.saturating_sub(length),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
