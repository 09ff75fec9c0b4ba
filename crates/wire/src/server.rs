//! Connections from clients: accepted, guarded, driven until they end. Each has one task and at most one timer.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body as HttpBody;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tidegate_model::fields::Fields;
use tidegate_model::message::{Request, Response};
use tidegate_model::refusal::{self, Refusal};
use tidegate_model::tick::Tick;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub use crate::seat::Census;

use crate::body::{BoxError, Incoming};
use crate::clock;
use crate::farewell::{LINGER, encode, linger};
use crate::files::of_clients_max;
use crate::first_bytes;
use crate::h2_check;
use crate::h2_stream::{H2Stream, Hold, Shared};
use crate::handover::{Heir, Passed, pair};
use crate::listen::backlog;
use crate::pass::{Pass, Tracked};
use crate::seat::{Rest, Room, Seat, Seats};
use crate::settings::{ConnectionLimits, ListenerSettings};
use crate::socket::Socket;
use crate::streams::{Stream, StreamExecutor, Streams};
use crate::task;
use crate::timer::Timer;
use crate::tls::{self, Certificates, Failed, HandshakeFailure, TlsClient};
use crate::websocket;

mod answer;
mod http1;
mod inbound;

use http1::{Driver, Ended};
pub(crate) use inbound::Inbound;

/// How long accepting pauses when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When a client may come again that was turned away.
const TURNED_AWAY_FOR: Duration = Duration::from_secs(1);
/// Connections accepted in a row before those that are open get their turn.
const ACCEPTS_MAX: u32 = 32;
/// How long a connection that was accepted while everything ends may take to send its first bytes.
const LAST_CALL: Duration = Duration::from_secs(1);
/// How often it is looked whether clients of HTTP/2 have heard that this process ends.
const SETTLE_LOOK: Duration = Duration::from_millis(5);
/// How long an HTTP/2 client may take to answer a ping; at most as long as the pings are apart.
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// What answers requests.
pub trait Handler: 'static {
    /// The response's body.
    type Body: HttpBody<Data = Bytes, Error = BoxError> + Unpin + 'static;

    /// Answers a request. A refusal is a response too.
    fn handle(
        self: &Rc<Self>,
        request: Request<Incoming>,
        connection: &Rc<Connection>,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// Why a new connection is not to be served now, if it is not.
    fn turns_away(&self) -> Option<Refusal> {
        None
    }

    /// Whether this address stands for many clients, so that it is no measure how many connections it has.
    fn is_proxy(&self, _address: IpAddr) -> bool {
        false
    }

    /// The answer to what never became a request. It is written as it is, and over HTTP/1.1 the connection closed. Fields
    /// that could be read tell in which form the client reads it.
    fn refuse(&self, connection: &Connection, refusal: Refusal, fields: Option<&Fields>) -> Response<Bytes>;
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
    /// Its client, where that has shown a certificate.
    pub tls_client: Option<Arc<TlsClient>>,
    /// What it is held to.
    pub limits: Arc<ConnectionLimits>,
    /// Whether the answer to its next request ends it: another process decrypts it.
    last: bool,
    /// What the handler remembers of it between two requests.
    pub attached: RefCell<Option<Box<dyn std::any::Any>>>,
    /// The way to its client for interim responses, where it speaks HTTP/1.1.
    inbound: OnceCell<Weak<RefCell<Inbound>>>,
}

impl Connection {
    /// What is known of one when it has been accepted, here or, as another node tells, there.
    #[must_use]
    pub fn of(
        peer: SocketAddr,
        listener: SocketAddr,
        tls: bool,
        limits: &Arc<ConnectionLimits>,
    ) -> Connection {
        let (limits, attached, inbound) = (Arc::clone(limits), RefCell::default(), OnceCell::new());
        let (server_name, tls_client) = (None, None);
        Connection { peer, listener, tls, server_name, tls_client, limits, last: false, attached, inbound }
    }

