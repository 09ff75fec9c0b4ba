//! Connections that are told in one go what their answers wait for.

use super::*;
use crate::bell;

/// An answer that is made once it is told to, and notes that, and when it is written.
pub(super) async fn told(fake: &Rc<Fake>) -> Response<Body> {
    let (tells, hears) = oneshot::channel();
    fake.waiting.borrow_mut().push(tells);
    bell::hear(hears).await.unwrap();
    fake.seen.borrow_mut().push("made".to_owned());
    let this = Rc::clone(fake);
    Response::new(Body::boxed(StreamBody::new(futures_util::stream::once(Box::pin(async move {
        this.seen.borrow_mut().push("written".to_owned());
        Ok(Frame::data(Bytes::from_static(b"told")))
    })))))
}

/// What is noted when so many are told at once.
fn seen_of(count: usize) -> Vec<String> {
    let seen = Rc::<RefCell<Vec<String>>>::default();
    let noted = Rc::clone(&seen);
    scene(
        |_| {},
        async move |scene| {
            let mut streams = Vec::new();
            for _ in 0..count {
                let mut stream = scene.connect().await;
                stream.write_all(b"GET /told HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                streams.push(stream);
            }
            while scene.fake.waiting.borrow().len() < count {
                scene.fake.begun.notified().await;
            }
            scene.fake.seen.borrow_mut().clear();
            scene.fake.waiting.take().into_iter().for_each(|tells| tells.send(()).unwrap());
            for stream in &mut streams {
                until(stream, "told\r\n0\r\n\r\n").await;
            }
            noted.replace(scene.fake.seen.take());
        },
    );
    seen.take()
}

#[test]
fn a_crowd_makes_all_its_answers_before_the_first_is_written() {
    let seen = seen_of(17);
    assert_eq!(seen, [["made"].repeat(17), ["written"].repeat(17)].concat());
}

#[test]
fn a_few_are_each_answered_at_once() {
    assert_eq!(seen_of(3), ["made", "written"].repeat(3));
}
