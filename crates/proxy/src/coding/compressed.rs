//! An answer's content, compressed as it comes.
//!
//! Nothing is held back: while more of the content comes it is gathered, and when it pauses what has come is flushed. So is the
//! end. One turn of a task compresses so many bytes and no more: a large answer to a fast client does not stall others.

use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tidegate_wire::body::BoxError;

use super::encode::{Encoder, Then};
use super::hit::Keeping;
use crate::protect::Held;
use crate::settle::Content;

/// Bytes that are compressed at a time.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes that are compressed in one turn of a task: then others have theirs.
const TURN_BYTES: usize = 64 << 10;
/// Compressed bytes that are worth handing on before there is a pause.
const OUT_BYTES: usize = 8 << 10;

/// Content that is compressed.
pub struct Compressed {
    inner: Content,
    encoder: Encoder,
    /// What has come and is not compressed.
    input: Bytes,
    /// What is compressed and not handed on.
    out: Vec<u8>,
    /// Whether the encoder holds what has not come out.
    holds: bool,
    /// What follows the content.
    trailers: Option<HeaderMap>,
    state: State,
    turn: usize,
    plain: u64,
    /// Whoever keeps what it comes to.
    keeping: Option<Keeping>,
    /// What the encoder takes of memory, counted.
    _held: Option<Held>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// More may come.
    Coming,
    /// All has come out but the trailers.
    Ended,
    /// All.
    Over,
}

impl Compressed {
    /// Compresses `inner`.
    #[must_use]
    pub fn new(inner: Content, encoder: Encoder, keeping: Option<Keeping>, held: Option<Held>) -> Compressed {
        Compressed {
            inner,
            encoder,
            input: Bytes::new(),
            out: Vec::new(),
            holds: false,
            trailers: None,
            state: State::Coming,
            turn: 0,
            plain: 0,
            keeping,
            _held: held,
        }
    }

    /// The bytes that were read of the content.
    #[must_use]
    pub fn plain(&self) -> u64 {
        self.plain
    }

    /// The next frame.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while self.state == State::Coming {
            if !self.input.is_empty() {
                if self.turn >= TURN_BYTES {
                    self.turn = 0;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if let Err(error) = self.compress() {
                    return self.fail(error.into());
                }
                if self.out.len() >= OUT_BYTES {
                    return self.hand_on();
                }
                continue;
            }
            match self.inner.poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.input = data,
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        ready!(self.end())?;
                    }
                },
                Poll::Ready(Some(Err(error))) => return self.fail(error),
                Poll::Ready(None) => ready!(self.end())?,
                Poll::Pending => {
                    self.turn = 0;
                    if !self.holds {
                        return Poll::Pending;
                    }
                    self.holds = false;
                    if let Err(error) = self.encoder.put(b"", Then::Flush, &mut self.out) {
                        return self.fail(error.into());
                    }
                    return if self.out.is_empty() { Poll::Pending } else { self.hand_on() };
                }
            }
        }
        if !self.out.is_empty() {
            return self.hand_on();
        }
        self.state = State::Over;
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn compress(&mut self) -> std::io::Result<()> {
        let length = self.input.len().min(PIECE_BYTES);
        self.encoder.put(&self.input[..length], Then::Wait, &mut self.out)?;
        self.input.advance(length);
        (self.holds, self.turn) = (true, self.turn + length);
        self.plain += length as u64;
        Ok(())
    }

    /// All has come.
    fn end(&mut self) -> Poll<Result<(), BoxError>> {
        let ended = self.encoder.put(b"", Then::Finish, &mut self.out);
        self.state = if ended.is_ok() { State::Ended } else { State::Over };
        if let Some(mut keeping) = self.keeping.take()
            && ended.is_ok()
            && keeping.add(Bytes::copy_from_slice(&self.out))
        {
            keeping.end(self.plain);
        }
        Poll::Ready(ended.map_err(Into::into))
    }

    fn hand_on(&mut self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let piece = Bytes::copy_from_slice(&self.out);
        self.out.clear();
        if let Some(keeping) = &mut self.keeping
            && !keeping.add(piece.clone())
        {
            self.keeping = None;
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// It broke off: what is compressed so far has no end, and the client sees that.
    fn fail(&mut self, error: BoxError) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.state = State::Over;
        self.out.clear();
        self.keeping = None;
        Poll::Ready(Some(Err(error)))
    }

    /// Whether all of it has come out.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        match self.state {
            State::Coming => false,
            State::Ended => self.out.is_empty() && self.trailers.is_none(),
            State::Over => true,
        }
    }

    /// Nobody knows.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}
