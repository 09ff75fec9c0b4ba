//! An exchange from the call of the service to the last byte of its answer, as its HTTP/2 connection sees it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::tick::Tick;

use crate::body::BoxError;
use crate::clock;
use crate::h2_stream::Shared;
use crate::streams::Stream;

/// An exchange while it is under way.
pub(crate) struct Pass {
    shared: Arc<Shared>,
    pub answered: bool,
}

impl Pass {
    /// Begins with the call of the service, not with the first look at its future.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Pass {
        shared.in_flight.fetch_add(1, Relaxed);
        shared.exchanges.fetch_add(1, Relaxed);
        Pass { shared: Arc::clone(shared), answered: false }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.in_flight.fetch_sub(1, Relaxed);
        shared.active_at.set(clock::latest());
        // All of it happens on one core: nothing comes between the load and the store.
        let given_up = shared.given_up.load(Relaxed);
        match self.answered {
            true if given_up == 0 => {}
            true => shared.given_up.store(given_up - 1, Relaxed),
            false => shared.given_up.store(given_up + 1, Relaxed),
        }
    }
}

pin_project_lite::pin_project! {
    /// A response's body that ends its exchange's pass: the handler's, or the words of a refusal.
    pub(crate) struct Tracked<B> {
        #[pin]
        body: Option<B>,
        words: Option<Bytes>,
        // Where it is noted how long the client takes nothing.
        stream: Option<Stream>,
        _pass: Pass,
    }
}

impl<B> Tracked<B> {
    /// The handler's answer.
    pub(crate) fn answer(body: B, stream: Stream, mut pass: Pass) -> Tracked<B> {
        pass.answered = true;
        Tracked { body: Some(body), words: None, stream: Some(stream), _pass: pass }
    }

    /// The words of a refusal.
    pub(crate) fn words(bytes: Bytes, mut pass: Pass) -> Tracked<B> {
        pass.answered = true;
        let words = (!bytes.is_empty()).then_some(bytes);
        Tracked { body: None, words, stream: None, _pass: pass }
    }
}

impl<B: HttpBody<Data = Bytes, Error = BoxError>> HttpBody for Tracked<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let polled = match this.body.as_pin_mut() {
            Some(body) => body.poll_frame(context),
            None => Poll::Ready(this.words.take().map(|words| Ok(Frame::data(words)))),
        };
        if let Some(stream) = this.stream {
            stream.waits_since(if polled.is_pending() { Tick::MAX } else { clock::now() });
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().map_or(self.words.is_none(), HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let words = || SizeHint::with_exact(self.words.as_ref().map_or(0, |words| words.len() as u64));
        self.body.as_ref().map_or_else(words, HttpBody::size_hint)
    }
}
