//! A guarded socket: what hyper reads from and writes to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use parking_lot::Mutex;
use tidegate_model::refusal;
use tidegate_model::tick::Tick;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::clock;
use crate::guard::{Guard, HeadLimits, Phase, Violation};
use crate::settings::ConnectionLimits;

/// What a client hears that has said it will send no more: is it still there? (RFC 9110 section 15.2 lets a server send
/// an interim response at any time. The kernel of a client that is gone answers with a reset.)
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

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
    /// The client has shut down its side.
    pub half_closed: AtomicBool,
    violated: AtomicBool,
    violation: Mutex<Option<Violation>>,
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
            half_closed: AtomicBool::new(false),
            violated: AtomicBool::new(false),
            violation: Mutex::new(None),
        })
    }

    /// Whether no exchange is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
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
    /// `None` for HTTP/2, where hyper's framing leaves no doubt.
    guard: Option<Guard>,
    shared: Arc<Shared>,
    limits: Arc<ConnectionLimits>,
    body_since: Tick,
    body_bytes: u64,
    wrote: bool,
}

impl GuardedStream {
    pub(crate) fn new(
        socket: Socket,
        http1: bool,
        shared: Arc<Shared>,
        limits: Arc<ConnectionLimits>,
    ) -> GuardedStream {
        let heads = HeadLimits { count: limits.header_count, bytes: limits.header_bytes };
        let guard = http1.then(|| Guard::new(heads));
        GuardedStream { socket, guard, shared, limits, body_since: Tick(0), body_bytes: 0, wrote: false }
    }

    /// Reads that must wait, or fail, before the socket is asked.
    fn held_back(&mut self) -> Option<Poll<io::Result<()>>> {
        let idle = self.shared.is_idle();
        if self.shared.violation().is_some() {
            let in_body = self.guard.as_ref().is_some_and(|guard| guard.phase() == Phase::Body);
            return Some(if idle || in_body { Poll::Ready(Err(refused())) } else { Poll::Pending });
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

    /// Whether the connection does not exist any more for the kernel.
    fn is_gone(&self) -> bool {
        match &self.socket {
            Socket::Plain(stream) => stream.peer_addr().is_err(),
            Socket::Tls(_) => true,
        }
    }

    /// Looks at what was read. How much of it may pass.
    fn inspect(&mut self, bytes: &[u8]) -> usize {
        let Some(guard) = &mut self.guard else { return bytes.len() };
        let before = guard.phase();
        let passed = match guard.feed(bytes) {
            Ok(()) => bytes.len(),
            Err((at, violation)) => {
                self.shared.broken_body.store(guard.phase() == Phase::Body, Relaxed);
                self.shared.violate(violation);
                at
            }
        };
        let after = guard.phase();
        let now = clock::now();
        self.shared.active_at.set(now);
        match after {
            Phase::Head if before != Phase::Head || self.shared.read_by.get() == Tick::MAX => {
                self.shared.read_by.set(now.after(self.limits.header_time));
            }
            Phase::Head => {}
            Phase::Body => {
                if before != Phase::Body {
                    self.body_since = now;
                    self.body_bytes = 0;
                }
                self.body_bytes += bytes.len() as u64;
                self.shared.read_by.set(Tick::MAX);
                self.check_body_rate(now);
            }
            Phase::Idle | Phase::Undecided | Phase::Tunnel => self.shared.read_by.set(Tick::MAX),
        }
        if before == Phase::Idle {
            self.wrote = false;
        }
        passed
    }

    fn check_body_rate(&self, now: Tick) {
        let since = now.since(self.body_since);
        if self.limits.body_rate_min == 0 || since <= self.limits.body_grace {
            return;
        }
        if u128::from(self.body_bytes) * 1000 < u128::from(self.limits.body_rate_min) * since.as_millis() {
            self.shared.broken_body.store(true, Relaxed);
            self.shared
                .violate(Violation { kind: &refusal::REQUEST_TIMEOUT, why: "the body comes too slowly" });
        }
    }

    /// The client said that it will send no more. `true`: its exchange goes on, and it was asked whether it is there.
    fn probe(&mut self, context: &mut Context<'_>) -> bool {
        let http11 =
            self.guard.as_ref().is_some_and(|guard| guard.phase() == Phase::Idle && !guard.is_http10());
        let Socket::Plain(stream) = &mut self.socket else { return false };
        if !http11 || self.shared.is_idle() {
            return false;
        }
        self.shared.half_closed.store(true, Relaxed);
        self.wrote
            || matches!(Pin::new(stream).poll_write(context, PROBE), Poll::Ready(Ok(_)) | Poll::Pending)
    }
}

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "refused by the framing guard")
}

impl hyper::rt::Read for GuardedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(held) = self.held_back() {
            return held;
        }
        // SAFETY: only the first `passed` bytes, which `poll_read` has filled, are claimed below; none is de-initialised.
        let mut buffer = ReadBuf::uninit(unsafe { cursor.as_mut() });
        let polled = match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_read(context, &mut buffer),
            Socket::Tls(stream) => Pin::new(stream).poll_read(context, &mut buffer),
        };
        if polled.is_pending() {
            let in_body = self.guard.as_ref().is_some_and(|guard| guard.phase() == Phase::Body);
            if in_body && self.shared.read_by.get() == Tick::MAX {
                self.shared.read_by.set(clock::now().after(self.limits.body_idle));
            }
        }
        ready!(polled)?;
        let filled = buffer.filled().len();
        if filled == 0 {
            return if self.probe(context) { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
        let passed = self.inspect(buffer.filled());
        // SAFETY: `passed` is at most the number of bytes filled.
        unsafe { cursor.advance(passed) };
        if passed == 0 {
            return self.held_back().unwrap_or_else(|| Poll::Ready(Err(refused())));
        }
        Poll::Ready(Ok(()))
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
        match &mut self.socket {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(context),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(context),
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
        self.wrote = true;
        if !stalled {
            self.shared.write_by.set(Tick::MAX);
        } else if self.shared.write_by.get() == Tick::MAX {
            self.shared.write_by.set(clock::now().after(self.limits.body_idle));
        }
    }
}
