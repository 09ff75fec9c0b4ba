//! What follows whoever decides who is next: a bounded list, which says "look" where more has happened than it holds.

use std::collections::VecDeque;
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
            self.of_shards.push(OfShard { shard, news: Vec::new(), due: None });
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

/// News that one follower has not yet taken.
const NEWS_MAX: usize = 16_384;

#[derive(Debug, Default)]
struct List {
    shard: u16,
    news: Mutex<VecDeque<News>>,
    come: Notify,
}

/// Takes news in their order. Nothing is lost where it is slow: what it is told to look at is on disk.
#[derive(Debug)]
pub struct Follower(Arc<List>);

impl Follower {
    /// The next ones, all that there are; waits for one. What is dropped meanwhile is not lost.
    pub async fn next(&mut self) -> VecDeque<News> {
        loop {
            let all = self.take();
            if !all.is_empty() {
                return all;
            }
            self.0.come.notified().await;
        }
    }

    /// Those that there are, perhaps none.
    pub fn take(&mut self) -> VecDeque<News> {
        std::mem::take(&mut *self.0.news.lock())
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
        list.news.lock().push_back(News::Look);
        let mut all = self.lists.lock();
        all.retain(|list| Arc::strong_count(list) > 1);
        all.push(Arc::clone(&list));
        Follower(list)
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
            let mut waiting = list.news.lock();
            // What was begun is found by no look: it is told, and is no more than slots were offered.
            let was_begun = |news: &News| matches!(news, News::Begun(..));
            if waiting.len() + news.len() > NEWS_MAX {
                waiting.retain(was_begun);
                waiting.push_front(News::Look);
            }
            let looks = waiting.front() == Some(&News::Look);
            waiting.extend(news.iter().filter(|news| !looks || was_begun(news)).cloned());
            drop(waiting);
            list.come.notify_one();
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use tidegate_model::delivery::{Request, Seq, Token};
    use tidegate_model::fields::Fields;
    use tidegate_model::gate::Priority;

    use super::*;
    use crate::deliveries::Line;

    #[test]
    fn what_was_begun_is_told_to_whoever_is_slow_too() {
        let ready = Ready {
            seq: Seq(1),
            id: Id(1),
            line: Line { queue: "q".into(), tenant: "t".into() },
            lane: None,
            rank: 0,
            priority: Priority::Default,
            due: 0,
            expires: None,
            attempts: 0,
            attempts_max: None,
            bytes: 0,
        };
        let request = Request {
            method: http::Method::POST,
            target: "/".into(),
            fields: Fields::default(),
            body: bytes::Bytes::new(),
        };
        let begun = News::Begun(ready, Token(1), Arc::new(request));
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
