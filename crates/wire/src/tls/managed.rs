//! Certificates that Tidegate manages itself: as many in memory as are asked for, up to a bound; the others where they are kept.
//!
//! A look costs one lock for a moment. A name for which there is none is remembered as such for a while, so that whoever asks for names of nobody costs a look.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_model::recent::Recent;
use tidegate_model::tick::Tick;
use tokio::sync::Semaphore;

use super::Served;
use crate::clock;

/// How long a certificate is served until it is looked whether another node has a newer one.
const FRESH: Duration = Duration::from_secs(300);
/// How long a name is remembered that has none.
const MISSING_FOR: Duration = Duration::from_secs(10);
/// Names that are remembered so.
const MISSING_MAX: usize = 16_384;
/// Names that are asked for at once where they are kept; a further one waits.
const ASKED_MAX: usize = 256;

/// A future of whoever keeps certificates.
pub type Coming<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where certificates are kept, and made.
pub trait CertificateSource: Debug + Send + Sync {
    /// The certificate for a name, lower case. It may take as long as making one does.
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
    asking: Semaphore,
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
        Managed {
            source,
            held: Mutex::new(Recent::new(most)),
            missing: Mutex::new(Recent::new(MISSING_MAX)),
            asking: Semaphore::new(ASKED_MAX),
        }
    }

    /// How many are in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.lock().len()
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
        let held = self.held.lock().get(name);
        match &held {
            Some(held) if now < held.fresh_until => return Some(Arc::clone(&held.served)),
            None if self.missing.lock().get(name).is_some_and(|until| now < until) => return None,
            _ => {}
        }
        let _turn = self.asking.acquire().await.ok()?;
        let name: Arc<str> = name.into();
        match self.source.ask(Arc::clone(&name)).await {
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

    pub(super) async fn challenge(&self, name: &str) -> Option<Served> {
        let _turn = self.asking.acquire().await.ok()?;
        self.source.challenge(name.into()).await
    }
}
