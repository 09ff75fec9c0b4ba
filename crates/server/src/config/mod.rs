//! Configuration: from what was typed to what it means.

mod load;
mod raw;
pub mod settings;
mod suggest;
pub use suggest::nearest;
pub mod units;

pub use load::Problems;
pub use settings::{
    AccessLog, Config, ControlAddress, ControlSettings, ControlToken, Level, LogFormat, LogSettings, Scope,
    Sources,
};
