//! What every upstream call goes through: resolving, health, balancing, pools, gate, breaker, tries.

pub mod settings;
