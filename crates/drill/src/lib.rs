//! Drills.

pub mod app;
pub mod capacity;
pub mod report;
