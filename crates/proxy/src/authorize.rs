//! Authorize: whether this address may use this route, and what the route's authorizer says of the request.
//!
//! An authorizer is asked once the tenant's limits have let the request pass, under the tenant's own permit: whoever is over
//! its limits is no load for it. Nothing is replayed, served or forwarded before it has said yes.

mod address;
mod ask;
mod verdicts;

pub use address::authorize;
pub use ask::{Authorizer, ask};
pub use verdicts::{Flights, Outcome, Verdicts};
