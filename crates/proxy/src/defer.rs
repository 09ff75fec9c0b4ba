//! Defer: a request that is accepted durably now and made later, and what its client can learn of it.
//!
//! ```text
//! read the body --- promise ---> the store: on disk ---> 202, Location: /_tidegate/deliveries/ID
//!                                      '--- wait=N: the answer itself, if it comes in time
//! ```
//!
//! [`accept`](accept::accept) takes a request's place at the stage that would decide what answers it; [`told`] answers what lies under
//! `/_tidegate/deliveries/`; `events` tells of a delivery as it goes on. Deliveries are made by `tidegate_dispatch`, which
//! this crate does not know: both know the store.
//!
//! What always holds: nobody is told 202 before the delivery is on disk. A delivery is found by its own tenant alone; to any
//! other it is one that there never was. A request that is deferred has passed identify, authorize and limit as any other.
//!
//! What it does not do: it defers no streams. An Upgrade or a gRPC call is made now, or refused where nothing is.

pub mod accept;
mod events;
pub mod told;

use tidegate_model::delivery::Ms;
use tidegate_wire::clock;

pub use self::events::Events;

/// Where deliveries are told of, on every listener for clients.
pub const DELIVERIES_PATH: &str = "/_tidegate/deliveries/";

/// Now, on the wall clock.
pub(crate) fn now() -> Ms {
    let since = clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ms::try_from(since.as_millis()).unwrap_or(Ms::MAX)
}
