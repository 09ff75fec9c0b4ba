//! An HTTP/1.1 connection from a client, driven by one task: a head is read, the handler answers, the answer is written,
//! and the next head is read.
//!
//! What always holds:
//! - Requests are answered one after another, in their order; what is pipelined waits in the socket, but for one read of it.
//! - A client that has gone drops its exchange at once. One that has only shut down its sending side gets its answer.
//! - Where a request ends is beyond doubt, or the connection ends with its answer.
//! - At most one timer, armed late: a request that comes and goes in time costs no timer work.
//!
//! Between two requests a connection rests after a while: all that is kept of it is its socket.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Method, StatusCode};
use http_body::Body as HttpBody;
use tidegate_model::message::{Request, Response};
use tidegate_model::refusal;
use tidegate_model::tick::Tick;

use super::inbound::{Inbound, Lent, head_limits, stalled};
use super::{Drain, answer};
use crate::bell;
use crate::body::{BoxError, Incoming};
use crate::clock;
use crate::farewell::LINGER;
use crate::outgoing::{Framing, Outgoing, OutgoingError};
use crate::request_head::{Facts, HeadReader, Violation, framing};
use crate::settings::ConnectionLimits;
use crate::tunnel::{Offer, offer};

/// Requests answered in a row before other connections get their turn.
const EXCHANGES_MAX: u32 = 16;
/// How often it is looked whether a client that has shut down its side is still there.
const GONE_CHECK: Duration = Duration::from_millis(100);
/// At most so long a connection keeps its buffers without a request.
const REST_AFTER: Duration = Duration::from_secs(5);

/// How a connection's driving ended.
pub(super) enum Ended {
    /// Both sides have said all: it is shut down.
    Close,
    /// The client has more to say that is not heard, and something to read.
    Linger,
    /// The client has gone, or sees by itself that half an answer is not all.
    Cut,
    /// Half an answer is sent that the client would take for all, or of which it takes nothing more: the kernel would keep
    /// what is not sent yet, for a long time after a close.
    Broken,
    /// What the client says is no request.
    Refused(Violation),
    /// It speaks another protocol now.
    Upgraded(Offer),
    /// It is between two requests, and another process goes on with it.
    Pass,
    /// Not at all: it is between two requests, and has been for a while.
    Rest,
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before a head, or within one.
    Head,
    /// The handler has the request.
    Handling,
    /// The answer is being written.
    Answering,
    /// The answer is written. Somebody may still read the request's body.
    Answered,
}

/// What drives a connection.
pub(super) struct Driver<'a, B> {
    inbound: &'a Rc<RefCell<Inbound>>,
    limits: &'a ConnectionLimits,
    drain: &'a Drain,
    stage: Stage,
    heads: HeadReader,
    /// When the head that has begun must have come.
    head_by: Tick,
    /// When it is looked whether a client that has shut down its side is still there.
    look_at: Tick,
    out: Outgoing<B>,
    /// What the request under way says.
    facts: Facts,
    is_head: bool,
    offer: Option<Offer>,
    /// Whether the connection outlives the answer.
    keep: bool,
    /// Requests of the connection so far.
    exchanges: &'a mut u64,
    armed: Pin<Box<tokio::time::Sleep>>,
    armed_until: Tick,
    drained: Pin<Box<tokio::sync::futures::Notified<'a>>>,
    listening: bool,
}