    /// Passes on an interim response to the client of the request that is being answered, if it can hear it: 103 and the like
    /// from an upstream. Not over HTTP/2: hyper's server has no way to say any (1.12; `h2` below it has). Tells whether it is.
    ///
    /// The request's own exchange alone may ask for it, and before it has answered.
    pub fn pass_on(&self, context: &mut Context<'_>, status: StatusCode, fields: &Fields) -> bool {
        let inbound = self.inbound.get().and_then(Weak::upgrade);
        inbound.is_some_and(|inbound| inbound.borrow_mut().pass_on(context, status, fields))
    }

    /// Notes what is found out before the first request: until then nobody else holds it.
    fn tell(connection: &mut Rc<Connection>, what: impl FnOnce(&mut Connection)) {
        if let Some(connection) = Rc::get_mut(connection) {
            what(connection);
        }
    }
}

/// The server of one core.
pub struct Server<H> {
    handler: Rc<H>,
    tls: Arc<Certificates>,
    census: Arc<Census>,
    listeners: RefCell<HashMap<SocketAddr, Vec<Rc<Listener>>>>,
    drain: Rc<Drain>,
}

/// A socket that connections come from.
struct Listener {
    stop: Notify,
    /// Gone, once it accepts no more.
    socket: RefCell<std::rc::Weak<TcpListener>>,
    /// What its next connections are held to.
    settings: RefCell<Rc<ListenerSettings>>,
    /// Another process accepts what waits in it.
    given: Cell<bool>,
}

/// Whether connections should end after the exchange they are in.
#[derive(Default)]
pub(crate) struct Drain {
    pub(crate) draining: Cell<bool>,
    pub(crate) changed: Notify,
    seats: Arc<Seats>,
    /// Where connections are given to that are between two requests, once another process takes over.
    heir: OnceCell<Heir>,
    /// Connections that speak HTTP/2.
    h2: Cell<usize>,
}

/// What the process before had of a connection.
struct Before {
    /// It had a request.
    begun: bool,
    /// This was read, and belongs to no request yet.
    read: Vec<u8>,
}

impl<H: Handler> Server<H> {
    /// A server that listens nowhere yet.
    #[must_use]
    pub fn new(handler: Rc<H>, tls: Arc<Certificates>, census: Arc<Census>) -> Rc<Server<H>> {
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
        let socket = Rc::new(TcpListener::from_std(socket)?);
        let settings = RefCell::new(Rc::new(settings));
        let held = RefCell::new(Rc::downgrade(&socket));
        let listener =
            Rc::new(Listener { stop: Notify::new(), socket: held, settings, given: Cell::new(false) });
        self.listeners.borrow_mut().entry(address).or_default().push(Rc::clone(&listener));
        task::spawn(Rc::clone(self).accept(socket, address, listener));
        Ok(())
    }

    /// Holds the next connections of this address to other settings. Those that are open keep theirs.
    pub fn adjust(&self, address: SocketAddr, settings: ListenerSettings) {
        let settings = Rc::new(settings);
        for listener in self.listeners.borrow().get(&address).into_iter().flatten() {
            *listener.settings.borrow_mut() = Rc::clone(&settings);
        }
    }

    /// Stops accepting on this address, once what waits there already has been accepted. Its connections go on.
    pub fn close(&self, address: SocketAddr) {
        for listener in self.listeners.borrow_mut().remove(&address).into_iter().flatten() {
            listener.stop.notify_one();
        }
    }

    /// Stops accepting, lets each connection finish what it does, and returns when all have ended.
    pub async fn drain(&self) {
        self.end();
        self.drain.seats.all_left().await;
    }

    fn end(&self) {
        for listener in self.listeners.borrow_mut().drain().flat_map(|(_, listeners)| listeners) {
            listener.stop.notify_one();
        }
        self.drain.draining.set(true);
        self.drain.changed.notify_waiters();
    }

