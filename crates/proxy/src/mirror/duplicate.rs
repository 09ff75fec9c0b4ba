//! A request that was drawn, until its upstream has answered: what is forwarded is copied, and its body as it passes.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, EXPECT, TRAILER};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::message::{Request, Response};
use tidegate_model::mirror::is_drawn;
use tidegate_model::own::OwnFields;
use tidegate_model::path::replace_prefix;
use tidegate_model::refusal::Refusal;
use tidegate_model::tick::Tick;
use tidegate_upstream::{Answer, AnswerBody};
use tidegate_wire::body::{Body, BoxError};
use tidegate_wire::{clock, task};

use super::call::{self, Call, Said};
use super::{Held, Mirrored, Skipped, UnderWay, answer};
use crate::exchange::Exchange;
use crate::lifecycle::Proxy;
use crate::limit::Permitted;
use crate::respond::apply;
use crate::route::Routed;

/// Tells the application that nobody gets its answer.
const TIDEGATE_MIRROR: HeaderName = HeaderName::from_static("tidegate-mirror");

/// A request that will be mirrored if its upstream answers.
pub struct Duplicate {
    mirrored: Arc<Mirrored>,
    /// The client's path, where the mirror has it in a form of its own.
    target: Option<Uri>,
    request: Request<Body>,
    said: Option<Said>,
    taken: Taken,
    held: Held,
    under_way: UnderWay,
    asked: Asked,
}

/// Its upstream is being asked. Dropped before that has come to anything, since its client has left, it is counted as left out.
struct Asked(Option<Arc<Mirrored>>);

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(mirrored) = self.0.take() {
            mirrored.mirror.skip(Skipped::Left);
        }
    }
}

/// Whether a request is copied. Asked before its head is taken.
pub fn draw(
    mirrored: &Arc<Mirrored>,
    proxy: &Proxy,
    exchange: &Exchange,
    body: &Body,
    routed: &Routed<'_>,
    permitted: &Permitted,
) -> Option<Box<Duplicate>> {
    let settings = &mirrored.settings;
    let tenant = permitted.permit().tenant().id();
    let is_meant = settings.methods.contains(&exchange.head.method)
        && (settings.tenants.is_empty() || settings.tenants.contains(tenant))
        && !exchange.behind
        && !exchange.seen.upgrade
        && is_drawn(settings.share, proxy.entropy.word());
    if !is_meant {
        return None;
    }
    match begin(mirrored, proxy, exchange, body, routed) {
        Ok(duplicate) => Some(Box::new(duplicate)),
        Err(why) => {
            mirrored.mirror.skip(why);
            None
        }
    }
}

fn begin(
    mirrored: &Arc<Mirrored>,
    proxy: &Proxy,
    exchange: &Exchange,
    body: &Body,
    routed: &Routed<'_>,
) -> Result<Duplicate, Skipped> {
    let Mirrored { settings, mirror, mirrors, upstream } = &**mirrored;
    if proxy.guard.level().max(upstream.load()) > 0 {
        return Err(Skipped::Load);
    }
    let announced = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    if announced.is_some_and(|length| length > settings.body_bytes_max) {
        return Err(Skipped::Body);
    }
    let answers = settings.compare.as_ref().map_or(0, |compare| 2 * compare.body_bytes_max);
    let bytes = announced.unwrap_or(settings.body_bytes_max).saturating_add(answers);
    let under_way = mirror.enter(settings.concurrency).ok_or(Skipped::Busy)?;
    let held = mirrors.hold(bytes).ok_or(Skipped::Memory)?;
    let target = match &settings.prefix {
        None => None,
        Some(prefix) => Some(rewritten(&exchange.head.uri, routed.matched, prefix).ok_or(Skipped::Body)?),
    };
    let (request, mirrored) = (Request::new(Body::Empty), Arc::clone(mirrored));
    let (taken, asked) = (Taken::default(), Asked(None));
    Ok(Duplicate { mirrored, target, request, said: None, taken, held, under_way, asked })
}

fn rewritten(uri: &Uri, matched: usize, prefix: &str) -> Option<Uri> {
    let path = replace_prefix(uri.path(), matched, prefix);
    let target = uri.query().map_or(path.clone(), |query| format!("{path}?{query}"));
    PathAndQuery::from_maybe_shared(Bytes::from(target)).ok().map(Uri::from)
}

