//! What is kept of certificates in the store: one document a name, listed by when it is looked at next; the account; leases;
//! and what shows an authority that a name is ours.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_model::certificate::Life;
use tidegate_store::documents::{Document, Expect, Listing, Place, Room, Write, Written};
use tidegate_store::{Location, Store, Unavailable};

use super::seal::Sealed;

/// A certificate, by its name.
pub const CERTIFICATE: &str = "certificate";
/// The account, by the directory's URL.
pub const ACCOUNT: &str = "acme-account";
/// Who is at work on a name.
pub const LEASE: &str = "acme-lease";

/// All documents of one kind together.
const ROOM: Room = Room { count: 10_000_000, bytes: 64 << 30 };
/// How long somebody may be at work on a name until another one takes it over, in milliseconds.
pub const LEASE_MS: u64 = 5 * 60 * 1000;
/// How long what shows an authority that a name is ours is kept.
const CHALLENGE_MS: u64 = 3600 * 1000;
/// Bytes of an error that are kept.
const ERROR_BYTES_MAX: usize = 500;

/// What is known of a name's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateRecord {
    /// The chain, the leaf first, PEM; empty: there is none yet.
    pub chain: String,
    /// Its key, PEM.
    pub key: Option<Sealed>,
    /// From when on it is believed, in seconds since the Unix epoch.
    pub not_before: u64,
    /// Until when.
    pub not_after: u64,
    /// When it was issued.
    pub issued: u64,
    /// When it is renewed.
    pub renew: u64,
    /// From when to when the authority wants it to be renewed.
    pub window: Option<(u64, u64)>,
    /// Failures in a row.
    pub failures: u32,
    /// When it last failed, and why.
    pub error: Option<(u64, String)>,
}

impl CertificateRecord {
    /// Whether there is a certificate.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.chain.is_empty() && self.key.is_some()
    }

    pub(super) fn life(&self) -> Life {
        Life { not_before: self.not_before, not_after: self.not_after }
    }

    pub(super) fn fail(&mut self, now: u64, why: &str) {
        self.failures = self.failures.saturating_add(1);
        let end = why.floor_char_boundary(ERROR_BYTES_MAX);
        self.error = Some((now, why[..end].to_owned()));
    }
}

/// How it stands with a name.
#[derive(Clone, Debug)]
pub struct Told {
    /// The name.
    pub name: Arc<str>,
    /// What is known of its certificate.
    pub record: CertificateRecord,
    /// When it is looked at next, in milliseconds since the Unix epoch.
    pub next: u64,
}

pub fn place(kind: &'static str, name: &str) -> Place {
    Place { kind, tenant: "".into(), name: name.into() }
}

/// What a document says. What nobody can read is taken for nothing: it is written anew.
pub fn read<T: DeserializeOwned + Default>(found: Option<&Document>) -> T {
    found.and_then(|found| serde_json::from_slice(&found.body).ok()).unwrap_or_default()
}

/// Writes a document over this version of it. Whether nobody was faster.
pub async fn write<T: Serialize>(
    store: &Store,
    place: Place,
    expect: Expect,
    at: u64,
    until: Option<u64>,
    record: &T,
) -> Result<bool, Unavailable> {
    let body = Bytes::from(serde_json::to_vec(record).expect("a record is JSON"));
    let write = Write::Put { place, expect, at, until, body, room: ROOM };
    match store.write(vec![write]).await? {
        Written::Done(_) => Ok(true),
        Written::Unexpected(..) => Ok(false),
        Written::Full(_) => Err(Unavailable::Full),
    }
}

/// Makes room for one more name, if there are not as many. Whether there is.
pub async fn reserve(store: &Store, name: &str, most: u64, at: u64) -> Result<bool, Unavailable> {
    let body = Bytes::from(serde_json::to_vec(&CertificateRecord::default()).expect("a record is JSON"));
    let (place, room) = (place(CERTIFICATE, name), Room { count: most, ..ROOM });
    let write = Write::Put { place, expect: Expect::Absent, at, until: None, body, room };
    Ok(!matches!(store.write(vec![write]).await?, Written::Full(_)))
}