    /// Stops accepting, and leaves to another process what waits in its sockets, which that one has too. Connections between two
    /// requests are given to it, now or when they come there; those of HTTP/2 end after what is under way.
    pub fn hand_over(&self, heir: Heir) {
        for listener in self.listeners.borrow().values().flatten() {
            listener.given.set(true);
        }
        // The first one stays: there is one process that takes over.
        let _ = self.drain.heir.set(heir);
        self.end();
    }

    /// Waits until no client of HTTP/2 can have failed to hear that it shall begin nothing here any more: its connection has ended.
    /// Those that have something long under way are waited for until `by`.
    pub async fn settled(&self, by: Tick) {
        while self.drain.h2.get() > 0 && clock::now() < by {
            clock::sleep(SETTLE_LOOK).await;
        }
    }

    /// Goes on with a connection of the process that was here before.
    ///
    /// # Errors
    /// Its socket cannot be used.
    pub fn adopt(self: &Rc<Self>, passed: Passed) -> io::Result<()> {
        let Passed { stream, peer, listener, tls, server_name, client, begun, last, read } = passed;
        let settings = {
            let listeners = self.listeners.borrow();
            // Its listener may be no more: it is held to what others are.
            let own = listeners.get(&listener).into_iter().flatten().next();
            let any = own.or_else(|| listeners.values().flatten().next());
            any.map(|listener| Rc::clone(&listener.settings.borrow()))
        };
        let Some(settings) = settings else { return Ok(()) };
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        let (mut seat, room) = Seat::take(&self.census, &self.drain.seats);
        let connection = Connection::of(peer, listener, tls, &settings.limits);
        let connection = Rc::new(Connection { server_name, tls_client: client, last, ..connection });
        let _ = self.crowded(&mut seat, &connection);
        if let Some(refusal) = self.turned_away(&room, &settings.limits) {
            tracing::debug!(?refusal, "there is no room for a connection of the process before");
            return Ok(());
        }
        let server = Rc::clone(self);
        let before = Before { begun, read };
        // Before its first request nobody knows what it speaks.
        if before.begun || tls || !before.read.is_empty() {
            task::spawn(server.drive_h1(Socket::Plain(stream), seat, connection, Some(&before)));
        } else {
            task::spawn(server.first(stream, seat, connection));
        }
        Ok(())
    }

