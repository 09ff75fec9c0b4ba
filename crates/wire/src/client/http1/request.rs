//! A request on its way to a server over HTTP/1.1: its head, and its body as it comes.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Method, Request};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::tick::Tick;
use tokio::io::AsyncWrite;

use crate::body::{Body, BoxError};
use crate::clock;

/// Fields that frame, route or authorise a message may not follow it (RFC 9110 section 6.5.1).
const NO_TRAILERS: [HeaderName; 7] =
    [AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING];
/// How long a server may take to say that it wants a body: it may not know that it is asked. The client's own "100
/// Continue" is written when its body is first asked for, so that it hears what the server said.
const CONTINUE_WITHIN: Duration = Duration::from_secs(1);
/// What is at most kept of the buffer for heads once a request is sent.
const KEPT: usize = 16 * 1024;

/// What is sent of a request, and what is still to be.
#[derive(Debug, Default)]
pub(super) struct Upload {
    /// The head, chunk sizes and trailers: what goes out before `data`.
    lines: Vec<u8>,
    lines_at: usize,
    /// A frame of the body.
    data: Bytes,
    /// What ends a chunk, or nothing.
    tail: &'static [u8],
    body: Option<Body>,
    framing: Framing,
    /// Whether anything was taken by the kernel.
    pub began: bool,
    /// The body waits until the server says that it wants it, or until then (RFC 9110 section 10.1.1).
    pub held_until: Option<Tick>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    #[default]
    None,
    /// So many bytes are still announced.
    Length(u64),
    Chunked,
}

/// Why a request could not be sent.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The server does not take it.
    Io(io::Error),
    /// Its own body failed.
    Body(BoxError),
}

impl Upload {
    /// Begins with a request. Its body is taken; the head stays the caller's.
    pub(super) fn begin(&mut self, request: &mut Request<Body>) {
        self.lines.clear();
        self.lines_at = 0;
        self.data = Bytes::new();
        self.tail = b"";
        self.began = false;
        let body = std::mem::take(request.body_mut());
        let ended = body.is_end_stream();
        self.framing = match body.size_hint().exact() {
            _ if ended => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let expects = !ended && request.headers().contains_key(EXPECT);
        self.held_until = expects.then(|| clock::now().after(CONTINUE_WITHIN));
        self.body = (!ended).then_some(body);
        self.head(request);
    }

    fn head(&mut self, request: &Request<Body>) {
        let out = &mut self.lines;
        out.extend_from_slice(request.method().as_str().as_bytes());
        out.push(b' ');
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let headers = request.headers();
        if let Some(authority) = request.uri().authority().filter(|_| !headers.contains_key(HOST)) {
            field(out, HOST.as_str(), authority.as_str().as_bytes());
        }
        for (name, value) in headers {
            // Only the body itself tells how it is framed.
            if name != CONTENT_LENGTH && name != TRANSFER_ENCODING {
                field(out, name.as_str(), value.as_bytes());
            }
        }
        match self.framing {
            Framing::Length(length) => {
                let _ = write!(out, "content-length: {length}\r\n");
            }
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            // A method that expects a body says that there is none (RFC 9110 section 8.6).
            Framing::None
                if matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
                    || headers.contains_key(CONTENT_LENGTH) =>
            {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            Framing::None => {}
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Lets go of what a large request left behind.
    pub(super) fn shrink(&mut self) {
        if self.lines.capacity() > KEPT {
            self.lines = Vec::new();
        }
    }

    /// Lets go of a body that the server does not want: it has answered before it said that it did.
    pub(super) fn refuse_held(&mut self) -> bool {
        let held = self.held_until.take().is_some();
        if held {
            self.body = None;
        }
        held
    }

    /// Gives the body back, of which nothing was sent.
    pub(super) fn give_back(&mut self) -> Body {
        let rest = self.body.take().unwrap_or_default();
        match std::mem::take(&mut self.data) {
            data if data.is_empty() => rest,
            data => Body::boxed(Resumed { first: Some(data), rest }),
        }
    }

    /// Sends what there is to send. Ready once all of it was.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut io: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            // The first frame goes out with the head, where it is there already.
            let starved =
                self.data.is_empty() && self.tail.is_empty() && self.poll_body(context)?.is_pending();
            if !self.is_written() {
                ready!(self.poll_write(context, io.as_mut())).map_err(UploadError::Io)?;
            } else if starved || self.body.is_none() {
                ready!(io.as_mut().poll_flush(context)).map_err(UploadError::Io)?;
                return if starved { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
        }
    }

    fn is_written(&self) -> bool {
        self.lines_at == self.lines.len() && self.data.is_empty() && self.tail.is_empty()
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        io: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        let lines = &self.lines[self.lines_at..];
        let slices = [IoSlice::new(lines), IoSlice::new(&self.data), IoSlice::new(self.tail)];
        let mut written = match slices.iter().filter(|slice| !slice.is_empty()).count() {
            1 if !lines.is_empty() => ready!(io.poll_write(context, lines))?,
            _ => ready!(io.poll_write_vectored(context, &slices))?,
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.began = true;
        let of_lines = written.min(lines.len());
        self.lines_at += of_lines;
        written -= of_lines;
        let of_data = written.min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[written - of_data..];
        if self.lines_at == self.lines.len() {
            self.lines.clear();
            self.lines_at = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the body's next frame. Ready when there is one, or no body any more.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        if self.held_until.is_some() {
            return Poll::Pending;
        }
        let frame = match ready!(Pin::new(body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Err(UploadError::Body(error))),
            None => {
                self.body = None;
                return Poll::Ready(self.end(&HeaderMap::new()));
            }
        };
        match frame.into_data() {
            Ok(data) => self.frame(data)?,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.body = None;
                    self.end(&trailers)?;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn frame(&mut self, data: Bytes) -> Result<(), UploadError> {
        match &mut self.framing {
            Framing::Chunked if !data.is_empty() => {
                let _ = write!(self.lines, "{:x}\r\n", data.len());
                self.tail = b"\r\n";
            }
            Framing::Chunked => {}
            Framing::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or_else(|| UploadError::Body("the body is longer than announced".into()))?;
            }
            Framing::None => return Err(UploadError::Body("a body where there was none".into())),
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self, trailers: &HeaderMap) -> Result<(), UploadError> {
        match self.framing {
            Framing::Chunked => {
                self.lines.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().filter(|(name, _)| !NO_TRAILERS.contains(name)) {
                    field(&mut self.lines, name.as_str(), value.as_bytes());
                }
                self.lines.extend_from_slice(b"\r\n");
                Ok(())
            }
            Framing::Length(left) if left > 0 => {
                Err(UploadError::Body("the body is shorter than announced".into()))
            }
            Framing::Length(_) | Framing::None => Ok(()),
        }
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A body whose first frame was looked at and put back.
struct Resumed {
    first: Option<Bytes>,
    rest: Body,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + first);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint
    }
}
