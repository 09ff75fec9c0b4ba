//! What few accept is on disk ahead of the tables, is there for whoever asks, and comes into them whatever happens.

use std::path::Path;

use tidegate_model::idempotency::{self, Key};

use super::*;
use crate::Named;
use crate::deliveries::tables::{Fault, Needs};

/// Where one process has the store.
fn stand() -> Stand {
    let mut stand = Stand::on(Bed::directory(256 << 20));
    // The first of a line makes the line.
    let first = stand.promise("acme");
    stand.accept(&first);
    stand
}

impl Stand {
    /// The directory of the process that has it.
    fn directory(&self) -> std::path::PathBuf {
        let Location::Directory(path) = self.bed.settings(self.lives).location else { panic!("a directory") };
        path
    }

    /// Accepts so many, one after the other.
    fn accept_some(&mut self, count: usize) -> Vec<Promise> {
        let promises: Vec<_> = (0..count).map(|_| self.promise("acme")).collect();
        for promise in &promises {
            assert_eq!(self.append(std::slice::from_ref(promise)), [Appended::Accepted(promise.id)]);
        }
        promises
    }

    /// Accepts some, and tells whether that has written nothing to the database's log.
    fn is_ahead(&mut self, promises: &[Promise]) -> bool {
        let log = self.directory().join("tidegate.db-wal");
        assert_eq!(self.runtime.block_on(self.store().audit()), Ok(Vec::new()), "all is in the tables");
        let before = bytes(&log);
        assert_eq!(self.append(promises).len(), promises.len());
        before == bytes(&log)
    }

    /// One with a body of so many bytes.
    fn promise_of(&mut self, bytes: usize) -> Promise {
        let request = Request { body: vec![b'x'; bytes].into(), ..(*promise(0, "acme").request).clone() };
        Promise { request: Arc::new(request), ..self.promise("acme") }
    }

    /// A transaction that fails.
    fn fail(&self) {
        let fails = self.store().led(self.epoch, Needs::looks(), |_| Err::<(), _>(Fault::Odd("a fault")));
        assert_eq!(self.runtime.block_on(fails), Err(Unavailable::Failing));
    }

