//! What becomes of a delivery by itself: accepted, begun, ended, forgotten.

use super::*;

#[test]
fn what_was_accepted_is_there_after_a_new_start() {
    for mut stand in Stand::all() {
        let promise = Promise { attempts_max: Some(3), expires: Some(LATER), ..stand.promise("acme") };
        let seq = stand.accept(&promise);
        let token = stand.start(seq);
        let before = stand.whole(promise.id).unwrap();
        assert_eq!(before.request, promise.request);
        assert_eq!(before.record.state, State::Leased { token, until: LATER });
        assert_eq!((before.record.attempts, before.record.attempts_max), (1, Some(3)));
        stand.open();
        assert_eq!(stand.whole(promise.id), Some(before));
        let leased = stand.runtime.block_on(stand.store().leased(stand.epoch, Seq(0), 10)).unwrap();
        assert_eq!((leased[0].delivery.seq, leased[0].token, leased[0].until), (seq, token, LATER));
        assert!(stand.runtime.block_on(stand.store().leased(stand.epoch, seq, 10)).unwrap().is_empty());
    }
}

#[test]
fn a_tenant_reads_its_own_alone() {
    for mut stand in Stand::all() {
        let promise = stand.promise("acme");
        stand.accept(&promise);
        let read = |tenant| stand.runtime.block_on(stand.store().read(Some(tenant), promise.id)).unwrap();
        assert!(read("acme").is_some());
        assert!(read("other").is_none());
    }
}

#[test]
fn what_is_accepted_twice_is_there_once() {
    for mut stand in Stand::all() {
        let promise = stand.promise("acme");
        stand.accept(&promise);
        assert_eq!(stand.append(std::slice::from_ref(&promise)), [Appended::Already(promise.id)]);
        assert_eq!(stand.ready("acme").len(), 1);
    }
}

#[test]
fn an_owner_that_another_has_taken_over_from_changes_nothing() {
    for mut stand in Stand::all() {
        let promise = stand.promise("acme");
        let seq = stand.accept(&promise);
        let old = stand.epoch;
        stand.epoch = stand.runtime.block_on(stand.store().lead(0)).unwrap();
        assert!(stand.epoch > old);
        let start = Asked { seq, command: Command::Start { until: LATER }, attempt: None, result: None };
        let refused = stand.runtime.block_on(stand.store().commit(old, vec![start], NOW));
        assert_eq!(refused, Err(Unavailable::Fenced));
        assert_eq!(stand.record(promise.id).state, State::Ready);
        assert_eq!(stand.runtime.block_on(stand.store().lines(old, None, 1)), Err(Unavailable::Fenced));
        assert_eq!(stand.runtime.block_on(stand.store().lead(1)), Err(Unavailable::Fenced));
        assert_eq!(stand.runtime.block_on(stand.store().give_away(old)), Err(Unavailable::Fenced));
        assert_eq!(stand.runtime.block_on(stand.store().give_away(stand.epoch)), Ok(()));
    }
}

#[test]
fn what_is_due_later_is_ready_when_it_is_due() {
    for mut stand in Stand::all() {
        let promises: Vec<_> =
            (1..=3).map(|number| Promise { due: Some(NOW + number * 10), ..stand.promise("acme") }).collect();
        let all: Vec<_> = promises.iter().map(|promise| stand.accept(promise)).collect();
        assert_eq!(stand.promote(NOW, 10), (vec![], Some(NOW + 10), false));
        assert_eq!(stand.promote(NOW + 20, 1), (vec![all[0]], Some(NOW + 20), true));
        assert_eq!(stand.promote(NOW + 20, 10), (vec![all[1]], Some(NOW + 30), false));
        assert_eq!(stand.promote(LATER, 10), (vec![all[2]], None, false));
        assert_eq!(stand.ready("acme"), all);
    }
}

#[test]
fn lines_are_those_in_which_something_may_be_begun() {
    for mut stand in Stand::all() {
        let (a, b) = (stand.promise("a"), stand.promise("b"));
        let later = Promise { due: Some(LATER), ..stand.promise("c") };
        let (first, _, _) = (stand.accept(&a), stand.accept(&b), stand.accept(&later));
        let tenants =
            |stand: &Stand| stand.lines().iter().map(|line| line.tenant.to_string()).collect::<Vec<_>>();
        assert_eq!(tenants(&stand), ["a", "b"]);
        let after = Line { queue: "mails".into(), tenant: "a".into() };
        let page = stand.runtime.block_on(stand.store().lines(stand.epoch, Some(after), 10)).unwrap();
        assert_eq!(page.len(), 1);
        stand.start(first);
        assert_eq!(tenants(&stand), ["b"]);
    }
}

