//! Webhooks out: events are published once, and told to each of a tenant's destinations that wants to hear of them.
//!
//! ```text
//! publish --- the event is kept ---> a delivery for each destination that it passes the filter of ---> the queue `webhooks`
//!                                                                                                          |
//!      outcome is kept <--- what the answer means <--- dialled <--- signed <--- written in its form <--- an attempt
//! ```
//!
//! Deliveries are the engine's like any other, fair between tenants; what is theirs alone is how an attempt is made
//! ([`Sender`]). A delivery says which event and which destination; both are read when the attempt is made, so that a
//! new URL, secret or filter holds for what waits already. Decisions are `tidegate_model::webhook`'s.
//!
//! What always holds: an event that was acknowledged is on disk, and so is a delivery for each destination that wants it; the
//! same id published twice is one event, another payload under it is refused; nobody's destination, event or
//! outcome is found by another tenant's name. Destinations, types, events, outcomes and what is kept of them in memory
//! have named maxima.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tidegate_model::delivery::Ms;
use tidegate_model::tick::Tick;
use tidegate_model::webhook::destination::WantedError;
use tidegate_model::webhook::reach::{Reach, Unreachable};
use tidegate_model::webhook::signing::SecretError;
use tidegate_store::documents::{Expect, LISTED_MAX, Listing, Place, Room, Write, Written};
use tidegate_store::{Store, Unavailable};
use tidegate_upstream::dial::DialSettings;
use tidegate_wire::clock;

mod batches;
mod consent;
mod destinations;
mod events;
mod records;
mod sender;
mod teller;
#[cfg(test)]
mod tests;
mod types;

pub use destinations::{Page, Rotation};
pub use events::{NewEvent, Published, Recovered, Recovery};
pub use records::{Destination, EventRecord, Outcome, OutcomeState, Reference, Stored, Told};
pub use sender::{Made, Sender};
pub use teller::Slot;
pub(crate) use teller::Teller;

/// The queue that all webhooks wait in.
pub const QUEUE: &str = "webhooks";
/// Tenants whose destinations are held in memory.
const TENANTS_MAX: usize = 4096;
/// How long what was read of a tenant's destinations is believed, where another node may have changed it.
const BELIEVED: Duration = Duration::from_secs(2);
/// What is kept of outcomes for each destination.
const OUTCOMES: Room = Room { count: 1_000_000, bytes: 1 << 30 };

/// How webhooks are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSettings {
    /// Who publishes, as CloudEvents has it: a URI reference.
    pub source: String,
    /// Who asks whether events may be sent, in CloudEvents' handshake: a host name.
    pub origin: String,
    /// Where receivers call back that consent later: what stands before the path. `None`: they are not told.
    pub callback: Option<Arc<str>>,
    /// Pauses between attempts, in seconds.
    pub schedule: Vec<u64>,
    /// How long events, and what became of them, are kept.
    pub retention: Duration,
    /// A destination that fails for so long is disabled.
    pub disable_after: Duration,
    /// How long a secret that was replaced goes on signing, where nothing else is said.
    pub overlap: Duration,
    /// Destinations of one tenant.
    pub destinations_max: u64,
    /// Bytes of one tenant's events.
    pub events_bytes_max: u64,
    /// Whether only types of the catalogue are published.
    pub strict: bool,
    /// Attempts of one destination at once.
    pub per_destination: usize,
    /// How destinations are called.
    pub dial: DialSettings,
}

/// Why something about webhooks is not done.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// There is no such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// It cannot be so.
    #[error("{0}")]
    Invalid(String),
    /// It has been changed meanwhile. What it is now.
    #[error("it has been changed meanwhile")]
    Changed(Option<u64>),
    /// There is no room for another.
    #[error("the tenant has as many {0} as it may")]
    Full(&'static str),
    /// The id was used for another event.
    #[error("the id was used for another event")]
    Mismatch,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] Unavailable),
    /// The system has no chance to give.
    #[error("the system gives no random numbers")]
    Chance,
}

impl From<WantedError> for WebhookError {
    fn from(error: WantedError) -> WebhookError {
        WebhookError::Invalid(error.to_string())
    }
}

impl From<Unreachable> for WebhookError {
    fn from(error: Unreachable) -> WebhookError {
        WebhookError::Invalid(format!("url: {error}"))
    }
}

impl From<SecretError> for WebhookError {
    fn from(error: SecretError) -> WebhookError {
        WebhookError::Invalid(format!("secret: {error}"))
    }
}

/// The webhooks of a process.
#[derive(Debug)]
pub struct Webhooks {
    settings: RwLock<Arc<WebhookSettings>>,
    store: Arc<Store>,
    /// Destinations by tenant, as they were read.
    read: Mutex<Reads>,
    /// The place that was last given to an event that waits for a batch.
    last_place: AtomicU64,
    /// Event types by name, as they were read.
    types: Mutex<HashMap<Box<str>, types::Look>>,
}

#[derive(Clone, Debug)]
struct Read {
    destinations: Arc<[Stored<Destination>]>,
    at: Tick,
}

/// What was read of destinations, and what is being changed.
#[derive(Debug, Default)]
struct Reads {
    by_tenant: HashMap<Arc<str>, Read>,
    /// Changes under way, by tenant: what is read meanwhile is not held.
    changing: HashMap<Arc<str>, usize>,
    /// Changes that were ever begun: what was read before one is not held after it.
    begun: u64,
}

