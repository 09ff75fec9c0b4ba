//! A request on its way to a server over HTTP/1.1: its head, and its body as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{EXPECT, HOST};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::message::Request;
use tidegate_model::own::TryFields;
use tidegate_model::tick::Tick;
use tokio::io::AsyncWrite;

use crate::body::{Body, BoxError};
use crate::clock;
pub(super) use crate::outgoing::OutgoingError as UploadError;
use crate::outgoing::{Framing, Outgoing, field};

/// How long a server may take to say that it wants a body: it may not know that it is asked. The client's own "100
/// Continue" is written when its body is first asked for, so that it hears what the server said.
const CONTINUE_WITHIN: Duration = Duration::from_secs(1);

/// What is sent of a request, and what is still to be.
#[derive(Debug, Default)]
pub(super) struct Upload {
    out: Outgoing<Body>,
    /// The body waits until the server says that it wants it, or until then (RFC 9110 section 10.1.1).
    pub held_until: Option<Tick>,
}

impl Upload {
    /// Begins with a request. Its body is taken; the head stays the caller's.
    pub(super) fn begin(&mut self, request: &mut Request<Body>, own: &TryFields<'_>) {
        let body = std::mem::take(request.body_mut());
        let ended = body.is_end_stream();
        let framing = match body.size_hint().exact() {
            _ if ended => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let expects = !ended && request.headers().contains_key(EXPECT);
        self.held_until = expects.then(|| clock::now().after(CONTINUE_WITHIN));
        head(self.out.begin((!ended).then_some(body), framing, true), request, own, framing);
    }

    /// Whether anything was taken by the kernel.
    pub(super) fn began(&self) -> bool {
        self.out.began()
    }

    /// Lets go of what a large request left behind.
    pub(super) fn shrink(&mut self) {
        self.out.shrink();
    }

    /// Lets go of a body that the server does not want: it has answered before it said that it did.
    pub(super) fn refuse_held(&mut self) -> bool {
        let held = self.held_until.take().is_some();
        if held {
            self.out.stop();
        }
        held
    }

    /// Gives the body back, of which nothing was sent.
    pub(super) fn give_back(&mut self) -> Body {
        let (first, rest) = self.out.stop();
        let rest = rest.unwrap_or_default();
        if first.is_empty() { rest } else { Body::boxed(Resumed { first: Some(first), rest }) }
    }

    /// Sends what there is to send. Ready once all of it was.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        io: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<Result<(), UploadError>> {
        self.out.poll(context, io, self.held_until.is_some())
    }
}

fn head(out: &mut Vec<u8>, request: &Request<Body>, own: &TryFields<'_>, framing: Framing) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let headers = request.headers();
    if let Some(authority) = request.uri().authority().filter(|_| !headers.contains_key(HOST)) {
        field(out, HOST.as_str(), authority.as_str().as_bytes());
    }
    let mut announced = false;
    // Only the body itself tells how it is framed.
    headers.write(out, |name, _| match name.as_bytes() {
        b"content-length" => {
            announced = true;
            false
        }
        name => name != b"transfer-encoding",
    });
    own.write(out);
    // A method that expects a body says that there is none (RFC 9110 section 8.6).
    let told = announced || matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    framing.write(out, told);
    out.extend_from_slice(b"\r\n");
}

/// A body whose first frame was looked at and put back.
struct Resumed {
    first: Option<Bytes>,
    rest: Body,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + first);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint
    }
}