impl Duplicate {
    /// Takes a copy of a request as it is about to be forwarded, and of its body as it passes.
    #[must_use]
    pub fn of(mut self: Box<Self>, request: &mut Request<Body>, own: &OwnFields<'_>) -> Box<Self> {
        let settings = &self.mirrored.settings;
        *self.request.method_mut() = request.method().clone();
        *self.request.uri_mut() = self.target.take().unwrap_or_else(|| request.uri().clone());
        let mut fields = request.headers().clone();
        for name in [CONTENT_LENGTH, EXPECT, TRAILER] {
            fields.remove(name);
        }
        if settings.compare.is_some() {
            fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        apply(&mut fields, &settings.headers);
        fields.insert(TIDEGATE_MIRROR, HeaderValue::from_static("1"));
        *self.request.headers_mut() = fields;
        self.said = own.said.as_ref().map(Said::of);
        if !request.body().is_end_stream() {
            let body = std::mem::take(request.body_mut());
            let most = settings.body_bytes_max;
            *request.body_mut() = Body::boxed(self.taken.tee(body, most));
        }
        self
    }

    /// Its upstream is asked from now on.
    pub fn begin(&mut self) {
        self.asked = Asked(Some(Arc::clone(&self.mirrored)));
    }

    /// What came of the call that began then: what this returns goes on to the client. If the upstream has answered, the
    /// mirror is asked, by a task of its own.
    pub fn told(
        mut self: Box<Self>,
        proxy: &Proxy,
        exchange: &Exchange,
        permitted: &Permitted,
        began: Tick,
        result: Result<Answer, Refusal>,
    ) -> Result<Answer, Refusal> {
        self.asked.0 = None;
        match result {
            Ok(Answer { response, sticky }) => {
                Ok(Answer { response: self.answered(proxy, exchange, permitted, began, response), sticky })
            }
            Err(refusal) => {
                self.mirrored.mirror.skip(Skipped::Unanswered);
                Err(refusal)
            }
        }
    }

    fn answered(
        self,
        proxy: &Proxy,
        exchange: &Exchange,
        permitted: &Permitted,
        began: Tick,
        response: Response<AnswerBody>,
    ) -> Response<AnswerBody> {
        let Duplicate { mirrored, mut request, said, taken, held, under_way, .. } = self;
        let Some(body) = taken.whole() else {
            mirrored.mirror.skip(Skipped::Body);
            return response;
        };
        *request.body_mut() = Body::full(body);
        let (ours, response) = answer::take(mirrored.settings.compare.as_ref(), response);
        let receipt = exchange.open.receipt();
        let call = Call {
            permit: permitted.permit().mirrored(),
            mirrored,
            said,
            client: exchange.client,
            listener: exchange.connection.listener,
            request_id: receipt.request_id,
            took: clock::now().since(began),
            held,
            under_way,
        };
        task::spawn(call::run(proxy.caller.clone(), call, request, ours));
        response
    }
}

/// What has passed of a request's body.
#[derive(Clone, Default)]
struct Taken(Option<Rc<RefCell<Passed>>>);

struct Passed {
    bytes: BytesMut,
    most: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Coming,
    Whole,
    /// It is too long, or has failed.
    Lost,
}

impl Taken {
    fn tee(&mut self, body: Body, most: u64) -> Tee {
        let passed = Rc::new(RefCell::new(Passed { bytes: BytesMut::new(), most, state: State::Coming }));
        self.0 = Some(Rc::clone(&passed));
        Tee { body, passed }
    }

    /// All of it, if it has passed.
    fn whole(self) -> Option<Bytes> {
        let Some(passed) = self.0 else { return Some(Bytes::new()) };
        let mut passed = passed.borrow_mut();
        (passed.state == State::Whole).then(|| std::mem::take(&mut passed.bytes).freeze())
    }
}

/// A request's body that is copied as it passes.
struct Tee {
    body: Body,
    passed: Rc<RefCell<Passed>>,
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let ended = self.body.is_end_stream();
        let mut passed = self.passed.borrow_mut();
        if passed.state == State::Coming {
            match &frame {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    if (passed.bytes.len() + data.len()) as u64 > passed.most {
                        (passed.state, passed.bytes) = (State::Lost, BytesMut::new());
                    } else {
                        passed.bytes.extend_from_slice(data);
                        // Its length was announced: nobody asks for an end.
                        passed.state =
                            if ended || frame.is_trailers() { State::Whole } else { State::Coming };
                    }
                }
                Some(Err(_)) => (passed.state, passed.bytes) = (State::Lost, BytesMut::new()),
                None => passed.state = State::Whole,
            }
        }
        drop(passed);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was taken of a body of which so many frames were read.
    fn check(body: Body, frames: usize, most: u64, expected: Option<&str>) {
        let mut taken = Taken::default();
        let mut tee = taken.tee(body, most);
        let mut context = Context::from_waker(std::task::Waker::noop());
        for _ in 0..frames {
            assert!(Pin::new(&mut tee).poll_frame(&mut context).is_ready());
        }
        drop(tee);
        assert_eq!(taken.whole().as_deref(), expected.map(str::as_bytes));
    }

    #[test]
    fn a_body_is_taken_whole_or_not_at_all() {
        check(Body::full("0123456789"), 1, 10, Some("0123456789"));
        check(Body::full("0123456789"), 2, 10, Some("0123456789"));
        check(Body::full("0123456789"), 1, 9, None);
        check(Body::full("0123456789"), 0, 10, None);
        assert_eq!(Taken::default().whole().as_deref(), Some(&b""[..]));
    }
}
