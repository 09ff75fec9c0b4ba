//! What follows whoever decides who is next: a bounded list, which says "look" where more has happened than it holds.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use tidegate_model::delivery::{Id, Ms};

use super::watch::Watched;
use super::{News, Ready, Slots};

/// What a transaction has to tell, by shard, and which deliveries it has changed.
#[derive(Debug, Default)]
pub(crate) struct Tidings {
    of_shards: Vec<OfShard>,
    changed: Vec<Id>,
}

#[derive(Debug)]
struct OfShard {
    shard: u16,
    news: Vec<News>,
    /// When the first of what became scheduled is due.
    due: Option<Ms>,
}

impl OfShard {
    fn push(&mut self, news: News) {
        if self.news.last() != Some(&news) {
            self.news.push(news);
        }
    }
}

impl Tidings {
    fn of(&mut self, shard: u16) -> &mut OfShard {
        let place = self.of_shards.iter().position(|known| known.shard == shard).unwrap_or_else(|| {
            self.of_shards.push(OfShard { shard, news: Vec::with_capacity(NEWS), due: None });
            self.of_shards.len() - 1
        });
        &mut self.of_shards[place]
    }

    /// This has happened in a shard, and is told after what is told already.
    pub(super) fn push(&mut self, shard: u16, news: News) {
        self.of(shard).push(news);
    }

    /// Something of a shard is due then.
    pub(super) fn due(&mut self, shard: u16, due: Ms) {
        let first = &mut self.of(shard).due;
        *first = Some(first.map_or(due, |first| first.min(due)));
    }

    /// Whoever asks for it looks itself at what is due.
    pub(super) fn forget_due(&mut self, shard: u16) {
        self.of(shard).due = None;
    }

    /// What has become ready is told, and what became scheduled so far.
    pub(super) fn tell(&mut self, ready: &mut Vec<Ready>) {
        for ready in ready.drain(..) {
            self.push(ready.seq.shard(), News::Ready(ready));
        }
        for of in &mut self.of_shards {
            if let Some(due) = of.due.take() {
                of.push(News::Due(due));
            }
        }
    }

    /// A delivery was changed.
    pub(super) fn changed(&mut self, id: Id) {
        self.changed.push(id);
    }

    /// Whether something was begun as it was accepted.
    pub(crate) fn has_begun(&self) -> bool {
        self.of_shards.iter().any(|of| of.news.iter().any(|news| matches!(news, News::Begun(..))))
    }

    /// What is told to those who follow each shard.
    pub(crate) fn by_shard(&self) -> impl Iterator<Item = (u16, &[News])> {
        self.of_shards.iter().map(|OfShard { shard, news, .. }| (*shard, news.as_slice()))
    }
}

/// News of a transaction for which there is room from the first on.
const NEWS: usize = 32;
/// News that one follower has not yet taken.
const NEWS_MAX: usize = 16_384;
/// The same, of those that may wait.
const WAITING_MAX: usize = 256;

#[derive(Debug, Default)]
struct List {
    shard: u16,
    kept: Mutex<Kept>,
    come: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    news: VecDeque<News>,
    /// What becomes ready in these wakes nobody.
    unhurried: Queues,
}

/// Names of queues.
pub type Queues = Arc<HashSet<Arc<str>>>;

/// Takes news in their order. Nothing is lost where it is slow: what it is told to look at is on disk.
#[derive(Debug)]
pub struct Follower {
    list: Arc<List>,
    /// As it is told there.
    unhurried: Queues,
}

impl Follower {
    /// The next ones, all that there are; waits for one. What is dropped meanwhile is not lost.
    pub async fn next(&mut self) -> VecDeque<News> {
        loop {
            let all = self.take();
            if !all.is_empty() {
                return all;
            }
            self.list.come.notified().await;
        }
    }

    /// Those that there are, perhaps none.
    pub fn take(&mut self) -> VecDeque<News> {
        std::mem::take(&mut self.list.kept.lock().news)
    }

    /// From now on nobody waits for what becomes ready in these queues, and in no others: it is told with what comes next, or
    /// once it is much.
    pub fn unhurried(&mut self, queues: &Queues) {
        if !Arc::ptr_eq(&self.unhurried, queues) {
            self.unhurried = Arc::clone(queues);
            self.list.kept.lock().unhurried = Arc::clone(queues);
        }
    }
}

/// Those who follow shards, and those who watch single deliveries.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    lists: Mutex<Vec<Arc<List>>>,
    pub(crate) watched: Arc<Watched>,
    /// What is given away beforehand.
    pub(crate) slots: Slots,
}

impl Followers {
    /// One more, of this shard. It looks first.
    pub(crate) fn follow(&self, shard: u16) -> Follower {
        let list = Arc::new(List { shard, ..List::default() });
        list.kept.lock().news.push_back(News::Look);
        let mut all = self.lists.lock();
        all.retain(|list| Arc::strong_count(list) > 1);
        all.push(Arc::clone(&list));
        let unhurried = Arc::clone(&list.kept.lock().unhurried);
        Follower { list, unhurried }
    }

