//! A message on its way out over HTTP/1.1: its head, and its body as it comes.
//!
//! The first frame of a body goes out with the head, where it is there already. At most one frame is held.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName};
use http_body::Body as HttpBody;
use tokio::io::AsyncWrite;

use crate::body::BoxError;

/// Fields that frame, route or authorise a message may not follow it (RFC 9110 section 6.5.1).
const NO_TRAILERS: [HeaderName; 7] =
    [AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, TRANSFER_ENCODING];

/// What is at most kept of the buffer for heads once a message is sent.
const KEPT: usize = 16 * 1024;

/// What is at most copied behind the lines that go before it: the system takes one small piece for less than two.
const COPIED_MAX: usize = 2 * 1024;

/// What is sent of a message, and what is still to be.
#[derive(Debug)]
pub(crate) struct Outgoing<B> {
    /// The head, chunk sizes and trailers: what goes out before `data`.
    lines: Vec<u8>,
    lines_at: usize,
    /// A frame of the body.
    data: Bytes,
    /// What ends a chunk, or nothing.
    tail: &'static [u8],
    body: Option<B>,
    framing: Framing,
    /// Whether trailers are sent, where the framing lets them.
    trailers: bool,
    /// Whether anything was taken by the kernel.
    began: bool,
}

/// How the other side knows where the body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    #[default]
    None,
    /// So many bytes are still announced.
    Length(u64),
    Chunked,
    /// The connection ends with it.
    Close,
}

impl Framing {
    /// Writes the field that tells of it. `told`: also that there is no body.
    pub(crate) fn write(self, out: &mut Vec<u8>, told: bool) {
        match self {
            Framing::Length(length) => {
                field(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
            }
            Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::None if told => out.extend_from_slice(b"content-length: 0\r\n"),
            Framing::None | Framing::Close => {}
        }
    }
}

/// Why a message could not be sent.
#[derive(Debug)]
pub(crate) enum OutgoingError {
    /// The other side does not take it.
    Io(io::Error),
    /// Its own body failed.
    Body(BoxError),
}

impl<B> Default for Outgoing<B> {
    fn default() -> Outgoing<B> {
        Outgoing {
            lines: Vec::new(),
            lines_at: 0,
            data: Bytes::new(),
            tail: b"",
            body: None,
            framing: Framing::None,
            trailers: true,
            began: false,
        }
    }
}

impl<B: HttpBody<Data = Bytes, Error = BoxError> + Unpin> Outgoing<B> {
    /// Begins with a message. Its head is to be written to what this returns.
    pub(crate) fn begin(&mut self, body: Option<B>, framing: Framing, trailers: bool) -> &mut Vec<u8> {
        self.lines.clear();
        self.lines_at = 0;
        self.data = Bytes::new();
        self.tail = b"";
        self.began = false;
        (self.body, self.framing, self.trailers) = (body, framing, trailers);
        &mut self.lines
    }

