//! What an HTTP/1.1 connection and the body of its request share: the socket, what was read from it, and how much of
//! the body is still to come.
//!
//! Whoever wants a piece of the body reads it from the socket by themselves: mostly the connection's own task, while it
//! answers the request; sometimes another one of the same core. Nothing is read before somebody wants it, but for the
//! look whether the client is still there. So a body waits in its socket, and at most one read of it here.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http_body::Frame;
use tidegate_model::fields::Fields;
use tidegate_model::refusal;
use tidegate_model::tick::Tick;
use tokio::io::AsyncWrite;

use crate::body::BoxError;
use crate::clock;
use crate::patience::Patience;
use crate::request_body::{Next, RequestBody};
use crate::request_head::{Facts, HeadLimits, Violation};
use crate::settings::ConnectionLimits;
use crate::socket::Socket;

/// How much is read at once: as much as a head needs at first, more while a large body comes.
const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 64 * 1024;
/// There is always room for that much, before it is read.
const ROOM_MIN: usize = 1024;
/// What a client hears that waits for it before it sends a body, and one that has said it will send no more: is it still
/// there? (RFC 9110 section 15.2 lets a server send an interim response at any time. The kernel of a client that is gone
/// answers with a reset.)
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Interim responses of one request that are passed on, and their bytes. What comes beyond is left out: none of them is needed.
const INTERIMS_MAX: u32 = 16;
const INTERIM_BYTES_MAX: usize = 16 * 1024;
const CUT: &str = "the client closed within its request";
/// How long nothing is written to a client that has shut down its side within its answer, before it counts as gone: it
/// cannot be asked in the middle of a message, and most who say so have gone.
const GONE_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// A connection's socket, and the body that is read from it.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// `None` once the connection has ended, or became a tunnel.
    pub socket: Option<Socket>,
    pub read: BytesMut,
    read_at_once: usize,
    pub limits: Arc<ConnectionLimits>,
    body: RequestBody,
    broken: Option<Broken>,
    patience: Patience,
    /// The client is waited for until then: for its body.
    pub read_by: Tick,
    /// The client must have taken some of what it is sent until then.
    pub write_by: Tick,
    /// When something happened last that keeps the connection open.
    pub active_at: Tick,
    /// The client waits for a "100 Continue" before it sends the body.
    owes_continue: bool,
    /// What is left of interim responses.
    unsaid: BytesMut,
    /// How many of them may still be passed on to the request's client, and how many bytes.
    interims_left: (u32, usize),
    /// The answer to the request has begun.
    pub answering: bool,
    /// The client has shut down its side.
    pub half_closed: bool,
    /// Somebody may still read the body.
    pub held: bool,
    /// Who waits for a piece of the body, and who for its end.
    reader: Option<Waker>,
    driver: Option<Waker>,
}

/// Why no more of a body can come.
#[derive(Debug)]
enum Broken {
    /// The client did wrong.
    Violated(Violation),
    /// It has closed within it.
    Cut,
}

impl Inbound {
    pub(crate) fn new(socket: Socket, limits: &Arc<ConnectionLimits>) -> Rc<RefCell<Inbound>> {
        Rc::new(RefCell::new(Inbound {
            socket: Some(socket),
            read: BytesMut::new(),
            read_at_once: READ_MIN,
            limits: Arc::clone(limits),
            body: RequestBody::Ended,
            broken: None,
            patience: Patience::new(limits),
            read_by: Tick::MAX,
            write_by: Tick::MAX,
            active_at: clock::latest(),
            owes_continue: false,
            unsaid: BytesMut::new(),
            interims_left: (0, 0),
            answering: false,
            half_closed: false,
            held: false,
            reader: None,
            driver: None,
        }))
    }

    /// Begins with a request whose head says so of its body.
    pub(crate) fn begin(&mut self, facts: &Facts) {
        self.answering = false;
        // Whoever speaks HTTP/1.0 knows none (RFC 9110 section 15.2).
        self.interims_left = if facts.http10 { (0, 0) } else { (INTERIMS_MAX, INTERIM_BYTES_MAX) };
        self.body = RequestBody::of(facts);
        self.held = !self.is_whole();
        if self.held {
            self.owes_continue = facts.expects;
            self.patience = Patience::new(&self.limits);
        }
    }

