//! Domains: the hosts that tenants have of their own, registered in the file or in the store.
//!
//! Whose a host is, is remembered for a while, and so is that it is nobody's: as many hosts as there is room for. What this process
//! changes it knows at once, other nodes within `FRESH`. Where the store is away, what was known goes on to count.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_model::cache::Wall;
use tidegate_model::recent::Recent;
use tidegate_model::tick::Tick;
use tidegate_store::documents::{Document, Expect, Listing, Place, Room, Write, Written};
use tidegate_store::{Store, Unavailable};
use tidegate_wire::clock;
use tokio::sync::Semaphore;

use crate::idempotency::Idempotency;

/// How long it is remembered whose a host is.
const FRESH: Duration = Duration::from_secs(10);
/// Hosts of which it is.
const KNOWN_MAX: usize = 65_536;
/// Hosts that are looked for in the store at once; a further one waits.
const LOOKS_MAX: usize = 64;
/// Domains of one tenant, in the store.
pub const DOMAINS_MAX: u64 = 1000;
/// Bytes that a tenant's may take.
const DOMAINS_BYTES_MAX: u64 = 1 << 20;
/// All of them: whose each is.
const OWNERS: Room = Room { count: 10_000_000, bytes: 16 << 30 };
/// A tenant's domains.
const OF_TENANT: &str = "domain";
/// Whose a domain is.
const OWNER: &str = "domain-owner";

/// Hosts of the file, and whose they are.
pub type Listed = HashMap<Arc<str>, Arc<str>>;

/// The hosts that tenants have of their own.
pub struct Domains {
    idempotency: Arc<Idempotency>,
    listed: ArcSwap<Listed>,
    known: Mutex<Recent<Known>>,
    looks: Semaphore,
}

#[derive(Clone)]
struct Known {
    owner: Option<Arc<str>>,
    until: Tick,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is so: the version that the domain has now.
    Done(u64),
    /// Nothing was changed: it is another tenant's, or the file's.
    Taken,
    /// Nothing was changed: there is none, or another version.
    Unexpected(Option<u64>),
    /// The tenant has as many as it may.
    Full,
}

impl Domains {
    /// Those in the store that is kept there.
    #[must_use]
    pub fn new(idempotency: Arc<Idempotency>) -> Domains {
        Domains {
            idempotency,
            listed: ArcSwap::default(),
            known: Mutex::new(Recent::new(KNOWN_MAX)),
            looks: Semaphore::new(LOOKS_MAX),
        }
    }

    /// These are the file's from now on.
    pub(crate) fn list(&self, listed: Listed) {
        self.listed.store(Arc::new(listed));
    }

    /// Whose this host is in the file.
    #[must_use]
    pub fn listed(&self, host: &str) -> Option<Arc<str>> {
        self.listed.load().get(host).cloned()
    }

    /// Whose a host is, if that is known without looking; `Some(None)`: nobody's.
    #[must_use]
    pub fn known(&self, host: &str, now: Tick) -> Option<Option<Arc<str>>> {
        if let Some(owner) = self.listed(host) {
            return Some(Some(owner));
        }
        if self.idempotency.store().is_none() {
            return Some(None);
        }
        let known = self.known.lock().get(host)?;
        (now < known.until).then_some(known.owner)
    }

    /// Whose a host is.
    ///
    /// # Errors
    /// It is not known, and cannot be looked for.
    pub async fn owner(&self, host: &str) -> Result<Option<Arc<str>>, Unavailable> {
        if let Some(owner) = self.known(host, clock::now()) {
            return Ok(owner);
        }
        let Some(store) = self.idempotency.store() else { return Ok(None) };
        let _turn = self.looks.acquire().await.map_err(|_| Unavailable::Stopped)?;
        match store.document(owner_place(host)).await {
            Ok(found) => {
                let owner = found.and_then(|one| Some(Arc::from(std::str::from_utf8(&one.body).ok()?)));
                self.remember(host, owner.clone());
                Ok(owner)
            }
            Err(error) => self.known.lock().get(host).map(|known| known.owner).ok_or(error),
        }
    }

    /// Hosts whose owner is known from the store, and that owner: so many at most.
    #[must_use]
    pub fn remembered(&self, most: usize) -> Vec<(Arc<str>, Arc<str>)> {
        let known = self.known.lock();
        let owned = known.iter().filter_map(|(host, known)| Some((Arc::clone(host), known.owner.clone()?)));
        owned.take(most).collect()
    }

