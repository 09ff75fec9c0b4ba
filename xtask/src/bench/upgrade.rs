//! `cargo xtask bench upgrade`: ten upgrades in a row under a thousand requests a second, of which none may fail.
//!
//! The clients are those of the end-to-end tests (`crates/server/tests/e2e/upgrade/measure.rs`).

use super::tested::Measure;

pub const UPGRADE: Measure = Measure {
    usage: "cargo xtask bench upgrade [--built PATH] [--write]",
    module: "upgrade",
    title: "Upgrades under load",
    method: "clients, application and both processes on the same cores. Each request is due at a time of its own (1,000 a second in all), and its \
             latency counts from there; around an upgrade: within two seconds of its command.",
};
