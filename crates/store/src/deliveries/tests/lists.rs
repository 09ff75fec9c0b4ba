//! What people and their tools ask for.

use super::*;

/// All pages of a listing, by few.
fn listed(stand: &Stand, filter: &Filter) -> Vec<Seq> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = stand.runtime.block_on(stand.store().list(filter.clone(), after, 2)).unwrap();
        all.extend(page.records.iter().map(|record| record.seq));
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

#[test]
fn a_listing_tells_what_is_meant_the_newest_first() {
    for mut stand in Stand::all() {
        let mut all = Vec::new();
        for (tenant, queue, keyed) in
            [("a", "mails", true), ("b", "mails", false), ("a", "texts", false), ("a", "mails", false)]
        {
            let lane = if keyed { lane(false, 1) } else { None };
            let promise = Promise { queue: queue.into(), lane, ..stand.promise(tenant) };
            all.push(stand.accept(&promise));
        }
        stand.make(all[3], DEAD);
        stand.start(all[1]);
        let any = Filter::default;
        let check = |filter: Filter, places: &[usize]| {
            let expected: Vec<_> = places.iter().map(|place| all[*place]).collect();
            assert_eq!(listed(&stand, &filter), expected, "{filter:?}");
        };
        check(any(), &[3, 2, 1, 0]);
        check(Filter { tenant: Some("a".into()), ..any() }, &[3, 2, 0]);
        check(Filter { tenant: Some("none".into()), ..any() }, &[]);
        check(Filter { queue: Some("mails".into()), ..any() }, &[3, 1, 0]);
        check(Filter { queue: Some("mails".into()), tenant: Some("a".into()), ..any() }, &[3, 0]);
        check(Filter { state: Some(Kind::Dead), ..any() }, &[3]);
        check(Filter { state: Some(Kind::Leased), ..any() }, &[1]);
        check(Filter { state: Some(Kind::Ready), ..any() }, &[2, 0]);
        check(Filter { state: Some(Kind::Ready), tenant: Some("a".into()), ..any() }, &[2, 0]);
        check(Filter { key: Some("k".into()), ..any() }, &[0]);
        check(Filter { since: Some(NOW + 1), ..any() }, &[]);
        check(Filter { before: Some(NOW + 1), ..any() }, &[3, 2, 1, 0]);
    }
}

#[test]
fn counts_are_those_of_the_lines() {
    for mut stand in Stand::all() {
        let (a, b) = (stand.promise("a"), Promise { due: Some(NOW + 9), ..stand.promise("b") });
        let other = Promise { queue: "texts".into(), ..stand.promise("a") };
        let (first, _, _) = (stand.accept(&a), stand.accept(&b), stand.accept(&other));
        stand.make(first, DEAD);
        stand.open();
        let depths = |queue, tenant| {
            let found = stand.runtime.block_on(stand.store().depths(queue, tenant, None, 10)).unwrap();
            found.iter().map(|depth| (depth.line.tenant.to_string(), depth.counts)).collect::<Vec<_>>()
        };
        let (dead, scheduled) = ([0, 0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0]);
        let ready = [0, 0, 1, 0, 0, 0, 0];
        assert_eq!(depths(Some("mails"), None), [("a".to_owned(), dead), ("b".to_owned(), scheduled)]);
        assert_eq!(depths(None, Some("a")), [("a".to_owned(), dead), ("a".to_owned(), ready)]);
        assert_eq!(depths(Some("texts"), Some("a")), [("a".to_owned(), ready)]);
        assert_eq!(depths(None, None).len(), 3);
        let totals = stand.runtime.block_on(stand.store().totals()).unwrap();
        assert_eq!(totals.iter().map(|total| &*total.queue).collect::<Vec<_>>(), ["mails", "texts"]);
        assert_eq!((totals[0].counts, totals[0].lines, totals[0].oldest), ([0, 1, 0, 0, 0, 1, 0], 2, None));
        assert_eq!((totals[1].counts, totals[1].oldest), (ready, Some(NOW)));
        assert!(totals[0].bytes > 512);
    }
}

#[test]
fn what_is_changed_by_filter_is_changed_once_and_by_and_by() {
    for mut stand in Stand::all() {
        let all: Vec<_> = (0..5).map(|_| stand.promise("acme")).collect();
        stand.append(&all);
        let started = stand.record(all[0].id).seq;
        stand.start(started);
        let filter = Filter { queue: Some("mails".into()), ..Filter::default() };
        let mut follower = stand.store().follow(0);
        follower.take();
        let change = |control, after| {
            stand.runtime.block_on(stand.store().change_many(filter.clone(), control, after, 2, NOW)).unwrap()
        };
        let through = |control| {
            let (mut changed, mut after) = (0, None);
            loop {
                let some = change(control, after);
                changed += some.changed;
                after = some.next;
                if after.is_none() {
                    return changed;
                }
            }
        };
        assert_eq!(through(Control::Cancel { forgotten: LATER }), 5);
        assert_eq!(follower.take().iter().filter(|news| matches!(news, News::Gone(..))).count(), 5);
        assert_eq!(stand.ready("acme"), []);
        assert_eq!(through(Control::Cancel { forgotten: LATER }), 0);
        assert_eq!(through(Control::Redrive { due: NOW, aging: 0 }), 5);
        assert_eq!(stand.ready("acme").len(), 5);
    }
}

#[test]
fn a_request_is_edited_by_who_knows_it_as_it_is() {
    for mut stand in Stand::all() {
        let promise = stand.promise("acme");
        let seq = stand.accept(&promise);
        let edit = |tenant, edits, body: &'static [u8], room| {
            let edit = Edit { body: Some(Bytes::from_static(body)), ..Edit::default() };
            stand.runtime.block_on(stand.store().edit(Some(tenant), promise.id, edits, edit, room)).unwrap()
        };
        assert_eq!(edit("other", None, b"x", ROOM), Edited::Gone);
        assert_eq!(edit("acme", Some(0), b"one", ROOM), Edited::Done(1));
        assert_eq!(edit("acme", Some(0), b"two", ROOM), Edited::Otherwise(1));
        assert_eq!(edit("acme", None, &[7; 999], Room { bytes_max: 600, ..ROOM }), Edited::Full);
        let token = stand.start(seq);
        assert!(matches!(edit("acme", None, b"x", ROOM), Edited::Not(State::Leased { .. })));
        stand.commit(seq, Command::Finish { token, becomes: DEAD, why: None });
        assert_eq!(edit("acme", Some(1), b"two", ROOM), Edited::Done(2));
        let whole = stand.whole(promise.id).unwrap();
        assert_eq!(
            (&*whole.request.body, &*whole.request.target, whole.edits),
            (&b"two"[..], "/jobs?a=b", 2)
        );
    }
}