    fn remember(&self, host: &str, owner: Option<Arc<str>>) {
        let known = Known { owner, until: clock::now().after(FRESH) };
        self.known.lock().put(host.into(), known);
    }

    /// Registers a host as this tenant's. One that it has already stays as it is.
    ///
    /// # Errors
    /// The store.
    pub async fn register(&self, tenant: &Arc<str>, host: &str) -> Result<Changed, Unavailable> {
        if self.listed(host).is_some() {
            return Ok(Changed::Taken);
        }
        let store = self.store()?;
        if let Some(there) = store.document(place(tenant, host)).await? {
            return Ok(Changed::Done(there.version));
        }
        let at = Wall::of(clock::wall()).0 * 1000;
        let put = |place, body: Bytes, room| Write::Put {
            place,
            expect: Expect::Absent,
            at,
            until: None,
            body,
            room,
        };
        let room = Room { count: DOMAINS_MAX, bytes: DOMAINS_BYTES_MAX };
        let owner = Bytes::copy_from_slice(tenant.as_bytes());
        let writes =
            vec![put(owner_place(host), owner, OWNERS), put(place(tenant, host), Bytes::new(), room)];
        Ok(match store.write(writes).await? {
            Written::Done(versions) => {
                self.remember(host, Some(Arc::clone(tenant)));
                Changed::Done(versions.last().copied().unwrap_or_default())
            }
            Written::Unexpected(..) => Changed::Taken,
            Written::Full(_) => Changed::Full,
        })
    }

    /// Makes a host nobody's that is this tenant's.
    ///
    /// # Errors
    /// The store.
    pub async fn remove(
        &self,
        tenant: &Arc<str>,
        host: &str,
        version: Option<u64>,
    ) -> Result<Changed, Unavailable> {
        let store = self.store()?;
        let Some(there) = store.document(place(tenant, host)).await? else {
            return Ok(Changed::Unexpected(None));
        };
        let expect = Expect::Version(version.unwrap_or(there.version));
        let writes = vec![
            Write::Remove { place: place(tenant, host), expect },
            Write::Remove { place: owner_place(host), expect: Expect::Any },
        ];
        Ok(match store.write(writes).await? {
            Written::Done(_) => {
                self.remember(host, None);
                Changed::Done(there.version)
            }
            Written::Unexpected(_, there) => Changed::Unexpected(there),
            Written::Full(_) => Changed::Full,
        })
    }

    /// A tenant's host in the store.
    ///
    /// # Errors
    /// The store.
    pub async fn find(&self, tenant: &Arc<str>, host: &str) -> Result<Option<Document>, Unavailable> {
        self.store()?.document(place(tenant, host)).await
    }

    /// A page of the hosts that a tenant has in the store.
    ///
    /// # Errors
    /// The store.
    pub async fn page(
        &self,
        tenant: &Arc<str>,
        after: Option<(u64, Arc<str>)>,
        most: usize,
    ) -> Result<(Vec<Document>, Option<(u64, Arc<str>)>), Unavailable> {
        let listing = Listing { kind: OF_TENANT, tenant: Arc::clone(tenant), after, since: 0, most };
        let found = self.store()?.documents(listing.clone()).await?;
        let next = listing.next(&found);
        Ok((found, next))
    }

    /// A tenant's hosts in the file.
    #[must_use]
    pub fn listed_of(&self, tenant: &str) -> Vec<Arc<str>> {
        let listed = self.listed.load();
        let mut hosts: Vec<_> = listed
            .iter()
            .filter(|(_, owner)| ***owner == *tenant)
            .map(|(host, _)| Arc::clone(host))
            .collect();
        hosts.sort();
        hosts
    }

    fn store(&self) -> Result<Arc<Store>, Unavailable> {
        self.idempotency.store().ok_or(Unavailable::Stopped)
    }
}

fn place(tenant: &Arc<str>, host: &str) -> Place {
    Place { kind: OF_TENANT, tenant: Arc::clone(tenant), name: host.into() }
}

/// Where the store says whose a host is.
#[must_use]
pub fn owner_place(host: &str) -> Place {
    Place { kind: OWNER, tenant: "".into(), name: host.into() }
}
