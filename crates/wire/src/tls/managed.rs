//! Certificates that Tidegate manages itself: as many in memory as are asked for, up to a bound; the others where they are kept.
//!
//! A look costs one lock for a moment. A name for which there is none is remembered as such for a while, so that whoever asks
//! for names of nobody costs a look. Whether one in memory is still the newest one handshake finds out; the others are shown
//! it meanwhile, and so is that one where it is not told soon.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::recent::Recent;
use tidegate_model::tick::Tick;

use super::Served;
use crate::clock;

/// How long a certificate is served until it is looked whether another node has a newer one.
const FRESH: Duration = Duration::from_secs(300);
/// How long a handshake waits to be told of a newer one than it could be shown.
const NEWER_WAIT: Duration = Duration::from_secs(2);
/// How long nobody else looks for one.
const NEWER_AGAIN: Duration = Duration::from_secs(10);
/// How long a name is remembered that has none.
const MISSING_FOR: Duration = Duration::from_secs(10);
/// Names that are remembered so.
const MISSING_MAX: usize = 16_384;

/// A future of whoever keeps certificates.
pub type Coming<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where certificates are kept, and made.
pub trait CertificateSource: Debug + Send + Sync {
    /// The certificate for a name, lower case. It may take as long as making one does, and is asked by as many as have a
    /// connection: what that costs is bounded there.
    fn ask(&self, name: Arc<str>) -> Coming<Asked>;

    /// What shows a certificate authority that a name is ours (RFC 8737), if it looks for that now.
    fn challenge(&self, name: Arc<str>) -> Coming<Option<Served>>;
}

/// What is found for a name.
#[derive(Clone, Debug)]
pub enum Asked {
    /// This one.
    Found(Arc<Served>),
    /// There is none.
    Missing,
    /// There may be one, but not now: it is asked again.
    Away,
}

/// Certificates that are managed.
#[derive(Debug)]
pub struct Managed {
    source: Box<dyn CertificateSource>,
    held: Mutex<Recent<Held>>,
    missing: Mutex<Recent<Tick>>,
}

#[derive(Clone, Debug)]
struct Held {
    served: Arc<Served>,
    fresh_until: Tick,
}

impl Managed {
    /// So many in memory, at most, of those that are kept there.
    #[must_use]
    pub fn new(source: Box<dyn CertificateSource>, most: usize) -> Managed {
        Managed { source, held: Mutex::new(Recent::new(most)), missing: Mutex::new(Recent::new(MISSING_MAX)) }
    }

