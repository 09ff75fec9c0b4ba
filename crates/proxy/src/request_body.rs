//! The request's body on its way to the upstream: counted, bounded, and paced by its tenant's plan.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::refusal::{self, Kind, Refusal};
use tidegate_wire::body::{BoxError, Incoming, violation};
use tidegate_wire::clock;

use crate::pace::Pace;

/// What ended a request's body early, seen by whoever answers for the failed upstream call.
pub type Fault = Rc<Cell<Option<&'static Kind>>>;

/// A request body that is counted, bounded and paced.
pub struct RequestBody {
    inner: Incoming,
    /// Bytes that may still come.
    left: u64,
    /// The refusal for more than that.
    over: &'static Kind,
    count: Rc<Cell<u64>>,
    fault: Fault,
    pace: Option<Pace>,
    waiting: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl RequestBody {
    /// Bounds `inner` to `max` bytes; more is refused as `over`, and `fault` tells so.
    #[must_use]
    pub fn new(
        inner: Incoming,
        max: u64,
        over: &'static Kind,
        count: Rc<Cell<u64>>,
        fault: Fault,
        pace: Option<Pace>,
    ) -> RequestBody {
        RequestBody { inner, left: max, over, count, fault, pace, waiting: None }
    }

    fn take(&mut self, data: &Bytes) -> Result<(), BoxError> {
        let length = data.len() as u64;
        self.count.set(self.count.get().saturating_add(length));
        let Some(left) = self.left.checked_sub(length) else {
            self.fault.set(Some(self.over));
            return Err("request body larger than allowed".into());
        };
        self.left = left;
        if let Some(wait) = self.pace.as_ref().and_then(|pace| pace.spend(length, clock::now())) {
            self.waiting = Some(Box::pin(clock::sleep(wait)));
        }
        Ok(())
    }
}

impl HttpBody for RequestBody {
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
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                let kind = violation(&error).map_or(&refusal::REQUEST_MALFORMED, |violation| violation.kind);
                self.fault.set(Some(kind));
                return Poll::Ready(Some(Err(error.into())));
            }
            None => return Poll::Ready(None),
        };
        if let Some(data) = frame.data_ref() {
            self.take(data)?;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Refuses a body whose announced length is already too much.
///
/// # Errors
/// `over`, if the announced length is more than `max`.
pub fn check_announced(body: &Incoming, max: u64, over: &'static Kind) -> Result<(), Refusal> {
    match body.size_hint().exact() {
        Some(length) if length > max => {
            Err(Refusal::new(over, format!("the body has {length} bytes, at most {max} are allowed here")))
        }
        _ => Ok(()),
    }
}
