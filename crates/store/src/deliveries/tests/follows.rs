//! Deliveries that have to do with others: what comes after what, callbacks, what is one of a kind.

use super::*;

#[test]
fn what_comes_after_others_waits_until_each_was_delivered() {
    for mut stand in Stand::all() {
        let (a, b) = (stand.promise("acme"), stand.promise("acme"));
        let (first, second) = (stand.accept(&a), stand.accept(&b));
        let last = Promise { after: vec![a.id, b.id, a.id], ..stand.promise("acme") };
        let last_seq = stand.accept(&last);
        assert_eq!(stand.make(first, DONE), []);
        assert_eq!(stand.record(last.id).waits_for, 1);
        assert_eq!(seqs(&stand.make(second, DONE)), [last_seq]);
        let late = Promise { after: vec![a.id, b.id], ..stand.promise("acme") };
        stand.accept(&late);
        assert_eq!(stand.record(late.id).state, State::Ready);
    }
}

/// What the tables of a store that was killed say of what comes after what, asked or told by hand.
fn by_hand(bed: &Bed, lives: u32, sqlite: &str, postgres: &str) -> String {
    match bed {
        Bed::Directory(directory, _) => {
            let file = directory.path().join(lives.to_string()).join(crate::database::NAME);
            let other = crate::memory::open(&file, rusqlite::OpenFlags::default()).unwrap();
            if sqlite.starts_with("SELECT") {
                return other.query_row(sqlite, (), |row| row.get(0)).unwrap();
            }
            other.execute_batch(sqlite).unwrap();
            String::new()
        }
        Bed::Postgres(url) => Postgres::shared().say_in(url, postgres),
    }
}

#[test]
fn what_an_earlier_version_noted_of_those_that_wait_no_more_goes_with_it() {
    for mut stand in Stand::all() {
        let (head, ended) = (stand.promise("acme"), stand.promise("acme"));
        let (head_seq, ended_seq) = (stand.accept(&head), stand.accept(&ended));
        let waits = Promise { after: vec![head.id], ..stand.promise("acme") };
        let waits_seq = stand.accept(&waits);
        assert_eq!(stand.make(ended_seq, DONE), []);
        stand.bed.kill(stand.lives);
        stand.lives += 1;
        // As the version before left it: of one that was delivered, of one that is ready, of one that was forgotten.
        let [head, ended] = [head_seq, ended_seq].map(|seq| seq.0);
        let stale = format!("({head}, {ended}), ({ended}, {head}), ({head}, {})", waits_seq.0 + 1000);
        by_hand(
            &stand.bed,
            stand.lives,
            &format!(
                "DROP TABLE ahead; DROP INDEX lines_begins; ALTER TABLE lines DROP COLUMN begins;
                 CREATE INDEX lines_ready ON lines (queue, tenant) WHERE ready > 0;
                 DROP INDEX afters_seq; INSERT INTO afters VALUES {stale}; PRAGMA user_version = 4"
            ),
            &format!(
                "DROP INDEX tidegate.afters_seq; INSERT INTO tidegate.afters VALUES {stale}; DELETE FROM tidegate.versions WHERE version = 3"
            ),
        );
        stand.open();
        assert_eq!(stand.runtime.block_on(stand.store().audit()), Ok(Vec::new()));
        assert_eq!(seqs(&stand.make(head_seq, DONE)), [waits_seq], "it is not lost with the others");
        stand.bed.kill(stand.lives);
        let count = "SELECT CAST(count(*) AS TEXT) FROM";
        let [sqlite, postgres] = ["afters", "tidegate.afters"].map(|table| format!("{count} {table}"));
        assert_eq!(by_hand(&stand.bed, stand.lives + 1, &sqlite, &postgres), "0");
    }
}

#[test]
fn where_one_fails_all_that_come_after_it_are_dead() {
    for mut stand in Stand::all() {
        let head = stand.promise("acme");
        let head_seq = stand.accept(&head);
        let mut chain = vec![head.clone()];
        for _ in 0..20 {
            let next = Promise { after: vec![chain[chain.len() - 1].id], ..stand.promise("acme") };
            stand.accept(&next);
            chain.push(next);
        }
        assert_eq!(stand.make(head_seq, DEAD), []);
        assert!(chain.iter().all(|promise| stand.record(promise.id).state == State::Dead));
        let why = stand.record(chain[1].id).why.unwrap();
        assert!(why.contains(&head.id.to_string()), "{why}");
        let late = Promise { after: vec![head.id], ..stand.promise("acme") };
        assert_eq!(stand.append(&[late]), [Appended::After(head.id)]);
        let foreign = Promise { after: vec![head.id], ..stand.promise("other") };
        assert_eq!(stand.append(&[foreign]), [Appended::After(head.id)]);
    }
}