    /// Tells those who watch what a transaction has changed.
    pub(crate) fn tell_changed(&self, tidings: &Tidings) {
        self.watched.tell(&tidings.changed);
    }

    /// Tells those who follow this shard.
    pub(crate) fn tell(&self, shard: u16, news: &[News]) {
        if news.is_empty() {
            return;
        }
        self.lists.lock().retain(|list| {
            if Arc::strong_count(list) == 1 {
                return false;
            }
            if list.shard != shard {
                return true;
            }
            let mut kept = list.kept.lock();
            let Kept { news: waiting, unhurried } = &mut *kept;
            // What was begun is found by no look: it is told, and is no more than slots were offered.
            let was_begun = |news: &News| matches!(news, News::Begun(..));
            if waiting.len() + news.len() > NEWS_MAX {
                waiting.retain(was_begun);
                waiting.push_front(News::Look);
            }
            let looks = waiting.front() == Some(&News::Look);
            if !looks {
                waiting.reserve(news.len());
            }
            waiting.extend(news.iter().filter(|news| !looks || was_begun(news)).cloned());
            let hurries = |news: &News| match news {
                News::Ready(ready) => !unhurried.contains(&ready.line.queue),
                _ => true,
            };
            let wakes = waiting.len() >= WAITING_MAX || news.iter().any(hurries);
            drop(kept);
            if wakes {
                list.come.notify_one();
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;
    use std::task::{Context, Poll, Wake, Waker};

    use tidegate_model::delivery::{Request, Seq, Token};
    use tidegate_model::fields::Fields;
    use tidegate_model::gate::Priority;

    use super::*;
    use crate::deliveries::Line;

    fn ready(queue: &str) -> Ready {
        Ready {
            seq: Seq(1),
            id: Id(1),
            line: Line { queue: queue.into(), tenant: "t".into() },
            lane: None,
            rank: 0,
            priority: Priority::Default,
            due: 0,
            expires: None,
            attempts: 0,
            attempts_max: None,
            bytes: 0,
        }
    }

    /// How often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn what_nobody_waits_for_wakes_nobody_until_it_is_much() {
        let followers = Followers::default();
        let mut follower = followers.follow(0);
        follower.take();
        let pulled = Arc::new(HashSet::from(["pulled".into()]));
        follower.unhurried(&pulled);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let [calm, urgent] = ["pulled", "pushed"].map(|queue| News::Ready(ready(queue)));
        let rounds: [(&[News], usize); 3] =
            [(std::slice::from_ref(&calm), WAITING_MAX), (&[calm.clone(), urgent], 1), (&[News::Due(7)], 1)];
        for (news, until) in rounds {
            let (before, mut next) = (woken.0.load(Relaxed), Box::pin(follower.next()));
            assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            for told in 1..=until {
                followers.tell(0, news);
                assert_eq!(woken.0.load(Relaxed) - before, usize::from(told == until));
            }
            drop(next);
            assert_eq!(follower.take().len(), until * news.len(), "nothing is lost");
        }
        // Who begins to wait looks first.
        followers.tell(0, std::slice::from_ref(&calm));
        follower.unhurried(&Arc::default());
        let mut next = Box::pin(follower.next());
        assert_eq!(next.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready([calm.clone()].into()));
        drop(next);
        let (before, mut next) = (woken.0.load(Relaxed), Box::pin(follower.next()));
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        followers.tell(0, &[calm]);
        assert_eq!(woken.0.load(Relaxed), before + 1);
    }

    #[test]
    fn what_was_begun_is_told_to_whoever_is_slow_too() {
        let request = Request {
            method: http::Method::POST,
            target: "/".into(),
            fields: Fields::default(),
            body: bytes::Bytes::new(),
        };
        let begun = News::Begun(ready("q"), Token(1), Arc::new(request));
        let followers = Followers::default();
        let mut follower = followers.follow(0);
        followers.tell(0, &[News::Due(1), begun.clone()]);
        assert_eq!(follower.take(), [News::Look, begun.clone()]);
        followers.tell(0, &[News::Due(1), begun.clone()]);
        followers.tell(0, &vec![News::Due(3); NEWS_MAX]);
        followers.tell(0, std::slice::from_ref(&begun));
        assert_eq!(follower.take(), [News::Look, begun.clone(), begun]);
    }

    #[test]
    fn who_is_slow_is_told_to_look_instead_of_all_that_has_happened() {
        let followers = Followers::default();
        let mut follower = followers.follow(0);
        assert_eq!(follower.take(), [News::Look]);
        followers.tell(0, &[News::Due(1), News::Due(2)]);
        assert_eq!(follower.take(), [News::Due(1), News::Due(2)]);
        for _ in 0..2 {
            followers.tell(0, &vec![News::Due(3); NEWS_MAX - 1]);
        }
        assert_eq!(follower.take(), [News::Look]);
        followers.tell(1, &[News::Due(5)]);
        assert!(follower.take().is_empty(), "they are another shard's");
        drop(follower);
        followers.tell(0, &[News::Due(4)]);
        assert!(followers.lists.lock().is_empty());
    }
}
