//! A guarded socket: what hyper reads from and writes to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::ReadBufCursor;
use parking_lot::Mutex;
use tidegate_model::tick::Tick;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::clock;
use crate::guard::{Guard, HeadLimits, Phase, Violation};
use crate::patience::Patience;
use crate::seat::Seat;
use crate::settings::ConnectionLimits;

/// What a client hears that has said it will send no more: is it still there? (RFC 9110 section 15.2 lets a server send
/// an interim response at any time. The kernel of a client that is gone answers with a reset.)
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How long nothing is written to a client that said so within its answer, before it counts as gone: it cannot be asked
/// in the middle of a message, and most who say so have gone.
const GONE_AFTER: Duration = Duration::from_secs(1);
/// GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 sections 6.8 and 7). hyper has no way to say it.
const GOAWAY_CALM: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11];

/// A socket, with TLS or without.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Without.
    Plain(TcpStream),
    /// With.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What the socket, the connection's driver and its exchanges tell each other.
///
/// All of them run on one core: the atomics are never contended. They are there because hyper wants a socket that
/// could move to another thread after an Upgrade.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Exchanges under way.
    pub in_flight: AtomicU32,
    /// Exchanges begun.
    pub exchanges: AtomicU64,
    /// When something happened last that keeps an idle connection open.
    pub active_at: Moment,
    /// When the client must have sent what it is sending.
    pub read_by: Moment,
    /// When the client must have taken some of what it is sent.
    pub write_by: Moment,
    /// An exchange answered with an Upgrade.
    pub upgraded: AtomicBool,
    /// An exchange that asked for an Upgrade was answered without one.
    pub declined: AtomicBool,
    /// What the client did wrong lies in a body: its request was handed on already.
    pub broken_body: AtomicBool,
    /// The client has not sent all of a request's body.
    pub within_body: AtomicBool,
    /// The answer of the exchange under way has begun.
    pub answering: AtomicBool,
    /// The client has shut down its side.
    pub half_closed: AtomicBool,
    /// A read waits until the exchange under way is over.
    pub held_back: AtomicBool,
    /// Exchanges that the client gave up before they were answered, less those that were answered.
    pub given_up: AtomicU32,
    /// The client is told to calm down (HTTP/2), and nothing of it is heard any more.
    pub calm: AtomicBool,
    /// HTTP/1.1: the client's last request has come whole, and no byte of a next one.
    between: AtomicBool,
    /// Something that was written is not yet with the kernel.
    unflushed: AtomicBool,
    violated: AtomicBool,
    violation: Mutex<Option<Violation>>,
}

/// A tunnel over HTTP/2: while it lasts, its connection is not idle.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Shared>);

impl Hold {
    pub(crate) fn on(shared: &Arc<Shared>) -> Hold {
        shared.in_flight.fetch_add(1, Relaxed);
        Hold(Arc::clone(shared))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
        self.0.active_at.set(clock::latest());
    }
}

/// A tick that is set and read on one core.
#[derive(Debug)]
pub(crate) struct Moment(AtomicU64);

impl Moment {
    pub(crate) fn get(&self) -> Tick {
        Tick(self.0.load(Relaxed))
    }

    pub(crate) fn set(&self, tick: Tick) {
        self.0.store(tick.0, Relaxed);
    }
}

impl Shared {
    pub(crate) fn new(now: Tick) -> Arc<Shared> {
        let never = || Moment(AtomicU64::new(Tick::MAX.0));
        Arc::new(Shared {
            in_flight: AtomicU32::new(0),
            exchanges: AtomicU64::new(0),
            active_at: Moment(AtomicU64::new(now.0)),
            read_by: never(),
            write_by: never(),
            upgraded: AtomicBool::new(false),
            declined: AtomicBool::new(false),
            broken_body: AtomicBool::new(false),
            within_body: AtomicBool::new(false),
            answering: AtomicBool::new(false),
            half_closed: AtomicBool::new(false),
            held_back: AtomicBool::new(false),
            given_up: AtomicU32::new(0),
            calm: AtomicBool::new(false),
            between: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
            violated: AtomicBool::new(false),
            violation: Mutex::new(None),
        })
    }

    /// Whether no exchange is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
    }

    /// Whether the connection is between two requests, and owes its client nothing.
    pub(crate) fn may_rest(&self) -> bool {
        let is = |flag: &AtomicBool| flag.load(Relaxed);
        let nothing_due = self.read_by.get() == Tick::MAX && self.write_by.get() == Tick::MAX;
        let sound = !is(&self.upgraded) && !is(&self.half_closed) && !is(&self.violated);
        self.is_idle() && nothing_due && sound && is(&self.between) && !is(&self.unflushed)
    }

    /// Notes what the client did wrong; the first violation stays.
    pub(crate) fn violate(&self, violation: Violation) {
        self.violation.lock().get_or_insert(violation);
        self.violated.store(true, Relaxed);
    }

    /// What the client did wrong.
    pub(crate) fn violation(&self) -> Option<Violation> {
        if self.violated.load(Relaxed) { *self.violation.lock() } else { None }
    }
}

