//! Deliveries: requests that were accepted durably, made later.
//!
//! ```text
//! offer --- checked, completed by its queue ---> promise ---> the store: accepted once it is on disk
//! ```
//!
//! What a queue says is in [`settings`]; what it makes of what somebody wants delivered in [`offer`].

pub mod offer;
pub mod settings;

pub use offer::{Offer, Unacceptable};
pub use settings::{PerKey, QueueSettings, Way};