    /// Gives a connection to the process that takes over.
    async fn pass(&self, socket: Socket, begun: bool, read: Vec<u8>, connection: &Connection) {
        let Some(heir) = self.drain.heir.get() else { return };
        let Connection { peer, listener, tls, server_name, tls_client, last, .. } = connection;
        let told = |stream, last| Passed {
            stream,
            peer: *peer,
            listener: *listener,
            tls: *tls,
            server_name: server_name.clone(),
            client: tls_client.clone(),
            begun,
            last,
            read,
        };
        // Where the other process is gone, or there is no room for another socket, a connection ends as in any drain.
        match socket {
            Socket::Plain(stream) => {
                if let Ok(stream) = stream.into_std() {
                    let _ = heir.send(told(stream, *last)).await;
                }
            }
            Socket::Tls(mut stream) => {
                let Ok((near, far)) = pair() else { return };
                let Ok(mut near) = TcpStream::from_std(near) else { return };
                if heir.send(told(far, true)).await.is_ok() {
                    // How it ends is the business of both ends.
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut near).await;
                }
            }
        }
    }

    async fn accept(self: Rc<Self>, socket: Rc<TcpListener>, address: SocketAddr, listener: Rc<Listener>) {
        let mut stopped = pin!(listener.stop.notified());
        let mut in_a_row = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let settings = Rc::clone(&listener.settings.borrow());
                    self.admit(stream, peer, address, &settings);
                }
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    if self.census.fail(clock::now()) {
                        tracing::error!(%address, %error, "cannot accept connections");
                    }
                    clock::sleep(ACCEPT_PAUSE).await;
                }
            }
            in_a_row += 1;
            if in_a_row == ACCEPTS_MAX {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
        }
        // Nobody else here holds it for longer than a look. Where another process has it too, what waits is that one's.
        if let Some(socket) = Rc::into_inner(socket)
            && !listener.given.get()
        {
            self.accept_waiting(socket, address, &listener);
        }
    }

    /// Accepts what waits in a socket that is about to close: the kernel would reset it.
    fn accept_waiting(self: &Rc<Self>, socket: TcpListener, address: SocketAddr, listener: &Listener) {
        let Ok(socket) = socket.into_std() else { return };
        let settings = Rc::clone(&listener.settings.borrow());
        while let Ok((stream, peer)) = socket.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.admit(stream, peer, address, &settings);
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
        let (mut seat, room) = Seat::take(&self.census, &self.drain.seats);
        let connection = Rc::new(Connection::of(peer, listener, settings.tls, &settings.limits));
        let mut turned_away = self.turned_away(&room, &settings.limits);
        if turned_away.is_none() && !settings.proxy_protocol {
            turned_away = self.crowded(&mut seat, &connection);
        }
        if let Some(refusal) = turned_away {
            return self.turn_away(&stream, &connection, refusal);
        }
        let server = Rc::clone(self);
        let settings = Rc::clone(settings);
        task::spawn(async move {
            let _ = stream.set_nodelay(true);
            server.serve(stream, seat, connection, &settings).await;
        });
    }

    /// Tells a client that its connection is not served, if that can be told without waiting.
    fn turn_away(&self, stream: &TcpStream, connection: &Connection, refusal: Refusal) {
        self.census.refuse();
        if !connection.tls {
            let bytes = encode(&self.handler.refuse(connection, refusal, None));
            // What fits into an empty socket buffer is taken at once; a client of a full server gets no more.
            let _ = stream.try_write(&bytes);
        }
    }

    /// Why a client may not have this connection besides those that it has.
    fn crowded(&self, seat: &mut Seat, connection: &Connection) -> Option<Refusal> {
        let (address, limits) = (connection.peer.ip(), &connection.limits);
        let most = limits.connections.min(of_clients_max());
        if self.handler.is_proxy(address) || seat.is_for(address, limits.connections_per_address, most) {
            return None;
        }
        let refusal =
            Refusal::new(&refusal::SERVER_CROWDED, "this address has as many connections as it may");
        Some(refusal.retry_after(TURNED_AWAY_FOR))
    }

    /// Why a connection that has come is not served.
    fn turned_away(&self, room: &Room, limits: &ConnectionLimits) -> Option<Refusal> {
        let refusal = if room.others >= limits.connections {
            Refusal::new(&refusal::SERVER_CONNECTIONS, "the server has as many connections as it may")
        } else if room.file {
            return self.handler.turns_away();
        } else {
            Refusal::new(&refusal::SERVER_FILES, "the server has as many open files as it may")
        };
        Some(refusal.retry_after(TURNED_AWAY_FOR))
    }

    /// How full the fullest of the kernel's lists is of connections that wait to be accepted here, 0 to 1.
    #[must_use]
    pub fn backlog(&self) -> f64 {
        let listeners = self.listeners.borrow();
        let sockets = listeners.values().flatten().filter_map(|listener| listener.socket.borrow().upgrade());
        sockets.filter_map(|socket| backlog(&*socket)).fold(0.0, f64::max)
    }

    /// Handshakes, finds out the protocol and drives the connection.
    async fn serve(
        self: Rc<Self>,
        mut stream: TcpStream,
        mut seat: Seat,
        mut connection: Rc<Connection>,
        settings: &ListenerSettings,
    ) {
        let limits = Arc::clone(&connection.limits);
        let by = clock::now().after(limits.handshake_time);
        if settings.proxy_protocol {
            match clock::timeout_at(by, first_bytes::proxy_header(&mut stream)).await {
                Ok(Ok(Some((peer, _)))) => {
                    Connection::tell(&mut connection, |known| known.peer = peer);
                    if let Some(refusal) = self.crowded(&mut seat, &connection) {
                        return self.turn_away(&stream, &connection, refusal);
                    }
                }
                Ok(Ok(None)) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
        if !settings.tls {
            return self.first(stream, seat, connection).await;
        }
        let accepted = match clock::timeout_at(by, Box::pin(tls::accept(&self.tls, stream))).await {
            Ok(Ok(Some(accepted))) => accepted,
            Ok(Ok(None)) => return,
            Ok(Err(failed)) => return self.unsecured(&connection, &failed),
            Err(_) => return self.census.fail_handshake(HandshakeFailure::Slow),
        };
        let (socket, h2) = secured(accepted, &mut connection);
        self.drive(socket, seat, h2, connection);
    }

    /// Counts a handshake that failed, and says so where the client's certificate is why.
    fn unsecured(&self, connection: &Connection, failed: &Failed) {
        let why = HandshakeFailure::of(&failed.error);
        self.census.fail_handshake(why);
        let (client, name) = (connection.peer.ip(), failed.name.as_deref().unwrap_or_default());
        if why.is_of_client() && self.census.may_complain_of_clients(clock::now()) {
            tracing::warn!(%client, name, why = why.name(), error = %failed.error, "a client's certificate was refused");
        } else {
            tracing::debug!(%client, name, why = why.name(), error = %failed.error, "a handshake failed");
        }
    }

    /// Finds out what a connection without TLS speaks, and drives it.
    async fn first(self: Rc<Self>, stream: TcpStream, seat: Seat, connection: Rc<Connection>) {
        // No buffer is made before there is something to put into it.
        let by = clock::now().after(connection.limits.header_time);
        let preface = tokio::select! {
            biased;
            preface = clock::timeout_at(by, first_bytes::is_h2(&stream)) => preface,
            () = self.drain.last_call() => match self.drain.passes() {
                true => {
                    let passed = self.pass(Socket::Plain(stream), false, Vec::new(), &connection);
                    return Box::pin(passed).await;
                }
                false => return,
            },
        };
        match preface {
            Ok(Ok(h2)) => self.drive(Socket::Plain(stream), seat, h2, connection),
            Ok(Err(_)) => {}
            Err(_) => {
                let refusal = Refusal::new(&refusal::REQUEST_TIMEOUT, "no request came in time");
                let bytes = encode(&self.handler.refuse(&connection, refusal, None));
                Box::pin(linger(Socket::Plain(stream), &bytes)).await;
            }
        }
    }

    /// Drives a connection in a task of its own, which holds nothing of what has found out its protocol.
    fn drive(self: Rc<Self>, socket: Socket, seat: Seat, h2: bool, connection: Rc<Connection>) {
        if h2 {
            task::spawn(self.drive_h2(socket, seat, connection));
        } else {
            task::spawn(self.drive_h1(socket, seat, connection, None));
        }
    }

    /// Drives a connection of HTTP/1.1. `before`: what the process before had of it.
    fn drive_h1(
        self: Rc<Self>,
        socket: Socket,
        seat: Seat,
        connection: Rc<Connection>,
        before: Option<&Before>,
    ) -> impl Future<Output = ()> + use<H> {
        let inbound = Inbound::new(socket, &connection.limits);
        if let Some(before) = before {
            inbound.borrow_mut().read.extend_from_slice(&before.read);
        }
        let _ = connection.inbound.set(Rc::downgrade(&inbound));
        let exchanges = match connection.last {
            true => connection.limits.requests.saturating_sub(1),
            false => u64::from(before.is_some_and(|before| before.begun)),
        };
        self.converse(inbound, seat, connection, exchanges)
    }

    /// Answers a connection's requests until it ends. `exchanges`: those that it has had.
    async fn converse(
        self: Rc<Self>,
        inbound: Rc<RefCell<Inbound>>,
        seat: Seat,
        connection: Rc<Connection>,
        mut exchanges: u64,
    ) {
        let _last = LastHand(&inbound);
        let ended = loop {
            let ended = {
                // Not in this task itself: a connection that rests has no need of either.
                let mut running = Box::pin(None);
                let mut driver =
                    Box::new(Driver::new(&inbound, &connection.limits, &self.drain, &mut exchanges));
                let handle = |request| self.handler.handle(request, &connection);
                std::future::poll_fn(|context| driver.poll(context, running.as_mut(), handle)).await
            };
            if !matches!(ended, Ended::Rest) {
                break ended;
            }
            if !Box::pin(self.rest(&inbound, connection.limits.idle)).await {
                break if self.drain.passes() { Ended::Pass } else { Ended::Close };
            }
        };
        let unread = std::mem::take(&mut inbound.borrow_mut().read);
        let Some(mut socket) = inbound.borrow_mut().end() else { return };
        match ended {
            Ended::Close => {
                let by = clock::now().after(LINGER);
                let _ = Box::pin(clock::timeout_at(by, socket.shutdown())).await;
            }
            Ended::Linger => Box::pin(linger(socket, &[])).await,
            Ended::Refused(violation) => {
                let refusal = Refusal::new(violation.kind, violation.why);
                let bytes = encode(&self.handler.refuse(&connection, refusal, None));
                Box::pin(linger(socket, &bytes)).await;
            }
            // Whoever asked may have gone meanwhile.
            Ended::Upgraded(offer) => drop(offer.send((socket, seat))),
            Ended::Broken => socket.reset(),
            Ended::Pass => {
                Box::pin(self.pass(socket, exchanges > 0, unread.to_vec(), &connection)).await;
                drop(seat);
            }
            Ended::Cut | Ended::Rest => {}
        }
    }

    /// Waits for the client's next request without buffers. Whether one comes.
    async fn rest(&self, inbound: &RefCell<Inbound>, idle: Duration) -> bool {
        let _rest = Rest::begin(&self.census);
        let (socket, until) = {
            let mut inbound = inbound.borrow_mut();
            inbound.read = BytesMut::new();
            (inbound.socket.take(), inbound.active_at.after(idle))
        };
        let Some(socket) = socket else { return false };
        let drained = self.drain.changed.notified();
        let awake = !self.drain.draining.get()
            && tokio::select! {
                biased;
                readable = socket.readable() => readable.is_ok(),
                () = drained => false,
                () = clock::sleep_until(until) => false,
            };
        inbound.borrow_mut().socket = Some(socket);
        awake
    }

    async fn drive_h2(self: Rc<Self>, socket: Socket, seat: Seat, connection: Rc<Connection>) {
        let _counted = H2Counted::begin(&self.drain);
        let limits = &connection.limits;
        let shared = Shared::new(clock::now());
        let io = H2Stream::new(socket, seat, Arc::clone(&shared), Arc::clone(limits));
        let streams = Rc::<Streams>::default();
        let service = {
            let (server, connection, shared, streams) =
                (Rc::clone(&self), Rc::clone(&connection), Arc::clone(&shared), Rc::clone(&streams));
            service_fn(move |mut request| {
                let (server, connection, shared) =
                    (Rc::clone(&server), Rc::clone(&connection), Arc::clone(&shared));
                let (stream, pass) = (streams.open(), Pass::begin(&shared));
                async move {
                    let refuse = |refusal, fields: Option<&Fields>, pass| {
                        let refused = server.handler.refuse(&connection, refusal, fields);
                        Ok(refused.map(|bytes| Tracked::words(bytes, pass)).into())
                    };
                    let checked = h2_check::check(&mut request, &connection.limits);
                    let opening = match checked.and_then(|()| websocket::translate(&mut request)) {
                        Ok(None) => {
                            return server.answer(request, &connection, stream, pass).await;
                        }
                        Ok(Some(opening)) => opening,
                        Err(refusal) => return refuse(refusal, Some(&Fields::from(request.headers())), pass),
                    };
                    request.extensions_mut().insert(Arc::new(Hold::on(&shared)));
                    let mut response = server.answer(request, &connection, stream, pass).await?;
                    match opening.answer(&mut response) {
                        Ok(()) => Ok(response),
                        Err(refusal) => refuse(refusal, None, Pass::begin(&shared)),
                    }
                }
            })
        };
        let mut builder = http2::Builder::new(StreamExecutor(Rc::clone(&streams)));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.h2_streams)
            .max_pending_accept_reset_streams(limits.h2_resets_pending)
            .max_local_error_reset_streams(limits.h2_resets_local)
            .enable_connect_protocol()
            .keep_alive_interval(limits.h2_ping)
            .keep_alive_timeout(PONG_WITHIN.min(limits.h2_ping))
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(limits.h2_stream_window)
            .initial_connection_window_size(limits.h2_connection_window)
            .max_send_buf_size(limits.h2_send_buffer);
        let mut driven = Box::pin(builder.serve_connection(io, service));
        let mut timer = Timer::new(&shared, limits, &self.drain, &streams);
        std::future::poll_fn(|context| {
            timer.poll(context, driven.as_mut(), |driven| driven.graceful_shutdown())
        })
        .await;
    }

    /// Answers a request of HTTP/2.
    async fn answer(
        &self,
        request: http::Request<hyper::body::Incoming>,
        connection: &Rc<Connection>,
        stream: Stream,
        pass: Pass,
    ) -> Result<http::Response<Tracked<H::Body>>, std::convert::Infallible> {
        let request = Request::from(request).map(Incoming::http2);
        let response = self.handler.handle(request, connection).await;
        Ok(response.map(|body| Tracked::answer(body, stream, pass)).into())
    }
}