    /// Whether all of the request's body was taken.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.body, RequestBody::Ended)
    }

    /// Whether no more of the body can come.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// How much of the body is left, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.body {
            RequestBody::Ended => Some(0),
            RequestBody::Length(left) => Some(left),
            RequestBody::Chunked(_) | RequestBody::Trailers(_) => None,
        }
    }

    /// Whether the rest of the body, of which nobody knows yet whether it is wanted, is here already.
    pub(crate) fn is_at_hand(&self) -> bool {
        let length = matches!(self.body, RequestBody::Length(left) if left <= self.read.len() as u64);
        length && self.broken.is_none()
    }

    /// Lets go of what a large request left behind.
    pub(crate) fn shrink(&mut self) {
        if self.read_at_once > READ_MIN && self.read.is_empty() {
            (self.read, self.read_at_once) = (BytesMut::new(), READ_MIN);
        }
    }

    /// Takes what is here of a body that nobody wants. Whether that was all.
    pub(crate) fn discard(&mut self) -> bool {
        while self.broken.is_none() {
            match self.body.take(&mut self.read, head_limits(&self.limits)) {
                Ok(Next::Data(_) | Next::Trailers(_)) => {}
                Ok(Next::End) => return true,
                Ok(Next::More) => return false,
                Err(violation) => self.fail(violation),
            }
        }
        false
    }

    /// The client did wrong within its body, or was waited for too long.
    pub(crate) fn fail(&mut self, violation: Violation) {
        self.broken = Some(Broken::Violated(violation));
        self.read_by = Tick::MAX;
        self.wake();
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.driver.take()).for_each(Waker::wake);
    }

    /// The connection has ended: whoever still reads the body learns it. The socket is given away.
    pub(crate) fn end(&mut self) -> Option<Socket> {
        if !self.is_whole() {
            self.broken.get_or_insert(Broken::Cut);
        }
        self.wake();
        self.socket.take()
    }

    /// Wakes this task when the body has ended, or nobody wants it any more. To be forgotten by the next turn.
    pub(crate) fn park(&mut self, context: &Context<'_>) {
        self.driver = Some(context.waker().clone());
    }

    /// The task takes its turn.
    pub(crate) fn unpark(&mut self) {
        self.driver = None;
    }

    /// Nobody will read the body any more.
    pub(crate) fn let_go(&mut self) {
        self.held = false;
        self.read_by = Tick::MAX;
        if !self.is_whole() {
            self.wake();
        }
    }

    /// Reads what has come: how much, 0 at the end.
    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(socket) = &mut self.socket else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if self.read.capacity() - self.read.len() < ROOM_MIN.max(self.read_at_once / 2) {
            self.read.reserve(self.read_at_once);
        }
        let room = self.read.capacity() - self.read.len();
        let length = ready!(socket.poll_read_behind(context, &mut self.read))?;
        if length == room {
            self.read_at_once = (self.read_at_once * 2).min(READ_MAX);
        } else if length < READ_MIN {
            // Each piece holds the whole of what it was read into.
            self.read_at_once = (self.read_at_once / 2).max(READ_MIN);
        }
        self.active_at = clock::latest();
        Poll::Ready(Ok(length))
    }

    /// The next frame of the body.
    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            match self.broken {
                Some(Broken::Violated(violation)) => return Poll::Ready(Some(Err(violation.into()))),
                Some(Broken::Cut) => return Poll::Ready(Some(Err(CUT.into()))),
                None => {}
            }
            match self.body.take(&mut self.read, head_limits(&self.limits)) {
                Ok(Next::Data(data)) => {
                    if self.is_whole() {
                        self.ended();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Next::Trailers(trailers)) => {
                    self.ended();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Next::End) => {
                    self.ended();
                    return Poll::Ready(None);
                }
                Ok(Next::More) => {}
                Err(violation) => {
                    self.fail(violation);
                    return Poll::Ready(Some(Err(violation.into())));
                }
            }
            if let Err(error) = ready!(self.poll_more(context)) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn ended(&mut self) {
        self.read_by = Tick::MAX;
        self.reader = None;
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Reads more of the body.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if std::mem::take(&mut self.owes_continue) && !self.answering {
            self.say(context, CONTINUE);
        }
        let read = match self.poll_read(context) {
            Poll::Ready(read) => read,
            Poll::Pending => {
                if self.read_by == Tick::MAX {
                    self.read_by = self.patience.wait(clock::latest());
                    // The connection's timer may have to ring sooner.
                    if let Some(driver) = self.driver.take() {
                        driver.wake();
                    }
                }
                if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(context.waker())) {
                    self.reader = Some(context.waker().clone());
                }
                return Poll::Pending;
            }
        };
        self.read_by = Tick::MAX;
        let error = match read {
            Ok(0) => CUT.into(),
            Ok(length) => match self.patience.came(length as u64, clock::latest()) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(violation) => {
                    self.fail(violation);
                    return Poll::Ready(Err(violation.into()));
                }
            },
            Err(error) => error.into(),
        };
        self.broken = Some(Broken::Cut);
        self.wake();
        Poll::Ready(Err(error))
    }

    /// The client said that it will send no more. Whether its exchange goes on; it is asked whether it is there.
    pub(crate) fn half_close(&mut self, context: &mut Context<'_>) -> bool {
        self.half_closed = true;
        self.active_at = clock::latest();
        // Nothing may stand in the middle of an answer.
        self.answering || self.say(context, CONTINUE)
    }

    /// Whether a client that has shut down its side has gone altogether.
    pub(crate) fn is_gone(&self, now: Tick) -> bool {
        let silent = self.answering && self.active_at.after(GONE_AFTER) <= now;
        silent || self.socket.as_ref().is_none_or(Socket::is_gone)
    }

    /// Passes on an interim response to the request that is answered next, if its client is to hear any. Tells whether it is.
    pub(crate) fn pass_on(&mut self, context: &mut Context<'_>, status: StatusCode, fields: &Fields) -> bool {
        let (count, bytes) = self.interims_left;
        if self.answering || count == 0 {
            return false;
        }
        let mut head = Vec::new();
        let reason = status.canonical_reason().unwrap_or_default();
        head.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        // It has no content, and what frames the answer is said with that.
        fields
            .write(&mut head, |name, _| !matches!(name.as_bytes(), b"content-length" | b"transfer-encoding"));
        head.extend_from_slice(b"\r\n");
        let Some(left) = bytes.checked_sub(head.len()) else { return false };
        self.interims_left = (count - 1, left);
        self.unsaid.extend_from_slice(&head);
        self.say(context, b"")
    }

    /// Writes an interim response; what does not fit goes out before the answer. `false`: nothing can be written.
    fn say(&mut self, context: &mut Context<'_>, bytes: &'static [u8]) -> bool {
        if self.unsaid.is_empty() {
            self.unsaid.extend_from_slice(bytes);
        }
        let Some(socket) = &mut self.socket else { return false };
        let said = match poll_say(Pin::new(socket), &mut self.unsaid, context) {
            Poll::Ready(Ok(())) => Pin::new(socket).poll_flush(context),
            other => other,
        };
        !matches!(said, Poll::Ready(Err(_)))
    }

    /// Notes whether the client took something of what it is sent.
    fn wrote(&mut self, stalled: bool) {
        if !stalled {
            self.write_by = Tick::MAX;
            if self.half_closed {
                self.active_at = clock::latest();
            }
        } else if self.write_by == Tick::MAX {
            self.write_by = clock::latest().after(self.limits.body_idle);
        }
    }
}

