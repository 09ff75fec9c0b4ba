//! Reads what a home tells before the content.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as HttpBody;
use tidegate_model::cluster::seal::{Secret, Tag};
use tidegate_model::cluster::told::{self, Strange, Told};
use tidegate_model::tick::Tick;
use tidegate_wire::body::BoxError;
use tidegate_wire::clock;

use super::{Nothing, Outcome};

/// What is told, and what has come of the content with it. A home that says nothing for so long is not waited for, nor one
/// that is still asking when the time has come.
pub(super) async fn told(
    body: &mut (impl HttpBody<Data = Bytes, Error = BoxError> + Unpin),
    secret: &Secret,
    asked: &Tag,
    wait: Duration,
    by: Tick,
) -> Result<(Told, Bytes), Nothing> {
    let mut came = BytesMut::new();
    loop {
        match told::take(&mut came, secret, asked) {
            Ok(Some(told)) => return Ok((told, came.freeze())),
            Ok(None) => {}
            Err(Strange) => {
                return Err(Nothing(Outcome::Refused, Cow::Borrowed("it does not speak as a node does")));
            }
        }
        let now = clock::now();
        if now >= by {
            return Err(Nothing(Outcome::Late, Cow::Borrowed("it was still asking")));
        }
        let until = now.after(wait).min(by);
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        match clock::timeout_at(until, frame).await {
            Err(_) => return Err(Nothing(Outcome::Late, Cow::Borrowed("it said nothing in time"))),
            Ok(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data() {
                    came.extend_from_slice(&piece);
                }
            }
            Ok(Some(Err(_)) | None) => {
                return Err(Nothing(Outcome::Away, Cow::Borrowed("it left in the middle")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use tidegate_model::cluster::seal::TAG_BYTES;
    use tidegate_model::cluster::told::STILL;
    use tidegate_wire::alarm::Alarm;

    const ASKED: Tag = [7; TAG_BYTES];
    const WAIT: Duration = Duration::from_millis(200);
    /// Longer than any test lasts.
    const NEVER: u64 = 3_600_000;

    /// A home that says these things, each so long after the one before.
    struct Home {
        says: VecDeque<(Duration, Vec<u8>)>,
        last: Tick,
        alarm: Alarm,
    }

    impl HttpBody for Home {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let this = &mut *self;
            let Some((after, _)) = this.says.front() else { return Poll::Ready(None) };
            std::task::ready!(this.alarm.poll(this.last.after(*after), context));
            this.last = clock::now();
            let said = this.says.pop_front().map(|(_, said)| Bytes::from(said)).unwrap_or_default();
            Poll::Ready(Some(Ok(Frame::data(said))))
        }
    }

    /// What is heard of a home that says these things, each so many milliseconds after the one before, with so many
    /// in all. What is said when it is waited for no longer comes too late by itself: the machine may be as slow as it likes.
    fn check(says: &[(u64, &[u8])], millis: u64, expected: Result<&[u8], Outcome>) {
        let secret = Secret::new(&[1; 32]);
        let says = says.iter().map(|(after, said)| (Duration::from_millis(*after), said.to_vec())).collect();
        let test = async {
            let mut home = Home { says, last: clock::now(), alarm: Alarm::default() };
            let by = clock::now().after(Duration::from_millis(millis));
            told(&mut home, &secret, &ASKED, WAIT, by).await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let heard = runtime.block_on(test);
        let content = heard.as_ref().map(|(_, content)| &content[..]).map_err(|nothing| nothing.0);
        assert_eq!(content, expected);
    }

    #[test]
    fn a_home_that_says_it_is_still_asking_is_waited_for() {
        let said = Told::Refused("why".to_owned()).bytes(&Secret::new(&[1; 32]), &ASKED);
        let (first, second) = said.split_at(9);
        let second = [second, b"content"].concat();
        let mut says = vec![(40, STILL); 10];
        says.extend([(40, first), (40, &second)]);
        check(&says, NEVER, Ok(b"content"));
        check(&says, 100, Err(Outcome::Late));
    }

    #[test]
    fn a_home_that_says_nothing_leaves_or_says_strange_things_is_not() {
        check(&[(1, STILL), (NEVER, STILL)], NEVER, Err(Outcome::Late));
        check(&[(1, STILL)], NEVER, Err(Outcome::Away));
        check(&[(0, b"HTTP/1.1")], NEVER, Err(Outcome::Refused));
    }
}
