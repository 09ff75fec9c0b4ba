//! A request's body that can be sent again: what has passed is kept, up to a bound.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tidegate_wire::body::{Body, BoxError};

/// A body and what has passed of it.
#[derive(Clone)]
pub(crate) struct Replay(Rc<RefCell<Source>>);

struct Source {
    body: Body,
    hint: SizeHint,
    passed: Vec<Bytes>,
    bytes: usize,
    max: usize,
    /// More has passed than is kept, or it has failed: it cannot be sent again.
    lost: bool,
    /// The copy that may read; an older one ends with an error.
    reader: u32,
}

impl Replay {
    /// Keeps up to `max` bytes of what passes of `body`.
    pub(crate) fn new(body: Body, max: usize) -> Replay {
        let hint = body.size_hint();
        let source = Source { body, hint, passed: Vec::new(), bytes: 0, max, lost: false, reader: 0 };
        Replay(Rc::new(RefCell::new(source)))
    }

    /// Whether it can be sent from its beginning.
    pub(crate) fn is_whole(&self) -> bool {
        !self.0.borrow().lost
    }

    /// The body from its beginning. What was given out before ends.
    pub(crate) fn body(&self) -> Body {
        let mut source = self.0.borrow_mut();
        source.reader += 1;
        Body::boxed(Reader { source: Rc::clone(&self.0), number: source.reader, next: 0, given: 0 })
    }
}

struct Reader {
    source: Rc<RefCell<Source>>,
    number: u32,
    next: usize,
    /// How many bytes it has given out.
    given: u64,
}

impl HttpBody for Reader {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let cell = Rc::clone(&self.source);
        let mut source = cell.borrow_mut();
        if source.reader != self.number {
            return Poll::Ready(Some(Err("another try sends this body now".into())));
        }
        if let Some(bytes) = source.passed.get(self.next) {
            self.next += 1;
            self.given += bytes.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        let frame = ready!(Pin::new(&mut source.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => match frame.data_ref().inspect(|data| self.given += data.len() as u64) {
                Some(data) if !source.lost && source.bytes + data.len() <= source.max => {
                    source.bytes += data.len();
                    source.passed.push(data.clone());
                    self.next += 1;
                }
                _ => {
                    source.lost = true;
                    source.passed = Vec::new();
                    self.next = 0;
                }
            },
            Some(Err(_)) => source.lost = true,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        self.next >= source.passed.len() && source.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What was given out may come back, when it could not be sent: the rest has to tell its length then.
        let hint = self.source.borrow().hint;
        let mut left = SizeHint::new();
        left.set_lower(hint.lower().saturating_sub(self.given));
        if let Some(upper) = hint.upper() {
            left.set_upper(upper.saturating_sub(self.given));
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn chunks(sizes: &[usize]) -> Body {
        let frames: Vec<_> =
            sizes.iter().map(|&size| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'x'; size])))).collect();
        Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter(frames)))
    }

    async fn length(body: Body) -> Result<usize, BoxError> {
        body.collect().await.map(|collected| collected.to_bytes().len())
    }

    #[tokio::test]
    async fn is_sent_again_from_its_beginning() {
        let replay = Replay::new(chunks(&[3, 4, 5]), 100);
        let mut first = replay.body();
        first.frame().await.unwrap().unwrap();
        assert!(replay.is_whole());
        assert_eq!(length(replay.body()).await.unwrap(), 12);
        assert!(first.frame().await.unwrap().is_err(), "an older copy ends");
        assert_eq!(length(replay.body()).await.unwrap(), 12);
    }

    #[tokio::test]
    async fn what_is_left_has_a_length_where_the_whole_has() {
        let replay = Replay::new(Body::full("0123456789"), 100);
        for _ in 0..2 {
            let mut body = replay.body();
            assert_eq!(body.size_hint().exact(), Some(10));
            body.frame().await.unwrap().unwrap();
            assert_eq!(body.size_hint().exact(), Some(0));
        }
    }

    #[tokio::test]
    async fn a_longer_body_passes_whole_but_only_once() {
        let replay = Replay::new(chunks(&[60, 60, 60]), 100);
        assert_eq!(length(replay.body()).await.unwrap(), 180);
        assert!(!replay.is_whole());
    }
}
