//! Deliveries of one key: who may be begun, and who waits for a turn.

use super::*;

#[test]
fn of_an_ordered_key_one_alone_may_be_begun_and_a_retry_keeps_its_place() {
    for mut stand in Stand::all() {
        let promises: Vec<_> =
            (0..3).map(|_| Promise { lane: lane(true, 1), ..stand.promise("acme") }).collect();
        let all: Vec<_> = promises.iter().map(|promise| stand.accept(promise)).collect();
        assert_eq!(stand.ready("acme"), [all[0]]);
        assert_eq!(stand.make(all[0], Becomes::Again { due: NOW + 5 }), []);
        assert_eq!(stand.ready("acme"), []);
        stand.open();
        assert_eq!(stand.promote(NOW + 5, 10).0, [all[0]]);
        assert_eq!(seqs(&stand.make(all[0], DEAD)), [all[1]]);
        assert_eq!(seqs(&stand.make(all[1], DONE)), [all[2]]);
        assert_eq!(stand.make(all[2], DONE), []);
        // A redriven one gets its turn at once where nobody has it.
        assert_eq!(stand.commit(all[0], Command::Redrive { due: NOW, aging: 0 }).ready.len(), 1);
        assert_eq!(stand.ready("acme"), [all[0]]);
    }
}

#[test]
fn of_a_key_as_many_are_open_as_may_be_and_what_waits_for_its_time_is_not() {
    for mut stand in Stand::all() {
        let promises: Vec<_> =
            (0..4).map(|_| Promise { lane: lane(false, 2), ..stand.promise("acme") }).collect();
        let all: Vec<_> = promises.iter().map(|promise| stand.accept(promise)).collect();
        assert_eq!(stand.ready("acme"), all[..2]);
        assert_eq!(seqs(&stand.make(all[0], Becomes::Again { due: NOW + 5 })), [all[2]]);
        assert_eq!(seqs(&stand.make(all[1], DONE)), [all[3]]);
        // Its time has come, but two are open: it waits for its turn.
        assert_eq!(stand.promote(NOW + 5, 10).0, []);
        assert_eq!(stand.record(promises[0].id).state, State::Blocked);
        stand.check(&[(all[2], State::Ready), (all[3], State::Ready)], &promises[2..]);
        let token = stand.start(all[2]);
        let finish = Command::Finish { token, becomes: DONE, why: None };
        let told =
            stand.commit_at(NOW + 6, Asked { seq: all[2], command: finish, attempt: None, result: None });
        assert_eq!(seqs(&told.ready), [all[0]]);
    }
}

#[test]
fn a_paused_key_begins_nothing_and_keeps_no_other_waiting() {
    for mut stand in Stand::all() {
        let keyed: Vec<_> =
            (0..3).map(|_| Promise { lane: lane(false, 2), ..stand.promise("acme") }).collect();
        let all: Vec<_> = keyed.iter().map(|promise| stand.accept(promise)).collect();
        let other = stand.promise("acme");
        let other = stand.accept(&other);
        let token = stand.start(all[0]);
        let line = Line { queue: "mails".into(), tenant: "acme".into() };
        let (key, queue) = (Pause::Key(line, "k".into()), Pause::Queue("other".into()));
        stand.pause(&queue);
        stand.pause(&key);
        assert_eq!(stand.ready("acme"), [other]);
        stand.open();
        assert_eq!(stand.runtime.block_on(stand.store().paused()), Ok(vec![queue, key.clone()]));
        // What has begun goes on.
        let finish = Command::Finish { token, becomes: DONE, why: None };
        assert_eq!(stand.commit(all[0], finish).ready, []);
        let more = Promise { lane: lane(false, 2), ..stand.promise("acme") };
        let more = stand.accept(&more);
        assert_eq!(stand.ready("acme"), [other]);
        stand.resume(&key);
        assert_eq!(stand.ready("acme"), [all[1], all[2], other]);
        assert_eq!(seqs(&stand.make(all[1], DONE)), [more]);
    }
}