/// A socket whose bytes are looked at before hyper gets them.
#[derive(Debug)]
pub(crate) struct GuardedStream {
    pub socket: Socket,
    _seat: Seat,
    /// `None` for HTTP/2, where hyper's framing leaves no doubt.
    guard: Option<Guard>,
    /// Bytes that the guard let pass after it had held them: a line that came in pieces.
    released: Bytes,
    shared: Arc<Shared>,
    limits: Arc<ConnectionLimits>,
    patience: Patience,
    /// HTTP/2: the client was told to calm down.
    calmed: bool,
}

impl GuardedStream {
    pub(crate) fn new(
        socket: Socket,
        seat: Seat,
        http1: bool,
        shared: Arc<Shared>,
        limits: Arc<ConnectionLimits>,
    ) -> GuardedStream {
        let heads = HeadLimits { count: limits.header_count, bytes: limits.header_bytes };
        let guard = http1.then(|| Guard::new(heads));
        GuardedStream {
            socket,
            _seat: seat,
            guard,
            released: Bytes::new(),
            shared,
            patience: Patience::new(&limits),
            limits,
            calmed: false,
        }
    }

    /// The same after a rest. What hyper had read and not used, which is nothing, would come first.
    pub(crate) fn rested(mut self, unread: Bytes) -> GuardedStream {
        if !unread.is_empty() {
            self.released = unread;
        }
        self
    }

    /// Reads that must wait, or fail, before the socket is asked.
    fn held_back(&mut self) -> Option<Poll<io::Result<()>>> {
        let held = self.must_wait()?;
        self.shared.held_back.store(held.is_pending(), Relaxed);
        Some(held)
    }

    fn must_wait(&mut self) -> Option<Poll<io::Result<()>>> {
        let idle = self.shared.is_idle();
        if let Some(violation) = self.shared.violation() {
            return Some(if idle || self.is_within_body() {
                Poll::Ready(Err(refused(violation)))
            } else {
                Poll::Pending
            });
        }
        let guard = self.guard.as_mut()?;
        if guard.phase() == Phase::Undecided {
            if self.shared.upgraded.load(Relaxed) {
                guard.decide(true);
            } else if idle && self.shared.declined.load(Relaxed) {
                guard.decide(false);
            } else {
                return Some(Poll::Pending);
            }
        }
        if self.shared.half_closed.load(Relaxed) && !idle {
            return Some(match self.is_gone() {
                true => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                false => Poll::Pending,
            });
        }
        None
    }

