//! Redis, where nodes meet: purges reach all of them through it.
//!
//! ```text
//! connect --- read the log from this node's place --- up: read and write --- lost ---> wait, a little longer each time
//!    ^                                                                                        |
//!    '----------------------------------------------------------------------------------------'
//! ```
//!
//! It runs on the control runtime. Traffic never waits for it: a Redis that is away, slow, or answers nonsense costs what it
//! is for and nothing else, and `status` and metrics say so. What was ordered meanwhile is kept and sent when it is back.

mod connection;
mod feed;
mod look;
mod share;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_model::retry::backoff;
use tidegate_proxy::cache::Cache;
use tidegate_proxy::cache::far::{Errand, Far, FarSettings};
use tidegate_wire::{clock, task};
use tokio::sync::{Notify, mpsc};

use crate::config::RedisSettings;

pub use connection::{Error, is_url};
pub use look::{Look, look};

/// Between two tries to connect: the first wait, and the longest.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The connection of this process to Redis, or that there is none.
#[derive(Debug)]
pub struct Redis {
    cache: Arc<Cache>,
    settings: Mutex<Option<Arc<RedisSettings>>>,
    changed: Notify,
    link: Mutex<Link>,
    /// This process among all that write to the log.
    node: u64,
    failures: AtomicU64,
    /// The tier of the cache that all nodes share.
    far: Arc<Far>,
    /// What it wants; whoever keeps the connection holds it.
    errands: tokio::sync::Mutex<mpsc::Receiver<Errand>>,
}

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Link {
    /// Nothing is configured.
    #[default]
    Off,
    /// The first try has not ended yet.
    Joining,
    /// The log is read and written.
    Up,
    /// It is not there, or not as it should be.
    Away(String),
}

impl Redis {
    /// Nothing is configured yet.
    #[must_use]
    pub fn new(cache: Arc<Cache>) -> Redis {
        let (far, errands) = Far::new(Arc::clone(&cache.purges));
        Redis {
            cache,
            settings: Mutex::new(None),
            changed: Notify::new(),
            link: Mutex::default(),
            // Zero is nobody's.
            node: getrandom::u64().unwrap_or_else(|_| clock::now().0).max(1),
            failures: AtomicU64::new(0),
            far: Arc::new(far),
            errands: tokio::sync::Mutex::new(errands),
        }
    }

    /// Takes these settings from now on.
    pub fn set(&self, settings: Option<&RedisSettings>, far: Option<FarSettings>) {
        let mut held = self.settings.lock();
        let joined = self.far.settings().is_some();
        self.far.set(far);
        if held.as_deref() == settings && joined == far.is_some() {
            return;
        }
        *held = settings.cloned().map(Arc::new);
        *self.link.lock() = if held.is_some() { Link::Joining } else { Link::Off };
        self.cache.purges.share(held.as_deref().map_or(0, feed::log_of));
        self.changed.notify_one();
    }

    /// The tier of the cache that all nodes share, as its cores see it.
    #[must_use]
    pub fn far(&self) -> &Arc<Far> {
        &self.far
    }

    /// Whether it is there; `None`: nothing is configured.
    #[must_use]
    pub fn is_up(&self) -> Option<bool> {
        match &*self.link.lock() {
            Link::Off => None,
            link => Some(*link == Link::Up),
        }
    }

    /// Connections that were lost or did not come about.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// How it stands, for `/status`; null when nothing is configured.
    #[must_use]
    pub fn status(&self) -> Value {
        let Some(settings) = self.settings.lock().clone() else { return Value::Null };
        let link = self.link.lock().clone();
        let (state, error) = match &link {
            Link::Off => ("off", None),
            Link::Joining => ("joining", None),
            Link::Up => ("up", None),
            Link::Away(why) => ("away", Some(why)),
        };
        let purges = self.cache.purges.counts();
        let far = self.far.counts();
        let shared = self.far.settings().map(|_| {
            json!({
                "hits": far.hits,
                "misses": far.misses,
                "late": far.late,
                "unusable": far.unusable,
                "kept": far.kept,
                "dropped": far.dropped,
            })
        });
        json!({
            "shared": shared,
            "address": settings.url.shown(),
            "state": state,
            "error": error,
            "failures": self.failures(),
            "purges": {
                "place": purges.place.map(|place| place.to_string()),
                "waiting": purges.waiting,
                "sent": purges.sent,
                "read": purges.read,
                "overflowed": purges.overflowed,
                "lost": purges.lost,
            },
        })
    }

    fn enter(&self, link: Link) {
        let mut held = self.link.lock();
        if *held == link {
            return;
        }
        match &link {
            Link::Up => tracing::info!("redis: connected; purges reach all nodes"),
            Link::Away(error) => {
                tracing::warn!(error, "redis: away; purges stay on this node until it is back");
            }
            Link::Off | Link::Joining => {}
        }
        *held = link;
    }
}

/// Keeps the connection from now on, whatever settings come. Must be called on the control runtime.
pub fn drive(redis: Arc<Redis>) {
    task::spawn(async move {
        // Nobody else takes it: whoever has errands lives as long as the process.
        let mut errands = redis.errands.lock().await;
        loop {
            let settings = redis.settings.lock().clone();
            let Some(settings) = settings else {
                redis.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = redis.changed.notified() => {}
                never = keep(&redis, &settings, &mut errands) => match never {},
            }
            redis.far.set_up(false);
        }
    });
}

async fn keep(redis: &Redis, settings: &RedisSettings, errands: &mut mpsc::Receiver<Errand>) -> Infallible {
    let mut tries = 0;
    loop {
        let began = clock::now();
        let Err(error) = join(redis, settings, errands).await;
        redis.far.set_up(false);
        redis.failures.fetch_add(1, Relaxed);
        redis.enter(Link::Away(crate::run::chain(&error)));
        redis.cache.purges.again();
        // What breaks at once, again and again, is not tried more often for it.
        tries = if clock::now().since(began) > RETRY_MAX { 1 } else { (tries + 1).min(16) };
        let chance = getrandom::u64().unwrap_or_default();
        clock::sleep(backoff(RETRY, RETRY_MAX, tries, chance)).await;
    }
}

/// One connection's life: two in truth, as one of them always waits for the next order, and two more where answers are
/// shared.
async fn join(
    redis: &Redis,
    settings: &RedisSettings,
    errands: &mut mpsc::Receiver<Errand>,
) -> Result<Infallible, Error> {
    let mut reader = connection::connect(settings, feed::WAIT).await?;
    let writer = connection::connect(settings, Duration::ZERO).await?;
    let feed = feed::Feed { cache: &redis.cache, settings, node: redis.node };
    feed.catch_up(&mut reader).await?;
    let shared = match redis.far.settings() {
        None => None,
        Some(_) => {
            let asker = connection::connect(settings, Duration::ZERO).await?;
            Some((asker, connection::connect(settings, Duration::ZERO).await?))
        }
    };
    redis.far.set_up(shared.is_some());
    redis.enter(Link::Up);
    let share = async {
        match shared {
            None => std::future::pending().await,
            Some((asker, keeper)) => share::run(settings, errands, asker, keeper).await,
        }
    };
    let (never, _, _) = tokio::try_join!(feed.follow(reader), feed.send(writer), share)?;
    match never {}
}
