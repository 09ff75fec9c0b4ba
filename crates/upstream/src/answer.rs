//! An answer: the upstream's response, whose body gives back the connection and the slot when the upstream has finished.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::tick::Tick;
use tidegate_wire::body::{BoxError, Incoming};
use tidegate_wire::clock;

use crate::caller::CallerState;
use crate::endpoint::Busy;
use crate::gate::Slot;
use crate::pool::Connection;
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
    /// Since when the upstream is waited for; `None`: it is the client that is slow.
    since: Option<Tick>,
    /// Looks whether that is too long ago; made at the first wait.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// What is given back when the upstream has finished.
pub(crate) struct Held {
    pub caller: Rc<CallerState>,
    pub upstream: std::sync::Arc<Upstream>,
    pub connection: Connection,
    pub slot: Option<Slot>,
    pub _busy: Busy,
}

impl AnswerBody {
    /// The response with such a body. One that changes the protocol keeps the connection and the call until it is
    /// dropped, though its body is empty: an operator who drains the endpoint waits for the tunnel too. It gives back
    /// the slot, which counts requests.
    pub(crate) fn within(
        response: Response<Incoming>,
        mut held: Held,
        idle: Duration,
    ) -> Response<AnswerBody> {
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if upgraded {
            held.slot = None;
        }
        response.map(|inner| {
            let mut body = AnswerBody { inner, held: Some(held), idle, since: None, timer: None };
            if !upgraded && body.inner.is_end_stream() {
                body.finish();
            }
            body
        })
    }

    /// Gives back the slot before the upstream has finished: what is left of the answer is not wanted.
    pub(crate) fn give_up_slot(&mut self) {
        if let Some(held) = &mut self.held {
            held.slot = None;
        }
    }

    /// The upstream has finished: its connection may be used again.
    fn finish(&mut self) {
        self.timer = None;
        if let Some(Held { caller, upstream, connection: Connection::Own(pooled), .. }) = self.held.take() {
            caller.pools.put(pooled, &upstream.settings(), clock::now());
        }
    }

    /// Whether the upstream has sent nothing for too long.
    fn is_stalled(&mut self, context: &mut Context<'_>) -> bool {
        let until = self.since.get_or_insert_with(clock::now).after(self.idle);
        let at = || clock::instant(until);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at())));
        while timer.as_mut().poll(context).is_ready() {
            if clock::now() >= until {
                return true;
            }
            timer.as_mut().reset(at());
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
                self.since = None;
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
