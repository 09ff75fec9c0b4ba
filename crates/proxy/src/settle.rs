//! Settle: the response's body carries the tenant's permit and the open receipt until its last byte has left.
//!
//! Whatever ends the body (its end, the client, the upstream, a panic) settles the receipt once and gives the
//! permit back; nothing else has to remember to.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::headers;
use tidegate_model::receipt::{End, Step};
use tidegate_model::tenant::{Direction, Permit};
use tidegate_upstream::AnswerBody;
use tidegate_wire::body::BoxError;
use tidegate_wire::clock;

use crate::cache::serve::Shared;
use crate::coding::Compressed;
use crate::defer::Events;
use crate::exchange::Open;
use crate::fault::{FaultBody, Injected};
use crate::idempotency::Resumed;
use crate::pace::{self, Pace};

/// A response's body with all that ends with it.
pub struct ExchangeBody {
    content: Content,
    open: Option<Open>,
    permit: Option<Permit>,
    pace: Option<Box<Pace>>,
    sent: u64,
}

/// Where the bytes come from.
pub enum Content {
    /// There are none.
    Empty,
    /// Tidegate's own.
    Full(Bytes),
    /// The upstream's.
    Answer(AnswerBody),
    /// Any of these as injected faults shape it.
    Faulted(Box<FaultBody>),
    /// An injected fault: the connection ends without an answer.
    Cut,
    /// The cache's.
    Cached(Box<Shared>),
    /// The upstream's, of which the beginning is here already.
    Resumed(Box<Resumed>),
    /// What becomes of a delivery.
    Events(Box<Events>),
    /// Any of these, compressed as it comes.
    Compressed(Box<Compressed>),
}

impl Content {
    /// The next frame.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match self {
            Content::Empty => None,
            Content::Full(bytes) => (!bytes.is_empty()).then(|| Ok(Frame::data(std::mem::take(bytes)))),
            Content::Answer(body) => return Pin::new(body).poll_frame(context),
            Content::Faulted(body) => return body.poll_frame(context),
            Content::Cached(body) => return Pin::new(&mut **body).poll_frame(context),
            Content::Resumed(body) => return body.poll_frame(context),
            Content::Compressed(body) => return body.poll_frame(context),
            Content::Events(events) => ready!(events.poll_piece(context)).map(|piece| Ok(Frame::data(piece))),
            Content::Cut => Some(Err(Injected.into())),
        })
    }

    /// Whether all of it has come.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        match self {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_empty(),
            Content::Answer(body) => body.is_end_stream(),
            Content::Faulted(body) => body.is_end_stream(),
            Content::Cached(body) => body.is_end_stream(),
            Content::Resumed(body) => body.is_end_stream(),
            Content::Compressed(body) => body.is_end_stream(),
            Content::Events(events) => events.is_end_stream(),
            Content::Cut => false,
        }
    }

    /// What will still come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Answer(body) => body.size_hint(),
            Content::Faulted(body) => body.size_hint(),
            Content::Cached(body) => body.size_hint(),
            Content::Resumed(body) => body.size_hint(),
            Content::Compressed(body) => body.size_hint(),
            Content::Cut | Content::Events(_) => SizeHint::new(),
        }
    }

    /// The bytes that were read of what is compressed as it comes, whatever a fault makes of that.
    pub(crate) fn plain(&self) -> Option<u64> {
        match self {
            Content::Compressed(body) => Some(body.plain()),
            Content::Faulted(body) => body.plain(),
            _ => None,
        }
    }

    /// Why it broke off.
    fn broke(&self) -> End {
        match self {
            Content::Cut => End::Injected,
            Content::Faulted(body) if body.is_cut() => End::Injected,
            _ => End::UpstreamBroke,
        }
    }
}

impl ExchangeBody {
    /// Attaches the receipt, and the permit if there is one yet, to the content of the response.
    #[must_use]
    pub fn new(content: Content, status: StatusCode, open: Open, permit: Option<Permit>) -> ExchangeBody {
        // Of a connection that ends without an answer the client is told nothing.
        if !matches!(content, Content::Cut) {
            ExchangeBody::answered(&open, status);
        }
        let pace = permit.as_ref().and_then(|permit| Pace::of(permit, Direction::Response));
        ExchangeBody { content, open: Some(open), permit, pace, sent: 0 }
    }

    /// A body of nothing that settles nothing: a tunnel does.
    #[must_use]
    pub fn empty() -> ExchangeBody {
        ExchangeBody { content: Content::Empty, open: None, permit: None, pace: None, sent: 0 }
    }

    /// Notes that the client is told this status now.
    pub fn answered(open: &Open, status: StatusCode) {
        let now = clock::latest();
        let mut receipt = open.receipt_mut();
        receipt.status = Some(status);
        receipt.answered = Some(now);
        receipt.note(now, Step::Answered(status));
    }

    fn settle(&mut self, end: End) {
        self.permit = None;
        if let Some(open) = self.open.take() {
            let mut receipt = open.receipt_mut();
            receipt.response_bytes = self.sent;
            if let (Some(plain), Some(compressed)) = (self.content.plain(), &mut receipt.compressed) {
                compressed.plain_bytes = plain;
            }
            drop(receipt);
            open.settle(end);
        }
    }
}

impl HttpBody for ExchangeBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(pace) = &mut this.pace
                && let Some(piece) = ready!(pace.poll_piece(context))
            {
                this.sent = this.sent.saturating_add(piece.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let mut frame = ready!(this.content.poll_frame(context));
            if let Some(Ok(frame)) = &mut frame
                && let Some(trailers) = frame.trailers_mut()
            {
                headers::strip_response_trailers(trailers);
            }
            match (&frame, &mut this.pace) {
                (Some(Ok(frame)), Some(pace)) if frame.is_data() => {
                    pace.take(frame.data_ref().cloned().unwrap_or_default());
                    continue;
                }
                (Some(Ok(frame)), _) => {
                    let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                    this.sent = this.sent.saturating_add(length);
                }
                (Some(Err(_)), _) => this.settle(this.content.broke()),
                (None, _) => this.settle(End::Complete),
            }
            return Poll::Ready(frame);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pace.as_ref().is_none_or(|pace| pace.rest() == 0) && self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        pace::with_rest(self.content.size_hint(), self.pace.as_deref())
    }
}

impl Drop for ExchangeBody {
    fn drop(&mut self) {
        // A body of known length is dropped after its last byte without being asked for an end.
        if std::thread::panicking() {
            self.settle(End::Panicked);
        } else if self.is_end_stream() {
            self.settle(End::Complete);
        } else {
            self.settle(End::ClientGone);
        }
    }
}