    /// All are there, as they were handed in, and counted.
    fn has(&self, promises: &[Promise]) {
        for promise in promises {
            let whole = self.whole(promise.id).unwrap();
            assert_eq!((whole.record.id, &whole.request), (promise.id, &promise.request));
        }
        assert_eq!(self.runtime.block_on(self.store().audit()), Ok(Vec::new()));
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn what_few_accept_changes_no_page_and_outlives_a_crash() {
    let mut stand = stand();
    // A second may end meanwhile, and with it all comes into the tables.
    let promises = (0..9).find_map(|_| {
        let promises: Vec<_> = (0..9).map(|_| stand.promise("acme")).collect();
        stand.is_ahead(&promises).then_some(promises)
    });
    let promises = promises.expect("nothing of it is in the database's log");
    stand.kill();
    stand.has(&promises);
    // Whoever begins anew has brought it into the tables: another one after that finds it there.
    stand.kill();
    stand.has(&promises);
    assert!(promises.iter().is_sorted_by_key(|promise| stand.record(promise.id).seq));
}

#[test]
fn what_is_ahead_is_there_after_a_transaction_that_failed() {
    let mut stand = stand();
    let mut promises = stand.accept_some(5);
    stand.fail();
    promises.extend(stand.accept_some(5));
    stand.fail();
    stand.has(&promises);
    assert_eq!(
        stand.append(&promises),
        promises.iter().map(|one| Appended::Already(one.id)).collect::<Vec<_>>()
    );
    stand.kill();
    stand.has(&promises);
}

#[test]
fn however_much_is_accepted_at_once_and_whatever_fails_between_all_of_it_is_there() {
    let mut stand = stand();
    let mut all = Vec::new();
    for (step, count) in [1, 33, 2, 3, 32, 40, 1, 1, 300, 7, 64, 1, 2, 90].into_iter().enumerate() {
        let promises: Vec<_> = (0..count).map(|_| stand.promise("acme")).collect();
        assert_eq!(stand.append(&promises).len(), count);
        all.extend(promises);
        match step % 4 {
            0 => stand.fail(),
            1 => {}
            2 => stand.kill(),
            _ => {
                let ready = stand.ready("acme");
                stand.make(ready[0], DONE);
            }
        }
        all.extend(stand.accept_some(step % 3));
    }
    stand.has(&all);
    stand.open();
    stand.has(&all);
}

#[test]
fn what_is_large_or_many_goes_into_the_tables() {
    let mut stand = stand();
    let mut all = stand.accept_some(3);
    let mut ahead = |stand: &mut Stand, count, bytes| {
        (0..9).any(|_| {
            let promises: Vec<_> = (0..count).map(|_| stand.promise_of(bytes)).collect();
            all.extend(promises.iter().cloned());
            stand.is_ahead(&promises)
        })
    };
    assert!(ahead(&mut stand, 1, 60 << 10) && ahead(&mut stand, 32, 10) && ahead(&mut stand, 9, 6 << 10));
    assert!(!ahead(&mut stand, 1, 65 << 10) && !ahead(&mut stand, 33, 10) && !ahead(&mut stand, 9, 8 << 10));
    all.extend(stand.accept_some(3));
    stand.kill();
    stand.has(&all);
}

#[test]
fn what_is_ahead_is_at_hand_where_its_file_is_gone() {
    let mut stand = stand();
    let promises = stand.accept_some(5);
    std::fs::remove_file(stand.directory().join("tidegate.db-ahead")).unwrap();
    stand.fail();
    stand.has(&promises);
    stand.kill();
    stand.has(&promises);
}

#[test]
fn what_was_accepted_finds_room_in_a_store_that_is_to_be_smaller_by_now() {
    let mut stand = stand();
    let promises = (0..9).find_map(|_| {
        let promises: Vec<_> = (0..9).map(|_| stand.promise_of(6 << 10)).collect();
        stand.is_ahead(&promises).then_some(promises)
    });
    let mut promises = promises.expect("they are ahead");
    promises.extend((0..9).map(|_| stand.promise_of(6 << 10)));
    stand.append(&promises[9..]);
    let Bed::Directory(_, bytes_max) = &mut stand.bed else { panic!("a directory") };
    *bytes_max = crate::database::BYTES_MIN;
    stand.kill();
    stand.has(&promises);
    let more = vec![stand.promise_of(6 << 10)];
    let told = stand.runtime.block_on(stand.store().append(more, ROOM, NOW));
    assert_eq!(told, Err(Unavailable::Full), "there is room for nothing else");
}

#[test]
fn what_is_ahead_is_there_for_who_looks_where_others_have_taken_its_room() {
    let claim = |stand: &Stand, number: u64| {
        let named = Named {
            tenant: "acme".into(),
            scope: "r".into(),
            key: Key::parse(format!("{number:0>250}").as_bytes()).unwrap(),
        };
        let (fingerprint, again, records_max, until) = ([1; 32], false, 10_000, u64::MAX / 2000);
        let claim = idempotency::Command::Claim { fingerprint, claim: number, again, records_max, until };
        stand.runtime.block_on(stand.store().tell(named, "acme".into(), claim))
    };
    let filled = || {
        let mut stand = Stand::on(Bed::directory(1 << 20));
        let first = stand.promise("acme");
        stand.accept(&first);
        let promises: Vec<_> = (0..20).map(|_| stand.promise_of(1500)).collect();
        assert_eq!(stand.append(&promises).len(), 20);
        (stand, promises)
    };
    let (stand, _) = filled();
    let most = (0..10_000).find(|number| claim(&stand, *number).is_err()).expect("it is full");
    for fewer in [1, 9, 30] {
        let (stand, promises) = filled();
        (0..most - fewer).for_each(|number| drop(claim(&stand, number)));
        let told = stand.runtime.block_on(stand.store().read(None, promises[0].id));
        assert!(told.is_ok(), "{fewer} fewer: {told:?}");
    }
}

#[test]
fn a_file_of_another_store_is_taken_for_nothing() {
    let [mut one, mut other] = [(); 2].map(|()| stand());
    let (ours, theirs) = (one.accept_some(3), other.accept_some(3));
    let foreign = bytes(&other.directory().join("tidegate.db-ahead"));
    one.open();
    std::fs::write(one.directory().join("tidegate.db-ahead"), foreign).unwrap();
    one.open();
    one.has(&ours);
    other.has(&theirs);
    let more = one.accept_some(3);
    one.has(&more);
}
