//! A response's body as faults shape it: slow, or cut.

use std::future::Future;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tidegate_model::limit::piece;
use tidegate_wire::body::BoxError;
use tidegate_wire::clock;

use crate::settle::Content;

/// Why a body breaks off that a fault has cut.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("an injected fault cut it")]
pub struct Injected;

/// A body that comes slowly, or breaks off. A short one is cut only if it is longer than it may become.
pub struct FaultBody {
    inner: Content,
    pace: Option<NonZeroU64>,
    /// Bytes that may still come, if it is to be cut.
    left: Option<u64>,
    /// What has come and was not handed on yet.
    rest: Bytes,
    /// Until the next piece.
    timer: Option<Pin<Box<dyn Future<Output = ()>>>>,
    cut: Cut,
}

/// How far the cut has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Not yet.
    Whole,
    /// What comes next is the cut. What came before is on its way first: a connection that breaks loses what it holds.
    Next,
    /// Now.
    Now,
}

impl FaultBody {
    /// This content at so many bytes a second, and so many in all.
    #[must_use]
    pub fn new(inner: Content, throttle: Option<u64>, truncate: Option<u64>) -> FaultBody {
        let pace = throttle.and_then(NonZeroU64::new);
        FaultBody { inner, pace, left: truncate, rest: Bytes::new(), timer: None, cut: Cut::Whole }
    }

    /// The next frame.
    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if !self.rest.is_empty() {
                return self.poll_piece(context).map(|piece| Some(Ok(Frame::data(piece))));
            }
            match self.cut {
                Cut::Whole => {}
                Cut::Next => {
                    self.cut = Cut::Now;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Cut::Now => return Poll::Ready(Some(Err(Injected.into()))),
            }
            let frame = match ready!(self.inner.poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) => self.take(data),
                Err(_) if self.left == Some(0) => self.cut = Cut::Next,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
    }

    fn take(&mut self, mut data: Bytes) {
        if let Some(left) = &mut self.left {
            let most = usize::try_from(*left).unwrap_or(usize::MAX);
            if data.len() > most {
                data.truncate(most);
                self.cut = Cut::Next;
            }
            *left -= data.len() as u64;
        }
        self.rest = data;
    }

    /// The next piece of what has come, when its time has.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Bytes> {
        let Some(pace) = self.pace else { return Poll::Ready(std::mem::take(&mut self.rest)) };
        let length = self.rest.len().min(piece(pace));
        // Each piece waits for its own time: a body of one piece is slow too.
        let wait = Duration::from_secs_f64(length as f64 / pace.get() as f64);
        let timer = self.timer.get_or_insert_with(|| Box::pin(clock::sleep(wait)));
        ready!(timer.as_mut().poll(context));
        self.timer = None;
        Poll::Ready(self.rest.split_to(length))
    }

    /// The bytes that were read of what it is the compressed form of.
    #[must_use]
    pub fn plain(&self) -> Option<u64> {
        self.inner.plain()
    }

    /// Whether it was cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut == Cut::Now
    }

    /// Whether all of it has come.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.cut == Cut::Whole && self.inner.is_end_stream()
    }

    /// What it would still give, were it not cut.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a body of ten bytes, and how it ends.
    fn check(truncate: Option<u64>, bytes: &str, cut: bool) {
        let mut body = FaultBody::new(Content::Full(Bytes::from_static(b"0123456789")), None, truncate);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut read = Vec::new();
        let ended = loop {
            match body.poll_frame(&mut context) {
                Poll::Pending => {}
                Poll::Ready(None) => break false,
                Poll::Ready(Some(Err(error))) => break error.downcast_ref::<Injected>().is_some(),
                Poll::Ready(Some(Ok(frame))) => read.extend(frame.into_data().unwrap_or_default()),
            }
        };
        assert_eq!((String::from_utf8_lossy(&read).as_ref(), ended, body.is_cut()), (bytes, cut, cut));
        assert_ne!(body.is_end_stream(), cut);
    }

    #[test]
    fn a_body_is_cut_if_it_is_longer_than_it_may_become() {
        check(None, "0123456789", false);
        check(Some(10), "0123456789", false);
        check(Some(9), "012345678", true);
        check(Some(0), "", true);
        check(Some(u64::MAX), "0123456789", false);
    }

    #[test]
    fn what_came_before_a_cut_is_on_its_way_first() {
        let mut body = FaultBody::new(Content::Full(Bytes::from_static(b"0123456789")), None, Some(3));
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(body.poll_frame(&mut context), Poll::Ready(Some(Ok(_)))));
        assert!(body.poll_frame(&mut context).is_pending());
        assert!(matches!(body.poll_frame(&mut context), Poll::Ready(Some(Err(_)))));
    }
}
