//! What follows whoever decides who is next: a bounded list, which says "look" where more has happened than it holds.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::News;

/// News that one follower has not yet taken.
const NEWS_MAX: usize = 16_384;

#[derive(Debug, Default)]
struct List {
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

/// Those who follow.
#[derive(Debug, Default)]
pub(crate) struct Followers(Mutex<Vec<Arc<List>>>);

impl Followers {
    /// One more. It looks first.
    pub(crate) fn follow(&self) -> Follower {
        let list = Arc::<List>::default();
        list.news.lock().push_back(News::Look);
        let mut all = self.0.lock();
        all.retain(|list| Arc::strong_count(list) > 1);
        all.push(Arc::clone(&list));
        Follower(list)
    }

    /// Tells all of them.
    pub(crate) fn tell(&self, news: &[News]) {
        if news.is_empty() {
            return;
        }
        self.0.lock().retain(|list| {
            if Arc::strong_count(list) == 1 {
                return false;
            }
            let mut waiting = list.news.lock();
            if waiting.len() + news.len() > NEWS_MAX {
                waiting.clear();
                waiting.push_back(News::Look);
            } else if *waiting != [News::Look] {
                waiting.extend(news.iter().cloned());
            }
            drop(waiting);
            list.come.notify_one();
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_slow_is_told_to_look_instead_of_all_that_has_happened() {
        let followers = Followers::default();
        let mut follower = followers.follow();
        assert_eq!(follower.take(), [News::Look]);
        followers.tell(&[News::Due(1), News::Due(2)]);
        assert_eq!(follower.take(), [News::Due(1), News::Due(2)]);
        for _ in 0..2 {
            followers.tell(&vec![News::Due(3); NEWS_MAX - 1]);
        }
        assert_eq!(follower.take(), [News::Look]);
        drop(follower);
        followers.tell(&[News::Due(4)]);
        assert!(followers.0.lock().is_empty());
    }
}