impl<'a, B: HttpBody<Data = Bytes, Error = BoxError> + Unpin> Driver<'a, B> {
    pub(super) fn new(
        inbound: &'a Rc<RefCell<Inbound>>,
        limits: &'a ConnectionLimits,
        drain: &'a Drain,
        exchanges: &'a mut u64,
    ) -> Driver<'a, B> {
        Driver {
            inbound,
            limits,
            drain,
            stage: Stage::Head,
            heads: HeadReader::new(head_limits(limits)),
            head_by: Tick::MAX,
            look_at: Tick::MAX,
            out: Outgoing::default(),
            facts: Facts::default(),
            is_head: false,
            offer: None,
            keep: true,
            exchanges,
            armed: Box::pin(tokio::time::sleep_until(clock::instant(Tick::MAX))),
            armed_until: Tick::MAX,
            drained: Box::pin(drain.changed.notified()),
            listening: false,
        }
    }

    /// Goes on as far as it can. `running` is where the handler's answer to the request under way is made.
    pub(super) fn poll<F>(
        &mut self,
        context: &mut Context<'_>,
        mut running: Pin<&mut Option<F>>,
        handle: impl Fn(Request<Incoming>) -> F,
    ) -> Poll<Ended>
    where
        F: Future<Output = Response<B>>,
    {
        self.inbound.borrow_mut().unpark();
        let mut begun = 0;
        loop {
            let ended = match self.stage {
                // What there is of its next head goes along.
                Stage::Head if self.drain.passes() => return Poll::Ready(Ended::Pass),
                Stage::Head if begun == EXCHANGES_MAX => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Stage::Head => self.poll_head(context).map(|head| match head {
                    Ok(request) => {
                        begun += 1;
                        running.set(Some(handle(request)));
                        self.stage = Stage::Handling;
                        None
                    }
                    Err(ended) => Some(ended),
                }),
                Stage::Handling => match running.as_mut().as_pin_mut().map(|running| running.poll(context)) {
                    Some(Poll::Ready(response)) => {
                        running.set(None);
                        let ended = self.begin_answer(response);
                        if ended.is_none() && bell::is_crowd_awake() {
                            // Each has made its answer before the first one writes: who reads them does not sleep between two.
                            context.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        Poll::Ready(ended)
                    }
                    Some(Poll::Pending) => self.watch(context).map(Some),
                    None => unreachable!("it was set with the stage"),
                },
                Stage::Answering => match self.out.poll(context, Pin::new(&mut Lent(self.inbound)), false) {
                    Poll::Ready(Ok(())) => {
                        self.inbound.borrow_mut().active_at = clock::latest();
                        self.stage = Stage::Answered;
                        Poll::Ready(None)
                    }
                    // Half an answer has no other end than that of its connection.
                    Poll::Ready(Err(OutgoingError::Body(_))) if self.out.is_until_close() => {
                        Poll::Ready(Some(Ended::Broken))
                    }
                    Poll::Ready(Err(_)) => Poll::Ready(Some(Ended::Cut)),
                    Poll::Pending => self.watch(context).map(Some),
                },
                Stage::Answered => self.poll_answered(context),
            };
            match ended {
                Poll::Ready(Some(ended)) => return Poll::Ready(ended),
                Poll::Ready(None) => {}
                Poll::Pending => match ready!(self.poll_time(context)) {
                    Some(ended) => return Poll::Ready(ended),
                    // Something has changed by that.
                    None => self.inbound.borrow_mut().unpark(),
                },
            }
        }
    }

    /// Reads the next request's head.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Request<Incoming>, Ended>> {
        let mut inbound = self.inbound.borrow_mut();
        loop {
            if let Some(end) = self.heads.read(&inbound.read).map_err(Ended::Refused)? {
                self.facts = self.heads.facts();
                self.head_by = Tick::MAX;
                *self.exchanges += 1;
                inbound.begin(&self.facts);
                if self.facts.upgrade && inbound.is_whole() && inbound.read.len() > end {
                    let why = "bytes follow a request for an Upgrade before it is answered";
                    return Poll::Ready(Err(Ended::Refused(framing(why))));
                }
                let body = Incoming::http1(self.inbound, inbound.is_whole());
                let taken = self.heads.take(&inbound.read[..end], body);
                inbound.read.advance(end);
                drop(inbound);
                let mut request = taken.map_err(Ended::Refused)?;
                self.is_head = request.method() == Method::HEAD;
                self.offer = self.facts.upgrade.then(|| offer(request.extensions_mut()));
                return Poll::Ready(Ok(request));
            }
            if self.heads.has_begun(&inbound.read) && self.head_by == Tick::MAX {
                self.head_by = clock::latest().after(self.limits.header_time);
            }
            match ready!(inbound.poll_read(context)) {
                Ok(0) if inbound.read.is_empty() => return Poll::Ready(Err(Ended::Close)),
                Ok(0) | Err(_) => return Poll::Ready(Err(Ended::Cut)),
                Ok(_) => {}
            }
        }
    }

    /// Looks whether the client is still there, while it waits for its answer.
    fn watch(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        let mut inbound = self.inbound.borrow_mut();
        if !inbound.is_whole() {
            inbound.park(context);
            return Poll::Pending;
        }
        // What was pipelined waits; what follows a request for an Upgrade may be of another protocol.
        if inbound.half_closed || !inbound.read.is_empty() || self.offer.is_some() {
            return Poll::Pending;
        }
        let Some(socket) = &inbound.socket else { return Poll::Ready(Ended::Cut) };
        if ready!(socket.poll_readable(context)).is_err() {
            return Poll::Ready(Ended::Cut);
        }
        match ready!(inbound.poll_read(context)) {
            // Whoever speaks HTTP/1.0 knows no interim responses, and cannot be asked.
            Ok(0) if !self.facts.http10 && inbound.half_close(context) => {
                self.look_at = clock::latest().after(GONE_CHECK);
                Poll::Pending
            }
            Ok(0) | Err(_) => Poll::Ready(Ended::Cut),
            Ok(_) => Poll::Pending,
        }
    }

    /// Begins to tell the answer.
    fn begin_answer(&mut self, response: Response<B>) -> Option<Ended> {
        let mut inbound = self.inbound.borrow_mut();
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switched && (self.offer.is_none() || !inbound.is_whole() || !inbound.read.is_empty()) {
            // Nobody asked for it, or what is left of the request would be bytes of the other protocol.
            return Some(Ended::Cut);
        }
        inbound.answering = true;
        // What comes next would be the rest of a body that nobody wants any more.
        let whole = inbound.is_whole() || inbound.is_at_hand() || (!inbound.held && inbound.discard());
        drop(inbound);
        let ends = self.drain.draining.get() && !self.drain.passes();
        let last = ends || *self.exchanges >= self.limits.requests;
        self.keep = whole && !last && self.facts.keeps();
        if !switched {
            self.offer = None;
        }
        let (http10, is_head) = (self.facts.http10, self.is_head);
        let framing = answer::framing(&response, http10, is_head);
        self.keep &= framing != Framing::Close;
        let (head, body) = response.into_parts();
        let body = (framing != Framing::None).then_some(body);
        let out = self.out.begin(body, framing, self.facts.trailers);
        self.keep =
            answer::write_head(out, &head, framing, answer::Told { http10, is_head, keep: self.keep });
        self.stage = Stage::Answering;
        None
    }

    /// The answer is written.
    fn poll_answered(&mut self, context: &mut Context<'_>) -> Poll<Option<Ended>> {
        if let Some(offer) = self.offer.take() {
            return Poll::Ready(Some(Ended::Upgraded(offer)));
        }
        let mut inbound = self.inbound.borrow_mut();
        if inbound.held && !inbound.is_whole() && !inbound.is_broken() {
            // Somebody reads on: the upstream may not have all of the request.
            inbound.park(context);
            return Poll::Pending;
        }
        let whole = inbound.is_whole() || inbound.discard();
        inbound.shrink();
        self.out.shrink();
        if !self.keep || !whole {
            // A client that wanted to go on may have sent more before it hears of the end: a close with unread bytes resets
            // the connection, and it might never see its answer (RFC 9112 section 9.6).
            let heard = whole && inbound.read.is_empty() && !self.facts.keeps();
            return Poll::Ready(Some(if heard { Ended::Close } else { Ended::Linger }));
        }
        self.stage = Stage::Head;
        Poll::Ready(None)
    }

    /// Whether it ends because everything does, or because something is late. `None`: something has changed.
    fn poll_time(&mut self, context: &mut Context<'_>) -> Poll<Option<Ended>> {
        if !std::mem::replace(&mut self.listening, true) {
            // It is always the same task: it has not to be told twice.
            let _ = self.drained.as_mut().poll(context);
        }
        let inbound = self.inbound.borrow();
        let idle = self.stage == Stage::Head && self.head_by == Tick::MAX;
        if idle && self.drain.draining.get() {
            return Poll::Ready(Some(Ended::Close));
        }
        drop(inbound);
        loop {
            let due = self.due();
            if due < self.armed_until {
                self.armed_until = due;
                self.armed.as_mut().reset(clock::instant(due));
            } else if clock::latest() < self.armed_until {
                return Poll::Pending;
            }
            ready!(self.armed.as_mut().poll(context));
            let now = clock::now();
            self.armed_until = Tick::MAX;
            if due <= now {
                return Poll::Ready(self.late(now));
            }
        }
    }

    /// When the next thing will be late.
    fn due(&self) -> Tick {
        let inbound = self.inbound.borrow();
        match self.stage {
            Stage::Head if self.head_by != Tick::MAX => match self.drain.draining.get() {
                true => self.head_by.min(inbound.active_at.after(LINGER)),
                false => self.head_by,
            },
            Stage::Head if self.may_rest(&inbound) => {
                inbound.active_at.after(self.idle_time().min(rest_after(self.limits)))
            }
            Stage::Head => inbound.active_at.after(self.idle_time()),
            Stage::Handling | Stage::Answering | Stage::Answered => {
                let mut due = inbound.read_by.min(inbound.write_by);
                if inbound.half_closed {
                    due = due.min(self.look_at);
                }
                if self.stage == Stage::Answered {
                    due = due.min(inbound.active_at.after(self.limits.body_idle));
                }
                due
            }
        }
    }

    /// How long nothing may come between two requests. Before its first one a connection has no more time than a head has.
    fn idle_time(&self) -> Duration {
        match *self.exchanges {
            0 => self.limits.idle.min(self.limits.header_time),
            _ => self.limits.idle,
        }
    }

    /// Whether it may rest. Not before its first request, for which it has less time; and not after an empty line, of which
    /// only so many may come: a rest would forget them, and each would begin the time anew.
    fn may_rest(&self, inbound: &Inbound) -> bool {
        *self.exchanges > 0 && inbound.read.is_empty()
    }

    /// Something is due.
    fn late(&mut self, now: Tick) -> Option<Ended> {
        let mut inbound = self.inbound.borrow_mut();
        match self.stage {
            Stage::Head if self.head_by != Tick::MAX => Some(Ended::Refused(Violation {
                kind: &refusal::REQUEST_TIMEOUT,
                why: "the head did not come in time",
            })),
            Stage::Head if inbound.active_at.after(self.idle_time()) <= now => Some(Ended::Close),
            Stage::Head => Some(Ended::Rest),
            _ if inbound.write_by <= now => Some(Ended::Broken),
            _ if inbound.half_closed && self.look_at <= now => {
                self.look_at = now.after(GONE_CHECK);
                inbound.is_gone(now).then_some(Ended::Cut)
            }
            _ if inbound.read_by <= now => {
                inbound.fail(stalled());
                None
            }
            Stage::Answered if inbound.active_at.after(self.limits.body_idle) <= now => Some(Ended::Linger),
            _ => None,
        }
    }
}

/// How long a connection is between two requests until its buffers are let go.
fn rest_after(limits: &ConnectionLimits) -> Duration {
    REST_AFTER.min(limits.idle / 8)
}
