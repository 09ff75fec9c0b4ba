//! One HTTP/1.1 connection to an endpoint, driven by whoever uses it: no task, no channel, no copy stands between the
//! exchange and its socket.
//!
//! A connection is sent a request, becomes the response's body ([`Http1`] is polled for frames), and is given back when
//! the body has ended. Dropped before that, it is closed, which tells the server that nobody waits any more.
//! The request's body is sent while the response is awaited and read: a server may answer early.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http::header::UPGRADE;
use http::{Method, StatusCode};
use http_body::Frame;
use tidegate_model::message::{Request, Response, ResponseHead};
use tidegate_model::own::TryFields;
use tidegate_model::tick::Tick;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;
use tokio_rustls::client::TlsStream;

use super::{Hearing, SendError, SendErrorKind};
use crate::alarm::Alarm;
use crate::body::{Body, BoxError};
use crate::direct;

mod fields;
mod request;
pub mod response;

use request::{Upload, UploadError};
use response::{Chunks, Framing, Malformed, Piece};

/// How much is read at once: as much as a small answer needs at first, more while a large one comes.
const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 128 * 1024;
/// How many interim responses are read before the final one.
const INTERIM_MAX: u32 = 16;

/// A connection, between two requests or in one.
#[derive(Debug)]
pub struct Http1 {
    io: Io,
    read: BytesMut,
    read_at_once: usize,
    /// Whether `read` is a part of something large.
    large: bool,
    /// How much of `read` was searched for the head's end.
    seen: usize,
    upload: Upload,
    /// Whether the request is sent.
    uploaded: bool,
    reading: Reading,
    /// Whether it may be used again after this response.
    keep: bool,
    alarm: Alarm,
}

#[derive(Debug)]
enum Reading {
    /// Nothing: no request was sent, or the response has ended.
    Idle,
    Length(u64),
    Chunked(Chunks),
    /// Until the server closes.
    Close,
    /// It is no HTTP connection any more.
    Tunnel,
    Failed,
}