    /// Sends what there is to send, while it is `held` nothing of its body. Ready once all of it was.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut io: Pin<&mut (impl AsyncWrite + ?Sized)>,
        held: bool,
    ) -> Poll<Result<(), OutgoingError>> {
        loop {
            let starved = self.data.is_empty()
                && self.tail.is_empty()
                && ((held && self.body.is_some()) || self.poll_body(context)?.is_pending());
            if !self.is_written() {
                ready!(self.poll_write(context, io.as_mut())).map_err(OutgoingError::Io)?;
            } else if starved || self.body.is_none() {
                ready!(io.as_mut().poll_flush(context)).map_err(OutgoingError::Io)?;
                return if starved { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
        }
    }

    /// Whether anything was taken by the kernel.
    pub(crate) fn began(&self) -> bool {
        self.began
    }

    /// Gives back what was not sent of the body: a frame of it, and the rest.
    pub(crate) fn stop(&mut self) -> (Bytes, Option<B>) {
        (std::mem::take(&mut self.data), self.body.take())
    }

    /// Lets go of what a large head left behind.
    pub(crate) fn shrink(&mut self) {
        if self.lines.capacity() > KEPT {
            self.lines = Vec::new();
        }
    }

    /// Whether the end of the connection is what ends the body.
    pub(crate) fn is_until_close(&self) -> bool {
        self.framing == Framing::Close
    }

    fn is_written(&self) -> bool {
        self.lines_at == self.lines.len() && self.data.is_empty() && self.tail.is_empty()
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        io: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<()>> {
        let mut written = ready!(self.poll_write_pieces(context, io))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.began = true;
        let of_lines = written.min(self.lines.len() - self.lines_at);
        self.lines_at += of_lines;
        written -= of_lines;
        let of_data = written.min(self.data.len());
        if of_data == self.data.len() {
            // Let go of what it was read into: it is read into anew.
            self.data = Bytes::new();
        } else {
            self.data.advance(of_data);
        }
        self.tail = &self.tail[written - of_data..];
        if self.lines_at == self.lines.len() {
            self.lines.clear();
            self.lines_at = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what it can of lines, data and tail.
    fn poll_write_pieces(
        &mut self,
        context: &mut Context<'_>,
        io: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<io::Result<usize>> {
        let end = self.lines.len();
        if self.lines_at < end && self.data.len() + self.tail.len() <= COPIED_MAX {
            self.lines.extend_from_slice(&self.data);
            self.lines.extend_from_slice(self.tail);
            let written = io.poll_write(context, &self.lines[self.lines_at..]);
            self.lines.truncate(end);
            return written;
        }
        let lines = &self.lines[self.lines_at..];
        let slices = [IoSlice::new(lines), IoSlice::new(&self.data), IoSlice::new(self.tail)];
        let first = usize::from(lines.is_empty());
        let last = if self.tail.is_empty() { 2 } else { 3 };
        io.poll_write_vectored(context, &slices[first..last])
    }

    /// Takes the body's next frame. Ready when there is one, or no body any more.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<(), OutgoingError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
        let frame = match ready!(Pin::new(body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Err(OutgoingError::Body(error))),
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

    fn frame(&mut self, data: Bytes) -> Result<(), OutgoingError> {
        match &mut self.framing {
            Framing::Chunked if !data.is_empty() => {
                write_hex(&mut self.lines, data.len());
                self.lines.extend_from_slice(b"\r\n");
                self.tail = b"\r\n";
            }
            Framing::Chunked | Framing::Close => {}
            Framing::Length(left) => {
                *left = left
                    .checked_sub(data.len() as u64)
                    .ok_or_else(|| OutgoingError::Body("the body is longer than announced".into()))?;
                if *left == 0 {
                    // All that ends with it may end now.
                    self.body = None;
                }
            }
            Framing::None => return Err(OutgoingError::Body("a body where there was none".into())),
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self, trailers: &HeaderMap) -> Result<(), OutgoingError> {
        match self.framing {
            Framing::Chunked => {
                self.lines.extend_from_slice(b"0\r\n");
                if self.trailers {
                    for (name, value) in trailers.iter().filter(|(name, _)| !NO_TRAILERS.contains(name)) {
                        field(&mut self.lines, name.as_str(), value.as_bytes());
                    }
                }
                self.lines.extend_from_slice(b"\r\n");
                Ok(())
            }
            Framing::Length(left) if left > 0 => {
                Err(OutgoingError::Body("the body is shorter than announced".into()))
            }
            Framing::Length(_) | Framing::None | Framing::Close => Ok(()),
        }
    }
}

/// Writes a field line.
pub(crate) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_hex(out: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[number >> (place * 4) & 15]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunks_size_is_written_in_hexadecimal() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 0xabc, 65_536, usize::MAX] {
            let mut out = Vec::new();
            write_hex(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{number:x}"));
        }
    }
}
