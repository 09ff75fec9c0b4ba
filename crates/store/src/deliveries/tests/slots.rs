//! What is accepted while a slot is given away for it is begun in the same transaction.

use super::*;
use crate::deliveries::AHEAD_BYTES_MAX;

/// Where one process has the store, and so says who is next.
fn stand() -> Stand {
    Stand::on(Bed::directory(256 << 20))
}

impl Stand {
    fn offer(&self, slots: u32) {
        self.store().offer(self.epoch, &"mails".into(), slots, 5_000);
    }

    fn states(&self, promises: &[Promise]) -> Vec<Kind> {
        promises.iter().map(|promise| self.record(promise.id).state.kind()).collect()
    }
}

fn begun(news: impl IntoIterator<Item = News>) -> Vec<(Ready, Token, Arc<Request>)> {
    let begun = |news| match news {
        News::Begun(ready, token, request) => Some((ready, token, request)),
        _ => None,
    };
    news.into_iter().filter_map(begun).collect()
}

#[test]
fn what_is_accepted_takes_a_slot_and_is_told_of() {
    let mut stand = stand();
    let mut follower = stand.store().follow(0);
    assert_eq!(follower.take(), [News::Look]);
    stand.offer(2);
    let promises: Vec<_> = (0..3).map(|_| stand.promise("acme")).collect();
    stand.append(&promises);
    assert_eq!(stand.states(&promises), [Kind::Leased, Kind::Leased, Kind::Ready]);
    let record = stand.record(promises[0].id);
    assert_eq!((record.attempts, record.state), (1, State::Leased { token: Token(1), until: NOW + 5_000 }));
    let news = stand.runtime.block_on(follower.next());
    assert!(news.iter().any(|news| matches!(news, News::Ready(ready) if ready.id == promises[2].id)));
    let told = begun(news);
    let ids: Vec<_> = told.iter().map(|(ready, ..)| ready.id).collect();
    assert_eq!(ids, [promises[0].id, promises[1].id]);
    for ((ready, token, request), promise) in told.into_iter().zip(&promises) {
        assert_eq!((ready.attempts, &request), (0, &promise.request));
        let finish = Command::Finish { token, becomes: DONE, why: None };
        assert_eq!(stand.commit(ready.seq, finish).told, Told::Done);
    }
    assert_eq!(stand.states(&promises), [Kind::Delivered, Kind::Delivered, Kind::Ready]);
    assert_eq!(stand.store().take_back(stand.epoch, "mails"), 0);
    assert_eq!(stand.runtime.block_on(stand.store().audit()), Ok(Vec::new()));
}

#[test]
fn what_may_not_be_begun_at_once_takes_no_slot() {
    let mut stand = stand();
    stand.offer(9);
    let large =
        Request { body: vec![0; AHEAD_BYTES_MAX as usize].into(), ..(*promise(0, "acme").request).clone() };
    let promises = [
        Promise { lane: lane(true, 1), ..stand.promise("acme") },
        Promise { due: Some(LATER), ..stand.promise("acme") },
        Promise { expires: Some(NOW), ..stand.promise("acme") },
        Promise { after: vec![Id(7 << 64 | 1)], ..stand.promise("acme") },
        Promise { queue: "other".into(), ..stand.promise("acme") },
        Promise { request: Arc::new(large), ..stand.promise("acme") },
    ];
    stand.append(&promises);
    let found = stand.states(&promises);
    assert_eq!(found, [Kind::Ready, Kind::Scheduled, Kind::Ready, Kind::Blocked, Kind::Ready, Kind::Ready]);
    assert_eq!(stand.store().take_back(stand.epoch, "mails"), 9);
}

#[test]
fn nothing_is_begun_behind_a_pause_or_what_was_taken_back() {
    let mut stand = stand();
    let (pause, mut all) = (Pause::Tenant("acme".into()), Vec::new());
    stand.offer(5);
    stand.pause(&pause);
    let mut accept = |stand: &mut Stand| {
        let promise = stand.promise("acme");
        stand.accept(&promise);
        all.push(promise);
    };
    accept(&mut stand);
    stand.resume(&pause);
    accept(&mut stand);
    assert_eq!(stand.store().take_back(stand.epoch, "mails"), 4);
    accept(&mut stand);
    // Another owner has given nothing away.
    stand.offer(5);
    stand.runtime.block_on(stand.store().lead(0)).unwrap();
    accept(&mut stand);
    assert_eq!(stand.states(&all), [Kind::Ready, Kind::Leased, Kind::Ready, Kind::Ready]);
}

#[test]
fn what_was_begun_so_is_found_leased_after_a_crash() {
    let mut stand = stand();
    stand.offer(1);
    let promise = stand.promise("acme");
    let seq = stand.accept(&promise);
    stand.kill();
    let leased = stand.runtime.block_on(stand.store().leased(stand.epoch, Seq(0), 10)).unwrap();
    assert_eq!(leased.iter().map(|one| (one.delivery.seq, one.token)).collect::<Vec<_>>(), [(seq, Token(1))]);
    let next = stand.promise("acme");
    stand.accept(&next);
    assert_eq!(stand.record(next.id).state, State::Ready);
}
