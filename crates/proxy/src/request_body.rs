//! The request's body on its way to the upstream: counted, bounded, and paced by its tenant's plan.
//!
//! What ends it early is told in the [`Fault`], so that the client hears what it did wrong and not what the upstream
//! made of it. HTTP/1.1 connections watch by themselves whether a body makes progress; here that is done for the
//! streams of HTTP/2.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderName;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::headers;
use tidegate_model::refusal::{self, Kind, Refusal};
use tidegate_model::tick::Tick;
use tidegate_wire::body::{Body, BoxError, Incoming, is_cut, violation};
use tidegate_wire::clock;
use tidegate_wire::patience::Patience;
use tidegate_wire::request_head::Violation;

use crate::pace::{self, Pace};
use crate::protect::Held;

/// What ended a request's body early, seen by whoever answers for the failed upstream call.
pub type Fault = Rc<Upload>;

/// The client has stopped in the middle.
const BROKEN: Violation =
    Violation { kind: &refusal::REQUEST_MALFORMED, why: "the request's body broke off" };

/// What a body and the exchange that sends it tell each other.
#[derive(Debug, Default)]
pub struct Upload {
    fault: Cell<Option<Violation>>,
    answered: Cell<bool>,
    awaited: Cell<bool>,
    announced: Cell<bool>,
}

impl Upload {
    /// Whether the upstream waits for more of the body now, and nothing is there: what takes long is not its fault.
    #[must_use]
    pub fn awaited(&self) -> &Cell<bool> {
        &self.awaited
    }

    /// Whether a body of announced length is missing a part. (One of unknown length may be waiting for the answer.)
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.awaited.get() && self.announced.get()
    }

    /// What ended the body early.
    #[must_use]
    pub fn told(&self) -> Option<Violation> {
        self.fault.get()
    }

    /// This ends the body early.
    pub fn fail(&self, fault: Violation) {
        self.fault.set(Some(fault));
    }

    /// The answer has begun. From now on the client may take its time: who speaks both ways at once, as gRPC does, is
    /// not bound to say something all the while.
    pub fn answered(&self) {
        self.answered.set(true);
    }
}

/// A request body that is counted, bounded and paced.
pub struct RequestBody {
    inner: Incoming,
    /// Bytes that may still come.
    left: u64,
    /// The refusal for more than that.
    over: &'static Kind,
    count: Rc<Cell<u64>>,
    fault: Fault,
    pace: Option<Box<Pace>>,
    /// For HTTP/2 alone.
    watch: Option<Box<Watch>>,
    /// What no client may say, behind its content either.
    own: [Option<Arc<[HeaderName]>>; 2],
    /// What it may make us hold, counted while it is there.
    _held: Option<Held>,
}

