//! Pure decisions of Tidegate: no I/O, no async, no clock, no randomness. Time and chance are arguments.
//!
//! Everything here can be tested in microseconds and replayed from a seed. What performs the effects of
//! these decisions lives in the crates above (`wire`, `upstream`, `proxy`, `server`).

pub mod access;
pub mod address;
pub mod balance;
pub mod breaker;
pub mod cache;
pub mod canary;
pub mod certificate;
pub mod cluster;
pub mod coding;
pub mod compress;
pub mod credential;
pub mod deadline;
pub mod delivery;
pub mod fault;
pub mod fields;
pub mod files;
pub mod forwarded;
pub mod gate;
pub mod headers;
pub mod health;
pub mod histogram;
pub mod hmac;
pub mod host;
pub mod idempotency;
pub mod limit;
pub mod maintenance;
pub mod message;
pub mod method;
pub mod mirror;
pub mod numbers;
pub mod own;
pub mod path;
pub mod plan;
pub mod prefer;
pub mod problem;
pub mod proportion;
pub mod protect;
pub mod receipt;
pub mod recent;
pub mod refusal;
pub mod retry;
pub mod route;
pub mod schedule;
pub mod shard;
pub mod tenant;
pub mod tick;
pub mod trace;
pub mod webhook;
