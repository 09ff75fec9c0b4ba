//! The socket of an HTTP/2 connection: what hyper reads from and writes to, and what is noted of it for its timer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use tidegate_model::tick::Tick;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock;
use crate::seat::Seat;
use crate::settings::ConnectionLimits;
use crate::socket::Socket;

/// GOAWAY with ENHANCE_YOUR_CALM (RFC 9113 sections 6.8 and 7). hyper has no way to say it.
const GOAWAY_CALM: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11];

/// What the socket, the connection's driver and its exchanges tell each other.
///
/// All of them run on one core: the atomics are never contended. They are there because a [`Hold`] travels with a
/// request, which has to be such that it could go elsewhere.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Exchanges under way.
    pub in_flight: AtomicU32,
    /// Exchanges begun.
    pub exchanges: AtomicU64,
    /// When something happened last that keeps an idle connection open.
    pub active_at: Moment,
    /// When the client must have taken some of what it is sent.
    pub write_by: Moment,
    /// Exchanges that the client gave up before they were answered, less those that were answered.
    pub given_up: AtomicU32,
    /// The client is told to calm down, and nothing of it is heard any more.
    pub calm: AtomicBool,
}

/// A tunnel: while it lasts, its connection is not idle.
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
        Arc::new(Shared {
            in_flight: AtomicU32::new(0),
            exchanges: AtomicU64::new(0),
            active_at: Moment(AtomicU64::new(now.0)),
            write_by: Moment(AtomicU64::new(Tick::MAX.0)),
            given_up: AtomicU32::new(0),
            calm: AtomicBool::new(false),
        })
    }

    /// Whether no exchange is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
    }
}

/// A socket that is watched.
#[derive(Debug)]
pub(crate) struct H2Stream {
    socket: Socket,
    _seat: Seat,
    shared: Arc<Shared>,
    limits: Arc<ConnectionLimits>,
    /// The client was told to calm down.
    calmed: bool,
}

impl H2Stream {
    pub(crate) fn new(
        socket: Socket,
        seat: Seat,
        shared: Arc<Shared>,
        limits: Arc<ConnectionLimits>,
    ) -> H2Stream {
        H2Stream { socket, _seat: seat, shared, limits, calmed: false }
    }

    /// Reads on without hearing, so that the client can read why the connection ends.
    fn poll_deaf(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn wrote(&mut self, stalled: bool) {
        if !stalled {
            self.shared.write_by.set(Tick::MAX);
        } else if self.shared.write_by.get() == Tick::MAX {
            self.shared.write_by.set(clock::now().after(self.limits.body_idle));
        }
    }
}

impl hyper::rt::Read for H2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.shared.calm.load(Relaxed) {
            return self.poll_deaf(context);
        }
        // SAFETY: only the bytes that `poll_read` has filled are claimed below; none is de-initialised.
        let mut buffer = ReadBuf::uninit(unsafe { cursor.as_mut() });
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer))?;
        let length = buffer.filled().len();
        // SAFETY: so many bytes were filled.
        unsafe { cursor.advance(length) };
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for H2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.wrote(polled.is_pending());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(context, bytes);
        self.wrote(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.shared.calm.load(Relaxed) && !std::mem::replace(&mut self.calmed, true) {
            // What is flushed are whole frames: here one may follow. If it does not fit, it is not said.
            let _ = Pin::new(&mut self.socket).poll_write(context, GOAWAY_CALM);
        }
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
