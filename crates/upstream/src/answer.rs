//! An answer: the upstream's response, whose body gives back the connection and the slot when the upstream has finished.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::tick::Tick;
use tidegate_wire::body::{BoxError, Incoming};
use tidegate_wire::clock;

use crate::caller::CallerState;
use crate::endpoint::Busy;
use crate::gate::Slot;
use crate::pool::Pooled;
use crate::upstreams::Upstream;

/// What an upstream answered.
pub struct Answer {
    /// The response.
    pub response: Response<AnswerBody>,
    /// Who answered.
    pub endpoint: SocketAddr,
    /// A cookie that keeps the client with this endpoint.
    pub sticky: Option<HeaderValue>,
}

/// The body of an answer. Dropped before its end, it cancels the upstream's call.
pub struct AnswerBody {
    inner: Incoming,
    held: Option<Held>,
    idle: Duration,
    /// When bytes came last, and the timer that looks whether that is too long ago; made at the first wait.
    waiting: Option<(Tick, Pin<Box<tokio::time::Sleep>>)>,
}

/// What is given back when the upstream has finished.
pub(crate) struct Held {
    pub caller: Rc<CallerState>,
    pub upstream: std::sync::Arc<Upstream>,
    /// `None` for HTTP/2, whose connection stays in the pool.
    pub pooled: Option<Pooled>,
    pub _slot: Slot,
    pub _busy: Busy,
}

impl AnswerBody {
    pub(crate) fn new(inner: Incoming, held: Held, idle: Duration) -> AnswerBody {
        let mut body = AnswerBody { inner, held: Some(held), idle, waiting: None };
        if body.inner.is_end_stream() {
            body.finish();
        }
        body
    }

    /// The upstream has finished: its connection may be used again.
    fn finish(&mut self) {
        self.waiting = None;
        if let Some(Held { caller, upstream, pooled: Some(pooled), .. }) = self.held.take() {
            caller.pools.put(pooled, &upstream.settings(), clock::now());
        }
    }

    /// Whether the upstream has sent nothing for too long.
    fn is_stalled(&mut self, context: &mut Context<'_>) -> bool {
        let idle = self.idle;
        let (since, timer) = self.waiting.get_or_insert_with(|| {
            let now = clock::now();
            (now, Box::pin(tokio::time::sleep_until(clock::instant(now.after(idle)))))
        });
        while timer.as_mut().poll(context).is_ready() {
            let until = since.after(idle);
            if clock::now() >= until {
                return true;
            }
            timer.as_mut().reset(clock::instant(until));
        }
        false
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Pending if self.is_stalled(context) => {
                self.held = None;
                Poll::Ready(Some(Err("the upstream's body made no progress".into())))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(frame) => {
                if let Some((since, _)) = &mut self.waiting {
                    *since = clock::now();
                }
                match &frame {
                    Some(Ok(_)) if !self.inner.is_end_stream() => {}
                    Some(Ok(_)) | None => self.finish(),
                    Some(Err(_)) => self.held = None,
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
