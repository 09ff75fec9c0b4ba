//! Settle: the response's body carries the tenant's permit and the open receipt until its last byte has left.
//!
//! Whatever ends the body (its end, the client, the upstream, a panic) settles the receipt once and gives the
//! permit back; nothing else has to remember to.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::receipt::{End, Step};
use tidegate_model::tenant::Permit;
use tidegate_upstream::AnswerBody;
use tidegate_wire::body::BoxError;
use tidegate_wire::clock;

use crate::exchange::Open;
use crate::pace::Pace;

/// A response's body with all that ends with it.
pub struct ExchangeBody {
    content: Content,
    open: Option<Box<Open>>,
    permit: Option<Permit>,
    pace: Option<Pace>,
    waiting: Option<Pin<Box<dyn Future<Output = ()>>>>,
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
}

impl ExchangeBody {
    /// Attaches the receipt, and the permit if there is one yet, to the content of the response.
    #[must_use]
    pub fn new(
        content: Content,
        status: StatusCode,
        open: Box<Open>,
        permit: Option<Permit>,
    ) -> ExchangeBody {
        ExchangeBody::answered(&open, status);
        let pace = permit.as_ref().and_then(Pace::of_response);
        ExchangeBody { content, open: Some(open), permit, pace, waiting: None, sent: 0 }
    }

    /// A body of nothing that settles nothing: a tunnel does.
    #[must_use]
    pub fn empty() -> ExchangeBody {
        ExchangeBody { content: Content::Empty, open: None, permit: None, pace: None, waiting: None, sent: 0 }
    }

    /// Notes that the client is told this status now.
    pub fn answered(open: &Open, status: StatusCode) {
        let now = clock::now();
        let mut receipt = open.receipt_mut();
        receipt.status = Some(status);
        receipt.answered = Some(now);
        receipt.note(now, Step::Answered(status));
    }

    fn sent(&mut self, data: &Bytes) {
        let length = data.len() as u64;
        self.sent = self.sent.saturating_add(length);
        if let Some(wait) = self.pace.as_ref().and_then(|pace| pace.spend(length, clock::now())) {
            self.waiting = Some(Box::pin(clock::sleep(wait)));
        }
    }

    fn settle(&mut self, end: End) {
        self.permit = None;
        if let Some(open) = self.open.take() {
            open.receipt_mut().response_bytes = self.sent;
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
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(context));
            self.waiting = None;
        }
        let frame = match &mut self.content {
            Content::Empty => None,
            Content::Full(bytes) => (!bytes.is_empty()).then(|| Ok(Frame::data(std::mem::take(bytes)))),
            Content::Answer(body) => ready!(Pin::new(body).poll_frame(context)),
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.sent(data);
                }
            }
            Some(Err(_)) => self.settle(End::UpstreamBroke),
            None => self.settle(End::Complete),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_empty(),
            Content::Answer(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Answer(body) => body.size_hint(),
        }
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
