//! One body type for requests to upstreams and for what is made of them.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
pub use hyper::body::Incoming;

use crate::guard::Violation;

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
    /// What a peer sends.
    Incoming(Incoming),
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

/// What the client did wrong, if that is why its body failed: an HTTP/1 body's framing, or how slowly it came.
#[must_use]
pub fn violation(error: &hyper::Error) -> Option<Violation> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(violation) = io.and_then(|inner| inner.downcast_ref::<Violation>()) {
            return Some(*violation);
        }
        cause = error.source();
    }
    None
}

/// Whether a body of HTTP/2 that has no further frame was cut: a reset with `NO_ERROR` looks like an end to hyper. What
/// was cut must not be told on as whole.
#[must_use]
pub fn is_cut(body: &Incoming) -> bool {
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
            Body::Incoming(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Body::Boxed(body) => body.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(_) => false,
            Body::Incoming(body) => body.is_end_stream(),
            Body::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Empty => SizeHint::with_exact(0),
            Body::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Incoming(body) => body.size_hint(),
            Body::Boxed(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Body({:?} bytes)", self.size_hint().exact())
    }
}
