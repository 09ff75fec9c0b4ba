//! Tidegate's binary as a library, so that tests and tools reach its parts: command line, configuration,
//! telemetry, control API and the wiring of a running server.

pub mod acme;
pub mod audit;
pub mod canary;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod deliveries;
pub mod demo;
pub mod doctor;
#[cfg(test)]
mod documentation;
pub mod drill;
pub mod jwks;
mod maintenance;
pub mod manual;
pub mod memory;
pub mod mirror;
mod monitoring;
pub mod oidc;
pub mod otlp;
pub mod protect;
pub mod pull;
pub mod purge;
pub mod redis;
pub mod run;
pub mod schedules;
pub mod status;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod top;
pub mod upgrade;
pub mod webhook;
pub mod wiring;