    /// Whether the client has not sent all of a request's body.
    pub(crate) fn is_within_body(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.phase() == Phase::Body)
    }

    /// Whether the connection does not exist any more for the kernel, or seems not to for anybody.
    fn is_gone(&self) -> bool {
        if self.shared.answering.load(Relaxed)
            && self.shared.active_at.get().after(GONE_AFTER) <= clock::now()
        {
            return true;
        }
        match &self.socket {
            Socket::Plain(stream) => stream.peer_addr().is_err(),
            Socket::Tls(stream) => stream.get_ref().0.peer_addr().is_err(),
        }
    }

    /// Looks at what was read. How much of it may pass as it lies there; what the guard releases besides stands in
    /// `released` and comes first.
    fn inspect(&mut self, bytes: &[u8]) -> usize {
        let Some(guard) = &mut self.guard else { return bytes.len() };
        let before = guard.phase();
        // Rare: heads mostly come whole.
        let held = (!guard.held().is_empty()).then(|| guard.held().to_vec());
        let mut passed = match guard.feed(bytes) {
            Ok(passed) => passed,
            Err((at, violation)) => {
                self.shared.broken_body.store(guard.phase() == Phase::Body, Relaxed);
                self.shared.violate(violation);
                at
            }
        };
        let after = guard.phase();
        if let Some(mut whole) = held.filter(|_| passed > 0) {
            whole.extend_from_slice(&bytes[..passed]);
            self.released = whole.into();
            passed = 0;
        }
        self.note_phase(before, after, bytes.len());
        passed
    }

    /// Sets the deadlines of the phase that the client's bytes led to.
    fn note_phase(&mut self, before: Phase, after: Phase, length: usize) {
        let now = clock::latest();
        self.shared.active_at.set(now);
        self.shared.within_body.store(after == Phase::Body, Relaxed);
        self.shared.between.store(after == Phase::Idle, Relaxed);
        match after {
            Phase::Head if before != Phase::Head || self.shared.read_by.get() == Tick::MAX => {
                self.shared.read_by.set(now.after(self.limits.header_time));
            }
            Phase::Head => {}
            Phase::Body => {
                if before != Phase::Body {
                    self.patience = Patience::new(&self.limits);
                }
                self.shared.read_by.set(Tick::MAX);
                if let Err(violation) = self.patience.came(length as u64, now) {
                    self.shared.broken_body.store(true, Relaxed);
                    self.shared.violate(violation);
                }
            }
            Phase::Idle | Phase::Undecided | Phase::Tunnel => self.shared.read_by.set(Tick::MAX),
        }
        if after == Phase::Undecided && before != Phase::Undecided {
            // What was decided of the request before says nothing of this one.
            self.shared.declined.store(false, Relaxed);
        }
    }

    /// The client said that it will send no more. `true`: its exchange goes on, and it was asked whether it is there.
    fn probe(&mut self, context: &mut Context<'_>) -> bool {
        let http11 =
            self.guard.as_ref().is_some_and(|guard| guard.phase() == Phase::Idle && !guard.is_http10());
        if !http11 || self.shared.is_idle() {
            return false;
        }
        self.shared.half_closed.store(true, Relaxed);
        self.shared.active_at.set(clock::latest());
        // Nothing may stand in the middle of an answer, be it this exchange's or what is left of the one before.
        let within = self.shared.answering.load(Relaxed) || self.shared.write_by.get() != Tick::MAX;
        within || self.socket.say(context, PROBE)
    }

    /// Reads on without hearing, so that the client can read why the connection ends.
    fn poll_deaf(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(self.socket.poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Socket {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    /// Waits until there is something to read, or the end.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Socket::Plain(stream) => stream.readable().await,
            Socket::Tls(stream) => stream.get_ref().0.readable().await,
        }
    }

    /// Tells the client that nothing more will come.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Socket::Plain(stream) => stream.shutdown().await,
            Socket::Tls(stream) => stream.shutdown().await,
        }
    }

    /// Writes a few bytes between two messages. `false`: they could not be written, or not whole.
    fn say(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> bool {
        let written = match self {
            Socket::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        let flushed = match self {
            Socket::Plain(_) => Poll::Ready(Ok(())),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(context),
        };
        match written {
            Poll::Pending => true,
            Poll::Ready(written) => {
                written.is_ok_and(|length| length == bytes.len()) && !matches!(flushed, Poll::Ready(Err(_)))
            }
        }
    }
}

/// Tells whoever reads the body, too: see [`crate::body::violation`].
fn refused(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, violation)
}

impl hyper::rt::Read for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.released.is_empty() {
                let fits = this.released.len().min(cursor.remaining());
                cursor.put_slice(&this.released.split_to(fits));
                return Poll::Ready(Ok(()));
            }
            if this.shared.calm.load(Relaxed) {
                return this.poll_deaf(context);
            }
            if let Some(held) = this.held_back() {
                return held;
            }
            // SAFETY: only the first `passed` bytes, which `poll_read` has filled, are claimed below; none is de-initialised.
            let mut buffer = ReadBuf::uninit(unsafe { cursor.as_mut() });
            let polled = this.socket.poll_read(context, &mut buffer);
            if polled.is_pending() {
                let in_body = this.guard.as_ref().is_some_and(|guard| guard.phase() == Phase::Body);
                if in_body && this.shared.read_by.get() == Tick::MAX {
                    this.shared.read_by.set(this.patience.wait(clock::now()));
                }
            }
            ready!(polled)?;
            if buffer.filled().is_empty() {
                return if this.probe(context) { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            let passed = this.inspect(buffer.filled());
            if passed > 0 {
                // SAFETY: `passed` is at most the number of bytes filled.
                unsafe { cursor.advance(passed) };
                return Poll::Ready(Ok(()));
            }
            // The line goes on, or was released, or is refused: the next round tells.
        }
    }
}

impl hyper::rt::Write for GuardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        self.wrote(polled.is_pending());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Socket::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        };
        self.wrote(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(stream) => stream.is_write_vectored(),
            Socket::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.calm.load(Relaxed) && !std::mem::replace(&mut self.calmed, true) {
            // What is flushed are whole frames: here one may follow.
            self.socket.say(context, GOAWAY_CALM);
        }
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(context),
            Socket::Tls(stream) => {
                let polled = Pin::new(stream).poll_flush(context);
                self.shared.unflushed.store(polled.is_pending(), Relaxed);
                polled
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.violation().is_some() && self.shared.is_idle() {
            // The driver still has to say why.
            return Poll::Ready(Ok(()));
        }
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl GuardedStream {
    fn wrote(&mut self, stalled: bool) {
        if !stalled {
            self.shared.write_by.set(Tick::MAX);
            if self.shared.half_closed.load(Relaxed) {
                self.shared.active_at.set(clock::latest());
            }
        } else if self.shared.write_by.get() == Tick::MAX {
            self.shared.write_by.set(clock::now().after(self.limits.body_idle));
        }
    }
}