    /// How many are in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.lock().len()
    }

    /// Which are in memory.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.held.lock().iter().map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Whether this one is in memory.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.held.lock().get(name).is_some()
    }

    /// This one is served from now on.
    pub fn put(&self, name: Arc<str>, served: Arc<Served>) {
        self.missing.lock().remove(&name);
        self.held.lock().put(name, Held { served, fresh_until: clock::now().after(FRESH) });
    }

    /// What is known of a name is not, any more.
    pub fn forget(&self, name: &str) {
        self.missing.lock().remove(name);
        self.held.lock().remove(name);
    }

    /// The certificate for a name, lower case.
    pub(super) async fn find(&self, name: &str) -> Option<Arc<Served>> {
        let now = clock::now();
        let held = self.looked_at(name, now);
        match &held {
            Some(held) if now < held.fresh_until => return Some(Arc::clone(&held.served)),
            None if self.missing.lock().get(name).is_some_and(|until| now < until) => return None,
            _ => {}
        }
        let name: Arc<str> = name.into();
        let asked = self.source.ask(Arc::clone(&name));
        let asked = match &held {
            None => asked.await,
            Some(_) => clock::timeout_at(now.after(NEWER_WAIT), asked).await.unwrap_or(Asked::Away),
        };
        match asked {
            Asked::Found(served) => {
                self.put(name, Arc::clone(&served));
                Some(served)
            }
            Asked::Missing => {
                self.held.lock().remove(&name);
                self.missing.lock().put(name, clock::now().after(MISSING_FOR));
                None
            }
            Asked::Away => held.map(|held| held.served),
        }
    }

    /// What is in memory. Where it has to be looked for a newer one, this handshake does, and nobody else for a while: but
    /// nobody is content with one that has ended.
    fn looked_at(&self, name: &str, now: Tick) -> Option<Held> {
        let mut all = self.held.lock();
        let held = all.get(name)?;
        if held.fresh_until <= now && clock::latest_wall().0 < held.served.not_after {
            all.put(name.into(), Held { fresh_until: now.after(NEWER_AGAIN), ..held.clone() });
        }
        Some(held)
    }

    pub(super) async fn challenge(&self, name: &str) -> Option<Served> {
        self.source.challenge(name.into()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use rcgen::{CertificateParams, KeyPair};
    use tokio::sync::Notify;

    use super::*;

    /// It answers when it is let go, and is told how often it was asked.
    #[derive(Debug, Default)]
    struct Kept {
        asked: AtomicUsize,
        let_go: Notify,
    }

    #[derive(Debug)]
    struct Source(Arc<Kept>, Asked);

    impl CertificateSource for Source {
        fn ask(&self, _: Arc<str>) -> Coming<Asked> {
            let (kept, answer) = (Arc::clone(&self.0), self.1.clone());
            kept.asked.fetch_add(1, Relaxed);
            Box::pin(async move {
                kept.let_go.notified().await;
                answer
            })
        }

        fn challenge(&self, _: Arc<str>) -> Coming<Option<Served>> {
            Box::pin(async { None })
        }
    }

    fn served(not_after: i32) -> Arc<Served> {
        let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        Arc::new(Served::challenge(made.der().to_vec(), key.serialize_der()).unwrap())
    }

    /// Certificates of which one, until that year, was put in long ago, and one that is newer where they are kept.
    fn stale(until: i32) -> (Managed, Arc<Kept>, [Arc<Served>; 2]) {
        let (kept, both) = (Arc::<Kept>::default(), [served(until), served(2200)]);
        let source = Source(Arc::clone(&kept), Asked::Found(Arc::clone(&both[1])));
        let managed = Managed::new(Box::new(source), 16);
        let held = Held { served: Arc::clone(&both[0]), fresh_until: Tick(0) };
        managed.held.lock().put("a.test".into(), held);
        (managed, kept, both)
    }

    #[tokio::test]
    async fn one_handshake_looks_for_a_newer_one_and_the_others_are_shown_what_is_there() {
        let (managed, kept, [old, new]) = stale(2200);
        let others = async {
            for _ in 0..10 {
                let found = managed.find("a.test").await.unwrap();
                assert!(Arc::ptr_eq(&found, &old));
            }
            kept.let_go.notify_one();
        };
        let (found, ()) = tokio::join!(managed.find("a.test"), others);
        assert!(Arc::ptr_eq(&found.unwrap(), &new));
        assert!(Arc::ptr_eq(&managed.find("a.test").await.unwrap(), &new), "from now on");
        assert_eq!(kept.asked.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_told_soon_is_shown_what_is_there() {
        let (managed, kept, [old, _]) = stale(2200);
        for _ in 0..10 {
            assert!(Arc::ptr_eq(&managed.find("a.test").await.unwrap(), &old));
        }
        assert_eq!(kept.asked.load(Relaxed), 1, "and nobody asks again for a while");
    }

    #[tokio::test]
    async fn nobody_is_content_with_one_that_has_ended() {
        let (managed, kept, [_, new]) = stale(2020);
        let let_go = async {
            kept.let_go.notify_one();
            tokio::task::yield_now().await;
            kept.let_go.notify_one();
        };
        let (one, other, ()) = tokio::join!(managed.find("a.test"), managed.find("a.test"), let_go);
        assert!([one, other].into_iter().flatten().all(|found| Arc::ptr_eq(&found, &new)));
        assert_eq!(kept.asked.load(Relaxed), 2);
    }
}
