//! One body type for requests to upstreams and for what is made of them.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::request_head::Violation;
use crate::server::Inbound;

/// What a body may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body. Only [`Body::Boxed`] costs an allocation.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// Bytes at hand.
    Full(Bytes),
    /// Anything else.
    Boxed(Pin<Box<dyn HttpBody<Data = Bytes, Error = BoxError>>>),
}

impl Body {
    /// A body of these bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }

    /// Any other body.
    #[must_use]
    pub fn boxed(body: impl HttpBody<Data = Bytes, Error = BoxError> + 'static) -> Body {
        Body::Boxed(Box::pin(body))
    }
}

/// The body of a client's request.
pub struct Incoming(Source);

enum Source {
    Empty,
    /// The connection is asked for it.
    Http1(Held),
    Http2(hyper::body::Incoming),
}

/// The right to read a request's body from its connection.
struct Held(Rc<RefCell<Inbound>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.borrow_mut().let_go();
    }
}

impl Incoming {
    /// The body that this connection reads next; none, if it is `whole` before it has begun.
    pub(crate) fn http1(inbound: &Rc<RefCell<Inbound>>, whole: bool) -> Incoming {
        Incoming(if whole { Source::Empty } else { Source::Http1(Held(Rc::clone(inbound))) })
    }

    pub(crate) fn http2(body: hyper::body::Incoming) -> Incoming {
        Incoming(Source::Http2(body))
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Source::Empty => Poll::Ready(None),
            Source::Http1(held) => {
                let polled = held.0.borrow_mut().poll_frame(context);
                // What comes next on the connection is the body of another request.
                if held.0.borrow().is_whole() {
                    self.0 = Source::Empty;
                }
                polled
            }
            Source::Http2(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Empty => true,
            Source::Http1(_) => false,
            Source::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Empty => SizeHint::with_exact(0),
            Source::Http1(held) => held.0.borrow().left().map_or_else(SizeHint::new, SizeHint::with_exact),
            Source::Http2(body) => body.size_hint(),
        }
    }
}

/// What the client did wrong, if that is why its body failed: an HTTP/1 body's framing, or how slowly it came.
#[must_use]
pub fn violation(error: &BoxError) -> Option<Violation> {
    error.downcast_ref::<Violation>().copied()
}

/// Whether a body of HTTP/2 that has no further frame was cut: a reset with `NO_ERROR` looks like an end to hyper. What
/// was cut must not be told on as whole.
#[must_use]
pub fn is_cut(body: &impl HttpBody) -> bool {
    !body.is_end_stream()
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Body::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Body::Boxed(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(_) => false,
            Body::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Boxed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Body({:?} bytes)", self.size_hint().exact())
    }
}
