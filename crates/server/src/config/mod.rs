//! Configuration: from what was typed to what it means.

pub mod settings;

pub use settings::{
    AccessLog, Config, ControlAddress, ControlSettings, ControlToken, Level, LogFormat, LogSettings, Scope,
    Sources,
};
