//! Webhooks: what the application tells its tenants' servers, and what others' servers tell the application.
//!
//! ```text
//! event -- filter --> destination -- cloudevents (the form), signing --> an attempt -- destination (what its answer means)
//!                          '-- reach: may this URL, this address be called at all?
//! a request from outside -- incoming (who sent it, which one it is) --> a delivery to an upstream
//! ```
//!
//! Each module is one decision and knows no other's state. Time is seconds since the Unix epoch, as signatures have it.
//!
//! What is not here: the wire, the store, and the engine that makes the attempts.

pub mod cloudevents;
pub mod consent;
pub mod destination;
pub mod event;
pub mod filter;
pub mod incoming;
pub mod reach;
pub mod signing;
