//! An answer: the upstream's response, whose body gives back the connection and the slot when the upstream has finished.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::message::Response;
use tidegate_model::tick::Tick;
use tidegate_wire::alarm::Alarm;
use tidegate_wire::body::BoxError;
use tidegate_wire::client::{Reply, Tunnel};
use tidegate_wire::{clock, task};
use tokio::sync::mpsc;

use crate::caller::CallerState;
use crate::endpoint::Busy;
use crate::files::FileBody;
use crate::gate::{Lent, Slot};
use crate::pick::Local;
use crate::pool::{Lease, Pooled};

/// What an upstream answered.
pub struct Answer {
    /// The response.
    pub response: Response<AnswerBody>,
    /// A cookie that keeps the client with this endpoint.
    pub sticky: Option<HeaderValue>,
}

/// The body of an answer.
pub enum AnswerBody {
    /// All of it has come with the head: the upstream has finished.
    Whole(Bytes),
    /// It is still on its way.
    Coming(Box<Coming>),
    /// It is a file, or parts of one.
    File(Box<FileBody>),
    /// What was read of it already, and the rest.
    Begun(Box<Begun>),
    /// Somebody looks at it as it passes.
    Watched(Box<Watched>),
}

/// Told of each piece of a body as it passes, and of its end, once; not told of that, if it does not come.
pub type Watcher = Box<dyn FnMut(Option<&Bytes>)>;

/// A body that somebody looks at.
pub struct Watched {
    body: AnswerBody,
    /// `None` once the body has ended.
    watcher: Option<Watcher>,
}

/// A body of which something was read before it is handed on.
pub struct Begun {
    first: Bytes,
    rest: AnswerBody,
    /// How much is left, where that is known.
    left: Option<u64>,
}

/// A body on its way. Dropped before its end, it cancels the upstream's call.
pub struct Coming {
    source: Source,
    held: Option<Held>,
    idle: Duration,
    /// Since when the upstream is waited for; `None`: it is the client that is slow.
    since: Option<Tick>,
    /// Looks whether that is too long ago.
    alarm: Alarm,
    /// Why it ends early: told with the next poll, so that what came before is on its way by then.
    broken: Option<BoxError>,
}

/// Where an answer's bytes come from.
enum Source {
    /// The upstream.
    Upstream(Reply),
    /// A task that goes on sending the request meanwhile.
    Relay(mpsc::Receiver<Result<Frame<Bytes>, BoxError>>),
    Ended,
}

/// What is given back when the upstream has finished.
pub(crate) struct Held {
    pub caller: Rc<CallerState>,
    pub local: Rc<Local>,
    pub lease: Lease,
    pub slot: Slot,
    /// The slot, once the body has it.
    pub lent: Option<Lent>,
    pub busy: Busy,
}

impl Held {
    /// The upstream has finished: its connection may be used again.
    fn finish(self, reply: Reply) {
        if let (Lease::Own(ticket), Some(sender)) = (self.lease, reply.into_sender()) {
            self.caller.pools.put(Pooled { sender, ticket }, &self.local.settings(), clock::latest());
        }
    }
}

/// The bytes of an Upgrade that the upstream has granted. Dropped, it closes the connection, over HTTP/2 the stream.
pub struct Switched {
    /// They go both ways.
    pub io: Tunnel,
    /// An operator who drains the endpoint waits for the tunnel, too.
    _held: Option<Held>,
}

impl AnswerBody {
    /// The same with these bytes before it: what is left of what was read of it. `length`: of all that is left, where that is
    /// known.
    #[must_use]
    pub fn after(self, first: Bytes, length: Option<u64>) -> AnswerBody {
        AnswerBody::Begun(Box::new(Begun { first, rest: self, left: length }))
    }

    /// The same, with somebody who looks at it.
    #[must_use]
    pub fn watched(self, watcher: Watcher) -> AnswerBody {
        let mut watched = Watched { body: self, watcher: Some(watcher) };
        watched.look_for_end();
        AnswerBody::Watched(Box::new(watched))
    }

    /// The response with such a body. One that changes the protocol keeps the connection and the call until it is
    /// dropped, though its body is empty. It gives back the slot, which counts requests.
    pub(crate) fn within(response: Response<Reply>, mut held: Held, idle: Duration) -> Response<AnswerBody> {
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if upgraded {
            held.slot = Slot::default();
        }
        response.map(|mut reply| {
            if !upgraded && let Some(bytes) = reply.take_whole() {
                held.finish(reply);
                return AnswerBody::Whole(bytes);
            }
            held.lent = std::mem::take(&mut held.slot).lend(clock::latest());
            let (source, held) = if reply.is_uploading() && !upgraded {
                let (frames, relayed) = mpsc::channel(1);
                task::spawn(relay(reply, held, frames));
                (Source::Relay(relayed), None)
            } else {
                (Source::Upstream(reply), Some(held))
            };
            AnswerBody::Coming(Box::new(Coming {
                source,
                held,
                idle,
                since: None,
                alarm: Alarm::default(),
                broken: None,
            }))
        })
    }

    /// Both ways of the connection, if the upstream has granted an Upgrade.
    #[must_use]
    pub fn into_switched(self) -> Option<Switched> {
        let AnswerBody::Coming(coming) = self else { return None };
        let Coming { source: Source::Upstream(reply), held, .. } = *coming else { return None };
        Some(Switched { io: reply.into_tunnel().ok()?, _held: held })
    }

    /// Whether its connection is given back once the rest of it is read: the request is sent, and there is a rest.
    pub(crate) fn is_worth_reading(&self) -> bool {
        matches!(self, AnswerBody::Coming(coming) if matches!(coming.source, Source::Upstream(_)))
    }

