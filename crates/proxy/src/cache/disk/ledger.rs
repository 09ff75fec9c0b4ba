//! Purges on their way to the journal: noted by whoever purges, without waiting; written down by the writer.

use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::cache::Wall;
use tidegate_model::cache::orders::LogPlace;
use tidegate_model::cache::purge::{Label, Marks, Noted, Purge};
use tidegate_wire::clock;
use tokio::sync::Notify;

/// Purges that may wait. With more the writer begins anew with all that are remembered.
const WAITING_MAX: usize = 65_536;

/// All purges of this process, as far as they are remembered, and which of them are written down.
#[derive(Debug)]
pub struct Ledger {
    inner: Mutex<Inner>,
    written: Notify,
}

/// What waits to be written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// What was purged, in the order of the numbers.
    pub purges: Vec<Noted>,
    /// How far the log had been read that nodes share, when all of these were noted.
    pub place: Option<LogPlace>,
}

#[derive(Debug)]
struct Inner {
    marks: Marks,
    place: Option<LogPlace>,
    waiting: Vec<Noted>,
    /// There were too many, or nobody writes them down.
    overflown: bool,
    /// How many were noted, and how many of them are written down.
    noted: u64,
    done: u64,
    /// Somebody waited in vain: until something is written down nobody else does.
    late: bool,
}

/// There were too many to be told one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl Ledger {
    /// With what was purged before.
    #[must_use]
    pub fn new(marks: Marks) -> Ledger {
        let inner = Inner {
            marks,
            place: None,
            waiting: Vec::new(),
            overflown: true,
            noted: 0,
            done: 0,
            late: false,
        };
        Ledger { inner: Mutex::new(inner), written: Notify::new() }
    }

    /// Notes a purge. To be told in the order of their numbers.
    pub fn note(&self, noted: Noted) {
        let mut inner = self.inner.lock();
        inner.marks.repeat(&noted);
        inner.noted += 1;
        if inner.overflown {
            return;
        }
        if inner.waiting.len() == WAITING_MAX {
            (inner.overflown, inner.waiting) = (true, Vec::new());
            return;
        }
        inner.waiting.push(noted);
    }

    /// The log was read up to there, and all that it orders is noted.
    pub fn log_read(&self, place: LogPlace) {
        self.inner.lock().place = Some(place);
    }

    /// All that is remembered: whoever begins to write purges down begins with these. The number is for [`Ledger::wrote`].
    #[must_use]
    pub fn begin(&self) -> (Waiting, u64) {
        let mut inner = self.inner.lock();
        (inner.overflown, inner.waiting) = (false, Vec::new());
        let mut all = Vec::new();
        if let floor @ 1.. = inner.marks.floor() {
            all.push(Noted { number: floor, label: Label::EVERYTHING, purge: Purge::Hard, when: Wall(0) });
        }
        all.extend(inner.marks.noted());
        (Waiting { purges: all, place: inner.place }, inner.noted)
    }

    /// Those that wait.
    ///
    /// # Errors
    /// They were too many: it is to begin anew.
    pub fn take(&self) -> Result<(Waiting, u64), TooMany> {
        let mut inner = self.inner.lock();
        if inner.overflown {
            return Err(TooMany);
        }
        let purges = std::mem::take(&mut inner.waiting);
        Ok((Waiting { purges, place: inner.place }, inner.noted))
    }

    /// They are written down up to there.
    pub fn wrote(&self, up_to: u64) {
        {
            let mut inner = self.inner.lock();
            (inner.done, inner.late) = (up_to, false);
        }
        self.written.notify_waiters();
    }

    /// Nobody writes them down any more, for now. Tells those that wait.
    ///
    /// # Errors
    /// They were too many.
    pub fn stop(&self) -> Result<Waiting, TooMany> {
        let mut inner = self.inner.lock();
        let waiting = Waiting { purges: std::mem::take(&mut inner.waiting), place: inner.place };
        let overflown = std::mem::replace(&mut inner.overflown, true);
        drop(inner);
        self.written.notify_waiters();
        if overflown { Err(TooMany) } else { Ok(waiting) }
    }

    /// Waits until all that was purged so far is written down, at most so long. Tells whether it is. A disk that hangs holds
    /// up those who waited when it began to, and not those who come later.
    pub async fn settled(&self, most: Duration) -> bool {
        let noted = self.inner.lock().noted;
        let by = clock::now().after(most);
        loop {
            let written = self.written.notified();
            let mut written = std::pin::pin!(written);
            written.as_mut().enable();
            {
                let inner = self.inner.lock();
                if inner.done >= noted || inner.overflown || inner.late {
                    return inner.done >= noted;
                }
            }
            if clock::timeout_at(by, written).await.is_err() {
                let mut inner = self.inner.lock();
                inner.late |= inner.done < noted;
                return inner.done >= noted;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn noted(number: u64) -> Noted {
        Noted { number, label: Label::host("h"), purge: Purge::Hard, when: Wall(0) }
    }

    fn waiting(purges: &[Noted]) -> Waiting {
        Waiting { purges: purges.to_vec(), place: None }
    }

    #[test]
    fn what_was_purged_before_anybody_wrote_comes_first() {
        let ledger = Ledger::new(Marks::new(9));
        ledger.note(noted(1));
        assert_eq!(ledger.take(), Err(TooMany));
        assert_eq!(ledger.begin(), (waiting(&[noted(1)]), 1));
        ledger.note(noted(2));
        assert_eq!(ledger.take(), Ok((waiting(&[noted(2)]), 2)));
        assert_eq!(ledger.take(), Ok((waiting(&[]), 2)));
    }

    #[test]
    fn what_is_forgotten_is_told_as_everything_before_it() {
        let ledger = Ledger::new(Marks::new(1));
        ledger.note(noted(1));
        ledger.note(Noted { label: Label::host("i"), ..noted(2) });
        let all = ledger.begin().0.purges;
        assert_eq!(all[0].label, Label::EVERYTHING);
        assert_eq!((all[0].number, all[1].number, all.len()), (1, 2, 2));
    }

    #[test]
    fn too_many_are_told_as_such_and_not_kept() {
        let ledger = Ledger::new(Marks::new(9));
        let _ = ledger.begin();
        for number in 0..=WAITING_MAX as u64 {
            ledger.note(noted(number + 1));
        }
        assert_eq!(ledger.take(), Err(TooMany));
        assert!(ledger.inner.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn waits_until_it_is_written_down_and_no_longer_than_told() {
        let ledger = Ledger::new(Marks::new(9));
        assert!(ledger.settled(Duration::from_secs(9)).await, "nothing was purged");
        let (_, up_to) = ledger.begin();
        ledger.note(noted(1));
        assert!(!ledger.settled(Duration::from_millis(5)).await);
        {
            let waits = std::pin::pin!(ledger.settled(Duration::from_secs(9)));
            let mut context = Context::from_waker(Waker::noop());
            assert_eq!(waits.poll(&mut context), Poll::Ready(false), "one waited in vain");
        }
        assert_eq!(ledger.take().unwrap().0.purges, [noted(1)]);
        ledger.wrote(up_to + 1);
        ledger.note(noted(2));
        let both = async { ledger.wrote(up_to + 2) };
        assert!(tokio::join!(ledger.settled(Duration::from_secs(9)), both).0);
        ledger.note(noted(3));
        assert_eq!(ledger.stop(), Ok(waiting(&[noted(2), noted(3)])));
        assert!(!ledger.settled(Duration::from_secs(9)).await, "nobody writes it");
    }
}
