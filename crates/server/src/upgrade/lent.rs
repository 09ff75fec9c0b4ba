//! What the new process knows of a store that the old one has still: the windows of maintenance, the states of canaries, the
//! certificates that are in use and whose the hosts are that were asked for of late. How long the store takes to change hands depends on what is
//! under way; no handshake waits for that, and nothing is served meanwhile that is in maintenance.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tidegate_proxy::domains;
use tidegate_store::documents::{Document, LISTED_MAX, Listing};
use tidegate_store::early::{Early, Told};
use tidegate_store::{Location, Store, Unavailable};
use tidegate_wire::clock;

use crate::wiring::Gate;
use crate::{acme, canary, maintenance};

/// Documents that are lent, at most.
const LENT_MAX: usize = 20_000;
/// Bytes of them.
const LENT_BYTES_MAX: usize = 128 << 20;
/// How long they are read: what has not come by then the new process waits for.
const READ_MAX: Duration = Duration::from_secs(2);
/// How many are asked for at once.
const READ_AT_ONCE: usize = 256;

/// What is lent of a store.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Lent {
    documents: Vec<One>,
    /// Kinds of which these are all.
    whole: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct One {
    kind: String,
    tenant: Arc<str>,
    name: Arc<str>,
    version: u64,
    at: u64,
    /// In Base64.
    body: String,
}

/// What there is to be lent. `None`: the new process has a store of its own, or none. Must be called on a thread that may block.
pub fn gather(gate: &Gate) -> Option<Lent> {
    let store = gate.standing.idempotency.store()?;
    if !matches!(store.settings().location, Location::Directory(_)) {
        return None;
    }
    let mut lent = Lent::default();
    let by = clock::now().after(READ_MAX);
    let read = async {
        // Late, what was read so far is lent.
        let _ = clock::timeout_at(by, lent.read(gate, &store)).await;
    };
    tokio::runtime::Handle::current().block_on(read);
    Some(lent)
}

impl Lent {
    async fn read(&mut self, gate: &Gate, store: &Store) -> Result<(), Unavailable> {
        for kind in [maintenance::KIND, canary::KIND] {
            self.read_all(store, kind).await?;
        }
        for (host, owner) in gate.standing.domains.remembered(LENT_MAX / 2) {
            let place = domains::owner_place(&host);
            let body = owner.as_bytes().to_vec().into();
            self.add(place.kind, Document { name: place.name, version: 0, at: 0, body });
        }
        let names = gate.acme.in_use(LENT_MAX / 2);
        let places = names.iter().map(|name| acme::certificate_place(name));
        let mut found =
            stream::iter(places.map(|place| store.document(place))).buffer_unordered(READ_AT_ONCE);
        let mut bytes = 0;
        while let Some(found) = found.next().await {
            let Some(found) = found? else { continue };
            bytes += found.body.len();
            if bytes > LENT_BYTES_MAX {
                break;
            }
            self.add(acme::CERTIFICATE, found);
        }
        Ok(())
    }

    /// All of a kind that has few and no tenants.
    async fn read_all(&mut self, store: &Store, kind: &'static str) -> Result<(), Unavailable> {
        let mut after = None;
        loop {
            let listing = Listing { kind, tenant: "".into(), after, since: 0, most: LISTED_MAX };
            let found = store.documents(listing.clone()).await?;
            after = listing.next(&found);
            found.into_iter().for_each(|one| self.add(kind, one));
            if after.is_none() {
                self.whole.push(kind.to_owned());
                return Ok(());
            }
            if self.documents.len() >= LENT_MAX {
                return Ok(());
            }
        }
    }

    fn add(&mut self, kind: &'static str, document: Document) {
        let Document { name, version, at, body } = document;
        let body = STANDARD.encode(body);
        self.documents.push(One { kind: kind.to_owned(), tenant: "".into(), name, version, at, body });
    }

    /// Makes it what is known here until the store is open.
    pub fn apply(self, gate: &Gate) {
        let Some(store) = gate.standing.idempotency.store() else { return };
        let told = |One { kind, tenant, name, version, at, body }| {
            let body = STANDARD.decode(body).ok()?.into();
            Some(Told { kind, tenant, name, version, at, body })
        };
        store.lend(Early::new(self.documents.into_iter().filter_map(told).collect(), self.whole));
    }
}
