//! Drills: faulty application servers, load that does not wait, and reports that say what held.
//!
//! What is examined is the binary, over sockets: nothing here imports what it judges but the client connections of `wire`.

pub mod app;
pub mod capacity;
pub mod chance;
pub mod deliveries;
pub mod drill;
pub mod gate;
pub mod load;
pub mod metrics;
pub mod postgres;
pub mod report;
pub mod run;
pub mod scenario;
mod stall;
pub mod told;
