//! Where some that have waited are begun, not all that come are accepted in the same round: the others are in the next ones.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::*;
use crate::Hand;

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What is asked comes to this in one round.
fn ask<T>(hand: &mut Hand, future: impl Future<Output = Result<T, Unavailable>>) -> T {
    let mut future = pin!(future);
    assert!(poll(future.as_mut()).is_pending());
    hand.write();
    let Poll::Ready(Ok(told)) = poll(future) else { panic!("it was carried out") };
    told
}

#[test]
fn who_comes_while_others_are_begun_is_accepted_by_and_by() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().join("0"));
    let (store, mut hands) = Store::open_by_hand(location, 256 << 20).unwrap();
    let hand = &mut hands[0];
    let epoch = ask(hand, store.lead(0));
    ask(hand, store.append(vec![promise(0, "acme")], ROOM, NOW));
    let line = Line { queue: "mails".into(), tenant: "acme".into() };
    let ready = ask(hand, store.ready(epoch, &line, None, 10));
    let mut come: Vec<_> =
        (1..=40).map(|number| Box::pin(store.append(vec![promise(number, "acme")], ROOM, NOW))).collect();
    let start = Command::Start { until: NOW + 1 };
    let begun = ask(
        hand,
        store.commit(
            epoch,
            vec![Asked { seq: ready[0].seq, command: start, result: None, attempt: None }],
            NOW,
        ),
    );
    assert_eq!(begun[0].told, Told::Started(Token(1)));
    // Those who came first are the first.
    let mut accepted = |rounds: usize| {
        let told: Vec<_> = come.iter_mut().map(|one| poll(one.as_mut()).is_ready()).collect();
        come.drain(..told.iter().filter(|is_told| **is_told).count());
        assert!(told.is_sorted_by_key(|is_told| !is_told), "after {rounds} rounds");
        told.into_iter().filter(|is_told| *is_told).count()
    };
    assert_eq!(accepted(1), 16);
    hand.write();
    assert_eq!(accepted(2), 24);
    assert_eq!(ask(hand, store.audit()), Vec::<String>::new());
}
