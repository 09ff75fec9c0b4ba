//! Windows of maintenance that operators order: kept in the store, so that they outlive the process and hold on every node that
//! shares it; without a store in memory, on this node alone.
//!
//! An order is written before it is in force, and the store's word counts: each node reads it every [`EVERY`]. Reading and
//! writing take turns, so that no reading undoes an order that came while it was under way.

mod command;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_model::delivery::Ms;
use tidegate_model::maintenance::{WINDOWS_MAX, Window};
use tidegate_proxy::maintenance::Maintenance;
use tidegate_store::documents::{Document, Expect, LISTED_MAX, Listing, Place, Room, Write, Written};
use tidegate_store::{Store, Unavailable};
use tidegate_wire::{clock, task};

use crate::wiring::Gate;

pub use command::{MaintenanceArgs, maintenance};

/// How often the store is read.
const EVERY: Duration = Duration::from_secs(2);
/// How long the first reading is waited for.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// What a window is in the store.
pub const KIND: &str = "maintenance";
/// Bytes of all windows there.
const BYTES_MAX: u64 = 1 << 20;

/// Lets orders and readings take turns.
#[derive(Debug, Default)]
pub struct Orders(tokio::sync::Mutex<()>);

/// Why an order was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotOrdered {
    /// There are as many as may be.
    #[error("there are {WINDOWS_MAX} windows of maintenance, as many as may be: end one first")]
    Full,
    /// The store cannot say.
    #[error(transparent)]
    Store(#[from] Unavailable),
}

/// A window as it is written.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    tenant: Option<Arc<str>>,
    route: Option<Arc<str>>,
    until: Option<u64>,
    detail: Option<Arc<str>>,
    by: Option<Arc<str>>,
}

/// Reads the store once: to be done before anybody is served, so that nobody slips in.
pub async fn look_first(gate: &Gate) {
    // Where the store is away, as it was known is how it stays; one that another process still has is not waited for for long.
    let _ = clock::timeout_at(clock::now().after(FIRST_LOOK), gate.orders.look(gate)).await;
}

/// Reads the store every now and then.
pub fn drive(gate: &Arc<Gate>) {
    let gate = Arc::downgrade(gate);
    task::spawn(async move {
        loop {
            clock::sleep(EVERY).await;
            let Some(gate) = gate.upgrade() else { return };
            let _ = gate.orders.look(&gate).await;
        }
    });
}

impl Orders {
    /// Takes what the store has for what holds. Without one, what has ended goes.
    ///
    /// # Errors
    /// The store cannot say.
    async fn look(&self, gate: &Gate) -> Result<(), Unavailable> {
        let _turn = self.0.lock().await;
        let held = &gate.standing.maintenance;
        let windows = match gate.standing.idempotency.store() {
            Some(store) => read(&store).await?,
            None => held.windows().iter().filter(|window| !window.has_ended(now())).cloned().collect(),
        };
        hold(held, windows);
        Ok(())
    }

    /// Orders a window, in the place of one of the same name. Tells whether it is kept in a store.
    ///
    /// # Errors
    /// [`NotOrdered`].
    pub async fn begin(&self, gate: &Gate, window: Window) -> Result<bool, NotOrdered> {
        let _turn = self.0.lock().await;
        let held = &gate.standing.maintenance;
        let store = gate.standing.idempotency.store();
        if let Some(store) = &store {
            let write = Write::Put {
                place: place(&window.name),
                expect: Expect::Any,
                at: ms(now()),
                until: window.until.map(ms),
                body: written(&window),
                room: Room { count: WINDOWS_MAX as u64, bytes: BYTES_MAX },
            };
            if let Written::Full(_) = store.write(vec![write]).await? {
                return Err(NotOrdered::Full);
            }
        }
        let others = held.windows();
        let others = others.iter().filter(|other| other.name != window.name && !other.has_ended(now()));
        let mut windows: Vec<Window> = others.cloned().collect();
        if windows.len() >= WINDOWS_MAX {
            return Err(NotOrdered::Full);
        }
        windows.push(window);
        hold(held, windows);
        Ok(store.is_some())
    }

    /// Ends a window, and tells which it was.
    ///
    /// # Errors
    /// The store cannot say.
    pub async fn end(&self, gate: &Gate, name: &str) -> Result<Option<Window>, Unavailable> {
        let _turn = self.0.lock().await;
        let held = &gate.standing.maintenance;
        let mut windows = match gate.standing.idempotency.store() {
            Some(store) => {
                let windows = read(&store).await?;
                store.write(vec![Write::Remove { place: place(name), expect: Expect::Any }]).await?;
                windows
            }
            None => held.windows().to_vec(),
        };
        let place = windows.iter().position(|window| *window.name == *name);
        let ended = place.map(|place| windows.remove(place));
        hold(held, windows);
        Ok(ended)
    }
}

/// Holds these from now on, in the order of their names. What is known already is left alone.
fn hold(held: &Maintenance, mut windows: Vec<Window>) {
    windows.sort_by(|one, other| one.name.cmp(&other.name));
    if *held.windows() != windows {
        held.set(windows);
    }
}

async fn read(store: &Store) -> Result<Vec<Window>, Unavailable> {
    let (mut windows, mut after) = (Vec::new(), None);
    loop {
        let listing = Listing { kind: KIND, tenant: "".into(), after, since: 0, most: LISTED_MAX };
        let found = store.documents(listing.clone()).await?;
        after = listing.next(&found);
        windows.extend(found.iter().filter_map(of_document).filter(|window| !window.has_ended(now())));
        if after.is_none() || windows.len() >= WINDOWS_MAX {
            windows.truncate(WINDOWS_MAX);
            return Ok(windows);
        }
    }
}

/// `None`: another version of Tidegate wrote what this one does not know.
fn of_document(document: &Document) -> Option<Window> {
    let Kept { tenant, route, until, detail, by } = serde_json::from_slice(&document.body).ok()?;
    Some(Window { name: Arc::clone(&document.name), tenant, route, until, detail, by })
}

fn written(window: &Window) -> Bytes {
    let Window { name: _, tenant, route, until, detail, by } = window.clone();
    serde_json::to_vec(&Kept { tenant, route, until, detail, by }).unwrap_or_default().into()
}

fn place(name: &str) -> Place {
    Place { kind: KIND, tenant: "".into(), name: name.into() }
}

/// Now, in seconds since the Unix epoch.
pub fn now() -> u64 {
    tidegate_model::cache::Wall::of(clock::wall()).0
}

fn ms(seconds: u64) -> Ms {
    seconds.saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_read_as_it_was_written() {
        let window = Window {
            name: "w".into(),
            tenant: Some("acme".into()),
            route: None,
            until: Some(7),
            detail: Some("soon".into()),
            by: Some("ops".into()),
        };
        let body = written(&window);
        let document = Document { name: "w".into(), version: 1, at: 0, body };
        assert_eq!(of_document(&document), Some(window));
        let other = Document { body: Bytes::from_static(b"[]"), ..document };
        assert_eq!(of_document(&other), None);
    }
}
