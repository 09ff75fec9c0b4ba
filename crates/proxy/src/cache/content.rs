//! The content of a QUERY (RFC 10008 section 2.7): it is read before anything is looked for, since it is in the key.
//!
//! ```text
//! body --- whole, within the bound ---> in the key ---> sent on with a miss, as often as it is tried
//!    '---- longer -------------------> past the cache: what was read, and then what is left
//! ```
//!
//! It is read as it would be on its way to the upstream: bounded by listener, route and plan, paced, counted, and by the
//! exchange's deadline. What it may make the process hold is counted before it is read. Trailers behind it are left out.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{EXPECT, UPGRADE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_model::cache::key;
use tidegate_model::cache::status::Fwd;
use tidegate_model::method::QUERY;
use tidegate_model::refusal::Refusal;
use tidegate_wire::body::{Body, BoxError};

use super::asked;
use super::stage::{Begun, Onward, Past};
use crate::exchange::Exchange;
use crate::forward::{self, deadline_of};
use crate::protect::Held;
use crate::request_body::{self, Fault, Read};

/// What was read of a request's body before it is forwarded.
pub enum Ahead {
    /// All of it.
    Whole(Bytes, Option<Held>),
    /// Its beginning, with the rest behind it, and what the rest may fail with.
    Begun(Body, Fault),
}

/// Whether this is a request whose content is to be in its key.
pub fn is_in_key(onward: Onward<'_>, exchange: &Exchange) -> bool {
    exchange.head.method.as_str() == QUERY && onward.settings.query_content > 0
}

/// Reads the content, and tells the key of the request; or why it has none.
///
/// # Errors
/// The content breaks off, is too large for anybody, or comes too late.
pub async fn begin(onward: Onward<'_>, exchange: &mut Exchange) -> Result<Begun, Refusal> {
    if exchange.head.headers.contains_key(UPGRADE) {
        return Ok(Err(Fwd::Bypass.into()));
    }
    let Some(content) = read(onward, exchange).await? else {
        return Ok(Err(Past { fwd: Fwd::Bypass, detail: Some("content") }));
    };
    let digest = key::content(&exchange.head.headers, &content);
    Ok(asked::key_with(onward, exchange, Some(&digest)).map_err(Past::from))
}

/// The content; `None`: it is longer than what is kept in a key.
async fn read(onward: Onward<'_>, exchange: &mut Exchange) -> Result<Option<Bytes>, Refusal> {
    let Onward { proxy, site, routed, permitted, settings, .. } = onward;
    let (route, most) = (&routed.route.settings, settings.query_content);
    let announced = if exchange.body.is_none() { Some(0) } else { exchange.announced() };
    if announced.is_some_and(|length| length > most) {
        return Ok(None);
    }
    let tenant = permitted.permit().tenant();
    let bytes = announced.unwrap_or(most);
    let held = proxy.guard.hold(tenant, route.priority, bytes, &proxy.entropy)?;
    let (by, fault) = (deadline_of(site, exchange, route), Fault::default());
    let mut body = forward::body(proxy, exchange, route, permitted, &fault)?;
    let late = "the deadline came before the content had come whole, which says what is asked for";
    match request_body::read(&mut body, &fault, most, by, late).await? {
        Read::Whole(content) => {
            leave(exchange, Ahead::Whole(content.clone(), held));
            Ok(Some(content))
        }
        Read::Longer(first) => {
            let begun = Body::boxed(Resumed { first: Some(first), rest: body });
            leave(exchange, Ahead::Begun(begun, fault));
            Ok(None)
        }
    }
}

/// What was read is sent on in the place of the client's body, for which nobody needs to be asked any more.
fn leave(exchange: &mut Exchange, ahead: Ahead) {
    exchange.head.headers.remove(EXPECT);
    exchange.ahead = Some(Box::new(ahead));
}

/// A body of which the beginning was read.
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
        let (first, rest) =
            (self.first.as_ref().map_or(0, |first| first.len() as u64), self.rest.size_hint());
        let mut whole = SizeHint::new();
        whole.set_lower(rest.lower().saturating_add(first));
        if let Some(upper) = rest.upper() {
            whole.set_upper(upper.saturating_add(first));
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a body whose beginning was read, and what it says of its length before.
    fn check(first: &'static str, rest: Body, whole: &str) {
        let mut body = Resumed { first: Some(Bytes::from_static(first.as_bytes())), rest };
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let (mut got, mut context) = (Vec::new(), Context::from_waker(std::task::Waker::noop()));
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut context) {
            assert!(body.size_hint().exact().is_some());
            got.extend(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(String::from_utf8(got).unwrap(), whole);
        assert!(body.is_end_stream());
    }

    #[test]
    fn what_was_read_comes_before_what_is_left() {
        check("one", Body::full("two"), "onetwo");
        check("one", Body::Empty, "one");
    }
}