    /// Gives back the slot before the upstream has finished: what is left of the answer is not wanted.
    pub(crate) fn give_up_slot(&mut self) {
        if let AnswerBody::Coming(coming) = self
            && let Some(held) = &mut coming.held
        {
            held.lent = None;
        }
    }
}

impl Coming {
    /// The upstream has finished.
    fn finish(&mut self) {
        if let Source::Upstream(reply) = std::mem::replace(&mut self.source, Source::Ended)
            && let Some(held) = self.held.take()
        {
            held.finish(reply);
        }
    }

    /// From now on, the client is waited for, or (`None`) the upstream.
    fn waits_for_client(&self, since: Option<Tick>) {
        if let Some(lent) = self.held.as_ref().and_then(|held| held.lent.as_ref()) {
            lent.waits_for_reader(since);
        }
    }

    /// Ends it early.
    fn fail(
        &mut self,
        error: BoxError,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        (self.source, self.broken) = (Source::Ended, Some(error));
        if let Some(held) = self.held.take() {
            held.busy.broke();
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the upstream has sent nothing for too long.
    fn is_stalled(&mut self, context: &mut Context<'_>) -> bool {
        let until = self.since.get_or_insert_with(clock::now).after(self.idle);
        self.alarm.poll(until, context).is_ready()
    }
}

impl Coming {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let polled = match &mut self.source {
            Source::Upstream(reply) => Pin::new(reply).poll_frame(context),
            Source::Relay(frames) => frames.poll_recv(context),
            Source::Ended => return Poll::Ready(None),
        };
        let Poll::Ready(frame) = polled else {
            self.waits_for_client(None);
            if !self.is_stalled(context) {
                return Poll::Pending;
            }
            return self.fail("the upstream's body made no progress".into(), context);
        };
        self.since = None;
        match frame {
            Some(Err(error)) => return self.fail(error, context),
            Some(Ok(_)) if !self.is_end() => self.waits_for_client(Some(clock::latest())),
            Some(Ok(_)) | None => self.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end(&self) -> bool {
        match &self.source {
            Source::Upstream(reply) => reply.is_end_stream(),
            Source::Relay(_) => false,
            Source::Ended => self.broken.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream(reply) => reply.size_hint(),
            Source::Relay(_) => SizeHint::new(),
            Source::Ended if self.broken.is_some() => SizeHint::new(),
            Source::Ended => SizeHint::with_exact(0),
        }
    }
}

impl Begun {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = if self.first.is_empty() {
            ready!(Pin::new(&mut self.rest).poll_frame(context))
        } else {
            Some(Ok(Frame::data(std::mem::take(&mut self.first))))
        };
        let came = frame.as_ref().and_then(|frame| Some(frame.as_ref().ok()?.data_ref()?.len() as u64));
        self.left = self.left.map(|left| left.saturating_sub(came.unwrap_or(0)));
        Poll::Ready(frame)
    }
}

impl Watched {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match (&frame, &mut self.watcher) {
            (Some(Ok(frame)), Some(watcher)) => {
                if let Some(data) = frame.data_ref() {
                    watcher(Some(data));
                }
                self.look_for_end();
            }
            (None, Some(watcher)) => {
                watcher(None);
                self.watcher = None;
            }
            (Some(Err(_)), _) => self.watcher = None,
            (_, None) => {}
        }
        Poll::Ready(frame)
    }

    /// Whoever reads a body need not ask for an end of which it has been told.
    fn look_for_end(&mut self) {
        if self.body.is_end_stream()
            && let Some(mut watcher) = self.watcher.take()
        {
            watcher(None);
        }
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            AnswerBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            AnswerBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            AnswerBody::Coming(coming) => coming.poll_frame(context),
            AnswerBody::File(file) => file.poll_frame(context),
            AnswerBody::Begun(begun) => begun.poll_frame(context),
            AnswerBody::Watched(watched) => watched.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Whole(bytes) => bytes.is_empty(),
            AnswerBody::Coming(coming) => coming.is_end(),
            AnswerBody::File(file) => file.is_end(),
            AnswerBody::Begun(begun) => begun.first.is_empty() && begun.rest.is_end_stream(),
            AnswerBody::Watched(watched) => watched.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            AnswerBody::Coming(coming) => coming.size_hint(),
            AnswerBody::File(file) => file.size_hint(),
            AnswerBody::Begun(begun) => begun.left.map_or_else(SizeHint::new, SizeHint::with_exact),
            AnswerBody::Watched(watched) => watched.body.size_hint(),
        }
    }
}

/// Hands on an answer that came before its request was sent, and goes on sending, whether the client takes the answer or
/// not: the upstream may wait for the one before it goes on with the other.
async fn relay(mut reply: Reply, held: Held, frames: mpsc::Sender<Result<Frame<Bytes>, BoxError>>) {
    loop {
        let waits = |since| held.lent.iter().for_each(|lent| lent.waits_for_reader(since));
        waits(Some(clock::latest()));
        let permit = tokio::select! {
            permit = frames.reserve() => permit,
            () = poll_fn(|context| reply.poll_sent(context)), if reply.is_uploading() => continue,
        };
        let Ok(permit) = permit else { return };
        waits(None);
        let frame = tokio::select! {
            frame = poll_fn(|context| Pin::new(&mut reply).poll_frame(context)) => frame,
            () = frames.closed() => return,
        };
        match frame {
            Some(frame) => {
                if frame.is_err() {
                    held.busy.broke();
                }
                permit.send(frame);
            }
            None => break,
        }
    }
    drop(frames);
    held.finish(reply);
}