/// There is no certificate for a name any more.
pub async fn remove(store: &Store, name: &str) -> Result<(), Unavailable> {
    let gone = Write::Remove { place: place(CERTIFICATE, name), expect: Expect::Any };
    store.write(vec![gone]).await.map(drop)
}

/// What has to be there for a document that was read to be written over.
pub fn expect(found: Option<&Document>) -> Expect {
    found.map_or(Expect::Absent, |found| Expect::Version(found.version))
}

/// Those that are looked at soonest.
pub async fn due(store: &Store, most: usize) -> Result<Vec<Document>, Unavailable> {
    let listing = Listing { kind: CERTIFICATE, tenant: "".into(), after: None, since: 0, most };
    store.documents(listing).await
}

/// Shows authorities what they want to see under this name.
pub async fn show(
    store: &Store,
    kind: &'static str,
    name: &str,
    shown: &[u8],
    now: u64,
) -> Result<(), Unavailable> {
    let write = Write::Put {
        place: place(kind, name),
        expect: Expect::Any,
        at: now,
        until: Some(now + CHALLENGE_MS),
        body: Bytes::copy_from_slice(shown),
        room: ROOM,
    };
    store.write(vec![write]).await.map(drop)
}

/// Somebody at work.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Holder {
    node: String,
    until: u64,
}

/// Takes a name's lease. `false`: another node has it. A store that is one process's alone has no other node: a lease there is
/// of a process that has ended.
pub async fn take(store: &Store, name: &str, node: &str, now: u64) -> Result<bool, Unavailable> {
    let found = store.document(place(LEASE, name)).await?;
    let held: Holder = read(found.as_ref());
    let is_shared = !matches!(store.settings().location, Location::Directory(_));
    if is_shared && held.until > now && held.node != node {
        return Ok(false);
    }
    let until = now + LEASE_MS;
    let holder = Holder { node: node.to_owned(), until };
    write(store, place(LEASE, name), expect(found.as_ref()), now, Some(until), &holder).await
}

/// Gives it back, if it is still this node's. Where that fails it ends by itself.
pub async fn give_back(store: &Store, name: &str, node: &str) {
    let Ok(Some(found)) = store.document(place(LEASE, name)).await else { return };
    if read::<Holder>(Some(&found)).node == node {
        let gone = Write::Remove { place: place(LEASE, name), expect: Expect::Version(found.version) };
        let _ = store.write(vec![gone]).await;
    }
}

#[cfg(test)]
mod tests {
    use tidegate_store::StoreSettings;

    use super::*;

    async fn holder(store: &Store) -> Option<String> {
        let found = store.document(place(LEASE, "a.test")).await.unwrap()?;
        Some(read::<Holder>(Some(&found)).node)
    }

    #[test]
    fn who_alone_has_the_store_waits_for_no_lease_and_gives_back_none_but_its_own() {
        let folder = std::env::temp_dir().join(format!("tidegate-leases-{}", std::process::id()));
        let location = Location::Directory(folder.clone());
        let settings = StoreSettings { location, bytes_max: 64 << 20, tenant_bytes_max: 64 << 20 };
        let store = Store::open(settings).unwrap();
        tidegate_testkit::block_on(async {
            assert!(take(&store, "a.test", "one that ended", 1000).await.unwrap());
            assert!(take(&store, "a.test", "its successor", 1001).await.unwrap(), "at once");
            give_back(&store, "a.test", "one that ended").await;
            assert_eq!(holder(&store).await.as_deref(), Some("its successor"));
            give_back(&store, "a.test", "its successor").await;
            assert_eq!(holder(&store).await, None);
        });
        store.close();
        std::fs::remove_dir_all(folder).unwrap();
    }
}