/// A change of a tenant's destinations: from its beginning to its end nothing that is known of them is held.
struct Changing<'a> {
    reads: &'a Mutex<Reads>,
    tenant: Arc<str>,
}

impl<'a> Changing<'a> {
    fn begin(reads: &'a Mutex<Reads>, tenant: &Arc<str>) -> Changing<'a> {
        let mut held = reads.lock();
        held.by_tenant.remove(tenant);
        *held.changing.entry(Arc::clone(tenant)).or_default() += 1;
        held.begun += 1;
        Changing { reads, tenant: Arc::clone(tenant) }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut held = self.reads.lock();
        if let Some(count) = held.changing.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                held.changing.remove(&self.tenant);
            }
        }
    }
}

impl Webhooks {
    /// Webhooks that are kept in this store.
    #[must_use]
    pub fn new(store: Arc<Store>, settings: WebhookSettings) -> Webhooks {
        Webhooks {
            settings: RwLock::new(Arc::new(settings)),
            store,
            read: Mutex::default(),
            last_place: AtomicU64::new(0),
            types: Mutex::default(),
        }
    }

    /// Other settings from now on.
    pub fn set(&self, settings: WebhookSettings) {
        let mut held = self.settings.write();
        // The same are the same: connections and what is known of destinations stay.
        if **held != settings {
            *held = Arc::new(settings);
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<WebhookSettings> {
        Arc::clone(&self.settings.read())
    }

    /// What may be called.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.settings().dial.reach.clone()
    }

    /// All destinations of a tenant, as they were known a moment ago.
    async fn destinations_of(&self, tenant: &Arc<str>) -> Result<Arc<[Stored<Destination>]>, WebhookError> {
        let now = clock::now();
        let begun = {
            let held = self.read.lock();
            if let Some(read) = held.by_tenant.get(tenant).filter(|read| now.since(read.at) < BELIEVED) {
                return Ok(Arc::clone(&read.destinations));
            }
            held.begun
        };
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.list(records::DESTINATION, tenant, after, 0, LISTED_MAX).await?;
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let destinations: Arc<[_]> = all.into();
        let mut held = self.read.lock();
        if held.begun != begun || held.changing.contains_key(tenant) {
            return Ok(destinations);
        }
        let read = &mut held.by_tenant;
        if read.len() >= TENANTS_MAX && !read.contains_key(tenant) {
            read.retain(|_, read| now.since(read.at) < BELIEVED);
            if read.len() >= TENANTS_MAX {
                read.clear();
            }
        }
        read.insert(Arc::clone(tenant), Read { destinations: Arc::clone(&destinations), at: now });
        Ok(destinations)
    }

    /// A tenant's destinations are about to be changed: whoever hears that it is done sees it.
    fn changing(&self, tenant: &Arc<str>) -> Changing<'_> {
        Changing::begin(&self.read, tenant)
    }

    async fn list<T: records::Record>(
        &self,
        kind: &'static str,
        tenant: &Arc<str>,
        after: Option<(Ms, Arc<str>)>,
        since: Ms,
        most: usize,
    ) -> Result<Page<T>, WebhookError> {
        let listing = Listing { kind, tenant: Arc::clone(tenant), after, since, most };
        let found = self.store.documents(listing.clone()).await?;
        Ok(Page { items: found.iter().filter_map(Stored::of).collect(), next: listing.next(&found) })
    }

    async fn get<T: records::Record>(
        &self,
        kind: &'static str,
        tenant: &Arc<str>,
        name: &str,
    ) -> Result<Option<Stored<T>>, WebhookError> {
        let place = Place { kind, tenant: Arc::clone(tenant), name: name.into() };
        Ok(self.store.document(place).await?.as_ref().and_then(Stored::of))
    }

    /// Writes one document. Its new version.
    async fn put(
        &self,
        place: Place,
        expect: Expect,
        (at, until): (Ms, Option<Ms>),
        body: Bytes,
        room: Room,
    ) -> Result<u64, WebhookError> {
        let what = records::what(place.kind);
        let write = Write::Put { place, expect, at, until, body, room };
        match self.store.write(vec![write]).await? {
            Written::Done(versions) => Ok(versions.first().copied().unwrap_or_default()),
            Written::Unexpected(_, None) if expect != Expect::Absent => Err(WebhookError::NotFound(what)),
            Written::Unexpected(_, held) => Err(WebhookError::Changed(held)),
            Written::Full(_) => Err(WebhookError::Full(what)),
        }
    }

    async fn remove(&self, place: Place, expect: Expect) -> Result<(), WebhookError> {
        let what = records::what(place.kind);
        match self.store.write(vec![Write::Remove { place, expect }]).await? {
            Written::Done(_) => Ok(()),
            Written::Unexpected(_, None) => Err(WebhookError::NotFound(what)),
            Written::Unexpected(_, held) => Err(WebhookError::Changed(held)),
            Written::Full(_) => Err(WebhookError::Full(what)),
        }
    }
}

/// 128 bits of chance.
fn chance() -> Result<u128, WebhookError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| WebhookError::Chance)?;
    Ok(u128::from_le_bytes(bytes))
}

/// Now, in milliseconds since the Unix epoch.
fn now_ms() -> Ms {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
