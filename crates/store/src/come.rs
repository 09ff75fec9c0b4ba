//! What comes to the writing thread, and how long it waits for more of it.
//!
//! Where all share a processor, who was told just now has the next thing to hand in within microseconds, and the disk takes a hundred
//! times as long. With the first of them alone, a sync is for one, while the others wait for the one after it.
//!
//! What always holds: one who comes alone, as the one before did, waits for nobody; and nobody waits long for those who do not come.

use std::time::Duration;

use tidegate_wire::clock;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::store::Job;

/// Commands of one transaction.
pub(crate) const BATCH_MAX: usize = 512;
/// Commands of which more are waited for, where they are as many or were in the round before.
const SOME: usize = 4;
/// Commands that are enough, however many there were before: while these are on their way to the disk, others come.
const ENOUGH: usize = 128;
/// How long none comes until none is waited for.
const QUIET: Duration = Duration::from_micros(20);
/// How long they are waited for, however they come: about what the disk takes.
const WAIT_MAX: Duration = Duration::from_micros(200);

/// Takes what has come by now. `false`: nothing will come any more.
pub(crate) fn take(jobs: &mut mpsc::Receiver<Job>, got: &mut Vec<Job>) -> bool {
    while got.len() < BATCH_MAX {
        match jobs.try_recv() {
            Ok(job) => got.push(job),
            Err(why) => return why == TryRecvError::Empty,
        }
    }
    true
}

/// Takes what comes at once, until it is as much as it was `before`, or [`ENOUGH`]. `false`: nothing will come any more.
pub(crate) fn gather(jobs: &mut mpsc::Receiver<Job>, got: &mut Vec<Job>, before: usize) -> bool {
    // Whoever has something to hand in goes first.
    gather_behind(jobs, got, before, std::thread::yield_now)
}

fn gather_behind(
    jobs: &mut mpsc::Receiver<Job>,
    got: &mut Vec<Job>,
    before: usize,
    mut others: impl FnMut(),
) -> bool {
    if got.len().max(before) < SOME {
        return true;
    }
    let begun = clock::now();
    let mut last = begun;
    loop {
        let had = got.len();
        others();
        if !take(jobs, got) {
            return false;
        }
        let now = clock::now();
        if got.len() > had {
            last = now;
        }
        if got.len() >= before.min(ENOUGH) || now.since(last) >= QUIET || now.since(begun) >= WAIT_MAX {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(count: usize) -> (mpsc::Sender<Job>, mpsc::Receiver<Job>) {
        let (sender, list) = mpsc::channel(2 * BATCH_MAX);
        (0..count).for_each(|_| sender.try_send(Job::Thaw).unwrap());
        (sender, list)
    }

    #[test]
    fn no_more_is_taken_than_one_transaction_has_and_those_who_do_not_come_are_not_waited_for() {
        let (sender, mut jobs) = list(BATCH_MAX + 3);
        let mut got = Vec::new();
        assert!(gather(&mut jobs, &mut got, BATCH_MAX) && got.len() == BATCH_MAX);
        got.clear();
        assert!(gather(&mut jobs, &mut got, BATCH_MAX));
        assert_eq!(got.len(), 3);
        drop(sender);
        assert!(!gather(&mut jobs, &mut got, BATCH_MAX));
    }

    #[test]
    fn of_few_no_more_are_waited_for() {
        let (_sender, mut jobs) = list(2);
        let mut got = vec![Job::Thaw];
        assert!(gather(&mut jobs, &mut got, 2));
        assert_eq!(got.len(), 1);
        assert!(gather(&mut jobs, &mut got, SOME));
        assert_eq!(got.len(), 3);
    }

    #[test]
    fn who_comes_while_others_go_first_is_taken_until_they_are_as_many_as_before() {
        // Where this thread is kept from going on for too long none is waited for: not each time.
        let most = |before, each| {
            let most = (0..99).map(|_| {
                let (sender, mut jobs) = list(0);
                let mut got = Vec::new();
                let comes = || (0..each).for_each(|_| sender.try_send(Job::Thaw).unwrap());
                assert!(gather_behind(&mut jobs, &mut got, before, comes));
                got.len()
            });
            most.max()
        };
        assert_eq!((most(8, 2), most(BATCH_MAX, ENOUGH / 2)), (Some(8), Some(ENOUGH)));
    }
}