#[test]
fn ready_ones_are_told_by_rank_and_then_by_age() {
    for mut stand in Stand::all() {
        let of = |stand: &mut Stand, priority| {
            let promise = Promise { priority, ..stand.promise("acme") };
            stand.accept(&promise)
        };
        let late = of(&mut stand, Priority::Sheddable);
        let first = of(&mut stand, Priority::Default);
        let second = of(&mut stand, Priority::Default);
        let most = of(&mut stand, Priority::Critical);
        assert_eq!(stand.ready("acme"), [most, first, second, late]);
    }
}

#[test]
fn an_attempt_its_answer_and_its_result_are_kept() {
    for mut stand in Stand::all() {
        let promise = stand.promise("acme");
        let seq = stand.accept(&promise);
        let mut fields = Fields::default();
        fields.append(http::header::ETAG, http::HeaderValue::from_static("\"1\""));
        for number in 1..=25 {
            let token = stand.start(seq);
            let becomes = if number < 25 { Becomes::Again { due: NOW } } else { DONE };
            let attempt = Attempt {
                number,
                began: NOW,
                took: 5,
                status: Some(500),
                why: Some("no".into()),
                answer: Bytes::from_static(b"oh"),
            };
            let result =
                Kept { status: 200, fields: fields.clone(), body: Bytes::from(vec![1; 5000]), whole: true };
            let asked = Asked {
                seq,
                command: Command::Finish { token, becomes, why: Some("no".into()) },
                attempt: Some(attempt),
                result: Some(result),
            };
            assert_eq!(stand.commit_at(NOW, asked).told, Told::Done);
            stand.promote(NOW, 1);
        }
        let whole = stand.whole(promise.id).unwrap();
        assert_eq!(
            whole.attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(),
            Vec::from_iter(6..=25)
        );
        let result = whole.result.unwrap();
        assert_eq!((result.status, result.body.len(), result.whole), (200, 5000, true));
        assert_eq!(result.fields.get(http::header::ETAG).unwrap().as_bytes(), b"\"1\"");
        assert_eq!(whole.record.state, State::Delivered);
    }
}

#[test]
fn what_is_not_there_is_told_to_be_gone() {
    for stand in Stand::all() {
        assert_eq!(stand.commit(Seq(99), Command::Start { until: LATER }).told, Told::Gone);
    }
}

#[test]
fn what_has_expired_is_told_until_it_was_ended() {
    for mut stand in Stand::all() {
        let promise = Promise { expires: Some(NOW + 5), ..stand.promise("acme") };
        let seq = stand.accept(&promise);
        let expired = |now| stand.runtime.block_on(stand.store().expired(stand.epoch, now, 10)).unwrap();
        assert_eq!(expired(NOW + 4), []);
        assert_eq!(expired(NOW + 5), [(seq, Line { queue: "mails".into(), tenant: "acme".into() })]);
        let expire =
            Asked { seq, command: Command::Expire { forgotten: LATER }, attempt: None, result: None };
        assert_eq!(stand.commit_at(NOW + 5, expire).told, Told::Done);
        assert_eq!(expired(LATER), []);
    }
}

#[test]
fn who_follows_is_told_what_was_accepted() {
    for mut stand in Stand::all() {
        let mut follower = stand.store().follow(0);
        assert_eq!(follower.take(), [News::Look]);
        let promise = stand.promise("acme");
        let seq = stand.accept(&promise);
        let later = Promise { due: Some(NOW + 7), ..stand.promise("acme") };
        stand.accept(&later);
        let news = stand.runtime.block_on(follower.next());
        assert!(matches!(&news[0], News::Ready(ready) if ready.seq == seq), "{news:?}");
        assert_eq!(news[1], News::Due(NOW + 7));
    }
}

#[test]
fn what_has_ended_is_forgotten_and_its_line_with_it() {
    for mut stand in Stand::all() {
        let promise = stand.promise("acme");
        let seq = stand.accept(&promise);
        stand.make(seq, Becomes::Delivered { forgotten: later(0, std::time::Duration::from_secs(1)) });
        let by = clock::now().after(PATIENCE);
        while stand.whole(promise.id).is_some() {
            assert!(clock::now() < by, "it was never forgotten");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(stand.commit(seq, Command::Start { until: LATER }).told, Told::Gone);
        stand.open();
        let next = stand.promise("acme");
        assert!(stand.accept(&next) > seq, "a place is given away once");
    }
}

#[test]
fn who_watches_a_delivery_is_woken_by_what_becomes_of_it_and_of_no_other() {
    for mut stand in Stand::all() {
        let (watched, other) = (stand.promise("acme"), stand.promise("acme"));
        let (seq, other_seq) = (stand.accept(&watched), stand.accept(&other));
        let watch = stand.store().watch(watched.id).unwrap();
        let mut next = std::pin::pin!(watch.next());
        stand.make(other_seq, DONE);
        let is_woken = stand.runtime.block_on(std::future::poll_fn(|context| {
            std::task::Poll::Ready(next.as_mut().poll(context).is_ready())
        }));
        assert!(!is_woken);
        stand.start(seq);
        stand.runtime.block_on(next);
    }
}
