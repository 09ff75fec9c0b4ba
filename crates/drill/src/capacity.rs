//! How much a service can take, and what gives out first.
pub mod ramp;
pub mod seen;
pub mod suspect;
pub mod usl;