/// Plain or TLS.
#[derive(Debug)]
pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Http1 {
    pub(super) fn new(io: Io) -> Box<Http1> {
        Box::new(Http1 {
            io,
            read: BytesMut::new(),
            read_at_once: READ_MIN,
            large: false,
            seen: 0,
            upload: Upload::default(),
            uploaded: true,
            reading: Reading::Idle,
            keep: true,
            alarm: Alarm::default(),
        })
    }

    /// Whether no further request can be sent: the server has closed it, or said what nobody asked for.
    ///
    /// It costs a system call only if something has come since the last response.
    pub(super) fn is_closed(&mut self) -> bool {
        if !self.keep || !self.read.is_empty() || !matches!(self.reading, Reading::Idle) {
            return true;
        }
        if let Io::Plain(stream) = &self.io {
            // Tells at once, and leaves nobody's waker behind.
            let nothing = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
            return !stream.try_read(&mut [0]).is_err_and(nothing);
        }
        let mut io = Pin::new(&mut self.io);
        let mut byte = [0];
        // A task that has done much in this turn would be told that nothing has come, whatever has.
        let look = pin!(coop::unconstrained(poll_fn(|context| {
            let mut buffer = ReadBuf::new(&mut byte);
            io.as_mut().poll_read(context, &mut buffer).map(drop)
        })));
        look.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Lets go of what a large response left behind: many connections are idle.
    pub(super) fn shrink(&mut self) {
        if std::mem::take(&mut self.large) {
            (self.read, self.read_at_once) = (BytesMut::new(), READ_MIN);
        }
    }

    /// Sends a request, with `own` beside its fields, and waits for the response's head until `by`. The request's head stays; its body is taken, unless
    /// nothing was sent.
    pub(super) async fn send(
        &mut self,
        request: &mut Request<Body>,
        own: &TryFields<'_>,
        hearing: Hearing<'_>,
        by: Tick,
    ) -> Result<Response<()>, SendError> {
        let upgrade = own.upgrade().unwrap_or_else(|| request.headers().contains_key(UPGRADE));
        self.upload.begin(request, own);
        self.uploaded = false;
        self.keep = false;
        let method = request.method();
        let mut interim = (0, hearing);
        let answered = poll_fn(|context| self.poll_head(context, method, upgrade, &mut interim, by)).await;
        answered.map_err(|error| {
            // A body that has failed is no body any more.
            let sent = self.upload.began() || error.kind == SendErrorKind::Body;
            if !sent {
                *request.body_mut() = self.upload.give_back();
            }
            SendError { sent, ..error }
        })
    }

    fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        method: &Method,
        upgrade: bool,
        (interim, hearing): &mut (u32, Hearing<'_>),
        by: Tick,
    ) -> Poll<Result<Response<()>, SendError>> {
        let broken = loop {
            let unsent = self.poll_upload(context).err();
            if let Some(UploadError::Body(error)) = unsent {
                break SendError::new(SendErrorKind::Body, Some(error));
            }
            let taken = response::take_head(&mut self.read, &mut self.seen, method);
            match taken {
                Ok(Some(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS && !upgrade => {
                    break malformed(Malformed("the server changes to a protocol that nobody asked for"));
                }
                // What is left of the request would be bytes of the other protocol.
                Ok(Some(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS && self.is_uploading() => {
                    break malformed(Malformed("the server changes the protocol within the request"));
                }
                Ok(Some(head))
                    if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    *interim += 1;
                    if *interim > INTERIM_MAX {
                        break malformed(Malformed("the server sends interim responses without end"));
                    }
                    // A client that waits for it hears it when its body is asked for.
                    if head.status == StatusCode::CONTINUE {
                        self.upload.held_until = None;
                    } else {
                        hearing.hear(context, head.status, head.headers);
                    }
                }
                Ok(Some(head)) => return Poll::Ready(Ok(self.begin(head))),
                Ok(None) => match self.poll_read(context) {
                    Poll::Ready(Ok(0)) => break SendError::new(SendErrorKind::Closed, None),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) => {
                        break SendError::new(SendErrorKind::Closed, Some(error.into()));
                    }
                    // What cannot be sent has no answer. But a server that closes early may have answered before: that
                    // the connection has ended is told to whoever reads it.
                    Poll::Pending => match unsent {
                        Some(UploadError::Io(error)) if !is_of_server(&error) => {
                            break SendError::new(SendErrorKind::Closed, Some(error.into()));
                        }
                        _ => {
                            let until = self.upload.held_until.unwrap_or(by).min(by);
                            ready!(self.alarm.poll(until, context));
                            if until < by {
                                self.upload.held_until = None;
                                continue;
                            }
                            break SendError::new(SendErrorKind::Late, None);
                        }
                    },
                },
                Err(error) => break malformed(error),
            }
        };
        self.reading = Reading::Failed;
        Poll::Ready(Err(broken))
    }

    /// Makes a response of a head.
    fn begin(&mut self, head: response::Head) -> Response<()> {
        let unsent = self.upload.refuse_held();
        self.uploaded |= unsent;
        self.keep = head.keep && !unsent;
        self.reading = match head.framing {
            _ if head.status == StatusCode::SWITCHING_PROTOCOLS => Reading::Tunnel,
            Framing::Length(0) => Reading::Idle,
            Framing::Length(length) => Reading::Length(length),
            Framing::Chunked => Reading::Chunked(Chunks::default()),
            Framing::Close => Reading::Close,
        };
        let response::Head { status, version, headers, .. } = head;
        Response::from_parts(ResponseHead { status, version, headers }, ())
    }

    /// Whether a part of the request is still to be sent.
    #[must_use]
    pub fn is_uploading(&self) -> bool {
        !self.uploaded
    }

    /// Sends what there is of the request. What cannot be sent ends the sending, and the connection with its response.
    pub fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.poll_upload(context) {
            Ok(()) if self.is_uploading() => Poll::Pending,
            Ok(()) => Poll::Ready(()),
            Err(_) => {
                self.uploaded = true;
                self.keep = false;
                Poll::Ready(())
            }
        }
    }

    fn poll_upload(&mut self, context: &mut Context<'_>) -> Result<(), UploadError> {
        if !self.uploaded {
            match self.upload.poll(context, Pin::new(&mut self.io)) {
                Poll::Ready(sent) => {
                    sent?;
                    self.uploaded = true;
                    self.upload.shrink();
                }
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(self.read_at_once);
        let room = self.read.capacity() - self.read.len();
        let length = ready!(self.io.poll_read_behind(context, &mut self.read))?;
        if length == room {
            self.read_at_once = (self.read_at_once * 2).min(READ_MAX);
            self.large = true;
        } else if length < READ_MIN {
            // Each piece holds the whole of what it was read into.
            self.read_at_once = (self.read_at_once / 2).max(READ_MIN);
        }
        Poll::Ready(Ok(length))
    }

    /// The next frame of the response's body.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let _ = self.poll_sent(context);
        loop {
            match self.next_piece() {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(trailers)) => {
                    self.reading = Reading::Idle;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(error) => return Poll::Ready(Some(Err(self.fail(error.into())))),
            }
            match ready!(self.poll_read(context)) {
                Ok(0) if matches!(self.reading, Reading::Close) => {
                    self.reading = Reading::Idle;
                    return Poll::Ready(None);
                }
                Ok(0) => {
                    let error = self.fail("the server closed the connection within the response".into());
                    return Poll::Ready(Some(Err(error)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(self.fail(error.into())))),
            }
        }
    }

    fn next_piece(&mut self) -> Result<Piece, Malformed> {
        Ok(match &mut self.reading {
            Reading::Idle | Reading::Tunnel | Reading::Failed => Piece::End,
            Reading::Length(_) | Reading::Close if self.read.is_empty() => Piece::More,
            Reading::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.read.len());
                *left -= length as u64;
                if *left == 0 {
                    self.reading = Reading::Idle;
                }
                Piece::Data(self.read.split_to(length).freeze())
            }
            Reading::Close => Piece::Data(self.read.split().freeze()),
            Reading::Chunked(chunks) => {
                let piece = chunks.take(&mut self.read)?;
                if *chunks == Chunks::Done {
                    self.reading = Reading::Idle;
                }
                piece
            }
        })
    }

    /// The whole body, if it is there and the request is sent.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        match self.reading {
            _ if !self.uploaded => None,
            Reading::Idle => Some(Bytes::new()),
            Reading::Length(left) => {
                let length = usize::try_from(left).ok().filter(|length| *length <= self.read.len())?;
                self.reading = Reading::Idle;
                Some(self.read.split_to(length).freeze())
            }
            _ => None,
        }
    }

    fn fail(&mut self, error: BoxError) -> BoxError {
        self.reading = Reading::Failed;
        self.keep = false;
        error
    }

    /// How much of the body is left, where that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match self.reading {
            Reading::Length(left) => Some(left),
            Reading::Chunked(_) | Reading::Close => None,
            Reading::Idle | Reading::Tunnel | Reading::Failed => Some(0),
        }
    }

    /// Waits until something has come.
    #[cfg(test)]
    pub(super) async fn readable(&self) {
        let Io::Plain(stream) = &self.io else { return };
        stream.readable().await.expect("it is open");
    }

    /// How many bytes it holds ready to read into.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.read.capacity()
    }

    /// Whether another request may be sent on it now.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.keep && self.uploaded && matches!(self.reading, Reading::Idle) && self.read.is_empty()
    }

    /// Whether the server has granted an Upgrade.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        matches!(self.reading, Reading::Tunnel)
    }
}

/// Whether it was the server that ended the connection.
fn is_of_server(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn malformed(error: Malformed) -> SendError {
    SendError::new(SendErrorKind::Protocol, Some(error.into()))
}

/// After an Upgrade: what was read beyond the head comes first.
impl AsyncRead for Http1 {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(context, buffer);
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http1 {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

impl Io {
    /// Reads what has come into the room behind `read`.
    fn poll_read_behind(
        &mut self,
        context: &mut Context<'_>,
        read: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Io::Plain(stream) => direct::poll_read(stream, context, read),
            Io::Tls(stream) => pin!(stream.read_buf(read)).poll(context),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Io::Plain(stream) => direct::poll_write(stream, context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Io::Plain(_) => Poll::Ready(Ok(())),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