/// Whether a stream of HTTP/2 makes progress.
struct Watch {
    patience: Patience,
    /// Made at the first wait.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Watch {
    /// Nothing has come. Ready, when that has lasted too long.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<Violation> {
        let until = self.patience.wait(clock::now());
        let instant = clock::instant(until);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(instant)));
        if timer.deadline() != instant {
            timer.as_mut().reset(instant);
        }
        ready!(timer.as_mut().poll(context));
        Poll::Ready(self.patience.over(clock::now()))
    }
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
        pace: Option<Box<Pace>>,
    ) -> RequestBody {
        fault.announced.set(inner.size_hint().exact().is_some());
        RequestBody {
            inner,
            left: max,
            over,
            count,
            fault,
            pace,
            watch: None,
            own: [None, None],
            _held: None,
        }
    }

    /// Counts what it may make us hold for as long as it is there.
    #[must_use]
    pub fn holding(self, _held: Option<Held>) -> RequestBody {
        RequestBody { _held, ..self }
    }

    /// Lets no field of these names follow the content.
    #[must_use]
    pub fn without(self, own: [Option<Arc<[HeaderName]>>; 2]) -> RequestBody {
        RequestBody { own, ..self }
    }

    /// Watches by itself whether the body makes progress.
    #[must_use]
    pub fn watched(mut self, patience: Patience) -> RequestBody {
        self.watch = Some(Box::new(Watch { patience, timer: None }));
        self
    }

    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self;
        loop {
            if let Some(pace) = &mut this.pace
                && let Some(piece) = ready!(pace.poll_piece(context))
            {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let frame = match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(error))) => return this.fail(violation(&error).unwrap_or(BROKEN)),
                Poll::Ready(None) if this.watch.is_some() && is_cut(&this.inner) => return this.fail(BROKEN),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    if let Some(watch) = &mut this.watch
                        && let Poll::Ready(fault) = watch.poll_over(context)
                        && !this.fault.answered.get()
                    {
                        return this.fail(fault);
                    }
                    return Poll::Pending;
                }
            };
            let Some(data) = frame.data_ref() else {
                return Poll::Ready(frame.into_trailers().ok().map(|mut trailers| {
                    let own = this.own.iter().flatten().map(|names| &**names);
                    headers::strip_request_trailers(&mut trailers, own);
                    Ok(Frame::trailers(trailers))
                }));
            };
            if let Err(fault) = this.admit(data) {
                return this.fail(fault);
            }
            match &mut this.pace {
                Some(pace) => pace.take(frame.into_data().unwrap_or_default()),
                None => return Poll::Ready(Some(Ok(frame))),
            }
        }
    }

    fn fail(&self, fault: Violation) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.fault.fail(fault);
        Poll::Ready(Some(Err(fault.into())))
    }

    fn admit(&mut self, data: &Bytes) -> Result<(), Violation> {
        let length = data.len() as u64;
        self.count.set(self.count.get().saturating_add(length));
        let why = "the request's body is larger than allowed here";
        self.left = self.left.checked_sub(length).ok_or(Violation { kind: self.over, why })?;
        match self.watch.as_mut().filter(|_| !self.fault.answered.get()) {
            Some(watch) => watch.patience.came(length, clock::now()),
            None => Ok(()),
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = self.poll_part(context);
        self.fault.awaited.set(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.pace.as_ref().is_none_or(|pace| pace.rest() == 0) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        pace::with_rest(self.inner.size_hint(), self.pace.as_deref())
    }
}

/// What was read of a body.
pub enum Read {
    /// All of it.
    Whole(Bytes),
    /// Its beginning, longer by a piece than it was to be; the rest is still to come.
    Longer(Bytes),
}

/// Reads a body before it is forwarded, until it has more than so many bytes. Trailers are left behind.
///
/// # Errors
/// What its `fault` says, if it breaks off; `request.timeout` with this reason, if it has not come by then.
pub async fn read(
    body: &mut Body,
    fault: &Fault,
    most: u64,
    by: Tick,
    late: &'static str,
) -> Result<Read, Refusal> {
    let mut all = BytesMut::new();
    loop {
        // What has come already needs no clock.
        let at_hand = poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context))).await;
        let frame = match at_hand {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let next = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
                // In a box: most have not to wait, and what waits is larger than all else here.
                let come = Box::pin(clock::timeout_at(by, next)).await;
                come.map_err(|_| Refusal::new(&refusal::REQUEST_TIMEOUT, late))?
            }
        };
        let Some(frame) = frame else { return Ok(Read::Whole(all.freeze())) };
        let frame = frame.map_err(|_| {
            let fault = fault.told().unwrap_or(BROKEN);
            Refusal::new(fault.kind, fault.why)
        })?;
        let piece = frame.into_data().unwrap_or_default();
        let is_longer = (all.len() + piece.len()) as u64 > most;
        if all.is_empty() && !is_longer && body.is_end_stream() {
            // As most have by their first piece. What it lies in is the connection's. That nothing is left of what was announced is no
            // end: over HTTP/2 the client may call it off yet, or go on, and then it is malformed.
            return Ok(Read::Whole(Bytes::copy_from_slice(&piece)));
        }
        all.extend_from_slice(&piece);
        if is_longer {
            return Ok(Read::Longer(all.freeze()));
        }
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