#[test]
fn more_than_one_transaction_may_bring_about_is_done_by_and_by() {
    for mut stand in Stand::all() {
        let head = stand.promise("acme");
        let head_seq = stand.accept(&head);
        let many: Vec<_> =
            (0..700).map(|_| Promise { after: vec![head.id], ..stand.promise("acme") }).collect();
        many.chunks(1000).for_each(|some| drop(stand.append(some)));
        let mut follower = stand.store().follow(0);
        follower.take();
        let mut told = stand.make(head_seq, DONE).len();
        assert!(told < 700);
        while told < 700 {
            let news = stand.runtime.block_on(follower.next());
            told += news.iter().filter(|news| matches!(news, News::Ready(_))).count();
        }
        assert_eq!(stand.record(many[699].id).state, State::Ready);
    }
}

#[test]
fn a_callback_is_made_once_when_its_delivery_has_ended() {
    for mut stand in Stand::all() {
        let callback = Callback { id: Id(99), queue: "mails".into(), target: "/done".into() };
        let promise = Promise { callback: Some(callback), ..stand.promise("acme") };
        let seq = stand.accept(&promise);
        let ready = stand.make(seq, DEAD);
        assert_eq!(ready.iter().map(|ready| ready.id).collect::<Vec<_>>(), [Id(99)]);
        let whole = stand.whole(Id(99)).unwrap();
        assert_eq!(&*whole.request.target, "/done");
        let body =
            format!("{{\"id\":\"{}\",\"queue\":\"mails\",\"state\":\"dead\",\"attempts\":1}}", promise.id);
        assert_eq!(whole.request.body, body);
        stand.commit(seq, Command::Redrive { due: NOW, aging: 0 });
        assert_eq!(stand.make(seq, DONE), []);
    }
}

#[test]
fn what_is_one_of_a_kind_stands_until_its_time_is_over() {
    for mut stand in Stand::all() {
        let of = |stand: &mut Stand, until, print| Promise {
            unique: unique(until, Otherwise::Keep, print),
            ..stand.promise("acme")
        };
        let first = of(&mut stand, LATER + 10, Some(1));
        let seq = stand.accept(&first);
        let same = of(&mut stand, LATER + 10, Some(1));
        let different = of(&mut stand, LATER + 10, Some(2));
        let told =
            stand.append(&[same.clone(), different, Promise { tenant: "other".into(), ..same.clone() }]);
        let id = same.id;
        assert_eq!(told, [Appended::Already(first.id), Appended::Mismatch(first.id), Appended::Accepted(id)]);
        let again = of(&mut stand, LATER + 99, None);
        let at = |stand: &Stand, now| {
            stand.runtime.block_on(stand.store().append(vec![again.clone()], ROOM, now)).unwrap().remove(0)
        };
        // Its time is over, but it has not begun.
        assert_eq!(at(&stand, LATER + 10), Appended::Already(first.id));
        stand.make(seq, Becomes::Delivered { forgotten: LATER });
        assert_eq!(stand.record(first.id).forgotten, Some(LATER + 10), "it is kept as long as it is told");
        assert_eq!(at(&stand, LATER + 9), Appended::Already(first.id));
        assert_eq!(at(&stand, LATER + 10), Appended::Accepted(again.id));
    }
}

#[test]
fn what_has_not_begun_may_be_replaced_and_is_put_off_so_long_and_no_longer() {
    for mut stand in Stand::all() {
        let debounce = Otherwise::Debounce { at_most: 100 };
        let of = |stand: &mut Stand, due, otherwise| Promise {
            due: Some(due),
            unique: unique(LATER, otherwise, None),
            ..stand.promise("acme")
        };
        let first = of(&mut stand, NOW + 50, debounce);
        let seq = stand.accept(&first);
        let put_off = of(&mut stand, NOW + 80, debounce);
        assert_eq!(stand.append(std::slice::from_ref(&put_off)), [Appended::Replaced(first.id)]);
        assert_eq!(stand.record(first.id).due, NOW + 80);
        assert_eq!(stand.whole(first.id).unwrap().request, put_off.request);
        let further = of(&mut stand, NOW + 500, debounce);
        assert_eq!(stand.append(&[further]), [Appended::Replaced(first.id)]);
        assert_eq!(stand.record(first.id).due, NOW + 100);
        let now = Promise { lane: lane(true, 1), ..of(&mut stand, NOW, Otherwise::Replace) };
        assert_eq!(stand.append(&[now]), [Appended::Replaced(first.id)]);
        assert_eq!(stand.ready("acme"), [seq]);
        stand.start(seq);
        let late = of(&mut stand, NOW, Otherwise::Replace);
        assert_eq!(stand.append(&[late]), [Appended::Already(first.id)]);
    }
}