/// Ends a connection with the task that drives it, whatever ends that: who reads a body may hold on to the socket.
struct LastHand<'a>(&'a RefCell<Inbound>);

impl Drop for LastHand<'_> {
    fn drop(&mut self) {
        let Ok(mut inbound) = self.0.try_borrow_mut() else { return };
        // After a panic, half an answer may be sent that the client would take for all.
        if let Some(socket) = inbound.end()
            && std::thread::panicking()
        {
            socket.reset();
        }
    }
}

impl Drain {
    /// Waits until connections should end, and a little for those that have only just begun; not where another process goes on
    /// with them.
    async fn last_call(&self) {
        let changed = self.changed.notified();
        if !self.draining.get() {
            changed.await;
        }
        if !self.passes() {
            clock::sleep(LAST_CALL).await;
        }
    }

    /// Whether there is another process that goes on with connections that are between two requests.
    pub(crate) fn passes(&self) -> bool {
        self.heir.get().is_some_and(|heir| !heir.is_closed())
    }
}

/// A connection of HTTP/2, while it is counted.
struct H2Counted(Rc<Drain>);

impl H2Counted {
    fn begin(drain: &Rc<Drain>) -> H2Counted {
        drain.h2.set(drain.h2.get() + 1);
        H2Counted(Rc::clone(drain))
    }
}

impl Drop for H2Counted {
    fn drop(&mut self) {
        self.0.h2.set(self.0.h2.get() - 1);
    }
}

/// Errors of one connection that is already gone, not of the listener.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// The socket of a connection whose handshake is done, and whether it speaks HTTP/2. Not in the connection's task, which would keep
/// room for the whole session for as long as it lives.
fn secured(accepted: tls::Accepted, connection: &mut Rc<Connection>) -> (Socket, bool) {
    let tls::Accepted { stream, client } = accepted;
    let session = stream.get_ref().1;
    let h2 = session.alpn_protocol() == Some(b"h2");
    let server_name = session.server_name().map(str::to_owned);
    Connection::tell(connection, |known| (known.server_name, known.tls_client) = (server_name, client));
    (Socket::Tls(Box::new(stream)), h2)
}

#[cfg(test)]
mod tests;