fn poll_say(
    mut socket: Pin<&mut Socket>,
    unsaid: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !unsaid.is_empty() {
        match ready!(socket.as_mut().poll_write(context, unsaid))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            length => unsaid.advance(length),
        }
    }
    Poll::Ready(Ok(()))
}

/// What heads and trailers are held to.
pub(crate) fn head_limits(limits: &ConnectionLimits) -> HeadLimits {
    HeadLimits { count: limits.header_count, bytes: limits.header_bytes }
}

/// The violation of a client whose body did not come in time.
pub(crate) fn stalled() -> Violation {
    Violation { kind: &refusal::REQUEST_TIMEOUT, why: "the body made no progress" }
}

/// The socket, lent for as long as one write takes: what is written may itself read from it.
pub(super) struct Lent<'a>(pub &'a RefCell<Inbound>);

impl Lent<'_> {
    fn poll<T>(
        &self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Socket>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let inbound = &mut *self.0.borrow_mut();
        let Some(socket) = &mut inbound.socket else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let polled = match poll_say(Pin::new(socket), &mut inbound.unsaid, context) {
            Poll::Ready(Ok(())) => write(Pin::new(socket), context),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        inbound.wrote(polled.is_pending());
        polled
    }
}

impl AsyncWrite for Lent<'_> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(context, |socket, context| socket.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(context, |socket, context| socket.poll_write_vectored(context, slices))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inbound = self.0.borrow_mut();
        match &mut inbound.socket {
            Some(Socket::Plain(_)) => Poll::Ready(Ok(())),
            Some(socket @ Socket::Tls(_)) => {
                let polled = Pin::new(socket).poll_flush(context);
                inbound.wrote(polled.is_pending());
                polled
            }
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Its owner ends it.
        Poll::Ready(Ok(()))
    }
}