#[test]
fn what_takes_the_place_of_another_does_not_come_after_what_may_wait_for_that() {
    for mut stand in Stand::all() {
        let of = |stand: &mut Stand, after| Promise {
            due: Some(NOW + 50),
            unique: unique(LATER, Otherwise::Replace, None),
            after,
            ..stand.promise("acme")
        };
        let older = stand.promise("acme");
        let older_seq = stand.accept(&older);
        let first = of(&mut stand, Vec::new());
        let seq = stand.accept(&first);
        let newer = Promise { after: vec![first.id], ..stand.promise("acme") };
        stand.accept(&newer);
        for after in [newer.id, first.id] {
            let in_turn = of(&mut stand, vec![after]);
            assert_eq!(stand.append(&[in_turn]), [Appended::After(after)]);
        }
        let now = Promise { due: None, ..of(&mut stand, vec![older.id]) };
        assert_eq!(stand.append(&[now]), [Appended::Replaced(first.id)]);
        assert_eq!(seqs(&stand.make(older_seq, DONE)), [seq]);
        let ready = stand.make(seq, DONE);
        assert_eq!(ready.iter().map(|ready| ready.id).collect::<Vec<_>>(), [newer.id]);
    }
}

#[test]
fn what_takes_the_place_of_another_does_not_come_among_others_of_an_ordered_key() {
    for mut stand in Stand::all() {
        let of = |stand: &mut Stand, lane| Promise {
            unique: unique(LATER, Otherwise::Replace, None),
            lane,
            ..stand.promise("acme")
        };
        let first = of(&mut stand, None);
        let seq = stand.accept(&first);
        // It has the turn of its key, and waits for the first.
        let behind = Promise { lane: lane(true, 1), after: vec![first.id], ..stand.promise("acme") };
        stand.accept(&behind);
        let jumps_in = of(&mut stand, lane(true, 1));
        assert_eq!(stand.append(&[jumps_in]), [Appended::Mismatch(first.id)]);
        let alone = of(&mut stand, Some(Lane { key: "other".into(), ordered: true, open_max: 1 }));
        let again = Promise { id: stand.promise("acme").id, ..alone.clone() };
        assert_eq!(
            stand.append(&[alone, again]),
            [Appended::Replaced(first.id), Appended::Replaced(first.id)]
        );
        let ready = stand.make(seq, DONE);
        assert_eq!(ready.iter().map(|ready| ready.id).collect::<Vec<_>>(), [behind.id]);
    }
}

#[test]
fn what_is_made_again_waits_for_none_that_it_came_after_before() {
    for mut stand in Stand::all() {
        let of = |stand: &mut Stand, after| Promise {
            unique: unique(LATER, Otherwise::Replace, None),
            after,
            ..stand.promise("acme")
        };
        let (former, other) = (stand.promise("acme"), stand.promise("acme"));
        let (former_seq, other_seq) = (stand.accept(&former), stand.accept(&other));
        let waits = of(&mut stand, vec![former.id]);
        let seq = stand.accept(&waits);
        stand.commit(seq, Command::Cancel { forgotten: LATER });
        stand.commit(seq, Command::Redrive { due: NOW, aging: 0 });
        assert_eq!(stand.record(waits.id).state, State::Ready);
        let anew = of(&mut stand, vec![other.id]);
        assert_eq!(stand.append(&[anew]), [Appended::Replaced(waits.id)]);
        assert_eq!(stand.make(former_seq, DONE), [], "it comes after another now");
        assert_eq!(seqs(&stand.make(other_seq, DONE)), [seq]);
    }
}

#[test]
fn an_older_one_of_an_ordered_key_that_is_made_again_goes_before_a_newer_that_waits() {
    for mut stand in Stand::all() {
        let of = |stand: &mut Stand, after| Promise {
            unique: unique(LATER, Otherwise::Replace, None),
            after,
            ..stand.promise("acme")
        };
        let older = Promise { lane: lane(true, 1), ..stand.promise("acme") };
        let older_seq = stand.accept(&older);
        let third = of(&mut stand, Vec::new());
        let third_seq = stand.accept(&third);
        stand.commit(older_seq, Command::Cancel { forgotten: LATER });
        // It has the turn, and waits for the third, which is to come after the older one.
        let newer = Promise { lane: lane(true, 1), after: vec![third.id], ..stand.promise("acme") };
        let newer_seq = stand.accept(&newer);
        stand.commit(older_seq, Command::Redrive { due: NOW, aging: 0 });
        let anew = of(&mut stand, vec![older.id]);
        assert_eq!(stand.append(&[anew]), [Appended::Replaced(third.id)]);
        assert_eq!(stand.ready("acme"), [older_seq]);
        assert_eq!(seqs(&stand.make(older_seq, DONE)), [third_seq]);
        assert_eq!(seqs(&stand.make(third_seq, DONE)), [newer_seq]);
        stand.make(newer_seq, DONE);
        stand.check(
            &[older_seq, third_seq, newer_seq].map(|seq| (seq, State::Delivered)),
            &[older, third, newer],
        );
    }
}
