//! How much there may be.

use super::*;

#[test]
fn a_tenants_room_is_kept_to_exactly_and_by_queue() {
    for mut stand in Stand::all() {
        let room = Room { waiting_max: 2, bytes_max: 1 << 30 };
        let append = |stand: &mut Stand, tenant: &str, room| {
            let promise = stand.promise(tenant);
            let told =
                stand.runtime.block_on(stand.store().append(vec![promise.clone()], room, NOW)).unwrap();
            (promise, told[0].clone())
        };
        let (first, told) = append(&mut stand, "acme", room);
        assert_eq!(told, Appended::Accepted(first.id));
        append(&mut stand, "acme", room);
        assert_eq!(append(&mut stand, "acme", room).1, Appended::Full);
        let (other, told) = append(&mut stand, "other", room);
        assert_eq!(told, Appended::Accepted(other.id));
        let seq = stand.record(first.id).seq;
        stand.make(seq, DONE);
        let (next, told) = append(&mut stand, "acme", room);
        assert_eq!(told, Appended::Accepted(next.id));
        // What has ended still has its bytes.
        let tight = Room { waiting_max: 9, bytes_max: 4 * 256 };
        assert_eq!(append(&mut stand, "acme", tight).1, Appended::Full);
    }
}

#[test]
fn where_there_is_no_room_nothing_new_is_accepted_and_what_was_begun_is_ended() {
    let mut stand = Stand::on(Bed::directory(1 << 19));
    let mut all = Vec::new();
    loop {
        // Of many pages each, and few of them: the room that is left is what the small changes need.
        let mut some: Vec<_> = (0..4).map(|_| stand.promise("acme")).collect();
        for promise in &mut some {
            let request = Request { body: vec![1; 5000].into(), ..Request::clone(&promise.request) };
            promise.request = Arc::new(request);
        }
        match stand.runtime.block_on(stand.store().append(some.clone(), ROOM, NOW)) {
            Ok(_) => all.extend(some.iter().map(|promise| promise.id)),
            Err(why) => {
                assert_eq!(why, Unavailable::Full);
                break;
            }
        }
        assert!(all.len() < 10_000);
    }
    for id in all {
        let seq = stand.record(id).seq;
        let token = stand.start(seq);
        let result = Kept { status: 200, fields: Fields::default(), body: vec![0; 4096].into(), whole: true };
        let finish = Command::Finish { token, becomes: DONE, why: None };
        let asked = Asked { seq, command: finish, attempt: None, result: Some(result) };
        assert_eq!(stand.commit_at(NOW, asked).told, Told::Done);
    }
}

#[test]
fn what_was_said_of_a_delivery_counts_for_its_tenant_as_long_as_it_is_kept() {
    for mut stand in Stand::all() {
        let promise = stand.promise("acme");
        let seq = stand.accept(&promise);
        let depth = |stand: &Stand| {
            let found = stand.runtime.block_on(stand.store().depths(None, Some("acme"), None, 1)).unwrap();
            found[0].bytes
        };
        let asked = depth(&stand);
        let finish = |number, becomes, answer: usize, result: Option<usize>| {
            stand.promote(NOW, 1);
            let token = stand.start(seq);
            let why = Some(Arc::from("no"));
            let (took, status, answer) = (5, Some(500), Bytes::from(vec![b'a'; answer]));
            let attempt = Attempt { number, began: NOW, took, status, why, answer };
            let result = result.map(|length| Kept {
                status: 200,
                fields: Fields::default(),
                body: vec![b'r'; length].into(),
                whole: true,
            });
            let command = Command::Finish { token, becomes, why: None };
            stand.commit_at(NOW, Asked { seq, command, attempt: Some(attempt), result });
            depth(&stand) - asked
        };
        let again = Becomes::Again { due: NOW };
        // Each takes 64 bytes beside what it says, of which 4 KiB are kept: as many as the last 20.
        assert_eq!(finish(1, again, 10_000, None), 64 + 2 + 4096);
        assert_eq!(finish(2, again, 100, None), 2 * 66 + 4096 + 100);
        let mut last = 0;
        for number in 3..=21 {
            last = finish(number, again, 100, None);
        }
        assert_eq!(last, 20 * 166);
        // A result without fields has a byte that says so; the next takes its place.
        assert_eq!(finish(22, DEAD, 100, Some(1000)), 20 * 166 + 1001);
        stand.commit(seq, Command::Redrive { due: NOW, aging: 0 });
        assert_eq!(finish(1, DONE, 0, Some(10)), 19 * 166 + 66 + 11);
        let wrong = stand.runtime.block_on(stand.store().audit()).unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
