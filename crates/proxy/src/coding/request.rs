//! A request's body, decoded on its way to whoever reads it: no faster than it is taken, and no further than it may.
//!
//! What it may come to is bounded twice: in all, and for each byte that was sent. Both are looked at with each piece, so that no
//! more than one piece beyond them is ever here.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::refusal::{self, Refusal};
use tidegate_wire::body::{Body, BoxError};
use tidegate_wire::request_head::Violation;

use super::decode::{Decoder, window};
use super::{Bodies, DecompressSettings};
use crate::request_body::{Fault, RequestBody};

/// Decoded bytes that are handed on at a time.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes that are decoded in one turn of a task: then others have theirs.
const TURN_BYTES: usize = 64 << 10;
/// The ratio counts from so many decoded bytes on: what is short may be very regular.
const RATIO_FROM: u64 = 1 << 20;

const CORRUPT: Violation = Violation {
    kind: &refusal::REQUEST_CORRUPT,
    why: "the request's body is not what its Content-Encoding says",
};
const CUT: Violation =
    Violation { kind: &refusal::REQUEST_CORRUPT, why: "the request's compressed body ends in the middle" };
const TOO_LARGE: Violation = Violation {
    kind: &refusal::REQUEST_INFLATED,
    why: "the request's body is larger than allowed here once decoded",
};
const TOO_DENSE: Violation = Violation {
    kind: &refusal::REQUEST_INFLATED,
    why: "the request's body becomes more times larger than allowed here when it is decoded",
};

/// The body as whoever reads it gets it: decoded, where it is to be.
///
/// # Errors
/// The system has no memory for it.
pub fn decoded(body: RequestBody, bodies: Option<&Bodies>, fault: &Fault) -> Result<Body, Refusal> {
    let Some((packing, settings)) = bodies.and_then(|bodies| bodies.unpack) else {
        return Ok(Body::boxed(body));
    };
    let Some(decoder) = Decoder::new(packing) else {
        return Err(Refusal::new(&refusal::SERVER_MEMORY, "there is no memory to decode the request's body"));
    };
    Ok(Body::boxed(Decoded {
        inner: body,
        decoder,
        settings,
        input: Bytes::new(),
        more: false,
        taken: 0,
        written: 0,
        turn: 0,
        trailers: None,
        over: false,
        fault: Fault::clone(fault),
    }))
}

/// What decoding a body of this length, where that is known, may make us hold.
pub fn may_hold(bodies: Option<&Bodies>, length: Option<u64>) -> Option<u64> {
    let (packing, settings) = bodies?.unpack?;
    let ratio = u64::from(settings.ratio_max);
    let most = length.map_or(u64::MAX, |length| length.saturating_mul(ratio).max(RATIO_FROM));
    Some(window(packing).min(settings.bytes_max).min(most))
}

impl Bodies {
    /// Whether the length of a request's body is not the length of its content.
    #[must_use]
    pub fn unpacks(&self) -> bool {
        self.unpack.is_some()
    }
}

/// A body that is decoded.
struct Decoded {
    inner: RequestBody,
    decoder: Decoder,
    settings: DecompressSettings,
    /// What has come and is not decoded.
    input: Bytes,
    /// Whether the decoder may have more to say without further input.
    more: bool,
    taken: u64,
    written: u64,
    turn: usize,
    /// What follows it.
    trailers: Option<HeaderMap>,
    over: bool,
    fault: Fault,
}

impl Decoded {
    /// The next piece of what is here; `None`: more must come first.
    fn piece(&mut self) -> Result<Option<Bytes>, Violation> {
        while self.more || !self.input.is_empty() {
            let mut room = vec![0; PIECE_BYTES];
            let step = self.decoder.step(&self.input, &mut room).map_err(|_| CORRUPT)?;
            self.input.advance(step.taken);
            self.taken += step.taken as u64;
            self.written += step.written as u64;
            self.more = step.written == PIECE_BYTES;
            if self.written > self.settings.bytes_max {
                return Err(TOO_LARGE);
            }
            let allowed = self.taken.saturating_mul(self.settings.ratio_max.into());
            if self.written > RATIO_FROM && self.written > allowed {
                return Err(TOO_DENSE);
            }
            if step.written > 0 {
                room.truncate(step.written);
                return Ok(Some(room.into()));
            }
            if step.taken == 0 && !self.input.is_empty() {
                return Err(CORRUPT);
            }
        }
        Ok(None)
    }

    fn fail(&mut self, fault: Violation) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.over = true;
        self.fault.fail(fault);
        Poll::Ready(Some(Err(fault.into())))
    }

    fn end(&mut self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.decoder.is_whole() {
            return self.fail(CUT);
        }
        self.over = true;
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl HttpBody for Decoded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        loop {
            if this.turn >= TURN_BYTES {
                this.turn = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match this.piece() {
                Err(fault) => return this.fail(fault),
                Ok(Some(piece)) => {
                    this.turn += piece.len();
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Ok(None) if this.trailers.is_some() => return this.end(),
                Ok(None) => {}
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.input = data,
                    Err(frame) => this.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    this.over = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => return this.end(),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}
